//! What clients sent, were told and have read.

use super::client::Key;
use super::generations::Generations;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

/// The history, as all clients of a run share it.
pub type Shared = Rc<RefCell<History>>;

/// What is known of one partition.
#[derive(Default)]
pub struct Log {
    /// What stands at an offset, as consumers and producers with acks=all were told.
    values: BTreeMap<i64, u64>,
    /// Where each value of an idempotent producer stands.
    places: BTreeMap<u64, i64>,
    /// The offsets that were acknowledged with acks=all.
    acknowledged: BTreeSet<i64>,
    /// Who leads in each epoch.
    leaders: BTreeMap<i32, i32>,
    /// The highest high watermark that anybody was told.
    high_watermark: i64,
}

impl Log {
    /// The acknowledged values by offset.
    pub fn acknowledged(&self) -> impl Iterator<Item = (i64, u64)> {
        self.acknowledged.iter().filter_map(|offset| Some((*offset, *self.values.get(offset)?)))
    }

    /// The highest high watermark that anybody was told.
    #[must_use]
    pub const fn high_watermark(&self) -> i64 {
        self.high_watermark
    }
}

/// Everything that clients know.
#[derive(Default)]
pub struct History {
    broken: Option<String>,
    logs: BTreeMap<Key, Log>,
    deleted: BTreeSet<[u8; 16]>,
    controllers: BTreeMap<i32, i32>,
    commits: BTreeMap<(String, String, i32), Commit>,
    next: u64,
    /// What members of groups were told.
    pub generations: Generations,
    /// Answers that were received.
    pub operations: u64,
    /// Records that were acknowledged with acks=all.
    pub acknowledged: u64,
    /// Records that consumers have read.
    pub read: u64,
    /// Commits of offsets that were acknowledged.
    pub committed: u64,
}

impl History {
    /// The first promise that was broken.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.broken.clone()
    }

    /// Notes a broken promise.
    pub fn break_promise(&mut self, checker: &str, what: impl fmt::Display) {
        self.broken.get_or_insert_with(|| format!("{checker}: {what}"));
    }

    /// Values that nobody has sent yet; whether a value is of an idempotent producer is seen by its lowest bit.
    pub fn new_values(&mut self, count: u64, is_idempotent: bool) -> Vec<u64> {
        let first = self.next;
        self.next += count;
        (first..self.next).map(|number| number * 2 + u64::from(is_idempotent)).collect()
    }

    /// The logs that there are, without those of deleted topics.
    pub fn logs(&self) -> impl Iterator<Item = (Key, &Log)> {
        let is_there = |key: &Key| !self.deleted.contains(&key.0.0);
        self.logs.iter().filter(move |(key, _)| is_there(key)).map(|(key, log)| (*key, log))
    }

    /// Nothing more is promised of this topic.
    pub fn give_up(&mut self, topic_id: [u8; 16]) {
        self.deleted.insert(topic_id);
    }

    /// Whether somebody has asked for the topic's end.
    #[must_use]
    pub fn is_given_up(&self, key: Key) -> bool {
        self.deleted.contains(&key.0.0)
    }

    /// Values were acknowledged to a producer with acks=all.
    pub fn acknowledge(&mut self, key: Key, base_offset: i64, values: &[u64]) {
        for (offset, &value) in (base_offset..).zip(values) {
            self.see_value(key, offset, value);
            self.logs.entry(key).or_default().acknowledged.insert(offset);
        }
        self.acknowledged += values.len() as u64;
    }

    /// A consumer has read a value.
    pub fn read(&mut self, key: Key, offset: i64, value: u64) {
        self.read += 1;
        self.see_value(key, offset, value);
    }

    fn see_value(&mut self, key: Key, offset: i64, value: u64) {
        let log = self.logs.entry(key).or_default();
        let known = *log.values.entry(offset).or_insert(value);
        let place = if value % 2 == 1 { *log.places.entry(value).or_insert(offset) } else { offset };
        if known != value {
            let what = format!("{} at offset {offset}: {known}, and then {value}", name(key));
            self.break_promise("OffsetKeepsValue", what);
        } else if place != offset {
            self.break_promise("NoDuplicates", format!("{}: {value} at {place} and {offset}", name(key)));
        }
    }

    /// A node has told who leads.
    pub fn see_leader(&mut self, key: Key, leader: i32, epoch: i32) {
        if leader < 0 {
            return;
        }
        let known = *self.logs.entry(key).or_default().leaders.entry(epoch).or_insert(leader);
        if known != leader {
            let what = format!("{known} and {leader} lead {} in epoch {epoch}", name(key));
            self.break_promise("OneLeaderPerEpoch", what);
        }
    }

    /// A client was told a high watermark, and `before` earlier.
    pub fn see_high_watermark(&mut self, key: Key, before: i64, now: i64, how: &str) {
        if now < before {
            self.break_promise("HighWatermarkStays", format!("{}: {before}, then {now} {how}", name(key)));
        }
        let log = self.logs.entry(key).or_default();
        log.high_watermark = log.high_watermark.max(now);
    }

    /// A node has told who leads the metadata quorum.
    pub fn see_controller(&mut self, leader: i32, term: i32) {
        let known = *self.controllers.entry(term).or_insert(leader);
        if known != leader {
            let what = format!("{known} and {leader} lead the quorum in term {term}");
            self.break_promise("OneControllerPerTerm", what);
        }
    }

    /// A group's commit was acknowledged.
    pub fn commit(&mut self, at: (String, String, i32), commit: Commit) {
        self.committed += 1;
        self.commits.insert(at, commit);
    }

    /// A node tells what a group has committed. One that does not know yet that another coordinates the group may tell
    /// of earlier times, even that nothing is committed, as in Kafka: OffsetFetch carries no epoch, and is answered from
    /// memory. Who has acknowledged the last commit itself must know it; who had, when it was asked, metadata as new as
    /// those by which the commit was acknowledged, too; and everybody once it `is_settled`.
    pub fn see_commit(&mut self, at: &(String, String, i32), told: &Commit, is_settled: bool) {
        let Some(last) = self.commits.get(at).filter(|last| last.offset > told.offset) else { return };
        if is_settled || last.node == told.node || told.knows(last) {
            let what = format!("{} had {last:?}, and is told {told:?}", at.0);
            self.break_promise("CommitsStay", what);
        }
    }
}

