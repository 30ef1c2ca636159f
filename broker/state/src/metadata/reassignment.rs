//! AlterPartitionReassignments: a partition moves to other replicas (KIP-455).
//!
//! | | replicas | adding | removing |
//! |---|---|---|---|
//! | begun | the new ones, then the old ones that leave | new, not old | old, not new |
//! | complete, once all new ones are in sync | the new ones | – | – |
//! | taken back | the old ones | – | – |

use std::fmt;

use logmill_wire::ids::{NodeId, PartitionIndex, TopicPartition};

use super::image::{Image, Topic};
use super::leadership::{ControllerContext, PartitionPlan};
use super::partition_state::Partition;

/// Why a partition is not reassigned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReassignError {
    /// UNKNOWN_TOPIC_OR_PARTITION.
    UnknownPartition,
    /// NO_REASSIGNMENT_IN_PROGRESS.
    NotInProgress,
    /// INVALID_REPLICA_ASSIGNMENT.
    InvalidAssignment(String),
    /// INVALID_REPLICATION_FACTOR: the request does not allow another one (KIP-860).
    FactorChange {
        /// The replicas that the partition has, or will have.
        from: usize,
        /// The replicas that are asked for.
        to: usize,
    },
}

impl fmt::Display for ReassignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPartition => f.write_str("there is no such partition"),
            Self::NotInProgress => f.write_str("the partition is not being reassigned"),
            Self::InvalidAssignment(message) => f.write_str(message),
            Self::FactorChange { from, to } => {
                write!(f, "The replication factor is changed from {from} to {to}")
            }
        }
    }
}

impl std::error::Error for ReassignError {}

/// What an AlterPartitionReassignments request does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReassignPlan {
    /// What changes.
    pub plan: PartitionPlan,
    /// One for each partition, in their order.
    pub results: Vec<Result<(), ReassignError>>,
}

impl Image {
    /// Decides on reassignments: each partition with its new replicas, the preferred leader first, or with `None` to
    /// take a reassignment back. Without `allow_factor_change` a partition keeps the number of its replicas.
    #[must_use]
    pub fn decide_reassign(
        &self,
        partitions: &[(TopicPartition, Option<Vec<NodeId>>)],
        allow_factor_change: bool,
        context: &ControllerContext<'_>,
    ) -> ReassignPlan {
        let mut decided = ReassignPlan::default();
        for (at, (partition, wanted)) in partitions.iter().enumerate() {
            let repeated = partitions.iter().take(at).any(|(other, _)| other == partition);
            let result = match wanted {
                _ if repeated => {
                    Err(ReassignError::InvalidAssignment("The request has this partition twice.".to_owned()))
                }
                Some(replicas) => {
                    match self.factor_change(*partition, replicas).filter(|_| !allow_factor_change) {
                        Some(error) => Err(error),
                        None => self.reassign(*partition, replicas, context, &mut decided.plan),
                    }
                }
                None => self.take_back(*partition, context, &mut decided.plan),
            };
            decided.results.push(result);
        }
        decided
    }

    fn factor_change(&self, partition: TopicPartition, wanted: &[NodeId]) -> Option<ReassignError> {
        let (_, current) = self.located(partition)?;
        let (from, to) = (current.replicas.len() - current.removing.len(), wanted.len());
        (from != to).then_some(ReassignError::FactorChange { from, to })
    }

    fn reassign(
        &self,
        partition: TopicPartition,
        wanted: &[NodeId],
        context: &ControllerContext<'_>,
        plan: &mut PartitionPlan,
    ) -> Result<(), ReassignError> {
        let invalid = |message: String| Err(ReassignError::InvalidAssignment(message));
        let (topic, current) = self.located(partition).ok_or(ReassignError::UnknownPartition)?;
        if wanted.is_empty() {
            return invalid("The new list of replicas is empty.".to_owned());
        }
        if let Some(unknown) = wanted.iter().find(|&&node| self.broker(node).is_none()) {
            return invalid(format!("Broker {unknown} is not registered."));
        }
        if wanted.iter().enumerate().any(|(at, node)| wanted[..at].contains(node)) {
            return invalid("The new list of replicas has a broker more than once.".to_owned());
        }
        self.begin_reassignment(topic, (partition.partition, &current), wanted, context, plan);
        Ok(())
    }

    /// Has a partition begin to move to other replicas, all of them different. Those that it has already need not be
    /// registered any more.
    pub(super) fn begin_reassignment(
        &self,
        topic: &Topic,
        (partition, current): (PartitionIndex, &Partition<'_>),
        wanted: &[NodeId],
        context: &ControllerContext<'_>,
        plan: &mut PartitionPlan,
    ) {
        // A reassignment that is under way is given up for this one, from the replicas that it began with.
        let old: Vec<NodeId> =
            current.replicas.iter().copied().filter(|node| !current.adding.contains(node)).collect();
        let adding: Vec<NodeId> = wanted.iter().copied().filter(|node| !old.contains(node)).collect();
        let removing: Vec<NodeId> = old.iter().copied().filter(|node| !wanted.contains(node)).collect();
        self.change_partition(topic, partition, context, false, plan, |target| {
            let state = &mut target.state;
            state.replicas = wanted.iter().chain(&removing).copied().collect();
            state.in_sync.retain(|node| state.replicas.contains(node));
            state.eligible.retain(|node| state.replicas.contains(node));
            (state.adding, state.removing) = (adding, removing);
        });
    }

    fn take_back(
        &self,
        partition: TopicPartition,
        context: &ControllerContext<'_>,
        plan: &mut PartitionPlan,
    ) -> Result<(), ReassignError> {
        let (topic, current) = self.located(partition).ok_or(ReassignError::UnknownPartition)?;
        if current.adding.is_empty() && current.removing.is_empty() {
            return Err(ReassignError::NotInProgress);
        }
        let stays = |node: &NodeId| !current.adding.contains(node);
        if !current.in_sync.iter().chain(current.eligible).any(stays) {
            let message = "None of the old replicas has all records; the reassignment cannot be taken back.";
            return Err(ReassignError::InvalidAssignment(message.to_owned()));
        }
        self.change_partition(topic, partition.partition, context, false, plan, |target| {
            let state = &mut target.state;
            state.replicas.retain(stays);
            state.in_sync.retain(stays);
            state.eligible.retain(stays);
            state.adding.clear();
            state.removing.clear();
        });
        Ok(())
    }
}
