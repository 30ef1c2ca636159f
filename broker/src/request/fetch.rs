//! Fetch: reads batches, waiting for them if the client says so (KIP-74, KIP-227, KIP-320, KIP-516).

use super::call::{Answer, Call, Handled, Outcome, decode};
use super::fetch_key::{FetchKey, TopicKey};
use super::fetch_read::{Read, Target, read_all, targets};
use super::services::Services;
use super::topics::{self, Reader};
use crate::partition::command::{PartitionCommand, PartitionError, ReadReply};
use crate::runtime::Runtime;
use crate::runtime::flags::Flags;
use crate::shard::deadline::within;
use crate::shard::memory::{MemoryClass, Reservation};
use logmill_state::admission::authorizer::RequestContext;
use logmill_state::admission::fetch_sessions::{
    FetchContext, FetchPartition, FetchSessionError, FetchSessionRequest, FetchedPartition,
};
use logmill_state::metadata::Image;
use logmill_state::partition::{FetchCheckError, Isolation};
use logmill_wire::api::fetch::{
    EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, MonotonicNs, NodeId, Offset, TopicId};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The first version with topic ids (KIP-516).
const TOPIC_IDS_FROM: i16 = 13;
/// The first version with the current leader and a diverging epoch.
const LEADER_HINTS_FROM: i16 = 12;
/// The first version with the client's rack, and replicas to read from (KIP-392).
const RACKS_FROM: i16 = 11;
/// The first version with the leaders' addresses (KIP-951).
const ENDPOINTS_FROM: i16 = 16;

/// The session epoch of a fetch outside of any session.
const NO_SESSION: i32 = -1;

/// The most that one answer takes, whatever the client allows.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// An answer takes at most this part of what its class has free, so that no few consumers can have all of it.
const FREE_SHARE: usize = 8;
/// But never less than this: some progress must be possible.
const ANSWER_BYTES_MIN: usize = 64 << 10;

/// A client that waits for many bytes is not woken for every few: records get this long to gather.
const GATHER: Duration = Duration::from_millis(2);

/// What is left to do when the request has been read.
struct Fetch<R: Runtime> {
    services: Rc<Services<R>>,
    context: Rc<RequestContext>,
    session: FetchContext<FetchKey>,
    max_bytes: usize,
    min_bytes: usize,
    deadline: MonotonicNs,
    isolation: Isolation,
    is_follower: bool,
    /// The client's rack; `None` if it says nothing, or cannot be sent elsewhere.
    rack: Option<String>,
    knows_followers: bool,
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    let named = request.topics.iter().map(|topic| 1 + topic.partitions.len());
    let forgotten = request.forgotten_topics_data.iter().map(|topic| 1 + topic.partitions.len());
    call.answer.charge(named.chain(forgotten).sum())?;
    if request.session_epoch != NO_SESSION {
        call.services.partitions.stay_at_home();
    }
    let now = call.services.runtime.monotonic();
    let session =
        call.services.state.fetch_sessions.borrow_mut().begin(session_request(&request, version), now);
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            let code = match error {
                FetchSessionError::NotFound => ErrorCode::FetchSessionIdNotFound,
                FetchSessionError::InvalidEpoch => ErrorCode::InvalidFetchSessionEpoch,
                FetchSessionError::TopicIds => ErrorCode::FetchSessionTopicIdError,
            };
            return call.answer.ready(&Response { error_code: code.code(), ..Response::default() });
        }
    };
    let wait_ms = u64::try_from(request.max_wait_ms).unwrap_or(0);
    let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0);
    let replica_id = if version >= 15 { request.replica_state.replica_id } else { request.replica_id };
    let fetch = Fetch {
        session,
        max_bytes: max_bytes.min(call.services.settings.network.fetch_max_bytes).min(ANSWER_BYTES_MAX),
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
        deadline: now.plus_ns(wait_ms.saturating_mul(1_000_000)),
        isolation: if request.isolation_level == 1 {
            Isolation::ReadCommitted
        } else {
            Isolation::ReadUncommitted
        },
        is_follower: replica_id >= 0,
        rack: Some(request.rack_id.into_owned()).filter(|rack| version >= RACKS_FROM && !rack.is_empty()),
        knows_followers: version >= RACKS_FROM,
        context: call.context,
        services: call.services,
    };
    let answer = call.answer;
    Ok(Box::pin(fetch.answer(answer)))
}

