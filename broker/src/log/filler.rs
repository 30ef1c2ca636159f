//! What happens to a log's bytes behind the journal: filling segments, settling them for a checkpoint, and
//! letting go of logs that nobody uses.

use super::LogError;
use super::appender::Log;
use super::segment::Segment;
use super::tail::page_floor;
use crate::runtime::buffer::{Chunk, ChunkView};
use crate::runtime::{Durability, File, OpenMode, Runtime};
use crate::shard::join::{Boxed, join_all};
use logmill_wire::ids::Offset;
use logmill_wire::limits::PAGE_BYTES;
use std::rc::Rc;

/// Writes that one fill has under way together.
const FILL_WRITES_MAX: usize = 16;

impl<R: Runtime> Log<R> {
    /// Writes the durable bytes of all segments to their files: whole pages, and with `partial` also the last
    /// page, padded with zeros.
    pub(super) async fn fill_all(self: &Rc<Self>, partial: bool) -> Result<(), LogError> {
        let _busy = self.keep_open();
        let bases: Vec<Offset> = {
            let inner = self.inner.borrow();
            inner.segments.iter().filter(|segment| !segment.sealed).map(|segment| segment.base).collect()
        };
        for base in bases {
            self.fill_segment(base, partial).await?;
        }
        Ok(())
    }

    async fn fill_segment(self: &Rc<Self>, base: Offset, partial: bool) -> Result<(), LogError> {
        let file = match self.file_of(base).await {
            // The log was truncated meanwhile.
            Err(LogError::OutOfRange) => return Ok(()),
            file => file?,
        };
        loop {
            let writing = self.with_segment(base, |segment| segment.writing).unwrap_or(false);
            if !writing {
                break;
            }
            self.segments_changed.wait().await;
        }
        let plan = self.with_segment(base, |segment| {
            segment.writing = true;
            let (ranges, filled) = segment.ranges_to_fill();
            let mut writes: Vec<(u64, ChunkView)> = Vec::new();
            for range in ranges {
                let mut position = range.start;
                for view in segment.tail.views(range) {
                    let length = view.len() as u64;
                    writes.push((position, view));
                    position += length;
                }
            }
            let mut written_to = filled;
            if partial && let Some(last) = last_page(segment) {
                writes.push(last);
                written_to = segment.durable;
            }
            (writes, filled, written_to)
        });
        let Some((writes, filled, written_to)) = plan else { return Ok(()) };
        let outcome = write_all(&*file, writes).await;
        self.with_segment(base, |segment| {
            segment.writing = false;
            if outcome.is_ok() {
                segment.note_filled(filled);
                segment.written_to = segment.written_to.max(written_to);
            }
        });
        self.segments_changed.notify_all();
        outcome
    }

    fn with_segment<T>(&self, base: Offset, action: impl FnOnce(&mut Segment<R>) -> T) -> Option<T> {
        self.inner.borrow_mut().segments.iter_mut().find(|segment| segment.base == base).map(action)
    }

    /// Brings everything durable into the segments and flushes them; seals segments that are complete. After
    /// this, and once a checkpoint names the log's end, the journal may forget the log.
    pub(super) async fn settle_alone(self: &Rc<Self>) -> Result<(), LogError> {
        let bases: Vec<Offset> = {
            let inner = self.inner.borrow();
            inner.segments.iter().filter(|segment| !segment.sealed).map(|segment| segment.base).collect()
        };
        for base in bases {
            let file = self.file_of(base).await?;
            // A segment that the log has left, and that is durable as a whole, must be sealed now: no later
            // append brings its log back here, and a restart would take its space for records. A fill that was
            // planned when it was so writes all of it, so this ends: at once, or with the second fill.
            loop {
                self.fill_segment(base, true).await?;
                if !self.is_left_behind(base) || self.is_complete(base).is_some() {
                    break;
                }
            }
            let complete = self.is_complete(base);
            if let Some(end) = complete {
                file.set_length(end).await?;
            }
            self.flush_segment(base, &file).await?;
            self.persist_index(base, complete.is_some() || self.store.stopping.get()).await;
            if complete.is_some() {
                self.with_segment(base, |segment| {
                    segment.sealed = true;
                    segment.file = None;
                });
            }
        }
        Ok(())
    }

    /// Flushes a segment's file. If that fails, what was written since the last flush may be gone, from the file and
    /// from the cache: the log directory ends here, before anybody takes what is missing for rot.
    async fn flush_segment(&self, base: Offset, file: &R::File) -> Result<(), LogError> {
        self.with_segment(base, |segment| segment.flushing = true);
        let outcome = file.flush().await;
        if let Err(error) = &outcome {
            self.store.health.fail(format!("a flush of {} failed: {error}", self.directory_name));
        }
        self.with_segment(base, |segment| segment.flushing = false);
        self.segments_changed.notify_all();
        outcome.map_err(LogError::from)
    }

