//! Things that may happen, numbered: one task waits for all of them, and any number of others cause them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

#[derive(Default)]
struct State {
    raised: Vec<u32>,
    waker: Option<Waker>,
}

/// One of the things that may happen.
#[derive(Clone)]
pub struct Flag {
    state: Weak<Mutex<State>>,
    number: u32,
}

/// The end that waits: a future for the numbers that were raised since it was last ready, in the order in which that
/// happened. It may be waited for again and again. When it is dropped, nobody is interested any more.
pub struct Flags(Arc<Mutex<State>>);

impl Flags {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// A flag of this number.
    #[must_use]
    pub fn flag(&self, number: u32) -> Flag {
        Flag { state: Arc::downgrade(&self.0), number }
    }
}

impl Default for Flags {
    fn default() -> Self {
        Self::new()
    }
}

impl Flag {
    /// Makes it happen. Who holds several clones should raise one: each adds its number.
    pub fn raise(&self) {
        let Some(state) = self.state.upgrade() else { return };
        let waker = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.raised.push(self.number);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether nobody waits for it any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.state.strong_count() == 0
    }
}

impl Future for Flags {
    type Output = Vec<u32>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<u32>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.raised.is_empty() {
            return Poll::Ready(std::mem::take(&mut state.raised));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    #[test]
    fn what_was_raised_is_told_once() {
        let flags = Flags::new();
        let (first, second) = (flags.flag(1), flags.flag(2));
        let mut context = Context::from_waker(Waker::noop());
        let mut flags = pin!(flags);
        assert_eq!(flags.as_mut().poll(&mut context), Poll::Pending);
        second.raise();
        first.raise();
        assert_eq!(flags.as_mut().poll(&mut context), Poll::Ready(vec![2, 1]));
        assert_eq!(flags.as_mut().poll(&mut context), Poll::Pending);
        first.clone().raise();
        assert_eq!(flags.as_mut().poll(&mut context), Poll::Ready(vec![1]));
        assert!(!first.is_abandoned());
    }

    #[test]
    fn nobody_waits_for_flags_that_were_dropped() {
        let flags = Flags::new();
        let flag = flags.flag(0);
        drop(flags);
        assert!(flag.is_abandoned());
        flag.raise();
    }
}
