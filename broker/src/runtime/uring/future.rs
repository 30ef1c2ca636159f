//! The two futures that everything else is made of: an operation of the ring, and a timer.

use super::executor::Shard;
use super::operation::{Completed, Operation};
use super::ring::OperationKey;
use super::timers::TimerKey;
use logmill_wire::ids::MonotonicNs;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, RawWakerVTable, Waker};

enum Stage {
    Ready(Operation),
    Started(OperationKey),
    Finished,
}

/// An operation on its way. It starts with the first poll; dropping it leaves what the kernel may still
/// touch to the ring. An operation that was only interrupted starts again.
pub(super) struct Perform {
    shard: Rc<Shard>,
    stage: Stage,
}

impl Perform {
    pub(super) fn new(shard: &Rc<Shard>, operation: Operation) -> Self {
        Self { shard: Rc::clone(shard), stage: Stage::Ready(operation) }
    }
}

impl Future for Perform {
    type Output = (io::Result<Completed>, Operation);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Finished) {
                Stage::Ready(operation) => {
                    let key = self.shard.ring.borrow_mut().start(operation, context.waker().clone());
                    self.stage = Stage::Started(key);
                    return Poll::Pending;
                }
                Stage::Started(key) => {
                    let done = self.shard.ring.borrow_mut().poll(key, context.waker());
                    match done {
                        None => {
                            self.stage = Stage::Started(key);
                            return Poll::Pending;
                        }
                        Some((Err(error), operation)) if is_interruption(&error) => {
                            self.stage = Stage::Ready(operation);
                        }
                        Some((result, operation)) => return Poll::Ready((result, operation)),
                    }
                }
                Stage::Finished => unreachable!("a finished future is not polled"),
            }
        }
    }
}

fn is_interruption(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR))
}

impl Drop for Perform {
    fn drop(&mut self) {
        if let Stage::Started(key) = self.stage {
            let abandoned = self.shard.ring.borrow_mut().abandon(key);
            drop(abandoned);
        }
    }
}

/// Waits until a time has come.
pub(super) struct Sleep {
    shard: Rc<Shard>,
    deadline: MonotonicNs,
    timer: Option<(TimerKey, Wakes)>,
}

/// What a waker wakes, to be compared: the same while the waker itself, or a clone of it, is kept.
type Wakes = (*const (), &'static RawWakerVTable);

fn wakes(waker: &Waker) -> Wakes {
    (waker.data(), waker.vtable())
}

impl Sleep {
    pub(super) fn new(shard: &Rc<Shard>, deadline: MonotonicNs) -> Self {
        Self { shard: Rc::clone(shard), deadline, timer: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut timers = self.shard.timers.borrow_mut();
        // The clock is not asked: what has become due since timers last fired fires at the end of this turn.
        if timers.has_fired(self.deadline) {
            return Poll::Ready(());
        }
        let (waker, wakes) = (context.waker(), wakes(context.waker()));
        let timer = match self.timer {
            // Most polls are for the sake of something else.
            Some((_, known)) if known.0 == wakes.0 && std::ptr::eq(known.1, wakes.1) => return Poll::Pending,
            Some((timer, _)) if timers.update(timer, waker) => timer,
            _ => timers.set(self.deadline, waker.clone()),
        };
        drop(timers);
        self.timer = Some((timer, wakes));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((timer, _)) = self.timer {
            let waker = self.shard.timers.borrow_mut().cancel(timer);
            drop(waker);
        }
    }
}
