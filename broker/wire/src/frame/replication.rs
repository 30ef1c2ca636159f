//! The frames between a leader and its followers.
//!
//! | kind | from | header | payload |
//! |---|---|---|---|
//! | hello | both, first | who it is, for which link | – |
//! | push | leader | an entry for each partition | their batches, as they lie in the log, in the entries' order |
//! | ends | follower | an entry for each partition | – |
//! | query | follower | an entry for each partition: where does my last epoch end? | – |
//! | answer | leader | an entry for each question | – |
//!
//! Every frame starts with the prefix of [`super::prefix`], whose checksum covers the header. A push's entry has a
//! checksum over the start of each of its batches: base offset, length, leader epoch, magic and the batch's own
//! checksum, which covers the rest. So every byte is covered once, and [`PushedPartition::check_batches`] has the
//! part that the batches' own checksums leave open.

use rkyv::rancor;

use super::prefix::{PEER_PREFIX_BYTES, PeerFrameLimits, PeerPrefix, peer_magic};
use super::{FrameError, append_fixed};
use crate::ids::{LeaderEpoch, NodeId, Offset, PartitionIndex, ShardIndex, TopicPartition, Uuid};
use crate::limits::{REPLICATION_HEADER_BYTES_MAX, REPLICATION_PAYLOAD_BYTES_MAX};

/// The protocol's magic.
pub const REPLICATION_MAGIC: [u8; 4] = peer_magic(*b"LMR");

/// The version that is written, and the only one that is read.
pub const REPLICATION_VERSION: u16 = 0;

/// What a receiver takes at the most.
pub const REPLICATION_LIMITS: PeerFrameLimits = PeerFrameLimits {
    header_bytes_max: REPLICATION_HEADER_BYTES_MAX,
    payload_bytes_max: REPLICATION_PAYLOAD_BYTES_MAX,
};

const HELLO: u16 = 1;
const PUSH: u16 = 2;
const ENDS: u16 = 3;
const QUERY: u16 = 4;
const ANSWER: u16 = 5;

/// Bytes at the start of a batch that its own checksum does not cover, and the checksum.
pub const BATCH_START_BYTES: usize = 21;

/// Bytes of a batch's header.
const BATCH_HEADER_BYTES: usize = 61;

/// Bytes of a batch before those that its length counts.
const BATCH_LENGTH_END: usize = 12;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// Appends as they come.
    Live,
    /// What followers have missed.
    CatchUp,
}

/// The first frame of both ends of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The cluster; another one's brokers are refused.
    pub cluster_id: Uuid,
    /// The broker.
    pub broker_id: NodeId,
    /// Its process.
    pub incarnation: Uuid,
    /// The oldest version of these frames that it reads.
    pub version_min: u16,
    /// The newest.
    pub version_max: u16,
    /// The shard that speaks; the receiver hands frames to the shards that own the partitions.
    pub shard: ShardIndex,
    /// What the connection is for.
    pub link: Link,
}

impl Hello {
    /// The newest version that both read.
    #[must_use]
    pub fn common_version(&self, other: &Self) -> Option<u16> {
        let newest = self.version_max.min(other.version_max);
        (newest >= self.version_min.max(other.version_min)).then_some(newest)
    }
}

/// One partition of a push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PushedPartition {
    /// The partition.
    pub partition: TopicPartition,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// Where the batches begin: the end of what was pushed before.
    pub from: Offset,
    /// The leader's high watermark.
    pub high_watermark: Offset,
    /// Where the leader's log starts.
    pub log_start: Offset,
    /// The first offset of the oldest batch that the leader has.
    pub first_offset: Offset,
    /// Bytes of its batches in the payload.
    pub batch_bytes: u32,
    /// CRC-32C of the start of each of them.
    pub batch_starts_crc: u32,
}

