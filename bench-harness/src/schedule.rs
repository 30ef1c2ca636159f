//! When a batch is due: an open loop, whose times don't depend on how fast the broker answers.
//!
//! Latency counts from the time at which a batch was *due*. A batch that could not leave because the
//! in-flight limit was reached is the broker's delay and counts; one that left late although it could have
//! left is the generator's own lag, and a run with too much of it does not count.

use crate::chance::Chance;
use serde::{Deserialize, Serialize};

/// How due times follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Evenly, over all producers together.
    #[default]
    Constant,
    /// As independent customers come: with exponentially distributed gaps.
    Poisson,
}

/// The part of a load that one producer carries.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The number of this producer, from 0.
    pub producer: u64,
    /// How many producers share the load.
    pub producers: u64,
    /// Records per second over all producers; 0 sends as fast as the in-flight limit allows.
    pub records_per_second: u64,
    /// How due times follow each other.
    pub arrivals: Arrivals,
    /// Records in every batch.
    pub batch_records: u64,
    /// When the first batch of producer 0 is due.
    pub start_ns: u64,
    /// From when on batches are measured.
    pub measure_from_ns: u64,
    /// No batch is due at or after this time.
    pub end_ns: Option<u64>,
    /// Batches of this producer.
    pub batches_max: Option<u64>,
}

/// For how long after the end batches are sent that were due before it.
const OVERRUN_NS: u64 = 1_000_000_000;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a batch.
    Send {
        /// When it was due: latency counts from here.
        due_ns: u64,
        /// How late the generator itself is.
        lag_ns: u64,
        /// Whether the batch belongs to the measured part of the run.
        measured: bool,
    },
    /// Nothing is due before this time.
    Wait {
        /// The time.
        until_ns: u64,
    },
    /// A batch is due, and no response has made room for it yet.
    Blocked,
    /// Every batch of the run was sent.
    Finished,
}

/// Hands out the batches of one producer, one at a time.
#[derive(Clone, Debug)]
pub struct Pacer {
    load: Load,
    sent: u64,
    chance: Chance,
    /// When the next batch is due after the start, in nanoseconds; only for Poisson arrivals.
    next_after_start: f64,
}

impl Pacer {
    /// A pacer at the start of the load.
    #[must_use]
    pub fn new(load: Load) -> Self {
        let mut pacer = Self { load, sent: 0, chance: Chance::new(load.producer), next_after_start: 0.0 };
        pacer.next_after_start = pacer.chance.gap(pacer.mean_gap_ns());
        pacer
    }

    /// Between two batches of this producer.
    fn mean_gap_ns(&self) -> f64 {
        let load = &self.load;
        (load.producers * load.batch_records) as f64 * 1e9 / load.records_per_second.max(1) as f64
    }

    /// When the next batch is due.
    fn next_due_ns(&self) -> u64 {
        match self.load.arrivals {
            Arrivals::Constant => self.due_ns(self.sent),
            Arrivals::Poisson => self.load.start_ns.saturating_add(self.next_after_start as u64),
        }
    }

