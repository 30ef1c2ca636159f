//! Something that happens once, for which one task waits and that any number of others may cause.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

#[derive(Default)]
struct State {
    happened: bool,
    waker: Option<Waker>,
}

/// The end that causes it. Clones cause the same event.
#[derive(Clone)]
pub struct Event(Weak<Mutex<State>>);

/// The end that waits: a future. When it is dropped, nobody is interested any more.
pub struct Wait(Arc<Mutex<State>>);

/// A new event.
#[must_use]
pub fn event() -> (Event, Wait) {
    let state = Arc::new(Mutex::new(State::default()));
    (Event(Arc::downgrade(&state)), Wait(state))
}

impl Event {
    /// Makes it happen.
    pub fn set(&self) {
        let Some(state) = self.0.upgrade() else { return };
        let waker = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.happened = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether nobody waits for it any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.happened {
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
