//! One shard's part of one log directory: the journal with its committer, the cache, and the settings that
//! all of its logs share.

use super::appender::Log;
use super::directory::{DirectoryHealth, RunDirectory};
use super::write_caching::WriteCaching;
use crate::journal::Journal;
use crate::runtime::Runtime;
use crate::runtime::buffer::Chunk;
use crate::shard::signal::Signal;
use logmill_wire::frame::checkpoint::LogState;
use logmill_wire::ids::{TopicPartition, Uuid};
use logmill_wire::limits::{CHUNK_BYTES_MAX, PAGE_BYTES};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What a log with pending bytes takes in the journal besides them: a page that is repeated after a cut, the
/// entries' headers, its name.
const PENDING_LOG_BYTES: u64 = PAGE_BYTES as u64 + 1024;

/// Chunks that are kept for tails that grow: evicted ones, and fresh ones that were touched ahead.
const SPARE_CHUNKS_MAX: usize = 8;

/// The share of the cache that grows with memory that nobody has touched before, if there is no other.
const UNTOUCHED_SHARE: usize = 4;

/// The sizes that a store works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// The size of the journal file.
    pub journal_bytes: u64,
    /// Memory for the tails of logs, beyond which filled chunks are forgotten.
    pub cache_bytes: usize,
    /// Bytes of one log in one commit from which on whole pages go to the segment and not to the journal.
    pub extent_bytes_min: u64,
    /// Durable bytes of a log from which on they are filled behind the journal.
    pub fill_bytes: u64,
    /// Extents after which a checkpoint is made even if the journal has room.
    pub checkpoint_extent_bytes: u64,
    /// How long after an append a checkpoint is made at the latest, in milliseconds.
    pub checkpoint_interval_ms: u64,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            journal_bytes: 64 << 20,
            cache_bytes: 256 << 20,
            extent_bytes_min: 128 << 10,
            fill_bytes: 256 << 10,
            checkpoint_extent_bytes: 256 << 20,
            checkpoint_interval_ms: 30_000,
        }
    }
}

/// One shard's part of one log directory.
pub struct Store<R: Runtime> {
    pub(super) runtime: R,
    pub(super) directory: PathBuf,
    pub(super) run: RunDirectory,
    pub(super) health: Arc<DirectoryHealth>,
    pub(super) settings: StoreSettings,
    /// The number of cuts so far: a log that was last covered in an older one starts its next entry at its
    /// page's start.
    pub(super) cut: Cell<u64>,
    pub(super) dirty: RefCell<VecDeque<Rc<Log<R>>>>,
    /// Logs with entries in the journal since the last cut.
    pub(super) touched: RefCell<Vec<Rc<Log<R>>>>,
    pub(super) write_caching: WriteCaching<R>,
    /// The journal's identity in this run.
    pub(super) journal_id: Uuid,
    /// Logs that were deleted, and in which cut, until a checkpoint without them is durable: the first one of a later cut is
    /// the last that names them.
    pub(super) doomed: RefCell<Vec<(TopicPartition, u64)>>,
    /// The renamed directories of logs that are, or were, doomed.
    pub(super) leaving: RefCell<Vec<(TopicPartition, PathBuf)>>,
    /// What the next checkpoint says of logs that were not touched since.
    pub(super) states: RefCell<BTreeMap<TopicPartition, LogState>>,
    pub(super) work: Signal,
    pub(super) progress: Signal,
    pub(super) stopping: Cell<bool>,
    pub(super) stopped: Cell<bool>,
    pub(super) checkpoint_running: Cell<bool>,
    pub(super) checkpoint_asked: Cell<bool>,
    /// Whether states have aged since the last checkpoint: a stop is not to forget that.
    pub(super) aged: Cell<bool>,
    /// Whether the last attempt at a checkpoint found no space.
    pub(super) starved: Cell<bool>,
    pub(super) extent_bytes_since_cut: Cell<u64>,
    pub(super) cached_bytes: Cell<usize>,
    pub(super) cached_logs: RefCell<VecDeque<Rc<Log<R>>>>,
    pub(super) commits: Cell<u64>,
    /// The cut of the last checkpoint that is durable.
    pub(super) completed_cut: Cell<u64>,
    /// Groups before this may be freed.
    pub(super) release_before: Cell<u64>,
    /// Bytes that were appended and not yet taken into a group.
    pending_bytes: Cell<u64>,
    /// Bytes that the ring takes before a checkpoint has freed some.
    ring_free_bytes: Cell<u64>,
    ring_is_empty: Cell<bool>,
    open_logs: RefCell<Vec<Rc<Log<R>>>>,
    spare_chunks: RefCell<Vec<Chunk>>,
    touching: Cell<bool>,
    sweeping: Cell<bool>,
}

