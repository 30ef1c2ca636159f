//! What a follower takes from its leader, and tells it.
//!
//! A push is taken batch by batch, each with its place in the log made first: the state and the log move together.

use super::hosted::Partition;
use super::peers::Peer;
use super::replica::Replicated;
use crate::runtime::{Runtime, oneshot};
use bytes::Bytes;
use logmill_state::metadata::NO_LEADER;
use logmill_state::partition::{
    DivergenceAnswer, DivergenceQuery, EpochEnd, FollowerEffects, FollowerEnds, LogChange, Push, PushError,
};
use logmill_wire::frame::replication::{EpochAnswer, EpochQuery, PartitionEnds, PushedPartition};
use logmill_wire::ids::Offset;
use logmill_wire::record_batch::{BatchError, BatchHeader, BatchView, validate_stored_header};
use std::rc::Rc;
use std::time::Duration;

/// How long after a log could not be cut it is tried again.
const CHANGE_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A push that waits, or is being taken.
pub(super) struct QueuedPush {
    entry: PushedPartition,
    /// The batches that are not taken yet.
    rest: Bytes,
    /// Dropped when all of the frame's pushes are taken.
    _taken: Rc<oneshot::Sender<()>>,
}

/// The rest of a push is of no use.
struct Dropped;

/// How far pushes were taken.
enum Progress {
    /// All are.
    Done,
    /// The next batch needs room.
    Room(u64),
    /// Offsets are missing before the next batch, which ends here: a restart must know that this is right.
    Gap(Offset),
    /// Others have to have their turn.
    Yield,
}

impl<R: Runtime> Partition<R> {
    /// Takes a push of the leader, or queues it.
    pub(super) fn on_push(
        self: &Rc<Self>,
        from: Peer,
        entry: PushedPartition,
        batches: Bytes,
        taken: Rc<oneshot::Sender<()>>,
    ) {
        let Some(replicated) = self.replicated.get() else { return };
        // What is asked for again anyway would only be refused once more, as fast as the leader can push it.
        if self.is_gone() || from.node != replicated.leader() || replicated.must_rewind.get() {
            return;
        }
        replicated.pushes.borrow_mut().push_back(QueuedPush { entry, rest: batches, _taken: taken });
        if !self.preparing.get() && !matches!(self.take_pushes(replicated), Progress::Done) {
            self.start_preparing();
        }
    }

    /// Makes room for pushes, and changes the log as its leader's demands it. False if there is nothing to do.
    pub(super) async fn follow_on(self: &Rc<Self>, replicated: &Replicated) -> bool {
        if let Some(change) = replicated.change.take() {
            self.change_log(replicated, change).await;
            return true;
        }
        let outcome = match self.take_pushes(replicated) {
            Progress::Done => return false,
            Progress::Yield => {
                self.runtime.yield_now().await;
                Ok(())
            }
            Progress::Room(bytes) => {
                let (now, settings) = (self.runtime.wall_clock(), self.log_settings.get());
                let next_offset = self.role.borrow().log().next_offset();
                self.log.prepare(bytes, next_offset, now, &settings).await
            }
            Progress::Gap(end) => self.log.expect_gaps_below(end).await,
        };
        if let Err(error) = outcome {
            // The leader begins again where this log ends, a little later.
            tracing::warn!(log = %self.log.key(), %error, "what the leader has pushed cannot be appended; it is asked for again");
            replicated.forget_pushes();
            replicated.must_rewind.set(true);
        }
        true
    }

    fn take_pushes(self: &Rc<Self>, replicated: &Replicated) -> Progress {
        loop {
            let Some((entry, rest)) =
                replicated.pushes.borrow().front().map(|push| (push.entry, push.rest.clone()))
            else {
                return Progress::Done;
            };
            match self.take_one(replicated, entry, &rest) {
                Ok(Some(progress)) => return progress,
                Ok(None) => {}
                Err(Dropped) => {
                    replicated.pushes.borrow_mut().pop_front();
                    continue;
                }
            }
            self.step_over_first(replicated, &rest);
            if self.runtime.should_yield() {
                return Progress::Yield;
            }
        }
    }

    /// Takes note that the first batch of the first push was taken.
    fn step_over_first(&self, replicated: &Replicated, rest: &Bytes) {
        let mut pushes = replicated.pushes.borrow_mut();
        let header = BatchHeader::parse(rest);
        let taken = header.and_then(|header| header.total_bytes()).filter(|&bytes| bytes < rest.len());
        match (taken, header, pushes.front_mut()) {
            (Some(bytes), Some(header), Some(push)) => {
                push.rest = rest.slice(bytes..);
                push.entry.from = header.next_offset();
            }
            _ => drop(pushes.pop_front()),
        }
    }

