//! AlterPartitionReassignments: partitions move to other brokers, or stay where they were (KIP-455, KIP-860).

use super::call::{Call, Handled, Refusal, decode};
use super::metadata_change::outcome;
use crate::cluster::command::MetadataCommand;
use crate::cluster::placement_command::{PlacementCommand, Reassignment};
use crate::runtime::{Runtime, oneshot};
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::metadata::ReassignError;
use logmill_wire::api::alter_partition_reassignments::{
    ReassignablePartitionResponse, ReassignableTopicResponse, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, PartitionIndex, TopicPartition};

/// One partition of the request: the refusal that is known at once, or its place among what the controller is asked.
struct Asked {
    index: i32,
    outcome: Result<usize, Refusal>,
}

fn refusal_of(error: &ReassignError, topic: &str, index: i32) -> Refusal {
    match error {
        ReassignError::UnknownPartition => Refusal::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("Unable to find partition {topic}:{index}."),
        ),
        ReassignError::NotInProgress => Refusal::plain(ErrorCode::NoReassignmentInProgress),
        ReassignError::InvalidAssignment(message) => {
            Refusal::new(ErrorCode::InvalidReplicaAssignment, message.clone())
        }
        ReassignError::FactorChange { .. } => {
            Refusal::new(ErrorCode::InvalidReplicationFactor, error.to_string())
        }
    }
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    let elements = request
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.into_vec())
        .map(|partition| 2 + partition.replicas.as_ref().map_or(0, |replicas| replicas.len()));
    call.answer.charge(elements.sum())?;
    let allow_factor_change = request.allow_replication_factor_change;
    if !call.allows(Operation::Alter, Resource::Cluster) {
        let refusal = Refusal::plain(ErrorCode::ClusterAuthorizationFailed);
        return call.answer.ready(&failed(allow_factor_change, refusal));
    }
    let image = call.services.image();
    let mut partitions: Vec<Reassignment> = Vec::new();
    let mut asked = Vec::new();
    for topic in request.topics.iter() {
        let name = topic.name.into_owned();
        let found = image.topic_by_name(&name).map(|topic| topic.id);
        let of_topic: Vec<Asked> = topic
            .partitions
            .iter()
            .map(|partition| {
                let index = partition.partition_index;
                let outcome = match found {
                    Some(topic_id) => {
                        let key = TopicPartition { topic_id, partition: PartitionIndex(index) };
                        let replicas = partition.replicas.as_ref();
                        let replicas = replicas.map(|replicas| replicas.iter().map(NodeId).collect());
                        partitions.push((key, replicas));
                        Ok(partitions.len() - 1)
                    }
                    None => {
                        let text = format!("Unable to find a topic named {name}.");
                        Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, text))
                    }
                };
                Asked { index, outcome }
            })
            .collect();
        asked.push((name, of_topic));
    }
    let timeout_ms = request.timeout_ms;
    let (reply, receiver) = oneshot::channel();
    let command = PlacementCommand::Reassign { partitions, allow_factor_change, reply };
    call.services.cluster.send(MetadataCommand::Placement(command));
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let response = match outcome(&services, timeout_ms, receiver).await {
            Ok(results) => told(allow_factor_change, asked, &results),
            Err(refusal) => failed(allow_factor_change, refusal),
        };
        answer.reply(&response)
    }))
}

fn failed(allow_factor_change: bool, refusal: Refusal) -> Response<'static> {
    Response {
        allow_replication_factor_change: allow_factor_change,
        error_code: refusal.code.code(),
        error_message: Some(refusal.message.into()),
        ..Response::default()
    }
}

fn told(
    allow_factor_change: bool,
    asked: Vec<(String, Vec<Asked>)>,
    results: &[Result<(), ReassignError>],
) -> Response<'static> {
    let responses = asked.into_iter().map(|(name, partitions)| {
        let partitions = partitions
            .into_iter()
            .map(|Asked { index, outcome }| {
                let refusal = match outcome {
                    Err(refusal) => Some(refusal),
                    Ok(place) => match results.get(place) {
                        Some(Ok(())) => None,
                        Some(Err(error)) => Some(refusal_of(error, &name, index)),
                        None => Some(Refusal::plain(ErrorCode::UnknownServerError)),
                    },
                };
                ReassignablePartitionResponse {
                    partition_index: index,
                    error_code: refusal.as_ref().map_or(0, |refusal| refusal.code.code()),
                    error_message: refusal.map(|refusal| refusal.message.into()),
                }
            })
            .collect();
        ReassignableTopicResponse { name: name.into(), partitions }
    });
    Response {
        allow_replication_factor_change: allow_factor_change,
        error_message: None,
        responses: responses.collect(),
        ..Response::default()
    }
}
