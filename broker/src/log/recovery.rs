//! Restart: the journal's live groups over the last checkpoint give every log's end.
//!
//! What the journal vouches for and the segment lacks is written again (which changes nothing if it was
//! already there), and only the batches behind the checkpoint are looked at. A log whose acknowledged bytes are
//! not what the journal says is marked damaged, with everything kept as it was found.

use super::checkpoint::{from_state, key_of, write as write_checkpoint};
use super::directory::{LogDirectoryError, RunDirectory, at};
use super::names::{Belongs, DELETED_SUFFIX, belongs, deleted_name, remove_deleted};
use super::redo::{Pieces, first_position, redo_segment};
use super::restore::restore_written;
use super::segment::{log_file_name, read_file};
use super::tail::page_ceil;
use super::truncation::{CutOff, remove_behind};
use crate::journal::{Journal, replay};
use crate::runtime::{File, OpenMode, Runtime};
use logmill_state::partition::Leader;
use logmill_wire::frame::checkpoint::{self as frame, Checkpoint, LogState};
use logmill_wire::frame::journal::Entry;
use logmill_wire::ids::{Offset, ShardIndex, TopicPartition, Uuid};
use logmill_wire::record_batch::{BatchHeader, crc_matches};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// The largest run of the damaged kind that is looked at in memory at once.
const SCAN_BYTES: u64 = 4 << 20;

/// What is wrong with a log whose directory could be another's.
pub(super) const NAMELESS: &str =
    "its directory does not say whose it is: partition.metadata is missing or damaged";

/// What is wrong with a log whose directory is not there, or another's.
pub(super) const GONE: &str = "its directory is gone";

/// What a log directory held.
pub struct Recovery {
    previous: RunDirectory,
    /// All logs that were ever appended to, in the order of their keys.
    pub logs: Vec<LogState>,
    /// Whether a log was found damaged that was not known to be: the last run's journals may help to repair it.
    has_new_damage: bool,
}

/// A log directory that is ready to be used by the shards of a new run.
pub struct OpenedRun {
    /// The run.
    pub run: RunDirectory,
    /// For each shard its journal's identity and the states of its logs.
    pub shards: Vec<(Uuid, BTreeMap<TopicPartition, LogState>)>,
}

/// Recovers a log directory from its last run. Nothing of that run is changed except that segments are
/// completed, so it may be repeated.
///
/// # Errors
/// If the disk fails, or a journal or checkpoint is damaged: then nothing can be said about any log in it.
pub async fn recover<R: Runtime>(runtime: &R, log_directory: &Path) -> Result<Recovery, LogDirectoryError> {
    let current = RunDirectory::current(runtime, log_directory).await?;
    let mut recovery = Recovery { previous: current.run, logs: Vec::new(), has_new_damage: false };
    if recovery.previous.number() == 0 {
        return Ok(recovery);
    }
    let shards: Vec<ShardIndex> = match current.shards {
        Some(shards) => (0..shards).map(ShardIndex).collect(),
        None => {
            let run_path = recovery.previous.path();
            let entries = runtime.read_directory(&run_path).await.map_err(at(&run_path))?;
            entries.iter().filter_map(|entry| RunDirectory::shard_of_journal(&entry.name)).collect()
        }
    };
    let mut all = BTreeMap::new();
    for shard in shards {
        recover_shard(runtime, &mut recovery, shard, &mut all).await?;
    }
    recovery.logs = all.into_values().collect();
    Ok(recovery)
}

