//! One seed, from the first start to the last look at the disks.

use super::checkers::SharedImages;
use super::client::Client;
use super::clients::{Committer, Kind, Producer, Progress, Reader, watch_quorum};
use super::disks::{self, Disk};
use super::history::Shared;
use super::members::Member;
use super::nemesis::{Nemesis, create_topic, drain};
use super::nodes::{Nodes, directories_of};
use super::rot::Rot;
use logmill::runtime::Runtime;
use logmill::runtime::simulated::{Chance, Host, Options, World};
use logmill_state::metadata::Image;
use logmill_wire::ids::{NodeId, PartitionIndex, ShardIndex, TopicPartition};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// The topic that nobody deletes.
pub const LASTING_TOPIC: &str = "lasting";

/// The groups that commit offsets.
const GROUPS: [&str; 2] = ["group-0", "group-1"];

/// The groups that have members, and how many.
const GROUPS_OF_MEMBERS: [(&str, usize); 2] = [("members-0", 3), ("members-1", 2)];

/// How long a cluster without faults may take to do what is asked of it.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often ended processes are looked for, and promises that were broken.
const SLICE: Duration = Duration::from_millis(20);

/// One in so many faults is followed by a look at all disks: it takes as long as a simulated second.
const LOOKS_ONE_IN: u64 = 3;

/// Settings with which little time does much.
pub const SETTINGS: &[&str] = &[
    "broker.session.timeout.ms=1500",
    "broker.heartbeat.interval.ms=300",
    "controller.quorum.election.timeout.ms=500",
    "replica.lag.time.max.ms=2000",
    "default.replication.factor=3",
    "min.insync.replicas=2",
    "offsets.topic.num.partitions=2",
    "offsets.topic.replication.factor=3",
    "auto.create.topics.enable=false",
    "log.segment.bytes=1048576",
    "group.min.session.timeout.ms=500",
    "group.initial.rebalance.delay.ms=300",
];

/// What a run is besides its seed.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long there are faults.
    pub span: Duration,
    /// Whether there are any.
    pub has_faults: bool,
    /// Whether two nodes must go on before an operator has started the third anew, whose disk has failed.
    pub spares_operator: bool,
    /// Whether a broker is added before the faults, drained, and taken back.
    pub grows: bool,
    /// Whether a node loses one of its two log directories, besides.
    pub loses_directory: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            span: Duration::from_secs(10),
            has_faults: true,
            spares_operator: false,
            grows: false,
            loses_directory: false,
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The first promise that was broken, if one was.
    pub broken: Option<String>,
    /// A number over everything that happened.
    pub trace_hash: u64,
    /// Answers that clients got.
    pub operations: u64,
    /// Records that were acknowledged with acks=all.
    pub acknowledged: u64,
    /// Records that were read.
    pub read: u64,
    /// Commits of offsets.
    pub committed: u64,
    /// What the nemesis did.
    pub faults: u64,
    /// When and to whom.
    pub deeds: Vec<String>,
    /// Starts of processes.
    pub starts: u64,
    /// Disks that were replaced for a bit that had rotted.
    pub rotted: u64,
    /// Replicas that were offline with their log directory when all others had to go on without them.
    pub offline: u64,
    /// Milliseconds of virtual time.
    pub milliseconds: u64,
}

impl Outcome {
    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.read += other.read;
        self.committed += other.committed;
        self.faults += other.faults;
        self.starts += other.starts;
        self.rotted += other.rotted;
        self.offline += other.offline;
        self.milliseconds += other.milliseconds;
    }
}

struct Run {
    world: Rc<World>,
    nodes: Rc<Nodes>,
    clients: Host,
    history: Shared,
    progress: Rc<Progress>,
    chance: Chance,
    /// When each node that has no process gets one.
    due: BTreeMap<usize, Duration>,
    /// Why a node's last process has ended by itself.
    endings: BTreeMap<usize, String>,
    starts: u64,
    rotted: u64,
    offline: u64,
}

/// The window of a connection over its latency is what it carries. A link must carry more than the clients append, or a replica
/// behind it never catches up, for a connection that is used stands for ever.
fn options(seed: u64) -> Options {
    let mut options = Options::drawn(seed);
    options.window_bytes = (32 << 10, options.window_bytes.1.max(64 << 10));
    options
}

/// Runs a seed as everybody does.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    run_plan(seed, Plan::default())
}

