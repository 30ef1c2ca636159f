//! The only place that reads clocks or puts a thread to sleep; everything else gets `now` as an argument.

use std::time::{Duration, Instant, SystemTime};

/// Nanoseconds since the start of the run, on the monotonic clock, and the wall clock for timestamps.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts at 0 now.
    #[expect(clippy::disallowed_methods, reason = "a load generator measures real time")]
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Nanoseconds since [`Clock::start`].
    #[expect(clippy::disallowed_methods, reason = "a load generator measures real time")]
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        let elapsed = Instant::now().saturating_duration_since(self.origin);
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Milliseconds since the Unix epoch, for the timestamps of records and the date of a result.
    #[expect(clippy::disallowed_methods, reason = "records and results carry the real time")]
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
    }

    /// Stops the thread until the clock shows at least `until_ns`.
    #[expect(clippy::disallowed_methods, reason = "these are ordinary threads, and no shard is stopped")]
    pub fn sleep_until_ns(&self, until_ns: u64) {
        loop {
            let now_ns = self.now_ns();
            if now_ns >= until_ns {
                return;
            }
            std::thread::sleep(Duration::from_nanos(until_ns - now_ns));
        }
    }
}

/// A moment of the wall clock as RFC 3339 in UTC, such as `2026-01-31T23:59:59Z`.
#[must_use]
pub fn date_text(wall_ms: i64) -> String {
    let seconds = wall_ms.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years that start in March put the leap day last, so that month lengths follow one formula; an era
    // is 400 such years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date_text(0), "1970-01-01T00:00:00Z");
        assert_eq!(date_text(951_827_696_000), "2000-02-29T12:34:56Z");
        assert_eq!(date_text(1_735_689_599_999), "2024-12-31T23:59:59Z");
        assert_eq!(date_text(-1000), "1969-12-31T23:59:59Z");
    }
}
