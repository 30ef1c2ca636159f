//! The quorum's durable state: `LOG.DIR/quorum/` with a journal of its own, and the snapshot that it begins behind.
//!
//! What Raft wants durable is one *unit*: items in one or more groups of the journal. A unit counts when all of it is
//! there. When the ring is half full, the whole state is written again as one unit, and what came before is freed. The
//! file `identity` names the journal; it is written last, so a node is fresh until its first state is durable.

use super::engine::Persist;
use super::entry::{append_entry, entry_of};
use super::log_memory::{DurableState, LogMemory};
use super::message::SnapshotId;
use super::snapshot::MetadataSnapshot;
use crate::journal::{ENTRY_OVERHEAD_BYTES, Journal, Replay, ReplayError};
use crate::log::DirectoryHealth;
use crate::runtime::buffer::Chunk;
use crate::runtime::{Durability, File, OpenMode, Runtime};
use logmill_wire::frame::journal::{Entry as JournalEntry, GROUP_HEADER_BYTES, Range};
use logmill_wire::frame::quorum::{
    IDENTITY_BYTES, ITEM_HARD_STATE, ITEM_SNAPSHOT, IdentityHeader, ItemHeader, append_item, items,
    open_identity, seal_identity,
};
use logmill_wire::ids::{Offset, PartitionIndex, TopicPartition, Uuid};
use logmill_wire::limits::{CHUNK_BYTES_MAX, PAGE_BYTES};
use raft::eraftpb::HardState;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The metadata log, whose topic id is the one that Kafka's KRaft gives it.
const METADATA_LOG: TopicPartition = TopicPartition {
    topic_id: Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    partition: PartitionIndex(0),
};

const IDENTITY: &str = "identity";
const FRESH_IDENTITY: &str = "identity.new";
const JOURNAL: &str = "journal";
const SNAPSHOT_PREFIX: &str = "snapshot-";

/// The share of the journal that is used when the state is written again, in percent.
const REWRITE_PERCENT: u32 = 50;

/// How often room is looked for on a full volume.
const ROOM_LOOK: Duration = Duration::from_secs(1);

/// The sizes of a quorum's durable state.
#[derive(Clone, Copy, Debug)]
pub struct DiskSettings {
    /// The journal's, in bytes. An entry may take a sixteenth of it.
    pub journal_bytes: u64,
}

/// Why the quorum's durable state cannot be used.
#[derive(Debug)]
pub enum QuorumDiskError {
    /// The disk failed.
    Io(PathBuf, io::Error),
    /// What is there is not what was written.
    Damaged(PathBuf, String),
}

impl fmt::Display for QuorumDiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Damaged(path, what) => write!(f, "{}: {what}. Nothing was changed", path.display()),
        }
    }
}

impl std::error::Error for QuorumDiskError {}

/// The durable state, open.
pub(super) struct QuorumDisk<R: Runtime> {
    runtime: R,
    directory: PathBuf,
    journal: Journal<R>,
    health: Arc<DirectoryHealth>,
    /// The number of the next unit.
    unit: i64,
    snapshot: Option<SnapshotId>,
}

/// What [`QuorumDisk::open`] found.
pub(super) struct Found<R: Runtime> {
    pub disk: QuorumDisk<R>,
    pub cluster_id: Uuid,
    pub state: DurableState,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> QuorumDiskError + '_ {
    move |error| QuorumDiskError::Io(path.to_path_buf(), error)
}

