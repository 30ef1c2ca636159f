//! FindCoordinator: who coordinates a group or a transaction (KIP-699).
//!
//! The topic that groups live on is made when the first one is looked for. There are no transactions yet; a
//! transactional producer can do nothing without a coordinator and is refused for good, because "not available"
//! would leave it trying until its timeout.

use super::call::{Call, Handled, decode};
use super::topics::node_endpoint;
use crate::cluster::command::MetadataCommand;
use crate::coordinator::command::coordinator_of;
use crate::runtime::{Runtime, oneshot};
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::metadata::{Image, NewTopic, OFFSETS_TOPIC};
use logmill_wire::api::find_coordinator::{Coordinator, Request, Response};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::NodeId;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE: i8 = 2;

/// The first version that names several keys.
const BATCHED_FROM: i16 = 4;
/// The first version that knows share groups.
const SHARE_FROM: i16 = 6;

type Found = (i32, String, i32);
type Refused = (ErrorCode, &'static str);

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(request.coordinator_keys.len())?;
    let key_type = request.key_type;
    let keys: Vec<String> = if version < BATCHED_FROM {
        vec![request.key.into_owned()]
    } else {
        request.coordinator_keys.iter().map(|key| key.into_owned()).collect()
    };
    let needs_topic = key_type == GROUP && call.services.image().topic_by_name(OFFSETS_TOPIC).is_none();
    let created = needs_topic.then(|| create_offsets_topic(&call));
    Ok(Box::pin(async move {
        let failure = match created {
            Some(created) => created.await.err(),
            None => None,
        };
        if key_type == GROUP {
            let names = |image: &Image, lost: &[NodeId]| keys.iter().any(|key| leads(image, lost, key));
            call.services.until_not_lost(names).await;
        }
        let image = call.services.image();
        let find = |key: &str| match failure {
            Some(error) => Err((error, "The topic of the groups could not be created.")),
            None => answer_for(&call, &image, key_type, key),
        };
        let response = if version < BATCHED_FROM { single(find(&keys[0])) } else { batched(&keys, find) };
        call.answer.reply(&response)
    }))
}

/// Whether one of these nodes coordinates the group.
fn leads(image: &Image, nodes: &[NodeId], group: &str) -> bool {
    coordinator_of(image, group).is_some_and(|(_, leader)| nodes.contains(&leader))
}

fn answer_for<R: Runtime>(call: &Call<R>, image: &Image, key_type: i8, key: &str) -> Result<Found, Refused> {
    match key_type {
        GROUP if !call.allows(Operation::Describe, Resource::Group(key)) => {
            Err((ErrorCode::GroupAuthorizationFailed, "The principal may not describe the group."))
        }
        GROUP => {
            let coordinator = coordinator_of(image, key).and_then(|(_, leader)| {
                let (host, port, _) = node_endpoint(image, leader, &call.context.listener)?;
                Some((leader.0, host, port))
            });
            coordinator
                .ok_or((ErrorCode::CoordinatorNotAvailable, "The group's coordinator cannot be reached."))
        }
        TRANSACTION => Err((
            ErrorCode::TransactionalIdAuthorizationFailed,
            "This broker does not offer transactions; leave transactional.id unset.",
        )),
        SHARE if call.answer.version >= SHARE_FROM => {
            Err((ErrorCode::CoordinatorNotAvailable, "This broker does not coordinate share groups yet."))
        }
        _ => Err((ErrorCode::InvalidRequest, "The key type is not one of this version.")),
    }
}

/// Has the topic of the groups created.
///
/// # Errors
/// COORDINATOR_NOT_AVAILABLE if it cannot be: the client looks again.
fn create_offsets_topic<R: Runtime>(
    call: &Call<R>,
) -> impl Future<Output = Result<(), ErrorCode>> + 'static + use<R> {
    let settings = &call.services.settings.groups;
    // One node must work with the defaults, so the replicas are no more than there are brokers to put them on. One that is
    // fenced gets its replica, and catches up when it is back.
    let image = call.services.image();
    let brokers = i16::try_from(image.brokers().filter(|broker| !broker.in_controlled_shutdown).count());
    let brokers = brokers.unwrap_or(i16::MAX).max(1);
    let config = |key: &str, value: String| (key.to_owned(), Some(value));
    let topic = NewTopic {
        name: OFFSETS_TOPIC.to_owned(),
        partition_count: settings.offsets_partitions,
        replication_factor: settings.offsets_replication_factor.min(brokers),
        assignments: Vec::new(),
        configs: vec![
            config("cleanup.policy", "compact".to_owned()),
            config("compression.type", "producer".to_owned()),
            config("segment.bytes", settings.offsets_segment_bytes.to_string()),
        ],
    };
    let (reply, answer) = oneshot::channel();
    let topics = vec![topic];
    call.services.cluster.send(MetadataCommand::CreateMissingTopics { topics, reply });
    async move {
        let Ok(Ok(creations)) = answer.await else { return Err(ErrorCode::CoordinatorNotAvailable) };
        match creations.into_iter().find_map(|creation| creation.refusal) {
            Some((_, error)) => {
                tracing::error!(%error, "{OFFSETS_TOPIC} cannot be created");
                Err(ErrorCode::CoordinatorNotAvailable)
            }
            None => Ok(()),
        }
    }
}

fn single(found: Result<Found, Refused>) -> Response<'static> {
    match found {
        Ok((node_id, host, port)) => Response { node_id, host: host.into(), port, ..Response::default() },
        Err((error, message)) => Response {
            error_code: error.code(),
            error_message: Some(message.into()),
            node_id: -1,
            port: -1,
            ..Response::default()
        },
    }
}

fn batched<'a>(keys: &'a [String], find: impl Fn(&str) -> Result<Found, Refused>) -> Response<'a> {
    let coordinators = keys.iter().map(|key| {
        let coordinator = Coordinator { key: key.as_str().into(), ..Coordinator::default() };
        match find(key) {
            Ok((node_id, host, port)) => Coordinator { node_id, host: host.into(), port, ..coordinator },
            Err((error, message)) => Coordinator {
                node_id: -1,
                port: -1,
                error_code: error.code(),
                error_message: Some(message.into()),
                ..coordinator
            },
        }
    });
    Response { coordinators: coordinators.collect(), ..Response::default() }
}
