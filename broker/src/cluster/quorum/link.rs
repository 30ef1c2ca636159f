//! What the quorum needs of a network.

use bytes::Bytes;
use logmill_wire::ids::NodeId;
use std::future::Future;

/// Carries frames between the nodes of a quorum. Frames may be lost, doubled, and come late or in another order, and a
/// link may refuse what it has no room for: Raft says again what matters. Frames are whole, and begin with a
/// [`QuorumHeader`](logmill_wire::frame::quorum::QuorumHeader).
pub trait QuorumLink: 'static {
    /// Sends without waiting.
    fn send(&self, to: NodeId, frame: Bytes);

    /// The next frame that has come from any node.
    fn receive(&self) -> impl Future<Output = Bytes> + 'static;
}
