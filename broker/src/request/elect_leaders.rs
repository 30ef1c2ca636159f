//! ElectLeaders: the preferred replica leads again, or any replica does (KIP-183, KIP-460).

use super::call::{Call, Handled, Refusal, decode};
use super::metadata_change::outcome;
use crate::cluster::command::MetadataCommand;
use crate::cluster::placement_command::PlacementCommand;
use crate::runtime::{Runtime, oneshot};
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::metadata::{ElectLeaderError, ElectionType, Image};
use logmill_wire::api::elect_leaders::{PartitionResult, ReplicaElectionResult, Request, Response};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{PartitionIndex, TopicPartition};
use std::collections::BTreeMap;

/// The first version with an election type and an error of the whole request.
const TYPES_FROM: i16 = 1;

const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

type Results = BTreeMap<String, BTreeMap<i32, Result<(), Refusal>>>;

const fn code_of(error: ElectLeaderError) -> ErrorCode {
    match error {
        ElectLeaderError::UnknownPartition => ErrorCode::UnknownTopicOrPartition,
        ElectLeaderError::NotNeeded => ErrorCode::ElectionNotNeeded,
        ElectLeaderError::PreferredNotAvailable => ErrorCode::PreferredLeaderNotAvailable,
        ElectLeaderError::EligibleNotAvailable => ErrorCode::EligibleLeadersNotAvailable,
    }
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    let topics = request.topic_partitions.iter().flatten();
    call.answer.charge(topics.map(|topic| 1 + topic.partitions.len()).sum())?;
    // Without a list there is nothing to answer but the error itself.
    let named: Results = request
        .topic_partitions
        .iter()
        .flatten()
        .map(|topic| {
            let partitions = topic.partitions.iter().map(|index| (index, Ok(())));
            (topic.topic.into_owned(), partitions.collect())
        })
        .collect();
    let election = match if version < TYPES_FROM { PREFERRED } else { request.election_type } {
        PREFERRED => Ok(ElectionType::Preferred),
        UNCLEAN => Ok(ElectionType::Unclean),
        other => Err(Refusal::new(ErrorCode::InvalidRequest, format!("{other} is no type of elections."))),
    };
    let election = if call.allows(Operation::Alter, Resource::Cluster) {
        election
    } else {
        Err(Refusal::plain(ErrorCode::ClusterAuthorizationFailed))
    };
    let election = match election {
        Ok(election) => election,
        Err(refusal) => return call.answer.ready(&response(version, Err((named, refusal)))),
    };
    let image = call.services.image();
    let (mut results, mut wanted) = (Results::new(), Vec::new());
    for (name, partitions) in &named {
        match image.topic_by_name(name) {
            Some(topic) => wanted.extend(
                partitions
                    .keys()
                    .map(|&index| TopicPartition { topic_id: topic.id, partition: PartitionIndex(index) }),
            ),
            None => {
                let refusal =
                    Refusal::new(ErrorCode::UnknownTopicOrPartition, format!("No such topic as {name}"));
                let refused = partitions.keys().map(|&index| (index, Err(refusal.clone())));
                results.insert(name.clone(), refused.collect());
            }
        }
    }
    let partitions = request.topic_partitions.is_some().then_some(wanted);
    let timeout_ms = request.timeout_ms;
    let (reply, receiver) = oneshot::channel();
    let command = PlacementCommand::ElectLeaders { partitions, election, reply };
    call.services.cluster.send(MetadataCommand::Placement(command));
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let told = match outcome(&services, timeout_ms, receiver).await {
            Ok(elected) => {
                add(&mut results, &image, elected);
                Ok(results)
            }
            Err(refusal) => Err((named, refusal)),
        };
        answer.reply(&response(version, told))
    }))
}

fn add(results: &mut Results, image: &Image, elected: Vec<(TopicPartition, Result<(), ElectLeaderError>)>) {
    for (key, result) in elected {
        // A topic that was made since this request came is not told of.
        let Some(topic) = image.topic_by_id(key.topic_id) else { continue };
        let result = result.map_err(|error| match error {
            ElectLeaderError::UnknownPartition => {
                Refusal::new(code_of(error), format!("No such partition as {}-{}", topic.name, key.partition))
            }
            _ => Refusal::plain(code_of(error)),
        });
        results.entry(topic.name.to_string()).or_default().insert(key.partition.0, result);
    }
}

/// The answer; an error of the whole request comes with the partitions that were named, for versions without a place
/// for it.
fn response(version: i16, told: Result<Results, (Results, Refusal)>) -> Response<'static> {
    let (results, error) = match told {
        Ok(results) => (results, ErrorCode::None),
        Err((named, refusal)) => {
            let all = |partitions: BTreeMap<i32, _>| -> BTreeMap<i32, Result<(), Refusal>> {
                partitions.into_keys().map(|index| (index, Err(refusal.clone()))).collect()
            };
            (named.into_iter().map(|(name, partitions)| (name, all(partitions))).collect(), refusal.code)
        }
    };
    let results = results.into_iter().map(|(name, partitions)| ReplicaElectionResult {
        topic: name.into(),
        partition_result: partitions
            .into_iter()
            .map(|(partition_id, result)| match result {
                Ok(()) => PartitionResult { partition_id, error_code: 0, error_message: None },
                Err(refusal) => PartitionResult {
                    partition_id,
                    error_code: refusal.code.code(),
                    error_message: Some(refusal.message.into()),
                },
            })
            .collect(),
    });
    Response {
        error_code: if version < TYPES_FROM { 0 } else { error.code() },
        replica_election_results: results.collect(),
        ..Response::default()
    }
}
