//! Brokers to which a connection has just broken, as all shards of the node know them.
//!
//! When a process dies its clients notice as soon as its peers do, and ask at once who leads now: that answer is the one
//! that counts for them, because some look only once a second after it. So what names such a broker is held back until the
//! metadata say something else, or until it took too long.

use logmill_wire::ids::{MonotonicNs, NodeId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long after a loss an answer is held back: several times what another leader takes, and too short for a client to
/// mind.
pub const HELD_BACK_MAX: Duration = Duration::from_millis(300);

/// The losses of a short time, of all shards of a node.
#[derive(Debug, Default)]
pub struct LostPeers {
    lost: Mutex<BTreeMap<NodeId, MonotonicNs>>,
    /// How many there are, for those who would find none.
    count: AtomicUsize,
}

impl LostPeers {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<NodeId, MonotonicNs>)) {
        let mut lost: MutexGuard<'_, _> = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut lost);
        self.count.store(lost.len(), Ordering::Release);
    }

    /// A connection to a broker that stood has broken.
    pub fn note(&self, node: NodeId, now: MonotonicNs) {
        self.change(|lost| {
            lost.insert(node, now);
        });
    }

    /// A connection to a broker stands.
    pub fn forget(&self, node: NodeId) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.change(|lost| {
                lost.remove(&node);
            });
        }
    }

    /// Who was lost so short a time ago that answers are held back for it, and for how long yet; `None` if nobody was.
    #[must_use]
    pub fn recent(&self, now: MonotonicNs) -> Option<(Vec<NodeId>, Duration)> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut found = None;
        self.change(|lost| {
            let most = HELD_BACK_MAX.as_nanos() as u64;
            lost.retain(|_, at| now.since(*at) < most);
            let latest = lost.values().max().map(|at| most - now.since(*at));
            found = latest.map(|left| (lost.keys().copied().collect(), Duration::from_nanos(left)));
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_loss_counts_for_a_short_time_or_until_the_broker_is_there_again() {
        let (peers, most) = (LostPeers::default(), HELD_BACK_MAX.as_nanos() as u64);
        assert_eq!(peers.recent(MonotonicNs(SECOND)), None);
        peers.note(NodeId(2), MonotonicNs(SECOND));
        peers.note(NodeId(3), MonotonicNs(SECOND + 10));
        let both = (vec![NodeId(2), NodeId(3)], HELD_BACK_MAX);
        assert_eq!(peers.recent(MonotonicNs(SECOND + 10)), Some(both));
        let later = peers.recent(MonotonicNs(SECOND + most));
        assert_eq!(later, Some((vec![NodeId(3)], Duration::from_nanos(10))));
        peers.forget(NodeId(3));
        assert_eq!(peers.recent(MonotonicNs(SECOND + most)), None);
        peers.note(NodeId(2), MonotonicNs(2 * SECOND));
        assert_eq!(peers.recent(MonotonicNs(2 * SECOND + most)), None, "it took too long");
    }
}
