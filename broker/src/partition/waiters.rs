//! Who waits for a partition: appends for their answers, fetches for something new.

use super::command::{Acks, AppendReply, Appended, PartitionError};
use super::hosted::Partition;
use crate::runtime::Runtime;
use crate::runtime::flags::Flag;
use crate::shard::short_queue::ShortQueue;
use logmill_wire::ids::Offset;
use std::cell::{Cell, RefCell};

/// An append whose answer is due when an end has passed its own.
pub(super) struct Waiter {
    end: Offset,
    answer: Appended,
    reply: AppendReply,
}

/// Appends that wait, the one that is due first at the front.
#[derive(Default)]
pub(super) struct Waiters(RefCell<ShortQueue<Waiter>>);

impl Waiters {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    #[inline]
    fn add(&self, waiter: Waiter) {
        let mut waiters = self.0.borrow_mut();
        // A duplicate waits for an earlier end than the append before it, so the queue is kept in order.
        if waiters.back().is_none_or(|last| last.end <= waiter.end) {
            waiters.push_back(waiter);
        } else {
            let at = waiters.partition_point(|other| other.end <= waiter.end);
            waiters.insert(at, waiter);
        }
    }

    /// Answers those that are due at `end`.
    pub(super) fn answer(&self, end: Offset, refusal: Option<&PartitionError>) {
        loop {
            let due = {
                let mut waiters = self.0.borrow_mut();
                if waiters.front().is_none_or(|waiter| waiter.end > end) {
                    break;
                }
                waiters.pop_front()
            };
            if let Some(waiter) = due {
                waiter.reply.send(refusal.map_or(Ok(waiter.answer), |error| Err(error.clone())));
            }
        }
    }

    /// Answers all of them with an error.
    pub(super) fn refuse(&self, error: &PartitionError) {
        for waiter in self.0.take() {
            waiter.reply.send(Err(error.clone()));
        }
    }
}

/// Fetches that wait for the high watermark to pass what they have seen.
pub(super) struct Watchers {
    flags: RefCell<Vec<(Offset, Flag)>>,
    swept_at: Cell<usize>,
}

impl Default for Watchers {
    fn default() -> Self {
        Self { flags: RefCell::default(), swept_at: Cell::new(16) }
    }
}

impl Watchers {
    fn add(&self, above: Offset, flag: Flag) {
        let mut flags = self.flags.borrow_mut();
        // Fetches that timed out leave their flags behind; sweeping when the list has doubled keeps that cheap.
        if flags.len() >= self.swept_at.get() {
            flags.retain(|(_, flag)| !flag.is_abandoned());
            self.swept_at.set((flags.len() * 2).max(16));
        }
        flags.push((above, flag));
    }

    /// Raises the flags of those that have seen less than `high_watermark`.
    pub(super) fn wake(&self, high_watermark: Offset) {
        self.flags.borrow_mut().retain(|(above, flag)| {
            if *above < high_watermark {
                flag.raise();
            }
            *above >= high_watermark
        });
    }

    /// Raises all flags.
    pub(super) fn wake_all(&self) {
        for (_, flag) in self.flags.take() {
            flag.raise();
        }
    }
}

impl<R: Runtime> Partition<R> {
    #[inline]
    pub(super) fn answer_when_due(&self, acks: Acks, end: Offset, answer: Appended, reply: AppendReply) {
        let safe_end = {
            let role = self.role.borrow();
            match acks {
                Acks::None => Offset(i64::MAX),
                Acks::Leader => role.log().durable_end(),
                Acks::All => role.log().high_watermark(),
            }
        };
        if safe_end >= end {
            reply.send(Ok(answer));
            return;
        }
        if self.log.health().is_failed() {
            reply.send(Err(self.failure()));
            return;
        }
        let waiter = Waiter { end, answer, reply };
        match self.replicated.get() {
            Some(replicated) if acks == Acks::All => replicated.committed_waiters.add(waiter),
            _ => self.waiters.add(waiter),
        }
    }

    /// Raises `flag` when the high watermark is above `above`; at once if it already is.
    pub fn watch(&self, above: Offset, flag: Flag) {
        if self.is_gone() || self.role.borrow().log().high_watermark() > above {
            flag.raise();
            return;
        }
        self.watchers.add(above, flag);
    }

    /// Answers everybody who waits with an error; what is queued is never appended.
    pub(super) fn refuse_all(&self, error: &PartitionError) {
        self.refuse_queued(error);
        self.refuse_waiting(error);
    }

    /// Answers everybody who waits for what was appended, or deleted.
    pub(super) fn refuse_waiting(&self, error: &PartitionError) {
        self.waiters.refuse(error);
        if let Some(replicated) = self.replicated.get() {
            replicated.committed_waiters.refuse(error);
        }
        self.refuse_deletions(error);
        self.watchers.wake_all();
    }
}
