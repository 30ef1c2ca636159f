//! OffsetFetch: how far groups have come (batched from version 8 on, KIP-709).

use super::call::{Call, Handled, decode};
use super::groups::{Asked, MISMATCHED, ask, owned};
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::group::{
    FetchOffsetsRequest, GroupReply, GroupRequest, NamedPartition, OffsetAndMetadata,
};
use logmill_state::metadata::Image;
use logmill_wire::api::offset_fetch::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponseGroup,
    OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId};
use std::sync::Arc;

/// The first version that asks for several groups.
const BATCHED_FROM: i16 = 8;
/// The first version that names topics by id.
const TOPIC_IDS_FROM: i16 = 10;
/// The first version with an error of the whole answer.
const TOP_LEVEL_ERROR_FROM: i16 = 2;

/// One group of the request, on its way.
struct GroupFetch {
    group_id: Arc<str>,
    /// The topics that are asked for, in order; `None` for all that have an offset.
    topics: Option<Vec<TopicFetch>>,
    asked: Asked,
}

struct TopicFetch {
    name: Arc<str>,
    id: TopicId,
    partitions: Vec<i32>,
    refused: Option<ErrorCode>,
}

/// What is found of one topic.
struct TopicFound {
    name: Arc<str>,
    id: TopicId,
    partitions: Vec<(i32, Result<Option<OffsetAndMetadata>, ErrorCode>)>,
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(elements(&request))?;
    let image = call.services.image();
    let groups: Vec<GroupFetch> = if version < BATCHED_FROM {
        let topics = request.topics.map(|topics| {
            let topic = |topic: logmill_wire::api::offset_fetch::OffsetFetchRequestTopic<'_>| {
                OffsetFetchRequestTopics {
                    name: topic.name.into_owned().into(),
                    partition_indexes: topic.partition_indexes.iter().collect(),
                    ..OffsetFetchRequestTopics::default()
                }
            };
            topics.iter().map(topic).collect()
        });
        let only = OffsetFetchRequestGroup {
            group_id: request.group_id,
            topics,
            ..OffsetFetchRequestGroup::default()
        };
        vec![begin(&call, &image, &only)]
    } else {
        request.groups.iter().map(|group| begin(&call, &image, &group)).collect()
    };
    Ok(Box::pin(async move {
        let mut answers = Vec::with_capacity(groups.len());
        for group in groups {
            answers.push(finish(&call, group).await);
            if call.services.runtime.should_yield() {
                call.services.runtime.yield_now().await;
            }
        }
        let response = if version < BATCHED_FROM { single(answers, version) } else { batched(answers) };
        call.answer.reply(&response)
    }))
}

fn elements(request: &Request<'_>) -> usize {
    let old: usize = request.topics.iter().flatten().map(|topic| 1 + topic.partition_indexes.len()).sum();
    let new: usize = request
        .groups
        .iter()
        .map(|group| {
            1 + group.topics.iter().flatten().map(|topic| 1 + topic.partition_indexes.len()).sum::<usize>()
        })
        .sum();
    old + new
}

fn begin<R: Runtime>(call: &Call<R>, image: &Image, group: &OffsetFetchRequestGroup<'_>) -> GroupFetch {
    let by_id = call.answer.version >= TOPIC_IDS_FROM;
    let topics: Option<Vec<TopicFetch>> = group.topics.as_ref().map(|topics| {
        let topic = |topic: OffsetFetchRequestTopics<'_>| {
            let name = if by_id {
                image.topic_by_id(topic.topic_id).map(|found| Arc::clone(&found.name))
            } else {
                Some(owned(&topic.name))
            };
            let refused = match &name {
                None => Some(ErrorCode::UnknownTopicId),
                Some(name) if !call.allows(Operation::Describe, Resource::Topic(name)) => {
                    Some(ErrorCode::TopicAuthorizationFailed)
                }
                Some(_) => None,
            };
            TopicFetch {
                name: name.unwrap_or_else(|| owned("")),
                id: topic.topic_id,
                partitions: topic.partition_indexes.iter().collect(),
                refused,
            }
        };
        topics.iter().map(topic).collect()
    });
    let partitions = topics.as_ref().map(|topics| {
        let admitted = topics.iter().filter(|topic| topic.refused.is_none());
        let partition = |topic: &TopicFetch, index: i32| NamedPartition {
            topic: Arc::clone(&topic.name),
            partition: PartitionIndex(index),
        };
        admitted
            .flat_map(|topic| {
                topic.partitions.iter().map(|&index| partition(topic, index)).collect::<Vec<_>>()
            })
            .collect()
    });
    let fetch = FetchOffsetsRequest {
        group_id: owned(&group.group_id),
        member: group.member_id.as_ref().map(|id| (owned(id), group.member_epoch)),
        partitions,
    };
    let asked = ask(call, Operation::Describe, &group.group_id, GroupRequest::FetchOffsets(fetch));
    GroupFetch { group_id: owned(&group.group_id), topics, asked }
}

type GroupFound = (Arc<str>, Result<Vec<TopicFound>, ErrorCode>, Option<Vec<TopicFetch>>);