    /// Takes the first batch, or what a push without batches says. An error ends the push.
    fn take_one(
        self: &Rc<Self>,
        replicated: &Replicated,
        entry: PushedPartition,
        rest: &Bytes,
    ) -> Result<Option<Progress>, Dropped> {
        let batch = match rest.is_empty() {
            true => None,
            false => {
                let batch =
                    BatchView::first(rest).and_then(|batch| validate_stored_header(&batch).map(|()| batch));
                let refuse = |error: BatchError| {
                    self.refuse_push(replicated, &error.to_string());
                    Dropped
                };
                Some(batch.map_err(refuse)?)
            }
        };
        let mut role = self.role.borrow_mut();
        let Some(follower) = role.follower_mut() else { return Err(Dropped) };
        let now = self.runtime.wall_clock();
        if let Some(batch) = &batch {
            let (header, bytes) = (batch.header(), batch.bytes().len() as u64);
            let next_offset = follower.log().next_offset();
            let goes_on = header.next_offset() > next_offset && follower.is_following();
            if goes_on && !self.log.can_append(bytes, now, &self.log_settings.get()) {
                return Ok(Some(Progress::Room(bytes)));
            }
            let leaves_gap = header.base_offset > next_offset && entry.from <= next_offset;
            if goes_on && leaves_gap && !self.log.expects_gaps_below(header.base_offset) {
                return Ok(Some(Progress::Gap(header.base_offset)));
            }
        }
        let push = Push {
            leader_epoch: entry.leader_epoch,
            from: entry.from,
            high_watermark: entry.high_watermark,
            log_start: entry.log_start,
            first_offset: entry.first_offset,
        };
        let headers: &[BatchHeader] =
            batch.as_ref().map_or(&[], |batch| std::slice::from_ref(batch.header()));
        let effects = match follower.on_push(&push, headers) {
            Ok(effects) => effects,
            Err(error) => {
                let query = follower.query();
                drop(role);
                self.after_refusal(replicated, error, query);
                return Err(Dropped);
            }
        };
        let mut written = None;
        if let (Some(_), Some(batch)) = (effects.append, &batch) {
            let write_caching = self.policy.get().log.write_caching;
            let is_written = self.log.append(batch.header(), batch.bytes(), now, write_caching);
            written = is_written.then(|| batch.header().next_offset());
        }
        drop(role);
        let ends_here = effects.change.is_some() || effects.answer.is_some_and(|ends| ends.rewind);
        // A batch that was appended is told of when it is written, or durable; that nothing came is not worth telling.
        let is_known = batch.is_some() && effects.append.is_none();
        let is_last = rest.len() == batch.as_ref().map_or(0, |batch| batch.bytes().len());
        let answer = effects.answer.filter(|ends| ends.rewind || (is_known && is_last));
        // The open question is asked again in its time.
        self.after_following(replicated, FollowerEffects { answer, query: None, ..effects });
        if let Some(end) = written {
            self.followed_to(end, Offset(0));
        }
        if ends_here { Err(Dropped) } else { Ok(None) }
    }

    fn after_refusal(
        self: &Rc<Self>,
        replicated: &Replicated,
        error: PushError,
        query: Option<DivergenceQuery>,
    ) {
        match error {
            // Metadata are on their way, to this broker or to that one.
            PushError::FencedLeaderEpoch { .. } | PushError::UnknownLeaderEpoch { .. } => {
                tracing::debug!(log = %self.log.key(), %error, "a push is not taken");
            }
            PushError::Batch(_) => self.refuse_push(replicated, &error.to_string()),
            PushError::Diverged { .. } => {
                tracing::warn!(log = %self.log.key(), %error, "a push is not taken");
                self.after_following(replicated, FollowerEffects { query, ..FollowerEffects::default() });
            }
        }
    }

    /// A push that no leader of sound mind sends, or that was hurt on its way; it is asked for again a little later.
    fn refuse_push(&self, replicated: &Replicated, error: &str) {
        tracing::error!(log = %self.log.key(), leader = %replicated.leader(), error, "a push has wrong batches; they are asked for again");
        replicated.forget_pushes();
        replicated.must_rewind.set(true);
    }

