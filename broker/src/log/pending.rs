//! What of a log is to be committed, and what has been.

use super::appender::{Log, Piece, Taken, TakenExtent};
use super::tail::{page_ceil, page_floor};
use crate::journal::GroupBuilder;
use crate::runtime::Runtime;
use logmill_wire::frame::journal::Range as EntryRange;
use logmill_wire::ids::Offset;
use std::rc::Rc;

/// Bytes of one log in a group from which on the checksums of its batches are carried along.
const CARRIED_PIECE_BYTES_MIN: u32 = 4 << 10;

impl<R: Runtime> Log<R> {
    pub(super) fn enqueue(self: &Rc<Self>) {
        if !self.queued.replace(true) {
            self.store.dirty.borrow_mut().push_back(Rc::clone(self));
            self.store.work.notify_all();
        } else if self.lazy.get() {
            self.store.hurry();
        }
    }

    /// Whether the next group must say whose log this is: no checkpoint does.
    pub(super) fn must_be_declared(&self) -> bool {
        self.covered_cut.get() != self.store.cut.get() && !self.in_checkpoint.get()
    }

    /// The durable end in the bytes of the segment that takes what comes next.
    pub(super) fn durable_position(&self) -> (Offset, u64) {
        let inner = self.inner.borrow();
        inner.segments.back().map_or(inner.closed_end, |active| (active.base, active.durable))
    }

