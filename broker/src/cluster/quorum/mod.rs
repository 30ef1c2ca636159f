//! The metadata quorum: controllers that agree on one log of metadata records by Raft (KIP-595, KIP-853).
//!
//! | state | how it begins | what the node may do |
//! |---|---|---|
//! | fresh | there is no `quorum/identity` in its log directory | ask who is there; found, if it is the first of all configured voters, and all of them are fresh |
//! | observer | a leader or candidate speaks to it, and the members do not name its directory as a voter | follow the log |
//! | voter, following | the members name it | vote once a term; acknowledge what is durable here |
//! | voter, standing | it heard of no leader for an election timeout | ask whether it would win, then raise the term |
//! | leader | most voters voted for it | propose; step down when most voters are silent for an election timeout |
//!
//! A member is a node *and* its directory id: what a node was before its disk was wiped is another member, to which
//! nobody gives a vote or an acknowledgement. A quorum of one takes the same path as any other.
//!
//! The parts: [`engine`] decides, without I/O, over the `raft` crate; [`validate`] looks at what peers send before the
//! engine does, because the crate panics on nonsense; [`disk`] makes durable what the engine says, before the messages
//! that depend on it leave; [`driver`] is the task that brings them together; [`link`] is what it needs of a network.

mod description;
mod disk;
mod division;
mod driver;
mod engine;
mod entry;
mod forced;
mod founding;
mod link;
mod log_memory;
mod members;
mod membership;
mod message;
mod settings;
mod snapshot;
mod transfer;
mod validate;

#[cfg(test)]
mod tests;

pub use description::{MemberDescription, QuorumDescription};
pub use disk::{DiskSettings, QuorumDiskError};
pub use driver::{Quorum, QuorumConfig};
pub use engine::{QuorumStatus, Role};
pub use forced::{ForceError, ForcedQuorum, force_sole_voter};
pub use link::QuorumLink;
pub use members::{Member, MemberChange, MemberKey, MemberSet, VoterEndpoint};
pub use membership::{Membership, OwnChange};
pub use settings::QuorumSettings;

use logmill_wire::ids::NodeId;
use std::fmt;

/// Why a proposal was not, or may not have been, committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// This node does not lead the quorum. Nothing was changed.
    NotLeader(Option<NodeId>),
    /// What was asked for contradicts what is there, or is too large. Nothing was changed.
    Refused(String),
    /// The node lost its leadership or its disk on the way. Whether the proposal will be committed is unknown.
    Unknown(String),
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader(Some(leader)) => write!(f, "node {leader} is the active controller"),
            Self::NotLeader(None) => f.write_str("the quorum has no leader; see that most of its voters run"),
            Self::Refused(cause) | Self::Unknown(cause) => f.write_str(cause),
        }
    }
}

impl std::error::Error for ProposeError {}