async fn recover_shard<R: Runtime>(
    runtime: &R,
    recovery: &mut Recovery,
    shard: ShardIndex,
    all: &mut BTreeMap<TopicPartition, LogState>,
) -> Result<(), LogDirectoryError> {
    let run = recovery.previous.clone();
    let checkpoint = read_checkpoint(runtime, &run.checkpoint(shard)).await?;
    let journal_path = run.journal(shard);
    let damaged =
        |error: &dyn std::fmt::Display| LogDirectoryError::Damaged(journal_path.clone(), error.to_string());
    let replayed =
        replay(runtime, &journal_path, Uuid(checkpoint.journal_id), checkpoint.replay_from_sequence)
            .await
            .map_err(|error| damaged(&error))?;
    let journal_id = Uuid(checkpoint.journal_id);
    let entries = replayed.entries().map_err(|error| damaged(&error))?;
    let (mut states, mut live) = Live::of(checkpoint, entries).map_err(|error| damaged(&error))?;
    forget_deleted(runtime, run.log_directory(), &mut states, &mut live).await?;
    for (log, cut_off) in live.cut_off {
        let kept = live.pieces.get(&log).map(Pieces::bases).unwrap_or_default();
        if let Some(state) = states.get_mut(&log) {
            finish_truncation(runtime, run.log_directory(), state, (log, cut_off), &kept).await?;
            recovery.has_new_damage |= state.damage.is_some();
        }
    }
    for (log, pieces) in live.pieces {
        let Some(state) = states.get_mut(&log) else {
            return Err(damaged(&format!("it vouches for log {log}, which nothing names")));
        };
        if state.damage.is_some() {
            continue;
        }
        let path = run.log_directory().join(&state.directory);
        match belongs(runtime, &path, log).await.map_err(at(&path))? {
            Belongs::Ours => {
                complete_log(runtime, run.log_directory(), state, pieces).await?;
                recovery.has_new_damage |= state.damage.is_some();
            }
            Belongs::Unknown => {
                note_damage(state, NAMELESS);
                recovery.has_new_damage = true;
            }
            // A deleted topic's; only the metadata can tell. If it still exists, nothing may be served of it.
            Belongs::Nowhere | Belongs::Another(_) => {
                tracing::warn!(directory = %state.directory, "the journal knows a log whose directory is gone");
                state.damage = Some(GONE.to_owned());
            }
        }
    }
    let cache = (shard, journal_id, live.written_from);
    recovery.has_new_damage |= restore_written(runtime, &run, cache, &mut states).await?;
    // A log whose directory is gone has no start.
    for (log, start) in live.starts {
        states.get_mut(&log).into_iter().for_each(|state| move_start(state, start));
    }
    all.extend(states);
    Ok(())
}

/// What the journal has of logs over a checkpoint.
#[derive(Default)]
struct Live<'a> {
    pieces: BTreeMap<TopicPartition, Pieces<'a>>,
    starts: BTreeMap<TopicPartition, Offset>,
    /// Logs that were cut, or emptied.
    cut_off: BTreeMap<TopicPartition, CutOff>,
    /// Where the write cache begins to be of use.
    written_from: u64,
}

impl<'a> Live<'a> {
    /// Also returns the logs' states: those of the checkpoint, and newer ones of the journal.
    fn of(
        checkpoint: Checkpoint,
        entries: Vec<Entry<'a>>,
    ) -> Result<(BTreeMap<TopicPartition, LogState>, Self), &'static str> {
        let mut states: BTreeMap<TopicPartition, LogState> =
            checkpoint.logs.into_iter().map(|state| (key_of(&state), state)).collect();
        let mut live = Self { written_from: checkpoint.written_from_sequence, ..Self::default() };
        for entry in entries {
            match entry {
                Entry::Declare(log, name) => {
                    let name = std::str::from_utf8(name).map_err(|_| "a log's name is not text")?;
                    states.entry(log).or_insert_with(|| fresh_state(log, name));
                }
                Entry::Inline(range, bytes) => {
                    live.pieces.entry(range.log).or_default().add(range, Some(bytes), 0);
                }
                Entry::Extent(range, crc) => live.pieces.entry(range.log).or_default().add(range, None, crc),
                Entry::Start(log, start) => {
                    let latest = live.starts.entry(log).or_insert(start);
                    *latest = start.max(*latest);
                }
                Entry::State(log, written_from, state) => {
                    let state = frame::open_state(state).map_err(|_| "a log's state is not intact")?;
                    if key_of(&state) != log {
                        return Err("a log's state is another's");
                    }
                    live.written_from = live.written_from.max(written_from);
                    live.pieces.remove(&log);
                    live.starts.remove(&log);
                    let (base, position) = (Offset(state.segment_base), state.end_position);
                    live.cut_off.insert(log, CutOff { base, position });
                    states.insert(log, state);
                }
            }
        }
        Ok((states, live))
    }

    fn forget(&mut self, log: TopicPartition) {
        self.pieces.remove(&log);
        self.starts.remove(&log);
        self.cut_off.remove(&log);
    }
}

