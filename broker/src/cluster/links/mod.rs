//! The connections between control shards, which carry the metadata quorum and calls to other nodes.
//!
//! A node connects to everybody whose address it knows: to all controllers. Whoever accepts a connection uses it for what
//! it has to say itself, so brokers without a controller listener are reached too. Two controllers have a connection in
//! either direction, and each prefers its own.
//!
//! A connection is given up when nothing came for [`SILENCE_MAX`], and made again: ends that are there say so with pings.
//! What was on its way is lost then. Calls that wait for an answer fail at once, and may have been carried out; the
//! quorum says again what matters.

mod connection;
mod dial;
mod lane;

#[cfg(test)]
mod tests;

use crate::cluster::quorum::QuorumLink;
use crate::runtime::Runtime;
use crate::shard::deadline::within;
use crate::shard::signal::Signal;
use bytes::{Bytes, BytesMut};
pub(super) use dial::resolve;
use lane::Lane;
use logmill_wire::frame::control_link::ControlKind;
use logmill_wire::ids::{MonotonicNs, NodeId, Uuid};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// After how long without a byte a connection is given up.
pub const SILENCE_MAX: Duration = Duration::from_millis(1_200);

/// How long an end may have nothing to say before it sends a ping.
const PING_AFTER: Duration = Duration::from_millis(250);

/// Bytes of quorum frames that wait for the quorum; more are lost, as on any network.
const INBOX_BYTES_MAX: usize = 64 << 20;

/// Where a node's control shard is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The host, a name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailed {
    /// There was no connection to the node in time. Nothing was carried out.
    NotConnected,
    /// The connection broke, or the answer did not come in time. Whether it was carried out is unknown.
    Unknown,
    /// The node has no use for the call. Nothing was carried out.
    Refused,
}

impl fmt::Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnected => "there is no connection to the node",
            Self::Unknown => "the answer did not come",
            Self::Refused => "the node does not answer such calls",
        })
    }
}

impl std::error::Error for CallFailed {}

/// What carries out a call of a node: given the operation and the payload, the answer, or `None` to refuse.
pub type CallHandler = Rc<dyn Fn(NodeId, u16, Bytes) -> Pin<Box<dyn Future<Output = Option<Bytes>>>>>;

/// Who is told of a node's end, or of the end of the last connection to it.
type OnGone = Rc<dyn Fn(NodeId)>;

/// The connections of this node's control shard. A clone is the same.
pub struct ControlLinks<R: Runtime>(Rc<Shared<R>>);

impl<R: Runtime> Clone for ControlLinks<R> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct Shared<R: Runtime> {
    runtime: R,
    node: NodeId,
    /// Zero until the node belongs to a cluster.
    cluster_id: Cell<Uuid>,
    addresses: RefCell<BTreeMap<NodeId, Address>>,
    /// The nodes that connections are made to; each has a task of its own.
    dialed: RefCell<BTreeMap<NodeId, Rc<dial::Dialer>>>,
    /// The connections that stand, those that this node made first.
    lanes: RefCell<BTreeMap<NodeId, Vec<Rc<Lane>>>>,
    has_connected: Signal,
    /// When a frame of each node came last, over whichever connection.
    heard: RefCell<BTreeMap<NodeId, MonotonicNs>>,
    inbox: Rc<Inbox>,
    handler: RefCell<Option<CallHandler>>,
    /// Told of nodes whose processes have ended.
    on_gone: RefCell<Option<OnGone>>,
    /// Told of nodes to which no connection stands any more.
    on_broken: RefCell<Option<OnGone>>,
    is_stopping: Cell<bool>,
}

#[derive(Default)]
struct Inbox {
    frames: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    arrived: Signal,
}

impl<R: Runtime> ControlLinks<R> {
    /// Links of a node that knows nobody yet; `cluster_id` is zero if it belongs to no cluster.
    #[must_use]
    pub fn new(runtime: R, node: NodeId, cluster_id: Uuid) -> Self {
        Self(Rc::new(Shared {
            runtime,
            node,
            cluster_id: Cell::new(cluster_id),
            addresses: RefCell::default(),
            dialed: RefCell::default(),
            lanes: RefCell::default(),
            has_connected: Signal::default(),
            heard: RefCell::default(),
            inbox: Rc::default(),
            handler: RefCell::default(),
            on_gone: RefCell::default(),
            on_broken: RefCell::default(),
            is_stopping: Cell::new(false),
        }))
    }

    /// The node belongs to a cluster: nodes of others are refused from now on.
    pub fn join_cluster(&self, cluster_id: Uuid) {
        self.0.cluster_id.set(cluster_id);
    }

    /// Whom to connect to, instead of everybody who was named before; this node itself is left out.
    pub fn set_addresses(&self, mut addresses: BTreeMap<NodeId, Address>) {
        addresses.remove(&self.0.node);
        if *self.0.addresses.borrow() == addresses {
            return;
        }
        self.0.addresses.replace(addresses);
        dial::follow_addresses(&self.0);
    }

    /// What carries out calls of other nodes, and of this one to itself.
    pub fn set_handler(&self, handler: CallHandler) {
        self.0.handler.replace(Some(handler));
    }

    /// Whom to tell of nodes whose processes have ended: their connection broke, and their host, which lives, refuses
    /// another one. Of hosts that fall silent nothing is said.
    pub fn set_on_gone(&self, on_gone: Rc<dyn Fn(NodeId)>) {
        self.0.on_gone.replace(Some(on_gone));
    }

