//! FindCoordinator: who coordinates a group or a transaction (KIP-699).
//!
//! There are no coordinators yet. Consumers that assign their partitions themselves look for one only to commit; they are
//! told that it is not available, look again in the background, and go on reading. A transactional producer can
//! do nothing without one and is refused for good: "not available" would leave it trying until its timeout.

use super::call::{Call, Handled, decode};
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_wire::api::find_coordinator::{Coordinator, Request, Response};
use logmill_wire::error_codes::ErrorCode;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE: i8 = 2;

/// The first version that names several keys.
const BATCHED_FROM: i16 = 4;
/// The first version that knows share groups.
const SHARE_FROM: i16 = 6;

fn answer_for<R: Runtime>(call: &Call<R>, key_type: i8, key: &str) -> (ErrorCode, &'static str) {
    match key_type {
        GROUP if !call.allows(Operation::Describe, Resource::Group(key)) => {
            (ErrorCode::GroupAuthorizationFailed, "The principal may not describe the group.")
        }
        GROUP => (ErrorCode::CoordinatorNotAvailable, "This broker does not coordinate groups yet."),
        TRANSACTION => (
            ErrorCode::TransactionalIdAuthorizationFailed,
            "This broker does not offer transactions; leave transactional.id unset.",
        ),
        SHARE if call.answer.version >= SHARE_FROM => {
            (ErrorCode::CoordinatorNotAvailable, "This broker does not coordinate share groups yet.")
        }
        _ => (ErrorCode::InvalidRequest, "The key type is not one of this version."),
    }
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(request.coordinator_keys.len())?;
    let mut response = Response::default();
    if version < BATCHED_FROM {
        let (error, message) = answer_for(&call, request.key_type, &request.key);
        response.error_code = error.code();
        response.error_message = Some(message.into());
        response.node_id = -1;
        response.port = -1;
    } else {
        let coordinators = request.coordinator_keys.iter().map(|key| {
            let (error, message) = answer_for(&call, request.key_type, &key);
            Coordinator {
                key,
                node_id: -1,
                port: -1,
                error_code: error.code(),
                error_message: Some(message.into()),
                ..Coordinator::default()
            }
        });
        response.coordinators = coordinators.collect();
    }
    let Call { answer, .. } = call;
    answer.ready(&response)
}
