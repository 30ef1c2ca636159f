//! What the cluster knows, and how it changes: every change is a record of the metadata log, decided and
//! committed by the quorum and applied to one image that all shards share.

pub mod command;
mod controller;
pub mod links;
mod publisher;
pub mod quorum;

pub use controller::Controller;
pub use publisher::{Publish, Publisher};
