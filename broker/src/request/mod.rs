//! Kafka's requests: one file per API, a router, and what they work with.

pub mod api_versions;
pub mod call;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_topic_partitions;
pub mod fetch;
mod fetch_key;
mod fetch_read;
pub mod find_coordinator;
pub mod init_producer_id;
pub mod list_offsets;
pub mod metadata;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod producer_ids;
pub mod router;
pub mod services;
pub mod shard_state;
mod topics;
pub mod versions;

#[cfg(test)]
pub(crate) mod tests;