impl<R: Runtime> QuorumDisk<R> {
    /// Reads what is there; `None` for a fresh node.
    pub async fn open(
        runtime: &R,
        directory: &Path,
        directory_id: Uuid,
        health: &Arc<DirectoryHealth>,
    ) -> Result<Option<Found<R>>, QuorumDiskError> {
        runtime.create_directory(directory).await.map_err(at(directory))?;
        let path = directory.join(IDENTITY);
        let damaged = |what: &str| QuorumDiskError::Damaged(path.clone(), what.to_owned());
        let bytes = match runtime.open(&path, OpenMode::Read).await {
            Ok(file) => read_whole(&file).await.map_err(at(&path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path)(error)),
        };
        let identity =
            open_identity(&bytes).map_err(|_| damaged("the file is not intact; restore it from a backup"))?;
        if identity.directory_id != directory_id.0 {
            return Err(damaged(
                "the quorum's state was copied from another log directory; start with an empty one",
            ));
        }
        // A process that was killed may have left the name there and not durable: the next power cut would make the node
        // fresh, after it has voted.
        runtime.sync_directory(directory).await.map_err(at(directory))?;
        if let Some(parent) = directory.parent() {
            runtime.sync_directory(parent).await.map_err(at(parent))?;
        }
        let journal_path = directory.join(JOURNAL);
        let (journal, replay) = Journal::open_again(runtime, &journal_path, Uuid(identity.journal_id))
            .await
            .map_err(|error| match error {
                ReplayError::Io(error) => QuorumDiskError::Io(journal_path.clone(), error),
                error => QuorumDiskError::Damaged(journal_path.clone(), error.to_string()),
            })?;
        let read = read_units(&replay)
            .map_err(|what| QuorumDiskError::Damaged(directory.join(JOURNAL), what.to_owned()))?;
        let mut state = read.state;
        if read.base.index > 0 {
            state.snapshot = Some(read_snapshot(runtime, directory, read.base).await?);
        }
        let snapshot = state.snapshot.as_ref().map(|snapshot| snapshot.id);
        let (runtime, directory) = (runtime.clone(), directory.to_path_buf());
        let disk =
            Self { runtime, directory, journal, health: Arc::clone(health), unit: read.next_unit, snapshot };
        disk.remove_other_snapshots().await;
        Ok(Some(Found { disk, cluster_id: Uuid(identity.cluster_id), state }))
    }

    /// Makes the first state durable, and with it an end of the node's freshness.
    pub async fn create(
        runtime: &R,
        directory: &Path,
        settings: DiskSettings,
        ids: IdentityHeader,
        state: &DurableState,
        health: &Arc<DirectoryHealth>,
    ) -> Result<Self, QuorumDiskError> {
        let path = directory.join(JOURNAL);
        Journal::create(runtime, &path, settings.journal_bytes).await.map_err(at(&path))?;
        let journal = Journal::open_fresh(runtime, &path, Uuid(ids.journal_id)).await.map_err(at(&path))?;
        let mut disk = Self {
            runtime: runtime.clone(),
            directory: directory.to_path_buf(),
            journal,
            health: Arc::clone(health),
            unit: 0,
            snapshot: None,
        };
        disk.begin(ids, state).await.map_err(at(directory))?;
        Ok(disk)
    }

    async fn begin(&mut self, ids: IdentityHeader, state: &DurableState) -> io::Result<()> {
        if let Some(snapshot) = &state.snapshot {
            self.write_snapshot(snapshot).await?;
            self.snapshot = Some(snapshot.id);
        }
        let base = state.snapshot.as_ref().map_or_else(SnapshotId::default, |snapshot| snapshot.id);
        let mut unit = Vec::new();
        append_snapshot(&mut unit, base);
        state.entries.iter().for_each(|entry| append_entry(&mut unit, entry));
        append_hard_state(&mut unit, &state.hard_state);
        self.write_unit(&unit).await?;
        let mut page = Chunk::with_capacity(PAGE_BYTES);
        page.append(&seal_identity(ids));
        page.pad_to(PAGE_BYTES);
        let fresh = self.directory.join(FRESH_IDENTITY);
        let file = self.runtime.open(&fresh, OpenMode::Create).await?;
        file.set_length(0).await?;
        file.allocate(0, PAGE_BYTES as u64).await?;
        file.write(page.view_all(), 0, Durability::Durable).await?;
        file.flush().await?;
        self.runtime.rename(&fresh, &self.directory.join(IDENTITY)).await?;
        self.runtime.sync_directory(&self.directory).await?;
        let Some(parent) = self.directory.parent() else { return Ok(()) };
        self.runtime.sync_directory(parent).await
    }

    /// Makes what Raft wants durable so. `memory` is what was durable before.
    pub async fn persist(&mut self, persist: &Persist, memory: &LogMemory) -> io::Result<()> {
        let outcome = self.try_persist(persist, memory).await;
        self.tell(outcome)
    }

