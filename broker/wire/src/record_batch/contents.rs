//! The records of a batch, decompressed where that is needed.

use std::borrow::Cow;

use super::error::BatchError;
use super::record::{Records, records};
use super::{BatchView, Record};
use crate::compression::{self, Codec};
use crate::ids::{Offset, TimestampMs};
use crate::limits::DECOMPRESSED_BATCH_BYTES_MAX;

/// The uncompressed records of one batch.
#[derive(Clone, Debug)]
pub struct Contents<'a> {
    bytes: Cow<'a, [u8]>,
    record_count: i32,
}

impl Contents<'_> {
    /// The records, in order.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        records(&self.bytes, self.record_count)
    }

    /// The uncompressed bytes of all records.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl<'a> BatchView<'a> {
    /// The uncompressed records: borrowed from the batch, or decompressed into at most `limit_bytes`
    /// (and at most [`DECOMPRESSED_BATCH_BYTES_MAX`]) new bytes.
    ///
    /// # Errors
    /// [`BatchError::UnknownCodec`] or [`BatchError::Compression`].
    pub fn contents(&self, limit_bytes: usize) -> Result<Contents<'a>, BatchError> {
        let record_count = self.header().record_count;
        let bytes = match self.codec()? {
            Codec::None => Cow::Borrowed(self.payload()),
            // Compaction leaves batches without records, and Kafka leaves their payload empty.
            _ if record_count == 0 && self.payload().is_empty() => Cow::Borrowed(self.payload()),
            codec => {
                let limit_bytes = limit_bytes.min(DECOMPRESSED_BATCH_BYTES_MAX);
                Cow::Owned(compression::decompress(codec, self.payload(), limit_bytes)?)
            }
        };
        Ok(Contents { bytes, record_count })
    }
}

/// Offset and timestamp of the batch's first record whose timestamp is at least `timestamp`; `None` if all
/// are earlier. If the batch's timestamps are those of the append, all records have the same one.
///
/// # Errors
/// A [`BatchError`] if the records cannot be decompressed or are damaged.
pub fn first_record_at_or_after(
    batch: &BatchView<'_>,
    timestamp: TimestampMs,
) -> Result<Option<(Offset, TimestampMs)>, BatchError> {
    first_record_from(batch, Offset(i64::MIN), timestamp)
}

/// As [`first_record_at_or_after`], of the records from offset `from` on: a log may start within a batch.
///
/// # Errors
/// As [`first_record_at_or_after`].
pub fn first_record_from(
    batch: &BatchView<'_>,
    from: Offset,
    timestamp: TimestampMs,
) -> Result<Option<(Offset, TimestampMs)>, BatchError> {
    let header = batch.header();
    if header.attributes.is_log_append_time() && header.max_timestamp < timestamp {
        return Ok(None);
    }
    for record in batch.contents(DECOMPRESSED_BATCH_BYTES_MAX)?.records() {
        let record = record?;
        if record.offset(header) >= from && record.timestamp(header) >= timestamp {
            return Ok(Some(position(batch, &record)));
        }
    }
    Ok(None)
}

/// Offset and timestamp of the first record that has the largest timestamp of the batch (ListOffsets with
/// timestamp -3, KIP-734); `None` if the batch has no records. The header's word for it is not taken.
///
/// # Errors
/// A [`BatchError`] if the records cannot be decompressed or are damaged.
pub fn max_timestamp_record(batch: &BatchView<'_>) -> Result<Option<(Offset, TimestampMs)>, BatchError> {
    max_timestamp_record_from(batch, Offset(i64::MIN))
}

/// As [`max_timestamp_record`], of the records from offset `from` on: a log may start within a batch.
///
/// # Errors
/// As [`max_timestamp_record`].
pub fn max_timestamp_record_from(
    batch: &BatchView<'_>,
    from: Offset,
) -> Result<Option<(Offset, TimestampMs)>, BatchError> {
    let mut latest: Option<(Offset, TimestampMs)> = None;
    for record in batch.contents(DECOMPRESSED_BATCH_BYTES_MAX)?.records() {
        let candidate = position(batch, &record?);
        if candidate.0 < from {
            continue;
        }
        if latest.is_none_or(|(_, timestamp)| candidate.1 > timestamp) {
            latest = Some(candidate);
        }
    }
    Ok(latest)
}

fn position(batch: &BatchView<'_>, record: &Record<'_>) -> (Offset, TimestampMs) {
    (record.offset(batch.header()), record.timestamp(batch.header()))
}
