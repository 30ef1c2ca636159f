//! The leader of one partition.
//!
//! | event | what moves |
//! |---|---|
//! | `begin_epoch` | the leader epoch rises; nothing may be appended before the first one |
//! | `apply_batch` | the log's end, the producers' states; the epoch, in a replay |
//! | `advance_durable` | the durable end, and with it the high watermark |
//! | `advance_log_start` | the log's start |
//!
//! What moves with followers is in the table of `replicas.rs`. A partition of one replica has none of it: its high
//! watermark is its durable end.
//!
//! Always: log start ≤ high watermark ≤ durable end ≤ log end, none of them ever goes back, and every epoch
//! of the history begins at or before the log's end.

use logmill_wire::ids::{LeaderEpoch, Offset, TimestampMs};
use logmill_wire::record_batch::BatchHeader;

use super::append::{AppendDecision, AppendError, AppendOrigin, AppendPolicy};
use super::epochs::{EpochEnd, EpochHistory};
use super::errors::{EpochCheckError, FetchCheckError, LogStartError, ReplayError, StaleEpoch};
use super::producers::{ProducerDecision, ProducerStates};
use super::replicas::Replicas;

/// What a reader may see (`isolation_level` of Fetch and ListOffsets).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// Everything below the high watermark, aborted transactions included.
    #[default]
    ReadUncommitted,
    /// Everything below the last stable offset.
    ReadCommitted,
}

/// The state of a partition's leader; see the module's table for what moves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    pub(super) log_start_offset: Offset,
    pub(super) next_offset: Offset,
    pub(super) durable_end: Offset,
    pub(super) high_watermark: Offset,
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) epochs: EpochHistory,
    pub(super) producers: ProducerStates,
    /// The followers and the in-sync set, if there are others than this broker.
    pub(super) replicas: Option<Box<Replicas>>,
}

impl Default for Leader {
    fn default() -> Self {
        Self::starting_at(Offset(0))
    }
}

impl Leader {
    /// An empty log that starts and ends at `offset`, without an epoch.
    ///
    /// # Panics
    /// If `offset` is negative.
    #[must_use]
    pub fn starting_at(offset: Offset) -> Self {
        assert!(offset.0 >= 0, "a log cannot start at offset {offset}");
        Self {
            log_start_offset: offset,
            next_offset: offset,
            durable_end: offset,
            high_watermark: offset,
            leader_epoch: LeaderEpoch::NONE,
            epochs: EpochHistory::default(),
            producers: ProducerStates::default(),
            replicas: None,
        }
    }

    /// The first offset that can be read.
    #[must_use]
    pub fn log_start_offset(&self) -> Offset {
        self.log_start_offset
    }

    /// The log's end: the offset that the next record gets.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Everything below is on this broker's disk.
    #[must_use]
    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// Everything below is on every in-sync replica, and never changes.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The current epoch, [`LeaderEpoch::NONE`] before the first.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// Which epoch began where.
    #[must_use]
    pub fn epochs(&self) -> &EpochHistory {
        &self.epochs
    }

    /// What is remembered of the idempotent producers.
    #[must_use]
    pub fn producers(&self) -> &ProducerStates {
        &self.producers
    }

    /// Decides what the batches of one append get: the next offsets, the offsets of the first time, or an
    /// error. Nothing changes; the caller sets base offsets and epoch in the batches, and calls
    /// [`Leader::apply_batch`] for each before it decides on the next append.
    ///
    /// A client's append has exactly one batch, as Produce allows from version 3 on. The headers' offsets are
    /// those of the request.
    ///
    /// # Errors
    /// [`AppendError`]; then nothing may be appended.
    ///
    /// # Panics
    /// If no epoch has begun.
    pub fn decide_append(
        &self,
        batches: &[BatchHeader],
        policy: &AppendPolicy,
        now: TimestampMs,
    ) -> Result<AppendDecision, AppendError> {
        assert!(self.leader_epoch >= LeaderEpoch(0), "an append before the leader epoch has begun");
        if batches.is_empty() {
            return Err(AppendError::InvalidRecord("there is no batch to append"));
        }
        if batches.len() > 1 && policy.origin == AppendOrigin::Client {
            return Err(AppendError::InvalidRecord("a produce request has one batch for each partition"));
        }
        let mut next_offset = self.next_offset;
        let mut bytes: usize = 0;
        for header in batches {
            policy.check(header, now)?;
            bytes = bytes.saturating_add(header.total_bytes().unwrap_or(usize::MAX));
            let end = next_offset.0.checked_add(i64::from(header.last_offset_delta) + 1);
            next_offset = Offset(end.ok_or(AppendError::OffsetsExhausted)?);
        }
        if bytes > usize::try_from(policy.segment_bytes).unwrap_or(0) {
            return Err(AppendError::RecordListTooLarge { bytes, max_bytes: policy.segment_bytes });
        }
        for header in batches {
            if let Some(duplicate) = self.decide_producer(header, policy)? {
                return Ok(duplicate);
            }
        }
        Ok(AppendDecision::Append { base_offset: self.next_offset, next_offset })
    }

