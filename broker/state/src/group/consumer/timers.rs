//! When members have to have done something.

use logmill_wire::ids::MonotonicNs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a member has to do in time, or it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Report.
    Session,
    /// Give up partitions.
    Revocation,
    /// Join again (a member of the classic protocol).
    Join,
    /// Sync (a member of the classic protocol).
    Sync,
}

impl Timer {
    const ALL: [Self; 4] = [Self::Session, Self::Revocation, Self::Join, Self::Sync];
}

/// The timers of a group's members.
#[derive(Debug, Default)]
pub struct Timers {
    due: BTreeSet<(MonotonicNs, Arc<str>, Timer)>,
    at: BTreeMap<(Arc<str>, Timer), MonotonicNs>,
    /// What has been given more time, and not been set since: it is not given more again.
    excused: BTreeSet<(Arc<str>, Timer)>,
}

impl Timers {
    /// Sets a timer, and forgets what it was set to before.
    pub fn set(&mut self, member_id: &Arc<str>, timer: Timer, at: MonotonicNs) {
        self.excused.remove(&(Arc::clone(member_id), timer));
        self.move_to(member_id, timer, at);
    }

    fn move_to(&mut self, member_id: &Arc<str>, timer: Timer, at: MonotonicNs) {
        let before = self.at.insert((Arc::clone(member_id), timer), at);
        if before == Some(at) {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, Arc::clone(member_id), timer));
        }
        self.due.insert((at, Arc::clone(member_id), timer));
    }

    /// Sets a timer that does not run yet.
    pub fn set_if_absent(&mut self, member_id: &Arc<str>, timer: Timer, at: MonotonicNs) {
        if !self.at.contains_key(&(Arc::clone(member_id), timer)) {
            self.set(member_id, timer, at);
        }
    }

    /// Stops a timer.
    pub fn cancel(&mut self, member_id: &Arc<str>, timer: Timer) {
        self.excused.remove(&(Arc::clone(member_id), timer));
        if let Some(at) = self.at.remove(&(Arc::clone(member_id), timer)) {
            self.due.remove(&(at, Arc::clone(member_id), timer));
        }
    }

    /// Stops all timers of a member.
    pub fn forget(&mut self, member_id: &Arc<str>) {
        Timer::ALL.into_iter().for_each(|timer| self.cancel(member_id, timer));
    }

    /// The first instant at which one runs out.
    pub fn first(&self) -> Option<MonotonicNs> {
        self.due.first().map(|(at, _, _)| *at)
    }

    /// Moves what has run out at `now` to `until`, unless it has been moved before.
    pub fn excuse(&mut self, now: MonotonicNs, until: MonotonicNs) {
        let due: Vec<_> = self.due.iter().take_while(|(at, _, _)| *at <= now).cloned().collect();
        for (_, member_id, timer) in due {
            if self.excused.insert((Arc::clone(&member_id), timer)) {
                self.move_to(&member_id, timer, until);
            }
        }
    }

    /// Takes a timer that has run out.
    pub fn pop(&mut self, now: MonotonicNs) -> Option<(Arc<str>, Timer)> {
        let (_, member_id, timer) = self.due.first().filter(|(at, _, _)| *at <= now)?.clone();
        self.cancel(&member_id, timer);
        Some((member_id, timer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_run_out_in_their_order_and_once() {
        let (first, second): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut timers = Timers::default();
        timers.set(&first, Timer::Session, MonotonicNs(10));
        timers.set(&second, Timer::Session, MonotonicNs(20));
        timers.set(&first, Timer::Session, MonotonicNs(30));
        timers.set_if_absent(&first, Timer::Session, MonotonicNs(1));
        timers.set_if_absent(&second, Timer::Revocation, MonotonicNs(40));
        timers.set(&second, Timer::Join, MonotonicNs(5));
        timers.cancel(&second, Timer::Join);
        assert_eq!(timers.first(), Some(MonotonicNs(20)));
        assert_eq!(timers.pop(MonotonicNs(19)), None);
        assert_eq!(timers.pop(MonotonicNs(30)), Some((second.clone(), Timer::Session)));
        assert_eq!(timers.pop(MonotonicNs(30)), Some((first, Timer::Session)));
        assert_eq!(timers.pop(MonotonicNs(30)), None);
        timers.forget(&second);
        assert_eq!(timers.first(), None);
    }
}
