//! Which leader epoch began at which offset (KIP-101, KIP-279, KIP-320).

use logmill_wire::ids::{LeaderEpoch, Offset};
use logmill_wire::limits::PARTITION_LEADER_EPOCHS_MAX;

/// One leader epoch and the offset of the first record that it could write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochEntry {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Where it begins.
    pub start_offset: Offset,
}

/// The answer to "where does this epoch end?".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochEnd {
    /// The largest known epoch that is not above the one asked for.
    pub epoch: LeaderEpoch,
    /// The offset after its last record.
    pub end_offset: Offset,
}

impl EpochEnd {
    /// "Nothing is known", on the wire (-1, -1).
    pub const UNDEFINED: Self = Self { epoch: LeaderEpoch::NONE, end_offset: Offset(-1) };

    /// Whether this is [`EpochEnd::UNDEFINED`].
    #[must_use]
    pub fn is_undefined(self) -> bool {
        self == Self::UNDEFINED
    }
}

/// Leader epochs with their start offsets, both strictly rising.
///
/// At most [`PARTITION_LEADER_EPOCHS_MAX`] are kept. Beyond that the oldest is forgotten, after which it is
/// answered like an epoch whose records retention has removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EpochHistory {
    entries: Vec<EpochEntry>,
    /// The last of them, where every append looks without reaching for the others.
    latest: Option<EpochEntry>,
}

