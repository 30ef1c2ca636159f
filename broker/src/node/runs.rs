//! Recovering the log directories, and beginning a run in each (KIP-112).

use super::directories::{LogDirectories, none_works};
use super::message::DirectoryBeginning;
use super::{Node, NodeError};
use crate::log::{DirectoryHealth, LogDirectoryError, OfflineDirectory, OpenedRun, recover};
use crate::partition::router::shard_of;
use crate::runtime::{File, OpenMode, Runtime};
use logmill_state::metadata::DirectoryLogs;
use logmill_wire::ids::ShardIndex;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The health of each directory that works, by its place in `log.dirs`.
pub type DirectoryHealths = BTreeMap<usize, Arc<DirectoryHealth>>;

/// The log directories, ready for the shards.
pub struct OpenedDirectories {
    /// The health of each that works.
    pub healths: DirectoryHealths,
    /// The health of the one that has the metadata.
    pub metadata_health: Arc<DirectoryHealth>,
    /// Whether files bypass the page cache, in all of them.
    pub direct_io: bool,
    /// Those that do not work.
    pub offline: Vec<OfflineDirectory>,
    /// What each shard begins with, in the order of the shards.
    pub beginnings: Vec<Vec<DirectoryBeginning>>,
    /// The logs that were found in each that works.
    pub logs: Vec<DirectoryLogs>,
}

/// Recovers all directories. One that cannot be recovered is offline, unless it has the metadata or is the last.
pub async fn open<R: Runtime>(
    runtime: &R,
    node: &Node,
    directories: &LogDirectories,
) -> Result<OpenedDirectories, NodeError> {
    let mut opened = OpenedDirectories {
        healths: BTreeMap::new(),
        metadata_health: Arc::default(),
        direct_io: true,
        offline: directories.offline.clone(),
        beginnings: (0..node.shards).map(|_| Vec::new()).collect(),
        logs: Vec::new(),
    };
    for (number, directory) in &directories.data {
        let (number, path) = (*number, &directory.path);
        let run = match open_run(runtime, node, path).await {
            Ok(run) => run,
            Err(error) if directories.has_metadata(directory) || directories.data.len() == 1 => {
                return Err(not_opened(node, &error));
            }
            Err(error) => {
                let NodeError { cause, remedy } = not_opened(node, &error);
                let cause = format!("{cause}; {remedy}");
                opened.offline.push(OfflineDirectory { number, path: path.clone(), cause });
                continue;
            }
        };
        opened.direct_io &= has_direct_io(runtime, &run).await?;
        let health = Arc::<DirectoryHealth>::default();
        if directories.has_metadata(directory) {
            opened.metadata_health = Arc::clone(&health);
        }
        let logs = run.shards.iter().flat_map(|(_, states)| states.keys().copied()).collect();
        opened.logs.push(DirectoryLogs { directory: directory.identity.directory_id, logs });
        for (of_shard, (journal_id, states)) in opened.beginnings.iter_mut().zip(run.shards) {
            let (run, health) = (run.run.clone(), Arc::clone(&health));
            of_shard.push(DirectoryBeginning { number, run, journal_id, states, health });
        }
        opened.healths.insert(number, health);
    }
    for OfflineDirectory { path, cause, .. } in &opened.offline {
        tracing::error!(directory = %path.display(), %cause, "a log directory is offline, with the partitions in it");
    }
    if opened.healths.is_empty() {
        return Err(none_works(&opened.offline));
    }
    Ok(opened)
}

async fn open_run<R: Runtime>(runtime: &R, node: &Node, path: &Path) -> Result<OpenedRun, LogDirectoryError> {
    let recovery = recover(runtime, path).await?;
    let shards = node.shards;
    let journal_bytes = node.config.settings.resources.journal_bytes;
    recovery.begin_run(runtime, shards, move |_| journal_bytes, move |log| shard_of(log, shards)).await
}

/// What to do about a log directory that cannot be opened.
fn not_opened(node: &Node, error: &LogDirectoryError) -> NodeError {
    let remedy = if error.is_no_space() {
        // The journals of the run before go only once those of the next one are there.
        let needed = u64::from(node.shards) * node.config.settings.resources.journal_bytes;
        format!(
            "a start needs {} MiB for new journals before it gives back the old ones: make room on the volume, or \
             lower logmill.journal.bytes or logmill.shards; all that was acknowledged is still there",
            needed.div_ceil(1 << 20)
        )
    } else {
        "repair the disk, or restore the log directory from a replica".to_owned()
    };
    NodeError::new(error.to_string(), remedy)
}

async fn has_direct_io<R: Runtime>(runtime: &R, run: &OpenedRun) -> Result<bool, NodeError> {
    let path = run.run.journal(ShardIndex(0));
    let failed = |error: io::Error| NodeError::new(format!("{}: {error}", path.display()), "check the disk");
    Ok(runtime.open(&path, OpenMode::Read).await.map_err(failed)?.is_direct())
}
