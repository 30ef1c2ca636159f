//! The records of `__consumer_offsets`, in Kafka's format: a key begins with the record's type, a value with its
//! version. A record without a value takes back what its key names.

use super::classic::record::ClassicGroupValue;
use super::consumer::record::ConsumerRecord;
use super::offset_record::CommittedOffset;
use super::request::NamedPartition;
use super::{classic, consumer, offset_record};
use logmill_wire::api::{group_metadata_key, offset_commit_key};
use logmill_wire::primitives::{DecodeError, EncodeError};
use std::fmt;
use std::sync::Arc;

/// One change of what a coordinator knows.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupRecord {
    /// An offset is committed, or forgotten.
    Offset {
        /// The group.
        group_id: Arc<str>,
        /// Of which partition.
        partition: NamedPartition,
        /// What is committed.
        value: Option<CommittedOffset>,
    },
    /// A classic group has reached a generation, or is gone.
    Classic {
        /// The group.
        group_id: Arc<str>,
        /// Its generation and members.
        value: Option<ClassicGroupValue>,
    },
    /// A part of a consumer group has changed.
    Consumer {
        /// The group.
        group_id: Arc<str>,
        /// What has changed.
        record: ConsumerRecord,
    },
}

/// A record as it lies in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedRecord {
    /// The key, beginning with the record's type.
    pub key: Vec<u8>,
    /// The value, beginning with its version; `None` takes the record back.
    pub value: Option<Vec<u8>>,
}

/// Why a stored record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// There is no key.
    NoKey,
    /// The bytes are no such record.
    Decode(DecodeError),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => f.write_str("the record has no key"),
            Self::Decode(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RecordError {}

impl From<DecodeError> for RecordError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl GroupRecord {
    /// The group that the record belongs to.
    #[must_use]
    pub const fn group_id(&self) -> &Arc<str> {
        match self {
            Self::Offset { group_id, .. }
            | Self::Classic { group_id, .. }
            | Self::Consumer { group_id, .. } => group_id,
        }
    }

    /// The record's bytes.
    ///
    /// # Errors
    /// If a part is too long for its place.
    pub fn encode(&self) -> Result<EncodedRecord, EncodeError> {
        match self {
            Self::Offset { group_id, partition, value } => {
                offset_record::encode(group_id, partition, value.as_ref())
            }
            Self::Classic { group_id, value } => classic::record::encode(group_id, value.as_ref()),
            Self::Consumer { group_id, record } => consumer::record::encode(group_id, record),
        }
    }

    /// Reads a stored record; `None` if its type is not one of ours, as those of later releases.
    ///
    /// # Errors
    /// If the bytes are not what their type promises.
    pub fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Option<Self>, RecordError> {
        let (record_type, rest) = split_number(key.ok_or(RecordError::NoKey)?)?;
        match record_type {
            // Type 0 is Kafka's older key of the same fields.
            0 | offset_commit_key::RECORD_TYPE => offset_record::decode(rest, value).map(Some),
            group_metadata_key::RECORD_TYPE => classic::record::decode(rest, value).map(Some),
            other => consumer::record::decode(other, rest, value),
        }
    }
}

/// Splits the number off that a key or a value begins with.
pub(super) fn split_number(bytes: &[u8]) -> Result<(i16, &[u8]), RecordError> {
    match bytes {
        [high, low, rest @ ..] => Ok((i16::from_be_bytes([*high, *low]), rest)),
        _ => Err(RecordError::Decode(DecodeError::Truncated)),
    }
}
