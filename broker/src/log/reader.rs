//! A log's way out: batches by offset, offsets by timestamp.

use super::LogError;
use super::appender::Log;
use super::index::SparseIndex;
use super::segment::read_file;
use super::tail::{page_ceil, page_floor};
use crate::runtime::buffer::{Chunk, ChunkView};
use crate::runtime::{File, OpenMode, Runtime};
use logmill_wire::ids::{Offset, TimestampMs};
use logmill_wire::limits::{CHUNK_BYTES_MAX, PAGE_BYTES};
use logmill_wire::record_batch::{
    BatchError, BatchHeader, BatchView, HEADER_BYTES, crc_matches, first_record_from,
    max_timestamp_record_from,
};
use std::ops::Range;
use std::rc::Rc;

/// Bytes that a look through batch headers reads from disk at a time.
const SCAN_BYTES: usize = 64 << 10;

/// What a read found.
#[derive(Debug, Default)]
pub struct ReadOutcome {
    /// Batches back to back; the last one may be cut, the first one never is.
    pub views: Vec<ChunkView>,
    /// Bytes in `views`.
    pub bytes: usize,
}

/// A batch that was found in a segment.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) header: BatchHeader,
    pub(super) position: u64,
    pub(super) bytes: u64,
}

/// Where reading of a segment must end.
#[derive(Clone, Copy)]
pub(super) struct Readable {
    pub(super) base: Offset,
    pub(super) limit: u64,
    /// How many replacements of segments had been made when the read began: it is not of segments made later.
    replacements: u64,
}

impl<R: Runtime> Log<R> {
    /// Reads batches from the one that holds `offset` on, up to the readable end and at most `max_bytes`;
    /// with `at_least_one` the first batch comes whole even if it is larger (KIP-74). No batch is read that ends behind
    /// `below`, if that is given.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] beyond the readable end, [`LogError::Damaged`] if what is on disk is not what was
    /// written, and what the disk says.
    pub async fn read(
        self: &Rc<Self>,
        offset: Offset,
        max_bytes: usize,
        at_least_one: bool,
        below: Option<Offset>,
    ) -> Result<ReadOutcome, LogError> {
        loop {
            let replacements = self.replacements();
            let outcome = self.read_once(offset, max_bytes, at_least_one, below).await;
            if replacements == self.replacements() {
                return outcome;
            }
        }
    }

    async fn read_once(
        self: &Rc<Self>,
        offset: Offset,
        max_bytes: usize,
        at_least_one: bool,
        below: Option<Offset>,
    ) -> Result<ReadOutcome, LogError> {
        let end = self.readable_end();
        let below = below.filter(|below| *below < end);
        let end = below.unwrap_or(end);
        if offset > end {
            return Err(LogError::OutOfRange);
        }
        if offset == end || (max_bytes == 0 && !at_least_one) {
            return Ok(ReadOutcome::default());
        }
        let _busy = self.hold();
        self.open().await?;
        for readable in self.readable_from(offset) {
            let Some(found) = self.find_offset(readable, offset).await? else { continue };
            if found.header.base_offset > offset && self.starts_after(offset) {
                // It was there when the read began.
                return Err(LogError::OutOfRange);
            }
            // Compaction removes records from the middle of a log, and nothing else does.
            if found.header.base_offset > offset && !self.may_have_gaps_at(offset) {
                // Nothing removes records from the middle of a log: a header before this one must be rotten.
                return Err(self.rot(readable, found.position, "the batches before it are not there").await);
            }
            if !at_least_one && found.bytes > max_bytes as u64 {
                return Ok(ReadOutcome::default());
            }
            let readable = match below {
                Some(below) => self.clipped(readable, below).await?,
                None => readable,
            };
            if found.position + found.bytes > readable.limit {
                return Ok(ReadOutcome::default());
            }
            let wanted = (found.position + max_bytes as u64).max(found.position + found.bytes);
            let end = self.end_of_read(readable, found, wanted);
            let views = self.bytes_of(readable, found.position..end, found.bytes).await?;
            let bytes = views.iter().map(|view| view.len()).sum();
            return Ok(ReadOutcome { views, bytes });
        }
        Ok(ReadOutcome::default())
    }

    /// The end of what may be read.
    #[must_use]
    pub fn readable_end(&self) -> Offset {
        self.inner.borrow().readable.2
    }

