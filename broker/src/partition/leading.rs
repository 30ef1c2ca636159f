//! What a leader has for its followers, and hears of them.

use super::command::PartitionError;
use super::hosted::{Partition, storage_error};
use super::peers::{Peer, Taken};
use super::replica::Replicated;
use super::role::Role;
use crate::log::{InMemory, WholeBatches};
use crate::runtime::Runtime;
use logmill_state::partition::{AlterPartition, AlterPartitionOutcome, FollowerEnds, Leader, LeaderEffects};
use logmill_wire::frame::replication::{EpochAnswer, EpochQuery, PartitionEnds, PushedPartition};
use logmill_wire::ids::{LeaderEpoch, NodeId, Offset};
use std::rc::Rc;

/// What a follower was told last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Told {
    leader_epoch: LeaderEpoch,
    high_watermark: Offset,
    log_start: Offset,
}

impl<R: Runtime> Partition<R> {
    /// What there is to push to a follower, out of memory.
    pub(super) fn take_push(&self, follower: NodeId, max_bytes: usize) -> Taken {
        let Some(replicated) = self.replicated.get() else { return Taken::Nothing };
        let mut role = self.role.borrow_mut();
        let Role::Leads(leader) = &mut *role else { return Taken::Nothing };
        let Some(from) = leader.next_push(follower) else { return Taken::Nothing };
        let Some(oldest) = self.log.oldest_offset() else {
            if from < leader.next_offset() {
                return Taken::OnDisk(from);
            }
            return self.hand_out(replicated, leader, follower, from, (leader.log_start_offset(), None));
        };
        let batches = if from >= leader.next_offset() {
            None
        } else {
            match self.log.batches_in_memory(from, max_bytes) {
                InMemory::Nothing => None,
                InMemory::Batches(batches) => Some(batches),
                InMemory::OnDisk => return Taken::OnDisk(from),
            }
        };
        self.hand_out(replicated, leader, follower, from, (oldest, batches))
    }

    /// As [`Partition::take_push`], wherever the records are.
    pub(super) async fn read_push(self: &Rc<Self>, follower: NodeId, max_bytes: usize) -> Taken {
        let Some(replicated) = self.replicated.get() else { return Taken::Nothing };
        loop {
            let next = self.role.borrow().leader().and_then(|leader| leader.next_push(follower));
            let Some(from) = next.filter(|_| !self.is_gone()) else { return Taken::Nothing };
            let read = self.log.batches_from(from, max_bytes).await;
            let mut role = self.role.borrow_mut();
            let Role::Leads(leader) = &mut *role else { return Taken::Nothing };
            if leader.next_push(follower) != Some(from) {
                continue;
            }
            return match read {
                Ok(batches) => {
                    let oldest = self.log.oldest_offset().unwrap_or(leader.log_start_offset());
                    self.hand_out(replicated, leader, follower, from, (oldest, batches))
                }
                Err(error) => {
                    let error = storage_error(error).message();
                    tracing::error!(log = %self.log.key(), %follower, %error, "a follower cannot be brought up to date");
                    Taken::Nothing
                }
            };
        }
    }

    fn hand_out(
        &self,
        replicated: &Replicated,
        leader: &mut Leader,
        follower: NodeId,
        from: Offset,
        (oldest, batches): (Offset, Option<WholeBatches>),
    ) -> Taken {
        let told = Told {
            leader_epoch: leader.leader_epoch(),
            high_watermark: leader.high_watermark(),
            log_start: leader.log_start_offset(),
        };
        let mut all_told = replicated.told.borrow_mut();
        let known = all_told.iter_mut().find(|(node, _)| *node == follower);
        if batches.is_none() && known.as_ref().is_some_and(|(_, known)| *known == told) {
            return Taken::Nothing;
        }
        match known {
            Some((_, known)) => *known = told,
            None => all_told.push((follower, told)),
        }
        let mut entry = PushedPartition {
            partition: self.log.key(),
            leader_epoch: told.leader_epoch,
            from,
            high_watermark: told.high_watermark,
            log_start: told.log_start,
            first_offset: oldest.min(told.log_start),
            batch_bytes: 0,
            batch_starts_crc: 0,
        };
        let Some(batches) = batches else {
            return Taken::Push { entry, batches: Vec::new(), has_more: false };
        };
        leader.on_pushed(follower, batches.end);
        entry.from = from.min(batches.first);
        entry.batch_bytes = batches.bytes;
        entry.batch_starts_crc = batches.starts_crc;
        let has_more = batches.end < leader.next_offset();
        let batches = batches.views.into_iter().map(|view| view.into_bytes()).collect();
        Taken::Push { entry, batches, has_more }
    }

    /// The link to a follower was lost, with whatever was on its way.
    pub(super) fn on_link_lost(&self, follower: NodeId) {
        let Some(replicated) = self.replicated.get() else { return };
        replicated.told.borrow_mut().retain(|(node, _)| *node != follower);
        if let Some(leader) = self.role.borrow_mut().leader_mut() {
            leader.on_link_lost(follower);
        }
    }

