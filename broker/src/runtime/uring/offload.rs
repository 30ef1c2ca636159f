//! Threads for what must not run on a shard: CPU-heavy work, and the few blocking calls that a ring does not
//! offer. The queue is bounded; a panic ends its own piece of work only.

use super::system;
use crate::runtime::oneshot;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

/// Pieces of work that wait for a thread.
const QUEUE_MAX: usize = 1024;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// A fixed number of threads; they end when the pool is dropped and its queue is empty.
pub(super) struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// Starts `threads` threads, `nice` steps below normal priority.
    pub(super) fn new(name: &str, threads: usize, nice: i32) -> io::Result<Arc<Self>> {
        let shared = Arc::<Shared>::default();
        let pool = Arc::new(Self { shared: Arc::clone(&shared) });
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                if nice > 0
                    && let Err(error) = system::lower_priority(nice)
                {
                    tracing::warn!(%error, "a thread for offloaded work runs at normal priority");
                }
                shared.work();
            })?;
        }
        Ok(pool)
    }

    /// Queues a piece of work; the receiver yields its result, or is closed if the work panicked. A queue
    /// that is full gives the work back.
    pub(super) fn submit<T, W>(&self, work: W) -> Result<oneshot::Receiver<T>, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.work.len() >= QUEUE_MAX {
            return Err(work);
        }
        let (sender, receiver) = oneshot::channel();
        queue.work.push_back(Box::new(move || {
            // Without a value the sender's drop tells the receiver that the work panicked.
            if let Ok(value) = catch_unwind(AssertUnwindSafe(work)) {
                sender.send(value);
            }
        }));
        drop(queue);
        self.shared.changed.notify_one();
        Ok(receiver)
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(piece) = queue.work.pop_front() {
                drop(queue);
                piece();
                queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            } else if queue.closed {
                return;
            } else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.changed.notify_all();
    }
}
