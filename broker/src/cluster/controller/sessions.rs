//! Which brokers live, as the active controller sees it.
//!
//! Sessions have a clock of their own. It goes only while the controller looks at it, and a step is never longer than a
//! small part of a session: if the controller was paused or slow, the heartbeats that wait meanwhile are read before
//! anybody's session has ended.
//!
//! What comes over the connections of the control shard counts, too. A broker whose pings arrive is slow, not silent, so its
//! session is longer. And a controller that begins to lead knows who was silent before: that time counts, for the most part,
//! so that the end of a host that led the quorum and partitions is not waited for twice.

use logmill_state::metadata::{Broker, Image, Liveness};
use logmill_wire::ids::{MonotonicNs, NodeId, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Looks within one session.
const LOOKS_PER_SESSION: u64 = 20;

/// Sessions that a broker has whose pings arrive and whose heartbeats do not.
const SESSIONS_WITH_PINGS: u64 = 4;

/// The sessions of all brokers, in one leadership of the quorum.
pub(super) struct Sessions {
    session_timeout_ms: u64,
    heartbeat_interval_ms: u64,
    term: u64,
    /// What is applied at the beginning of the leadership.
    led_from: u64,
    looked_at: MonotonicNs,
    /// Whether what the connections tell of the time before this leadership is taken into account.
    has_looked_back: bool,
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
        // So that there is a time before it.
        let clock = MonotonicNs(session_timeout_ms.saturating_mul(1_000_000));
        Self {
            session_timeout_ms,
            heartbeat_interval_ms,
            term: 0,
            led_from: 0,
            looked_at: MonotonicNs(0),
            has_looked_back: false,
            clock,
            began: clock,
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

    /// The controller leads in this term; in a new one everybody has a full session before them, until
    /// [`Sessions::look_back`].
    pub fn lead(&mut self, term: u64, applied: u64, now: MonotonicNs) {
        self.advance(now);
        if self.term == term {
            return;
        }
        (self.term, self.led_from, self.began) = (term, applied, self.clock);
        self.liveness = Liveness::default();
        self.has_looked_back = false;
        self.heard.clear();
        self.registered.clear();
    }

    /// Who has been silent since before this leadership has that much less of a session before them, but a third of it
    /// at least: this controller may have been paused, and what came meanwhile is still to be read.
    pub fn look_back(&mut self, image: &Image, silent_for: impl Fn(NodeId) -> Option<Duration>) {
        if std::mem::replace(&mut self.has_looked_back, true) {
            return;
        }
        let most_ns = self.session_timeout_ms.saturating_mul(1_000_000) / 3 * 2;
        for broker in image.brokers().filter(|broker| !self.heard.contains_key(&broker.id)) {
            let silent_ns = silent_for(broker.id).map_or(0, |silent| silent.as_nanos() as u64).min(most_ns);
            let since = MonotonicNs(self.began.0.saturating_sub(silent_ns));
            self.liveness.heard(broker.id, broker.incarnation, since);
        }
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
    pub fn silent(
        &mut self,
        image: &Image,
        now: MonotonicNs,
        silent_for: impl Fn(NodeId) -> Option<Duration>,
    ) -> Vec<NodeId> {
        self.advance(now);
        let unfenced = image.brokers().filter(|broker| !broker.fenced);
        let unfenced = unfenced.map(|broker| (broker.id, broker.incarnation));
        let mut silent = self.liveness.silent(unfenced, self.clock, self.session_timeout_ms);
        let session = Duration::from_millis(self.session_timeout_ms);
        let longest_ms = self.session_timeout_ms.saturating_mul(SESSIONS_WITH_PINGS);
        silent.retain(|&node| {
            let pings = silent_for(node).is_some_and(|silent| silent < session);
            !pings || !self.liveness.is_alive(node, self.clock, longest_ms)
        });
        silent
    }
}
