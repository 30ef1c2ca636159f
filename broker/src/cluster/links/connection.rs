//! One connection between control shards, from its hello to its end.

use super::lane::Lane;
use super::{PING_AFTER, SILENCE_MAX, Shared};
use crate::runtime::{Connection, Runtime};
use crate::shard::deadline::{Either, either, within};
use bytes::{Bytes, BytesMut};
use logmill_wire::frame::control_link::{
    CONTROL_FRAME_START_BYTES, CONTROL_HELLO_BYTES, ControlFrame, ControlHello, ControlKind,
};
use logmill_wire::ids::{NodeId, Uuid};
use std::cell::Cell;
use std::rc::Rc;

/// What is received at a time, and the room that a payload gets before any of it has come.
const RECEIVE_BYTES: usize = 64 << 10;

/// Carries everything over one connection, of which `received` has come, until it ends, which is always an error. Of one
/// that this node made, `made_to` is the node that shall be there.
pub(super) async fn carry<R: Runtime>(
    shared: &Rc<Shared<R>>,
    connection: R::Connection,
    received: BytesMut,
    made_to: Option<NodeId>,
) -> Result<(), String> {
    let ends_with_drop = ShutDown(connection.clone());
    let lane = Rc::new(Lane::new(made_to.is_some()));
    let hello = ControlHello { node: shared.node, cluster_id: shared.cluster_id.get() };
    lane.say(ControlKind::Hello, hello.encode().into());
    let known = Cell::new(None);
    let sending = send_all(shared, &connection, &lane);
    let receiving = async {
        let mut source = Source { connection: connection.clone(), received };
        let peer = receive_hello(shared, &mut source, made_to).await?;
        known.set(Some(peer));
        shared.add_lane(peer, &lane);
        receive_all(shared, &mut source, peer, &lane).await
    };
    let outcome = match either(receiving, sending).await {
        Either::First(outcome) | Either::Second(outcome) => outcome,
    };
    if let Some(peer) = known.get() {
        shared.remove_lane(peer, &lane);
    }
    lane.close();
    drop(ends_with_drop);
    outcome
}

/// Shuts a connection down, however its task ends.
struct ShutDown<C: Connection>(C);

impl<C: Connection> Drop for ShutDown<C> {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

async fn send_all<R: Runtime>(
    shared: &Shared<R>,
    connection: &R::Connection,
    lane: &Lane,
) -> Result<(), String> {
    loop {
        let work = lane.work.wait();
        if lane.is_closed() {
            return Err("it is no longer needed".into());
        }
        let parts = lane.take();
        if parts.is_empty() {
            if within(&shared.runtime, PING_AFTER, work).await.is_none() {
                lane.say(ControlKind::Ping, Bytes::new());
            }
            continue;
        }
        match within(&shared.runtime, SILENCE_MAX, connection.send(parts)).await {
            Some(sent) => sent.map_err(|error| error.to_string())?,
            None => return Err("the other end takes nothing".into()),
        }
    }
}

async fn receive_hello<R: Runtime>(
    shared: &Shared<R>,
    source: &mut Source<R::Connection>,
    made_to: Option<NodeId>,
) -> Result<NodeId, String> {
    let (frame, payload) = source.next(&shared.runtime, CONTROL_HELLO_BYTES).await?;
    if frame.kind != ControlKind::Hello {
        return Err(format!("its first frame is {:?}", frame.kind));
    }
    let hello = ControlHello::decode(&payload).map_err(|error| format!("its hello is not one: {error:?}"))?;
    let (own, other) = (shared.cluster_id.get(), hello.cluster_id);
    if own != Uuid::ZERO && other != Uuid::ZERO && own != other {
        return Err(format!("node {} belongs to cluster {other}, this one to {own}", hello.node));
    }
    if let Some(node) = made_to.filter(|&node| node != hello.node) {
        return Err(format!(
            "node {} answers where {node} should be; correct controller.quorum.voters",
            hello.node
        ));
    }
    if hello.node == shared.node {
        return Err(format!("another node, or this one itself, says that it is {}", hello.node));
    }
    Ok(hello.node)
}

async fn receive_all<R: Runtime>(
    shared: &Rc<Shared<R>>,
    source: &mut Source<R::Connection>,
    peer: NodeId,
    lane: &Rc<Lane>,
) -> Result<(), String> {
    loop {
        let (frame, payload) = source.next(&shared.runtime, usize::MAX).await?;
        shared.heard.borrow_mut().insert(peer, shared.runtime.monotonic());
        match frame.kind {
            ControlKind::Quorum => shared.take_in(payload),
            ControlKind::Call => answer_call(shared, peer, lane, frame, payload),
            ControlKind::Answer => lane.on_answer(frame.id, frame.operation, payload),
            ControlKind::Ping => {}
            ControlKind::Hello => return Err("it says hello twice".into()),
        }
        if shared.runtime.should_yield() {
            shared.runtime.yield_now().await;
        }
    }
}

fn answer_call<R: Runtime>(
    shared: &Shared<R>,
    peer: NodeId,
    lane: &Rc<Lane>,
    frame: ControlFrame,
    payload: Bytes,
) {
    let handler = shared.handler.borrow().clone();
    let Some(handler) = handler.filter(|_| lane.begin_answering()) else {
        return lane.answer(frame.id, frame.operation, None);
    };
    let lane = Rc::clone(lane);
    let answering = handler(peer, frame.operation, payload);
    shared.runtime.spawn(async move {
        let answer = answering.await;
        lane.end_answering();
        lane.answer(frame.id, frame.operation, answer);
    });
}

/// The frames off a connection.
struct Source<C: Connection> {
    connection: C,
    received: BytesMut,
}

impl<C: Connection> Source<C> {
    /// The next frame, whose payload has at most `payload_max` bytes.
    async fn next<R: Runtime>(
        &mut self,
        runtime: &R,
        payload_max: usize,
    ) -> Result<(ControlFrame, Bytes), String> {
        let frame = loop {
            if let Some(start) = self.received.first_chunk::<CONTROL_FRAME_START_BYTES>() {
                break ControlFrame::open(start).map_err(|error| format!("it sends no frame: {error:?}"))?;
            }
            self.receive(runtime, RECEIVE_BYTES).await?;
        };
        let payload_bytes = frame.payload_bytes as usize;
        if payload_bytes > payload_max {
            return Err(format!("a frame of {payload_bytes} bytes is not due here"));
        }
        let frame_bytes = CONTROL_FRAME_START_BYTES + payload_bytes;
        while self.received.len() < frame_bytes {
            // The room grows with what has come: announcing much costs nothing.
            let missing = frame_bytes - self.received.len();
            self.receive(runtime, missing.min(self.received.len().max(RECEIVE_BYTES))).await?;
        }
        let payload = self.received.split_to(frame_bytes).freeze().slice(CONTROL_FRAME_START_BYTES..);
        frame.check_payload(&payload).map_err(|error| format!("a frame is not intact: {error:?}"))?;
        Ok((frame, payload))
    }

    async fn receive<R: Runtime>(&mut self, runtime: &R, bytes: usize) -> Result<(), String> {
        let mut buffer = std::mem::take(&mut self.received);
        buffer.reserve(bytes);
        let Some((outcome, buffer)) = within(runtime, SILENCE_MAX, self.connection.receive(buffer)).await
        else {
            return Err(format!("nothing came for {} ms", SILENCE_MAX.as_millis()));
        };
        self.received = buffer;
        match outcome {
            Ok(0) => Err("the other end has closed it".into()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}
