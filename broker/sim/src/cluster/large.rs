//! Many brokers with many partitions that lose some brokers at once.

use super::checkers::SharedImages;
use super::client::Client;
use super::history::Shared;
use super::nemesis::create_topic;
use super::nodes::Nodes;
use super::run::{SETTINGS, is_whole};
use logmill::runtime::Runtime;
use logmill::runtime::simulated::{Chance, Options, World};
use logmill_wire::ids::{NodeId, PartitionIndex, ShardIndex};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Partitions of each topic at most.
const TOPIC_PARTITIONS: usize = 500;

/// How long each stage may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many there are of everything.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Brokers, three of which are controllers, too.
    pub brokers: usize,
    /// Partitions with three replicas each.
    pub partitions: usize,
    /// Brokers, none of them a controller, whose power is cut at once.
    pub lost: usize,
}

/// How long, in milliseconds of virtual time, it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Until all brokers served.
    pub started: u64,
    /// From then until all partitions were there, with all replicas in sync.
    pub created: u64,
    /// From the loss until the other brokers knew of a leader of every partition that has a replica on one of them.
    pub led: u64,
    /// From the restart of the lost ones until all replicas were in sync again.
    pub whole: u64,
    /// A number over everything that happened.
    pub trace_hash: u64,
}

struct Large {
    world: World,
    nodes: Nodes,
}

/// Runs a seed.
///
/// # Errors
/// What did not come to be.
pub fn run_large(seed: u64, size: Size) -> Result<Figures, String> {
    let world = World::new(seed, Options::default());
    let settings: Vec<String> = SETTINGS.iter().map(|text| (*text).to_owned()).collect();
    let nodes = Nodes::new(&world, size.brokers, &settings, SharedImages::unchecked());
    let large = Large { world, nodes };
    (0..size.brokers).try_for_each(|node| large.nodes.start(node))?;
    let started = large.until("all brokers serve", |large| is_whole(&large.nodes))?;
    let made = large.create(seed, size.partitions);
    let all = size.partitions as u64;
    let created = large.until("all partitions are there", |large| {
        let has_all =
            |node| large.nodes.images.latest(node).is_some_and(|image| image.partition_count() == all);
        made.get() && (0..size.brokers).all(has_all) && is_whole(&large.nodes)
    })?;
    let lost = size.brokers - size.lost..size.brokers;
    lost.clone().for_each(|node| large.nodes.cut_power(node));
    let led = large.until("all partitions are led", |large| {
        (0..lost.start).all(|node| large.is_led_by_others(node, lost.start))
    })?;
    lost.clone().try_for_each(|node| large.nodes.start(node))?;
    let whole = large.until("all replicas are in sync", |large| is_whole(&large.nodes))?;
    Ok(Figures { started, created, led, whole, trace_hash: large.world.trace_hash() })
}

impl Large {
    fn create(&self, seed: u64, partitions: usize) -> Rc<Cell<bool>> {
        let host = self.world.host("clients");
        let runtime = host.runtime(ShardIndex(0));
        let addresses = self.nodes.addresses();
        let mut client = Client::new(runtime.clone(), addresses, Shared::default(), Chance::new(seed));
        let made = Rc::<Cell<bool>>::default();
        let told = Rc::clone(&made);
        runtime.spawn(async move {
            for (number, first) in (0..partitions).step_by(TOPIC_PARTITIONS).enumerate() {
                let count = (partitions - first).min(TOPIC_PARTITIONS) as i32;
                let name = format!("large-{number}");
                while create_topic(&mut client, &name, count, 3).await != Some(true) {
                    client.pause(300).await;
                }
            }
            told.set(true);
        });
        made
    }

    /// Whether a node knows a leader among the first `count` nodes of every partition that has a replica there.
    fn is_led_by_others(&self, node: usize, count: usize) -> bool {
        let Some(image) = self.nodes.images.latest(node) else { return false };
        image.topics().all(|topic| {
            (0..topic.partition_count()).all(|at| {
                let state = image.partition(topic, PartitionIndex(at));
                let is_there = |node: &NodeId| (1..=count as i32).contains(&node.0);
                state.is_some_and(|state| is_there(&state.leader) || !state.replicas.iter().any(is_there))
            })
        })
    }

    /// The milliseconds until `holds`.
    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<u64, String> {
        let begin = self.world.now();
        while !holds(self) {
            if self.world.now() > begin + PATIENCE {
                return Err(format!("not after {PATIENCE:?}: {what}"));
            }
            if let Some((node, why)) = self.nodes.reap().first() {
                return Err(format!("node {} has ended: {why:?}", node + 1));
            }
            self.world.run_for(Duration::from_millis(50));
        }
        Ok((self.world.now() - begin).as_millis() as u64)
    }
}
