//! A classic group of consumers becomes a consumer group, and the other way round (KIP-848, "Migration").

use super::record::ClassicGroupValue;
use super::{ClassicGroup, join_refused, sync_refused};
use crate::group::effects::{Context, Effects};
use crate::group::record::GroupRecord;
use bytes::Bytes;
use logmill_wire::error_codes::ErrorCode;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What each member supports, best first, with its subscription, by member id.
pub(in crate::group) type ProtocolsByMember = BTreeMap<Arc<str>, Vec<(Arc<str>, Bytes)>>;

impl ClassicGroup {
    /// How many members there are.
    pub(in crate::group) fn member_count(&self) -> usize {
        self.members.len()
    }

    /// What a consumer group is to take over: the generation, under a protocol that all members support, and all
    /// protocols of each; `None` if these are not consumers.
    pub(in crate::group) fn to_take_over(&self) -> Option<(ClassicGroupValue, ProtocolsByMember)> {
        let protocol = self.members.select_protocol().filter(|_| self.is_of_consumers())?;
        let value = ClassicGroupValue {
            protocol_type: self.protocol_type(),
            generation: self.generation,
            leader: self.members.leader().cloned(),
            state_timestamp: self.since,
            members: self.members.iter().map(|member| member.to_record(&protocol)).collect(),
            protocol: Some(protocol),
        };
        let protocols =
            self.members.iter().map(|member| (Arc::clone(&member.id), member.protocols().clone()));
        Some((value, protocols.collect()))
    }

    /// The group ends, as another protocol's takes it over: who waits joins again.
    pub(in crate::group) fn hand_over(&mut self, out: &mut Effects) {
        for id in self.members.ids() {
            if let Some(ticket) = self.members.take_joining(&id) {
                out.reply(ticket, join_refused(ErrorCode::RebalanceInProgress, Arc::clone(&id)));
            }
            if let Some(ticket) = self.members.get_mut(&id).and_then(|member| member.syncing.take()) {
                out.reply(ticket, sync_refused(ErrorCode::RebalanceInProgress));
            }
        }
        out.records.push(GroupRecord::Classic { group_id: Arc::clone(&self.id), value: None });
    }

    /// A group that goes on from where a consumer group ended: its members keep what they were to have, until they
    /// have joined again.
    pub(in crate::group) fn taken_over(
        id: Arc<str>,
        value: ClassicGroupValue,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Self {
        let mut group = Self::from_record(id, value);
        out.records.push(group.record());
        group.loaded(cx);
        group.prepare_rebalance(cx, out);
        group
    }
}
