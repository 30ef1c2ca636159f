//! The target assignment: what each member shall own once all have gone over to it.

use super::record::{ConsumerRecord, TargetEpoch};
use super::{Arc, Assignment, ConsumerGroup, Context, Effects, MemberMetadata};
use crate::group::assignor::{Assignor, Candidate, Demand};
use logmill_wire::ids::TopicId;
use std::collections::{BTreeMap, BTreeSet};

/// The topics of each subscription, by the names and the regular expression that it consists of.
type Wishes<'a> = BTreeMap<(&'a [Arc<str>], Option<&'a Arc<str>>), Arc<BTreeSet<TopicId>>>;

impl ConsumerGroup {
    /// The assignor that most members want; that of the settings if none wants any.
    pub(super) fn assignor_name(&self, cx: &Context<'_>) -> Arc<str> {
        // Of equally wanted ones the first by name, so that the choice does not depend on who came last.
        let wanted = self.assignors.iter().rev().max_by_key(|(_, members)| **members);
        let default = || Arc::from(cx.settings.consumer_assignors.first().map_or("uniform", String::as_str));
        wanted.map_or_else(default, |(name, _)| Arc::clone(name))
    }

    /// Makes the target assignment for the group's epoch, and writes what changes by it.
    pub(super) fn update_target(&mut self, cx: &Context<'_>, out: &mut Effects) {
        let assignor = Assignor::named(&self.assignor_name(cx)).unwrap_or(Assignor::Uniform);
        let mut changed = Vec::new();
        let demand = self.demand(cx);
        for (candidate, assignment) in demand.members.iter().zip(assignor.assign(&demand)) {
            let before = self.targets.get(candidate.member_id);
            if before.is_none_or(|before| **before != assignment)
                && let Some((member_id, _)) = self.members.get_key_value(candidate.member_id)
            {
                let (member_id, value) = (Arc::clone(member_id), Some(Arc::new(assignment)));
                changed.push(ConsumerRecord::Target { member_id, value });
            }
        }
        drop(demand);
        for record in changed {
            self.write(record, out);
        }
        let epoch = TargetEpoch { epoch: self.group_epoch(), timestamp: cx.now.wall };
        self.write(ConsumerRecord::TargetEpoch(Some(epoch)), out);
    }

    fn demand(&self, cx: &Context<'_>) -> Demand<'_> {
        static NOTHING: Assignment = Assignment::EMPTY;
        // Most groups have one subscription: its topics are looked up once.
        let mut wishes = Wishes::new();
        let mut members = Vec::with_capacity(self.members.len());
        for (member_id, member) in &self.members {
            let metadata: &MemberMetadata = &member.metadata;
            let subscribed = wishes
                .entry((metadata.subscribed_topics.as_slice(), metadata.regex()))
                .or_insert_with(|| Arc::new(self.subscribed_topics(metadata, cx.image)));
            members.push(Candidate {
                member_id,
                instance_id: metadata.instance_id.as_deref(),
                subscribed: Arc::clone(subscribed),
                before: self.targets.get(member_id).map_or(&NOTHING, |target| &**target),
            });
        }
        let topics = wishes
            .into_values()
            .flat_map(|topics| topics.iter().copied().collect::<Vec<_>>())
            .filter_map(|topic_id| cx.image.topic_by_id(topic_id))
            .map(|topic| (topic.id, topic.partition_count()))
            .collect();
        Demand { members, topics }
    }
}
