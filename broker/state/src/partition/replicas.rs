//! The followers of a partition's leader: how far each has come, and which replicas are in sync.
//!
//! | event | what moves |
//! |---|---|
//! | `lead` | the leader's epoch begins; nothing is known of the followers, those in sync count as just caught up |
//! | `update_replicas`, newer partition epoch | the committed set; what was proposed before is settled by it |
//! | `update_replicas`, new incarnation of a follower | its ends are forgotten: it may have lost what was not durable |
//! | `on_follower_ends` | the follower's ends and time; maybe the high watermark; maybe a proposal to add it |
//! | `shrink_in_sync` | maybe a proposal to remove who was not caught up for `replica.lag.time.max.ms` |
//! | `on_alter_partition`: accepted | the committed set, maybe the high watermark |
//! | … ineligible | the old set is proposed, so that the refused request cannot be carried out later |
//! | … stale | nothing: the metadata will tell |
//! | … unknown | nothing: the same proposal is sent again |
//!
//! The *maximal* set is the committed one and everybody that was proposed since its partition epoch: the controller
//! may have carried out any of these proposals, and may elect anybody in them, so the high watermark waits for all of
//! them (KIP-497). It never moves while the committed set is smaller than `min.insync.replicas`, nor while the
//! controller holds a replica out of sync for eligible (KIP-966): the two may know of different settings. It never goes
//! back.

use std::fmt;

use logmill_wire::ids::{LeaderEpoch, MonotonicNs, NodeId, Offset, Uuid};

use super::epochs::EpochEnd;
use super::errors::{EpochCheckError, StaleEpoch};
use super::leader::Leader;

/// What the metadata say of one replica's broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaBroker {
    /// The broker.
    pub node: NodeId,
    /// Its process, as it is registered.
    pub incarnation: Uuid,
    /// Whether it may join the in-sync set: neither fenced nor shutting down (KIP-841), and with a log directory that
    /// works (KIP-112).
    pub is_active: bool,
}

/// What the metadata say of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaAssignment {
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// Rises with every change of the partition (KIP-497).
    pub partition_epoch: i32,
    /// The committed in-sync set.
    pub in_sync: Vec<NodeId>,
    /// Whether replicas out of sync may be elected, because they have all that was committed (KIP-966).
    pub has_eligible: bool,
    /// All replicas, the leader among them.
    pub replicas: Vec<ReplicaBroker>,
}

/// The settings that replication depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicationPolicy {
    /// `min.insync.replicas`; a partition with fewer replicas needs all of them.
    pub min_in_sync: u32,
    /// `write.caching`: whether a written record counts, or only a durable one.
    pub write_caching: bool,
    /// `replica.lag.time.max.ms`.
    pub lag_max_ms: u64,
}

/// How far a follower has come, in the leader epoch that it says it follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FollowerEnds {
    /// The end of its log: what it expects next.
    pub log_end: Offset,
    /// Everything below survives the death of its process.
    pub written: Offset,
    /// Everything below survives a power loss.
    pub durable: Offset,
    /// Where its log starts.
    pub log_start: Offset,
    /// Whether it missed something, and the leader must go on from `log_end`.
    pub rewind: bool,
}

/// A proposal for the controller (`AlterPartition`, KIP-497, KIP-903).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlterPartition {
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that the proposal goes out from.
    pub partition_epoch: i32,
    /// The set, each member with the incarnation that the leader heard from; its own for the leader.
    pub in_sync: Vec<(NodeId, Uuid)>,
}

/// What became of a proposal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AlterPartitionOutcome {
    /// It is committed, with this partition epoch.
    Accepted {
        /// The new partition epoch.
        partition_epoch: i32,
        /// The committed set.
        in_sync: Vec<NodeId>,
        /// Whether replicas out of sync may be elected.
        has_eligible: bool,
    },
    /// INELIGIBLE_REPLICA: a member is fenced, shuts down, or has another incarnation.
    Ineligible,
    /// FENCED_LEADER_EPOCH, INVALID_UPDATE_VERSION, or any other error that newer metadata will explain.
    Stale,
    /// No answer, or one that says nothing of the proposal: NOT_CONTROLLER, a lost connection, a deadline.
    Unknown,
}

