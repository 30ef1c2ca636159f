//! Produce: appends record batches (KIP-98, KIP-467, KIP-516).
//!
//! Record sets leave here as ranges of the request's frame; nothing in them is copied or looked at. The request is read
//! in one walk, and nothing is sent before its last byte was found sound.

use super::call::{Answer, Call, Handled, Outcome, Refusal};
use super::services::Services;
use super::topics::{self, LeaderHint};
use crate::partition::command::{
    Acks, AppendResult, Appended, PartitionAppend, PartitionCommand, PartitionError,
};
use crate::partition::router::TopicSpread;
use crate::runtime::{Runtime, gather};
use crate::shard::deadline::within;
use bytes::Bytes;
use logmill_state::admission::authorizer::{Operation, RequestContext, Resource};
use logmill_state::metadata::{Image, Topic, is_internal_topic};
use logmill_wire::api::Message;
use logmill_wire::api::produce::{
    self, BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, Response,
    TopicProduceResponse,
};
use logmill_wire::api::produce_walk::{PartitionRecords, ProduceWalk, TopicHead};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, ShardIndex, TopicId};
use logmill_wire::primitives::{EncodeError, EncodedArray, Format};
use logmill_wire::record_batch::BatchError;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The first version with topic ids (KIP-516).
const TOPIC_IDS_FROM: i16 = 13;
/// The first version with the current leader (KIP-951).
const LEADER_HINTS_FROM: i16 = 10;
/// The first version with the log's first offset.
const LOG_START_FROM: i16 = 5;

/// The least time that an append gets. Kafka's in-sync set of one acknowledges before it looks at the time-out,
/// so clients that ask for 0 are used to success; here even one replica has to write first.
const TIMEOUT_MIN_MS: u64 = 1_000;

/// Appends that go to a shard in one command; between commands a shard sees to others.
const APPENDS_PER_COMMAND_MAX: usize = 1_024;

/// Appends at home that take longer than it takes to wake another shard.
const APPENDS_OF_LONG_WORK: usize = 16;

/// What one [`Success`] takes at most, and what it takes before version 5.
const SUCCESS_BYTES_MAX: usize = 36;
const SUCCESS_BYTES_MIN: usize = 22;

/// The size in front of an answer.
const SIZE_BYTES: usize = 4;
/// Of an answer about one partition, what stands around its topic's id: no tagged fields in the header, one topic; one
/// partition.
const ONLY_BEFORE: [u8; 3] = [0, 2, 2];
/// What follows the partition: no tagged fields of the topic, no throttling, no tagged fields.
const ONLY_AFTER: [u8; 6] = [0; 6];

/// A partition's append: refused already, or under way on a shard.
enum Append {
    Refused(Box<Refusal>),
    Sent(ShardIndex),
}

impl From<Refusal> for Append {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
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
    let body = call.body.clone();
    let mut walk = ProduceWalk::begin(&body, version)?;
    let acks = match walk.acks {
        0 => Some(Acks::None),
        1 => Some(Acks::Leader),
        -1 => Some(Acks::All),
        _ => None,
    };
    let refusal = match acks {
        None => Some(Refusal::plain(ErrorCode::InvalidRequiredAcks)),
        // There are no transactions; this code ends a transactional producer for good in every client.
        Some(_) if walk.transactional_id.is_some() => Some(Refusal::new(
            ErrorCode::TransactionalIdAuthorizationFailed,
            "This broker does not offer transactions; leave transactional.id unset.",
        )),
        Some(_) => None,
    };
    let image = call.services.image();
    let mut outbox = Outbox::default();
    let mut topics = Vec::new();
    while let Some(head) = walk.next_topic()? {
        // Before anything is kept of them.
        call.answer.charge(1 + head.partitions)?;
        let found = writable(&call, &image, &head);
        let mut partitions = Vec::with_capacity(head.partitions);
        while let Some(data) = walk.next_partition()? {
            let append = match (&refusal, &found) {
                (Some(refusal), _) => refusal.clone().into(),
                (None, Err(error)) => Refusal::plain(*error).into(),
                (None, Ok(topic)) => collect(&call, &image, topic, &data, head.partitions, &mut outbox),
            };
            partitions.push(PartitionSent { index: data.index, append });
        }
        topics.push(TopicSent {
            name: head.name.into_owned(),
            id: head.topic_id,
            topic: found.ok().map(|(topic, _)| topic),
            partitions,
        });
    }
    let timeout_ms = u64::try_from(walk.timeout_ms).unwrap_or(0).max(TIMEOUT_MIN_MS);
    let Call { services, context, answer, body, .. } = call;
    // The frame goes when its records are in the log.
    let answers = outbox.send(&services, body, acks.unwrap_or(Acks::All));
    Ok(Box::pin(async move {
        let answered = answers.within(&services.runtime, Duration::from_millis(timeout_ms)).await;
        if acks == Some(Acks::None) {
            return finish_unacknowledged(topics, answered);
        }
        finish(&services, &context, answer, topics, answered)
    }))
}

