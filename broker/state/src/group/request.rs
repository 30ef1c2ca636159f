//! What clients ask of a group's coordinator. Requests own what they carry, because they cross shards.

use bytes::Bytes;
use logmill_wire::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId, Uuid};
use std::fmt;
use std::sync::Arc;

/// Names a request until it is answered; its driver gives the numbers out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A request about one group, or about all groups of one partition of `__consumer_offsets`.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupRequest {
    /// JoinGroup.
    Join(JoinRequest),
    /// SyncGroup.
    Sync(SyncRequest),
    /// Heartbeat.
    Heartbeat(HeartbeatRequest),
    /// LeaveGroup.
    Leave(LeaveRequest),
    /// ConsumerGroupHeartbeat (KIP-848).
    ConsumerHeartbeat(ConsumerHeartbeatRequest),
    /// OffsetCommit.
    CommitOffsets(CommitRequest),
    /// One group of an OffsetFetch.
    FetchOffsets(FetchOffsetsRequest),
    /// OffsetDelete.
    DeleteOffsets(DeleteOffsetsRequest),
    /// One group of a DescribeGroups: classic groups only.
    DescribeClassic(Arc<str>),
    /// One group of a ConsumerGroupDescribe.
    DescribeConsumer(Arc<str>),
    /// One group of a DeleteGroups.
    Delete(Arc<str>),
    /// ListGroups, for the groups of this partition.
    List(ListRequest),
}

/// Bytes of a string in a record of `__consumer_offsets`, whose lengths are signed numbers of 16 bits.
const RECORD_STRING_BYTES_MAX: usize = i16::MAX as usize;

impl GroupRequest {
    /// Whether the texts of the request have room in the records that it may lead to. Requests have longer
    /// lengths than records, and what cannot be stored must not be decided.
    #[must_use]
    pub fn fits_its_records(&self) -> bool {
        let fits = |text: &str| text.len() <= RECORD_STRING_BYTES_MAX;
        let fits_option = |text: &Option<Arc<str>>| text.as_deref().is_none_or(fits);
        let member = |member: &MemberIdentity| fits(&member.member_id) && fits_option(&member.instance_id);
        match self {
            Self::Join(join) => {
                // A fresh member's id is longer than its client id.
                let client_id = join.client_id.len() <= RECORD_STRING_BYTES_MAX - 64;
                let instance = join.member.instance_id.as_ref();
                let instance = instance.is_none_or(|id| id.len() <= RECORD_STRING_BYTES_MAX - 64);
                let mut protocols = join.protocols.iter();
                fits(&join.group_id)
                    && member(&join.member)
                    && client_id
                    && instance
                    && fits(&join.client_host)
                    && fits(&join.protocol_type)
                    && protocols.all(|(name, _)| fits(name))
            }
            Self::ConsumerHeartbeat(heartbeat) => {
                fits(&heartbeat.group_id)
                    && member(&heartbeat.member)
                    && fits_option(&heartbeat.subscribed_regex)
            }
            Self::CommitOffsets(commit) => {
                fits(&commit.group_id) && commit.offsets.iter().all(|(_, _, offset)| fits(&offset.metadata))
            }
            _ => true,
        }
    }
}

/// Who sends a request for a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberIdentity {
    /// Empty before the first join.
    pub member_id: Arc<str>,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<Arc<str>>,
}

/// JoinGroup.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// Who joins.
    pub member: MemberIdentity,
    /// What a member without an id is called if it gets one: its client id, a dash and this (KIP-394).
    pub fresh_id: Uuid,
    /// The client id of the request.
    pub client_id: Arc<str>,
    /// Where the request came from, as `/127.0.0.1`.
    pub client_host: Arc<str>,
    /// How long the member may be silent, in milliseconds.
    pub session_timeout_ms: i32,
    /// How long the member may take to join again, in milliseconds; version 0 sends its session timeout.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect`, or whatever the client brings.
    pub protocol_type: Arc<str>,
    /// What the member supports, best first, with what it tells the leader of itself.
    pub protocols: Vec<(Arc<str>, Bytes)>,
    /// Why the member joins again, if it says so (KIP-800).
    pub reason: Option<Arc<str>>,
    /// Whether a member without an id must come again with the one that it is given (version 4 on, KIP-394).
    pub requires_known_member_id: bool,
    /// Whether the leader understands that it need not assign (version 9 on, KIP-814).
    pub supports_skipping_assignment: bool,
}

