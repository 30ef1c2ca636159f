//! DescribeCluster: the cluster's id, controller and brokers, or its controllers (KIP-700, KIP-919, KIP-1073).

use super::call::{Call, Handled, decode};
use super::metadata_change::outcome;
use super::topics::controller_id;
use crate::cluster::command::MetadataCommand;
use crate::cluster::quorum::QuorumDescription;
use crate::cluster::quorum_command::QuorumCommand;
use crate::runtime::{Runtime, oneshot};
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_wire::api::describe_cluster::{DescribeClusterBroker, Request, Response};
use logmill_wire::error_codes::ErrorCode;

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

/// The first version with types of endpoints (KIP-919).
const TYPES_FROM: i16 = 1;

/// The request has no timeout of its own; this is that of Kafka's clients, in milliseconds.
const TIMEOUT_MS: i32 = 30_000;

/// What is told if nobody leads the controllers.
const NO_LEADER: i32 = -1;

pub(super) fn handle<R: Runtime>(call: Call<R>) -> Handled {
    let request: Request = decode(&call.body, call.answer.version)?;
    let image = call.services.image();
    let is_of_controllers = call.services.is_of_controllers(&call.context.listener);
    let offered = if is_of_controllers { CONTROLLERS } else { BROKERS };
    // Version 0 cannot say it.
    let told = if call.answer.version < TYPES_FROM { BROKERS } else { offered };
    let mut response = Response { endpoint_type: told, ..Response::default() };
    if request.endpoint_type != offered {
        let (error, message) = match request.endpoint_type {
            BROKERS => (
                ErrorCode::MismatchedEndpointType,
                "This listener serves controllers; ask a listener of the brokers.",
            ),
            CONTROLLERS => (
                ErrorCode::MismatchedEndpointType,
                "This listener serves brokers; ask a listener of the controllers.",
            ),
            _ => {
                (ErrorCode::UnsupportedEndpointType, "The endpoint type is neither brokers nor controllers.")
            }
        };
        response.error_code = error.code();
        response.error_message = Some(message.into());
        return call.answer.ready(&response);
    }
    if request.include_cluster_authorized_operations && call.allows(Operation::Describe, Resource::Cluster) {
        let authorizer = &call.services.state.authorizer;
        response.cluster_authorized_operations =
            authorizer.authorized_operations(&call.context, Resource::Cluster);
    }
    response.cluster_id = image.cluster_id().unwrap_or_default().to_string().into();
    if is_of_controllers {
        return tell_controllers(call, response);
    }
    response.controller_id = controller_id(&call.services, &image);
    response.brokers = image
        .brokers()
        .filter(|broker| request.include_fenced_brokers || !broker.fenced)
        .filter_map(|broker| {
            let endpoint = broker.endpoint(&call.context.listener)?;
            Some(DescribeClusterBroker {
                broker_id: broker.id.0,
                host: endpoint.host.clone().into(),
                port: i32::from(endpoint.port),
                rack: broker.rack.clone().map(Into::into),
                is_fenced: broker.fenced,
            })
        })
        .collect();
    call.answer.ready(&response)
}

/// The voters that are reached on the listener that was asked, and the one that leads them, as this node knows them.
fn tell_controllers<R: Runtime>(call: Call<R>, mut response: Response<'static>) -> Handled {
    let (reply, receiver) = oneshot::channel();
    call.services.cluster.send(MetadataCommand::Quorum(QuorumCommand::Members { reply }));
    let Call { services, answer, context, .. } = call;
    Ok(Box::pin(async move {
        match outcome(&services, TIMEOUT_MS, receiver).await {
            Ok(members) => {
                response.controller_id = members.leader.map_or(NO_LEADER, |leader| leader.0);
                response.brokers = controllers(&members, &context.listener).into();
            }
            Err(refusal) => {
                response.error_code = refusal.code.code();
                response.error_message = Some(refusal.message.into());
            }
        }
        answer.reply(&response)
    }))
}

fn controllers(members: &QuorumDescription, listener: &str) -> Vec<DescribeClusterBroker<'static>> {
    let voters = members.members.iter().map(|found| &found.member).filter(|member| member.is_voter);
    let reached = voters.filter_map(|voter| {
        let endpoint = voter.endpoints.iter().find(|one| one.listener.eq_ignore_ascii_case(listener))?;
        Some(DescribeClusterBroker {
            broker_id: voter.key.node.0,
            host: endpoint.host.clone().into(),
            port: i32::from(endpoint.port),
            rack: None,
            is_fenced: false,
        })
    });
    reached.collect()
}
