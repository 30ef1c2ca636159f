//! What brokers ask of the active controller, and what it answers.
//!
//! | question | answer |
//! |---|---|
//! | register: who a broker is | registered, at which place of the metadata log; or why not |
//! | heartbeat: which incarnation lives, how far it has the metadata, whether it wants to stop | whether it is fenced, whether it may stop |
//! | alter partitions: other in-sync sets | one outcome for each |
//! | allocate producer ids | a block |
//! | create missing topics, for a request that may create on demand | one outcome for each |
//! | change voters: a controller votes from now on, or is reached elsewhere; or what it was with another disk is gone | done, or why not |
//! | replicas offline: those in log directories that do not work (KIP-858) | altered, without outcomes |
//! | forward: a request of a client as it came, and who sent it (KIP-590) | the response as the client shall get it |
//!
//! A message is [`Prefix`] and an archived enum behind it. The prefix's checksum covers the archive, which is checked
//! before anything of it is read: every length within it is bounded by the bytes that are there, and no byte belongs to
//! two values, so what a message takes in memory is a small multiple of its own size.

use rkyv::rancor;

use super::{FrameError, PREFIX_BYTES, Prefix, aligned, append_fixed, checksum};
use crate::limits::CONTROL_MESSAGE_BYTES_MAX;

/// "LMCT" read as a little-endian number.
pub const CONTROL_MAGIC: u32 = u32::from_le_bytes(*b"LMCT");

/// The version that is written, and the only one that is read.
pub const CONTROL_VERSION: u16 = 0;

/// A broker, or a controller, that is not known.
pub const NO_NODE: i32 = -1;

/// A question.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// A broker has started.
    Register(Registration),
    /// A broker is alive.
    Heartbeat(Heartbeat),
    /// A leader wants other in-sync sets.
    AlterPartitions(AlterPartitions),
    /// This broker needs producer ids.
    AllocateProducerIds(i32),
    /// A request that may create topics found some missing. The broker has asked its authorizer.
    CreateMissingTopics(Vec<MissingTopic>),
    /// A client's request that only the active controller can answer.
    Forward(ForwardedRequest),
    /// A controller wants the voters changed, about itself (KIP-853).
    ChangeVoters(VoterChange),
    /// Log directories of a broker do not work, and these replicas are in them.
    ReplicasOffline(OfflineReplicas),
}

/// What a broker says of itself when it starts.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The cluster that its log directories belong to.
    pub cluster_id: [u8; 16],
    /// Drawn anew by every process.
    pub incarnation: [u8; 16],
    /// `node.id`.
    pub broker_id: i32,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// `advertised.listeners`.
    pub endpoints: Vec<RegisteredEndpoint>,
    /// The ids of its log directories (KIP-858).
    pub directories: Vec<[u8; 16]>,
    /// The logs in each of them, of a broker with several.
    pub logs: Vec<RegisteredLogs>,
    /// Whether what was written and not durable is gone.
    pub lost_writes: bool,
    /// Whether it is fenced until its heartbeats say that it has the metadata.
    pub starts_fenced: bool,
}

/// The logs in a log directory.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RegisteredLogs {
    /// The directory's id.
    pub directory: [u8; 16],
    /// By topic, which has them for these partitions.
    pub topics: Vec<([u8; 16], Vec<i32>)>,
}

/// Where a broker is reached.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RegisteredEndpoint {
    /// The listener's name.
    pub listener: String,
    /// The advertised host.
    pub host: String,
    /// The advertised port.
    pub port: u16,
    /// Kafka's number of the security protocol.
    pub security_protocol: i16,
}

/// A sign of life.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The broker.
    pub broker_id: i32,
    /// Its process.
    pub incarnation: [u8; 16],
    /// The last place of the metadata log with which all of it works.
    pub applied: u64,
    /// Whether it wants to be relieved of its partitions, to stop then.
    pub wants_shutdown: bool,
}

