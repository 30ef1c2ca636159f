//! Truncation: a follower whose log is no prefix of its leader's cuts it, or empties it and goes on elsewhere.
//!
//! | step | a power cut before the next one leaves |
//! |---|---|
//! | compaction and the removal of segments end; nothing is appended meanwhile, the caller sees to that | the log |
//! | all that was appended is committed, filled into the segments and flushed | the log |
//! | the end is looked for, and what the producers were there (`state/partition/rewind.rs`) | the log |
//! | the note of compaction is taken back to the end | the log, of which more is compacted anew |
//! | the write cache has nothing that is not durable as well | the log |
//! | a journal entry with the whole state of the log that is left is written; memory follows at once | the log that is left |
//! | segments and indexes behind the end are removed, the last segment is cut to it, durably | the log that is left |
//!
//! The entry takes the place of all that the checkpoint and the journal say of the log before it: the bytes that it
//! vouches for are settled. A restart that finds it does the last step again (`recovery.rs`). No checkpoint makes the
//! journal forget it before that step is done, for it settles the log first; and what comes later starts at its page's
//! start, as after a cut of the journal. The write cache is no use before the number that the entry names.
//!
//! A checkpoint does not wait for a log between the second and the sixth step, which may wait for the checkpoint: for
//! room in the ring. Readers do not wait at all; what was being read is read again, as with a replacement.
//!
//! An index must be gone before the log grows again, for it would point into the middle of new batches. The rest of the
//! last page is zeros again once the file was cut.

use super::LogError;
use super::appender::{Log, Taken};
use super::checkpoint::state_of;
use super::replacement::base_of_index;
use super::segment::{Segment, base_of_file_name};
use crate::journal::ENTRY_OVERHEAD_BYTES;
use crate::runtime::{File, Runtime};
use logmill_state::partition::{LogChange, PartitionSnapshot, ProducerStates, Rewind};
use logmill_wire::frame::checkpoint::{LogState, seal_state};
use logmill_wire::ids::{Offset, TimestampMs};
use logmill_wire::limits::{JOURNAL_GROUP_BYTES_MAX, PAGE_BYTES};
use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Bytes of a log that are looked through at a time for what producers wrote before a cut.
const LOOK_BACK_BYTES: u64 = 1 << 20;

/// What a log is after a truncation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Truncated {
    /// The log's end: at or before where it was to be cut, for batches are cut whole.
    pub end: Offset,
    /// The producers, as replaying all batches that are left would give them.
    pub producers: ProducerStates,
}

/// Where a log is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CutOff {
    /// The segment that the log goes on in, and its end; nothing is left of the log if that is 0.
    pub(super) base: Offset,
    pub(super) position: u64,
}

/// How far a truncation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Idle,
    Begun,
    /// All of the log is settled, and nothing is appended: no checkpoint need wait for it.
    Settled,
}

/// The entry that truncates a log.
pub(super) struct StateEntry {
    pub(super) bytes: Vec<u8>,
    /// What was put into the write cache before this group is of no use.
    pub(super) written_from: u64,
    cut_off: CutOff,
    opened_at: Option<TimestampMs>,
    snapshot: PartitionSnapshot,
}

impl StateEntry {
    pub(super) fn bytes_in_group(&self) -> usize {
        ENTRY_OVERHEAD_BYTES + self.bytes.len()
    }
}

/// What a log keeps of its truncations.
#[derive(Default)]
pub(super) struct Truncation {
    phase: Cell<Phase>,
    /// Whether somebody settles the log, or truncates it.
    settling: Cell<bool>,
    /// What the journal is to get.
    waiting: RefCell<Option<Rc<StateEntry>>>,
    /// What the log is after a truncation of which its owner has not heard.
    unseen: RefCell<Option<PartitionSnapshot>>,
    /// What is still to be done on disk.
    left_over: Cell<Option<CutOff>>,
    /// How many there were.
    count: Cell<u64>,
}

impl Truncation {
    /// Whether nothing keeps the log from growing.
    pub(super) fn is_idle(&self) -> bool {
        self.phase.get() == Phase::Idle
    }

