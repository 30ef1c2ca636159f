//! Groups of consumers, and the offsets that they commit: everything that one partition of `__consumer_offsets`
//! knows, as a state machine without clock, disk or random source.
//!
//! A driver hands each request to [`Groups::step`] with a [`Ticket`], appends the records of the [`Effects`], and
//! sends each reply when all that was appended before is durable. A restart replays the records with
//! [`Groups::replay`] and says [`Groups::loaded`].

pub mod assignor;
pub mod classic;
#[cfg(test)]
mod compacted_log;
pub mod consumer;
mod effects;
mod offset_record;
mod offsets;
mod record;
mod reply;
mod request;
#[cfg(test)]
mod tests;

pub use self::effects::{Context, Effects, Now};
pub use self::offset_record::CommittedOffset;
pub use self::offsets::Aging;
pub use self::record::{EncodedRecord, GroupRecord, RecordError};
pub use self::reply::{
    ConsumerHeartbeatReply, DescribedClassicGroup, DescribedClassicMember, DescribedConsumerGroup,
    DescribedConsumerMember, GroupReply, JoinReply, JoinedMember, LeftMember, ListedGroup, Refused,
    SyncReply,
};
pub use self::request::{
    CommitRequest, ConsumerHeartbeatRequest, DeleteOffsetsRequest, FetchOffsetsRequest, GroupRequest,
    HeartbeatRequest, JoinRequest, LeaveRequest, ListRequest, MemberIdentity, NamedPartition,
    OffsetAndMetadata, SyncRequest, Ticket, TopicPartitions, VisibleTopics,
};

use self::classic::ClassicGroup;
use self::consumer::ConsumerGroup;
use self::offsets::{Offsets, is_expired};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::MonotonicNs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The protocol type of consumers, whose subscriptions the coordinator can read.
pub const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// What [`Groups::excuse`] gives a member, in milliseconds: the shortest session that the settings allow by default, so
/// that every client reports within it.
const EXCUSE_MS: i32 = 6000;

/// The partition of `__consumer_offsets`, of `partitions`, that a group's records lie on. It is Kafka's choice, so
/// that Kafka's tools find them: Java's `String.hashCode`, without its sign.
#[must_use]
pub fn partition_of(group_id: &str, partitions: i32) -> i32 {
    let hash =
        group_id.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    (hash & i32::MAX) % partitions.max(1)
}

/// A group of either protocol.
#[derive(Debug)]
enum Group {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

impl Group {
    fn next_deadline(&self) -> Option<MonotonicNs> {
        match self {
            Self::Classic(group) => group.next_deadline(),
            Self::Consumer(group) => group.next_deadline(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_empty(),
            Self::Consumer(group) => group.is_empty(),
        }
    }

    fn is_subscribed_to(&self, topic: &str) -> bool {
        match self {
            Self::Classic(group) => group.is_subscribed_to(topic),
            Self::Consumer(group) => group.is_subscribed_to(topic),
        }
    }

    fn aging(&self) -> Aging {
        match self {
            Self::Classic(group) => group.aging(),
            Self::Consumer(group) => group.aging(),
        }
    }

    fn state(&self) -> &'static str {
        match self {
            Self::Classic(group) => group.state(),
            Self::Consumer(group) => group.state(),
        }
    }

    fn listed(&self, group_id: &Arc<str>) -> ListedGroup {
        let (protocol_type, group_type) = match self {
            Self::Classic(group) => (group.protocol_type(), "classic"),
            Self::Consumer(_) => (Arc::from(CONSUMER_PROTOCOL_TYPE), "consumer"),
        };
        ListedGroup { group_id: Arc::clone(group_id), protocol_type, state: self.state(), group_type }
    }
}

/// The groups of one partition of `__consumer_offsets`.
#[derive(Debug, Default)]
pub struct Groups {
    groups: BTreeMap<Arc<str>, Group>,
    offsets: Offsets,
    /// The next deadline of each group that has one.
    deadlines: BTreeSet<(MonotonicNs, Arc<str>)>,
    /// The same by group, so that an outdated one is found.
    deadline_of: BTreeMap<Arc<str>, MonotonicNs>,
}

impl Groups {
    /// Applies a record of the log, at a restart.
    pub fn replay(&mut self, record: GroupRecord) {
        match record {
            GroupRecord::Offset { group_id, partition, value } => {
                self.offsets.apply(&group_id, &partition, value);
            }
            GroupRecord::Classic { group_id, value: Some(value) } => {
                let group = ClassicGroup::from_record(Arc::clone(&group_id), value);
                self.groups.insert(group_id, Group::Classic(group));
            }
            GroupRecord::Classic { group_id, value: None } => {
                if matches!(self.groups.get(&group_id), Some(Group::Classic(_))) {
                    self.groups.remove(&group_id);
                }
            }
            GroupRecord::Consumer { group_id, record } => self.replay_consumer(&group_id, &record),
        }
    }

