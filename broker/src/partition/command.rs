//! What other shards ask of a partition. A command is a message: it owns all that it carries, and its
//! answer comes through a oneshot channel.

use super::peers::PeerCommand;
use crate::runtime::flags::Flag;
use crate::runtime::{gather, oneshot};
use bytes::Bytes;
use logmill_state::partition::{
    AppendError, EpochCheckError, EpochEnd, FetchCheckError, Isolation, LogStartError, NotEnoughReplicas,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, Offset, TimestampMs, TopicPartition};
use logmill_wire::record_batch::BatchError;
use std::ops::Range;

/// Why a partition did not do what it was asked.
#[derive(Clone, Debug, PartialEq)]
pub enum PartitionError {
    /// This broker does not host the partition (any more).
    NotHosted,
    /// The record set cannot be accepted as it is.
    Batch(BatchError),
    /// The append breaks a rule of the topic or of the producer.
    Append(AppendError),
    /// The fetch position does not fit the log.
    Fetch(FetchCheckError),
    /// The log cannot start where it was asked to.
    LogStart(LogStartError),
    /// Records of the topic are not deleted: its `cleanup.policy` is compact alone.
    NotDeletable,
    /// The caller's epoch is not the leader's.
    Epoch(EpochCheckError),
    /// Another broker leads the partition, or none does; this one has a replica.
    NotLeader,
    /// An acks=all append, while fewer replicas than `min.insync.replicas` are in sync.
    NotEnoughReplicas(NotEnoughReplicas),
    /// As before, but it was found after the append: the records are in the log, and may be committed later.
    NotEnoughReplicasAfterAppend(NotEnoughReplicas),
    /// The leader is new and does not yet know what was committed (KIP-207).
    OffsetNotAvailable,
    /// The log could not do it; the text says why. Reads may still work.
    Storage(String),
    /// Stored bytes are not what was written.
    Corrupt(String),
    /// The shard is stopping.
    Stopping,
}

impl PartitionError {
    /// The Kafka error that a client gets.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        super::reply::error_code(self)
    }

    /// The text that accompanies the error where a response has room for one.
    #[must_use]
    pub fn message(&self) -> String {
        super::reply::error_message(self)
    }
}

/// When an append is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// As soon as it has its offsets; nobody waits for the answer but to learn of an error (acks=0).
    None,
    /// When the leader's commit is durable (acks=1).
    Leader,
    /// When it is durable on every replica of the in-sync set (acks=all).
    All,
}

/// The answer to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The first record's offset; of a duplicate, that of the first time.
    pub base_offset: Offset,
    /// The append time of a topic with LogAppendTime, otherwise -1.
    pub log_append_time: TimestampMs,
    /// The first offset that can be read.
    pub log_start_offset: Offset,
}

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// From which offset on.
    pub offset: Offset,
    /// At most so many bytes.
    pub max_bytes: usize,
    /// Whether the first batch comes even if it is larger (KIP-74).
    pub at_least_one: bool,
    /// The epoch that the client believes in; -1 if it does not say (KIP-320).
    pub current_leader_epoch: LeaderEpoch,
    /// The epoch of the last record that the client has; -1 if it does not say.
    pub last_fetched_epoch: LeaderEpoch,
    /// Up to where.
    pub isolation: Isolation,
    /// Whether only the leader may answer, and no follower (KIP-392).
    pub leader_only: bool,
}

/// What was read. Errors that concern the position come with the partition's offsets too.
#[derive(Clone, Debug)]
pub struct ReadReply {
    /// The end of what consumers may see.
    pub high_watermark: Offset,
    /// The end of what read_committed consumers may see.
    pub last_stable_offset: Offset,
    /// The first offset that can be read.
    pub log_start_offset: Offset,
    /// The epoch of the leader.
    pub leader_epoch: LeaderEpoch,
    /// Batches as they lie in the log, or what went wrong.
    pub records: Result<Vec<Bytes>, PartitionError>,
}

/// What ListOffsets asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    /// -2: the log start offset.
    Earliest,
    /// -1: the end for this isolation.
    Latest,
    /// -3: the record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// -4: the first offset on local disk (KIP-405).
    EarliestLocal,
    /// -5: the last offset in tiered storage (KIP-1005); without tiers there is none.
    LatestTiered,
    /// The first record that is not older.
    Timestamp(TimestampMs),
}

/// The answer to an [`OffsetQuery`]; -1 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetFound {
    /// The offset.
    pub offset: Offset,
    /// Its record's timestamp, for queries by timestamp.
    pub timestamp: TimestampMs,
    /// The epoch of that record, or of the leader.
    pub leader_epoch: LeaderEpoch,
}

/// One record set for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionAppend {
    /// Where.
    pub partition: TopicPartition,
    /// Where in the command's bytes its record batches lie, back to back: the producer's bytes as received.
    pub records: Range<u32>,
}

