//! Tasks and their wakers. A future never leaves its shard; its waker may go anywhere: on its own thread it
//! pushes to the run queue, on any other to the shard's injection queue and rings the bell.

use super::kick::RingKick;
use crate::runtime::doorbell::Doorbell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// A task in its shard's slab; the generation tells lives of one place apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskKey {
    index: u32,
    generation: u32,
}

/// What other threads know of a shard.
pub(super) struct Hub {
    /// Unique in the process, so that a waker recognises its own thread.
    id: u64,
    injected: Mutex<Vec<TaskKey>>,
    pub(super) doorbell: Doorbell,
}

impl Hub {
    pub(super) fn new(doorbell: Doorbell) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { id, injected: Mutex::new(Vec::new()), doorbell })
    }

    fn inject(&self, key: TaskKey) {
        self.injected.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        self.doorbell.notify();
    }

    /// Moves what other threads have queued to the run queue of this thread, if there is anything.
    pub(super) fn collect(&self) {
        if self.doorbell.take_notice() {
            let keys = std::mem::take(&mut *self.injected.lock().unwrap_or_else(PoisonError::into_inner));
            with_local(|local| local.queue.extend(keys));
        }
    }
}

/// What a shard's thread keeps for itself.
struct Local {
    hub_id: u64,
    queue: VecDeque<TaskKey>,
    /// Sleeping shards that the next enter shall wake.
    kicks: Vec<Arc<RingKick>>,
    /// Whether this thread's ring can wake others.
    kicks_by_ring: bool,
}

thread_local! {
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
}

fn with_local<R>(access: impl FnOnce(&mut Local) -> R) -> Option<R> {
    LOCAL.try_with(|local| local.borrow_mut().as_mut().map(access)).ok().flatten()
}

/// Makes this thread the shard's; undone by [`leave`].
pub(super) fn enter(hub: &Hub, kicks_by_ring: bool) {
    let local = Local { hub_id: hub.id, queue: VecDeque::new(), kicks: Vec::new(), kicks_by_ring };
    LOCAL.with(|place| {
        let before = place.borrow_mut().replace(local);
        assert!(before.is_none(), "a thread drives one shard at a time");
    });
}

/// Ends what [`enter`] began. Kicks that were not sent yet go the slow way.
pub(super) fn leave() {
    let local = LOCAL.with(|place| place.borrow_mut().take());
    for kick in local.into_iter().flat_map(|local| local.kicks) {
        kick.kick_by_eventfd();
    }
}

/// The next task that is to run.
pub(super) fn next_runnable() -> Option<TaskKey> {
    with_local(|local| local.queue.pop_front()).flatten()
}

/// Tasks that wait to run, and whether sleeping shards wait to be kicked.
pub(super) fn pending() -> (usize, bool) {
    with_local(|local| (local.queue.len(), !local.kicks.is_empty())).unwrap_or_default()
}

/// Leaves a kick to this thread's ring; `false` if this thread has none that could.
pub(super) fn defer_kick(kick: &Arc<RingKick>) -> bool {
    with_local(|local| {
        if local.kicks_by_ring {
            local.kicks.push(Arc::clone(kick));
        }
        local.kicks_by_ring
    })
    .unwrap_or(false)
}

pub(super) fn take_kicks() -> Vec<Arc<RingKick>> {
    with_local(|local| std::mem::take(&mut local.kicks)).unwrap_or_default()
}

/// The part of a task that its wakers share.
struct Header {
    key: TaskKey,
    hub: Arc<Hub>,
    /// Set from the wake until just before the poll: one place in one queue at a time.
    scheduled: AtomicBool,
}

impl Wake for Header {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.scheduled.swap(true, Ordering::AcqRel) {
            return;
        }
        let here = with_local(|local| {
            let here = local.hub_id == self.hub.id;
            if here {
                local.queue.push_back(self.key);
            }
            here
        });
        if here != Some(true) {
            self.hub.inject(self.key);
        }
    }
}

pub(super) type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    generation: u32,
    task: Option<(Option<TaskFuture>, Arc<Header>, Waker)>,
}

/// The tasks of a shard.
#[derive(Default)]
pub(super) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Tasks {
    /// Adds a task and queues it.
    pub(super) fn insert(&mut self, future: TaskFuture, hub: &Arc<Hub>) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, task: None });
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let slot = &mut self.slots[index as usize];
        let key = TaskKey { index, generation: slot.generation };
        let header = Arc::new(Header { key, hub: Arc::clone(hub), scheduled: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&header));
        slot.task = Some((Some(future), header, waker.clone()));
        waker.wake();
    }

    /// Takes a task's future out to be polled. `None` if the task has ended.
    pub(super) fn take(&mut self, key: TaskKey) -> Option<(TaskFuture, Waker)> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let (future, header, waker) = slot.task.as_mut()?;
        let future = future.take()?;
        // Pairs with the exchange in `wake_by_ref`: what was done before that wake is seen by this poll.
        header.scheduled.swap(false, Ordering::AcqRel);
        Some((future, waker.clone()))
    }

    /// Puts back a future that is not finished.
    pub(super) fn put_back(&mut self, key: TaskKey, unfinished: TaskFuture) {
        if let Some((future, ..)) = self.slots[key.index as usize].task.as_mut() {
            *future = Some(unfinished);
        }
    }

    /// Forgets a task that has finished.
    pub(super) fn remove(&mut self, key: TaskKey) {
        let slot = &mut self.slots[key.index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.task = None;
        self.free.push(key.index);
    }

    /// Takes all futures, to be dropped by the caller.
    pub(super) fn take_all(&mut self) -> Vec<TaskFuture> {
        let mut futures = Vec::new();
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if let Some((future, ..)) = slot.task.take() {
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(u32::try_from(index).unwrap_or(u32::MAX));
                futures.extend(future);
            }
        }
        futures
    }
}
