//! The group commit: one task per store that writes what all logs have appended, one group after another.
//!
//! It alone moves the journal, and makes the cuts: what a checkpoint frees is decided between two groups.

use super::appender::{FromLog, Log, Taken};
use super::checkpoint::{self, AtCut, to_state};
use super::store::Store;
use crate::journal::{ENTRY_OVERHEAD_BYTES, Journal};
use crate::runtime::{Durability, File, Runtime};
use crate::shard::join::{Boxed, join_all};
use logmill_wire::frame::journal::GROUP_HEADER_BYTES;
use std::hint::black_box;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// The share of the journal at which a checkpoint is begun.
const CHECKPOINT_AT_PERCENT: u32 = 40;

/// Bytes that one group may vouch for as extents.
const EXTENT_BYTES_MAX: u64 = 8 << 20;

/// Logs of one group.
const LOGS_PER_GROUP_MAX: usize = 8192;

/// Logs that are looked at together when their group is written; see [`Log::look_at_state`].
const LOGS_PER_BLOCK: usize = 16;

/// The committer's task.
pub(super) async fn run<R: Runtime>(store: Rc<Store<R>>, journal: Journal<R>) {
    let mut committer = Committer { store, journal };
    committer.drive().await;
    committer.store.stopped.set(true);
    committer.store.progress.notify_all();
}

struct Committer<R: Runtime> {
    store: Rc<Store<R>>,
    journal: Journal<R>,
}

impl<R: Runtime> Committer<R> {
    async fn drive(&mut self) {
        loop {
            // What those append that can run now goes along: that makes fewer groups, and none of them later by much.
            self.store.runtime.yield_now().await;
            self.journal.release_before(self.store.release_before.get());
            self.store.note_ring(&self.journal);
            if self.store.stopping.get() || self.store.health.is_failed() {
                self.store.hurry();
            }
            if self.store.health.is_failed() {
                self.fail_everything();
                if self.store.stopping.get() {
                    return;
                }
                self.store.work.wait().await;
                continue;
            }
            if self.checkpoint_is_due() {
                self.cut().await;
            }
            if self.store.dirty.borrow().is_empty() {
                if self.store.stopping.get() && !self.store.checkpoint_running.get() {
                    // Without space for a last checkpoint the journal has everything for the next start.
                    let is_settled = self.store.touched.borrow().is_empty() && !self.store.aged.get();
                    if is_settled || self.store.starved.get() {
                        return;
                    }
                    self.store.checkpoint_asked.set(true);
                    continue;
                }
                self.store.work.wait().await;
                continue;
            }
            if !self.commit_group().await {
                return;
            }
        }
    }

    fn fail_everything(&self) {
        let dirty = std::mem::take(&mut *self.store.dirty.borrow_mut());
        for log in dirty {
            log.fail();
        }
        for log in std::mem::take(&mut *self.store.touched.borrow_mut()) {
            log.fail();
        }
        self.store.progress.notify_all();
    }

    fn checkpoint_is_due(&self) -> bool {
        let store = &self.store;
        let nothing_to_keep = store.touched.borrow().is_empty()
            && store.doomed.borrow().is_empty()
            && !(store.stopping.get() && store.aged.get());
        if store.checkpoint_running.get() || nothing_to_keep {
            return false;
        }
        store.checkpoint_asked.get()
            || self.journal.used_percent() >= CHECKPOINT_AT_PERCENT
            || store.extent_bytes_since_cut.get() >= store.settings.checkpoint_extent_bytes
    }

    /// Remembers how all touched logs stand, and lets a task of its own settle them. No group is in flight.
    async fn cut(&mut self) {
        let store = &self.store;
        // What waits to be committed is part of the cut.
        store.hurry();
        store.checkpoint_running.set(true);
        store.checkpoint_asked.set(false);
        store.aged.set(false);
        let sequence = self.journal.next_sequence();
        let cut = store.cut.get() + 1;
        store.cut.set(cut);
        let touched = std::mem::take(&mut *store.touched.borrow_mut());
        let mut logs = Vec::with_capacity(touched.len());
        for log in touched {
            if let Some(owner) = log.owner() {
                let snapshot = log.truncation.unseen().unwrap_or_else(|| owner.snapshot());
                let (segment_base, end) = log.end_at_cut();
                let state = to_state(&log, &snapshot, segment_base, end);
                let free_below = log.free_at_cut();
                let truncations = log.truncation.count();
                logs.push(AtCut { log, state: Some(state), segment_base, end, free_below, truncations });
            } else if !log.deleted.get() {
                // Without its state the journal must not forget it.
                let lost = format!("the partition of {} ended before its log", log.directory_name);
                store.health.fail(lost);
                store.checkpoint_running.set(false);
                return;
            }
            if store.runtime.should_yield() {
                store.runtime.yield_now().await;
            }
        }
        let making = checkpoint::make(Rc::clone(store), self.journal.id(), sequence, cut, logs);
        store.runtime.spawn(making);
    }

    /// False if nothing can be committed any more: the store stops, and there is no space for the checkpoint that
    /// would free the ring. What is left was never acknowledged.
    async fn commit_group(&mut self) -> bool {
        let room = self.journal.room_bytes().saturating_sub(GROUP_HEADER_BYTES);
        let (taken, bytes) = self.take_from_logs(room);
        if taken.is_empty() {
            // The ring is full: only a checkpoint frees it. If none runs, one is made now.
            if self.store.checkpoint_running.get() {
                self.store.progress.wait().await;
            } else if self.store.stopping.get() && self.store.starved.get() {
                return false;
            } else {
                self.store.checkpoint_asked.set(true);
            }
            return true;
        }
        self.store.note_group((bytes + GROUP_HEADER_BYTES) as u64);
        let written = self.write_group(&taken, bytes).await;
        if let Err(error) = written {
            self.store.health.fail(format!("a commit failed: {error}"));
        }
        let failed = self.store.health.is_failed();
        let mut taken = taken.into_iter();
        while !taken.as_slice().is_empty() {
            let block = taken.as_slice().len().min(LOGS_PER_BLOCK);
            look_at_all(taken.as_slice().iter().take(block).map(|(log, _)| log));
            Self::note_written(taken.by_ref().take(block), failed);
        }
        self.store.release_written();
        self.store.commits.set(self.store.commits.get() + 1);
        self.store.note_ring(&self.journal);
        self.store.progress.notify_all();
        true
    }

