//! Complete nodes on simulated hosts.

use super::checkers::SharedImages;
use logmill::config::{Config, Sources};
use logmill::node::{Assembly, Failure, LogDirectoryPaths, assemble, run_shard};
use logmill::runtime::Runtime;
use logmill::runtime::event::{Event, event};
use logmill::runtime::simulated::{Host, SimulatedHandle, World};
use logmill_wire::ids::{ShardIndex, Uuid};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where the nodes keep their data, if they have as many directories.
const DIRECTORIES: [&str; 2] = ["/data", "/more"];

/// Data shards of each node.
const SHARDS: u16 = 2;

/// How many of the nodes vote on the metadata.
const VOTERS_MAX: usize = 3;

const CLIENT_PORT: u16 = 9092;
const CONTROLLER_PORT: u16 = 9093;

/// A process that runs.
struct Process {
    stop: Event,
    /// Shards that have not ended.
    left: Rc<Cell<usize>>,
    failure: Failure,
}

struct Node {
    host: Host,
    flags: Vec<String>,
    /// How often its power was cut.
    power_cuts: Cell<u64>,
    process: RefCell<Option<Process>>,
}

/// The nodes; they are counted from 0 and called from 1 on.
pub struct Nodes {
    /// What they have applied.
    pub images: SharedImages,
    nodes: Vec<Node>,
}

impl Nodes {
    /// Hosts with empty disks, and no process on them. `settings` are `key=value`s for all of them.
    #[must_use]
    pub fn new(world: &World, count: usize, settings: &[String], images: SharedImages) -> Self {
        let hosts: Vec<Host> = (1..=count).map(|number| world.host(&format!("node {number}"))).collect();
        let voters: Vec<String> = (1..).zip(hosts.iter().take(VOTERS_MAX)).map(voter).collect();
        let nodes = (1..).zip(hosts).map(|(number, host)| {
            let flags = flags(number, &host, &voters, settings);
            Node { host, flags, power_cuts: Cell::default(), process: RefCell::default() }
        });
        Self { images, nodes: nodes.collect() }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The host of a node.
    #[must_use]
    pub fn host(&self, node: usize) -> &Host {
        &self.nodes[node].host
    }

    /// Where clients connect to, by node.
    #[must_use]
    pub fn addresses(&self) -> Rc<[SocketAddr]> {
        self.nodes.iter().map(|node| node.host.address(CLIENT_PORT)).collect()
    }

    /// Whether a node has a process.
    #[must_use]
    pub fn is_running(&self, node: usize) -> bool {
        self.nodes[node].process.borrow().is_some()
    }

    /// Starts a process on a node that has none.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn start(&self, node: usize) -> Result<(), String> {
        if self.is_running(node) {
            return Ok(());
        }
        let Node { host, flags, power_cuts, process } = &self.nodes[node];
        host.restart();
        self.images.forget(node);
        // What makes the directory is before the node: an operator, or the lock.
        let directories = directories_of(node);
        for directory in directories {
            host.put_file(&Path::new(directory).join(".lock"), b"").map_err(|error| error.to_string())?;
        }
        let paths: LogDirectoryPaths = directories.iter().map(PathBuf::from).collect();
        let sources = Sources { flags: flags.clone(), ..Sources::default() };
        let config = Config::load(&sources).map_err(|errors| format!("{errors:?}"))?;
        let (stop, stopped) = event();
        let observer = self.images.observer(node);
        let boot = Some(Uuid((u128::from(power_cuts.get()) + 1).to_be_bytes()));
        let Assembly { data, control, failure } =
            assemble::<SimulatedHandle>(config, SHARDS, paths, boot, observer, stopped);
        let left = Rc::new(Cell::new(usize::from(SHARDS) + 1));
        for (shard, seed) in (0..).map(ShardIndex).zip(data.into_iter().chain(control)) {
            let (runtime, left) = (host.runtime(shard), Rc::clone(&left));
            let own = runtime.clone();
            runtime.spawn(async move {
                run_shard(own, seed).await;
                left.set(left.get() - 1);
            });
        }
        *process.borrow_mut() = Some(Process { stop, left, failure });
        Ok(())
    }

    /// Sends the signal to stop.
    pub fn stop(&self, node: usize) {
        if let Some(process) = &*self.nodes[node].process.borrow() {
            process.stop.set();
        }
    }

    /// Kills the process at once.
    pub fn kill(&self, node: usize) {
        self.nodes[node].host.kill();
        *self.nodes[node].process.borrow_mut() = None;
    }

    /// Cuts the host's power.
    pub fn cut_power(&self, node: usize) {
        let Node { host, power_cuts, .. } = &self.nodes[node];
        host.crash();
        power_cuts.set(power_cuts.get() + 1);
        *self.nodes[node].process.borrow_mut() = None;
    }

    /// Puts an empty disk into a host whose power is cut.
    pub fn wipe(&self, node: usize) {
        self.cut_power(node);
        self.images.bereave(node);
        self.nodes[node].host.wipe_disk();
    }

    /// Takes processes off their hosts that have ended by themselves, and tells why they have.
    pub fn reap(&self) -> Vec<(usize, Option<String>)> {
        let mut ended = Vec::new();
        for (node, Node { process, .. }) in self.nodes.iter().enumerate() {
            let why = match &*process.borrow() {
                Some(process) if process.left.get() == 0 => process.failure.take(),
                _ => continue,
            };
            self.kill(node);
            ended.push((node, why.map(|failure| format!("{}; {}", failure.cause, failure.remedy))));
        }
        ended
    }
}

/// Where the log directories of a node are: all but every fourth have two. The metadata are in the first.
#[must_use]
pub fn directories_of(node: usize) -> &'static [&'static str] {
    if node % 4 == 3 { &DIRECTORIES[..1] } else { &DIRECTORIES }
}

fn voter((number, host): (usize, &Host)) -> String {
    format!("{number}@{}", host.address(CONTROLLER_PORT))
}

fn flags(number: usize, host: &Host, voters: &[String], settings: &[String]) -> Vec<String> {
    let clients = format!("PLAINTEXT://{}", host.address(CLIENT_PORT));
    let mut flags = vec![
        format!("node.id={number}"),
        format!("controller.quorum.voters={}", voters.join(",")),
        format!("log.dirs={}", directories_of(number - 1).join(",")),
        format!("logmill.shards={SHARDS}"),
        "logmill.memory.bytes=67108864".to_owned(),
        "logmill.journal.bytes=4194304".to_owned(),
    ];
    if number <= VOTERS_MAX {
        flags.push("process.roles=broker,controller".to_owned());
        flags.push(format!("listeners={clients},CONTROLLER://{}", host.address(CONTROLLER_PORT)));
    } else {
        flags.push("process.roles=broker".to_owned());
        flags.push(format!("listeners={clients}"));
    }
    flags.extend_from_slice(settings);
    flags
}
