//! A network of datagrams between the nodes of a quorum.

use bytes::Bytes;
use logmill::cluster::quorum::QuorumLink;
use logmill::runtime::simulated::World;
use logmill::shard::signal::Signal;
use logmill_wire::ids::NodeId;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// What happens to frames.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The probability that a frame is lost.
    pub loss: f64,
    /// The probability that it comes twice.
    pub doubling: f64,
    /// The longest time that it takes, in microseconds.
    pub delay_us_max: u64,
}

impl Weather {
    /// Nothing is lost, and nothing takes long.
    pub const FAIR: Self = Self { loss: 0.0, doubling: 0.0, delay_us_max: 2_000 };
}

#[derive(Default)]
struct Inbox {
    frames: RefCell<VecDeque<Bytes>>,
    news: Signal,
}

/// The network.
pub struct Network {
    world: Weak<World>,
    weather: Cell<Weather>,
    /// Directions in which nothing arrives.
    cuts: RefCell<BTreeSet<(usize, usize)>>,
    /// By node; another one for another life, `None` while it is down.
    inboxes: RefCell<Vec<Option<Rc<Inbox>>>>,
}

impl Network {
    /// The network of nodes 0 to `nodes - 1`.
    #[must_use]
    pub fn new(world: &Rc<World>, nodes: usize) -> Rc<Self> {
        Rc::new(Self {
            world: Rc::downgrade(world),
            weather: Cell::new(Weather::FAIR),
            cuts: RefCell::default(),
            inboxes: RefCell::new(vec![None; nodes]),
        })
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.weather.set(weather);
    }

    /// Lets nothing arrive that goes from one node to another.
    pub fn cut(&self, from: usize, to: usize) {
        self.cuts.borrow_mut().insert((from, to));
    }

    /// Ends all cuts.
    pub fn mend(&self) {
        self.cuts.borrow_mut().clear();
    }

    /// The link of a node that begins a life.
    #[must_use]
    pub fn link(self: &Rc<Self>, node: usize) -> Link {
        let inbox = Rc::<Inbox>::default();
        self.inboxes.borrow_mut()[node] = Some(Rc::clone(&inbox));
        Link { network: Rc::clone(self), node, inbox }
    }

    /// A node is down: what is on its way to it is lost.
    pub fn unplug(&self, node: usize) {
        self.inboxes.borrow_mut()[node] = None;
    }

    fn carry(self: &Rc<Self>, from: usize, to: usize, frame: &Bytes) {
        let Some(world) = self.world.upgrade() else { return };
        let weather = self.weather.get();
        let copies = world.draw(|chance| match chance.hit(weather.loss) {
            true => 0,
            false => 1 + usize::from(chance.hit(weather.doubling)),
        });
        for _ in 0..copies {
            let delay_us = world.draw(|chance| 20 + chance.below(weather.delay_us_max));
            let (network, frame) = (Rc::clone(self), frame.clone());
            world.after(Duration::from_micros(delay_us), move || network.deliver(from, to, frame));
        }
    }

    fn deliver(&self, from: usize, to: usize, frame: Bytes) {
        if self.cuts.borrow().contains(&(from, to)) {
            return;
        }
        if let Some(Some(inbox)) = self.inboxes.borrow().get(to) {
            inbox.frames.borrow_mut().push_back(frame);
            inbox.news.notify_all();
        }
    }
}

/// A node's link.
pub struct Link {
    network: Rc<Network>,
    node: usize,
    inbox: Rc<Inbox>,
}

impl QuorumLink for Link {
    fn send(&self, to: NodeId, frame: Bytes) {
        self.network.carry(self.node, to.0.unsigned_abs() as usize, &frame);
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