/// What the driver has to do for a leader.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaderEffects {
    /// The high watermark has moved: release acknowledgements up to it, wake readers, tell the followers.
    pub high_watermark_moved: bool,
    /// To be sent to the controller; until it is settled, [`Leader::pending_alter_partition`] gives it again.
    pub alter_partition: Option<AlterPartition>,
    /// The committed set has become too small: appends with acks=all that wait above the high watermark are
    /// answered with NOT_ENOUGH_REPLICAS_AFTER_APPEND.
    pub not_enough_replicas: bool,
}

/// NOT_ENOUGH_REPLICAS: too few replicas are in sync for acks=all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotEnoughReplicas {
    /// How many are.
    pub in_sync: u32,
    /// How many there must be.
    pub required: u32,
}

impl fmt::Display for NotEnoughReplicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} replica(s) are in sync and min.insync.replicas asks for {}",
            self.in_sync, self.required
        )
    }
}

impl std::error::Error for NotEnoughReplicas {}

/// Why what a follower says is not taken note of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FollowerError {
    /// It follows another leader epoch.
    Epoch(EpochCheckError),
    /// The metadata, as this broker knows them, have no such replica.
    UnknownReplica {
        /// Who it says it is.
        node: NodeId,
    },
    /// The metadata, as this broker knows them, have another process of this broker (KIP-903).
    OtherIncarnation {
        /// Who it says it is.
        node: NodeId,
    },
    /// It has more than the leader: it cannot have followed this epoch.
    BeyondEnd {
        /// What it says its end is.
        end: Offset,
        /// The leader's end.
        log_end_offset: Offset,
    },
}

impl fmt::Display for FollowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epoch(error) => error.fmt(f),
            Self::UnknownReplica { node } => write!(f, "broker {node} is no replica of the partition"),
            Self::OtherIncarnation { node } => {
                write!(f, "another process is registered as broker {node}; this one is old, or very new")
            }
            Self::BeyondEnd { end, log_end_offset } => {
                write!(f, "the follower's log ends at {end}, the leader's at {log_end_offset}")
            }
        }
    }
}

impl std::error::Error for FollowerError {}

/// After how long what was pushed is pushed again, though no link was lost, if the follower's end stays where it was. No
/// link takes as long as that over a frame.
const PUSHED_AGAIN_AFTER_NS: u64 = 15_000_000_000;

/// One follower, as its leader knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    node: NodeId,
    incarnation: Uuid,
    is_active: bool,
    /// Its ends, once it has told them in this epoch and incarnation.
    ends: Option<(Offset, Offset)>,
    /// Where its log starts, as it has told in this epoch and incarnation.
    log_start: Offset,
    /// From where records are pushed; none before it has matched its log with the leader's.
    next_push: Option<Offset>,
    caught_up_at: Option<MonotonicNs>,
    /// The leader's end when the follower told its ends last, and when that was.
    last_heard: (Offset, MonotonicNs),
    /// The end of the follower's log, and since when it was told unchanged while more was pushed.
    stands: (Offset, MonotonicNs),
}

impl Known {
    fn new(broker: &ReplicaBroker, caught_up_at: Option<MonotonicNs>) -> Self {
        Self {
            node: broker.node,
            incarnation: broker.incarnation,
            is_active: broker.is_active,
            ends: None,
            log_start: Offset(-1),
            next_push: None,
            caught_up_at,
            last_heard: (Offset(i64::MAX), MonotonicNs(0)),
            stands: (Offset(-1), MonotonicNs(0)),
        }
    }

    /// Takes note of the end of the follower's log. True if what was pushed must have got lost.
    fn stands_at(&mut self, log_end: Offset, now: MonotonicNs) -> bool {
        let lacks_nothing = self.next_push.is_none_or(|pushed| pushed <= log_end);
        if lacks_nothing || self.stands.0 != log_end {
            self.stands = (log_end, now);
        }
        let is_lost = now.since(self.stands.1) >= PUSHED_AGAIN_AFTER_NS;
        if is_lost {
            self.stands.1 = now;
        }
        is_lost
    }

    fn counted(&self, write_caching: bool) -> Option<Offset> {
        self.ends.map(|(written, durable)| if write_caching { written } else { durable })
    }
}