    fn decide_producer(
        &self,
        header: &BatchHeader,
        policy: &AppendPolicy,
    ) -> Result<Option<AppendDecision>, AppendError> {
        if header.producer_id.0 < 0 {
            return match policy.origin {
                AppendOrigin::Client if header.attributes.is_transactional() => {
                    Err(AppendError::NotInTransaction)
                }
                _ => Ok(None),
            };
        }
        if policy.origin == AppendOrigin::Coordinator {
            self.producers.decide_epoch(header)?;
            return Ok(None);
        }
        let decision = self.producers.decide(header)?;
        if let ProducerDecision::Duplicate(batch) = decision {
            return Ok(Some(AppendDecision::Duplicate {
                base_offset: batch.base_offset,
                last_offset: batch.last_offset(),
                timestamp: batch.max_timestamp,
            }));
        }
        if header.attributes.is_transactional() {
            return Err(AppendError::NotInTransaction);
        }
        Ok(None)
    }

    /// Whether a batch from this broker's own log may come next in a replay. Unlike in an append, offsets may
    /// be missing before it (compaction) and its epoch may be a new one.
    ///
    /// # Errors
    /// [`ReplayError`], if the log contradicts itself.
    pub fn check_replay(&self, header: &BatchHeader) -> Result<(), ReplayError> {
        let end = header.base_offset.0.checked_add(i64::from(header.last_offset_delta));
        let in_order = header.base_offset >= self.next_offset
            && header.last_offset_delta >= 0
            && end.is_some_and(|last| last < i64::MAX);
        if !in_order {
            let (base_offset, log_end_offset) = (header.base_offset, self.next_offset);
            return Err(ReplayError::Offsets { base_offset, log_end_offset });
        }
        if header.leader_epoch < self.leader_epoch || header.leader_epoch.0 < 0 {
            let (leader_epoch, current) = (header.leader_epoch, self.leader_epoch);
            return Err(ReplayError::Epoch { leader_epoch, current });
        }
        if header.producer_id.0 >= 0 && header.producer_epoch.0 < 0 {
            return Err(ReplayError::Producer { base_offset: header.base_offset });
        }
        Ok(())
    }

    /// Forgets epochs that began at the log's end, in a replay that finds a batch of an earlier one there: a leader that
    /// appended nothing followed another one then, whose log has no such epoch. One with records stays.
    pub fn forget_epochs_without_records(&mut self) {
        self.epochs.truncate_from_end(self.next_offset);
        self.leader_epoch = self.epochs.latest().map_or(LeaderEpoch::NONE, |latest| latest.epoch);
    }

    /// Takes note of a batch that has its place in the log: in an append with the offset that was decided and
    /// the current epoch, in a replay as it was read.
    ///
    /// # Panics
    /// If [`Leader::check_replay`] refuses the batch.
    pub fn apply_batch(&mut self, header: &BatchHeader) {
        if let Err(error) = self.check_replay(header) {
            panic!("{error}");
        }
        if self.epochs.latest().is_none_or(|latest| latest.epoch != header.leader_epoch) {
            self.epochs.assign(header.leader_epoch, header.base_offset);
        }
        self.leader_epoch = header.leader_epoch;
        self.producers.apply(header);
        self.next_offset = header.next_offset();
        self.assert_order();
    }

