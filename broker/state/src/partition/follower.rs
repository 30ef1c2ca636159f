//! A replica that follows: what it takes from its leader, and what it cuts off before.
//!
//! | state | event | next state | what is to be done |
//! |---|---|---|---|
//! | any | `follow`, newer epoch | matching | ask the leader where the own last epoch ends |
//! | any | `follow`, same or older epoch | the same | nothing |
//! | matching | answer: nothing to cut | following | tell the ends, with `rewind` |
//! | matching | answer: cut at an end | cutting, then following | cut the log there, or empty it if it starts behind |
//! | matching | answer: an epoch that is unknown here | cutting, then matching | cut, then ask again (KIP-279) |
//! | matching, following | the leader's oldest batch lies behind the own end | resetting, then following | empty the log, start there |
//! | cutting, resetting | `on_log_changed` | as said above | ask, or tell the ends |
//! | following | push that begins at the end | following | append, maybe move the start |
//! | following | push that begins before the end | following | append what is new, if anything |
//! | following | push whose first batch, of deleted records, has the end inside | resetting, then following | empty the log, start with it |
//! | following | push that begins behind the end | following | tell the ends, with `rewind` |
//! | any other | push | the same | nothing; it will come again |
//!
//! While the log is being cut or emptied a new epoch waits with its question. The high watermark moves only while
//! following, that is, only over a log that is a prefix of the leader's (KAFKA-14704), to what is counted here as safe
//! at the most; a cut takes it back to the new end, and emptying the log sets it to the new start (KAFKA-9491).

use std::fmt;

use logmill_wire::ids::{LeaderEpoch, MonotonicNs, NodeId, Offset, TimestampMs, Uuid};
use logmill_wire::record_batch::BatchHeader;

use super::epochs::EpochEnd;
use super::errors::{EpochCheckError, FetchCheckError, ReplayError, StaleEpoch};
use super::leader::Leader;
use super::producers::ProducerStates;
use super::replicas::{FollowerEnds, LeaderEffects, ReplicaAssignment, ReplicationPolicy};

/// A question to the leader: where does `last_epoch` end in its log?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DivergenceQuery {
    /// The epoch that is followed.
    pub leader_epoch: LeaderEpoch,
    /// The epoch that is asked about; [`LeaderEpoch::NONE`] of a log without any.
    pub last_epoch: LeaderEpoch,
    /// The end of the own log: an answer to an earlier question, of a shorter log, must not cut this one.
    pub log_end: Offset,
}

/// The leader's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DivergenceAnswer {
    /// The question.
    pub query: DivergenceQuery,
    /// Where the epoch ends ([`Leader::on_divergence_query`]).
    pub end: EpochEnd,
    /// The first offset of the oldest batch that the leader has: at or before its log's start.
    pub first_offset: Offset,
}

/// What a leader says along with record batches, or without any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Push {
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// Where the batches begin: the end of what was pushed before.
    pub from: Offset,
    /// The leader's high watermark.
    pub high_watermark: Offset,
    /// Where the leader's log starts.
    pub log_start: Offset,
    /// The first offset of the oldest batch that the leader has: at or before its log's start.
    pub first_offset: Offset,
}

/// A change of the log that takes the driver time; [`Follower::on_log_changed`] reports that it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogChange {
    /// Remove every batch that ends behind `to`, and zero what they took.
    Cut {
        /// The new end, at the most.
        to: Offset,
    },
    /// Remove everything; the log starts at `start`.
    Reset {
        /// The new start and end.
        start: Offset,
    },
}

/// What the driver has to do for a follower, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FollowerEffects {
    /// Change the log; nothing else happens before it is reported.
    pub change: Option<LogChange>,
    /// Offsets that were below the high watermark are cut off: an unclean election has lost them, which is to be
    /// reported.
    pub lost_committed: Option<(Offset, Offset)>,
    /// Append these of the batches of the push, `skip` of them first left out.
    pub append: Option<Batches>,
    /// Move the log's start here, and call [`Follower::advance_log_start`] when that is durable.
    pub log_start: Option<Offset>,
    /// The high watermark has moved.
    pub high_watermark_moved: bool,
    /// Ask the leader.
    pub query: Option<DivergenceQuery>,
    /// Tell the leader the ends.
    pub answer: Option<FollowerEnds>,
}

