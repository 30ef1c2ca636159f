//! What the metadata say of one partition: its leader, its replicas, which of them are in sync.
//!
//! A partition begins with its first replica as leader and all replicas in sync; only partitions that are otherwise
//! have a [`PartitionState`] of their own in the image.

use std::sync::Arc;

use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, TopicId, TopicPartition, Uuid};

use super::image::{ApplyError, Image, Topic};
use super::record::Record;
use crate::partition::{ReplicaAssignment, ReplicaBroker};

/// The leader of a partition that has none.
pub const NO_LEADER: NodeId = NodeId(-1);

/// The config by which eligible leader replicas are chosen.
pub(super) const MIN_IN_SYNC: &str = "min.insync.replicas";

/// The state of a partition, as a record carries it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartitionState {
    /// The leader, or [`NO_LEADER`].
    pub leader: NodeId,
    /// The leader's epoch at the time of the record; rises with every change of the leader.
    pub leader_epoch: LeaderEpoch,
    /// Rises with every change of anything here (KIP-497).
    pub partition_epoch: i32,
    /// All replicas, the preferred leader first; during a reassignment the new and the old ones.
    pub replicas: Vec<NodeId>,
    /// The committed in-sync set.
    pub in_sync: Vec<NodeId>,
    /// Replicas out of sync that have all that was committed (KIP-966).
    pub eligible: Vec<NodeId>,
    /// Replicas that a reassignment adds (KIP-455).
    pub adding: Vec<NodeId>,
    /// Replicas that a reassignment removes.
    pub removing: Vec<NodeId>,
}

impl PartitionState {
    fn is_consistent(&self) -> bool {
        let is_set =
            |nodes: &[NodeId]| nodes.iter().enumerate().all(|(at, node)| !nodes[..at].contains(node));
        let within =
            |nodes: &[NodeId]| is_set(nodes) && nodes.iter().all(|node| self.replicas.contains(node));
        !self.replicas.is_empty()
            && is_set(&self.replicas)
            && within(&self.in_sync)
            && within(&self.eligible)
            && within(&self.adding)
            && within(&self.removing)
            && !self.in_sync.iter().any(|node| self.eligible.contains(node))
            && (self.leader == NO_LEADER || self.in_sync.contains(&self.leader))
            && self.leader_epoch.0 >= 0
            && self.partition_epoch >= 0
    }
}

/// A partition's state, with its leader epoch less the leader's epoch base when it was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StoredState(pub(super) PartitionState);

/// A partition as clients and brokers are told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partition<'a> {
    /// Its leader, or [`NO_LEADER`].
    pub leader: NodeId,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// Rises with every change of the partition.
    pub partition_epoch: i32,
    /// Its replicas, the preferred leader first.
    pub replicas: &'a [NodeId],
    /// The committed in-sync set.
    pub in_sync: &'a [NodeId],
    /// Replicas out of sync that have all that was committed (KIP-966).
    pub eligible: &'a [NodeId],
    /// Replicas that a reassignment adds.
    pub adding: &'a [NodeId],
    /// Replicas that a reassignment removes.
    pub removing: &'a [NodeId],
}

impl Partition<'_> {
    /// The state as a record carries it.
    #[must_use]
    pub fn to_state(&self) -> PartitionState {
        PartitionState {
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            replicas: self.replicas.to_vec(),
            in_sync: self.in_sync.to_vec(),
            eligible: self.eligible.to_vec(),
            adding: self.adding.to_vec(),
            removing: self.removing.to_vec(),
        }
    }
}

impl Topic {
    /// The topic with changed states.
    fn with_states(&self, change: impl FnOnce(&mut Self)) -> Arc<Self> {
        let mut topic = self.clone();
        change(&mut topic);
        Arc::new(topic)
    }
}