/// Forgets logs that were deleted before a checkpoint could: their directories are on their way out, and what follows in
/// the place of one, perhaps a next life of the same replica, begins with nothing.
async fn forget_deleted<R: Runtime>(
    runtime: &R,
    log_directory: &Path,
    states: &mut BTreeMap<TopicPartition, LogState>,
    live: &mut Live<'_>,
) -> Result<(), LogDirectoryError> {
    let entries = runtime.read_directory(log_directory).await.map_err(at(log_directory))?;
    let leaving: BTreeSet<&str> = entries
        .iter()
        .map(|entry| entry.name.as_str())
        .filter(|name| name.ends_with(DELETED_SUFFIX))
        .collect();
    let suspects: Vec<TopicPartition> = states
        .iter()
        .filter(|(log, state)| leaving.contains(deleted_name(&state.directory, **log).as_str()))
        .map(|(log, _)| *log)
        .collect();
    for log in suspects {
        let Some(path) = states.get(&log).map(|state| log_directory.join(&state.directory)) else { continue };
        let is_deleted = match belongs(runtime, &path, log).await.map_err(at(&path))? {
            Belongs::Nowhere | Belongs::Another(_) => true,
            // A later life of it, or one that cannot be told apart from it.
            Belongs::Ours | Belongs::Unknown => false,
        };
        if is_deleted {
            states.remove(&log);
            live.forget(log);
        }
    }
    Ok(())
}

/// Removes what a log that was truncated still has on disk; `kept` are the segments that it has bytes of since.
async fn finish_truncation<R: Runtime>(
    runtime: &R,
    log_directory: &Path,
    state: &mut LogState,
    (log, cut_off): (TopicPartition, CutOff),
    kept: &[Offset],
) -> Result<(), LogDirectoryError> {
    let path = log_directory.join(&state.directory);
    // A directory that is not the log's is reported with what is to be written there.
    if belongs(runtime, &path, log).await.map_err(at(&path))? != Belongs::Ours {
        return Ok(());
    }
    remove_behind(runtime, &path, cut_off, kept).await.map_err(at(&path))?;
    runtime.sync_directory(&path).await.map_err(at(&path))?;
    if cut_off.position == 0 || kept.contains(&cut_off.base) {
        return Ok(());
    }
    cut_settled(runtime, &path, state).await
}

/// Cuts a segment that the log has left, or has not gone on in, to its settled end.
async fn cut_settled<R: Runtime>(
    runtime: &R,
    directory: &Path,
    state: &mut LogState,
) -> Result<(), LogDirectoryError> {
    let name = log_file_name(Offset(state.segment_base));
    let path = directory.join(&name);
    match cut_to(runtime, &path, state.end_position).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            note_damage(state, &format!("segment {name} is missing"));
            Ok(())
        }
        outcome => outcome.map_err(at(&path)),
    }
}

pub(super) fn fresh_state(log: TopicPartition, directory: &str) -> LogState {
    LogState {
        topic_id: log.topic_id.0,
        partition: log.partition.0,
        directory: directory.to_owned(),
        leader_epoch: -1,
        segment_opened_at: -1,
        ..LogState::default()
    }
}