impl EpochHistory {
    /// The entries, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = EpochEntry> + '_ {
        self.entries.iter().copied()
    }

    /// How many epochs are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no epoch is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The newest epoch.
    #[must_use]
    pub fn latest(&self) -> Option<EpochEntry> {
        self.latest
    }

    fn note_latest(&mut self) {
        self.latest = self.entries.last().copied();
    }

    /// The epoch of the record at `offset`, if the history reaches back to it.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        Some(self.entries.get(after.checked_sub(1)?)?.epoch)
    }

    /// Notes that `epoch` begins at `start_offset`. The newest epoch keeps its start unless this one is
    /// lower. Entries that would no longer rise are dropped: an epoch in which nothing was written leaves no
    /// trace once the next begins at its offset.
    ///
    /// # Panics
    /// If either number is negative.
    pub fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) {
        assert!(epoch.0 >= 0, "leader epoch {epoch} is negative");
        assert!(start_offset.0 >= 0, "start offset {start_offset} of leader epoch {epoch} is negative");
        if self.latest().is_some_and(|latest| latest.epoch == epoch && latest.start_offset <= start_offset) {
            return;
        }
        while self.entries.last().is_some_and(|last| last.epoch >= epoch || last.start_offset >= start_offset)
        {
            self.entries.pop();
        }
        if self.entries.len() == PARTITION_LEADER_EPOCHS_MAX {
            self.entries.remove(0);
        }
        self.entries.push(EpochEntry { epoch, start_offset });
        self.note_latest();
    }

    /// Where `requested` ends in a log that ends at `log_end_offset`, as `OffsetForLeaderEpoch` answers it.
    ///
    /// | requested epoch | answer |
    /// |---|---|
    /// | none (-1), or above the newest | undefined |
    /// | the newest | itself, the log's end |
    /// | known, or between two known ones | the one at or below it, the start of the next |
    /// | below the oldest | itself, the start of the oldest |
    ///
    /// The last row lets a reader go on from the log's start when the records of its epoch are gone, instead
    /// of reporting a loss (KIP-279).
    #[must_use]
    pub fn end_offset_for(&self, requested: LeaderEpoch, log_end_offset: Offset) -> EpochEnd {
        let Some(latest) = self.latest() else { return EpochEnd::UNDEFINED };
        if requested == LeaderEpoch::NONE || requested > latest.epoch {
            return EpochEnd::UNDEFINED;
        }
        if requested == latest.epoch {
            return EpochEnd { epoch: requested, end_offset: log_end_offset };
        }
        let next = self.entries.partition_point(|entry| entry.epoch <= requested);
        let Some(higher) = self.entries.get(next) else { return EpochEnd::UNDEFINED };
        let floor = next.checked_sub(1).and_then(|index| self.entries.get(index));
        let epoch = floor.map_or(requested, |entry| entry.epoch);
        EpochEnd { epoch, end_offset: higher.start_offset }
    }

    /// Forgets the epochs that begin at or after `end_offset`, where the log now ends.
    pub fn truncate_from_end(&mut self, end_offset: Offset) {
        let kept = self.entries.partition_point(|entry| entry.start_offset < end_offset);
        self.entries.truncate(kept);
        self.note_latest();
    }

    /// Forgets the epochs that end at or before `start_offset`, where the log now starts; the epoch in which
    /// that offset lies begins there from now on.
    pub fn truncate_from_start(&mut self, start_offset: Offset) {
        let at_or_before = self.entries.partition_point(|entry| entry.start_offset <= start_offset);
        let Some(first_kept) = at_or_before.checked_sub(1) else { return };
        self.entries.drain(..first_kept);
        if let Some(first) = self.entries.first_mut() {
            first.start_offset = start_offset;
        }
        self.note_latest();
    }

    /// The history that `entries` describe, or the index of the first entry that is negative, does not rise,
    /// or exceeds the bound.
    pub(super) fn restore(entries: impl IntoIterator<Item = EpochEntry>) -> Result<Self, usize> {
        let mut restored: Vec<EpochEntry> = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let rises = restored
                .last()
                .is_none_or(|last| last.epoch < entry.epoch && last.start_offset < entry.start_offset);
            let fits = entry.epoch.0 >= 0 && entry.start_offset.0 >= 0 && index < PARTITION_LEADER_EPOCHS_MAX;
            if !rises || !fits {
                return Err(index);
            }
            restored.push(entry);
        }
        let latest = restored.last().copied();
        Ok(Self { entries: restored, latest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    fn history(entries: &[(i32, i64)]) -> EpochHistory {
        let mut history = EpochHistory::default();
        for &(epoch, start) in entries {
            history.assign(LeaderEpoch(epoch), Offset(start));
        }
        history
    }

    fn pairs(history: &EpochHistory) -> Vec<(i32, i64)> {
        history.iter().map(|entry| (entry.epoch.0, entry.start_offset.0)).collect()
    }

    fn end(history: &EpochHistory, epoch: i32, log_end: i64) -> (i32, i64) {
        let answer = history.end_offset_for(LeaderEpoch(epoch), Offset(log_end));
        (answer.epoch.0, answer.end_offset.0)
    }

    #[test]
    fn an_empty_history_knows_nothing() {
        let empty = EpochHistory::default();
        assert_eq!(end(&empty, 0, 10), (-1, -1));
        assert_eq!(end(&empty, -1, 10), (-1, -1));
        assert_eq!(empty.epoch_at(Offset(3)), None);
    }

    #[test]
    fn ends_follow_the_table() {
        let history = history(&[(2, 10), (4, 20), (5, 30)]);
        assert_eq!(end(&history, -1, 40), (-1, -1));
        assert_eq!(end(&history, 6, 40), (-1, -1));
        assert_eq!(end(&history, 5, 40), (5, 40));
        assert_eq!(end(&history, 4, 40), (4, 30));
        assert_eq!(end(&history, 3, 40), (2, 20), "between two epochs the lower one answers");
        assert_eq!(end(&history, 2, 40), (2, 20));
        assert_eq!(end(&history, 1, 40), (1, 10), "below the oldest the requested epoch is given back");
        assert_eq!(end(&history, 0, 40), (0, 10));
    }

    #[test]
    fn an_epoch_without_records_leaves_no_trace() {
        assert_eq!(pairs(&history(&[(1, 0), (2, 5), (3, 5)])), [(1, 0), (3, 5)]);
        assert_eq!(pairs(&history(&[(1, 0), (2, 5), (2, 9)])), [(1, 0), (2, 5)], "a start is not moved up");
        assert_eq!(pairs(&history(&[(1, 0), (2, 5), (2, 3)])), [(1, 0), (2, 3)]);
        assert_eq!(pairs(&history(&[(1, 0), (4, 5), (3, 9)])), [(1, 0), (3, 9)]);
    }

    #[test]
    fn truncation_keeps_the_entry_at_the_start_and_drops_the_one_at_the_end() {
        let full = history(&[(2, 10), (4, 20), (5, 30)]);
        for (at, left) in [
            (5, vec![(2, 10), (4, 20), (5, 30)]),
            (10, vec![(2, 10), (4, 20), (5, 30)]),
            (15, vec![(2, 15), (4, 20), (5, 30)]),
            (20, vec![(4, 20), (5, 30)]),
            (99, vec![(5, 99)]),
        ] {
            let mut history = full.clone();
            history.truncate_from_start(Offset(at));
            assert_eq!(pairs(&history), left, "from start at {at}");
        }
        for (at, left) in [(31, 3), (30, 2), (20, 1), (11, 1), (10, 0), (0, 0)] {
            let mut history = full.clone();
            history.truncate_from_end(Offset(at));
            assert_eq!(history.len(), left, "from end at {at}");
        }
    }

    #[test]
    fn the_oldest_are_forgotten_beyond_the_bound() {
        let mut history = EpochHistory::default();
        let count = i32::try_from(PARTITION_LEADER_EPOCHS_MAX).unwrap() + 7;
        for epoch in 0..count {
            history.assign(LeaderEpoch(epoch), Offset(i64::from(epoch) * 10));
        }
        assert_eq!(history.len(), PARTITION_LEADER_EPOCHS_MAX);
        assert_eq!(history.iter().next().unwrap().epoch, LeaderEpoch(7));
        assert_eq!(end(&history, 6, 1_000_000), (6, 70));
    }

    #[test]
    fn restore_refuses_what_does_not_rise() {
        let entry = |epoch, start| EpochEntry { epoch: LeaderEpoch(epoch), start_offset: Offset(start) };
        assert_eq!(EpochHistory::restore([entry(1, 0), entry(1, 5)]), Err(1));
        assert_eq!(EpochHistory::restore([entry(1, 5), entry(2, 5)]), Err(1));
        assert_eq!(EpochHistory::restore([entry(-1, 0)]), Err(0));
        assert_eq!(EpochHistory::restore([entry(0, -1)]), Err(0));
        let good = history(&[(1, 0), (3, 9)]);
        assert_eq!(EpochHistory::restore(good.iter()), Ok(good));
    }

    /// The epoch of every record, one by one.
    struct EveryRecord {
        epochs: Vec<i32>,
        start: usize,
    }

    impl EveryRecord {
        fn end_of(&self, requested: i32) -> (i32, i64) {
            let log = &self.epochs[self.start..];
            let below = log.iter().filter(|&&epoch| epoch <= requested).count();
            let floor = log[..below].last().copied().unwrap_or(requested);
            (floor, i64::try_from(self.start + below).unwrap())
        }
    }

    #[test]
    fn agrees_with_the_epoch_of_every_record() {
        for seed in 0..200 {
            let mut random = Random::seeded(seed);
            let mut model = EveryRecord { epochs: Vec::new(), start: 0 };
            let mut history = EpochHistory::default();
            let mut epoch = 0;
            for _ in 0..60 {
                match random.below(10) {
                    0 => {
                        let len = (model.epochs.len() - model.start) as u64;
                        let end = model.start + random.below(len + 1) as usize;
                        model.epochs.truncate(end);
                        history.truncate_from_end(Offset(end as i64));
                    }
                    1 => {
                        let len = (model.epochs.len() - model.start) as u64;
                        model.start += random.below(len + 1) as usize;
                        history.truncate_from_start(Offset(model.start as i64));
                    }
                    _ => {
                        epoch += i32::try_from(random.below(3)).unwrap();
                        for _ in 0..=random.below(4) {
                            history.assign(LeaderEpoch(epoch), Offset(model.epochs.len() as i64));
                            model.epochs.push(epoch);
                        }
                    }
                }
                let log_end = model.epochs.len() as i64;
                for offset in model.start..model.epochs.len() {
                    let expected = Some(LeaderEpoch(model.epochs[offset]));
                    assert_eq!(history.epoch_at(Offset(offset as i64)), expected, "seed {seed}, {offset}");
                }
                let Some(&last) = model.epochs[model.start..].last() else { continue };
                for requested in 0..=last {
                    assert_eq!(end(&history, requested, log_end), model.end_of(requested), "seed {seed}");
                }
                // An emptied epoch may linger at the log's end, as in Kafka; above it nothing is known.
                let newest = history.latest().unwrap().epoch.0;
                assert_eq!(end(&history, newest + 1, log_end), (-1, -1), "seed {seed}");
            }
        }
    }
}
