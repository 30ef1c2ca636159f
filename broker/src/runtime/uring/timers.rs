//! Timers in the order of their deadlines. No tick: the nearest deadline bounds the shard's sleep.

use logmill_wire::ids::MonotonicNs;
use std::collections::BTreeMap;
use std::task::Waker;

/// A timer that was set; the number tells timers of one deadline apart and keeps them in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerKey {
    deadline: MonotonicNs,
    number: u64,
}

#[derive(Default)]
pub(super) struct Timers {
    set: BTreeMap<TimerKey, Waker>,
    next_number: u64,
    /// Up to when all have fired.
    fired_to: MonotonicNs,
}

impl Timers {
    pub(super) fn set(&mut self, deadline: MonotonicNs, waker: Waker) -> TimerKey {
        let key = TimerKey { deadline, number: self.next_number };
        self.next_number += 1;
        self.set.insert(key, waker);
        key
    }

    /// Whether a timer of this deadline has fired, or need not be set any more.
    pub(super) fn has_fired(&self, deadline: MonotonicNs) -> bool {
        deadline <= self.fired_to
    }

    /// Gives a timer that has not fired another waker; `false` if it has fired.
    pub(super) fn update(&mut self, key: TimerKey, waker: &Waker) -> bool {
        let Some(present) = self.set.get_mut(&key) else { return false };
        present.clone_from(waker);
        true
    }

    pub(super) fn cancel(&mut self, key: TimerKey) -> Option<Waker> {
        self.set.remove(&key)
    }

    /// The wakers that are due.
    pub(super) fn fire(&mut self, now: MonotonicNs, due: &mut Vec<Waker>) {
        self.fired_to = self.fired_to.max(now);
        while let Some(entry) = self.set.first_entry() {
            if entry.key().deadline > now {
                break;
            }
            due.push(entry.remove());
        }
    }

    pub(super) fn next_deadline(&self) -> Option<MonotonicNs> {
        self.set.first_key_value().map(|(key, _)| key.deadline)
    }

    pub(super) fn clear(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.set).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_not_after_a_cancel() {
        let mut timers = Timers::default();
        let waker = Waker::noop();
        let late = timers.set(MonotonicNs(30), waker.clone());
        let first = timers.set(MonotonicNs(10), waker.clone());
        let second = timers.set(MonotonicNs(10), waker.clone());
        assert!(first < second && second < late);
        assert!(timers.cancel(second).is_some());
        let mut due = Vec::new();
        timers.fire(MonotonicNs(9), &mut due);
        assert_eq!((due.len(), timers.has_fired(MonotonicNs(10))), (0, false));
        timers.fire(MonotonicNs(10), &mut due);
        assert_eq!((due.len(), timers.has_fired(MonotonicNs(10))), (1, true));
        assert!(!timers.update(first, waker));
        assert!(timers.update(late, waker));
        assert_eq!(timers.next_deadline(), Some(MonotonicNs(30)));
        timers.fire(MonotonicNs(31), &mut due);
        assert_eq!((due.len(), timers.next_deadline()), (2, None));
    }
}
