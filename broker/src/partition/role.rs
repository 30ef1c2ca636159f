//! What this broker is for a partition.

use logmill_state::partition::{Follower, Leader};

/// The pure state of a replica.
pub(super) enum Role {
    /// It leads; a partition with one replica always does.
    Leads(Leader),
    /// It follows, or waits for a leader to be elected.
    Follows(Box<Follower>),
}

impl Role {
    /// The state of the log: its ends, epochs and producers.
    #[inline]
    pub(super) fn log(&self) -> &Leader {
        match self {
            Self::Leads(leader) => leader,
            Self::Follows(follower) => follower.log(),
        }
    }

    /// The leader, if this broker is it.
    #[inline]
    pub(super) const fn leader(&self) -> Option<&Leader> {
        match self {
            Self::Leads(leader) => Some(leader),
            Self::Follows(_) => None,
        }
    }

    /// The leader, if this broker is it.
    #[inline]
    pub(super) const fn leader_mut(&mut self) -> Option<&mut Leader> {
        match self {
            Self::Leads(leader) => Some(leader),
            Self::Follows(_) => None,
        }
    }

    /// The follower, if this broker is one.
    pub(super) fn follower_mut(&mut self) -> Option<&mut Follower> {
        match self {
            Self::Leads(_) => None,
            Self::Follows(follower) => Some(follower),
        }
    }
}

/// Whether a partition takes appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does.
    Leads,
    /// Another broker may.
    Follows,
    /// It is not here any more.
    Gone,
}
