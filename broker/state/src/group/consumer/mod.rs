//! Groups of the consumer protocol (KIP-848): members report what they subscribe to and own, the coordinator
//! assigns, and each member goes over to its target at its own pace.
//!
//! What is durable changes in [`ConsumerGroup::apply`] alone: a step writes a record, which is applied at once,
//! and goes on from there. Deadlines, and what was seen of the metadata, are not durable.

pub mod assignment;
mod classic_member;
mod conversion;
mod embedded;
pub mod heartbeat;
pub mod member;
#[cfg(test)]
mod migration_tests;
#[cfg(test)]
mod model;
mod offsets;
mod reconcile;
pub mod record;
mod regex;
mod subscription;
mod target;
#[cfg(test)]
mod test_bed;
#[cfg(test)]
mod tests;
mod timers;

use self::assignment::Assignment;
use self::member::{CurrentAssignment, Member, MemberMetadata, MemberState};
use self::record::{ConsumerRecord, GroupEpoch, ResolvedRegex, TargetEpoch};
use self::subscription::Seen;
use self::timers::{Timer, Timers};
use super::effects::{Context, Effects};
use super::record::GroupRecord;
use super::reply::{DescribedConsumerGroup, DescribedConsumerMember, GroupReply};
use super::request::{ConsumerHeartbeatRequest, Ticket};
use crate::settings::ConsumerTimes;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{MonotonicNs, PartitionIndex, TopicId};
use std::collections::BTreeMap;
use std::sync::Arc;

const NS_PER_MS: u64 = 1_000_000;

/// How many of a group's members have something in common.
type Counts = BTreeMap<Arc<str>, usize>;

/// One group of the consumer protocol.
#[derive(Debug)]
pub struct ConsumerGroup {
    id: Arc<str>,
    epoch: Option<GroupEpoch>,
    target_epoch: Option<TargetEpoch>,
    members: BTreeMap<Arc<str>, Member>,
    targets: BTreeMap<Arc<str>, Arc<Assignment>>,
    regexes: BTreeMap<Arc<str>, Arc<ResolvedRegex>>,
    /// Who holds each partition; follows from the members.
    holders: BTreeMap<TopicId, BTreeMap<PartitionIndex, Arc<str>>>,
    /// The member of each instance id; follows from the members, as all below.
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    assignors: Counts,
    topic_names: Counts,
    regex_subscribers: Counts,
    classic_members: usize,
    timers: Timers,
    seen: Seen,
}

impl ConsumerGroup {
    /// A group that nobody has joined.
    #[must_use]
    pub fn new(id: Arc<str>) -> Self {
        Self {
            id,
            epoch: None,
            target_epoch: None,
            members: BTreeMap::new(),
            targets: BTreeMap::new(),
            regexes: BTreeMap::new(),
            holders: BTreeMap::new(),
            static_members: BTreeMap::new(),
            assignors: Counts::new(),
            topic_names: Counts::new(),
            regex_subscribers: Counts::new(),
            classic_members: 0,
            timers: Timers::default(),
            seen: Seen::default(),
        }
    }

    /// The only mutation of what is durable: live steps and replay go through it.
    pub fn apply(&mut self, record: &ConsumerRecord) {
        match record {
            ConsumerRecord::Group(value) => self.epoch = *value,
            ConsumerRecord::TargetEpoch(value) => self.target_epoch = *value,
            ConsumerRecord::Member { member_id, value } => self.apply_member(member_id, value.as_ref()),
            ConsumerRecord::Current { member_id, value } => self.apply_current(member_id, value.as_ref()),
            ConsumerRecord::Target { member_id, value: Some(value) } => {
                self.targets.insert(Arc::clone(member_id), Arc::clone(value));
            }
            ConsumerRecord::Target { member_id, value: None } => {
                self.targets.remove(member_id);
            }
            ConsumerRecord::Regex { regex, value: Some(value) } => {
                self.regexes.insert(Arc::clone(regex), Arc::clone(value));
            }
            ConsumerRecord::Regex { regex, value: None } => {
                self.regexes.remove(regex);
            }
        }
    }

    fn apply_member(&mut self, member_id: &Arc<str>, value: Option<&Arc<MemberMetadata>>) {
        let before = self.members.get(member_id).map(|member| Arc::clone(&member.metadata));
        if let Some(before) = before {
            self.count(member_id, &before, false);
        }
        if let Some(value) = value {
            self.members.entry(Arc::clone(member_id)).or_default().metadata = Arc::clone(value);
            self.count(member_id, value, true);
        } else if let Some(gone) = self.members.remove(member_id) {
            self.release(member_id, &gone.current);
        }
    }

