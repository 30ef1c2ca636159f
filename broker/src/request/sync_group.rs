//! SyncGroup: the leader of a classic group hands in the assignment, and every member gets its own.

use super::call::{Call, Handled, decode};
use super::groups::{MISMATCHED, ask, owned, owned_option};
use crate::runtime::Runtime;
use bytes::Bytes;
use logmill_state::admission::authorizer::Operation;
use logmill_state::group::{GroupReply, GroupRequest, MemberIdentity, SyncReply, SyncRequest};
use logmill_wire::api::sync_group::{Request, Response};

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    call.answer.charge(1 + request.assignments.len())?;
    let sync = SyncRequest {
        group_id: owned(&request.group_id),
        member: MemberIdentity {
            member_id: owned(&request.member_id),
            instance_id: owned_option(request.group_instance_id.as_ref()),
        },
        generation: request.generation_id,
        protocol_type: owned_option(request.protocol_type.as_ref()),
        protocol_name: owned_option(request.protocol_name.as_ref()),
        assignments: request
            .assignments
            .iter()
            .map(|given| (owned(&given.member_id), Bytes::copy_from_slice(&given.assignment)))
            .collect(),
    };
    let asked = ask(&call, Operation::Read, &request.group_id, GroupRequest::Sync(sync));
    let answer = call.answer;
    Ok(Box::pin(async move {
        let synced = match asked.reply().await {
            Ok(GroupReply::Sync(synced)) => synced,
            Ok(_) => SyncReply::refused(MISMATCHED),
            Err(error) => SyncReply::refused(error),
        };
        answer.reply(&Response {
            error_code: synced.error.code(),
            protocol_type: synced.protocol_type.as_deref().map(Into::into),
            protocol_name: synced.protocol_name.as_deref().map(Into::into),
            assignment: (&*synced.assignment).into(),
            ..Response::default()
        })
    }))
}