async fn finish<R: Runtime>(call: &Call<R>, group: GroupFetch) -> GroupFound {
    let found = match group.asked.reply().await {
        Ok(GroupReply::FetchOffsets(found)) => found,
        Ok(_) => Err(MISMATCHED),
        Err(error) => Err(error),
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return (group.group_id, Err(error), group.topics),
    };
    let topics = match group.topics {
        Some(topics) => requested(topics, found),
        None => all(call, found),
    };
    (group.group_id, Ok(topics), None)
}

fn requested(
    topics: Vec<TopicFetch>,
    found: Vec<(NamedPartition, Option<OffsetAndMetadata>)>,
) -> Vec<TopicFound> {
    // The coordinator keeps the order of the request.
    let mut found = found.into_iter();
    topics
        .into_iter()
        .map(|topic| TopicFound {
            partitions: topic
                .partitions
                .into_iter()
                .map(|index| match topic.refused {
                    Some(error) => (index, Err(error)),
                    None => (index, Ok(found.next().and_then(|(_, offset)| offset))),
                })
                .collect(),
            name: topic.name,
            id: topic.id,
        })
        .collect()
}

fn all<R: Runtime>(
    call: &Call<R>,
    found: Vec<(NamedPartition, Option<OffsetAndMetadata>)>,
) -> Vec<TopicFound> {
    let image = call.services.image();
    let by_id = call.answer.version >= TOPIC_IDS_FROM;
    let mut topics: Vec<TopicFound> = Vec::new();
    for (partition, offset) in found {
        let index = partition.partition.0;
        if let Some(topic) = topics.last_mut().filter(|topic| topic.name == partition.topic) {
            topic.partitions.push((index, Ok(offset)));
            continue;
        }
        let id = image.topic_by_name(&partition.topic).map(|topic| topic.id);
        let is_hidden =
            (by_id && id.is_none()) || !call.allows(Operation::Describe, Resource::Topic(&partition.topic));
        if !is_hidden {
            let id = id.unwrap_or(TopicId::ZERO);
            topics.push(TopicFound { name: partition.topic, id, partitions: vec![(index, Ok(offset))] });
        }
    }
    topics
}

/// What a partition's place in the response says: nothing committed looks like offset -1.
fn shown(result: Result<Option<OffsetAndMetadata>, ErrorCode>) -> (OffsetAndMetadata, ErrorCode) {
    let nothing =
        || OffsetAndMetadata { offset: Offset(-1), leader_epoch: LeaderEpoch::NONE, metadata: owned("") };
    match result {
        Ok(Some(offset)) => (offset, ErrorCode::None),
        Ok(None) => (nothing(), ErrorCode::None),
        Err(error) => (nothing(), error),
    }
}

fn batched(groups: Vec<GroupFound>) -> Response<'static> {
    let groups = groups.into_iter().map(|(group_id, found, _)| {
        let error = found.as_ref().err().copied().unwrap_or(ErrorCode::None);
        let topics = found.unwrap_or_default().into_iter().map(|topic| OffsetFetchResponseTopics {
            name: topic.name.to_string().into(),
            topic_id: topic.id,
            partitions: topic
                .partitions
                .into_iter()
                .map(|(index, result)| {
                    let (offset, error) = shown(result);
                    OffsetFetchResponsePartitions {
                        partition_index: index,
                        committed_offset: offset.offset.0,
                        committed_leader_epoch: offset.leader_epoch.0,
                        metadata: Some(offset.metadata.to_string().into()),
                        error_code: error.code(),
                    }
                })
                .collect(),
        });
        OffsetFetchResponseGroup {
            group_id: group_id.to_string().into(),
            topics: topics.collect(),
            error_code: error.code(),
        }
    });
    Response { groups: groups.collect(), ..Response::default() }
}

fn single(groups: Vec<GroupFound>, version: i16) -> Response<'static> {
    let Some((_, found, requested)) = groups.into_iter().next() else { return Response::default() };
    let error = found.as_ref().err().copied().unwrap_or(ErrorCode::None);
    let topics = found.unwrap_or_else(|error| {
        // Before version 2 an error has no place but at each partition.
        let failed = requested.unwrap_or_default().into_iter().map(|topic| TopicFound {
            partitions: topic.partitions.into_iter().map(|index| (index, Err(error))).collect(),
            name: topic.name,
            id: topic.id,
        });
        if version < TOP_LEVEL_ERROR_FROM { failed.collect() } else { Vec::new() }
    });
    let topics = topics.into_iter().map(|topic| OffsetFetchResponseTopic {
        name: topic.name.to_string().into(),
        partitions: topic
            .partitions
            .into_iter()
            .map(|(index, result)| {
                let (offset, error) = shown(result);
                OffsetFetchResponsePartition {
                    partition_index: index,
                    committed_offset: offset.offset.0,
                    committed_leader_epoch: offset.leader_epoch.0,
                    metadata: Some(offset.metadata.to_string().into()),
                    error_code: error.code(),
                }
            })
            .collect(),
    });
    let error_code = if version < TOP_LEVEL_ERROR_FROM { 0 } else { error.code() };
    Response { topics: topics.collect(), error_code, ..Response::default() }
}
