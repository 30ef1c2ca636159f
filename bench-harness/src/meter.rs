//! Where threads write down what they see, and from where it is taken while they go on.

use crate::latency::{histogram, record};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Error codes and other errors by name, with how often each was seen.
pub type Errors = BTreeMap<String, u64>;

/// What was seen in some time; records, bytes, requests and times are of the measured part of the run only.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Per request.
    pub latency: Histogram<u64>,
    /// The generator's own delay before sending.
    pub lag: Histogram<u64>,
    /// From the time at which a batch was due to its arrival at a consumer.
    pub end_to_end: Histogram<u64>,
    /// Records acknowledged or fetched.
    pub records: u64,
    /// Bytes of their batches as they were on the wire.
    pub bytes: u64,
    /// Requests answered.
    pub requests: u64,
    /// Records of the warm-up.
    pub warm_up_records: u64,
    /// Batches that were due and were not sent when the run was given up.
    pub unsent: u64,
    /// When the last one was answered.
    pub last_ns: u64,
    /// Warm-up included.
    pub errors: Errors,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            latency: histogram(),
            lag: histogram(),
            end_to_end: histogram(),
            records: 0,
            bytes: 0,
            requests: 0,
            warm_up_records: 0,
            unsent: 0,
            last_ns: 0,
            errors: Errors::new(),
        }
    }
}

impl Tally {
    /// Counts an answered request.
    pub fn answered(&mut self, measured: bool, records: u64, bytes: u64, now_ns: u64) {
        if !measured {
            self.warm_up_records += records;
            return;
        }
        self.records += records;
        self.bytes += bytes;
        self.requests += 1;
        self.last_ns = self.last_ns.max(now_ns);
    }

    /// Counts an error.
    pub fn error(&mut self, text: String) {
        *self.errors.entry(text).or_default() += 1;
    }

    /// Adds what another saw.
    pub fn merge(&mut self, other: &Self) {
        // All have the same digits and grow, so adding cannot fail.
        let _ = self.latency.add(&other.latency);
        let _ = self.lag.add(&other.lag);
        let _ = self.end_to_end.add(&other.end_to_end);
        self.records += other.records;
        self.bytes += other.bytes;
        self.requests += other.requests;
        self.warm_up_records += other.warm_up_records;
        self.unsent += other.unsent;
        self.last_ns = self.last_ns.max(other.last_ns);
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.latency.reset();
        self.lag.reset();
        self.end_to_end.reset();
        self.errors.clear();
        (self.records, self.bytes, self.requests) = (0, 0, 0);
        (self.warm_up_records, self.unsent, self.last_ns) = (0, 0, 0);
    }

    /// Adds a latency.
    pub fn latency(&mut self, nanoseconds: u64) {
        record(&mut self.latency, nanoseconds);
    }
}

/// The tally of one thread. The lock is free except for the moment in which the tally is taken.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    tally: Arc<Mutex<Tally>>,
}

impl Meter {
    /// The tally, to write into.
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        // What it holds is complete after each change, whoever panicked.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what was seen since the last time into `spare`, whose memory the thread goes on with.
    pub fn take(&self, spare: &mut Tally) {
        spare.clear();
        core::mem::swap(&mut *self.tally(), spare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_counted_once() {
        let meter = Meter::default();
        let (mut spare, mut total) = (Tally::default(), Tally::default());
        for round in 1..=3 {
            meter.tally().answered(round > 1, 10, 100, round);
            meter.tally().latency(round * 1000);
            meter.take(&mut spare);
            total.merge(&spare);
        }
        assert_eq!((total.records, total.bytes, total.requests), (20, 200, 2));
        assert_eq!((total.warm_up_records, total.last_ns, total.latency.len()), (10, 3, 3));
        meter.take(&mut spare);
        assert_eq!((spare.records, spare.latency.len()), (0, 0));
    }
}
