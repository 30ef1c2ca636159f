//! Bounded lock-free mailboxes between shards: a ring for each ordered pair, so that each ring has one
//! producer and one consumer, and messages of a pair keep their order.
//!
//! Waiting is the same on both sides (a receiver for messages, a sender for room): leave a waker, *then* look
//! once more, then wait; the other side acts, *then* looks for a waker. A sequentially consistent fence
//! between each side's two steps makes sure that at least one of them sees the other. The wakers are
//! ordinary ones, so any executor will do; how they end a shard's sleep is the executor's own affair.

use super::sync::{Arc, AtomicBool, AtomicUsize, Mutex, Ordering, UnsafeCell, fence};
use logmill_wire::ids::ShardIndex;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

/// The mailbox has no room; gives the message back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Full<M>(pub M);

impl<M> fmt::Debug for Full<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Full")
    }
}

impl<M> fmt::Display for Full<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the mailbox is full")
    }
}

/// Keeps what two shards write on different cache lines (pairs of lines are fetched together).
#[repr(align(128))]
struct Apart<T>(T);

/// A place for one waiting task.
struct Parking {
    /// Whether somebody may be waiting; the lock is taken only then.
    occupied: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Parking {
    fn new() -> Self {
        Self { occupied: AtomicBool::new(false), waker: Mutex::new(None) }
    }

    /// Leaves a waker. The caller must look at its condition once more afterwards, and only then wait.
    fn park(&self, waker: &Waker) {
        let mut place = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *place {
            Some(present) => present.clone_from(waker),
            None => *place = Some(waker.clone()),
        }
        drop(place);
        self.occupied.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Wakes who waits. The caller has made the condition true before.
    fn unpark(&self) {
        fence(Ordering::SeqCst);
        if self.occupied.load(Ordering::Relaxed) && self.occupied.swap(false, Ordering::AcqRel) {
            // The waker stays in its place: whoever finds the place occupied finds a waker in it.
            let place = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waker) = &*place {
                waker.wake_by_ref();
            }
        }
    }
}

/// The ring from one shard to another. Positions only grow; a slot's place is its position modulo the capacity.
struct Lane<M> {
    slots: Box<[UnsafeCell<MaybeUninit<M>>]>,
    /// The position that is received next; written by the consumer.
    head: Apart<AtomicUsize>,
    /// The position that is sent next; written by the producer.
    tail: Apart<AtomicUsize>,
    room: Parking,
}

// SAFETY: a slot is accessed by the producer from when it is free until `tail` passes it, and by the consumer
// from then until `head` passes it: never by both, and messages may change threads.
unsafe impl<M: Send> Sync for Lane<M> {}
// SAFETY: as above.
unsafe impl<M: Send> Send for Lane<M> {}

impl<M> Lane<M> {
    fn new(capacity: usize) -> Self {
        Self {
            slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
            head: Apart(AtomicUsize::new(0)),
            tail: Apart(AtomicUsize::new(0)),
            room: Parking::new(),
        }
    }

    fn slot(&self, position: usize) -> &UnsafeCell<MaybeUninit<M>> {
        &self.slots[position & (self.slots.len() - 1)]
    }

