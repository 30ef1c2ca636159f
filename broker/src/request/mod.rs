//! Kafka's requests: one file per API, a router, and what they work with.

pub mod alter_configs;
pub mod api_versions;
pub mod call;
mod config_resources;
pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_topic_partitions;
pub mod fetch;
mod fetch_key;
mod fetch_read;
pub mod find_coordinator;
pub mod forwarding;
mod groups;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_config_resources;
pub mod list_groups;
pub mod list_offsets;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod producer_ids;
pub mod router;
pub mod services;
pub mod shard_state;
pub mod sync_group;
mod topics;
pub mod versions;

#[cfg(test)]
pub(crate) mod tests;