/// The replicas of a partition that has more than one, as its leader knows them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Replicas {
    local: (NodeId, Uuid),
    policy: ReplicationPolicy,
    /// Where the leader's epoch began: a replica that has less may lack what was committed before.
    epoch_start: Offset,
    partition_epoch: i32,
    committed: Vec<NodeId>,
    has_eligible: bool,
    /// Everybody who was in a proposal since the committed set was.
    proposed: Vec<NodeId>,
    pending: Option<AlterPartition>,
    followers: Vec<Known>,
}

impl Replicas {
    fn is_in_maximal(&self, node: NodeId) -> bool {
        self.committed.contains(&node) || self.proposed.contains(&node)
    }

    /// The least end over the maximal set; `None` if one of them has not told its end, or too few are in sync.
    pub(super) fn least_end(&self, local_end: Offset) -> Option<Offset> {
        if self.has_eligible || self.committed.len() < self.required() {
            return None;
        }
        let mut least = local_end;
        for node in self.committed.iter().chain(&self.proposed).filter(|&&node| node != self.local.0) {
            let follower = self.followers.iter().find(|follower| follower.node == *node)?;
            least = least.min(follower.counted(self.policy.write_caching)?);
        }
        Some(least)
    }

    fn required(&self) -> usize {
        (self.policy.min_in_sync as usize).min(self.followers.len() + 1)
    }

    fn propose(
        &mut self,
        leader_epoch: LeaderEpoch,
        in_sync: impl Iterator<Item = NodeId>,
    ) -> AlterPartition {
        let in_sync: Vec<(NodeId, Uuid)> =
            in_sync.filter_map(|node| Some((node, self.incarnation(node)?))).collect();
        for (node, _) in &in_sync {
            if !self.proposed.contains(node) {
                self.proposed.push(*node);
            }
        }
        let proposal = AlterPartition { leader_epoch, partition_epoch: self.partition_epoch, in_sync };
        self.pending = Some(proposal.clone());
        proposal
    }

    fn incarnation(&self, node: NodeId) -> Option<Uuid> {
        if node == self.local.0 {
            return Some(self.local.1);
        }
        self.followers.iter().find(|follower| follower.node == node).map(|follower| follower.incarnation)
    }

    fn commit(&mut self, partition_epoch: i32, in_sync: &[NodeId], has_eligible: bool) {
        self.partition_epoch = partition_epoch;
        self.has_eligible = has_eligible;
        self.committed = in_sync.to_vec();
        self.proposed.clear();
        self.pending = None;
    }

    fn update(&mut self, assignment: &ReplicaAssignment) {
        for broker in assignment.replicas.iter().filter(|broker| broker.node != self.local.0) {
            match self.followers.iter_mut().find(|follower| follower.node == broker.node) {
                None => self.followers.push(Known::new(broker, None)),
                Some(follower) if follower.incarnation != broker.incarnation => {
                    *follower = Known::new(broker, follower.caught_up_at);
                }
                Some(follower) => follower.is_active = broker.is_active,
            }
        }
        if assignment.partition_epoch > self.partition_epoch {
            self.commit(assignment.partition_epoch, &assignment.in_sync, assignment.has_eligible);
        }
        let is_replica = |node| assignment.replicas.iter().any(|broker| broker.node == node);
        self.followers.retain(|follower| is_replica(follower.node));
    }
}

impl Leader {
    /// Begins to lead the partition in the epoch of `assignment`. With one replica this is [`Leader::begin_epoch`].
    /// `local` is this broker and its incarnation.
    ///
    /// # Errors
    /// [`StaleEpoch`], if the log has seen this epoch or a later one.
    pub(super) fn lead(
        &mut self,
        local: (NodeId, Uuid),
        assignment: &ReplicaAssignment,
        policy: ReplicationPolicy,
        now: MonotonicNs,
    ) -> Result<LeaderEffects, StaleEpoch> {
        self.begin_epoch(assignment.leader_epoch)?;
        self.replicas = None;
        if assignment.replicas.len() > 1 {
            self.attach(local, assignment, policy, now);
        }
        Ok(self.effects_of_move(false))
    }

