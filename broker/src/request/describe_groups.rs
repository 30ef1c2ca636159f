//! DescribeGroups: classic groups and their members.

use super::call::{Call, Handled, decode};
use super::groups::{MISMATCHED, ask_for_each, authorized_operations, for_each_answer};
use crate::runtime::Runtime;
use logmill_state::group::{DescribedClassicGroup, GroupReply, GroupRequest, Refused};
use logmill_wire::api::describe_groups::{DescribedGroup, DescribedGroupMember, Request, Response};
use logmill_wire::error_codes::ErrorCode;

/// The first version that tells a missing group from a dead one (KIP-1043).
const MISSING_FROM: i16 = 6;

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(request.groups.len())?;
    let with_operations = request.include_authorized_operations;
    let asked = ask_for_each(&call, request.groups.iter(), GroupRequest::DescribeClassic);
    Ok(Box::pin(async move {
        let describe = |group_id: &str, reply| {
            let described = match reply {
                Ok(GroupReply::DescribeClassic(described)) => described,
                Ok(_) => Err(Refused::plain(MISMATCHED)),
                Err(error) => Err(Refused::plain(error)),
            };
            let mut group = match described {
                Ok(described) => known(described),
                Err(refused) => unknown(refused, version),
            };
            if with_operations && group.error_code == ErrorCode::None.code() {
                group.authorized_operations = authorized_operations(&call, group_id);
            }
            DescribedGroup { group_id: group_id.to_owned().into(), ..group }
        };
        let groups = for_each_answer(&call, asked, describe).await;
        call.answer.reply(&Response { groups: groups.into(), ..Response::default() })
    }))
}

fn known(group: DescribedClassicGroup) -> DescribedGroup<'static> {
    let members = group.members.into_iter().map(|member| DescribedGroupMember {
        member_id: member.member_id.to_string().into(),
        group_instance_id: member.instance_id.map(|id| id.to_string().into()),
        client_id: member.client_id.to_string().into(),
        client_host: member.client_host.to_string().into(),
        member_metadata: member.metadata.to_vec().into(),
        member_assignment: member.assignment.to_vec().into(),
    });
    DescribedGroup {
        group_state: group.state.into(),
        protocol_type: group.protocol_type.to_string().into(),
        protocol_data: group.protocol_name.to_string().into(),
        members: members.collect(),
        ..DescribedGroup::default()
    }
}

fn unknown(refused: Refused, version: i16) -> DescribedGroup<'static> {
    let is_missing = refused.code == ErrorCode::GroupIdNotFound;
    let told = !is_missing || version >= MISSING_FROM;
    DescribedGroup {
        error_code: if told { refused.code.code() } else { ErrorCode::None.code() },
        error_message: (version >= MISSING_FROM).then(|| refused.message.into()),
        group_state: if is_missing { "Dead".into() } else { "".into() },
        ..DescribedGroup::default()
    }
}
