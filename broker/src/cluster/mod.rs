//! What the cluster knows, and how it changes: every change is a record of the metadata log, decided and
//! committed by the quorum and applied to one image that all shards share.

mod broker_agent;
pub mod command;
mod control_messages;
mod control_plane;
mod controller;
mod controller_calls;
pub mod links;
mod membership_agent;
pub mod placement_command;
mod proposals;
mod publisher;
pub mod quorum;
pub mod quorum_command;
mod voters;

#[cfg(test)]
mod tests;

pub use broker_agent::{CONTROLLED_SHUTDOWN_MAX, Registered, StartError};
pub use control_plane::{CarryOut, ControlPlane};
pub use controller_calls::{CONTROL_CALL, Calling, ControllerCalls};
pub use publisher::{Publish, Publisher};
