//! Reading a journal at restart: find the last valid group, then everything back to the tail it names.

use crate::runtime::buffer::Chunk;
use crate::runtime::{File, OpenMode, Runtime};
use logmill_wire::frame::journal::{Entry, GROUP_HEADER_BYTES, GroupHeader, entries, open_group};
use logmill_wire::ids::Uuid;
use logmill_wire::limits::{CHUNK_BYTES_MAX, PAGE_BYTES};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

/// Why a journal could not be replayed.
#[derive(Debug)]
pub enum ReplayError {
    /// The disk failed.
    Io(io::Error),
    /// A group that was durable is not intact any more. What it vouched for cannot be known.
    Rot {
        /// The missing group.
        sequence: u64,
        /// The last group that is intact.
        last_sequence: u64,
    },
    /// A group is intact, but an entry in it is not one that this program writes.
    InvalidEntry {
        /// The group.
        sequence: u64,
    },
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the journal cannot be read: {error}"),
            Self::Rot { sequence, last_sequence } => write!(
                f,
                "the journal is damaged: group {sequence} is not intact, though group {last_sequence} after it is"
            ),
            Self::InvalidEntry { sequence } => {
                write!(f, "the journal's group {sequence} holds an entry that this version does not know")
            }
        }
    }
}

impl std::error::Error for ReplayError {}

impl From<io::Error> for ReplayError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A journal's live content, in memory.
pub struct Replay {
    content: Vec<u8>,
    groups: Vec<(GroupHeader, std::ops::Range<usize>)>,
}

impl Replay {
    /// The groups from the tail to the frontier, each with its entries' bytes.
    pub fn groups(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.groups.iter().map(|(header, range)| (header.sequence, &self.content[range.clone()]))
    }

    /// Number, first page and pages of each of these groups.
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, u32, u32)> {
        self.groups.iter().map(|(header, range)| {
            let bytes = GROUP_HEADER_BYTES + range.len();
            (header.sequence, header.page, bytes.div_ceil(PAGE_BYTES) as u32)
        })
    }

    /// All entries, in the order in which they were committed.
    ///
    /// # Errors
    /// If a group holds something else than entries.
    pub fn entries(&self) -> Result<Vec<Entry<'_>>, ReplayError> {
        let mut all = Vec::new();
        for (sequence, payload) in self.groups() {
            for entry in entries(payload) {
                all.push(entry.map_err(|_| ReplayError::InvalidEntry { sequence })?);
            }
        }
        Ok(all)
    }
}

/// Reads the journal at `path`, replaying from `from_sequence` (what a checkpoint asks for) on.
///
/// The file is flushed first: what a process that was killed left in a device's cache is read back here as if
/// it were durable, so it must be.
///
/// # Errors
/// If the disk fails, or a group below the last valid one is missing.
pub async fn replay<R: Runtime>(
    runtime: &R,
    path: &Path,
    id: Uuid,
    from_sequence: u64,
) -> Result<Replay, ReplayError> {
    let file = runtime.open(path, OpenMode::ReadWrite).await?;
    file.flush().await?;
    let content = read_whole(&file).await?;
    let found = valid_groups(&content, id);
    let Some((&last_sequence, (last, _))) = found.last_key_value() else {
        if from_sequence > 1 {
            return Err(ReplayError::Rot { sequence: from_sequence, last_sequence: from_sequence });
        }
        return Ok(Replay { content, groups: Vec::new() });
    };
    // A checkpoint may be newer than the last group's idea of the tail, never older.
    let first = from_sequence.max(last.tail_sequence);
    if from_sequence < last.tail_sequence {
        return Err(ReplayError::Rot { sequence: from_sequence, last_sequence });
    }
    let groups = groups_of(&found, first, last_sequence)?;
    Ok(Replay { content, groups })
}

/// Reads the journal at `path` from the tail that its last group names. The file is flushed first.
///
/// # Errors
/// If the disk fails, a group behind the tail is missing, or there is none at all.
pub(super) async fn replay_from_tail<R: Runtime>(
    runtime: &R,
    path: &Path,
    id: Uuid,
) -> Result<Replay, ReplayError> {
    let file = runtime.open(path, OpenMode::ReadWrite).await?;
    file.flush().await?;
    let content = read_whole(&file).await?;
    let found = valid_groups(&content, id);
    let Some((&last_sequence, (last, _))) = found.last_key_value() else {
        return Err(ReplayError::Rot { sequence: 1, last_sequence: 1 });
    };
    let groups = groups_of(&found, last.tail_sequence, last_sequence)?;
    Ok(Replay { content, groups })
}

/// The groups from one to the last, without a gap.
fn groups_of(
    found: &BTreeMap<u64, (GroupHeader, std::ops::Range<usize>)>,
    first: u64,
    last_sequence: u64,
) -> Result<Vec<(GroupHeader, std::ops::Range<usize>)>, ReplayError> {
    (first..=last_sequence)
        .map(|sequence| found.get(&sequence).cloned().ok_or(ReplayError::Rot { sequence, last_sequence }))
        .collect()
}

/// Reads the write cache at `path`: every group that is intact, in the order in which they were put there. Some of
/// them may be of an earlier lap, and after a power cut any may be missing.
///
/// # Errors
/// If the disk fails.
pub async fn replay_written<R: Runtime>(runtime: &R, path: &Path, id: Uuid) -> io::Result<Replay> {
    let file = match runtime.open(path, OpenMode::Read).await {
        // No log had `write.caching`.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Replay { content: Vec::new(), groups: Vec::new() });
        }
        outcome => outcome?,
    };
    let content = read_whole(&file).await?;
    let groups = valid_groups(&content, id).into_values().collect();
    Ok(Replay { content, groups })
}

async fn read_whole(file: &impl File) -> io::Result<Vec<u8>> {
    let length = file.length().await?;
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    let mut position = 0;
    while position < length {
        let step = (length - position).min(CHUNK_BYTES_MAX as u64) as usize;
        let (outcome, chunk) =
            file.read(Chunk::with_capacity(step), position, step.next_multiple_of(PAGE_BYTES)).await;
        let read = outcome?;
        if read == 0 {
            break;
        }
        content.extend_from_slice(&chunk);
        position += read as u64;
    }
    Ok(content)
}

/// Every intact group of this journal that stands where it says, by sequence number.
fn valid_groups(content: &[u8], id: Uuid) -> BTreeMap<u64, (GroupHeader, std::ops::Range<usize>)> {
    let mut found = BTreeMap::new();
    let mut page = 0;
    while let Some(bytes) = content.get(page * PAGE_BYTES..).filter(|bytes| !bytes.is_empty()) {
        let Ok((header, payload)) = open_group(bytes) else {
            page += 1;
            continue;
        };
        if header.journal_id != id.0 || header.page as usize != page {
            page += 1;
            continue;
        }
        let start = page * PAGE_BYTES + GROUP_HEADER_BYTES;
        let range = start..start + payload.len();
        page = range.end.div_ceil(PAGE_BYTES);
        found.insert(header.sequence, (header, range));
    }
    found
}
