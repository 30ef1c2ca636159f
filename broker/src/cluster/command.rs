//! What shards ask of the control shard.

use super::quorum::ProposeError;
use crate::runtime::oneshot;
use logmill_state::metadata::{
    AlterConfigsError, CreatePartitionsResult, CreateTopicResult, DeleteTopicResult, MorePartitions,
    NewTopic, ProducerIdBlock, ProducerIdsError, ResourceEdits, TopicSelector,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::NodeId;
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
    /// Reserve producer ids for this broker.
    AllocateProducerIds {
        /// The way back; the inner error is that of the decision.
        reply: oneshot::Sender<Result<Result<ProducerIdBlock, ProducerIdsError>, MetadataError>>,
    },
}

impl MetadataCommand {
    /// Answers without having done anything.
    pub fn refuse(self, error: MetadataError) {
        match self {
            Self::CreateTopics { reply, .. } => reply.send(Err(error)),
            Self::CreatePartitions { reply, .. } => reply.send(Err(error)),
            Self::AlterConfigs { reply, .. } => reply.send(Err(error)),
            Self::DeleteTopics { reply, .. } => reply.send(Err(error)),
            Self::AllocateProducerIds { reply } => reply.send(Err(error)),
        }
    }
}

/// Sends commands to the control shard. Cheap to clone.
#[derive(Clone)]
pub struct ClusterHandle(Rc<dyn Fn(MetadataCommand)>);

impl ClusterHandle {
    /// A handle that hands commands to `send`, which never waits.
    #[must_use]
    pub fn new(send: Rc<dyn Fn(MetadataCommand)>) -> Self {
        Self(send)
    }

    /// Sends.
    pub fn send(&self, command: MetadataCommand) {
        (self.0)(command);
    }
}
