//! One seed, from the first start to the last look at the disks.

use super::checkers::SharedImages;
use super::client::{Client, Key};
use super::clients::{Committer, Kind, Producer, Progress, Reader, values, watch_quorum};
use super::history::{Shared, name};
use super::nemesis::{Nemesis, create_topic};
use super::nodes::{DATA, Nodes};
use logmill::log::recover;
use logmill::runtime::Runtime;
use logmill::runtime::simulated::{Chance, Host, Options, World};
use logmill_state::metadata::Image;
use logmill_wire::ids::{PartitionIndex, ShardIndex};
use logmill_wire::record_batch::{batches, validate_stored_header};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The topic that nobody deletes.
pub const LASTING_TOPIC: &str = "lasting";

/// The groups that commit offsets.
const GROUPS: [&str; 2] = ["group-0", "group-1"];

/// How long a cluster without faults may take to do what is asked of it.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often ended processes are looked for, and promises that were broken.
const SLICE: Duration = Duration::from_millis(20);

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
}

impl Default for Plan {
    fn default() -> Self {
        Self { span: Duration::from_secs(10), has_faults: true, spares_operator: false }
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
    let attempt = std::panic::catch_unwind(|| Run::new(seed).carry_out(plan));
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
    (0..nodes.len()).all(|node| {
        let image = nodes.images.latest(node);
        nodes.images.is_serving(node)
            && image.is_some_and(|image| is_healthy(&image) && image.brokers().all(|broker| !broker.fenced))
    })
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed ^ 0x0063_6c75_7374_6572);
        let world = Rc::new(World::new(seed, options(seed)));
        let count = if chance.one_in(4) { 4 + chance.index(2) } else { 3 };
        let settings: Vec<String> = SETTINGS.iter().map(|text| (*text).to_owned()).collect();
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
            milliseconds: self.world.now().as_millis() as u64,
        }
    }

    fn stages(&mut self, plan: Plan, nemesis: &mut Nemesis) -> Result<(), String> {
        self.due.extend((0..self.nodes.len()).map(|node| (node, Duration::ZERO)));
        self.until("Starts", |run| is_whole(&run.nodes))?;
        let mut admin = self.client(0);
        let partitions = 1 + self.chance.below(3) as i32;
        let made = self.task(async move {
            while create_topic(&mut admin, LASTING_TOPIC, partitions, 3).await != Some(true) {
                admin.pause(300).await;
            }
        });
        self.until("Starts", |_| made.get())?;
        self.begin_load();
        let end = self.world.now() + plan.span;
        while self.world.now() < end {
            let pause = Duration::from_millis(self.chance.below(900));
            self.pass(pause)?;
            if plan.has_faults {
                let client = self.client(1);
                nemesis.act(|| client);
            }
        }
        nemesis.heal();
        self.demand_progress(plan, &nemesis.suspects)?;
        self.progress.is_ending.set(true);
        self.until("GoesOn", |run| run.progress.left.get() == 0)?;
        self.read_everything()?;
        self.compare_disks()
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
        runtime.spawn(watch_quorum(self.client(0), Rc::clone(&self.progress)));
        self.progress.left.set(kinds.len() + 6);
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
    fn demand_progress(&mut self, plan: Plan, suspects: &BTreeSet<usize>) -> Result<(), String> {
        let progress = Rc::clone(&self.progress);
        if plan.spares_operator && suspects.len() == 1 {
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
        self.until("GoesOn", |run| is_whole(&run.nodes))?;
        let before = (progress.delivered.get(), progress.fetched.get(), progress.committed.get());
        self.until("GoesOn", |_| {
            progress.delivered.get() > before.0 + 20
                && progress.fetched.get() > before.1 + 20
                && progress.committed.get() > before.2 + 4
        })
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
            "{}; {} delivered, {} fetched, {} committed, {left} clients",
            nodes.join("; "),
            progress.delivered.get(),
            progress.fetched.get(),
            progress.committed.get()
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
        Ok(())
    }

    /// Cuts the power of all hosts at once, and looks at what is on their disks.
    fn compare_disks(&mut self) -> Result<(), String> {
        self.until("GoesOn", |run| is_whole(&run.nodes))?;
        let image = self.nodes.images.latest(0).ok_or("Harness: there is no image")?;
        (0..self.nodes.len()).for_each(|node| self.nodes.cut_power(node));
        let mut disks = Vec::new();
        for node in 0..self.nodes.len() {
            disks.push(Disk::read(&self.world, self.nodes.host(node))?);
        }
        let names: BTreeMap<Key, String> = partitions(&image);
        for (key, log) in self.history.borrow().logs() {
            let Some(directory) = names.get(&key) else { continue };
            if directory.starts_with("__") {
                continue;
            }
            let topic = image.topic_by_id(key.0);
            let state = topic.and_then(|topic| image.partition(topic, PartitionIndex(key.1)));
            let Some(state) = state else { continue };
            let of = |node: i32| disks.get(node as usize - 1).and_then(|disk| disk.logs.get(directory));
            let mut first: Option<(i32, BTreeMap<i64, Vec<u8>>)> = None;
            for node in state.in_sync {
                let whole = of(node.0).cloned().unwrap_or_default();
                let below: BTreeMap<i64, Vec<u8>> =
                    whole.into_iter().filter(|(offset, _)| *offset < log.high_watermark()).collect();
                let found: BTreeMap<i64, u64> = below.values().flat_map(|batch| values(batch)).collect();
                let lost = log.acknowledged().find(|(offset, value)| found.get(offset) != Some(value));
                if let Some((offset, value)) = lost {
                    let what = format!("{value} at offset {offset} of {} ({directory})", name(key));
                    let there = found.get(&offset);
                    return Err(format!("AcknowledgedStays: {what} is {there:?} on the disk of node {node}"));
                }
                match &first {
                    None => first = Some((node.0, below)),
                    Some((other, bytes)) if *bytes != below => {
                        let at = bytes.iter().zip(&below).find(|(one, two)| one != two);
                        let at = at.map(|((offset, _), _)| *offset);
                        return Err(format!(
                            "ReplicasAgree: {directory} differs on nodes {other} and {node}, from {at:?} on, below {}",
                            log.high_watermark()
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }
}

fn partitions(image: &Arc<Image>) -> BTreeMap<Key, String> {
    let mut names = BTreeMap::new();
    for topic in image.topics() {
        for partition in 0..topic.partition_count() {
            names.insert((topic.id, partition), format!("{}-{partition}", topic.name));
        }
    }
    names
}

/// The logs of a disk: by directory, each batch by its offset.
struct Disk {
    logs: BTreeMap<String, BTreeMap<i64, Vec<u8>>>,
}

impl Disk {
    /// Recovers the logs as a start does, and reads them.
    fn read(world: &World, host: &Host) -> Result<Self, String> {
        host.restart();
        let runtime = host.runtime(ShardIndex(0));
        let own = runtime.clone();
        let files = world.block_on(&runtime, async move {
            recover(&own, Path::new(DATA)).await.map_err(|error| error.to_string())?;
            let mut files = BTreeSet::new();
            for entry in own.read_directory(Path::new(DATA)).await.map_err(|error| error.to_string())? {
                let is_log = entry.is_directory && entry.name.contains('-') && !entry.name.contains('.');
                if !is_log {
                    continue;
                }
                let directory = Path::new(DATA).join(&entry.name);
                for file in own.read_directory(&directory).await.map_err(|error| error.to_string())? {
                    if file.name.ends_with(".log") {
                        files.insert((entry.name.clone(), file.name));
                    }
                }
            }
            Ok::<_, String>(files)
        });
        let mut logs: BTreeMap<String, BTreeMap<i64, Vec<u8>>> = BTreeMap::new();
        for (directory, file) in files.map_err(|error| format!("Recovers: {}: {error}", host.name()))? {
            let path = Path::new(DATA).join(&directory).join(&file);
            let bytes = host.read_file(&path).map_err(|error| error.to_string())?;
            let log = logs.entry(directory).or_default();
            for batch in batches(&bytes) {
                let Some(batch) = batch.ok().filter(|batch| validate_stored_header(batch).is_ok()) else {
                    break;
                };
                let base = batch.header().base_offset.0;
                // What lies behind the log's end is of no log.
                if log.last_key_value().is_some_and(|(last, _)| *last >= base) {
                    break;
                }
                log.insert(base, batch.bytes().to_vec());
            }
        }
        Ok(Self { logs })
    }
}
