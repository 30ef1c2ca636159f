//! What a killed process left in its write cache.
//!
//! An append there goes on where the durable part of its log ends, or it is of no use: it became durable, or a power cut
//! has taken what was before it.

use super::LogError;
use super::directory::{LogDirectoryError, RunDirectory, at};
use super::names::{Belongs, belongs};
use super::recovery::{GONE, NAMELESS, complete_log, fresh_state, note_damage};
use super::redo::Pieces;
use super::segment::{log_file_name, read_file};
use super::tail::page_floor;
use crate::journal::{Replay, replay_written};
use crate::runtime::{OpenMode, Runtime};
use logmill_wire::frame::checkpoint::LogState;
use logmill_wire::frame::journal::{Entry, Range, entries};
use logmill_wire::ids::{Offset, ShardIndex, TopicPartition, Uuid};
use logmill_wire::record_batch::BatchHeader;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// What the write cache has of one log.
#[derive(Default)]
struct OfLog<'a> {
    directory: Option<&'a str>,
    appends: Vec<(Range, &'a [u8])>,
}

/// Appends to each log what follows in the write cache of the shard, in the run of this journal, on its durable end, from the
/// group of number `from_sequence` on. `states` are as the journal leaves them.
/// True if a log was found damaged.
///
/// # Errors
/// If the disk fails.
pub(super) async fn restore_written<R: Runtime>(
    runtime: &R,
    run: &RunDirectory,
    (shard, journal_id, from_sequence): (ShardIndex, Uuid, u64),
    states: &mut BTreeMap<TopicPartition, LogState>,
) -> Result<bool, LogDirectoryError> {
    let (log_directory, path) = (run.log_directory(), run.write_cache(shard));
    let written = replay_written(runtime, &path, journal_id).await.map_err(at(&path))?;
    let mut has_new_damage = false;
    for (log, found) in by_log(&written, from_sequence) {
        let known = states.get(&log).cloned();
        let Some(mut state) = known.or_else(|| found.directory.map(|name| fresh_state(log, name))) else {
            // It was deleted.
            continue;
        };
        let path = log_directory.join(&state.directory);
        if state.damage.is_some() {
            continue;
        }
        let chain = chain_of(&state, &found.appends);
        let Some((first, _)) = chain.first() else { continue };
        let whose = belongs(runtime, &path, log).await.map_err(at(&path))?;
        let is_known = states.contains_key(&log);
        if whose == Belongs::Nowhere && !is_known {
            // Deleted meanwhile, or a power cut came before anything of it was on disk.
            continue;
        }
        if matches!(whose, Belongs::Nowhere | Belongs::Another(_)) {
            // A deleted topic's; only the metadata can tell. If it still exists, nothing may be served of it.
            state.damage = Some(GONE.to_owned());
            states.insert(log, state);
            continue;
        }
        if whose == Belongs::Unknown {
            note_damage(&mut state, NAMELESS);
            has_new_damage = true;
            states.insert(log, state);
            continue;
        }
        let mut runs = runs_of(&chain);
        if first.segment_base.0 == state.segment_base {
            let head = match last_page(runtime, &path, &state).await.map_err(at(&path))? {
                Ok(head) => head,
                Err(what) => {
                    note_damage(&mut state, &what);
                    has_new_damage = true;
                    states.insert(log, state);
                    continue;
                }
            };
            if let Some((range, bytes)) = runs.first_mut() {
                range.position -= head.len() as u64;
                range.length += head.len() as u32;
                bytes.splice(0..0, head);
            }
        }
        let mut pieces = Pieces::default();
        for (range, bytes) in &runs {
            pieces.add(*range, Some(bytes), 0);
        }
        tracing::info!(directory = %state.directory, batches = chain.len(), "acknowledged batches are restored from the write cache");
        complete_log(runtime, log_directory, &mut state, pieces).await?;
        has_new_damage |= state.damage.is_some();
        states.insert(log, state);
    }
    Ok(has_new_damage)
}

/// What there is of each log, in the order in which it was appended.
fn by_log(written: &Replay, from_sequence: u64) -> BTreeMap<TopicPartition, OfLog<'_>> {
    let mut logs: BTreeMap<TopicPartition, OfLog<'_>> = BTreeMap::new();
    let of_use = written.groups().filter(|(sequence, _)| *sequence >= from_sequence);
    // What passes its checksum and is no entry was written by another version: nothing of it is known.
    for entry in of_use.flat_map(|(_, payload)| entries(payload)).flatten() {
        match entry {
            Entry::Declare(log, name) => {
                logs.entry(log).or_default().directory = std::str::from_utf8(name).ok();
            }
            Entry::Inline(range, bytes) => logs.entry(range.log).or_default().appends.push((range, bytes)),
            Entry::Extent(..) | Entry::Start(..) | Entry::State(..) => {}
        }
    }
    logs
}

/// The appends that follow, one after another, on the durable end of a log.
fn chain_of<'a>(state: &LogState, appends: &[(Range, &'a [u8])]) -> Vec<(Range, &'a [u8])> {
    let (mut base, mut end, mut next_offset) =
        (Offset(state.segment_base), state.end_position, Offset(state.next_offset));
    let mut chain = Vec::new();
    for &(range, bytes) in appends {
        let goes_on = range.segment_base == base && range.position == end;
        let is_rolled = range.segment_base > base && range.segment_base == next_offset && range.position == 0;
        // A leader's log has gaps where it was compacted, and a follower's has them, too.
        let header = BatchHeader::parse(bytes).filter(|header| header.base_offset >= next_offset);
        let Some(header) = header.filter(|_| goes_on || is_rolled) else { continue };
        base = range.segment_base;
        end = range.position + bytes.len() as u64;
        next_offset = header.next_offset();
        chain.push((range, bytes));
    }
    chain
}

/// The same bytes as one range for each segment.
fn runs_of(chain: &[(Range, &[u8])]) -> Vec<(Range, Vec<u8>)> {
    let mut runs: Vec<(Range, Vec<u8>)> = Vec::new();
    for (range, bytes) in chain {
        match runs.last_mut().filter(|(last, _)| last.segment_base == range.segment_base) {
            Some((last, all)) => {
                last.length += range.length;
                all.extend_from_slice(bytes);
            }
            None => runs.push((*range, bytes.to_vec())),
        }
    }
    runs
}

/// The bytes of a log's last page that are durable; or what is damaged.
async fn last_page<R: Runtime>(
    runtime: &R,
    directory: &Path,
    state: &LogState,
) -> io::Result<Result<Vec<u8>, String>> {
    let start = page_floor(state.end_position);
    if start == state.end_position {
        return Ok(Ok(Vec::new()));
    }
    let path = directory.join(log_file_name(Offset(state.segment_base)));
    let file = match runtime.open(&path, OpenMode::Read).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err("the file is missing".to_owned()));
        }
        outcome => outcome?,
    };
    match read_file(&file, start..state.end_position).await {
        Ok(views) => Ok(Ok(views.iter().flat_map(|view| view.iter().copied()).collect())),
        Err(LogError::Damaged(what)) => Ok(Err(what)),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}
