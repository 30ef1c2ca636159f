//! Produce: appends record batches (KIP-98, KIP-467, KIP-516).
//!
//! Record sets leave here as slices of the request's frame; nothing in them is copied or looked at.

use super::call::{Answer, Call, Handled, Outcome, Refusal, decode};
use super::services::Services;
use super::topics::{self, LeaderHint};
use crate::partition::command::{
    Acks, AppendResult, Appended, PartitionAppend, PartitionCommand, PartitionError,
};
use crate::runtime::{Runtime, gather};
use crate::shard::deadline::within;
use bytes::Bytes;
use logmill_state::admission::authorizer::{Operation, RequestContext, Resource};
use logmill_state::metadata::{Image, Topic, is_internal_topic};
use logmill_wire::api::produce::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceData,
    PartitionProduceResponse, Request, Response, TopicProduceResponse,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, ShardIndex, TopicId};
use logmill_wire::record_batch::BatchError;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The first version with topic ids (KIP-516).
const TOPIC_IDS_FROM: i16 = 13;
/// The first version with the current leader (KIP-951).
const LEADER_HINTS_FROM: i16 = 10;

/// The least time that an append gets. Kafka's in-sync set of one acknowledges before it looks at the time-out,
/// so clients that ask for 0 are used to success; here even one replica has to write first.
const TIMEOUT_MIN_MS: u64 = 1_000;

/// Appends that go to a shard in one command; between commands a shard sees to others.
const APPENDS_PER_COMMAND_MAX: usize = 1_024;

/// Appends at home that take longer than it takes to wake another shard.
const APPENDS_OF_LONG_WORK: usize = 16;

/// A partition's append: refused already, or under way on a shard.
enum Append {
    Refused(Refusal),
    Sent(ShardIndex),
}

struct PartitionSent {
    index: i32,
    append: Append,
}

struct TopicSent {
    name: String,
    id: TopicId,
    topic: Option<Arc<Topic>>,
    partitions: Vec<PartitionSent>,
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
    let mut outbox = Outbox::default();
    let mut topics = Vec::with_capacity(request.topic_data.len().min(1024));
    for data in &request.topic_data {
        let found = topics::find(&image, version >= TOPIC_IDS_FROM, data.topic_id, &data.name);
        let found = found.and_then(|topic| {
            let allowed = call.allows(Operation::Write, Resource::Topic(&topic.name));
            match allowed {
                false => Err(ErrorCode::TopicAuthorizationFailed),
                // What coordinators keep there must be what they wrote.
                true if is_internal_topic(&topic.name) => Err(ErrorCode::InvalidTopicException),
                true => Ok(topic),
            }
        });
        let partitions = data.partition_data.iter().map(|partition| {
            let append = match (&refusal, &found) {
                (Some(refusal), _) => Append::Refused(refusal.clone()),
                (None, Err(error)) => Append::Refused(Refusal::plain(*error)),
                (None, Ok(topic)) => collect(&call, &image, topic, &partition, &mut outbox),
            };
            PartitionSent { index: partition.index, append }
        });
        let partitions = partitions.collect();
        topics.push(TopicSent {
            name: data.name.into_owned(),
            id: data.topic_id,
            topic: found.ok(),
            partitions,
        });
    }
    let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0).max(TIMEOUT_MIN_MS);
    let answers = outbox.send(&call.services, acks.unwrap_or(Acks::All));
    let Call { services, context, answer, body } = call;
    // What is left of the frame are the slices that were sent; they go when the records are in the log.
    drop(body);
    Ok(Box::pin(async move {
        let answered = answers.within(&services.runtime, Duration::from_millis(timeout_ms)).await;
        if acks == Some(Acks::None) {
            return finish_unacknowledged(topics, answered);
        }
        finish(&services, &context, answer, topics, answered)
    }))
}

/// Puts one partition's records into the outbox.
fn collect<R: Runtime>(
    call: &Call<R>,
    image: &Image,
    topic: &Topic,
    data: &PartitionProduceData<'_>,
    outbox: &mut Outbox,
) -> Append {
    let partition = match topics::led(&call.services, image, topic, data.index) {
        Ok(led) => led.partition,
        Err(error) => return Append::Refused(Refusal::plain(error)),
    };
    let Some(records) = data.records.as_ref().and_then(|records| records.borrowed()) else {
        return Append::Refused(refusal_of(&PartitionError::Batch(BatchError::NoBatch)));
    };
    // An empty slice need not lie within the frame.
    let records = if records.is_empty() { Bytes::new() } else { call.body.slice_ref(records) };
    let shard = call.services.partitions.shard_of(partition);
    outbox.add(shard, PartitionAppend { partition, records });
    Append::Sent(shard)
}

