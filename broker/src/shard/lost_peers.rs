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

/// How long after a loss a broker is still named among the brokers, though it is fenced: librdkafka takes the partitions of
/// one that is not named any more away from whoever leads them now, and looks for that a second later.
pub const NAMED_FOR: Duration = Duration::from_secs(5);

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
            lost.retain(|_, at| now.since(*at) < NAMED_FOR.as_nanos() as u64);
            let left = |at: &MonotonicNs| (HELD_BACK_MAX.as_nanos() as u64).saturating_sub(now.since(*at));
            let held: Vec<_> = lost.iter().filter(|(_, at)| left(at) > 0).collect();
            let latest = held.iter().map(|(_, at)| left(at)).max();
            let nodes = || held.iter().map(|(node, _)| **node).collect();
            found = latest.map(|left| (nodes(), Duration::from_nanos(left)));
        });
        found
    }

    /// Whether a broker was lost so short a time ago that it is still named.
    #[must_use]
    pub fn is_named(&self, node: NodeId, now: MonotonicNs) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get(&node).is_some_and(|at| now.since(*at) < NAMED_FOR.as_nanos() as u64)
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
        let named = |node, now| peers.is_named(NodeId(node), MonotonicNs(now));
        assert!(named(2, SECOND + most) && named(3, SECOND + most) && !named(4, SECOND + most));
        assert!(!named(2, SECOND + NAMED_FOR.as_nanos() as u64), "its time is over");
        peers.forget(NodeId(3));
        assert!(!named(3, SECOND + most));
        assert_eq!(peers.recent(MonotonicNs(SECOND + most)), None);
        peers.note(NodeId(2), MonotonicNs(2 * SECOND));
        assert_eq!(peers.recent(MonotonicNs(2 * SECOND + most)), None, "it took too long");
    }
}
