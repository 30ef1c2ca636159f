//! A consumer group as `__consumer_offsets` keeps it (KIP-848): one record per part that changes.

use crate::group::record::{EncodedRecord, GroupRecord, RecordError};
use logmill_wire::primitives::EncodeError;
use std::sync::Arc;

/// One change of a consumer group.
#[derive(Clone, Debug, PartialEq)]
pub enum ConsumerRecord {}

pub(in crate::group) fn encode(
    _group_id: &Arc<str>,
    record: &ConsumerRecord,
) -> Result<EncodedRecord, EncodeError> {
    match *record {}
}

pub(in crate::group) fn decode(
    _record_type: i16,
    _key: &[u8],
    _value: Option<&[u8]>,
) -> Result<Option<GroupRecord>, RecordError> {
    Ok(None)
}

impl ConsumerRecord {
    /// Whether the record takes something back.
    #[must_use]
    pub const fn is_tombstone(&self) -> bool {
        match *self {}
    }
}