/// The appends of one request, by shard.
#[derive(Default)]
struct Outbox(Vec<Vec<PartitionAppend>>);

impl Outbox {
    fn add(&mut self, shard: ShardIndex, append: PartitionAppend) {
        let shard = usize::from(shard.0);
        if self.0.len() <= shard {
            self.0.resize_with(shard + 1, Vec::new);
        }
        self.0[shard].push(append);
    }

    /// Sends them all: first to other shards, which then work while this one does.
    fn send<R: Runtime>(self, services: &Services<R>, acks: Acks) -> Answers {
        let home = usize::from(services.runtime.shard().0);
        let mut answers = Answers(self.0.iter().map(|_| Vec::new()).collect());
        let (at_home, away): (Vec<_>, Vec<_>) =
            self.0.into_iter().enumerate().partition(|(shard, _)| *shard == home);
        let is_long = at_home.iter().any(|(_, appends)| appends.len() >= APPENDS_OF_LONG_WORK);
        for (shard, mut appends) in away.into_iter().chain(at_home) {
            if shard == home && is_long {
                services.runtime.wake_others();
            }
            while !appends.is_empty() {
                let rest = appends.split_off(appends.len().min(APPENDS_PER_COMMAND_MAX));
                let (replies, receiver) = gather::channel(appends.len());
                services.partitions.send(PartitionCommand::Append { appends, acks, replies });
                answers.0[shard].push(receiver);
                appends = rest;
            }
        }
        answers
    }
}

/// What is waited for, by shard; the answers of a shard come in the order of its appends.
struct Answers(Vec<Vec<gather::Receiver<AppendResult>>>);

impl Answers {
    /// Waits for all of them together, for so long at most.
    async fn within<R: Runtime>(mut self, runtime: &R, time: Duration) -> Answered {
        let all = async {
            for receiver in self.0.iter_mut().flatten() {
                receiver.await;
            }
        };
        let in_time = within(runtime, time, all).await.is_some();
        let of_shard = |receivers: Vec<gather::Receiver<AppendResult>>| {
            let answers: Vec<_> = receivers.into_iter().flat_map(gather::Receiver::into_answers).collect();
            answers.into_iter()
        };
        Answered { shards: self.0.into_iter().map(of_shard).collect(), in_time }
    }
}

/// The answers that came, and whether the others were waited for long enough.
struct Answered {
    shards: Vec<std::vec::IntoIter<Option<AppendResult>>>,
    in_time: bool,
}

impl Answered {
    /// What the next append came to.
    fn next(&mut self, append: Append) -> Result<Appended, Settled> {
        let shard = match append {
            Append::Refused(refusal) => return Err(Settled { refusal, records: None }),
            Append::Sent(shard) => usize::from(shard.0),
        };
        match self.shards.get_mut(shard).and_then(Iterator::next).flatten() {
            Some(Ok(appended)) => Ok(appended),
            Some(Err(error)) => {
                let records = match &error {
                    PartitionError::Batch(BatchError::Record { index, .. }) => Some(*index),
                    _ => None,
                };
                Err(Settled { refusal: refusal_of(&error), records })
            }
            None if self.in_time => {
                Err(Settled { refusal: refusal_of(&PartitionError::Stopping), records: None })
            }
            None => {
                let text = "the records were not acknowledged in time; they may be appended nevertheless";
                Err(Settled { refusal: Refusal::new(ErrorCode::RequestTimedOut, text), records: None })
            }
        }
    }
}

/// A refusal, and which record of the batch is to blame if it is one.
struct Settled {
    refusal: Refusal,
    records: Option<u32>,
}

fn refusal_of(error: &PartitionError) -> Refusal {
    Refusal::new(error.code(), error.message())
}

fn finish_unacknowledged(topics: Vec<TopicSent>, mut answered: Answered) -> Outcome {
    for PartitionSent { append, .. } in topics.into_iter().flat_map(|topic| topic.partitions) {
        if let Err(settled) = answered.next(append) {
            tracing::debug!(error = %settled.refusal.code, "an append that nobody waits for failed");
            // The only way to tell the producer that something is wrong, and Kafka's.
            return Outcome::Close("an append with acks=0 failed");
        }
    }
    Outcome::Silence
}

fn finish<R: Runtime>(
    services: &Services<R>,
    context: &RequestContext,
    answer: Answer,
    topics: Vec<TopicSent>,
    mut answered: Answered,
) -> Outcome {
    let mut leaders = BTreeSet::new();
    let mut responses = Vec::with_capacity(topics.len());
    for TopicSent { name, id, topic, partitions } in topics {
        let mut partition_responses = Vec::with_capacity(partitions.len());
        for PartitionSent { index, append } in partitions {
            let result = answered.next(append);
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