    fn replay_consumer(&mut self, group_id: &Arc<str>, record: &consumer::record::ConsumerRecord) {
        // A tombstone of a consumer group may lie behind the records of the classic group that took its place.
        if !matches!(self.groups.get(group_id), Some(Group::Consumer(_))) {
            if record.is_tombstone() {
                return;
            }
            self.groups
                .insert(Arc::clone(group_id), Group::Consumer(ConsumerGroup::new(Arc::clone(group_id))));
        }
        if let Some(Group::Consumer(group)) = self.groups.get_mut(group_id) {
            group.apply(record);
            if group.is_gone() {
                self.groups.remove(group_id);
            }
        }
    }

    /// All records of the log are replayed: sessions begin, and groups that only have offsets get their place.
    pub fn loaded(&mut self, cx: &Context<'_>) {
        let ids: Vec<Arc<str>> = self.offsets.groups().cloned().collect();
        for id in ids {
            self.groups
                .entry(Arc::clone(&id))
                .or_insert_with(|| Group::Classic(ClassicGroup::new(id, cx.now.wall)));
        }
        let ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for id in ids {
            match self.groups.get_mut(&id) {
                Some(Group::Classic(group)) => group.loaded(cx),
                Some(Group::Consumer(group)) => group.loaded(cx),
                None => {}
            }
            self.note_deadline(&id);
        }
    }

    /// Carries out a request. Its reply is among the effects, or comes with those of a later step.
    pub fn step(&mut self, ticket: Ticket, request: GroupRequest, cx: &Context<'_>) -> Effects {
        let mut out = Effects::default();
        let touched = match request {
            GroupRequest::Join(request) => self.join(ticket, request, cx, &mut out),
            GroupRequest::Sync(request) => self.sync(ticket, request, cx, &mut out),
            GroupRequest::Heartbeat(request) => self.heartbeat(ticket, &request, cx, &mut out),
            GroupRequest::Leave(request) => self.leave(ticket, &request, cx, &mut out),
            GroupRequest::ConsumerHeartbeat(request) => {
                self.consumer_heartbeat(ticket, &request, cx, &mut out)
            }
            GroupRequest::CommitOffsets(request) => self.commit(ticket, request, cx, &mut out),
            GroupRequest::FetchOffsets(request) => self.fetch(ticket, request, &mut out),
            GroupRequest::DeleteOffsets(request) => self.delete_offsets(ticket, &request, &mut out),
            GroupRequest::DescribeClassic(group_id) => self.describe_classic(ticket, &group_id, &mut out),
            GroupRequest::DescribeConsumer(group_id) => {
                self.describe_consumer(ticket, &group_id, cx, &mut out)
            }
            GroupRequest::Delete(group_id) => self.delete(ticket, group_id, &mut out),
            GroupRequest::List(request) => self.list(ticket, &request, &mut out),
        };
        if let Some(group_id) = touched {
            self.downgrade_if_all_classic(&group_id, cx, &mut out);
            self.note_deadline(&group_id);
        }
        out
    }

    /// When [`Groups::expire`] has something to do, if no request comes before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonotonicNs> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The coordinator could not answer for a while, so that members which waited for it could not say anything: those
    /// that are late now, in whatever, have [`EXCUSE_MS`] more. Whoever has not been heard of since it was last given
    /// more time gets none, so that one that is gone is found out, however often this happens.
    pub fn excuse(&mut self, cx: &Context<'_>) {
        let now = cx.now.monotonic;
        let late: Vec<Arc<str>> =
            self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| Arc::clone(id)).collect();
        for id in late {
            match self.groups.get_mut(&id) {
                Some(Group::Classic(group)) => group.excuse(cx, cx.now.after_ms(EXCUSE_MS)),
                Some(Group::Consumer(group)) => group.excuse(cx, cx.now.after_ms(EXCUSE_MS)),
                None => {}
            }
            self.note_deadline(&id);
        }
    }

    /// Carries out what is due.
    pub fn expire(&mut self, cx: &Context<'_>) -> Effects {
        let mut out = Effects::default();
        while let Some((deadline, _)) = self.deadlines.first()
            && *deadline <= cx.now.monotonic
        {
            let Some((_, group_id)) = self.deadlines.pop_first() else { break };
            self.deadline_of.remove(&group_id);
            match self.groups.get_mut(&group_id) {
                Some(Group::Classic(group)) => group.expire(cx, &mut out),
                Some(Group::Consumer(group)) => group.expire(cx, &mut out),
                None => {}
            }
            self.downgrade_if_all_classic(&group_id, cx, &mut out);
            self.note_deadline(&group_id);
        }
        out
    }

    fn note_deadline(&mut self, group_id: &Arc<str>) {
        let next = self.groups.get(group_id).and_then(Group::next_deadline);
        if self.deadline_of.get(group_id).copied() == next {
            return;
        }
        if let Some(before) = self.deadline_of.remove(group_id) {
            self.deadlines.remove(&(before, Arc::clone(group_id)));
        }
        if let Some(next) = next {
            self.deadlines.insert((next, Arc::clone(group_id)));
            self.deadline_of.insert(Arc::clone(group_id), next);
        }
    }
}

mod membership;
mod migration;
mod offset_requests;
mod overview;