    fn is_left_behind(&self, base: Offset) -> bool {
        let inner = self.inner.borrow();
        let is_last = inner.segments.back().is_none_or(|last| last.base == base);
        let segment = inner.segments.iter().find(|segment| segment.base == base);
        !is_last && segment.is_some_and(|segment| segment.durable == segment.end())
    }

    /// The end of a segment that will not grow any more, if all of it is durable and filled.
    fn is_complete(&self, base: Offset) -> Option<u64> {
        let inner = self.inner.borrow();
        let last = inner.segments.back()?;
        let segment = inner.segments.iter().find(|segment| segment.base == base)?;
        let complete = last.base != base
            && segment.durable == segment.end()
            // More may have become durable since the last page was written.
            && segment.written_to == segment.end()
            && !segment.writing;
        complete.then(|| segment.end())
    }

    /// Gives back the memory of an index that nobody uses.
    pub(super) fn forget_index(&self, base: Offset) {
        self.with_segment(base, |segment| segment.index = None);
    }

    /// Writes the index behind the log: full pages, and with `partial` all of it. What is missing is found again by
    /// reading a few batches, and a file for each of many small logs at each checkpoint costs more. It is only a hint,
    /// so a failure is reported and nothing else.
    pub(super) async fn persist_index(self: &Rc<Self>, base: Offset, partial: bool) {
        let key = self.key;
        let pages = self
            .with_segment(base, |segment| {
                let durable = segment.durable;
                segment.index.as_mut().and_then(|index| index.pages_to_persist(key, base, durable, partial))
            })
            .flatten();
        let Some((position, bytes)) = pages else { return };
        let outcome: std::io::Result<()> = async {
            let file = self.store.runtime.open(&self.index_path(base), OpenMode::Create).await?;
            let mut chunk = Chunk::with_capacity(bytes.len());
            chunk.append(&bytes);
            file.write(chunk.view_all(), position, Durability::Cached).await
        }
        .await;
        if let Err(error) = outcome {
            tracing::warn!(log = %self.directory_name, %error, "an index could not be written; it will be rebuilt from the log");
        }
    }

    /// Gives back memory and descriptors, if nothing is under way and a checkpoint names the log's end.
    pub(super) fn close_if_idle(&self) -> bool {
        if self.deleted.get() {
            return true;
        }
        if self.used.replace(false) || self.touched_cut.get() >= self.store.completed_cut.get() {
            return false;
        }
        let mut inner = self.inner.borrow_mut();
        let quiet = inner.segments.iter().all(|segment| segment.durable == segment.end() && !segment.writing);
        if !quiet
            || !self.opened.get()
            || self.busy.get() > 0
            || !self.start.is_settled()
            || !self.truncation.is_done()
        {
            return false;
        }
        let Some(last) = inner.segments.back() else { return false };
        let unsettled = inner.segments.iter().any(|segment| !segment.sealed && segment.base != last.base);
        if unsettled {
            return false;
        }
        // The segment that goes on may be empty, and then it may not be among those that were found when the log was
        // opened. The log must not go on in one before it: a restart takes that for settled.
        let end = (last.base, last.end());
        if end.0 >= inner.closed_end.0 {
            inner.closed_end = end;
        }
        let freed: usize = inner
            .segments
            .iter_mut()
            .map(|segment| segment.tail.clear() + segment.read_ahead.take().map_or(0, |(_, view)| view.len()))
            .sum();
        inner.segments.clear();
        self.opened.set(false);
        self.store.health.names.release(&self.directory_name, self.key);
        self.store.note_evicted(freed);
        true
    }
}

/// The last page of a segment, copied and padded with zeros, unless the durable end is a page boundary or the page was
/// written as it is now: the journal need not hold it any more, so it may not be in flight again.
fn last_page<R: Runtime>(segment: &Segment<R>) -> Option<(u64, ChunkView)> {
    let start = page_floor(segment.durable);
    if start == segment.durable || start < segment.tail.start() || segment.written_to >= segment.durable {
        return None;
    }
    let mut page = Chunk::with_capacity(PAGE_BYTES);
    for view in segment.tail.views(start..segment.durable) {
        page.append(&view);
    }
    page.pad_to(PAGE_BYTES);
    Some((start, page.view_all()))
}

async fn write_all<F: File>(file: &F, writes: Vec<(u64, ChunkView)>) -> Result<(), LogError> {
    let mut writes = writes.into_iter().peekable();
    while writes.peek().is_some() {
        let under_way: Vec<Boxed<'_, std::io::Result<()>>> = writes
            .by_ref()
            .take(FILL_WRITES_MAX)
            .map(|(position, view)| Box::pin(file.write(view, position, Durability::Cached)) as _)
            .collect();
        for outcome in join_all(under_way).await {
            outcome?;
        }
    }
    Ok(())
}