    /// Whether nothing of an earlier truncation is left to be done.
    pub(super) fn is_done(&self) -> bool {
        self.is_idle() && self.left_over.get().is_none() && self.unseen.borrow().is_none()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.borrow().is_some()
    }

    /// How often the log was truncated: what was said of its end before does not hold any more.
    pub(super) fn count(&self) -> u64 {
        self.count.get()
    }

    /// The log's state, if its owner does not know yet that it was truncated.
    pub(super) fn unseen(&self) -> Option<PartitionSnapshot> {
        self.unseen.borrow().clone()
    }
}

impl<R: Runtime> Log<R> {
    /// Removes every batch that ends behind `to`. When this has returned, nothing brings them back; until then a restart
    /// finds either all of them or none. After an error, call it again: it may have come as far as that.
    ///
    /// Nothing may be appended meanwhile, and nothing awaited between the return and the change of the owner's
    /// [snapshot](super::Owner::snapshot): until it returns, checkpoints take the log's own. If the end is below the
    /// log's start, the log starts there, too.
    ///
    /// # Errors
    /// [`LogError`], of a damaged log as well: nothing of it is removed.
    pub async fn cut(self: &Rc<Self>, to: Offset) -> Result<Truncated, LogError> {
        self.truncate(LogChange::Cut { to }).await
    }

    /// Removes everything; the log starts and ends at `start`. Otherwise as [`Log::cut`].
    ///
    /// # Errors
    /// As [`Log::cut`].
    pub async fn reset(self: &Rc<Self>, start: Offset) -> Result<Truncated, LogError> {
        self.truncate(LogChange::Reset { start }).await
    }

    /// Makes a change that a follower asks for; see [`Log::cut`] and [`Log::reset`].
    ///
    /// # Errors
    /// As [`Log::cut`].
    pub async fn truncate(self: &Rc<Self>, change: LogChange) -> Result<Truncated, LogError> {
        self.check_health()?;
        let _busy = self.hold();
        while !self.truncation.is_idle() {
            self.segments_changed.wait().await;
        }
        self.truncation.phase.set(Phase::Begun);
        while self.cleaning.running.get() {
            self.segments_changed.wait().await;
        }
        self.pause_removal().await;
        let outcome = self.truncate_committed(change).await;
        self.truncation.phase.set(Phase::Idle);
        self.resume_removal();
        outcome
    }

    async fn truncate_committed(self: &Rc<Self>, change: LogChange) -> Result<Truncated, LogError> {
        // What is to be committed may wait for a checkpoint, which settles the log.
        while !self.is_committed() {
            self.wait_for_commit().await?;
        }
        while self.truncation.settling.replace(true) {
            self.segments_changed.wait().await;
        }
        let outcome = self.truncate_alone(change).await;
        self.truncation.settling.set(false);
        outcome
    }

    async fn truncate_alone(self: &Rc<Self>, change: LogChange) -> Result<Truncated, LogError> {
        self.open().await?;
        self.finish_truncation().await?;
        self.finish_replacement().await?;
        self.settle_alone().await?;
        while self.filling.get() {
            self.segments_changed.wait().await;
        }
        self.truncation.phase.set(Phase::Settled);
        self.segments_changed.notify_all();
        let before = match self.truncation.unseen().or_else(|| Some(self.owner()?.snapshot())) {
            Some(snapshot) => snapshot,
            None => return Err(LogError::Deleted),
        };
        let (cut_off, snapshot) = match change {
            LogChange::Cut { to } if to >= self.readable_end() => return Ok(self.as_it_is(&before)),
            LogChange::Cut { to } => self.plan_cut(to, before).await?,
            LogChange::Reset { start } if self.is_empty_at(start, &before) => {
                return Ok(self.as_it_is(&before));
            }
            LogChange::Reset { start } => emptied(start),
        };
        self.lower_cleaned_to(Offset(snapshot.next_offset)).await?;
        self.commit_truncation(cut_off, snapshot).await?;
        self.finish_truncation().await?;
        let snapshot = self.truncation.unseen().unwrap_or_default();
        Ok(self.as_it_is(&snapshot))
    }

