//! What the broker has promised, as its clients saw it.

use logmill_wire::ids::{Offset, TopicPartition, Uuid};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// One batch that a writer has sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The number of its first record; unique over the whole run.
    pub first_number: u64,
    /// How many records.
    pub count: i32,
    /// The first record's sequence number.
    pub sequence: i32,
    /// The bytes on the wire.
    pub bytes: bytes::Bytes,
}

/// The keys that the writers of a compacted topic use in turn.
const KEYS: u64 = 5;

/// The key of a record of a compacted topic.
#[must_use]
pub const fn key_of(number: u64) -> u64 {
    number % KEYS
}

/// Whether a record of a compacted topic deletes its key.
#[must_use]
pub const fn is_tombstone(number: u64) -> bool {
    number % 7 == 3
}

/// An idempotent writer of one partition. It outlives the broker's crashes, and sends again what was not
/// acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    /// Its producer id.
    pub producer_id: i64,
    /// The next sequence number.
    pub next_sequence: i32,
    /// What was sent last and not acknowledged.
    pub unanswered: Option<Sent>,
    /// What was acknowledged lately, with its offset: as many batches as a partition remembers.
    pub answered: Vec<(Sent, Offset)>,
}

/// One partition, as its clients know it.
#[derive(Clone, Debug, Default)]
pub struct Partition {
    /// Acknowledged records: offset → number.
    pub acknowledged: BTreeMap<i64, u64>,
    /// Records that a reader has seen: offset → number.
    pub seen: BTreeMap<i64, u64>,
    /// Where the log was said to start: everything before is gone for good.
    pub start: i64,
    /// The largest start that was asked for.
    pub start_asked: i64,
    /// Its writers.
    pub writers: Vec<Writer>,
    /// Whether its topic is compacted: then a record may go once a later one of its key is there.
    pub is_compacted: bool,
    /// Its topic's `delete.retention.ms`, if it is compacted.
    pub delete_retention_ms: i64,
    /// When tombstones were sent first: number → milliseconds. None goes earlier than `delete_retention_ms` after that.
    pub tombstones: BTreeMap<u64, i64>,
    /// Whether bits of its segments were flipped: then reads may fail, but never give something wrong.
    pub is_rotten: bool,
    /// Whether an acknowledged append found the log damaged or its directory failed: nothing more is expected.
    pub leader_epoch_seen: i32,
}

/// A topic in one of its lives.
#[derive(Clone, Debug)]
pub struct Topic {
    /// The name, which another life may have, too.
    pub name: String,
    /// The identity of this life.
    pub id: Uuid,
    /// How many partitions.
    pub partitions: i32,
}

/// Everything that was promised.
#[derive(Default)]
pub struct Model {
    /// The topics that exist.
    pub topics: Vec<Topic>,
    /// Their partitions.
    pub partitions: BTreeMap<TopicPartition, Partition>,
    /// Bytes that writers may still send in this generation.
    pub budget_bytes: u64,
    /// The next record's number.
    pub next_number: u64,
    /// The next writer's producer id.
    pub next_producer_id: i64,
    /// Batches acknowledged.
    pub appends: u64,
    /// Batches refused.
    pub refused: u64,
    /// Answers that were those of an earlier append.
    pub duplicates: u64,
    /// Records read and compared.
    pub reads: u64,
    /// Deletions of records that were answered.
    pub deletions: u64,
    /// Acknowledged records that compaction was found to have removed.
    pub compacted: u64,
    /// The first promise that was found broken.
    pub broken: Option<String>,
}

/// A model that tasks share.
pub type Shared = Rc<RefCell<Model>>;

impl Model {
    /// Takes note of a broken promise; the first one is kept.
    pub fn break_promise(&mut self, checker: &str, what: String) {
        self.broken.get_or_insert(format!("{checker}: {what}"));
    }

    /// Takes note that a batch was acknowledged at `base`.
    pub fn acknowledge(&mut self, log: TopicPartition, sent: &Sent, base: Offset) {
        self.appends += 1;
        let mut conflicts = Vec::new();
        if let Some(partition) = self.partitions.get_mut(&log) {
            for record in 0..i64::from(sent.count) {
                let number = sent.first_number + record as u64;
                let offset = base.0 + record;
                for known in [&partition.acknowledged, &partition.seen] {
                    if let Some(other) = known.get(&offset)
                        && *other != number
                    {
                        conflicts.push(format!(
                            "{log} offset {offset} was record {other} and is now acknowledged as {number}"
                        ));
                    }
                }
                partition.acknowledged.insert(offset, number);
            }
        }
        for conflict in conflicts {
            self.break_promise("NoOffsetMintedTwice", conflict);
        }
    }

