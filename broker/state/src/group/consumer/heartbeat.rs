//! ConsumerGroupHeartbeat: a member joins, reports, or leaves (KIP-848).

use super::member::{Member, MemberState, sorted_names};
use super::reconcile::Course;
use super::record::{ConsumerRecord, GroupEpoch};
use super::{
    Arc, Assignment, ConsumerGroup, Context, CurrentAssignment, Effects, ErrorCode, MemberMetadata, Timer,
    regex, session_deadline, times_of,
};
use crate::group::reply::{ConsumerHeartbeatReply, Refused};
use crate::group::request::{ConsumerHeartbeatRequest, TopicPartitions, VisibleTopics};
use crate::settings::GroupSettings;
use std::collections::BTreeSet;

/// The epoch with which a member joins.
pub const JOINING: i32 = 0;
/// The epoch with which a member leaves.
pub const LEAVING: i32 = -1;
/// The epoch with which a static member leaves for a while.
pub const LEAVING_FOR_A_WHILE: i32 = -2;

/// Whether a request is in order by itself, without a look at its group.
///
/// # Errors
/// INVALID_REQUEST, UNSUPPORTED_ASSIGNOR or INVALID_REGULAR_EXPRESSION.
pub fn check(request: &ConsumerHeartbeatRequest, settings: &GroupSettings) -> Result<(), Refused> {
    let invalid = |message: &str| Err(Refused::new(ErrorCode::InvalidRequest, message));
    let is_empty = |text: &Option<Arc<str>>| text.as_deref().is_some_and(str::is_empty);
    let brings_no_id = request.member.member_id.is_empty();
    if brings_no_id && (request.member_epoch != JOINING || request.fresh_id.is_zero()) {
        return invalid("MemberId can't be empty.");
    }
    if request.group_id.is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if is_empty(&request.member.instance_id) {
        return invalid("InstanceId can't be empty.");
    }
    if is_empty(&request.rack_id) {
        return invalid("RackId can't be empty.");
    }
    match request.member_epoch {
        JOINING => check_first_report(request)?,
        LEAVING_FOR_A_WHILE if request.member.instance_id.is_none() => {
            return invalid("InstanceId can't be null.");
        }
        ..LEAVING_FOR_A_WHILE => return invalid("MemberEpoch is invalid."),
        _ => {}
    }
    let is_offered = |name: &str| settings.consumer_assignors.iter().any(|assignor| assignor == name);
    if let Some(name) = request.server_assignor.as_deref().filter(|name| !is_offered(name)) {
        let offered = settings.consumer_assignors.join(", ");
        let message = format!("ServerAssignor {name} is not supported. Supported assignors: {offered}.");
        return Err(Refused::new(ErrorCode::UnsupportedAssignor, message));
    }
    if let Some(pattern) = request.subscribed_regex.as_deref()
        && let Err(error) = regex::compile(pattern)
    {
        let message = format!("SubscribedTopicRegex `{pattern}` is not a valid regular expression: {error}.");
        return Err(Refused::new(ErrorCode::InvalidRegularExpression, message));
    }
    Ok(())
}

fn check_first_report(request: &ConsumerHeartbeatRequest) -> Result<(), Refused> {
    let invalid = |message| Err(Refused::new(ErrorCode::InvalidRequest, message));
    if request.rebalance_timeout_ms.is_none() {
        return invalid("RebalanceTimeoutMs must be provided in first request.");
    }
    if request.owned.as_ref().is_none_or(|owned| !owned.is_empty()) {
        return invalid("TopicPartitions must be empty when (re-)joining.");
    }
    if request.subscribed_topics.is_none() && request.subscribed_regex.is_none() {
        return invalid(
            "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
        );
    }
    Ok(())
}

