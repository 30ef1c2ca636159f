//! Record batch v2 as a view over bytes: nothing is copied to look at a batch.
//!
//! The layout is that of Kafka's message format 2 (KIP-98): a header of 61 bytes, big endian, then records.
//! The CRC-32C covers everything from the attributes on, so the base offset and the leader epoch can be
//! set in place without computing it again.

mod batches;
mod builder;
mod contents;
mod error;
mod recompress;
mod record;
mod rewrite;
#[cfg(test)]
mod tests;
mod validate;
mod varint;

pub use batches::{BatchView, Batches, batches, whole_batches};
pub use builder::{BatchBuilder, HeaderToWrite};
pub use contents::{
    Contents, first_record_at_or_after, first_record_from, max_timestamp_record, max_timestamp_record_from,
};
pub use error::{BatchError, RecordError};
pub use recompress::recompress;
pub use record::{RECORD_BYTES_MIN, Record, RecordHeader, RecordHeaders, Records, records};
pub use rewrite::{emptied, rewrite};
pub use validate::{
    ContentRules, RecordsSummary, validate_contents, validate_header, validate_records,
    validate_stored_header,
};

use crate::checksum::concatenated;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

/// Bytes of a batch's header, up to and including the count of records.
pub const HEADER_BYTES: usize = 61;

/// Bytes before the part that `batch_length` counts: base offset and the length itself.
pub const LENGTH_PREFIX_BYTES: usize = 12;

/// The only format version that is read and written.
pub const MAGIC: i8 = 2;

const CRC_AT: usize = 17;
const MAX_TIMESTAMP_AT: usize = 35;
const LOG_APPEND_TIME_BIT: u8 = 0x08;

/// The attribute bits of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    /// The codec's number, 0 to 7: 0 none, 1 gzip, 2 Snappy, 3 LZ4, 4 zstd.
    #[must_use]
    pub const fn codec_id(self) -> u8 {
        (self.0 & 0x07) as u8
    }

    /// Whether the timestamps are those of the append (`message.timestamp.type=LogAppendTime`).
    #[must_use]
    pub const fn is_log_append_time(self) -> bool {
        self.0 & 0x08 != 0
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub const fn is_transactional(self) -> bool {
        self.0 & 0x10 != 0
    }

    /// Whether the batch is a control batch, which clients never see.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.0 & 0x20 != 0
    }

    /// Whether the base timestamp is the delete horizon of a compacted log (KIP-534).
    #[must_use]
    pub const fn has_delete_horizon(self) -> bool {
        self.0 & 0x40 != 0
    }
}

/// A batch's header, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// The offset of the first record (of the first that was written, if compaction removed some).
    pub base_offset: Offset,
    /// Bytes after this field; the whole batch has [`BatchHeader::total_bytes`].
    pub batch_length: i32,
    /// The epoch of the leader that appended the batch.
    pub leader_epoch: LeaderEpoch,
    /// The format's version: 2.
    pub magic: i8,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec, kind of timestamps, transactional and control bits.
    pub attributes: Attributes,
    /// The last record's offset less the base offset.
    pub last_offset_delta: i32,
    /// What the records' timestamp deltas count from.
    pub base_timestamp: TimestampMs,
    /// The largest timestamp in the batch.
    pub max_timestamp: TimestampMs,
    /// Of an idempotent producer, otherwise -1.
    pub producer_id: ProducerId,
    /// Of an idempotent producer, otherwise -1.
    pub producer_epoch: ProducerEpoch,
    /// The first record's sequence number, otherwise -1.
    pub base_sequence: i32,
    /// How many records follow.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header; `None` if `bytes` is shorter than a header. Nothing is validated.
    #[must_use]
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        Some(Self {
            base_offset: Offset(i64::from_be_bytes(field(header, 0))),
            batch_length: i32::from_be_bytes(field(header, 8)),
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(header, 12))),
            magic: i8::from_be_bytes(field(header, 16)),
            crc: u32::from_be_bytes(field(header, 17)),
            attributes: Attributes(i16::from_be_bytes(field(header, 21))),
            last_offset_delta: i32::from_be_bytes(field(header, 23)),
            base_timestamp: TimestampMs(i64::from_be_bytes(field(header, 27))),
            max_timestamp: TimestampMs(i64::from_be_bytes(field(header, 35))),
            producer_id: ProducerId(i64::from_be_bytes(field(header, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(field(header, 51))),
            base_sequence: i32::from_be_bytes(field(header, 53)),
            record_count: i32::from_be_bytes(field(header, 57)),
        })
    }

    /// The batch's size in bytes, prefix included; `None` if the length is shorter than a header.
    #[must_use]
    #[inline]
    pub fn total_bytes(&self) -> Option<usize> {
        let total = usize::try_from(self.batch_length).ok()?.checked_add(LENGTH_PREFIX_BYTES)?;
        (total >= HEADER_BYTES).then_some(total)
    }

    /// The offset of the last record.
    #[must_use]
    #[inline]
    pub const fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0.wrapping_add(self.last_offset_delta as i64))
    }

    /// The offset after the last record.
    #[must_use]
    #[inline]
    pub const fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.wrapping_add(1))
    }

    /// The last record's sequence number; sequence numbers wrap after `i32::MAX` to 0 (KIP-98).
    #[must_use]
    pub const fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        let last = self.base_sequence as i64 + self.last_offset_delta as i64;
        (last % (i32::MAX as i64 + 1)) as i32
    }
}

