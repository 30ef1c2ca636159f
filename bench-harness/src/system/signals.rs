//! Signals: brokers that are not measured are stopped, and an interruption ends a run in order.

use crate::failure::Failure;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interruption(_signal: libc::c_int) {
    // A second interruption ends the process at once: something does not look at the flag.
    if INTERRUPTED.swap(true, Ordering::SeqCst) {
        // SAFETY: _exit may be called in a signal handler.
        unsafe { libc::_exit(130) }
    }
}

/// From now on SIGINT and SIGTERM are noted and seen by [`is_interrupted`], so that stopped processes can be
/// continued before the end.
pub fn note_interruptions() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let handler = note_interruption as extern "C" fn(libc::c_int);
        // SAFETY: the handler only touches an atomic and calls what is safe in signal handlers.
        let _ = unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Whether the run is to end.
#[must_use]
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Stops all threads of a process until [`go_on`].
///
/// # Errors
/// [`Failure::File`] if there is no such process or it is another user's.
pub fn stop(pid: u32) -> Result<(), Failure> {
    send(pid, libc::SIGSTOP)
}

/// Lets a stopped process go on.
///
/// # Errors
/// As [`stop`].
pub fn go_on(pid: u32) -> Result<(), Failure> {
    send(pid, libc::SIGCONT)
}

fn send(pid: u32, signal: libc::c_int) -> Result<(), Failure> {
    let refused = |cause| Failure::File { path: format!("process {pid}"), cause };
    // 0 and negative numbers would name whole groups of processes.
    let target = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 1);
    let target = target.ok_or_else(|| refused(io::ErrorKind::InvalidInput.into()))?;
    // SAFETY: kill takes numbers and touches no memory of ours.
    if unsafe { libc::kill(target, signal) } < 0 {
        return Err(refused(io::Error::last_os_error()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn state(pid: u32) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    #[test]
    fn a_process_stops_and_goes_on() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        stop(child.id()).unwrap();
        let stopped = (0..1000).any(|_| {
            std::thread::yield_now();
            state(child.id()) == 'T'
        });
        go_on(child.id()).unwrap();
        let continued = (0..1000).any(|_| {
            std::thread::yield_now();
            state(child.id()) != 'T'
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(stopped && continued);
        assert!(stop(0).is_err());
        assert!(stop(u32::MAX).is_err());
    }
}