    /// Nothing (more) has to be done for a truncation.
    fn as_it_is(&self, snapshot: &PartitionSnapshot) -> Truncated {
        self.truncation.unseen.replace(None);
        Truncated { end: Offset(snapshot.next_offset), producers: snapshot.producer_states() }
    }

    /// Whether a reset to `start` would change nothing.
    fn is_empty_at(&self, start: Offset, before: &PartitionSnapshot) -> bool {
        let is_empty = self.inner.borrow().segments.iter().all(|segment| segment.end() == 0);
        is_empty && self.start_offset() == start && *before == PartitionSnapshot::empty_at(start)
    }

    /// Whether all that was appended is durable, and the log's start is.
    fn is_committed(&self) -> bool {
        let inner = self.inner.borrow();
        inner.marks.is_empty()
            && inner.segments.iter().all(|segment| segment.durable == segment.end())
            && self.start.is_durable()
    }

    async fn wait_for_commit(self: &Rc<Self>) -> Result<(), LogError> {
        self.truncation_goes_on()?;
        self.store.hurry();
        self.store.progress.wait().await;
        self.truncation_goes_on()
    }

    fn truncation_goes_on(&self) -> Result<(), LogError> {
        self.check_health()?;
        if self.store.stopped.get() {
            return Err(LogError::Io(io::ErrorKind::Interrupted, "the broker is being stopped".into()));
        }
        Ok(())
    }

    async fn plan_cut(
        self: &Rc<Self>,
        to: Offset,
        before: PartitionSnapshot,
    ) -> Result<(CutOff, PartitionSnapshot), LogError> {
        let Some((cut_off, end)) = self.last_kept(to).await? else {
            return Ok(emptied(to.min(self.start_offset()).max(Offset(0))));
        };
        let mut rewind = Rewind::new(before, end);
        if !rewind.is_complete() {
            self.look_back(&mut rewind, cut_off).await?;
        }
        Ok((cut_off, rewind.finish()))
    }

    /// Where the last batch ends that does not end behind `to`: its place and its offset.
    async fn last_kept(self: &Rc<Self>, to: Offset) -> Result<Option<(CutOff, Offset)>, LogError> {
        for base in self.bases_before(to) {
            self.load_index(base).await?;
            let readable = self.all_of(base)?;
            let mut from = self.with_index(base, |index| index.floor_of_offset(to)).unwrap_or(0);
            loop {
                let (mut position, mut window, mut last) = (from, None, None);
                while let Some(found) = self.scan_on(readable, position, &mut window, |_| true).await? {
                    if found.header.next_offset() > to {
                        break;
                    }
                    position = found.position + found.bytes;
                    last = Some(found.header.next_offset());
                }
                if let Some(end) = last {
                    return Ok(Some((CutOff { base, position }, end)));
                }
                if from == 0 {
                    break;
                }
                from = self.with_index(base, |index| index.boundary_before(from - 1)).flatten().unwrap_or(0);
            }
        }
        Ok(None)
    }

    /// The segments that begin before `to`, newest first.
    fn bases_before(&self, to: Offset) -> Vec<Offset> {
        let inner = self.inner.borrow();
        inner.segments.iter().rev().map(|segment| segment.base).filter(|base| *base < to).collect()
    }

    /// Gives `rewind` the batches before a cut, newest first, as long as it needs them.
    async fn look_back(self: &Rc<Self>, rewind: &mut Rewind, cut_off: CutOff) -> Result<(), LogError> {
        for base in self.bases_before(cut_off.base.plus(1)) {
            let had_index = self.has_index(base);
            self.load_index(base).await?;
            let mut readable = self.all_of(base)?;
            if base == cut_off.base {
                readable.limit = cut_off.position;
            }
            while readable.limit > 0 && !rewind.is_complete() {
                self.truncation_goes_on()?;
                let far = readable.limit.saturating_sub(LOOK_BACK_BYTES);
                let from =
                    self.with_index(base, |index| index.boundary_before(far)).flatten().unwrap_or(0).min(far);
                let headers = self.headers_from(readable, from).await?;
                rewind.add_older(&headers);
                readable.limit = from;
            }
            if !had_index {
                self.forget_index(base);
            }
            if rewind.is_complete() {
                break;
            }
        }
        Ok(())
    }

