//! Builds batches: for control records, compaction, clients, benchmarks and tests.

use super::error::BatchError;
use super::{Attributes, HEADER_BYTES, LENGTH_PREFIX_BYTES, MAGIC, seal, varint};
use crate::compression::{self, Codec};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

const LOG_APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;

/// The header of a record that is to be written: a key, and a value that may be null.
pub type HeaderToWrite<'a> = (&'a str, Option<&'a [u8]>);

/// Collects records and writes them as one batch of format 2.
///
/// ```
/// use logmill_wire::compression::Codec;
/// use logmill_wire::ids::TimestampMs;
/// use logmill_wire::record_batch::{BatchBuilder, BatchView, validate_header};
///
/// let mut builder = BatchBuilder::new().codec(Codec::Lz4);
/// builder.append(TimestampMs(1_700_000_000_000), Some(b"key"), Some(b"value"), &[("trace", None)]);
/// let bytes = builder.finish()?;
/// validate_header(&BatchView::only(&bytes)?)?;
/// # Ok::<(), logmill_wire::record_batch::BatchError>(())
/// ```
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    codec: Codec,
    level: Option<i32>,
    attributes: i16,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: i32,
    base_timestamp: Option<TimestampMs>,
    max_timestamp: TimestampMs,
    append_time: Option<TimestampMs>,
    last_offset_delta: Option<i32>,
    next_offset_delta: i64,
    record_count: i64,
    records: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self {
            base_offset: Offset(0),
            leader_epoch: LeaderEpoch::NONE,
            codec: Codec::None,
            level: None,
            attributes: 0,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(-1),
            base_sequence: -1,
            base_timestamp: None,
            max_timestamp: TimestampMs(-1),
            append_time: None,
            last_offset_delta: None,
            next_offset_delta: 0,
            record_count: 0,
            records: Vec::new(),
        }
    }
}

impl BatchBuilder {
    /// A batch at offset 0, uncompressed, of no idempotent producer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the base offset (0 in what clients send).
    #[must_use]
    pub fn base_offset(mut self, offset: Offset) -> Self {
        self.base_offset = offset;
        self
    }

