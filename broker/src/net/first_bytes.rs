//! Who speaks on a listener of the controllers, which the first bytes tell: a node, with a magic of its own, or a client
//! of Kafka's (KIP-919).

use crate::runtime::{Connection, Runtime};
use crate::shard::deadline::within;
use bytes::BytesMut;
use logmill_wire::frame::prefix::{FIRST_BYTE, is_peer_frame};
use std::time::Duration;

/// How long the first bytes may take: both kinds speak at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Enough for the first frame of a node, and for most requests.
const RECEIVE_BYTES: usize = 4 << 10;

/// Who has begun to speak, and what came.
#[derive(Debug, PartialEq, Eq)]
pub enum Speaker {
    /// Another node of the cluster, in a protocol of ours.
    Node(BytesMut),
    /// A client.
    Client(BytesMut),
    /// Nobody: the connection ended, or nothing came in time.
    Nobody,
}

/// Receives as much as it takes to tell.
pub async fn who_speaks<R: Runtime>(runtime: &R, connection: &R::Connection) -> Speaker {
    within(runtime, PATIENCE, receive(connection)).await.unwrap_or(Speaker::Nobody)
}

async fn receive<C: Connection>(connection: &C) -> Speaker {
    let mut received = BytesMut::new();
    loop {
        if let Some(first) = received.first_chunk() {
            let is_node = is_peer_frame(*first);
            return if is_node { Speaker::Node(received) } else { Speaker::Client(received) };
        }
        if received.first().is_some_and(|&first| first != FIRST_BYTE) {
            return Speaker::Client(received);
        }
        received.reserve(RECEIVE_BYTES);
        let (outcome, buffer) = connection.receive(received).await;
        received = buffer;
        if !outcome.is_ok_and(|bytes| bytes > 0) {
            return Speaker::Nobody;
        }
    }
}
