//! Tasks of all shards, and which of them runs next.
//!
//! A shard works in rounds: the tasks that have become runnable, in random order, and behind them those
//! that had yielded, in the order in which they did. So nobody starves, and a task that yields runs again
//! only after everything that was runnable at the time.

use super::core::{Core, Kind, Life};
use logmill_wire::ids::ShardIndex;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Which task, and which of those that had its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskId {
    place: usize,
    generation: u32,
}

/// Which end of which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndId {
    pub stream: u64,
    pub side: usize,
}

/// What reaches the world through values that may be anywhere: wakers and connection handles.
#[derive(Default)]
pub(super) struct Inbox {
    has_news: AtomicBool,
    news: Mutex<News>,
}

#[derive(Default)]
pub(super) struct News {
    pub woken: Vec<TaskId>,
    pub abandoned: Vec<EndId>,
}

impl Inbox {
    pub fn tell(&self, tell: impl FnOnce(&mut News)) {
        tell(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        self.has_news.store(true, Ordering::Release);
    }

    fn take(&self) -> Option<News> {
        if !self.has_news.swap(false, Ordering::Acquire) {
            return None;
        }
        Some(std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

struct TaskWaker {
    inbox: Arc<Inbox>,
    task: TaskId,
    is_queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            self.inbox.tell(|news| news.woken.push(self.task));
        }
    }
}

type BoxedTask = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Default)]
struct Place {
    generation: u32,
    shard: usize,
    /// Absent while the task is being polled.
    future: Option<BoxedTask>,
    waker: Option<Arc<TaskWaker>>,
}

struct Shard {
    life: Life,
    index: ShardIndex,
    round: VecDeque<TaskId>,
    woken: Vec<TaskId>,
    yielded: Vec<Waker>,
    is_runnable: bool,
}

/// Every task and shard of the world.
#[derive(Default)]
pub(super) struct Executor {
    places: Vec<Place>,
    free: Vec<usize>,
    shards: Vec<Shard>,
    /// The shards that have something to run and whose host is not paused.
    runnable: Vec<usize>,
}

impl Executor {
    /// The number under which the shard's tasks are kept.
    pub fn shard(&mut self, life: Life, index: ShardIndex) -> usize {
        let known = self.shards.iter().position(|shard| shard.life == life && shard.index == index);
        known.unwrap_or_else(|| {
            self.shards.push(Shard {
                life,
                index,
                round: VecDeque::new(),
                woken: Vec::new(),
                yielded: Vec::new(),
                is_runnable: false,
            });
            self.shards.len() - 1
        })
    }

    fn make_runnable(&mut self, shard: usize) {
        if !self.shards[shard].is_runnable {
            self.shards[shard].is_runnable = true;
            self.runnable.push(shard);
        }
    }

    fn is_current(&self, task: TaskId) -> bool {
        let place = &self.places[task.place];
        place.generation == task.generation && place.waker.is_some()
    }

    fn enqueue(&mut self, task: TaskId) {
        if self.is_current(task) {
            let shard = self.places[task.place].shard;
            self.shards[shard].woken.push(task);
            self.make_runnable(shard);
        }
    }

    fn insert(&mut self, shard: usize, future: BoxedTask, inbox: &Arc<Inbox>) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        let place = &mut self.places[number];
        let task = TaskId { place: number, generation: place.generation };
        place.shard = shard;
        place.future = Some(future);
        place.waker =
            Some(Arc::new(TaskWaker { inbox: Arc::clone(inbox), task, is_queued: AtomicBool::new(true) }));
        self.enqueue(task);
    }

    /// Empties a task's place; the future is handed out, so that it is dropped when nothing is borrowed.
    fn remove(&mut self, number: usize) -> Option<BoxedTask> {
        let place = &mut self.places[number];
        place.waker = None;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(number);
        place.future.take()
    }

    /// Takes every task of the shards that `belongs` chooses.
    fn remove_all(&mut self, belongs: impl Fn(Life) -> bool) -> (Vec<BoxedTask>, Vec<Waker>) {
        let mut futures = Vec::new();
        for number in 0..self.places.len() {
            if self.places[number].waker.is_some() && belongs(self.shards[self.places[number].shard].life) {
                futures.extend(self.remove(number));
            }
        }
        let mut wakers = Vec::new();
        for shard in self.shards.iter_mut().filter(|shard| belongs(shard.life)) {
            shard.round.clear();
            shard.woken.clear();
            wakers.append(&mut shard.yielded);
        }
        (futures, wakers)
    }
}

