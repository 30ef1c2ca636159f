//! What consumers of the classic protocol tell each other inside its requests: subscriptions and assignments, each
//! a version and then the message.

use bytes::Bytes;
use logmill_wire::api::consumer_protocol_assignment::{
    ConsumerProtocolAssignment, TopicPartition as AssignedTopic,
};
use logmill_wire::api::consumer_protocol_subscription::ConsumerProtocolSubscription;
use logmill_wire::api::{Message, record_bytes};
use logmill_wire::ids::PartitionIndex;
use logmill_wire::primitives::Reader;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The last version; later ones begin as this one does.
const LAST_VERSION: i16 = 3;

/// A partition by its topic's name.
pub type Named = (Arc<str>, PartitionIndex);

/// What a consumer wants and has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The version that it speaks.
    pub version: i16,
    /// Its topics.
    pub topics: Vec<Arc<str>>,
    /// What it owns; nothing before version 1.
    pub owned: Vec<Named>,
    /// `client.rack`.
    pub rack_id: Option<Arc<str>>,
}

fn split_version(bytes: &[u8]) -> Option<(i16, &[u8])> {
    let (version, rest) = bytes.split_first_chunk()?;
    let version = i16::from_be_bytes(*version);
    (version >= 0).then(|| (version.min(LAST_VERSION), rest))
}

/// Reads a subscription; `None` if it is none.
#[must_use]
pub fn read_subscription(bytes: &[u8]) -> Option<Subscription> {
    let (version, rest) = split_version(bytes)?;
    let subscription = ConsumerProtocolSubscription::decode(&mut Reader::new(rest), version).ok()?;
    let mut owned = Vec::new();
    for topic in &subscription.owned_partitions {
        let name: Arc<str> = Arc::from(&*topic.topic);
        owned.extend(topic.partitions.iter().map(|index| (Arc::clone(&name), PartitionIndex(index))));
    }
    Some(Subscription {
        version,
        topics: subscription.topics.iter().map(|topic| Arc::from(&*topic)).collect(),
        owned,
        rack_id: subscription.rack_id.filter(|rack| !rack.is_empty()).map(|rack| Arc::from(&*rack)),
    })
}

/// Reads an assignment; `None` if it is none. An empty one is of a member that has none yet.
#[must_use]
pub fn read_assignment(bytes: &[u8]) -> Option<Vec<Named>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let (version, rest) = split_version(bytes)?;
    let assignment = ConsumerProtocolAssignment::decode(&mut Reader::new(rest), version).ok()?;
    let mut partitions = Vec::new();
    for topic in &assignment.assigned_partitions {
        let name: Arc<str> = Arc::from(&*topic.topic);
        partitions.extend(topic.partitions.iter().map(|index| (Arc::clone(&name), PartitionIndex(index))));
    }
    Some(partitions)
}

/// Writes an assignment in the version that its receiver speaks.
#[must_use]
pub fn write_assignment(version: i16, partitions: impl IntoIterator<Item = Named>) -> Bytes {
    let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
    for (topic, index) in partitions {
        topics.entry(topic).or_default().push(index.0);
    }
    let topic = |(topic, partitions): (&Arc<str>, Vec<i32>)| AssignedTopic {
        topic: topic.to_string().into(),
        partitions: partitions.into(),
    };
    let assigned_partitions =
        topics.into_iter().map(|(name, partitions)| topic((&name, partitions))).collect();
    let message = ConsumerProtocolAssignment { assigned_partitions, user_data: None };
    let version = version.clamp(0, LAST_VERSION);
    // It can only fail if a name is longer than any topic's.
    record_bytes(version, &message, version).map(Bytes::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_comes_back_as_it_was_written() {
        let partitions: Vec<Named> = vec![
            ("a".into(), PartitionIndex(1)),
            ("a".into(), PartitionIndex(2)),
            ("b".into(), PartitionIndex(0)),
        ];
        for version in 0..=3 {
            let bytes = write_assignment(version, partitions.clone());
            assert_eq!(bytes[..2], version.to_be_bytes());
            assert_eq!(read_assignment(&bytes), Some(partitions.clone()));
        }
        assert_eq!(read_assignment(&[]), Some(Vec::new()));
    }

    #[test]
    fn a_subscription_of_any_version_is_read() {
        let oldest = [0, 0, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff];
        let read = read_subscription(&oldest).unwrap();
        assert_eq!((read.version, read.topics, read.owned), (0, vec!["t".into()], Vec::new()));
        let owning = [&[0, 1][..], &oldest[2..], &[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 7]].concat();
        assert_eq!(read_subscription(&owning).unwrap().owned, [("t".into(), PartitionIndex(7))]);
        for bytes in [&b""[..], &[0], &[0xff, 0xff], &[0, 0, 0, 0, 0, 9], &owning[..owning.len() - 1]] {
            assert_eq!(read_subscription(bytes), None);
        }
    }
}