    /// Commits the entry that makes `snapshot` the log's state.
    async fn commit_truncation(
        self: &Rc<Self>,
        cut_off: CutOff,
        snapshot: PartitionSnapshot,
    ) -> Result<(), LogError> {
        let entry = Rc::new(self.state_entry(cut_off, snapshot)?);
        while self.store.holds_written_before(entry.written_from) {
            self.wait_for_commit().await?;
        }
        let bytes = entry.bytes_in_group() as u64;
        while !self.store.takes(bytes) {
            if self.store.starved.get() {
                return Err(LogError::NoSpace);
            }
            self.store.wait_for_room(bytes).await;
            self.truncation_goes_on()?;
        }
        let count = self.truncation.count.get();
        self.store.note_pending(bytes);
        self.truncation.waiting.replace(Some(entry));
        self.enqueue();
        while self.truncation.count.get() == count {
            if let Err(error) = self.truncation_goes_on() {
                if self.truncation.waiting.take().is_some() {
                    self.store.note_taken(bytes);
                    return Err(error);
                }
                // It is being written; only a log directory that has failed does not say what became of it.
                if self.store.health.is_failed() {
                    return Err(error);
                }
            }
            self.store.progress.wait().await;
        }
        Ok(())
    }

    fn state_entry(&self, cut_off: CutOff, mut snapshot: PartitionSnapshot) -> Result<StateEntry, LogError> {
        let written_from = self.store.next_written();
        let opened_at = {
            let inner = self.inner.borrow();
            let segment = inner.segments.iter().find(|segment| segment.base == cut_off.base);
            segment.filter(|_| cut_off.position > 0).and_then(|segment| segment.opened_at)
        };
        // An entry is never split. A group may take a quarter of the ring, and has its own header.
        let ring = usize::try_from(self.store.settings.journal_bytes / 4).unwrap_or(usize::MAX);
        let room = ring.min(JOURNAL_GROUP_BYTES_MAX).saturating_sub(PAGE_BYTES);
        loop {
            let state = LogState {
                segment_opened_at: opened_at.map_or(-1, |at: TimestampMs| at.0),
                ..state_of(self.key, &self.directory_name, &snapshot, (cut_off.base, cut_off.position))
            };
            let bytes = seal_state(&state).map_err(|_| {
                LogError::Io(io::ErrorKind::Other, "the state of a log cannot be encoded".into())
            })?;
            if bytes.len() <= room {
                return Ok(StateEntry { bytes, written_from, cut_off, opened_at, snapshot });
            }
            let producers = snapshot.producers.len();
            if producers == 0 {
                let what = "the journal is too small for the state of a log";
                return Err(LogError::Io(io::ErrorKind::InvalidInput, what.into()));
            }
            snapshot.keep_latest_producers(producers * room / (bytes.len() + room / 8));
        }
    }

    /// Takes the entry that truncates the log, if it fits.
    pub(super) fn take_state(&self, inline_room: usize) -> Option<Taken<R>> {
        let fits = |entry: &mut Rc<StateEntry>| entry.bytes_in_group() <= inline_room;
        let entry = self.truncation.waiting.borrow_mut().take_if(fits)?;
        self.store.note_taken(entry.bytes_in_group() as u64);
        let CutOff { base, position } = entry.cut_off;
        Some(Taken {
            segment_base: base,
            to: position,
            declare: false,
            inline: None,
            extent: None,
            start: None,
            state: Some(entry),
        })
    }

