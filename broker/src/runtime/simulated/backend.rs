//! A shard of a simulated host, as a [`Runtime`].

use super::core::{Completion, Core, Kind, Life};
use super::disk::{Disk, Operation};
use super::file::{OpenFile, Pace, SimulatedFile};
use super::stream::{SimulatedConnection, SimulatedHandle, SimulatedListener};
use crate::runtime::{DirectoryEntry, OffloadError, OpenMode, Runtime, Volume};
use logmill_wire::ids::{MonotonicNs, ShardIndex, TimestampMs};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// One shard in one life of a simulated host. After the host's crash its operations never complete.
#[derive(Clone)]
pub struct SimulatedRuntime {
    pub(super) core: Rc<Core>,
    pub(super) life: Life,
    pub(super) place: usize,
    pub(super) shard: ShardIndex,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl SimulatedRuntime {
    /// Does something to the disk's names.
    fn names<T: 'static>(
        &self,
        operation: Operation,
        path: &Path,
        act: impl FnOnce(&mut Disk) -> io::Result<T> + 'static,
    ) -> impl Future<Output = io::Result<T>> + 'static {
        let (core, life, path) = (Rc::clone(&self.core), self.life, path.to_owned());
        async move { core.disk_deed(life, operation, &path, move |core| core.disk(life.host, act)).await }
    }
}

impl Runtime for SimulatedRuntime {
    type File = SimulatedFile;
    type Listener = SimulatedListener;
    type Connection = SimulatedConnection;
    type ConnectionHandle = SimulatedHandle;

    fn shard(&self) -> ShardIndex {
        self.shard
    }

    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.core.spawn(self.life, self.place, Box::pin(future));
    }

    fn monotonic(&self) -> MonotonicNs {
        let start = self.core.hosts.borrow()[self.life.host].monotonic_start_ns;
        MonotonicNs(start + self.core.now_ns.get())
    }

    fn wall_clock(&self) -> TimestampMs {
        self.core.wall_clock(self.life.host)
    }

    fn random_u64(&self) -> u64 {
        self.core.draw(|chance| chance.next_u64())
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        let (core, life) = (Rc::clone(&self.core), self.life);
        // Counted from the call, as on any clock.
        let until_ns = core.now_ns.get().saturating_add(nanoseconds(duration));
        async move {
            let late_ns = core.draw(|chance| chance.between(core.options.timer_late_ns));
            let delay_ns = until_ns.saturating_add(late_ns).saturating_sub(core.now_ns.get());
            let completion = Completion::new();
            let told = completion.clone();
            core.schedule(delay_ns, Kind::Timer, Some(life), move |_| told.complete(()));
            completion.await;
        }
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        let (core, place) = (Rc::clone(&self.core), self.place);
        async move {
            let mut has_yielded = false;
            std::future::poll_fn(|context| {
                if std::mem::replace(&mut has_yielded, true) {
                    return Poll::Ready(());
                }
                core.wake_last(place, context.waker().clone());
                Poll::Pending
            })
            .await;
        }
    }

    fn wake_others(&self) {
        // Time stands still while a task runs.
    }

    fn should_yield(&self) -> bool {
        let left = self.core.budget.get();
        self.core.budget.set(left.saturating_sub(1));
        left == 0
    }

    fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, OffloadError>> + 'static {
        let (core, life) = (Rc::clone(&self.core), self.life);
        async move {
            if core.draw(|chance| chance.hit(core.options.offload_busy)) {
                return Err(OffloadError::Busy);
            }
            let completion = Completion::new();
            let told = completion.clone();
            let delay_ns = core.draw(|chance| chance.between(core.options.offload_ns));
            core.schedule(delay_ns, Kind::Offload, Some(life), move |_| {
                let outcome = catch_unwind(AssertUnwindSafe(work)).map_err(|_| OffloadError::Panicked);
                told.complete(outcome);
            });
            completion.await
        }
    }

    fn listen(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + 'static {
        let (core, life) = (Rc::clone(&self.core), self.life);
        async move {
            if !core.is_alive(life) {
                return std::future::pending().await;
            }
            let bound = core.network.borrow_mut().listen(life, address)?;
            Ok(SimulatedListener::new(core, life, bound))
        }
    }

    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Connection>> + 'static {
        let (core, life) = (Rc::clone(&self.core), self.life);
        async move {
            let completion = Completion::new();
            let deadline_ns = core.now_ns.get().saturating_add(nanoseconds(core.options.connect_timeout));
            core.begin_connect(life, address, deadline_ns, completion.clone());
            let end = completion.await?;
            Ok(SimulatedConnection::new(core, end))
        }
    }

    #[expect(
        clippy::expect_used,
        reason = "a handle has its end until it is adopted, and adopting consumes it"
    )]
    fn adopt(&self, handle: Self::ConnectionHandle) -> Self::Connection {
        SimulatedConnection::new(Rc::clone(&self.core), handle.take().expect("the handle has its end"))
    }

    fn release(&self, connection: Self::Connection) -> Result<Self::ConnectionHandle, Self::Connection> {
        connection.release()
    }

    fn open(&self, path: &Path, mode: OpenMode) -> impl Future<Output = io::Result<Self::File>> + 'static {
        let (core, life, path) = (Rc::clone(&self.core), self.life, path.to_owned());
        async move {
            let at = path.clone();
            core.disk_deed(life, Operation::Open, &at, move |core| {
                let node = core.disk(life.host, |disk| disk.open(&path, mode))?;
                let is_writable = mode != OpenMode::Read;
                Ok(SimulatedFile(Rc::new(OpenFile::new(Rc::clone(core), life, node, path, is_writable))))
            })
            .await
        }
    }

    fn create_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let at = path.to_owned();
        self.names(Operation::Names, path, move |disk| disk.create_directory(&at))
    }

    fn read_directory(&self, path: &Path) -> impl Future<Output = io::Result<Vec<DirectoryEntry>>> + 'static {
        let at = path.to_owned();
        self.names(Operation::Names, path, move |disk| disk.read_directory(&at))
    }

    fn volume(&self, directory: &Path) -> impl Future<Output = io::Result<Volume>> + 'static {
        let at = directory.to_owned();
        self.names(Operation::Names, directory, move |disk| disk.read_directory(&at).map(|_| disk.volume()))
    }

    fn sync_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let (core, life, path) = (Rc::clone(&self.core), self.life, path.to_owned());
        // What is done after this call is not covered.
        let horizon = core.disk(life.host, |disk| disk.tick());
        async move {
            let fault = core.disk_fault(life.host, Operation::Names, &path);
            let asked = core.disk(life.host, |disk| disk.directory_to_sync(&path));
            core.disk_event(life, Kind::Flush, Pace::Flush, move |core| {
                fault?;
                let node = asked?;
                core.disk(life.host, |disk| disk.sync_directory(node, horizon));
                Ok(())
            })
            .await
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let (old, new) = (from.to_owned(), to.to_owned());
        self.names(Operation::Names, from, move |disk| disk.rename(&old, &new))
    }

    fn remove_file(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let at = path.to_owned();
        self.names(Operation::Names, path, move |disk| disk.remove_file(&at))
    }

    fn remove_directory(&self, path: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let at = path.to_owned();
        self.names(Operation::Names, path, move |disk| disk.remove_directory(&at))
    }
}
