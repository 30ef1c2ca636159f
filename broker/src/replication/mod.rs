//! The links between brokers that carry what leaders push and what followers answer.
//!
//! Each data shard has, for each broker that it has something for, two connections that it made itself, to that broker's
//! listener for brokers: a live one, and one for catching up, from disk, while there is something to catch up. All that
//! the shard has to say to that broker leaves there. A connection that another broker made is only read, for all shards
//! of this one: the entries of its frames go to the shards that own the partitions, so both may have any number of them.
//!
//! | | who | what |
//! |---|---|---|
//! | 1 | dialler | connects, says hello: cluster, broker, incarnation, versions, which link |
//! | 2 | acceptor | compares that with its image; says hello, or closes: the dialler comes again |
//! | 3 | acceptor | tells its shards that the link stands anew ([`PeerCommand::Linked`]) |
//! | 4 | dialler | tells its shard ([`Partitions::resend`]), and sends frames |
//! | 5 | both | say something every [`REPLICATION_KEEPALIVE_MS`], and cut the link after [`REPLICATION_SILENCE_MS`] of silence |
//!
//! One send is under way on a link; whatever comes meanwhile is kept by partition ([`outbox`]), and leaves in the next
//! frame. The receiver reserves room for a frame before it reads it, and stops reading while there is none: TCP then holds
//! the sender up, and nothing grows. A link that is lost takes what was on its way with it: [`Partitions::link_lost`], and
//! from its next hello on both sides say again what matters.
//!
//! [`PeerCommand::Linked`]: crate::partition::peers::PeerCommand::Linked
//! [`REPLICATION_KEEPALIVE_MS`]: logmill_wire::limits::REPLICATION_KEEPALIVE_MS
//! [`REPLICATION_SILENCE_MS`]: logmill_wire::limits::REPLICATION_SILENCE_MS

mod counters;
mod cut;
mod dial;
mod frame_reader;
mod greeting;
mod links;
mod outbox;
mod push_frame;
mod server;
mod session;
mod throttle;

#[cfg(test)]
mod tests;

pub use counters::ReplicationCounters;
pub use cut::Cut;
pub use dial::{Plain, Transport};
pub use links::{AskController, Links, LinksSettings};
pub use server::PeerServer;
pub use throttle::{HeldUpBy, ThrottlePlan};

use crate::partition::PartitionTable;
use crate::partition::peers::Taken;
use crate::runtime::Runtime;
use crate::shard::join::Boxed;
use logmill_wire::ids::{NodeId, TopicPartition};
use std::rc::Rc;

/// What the links of a shard take from its partitions, and tell them.
pub trait Partitions: 'static {
    /// What there is to push now, of about `max_bytes`, but one batch at least. What is given out counts as pushed.
    fn take_push(&self, follower: NodeId, partition: TopicPartition, max_bytes: usize) -> Taken;

    /// The same wherever the records are, which takes I/O: for the link that catches up.
    fn read_push(
        self: Rc<Self>,
        follower: NodeId,
        partition: TopicPartition,
        max_bytes: usize,
    ) -> Boxed<'static, Taken>;

    /// What was pushed to the follower may be lost.
    fn link_lost(&self, follower: NodeId);

    /// What was told to the leader, or asked, may be lost: it is to be said again.
    fn resend(&self, leader: NodeId);
}

impl<R: Runtime> Partitions for PartitionTable<R> {
    fn take_push(&self, follower: NodeId, partition: TopicPartition, max_bytes: usize) -> Taken {
        Self::take_push(self, follower, partition, max_bytes)
    }

    fn read_push(
        self: Rc<Self>,
        follower: NodeId,
        partition: TopicPartition,
        max_bytes: usize,
    ) -> Boxed<'static, Taken> {
        Box::pin(async move { Self::read_push(&self, follower, partition, max_bytes).await })
    }

    fn link_lost(&self, follower: NodeId) {
        Self::link_lost(self, follower);
    }

    fn resend(&self, leader: NodeId) {
        Self::resend(self, leader);
    }
}
