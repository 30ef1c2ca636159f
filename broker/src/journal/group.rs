//! A group under construction: entries are encoded where they will be written from.

use crate::runtime::buffer::{Chunk, ChunkView};
use logmill_wire::checksum::concatenated;
use logmill_wire::frame::journal::{
    ENTRY_HEADER_BYTES, GROUP_HEADER_BYTES, GroupHeader, Range, append_declare, append_extent, append_start,
    append_state, seal_group_summed, write_inline_header,
};
use logmill_wire::ids::{Offset, TopicPartition};
use logmill_wire::limits::PAGE_BYTES;
use logmill_wire::record_batch::{CARRIED_BYTES_MIN, checksum_over};

/// What an entry takes besides the bytes that follow it.
pub const ENTRY_OVERHEAD_BYTES: usize = ENTRY_HEADER_BYTES;

/// Collects the entries of one group.
pub struct GroupBuilder {
    chunk: Chunk,
    filled: usize,
    entry_count: u32,
    scratch: Vec<u8>,
    /// Up to where the entries are summed already, and their CRC-32C: what batches say of themselves is not read again.
    summed: (usize, u32),
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
            summed: (GROUP_HEADER_BYTES, 0),
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

    /// Has the checksums of batches in the entry that was added last, of `range`, stand for their bytes: the batches follow
    /// one another from position `from` in the segment on, each to the next of `ends`, whole and with the right checksum.
    /// Batches beyond the range are passed over.
    pub fn carry_checksums(&mut self, range: &Range, from: u64, ends: impl Iterator<Item = u64>) {
        let first = self.filled - range.length as usize;
        let mut start = from;
        for end in ends.take_while(|end| *end <= range.position + u64::from(range.length)) {
            let (at, length) = (first + (start - range.position) as usize, (end - start) as usize);
            start = end;
            if length < CARRIED_BYTES_MIN {
                continue;
            }
            let bytes = self.chunk.spare();
            let Some(head) = bytes[at..].first_chunk() else { continue };
            let crc = crc32c::crc32c_append(self.summed.1, &bytes[self.summed.0..at]);
            if let Some(crc) = checksum_over(crc, head, length) {
                self.summed = (at + length, crc);
            }
        }
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
        let (filled, (summed_to, summed)) = (self.filled, self.summed);
        let spare = self.chunk.spare();
        let payload_bytes = filled - GROUP_HEADER_BYTES;
        let sealed = seal_group_summed(header, payload_bytes, |crc| {
            if summed_to == GROUP_HEADER_BYTES {
                return crc32c::crc32c_append(crc, &spare[GROUP_HEADER_BYTES..filled]);
            }
            let payload = crc32c::crc32c_append(summed, &spare[summed_to..filled]);
            concatenated(crc, payload, payload_bytes as u32)
        });
        spare[..GROUP_HEADER_BYTES].copy_from_slice(&sealed);
        self.chunk.advance(filled);
        self.chunk.pad_to(PAGE_BYTES);
        (self.chunk.view_all(), self.chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::frame::journal::seal_group;
    use logmill_wire::ids::{PartitionIndex, Uuid};
    use logmill_wire::record_batch::{CRC_COVERS_FROM, LENGTH_PREFIX_BYTES};

    fn batch(bytes: usize, salt: u8) -> Vec<u8> {
        let mut batch: Vec<u8> = (0..bytes).map(|at| (at as u8).wrapping_mul(31) ^ salt).collect();
        batch[8..12].copy_from_slice(&((bytes - LENGTH_PREFIX_BYTES) as u32).to_be_bytes());
        let crc = crc32c::crc32c(&batch[CRC_COVERS_FROM..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch
    }

    fn range(position: u64, length: usize) -> Range {
        let log = TopicPartition { topic_id: Uuid([7; 16]), partition: PartitionIndex(3) };
        let length = length as u32;
        Range { log, segment_base: Offset(9), position, length, within_batch: false }
    }

    /// A group with one small entry, batches from a position within an entry on, and one more small entry; and the header
    /// of the same bytes when all of them are read.
    fn sealed(before: usize, batches: &[Vec<u8>], cut: usize) -> (Vec<u8>, Vec<u8>) {
        let mut group = GroupBuilder::new(Chunk::with_capacity(1 << 20));
        group.add_inline(&range(0, 5), [&b"hello"[..]]);
        let (mut bytes, mut ends) = (vec![9; before], Vec::new());
        for batch in batches {
            bytes.extend_from_slice(batch);
            ends.push(4096 + bytes.len() as u64);
        }
        bytes.truncate(bytes.len() - cut);
        let entry = range(4096, bytes.len());
        group.add_inline(&entry, [&bytes[..]]);
        group.carry_checksums(&entry, 4096 + before as u64, ends.into_iter());
        group.add_start(entry.log, Offset(1));
        let header = GroupHeader { sequence: 3, entry_count: group.entry_count(), ..GroupHeader::default() };
        let filled = group.bytes();
        let payload = group.chunk.spare()[GROUP_HEADER_BYTES..filled].to_vec();
        let (view, _) = group.seal(header);
        (view[..GROUP_HEADER_BYTES].to_vec(), seal_group(header, &payload).to_vec())
    }

    #[test]
    fn a_group_has_the_checksum_of_its_bytes_whatever_batches_say_of_theirs() {
        let batches = [batch(16_000, 1), batch(90, 2), batch(2_047, 3), batch(2_048, 4), batch(30_000, 5)];
        for count in 0..=batches.len() {
            for (before, cut) in [(0, 0), (700, 0), (0, 40), (4_095, 1)] {
                if cut > 0 && count == 0 {
                    continue;
                }
                let (carried, read) = sealed(before, &batches[..count], cut);
                assert_eq!(carried, read, "{count} batches behind {before} bytes, less {cut}");
            }
        }
    }

    #[test]
    fn what_a_batch_says_of_itself_is_not_read_again() {
        let mut wrong = batch(16_000, 1);
        wrong[9_000] ^= 1;
        let (carried, read) = sealed(0, &[wrong.clone()], 0);
        assert_ne!(carried, read, "the bytes were read");
        let (carried, read) = sealed(0, &[wrong], 1);
        assert_eq!(carried, read, "of a batch that is not all there nothing is known");
    }
}