    /// Takes note that this broker's disk holds everything below `end`; true if the high watermark moved.
    /// An end below the known one changes nothing. With `write.caching` it is the end of what was written.
    ///
    /// # Panics
    /// If `end` is above the log's end.
    pub fn advance_durable(&mut self, end: Offset) -> bool {
        self.note_durable(end);
        self.raise_high_watermark()
    }

    /// # Panics
    /// If `end` is above the log's end.
    pub(super) fn note_durable(&mut self, end: Offset) {
        assert!(end <= self.next_offset, "durable end {end} is above the log's end {}", self.next_offset);
        self.durable_end = self.durable_end.max(end);
    }

    /// Moves the high watermark to the least end over the in-sync replicas, never back; true if it moved.
    pub(super) fn raise_high_watermark(&mut self) -> bool {
        let end = self.least_in_sync_end();
        let moved = end > self.high_watermark;
        self.high_watermark = self.high_watermark.max(end);
        self.assert_order();
        moved
    }

    /// Begins a new epoch at the log's end. Every incarnation of a leader does so before its first append, so
    /// that no offset is given out twice in one epoch.
    ///
    /// # Errors
    /// [`StaleEpoch`], if the log has seen this epoch or a later one.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) -> Result<(), StaleEpoch> {
        if epoch <= self.leader_epoch {
            return Err(StaleEpoch { current: self.leader_epoch, requested: epoch });
        }
        self.leader_epoch = epoch;
        self.epochs.assign(epoch, self.next_offset);
        self.assert_order();
        Ok(())
    }

    /// Where the log starts once the records before `before` are deleted (DeleteRecords, KIP-107); -1 means the
    /// high watermark. Nothing changes: when the answer is durable, [`Leader::advance_log_start`] takes note of it.
    /// It is never below the log's start.
    ///
    /// # Errors
    /// [`LogStartError`], if `before` is another negative number, or above the high watermark.
    pub fn delete_records(&self, before: Offset) -> Result<Offset, LogStartError> {
        if before == Offset(-1) {
            return Ok(self.high_watermark);
        }
        if before.0 < 0 || before > self.high_watermark {
            return Err(LogStartError { requested: before, high_watermark: self.high_watermark });
        }
        Ok(before.max(self.log_start_offset))
    }

    /// Moves the log's start, after retention or DeleteRecords; true if it moved. A lower start changes
    /// nothing.
    ///
    /// # Errors
    /// [`LogStartError`], if `start` is above the high watermark.
    pub fn advance_log_start(&mut self, start: Offset) -> Result<bool, LogStartError> {
        if start > self.high_watermark {
            return Err(LogStartError { requested: start, high_watermark: self.high_watermark });
        }
        if start <= self.log_start_offset {
            return Ok(false);
        }
        self.log_start_offset = start;
        self.epochs.truncate_from_start(start);
        self.assert_order();
        Ok(true)
    }

    /// Forgets producers that were idle for `expiration_ms`; see [`ProducerStates::expire`].
    pub fn expire_producers(&mut self, now: TimestampMs, expiration_ms: i64) -> usize {
        self.producers.expire(now, expiration_ms)
    }

    /// The offset below which a reader may see records. There are no open transactions, so the last stable
    /// offset is the high watermark.
    #[must_use]
    pub fn readable_end(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::ReadUncommitted | Isolation::ReadCommitted => self.high_watermark,
        }
    }

    /// Whether a fetch from `offset` can be answered with records (none, if nothing is readable there yet).
    /// An epoch of [`LeaderEpoch::NONE`] is not checked.
    ///
    /// In this order, as Kafka does: the current epoch; then, where the reader says of which epoch its last
    /// record was (Fetch version 12, KIP-595), whether its log ends the same way; then the offset.
    ///
    /// # Errors
    /// [`FetchCheckError`].
    pub fn check_fetch(
        &self,
        offset: Offset,
        current_leader_epoch: LeaderEpoch,
        last_fetched_epoch: LeaderEpoch,
    ) -> Result<(), FetchCheckError> {
        self.check_epoch(current_leader_epoch).map_err(FetchCheckError::Epoch)?;
        let out_of_range = FetchCheckError::OffsetOutOfRange {
            log_start_offset: self.log_start_offset,
            log_end_offset: self.next_offset,
        };
        if offset < self.log_start_offset {
            return Err(out_of_range);
        }
        if last_fetched_epoch != LeaderEpoch::NONE {
            let end = self.epochs.end_offset_for(last_fetched_epoch, self.next_offset);
            if end.is_undefined() {
                return Err(out_of_range);
            }
            if end.epoch < last_fetched_epoch || end.end_offset < offset {
                return Err(FetchCheckError::Diverging(end));
            }
        }
        if offset > self.next_offset {
            return Err(out_of_range);
        }
        Ok(())
    }

    /// Whether an offset lies between the log's start and its end, the end included.
    #[must_use]
    pub fn holds(&self, offset: Offset) -> bool {
        offset >= self.log_start_offset && offset <= self.next_offset
    }

    /// Where `requested` ends (`OffsetForLeaderEpoch`); [`EpochEnd::UNDEFINED`] if that is not known.
    ///
    /// # Errors
    /// [`EpochCheckError`], if `current_leader_epoch` is given and not the current one.
    pub fn end_offset_for_epoch(
        &self,
        current_leader_epoch: LeaderEpoch,
        requested: LeaderEpoch,
    ) -> Result<EpochEnd, EpochCheckError> {
        self.check_epoch(current_leader_epoch)?;
        Ok(self.epochs.end_offset_for(requested, self.next_offset))
    }

    /// Whether a requester's idea of the leader epoch is the current one; [`LeaderEpoch::NONE`] always is.
    ///
    /// # Errors
    /// [`EpochCheckError`], if it is older or newer.
    pub fn check_epoch(&self, requested: LeaderEpoch) -> Result<(), EpochCheckError> {
        let current = self.leader_epoch;
        if requested == LeaderEpoch::NONE || requested == current {
            Ok(())
        } else if requested < current {
            Err(EpochCheckError::FencedLeaderEpoch { current })
        } else {
            Err(EpochCheckError::UnknownLeaderEpoch { current })
        }
    }

    /// # Panics
    /// If the order that the module promises does not hold.
    pub(super) fn assert_order(&self) {
        assert!(
            self.is_in_order(),
            "log start {} ≤ high watermark {} ≤ durable end {} ≤ log end {} with epochs {:?} does not hold",
            self.log_start_offset,
            self.high_watermark,
            self.durable_end,
            self.next_offset,
            self.epochs.latest()
        );
    }

    pub(super) fn is_in_order(&self) -> bool {
        self.log_start_offset.0 >= 0
            && self.log_start_offset <= self.high_watermark
            && self.high_watermark <= self.durable_end
            && self.durable_end <= self.next_offset
            && self.epochs.latest().is_none_or(|latest| {
                latest.start_offset <= self.next_offset && latest.epoch <= self.leader_epoch
            })
    }
}

