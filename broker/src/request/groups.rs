//! What the APIs of groups share: the way to a group's coordinator and back.

use super::call::Call;
use crate::runtime::{Runtime, oneshot};
use logmill_state::admission::authorizer::{Operation, RequestContext, Resource};
use logmill_state::group::{GroupReply, GroupRequest};
use logmill_wire::error_codes::ErrorCode;
use std::borrow::Cow;
use std::sync::Arc;

/// A request on its way to a coordinator, or what is wrong with it.
pub enum Asked {
    /// It did not get there.
    Refused(ErrorCode),
    /// The answer will come here.
    Sent(oneshot::Receiver<GroupReply>),
}

impl Asked {
    /// The coordinator's answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn reply(self) -> Result<GroupReply, ErrorCode> {
        match self {
            Self::Refused(error) => Err(error),
            Self::Sent(receiver) => match receiver.await {
                Ok(GroupReply::Unavailable(error)) => Err(error),
                Ok(reply) => Ok(reply),
                Err(oneshot::Closed) => Err(ErrorCode::CoordinatorNotAvailable),
            },
        }
    }
}

/// Asks the coordinator of a group, if the sender may do this to the group.
pub fn ask<R: Runtime>(call: &Call<R>, operation: Operation, group_id: &str, request: GroupRequest) -> Asked {
    if !call.allows(operation, Resource::Group(group_id)) {
        return Asked::Refused(ErrorCode::GroupAuthorizationFailed);
    }
    if !is_served(call, &request) {
        return Asked::Refused(ErrorCode::UnsupportedVersion);
    }
    // The records of groups have shorter lengths than requests.
    if !request.fits_its_records() {
        return Asked::Refused(ErrorCode::InvalidRequest);
    }
    let services = &call.services;
    let asked = services.groups.ask_group(&services.image(), services.node_id, group_id, request);
    asked.map_or_else(Asked::Refused, Asked::Sent)
}

/// Asks to describe groups, each at its own coordinator.
pub fn ask_for_each<'a, R: Runtime>(
    call: &Call<R>,
    group_ids: impl Iterator<Item = Cow<'a, str>>,
    describe: impl Fn(Arc<str>) -> GroupRequest,
) -> Vec<(Arc<str>, Asked)> {
    let asked = |group_id: Cow<'a, str>| {
        let group_id = owned(&group_id);
        let asked = ask(call, Operation::Describe, &group_id, describe(Arc::clone(&group_id)));
        (group_id, asked)
    };
    group_ids.map(asked).collect()
}

/// Makes a part of the response of each answer, in the order of the questions.
pub async fn for_each_answer<R: Runtime, G>(
    call: &Call<R>,
    asked: Vec<(Arc<str>, Asked)>,
    describe: impl Fn(&str, Result<GroupReply, ErrorCode>) -> G,
) -> Vec<G> {
    let mut described = Vec::with_capacity(asked.len());
    for (group_id, asked) in asked {
        described.push(describe(&group_id, asked.reply().await));
        if call.services.runtime.should_yield() {
            call.services.runtime.yield_now().await;
        }
    }
    described
}

/// Whether `group.coordinator.rebalance.protocols` has the kind of group that the request is for; the classic kind is
/// always served.
fn is_served<R: Runtime>(call: &Call<R>, request: &GroupRequest) -> bool {
    let is_of_consumer_groups =
        matches!(request, GroupRequest::ConsumerHeartbeat(_) | GroupRequest::DescribeConsumer(_));
    let served = &call.services.settings.groups.rebalance_protocols;
    !is_of_consumer_groups || served.iter().any(|kind| kind == "consumer")
}

/// The answer was one to another request: the coordinator's fault, which the client must not take for success.
pub const MISMATCHED: ErrorCode = ErrorCode::UnknownServerError;

/// A text that outlives the frame.
pub fn owned(text: &str) -> Arc<str> {
    Arc::from(text)
}

/// A text that may be null and outlives the frame.
pub fn owned_option(text: Option<&Cow<'_, str>>) -> Option<Arc<str>> {
    text.map(|text| Arc::from(&**text))
}

/// The client id as groups know it; empty if the client does not say.
pub fn client_id(context: &RequestContext) -> Arc<str> {
    context.client_id.clone().unwrap_or_else(|| Arc::from(""))
}

/// Where a member comes from, as Kafka writes it.
pub fn client_host(context: &RequestContext) -> Arc<str> {
    format!("/{}", context.peer.ip()).into()
}

/// What the sender may do to the group, for the descriptions that tell it (KIP-430).
pub fn authorized_operations<R: Runtime>(call: &Call<R>, group_id: &str) -> i32 {
    call.services.state.authorizer.authorized_operations(&call.context, Resource::Group(group_id))
}
