//! DeleteRecords: moves the start of partitions' logs forward (KIP-107).

use super::call::{Call, Handled, decode};
use super::topics;
use crate::partition::command::{PartitionCommand, PartitionError};
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::within;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::metadata::{Image, is_internal_topic};
use logmill_wire::api::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsTopicResult, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::Offset;
use std::time::Duration;

/// What stands for the log's start where a deletion failed.
const NO_LOW_WATERMARK: i64 = -1;

enum Deletion {
    Refused(ErrorCode),
    Sent(oneshot::Receiver<Result<Offset, PartitionError>>),
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    call.answer.charge(request.topics.iter().map(|topic| 1 + topic.partitions.len()).sum())?;
    let image = call.services.image();
    let deletions: Vec<_> = request
        .topics
        .iter()
        .map(|topic| {
            let partitions: Vec<_> = topic
                .partitions
                .iter()
                .map(|partition| (partition.partition_index, begin(&call, &image, &topic.name, &partition)))
                .collect();
            (topic.name.into_owned(), partitions)
        })
        .collect();
    let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0);
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let runtime = &services.runtime;
        let deadline = runtime.monotonic().plus_ns(timeout_ms.saturating_mul(1_000_000));
        let mut topics = Vec::with_capacity(deletions.len());
        for (name, partitions) in deletions {
            let mut results = Vec::with_capacity(partitions.len());
            for (index, deletion) in partitions {
                let outcome = match deletion {
                    Deletion::Refused(error) => Err(error),
                    Deletion::Sent(receiver) => {
                        let left = Duration::from_nanos(deadline.since(runtime.monotonic()));
                        match within(runtime, left, receiver).await {
                            Some(Ok(outcome)) => outcome.map_err(|error| error.code()),
                            Some(Err(oneshot::Closed)) => Err(PartitionError::Stopping.code()),
                            None => Err(ErrorCode::RequestTimedOut),
                        }
                    }
                };
                results.push(DeleteRecordsPartitionResult {
                    partition_index: index,
                    low_watermark: outcome.map_or(NO_LOW_WATERMARK, |start| start.0),
                    error_code: outcome.err().unwrap_or_default().code(),
                });
            }
            topics.push(DeleteRecordsTopicResult { name: name.into(), partitions: results.into() });
        }
        answer.reply(&Response { topics: topics.into(), ..Response::default() })
    }))
}

fn begin<R: Runtime>(
    call: &Call<R>,
    image: &Image,
    topic: &str,
    partition: &DeleteRecordsPartition,
) -> Deletion {
    if !call.allows(Operation::Delete, Resource::Topic(topic)) {
        return Deletion::Refused(ErrorCode::TopicAuthorizationFailed);
    }
    // What coordinators keep is theirs to delete.
    if is_internal_topic(topic) {
        return Deletion::Refused(ErrorCode::InvalidTopicException);
    }
    let led = topics::find(image, false, Default::default(), topic)
        .and_then(|topic| topics::led(&call.services, image, &topic, partition.partition_index));
    let led = match led {
        Ok(led) => led,
        Err(error) => return Deletion::Refused(error),
    };
    let (reply, answer) = oneshot::channel();
    call.services.partitions.send(PartitionCommand::DeleteRecords {
        partition: led.partition,
        before: Offset(partition.offset),
        reply,
    });
    Deletion::Sent(answer)
}
