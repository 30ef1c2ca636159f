//! What a simulated file holds now, and what of it would be there after a crash.
//!
//! Pages and lengths have a durable state and, above it, versions that a crash may lose. Every version
//! carries the disk's tick of its submission and of its completion: a flush covers what had completed by
//! the tick at which it was asked for, and of two writes that overlapped in time either may win.

use super::chance::Chance;
use logmill_wire::limits::{PAGE_BYTES, SECTOR_BYTES};
use std::collections::BTreeMap;
use std::rc::Rc;

type Page = Rc<[u8]>;

const PAGE: u64 = PAGE_BYTES as u64;

/// The states of a mapped page, of which a crash may bring back any.
const MAPPED_VERSIONS_MAX: usize = 4;

/// Bytes of one page that were written, or cut to zeros.
#[derive(Clone)]
struct Version {
    write: u64,
    submitted: u64,
    completed: u64,
    bytes: Page,
    /// Whether this stands for a cut of the file: it comes and goes with the cut length.
    is_cut: bool,
    /// Whether a failed flush has marked it clean: it is read, but no later flush writes it.
    is_forgotten: bool,
}

/// What lies above a page's durable bytes.
#[derive(Clone, Default)]
struct Volatile {
    /// Completed, in the order in which they were applied.
    applied: Vec<Version>,
    in_flight: Vec<Version>,
}

#[derive(Clone)]
struct LengthChange {
    at: u64,
    length: u64,
}

/// The content of one file.
#[derive(Clone, Default)]
pub(super) struct Content {
    durable: BTreeMap<u64, Page>,
    volatile: BTreeMap<u64, Volatile>,
    durable_length: u64,
    lengths: Vec<LengthChange>,
    reserved: Reserved,
}

/// The pages that take space, as disjoint ranges: start to end.
#[derive(Clone, Default)]
struct Reserved(BTreeMap<u64, u64>);

impl Reserved {
    fn pages(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    fn missing(&self, start: u64, end: u64) -> u64 {
        let covered: u64 = self
            .0
            .range(..end)
            .rev()
            .take_while(|&(_, &until)| until > start)
            .map(|(&from, &until)| until.min(end) - from.max(start))
            .sum();
        (end - start) - covered
    }

    fn insert(&mut self, mut start: u64, mut end: u64) {
        while let Some((&from, &until)) = self.0.range(..=end).next_back() {
            if until < start {
                break;
            }
            self.0.remove(&from);
            (start, end) = (start.min(from), end.max(until));
        }
        self.0.insert(start, end);
    }

    fn cut(&mut self, end: u64) {
        self.0.split_off(&end);
        if let Some((_, until)) = self.0.iter_mut().next_back() {
            *until = (*until).min(end);
        }
    }
}

fn zeros() -> Page {
    Rc::from([0_u8; PAGE_BYTES].as_slice())
}

/// The sectors of a page, as ranges of bytes.
fn sectors() -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..PAGE_BYTES / SECTOR_BYTES).map(|sector| sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES)
}

impl Content {
    /// The length that is seen while the machine runs.
    pub fn length(&self) -> u64 {
        self.lengths.last().map_or(self.durable_length, |change| change.length)
    }

    /// Pages that the file takes on the disk.
    pub fn reserved_pages(&self) -> u64 {
        self.reserved.pages()
    }

    /// Pages of a range of bytes that the file does not take yet.
    pub fn missing_pages(&self, position: u64, length: u64) -> u64 {
        self.reserved.missing(position / PAGE, (position + length).div_ceil(PAGE))
    }

    fn reserve(&mut self, position: u64, length: u64) {
        self.reserved.insert(position / PAGE, (position + length).div_ceil(PAGE));
    }

    /// Whether a write that is under way touches one of `count` pages from `first`.
    pub fn overlaps_write(&self, first: u64, count: u64) -> Option<u64> {
        let mut touched = self.volatile.range(first..first + count);
        touched.find(|(_, volatile)| !volatile.in_flight.is_empty()).map(|(&page, _)| page)
    }

    /// Whether anything of the file is not durable.
    pub fn is_dirty(&self) -> bool {
        !self.volatile.is_empty() || !self.lengths.is_empty()
    }

    /// Takes a write in; nothing of it is read back for certain until it completes.
    pub fn begin_write(&mut self, write: u64, position: u64, data: &[u8]) {
        self.reserve(position, data.len() as u64);
        for (page, bytes) in (position / PAGE..).zip(data.chunks(PAGE_BYTES)) {
            self.volatile.entry(page).or_default().in_flight.push(Version {
                write,
                submitted: write,
                completed: 0,
                bytes: Rc::from(bytes),
                is_cut: false,
                is_forgotten: false,
            });
        }
    }

