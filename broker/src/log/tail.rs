//! The part of a segment that is in memory: chunks back to back, from a page boundary to the segment's end.

use crate::runtime::buffer::{Chunk, ChunkView};
use logmill_wire::limits::{CHUNK_BYTES_MAX, PAGE_BYTES};
use logmill_wire::record_batch::{CRC_COVERS_FROM, HEADER_BYTES, checksum_over};
use std::collections::VecDeque;
use std::ops::Range;

const PAGE: u64 = PAGE_BYTES as u64;

/// The start of the page that holds `position`.
#[must_use]
pub const fn page_floor(position: u64) -> u64 {
    position / PAGE * PAGE
}

/// The first page boundary at or after `position`.
#[must_use]
pub const fn page_ceil(position: u64) -> u64 {
    position.div_ceil(PAGE) * PAGE
}

struct Piece {
    /// Where in the segment the chunk's first byte stands; a page boundary.
    base: u64,
    chunk: Chunk,
}

impl Piece {
    fn end(&self) -> u64 {
        self.base + self.chunk.len() as u64
    }
}

/// Chunks of a segment's last bytes. Appending never moves what was written, so views stay valid.
pub struct Tail {
    /// The pieces before the newest one, oldest first; empty without a newest one.
    older: VecDeque<Piece>,
    /// The piece that is appended to, in place: most logs have no other.
    newest: Option<Piece>,
    end: u64,
    capacity_bytes: usize,
    next_chunk_bytes: usize,
    /// Bytes before this came from disk, unchecked: readers take them from the file, where they are checked.
    restored_to: u64,
}

impl Tail {
    /// A tail with nothing in memory, for a segment of `end` bytes. Unless `end` is a page boundary, the bytes
    /// from there to `end` must be given with [`Tail::restore`] before anything is appended.
    #[must_use]
    pub const fn new(end: u64) -> Self {
        Self {
            older: VecDeque::new(),
            newest: None,
            end,
            capacity_bytes: 0,
            next_chunk_bytes: PAGE_BYTES,
            restored_to: 0,
        }
    }

