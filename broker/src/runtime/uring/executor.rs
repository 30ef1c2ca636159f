//! One shard's turn: run what is runnable for a bounded time, enter the ring once, take in completions and
//! timers, and start over; with nothing runnable the thread sleeps in that one enter.

use super::clock;
use super::kick::{Kicker, RingKick};
use super::offload::Pool;
use super::probe::{self, Features, StartError};
use super::ring::{Reaped, Ring, Wait};
use super::task::{self, Hub, Tasks};
use super::timers::Timers;
use crate::runtime::doorbell::Doorbell;
use logmill_wire::ids::{MonotonicNs, ShardIndex};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Polls between two looks at the ring.
const RUN_POLLS_MAX: usize = 128;

/// Time between two looks at the ring, as far as polls are short.
const RUN_NS_MAX: u64 = 500_000;

/// What one poll may take before `should_yield` says so.
pub(super) const POLL_NS_MAX: u64 = 500_000;

/// Counters of one shard, for metrics; written by the shard alone, read by anybody.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Polls of tasks.
    pub polls: AtomicU64,
    /// Turns of the loop.
    pub turns: AtomicU64,
    /// Calls of `io_uring_enter` by turns.
    pub enters: AtomicU64,
    /// Turns that slept until something happened.
    pub sleeps: AtomicU64,
    /// Other shards that were woken.
    pub kicks: AtomicU64,
    /// Nanoseconds of the longest poll so far.
    pub longest_poll_ns: AtomicU64,
}

impl ShardStats {
    fn add(counter: &AtomicU64, count: u64) {
        // One writer: a load and a store do without a locked instruction.
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }
}

/// What a shard is made with.
pub(super) struct ShardParts {
    pub(super) shard: ShardIndex,
    pub(super) stats: Arc<ShardStats>,
    /// For CPU-heavy work, at low priority.
    pub(super) offload: Arc<Pool>,
    /// For the few blocking calls that rings do not offer.
    pub(super) blocking: Arc<Pool>,
    /// The processors for the ring's kernel threads, if there are some that belong to no shard.
    pub(super) workers: Option<libc::cpu_set_t>,
    /// Whether to wake other shards through the ring where the kernel can.
    pub(super) wake_by_ring: bool,
}

/// A shard: everything that its thread owns.
pub(super) struct Shard {
    pub(super) parts: ShardParts,
    pub(super) features: Features,
    hub: Arc<Hub>,
    // Declared before the ring: tasks are gone when it is dropped.
    tasks: RefCell<Tasks>,
    pub(super) timers: RefCell<Timers>,
    pub(super) ring: RefCell<Ring>,
    poll_began: Cell<MonotonicNs>,
    random: RefCell<Randomness>,
}

