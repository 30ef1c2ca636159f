//! The write cache: what was appended to logs with `write.caching` and is not durable yet, in a mapped ring file.
//!
//! It takes no system call and no flush, and outlives the process, but not a power cut: what Kafka promises for an
//! acknowledgement, the bytes being in the page cache. The journal makes the same bytes durable some time
//! later, many at once; then they are freed here. One append is one group, in the journal's format. After a restart the
//! groups that follow on what is durable are taken; nothing depends on any of them being there.

use super::group::ENTRY_OVERHEAD_BYTES;
use super::ring::Ring;
use crate::runtime::{File, Mapping, OpenMode, Runtime};
use logmill_wire::frame::journal::{
    GROUP_HEADER_BYTES, GroupHeader, Range, append_declare, append_inline_header, seal_group_summed,
};
use logmill_wire::ids::Uuid;
use logmill_wire::limits::PAGE_BYTES;
use logmill_wire::record_batch::{HEADER_BYTES, checksum_over};
use std::io;
use std::path::Path;

/// The most memory that a write cache takes. What does not fit waits to be durable.
pub const WRITE_CACHE_BYTES_MAX: u64 = 32 << 20;

/// What is put into the cache: one append.
pub struct Written<'a> {
    /// Where it stands in its log.
    pub range: Range,
    /// The name of the log's directory, if no checkpoint has it.
    pub directory: Option<&'a str>,
    /// The start of a batch whose checksum was found right, as it is to stand in the log, and the rest of it; together
    /// they are the range.
    pub head: &'a [u8; HEADER_BYTES],
    /// What follows the head.
    pub records: &'a [u8],
}

impl Written<'_> {
    /// Goes on with a CRC-32C over the batch.
    fn sum(&self, crc: u32) -> u32 {
        let start = self.head.first_chunk();
        let carried = start.and_then(|start| checksum_over(crc, start, HEADER_BYTES + self.records.len()));
        carried.unwrap_or_else(|| crc32c::crc32c_append(crc32c::crc32c_append(crc, self.head), self.records))
    }
}

/// A shard's write cache.
pub struct WriteCache<R: Runtime> {
    mapping: <R::File as File>::Mapping,
    id: Uuid,
    ring: Ring,
    scratch: Vec<u8>,
}

impl<R: Runtime> WriteCache<R> {
    /// Makes the cache of the run whose journal is `id`, of so many bytes.
    ///
    /// # Errors
    /// Those of the disk, and of a filesystem that cannot map files.
    pub async fn create(runtime: &R, path: &Path, id: Uuid, bytes: u64) -> io::Result<Self> {
        let pages = bytes / PAGE_BYTES as u64;
        let bytes = pages * PAGE_BYTES as u64;
        let file = runtime.open(path, OpenMode::Create).await?;
        // Space that is not there when a page is written would end the process.
        file.set_length(0).await?;
        file.allocate(0, bytes).await?;
        let mapping = file.map(bytes as usize)?;
        Ok(Self { mapping, id, ring: Ring::new(pages as u32), scratch: Vec::new() })
    }

    /// Puts an append into the cache and returns its number; `None` if there is no room for it. When this returns, the
    /// death of the process does not lose it.
    pub fn put(&mut self, written: &Written<'_>) -> Option<u64> {
        let declare = written.directory.map_or(0, |name| ENTRY_OVERHEAD_BYTES + name.len());
        let bytes = GROUP_HEADER_BYTES + declare + ENTRY_OVERHEAD_BYTES + written.range.length as usize;
        let place = self.ring.take(u32::try_from(bytes.div_ceil(PAGE_BYTES)).ok()?)?;
        self.scratch.clear();
        if let Some(name) = written.directory {
            append_declare(&mut self.scratch, written.range.log, name);
        }
        append_inline_header(&mut self.scratch, &written.range);
        let header = GroupHeader {
            journal_id: self.id.0,
            sequence: place.sequence,
            page: place.page,
            entry_count: 1 + u32::from(written.directory.is_some()),
            tail_sequence: place.tail_sequence,
            ..GroupHeader::default()
        };
        let payload_bytes = self.scratch.len() + HEADER_BYTES + written.records.len();
        let sum = |crc| written.sum(crc32c::crc32c_append(crc, &self.scratch));
        let sealed = seal_group_summed(header, payload_bytes, sum);
        let mut position = place.page as usize * PAGE_BYTES;
        for part in [&sealed[..], &self.scratch, written.head, written.records] {
            self.mapping.write(position, part);
            position += part.len();
        }
        Some(place.sequence)
    }

    /// The number that the next append gets.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.ring.next_sequence()
    }

    /// The share of the cache that is in use, in percent.
    #[must_use]
    pub fn used_percent(&self) -> u32 {
        self.ring.used_percent()
    }

    /// Frees the appends before number `sequence`: the journal has them.
    pub fn release_before(&mut self, sequence: u64) {
        self.ring.release_before(sequence);
    }
}
