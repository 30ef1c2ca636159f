//! Memory for direct I/O: page-aligned chunks that are written from front to back, and whose written
//! prefix is frozen. Views of the prefix are shared, across shards too, without copying.
//!
//! This is one of the few files with `unsafe`: a chunk's unwritten rest belongs to its one [`Chunk`], the
//! written prefix to everybody, and nobody else can reach either.

use bytes::Bytes;
use logmill_wire::limits::PAGE_BYTES;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;

/// What the processor fetches at once.
const CACHE_LINE_BYTES: usize = 64;

/// What [`Chunk::look_ahead`] looks at: room for a small batch.
const LOOK_AHEAD_BYTES: usize = 256;

/// Where an allocation's first byte is.
#[derive(Clone, Copy)]
struct Start(NonNull<u8>);

// SAFETY: the memory is plain bytes that no thread owns; who may touch which part is governed by `Chunk`
// (the unwritten rest, unique) and `ChunkView` (the frozen prefix, read-only).
unsafe impl Send for Start {}
// SAFETY: as above: shared access only ever reads the frozen prefix.
unsafe impl Sync for Start {}

/// The allocation itself; freed when the chunk and all its views are gone.
struct Allocation {
    start: Start,
    layout: Layout,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this very layout, and this is the last reference.
        unsafe { dealloc(self.start.0.as_ptr(), self.layout) }
    }
}

/// A page-aligned buffer that is filled from front to back. What was written is frozen and can be viewed;
/// the rest can be written only through this value, which has no second owner.
pub struct Chunk {
    allocation: Arc<Allocation>,
    /// The allocation's, which need not be looked at to write.
    start: Start,
    capacity: usize,
    written: usize,
}

impl Chunk {
    /// An empty chunk with room for `capacity_bytes`, rounded up to whole pages.
    #[must_use]
    pub fn with_capacity(capacity_bytes: usize) -> Self {
        let bytes = capacity_bytes.max(1).next_multiple_of(PAGE_BYTES);
        #[expect(
            clippy::expect_used,
            reason = "the alignment is a constant power of two and sizes are bounded by limits"
        )]
        let layout =
            Layout::from_size_align(bytes, PAGE_BYTES).expect("a chunk's size fits the address space");
        // SAFETY: the layout's size is at least one page.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(raw) else { handle_alloc_error(layout) };
        let start = Start(start);
        Self { allocation: Arc::new(Allocation { start, layout }), start, capacity: bytes, written: 0 }
    }

    /// An empty chunk all of whose pages the kernel has given already.
    #[must_use]
    pub fn touched(capacity_bytes: usize) -> Self {
        let mut chunk = Self::with_capacity(capacity_bytes);
        for page in chunk.spare().chunks_mut(PAGE_BYTES) {
            // Zeroed memory that is not written may be one page of zeros for all of it.
            std::hint::black_box(page).fill(0);
        }
        chunk
    }

    /// The same memory, empty, if no view of it is left: touching fresh memory costs more than writing it. What
    /// was written before stays readable through [`Chunk::spare`] until it is overwritten, and nowhere else.
    #[must_use]
    pub fn recycle(mut self) -> Option<Self> {
        Arc::get_mut(&mut self.allocation)?;
        self.written = 0;
        Some(self)
    }

    /// Bytes written so far.
    #[must_use]
    #[inline]
    pub const fn len(&self) -> usize {
        self.written
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.written == 0
    }

    /// Bytes that fit in all.
    #[must_use]
    #[inline]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that still fit.
    #[must_use]
    #[inline]
    pub const fn room(&self) -> usize {
        self.capacity() - self.written
    }

    /// Appends as many of `bytes` as fit and returns how many those were.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        // SAFETY: `written + count <= capacity`, the unwritten rest is reachable through `self` alone, and
        // `bytes` cannot overlap it because every view ends at or before `written`.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.0.as_ptr().add(self.written), count);
        }
        self.written += count;
        count
    }

    /// Freezes zeros up to the next multiple of `alignment_bytes` (a power of two, at most a page), as far as there is room.
    pub fn pad_to(&mut self, alignment_bytes: usize) {
        let target = self.written.next_multiple_of(alignment_bytes).min(self.capacity());
        // SAFETY: the range lies in the unwritten rest, which is reachable through `self` alone.
        unsafe {
            std::ptr::write_bytes(self.start.0.as_ptr().add(self.written), 0, target - self.written);
        }
        self.written = target;
    }

    /// The unwritten rest, for the kernel to read into.
    #[inline]
    pub fn spare(&mut self) -> &mut [u8] {
        let room = self.room();
        // SAFETY: the memory is initialised (allocated zeroed), lies beyond every view, and is borrowed from
        // the one owner for as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.start.0.as_ptr().add(self.written), room) }
    }

    /// Reads a little of the next bytes to be written, and returns something made of it: the processor then has them at
    /// hand when they are written. Only within the page that was written last, because a page that was never touched is
    /// better written first.
    #[must_use]
    #[inline]
    pub fn look_ahead(&self) -> u8 {
        let end = (self.written + LOOK_AHEAD_BYTES).min(self.written.next_multiple_of(PAGE_BYTES));
        let lines = (self.written..end).step_by(CACHE_LINE_BYTES);
        // SAFETY: capacities are whole pages, so that all of the range lies within; the memory is initialised (allocated
        // zeroed), and who writes it must have this value to itself.
        lines.fold(0, |seen, at| seen ^ unsafe { self.start.0.as_ptr().add(at).read() })
    }

    /// Freezes `count` bytes that were put into [`Chunk::spare`].
    ///
    /// # Panics
    /// If fewer than `count` bytes are free.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.room(), "a chunk cannot hold more than its capacity");
        self.written += count;
    }

    /// A view of a written range.
    ///
    /// # Panics
    /// If the range reaches beyond what was written.
    #[must_use]
    pub fn view(&self, range: Range<usize>) -> ChunkView {
        assert!(
            range.start <= range.end && range.end <= self.written,
            "a view must lie in the written prefix"
        );
        ChunkView {
            allocation: Arc::clone(&self.allocation),
            start: range.start,
            length: range.end - range.start,
        }
    }

    /// A view of all that was written.
    #[must_use]
    pub fn view_all(&self) -> ChunkView {
        self.view(0..self.written)
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the prefix is initialised and frozen.
        unsafe { std::slice::from_raw_parts(self.start.0.as_ptr(), self.written) }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} of {} bytes)", self.written, self.capacity())
    }
}