/// The topic that is named, and where its partitions are, if the sender may write to it.
fn writable<R: Runtime>(
    call: &Call<R>,
    image: &Image,
    head: &TopicHead<'_>,
) -> Result<(Arc<Topic>, TopicSpread), ErrorCode> {
    let by_id = call.answer.version >= TOPIC_IDS_FROM;
    let topic = topics::find(image, by_id, head.topic_id, &head.name)?;
    if !call.allows(Operation::Write, Resource::Topic(&topic.name)) {
        return Err(ErrorCode::TopicAuthorizationFailed);
    }
    // What coordinators keep there must be what they wrote.
    if is_internal_topic(&topic.name) {
        return Err(ErrorCode::InvalidTopicException);
    }
    let spread = call.services.partitions.spread_of(topic.id);
    Ok((topic, spread))
}

/// Puts one partition's records into the outbox.
fn collect<R: Runtime>(
    call: &Call<R>,
    image: &Image,
    (topic, spread): &(Arc<Topic>, TopicSpread),
    data: &PartitionRecords,
    of_topic: usize,
    outbox: &mut Outbox,
) -> Append {
    let partition = match topics::led_here(&call.services, image, topic, data.index) {
        Ok(partition) => partition,
        Err(error) => return Refusal::plain(error).into(),
    };
    // A frame's positions have 31 bits.
    let bounds = data.records.as_ref().map(|range| (u32::try_from(range.start), u32::try_from(range.end)));
    let Some((Ok(start), Ok(end))) = bounds else {
        return refusal_of(&PartitionError::Batch(BatchError::NoBatch)).into();
    };
    let shard = spread.shard_of(partition.partition);
    outbox.add(shard, PartitionAppend { partition, records: start..end }, of_topic);
    Append::Sent(shard)
}

/// The appends of one request, by shard.
#[derive(Default)]
struct Outbox(Vec<Vec<PartitionAppend>>);

impl Outbox {
    /// Adds an append, one of as many as its topic has in the request.
    #[inline]
    fn add(&mut self, shard: ShardIndex, append: PartitionAppend, of_topic: usize) {
        let shard = usize::from(shard.0);
        if self.0.len() <= shard {
            self.0.resize_with(shard + 1, Vec::new);
        }
        let shards = self.0.len();
        let appends = &mut self.0[shard];
        if appends.capacity() == appends.len() {
            appends.reserve(of_topic.div_ceil(shards));
        }
        appends.push(append);
    }

    /// Sends them all: first to other shards, which then work while this one does.
    fn send<R: Runtime>(mut self, services: &Services<R>, frame: Bytes, acks: Acks) -> Answers {
        let home = usize::from(services.runtime.shard().0);
        let at_home = self.0.get_mut(home).map(std::mem::take).unwrap_or_default();
        let is_long = at_home.len() >= APPENDS_OF_LONG_WORK;
        let mut answers = Answers(Vec::new());
        for (shard, appends) in self.0.into_iter().enumerate() {
            answers.send(services, shard, appends, &frame, acks);
        }
        if is_long {
            services.runtime.wake_others();
        }
        answers.send(services, home, at_home, &frame, acks);
        answers
    }
}

/// What is waited for, by command, and which shard each went to; the answers of a shard come in the order of its appends.
struct Answers(Vec<(usize, gather::Receiver<AppendResult>)>);

impl Answers {
    /// Sends appends to a shard, in as many commands as it takes.
    fn send<R: Runtime>(
        &mut self,
        services: &Services<R>,
        shard: usize,
        mut appends: Vec<PartitionAppend>,
        frame: &Bytes,
        acks: Acks,
    ) {
        while !appends.is_empty() {
            let rest = appends.split_off(appends.len().min(APPENDS_PER_COMMAND_MAX));
            let (replies, receiver) = gather::channel(appends.len());
            let bytes = frame.clone();
            services.partitions.send(PartitionCommand::Append { bytes, appends, acks, replies });
            self.0.push((shard, receiver));
            appends = rest;
        }
    }

    /// Waits for all of them together, for so long at most.
    async fn within<R: Runtime>(mut self, runtime: &R, time: Duration) -> Answered {
        let all = async {
            for (_, receiver) in &mut self.0 {
                receiver.await;
            }
        };
        let in_time = within(runtime, time, all).await.is_some();
        let commands =
            self.0.into_iter().map(|(shard, receiver)| (shard, receiver.into_answers().into_iter()));
        Answered { commands: commands.collect(), in_time }
    }
}

