//! The state of a partition whose log was cut: what replaying all of the batches that are left would give.
//!
//! Most producers wrote nothing of what was cut off: what is known of them stays true. Of the others the log's batches
//! before the cut are looked through, newest first, until it is certain what was known before:
//!
//! | of a producer that wrote behind the cut | what is known |
//! |---|---|
//! | fewer batches are kept than may be, and one lies before the cut | the kept ones before the cut: none was pushed out by a newer one |
//! | its kept batches begin with its first of all (epoch 0, sequence 0) | the kept ones before the cut, maybe none |
//! | as many batches as are kept were found, or a new epoch, or a break in their sequence | those |
//! | the log's beginning was reached | what was found |
//!
//! A producer that was forgotten before the cut, because it was idle for too long or there were too many, stays so.

use super::Leader;
use super::producers::{ProducerStates, sequence_after};
use super::snapshot::{PartitionSnapshot, ProducerSnapshot};
use logmill_wire::ids::{Offset, ProducerEpoch, ProducerId};
use logmill_wire::limits::PRODUCER_BATCHES_KEPT;
use logmill_wire::record_batch::BatchHeader;
use std::collections::{BTreeMap, VecDeque};

/// What was found of a producer, from the cut back.
#[derive(Default)]
struct Found {
    /// Oldest first.
    batches: VecDeque<BatchHeader>,
    /// How many of them are kept for the detection of duplicates.
    kept: usize,
    epoch: Option<ProducerEpoch>,
    /// The sequence number that the batch before them must lead to.
    leads_to: Option<i32>,
    is_certain: bool,
}

impl Found {
    fn add(&mut self, header: &BatchHeader) {
        let is_sequenced = header.base_sequence >= 0 && !header.attributes.is_control();
        let last_sequence = sequence_after(header.base_sequence.max(0), header.last_offset_delta);
        let is_of_epoch = self.epoch.is_none_or(|epoch| epoch == header.producer_epoch);
        let goes_on = self.leads_to.is_none_or(|next| next == sequence_after(last_sequence, 1));
        self.batches.push_front(*header);
        self.epoch = self.epoch.or(Some(header.producer_epoch));
        if is_sequenced {
            self.kept += 1;
            self.leads_to = Some(header.base_sequence);
        }
        let is_first = is_sequenced && is_first_of_all(header.producer_epoch.0, header.base_sequence);
        self.is_certain =
            !is_of_epoch || (is_sequenced && !goes_on) || self.kept >= PRODUCER_BATCHES_KEPT || is_first;
    }
}

/// Whether a producer cannot have written anything before a batch.
const fn is_first_of_all(epoch: i16, sequence: i32) -> bool {
    epoch == 0 && sequence == 0
}

/// A partition's state on its way back to where its log was cut.
pub struct Rewind {
    snapshot: PartitionSnapshot,
    sought: BTreeMap<ProducerId, Found>,
    uncertain: usize,
}

impl Rewind {
    /// The state `snapshot`, of a log whose batches from `end` on are cut off; all others end at or before `end`.
    #[must_use]
    pub fn new(mut snapshot: PartitionSnapshot, end: Offset) -> Self {
        snapshot.next_offset = end.0;
        snapshot.durable_end = end.0;
        snapshot.epochs.retain(|entry| entry.start_offset < end);
        if end.0 < snapshot.log_start_offset {
            snapshot.log_start_offset = end.0;
            snapshot.epochs.clear();
        }
        snapshot.high_watermark = snapshot.high_watermark.min(end.0);
        snapshot.leader_epoch = snapshot.epochs.last().map_or(-1, |latest| latest.epoch.0);
        let mut sought = BTreeMap::new();
        snapshot.producers.retain_mut(|producer| {
            if producer.last_offset < end.0 {
                return true;
            }
            let is_whole = producer.batches.first().is_some_and(|first| {
                is_first_of_all(producer.producer_epoch, first.first_sequence)
                    || (producer.batches.len() < PRODUCER_BATCHES_KEPT && first.last_offset() < end)
            });
            if !is_whole {
                sought.insert(ProducerId(producer.producer_id), Found::default());
                return false;
            }
            producer.batches.retain(|batch| batch.last_offset() < end);
            producer.last_active_ms = None;
            producer.last_offset = producer.batches.last().map_or(-1, |last| last.last_offset().0);
            !producer.batches.is_empty()
        });
        let uncertain = sought.len();
        Self { snapshot, sought, uncertain }
    }

    /// Whether no batch need be looked at any more.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.uncertain == 0
    }

    /// Takes batches that stand in the log right before those of earlier calls, the first ones right before the cut;
    /// they are in the order of the log.
    pub fn add_older(&mut self, batches: &[BatchHeader]) {
        for header in batches.iter().rev() {
            if let Some(found) = self.sought.get_mut(&header.producer_id).filter(|found| !found.is_certain) {
                found.add(header);
                self.uncertain -= usize::from(found.is_certain);
            }
        }
    }

    /// The state of the log that is left. Either it [is complete](Rewind::is_complete), or all batches were looked at.
    #[must_use]
    pub fn finish(self) -> PartitionSnapshot {
        let mut states = ProducerStates::default();
        for found in self.sought.values() {
            found.batches.iter().for_each(|header| states.apply(header));
        }
        let mut snapshot = self.snapshot;
        let found = states.iter().map(|(id, state)| ProducerSnapshot::of(id, state));
        snapshot.producers.extend(found);
        snapshot.producers.sort_by_key(|producer| producer.producer_id);
        snapshot
    }
}