    /// # Safety
    /// Only the lane's one producer calls this. `head_seen` is its own memory of the head.
    unsafe fn push(&self, message: M, head_seen: &Cell<usize>) -> Result<(), Full<M>> {
        let tail = self.tail.0.load(Ordering::Relaxed);
        if tail.wrapping_sub(head_seen.get()) == self.slots.len() {
            head_seen.set(self.head.0.load(Ordering::Acquire));
            if tail.wrapping_sub(head_seen.get()) == self.slots.len() {
                return Err(Full(message));
            }
        }
        // SAFETY: the consumer has passed this slot, and does not look at it before `tail` does.
        self.slot(tail).with_mut(|slot| unsafe { (*slot).write(message) });
        self.tail.0.store(tail.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// # Safety
    /// Only the lane's one consumer calls this. `tail_seen` is its own memory of the tail.
    unsafe fn pop(&self, tail_seen: &Cell<usize>) -> Option<M> {
        let head = self.head.0.load(Ordering::Relaxed);
        if tail_seen.get() == head {
            tail_seen.set(self.tail.0.load(Ordering::Acquire));
            if tail_seen.get() == head {
                return None;
            }
        }
        // SAFETY: the producer has filled this slot, and does not touch it before `head` has passed it.
        let message = self.slot(head).with_mut(|slot| unsafe { (*slot).assume_init_read() });
        self.head.0.store(head.wrapping_add(1), Ordering::Release);
        // A sender that waits for room is woken when half of it is there, not for each message.
        if tail_seen.get().wrapping_sub(head) <= self.slots.len() / 2 + 1 {
            self.room.unpark();
        }
        Some(message)
    }
}

impl<M> Drop for Lane<M> {
    fn drop(&mut self) {
        let tail_seen = Cell::new(self.head.0.load(Ordering::Relaxed));
        // SAFETY: `&mut self`: there is no producer and no other consumer any more.
        while let Some(message) = unsafe { self.pop(&tail_seen) } {
            drop(message);
        }
    }
}

/// All lanes between a number of shards; each shard takes its [`Endpoint`] out of it once.
pub struct Mesh<M> {
    endpoints: Vec<Option<Endpoint<M>>>,
}

impl<M: Send> Mesh<M> {
    /// Lanes between all pairs of `shards` shards (each to itself included), each with room for `capacity`
    /// messages, rounded up to a power of two.
    #[must_use]
    pub fn new(shards: usize, capacity: usize) -> Self {
        let capacity = capacity.max(1).next_power_of_two();
        let inboxes: Vec<_> = (0..shards).map(|_| Arc::new(Parking::new())).collect();
        let lanes: Vec<Vec<_>> =
            (0..shards).map(|_| (0..shards).map(|_| Arc::new(Lane::new(capacity))).collect()).collect();
        let endpoint = |index: usize| Endpoint {
            inbox: Arc::clone(&inboxes[index]),
            incoming: (0..shards)
                .map(|from| Incoming { lane: Arc::clone(&lanes[from][index]), tail_seen: Cell::new(0) })
                .collect(),
            outgoing: (0..shards)
                .map(|to| Outgoing {
                    lane: Arc::clone(&lanes[index][to]),
                    inbox: Arc::clone(&inboxes[to]),
                    head_seen: Cell::new(0),
                    waiting: RefCell::new(VecDeque::new()),
                })
                .collect(),
            cursor: Cell::new(0),
            next_ticket: Cell::new(0),
        };
        Self { endpoints: (0..shards).map(|index| Some(endpoint(index))).collect() }
    }

    /// A shard's end of all its lanes. `None` if it was taken already or the mesh has no such shard: a second
    /// one would make a second producer.
    #[must_use]
    pub fn endpoint(&mut self, shard: ShardIndex) -> Option<Endpoint<M>> {
        self.endpoints.get_mut(usize::from(shard.0))?.take()
    }
}

struct Incoming<M> {
    lane: Arc<Lane<M>>,
    tail_seen: Cell<usize>,
}

struct Outgoing<M> {
    lane: Arc<Lane<M>>,
    /// Where the receiver waits.
    inbox: Arc<Parking>,
    head_seen: Cell<usize>,
    /// Tasks of this shard that wait for room, in the order in which they came.
    waiting: RefCell<VecDeque<(u64, Waker)>>,
}

impl<M> Outgoing<M> {
    fn push(&self, message: M) -> Result<(), Full<M>> {
        // SAFETY: an endpoint exists once and is not `Sync`: it is the lane's one producer.
        unsafe { self.lane.push(message, &self.head_seen) }?;
        self.inbox.unpark();
        Ok(())
    }

    /// Takes a ticket out of the queue; if it was at its head, it is the next one's turn.
    fn leave(&self, ticket: u64) {
        let mut waiting = self.waiting.borrow_mut();
        let Some(place) = waiting.iter().position(|(number, _)| *number == ticket) else { return };
        waiting.remove(place);
        let next = if place == 0 { waiting.front().map(|(_, waker)| waker.clone()) } else { None };
        drop(waiting);
        if let Some(next) = next {
            next.wake();
        }
    }

    fn wait_in_line(&self, ticket: u64, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        match waiting.iter_mut().find(|(number, _)| *number == ticket) {
            Some((_, present)) => present.clone_from(waker),
            None => waiting.push_back((ticket, waker.clone())),
        }
    }
}

/// One shard's mailbox, and its way into the mailboxes of the others. It is `Send`, to be moved to its shard
/// once, and belongs to that one thread from then on; tasks share it through an `Rc`.
pub struct Endpoint<M> {
    inbox: Arc<Parking>,
    incoming: Vec<Incoming<M>>,
    outgoing: Vec<Outgoing<M>>,
    /// The lane that is looked at first, so that a busy sender does not starve others.
    cursor: Cell<usize>,
    next_ticket: Cell<u64>,
}

impl<M: Send> Endpoint<M> {
    /// The number of shards in the mesh.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.outgoing.len()
    }

    /// Sends without waiting.
    ///
    /// # Errors
    /// [`Full`] with the message, if there is no room, or if others of this shard wait for it already.
    ///
    /// # Panics
    /// If the mesh has no shard `to`.
    pub fn try_send(&self, to: ShardIndex, message: M) -> Result<(), Full<M>> {
        let lane = &self.outgoing[usize::from(to.0)];
        if lane.waiting.borrow().is_empty() { lane.push(message) } else { Err(Full(message)) }
    }

    /// Sends, waiting for room behind those who wait already. If the future is dropped before it has
    /// finished, nothing was sent.
    ///
    /// # Panics
    /// If the mesh has no shard `to`.
    pub fn send(&self, to: ShardIndex, message: M) -> Sending<'_, M> {
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        Sending { lane: &self.outgoing[usize::from(to.0)], message: Some(message), ticket }
    }

