//! A consumer group takes over a classic group's members, and hands its own back (KIP-848, "Migration").

use super::embedded::{read_assignment, read_subscription, write_assignment};
use super::member::{ClassicMetadata, CurrentAssignment, MemberMetadata, MemberState, sorted_names};
use super::record::{ConsumerRecord, GroupEpoch, TargetEpoch};
use super::{Arc, Assignment, ConsumerGroup, Context, Effects, Timer, session_deadline};
use crate::group::CONSUMER_PROTOCOL_TYPE;
use crate::group::classic::conversion::ProtocolsByMember;
use crate::group::classic::record::{ClassicGroupValue, ClassicMemberValue};
use logmill_wire::ids::{PartitionIndex, TopicId};
use std::collections::BTreeSet;

impl ConsumerGroup {
    /// A group in the epoch of a classic group's generation, whose members hold what that assigned to them; `None`
    /// if one of them cannot be read.
    pub(in crate::group) fn taken_over(
        id: Arc<str>,
        value: &ClassicGroupValue,
        protocols: &ProtocolsByMember,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Option<Self> {
        let mut group = Self::new(id);
        let mut taken = BTreeSet::new();
        let mut held = Vec::with_capacity(value.members.len());
        for member in &value.members {
            let protocols = protocols.get(&member.member_id).cloned().unwrap_or_default();
            let metadata = Some(Arc::new(metadata_of(member, protocols)?));
            let member_id = Arc::clone(&member.member_id);
            group.write(ConsumerRecord::Member { member_id, value: metadata }, out);
            held.push((&member.member_id, partitions_of(member, &mut taken, cx)?));
        }
        let epoch = value.generation;
        group.write(ConsumerRecord::Group(Some(GroupEpoch { epoch, metadata_hash: 0 })), out);
        for (member_id, partitions) in &held {
            let value = Some(Arc::new(partitions.iter().copied().collect::<Assignment>()));
            group.write(ConsumerRecord::Target { member_id: Arc::clone(member_id), value }, out);
        }
        let target_epoch = TargetEpoch { epoch, timestamp: cx.now.wall };
        group.write(ConsumerRecord::TargetEpoch(Some(target_epoch)), out);
        for (member_id, partitions) in &held {
            let current = CurrentAssignment {
                epoch,
                previous_epoch: epoch,
                state: MemberState::Stable,
                assigned: partitions.iter().map(|(topic, index)| (*topic, *index, epoch)).collect(),
                ..CurrentAssignment::default()
            };
            let value = Some(Arc::new(current));
            group.write(ConsumerRecord::Current { member_id: Arc::clone(member_id), value }, out);
        }
        for (member_id, member) in &group.members {
            group.timers.set(member_id, Timer::Session, session_deadline(member, &group.id, cx));
        }
        Some(group)
    }

    /// How many members there are.
    pub(in crate::group) fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Whether there are members, and all of them speak the classic protocol.
    pub(in crate::group) fn is_all_classic(&self) -> bool {
        !self.members.is_empty() && self.classic_members == self.members.len()
    }

    /// What a classic group is to take over; `None` if the members have no protocol in common.
    pub(in crate::group) fn to_take_over(&self, cx: &Context<'_>) -> Option<ClassicGroupValue> {
        let protocols = |metadata: &MemberMetadata| {
            let classic = metadata.classic.as_ref();
            classic.map(|classic| classic.protocols.clone()).unwrap_or_default()
        };
        let first = self.members.values().next()?;
        let (protocol, _) = protocols(&first.metadata).into_iter().find(|(name, _)| {
            self.members
                .values()
                .all(|member| protocols(&member.metadata).iter().any(|(other, _)| other == name))
        })?;
        let mut members = Vec::with_capacity(self.members.len());
        for (member_id, member) in &self.members {
            let metadata = &member.metadata;
            let (_, subscription) = protocols(metadata).into_iter().find(|(name, _)| *name == protocol)?;
            let version = read_subscription(&subscription).map_or(0, |subscription| subscription.version);
            let target = self.targets.get(member_id).cloned().unwrap_or_default();
            let named = target.iter().filter_map(|(topic, index)| {
                cx.image.topic_by_id(topic).map(|topic| (Arc::clone(&topic.name), index))
            });
            members.push(ClassicMemberValue {
                member_id: Arc::clone(member_id),
                instance_id: metadata.instance_id.clone(),
                client_id: Arc::clone(&metadata.client_id),
                client_host: Arc::clone(&metadata.client_host),
                rebalance_timeout_ms: metadata.rebalance_timeout_ms,
                session_timeout_ms: metadata.classic.as_ref()?.session_timeout_ms,
                assignment: write_assignment(version, named),
                subscription,
            });
        }
        Some(ClassicGroupValue {
            protocol_type: Arc::from(CONSUMER_PROTOCOL_TYPE),
            generation: self.group_epoch(),
            protocol: Some(protocol),
            leader: members.first().map(|member| Arc::clone(&member.member_id)),
            state_timestamp: Some(cx.now.wall),
            members,
        })
    }
}

fn metadata_of(
    member: &ClassicMemberValue,
    protocols: Vec<(Arc<str>, bytes::Bytes)>,
) -> Option<MemberMetadata> {
    let subscription = read_subscription(&member.subscription)?;
    Some(MemberMetadata {
        instance_id: member.instance_id.clone(),
        rack_id: subscription.rack_id,
        client_id: Arc::clone(&member.client_id),
        client_host: Arc::clone(&member.client_host),
        subscribed_topics: sorted_names(subscription.topics),
        subscribed_regex: None,
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        server_assignor: None,
        classic: Some(ClassicMetadata { session_timeout_ms: member.session_timeout_ms, protocols }),
    })
}

/// What the leader assigned to the member, of topics that exist; a partition that it gave to two is the first one's.
fn partitions_of(
    member: &ClassicMemberValue,
    taken: &mut BTreeSet<(TopicId, PartitionIndex)>,
    cx: &Context<'_>,
) -> Option<Vec<(TopicId, PartitionIndex)>> {
    let named = read_assignment(&member.assignment)?;
    let known =
        named.into_iter().filter_map(|(name, index)| Some((cx.image.topic_by_name(&name)?.id, index)));
    Some(known.filter(|partition| taken.insert(*partition)).collect())
}
