//! What the control plane needs of a network: questions to a node, and their answers.

use super::links::{CallFailed, ControlLinks};
use crate::runtime::Runtime;
use bytes::Bytes;
use logmill_wire::ids::NodeId;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// The operation of all calls of the control plane; what they ask stands in the payload
/// ([`logmill_wire::frame::control`]).
pub const CONTROL_CALL: u16 = 1;

/// The answer of another node, some time later.
pub type Calling = Pin<Box<dyn Future<Output = Result<Bytes, CallFailed>>>>;

/// Asks other nodes. A call may be lost, arrive twice, and be answered late.
pub trait ControllerCalls: 'static {
    /// Asks a node; the future is ready at the deadline at the latest.
    fn call(&self, to: NodeId, operation: u16, payload: Bytes, deadline: Duration) -> Calling;

    /// Whether a connection to a node stands.
    fn is_connected(&self, node: NodeId) -> bool;

    /// How long nothing has come from a node, not even a ping; `None` if that is not known.
    fn silent_for(&self, node: NodeId) -> Option<Duration>;
}

impl<R: Runtime> ControllerCalls for ControlLinks<R> {
    fn call(&self, to: NodeId, operation: u16, payload: Bytes, deadline: Duration) -> Calling {
        let links = self.clone();
        Box::pin(async move { Self::call(&links, to, operation, payload, deadline).await })
    }

    fn is_connected(&self, node: NodeId) -> bool {
        Self::is_connected(self, node)
    }

    fn silent_for(&self, node: NodeId) -> Option<Duration> {
        Self::silent_for(self, node)
    }
}