/// Proposals of one leader.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AlterPartitions {
    /// The leader.
    pub broker_id: i32,
    /// Its process.
    pub incarnation: [u8; 16],
    /// What it proposes.
    pub proposals: Vec<Proposal>,
}

/// Another in-sync set of one partition (KIP-497, KIP-903).
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The topic.
    pub topic_id: [u8; 16],
    /// The partition.
    pub partition: i32,
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// The partition epoch that the proposal goes out from.
    pub partition_epoch: i32,
    /// The set, each member with the incarnation that the leader heard from.
    pub in_sync: Vec<(i32, [u8; 16])>,
}

/// Replicas in log directories that do not work.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct OfflineReplicas {
    /// The broker that has them.
    pub broker_id: i32,
    /// Its process.
    pub incarnation: [u8; 16],
    /// Topics and partitions.
    pub partitions: Vec<([u8; 16], i32)>,
}

/// A topic to be created on demand. Where its partitions lie is for the controller to choose.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MissingTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; -1 for the default.
    pub partition_count: i32,
    /// How many replicas each; -1 for the default.
    pub replication_factor: i16,
    /// Its configs.
    pub configs: Vec<(String, Option<String>)>,
}

/// A client's request on its way to the active controller.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ForwardedRequest {
    /// The listener that the client is connected to.
    pub listener: String,
    /// The kind of the client's principal.
    pub principal_type: String,
    /// Its name.
    pub principal_name: String,
    /// The client's address, as `host:port`.
    pub peer: String,
    /// The number of its connection.
    pub connection_id: u64,
    /// Header and body, without the size before them.
    pub frame: Vec<u8>,
}

/// What a controller wants changed about itself among the voters.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct VoterChange {
    /// The node, which is the sender.
    pub node: i32,
    /// The id of the directory that it is about.
    pub directory: [u8; 16],
    /// What is wanted.
    pub kind: VoterChangeKind,
}

/// Kinds of changes of the voters.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum VoterChangeKind {
    /// An observer votes from now on, and is reached there.
    Add(Vec<ControllerEndpoint>),
    /// A voter is gone.
    Remove,
    /// A voter is reached there.
    Update(Vec<ControllerEndpoint>),
}

/// Where a controller is reached.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ControllerEndpoint {
    /// The listener's name.
    pub listener: String,
    /// The advertised host.
    pub host: String,
    /// The advertised port.
    pub port: u16,
}

/// An answer.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ControlAnswer {
    /// Nothing was changed: the node that was asked is not the active controller, but this one, or [`NO_NODE`].
    NotController(i32),
    /// It is not known whether anything was or will be changed, for this cause.
    NotCommitted(String),
    /// Nothing was changed: the question is not one that the controller understands.
    NotUnderstood,
    /// The broker is registered, at this place of the metadata log.
    Registered(u64),
    /// It is not.
    RegistrationRefused(RegistrationRefusal),
    /// The answer to a heartbeat.
    Alive(Standing),
    /// The broker that asks is not registered.
    NotRegistered,
    /// Another process has registered with the id of the one that asks.
    StaleIncarnation,
    /// One outcome for each proposal, in their order.
    Altered(Vec<ProposalOutcome>),
    /// Producer ids.
    ProducerIds(ProducerIdRange),
    /// There are no producer ids left.
    ProducerIdsExhausted,
    /// What became of missing topics.
    Created(Creations),
    /// What the client gets.
    Forwarded(ForwardedResponse),
    /// The voters are changed.
    VotersChanged,
    /// They are not, for this cause.
    VotersUnchanged(String),
}

/// How a broker stands that has given a sign of life.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is held to be dead, still or again.
    pub is_fenced: bool,
    /// Whether it leads nothing any more that others could, after it said that it wants to stop.
    pub may_stop: bool,
}

/// A block of producer ids.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdRange {
    /// The first.
    pub first: i64,
    /// How many.
    pub count: i64,
}