fn session_request(request: &Request<'_>, version: i16) -> FetchSessionRequest<FetchKey> {
    let by_id = version >= TOPIC_IDS_FROM;
    let topic_key = |id: TopicId, name: &str| {
        if by_id { TopicKey::Id(id) } else { TopicKey::Name(Arc::from(name)) }
    };
    let mut partitions = Vec::new();
    for topic in &request.topics {
        let key = topic_key(topic.topic_id, &topic.topic);
        partitions.extend(topic.partitions.iter().map(|partition| {
            let fetch = FetchPartition {
                fetch_offset: Offset(partition.fetch_offset),
                max_bytes: partition.partition_max_bytes,
                current_leader_epoch: LeaderEpoch(partition.current_leader_epoch),
                last_fetched_epoch: LeaderEpoch(partition.last_fetched_epoch),
                follower_log_start_offset: Offset(partition.log_start_offset),
            };
            (FetchKey { topic: key.clone(), partition: partition.partition }, fetch)
        }));
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        let key = topic_key(topic.topic_id, &topic.topic);
        let partitions = topic.partitions.iter();
        forgotten.extend(partitions.map(|partition| FetchKey { topic: key.clone(), partition }));
    }
    FetchSessionRequest {
        session_id: request.session_id,
        epoch: request.session_epoch,
        uses_topic_ids: by_id,
        is_privileged: false,
        partitions,
        forgotten,
    }
}

