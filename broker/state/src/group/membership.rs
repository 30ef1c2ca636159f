//! Requests of members: which protocol's state machine gets them.

use super::classic::ClassicGroup;
use super::consumer::ConsumerGroup;
use super::consumer::heartbeat::JOINING;
use super::{
    Arc, ConsumerHeartbeatRequest, Context, Effects, ErrorCode, Group, GroupRecord, GroupReply, Groups,
    HeartbeatRequest, JoinReply, JoinRequest, LeaveRequest, Refused, SyncReply, SyncRequest, Ticket,
    consumer,
};
use bytes::Bytes;

/// The group that a step has touched.
pub(super) type Touched = Option<Arc<str>>;

impl Groups {
    pub(super) fn join(
        &mut self,
        ticket: Ticket,
        request: JoinRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Touched {
        let id = Arc::clone(&request.group_id);
        if id.is_empty() {
            out.reply(ticket, GroupReply::Join(JoinReply::refused(ErrorCode::InvalidGroupId, &request)));
            return None;
        }
        let bounds = cx.settings.min_session_timeout_ms..=cx.settings.max_session_timeout_ms;
        if !u64::try_from(request.session_timeout_ms).is_ok_and(|timeout_ms| bounds.contains(&timeout_ms)) {
            let refused = JoinReply::refused(ErrorCode::InvalidSessionTimeout, &request);
            out.reply(ticket, GroupReply::Join(refused));
            return None;
        }
        let is_fresh = request.member.member_id.is_empty();
        match self.groups.get_mut(&id) {
            // Only a fresh member may found a group.
            None if !is_fresh => {
                out.reply(ticket, GroupReply::Join(JoinReply::refused(ErrorCode::UnknownMemberId, &request)));
                return None;
            }
            Some(Group::Consumer(group)) if group.is_empty() && !is_fresh => {
                out.reply(ticket, GroupReply::Join(JoinReply::refused(ErrorCode::UnknownMemberId, &request)));
                return None;
            }
            Some(Group::Consumer(group)) if group.is_empty() => {
                group.tombstones(out);
                self.groups.remove(&id);
            }
            Some(Group::Consumer(group)) => {
                group.join(ticket, &request, cx, out);
                return Some(id);
            }
            None | Some(Group::Classic(_)) => {}
        }
        self.join_classic(ticket, request, cx, out);
        Some(id)
    }

    /// A group that a join founds is written at once, as in Kafka.
    fn join_classic(&mut self, ticket: Ticket, request: JoinRequest, cx: &Context<'_>, out: &mut Effects) {
        let id = Arc::clone(&request.group_id);
        let is_founded = !self.groups.contains_key(&id);
        let group = self
            .groups
            .entry(Arc::clone(&id))
            .or_insert_with(|| Group::Classic(ClassicGroup::new(id, cx.now.wall)));
        if let Group::Classic(group) = group {
            group.join(ticket, request, cx, out);
            if is_founded {
                out.records.push(group.founding_record());
            }
        }
    }

    pub(super) fn sync(
        &mut self,
        ticket: Ticket,
        request: SyncRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Touched {
        let id = Arc::clone(&request.group_id);
        match self.groups.get_mut(&id) {
            Some(Group::Classic(group)) => group.sync(ticket, request, cx, out),
            Some(Group::Consumer(group)) => group.sync(ticket, &request, cx, out),
            None => {
                out.reply(ticket, GroupReply::Sync(SyncReply::refused(absent(&id))));
                return None;
            }
        }
        Some(id)
    }

    pub(super) fn heartbeat(
        &mut self,
        ticket: Ticket,
        request: &HeartbeatRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Touched {
        match self.groups.get_mut(&request.group_id) {
            Some(Group::Classic(group)) => group.heartbeat(ticket, request, cx, out),
            Some(Group::Consumer(group)) => group.heartbeat(ticket, request, cx, out),
            None => {
                out.reply(ticket, GroupReply::Heartbeat(absent(&request.group_id)));
                return None;
            }
        }
        Some(Arc::clone(&request.group_id))
    }

    pub(super) fn leave(
        &mut self,
        ticket: Ticket,
        request: &LeaveRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Touched {
        match self.groups.get_mut(&request.group_id) {
            Some(Group::Classic(group)) => group.leave(ticket, request, cx, out),
            Some(Group::Consumer(group)) => group.leave(ticket, request, cx, out),
            None => {
                out.reply(ticket, GroupReply::Leave(Err(absent(&request.group_id))));
                return None;
            }
        }
        Some(Arc::clone(&request.group_id))
    }

    pub(super) fn consumer_heartbeat(
        &mut self,
        ticket: Ticket,
        request: &ConsumerHeartbeatRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Touched {
        let id = Arc::clone(&request.group_id);
        let refuse = |refused, out: &mut Effects| {
            out.reply(ticket, GroupReply::ConsumerHeartbeat(Err(refused)));
            None
        };
        if let Err(refused) = consumer::heartbeat::check(request, cx.settings) {
            return refuse(refused, out);
        }
        match self.groups.get_mut(&id) {
            None if request.member_epoch != JOINING => {
                let message = format!("Group {id} not found.");
                return refuse(Refused::new(ErrorCode::GroupIdNotFound, message), out);
            }
            Some(Group::Classic(group)) if group.is_empty() && request.member_epoch == JOINING => {
                out.records.push(GroupRecord::Classic { group_id: Arc::clone(&id), value: None });
                self.groups.remove(&id);
            }
            Some(Group::Classic(_)) if request.member_epoch == JOINING => {
                if let Err(refused) = self.upgrade(&id, cx, out) {
                    return refuse(refused, out);
                }
            }
            Some(Group::Classic(_)) => {
                let message = format!("Group {id} is not a consumer group.");
                return refuse(Refused::new(ErrorCode::GroupIdNotFound, message), out);
            }
            None | Some(Group::Consumer(_)) => {}
        }
        let group = self
            .groups
            .entry(Arc::clone(&id))
            .or_insert_with(|| Group::Consumer(ConsumerGroup::new(Arc::clone(&id))));
        if let Group::Consumer(group) = group {
            group.consumer_heartbeat(ticket, request, cx, out);
        }
        Some(id)
    }
}

/// What a member of a group that is not there is told.
fn absent(group_id: &str) -> ErrorCode {
    if group_id.is_empty() { ErrorCode::InvalidGroupId } else { ErrorCode::UnknownMemberId }
}

impl JoinReply {
    /// A refusal, which repeats the member's id.
    #[must_use]
    pub fn refused(error: ErrorCode, request: &JoinRequest) -> Self {
        Self {
            error,
            generation: -1,
            protocol_type: None,
            protocol_name: None,
            leader: Arc::from(""),
            skip_assignment: false,
            member_id: Arc::clone(&request.member.member_id),
            members: Vec::new(),
        }
    }
}

impl SyncReply {
    /// A refusal.
    #[must_use]
    pub const fn refused(error: ErrorCode) -> Self {
        Self { error, protocol_type: None, protocol_name: None, assignment: Bytes::new() }
    }
}