    /// Takes bytes that are to be committed next: at most `inline_room` for the journal and `extent_room` for
    /// an extent. `None` if nothing fits or nothing is left; then `queued` says whether to come again.
    #[inline]
    pub(super) fn take_bytes(&self, inline_room: usize, extent_room: u64) -> Option<Taken<R>> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let cut = self.store.cut.get();
        let extent_min = self.store.settings.extent_bytes_min;
        let segment = inner.first_to_take().and_then(|at| inner.segments.get_mut(at))?;
        let covered = self.covered_cut.get() == cut;
        let start = if covered { segment.taken } else { page_floor(segment.taken) };
        let declare = self.must_be_declared();
        let mut budget = (inline_room as u64).checked_sub(if declare { 512 } else { 0 })?;
        let pending = segment.end() - segment.taken;
        let marks = &inner.marks;
        let base = segment.base;
        let segment_end = segment.end();
        let is_batch_end = |end: u64| {
            end == segment_end || {
                let before = marks.partition_point(|mark| (mark.segment_base, mark.end) < (base, end));
                marks.iter().nth(before).is_some_and(|mark| (mark.segment_base, mark.end) == (base, end))
            }
        };
        let piece = |position: u64, end: u64| Piece {
            position,
            length: (end - position) as u32,
            within_batch: !is_batch_end(end),
        };
        let overhead = crate::journal::ENTRY_OVERHEAD_BYTES as u64;
        let mut inline = None;
        let mut extent = None;
        let mut to = segment.end();
        let is_large = pending >= extent_min && extent_room >= extent_min;
        if let Some(file) = segment.file.as_ref().filter(|_| is_large).map(Rc::clone) {
            let first_page = page_ceil(segment.taken);
            to = to.min(first_page + page_floor(extent_room));
            let last_page = page_floor(to);
            let head = first_page.saturating_sub(start);
            budget = budget.checked_sub(head + (to - last_page) + 3 * overhead)?;
            let _ = budget;
            if start < first_page {
                inline = Some(piece(start, first_page));
            }
            let after = (last_page < to).then(|| piece(last_page, to));
            let views = segment.tail.views(first_page..last_page);
            let range = self.range_of(base, &piece(first_page, last_page));
            let before = marks.partition_point(|mark| (mark.segment_base, mark.end) <= (base, first_page));
            let ends = marks.iter().skip(before).take_while(|mark| mark.segment_base == base);
            let crc = segment.tail.checksum(first_page..last_page, ends.map(|mark| mark.end));
            extent = Some(Box::new(TakenExtent { range, crc, views, file, after }));
        } else {
            budget = budget.checked_sub(overhead)?;
            to = to.min(start.checked_add(budget)?);
            if to <= segment.taken {
                return None;
            }
            inline = Some(piece(start, to));
        }
        self.store.note_taken(to - segment.taken);
        segment.batches_from = (!segment.taken_within_batch).then_some(segment.taken);
        segment.taken_within_batch = !is_batch_end(to);
        segment.taken = to;
        self.covered_cut.set(cut);
        let segment_base = segment.base;
        Some(Taken { segment_base, to, declare, inline, extent, start: None, state: None })
    }

    /// Puts what was just taken into the group that is to be written.
    #[inline]
    pub(super) fn put_inline(&self, segment_base: Offset, piece: &Piece, group: &mut GroupBuilder) {
        let inner = self.inner.borrow();
        let range = self.range_of(segment_base, piece);
        let segment = inner.position_of(segment_base).and_then(|at| inner.segments.get(at));
        let bytes = piece.position..piece.position + u64::from(piece.length);
        let Some(segment) = segment else { return group.add_inline(&range, []) };
        match segment.tail.slice_of_newest(bytes.clone()) {
            Some(slice) => group.add_inline(&range, [slice]),
            None => group.add_inline(&range, segment.tail.slices(bytes.clone())),
        }
        // Small batches are sooner read than looked for.
        let from = segment.batches_from.filter(|from| bytes.contains(from));
        if let Some(from) = from.filter(|_| piece.length >= CARRIED_PIECE_BYTES_MIN) {
            let first =
                inner.marks.partition_point(|mark| (mark.segment_base, mark.end) <= (segment_base, from));
            let ends = inner.marks.iter().skip(first).take_while(|mark| mark.segment_base == segment_base);
            group.carry_checksums(&range, from, ends.map(|mark| mark.end));
        }
    }

    fn range_of(&self, segment_base: Offset, piece: &Piece) -> EntryRange {
        let Piece { position, length, within_batch } = *piece;
        EntryRange { log: self.key, segment_base, position, length, within_batch }
    }

    /// Whether something is left to take. Otherwise the next append puts the log into the queue again.
    #[inline]
    pub(super) fn has_pending(&self) -> bool {
        let bytes = self.inner.borrow().first_to_take().is_some();
        let others = self.start.is_pending() || self.truncation.is_waiting();
        let pending = bytes || (others && !self.deleted.get());
        self.queued.set(pending);
        pending
    }

    /// Takes note that everything up to `to` in a segment is durable.
    #[inline]
    pub(super) fn committed(
        self: &Rc<Self>,
        segment_base: Offset,
        to: u64,
        extent: Option<std::ops::Range<u64>>,
    ) {
        let mut durable_offset = None;
        let fill = {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            let at = inner.position_of(segment_base);
            let Some(segment) = at.and_then(|at| inner.segments.get_mut(at)) else { return };
            assert!(
                to >= segment.durable && to <= segment.end(),
                "the durable end only rises, and within the log"
            );
            segment.durable = to;
            if let Some(extent) = extent {
                segment.written_ahead.push_back(extent);
            }
            while inner.marks.front().is_some_and(|mark| {
                mark.segment_base < segment_base || (mark.segment_base == segment_base && mark.end <= to)
            }) {
                if let Some(mark) = inner.marks.pop_front() {
                    durable_offset = Some(mark.next_offset);
                    if mark.next_offset > inner.readable.2 {
                        inner.readable = (mark.segment_base, mark.end, mark.next_offset);
                    }
                }
            }
            segment.durable.saturating_sub(segment.filled) >= self.store.settings.fill_bytes
        };
        if let Some(end) = durable_offset
            && let Some(owner) = self.owner()
        {
            owner.on_durable(end);
        }
        if fill {
            self.request_fill();
        }
    }

    /// Tells the owner that nothing more will become durable.
    pub(super) fn fail(&self) {
        if let Some(owner) = self.owner() {
            owner.on_failed();
        }
    }
}