    /// Counts what a member said in, or out.
    fn count(&mut self, member_id: &Arc<str>, metadata: &MemberMetadata, joins: bool) {
        if let Some(instance_id) = &metadata.instance_id {
            if joins {
                self.static_members.insert(Arc::clone(instance_id), Arc::clone(member_id));
            } else if self.static_members.get(instance_id) == Some(member_id) {
                self.static_members.remove(instance_id);
            }
        }
        if let Some(assignor) = &metadata.server_assignor {
            count_one(&mut self.assignors, assignor, joins);
        }
        if let Some(regex) = metadata.regex() {
            count_one(&mut self.regex_subscribers, regex, joins);
        }
        for topic in &metadata.subscribed_topics {
            count_one(&mut self.topic_names, topic, joins);
        }
        if metadata.classic.is_some() {
            self.classic_members = if joins { self.classic_members + 1 } else { self.classic_members - 1 };
        }
    }

    fn apply_current(&mut self, member_id: &Arc<str>, value: Option<&Arc<CurrentAssignment>>) {
        let gone = || {
            let (epoch, previous_epoch) = (heartbeat::LEAVING, heartbeat::LEAVING);
            Arc::new(CurrentAssignment { epoch, previous_epoch, ..CurrentAssignment::default() })
        };
        if value.is_none() && !self.members.contains_key(member_id) {
            return;
        }
        let value = value.map_or_else(gone, Arc::clone);
        let member = self.members.entry(Arc::clone(member_id)).or_default();
        let before = std::mem::replace(&mut member.current, Arc::clone(&value));
        self.release(member_id, &before);
        for (topic, partition, _) in value.assigned.iter().chain(value.pending_revocation.iter()) {
            self.holders.entry(topic).or_default().insert(partition, Arc::clone(member_id));
        }
    }

    /// Nobody holds what this member has held; unless another one has it already, of whom a compacted log may tell
    /// first.
    fn release(&mut self, member_id: &Arc<str>, current: &CurrentAssignment) {
        for (topic, partition, _) in current.assigned.iter().chain(current.pending_revocation.iter()) {
            let Some(holders) = self.holders.get_mut(&topic) else { continue };
            if holders.get(&partition) == Some(member_id) {
                holders.remove(&partition);
                if holders.is_empty() {
                    self.holders.remove(&topic);
                }
            }
        }
    }

    /// Whether nobody else holds a partition.
    fn is_free_for(&self, member_id: &str, topic: TopicId, partition: PartitionIndex) -> bool {
        let holder = self.holders.get(&topic).and_then(|holders| holders.get(&partition));
        holder.is_none_or(|holder| **holder == *member_id)
    }

    /// Writes a record, and does what it says.
    fn write(&mut self, record: ConsumerRecord, out: &mut Effects) {
        self.apply(&record);
        out.records.push(GroupRecord::Consumer { group_id: Arc::clone(&self.id), record });
    }

    fn group_epoch(&self) -> i32 {
        self.epoch.map_or(0, |epoch| epoch.epoch)
    }

    fn assignment_epoch(&self) -> i32 {
        self.target_epoch.map_or(0, |epoch| epoch.epoch)
    }

