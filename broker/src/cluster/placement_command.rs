//! What shards ask of the control shard about leaders and replicas of partitions, and about brokers.

use super::command::MetadataError;
use crate::runtime::oneshot;
use logmill_state::metadata::{BrokerError, ElectLeaderError, ElectionType, ReassignError};
use logmill_wire::ids::{NodeId, TopicPartition};

/// A partition and its new replicas; `None` takes a reassignment back.
pub type Reassignment = (TopicPartition, Option<Vec<NodeId>>);

/// What was to be done with partitions, or why nothing was.
pub type Elections = Result<Vec<(TopicPartition, Result<(), ElectLeaderError>)>, MetadataError>;

/// One change of where partitions lie and who leads them. The answer comes when it is committed and applied on every
/// shard of this broker.
pub enum PlacementCommand {
    /// Elect leaders.
    ElectLeaders {
        /// Of which partitions; `None` for all that need it.
        partitions: Option<Vec<TopicPartition>>,
        /// Which.
        election: ElectionType,
        /// The way back.
        reply: oneshot::Sender<Elections>,
    },
    /// Move partitions to other brokers.
    Reassign {
        /// Which, and where to.
        partitions: Vec<Reassignment>,
        /// Whether partitions may get another number of replicas.
        allow_factor_change: bool,
        /// The way back; one result for each partition.
        reply: oneshot::Sender<Result<Vec<Result<(), ReassignError>>, MetadataError>>,
    },
    /// Forget a broker.
    UnregisterBroker {
        /// Which.
        broker: NodeId,
        /// The way back; the inner error is that of the decision.
        reply: oneshot::Sender<Result<Result<(), BrokerError>, MetadataError>>,
    },
}

impl PlacementCommand {
    /// Answers without having done anything.
    pub fn refuse(self, error: MetadataError) {
        match self {
            Self::ElectLeaders { reply, .. } => reply.send(Err(error)),
            Self::Reassign { reply, .. } => reply.send(Err(error)),
            Self::UnregisterBroker { reply, .. } => reply.send(Err(error)),
        }
    }
}
