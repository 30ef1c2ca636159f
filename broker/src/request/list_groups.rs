//! ListGroups: the groups that this broker coordinates (KIP-518, KIP-848).

use super::call::{Call, Handled, decode};
use super::groups::{Asked, owned};
use crate::coordinator::command::coordinators_on;
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::group::{GroupReply, GroupRequest, ListRequest};
use logmill_wire::api::list_groups::{ListedGroup, Request, Response};

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    call.answer.charge(request.states_filter.len() + request.types_filter.len())?;
    let list = ListRequest {
        states: request.states_filter.iter().map(|state| owned(&state)).collect(),
        types: request.types_filter.iter().map(|kind| owned(&kind)).collect(),
    };
    let services = &call.services;
    let asked: Vec<_> = coordinators_on(&services.image(), services.node_id)
        .into_keys()
        .map(|partition| services.groups.ask(partition, GroupRequest::List(list.clone())))
        .collect();
    Ok(Box::pin(async move {
        let sees_all = call.allows(Operation::Describe, Resource::Cluster);
        let mut response = Response::default();
        let mut groups = Vec::new();
        for receiver in asked {
            match Asked::Sent(receiver).reply().await {
                Ok(GroupReply::List(listed)) => groups.extend(listed),
                Ok(_) => response.error_code = super::groups::MISMATCHED.code(),
                // Some groups are missing from the list, and the client must know it.
                Err(error) => response.error_code = error.code(),
            }
            if call.services.runtime.should_yield() {
                call.services.runtime.yield_now().await;
            }
        }
        response.groups = groups
            .iter()
            .filter(|group| sees_all || call.allows(Operation::Describe, Resource::Group(&group.group_id)))
            .map(|group| ListedGroup {
                group_id: (&*group.group_id).into(),
                protocol_type: (&*group.protocol_type).into(),
                group_state: group.state.into(),
                group_type: group.group_type.into(),
            })
            .collect();
        call.answer.reply(&response)
    }))
}
