//! Reading from many partitions at once, within one bound for all of them (KIP-74).

use super::call::Refusal;
use super::fetch_key::{FetchKey, TopicKey};
use super::services::Services;
use super::topics::{self, Readable, Reader};
use crate::partition::command::{PartitionCommand, PartitionError, ReadReply, ReadRequest};
use crate::runtime::{Runtime, gather, oneshot};
use bytes::Bytes;
use logmill_state::admission::authorizer::{Operation, RequestContext, Resource};
use logmill_state::admission::fetch_sessions::FetchPartition;
use logmill_state::metadata::{Image, Topic};
use logmill_state::partition::{FetchCheckError, Isolation};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, Offset, TopicPartition};
use std::sync::Arc;

/// The least share of one partition in the first round of reads: less is not worth a message.
const SHARE_MIN_BYTES: usize = 16 << 10;

/// Reads that go to a shard in one command; between commands a shard sees to others.
const READS_PER_COMMAND_MAX: usize = 1_024;

/// A partition to read from.
pub(super) struct Target {
    /// As the client names it.
    pub key: FetchKey,
    /// What it asks for.
    pub request: FetchPartition,
    /// The topic, if there is one.
    pub topic: Option<Arc<Topic>>,
    /// The partition, or why it cannot be read here.
    pub here: Result<Readable, ErrorCode>,
    /// Whether only the leader may answer.
    pub leader_only: bool,
}

impl Target {
    /// Whether the client is sent elsewhere instead of getting records.
    fn redirects(&self) -> bool {
        self.here.is_ok_and(|here| here.preferred.is_some())
    }

    /// Where the client is sent, if it is.
    pub fn redirection(&self, read: &Read) -> Option<NodeId> {
        let Read::Answered(ReadReply { high_watermark, records: Ok(_), .. }) = read else { return None };
        // In-sync replicas have all below the high watermark.
        let is_there = self.request.fetch_offset <= *high_watermark;
        self.here.ok().and_then(|here| here.preferred).filter(|_| is_there)
    }
}

/// What came of one partition.
pub(super) enum Read {
    Refused(Refusal),
    Answered(ReadReply),
}

impl Read {
    /// The bytes that were read.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Answered(ReadReply { records: Ok(parts), .. }) => parts.iter().map(Bytes::len).sum(),
            _ => 0,
        }
    }

    /// Lets go of the records, which take memory; what was told of the partition stays.
    pub fn forget_records(&mut self) {
        if let Self::Answered(ReadReply { records: Ok(parts), .. }) = self {
            *parts = Vec::new();
        }
    }

    /// Whether the client must hear of it at once, whatever it waits for.
    pub fn is_urgent(&self) -> bool {
        !matches!(self, Self::Answered(ReadReply { records: Ok(_), .. }))
    }

    /// The error code, or none; a divergence is not an error.
    pub fn error(&self) -> ErrorCode {
        match self {
            Self::Refused(refusal) => refusal.code,
            Self::Answered(ReadReply {
                records: Err(PartitionError::Fetch(FetchCheckError::Diverging(_))),
                ..
            }) => ErrorCode::None,
            Self::Answered(ReadReply { records: Err(error), .. }) => error.code(),
            Self::Answered(ReadReply { records: Ok(_), .. }) => ErrorCode::None,
        }
    }
}

/// Finds the partitions of a fetch in the current metadata.
pub(super) fn targets<R: Runtime>(
    services: &Services<R>,
    image: &Image,
    context: &RequestContext,
    partitions: &[(FetchKey, FetchPartition)],
    reader: &Reader<'_>,
) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::with_capacity(partitions.len());
    for (key, request) in partitions {
        // Partitions of one topic mostly follow one another.
        let known = targets.last().filter(|last| last.key.topic == key.topic);
        let topic = match known.map(|last| (last.topic.clone(), &last.here)) {
            Some((Some(topic), _)) => Ok(topic),
            Some((None, Err(error))) => Err(*error),
            _ => find(services, image, context, &key.topic),
        };
        let here = topic.as_ref().map_err(|error| *error);
        let here = here.and_then(|topic| topics::readable(services, image, topic, key.partition, reader));
        let leader_only = !reader.knows_followers;
        targets.push(Target { key: key.clone(), request: *request, topic: topic.ok(), here, leader_only });
    }
    targets
}