/// Which batches of a push are appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batches {
    /// How many are left out at the beginning: they are here already.
    pub skip: usize,
    /// How many follow.
    pub count: usize,
}

/// Why a push is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PushError {
    /// The sender led in an epoch that is over; it has to stop.
    FencedLeaderEpoch {
        /// The epoch that is followed.
        current: LeaderEpoch,
    },
    /// The metadata here are older than the sender's; they will come.
    UnknownLeaderEpoch {
        /// The epoch that is followed.
        current: LeaderEpoch,
    },
    /// The batches contradict themselves, or this log: the connection is to be dropped.
    Batch(ReplayError),
    /// The log here is no prefix of the leader's; it is matched anew.
    Diverged {
        /// The batch that is another one here.
        base_offset: Offset,
    },
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FencedLeaderEpoch { current } => {
                write!(f, "the sender's leader epoch is over, it is {current} now")
            }
            Self::UnknownLeaderEpoch { current } => {
                write!(f, "the sender's leader epoch is newer than {current}; the metadata here are behind")
            }
            Self::Batch(error) => error.fmt(f),
            Self::Diverged { base_offset } => {
                write!(f, "the leader has another batch at offset {base_offset}; the log is matched anew")
            }
        }
    }
}

impl std::error::Error for PushError {}

/// Why a follower cannot become the leader now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeadError {
    /// Its log is being cut or emptied; try again when that is done.
    LogIsChanging,
    /// The log has seen this epoch or a later one.
    Stale(StaleEpoch),
}

impl fmt::Display for LeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogIsChanging => f.write_str("the log is being truncated"),
            Self::Stale(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LeadError {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No leader is known.
    Idle,
    Matching,
    /// The log is changing; then it matches, or follows.
    Changing {
        change: LogChange,
        then_follow: bool,
    },
    Following,
}

/// A replica that follows; see the module's table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Follower {
    log: Leader,
    write_caching: bool,
    state: State,
    leader_epoch: LeaderEpoch,
    /// Ends of what survives the process, and of what survives a power loss.
    written: Offset,
    durable: Offset,
    /// What the leader of this epoch has said at the most.
    leader_high_watermark: Offset,
    /// Where it has said at the most that its log starts: records are deleted here once they are committed here.
    leader_log_start: Offset,
}

impl Default for Follower {
    fn default() -> Self {
        Self::recovered(Leader::default(), false)
    }
}

impl Follower {
    /// A replica whose log was read back at a restart. Its high watermark is not known then: what lies in the log may
    /// never have been committed.
    #[must_use]
    pub fn recovered(mut log: Leader, write_caching: bool) -> Self {
        log.high_watermark = log.log_start_offset;
        Self::demoted(log, write_caching)
    }

    /// A replica that led until now.
    #[must_use]
    pub fn demoted(mut log: Leader, write_caching: bool) -> Self {
        log.replicas = None;
        let (leader_epoch, counted) = (log.leader_epoch, log.durable_end);
        Self {
            written: counted,
            durable: counted,
            leader_high_watermark: log.high_watermark,
            leader_log_start: log.log_start_offset,
            log,
            write_caching,
            state: State::Idle,
            leader_epoch,
        }
    }

    /// Takes over a changed `write.caching`.
    pub fn set_write_caching(&mut self, write_caching: bool) {
        self.write_caching = write_caching;
    }

    /// The log's state: its ends, epochs and producers, for reads (KIP-392) and checkpoints.
    #[must_use]
    pub fn log(&self) -> &Leader {
        &self.log
    }

    /// The epoch that is followed.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// Whether the log is a prefix of the leader's: consumers may only read from such a follower (KIP-392).
    #[must_use]
    pub fn is_following(&self) -> bool {
        self.state == State::Following
    }

    /// Follows the leader of `epoch`. The driver sends the question to that leader, again with [`Follower::query`] when
    /// its connection was lost.
    pub fn follow(&mut self, epoch: LeaderEpoch) -> FollowerEffects {
        let is_known = epoch < self.leader_epoch || (epoch == self.leader_epoch && self.state != State::Idle);
        if is_known {
            return FollowerEffects::default();
        }
        self.leader_epoch = epoch;
        self.leader_high_watermark = self.log.high_watermark;
        self.leader_log_start = self.log.log_start_offset;
        if let State::Changing { then_follow, .. } = &mut self.state {
            *then_follow = false;
            return FollowerEffects::default();
        }
        self.state = State::Matching;
        FollowerEffects { query: self.query(), ..FollowerEffects::default() }
    }

