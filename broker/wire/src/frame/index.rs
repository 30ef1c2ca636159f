//! The sparse index's frames: pages of archived batch headers.

use super::{FrameError, Prefix, aligned, append_fixed, checksum};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs, TopicPartition};
use crate::limits::PAGE_BYTES;
use rkyv::rancor;

/// "LMIX" read as a little-endian number.
pub const INDEX_MAGIC: u32 = u32::from_le_bytes(*b"LMIX");

/// The version that is written.
pub const INDEX_VERSION: u16 = 0;

/// The header of one page of an index.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct IndexPageHeader {
    /// Magic, version, checksum over the rest of the page.
    pub prefix: Prefix,
    /// Entries on this page.
    pub entry_count: u32,
    /// Which page of the index this is.
    pub page: u32,
    /// The partition.
    pub partition: i32,
    /// The topic's identity.
    pub topic_id: [u8; 16],
    /// The base offset that names the segment.
    pub segment_base: i64,
}

/// One batch, as the index remembers it.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct IndexEntry {
    /// The batch's base offset.
    pub base_offset: i64,
    /// The offset after its last record.
    pub next_offset: i64,
    /// Where the batch starts in its segment, in bytes.
    pub position: u64,
    /// The batch's size in bytes.
    pub batch_bytes: u32,
    /// The largest timestamp of the segment up to the end of this batch, in milliseconds.
    pub max_timestamp_so_far: i64,
    /// The producer, or -1.
    pub producer_id: i64,
    /// The producer's epoch, or -1.
    pub producer_epoch: i16,
    /// The epoch of the leader that appended it.
    pub leader_epoch: i32,
}

/// Bytes of an archived [`IndexPageHeader`].
pub const PAGE_HEADER_BYTES: usize = size_of::<ArchivedIndexPageHeader>();

/// Bytes of an archived [`IndexEntry`].
pub const ENTRY_BYTES: usize = size_of::<ArchivedIndexEntry>();

/// Entries that fit on a page.
pub const ENTRIES_PER_PAGE: usize = (PAGE_BYTES - PAGE_HEADER_BYTES) / ENTRY_BYTES;

const _: () = assert!(PAGE_HEADER_BYTES == 48);
const _: () = assert!(ENTRY_BYTES == 50);

impl IndexEntry {
    /// What the index remembers of a batch.
    #[must_use]
    pub fn new(
        header: &crate::record_batch::BatchHeader,
        position: u64,
        max_timestamp_so_far: TimestampMs,
    ) -> Self {
        let ProducerId(producer_id) = header.producer_id;
        let ProducerEpoch(producer_epoch) = header.producer_epoch;
        let LeaderEpoch(leader_epoch) = header.leader_epoch;
        Self {
            base_offset: header.base_offset.0,
            next_offset: header.next_offset().0,
            position,
            batch_bytes: header.total_bytes().and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(0),
            max_timestamp_so_far: max_timestamp_so_far.0,
            producer_id,
            producer_epoch,
            leader_epoch,
        }
    }
}

/// One page of an index: exactly [`PAGE_BYTES`].
///
/// # Panics
/// If there are more entries than fit.
#[must_use]
pub fn seal_page(log: TopicPartition, segment_base: Offset, page: u32, entries: &[IndexEntry]) -> Vec<u8> {
    assert!(entries.len() <= ENTRIES_PER_PAGE, "an index page holds a bounded number of entries");
    let mut header = IndexPageHeader {
        prefix: Prefix { magic: INDEX_MAGIC, version: INDEX_VERSION, reserved: 0, crc: 0 },
        entry_count: entries.len() as u32,
        page,
        partition: log.partition.0,
        topic_id: log.topic_id.0,
        segment_base: segment_base.0,
    };
    let mut bytes = Vec::with_capacity(PAGE_BYTES);
    append_fixed(&mut bytes, &header);
    for entry in entries {
        append_fixed(&mut bytes, entry);
    }
    bytes.resize(PAGE_BYTES, 0);
    header.prefix.crc = checksum(&bytes, &[]);
    let mut sealed = Vec::with_capacity(PAGE_HEADER_BYTES);
    append_fixed(&mut sealed, &header);
    bytes[..PAGE_HEADER_BYTES].copy_from_slice(&sealed);
    bytes
}

/// The entries of a page, if it is intact and belongs where it was found.
///
/// # Errors
/// If it is torn, rotten, or the page of another log, segment or place.
pub fn open_page(
    bytes: &[u8],
    log: TopicPartition,
    segment_base: Offset,
    page: u32,
) -> Result<Vec<IndexEntry>, FrameError> {
    let bytes = bytes.get(..PAGE_BYTES).ok_or(FrameError::Truncated)?;
    let crc = Prefix::check(bytes, INDEX_MAGIC, INDEX_VERSION)?;
    if checksum(bytes, &[]) != crc {
        return Err(FrameError::WrongChecksum);
    }
    let header = rkyv::from_bytes::<IndexPageHeader, rancor::Failure>(&aligned(&bytes[..PAGE_HEADER_BYTES]))
        .map_err(|_| FrameError::InvalidField)?;
    let count = header.entry_count as usize;
    let here = header.page == page
        && header.partition == log.partition.0
        && header.topic_id == log.topic_id.0
        && header.segment_base == segment_base.0;
    if !here || count > ENTRIES_PER_PAGE {
        return Err(FrameError::InvalidField);
    }
    bytes[PAGE_HEADER_BYTES..]
        .chunks_exact(ENTRY_BYTES)
        .take(count)
        .map(|entry| {
            rkyv::from_bytes::<IndexEntry, rancor::Failure>(&aligned(entry))
                .map_err(|_| FrameError::InvalidField)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{PartitionIndex, Uuid};

    #[test]
    fn a_page_round_trips_and_knows_its_place() {
        let log = TopicPartition { topic_id: Uuid([3; 16]), partition: PartitionIndex(1) };
        let entries: Vec<_> = (0..ENTRIES_PER_PAGE as i64)
            .map(|number| IndexEntry {
                base_offset: number,
                position: number as u64 * 5000,
                ..IndexEntry::default()
            })
            .collect();
        let page = seal_page(log, Offset(100), 2, &entries);
        assert_eq!(page.len(), PAGE_BYTES);
        assert_eq!(open_page(&page, log, Offset(100), 2), Ok(entries));
        assert_eq!(open_page(&page, log, Offset(100), 3), Err(FrameError::InvalidField));
        assert_eq!(open_page(&page, log, Offset(101), 2), Err(FrameError::InvalidField));
        let mut torn = page;
        torn[2000] ^= 1;
        assert_eq!(open_page(&torn, log, Offset(100), 2), Err(FrameError::WrongChecksum));
    }
}