/// What a command came to, one answer after the other.
type CommandAnswers = std::vec::IntoIter<Option<AppendResult>>;

/// The answers that came, by shard, and whether the others were waited for long enough.
struct Answered {
    commands: Vec<(usize, CommandAnswers)>,
    in_time: bool,
}

impl Answered {
    /// What the next append came to.
    #[inline]
    fn next(&mut self, append: Append) -> Result<Appended, Box<Settled>> {
        let shard = match append {
            Append::Refused(refusal) => return Err(Box::new(Settled { refusal: *refusal, records: None })),
            Append::Sent(shard) => usize::from(shard.0),
        };
        match self.next_of(shard) {
            Some(Ok(appended)) => Ok(appended),
            Some(Err(error)) => Err(self.settled(Some(&error))),
            None => Err(self.settled(None)),
        }
    }

    /// What the one append of a request came to, if there was one and it succeeded.
    #[inline]
    fn only_success(&self) -> Option<&Appended> {
        match &self.commands[..] {
            [(_, answers)] => match answers.as_slice() {
                [Some(Ok(appended))] => Some(appended),
                _ => None,
            },
            _ => None,
        }
    }

    /// The next answer of a shard, if it came.
    #[inline]
    fn next_of(&mut self, shard: usize) -> Option<AppendResult> {
        let at = self.commands.iter().position(|(of, _)| *of == shard)?;
        let answers = &mut self.commands.get_mut(at)?.1;
        let answer = answers.next();
        if answers.len() == 0 {
            // The order among the commands of a shard stays.
            self.commands.remove(at);
        }
        answer.flatten()
    }

    /// What is answered for an append that failed, or that nobody has answered.
    #[cold]
    fn settled(&self, error: Option<&PartitionError>) -> Box<Settled> {
        let records = match error {
            Some(PartitionError::Batch(BatchError::Record { index, .. })) => Some(*index),
            _ => None,
        };
        let refusal = match error {
            Some(error) => refusal_of(error),
            None if self.in_time => refusal_of(&PartitionError::Stopping),
            None => {
                let text = "the records were not acknowledged in time; they may be appended nevertheless";
                Refusal::new(ErrorCode::RequestTimedOut, text)
            }
        };
        Box::new(Settled { refusal, records })
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
    if answer.version >= TOPIC_IDS_FROM
        && let Some(appended) = answered.only_success()
        && let [TopicSent { id, partitions, .. }] = &topics[..]
        && let [PartitionSent { index, .. }] = partitions[..]
    {
        let frame = only_success_frame(answer.version, answer.correlation_id, (*id, index), appended);
        return answer.reply_encoded(frame);
    }
    let format = Format { version: answer.version, flexible: answer.version >= produce::FLEXIBLE_FROM };
    let mut leaders = BTreeSet::new();
    let mut responses = Vec::with_capacity(topics.len());
    for TopicSent { name, id, topic, partitions } in topics {
        let hint_of = |code, index| {
            let hint = topics::hint(&services.image(), code, topic.as_deref(), index);
            hint.filter(|_| answer.version >= LEADER_HINTS_FROM)
        };
        match encode_partitions(partitions, &mut answered, format, hint_of) {
            Ok((partitions, hinted)) => {
                leaders.extend(hinted);
                responses.push((name, id, partitions));
            }
            Err(error) => return answer.not_encoded(Response::NAME, error),
        }
    }
    let responses = responses.iter().map(|(name, id, partitions)| TopicProduceResponse {
        name: name.as_str().into(),
        topic_id: *id,
        partition_responses: partitions.view(),
    });
    let mut response = Response { responses: responses.collect(), ..Response::default() };
    if !leaders.is_empty() {
        response.node_endpoints = node_endpoints(&services.image(), &leaders, &context.listener).into();
    }
    answer.reply(&response)
}

/// The whole answer to a request for one partition that succeeded, as most do, in a version with topic ids.
fn only_success_frame(
    version: i16,
    correlation_id: i32,
    (topic, index): (TopicId, i32),
    appended: &Appended,
) -> Vec<u8> {
    let success = Success::new(version);
    let bytes = ONLY_BEFORE.len() + size_of::<u32>() + topic.0.len() + success.bytes + ONLY_AFTER.len();
    let mut frame = Vec::with_capacity(SIZE_BYTES + bytes);
    frame.extend_from_slice(&(bytes as u32).to_be_bytes());
    frame.extend_from_slice(&correlation_id.to_be_bytes());
    frame.extend_from_slice(&ONLY_BEFORE[..2]);
    frame.extend_from_slice(&topic.0);
    frame.extend_from_slice(&ONLY_BEFORE[2..]);
    let start = frame.len();
    frame.extend_from_slice(&success.template[..success.bytes]);
    success.fill(&mut frame[start..], index, appended);
    frame.extend_from_slice(&ONLY_AFTER);
    frame
}

/// What became of a topic's appends, encoded, and which leaders the answers name.
fn encode_partitions(
    partitions: Vec<PartitionSent>,
    answered: &mut Answered,
    format: Format,
    hint_of: impl Fn(ErrorCode, i32) -> Option<LeaderHint>,
) -> Result<(EncodedArray, Vec<NodeId>), EncodeError> {
    let mut encoded = EncodedArray::new(format);
    let success = Success::new(format.version);
    encoded.reserve(partitions.len() * success.bytes);
    let mut leaders = Vec::new();
    for PartitionSent { index, append } in partitions {
        match answered.next(append) {
            Ok(appended) => success.push(&mut encoded, index, &appended),
            Err(settled) => {
                let hint = hint_of(settled.refusal.code, index);
                leaders.extend(hint.map(|hint| hint.leader));
                encoded.push(&refused_response(index, *settled, hint))?;
            }
        }
    }
    Ok((encoded, leaders))
}

/// The answers to appends that succeeded: they are a few numbers each, and otherwise the same.
struct Success {
    template: [u8; SUCCESS_BYTES_MAX],
    bytes: usize,
    has_log_start: bool,
}

impl Success {
    fn new(version: i16) -> Self {
        let has_log_start = version >= LOG_START_FROM;
        let numbers = if has_log_start { SUCCESS_BYTES_MIN + size_of::<i64>() } else { SUCCESS_BYTES_MIN };
        // Record errors, of which there are none, an error message, which is null, and tagged fields.
        let rest: &[u8] = match version {
            ..8 => &[],
            8 => &[0, 0, 0, 0, 0xff, 0xff],
            9.. => &[1, 0, 0],
        };
        let bytes = numbers + rest.len();
        let mut template = [0; SUCCESS_BYTES_MAX];
        template[numbers..bytes].copy_from_slice(rest);
        Self { template, bytes, has_log_start }
    }

