//! From a partition to the shard that owns it.

use super::command::PartitionCommand;
use logmill_wire::ids::{PartitionIndex, ShardIndex, TopicId, TopicPartition};
use std::cell::Cell;
use std::rc::Rc;

/// How the partitions of one topic are spread over the shards: round after round, so that each shard gets its share of
/// every topic. Any other number of shards at the next start gives another placement; what is stored does not depend on
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSpread {
    /// The shard of partition 0.
    first: u64,
    shards: u64,
}

impl TopicSpread {
    fn new(topic_id: TopicId, shards: u16) -> Self {
        let mut hash = u128::from_be_bytes(topic_id.0);
        hash ^= hash >> 64;
        let shards = u64::from(shards.max(1));
        Self { first: hash as u64 % shards, shards }
    }

    /// The shard that owns a partition of the topic.
    #[must_use]
    pub fn shard_of(self, partition: PartitionIndex) -> ShardIndex {
        ShardIndex(((self.first + u64::from(partition.0.unsigned_abs())) % self.shards) as u16)
    }
}

/// The shard that owns a partition when there are `shards` of them.
#[must_use]
pub fn shard_of(partition: TopicPartition, shards: u16) -> ShardIndex {
    TopicSpread::new(partition.topic_id, shards).shard_of(partition.partition)
}

/// Which shards got commands since somebody last looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// None.
    None,
    /// This one.
    One(ShardIndex),
    /// Several of them.
    Several,
    /// Whoever sent the commands has something on its own shard that it must not leave behind.
    Home,
}

/// Sends commands to partitions, at home or on another shard. Cheap to clone.
#[derive(Clone)]
pub struct PartitionRouter {
    shards: u16,
    send: Rc<dyn Fn(ShardIndex, PartitionCommand)>,
    touched: Rc<Cell<Touched>>,
}

impl PartitionRouter {
    /// A router that hands commands to `send`, which never waits: it calls the partition at home, and puts the
    /// message into a mailbox otherwise.
    #[must_use]
    pub fn new(shards: u16, send: Rc<dyn Fn(ShardIndex, PartitionCommand)>) -> Self {
        Self { shards, send, touched: Rc::new(Cell::new(Touched::None)) }
    }

    /// Which shards got commands since this was last asked.
    pub fn take_touched(&self) -> Touched {
        self.touched.replace(Touched::None)
    }

    /// Says that what the request at hand leaves behind is of use on this shard only.
    pub fn stay_at_home(&self) {
        self.touched.set(Touched::Home);
    }

    fn hand(&self, shard: ShardIndex, command: PartitionCommand) {
        self.touched.set(match self.touched.get() {
            Touched::None => Touched::One(shard),
            Touched::One(other) if other != shard => Touched::Several,
            known => known,
        });
        (self.send)(shard, command);
    }

    /// All shards that own partitions.
    pub fn shards(&self) -> impl Iterator<Item = ShardIndex> + use<> {
        (0..self.shards).map(ShardIndex)
    }

    /// Sends a command that concerns a whole shard.
    pub fn send_to(&self, shard: ShardIndex, command: PartitionCommand) {
        self.hand(shard, command);
    }

    /// Which shards own the partitions of a topic.
    #[must_use]
    pub fn spread_of(&self, topic_id: TopicId) -> TopicSpread {
        TopicSpread::new(topic_id, self.shards)
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
            self.hand(self.shard_of(partition), command);
        }
    }
}