    async fn try_persist(&mut self, persist: &Persist, memory: &LogMemory) -> io::Result<()> {
        let mut unit = Vec::new();
        if let Some(snapshot) = &persist.snapshot {
            self.write_snapshot_once_there_is_room(snapshot).await?;
            append_snapshot(&mut unit, snapshot.id);
        }
        persist.entries.iter().for_each(|entry| append_entry(&mut unit, entry));
        append_hard_state(&mut unit, &persist.hard_state);
        if self.journal.used_percent() >= REWRITE_PERCENT && persist.snapshot.is_none() {
            self.rewrite(memory.base(), memory, memory.hard_state()).await?;
        }
        let first = self.journal.next_sequence();
        self.write_unit(&unit).await?;
        if let Some(snapshot) = &persist.snapshot {
            self.snapshot = Some(snapshot.id);
            // Nothing of what was before counts any more.
            self.journal.release_before(first);
            self.remove_other_snapshots().await;
        }
        Ok(())
    }

    /// Lets the log begin behind a snapshot of this node's own. Without space for it, the log stays as it is: false.
    pub async fn compact(&mut self, snapshot: &MetadataSnapshot, memory: &LogMemory) -> io::Result<bool> {
        match self.write_snapshot(snapshot).await {
            Ok(()) => {}
            Err(error) if is_no_space(&error) => {
                tracing::warn!("there is no space for a snapshot of the metadata; make room on the volume");
                return Ok(false);
            }
            Err(error) => return self.tell(Err(error)).map(|()| false),
        }
        let outcome = self.rewrite(snapshot.id, memory, memory.hard_state()).await;
        self.tell(outcome)?;
        self.snapshot = Some(snapshot.id);
        self.remove_other_snapshots().await;
        Ok(true)
    }

    /// Takes the log directory out of service after a failure, for whatever was in flight may be there or not.
    fn tell(&self, outcome: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &outcome {
            self.health.fail(format!("{}: {error}", self.directory.display()));
        }
        outcome
    }

    /// Writes the whole state as one unit and frees what came before it.
    async fn rewrite(
        &mut self,
        base: SnapshotId,
        memory: &LogMemory,
        hard_state: &HardState,
    ) -> io::Result<()> {
        let mut unit = Vec::new();
        append_snapshot(&mut unit, base);
        let kept = memory.entries().iter().filter(|entry| entry.index > base.index);
        kept.for_each(|entry| append_entry(&mut unit, entry));
        append_hard_state(&mut unit, hard_state);
        let first = self.journal.next_sequence();
        self.write_unit(&unit).await?;
        self.journal.release_before(first);
        Ok(())
    }

    async fn write_unit(&mut self, unit: &[u8]) -> io::Result<()> {
        if self.health.is_failed() {
            return Err(io::Error::other(self.health.cause().unwrap_or_default()));
        }
        const OVERHEAD: usize = GROUP_HEADER_BYTES + ENTRY_OVERHEAD_BYTES;
        let (mut rest, mut position) = (unit, 0);
        while !rest.is_empty() {
            let most = self.journal.room_bytes().saturating_sub(OVERHEAD);
            if most == 0 {
                return Err(io::Error::other("the quorum's journal is full"));
            }
            let (piece, after) = rest.split_at(rest.len().min(most));
            let range = Range {
                log: METADATA_LOG,
                segment_base: Offset(self.unit),
                position,
                length: piece.len() as u32,
                within_batch: !after.is_empty(),
            };
            let mut group = self.journal.group(OVERHEAD + piece.len());
            group.add_inline(&range, [piece]);
            self.journal.commit(group).await?;
            position += piece.len() as u64;
            rest = after;
        }
        self.unit += 1;
        Ok(())
    }

