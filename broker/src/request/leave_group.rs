//! LeaveGroup: members go, by their own will or by an operator's (KIP-345).

use super::call::{Call, Handled, decode};
use super::groups::{MISMATCHED, ask, owned, owned_option};
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::Operation;
use logmill_state::group::{GroupReply, GroupRequest, LeaveRequest, LeftMember, MemberIdentity};
use logmill_wire::api::leave_group::{MemberResponse, Request, Response};
use logmill_wire::error_codes::ErrorCode;

/// The first version that names several members.
const BATCHED_FROM: i16 = 3;

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(1 + request.members.len())?;
    let members = if version < BATCHED_FROM {
        vec![(MemberIdentity { member_id: owned(&request.member_id), instance_id: None }, None)]
    } else {
        let member = |member: logmill_wire::api::leave_group::MemberIdentity<'_>| {
            let identity = MemberIdentity {
                member_id: owned(&member.member_id),
                instance_id: owned_option(member.group_instance_id.as_ref()),
            };
            (identity, owned_option(member.reason.as_ref()))
        };
        request.members.iter().map(member).collect()
    };
    let leave = LeaveRequest { group_id: owned(&request.group_id), members };
    let asked = ask(&call, Operation::Read, &request.group_id, GroupRequest::Leave(leave));
    let answer = call.answer;
    Ok(Box::pin(async move {
        let left = match asked.reply().await {
            Ok(GroupReply::Leave(left)) => left,
            Ok(_) => Err(MISMATCHED),
            Err(error) => Err(error),
        };
        answer.reply(&response(left.as_deref(), version))
    }))
}

fn response<'a>(left: Result<&'a [LeftMember], &ErrorCode>, version: i16) -> Response<'a> {
    let error = match left {
        Err(error) => *error,
        Ok([only]) if version < BATCHED_FROM => only.error,
        Ok(_) => ErrorCode::None,
    };
    let member = |member: &'a LeftMember| MemberResponse {
        member_id: (&*member.member_id).into(),
        group_instance_id: member.instance_id.as_deref().map(Into::into),
        error_code: member.error.code(),
    };
    let members = if version < BATCHED_FROM { &[] } else { left.unwrap_or_default() };
    Response {
        error_code: error.code(),
        members: members.iter().map(member).collect(),
        ..Response::default()
    }
}