    /// The next message, if there is one, and who sent it. Senders take turns.
    pub fn try_recv(&self) -> Option<(ShardIndex, M)> {
        let count = self.incoming.len();
        for step in 0..count {
            let from = (self.cursor.get() + step) % count;
            let incoming = &self.incoming[from];
            // SAFETY: an endpoint exists once and is not `Sync`: it is the lane's one consumer.
            if let Some(message) = unsafe { incoming.lane.pop(&incoming.tail_seen) } {
                self.cursor.set(from + 1);
                return Some((ShardIndex(u16::try_from(from).unwrap_or(u16::MAX)), message));
            }
        }
        None
    }

    /// Waits for the next message. One task of the shard receives: there is one place to wait in.
    pub fn recv(&self) -> Receiving<'_, M> {
        Receiving { endpoint: self }
    }

    /// Hands at most `count_max` messages that are there now to `receive`, and returns how many those were.
    pub fn drain(&self, count_max: usize, mut receive: impl FnMut(ShardIndex, M)) -> usize {
        let mut count = 0;
        while count < count_max
            && let Some((from, message)) = self.try_recv()
        {
            receive(from, message);
            count += 1;
        }
        count
    }
}

/// The future of [`Endpoint::send`].
pub struct Sending<'a, M> {
    lane: &'a Outgoing<M>,
    message: Option<M>,
    ticket: u64,
}

impl<M> Unpin for Sending<'_, M> {}

impl<M> Future for Sending<'_, M> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let lane = self.lane;
        let ticket = self.ticket;
        let Some(message) = self.message.take() else { return Poll::Ready(()) };
        let is_first = lane.waiting.borrow().front().is_none_or(|(number, _)| *number == ticket);
        if !is_first {
            lane.wait_in_line(ticket, context.waker());
            self.message = Some(message);
            return Poll::Pending;
        }
        let left = lane.push(message).or_else(|Full(message)| {
            lane.lane.room.park(context.waker());
            lane.push(message)
        });
        match left {
            Ok(()) => {
                lane.leave(ticket);
                Poll::Ready(())
            }
            Err(Full(message)) => {
                lane.wait_in_line(ticket, context.waker());
                self.message = Some(message);
                Poll::Pending
            }
        }
    }
}

impl<M> Drop for Sending<'_, M> {
    fn drop(&mut self) {
        if self.message.is_some() {
            self.lane.leave(self.ticket);
        }
    }
}

/// The future of [`Endpoint::recv`].
pub struct Receiving<'a, M> {
    endpoint: &'a Endpoint<M>,
}

impl<M: Send> Future for Receiving<'_, M> {
    type Output = (ShardIndex, M);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(received) = self.endpoint.try_recv() {
            return Poll::Ready(received);
        }
        self.endpoint.inbox.park(context.waker());
        match self.endpoint.try_recv() {
            Some(received) => Poll::Ready(received),
            None => Poll::Pending,
        }
    }
}
