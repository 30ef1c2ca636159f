//! What carries the words of partitions from broker to broker, in memory: each way from one to another is a queue, which
//! is in order unless a fault says otherwise.

use bytes::Bytes;
use logmill::partition::PartitionTable;
use logmill::partition::command::PartitionCommand;
use logmill::partition::peers::{Peer, PeerCommand, Peers, Taken};
use logmill::runtime::simulated::{Chance, SimulatedRuntime, World};
use logmill::runtime::{Runtime, oneshot};
use logmill_state::partition::AlterPartition;
use logmill_wire::frame::replication::{EpochAnswer, EpochQuery, PartitionEnds, PushedPartition};
use logmill_wire::ids::{NodeId, ShardIndex, TopicPartition};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// What may happen to words on their way: one in so many; never if 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The link is lost, with all that is on its way in both directions.
    pub lost: u64,
    /// They come twice.
    pub doubled: u64,
    /// They come late, behind others.
    pub late: u64,
    /// New metadata come to a broker seconds later, so that it goes on as it was.
    pub late_metadata: u64,
    /// A proposal comes to the controller once more, some time later.
    pub doubled_proposals: u64,
}

/// A broker that can be reached.
pub struct Member {
    pub peer: Peer,
    pub runtime: SimulatedRuntime,
    pub table: Rc<PartitionTable<SimulatedRuntime>>,
}

#[derive(Clone)]
enum Said {
    Push(TopicPartition),
    Ends(PartitionEnds),
    Query(EpochQuery),
    Answer(EpochAnswer),
}

#[derive(Clone)]
enum Word {
    Push(PushedPartition, Bytes),
    Ends(PartitionEnds),
    Query(EpochQuery),
    Answer(EpochAnswer),
}

#[derive(Default)]
struct Way {
    waiting: VecDeque<Said>,
    is_running: bool,
    is_cut: bool,
}

/// A proposal for the controller: of whom, of which partition, and what.
pub type Proposal = (Peer, TopicPartition, AlterPartition);

/// All ways between brokers.
pub struct Network {
    runtime: SimulatedRuntime,
    chance: RefCell<Chance>,
    members: RefCell<BTreeMap<NodeId, Rc<Member>>>,
    ways: RefCell<BTreeMap<(NodeId, NodeId), Way>>,
    faults: Cell<Faults>,
    /// What waits for the controller.
    pub proposals: RefCell<VecDeque<Proposal>>,
    /// Bytes that were pushed.
    pushed_bytes: Cell<u64>,
}

impl Network {
    /// A network without faults, and without members.
    #[must_use]
    pub fn new(world: &World) -> Rc<Self> {
        let runtime = world.host("network").runtime(ShardIndex(0));
        let chance = RefCell::new(Chance::new(world.seed() ^ 0x6e65_7477_6f72_6b21));
        Rc::new(Self {
            runtime,
            chance,
            members: RefCell::default(),
            ways: RefCell::default(),
            faults: Cell::default(),
            proposals: RefCell::default(),
            pushed_bytes: Cell::default(),
        })
    }

    /// Where tasks run that no broker's death ends.
    #[must_use]
    pub fn runtime(&self) -> &SimulatedRuntime {
        &self.runtime
    }

