//! What members of a generation do: they sync, send heartbeats, and commit offsets.

use super::{ClassicGroup, State, supersede, sync_refused};
use crate::group::effects::{Context, Effects};
use crate::group::reply::{GroupReply, SyncReply};
use crate::group::request::{CommitRequest, HeartbeatRequest, SyncRequest, Ticket};
use bytes::Bytes;
use logmill_wire::error_codes::ErrorCode;
use std::collections::BTreeMap;
use std::sync::Arc;

impl ClassicGroup {
    /// SyncGroup; the reply may come with a later step.
    pub fn sync(&mut self, ticket: Ticket, request: SyncRequest, cx: &Context<'_>, out: &mut Effects) {
        if let Err(error) = self.admit_sync(&request) {
            out.reply(ticket, sync_refused(error));
            return;
        }
        let id = Arc::clone(&request.member.member_id);
        match self.state {
            State::CompletingRebalance => {
                self.synced(&id);
                let superseded = self.members.get_mut(&id).and_then(|member| member.syncing.replace(ticket));
                if let Some(superseded) = superseded {
                    supersede(superseded, sync_refused, out);
                }
                if self.members.is_leader(&id) {
                    self.assign(request.assignments, cx, out);
                }
            }
            State::Stable => {
                self.synced(&id);
                out.reply(ticket, self.assigned(&id));
            }
            State::PreparingRebalance => {
                out.reply(ticket, sync_refused(ErrorCode::RebalanceInProgress));
            }
            State::Empty => {
                out.reply(ticket, sync_refused(ErrorCode::UnknownMemberId));
            }
        }
    }

    fn admit_sync(&self, request: &SyncRequest) -> Result<(), ErrorCode> {
        self.admit(request.generation, || self.members.validate(&request.member))?;
        let differs = |theirs: &Option<Arc<str>>, ours: &Option<Arc<str>>| matches!((theirs, ours), (Some(theirs), Some(ours)) if theirs != ours);
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol_name)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn admit(
        &self,
        generation: i32,
        validate: impl FnOnce() -> Result<(), ErrorCode>,
    ) -> Result<(), ErrorCode> {
        validate()?;
        if generation == self.generation { Ok(()) } else { Err(ErrorCode::IllegalGeneration) }
    }

    fn synced(&mut self, id: &Arc<str>) {
        self.pending_syncs.remove(id);
        if self.pending_syncs.is_empty() {
            self.timers.cancel_sync();
        }
    }

    fn assigned(&self, id: &Arc<str>) -> GroupReply {
        GroupReply::Sync(SyncReply {
            error: ErrorCode::None,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            assignment: self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default(),
        })
    }

    /// The leader has assigned: the generation becomes durable with the replies to all who wait. Whom the leader does
    /// not name is assigned nothing.
    fn assign(&mut self, assignments: Vec<(Arc<str>, Bytes)>, cx: &Context<'_>, out: &mut Effects) {
        let mut assignments: BTreeMap<Arc<str>, Bytes> = assignments.into_iter().collect();
        let mut waiting = Vec::new();
        for member in self.members.iter_mut() {
            member.assignment = assignments.remove(&member.id).unwrap_or_default();
            if let Some(ticket) = member.syncing.take() {
                waiting.push((ticket, Arc::clone(&member.id)));
            }
        }
        out.records.push(self.record());
        for (ticket, id) in waiting {
            out.reply(ticket, self.assigned(&id));
            // A session that ran out meanwhile was excused; it goes on now.
            self.renew_session(&id, cx);
        }
        self.go_to(State::Stable, cx);
    }

    /// Heartbeat.
    pub fn heartbeat(
        &mut self,
        ticket: Ticket,
        request: &HeartbeatRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) {
        let reply = match self.admit(request.generation, || self.members.validate(&request.member)) {
            Err(error) => error,
            Ok(()) => {
                self.renew_session(&request.member.member_id, cx);
                match self.state {
                    State::PreparingRebalance => ErrorCode::RebalanceInProgress,
                    State::CompletingRebalance | State::Stable => ErrorCode::None,
                    State::Empty => ErrorCode::UnknownMemberId,
                }
            }
        };
        out.reply(ticket, GroupReply::Heartbeat(reply));
    }

    /// Whether the sender may commit; a member's commit counts as its heartbeat.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION or REBALANCE_IN_PROGRESS.
    pub fn admit_commit(&mut self, request: &CommitRequest, cx: &Context<'_>) -> Result<(), ErrorCode> {
        let generation = request.generation_or_epoch;
        let member = &request.member;
        let names_member = !member.member_id.is_empty() || member.instance_id.is_some();
        match self.state {
            // Who assigns its partitions itself, or an administrator.
            State::Empty if generation < 0 => return Ok(()),
            State::Empty => {}
            _ if generation < 0 && !names_member => return Err(ErrorCode::UnknownMemberId),
            _ => {}
        }
        self.admit(generation, || self.members.validate(member))?;
        if self.state == State::CompletingRebalance {
            // The member has joined this generation, but who owns what is not settled.
            return Err(ErrorCode::RebalanceInProgress);
        }
        self.renew_session(&member.member_id, cx);
        Ok(())
    }
}
