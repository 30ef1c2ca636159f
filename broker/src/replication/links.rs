//! The links of one shard to other brokers. One comes into being when the shard first has something for a broker.

use super::Partitions;
use super::counters::{ReplicationCounters, count};
use super::cut::Cut;
use super::dial::{Plain, Standing, Target, Transport, dial};
use super::greeting::own_hello;
use super::outbox::Outbox;
use super::session::Session;
use super::throttle::{Throttle, ThrottlePlan};
use crate::partition::peers::Peers;
use crate::runtime::Runtime;
use crate::shard::deadline::{Either, either, within};
use crate::shard::lost_peers::LostPeers;
use crate::shard::signal::Signal;
use logmill_state::metadata::Image;
use logmill_state::partition::AlterPartition;
use logmill_wire::frame::replication::{EpochAnswer, EpochQuery, Hello, Link, PartitionEnds};
use logmill_wire::ids::{NodeId, TopicPartition};
use logmill_wire::limits::{
    REPLICATION_BACKOFF_MS, REPLICATION_CONNECT_MS, REPLICATION_PUSH_FIRST_BYTES, REPLICATION_RIDE_MS,
};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// A link that stood for so long was no failure when it is lost.
const STOOD_NS: u64 = 1_000_000_000;

/// Takes proposals for other in-sync sets to the controller.
pub type AskController = Rc<dyn Fn(TopicPartition, AlterPartition)>;

/// What the links of a shard begin with.
pub struct LinksSettings {
    /// This broker.
    pub node_id: NodeId,
    /// Shards of this broker.
    pub shards: u16,
    /// The listener on which brokers reach each other (`inter.broker.listener.name`); without one there are no links.
    pub listener: Option<String>,
    /// The way to the controller.
    pub ask_controller: AskController,
    /// Where brokers are noted to which a link has broken.
    pub lost_peers: Arc<LostPeers>,
}

/// The links of one shard. A clone is the same.
pub struct Links<R: Runtime, T: Transport<R> = Plain>(Rc<Inner<R, T>>);

impl<R: Runtime, T: Transport<R>> Clone for Links<R, T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct Inner<R: Runtime, T: Transport<R>> {
    runtime: R,
    transport: T,
    settings: LinksSettings,
    counters: Rc<ReplicationCounters>,
    partitions: OnceCell<Weak<dyn Partitions>>,
    image: RefCell<Arc<Image>>,
    remotes: RefCell<BTreeMap<NodeId, Rc<Remote>>>,
    throttle: Throttle,
}

/// One other broker.
struct Remote {
    node: NodeId,
    outbox: Outbox,
    /// Whom the link leads to, and what this broker calls itself there.
    target: RefCell<Option<(Target, Hello)>>,
    is_gone: Cell<bool>,
    changed: Signal,
}

impl<R: Runtime, T: Transport<R>> Links<R, T> {
    /// No links yet.
    #[must_use]
    pub fn new(runtime: R, transport: T, settings: LinksSettings, counters: Rc<ReplicationCounters>) -> Self {
        Self(Rc::new(Inner {
            runtime,
            transport,
            settings,
            counters,
            partitions: OnceCell::new(),
            image: RefCell::default(),
            remotes: RefCell::default(),
            throttle: Throttle::default(),
        }))
    }

    /// Names the partitions, which had to be given their way to other brokers before. Links end with them.
    pub fn begin(&self, partitions: Weak<dyn Partitions>) {
        // The first one stays.
        let _ = self.0.partitions.set(partitions);
        self.0.remotes.borrow().values().for_each(|remote| remote.changed.notify_all());
    }

    /// Takes over a newer image; before the partitions do, whose words to a new process must not be taken for words to
    /// the last one. The image must know this process of this broker.
    pub fn apply_image(&self, image: Arc<Image>) {
        let place = (self.0.runtime.shard(), self.0.settings.shards);
        self.set_throttles(ThrottlePlan::of(&image, self.0.settings.node_id, place));
        *self.0.image.borrow_mut() = image;
        let remotes: Vec<_> = self.0.remotes.borrow().values().map(Rc::clone).collect();
        for remote in remotes {
            let target = self.0.target(remote.node);
            let before = remote.target.replace(target.clone());
            if before == target {
                continue;
            }
            if let Some((before, _)) = &before {
                let is_same = target.as_ref().is_some_and(|(now, _)| now.incarnation == before.incarnation);
                if !is_same {
                    remote.outbox.clear();
                }
                if self.0.image.borrow().broker(remote.node).is_none() {
                    remote.is_gone.set(true);
                    self.0.remotes.borrow_mut().remove(&remote.node);
                }
            }
            remote.changed.notify_all();
        }
    }

    /// Bounds what replicas that catch up get from this shard; the next image bounds it anew (KIP-73).
    pub fn set_throttles(&self, plan: ThrottlePlan) {
        self.0.throttle.set(plan);
    }

    /// What the links have done.
    #[must_use]
    pub fn counters(&self) -> Rc<ReplicationCounters> {
        Rc::clone(&self.0.counters)
    }