    fn attach(
        &mut self,
        local: (NodeId, Uuid),
        assignment: &ReplicaAssignment,
        policy: ReplicationPolicy,
        now: MonotonicNs,
    ) {
        let others = assignment.replicas.iter().filter(|broker| broker.node != local.0);
        let known = |broker: &ReplicaBroker| {
            Known::new(broker, assignment.in_sync.contains(&broker.node).then_some(now))
        };
        self.replicas = Some(Box::new(Replicas {
            local,
            policy,
            epoch_start: self.epochs.latest().map_or(self.next_offset, |latest| latest.start_offset),
            partition_epoch: assignment.partition_epoch,
            committed: assignment.in_sync.clone(),
            has_eligible: assignment.has_eligible,
            proposed: Vec::new(),
            pending: None,
            followers: others.map(known).collect(),
        }));
    }

    /// Takes over newer metadata of the partition in the same leader epoch; of another epoch it changes nothing.
    pub fn update_replicas(
        &mut self,
        local: (NodeId, Uuid),
        assignment: &ReplicaAssignment,
        policy: ReplicationPolicy,
        now: MonotonicNs,
    ) -> LeaderEffects {
        if assignment.leader_epoch != self.leader_epoch {
            return LeaderEffects::default();
        }
        let was_enough = self.check_in_sync().is_ok();
        match &mut self.replicas {
            Some(replicas) => {
                replicas.policy = policy;
                replicas.update(assignment);
            }
            None if assignment.replicas.len() > 1 => self.attach(local, assignment, policy, now),
            None => {}
        }
        self.effects_of_move(was_enough)
    }

    /// Takes note of how far a follower has come.
    ///
    /// # Errors
    /// [`FollowerError`]; then nothing has changed.
    pub fn on_follower_ends(
        &mut self,
        follower: (NodeId, Uuid),
        leader_epoch: LeaderEpoch,
        ends: FollowerEnds,
        now: MonotonicNs,
    ) -> Result<LeaderEffects, FollowerError> {
        self.check_epoch(leader_epoch).map_err(FollowerError::Epoch)?;
        let (log_end_offset, next) = (self.next_offset, ends.log_end);
        let known = self.known_mut(follower)?;
        let end = ends.log_end.max(ends.written).max(ends.durable);
        if end > log_end_offset {
            return Err(FollowerError::BeyondEnd { end, log_end_offset });
        }
        let is_lost = known.stands_at(next, now);
        if ends.rewind || is_lost || known.next_push.is_none_or(|pushed| pushed < next) {
            known.next_push = Some(next);
        }
        // Answers may overtake one another, but in one epoch and incarnation no end goes back.
        let (written, durable) = known.ends.unwrap_or((Offset(-1), Offset(-1)));
        known.ends = Some((written.max(ends.written), durable.max(ends.durable)));
        known.log_start = known.log_start.max(ends.log_start);
        let heard_before = known.last_heard;
        known.last_heard = (log_end_offset, now);
        let write_caching = self.replicas.as_ref().is_some_and(|replicas| replicas.policy.write_caching);
        let known = self.known_mut(follower)?;
        let counted = known.counted(write_caching).unwrap_or(Offset(-1));
        if counted >= log_end_offset {
            known.caught_up_at = Some(now);
        } else if counted >= heard_before.0 {
            known.caught_up_at = known.caught_up_at.max(Some(heard_before.1));
        }
        let mut effects = self.effects_of_move(false);
        effects.alter_partition = self.expand_in_sync();
        Ok(effects)
    }

    /// Before which offset no record is left on this broker and on the active followers that are in sync; what has been
    /// deleted up to there cannot come back with another leader (KIP-107).
    #[must_use]
    pub fn low_watermark(&self) -> Offset {
        let Some(replicas) = &self.replicas else { return self.log_start_offset };
        let counts = |follower: &&Known| follower.is_active && replicas.committed.contains(&follower.node);
        let starts = replicas.followers.iter().filter(counts).map(|follower| follower.log_start);
        starts.fold(self.log_start_offset, Offset::min)
    }

    fn known_mut(&mut self, (node, incarnation): (NodeId, Uuid)) -> Result<&mut Known, FollowerError> {
        let followers = self.replicas.as_mut().map(|replicas| replicas.followers.iter_mut());
        let known = followers.and_then(|mut followers| followers.find(|follower| follower.node == node));
        let known = known.ok_or(FollowerError::UnknownReplica { node })?;
        if known.incarnation != incarnation {
            return Err(FollowerError::OtherIncarnation { node });
        }
        Ok(known)
    }