impl PushedPartition {
    /// Whether `batches`, its part of the payload, are whole batches that start as the leader's do. Their own
    /// checksums are for the caller to check.
    ///
    /// # Errors
    /// [`FrameError::Truncated`], [`FrameError::WrongChecksum`].
    pub fn check_batches(&self, batches: &[u8]) -> Result<(), FrameError> {
        if u32::try_from(batches.len()) != Ok(self.batch_bytes) {
            return Err(FrameError::Truncated);
        }
        let crc = batch_starts_crc(0, batches).ok_or(FrameError::Truncated)?;
        if crc == self.batch_starts_crc { Ok(()) } else { Err(FrameError::WrongChecksum) }
    }
}

/// The checksum of the starts of these batches, behind those that `crc` is of; `None` if they are not whole batches.
fn batch_starts_crc(mut crc: u32, mut batches: &[u8]) -> Option<u32> {
    while !batches.is_empty() {
        let length = i32::from_be_bytes(*batches.get(8..)?.first_chunk()?);
        let bytes = usize::try_from(length).ok()?.checked_add(BATCH_LENGTH_END)?;
        if bytes < BATCH_HEADER_BYTES {
            return None;
        }
        let (batch, rest) = batches.split_at_checked(bytes)?;
        crc = crc32c::crc32c_append(crc, batch.get(..BATCH_START_BYTES)?);
        batches = rest;
    }
    Some(crc)
}

/// How far a follower has come in one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionEnds {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch that it follows.
    pub leader_epoch: LeaderEpoch,
    /// The end of its log: what it expects next.
    pub log_end: Offset,
    /// Everything below survives the death of its process.
    pub written: Offset,
    /// Everything below survives a power loss.
    pub durable: Offset,
    /// Where its log starts.
    pub log_start: Offset,
    /// Whether the leader must go on from `log_end`.
    pub rewind: bool,
}

/// A question of a follower: where does `last_epoch` end in the leader's log?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochQuery {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch that it follows.
    pub leader_epoch: LeaderEpoch,
    /// The epoch that is asked about; [`LeaderEpoch::NONE`] of a log without any.
    pub last_epoch: LeaderEpoch,
    /// The end of its log.
    pub log_end: Offset,
}

/// The leader's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochAnswer {
    /// The question.
    pub query: EpochQuery,
    /// The newest epoch that is not above the one asked for; [`LeaderEpoch::NONE`] if that is not known.
    pub epoch: LeaderEpoch,
    /// The offset after its last record; -1 if that is not known.
    pub end_offset: Offset,
    /// The first offset of the oldest batch that the leader has.
    pub first_offset: Offset,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy)]
struct HelloBytes {
    cluster_id: [u8; 16],
    incarnation: [u8; 16],
    broker_id: i32,
    version_min: u16,
    version_max: u16,
    shard: u16,
    link: u16,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy)]
struct PushBytes {
    topic_id: [u8; 16],
    partition: i32,
    leader_epoch: i32,
    from: i64,
    high_watermark: i64,
    log_start: i64,
    first_offset: i64,
    batch_bytes: u32,
    batch_starts_crc: u32,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy)]
struct EndsBytes {
    topic_id: [u8; 16],
    partition: i32,
    leader_epoch: i32,
    log_end: i64,
    written: i64,
    durable: i64,
    log_start: i64,
    rewind: u64,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy)]
struct QueryBytes {
    topic_id: [u8; 16],
    partition: i32,
    leader_epoch: i32,
    last_epoch: i32,
    reserved: u32,
    log_end: i64,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy)]
struct AnswerBytes {
    query: QueryBytes,
    epoch: i32,
    reserved: u32,
    end_offset: i64,
    first_offset: i64,
}

const _: () = assert!(size_of::<ArchivedHelloBytes>() == 44);
const _: () = assert!(size_of::<ArchivedPushBytes>() == 64);
const _: () = assert!(size_of::<ArchivedEndsBytes>() == 64);
const _: () = assert!(size_of::<ArchivedQueryBytes>() == 40);
const _: () = assert!(size_of::<ArchivedAnswerBytes>() == 64);

