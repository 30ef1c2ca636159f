//! AlterPartition: a leader proposes another in-sync set (KIP-497, KIP-841, KIP-903).

use std::fmt;

use logmill_wire::ids::{LeaderEpoch, NodeId, TopicPartition, Uuid};

use super::broker_lifecycle::BrokerError;
use super::image::Image;
use super::leadership::{ControllerContext, PartitionPlan};
use super::partition_state::PartitionState;

/// One partition of an AlterPartition request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InSyncProposal {
    /// The partition.
    pub partition: TopicPartition,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that the proposal goes out from.
    pub partition_epoch: i32,
    /// The set, each member with the incarnation that the leader heard from.
    pub in_sync: Vec<(NodeId, Uuid)>,
}

/// Why a proposal is refused. The epochs are looked at first, so that INELIGIBLE_REPLICA says that nothing has changed
/// since the leader knew the partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InSyncError {
    /// UNKNOWN_TOPIC_ID or UNKNOWN_TOPIC_OR_PARTITION.
    UnknownPartition,
    /// FENCED_LEADER_EPOCH.
    FencedLeaderEpoch,
    /// INVALID_UPDATE_VERSION.
    InvalidUpdateVersion,
    /// NOT_CONTROLLER: the proposal knows more than this controller.
    NewerThanThis,
    /// INVALID_REQUEST: the sender does not lead, or the set is no set of replicas with the leader in it.
    InvalidRequest,
    /// INELIGIBLE_REPLICA: a member is fenced, shuts down, has another incarnation, or a log directory that does not work.
    Ineligible {
        /// The member.
        node: NodeId,
    },
}

impl fmt::Display for InSyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPartition => f.write_str("there is no such partition"),
            Self::FencedLeaderEpoch => f.write_str("the leader epoch is over"),
            Self::InvalidUpdateVersion => {
                f.write_str("the partition has changed since; wait for the metadata")
            }
            Self::NewerThanThis => {
                f.write_str("the proposal is newer than this controller's metadata; try again")
            }
            Self::InvalidRequest => {
                f.write_str("the sender does not lead, or the set is not one of its replicas")
            }
            Self::Ineligible { node } => {
                write!(f, "broker {node} is fenced, shuts down, was restarted, or lost the log directory")
            }
        }
    }
}

impl std::error::Error for InSyncError {}

/// What an AlterPartition request does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AlterPartitionPlan {
    /// What changes.
    pub plan: PartitionPlan,
    /// One for each proposal, in their order: the state from then on.
    pub results: Vec<Result<PartitionState, InSyncError>>,
}

impl Image {
    /// Decides on a leader's proposals. A proposal that is taken always raises the partition epoch, even if the set is
    /// the same, so that no other one from the same epoch can be.
    ///
    /// # Errors
    /// [`BrokerError`], if the sender is not the registered incarnation.
    pub fn decide_alter_partition(
        &self,
        sender: (NodeId, Uuid),
        proposals: &[InSyncProposal],
        context: &ControllerContext<'_>,
    ) -> Result<AlterPartitionPlan, BrokerError> {
        self.registered(sender.0, sender.1)?;
        let mut decided = AlterPartitionPlan::default();
        let mut seen: Vec<TopicPartition> = Vec::new();
        for proposal in proposals {
            let result = match self.check_proposal(sender.0, proposal) {
                Err(error) => Err(error),
                Ok(()) if seen.contains(&proposal.partition) => Err(InSyncError::InvalidRequest),
                Ok(()) => self.accept_proposal(proposal, context, &mut decided.plan),
            };
            seen.push(proposal.partition);
            decided.results.push(result);
        }
        Ok(decided)
    }

    fn accept_proposal(
        &self,
        proposal: &InSyncProposal,
        context: &ControllerContext<'_>,
        plan: &mut PartitionPlan,
    ) -> Result<PartitionState, InSyncError> {
        let partition = proposal.partition;
        let topic = self.topic_by_id(partition.topic_id).ok_or(InSyncError::UnknownPartition)?;
        let in_sync = proposal.in_sync.iter().map(|&(node, _)| node).collect();
        self.change_partition(topic, partition.partition, context, true, plan, |target| {
            target.state.in_sync = in_sync
        })
        .ok_or(InSyncError::UnknownPartition)
    }

    fn check_proposal(&self, sender: NodeId, proposal: &InSyncProposal) -> Result<(), InSyncError> {
        let (_, current) = self.located(proposal.partition).ok_or(InSyncError::UnknownPartition)?;
        if proposal.leader_epoch < current.leader_epoch {
            return Err(InSyncError::FencedLeaderEpoch);
        }
        if proposal.leader_epoch > current.leader_epoch || proposal.partition_epoch > current.partition_epoch
        {
            return Err(InSyncError::NewerThanThis);
        }
        if sender != current.leader {
            return Err(InSyncError::InvalidRequest);
        }
        if proposal.partition_epoch < current.partition_epoch {
            return Err(InSyncError::InvalidUpdateVersion);
        }
        let members = &proposal.in_sync;
        let is_set = members
            .iter()
            .enumerate()
            .all(|(at, member)| !members[..at].iter().any(|other| other.0 == member.0));
        let are_replicas = members.iter().all(|(node, _)| current.replicas.contains(node));
        if !is_set || !are_replicas || !members.iter().any(|(node, _)| *node == sender) {
            return Err(InSyncError::InvalidRequest);
        }
        let is_eligible = |&&(node, incarnation): &&(NodeId, Uuid)| {
            self.broker(node).is_some_and(|broker| broker.incarnation == incarnation)
                && self.may_serve(node, proposal.partition)
        };
        // The leader of a partition that nobody else can lead stays in its set while it shuts down.
        let mut others = members.iter().filter(|(node, _)| *node != sender);
        match others.find(|member| !is_eligible(member)) {
            Some(&(node, _)) => Err(InSyncError::Ineligible { node }),
            None => Ok(()),
        }
    }
}
