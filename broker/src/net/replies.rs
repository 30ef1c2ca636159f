//! Replies in the order of their requests.

use super::connection::End;
use crate::request::call::{Outcome, Pending, Reply};
use crate::request::services::Services;
use crate::runtime::{Connection, Runtime};
use crate::shard::deadline::Ticker;
use crate::shard::memory::Reservation;
use crate::shard::signal::Signal;
use bytes::Bytes;
use logmill_wire::ids::MonotonicNs;
use logmill_wire::limits::CONNECTION_IN_FLIGHT_MAX;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// Replies that leave together are at most so large, the first one aside.
const BATCH_BYTES: usize = 256 << 10;

/// How often a send that does not get on is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long sending may take, and how many bytes a second the client must take beyond that.
const SEND_NS: u64 = 30_000_000_000;
const SEND_BYTES_PER_SECOND: u64 = 256 << 10;
/// The same while others wait for the memory that the replies hold.
const SEND_CONTENDED_NS: u64 = 3_000_000_000;
const SEND_CONTENDED_BYTES_PER_SECOND: u64 = 4 << 20;

/// The requests of a connection that are begun and not yet answered.
pub(super) struct ReplyQueue {
    pending: RefCell<VecDeque<Pending>>,
    in_flight: Cell<usize>,
    changed: Signal,
    last_activity: Cell<MonotonicNs>,
}

impl ReplyQueue {
    pub(super) fn new(now: MonotonicNs) -> Self {
        Self {
            pending: RefCell::default(),
            in_flight: Cell::new(0),
            changed: Signal::default(),
            last_activity: Cell::new(now),
        }
    }

    /// Waits until another request may be begun.
    pub(super) async fn has_room(&self) {
        while self.in_flight.get() >= CONNECTION_IN_FLIGHT_MAX {
            self.changed.wait().await;
        }
    }

    pub(super) fn push(&self, pending: Pending) {
        self.pending.borrow_mut().push_back(pending);
        self.in_flight.set(self.in_flight.get() + 1);
        self.changed.notify_all();
    }

    /// Waits until nothing is under way.
    pub(super) async fn until_idle(&self) {
        while !self.is_idle() {
            self.changed.wait().await;
        }
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.get() == 0
    }

    pub(super) fn note_activity(&self, now: MonotonicNs) {
        self.last_activity.set(now);
    }

    pub(super) fn last_activity(&self) -> MonotonicNs {
        self.last_activity.get()
    }

    async fn pop(&self) -> Pending {
        loop {
            if let Some(pending) = self.pending.borrow_mut().pop_front() {
                return pending;
            }
            self.changed.wait().await;
        }
    }

    /// The next outcome if it is there already.
    async fn pop_finished(&self) -> Option<Outcome> {
        let mut pending = self.pending.borrow_mut().pop_front()?;
        let polled = std::future::poll_fn(|context| Poll::Ready(pending.as_mut().poll(context))).await;
        match polled {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => {
                self.pending.borrow_mut().push_front(pending);
                None
            }
        }
    }

    fn finish(&self, requests: usize) {
        self.in_flight.set(self.in_flight.get() - requests);
        self.changed.notify_all();
    }
}

/// Replies that leave together.
#[derive(Default)]
struct Batch {
    parts: Vec<Bytes>,
    rooms: Vec<Reservation>,
    bytes: usize,
    requests: usize,
    end: Option<End>,
}

impl Batch {
    fn add(&mut self, outcome: Outcome) {
        self.requests += 1;
        match outcome {
            Outcome::Reply(Reply { parts, room }) => {
                self.bytes += room.bytes();
                self.parts.extend(parts);
                self.rooms.push(room);
            }
            Outcome::Silence => {}
            Outcome::Close(why) => self.end = Some(End::failed(why)),
        }
    }

    fn is_open(&self) -> bool {
        self.bytes < BATCH_BYTES && self.end.is_none()
    }
}

/// Sends replies until the connection ends. Only the oldest request is driven: what it holds for its reply is
/// all that the connection holds, and a client that does not read stops itself.
pub(super) async fn send_replies<R: Runtime>(
    services: &Services<R>,
    connection: &R::Connection,
    queue: &ReplyQueue,
) -> End {
    let mut ticker = Ticker::default();
    loop {
        let mut batch = Batch::default();
        batch.add(queue.pop().await.await);
        while batch.is_open() {
            let Some(outcome) = queue.pop_finished().await else { break };
            batch.add(outcome);
        }
        if !batch.parts.is_empty()
            && let Err(end) = send(services, connection, &mut batch, &mut ticker).await
        {
            return end;
        }
        if let Some(end) = batch.end {
            return end;
        }
        queue.note_activity(services.runtime.recent());
        queue.finish(batch.requests);
    }
}

async fn send<R: Runtime>(
    services: &Services<R>,
    connection: &R::Connection,
    batch: &mut Batch,
    ticker: &mut Ticker,
) -> Result<(), End> {
    let began = services.runtime.recent();
    let mut sending = pin!(connection.send(std::mem::take(&mut batch.parts)));
    loop {
        match ticker.until_tick(&services.runtime, TICK, sending.as_mut()).await {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => return Err(End::failed(format_args!("sending failed: {error}"))),
            None => {}
        }
        let memory = &services.state.memory;
        let is_contended = batch.rooms.iter().any(|room| memory.is_contended(room.class()));
        let (base_ns, per_second) = if is_contended {
            (SEND_CONTENDED_NS, SEND_CONTENDED_BYTES_PER_SECOND)
        } else {
            (SEND_NS, SEND_BYTES_PER_SECOND)
        };
        let bound_ns =
            base_ns.saturating_add((batch.bytes as u64).saturating_mul(1_000_000_000) / per_second);
        if services.runtime.monotonic().since(began) >= bound_ns {
            return Err(End::SlowReceiver);
        }
    }
}
