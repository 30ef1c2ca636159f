//! JoinGroup: a member joins a classic group, or joins it again.

use super::call::{Call, Handled, decode};
use super::groups::{MISMATCHED, ask, client_host, client_id, owned, owned_option};
use crate::runtime::Runtime;
use bytes::Bytes;
use logmill_state::admission::authorizer::Operation;
use logmill_state::group::{GroupReply, GroupRequest, JoinReply, JoinRequest, MemberIdentity};
use logmill_wire::api::join_group::{JoinGroupResponseMember, Request, Response};
use logmill_wire::ids::Uuid;

/// The first version with a rebalance timeout of its own.
const REBALANCE_TIMEOUT_FROM: i16 = 1;
/// The first version whose members come again with the id that they are given (KIP-394).
const KNOWN_MEMBER_FROM: i16 = 4;
/// The first version in which the protocol's name may be null.
const NULL_PROTOCOL_FROM: i16 = 7;
/// The first version whose leader understands that it need not assign (KIP-814).
const SKIP_ASSIGNMENT_FROM: i16 = 9;

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(1 + request.protocols.len())?;
    let rebalance_timeout_ms = if version < REBALANCE_TIMEOUT_FROM {
        request.session_timeout_ms
    } else {
        request.rebalance_timeout_ms
    };
    let runtime = &call.services.runtime;
    let random = (u128::from(runtime.random_u64()) << 64) | u128::from(runtime.random_u64());
    let instance_id = owned_option(request.group_instance_id.as_ref());
    let join = JoinRequest {
        group_id: owned(&request.group_id),
        requires_known_member_id: version >= KNOWN_MEMBER_FROM && instance_id.is_none(),
        member: MemberIdentity { member_id: owned(&request.member_id), instance_id },
        fresh_id: Uuid::from_random(random),
        client_id: client_id(&call.context),
        client_host: client_host(&call.context),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms,
        protocol_type: owned(&request.protocol_type),
        protocols: request
            .protocols
            .iter()
            .map(|protocol| (owned(&protocol.name), Bytes::copy_from_slice(&protocol.metadata)))
            .collect(),
        reason: owned_option(request.reason.as_ref()),
        supports_skipping_assignment: version >= SKIP_ASSIGNMENT_FROM,
    };
    let refused = JoinReply::refused(MISMATCHED, &join);
    let asked = ask(&call, Operation::Read, &request.group_id, GroupRequest::Join(join));
    let answer = call.answer;
    Ok(Box::pin(async move {
        let joined = match asked.reply().await {
            Ok(GroupReply::Join(joined)) => joined,
            Ok(_) => refused,
            Err(error) => JoinReply { error, ..refused },
        };
        answer.reply(&response(&joined, version))
    }))
}

fn response(joined: &JoinReply, version: i16) -> Response<'_> {
    let protocol_name = joined.protocol_name.as_deref();
    Response {
        error_code: joined.error.code(),
        generation_id: joined.generation,
        protocol_type: joined.protocol_type.as_deref().map(Into::into),
        protocol_name: match protocol_name {
            None if version < NULL_PROTOCOL_FROM => Some("".into()),
            name => name.map(Into::into),
        },
        leader: (&*joined.leader).into(),
        skip_assignment: joined.skip_assignment,
        member_id: (&*joined.member_id).into(),
        members: joined
            .members
            .iter()
            .map(|member| JoinGroupResponseMember {
                member_id: (&*member.member_id).into(),
                group_instance_id: member.instance_id.as_deref().map(Into::into),
                metadata: (&*member.metadata).into(),
            })
            .collect(),
        ..Response::default()
    }
}
