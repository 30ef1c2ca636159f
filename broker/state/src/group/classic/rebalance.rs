//! The join phase: how a rebalance begins, whom it waits for, and how a generation comes out of it.

use super::timers::{Due, JoinTimer};
use super::{ClassicGroup, State, sync_refused};
use crate::group::effects::{Context, Effects};
use crate::group::reply::GroupReply;
use bytes::Bytes;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::MonotonicNs;
use std::sync::Arc;

const NS_PER_MS: u64 = 1_000_000;

impl ClassicGroup {
    /// What is due at `cx.now` is so at `until`, once.
    pub fn excuse(&mut self, cx: &Context<'_>, until: MonotonicNs) {
        self.timers.excuse(cx.now.monotonic, until);
    }

    /// Whatever is due at `cx.now`.
    pub fn expire(&mut self, cx: &Context<'_>, out: &mut Effects) {
        while let Some(due) = self.timers.pop_due(cx.now.monotonic) {
            match due {
                Due::Session(id) => self.expire_session(&id, cx, out),
                Due::Join(JoinTimer::Initial { delay_ms, remaining_ms }) => {
                    self.extend_or_complete_initial(delay_ms, remaining_ms, cx, out);
                }
                Due::Join(JoinTimer::Rebalance) => self.complete_join(cx, out),
                Due::Sync => self.expire_sync(cx, out),
            }
        }
    }

    fn expire_session(&mut self, id: &Arc<str>, cx: &Context<'_>, out: &mut Effects) {
        match self.members.get(id) {
            // It waits for us; its session goes on when it is answered.
            Some(member) if member.is_waiting() => return,
            Some(_) => {
                self.remove(id, out);
                if matches!(self.state, State::Stable | State::CompletingRebalance) {
                    self.prepare_rebalance(cx, out);
                    return;
                }
            }
            None => self.remove(id, out),
        }
        if self.state == State::PreparingRebalance && self.all_have_joined() {
            self.complete_join(cx, out);
        }
    }

    /// Members of the generation that have never asked for their assignment are taken for gone.
    fn expire_sync(&mut self, cx: &Context<'_>, out: &mut Effects) {
        let is_joined = matches!(self.state, State::CompletingRebalance | State::Stable);
        if !is_joined || self.pending_syncs.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pending_syncs) {
            self.remove(&id, out);
        }
        self.prepare_rebalance(cx, out);
    }

    pub(super) fn rebalance_or_complete(&mut self, cx: &Context<'_>, out: &mut Effects) {
        if matches!(self.state, State::Empty | State::CompletingRebalance | State::Stable) {
            self.prepare_rebalance(cx, out);
        } else {
            self.complete_if_all_joined(cx, out);
        }
    }

    /// Begins a rebalance. The first one of an empty group waits for a while, as more members are likely to come.
    pub(super) fn prepare_rebalance(&mut self, cx: &Context<'_>, out: &mut Effects) {
        if self.state == State::CompletingRebalance {
            self.take_assignments_back(cx, out);
        }
        self.pending_syncs.clear();
        self.timers.cancel_sync();
        let is_initial = self.state == State::Empty;
        self.go_to(State::PreparingRebalance, cx);
        if is_initial {
            self.new_member_added = false;
            let delay_ms = cx.settings.initial_rebalance_delay_ms;
            let remaining_ms = self.members.rebalance_timeout_ms().saturating_sub(delay_ms);
            self.timers.set_join(after(cx, delay_ms), JoinTimer::Initial { delay_ms, remaining_ms });
        } else if self.all_have_joined() {
            self.complete_join(cx, out);
        } else {
            self.set_join_timer(cx);
        }
    }

    /// Who waits for an assignment joins again instead.
    fn take_assignments_back(&mut self, cx: &Context<'_>, out: &mut Effects) {
        let mut waited = Vec::new();
        for member in self.members.iter_mut() {
            member.assignment = Bytes::new();
            if let Some(ticket) = member.syncing.take() {
                out.reply(ticket, sync_refused(ErrorCode::RebalanceInProgress));
                waited.push(Arc::clone(&member.id));
            }
        }
        for id in waited {
            self.renew_session(&id, cx);
        }
    }

    /// Waits for the members for as long as the most patient of them allows. At least for a millisecond: without it,
    /// a group of absent static members that allow nothing would be looked at again and again at one instant.
    fn set_join_timer(&mut self, cx: &Context<'_>) {
        let wait_ms = self.members.rebalance_timeout_ms().max(1);
        self.timers.set_join(after(cx, wait_ms), JoinTimer::Rebalance);
    }

    /// Delays the initial rebalance once more if somebody has come meanwhile, up to the rebalance timeout in all.
    fn extend_or_complete_initial(
        &mut self,
        delay_ms: u64,
        remaining_ms: u64,
        cx: &Context<'_>,
        out: &mut Effects,
    ) {
        if !self.new_member_added || remaining_ms == 0 {
            self.complete_join(cx, out);
            return;
        }
        self.new_member_added = false;
        let next = JoinTimer::Initial {
            delay_ms: cx.settings.initial_rebalance_delay_ms.min(remaining_ms),
            remaining_ms: remaining_ms.saturating_sub(delay_ms),
        };
        let JoinTimer::Initial { delay_ms, .. } = next else { return };
        self.timers.set_join(after(cx, delay_ms), next);
    }

    fn all_have_joined(&self) -> bool {
        self.members.all_joining() && self.pending_joins.is_empty()
    }

    /// Ends the join phase if nobody is missing; the initial one has its own time.
    pub(super) fn complete_if_all_joined(&mut self, cx: &Context<'_>, out: &mut Effects) {
        if self.state == State::PreparingRebalance && self.previous != State::Empty && self.all_have_joined()
        {
            self.complete_join(cx, out);
        }
    }

    /// Ends the join phase. Dynamic members that have not joined are removed; static ones stay until their session
    /// ends (KIP-345).
    fn complete_join(&mut self, cx: &Context<'_>, out: &mut Effects) {
        self.timers.cancel_join();
        let absent: Vec<Arc<str>> = self
            .members
            .iter()
            .filter(|member| !member.is_joining() && member.instance_id.is_none())
            .map(|member| Arc::clone(&member.id))
            .collect();
        for id in absent {
            self.remove(&id, out);
        }
        if !self.members.elect_joined_leader() && !self.members.is_empty() {
            self.set_join_timer(cx);
            return;
        }
        self.begin_generation(cx);
        if self.state == State::Empty {
            out.records.push(self.record());
        } else {
            self.answer_joins(cx, out);
        }
    }

    fn begin_generation(&mut self, cx: &Context<'_>) {
        self.generation = self.generation.saturating_add(1);
        self.protocol_name = self.members.select_protocol();
        self.read_subscriptions();
        self.pending_syncs.clear();
        let next = if self.members.is_empty() { State::Empty } else { State::CompletingRebalance };
        self.go_to(next, cx);
    }

    fn answer_joins(&mut self, cx: &Context<'_>, out: &mut Effects) {
        for id in self.members.ids() {
            if let Some(ticket) = self.members.take_joining(&id) {
                let reply = self.joined(&id, self.members.is_leader(&id));
                out.reply(ticket, GroupReply::Join(reply));
            }
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
            }
            self.renew_session(&id, cx);
            self.pending_syncs.insert(id);
        }
        self.timers.set_sync(after(cx, self.members.rebalance_timeout_ms()));
    }
}

fn after(cx: &Context<'_>, milliseconds: u64) -> MonotonicNs {
    cx.now.monotonic.plus_ns(milliseconds.saturating_mul(NS_PER_MS))
}
