//! SIGTERM and SIGINT: the first one stops the node in order, a second one at once.

use crate::runtime::event::Event;
use std::io;
use std::thread;

/// Sets `event` when the process is told to end. Must be called before other threads are started: they inherit
/// that the signals are blocked, so that only the thread made here gets them.
pub fn set_on_termination(event: Event) -> io::Result<()> {
    on_termination(move || {
        event.set();
        tracing::info!("stopping; a second signal ends the process at once");
    })
}

/// Calls `stop`, on a thread made for it, when the process is told to end; a second signal ends it at once. Must be
/// called before other threads are started.
///
/// # Errors
/// The signals cannot be blocked, or the thread cannot be started.
pub fn on_termination(stop: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let set = block_signals()?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        wait_for(&set);
        stop();
        wait_for(&set);
        std::process::exit(1);
    })?;
    Ok(())
}

fn block_signals() -> io::Result<libc::sigset_t> {
    // SAFETY: the set is initialised by `sigemptyset` before it is read, and all pointers are to it or null.
    let (set, status) = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        let status = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        (set, status)
    };
    if status == 0 { Ok(set) } else { Err(io::Error::from_raw_os_error(status)) }
}

fn wait_for(set: &libc::sigset_t) {
    let mut signal = 0;
    // SAFETY: both pointers are to live values of the right type.
    while unsafe { libc::sigwait(set, &mut signal) } != 0 {}
}
