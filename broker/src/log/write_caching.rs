//! Logs with `write.caching`: appends are acknowledged once they are in the write cache, which outlives the process,
//! and the journal gets them later, many at once.
//!
//! An append that finds no room in the cache waits to be durable, and so do those behind it until it is.

use super::appender::Log;
use super::store::Store;
use crate::journal::{WRITE_CACHE_BYTES_MAX, WriteCache, Written};
use crate::runtime::Runtime;
use logmill_wire::frame::journal::Range;
use logmill_wire::ids::Offset;
use logmill_wire::record_batch::{BatchHeader, HEADER_BYTES, assign};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// How long an append stays in the write cache alone: what a power cut may take.
const COMMIT_AFTER: Duration = Duration::from_millis(100);

/// Bytes that are not in the journal yet, from which on it gets them at once.
const PENDING_BYTES_MAX: u64 = 4 << 20;

/// The share of the write cache, in percent, from which on the journal gets what is in it at once.
const USED_PERCENT_MAX: u32 = 40;

/// Whether there is a cache.
enum State<R: Runtime> {
    /// No log has asked for it.
    Absent,
    Opening,
    Open(WriteCache<R>),
    /// The disk or the filesystem refused it: every acknowledgement waits to be durable.
    Refused,
}

/// An append in the cache.
struct Held<R: Runtime> {
    sequence: u64,
    log: Rc<Log<R>>,
    segment_base: Offset,
    end: u64,
}

/// What a store keeps of its logs with `write.caching`.
pub(super) struct WriteCaching<R: Runtime> {
    state: RefCell<State<R>>,
    held: RefCell<VecDeque<Held<R>>>,
    /// Logs whose appends the journal gets later.
    lazy: RefCell<Vec<Rc<Log<R>>>>,
    is_timed: Cell<bool>,
    /// What has a lower number is of no use to a restart.
    written_from: Cell<u64>,
}

impl<R: Runtime> Default for WriteCaching<R> {
    fn default() -> Self {
        Self {
            state: RefCell::new(State::Absent),
            held: RefCell::default(),
            lazy: RefCell::default(),
            is_timed: Cell::new(false),
            written_from: Cell::new(0),
        }
    }
}

impl<R: Runtime> WriteCaching<R> {
    /// Whether it is known if there is a cache.
    pub(super) fn is_decided(&self) -> bool {
        matches!(&*self.state.borrow(), State::Open(_) | State::Refused)
    }

    /// Logs that wait to be handed to the journal.
    pub(super) fn waiting_logs(&self) -> usize {
        self.lazy.borrow().len()
    }
}

