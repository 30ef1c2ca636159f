//! The CPU time of one thread.

/// Nanoseconds of CPU time, user and system, that this thread has used.
#[must_use]
pub fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours and outlives the call.
    let _ = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_work() {
        let before = cpu_ns();
        let sum = (0..1_000_000_u64).fold(0, |sum: u64, number| sum.wrapping_mul(31).wrapping_add(number));
        assert!(core::hint::black_box(sum) > 0 && cpu_ns() > before);
    }
}
