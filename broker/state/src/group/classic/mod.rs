//! Groups of the classic protocol: members join, one of them assigns, all sync; the coordinator understands
//! nothing of what they tell each other. Static members (KIP-345) keep their place over a restart.

pub mod record;

use self::record::ClassicGroupValue;
use super::effects::{Context, Effects};
use super::offsets::Aging;
use super::reply::{DescribedClassicGroup, GroupReply};
use super::request::{CommitRequest, HeartbeatRequest, JoinRequest, LeaveRequest, SyncRequest, Ticket};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{MonotonicNs, TimestampMs};
use std::sync::Arc;

/// One group of the classic protocol.
#[derive(Debug)]
pub struct ClassicGroup {
    id: Arc<str>,
}

impl ClassicGroup {
    /// A group that nobody has joined.
    #[must_use]
    pub fn new(id: Arc<str>, _since: TimestampMs) -> Self {
        Self { id }
    }

    /// A group as its last record tells of it.
    #[must_use]
    pub fn from_record(id: Arc<str>, _value: ClassicGroupValue) -> Self {
        Self { id }
    }

    /// The log has been replayed: the sessions of all members begin anew.
    pub fn loaded(&mut self, _cx: &Context<'_>) {}

    /// JoinGroup; the reply may come with a later step.
    pub fn join(&mut self, ticket: Ticket, _request: JoinRequest, _cx: &Context<'_>, out: &mut Effects) {
        out.reply(ticket, GroupReply::Unavailable(ErrorCode::CoordinatorNotAvailable));
    }

    /// SyncGroup; the reply may come with a later step.
    pub fn sync(&mut self, ticket: Ticket, _request: SyncRequest, _cx: &Context<'_>, out: &mut Effects) {
        out.reply(ticket, GroupReply::Unavailable(ErrorCode::CoordinatorNotAvailable));
    }

    /// Heartbeat.
    pub fn heartbeat(
        &mut self,
        ticket: Ticket,
        _request: &HeartbeatRequest,
        _cx: &Context<'_>,
        out: &mut Effects,
    ) {
        out.reply(ticket, GroupReply::Unavailable(ErrorCode::CoordinatorNotAvailable));
    }

    /// LeaveGroup.
    pub fn leave(&mut self, ticket: Ticket, _request: &LeaveRequest, _cx: &Context<'_>, out: &mut Effects) {
        out.reply(ticket, GroupReply::Unavailable(ErrorCode::CoordinatorNotAvailable));
    }

    /// Whether the sender may commit; a member's commit counts as its heartbeat.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION or REBALANCE_IN_PROGRESS.
    pub fn admit_commit(&mut self, _request: &CommitRequest, _cx: &Context<'_>) -> Result<(), ErrorCode> {
        Ok(())
    }

    /// Whether the group consists of nothing but its id and offsets, so that it may be deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }

    /// `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Stable` or `Dead`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        "Empty"
    }

    /// What members brought; empty for a group that only commits offsets.
    #[must_use]
    pub fn protocol_type(&self) -> Arc<str> {
        Arc::clone(&self.id)
    }

    /// Whether a member is subscribed to the topic, as far as can be told: only consumers say so in a way that the
    /// coordinator reads.
    #[must_use]
    pub fn is_subscribed_to(&self, _topic: &str) -> bool {
        false
    }

    /// Since when the group's offsets age.
    #[must_use]
    pub fn aging(&self) -> Aging {
        Aging::SinceCommit
    }

    /// The group in words.
    #[must_use]
    pub fn describe(&self) -> DescribedClassicGroup {
        DescribedClassicGroup {
            state: self.state(),
            protocol_type: self.protocol_type(),
            protocol_name: Arc::clone(&self.id),
            members: Vec::new(),
        }
    }

    /// When something happens without a request: a session or a rebalance runs out.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonotonicNs> {
        None
    }

    /// Whatever is due at `cx.now`.
    pub fn expire(&mut self, _cx: &Context<'_>, _out: &mut Effects) {}
}
