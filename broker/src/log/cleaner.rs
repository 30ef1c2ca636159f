//! Compaction of a log's closed segments: a pass notes the keys of the part that is dirty, and then rewrites all closed
//! segments before its end without the records that are superseded.
//!
//! Only segments of which the journal and the checkpoint know nothing any more are rewritten, and never the one that
//! holds the durable end. They are rewritten oldest first, so that whatever a crash leaves, nothing outlives what
//! superseded it: a tombstone goes only where all that it marks has gone before. `replacement.rs` has how the new
//! segment takes its place.

use super::LogError;
use super::appender::Log;
use super::index::SparseIndex;
use super::replacement::{Replacement, Span};
use super::segment::read_file;
use crate::runtime::buffer::Chunk;
use crate::runtime::{Durability, File, OffloadError, OpenMode, Runtime};
use logmill_state::log_plan::{
    ClosedSegment, Compaction, CompactionRules, KeyMap, SegmentTimes, compact_batches, group_segments,
};
use logmill_wire::ids::{Offset, TimestampMs};
use logmill_wire::limits::{CHUNK_BYTES_MAX, CLEANER_READ_BYTES, PAGE_BYTES};
use logmill_wire::record_batch::{crc_matches, whole_batches};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long to wait before asking again for a place in the pool, whose queue was full.
const POOL_RETRY_AFTER: Duration = Duration::from_millis(20);

/// The longest that one read or write of compaction is put off at a time, so that the end of the log directory is seen.
const THROTTLE_STEP_MAX: Duration = Duration::from_secs(1);

/// What compaction may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CleanerBudget {
    /// Memory for the keys of a pass.
    pub map_bytes: usize,
    /// Bytes read and written in a second.
    pub io_bytes_per_second: f64,
    /// `segment.bytes`: small neighbours become one of at most so much.
    pub segment_bytes: u64,
}

/// Tells when compaction may go on reading and writing.
struct Throttle {
    bytes_per_second: f64,
    owed_seconds: Cell<f64>,
}

impl<R: Runtime> Log<R> {
    /// Segments before this one may be compacted.
    pub fn closed_below(&self) -> Offset {
        let inner = self.inner.borrow();
        let active = inner.segments.back().map_or(inner.closed_end.0, |active| active.base);
        let in_memory = inner.segments.iter().find(|segment| segment.durable < segment.end());
        active.min(in_memory.map_or(active, |segment| segment.base)).min(self.free_below())
    }

    /// The segments that may be compacted, oldest first, without their times. This does not count as a use of the log.
    ///
    /// # Errors
    /// If the log cannot be opened.
    pub async fn closed_segments(self: &Rc<Self>) -> Result<Vec<ClosedSegment>, LogError> {
        self.check_health()?;
        if !self.exists.get() {
            return Ok(Vec::new());
        }
        let _busy = self.keep_open();
        self.open().await?;
        Ok(self.closed_now())
    }

    fn closed_now(&self) -> Vec<ClosedSegment> {
        let limit = self.closed_below();
        let inner = self.inner.borrow();
        let nexts = inner.segments.iter().skip(1).map(|segment| segment.base);
        let closed = inner.segments.iter().take_while(|segment| segment.sealed && segment.base < limit);
        closed
            .zip(nexts)
            .map(|(segment, next_offset)| ClosedSegment {
                base: segment.base,
                next_offset,
                bytes: segment.end(),
                times: None,
            })
            .collect()
    }

    /// Between which times the records of a segment were written.
    ///
    /// # Errors
    /// If the segment cannot be read.
    pub async fn times_of(self: &Rc<Self>, base: Offset) -> Result<SegmentTimes, LogError> {
        use logmill_state::log_plan::LargestTimestamp;
        let largest = match self.largest_timestamp(base).await? {
            LargestTimestamp::At(largest) => largest,
            // Without timestamps they count as old.
            LargestTimestamp::None | LargestTimestamp::Unread => TimestampMs(0),
        };
        let first = self.first_timestamp(base).await?.unwrap_or(largest);
        Ok(SegmentTimes { first, largest })
    }