fn find<R: Runtime>(
    services: &Services<R>,
    image: &Image,
    context: &RequestContext,
    key: &TopicKey,
) -> Result<Arc<Topic>, ErrorCode> {
    let topic = match key {
        TopicKey::Id(id) => topics::find(image, true, *id, "")?,
        TopicKey::Name(name) => topics::find(image, false, Default::default(), name)?,
    };
    let decision =
        services.state.authorizer.authorize(context, Operation::Read, Resource::Topic(&topic.name));
    if decision.is_allowed() { Ok(topic) } else { Err(ErrorCode::TopicAuthorizationFailed) }
}

/// Reads from all partitions, at most `max_bytes` together; only a first batch that is larger comes alone.
///
/// First every partition may read an equal share, all of them at once. What is left goes to those for which there was no
/// share, as often as that takes, since most read less than theirs; and then, in their order, to those that seem
/// to have more.
pub(super) async fn read_all<R: Runtime>(
    services: &Services<R>,
    targets: &[&Target],
    max_bytes: usize,
    isolation: Isolation,
) -> Vec<Read> {
    let share = (max_bytes / targets.len().max(1)).max(SHARE_MIN_BYTES).min(max_bytes);
    let mut left_to_promise = max_bytes;
    let mut promised = Vec::with_capacity(targets.len());
    for target in targets {
        let bytes = partition_max(target).min(share).min(left_to_promise);
        left_to_promise -= if target.here.is_ok() { bytes } else { 0 };
        promised.push(bytes);
    }
    let mut reads = read_first(services, targets, &promised, isolation).await;
    read_rest(services, targets, &mut promised, &mut reads, max_bytes, isolation).await;
    read_more(services, targets, &promised, &mut reads, max_bytes, isolation).await;
    reads
}

/// The first round: see [`read_all`]. Each shard gets all that is for it in few commands, and answers together: of many
/// partitions most have nothing new, and a message for each would cost more than looking at them.
async fn read_first<R: Runtime>(
    services: &Services<R>,
    targets: &[&Target],
    promised: &[usize],
    isolation: Isolation,
) -> Vec<Read> {
    let mut shards: Vec<Vec<(TopicPartition, ReadRequest)>> = Vec::new();
    let mut sent_to = Vec::with_capacity(targets.len());
    for (index, (target, &bytes)) in targets.iter().zip(promised).enumerate() {
        sent_to.push(target.here.map(|here| {
            let shard = usize::from(services.partitions.shard_of(here.partition).0);
            if shards.len() <= shard {
                shards.resize_with(shard + 1, Vec::new);
            }
            shards[shard].push((here.partition, read_request(target, bytes, index == 0, isolation)));
            shard
        }));
    }
    let home = usize::from(services.runtime.shard().0);
    let mut answers: Vec<_> = shards.iter().map(|_| Vec::new()).collect();
    // First those that then work while this shard does.
    for shard in (0..shards.len()).filter(|&shard| shard != home).chain((home < shards.len()).then_some(home))
    {
        let mut reads = std::mem::take(&mut shards[shard]);
        while !reads.is_empty() {
            let rest = reads.split_off(reads.len().min(READS_PER_COMMAND_MAX));
            let (replies, receiver) = gather::channel(reads.len());
            services.partitions.send(PartitionCommand::Reads { reads, replies });
            answers[shard].push(receiver);
            reads = rest;
        }
    }
    let mut replies = Vec::with_capacity(answers.len());
    for mut receivers in answers {
        for receiver in &mut receivers {
            receiver.await;
        }
        replies.push(receivers.into_iter().flat_map(gather::Receiver::into_answers));
    }
    let outcome = |shard: Result<usize, ErrorCode>| match shard.map(|shard| replies[shard].next().flatten()) {
        Err(error) => Read::Refused(Refusal::plain(error)),
        Ok(Some(reply)) => Read::Answered(reply),
        Ok(None) => Read::Refused(Refusal::plain(PartitionError::Stopping.code())),
    };
    sent_to.into_iter().map(outcome).collect()
}

