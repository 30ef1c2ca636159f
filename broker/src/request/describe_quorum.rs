//! DescribeQuorum: the quorum that keeps the metadata, as its leader knows it (KIP-595, KIP-836, KIP-853).

use super::call::{Call, Handled, Refusal, decode};
use super::metadata_change::outcome;
use crate::cluster::command::MetadataCommand;
use crate::cluster::quorum::{MemberDescription, QuorumDescription};
use crate::cluster::quorum_command::QuorumCommand;
use crate::runtime::{Runtime, oneshot};
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::metadata::CLUSTER_METADATA_TOPIC;
use logmill_wire::api::describe_quorum::{
    Listener, Node, ReplicaState, Request, Response, ResponsePartitionData, ResponseTopicData,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::Uuid;
use std::collections::BTreeMap;

/// The request has no timeout of its own; this is that of Kafka's clients, in milliseconds.
const TIMEOUT_MS: i32 = 30_000;

/// The first version with directories and addresses (KIP-853).
const DIRECTORIES_FROM: i16 = 2;

/// What stands for a leader or a time that is not known.
const UNKNOWN: i32 = -1;

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    call.answer.charge(request.topics.iter().map(|topic| 1 + topic.partitions.len()).sum())?;
    if !call.allows(Operation::Describe, Resource::Cluster) {
        return call.answer.ready(&failed(Refusal::plain(ErrorCode::ClusterAuthorizationFailed)));
    }
    let wanted: Vec<(String, Vec<i32>)> = request
        .topics
        .iter()
        .map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| partition.partition_index);
            (topic.topic_name.into_owned(), partitions.collect())
        })
        .collect();
    let is_metadata = |(name, partitions): &(String, Vec<i32>)| {
        name == CLUSTER_METADATA_TOPIC && partitions.as_slice() == [0]
    };
    // The metadata have one log, and the request is about that alone.
    if wanted.len() != 1 || !wanted.iter().all(is_metadata) {
        return call.answer.ready(&unknown(wanted));
    }
    let (reply, receiver) = oneshot::channel();
    call.services.cluster.send(MetadataCommand::Quorum(QuorumCommand::Describe { reply }));
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let response = match outcome(&services, TIMEOUT_MS, receiver).await {
            Ok(described) => told(&described, answer.version),
            Err(refusal) => failed(refusal),
        };
        answer.reply(&response)
    }))
}

fn failed(refusal: Refusal) -> Response<'static> {
    Response {
        error_code: refusal.code.code(),
        error_message: Some(refusal.message.into()),
        ..Response::default()
    }
}

fn unknown(wanted: Vec<(String, Vec<i32>)>) -> Response<'static> {
    let error = ErrorCode::UnknownTopicOrPartition;
    let topics = wanted.into_iter().map(|(name, partitions)| ResponseTopicData {
        topic_name: name.into(),
        partitions: partitions
            .into_iter()
            .map(|partition_index| ResponsePartitionData {
                partition_index,
                error_code: error.code(),
                error_message: Some(error.description().into()),
                ..ResponsePartitionData::default()
            })
            .collect(),
    });
    Response { error_message: None, topics: topics.collect(), ..Response::default() }
}

fn replica(described: &MemberDescription, version: i16) -> ReplicaState {
    let directory = described.member.key.directory;
    ReplicaState {
        replica_id: described.member.key.node.0,
        replica_directory_id: if version < DIRECTORIES_FROM { Uuid::ZERO } else { directory },
        log_end_offset: described.log_end,
        last_fetch_timestamp: described.last_heard.map_or(i64::from(UNKNOWN), |time| time.0),
        last_caught_up_timestamp: described.last_caught_up.map_or(i64::from(UNKNOWN), |time| time.0),
    }
}

fn told(described: &QuorumDescription, version: i16) -> Response<'static> {
    let of = |is_voter: bool| -> Vec<ReplicaState> {
        let members = described.members.iter().filter(|found| found.member.is_voter == is_voter);
        members.map(|found| replica(found, version)).collect()
    };
    let partition = ResponsePartitionData {
        partition_index: 0,
        error_code: 0,
        error_message: None,
        leader_id: described.leader.map_or(UNKNOWN, |leader| leader.0),
        leader_epoch: i32::try_from(described.term).unwrap_or(i32::MAX),
        high_watermark: described.high_watermark,
        current_voters: of(true).into(),
        observers: of(false).into(),
    };
    let mut nodes: BTreeMap<i32, Vec<Listener<'static>>> = BTreeMap::new();
    let addressed = described.members.iter().map(|found| &found.member);
    for member in addressed.filter(|member| member.is_voter && version >= DIRECTORIES_FROM) {
        let listeners = member.endpoints.iter().map(|endpoint| Listener {
            name: endpoint.listener.clone().into(),
            host: endpoint.host.clone().into(),
            port: endpoint.port,
        });
        nodes.entry(member.key.node.0).or_default().extend(listeners);
    }
    let nodes = nodes.into_iter().map(|(node_id, listeners)| Node { node_id, listeners: listeners.into() });
    let topic =
        ResponseTopicData { topic_name: CLUSTER_METADATA_TOPIC.into(), partitions: vec![partition].into() };
    Response {
        error_message: None,
        topics: vec![topic].into(),
        nodes: nodes.collect(),
        ..Response::default()
    }
}
