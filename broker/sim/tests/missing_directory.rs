//! A broker that starts without one of its log directories leads on with what is in the other one.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use logmill::runtime::Runtime;
use logmill::runtime::simulated::{Chance, Fault, Operation, Options, World};
use logmill_sim::cluster::SETTINGS;
use logmill_sim::cluster::checkers::SharedImages;
use logmill_sim::cluster::client::Client;
use logmill_sim::cluster::clients::{Kind, Producer, Progress};
use logmill_sim::cluster::history::Shared;
use logmill_sim::cluster::nodes::{Nodes, directories_of};
use logmill_wire::api::create_topics;
use logmill_wire::ids::{PartitionIndex, ShardIndex};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const NAME: &str = "t";
const PARTITIONS: i32 = 8;

/// The brokers with replicas, from 0 on. They do not vote; the first one has two directories.
const BROKERS: [usize; 2] = [4, 3];

struct Bench {
    world: World,
    nodes: Nodes,
    client: Rc<dyn Fn() -> Client>,
}

impl Bench {
    fn new() -> Self {
        let world = World::new(3, Options::default());
        let settings: Vec<String> = SETTINGS.iter().map(|text| (*text).to_owned()).collect();
        let nodes = Nodes::new(&world, 5, &settings, SharedImages::default());
        (0..5).for_each(|node| nodes.start(node).unwrap());
        let runtime = world.host("clients").runtime(ShardIndex(0));
        let (addresses, history) = (nodes.addresses(), Shared::default());
        let client = Rc::new(move || {
            Client::new(runtime.clone(), Rc::clone(&addresses), Rc::clone(&history), Chance::new(1))
        });
        Self { world, nodes, client }
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let end = self.world.now() + Duration::from_secs(60);
        while !holds() {
            assert!(self.world.now() < end, "not in time: {what}");
            self.world.run_for(Duration::from_millis(20));
        }
    }

    /// Makes the topic, with a replica of each partition on both brokers.
    fn create(&self) {
        let mut client = (self.client)();
        let made = Rc::<Cell<bool>>::default();
        let told = Rc::clone(&made);
        client.runtime.clone().spawn(async move {
            let assignment = |partition_index| create_topics::CreatableReplicaAssignment {
                partition_index,
                broker_ids: BROKERS.map(|node| node as i32 + 1).to_vec().into(),
            };
            let topic = create_topics::CreatableTopic {
                name: NAME.into(),
                num_partitions: -1,
                replication_factor: -1,
                assignments: (0..PARTITIONS).map(assignment).collect(),
                ..Default::default()
            };
            let request = create_topics::Request {
                topics: vec![topic].into(),
                timeout_ms: 3_000,
                ..Default::default()
            };
            while client.call(1, &request, 7).await.is_none() {
                client.pause(300).await;
            }
            told.set(true);
        });
        self.until("the topic is made", || made.get());
    }

    fn produce(&self) {
        let progress = Rc::<Progress>::default();
        let producer = Producer::new((self.client)(), Kind::Plain);
        progress.left.set(1);
        producer_task(&(self.client)(), producer, Rc::clone(&progress));
        self.until("batches are acknowledged", || progress.delivered.get() > 200);
        progress.is_ending.set(true);
        self.until("the producer has ended", || progress.left.get() == 0);
    }

    /// The leaders by partition, as the first node sees them.
    fn leaders(&self) -> Vec<i32> {
        let image = self.nodes.images.latest(0).unwrap();
        let topic = image.topic_by_name(NAME);
        let leader = |at| image.partition(topic.unwrap(), PartitionIndex(at)).unwrap().leader.0;
        if topic.is_some() { (0..PARTITIONS).map(leader).collect() } else { Vec::new() }
    }

    fn lead_none(&self, node: usize) -> bool {
        self.leaders().iter().all(|leader| *leader != node as i32 + 1)
    }

    fn in_directory(&self, directory: &'static str) -> Vec<i32> {
        let runtime = self.nodes.host(BROKERS[0]).runtime(ShardIndex(0));
        let own = runtime.clone();
        let reading = async move { own.read_directory(Path::new(directory)).await.unwrap() };
        let entries = self.world.block_on(&runtime, reading);
        entries.iter().filter_map(|entry| entry.name.strip_prefix("t-")?.parse().ok()).collect()
    }
}

fn producer_task(client: &Client, producer: Producer, progress: Rc<Progress>) {
    client.runtime.spawn(producer.run(progress));
}

#[test]
fn what_is_in_the_other_directory_is_led_and_what_may_be_missing_waits_for_the_other_replica() {
    let bench = Bench::new();
    bench.until("all nodes serve", || (0..5).all(|node| bench.nodes.images.is_serving(node)));
    bench.create();
    bench.until("all partitions are led", || {
        let leaders = bench.leaders();
        leaders.len() == PARTITIONS as usize && leaders.iter().all(|leader| *leader > 0)
    });
    bench.produce();
    let [first, second] = BROKERS;
    let there = bench.in_directory(directories_of(first)[0]);
    let missing = bench.in_directory(directories_of(first)[1]);
    assert!(!there.is_empty() && !missing.is_empty(), "{there:?} {missing:?}");

    // Both fall, the one with two directories last: it has all that was acknowledged.
    bench.nodes.cut_power(second);
    bench.until("the first one leads alone", || bench.lead_none(second));
    bench.nodes.cut_power(first);
    bench.until("nobody leads", || bench.lead_none(first));

    let path_contains = directories_of(first)[1].to_owned();
    bench.nodes.host(first).inject(Fault { path_contains, ..Fault::always(Operation::Open) });
    bench.nodes.start(first).unwrap();
    bench.until("it serves", || bench.nodes.images.is_serving(first));
    bench.world.run_for(Duration::from_secs(5));
    for (partition, leader) in (0..).zip(bench.leaders()) {
        let expected = if there.contains(&partition) { first as i32 + 1 } else { -1 };
        assert_eq!(leader, expected, "partition {partition} of {there:?} and {missing:?}");
    }
    bench.nodes.start(second).unwrap();
    bench.until("all partitions are led", || bench.leaders().iter().all(|leader| *leader > 0));
    for (partition, leader) in (0..).zip(bench.leaders()) {
        assert!(there.contains(&partition) || leader == second as i32 + 1, "partition {partition}");
    }
    assert_eq!(bench.nodes.images.broken(), None);
}
