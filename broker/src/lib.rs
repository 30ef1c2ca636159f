//! Logmill: a Kafka-compatible, thread-per-core event-streaming broker for Linux.
//!
//! `ARCHITECTURE.md` beside this crate is the map; modules are declared from the top of the house down.

pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod coordinator;
pub mod journal;
pub mod log;
pub mod net;
pub mod node;
pub mod partition;
pub mod replication;
pub mod request;
pub mod runtime;
pub mod shard;