#[cfg(test)]
mod tests {
    use logmill_wire::ids::{ProducerEpoch, ProducerId};

    use super::super::append::tests::batch_of;
    use super::super::snapshot::{PartitionSnapshot, SnapshotError};
    use super::*;
    use crate::test_random::Random;

    const NOW: TimestampMs = TimestampMs(1_700_000_000_000);

    fn policy() -> AppendPolicy {
        AppendPolicy::default()
    }

    fn leader() -> Leader {
        let mut leader = Leader::default();
        leader.begin_epoch(LeaderEpoch(0)).unwrap();
        leader
    }

    fn idempotent(id: i64, epoch: i16, sequence: i32, records: i32) -> BatchHeader {
        let (producer_id, producer_epoch) = (ProducerId(id), ProducerEpoch(epoch));
        BatchHeader { producer_id, producer_epoch, base_sequence: sequence, ..batch_of(records) }
    }

    /// Decides and applies, as the log's driver does; gives the header as it lies in the log.
    fn append(leader: &mut Leader, header: BatchHeader) -> Result<BatchHeader, AppendDecision> {
        match leader.decide_append(&[header], &policy(), NOW).unwrap() {
            AppendDecision::Append { base_offset, next_offset } => {
                let placed = BatchHeader { base_offset, leader_epoch: leader.leader_epoch(), ..header };
                leader.apply_batch(&placed);
                assert_eq!(leader.next_offset(), next_offset);
                Ok(placed)
            }
            duplicate => Err(duplicate),
        }
    }

