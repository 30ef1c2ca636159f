//! The machine's two clocks. All else in the broker asks its `Runtime` for the time.

use logmill_wire::ids::{MonotonicNs, TimestampMs};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the process first asked; one origin for all shards, so that their times compare.
#[must_use]
pub fn monotonic() -> MonotonicNs {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "this is what Runtime::monotonic is made of")]
    let now = Instant::now();
    let since = now.saturating_duration_since(*ORIGIN.get_or_init(|| now));
    MonotonicNs(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Milliseconds since the Unix epoch; 0 if the machine's clock stands before it.
#[must_use]
pub fn wall() -> TimestampMs {
    #[expect(clippy::disallowed_methods, reason = "this is what Runtime::wall_clock is made of")]
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