    /// Where a log was said to start.
    #[must_use]
    pub fn start_of(&self, log: TopicPartition) -> i64 {
        self.partitions.get(&log).map_or(0, |partition| partition.start)
    }

    /// Takes note of the log's start in an answer to what was asked when it was known to be at least `known`.
    pub fn see_start(&mut self, log: TopicPartition, known: i64, start: i64) {
        let Some(partition) = self.partitions.get_mut(&log) else { return };
        let asked = partition.start_asked;
        partition.start = partition.start.max(start);
        // What is left of a rotten log may end before its start.
        if start < known && !partition.is_rotten {
            self.break_promise(
                "LogStartNeverGoesBack",
                format!("{log} started at {known} and now at {start}"),
            );
        }
        if start > asked {
            let what = format!("{log} starts at {start}, and nobody asked for more than {asked}");
            self.break_promise("NothingAcknowledgedLost", what);
        }
    }

    /// Whether a record may be missing from a compacted log in which `found` is left: a later one of its key is there,
    /// or was a tombstone.
    #[must_use]
    pub fn is_superseded(&self, log: TopicPartition, offset: i64, number: u64, found: &[(i64, u64)]) -> bool {
        let Some(partition) = self.partitions.get(&log).filter(|partition| partition.is_compacted) else {
            return false;
        };
        let of_key = |other: u64| key_of(other) == key_of(number);
        let mut acknowledged = partition.acknowledged.range(offset..);
        let mut unanswered = partition.writers.iter().filter_map(|writer| writer.unanswered.as_ref());
        found.iter().any(|(at, other)| *at > offset && of_key(*other))
            || acknowledged.any(|(_, other)| of_key(*other) && is_tombstone(*other))
            || unanswered.any(|sent| {
                (0..sent.count as u64)
                    .map(|record| sent.first_number + record)
                    .any(|other| of_key(other) && is_tombstone(other))
            })
    }

    /// A tombstone that was acknowledged, is not in `found`, was not superseded, and ought to be there for some time yet.
    #[must_use]
    pub fn early_loss(
        &self,
        log: TopicPartition,
        start: i64,
        found: &[(i64, u64)],
        now_ms: i64,
    ) -> Option<i64> {
        let partition = self.partitions.get(&log)?;
        let unanswered = |number: u64| {
            let of_writers = partition.writers.iter().filter_map(|writer| writer.unanswered.as_ref());
            of_writers
                .flat_map(|sent| (0..sent.count as u64).map(|record| sent.first_number + record))
                .any(|other| key_of(other) == key_of(number))
        };
        let is_missing = |&(&offset, &number): &(&i64, &u64)| {
            let sent = partition.tombstones.get(&number);
            let is_due = sent.is_none_or(|sent| now_ms >= sent + partition.delete_retention_ms);
            let is_later = |at: i64, other: u64| at > offset && key_of(other) == key_of(number);
            !is_due
                && !found.contains(&(offset, number))
                && !found.iter().any(|&(at, other)| is_later(at, other))
                && !partition.acknowledged.range(offset..).any(|(&at, &other)| is_later(at, other))
                && !unanswered(number)
        };
        partition.acknowledged.range(start..).find(is_missing).map(|(offset, _)| *offset)
    }

    /// Takes note of a record that was read.
    pub fn see(&mut self, log: TopicPartition, offset: i64, number: u64) {
        self.reads += 1;
        let Some(partition) = self.partitions.get_mut(&log) else { return };
        let mut conflict = None;
        for known in [&partition.acknowledged, &partition.seen] {
            if let Some(other) = known.get(&offset)
                && *other != number
            {
                conflict = Some(format!("{log} offset {offset} was record {other} and reads as {number}"));
            }
        }
        partition.seen.insert(offset, number);
        if let Some(conflict) = conflict {
            self.break_promise("NoOffsetMintedTwice", conflict);
        }
    }
}
