//! A log directory: its identity, its health, and the directory of the current run.
//!
//! `LOG.DIR/journal/CURRENT` names the run whose journals and checkpoints are valid. A start recovers from
//! that run, writes the next one beside it, and only then changes `CURRENT`, in one durable page write: a
//! crash at any moment leaves one whole run.

use crate::runtime::buffer::Chunk;
use crate::runtime::{Durability, File, OpenMode, Runtime};
use logmill_wire::ids::ShardIndex;
use logmill_wire::limits::PAGE_BYTES;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Whether a log directory may still be used. Shared by all shards: one failed flush ends it for all of them.
#[derive(Default)]
pub struct DirectoryHealth {
    failed: AtomicBool,
    cause: Mutex<Option<String>>,
}

impl DirectoryHealth {
    /// Takes the directory out of service. The first cause is kept.
    pub fn fail(&self, cause: String) {
        let mut slot = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            tracing::error!(%cause, "the log directory is taken out of service; restart the broker once the disk was repaired");
            *slot = Some(cause);
        }
        self.failed.store(true, Ordering::Release);
    }

    /// Whether the directory is out of service.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Why the directory is out of service.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why a log directory cannot be used.
#[derive(Debug)]
pub enum LogDirectoryError {
    /// The disk failed.
    Io(PathBuf, io::Error),
    /// A file of ours is not what we wrote.
    Damaged(PathBuf, String),
}

impl fmt::Display for LogDirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Damaged(path, what) => write!(
                f,
                "{}: {what}. Nothing was changed; restore the file, or move this log directory away and start with an empty one",
                path.display()
            ),
        }
    }
}

impl std::error::Error for LogDirectoryError {}

/// Adds the path to an I/O error.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> LogDirectoryError + '_ {
    move |error| LogDirectoryError::Io(path.to_path_buf(), error)
}

/// Where the journals and checkpoints of one run are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDirectory {
    log_directory: PathBuf,
    number: u64,
}

const CURRENT_MAGIC: &[u8; 8] = b"LMRUN\0\0\0";

impl RunDirectory {
    /// Run `number` of a log directory.
    #[must_use]
    pub const fn new(log_directory: PathBuf, number: u64) -> Self {
        Self { log_directory, number }
    }

    /// The log directory.
    #[must_use]
    pub fn log_directory(&self) -> &Path {
        &self.log_directory
    }

    /// The number of the run, from 1.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The run after this one.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { log_directory: self.log_directory.clone(), number: self.number + 1 }
    }

    /// The directory that holds all runs.
    #[must_use]
    pub fn parent(&self) -> PathBuf {
        self.log_directory.join("journal")
    }

    /// This run's directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.parent().join(format!("run-{:010}", self.number))
    }

    /// A shard's journal.
    #[must_use]
    pub fn journal(&self, shard: ShardIndex) -> PathBuf {
        self.path().join(format!("shard-{shard}.journal"))
    }

    /// A shard's checkpoint.
    #[must_use]
    pub fn checkpoint(&self, shard: ShardIndex) -> PathBuf {
        self.path().join(format!("shard-{shard}.checkpoint"))
    }

    /// The shard whose checkpoint has this name.
    #[must_use]
    pub fn shard_of_checkpoint(name: &str) -> Option<ShardIndex> {
        name.strip_prefix("shard-")?.strip_suffix(".checkpoint")?.parse().ok().map(ShardIndex)
    }

    fn current_file(&self) -> PathBuf {
        self.parent().join("CURRENT")
    }

    /// The run that is valid, or number 0 if the log directory was never used.
    ///
    /// # Errors
    /// If the disk fails, or `CURRENT` is not intact.
    pub async fn current<R: Runtime>(runtime: &R, log_directory: &Path) -> Result<Self, LogDirectoryError> {
        let none = Self::new(log_directory.to_path_buf(), 0);
        let path = none.current_file();
        let file = match runtime.open(&path, OpenMode::Read).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(none),
            Err(error) => return Err(at(&path)(error)),
        };
        let (outcome, page) = file.read(Chunk::with_capacity(PAGE_BYTES), 0, PAGE_BYTES).await;
        outcome.map_err(at(&path))?;
        let number = parse_current(&page).ok_or_else(|| {
            LogDirectoryError::Damaged(path, "the name of the current run is not intact".into())
        })?;
        Ok(Self { number, ..none })
    }

    /// Makes this the valid run. The run's files must be durable before.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn make_current<R: Runtime>(&self, runtime: &R) -> Result<(), LogDirectoryError> {
        let path = self.current_file();
        let fresh = path.with_extension("new");
        let mut page = Chunk::with_capacity(PAGE_BYTES);
        let mut content = CURRENT_MAGIC.to_vec();
        content.extend_from_slice(&self.number.to_le_bytes());
        content.extend_from_slice(&crc32c::crc32c(&content).to_le_bytes());
        page.append(&content);
        page.pad_to(PAGE_BYTES);
        let file = runtime.open(&fresh, OpenMode::Create).await.map_err(at(&fresh))?;
        file.write(page.view_all(), 0, Durability::Cached).await.map_err(at(&fresh))?;
        file.flush().await.map_err(at(&fresh))?;
        runtime.rename(&fresh, &path).await.map_err(at(&path))?;
        runtime.sync_directory(&self.parent()).await.map_err(at(&path))
    }
}

fn parse_current(page: &[u8]) -> Option<u64> {
    let (content, crc) = page.get(..20)?.split_at(16);
    let intact = crc32c::crc32c(content).to_le_bytes() == *crc;
    let (magic, number) = content.split_at(8);
    (intact && magic == CURRENT_MAGIC)
        .then(|| number.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)))?
}