/// What a group has committed, and with whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The offset.
    pub offset: i64,
    /// The node that coordinates the group.
    pub node: i32,
    /// The leader epochs of `__consumer_offsets` that the node knew: at the acknowledgement, or when it was asked.
    pub epochs: Vec<i32>,
}

impl Commit {
    /// Whether a node that answers this knew of the coordinators by which `last` was acknowledged, or of later ones.
    fn knows(&self, last: &Self) -> bool {
        !self.epochs.is_empty()
            && self.epochs.len() == last.epochs.len()
            && self.epochs.iter().zip(&last.epochs).all(|(own, of_last)| own >= of_last)
    }
}

/// How a partition is called in what is told.
#[must_use]
pub fn name(key: Key) -> String {
    format!("{}-{}", key.0, key.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::ids::Uuid;

    const KEY: Key = (Uuid([7; 16]), 0);

    fn broken(does: impl FnOnce(&mut History)) -> String {
        let mut history = History::default();
        history.acknowledge(KEY, 5, &[11, 13, 14]);
        history.see_leader(KEY, 1, 4);
        history.see_controller(1, 2);
        assert_eq!(history.broken(), None);
        does(&mut history);
        let broken = history.broken().unwrap_or_default();
        broken.split(':').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn every_broken_promise_is_seen() {
        assert_eq!(broken(|history| history.read(KEY, 6, 13)), "");
        assert_eq!(broken(|history| history.read(KEY, 6, 15)), "OffsetKeepsValue");
        assert_eq!(broken(|history| history.read(KEY, 8, 13)), "NoDuplicates");
        assert_eq!(broken(|history| history.read(KEY, 8, 14)), "", "a plain producer may send again");
        assert_eq!(broken(|history| history.see_leader(KEY, 2, 5)), "");
        assert_eq!(broken(|history| history.see_leader(KEY, 2, 4)), "OneLeaderPerEpoch");
        assert_eq!(broken(|history| history.see_controller(2, 2)), "OneControllerPerTerm");
        assert_eq!(broken(|history| history.see_high_watermark(KEY, 7, 6, "")), "HighWatermarkStays");
        let at = ("group".to_owned(), "topic".to_owned(), 0);
        let told = |node, epoch, is_settled| {
            broken(|history| {
                history.commit(at.clone(), Commit { offset: 5, node: 1, epochs: vec![3, 4] });
                let told = Commit { offset: -1, node, epochs: vec![3, epoch] };
                history.see_commit(&at, &told, is_settled);
            })
        };
        assert_eq!(told(2, 3, false), "", "who was replaced may not know it");
        assert_eq!(told(1, 3, false), "CommitsStay");
        assert_eq!(told(2, 3, true), "CommitsStay");
        assert_eq!(told(2, 4, false), "CommitsStay");
        assert_eq!(told(2, 5, false), "CommitsStay");
    }
}