impl<R: Runtime> Store<R> {
    /// Starts the committer over a fresh journal. `states` are those of all logs of this shard, as the
    /// checkpoint that the caller has made durable in `run` says.
    #[must_use]
    pub fn start(
        runtime: R,
        run: RunDirectory,
        health: Arc<DirectoryHealth>,
        settings: StoreSettings,
        journal: Journal<R>,
        states: BTreeMap<TopicPartition, LogState>,
    ) -> Rc<Self> {
        // What goes into the journal whole must be small against it.
        let extent_bytes_min =
            settings.extent_bytes_min.min(settings.journal_bytes / 16).max(PAGE_BYTES as u64);
        let settings = StoreSettings { extent_bytes_min, ..settings };
        health.note_logs_found(states.len());
        let store = Rc::new(Self {
            runtime: runtime.clone(),
            directory: run.log_directory().to_path_buf(),
            run,
            health,
            settings,
            cut: Cell::new(1),
            dirty: RefCell::default(),
            touched: RefCell::default(),
            write_caching: WriteCaching::default(),
            journal_id: journal.id(),
            doomed: RefCell::default(),
            leaving: RefCell::default(),
            states: RefCell::new(states),
            work: Signal::default(),
            progress: Signal::default(),
            stopping: Cell::new(false),
            stopped: Cell::new(false),
            checkpoint_running: Cell::new(false),
            checkpoint_asked: Cell::new(false),
            aged: Cell::new(false),
            starved: Cell::new(false),
            extent_bytes_since_cut: Cell::new(0),
            cached_bytes: Cell::new(0),
            cached_logs: RefCell::default(),
            commits: Cell::new(0),
            completed_cut: Cell::new(1),
            release_before: Cell::new(0),
            pending_bytes: Cell::new(0),
            ring_free_bytes: Cell::new(journal.free_bytes()),
            ring_is_empty: Cell::new(true),
            open_logs: RefCell::default(),
            spare_chunks: RefCell::default(),
            touching: Cell::new(false),
            sweeping: Cell::new(false),
        });
        runtime.spawn(super::committer::run(Rc::clone(&store), journal));
        store
    }

    /// The health of the log directory, shared by all shards.
    #[must_use]
    pub fn health(&self) -> &Arc<DirectoryHealth> {
        &self.health
    }

