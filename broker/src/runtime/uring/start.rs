//! Starting shards: a thread each, with its ring, on its processor.

use super::executor::{Shard, ShardParts, ShardStats, die, panic_text};
use super::offload::Pool;
use super::probe::{Features, StartError};
use super::{UringRuntime, executor, system};
use crate::runtime::threads::ThreadedRuntime;
use logmill_wire::ids::ShardIndex;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread;

/// Threads for directory operations, which block on the disk.
const BLOCKING_THREADS: usize = 2;

/// How far below the shards offloaded work runs.
const OFFLOAD_NICE: i32 = 10;

/// How shards are started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The processors that shards are pinned to, the first shard to the first; shards beyond them stay unpinned.
    pub cores: Vec<usize>,
    /// Low-priority threads for CPU-heavy work, shared by all shards.
    pub offload_threads: usize,
    /// Whether shards wake each other through their rings, where the kernel can; otherwise eventfds serve.
    pub wake_by_ring: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { cores: Vec::new(), offload_threads: 2, wake_by_ring: true }
    }
}

/// What all shards share.
struct Common {
    offload: Arc<Pool>,
    blocking: Arc<Pool>,
    workers: Option<libc::cpu_set_t>,
    wake_by_ring: bool,
}

impl Common {
    fn new(options: &Options) -> Result<Self, StartError> {
        let pool = |name, threads, nice| {
            Pool::new(name, threads, nice)
                .map_err(|error| StartError::Other("starting threads for offloaded work", error))
        };
        Ok(Self {
            offload: pool("offload", options.offload_threads, OFFLOAD_NICE)?,
            blocking: pool("blocking", BLOCKING_THREADS, 0)?,
            // Asked here, because a thread that is pinned sees no other processors.
            workers: if options.cores.is_empty() { None } else { system::processors_except(&options.cores) },
            wake_by_ring: options.wake_by_ring,
        })
    }

    fn parts(&self, shard: ShardIndex, stats: &Arc<ShardStats>) -> ShardParts {
        ShardParts {
            shard,
            stats: Arc::clone(stats),
            offload: Arc::clone(&self.offload),
            blocking: Arc::clone(&self.blocking),
            workers: self.workers,
            wake_by_ring: self.wake_by_ring,
        }
    }
}

/// The running threads of a broker's shards.
pub struct ShardThreads {
    threads: Vec<thread::JoinHandle<()>>,
    stats: Vec<Arc<ShardStats>>,
    features: Features,
}

/// What a new thread waits for before it runs its `main`: that all others have their rings, too.
struct Begin {
    ready: mpsc::Sender<Result<Features, StartError>>,
    go: mpsc::Receiver<()>,
}

impl ShardThreads {
    /// Starts a shard for each seed and, if there is a seed for it, the unpinned control shard, whose index
    /// follows those of the others. Each runs `main` with its own runtime and seed, once all of them have a
    /// ring; if one cannot have it, none runs.
    ///
    /// A panic of `main`, or of any task, ends the process after it was logged.
    ///
    /// # Errors
    /// Why a ring, or a thread, could not be had.
    pub fn start<S, M, F>(
        options: &Options,
        seeds: Vec<S>,
        control: Option<S>,
        main: M,
    ) -> Result<Self, StartError>
    where
        S: Send + 'static,
        M: Fn(UringRuntime, S) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let common = Common::new(options)?;
        let (ready, readiness) = mpsc::channel();
        let (mut threads, mut stats, mut signals) = (Vec::new(), Vec::new(), Vec::new());
        let shards = seeds.len();
        for (index, seed) in seeds.into_iter().chain(control).enumerate() {
            let is_control = index == shards;
            let name = if is_control { "control".to_owned() } else { format!("shard-{index}") };
            let core = options.cores.get(index).copied().filter(|_| !is_control);
            let own_stats = Arc::<ShardStats>::default();
            let shard = ShardIndex(u16::try_from(index).unwrap_or(u16::MAX));
            let parts = common.parts(shard, &own_stats);
            let (signal, go) = mpsc::channel();
            let begin = Begin { ready: ready.clone(), go };
            let main = main.clone();
            let thread = thread::Builder::new()
                .name(name)
                .spawn(move || run_thread(parts, core, &begin, |runtime| main(runtime, seed)))
                .map_err(|error| StartError::Other("starting a shard's thread", error))?;
            threads.push(thread);
            stats.push(own_stats);
            signals.push(signal);
        }
        drop(ready);
        let mut features = None;
        for result in readiness.iter().take(threads.len()) {
            features = Some(result?);
        }
        for signal in signals {
            // A thread that is gone shows when it is joined.
            let _ = signal.send(());
        }
        let nothing = || StartError::Other("starting shards", std::io::ErrorKind::InvalidInput.into());
        Ok(Self { threads, stats, features: features.ok_or_else(nothing)? })
    }

    /// The counters of each shard, the control shard's last.
    #[must_use]
    pub fn stats(&self) -> &[Arc<ShardStats>] {
        &self.stats
    }

    /// What the kernel offers beyond what is needed.
    #[must_use]
    pub const fn features(&self) -> Features {
        self.features
    }

    /// Waits until every shard's `main` has returned.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                die("a shard's thread panicked outside of its tasks");
            }
        }
    }
}

