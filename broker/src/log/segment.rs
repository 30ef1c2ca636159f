//! One segment: a file of batches, its tail in memory, its sparse index.

use super::LogError;
use super::index::SparseIndex;
use super::tail::{Tail, page_floor};
use crate::runtime::buffer::{Chunk, ChunkView};
use crate::runtime::{File, Runtime};
use logmill_state::log_plan::LargestTimestamp;
use logmill_wire::ids::{Offset, TimestampMs};
use logmill_wire::limits::{CHUNK_BYTES_MAX, PAGE_BYTES};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

/// A segment of a log. Its end is [`Tail::end`].
pub struct Segment<R: Runtime> {
    /// The offset of the first record, which names the file.
    pub base: Offset,
    /// The file, while somebody needs it.
    pub file: Option<Rc<R::File>>,
    /// The bytes in memory, and the end.
    pub tail: Tail,
    /// The index, once it was needed.
    pub index: Option<SparseIndex>,
    /// Bytes before this were handed to the journal.
    pub taken: u64,
    /// Whether they end within a batch.
    pub taken_within_batch: bool,
    /// Where the first batch starts among the bytes that were handed over last, if that is known.
    pub batches_from: Option<u64>,
    /// Bytes before this are durable.
    pub durable: u64,
    /// Pages before this were written to the file.
    pub filled: u64,
    /// Bytes before this are in the file, in whole pages or in a last one that was padded; written by the filler.
    pub written_to: u64,
    /// Ranges beyond `filled` that were written as extents, ascending.
    pub written_ahead: VecDeque<Range<u64>>,
    /// The file's space.
    pub allocated: u64,
    /// When the first batch was appended.
    pub opened_at: Option<TimestampMs>,
    /// Whether nothing more will be appended, and the file was cut to its end.
    pub sealed: bool,
    /// The largest timestamp of its records, if that was looked for since it was sealed.
    pub largest_timestamp: Option<LargestTimestamp>,
    /// Bytes that were read from the file ahead of a reader, and where they start.
    pub read_ahead: Option<(u64, ChunkView)>,
    /// Whether a task is writing pages to the file: pages are never written by two.
    pub writing: bool,
    /// Whether the file is being flushed. Until that has ended well, what was written since the last flush may turn
    /// out not to be there.
    pub flushing: bool,
}

impl<R: Runtime> Segment<R> {
    /// A segment whose bytes up to `end` are all durable and in the file.
    #[must_use]
    pub fn settled(base: Offset, end: u64, sealed: bool) -> Self {
        Self {
            base,
            file: None,
            tail: Tail::new(end),
            index: None,
            taken: end,
            taken_within_batch: false,
            batches_from: None,
            durable: end,
            filled: page_floor(end),
            written_to: end,
            written_ahead: VecDeque::new(),
            allocated: 0,
            opened_at: None,
            sealed,
            largest_timestamp: None,
            read_ahead: None,
            writing: false,
            flushing: false,
        }
    }

    /// Reads a little of what an append will read or change, its memory aside; see
    /// [`Log::look_at`](super::Log::look_at).
    #[must_use]
    #[inline]
    pub(super) fn look_at(&self) -> u64 {
        let index = self.index.as_ref().map_or(0, SparseIndex::covered);
        index ^ self.allocated ^ self.taken ^ u64::from(self.sealed)
    }

    /// The segment's end in bytes.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.tail.end()
    }

    /// The ranges of whole durable pages that still have to be written, and where `filled` stands afterwards.
    pub fn ranges_to_fill(&self) -> (Vec<Range<u64>>, u64) {
        let limit = page_floor(self.durable);
        (gaps(self.filled, &self.written_ahead, limit), limit.max(self.filled))
    }

    /// Takes note that pages up to `filled` were written.
    pub fn note_filled(&mut self, filled: u64) {
        self.filled = self.filled.max(filled);
        while self.written_ahead.front().is_some_and(|range| range.end <= self.filled) {
            self.written_ahead.pop_front();
        }
    }

    /// Memory that the segment's bytes take.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.tail.capacity_bytes() + self.read_ahead.as_ref().map_or(0, |(_, view)| view.len())
    }

    /// Bytes from the tail, if all of the range is in memory.
    #[must_use]
    pub fn cached(&self, range: Range<u64>) -> Option<Vec<ChunkView>> {
        (range.start >= self.tail.readable_from() && range.end <= self.tail.end() && range.start < range.end)
            .then(|| self.tail.views(range))
    }
}

/// What of `from..limit` lies in none of the ranges, which ascend.
fn gaps(from: u64, ranges: &VecDeque<Range<u64>>, limit: u64) -> Vec<Range<u64>> {
    let mut gaps = Vec::new();
    let mut position = from;
    for range in ranges {
        if range.start > position && position < limit {
            gaps.push(position..range.start.min(limit));
        }
        position = position.max(range.end);
    }
    if position < limit {
        gaps.push(position..limit);
    }
    gaps
}

/// Reads a range of a file that need not be aligned. Returns views of exactly that range.
///
/// # Errors
/// Those of the disk; [`LogError::Damaged`] if the file ends before the range does.
pub async fn read_file<F: File>(file: &F, range: Range<u64>) -> Result<Vec<ChunkView>, LogError> {
    let mut views = Vec::new();
    let mut position = range.start;
    while position < range.end {
        let from = page_floor(position);
        let skip = (position - from) as usize;
        let wanted = ((range.end - from) as usize).min(CHUNK_BYTES_MAX).next_multiple_of(PAGE_BYTES);
        let (outcome, chunk) = file.read(Chunk::with_capacity(wanted), from, wanted).await;
        let read = outcome?;
        let end = read.min((range.end - from) as usize);
        if end <= skip {
            return Err(LogError::Damaged(format!("the segment ends before byte {}", range.end)));
        }
        views.push(chunk.view(skip..end));
        position = from + end as u64;
    }
    Ok(views)
}

/// The name of a segment's file.
#[must_use]
pub fn log_file_name(base: Offset) -> String {
    format!("{:020}.log", base.0)
}

/// The name of a segment's index.
#[must_use]
pub fn index_file_name(base: Offset) -> String {
    format!("{:020}.index", base.0)
}

/// The base offset in the name of a segment's file.
#[must_use]
pub fn base_of_file_name(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 20).then(|| digits.parse().ok().map(Offset))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_not_filled_again() {
        let ahead = VecDeque::from([8192..16_384, 20_480..40_960]);
        assert_eq!(gaps(0, &ahead, 98_304), [0..8192, 16_384..20_480, 40_960..98_304]);
        assert_eq!(gaps(0, &ahead, 24_576), [0..8192, 16_384..20_480]);
        assert_eq!(gaps(16_384, &ahead, 98_304), [16_384..20_480, 40_960..98_304]);
        assert!(gaps(98_304, &VecDeque::new(), 98_304).is_empty());
    }

    #[test]
    fn file_names_are_those_of_kafka() {
        assert_eq!(log_file_name(Offset(42)), "00000000000000000042.log");
        assert_eq!(base_of_file_name("00000000000000000042.log"), Some(Offset(42)));
        assert_eq!(base_of_file_name("00000000000000000042.index"), None);
        assert_eq!(base_of_file_name("42.log"), None);
    }
}
