//! What shards ask of the control shard.

use super::placement_command::PlacementCommand;
use super::quorum::ProposeError;
use super::quorum_command::QuorumCommand;
use crate::runtime::oneshot;
use bytes::Bytes;
use logmill_state::admission::authorizer::RequestContext;
use logmill_state::metadata::{
    AlterConfigsError, CreatePartitionsResult, CreateTopicErrorKind, CreateTopicResult, DeleteTopicResult,
    MorePartitions, NewTopic, ProducerIdBlock, ProducerIdsError, ResourceEdits, TopicSelector,
};
use logmill_state::partition::{AlterPartition, AlterPartitionOutcome};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, TopicPartition};
use std::fmt;
use std::rc::Rc;

/// Why the cluster's metadata could not be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataError {
    /// This node is not the active controller; the one that is, if it is known. Nothing was changed.
    NotController(Option<NodeId>),
    /// The change could not be committed; the text says why. Whether it will be is unknown.
    NotCommitted(String),
    /// The broker is stopping.
    Stopping,
}

impl MetadataError {
    /// Kafka's error.
    #[must_use]
    pub const fn error_code(&self) -> ErrorCode {
        match self {
            Self::NotController(_) => ErrorCode::NotController,
            Self::NotCommitted(_) | Self::Stopping => ErrorCode::RequestTimedOut,
        }
    }
}

impl From<ProposeError> for MetadataError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader(leader) => Self::NotController(leader),
            ProposeError::Refused(cause) | ProposeError::Unknown(cause) => Self::NotCommitted(cause),
        }
    }
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotController(Some(leader)) => write!(f, "node {leader} is the active controller"),
            Self::NotController(None) => f.write_str("the cluster has no active controller at the moment"),
            Self::NotCommitted(cause) => {
                write!(f, "the change of the metadata could not be committed: {cause}")
            }
            Self::Stopping => f.write_str("the broker is stopping"),
        }
    }
}

impl std::error::Error for MetadataError {}

/// A change of the metadata. The answer comes when it is committed and applied on every shard of this broker.
pub enum MetadataCommand {
    /// Create topics.
    CreateTopics {
        /// Which.
        topics: Vec<NewTopic>,
        /// Whether only to ask if it would work.
        validate_only: bool,
        /// The way back.
        reply: oneshot::Sender<Result<Vec<CreateTopicResult>, MetadataError>>,
    },
    /// Add partitions to topics.
    CreatePartitions {
        /// To which, and how many.
        topics: Vec<MorePartitions>,
        /// Whether only to ask if it would work.
        validate_only: bool,
        /// The way back.
        reply: oneshot::Sender<Result<Vec<CreatePartitionsResult>, MetadataError>>,
    },
    /// Alter configs.
    AlterConfigs {
        /// Of what, and how.
        resources: Vec<ResourceEdits>,
        /// Whether only to ask if it would work.
        validate_only: bool,
        /// The way back; one result for each resource.
        reply: oneshot::Sender<Result<Vec<Result<(), AlterConfigsError>>, MetadataError>>,
    },
    /// Delete topics.
    DeleteTopics {
        /// Which.
        selectors: Vec<TopicSelector>,
        /// The way back.
        reply: oneshot::Sender<Result<Vec<DeleteTopicResult>, MetadataError>>,
    },
    /// Change where partitions lie and who leads them.
    Placement(PlacementCommand),
    /// Describe the quorum, or change its voters.
    Quorum(QuorumCommand),
    /// Reserve producer ids for this broker.
    AllocateProducerIds {
        /// The way back; the inner error is that of the decision.
        reply: oneshot::Sender<Result<Result<ProducerIdBlock, ProducerIdsError>, MetadataError>>,
    },
    /// Create topics that a request found missing and may create, on whichever node the active controller is.
    CreateMissingTopics {
        /// Which; where their partitions lie is for the controller to choose.
        topics: Vec<NewTopic>,
        /// The way back, when the topics are in the images of this broker.
        reply: oneshot::Sender<Result<Vec<Creation>, MetadataError>>,
    },
    /// A leader wants another in-sync set.
    AlterPartition {
        /// The partition.
        partition: TopicPartition,
        /// What its leader proposes.
        proposal: AlterPartition,
        /// The way back.
        reply: oneshot::Sender<AlterPartitionOutcome>,
    },
    /// Log directories of this broker do not work. It is said again until the metadata show it.
    ReplicasOffline {
        /// The replicas in them.
        partitions: Vec<TopicPartition>,
    },
    /// A client's request that only the active controller can answer (KIP-590).
    Forward {
        /// The request.
        request: Forwarded,
        /// The way back.
        reply: oneshot::Sender<Forwarding>,
    },
}

