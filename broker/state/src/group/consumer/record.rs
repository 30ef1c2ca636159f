//! A consumer group as `__consumer_offsets` keeps it (KIP-848): one record per part that changes.

use super::assignment::{Assignment, Held};
use super::member::{ClassicMetadata, CurrentAssignment, MemberMetadata, MemberState, sorted_names};
use crate::group::record::{EncodedRecord, GroupRecord, RecordError, split_number};
use bytes::Bytes;
use logmill_wire::api::consumer_group_current_member_assignment_key::{
    self, ConsumerGroupCurrentMemberAssignmentKey,
};
use logmill_wire::api::consumer_group_current_member_assignment_value::{
    ConsumerGroupCurrentMemberAssignmentValue, TopicPartitions,
};
use logmill_wire::api::consumer_group_member_metadata_key::{self, ConsumerGroupMemberMetadataKey};
use logmill_wire::api::consumer_group_member_metadata_value::{
    ClassicMemberMetadata, ClassicProtocol, ConsumerGroupMemberMetadataValue,
};
use logmill_wire::api::consumer_group_metadata_key::{self, ConsumerGroupMetadataKey};
use logmill_wire::api::consumer_group_metadata_value::ConsumerGroupMetadataValue;
use logmill_wire::api::consumer_group_regular_expression_key::{self, ConsumerGroupRegularExpressionKey};
use logmill_wire::api::consumer_group_regular_expression_value::ConsumerGroupRegularExpressionValue;
use logmill_wire::api::consumer_group_target_assignment_member_key::{
    self, ConsumerGroupTargetAssignmentMemberKey,
};
use logmill_wire::api::consumer_group_target_assignment_member_value::{
    ConsumerGroupTargetAssignmentMemberValue, TopicPartition,
};
use logmill_wire::api::consumer_group_target_assignment_metadata_key::{
    self, ConsumerGroupTargetAssignmentMetadataKey,
};
use logmill_wire::api::consumer_group_target_assignment_metadata_value::ConsumerGroupTargetAssignmentMetadataValue;
use logmill_wire::api::{Message, record_bytes};
use logmill_wire::ids::{PartitionIndex, TimestampMs};
use logmill_wire::primitives::{Array, EncodeError, Reader};
use std::borrow::Cow;
use std::sync::Arc;

/// The only version of all keys and values.
const VERSION: i16 = 0;

/// A group's epoch and what it was reached for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupEpoch {
    /// The epoch.
    pub epoch: i32,
    /// A hash of the subscribed topics; 0 if there is none.
    pub metadata_hash: i64,
}

/// The epoch of the target assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetEpoch {
    /// The group's epoch that it was made for.
    pub epoch: i32,
    /// When.
    pub timestamp: TimestampMs,
}

/// The topics that a regular expression stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedRegex {
    /// Their names, sorted.
    pub topics: Vec<Arc<str>>,
    /// The version of the metadata; this coordinator does not number it.
    pub version: i64,
    /// When.
    pub timestamp: TimestampMs,
}

/// One change of a consumer group; a value that is `None` takes back what was there.
#[derive(Clone, Debug, PartialEq)]
pub enum ConsumerRecord {
    /// The group's epoch.
    Group(Option<GroupEpoch>),
    /// What a member said of itself.
    Member {
        /// The member.
        member_id: Arc<str>,
        /// What it said.
        value: Option<Arc<MemberMetadata>>,
    },
    /// The epoch of the target assignment.
    TargetEpoch(Option<TargetEpoch>),
    /// What a member shall own.
    Target {
        /// The member.
        member_id: Arc<str>,
        /// Its partitions.
        value: Option<Arc<Assignment>>,
    },
    /// What a member holds.
    Current {
        /// The member.
        member_id: Arc<str>,
        /// Its epoch and partitions.
        value: Option<Arc<CurrentAssignment>>,
    },
    /// The topics that a regular expression stands for.
    Regex {
        /// The expression.
        regex: Arc<str>,
        /// Its topics.
        value: Option<Arc<ResolvedRegex>>,
    },
}

impl ConsumerRecord {
    /// Whether the record takes something back.
    #[must_use]
    pub const fn is_tombstone(&self) -> bool {
        match self {
            Self::Group(value) => value.is_none(),
            Self::Member { value, .. } => value.is_none(),
            Self::TargetEpoch(value) => value.is_none(),
            Self::Target { value, .. } => value.is_none(),
            Self::Current { value, .. } => value.is_none(),
            Self::Regex { value, .. } => value.is_none(),
        }
    }
}

