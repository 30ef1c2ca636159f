//! The sparse index of one segment: a batch header about every
//! [`INDEX_INTERVAL_BYTES`] of log, in memory while the segment is in use, in whole pages in `BASE.index`.
//!
//! The index is a hint that is never trusted alone: a reader checks the batch that it finds, and whatever is
//! missing is made again from the log.

use logmill_wire::frame::index::{ENTRIES_PER_PAGE, IndexEntry, open_page, seal_page};
use logmill_wire::ids::{Offset, TimestampMs, TopicPartition};
use logmill_wire::limits::{INDEX_INTERVAL_BYTES, PAGE_BYTES};
use logmill_wire::record_batch::BatchHeader;

/// The index of one segment.
#[derive(Default)]
pub struct SparseIndex {
    entries: Vec<IndexEntry>,
    /// Where the next batch starts that gets an entry, or before it.
    next_due: u64,
    /// Entries that are in the file.
    persisted: usize,
    /// The end of the last batch that the index has seen.
    covered: u64,
    max_timestamp: i64,
    /// Where the batch with the largest timestamp starts, or a batch shortly before it.
    max_timestamp_position: u64,
    seen_any: bool,
}

impl SparseIndex {
    /// Notes a batch; batches come in the order of the log.
    pub fn note(&mut self, header: &BatchHeader, position: u64) {
        let bytes = header.total_bytes().unwrap_or(0) as u64;
        if !self.seen_any || header.max_timestamp.0 > self.max_timestamp {
            self.max_timestamp = header.max_timestamp.0;
            self.max_timestamp_position = position;
        }
        self.seen_any = true;
        if position >= self.next_due {
            self.next_due = position + INDEX_INTERVAL_BYTES;
            self.entries.push(IndexEntry::new(header, position, TimestampMs(self.max_timestamp)));
        }
        self.covered = position + bytes;
    }

    /// The end of the last batch that was noted.
    #[must_use]
    pub const fn covered(&self) -> u64 {
        self.covered
    }

    /// Where to start looking for the batch that holds `offset`.
    #[must_use]
    pub fn floor_of_offset(&self, offset: Offset) -> u64 {
        let after = self.entries.partition_point(|entry| entry.base_offset <= offset.0);
        after.checked_sub(1).and_then(|at| self.entries.get(at)).map_or(0, |entry| entry.position)
    }

    /// Where to start looking for the first record with a timestamp of at least `timestamp`.
    #[must_use]
    pub fn floor_of_timestamp(&self, timestamp: TimestampMs) -> u64 {
        let after = self.entries.partition_point(|entry| entry.max_timestamp_so_far < timestamp.0);
        after.checked_sub(1).and_then(|at| self.entries.get(at)).map_or(0, |entry| entry.position)
    }

    /// The start of the last batch that is indexed at or before `limit`: a good place to end a read.
    #[must_use]
    pub fn boundary_before(&self, limit: u64) -> Option<u64> {
        let after = self.entries.partition_point(|entry| entry.position <= limit);
        after.checked_sub(1).and_then(|at| self.entries.get(at)).map(|entry| entry.position)
    }

    /// The largest timestamp of the segment, and where to start looking for its batch; `None` if the segment is empty.
    #[must_use]
    pub const fn max_timestamp(&self) -> Option<(TimestampMs, u64)> {
        if self.seen_any {
            Some((TimestampMs(self.max_timestamp), self.max_timestamp_position))
        } else {
            None
        }
    }

    /// The pages with entries that are not yet in the file, and the position in the file of the first of
    /// them; a page that was written while it was not full is written again. Only entries of batches that end
    /// at or before `durable` are taken, and without `partial` only full pages.
    pub fn pages_to_persist(
        &mut self,
        log: TopicPartition,
        segment_base: Offset,
        durable: u64,
        partial: bool,
    ) -> Option<(u64, Vec<u8>)> {
        let usable =
            self.entries.partition_point(|entry| entry.position + u64::from(entry.batch_bytes) <= durable);
        let usable = if partial { usable } else { usable / ENTRIES_PER_PAGE * ENTRIES_PER_PAGE };
        if usable <= self.persisted {
            return None;
        }
        let first_page = self.persisted / ENTRIES_PER_PAGE;
        let entries = self.entries.get(first_page * ENTRIES_PER_PAGE..usable).unwrap_or_default();
        let mut bytes = Vec::with_capacity(entries.len().div_ceil(ENTRIES_PER_PAGE) * PAGE_BYTES);
        for (number, entries) in entries.chunks(ENTRIES_PER_PAGE).enumerate() {
            bytes.extend_from_slice(&seal_page(log, segment_base, (first_page + number) as u32, entries));
        }
        self.persisted = usable;
        Some(((first_page * PAGE_BYTES) as u64, bytes))
    }

