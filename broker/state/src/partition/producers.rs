//! What a partition remembers of its idempotent producers (KIP-98, KIP-360).
//!
//! A producer numbers its records per partition. The last [`PRODUCER_BATCHES_KEPT`] batches of each producer
//! are kept, so that a batch that is sent again is recognised and answered with the offsets of the first
//! time. A producer of which nothing is known may begin with any sequence number: its state may have expired
//! while it was idle (KIP-360, "Producer ID expiration"). UNKNOWN_PRODUCER_ID is therefore never an answer.

use std::collections::BTreeMap;
use std::fmt;

use logmill_wire::ids::{Offset, ProducerEpoch, ProducerId, TimestampMs};
use logmill_wire::limits::{PARTITION_PRODUCERS_MAX, PRODUCER_BATCHES_KEPT};
use logmill_wire::record_batch::BatchHeader;

/// When the bound is hit, this share of the producers is forgotten at once: finding them costs a look at all.
const EVICTED_AT_ONCE: usize = PARTITION_PRODUCERS_MAX / 16;

/// A batch as it is remembered for the detection of duplicates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProducerBatch {
    /// Its first record's offset.
    pub base_offset: Offset,
    /// Its largest timestamp.
    pub max_timestamp: TimestampMs,
    /// Its first record's sequence number.
    pub first_sequence: i32,
    /// Its last offset less its base offset.
    pub last_offset_delta: i32,
}

impl ProducerBatch {
    /// The offset of its last record.
    #[must_use]
    pub fn last_offset(self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// The sequence number of its last record; after `i32::MAX` comes 0.
    #[must_use]
    pub fn last_sequence(self) -> i32 {
        sequence_after(self.first_sequence, self.last_offset_delta)
    }
}

/// The sequence number that lies `increment` records after `sequence`.
pub(super) fn sequence_after(sequence: i32, increment: i32) -> i32 {
    debug_assert!(sequence >= 0 && increment >= 0);
    // The sum stays below 2^32, and the numbers wrap at 2^31.
    (sequence.wrapping_add(increment)) & i32::MAX
}

/// What is to be done with a producer's batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProducerDecision {
    /// It is the next one, and may be appended.
    Accept,
    /// It was appended before; the answer is that of the first time.
    Duplicate(ProducerBatch),
}

/// Why a producer's batch is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProducerError {
    /// INVALID_PRODUCER_EPOCH: a newer instance of the producer has taken over.
    InvalidProducerEpoch {
        /// The batch's producer.
        producer_id: ProducerId,
        /// The batch's epoch.
        requested: ProducerEpoch,
        /// The newest epoch seen.
        current: ProducerEpoch,
    },
    /// OUT_OF_ORDER_SEQUENCE_NUMBER: batches before this one are missing, or it is older than those kept.
    OutOfOrderSequence {
        /// The batch's producer.
        producer_id: ProducerId,
        /// The batch's first sequence number.
        requested: i32,
        /// The sequence number that had to come.
        expected: i32,
    },
}

impl fmt::Display for ProducerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidProducerEpoch { producer_id, requested, current } => write!(
                f,
                "epoch {requested} of producer {producer_id} is older than {current}, the newest that this \
                 partition has seen; another instance of the producer has replaced this one"
            ),
            Self::OutOfOrderSequence { producer_id, requested, expected } => write!(
                f,
                "producer {producer_id} sent sequence number {requested} where {expected} comes next; batches \
                 are missing in between, or the batch was appended long ago"
            ),
        }
    }
}

impl std::error::Error for ProducerError {}

/// One producer as a partition remembers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ProducerState {
    epoch: ProducerEpoch,
    batch_count: u8,
    /// Oldest first; only the first `batch_count` mean something.
    batches: [ProducerBatch; PRODUCER_BATCHES_KEPT],
    /// The offset of the newest batch or marker: the order in which producers were active.
    last_offset: Offset,
    /// When [`ProducerStates::expire`] last found it active; `None` if it has been active since.
    last_active: Option<TimestampMs>,
}

const _: () = assert!(PRODUCER_BATCHES_KEPT > 0 && PRODUCER_BATCHES_KEPT <= u8::MAX as usize);

impl ProducerState {
    fn new(epoch: ProducerEpoch) -> Self {
        Self {
            epoch,
            batch_count: 0,
            batches: [ProducerBatch::default(); PRODUCER_BATCHES_KEPT],
            last_offset: Offset(-1),
            last_active: None,
        }
    }

    pub(super) fn epoch(&self) -> ProducerEpoch {
        self.epoch
    }