    #[inline]
    fn push(&self, answers: &mut EncodedArray, index: i32, appended: &Appended) {
        answers.push_changed(&self.template[..self.bytes], |answer| self.fill(answer, index, appended));
    }

    /// Writes the numbers into a copy of the template.
    #[inline]
    fn fill(&self, answer: &mut [u8], index: i32, appended: &Appended) {
        answer[..4].copy_from_slice(&index.to_be_bytes());
        // The error code stays 0.
        answer[6..14].copy_from_slice(&appended.base_offset.0.to_be_bytes());
        answer[14..22].copy_from_slice(&appended.log_append_time.0.to_be_bytes());
        if self.has_log_start {
            answer[22..30].copy_from_slice(&appended.log_start_offset.0.to_be_bytes());
        }
    }
}

fn node_endpoints(image: &Image, nodes: &BTreeSet<NodeId>, listener: &str) -> Vec<NodeEndpoint<'static>> {
    let endpoint = |node: &NodeId| {
        let (host, port, rack) = topics::node_endpoint(image, *node, listener)?;
        Some(NodeEndpoint { node_id: node.0, host: host.into(), port, rack: rack.map(Into::into) })
    };
    nodes.iter().filter_map(endpoint).collect()
}

/// The answer for one partition whose append was refused.
fn refused_response(
    index: i32,
    Settled { refusal, records }: Settled,
    hint: Option<LeaderHint>,
) -> PartitionProduceResponse<'static> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::api::response_frame;
    use logmill_wire::ids::{Offset, TimestampMs, Uuid};

    #[test]
    fn the_short_way_to_an_answer_gives_the_same_bytes() {
        let latest = crate::request::versions::advertised(produce::KEY).unwrap().max;
        assert!(latest >= TOPIC_IDS_FROM);
        for version in TOPIC_IDS_FROM..=latest {
            let id = Uuid(std::array::from_fn(|at| at as u8 + 1));
            let appended = Appended {
                base_offset: Offset(0x0102_0304_0506_0708),
                log_append_time: TimestampMs(-1),
                log_start_offset: Offset(0x1112_1314),
            };
            let partition = PartitionProduceResponse {
                index: 0x2122_2324,
                base_offset: appended.base_offset.0,
                log_append_time_ms: appended.log_append_time.0,
                log_start_offset: appended.log_start_offset.0,
                ..PartitionProduceResponse::default()
            };
            let topic = TopicProduceResponse {
                topic_id: id,
                partition_responses: vec![partition].into(),
                ..TopicProduceResponse::default()
            };
            let response = Response { responses: vec![topic].into(), ..Response::default() };
            let expected = response_frame(&response, produce::KEY, version, 0x3132_3334).unwrap().concat();
            assert_eq!(only_success_frame(version, 0x3132_3334, (id, 0x2122_2324), &appended), expected);
        }
    }
}