impl Core {
    /// Starts a task; a runtime whose host is gone starts nothing.
    pub fn spawn(&self, life: Life, shard: usize, future: BoxedTask) {
        if self.is_alive(life) {
            self.executor.borrow_mut().insert(shard, future, &self.inbox);
        }
    }

    /// Puts a waker behind everything that is runnable on the shard.
    pub fn wake_last(&self, shard: usize, waker: Waker) {
        let mut executor = self.executor.borrow_mut();
        executor.shards[shard].yielded.push(waker);
        executor.make_runnable(shard);
    }

    /// Takes in what wakers and handles have told.
    pub fn read_inbox(self: &Rc<Self>) {
        while let Some(news) = self.inbox.take() {
            let mut executor = self.executor.borrow_mut();
            for task in news.woken {
                executor.enqueue(task);
            }
            drop(executor);
            for end in news.abandoned {
                self.close_end(end);
            }
        }
    }

    /// The next task to run: of a random shard, the next of its round.
    fn next_task(self: &Rc<Self>) -> Option<TaskId> {
        loop {
            self.read_inbox();
            let mut executor = self.executor.borrow_mut();
            if executor.runnable.is_empty() {
                return None;
            }
            let chosen = self.draw(|chance| chance.index(executor.runnable.len()));
            let number = executor.runnable[chosen];
            let life = executor.shards[number].life;
            let is_paused = self.hosts.borrow()[life.host].is_paused;
            if !is_paused {
                while let Some(task) = executor.shards[number].round.pop_front() {
                    if executor.is_current(task) {
                        return Some(task);
                    }
                }
                let shard = &mut executor.shards[number];
                if !shard.woken.is_empty() || !shard.yielded.is_empty() {
                    let mut round = std::mem::take(&mut shard.woken);
                    self.draw(|chance| chance.shuffle(&mut round));
                    shard.round.extend(round);
                    let yielded = std::mem::take(&mut shard.yielded);
                    drop(executor);
                    for waker in yielded {
                        waker.wake();
                    }
                    self.read_inbox();
                    let mut executor = self.executor.borrow_mut();
                    let behind = std::mem::take(&mut executor.shards[number].woken);
                    executor.shards[number].round.extend(behind);
                    continue;
                }
            }
            // Nothing to run, or not now; a pause's end looks at every shard again.
            executor.shards[number].is_runnable = false;
            executor.runnable.swap_remove(chosen);
        }
    }

    /// Polls one task; false if none is runnable.
    pub fn run_one_task(self: &Rc<Self>) -> bool {
        let Some(task) = self.next_task() else { return false };
        let mut executor = self.executor.borrow_mut();
        let place = &mut executor.places[task.place];
        let (Some(mut future), Some(waker)) = (place.future.take(), place.waker.clone()) else {
            return true;
        };
        drop(executor);
        self.note(Kind::Poll, task.place as u64);
        let (cost, budget) =
            self.draw(|chance| (chance.between(self.options.poll_ns), chance.between((1, 64))));
        self.budget.set(budget);
        // From here on a wake means another poll.
        waker.is_queued.store(false, Ordering::Release);
        let outcome = future.as_mut().poll(&mut Context::from_waker(&Waker::from(waker)));
        self.now_ns.set(self.now_ns.get() + cost);
        let mut executor = self.executor.borrow_mut();
        // The task's host may have crashed at the task's own hand.
        if executor.is_current(task) {
            match outcome {
                Poll::Pending => executor.places[task.place].future = Some(future),
                Poll::Ready(()) => {
                    executor.remove(task.place);
                    drop(executor);
                    drop(future);
                }
            }
        } else {
            drop(executor);
            drop(future);
        }
        true
    }

    /// Drops every task of the lives that `belongs` chooses.
    pub fn drop_tasks(&self, belongs: impl Fn(Life) -> bool) {
        loop {
            let (futures, wakers) = self.executor.borrow_mut().remove_all(&belongs);
            if futures.is_empty() && wakers.is_empty() {
                return;
            }
            // Dropping may do anything, even start tasks; so nothing is borrowed, and it is done again.
            drop(futures);
            drop(wakers);
        }
    }

    /// Looks at every shard of a host again, after a pause.
    pub fn reconsider(&self, host: usize) {
        let mut executor = self.executor.borrow_mut();
        for number in 0..executor.shards.len() {
            if executor.shards[number].life.host == host {
                executor.make_runnable(number);
            }
        }
    }
}