    /// Proposes to add everybody who has what was committed: the high watermark, and everything that was there when
    /// the epoch began, for an earlier leader may have committed it.
    fn expand_in_sync(&mut self) -> Option<AlterPartition> {
        let (high_watermark, leader_epoch) = (self.high_watermark, self.leader_epoch);
        let replicas = self.replicas.as_mut().filter(|replicas| replicas.pending.is_none())?;
        let least = high_watermark.max(replicas.epoch_start);
        let joins = |follower: &&Known| {
            let counted = follower.counted(replicas.policy.write_caching);
            follower.is_active
                && !replicas.committed.contains(&follower.node)
                && counted.is_some_and(|end| end >= least)
        };
        let joining: Vec<NodeId> =
            replicas.followers.iter().filter(joins).map(|follower| follower.node).collect();
        if joining.is_empty() {
            return None;
        }
        let in_sync = replicas.committed.clone();
        Some(replicas.propose(leader_epoch, in_sync.into_iter().chain(joining)))
    }

    /// Proposes to remove who was not caught up for `replica.lag.time.max.ms`. To be called now and then.
    pub fn shrink_in_sync(&mut self, now: MonotonicNs) -> LeaderEffects {
        let (next_offset, leader_epoch) = (self.next_offset, self.leader_epoch);
        let Some(replicas) = self.replicas.as_mut().filter(|replicas| replicas.pending.is_none()) else {
            return LeaderEffects::default();
        };
        let lag_max_ns = replicas.policy.lag_max_ms.saturating_mul(1_000_000);
        let lags = |follower: &Known| {
            let is_at_end = follower.counted(replicas.policy.write_caching) >= Some(next_offset);
            let is_recent = follower.caught_up_at.is_some_and(|time| now.since(time) <= lag_max_ns);
            !is_at_end && !is_recent
        };
        let lagging: Vec<NodeId> = replicas
            .followers
            .iter()
            .filter(|follower| lags(follower))
            .map(|follower| follower.node)
            .collect();
        let stay = |node: &NodeId| !lagging.contains(node);
        if replicas.committed.iter().all(stay) {
            return LeaderEffects::default();
        }
        let in_sync: Vec<NodeId> = replicas.committed.iter().copied().filter(stay).collect();
        let alter_partition = Some(replicas.propose(leader_epoch, in_sync.into_iter()));
        LeaderEffects { alter_partition, ..LeaderEffects::default() }
    }

    /// Takes note of what became of a proposal; `proposal` is the one that was sent.
    pub fn on_alter_partition(
        &mut self,
        proposal: &AlterPartition,
        outcome: &AlterPartitionOutcome,
    ) -> LeaderEffects {
        let (was_enough, leader_epoch) = (self.check_in_sync().is_ok(), self.leader_epoch);
        let Some(replicas) = &mut self.replicas else { return LeaderEffects::default() };
        if proposal.leader_epoch != leader_epoch {
            return LeaderEffects::default();
        }
        let mut again = None;
        match outcome {
            AlterPartitionOutcome::Accepted { partition_epoch, in_sync, has_eligible }
                if *partition_epoch > replicas.partition_epoch =>
            {
                replicas.commit(*partition_epoch, in_sync, *has_eligible);
            }
            AlterPartitionOutcome::Ineligible if replicas.pending.as_ref() == Some(proposal) => {
                // A copy of the request may still be under way, and be found eligible when it arrives. With the
                // next partition epoch it is void.
                let committed = replicas.committed.clone();
                again = Some(replicas.propose(leader_epoch, committed.into_iter()));
            }
            AlterPartitionOutcome::Unknown => again = replicas.pending.clone(),
            _ => {}
        }
        let mut effects = self.effects_of_move(was_enough);
        effects.alter_partition = again;
        effects
    }

    /// The proposal that is not settled.
    #[must_use]
    pub fn pending_alter_partition(&self) -> Option<&AlterPartition> {
        self.replicas.as_ref()?.pending.as_ref()
    }