async fn read_checkpoint<R: Runtime>(runtime: &R, path: &Path) -> Result<Checkpoint, LogDirectoryError> {
    let file = match runtime.open(path, OpenMode::Read).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what = "the checkpoint is missing, and with it what is known of its shard's logs";
            return Err(LogDirectoryError::Damaged(path.to_path_buf(), what.to_owned()));
        }
        outcome => outcome.map_err(at(path))?,
    };
    let length = file.length().await.map_err(at(path))?;
    let views = read_file(&file, 0..length)
        .await
        .map_err(|error| LogDirectoryError::Io(path.to_path_buf(), io::Error::other(error.to_string())))?;
    let bytes: Vec<u8> = views.iter().flat_map(|view| view.iter().copied()).collect();
    frame::open(&bytes).map_err(|error| {
        LogDirectoryError::Damaged(path.to_path_buf(), format!("the checkpoint is not intact ({error:?})"))
    })
}

/// Writes what the journal vouches for, then replays the batches behind the checkpoint.
pub(super) async fn complete_log<R: Runtime>(
    runtime: &R,
    log_directory: &Path,
    state: &mut LogState,
    pieces: Pieces<'_>,
) -> Result<(), LogDirectoryError> {
    let directory = log_directory.join(&state.directory);
    let bases = pieces.bases();
    let active = Offset(state.segment_base);
    let last = bases.last().copied().unwrap_or(active).max(active);
    let mut ends = Vec::new();
    if !bases.contains(&Offset(state.segment_base)) && state.end_position > 0 {
        // The log went on in another segment before anything was appended to this one: its file still has
        // the space that was taken ahead, which must not be read as records.
        cut_settled(runtime, &directory, state).await?;
        if state.damage.is_some() {
            return Ok(());
        }
    }
    for base in bases {
        let pieces = pieces.of(base);
        let known_end = match base.cmp(&active) {
            // The log had gone on in another segment at the cut, with bytes of this one still to be committed: what is
            // before these is settled, and the checkpoint's state has them all.
            Ordering::Less => first_position(&pieces),
            Ordering::Equal => state.end_position,
            Ordering::Greater => 0,
        };
        let path = directory.join(log_file_name(base));
        let outcome = redo_segment(runtime, &path, pieces, known_end, base == last).await;
        match outcome.map_err(at(&path))? {
            Ok(_) if base < active => {}
            Ok((end, within_batch)) => ends.push((base, end, within_batch)),
            Err(what) => {
                note_damage(state, &format!("segment {}: {what}", log_file_name(base)));
                return Ok(());
            }
        }
    }
    let Ok(mut leader) = Leader::restore(&from_state(state)) else {
        note_damage(state, "the checkpoint contradicts itself");
        return Ok(());
    };
    for (base, end, within_batch) in ends {
        let from = if base.0 == state.segment_base { state.end_position } else { 0 };
        let path = directory.join(log_file_name(base));
        let replayed = replay_batches(runtime, &path, from..end, &mut leader).await.map_err(at(&path))?;
        store_progress(state, &leader, base, replayed.end, replayed.first_timestamp);
        if replayed.damage.is_none() && replayed.end < end {
            if !within_batch {
                note_damage(state, &format!("the journal's end {end} is not the end of a batch"));
                return Ok(());
            }
            // The rest of that batch never became durable, so nobody was told of it.
            cut_to(runtime, &path, page_ceil(replayed.end)).await.map_err(at(&path))?;
        }
        if let Some(what) = replayed.damage {
            note_damage(state, &what);
            return Ok(());
        }
    }
    Ok(())
}

/// Lets a log start where the journal says. Of a damaged log some offsets may not have come back.
fn move_start(state: &mut LogState, start: Offset) {
    let start = start.min(Offset(state.next_offset));
    let moved = Leader::restore(&from_state(state)).is_ok_and(|mut leader| {
        let moved = leader.advance_log_start(start).is_ok();
        let snapshot = leader.snapshot();
        state.epochs = snapshot.epochs.iter().map(|entry| (entry.epoch.0, entry.start_offset.0)).collect();
        moved
    });
    if moved {
        state.log_start_offset = state.log_start_offset.max(start.0);
    } else {
        note_damage(state, "the log's start contradicts its checkpoint");
    }
}

