//! Why a batch was refused.

use core::fmt;

use crate::compression::CompressionError;
use crate::ids::{ProducerEpoch, ProducerId};

/// Why a record set, a batch or its contents were refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchError {
    /// There is no batch where one is needed.
    NoBatch,
    /// There are several batches where one is allowed (Produce 3 and later).
    MoreThanOneBatch,
    /// The bytes end within a batch.
    Truncated {
        /// The bytes that remain.
        available_bytes: usize,
    },
    /// The batch's length field cannot be true.
    InvalidLength {
        /// What the field holds.
        batch_length: i32,
    },
    /// The format is not version 2: no client since Kafka 2.1 sends another (KIP-896).
    UnsupportedFormat {
        /// The version that the batch names.
        magic: i8,
    },
    /// The checksum is not that of the bytes.
    CrcMismatch {
        /// The CRC-32C in the header.
        stored: u32,
        /// The CRC-32C of the bytes.
        computed: u32,
    },
    /// The count of records is impossible.
    InvalidRecordCount {
        /// What the field holds.
        record_count: i32,
    },
    /// The offsets that the batch spans do not fit the count of its records.
    InvalidOffsetRange {
        /// The last record's offset less the base offset.
        last_offset_delta: i32,
        /// The count of records.
        record_count: i32,
    },
    /// The codec's number is none of 0 to 4.
    UnknownCodec {
        /// The number.
        codec_id: u8,
    },
    /// Producer id, epoch and sequence contradict one another, or a transactional batch has no producer.
    InvalidProducer {
        /// The producer's id.
        producer_id: ProducerId,
        /// Its epoch.
        producer_epoch: ProducerEpoch,
        /// The first record's sequence number.
        base_sequence: i32,
    },
    /// A client sent a control batch; only brokers write those.
    ControlBatch,
    /// A client sent timestamps marked as those of the append, which only brokers set.
    LogAppendTime,
    /// A client sent a batch with a delete horizon, which only compaction sets (KIP-534).
    DeleteHorizon,
    /// A record is damaged or breaks a rule.
    Record {
        /// Which one of the batch, from 0.
        index: u32,
        /// What is wrong.
        error: RecordError,
    },
    /// Bytes remain after the last record.
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// The records cannot be compressed or decompressed.
    Compression(CompressionError),
    /// A batch that is being built is larger than its length fields can say.
    TooLarge,
}

/// What is wrong with one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordError {
    /// The bytes end within the record.
    Truncated,
    /// A variable-length integer is longer than its type.
    InvalidVarint,
    /// A length or a count is negative where it must not be, or larger than the record.
    InvalidLength,
    /// The record's length is not the sum of its fields.
    LengthMismatch,
    /// The offset deltas do not count 0, 1, 2, … (in a compacted log: do not rise within the batch).
    InvalidOffsetDelta {
        /// The delta that was found.
        offset_delta: i32,
    },
    /// The sum of base timestamp and delta is no timestamp.
    TimestampOutOfRange,
    /// The record has no key, but the topic is compacted.
    MissingKey,
}

impl From<CompressionError> for BatchError {
    fn from(error: CompressionError) -> Self {
        Self::Compression(error)
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBatch => f.write_str("the record set is empty; send one batch"),
            Self::MoreThanOneBatch => f.write_str("the record set has several batches; send one a partition"),
            Self::Truncated { available_bytes } => {
                write!(f, "the bytes end within a batch ({available_bytes} remain); send it again")
            }
            Self::InvalidLength { batch_length } => write!(f, "a batch cannot have length {batch_length}"),
            Self::UnsupportedFormat { magic } => {
                write!(f, "message format {magic} is not supported; use a client that writes format 2")
            }
            Self::CrcMismatch { stored, computed } => write!(
                f,
                "the batch's checksum is {computed:#010x}, its header says {stored:#010x}; send it again"
            ),
            Self::InvalidRecordCount { record_count } => {
                write!(f, "the batch cannot have {record_count} records")
            }
            Self::InvalidOffsetRange { last_offset_delta, record_count } => write!(
                f,
                "a last offset delta of {last_offset_delta} does not fit a batch of {record_count} records"
            ),
            Self::UnknownCodec { codec_id } => {
                write!(f, "there is no codec {codec_id}; use none, gzip, snappy, lz4 or zstd")
            }
            Self::InvalidProducer { producer_id, producer_epoch, base_sequence } => write!(
                f,
                "producer id {producer_id}, epoch {producer_epoch} and sequence {base_sequence} \
                 contradict one another"
            ),
            Self::ControlBatch => f.write_str("clients must not write control batches"),
            Self::LogAppendTime => f.write_str("producers must not mark timestamps as LogAppendTime"),
            Self::DeleteHorizon => f.write_str("producers must not set a delete horizon"),
            Self::Record { index, error } => write!(f, "record {index} of the batch: {error}"),
            Self::TrailingBytes { bytes } => write!(f, "{bytes} bytes follow the last record of the batch"),
            Self::Compression(error) => error.fmt(f),
            Self::TooLarge => f.write_str("the batch is larger than 2 GiB; split it"),
        }
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the bytes end within it"),
            Self::InvalidVarint => f.write_str("a variable-length integer is too long"),
            Self::InvalidLength => f.write_str("a length is negative or larger than the record"),
            Self::LengthMismatch => f.write_str("its length is not the sum of its fields"),
            Self::InvalidOffsetDelta { offset_delta } => {
                write!(f, "offset delta {offset_delta} is out of order")
            }
            Self::TimestampOutOfRange => f.write_str("its timestamp overflows"),
            Self::MissingKey => f.write_str("it has no key, which compacted topics need"),
        }
    }
}

impl core::error::Error for BatchError {}
impl core::error::Error for RecordError {}