    /// Sets the partition's leader epoch (-1 in what clients send).
    #[must_use]
    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.leader_epoch = epoch;
        self
    }

    /// Sets the codec, at its default level.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets the codec's level; see [`compression::compress`].
    #[must_use]
    pub fn level(mut self, level: i32) -> Self {
        self.level = Some(level);
        self
    }

    /// Marks the batch as that of an idempotent producer (KIP-98).
    #[must_use]
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.base_sequence = base_sequence;
        self
    }

    /// Makes the batch part of a transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.attributes |= TRANSACTIONAL_BIT;
        self
    }

    /// Makes the batch a control batch.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.attributes |= CONTROL_BIT;
        self
    }

    /// Gives all records the time of the append.
    #[must_use]
    pub fn log_append_time(mut self, timestamp: TimestampMs) -> Self {
        self.attributes |= LOG_APPEND_TIME_BIT;
        self.append_time = Some(timestamp);
        self
    }

    /// Sets the base timestamp, which otherwise is that of the first record.
    #[must_use]
    pub fn base_timestamp(mut self, timestamp: TimestampMs) -> Self {
        self.base_timestamp = Some(timestamp);
        self
    }

    /// Sets the last offset delta, which otherwise is the last record's: compaction keeps it when it
    /// removes the last record.
    #[must_use]
    pub fn last_offset_delta(mut self, delta: i32) -> Self {
        self.last_offset_delta = Some(delta);
        self
    }

    /// Adds a record after the last one.
    pub fn append(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[HeaderToWrite<'_>],
    ) -> &mut Self {
        self.append_at(self.next_offset_delta, timestamp, key, value, headers)
    }

    /// Adds a record with the given offset less the base offset, as compaction does.
    pub fn append_at(
        &mut self,
        offset_delta: i64,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[HeaderToWrite<'_>],
    ) -> &mut Self {
        let base_timestamp = *self.base_timestamp.get_or_insert(timestamp);
        let timestamp_delta = timestamp.0.wrapping_sub(base_timestamp.0);
        let header_bytes: usize =
            headers.iter().map(|(key, value)| sized_bytes(Some(key.as_bytes())) + sized_bytes(*value)).sum();
        let body_bytes = 1
            + varint::encoded_bytes(timestamp_delta)
            + varint::encoded_bytes(offset_delta)
            + sized_bytes(key)
            + sized_bytes(value)
            + varint::encoded_bytes(headers.len() as i64)
            + header_bytes;
        let records = &mut self.records;
        records.reserve(varint::encoded_bytes(body_bytes as i64) + body_bytes);
        varint::put(records, body_bytes as i64);
        records.push(0);
        varint::put(records, timestamp_delta);
        varint::put(records, offset_delta);
        put_sized(records, key);
        put_sized(records, value);
        varint::put(records, headers.len() as i64);
        for (key, value) in headers {
            put_sized(records, Some(key.as_bytes()));
            put_sized(records, *value);
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.next_offset_delta = offset_delta.saturating_add(1);
        self.record_count += 1;
        self
    }

    /// How many records were added.
    #[must_use]
    pub const fn record_count(&self) -> i64 {
        self.record_count
    }

    /// The size of the batch in bytes if it were not compressed.
    #[must_use]
    pub fn uncompressed_bytes(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// Writes the batch.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] if a length or an offset delta does not fit its field, or
    /// [`BatchError::Compression`].
    pub fn finish(&self) -> Result<Vec<u8>, BatchError> {
        let too_large = |_| BatchError::TooLarge;
        // Records that are too large are found here, too: the sum of their lengths is checked.
        let uncompressed_bytes = self.uncompressed_bytes();
        i32::try_from(uncompressed_bytes).map_err(too_large)?;
        let compressed;
        let payload = match self.codec {
            Codec::None => self.records.as_slice(),
            codec => {
                compressed = compression::compress(codec, self.level, &self.records)?;
                compressed.as_slice()
            }
        };
        let batch_length = HEADER_BYTES - LENGTH_PREFIX_BYTES + payload.len();
        let batch_length = i32::try_from(batch_length).map_err(too_large)?;
        let last_offset_delta = match self.last_offset_delta {
            Some(delta) => delta,
            None => i32::try_from((self.next_offset_delta - 1).max(0)).map_err(too_large)?,
        };
        let record_count = i32::try_from(self.record_count).map_err(too_large)?;
        let attributes = Attributes(self.attributes | i16::from(self.codec.id()));
        let base_timestamp = self.base_timestamp.unwrap_or(TimestampMs(-1));
        let max_timestamp = self.append_time.unwrap_or(self.max_timestamp);

        let mut batch = Vec::with_capacity(HEADER_BYTES + payload.len());
        batch.extend_from_slice(&self.base_offset.0.to_be_bytes());
        batch.extend_from_slice(&batch_length.to_be_bytes());
        batch.extend_from_slice(&self.leader_epoch.0.to_be_bytes());
        batch.extend_from_slice(&MAGIC.to_be_bytes());
        batch.extend_from_slice(&[0; size_of::<u32>()]);
        batch.extend_from_slice(&attributes.0.to_be_bytes());
        batch.extend_from_slice(&last_offset_delta.to_be_bytes());
        batch.extend_from_slice(&base_timestamp.0.to_be_bytes());
        batch.extend_from_slice(&max_timestamp.0.to_be_bytes());
        batch.extend_from_slice(&self.producer_id.0.to_be_bytes());
        batch.extend_from_slice(&self.producer_epoch.0.to_be_bytes());
        batch.extend_from_slice(&self.base_sequence.to_be_bytes());
        batch.extend_from_slice(&record_count.to_be_bytes());
        batch.extend_from_slice(payload);
        seal(&mut batch);
        Ok(batch)
    }
}

fn sized_bytes(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => varint::encoded_bytes(bytes.len() as i64) + bytes.len(),
        None => 1,
    }
}

fn put_sized(output: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            varint::put(output, bytes.len() as i64);
            output.extend_from_slice(bytes);
        }
        None => varint::put(output, -1),
    }
}
