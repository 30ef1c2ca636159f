//! A lossy network between simulated hosts, for the quorum's frames and for calls.

use crate::cluster::controller_calls::{Calling, ControllerCalls};
use crate::cluster::links::{CallFailed, CallHandler};
use crate::cluster::quorum::QuorumLink;
use crate::runtime::simulated::{SimulatedRuntime, World};
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::within;
use crate::shard::signal::Signal;
use bytes::Bytes;
use logmill_wire::ids::NodeId;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::rc::{Rc, Weak};
use std::time::Duration;

const DELAY_US_MAX: u64 = 2_000;

#[derive(Default)]
struct Inbox {
    frames: RefCell<VecDeque<Bytes>>,
    news: Signal,
}

struct Site {
    runtime: SimulatedRuntime,
    inbox: Rc<Inbox>,
    handler: Option<CallHandler>,
}

pub struct Network {
    world: Weak<World>,
    /// Of each message, the probability that it is lost, and that it comes twice.
    pub loss: Cell<f64>,
    pub doubling: Cell<f64>,
    /// Whether nodes notice that others are unplugged.
    pub tells_of_ends: Cell<bool>,
    /// What connections tell of the silence of nodes; of others nothing is known.
    pub silences: RefCell<BTreeMap<NodeId, Duration>>,
    sites: RefCell<BTreeMap<NodeId, Site>>,
    cuts: RefCell<BTreeSet<(NodeId, NodeId)>>,
}

impl Network {
    pub fn new(world: &Rc<World>) -> Rc<Self> {
        Rc::new(Self {
            world: Rc::downgrade(world),
            loss: Cell::new(0.0),
            doubling: Cell::new(0.0),
            tells_of_ends: Cell::new(false),
            silences: RefCell::default(),
            sites: RefCell::default(),
            cuts: RefCell::default(),
        })
    }

    /// A node is up: what was meant for its last life is lost.
    pub fn plug(self: &Rc<Self>, node: NodeId, runtime: SimulatedRuntime) -> Plug {
        let inbox = Rc::<Inbox>::default();
        let site = Site { runtime: runtime.clone(), inbox: Rc::clone(&inbox), handler: None };
        self.sites.borrow_mut().insert(node, site);
        Plug { network: Rc::clone(self), node, runtime, inbox }
    }

    pub fn set_handler(&self, node: NodeId, handler: CallHandler) {
        if let Some(site) = self.sites.borrow_mut().get_mut(&node) {
            site.handler = Some(handler);
        }
    }

    pub fn unplug(&self, node: NodeId) {
        self.sites.borrow_mut().remove(&node);
    }

    /// Nothing arrives any more from one node at another.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.cuts.borrow_mut().insert((from, to));
    }

    pub fn mend(&self) {
        self.cuts.borrow_mut().clear();
    }

    /// Calls `deliver` some time later: never, once or twice.
    fn carry(&self, from: NodeId, to: NodeId, deliver: impl Fn() + Clone + 'static) {
        let Some(world) = self.world.upgrade() else { return };
        if self.cuts.borrow().contains(&(from, to)) || world.draw(|chance| chance.hit(self.loss.get())) {
            return;
        }
        for _ in 0..1 + usize::from(world.draw(|chance| chance.hit(self.doubling.get()))) {
            let delay_us = world.draw(|chance| 20 + chance.below(DELAY_US_MAX));
            world.after(Duration::from_micros(delay_us), deliver.clone());
        }
    }

    fn send(self: &Rc<Self>, from: NodeId, to: NodeId, frame: Bytes) {
        let network = Rc::clone(self);
        self.carry(from, to, move || {
            if let Some(site) = network.sites.borrow().get(&to) {
                site.inbox.frames.borrow_mut().push_back(frame.clone());
                site.inbox.news.notify_all();
            }
        });
    }

    /// A question on its way, and its answer on its way back; the first that comes counts.
    pub fn ask(
        self: &Rc<Self>,
        from: NodeId,
        to: NodeId,
        operation: u16,
        payload: Bytes,
    ) -> oneshot::Receiver<Bytes> {
        let (reply, answer) = oneshot::channel();
        let reply = Rc::new(Cell::new(Some(reply)));
        let network = Rc::clone(self);
        self.carry(from, to, move || {
            let sites = network.sites.borrow();
            let Some(site) = sites.get(&to) else { return };
            let Some(handler) = site.handler.clone() else { return };
            let (network, reply, payload) = (Rc::clone(&network), Rc::clone(&reply), payload.clone());
            site.runtime.spawn(async move {
                let Some(answered) = handler(from, operation, payload).await else { return };
                network.carry(to, from, move || {
                    if let Some(reply) = reply.take() {
                        reply.send(answered.clone());
                    }
                });
            });
        });
        answer
    }
}

/// A node's end of the network, for one life.
#[derive(Clone)]
pub struct Plug {
    network: Rc<Network>,
    node: NodeId,
    runtime: SimulatedRuntime,
    inbox: Rc<Inbox>,
}

impl QuorumLink for Plug {
    fn send(&self, to: NodeId, frame: Bytes) {
        self.network.send(self.node, to, frame);
    }

    fn receive(&self) -> impl Future<Output = Bytes> + 'static {
        let inbox = Rc::clone(&self.inbox);
        async move {
            loop {
                let news = inbox.news.wait();
                let frame = inbox.frames.borrow_mut().pop_front();
                if let Some(frame) = frame {
                    return frame;
                }
                news.await;
            }
        }
    }
}

impl ControllerCalls for Plug {
    fn is_connected(&self, node: NodeId) -> bool {
        !self.network.tells_of_ends.get()
            || self.network.sites.borrow().contains_key(&node)
                && !self.network.cuts.borrow().contains(&(self.node, node))
    }

    fn silent_for(&self, node: NodeId) -> Option<Duration> {
        self.network.silences.borrow().get(&node).copied()
    }

    fn call(&self, to: NodeId, operation: u16, payload: Bytes, deadline: Duration) -> Calling {
        let answer = self.network.ask(self.node, to, operation, payload);
        let runtime = self.runtime.clone();
        Box::pin(async move {
            match within(&runtime, deadline, answer).await {
                Some(Ok(answer)) => Ok(answer),
                Some(Err(oneshot::Closed)) | None => Err(CallFailed::Unknown),
            }
        })
    }
}