    /// Applies a write to its pages, and makes it durable if it was to be.
    pub fn complete_write(
        &mut self,
        write: u64,
        (position, length): (u64, u64),
        tick: u64,
        is_durable: bool,
        chance: &mut Chance,
    ) {
        for page in position / PAGE..(position + length) / PAGE {
            if let Some(place) = self.apply(page, write, tick, chance)
                && is_durable
            {
                self.promote(page, place);
            }
        }
        let end = position + length;
        if end > self.length() {
            self.lengths.push(LengthChange { at: tick, length: end });
        }
        if is_durable {
            self.promote_length_to_cover(end);
        }
    }

    /// Ends a write that failed: each of its pages has it or has not.
    pub fn fail_write(&mut self, write: u64, (position, length): (u64, u64), tick: u64, chance: &mut Chance) {
        let mut end = self.length();
        for page in position / PAGE..(position + length) / PAGE {
            if chance.one_in(2) {
                self.apply(page, write, tick, chance);
                end = end.max((page + 1) * PAGE);
            } else if let Some(volatile) = self.volatile.get_mut(&page) {
                volatile.in_flight.retain(|version| version.write != write);
            }
            self.tidy(page);
        }
        if end > self.length() {
            self.lengths.push(LengthChange { at: tick, length: end });
        }
    }

    /// Takes in what is written through a mapping: it is there at once, and every page of it may be lost in a crash.
    pub fn write_mapped(&mut self, tick: u64, position: u64, data: &[u8]) {
        let mut rest = data;
        let mut position = position;
        while !rest.is_empty() {
            let (page, place) = (position / PAGE, (position % PAGE) as usize);
            let (now, later) = rest.split_at(rest.len().min(PAGE_BYTES - place));
            let mut bytes =
                self.current(page).map_or_else(|| vec![0; PAGE_BYTES], |current| current.to_vec());
            bytes[place..place + now.len()].copy_from_slice(now);
            let applied = &mut self.volatile.entry(page).or_default().applied;
            // A page may be written for ever without a flush; the oldest states of it tell nothing that these do not.
            if applied.len() == MAPPED_VERSIONS_MAX {
                applied.remove(0);
            }
            applied.push(Version {
                write: tick,
                submitted: tick,
                completed: tick,
                bytes: Rc::from(bytes),
                is_cut: false,
                is_forgotten: false,
            });
            position += now.len() as u64;
            rest = later;
        }
    }

    /// Moves a page of a write from the versions in flight to the applied ones; its place among these.
    fn apply(&mut self, page: u64, write: u64, tick: u64, chance: &mut Chance) -> Option<usize> {
        let volatile = self.volatile.get_mut(&page)?;
        let at = volatile.in_flight.iter().position(|version| version.write == write)?;
        let mut version = volatile.in_flight.remove(at);
        version.completed = tick;
        let mut place = volatile.applied.len();
        while place > 0 && volatile.applied[place - 1].completed > version.submitted && chance.one_in(2) {
            place -= 1;
        }
        volatile.applied.insert(place, version);
        Some(place)
    }

    /// Makes an applied version durable, and forgets what lay beneath it.
    fn promote(&mut self, page: u64, place: usize) {
        let Some(volatile) = self.volatile.get_mut(&page) else { return };
        if let Some(version) = volatile.applied.drain(..=place).next_back() {
            self.durable.insert(page, version.bytes);
        }
        self.tidy(page);
    }

    fn tidy(&mut self, page: u64) {
        let is_quiet = |volatile: &Volatile| volatile.applied.is_empty() && volatile.in_flight.is_empty();
        if self.volatile.get(&page).is_some_and(is_quiet) {
            self.volatile.remove(&page);
        }
    }

    /// Makes the first `count` changes of length durable, with the cuts among them.
    fn promote_lengths(&mut self, count: usize) {
        let changes: Vec<LengthChange> = self.lengths.drain(..count).collect();
        for change in changes {
            if change.length < self.durable_length {
                self.promote_cut(change.at);
            }
            self.durable_length = change.length;
        }
    }

    fn promote_cut(&mut self, tick: u64) {
        let is_it = |version: &Version| version.is_cut && version.completed == tick;
        let places: Vec<(u64, usize)> = self
            .volatile
            .iter()
            .filter_map(|(&page, volatile)| Some((page, volatile.applied.iter().position(is_it)?)))
            .collect();
        for (page, place) in places {
            self.promote(page, place);
        }
    }

