//! The log's start. It moves in the journal; the segments that lie before it go afterwards.
//!
//! | a segment's file goes | because |
//! |---|---|
//! | once the start beyond it is durable | otherwise a restart would miss it |
//! | once no live journal entry is of it, and no checkpoint ends in it | a restart writes there what those vouch for |
//! | never if it is the last one | the log's next append goes there |
//!
//! A file that comes back after a power cut is found before the log's start when the log is opened, and goes again.

use super::LogError;
use super::appender::{Log, Taken};
use super::segment::log_file_name;
use crate::journal::ENTRY_OVERHEAD_BYTES;
use crate::runtime::Runtime;
use logmill_wire::ids::Offset;
use std::cell::Cell;
use std::io;
use std::rc::Rc;

/// The most that the entry with a log's name takes in a group.
const DECLARE_BYTES_MAX: usize = 512;

/// How far the log's start has come.
pub(super) struct LogStart {
    /// Where the log is to start.
    wanted: Cell<Offset>,
    /// What the newest entry in a group says.
    taken: Cell<Offset>,
    /// What a restart would find.
    durable: Cell<Offset>,
    /// No live journal entry is of a segment before this one, and the last checkpoint ends in none of them.
    free_below: Cell<Offset>,
    removing: Cell<bool>,
}

impl LogStart {
    pub(super) fn at(start: Offset, free_below: Offset) -> Self {
        Self {
            wanted: Cell::new(start),
            taken: Cell::new(start),
            durable: Cell::new(start),
            free_below: Cell::new(free_below),
            removing: Cell::new(false),
        }
    }

    pub(super) fn is_pending(&self) -> bool {
        self.wanted.get() > self.taken.get()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.wanted.get() == self.durable.get() && !self.removing.get()
    }

    /// Whether a restart would find the log where it is to start.
    pub(super) fn is_durable(&self) -> bool {
        self.wanted.get() == self.durable.get()
    }

    /// Takes note that the log was truncated, and goes on in segment `base`.
    pub(super) fn go_back_to(&self, start: Offset, base: Offset) {
        for known in [&self.wanted, &self.taken, &self.durable] {
            known.set(start);
        }
        self.free_below.set(self.free_below.get().min(base));
    }

    pub(super) fn forget_pending(&self) {
        self.wanted.set(self.taken.get());
    }
}

impl<R: Runtime> Log<R> {
    /// Moves the log's start to `start`, which is durable and not below the start; the owner is told when the move is
    /// durable. Segments that end at or before it are removed after that.
    ///
    /// # Errors
    /// If the log cannot be written any more.
    pub fn advance_start(self: &Rc<Self>, start: Offset) -> Result<(), LogError> {
        self.check_health()?;
        self.check_not_truncated()?;
        if start > self.start.wanted.get() {
            self.start.wanted.set(start);
            self.enqueue();
        }
        Ok(())
    }

    /// No live journal entry is of a segment before this one, and no checkpoint ends in one.
    pub(super) fn free_below(&self) -> Offset {
        self.start.free_below.get()
    }

    /// Where a restart would find the log starting.
    pub(super) fn start_offset(&self) -> Offset {
        self.start.durable.get()
    }

    /// Takes what is to be committed next: the log's new start, and of its bytes what fits. `None` if nothing fits or
    /// nothing is left.
    #[inline]
    pub(super) fn take(&self, inline_room: usize, extent_room: u64) -> Option<Taken<R>> {
        if self.truncation.is_waiting() && !self.deleted.get() {
            return self.take_state(inline_room);
        }
        if self.deleted.get() || !self.start.is_pending() {
            return self.take_bytes(inline_room, extent_room);
        }
        let room = inline_room.checked_sub(ENTRY_OVERHEAD_BYTES + DECLARE_BYTES_MAX)?;
        let start = self.start.wanted.get();
        let mut taken = self.take_bytes(room, extent_room).unwrap_or_else(|| {
            let (segment_base, to) = self.durable_position();
            let declare = self.must_be_declared();
            Taken { segment_base, to, declare, inline: None, extent: None, start: None, state: None }
        });
        taken.start = Some(start);
        self.start.taken.set(start);
        Some(taken)
    }

