//! How a consumer group's partitions are spread over its members: pure functions of who wants what and of what
//! they have been promised before (KIP-848). Racks do not count, as in Kafka 4.

mod range;
#[cfg(test)]
mod tests;
mod uniform;

use super::consumer::assignment::Assignment;
use logmill_wire::ids::{PartitionIndex, TopicId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A member as an assignor sees it.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Its id.
    pub member_id: &'a str,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<&'a str>,
    /// The topics that it wants; all of them are in [`Demand::topics`].
    pub subscribed: Arc<BTreeSet<TopicId>>,
    /// What it was to own before.
    pub before: &'a Assignment,
}

/// What is to be spread over whom.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    /// The members by id.
    pub members: Vec<Candidate<'a>>,
    /// How many partitions each topic has.
    pub topics: BTreeMap<TopicId, i32>,
}

impl Demand<'_> {
    /// Whether all members want the same topics.
    fn is_homogeneous(&self) -> bool {
        self.members.windows(2).all(|pair| pair[0].subscribed == pair[1].subscribed)
    }

    /// How many partitions a topic has.
    fn partition_count(&self, topic_id: TopicId) -> i32 {
        self.topics.get(&topic_id).copied().unwrap_or(0)
    }

    /// Whether the member may own the partition.
    fn allows(&self, member: usize, topic_id: TopicId, partition: PartitionIndex) -> bool {
        self.members[member].subscribed.contains(&topic_id)
            && (0..self.partition_count(topic_id)).contains(&partition.0)
    }
}

/// A way of spreading partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Evenly over all members, and with as few moves as that allows.
    Uniform,
    /// Per topic a range of partitions for each member: the same numbers of several topics meet in one member.
    Range,
}

impl Assignor {
    /// The assignor of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "uniform" => Some(Self::Uniform),
            "range" => Some(Self::Range),
            _ => None,
        }
    }

    /// What each member shall own, in the order of [`Demand::members`].
    #[must_use]
    pub fn assign(self, demand: &Demand<'_>) -> Vec<Assignment> {
        match self {
            Self::Uniform => uniform::assign(demand),
            Self::Range => range::assign(demand),
        }
    }
}