async fn cut_to<R: Runtime>(runtime: &R, path: &Path, end: u64) -> io::Result<()> {
    let file = runtime.open(path, OpenMode::ReadWrite).await?;
    file.set_length(end).await?;
    file.flush().await
}

pub(super) fn note_damage(state: &mut LogState, what: &str) {
    tracing::error!(directory = %state.directory, what, "acknowledged bytes are damaged; the log is taken out of service and kept as it is");
    state.damage = Some(what.to_owned());
}

fn store_progress(
    state: &mut LogState,
    leader: &Leader,
    base: Offset,
    end: u64,
    first_timestamp: Option<i64>,
) {
    if base.0 != state.segment_base || state.segment_opened_at < 0 {
        state.segment_opened_at = first_timestamp.unwrap_or(-1);
    }
    let snapshot = leader.snapshot();
    let fresh = super::checkpoint::state_of(
        TopicPartition {
            topic_id: Uuid(state.topic_id),
            partition: logmill_wire::ids::PartitionIndex(state.partition),
        },
        &state.directory,
        &snapshot,
        (base, end),
    );
    *state = LogState { segment_opened_at: state.segment_opened_at, damage: state.damage.take(), ..fresh };
}

struct Replayed {
    end: u64,
    first_timestamp: Option<i64>,
    damage: Option<String>,
}

