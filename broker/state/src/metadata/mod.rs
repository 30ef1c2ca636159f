//! What the cluster knows: brokers, topics, where partitions lie, which producer ids are given out.
//!
//! All of it is an [`Image`], and everything that changes it is a [`Record`] of the metadata log: a request is
//! decided against an image and gives records and a response; once the records are committed, every broker
//! applies them to its image. One image is shared by all shards of a broker, and a new one shares what did
//! not change with the one before.

mod alter_configs;
mod alter_partition;
mod balance;
mod balance_layout;
mod balance_replicas;
mod broker_lifecycle;
mod brokers;
mod create_partitions;
mod create_topics;
mod delete_topics;
mod elect_leaders;
mod found_logs;
mod image;
mod leadership;
mod liveness;
mod partition_state;
mod placement;
mod producer_ids;
mod reassignment;
mod record;
mod record_bytes;
mod replica_placer;
mod shared_map;
mod topic_name;

#[cfg(test)]
mod balance_tests;
#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod tests;

pub use alter_configs::{
    AlterConfigsContext, AlterConfigsError, AlterConfigsErrorKind, AlterConfigsPlan, ConfigEdit,
    ConfigOperation, ConfigResource, ResourceEdits,
};
pub use alter_partition::{AlterPartitionPlan, InSyncError, InSyncProposal};
pub use balance::{BALANCE_ELECTIONS_MAX, BalancePlan};
pub use balance_replicas::{BalanceHold, BalanceLimits, DRAINED, ReplicaBalance, ReplicaMove};
pub use broker_lifecycle::{BrokerError, BrokerStart, ShutdownPlan};
pub use brokers::{BrokerRegistration, RegisterBrokerError};
pub use create_partitions::{
    CreatePartitionsError, CreatePartitionsErrorKind, CreatePartitionsPlan, CreatePartitionsResult,
    MorePartitions,
};
pub use create_topics::{
    CLUSTER_METADATA_TOPIC, ConfigsCheck, CreateTopicError, CreateTopicErrorKind, CreateTopicResult,
    CreateTopicsContext, CreateTopicsPlan, CreatedTopic, NewTopic, PartitionAssignment,
};
pub use delete_topics::{DeleteTopicError, DeleteTopicResult, DeleteTopicsPlan, TopicSelector};
pub use elect_leaders::{ElectLeaderError, ElectLeadersPlan, ElectionType};
pub use found_logs::DirectoryLogs;
pub use image::{ApplyError, Broker, Image, Topic, TopicsMark};
pub use leadership::{ControllerContext, Elected, PartitionPlan};
pub use liveness::Liveness;
pub use partition_state::{NO_LEADER, Partition, PartitionState};
pub use placement::{Placement, PlacementRun};
pub use producer_ids::{PRODUCER_ID_BLOCK_SIZE, ProducerIdBlock, ProducerIdsError};
pub use reassignment::{ReassignError, ReassignPlan};
pub use record::{Endpoint, Record};
pub use record_bytes::RecordBytesError;
pub use shared_map::SharedMap;
pub use topic_name::{OFFSETS_TOPIC, TopicNameError, is_internal_topic, validate_topic_name};