    /// Takes over what an index file holds, as far as it is intact and lies before `end`. What is missing
    /// must be [noted](SparseIndex::note) again, from [`SparseIndex::covered`] on.
    #[must_use]
    pub fn from_file(content: &[u8], log: TopicPartition, segment_base: Offset, end: u64) -> Self {
        let mut index = Self::default();
        'pages: for (number, page) in content.chunks_exact(PAGE_BYTES).enumerate() {
            let Ok(entries) = open_page(page, log, segment_base, number as u32) else { break };
            let full = entries.len() == ENTRIES_PER_PAGE;
            for entry in entries {
                let batch_end = entry.position + u64::from(entry.batch_bytes);
                let ascending = index.entries.last().is_none_or(|last| last.position < entry.position);
                if batch_end > end || !ascending {
                    break 'pages;
                }
                index.entries.push(entry);
            }
            if !full {
                break;
            }
        }
        index.persisted = index.entries.len();
        if let Some(last) = index.entries.last() {
            index.next_due = last.position + INDEX_INTERVAL_BYTES;
            index.covered = last.position + u64::from(last.batch_bytes);
            index.seen_any = true;
            index.max_timestamp = last.max_timestamp_so_far;
            let holder =
                index.entries.partition_point(|entry| entry.max_timestamp_so_far < index.max_timestamp);
            // The batch itself lies between this entry and the one before; a scan from there finds it.
            index.max_timestamp_position =
                holder.checked_sub(1).and_then(|at| index.entries.get(at)).map_or(0, |entry| entry.position);
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::ids::{LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, Uuid};
    use logmill_wire::record_batch::Attributes;

    fn header(base: i64, bytes: i32, timestamp: i64) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(base),
            batch_length: bytes - 12,
            leader_epoch: LeaderEpoch(0),
            magic: 2,
            crc: 0,
            attributes: Attributes(0),
            last_offset_delta: 9,
            base_timestamp: TimestampMs(timestamp),
            max_timestamp: TimestampMs(timestamp),
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(-1),
            base_sequence: -1,
            record_count: 10,
        }
    }

    fn filled(batches: i64) -> SparseIndex {
        let mut index = SparseIndex::default();
        for number in 0..batches {
            index.note(&header(number * 10, 1000, 100 + number), number as u64 * 1000);
        }
        index
    }

    #[test]
    fn lookups_never_start_behind_the_batch() {
        let index = filled(1000);
        for offset in 0..10_000 {
            let floor = index.floor_of_offset(Offset(offset));
            let batch = (offset / 10) as u64 * 1000;
            assert!(floor <= batch && batch - floor < 2 * INDEX_INTERVAL_BYTES, "offset {offset}");
        }
        for timestamp in 0..1100 {
            let floor = index.floor_of_timestamp(TimestampMs(timestamp));
            let batch = (timestamp - 100).clamp(0, 1000) as u64 * 1000;
            assert!(floor <= batch, "timestamp {timestamp}");
        }
        assert_eq!(index.max_timestamp(), Some((TimestampMs(1099), 999_000)));
    }

    #[test]
    fn what_was_persisted_comes_back() {
        let log = TopicPartition { topic_id: Uuid([1; 16]), partition: PartitionIndex(0) };
        let mut index = filled(1000);
        let (start, mut file) = index.pages_to_persist(log, Offset(0), 600_000, true).unwrap();
        assert_eq!(start, 0);
        let (start, more) = index.pages_to_persist(log, Offset(0), 1_000_000, true).unwrap();
        assert_eq!(
            start,
            file.len() as u64 - PAGE_BYTES as u64,
            "the page that was not full is written again"
        );
        file.truncate(start as usize);
        file.extend_from_slice(&more);
        assert_eq!(index.pages_to_persist(log, Offset(0), 1_000_000, true), None);

        let mut loaded = SparseIndex::from_file(&file, log, Offset(0), 1_000_000);
        assert!(loaded.covered() > 990_000);
        for number in loaded.covered() / 1000..1000 {
            loaded.note(&header(number as i64 * 10, 1000, 100 + number as i64), number * 1000);
        }
        for offset in 0..10_000 {
            assert!(loaded.floor_of_offset(Offset(offset)) <= (offset / 10) as u64 * 1000);
        }
        file[5000] ^= 1;
        let partly = SparseIndex::from_file(&file, log, Offset(0), 1_000_000);
        assert!(partly.covered() <= (ENTRIES_PER_PAGE as u64) * 5000);
        let foreign = SparseIndex::from_file(&file, log, Offset(1), 1_000_000);
        assert_eq!(foreign.covered(), 0);
    }
}