impl ConsumerGroup {
    pub(super) fn report(
        &mut self,
        request: &ConsumerHeartbeatRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Result<ConsumerHeartbeatReply, Refused> {
        if request.member_epoch < JOINING {
            return self.leave_by_report(request, cx, out);
        }
        let member_id = self.admit(request, cx, out)?;
        let before = self.members.get(&member_id).cloned().unwrap_or_default();
        let is_new = !self.members.contains_key(&member_id);
        let metadata = updated(&before.metadata, request);
        let subscription_changed =
            metadata.as_ref().is_some_and(|metadata| !metadata.subscribes_as(&before.metadata));
        if is_new || metadata.is_some() {
            let value = Some(metadata.map_or(before.metadata, Arc::new));
            self.write(ConsumerRecord::Member { member_id: Arc::clone(&member_id), value }, out);
        }
        self.advance(subscription_changed, Some(&request.visible_topics), cx, out);
        self.reconcile(&member_id, request.owned.as_deref(), subscription_changed, cx, out)?;
        let Some(member) = self.members.get(&member_id) else {
            return Err(unknown(&member_id, &self.id));
        };
        self.timers.set(&member_id, Timer::Session, session_deadline(member, &self.id, cx));
        let is_full = request.member_epoch == JOINING
            || (request.rebalance_timeout_ms.is_some()
                && (request.subscribed_topics.is_some() || request.subscribed_regex.is_some())
                && request.owned.is_some());
        let assigned = &member.current.assigned;
        let is_told = is_full || !assigned.has_partitions_of(&before.current.assigned);
        Ok(ConsumerHeartbeatReply {
            member_epoch: member.current.epoch,
            heartbeat_interval_ms: i32::try_from(times_of(&self.id, cx).heartbeat_interval_ms)
                .unwrap_or(i32::MAX),
            assignment: is_told.then(|| assigned.by_topic()),
            member_id,
        })
    }

    /// Finds the member, or lets a new one in; a static one that comes back takes the place that it has left.
    fn admit(
        &mut self,
        request: &ConsumerHeartbeatRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Result<Arc<str>, Refused> {
        let given = &request.member.member_id;
        let capacity = usize::try_from(cx.settings.consumer_max_size).unwrap_or(usize::MAX);
        if self.members.len() >= capacity && !self.members.contains_key(given) {
            let message =
                format!("The consumer group has reached its maximum capacity of {capacity} members.");
            return Err(Refused::new(ErrorCode::GroupMaxSizeReached, message));
        }
        let member_id =
            if given.is_empty() { Arc::from(request.fresh_id.to_string()) } else { Arc::clone(given) };
        let joins = request.member_epoch == JOINING;
        let Some(instance_id) = &request.member.instance_id else {
            match self.members.get(&member_id) {
                Some(member) => check_epoch(member, request)?,
                None if joins => {}
                None => return Err(unknown(&member_id, &self.id)),
            }
            return Ok(member_id);
        };
        match self.static_members.get(instance_id).cloned() {
            None if joins => {}
            None => return Err(unknown_instance(instance_id)),
            // A join whose answer was lost comes again under the same id.
            Some(holder) if joins && holder == member_id && !self.has_left_for_a_while(&holder) => {}
            Some(holder) if joins => {
                let is_classic = self.members.get(&holder).is_some_and(Member::is_classic);
                if !is_classic && !self.has_left_for_a_while(&holder) {
                    let message = format!(
                        "Static member {member_id} with instance id {instance_id} cannot join the group because \
                         the instance id is owned by {holder} member."
                    );
                    return Err(Refused::new(ErrorCode::UnreleasedInstanceId, message));
                }
                self.replace_member(&holder, &member_id, JOINING, out);
            }
            Some(holder) if holder != member_id => {
                return Err(fenced_instance(&member_id, instance_id, &holder));
            }
            Some(holder) => {
                if let Some(member) = self.members.get(&holder) {
                    check_epoch(member, request)?;
                }
            }
        }
        Ok(member_id)
    }

    fn has_left_for_a_while(&self, member_id: &str) -> bool {
        self.members.get(member_id).is_some_and(|member| member.current.epoch == LEAVING_FOR_A_WHILE)
    }

    /// A static member gets another id; what it shall own and holds is the new one's.
    pub(super) fn replace_member(
        &mut self,
        leaver: &Arc<str>,
        joiner: &Arc<str>,
        epoch: i32,
        out: &mut Effects,
    ) {
        let Some(member) = self.members.get(leaver).cloned() else { return };
        let target = self.targets.get(leaver).cloned().unwrap_or_default();
        self.take_back_member(leaver, out);
        let member_id = || Arc::clone(joiner);
        self.write(ConsumerRecord::Member { member_id: member_id(), value: Some(member.metadata) }, out);
        self.write(ConsumerRecord::Target { member_id: member_id(), value: Some(target) }, out);
        let current =
            CurrentAssignment { epoch, previous_epoch: epoch, ..CurrentAssignment::clone(&member.current) };
        let value = Some(Arc::new(current));
        self.write(ConsumerRecord::Current { member_id: member_id(), value }, out);
    }

    /// Moves the group's epoch on if somebody wants other topics or the topics have changed, and the target with
    /// it. Nothing else can have changed what the members shall own.
    pub(super) fn advance(
        &mut self,
        subscription_changed: bool,
        visible: Option<&VisibleTopics>,
        cx: &Context<'_>,
        out: &mut Effects,
    ) {
        let resolved = self.resolve_regexes(visible, cx, out);
        let mut bump = subscription_changed || resolved || self.group_epoch() == 0;
        if bump || self.metadata_may_have_changed(cx) {
            let metadata_hash = self.hash_metadata(cx);
            bump |= self.epoch.is_none_or(|epoch| epoch.metadata_hash != metadata_hash);
            if bump {
                let epoch = self.group_epoch().saturating_add(1);
                self.write(ConsumerRecord::Group(Some(GroupEpoch { epoch, metadata_hash })), out);
            }
        }
        if self.group_epoch() > self.assignment_epoch() {
            self.update_target(cx, out);
        }
    }

    /// Takes a member one step towards its target.
    pub(super) fn reconcile(
        &mut self,
        member_id: &Arc<str>,
        owned: Option<&[TopicPartitions]>,
        subscription_changed: bool,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Result<(), Refused> {
        let Some(member) = self.members.get(member_id) else { return Ok(()) };
        if member.current.is_reconciled_to(self.assignment_epoch()) {
            return Ok(());
        }
        let subscribed: Option<BTreeSet<_>> =
            subscription_changed.then(|| self.subscribed_topics(&member.metadata, cx.image));
        let nothing = Assignment::EMPTY;
        let course = Course {
            target: self.targets.get(member_id).map_or(&nothing, |target| &**target),
            target_epoch: self.assignment_epoch(),
            owned,
            subscribed: subscribed.as_ref(),
            is_free: &|topic, partition| self.is_free_for(member_id, topic, partition),
        };
        let Some(next) = course.next(&member.current)? else { return Ok(()) };
        // A member of the classic protocol is timed by its joins and syncs.
        if !member.is_classic() {
            if next.state == MemberState::UnrevokedPartitions {
                let at = cx.now.after_ms(member.metadata.rebalance_timeout_ms);
                self.timers.set(member_id, Timer::Revocation, at);
            } else {
                self.timers.cancel(member_id, Timer::Revocation);
            }
        }
        let (member_id, value) = (Arc::clone(member_id), Some(Arc::new(next)));
        self.write(ConsumerRecord::Current { member_id, value }, out);
        Ok(())
    }

    fn leave_by_report(
        &mut self,
        request: &ConsumerHeartbeatRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Result<ConsumerHeartbeatReply, Refused> {
        let member_id = Arc::clone(&request.member.member_id);
        if let Some(instance_id) = &request.member.instance_id {
            let holder = self.static_members.get(instance_id).ok_or_else(|| unknown_instance(instance_id))?;
            if *holder != member_id {
                return Err(fenced_instance(&member_id, instance_id, holder));
            }
        }
        let member = self.members.get(&member_id).ok_or_else(|| unknown(&member_id, &self.id))?;
        if request.member_epoch == LEAVING_FOR_A_WHILE {
            let mut current = CurrentAssignment::clone(&member.current);
            current.epoch = LEAVING_FOR_A_WHILE;
            current.pending_revocation = super::assignment::Held::default();
            let value = Some(Arc::new(current));
            self.write(ConsumerRecord::Current { member_id: Arc::clone(&member_id), value }, out);
            self.timers.cancel(&member_id, Timer::Revocation);
        } else {
            self.remove_members(std::slice::from_ref(&member_id), cx, out);
        }
        let (member_epoch, heartbeat_interval_ms) = (request.member_epoch, 0);
        Ok(ConsumerHeartbeatReply { member_id, member_epoch, heartbeat_interval_ms, assignment: None })
    }

    /// Removes members, and moves the group's epoch on; the next report of another one makes the target for it.
    pub(super) fn remove_members(&mut self, member_ids: &[Arc<str>], cx: &Context<'_>, out: &mut Effects) {
        for member_id in member_ids {
            self.take_back_member(member_id, out);
        }
        self.forget_regexes(out);
        let metadata_hash = self.hash_metadata(cx);
        let epoch = self.group_epoch().saturating_add(1);
        self.write(ConsumerRecord::Group(Some(GroupEpoch { epoch, metadata_hash })), out);
    }

    fn take_back_member(&mut self, member_id: &Arc<str>, out: &mut Effects) {
        self.timers.forget(member_id);
        let member_id = || Arc::clone(member_id);
        self.write(ConsumerRecord::Current { member_id: member_id(), value: None }, out);
        self.write(ConsumerRecord::Target { member_id: member_id(), value: None }, out);
        self.write(ConsumerRecord::Member { member_id: member_id(), value: None }, out);
    }
}

/// What is known of a member after its report, if that is new: what it left out has not changed.
fn updated(before: &MemberMetadata, request: &ConsumerHeartbeatRequest) -> Option<MemberMetadata> {
    let says_nothing = request.rack_id.is_none()
        && request.rebalance_timeout_ms.is_none()
        && request.subscribed_topics.is_none()
        && request.subscribed_regex.is_none()
        && request.server_assignor.is_none()
        && before.classic.is_none();
    let is_same_client = request.client_id == before.client_id && request.client_host == before.client_host;
    if says_nothing && is_same_client && request.member.instance_id == before.instance_id {
        return None;
    }
    let either = |new: &Option<Arc<str>>, old: &Option<Arc<str>>| new.clone().or_else(|| old.clone());
    let names = request.subscribed_topics.clone().map(sorted_names);
    let after = MemberMetadata {
        instance_id: either(&request.member.instance_id, &before.instance_id),
        rack_id: either(&request.rack_id, &before.rack_id),
        client_id: Arc::clone(&request.client_id),
        client_host: Arc::clone(&request.client_host),
        subscribed_topics: names.unwrap_or_else(|| before.subscribed_topics.clone()),
        subscribed_regex: either(&request.subscribed_regex, &before.subscribed_regex),
        rebalance_timeout_ms: request.rebalance_timeout_ms.unwrap_or(before.rebalance_timeout_ms),
        server_assignor: either(&request.server_assignor, &before.server_assignor),
        classic: None,
    };
    (after != *before).then_some(after)
}

/// A member's epoch must be its last one, or the one before, if the answer with the last one may have been lost:
/// then it owns nothing that is not its own. Whoever joins again has given up all (KIP-848).
fn check_epoch(member: &Member, request: &ConsumerHeartbeatRequest) -> Result<(), Refused> {
    let current = &member.current;
    if request.member_epoch == JOINING || request.member_epoch == current.epoch {
        return Ok(());
    }
    let owns_no_more = request.owned.as_ref().is_some_and(|owned| {
        owned.iter().all(|topic| {
            topic.partitions.iter().all(|index| current.assigned.contains(topic.topic_id, *index))
        })
    });
    if request.member_epoch < current.epoch && request.member_epoch == current.previous_epoch && owns_no_more
    {
        return Ok(());
    }
    let which = if request.member_epoch > current.epoch { "greater" } else { "smaller" };
    let message = format!(
        "The consumer group member has a {which} member epoch ({}) than the one known by the group coordinator ({}). \
         The member must abandon all its partitions and rejoin.",
        request.member_epoch, current.epoch
    );
    Err(Refused::new(ErrorCode::FencedMemberEpoch, message))
}

pub(super) fn unknown(member_id: &str, group_id: &str) -> Refused {
    let message = format!("Member {member_id} is not a member of group {group_id}.");
    Refused::new(ErrorCode::UnknownMemberId, message)
}

fn unknown_instance(instance_id: &str) -> Refused {
    Refused::new(ErrorCode::UnknownMemberId, format!("Instance id {instance_id} is unknown."))
}

fn fenced_instance(member_id: &str, instance_id: &str, holder: &str) -> Refused {
    let message =
        format!("Static member {member_id} with instance id {instance_id} was fenced by member {holder}.");
    Refused::new(ErrorCode::FencedInstanceId, message)
}