/// Runs a seed.
#[must_use]
pub fn run_plan(seed: u64, plan: Plan) -> Outcome {
    let attempt = std::panic::catch_unwind(|| Run::new(seed, plan).carry_out(plan));
    attempt.unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Outcome { broken: Some(format!("Panics: {text}")), ..Outcome::default() }
    })
}

/// Whether all partitions are led, and all their replicas are in sync, as a node sees it.
fn is_healthy(image: &Image) -> bool {
    let mut all = image.topics().flat_map(|topic| {
        (0..topic.partition_count()).filter_map(|at| image.partition(topic, PartitionIndex(at)))
    });
    all.all(|state| {
        state.leader.0 >= 0 && state.in_sync.len() == state.replicas.len() && state.adding.is_empty()
    })
}

/// Whether every node serves, and knows of no partition that lacks anything.
#[must_use]
pub fn is_whole(nodes: &Nodes) -> bool {
    are_whole(nodes, nodes.len())
}

/// As [`is_whole`], of the first nodes.
fn are_whole(nodes: &Nodes, count: usize) -> bool {
    (0..count).all(|node| {
        let image = nodes.images.latest(node);
        nodes.images.is_serving(node)
            && image.is_some_and(|image| is_healthy(&image) && image.brokers().all(|broker| !broker.fenced))
    })
}

fn offline_replicas(image: &Image) -> u64 {
    image.brokers().map(|broker| broker.offline.len() as u64).sum()
}

/// Whether every node serves, and knows of every partition that all of its replicas are in sync but those whose log
/// directories do not work.
fn goes_on_without_offline(nodes: &Nodes) -> bool {
    let goes_on = |image: &Image| {
        let works = |node: &NodeId, key: &TopicPartition| {
            image.broker(*node).is_some_and(|broker| !broker.fenced && !broker.offline.contains(key))
        };
        image.topics().all(|topic| {
            (0..topic.partition_count()).map(PartitionIndex).all(|partition| {
                let key = TopicPartition { topic_id: topic.id, partition };
                let Some(state) = image.partition(topic, partition) else { return false };
                works(&state.leader, &key)
                    && state.in_sync.iter().all(|node| works(node, &key))
                    && state.replicas.iter().all(|node| state.in_sync.contains(node) || !works(node, &key))
            })
        }) && image.brokers().all(|broker| !broker.fenced)
    };
    (0..nodes.len()).all(|node| {
        nodes.images.is_serving(node) && nodes.images.latest(node).is_some_and(|image| goes_on(&image))
    })
}

impl Run {
    fn new(seed: u64, plan: Plan) -> Self {
        let mut chance = Chance::new(seed ^ 0x0063_6c75_7374_6572);
        let world = Rc::new(World::new(seed, options(seed)));
        let count = if chance.one_in(4) { 4 + chance.index(2) } else { 3 };
        let count = if plan.grows { 4 } else { count };
        let mut settings: Vec<String> = SETTINGS.iter().map(|text| (*text).to_owned()).collect();
        if plan.grows || Chance::new(seed ^ 0x6261_6c61_6e63_6573).one_in(2) {
            settings.push("logmill.balancing.interval.ms=400".to_owned());
        }
        let nodes = Rc::new(Nodes::new(&world, count, &settings, SharedImages::default()));
        let clients = world.host("clients");
        let (history, progress) = (Shared::default(), Rc::<Progress>::default());
        Self {
            world,
            nodes,
            clients,
            history,
            progress,
            chance,
            due: BTreeMap::new(),
            endings: BTreeMap::new(),
            starts: 0,
            rotted: 0,
            offline: 0,
        }
    }

    fn carry_out(mut self, plan: Plan) -> Outcome {
        let (history, nodes) = (Rc::clone(&self.history), Rc::clone(&self.nodes));
        let chance = Chance::new(self.chance.next_u64());
        let mut nemesis = Nemesis::new(Rc::clone(&self.world), nodes, history, chance);
        let outcome = self.stages(plan, &mut nemesis);
        let history = self.history.borrow();
        let broken = history.broken().or_else(|| self.nodes.images.broken()).or(outcome.err());
        Outcome {
            broken,
            trace_hash: self.world.trace_hash(),
            operations: history.operations,
            acknowledged: history.acknowledged,
            read: history.read,
            committed: history.committed,
            faults: nemesis.deeds.len() as u64,
            deeds: std::mem::take(&mut nemesis.deeds),
            starts: self.starts,
            rotted: self.rotted,
            offline: self.offline,
            milliseconds: self.world.now().as_millis() as u64,
        }
    }