pub(in crate::group) fn encode(
    group_id: &Arc<str>,
    record: &ConsumerRecord,
) -> Result<EncodedRecord, EncodeError> {
    let key = encode_key(group_id, record)?;
    let value = match record {
        ConsumerRecord::Group(value) => value.as_ref().map(encode_group).transpose()?,
        ConsumerRecord::Member { value, .. } => value.as_deref().map(encode_member).transpose()?,
        ConsumerRecord::TargetEpoch(value) => value.as_ref().map(encode_target_epoch).transpose()?,
        ConsumerRecord::Target { value, .. } => value.as_deref().map(encode_target).transpose()?,
        ConsumerRecord::Current { value, .. } => value.as_deref().map(encode_current).transpose()?,
        ConsumerRecord::Regex { value, .. } => value.as_deref().map(encode_regex).transpose()?,
    };
    Ok(EncodedRecord { key, value })
}

fn encode_key(group_id: &str, record: &ConsumerRecord) -> Result<Vec<u8>, EncodeError> {
    let group_id = Cow::from(group_id);
    match record {
        ConsumerRecord::Group(_) => {
            let key = ConsumerGroupMetadataKey { group_id };
            record_bytes(consumer_group_metadata_key::RECORD_TYPE, &key, VERSION)
        }
        ConsumerRecord::Member { member_id, .. } => {
            let key = ConsumerGroupMemberMetadataKey { group_id, member_id: (&**member_id).into() };
            record_bytes(consumer_group_member_metadata_key::RECORD_TYPE, &key, VERSION)
        }
        ConsumerRecord::TargetEpoch(_) => {
            let key = ConsumerGroupTargetAssignmentMetadataKey { group_id };
            record_bytes(consumer_group_target_assignment_metadata_key::RECORD_TYPE, &key, VERSION)
        }
        ConsumerRecord::Target { member_id, .. } => {
            let key = ConsumerGroupTargetAssignmentMemberKey { group_id, member_id: (&**member_id).into() };
            record_bytes(consumer_group_target_assignment_member_key::RECORD_TYPE, &key, VERSION)
        }
        ConsumerRecord::Current { member_id, .. } => {
            let key = ConsumerGroupCurrentMemberAssignmentKey { group_id, member_id: (&**member_id).into() };
            record_bytes(consumer_group_current_member_assignment_key::RECORD_TYPE, &key, VERSION)
        }
        ConsumerRecord::Regex { regex, .. } => {
            let key = ConsumerGroupRegularExpressionKey { group_id, regular_expression: (&**regex).into() };
            record_bytes(consumer_group_regular_expression_key::RECORD_TYPE, &key, VERSION)
        }
    }
}

fn encode_group(value: &GroupEpoch) -> Result<Vec<u8>, EncodeError> {
    let message = ConsumerGroupMetadataValue { epoch: value.epoch, metadata_hash: value.metadata_hash };
    record_bytes(VERSION, &message, VERSION)
}

fn encode_target_epoch(value: &TargetEpoch) -> Result<Vec<u8>, EncodeError> {
    let message = ConsumerGroupTargetAssignmentMetadataValue {
        assignment_epoch: value.epoch,
        assignment_timestamp: value.timestamp.0,
    };
    record_bytes(VERSION, &message, VERSION)
}

fn encode_member(value: &MemberMetadata) -> Result<Vec<u8>, EncodeError> {
    let optional = |text: &'_ Option<Arc<str>>| text.as_deref().map(|text| Cow::from(text.to_owned()));
    let classic = value.classic.as_ref().map(|classic| ClassicMemberMetadata {
        session_timeout_ms: classic.session_timeout_ms,
        supported_protocols: classic
            .protocols
            .iter()
            .map(|(name, metadata)| ClassicProtocol {
                name: (&**name).into(),
                metadata: (&**metadata).into(),
            })
            .collect(),
    });
    let message = ConsumerGroupMemberMetadataValue {
        instance_id: optional(&value.instance_id),
        rack_id: optional(&value.rack_id),
        client_id: (&*value.client_id).into(),
        client_host: (&*value.client_host).into(),
        subscribed_topic_names: value.subscribed_topics.iter().map(|name| Cow::from(&**name)).collect(),
        subscribed_topic_regex: optional(&value.subscribed_regex),
        rebalance_timeout_ms: value.rebalance_timeout_ms,
        server_assignor: optional(&value.server_assignor),
        classic_member_metadata: classic,
    };
    record_bytes(VERSION, &message, VERSION)
}