    /// Compacts what a plan says, in one or several passes.
    ///
    /// # Errors
    /// If the log cannot be read or written, or the log directory ends. What was compacted until then stays so.
    pub async fn compact(
        self: &Rc<Self>,
        compaction: Compaction,
        rules: CompactionRules,
        budget: CleanerBudget,
    ) -> Result<(), LogError> {
        if self.cleaning.running.replace(true) {
            return Ok(());
        }
        let _busy = self.keep_open();
        let outcome = self.compact_alone(compaction, Arc::new(rules), budget).await;
        self.cleaning.running.set(false);
        outcome
    }

    async fn compact_alone(
        self: &Rc<Self>,
        compaction: Compaction,
        rules: Arc<CompactionRules>,
        budget: CleanerBudget,
    ) -> Result<(), LogError> {
        self.goes_on()?;
        self.open().await?;
        self.finish_replacement().await?;
        let throttle =
            Throttle { bytes_per_second: budget.io_bytes_per_second, owed_seconds: Cell::new(0.0) };
        let mut first_dirty = compaction.first_dirty;
        while first_dirty < compaction.end {
            let map = self.map_keys(first_dirty, compaction.end, budget.map_bytes, &throttle).await?;
            if map.end() <= first_dirty {
                break;
            }
            first_dirty = map.end();
            let keys = map.keys();
            self.expect_gaps_below(first_dirty).await?;
            self.rewrite_all(Arc::new(map), &rules, budget.segment_bytes, &throttle).await?;
            self.note_cleaned_to(first_dirty).await?;
            tracing::debug!(log = %self.key(), to = %first_dirty, keys, "a log was compacted");
        }
        Ok(())
    }

    /// An error if compaction has to end here.
    fn goes_on(&self) -> Result<(), LogError> {
        self.check_health()?;
        self.check_not_truncated()?;
        if self.store.is_ending() {
            return Err(LogError::Io(io::ErrorKind::Interrupted, "the broker is being stopped".into()));
        }
        Ok(())
    }

    async fn map_keys(
        self: &Rc<Self>,
        from: Offset,
        end: Offset,
        bytes_max: usize,
        throttle: &Throttle,
    ) -> Result<KeyMap, LogError> {
        let random = || self.store.runtime.random_u64();
        let mut map = KeyMap::new(from, bytes_max, [random(), random()]);
        let dirty = |segment: &ClosedSegment| segment.next_offset > from && segment.base < end;
        for segment in self.closed_now().into_iter().filter(dirty) {
            let mut walk = self.walk(&segment).await?;
            while let Some(batches) = self.next_batches(&mut walk, throttle).await? {
                map = self
                    .in_pool(move || {
                        map.note(&batches, end);
                        map
                    })
                    .await?;
                if map.is_closed() {
                    return Ok(map);
                }
            }
        }
        map.note_end(end);
        Ok(map)
    }

    async fn rewrite_all(
        self: &Rc<Self>,
        map: Arc<KeyMap>,
        rules: &Arc<CompactionRules>,
        segment_bytes: u64,
        throttle: &Throttle,
    ) -> Result<(), LogError> {
        let mut segments = self.closed_now();
        segments.retain(|segment| segment.base < map.end());
        for group in group_segments(&segments, segment_bytes) {
            let group = segments.get(group).unwrap_or_default();
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            let is_there = |segment: &ClosedSegment| {
                self.inner.borrow().segments.iter().any(|found| found.base == segment.base)
            };
            // Retention may be faster.
            if !group.iter().all(is_there) {
                continue;
            }
            if group.len() == 1 && !self.would_change(first, &map, rules, throttle).await? {
                continue;
            }
            let span = (first.base, last.next_offset);
            let written = self.write_cleaned(span, group, &map, rules, throttle).await;
            let Ok((bytes, index)) = written else {
                // What takes space for nothing is in the way of others.
                self.remove(&self.cleaned_path(span)).await?;
                return written.map(drop);
            };
            self.replace(Replacement { span, bytes, index }).await?;
        }
        Ok(())
    }

