//! Sets of partitions: what a member shall own, and what it holds.

use crate::group::request::TopicPartitions;
use logmill_wire::ids::{PartitionIndex, TopicId};
use std::collections::{BTreeMap, BTreeSet};

/// What a member shall own. No topic stands here without a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment(BTreeMap<TopicId, BTreeSet<PartitionIndex>>);

impl Assignment {
    /// No partition.
    pub const EMPTY: Self = Self(BTreeMap::new());

    /// Adds a partition.
    pub fn insert(&mut self, topic_id: TopicId, partition: PartitionIndex) {
        self.0.entry(topic_id).or_default().insert(partition);
    }

    /// Whether the partition is among them.
    #[must_use]
    pub fn contains(&self, topic_id: TopicId, partition: PartitionIndex) -> bool {
        self.0.get(&topic_id).is_some_and(|partitions| partitions.contains(&partition))
    }

    /// The partitions by topic and number.
    pub fn iter(&self) -> impl Iterator<Item = (TopicId, PartitionIndex)> {
        self.0
            .iter()
            .flat_map(|(topic_id, partitions)| partitions.iter().map(|partition| (*topic_id, *partition)))
    }

    /// How many partitions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// Whether there is no partition.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same by topic, as replies and records have it.
    #[must_use]
    pub fn by_topic(&self) -> Vec<TopicPartitions> {
        let topic = |(topic_id, partitions): (&TopicId, &BTreeSet<PartitionIndex>)| TopicPartitions {
            topic_id: *topic_id,
            partitions: partitions.iter().copied().collect(),
        };
        self.0.iter().map(topic).collect()
    }
}

impl FromIterator<(TopicId, PartitionIndex)> for Assignment {
    fn from_iter<I: IntoIterator<Item = (TopicId, PartitionIndex)>>(partitions: I) -> Self {
        let mut assignment = Self::default();
        for (topic_id, partition) in partitions {
            assignment.insert(topic_id, partition);
        }
        assignment
    }
}

/// What a member holds, and in which epoch each partition was given to it (KIP-1251).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held(BTreeMap<TopicId, BTreeMap<PartitionIndex, i32>>);

impl Held {
    /// Adds a partition that was given to the member in `epoch`.
    pub fn insert(&mut self, topic_id: TopicId, partition: PartitionIndex, epoch: i32) {
        self.0.entry(topic_id).or_default().insert(partition, epoch);
    }

    /// Whether the member holds the partition.
    #[must_use]
    pub fn contains(&self, topic_id: TopicId, partition: PartitionIndex) -> bool {
        self.epoch_of(topic_id, partition).is_some()
    }

    /// Since which epoch the member holds the partition.
    #[must_use]
    pub fn epoch_of(&self, topic_id: TopicId, partition: PartitionIndex) -> Option<i32> {
        self.0.get(&topic_id)?.get(&partition).copied()
    }

    /// The partitions by topic and number, and their epochs.
    pub fn iter(&self) -> impl Iterator<Item = (TopicId, PartitionIndex, i32)> {
        self.0.iter().flat_map(|(topic_id, partitions)| {
            partitions.iter().map(|(partition, epoch)| (*topic_id, *partition, *epoch))
        })
    }

    /// Whether there is no partition.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both have the same partitions, in whatever epochs.
    #[must_use]
    pub fn has_partitions_of(&self, other: &Self) -> bool {
        self.iter()
            .map(|(topic, partition, _)| (topic, partition))
            .eq(other.iter().map(|(topic, partition, _)| (topic, partition)))
    }

    /// The topics, each with its partitions and their epochs.
    pub fn topics(&self) -> impl Iterator<Item = (TopicId, &BTreeMap<PartitionIndex, i32>)> {
        self.0.iter().map(|(topic_id, partitions)| (*topic_id, partitions))
    }

    /// The same by topic, as replies have it.
    #[must_use]
    pub fn by_topic(&self) -> Vec<TopicPartitions> {
        self.topics()
            .map(|(topic_id, partitions)| TopicPartitions {
                topic_id,
                partitions: partitions.keys().copied().collect(),
            })
            .collect()
    }
}

impl FromIterator<(TopicId, PartitionIndex, i32)> for Held {
    fn from_iter<I: IntoIterator<Item = (TopicId, PartitionIndex, i32)>>(partitions: I) -> Self {
        let mut held = Self::default();
        for (topic_id, partition, epoch) in partitions {
            held.insert(topic_id, partition, epoch);
        }
        held
    }
}
