//! One connection, from its first byte to its end: a client's, or another broker's.

use super::counts::ConnectionTicket;
use super::frames::FrameReader;
use super::replies::{ReplyQueue, send_replies};
use crate::replication::{Cut, PeerServer};
use crate::request::router::route;
use crate::request::services::Services;
use crate::runtime::{Connection, Runtime};
use crate::shard::deadline::{Either, either};
use logmill_state::admission::authorizer::{Principal, RequestContext};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// What is known of a connection when it is accepted.
pub struct ConnectionInfo {
    /// Its number, unique in one run of the broker.
    pub id: u64,
    /// The listener that took it.
    pub listener: Arc<str>,
    /// The client's address.
    pub peer: SocketAddr,
    /// Its place in the counts.
    pub ticket: ConnectionTicket,
}

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The client has finished.
    Finished,
    /// The client, or the machine, broke something; the text says what.
    Failed(String),
    /// It was silent for longer than `connections.max.idle.ms`.
    Idle,
    /// It began a request and did not get on with it.
    SlowRequest,
    /// It does not take its replies.
    SlowReceiver,
}

impl End {
    /// An end for a reason in words.
    pub(super) fn failed(cause: impl fmt::Display) -> Self {
        Self::Failed(cause.to_string())
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("the client closed it"),
            Self::Failed(cause) => f.write_str(cause),
            Self::Idle => f.write_str("it was idle for longer than connections.max.idle.ms"),
            Self::SlowRequest => f.write_str("a request was begun and not completed in time"),
            Self::SlowReceiver => f.write_str("replies were not taken in time"),
        }
    }
}

/// Serves a connection until it ends: requests are begun in their order, replies leave in their order. One that another
/// broker has made goes to the server for those.
pub async fn serve_connection<R: Runtime>(
    services: Rc<Services<R>>,
    peers: Rc<PeerServer<R>>,
    connection: R::Connection,
    info: ConnectionInfo,
) {
    let ConnectionInfo { id, listener, peer, ticket } = info;
    let context = Rc::new(RequestContext {
        listener,
        principal: Principal::anonymous(),
        connection_id: id,
        client_id: None,
        peer,
    });
    let end = serve(&services, &peers, &connection, &context).await;
    match &end {
        End::Finished | End::Idle => tracing::debug!(connection = id, %peer, %end, "a connection ended"),
        _ => tracing::debug!(connection = id, %peer, %end, "a connection was closed"),
    }
    connection.shutdown();
    drop(ticket);
}

async fn serve<R: Runtime>(
    services: &Rc<Services<R>>,
    peers: &PeerServer<R>,
    connection: &R::Connection,
    context: &Rc<RequestContext>,
) -> End {
    let queue = ReplyQueue::new(services.runtime.monotonic());
    let mut frames = FrameReader::new(services, connection.clone(), &queue);
    match frames.is_from_broker().await {
        Ok(false) => {}
        Ok(true) => {
            let received = frames.into_received();
            return match peers.serve(connection, received, &context.listener, context.peer).await {
                Cut::Finished => End::Finished,
                cut => End::failed(cut),
            };
        }
        Err(end) => return end,
    }
    // Both run in one task: a request that is answered at once leaves in the same turn, and whichever
    // ends first ends the other.
    let reading = read_requests(services, frames, context, &queue);
    let sending = send_replies(services, connection, &queue);
    match either(reading, sending).await {
        Either::First(end) | Either::Second(end) => end,
    }
}

async fn read_requests<R: Runtime>(
    services: &Rc<Services<R>>,
    mut frames: FrameReader<'_, R>,
    context: &Rc<RequestContext>,
    queue: &ReplyQueue,
) -> End {
    let mut context = Rc::clone(context);
    loop {
        queue.has_room().await;
        let (frame, room) = match frames.next().await {
            Ok(frame) => frame,
            Err(end) => return end,
        };
        // From here to the end of `route` nothing waits: what a request does first, it does in order.
        match route(services, &mut context, &frame, room) {
            Ok(pending) => queue.push(pending),
            Err(error) => return End::failed(error),
        }
        frames.heard();
        drop(frame);
        if services.runtime.should_yield() {
            services.runtime.yield_now().await;
        }
    }
}
