//! The ring and the slab of operations under way: the one place where memory is lent to the kernel.
//!
//! [`Ring::start`] takes an [`Operation`] with all that it owns and gives it back, with its result, when the
//! completion has arrived. An operation that nobody waits for any more stays in the slab until then; so
//! whatever callers do, the kernel's pointers stay valid.

use super::kick::RingKick;
use super::operation::{Completed, Operation};
use super::probe::Features;
use io_uring::{EnterFlags, IoUring, opcode, squeue, types};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

/// File operations under way at once; more wait in a queue of ours.
const FILE_OPERATIONS_MAX: usize = 512;

/// How long a ring that is dropped waits for the operations it has cancelled.
const SHUTDOWN_WAIT: Duration = Duration::from_millis(100);
const SHUTDOWN_WAITS_MAX: usize = 50;

// `user_data` is the operation's place and, above it, its generation. These two places are taken by entries
// that are no operations.
const PLACE_OF_SIGNALS: u32 = u32::MAX;
const PLACE_OF_KICKS: u32 = u32::MAX - 1;
const SIGNAL_BELL: u32 = 1;
const SIGNAL_EVENTFD: u32 = 2;
const SIGNAL_CANCEL: u32 = 3;

/// An operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OperationKey {
    place: u32,
    generation: u32,
}

const fn user_data(place: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | place as u64
}

enum State {
    Free,
    /// Waits for another file operation to end; the kernel does not know of it.
    Queued(Operation, Option<Waker>),
    /// The kernel may use what the operation owns. Without a waker nobody waits for it any more.
    UnderWay(Operation, Option<Waker>),
    Done(Operation, io::Result<Completed>),
}

struct Slot {
    generation: u32,
    state: State,
}

/// How long an enter may wait for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    For(Duration),
    Forever,
}

/// What a reaping has brought, to be handled when the ring is not borrowed: dropping or waking may come back to it.
#[derive(Default)]
pub(super) struct Reaped {
    pub(super) wakers: Vec<Waker>,
    pub(super) abandoned: Vec<Operation>,
}

pub(super) struct Ring {
    uring: IoUring,
    features: Features,
    slots: Vec<Slot>,
    free: Vec<u32>,
    under_way: usize,
    files_under_way: usize,
    queued: VecDeque<OperationKey>,
    /// Entries for which the submission queue had no room.
    backlog: VecDeque<squeue::Entry>,
    kick: Arc<RingKick>,
    /// Where the kernel puts the eventfd's count; read for nothing.
    eventfd_count: Box<[u8; 8]>,
    eventfd_armed: bool,
    kicked: BTreeMap<u32, Arc<RingKick>>,
}

impl Ring {
    pub(super) fn new(uring: IoUring, features: Features, kick: Arc<RingKick>) -> Self {
        Self {
            uring,
            features,
            slots: Vec::new(),
            free: Vec::new(),
            under_way: 0,
            files_under_way: 0,
            queued: VecDeque::new(),
            backlog: VecDeque::new(),
            kick,
            eventfd_count: Box::new([0; 8]),
            eventfd_armed: false,
            kicked: BTreeMap::new(),
        }
    }

