//! What partitions and the brokers of their other replicas say to each other, whatever carries it.
//!
//! Leaders push; followers ask where their logs part, and tell how far they have come. Everything here may be lost, come
//! late, or come twice: the pure states of [`logmill_state::partition`] say again what matters, and [`Peers`] asks for
//! it when a link was lost.

use crate::runtime::oneshot;
use bytes::Bytes;
use logmill_state::partition::AlterPartition;
use logmill_wire::frame::replication::{EpochAnswer, EpochQuery, PartitionEnds, PushedPartition};
use logmill_wire::ids::{NodeId, Offset, TopicPartition, Uuid};
use std::ops::Range;

/// A broker's process, as its hello named it: another start is another peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The broker.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Uuid,
}

/// What a frame from another broker has for the partitions of one shard. Entries are in the frame's order.
pub enum PeerCommand {
    /// A link of the other broker stands anew: what it had on its way before may be lost. It needs to be told again, as
    /// by `PartitionTable::resend`: the leader that it is pushes nothing before it knows the follower's ends.
    Linked {
        /// Whose link.
        from: Peer,
    },
    /// Batches of a leader. Their starts are checked against the frame, their own checksums are not yet.
    Push {
        /// Who leads.
        from: Peer,
        /// The frame's payload.
        payload: Bytes,
        /// Each partition with the range of its batches in the payload.
        entries: Vec<(PushedPartition, Range<usize>)>,
        /// Told, or dropped, when the batches are taken over or refused: the payload's room is free then.
        done: oneshot::Sender<()>,
    },
    /// How far a follower has come.
    Ends {
        /// Who follows.
        from: Peer,
        /// In which partitions.
        entries: Vec<PartitionEnds>,
    },
    /// A follower asks where its last epochs end in the leader's logs; answered through [`Peers::answer`].
    Query {
        /// Who follows.
        from: Peer,
        /// Of which partitions.
        entries: Vec<EpochQuery>,
    },
    /// The leader's answers.
    Answer {
        /// Who leads.
        from: Peer,
        /// Of which partitions.
        entries: Vec<EpochAnswer>,
    },
}

/// The way from a shard's partitions to other brokers. Nothing waits and nothing fails: what cannot be said now is
/// said, or asked for, when the link stands. What is said again about one partition takes the place of what waits.
pub trait Peers {
    /// A follower shall get what its leader has for it; the link takes it with
    /// `PartitionTable::take_push` when it can send.
    fn push(&self, to: NodeId, partition: TopicPartition);

    /// Only the high watermark or the log's start has moved: it may ride on a later push of this partition, for 5 ms.
    fn push_later(&self, to: NodeId, partition: TopicPartition);

    /// Tells a leader how far the partition has come.
    fn tell_ends(&self, to: NodeId, ends: PartitionEnds);

    /// Asks a leader.
    fn ask(&self, to: NodeId, query: EpochQuery);

    /// Answers a follower.
    fn answer(&self, to: NodeId, answer: EpochAnswer);

    /// Asks the controller for another in-sync set; the outcome comes through
    /// `PartitionTable::on_alter_partition`.
    fn alter_partition(&self, partition: TopicPartition, proposal: AlterPartition);
}

/// The peers of a broker that is alone.
pub struct NoPeers;

impl Peers for NoPeers {
    fn push(&self, _to: NodeId, _partition: TopicPartition) {}
    fn push_later(&self, _to: NodeId, _partition: TopicPartition) {}
    fn tell_ends(&self, _to: NodeId, _ends: PartitionEnds) {}
    fn ask(&self, _to: NodeId, _query: EpochQuery) {}
    fn answer(&self, _to: NodeId, _answer: EpochAnswer) {}
    fn alter_partition(&self, _partition: TopicPartition, _proposal: AlterPartition) {}
}

/// What there is to push to one follower of one partition.
pub enum Taken {
    /// Nothing.
    Nothing,
    /// An entry of a push, and its batches as they lie in the log; none, if only watermarks have moved.
    Push {
        /// The entry.
        entry: PushedPartition,
        /// The batches, in views of the memory in which they are.
        batches: Vec<Bytes>,
        /// Whether there is more behind it.
        has_more: bool,
    },
    /// The records from here on are no longer in memory: they are read for the link that catches up, with
    /// `PartitionTable::read_push`.
    OnDisk(Offset),
}