impl<R: Runtime> Store<R> {
    /// Makes the write cache, if nobody has.
    pub(super) async fn open_write_cache(&self) {
        let caching = &self.write_caching;
        while matches!(&*caching.state.borrow(), State::Opening) {
            self.progress.wait().await;
        }
        if caching.is_decided() {
            return;
        }
        caching.state.replace(State::Opening);
        let path = self.run.write_cache(self.runtime.shard());
        let bytes = WRITE_CACHE_BYTES_MAX.min(self.settings.journal_bytes / 2);
        let state = match WriteCache::create(&self.runtime, &path, self.journal_id, bytes).await {
            Ok(cache) => State::Open(cache),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "there is no write cache: topics with write.caching=true are acknowledged when they are durable; free space, or use a filesystem that can map files, and restart");
                State::Refused
            }
        };
        caching.state.replace(state);
        self.progress.notify_all();
    }

    /// Gives the journal what it was to get later.
    pub(super) fn hurry(&self) {
        let lazy = std::mem::take(&mut *self.write_caching.lazy.borrow_mut());
        if lazy.is_empty() {
            return;
        }
        for log in &lazy {
            log.lazy.set(false);
        }
        self.dirty.borrow_mut().extend(lazy);
        self.work.notify_all();
    }

    /// Frees in the write cache what is durable.
    pub(super) fn release_written(&self) {
        let mut held = self.write_caching.held.borrow_mut();
        let mut released = None;
        while let Some(first) = held.front() {
            if !first.log.deleted.get() && !first.log.has_durable(first.segment_base, first.end) {
                break;
            }
            released = held.pop_front().map(|first| first.sequence);
        }
        if let (Some(sequence), State::Open(cache)) = (released, &mut *self.write_caching.state.borrow_mut())
        {
            cache.release_before(sequence + 1);
        }
    }

    /// The number that the next append in the write cache gets; 0 if there is none.
    pub(super) fn next_written(&self) -> u64 {
        match &*self.write_caching.state.borrow() {
            State::Open(cache) => cache.next_sequence(),
            _ => 0,
        }
    }

    /// Whether the write cache has something with a lower number than `sequence` that is not durable.
    pub(super) fn holds_written_before(&self, sequence: u64) -> bool {
        self.write_caching.held.borrow().front().is_some_and(|first| first.sequence < sequence)
    }

    /// Takes note that the write cache is of no use to a restart before `sequence`.
    pub(super) fn note_written_from(&self, sequence: u64) {
        let known = &self.write_caching.written_from;
        known.set(known.get().max(sequence));
    }

    /// Where the write cache begins to be of use to a restart.
    pub(super) fn written_from(&self) -> u64 {
        self.write_caching.written_from.get()
    }

    fn put(&self, log: &Rc<Log<R>>, written: &Written<'_>) -> bool {
        let mut state = self.write_caching.state.borrow_mut();
        let State::Open(cache) = &mut *state else { return false };
        let Some(sequence) = cache.put(written) else { return false };
        let range = &written.range;
        self.write_caching.held.borrow_mut().push_back(Held {
            sequence,
            log: Rc::clone(log),
            segment_base: range.segment_base,
            end: range.position + u64::from(range.length),
        });
        true
    }

    fn is_in_a_hurry(&self) -> bool {
        let is_full = match &*self.write_caching.state.borrow() {
            State::Open(cache) => cache.used_percent() >= USED_PERCENT_MAX,
            _ => true,
        };
        is_full || self.pending_bytes() >= PENDING_BYTES_MAX || self.stopping.get()
    }

    /// Lets the journal get what is pending after a while.
    fn commit_later(self: &Rc<Self>, log: Rc<Log<R>>) {
        self.write_caching.lazy.borrow_mut().push(log);
        if self.write_caching.is_timed.replace(true) {
            return;
        }
        let store = Rc::clone(self);
        self.runtime.spawn(async move {
            store.runtime.sleep(COMMIT_AFTER).await;
            store.write_caching.is_timed.set(false);
            store.hurry();
        });
    }
}

impl<R: Runtime> Log<R> {
    /// Puts what was just appended into the write cache. False if it has to wait to be durable.
    pub(super) fn keep_written(self: &Rc<Self>, range: Range, header: &BatchHeader, batch: &[u8]) -> bool {
        let is_behind_another =
            self.uncached_end.get().is_some_and(|(base, end)| !self.has_durable(base, end));
        let directory = (!self.in_checkpoint.get()).then_some(&*self.directory_name);
        let (head, records) = batch.split_at(HEADER_BYTES);
        let mut head: [u8; HEADER_BYTES] = std::array::from_fn(|at| head[at]);
        assign(&mut head, header.base_offset, header.leader_epoch);
        let written = Written { range, directory, head: &head, records };
        if is_behind_another || !self.store.put(self, &written) {
            self.uncached_end.set(Some((range.segment_base, range.position + u64::from(range.length))));
            return false;
        }
        self.uncached_end.set(None);
        true
    }

    /// Lets the journal have the log's appends some time later, unless it is to have them at once anyway.
    pub(super) fn enqueue_lazily(self: &Rc<Self>) {
        if !self.queued.replace(true) {
            self.lazy.set(true);
            self.store.commit_later(Rc::clone(self));
        }
        if self.store.is_in_a_hurry() {
            self.store.hurry();
        }
    }

    /// Whether a segment is durable up to `end`.
    fn has_durable(&self, base: Offset, end: u64) -> bool {
        let inner = self.inner.borrow();
        // What is not there any more was durable before it went.
        inner
            .segments
            .iter()
            .rev()
            .find(|segment| segment.base <= base)
            .is_none_or(|segment| segment.base != base || segment.durable >= end)
    }
}