    /// Starts an operation, or queues it behind others; `waker` is woken when it is done.
    pub(super) fn start(&mut self, operation: Operation, waker: Waker) -> OperationKey {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, state: State::Free });
            u32::try_from(self.slots.len() - 1).unwrap_or(PLACE_OF_KICKS)
        });
        assert!(place < PLACE_OF_KICKS, "more operations than places");
        let slot = &mut self.slots[place as usize];
        let key = OperationKey { place, generation: slot.generation };
        let must_wait = operation.is_of_file() && self.files_under_way >= FILE_OPERATIONS_MAX;
        slot.state = State::Queued(operation, Some(waker));
        if must_wait {
            self.queued.push_back(key);
        } else {
            self.submit(key);
        }
        key
    }

    /// Hands a queued operation to the kernel.
    fn submit(&mut self, key: OperationKey) {
        let slot = &mut self.slots[key.place as usize];
        let State::Queued(operation, waker) = std::mem::replace(&mut slot.state, State::Free) else {
            unreachable!("only a queued operation is submitted");
        };
        self.files_under_way += usize::from(operation.is_of_file());
        self.under_way += 1;
        slot.state = State::UnderWay(operation, waker);
        let State::UnderWay(operation, _) = &mut slot.state else {
            unreachable!("the state was set in the line before");
        };
        // The operation now lies in the slab, and leaves it only in `complete`.
        let entry = operation.entry().user_data(user_data(key.place, key.generation));
        self.push(entry);
    }

    /// The result of an operation and the operation itself, once it is done; until then `waker` is kept.
    pub(super) fn poll(
        &mut self,
        key: OperationKey,
        waker: &Waker,
    ) -> Option<(io::Result<Completed>, Operation)> {
        let slot = &mut self.slots[key.place as usize];
        assert_eq!(slot.generation, key.generation, "an operation's result is taken once");
        match &mut slot.state {
            State::Queued(_, place) | State::UnderWay(_, place) => {
                match place {
                    Some(present) => present.clone_from(waker),
                    None => *place = Some(waker.clone()),
                }
                None
            }
            State::Done(..) => match self.release(key.place) {
                State::Done(operation, result) => Some((result, operation)),
                _ => unreachable!("the state was looked at in the line before"),
            },
            State::Free => unreachable!("a key means a place that is taken"),
        }
    }

    /// Nobody waits for an operation any more. What can be dropped at once is returned; otherwise the
    /// operation is cancelled and dropped when the kernel has let go of it.
    pub(super) fn abandon(&mut self, key: OperationKey) -> Option<(Operation, Option<Waker>)> {
        let slot = &mut self.slots[key.place as usize];
        if slot.generation != key.generation {
            return None;
        }
        if let State::UnderWay(_, waker) = &mut slot.state {
            let _ = waker.take();
            let cancel = opcode::AsyncCancel::new(user_data(key.place, key.generation))
                .build()
                .user_data(user_data(PLACE_OF_SIGNALS, SIGNAL_CANCEL))
                .flags(squeue::Flags::SKIP_SUCCESS);
            self.push(cancel);
            return None;
        }
        match self.release(key.place) {
            // Its key stays in `queued`, where the generation tells that it is stale.
            State::Queued(operation, waker) => Some((operation, waker)),
            State::Done(operation, _) => Some((operation, None)),
            State::Free | State::UnderWay(..) => None,
        }
    }

    fn release(&mut self, place: u32) -> State {
        let slot = &mut self.slots[place as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(place);
        std::mem::replace(&mut slot.state, State::Free)
    }

    /// Wakes another shard out of its sleep with the next enter.
    pub(super) fn send_kick(&mut self, target: Arc<RingKick>) {
        let bell = user_data(PLACE_OF_SIGNALS, SIGNAL_BELL);
        let entry = opcode::MsgRingData::new(types::Fd(target.ring_fd()), 0, bell, None)
            .build()
            .user_data(user_data(PLACE_OF_KICKS, target.id))
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.kicked.insert(target.id, target);
        self.push(entry);
    }

    /// Reads the eventfd through which ordinary threads wake this ring, unless that is under way.
    fn arm_eventfd(&mut self) {
        if self.eventfd_armed {
            return;
        }
        self.eventfd_armed = true;
        self.under_way += 1;
        let count = &mut self.eventfd_count;
        let entry = opcode::Read::new(types::Fd(self.kick.eventfd()), count.as_mut_ptr(), count.len() as u32)
            .build()
            .user_data(user_data(PLACE_OF_SIGNALS, SIGNAL_EVENTFD));
        self.push(entry);
    }

    fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() && self.push_now(&entry) {
            return;
        }
        self.backlog.push_back(entry);
        // An error shows again at the turn's own enter.
        let _ = self.submit_backlog();
    }

    fn push_now(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: entries are made in this file only. Those of operations point into memory that the slab
        // keeps until the completion has arrived, the eventfd's into a box that lives as long as the ring
        // (which waits for its completions when it is dropped); the others have no pointers.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    /// Makes room in the submission queue for all that waits for it, as far as the kernel takes it.
    fn submit_backlog(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            while let Some(entry) = self.backlog.front().cloned()
                && self.push_now(&entry)
            {
                self.backlog.pop_front();
            }
            if !self.backlog.is_empty() && self.enter_once(Wait::No)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Submits what was started and waits for completions as told. Returns whether the kernel was entered.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<bool> {
        self.arm_eventfd();
        match self.submit_backlog() {
            Ok(()) => {}
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        let submission = self.uring.submission();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        // Who waits for room, or has completions at hand, must not sleep.
        let wait =
            if self.backlog.is_empty() && self.uring.completion().is_empty() { wait } else { Wait::No };
        if wait == Wait::No && idle {
            return Ok(false);
        }
        match self.enter_once(wait) {
            Ok(_) => Ok(true),
            Err(error) if is_transient(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn enter_once(&mut self, wait: Wait) -> io::Result<usize> {
        let count = u32::try_from(self.uring.submission().len()).unwrap_or(u32::MAX);
        let mut flags = EnterFlags::GETEVENTS;
        if self.features.no_iowait {
            // A shard that waits for work is idle, not held up by a disk.
            flags |= EnterFlags::NO_IOWAIT;
        }
        let submitter = self.uring.submitter();
        match wait {
            // SAFETY: no argument goes along.
            Wait::No => unsafe { submitter.enter::<libc::sigset_t>(count, 0, flags.bits(), None) },
            // SAFETY: as above.
            Wait::Forever => unsafe { submitter.enter::<libc::sigset_t>(count, 1, flags.bits(), None) },
            Wait::For(duration) => {
                let time = types::Timespec::from(duration);
                let arguments = types::SubmitArgs::new().timespec(&time);
                flags |= EnterFlags::EXT_ARG;
                // SAFETY: the argument has the form that EXT_ARG announces and outlives the call.
                unsafe { submitter.enter(count, 1, flags.bits(), Some(&arguments)) }
            }
        }
    }

    /// Takes in all completions that are there.
    pub(super) fn reap(&mut self, reaped: &mut Reaped) {
        loop {
            let Some(completion) = self.uring.completion().next() else { break };
            let [generation, place] =
                [completion.user_data() >> 32, completion.user_data()].map(|part| part as u32);
            match (place, generation) {
                (PLACE_OF_SIGNALS, SIGNAL_EVENTFD) => {
                    self.eventfd_armed = false;
                    self.under_way -= 1;
                }
                // The bell has done its work by ending the sleep; a cancel that fails came too late.
                (PLACE_OF_SIGNALS, _) => {}
                (PLACE_OF_KICKS, id) => {
                    if let Some(target) = self.kicked.get(&id) {
                        target.kick_by_eventfd();
                    }
                }
                _ => self.complete(OperationKey { place, generation }, completion.result(), reaped),
            }
        }
        self.start_queued();
    }

    fn complete(&mut self, key: OperationKey, result: i32, reaped: &mut Reaped) {
        let slot = &mut self.slots[key.place as usize];
        assert_eq!(slot.generation, key.generation, "a completion belongs to the operation in its place");
        let State::UnderWay(mut operation, waker) = std::mem::replace(&mut slot.state, State::Free) else {
            unreachable!("the kernel completes what is under way");
        };
        self.under_way -= 1;
        self.files_under_way -= usize::from(operation.is_of_file());
        // SAFETY: the result is that of the entry which `submit` took from this operation.
        let result = unsafe { operation.complete(result) };
        match waker {
            Some(waker) => {
                slot.state = State::Done(operation, result);
                reaped.wakers.push(waker);
            }
            None => {
                self.release(key.place);
                reaped.abandoned.push(operation);
            }
        }
    }

    fn start_queued(&mut self) {
        while self.files_under_way < FILE_OPERATIONS_MAX
            && let Some(key) = self.queued.pop_front()
        {
            if self.slots[key.place as usize].generation == key.generation {
                self.submit(key);
            }
        }
    }
}

/// Whether an enter failed only because the caller should take in completions first, or was disturbed.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME))
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut reaped = Reaped::default();
        let everything = opcode::AsyncCancel2::new(types::CancelBuilder::any())
            .build()
            .user_data(user_data(PLACE_OF_SIGNALS, SIGNAL_CANCEL));
        self.push(everything);
        for _ in 0..SHUTDOWN_WAITS_MAX {
            if self.under_way == 0 {
                return;
            }
            match self.enter_once(Wait::For(SHUTDOWN_WAIT)) {
                Err(error) if !is_transient(&error) => break,
                _ => {}
            }
            self.reap(&mut reaped);
        }
        if self.under_way > 0 {
            tracing::error!(operations = self.under_way, "a ring was closed with operations under way");
            // The kernel may still write there: this memory is given up rather than freed.
            std::mem::take(&mut self.slots).leak();
            Box::leak(std::mem::replace(&mut self.eventfd_count, Box::new([0; 8])));
        }
    }
}