impl PartitionSnapshot {
    /// The state of an empty log that starts and ends at `start`.
    ///
    /// # Panics
    /// If `start` is negative.
    #[must_use]
    pub fn empty_at(start: Offset) -> Self {
        Leader::starting_at(start).snapshot()
    }

    /// The state of the producers; none if the snapshot contradicts itself.
    #[must_use]
    pub fn producer_states(&self) -> ProducerStates {
        Leader::restore(self).map(|leader| leader.producers().clone()).unwrap_or_default()
    }

    /// Forgets producers until `count` are left, those that have written least lately first.
    pub fn keep_latest_producers(&mut self, count: usize) {
        if self.producers.len() <= count {
            return;
        }
        self.producers.sort_by_key(|producer| std::cmp::Reverse(producer.last_offset));
        self.producers.truncate(count);
        self.producers.sort_by_key(|producer| producer.producer_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::append::tests::batch_of;
    use crate::test_random::Random;
    use logmill_wire::ids::{LeaderEpoch, TimestampMs};

    /// A log of batches of a few producers, some of which begin new epochs or lose sequence numbers.
    fn random_log(random: &mut Random) -> Vec<BatchHeader> {
        let producers = 1 + random.below(6);
        let mut next = vec![(0_i16, 0_i32); producers as usize];
        let (mut offset, mut epoch, mut log) = (0, 0, Vec::new());
        for _ in 0..random.below(120) {
            let records = 1 + random.below(4) as i32;
            let at = random.below(producers) as usize;
            let (producer_epoch, sequence) = &mut next[at];
            match random.below(20) {
                0 => (*producer_epoch, *sequence) = (*producer_epoch + 1, 0),
                1 => *sequence += 3,
                2 => offset += 5,
                3 => epoch += 1,
                _ => {}
            }
            let is_known = random.below(10) > 0;
            log.push(BatchHeader {
                producer_id: ProducerId(if is_known { at as i64 } else { -1 }),
                producer_epoch: ProducerEpoch(if is_known { *producer_epoch } else { -1 }),
                base_sequence: if is_known { *sequence } else { -1 },
                base_offset: Offset(offset),
                leader_epoch: LeaderEpoch(epoch),
                max_timestamp: TimestampMs(offset),
                ..batch_of(records)
            });
            if is_known {
                *sequence += records;
            }
            offset += i64::from(records);
        }
        log
    }

    fn replayed(log: &[BatchHeader]) -> Leader {
        let mut leader = Leader::default();
        for header in log {
            leader.apply_batch(header);
            leader.advance_durable(header.next_offset());
        }
        leader
    }

    #[test]
    fn a_rewound_state_is_that_of_a_replay() {
        let mut random = Random::seeded(11);
        let (mut looked_at, mut spared) = (0, 0);
        for _ in 0..4_000 {
            let log = random_log(&mut random);
            let kept = random.below(log.len() as u64 + 1) as usize;
            let expected = replayed(&log[..kept]);
            let mut rewind = Rewind::new(replayed(&log).snapshot(), expected.next_offset());
            let mut at = kept;
            while !rewind.is_complete() && at > 0 {
                let from = at - (1 + random.below(5) as usize).min(at);
                rewind.add_older(&log[from..at]);
                at = from;
                looked_at += 1;
            }
            spared += at;
            let rewound = rewind.finish();
            assert_eq!(rewound, expected.snapshot(), "{kept} of {log:?}");
            let restored = Leader::restore(&rewound).unwrap();
            assert_eq!(restored.snapshot(), rewound);
            assert_eq!(&rewound.producer_states(), restored.producers());
        }
        assert!(looked_at > 1_000 && spared > 20_000, "{looked_at} looks, {spared} batches spared");
    }

    #[test]
    fn a_cut_before_the_start_leaves_an_empty_log() {
        let mut random = Random::seeded(3);
        let log = random_log(&mut random);
        let mut leader = replayed(&log);
        leader.advance_log_start(Offset(50)).unwrap();
        let rewound = Rewind::new(leader.snapshot(), Offset(40)).finish();
        assert_eq!((rewound.log_start_offset, rewound.next_offset, rewound.high_watermark), (40, 40, 40));
        assert_eq!((rewound.leader_epoch, rewound.epochs.len()), (-1, 0));
        assert!(Leader::restore(&rewound).is_ok());
        assert_eq!(PartitionSnapshot::empty_at(Offset(7)).producer_states(), ProducerStates::default());
    }

    #[test]
    fn the_producers_that_wrote_least_lately_go_first() {
        let mut snapshot = PartitionSnapshot::empty_at(Offset(0));
        snapshot.producers = [(1, 30), (2, 10), (3, 20)]
            .map(|(producer_id, last_offset)| ProducerSnapshot {
                producer_id,
                last_offset,
                ..ProducerSnapshot::default()
            })
            .to_vec();
        snapshot.keep_latest_producers(2);
        assert_eq!(snapshot.producers.iter().map(|it| it.producer_id).collect::<Vec<_>>(), [1, 3]);
    }
}
