//! Waiting for sockets with a deadline in nanoseconds, which the standard library does not offer.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// What to wait for on one socket.
#[derive(Clone, Copy, Debug)]
pub struct Interest<'a> {
    /// The socket.
    pub stream: &'a TcpStream,
    /// Whether room to write is awaited, beside data to read.
    pub write: bool,
}

/// Returns when a socket is ready or the time is over, perhaps earlier.
///
/// # Errors
/// Those of `ppoll(2)`, except an interruption.
pub fn wait(interests: &[Interest<'_>], timeout_ns: u64) -> io::Result<()> {
    let mut polled: Vec<libc::pollfd> = interests
        .iter()
        .map(|interest| libc::pollfd {
            fd: interest.stream.as_raw_fd(),
            events: if interest.write { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN },
            revents: 0,
        })
        .collect();
    let timeout = libc::timespec {
        tv_sec: (timeout_ns / 1_000_000_000).min(3600).cast_signed(),
        tv_nsec: (timeout_ns % 1_000_000_000).cast_signed(),
    };
    let count = polled.len() as libc::nfds_t;
    // SAFETY: the array has `count` elements and, like the time, outlives the call; no signal mask is given.
    let result = unsafe { libc::ppoll(polled.as_mut_ptr(), count, &raw const timeout, core::ptr::null()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

/// Makes this thread's timers exact: by default the kernel may let each be 50 µs late.
pub fn sharpen_timers() {
    const SLACK_NS: libc::c_ulong = 1;
    // SAFETY: PR_SET_TIMERSLACK takes a number and touches no memory of ours.
    let _ = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS) };
}

/// Clock ticks per second, the unit of CPU time in `/proc`.
#[must_use]
pub fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).ok().filter(|ticks| *ticks > 0).unwrap_or(100)
}
