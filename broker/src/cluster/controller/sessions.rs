//! Which brokers live, as the active controller sees it.
//!
//! Sessions have a clock of their own. It goes only while the controller looks at it, and a step is never longer than a
//! small part of a session: if the controller was paused or slow, the heartbeats that wait meanwhile are read before
//! anybody's session has ended.

use logmill_state::metadata::{Broker, Image, Liveness};
use logmill_wire::ids::{MonotonicNs, NodeId, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Looks within one session.
const LOOKS_PER_SESSION: u64 = 20;

/// The sessions of all brokers, in one leadership of the quorum.
pub(super) struct Sessions {
    session_timeout_ms: u64,
    heartbeat_interval_ms: u64,
    term: u64,
    /// What is applied at the beginning of the leadership.
    led_from: u64,
    looked_at: MonotonicNs,
    /// The sessions' clock, and what it was when the leadership began.
    clock: MonotonicNs,
    began: MonotonicNs,
    liveness: Liveness,
    /// Who has spoken to this controller.
    heard: BTreeMap<NodeId, Uuid>,
    heartbeats: BTreeMap<NodeId, u64>,
    /// Processes that were held to be dead because they refused a connection.
    found_lost: BTreeSet<Uuid>,
    registered: BTreeMap<NodeId, (Uuid, u64)>,
}

impl Sessions {
    pub fn new(session_timeout_ms: u64, heartbeat_interval_ms: u64) -> Self {
        Self {
            session_timeout_ms,
            heartbeat_interval_ms,
            term: 0,
            led_from: 0,
            looked_at: MonotonicNs(0),
            clock: MonotonicNs(0),
            began: MonotonicNs(0),
            liveness: Liveness::default(),
            heard: BTreeMap::new(),
            heartbeats: BTreeMap::new(),
            found_lost: BTreeSet::new(),
            registered: BTreeMap::new(),
        }
    }

    /// How often the sessions are to be looked at.
    pub fn interval(&self) -> Duration {
        Duration::from_millis((self.session_timeout_ms / LOOKS_PER_SESSION).clamp(1, 500))
    }

    /// The controller leads in this term; in a new one everybody has a full session before them.
    pub fn lead(&mut self, term: u64, applied: u64, now: MonotonicNs) {
        self.advance(now);
        if self.term == term {
            return;
        }
        (self.term, self.led_from, self.began) = (term, applied, self.clock);
        self.liveness = Liveness::default();
        self.heard.clear();
        self.registered.clear();
    }

    fn advance(&mut self, now: MonotonicNs) {
        let step_max = self.interval().as_nanos() as u64 * 2;
        let step = now.since(self.looked_at).min(step_max);
        self.looked_at = now;
        self.clock = MonotonicNs(self.clock.0.saturating_add(step));
    }

    /// A broker has given a sign of life.
    pub fn hear(&mut self, node: NodeId, incarnation: Uuid, now: MonotonicNs) {
        self.advance(now);
        self.liveness.heard(node, incarnation, self.clock);
        self.heard.insert(node, incarnation);
        *self.heartbeats.entry(node).or_default() += 1;
    }

    /// How often a broker has been heard.
    pub fn heartbeats(&self, node: NodeId) -> u64 {
        self.heartbeats.get(&node).copied().unwrap_or(0)
    }

    /// A process has refused a connection, and is held to be dead.
    pub fn note_found_lost(&mut self, incarnation: Uuid) {
        self.found_lost.insert(incarnation);
    }

    /// Whether a process was held to be dead because it refused a connection.
    pub fn was_found_lost(&self, incarnation: Uuid) -> bool {
        self.found_lost.contains(&incarnation)
    }

    /// A broker's registration is committed.
    pub fn note_registered(&mut self, node: NodeId, incarnation: Uuid, index: u64) {
        self.registered.insert(node, (incarnation, index));
    }

    /// How far a broker must have the metadata to be unfenced: those of its registration, or if that was before this
    /// leadership, all from before it.
    pub fn metadata_wanted(&self, node: NodeId, incarnation: Uuid) -> u64 {
        match self.registered.get(&node) {
            Some((registered, index)) if *registered == incarnation => *index,
            _ => self.led_from,
        }
    }

    /// Whether a broker's session goes on.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.liveness.is_alive(node, self.clock, self.session_timeout_ms)
    }

    /// Whether another process must not register in the place of `broker`. Of one that has not spoken to this
    /// controller, that is so while it could not yet have spoken, unless the new one has the log directories, whose
    /// lock it holds.
    pub fn is_taken(&self, broker: &Broker, directories: &[Uuid]) -> bool {
        if broker.fenced {
            return false;
        }
        if self.heard.get(&broker.id) == Some(&broker.incarnation) {
            return self.is_alive(broker.id);
        }
        let patience_ns = self.heartbeat_interval_ms.saturating_mul(2_000_000);
        let has_directories = !directories.is_empty() && broker.directories == directories;
        !has_directories && self.clock.since(self.began) < patience_ns
    }

    /// The brokers whose sessions have ended, and that are not fenced for it yet.
    pub fn silent(&mut self, image: &Image, now: MonotonicNs) -> Vec<NodeId> {
        self.advance(now);
        let unfenced = image.brokers().filter(|broker| !broker.fenced);
        let unfenced = unfenced.map(|broker| (broker.id, broker.incarnation));
        self.liveness.silent(unfenced, self.clock, self.session_timeout_ms)
    }
}