fn encode_target(value: &Assignment) -> Result<Vec<u8>, EncodeError> {
    let topics = value.by_topic().into_iter().map(|topic| TopicPartition {
        topic_id: topic.topic_id,
        partitions: topic.partitions.iter().map(|partition| partition.0).collect(),
    });
    let message = ConsumerGroupTargetAssignmentMemberValue { topic_partitions: topics.collect() };
    record_bytes(VERSION, &message, VERSION)
}

fn encode_current(value: &CurrentAssignment) -> Result<Vec<u8>, EncodeError> {
    let message = ConsumerGroupCurrentMemberAssignmentValue {
        member_epoch: value.epoch,
        previous_member_epoch: value.previous_epoch,
        state: value.state.code(),
        assigned_partitions: encode_held(&value.assigned),
        partitions_pending_revocation: encode_held(&value.pending_revocation),
    };
    record_bytes(VERSION, &message, VERSION)
}

fn encode_held(held: &Held) -> Array<'static, TopicPartitions<'static>> {
    held.topics()
        .map(|(topic_id, partitions)| TopicPartitions {
            topic_id,
            partitions: partitions.keys().map(|partition| partition.0).collect(),
            assignment_epochs: Some(partitions.values().copied().collect()),
        })
        .collect()
}

fn encode_regex(value: &ResolvedRegex) -> Result<Vec<u8>, EncodeError> {
    let message = ConsumerGroupRegularExpressionValue {
        topics: value.topics.iter().map(|name| Cow::from(&**name)).collect(),
        version: value.version,
        timestamp: value.timestamp.0,
    };
    record_bytes(VERSION, &message, VERSION)
}

