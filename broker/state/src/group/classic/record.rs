//! A classic group as `__consumer_offsets` keeps it (GroupMetadataKey and -Value).

use crate::group::record::{EncodedRecord, GroupRecord, RecordError};
use logmill_wire::primitives::EncodeError;
use std::sync::Arc;

/// A generation of a classic group.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassicGroupValue {}

pub(in crate::group) fn encode(
    _group_id: &Arc<str>,
    _value: Option<&ClassicGroupValue>,
) -> Result<EncodedRecord, EncodeError> {
    Ok(EncodedRecord { key: Vec::new(), value: None })
}

pub(in crate::group) fn decode(_key: &[u8], _value: Option<&[u8]>) -> Result<GroupRecord, RecordError> {
    Err(RecordError::NoKey)
}
