//! UpdateRaftVoter: a voter says where it is reached, and what it can do (KIP-853).

use super::add_raft_voter::refusal_of;
use super::call::{Call, Handled, Refusal, decode};
use super::metadata_change::outcome;
use super::services::Services;
use crate::cluster::command::MetadataCommand;
use crate::cluster::quorum::{MemberKey, QuorumDescription, VoterEndpoint};
use crate::cluster::quorum_command::QuorumCommand;
use crate::runtime::{Runtime, oneshot};
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_wire::api::update_raft_voter::{CurrentLeader, Request, Response};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::NodeId;

/// The request has no timeout of its own; this is that of Kafka's clients, in milliseconds.
const TIMEOUT_MS: i32 = 30_000;

/// The level of `kraft.version` at which voters come and go: a voter must be able to work at it.
const KRAFT_VERSION: i16 = 1;

/// What stands for a term that the sender does not know.
const UNKNOWN_EPOCH: i32 = -1;

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    call.answer.charge(request.listeners.len())?;
    if !call.allows(Operation::ClusterAction, Resource::Cluster) {
        return call.answer.ready(&response(Err(ErrorCode::ClusterAuthorizationFailed), None));
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
    let versions = &request.k_raft_version_feature;
    let is_able = (versions.min_supported_version..=versions.max_supported_version).contains(&KRAFT_VERSION);
    if request.voter_id < 0 || endpoints.is_empty() || !is_able {
        return call.answer.ready(&response(Err(ErrorCode::InvalidRequest), None));
    }
    let key = MemberKey { node: NodeId(request.voter_id), directory: request.voter_directory_id };
    let cluster_id = request.cluster_id.map(|id| id.into_owned());
    let meant_epoch = request.current_leader_epoch;
    let Call { services, answer, context, .. } = call;
    Ok(Box::pin(async move {
        let described = described(&services).await;
        let changed = match described.as_ref().map_err(|refusal| refusal.code) {
            Err(code) => Err(code),
            Ok(described) => match check_epoch(meant_epoch, described) {
                Some(code) => Err(code),
                None => {
                    let (reply, receiver) = oneshot::channel();
                    let command = QuorumCommand::UpdateVoter { cluster_id, key, endpoints, reply };
                    services.cluster.send(MetadataCommand::Quorum(command));
                    let changed = outcome(&services, TIMEOUT_MS, receiver).await;
                    changed.and_then(|decided| decided.map_err(refusal_of)).map_err(|refusal| refusal.code)
                }
            },
        };
        let leader = described.ok().map(|described| leader_of(&described, &context.listener));
        answer.reply(&response(changed, leader))
    }))
}

async fn described<R: Runtime>(services: &Services<R>) -> Result<QuorumDescription, Refusal> {
    let (reply, receiver) = oneshot::channel();
    services.cluster.send(MetadataCommand::Quorum(QuorumCommand::Describe { reply }));
    outcome(services, TIMEOUT_MS, receiver).await
}

/// Whether the sender means another leadership than this one.
fn check_epoch(meant: i32, described: &QuorumDescription) -> Option<ErrorCode> {
    let term = i32::try_from(described.term).unwrap_or(i32::MAX);
    match meant {
        UNKNOWN_EPOCH => None,
        older if older < term => Some(ErrorCode::FencedLeaderEpoch),
        newer if newer > term => Some(ErrorCode::UnknownLeaderEpoch),
        _ => None,
    }
}

/// The leader, and where it is reached: on the listener that was asked if it has that, or on its first.
fn leader_of(described: &QuorumDescription, listener: &str) -> CurrentLeader<'static> {
    let leader = described.leader;
    let endpoint = described
        .members
        .iter()
        .find(|found| found.member.is_voter && Some(found.member.key.node) == leader)
        .map(|found| &found.member.endpoints)
        .and_then(|all| all.iter().find(|one| one.listener == listener).or(all.first()));
    CurrentLeader {
        leader_id: leader.map_or(-1, |leader| leader.0),
        leader_epoch: i32::try_from(described.term).unwrap_or(i32::MAX),
        host: endpoint.map(|endpoint| endpoint.host.clone()).unwrap_or_default().into(),
        port: endpoint.map_or(0, |endpoint| i32::from(endpoint.port)),
    }
}

fn response(outcome: Result<(), ErrorCode>, leader: Option<CurrentLeader<'static>>) -> Response<'static> {
    Response {
        error_code: outcome.err().map_or(0, ErrorCode::code),
        current_leader: leader.unwrap_or_default(),
        ..Response::default()
    }
}