    pub(super) fn last_offset(&self) -> Offset {
        self.last_offset
    }

    pub(super) fn last_active(&self) -> Option<TimestampMs> {
        self.last_active
    }

    pub(super) fn batches(&self) -> &[ProducerBatch] {
        self.batches.get(..usize::from(self.batch_count)).unwrap_or_default()
    }

    fn push(&mut self, batch: ProducerBatch) {
        if usize::from(self.batch_count) == PRODUCER_BATCHES_KEPT {
            self.batches.copy_within(1.., 0);
            self.batch_count -= 1;
        }
        if let Some(slot) = self.batches.get_mut(usize::from(self.batch_count)) {
            *slot = batch;
            self.batch_count += 1;
        }
    }
}

/// Whether a producer that was found idle at `last_active` has been so for `expiration_ms`. One that was active since is
/// idle from `now` on, which is noted.
pub fn has_expired(last_active: &mut Option<TimestampMs>, now: TimestampMs, expiration_ms: i64) -> bool {
    match *last_active {
        // A clock that was set back must not stretch the time.
        Some(last_active) if last_active <= now => now.0.saturating_sub(last_active.0) >= expiration_ms,
        _ => {
            *last_active = Some(now);
            false
        }
    }
}

/// The producers of one partition, at most [`PARTITION_PRODUCERS_MAX`] of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProducerStates {
    producers: BTreeMap<ProducerId, ProducerState>,
}