    #[test]
    fn offsets_are_consecutive_and_readable_once_durable() {
        let mut leader = leader();
        append(&mut leader, batch_of(10)).unwrap();
        assert_eq!(append(&mut leader, batch_of(5)).unwrap().base_offset, Offset(10));
        assert_eq!(leader.readable_end(Isolation::ReadUncommitted), Offset(0));
        assert!(leader.advance_durable(Offset(10)));
        assert!(!leader.advance_durable(Offset(10)));
        assert!(!leader.advance_durable(Offset(3)), "it never goes back");
        assert_eq!(leader.high_watermark(), Offset(10));
        assert!(leader.advance_durable(Offset(15)));
        assert_eq!(leader.readable_end(Isolation::ReadCommitted), Offset(15));
    }

    #[test]
    #[should_panic(expected = "durable end 11 is above the log's end 10")]
    fn nothing_is_durable_that_was_not_appended() {
        let mut leader = leader();
        append(&mut leader, batch_of(10)).unwrap();
        leader.advance_durable(Offset(11));
    }

    #[test]
    #[should_panic(expected = "before the leader epoch has begun")]
    fn nothing_is_appended_before_an_epoch() {
        let _ = Leader::default().decide_append(&[batch_of(1)], &policy(), NOW);
    }

    #[test]
    #[should_panic(expected = "a batch at offset 3 stands where 10")]
    fn no_offset_is_applied_twice() {
        let mut leader = leader();
        append(&mut leader, batch_of(10)).unwrap();
        leader.apply_batch(&BatchHeader {
            base_offset: Offset(3),
            leader_epoch: LeaderEpoch(0),
            ..batch_of(1)
        });
    }

    #[test]
    fn an_append_is_whole_or_refused() {
        let leader = leader();
        let decide =
            |batches: &[BatchHeader], policy: &AppendPolicy| leader.decide_append(batches, policy, NOW);
        assert!(matches!(decide(&[], &policy()), Err(AppendError::InvalidRecord(_))));
        let two = [batch_of(2), batch_of(3)];
        assert!(matches!(decide(&two, &policy()), Err(AppendError::InvalidRecord(_))));
        let coordinator = AppendPolicy { origin: AppendOrigin::Coordinator, ..policy() };
        let placed = AppendDecision::Append { base_offset: Offset(0), next_offset: Offset(5) };
        assert_eq!(decide(&two, &coordinator), Ok(placed));
        let narrow = AppendPolicy { segment_bytes: 171, ..coordinator };
        assert_eq!(
            decide(&two, &narrow),
            Err(AppendError::RecordListTooLarge { bytes: 172, max_bytes: 171 })
        );
        let mut transactional = idempotent(1, 0, 0, 1);
        transactional.attributes.0 = 0x10;
        assert_eq!(decide(&[transactional], &policy()), Err(AppendError::NotInTransaction));
        transactional.producer_id = ProducerId::NONE;
        assert_eq!(decide(&[transactional], &policy()), Err(AppendError::NotInTransaction));
    }

    #[test]
    fn offsets_run_out_with_an_error() {
        let mut leader = Leader::starting_at(Offset(i64::MAX - 5));
        leader.begin_epoch(LeaderEpoch(0)).unwrap();
        let refused = leader.decide_append(&[batch_of(6)], &policy(), NOW);
        assert_eq!(refused, Err(AppendError::OffsetsExhausted));
        assert!(leader.decide_append(&[batch_of(5)], &policy(), NOW).is_ok());
    }

