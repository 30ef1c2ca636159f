//! Produce: appends record batches (KIP-98, KIP-467, KIP-516).
//!
//! Record sets leave here as slices of the request's frame; nothing in them is copied or looked at.

use super::call::{Answer, Call, Handled, Outcome, Refusal, decode};
use super::services::Services;
use super::topics::{self, LeaderHint};
use crate::partition::command::{Acks, Appended, PartitionCommand, PartitionError};
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::within;
use bytes::Bytes;
use logmill_state::admission::authorizer::{Operation, RequestContext, Resource};
use logmill_state::metadata::{Image, Topic};
use logmill_wire::api::produce::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceData,
    PartitionProduceResponse, Request, Response, TopicProduceResponse,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{MonotonicNs, NodeId, TopicId};
use logmill_wire::record_batch::BatchError;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The first version with topic ids (KIP-516).
const TOPIC_IDS_FROM: i16 = 13;
/// The first version with the current leader (KIP-951).
const LEADER_HINTS_FROM: i16 = 10;

/// The least time that an append gets. Kafka's in-sync set of one acknowledges before it looks at the time-out,
/// so clients that ask for 0 are used to success; here even one replica has to write first.
const TIMEOUT_MIN_MS: u64 = 1_000;

type AppendResult = Result<Appended, PartitionError>;

/// A partition's append: refused already, or under way.
enum Append {
    Refused(Refusal),
    Sent(oneshot::Receiver<AppendResult>),
}

struct PartitionAppend {
    index: i32,
    append: Append,
}

struct TopicAppend {
    name: String,
    id: TopicId,
    topic: Option<Arc<Topic>>,
    partitions: Vec<PartitionAppend>,
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(request.topic_data.iter().map(|topic| 1 + topic.partition_data.len()).sum())?;
    let acks = match request.acks {
        0 => Some(Acks::None),
        1 => Some(Acks::Leader),
        -1 => Some(Acks::All),
        _ => None,
    };
    let refusal = match acks {
        None => Some(Refusal::plain(ErrorCode::InvalidRequiredAcks)),
        // There are no transactions; this code ends a transactional producer for good in every client.
        Some(_) if request.transactional_id.is_some() => Some(Refusal::new(
            ErrorCode::TransactionalIdAuthorizationFailed,
            "This broker does not offer transactions; leave transactional.id unset.",
        )),
        Some(_) => None,
    };
    let image = call.services.image();
    let mut appends = Vec::with_capacity(request.topic_data.len().min(1024));
    for data in &request.topic_data {
        let found = topics::find(&image, version >= TOPIC_IDS_FROM, data.topic_id, &data.name);
        let found = found.and_then(|topic| {
            let allowed = call.allows(Operation::Write, Resource::Topic(&topic.name));
            if allowed { Ok(topic) } else { Err(ErrorCode::TopicAuthorizationFailed) }
        });
        let partitions = data.partition_data.iter().map(|partition| {
            let append = match (&refusal, &found) {
                (Some(refusal), _) => Append::Refused(refusal.clone()),
                (None, Err(error)) => Append::Refused(Refusal::plain(*error)),
                (None, Ok(topic)) => begin(&call, &image, topic, &partition, acks.unwrap_or(Acks::All)),
            };
            PartitionAppend { index: partition.index, append }
        });
        let partitions = partitions.collect();
        appends.push(TopicAppend {
            name: data.name.into_owned(),
            id: data.topic_id,
            topic: found.ok(),
            partitions,
        });
    }
    let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0).max(TIMEOUT_MIN_MS);
    let Call { services, context, answer, body } = call;
    // What is left of the frame are the slices that were sent; they go when the records are in the log.
    drop(body);
    Ok(Box::pin(async move {
        if acks == Some(Acks::None) {
            return finish_unacknowledged(&services, appends, timeout_ms).await;
        }
        finish(services, &context, answer, appends, timeout_ms).await
    }))
}

/// Sends one partition's records to it.
fn begin<R: Runtime>(
    call: &Call<R>,
    image: &Image,
    topic: &Topic,
    data: &PartitionProduceData<'_>,
    acks: Acks,
) -> Append {
    let led = match topics::led(&call.services, image, topic, data.index) {
        Ok(led) => led,
        Err(error) => return Append::Refused(Refusal::plain(error)),
    };
    let Some(records) = data.records.as_ref().and_then(|records| records.borrowed()) else {
        return Append::Refused(refusal_of(&PartitionError::Batch(BatchError::NoBatch)));
    };
    // An empty slice need not lie within the frame.
    let records = if records.is_empty() { Bytes::new() } else { call.body.slice_ref(records) };
    let (reply, answer) = oneshot::channel();
    call.services.partitions.send(PartitionCommand::Append {
        partition: led.partition,
        records,
        acks,
        reply,
    });
    Append::Sent(answer)
}

fn refusal_of(error: &PartitionError) -> Refusal {
    Refusal::new(error.code(), error.message())
}