    /// Memory that tails take.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.cached_bytes.get()
    }

    /// Group commits so far.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.get()
    }

    /// Whether the shard ends, or its log directory is out of service: nobody need look after its logs any more.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.stopping.get() || self.stopped.get() || self.health.is_failed()
    }

    /// Commits what was appended, makes a last checkpoint and ends the committer.
    pub async fn stop(&self) {
        self.begin_stop();
        while !self.stopped.get() {
            self.progress.wait().await;
        }
    }

    /// Takes no appends any more; see [`Store::stop`].
    pub(super) fn begin_stop(&self) {
        self.stopping.set(true);
        self.work.notify_all();
    }

    /// Whether the last checkpoint knows a log.
    pub(super) fn has(&self, log: TopicPartition) -> bool {
        self.states.borrow().contains_key(&log)
    }

    /// Forgets a log that was deleted. Its state stays in the checkpoints for as long as the journal has entries
    /// of it: a restart must know whose they are.
    pub fn forget(&self, log: TopicPartition) {
        self.health.note_log_gone();
        // It stays among the touched: its groups fill the journal until a checkpoint releases them.
        self.doomed.borrow_mut().push((log, self.cut.get()));
        self.cached_logs.borrow_mut().retain(|cached| cached.key() != log);
    }

    /// The log has segments in memory from now on; a sweep closes it when it is not used any more.
    pub(super) fn note_opened(self: &Rc<Self>, log: &Rc<Log<R>>) {
        self.open_logs.borrow_mut().push(Rc::clone(log));
        if self.sweeping.replace(true) {
            return;
        }
        let store = Rc::clone(self);
        self.runtime.spawn(async move {
            // The task ends with the last open log, so an idle broker has no timer.
            while !store.open_logs.borrow().is_empty() && !store.stopped.get() {
                store.runtime.sleep(Duration::from_millis(store.settings.checkpoint_interval_ms)).await;
                let open = std::mem::take(&mut *store.open_logs.borrow_mut());
                for log in open {
                    if !log.close_if_idle() {
                        store.open_logs.borrow_mut().push(log);
                    }
                    if store.runtime.should_yield() {
                        store.runtime.yield_now().await;
                    }
                }
            }
            store.sweeping.set(false);
        });
    }

    pub(super) fn note_cached(&self, log: &Rc<Log<R>>, grown_bytes: usize) {
        if grown_bytes == 0 {
            return;
        }
        self.cached_bytes.set(self.cached_bytes.get() + grown_bytes);
        if log.enter_cache_queue() {
            self.cached_logs.borrow_mut().push_back(Rc::clone(log));
        }
        self.trim_cache();
    }

    /// Whether `bytes` more may be appended now. What is pending must fit the free part of the ring at any time: a
    /// checkpoint waits for what is pending at its cut, and frees nothing before.
    pub(super) fn takes(&self, bytes: u64) -> bool {
        let waiting_logs = (self.dirty.borrow().len() + self.write_caching.waiting_logs()) as u64;
        let pending = self.pending_bytes.get() + waiting_logs * PENDING_LOG_BYTES;
        (pending == 0 || pending + bytes <= self.settings.journal_bytes / 4)
            && self.ring_takes(pending, bytes)
    }

    fn ring_takes(&self, pending: u64, bytes: u64) -> bool {
        // What is larger than the ring goes past it, as an extent.
        let is_alone = pending == 0 && self.ring_is_empty.get();
        is_alone || pending + bytes + PENDING_LOG_BYTES <= self.ring_free_bytes.get()
    }

    /// Waits until something was committed or freed, because [`Store::takes`] would not have `bytes`.
    pub(super) async fn wait_for_room(&self, bytes: u64) {
        self.hurry();
        let waiting_logs = (self.dirty.borrow().len() + self.write_caching.waiting_logs()) as u64;
        let pending = self.pending_bytes.get() + waiting_logs * PENDING_LOG_BYTES;
        if !self.ring_takes(pending, bytes) {
            self.checkpoint_asked.set(true);
            self.work.notify_all();
        }
        self.progress.wait().await;
    }

    /// Whether somebody waits for the checkpoint that is being made, or soon will.
    pub(super) fn checkpoint_is_urgent(&self) -> bool {
        let is_filling = self.ring_free_bytes.get() < self.settings.journal_bytes / 5 * 2;
        is_filling || self.checkpoint_asked.get() || self.stopping.get()
    }

    /// Takes note of how the ring stands.
    pub(super) fn note_ring(&self, journal: &Journal<R>) {
        let before = self.ring_free_bytes.replace(journal.free_bytes());
        self.ring_is_empty.set(journal.is_empty());
        if self.ring_free_bytes.get() > before || journal.is_empty() {
            self.progress.notify_all();
        }
    }

    /// Takes note that a group of `bytes` is on its way to the ring.
    pub(super) fn note_group(&self, bytes: u64) {
        self.ring_is_empty.set(false);
        let pages = bytes.next_multiple_of(PAGE_BYTES as u64);
        self.ring_free_bytes.set(self.ring_free_bytes.get().saturating_sub(pages));
    }

    pub(super) fn pending_bytes(&self) -> u64 {
        self.pending_bytes.get()
    }

    pub(super) fn note_pending(&self, bytes: u64) {
        self.pending_bytes.set(self.pending_bytes.get() + bytes);
    }

    pub(super) fn note_taken(&self, bytes: u64) {
        self.pending_bytes.set(self.pending_bytes.get().saturating_sub(bytes));
    }

    /// An empty chunk of at least `bytes`; one of full size comes from the spare ones, if there are any.
    pub(super) fn chunk(self: &Rc<Self>, bytes: usize) -> Chunk {
        if bytes != CHUNK_BYTES_MAX {
            return Chunk::with_capacity(bytes);
        }
        let spare = self.spare_chunks.borrow_mut().pop();
        self.touch_ahead();
        spare.unwrap_or_else(|| Chunk::with_capacity(bytes))
    }

    /// Has fresh chunks touched by the pool for a cache that still grows: the kernel clears each page at its first
    /// touch, and a shard that waits for that delays everybody.
    fn touch_ahead(self: &Rc<Self>) {
        let wanted = SPARE_CHUNKS_MAX - self.spare_chunks.borrow().len();
        let grown = self.cached_bytes.get() + SPARE_CHUNKS_MAX * CHUNK_BYTES_MAX;
        let enough = wanted < SPARE_CHUNKS_MAX / 2 || grown > self.settings.cache_bytes;
        if enough || self.touching.replace(true) {
            return;
        }
        let store = Rc::clone(self);
        self.runtime.spawn(async move {
            for _ in 0..wanted {
                // A pool that is busy has nothing for this: the tail then touches its memory itself.
                let Ok(chunk) = store.runtime.offload(|| Chunk::touched(CHUNK_BYTES_MAX)).await else {
                    break;
                };
                let mut spare = store.spare_chunks.borrow_mut();
                if spare.len() < SPARE_CHUNKS_MAX {
                    spare.push(chunk);
                }
            }
            store.touching.set(false);
        });
    }

    /// Takes an evicted chunk back, to be used again if nobody views it; returns the memory that it had.
    pub(super) fn take_back(&self, chunk: Chunk) -> usize {
        let bytes = chunk.capacity();
        let mut spare = self.spare_chunks.borrow_mut();
        if bytes == CHUNK_BYTES_MAX && spare.len() < SPARE_CHUNKS_MAX {
            spare.extend(chunk.recycle());
        }
        bytes
    }

    pub(super) fn note_evicted(&self, bytes: usize) {
        self.cached_bytes.set(self.cached_bytes.get().saturating_sub(bytes));
    }

    /// Whether the cache has more than its budget, or should rather use what it has again than grow by memory that
    /// nobody has touched.
    fn should_evict(&self) -> bool {
        let cached = self.cached_bytes.get();
        let budget = self.settings.cache_bytes;
        cached > budget || (cached > budget / UNTOUCHED_SHARE && self.spare_chunks.borrow().is_empty())
    }

    /// Forgets filled chunks, one log after another.
    pub(super) fn trim_cache(&self) {
        let mut attempts = self.cached_logs.borrow().len();
        while self.should_evict() && attempts > 0 {
            attempts -= 1;
            let Some(log) = self.cached_logs.borrow_mut().pop_front() else { return };
            let freed = log.evict_oldest();
            self.note_evicted(freed);
            // Without pages to write, a fill would come back here at once, and for nothing.
            if freed == 0 && log.has_pages_to_fill() {
                log.request_fill();
            }
            if log.stays_in_cache_queue() {
                self.cached_logs.borrow_mut().push_back(log);
            }
        }
    }
}