    #[test]
    fn a_batch_sent_twice_is_answered_with_its_first_offsets() {
        let mut leader = leader();
        append(&mut leader, batch_of(7)).unwrap();
        append(&mut leader, idempotent(5, 0, 0, 3)).unwrap();
        let first =
            AppendDecision::Duplicate { base_offset: Offset(7), last_offset: Offset(9), timestamp: NOW };
        assert_eq!(append(&mut leader, idempotent(5, 0, 0, 3)), Err(first));
        assert_eq!(leader.next_offset(), Offset(10));
        let gap = leader.decide_append(&[idempotent(5, 0, 4, 1)], &policy(), NOW);
        assert!(matches!(gap, Err(AppendError::Producer(_))));
        let coordinator = AppendPolicy { origin: AppendOrigin::Coordinator, ..policy() };
        assert!(leader.decide_append(&[idempotent(5, 0, -1, 1)], &coordinator, NOW).is_ok());
        append(&mut leader, idempotent(5, 1, 0, 3)).unwrap();
        assert!(leader.decide_append(&[idempotent(5, 0, -1, 1)], &coordinator, NOW).is_err());
    }

    #[test]
    fn a_replay_goes_on_where_a_leader_has_appended_nothing() {
        let mut leader = leader();
        append(&mut leader, batch_of(10)).unwrap();
        leader.begin_epoch(LeaderEpoch(1)).unwrap();
        let next = BatchHeader { base_offset: Offset(10), leader_epoch: LeaderEpoch(0), ..batch_of(2) };
        let refused = ReplayError::Epoch { leader_epoch: LeaderEpoch(0), current: LeaderEpoch(1) };
        assert_eq!(leader.check_replay(&next), Err(refused));
        leader.forget_epochs_without_records();
        leader.apply_batch(&next);
        assert_eq!((leader.leader_epoch(), leader.epochs().len()), (LeaderEpoch(0), 1));
        // One with records stays, and so does what contradicts it.
        leader.begin_epoch(LeaderEpoch(1)).unwrap();
        append(&mut leader, batch_of(3)).unwrap();
        leader.forget_epochs_without_records();
        let next = BatchHeader { base_offset: Offset(15), ..next };
        assert_eq!(leader.check_replay(&next), Err(refused));
    }

    #[test]
    fn an_epoch_begins_once() {
        let mut leader = leader();
        append(&mut leader, batch_of(10)).unwrap();
        let stale = StaleEpoch { current: LeaderEpoch(0), requested: LeaderEpoch(0) };
        assert_eq!(leader.begin_epoch(LeaderEpoch(0)), Err(stale));
        leader.begin_epoch(LeaderEpoch(4)).unwrap();
        assert_eq!(append(&mut leader, batch_of(1)).unwrap().leader_epoch, LeaderEpoch(4));
        let entries: Vec<_> =
            leader.epochs().iter().map(|entry| (entry.epoch.0, entry.start_offset.0)).collect();
        assert_eq!(entries, [(0, 0), (4, 10)]);
    }

    /// Epoch 2 at 0, 3 at 10, 6 at 20; the end at 30.
    fn of_three_epochs() -> Leader {
        let mut leader = Leader::default();
        for epoch in [2, 3, 6] {
            leader.begin_epoch(LeaderEpoch(epoch)).unwrap();
            append(&mut leader, batch_of(10)).unwrap();
        }
        leader.advance_durable(Offset(25));
        leader
    }

    #[test]
    fn epochs_are_compared_with_the_current_one() {
        let leader = of_three_epochs();
        let current = LeaderEpoch(6);
        let fenced = EpochCheckError::FencedLeaderEpoch { current };
        let unknown = EpochCheckError::UnknownLeaderEpoch { current };
        let end_of_3 = EpochEnd { epoch: LeaderEpoch(3), end_offset: Offset(20) };
        for (asked, answer) in [(-1, Ok(end_of_3)), (6, Ok(end_of_3)), (5, Err(fenced)), (7, Err(unknown))] {
            assert_eq!(leader.end_offset_for_epoch(LeaderEpoch(asked), LeaderEpoch(4)), answer);
            let fetch = leader.check_fetch(Offset(0), LeaderEpoch(asked), LeaderEpoch::NONE);
            assert_eq!(fetch, answer.map(|_| ()).map_err(FetchCheckError::Epoch));
        }
        assert_eq!(leader.end_offset_for_epoch(current, LeaderEpoch(7)), Ok(EpochEnd::UNDEFINED));
        let end_of_6 = EpochEnd { epoch: current, end_offset: Offset(30) };
        assert_eq!(leader.end_offset_for_epoch(current, current), Ok(end_of_6));
    }

