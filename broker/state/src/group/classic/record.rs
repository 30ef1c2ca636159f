//! A classic group as `__consumer_offsets` keeps it (GroupMetadataKey and -Value).

use crate::group::record::{EncodedRecord, GroupRecord, RecordError, split_number};
use bytes::Bytes;
use logmill_wire::api::group_metadata_key::{self, GroupMetadataKey};
use logmill_wire::api::group_metadata_value::{GroupMetadataValue, MemberMetadata};
use logmill_wire::api::{Message, record_bytes};
use logmill_wire::ids::TimestampMs;
use logmill_wire::primitives::{EncodeError, Reader};
use std::borrow::Cow;
use std::sync::Arc;

/// The key's only layout in the generated codec.
const KEY_LAYOUT: i16 = 0;
/// The version of the value that Kafka writes.
const VALUE_VERSION: i16 = 3;

/// A generation of a classic group.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassicGroupValue {
    /// The protocol type; empty for a group that nobody has joined yet.
    pub protocol_type: Arc<str>,
    /// The generation.
    pub generation: i32,
    /// The chosen protocol; `None` without members.
    pub protocol: Option<Arc<str>>,
    /// The leader's member id; `None` without members.
    pub leader: Option<Arc<str>>,
    /// Since when the group is in its state (version 2 on).
    pub state_timestamp: Option<TimestampMs>,
    /// The members, with what the leader assigned to them.
    pub members: Vec<ClassicMemberValue>,
}

/// A member of a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassicMemberValue {
    /// Its id.
    pub member_id: Arc<str>,
    /// `group.instance.id` (version 3 on).
    pub instance_id: Option<Arc<str>>,
    /// Its client id.
    pub client_id: Arc<str>,
    /// Where it came from.
    pub client_host: Arc<str>,
    /// How long it may take to join again, in milliseconds; -1 in version 0, which has only the session timeout.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent, in milliseconds.
    pub session_timeout_ms: i32,
    /// What it said of itself for the chosen protocol.
    pub subscription: Bytes,
    /// What it is assigned.
    pub assignment: Bytes,
}

pub(in crate::group) fn encode(
    group_id: &Arc<str>,
    value: Option<&ClassicGroupValue>,
) -> Result<EncodedRecord, EncodeError> {
    let key = GroupMetadataKey { group: Cow::Borrowed(group_id) };
    let key = record_bytes(group_metadata_key::RECORD_TYPE, &key, KEY_LAYOUT)?;
    Ok(EncodedRecord { key, value: value.map(encode_value).transpose()? })
}

fn encode_value(value: &ClassicGroupValue) -> Result<Vec<u8>, EncodeError> {
    let message = GroupMetadataValue {
        protocol_type: Cow::Borrowed(&value.protocol_type),
        generation: value.generation,
        protocol: value.protocol.as_deref().map(Cow::Borrowed),
        leader: value.leader.as_deref().map(Cow::Borrowed),
        current_state_timestamp: value.state_timestamp.map_or(-1, |timestamp| timestamp.0),
        members: value.members.iter().map(member_message).collect(),
    };
    record_bytes(VALUE_VERSION, &message, VALUE_VERSION)
}

fn member_message(member: &ClassicMemberValue) -> MemberMetadata<'_> {
    MemberMetadata {
        member_id: Cow::Borrowed(&member.member_id),
        group_instance_id: member.instance_id.as_deref().map(Cow::Borrowed),
        client_id: Cow::Borrowed(&member.client_id),
        client_host: Cow::Borrowed(&member.client_host),
        rebalance_timeout: member.rebalance_timeout_ms,
        session_timeout: member.session_timeout_ms,
        subscription: Cow::Borrowed(&member.subscription),
        assignment: Cow::Borrowed(&member.assignment),
    }
}

pub(in crate::group) fn decode(key: &[u8], value: Option<&[u8]>) -> Result<GroupRecord, RecordError> {
    let key = GroupMetadataKey::decode(&mut Reader::new(key), KEY_LAYOUT)?;
    let value = value.map(decode_value).transpose()?;
    Ok(GroupRecord::Classic { group_id: Arc::from(&*key.group), value })
}

fn decode_value(bytes: &[u8]) -> Result<ClassicGroupValue, RecordError> {
    let (version, rest) = split_number(bytes)?;
    let value = GroupMetadataValue::decode(&mut Reader::new(rest), version)?;
    let timestamp = value.current_state_timestamp;
    Ok(ClassicGroupValue {
        protocol_type: Arc::from(&*value.protocol_type),
        generation: value.generation,
        protocol: value.protocol.as_deref().map(Arc::from),
        leader: value.leader.as_deref().map(Arc::from),
        state_timestamp: (timestamp >= 0).then_some(TimestampMs(timestamp)),
        members: value.members.iter().map(|member| member_value(&member)).collect(),
    })
}

fn member_value(member: &MemberMetadata<'_>) -> ClassicMemberValue {
    ClassicMemberValue {
        member_id: Arc::from(&*member.member_id),
        instance_id: member.group_instance_id.as_deref().map(Arc::from),
        client_id: Arc::from(&*member.client_id),
        client_host: Arc::from(&*member.client_host),
        rebalance_timeout_ms: member.rebalance_timeout,
        session_timeout_ms: member.session_timeout,
        subscription: Bytes::copy_from_slice(&member.subscription),
        assignment: Bytes::copy_from_slice(&member.assignment),
    }
}