    /// The question that is open.
    #[must_use]
    pub fn query(&self) -> Option<DivergenceQuery> {
        let last_epoch = self.log.epochs.latest().map_or(LeaderEpoch::NONE, |latest| latest.epoch);
        let query =
            DivergenceQuery { leader_epoch: self.leader_epoch, last_epoch, log_end: self.log.next_offset };
        (self.state == State::Matching).then_some(query)
    }

    /// Leads from now on.
    ///
    /// # Errors
    /// [`LeadError`], and the follower as it was.
    #[expect(clippy::result_large_err, reason = "the follower is given back; leading is seldom")]
    pub fn lead(
        mut self,
        local: (NodeId, Uuid),
        assignment: &ReplicaAssignment,
        policy: ReplicationPolicy,
        now: MonotonicNs,
    ) -> Result<(Leader, LeaderEffects), (Self, LeadError)> {
        if matches!(self.state, State::Changing { .. }) {
            return Err((self, LeadError::LogIsChanging));
        }
        if assignment.leader_epoch <= self.leader_epoch {
            let (current, requested) = (self.leader_epoch, assignment.leader_epoch);
            return Err((self, LeadError::Stale(StaleEpoch { current, requested })));
        }
        match self.log.lead(local, assignment, policy, now) {
            Ok(effects) => Ok((self.log, effects)),
            Err(stale) => Err((self, LeadError::Stale(stale))),
        }
    }

    /// Takes the leader's answer; one to another question changes nothing.
    pub fn on_divergence_answer(&mut self, answer: &DivergenceAnswer) -> FollowerEffects {
        if self.query() != Some(answer.query) {
            return FollowerEffects::default();
        }
        let own_end = self.log.next_offset;
        if answer.first_offset > own_end {
            return self.change(LogChange::Reset { start: answer.first_offset }, answer.first_offset, true);
        }
        let (to, is_matched) = if answer.query.last_epoch == LeaderEpoch::NONE {
            (self.log.log_start_offset, true)
        } else if answer.end.is_undefined() {
            // The leader cannot say; nothing beyond the high watermark is vouched for.
            (self.log.high_watermark, true)
        } else {
            let own = self.log.epochs.end_offset_for(answer.end.epoch, own_end);
            if own.epoch == answer.end.epoch {
                (own.end_offset.min(answer.end.end_offset), true)
            } else {
                (own.end_offset, false)
            }
        };
        if to < self.log.log_start_offset {
            return self.change(LogChange::Reset { start: to }, to, is_matched);
        }
        if to < own_end {
            return self.change(LogChange::Cut { to }, to, is_matched);
        }
        // An epoch that began here and got no records has no place in the leader's log.
        self.forget_epochs_from(own_end);
        self.go_on(is_matched)
    }

    fn forget_epochs_from(&mut self, end: Offset) {
        self.log.epochs.truncate_from_end(end);
        self.log.leader_epoch = self.log.epochs.latest().map_or(LeaderEpoch::NONE, |latest| latest.epoch);
    }

    fn go_on(&mut self, is_matched: bool) -> FollowerEffects {
        if is_matched {
            self.state = State::Following;
            return FollowerEffects { answer: Some(self.ends(true)), ..FollowerEffects::default() };
        }
        self.state = State::Matching;
        FollowerEffects { query: self.query(), ..FollowerEffects::default() }
    }

    /// `deleted_to` is how far the leader says records were deleted.
    fn change(&mut self, change: LogChange, deleted_to: Offset, then_follow: bool) -> FollowerEffects {
        self.state = State::Changing { change, then_follow };
        let (LogChange::Cut { to: end } | LogChange::Reset { start: end }) = change;
        let (lost_from, high_watermark) = (end.max(deleted_to), self.log.high_watermark);
        let lost_committed = (lost_from < high_watermark).then_some((lost_from, high_watermark));
        FollowerEffects { change: Some(change), lost_committed, ..FollowerEffects::default() }
    }

