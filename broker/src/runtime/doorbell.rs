//! The sleep/wake handshake between shards: a sender never misses a sleeper, and a shard that is awake is
//! never disturbed by a system call.
//!
//! | state | set by | meaning |
//! |---|---|---|
//! | `RUNNING` | the shard | it will look at its queues before it sleeps |
//! | `NOTIFIED` | a sender | something was queued since the shard last looked |
//! | `SLEEPING` | the shard | it waits in the kernel: whoever queues something must kick it |
//!
//! The shard goes to sleep only by an exchange from `RUNNING`, so a notice that came first keeps it awake;
//! a sender whose exchange finds `SLEEPING` is the one, and the only one, that kicks.

use super::sync::{AtomicU8, Ordering, fence};

const RUNNING: u8 = 0;
const NOTIFIED: u8 = 1;
const SLEEPING: u8 = 2;

/// What ends a sleep; each backend has its own.
pub trait Kick: Send + Sync {
    /// Makes the shard's present or next sleep return at once. Called from any thread.
    fn kick(&self);
}

/// One shard's bell. The shard calls [`Doorbell::take_notice`], [`Doorbell::begin_sleep`] and
/// [`Doorbell::end_sleep`]; everybody else calls [`Doorbell::notify`].
pub struct Doorbell {
    state: AtomicU8,
    kick: std::sync::Arc<dyn Kick>,
}

impl Doorbell {
    /// The bell of a shard that is awake, and that `kick` would wake.
    #[must_use]
    pub fn new(kick: std::sync::Arc<dyn Kick>) -> Self {
        Self { state: AtomicU8::new(RUNNING), kick }
    }

    /// Tells the shard that something was queued for it. Call it after queueing.
    pub fn notify(&self) {
        // Orders the queueing before the look at the state: with the fence in `take_notice`, either the
        // shard sees what was queued, or this sees the state that the shard has set since.
        fence(Ordering::SeqCst);
        if self.state.load(Ordering::Relaxed) == NOTIFIED {
            return;
        }
        if self.state.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING {
            self.kick.kick();
        }
    }

    /// Whether something was queued since the last call; if so, the queues must be looked at now.
    pub fn take_notice(&self) -> bool {
        if self.state.load(Ordering::Relaxed) != NOTIFIED {
            return false;
        }
        self.state.swap(RUNNING, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        true
    }

    /// Announces a sleep. `false`: something was queued, look at the queues instead of sleeping.
    #[must_use]
    pub fn begin_sleep(&self) -> bool {
        self.state.compare_exchange(RUNNING, SLEEPING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Ends a sleep, whatever ended it. A notice that came meanwhile stays for [`Doorbell::take_notice`].
    pub fn end_sleep(&self) {
        // Fails only if a sender has set `NOTIFIED`.
        let _ = self.state.compare_exchange(SLEEPING, RUNNING, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl std::fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state.load(Ordering::Relaxed) {
            RUNNING => "running",
            NOTIFIED => "notified",
            _ => "sleeping",
        };
        write!(f, "Doorbell({state})")
    }
}
