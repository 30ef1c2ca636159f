//! What the cluster knows, and how it changes: every change is a record of the metadata log, decided and
//! committed on the control shard and applied to one image that all shards share.

pub mod command;