    /// Whether anything of a segment would go.
    async fn would_change(
        self: &Rc<Self>,
        segment: &ClosedSegment,
        map: &Arc<KeyMap>,
        rules: &Arc<CompactionRules>,
        throttle: &Throttle,
    ) -> Result<bool, LogError> {
        let mut walk = self.walk(segment).await?;
        while let Some(batches) = self.next_batches(&mut walk, throttle).await? {
            if self.compacted(batches, map, rules).await?.is_changed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes what stays of segments; returns its size and its index.
    async fn write_cleaned(
        self: &Rc<Self>,
        span: Span,
        segments: &[ClosedSegment],
        map: &Arc<KeyMap>,
        rules: &Arc<CompactionRules>,
        throttle: &Throttle,
    ) -> Result<(u64, SparseIndex), LogError> {
        let file = self.store.runtime.open(&self.cleaned_path(span), OpenMode::Create).await?;
        file.set_length(0).await?;
        let mut out = Output { file: &file, waiting: Vec::new(), position: 0, index: SparseIndex::default() };
        for segment in segments {
            let mut walk = self.walk(segment).await?;
            while let Some(batches) = self.next_batches(&mut walk, throttle).await? {
                let kept = self.compacted(batches, map, rules).await?.bytes;
                throttle.note(kept.len());
                out.put(&kept).await?;
            }
        }
        let (end, index) = out.finish().await?;
        file.set_length(end).await?;
        self.flush(&file, "a compacted segment").await?;
        Ok((end, index))
    }

    async fn compacted(
        &self,
        batches: Vec<u8>,
        map: &Arc<KeyMap>,
        rules: &Arc<CompactionRules>,
    ) -> Result<logmill_state::log_plan::Compacted, LogError> {
        let (map, rules) = (Arc::clone(map), Arc::clone(rules));
        let compacted = self.in_pool(move || compact_batches(&batches, &map, &rules)).await?;
        compacted.map_err(|error| LogError::Damaged(format!("a batch cannot be compacted: {error}")))
    }

    async fn walk(&self, segment: &ClosedSegment) -> Result<Walk<R::File>, LogError> {
        let file = self.file_of(segment.base).await?;
        Ok(Walk { file, base: segment.base, position: 0, end: segment.bytes, rest: Vec::new() })
    }

    async fn next_batches(
        &self,
        walk: &mut Walk<R::File>,
        throttle: &Throttle,
    ) -> Result<Option<Vec<u8>>, LogError> {
        self.goes_on()?;
        while let Some(rest) = throttle.rest() {
            self.store.runtime.sleep(rest).await;
            self.goes_on()?;
        }
        let before = walk.position;
        let batches = walk.next().await;
        throttle.note((walk.position - before) as usize);
        batches.inspect_err(|error| {
            if let LogError::Damaged(what) = error {
                tracing::error!(log = %self.key(), what, "rot below the durable end; the log is not compacted, and its bytes are kept as they are");
            }
        })
    }

    /// Runs work in the pool; while its queue is full, compaction has time.
    async fn in_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LogError> {
        let slot = Arc::new(Mutex::new(Some(work)));
        loop {
            let taken = Arc::clone(&slot);
            let run = move || {
                let work = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
                work.map(|work| work())
            };
            match self.store.runtime.offload(run).await {
                Ok(Some(value)) => return Ok(value),
                Err(OffloadError::Busy) => self.store.runtime.sleep(POOL_RETRY_AFTER).await,
                Ok(None) | Err(OffloadError::Panicked) => {
                    return Err(LogError::Io(io::ErrorKind::Other, "compaction failed in the pool".into()));
                }
            }
        }
    }
}

impl Throttle {
    fn note(&self, bytes: usize) {
        self.owed_seconds.set(self.owed_seconds.get() + bytes as f64 / self.bytes_per_second);
    }

    /// How long to rest before the next read, if it is worth it.
    fn rest(&self) -> Option<Duration> {
        let owed = self.owed_seconds.get();
        if owed < 0.01 {
            return None;
        }
        let rest = owed.min(THROTTLE_STEP_MAX.as_secs_f64());
        self.owed_seconds.set(owed - rest);
        Some(Duration::from_secs_f64(rest))
    }
}

/// Whole batches of a segment, some at a time, with their checksums checked.
struct Walk<F: File> {
    file: Rc<F>,
    base: Offset,
    position: u64,
    end: u64,
    rest: Vec<u8>,
}

impl<F: File> Walk<F> {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        loop {
            let whole = self.intact()?;
            if whole > 0 {
                let rest = self.rest.split_off(whole);
                return Ok(Some(std::mem::replace(&mut self.rest, rest)));
            }
            if self.position >= self.end {
                return if self.rest.is_empty() {
                    Ok(None)
                } else {
                    Err(self.damage("it ends within a batch"))
                };
            }
            let to = (self.position + CLEANER_READ_BYTES as u64).min(self.end);
            for view in read_file(&*self.file, self.position..to).await? {
                self.rest.extend_from_slice(&view);
            }
            self.position = to;
        }
    }

    /// The length of the whole batches at the front of what was read.
    fn intact(&self) -> Result<usize, LogError> {
        let mut length = 0;
        for batch in whole_batches(&self.rest) {
            let batch = batch.map_err(|error| self.damage(&error.to_string()))?;
            if !crc_matches(batch.bytes()) {
                return Err(self.damage("a batch's checksum is not that of its bytes"));
            }
            length += batch.bytes().len();
        }
        Ok(length)
    }

    fn damage(&self, what: &str) -> LogError {
        LogError::Damaged(format!("segment {}, before byte {}: {what}", self.base, self.position))
    }
}

/// The cleaned file while it is written, in whole pages.
struct Output<'a, F: File> {
    file: &'a F,
    waiting: Vec<u8>,
    position: u64,
    index: SparseIndex,
}

