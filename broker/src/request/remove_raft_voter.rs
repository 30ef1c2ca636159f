//! RemoveRaftVoter: a node does not vote on the metadata any more; while it runs it follows them (KIP-853).

use super::add_raft_voter::refusal_of;
use super::call::{Call, Handled, Refusal, decode};
use super::metadata_change::outcome;
use crate::cluster::command::MetadataCommand;
use crate::cluster::quorum::MemberKey;
use crate::cluster::quorum_command::QuorumCommand;
use crate::runtime::{Runtime, oneshot};
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_wire::api::remove_raft_voter::{Request, Response};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::NodeId;

/// The request has no timeout of its own; this is that of Kafka's clients, in milliseconds.
const TIMEOUT_MS: i32 = 30_000;

pub(super) fn handle<R: Runtime>(call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    if !call.allows(Operation::Alter, Resource::Cluster) {
        return call.answer.ready(&response(Err(Refusal::plain(ErrorCode::ClusterAuthorizationFailed))));
    }
    if request.voter_id < 0 {
        let text = "The id of a voter is at least 0.";
        return call.answer.ready(&response(Err(Refusal::new(ErrorCode::InvalidRequest, text))));
    }
    let key = MemberKey { node: NodeId(request.voter_id), directory: request.voter_directory_id };
    let cluster_id = request.cluster_id.map(|id| id.into_owned());
    let (reply, receiver) = oneshot::channel();
    let command = QuorumCommand::RemoveVoter { cluster_id, key, reply };
    call.services.cluster.send(MetadataCommand::Quorum(command));
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let changed = outcome(&services, TIMEOUT_MS, receiver).await;
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