    /// When the producer's batch with this number (from 0) is due if they come evenly. Batches of all producers
    /// are spread, and no rounding error adds up.
    #[must_use]
    pub fn due_ns(&self, batch: u64) -> u64 {
        let load = &self.load;
        let position = u128::from(batch) * u128::from(load.producers) + u128::from(load.producer);
        let nanoseconds = position * u128::from(load.batch_records) * 1_000_000_000
            / u128::from(load.records_per_second.max(1));
        load.start_ns.saturating_add(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// How many batches were handed out.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// How many batches were due by now, before the end, and not handed out; for Poisson arrivals their mean number.
    #[must_use]
    pub fn unsent(&self, now_ns: u64) -> u64 {
        let load = &self.load;
        let limit_ns = load.end_ns.map_or(now_ns, |end_ns| now_ns.min(end_ns.saturating_sub(1)));
        let left = load.batches_max.map_or(u64::MAX, |max| max.saturating_sub(self.sent));
        match limit_ns.checked_sub(self.next_due_ns()) {
            Some(late_ns) if load.records_per_second > 0 => {
                left.min((late_ns as f64 / self.mean_gap_ns()) as u64 + 1)
            }
            _ => 0,
        }
    }

    /// What to do at `now_ns`. `free_since_ns` says since when the in-flight limit has had room, `None` if it
    /// has none.
    pub fn step(&mut self, now_ns: u64, free_since_ns: Option<u64>) -> Step {
        let load = &self.load;
        if load.batches_max.is_some_and(|max| self.sent >= max) {
            return Step::Finished;
        }
        let open_loop = load.records_per_second > 0;
        let due_ns = if open_loop { self.next_due_ns() } else { now_ns.max(load.start_ns) };
        // What is far behind at the end will not catch up; what it has not sent is counted as unsent.
        if load.end_ns.is_some_and(|end| due_ns >= end || now_ns >= end.saturating_add(OVERRUN_NS)) {
            return Step::Finished;
        }
        if due_ns > now_ns {
            return Step::Wait { until_ns: due_ns };
        }
        let Some(free_since_ns) = free_since_ns else { return Step::Blocked };
        let lag_ns = if open_loop { now_ns - due_ns.max(free_since_ns).min(now_ns) } else { 0 };
        let measured = due_ns >= load.measure_from_ns;
        self.sent += 1;
        self.next_after_start += self.chance.gap(self.mean_gap_ns());
        Step::Send { due_ns, lag_ns, measured }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    /// A clock that shows what it was told.
    struct ManualClock(Cell<u64>);

    impl ManualClock {
        fn advance_to(&self, now_ns: u64) -> u64 {
            assert!(now_ns >= self.0.get());
            self.0.set(now_ns);
            now_ns
        }
    }

    fn load() -> Load {
        Load {
            producer: 1,
            producers: 2,
            records_per_second: 1000,
            arrivals: Arrivals::Constant,
            batch_records: 10,
            start_ns: 500,
            measure_from_ns: 500 + 20_000_000,
            end_ns: Some(500 + 60_000_000),
            batches_max: None,
        }
    }

    #[test]
    fn an_open_loop_keeps_its_times_when_the_broker_stalls() {
        let clock = ManualClock(Cell::new(0));
        let mut pacer = Pacer::new(load());
        // 1000 records/s in batches of 10 is a batch each 10 ms; this producer has every second one.
        let first = 500 + 10_000_000;
        assert_eq!(pacer.step(clock.advance_to(0), Some(0)), Step::Wait { until_ns: first });
        let sent = pacer.step(clock.advance_to(first), Some(0));
        assert_eq!(sent, Step::Send { due_ns: first, lag_ns: 0, measured: false });
        let second = first + 20_000_000;
        assert_eq!(pacer.step(clock.advance_to(first + 5), Some(0)), Step::Wait { until_ns: second });
        // The limit is reached, and room comes 25 ms late: that is latency, not lag.
        assert_eq!(pacer.step(clock.advance_to(second + 1), None), Step::Blocked);
        let room_at = second + 25_000_000;
        let late = pacer.step(clock.advance_to(room_at + 7), Some(room_at));
        assert_eq!(late, Step::Send { due_ns: second, lag_ns: 7, measured: true });
        let third = second + 20_000_000;
        let caught_up = pacer.step(room_at + 9, Some(room_at));
        assert_eq!(caught_up, Step::Send { due_ns: third, lag_ns: 9, measured: true });
        assert_eq!(pacer.step(clock.advance_to(room_at + 10), None), Step::Finished);
        assert_eq!(pacer.sent(), 3);
    }

    #[test]
    fn a_late_generator_is_found_out() {
        let mut pacer = Pacer::new(load());
        let due_ns = 500 + 10_000_000;
        let step = pacer.step(due_ns + 4_000_000, Some(0));
        assert_eq!(step, Step::Send { due_ns, lag_ns: 4_000_000, measured: false });
    }

    #[test]
    fn what_was_never_sent_is_counted() {
        let pacer = Pacer::new(load());
        assert_eq!(pacer.unsent(500 + 9_999_999), 0);
        assert_eq!(pacer.unsent(500 + 30_000_000), 2);
        assert_eq!(pacer.unsent(u64::MAX), 3);
        let mut overrun = Pacer::new(load());
        assert_eq!(overrun.step(500 + 60_000_000 + OVERRUN_NS, Some(0)), Step::Finished);
        assert_eq!(overrun.unsent(u64::MAX), 3);
        let closed = Pacer::new(Load { records_per_second: 0, ..load() });
        assert_eq!(closed.unsent(u64::MAX), 0);
    }

    #[test]
    fn times_do_not_drift() {
        let pacer =
            Pacer::new(Load { producers: 1, producer: 0, records_per_second: 3, batch_records: 1, ..load() });
        assert_eq!(pacer.due_ns(1), 500 + 333_333_333);
        assert_eq!(pacer.due_ns(3_000_000), 500 + 1_000_000 * 1_000_000_000);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_are_not_even() {
        let end_ns = 100_000_000_000;
        let load = Load { arrivals: Arrivals::Poisson, end_ns: Some(end_ns), start_ns: 0, ..load() };
        let mut pacer = Pacer::new(load);
        let mut due = Vec::new();
        while let Step::Send { due_ns, .. } = pacer.step(end_ns, Some(0)) {
            due.push(due_ns);
        }
        // 100 s of 1000 records/s in batches of 10, of which this producer has half: 5000, give or take four times
        // the square root.
        assert!(due.len().abs_diff(5000) < 280, "{}", due.len());
        let gaps: Vec<u64> = due.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let short = gaps.iter().filter(|gap| **gap < 20_000_000).count();
        // 1 - 1/e of exponentially distributed gaps are shorter than their mean.
        assert!((short as f64 / gaps.len() as f64 - 0.632).abs() < 0.03, "{short} of {}", gaps.len());
        let mut again = Pacer::new(load);
        assert!(matches!(again.step(end_ns, Some(0)), Step::Send { due_ns, .. } if due_ns == due[0]));
    }

    #[test]
    fn without_a_rate_room_decides() {
        let mut pacer = Pacer::new(Load { records_per_second: 0, batches_max: Some(2), ..load() });
        assert_eq!(pacer.step(600, None), Step::Blocked);
        assert_eq!(pacer.step(600, Some(100)), Step::Send { due_ns: 600, lag_ns: 0, measured: false });
        let now_ns = 500 + 20_000_000;
        assert_eq!(pacer.step(now_ns, Some(100)), Step::Send { due_ns: now_ns, lag_ns: 0, measured: true });
        assert_eq!(pacer.step(now_ns, Some(100)), Step::Finished);
        let mut over = Pacer::new(Load { records_per_second: 0, ..load() });
        assert_eq!(over.step(500 + 60_000_000, Some(0)), Step::Finished);
    }
}
