//! One connection, from its first byte to its end: a client's, or another broker's.

use super::affinity::Affinity;
use super::counts::ConnectionTicket;
use super::frames::FrameReader;
use super::replies::{ReplyQueue, send_replies};
use crate::replication::{Cut, PeerServer};
use crate::request::router::route;
use crate::request::services::Services;
use crate::runtime::{Connection, Runtime};
use crate::shard::deadline::{Either, either, within};
use bytes::BytesMut;
use logmill_state::admission::authorizer::{Principal, RequestContext};
use logmill_wire::ids::ShardIndex;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

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
    /// What another shard has left of it, if one has served it before.
    pub carried: Option<Carried>,
}

/// What goes along with a client's connection from one shard to another.
pub struct Carried {
    /// What was received, and is of requests that have not begun.
    received: BytesMut,
    /// How often the connection has moved by now.
    moves: u32,
}

impl Carried {
    /// Of a connection of which somebody has looked at the first bytes.
    #[must_use]
    pub const fn first(received: BytesMut) -> Self {
        Self { received, moves: 0 }
    }
}

/// How long a connection that is to move waits for its requests that have begun.
const PAUSE_MAX: Duration = Duration::from_millis(20);

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

/// What becomes of a connection.
enum Outcome {
    Ended(End),
    /// It is better served on this shard, and nothing of it is under way; what was received goes along.
    Moves(ShardIndex, BytesMut),
}

/// Serves a connection until it ends: requests are begun in their order, replies leave in their order. One that another
/// broker has made goes to the server for those. One that turns out to be better served on another shard goes there by
/// way of `hand_over`.
pub async fn serve_connection<R: Runtime>(
    services: Rc<Services<R>>,
    peers: Rc<PeerServer<R>>,
    mut connection: R::Connection,
    info: ConnectionInfo,
    hand_over: impl Fn(ShardIndex, R::ConnectionHandle, ConnectionInfo),
) {
    let ConnectionInfo { id, listener, peer, mut ticket, mut carried } = info;
    let context = Rc::new(RequestContext {
        listener: Arc::clone(&listener),
        principal: Principal::anonymous(),
        connection_id: id,
        client_id: None,
        peer,
    });
    let end = loop {
        let moves = carried.as_ref().map_or(0, |carried| carried.moves) + 1;
        match serve(&services, &peers, &connection, &context, &ticket, carried.take()).await {
            Outcome::Ended(end) => break end,
            Outcome::Moves(shard, received) => match services.runtime.release(connection) {
                Ok(handle) => {
                    tracing::debug!(connection = id, %peer, %shard, "a connection moves to the shard it is for");
                    ticket.move_to(shard);
                    let carried = Some(Carried { received, moves });
                    return hand_over(shard, handle, ConnectionInfo { id, listener, peer, ticket, carried });
                }
                Err(refused) => {
                    connection = refused;
                    carried = Some(Carried { received, moves });
                }
            },
        }
    };
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
    ticket: &ConnectionTicket,
    carried: Option<Carried>,
) -> Outcome {
    let queue = ReplyQueue::new(services.runtime.monotonic());
    let Carried { received, moves } = carried.unwrap_or(Carried::first(BytesMut::new()));
    let is_known = moves > 0;
    let affinity = Affinity::new(services.runtime.shard(), moves);
    let mut frames = FrameReader::new(services, connection.clone(), &queue, received);
    if is_known {
        frames.heard();
    } else {
        match frames.is_from_broker().await {
            Ok(false) => {}
            Ok(true) => {
                let received = frames.into_received();
                return match peers.serve(connection, received, &context.listener, context.peer).await {
                    Cut::Finished => Outcome::Ended(End::Finished),
                    cut => Outcome::Ended(End::failed(cut)),
                };
            }
            Err(end) => return Outcome::Ended(end),
        }
    }
    // Both run in one task: a request that is answered at once leaves in the same turn, and whichever
    // ends first ends the other.
    let reading = read_requests(services, frames, context, &queue, (affinity, ticket));
    let sending = send_replies(services, connection, &queue);
    match either(reading, sending).await {
        Either::First(outcome) => outcome,
        Either::Second(end) => Outcome::Ended(end),
    }
}

async fn read_requests<R: Runtime>(
    services: &Rc<Services<R>>,
    mut frames: FrameReader<'_, R>,
    context: &Rc<RequestContext>,
    queue: &ReplyQueue,
    (mut affinity, ticket): (Affinity, &ConnectionTicket),
) -> Outcome {
    let mut context = Rc::clone(context);
    loop {
        queue.has_room().await;
        let (frame, room) = match frames.next().await {
            Ok(frame) => frame,
            Err(end) => return Outcome::Ended(end),
        };
        // From here to the end of `route` nothing waits: what a request does first, it does in order.
        let _ = services.partitions.take_touched();
        match route(services, &mut context, &frame, room) {
            Ok(pending) => queue.push(pending),
            Err(error) => return Outcome::Ended(End::failed(error)),
        }
        frames.heard();
        drop(frame);
        if let Some(shard) = affinity.note(services.partitions.take_touched()) {
            // What has begun must be answered first: answers find their way back to this shard.
            if ticket.may_move_to(shard)
                && within(&services.runtime, PAUSE_MAX, queue.until_idle()).await.is_some()
            {
                return Outcome::Moves(shard, frames.into_received());
            }
            affinity.refused();
        }
        if services.runtime.should_yield() {
            services.runtime.yield_now().await;
        }
    }
}