impl<R: Runtime> Fetch<R> {
    async fn answer(self, mut answer: Answer) -> Outcome {
        // What the request holds is small; its room goes before room for the answer is waited for.
        answer.room.resize(0);
        let (targets, reads, room) = self.read_until_enough().await;
        let Self { services, context, session, isolation, .. } = self;
        answer.room = room;
        let image = services.image();
        let mut fetched = Vec::with_capacity(reads.len());
        for (target, read) in targets.iter().zip(&reads) {
            fetched.push((target.key.clone(), fetched_partition(target, read)));
        }
        let (random, now) = (services.runtime.random_u64(), services.runtime.monotonic());
        let outcome = services.state.fetch_sessions.borrow_mut().finish(session, &fetched, random, now);
        let Ok(outcome) = outcome else {
            let error = ErrorCode::InvalidFetchSessionEpoch.code();
            return answer.reply(&Response { error_code: error, ..Response::default() });
        };
        let mut response = Response { session_id: outcome.session_id, ..Response::default() };
        let mut leaders = BTreeSet::new();
        let mut responses: Vec<(FetchKey, Vec<PartitionData<'static>>)> = Vec::new();
        for ((target, read), included) in targets.into_iter().zip(reads).zip(outcome.included) {
            if !included {
                continue;
            }
            let data = partition_data(&image, &target, read, answer.version, isolation, &mut leaders);
            match responses.last_mut() {
                Some((key, partitions)) if key.topic == target.key.topic => partitions.push(data),
                _ => responses.push((target.key, vec![data])),
            }
        }
        response.responses =
            responses.into_iter().map(|(key, partitions)| topic_response(key, partitions)).collect();
        if answer.version >= ENDPOINTS_FROM && !leaders.is_empty() {
            response.node_endpoints = node_endpoints(&image, &leaders, &context.listener).into();
        }
        answer.reply(&response)
    }

    /// Reads, and as long as there is too little and time, waits for more and reads again: then only those partitions
    /// that had something or have more. A consumer of a thousand partitions mostly gets records of one.
    async fn read_until_enough(&self) -> (Vec<Target>, Vec<Read>, Reservation) {
        let mut flags = Flags::new();
        let mut image = self.services.image();
        let mut targets = self.targets(&image);
        let mut reads: Vec<Read> = Vec::new();
        let mut due: Vec<usize> = (0..targets.len()).collect();
        // Of the others a watcher stands that was not called yet.
        let mut unwatched = due.clone();
        loop {
            let mut room = self.room().await;
            let chosen: Vec<&Target> = due.iter().filter_map(|&index| targets.get(index)).collect();
            let fresh = read_all(&self.services, &chosen, room.bytes(), self.isolation).await;
            if reads.is_empty() {
                reads = fresh;
            } else {
                due.iter().zip(fresh).for_each(|(&index, read)| reads[index] = read);
            }
            let bytes: usize = reads.iter().map(Read::bytes).sum();
            let left_ns = self.deadline.since(self.services.runtime.monotonic());
            let is_enough = bytes >= self.min_bytes.min(room.bytes())
                || left_ns == 0
                || reads.is_empty()
                || reads.iter().any(Read::is_urgent)
                || targets.iter().zip(&reads).any(|(target, read)| target.redirection(read).is_some());
            if is_enough {
                room.resize(bytes);
                return (targets, reads, room);
            }
            // The records that were read would only take memory meanwhile.
            drop(room);
            let mut again: Vec<usize> = (0..reads.len()).filter(|&index| reads[index].bytes() > 0).collect();
            reads.iter_mut().for_each(Read::forget_records);
            self.watch(&targets, &reads, &unwatched, &flags);
            unwatched = self.wait(&mut flags).await;
            again.extend_from_slice(&unwatched);
            again.sort_unstable();
            again.dedup();
            due = again;
            let current = self.services.image();
            if !Arc::ptr_eq(&image, &current) {
                image = current;
                targets = self.targets(&image);
                reads = Vec::new();
                flags = Flags::new();
                due = (0..targets.len()).collect();
                unwatched.clone_from(&due);
            }
        }
    }

    fn targets(&self, image: &Image) -> Vec<Target> {
        let reader = Reader {
            knows_followers: self.knows_followers,
            rack: self.rack.as_deref(),
            listener: &self.context.listener,
        };
        let mut targets = targets(&self.services, image, &self.context, self.session.partitions(), &reader);
        if self.is_follower {
            // Followers get what lies above the high watermark, over a protocol of their own.
            targets.iter_mut().for_each(|target| target.here = Err(ErrorCode::TopicAuthorizationFailed));
        }
        targets
    }

    /// Room for as much as one answer may bring now.
    async fn room(&self) -> Reservation {
        let memory = &self.services.state.memory;
        let share = (memory.free(MemoryClass::Fetch) / FREE_SHARE).max(ANSWER_BYTES_MIN);
        let bytes = self.max_bytes.min(share).min(memory.size(MemoryClass::Fetch));
        match memory.reserve(MemoryClass::Fetch, bytes) {
            Ok(reserve) => reserve.await,
            // The bound above rules it out.
            Err(_) => memory.reserve_now(MemoryClass::Fetch, 0),
        }
    }

    /// Has the flags of these partitions raised when they have more than was read.
    fn watch(&self, targets: &[Target], reads: &[Read], unwatched: &[usize], flags: &Flags) {
        for &index in unwatched {
            let (Ok(here), Read::Answered(reply)) = (targets[index].here, &reads[index]) else { continue };
            self.services.partitions.send(PartitionCommand::Watch {
                partition: here.partition,
                above: reply.high_watermark,
                flag: flags.flag(index as u32),
            });
        }
    }

    /// Waits until one of the watched partitions has more, or time is up. A client that waits for much is not woken
    /// for every little.
    async fn wait(&self, flags: &mut Flags) -> Vec<usize> {
        let runtime = &self.services.runtime;
        let left = || Duration::from_nanos(self.deadline.since(runtime.monotonic()));
        let mut raised = within(runtime, left(), &mut *flags).await.unwrap_or_default();
        if self.min_bytes > 1 && !raised.is_empty() {
            runtime.sleep(GATHER.min(left())).await;
            raised.extend(within(runtime, Duration::ZERO, flags).await.unwrap_or_default());
        }
        raised.sort_unstable();
        raised.dedup();
        raised.into_iter().map(|number| number as usize).collect()
    }
}

fn fetched_partition(target: &Target, read: &Read) -> FetchedPartition {
    let unknown = FetchedPartition {
        high_watermark: Offset(-1),
        log_start_offset: Offset(-1),
        has_records: false,
        has_error: true,
        has_redirection: false,
    };
    match read {
        Read::Refused(_) => unknown,
        Read::Answered(_) if read.error().is_error() => unknown,
        Read::Answered(reply) => FetchedPartition {
            high_watermark: reply.high_watermark,
            log_start_offset: reply.log_start_offset,
            has_records: read.bytes() > 0,
            has_error: false,
            has_redirection: reply.records.is_err() || target.redirection(read).is_some(),
        },
    }
}

fn topic_response(key: FetchKey, partitions: Vec<PartitionData<'static>>) -> FetchableTopicResponse<'static> {
    let (topic, topic_id) = match key.topic {
        TopicKey::Id(id) => (String::new(), id),
        TopicKey::Name(name) => (name.to_string(), TopicId::ZERO),
    };
    FetchableTopicResponse { topic: topic.into(), topic_id, partitions: partitions.into() }
}

fn partition_data(
    image: &Image,
    target: &Target,
    read: Read,
    version: i16,
    isolation: Isolation,
    leaders: &mut BTreeSet<NodeId>,
) -> PartitionData<'static> {
    let error = read.error();
    let mut data = PartitionData {
        partition_index: target.key.partition,
        error_code: error.code(),
        high_watermark: -1,
        records: Some(Vec::new().into()),
        aborted_transactions: None,
        ..PartitionData::default()
    };
    if version >= LEADER_HINTS_FROM
        && let Some(hint) = topics::hint(image, error, target.topic.as_deref(), target.key.partition)
    {
        leaders.insert(hint.leader);
        data.current_leader =
            LeaderIdAndEpoch { leader_id: hint.leader.0, leader_epoch: hint.leader_epoch.0 };
    }
    let redirection = target.redirection(&read);
    let Read::Answered(reply) = read else { return data };
    let ReadReply { high_watermark, last_stable_offset, log_start_offset, records, .. } = reply;
    if error.is_error() {
        return data;
    }
    data.high_watermark = high_watermark.0;
    data.last_stable_offset = last_stable_offset.0;
    data.log_start_offset = log_start_offset.0;
    if let Some(node) = redirection {
        data.preferred_read_replica = node.0;
    }
    if isolation == Isolation::ReadCommitted {
        data.aborted_transactions = Some(Vec::new().into());
    }
    match records {
        Ok(parts) => data.records = Some(parts.into()),
        Err(PartitionError::Fetch(FetchCheckError::Diverging(end))) if version >= LEADER_HINTS_FROM => {
            data.diverging_epoch = EpochEndOffset { epoch: end.epoch.0, end_offset: end.end_offset.0 };
        }
        Err(_) => {}
    }
    data
}

fn node_endpoints(image: &Image, nodes: &BTreeSet<NodeId>, listener: &str) -> Vec<NodeEndpoint<'static>> {
    let endpoint = |node: &NodeId| {
        let (host, port, rack) = topics::node_endpoint(image, *node, listener)?;
        Some(NodeEndpoint { node_id: node.0, host: host.into(), port, rack: rack.map(Into::into) })
    };
    nodes.iter().filter_map(endpoint).collect()
}