    /// Takes note that a restart would find the log truncated.
    pub(super) fn truncated(&self, entry: &StateEntry) {
        let CutOff { base, position } = entry.cut_off;
        let end = Offset(entry.snapshot.next_offset);
        let gone = {
            let mut inner = self.inner.borrow_mut();
            let kept = inner.segments.partition_point(|segment| position > 0 && segment.base < base);
            let gone = inner.segments.split_off(kept);
            if position > 0 {
                let mut segment = Segment::settled(base, position, false);
                segment.opened_at = entry.opened_at;
                inner.segments.push_back(segment);
            }
            inner.closed_end = (base, position);
            inner.readable = (base, position, end);
            inner.segment_opened_at = entry.opened_at;
            gone
        };
        self.store.note_evicted(gone.iter().map(Segment::cached_bytes).sum());
        // The last page lies in the file, and in no entry of the journal that lives.
        self.covered_cut.set(0);
        self.uncached_end.set(None);
        self.start.go_back_to(Offset(entry.snapshot.log_start_offset), base);
        self.cleaning.replacements.set(self.cleaning.replacements.get() + 1);
        self.truncation.left_over.set(Some(entry.cut_off));
        self.truncation.unseen.replace(Some(entry.snapshot.clone()));
        self.truncation.count.set(self.truncation.count.get() + 1);
        self.store.note_written_from(entry.written_from);
    }

    /// Does on disk what the journal already says, unless it was done.
    pub(super) async fn finish_truncation(&self) -> Result<(), LogError> {
        let Some(cut_off) = self.truncation.left_over.get() else { return Ok(()) };
        remove_behind(&self.store.runtime, &self.path(), cut_off, &[]).await?;
        self.store.sync_names(&self.path()).await?;
        if cut_off.position > 0 {
            let file = self.file_of(cut_off.base).await?;
            file.set_length(cut_off.position).await?;
            self.flush(&file, "a segment that was cut").await?;
        }
        self.truncation.left_over.set(None);
        Ok(())
    }

    /// Settles the log, unless it is settled for being truncated.
    pub(super) async fn settle(self: &Rc<Self>) -> Result<(), LogError> {
        let _busy = self.keep_open();
        loop {
            if self.truncation.phase.get() == Phase::Settled && self.truncation.left_over.get().is_none() {
                return Ok(());
            }
            if !self.truncation.settling.replace(true) {
                break;
            }
            self.segments_changed.wait().await;
        }
        let outcome = if self.store.health.is_failed() {
            // A truncation may have met the error: what its flush has lost, another flush does not bring back.
            Err(LogError::DirectoryFailed(self.store.health.cause().unwrap_or_default()))
        } else {
            match self.finish_truncation().await {
                Ok(()) => self.settle_alone().await,
                error => error,
            }
        };
        self.truncation.settling.set(false);
        self.segments_changed.notify_all();
        outcome
    }

    /// An error while the log is being truncated, or until an interrupted truncation was gone through with.
    pub(super) fn check_not_truncated(&self) -> Result<(), LogError> {
        if self.truncation.is_done() {
            return Ok(());
        }
        Err(LogError::Io(io::ErrorKind::ResourceBusy, "the log is being truncated".into()))
    }
}

fn emptied(start: Offset) -> (CutOff, PartitionSnapshot) {
    (CutOff { base: start, position: 0 }, PartitionSnapshot::empty_at(start))
}

/// Removes the files of a log that its state has nothing of, except those of `kept` segments, which the log has begun
/// since. The names are then to be made durable.
pub(super) async fn remove_behind<R: Runtime>(
    runtime: &R,
    directory: &Path,
    cut_off: CutOff,
    kept: &[Offset],
) -> io::Result<()> {
    for entry in runtime.read_directory(directory).await? {
        let is_log = base_of_file_name(&entry.name).is_some_and(|base| {
            let is_gone = base > cut_off.base || cut_off.position == 0;
            is_gone && !kept.contains(&base)
        });
        let is_index =
            base_of_index(&entry.name).is_some_and(|base| base >= cut_off.base || cut_off.position == 0);
        if is_log || is_index {
            match runtime.remove_file(&directory.join(&entry.name)).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}
