//! Members of the classic protocol in a consumer group (KIP-848, "Migration"): the coordinator assigns for them as
//! for all others, and what it would tell them in a heartbeat they hear when they join and sync.

use super::embedded::{self, Subscription};
use super::heartbeat::JOINING;
use super::member::{ClassicMetadata, Member, MemberMetadata, MemberState, sorted_names};
use super::record::ConsumerRecord;
use super::timers::Timer;
use super::{Arc, ConsumerGroup, Context, Effects, ErrorCode, session_deadline};
use crate::group::CONSUMER_PROTOCOL_TYPE;
use crate::group::reply::{GroupReply, JoinReply, LeftMember, SyncReply};
use crate::group::request::{
    HeartbeatRequest, JoinRequest, LeaveRequest, MemberIdentity, SyncRequest, Ticket, TopicPartitions,
};
use bytes::Bytes;

impl ConsumerGroup {
    /// JoinGroup of a member that speaks the classic protocol (KIP-848, "Migration"); its session timeout is within
    /// the settings' bounds.
    pub fn join(&mut self, ticket: Ticket, request: &JoinRequest, cx: &Context<'_>, out: &mut Effects) {
        let reply = match self.join_as_classic(request, cx, out) {
            Ok(reply) => reply,
            Err(error) => JoinReply::refused(error, request),
        };
        out.reply(ticket, GroupReply::Join(reply));
    }