    /// The committed in-sync set; `None` if there is but one replica.
    #[must_use]
    pub fn in_sync(&self) -> Option<&[NodeId]> {
        self.replicas.as_ref().map(|replicas| replicas.committed.as_slice())
    }

    /// Whether a replica counts for the high watermark: it is in the committed set, or was proposed.
    #[must_use]
    pub fn is_in_maximal_set(&self, node: NodeId) -> bool {
        self.replicas.as_ref().is_none_or(|replicas| replicas.is_in_maximal(node))
    }

    /// Whether enough replicas are in sync for acks=all: to be asked before an append, for NOT_ENOUGH_REPLICAS, and
    /// when the high watermark has passed its end, for NOT_ENOUGH_REPLICAS_AFTER_APPEND.
    ///
    /// # Errors
    /// [`NotEnoughReplicas`].
    pub fn check_in_sync(&self) -> Result<(), NotEnoughReplicas> {
        let Some(replicas) = &self.replicas else { return Ok(()) };
        let (in_sync, required) = (replicas.committed.len(), replicas.required());
        if in_sync >= required {
            return Ok(());
        }
        Err(NotEnoughReplicas { in_sync: in_sync as u32, required: required as u32 })
    }

    /// Whether the high watermark is that of this leader's epoch. Before, an earlier leader may have told clients a
    /// higher one, and ListOffsets is answered with OFFSET_NOT_AVAILABLE (KIP-207).
    #[must_use]
    pub fn is_high_watermark_current(&self) -> bool {
        self.replicas.as_ref().is_none_or(|replicas| self.high_watermark >= replicas.epoch_start)
    }

    /// Where the log of a follower that ends in `requested` ends here, for it to truncate by.
    ///
    /// # Errors
    /// [`FollowerError`].
    pub fn on_divergence_query(
        &mut self,
        follower: (NodeId, Uuid),
        leader_epoch: LeaderEpoch,
        requested: LeaderEpoch,
    ) -> Result<EpochEnd, FollowerError> {
        self.check_epoch(leader_epoch).map_err(FollowerError::Epoch)?;
        self.known_mut(follower)?.next_push = None;
        Ok(self.epochs.end_offset_for(requested, self.next_offset))
    }

    /// From where records are pushed to a follower; `None` before it has told its ends.
    #[must_use]
    pub fn next_push(&self, node: NodeId) -> Option<Offset> {
        let followers = &self.replicas.as_ref()?.followers;
        followers.iter().find(|follower| follower.node == node)?.next_push
    }

    /// Takes note that everything before `end` was handed to the link to a follower.
    pub fn on_pushed(&mut self, node: NodeId, end: Offset) {
        let followers = self.replicas.as_mut().map(|replicas| replicas.followers.iter_mut());
        if let Some(known) =
            followers.and_then(|mut followers| followers.find(|follower| follower.node == node))
        {
            known.next_push = known.next_push.map(|next| next.max(end));
        }
    }

    /// Takes note that the link to a follower was lost, and with it maybe what was on its way: the next push begins where
    /// the follower has said that it is, or waits until it says so.
    pub fn on_link_lost(&mut self, node: NodeId) {
        let followers = self.replicas.as_mut().map(|replicas| replicas.followers.iter_mut());
        if let Some(known) =
            followers.and_then(|mut followers| followers.find(|follower| follower.node == node))
        {
            known.next_push = known.next_push.and(known.ends.map(|(written, _)| written));
        }
    }

    /// The followers, whether in sync or not; none if there is but one replica.
    pub fn followers(&self) -> impl Iterator<Item = NodeId> + '_ {
        let followers = self.replicas.iter().flat_map(|replicas| &replicas.followers);
        followers.map(|follower| follower.node)
    }

    /// The end over the maximal set that the high watermark may rise to.
    #[inline]
    pub(super) fn least_in_sync_end(&self) -> Offset {
        match &self.replicas {
            None => self.durable_end,
            Some(replicas) => replicas.least_end(self.durable_end).unwrap_or(self.high_watermark),
        }
    }

    fn effects_of_move(&mut self, was_enough: bool) -> LeaderEffects {
        let high_watermark_moved = self.raise_high_watermark();
        let not_enough_replicas = was_enough && self.check_in_sync().is_err();
        LeaderEffects { high_watermark_moved, alter_partition: None, not_enough_replicas }
    }
}