    /// Takes note that a change of the log is durable, and that the log ends at `end` now: at or before where it was to
    /// be cut, for batches are cut whole. `producers` are those of the log as it is now, made anew from
    /// its batches: what was cut off may have been their last.
    ///
    /// # Panics
    /// If it is not the change that was asked for, or the log ends behind it.
    pub fn on_log_changed(
        &mut self,
        change: LogChange,
        end: Offset,
        producers: ProducerStates,
    ) -> FollowerEffects {
        let State::Changing { change: asked, then_follow } = self.state else {
            panic!("{change:?} was not asked for")
        };
        assert_eq!(change, asked, "another change of the log was asked for");
        let (LogChange::Cut { to: most } | LogChange::Reset { start: most }) = change;
        assert!(end <= most, "the log ends at {end} after {change:?}");
        let is_emptied = matches!(change, LogChange::Reset { .. }) || end < self.log.log_start_offset;
        if is_emptied {
            self.log = Leader::starting_at(end);
            (self.written, self.durable) = (end, end);
        } else {
            self.forget_epochs_from(end);
            self.log.high_watermark = self.log.high_watermark.min(end);
            self.log.durable_end = self.log.durable_end.min(end);
            self.log.next_offset = end;
            (self.written, self.durable) = (self.written.min(end), self.durable.min(end));
        }
        self.log.producers = producers;
        self.leader_high_watermark = self.log.high_watermark;
        self.leader_log_start = self.log.log_start_offset;
        self.log.assert_order();
        self.go_on(then_follow)
    }

    /// Takes a push; `batches` are the headers of its batches, whose checksums the driver has checked. What the effects
    /// say is to be appended has been taken note of.
    ///
    /// # Errors
    /// [`PushError`]; nothing is appended then.
    pub fn on_push(&mut self, push: &Push, batches: &[BatchHeader]) -> Result<FollowerEffects, PushError> {
        let current = self.leader_epoch;
        if push.leader_epoch < current {
            return Err(PushError::FencedLeaderEpoch { current });
        }
        if push.leader_epoch > current {
            return Err(PushError::UnknownLeaderEpoch { current });
        }
        if self.state != State::Following {
            return Ok(FollowerEffects { query: self.query(), ..FollowerEffects::default() });
        }
        if push.first_offset > self.log.next_offset {
            return Ok(self.change(LogChange::Reset { start: push.first_offset }, push.log_start, true));
        }
        if push.from > self.log.next_offset {
            return Ok(FollowerEffects { answer: Some(self.ends(true)), ..FollowerEffects::default() });
        }
        if let Some(start) = self.straddled(push, batches) {
            return Ok(self.change(LogChange::Reset { start }, push.log_start, true));
        }
        let skip = self.check_batches(push, batches)?;
        for header in batches.get(skip..).unwrap_or_default() {
            self.log.apply_batch(header);
        }
        let appended = Batches { skip, count: batches.len() - skip };
        self.leader_high_watermark = self.leader_high_watermark.max(push.high_watermark);
        let high_watermark_moved = self.raise_high_watermark();
        self.leader_log_start = self.leader_log_start.max(push.log_start);
        Ok(FollowerEffects {
            append: (appended.count > 0).then_some(appended),
            log_start: self.log_start_to_come(),
            high_watermark_moved,
            answer: Some(self.ends(false)),
            ..FollowerEffects::default()
        })
    }

    /// The start of a batch that this log's end lies in, if the records before it are none that must stay: deleted ones,
    /// with whose batch the leader's log begins, so that it no longer tells of which epoch they were.
    fn straddled(&self, push: &Push, batches: &[BatchHeader]) -> Option<Offset> {
        let end = self.log.next_offset;
        let first = batches.first()?;
        let is_inside = first.base_offset < end && first.base_offset.0 >= 0 && first.last_offset_delta >= 0;
        let ends_behind = end.0 - first.base_offset.0 <= i64::from(first.last_offset_delta);
        let is_deleted = self.log.log_start_offset == end || first.base_offset < push.log_start;
        (is_inside && ends_behind && is_deleted).then_some(first.base_offset)
    }