impl ThreadedRuntime for UringRuntime {
    type StartError = StartError;

    fn run_shards<S, M, F>(
        cores: Vec<usize>,
        seeds: Vec<S>,
        control: Option<S>,
        main: M,
    ) -> Result<(), StartError>
    where
        S: Send + 'static,
        M: Fn(Self, S) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let threads = ShardThreads::start(&Options { cores, ..Options::default() }, seeds, control, main)?;
        let stats = threads.stats().to_vec();
        threads.join();
        for (shard, stats) in stats.iter().enumerate() {
            let longest_poll_us = stats.longest_poll_ns.load(Ordering::Relaxed) / 1000;
            let (polls, sleeps) = (stats.polls.load(Ordering::Relaxed), stats.sleeps.load(Ordering::Relaxed));
            tracing::info!(shard, longest_poll_us, polls, sleeps, "a shard has ended");
        }
        Ok(())
    }
}

fn run_thread<F: Future<Output = ()> + 'static>(
    parts: ShardParts,
    core: Option<usize>,
    begin: &Begin,
    main: impl FnOnce(UringRuntime) -> F,
) {
    let index = parts.shard;
    if let Some(id) = core
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        tracing::warn!(shard = %index, core = id, "the shard could not be pinned to its processor");
    }
    let shard = match Shard::new(parts) {
        Ok(shard) => shard,
        Err(error) => {
            let _ = begin.ready.send(Err(error));
            return;
        }
    };
    let _ = begin.ready.send(Ok(shard.features));
    if begin.go.recv().is_err() {
        // Another shard could not be started.
        shard.run(&Cell::new(true));
        return;
    }
    if let Err(panic) = run_main(&shard, main) {
        die(&format!("shard {index}: panicked: {}", panic_text(panic.as_ref())));
    }
}

/// A future that hands a panic on as a value.
struct Caught<F>(F);

impl<F: Future + Unpin> Future for Caught<F> {
    type Output = thread::Result<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut self.0).poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// Runs the shard until `main` has ended; all other tasks are dropped then.
fn run_main<T: 'static, F: Future<Output = T> + 'static>(
    shard: &Rc<Shard>,
    main: impl FnOnce(UringRuntime) -> F,
) -> Result<T, Box<dyn Any + Send>> {
    let future = match catch_unwind(AssertUnwindSafe(|| main(UringRuntime(Rc::clone(shard))))) {
        Ok(future) => future,
        Err(panic) => {
            shard.run(&Cell::new(true));
            return Err(panic);
        }
    };
    let (done, output) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(None)));
    let (finished, place) = (Rc::clone(&done), Rc::clone(&output));
    shard.spawn(async move {
        let result = Caught(pin!(future)).await;
        *place.borrow_mut() = Some(result);
        finished.set(true);
    });
    shard.run(&done);
    let result = output.borrow_mut().take();
    result.unwrap_or_else(|| Err(Box::new("the shard ended before its main task")))
}

/// Runs one shard on the calling thread until `main` has ended, and returns what it yields: for tools and
/// tests. All other tasks are dropped then.
///
/// # Errors
/// Why a ring could not be had.
///
/// # Panics
/// If `main` panics. The panic of another task ends the process.
pub fn block_on<T, F>(main: impl FnOnce(UringRuntime) -> F) -> Result<T, StartError>
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let common = Common::new(&Options::default())?;
    let shard = executor::Shard::new(common.parts(ShardIndex(0), &Arc::default()))?;
    match run_main(&shard, main) {
        Ok(value) => Ok(value),
        Err(panic) => resume_unwind(panic),
    }
}
