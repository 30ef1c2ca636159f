//! What the links of a shard have done.

use std::cell::Cell;

/// Counts since the shard began.
#[derive(Default, Debug)]
pub struct ReplicationCounters {
    /// Frames sent, keepalives aside.
    pub frames_sent: Cell<u64>,
    /// Of those, pushes.
    pub pushes_sent: Cell<u64>,
    /// Bytes of batches that were pushed.
    pub bytes_pushed: Cell<u64>,
    /// Of those, bytes that were read from disk for a follower that caught up.
    pub bytes_caught_up: Cell<u64>,
    /// Links that came to stand.
    pub connects: Cell<u64>,
    /// Links that stood and were lost.
    pub losses: Cell<u64>,
    /// Frames received, keepalives aside.
    pub frames_received: Cell<u64>,
    /// Bytes of batches that were received.
    pub bytes_received: Cell<u64>,
    /// Connections that were refused, or closed for what came on them.
    pub refused: Cell<u64>,
}

/// Adds to a count.
pub(super) fn count(counter: &Cell<u64>, more: usize) {
    counter.set(counter.get().saturating_add(more as u64));
}