    /// How many of the batches are here already. All of them must follow one another, and go on where this log ends.
    fn check_batches(&mut self, push: &Push, batches: &[BatchHeader]) -> Result<usize, PushError> {
        let (mut next, mut epoch, mut skip) = (push.from, LeaderEpoch(0), 0);
        for header in batches {
            let (base_offset, leader_epoch) = (header.base_offset, header.leader_epoch);
            let last = base_offset.0.checked_add(i64::from(header.last_offset_delta));
            let Some(last) =
                last.filter(|&last| last < i64::MAX && header.last_offset_delta >= 0 && base_offset >= next)
            else {
                return Err(PushError::Batch(ReplayError::Offsets { base_offset, log_end_offset: next }));
            };
            if leader_epoch < epoch || leader_epoch > push.leader_epoch {
                return Err(PushError::Batch(ReplayError::Epoch { leader_epoch, current: epoch }));
            }
            if header.producer_id.0 >= 0 && header.producer_epoch.0 < 0 {
                return Err(PushError::Batch(ReplayError::Producer { base_offset }));
            }
            (next, epoch) = (Offset(last + 1), leader_epoch);
            if next <= self.log.next_offset {
                let is_same = base_offset < self.log.log_start_offset
                    || self.log.epochs.epoch_at(base_offset).is_none_or(|here| here == leader_epoch);
                if !is_same {
                    return Err(self.diverged(base_offset));
                }
                skip += 1;
            } else if base_offset < self.log.next_offset || leader_epoch < self.log.leader_epoch {
                return Err(self.diverged(base_offset));
            }
        }
        Ok(skip)
    }

    fn diverged(&mut self, base_offset: Offset) -> PushError {
        self.state = State::Matching;
        PushError::Diverged { base_offset }
    }

    /// Takes note of what has been written and of what is durable; ends below the known ones change nothing.
    ///
    /// # Panics
    /// If an end is above the log's.
    pub fn advance_ends(&mut self, written: Offset, durable: Offset) -> FollowerEffects {
        self.written = self.written.max(written).max(durable);
        self.durable = self.durable.max(durable);
        self.log.note_durable(if self.write_caching { self.written } else { self.durable });
        let high_watermark_moved = self.is_following() && self.raise_high_watermark();
        let answer = self.is_following().then(|| self.ends(false));
        let log_start = self.log_start_to_come().filter(|_| self.is_following());
        FollowerEffects { high_watermark_moved, log_start, answer, ..FollowerEffects::default() }
    }

    fn log_start_to_come(&self) -> Option<Offset> {
        let start = self.leader_log_start.min(self.log.high_watermark);
        (start > self.log.log_start_offset).then_some(start)
    }

    fn raise_high_watermark(&mut self) -> bool {
        let end = self.leader_high_watermark.min(self.log.durable_end);
        let moved = end > self.log.high_watermark;
        self.log.high_watermark = self.log.high_watermark.max(end);
        self.log.assert_order();
        moved
    }

    /// Whether a fetch from `offset` can be answered, as [`Leader::check_fetch`] has it; the epoch is the one that is
    /// followed (KIP-392).
    ///
    /// # Errors
    /// [`FetchCheckError`].
    pub fn check_fetch(
        &self,
        offset: Offset,
        current_leader_epoch: LeaderEpoch,
        last_fetched_epoch: LeaderEpoch,
    ) -> Result<(), FetchCheckError> {
        let (requested, current) = (current_leader_epoch, self.leader_epoch);
        if requested != LeaderEpoch::NONE && requested < current {
            return Err(FetchCheckError::Epoch(EpochCheckError::FencedLeaderEpoch { current }));
        }
        if requested > current {
            return Err(FetchCheckError::Epoch(EpochCheckError::UnknownLeaderEpoch { current }));
        }
        self.log.check_fetch(offset, LeaderEpoch::NONE, last_fetched_epoch)
    }

    /// Forgets producers that were idle for `expiration_ms`; see [`ProducerStates::expire`].
    pub fn expire_producers(&mut self, now: TimestampMs, expiration_ms: i64) -> usize {
        self.log.expire_producers(now, expiration_ms)
    }

    /// Takes note that the log starts at `start`, which an effect has asked for.
    pub fn advance_log_start(&mut self, start: Offset) {
        // Below the high watermark, which only a cut takes back; then the start is moved again when it comes again.
        let _ = self.log.advance_log_start(start.min(self.log.high_watermark));
    }

    /// What the leader is told.
    #[must_use]
    pub fn ends(&self, rewind: bool) -> FollowerEnds {
        FollowerEnds {
            log_end: self.log.next_offset,
            written: self.written,
            durable: self.durable,
            log_start: self.log.log_start_offset,
            rewind,
        }
    }
}