    fn remote(&self, node: NodeId) -> Rc<Remote> {
        if let Some(remote) = self.0.remotes.borrow().get(&node) {
            return Rc::clone(remote);
        }
        let remote = Rc::new(Remote {
            node,
            outbox: Outbox::default(),
            target: RefCell::new(self.0.target(node)),
            is_gone: Cell::new(false),
            changed: Signal::default(),
        });
        self.0.remotes.borrow_mut().insert(node, Rc::clone(&remote));
        let (inner, kept) = (Rc::clone(&self.0), Rc::clone(&remote));
        self.0.runtime.spawn(async move { inner.keep(&kept).await });
        remote
    }
}

impl<R: Runtime, T: Transport<R>> Inner<R, T> {
    fn target(&self, node: NodeId) -> Option<(Target, Hello)> {
        let image = self.image.borrow();
        let broker = image.broker(node)?;
        let own = own_hello(&image, self.settings.node_id, self.runtime.shard(), Link::Live)?;
        let endpoint = broker.endpoint(self.settings.listener.as_deref()?)?;
        let (host, port) = (endpoint.host.as_str().into(), endpoint.port);
        Some((Target { node, incarnation: broker.incarnation, host, port }, own))
    }

    /// Keeps the link to a broker up for as long as there is one.
    async fn keep(&self, remote: &Remote) {
        let (mut failures, mut was_lost, mut is_known) = (0, false, false);
        while !remote.is_gone.get() {
            let target = remote.target.borrow().clone();
            let (Some((target, hello)), Some(partitions)) = (target, self.partitions.get()) else {
                remote.changed.wait().await;
                continue;
            };
            // After a loss both ends have to be told, even if nothing waits.
            if !was_lost && remote.outbox.is_empty() {
                either(remote.outbox.changed.wait(), remote.changed.wait()).await;
                continue;
            }
            let began = self.runtime.monotonic();
            let limit = Duration::from_millis(REPLICATION_CONNECT_MS);
            let dialled = within(&self.runtime, limit, dial(&self.runtime, &self.transport, &target, &hello));
            match dialled.await.unwrap_or_else(|| Err(Cut::failed("connecting took too long"))) {
                Ok(standing) => {
                    let Some(partitions) = partitions.upgrade() else { return };
                    let cut = self.speak(remote, &target, hello, standing, &partitions).await;
                    tracing::warn!(broker = %target.node, cause = %cut, "a link to a broker was lost; trying to connect again");
                    (was_lost, is_known) = (true, false);
                }
                Err(cut) if !is_known => {
                    tracing::warn!(broker = %target.node, cause = %cut, "a broker cannot be reached; trying on");
                    is_known = true;
                }
                Err(_) => {}
            }
            let has_stood = self.runtime.monotonic().since(began) >= STOOD_NS && !is_known;
            failures = if has_stood { 0 } else { failures + 1 };
            either(self.runtime.sleep(self.pause(failures)), remote.changed.wait()).await;
        }
    }

    async fn speak(
        &self,
        remote: &Remote,
        target: &Target,
        hello: Hello,
        standing: Standing<R, T::Connection>,
        partitions: &Rc<dyn Partitions>,
    ) -> Cut {
        count(&self.counters.connects, 1);
        self.settings.lost_peers.forget(remote.node);
        tracing::info!(broker = %target.node, "a link to a broker stands");
        partitions.resend(remote.node);
        let session = Session {
            runtime: &self.runtime,
            transport: &self.transport,
            target,
            hello,
            outbox: &remote.outbox,
            partitions: Rc::clone(partitions),
            counters: &self.counters,
            push_bytes: Cell::new(REPLICATION_PUSH_FIRST_BYTES),
            throttle: &self.throttle,
        };
        let outdated = async {
            while remote
                .target
                .borrow()
                .as_ref()
                .is_some_and(|(now, as_who)| now == target && *as_who == hello)
            {
                remote.changed.wait().await;
            }
        };
        let cut = match either(session.run(standing), outdated).await {
            Either::First(cut) => cut,
            Either::Second(()) => Cut::Outdated,
        };
        count(&self.counters.losses, 1);
        if !matches!(cut, Cut::Outdated) {
            self.settings.lost_peers.note(remote.node, self.runtime.monotonic());
        }
        remote.outbox.forget_disk();
        partitions.link_lost(remote.node);
        cut
    }

    /// Half of the pause is left to chance, so that all do not come at once.
    fn pause(&self, failures: u32) -> Duration {
        let (first, most) = REPLICATION_BACKOFF_MS;
        let whole_ms = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most);
        Duration::from_millis(whole_ms / 2 + self.runtime.random_u64() % (whole_ms / 2 + 1))
    }
}

impl<R: Runtime, T: Transport<R>> Peers for Links<R, T> {
    fn push(&self, to: NodeId, partition: TopicPartition) {
        self.remote(to).outbox.push(partition);
    }

    fn push_later(&self, to: NodeId, partition: TopicPartition) {
        let until = self.0.runtime.monotonic().plus_ns(REPLICATION_RIDE_MS * 1_000_000);
        self.remote(to).outbox.push_later(partition, until);
    }

    fn tell_ends(&self, to: NodeId, ends: PartitionEnds) {
        self.remote(to).outbox.tell_ends(ends);
    }

    fn ask(&self, to: NodeId, query: EpochQuery) {
        self.remote(to).outbox.ask(query);
    }

    fn answer(&self, to: NodeId, answer: EpochAnswer) {
        self.remote(to).outbox.answer(answer);
    }

    fn alter_partition(&self, partition: TopicPartition, proposal: AlterPartition) {
        (self.0.settings.ask_controller)(partition, proposal);
    }
}