/// What became of a topic that was missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation {
    /// The topic.
    pub name: String,
    /// Why it was not created.
    pub refusal: Option<(ErrorCode, String)>,
}

/// The Kafka error of a topic that is not created.
#[must_use]
pub const fn creation_error_code(kind: CreateTopicErrorKind) -> ErrorCode {
    match kind {
        CreateTopicErrorKind::TopicAlreadyExists => ErrorCode::TopicAlreadyExists,
        CreateTopicErrorKind::InvalidTopic => ErrorCode::InvalidTopicException,
        CreateTopicErrorKind::InvalidPartitions => ErrorCode::InvalidPartitions,
        CreateTopicErrorKind::InvalidReplicationFactor => ErrorCode::InvalidReplicationFactor,
        CreateTopicErrorKind::InvalidReplicaAssignment => ErrorCode::InvalidReplicaAssignment,
        CreateTopicErrorKind::InvalidConfig => ErrorCode::InvalidConfig,
        CreateTopicErrorKind::InvalidRequest => ErrorCode::InvalidRequest,
    }
}

impl From<CreateTopicResult> for Creation {
    /// A topic that somebody else has created is created.
    fn from(created: CreateTopicResult) -> Self {
        let error = created.result.err();
        let error = error.filter(|error| error.kind != CreateTopicErrorKind::TopicAlreadyExists);
        let refusal = error.map(|error| (creation_error_code(error.kind), error.message));
        Self { name: created.name, refusal }
    }
}

/// A client's request on its way to where the active controller is.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// Whom the connection speaks for.
    pub context: RequestContext,
    /// Header and body, without the size before them.
    pub frame: Bytes,
}

/// What becomes of a request that the active controller is to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// This node is the active controller: its own handler answers.
    Here,
    /// The active controller has answered: the response with its size before it.
    Answered(Bytes),
    /// No controller could be reached in time; the request may have been carried out nevertheless.
    Failed,
}

impl MetadataCommand {
    /// Answers without having done anything.
    pub fn refuse(self, error: MetadataError) {
        match self {
            Self::CreateTopics { reply, .. } => reply.send(Err(error)),
            Self::CreatePartitions { reply, .. } => reply.send(Err(error)),
            Self::AlterConfigs { reply, .. } => reply.send(Err(error)),
            Self::DeleteTopics { reply, .. } => reply.send(Err(error)),
            Self::Placement(command) => command.refuse(error),
            Self::Quorum(command) => command.refuse(error),
            Self::AllocateProducerIds { reply } => reply.send(Err(error)),
            Self::CreateMissingTopics { reply, .. } => reply.send(Err(error)),
            Self::AlterPartition { reply, .. } => reply.send(AlterPartitionOutcome::Unknown),
            Self::ReplicasOffline { .. } => {}
            Self::Forward { reply, .. } => reply.send(Forwarding::Failed),
        }
    }
}

/// Sends commands to the control shard. Cheap to clone.
#[derive(Clone)]
pub struct ClusterHandle {
    send: Rc<dyn Fn(MetadataCommand)>,
    has_other_controllers: bool,
}

impl ClusterHandle {
    /// A handle that hands commands to `send`, which never waits. The active controller is on this node.
    #[must_use]
    pub fn new(send: Rc<dyn Fn(MetadataCommand)>) -> Self {
        Self { send, has_other_controllers: false }
    }

    /// The handle of a node in whose cluster other nodes may be the active controller.
    #[must_use]
    pub fn with_other_controllers(self) -> Self {
        Self { has_other_controllers: true, ..self }
    }

    /// Whether another node may be the active controller.
    #[must_use]
    pub const fn has_other_controllers(&self) -> bool {
        self.has_other_controllers
    }

    /// Sends.
    pub fn send(&self, command: MetadataCommand) {
        (self.send)(command);
    }
}
