//! The pages of a ring file: which groups live where, and where the next one goes.

use logmill_wire::limits::{JOURNAL_GROUP_BYTES_MAX, PAGE_BYTES};
use std::collections::VecDeque;

/// Pages of free space that are not counted on: the last ones may be too few for an entry.
const SPLIT_PAGES: u32 = 4;

/// One page in so many is lost to the padding of groups that are as large as they can be.
const PADDED_SHARE: u32 = 16;

/// Where a group stands in the ring.
#[derive(Clone, Copy, Debug)]
struct LiveGroup {
    sequence: u64,
    page: u32,
    pages: u32,
}

/// Where a new group goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its first page.
    pub page: u32,
    /// Its number.
    pub sequence: u64,
    /// The number of the oldest group that lives, itself included.
    pub tail_sequence: u64,
}

/// The groups of a ring of pages. Groups are numbered from 1, never wrap around, and are freed in their order.
#[derive(Debug)]
pub(super) struct Ring {
    pages: u32,
    next_page: u32,
    next_sequence: u64,
    live: VecDeque<LiveGroup>,
}

impl Ring {
    pub(super) const fn new(pages: u32) -> Self {
        Self { pages, next_page: 0, next_sequence: 1, live: VecDeque::new() }
    }

    /// A ring in use: number, first page and pages of each live group, in their order.
    pub(super) fn with_live(pages: u32, live: impl Iterator<Item = (u64, u32, u32)>) -> Self {
        let live: VecDeque<_> =
            live.map(|(sequence, page, pages)| LiveGroup { sequence, page, pages }).collect();
        let mut ring = Self { live, ..Self::new(pages) };
        if let Some(last) = ring.live.back() {
            let end = last.page + last.pages;
            ring.next_page = if end >= pages { 0 } else { end };
            ring.next_sequence = last.sequence + 1;
        }
        ring
    }

    pub(super) const fn pages(&self) -> u32 {
        self.pages
    }

    pub(super) const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Whether nothing of the ring is in use.
    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// The share of the ring that holds live groups, in percent.
    pub(super) fn used_percent(&self) -> u32 {
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
    pub(super) fn free_bytes(&self) -> u64 {
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

    /// Where the next group starts, and how many pages it may have.
    pub(super) fn room(&self) -> (u32, u32) {
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

    /// Takes `pages` for the next group; `None` if there are not as many.
    pub(super) fn take(&mut self, pages: u32) -> Option<Place> {
        let (page, room_pages) = self.room();
        if pages == 0 || pages > room_pages {
            return None;
        }
        let sequence = self.next_sequence;
        let tail_sequence = self.live.front().map_or(sequence, |group| group.sequence);
        self.next_sequence += 1;
        self.next_page = if page + pages == self.pages { 0 } else { page + pages };
        self.live.push_back(LiveGroup { sequence, page, pages });
        Some(Place { page, sequence, tail_sequence })
    }

    /// Frees the groups before `sequence`.
    pub(super) fn release_before(&mut self, sequence: u64) {
        while self.live.front().is_some_and(|group| group.sequence < sequence) {
            self.live.pop_front();
        }
        debug_assert!(
            self.live.iter().map(|group| u64::from(group.pages)).sum::<u64>() <= u64::from(self.pages)
        );
    }
}
