//! What a group's coordinator answers.

use super::request::{NamedPartition, OffsetAndMetadata, TopicPartitions};
use bytes::Bytes;
use logmill_wire::error_codes::ErrorCode;
use std::sync::Arc;

/// The answer to a [`super::GroupRequest`] of the same name.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupReply {
    /// JoinGroup.
    Join(JoinReply),
    /// SyncGroup.
    Sync(SyncReply),
    /// Heartbeat.
    Heartbeat(ErrorCode),
    /// LeaveGroup: per member in the order of the request, or what is wrong with all of it.
    Leave(Result<Vec<LeftMember>, ErrorCode>),
    /// ConsumerGroupHeartbeat.
    ConsumerHeartbeat(Result<ConsumerHeartbeatReply, Refused>),
    /// OffsetCommit: per partition, in the order of the request.
    CommitOffsets(Vec<ErrorCode>),
    /// One group of an OffsetFetch: what is committed per partition (`None` where nothing is).
    FetchOffsets(Result<Vec<(NamedPartition, Option<OffsetAndMetadata>)>, ErrorCode>),
    /// OffsetDelete: per partition in the order of the request, or what is wrong with all of it.
    DeleteOffsets(Result<Vec<ErrorCode>, ErrorCode>),
    /// One group of a DescribeGroups.
    DescribeClassic(Result<DescribedClassicGroup, Refused>),
    /// One group of a ConsumerGroupDescribe.
    DescribeConsumer(Result<DescribedConsumerGroup, Refused>),
    /// One group of a DeleteGroups.
    Delete(ErrorCode),
    /// ListGroups.
    List(Vec<ListedGroup>),
    /// The coordinator cannot answer; the client looks for it again, or tries again.
    Unavailable(ErrorCode),
}

/// An error and the text that accompanies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The error.
    pub code: ErrorCode,
    /// The cause.
    pub message: String,
}

impl Refused {
    /// An error whose text is the code's description.
    #[must_use]
    pub fn plain(code: ErrorCode) -> Self {
        Self::new(code, code.description())
    }

    /// An error with its cause.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The answer to a JoinGroup.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinReply {
    /// What went wrong.
    pub error: ErrorCode,
    /// The generation that begins; -1 with an error.
    pub generation: i32,
    /// The group's protocol type.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol that all members support and most of them prefer.
    pub protocol_name: Option<Arc<str>>,
    /// The leader's member id.
    pub leader: Arc<str>,
    /// Whether the leader need not assign (KIP-814).
    pub skip_assignment: bool,
    /// The member's id.
    pub member_id: Arc<str>,
    /// All members with what they said of themselves for the chosen protocol; only for the leader.
    pub members: Vec<JoinedMember>,
}

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// `group.instance.id`.
    pub instance_id: Option<Arc<str>>,
    /// What it said of itself.
    pub metadata: Bytes,
}

/// The answer to a SyncGroup.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncReply {
    /// What went wrong.
    pub error: ErrorCode,
    /// The group's protocol type.
    pub protocol_type: Option<Arc<str>>,
    /// The group's protocol.
    pub protocol_name: Option<Arc<str>>,
    /// What the leader assigned to the member.
    pub assignment: Bytes,
}

/// What became of one member of a LeaveGroup.
#[derive(Clone, Debug, PartialEq)]
pub struct LeftMember {
    /// As in the request.
    pub member_id: Arc<str>,
    /// As in the request.
    pub instance_id: Option<Arc<str>>,
    /// What went wrong.
    pub error: ErrorCode,
}

/// The answer to a ConsumerGroupHeartbeat.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerHeartbeatReply {
    /// The member's id.
    pub member_id: Arc<str>,
    /// The member's epoch.
    pub member_epoch: i32,
    /// When to report again, in milliseconds.
    pub heartbeat_interval_ms: i32,
    /// What the member shall own; `None` if it knows.
    pub assignment: Option<Vec<TopicPartitions>>,
}

/// A classic group in words.
#[derive(Clone, Debug, PartialEq)]
pub struct DescribedClassicGroup {
    /// `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Stable` or `Dead`.
    pub state: &'static str,
    /// The protocol type; empty if no member ever brought one.
    pub protocol_type: Arc<str>,
    /// The chosen protocol; empty while there is none.
    pub protocol_name: Arc<str>,
    /// The members.
    pub members: Vec<DescribedClassicMember>,
}

/// A member of a classic group in words.
#[derive(Clone, Debug, PartialEq)]
pub struct DescribedClassicMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// `group.instance.id`.
    pub instance_id: Option<Arc<str>>,
    /// Its client id.
    pub client_id: Arc<str>,
    /// Where it comes from.
    pub client_host: Arc<str>,
    /// What it said of itself for the chosen protocol.
    pub metadata: Bytes,
    /// What it is assigned.
    pub assignment: Bytes,
}

/// A consumer group in words.
#[derive(Clone, Debug, PartialEq)]
pub struct DescribedConsumerGroup {
    /// `Empty`, `Assigning`, `Reconciling`, `Stable` or `Dead`.
    pub state: &'static str,
    /// The group's epoch.
    pub group_epoch: i32,
    /// The epoch of the target assignment.
    pub assignment_epoch: i32,
    /// The assignor.
    pub assignor: Arc<str>,
    /// The members.
    pub members: Vec<DescribedConsumerMember>,
}

/// A member of a consumer group in words.
#[derive(Clone, Debug, PartialEq)]
pub struct DescribedConsumerMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// `group.instance.id`.
    pub instance_id: Option<Arc<str>>,
    /// `client.rack`.
    pub rack_id: Option<Arc<str>>,
    /// The epoch that it has reached.
    pub member_epoch: i32,
    /// Its client id.
    pub client_id: Arc<str>,
    /// Where it comes from.
    pub client_host: Arc<str>,
    /// Topics that it names.
    pub subscribed_topics: Vec<Arc<str>>,
    /// Topics that it describes.
    pub subscribed_regex: Option<Arc<str>>,
    /// What it owns.
    pub assigned: Vec<TopicPartitions>,
    /// What it shall own.
    pub target: Vec<TopicPartitions>,
    /// Whether it speaks the classic protocol.
    pub is_classic: bool,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    /// Its id.
    pub group_id: Arc<str>,
    /// Its protocol type; empty for one that only commits offsets.
    pub protocol_type: Arc<str>,
    /// Its state.
    pub state: &'static str,
    /// `classic` or `consumer`.
    pub group_type: &'static str,
}