    fn note_written(taken: impl Iterator<Item = FromLog<R>>, failed: bool) {
        for (log, taken) in taken {
            if failed {
                log.fail();
                continue;
            }
            if let Some(entry) = &taken.state {
                log.truncated(entry);
                continue;
            }
            let extent = taken.extent.map(|extent| {
                let range = extent.range;
                range.position..range.position + u64::from(range.length)
            });
            log.committed(taken.segment_base, taken.to, extent);
            if let Some(start) = taken.start {
                log.start_committed(start);
            }
        }
    }

    /// Takes from one log after another what fits into a group of `room` bytes.
    fn take_from_logs(&self, room: usize) -> (Vec<FromLog<R>>, usize) {
        let store = &self.store;
        let mut taken_logs = Vec::with_capacity(store.dirty.borrow().len().min(LOGS_PER_GROUP_MAX));
        let mut again = Vec::new();
        let mut bytes = 0;
        let mut extent_room = EXTENT_BYTES_MAX;
        let mut full = false;
        while taken_logs.len() < LOGS_PER_GROUP_MAX && !full {
            if taken_logs.len().is_multiple_of(LOGS_PER_BLOCK) {
                look_at_all(store.dirty.borrow().iter().take(LOGS_PER_BLOCK));
            }
            let Some(log) = store.dirty.borrow_mut().pop_front() else { break };
            if let Some(taken) = log.take(room - bytes, extent_room) {
                bytes += size_in_group(&log, &taken);
                if let Some(extent) = &taken.extent {
                    let length = u64::from(extent.range.length);
                    extent_room = extent_room.saturating_sub(length);
                    store.extent_bytes_since_cut.set(store.extent_bytes_since_cut.get() + length);
                }
                self.note_touched(&log);
                if log.has_pending() {
                    again.push(Rc::clone(&log));
                }
                taken_logs.push((log, taken));
            } else if log.has_pending() {
                full = true;
                store.dirty.borrow_mut().push_front(log);
            }
        }
        store.dirty.borrow_mut().extend(again);
        (taken_logs, bytes)
    }

    fn note_touched(&self, log: &Rc<Log<R>>) {
        let cut = self.store.cut.get();
        if log.touched_cut.replace(cut) == cut {
            return;
        }
        let mut touched = self.store.touched.borrow_mut();
        touched.push(Rc::clone(log));
        if touched.len() == 1 {
            let store = Rc::clone(&self.store);
            let after = Duration::from_millis(store.settings.checkpoint_interval_ms);
            self.store.runtime.spawn(async move {
                store.runtime.sleep(after).await;
                if store.cut.get() == cut && !store.stopped.get() {
                    store.checkpoint_asked.set(true);
                    store.work.notify_all();
                }
            });
        }
    }

    async fn write_group(&mut self, taken: &[FromLog<R>], bytes: usize) -> io::Result<()> {
        let mut group = self.journal.group(bytes + GROUP_HEADER_BYTES);
        let mut extents: Vec<Boxed<'_, io::Result<()>>> = Vec::new();
        for (log, taken) in taken {
            if taken.declare {
                group.add_declare(log.key, &log.directory_name);
            }
            if let Some(start) = taken.start {
                group.add_start(log.key, start);
            }
            if let Some(entry) = &taken.state {
                group.add_state(log.key, entry.written_from, &entry.bytes);
            }
            if let Some(extent) = &taken.extent {
                let mut position = extent.range.position;
                for view in &extent.views {
                    extents.push(Box::pin(extent.file.write(view.clone(), position, Durability::Durable)));
                    position += view.len() as u64;
                }
                group.add_extent(&extent.range, extent.crc);
            }
            if let Some(piece) = &taken.inline {
                log.put_inline(taken.segment_base, piece, &mut group);
            }
            if let Some(piece) = taken.extent.as_ref().and_then(|extent| extent.after.as_ref()) {
                log.put_inline(taken.segment_base, piece, &mut group);
            }
        }
        // What the group vouches for must be durable before the group is.
        for outcome in join_all(extents).await {
            outcome?;
        }
        self.journal.commit(group).await.map(|_| ())
    }
}

/// Has the processor fetch what is about to be used of several logs.
fn look_at_all<'l, R: Runtime>(logs: impl Iterator<Item = &'l Rc<Log<R>>>) {
    black_box(logs.fold(0, |seen, log| seen ^ log.look_at_state()));
}

fn size_in_group<R: Runtime>(log: &Log<R>, taken: &Taken<R>) -> usize {
    let declare = if taken.declare { ENTRY_OVERHEAD_BYTES + log.directory_name.len() } else { 0 };
    let start = if taken.start.is_some() { ENTRY_OVERHEAD_BYTES } else { 0 };
    let extent = if taken.extent.is_some() { ENTRY_OVERHEAD_BYTES } else { 0 };
    let inline: usize = taken.inline().map(|range| ENTRY_OVERHEAD_BYTES + range.length as usize).sum();
    let state = taken.state.as_ref().map_or(0, |entry| entry.bytes_in_group());
    declare + start + extent + inline + state
}
