//! A log and its way in: make room, append, hand over to the journal, take note of what became durable.

use super::checkpoint::{from_state, key_of};
use super::cleaning::Cleaning;
use super::directory::DirectoryHealth;
use super::index::SparseIndex;
use super::segment::{Segment, base_of_file_name, index_file_name, log_file_name, read_file};
use super::start::LogStart;
use super::store::Store;
use super::tail::{page_ceil, page_floor};
use super::truncation::{StateEntry, Truncation};
use super::{LogError, LogSettings, Owner};
use crate::runtime::buffer::{Chunk, ChunkView};
use crate::runtime::{Durability, File, OpenMode, Runtime};
use crate::shard::short_queue::ShortQueue;
use crate::shard::signal::Signal;
use logmill_state::partition::PartitionSnapshot;
use logmill_wire::frame::checkpoint::LogState;
use logmill_wire::frame::journal::Range as EntryRange;
use logmill_wire::ids::{Offset, TimestampMs, TopicPartition};
use logmill_wire::limits::{PAGE_BYTES, SEGMENT_SPACE_MIN_BYTES, SEGMENT_SPACE_STEP_MAX_BYTES};
use logmill_wire::record_batch::{BatchHeader, assign};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::{Rc, Weak};

/// Where an append ends in the bytes of its segment, and in offsets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) segment_base: Offset,
    pub(super) end: u64,
    pub(super) next_offset: Offset,
}

/// What changes in a log.
pub(super) struct Inner<R: Runtime> {
    /// Oldest first; the last one is active. Empty until the log is opened.
    pub(super) segments: VecDeque<Segment<R>>,
    pub(super) marks: ShortQueue<Mark>,
    /// The end of what may be read: what is durable, or in the write cache. The segment, its bytes, and the offset.
    pub(super) readable: (Offset, u64, Offset),
    /// Where the last segment ended when the log was opened or created, for a log that is closed.
    pub(super) closed_end: (Offset, u64),
    pub(super) segment_opened_at: Option<TimestampMs>,
}

impl<R: Runtime> Inner<R> {
    /// Where the segment of this base is. Mostly it is the newest one.
    #[inline]
    pub(super) fn position_of(&self, base: Offset) -> Option<usize> {
        let newest = self.segments.len().checked_sub(1)?;
        if self.segments[newest].base == base {
            return Some(newest);
        }
        self.segments.iter().position(|segment| segment.base == base)
    }

    /// Where the first segment is of which bytes are still to be taken. They are taken in order, so that there are none
    /// before a segment that was taken whole.
    #[inline]
    pub(super) fn first_to_take(&self) -> Option<usize> {
        let mut first = None;
        for at in (0..self.segments.len()).rev() {
            let segment = &self.segments[at];
            if segment.taken < segment.end() {
                first = Some(at);
            } else if segment.end() > 0 {
                break;
            }
        }
        first
    }
}

/// One partition's log on this shard.
pub struct Log<R: Runtime> {
    pub(super) key: TopicPartition,
    pub(super) directory_name: String,
    pub(super) store: Rc<Store<R>>,
    pub(super) inner: RefCell<Inner<R>>,
    owner: RefCell<Option<Weak<dyn Owner>>>,
    pub(super) covered_cut: Cell<u64>,
    pub(super) touched_cut: Cell<u64>,
    pub(super) in_checkpoint: Cell<bool>,
    pub(super) queued: Cell<bool>,
    /// Whether the log is queued to be committed later.
    pub(super) lazy: Cell<bool>,
    /// The end of the last append that was not put into the write cache.
    pub(super) uncached_end: Cell<Option<(Offset, u64)>>,
    in_cache_queue: Cell<bool>,
    pub(super) filling: Cell<bool>,
    pub(super) opened: Cell<bool>,
    /// Whether the log was used since the last sweep for idle logs.
    pub(super) used: Cell<bool>,
    /// Readers and preparations under way, which need the segments to stay.
    pub(super) busy: Cell<u32>,
    pub(super) deleted: Cell<bool>,
    /// Whether the directory exists on disk.
    pub(super) exists: Cell<bool>,
    pub(super) segments_changed: Signal,
    pub(super) damage: RefCell<Option<String>>,
    pub(super) start: LogStart,
    pub(super) cleaning: Cleaning,
    pub(super) truncation: Truncation,
}

