//! What the cluster knows, and how it changes: every change is a record of the metadata log, decided and
//! committed on the control shard and applied to one image that all shards share.

pub mod command;
mod controller;
mod metadata_log;

pub use controller::{Controller, Publish};
pub use metadata_log::{METADATA_PARTITION, MetadataLog, MetadataLogError};
