//! What the broker needs of the machine, and nothing else: tasks, time, chance, sockets and direct files.
//!
//! One value of a [`Runtime`] belongs to one shard: one thread, one executor. It is `Clone` and cheap to
//! clone, but neither `Send` nor `Sync`. Operations are in completion style: a future owns its buffers
//! until the kernel has let go of them, also when it is dropped before it has finished. Dropping a future
//! cancels the operation as far as that is possible; the buffer lives until the completion arrives.
//!
//! Two backends implement it and pass one conformance suite: [`uring`] on the real machine, and
//! [`simulated`], which is deterministic to its seed. A third needs nothing but this file, and [`threads`] to carry a node.

pub mod buffer;
pub mod conformance;
pub mod doorbell;
pub mod event;
pub mod flags;
pub mod gather;
pub mod mailbox;
pub mod oneshot;
pub mod simulated;
mod sync;
pub mod threads;
pub mod uring;

use buffer::{Chunk, ChunkView};
use bytes::{Bytes, BytesMut};
use logmill_wire::ids::{MonotonicNs, ShardIndex, TimestampMs};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a completed write promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The bytes will be read back by this machine, but a power cut may lose them until a flush.
    Cached,
    /// The bytes survive a power cut once the write has completed. Covers these bytes only: other writes to
    /// the file still need their flush.
    Durable,
}

/// How a file is opened. Always for direct I/O where the filesystem has it; see [`File::is_direct`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading; the file must exist.
    Read,
    /// For reading and writing; the file must exist.
    ReadWrite,
    /// For reading and writing; made if absent.
    Create,
    /// For reading and writing; it is an error if the file exists.
    CreateNew,
}

/// What stands in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectoryEntry {
    /// The name within its directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// The length of a file in bytes; 0 for a directory.
    pub length: u64,
}

/// The room on the filesystem that a directory lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its size, in bytes.
    pub total_bytes: u64,
    /// What this process may still take, in bytes.
    pub usable_bytes: u64,
}

/// The outcome of [`Runtime::offload`] when the work did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadError {
    /// The work panicked; nothing of it can be trusted.
    Panicked,
    /// The pool's queue is full; try again later.
    Busy,
}