    /// Makes as many changes of length durable as are needed for `end` to lie within the file from then on.
    fn promote_length_to_cover(&mut self, end: u64) {
        let short = self.lengths.iter().rposition(|change| change.length < end);
        let needed = match short {
            Some(last_short) => last_short + 2,
            None if self.durable_length < end => 1,
            None => 0,
        };
        self.promote_lengths(needed.min(self.lengths.len()));
    }

    /// Makes durable what had completed by `horizon`.
    pub fn flush(&mut self, horizon: u64) {
        let covered = |version: &Version| version.completed <= horizon && !version.is_forgotten;
        let places: Vec<(u64, usize)> = self
            .volatile
            .iter()
            .filter_map(|(&page, volatile)| Some((page, volatile.applied.iter().rposition(covered)?)))
            .collect();
        for (page, place) in places {
            self.promote(page, place);
        }
        let count = self.lengths.iter().take_while(|change| change.at <= horizon).count();
        self.promote_lengths(count);
    }

    /// A flush that failed: of the pages that it should have made durable, each is still as it was, is
    /// clean without having been written, or is back at its durable bytes.
    pub fn fail_flush(&mut self, horizon: u64, chance: &mut Chance) {
        let pages: Vec<u64> = self.volatile.keys().copied().collect();
        for page in pages {
            let Some(volatile) = self.volatile.get_mut(&page) else { continue };
            match chance.below(3) {
                0 => {}
                1 => {
                    for version in &mut volatile.applied {
                        version.is_forgotten |= version.completed <= horizon;
                    }
                }
                _ => volatile.applied.retain(|version| version.completed > horizon || version.is_cut),
            }
            self.tidy(page);
        }
    }

    fn current(&self, page: u64) -> Option<&Page> {
        let applied = self.volatile.get(&page).and_then(|volatile| volatile.applied.last());
        applied.map(|version| &version.bytes).or_else(|| self.durable.get(&page))
    }

    /// Reads into `target` what is there; sectors that are being written are old or new. The number of bytes
    /// before the end of the file.
    pub fn read(&self, position: u64, target: &mut [u8], chance: &mut Chance) -> usize {
        let count = self.length().saturating_sub(position).min(target.len() as u64) as usize;
        let target = &mut target[..count];
        for (page, bytes) in (position / PAGE..).zip(target.chunks_mut(PAGE_BYTES)) {
            match self.current(page) {
                Some(current) => bytes.copy_from_slice(&current[..bytes.len()]),
                None => bytes.fill(0),
            }
            let Some(volatile) = self.volatile.get(&page) else { continue };
            let length = bytes.len();
            for version in &volatile.in_flight {
                for sector in sectors().filter(|sector| sector.end <= length) {
                    if chance.one_in(2) {
                        bytes[sector.clone()].copy_from_slice(&version.bytes[sector]);
                    }
                }
            }
        }
        count
    }

    /// Takes space and extends the length to cover it.
    pub fn allocate(&mut self, position: u64, length: u64, tick: u64) {
        self.reserve(position, length);
        if position + length > self.length() {
            self.lengths.push(LengthChange { at: tick, length: position + length });
        }
    }

    /// Cuts or extends.
    pub fn set_length(&mut self, length: u64, tick: u64) {
        if length < self.length() {
            let first = length / PAGE;
            let kept = (length % PAGE) as usize;
            let durable = self.durable.range(first..).map(|(&page, _)| page);
            let mut pages: Vec<u64> =
                durable.chain(self.volatile.range(first..).map(|(&page, _)| page)).collect();
            pages.sort_unstable();
            pages.dedup();
            for page in pages {
                let mut bytes = [0_u8; PAGE_BYTES];
                if page == first
                    && kept > 0
                    && let Some(current) = self.current(page)
                {
                    bytes[..kept].copy_from_slice(&current[..kept]);
                }
                self.volatile.entry(page).or_default().applied.push(Version {
                    write: tick,
                    submitted: tick,
                    completed: tick,
                    bytes: Rc::from(bytes.as_slice()),
                    is_cut: true,
                    is_forgotten: false,
                });
            }
            self.reserved.cut(length.div_ceil(PAGE));
        }
        if length != self.length() {
            self.lengths.push(LengthChange { at: tick, length });
        }
    }

