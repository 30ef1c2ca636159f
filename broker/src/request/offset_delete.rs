//! OffsetDelete: forgets offsets of topics that the group is not subscribed to (KIP-496).

use super::call::{Call, Handled, decode};
use super::groups::{MISMATCHED, ask, owned};
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::group::{DeleteOffsetsRequest, GroupReply, GroupRequest, NamedPartition};
use logmill_wire::api::offset_delete::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::PartitionIndex;
use std::sync::Arc;

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    call.answer.charge(request.topics.iter().map(|topic| 1 + topic.partitions.len()).sum())?;
    let image = call.services.image();
    let mut partitions = Vec::new();
    let mut topics: Vec<(Arc<str>, ErrorCode, Vec<i32>)> = Vec::new();
    for topic in &request.topics {
        let name = owned(&topic.name);
        let error = if !call.allows(Operation::Read, Resource::Topic(&name)) {
            ErrorCode::TopicAuthorizationFailed
        } else if image.topic_by_name(&name).is_none() {
            ErrorCode::UnknownTopicOrPartition
        } else {
            ErrorCode::None
        };
        let indexes: Vec<i32> = topic.partitions.iter().map(|partition| partition.partition_index).collect();
        if error == ErrorCode::None {
            partitions.extend(
                indexes.iter().map(|&index| NamedPartition {
                    topic: Arc::clone(&name),
                    partition: PartitionIndex(index),
                }),
            );
        }
        topics.push((name, error, indexes));
    }
    let delete = DeleteOffsetsRequest { group_id: owned(&request.group_id), partitions };
    let asked = ask(&call, Operation::Delete, &request.group_id, GroupRequest::DeleteOffsets(delete));
    let answer = call.answer;
    Ok(Box::pin(async move {
        let deleted = match asked.reply().await {
            Ok(GroupReply::DeleteOffsets(deleted)) => deleted,
            Ok(_) => Err(MISMATCHED),
            Err(error) => Err(error),
        };
        let results = match deleted {
            Ok(results) => results,
            Err(error) => {
                return answer.reply(&Response { error_code: error.code(), ..Response::default() });
            }
        };
        let mut results = results.into_iter();
        let topics = topics.into_iter().map(|(name, refused, indexes)| OffsetDeleteResponseTopic {
            name: name.to_string().into(),
            partitions: indexes
                .into_iter()
                .map(|index| {
                    let error = match refused {
                        ErrorCode::None => results.next().unwrap_or(MISMATCHED),
                        refused => refused,
                    };
                    OffsetDeleteResponsePartition { partition_index: index, error_code: error.code() }
                })
                .collect(),
        });
        answer.reply(&Response { topics: topics.collect(), ..Response::default() })
    }))
}
