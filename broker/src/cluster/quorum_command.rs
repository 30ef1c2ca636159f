//! What shards ask of the control shard about the metadata quorum.

use super::command::MetadataError;
use super::quorum::{MemberKey, QuorumDescription, VoterEndpoint};
use crate::runtime::oneshot;
use std::fmt;

/// Why the voters are not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VoterError {
    /// INCONSISTENT_CLUSTER_ID.
    InconsistentClusterId,
    /// DUPLICATE_VOTER.
    DuplicateVoter,
    /// VOTER_NOT_FOUND.
    VoterNotFound,
    /// INVALID_REQUEST; the text says why.
    Invalid(String),
    /// REQUEST_TIMED_OUT: not now, or it is not known; the text says why.
    NotNow(String),
}

impl fmt::Display for VoterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InconsistentClusterId => "another cluster is meant",
            Self::DuplicateVoter => "the node is a voter already",
            Self::VoterNotFound => "there is no such voter",
            Self::Invalid(cause) | Self::NotNow(cause) => cause,
        })
    }
}

impl std::error::Error for VoterError {}

/// The answer to a change of the voters; the inner error is that of the decision.
pub type VoterReply = oneshot::Sender<Result<Result<(), VoterError>, MetadataError>>;

/// Something about the quorum that its leader knows or decides.
pub enum QuorumCommand {
    /// How its members stand.
    Describe {
        /// The way back.
        reply: oneshot::Sender<Result<QuorumDescription, MetadataError>>,
    },
    /// Who its members are and who leads, as far as this node knows.
    Members {
        /// The way back.
        reply: oneshot::Sender<Result<QuorumDescription, MetadataError>>,
    },
    /// Make an observer a voter.
    AddVoter {
        /// The cluster that the sender means, if it says so.
        cluster_id: Option<String>,
        /// The node and its directory.
        key: MemberKey,
        /// Where it is reached.
        endpoints: Vec<VoterEndpoint>,
        /// The way back.
        reply: VoterReply,
    },
    /// Have the members say where a voter is reached.
    UpdateVoter {
        /// The cluster that the sender means, if it says so.
        cluster_id: Option<String>,
        /// The node and its directory.
        key: MemberKey,
        /// Where it is reached.
        endpoints: Vec<VoterEndpoint>,
        /// The way back.
        reply: VoterReply,
    },
    /// Remove a voter.
    RemoveVoter {
        /// The cluster that the sender means, if it says so.
        cluster_id: Option<String>,
        /// The node and its directory.
        key: MemberKey,
        /// The way back.
        reply: VoterReply,
    },
}

impl QuorumCommand {
    /// Answers without having done anything.
    pub fn refuse(self, error: MetadataError) {
        match self {
            Self::Describe { reply } | Self::Members { reply } => reply.send(Err(error)),
            Self::AddVoter { reply, .. }
            | Self::UpdateVoter { reply, .. }
            | Self::RemoveVoter { reply, .. } => reply.send(Err(error)),
        }
    }
}