/// Reads from the partitions for which there was no share yet: see [`read_all`].
async fn read_rest<R: Runtime>(
    services: &Services<R>,
    targets: &[&Target],
    promised: &mut [usize],
    reads: &mut [Read],
    max_bytes: usize,
    isolation: Isolation,
) {
    loop {
        let total: usize = reads.iter().map(Read::bytes).sum();
        let shares = max_bytes.saturating_sub(total) / SHARE_MIN_BYTES;
        let without: Vec<usize> = (0..targets.len())
            .filter(|&index| {
                promised[index] == 0
                    && partition_max(targets[index]) > 0
                    && unread(targets[index], &reads[index], 0, isolation).is_some()
            })
            .take(shares)
            .collect();
        if without.is_empty() {
            return;
        }
        let begun: Vec<_> = without
            .iter()
            .map(|&index| {
                promised[index] = partition_max(targets[index]).min(SHARE_MIN_BYTES);
                begin(services, targets[index], promised[index], false, isolation)
            })
            .collect();
        for (index, begun) in without.into_iter().zip(begun) {
            reads[index] = finish(begun).await;
        }
    }
}

/// The second round: see [`read_all`].
async fn read_more<R: Runtime>(
    services: &Services<R>,
    targets: &[&Target],
    promised: &[usize],
    reads: &mut [Read],
    max_bytes: usize,
    isolation: Isolation,
) {
    let total: usize = reads.iter().map(Read::bytes).sum();
    let mut left = max_bytes.saturating_sub(total);
    let mut is_empty = total == 0;
    let mut again = Vec::new();
    for (index, ((target, read), &promised)) in targets.iter().zip(reads.iter()).zip(promised).enumerate() {
        let Some(bytes) = unread(target, read, promised, isolation) else { continue };
        let more = partition_max(target).saturating_sub(bytes).min(left);
        // The first partition with anything at all delivers a batch, however large it is.
        let at_least_one = is_empty && bytes == 0;
        if more == 0 && !at_least_one {
            continue;
        }
        left -= more;
        is_empty &= !at_least_one;
        again.push((index, begin(services, target, bytes + more, at_least_one, isolation)));
    }
    for (index, begun) in again {
        let read = finish(begun).await;
        if let Some(slot) = reads.get_mut(index)
            && read.bytes() > slot.bytes()
        {
            *slot = read;
        }
    }
}

/// What was read so far, if there seems to be more to read.
fn unread(target: &Target, read: &Read, promised: usize, isolation: Isolation) -> Option<usize> {
    let Read::Answered(reply) = read else { return None };
    if reply.records.is_err() || target.redirects() {
        return None;
    }
    let bytes = read.bytes();
    if bytes == 0 {
        return (target.request.fetch_offset < visible_end(reply, isolation)).then_some(0);
    }
    // Who got nearly all that it was promised probably has more; where its last batch ends is not known here.
    (bytes.saturating_mul(2) >= promised && partition_max(target) > promised).then_some(bytes)
}

/// The end of what a consumer with this isolation may see.
fn visible_end(reply: &ReadReply, isolation: Isolation) -> Offset {
    match isolation {
        Isolation::ReadUncommitted => reply.high_watermark,
        Isolation::ReadCommitted => reply.last_stable_offset,
    }
}

fn partition_max(target: &Target) -> usize {
    if target.redirects() {
        return 0;
    }
    usize::try_from(target.request.max_bytes).unwrap_or(0)
}

enum Begun {
    Refused(ErrorCode),
    Sent(oneshot::Receiver<ReadReply>),
}

fn begin<R: Runtime>(
    services: &Services<R>,
    target: &Target,
    max_bytes: usize,
    at_least_one: bool,
    isolation: Isolation,
) -> Begun {
    let here = match target.here {
        Ok(here) => here,
        Err(error) => return Begun::Refused(error),
    };
    let (reply, answer) = oneshot::channel();
    let request = read_request(target, max_bytes, at_least_one, isolation);
    services.partitions.send(PartitionCommand::Read { partition: here.partition, request, reply });
    Begun::Sent(answer)
}

fn read_request(target: &Target, max_bytes: usize, at_least_one: bool, isolation: Isolation) -> ReadRequest {
    ReadRequest {
        offset: target.request.fetch_offset,
        max_bytes,
        at_least_one: at_least_one && !target.redirects(),
        current_leader_epoch: target.request.current_leader_epoch,
        last_fetched_epoch: target.request.last_fetched_epoch,
        isolation,
        leader_only: target.leader_only,
    }
}

async fn finish(begun: Begun) -> Read {
    match begun {
        Begun::Refused(error) => Read::Refused(Refusal::plain(error)),
        Begun::Sent(answer) => match answer.await {
            Ok(reply) => Read::Answered(reply),
            Err(oneshot::Closed) => Read::Refused(Refusal::plain(PartitionError::Stopping.code())),
        },
    }
}
