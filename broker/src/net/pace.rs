//! The pace of new connections (`max.connection.creation.rate`, KIP-612).

use logmill_wire::ids::MonotonicNs;
use std::time::Duration;

const SECOND_NS: u64 = 1_000_000_000;

/// How long a pause lasts at the most: the rate may have been changed meanwhile.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// When the next connection may be accepted. A second's worth of connections may come at once; what is beyond that
/// is spread evenly.
#[derive(Debug, Default)]
pub(super) struct ConnectionPace {
    /// When all that was accepted will have been due.
    settled_at_ns: u64,
}

impl ConnectionPace {
    /// How long to wait until a connection may be accepted at `rate` a second; none if it may now. A wait may be cut
    /// short: ask again after it.
    pub(super) fn pause(&self, now: MonotonicNs, rate: u32) -> Option<Duration> {
        if rate == 0 {
            return Some(PAUSE_MAX);
        }
        // One more must still fit into the second.
        let due_at_ns =
            self.settled_at_ns.saturating_add(SECOND_NS / u64::from(rate)).saturating_sub(SECOND_NS);
        let pause = Duration::from_nanos(due_at_ns.saturating_sub(now.0));
        (!pause.is_zero()).then(|| pause.min(PAUSE_MAX))
    }

    /// Takes note of a connection that was accepted at `now`.
    pub(super) fn note(&mut self, now: MonotonicNs, rate: u32) {
        let since = self.settled_at_ns.max(now.0);
        self.settled_at_ns = since.saturating_add(SECOND_NS / u64::from(rate.max(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many connections are accepted until `seconds`, if there is always one more.
    fn accepted(pace: &mut ConnectionPace, now: &mut u64, rate: u32, seconds: u64) -> u32 {
        let mut count = 0;
        while *now < seconds * SECOND_NS {
            match pace.pause(MonotonicNs(*now), rate) {
                Some(pause) => *now += u64::try_from(pause.as_nanos()).unwrap(),
                None => {
                    pace.note(MonotonicNs(*now), rate);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn a_crowd_comes_in_at_the_rate() {
        for rate in [1, 3, 50, 1000] {
            let (mut pace, mut now) = (ConnectionPace::default(), 0);
            let in_ten_seconds = accepted(&mut pace, &mut now, rate, 10);
            assert!((rate * 10..=rate * 11).contains(&in_ten_seconds), "{rate}: {in_ten_seconds}");
        }
    }

    #[test]
    fn time_without_connections_saves_up_one_second_and_no_more() {
        let (mut pace, mut now) = (ConnectionPace::default(), 0);
        accepted(&mut pace, &mut now, 10, 1);
        now += 100 * SECOND_NS;
        let until = now / SECOND_NS + 1;
        let burst = accepted(&mut pace, &mut now, 10, until);
        assert!((10..=20).contains(&burst), "{burst}");
    }

    #[test]
    fn another_rate_holds_at_once_and_none_means_nobody() {
        let (mut pace, mut now) = (ConnectionPace::default(), 0);
        assert_eq!(accepted(&mut pace, &mut now, 0, 2), 0);
        assert!(accepted(&mut pace, &mut now, 5, 4) >= 10);
        assert!(accepted(&mut pace, &mut now, 500, 5) >= 499);
    }
}
