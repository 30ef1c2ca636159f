//! The shard's memory budget: reserved classes, so that one that is spent never stops what would free it.
//!
//! Whoever is about to hold bytes on behalf of others reserves room first. A class that is spent makes its own
//! callers wait, first come first served; giving room back never waits. Nobody may wait for room while holding
//! room of the same class, or the class could lock itself up. Records that are kept to be read again are bounded
//! where they are kept.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What room is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryClass {
    /// Frames of other brokers.
    Peers,
    /// Requests that are neither Produce nor answers to Fetch: metadata, lookups, groups.
    Control,
    /// Produce requests, until their records are in the log.
    Produce,
    /// Answers to Fetch, until the consumer has them.
    Fetch,
    /// Requests that have arrived whole before room was looked for: they wait for no stranger's bytes, and so
    /// nobody who announces much and falls silent holds them up.
    Whole,
}

/// The classes and their shares of the budget, in parts of 100.
const SHARES: [(MemoryClass, usize); CLASSES] = [
    (MemoryClass::Peers, 5),
    (MemoryClass::Control, 15),
    (MemoryClass::Produce, 40),
    (MemoryClass::Fetch, 35),
    (MemoryClass::Whole, 5),
];

const CLASSES: usize = 5;

/// More than the whole class was asked for: it would never be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// What was asked for, in bytes.
    pub bytes: usize,
    /// The size of the class, in bytes.
    pub class_bytes: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes at once exceed the {} bytes that a shard has for this; raise logmill.memory.bytes or send less",
            self.bytes, self.class_bytes
        )
    }
}

impl std::error::Error for TooLarge {}

struct Waiter {
    ticket: u64,
    bytes: usize,
    granted: bool,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Account {
    size: usize,
    used: usize,
    next_ticket: u64,
    waiters: VecDeque<Waiter>,
}

impl Account {
    fn fits(&self, bytes: usize) -> bool {
        self.used.saturating_add(bytes) <= self.size
    }

    /// Gives room to those who wait, in their order, as far as it goes.
    fn grant(&mut self) {
        let mut used = self.used;
        for waiter in self.waiters.iter_mut().filter(|waiter| !waiter.granted) {
            if used.saturating_add(waiter.bytes) > self.size {
                break;
            }
            used += waiter.bytes;
            waiter.granted = true;
            if let Some(waker) = waiter.waker.take() {
                waker.wake();
            }
        }
        self.used = used;
    }
}

type Accounts = RefCell<[Account; CLASSES]>;

/// One shard's memory classes. Cheap to clone.
#[derive(Clone)]
pub struct MemoryClasses(Rc<Accounts>);

impl MemoryClasses {
    /// Divides a shard's budget for requests and replies; what caches keep is not part of it.
    #[must_use]
    pub fn new(budget_bytes: usize) -> Self {
        let accounts =
            SHARES.map(|(_, share)| Account { size: budget_bytes / 100 * share, ..Account::default() });
        Self(Rc::new(RefCell::new(accounts)))
    }

    fn with<T>(&self, class: MemoryClass, work: impl FnOnce(&mut Account) -> T) -> T {
        work(&mut self.0.borrow_mut()[class as usize])
    }

    /// The size of a class, in bytes.
    #[must_use]
    pub fn size(&self, class: MemoryClass) -> usize {
        self.with(class, |account| account.size)
    }

    /// What of a class is free, in bytes.
    #[must_use]
    pub fn free(&self, class: MemoryClass) -> usize {
        self.with(class, |account| account.size.saturating_sub(account.used))
    }

    /// Whether somebody waits for room in the class: who holds some without getting on should let go.
    #[must_use]
    pub fn is_contended(&self, class: MemoryClass) -> bool {
        self.with(class, |account| !account.waiters.is_empty())
    }

    /// Waits for room. Dropping the future gives up the place in the queue.
    ///
    /// # Errors
    /// [`TooLarge`], at once, if the class could never have so much.
    pub fn reserve(&self, class: MemoryClass, bytes: usize) -> Result<Reserve, TooLarge> {
        let class_bytes = self.size(class);
        if bytes > class_bytes {
            return Err(TooLarge { bytes, class_bytes });
        }
        Ok(Reserve { classes: self.clone(), class, bytes, ticket: None, done: false })
    }