/// Whether the checksum in the header is that of the batch's bytes. `batch` is exactly one batch.
#[must_use]
pub fn crc_matches(batch: &[u8]) -> bool {
    let Some(header) = BatchHeader::parse(batch) else { return false };
    batch.get(CRC_COVERS_FROM..).is_some_and(|covered| crc32c::crc32c(covered) == header.crc)
}

/// Writes base offset and leader epoch into a batch's header; the CRC covers neither.
///
/// # Panics
/// If `batch` is shorter than a header.
#[inline]
pub fn assign(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) {
    batch[0..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.0.to_be_bytes());
}

/// Gives all records of a batch the time of the append (`message.timestamp.type=LogAppendTime`): sets the
/// maximum timestamp and the attribute bit, and computes the CRC again. `batch` is exactly one batch.
///
/// # Panics
/// If `batch` is shorter than a header.
pub fn set_log_append_time(batch: &mut [u8], timestamp: TimestampMs) {
    batch[CRC_COVERS_FROM + 1] |= LOG_APPEND_TIME_BIT;
    set_max_timestamp(batch, timestamp);
}

/// Corrects the maximum timestamp of a batch and computes the CRC again: producers' word for it decides
/// retention and time lookups, so it has to be true. `batch` is exactly one batch.
///
/// # Panics
/// If `batch` is shorter than a header.
pub fn set_max_timestamp(batch: &mut [u8], timestamp: TimestampMs) {
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&timestamp.0.to_be_bytes());
    seal(batch);
}

/// Writes the CRC of a whole batch into its header.
fn seal(batch: &mut [u8]) {
    let crc = computed_crc(batch);
    batch[CRC_AT..CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
}

/// Bytes of a batch that its own checksum does not cover.
pub const CRC_COVERS_FROM: usize = 21;

/// Bytes of a batch from which on its own checksum, going on with it, costs less than reading them.
pub const CARRIED_BYTES_MIN: usize = 2 << 10;

/// Goes on with a CRC-32C over a batch that begins with `start` and has so many bytes in all, and whose own checksum is
/// known to be right: its records are not read for that. `None` if it is not worth it, or `start` is not of a batch of
/// that size.
#[must_use]
#[inline]
pub fn checksum_over(crc: u32, start: &[u8; CRC_COVERS_FROM], batch_bytes: usize) -> Option<u32> {
    let length = u32::from_be_bytes([start[8], start[9], start[10], start[11]]) as usize;
    if batch_bytes < CARRIED_BYTES_MIN || length != batch_bytes - LENGTH_PREFIX_BYTES {
        return None;
    }
    let own = u32::from_be_bytes([start[17], start[18], start[19], start[20]]);
    let covered = u32::try_from(batch_bytes - CRC_COVERS_FROM).ok()?;
    Some(concatenated(crc32c::crc32c_append(crc, start), own, covered))
}

/// The CRC-32C of what follows the field that holds it.
#[inline]
fn computed_crc(batch: &[u8]) -> u32 {
    batch.get(CRC_COVERS_FROM..).map_or(0, crc32c::crc32c)
}

#[inline]
fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}
