//! OffsetForLeaderEpoch: where the log of an epoch ends, so that a client finds out that what it has read was
//! truncated (KIP-101, KIP-320).

use super::call::{Call, Handled, decode};
use super::topics;
use crate::partition::command::{PartitionCommand, PartitionError};
use crate::runtime::{Runtime, oneshot};
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::partition::EpochEnd;
use logmill_wire::api::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderPartition, OffsetForLeaderTopicResult, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::LeaderEpoch;

enum Lookup {
    Refused(ErrorCode),
    Sent(oneshot::Receiver<Result<EpochEnd, PartitionError>>),
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    call.answer.charge(request.topics.iter().map(|topic| 1 + topic.partitions.len()).sum())?;
    let lookups: Vec<_> = request
        .topics
        .iter()
        .map(|topic| {
            let partitions = topic.partitions.iter();
            let partitions: Vec<_> = partitions
                .map(|partition| (partition.partition, begin(&call, &topic.topic, &partition)))
                .collect();
            (topic.topic.into_owned(), partitions)
        })
        .collect();
    let Call { answer, .. } = call;
    Ok(Box::pin(async move {
        let mut topics = Vec::with_capacity(lookups.len());
        for (topic, partitions) in lookups {
            let mut answers = Vec::with_capacity(partitions.len());
            for (partition, lookup) in partitions {
                let result = match lookup {
                    Lookup::Refused(error) => Err(error),
                    Lookup::Sent(receiver) => match receiver.await {
                        Ok(result) => result.map_err(|error| error.code()),
                        Err(oneshot::Closed) => Err(PartitionError::Stopping.code()),
                    },
                };
                let end = result.unwrap_or(EpochEnd::UNDEFINED);
                answers.push(EpochEndOffset {
                    error_code: result.err().unwrap_or_default().code(),
                    partition,
                    leader_epoch: end.epoch.0,
                    end_offset: end.end_offset.0,
                });
            }
            topics.push(OffsetForLeaderTopicResult { topic: topic.into(), partitions: answers.into() });
        }
        answer.reply(&Response { topics: topics.into(), ..Response::default() })
    }))
}

fn begin<R: Runtime>(call: &Call<R>, topic: &str, partition: &OffsetForLeaderPartition) -> Lookup {
    if !call.allows(Operation::Describe, Resource::Topic(topic)) {
        return Lookup::Refused(ErrorCode::TopicAuthorizationFailed);
    }
    let image = call.services.image();
    let led = topics::find(&image, false, Default::default(), topic)
        .and_then(|topic| topics::led(&call.services, &image, &topic, partition.partition));
    let led = match led {
        Err(error) => return Lookup::Refused(error),
        Ok(led) => led,
    };
    let (reply, answer) = oneshot::channel();
    call.services.partitions.send(PartitionCommand::EpochEnd {
        partition: led.partition,
        current_leader_epoch: LeaderEpoch(partition.current_leader_epoch),
        epoch: LeaderEpoch(partition.leader_epoch),
        reply,
    });
    Lookup::Sent(answer)
}