    /// The leader's answer to where the logs part.
    pub(super) fn on_answer(self: &Rc<Self>, from: Peer, answer: &EpochAnswer) {
        let Some(replicated) = self.replicated.get() else { return };
        if self.is_gone() || from.node != replicated.leader() {
            return;
        }
        let query = answer.query;
        let answer = DivergenceAnswer {
            query: DivergenceQuery {
                leader_epoch: query.leader_epoch,
                last_epoch: query.last_epoch,
                log_end: query.log_end,
            },
            end: EpochEnd { epoch: answer.epoch, end_offset: answer.end_offset },
            first_offset: answer.first_offset,
        };
        let effects = match self.role.borrow_mut().follower_mut() {
            Some(follower) => follower.on_divergence_answer(&answer),
            None => return,
        };
        self.after_following(replicated, effects);
    }

    /// Does what the follower's state asks for, but for appends.
    pub(super) fn after_following(self: &Rc<Self>, replicated: &Replicated, effects: FollowerEffects) {
        if let Some((from, to)) = effects.lost_committed {
            tracing::error!(log = %self.log.key(), %from, %to, "an unclean election has lost records that were committed");
        }
        if let Some(change) = effects.change {
            replicated.change.set(Some(change));
            self.start_preparing();
        }
        self.start_as_leader(effects.log_start);
        if effects.high_watermark_moved {
            self.watchers.wake(self.role.borrow().log().high_watermark());
        }
        if let Some(query) = effects.query {
            self.ask(replicated, query);
        }
        if let Some(ends) = effects.answer {
            self.tell(replicated, ends);
        }
    }

    fn start_as_leader(&self, start: Option<Offset>) {
        if let Some(start) = start
            && let Err(error) = self.log.advance_start(start)
        {
            tracing::warn!(log = %self.log.key(), %error, "the log's start could not be moved behind its leader's");
        }
    }

    /// Takes note of what was written here, and of what is durable, and tells the leader.
    pub(super) fn followed_to(&self, written: Offset, durable: Offset) {
        let mut role = self.role.borrow_mut();
        let Some(follower) = role.follower_mut() else { return };
        let end = follower.log().next_offset();
        let effects = follower.advance_ends(written.min(end), durable.min(end));
        let high_watermark = follower.log().high_watermark();
        drop(role);
        let Some(replicated) = self.replicated.get() else { return };
        self.start_as_leader(effects.log_start);
        if effects.high_watermark_moved {
            self.watchers.wake(high_watermark);
        }
        if let Some(ends) = effects.answer {
            self.tell(replicated, ends);
        }
    }

    /// Changes the log as the leader's demands it.
    async fn change_log(self: &Rc<Self>, replicated: &Replicated, change: LogChange) {
        let truncated = match self.log.truncate(change).await {
            Ok(truncated) => truncated,
            Err(_) if self.is_gone() => return,
            Err(error) => {
                tracing::error!(log = %self.log.key(), ?change, %error, "the log could not be cut to where its leader's goes on; it is tried again");
                self.runtime.sleep(CHANGE_AGAIN_AFTER).await;
                replicated.change.set(Some(change));
                return;
            }
        };
        // Nothing is awaited between the log's change and the state's.
        let effects = match self.role.borrow_mut().follower_mut() {
            Some(follower) => follower.on_log_changed(change, truncated.end, truncated.producers),
            None => return,
        };
        self.after_following(replicated, effects);
        if replicated.leader() == replicated.placed().local.0 {
            // It was to lead meanwhile.
            self.assume_role(replicated);
        }
    }

    /// Says again to the leader what it has to know: the open question, or where it has to go on.
    pub(super) fn say_again(&self, replicated: &Replicated, rewind: bool) {
        let (query, ends) = match self.role.borrow_mut().follower_mut() {
            Some(follower) => (follower.query(), follower.is_following().then(|| follower.ends(rewind))),
            None => return,
        };
        if let Some(query) = query {
            self.ask(replicated, query);
        }
        if let Some(ends) = ends {
            self.tell(replicated, ends);
        }
    }

    fn ask(&self, replicated: &Replicated, query: DivergenceQuery) {
        let leader = replicated.leader();
        if leader != NO_LEADER {
            let DivergenceQuery { leader_epoch, last_epoch, log_end } = query;
            let partition = self.log.key();
            replicated.peers.ask(leader, EpochQuery { partition, leader_epoch, last_epoch, log_end });
        }
    }

    fn tell(&self, replicated: &Replicated, ends: FollowerEnds) {
        let leader = replicated.leader();
        let leader_epoch = match self.role.borrow_mut().follower_mut() {
            Some(follower) => follower.leader_epoch(),
            None => return,
        };
        if leader == NO_LEADER {
            return;
        }
        let FollowerEnds { log_end, written, durable, log_start, rewind } = ends;
        let partition = self.log.key();
        replicated.peers.tell_ends(
            leader,
            PartitionEnds { partition, leader_epoch, log_end, written, durable, log_start, rewind },
        );
    }
}
