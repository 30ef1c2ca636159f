//! AddRaftVoter: a node that follows the metadata votes from now on (KIP-853).

use super::call::{Call, Handled, Refusal, decode};
use super::metadata_change::outcome;
use crate::cluster::command::MetadataCommand;
use crate::cluster::quorum::{MemberKey, VoterEndpoint};
use crate::cluster::quorum_command::{QuorumCommand, VoterError};
use crate::runtime::{Runtime, oneshot};
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_wire::api::add_raft_voter::{Request, Response};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::NodeId;

/// Kafka's error and its text.
pub(super) fn refusal_of(error: VoterError) -> Refusal {
    match error {
        VoterError::InconsistentClusterId => Refusal::plain(ErrorCode::InconsistentClusterId),
        VoterError::DuplicateVoter => {
            Refusal::new(ErrorCode::DuplicateVoter, "The node is a voter already; remove that one first.")
        }
        VoterError::VoterNotFound => {
            Refusal::new(ErrorCode::VoterNotFound, "No voter has this id and directory id.")
        }
        VoterError::Invalid(message) => Refusal::new(ErrorCode::InvalidRequest, message),
        VoterError::NotNow(message) => Refusal::new(ErrorCode::RequestTimedOut, message),
    }
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    call.answer.charge(request.listeners.len())?;
    if !call.allows(Operation::Alter, Resource::Cluster) {
        return call.answer.ready(&response(Err(Refusal::plain(ErrorCode::ClusterAuthorizationFailed))));
    }
    let endpoints: Vec<VoterEndpoint> = request
        .listeners
        .iter()
        .map(|listener| VoterEndpoint {
            listener: listener.name.into_owned(),
            host: listener.host.into_owned(),
            port: listener.port,
        })
        .collect();
    if request.voter_id < 0 || endpoints.is_empty() {
        let text = "A voter needs an id from 0 and a listener at which the others reach it.";
        return call.answer.ready(&response(Err(Refusal::new(ErrorCode::InvalidRequest, text))));
    }
    let key = MemberKey { node: NodeId(request.voter_id), directory: request.voter_directory_id };
    let cluster_id = request.cluster_id.map(|id| id.into_owned());
    let timeout_ms = request.timeout_ms;
    let (reply, receiver) = oneshot::channel();
    let command = QuorumCommand::AddVoter { cluster_id, key, endpoints, reply };
    call.services.cluster.send(MetadataCommand::Quorum(command));
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let changed = outcome(&services, timeout_ms, receiver).await;
        answer.reply(&response(changed.and_then(|decided| decided.map_err(refusal_of))))
    }))
}

fn response(outcome: Result<(), Refusal>) -> Response<'static> {
    let refusal = outcome.err();
    Response {
        error_code: refusal.as_ref().map_or(0, |refusal| refusal.code.code()),
        error_message: refusal.map(|refusal| refusal.message.into()),
        ..Response::default()
    }
}
