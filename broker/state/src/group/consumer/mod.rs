//! Groups of the consumer protocol (KIP-848): members report what they subscribe to and own, the coordinator
//! assigns, and each member goes over to its target at its own pace.

pub mod record;

use self::record::ConsumerRecord;
use super::effects::{Context, Effects};
use super::offsets::Aging;
use super::reply::{DescribedConsumerGroup, GroupReply};
use super::request::{
    CommitRequest, ConsumerHeartbeatRequest, HeartbeatRequest, JoinRequest, LeaveRequest, SyncRequest, Ticket,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::MonotonicNs;
use std::sync::Arc;

/// One group of the consumer protocol.
#[derive(Debug)]
pub struct ConsumerGroup {
    id: Arc<str>,
}

impl ConsumerGroup {
    /// A group that nobody has joined.
    #[must_use]
    pub fn new(id: Arc<str>) -> Self {
        Self { id }
    }

    /// The only mutation of what is durable: live steps and replay go through it.
    pub fn apply(&mut self, _record: &ConsumerRecord) {}

    /// Whether nothing is left of the group: its records are all taken back.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        false
    }

    /// The log has been replayed: the sessions of all members begin anew.
    pub fn loaded(&mut self, _cx: &Context<'_>) {}

    /// ConsumerGroupHeartbeat.
    pub fn consumer_heartbeat(
        &mut self,
        ticket: Ticket,
        _request: ConsumerHeartbeatRequest,
        _cx: &Context<'_>,
        out: &mut Effects,
    ) {
        out.reply(ticket, GroupReply::Unavailable(ErrorCode::CoordinatorNotAvailable));
    }

    /// JoinGroup of a member that speaks the classic protocol (KIP-848, "Migration").
    pub fn join(&mut self, ticket: Ticket, _request: JoinRequest, _cx: &Context<'_>, out: &mut Effects) {
        out.reply(ticket, GroupReply::Unavailable(ErrorCode::CoordinatorNotAvailable));
    }

    /// SyncGroup of such a member.
    pub fn sync(&mut self, ticket: Ticket, _request: SyncRequest, _cx: &Context<'_>, out: &mut Effects) {
        out.reply(ticket, GroupReply::Unavailable(ErrorCode::CoordinatorNotAvailable));
    }

    /// Heartbeat of such a member.
    pub fn heartbeat(
        &mut self,
        ticket: Ticket,
        _request: &HeartbeatRequest,
        _cx: &Context<'_>,
        out: &mut Effects,
    ) {
        out.reply(ticket, GroupReply::Unavailable(ErrorCode::CoordinatorNotAvailable));
    }

    /// LeaveGroup of such a member, or of any member by an operator's hand.
    pub fn leave(&mut self, ticket: Ticket, _request: &LeaveRequest, _cx: &Context<'_>, out: &mut Effects) {
        out.reply(ticket, GroupReply::Unavailable(ErrorCode::CoordinatorNotAvailable));
    }

    /// Whether the sender may commit.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH (UNSUPPORTED_VERSION for who cannot know it), or the classic ones for a
    /// member that speaks the classic protocol.
    pub fn admit_commit(&mut self, _request: &CommitRequest, _cx: &Context<'_>) -> Result<(), ErrorCode> {
        Ok(())
    }

    /// Whether this member may fetch offsets with this epoch (OffsetFetch version 9 on).
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID or STALE_MEMBER_EPOCH.
    pub fn admit_fetch(&self, _member_id: &str, _member_epoch: i32) -> Result<(), ErrorCode> {
        Ok(())
    }

    /// Whether the group has no members, so that it may be deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }

    /// The records that take the group back.
    pub fn tombstones(&self, _out: &mut Effects) {}

    /// `Empty`, `Assigning`, `Reconciling`, `Stable` or `Dead`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        "Empty"
    }

    /// Whether a member is subscribed to the topic.
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
    pub fn describe(&self) -> DescribedConsumerGroup {
        DescribedConsumerGroup {
            state: self.state(),
            group_epoch: 0,
            assignment_epoch: 0,
            assignor: Arc::clone(&self.id),
            members: Vec::new(),
        }
    }

    /// When something happens without a request: a session or a member's time to give up partitions runs out.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonotonicNs> {
        None
    }

    /// Whatever is due at `cx.now`.
    pub fn expire(&mut self, _cx: &Context<'_>, _out: &mut Effects) {}
}