/// An element of a header: how it is laid out, and which values are possible.
trait Entry: Copy {
    const BYTES: usize;
    fn append_to(&self, into: &mut Vec<u8>);
    fn read(bytes: &[u8]) -> Result<Self, FrameError>;
}

macro_rules! entry {
    ($entry:ty, $bytes:ty, $archived:ty) => {
        impl Entry for $entry {
            const BYTES: usize = size_of::<$archived>();

            fn append_to(&self, into: &mut Vec<u8>) {
                append_fixed(into, &<$bytes>::from(*self));
            }

            fn read(bytes: &[u8]) -> Result<Self, FrameError> {
                // Whatever stands before the last bytes would not be looked at.
                check(bytes.len() == Self::BYTES)?;
                let invalid = |_: rancor::Failure| FrameError::InvalidField;
                let archived = rkyv::access::<$archived, rancor::Failure>(bytes).map_err(invalid)?;
                let fixed = rkyv::deserialize::<$bytes, rancor::Failure>(archived).map_err(invalid)?;
                Self::try_from(fixed)
            }
        }
    };
}

entry!(Hello, HelloBytes, ArchivedHelloBytes);
entry!(PushedPartition, PushBytes, ArchivedPushBytes);
entry!(PartitionEnds, EndsBytes, ArchivedEndsBytes);
entry!(EpochQuery, QueryBytes, ArchivedQueryBytes);
entry!(EpochAnswer, AnswerBytes, ArchivedAnswerBytes);

fn check(holds: bool) -> Result<(), FrameError> {
    if holds { Ok(()) } else { Err(FrameError::InvalidField) }
}

fn topic_partition(topic_id: [u8; 16], partition: i32) -> TopicPartition {
    TopicPartition { topic_id: Uuid(topic_id), partition: PartitionIndex(partition) }
}

impl From<Hello> for HelloBytes {
    fn from(hello: Hello) -> Self {
        Self {
            cluster_id: hello.cluster_id.0,
            incarnation: hello.incarnation.0,
            broker_id: hello.broker_id.0,
            version_min: hello.version_min,
            version_max: hello.version_max,
            shard: hello.shard.0,
            link: match hello.link {
                Link::Live => 0,
                Link::CatchUp => 1,
            },
        }
    }
}

impl TryFrom<HelloBytes> for Hello {
    type Error = FrameError;

    fn try_from(bytes: HelloBytes) -> Result<Self, FrameError> {
        check(bytes.broker_id >= 0 && bytes.version_min <= bytes.version_max)?;
        Ok(Self {
            cluster_id: Uuid(bytes.cluster_id),
            broker_id: NodeId(bytes.broker_id),
            incarnation: Uuid(bytes.incarnation),
            version_min: bytes.version_min,
            version_max: bytes.version_max,
            shard: ShardIndex(bytes.shard),
            link: match bytes.link {
                0 => Link::Live,
                1 => Link::CatchUp,
                _ => return Err(FrameError::InvalidField),
            },
        })
    }
}

impl From<PushedPartition> for PushBytes {
    fn from(pushed: PushedPartition) -> Self {
        Self {
            topic_id: pushed.partition.topic_id.0,
            partition: pushed.partition.partition.0,
            leader_epoch: pushed.leader_epoch.0,
            from: pushed.from.0,
            high_watermark: pushed.high_watermark.0,
            log_start: pushed.log_start.0,
            first_offset: pushed.first_offset.0,
            batch_bytes: pushed.batch_bytes,
            batch_starts_crc: pushed.batch_starts_crc,
        }
    }
}

impl TryFrom<PushBytes> for PushedPartition {
    type Error = FrameError;

