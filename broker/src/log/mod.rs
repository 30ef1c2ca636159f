//! Logs on disk: segments of Kafka's record batches behind the commit journal.
//!
//! | bytes of a log are | when |
//! |---|---|
//! | appended | in the tail's memory, with their offsets |
//! | taken | in a journal group that is being written |
//! | durable | in a group that was written, or in an extent that one vouches for |
//! | filled | written to the segment; the journal still vouches for them |
//! | settled | flushed in the segment and named by a checkpoint; the journal may forget them |
//!
//! A log with `write.caching` has its appends in the write cache too until they are durable (`write_caching.rs`).
//!
//! They only ever move down this table. A page of a segment that holds settled bytes is written again only
//! while a live journal entry holds them too: the first entry of a log after a *cut* starts at the page's start.

mod appender;
mod checkpoint;
mod cleaner;
mod cleaning;
mod committer;
mod description;
mod directory;
mod filler;
mod index;
mod names;
mod pending;
mod reader;
mod recovery;
mod redo;
mod removal;
mod replacement;
mod replication;
mod restore;
mod segment;
mod size;
mod start;
mod store;
mod stores;
mod tail;
mod truncation;
mod write_caching;

pub use appender::Log;
pub use checkpoint::{from_state, key_of};
pub use cleaner::CleanerBudget;
pub use directory::{DirectoryHealth, LogDirectoryError, RunDirectory};
pub use reader::ReadOutcome;
pub use recovery::{OpenedRun, Recovery, recover};
pub use replication::{InMemory, WholeBatches};
pub use store::{Store, StoreSettings};
pub use stores::{Home, NumberedStore, OfflineDirectory, Stores};
pub use truncation::Truncated;

use logmill_state::partition::PartitionSnapshot;
use logmill_wire::ids::Offset;
use std::fmt;
use std::io;

/// What decides when a log starts a new segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`: the age of a segment's first append at which the next append starts a new one.
    pub segment_ms: i64,
    /// `write.caching`: an append may be acknowledged before it is durable, once no death of the process loses it.
    pub write_caching: bool,
}

/// Whoever is told what became of a log's appends; the partition.
pub trait Owner {
    /// Everything below `end` is durable; or, of a log with `write.caching`, in the write cache.
    fn on_durable(&self, end: Offset);

    /// The log starts at `start` from now on, and a restart would find it so.
    fn on_start(&self, start: Offset);

    /// The log directory has failed: nothing that was not durable will ever be.
    fn on_failed(&self);

    /// The partition's state after its last append.
    fn snapshot(&self) -> PartitionSnapshot;
}

/// Why a log could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogError {
    /// The disk is full; reads go on, appends may be tried again.
    NoSpace,
    /// The log directory was taken out of service, with the cause.
    DirectoryFailed(String),
    /// The disk refused an operation.
    Io(io::ErrorKind, String),
    /// Bytes below the durable end are not what was written there. They are kept as they are.
    Damaged(String),
    /// The offset is not in the log.
    OutOfRange,
    /// The log was deleted.
    Deleted,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace => f.write_str("no space is left in the log directory"),
            Self::DirectoryFailed(cause) => write!(f, "the log directory is out of service: {cause}"),
            Self::Io(_, text) => f.write_str(text),
            Self::Damaged(what) => write!(f, "the log is damaged: {what}"),
            Self::OutOfRange => f.write_str("the offset is not in the log"),
            Self::Deleted => f.write_str("the log was deleted"),
        }
    }
}

impl std::error::Error for LogError {}

impl From<io::Error> for LogError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded {
            return Self::NoSpace;
        }
        Self::Io(error.kind(), error.to_string())
    }
}