    /// Takes room at once, if need be beyond the class's size: for bytes that are there already. Others wait
    /// until the class has recovered.
    #[must_use]
    pub fn reserve_now(&self, class: MemoryClass, bytes: usize) -> Reservation {
        self.with(class, |account| account.used += bytes);
        Reservation { classes: self.clone(), class, bytes }
    }
}

/// The future of [`MemoryClasses::reserve`].
pub struct Reserve {
    classes: MemoryClasses,
    class: MemoryClass,
    bytes: usize,
    ticket: Option<u64>,
    done: bool,
}

impl Future for Reserve {
    type Output = Reservation;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Reservation> {
        let this = self.get_mut();
        let (bytes, ticket) = (this.bytes, this.ticket);
        let granted = this.classes.with(this.class, |account| match ticket {
            None if account.waiters.is_empty() && account.fits(bytes) => {
                account.used += bytes;
                Ok(())
            }
            None => {
                let ticket = account.next_ticket;
                account.next_ticket += 1;
                let waker = Some(context.waker().clone());
                account.waiters.push_back(Waiter { ticket, bytes, granted: false, waker });
                Err(ticket)
            }
            Some(ticket) => {
                let index = account.waiters.iter().position(|waiter| waiter.ticket == ticket);
                match index.and_then(|index| account.waiters.get_mut(index).map(|waiter| (index, waiter))) {
                    Some((_, waiter)) if !waiter.granted => {
                        waiter.waker = Some(context.waker().clone());
                        Err(ticket)
                    }
                    Some((index, _)) => {
                        account.waiters.remove(index);
                        Ok(())
                    }
                    None => Ok(()),
                }
            }
        });
        match granted {
            Ok(()) => {
                this.done = true;
                Poll::Ready(Reservation { classes: this.classes.clone(), class: this.class, bytes })
            }
            Err(ticket) => {
                this.ticket = Some(ticket);
                Poll::Pending
            }
        }
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.filter(|_| !self.done) else { return };
        self.classes.with(self.class, |account| {
            let Some(index) = account.waiters.iter().position(|waiter| waiter.ticket == ticket) else {
                return;
            };
            if let Some(waiter) = account.waiters.remove(index)
                && waiter.granted
            {
                account.used = account.used.saturating_sub(waiter.bytes);
            }
            account.grant();
        });
    }
}

/// Room that is held; dropping it gives it back.
pub struct Reservation {
    classes: MemoryClasses,
    class: MemoryClass,
    bytes: usize,
}

impl Reservation {
    /// How much, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Which class it is of.
    #[must_use]
    pub const fn class(&self) -> MemoryClass {
        self.class
    }

    /// Makes it what is really held; more than before is taken at once, as by [`MemoryClasses::reserve_now`].
    pub fn resize(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        self.classes.with(self.class, |account| {
            account.used = account.used.saturating_sub(before).saturating_add(bytes);
            account.grant();
        });
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.resize(0);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({} bytes of {:?})", self.bytes, self.class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn room_goes_to_who_came_first() {
        let classes = MemoryClasses::new(1000);
        assert_eq!(classes.size(MemoryClass::Produce), 400);
        let first = classes.reserve_now(MemoryClass::Produce, 300);
        let mut large = pin!(classes.reserve(MemoryClass::Produce, 200).unwrap());
        let mut small = pin!(classes.reserve(MemoryClass::Produce, 10).unwrap());
        assert!(poll_once(large.as_mut()).is_pending());
        assert!(poll_once(small.as_mut()).is_pending(), "the small one must not overtake");
        assert!(classes.is_contended(MemoryClass::Produce));
        assert!(!classes.is_contended(MemoryClass::Control));
        drop(first);
        let Poll::Ready(large) = poll_once(large.as_mut()) else { panic!("there is room") };
        let Poll::Ready(small) = poll_once(small.as_mut()) else { panic!("there is room") };
        assert_eq!(classes.free(MemoryClass::Produce), 190);
        drop((large, small));
        assert_eq!(classes.free(MemoryClass::Produce), 400);
        assert!(!classes.is_contended(MemoryClass::Produce));
    }

    #[test]
    fn who_gives_up_makes_way() {
        let classes = MemoryClasses::new(1000);
        let held = classes.reserve_now(MemoryClass::Fetch, 200);
        let mut large = Box::pin(classes.reserve(MemoryClass::Fetch, 200).unwrap());
        let mut small = pin!(classes.reserve(MemoryClass::Fetch, 100).unwrap());
        assert!(poll_once(large.as_mut()).is_pending());
        assert!(poll_once(small.as_mut()).is_pending());
        drop(large);
        assert!(poll_once(small.as_mut()).is_ready());
        // Granted but never taken: the room must come back.
        let mut waiting = Box::pin(classes.reserve(MemoryClass::Fetch, 250).unwrap());
        assert!(poll_once(waiting.as_mut()).is_pending());
        drop(held);
        drop(waiting);
        assert_eq!(classes.free(MemoryClass::Fetch), 350);
    }

    #[test]
    fn what_can_never_be_granted_is_refused() {
        let classes = MemoryClasses::new(1000);
        let Err(error) = classes.reserve(MemoryClass::Control, 151) else { panic!("must be refused") };
        assert_eq!(error, TooLarge { bytes: 151, class_bytes: 150 });
        let mut over = classes.reserve_now(MemoryClass::Control, 200);
        assert_eq!(classes.free(MemoryClass::Control), 0);
        let mut next = pin!(classes.reserve(MemoryClass::Control, 50).unwrap());
        assert!(poll_once(next.as_mut()).is_pending());
        over.resize(50);
        assert!(poll_once(next.as_mut()).is_ready());
    }
}
