//! A member of a consumer group: what it said of itself, and how far it is with its assignment.

use super::assignment::Held;
use bytes::Bytes;
use std::sync::Arc;

/// How far a member is on its way to its target (KIP-848).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberState {
    /// It has all that it shall have in its epoch.
    #[default]
    Stable,
    /// It must give up partitions before it goes on to the next epoch.
    UnrevokedPartitions,
    /// It waits for partitions that others have not given up yet.
    UnreleasedPartitions,
    /// A later release knows.
    Unknown,
}

impl MemberState {
    /// The state's number in records.
    #[must_use]
    pub const fn code(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::UnrevokedPartitions => 1,
            Self::UnreleasedPartitions => 2,
            Self::Unknown => i8::MAX,
        }
    }

    /// The state with this number.
    #[must_use]
    pub const fn of_code(code: i8) -> Self {
        match code {
            0 => Self::Stable,
            1 => Self::UnrevokedPartitions,
            2 => Self::UnreleasedPartitions,
            _ => Self::Unknown,
        }
    }
}

/// What a member of the classic protocol brought when it joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicMetadata {
    /// How long it may be silent, in milliseconds.
    pub session_timeout_ms: i32,
    /// Its protocols, best first, each with its subscription.
    pub protocols: Vec<(Arc<str>, Bytes)>,
}

/// What a member said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberMetadata {
    /// `group.instance.id` of a static member.
    pub instance_id: Option<Arc<str>>,
    /// `client.rack`.
    pub rack_id: Option<Arc<str>>,
    /// The client id.
    pub client_id: Arc<str>,
    /// Where it comes from.
    pub client_host: Arc<str>,
    /// Topics by name, sorted, each once.
    pub subscribed_topics: Vec<Arc<str>>,
    /// Topics by a regular expression; an empty one stands for none.
    pub subscribed_regex: Option<Arc<str>>,
    /// How long it may take to give up partitions, in milliseconds; -1 if it never said so.
    pub rebalance_timeout_ms: i32,
    /// The assignor that it wants.
    pub server_assignor: Option<Arc<str>>,
    /// Set for a member that speaks the classic protocol.
    pub classic: Option<ClassicMetadata>,
}

impl MemberMetadata {
    /// The regular expression that selects topics.
    #[must_use]
    pub fn regex(&self) -> Option<&Arc<str>> {
        self.subscribed_regex.as_ref().filter(|regex| !regex.is_empty())
    }

    /// Whether both want the same topics.
    #[must_use]
    pub fn subscribes_as(&self, other: &Self) -> bool {
        self.subscribed_topics == other.subscribed_topics && self.regex() == other.regex()
    }
}

/// Topic names as a subscription has them: sorted, each once.
#[must_use]
pub fn sorted_names(mut names: Vec<Arc<str>>) -> Vec<Arc<str>> {
    names.sort_unstable();
    names.dedup();
    names
}

/// What a member holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentAssignment {
    /// Its epoch; -1 once it is gone, -2 for a static member that left for a while.
    pub epoch: i32,
    /// The epoch before.
    pub previous_epoch: i32,
    /// How far it is.
    pub state: MemberState,
    /// What it is assigned.
    pub assigned: Held,
    /// What it must give up.
    pub pending_revocation: Held,
}

impl Default for CurrentAssignment {
    fn default() -> Self {
        Self {
            epoch: 0,
            previous_epoch: -1,
            state: MemberState::Stable,
            assigned: Held::default(),
            pending_revocation: Held::default(),
        }
    }
}

impl CurrentAssignment {
    /// Whether the member has all that it shall have in this epoch.
    #[must_use]
    pub fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == epoch
    }
}

/// A member.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member {
    /// What it said of itself.
    pub metadata: Arc<MemberMetadata>,
    /// What it holds.
    pub current: Arc<CurrentAssignment>,
}

impl Member {
    /// Whether it speaks the classic protocol.
    #[must_use]
    pub fn is_classic(&self) -> bool {
        self.metadata.classic.is_some()
    }
}