    fn try_from(bytes: PushBytes) -> Result<Self, FrameError> {
        check(bytes.partition >= 0 && bytes.leader_epoch >= 0 && bytes.from >= 0 && bytes.first_offset >= 0)?;
        check(bytes.first_offset <= bytes.log_start && bytes.log_start <= bytes.high_watermark)?;
        Ok(Self {
            partition: topic_partition(bytes.topic_id, bytes.partition),
            leader_epoch: LeaderEpoch(bytes.leader_epoch),
            from: Offset(bytes.from),
            high_watermark: Offset(bytes.high_watermark),
            log_start: Offset(bytes.log_start),
            first_offset: Offset(bytes.first_offset),
            batch_bytes: bytes.batch_bytes,
            batch_starts_crc: bytes.batch_starts_crc,
        })
    }
}

impl From<PartitionEnds> for EndsBytes {
    fn from(ends: PartitionEnds) -> Self {
        Self {
            topic_id: ends.partition.topic_id.0,
            partition: ends.partition.partition.0,
            leader_epoch: ends.leader_epoch.0,
            log_end: ends.log_end.0,
            written: ends.written.0,
            durable: ends.durable.0,
            log_start: ends.log_start.0,
            rewind: u64::from(ends.rewind),
        }
    }
}

impl TryFrom<EndsBytes> for PartitionEnds {
    type Error = FrameError;

    fn try_from(bytes: EndsBytes) -> Result<Self, FrameError> {
        check(bytes.partition >= 0 && bytes.leader_epoch >= 0 && bytes.rewind <= 1)?;
        check(bytes.log_start >= 0 && bytes.log_start <= bytes.log_end)?;
        check(bytes.durable >= 0 && bytes.durable <= bytes.written && bytes.written <= bytes.log_end)?;
        Ok(Self {
            partition: topic_partition(bytes.topic_id, bytes.partition),
            leader_epoch: LeaderEpoch(bytes.leader_epoch),
            log_end: Offset(bytes.log_end),
            written: Offset(bytes.written),
            durable: Offset(bytes.durable),
            log_start: Offset(bytes.log_start),
            rewind: bytes.rewind == 1,
        })
    }
}

impl From<EpochQuery> for QueryBytes {
    fn from(query: EpochQuery) -> Self {
        Self {
            topic_id: query.partition.topic_id.0,
            partition: query.partition.partition.0,
            leader_epoch: query.leader_epoch.0,
            last_epoch: query.last_epoch.0,
            reserved: 0,
            log_end: query.log_end.0,
        }
    }
}

impl TryFrom<QueryBytes> for EpochQuery {
    type Error = FrameError;

    fn try_from(bytes: QueryBytes) -> Result<Self, FrameError> {
        check(bytes.partition >= 0 && bytes.reserved == 0 && bytes.log_end >= 0)?;
        check(bytes.last_epoch >= -1 && bytes.last_epoch <= bytes.leader_epoch)?;
        Ok(Self {
            partition: topic_partition(bytes.topic_id, bytes.partition),
            leader_epoch: LeaderEpoch(bytes.leader_epoch),
            last_epoch: LeaderEpoch(bytes.last_epoch),
            log_end: Offset(bytes.log_end),
        })
    }
}

impl From<EpochAnswer> for AnswerBytes {
    fn from(answer: EpochAnswer) -> Self {
        Self {
            query: answer.query.into(),
            epoch: answer.epoch.0,
            reserved: 0,
            end_offset: answer.end_offset.0,
            first_offset: answer.first_offset.0,
        }
    }
}

impl TryFrom<AnswerBytes> for EpochAnswer {
    type Error = FrameError;

    fn try_from(bytes: AnswerBytes) -> Result<Self, FrameError> {
        let query = EpochQuery::try_from(bytes.query)?;
        check(bytes.reserved == 0 && bytes.first_offset >= 0)?;
        let is_unknown = bytes.epoch == -1 && bytes.end_offset == -1;
        check(is_unknown || (0..=query.last_epoch.0).contains(&bytes.epoch) && bytes.end_offset >= 0)?;
        Ok(Self {
            query,
            epoch: LeaderEpoch(bytes.epoch),
            end_offset: Offset(bytes.end_offset),
            first_offset: Offset(bytes.first_offset),
        })
    }
}