async fn replay_batches<R: Runtime>(
    runtime: &R,
    path: &Path,
    range: std::ops::Range<u64>,
    leader: &mut Leader,
) -> io::Result<Replayed> {
    let std::ops::Range { start: from, end } = range;
    let file = runtime.open(path, OpenMode::Read).await?;
    let mut replayed = Replayed { end: from, first_timestamp: None, damage: None };
    let mut bytes: Vec<u8> = Vec::new();
    let mut read_to = from;
    while replayed.end < end {
        let to = end.min(read_to + SCAN_BYTES);
        if to > read_to {
            match read_file(&file, read_to..to).await {
                Ok(views) => views.iter().for_each(|view| bytes.extend_from_slice(view)),
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
            read_to = to;
        }
        let taken = apply_whole_batches(&bytes, leader, &mut replayed);
        bytes.drain(..taken);
        replayed.end += taken as u64;
        if replayed.damage.is_some() {
            break;
        }
        if taken == 0 && read_to == end {
            break;
        }
    }
    Ok(replayed)
}

/// Applies the batches that are whole, and returns their bytes.
fn apply_whole_batches(bytes: &[u8], leader: &mut Leader, replayed: &mut Replayed) -> usize {
    let mut position = 0;
    while let Some(header) = bytes.get(position..).and_then(BatchHeader::parse) {
        let Some(total) = header.total_bytes() else {
            replayed.damage = Some(format!("there is no batch at byte {}", replayed.end + position as u64));
            break;
        };
        let Some(batch) = bytes.get(position..position + total) else { break };
        if !crc_matches(batch) {
            replayed.damage =
                Some(format!("the batch at byte {} has a wrong checksum", replayed.end + position as u64));
            break;
        }
        if header.leader_epoch < leader.leader_epoch() {
            leader.forget_epochs_without_records();
        }
        if let Err(error) = leader.check_replay(&header) {
            replayed.damage = Some(error.to_string());
            break;
        }
        leader.apply_batch(&header);
        replayed.first_timestamp.get_or_insert(header.max_timestamp.0);
        position += total;
    }
    position
}

impl Recovery {
    /// Begins the next run: journals and checkpoints for `shards` shards are made durable, then the run becomes
    /// the current one and what is older is removed (or, if a log is damaged, kept under another name).
    ///
    /// # Errors
    /// If the disk fails; the previous run is then still the current one.
    pub async fn begin_run<R: Runtime>(
        self,
        runtime: &R,
        shards: u16,
        journal_bytes: impl Fn(ShardIndex) -> u64,
        shard_of: impl Fn(TopicPartition) -> ShardIndex,
    ) -> Result<OpenedRun, LogDirectoryError> {
        let run = self.previous.next();
        let path = run.path();
        if runtime.read_directory(&path).await.is_ok() {
            // Left by a start that did not get as far as making it current.
            runtime.remove_directory(&path).await.map_err(at(&path))?;
        }
        runtime.create_directory(&path).await.map_err(at(&path))?;
        let mut states: Vec<BTreeMap<TopicPartition, LogState>> =
            (0..shards).map(|_| BTreeMap::new()).collect();
        for state in self.logs {
            let key = key_of(&state);
            if let Some(of_shard) = states.get_mut(usize::from(shard_of(key).0)) {
                of_shard.insert(key, state);
            }
        }
        let mut opened = Vec::new();
        for (shard, states) in (0..shards).map(ShardIndex).zip(states) {
            let id = Uuid::from_random(
                (u128::from(runtime.random_u64()) << 64) | u128::from(runtime.random_u64()),
            );
            let journal = run.journal(shard);
            Journal::<R>::create(runtime, &journal, journal_bytes(shard)).await.map_err(at(&journal))?;
            let logs = states.values().cloned().collect();
            let checkpoint =
                Checkpoint { journal_id: id.0, replay_from_sequence: 1, written_from_sequence: 0, logs };
            let file = run.checkpoint(shard);
            write_checkpoint(runtime, &file, &path, checkpoint).await.map_err(at(&file))?;
            opened.push((id, states));
        }
        for directory in [path.clone(), run.parent(), run.log_directory().to_path_buf()] {
            runtime.sync_directory(&directory).await.map_err(at(&directory))?;
        }
        if self.previous.number() == 0 {
            sync_ancestors(runtime, run.log_directory()).await?;
        }
        run.make_current(runtime, shards).await?;
        remove_older_runs(runtime, &run, self.has_new_damage.then_some(&self.previous)).await?;
        remove_deleted_logs(runtime, run.log_directory()).await?;
        Ok(OpenedRun { run, shards: opened })
    }
}

/// Makes the name of a log directory that may be new durable, with those of the directories above it: a power
/// cut could otherwise take all of it away.
async fn sync_ancestors<R: Runtime>(runtime: &R, log_directory: &Path) -> Result<(), LogDirectoryError> {
    for above in log_directory.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match runtime.sync_directory(above).await {
            // What this user may not read, and what cannot be written, was not made by it.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied
                        | io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::InvalidInput
                ) => {}
            outcome => outcome.map_err(at(above))?,
        }
    }
    Ok(())
}

/// Goes on with the removal of deleted logs that the last run did not come to the end of, in the background.
async fn remove_deleted_logs<R: Runtime>(runtime: &R, log_directory: &Path) -> Result<(), LogDirectoryError> {
    for entry in runtime.read_directory(log_directory).await.map_err(at(log_directory))? {
        if !entry.is_directory || !entry.name.ends_with(DELETED_SUFFIX) {
            continue;
        }
        runtime.spawn(remove_deleted(runtime.clone(), log_directory.join(&entry.name)));
    }
    Ok(())
}

async fn remove_older_runs<R: Runtime>(
    runtime: &R,
    run: &RunDirectory,
    keep: Option<&RunDirectory>,
) -> Result<(), LogDirectoryError> {
    let parent = run.parent();
    if let Some(kept) = keep {
        // Damage is kept once: a log that is damaged takes no appends, so later runs say nothing new of it.
        let name = parent.join(format!("damaged-run-{:010}", kept.number()));
        runtime.rename(&kept.path(), &name).await.map_err(at(&name))?;
    }
    for entry in runtime.read_directory(&parent).await.map_err(at(&parent))? {
        let path = parent.join(&entry.name);
        if entry.is_directory && entry.name.starts_with("run-") && path != run.path() {
            runtime.remove_directory(&path).await.map_err(at(&path))?;
        }
    }
    Ok(())
}
