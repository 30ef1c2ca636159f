//! Time, for a program that runs in no simulation.

use std::time::{Duration, Instant, SystemTime};

/// The first pause between two attempts, and the longest (`retry.backoff.ms`, `retry.backoff.max.ms`, KIP-580).
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Counts from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Timer(Instant);

impl Timer {
    /// Starts to count.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the client runs outside the broker, in real time")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// How long it has counted.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// Does nothing for a while.
    #[expect(clippy::disallowed_methods, reason = "the client is one thread and has nothing else to do")]
    pub fn wait(pause: Duration) {
        std::thread::sleep(pause);
    }
}

/// Milliseconds since the Unix epoch.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the client runs outside the broker, in real time")]
pub fn wall_clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Nanoseconds of the wall clock, as far as they differ from one call to another.
#[expect(clippy::disallowed_methods, reason = "the client runs outside the broker, in real time")]
pub(super) fn wall_clock_ns() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// Growing pauses between the attempts at one thing, until it has taken too long.
#[derive(Debug)]
pub(super) struct Backoff {
    timer: Timer,
    patience: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(patience: Duration) -> Self {
        Self { timer: Timer::start(), patience, next: PAUSE_MIN }
    }

    /// Pauses; false, at once, if no attempt may follow.
    pub(super) fn pause(&mut self) -> bool {
        if self.timer.elapsed() + self.next > self.patience {
            return false;
        }
        Timer::wait(self.next);
        self.next = (self.next * 2).min(PAUSE_MAX);
        true
    }
}
