//! The commit journal: one ring file per shard and log directory, in which one durable write commits the
//! appends of any number of logs.
//!
//! States of a page: *free* → *in flight* → *live* → *free*. A live page is never written again. One group is
//! in flight at a time, so a valid group proves that all groups before it were durable when it was issued:
//! a gap below the last valid group is rot, and what is invalid after it was never acknowledged.

mod group;
mod replay;
mod ring;
mod write_cache;

pub use group::{ENTRY_OVERHEAD_BYTES, GroupBuilder};
pub use replay::{Replay, ReplayError, replay, replay_written};
pub use write_cache::{WRITE_CACHE_BYTES_MAX, WriteCache, Written};

use crate::runtime::buffer::Chunk;
use crate::runtime::{Durability, File, OpenMode, Runtime};
use logmill_wire::frame::journal::GroupHeader;
use logmill_wire::ids::Uuid;
use logmill_wire::limits::{CHUNK_BYTES_MAX, JOURNAL_GROUP_BYTES_MAX, PAGE_BYTES};
use ring::Ring;
use std::io;
use std::path::Path;

/// The smallest journal: room for a few groups of full size.
pub const JOURNAL_BYTES_MIN: u64 = 4 * JOURNAL_GROUP_BYTES_MAX as u64;

/// The largest journal: page numbers are 32 bits wide.
pub const JOURNAL_BYTES_MAX: u64 = 1 << 40;

/// The memory that a group takes at least.
const GROUP_MEMORY_MIN_BYTES: usize = 64 << 10;

/// A shard's commit journal, open for appending.
pub struct Journal<R: Runtime> {
    file: R::File,
    id: Uuid,
    ring: Ring,
    /// The memory of the last group, to be used again.
    spare: Option<Chunk>,
}

impl<R: Runtime> Journal<R> {
    /// Makes a new journal: a zeroed file of `bytes`, made durable. The directory entry is the caller's.
    ///
    /// # Errors
    /// Those of the disk; no space is one of them.
    pub async fn create(runtime: &R, path: &Path, bytes: u64) -> io::Result<()> {
        let bytes =
            bytes.clamp(PAGE_BYTES as u64 * 4, JOURNAL_BYTES_MAX) / PAGE_BYTES as u64 * PAGE_BYTES as u64;
        let file = runtime.open(path, OpenMode::Create).await?;
        file.set_length(0).await?;
        file.allocate(0, bytes).await?;
        // Zeros are written, not only allocated: a durable write into written blocks costs half as much.
        let mut zeros = Chunk::with_capacity(CHUNK_BYTES_MAX);
        zeros.pad_to(PAGE_BYTES);
        let room = zeros.room();
        zeros.advance(room);
        let mut position = 0;
        while position < bytes {
            let length = (bytes - position).min(zeros.len() as u64);
            file.write(zeros.view(0..length as usize), position, Durability::Cached).await?;
            position += length;
        }
        file.flush().await
    }

    /// Opens a journal that [`Journal::create`] has just made, to write its first group.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn open_fresh(runtime: &R, path: &Path, id: Uuid) -> io::Result<Self> {
        let file = runtime.open(path, OpenMode::ReadWrite).await?;
        let pages = (file.length().await? / PAGE_BYTES as u64) as u32;
        Ok(Self { file, id, ring: Ring::new(pages), spare: None })
    }

    /// Opens a journal in use, and goes on behind its last group. Returns what lives in it, too: everything from the
    /// tail that its last group names.
    ///
    /// # Errors
    /// [`ReplayError`]; a journal without any group is one of them.
    pub async fn open_again(runtime: &R, path: &Path, id: Uuid) -> Result<(Self, Replay), ReplayError> {
        let replay = replay::replay_from_tail(runtime, path, id).await?;
        let file = runtime.open(path, OpenMode::ReadWrite).await?;
        let pages = (file.length().await? / PAGE_BYTES as u64) as u32;
        let ring = Ring::with_live(pages, replay.places());
        Ok((Self { file, id, ring, spare: None }, replay))
    }

    /// The journal's identity in this run.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.id
    }

    /// The sequence number of the next group.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.ring.next_sequence()
    }

    /// Bytes that the largest possible next group may take, its header included; 0 if the ring is full. Never
    /// more than a quarter of the ring: a torn group then cannot have covered the one before it.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        let (_, pages) = self.ring.room();
        (pages.min(self.ring.pages() / 4) as usize * PAGE_BYTES).min(JOURNAL_GROUP_BYTES_MAX)
    }

    /// The share of the ring that holds live groups, in percent.
    #[must_use]
    pub fn used_percent(&self) -> u32 {
        self.ring.used_percent()
    }

    /// Bytes that the next groups together may take for certain before anything is freed, however they are split.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.ring.free_bytes()
    }

    /// Whether nothing of the ring is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// An empty group for `capacity_bytes`, its header included.
    pub fn group(&mut self, capacity_bytes: usize) -> GroupBuilder {
        let fits = |chunk: &Chunk| chunk.capacity() >= capacity_bytes;
        // Small groups are the rule; the memory of one that was large is kept for those that follow it.
        let chunk = self
            .spare
            .take()
            .filter(fits)
            .unwrap_or_else(|| Chunk::with_capacity(capacity_bytes.max(GROUP_MEMORY_MIN_BYTES)));
        GroupBuilder::new(chunk)
    }

    /// Writes a group durably and returns its sequence number. When this returns, everything that the group
    /// vouches for survives a power cut.
    ///
    /// # Errors
    /// Those of the disk. After an error nothing may be written to this journal again.
    ///
    /// # Panics
    /// If the group is larger than [`Journal::room_bytes`] was.
    pub async fn commit(&mut self, group: GroupBuilder) -> io::Result<u64> {
        let pages = (group.bytes().div_ceil(PAGE_BYTES)) as u32;
        #[expect(
            clippy::expect_used,
            reason = "the caller has asked for the room, and made the group to fit it"
        )]
        let place = self.ring.take(pages).expect("a group must fit the free part of its ring");
        let header = GroupHeader {
            journal_id: self.id.0,
            sequence: place.sequence,
            page: place.page,
            entry_count: group.entry_count(),
            tail_sequence: place.tail_sequence,
            ..GroupHeader::default()
        };
        let (bytes, memory) = group.seal(header);
        self.file.write(bytes, u64::from(place.page) * PAGE_BYTES as u64, Durability::Durable).await?;
        self.spare = memory.recycle();
        Ok(place.sequence)
    }

    /// Frees the groups before `sequence`: what they vouched for is durable elsewhere.
    pub fn release_before(&mut self, sequence: u64) {
        self.ring.release_before(sequence);
    }
}
