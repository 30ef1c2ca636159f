//! What shards ask of the control shard.

use crate::runtime::oneshot;
use logmill_state::metadata::{
    AlterConfigsError, CreatePartitionsResult, CreateTopicResult, DeleteTopicResult, MorePartitions,
    NewTopic, ProducerIdBlock, ProducerIdsError, ResourceEdits, TopicSelector,
};
use std::fmt;
use std::rc::Rc;

/// Why the cluster's metadata could not be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataError {
    /// The change could not be committed; the text says why. Whether it will be is unknown.
    NotCommitted(String),
    /// The broker is stopping.
    Stopping,
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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