impl Image {
    /// The leader, epochs and replicas of a partition of `topic`. The leader of a partition with one replica is told
    /// as [`NO_LEADER`] while its broker is fenced or forgotten.
    #[must_use]
    pub fn partition<'a>(&self, topic: &'a Topic, partition: PartitionIndex) -> Option<Partition<'a>> {
        if let Some(StoredState(state)) = topic.states.get(&partition).map(Arc::as_ref) {
            let base = self.leader_epoch_base(state.leader);
            return Some(Partition {
                leader: self.told_leader(state.leader, &state.replicas),
                leader_epoch: LeaderEpoch(state.leader_epoch.0.saturating_add(base)),
                partition_epoch: state.partition_epoch,
                replicas: &state.replicas,
                in_sync: &state.in_sync,
                eligible: &state.eligible,
                adding: &state.adding,
                removing: &state.removing,
            });
        }
        let replicas = topic.placement.replicas(partition)?;
        Some(Partition {
            leader: self.told_leader(*replicas.first()?, replicas),
            leader_epoch: topic.placement.leader_epoch(partition, |node| self.leader_epoch_base(node))?,
            partition_epoch: 0,
            replicas,
            in_sync: replicas,
            eligible: &[],
            adding: &[],
            removing: &[],
        })
    }

    /// The leader of a partition of `topic`, as [`Image::partition`] tells it.
    #[must_use]
    pub fn leader(&self, topic: &Topic, partition: PartitionIndex) -> Option<NodeId> {
        if let Some(StoredState(state)) = topic.states.get(&partition).map(Arc::as_ref) {
            return Some(self.told_leader(state.leader, &state.replicas));
        }
        let replicas = topic.placement.replicas(partition)?;
        Some(self.told_leader(*replicas.first()?, replicas))
    }

    fn told_leader(&self, leader: NodeId, replicas: &[NodeId]) -> NodeId {
        let is_dead = || self.broker(leader).is_none_or(|broker| broker.fenced);
        if replicas.len() == 1 && is_dead() { NO_LEADER } else { leader }
    }

    /// A partition as its leader and its followers need to know it. A broker acts on it only if the image has its own
    /// incarnation: an older image may say that it leads in an epoch that its former process led in.
    #[must_use]
    pub fn replica_assignment(&self, partition: TopicPartition) -> Option<ReplicaAssignment> {
        let found = self.partition(self.topic_by_id(partition.topic_id)?, partition.partition)?;
        let replicas = found.replicas.iter().map(|&node| ReplicaBroker {
            node,
            incarnation: self.broker(node).map_or(Uuid::ZERO, |broker| broker.incarnation),
            is_active: self.may_serve(node, partition),
        });
        Some(ReplicaAssignment {
            leader_epoch: found.leader_epoch,
            partition_epoch: found.partition_epoch,
            in_sync: found.in_sync.to_vec(),
            has_eligible: !found.eligible.is_empty(),
            replicas: replicas.collect(),
        })
    }

    /// The leader epoch of a partition, if it exists.
    #[must_use]
    pub fn leader_epoch(&self, partition: TopicPartition) -> Option<LeaderEpoch> {
        let topic = self.topic_by_id(partition.topic_id)?;
        Some(self.partition(topic, partition.partition)?.leader_epoch)
    }

    /// The partitions that are being reassigned (ListPartitionReassignments, KIP-455).
    pub fn reassignments(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.topics().flat_map(|topic| {
            let is_reassigned =
                |state: &StoredState| !state.0.adding.is_empty() || !state.0.removing.is_empty();
            let states = topic.states.iter().filter(move |(_, state)| is_reassigned(state));
            states.map(|(&partition, _)| TopicPartition { topic_id: topic.id, partition })
        })
    }

    pub(super) fn apply_partition_changed(
        &mut self,
        topic_id: TopicId,
        partition: PartitionIndex,
        state: &PartitionState,
    ) -> Result<(), ApplyError> {
        let topic = Arc::clone(self.existing(topic_id)?);
        let wrong = ApplyError::Partition { topic_id, partition };
        let current = self.partition(&topic, partition).ok_or(wrong.clone())?;
        // The epoch of a partition that was never changed follows its first replica, which may have restarted since
        // a snapshot's partition had it as leader.
        let goes_back = topic.states.contains_key(&partition) && state.leader_epoch < current.leader_epoch;
        if !state.is_consistent() || goes_back || state.partition_epoch <= current.partition_epoch {
            return Err(wrong);
        }
        let base = self.leader_epoch_base(state.leader);
        let leader_epoch = LeaderEpoch(state.leader_epoch.0.checked_sub(base).ok_or(wrong)?);
        let stored = Arc::new(StoredState(PartitionState { leader_epoch, ..state.clone() }));
        self.put_topic(topic.with_states(|topic| {
            topic.states.insert(partition, stored);
        }));
        Ok(())
    }

    /// Forgets which replicas out of sync are eligible, where a leader goes on: by another `min.insync.replicas` it may
    /// commit without them.
    pub(super) fn forget_eligible(&mut self, topic: &Topic) {
        let states: Vec<(PartitionIndex, Arc<StoredState>)> = topic
            .states
            .iter()
            .filter(|(_, state)| !state.0.eligible.is_empty() && !state.0.in_sync.is_empty())
            .map(|(&index, state)| {
                let partition_epoch = state.0.partition_epoch.saturating_add(1);
                let forgotten = PartitionState { eligible: Vec::new(), partition_epoch, ..state.0.clone() };
                (index, Arc::new(StoredState(forgotten)))
            })
            .collect();
        if states.is_empty() {
            return;
        }
        self.put_topic(topic.with_states(|topic| {
            for (index, state) in states {
                topic.states.insert(index, state);
            }
        }));
    }

    pub(super) fn state_records<'a>(&'a self, topic: &'a Topic) -> impl Iterator<Item = Record> + 'a {
        topic.states.iter().map(|(&partition, stored)| {
            let base = self.leader_epoch_base(stored.0.leader);
            let leader_epoch = LeaderEpoch(stored.0.leader_epoch.0.saturating_add(base));
            let state = PartitionState { leader_epoch, ..stored.0.clone() };
            Record::PartitionChanged { topic_id: topic.id, partition, state }
        })
    }
}
