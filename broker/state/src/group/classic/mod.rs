//! Groups of the classic protocol: members join, one of them assigns, all sync; the coordinator understands
//! nothing of what they tell each other. Static members (KIP-345) keep their place over a restart.
//!
//! A generation is durable once its leader has synced: the record that tells of it is among the same effects as the
//! replies that hand out its assignments. What a crash takes back is a generation that nobody has an assignment of.

pub(super) mod conversion;
mod join;
mod leave;
mod member;
mod rebalance;
pub mod record;
mod subscription;
mod sync;
#[cfg(test)]
mod tests;
mod timers;

use self::member::{Member, Members};
use self::record::ClassicGroupValue;
use self::timers::Timers;
use super::CONSUMER_PROTOCOL_TYPE;
use super::effects::{Context, Effects};
use super::offsets::Aging;
use super::record::GroupRecord;
use super::reply::{DescribedClassicGroup, GroupReply, JoinReply, SyncReply};
use super::request::Ticket;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{MonotonicNs, TimestampMs};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where a group is in its cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has joined, or all have left.
    Empty,
    /// Members join.
    PreparingRebalance,
    /// Members wait for what the leader assigns.
    CompletingRebalance,
    /// Members know their assignments.
    Stable,
}

/// One group of the classic protocol.
#[derive(Debug)]
pub struct ClassicGroup {
    id: Arc<str>,
    state: State,
    /// The state before: whether the rebalance is the first one of an empty group.
    previous: State,
    /// Since when the group is in its state; old records do not say.
    since: Option<TimestampMs>,
    protocol_type: Option<Arc<str>>,
    protocol_name: Option<Arc<str>>,
    generation: i32,
    members: Members,
    /// Ids that were given out and not used yet (KIP-394).
    pending_joins: BTreeSet<Arc<str>>,
    /// Members of this generation that have not asked for their assignment yet.
    pending_syncs: BTreeSet<Arc<str>>,
    /// What the members subscribe to, if all of them are consumers whose metadata is understood.
    subscribed: Option<BTreeSet<Arc<str>>>,
    /// Whether somebody has joined since the initial rebalance was last delayed.
    new_member_added: bool,
    timers: Timers,
}

impl ClassicGroup {
    /// A group that nobody has joined.
    #[must_use]
    pub fn new(id: Arc<str>, since: TimestampMs) -> Self {
        Self {
            id,
            state: State::Empty,
            previous: State::Empty,
            since: Some(since),
            protocol_type: None,
            protocol_name: None,
            generation: 0,
            members: Members::default(),
            pending_joins: BTreeSet::new(),
            pending_syncs: BTreeSet::new(),
            subscribed: None,
            new_member_added: false,
            timers: Timers::default(),
        }
    }

    /// A group as its last record tells of it.
    #[must_use]
    pub fn from_record(id: Arc<str>, value: ClassicGroupValue) -> Self {
        let mut members = Members::with_leader(value.leader);
        let protocol = value.protocol.clone().unwrap_or_else(|| Arc::from(""));
        for member in value.members {
            members.add(Member::from_record(member, &protocol));
        }
        let state = if members.is_empty() { State::Empty } else { State::Stable };
        let mut group = Self {
            state,
            since: value.state_timestamp,
            protocol_type: Some(value.protocol_type).filter(|protocol_type| !protocol_type.is_empty()),
            protocol_name: value.protocol,
            generation: value.generation,
            members,
            ..Self::new(id, TimestampMs(0))
        };
        group.read_subscriptions();
        group
    }

    /// The log has been replayed: the sessions of all members begin anew.
    pub fn loaded(&mut self, cx: &Context<'_>) {
        for id in self.members.ids() {
            self.renew_session(&id, cx);
        }
        if self.members.len() > members_max(cx) {
            // The limit was lowered: with the next generation the last ones to join stay outside. Nobody waits for
            // a reply yet, and not all have joined, so this has no effects.
            self.prepare_rebalance(cx, &mut Effects::default());
        }
    }

