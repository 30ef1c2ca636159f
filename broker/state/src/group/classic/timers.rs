//! The deadlines of one group: a session per member, the end of the join phase, the end of the sync phase.

use logmill_wire::ids::MonotonicNs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What ends the join phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JoinTimer {
    /// The first rebalance of an empty group waits for more members, and longer if more have come.
    Initial {
        /// What was waited, in milliseconds.
        delay_ms: u64,
        /// What may still be waited, in milliseconds.
        remaining_ms: u64,
    },
    /// Members that have not joined again by now are left behind.
    Rebalance,
}

/// Something that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The session of a member, or of one that has an id but has not joined yet.
    Session(Arc<str>),
    /// The join phase.
    Join(JoinTimer),
    /// The sync phase.
    Sync,
}

/// All deadlines of a group; each change takes logarithmic time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    sessions: BTreeSet<(MonotonicNs, Arc<str>)>,
    /// The same by member, so that an outdated one is found.
    session_of: BTreeMap<Arc<str>, MonotonicNs>,
    join: Option<(MonotonicNs, JoinTimer)>,
    sync: Option<MonotonicNs>,
    /// What has been given more time, and not been set since: it is not given more again.
    excused: BTreeSet<Excused>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Excused {
    Session(Arc<str>),
    Join,
    Sync,
}

impl Timers {
    pub(super) fn set_session(&mut self, member_id: &Arc<str>, at: MonotonicNs) {
        self.excused.remove(&Excused::Session(Arc::clone(member_id)));
        self.move_session(member_id, at);
    }

    fn move_session(&mut self, member_id: &Arc<str>, at: MonotonicNs) {
        if let Some(before) = self.session_of.insert(Arc::clone(member_id), at) {
            self.sessions.remove(&(before, Arc::clone(member_id)));
        }
        self.sessions.insert((at, Arc::clone(member_id)));
    }

    pub(super) fn cancel_session(&mut self, member_id: &Arc<str>) {
        self.excused.remove(&Excused::Session(Arc::clone(member_id)));
        if let Some(before) = self.session_of.remove(member_id) {
            self.sessions.remove(&(before, Arc::clone(member_id)));
        }
    }

    pub(super) fn set_join(&mut self, at: MonotonicNs, timer: JoinTimer) {
        self.excused.remove(&Excused::Join);
        self.join = Some((at, timer));
    }

    pub(super) fn cancel_join(&mut self) {
        self.join = None;
    }

    pub(super) fn set_sync(&mut self, at: MonotonicNs) {
        self.excused.remove(&Excused::Sync);
        self.sync = Some(at);
    }

    pub(super) fn cancel_sync(&mut self) {
        self.sync = None;
    }

    /// The first deadline.
    pub(super) fn next(&self) -> Option<MonotonicNs> {
        let session = self.sessions.first().map(|(at, _)| *at);
        let join = self.join.map(|(at, _)| at);
        [session, join, self.sync].into_iter().flatten().min()
    }

    /// Moves what is due at `now` to `until`, unless it has been moved before.
    pub(super) fn excuse(&mut self, now: MonotonicNs, until: MonotonicNs) {
        let due: Vec<Arc<str>> =
            self.sessions.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| Arc::clone(id)).collect();
        for id in due {
            if self.excused.insert(Excused::Session(Arc::clone(&id))) {
                self.move_session(&id, until);
            }
        }
        if let Some((at, _)) = self.join.as_mut().filter(|(at, _)| *at <= now)
            && self.excused.insert(Excused::Join)
        {
            *at = until;
        }
        if let Some(at) = self.sync.as_mut().filter(|at| **at <= now)
            && self.excused.insert(Excused::Sync)
        {
            *at = until;
        }
    }

    /// Takes the first of what is due; sessions come first among equals.
    pub(super) fn pop_due(&mut self, now: MonotonicNs) -> Option<Due> {
        let next = self.next().filter(|at| *at <= now)?;
        if self.sessions.first().is_some_and(|(at, _)| *at == next) {
            let (_, member_id) = self.sessions.pop_first()?;
            self.session_of.remove(&member_id);
            self.excused.remove(&Excused::Session(Arc::clone(&member_id)));
            return Some(Due::Session(member_id));
        }
        if let Some((_, timer)) = self.join.take_if(|(at, _)| *at == next) {
            return Some(Due::Join(timer));
        }
        self.sync.take().map(|_| Due::Sync)
    }
}