/// The answer to a request that was forwarded.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ForwardedResponse {
    /// The response with its size before it.
    pub response: Vec<u8>,
    /// How far the controller had the metadata then.
    pub applied: u64,
}

/// Why a broker is not registered.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationRefusal {
    /// It belongs to another cluster than the one with this id; none while the cluster has no id yet.
    InconsistentClusterId(Option<[u8; 16]>),
    /// Another process with its id is alive.
    Duplicate,
    /// It says nonsense of itself.
    Invalid,
    /// It has been started too often.
    EpochsExhausted,
}

/// What became of a proposal.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ProposalOutcome {
    /// It is committed.
    Accepted(AcceptedProposal),
    /// A member is fenced, shuts down, or was restarted.
    Ineligible,
    /// Newer metadata will explain it.
    Stale,
    /// The controller knows less than the leader.
    Unknown,
}

/// What a partition is like by a proposal that is committed.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AcceptedProposal {
    /// The new partition epoch.
    pub partition_epoch: i32,
    /// The committed set.
    pub in_sync: Vec<i32>,
    /// Whether replicas out of sync may be elected.
    pub has_eligible: bool,
}

/// What became of topics that were missing.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Creations {
    /// One for each topic, in their order.
    pub outcomes: Vec<CreationOutcome>,
    /// How far the controller had the metadata then.
    pub applied: u64,
}

/// What became of a topic that was missing.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CreationOutcome {
    /// The topic.
    pub name: String,
    /// Kafka's error and a text, if it was not created.
    pub refusal: Option<(i16, String)>,
}

fn seal(archived: &[u8]) -> Result<Vec<u8>, FrameError> {
    if archived.len() > CONTROL_MESSAGE_BYTES_MAX - PREFIX_BYTES {
        return Err(FrameError::InvalidField);
    }
    let prefix = Prefix { magic: CONTROL_MAGIC, version: CONTROL_VERSION, reserved: 0, crc: 0 };
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + archived.len());
    append_fixed(&mut bytes, &prefix);
    let crc = checksum(&bytes, archived);
    bytes.extend_from_slice(archived);
    bytes[8..PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// The archive behind a prefix that is in order.
fn open(bytes: &[u8]) -> Result<&[u8], FrameError> {
    if bytes.len() > CONTROL_MESSAGE_BYTES_MAX {
        return Err(FrameError::InvalidField);
    }
    let crc = Prefix::check(bytes, CONTROL_MAGIC, CONTROL_VERSION)?;
    let (prefix, archived) = bytes.split_at_checked(PREFIX_BYTES).ok_or(FrameError::Truncated)?;
    if checksum(prefix, archived) == crc { Ok(archived) } else { Err(FrameError::WrongChecksum) }
}

macro_rules! message {
    ($message:ty, $encode:ident, $decode:ident, $what:literal) => {
        #[doc = concat!("The bytes of ", $what, ".")]
        ///
        /// # Errors
        /// [`FrameError::InvalidField`], if it has more than [`CONTROL_MESSAGE_BYTES_MAX`].
        pub fn $encode(message: &$message) -> Result<Vec<u8>, FrameError> {
            let archived =
                rkyv::to_bytes::<rancor::Failure>(message).map_err(|_| FrameError::InvalidField)?;
            seal(&archived)
        }

        #[doc = concat!("Reads ", $what, ".")]
        ///
        /// # Errors
        /// [`FrameError`], if the bytes are not one of this version.
        pub fn $decode(bytes: &[u8]) -> Result<$message, FrameError> {
            rkyv::from_bytes::<$message, rancor::Failure>(&aligned(open(bytes)?))
                .map_err(|_| FrameError::InvalidField)
        }
    };
}

message!(ControlRequest, encode_request, decode_request, "a question");
message!(ControlAnswer, encode_answer, decode_answer, "an answer");

#[cfg(test)]
mod tests;
