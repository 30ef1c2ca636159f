//! ListOffsets: offsets by timestamp, and special positions (KIP-79, KIP-734, KIP-405, KIP-1005).

use super::call::{Call, Handled, decode};
use super::topics;
use crate::partition::command::{OffsetFound, OffsetQuery, PartitionCommand, PartitionError};
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::within;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::partition::Isolation;
use logmill_wire::api::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsTopicResponse, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, Offset, TimestampMs};
use std::collections::BTreeSet;
use std::time::Duration;

/// The first version whose response has the leader epoch.
const LEADER_EPOCH_FROM: i16 = 4;

/// How long a lookup may take, in milliseconds, where the request does not say.
const TIMEOUT_MS: u64 = 30_000;

/// What a timestamp asks for; `None` if the version has no such timestamp.
fn query(timestamp: i64, version: i16) -> Option<Query> {
    let since = |first: i16, query| (version >= first).then_some(query);
    match timestamp {
        0.. => Some(Query::Find(OffsetQuery::Timestamp(TimestampMs(timestamp)))),
        -1 => Some(Query::Find(OffsetQuery::Latest)),
        -2 => Some(Query::Find(OffsetQuery::Earliest)),
        -3 => since(7, Query::Find(OffsetQuery::MaxTimestamp)),
        -4 => since(8, Query::Find(OffsetQuery::EarliestLocal)),
        -5 => since(9, Query::Find(OffsetQuery::LatestTiered)),
        // The first offset that is not in tiered storage yet (KIP-1023); without tiers there is none.
        -6 => since(11, Query::Nothing),
        _ => None,
    }
}

enum Query {
    Find(OffsetQuery),
    Nothing,
}

enum Lookup {
    Done(Result<OffsetFound, ErrorCode>),
    Sent(oneshot::Receiver<Result<OffsetFound, PartitionError>>),
}

const NOTHING: OffsetFound =
    OffsetFound { offset: Offset(-1), timestamp: TimestampMs(-1), leader_epoch: LeaderEpoch::NONE };

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(request.topics.iter().map(|topic| 1 + topic.partitions.len()).sum())?;
    let isolation =
        if request.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
    let mut lookups = Vec::with_capacity(request.topics.len().min(1024));
    for topic in &request.topics {
        let mut seen = BTreeSet::new();
        let mut repeated = BTreeSet::new();
        for partition in &topic.partitions {
            if !seen.insert(partition.partition_index) {
                repeated.insert(partition.partition_index);
            }
        }
        let partitions: Vec<_> = topic
            .partitions
            .iter()
            .map(|partition| {
                let lookup = if repeated.contains(&partition.partition_index) {
                    Lookup::Done(Err(ErrorCode::InvalidRequest))
                } else {
                    begin(&call, &topic.name, &partition, isolation)
                };
                (partition.partition_index, lookup)
            })
            .collect();
        lookups.push((topic.name.into_owned(), partitions));
    }
    let timeout_ms =
        u64::try_from(request.timeout_ms).ok().filter(|&timeout| timeout > 0).unwrap_or(TIMEOUT_MS);
    let Call { services, answer, .. } = call;
    Ok(Box::pin(async move {
        let runtime = &services.runtime;
        let deadline = runtime.monotonic().plus_ns(timeout_ms.saturating_mul(1_000_000));
        let mut topics = Vec::with_capacity(lookups.len());
        for (name, partitions) in lookups {
            let mut answers = Vec::with_capacity(partitions.len());
            for (index, lookup) in partitions {
                let result = match lookup {
                    Lookup::Done(result) => result,
                    Lookup::Sent(receiver) => {
                        let left = Duration::from_nanos(deadline.since(runtime.monotonic()));
                        match within(runtime, left, receiver).await {
                            Some(Ok(found)) => found.map_err(|error| code_for(&error, version)),
                            Some(Err(oneshot::Closed)) => Err(PartitionError::Stopping.code()),
                            None => Err(ErrorCode::RequestTimedOut),
                        }
                    }
                };
                answers.push(partition_response(index, result, version));
            }
            topics.push(ListOffsetsTopicResponse { name: name.into(), partitions: answers.into() });
        }
        answer.reply(&Response { topics: topics.into(), ..Response::default() })
    }))
}

/// Clients before version 5 do not know that an offset may be unavailable for a while (KIP-207).
fn code_for(error: &PartitionError, version: i16) -> ErrorCode {
    match error.code() {
        ErrorCode::OffsetNotAvailable if version < 5 => ErrorCode::LeaderNotAvailable,
        code => code,
    }
}

fn begin<R: Runtime>(
    call: &Call<R>,
    topic: &str,
    partition: &ListOffsetsPartition,
    isolation: Isolation,
) -> Lookup {
    if !call.allows(Operation::Describe, Resource::Topic(topic)) {
        return Lookup::Done(Err(ErrorCode::TopicAuthorizationFailed));
    }
    let query = match query(partition.timestamp, call.answer.version) {
        None => return Lookup::Done(Err(ErrorCode::UnsupportedVersion)),
        Some(query) => query,
    };
    let image = call.services.image();
    let led = topics::find(&image, false, Default::default(), topic)
        .and_then(|topic| topics::led(&call.services, &image, &topic, partition.partition_index));
    let led = match led {
        Err(error) => return Lookup::Done(Err(error)),
        Ok(led) => led,
    };
    let Query::Find(query) = query else { return Lookup::Done(Ok(NOTHING)) };
    let (reply, answer) = oneshot::channel();
    call.services.partitions.send(PartitionCommand::FindOffset {
        partition: led.partition,
        query,
        current_leader_epoch: LeaderEpoch(partition.current_leader_epoch),
        isolation,
        reply,
    });
    Lookup::Sent(answer)
}

fn partition_response(
    index: i32,
    result: Result<OffsetFound, ErrorCode>,
    version: i16,
) -> ListOffsetsPartitionResponse {
    let found = result.unwrap_or(NOTHING);
    ListOffsetsPartitionResponse {
        partition_index: index,
        error_code: result.err().unwrap_or_default().code(),
        timestamp: found.timestamp.0,
        offset: found.offset.0,
        leader_epoch: if version >= LEADER_EPOCH_FROM { found.leader_epoch.0 } else { -1 },
    }
}
