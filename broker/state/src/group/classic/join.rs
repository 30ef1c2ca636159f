//! JoinGroup: new members, members that come again, and static members that come back under another id.

use super::member::{Member, Protocols, Rejoin, Stranded};
use super::{ClassicGroup, State, join_refused, members_max, supersede, sync_refused};
use crate::group::effects::{Context, Effects};
use crate::group::reply::{GroupReply, JoinReply};
use crate::group::request::{JoinRequest, MemberIdentity, Ticket};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::Uuid;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

/// How long the first JoinGroup of a member may wait, in milliseconds, as in Kafka. The client cannot send heartbeats
/// meanwhile, and if it is gone, nothing else tells.
const FIRST_JOIN_MS: i32 = 5 * 60 * 1000;

impl ClassicGroup {
    /// JoinGroup; the reply may come with a later step. The session timeout is within the settings' bounds.
    pub fn join(&mut self, ticket: Ticket, mut request: JoinRequest, cx: &Context<'_>, out: &mut Effects) {
        drop_repeated(&mut request.protocols);
        let id = Arc::clone(&request.member.member_id);
        if !self.has_room_for(&id, cx) {
            self.remove(&id, out);
            out.reply(ticket, join_refused(ErrorCode::GroupMaxSizeReached, Arc::from("")));
        } else if !self.supports(&request) {
            out.reply(ticket, join_refused(ErrorCode::InconsistentGroupProtocol, id));
        } else if id.is_empty() {
            self.join_new(ticket, request, cx, out);
        } else if self.pending_joins.contains(&id) {
            self.join_pending(ticket, request, cx, out);
        } else if let Err(error) = self.members.validate(&request.member) {
            out.reply(ticket, join_refused(error, id));
        } else {
            self.join_again(ticket, request, cx, out);
        }
    }

    /// Whether `group.max.size` lets one more in. While members join, those count that have: so the last ones stay
    /// outside if the limit was lowered.
    fn has_room_for(&self, id: &str, cx: &Context<'_>) -> bool {
        let member = self.members.get(id);
        match self.state {
            State::Empty => true,
            State::PreparingRebalance => {
                member.is_some_and(Member::is_joining) || self.members.joining() < members_max(cx)
            }
            State::CompletingRebalance | State::Stable => {
                member.is_some() || self.members.len() < members_max(cx)
            }
        }
    }

    /// Whether the group can have a member with these protocols.
    fn supports(&self, request: &JoinRequest) -> bool {
        if self.state == State::Empty {
            return !request.protocol_type.is_empty() && !request.protocols.is_empty();
        }
        self.protocol_type.as_ref() == Some(&request.protocol_type)
            && self.members.support_one_of(&request.protocols)
    }

    fn join_new(&mut self, ticket: Ticket, request: JoinRequest, cx: &Context<'_>, out: &mut Effects) {
        let name = request.member.instance_id.as_ref().unwrap_or(&request.client_id);
        let id = Arc::from(fresh_member_id(name, request.fresh_id));
        let instance_id = request.member.instance_id.clone();
        if let Some(instance_id) = instance_id {
            match self.members.static_id(&instance_id).cloned() {
                Some(old) => {
                    self.replace_static(ticket, request, StaticIds { instance_id, old, new: id }, cx, out);
                }
                None => self.add(ticket, request, id, cx, out),
            }
        } else if request.requires_known_member_id {
            self.timers.set_session(&id, cx.now.after_ms(request.session_timeout_ms));
            self.pending_joins.insert(Arc::clone(&id));
            out.reply(ticket, join_refused(ErrorCode::MemberIdRequired, id));
        } else {
            self.add(ticket, request, id, cx, out);
        }
    }

    fn join_pending(&mut self, ticket: Ticket, request: JoinRequest, cx: &Context<'_>, out: &mut Effects) {
        let id = Arc::clone(&request.member.member_id);
        if request.member.instance_id.is_some() {
            // Only dynamic members are given an id in advance.
            out.reply(ticket, join_refused(ErrorCode::UnknownServerError, id));
            return;
        }
        self.add(ticket, request, id, cx, out);
    }