    /// The first record from `from` on with a timestamp of at least `timestamp`, and its timestamp.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub async fn offset_for_timestamp(
        self: &Rc<Self>,
        timestamp: TimestampMs,
        from: Offset,
    ) -> Result<Option<(Offset, TimestampMs)>, LogError> {
        loop {
            let replacements = self.replacements();
            let outcome = self.look_for_timestamp(timestamp, from).await;
            if replacements == self.replacements() {
                return outcome;
            }
        }
    }

    async fn look_for_timestamp(
        self: &Rc<Self>,
        timestamp: TimestampMs,
        from: Offset,
    ) -> Result<Option<(Offset, TimestampMs)>, LogError> {
        if from >= self.readable_end() {
            return Ok(None);
        }
        let _busy = self.hold();
        self.open().await?;
        for readable in self.readable_from(from) {
            self.load_index(readable.base).await?;
            let start = self.with_index(readable.base, |index| {
                index
                    .max_timestamp()
                    .filter(|(max, _)| *max >= timestamp)
                    .map(|_| index.floor_of_timestamp(timestamp))
            });
            let Some(mut position) = start.flatten() else { continue };
            while let Some(found) = self
                .scan(readable, position, |header| {
                    header.max_timestamp >= timestamp && header.last_offset() >= from
                })
                .await?
            {
                let batch = self.whole_batch(readable, found).await?;
                let record =
                    self.decode(batch, move |batch| first_record_from(batch, from, timestamp)).await?;
                if let Some((offset, at)) = record {
                    return Ok(Some((offset, at)));
                }
                position = found.position + found.bytes;
            }
        }
        Ok(None)
    }

    /// The first record that has the largest timestamp of the log from `from` on, and that timestamp (KIP-734).
    ///
    /// # Errors
    /// As [`Log::read`].
    pub async fn offset_of_max_timestamp(
        self: &Rc<Self>,
        from: Offset,
    ) -> Result<Option<(Offset, TimestampMs)>, LogError> {
        loop {
            let replacements = self.replacements();
            let outcome = self.look_for_max_timestamp(from).await;
            if replacements == self.replacements() {
                return outcome;
            }
        }
    }

    async fn look_for_max_timestamp(
        self: &Rc<Self>,
        from: Offset,
    ) -> Result<Option<(Offset, TimestampMs)>, LogError> {
        if from >= self.readable_end() {
            return Ok(None);
        }
        let _busy = self.hold();
        self.open().await?;
        let mut best: Option<(TimestampMs, Readable, u64)> = None;
        for readable in self.readable_from(from) {
            self.load_index(readable.base).await?;
            let max = if readable.base < from {
                self.max_timestamp_from(readable, from).await?
            } else {
                self.with_index(readable.base, |index| index.max_timestamp()).flatten()
            };
            if let Some((timestamp, position)) = max
                && best.is_none_or(|(known, _, _)| timestamp > known)
            {
                best = Some((timestamp, readable, position));
            }
        }
        let Some((timestamp, readable, position)) = best else { return Ok(None) };
        // The batch with that timestamp may not be durable yet; then the largest durable one is looked for.
        let mut largest: Option<Found> = None;
        let mut at = position;
        while let Some(found) = self.scan(readable, at, |_| true).await? {
            if found.header.last_offset() >= from
                && largest.is_none_or(|known| found.header.max_timestamp > known.header.max_timestamp)
            {
                largest = Some(found);
            }
            if found.header.max_timestamp >= timestamp {
                break;
            }
            at = found.position + found.bytes;
        }
        let Some(mut found) = largest else { return Ok(None) };
        let mut readable = readable;
        if found.header.record_count == 0 {
            // Compaction has left a batch without records, whose timestamp is nobody's any more.
            let Some(other) = self.largest_with_records(from).await? else { return Ok(None) };
            (readable, found) = other;
        }
        let batch = self.whole_batch(readable, found).await?;
        self.decode(batch, move |batch| max_timestamp_record_from(batch, from)).await
    }

    /// The first batch with the largest timestamp among those that have records and reach to `from`: by looking at all.
    async fn largest_with_records(
        self: &Rc<Self>,
        from: Offset,
    ) -> Result<Option<(Readable, Found)>, LogError> {
        let mut largest: Option<(Readable, Found)> = None;
        for readable in self.readable_from(from) {
            let (mut position, mut window) = (0, None);
            let is_candidate = |header: &BatchHeader| header.record_count > 0 && header.last_offset() >= from;
            while let Some(found) = self.scan_on(readable, position, &mut window, is_candidate).await? {
                let timestamp = found.header.max_timestamp;
                if largest.is_none_or(|(_, known)| timestamp > known.header.max_timestamp) {
                    largest = Some((readable, found));
                }
                position = found.position + found.bytes;
            }
        }
        Ok(largest)
    }

    /// The largest timestamp of the batches that reach to `from`, and where the first one with it is: of a segment
    /// that begins before the log, the index does not know it.
    async fn max_timestamp_from(
        self: &Rc<Self>,
        readable: Readable,
        from: Offset,
    ) -> Result<Option<(TimestampMs, u64)>, LogError> {
        let start = self.with_index(readable.base, |index| index.floor_of_offset(from)).unwrap_or(0);
        let (mut position, mut window, mut largest) = (start, None, None);
        while let Some(found) =
            self.scan_on(readable, position, &mut window, |header| header.last_offset() >= from).await?
        {
            let timestamp = found.header.max_timestamp;
            if largest.is_none_or(|(known, _)| timestamp > known) {
                largest = Some((timestamp, found.position));
            }
            position = found.position + found.bytes;
        }
        Ok(largest)
    }

    /// Looks into a batch; if it is compressed, away from the shard's thread.
    async fn decode<T: Send + 'static>(
        &self,
        batch: Vec<u8>,
        look: impl FnOnce(&BatchView<'_>) -> Result<T, BatchError> + Send + 'static,
    ) -> Result<T, LogError> {
        let look = move |bytes: &[u8]| BatchView::only(bytes).and_then(|batch| look(&batch));
        let compressed = BatchHeader::parse(&batch).is_some_and(|header| header.attributes.codec_id() != 0);
        let outcome = if compressed {
            let looked = self.store.runtime.offload(move || look(&batch)).await;
            looked.map_err(|_| {
                LogError::Io(std::io::ErrorKind::WouldBlock, "the pool for decompression is busy".into())
            })?
        } else {
            look(&batch)
        };
        outcome.map_err(|error| LogError::Damaged(format!("a stored batch cannot be decoded: {error}")))
    }

    /// The segments that may hold `offset` and what follows, each with the end of what may be read.
    fn readable_from(&self, offset: Offset) -> Vec<Readable> {
        let inner = self.inner.borrow();
        let (last_base, last_position, _) = inner.readable;
        let first = inner.segments.partition_point(|segment| segment.base <= offset).saturating_sub(1);
        inner
            .segments
            .iter()
            .skip(first)
            .filter(|segment| segment.base <= last_base)
            .map(|segment| {
                let limit = if segment.base == last_base { last_position } else { segment.end() };
                Readable { base: segment.base, limit, replacements: self.replacements() }
            })
            .collect()
    }

    pub(super) async fn find_offset(
        self: &Rc<Self>,
        readable: Readable,
        offset: Offset,
    ) -> Result<Option<Found>, LogError> {
        self.load_index(readable.base).await?;
        let start = self.with_index(readable.base, |index| index.floor_of_offset(offset)).unwrap_or(0);
        self.scan(readable, start, |header| header.last_offset() >= offset).await
    }

    /// Ends reading of a segment before the first batch that ends behind `below`.
    async fn clipped(self: &Rc<Self>, readable: Readable, below: Offset) -> Result<Readable, LogError> {
        let behind = self.find_offset(readable, below).await?;
        Ok(Readable { limit: behind.map_or(readable.limit, |found| found.position), ..readable })
    }

    fn end_of_read(&self, readable: Readable, found: Found, wanted: u64) -> u64 {
        if wanted >= readable.limit {
            return readable.limit;
        }
        // Half a batch is of no use to the client, so the read ends where a batch begins, if one is known.
        let whole = found.position + found.bytes;
        let boundary = self.with_index(readable.base, |index| index.boundary_before(wanted)).flatten();
        boundary.filter(|boundary| *boundary > whole).unwrap_or(wanted)
    }

    /// The first batch from `position` (a batch's start) on that is `wanted`.
    async fn scan(
        self: &Rc<Self>,
        readable: Readable,
        position: u64,
        wanted: impl Fn(&BatchHeader) -> bool,
    ) -> Result<Option<Found>, LogError> {
        self.scan_on(readable, position, &mut None, wanted).await
    }

    /// As [`Log::scan`], with what an earlier scan has read of the file.
    pub(super) async fn scan_on(
        self: &Rc<Self>,
        readable: Readable,
        mut position: u64,
        window: &mut Option<(u64, ChunkView)>,
        wanted: impl Fn(&BatchHeader) -> bool,
    ) -> Result<Option<Found>, LogError> {
        while position < readable.limit {
            let Some(header) = self.header_at(readable, position, window).await? else {
                return Ok(None);
            };
            let bytes = header.total_bytes().unwrap_or(0) as u64;
            if header.magic != 2 || bytes == 0 || position + bytes > readable.limit {
                return Err(self.rot(readable, position, "there is no batch where one was written").await);
            }
            if self.store.runtime.should_yield() {
                self.store.runtime.yield_now().await;
            }
            if wanted(&header) {
                return Ok(Some(Found { header, position, bytes }));
            }
            position += bytes;
        }
        Ok(None)
    }

    async fn header_at(
        self: &Rc<Self>,
        readable: Readable,
        position: u64,
        window: &mut Option<(u64, ChunkView)>,
    ) -> Result<Option<BatchHeader>, LogError> {
        if readable.replacements != self.replacements() {
            return Err(LogError::OutOfRange);
        }
        let mut head = [0; HEADER_BYTES];
        let end = position + HEADER_BYTES as u64;
        let (in_memory_from, filled) = {
            let inner = self.inner.borrow();
            let Some(segment) = inner.segments.iter().find(|segment| segment.base == readable.base) else {
                return Ok(None);
            };
            let start = segment.tail.start().max(position);
            if start < end {
                segment.tail.copy_out(start, &mut head[(start - position) as usize..]);
            }
            (start, segment.filled)
        };
        if in_memory_from < end {
            // The beginning may be in the file alone, and the rest nowhere but here.
            if in_memory_from > position {
                let split = (in_memory_from - position) as usize;
                for view in self.read_from_file(readable, position..in_memory_from).await? {
                    head[..split].copy_from_slice(&view);
                }
            }
            return Ok(BatchHeader::parse(&head));
        }
        let holds =
            window.as_ref().is_some_and(|(from, view)| position >= *from && end <= from + view.len() as u64);
        if !holds {
            // What is not yet filled is in memory now, and must not be remembered as the file had it.
            let to = readable.limit.min(position + SCAN_BYTES as u64).min(filled).max(end);
            let mut bytes = self.read_from_file(readable, position..to).await?;
            *window = bytes.pop().map(|view| (position, view));
        }
        Ok(window
            .as_ref()
            .and_then(|(from, view)| BatchHeader::parse(view.get((position - from) as usize..)?)))
    }

    async fn read_from_file(
        &self,
        readable: Readable,
        range: Range<u64>,
    ) -> Result<Vec<ChunkView>, LogError> {
        let file = self.file_of(readable.base).await?;
        let from = page_floor(range.start);
        let length = (page_ceil(range.end) - from) as usize;
        let (outcome, chunk) = file.read(Chunk::with_capacity(length), from, length).await;
        outcome?;
        let start = (range.start - from) as usize;
        let end = ((range.end - from) as usize).min(chunk.len());
        if end <= start {
            return Err(self
                .rot(readable, range.start, "the segment is shorter than what was written")
                .await);
        }
        Ok(vec![chunk.view(start..end)])
    }

    /// Bytes from the cache, or from disk with read-ahead; what comes from disk is checked first.
    pub(super) async fn bytes_of(
        self: &Rc<Self>,
        readable: Readable,
        range: Range<u64>,
        first_batch_bytes: u64,
    ) -> Result<Vec<ChunkView>, LogError> {
        // The positions are those of a segment that is not there any more.
        if readable.replacements != self.replacements() {
            return Err(LogError::OutOfRange);
        }
        let (cached_from, ahead) = {
            let inner = self.inner.borrow();
            let Some(segment) = inner.segments.iter().find(|segment| segment.base == readable.base) else {
                return Err(LogError::OutOfRange);
            };
            if let Some(views) = segment.cached(range.clone()) {
                return Ok(views);
            }
            (segment.tail.readable_from(), segment.read_ahead.clone())
        };
        if let Some((from, view)) = ahead
            && range.start >= from
            && range.end <= from + view.len() as u64
        {
            return Ok(vec![view.slice((range.start - from) as usize..(range.end - from) as usize)]);
        }
        let least = range.start + first_batch_bytes;
        if least > cached_from {
            return self.straddling(readable, range, cached_from).await;
        }
        let to = range.end.min(cached_from);
        // What is behind in the file may lack pages that were not filled yet, and the offset at a batch's start, which its
        // checksum does not cover, may be all that stands in one of them.
        let ahead_to = (range.start + CHUNK_BYTES_MAX as u64).max(least).min(readable.limit).min(cached_from);
        let Some(view) = self.read_from_file(readable, range.start..ahead_to).await?.pop() else {
            return Err(LogError::OutOfRange);
        };
        let intact = intact_prefix(&view);
        if (intact as u64) < first_batch_bytes {
            return Err(self.rot(readable, range.start, "a batch's checksum is not that of its bytes").await);
        }
        let wanted = ((to - range.start) as usize).min(intact);
        self.keep_read_ahead(readable, range.start, view.slice(0..intact));
        Ok(vec![view.slice(0..wanted)])
    }

    /// A batch of which the beginning is in the file and the rest in memory: its pages were filled and
    /// forgotten while it was not whole on disk.
    async fn straddling(
        self: &Rc<Self>,
        readable: Readable,
        range: Range<u64>,
        cached_from: u64,
    ) -> Result<Vec<ChunkView>, LogError> {
        let in_memory = {
            let inner = self.inner.borrow();
            let segment = inner.segments.iter().find(|segment| segment.base == readable.base);
            segment
                .map_or_else(Vec::new, |segment| segment.tail.views(cached_from..range.end.max(cached_from)))
        };
        let mut views = self.read_from_file(readable, range.start..cached_from).await?;
        views.extend(in_memory);
        let bytes: Vec<u8> = views.iter().flat_map(|view| view.iter().copied()).collect();
        if intact_prefix(&bytes) == 0 {
            return Err(self.rot(readable, range.start, "a batch's checksum is not that of its bytes").await);
        }
        Ok(views)
    }

    fn keep_read_ahead(self: &Rc<Self>, readable: Readable, position: u64, view: ChunkView) {
        if readable.replacements != self.replacements() {
            return;
        }
        let grown = {
            let mut inner = self.inner.borrow_mut();
            let Some(segment) = inner.segments.iter_mut().find(|segment| segment.base == readable.base)
            else {
                return;
            };
            let bytes = view.len();
            let before = segment.read_ahead.replace((position, view)).map_or(0, |(_, view)| view.len());
            self.store.note_evicted(before);
            bytes
        };
        self.store.note_cached(self, grown);
    }

    async fn whole_batch(self: &Rc<Self>, readable: Readable, found: Found) -> Result<Vec<u8>, LogError> {
        let views =
            self.bytes_of(readable, found.position..found.position + found.bytes, found.bytes).await?;
        Ok(views.iter().flat_map(|view| view.iter().copied()).collect())
    }

    pub(super) fn with_index<T>(&self, base: Offset, action: impl FnOnce(&SparseIndex) -> T) -> Option<T> {
        let inner = self.inner.borrow();
        inner.segments.iter().find(|segment| segment.base == base)?.index.as_ref().map(action)
    }

    pub(super) fn has_index(&self, base: Offset) -> bool {
        self.with_index(base, |_| ()).is_some()
    }

    /// The largest timestamp of a segment's first batch; `None` if the segment is empty.
    pub(super) async fn first_timestamp(
        self: &Rc<Self>,
        base: Offset,
    ) -> Result<Option<TimestampMs>, LogError> {
        let _busy = self.keep_open();
        self.open().await?;
        let header = self.scan(self.all_of(base)?, 0, |_| true).await?.map(|found| found.header);
        Ok(header.map(|header| header.max_timestamp))
    }

    /// Reads a segment's index, and makes what is missing from the log.
    pub(super) async fn load_index(self: &Rc<Self>, base: Offset) -> Result<(), LogError> {
        while !self.has_index(base) {
            let readable = self.all_of(base)?;
            let loaded = self.index_of(readable).await;
            if readable.replacements != self.replacements() {
                continue;
            }
            let index = loaded?;
            let mut inner = self.inner.borrow_mut();
            let Some(segment) = inner.segments.iter_mut().find(|segment| segment.base == base) else {
                return Err(LogError::OutOfRange);
            };
            // Nothing was appended meanwhile: an append needs the index first. Whoever loaded it too wins.
            segment.index.get_or_insert(index);
        }
        Ok(())
    }

    /// All of a segment, what is not durable yet as well.
    pub(super) fn all_of(&self, base: Offset) -> Result<Readable, LogError> {
        let inner = self.inner.borrow();
        let segment =
            inner.segments.iter().find(|segment| segment.base == base).ok_or(LogError::OutOfRange)?;
        Ok(Readable { base, limit: segment.end(), replacements: self.replacements() })
    }

    /// The headers of the batches from `from`, a batch's start, to where reading must end.
    pub(super) async fn headers_from(
        self: &Rc<Self>,
        readable: Readable,
        from: u64,
    ) -> Result<Vec<BatchHeader>, LogError> {
        let (mut position, mut window, mut headers) = (from, None, Vec::new());
        while let Some(found) = self.scan_on(readable, position, &mut window, |_| true).await? {
            headers.push(found.header);
            position = found.position + found.bytes;
        }
        Ok(headers)
    }

    async fn index_of(self: &Rc<Self>, readable: Readable) -> Result<SparseIndex, LogError> {
        let Readable { base, limit: end, .. } = readable;
        let content = self.index_content(base).await;
        let mut index = SparseIndex::from_file(&content, self.key, base, end);
        let mut position = index.covered();
        // One window for all batches: a read for each of them would take seconds after a crash.
        let mut window = None;
        while let Some(found) = self.scan_on(readable, position, &mut window, |_| true).await? {
            index.note(&found.header, found.position);
            position = found.position + found.bytes;
        }
        Ok(index)
    }

    pub(super) fn replacements(&self) -> u64 {
        self.cleaning.replacements.get()
    }

    async fn index_content(&self, base: Offset) -> Vec<u8> {
        let Ok(file) = self.store.runtime.open(&self.index_path(base), OpenMode::Read).await else {
            return Vec::new();
        };
        let Ok(length) = file.length().await else { return Vec::new() };
        let length = length / PAGE_BYTES as u64 * PAGE_BYTES as u64;
        if length == 0 {
            return Vec::new();
        }
        let views = read_file(&file, 0..length).await.unwrap_or_default();
        views.iter().flat_map(|view| view.iter().copied()).collect()
    }

    /// Reports rot below the durable end. Nothing is cut off: what is behind it was acknowledged. Where a flush has
    /// failed, nothing has rotted: the file lacks what the journal still holds.
    async fn rot(&self, readable: Readable, position: u64, what: &str) -> LogError {
        let base = readable.base;
        while self.is_flushing(base) {
            self.segments_changed.wait().await;
        }
        if self.store.health.is_failed() {
            return LogError::DirectoryFailed(self.store.health.cause().unwrap_or_default());
        }
        if readable.replacements != self.replacements() {
            // It was looked for in another segment than the one that is there now.
            return LogError::OutOfRange;
        }
        let text = format!("segment {} of {}, byte {position}: {what}", base, self.directory_name);
        tracing::error!(%text, "rot below the durable end; the bytes are kept as they are");
        LogError::Damaged(text)
    }

    fn is_flushing(&self, base: Offset) -> bool {
        self.inner.borrow().segments.iter().any(|segment| segment.base == base && segment.flushing)
    }
}

/// The length of the batches that are whole and have the right checksum; a batch that is cut at the end is
/// kept out.
fn intact_prefix(bytes: &[u8]) -> usize {
    let mut position = 0;
    while let Some(rest) = bytes.get(position..) {
        let Some(total) = BatchHeader::parse(rest).and_then(|header| header.total_bytes()) else { break };
        let Some(batch) = rest.get(..total) else { break };
        if !crc_matches(batch) {
            break;
        }
        position += total;
    }
    position
}