    /// Whether nothing is left of the group: its records are all taken back.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.epoch.is_none()
            && self.target_epoch.is_none()
            && self.members.is_empty()
            && self.targets.is_empty()
            && self.regexes.is_empty()
    }

    /// The log has been replayed: the sessions of all members begin anew.
    pub fn loaded(&mut self, cx: &Context<'_>) {
        for (member_id, member) in &self.members {
            self.timers.set(member_id, Timer::Session, session_deadline(member, &self.id, cx));
            if member.current.state == MemberState::UnrevokedPartitions && !member.is_classic() {
                let at = cx.now.after_ms(member.metadata.rebalance_timeout_ms);
                self.timers.set(member_id, Timer::Revocation, at);
            }
        }
    }

    /// ConsumerGroupHeartbeat; the request is in order as far as [`heartbeat::check`] can tell.
    pub fn consumer_heartbeat(
        &mut self,
        ticket: Ticket,
        request: &ConsumerHeartbeatRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) {
        let reply = self.report(request, cx, out);
        out.reply(ticket, GroupReply::ConsumerHeartbeat(reply));
    }

    /// Whether the group has no members, so that it may be deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The records that take the group back, in an order in which no prefix leaves a part without its whole.
    pub fn tombstones(&self, out: &mut Effects) {
        let mut take_back = |record| {
            out.records.push(GroupRecord::Consumer { group_id: Arc::clone(&self.id), record });
        };
        for member_id in self.members.keys() {
            take_back(ConsumerRecord::Current { member_id: Arc::clone(member_id), value: None });
        }
        for member_id in self.targets.keys() {
            take_back(ConsumerRecord::Target { member_id: Arc::clone(member_id), value: None });
        }
        take_back(ConsumerRecord::TargetEpoch(None));
        for member_id in self.members.keys() {
            take_back(ConsumerRecord::Member { member_id: Arc::clone(member_id), value: None });
        }
        for regex in self.regexes.keys() {
            take_back(ConsumerRecord::Regex { regex: Arc::clone(regex), value: None });
        }
        take_back(ConsumerRecord::Group(None));
    }

    /// `Empty`, `Assigning`, `Reconciling` or `Stable`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        let reconciled = |member: &Member| member.current.is_reconciled_to(self.assignment_epoch());
        if self.members.is_empty() {
            "Empty"
        } else if self.group_epoch() > self.assignment_epoch() {
            "Assigning"
        } else if self.members.values().all(reconciled) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    /// The group in words.
    #[must_use]
    pub fn describe(&self, cx: &Context<'_>) -> DescribedConsumerGroup {
        DescribedConsumerGroup {
            state: self.state(),
            group_epoch: self.group_epoch(),
            assignment_epoch: self.assignment_epoch(),
            assignor: self.assignor_name(cx),
            members: self.members.iter().map(|(id, member)| self.describe_member(id, member)).collect(),
        }
    }

    fn describe_member(&self, member_id: &Arc<str>, member: &Member) -> DescribedConsumerMember {
        let metadata = &member.metadata;
        DescribedConsumerMember {
            member_id: Arc::clone(member_id),
            instance_id: metadata.instance_id.clone(),
            rack_id: metadata.rack_id.clone(),
            member_epoch: member.current.epoch,
            client_id: Arc::clone(&metadata.client_id),
            client_host: Arc::clone(&metadata.client_host),
            subscribed_topics: metadata.subscribed_topics.clone(),
            subscribed_regex: metadata.subscribed_regex.clone(),
            assigned: member.current.assigned.by_topic(),
            target: self.targets.get(member_id).map(|target| target.by_topic()).unwrap_or_default(),
            is_classic: member.is_classic(),
        }
    }

    /// When something happens without a request: a session or a member's time to give up partitions runs out.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonotonicNs> {
        self.timers.first()
    }

    /// What is due at `cx.now` is so at `until`, once.
    pub fn excuse(&mut self, cx: &Context<'_>, until: MonotonicNs) {
        self.timers.excuse(cx.now.monotonic, until);
    }

    /// Whatever is due at `cx.now`: members that are late are removed.
    pub fn expire(&mut self, cx: &Context<'_>, out: &mut Effects) {
        let mut late = Vec::new();
        while let Some((member_id, _)) = self.timers.pop(cx.now.monotonic) {
            self.timers.forget(&member_id);
            late.push(member_id);
        }
        if !late.is_empty() {
            self.remove_members(&late, cx, out);
        }
    }
}

fn count_one(counts: &mut Counts, what: &Arc<str>, more: bool) {
    if more {
        *counts.entry(Arc::clone(what)).or_default() += 1;
    } else if let Some(count) = counts.get_mut(what) {
        *count -= 1;
        if *count == 0 {
            counts.remove(what);
        }
    }
}

/// How often the group's members report, and how long they may be silent.
fn times_of(group_id: &str, cx: &Context<'_>) -> ConsumerTimes {
    ConsumerTimes::of(cx.image.group_configs(group_id), cx.settings)
}

/// Until when a member must have reported; one of the classic protocol has said so itself.
fn session_deadline(member: &Member, group_id: &str, cx: &Context<'_>) -> MonotonicNs {
    match &member.metadata.classic {
        Some(classic) => cx.now.after_ms(classic.session_timeout_ms),
        None => {
            let timeout_ms = times_of(group_id, cx).session_timeout_ms;
            cx.now.monotonic.plus_ns(timeout_ms.saturating_mul(NS_PER_MS))
        }
    }
}
