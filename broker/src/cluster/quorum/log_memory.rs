//! What Raft reads of the log: all of it is in memory, behind the last snapshot. It is what the disk has, too.

use super::members::MemberSet;
use super::message::SnapshotId;
use super::snapshot::MetadataSnapshot;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;

/// Bytes that an entry takes beside its data.
const ENTRY_OVERHEAD_BYTES: u64 = 48;

/// The log behind the last snapshot, term and vote, and that snapshot.
pub(super) struct LogMemory {
    hard_state: HardState,
    base: SnapshotId,
    /// The members at the base, with which Raft begins.
    conf_state: ConfState,
    entries: Vec<Entry>,
    entry_bytes: u64,
    snapshot: Option<MetadataSnapshot>,
    /// Set when a follower needs a newer snapshot than there is.
    is_snapshot_wanted: Cell<bool>,
}

/// What a restart finds.
#[derive(Clone, Debug, Default)]
pub(super) struct DurableState {
    pub hard_state: HardState,
    pub snapshot: Option<MetadataSnapshot>,
    /// What follows on the snapshot, without a gap.
    pub entries: Vec<Entry>,
}

pub(super) fn entry_bytes(entry: &Entry) -> u64 {
    ENTRY_OVERHEAD_BYTES + (entry.data.len() + entry.context.len()) as u64
}

impl LogMemory {
    pub fn new(state: DurableState) -> Self {
        let base = state.snapshot.as_ref().map_or_else(SnapshotId::default, |snapshot| snapshot.id);
        let members = state.snapshot.as_ref().map(|snapshot| snapshot.members.conf_state());
        let mut hard_state = state.hard_state;
        // What a snapshot stands for is committed.
        hard_state.commit = hard_state.commit.max(base.index);
        Self {
            hard_state,
            base,
            conf_state: members.unwrap_or_default(),
            entry_bytes: state.entries.iter().map(entry_bytes).sum(),
            entries: state.entries,
            snapshot: state.snapshot,
            is_snapshot_wanted: Cell::new(false),
        }
    }

    pub const fn base(&self) -> SnapshotId {
        self.base
    }

    pub const fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of the entries behind the snapshot.
    pub const fn entry_bytes(&self) -> u64 {
        self.entry_bytes
    }

    pub const fn snapshot(&self) -> Option<&MetadataSnapshot> {
        self.snapshot.as_ref()
    }

    /// Whether a follower waits for a newer snapshot; asking forgets it.
    pub fn take_snapshot_wish(&self) -> bool {
        self.is_snapshot_wanted.take()
    }

    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    /// Puts entries behind those before them; entries of the same or a later place are gone.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let keep = (first.index.saturating_sub(self.base.index + 1) as usize).min(self.entries.len());
        self.entries.truncate(keep);
        self.entries.extend_from_slice(entries);
        self.entry_bytes = self.entries.iter().map(entry_bytes).sum();
    }

    /// Lets the log begin behind a snapshot. Entries behind it stay if they follow on it.
    pub fn begin_at(&mut self, snapshot: MetadataSnapshot) {
        let id = snapshot.id;
        let follows = self.term_at(id.index) == Some(id.term);
        let gone = (id.index.saturating_sub(self.base.index) as usize).min(self.entries.len());
        self.entries.drain(..if follows { gone } else { self.entries.len() });
        self.entry_bytes = self.entries.iter().map(entry_bytes).sum();
        self.base = id;
        self.hard_state.commit = self.hard_state.commit.max(id.index);
        self.conf_state = snapshot.members.conf_state();
        self.snapshot = Some(snapshot);
    }

    /// The term of an index from the base to the end.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let place = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(place).ok()?).map(|entry| entry.term)
    }

    fn names(members: &MemberSet, raft_id: u64) -> bool {
        members.by_raft_id(raft_id).is_some()
    }
}

impl Storage for LogMemory {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.index {
            return Err(StorageError::Compacted.into());
        }
        let from = (low - self.base.index - 1) as usize;
        let to = (high.saturating_sub(self.base.index + 1)) as usize;
        let found = self.entries.get(from..to).ok_or(StorageError::Unavailable)?;
        let room = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0_u64;
        // One entry in any case.
        let fit = found.iter().take_while(|entry| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add(entry_bytes(entry));
            is_first || bytes <= room
        });
        Ok(fit.cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base.index {
            return Err(StorageError::Compacted.into());
        }
        self.term_at(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The place of the snapshot; its bytes go another way.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let usable = self
            .snapshot
            .as_ref()
            .filter(|snapshot| snapshot.id.index >= request_index && Self::names(&snapshot.members, to));
        let Some(found) = usable else {
            self.is_snapshot_wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        Ok(raft_snapshot(found))
    }
}

/// A snapshot as Raft knows it, without its bytes.
pub(super) fn raft_snapshot(snapshot: &MetadataSnapshot) -> Snapshot {
    let mut raft = Snapshot::default();
    let metadata = raft.mut_metadata();
    (metadata.index, metadata.term) = (snapshot.id.index, snapshot.id.term);
    metadata.set_conf_state(snapshot.members.conf_state());
    raft
}