fn encode_all<T: Entry>(kind: u16, entries: &[T]) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; PEER_PREFIX_BYTES];
    for entry in entries {
        entry.append_to(&mut bytes);
    }
    let header = bytes.get(PEER_PREFIX_BYTES..).unwrap_or_default();
    let prefix = seal(kind, header, 0)?;
    bytes[..PEER_PREFIX_BYTES].copy_from_slice(&prefix);
    Ok(bytes)
}

fn seal(kind: u16, header: &[u8], payload_bytes: usize) -> Result<[u8; PEER_PREFIX_BYTES], FrameError> {
    check(header.len() <= REPLICATION_HEADER_BYTES_MAX as usize)?;
    check(payload_bytes <= REPLICATION_PAYLOAD_BYTES_MAX as usize)?;
    PeerPrefix::seal(REPLICATION_MAGIC, REPLICATION_VERSION, kind, header, payload_bytes)
}

/// The bytes of a hello.
///
/// # Errors
/// None that can happen: a hello is within the limits.
pub fn encode_hello(hello: &Hello) -> Result<Vec<u8>, FrameError> {
    encode_all(HELLO, std::slice::from_ref(hello))
}

/// The bytes of a follower's ends.
///
/// # Errors
/// [`FrameError::InvalidField`], if they are more than fit into a header.
pub fn encode_ends(ends: &[PartitionEnds]) -> Result<Vec<u8>, FrameError> {
    encode_all(ENDS, ends)
}

/// The bytes of a follower's questions.
///
/// # Errors
/// [`FrameError::InvalidField`], if they are more than fit into a header.
pub fn encode_queries(queries: &[EpochQuery]) -> Result<Vec<u8>, FrameError> {
    encode_all(QUERY, queries)
}

/// The bytes of a leader's answers.
///
/// # Errors
/// [`FrameError::InvalidField`], if they are more than fit into a header.
pub fn encode_answers(answers: &[EpochAnswer]) -> Result<Vec<u8>, FrameError> {
    encode_all(ANSWER, answers)
}

/// Makes a push: the header here, the payload is sent as it lies in memory.
#[derive(Clone, Debug)]
pub struct PushBuilder {
    bytes: Vec<u8>,
    payload_bytes: usize,
}

impl Default for PushBuilder {
    fn default() -> Self {
        Self { bytes: vec![0; PEER_PREFIX_BYTES], payload_bytes: 0 }
    }
}

impl PushBuilder {
    /// Adds a partition whose batches, `parts` one after another, go into the payload next. Each part must be whole
    /// batches. The bytes and checksum that `pushed` has are replaced by theirs.
    ///
    /// # Errors
    /// [`FrameError::Truncated`], if a part is not whole batches; [`FrameError::InvalidField`], if the frame would be
    /// too large. Nothing is added then.
    pub fn add(&mut self, pushed: PushedPartition, parts: &[&[u8]]) -> Result<(), FrameError> {
        let (mut crc, mut bytes) = (0, 0_usize);
        for part in parts {
            crc = batch_starts_crc(crc, part).ok_or(FrameError::Truncated)?;
            bytes = bytes.saturating_add(part.len());
        }
        let batch_bytes = u32::try_from(bytes).map_err(|_| FrameError::InvalidField)?;
        self.add_measured(PushedPartition { batch_bytes, batch_starts_crc: crc, ..pushed })
    }

