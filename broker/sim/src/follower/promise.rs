//! What a follower's log has been given, and what may be found of it.

use logmill_state::partition::{Leader, LogChange, PartitionSnapshot};
use logmill_wire::ids::Offset;
use logmill_wire::record_batch::BatchHeader;

/// A batch as it stands in the log.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its header.
    pub header: BatchHeader,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// How a life of the broker ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The process died.
    Kill,
    /// The power went.
    PowerCut,
}

/// One log, as its leaders and its owner know it.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    /// What was appended and not cut off, oldest first.
    pub batches: Vec<Batch>,
    /// Where the log began when it was last empty.
    pub base: Offset,
    /// Where the log starts.
    pub start: Offset,
    /// The largest start that was asked for.
    pub start_asked: Offset,
    /// The end of what was acknowledged.
    pub acknowledged: Offset,
    /// The end of what was durable when the log was last cut, or found.
    pub floor: Offset,
    /// A change that was asked for, of which it is not known whether it was made.
    pub pending: Option<LogChange>,
    /// How often changes were begun, and ended.
    pub changes: u64,
    /// Whether the log still has all batches that its state was made of.
    pub is_whole: bool,
    /// Whether its appends are acknowledged from the write cache.
    pub write_caching: bool,
    /// The leader epoch of the last append of all.
    pub epoch: i32,
    /// The number of the next batch; unique in a run.
    pub next_number: u64,
    /// The next sequence number of each producer.
    pub sequences: Vec<i32>,
}

impl Promise {
    /// The log's end.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.batches.last().map_or(self.base, |last| last.header.next_offset())
    }

    /// The bytes from the batch that holds `offset` on.
    #[must_use]
    pub fn stream_from(&self, offset: Offset) -> Vec<u8> {
        let from = self.batches.partition_point(|batch| batch.header.next_offset() <= offset);
        self.batches.iter().skip(from).flat_map(|batch| batch.bytes.iter().copied()).collect()
    }

    fn end_of_kept(&self, to: Offset) -> Option<Offset> {
        let kept = self.batches.partition_point(|batch| batch.header.next_offset() <= to);
        let last = kept.checked_sub(1).and_then(|at| self.batches.get(at))?;
        Some(last.header.next_offset())
    }

    /// Whether a change may leave the log from `start` to `end`.
    #[must_use]
    pub fn allows(&self, change: LogChange, start: Offset, end: Offset) -> bool {
        match change {
            LogChange::Reset { start: at } => (start, end) == (at, at),
            LogChange::Cut { to } if to >= self.end() => (start, end) == (self.start, self.end()),
            LogChange::Cut { to } => match self.end_of_kept(to).filter(|kept| *kept >= self.start) {
                Some(kept) => (start, end) == (self.start, kept),
                // It begins again where the last batch ends of those before its start, if any is still there.
                None => start == end && end <= to.min(self.start),
            },
        }
    }

    /// Where a change is expected to leave the log.
    #[must_use]
    pub fn expected(&self, change: LogChange) -> (Offset, Offset) {
        match change {
            LogChange::Reset { start } => (start, start),
            LogChange::Cut { to } => {
                let kept = self.end_of_kept(to).filter(|kept| *kept >= self.start);
                kept.map_or((to.min(self.start), to.min(self.start)), |kept| (self.start, kept))
            }
        }
    }

    /// Takes note that the log was changed, and is now from `start` to `end`.
    pub fn changed(&mut self, change: LogChange, start: Offset, end: Offset) {
        let is_cut = matches!(change, LogChange::Cut { .. }) && self.end_of_kept(end) == Some(end);
        if is_cut && end >= self.start {
            self.batches.retain(|batch| batch.header.next_offset() <= end);
        } else if end != self.end() || matches!(change, LogChange::Reset { .. }) {
            self.batches.clear();
            self.base = end;
            self.is_whole = matches!(change, LogChange::Reset { .. });
        }
        self.start = start;
        self.start_asked = start;
        self.acknowledged = end;
        self.floor = end;
        self.pending = None;
        self.changes += 1;
    }

    /// The state of the log, by replaying all of its batches.
    #[must_use]
    pub fn replayed(&self) -> Leader {
        let mut leader = Leader::starting_at(self.base);
        for batch in &self.batches {
            leader.apply_batch(&batch.header);
        }
        leader.advance_durable(self.end());
        leader
    }

    /// Holds the state that a restart has found against what was promised, and goes on with that.
    ///
    /// # Errors
    /// What was broken.
    pub fn found(&mut self, snapshot: &PartitionSnapshot, how: End) -> Result<(), String> {
        let (start, end) = (Offset(snapshot.log_start_offset), Offset(snapshot.next_offset));
        let least = if how == End::PowerCut && self.write_caching { self.floor } else { self.acknowledged };
        let is_boundary = end == self.base || self.end_of_kept(end) == Some(end);
        // The start may have been moved to what was in the write cache alone.
        let is_start_lost = how == End::PowerCut && self.write_caching && start == end && end < self.start;
        let is_start = is_start_lost || (self.start..=self.start_asked.max(self.start)).contains(&start);
        let is_old = is_boundary && end >= least && is_start;
        let is_emptied =
            matches!(self.pending, Some(LogChange::Reset { start: at }) if at == end && at == start);
        match self.pending {
            Some(change) if (!is_old || is_emptied) && self.allows(change, start, end) => {
                self.changed(change, start, end);
                // It cannot be told from a log that was empty there before.
                self.is_whole &= !is_old;
            }
            _ if is_old => {
                self.batches.retain(|batch| batch.header.next_offset() <= end);
                if start != self.start {
                    self.is_whole = false;
                }
                (self.start, self.start_asked, self.acknowledged, self.floor) = (start, start, end, end);
                self.pending = None;
                self.changes += 1;
            }
            pending => {
                return Err(format!(
                    "the log is {start}..{end}; it was {}..{}, of which {least} was acknowledged, and {pending:?} was asked for",
                    self.start,
                    self.end()
                ));
            }
        }
        self.compare_state(snapshot)
    }

    /// Whether a state is what replaying all batches gives.
    ///
    /// # Errors
    /// If it is another.
    pub fn compare_state(&self, snapshot: &PartitionSnapshot) -> Result<(), String> {
        let expected = self.replayed().snapshot();
        let is_same = snapshot.producers == expected.producers
            && snapshot.epochs == expected.epochs
            && snapshot.leader_epoch == expected.leader_epoch;
        if self.is_whole && !is_same {
            return Err(format!("the state is {snapshot:?}, a replay gives {expected:?}"));
        }
        Ok(())
    }
}
