//! The commit journal: one ring file per shard and log directory, in which one durable write commits the
//! appends of any number of logs.
//!
//! States of a page: *free* → *in flight* → *live* → *free*. A live page is never written again. One group is
//! in flight at a time, so a valid group proves that all groups before it were durable when it was issued:
//! a gap below the last valid group is rot, and what is invalid after it was never acknowledged.

mod group;
mod replay;

pub use group::{ENTRY_OVERHEAD_BYTES, GroupBuilder};
pub use replay::{Replay, ReplayError, replay};

use crate::runtime::buffer::Chunk;
use crate::runtime::{Durability, File, OpenMode, Runtime};
use logmill_wire::frame::journal::GroupHeader;
use logmill_wire::ids::Uuid;
use logmill_wire::limits::{CHUNK_BYTES_MAX, JOURNAL_GROUP_BYTES_MAX, PAGE_BYTES};
use std::collections::VecDeque;
use std::io;
use std::path::Path;

/// The smallest journal: room for a few groups of full size.
pub const JOURNAL_BYTES_MIN: u64 = 4 * JOURNAL_GROUP_BYTES_MAX as u64;

/// The largest journal: page numbers are 32 bits wide.
pub const JOURNAL_BYTES_MAX: u64 = 1 << 40;

/// Pages of free space that are not counted on: the last ones may be too few for an entry.
const SPLIT_PAGES: u32 = 4;

/// One page in so many is lost to the padding of groups that are as large as they can be.
const PADDED_SHARE: u32 = 16;

/// The memory that a group takes at least.
const GROUP_MEMORY_MIN_BYTES: usize = 64 << 10;

/// Where a committed group stands in the ring.
#[derive(Clone, Copy, Debug)]
struct LiveGroup {
    sequence: u64,
    page: u32,
    pages: u32,
}

/// A shard's commit journal, open for appending.
pub struct Journal<R: Runtime> {
    file: R::File,
    id: Uuid,
    pages: u32,
    next_page: u32,
    next_sequence: u64,
    live: VecDeque<LiveGroup>,
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
        Ok(Self { file, id, pages, next_page: 0, next_sequence: 1, live: VecDeque::new(), spare: None })
    }

    /// The journal's identity in this run.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.id
    }

    /// The sequence number of the next group.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Bytes that the largest possible next group may take, its header included; 0 if the ring is full. Never
    /// more than a quarter of the ring: a torn group then cannot have covered the one before it.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        let (_, pages) = self.place();
        (pages.min(self.pages / 4) as usize * PAGE_BYTES).min(JOURNAL_GROUP_BYTES_MAX)
    }

    /// The share of the ring that holds live groups, in percent.
    #[must_use]
    pub fn used_percent(&self) -> u32 {
        let Some(first) = self.live.front() else { return 0 };
        let used = if self.next_page > first.page {
            self.next_page - first.page
        } else {
            self.pages - first.page + self.next_page
        };
        (u64::from(used) * 100 / u64::from(self.pages)) as u32
    }

    /// Bytes that the next groups together may take for certain before anything is freed, however they are split: the
    /// end of the ring may have to be skipped, and each group may leave a part of its last page empty.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let pages = match self.live.front() {
            None => self.pages,
            Some(first) if self.next_page <= first.page => first.page - self.next_page,
            Some(first) => {
                let rest = self.pages - self.next_page;
                let skipped = rest.min(first.page).min((JOURNAL_GROUP_BYTES_MAX / PAGE_BYTES) as u32);
                rest + first.page - skipped
            }
        };
        let padding = SPLIT_PAGES + pages / PADDED_SHARE;
        u64::from(pages.saturating_sub(padding)) * PAGE_BYTES as u64
    }

    /// Whether nothing of the ring is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
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

    /// Where the next group starts, and how many pages it may have: a group never wraps around.
    fn place(&self) -> (u32, u32) {
        let Some(first) = self.live.front() else {
            // An empty ring is used from wherever it stands, or from its start if that gives more room.
            let rest = self.pages - self.next_page;
            return if rest >= self.pages / 2 { (self.next_page, rest) } else { (0, self.pages) };
        };
        if self.next_page <= first.page {
            return (self.next_page, first.page - self.next_page);
        }
        let rest = self.pages - self.next_page;
        let needed = (JOURNAL_GROUP_BYTES_MAX / PAGE_BYTES) as u32;
        if rest >= needed || rest >= first.page { (self.next_page, rest) } else { (0, first.page) }
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
        let (page, room_pages) = self.place();
        let sequence = self.next_sequence;
        let tail_sequence = self.live.front().map_or(sequence, |group| group.sequence);
        let header = GroupHeader {
            journal_id: self.id.0,
            sequence,
            page,
            entry_count: group.entry_count(),
            tail_sequence,
            ..GroupHeader::default()
        };
        let (bytes, memory) = group.seal(header);
        let pages = (bytes.len() / PAGE_BYTES) as u32;
        assert!(pages >= 1 && pages <= room_pages, "a group must fit the free part of its ring");
        self.next_sequence += 1;
        self.next_page = if page + pages == self.pages { 0 } else { page + pages };
        self.live.push_back(LiveGroup { sequence, page, pages });
        self.file.write(bytes, u64::from(page) * PAGE_BYTES as u64, Durability::Durable).await?;
        self.spare = memory.recycle();
        Ok(sequence)
    }

    /// Frees the groups before `sequence`: what they vouched for is durable elsewhere.
    pub fn release_before(&mut self, sequence: u64) {
        while self.live.front().is_some_and(|group| group.sequence < sequence) {
            self.live.pop_front();
        }
        debug_assert!(
            self.live.iter().map(|group| u64::from(group.pages)).sum::<u64>() <= u64::from(self.pages)
        );
    }
}