impl<F: File> Output<'_, F> {
    async fn put(&mut self, batches: &[u8]) -> Result<(), LogError> {
        let mut at = self.position + self.waiting.len() as u64;
        for batch in whole_batches(batches).map_while(Result::ok) {
            self.index.note(batch.header(), at);
            at += batch.bytes().len() as u64;
        }
        self.waiting.extend_from_slice(batches);
        let pages = self.waiting.len() / PAGE_BYTES * PAGE_BYTES;
        if pages >= CLEANER_READ_BYTES { self.write(pages).await } else { Ok(()) }
    }

    async fn write(&mut self, length: usize) -> Result<(), LogError> {
        let rest = self.waiting.split_off(length);
        let bytes = std::mem::replace(&mut self.waiting, rest);
        for part in bytes.chunks(CHUNK_BYTES_MAX) {
            let mut chunk = Chunk::with_capacity(part.len());
            chunk.append(part);
            chunk.pad_to(PAGE_BYTES);
            self.file.write(chunk.view_all(), self.position, Durability::Cached).await?;
            self.position += part.len() as u64;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(u64, SparseIndex), LogError> {
        self.write(self.waiting.len()).await?;
        Ok((self.position, self.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_owed_for_and_paid_in_steps() {
        let throttle = Throttle { bytes_per_second: 1000.0, owed_seconds: Cell::new(0.0) };
        throttle.note(5);
        assert_eq!(throttle.rest(), None, "too short to be worth it");
        throttle.note(2_495);
        assert_eq!(throttle.rest(), Some(Duration::from_secs(1)));
        assert_eq!(throttle.rest(), Some(Duration::from_secs(1)));
        assert_eq!(throttle.rest(), Some(Duration::from_millis(500)));
        assert_eq!(throttle.rest(), None);
        let unlimited = Throttle { bytes_per_second: f64::MAX, owed_seconds: Cell::new(0.0) };
        unlimited.note(usize::MAX);
        assert_eq!(unlimited.rest(), None);
    }
}
