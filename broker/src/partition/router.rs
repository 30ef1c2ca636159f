//! From a partition to the shard that owns it.

use super::command::PartitionCommand;
use logmill_wire::ids::{ShardIndex, TopicPartition};
use std::rc::Rc;

/// The shard that owns a partition when there are `shards` of them. Any other number at the next start gives
/// another placement; what is stored does not depend on it.
#[must_use]
pub fn shard_of(partition: TopicPartition, shards: u16) -> ShardIndex {
    let mut hash = u128::from_be_bytes(partition.topic_id.0);
    hash ^= hash >> 64;
    // Partitions of one topic go round the shards, so that each shard gets its share of every topic.
    let spread =
        (hash as u64 % u64::from(shards.max(1))).wrapping_add(partition.partition.0.unsigned_abs().into());
    ShardIndex((spread % u64::from(shards.max(1))) as u16)
}

/// Sends commands to partitions, at home or on another shard. Cheap to clone.
#[derive(Clone)]
pub struct PartitionRouter {
    shards: u16,
    send: Rc<dyn Fn(ShardIndex, PartitionCommand)>,
}

impl PartitionRouter {
    /// A router that hands commands to `send`, which never waits: it calls the partition at home, and puts the
    /// message into a mailbox otherwise.
    #[must_use]
    pub fn new(shards: u16, send: Rc<dyn Fn(ShardIndex, PartitionCommand)>) -> Self {
        Self { shards, send }
    }

    /// All shards that own partitions.
    pub fn shards(&self) -> impl Iterator<Item = ShardIndex> + use<> {
        (0..self.shards).map(ShardIndex)
    }

    /// Sends a command that concerns a whole shard.
    pub fn send_to(&self, shard: ShardIndex, command: PartitionCommand) {
        (self.send)(shard, command);
    }

    /// The shard that owns a partition.
    #[must_use]
    pub fn shard_of(&self, partition: TopicPartition) -> ShardIndex {
        shard_of(partition, self.shards)
    }

    /// Sends. Commands of one sender to one partition are carried out in the order in which they were sent. What
    /// is to be appended by one command must be for partitions of one shard.
    pub fn send(&self, command: PartitionCommand) {
        if let Some(partition) = command.partition() {
            (self.send)(self.shard_of(partition), command);
        }
    }
}
