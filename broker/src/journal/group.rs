//! A group under construction: entries are encoded where they will be written from.

use crate::runtime::buffer::{Chunk, ChunkView};
use logmill_wire::frame::journal::{
    ENTRY_HEADER_BYTES, GROUP_HEADER_BYTES, GroupHeader, Range, append_declare, append_extent, append_start,
    append_state, seal_group, write_inline_header,
};
use logmill_wire::ids::{Offset, TopicPartition};
use logmill_wire::limits::PAGE_BYTES;

/// What an entry takes besides the bytes that follow it.
pub const ENTRY_OVERHEAD_BYTES: usize = ENTRY_HEADER_BYTES;

/// Collects the entries of one group.
pub struct GroupBuilder {
    chunk: Chunk,
    filled: usize,
    entry_count: u32,
    scratch: Vec<u8>,
}

impl GroupBuilder {
    /// An empty group in the memory of `chunk`, which is empty and has at least a page. The group may take all
    /// of it, its header included.
    #[must_use]
    pub fn new(chunk: Chunk) -> Self {
        Self {
            chunk,
            filled: GROUP_HEADER_BYTES,
            entry_count: 0,
            scratch: Vec::with_capacity(ENTRY_HEADER_BYTES),
        }
    }

    /// Entries so far.
    #[must_use]
    pub const fn entry_count(&self) -> u32 {
        self.entry_count
    }

    /// Bytes so far, the header included.
    pub(super) const fn bytes(&self) -> usize {
        self.filled
    }

    /// Whether nothing was added yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entry_count == 0
    }

    /// Bytes of entries that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.chunk.capacity() - self.filled
    }

    /// Adds bytes of a log; `parts` together are `range.length` bytes.
    ///
    /// # Panics
    /// If the entry does not fit [`GroupBuilder::room`], or the parts do not add up.
    pub fn add_inline<'a>(&mut self, range: &Range, parts: impl IntoIterator<Item = &'a [u8]>) {
        write_inline_header(&mut self.chunk.spare()[self.filled..], range);
        self.filled += ENTRY_HEADER_BYTES;
        self.entry_count += 1;
        let before = self.filled;
        for part in parts {
            self.put(part);
        }
        assert_eq!(self.filled - before, range.length as usize, "an entry's parts must be its range");
    }

    /// Adds a range that is already durable in its segment, with the CRC-32C of its bytes.
    ///
    /// # Panics
    /// If the entry does not fit [`GroupBuilder::room`].
    pub fn add_extent(&mut self, range: &Range, crc: u32) {
        self.add(|into| append_extent(into, range, crc));
    }

    /// Names the directory of a log that no checkpoint knows.
    ///
    /// # Panics
    /// If the entry does not fit [`GroupBuilder::room`].
    pub fn add_declare(&mut self, log: TopicPartition, directory: &str) {
        self.add(|into| append_declare(into, log, directory));
    }

    /// Moves a log's start.
    ///
    /// # Panics
    /// If the entry does not fit [`GroupBuilder::room`].
    pub fn add_start(&mut self, log: TopicPartition, start: Offset) {
        self.add(|into| append_start(into, log, start));
    }

    /// Says all that is known of a log from here on, and where the write cache begins to be of use.
    ///
    /// # Panics
    /// If the entry does not fit [`GroupBuilder::room`].
    pub fn add_state(&mut self, log: TopicPartition, written_from_sequence: u64, state: &[u8]) {
        self.add(|into| append_state(into, log, written_from_sequence, state));
    }

    fn add(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut entry = std::mem::take(&mut self.scratch);
        entry.clear();
        encode(&mut entry);
        self.put(&entry);
        self.scratch = entry;
        self.entry_count += 1;
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        self.chunk.spare()[self.filled..end].copy_from_slice(bytes);
        self.filled = end;
    }

    /// The group's bytes, whole pages, ready to be written, and the memory that they are in.
    pub(super) fn seal(mut self, header: GroupHeader) -> (ChunkView, Chunk) {
        let filled = self.filled;
        let spare = self.chunk.spare();
        let sealed = seal_group(header, &spare[GROUP_HEADER_BYTES..filled]);
        spare[..GROUP_HEADER_BYTES].copy_from_slice(&sealed);
        self.chunk.advance(filled);
        self.chunk.pad_to(PAGE_BYTES);
        (self.chunk.view_all(), self.chunk)
    }
}
