//! Processes with less than usual: other users, limits, system calls and filesystems of their own.
//!
//! What runs between fork and exec only makes system calls: everything that it needs is prepared before.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn checked(outcome: libc::c_int) -> io::Result<()> {
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The user and group of nobody.
pub const NOBODY: u32 = 65_534;

pub fn is_root() -> bool {
    // SAFETY: it only asks.
    unsafe { libc::geteuid() == 0 }
}

/// Limits locked memory, and becomes nobody if the tests run as root.
pub fn ordinary_user(memlock_bytes: u64) -> impl FnMut() -> io::Result<()> + Send + Sync {
    let change_user = is_root();
    move || {
        let limit = libc::rlimit { rlim_cur: memlock_bytes, rlim_max: memlock_bytes };
        // SAFETY: plain system calls on values that live long enough.
        unsafe {
            checked(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit))?;
            if change_user {
                checked(libc::setgroups(0, std::ptr::null()))?;
                checked(libc::setgid(NOBODY))?;
                checked(libc::setuid(NOBODY))?;
            }
        }
        Ok(())
    }
}

/// Refuses one system call with EPERM, as the seccomp profiles of containers do.
pub fn without_system_call(number: libc::c_long) -> impl FnMut() -> io::Result<()> + Send + Sync {
    let number = u32::try_from(number).expect("a system call");
    move || {
        let statement = |code: u32, value: u32| libc::sock_filter {
            code: u16::try_from(code).unwrap_or(0),
            jt: 0,
            jf: 0,
            k: value,
        };
        let mut filter = [
            // The number of the call is the first field of what a filter sees.
            statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
            libc::sock_filter { jf: 1, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number) },
            statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
            statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
        // SAFETY: the filter and the program live until the kernel has copied them.
        unsafe {
            checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            checked(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program))
        }
    }
}

/// Mounts a filesystem over `folder` that only the process itself sees. Without root this takes a user
/// namespace, which some hosts refuse.
pub fn with_filesystem(
    kind: &str,
    options: &str,
    folder: &Path,
) -> impl FnMut() -> io::Result<()> + Send + Sync + use<> {
    let folder = CString::new(folder.as_os_str().as_bytes()).unwrap();
    let (kind, options) = (CString::new(kind).unwrap(), CString::new(options).unwrap());
    let is_root = is_root();
    // SAFETY: they only ask.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let maps = [
        (c"/proc/self/setgroups", "deny".to_owned()),
        (c"/proc/self/uid_map", format!("0 {user} 1")),
        (c"/proc/self/gid_map", format!("0 {group} 1")),
    ];
    move || {
        // SAFETY: plain system calls on strings that live long enough.
        unsafe {
            if is_root {
                checked(libc::unshare(libc::CLONE_NEWNS))?;
            } else {
                checked(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS))?;
                for (path, text) in &maps {
                    let file = libc::open(path.as_ptr(), libc::O_WRONLY);
                    let written = libc::write(file, text.as_ptr().cast(), text.len());
                    libc::close(file);
                    checked(if usize::try_from(written) == Ok(text.len()) { 0 } else { -1 })?;
                }
            }
            let (none, private) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
            checked(libc::mount(none, c"/".as_ptr(), none, private, std::ptr::null()))?;
            checked(libc::mount(kind.as_ptr(), folder.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()))
        }
    }
}

/// Nobody reads standard error any more.
pub fn unheard() -> impl FnMut() -> io::Result<()> + Send + Sync + 'static {
    || {
        let mut ends = [0; 2];
        // SAFETY: the pipe's ends are this function's own until one of them is standard error.
        let is_done = unsafe {
            libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) == 0
                && libc::dup2(ends[1], libc::STDERR_FILENO) >= 0
                && libc::close(ends[0]) == 0
        };
        if is_done { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Whether a process can be prepared so; if not, what the host says.
pub fn try_prepare(prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> io::Result<()> {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg("--list").stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    // SAFETY: it makes system calls only.
    unsafe { command.pre_exec(prepare) };
    command.status().map(|_| ())
}
