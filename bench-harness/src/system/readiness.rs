//! Waiting for many sockets at once, with a deadline in nanoseconds.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// How many sockets one wait can report; the others are reported by the next one.
const READY_MAX: usize = 256;

/// Sockets that are waited for; a socket that is closed leaves by itself.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    /// Waits for nothing yet.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes a number and touches no memory of ours.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; READY_MAX] })
    }

    /// Waits from now on for data of this socket, which is reported as `token`.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn add(&self, stream: &TcpStream, token: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, stream, token, libc::EPOLLIN)
    }

    /// Waits for room to write too, or no longer.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn set_writing(&self, stream: &TcpStream, token: usize, is_writing: bool) -> io::Result<()> {
        let interest = if is_writing { libc::EPOLLIN | libc::EPOLLOUT } else { libc::EPOLLIN };
        self.control(libc::EPOLL_CTL_MOD, stream, token, interest)
    }

    fn control(&self, operation: i32, stream: &TcpStream, token: usize, interest: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.cast_unsigned(), u64: token as u64 };
        let (epoll, socket) = (self.epoll.as_raw_fd(), stream.as_raw_fd());
        // SAFETY: both descriptors are open while they are borrowed, and the event outlives the call.
        let result = unsafe { libc::epoll_ctl(epoll, operation, socket, &raw mut event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Returns the tokens of ready sockets; none if the time is over or a signal came.
    ///
    /// # Errors
    /// Those of `epoll_pwait2(2)`, except an interruption.
    pub fn wait(&mut self, timeout_ns: u64) -> io::Result<Vec<usize>> {
        let timeout = libc::timespec {
            tv_sec: (timeout_ns / 1_000_000_000).min(3600).cast_signed(),
            tv_nsec: (timeout_ns % 1_000_000_000).cast_signed(),
        };
        let room = READY_MAX.cast_signed() as libc::c_int;
        // SAFETY: the array has `room` elements and, like the time, outlives the call; no signal mask is given.
        let count = unsafe {
            libc::epoll_pwait2(
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                room,
                &raw const timeout,
                core::ptr::null(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(Vec::new()) } else { Err(error) };
        };
        Ok(self.events[..count].iter().map(|event| event.u64 as usize).collect())
    }
}

/// Makes this thread's timers exact: by default the kernel may let each be 50 µs late.
pub fn sharpen_timers() {
    const SLACK_NS: libc::c_ulong = 1;
    // SAFETY: PR_SET_TIMERSLACK takes a number and touches no memory of ours.
    let _ = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS) };
}

/// Puts this thread ahead of all ordinary threads of the host (`SCHED_RR`).
///
/// # Errors
/// `PermissionDenied` without the right to do so.
pub fn go_ahead_of_others() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 names this thread; the structure is ours and outlives the call.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const priority) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Clock ticks per second, the unit of CPU time in `/proc`.
#[must_use]
pub fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).ok().filter(|ticks| *ticks > 0).unwrap_or(100)
}

/// Lets the process open as many files and sockets as the system allows it.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours and outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above; a refusal leaves the limit as it was.
        let _ = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn data_and_room_are_reported() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = listener.accept().unwrap().0;
        let mut poller = Poller::new().unwrap();
        poller.add(&near, 7).unwrap();
        assert!(poller.wait(1_000_000).unwrap().is_empty());
        poller.set_writing(&near, 7, true).unwrap();
        assert_eq!(poller.wait(1_000_000_000).unwrap(), [7]);
        poller.set_writing(&near, 7, false).unwrap();
        assert!(poller.wait(1_000_000).unwrap().is_empty());
        far.write_all(b"x").unwrap();
        assert_eq!(poller.wait(1_000_000_000).unwrap(), [7]);
    }
}
