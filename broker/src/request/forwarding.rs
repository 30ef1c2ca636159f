//! Requests that only the active controller can answer, on a broker that is not (KIP-590): they go there as they came,
//! with whom they come from, and what comes back is the client's answer.

use super::call::{Call, Origin, Outcome, Pending, Reply};
use super::router::route_from;
use super::services::Services;
use super::versions::{advertised, dispatch};
use crate::cluster::command::{Forwarded, Forwarding, MetadataCommand};
use crate::runtime::{Runtime, oneshot};
use crate::shard::memory::MemoryClass;
use bytes::Bytes;
use logmill_state::admission::authorizer::RequestContext;
use std::rc::Rc;

/// Has the active controller answer, `frame` being the request. If it is on this node, or cannot be reached in time,
/// this node's own handler answers: in the latter case with the error that it finds no controller either.
pub(super) fn forward<R: Runtime>(call: Call<R>, frame: Bytes) -> Pending {
    let (reply, receiver) = oneshot::channel();
    let request = Forwarded { context: RequestContext::clone(&call.context), frame };
    call.services.cluster.send(MetadataCommand::Forward { request, reply });
    Box::pin(async move {
        match receiver.await {
            Ok(Forwarding::Answered(response)) => {
                let mut room = call.answer.room;
                room.resize(response.len());
                Outcome::Reply(Reply { parts: vec![response], room })
            }
            Ok(Forwarding::Here | Forwarding::Failed) | Err(oneshot::Closed) => match dispatch(call) {
                Ok(pending) => pending.await,
                Err(_) => Outcome::Close("a request cannot be decoded"),
            },
        }
    })
}

/// Answers what another broker has forwarded: the response with its size before it. Nothing, if it is not a request that
/// is forwarded, or one for which a client's connection would be closed.
pub async fn answer_forwarded<R: Runtime>(services: Rc<Services<R>>, request: Forwarded) -> Option<Bytes> {
    let key = request.frame.first_chunk().map(|key| i16::from_be_bytes(*key))?;
    if !advertised(key).is_some_and(|api| api.is_for_controller) {
        return None;
    }
    let memory = &services.state.memory;
    let room = memory.reserve(MemoryClass::Control, request.frame.len()).ok()?.await;
    let mut context = Rc::new(request.context);
    let pending = route_from(Origin::Broker, &services, &mut context, &request.frame, room).ok()?;
    match pending.await {
        Outcome::Reply(reply) => Some(reply.parts.concat().into()),
        Outcome::Silence | Outcome::Close(_) => None,
    }
}