    /// As [`QuorumDisk::write_snapshot`]. On a full volume it waits for room: nobody has the entries any more that this node
    /// lacks, and what it has promised stays as it is meanwhile.
    async fn write_snapshot_once_there_is_room(&self, snapshot: &MetadataSnapshot) -> io::Result<()> {
        let mut is_known = false;
        loop {
            match self.write_snapshot(snapshot).await {
                Err(error) if is_no_space(&error) && !self.health.is_failed() => {
                    if !std::mem::replace(&mut is_known, true) {
                        tracing::warn!(
                            "there is no space for the snapshot of the metadata that the leader has sent, and the node has none of what came since; make room on the volume"
                        );
                    }
                    self.runtime.sleep(ROOM_LOOK).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn write_snapshot(&self, snapshot: &MetadataSnapshot) -> io::Result<()> {
        if self.snapshot == Some(snapshot.id) {
            return Ok(());
        }
        let file = self.runtime.open(&self.directory.join(name_of(snapshot.id)), OpenMode::Create).await?;
        file.set_length(0).await?;
        file.allocate(0, snapshot.bytes.len().next_multiple_of(PAGE_BYTES) as u64).await?;
        let mut position = 0;
        for piece in snapshot.bytes.chunks(CHUNK_BYTES_MAX) {
            let mut chunk = Chunk::with_capacity(piece.len());
            chunk.append(piece);
            chunk.pad_to(PAGE_BYTES);
            file.write(chunk.view_all(), position, Durability::Cached).await?;
            position += chunk.len() as u64;
        }
        file.flush().await?;
        self.runtime.sync_directory(&self.directory).await
    }

    /// What is left over takes space and nothing else, so failing to remove it is no failure.
    async fn remove_other_snapshots(&self) {
        let current = self.snapshot.map(name_of);
        let Ok(entries) = self.runtime.read_directory(&self.directory).await else { return };
        for entry in entries {
            if entry.name.starts_with(SNAPSHOT_PREFIX) && Some(&entry.name) != current.as_ref() {
                let _ = self.runtime.remove_file(&self.directory.join(&entry.name)).await;
            }
        }
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn name_of(id: SnapshotId) -> String {
    format!("{SNAPSHOT_PREFIX}{:020}-{:010}", id.index, id.term)
}

fn append_snapshot(unit: &mut Vec<u8>, id: SnapshotId) {
    let header = ItemHeader { kind: ITEM_SNAPSHOT, term: id.term, index: id.index, ..ItemHeader::default() };
    append_item(unit, header, &[]);
}

fn append_hard_state(unit: &mut Vec<u8>, state: &HardState) {
    let header = ItemHeader {
        kind: ITEM_HARD_STATE,
        term: state.term,
        index: state.commit,
        vote: state.vote,
        length: 0,
    };
    append_item(unit, header, &[]);
}

async fn read_whole(file: &impl File) -> io::Result<Vec<u8>> {
    let length = file.length().await?;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        let step = (length - bytes.len() as u64).min(CHUNK_BYTES_MAX as u64) as usize;
        let step = step.next_multiple_of(PAGE_BYTES);
        let (outcome, chunk) = file.read(Chunk::with_capacity(step), bytes.len() as u64, step).await;
        if outcome? == 0 {
            break;
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn read_snapshot<R: Runtime>(
    runtime: &R,
    directory: &Path,
    id: SnapshotId,
) -> Result<MetadataSnapshot, QuorumDiskError> {
    let path = directory.join(name_of(id));
    let file = runtime.open(&path, OpenMode::Read).await.map_err(at(&path))?;
    let bytes = read_whole(&file).await.map_err(at(&path))?;
    match MetadataSnapshot::decode(&bytes.into()) {
        Ok(snapshot) if snapshot.id == id => Ok(snapshot),
        Ok(_) => Err(QuorumDiskError::Damaged(path, "it is another snapshot than its name says".into())),
        Err(what) => Err(QuorumDiskError::Damaged(path, what)),
    }
}

/// What the units of a journal add up to.
#[derive(Default)]
struct Read {
    state: DurableState,
    base: SnapshotId,
    next_unit: i64,
}

fn read_units(replay: &Replay) -> Result<Read, &'static str> {
    let mut read = Read::default();
    let mut pieces: Vec<u8> = Vec::new();
    let mut has_state = false;
    for entry in replay.entries().map_err(|_| "a group holds what is no entry")? {
        let JournalEntry::Inline(range, bytes) = entry else { return Err("an entry is of another kind") };
        if range.log != METADATA_LOG {
            return Err("an entry is of another log");
        }
        if range.position == 0 {
            // Of a unit before it that has no end, nobody was told.
            pieces.clear();
        } else if range.position != pieces.len() as u64 || range.segment_base.0 + 1 != read.next_unit {
            return Err("a unit has no beginning");
        }
        read.next_unit = range.segment_base.0 + 1;
        pieces.extend_from_slice(bytes);
        if !range.within_batch {
            read.take_unit(&pieces)?;
            has_state = true;
            pieces.clear();
        }
    }
    if !has_state {
        return Err("there is no state in it");
    }
    let last = read.base.index + read.state.entries.len() as u64;
    if read.state.hard_state.commit > last {
        return Err("entries are missing that were committed");
    }
    Ok(read)
}

impl Read {
    fn take_unit(&mut self, unit: &[u8]) -> Result<(), &'static str> {
        for item in items(unit) {
            let (header, bytes) = item.map_err(|_| "a unit holds what is no item")?;
            match header.kind {
                ITEM_SNAPSHOT => {
                    self.base = SnapshotId { index: header.index, term: header.term };
                    self.state.entries.clear();
                }
                ITEM_HARD_STATE => {
                    let hard_state = &mut self.state.hard_state;
                    (hard_state.term, hard_state.vote, hard_state.commit) =
                        (header.term, header.vote, header.index);
                }
                _ => {
                    let entry = entry_of(&header, bytes).ok_or("an entry is not one of ours")?;
                    let place = entry.index.checked_sub(self.base.index + 1);
                    let place = place.and_then(|place| usize::try_from(place).ok());
                    let place = place.filter(|&place| place <= self.state.entries.len());
                    self.state.entries.truncate(place.ok_or("entries are missing")?);
                    self.state.entries.push(entry);
                }
            }
        }
        Ok(())
    }
}

const _: () = assert!(IDENTITY_BYTES <= PAGE_BYTES);

#[cfg(test)]
mod tests {
    use super::super::entry::encode_records;
    use super::super::members::MemberSet;
    use super::*;
    use crate::runtime::simulated::{Options, SimulatedRuntime, World};
    use logmill_state::metadata::{Image, Record};
    use logmill_wire::ids::ShardIndex;
    use raft::eraftpb::Entry;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    const DIRECTORY: &str = "/data/quorum";
    const ID: Uuid = Uuid([3; 16]);

    fn entry(index: u64, term: u64) -> Entry {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, term);
        let record = Record::ClusterIdMinted { cluster_id: Uuid([index as u8; 16]) };
        entry.data = encode_records(&vec![record; 20]).into();
        entry
    }

    /// What was said to be durable last.
    type Promised = Rc<RefCell<(HardState, Vec<Entry>)>>;

    /// Writes terms, votes and entries until the world ends; every third step replaces the last entry.
    async fn write(runtime: SimulatedRuntime, promised: Promised) {
        let health = Arc::<DirectoryHealth>::default();
        runtime.create_directory(Path::new("/data")).await.unwrap();
        runtime.sync_directory(Path::new("/")).await.unwrap();
        let found = QuorumDisk::open(&runtime, Path::new(DIRECTORY), ID, &health).await.unwrap();
        let (mut disk, state) = match found {
            Some(found) => (found.disk, found.state),
            None => {
                assert_eq!(promised.borrow().0, HardState::default(), "the node has voted, and is fresh");
                let state = DurableState::default();
                let ids =
                    IdentityHeader { journal_id: [1; 16], directory_id: ID.0, ..IdentityHeader::default() };
                let settings = DiskSettings { journal_bytes: 64 << 10 };
                let directory = Path::new(DIRECTORY);
                (
                    QuorumDisk::create(&runtime, directory, settings, ids, &state, &health).await.unwrap(),
                    state,
                )
            }
        };
        let (hard_state, entries) = promised.borrow().clone();
        let (found_term, found_vote) = (state.hard_state.term, state.hard_state.vote);
        assert!(found_term >= hard_state.term, "term {} was forgotten", hard_state.term);
        assert!(found_term > hard_state.term || found_vote == hard_state.vote, "the vote was forgotten");
        let base = state.snapshot.as_ref().map_or(0, |snapshot| snapshot.id.index);
        for entry in entries.iter().filter(|entry| entry.index > base) {
            let kept = state.entries.get((entry.index - base - 1) as usize);
            assert!(kept.is_some_and(|kept| kept.term >= entry.term), "entry {} was forgotten", entry.index);
        }
        let mut memory = LogMemory::new(state);
        loop {
            let (base, length) = (memory.base().index, memory.entries().len() as u64);
            let mut hard_state = memory.hard_state().clone();
            (hard_state.term, hard_state.vote) = (hard_state.term + 1, 1 + hard_state.term % 5);
            let replaces = length > 0 && hard_state.term.is_multiple_of(3);
            let index = base + length + u64::from(!replaces);
            let entries = vec![entry(index, hard_state.term)];
            let persist = Persist { snapshot: None, entries, hard_state };
            disk.persist(&persist, &memory).await.unwrap();
            memory.append(&persist.entries);
            memory.set_hard_state(persist.hard_state.clone());
            *promised.borrow_mut() = (persist.hard_state, memory.entries().to_vec());
            if length > 5 {
                let last = memory.entries()[3].clone();
                let id = SnapshotId { index: last.index, term: last.term };
                let snapshot = MetadataSnapshot::new(id, 0, MemberSet::default(), Image::default());
                assert!(disk.compact(&snapshot, &memory).await.unwrap());
                memory.begin_at(snapshot);
                promised.borrow_mut().1 = memory.entries().to_vec();
            }
        }
    }

    #[test]
    fn no_crash_makes_a_node_forget_what_it_promised() {
        let mut terms = 0;
        for seed in 0..150 {
            let world = World::new(seed, Options::drawn(seed));
            let host = world.host("node");
            let promised = Promised::default();
            for life in 0..6 {
                let runtime = host.runtime(ShardIndex(0));
                runtime.spawn(write(runtime.clone(), Rc::clone(&promised)));
                let milliseconds = world.draw(|chance| {
                    let most = 20 << chance.below(6);
                    chance.below(most)
                });
                world.run_for(Duration::from_millis(milliseconds));
                if life % 2 == 0 {
                    host.crash()
                } else {
                    host.kill()
                }
                host.restart();
            }
            terms += promised.borrow().0.term;
        }
        assert!(terms > 1_000, "only {terms} terms");
    }

    #[test]
    fn a_snapshot_from_the_leader_waits_for_room() {
        let world = World::new(5, Options::default());
        let host = world.host("node");
        let runtime = host.runtime(ShardIndex(0));
        let (is_ready, is_stored) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let health = Arc::<DirectoryHealth>::default();
        let (ready, stored, watched) = (Rc::clone(&is_ready), Rc::clone(&is_stored), Arc::clone(&health));
        let id = SnapshotId { index: 9, term: 2 };
        runtime.clone().spawn(async move {
            let directory = Path::new(DIRECTORY);
            runtime.create_directory(directory).await.unwrap();
            let ids = IdentityHeader { journal_id: [1; 16], directory_id: ID.0, ..IdentityHeader::default() };
            let settings = DiskSettings { journal_bytes: 64 << 10 };
            let state = DurableState::default();
            let mut disk =
                QuorumDisk::create(&runtime, directory, settings, ids, &state, &health).await.unwrap();
            ready.set(true);
            // Whoever fills the disk does it now.
            runtime.sleep(Duration::from_secs(1)).await;
            let snapshot = MetadataSnapshot::new(id, 0, MemberSet::default(), Image::default());
            let persist =
                Persist { snapshot: Some(snapshot), entries: Vec::new(), hard_state: HardState::default() };
            disk.persist(&persist, &LogMemory::new(state)).await.unwrap();
            stored.set(true);
            let found = QuorumDisk::open(&runtime, directory, ID, &health).await.unwrap().unwrap();
            assert_eq!(found.state.snapshot.unwrap().id, id);
            ready.set(false);
        });
        world.run_for(Duration::from_millis(500));
        assert!(is_ready.get());
        host.set_capacity(Some(0));
        world.run_for(Duration::from_secs(10));
        assert!(!is_stored.get() && !watched.is_failed());
        host.set_capacity(None);
        world.run_for(Duration::from_secs(3));
        assert!(is_stored.get() && !is_ready.get(), "it is there, and read back");
    }
}
