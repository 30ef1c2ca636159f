//! The atomics, locks and cells under [`doorbell`](super::doorbell) and [`mailbox`](super::mailbox), in one
//! place so that their test can put a model checker's versions of the same names in their stead.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
pub(crate) use std::sync::{Arc, Mutex};

/// A cell whose content is reached only inside a closure, so that a model checker can see each access.
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Hands out the pointer; the caller's SAFETY comment says why nobody else touches the content meanwhile.
    pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}