/// A shard's machine.
pub trait Runtime: Clone + 'static {
    /// A file for direct I/O.
    type File: File;
    /// A socket that accepts connections.
    type Listener: Listener<Handle = Self::ConnectionHandle>;
    /// A connected byte stream.
    type Connection: Connection;
    /// A connection on its way from one shard to another.
    type ConnectionHandle: Send + 'static;

    /// The shard that this runtime drives.
    fn shard(&self) -> ShardIndex;

    /// Starts a task on this shard. A task that panics ends the process after the panic was logged: state
    /// that it shared with others can no longer be trusted.
    fn spawn(&self, future: impl Future<Output = ()> + 'static);

    /// The monotonic clock.
    fn monotonic(&self) -> MonotonicNs;

    /// The monotonic clock as it stood when the running task was last polled, or shortly after: it costs nothing, and will
    /// do for bounds of seconds.
    fn recent(&self) -> MonotonicNs {
        self.monotonic()
    }

    /// The wall clock, for timestamps only: no decision about safety may depend on it.
    fn wall_clock(&self) -> TimestampMs;

    /// 64 random bits, unpredictable to strangers on the real machine.
    fn random_u64(&self) -> u64;

    /// Waits.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static;

    /// Lets every other runnable task of the shard run first.
    fn yield_now(&self) -> impl Future<Output = ()> + 'static;

    /// Wakes the shards that were sent something now, and not when the running task next waits: for a task with
    /// long work ahead.
    fn wake_others(&self);

    /// Whether the running task has had its share of this turn (bytes and time) and should `yield_now`.
    fn should_yield(&self) -> bool;

    /// Runs CPU-heavy work on the low-priority pool.
    fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, OffloadError>> + 'static;

    /// Binds and listens; a port that another process holds is an error.
    fn listen(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + 'static;

    /// Connects.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Connection>> + 'static;

    /// Takes over a connection that a listener accepted, or another shard has given up.
    fn adopt(&self, handle: Self::ConnectionHandle) -> Self::Connection;

    /// Gives up a connection of which nothing is under way, for another shard to adopt it.
    ///
    /// # Errors
    /// The connection, as it was, if there are other clones of it, or something of it is under way, or this machine
    /// cannot move connections.
    fn release(&self, connection: Self::Connection) -> Result<Self::ConnectionHandle, Self::Connection> {
        Err(connection)
    }

    /// Opens a file. The directory entry of a new file is durable only after [`Runtime::sync_directory`].
    fn open(&self, path: &Path, mode: OpenMode) -> impl Future<Output = io::Result<Self::File>> + 'static;

    /// Makes a directory and its missing parents; no error if it exists.
    fn create_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static;

    /// What stands in a directory, in the order of names.
    fn read_directory(&self, path: &Path) -> impl Future<Output = io::Result<Vec<DirectoryEntry>>> + 'static;

    /// How much room there is on the filesystem that a directory lies on.
    fn volume(&self, directory: &Path) -> impl Future<Output = io::Result<Volume>> + 'static;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static;

    /// Renames a file or directory, replacing a file of the new name at once or not at all.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> + 'static;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static;

    /// Removes a directory with all that is in it.
    fn remove_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static;
}

/// A file for direct I/O. Positions, lengths and memory are multiples of
/// [`PAGE_BYTES`](logmill_wire::limits::PAGE_BYTES), except for [`File::set_length`].
pub trait File: 'static {
    /// See [`File::map`].
    type Mapping: Mapping;

    /// Whether the page cache is bypassed. Where it is not, a durable write is a write and a data sync.
    fn is_direct(&self) -> bool;

    /// Reads into the free room of `chunk` (at most `length` bytes, a multiple of the page) and appends what
    /// was read to its written part. Returns the number of bytes; fewer than asked for only at the end of the file.
    fn read(
        &self,
        chunk: Chunk,
        position: u64,
        length: usize,
    ) -> impl Future<Output = (io::Result<usize>, Chunk)> + 'static;

    /// Writes all of `data`. Writes under way together must not overlap: the machine may apply them in
    /// either order.
    fn write(
        &self,
        data: ChunkView,
        position: u64,
        durability: Durability,
    ) -> impl Future<Output = io::Result<()>> + 'static;

    /// Makes every write that had *completed* before the call durable, and the file's length with it. After
    /// an error nothing may be assumed of any of them.
    fn flush(&self) -> impl Future<Output = io::Result<()>> + 'static;

    /// Takes space that reads as zeros until it is written, and extends the length to cover it.
    fn allocate(&self, position: u64, length: u64) -> impl Future<Output = io::Result<()>> + 'static;

    /// Cuts or extends to exactly `length` bytes.
    fn set_length(&self, length: u64) -> impl Future<Output = io::Result<()>> + 'static;

    /// The length in bytes.
    fn length(&self) -> impl Future<Output = io::Result<u64>> + 'static;

    /// When the file was last written or made longer or shorter, by the wall clock.
    fn modified(&self) -> impl Future<Output = io::Result<TimestampMs>> + 'static;

    /// Maps the first `bytes` of the file for writing. They must have been allocated, and nobody may write them in
    /// another way or cut the file while it is mapped: the machine ends a process that writes where no file is.
    ///
    /// # Errors
    /// If the filesystem cannot map the file, or the file is shorter.
    fn map(&self, bytes: usize) -> io::Result<Self::Mapping>;
}

/// The first bytes of a file in memory. What was written outlives the process, whatever ends it, and is read back
/// through any handle; a power cut may lose any page of it.
pub trait Mapping: 'static {
    /// How many bytes are mapped.
    fn len(&self) -> usize;

    /// Whether nothing is mapped.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes `bytes` at `position`.
    ///
    /// # Panics
    /// If they do not lie within what is mapped.
    fn write(&self, position: usize, bytes: &[u8]);
}

/// A socket that accepts connections.
pub trait Listener: 'static {
    /// What an accepted connection is until a shard adopts it.
    type Handle: Send + 'static;

    /// The next connection and its peer's address.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Handle, SocketAddr)>> + 'static;

    /// The address that is bound, with the port that the machine chose if 0 was asked for.
    fn local_address(&self) -> SocketAddr;
}

/// A connected byte stream. One receive and one send may be under way together, not two of either. A clone is the same stream.
pub trait Connection: Clone + 'static {
    /// Receives at most `capacity - len` bytes of `buffer` and appends them. 0 bytes: the peer has finished.
    /// Dropped under way it may lose bytes that arrive until its cancellation has taken effect, so one who
    /// wants to go on with the stream waits for the receive, or ends it by [`Connection::shutdown`].
    fn receive(&self, buffer: BytesMut) -> impl Future<Output = (io::Result<usize>, BytesMut)> + 'static;

    /// Sends all of `parts` in their order, without copying them. Dropped under way, any part of them may
    /// have been sent, so the stream must then be shut down.
    fn send(&self, parts: Vec<Bytes>) -> impl Future<Output = io::Result<()>> + 'static;

    /// Ends both directions: operations under way complete with an error or with 0 bytes.
    fn shutdown(&self);
}

/// Joins a directory and a name.
#[must_use]
pub fn child(directory: &Path, name: &str) -> PathBuf {
    directory.join(name)
}