    /// Takes note that a restart would find the log starting at `start`.
    pub(super) fn start_committed(self: &Rc<Self>, start: Offset) {
        self.start.durable.set(start);
        if let Some(owner) = self.owner() {
            owner.on_start(start);
        }
        self.request_removal();
    }

    /// Whether the log starts after `offset` by now.
    pub(super) fn starts_after(&self, offset: Offset) -> bool {
        offset < self.start.durable.get()
    }

    /// The segment in which a restart has to go on, and its end, between two groups. A new one that is still empty
    /// counts once the journal has all of those before it: until then it gets entries of the one before.
    pub(super) fn end_at_cut(&self) -> (Offset, u64) {
        let inner = self.inner.borrow();
        let is_taken = inner.segments.iter().all(|segment| segment.taken == segment.end());
        let last_used = inner.segments.iter().rev().find(|segment| segment.end() > 0);
        let last = last_used.filter(|_| !is_taken).or_else(|| inner.segments.back());
        last.map_or(inner.closed_end, |segment| (segment.base, segment.end()))
    }

    /// The first segment of which the journal may get entries after this moment, between two groups.
    pub(super) fn free_at_cut(&self) -> Offset {
        let inner = self.inner.borrow();
        let busy = inner.segments.iter().find(|segment| segment.taken < segment.end());
        let first = busy.or_else(|| inner.segments.back());
        first.map_or(inner.closed_end.0, |segment| segment.base)
    }

    /// Takes note that a checkpoint has made the journal forget the segments before `base`.
    pub(super) fn set_free(self: &Rc<Self>, base: Offset) {
        self.start.free_below.set(self.start.free_below.get().max(base));
        if self.has_dead_segment() {
            self.request_removal();
        }
    }

    pub(super) fn has_dead_segment(&self) -> bool {
        let inner = self.inner.borrow();
        match (inner.segments.front(), inner.segments.get(1)) {
            (Some(first), Some(second)) => {
                second.base <= self.start.durable.get()
                    && first.sealed
                    && first.base < self.start.free_below.get()
            }
            _ => false,
        }
    }

    /// Starts removing the segments before the log's start, unless that is already under way.
    pub(super) fn request_removal(self: &Rc<Self>) {
        if self.deleted.get() || self.start.removing.replace(true) {
            return;
        }
        let log = Rc::clone(self);
        self.store.runtime.spawn(async move {
            let outcome = log.remove_dead_segments().await;
            log.start.removing.set(false);
            log.segments_changed.notify_all();
            if let Err(error) = outcome {
                // Nobody reads them any more; the next start of the log or the next removal tries again.
                tracing::warn!(log = %log.directory_name, %error, "a deleted segment could not be removed");
            }
        });
    }

    /// Keeps the log's first segments from being removed until [`Log::resume_removal`].
    pub(super) async fn pause_removal(&self) {
        while self.start.removing.replace(true) {
            self.segments_changed.wait().await;
        }
    }

    pub(super) fn resume_removal(self: &Rc<Self>) {
        self.start.removing.set(false);
        self.segments_changed.notify_all();
        if self.has_dead_segment() {
            self.request_removal();
        }
    }

    async fn remove_dead_segments(self: &Rc<Self>) -> Result<(), LogError> {
        let _busy = self.keep_open();
        self.open().await?;
        while self.has_dead_segment() {
            let Some(segment) = self.inner.borrow_mut().segments.pop_front() else { break };
            self.store.note_evicted(segment.cached_bytes());
            // The index first: without its log it would stay for ever.
            for path in [self.index_path(segment.base), self.path().join(log_file_name(segment.base))] {
                match self.store.runtime.remove_file(&path).await {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
