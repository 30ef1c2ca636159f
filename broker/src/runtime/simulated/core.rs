//! Virtual time: the events that are to come, and the handing over of what they bring.

use super::chance::Chance;
use super::disk::Disk;
use super::executor::{Executor, Inbox};
use super::network::Network;
use super::options::Options;
use logmill_wire::ids::TimestampMs;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// One life of one host: from its start to its crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// The host's number.
    pub host: usize,
    /// How often it had been started before.
    pub number: u32,
}

/// What a host is besides its disk.
pub(super) struct HostState {
    pub name: String,
    pub life: u32,
    pub is_up: bool,
    pub is_paused: bool,
    /// What its monotonic clock showed when the world began.
    pub monotonic_start_ns: u64,
    /// How far its wall clock is off, in milliseconds.
    pub wall_clock_error_ms: i64,
}

type Action = Box<dyn FnOnce(&Rc<Core>)>;

struct Event {
    at_ns: u64,
    sequence: u64,
    kind: Kind,
    life: Option<Life>,
    action: Action,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    /// The earliest event is the greatest, which is what the heap gives first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ns, other.sequence).cmp(&(self.at_ns, self.sequence))
    }
}

/// What an event is, for the trace.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Poll = 1,
    Timer,
    Offload,
    Segment,
    Connect,
    Reset,
    Read,
    Write,
    Flush,
    Names,
    Nemesis,
}

/// All state of a world.
pub(super) struct Core {
    pub options: Options,
    pub chance: RefCell<Chance>,
    pub hosts: RefCell<Vec<HostState>>,
    pub disks: RefCell<Vec<Disk>>,
    pub network: RefCell<Network>,
    pub executor: RefCell<Executor>,
    pub inbox: Arc<Inbox>,
    pub now_ns: Cell<u64>,
    /// How often the running task may still ask whether it should yield.
    pub budget: Cell<u64>,
    events: RefCell<BinaryHeap<Event>>,
    sequence: Cell<u64>,
    trace: Cell<u64>,
}

impl Core {
    /// What a host's wall clock says.
    pub fn wall_clock(&self, host: usize) -> TimestampMs {
        let error = self.hosts.borrow()[host].wall_clock_error_ms;
        let passed = i64::try_from(self.now_ns.get() / 1_000_000).unwrap_or(i64::MAX);
        TimestampMs(self.options.wall_clock_start_ms.saturating_add(passed).saturating_add(error))
    }

    pub fn new(seed: u64, options: Options) -> Self {
        Self {
            network: RefCell::new(Network::new()),
            options,
            chance: RefCell::new(Chance::new(seed)),
            hosts: RefCell::default(),
            disks: RefCell::default(),
            executor: RefCell::default(),
            inbox: Arc::default(),
            now_ns: Cell::new(0),
            budget: Cell::new(0),
            events: RefCell::default(),
            sequence: Cell::new(0),
            trace: Cell::new(seed),
        }
    }

    /// Draws from the world's chance.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut Chance) -> T) -> T {
        draw(&mut self.chance.borrow_mut())
    }

    /// Mixes what happened into the trace.
    pub fn note(&self, kind: Kind, detail: u64) {
        let mut mixed = self.trace.get() ^ self.now_ns.get().rotate_left(20) ^ detail.rotate_left(40);
        mixed = (mixed ^ kind as u64).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.trace.set(mixed ^ (mixed >> 29));
    }

    pub fn trace_hash(&self) -> u64 {
        self.trace.get()
    }

    /// The host's current life, or `None` while it is down.
    pub fn life(&self, host: usize) -> Option<Life> {
        let hosts = self.hosts.borrow();
        let state = hosts.get(host)?;
        state.is_up.then_some(Life { host, number: state.life })
    }

    pub fn is_alive(&self, life: Life) -> bool {
        self.life(life.host) == Some(life)
    }

    /// Does `action` after `delay_ns`, unless the life that wanted it is over by then.
    pub fn schedule(
        &self,
        delay_ns: u64,
        kind: Kind,
        life: Option<Life>,
        action: impl FnOnce(&Rc<Self>) + 'static,
    ) {
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        let at_ns = self.now_ns.get().saturating_add(delay_ns);
        self.events.borrow_mut().push(Event { at_ns, sequence, kind, life, action: Box::new(action) });
    }

    /// When the next event is due.
    pub fn next_event_ns(&self) -> Option<u64> {
        self.events.borrow().peek().map(|event| event.at_ns)
    }

    /// Does everything that is due by now.
    pub fn fire_due_events(self: &Rc<Self>) {
        loop {
            let mut events = self.events.borrow_mut();
            if events.peek().is_none_or(|event| event.at_ns > self.now_ns.get()) {
                return;
            }
            let Some(event) = events.pop() else { return };
            drop(events);
            if event.life.is_none_or(|life| self.is_alive(life)) {
                self.note(event.kind, event.sequence);
                (event.action)(self);
            }
        }
    }

    /// Forgets every event; part of the world's end.
    pub fn clear_events(&self) {
        let events = std::mem::take(&mut *self.events.borrow_mut());
        drop(events);
    }
}

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

/// What an event hands to the task that waits for it.
pub(super) struct Completion<T>(Rc<RefCell<Slot<T>>>);

impl<T> Clone for Completion<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Completion<T> {
    pub fn new() -> Self {
        Self(Rc::new(RefCell::new(Slot { value: None, waker: None })))
    }

    /// Hands `value` over and wakes the task.
    pub fn complete(&self, value: T) {
        let mut slot = self.0.borrow_mut();
        slot.value = Some(value);
        let waker = slot.waker.take();
        // A waker may be anybody's code, so nothing is borrowed when it is called.
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Completion<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.borrow_mut();
        if let Some(value) = slot.value.take() {
            return Poll::Ready(value);
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