impl Shard {
    /// Makes a ring on the calling thread, which from now on is the shard's.
    pub(super) fn new(parts: ShardParts) -> Result<Rc<Self>, StartError> {
        let (uring, features) = probe::new_ring(parts.workers.as_ref())?;
        let kick =
            RingKick::new(&uring).map_err(|error| StartError::Other("making the shard's eventfd", error))?;
        let hub = Hub::new(Doorbell::new(Arc::new(Kicker(Arc::clone(&kick)))));
        task::enter(&hub, features.ring_messages && parts.wake_by_ring);
        Ok(Rc::new(Self {
            parts,
            features,
            hub,
            tasks: RefCell::default(),
            timers: RefCell::default(),
            ring: RefCell::new(Ring::new(uring, features, kick)),
            poll_began: Cell::new(clock::monotonic()),
            random: RefCell::default(),
        }))
    }

    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().insert(Box::pin(future), &self.hub);
    }

    /// Nanoseconds since the running poll began.
    pub(super) fn poll_ns(&self) -> u64 {
        clock::monotonic().since(self.poll_began.get())
    }

    /// When the running poll began.
    pub(super) fn poll_began(&self) -> MonotonicNs {
        self.poll_began.get()
    }

    pub(super) fn random_u64(&self) -> u64 {
        self.random.borrow_mut().next()
    }

    /// Sends the kicks that the end of the turn would send.
    pub(super) fn wake_others(&self) {
        let kicks = task::take_kicks();
        if kicks.is_empty() {
            return;
        }
        ShardStats::add(&self.parts.stats.kicks, kicks.len() as u64);
        let mut ring = self.ring.borrow_mut();
        for kick in kicks {
            ring.send_kick(kick);
        }
        if let Err(error) = ring.enter(Wait::No) {
            die(&format!("shard {}: io_uring_enter failed: {error}", self.parts.shard));
        }
    }

    /// Turns until `done`; then drops all tasks and everything they had under way.
    pub(super) fn run(&self, done: &Cell<bool>) {
        let mut reaped = Reaped::default();
        while !done.get() {
            self.turn(&mut reaped, done);
        }
        self.stop();
    }

    fn turn(&self, reaped: &mut Reaped, done: &Cell<bool>) {
        let stats = &self.parts.stats;
        ShardStats::add(&stats.turns, 1);
        self.hub.collect();
        self.run_tasks();
        let kicks = task::take_kicks();
        ShardStats::add(&stats.kicks, kicks.len() as u64);
        let mut ring = self.ring.borrow_mut();
        for kick in kicks {
            ring.send_kick(kick);
        }
        let wait = if done.get() || task::pending().0 > 0 { Wait::No } else { self.wait_for_timers() };
        let sleeps = wait != Wait::No && self.hub.doorbell.begin_sleep();
        let entered = ring.enter(if sleeps { wait } else { Wait::No });
        if sleeps {
            self.hub.doorbell.end_sleep();
            ShardStats::add(&stats.sleeps, 1);
        }
        match entered {
            Ok(entered) => ShardStats::add(&stats.enters, u64::from(entered)),
            Err(error) => die(&format!("shard {}: io_uring_enter failed: {error}", self.parts.shard)),
        }
        ring.reap(reaped);
        drop(ring);
        self.timers.borrow_mut().fire(clock::monotonic(), &mut reaped.wakers);
        for waker in reaped.wakers.drain(..) {
            waker.wake();
        }
        reaped.abandoned.clear();
    }

    /// Runs runnable tasks in their order until the turn's share is used up.
    fn run_tasks(&self) {
        let mut now = clock::monotonic();
        let end = now.plus_ns(RUN_NS_MAX);
        let mut polls = 0;
        let mut longest = 0;
        while polls < RUN_POLLS_MAX && now < end {
            let Some(key) = task::next_runnable() else { break };
            let taken = self.tasks.borrow_mut().take(key);
            let Some((mut future, waker)) = taken else { continue };
            self.poll_began.set(now);
            let polled =
                catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker))));
            match polled {
                Ok(Poll::Pending) => self.tasks.borrow_mut().put_back(key, future),
                Ok(Poll::Ready(())) => {
                    self.tasks.borrow_mut().remove(key);
                    drop(future);
                }
                Err(panic) => die(&format!(
                    "shard {}: a task panicked, and what it shared can no longer be trusted: {}",
                    self.parts.shard,
                    panic_text(panic.as_ref())
                )),
            }
            polls += 1;
            let after = clock::monotonic();
            longest = longest.max(after.since(now));
            now = after;
            // A shard that was sent something must not sleep through the rest of this turn.
            if task::pending().1 {
                break;
            }
        }
        let stats = &self.parts.stats;
        ShardStats::add(&stats.polls, polls as u64);
        if longest > stats.longest_poll_ns.load(Ordering::Relaxed) {
            stats.longest_poll_ns.store(longest, Ordering::Relaxed);
        }
    }

    fn wait_for_timers(&self) -> Wait {
        let Some(deadline) = self.timers.borrow().next_deadline() else { return Wait::Forever };
        match deadline.since(clock::monotonic()) {
            0 => Wait::No,
            nanoseconds => Wait::For(Duration::from_nanos(nanoseconds)),
        }
    }

    /// Drops the tasks, and what their ends may start, until none is left.
    fn stop(&self) {
        loop {
            let futures = self.tasks.borrow_mut().take_all();
            if futures.is_empty() {
                break;
            }
            drop(futures);
        }
        let wakers = self.timers.borrow_mut().clear();
        drop(wakers);
        task::leave();
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
            if let Err(error) = super::system::fill_random(&mut self.portion) {
                die(&format!("the kernel's random source failed: {error}"));
            }
        }
        let rest = self.portion.len() - size_of::<u64>();
        let mut bytes = [0; size_of::<u64>()];
        bytes.copy_from_slice(&self.portion[rest..]);
        self.portion.truncate(rest);
        u64::from_ne_bytes(bytes)
    }
}

/// Ends the process: the log first, then standard error itself, which nobody buffers.
pub(super) fn die(text: &str) -> ! {
    tracing::error!("{text}");
    let _ = writeln!(std::io::stderr(), "{text}");
    std::process::abort()
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Wakes itself once, behind everything that is runnable now.
#[derive(Debug, Default)]
pub(super) struct YieldNow {
    yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        Waker::wake_by_ref(context.waker());
        Poll::Pending
    }
}