    fn join_as_classic(
        &mut self,
        request: &JoinRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Result<JoinReply, ErrorCode> {
        let capacity = usize::try_from(cx.settings.consumer_max_size).unwrap_or(usize::MAX);
        if self.members.len() >= capacity && !self.members.contains_key(&request.member.member_id) {
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        if !self.supports(request) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if request.requires_known_member_id
            && request.member.member_id.is_empty()
            && request.member.instance_id.is_none()
        {
            let member_id = Arc::from(request.fresh_id.to_string());
            return Ok(JoinReply { member_id, ..JoinReply::refused(ErrorCode::MemberIdRequired, request) });
        }
        let (protocol_name, metadata) =
            request.protocols.first().ok_or(ErrorCode::InconsistentGroupProtocol)?;
        let subscription =
            embedded::read_subscription(metadata).ok_or(ErrorCode::InconsistentGroupProtocol)?;
        let member_id = self.admit_classic(request, out)?;
        let owned = by_topic(&subscription, cx);
        let subscription_changed = self.note_classic(&member_id, request, subscription, out);
        // The expressions of others wait for those who have some.
        self.advance(subscription_changed, None, cx, out);
        self.reconcile(&member_id, Some(&owned), subscription_changed, cx, out)
            .map_err(|refused| refused.code)?;
        let member = self.members.get(&member_id).ok_or(ErrorCode::UnknownMemberId)?;
        self.timers.cancel(&member_id, Timer::Join);
        self.timers.set(&member_id, Timer::Session, session_deadline(member, &self.id, cx));
        self.timers.set(&member_id, Timer::Sync, cx.now.after_ms(request.rebalance_timeout_ms));
        Ok(JoinReply {
            error: ErrorCode::None,
            generation: member.current.epoch,
            protocol_type: Some(Arc::from(CONSUMER_PROTOCOL_TYPE)),
            protocol_name: Some(Arc::clone(protocol_name)),
            // No member leads: the coordinator assigns.
            leader: Arc::from(""),
            skip_assignment: false,
            member_id,
            members: Vec::new(),
        })
    }

    /// Whether the member brings a protocol that all members of the classic protocol have.
    fn supports(&self, request: &JoinRequest) -> bool {
        let has = |member: &Member, name: &Arc<str>| {
            member
                .metadata
                .classic
                .as_ref()
                .is_none_or(|classic| classic.protocols.iter().any(|(protocol, _)| protocol == name))
        };
        *request.protocol_type == *CONSUMER_PROTOCOL_TYPE
            && request.protocols.iter().any(|(name, _)| self.members.values().all(|member| has(member, name)))
    }

    /// Finds the member or lets a new one in; a static one without a member id takes the place of its forerunner, of
    /// whichever protocol.
    fn admit_classic(&mut self, request: &JoinRequest, out: &mut Effects) -> Result<Arc<str>, ErrorCode> {
        let given = &request.member.member_id;
        let member_id =
            if given.is_empty() { Arc::from(request.fresh_id.to_string()) } else { Arc::clone(given) };
        let Some(instance_id) = &request.member.instance_id else { return Ok(member_id) };
        match self.static_members.get(instance_id).cloned() {
            Some(holder) if given.is_empty() => self.replace_member(&holder, &member_id, JOINING, out),
            None if given.is_empty() => {}
            Some(holder) if holder == member_id => {}
            Some(_) => return Err(ErrorCode::FencedInstanceId),
            None => return Err(ErrorCode::UnknownMemberId),
        }
        Ok(member_id)
    }

    /// Writes what the member said of itself, if that is new; whether it wants other topics than before.
    fn note_classic(
        &mut self,
        member_id: &Arc<str>,
        request: &JoinRequest,
        subscription: Subscription,
        out: &mut Effects,
    ) -> bool {
        let before = self.members.get(member_id).cloned();
        let is_new = before.is_none();
        let before = before.unwrap_or_default().metadata;
        let rack_id = subscription.rack_id.or_else(|| before.rack_id.clone());
        let metadata = MemberMetadata {
            instance_id: request.member.instance_id.clone().or_else(|| before.instance_id.clone()),
            rack_id,
            client_id: Arc::clone(&request.client_id),
            client_host: Arc::clone(&request.client_host),
            subscribed_topics: sorted_names(subscription.topics),
            subscribed_regex: None,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            server_assignor: before.server_assignor.clone(),
            classic: Some(ClassicMetadata {
                session_timeout_ms: request.session_timeout_ms,
                protocols: request.protocols.clone(),
            }),
        };
        let changed = !metadata.subscribes_as(&before);
        if is_new || metadata != *before {
            let (member_id, value) = (Arc::clone(member_id), Some(Arc::new(metadata)));
            self.write(ConsumerRecord::Member { member_id, value }, out);
        }
        changed
    }

    /// SyncGroup of such a member.
    pub fn sync(&mut self, ticket: Ticket, request: &SyncRequest, cx: &Context<'_>, out: &mut Effects) {
        let reply = match self.assignment_of_classic(request, cx) {
            Ok(assignment) => SyncReply {
                error: ErrorCode::None,
                protocol_type: request.protocol_type.clone(),
                protocol_name: request.protocol_name.clone(),
                assignment,
            },
            Err(error) => SyncReply::refused(error),
        };
        out.reply(ticket, GroupReply::Sync(reply));
    }

    fn assignment_of_classic(&mut self, request: &SyncRequest, cx: &Context<'_>) -> Result<Bytes, ErrorCode> {
        let (member_id, member) = self.classic_member(&request.member, request.generation)?;
        let classic = member.metadata.classic.as_ref().ok_or(ErrorCode::UnknownMemberId)?;
        let (name, metadata) = classic.protocols.first().ok_or(ErrorCode::InconsistentGroupProtocol)?;
        if request.protocol_type.as_deref().is_some_and(|given| given != CONSUMER_PROTOCOL_TYPE)
            || request.protocol_name.as_ref().is_some_and(|given| given != name)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        // Who has yet to give up has joined for that already; the next rebalance comes after it.
        if self.group_epoch() > member.current.epoch
            && member.current.state != MemberState::UnrevokedPartitions
        {
            let at = cx.now.after_ms(member.metadata.rebalance_timeout_ms);
            self.timers.set_if_absent(&member_id, Timer::Join, at);
            return Err(ErrorCode::RebalanceInProgress);
        }
        let version = embedded::read_subscription(metadata).map_or(0, |subscription| subscription.version);
        let named = member.current.assigned.iter().filter_map(|(topic, index, _)| {
            cx.image.topic_by_id(topic).map(|topic| (Arc::clone(&topic.name), index))
        });
        let assignment = embedded::write_assignment(version, named);
        self.timers.set(&member_id, Timer::Session, session_deadline(&member, &self.id, cx));
        self.timers.cancel(&member_id, Timer::Sync);
        Ok(assignment)
    }

    /// Heartbeat of such a member.
    pub fn heartbeat(
        &mut self,
        ticket: Ticket,
        request: &HeartbeatRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) {
        let error = self.report_as_classic(request, cx).err().unwrap_or(ErrorCode::None);
        out.reply(ticket, GroupReply::Heartbeat(error));
    }

    /// The member shall join again if there is a new epoch, if it has to give up, or if what it waits for is free.
    fn report_as_classic(&mut self, request: &HeartbeatRequest, cx: &Context<'_>) -> Result<(), ErrorCode> {
        let (member_id, member) = self.classic_member(&request.member, request.generation)?;
        self.timers.set(&member_id, Timer::Session, session_deadline(&member, &self.id, cx));
        let shall_join = member.current.epoch < self.group_epoch()
            || match member.current.state {
                MemberState::UnrevokedPartitions => true,
                MemberState::UnreleasedPartitions => !self.waits_for_others(&member_id, &member),
                MemberState::Stable | MemberState::Unknown => false,
            };
        if shall_join {
            let at = cx.now.after_ms(member.metadata.rebalance_timeout_ms);
            self.timers.set_if_absent(&member_id, Timer::Join, at);
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    fn waits_for_others(&self, member_id: &Arc<str>, member: &Member) -> bool {
        self.targets.get(member_id).is_some_and(|target| {
            target.iter().any(|(topic, index)| {
                !member.current.assigned.contains(topic, index) && !self.is_free_for(member_id, topic, index)
            })
        })
    }

    fn classic_member(
        &self,
        identity: &MemberIdentity,
        generation: i32,
    ) -> Result<(Arc<str>, Member), ErrorCode> {
        let member_id = match &identity.instance_id {
            None => Arc::clone(&identity.member_id),
            Some(instance_id) => {
                let holder = self.static_members.get(instance_id).ok_or(ErrorCode::UnknownMemberId)?;
                if *holder != identity.member_id {
                    return Err(ErrorCode::FencedInstanceId);
                }
                Arc::clone(holder)
            }
        };
        let member = self.members.get(&member_id).filter(|member| member.is_classic());
        let member = member.ok_or(ErrorCode::UnknownMemberId)?.clone();
        if member.current.epoch != generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        Ok((member_id, member))
    }

    /// LeaveGroup of such a member, or of any static member by an operator's hand.
    pub fn leave(&mut self, ticket: Ticket, request: &LeaveRequest, cx: &Context<'_>, out: &mut Effects) {
        let mut leavers: Vec<Arc<str>> = Vec::new();
        let mut results = Vec::with_capacity(request.members.len());
        for (identity, _) in &request.members {
            let found = self.leaver(identity).and_then(|member_id| {
                // Named twice, it has left the first time.
                if leavers.contains(&member_id) { Err(ErrorCode::UnknownMemberId) } else { Ok(member_id) }
            });
            let error = match found {
                Ok(member_id) => {
                    leavers.push(member_id);
                    ErrorCode::None
                }
                Err(error) => error,
            };
            let (member_id, instance_id) = (Arc::clone(&identity.member_id), identity.instance_id.clone());
            results.push(LeftMember { member_id, instance_id, error });
        }
        if !leavers.is_empty() {
            self.remove_members(&leavers, cx, out);
        }
        out.reply(ticket, GroupReply::Leave(Ok(results)));
    }

    fn leaver(&self, identity: &MemberIdentity) -> Result<Arc<str>, ErrorCode> {
        let member_id = match &identity.instance_id {
            None => &identity.member_id,
            Some(instance_id) => self.static_members.get(instance_id).ok_or(ErrorCode::UnknownMemberId)?,
        };
        let is_operators = identity.instance_id.is_some() && identity.member_id.is_empty();
        if !is_operators && *member_id != identity.member_id {
            return Err(ErrorCode::FencedInstanceId);
        }
        match self.members.get(member_id) {
            Some(member) if is_operators || member.is_classic() => Ok(Arc::clone(member_id)),
            _ => Err(ErrorCode::UnknownMemberId),
        }
    }
}

/// What the member says that it owns, of topics that exist.
fn by_topic(subscription: &Subscription, cx: &Context<'_>) -> Vec<TopicPartitions> {
    subscription
        .owned
        .iter()
        .filter_map(|(name, index)| {
            let topic_id = cx.image.topic_by_name(name)?.id;
            Some(TopicPartitions { topic_id, partitions: vec![*index] })
        })
        .collect()
}