    /// Whether the group consists of nothing but its id and offsets, so that it may be deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state == State::Empty
    }

    /// `Empty`, `PreparingRebalance`, `CompletingRebalance` or `Stable`. Kafka's `Dead` is the state of a group that is
    /// not there; a coordinator that stops serving a partition drops its groups, and answers for them itself.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match self.state {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }

    /// What members brought; empty for a group that only commits offsets.
    #[must_use]
    pub fn protocol_type(&self) -> Arc<str> {
        self.protocol_type.clone().unwrap_or_else(|| Arc::from(""))
    }

    fn is_of_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    /// Whether a member is subscribed to the topic, as far as can be told: only consumers say so in a way that the
    /// coordinator reads.
    #[must_use]
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.is_of_consumers(),
        }
    }

    /// Since when the group's offsets age.
    #[must_use]
    pub fn aging(&self) -> Aging {
        if self.protocol_type.is_none() {
            return Aging::SinceCommit;
        }
        match (self.state, self.since) {
            (State::Empty, Some(since)) => Aging::Since(since),
            (State::Empty, None) => Aging::SinceCommit,
            (State::Stable, _) if self.is_of_consumers() && self.subscribed.is_some() => Aging::SinceCommit,
            _ => Aging::Never,
        }
    }

    /// The group in words.
    #[must_use]
    pub fn describe(&self) -> DescribedClassicGroup {
        // While members join, no protocol is in force.
        let protocol = self.protocol_name.as_ref().filter(|_| self.state == State::Stable);
        DescribedClassicGroup {
            state: self.state(),
            protocol_type: self.protocol_type(),
            protocol_name: protocol.cloned().unwrap_or_else(|| Arc::from("")),
            members: self
                .members
                .iter()
                .map(|member| member.describe(protocol.map(|name| &**name)))
                .collect(),
        }
    }

    /// When something happens without a request: a session or a rebalance runs out.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonotonicNs> {
        self.timers.next()
    }

    /// The record of a group that has just come into being.
    pub(super) fn founding_record(&self) -> GroupRecord {
        let value = ClassicGroupValue {
            protocol_type: Arc::from(""),
            generation: 0,
            protocol: None,
            leader: None,
            state_timestamp: self.since,
            members: Vec::new(),
        };
        GroupRecord::Classic { group_id: Arc::clone(&self.id), value: Some(value) }
    }

    /// The record of the group as it is.
    fn record(&self) -> GroupRecord {
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        let value = ClassicGroupValue {
            protocol_type: self.protocol_type(),
            generation: self.generation,
            protocol: self.protocol_name.clone(),
            leader: self.members.leader().cloned(),
            state_timestamp: self.since,
            members: self.members.iter().map(|member| member.to_record(protocol)).collect(),
        };
        GroupRecord::Classic { group_id: Arc::clone(&self.id), value: Some(value) }
    }

    fn go_to(&mut self, state: State, cx: &Context<'_>) {
        self.previous = std::mem::replace(&mut self.state, state);
        self.since = Some(cx.now.wall);
    }

    fn read_subscriptions(&mut self) {
        self.subscribed = match &self.protocol_name {
            _ if !self.is_of_consumers() => None,
            _ if self.members.is_empty() => Some(BTreeSet::new()),
            Some(protocol) => subscription::topics_of(&self.members, protocol),
            None => None,
        };
    }

    /// A member's session lasts from now.
    fn renew_session(&mut self, id: &Arc<str>, cx: &Context<'_>) {
        if let Some(member) = self.members.get(id) {
            self.timers.set_session(id, cx.now.after_ms(member.session_timeout_ms));
        }
    }

    /// Takes a member, or an id that was given out, out of the group. Whatever waits for it is answered, so that a
    /// client that is still there joins anew.
    fn remove(&mut self, id: &Arc<str>, out: &mut Effects) {
        if let Some(stranded) = self.members.remove(id) {
            if let Some(ticket) = stranded.joining {
                out.reply(ticket, join_refused(ErrorCode::UnknownMemberId, Arc::from("")));
            }
            if let Some(ticket) = stranded.syncing {
                out.reply(ticket, sync_refused(ErrorCode::UnknownMemberId));
            }
        }
        self.pending_joins.remove(id);
        self.pending_syncs.remove(id);
        self.timers.cancel_session(id);
    }

    /// What a member that has joined is told; the leader, who shall assign, also hears of all members.
    fn joined(&self, id: &Arc<str>, names_members: bool) -> JoinReply {
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        let members = if names_members {
            self.members.iter().map(|member| member.joined(protocol)).collect()
        } else {
            Vec::new()
        };
        JoinReply {
            error: ErrorCode::None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.members.leader().cloned().unwrap_or_else(|| Arc::from("")),
            skip_assignment: false,
            member_id: Arc::clone(id),
            members,
        }
    }
}

fn members_max(cx: &Context<'_>) -> usize {
    usize::try_from(cx.settings.max_size).unwrap_or(usize::MAX)
}

fn join_refused(error: ErrorCode, member_id: Arc<str>) -> GroupReply {
    GroupReply::Join(JoinReply {
        error,
        generation: -1,
        protocol_type: None,
        protocol_name: None,
        leader: Arc::from(""),
        skip_assignment: false,
        member_id,
        members: Vec::new(),
    })
}

const fn sync_refused(error: ErrorCode) -> GroupReply {
    GroupReply::Sync(SyncReply::refused(error))
}

/// A member sends a request while its last one of the kind still waits: its client gave that one up, or two
/// processes share one id. The older one is told to try again (KAFKA-20938).
fn supersede(ticket: Ticket, reply: impl FnOnce(ErrorCode) -> GroupReply, out: &mut Effects) {
    out.reply(ticket, reply(ErrorCode::NotCoordinator));
}