    /// A follower says how far it has come.
    pub(super) fn on_ends(&self, from: Peer, ends: &PartitionEnds) {
        let Some(replicated) = self.replicated.get() else { return };
        let now = self.runtime.monotonic();
        let told = FollowerEnds {
            log_end: ends.log_end,
            written: ends.written,
            durable: ends.durable,
            log_start: ends.log_start,
            rewind: ends.rewind,
        };
        let mut role = self.role.borrow_mut();
        let Role::Leads(leader) = &mut *role else { return };
        let effects = leader.on_follower_ends((from.node, from.incarnation), ends.leader_epoch, told, now);
        let is_behind = leader.next_push(from.node).is_some_and(|next| next < leader.next_offset());
        drop(role);
        match effects {
            Ok(effects) => {
                if ends.rewind {
                    replicated.told.borrow_mut().retain(|(node, _)| *node != from.node);
                }
                self.after_leading(replicated, effects);
                self.answer_deletions();
                if is_behind || ends.rewind {
                    replicated.peers.push(from.node, self.log.key());
                }
            }
            Err(error) => {
                tracing::debug!(log = %self.log.key(), follower = %from.node, %error, "what a follower told is not taken note of");
            }
        }
    }

    /// A follower asks where its last epoch ends here.
    pub(super) fn on_query(self: &Rc<Self>, from: Peer, query: EpochQuery) {
        if self.log.oldest_offset().is_some() {
            return self.answer_query(from, query);
        }
        let partition = Rc::clone(self);
        self.runtime.spawn(async move {
            match partition.log.open_if_stored().await {
                Ok(()) => partition.answer_query(from, query),
                // It asks again.
                Err(error) => {
                    tracing::warn!(log = %partition.log.key(), %error, "a follower's question cannot be answered");
                }
            }
        });
    }

    fn answer_query(&self, from: Peer, query: EpochQuery) {
        let Some(replicated) = self.replicated.get() else { return };
        let mut role = self.role.borrow_mut();
        let Role::Leads(leader) = &mut *role else { return };
        let follower = (from.node, from.incarnation);
        let end = leader.on_divergence_query(follower, query.leader_epoch, query.last_epoch);
        let log_start = leader.log_start_offset();
        drop(role);
        match end {
            Ok(end) => {
                let oldest = self.log.oldest_offset().unwrap_or(log_start).min(log_start);
                let (epoch, end_offset) = (end.epoch, end.end_offset);
                let answer = EpochAnswer { query, epoch, end_offset, first_offset: oldest };
                replicated.peers.answer(from.node, answer);
            }
            Err(error) => {
                tracing::debug!(log = %self.log.key(), follower = %from.node, %error, "a follower's question is not answered");
            }
        }
    }

    /// Proposes to remove from the in-sync set who lags.
    pub(super) fn shrink_in_sync(&self, replicated: &Replicated) {
        let now = self.runtime.monotonic();
        let effects = match self.role.borrow_mut().leader_mut() {
            Some(leader) => leader.shrink_in_sync(now),
            None => return,
        };
        self.after_leading(replicated, effects);
    }

    /// A proposal was decided.
    pub(super) fn on_alter_partition(&self, proposal: &AlterPartition, outcome: &AlterPartitionOutcome) {
        let Some(replicated) = self.replicated.get() else { return };
        let effects = match self.role.borrow_mut().leader_mut() {
            Some(leader) => leader.on_alter_partition(proposal, outcome),
            None => return,
        };
        self.after_leading(replicated, effects);
    }

    /// Does what the leader's state asks for.
    pub(super) fn after_leading(&self, replicated: &Replicated, effects: LeaderEffects) {
        if effects.high_watermark_moved {
            let high_watermark = self.role.borrow().log().high_watermark();
            self.watchers.wake(high_watermark);
            self.committed(replicated, high_watermark);
        }
        if effects.not_enough_replicas
            && let Some(error) = self.lack_of_replicas()
        {
            replicated.committed_waiters.refuse(&error);
        }
        if let Some(proposal) = effects.alter_partition {
            replicated.peers.alter_partition(self.log.key(), proposal);
        }
    }

    /// The high watermark has moved: appends are answered, and followers hear of it.
    pub(super) fn committed(&self, replicated: &Replicated, high_watermark: Offset) {
        if !replicated.committed_waiters.is_empty() {
            replicated.committed_waiters.answer(high_watermark, self.lack_of_replicas().as_ref());
        }
        replicated.push_later(self.log.key());
    }

    fn lack_of_replicas(&self) -> Option<PartitionError> {
        let role = self.role.borrow();
        let lack = role.leader()?.check_in_sync().err()?;
        Some(PartitionError::NotEnoughReplicasAfterAppend(lack))
    }
}