    /// The segment's end.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The first byte that is in memory; the end if none is.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.pieces().next().map_or(self.end, |piece| piece.base)
    }

    /// The first byte that readers may take from memory.
    #[must_use]
    pub fn readable_from(&self) -> u64 {
        self.start().max(self.restored_to)
    }

    /// Memory that the tail takes.
    #[must_use]
    pub const fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// Whether bytes can be appended without reading the segment's last page first.
    #[must_use]
    #[inline]
    pub const fn is_appendable(&self) -> bool {
        // Who has a piece has the last byte in memory.
        self.end.is_multiple_of(PAGE) || self.newest.is_some()
    }

    /// Reads a little of what the next append will change; see [`Log::look_at`](super::Log::look_at).
    #[inline]
    pub(super) fn look_at(&self) -> u64 {
        self.newest.as_ref().map_or(0, |piece| u64::from(piece.chunk.look_ahead()))
    }

    /// Brings back the bytes from the last page boundary to the end.
    ///
    /// # Panics
    /// If there is already something in memory, or the bytes are not those of the last page.
    pub fn restore(&mut self, last_page: &[u8]) {
        assert!(self.newest.is_none(), "only an empty tail is restored");
        let base = page_floor(self.end);
        assert_eq!(last_page.len() as u64, self.end - base, "a tail is restored with its last page");
        let mut chunk = Chunk::with_capacity(PAGE_BYTES);
        chunk.append(last_page);
        self.push(base, chunk);
        self.restored_to = self.end;
    }

    /// Appends; `allocate` gives an empty chunk of at least so many bytes when one is needed.
    ///
    /// # Panics
    /// If the tail is not [appendable](Tail::is_appendable).
    pub fn append(&mut self, mut bytes: &[u8], mut allocate: impl FnMut(usize) -> Chunk) {
        assert!(self.is_appendable(), "the last page must be in memory before the log grows");
        while !bytes.is_empty() {
            if self.newest.as_ref().is_none_or(|piece| piece.chunk.room() == 0) {
                let wanted = bytes.len().clamp(self.next_chunk_bytes, CHUNK_BYTES_MAX);
                let chunk = allocate(wanted);
                self.next_chunk_bytes = (chunk.capacity() * 2).min(CHUNK_BYTES_MAX);
                self.push(self.end, chunk);
            }
            if let Some(piece) = &mut self.newest {
                let count = piece.chunk.append(bytes);
                self.end += count as u64;
                bytes = &bytes[count..];
            }
        }
    }

    /// Appends a batch of which `assign` writes the first [`HEADER_BYTES`] in place.
    ///
    /// # Panics
    /// If the tail is not [appendable](Tail::is_appendable), or the batch is shorter than its header.
    #[inline]
    pub fn append_batch(
        &mut self,
        batch: &[u8],
        assign: impl FnOnce(&mut [u8]),
        mut allocate: impl FnMut(usize) -> Chunk,
    ) {
        if let Some(piece) = self.newest.as_mut().filter(|piece| piece.chunk.room() >= batch.len()) {
            // Written where it stays: a copy that is read back while its stores are under way would wait for them.
            let place = &mut piece.chunk.spare()[..batch.len()];
            place.copy_from_slice(batch);
            assign(&mut place[..HEADER_BYTES]);
            piece.chunk.advance(batch.len());
            self.end += batch.len() as u64;
            return;
        }
        let (head, records) = batch.split_at(HEADER_BYTES);
        let mut head: [u8; HEADER_BYTES] = std::array::from_fn(|at| head[at]);
        assign(&mut head);
        self.append(&head, &mut allocate);
        self.append(records, &mut allocate);
    }

    fn push(&mut self, base: u64, chunk: Chunk) {
        self.capacity_bytes += chunk.capacity();
        self.older.extend(self.newest.replace(Piece { base, chunk }));
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.older.iter().chain(&self.newest)
    }

    /// Views of a range that is in memory.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    pub fn views(&self, range: Range<u64>) -> Vec<ChunkView> {
        self.parts(range).map(|(chunk, part)| chunk.view(part)).collect()
    }

    /// The bytes of a range that is in memory, chunk by chunk.
    ///
    /// # Panics
    /// If it is not.
    pub fn slices(&self, range: Range<u64>) -> impl Iterator<Item = &[u8]> {
        self.parts(range).map(|(chunk, part)| &chunk[part])
    }

    /// The bytes of a range if they lie in the chunk that is being appended to.
    #[inline]
    pub fn slice_of_newest(&self, range: Range<u64>) -> Option<&[u8]> {
        let piece = self.newest.as_ref().filter(|piece| piece.base <= range.start)?;
        piece.chunk.get((range.start - piece.base) as usize..(range.end - piece.base) as usize)
    }

    /// The CRC-32C of a range that is in memory. `batch_ends` are where batches end that were appended whole and with the
    /// right checksum, the first behind the range's start: what their own checksums cover is not read again.
    ///
    /// # Panics
    /// If the range is not in memory.
    #[must_use]
    pub fn checksum(&self, range: Range<u64>, batch_ends: impl Iterator<Item = u64>) -> u32 {
        let (mut crc, mut from) = (0, range.start);
        let mut is_batch_start = false;
        for end in batch_ends {
            let carried =
                if is_batch_start && end <= range.end { self.checksum_over(crc, from..end) } else { None };
            let to = end.min(range.end);
            crc = carried.unwrap_or_else(|| self.checksum_read(crc, from..to));
            from = to;
            if from == range.end {
                return crc;
            }
            is_batch_start = true;
        }
        self.checksum_read(crc, from..range.end)
    }

    fn checksum_over(&self, crc: u32, batch: Range<u64>) -> Option<u32> {
        let mut start = [0; CRC_COVERS_FROM];
        let known = self.copy_out(batch.start, &mut start);
        if known < start.len() {
            None
        } else {
            checksum_over(crc, &start, (batch.end - batch.start) as usize)
        }
    }

    fn checksum_read(&self, crc: u32, range: Range<u64>) -> u32 {
        self.slices(range).fold(crc, crc32c::crc32c_append)
    }

    fn parts(&self, range: Range<u64>) -> impl Iterator<Item = (&Chunk, Range<usize>)> {
        assert!(range.start >= self.start() && range.end <= self.end, "the range must be in memory");
        let first = self.older.partition_point(|piece| piece.end() <= range.start);
        let pieces = self.older.range(first..).chain(&self.newest);
        let pieces = pieces.take_while(move |piece| piece.base < range.end);
        pieces.map(move |piece| {
            let (from, to) = (piece.base.max(range.start), piece.end().min(range.end));
            (&piece.chunk, (from - piece.base) as usize..(to - piece.base) as usize)
        })
    }

    /// Copies bytes out, as many as are in memory from `position` on, and returns their number.
    pub fn copy_out(&self, position: u64, into: &mut [u8]) -> usize {
        if position < self.start() || position >= self.end {
            return 0;
        }
        let end = (position + into.len() as u64).min(self.end);
        let mut filled = 0;
        for slice in self.slices(position..end) {
            into[filled..filled + slice.len()].copy_from_slice(slice);
            filled += slice.len();
        }
        filled
    }

    /// Forgets the oldest chunk if it ends at or before `limit`, and returns it (views may keep its memory alive
    /// for a while). The chunk that is being appended to is kept.
    pub fn evict_before(&mut self, limit: u64) -> Option<Chunk> {
        self.older.front().filter(|piece| piece.end() <= limit)?;
        let piece = self.older.pop_front()?;
        self.capacity_bytes -= piece.chunk.capacity();
        Some(piece.chunk)
    }

    /// Forgets everything; returns the memory that was given back.
    pub fn clear(&mut self) -> usize {
        self.older.clear();
        self.newest = None;
        self.next_chunk_bytes = PAGE_BYTES;
        std::mem::take(&mut self.capacity_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::record_batch::LENGTH_PREFIX_BYTES;

    fn batch(records: usize, salt: u8) -> Vec<u8> {
        let mut batch: Vec<u8> =
            (0..HEADER_BYTES + records).map(|at| (at as u8).wrapping_mul(31) ^ salt).collect();
        let length = (batch.len() - LENGTH_PREFIX_BYTES) as u32;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&batch[CRC_COVERS_FROM..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch
    }

    #[test]
    fn a_range_has_the_checksum_of_its_bytes_wherever_batches_end() {
        let mut tail = Tail::new(0);
        let mut ends = Vec::new();
        for (number, records) in [5_000, 90, 16_000, 70_000, 1, 3_000, 2_500].into_iter().enumerate() {
            tail.append(&batch(records, number as u8), Chunk::with_capacity);
            ends.push(tail.end());
        }
        let end = tail.end();
        let cuts: Vec<u64> = ends
            .iter()
            .flat_map(|end| [end - 10, *end, end + 10])
            .chain([0, 4096])
            .map(|cut| cut.min(end))
            .collect();
        for (from, to) in cuts.iter().flat_map(|from| cuts.iter().map(move |to| (*from, *to))) {
            if from < to {
                let crc = crc32c::crc32c(&bytes_of(&tail, from..to));
                let behind = ends.iter().copied().filter(|end| *end > from);
                assert_eq!(tail.checksum(from..to, behind), crc, "{from}..{to}");
                assert_eq!(tail.checksum(from..to, std::iter::empty()), crc, "{from}..{to}, read");
            }
        }
    }

    #[test]
    fn what_a_batch_says_of_itself_is_not_read_again() {
        let mut tail = Tail::new(0);
        let mut second = batch(9_000, 1);
        let right = batch(9_000, 1);
        second[8_000] ^= 1;
        tail.append(&batch(5_000, 0), Chunk::with_capacity);
        let first_end = tail.end();
        tail.append(&second, Chunk::with_capacity);
        let mut whole = bytes_of(&tail, 0..first_end);
        whole.extend_from_slice(&right);
        let ends = [first_end, tail.end()];
        assert_eq!(tail.checksum(0..tail.end(), ends.into_iter()), crc32c::crc32c(&whole));
    }

    fn bytes_of(tail: &Tail, range: Range<u64>) -> Vec<u8> {
        tail.views(range).iter().flat_map(|view| view.to_vec()).collect()
    }

    #[test]
    fn what_was_appended_is_viewed_across_chunks() {
        let mut tail = Tail::new(0);
        let mut expected = Vec::new();
        for number in 0..400u32 {
            let piece: Vec<u8> = (0..number % 97).map(|at| (number + at) as u8).collect();
            tail.append(&piece, Chunk::with_capacity);
            expected.extend_from_slice(&piece);
        }
        assert_eq!(tail.end(), expected.len() as u64);
        assert_eq!(bytes_of(&tail, 0..tail.end()), expected);
        assert_eq!(bytes_of(&tail, 4000..9000), &expected[4000..9000]);
        let mut header = [0; 61];
        assert_eq!(tail.copy_out(4090, &mut header), 61);
        assert_eq!(header, expected[4090..4151]);
    }

    #[test]
    fn a_batch_is_the_same_within_a_chunk_and_across_two() {
        for before in [0, 10, PAGE_BYTES - 200, PAGE_BYTES - 100, PAGE_BYTES - 30, PAGE_BYTES] {
            let mut tail = Tail::new(0);
            tail.append(&vec![9; before], Chunk::with_capacity);
            let batch: [u8; 150] = std::array::from_fn(|at| at as u8);
            tail.append_batch(&batch, |head| head[..8].fill(0xee), Chunk::with_capacity);
            tail.append_batch(&batch, |head| head[HEADER_BYTES - 1] = 0xdd, Chunk::with_capacity);
            let mut expected = vec![9; before];
            expected.extend_from_slice(&[0xee; 8]);
            expected.extend_from_slice(&batch[8..]);
            expected.extend_from_slice(&batch);
            expected[before + batch.len() + HEADER_BYTES - 1] = 0xdd;
            assert_eq!(tail.end(), expected.len() as u64);
            assert_eq!(bytes_of(&tail, 0..tail.end()), expected, "{before} bytes before");
        }
    }

    #[test]
    fn a_restored_page_continues_in_the_middle() {
        let mut tail = Tail::new(5000);
        assert!(!tail.is_appendable());
        tail.restore(&[7; 904]);
        tail.append(&[8; 5000], Chunk::with_capacity);
        assert_eq!(tail.start(), 4096);
        assert_eq!(bytes_of(&tail, 4999..5002), [7, 8, 8]);
        assert_eq!(tail.slice_of_newest(4999..5002), None);
        assert_eq!(tail.slice_of_newest(9998..10_000), Some(&[8, 8][..]));
        assert_eq!(tail.slice_of_newest(9998..10_001), None);
        assert_eq!(tail.end(), 10_000);
    }

    #[test]
    fn eviction_keeps_the_chunk_in_use() {
        let mut tail = Tail::new(0);
        tail.append(&[1; PAGE_BYTES], Chunk::with_capacity);
        tail.append(&[2; 10], Chunk::with_capacity);
        assert!(tail.evict_before(100).is_none());
        assert_eq!(tail.evict_before(4096).map(|chunk| chunk.capacity()), Some(PAGE_BYTES));
        assert!(tail.evict_before(u64::MAX).is_none());
        assert_eq!((tail.start(), tail.end()), (4096, 4106));
        assert!(tail.clear() > 0);
        assert_eq!(tail.capacity_bytes(), 0);
    }
}