/// What one append came to. `left` is the time that all of them have together.
async fn outcome<R: Runtime>(runtime: &R, append: Append, left: Duration) -> Result<Appended, Settled> {
    let answer = match append {
        Append::Refused(refusal) => return Err(Settled { refusal, records: None }),
        Append::Sent(answer) => answer,
    };
    match within(runtime, left, answer).await {
        Some(Ok(Ok(appended))) => Ok(appended),
        Some(Ok(Err(error))) => {
            let records = match &error {
                PartitionError::Batch(BatchError::Record { index, .. }) => Some(*index),
                _ => None,
            };
            Err(Settled { refusal: refusal_of(&error), records })
        }
        Some(Err(oneshot::Closed)) => {
            Err(Settled { refusal: refusal_of(&PartitionError::Stopping), records: None })
        }
        None => {
            let text = "the records were not acknowledged in time; they may be appended nevertheless";
            Err(Settled { refusal: Refusal::new(ErrorCode::RequestTimedOut, text), records: None })
        }
    }
}

/// A refusal, and which record of the batch is to blame if it is one.
struct Settled {
    refusal: Refusal,
    records: Option<u32>,
}

/// The time that is left until `deadline`.
fn left<R: Runtime>(runtime: &R, deadline: MonotonicNs) -> Duration {
    Duration::from_nanos(deadline.since(runtime.monotonic()))
}

async fn finish_unacknowledged<R: Runtime>(
    services: &Services<R>,
    appends: Vec<TopicAppend>,
    timeout_ms: u64,
) -> Outcome {
    let runtime = &services.runtime;
    let deadline = runtime.monotonic().plus_ns(timeout_ms.saturating_mul(1_000_000));
    for append in appends.into_iter().flat_map(|topic| topic.partitions) {
        if let Err(settled) = outcome(runtime, append.append, left(runtime, deadline)).await {
            tracing::debug!(error = %settled.refusal.code, "an append that nobody waits for failed");
            // The only way to tell the producer that something is wrong, and Kafka's.
            return Outcome::Close("an append with acks=0 failed");
        }
    }
    Outcome::Silence
}

async fn finish<R: Runtime>(
    services: Rc<Services<R>>,
    context: &RequestContext,
    answer: Answer,
    appends: Vec<TopicAppend>,
    timeout_ms: u64,
) -> Outcome {
    let runtime = &services.runtime;
    let deadline = runtime.monotonic().plus_ns(timeout_ms.saturating_mul(1_000_000));
    let mut leaders = BTreeSet::new();
    let mut responses = Vec::with_capacity(appends.len());
    for TopicAppend { name, id, topic, partitions } in appends {
        let mut partition_responses = Vec::with_capacity(partitions.len());
        for PartitionAppend { index, append } in partitions {
            let result = outcome(runtime, append, left(runtime, deadline)).await;
            let hint = result.as_ref().err().and_then(|settled| {
                topics::hint(&services.image(), settled.refusal.code, topic.as_deref(), index)
            });
            let hint = hint.filter(|_| answer.version >= LEADER_HINTS_FROM);
            leaders.extend(hint.map(|hint| hint.leader));
            partition_responses.push(partition_response(index, result, hint));
        }
        responses.push(TopicProduceResponse {
            name: name.into(),
            topic_id: id,
            partition_responses: partition_responses.into(),
        });
    }
    let mut response = Response { responses: responses.into(), ..Response::default() };
    if !leaders.is_empty() {
        response.node_endpoints = node_endpoints(&services.image(), &leaders, &context.listener).into();
    }
    answer.reply(&response)
}

fn node_endpoints(image: &Image, nodes: &BTreeSet<NodeId>, listener: &str) -> Vec<NodeEndpoint<'static>> {
    let endpoint = |node: &NodeId| {
        let (host, port, rack) = topics::node_endpoint(image, *node, listener)?;
        Some(NodeEndpoint { node_id: node.0, host: host.into(), port, rack: rack.map(Into::into) })
    };
    nodes.iter().filter_map(endpoint).collect()
}

fn partition_response(
    index: i32,
    result: Result<Appended, Settled>,
    hint: Option<LeaderHint>,
) -> PartitionProduceResponse<'static> {
    match result {
        Ok(appended) => PartitionProduceResponse {
            index,
            base_offset: appended.base_offset.0,
            log_append_time_ms: appended.log_append_time.0,
            log_start_offset: appended.log_start_offset.0,
            ..PartitionProduceResponse::default()
        },
        Err(Settled { refusal, records }) => {
            let record_errors = records.map(|index| BatchIndexAndErrorMessage {
                batch_index: i32::try_from(index).unwrap_or(i32::MAX),
                batch_index_error_message: Some(refusal.message.clone().into()),
            });
            PartitionProduceResponse {
                index,
                error_code: refusal.code.code(),
                base_offset: -1,
                log_start_offset: -1,
                record_errors: record_errors.into_iter().collect(),
                error_message: Some(refusal.message.into()),
                current_leader: hint.map_or_else(LeaderIdAndEpoch::default, |hint| LeaderIdAndEpoch {
                    leader_id: hint.leader.0,
                    leader_epoch: hint.leader_epoch.0,
                }),
                ..PartitionProduceResponse::default()
            }
        }
    }
}