impl PartitionAppend {
    /// Where the records lie.
    #[must_use]
    pub const fn range(&self) -> Range<usize> {
        self.records.start as usize..self.records.end as usize
    }
}

/// What became of one append.
pub type AppendResult = Result<Appended, PartitionError>;

/// The way back for one append.
pub type AppendReply = gather::Part<AppendResult>;

/// The ways back for the appends of one command.
pub type AppendReplies = gather::Parts<AppendResult>;

/// The answers to the appends of one command.
pub type AppendAnswers = gather::Receiver<AppendResult>;

/// What one log directory holds of the partitions of a shard.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectorySizes {
    /// The directory's place in `log.dirs`, from 0.
    pub directory: usize,
    /// The bytes of its logs; or why it is out of service.
    pub sizes: Result<Vec<(TopicPartition, u64)>, PartitionError>,
}

/// A command and the way back for its answer.
pub enum PartitionCommand {
    /// Append to one or more partitions of one shard: all that a request has for it.
    Append {
        /// What holds the records of all of them, as the frame of a request does.
        bytes: Bytes,
        /// What, and where.
        appends: Vec<PartitionAppend>,
        /// When to answer.
        acks: Acks,
        /// The ways back, in the order of `appends`.
        replies: AppendReplies,
    },
    /// Read batches.
    Read {
        /// Where.
        partition: TopicPartition,
        /// What.
        request: ReadRequest,
        /// The way back.
        reply: oneshot::Sender<ReadReply>,
    },
    /// Read batches of one or more partitions of one shard.
    Reads {
        /// Where, and what.
        reads: Vec<(TopicPartition, ReadRequest)>,
        /// The ways back, in the order of `reads`.
        replies: gather::Parts<ReadReply>,
    },
    /// Raise `flag` as soon as the high watermark is above `above`, or the partition goes away.
    Watch {
        /// Where.
        partition: TopicPartition,
        /// The high watermark that the caller has seen.
        above: Offset,
        /// What to raise; dropped by its owner, it is forgotten here.
        flag: Flag,
    },
    /// Look up an offset.
    FindOffset {
        /// Where.
        partition: TopicPartition,
        /// What.
        query: OffsetQuery,
        /// The epoch that the client believes in, or -1.
        current_leader_epoch: LeaderEpoch,
        /// Up to where.
        isolation: Isolation,
        /// The way back.
        reply: oneshot::Sender<Result<OffsetFound, PartitionError>>,
    },
    /// Delete the records before an offset (DeleteRecords, KIP-107).
    DeleteRecords {
        /// Where.
        partition: TopicPartition,
        /// The first offset that stays; -1 for the high watermark.
        before: Offset,
        /// The way back, for the log's start once that is durable.
        reply: oneshot::Sender<Result<Offset, PartitionError>>,
    },
    /// How many bytes logs have; sent to a shard by [`PartitionRouter::send_to`](super::router::PartitionRouter).
    Sizes {
        /// Of which partitions of that shard; `None` for all that were ever appended to.
        partitions: Option<Vec<TopicPartition>>,
        /// The way back, with one answer for each log directory.
        reply: oneshot::Sender<Vec<DirectorySizes>>,
    },
    /// The end of a leader epoch (KIP-101, KIP-320).
    EpochEnd {
        /// Where.
        partition: TopicPartition,
        /// The epoch that the client believes in, or -1.
        current_leader_epoch: LeaderEpoch,
        /// The epoch whose end is asked for.
        epoch: LeaderEpoch,
        /// The way back.
        reply: oneshot::Sender<Result<EpochEnd, PartitionError>>,
    },
    /// What another broker says to the partitions of one shard; sent to it by
    /// [`PartitionRouter::send_to`](super::router::PartitionRouter).
    Peer(PeerCommand),
}

impl PartitionCommand {
    /// The command to append one record set, of less than 4 GiB, and where its answer comes.
    #[must_use]
    pub fn append(partition: TopicPartition, records: Bytes, acks: Acks) -> (Self, AppendAnswers) {
        let (replies, answers) = gather::channel(1);
        let append = PartitionAppend { partition, records: 0..u32::try_from(records.len()).unwrap_or(0) };
        (Self::Append { bytes: records, appends: vec![append], acks, replies }, answers)
    }

    /// The partition that is asked; of several, which are all on one shard, the first. There is none in a command
    /// to append or read nothing, or in one for a whole shard.
    #[must_use]
    pub fn partition(&self) -> Option<TopicPartition> {
        match self {
            Self::Sizes { .. } | Self::Peer(_) => None,
            Self::Append { appends, .. } => appends.first().map(|append| append.partition),
            Self::Reads { reads, .. } => reads.first().map(|(partition, _)| *partition),
            Self::Read { partition, .. }
            | Self::Watch { partition, .. }
            | Self::FindOffset { partition, .. }
            | Self::DeleteRecords { partition, .. }
            | Self::EpochEnd { partition, .. } => Some(*partition),
        }
    }
}