/// A log, and what it has handed over for a group.
pub(super) type FromLog<R> = (Rc<Log<R>>, Taken<R>);

/// What a log hands to the journal.
pub(super) struct Taken<R: Runtime> {
    pub(super) segment_base: Offset,
    pub(super) to: u64,
    pub(super) declare: bool,
    /// What goes into the group itself, out of memory: all of it, or what stands before an extent.
    pub(super) inline: Option<Piece>,
    pub(super) extent: Option<Box<TakenExtent<R>>>,
    /// Where the log is to start from now on.
    pub(super) start: Option<Offset>,
    /// What the log is from now on, and then nothing else.
    pub(super) state: Option<Rc<StateEntry>>,
}

/// Whole pages that go to the segment itself.
pub(super) struct TakenExtent<R: Runtime> {
    pub(super) range: EntryRange,
    /// CRC-32C of the range.
    pub(super) crc: u32,
    pub(super) views: Vec<ChunkView>,
    pub(super) file: Rc<R::File>,
    /// What goes into the group behind them.
    pub(super) after: Option<Piece>,
}

/// Bytes of the segment that go into the group itself; with whose they are, an [`EntryRange`]. A group has many, and
/// they are handed on.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) position: u64,
    pub(super) length: u32,
    /// Whether they end within a batch.
    pub(super) within_batch: bool,
}

impl<R: Runtime> Taken<R> {
    /// What goes into the group itself.
    pub(super) fn inline(&self) -> impl Iterator<Item = &Piece> {
        self.inline.iter().chain(self.extent.iter().filter_map(|extent| extent.after.as_ref()))
    }
}

impl<R: Runtime> Log<R> {
    /// A log as a checkpoint or a recovery describes it; the partition's state goes with it.
    #[must_use]
    pub fn from_state(store: Rc<Store<R>>, state: &LogState) -> (Rc<Self>, PartitionSnapshot) {
        let log = Self::closed(
            store,
            key_of(state),
            state.directory.clone(),
            Offset(state.next_offset),
            (Offset(state.segment_base), state.end_position),
            (state.segment_opened_at >= 0).then_some(TimestampMs(state.segment_opened_at)),
            Some(Offset(state.log_start_offset)),
        );
        *log.damage.borrow_mut() = state.damage.clone();
        (log, from_state(state))
    }

    /// A log that was never appended to: it takes no space on disk before its first append.
    #[must_use]
    pub fn fresh(store: Rc<Store<R>>, key: TopicPartition, directory_name: String) -> Rc<Self> {
        Self::closed(store, key, directory_name, Offset(0), (Offset(0), 0), None, None)
    }

    pub(super) fn closed(
        store: Rc<Store<R>>,
        key: TopicPartition,
        directory_name: String,
        next_offset: Offset,
        closed_end: (Offset, u64),
        segment_opened_at: Option<TimestampMs>,
        start: Option<Offset>,
    ) -> Rc<Self> {
        let readable = (closed_end.0, closed_end.1, next_offset);
        // A log that a checkpoint names is on disk.
        let exists = start.is_some();
        Rc::new(Self {
            key,
            directory_name,
            store,
            inner: RefCell::new(Inner {
                segments: VecDeque::new(),
                marks: ShortQueue::default(),
                readable,
                closed_end,
                segment_opened_at,
            }),
            owner: RefCell::new(None),
            covered_cut: Cell::new(0),
            touched_cut: Cell::new(0),
            in_checkpoint: Cell::new(exists),
            queued: Cell::new(false),
            lazy: Cell::new(false),
            uncached_end: Cell::new(None),
            in_cache_queue: Cell::new(false),
            filling: Cell::new(false),
            opened: Cell::new(false),
            used: Cell::new(false),
            busy: Cell::new(0),
            deleted: Cell::new(false),
            exists: Cell::new(exists),
            segments_changed: Signal::default(),
            damage: RefCell::new(None),
            start: LogStart::at(start.unwrap_or(Offset(0)), closed_end.0),
            cleaning: Cleaning::default(),
            truncation: Truncation::default(),
        })
    }

