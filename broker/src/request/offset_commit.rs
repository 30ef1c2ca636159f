//! OffsetCommit: a group notes how far it has come.

use super::call::{Call, Handled, decode};
use super::groups::{Asked, MISMATCHED, ask, owned, owned_option};
use super::topics;
use crate::runtime::Runtime;
use crate::shard::deadline::within;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::group::{
    CommitRequest, GroupReply, GroupRequest, MemberIdentity, NamedPartition, OffsetAndMetadata,
};
use logmill_state::metadata::{Image, Topic};
use logmill_wire::api::offset_commit::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponsePartition,
    OffsetCommitResponseTopic, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId};
use std::sync::Arc;
use std::time::Duration;

/// The first version that names topics by id (KIP-848).
const TOPIC_IDS_FROM: i16 = 10;

/// The answer for one topic, while those of its partitions that the coordinator decides on are not known.
struct TopicCommit {
    name: String,
    id: TopicId,
    /// By partition: what is wrong, or `None` if the coordinator says.
    partitions: Vec<(i32, Option<ErrorCode>)>,
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(request.topics.iter().map(|topic| 1 + topic.partitions.len()).sum())?;
    let image = call.services.image();
    let mut offsets = Vec::new();
    let topics: Vec<TopicCommit> =
        request.topics.iter().map(|topic| begin(&call, &image, &topic, &mut offsets)).collect();
    let is_empty = offsets.is_empty();
    let commit = CommitRequest {
        group_id: owned(&request.group_id),
        member: MemberIdentity {
            member_id: owned(&request.member_id),
            instance_id: owned_option(request.group_instance_id.as_ref()),
        },
        generation_or_epoch: request.generation_id_or_member_epoch,
        retention_ms: request.retention_time_ms,
        offsets,
        version,
    };
    let asked = if is_empty {
        None
    } else {
        Some(ask(&call, Operation::Read, &request.group_id, GroupRequest::CommitOffsets(commit)))
    };
    let timeout = Duration::from_millis(call.services.settings.groups.offsets_commit_timeout_ms);
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let results = match asked {
            None => Ok(Vec::new()),
            Some(asked) => match within(&services.runtime, timeout, committed(asked)).await {
                Some(results) => results,
                // Whether it will be there is unknown; the client commits again.
                None => Err(ErrorCode::CoordinatorNotAvailable),
            },
        };
        answer.reply(&response(topics, results))
    }))
}

fn begin<R: Runtime>(
    call: &Call<R>,
    image: &Image,
    topic: &OffsetCommitRequestTopic<'_>,
    offsets: &mut Vec<(NamedPartition, TopicId, OffsetAndMetadata)>,
) -> TopicCommit {
    let found = topics::find(image, call.answer.version >= TOPIC_IDS_FROM, topic.topic_id, &topic.name);
    let found = found.and_then(|found| {
        let allowed = call.allows(Operation::Read, Resource::Topic(&found.name));
        if allowed { Ok(found) } else { Err(ErrorCode::TopicAuthorizationFailed) }
    });
    let mut partitions = Vec::new();
    for partition in &topic.partitions {
        let refused = match &found {
            Err(error) => Some(*error),
            Ok(found) => {
                let committed = offset_of(image, found, &partition);
                committed.map_or(Some(ErrorCode::UnknownTopicOrPartition), |(partition, offset)| {
                    offsets.push((partition, found.id, offset));
                    None
                })
            }
        };
        partitions.push((partition.partition_index, refused));
    }
    TopicCommit { name: topic.name.clone().into_owned(), id: topic.topic_id, partitions }
}

fn offset_of(
    image: &Image,
    topic: &Topic,
    partition: &OffsetCommitRequestPartition<'_>,
) -> Option<(NamedPartition, OffsetAndMetadata)> {
    let index = PartitionIndex(partition.partition_index);
    image.partition(topic, index)?;
    let offset = OffsetAndMetadata {
        offset: Offset(partition.committed_offset),
        leader_epoch: LeaderEpoch(partition.committed_leader_epoch),
        metadata: partition.committed_metadata.as_deref().unwrap_or_default().into(),
    };
    Some((NamedPartition { topic: Arc::clone(&topic.name), partition: index }, offset))
}

async fn committed(asked: Asked) -> Result<Vec<ErrorCode>, ErrorCode> {
    match asked.reply().await? {
        GroupReply::CommitOffsets(results) => Ok(results),
        _ => Err(MISMATCHED),
    }
}

fn response(topics: Vec<TopicCommit>, results: Result<Vec<ErrorCode>, ErrorCode>) -> Response<'static> {
    let (mut results, otherwise) = match results {
        Ok(results) => (results.into_iter(), MISMATCHED),
        Err(error) => (Vec::new().into_iter(), error),
    };
    let topics = topics.into_iter().map(|topic| OffsetCommitResponseTopic {
        name: topic.name.into(),
        topic_id: topic.id,
        partitions: topic
            .partitions
            .into_iter()
            .map(|(index, refused)| {
                let error = refused.unwrap_or_else(|| results.next().unwrap_or(otherwise));
                OffsetCommitResponsePartition { partition_index: index, error_code: error.code() }
            })
            .collect(),
    });
    Response { topics: topics.collect(), ..Response::default() }
}
