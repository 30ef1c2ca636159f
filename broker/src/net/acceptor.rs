//! Accepting connections and giving them to shards.

use super::connection::ConnectionInfo;
use super::counts::{ConnectionCounts, ConnectionLimits};
use super::pace::ConnectionPace;
use crate::runtime::{Listener, Runtime};
use logmill_wire::ids::{MonotonicNs, ShardIndex};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long accepting pauses when there are as many connections as there may be.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// How long it pauses after an error, such as too many open files: at once it would only fail again.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What the acceptors of a broker share.
pub struct Acceptance {
    /// The counts of all listeners.
    pub counts: Arc<ConnectionCounts>,
    /// The bounds, which may change while the broker runs.
    limits: Mutex<Arc<ConnectionLimits>>,
    /// When the next connection may come.
    pace: Mutex<ConnectionPace>,
    /// The number of the next connection.
    next_connection_id: AtomicU64,
}

impl Acceptance {
    /// Nothing is accepted yet.
    #[must_use]
    pub fn new(counts: Arc<ConnectionCounts>, limits: ConnectionLimits) -> Self {
        Self {
            counts,
            limits: Mutex::new(Arc::new(limits)),
            pace: Mutex::default(),
            next_connection_id: AtomicU64::new(0),
        }
    }

    /// Sets other bounds. Connections that there are stay, even if there are more than may be from now on.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(limits);
    }

    /// How long accepting must pause, if it must: there are as many connections as there may be, or too many came
    /// lately. Those that wait are in the kernel's queue.
    fn pause(&self, now: MonotonicNs) -> Option<Duration> {
        let limits = self.limits();
        if self.counts.total() >= limits.total {
            return Some(FULL_PAUSE);
        }
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).pause(now, limits.creation_rate)
    }

    fn note_accepted(&self, now: MonotonicNs) {
        let rate = self.limits().creation_rate;
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).note(now, rate);
    }

    fn limits(&self) -> Arc<ConnectionLimits> {
        Arc::clone(&self.limits.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Accepts connections on one listener for as long as the task lives, and gives each to the shard that has the
/// fewest. No error ends it; a streak of errors is logged once.
pub async fn accept_connections<R: Runtime>(
    runtime: R,
    listener: R::Listener,
    name: Arc<str>,
    acceptance: Arc<Acceptance>,
    hand_over: impl Fn(ShardIndex, R::ConnectionHandle, ConnectionInfo),
) {
    let mut is_failing = false;
    loop {
        while let Some(pause) = acceptance.pause(runtime.monotonic()) {
            runtime.sleep(pause).await;
        }
        let (handle, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_failing {
                    tracing::error!(
                        listener = %name, %error,
                        "connections cannot be accepted; trying on. If files have run out, raise the limit of open files"
                    );
                }
                is_failing = true;
                runtime.sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        acceptance.note_accepted(runtime.monotonic());
        if std::mem::take(&mut is_failing) {
            tracing::info!(listener = %name, "connections are accepted again");
        }
        let Some(ticket) = acceptance.counts.enter(peer.ip(), &acceptance.limits()) else {
            tracing::debug!(listener = %name, %peer, "an address has as many connections as it may");
            // Adopted and dropped, the connection is closed.
            drop(runtime.adopt(handle));
            continue;
        };
        let id = acceptance.next_connection_id.fetch_add(1, Ordering::Relaxed);
        let shard = ticket.shard();
        hand_over(
            shard,
            handle,
            ConnectionInfo { id, listener: Arc::clone(&name), peer, ticket, carried: None },
        );
    }
}