    /// Who is told what became of appends.
    pub fn set_owner(&self, owner: Weak<dyn Owner>) {
        *self.owner.borrow_mut() = Some(owner);
    }

    pub(super) fn owner(&self) -> Option<Rc<dyn Owner>> {
        self.owner.borrow().as_ref().and_then(Weak::upgrade)
    }

    /// Which partition's log this is.
    #[must_use]
    pub const fn key(&self) -> TopicPartition {
        self.key
    }

    /// Whether the log lies in this directory.
    #[must_use]
    pub fn is_in(&self, store: &Rc<Store<R>>) -> bool {
        Rc::ptr_eq(&self.store, store)
    }

    /// The health of the log directory.
    #[must_use]
    pub fn health(&self) -> &DirectoryHealth {
        &self.store.health
    }

    /// What was found damaged, if anything was.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        self.damage.borrow().clone()
    }

    /// Whether anything was found damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.damage.borrow().is_some()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.store.directory.join(&self.directory_name)
    }

    /// Reads a little of all that an append will read or change, and returns something made of it: done for many logs in
    /// a row, the processor fetches what they are made of at the same time.
    #[must_use]
    #[inline]
    pub fn look_at(&self) -> u64 {
        let memory = self.inner.borrow().segments.back().map_or(0, |segment| segment.tail.look_at());
        memory ^ self.look_at_state()
    }

    /// As [`Log::look_at`], for a commit, which leaves the memory of the bytes alone.
    #[must_use]
    #[inline]
    pub(super) fn look_at_state(&self) -> u64 {
        let inner = self.inner.borrow();
        let segment = inner.segments.back().map_or(0, Segment::look_at);
        segment
            ^ self.touched_cut.get()
            ^ inner.readable.1
            ^ inner.marks.len() as u64
            ^ u64::from(self.used.get() ^ self.start.is_pending())
    }

    /// Whether [`Log::append`] can take `bytes` right now, or [`Log::prepare`] is needed first.
    #[must_use]
    pub fn can_append(&self, bytes: u64, now: TimestampMs, settings: &LogSettings) -> bool {
        if self.store.health.is_failed() || !self.store.takes(bytes) {
            return false;
        }
        if settings.write_caching && !self.store.write_caching.is_decided() {
            return false;
        }
        if !self.truncation.is_idle() {
            return false;
        }
        let inner = self.inner.borrow();
        let Some(active) = inner.segments.back() else { return false };
        active.index.is_some()
            && active.tail.is_appendable()
            && page_ceil(active.end() + bytes) <= active.allocated
            && !roll_is_due(active, bytes, now, settings)
    }

    /// Makes room for an append of `bytes` at `next_offset`: opens the log, starts a new segment when one is
    /// due, takes space on disk. The caller makes no other append meanwhile.
    ///
    /// # Errors
    /// [`LogError::NoSpace`] and whatever else the disk says; nothing was appended then.
    pub async fn prepare(
        self: &Rc<Self>,
        bytes: u64,
        next_offset: Offset,
        now: TimestampMs,
        settings: &LogSettings,
    ) -> Result<(), LogError> {
        self.check_health()?;
        self.check_not_truncated()?;
        let _busy = self.hold();
        while !self.store.takes(bytes) {
            if self.store.starved.get() {
                return Err(LogError::NoSpace);
            }
            self.store.wait_for_room(bytes).await;
            self.check_health()?;
        }
        if settings.write_caching {
            self.store.open_write_cache().await;
        }
        self.open().await?;
        let due = self
            .inner
            .borrow()
            .segments
            .back()
            .is_none_or(|active| active.sealed || roll_is_due(active, bytes, now, settings));
        if due {
            self.check_health()?;
            self.roll(next_offset).await?;
        }
        self.load_active_index().await?;
        self.load_last_page().await?;
        self.take_space(bytes, settings).await?;
        // Extents are written through the open file.
        let base = self.inner.borrow().segments.back().map(|active| active.base);
        if let Some(base) = base {
            self.file_of(base).await?;
        }
        Ok(())
    }

    /// Keeps the log from being closed for as long as the value lives.
    pub(super) fn hold(self: &Rc<Self>) -> Hold<R> {
        self.used.set(true);
        self.keep_open()
    }

    /// As [`Log::hold`], for what the broker does with the log on its own account.
    pub(super) fn keep_open(self: &Rc<Self>) -> Hold<R> {
        self.busy.set(self.busy.get() + 1);
        Hold(Rc::clone(self))
    }

    /// The active segment's base offset and end.
    pub(super) fn end(&self) -> (Offset, u64) {
        let inner = self.inner.borrow();
        inner.segments.back().map_or(inner.closed_end, |active| (active.base, active.end()))
    }

    /// Whether everything up to `end` of a segment, and all segments before it, are durable.
    pub(super) fn is_durable_to(&self, base: Offset, end: u64) -> bool {
        let inner = self.inner.borrow();
        inner.segments.iter().all(|segment| match segment.base.cmp(&base) {
            std::cmp::Ordering::Less => segment.durable == segment.end(),
            std::cmp::Ordering::Equal => segment.durable >= end,
            std::cmp::Ordering::Greater => true,
        })
    }

    pub(super) fn check_health(&self) -> Result<(), LogError> {
        if self.deleted.get() {
            return Err(LogError::Deleted);
        }
        if self.store.health.is_failed() {
            return Err(LogError::DirectoryFailed(self.store.health.cause().unwrap_or_default()));
        }
        match &*self.damage.borrow() {
            Some(what) => Err(LogError::Damaged(what.clone())),
            None => Ok(()),
        }
    }

    /// Finds the log's segments, or makes its directory.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn open(self: &Rc<Self>) -> Result<(), LogError> {
        if self.opened.get() {
            return Ok(());
        }
        if self.deleted.get() {
            return Err(LogError::Deleted);
        }
        self.claim_name().await?;
        if !self.exists.get() {
            self.create_directory().await?;
            self.exists.set(true);
        }
        let mut entries = self.store.runtime.read_directory(&self.path()).await?;
        if self.settle_left_over(&entries).await? {
            entries = self.store.runtime.read_directory(&self.path()).await?;
        }
        if entries.iter().any(|entry| entry.name == Self::cleaning_note_name()) {
            self.load_cleaning().await?;
        }
        let mut inner = self.inner.borrow_mut();
        // Somebody else may have opened the log while the directory was read.
        if self.opened.get() {
            return Ok(());
        }
        let (active_base, active_end) = inner.closed_end;
        let mut segments: Vec<(Offset, u64)> = entries
            .iter()
            .filter_map(|entry| base_of_file_name(&entry.name).map(|base| (base, entry.length)))
            .filter(|(base, _)| *base < active_base || (*base == active_base && active_end > 0))
            .collect();
        segments.sort_unstable();
        for (base, length) in segments {
            let is_active = base == active_base;
            let mut segment = Segment::settled(base, if is_active { active_end } else { length }, !is_active);
            if is_active {
                segment.opened_at = inner.segment_opened_at;
            }
            inner.segments.push_back(segment);
        }
        let found = inner.segments.back().map(|segment| segment.base);
        if active_end > 0 && found != Some(active_base) {
            inner.segments.clear();
            let what = format!("segment {} is missing", log_file_name(active_base));
            *self.damage.borrow_mut() = Some(what.clone());
            return Err(LogError::Damaged(what));
        }
        self.opened.set(true);
        drop(inner);
        self.store.note_opened(self);
        if self.has_dead_segment() {
            self.request_removal();
        }
        Ok(())
    }

    async fn create_directory(&self) -> Result<(), LogError> {
        let runtime = &self.store.runtime;
        let path = self.path();
        self.store.make_way(&self.directory_name, self.key).await?;
        runtime.create_directory(&path).await?;
        let file = path.join("partition.metadata");
        let content = format!("version: 0\ntopic_id: {}\n", self.key.topic_id);
        let file = runtime.open(&file, OpenMode::Create).await?;
        let mut page = Chunk::with_capacity(PAGE_BYTES);
        page.append(content.as_bytes());
        page.pad_to(PAGE_BYTES);
        file.write(page.view_all(), 0, Durability::Cached).await?;
        file.set_length(content.len() as u64).await?;
        file.flush().await?;
        self.store.sync_names(&path).await?;
        self.store.sync_names(&self.store.directory).await?;
        Ok(())
    }

    pub(super) async fn roll(&self, next_offset: Offset) -> Result<(), LogError> {
        let runtime = &self.store.runtime;
        let path = self.path().join(log_file_name(next_offset));
        self.set_strays_aside().await?;
        // A crash between making a segment and its first commit leaves an empty one of this name.
        let file = runtime.open(&path, OpenMode::Create).await?;
        file.set_length(0).await?;
        self.store.sync_names(&self.path()).await?;
        let mut segment = Segment::settled(next_offset, 0, false);
        segment.file = Some(Rc::new(file));
        segment.index = Some(SparseIndex::default());
        let mut inner = self.inner.borrow_mut();
        inner.segments.retain(|segment| segment.base != next_offset);
        inner.segments.push_back(segment);
        Ok(())
    }

    fn is_stray(&self, base: Offset) -> bool {
        let inner = self.inner.borrow();
        let is_ours = inner.segments.iter().any(|segment| segment.base == base);
        // One before all others is on its way out, or goes when the log is opened next.
        let first = inner.segments.front().map_or(self.start_offset(), |first| first.base);
        !is_ours && base >= first
    }

    /// Renames segments that are not of this log: made before a crash and never committed, or left by a deleted
    /// topic of the same name. Once the log has grown beyond their names they would pass for its own. The sync
    /// of the directory that follows makes it durable.
    async fn set_strays_aside(&self) -> Result<(), LogError> {
        let path = self.path();
        for entry in self.store.runtime.read_directory(&path).await? {
            let Some(base) = base_of_file_name(&entry.name) else { continue };
            if self.is_stray(base) && !self.is_being_replaced(base) {
                let stray = path.join(format!("{}.stray", entry.name));
                match self.store.runtime.rename(&path.join(&entry.name), &stray).await {
                    // It was of a segment that was replaced since the directory was read.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    outcome => outcome?,
                }
            }
        }
        Ok(())
    }

    async fn load_active_index(self: &Rc<Self>) -> Result<(), LogError> {
        let base = self.inner.borrow().segments.back().map(|active| active.base);
        let Some(base) = base else { return Ok(()) };
        self.load_index(base).await
    }

    /// Brings the segment's last page to memory, if it is not whole.
    async fn load_last_page(self: &Rc<Self>) -> Result<(), LogError> {
        let (base, end) = {
            let inner = self.inner.borrow();
            let Some(active) = inner.segments.back() else { return Ok(()) };
            if active.tail.is_appendable() {
                return Ok(());
            }
            (active.base, active.end())
        };
        let file = self.file_of(base).await?;
        let views = read_file(&*file, page_floor(end)..end).await?;
        let bytes: Vec<u8> = views.iter().flat_map(|view| view.iter().copied()).collect();
        let grown = {
            let mut inner = self.inner.borrow_mut();
            let Some(active) = inner.segments.back_mut() else { return Ok(()) };
            if active.tail.is_appendable() {
                return Ok(());
            }
            active.tail.restore(&bytes);
            active.tail.capacity_bytes()
        };
        self.store.note_cached(self, grown);
        Ok(())
    }

    /// Takes space so that nothing that the journal accepts can fail to find its place later.
    async fn take_space(&self, bytes: u64, settings: &LogSettings) -> Result<(), LogError> {
        let (base, allocated, needed) = {
            let inner = self.inner.borrow();
            let Some(active) = inner.segments.back() else { return Ok(()) };
            (active.base, active.allocated, page_ceil(active.end() + bytes))
        };
        if needed <= allocated {
            return Ok(());
        }
        let file = self.file_of(base).await?;
        let allocated = if allocated == 0 {
            // An extent that was never committed may stand behind the end: it must not come back.
            let end = page_ceil(self.end().1);
            file.set_length(end).await?;
            end
        } else {
            allocated
        };
        let step = allocated.clamp(SEGMENT_SPACE_MIN_BYTES, SEGMENT_SPACE_STEP_MAX_BYTES);
        let wanted = needed.max((allocated + step).min(page_ceil(settings.segment_bytes)));
        if wanted <= allocated {
            // The append fits into the last page; to take no space at all is an error to the kernel.
            if let Some(active) = self.inner.borrow_mut().segments.back_mut() {
                active.allocated = active.allocated.max(allocated);
            }
            return Ok(());
        }
        let taken = match file.allocate(allocated, wanted - allocated).await {
            Ok(()) => wanted,
            // Not enough for a generous step may still be enough for this append.
            Err(_) if wanted > needed => {
                file.allocate(allocated, needed - allocated).await.map(|()| needed)?
            }
            Err(error) => return Err(error.into()),
        };
        // The file's length must survive with the bytes: a flush behind the journal covers it.
        if let Some(active) = self.inner.borrow_mut().segments.back_mut() {
            active.allocated = active.allocated.max(taken);
        }
        Ok(())
    }

    /// Appends one batch with its offset and epoch assigned in `header`; `batch` is the batch as it was
    /// received. The log schedules the commit by itself. True if the batch is in the write cache: then it may be
    /// acknowledged and read at once.
    ///
    /// # Panics
    /// If there is no room: see [`Log::can_append`].
    pub fn append(
        self: &Rc<Self>,
        header: &BatchHeader,
        batch: &[u8],
        now: TimestampMs,
        write_caching: bool,
    ) -> bool {
        self.used.set(true);
        let (grown, segment_base, position) = {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            #[expect(
                clippy::expect_used,
                reason = "the caller has prepared the log; appending without is a bug of ours"
            )]
            let active = inner.segments.back_mut().expect("a log is prepared before it is appended to");
            assert!(
                page_ceil(active.end() + batch.len() as u64) <= active.allocated,
                "space is taken before an append"
            );
            let before = active.tail.capacity_bytes();
            let position = active.end();
            let assigned = |head: &mut [u8]| assign(head, header.base_offset, header.leader_epoch);
            active.tail.append_batch(batch, assigned, |bytes| self.store.chunk(bytes));
            if let Some(index) = &mut active.index {
                index.note(header, position);
            }
            active.opened_at.get_or_insert(now);
            inner.segment_opened_at = active.opened_at;
            inner.marks.push_back(Mark {
                segment_base: active.base,
                end: active.end(),
                next_offset: header.next_offset(),
            });
            (active.tail.capacity_bytes() - before, active.base, position)
        };
        self.store.note_pending(batch.len() as u64);
        self.store.note_cached(self, grown);
        let length = batch.len() as u32;
        let range = EntryRange { log: self.key, segment_base, position, length, within_batch: false };
        if write_caching && self.keep_written(range, header, batch) {
            let end = position + u64::from(length);
            self.inner.borrow_mut().readable = (segment_base, end, header.next_offset());
            self.enqueue_lazily();
            return true;
        }
        self.enqueue();
        false
    }

    /// Starts writing full durable pages to the segments, unless that is already under way.
    pub(super) fn request_fill(self: &Rc<Self>) {
        if self.filling.replace(true) {
            return;
        }
        let log = Rc::clone(self);
        self.store.runtime.spawn(async move {
            let outcome = log.fill_all(false).await;
            log.filling.set(false);
            log.segments_changed.notify_all();
            if let Err(error) = outcome {
                // The journal still has the bytes: the next checkpoint tries again, and fails loudly.
                tracing::warn!(log = %log.directory_name, %error, "filling a segment failed");
            }
            log.store.trim_cache();
        });
    }

    pub(super) fn has_pages_to_fill(&self) -> bool {
        let inner = self.inner.borrow();
        inner.segments.iter().any(|segment| !segment.sealed && !segment.ranges_to_fill().0.is_empty())
    }

    pub(super) fn enter_cache_queue(&self) -> bool {
        !self.in_cache_queue.replace(true)
    }

    pub(super) fn stays_in_cache_queue(&self) -> bool {
        let inner = self.inner.borrow();
        let stays = inner
            .segments
            .iter()
            .any(|segment| segment.tail.capacity_bytes() > 0 || segment.read_ahead.is_some());
        self.in_cache_queue.set(stays);
        stays
    }

    /// Forgets the oldest chunk that is in its file; returns the memory that it took.
    pub(super) fn evict_oldest(&self) -> usize {
        let mut inner = self.inner.borrow_mut();
        let count = inner.segments.len();
        for (number, segment) in inner.segments.iter_mut().enumerate() {
            if let Some((_, view)) = segment.read_ahead.take() {
                return view.len();
            }
            if segment.tail.capacity_bytes() == 0 {
                continue;
            }
            if let Some(chunk) = segment.tail.evict_before(segment.filled) {
                return self.store.take_back(chunk);
            }
            return if segment.sealed && number + 1 < count { segment.tail.clear() } else { 0 };
        }
        0
    }

    /// The file of a segment, opened if it is not.
    pub(super) async fn file_of(&self, base: Offset) -> Result<Rc<R::File>, LogError> {
        loop {
            let (open, sealed) = {
                let inner = self.inner.borrow();
                let segment =
                    inner.segments.iter().find(|segment| segment.base == base).ok_or(LogError::OutOfRange)?;
                (segment.file.clone(), segment.sealed)
            };
            if let Some(file) = open {
                return Ok(file);
            }
            let truncations = self.truncation.count();
            let mode = if sealed { OpenMode::Read } else { OpenMode::ReadWrite };
            let opened = self.store.runtime.open(&self.path().join(log_file_name(base)), mode).await;
            if truncations != self.truncation.count() {
                // There may be another file of this name by now.
                continue;
            }
            let mut inner = self.inner.borrow_mut();
            return match inner.segments.iter_mut().find(|segment| segment.base == base) {
                Some(segment) => Ok(Rc::clone(segment.file.get_or_insert(Rc::new(opened?)))),
                // It was removed meanwhile.
                None => Err(LogError::OutOfRange),
            };
        }
    }

    pub(super) fn index_path(&self, base: Offset) -> PathBuf {
        self.path().join(index_file_name(base))
    }
}

/// See [`Log::hold`].
pub(super) struct Hold<R: Runtime>(Rc<Log<R>>);

impl<R: Runtime> Drop for Hold<R> {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        self.0.segments_changed.notify_all();
    }
}

fn roll_is_due<R: Runtime>(
    active: &Segment<R>,
    bytes: u64,
    now: TimestampMs,
    settings: &LogSettings,
) -> bool {
    if active.end() == 0 {
        return false;
    }
    let full = active.end() + bytes > settings.segment_bytes;
    let old = active.opened_at.is_some_and(|opened| now.0.saturating_sub(opened.0) >= settings.segment_ms);
    full || old
}