/// A shared, immutable view of a chunk's written part; it keeps the memory alive.
#[derive(Clone)]
pub struct ChunkView {
    allocation: Arc<Allocation>,
    start: usize,
    length: usize,
}

impl ChunkView {
    /// The view of a part of this view.
    ///
    /// # Panics
    /// If the range reaches beyond this view.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.length, "a slice must lie in its view");
        Self {
            allocation: Arc::clone(&self.allocation),
            start: self.start + range.start,
            length: range.end - range.start,
        }
    }

    /// The same bytes for the sending side, without copying.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for ChunkView {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: a view is only made of a written, and so initialised and frozen, range.
        unsafe { std::slice::from_raw_parts(self.allocation.start.0.as_ptr().add(self.start), self.length) }
    }
}

impl AsRef<[u8]> for ChunkView {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for ChunkView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkView({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_survive_appends_and_the_chunk() {
        let mut chunk = Chunk::with_capacity(10);
        assert_eq!(chunk.capacity(), PAGE_BYTES);
        assert_eq!(chunk.append(b"hello"), 5);
        let view = chunk.view_all();
        assert_eq!(chunk.append(b" world"), 6);
        assert_eq!(&*view, b"hello");
        chunk.pad_to(512);
        assert_eq!(chunk.len(), 512);
        assert!(chunk[11..].iter().all(|&byte| byte == 0));
        chunk.spare()[..2].copy_from_slice(b"xy");
        chunk.advance(2);
        let tail = chunk.view(512..514);
        drop(chunk);
        assert_eq!(&*tail, b"xy");
        assert_eq!(&*view.slice(1..3), b"el");
        assert_eq!(view.into_bytes().as_ref(), b"hello");
    }

    #[test]
    fn only_memory_that_nobody_views_is_recycled() {
        let mut chunk = Chunk::with_capacity(PAGE_BYTES);
        chunk.append(b"held");
        let view = chunk.view_all();
        assert!(chunk.recycle().is_none());
        assert_eq!(&*view, b"held");
        let mut chunk = Chunk::with_capacity(PAGE_BYTES);
        chunk.append(b"free");
        drop(chunk.view_all());
        let chunk = chunk.recycle().unwrap();
        assert_eq!((chunk.len(), chunk.room()), (0, PAGE_BYTES));
    }

    #[test]
    fn an_append_takes_what_fits() {
        let mut chunk = Chunk::with_capacity(PAGE_BYTES);
        assert_eq!(chunk.append(&vec![1; PAGE_BYTES - 1]), PAGE_BYTES - 1);
        assert_eq!(chunk.append(&[2, 3]), 1);
        assert_eq!(chunk.room(), 0);
    }

    #[test]
    #[should_panic(expected = "written prefix")]
    fn a_view_beyond_the_prefix_is_refused() {
        let chunk = Chunk::with_capacity(PAGE_BYTES);
        let _ = chunk.view(0..1);
    }
}