pub(in crate::group) fn decode(
    record_type: i16,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<Option<GroupRecord>, RecordError> {
    let mut key = Reader::new(key);
    let (group_id, record) = match record_type {
        consumer_group_metadata_key::RECORD_TYPE => {
            let key = ConsumerGroupMetadataKey::decode(&mut key, VERSION)?;
            (key.group_id, ConsumerRecord::Group(value.map(decode_group).transpose()?))
        }
        consumer_group_member_metadata_key::RECORD_TYPE => {
            let key = ConsumerGroupMemberMetadataKey::decode(&mut key, VERSION)?;
            let value = value.map(decode_member).transpose()?;
            (key.group_id, ConsumerRecord::Member { member_id: Arc::from(&*key.member_id), value })
        }
        consumer_group_target_assignment_metadata_key::RECORD_TYPE => {
            let key = ConsumerGroupTargetAssignmentMetadataKey::decode(&mut key, VERSION)?;
            (key.group_id, ConsumerRecord::TargetEpoch(value.map(decode_target_epoch).transpose()?))
        }
        consumer_group_target_assignment_member_key::RECORD_TYPE => {
            let key = ConsumerGroupTargetAssignmentMemberKey::decode(&mut key, VERSION)?;
            let value = value.map(decode_target).transpose()?;
            (key.group_id, ConsumerRecord::Target { member_id: Arc::from(&*key.member_id), value })
        }
        consumer_group_current_member_assignment_key::RECORD_TYPE => {
            let key = ConsumerGroupCurrentMemberAssignmentKey::decode(&mut key, VERSION)?;
            let value = value.map(decode_current).transpose()?;
            (key.group_id, ConsumerRecord::Current { member_id: Arc::from(&*key.member_id), value })
        }
        consumer_group_regular_expression_key::RECORD_TYPE => {
            let key = ConsumerGroupRegularExpressionKey::decode(&mut key, VERSION)?;
            let value = value.map(decode_regex).transpose()?;
            (key.group_id, ConsumerRecord::Regex { regex: Arc::from(&*key.regular_expression), value })
        }
        _ => return Ok(None),
    };
    Ok(Some(GroupRecord::Consumer { group_id: Arc::from(&*group_id), record }))
}

fn message<'a, M: Message<'a>>(bytes: &'a [u8]) -> Result<M, RecordError> {
    let (version, rest) = split_number(bytes)?;
    Ok(M::decode(&mut Reader::new(rest), version)?)
}

fn decode_group(bytes: &[u8]) -> Result<GroupEpoch, RecordError> {
    let value: ConsumerGroupMetadataValue = message(bytes)?;
    Ok(GroupEpoch { epoch: value.epoch, metadata_hash: value.metadata_hash })
}

fn decode_target_epoch(bytes: &[u8]) -> Result<TargetEpoch, RecordError> {
    let value: ConsumerGroupTargetAssignmentMetadataValue = message(bytes)?;
    Ok(TargetEpoch { epoch: value.assignment_epoch, timestamp: TimestampMs(value.assignment_timestamp) })
}

fn decode_member(bytes: &[u8]) -> Result<Arc<MemberMetadata>, RecordError> {
    let value: ConsumerGroupMemberMetadataValue<'_> = message(bytes)?;
    let optional = |text: Option<Cow<'_, str>>| text.map(|text| Arc::from(&*text));
    let classic = value.classic_member_metadata.map(|classic| ClassicMetadata {
        session_timeout_ms: classic.session_timeout_ms,
        protocols: classic
            .supported_protocols
            .iter()
            .map(|protocol| (Arc::from(&*protocol.name), Bytes::copy_from_slice(&protocol.metadata)))
            .collect(),
    });
    Ok(Arc::new(MemberMetadata {
        instance_id: optional(value.instance_id),
        rack_id: optional(value.rack_id),
        client_id: Arc::from(&*value.client_id),
        client_host: Arc::from(&*value.client_host),
        subscribed_topics: sorted_names(
            value.subscribed_topic_names.iter().map(|name| Arc::from(&*name)).collect(),
        ),
        subscribed_regex: optional(value.subscribed_topic_regex),
        rebalance_timeout_ms: value.rebalance_timeout_ms,
        server_assignor: optional(value.server_assignor),
        classic,
    }))
}

fn decode_target(bytes: &[u8]) -> Result<Arc<Assignment>, RecordError> {
    let value: ConsumerGroupTargetAssignmentMemberValue<'_> = message(bytes)?;
    let mut assignment = Assignment::default();
    for topic in &value.topic_partitions {
        for partition in &topic.partitions {
            assignment.insert(topic.topic_id, PartitionIndex(partition));
        }
    }
    Ok(Arc::new(assignment))
}

fn decode_current(bytes: &[u8]) -> Result<Arc<CurrentAssignment>, RecordError> {
    let value: ConsumerGroupCurrentMemberAssignmentValue<'_> = message(bytes)?;
    Ok(Arc::new(CurrentAssignment {
        epoch: value.member_epoch,
        previous_epoch: value.previous_member_epoch,
        state: MemberState::of_code(value.state),
        assigned: decode_held(&value.assigned_partitions, value.member_epoch),
        pending_revocation: decode_held(&value.partitions_pending_revocation, value.member_epoch),
    }))
}

/// Releases before 4.3 do not write since when a partition is held; `epoch` is the latest that it can be.
fn decode_held(topics: &Array<'_, TopicPartitions<'_>>, epoch: i32) -> Held {
    let mut held = Held::default();
    for topic in topics {
        let mut epochs = topic.assignment_epochs.as_ref().map(Array::iter);
        for partition in &topic.partitions {
            let since = epochs.as_mut().and_then(Iterator::next).unwrap_or(epoch);
            held.insert(topic.topic_id, PartitionIndex(partition), since);
        }
    }
    held
}

fn decode_regex(bytes: &[u8]) -> Result<Arc<ResolvedRegex>, RecordError> {
    let value: ConsumerGroupRegularExpressionValue<'_> = message(bytes)?;
    Ok(Arc::new(ResolvedRegex {
        topics: sorted_names(value.topics.iter().map(|name| Arc::from(&*name)).collect()),
        version: value.version,
        timestamp: TimestampMs(value.timestamp),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::ids::TopicId;

    fn held(epoch: i32) -> Held {
        let topic = TopicId::from_random(3);
        [(topic, PartitionIndex(0), epoch), (topic, PartitionIndex(4), epoch + 1)].into_iter().collect()
    }

    fn metadata() -> MemberMetadata {
        MemberMetadata {
            instance_id: Some("i".into()),
            rack_id: Some("r".into()),
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
            subscribed_topics: vec!["a".into(), "b".into()],
            subscribed_regex: Some("t.*".into()),
            rebalance_timeout_ms: 300_000,
            server_assignor: Some("range".into()),
            classic: Some(ClassicMetadata {
                session_timeout_ms: 45_000,
                protocols: vec![("range".into(), Bytes::from_static(b"x"))],
            }),
        }
    }

    fn all() -> Vec<ConsumerRecord> {
        let member_id: Arc<str> = "m".into();
        let topic = TopicId::from_random(3);
        let current = CurrentAssignment {
            epoch: 7,
            previous_epoch: 6,
            state: MemberState::UnrevokedPartitions,
            assigned: held(5),
            pending_revocation: held(2),
        };
        let regex = ResolvedRegex { topics: vec!["t1".into()], version: 0, timestamp: TimestampMs(9) };
        let target = [(topic, PartitionIndex(2))].into_iter().collect::<Assignment>();
        vec![
            ConsumerRecord::Group(Some(GroupEpoch { epoch: 7, metadata_hash: -5 })),
            ConsumerRecord::Member { member_id: member_id.clone(), value: Some(Arc::new(metadata())) },
            ConsumerRecord::TargetEpoch(Some(TargetEpoch { epoch: 7, timestamp: TimestampMs(5) })),
            ConsumerRecord::Target { member_id: member_id.clone(), value: Some(Arc::new(target)) },
            ConsumerRecord::Current { member_id, value: Some(Arc::new(current)) },
            ConsumerRecord::Regex { regex: "t.*".into(), value: Some(Arc::new(regex)) },
        ]
    }

    fn tombstone(record: ConsumerRecord) -> ConsumerRecord {
        match record {
            ConsumerRecord::Group(_) => ConsumerRecord::Group(None),
            ConsumerRecord::Member { member_id, .. } => ConsumerRecord::Member { member_id, value: None },
            ConsumerRecord::TargetEpoch(_) => ConsumerRecord::TargetEpoch(None),
            ConsumerRecord::Target { member_id, .. } => ConsumerRecord::Target { member_id, value: None },
            ConsumerRecord::Current { member_id, .. } => ConsumerRecord::Current { member_id, value: None },
            ConsumerRecord::Regex { regex, .. } => ConsumerRecord::Regex { regex, value: None },
        }
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        for record in all().into_iter().chain(all().into_iter().map(tombstone)) {
            let record = GroupRecord::Consumer { group_id: "g".into(), record };
            let encoded = record.encode().unwrap();
            assert_eq!(GroupRecord::decode(Some(&encoded.key), encoded.value.as_deref()), Ok(Some(record)));
        }
    }

    /// The bytes are what Apache Kafka 4.3.1 makes of the same member.
    #[test]
    fn a_member_that_is_not_of_the_classic_protocol_is_written_as_by_kafka() {
        let value = MemberMetadata {
            instance_id: None,
            rack_id: None,
            client_id: "c".into(),
            client_host: "h".into(),
            subscribed_topics: vec!["t".into()],
            subscribed_regex: Some("".into()),
            rebalance_timeout_ms: 1,
            server_assignor: None,
            classic: None,
        };
        let record = ConsumerRecord::Member { member_id: "m".into(), value: Some(Arc::new(value)) };
        let encoded = encode(&"g".into(), &record).unwrap();
        let written = [0, 0, 0, 0, 2, b'c', 2, b'h', 2, 2, b't', 1, 0, 0, 0, 1, 0, 1, 0, 1, 0];
        assert_eq!(encoded.value.as_deref(), Some(&written[..]));
        let read = GroupRecord::decode(Some(&encoded.key), encoded.value.as_deref());
        assert_eq!(read, Ok(Some(GroupRecord::Consumer { group_id: "g".into(), record })));
    }

    #[test]
    fn keys_are_those_of_kafka() {
        let key = |record| encode(&"g".into(), &record).unwrap().key;
        assert_eq!(key(ConsumerRecord::Group(None)), [0, 3, 0, 1, b'g']);
        let member_id: Arc<str> = "m".into();
        assert_eq!(key(ConsumerRecord::Current { member_id, value: None }), [0, 8, 0, 1, b'g', 0, 1, b'm']);
        assert_eq!(
            key(ConsumerRecord::Regex { regex: "x".into(), value: None }),
            [0, 16, 0, 1, b'g', 0, 1, b'x']
        );
    }

    #[test]
    fn a_held_partition_without_an_epoch_is_held_since_the_members_epoch() {
        let topic = TopicPartitions {
            topic_id: TopicId::from_random(3),
            partitions: vec![1].into(),
            assignment_epochs: None,
        };
        let value = ConsumerGroupCurrentMemberAssignmentValue {
            member_epoch: 9,
            assigned_partitions: vec![topic].into(),
            ..Default::default()
        };
        let bytes = record_bytes(VERSION, &value, VERSION).unwrap();
        let current = decode_current(&bytes).unwrap();
        assert_eq!(current.assigned.epoch_of(TopicId::from_random(3), PartitionIndex(1)), Some(9));
    }

    #[test]
    fn a_record_of_a_later_release_is_passed_over_and_a_damaged_one_is_not() {
        assert_eq!(decode(99, &[], None), Ok(None));
        assert!(decode(3, &[0, 5], None).is_err());
        assert!(decode(3, &[0, 1, b'g'], Some(&[0, 0, 1])).is_err());
    }
}