    /// The process died: what had completed stays, each page of a write under way has it or has not.
    pub fn kill(&mut self, tick: u64, chance: &mut Chance) {
        let pages: Vec<u64> = self.volatile.keys().copied().collect();
        let mut end = self.length();
        for page in pages {
            let Some(volatile) = self.volatile.get_mut(&page) else { continue };
            let mut in_flight = std::mem::take(&mut volatile.in_flight);
            chance.shuffle(&mut in_flight);
            for mut version in in_flight {
                if chance.one_in(2) {
                    version.completed = tick;
                    volatile.applied.push(version);
                    end = end.max((page + 1) * PAGE);
                }
            }
            self.tidy(page);
        }
        if end > self.length() {
            self.lengths.push(LengthChange { at: tick, length: end });
        }
    }

    /// The power went: every sector that was not durable is one of what was written there, or what it was
    /// before; where a write was under way also garbage.
    pub fn crash(&mut self, garbage: f64, chance: &mut Chance) {
        self.extend_for_writes_under_way(chance);
        let count = match chance.below(4) {
            0 => 0,
            1 => self.lengths.len(),
            _ => chance.index(self.lengths.len() + 1),
        };
        self.promote_lengths(count);
        self.lengths.clear();
        let mode = chance.below(8);
        let volatile = std::mem::take(&mut self.volatile);
        for (page, volatile) in volatile {
            let old = self.durable.get(&page).cloned().unwrap_or_else(zeros);
            let written: Vec<&Version> = volatile
                .applied
                .iter()
                .filter(|version| !version.is_cut)
                .chain(&volatile.in_flight)
                .collect();
            if written.is_empty() {
                continue;
            }
            let mut bytes = [0_u8; PAGE_BYTES];
            for sector in sectors() {
                let choice = match mode {
                    0 => 0,
                    1 => written.len(),
                    _ => chance.index(written.len() + 1),
                };
                let chosen = if choice == 0 { &old } else { &written[choice - 1].bytes };
                bytes[sector.clone()].copy_from_slice(&chosen[sector.clone()]);
                if mode > 1 && !volatile.in_flight.is_empty() && chance.hit(garbage) {
                    chance.fill(&mut bytes[sector]);
                }
            }
            self.durable.insert(page, Rc::from(bytes.as_slice()));
        }
        self.purge_behind_the_end();
    }

    /// Writes under way may have got as far as the length.
    fn extend_for_writes_under_way(&mut self, chance: &mut Chance) {
        let written = self.volatile.iter().rev().find(|(_, volatile)| !volatile.in_flight.is_empty());
        let end = written.map_or(0, |(&page, _)| (page + 1) * PAGE);
        if end > self.length() && chance.one_in(2) {
            self.lengths.push(LengthChange { at: u64::MAX, length: end });
        }
    }

    fn purge_behind_the_end(&mut self) {
        let length = self.durable_length;
        self.durable.split_off(&length.div_ceil(PAGE));
        self.reserved.cut(length.div_ceil(PAGE));
        let kept = (length % PAGE) as usize;
        if kept > 0
            && let Some(last) = self.durable.get_mut(&(length / PAGE))
        {
            let mut bytes = last.to_vec();
            bytes[kept..].fill(0);
            *last = Rc::from(bytes);
        }
    }

    /// Flips one bit at `position`, in what is read now; durable bytes rot, too.
    pub fn flip_bit(&mut self, position: u64, bit: u32) {
        let page = position / PAGE;
        let mut bytes = self.current(page).map_or_else(|| vec![0; PAGE_BYTES], |current| current.to_vec());
        bytes[(position % PAGE) as usize] ^= 1 << (bit % 8);
        let applied = self.volatile.get_mut(&page).and_then(|volatile| volatile.applied.last_mut());
        match applied {
            Some(version) => version.bytes = Rc::from(bytes),
            None => {
                self.durable.insert(page, Rc::from(bytes));
            }
        }
    }

    /// Everything that is read now.
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = vec![0; self.length() as usize];
        for (page, bytes) in (0..).zip(all.chunks_mut(PAGE_BYTES)) {
            if let Some(current) = self.current(page) {
                bytes.copy_from_slice(&current[..bytes.len()]);
            }
        }
        all
    }

    /// A file that holds `bytes`, all of it durable.
    pub fn holding(bytes: &[u8]) -> Self {
        let mut content = Self { durable_length: bytes.len() as u64, ..Self::default() };
        for (page, part) in (0..).zip(bytes.chunks(PAGE_BYTES)) {
            let mut whole = [0_u8; PAGE_BYTES];
            whole[..part.len()].copy_from_slice(part);
            content.durable.insert(page, Rc::from(whole.as_slice()));
        }
        if !bytes.is_empty() {
            content.reserve(0, bytes.len() as u64);
        }
        content
    }
}