    /// Whom to tell of nodes to which a connection stood and none stands any more, for whatever reason.
    pub fn set_on_broken(&self, on_broken: Rc<dyn Fn(NodeId)>) {
        self.0.on_broken.replace(Some(on_broken));
    }

    /// Serves a connection that was accepted, of which `received` has come, in a task of its own; `held` is dropped when it
    /// has ended.
    pub fn serve<T: 'static>(&self, connection: R::Connection, received: BytesMut, held: T) {
        let shared = Rc::clone(&self.0);
        self.0.runtime.spawn(async move {
            if let Err(cause) = connection::carry(&shared, connection, received, None).await {
                tracing::debug!(%cause, "a connection between controllers has ended");
            }
            drop(held);
        });
    }

    /// Whether there is a connection to a node.
    #[must_use]
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.0.lane(node).is_some()
    }

    /// How long nothing has come from a node, not even a ping; `None` if nothing ever came.
    #[must_use]
    pub fn silent_for(&self, node: NodeId) -> Option<Duration> {
        let heard = *self.0.heard.borrow().get(&node)?;
        Some(Duration::from_nanos(self.0.runtime.monotonic().since(heard)))
    }

    /// Asks a node, and waits for the answer until `deadline` has passed; while there is no connection it waits for one.
    ///
    /// # Errors
    /// [`CallFailed`].
    pub async fn call(
        &self,
        to: NodeId,
        operation: u16,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallFailed> {
        if to == self.0.node {
            let handler = self.0.handler.borrow().clone().ok_or(CallFailed::Refused)?;
            let answer = within(&self.0.runtime, deadline, handler(to, operation, payload)).await;
            return answer.ok_or(CallFailed::Unknown)?.ok_or(CallFailed::Refused);
        }
        let began = self.0.runtime.monotonic();
        let lane = within(&self.0.runtime, deadline, self.0.lane_when_connected(to)).await;
        let lane = lane.ok_or(CallFailed::NotConnected)?;
        let spent = Duration::from_nanos(self.0.runtime.monotonic().since(began));
        let asked = lane.ask(operation, payload)?;
        let (id, answer) = (asked.id, asked.answer);
        let answer = within(&self.0.runtime, deadline.saturating_sub(spent), answer).await;
        lane.forget(id);
        answer.and_then(Result::ok).unwrap_or(Err(CallFailed::Unknown))
    }

    /// The quorum's way to its nodes.
    #[must_use]
    pub fn quorum_link(&self) -> impl QuorumLink + use<R> {
        QuorumLanes(Rc::clone(&self.0))
    }

    /// Ends all connections.
    pub fn stop(&self) {
        self.0.is_stopping.set(true);
        self.set_addresses(BTreeMap::new());
        for lane in self.0.lanes.borrow().values().flatten() {
            lane.close();
        }
    }
}

impl<R: Runtime> Shared<R> {
    fn lane(&self, node: NodeId) -> Option<Rc<Lane>> {
        self.lanes.borrow().get(&node)?.first().cloned()
    }

    async fn lane_when_connected(&self, node: NodeId) -> Rc<Lane> {
        loop {
            let connected = self.has_connected.wait();
            if let Some(lane) = self.lane(node) {
                return lane;
            }
            connected.await;
        }
    }

    fn add_lane(&self, node: NodeId, lane: &Rc<Lane>) {
        let mut lanes = self.lanes.borrow_mut();
        let of_node = lanes.entry(node).or_default();
        // The newest of its kind comes first: an older one may be dead and not know it yet.
        let at = if lane.is_own { 0 } else { of_node.iter().take_while(|lane| lane.is_own).count() };
        of_node.insert(at, Rc::clone(lane));
        drop(lanes);
        self.has_connected.notify_all();
    }

    fn remove_lane(&self, node: NodeId, lane: &Rc<Lane>) {
        lane.close();
        let mut lanes = self.lanes.borrow_mut();
        if let Some(of_node) = lanes.get_mut(&node) {
            of_node.retain(|other| !Rc::ptr_eq(other, lane));
            if of_node.is_empty() {
                lanes.remove(&node);
                drop(lanes);
                let on_broken = self.on_broken.borrow().clone();
                if let Some(on_broken) = on_broken.filter(|_| !self.is_stopping.get()) {
                    on_broken(node);
                }
            }
        }
    }

    fn take_in(&self, frame: Bytes) {
        let bytes = self.inbox.bytes.get() + frame.len();
        if bytes <= INBOX_BYTES_MAX {
            self.inbox.bytes.set(bytes);
            self.inbox.frames.borrow_mut().push_back(frame);
            self.inbox.arrived.notify_all();
        }
    }
}

struct QuorumLanes<R: Runtime>(Rc<Shared<R>>);

impl<R: Runtime> QuorumLink for QuorumLanes<R> {
    fn send(&self, to: NodeId, frame: Bytes) {
        if let Some(lane) = self.0.lane(to) {
            lane.say(ControlKind::Quorum, frame);
        }
    }

    fn receive(&self) -> impl Future<Output = Bytes> + 'static {
        let inbox = Rc::clone(&self.0.inbox);
        async move {
            loop {
                let arrived = inbox.arrived.wait();
                if let Some(frame) = inbox.frames.borrow_mut().pop_front() {
                    inbox.bytes.set(inbox.bytes.get().saturating_sub(frame.len()));
                    return frame;
                }
                arrived.await;
            }
        }
    }
}