    #[test]
    fn a_fetch_is_in_range_or_diverges() {
        let mut leader = of_three_epochs();
        leader.advance_log_start(Offset(5)).unwrap();
        let out_of_range =
            FetchCheckError::OffsetOutOfRange { log_start_offset: Offset(5), log_end_offset: Offset(30) };
        let diverging = |epoch, end| {
            FetchCheckError::Diverging(EpochEnd { epoch: LeaderEpoch(epoch), end_offset: Offset(end) })
        };
        for (offset, last_fetched, answer) in [
            (5, -1, Ok(())),
            (30, -1, Ok(())),
            (4, -1, Err(out_of_range)),
            (31, -1, Err(out_of_range)),
            (4, 2, Err(out_of_range)),
            (10, 2, Ok(())),
            (11, 2, Err(diverging(2, 10))),
            (20, 3, Ok(())),
            (21, 3, Err(diverging(3, 20))),
            (15, 4, Err(diverging(3, 20))),
            (30, 6, Ok(())),
            (31, 6, Err(diverging(6, 30))),
            (20, 7, Err(out_of_range)),
            (5, 1, Ok(())),
            (6, 1, Err(diverging(1, 5))),
        ] {
            let checked = leader.check_fetch(Offset(offset), LeaderEpoch(6), LeaderEpoch(last_fetched));
            assert_eq!(checked, answer, "offset {offset}, last fetched epoch {last_fetched}");
        }
    }

    #[test]
    fn the_log_starts_no_later_than_the_high_watermark() {
        let mut leader = of_three_epochs();
        let refused = LogStartError { requested: Offset(26), high_watermark: Offset(25) };
        assert_eq!(leader.advance_log_start(Offset(26)), Err(refused));
        assert_eq!(leader.advance_log_start(Offset(25)), Ok(true));
        assert_eq!(leader.advance_log_start(Offset(24)), Ok(false));
        assert_eq!(leader.log_start_offset(), Offset(25));
        assert_eq!(leader.epochs().len(), 1);
    }

    #[test]
    fn records_are_deleted_up_to_the_high_watermark() {
        let mut leader = of_three_epochs();
        leader.advance_log_start(Offset(7)).unwrap();
        let refused = |requested| Err(LogStartError { requested, high_watermark: Offset(25) });
        assert_eq!(leader.delete_records(Offset(-1)), Ok(Offset(25)), "-1 is the high watermark");
        assert_eq!(leader.delete_records(Offset(25)), Ok(Offset(25)));
        assert_eq!(leader.delete_records(Offset(12)), Ok(Offset(12)));
        assert_eq!(leader.delete_records(Offset(3)), Ok(Offset(7)), "the start never goes back");
        assert_eq!(leader.delete_records(Offset(26)), refused(Offset(26)));
        assert_eq!(leader.delete_records(Offset(-2)), refused(Offset(-2)));
        assert_eq!(leader.log_start_offset(), Offset(7), "a decision changes nothing");
    }

    #[test]
    fn a_replay_refuses_what_contradicts_the_log() {
        let leader = of_three_epochs();
        let next = BatchHeader { base_offset: Offset(30), leader_epoch: LeaderEpoch(6), ..batch_of(1) };
        assert_eq!(leader.check_replay(&next), Ok(()));
        let later = BatchHeader { base_offset: Offset(99), leader_epoch: LeaderEpoch(7), ..next };
        assert_eq!(leader.check_replay(&later), Ok(()), "compaction leaves gaps");
        for wrong in [
            BatchHeader { base_offset: Offset(29), ..next },
            BatchHeader { base_offset: Offset(i64::MAX), ..next },
            BatchHeader { last_offset_delta: -1, ..next },
        ] {
            assert!(matches!(leader.check_replay(&wrong), Err(ReplayError::Offsets { .. })), "{wrong:?}");
        }
        let older = BatchHeader { leader_epoch: LeaderEpoch(5), ..next };
        assert!(matches!(leader.check_replay(&older), Err(ReplayError::Epoch { .. })));
        let halved = BatchHeader { producer_id: ProducerId(1), ..next };
        assert!(matches!(leader.check_replay(&halved), Err(ReplayError::Producer { .. })));
    }

