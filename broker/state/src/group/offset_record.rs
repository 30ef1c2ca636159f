//! Committed offsets as `__consumer_offsets` keeps them.

use super::record::{EncodedRecord, GroupRecord, RecordError, split_number};
use super::request::{NamedPartition, OffsetAndMetadata};
use logmill_wire::api::offset_commit_key::{self, OffsetCommitKey};
use logmill_wire::api::offset_commit_value::OffsetCommitValue;
use logmill_wire::api::{Message, record_bytes};
use logmill_wire::ids::{LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId};
use logmill_wire::primitives::{EncodeError, Reader};
use std::sync::Arc;

/// The only version of the key.
const KEY_VERSION: i16 = 0;
/// The version that carries an offset's own expiry.
const WITH_EXPIRY: i16 = 1;
/// The version that carries leader epochs.
const PLAIN: i16 = 3;
/// The version that carries topic ids.
const WITH_TOPIC_ID: i16 = 4;

/// An offset that is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// What the client committed.
    pub committed: OffsetAndMetadata,
    /// When, by the coordinator's wall clock.
    pub commit_timestamp: TimestampMs,
    /// When it expires by the client's own wish (`retention_time` of OffsetCommit 2 to 4).
    pub expire_timestamp: Option<TimestampMs>,
    /// The topic's id, zero if the client did not name it.
    pub topic_id: TopicId,
}

pub(super) fn encode(
    group_id: &str,
    partition: &NamedPartition,
    value: Option<&CommittedOffset>,
) -> Result<EncodedRecord, EncodeError> {
    let key = OffsetCommitKey {
        group: group_id.into(),
        topic: (&*partition.topic).into(),
        partition: partition.partition.0,
    };
    let key = record_bytes(offset_commit_key::RECORD_TYPE, &key, KEY_VERSION)?;
    let value = value.map(encode_value).transpose()?;
    Ok(EncodedRecord { key, value })
}

fn encode_value(value: &CommittedOffset) -> Result<Vec<u8>, EncodeError> {
    let version = match (value.expire_timestamp, value.topic_id.is_zero()) {
        (Some(_), _) => WITH_EXPIRY,
        (None, true) => PLAIN,
        (None, false) => WITH_TOPIC_ID,
    };
    let message = OffsetCommitValue {
        offset: value.committed.offset.0,
        leader_epoch: value.committed.leader_epoch.0,
        metadata: (&*value.committed.metadata).into(),
        commit_timestamp: value.commit_timestamp.0,
        expire_timestamp: value.expire_timestamp.map_or(-1, |timestamp| timestamp.0),
        topic_id: value.topic_id,
    };
    record_bytes(version, &message, version)
}

pub(super) fn decode(key: &[u8], value: Option<&[u8]>) -> Result<GroupRecord, RecordError> {
    let key = OffsetCommitKey::decode(&mut Reader::new(key), KEY_VERSION)?;
    let partition =
        NamedPartition { topic: Arc::from(&*key.topic), partition: PartitionIndex(key.partition) };
    let value = value.map(decode_value).transpose()?;
    Ok(GroupRecord::Offset { group_id: Arc::from(&*key.group), partition, value })
}

fn decode_value(bytes: &[u8]) -> Result<CommittedOffset, RecordError> {
    let (version, rest) = split_number(bytes)?;
    let value = OffsetCommitValue::decode(&mut Reader::new(rest), version)?;
    Ok(CommittedOffset {
        committed: OffsetAndMetadata {
            offset: Offset(value.offset),
            leader_epoch: LeaderEpoch(value.leader_epoch),
            metadata: Arc::from(&*value.metadata),
        },
        commit_timestamp: TimestampMs(value.commit_timestamp),
        expire_timestamp: (value.expire_timestamp >= 0).then_some(TimestampMs(value.expire_timestamp)),
        topic_id: value.topic_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(expire: Option<i64>, topic_id: TopicId) -> GroupRecord {
        GroupRecord::Offset {
            group_id: "g".into(),
            partition: NamedPartition { topic: "t".into(), partition: PartitionIndex(3) },
            value: Some(CommittedOffset {
                committed: OffsetAndMetadata {
                    offset: Offset(7),
                    leader_epoch: LeaderEpoch(if expire.is_some() { -1 } else { 2 }),
                    metadata: "m".into(),
                },
                commit_timestamp: TimestampMs(1000),
                expire_timestamp: expire.map(TimestampMs),
                topic_id,
            }),
        }
    }

    #[test]
    fn offsets_come_back_as_they_were_written() {
        for (record, version) in [
            (offset(None, TopicId::ZERO), PLAIN),
            (offset(Some(2000), TopicId::ZERO), WITH_EXPIRY),
            (offset(None, TopicId::from_random(9)), WITH_TOPIC_ID),
        ] {
            let encoded = record.encode().unwrap();
            let value = encoded.value.as_deref().unwrap();
            assert_eq!(value[..2], version.to_be_bytes());
            assert_eq!(GroupRecord::decode(Some(&encoded.key), Some(value)), Ok(Some(record)));
        }
    }

    #[test]
    fn a_key_is_that_of_kafka() {
        let encoded = offset(None, TopicId::ZERO).encode().unwrap();
        assert_eq!(encoded.key, [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 3]);
    }

    #[test]
    fn a_tombstone_and_a_damaged_value() {
        let GroupRecord::Offset { group_id, partition, .. } = offset(None, TopicId::ZERO) else {
            panic!("an offset")
        };
        let tombstone = GroupRecord::Offset { group_id, partition, value: None };
        let encoded = tombstone.encode().unwrap();
        assert_eq!(encoded.value, None);
        assert_eq!(GroupRecord::decode(Some(&encoded.key), None), Ok(Some(tombstone)));
        assert!(GroupRecord::decode(Some(&encoded.key), Some(&[0, 3, 1])).is_err());
        assert!(GroupRecord::decode(Some(&encoded.key), Some(&[0, 99, 1])).is_err());
        assert_eq!(GroupRecord::decode(None, None), Err(RecordError::NoKey));
    }
}
