//! Executors: one on the calling thread, or one for each shard of a node.

use crate::GlommioRuntime;
use glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use logmill::runtime::threads::ThreadedRuntime;
use logmill_wire::ids::ShardIndex;
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Time between two looks at the rings, the same as that of the broker's own runtime. glommio's default of 100 ms would
/// let whatever comes from sockets, disks and other shards wait that long behind tasks that have something to do.
const PREEMPT_AFTER: Duration = Duration::from_micros(500);

/// How long an executor may sleep on its runnable tasks. When something reaches its latency ring, a wake-up by another
/// shard or the end of its turn, just before it looks at its task queues, glommio 0.9.0 takes "not now" for "nothing to
/// run" and sleeps until something else happens: without a timer a fetch stood still for ten seconds.
const SLEEP_MAX: Duration = Duration::from_millis(5);

/// Threads of each executor for blocking calls and offloaded work.
const BLOCKING_THREADS: usize = 2;

/// Memory for direct I/O of an executor by itself. It counts three times, once for each ring, against what may be locked;
/// what does not fit is allocated as it is needed.
const SMALL_IO_MEMORY_BYTES: usize = 512 << 10;

/// Why an executor could not be started.
#[derive(Debug)]
pub enum StartError {
    /// glommio's own reason.
    Executor(GlommioError<()>),
    /// A thread could not be had.
    Thread(std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Executor(error) => write!(f, "a glommio executor cannot be made: {error}"),
            Self::Thread(error) => {
                write!(f, "a shard's thread cannot be started: {error}; raise the limit on threads")
            }
        }
    }
}

impl std::error::Error for StartError {}

fn builder(placement: Placement) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(placement)
        .preempt_timer(PREEMPT_AFTER)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
}

/// Runs one shard on the calling thread until `main` has ended, and returns what it yields: for tests.
///
/// # Errors
/// Why there is no executor.
pub fn block_on<T: 'static, F: Future<Output = T> + 'static>(
    main: impl FnOnce(GlommioRuntime) -> F,
) -> Result<T, StartError> {
    let executor =
        builder(Placement::Unbound).io_memory(SMALL_IO_MEMORY_BYTES).make().map_err(StartError::Executor)?;
    Ok(executor.run(async move { main(GlommioRuntime::of_this_executor(ShardIndex(0))).await }))
}

/// What a new thread waits for before it runs its `main`: that all others have their executors, too.
struct Begin {
    ready: mpsc::Sender<Result<(), StartError>>,
    go: mpsc::Receiver<()>,
}

impl ThreadedRuntime for GlommioRuntime {
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
        let (ready, readiness) = mpsc::channel();
        let (mut threads, mut signals) = (Vec::new(), Vec::new());
        let shards = seeds.len();
        for (index, seed) in seeds.into_iter().chain(control).enumerate() {
            let is_control = index == shards;
            let name = if is_control { "control".to_owned() } else { format!("shard-{index}") };
            let core = cores.get(index).copied().filter(|_| !is_control);
            let shard = ShardIndex(u16::try_from(index).unwrap_or(u16::MAX));
            let (signal, go) = mpsc::channel();
            let begin = Begin { ready: ready.clone(), go };
            let main = main.clone();
            let thread = thread::Builder::new()
                .name(name)
                .spawn(move || run_thread(shard, core, &begin, |runtime| main(runtime, seed)))
                .map_err(StartError::Thread)?;
            threads.push(thread);
            signals.push(signal);
        }
        drop(ready);
        for result in readiness.iter().take(threads.len()) {
            result?;
        }
        for signal in signals {
            // A thread that is gone shows when it is joined.
            let _ = signal.send(());
        }
        for thread in threads {
            if thread.join().is_err() {
                die("a shard's thread panicked outside of its tasks");
            }
        }
        Ok(())
    }
}

fn run_thread<F: Future<Output = ()> + 'static>(
    shard: ShardIndex,
    core: Option<usize>,
    begin: &Begin,
    main: impl FnOnce(GlommioRuntime) -> F,
) {
    let executor: LocalExecutor = match builder(core.map_or(Placement::Unbound, Placement::Fixed)).make() {
        Ok(executor) => executor,
        Err(error) => {
            let _ = begin.ready.send(Err(StartError::Executor(error)));
            return;
        }
    };
    let _ = begin.ready.send(Ok(()));
    if begin.go.recv().is_ok() {
        executor.run(or_die(async move { main(GlommioRuntime::of_this_executor(shard)).await }));
    }
}

/// Ends every sleep of the executor after a while.
pub(crate) async fn keep_awake() {
    loop {
        glommio::timer::sleep(SLEEP_MAX).await;
    }
}

/// Runs a task; a panic of it ends the process after it was logged.
pub(crate) async fn or_die(task: impl Future<Output = ()>) {
    let mut task = pin!(task);
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
        Ok(polled) => polled,
        Err(panic) => die(&format!(
            "a task panicked, and what it shared can no longer be trusted: {}",
            panic_text(panic.as_ref())
        )),
    })
    .await;
}

/// Ends the process: the log first, then standard error itself, which nobody buffers.
pub(crate) fn die(text: &str) -> ! {
    tracing::error!("{text}");
    let _ = writeln!(std::io::stderr(), "{text}");
    std::process::abort()
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