    fn stages(&mut self, plan: Plan, nemesis: &mut Nemesis) -> Result<(), String> {
        let added = plan.grows.then(|| self.nodes.len() - 1);
        let first = added.unwrap_or(self.nodes.len());
        self.due.extend((0..first).map(|node| (node, Duration::ZERO)));
        self.due.extend(added.map(|node| (node, Duration::MAX)));
        self.until("Starts", |run| are_whole(&run.nodes, first))?;
        let mut admin = self.client(0);
        let partitions = 1 + self.chance.below(3) as i32;
        let made = self.task(async move {
            while create_topic(&mut admin, LASTING_TOPIC, partitions, 3).await != Some(true) {
                admin.pause(300).await;
            }
        });
        self.until("Starts", |_| made.get())?;
        self.begin_load();
        if let Some(node) = added {
            self.add_and_drain(node)?;
        }
        let end = self.world.now() + plan.span;
        while self.world.now() < end {
            let pause = Duration::from_millis(self.chance.below(900));
            self.pass(pause)?;
            if plan.has_faults {
                let client = self.client(1);
                nemesis.act(|| client);
            }
            if self.chance.one_in(LOOKS_ONE_IN) {
                self.look_at_disks(nemesis.rotten.as_ref())?;
            }
        }
        if plan.loses_directory {
            self.until("GoesOn", |run| is_whole(&run.nodes))?;
            // Of two replicas one is in the second directory.
            let has_both = |node: &usize| directories_of(*node).len() > 1 && self.held_by(*node) > 1;
            let candidates: Vec<usize> = (0..self.nodes.len()).filter(has_both).collect();
            let node = candidates[self.chance.index(candidates.len())];
            nemesis.fail_directory(node);
            self.until("IsTold", |run| {
                run.nodes.images.latest(node).is_some_and(|image| offline_replicas(&image) > 0)
            })?;
        }
        nemesis.heal();
        if nemesis.suspects.is_empty() && !nemesis.crippled.is_empty() {
            self.until("GoesOnWithout", |run| goes_on_without_offline(&run.nodes))?;
            let before = self.progress.delivered.get();
            self.until("GoesOnWithout", |run| run.progress.delivered.get() > before + 20)?;
            self.offline = self.nodes.images.latest(0).map_or(0, |image| offline_replicas(&image));
        }
        nemesis.suspects.extend(&nemesis.crippled);
        self.demand_progress(plan, nemesis)?;
        self.progress.is_ending.set(true);
        self.until("GoesOn", |run| run.progress.left.get() == 0)?;
        self.read_everything()?;
        self.compare_disks()
    }

    /// A broker is added and gets its part. It is drained, which a controller begins and another one ends, and taken back.
    fn add_and_drain(&mut self, node: usize) -> Result<(), String> {
        // The groups' offsets are there by then.
        self.until("GoesOn", |run| run.progress.committed.get() > 0 && are_whole(&run.nodes, node))?;
        self.due.insert(node, self.world.now());
        self.until("Balances", |run| is_whole(&run.nodes) && run.is_even())?;
        for drained in [true, false] {
            let mut admin = self.client(0);
            let asked = self.task(async move {
                while drain(&mut admin, node as i32 + 1, drained).await != Some(true) {
                    admin.pause(300).await;
                }
            });
            self.until("Balances", |_| asked.get())?;
            let pause = Duration::from_millis(self.chance.below(600));
            self.pass(pause)?;
            let victim = self.chance.index(node);
            self.nodes.kill(victim);
            self.until("Balances", |run| {
                is_whole(&run.nodes) && if drained { run.held_by(node) == 0 } else { run.is_even() }
            })?;
        }
        Ok(())
    }