    #[test]
    fn a_snapshot_that_contradicts_itself_is_refused() {
        let mut leader = of_three_epochs();
        append(&mut leader, idempotent(5, 0, 0, 3)).unwrap();
        let good = leader.snapshot();
        assert_eq!(Leader::restore(&good), Ok(leader));
        let refused = |change: &dyn Fn(&mut PartitionSnapshot)| {
            let mut snapshot = good.clone();
            change(&mut snapshot);
            Leader::restore(&snapshot).unwrap_err()
        };
        assert_eq!(refused(&|snapshot| snapshot.high_watermark = 26), SnapshotError::Order);
        assert_eq!(refused(&|snapshot| snapshot.durable_end = 34), SnapshotError::Order);
        assert_eq!(refused(&|snapshot| snapshot.log_start_offset = -1), SnapshotError::Order);
        assert_eq!(refused(&|snapshot| snapshot.leader_epoch = 5), SnapshotError::Order);
        assert_eq!(refused(&|snapshot| snapshot.epochs.swap(0, 1)), SnapshotError::Epoch(1));
        assert_eq!(refused(&|snapshot| snapshot.producers[0].last_offset = 33), SnapshotError::Producer(0));
        assert_eq!(
            refused(&|snapshot| snapshot.producers[0].producer_epoch = -1),
            SnapshotError::Producer(0)
        );
        let twice = refused(&|snapshot| snapshot.producers.push(snapshot.producers[0].clone()));
        assert_eq!(twice, SnapshotError::Producer(1));
        let beyond = refused(&|snapshot| snapshot.producers[0].batches[0].last_offset_delta = i32::MAX);
        assert_eq!(beyond, SnapshotError::Producer(0));
    }

    /// Appends, crashes at random points, and compares a replay with the state that was lost.
    #[test]
    fn a_replay_of_the_log_gives_the_same_state() {
        let mut duplicates = 0;
        for seed in 0..200 {
            let mut random = Random::seeded(seed);
            let mut leader = leader();
            let mut log: Vec<BatchHeader> = Vec::new();
            let mut snapshot = leader.snapshot();
            let mut next = [0; 3];
            for _ in 0..80 {
                let producer = random.below(4) as usize;
                let records = 1 + i32::try_from(random.below(5)).unwrap();
                let header = match next.get_mut(producer) {
                    Some(sequence) => {
                        *sequence += records;
                        idempotent(producer as i64, 0, *sequence - records, records)
                    }
                    None => batch_of(records),
                };
                log.push(append(&mut leader, header).unwrap());
                match random.below(6) {
                    0 => {
                        let span = (leader.next_offset().0 - leader.durable_end().0) as u64;
                        let end = leader.durable_end().plus(random.below(span + 1) as i64);
                        let before = leader.high_watermark();
                        assert_eq!(leader.advance_durable(end), leader.high_watermark() > before);
                    }
                    1 => snapshot = leader.snapshot(),
                    2 => {
                        let mut replayed = Leader::restore(&snapshot).unwrap();
                        for header in log.iter().filter(|header| header.base_offset.0 >= snapshot.next_offset)
                        {
                            replayed.apply_batch(header);
                        }
                        replayed.advance_durable(leader.durable_end());
                        assert_eq!(replayed, leader, "seed {seed}");
                        replayed.begin_epoch(LeaderEpoch(leader.leader_epoch().0 + 1)).unwrap();
                        leader = replayed;
                        snapshot = leader.snapshot();
                    }
                    _ => {}
                }
                if let Some(last) = log.last().filter(|last| last.producer_id.0 >= 0) {
                    let again = BatchHeader { base_offset: Offset(0), ..*last };
                    let Err(AppendDecision::Duplicate { base_offset, .. }) = append(&mut leader, again)
                    else {
                        panic!("seed {seed}: appended twice");
                    };
                    assert_eq!(base_offset, last.base_offset, "seed {seed}");
                    duplicates += 1;
                }
            }
        }
        assert!(duplicates > 1000);
    }
}
