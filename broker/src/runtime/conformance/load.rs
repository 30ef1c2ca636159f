//! Mixed load on every shard, for backends with more shards than processors.

use super::files::pages;
use super::{About, Verdict};
use crate::runtime::mailbox::Endpoint;
use crate::runtime::{Connection, Durability, File, Listener, OpenMode, Runtime};
use bytes::{Bytes, BytesMut};
use logmill_wire::ids::ShardIndex;
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// What got done on one shard, to see that every kind of load really ran.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Turns of tasks that use up their share of the processor.
    pub burns: u64,
    /// Answers over a connection of the shard with itself.
    pub echoes: u64,
    /// Writes of a page.
    pub writes: u64,
    /// Messages from the shard before.
    pub messages: u64,
    /// Measurements.
    pub waits: u64,
    /// The longest that a runnable task waited while its thread ran something else, in nanoseconds of the thread's time.
    pub worst_ns: u64,
}

impl Done {
    /// How often the rarest kind of work was done.
    #[must_use]
    pub fn least(&self) -> u64 {
        self.burns.min(self.echoes).min(self.writes).min(self.messages).min(self.waits)
    }
}

type Counter = Rc<Cell<Done>>;

/// What shards say to each other: that they run, and then the load.
const HERE: u64 = 0;
const LOAD: u64 = 1;

/// Puts `duration` of mixed load on a shard, from when all shards run. `endpoint` is the shard's own, of a mesh of `shards`
/// shards, which all run this; its file is made in `directory`. A task that fails ends, and its count stands still.
///
/// # Errors
/// If some kind of load could not be started, in words.
pub async fn mixed_load<R: Runtime>(
    runtime: R,
    endpoint: Endpoint<u64>,
    shards: u16,
    directory: PathBuf,
    duration: Duration,
) -> Result<Done, String> {
    let done = Counter::default();
    until_all_run(&runtime, &endpoint, shards).await;
    start_burning(&runtime, &done);
    start_echoing(&runtime, &done).await?;
    start_writing(&runtime, &done, directory.join(runtime.shard().to_string())).await?;
    start_messaging(&runtime, &done, endpoint, shards);
    start_measuring(&runtime, &done);
    runtime.sleep(duration).await;
    Ok(done.get())
}

/// The threads of a machine under load may begin seconds apart; those that are there would have no load from the others.
async fn until_all_run(runtime: &impl Runtime, endpoint: &Endpoint<u64>, shards: u16) {
    for other in (0..shards).map(ShardIndex).filter(|other| *other != runtime.shard()) {
        endpoint.send(other, HERE).await;
    }
    let mut missing = shards - 1;
    while missing > 0 {
        missing -= u16::from(endpoint.recv().await.1 == HERE);
    }
}

fn count(done: &Counter, change: impl FnOnce(&mut Done)) {
    let mut now = done.get();
    change(&mut now);
    done.set(now);
}

/// What the calling thread has had of the CPU, in user space and in the kernel.
fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local that outlives the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(status, 0, "a thread has a clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn burn(runtime: &impl Runtime) {
    let mut sum = 0_u64;
    while !runtime.should_yield() {
        for number in 0..2000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(number));
        }
    }
}

fn start_burning(runtime: &impl Runtime, done: &Counter) {
    for _ in 0..3 {
        let (own, done) = (runtime.clone(), Rc::clone(done));
        runtime.spawn(async move {
            loop {
                burn(&own);
                count(&done, |done| done.burns += 1);
                own.yield_now().await;
            }
        });
    }
}

async fn start_echoing(runtime: &impl Runtime, done: &Counter) -> Verdict {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = runtime.listen(any_port).await.about("listen")?;
    let client = runtime.connect(listener.local_address()).await.about("connect")?;
    let (handle, _) = listener.accept().await.about("accept")?;
    let server = runtime.adopt(handle);
    runtime.spawn(async move {
        loop {
            let (Ok(1..), buffer) = server.receive(BytesMut::with_capacity(4096)).await else { return };
            if server.send(vec![buffer.freeze()]).await.is_err() {
                return;
            }
        }
    });
    let done = Rc::clone(done);
    runtime.spawn(async move {
        while client.send(vec![Bytes::from_static(&[1; 512])]).await.is_ok() {
            let (Ok(1..), _) = client.receive(BytesMut::with_capacity(4096)).await else { return };
            count(&done, |done| done.echoes += 1);
        }
    });
    Ok(())
}

async fn start_writing(runtime: &impl Runtime, done: &Counter, path: PathBuf) -> Verdict {
    let file = runtime.open(&path, OpenMode::CreateNew).await.about("open a file")?;
    let done = Rc::clone(done);
    runtime.spawn(async move {
        let page = pages(3, 1);
        while file.write(page.clone(), 0, Durability::Cached).await.is_ok() {
            count(&done, |done| done.writes += 1);
        }
    });
    Ok(())
}

fn start_messaging(runtime: &impl Runtime, done: &Counter, endpoint: Endpoint<u64>, shards: u16) {
    let endpoint = Rc::new(endpoint);
    let next = ShardIndex((runtime.shard().0 + 1) % shards);
    let (sender, own) = (Rc::clone(&endpoint), runtime.clone());
    runtime.spawn(async move {
        loop {
            sender.send(next, LOAD).await;
            own.yield_now().await;
        }
    });
    let (own, done) = (runtime.clone(), Rc::clone(done));
    runtime.spawn(async move {
        loop {
            endpoint.recv().await;
            count(&done, |done| done.messages += 1);
            if own.should_yield() {
                own.yield_now().await;
            }
        }
    });
}

/// Wakes a task, and measures how much CPU the thread spends until it runs: what it does meanwhile is something else. The CPU
/// that other threads get does not count.
fn start_measuring(runtime: &impl Runtime, done: &Counter) {
    let (own, done) = (runtime.clone(), Rc::clone(done));
    runtime.spawn(async move {
        loop {
            let became_runnable = thread_cpu_ns();
            own.yield_now().await;
            let waited = thread_cpu_ns() - became_runnable;
            count(&done, |done| {
                done.waits += 1;
                done.worst_ns = done.worst_ns.max(waited);
            });
            own.sleep(Duration::from_micros(300)).await;
        }
    });
}
