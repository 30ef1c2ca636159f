//! The broker's runtime interface on glommio 0.9, so that the whole broker runs on either runtime and both are
//! measured under the same load.
//!
//! | file | what it holds |
//! |---|---|
//! | `file` | direct files; memory is copied, because glommio reads and writes only buffers of its own |
//! | `socket` | listeners and connections |
//! | `start` | executors, threads, and what ends the process |
//!
//! What glommio has no counterpart for is in `README.md`.

mod file;
mod socket;
mod start;

pub use file::GlommioFile;
pub use socket::{GlommioConnection, GlommioConnectionHandle, GlommioListener};
pub use start::{StartError, block_on};

use glommio::timer::Timer;
use glommio::{GlommioError, TaskQueueHandle};
use logmill::runtime::uring::machine;
use logmill::runtime::{DirectoryEntry, OffloadError, OpenMode, Runtime, Volume};
use logmill_wire::ids::{MonotonicNs, ShardIndex, TimestampMs};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// The runtime of one shard.
#[derive(Clone)]
pub struct GlommioRuntime(Rc<Shard>);

struct Shard {
    index: ShardIndex,
    queue: TaskQueueHandle,
    random: RefCell<Randomness>,
    devices: RefCell<file::ProbedDevices>,
}

/// The error of the system call itself, which glommio wraps.
fn plain<T>(error: GlommioError<T>) -> io::Error {
    match error {
        GlommioError::IoError(error) | GlommioError::EnhancedIoError { source: error, .. } => error,
        other => other.into(),
    }
}

impl GlommioRuntime {
    /// The runtime of the executor that runs on this thread.
    fn of_this_executor(index: ShardIndex) -> Self {
        let queue = glommio::executor().current_task_queue();
        let shard = Shard { index, queue, random: RefCell::default(), devices: RefCell::default() };
        let runtime = Self(Rc::new(shard));
        runtime.spawn(start::keep_awake());
        runtime
    }
}

/// Runs a blocking call on a thread of glommio's.
async fn block<T: Send + 'static>(call: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    glommio::executor().spawn_blocking(call).await
}

async fn yield_now() {
    glommio::executor().yield_now().await;
}

async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OffloadError> {
    let work = move || catch_unwind(AssertUnwindSafe(work)).map_err(drop);
    glommio::executor().spawn_blocking(work).await.map_err(|()| OffloadError::Panicked)
}

impl Runtime for GlommioRuntime {
    type File = GlommioFile;
    type Listener = GlommioListener;
    type Connection = GlommioConnection;
    type ConnectionHandle = GlommioConnectionHandle;

    fn shard(&self) -> ShardIndex {
        self.0.index
    }

    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        // Not `spawn_local`, which polls the task at once, while the spawning one may have something borrowed.
        match glommio::spawn_local_into(start::or_die(future), self.0.queue) {
            Ok(task) => drop(task.detach()),
            Err(error) => start::die(&format!("shard {}: {error}", self.0.index)),
        }
    }

    fn monotonic(&self) -> MonotonicNs {
        machine::monotonic()
    }

    fn wall_clock(&self) -> TimestampMs {
        machine::wall()
    }

    fn random_u64(&self) -> u64 {
        self.0.random.borrow_mut().next()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        let timer = Timer::new(duration);
        async move {
            timer.await;
        }
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        yield_now()
    }

    fn wake_others(&self) {
        // A waker of another executor acts at once.
    }

    fn should_yield(&self) -> bool {
        glommio::executor().need_preempt()
    }

    fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, OffloadError>> + 'static {
        offload(work)
    }

    fn listen(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + 'static {
        std::future::ready(GlommioListener::bind(address))
    }

    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Connection>> + 'static {
        GlommioConnection::connect(address)
    }

    fn adopt(&self, handle: Self::ConnectionHandle) -> Self::Connection {
        GlommioConnection::adopt(handle)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> impl Future<Output = io::Result<Self::File>> + 'static {
        GlommioFile::open(Rc::clone(&self.0), path.to_owned(), mode)
    }

    fn create_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let path = path.to_owned();
        block(move || std::fs::create_dir_all(path))
    }

    fn read_directory(&self, path: &Path) -> impl Future<Output = io::Result<Vec<DirectoryEntry>>> + 'static {
        let path = path.to_owned();
        block(move || machine::list(&path))
    }

    fn volume(&self, directory: &Path) -> impl Future<Output = io::Result<Volume>> + 'static {
        let path = directory.to_owned();
        block(move || machine::volume(&path))
    }

    fn sync_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let path = path.to_owned();
        async move {
            let directory = glommio::io::Directory::open(path).await.map_err(plain)?;
            directory.sync().await.map_err(plain)?;
            directory.close().await.map_err(plain)
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let (from, to) = (from.to_owned(), to.to_owned());
        async move { glommio::io::rename(from, to).await.map_err(plain) }
    }

    fn remove_file(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let path = path.to_owned();
        async move { glommio::io::remove(path).await.map_err(plain) }
    }

    fn remove_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let path = path.to_owned();
        block(move || std::fs::remove_dir_all(path))
    }
}

/// Random bits from the kernel, fetched in portions.
#[derive(Default)]
struct Randomness {
    portion: Vec<u8>,
}

impl Randomness {
    const PORTION_BYTES: usize = 512;

    fn next(&mut self) -> u64 {
        if self.portion.is_empty() {
            self.portion.resize(Self::PORTION_BYTES, 0);
            if let Err(error) = machine::fill_random(&mut self.portion) {
                start::die(&format!("the kernel's random source failed: {error}"));
            }
        }
        let rest = self.portion.len() - size_of::<u64>();
        let mut bytes = [0; size_of::<u64>()];
        bytes.copy_from_slice(&self.portion[rest..]);
        self.portion.truncate(rest);
        u64::from_ne_bytes(bytes)
    }
}