    /// What happens to words from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.faults.set(faults);
    }

    /// Bytes that were pushed so far.
    #[must_use]
    pub fn pushed_bytes(&self) -> u64 {
        self.pushed_bytes.get()
    }

    /// The way of one process of a broker.
    pub fn link(self: &Rc<Self>, own: Peer) -> Rc<dyn Peers> {
        Rc::new(Link { network: Rc::clone(self), own })
    }

    pub(super) fn member(&self, node: NodeId) -> Option<Rc<Member>> {
        self.members.borrow().get(&node).cloned()
    }

    /// A broker can be reached from now on.
    pub(super) fn join(self: &Rc<Self>, member: Member) {
        let node = member.peer.node;
        self.members.borrow_mut().insert(node, Rc::new(member));
        for other in self.others(node) {
            self.relink(node, other);
        }
    }

    /// A broker has died.
    pub(super) fn leave(self: &Rc<Self>, node: NodeId) {
        self.members.borrow_mut().remove(&node);
        for other in self.others(node) {
            self.lose(node, other);
        }
    }

    fn others(&self, node: NodeId) -> Vec<NodeId> {
        self.members.borrow().keys().copied().filter(|&other| other != node).collect()
    }

    /// Lets nothing arrive between two brokers, or lets it again.
    pub fn set_cut(self: &Rc<Self>, one: NodeId, two: NodeId, is_cut: bool) {
        for way in [(one, two), (two, one)] {
            self.ways.borrow_mut().entry(way).or_default().is_cut = is_cut;
        }
        self.lose(one, two);
        if !is_cut {
            self.relink(one, two);
        }
    }

    fn is_cut(&self, one: NodeId, two: NodeId) -> bool {
        self.ways.borrow().get(&(one, two)).is_some_and(|way| way.is_cut)
    }

    /// What is on its way between two brokers is gone, and both are told.
    fn lose(self: &Rc<Self>, one: NodeId, two: NodeId) {
        for (from, to) in [(one, two), (two, one)] {
            if let Some(way) = self.ways.borrow_mut().get_mut(&(from, to)) {
                way.waiting.clear();
            }
            if let Some(member) = self.member(from) {
                member.table.link_lost(to);
            }
        }
    }

    /// A link between two brokers stands.
    fn relink(self: &Rc<Self>, one: NodeId, two: NodeId) {
        if self.is_cut(one, two) {
            return;
        }
        for (here, there) in [(one, two), (two, one)] {
            if let (Some(here), Some(there)) = (self.member(here), self.member(there)) {
                let linked = PeerCommand::Linked { from: there.peer };
                here.table.handle(PartitionCommand::Peer(linked));
            }
        }
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut Chance) -> T) -> T {
        draw(&mut self.chance.borrow_mut())
    }

    /// How long new metadata take to a broker.
    pub(super) fn metadata_delay(&self) -> Duration {
        let is_late = self.hits(self.faults.get().late_metadata);
        self.micros(if is_late { 2_000_000 } else { 20_000 })
    }

    /// After how long a proposal comes once more, if it does.
    pub(super) fn proposal_again(&self) -> Option<Duration> {
        self.hits(self.faults.get().doubled_proposals).then(|| self.micros(6_000_000))
    }

    fn hits(&self, one_in: u64) -> bool {
        one_in > 0 && self.draw(|chance| chance.one_in(one_in))
    }

    fn micros(&self, most: u64) -> Duration {
        Duration::from_micros(self.draw(|chance| chance.below(most)))
    }

    fn say(self: &Rc<Self>, own: Peer, to: NodeId, said: Said) {
        let is_current = self.member(own.node).is_none_or(|member| member.peer == own);
        if !is_current || self.is_cut(own.node, to) {
            return;
        }
        let key = (own.node, to);
        let mut ways = self.ways.borrow_mut();
        let way = ways.entry(key).or_default();
        let is_same =
            |other: &Said| matches!((other, &said), (Said::Push(one), Said::Push(two)) if one == two);
        if !way.waiting.iter().any(is_same) {
            way.waiting.push_back(said);
        }
        if std::mem::replace(&mut way.is_running, true) {
            return;
        }
        let network = Rc::clone(self);
        self.runtime.spawn(async move { network.carry(key).await });
    }

    async fn carry(self: Rc<Self>, key: (NodeId, NodeId)) {
        loop {
            self.runtime.sleep(self.micros(800)).await;
            let said = {
                let mut ways = self.ways.borrow_mut();
                let way = ways.entry(key).or_default();
                let said = way.waiting.pop_front();
                way.is_running = said.is_some();
                said
            };
            let Some(said) = said else { return };
            let Some(sender) = self.member(key.0) else { continue };
            let Some(word) = self.word(&sender, key.1, said).await else { continue };
            let faults = self.faults.get();
            if self.is_cut(key.0, key.1) {
                continue;
            }
            if self.hits(faults.lost) {
                self.lose(key.0, key.1);
                let (network, after) = (Rc::clone(&self), self.micros(20_000));
                self.runtime.spawn(async move {
                    network.runtime.sleep(after).await;
                    network.relink(key.0, key.1);
                });
                continue;
            }
            if self.hits(faults.doubled) {
                self.deliver_late(sender.peer, key.1, word.clone());
            }
            if self.hits(faults.late) {
                self.deliver_late(sender.peer, key.1, word);
            } else {
                self.deliver(sender.peer, key.1, word);
            }
        }
    }

    fn deliver_late(self: &Rc<Self>, from: Peer, to: NodeId, word: Word) {
        let (network, after) = (Rc::clone(self), self.micros(30_000));
        self.runtime.spawn(async move {
            network.runtime.sleep(after).await;
            network.deliver(from, to, word);
        });
    }

    fn deliver(&self, from: Peer, to: NodeId, word: Word) {
        let Some(member) = self.member(to) else { return };
        let command = match word {
            Word::Ends(ends) => PeerCommand::Ends { from, entries: vec![ends] },
            Word::Query(query) => PeerCommand::Query { from, entries: vec![query] },
            Word::Answer(answer) => PeerCommand::Answer { from, entries: vec![answer] },
            Word::Push(entry, payload) => {
                let (done, _) = oneshot::channel();
                let entries = vec![(entry, 0..payload.len())];
                PeerCommand::Push { from, payload, entries, done }
            }
        };
        member.table.handle(PartitionCommand::Peer(command));
    }

    /// What is said, as it goes out now.
    async fn word(self: &Rc<Self>, sender: &Rc<Member>, to: NodeId, said: Said) -> Option<Word> {
        let partition = match said {
            Said::Push(partition) => partition,
            Said::Ends(ends) => return Some(Word::Ends(ends)),
            Said::Query(query) => return Some(Word::Query(query)),
            Said::Answer(answer) => return Some(Word::Answer(answer)),
        };
        let max_bytes = self.draw(|chance| 1 << chance.below(17));
        let taken = match sender.table.take_push(to, partition, max_bytes) {
            Taken::OnDisk(_) => {
                let (reply, answer) = oneshot::channel();
                let reading = Rc::clone(sender);
                // The broker may die meanwhile, and the task with it.
                sender.runtime.spawn(async move {
                    reply.send(reading.table.read_push(to, partition, max_bytes).await);
                });
                answer.await.ok()?
            }
            taken => taken,
        };
        let Taken::Push { entry, batches, has_more } = taken else { return None };
        let payload = Bytes::from(batches.concat());
        assert!(entry.check_batches(&payload).is_ok(), "a push is not what its entry says");
        self.pushed_bytes.set(self.pushed_bytes.get() + payload.len() as u64);
        if has_more {
            self.say(sender.peer, to, Said::Push(partition));
        }
        Some(Word::Push(entry, payload))
    }
}

struct Link {
    network: Rc<Network>,
    own: Peer,
}

impl Peers for Link {
    fn push(&self, to: NodeId, partition: TopicPartition) {
        self.network.say(self.own, to, Said::Push(partition));
    }

    fn push_later(&self, to: NodeId, partition: TopicPartition) {
        let (network, own) = (Rc::clone(&self.network), self.own);
        let after = network.micros(5_000);
        self.network.runtime.spawn(async move {
            network.runtime.sleep(after).await;
            network.say(own, to, Said::Push(partition));
        });
    }

    fn tell_ends(&self, to: NodeId, ends: PartitionEnds) {
        self.network.say(self.own, to, Said::Ends(ends));
    }

    fn ask(&self, to: NodeId, query: EpochQuery) {
        self.network.say(self.own, to, Said::Query(query));
    }

    fn answer(&self, to: NodeId, answer: EpochAnswer) {
        self.network.say(self.own, to, Said::Answer(answer));
    }

    fn alter_partition(&self, partition: TopicPartition, proposal: AlterPartition) {
        self.network.proposals.borrow_mut().push_back((self.own, partition, proposal));
    }
}
