//! ConsumerGroupHeartbeat: the one request by which a member of a consumer group lives (KIP-848).

use super::call::{Call, Handled, decode};
use super::groups::{Asked, MISMATCHED, ask, client_host, client_id, owned, owned_option};
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::{Operation, RequestContext, Resource};
use logmill_state::group::{
    ConsumerHeartbeatReply, ConsumerHeartbeatRequest, GroupReply, GroupRequest, MemberIdentity, Refused,
    TopicPartitions, VisibleTopics,
};
use logmill_wire::api::consumer_group_heartbeat::{
    Assignment, Request, Response, ResponseTopicPartitions, TopicPartitions as Owned,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{PartitionIndex, Uuid};

/// The first version whose members bring an id of their own.
const OWN_IDS_FROM: i16 = 1;

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    let names = request.subscribed_topic_names.as_ref().map_or(0, |names| names.len());
    let owned_partitions: usize =
        request.topic_partitions.iter().flatten().map(|topic| 1 + topic.partitions.len()).sum();
    call.answer.charge(1 + names + owned_partitions)?;
    let asked = if may_see_all(&call, &request) {
        let heartbeat = heartbeat(&call, &request);
        ask(&call, Operation::Read, &request.group_id, GroupRequest::ConsumerHeartbeat(heartbeat))
    } else {
        Asked::Refused(ErrorCode::TopicAuthorizationFailed)
    };
    let answer = call.answer;
    Ok(Box::pin(async move {
        let outcome = match asked.reply().await {
            Ok(GroupReply::ConsumerHeartbeat(outcome)) => outcome,
            Ok(_) => Err(Refused::plain(MISMATCHED)),
            Err(error) => Err(Refused::plain(error)),
        };
        answer.reply(&response(outcome))
    }))
}

fn may_see_all<R: Runtime>(call: &Call<R>, request: &Request<'_>) -> bool {
    let names = request.subscribed_topic_names.iter().flatten();
    names.into_iter().all(|name| call.allows(Operation::Describe, Resource::Topic(&name)))
}

/// What the sender may see of the topics. Which there are is found where the group is.
fn visible_topics<R: Runtime>(call: &Call<R>) -> VisibleTopics {
    let (authorizer, context) =
        (call.services.state.authorizer.clone(), RequestContext::clone(&call.context));
    VisibleTopics::new(move |topic| {
        authorizer.authorize(&context, Operation::Describe, Resource::Topic(topic)).is_allowed()
    })
}

fn heartbeat<R: Runtime>(call: &Call<R>, request: &Request<'_>) -> ConsumerHeartbeatRequest {
    let runtime = &call.services.runtime;
    let random = (u128::from(runtime.random_u64()) << 64) | u128::from(runtime.random_u64());
    let partitions = |topic: Owned<'_>| TopicPartitions {
        topic_id: topic.topic_id,
        partitions: topic.partitions.iter().map(PartitionIndex).collect(),
    };
    ConsumerHeartbeatRequest {
        group_id: owned(&request.group_id),
        member: MemberIdentity {
            member_id: owned(&request.member_id),
            instance_id: owned_option(request.instance_id.as_ref()),
        },
        // From version 1 on members choose their ids themselves (KIP-1082).
        fresh_id: if call.answer.version < OWN_IDS_FROM { Uuid::from_random(random) } else { Uuid::ZERO },
        member_epoch: request.member_epoch,
        rack_id: owned_option(request.rack_id.as_ref()),
        rebalance_timeout_ms: (request.rebalance_timeout_ms != -1).then_some(request.rebalance_timeout_ms),
        subscribed_topics: request
            .subscribed_topic_names
            .as_ref()
            .map(|names| names.iter().map(|name| owned(&name)).collect()),
        subscribed_regex: owned_option(request.subscribed_topic_regex.as_ref()),
        visible_topics: visible_topics(call),
        server_assignor: owned_option(request.server_assignor.as_ref()),
        owned: request.topic_partitions.as_ref().map(|topics| topics.iter().map(partitions).collect()),
        client_id: client_id(&call.context),
        client_host: client_host(&call.context),
    }
}

fn response(outcome: Result<ConsumerHeartbeatReply, Refused>) -> Response<'static> {
    match outcome {
        Err(refused) => Response {
            error_code: refused.code.code(),
            error_message: Some(refused.message.into()),
            ..Response::default()
        },
        Ok(reply) => Response {
            member_id: Some(reply.member_id.to_string().into()),
            member_epoch: reply.member_epoch,
            heartbeat_interval_ms: reply.heartbeat_interval_ms,
            assignment: reply.assignment.map(|topics| Assignment {
                topic_partitions: topics
                    .into_iter()
                    .map(|topic| ResponseTopicPartitions {
                        topic_id: topic.topic_id,
                        partitions: topic.partitions.iter().map(|partition| partition.0).collect(),
                    })
                    .collect(),
            }),
            ..Response::default()
        },
    }
}
