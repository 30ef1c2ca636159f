//! The few system calls that the standard library and `socket2` do not offer.

use crate::runtime::Volume;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A new eventfd that counts from 0 and blocks its readers: the ring then waits for it instead of failing.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a non-negative result is a descriptor that nobody else owns.
    unsafe { check(libc::eventfd(0, libc::EFD_CLOEXEC)).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// Adds 1 to an eventfd.
pub(super) fn add_to_eventfd(eventfd: BorrowedFd<'_>) -> io::Result<()> {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the buffer is 8 initialised bytes that outlive the call.
    let written = unsafe { libc::write(eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Fills `bytes` from the kernel's random source.
///
/// # Errors
/// If it refuses, which Linux does only to filters.
pub fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: pointer and length are those of one exclusive slice.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => filled += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Lowers the calling thread's priority by `nice` steps (on Linux a thread has its own).
pub(super) fn lower_priority(nice: i32) -> io::Result<()> {
    // SAFETY: no pointers; 0 stands for the calling thread.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }).map(drop)
}

/// The room on the filesystem that a path lies on.
///
/// # Errors
/// If nothing is there.
pub fn volume(path: &Path) -> io::Result<Volume> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a `statvfs` is a structure of integers, for which all zeros is a value.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte, and both pointers outlive the call.
    check(unsafe { libc::statvfs(path.as_ptr(), &mut found) })?;
    let block = found.f_frsize;
    Ok(Volume {
        total_bytes: found.f_blocks.saturating_mul(block),
        usable_bytes: found.f_bavail.saturating_mul(block),
    })
}

/// The kernel's release, such as `6.1.0-13-amd64`; empty if it cannot be told.
pub(super) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// The processors that this process may use, as a set for the kernel, without those in `except`; `None` if
/// nothing would be left.
pub(super) fn processors_except(except: &[usize]) -> Option<libc::cpu_set_t> {
    let allowed = core_affinity::get_core_ids()?;
    // SAFETY: a `cpu_set_t` is an array of integers, for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let mut count = 0;
    let places = std::mem::size_of::<libc::cpu_set_t>() * 8;
    for core in allowed {
        if !except.contains(&core.id) && core.id < places {
            // SAFETY: the index is within the set.
            unsafe { libc::CPU_SET(core.id, &mut set) };
            count += 1;
        }
    }
    (count > 0).then_some(set)
}
