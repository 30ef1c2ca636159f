//! The levels of validation.
//!
//! | level | function | cost | for |
//! |---|---|---|---|
//! | 1 | [`validate_header`] | one CRC-32C | every batch of a client |
//! | 1 | [`validate_stored_header`] | one CRC-32C | batches of another replica or of the own log |
//! | 2 | [`validate_records`] | a walk over uncompressed records | batches that are not compressed |
//! | 3 | [`validate_contents`] | decompression and the walk | compacted topics, LogAppendTime |
//!
//! Level 1 alone leaves the record count of a compressed batch unproven: a client can then only harm the
//! offsets of its own partition.

use super::contents::Contents;
use super::error::{BatchError, RecordError};
use super::record::RECORD_BYTES_MIN;
use super::{BatchView, MAGIC, computed_crc};
use crate::compression::Codec;
use crate::ids::{Offset, ProducerId, TimestampMs};
use crate::limits::DECOMPRESSED_BATCH_BYTES_MAX;

/// What a walk over the records found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordsSummary {
    /// The largest timestamp of the records, which the header need not repeat truthfully; -1 if there is
    /// no record.
    pub max_timestamp: TimestampMs,
    /// The offset of the first record with that timestamp.
    pub max_timestamp_offset: Offset,
    /// The smallest timestamp of the records; -1 if there is no record.
    pub min_timestamp: TimestampMs,
    /// Bytes of the uncompressed records.
    pub uncompressed_bytes: usize,
}

/// What [`validate_contents`] demands of the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentRules {
    /// Whether every record needs a key (`cleanup.policy` contains `compact`).
    pub keys_required: bool,
    /// The most bytes that decompressing may yield; [`DECOMPRESSED_BATCH_BYTES_MAX`] holds besides.
    pub limit_bytes: usize,
}

/// Level 1 for a batch that a client sent: format, CRC, codec, count of records, offsets and producer
/// fields; control batches and marks that only brokers set are refused.
///
/// # Errors
/// The [`BatchError`] that names the field.
#[inline]
pub fn validate_header(batch: &BatchView<'_>) -> Result<(), BatchError> {
    let header = batch.header();
    validate_envelope(batch)?;
    let (record_count, last_offset_delta) = (header.record_count, header.last_offset_delta);
    if record_count < 1 || record_count as usize > records_possible(batch)? {
        return Err(BatchError::InvalidRecordCount { record_count });
    }
    if last_offset_delta != record_count - 1 {
        return Err(BatchError::InvalidOffsetRange { last_offset_delta, record_count });
    }
    if header.attributes.is_control() {
        return Err(BatchError::ControlBatch);
    }
    if header.attributes.is_log_append_time() {
        return Err(BatchError::LogAppendTime);
    }
    if header.attributes.has_delete_horizon() {
        return Err(BatchError::DeleteHorizon);
    }
    let (producer_id, producer_epoch) = (header.producer_id, header.producer_epoch);
    let valid = if producer_id == ProducerId::NONE {
        !header.attributes.is_transactional()
    } else {
        producer_id.0 >= 0 && producer_epoch.0 >= 0 && header.base_sequence >= 0
    };
    if !valid {
        let base_sequence = header.base_sequence;
        return Err(BatchError::InvalidProducer { producer_id, producer_epoch, base_sequence });
    }
    Ok(())
}

/// Level 1 for a batch that a broker stored: as [`validate_header`], but control batches, delete horizons,
/// offsets with gaps and batches without records, which compaction leaves, are legal.
///
/// # Errors
/// The [`BatchError`] that names the field.
pub fn validate_stored_header(batch: &BatchView<'_>) -> Result<(), BatchError> {
    let header = batch.header();
    validate_envelope(batch)?;
    let (record_count, last_offset_delta) = (header.record_count, header.last_offset_delta);
    if record_count < 0 || record_count as usize > records_possible(batch)? {
        return Err(BatchError::InvalidRecordCount { record_count });
    }
    let next = header.base_offset.0.checked_add(i64::from(last_offset_delta)).and_then(|l| l.checked_add(1));
    if last_offset_delta < 0
        || last_offset_delta < record_count - 1
        || header.base_offset.0 < 0
        || next.is_none()
    {
        return Err(BatchError::InvalidOffsetRange { last_offset_delta, record_count });
    }
    Ok(())
}

#[inline]
fn validate_envelope(batch: &BatchView<'_>) -> Result<(), BatchError> {
    let header = batch.header();
    if header.magic != MAGIC {
        return Err(BatchError::UnsupportedFormat { magic: header.magic });
    }
    let computed = computed_crc(batch.bytes());
    if computed != header.crc {
        return Err(BatchError::CrcMismatch { stored: header.crc, computed });
    }
    batch.codec().map(drop)
}

/// The most records that the payload can hold, or can decompress to.
#[inline]
fn records_possible(batch: &BatchView<'_>) -> Result<usize, BatchError> {
    let bytes = match batch.codec()? {
        Codec::None => batch.payload().len(),
        _ => DECOMPRESSED_BATCH_BYTES_MAX,
    };
    Ok(bytes / RECORD_BYTES_MIN)
}

/// Level 2: walks the records of an uncompressed batch and checks that they fill it exactly, that all
/// lengths hold, and that the offset deltas count 0, 1, 2, …. `Ok(None)` if the batch is compressed.
///
/// # Errors
/// [`BatchError::Record`], [`BatchError::TrailingBytes`] or [`BatchError::UnknownCodec`].
#[inline]
pub fn validate_records(batch: &BatchView<'_>) -> Result<Option<RecordsSummary>, BatchError> {
    if batch.codec()? != Codec::None {
        return Ok(None);
    }
    let contents = batch.contents(0)?;
    walk(batch, &contents, false).map(Some)
}

/// Level 3: decompresses the records, within the limits, and checks them as level 2 does, and besides what
/// `rules` demand. It may take long and belongs off the shard's thread.
///
/// # Errors
/// Those of level 2, and [`BatchError::Compression`].
pub fn validate_contents(batch: &BatchView<'_>, rules: ContentRules) -> Result<RecordsSummary, BatchError> {
    let contents = batch.contents(rules.limit_bytes)?;
    walk(batch, &contents, rules.keys_required)
}

fn walk(
    batch: &BatchView<'_>,
    contents: &Contents<'_>,
    keys_required: bool,
) -> Result<RecordsSummary, BatchError> {
    let header = batch.header();
    let mut summary = RecordsSummary {
        max_timestamp: TimestampMs(-1),
        max_timestamp_offset: header.base_offset,
        min_timestamp: TimestampMs(-1),
        uncompressed_bytes: contents.bytes().len(),
    };
    for (index, record) in (0_u32..).zip(contents.records()) {
        let record = record?;
        let refuse = |error| BatchError::Record { index, error };
        if i64::from(record.offset_delta) != i64::from(index) {
            let offset_delta = record.offset_delta;
            return Err(refuse(RecordError::InvalidOffsetDelta { offset_delta }));
        }
        if header.base_timestamp.0.checked_add(record.timestamp_delta).is_none() {
            return Err(refuse(RecordError::TimestampOutOfRange));
        }
        if keys_required && record.key.is_none() {
            return Err(refuse(RecordError::MissingKey));
        }
        let timestamp = record.timestamp(header);
        if index == 0 || timestamp > summary.max_timestamp {
            summary.max_timestamp = timestamp;
            summary.max_timestamp_offset = record.offset(header);
        }
        if index == 0 || timestamp < summary.min_timestamp {
            summary.min_timestamp = timestamp;
        }
    }
    Ok(summary)
}