    /// As [`PushBuilder::add`], for an entry that already has the bytes of its batches and the checksum over their
    /// starts: a batch may begin in one part of memory and end in another.
    ///
    /// # Errors
    /// [`FrameError::InvalidField`], if the frame would be too large. Nothing is added then.
    pub fn add_measured(&mut self, pushed: PushedPartition) -> Result<(), FrameError> {
        let payload_bytes = self.payload_bytes.saturating_add(pushed.batch_bytes as usize);
        let header_bytes = self.bytes.len() - PEER_PREFIX_BYTES + PushedPartition::BYTES;
        check(payload_bytes <= REPLICATION_PAYLOAD_BYTES_MAX as usize)?;
        check(header_bytes <= REPLICATION_HEADER_BYTES_MAX as usize)?;
        pushed.append_to(&mut self.bytes);
        self.payload_bytes = payload_bytes;
        Ok(())
    }

    /// Prefix and header, behind which all parts follow in the order in which they were added.
    ///
    /// # Errors
    /// None that can happen: what was added is within the limits.
    pub fn finish(mut self) -> Result<Vec<u8>, FrameError> {
        let header = self.bytes.get(PEER_PREFIX_BYTES..).unwrap_or_default();
        let prefix = seal(PUSH, header, self.payload_bytes)?;
        self.bytes[..PEER_PREFIX_BYTES].copy_from_slice(&prefix);
        Ok(self.bytes)
    }
}

/// A frame that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Who is at the other end.
    Hello(Hello),
    /// Each partition, and where its batches begin in the payload.
    Push(Vec<(PushedPartition, usize)>),
    /// Ends of a follower.
    Ends(Vec<PartitionEnds>),
    /// Questions of a follower.
    Queries(Vec<EpochQuery>),
    /// Answers of a leader.
    Answers(Vec<EpochAnswer>),
}

/// Reads the start of a frame, and bounds what follows it.
///
/// # Errors
/// [`FrameError::WrongMagic`], [`FrameError::UnknownVersion`], [`FrameError::InvalidField`] for a length beyond the
/// limits.
pub fn parse_prefix(bytes: &[u8; PEER_PREFIX_BYTES]) -> Result<PeerPrefix, FrameError> {
    let prefix = PeerPrefix::parse(bytes, REPLICATION_MAGIC, REPLICATION_LIMITS)?;
    if prefix.version == REPLICATION_VERSION {
        Ok(prefix)
    } else {
        Err(FrameError::UnknownVersion(prefix.version))
    }
}

/// Reads a frame whose header is `header`. The batches of a push are looked at by [`PushedPartition::check_batches`].
///
/// # Errors
/// [`FrameError`]; the connection is to be dropped then.
pub fn open(prefix: &PeerPrefix, header: &[u8]) -> Result<Frame, FrameError> {
    prefix.check_header(header)?;
    if prefix.kind == PUSH {
        return open_push(header, prefix.payload_bytes).map(Frame::Push);
    }
    check(prefix.payload_bytes == 0)?;
    match prefix.kind {
        HELLO => Hello::read(header).map(Frame::Hello),
        ENDS => read_all(header).map(Frame::Ends),
        QUERY => read_all(header).map(Frame::Queries),
        ANSWER => read_all(header).map(Frame::Answers),
        _ => Err(FrameError::InvalidField),
    }
}

/// The entries that a header consists of; there are as many as there are bytes for.
fn read_all<T: Entry>(header: &[u8]) -> Result<Vec<T>, FrameError> {
    let entries = header.chunks_exact(T::BYTES);
    check(entries.remainder().is_empty())?;
    entries.map(T::read).collect()
}

fn open_push(header: &[u8], payload_bytes: u32) -> Result<Vec<(PushedPartition, usize)>, FrameError> {
    let mut at = 0_u32;
    let mut pushed = Vec::with_capacity(header.len() / PushedPartition::BYTES);
    for entry in read_all::<PushedPartition>(header)? {
        pushed.push((entry, at as usize));
        at = at.checked_add(entry.batch_bytes).ok_or(FrameError::InvalidField)?;
    }
    check(at == payload_bytes)?;
    Ok(pushed)
}

#[cfg(test)]
mod tests;
