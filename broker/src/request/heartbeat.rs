//! Heartbeat: a member of a classic group is alive, and learns whether the group rebalances.

use super::call::{Call, Handled, decode};
use super::groups::{MISMATCHED, ask, owned, owned_option};
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::Operation;
use logmill_state::group::{GroupReply, GroupRequest, HeartbeatRequest, MemberIdentity};
use logmill_wire::api::heartbeat::{Request, Response};

pub(super) fn handle<R: Runtime>(call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    let heartbeat = HeartbeatRequest {
        group_id: owned(&request.group_id),
        member: MemberIdentity {
            member_id: owned(&request.member_id),
            instance_id: owned_option(request.group_instance_id.as_ref()),
        },
        generation: request.generation_id,
    };
    let asked = ask(&call, Operation::Read, &request.group_id, GroupRequest::Heartbeat(heartbeat));
    let answer = call.answer;
    Ok(Box::pin(async move {
        let error = match asked.reply().await {
            Ok(GroupReply::Heartbeat(error)) => error,
            Ok(_) => MISMATCHED,
            Err(error) => error,
        };
        answer.reply(&Response { error_code: error.code(), ..Response::default() })
    }))
}