/// SyncGroup.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// Who syncs.
    pub member: MemberIdentity,
    /// The generation that the member has joined.
    pub generation: i32,
    /// The protocol type that the member believes in (version 5 on).
    pub protocol_type: Option<Arc<str>>,
    /// The protocol that the member believes to be chosen (version 5 on).
    pub protocol_name: Option<Arc<str>>,
    /// The leader's assignments by member id; empty from all others.
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

/// Heartbeat.
#[derive(Clone, Debug, PartialEq)]
pub struct HeartbeatRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// Whose heart beats.
    pub member: MemberIdentity,
    /// The member's generation.
    pub generation: i32,
}

/// LeaveGroup.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaveRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// Who leaves, and why if it says so.
    pub members: Vec<(MemberIdentity, Option<Arc<str>>)>,
}

/// Partitions of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPartitions {
    /// The topic.
    pub topic_id: TopicId,
    /// Which of its partitions.
    pub partitions: Vec<PartitionIndex>,
}

/// Which topics the sender of a request may see (Describe): a regular expression stands for no others.
#[derive(Clone)]
pub struct VisibleTopics(Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl VisibleTopics {
    /// Those for whose names `may_describe` holds.
    #[must_use]
    pub fn new(may_describe: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(may_describe))
    }

    /// Whether a topic is one of them.
    #[must_use]
    pub fn has(&self, topic: &str) -> bool {
        (self.0)(topic)
    }
}

impl fmt::Debug for VisibleTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VisibleTopics")
    }
}

impl PartialEq for VisibleTopics {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// ConsumerGroupHeartbeat (KIP-848). A field that is `None` has not changed since the last one.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerHeartbeatRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// Who reports; version 0 lets the coordinator choose the id of a member that has none yet.
    pub member: MemberIdentity,
    /// The id of a member that brings none (version 0).
    pub fresh_id: Uuid,
    /// 0 joins, -1 leaves, -2 leaves for a while (static members); otherwise the epoch that the member has.
    pub member_epoch: i32,
    /// `client.rack`.
    pub rack_id: Option<Arc<str>>,
    /// How long the member may take to give up partitions, in milliseconds.
    pub rebalance_timeout_ms: Option<i32>,
    /// Topics by name.
    pub subscribed_topics: Option<Vec<Arc<str>>>,
    /// Topics by a regular expression of RE2's language; an empty one ends such a subscription.
    pub subscribed_regex: Option<Arc<str>>,
    /// The topics for which a regular expression may stand.
    pub visible_topics: VisibleTopics,
    /// The assignor that the member wants.
    pub server_assignor: Option<Arc<str>>,
    /// What the member owns now.
    pub owned: Option<Vec<TopicPartitions>>,
    /// The client id of the request.
    pub client_id: Arc<str>,
    /// Where the request came from, as `/127.0.0.1`.
    pub client_host: Arc<str>,
}

/// An offset to commit, or one that is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The next offset to consume.
    pub offset: Offset,
    /// The leader epoch of the last consumed record; -1 if the client does not say.
    pub leader_epoch: LeaderEpoch,
    /// The client's own text.
    pub metadata: Arc<str>,
}

/// A partition in the groups' books: offsets are kept by name, as Kafka's records are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// Which of its partitions.
    pub partition: PartitionIndex,
}

/// OffsetCommit; its topics exist.
#[derive(Clone, Debug, PartialEq)]
pub struct CommitRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// Who commits; no member id at all for one that assigns its partitions itself.
    pub member: MemberIdentity,
    /// The generation of a classic member or the epoch of a consumer's; -1 for neither.
    pub generation_or_epoch: i32,
    /// How long to keep the offsets, in milliseconds (versions 2 to 4); -1 for the broker's setting.
    pub retention_ms: i64,
    /// The topic's id, zero if the client does not know it, and the offset of each partition.
    pub offsets: Vec<(NamedPartition, TopicId, OffsetAndMetadata)>,
    /// The version from which STALE_MEMBER_EPOCH is understood is 9.
    pub version: i16,
}

/// One group of an OffsetFetch.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchOffsetsRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// The member that asks (version 9 on), to be fenced by its epoch.
    pub member: Option<(Arc<str>, i32)>,
    /// Which partitions; `None` for all that have an offset.
    pub partitions: Option<Vec<NamedPartition>>,
}

/// OffsetDelete (KIP-496).
#[derive(Clone, Debug, PartialEq)]
pub struct DeleteOffsetsRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// Whose offsets to forget.
    pub partitions: Vec<NamedPartition>,
}

/// ListGroups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListRequest {
    /// States in any case; none for all.
    pub states: Vec<Arc<str>>,
    /// Types in any case; none for all (KIP-848).
    pub types: Vec<Arc<str>>,
}
