//! The real machine: one thread, one ring, one executor per shard.
//!
//! | file | what it holds |
//! |---|---|
//! | `ring`, `operation` | operations under way and all memory that is lent to the kernel |
//! | `executor`, `task`, `timers`, `future` | a shard's turn, its tasks, its timers, the futures on them |
//! | `file`, `socket`, `offload` | what the broker sees of it |
//! | `mapping` | files in memory |
//! | `kick` | waking a shard that sleeps |
//! | `start`, `probe` | threads, rings, and why one cannot be had |
//! | `clock`, `system` | clocks and a few system calls |

mod clock;
mod executor;
mod file;
mod future;
mod kick;
mod mapping;
mod offload;
mod operation;
mod probe;
mod ring;
mod socket;
mod start;
mod system;
mod task;
#[cfg(test)]
mod tests;
mod timers;

pub use executor::ShardStats;
pub use file::UringFile;
pub use mapping::UringMapping;
pub use probe::{Features, KERNEL_MIN, StartError};
pub use socket::{UringConnection, UringConnectionHandle, UringListener};
pub use start::{Options, ShardThreads, block_on};

/// What every backend on a real machine does in the same way, whatever drives it.
pub mod machine {
    pub use super::clock::{monotonic, wall};
    pub use super::file::list;
    pub use super::system::{fill_random, volume};
}

use super::{DirectoryEntry, OffloadError, OpenMode, Runtime, Volume};
use executor::{POLL_NS_MAX, Shard, YieldNow};
use future::Sleep;
use logmill_wire::ids::{MonotonicNs, ShardIndex, TimestampMs};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Until a blocking call that found the queue full is offered again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(1);

/// The runtime of one shard on the real machine.
#[derive(Clone)]
pub struct UringRuntime(Rc<Shard>);

impl UringRuntime {
    /// The shard's counters; they may be read on any thread.
    #[must_use]
    pub fn stats(&self) -> Arc<ShardStats> {
        Arc::clone(&self.0.parts.stats)
    }

    /// What the kernel offers beyond what is needed.
    #[must_use]
    pub fn features(&self) -> Features {
        self.0.features
    }

    /// Runs a blocking call on a thread of its own kind, behind those that wait already.
    async fn block<T: Send + 'static>(
        self,
        mut call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        loop {
            match self.0.parts.blocking.submit(call) {
                Ok(result) => {
                    return result.await.map_err(|_| io::Error::other("a blocking call panicked"))?;
                }
                Err(refused) => call = refused,
            }
            self.sleep(FULL_QUEUE_PAUSE).await;
        }
    }
}

impl Runtime for UringRuntime {
    type File = UringFile;
    type Listener = UringListener;
    type Connection = UringConnection;
    type ConnectionHandle = UringConnectionHandle;

    fn shard(&self) -> ShardIndex {
        self.0.parts.shard
    }

    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.0.spawn(future);
    }

    fn monotonic(&self) -> MonotonicNs {
        clock::monotonic()
    }

    fn recent(&self) -> MonotonicNs {
        self.0.poll_began()
    }

    fn wall_clock(&self) -> TimestampMs {
        clock::wall()
    }

    fn random_u64(&self) -> u64 {
        self.0.random_u64()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // No time at all has passed already.
        let now = if duration_ns == 0 { MonotonicNs(0) } else { clock::monotonic() };
        Sleep::new(&self.0, now.plus_ns(duration_ns))
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        YieldNow::default()
    }

    fn wake_others(&self) {
        self.0.wake_others();
    }

    fn should_yield(&self) -> bool {
        self.0.poll_ns() > POLL_NS_MAX
    }

    fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, OffloadError>> + 'static {
        let submitted = self.0.parts.offload.submit(work);
        async move { submitted.map_err(|_| OffloadError::Busy)?.await.map_err(|_| OffloadError::Panicked) }
    }

    fn listen(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + 'static {
        std::future::ready(UringListener::bind(&self.0, address))
    }

    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Connection>> + 'static {
        self.clone().connect_to(address)
    }

    fn adopt(&self, handle: Self::ConnectionHandle) -> Self::Connection {
        UringConnection::adopt(&self.0, handle)
    }

    fn release(&self, connection: Self::Connection) -> Result<Self::ConnectionHandle, Self::Connection> {
        connection.release()
    }

    fn open(&self, path: &Path, mode: OpenMode) -> impl Future<Output = io::Result<Self::File>> + 'static {
        self.clone().open_file(path.to_owned(), mode)
    }

    fn create_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let path = path.to_owned();
        self.clone().block(move || std::fs::create_dir_all(path))
    }

    fn read_directory(&self, path: &Path) -> impl Future<Output = io::Result<Vec<DirectoryEntry>>> + 'static {
        let path = path.to_owned();
        self.clone().block(move || file::list(&path))
    }

    fn sync_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        self.clone().sync_names(path.to_owned())
    }

    fn volume(&self, directory: &Path) -> impl Future<Output = io::Result<Volume>> + 'static {
        let path = directory.to_owned();
        self.clone().block(move || system::volume(&path))
    }

    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        self.clone().rename_path(from.to_owned(), to.to_owned())
    }

    fn remove_file(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        self.clone().unlink(path.to_owned())
    }

    fn remove_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let path = path.to_owned();
        self.clone().block(move || std::fs::remove_dir_all(path))
    }
}