    /// How many replicas a node holds.
    fn held_by(&self, node: usize) -> usize {
        let Some(image) = self.nodes.images.latest(0) else { return 0 };
        let on_node = |state: &logmill_state::metadata::Partition<'_>| {
            state.replicas.iter().filter(|replica| replica.0 == node as i32 + 1).count()
        };
        let held = image.topics().flat_map(|topic| {
            let all =
                (0..topic.partition_count()).filter_map(|at| image.partition(topic, PartitionIndex(at)));
            all.map(|state| on_node(&state)).collect::<Vec<_>>()
        });
        held.sum()
    }

    /// Whether no node holds two replicas more than another one.
    fn is_even(&self) -> bool {
        let held: Vec<usize> = (0..self.nodes.len()).map(|node| self.held_by(node)).collect();
        let (least, most) = (held.iter().min(), held.iter().max());
        least.zip(most).is_some_and(|(least, most)| most - least < 2)
    }

    fn client(&mut self, shard: u16) -> Client {
        let chance = Chance::new(self.chance.next_u64());
        let runtime = self.clients.runtime(ShardIndex(shard));
        Client::new(runtime, self.nodes.addresses(), Rc::clone(&self.history), chance)
    }

    /// Runs something on the host of the clients, and says when it is done.
    fn task(&self, work: impl Future<Output = ()> + 'static) -> Rc<Cell<bool>> {
        let done = Rc::<Cell<bool>>::default();
        let set = Rc::clone(&done);
        self.clients.runtime(ShardIndex(0)).spawn(async move {
            work.await;
            set.set(true);
        });
        done
    }

    fn begin_load(&mut self) {
        let runtime = self.clients.runtime(ShardIndex(0));
        let kinds = [Kind::Idempotent, Kind::Idempotent, Kind::Idempotent, Kind::Plain, Kind::Leader];
        for kind in kinds {
            let (producer, progress) = (Producer::new(self.client(0), kind), Rc::clone(&self.progress));
            runtime.spawn(producer.run(progress));
        }
        for _ in 0..3 {
            let (reader, progress) = (Reader::new(self.client(0)), Rc::clone(&self.progress));
            runtime.spawn(reader.run(progress));
        }
        for group in GROUPS {
            let committer = Committer::new(self.client(0), group.to_owned(), self.nodes.images.clone());
            runtime.spawn(committer.run(Rc::clone(&self.progress)));
        }
        let mut others = 6;
        for (group, members) in GROUPS_OF_MEMBERS {
            for _ in 0..members {
                let member = Member::new(self.client(0), group.to_owned(), self.nodes.images.clone());
                runtime.spawn(member.run(Rc::clone(&self.progress)));
            }
            others += members;
        }
        runtime.spawn(watch_quorum(self.client(0), Rc::clone(&self.progress)));
        self.progress.left.set(kinds.len() + others);
    }

    /// Lets time pass; processes that have ended are started again after a while.
    fn pass(&mut self, span: Duration) -> Result<(), String> {
        let end = self.world.now() + span;
        while self.world.now() < end {
            self.world.run_for(SLICE.min(end - self.world.now()));
            self.attend()?;
        }
        Ok(())
    }

    fn attend(&mut self) -> Result<(), String> {
        let broken = self.history.borrow().broken().or_else(|| self.nodes.images.broken());
        if let Some(broken) = broken {
            return Err(broken);
        }
        for (node, why) in self.nodes.reap() {
            self.endings.insert(node, why.unwrap_or_else(|| "it was told to".to_owned()));
        }
        let now = self.world.now();
        for node in 0..self.nodes.len() {
            if self.nodes.is_running(node) {
                continue;
            }
            let pause = Duration::from_millis(self.chance.below(3_000));
            if *self.due.entry(node).or_insert(now + pause) <= now {
                self.due.remove(&node);
                self.starts += 1;
                self.nodes.start(node)?;
            }
        }
        Ok(())
    }

    fn until(&mut self, checker: &str, holds: impl Fn(&Self) -> bool) -> Result<(), String> {
        let end = self.world.now() + PATIENCE;
        while !holds(self) {
            if self.world.now() >= end {
                return Err(format!("{checker}: not after {PATIENCE:?}: {}", self.describe()));
            }
            self.pass(SLICE)?;
        }
        Ok(())
    }

    /// After all faults everything must work again, in bounded time.
    fn demand_progress(&mut self, plan: Plan, nemesis: &Nemesis) -> Result<(), String> {
        let progress = Rc::clone(&self.progress);
        let suspects = &nemesis.suspects;
        // Of three voters one may fail: not another one beside the one whose disk is new.
        let others_vote = nemesis.wiped.is_none_or(|node| suspects.contains(&node));
        if plan.spares_operator && suspects.len() == 1 && others_vote {
            // Two others are enough, and must not wait for an operator.
            let before = progress.delivered.get();
            self.until("GoesOn", |run| run.progress.delivered.get() > before + 20)?;
        }
        // A node whose disk has failed takes nothing in until its operator starts it anew.
        for &node in suspects {
            if self.nodes.is_running(node) {
                self.nodes.kill(node);
                self.pass(Duration::from_millis(500))?;
            }
        }
        if let Some(rot) = nemesis.rotten.clone() {
            self.replace_rotten_disk(rot)?;
        }
        self.until("GoesOn", |run| is_whole(&run.nodes))?;
        let rounds = progress.member_rounds.get();
        let before = (progress.delivered.get(), progress.fetched.get(), progress.committed.get());
        self.until("GoesOn", |_| {
            progress.delivered.get() > before.0 + 20
                && progress.fetched.get() > before.1 + 20
                && progress.committed.get() > before.2 + 4
                && progress.member_rounds.get() > rounds + 10
        })
    }

    /// What is rotten is repaired from the other replicas, once an operator has replaced the disk.
    fn replace_rotten_disk(&mut self, rot: Rot) -> Result<(), String> {
        let node = rot.node;
        let others_serve = |run: &Self| {
            (0..run.nodes.len()).all(|other| {
                other == node || (run.nodes.is_running(other) && run.nodes.images.is_serving(other))
            })
        };
        self.until("GoesOn", others_serve)?;
        self.look_at_disks(Some(&rot))?;
        let asked = rot.ask(self.client(0));
        let is_answered = self.task(asked);
        self.until("GoesOn", |_| is_answered.get())?;
        self.nodes.wipe(node);
        self.rotted += 1;
        Ok(())
    }

    fn describe(&self) -> String {
        let one = |node: usize| {
            let Some(image) = self.nodes.images.latest(node).filter(|_| self.nodes.is_running(node)) else {
                return format!(
                    "node {} has no image and ended last: {:?}",
                    node + 1,
                    self.endings.get(&node)
                );
            };
            let fenced: Vec<i32> =
                image.brokers().filter(|broker| broker.fenced).map(|broker| broker.id.0).collect();
            let mut ill = Vec::new();
            for topic in image.topics() {
                for at in 0..topic.partition_count() {
                    let Some(state) = image.partition(topic, PartitionIndex(at)) else { continue };
                    if state.leader.0 < 0 || state.in_sync.len() < state.replicas.len() {
                        ill.push(format!(
                            "{}-{at} led by {} with {:?}",
                            topic.name, state.leader, state.in_sync
                        ));
                    }
                }
            }
            let serving = self.nodes.images.is_serving(node);
            format!("node {} (serving: {serving}) sees {fenced:?} fenced and {}", node + 1, ill.join(", "))
        };
        let nodes: Vec<String> = (0..self.nodes.len()).map(one).collect();
        let (progress, left) = (&self.progress, self.progress.left.get());
        format!(
            "{}; {} delivered, {} fetched, {} committed, {} rounds of members, {left} clients",
            nodes.join("; "),
            progress.delivered.get(),
            progress.fetched.get(),
            progress.committed.get(),
            progress.member_rounds.get()
        )
    }

    /// A client that was never there before must find everything that was acknowledged.
    fn read_everything(&mut self) -> Result<(), String> {
        let client = self.client(0);
        let done = self.task(async move {
            let mut reader = Reader::new(client);
            while reader.read_all().await.is_none() {}
        });
        self.until("GoesOn", |_| done.get())?;
        for group in GROUPS {
            let committer = Committer::new(self.client(0), group.to_owned(), self.nodes.images.clone());
            let done = self.task(committer.settle());
            self.until("GoesOn", |_| done.get())?;
        }
        for (group, _) in GROUPS_OF_MEMBERS {
            let member = Member::new(self.client(0), group.to_owned(), self.nodes.images.clone());
            let done = self.task(member.settle());
            self.until("GoesOn", |_| done.get())?;
        }
        Ok(())
    }

    /// Cuts the power of all hosts at once, and looks at what is on their disks.
    fn compare_disks(&mut self) -> Result<(), String> {
        self.until("GoesOn", |run| is_whole(&run.nodes))?;
        let image = self.nodes.images.latest(0).ok_or("Harness: there is no image")?;
        (0..self.nodes.len()).for_each(|node| self.nodes.cut_power(node));
        let mut disks = Vec::new();
        for node in 0..self.nodes.len() {
            disks.push(Disk::read(&self.world, self.nodes.host(node), node, None)?);
        }
        disks::compare(&disks, &image, &self.history.borrow())
    }

    /// What would be there if the power went everywhere now.
    fn look_at_disks(&mut self, rot: Option<&Rot>) -> Result<(), String> {
        let seed = self.chance.next_u64();
        disks::look_in_sync(seed, &self.nodes, rot, &self.history.borrow())
    }
}
