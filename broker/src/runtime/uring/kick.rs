//! How a shard asleep in its ring is woken: by a message from another shard's ring where the kernel can, by
//! an eventfd that the ring reads otherwise.

use super::{system, task};
use crate::runtime::doorbell::Kick;
use io_uring::IoUring;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The way to one shard's ring.
pub(super) struct RingKick {
    /// Tells the targets of one sender apart.
    pub(super) id: u32,
    /// The ring, held open: its number cannot come to mean another file while somebody may write to it.
    ring: OwnedFd,
    eventfd: OwnedFd,
}

impl RingKick {
    pub(super) fn new(ring: &IoUring) -> io::Result<Arc<Self>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the ring is open, and outlives the borrow.
        let ring = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.try_clone_to_owned()?;
        Ok(Arc::new(Self { id, ring, eventfd: system::eventfd()? }))
    }

    pub(super) fn ring_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    pub(super) fn eventfd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    pub(super) fn kick_by_eventfd(&self) {
        if let Err(error) = system::add_to_eventfd(self.eventfd.as_fd()) {
            tracing::error!(%error, "a sleeping shard could not be woken through its eventfd");
        }
    }
}

/// The [`Kick`] of a ring: a newtype, because leaving the kick to the sender's ring takes a counted reference.
pub(super) struct Kicker(pub(super) Arc<RingKick>);

impl Kick for Kicker {
    fn kick(&self) {
        if !task::defer_kick(&self.0) {
            self.0.kick_by_eventfd();
        }
    }
}
