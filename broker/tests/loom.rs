//! The doorbell and the mailboxes under a model checker, which runs every interleaving and every outcome that
//! the memory model allows. The two files are compiled here a second time, on loom's atomics.

#![expect(dead_code, reason = "parts of the two files are not needed here")]

#[path = "../src/runtime/doorbell.rs"]
mod doorbell;
#[path = "../src/runtime/mailbox.rs"]
mod mailbox;

mod sync {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
    pub(crate) use loom::sync::{Arc, Mutex};
}

use doorbell::{Doorbell, Kick};
use logmill_wire::ids::ShardIndex;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use mailbox::Mesh;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// A sleeper: what wakes it is remembered, as a ring remembers a completion.
struct Sleeper(Notify);

impl Kick for Sleeper {
    fn kick(&self) {
        self.0.notify();
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

/// Runs a future; a wake-up that is missed is a deadlock, which the checker reports.
fn block_on<F: Future>(future: F) -> F::Output {
    let sleeper = Arc::new(Sleeper(Notify::new()));
    let waker = Waker::from(Arc::clone(&sleeper));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => sleeper.0.wait(),
        }
    }
}

const A: ShardIndex = ShardIndex(0);
const B: ShardIndex = ShardIndex(1);

/// Explores all interleavings with at most `preemptions` switches that no thread asked for; a switch because
/// a thread waits costs nothing. The number is what keeps a model within seconds.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Senders queue something and ring; the shard sleeps whenever it has nothing to do.
fn sleep_while_senders_ring(senders: usize, preemptions: usize) {
    explore(preemptions, move || {
        let sleeper = Arc::new(Sleeper(Notify::new()));
        let bell = Arc::new(Doorbell::new(Arc::<Sleeper>::clone(&sleeper)));
        let queues = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let threads: Vec<_> = (0..senders)
            .map(|number| {
                let (bell, queues) = (Arc::clone(&bell), Arc::clone(&queues));
                thread::spawn(move || {
                    queues[number].store(1, Ordering::Relaxed);
                    bell.notify();
                })
            })
            .collect();
        let mut seen = 0;
        while seen < senders {
            if bell.take_notice() {
                seen = queues.iter().map(|queue| queue.load(Ordering::Relaxed)).sum();
            } else if bell.begin_sleep() {
                sleeper.0.wait();
                bell.end_sleep();
            }
        }
        for thread in threads {
            thread.join().expect("a sender does not panic");
        }
    });
}

#[test]
fn a_sleeper_is_never_missed() {
    sleep_while_senders_ring(1, 8);
    sleep_while_senders_ring(2, 3);
}

/// The receiver goes to sleep while the sender sends; nothing is lost and the order is kept, also when the
/// sender has to wait for room.
#[test]
fn messages_arrive_all_and_in_order() {
    for (capacity, messages, preemptions) in [(1, 2, 4), (2, 3, 3), (4, 2, 4)] {
        explore(preemptions, move || {
            let mut mesh = Mesh::<usize>::new(2, capacity);
            let (a, b) = (mesh.endpoint(A).unwrap(), mesh.endpoint(B).unwrap());
            drop(mesh);
            let sender = thread::spawn(move || {
                for message in 0..messages {
                    block_on(a.send(B, message));
                }
            });
            for message in 0..messages {
                assert_eq!(block_on(b.recv()), (A, message));
            }
            assert_eq!(b.try_recv(), None);
            sender.join().unwrap();
        });
    }
}

/// Two senders to one sleeping receiver: each one's message arrives.
#[test]
fn two_senders_do_not_lose_each_others_wake_up() {
    explore(3, || {
        let mut mesh = Mesh::<usize>::new(3, 1);
        let receiver = mesh.endpoint(ShardIndex(2)).unwrap();
        let senders: Vec<_> = [A, B]
            .into_iter()
            .map(|shard| {
                let endpoint = mesh.endpoint(shard).unwrap();
                thread::spawn(move || {
                    assert!(endpoint.try_send(ShardIndex(2), usize::from(shard.0)).is_ok());
                })
            })
            .collect();
        let mut sum = 0;
        for _ in 0..2 {
            let (from, message) = block_on(receiver.recv());
            assert_eq!(usize::from(from.0), message);
            sum += message + 1;
        }
        assert_eq!(sum, 3);
        for sender in senders {
            sender.join().unwrap();
        }
    });
}
