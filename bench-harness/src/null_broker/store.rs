//! What the null broker remembers: the last few MiB of each partition, in memory.

use bytes::{Bytes, BytesMut};
use logmill_wire::ids::{LeaderEpoch, Offset, Uuid};
use logmill_wire::record_batch::{self, BatchView};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// A topic's partitions.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) id: Uuid,
    pub(super) partitions: Vec<Mutex<Partition>>,
}

impl Topic {
    /// The partition with this number, if there is one.
    pub(super) fn partition(&self, index: i32) -> Option<MutexGuard<'_, Partition>> {
        let partition = self.partitions.get(usize::try_from(index).ok()?)?;
        Some(unpoisoned(partition.lock()))
    }
}

/// The newest batches of a partition.
#[derive(Debug, Default)]
pub(super) struct Partition {
    batches: VecDeque<(i64, Bytes)>,
    kept_bytes: usize,
    next_offset: i64,
}

impl Partition {
    /// Takes one batch and forgets the oldest beyond `bytes_max`; returns the base offset.
    pub(super) fn append(&mut self, batch: &BatchView<'_>, bytes_max: usize) -> i64 {
        let base_offset = self.next_offset;
        let mut bytes = BytesMut::from(batch.bytes());
        record_batch::assign(&mut bytes, Offset(base_offset), LeaderEpoch(0));
        self.next_offset += i64::from(batch.header().last_offset_delta.max(0)) + 1;
        self.kept_bytes += bytes.len();
        self.batches.push_back((base_offset, bytes.freeze()));
        while self.kept_bytes > bytes_max && self.batches.len() > 1 {
            let forgotten = self.batches.pop_front().map_or(0, |(_, batch)| batch.len());
            self.kept_bytes -= forgotten;
        }
        base_offset
    }

    /// The first offset that is still there.
    pub(super) fn start_offset(&self) -> i64 {
        self.batches.front().map_or(self.next_offset, |(base_offset, _)| *base_offset)
    }

    /// The offset that the next record gets.
    pub(super) const fn end_offset(&self) -> i64 {
        self.next_offset
    }

    /// Batches from the one with `offset` on, at least one and otherwise at most `bytes_max` bytes; `None` if
    /// the offset is not there.
    pub(super) fn read(&self, offset: i64, bytes_max: usize) -> Option<Vec<Bytes>> {
        if offset < self.start_offset() || offset > self.next_offset {
            return None;
        }
        if offset == self.next_offset {
            return Some(Vec::new());
        }
        let first = self.batches.partition_point(|(base_offset, _)| *base_offset <= offset).saturating_sub(1);
        let mut total = 0;
        let mut found = Vec::new();
        for (_, batch) in self.batches.range(first..) {
            total += batch.len();
            if total > bytes_max && !found.is_empty() {
                break;
            }
            found.push(batch.clone());
        }
        Some(found)
    }
}

/// All topics, and who waits for an append.
#[derive(Debug, Default)]
pub(super) struct Store {
    topics: RwLock<BTreeMap<String, Arc<Topic>>>,
    waiting: AtomicUsize,
    appends: Mutex<u64>,
    appended: Condvar,
}

impl Store {
    /// Creates a topic; false if it exists.
    pub(super) fn create(&self, name: &str, partitions: usize) -> bool {
        let mut topics = unpoisoned(self.topics.write());
        if topics.contains_key(name) {
            return false;
        }
        let id = Uuid::from_random(topics.len() as u128 + 1);
        let partitions = (0..partitions).map(|_| Mutex::default()).collect();
        topics.insert(name.to_owned(), Arc::new(Topic { name: name.to_owned(), id, partitions }));
        true
    }

    /// Forgets the topic of this name, or of this id if the name is empty; false if there is none.
    pub(super) fn delete(&self, name: &str, id: Uuid) -> bool {
        let Some(topic) = self.topic(name, id) else { return false };
        unpoisoned(self.topics.write()).remove(&topic.name).is_some()
    }

    /// Every topic in the order of names.
    pub(super) fn topics(&self) -> Vec<Arc<Topic>> {
        unpoisoned(self.topics.read()).values().cloned().collect()
    }

    /// The topic of this name, or of this id if the name is empty.
    pub(super) fn topic(&self, name: &str, id: Uuid) -> Option<Arc<Topic>> {
        let topics = unpoisoned(self.topics.read());
        if name.is_empty() {
            return topics.values().find(|topic| topic.id == id).cloned();
        }
        topics.get(name).cloned()
    }

    /// Wakes those who wait for data. Called after an append has released its partition.
    pub(super) fn announce_append(&self) {
        // A reader counts itself before it looks at a partition, so one that missed the append is counted.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            *unpoisoned(self.appends.lock()) += 1;
            self.appended.notify_all();
        }
    }

    /// Calls `ready` now and after appends until it says true or `timeout` passes without an append.
    pub(super) fn wait_until(&self, timeout: Duration, mut ready: impl FnMut() -> bool) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut appends = unpoisoned(self.appends.lock());
        while !ready() {
            let (guard, result) = unpoisoned(self.appended.wait_timeout(appends, timeout));
            appends = guard;
            if result.timed_out() {
                break;
            }
        }
        drop(appends);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a lock guards, even if a thread panicked while it held it: every change here is complete at once.
fn unpoisoned<T>(result: Result<T, PoisonError<T>>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::ids::TimestampMs;
    use logmill_wire::record_batch::BatchBuilder;

    #[test]
    fn the_newest_batches_are_kept_and_found() {
        let mut builder = BatchBuilder::new();
        builder.append(TimestampMs(1), None, Some(b"a"), &[]).append(TimestampMs(1), None, Some(b"b"), &[]);
        let bytes = builder.finish().unwrap();
        let batch = BatchView::only(&bytes).unwrap();
        let mut partition = Partition::default();
        for expected in [0, 2, 4, 6] {
            assert_eq!(partition.append(&batch, bytes.len() * 3), expected);
        }
        assert_eq!((partition.start_offset(), partition.end_offset()), (2, 8));
        assert_eq!(partition.read(1, 1), None);
        assert_eq!(partition.read(9, 1), None);
        assert_eq!(partition.read(8, 1), Some(Vec::new()));
        let base_offsets = |offset, bytes_max| -> Vec<i64> {
            let found = partition.read(offset, bytes_max).unwrap();
            found.iter().map(|batch| BatchView::only(batch).unwrap().header().base_offset.0).collect()
        };
        assert_eq!(base_offsets(5, 1), [4]);
        assert_eq!(base_offsets(2, bytes.len() * 2), [2, 4]);
        assert_eq!(base_offsets(3, usize::MAX), [2, 4, 6]);
    }
}
