//! A log directory: its identity, its health, and the directory of the current run.
//!
//! `LOG.DIR/journal/CURRENT` names the run whose journals and checkpoints are valid. A start recovers from
//! that run, writes the next one beside it, and only then changes `CURRENT`, in one durable page write: a
//! crash at any moment leaves one whole run.

use super::names::Names;
use crate::runtime::buffer::Chunk;
use crate::runtime::{Durability, File, OpenMode, Runtime};
use logmill_wire::ids::ShardIndex;
use logmill_wire::limits::PAGE_BYTES;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Whether a log directory may still be used. Shared by all shards: one failed flush ends it for all of them.
#[derive(Default)]
pub struct DirectoryHealth {
    failed: AtomicBool,
    cause: Mutex<Option<String>>,
    /// Who wants to know when it fails.
    waiting: Mutex<Vec<Waker>>,
    pub(super) names: Names,
}

impl DirectoryHealth {
    /// Takes the directory out of service. The first cause is kept.
    pub fn fail(&self, cause: String) {
        let mut slot = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            tracing::error!(%cause, "the log directory is taken out of service; restart the broker once the disk was repaired");
            *slot = Some(cause);
        }
        drop(slot);
        self.failed.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.iter().for_each(Waker::wake_by_ref);
    }

    /// Ready when the directory is out of service; until then the task is woken when that comes, on whatever shard.
    pub fn poll_failed(&self, context: &Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting();
        // Whoever fails it looks for wakers afterwards, behind the same lock.
        if self.is_failed() {
            return Poll::Ready(());
        }
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        Poll::Pending
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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

impl LogDirectoryError {
    /// Whether there was no space left.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Io(_, error) if kinds.contains(&error.kind()))
    }
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

/// What `CURRENT` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentRun {
    /// The run that is valid; number 0 if the log directory was never used.
    pub run: RunDirectory,
    /// How many shards wrote it; what the first version wrote does not say.
    pub shards: Option<u16>,
}

/// Magic and version 0: the number of the run follows.
const CURRENT_MAGIC_V0: &[u8; 8] = b"LMRUN\0\0\0";

/// Magic and version 1: the number of the run follows, and that of its shards.
const CURRENT_MAGIC: &[u8; 8] = b"LMRUN\0\0\x01";

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

    /// A shard's write cache.
    #[must_use]
    pub fn write_cache(&self, shard: ShardIndex) -> PathBuf {
        self.path().join(format!("shard-{shard}.write-cache"))
    }

    /// The shard whose journal has this name.
    #[must_use]
    pub fn shard_of_journal(name: &str) -> Option<ShardIndex> {
        name.strip_prefix("shard-")?.strip_suffix(".journal")?.parse().ok().map(ShardIndex)
    }

    fn current_file(&self) -> PathBuf {
        self.parent().join("CURRENT")
    }

    /// The run that is valid.
    ///
    /// # Errors
    /// If the disk fails, or `CURRENT` is not intact.
    pub async fn current<R: Runtime>(
        runtime: &R,
        log_directory: &Path,
    ) -> Result<CurrentRun, LogDirectoryError> {
        let none = Self::new(log_directory.to_path_buf(), 0);
        let path = none.current_file();
        let file = match runtime.open(&path, OpenMode::Read).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(CurrentRun { run: none, shards: None });
            }
            Err(error) => return Err(at(&path)(error)),
        };
        let (outcome, page) = file.read(Chunk::with_capacity(PAGE_BYTES), 0, PAGE_BYTES).await;
        outcome.map_err(at(&path))?;
        let (number, shards) = parse_current(&page).ok_or_else(|| {
            LogDirectoryError::Damaged(path, "the name of the current run is not intact".into())
        })?;
        Ok(CurrentRun { run: Self { number, ..none }, shards })
    }

    /// Makes this the valid run, written by so many shards. The run's files must be durable before.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn make_current<R: Runtime>(&self, runtime: &R, shards: u16) -> Result<(), LogDirectoryError> {
        let path = self.current_file();
        let fresh = path.with_extension("new");
        let mut page = Chunk::with_capacity(PAGE_BYTES);
        page.append(&current_content(self.number, shards));
        page.pad_to(PAGE_BYTES);
        let file = runtime.open(&fresh, OpenMode::Create).await.map_err(at(&fresh))?;
        file.write(page.view_all(), 0, Durability::Cached).await.map_err(at(&fresh))?;
        file.flush().await.map_err(at(&fresh))?;
        runtime.rename(&fresh, &path).await.map_err(at(&path))?;
        runtime.sync_directory(&self.parent()).await.map_err(at(&path))
    }
}

fn current_content(number: u64, shards: u16) -> Vec<u8> {
    let mut content = CURRENT_MAGIC.to_vec();
    content.extend_from_slice(&number.to_le_bytes());
    content.extend_from_slice(&u32::from(shards).to_le_bytes());
    content.extend_from_slice(&crc32c::crc32c(&content).to_le_bytes());
    content
}

fn parse_current(page: &[u8]) -> Option<(u64, Option<u16>)> {
    let (magic, rest) = page.split_first_chunk::<8>()?;
    let fields = match magic {
        CURRENT_MAGIC_V0 => 8,
        CURRENT_MAGIC => 12,
        _ => return None,
    };
    let (content, crc) = page.get(..magic.len() + fields + 4)?.split_last_chunk::<4>()?;
    if crc32c::crc32c(content).to_le_bytes() != *crc {
        return None;
    }
    let (number, shards) = rest.get(..fields)?.split_first_chunk()?;
    let shards = shards.first_chunk().map(|bytes| u16::try_from(u32::from_le_bytes(*bytes)));
    Some((u64::from_le_bytes(*number), shards.transpose().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    /// `CURRENT` of run 3, as version 0 wrote it.
    const V0: [u8; 20] = *b"LMRUN\0\0\0\x03\0\0\0\0\0\0\0\x2A\xE0\xF9\xD1";
    /// `CURRENT` of run 3 by 2 shards, as version 1 wrote it.
    const V1: [u8; 24] = *b"LMRUN\0\0\x01\x03\0\0\0\0\0\0\0\x02\0\0\0\x58\x1F\x46\x1F";

    #[test]
    fn who_waits_for_a_failure_is_woken_once_by_it() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let (health, context) = (DirectoryHealth::default(), Context::from_waker(&waker));
        for _ in 0..3 {
            assert!(health.poll_failed(&context).is_pending());
        }
        health.fail("a flush failed".to_owned());
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(health.poll_failed(&context).is_ready());
        health.fail("another one".to_owned());
        assert_eq!(
            (woken.0.load(Ordering::Relaxed), health.cause().unwrap().as_str()),
            (1, "a flush failed")
        );
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_version_of_current_is_read() {
        assert_eq!(parse_current(&V0), Some((3, None)));
        assert_eq!(parse_current(&V1), Some((3, Some(2))));
        assert_eq!(current_content(3, 2), V1);
        for at in 0..V1.len() {
            let mut rotten = V1;
            rotten[at] ^= 1;
            assert_eq!(parse_current(&rotten), None, "byte {at}");
            assert_eq!(parse_current(&V1[..at]), None, "cut at {at}");
        }
    }
}