impl ProducerStates {
    /// How many producers are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ProducerId, &ProducerState)> {
        self.producers.iter().map(|(&id, state)| (id, state))
    }

    /// What to do with a client's batch of an idempotent producer. The caller has checked that epoch,
    /// sequence number and the span of offsets are not negative.
    ///
    /// Looked at in this order, as Kafka does: whether it repeats a batch that is kept; whether its epoch is
    /// old; whether its sequence number is the next. A new epoch begins at 0 (KIP-360). The next one repeats none: it
    /// would take more records than fit into the batches that are kept.
    ///
    /// # Errors
    /// [`ProducerError`], if the batch must not be appended.
    pub fn decide(&self, header: &BatchHeader) -> Result<ProducerDecision, ProducerError> {
        debug_assert!(
            header.producer_epoch.0 >= 0 && header.base_sequence >= 0 && header.last_offset_delta >= 0
        );
        let Some(state) = self.producers.get(&header.producer_id) else {
            return Ok(ProducerDecision::Accept);
        };
        if header.producer_epoch == state.epoch {
            let last = state.batches().last();
            if last.is_some_and(|last| sequence_after(last.last_sequence(), 1) == header.base_sequence) {
                return Ok(ProducerDecision::Accept);
            }
            let same = |batch: &&ProducerBatch| {
                batch.first_sequence == header.base_sequence
                    && batch.last_offset_delta == header.last_offset_delta
            };
            if let Some(&batch) = state.batches().iter().find(same) {
                return Ok(ProducerDecision::Duplicate(batch));
            }
        }
        self.decide_epoch(header)?;
        let expected = match state.batches().last() {
            Some(last) if header.producer_epoch == state.epoch => sequence_after(last.last_sequence(), 1),
            _ => 0,
        };
        if header.base_sequence != expected {
            return Err(ProducerError::OutOfOrderSequence {
                producer_id: header.producer_id,
                requested: header.base_sequence,
                expected,
            });
        }
        Ok(ProducerDecision::Accept)
    }

    /// Whether a batch's epoch is not older than the newest seen. For the batches of coordinators this is
    /// the only check: they have no sequence numbers.
    ///
    /// # Errors
    /// [`ProducerError::InvalidProducerEpoch`], if it is.
    pub fn decide_epoch(&self, header: &BatchHeader) -> Result<(), ProducerError> {
        match self.producers.get(&header.producer_id) {
            Some(state) if header.producer_epoch < state.epoch => Err(ProducerError::InvalidProducerEpoch {
                producer_id: header.producer_id,
                requested: header.producer_epoch,
                current: state.epoch,
            }),
            _ => Ok(()),
        }
    }

    /// Takes note of an appended batch; its offsets are final. Batches without a producer id change nothing,
    /// and control batches only the epoch.
    pub fn apply(&mut self, header: &BatchHeader) {
        if header.producer_id.0 < 0 {
            return;
        }
        if self.producers.len() >= PARTITION_PRODUCERS_MAX
            && !self.producers.contains_key(&header.producer_id)
        {
            self.evict_least_recently_active();
        }
        let state = self
            .producers
            .entry(header.producer_id)
            .or_insert_with(|| ProducerState::new(header.producer_epoch));
        if state.epoch != header.producer_epoch {
            state.epoch = header.producer_epoch;
            state.batch_count = 0;
        }
        // A replay begins with what the last checkpoint knew. A sequence that does not go on says that the producer was
        // forgotten before it sent this, and its older batches with it.
        let goes_on = |last: &ProducerBatch| header.base_sequence == sequence_after(last.last_sequence(), 1);
        if header.base_sequence >= 0 && !state.batches().last().is_none_or(goes_on) {
            state.batch_count = 0;
        }
        state.last_active = None;
        state.last_offset = header.last_offset();
        if !header.attributes.is_control() && header.base_sequence >= 0 {
            state.push(ProducerBatch {
                base_offset: header.base_offset,
                max_timestamp: header.max_timestamp,
                first_sequence: header.base_sequence,
                last_offset_delta: header.last_offset_delta,
            });
        }
    }

    /// Forgets the producers that were idle for `expiration_ms` (`producer.id.expiration.ms`), and says how
    /// many. The caller runs this now and then; a producer is idle from the first run that finds it so.
    ///
    /// Idleness is not counted from the records' timestamps: whoever writes old timestamps would lose the
    /// detection of duplicates while it writes.
    pub fn expire(&mut self, now: TimestampMs, expiration_ms: i64) -> usize {
        let before = self.producers.len();
        self.producers.retain(|_, state| !has_expired(&mut state.last_active, now, expiration_ms));
        before - self.producers.len()
    }

    fn evict_least_recently_active(&mut self) {
        let mut last_offsets: Vec<Offset> = self.producers.values().map(|state| state.last_offset).collect();
        let index = EVICTED_AT_ONCE.min(last_offsets.len().saturating_sub(1));
        let (_, &mut first_kept, _) = last_offsets.select_nth_unstable(index);
        self.producers.retain(|_, state| state.last_offset >= first_kept);
    }

    /// Puts a producer back as a snapshot describes it; false if the description contradicts itself, the
    /// producer is there already, or there is no room.
    pub(super) fn restore(
        &mut self,
        producer_id: ProducerId,
        epoch: ProducerEpoch,
        last_offset: Offset,
        last_active: Option<TimestampMs>,
        batches: &[ProducerBatch],
    ) -> bool {
        let mut state = ProducerState { last_offset, last_active, ..ProducerState::new(epoch) };
        for &batch in batches {
            let follows =
                state.batches().last().is_none_or(|previous| previous.last_offset() < batch.base_offset);
            if batch.first_sequence < 0
                || batch.last_offset_delta < 0
                || !follows
                || batch.base_offset.0 < 0
                || batch.base_offset.0.checked_add(i64::from(batch.last_offset_delta)).is_none()
            {
                return false;
            }
            state.push(batch);
        }
        let covered = state.batches().last().is_none_or(|batch| batch.last_offset() <= last_offset);
        if producer_id.0 < 0
            || epoch.0 < 0
            || !covered
            || batches.len() > PRODUCER_BATCHES_KEPT
            || self.producers.len() >= PARTITION_PRODUCERS_MAX
        {
            return false;
        }
        self.producers.insert(producer_id, state).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::append::tests::batch_of;
    use crate::test_random::Random;

    fn header(id: i64, epoch: i16, sequence: i32, records: i32, base_offset: i64) -> BatchHeader {
        BatchHeader {
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence: sequence,
            base_offset: Offset(base_offset),
            max_timestamp: TimestampMs(1000 + base_offset),
            ..batch_of(records)
        }
    }

    fn out_of_order(requested: i32, expected: i32) -> Result<ProducerDecision, ProducerError> {
        Err(ProducerError::OutOfOrderSequence { producer_id: ProducerId(7), requested, expected })
    }

    #[test]
    fn an_unknown_producer_may_begin_anywhere() {
        let states = ProducerStates::default();
        assert_eq!(states.decide(&header(7, 3, 400, 2, 0)), Ok(ProducerDecision::Accept));
    }

    #[test]
    fn sequences_follow_one_another() {
        let mut states = ProducerStates::default();
        states.apply(&header(7, 0, 0, 10, 100));
        assert_eq!(states.decide(&header(7, 0, 10, 1, 0)), Ok(ProducerDecision::Accept));
        assert_eq!(states.decide(&header(7, 0, 11, 1, 0)), out_of_order(11, 10));
        assert_eq!(
            states.decide(&header(7, 0, 0, 9, 0)),
            out_of_order(0, 10),
            "another range is no duplicate"
        );
        let Ok(ProducerDecision::Duplicate(first)) = states.decide(&header(7, 0, 0, 10, 0)) else { panic!() };
        assert_eq!((first.base_offset, first.last_offset()), (Offset(100), Offset(109)));
        assert_eq!(first.max_timestamp, TimestampMs(1100));
    }

    #[test]
    fn what_was_in_flight_to_three_leaders_is_recognised() {
        let mut states = ProducerStates::default();
        for number in 0..15 {
            states.apply(&header(7, 0, number, 1, 100 + i64::from(number)));
        }
        for number in 0..15 {
            let decision = states.decide(&header(7, 0, number, 1, 0));
            let Ok(ProducerDecision::Duplicate(batch)) = decision else { panic!("{number}: {decision:?}") };
            assert_eq!(batch.base_offset, Offset(100 + i64::from(number)));
        }
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut states = ProducerStates::default();
        states.apply(&header(7, 0, i32::MAX - 1, 2, 0));
        assert_eq!(states.decide(&header(7, 0, 0, 1, 0)), Ok(ProducerDecision::Accept));
        assert_eq!(states.decide(&header(7, 0, 1, 1, 0)), out_of_order(1, 0));
        states.apply(&header(7, 0, i32::MAX, 5, 2));
        assert_eq!(states.decide(&header(7, 0, 4, 1, 0)), Ok(ProducerDecision::Accept), "MAX, 0, 1, 2, 3");
        assert!(matches!(
            states.decide(&header(7, 0, i32::MAX, 5, 0)),
            Ok(ProducerDecision::Duplicate(batch)) if batch.last_sequence() == 3
        ));
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_fences_the_old() {
        let mut states = ProducerStates::default();
        states.apply(&header(7, 1, 0, 10, 0));
        assert_eq!(states.decide(&header(7, 2, 10, 1, 0)), out_of_order(10, 0));
        assert_eq!(states.decide(&header(7, 2, 0, 10, 0)), Ok(ProducerDecision::Accept), "not a duplicate");
        states.apply(&header(7, 2, 0, 10, 10));
        let fenced = ProducerError::InvalidProducerEpoch {
            producer_id: ProducerId(7),
            requested: ProducerEpoch(1),
            current: ProducerEpoch(2),
        };
        assert_eq!(states.decide(&header(7, 1, 10, 1, 0)), Err(fenced));
        assert_eq!(states.decide(&header(7, 1, 0, 10, 0)), Err(fenced), "the old epoch's batches are gone");
    }

    #[test]
    fn a_marker_of_a_new_epoch_forgets_the_batches() {
        let mut states = ProducerStates::default();
        states.apply(&header(7, 1, 0, 10, 0));
        let mut marker = header(7, 2, -1, 1, 10);
        marker.attributes.0 = 0x30;
        states.apply(&marker);
        assert_eq!(states.decide(&header(7, 2, 3, 1, 0)), out_of_order(3, 0));
        assert_eq!(states.decide(&header(7, 2, 0, 1, 0)), Ok(ProducerDecision::Accept));
    }

    #[test]
    fn idle_producers_expire_and_busy_ones_do_not() {
        let mut states = ProducerStates::default();
        states.apply(&header(7, 0, 0, 1, 0));
        states.apply(&header(8, 0, 0, 1, 1));
        assert_eq!(states.expire(TimestampMs(1_000_000), 500), 0, "the records' timestamps don't count");
        states.apply(&header(8, 0, 1, 1, 2));
        assert_eq!(states.expire(TimestampMs(1_000_499), 500), 0);
        assert_eq!(states.expire(TimestampMs(1_000_500), 500), 1);
        assert_eq!(states.len(), 1);
        assert_eq!(states.decide(&header(7, 0, 9, 1, 0)), Ok(ProducerDecision::Accept));
        assert!(states.decide(&header(8, 0, 9, 1, 0)).is_err());
        assert_eq!(states.expire(TimestampMs(5), 500), 0, "a clock set back starts the time anew");
        assert_eq!(states.expire(TimestampMs(504), 500), 0);
        assert_eq!(states.expire(TimestampMs(505), 500), 1);
    }

    #[test]
    fn a_replay_over_what_was_forgotten_forgets_it() {
        let mut states = ProducerStates::default();
        states.apply(&header(1, 0, 0, 3, 0));
        // The partition had forgotten the producer when it sent this.
        states.apply(&header(1, 0, 0, 3, 10));
        let decision = states.decide(&header(1, 0, 0, 3, 0));
        assert!(
            matches!(decision, Ok(ProducerDecision::Duplicate(batch)) if batch.base_offset == Offset(10)),
            "{decision:?}"
        );
        assert_eq!(states.decide(&header(1, 0, 3, 1, 0)), Ok(ProducerDecision::Accept));
    }

    #[test]
    fn the_least_recently_active_make_room() {
        let mut states = ProducerStates::default();
        let full = PARTITION_PRODUCERS_MAX as i64;
        for id in 0..full {
            states.apply(&header(id, 0, 0, 1, id));
        }
        assert_eq!(states.len(), PARTITION_PRODUCERS_MAX);
        states.apply(&header(0, 0, 1, 1, full));
        states.apply(&header(full, 0, 0, 1, full + 1));
        assert_eq!(states.len(), PARTITION_PRODUCERS_MAX - EVICTED_AT_ONCE + 1);
        assert!(states.decide(&header(0, 0, 9, 1, 0)).is_err(), "the one that came back is kept");
        assert!(states.decide(&header(1, 0, 9, 1, 0)).is_ok(), "the oldest is gone");
    }

    /// All batches ever accepted of one producer, in order.
    #[derive(Default)]
    struct Naive {
        accepted: Vec<(i16, Vec<i32>, i64)>,
    }

    impl Naive {
        fn decide(&self, epoch: i16, sequences: &[i32]) -> Result<Option<i64>, &'static str> {
            let Some((current, last, _)) = self.accepted.last() else { return Ok(None) };
            let of_epoch: Vec<_> =
                self.accepted.iter().rev().take_while(|batch| batch.0 == *current).collect();
            if epoch == *current
                && let Some(same) =
                    of_epoch.iter().take(PRODUCER_BATCHES_KEPT).find(|batch| batch.1 == sequences)
            {
                return Ok(Some(same.2));
            }
            if epoch < *current {
                return Err("epoch");
            }
            let last = i64::from(*last.last().unwrap());
            let expected = if epoch > *current { 0 } else { (last + 1) % (1 << 31) };
            if i64::from(sequences[0]) == expected { Ok(None) } else { Err("sequence") }
        }
    }

    #[test]
    fn agrees_with_a_naive_model() {
        let mut kinds = [0; 4];
        for seed in 0..300 {
            let mut random = Random::seeded(seed);
            let mut states = ProducerStates::default();
            let mut model = Naive::default();
            let mut sent: Vec<(i16, i32, i32)> = Vec::new();
            let (mut epoch, mut next) = (0, if random.chance(50) { i32::MAX - 20 } else { 0 });
            let mut offset = 0;
            for _ in 0..120 {
                let count = 1 + i32::try_from(random.below(6)).unwrap();
                let (epoch_sent, sequence, count) = match random.below(10) {
                    0 => {
                        (epoch, next) = (epoch + 1, 0);
                        (epoch, 0, count)
                    }
                    1 => (epoch, next.wrapping_add(1) & i32::MAX, count),
                    2 => (epoch - 1, next, count),
                    3..=5 if !sent.is_empty() => {
                        sent[sent.len()
                            - 1
                            - random.below(sent.len().min(PRODUCER_BATCHES_KEPT + 3) as u64) as usize]
                    }
                    _ => (epoch, next, count),
                };
                let epoch_sent = epoch_sent.max(0);
                let header = header(7, epoch_sent, sequence, count, offset);
                let sequences: Vec<i32> =
                    (0..count).map(|index| sequence.wrapping_add(index) & i32::MAX).collect();
                let expected = model.decide(epoch_sent, &sequences);
                let decision = states.decide(&header);
                match (expected, decision) {
                    (Ok(None), Ok(ProducerDecision::Accept)) => {
                        kinds[0] += 1;
                        sent.push((epoch_sent, sequence, count));
                        next = (sequences[sequences.len() - 1].wrapping_add(1)) & i32::MAX;
                        epoch = epoch_sent;
                        states.apply(&header);
                        model.accepted.push((epoch_sent, sequences, offset));
                        offset += i64::from(count);
                    }
                    (Ok(Some(base)), Ok(ProducerDecision::Duplicate(batch))) => {
                        kinds[1] += 1;
                        assert_eq!(batch.base_offset.0, base, "seed {seed}");
                    }
                    (Err("epoch"), Err(ProducerError::InvalidProducerEpoch { .. })) => kinds[2] += 1,
                    (Err("sequence"), Err(ProducerError::OutOfOrderSequence { .. })) => kinds[3] += 1,
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
        }
        assert!(kinds.iter().all(|&count| count > 100), "{kinds:?}");
    }
}
