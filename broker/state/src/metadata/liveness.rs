//! Which brokers are heard from. It is not in the metadata: a new controller begins as if it had just heard from all.

use std::collections::BTreeMap;

use logmill_wire::ids::{MonotonicNs, NodeId, Uuid};

/// When each broker was heard from last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Liveness {
    heard: BTreeMap<NodeId, (Uuid, MonotonicNs)>,
}

impl Liveness {
    /// Takes note of a heartbeat or a registration.
    pub fn heard(&mut self, node: NodeId, incarnation: Uuid, now: MonotonicNs) {
        self.heard.insert(node, (incarnation, now));
    }

    /// Whether a broker was heard from within `session_timeout_ms`, in whichever incarnation.
    #[must_use]
    pub fn is_alive(&self, node: NodeId, now: MonotonicNs, session_timeout_ms: u64) -> bool {
        let timeout_ns = session_timeout_ms.saturating_mul(1_000_000);
        self.heard.get(&node).is_some_and(|(_, time)| now.since(*time) < timeout_ns)
    }

    /// The brokers among `nodes` to be fenced: not heard from for `session_timeout_ms`. Those that were never heard
    /// from count as heard from now.
    pub fn silent(
        &mut self,
        nodes: impl IntoIterator<Item = (NodeId, Uuid)>,
        now: MonotonicNs,
        session_timeout_ms: u64,
    ) -> Vec<NodeId> {
        let mut silent = Vec::new();
        for (node, incarnation) in nodes {
            self.heard.entry(node).or_insert((incarnation, now));
            if !self.is_alive(node, now, session_timeout_ms) {
                silent.push(node);
            }
        }
        silent
    }
}
