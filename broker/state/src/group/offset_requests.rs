//! Committing, fetching, deleting and expiring offsets.

use super::classic::ClassicGroup;
use super::membership::Touched;
use super::request::CommitRequest;
use super::{
    Arc, CONSUMER_PROTOCOL_TYPE, CommittedOffset, Context, DeleteOffsetsRequest, Effects, ErrorCode,
    FetchOffsetsRequest, Group, GroupRecord, GroupReply, Groups, NamedPartition, Ticket, is_expired,
};
use logmill_wire::ids::TimestampMs;

/// The first version of OffsetCommit that is told GROUP_ID_NOT_FOUND.
const KNOWS_MISSING_GROUPS: i16 = 9;

const MS_PER_MINUTE: i64 = 60_000;

impl Groups {
    pub(super) fn commit(
        &mut self,
        ticket: Ticket,
        request: CommitRequest,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Touched {
        let id = Arc::clone(&request.group_id);
        if let Err(error) = self.admit_commit(&request, cx) {
            out.reply(ticket, GroupReply::CommitOffsets(vec![error; request.offsets.len()]));
            return Some(id);
        }
        let expire_timestamp = (request.retention_ms >= 0)
            .then(|| TimestampMs(cx.now.wall.0.saturating_add(request.retention_ms)));
        let mut results = Vec::with_capacity(request.offsets.len());
        for (partition, topic_id, committed) in request.offsets {
            if committed.metadata.len() > cx.settings.offset_metadata_max_bytes {
                results.push(ErrorCode::OffsetMetadataTooLarge);
                continue;
            }
            let value =
                CommittedOffset { committed, commit_timestamp: cx.now.wall, expire_timestamp, topic_id };
            self.change_offset(&id, &partition, Some(value), out);
            results.push(ErrorCode::None);
        }
        out.reply(ticket, GroupReply::CommitOffsets(results));
        Some(id)
    }

    fn admit_commit(&mut self, request: &CommitRequest, cx: &Context<'_>) -> Result<(), ErrorCode> {
        match self.groups.get_mut(&request.group_id) {
            Some(Group::Classic(group)) => group.admit_commit(request, cx),
            Some(Group::Consumer(group)) => group.admit_commit(request, cx),
            // Who assigns its partitions itself needs no members, only a place for its offsets.
            None if request.generation_or_epoch < 0 => {
                let id = Arc::clone(&request.group_id);
                let group = Group::Classic(ClassicGroup::new(Arc::clone(&id), cx.now.wall));
                self.groups.insert(id, group);
                Ok(())
            }
            None if request.version >= KNOWS_MISSING_GROUPS => Err(ErrorCode::GroupIdNotFound),
            None => Err(ErrorCode::IllegalGeneration),
        }
    }

    fn change_offset(
        &mut self,
        group_id: &Arc<str>,
        partition: &NamedPartition,
        value: Option<CommittedOffset>,
        out: &mut Effects,
    ) {
        self.offsets.apply(group_id, partition, value.clone());
        let (group_id, partition) = (Arc::clone(group_id), partition.clone());
        out.records.push(GroupRecord::Offset { group_id, partition, value });
    }

    pub(super) fn fetch(&self, ticket: Ticket, request: FetchOffsetsRequest, out: &mut Effects) -> Touched {
        let admitted = match (&request.member, self.groups.get(&request.group_id)) {
            (Some((member_id, epoch)), Some(Group::Consumer(group))) => group.admit_fetch(member_id, *epoch),
            _ => Ok(()),
        };
        let reply = admitted.map(|()| self.offsets.fetch(&request.group_id, request.partitions));
        out.reply(ticket, GroupReply::FetchOffsets(reply));
        None
    }

    pub(super) fn delete_offsets(
        &mut self,
        ticket: Ticket,
        request: &DeleteOffsetsRequest,
        out: &mut Effects,
    ) -> Touched {
        let refused = match self.groups.get(&request.group_id) {
            None => Some(ErrorCode::GroupIdNotFound),
            Some(Group::Classic(group))
                if !group.is_empty() && *group.protocol_type() != *CONSUMER_PROTOCOL_TYPE =>
            {
                Some(ErrorCode::NonEmptyGroup)
            }
            Some(_) => None,
        };
        if let Some(error) = refused {
            out.reply(ticket, GroupReply::DeleteOffsets(Err(error)));
            return None;
        }
        let mut results = Vec::with_capacity(request.partitions.len());
        for partition in &request.partitions {
            let subscribed = self
                .groups
                .get(&request.group_id)
                .is_some_and(|group| group.is_subscribed_to(&partition.topic));
            if subscribed {
                results.push(ErrorCode::GroupSubscribedToTopic);
                continue;
            }
            if self.offsets.get(&request.group_id, partition).is_some() {
                self.change_offset(&request.group_id, partition, None, out);
            }
            results.push(ErrorCode::None);
        }
        out.reply(ticket, GroupReply::DeleteOffsets(Ok(results)));
        None
    }

    /// Forgets the offsets of topics that are gone.
    pub fn forget_topics(&mut self, is_gone: &dyn Fn(&str) -> bool) -> Effects {
        let mut out = Effects::default();
        self.forget(|_, partition, _| is_gone(&partition.topic), &mut out);
        out
    }

    /// Forgets the offsets that have expired (KIP-211), and groups that have nothing else.
    pub fn expire_offsets(&mut self, cx: &Context<'_>) -> Effects {
        let mut out = Effects::default();
        let minutes = i64::try_from(cx.settings.offsets_retention_minutes).unwrap_or(i64::MAX);
        let retention_ms = minutes.saturating_mul(MS_PER_MINUTE);
        let expired = |group: Option<&Group>, partition: &NamedPartition, offset: &CommittedOffset| {
            group.is_some_and(|group| {
                is_expired(offset, group.aging(), retention_ms, cx.now.wall)
                    && !group.is_subscribed_to(&partition.topic)
            })
        };
        self.forget(expired, &mut out);
        let left: Vec<Arc<str>> = self
            .groups
            .iter()
            .filter(|(id, group)| group.is_empty() && !self.offsets.has_any(id))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        for id in left {
            self.remove_group(&id, &mut out);
        }
        out
    }

    fn forget(
        &mut self,
        which: impl Fn(Option<&Group>, &NamedPartition, &CommittedOffset) -> bool,
        out: &mut Effects,
    ) {
        let mut forgotten = Vec::new();
        for id in self.offsets.groups() {
            let group = self.groups.get(id);
            for (partition, offset) in self.offsets.of_group(id) {
                if which(group, partition, offset) {
                    forgotten.push((Arc::clone(id), partition.clone()));
                }
            }
        }
        for (id, partition) in forgotten {
            self.change_offset(&id, &partition, None, out);
        }
    }

    /// Takes an empty group back, with all that it has.
    pub(super) fn remove_group(&mut self, id: &Arc<str>, out: &mut Effects) {
        let partitions: Vec<NamedPartition> =
            self.offsets.of_group(id).map(|(partition, _)| partition.clone()).collect();
        for partition in partitions {
            self.change_offset(id, &partition, None, out);
        }
        match self.groups.remove(id) {
            Some(Group::Classic(_)) => {
                out.records.push(GroupRecord::Classic { group_id: Arc::clone(id), value: None });
            }
            Some(Group::Consumer(group)) => group.tombstones(out),
            None => {}
        }
        self.note_deadline(id);
    }
}