    fn join_again(&mut self, ticket: Ticket, request: JoinRequest, cx: &Context<'_>, out: &mut Effects) {
        let id = Arc::clone(&request.member.member_id);
        let is_leader = self.members.is_leader(&id);
        let is_same = self.members.get(&id).is_some_and(|member| member.has_protocols(&request.protocols));
        match self.state {
            // It has not received the reply to its JoinGroup.
            State::CompletingRebalance if is_same => {
                out.reply(ticket, GroupReply::Join(self.joined(&id, is_leader)));
            }
            // Only the leader may begin a rebalance by joining: something that its assignment depends on has changed.
            State::Stable if is_same && !is_leader => {
                out.reply(ticket, GroupReply::Join(self.joined(&id, false)));
            }
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                self.update(&id, ticket, request, out);
                self.rebalance_or_complete(cx, out);
            }
            State::Empty => {
                out.reply(ticket, join_refused(ErrorCode::UnknownMemberId, id));
            }
        }
    }

    fn update(&mut self, id: &Arc<str>, ticket: Ticket, request: JoinRequest, out: &mut Effects) {
        let rejoin = Rejoin {
            ticket,
            protocols: request.protocols,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            session_timeout_ms: request.session_timeout_ms,
        };
        if let Some(superseded) = self.members.update(id, rejoin) {
            supersede(superseded, |error| join_refused(error, Arc::clone(id)), out);
        }
    }

    fn add(
        &mut self,
        ticket: Ticket,
        request: JoinRequest,
        id: Arc<str>,
        cx: &Context<'_>,
        out: &mut Effects,
    ) {
        if self.state == State::PreparingRebalance && self.previous == State::Empty {
            self.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type);
        }
        self.pending_joins.remove(&id);
        self.timers.set_session(&id, cx.now.after_ms(FIRST_JOIN_MS));
        let rejoin = Rejoin {
            ticket,
            protocols: request.protocols,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            session_timeout_ms: request.session_timeout_ms,
        };
        let identity = MemberIdentity { member_id: id, instance_id: request.member.instance_id };
        self.members.add(Member::new(identity, request.client_id, request.client_host, rejoin));
        self.rebalance_or_complete(cx, out);
    }

    /// A static member has restarted (KIP-345): it takes its place under a new id, and whoever still uses the old
    /// one is fenced. In a stable group that keeps its protocol there is no rebalance.
    fn replace_static(
        &mut self,
        ticket: Ticket,
        request: JoinRequest,
        ids: StaticIds,
        cx: &Context<'_>,
        out: &mut Effects,
    ) {
        let StaticIds { instance_id, old, new } = ids;
        let leader_before = self.members.leader().cloned().unwrap_or_else(|| Arc::from(""));
        let stranded = self.members.replace_static(&instance_id, &old, &new);
        fence(stranded, &old, out);
        if self.pending_syncs.remove(&old) {
            self.pending_syncs.insert(Arc::clone(&new));
        }
        self.timers.cancel_session(&old);
        self.renew_session(&new, cx);
        let can_skip = request.supports_skipping_assignment;
        self.update(&new, ticket, request, out);
        match self.state {
            State::Stable if self.members.select_protocol() == self.protocol_name => {
                out.records.push(self.record());
                let reply = self.kept_its_place(&new, can_skip, leader_before);
                if let Some(ticket) = self.members.take_joining(&new) {
                    out.reply(ticket, GroupReply::Join(reply));
                }
            }
            // The leader may have been told of the old id, and would assign nothing to the new one.
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(cx, out),
            State::PreparingRebalance | State::Empty => self.complete_if_all_joined(cx, out),
        }
    }

    /// What a static member hears that has come back into a stable group. A leader that understands it is told not
    /// to assign (KIP-814); an older one is told the id that the leader had before, so that it takes itself for a
    /// follower.
    fn kept_its_place(&self, id: &Arc<str>, can_skip: bool, leader_before: Arc<str>) -> JoinReply {
        let is_leader = self.members.is_leader(id);
        if can_skip {
            JoinReply { skip_assignment: is_leader, ..self.joined(id, is_leader) }
        } else {
            JoinReply { leader: leader_before, ..self.joined(id, false) }
        }
    }
}

/// A static member's old and new id.
struct StaticIds {
    instance_id: Arc<str>,
    old: Arc<str>,
    new: Arc<str>,
}

fn fence(stranded: Stranded, old: &Arc<str>, out: &mut Effects) {
    if let Some(ticket) = stranded.joining {
        out.reply(ticket, join_refused(ErrorCode::FencedInstanceId, Arc::clone(old)));
    }
    if let Some(ticket) = stranded.syncing {
        out.reply(ticket, sync_refused(ErrorCode::FencedInstanceId));
    }
}

/// Each protocol counts once, or its supporters would be counted wrong.
fn drop_repeated(protocols: &mut Protocols) {
    let mut seen = BTreeSet::new();
    protocols.retain(|(name, _)| seen.insert(Arc::clone(name)));
}

/// A member id as Kafka makes them: a name, a dash, and a UUID in its usual form.
fn fresh_member_id(name: &str, id: Uuid) -> String {
    let mut text = String::with_capacity(name.len() + 37);
    text.push_str(name);
    for (position, byte) in id.0.iter().enumerate() {
        if matches!(position, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn member_ids_look_like_those_of_kafka() {
        let id = Uuid(*b"\x12\x3e\x45\x67\xe8\x9b\x42\xd3\xa4\x56\x42\x66\x14\x17\x40\x00");
        assert_eq!(fresh_member_id("c", id), "c-123e4567-e89b-42d3-a456-426614174000");
        assert_eq!(fresh_member_id("", id), "-123e4567-e89b-42d3-a456-426614174000");
    }

    #[test]
    fn a_protocol_that_is_named_twice_counts_once() {
        let named = |name: &str, metadata: &'static [u8]| (Arc::from(name), Bytes::from_static(metadata));
        let mut protocols = vec![named("range", b"1"), named("sticky", b"2"), named("range", b"3")];
        drop_repeated(&mut protocols);
        assert_eq!(protocols, [named("range", b"1"), named("sticky", b"2")]);
    }
}
