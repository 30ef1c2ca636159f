//! A broker is added to a cluster and gets its part; it is drained and left with nothing. Meanwhile somebody produces, and
//! loses nothing.

use super::client::{Client, batch};
use super::cluster::Cluster;
use super::commands::{Ran, run_with_input};
use super::observe::wait_until;
use super::turn;
use logmill_wire::api::{create_topics, metadata};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

const TOPIC: &str = "moved";
const PARTITIONS: i32 = 8;

/// The broker that is added.
const ADDED: i32 = 4;

/// Looks at the balance are seldom by default.
const SETTINGS: &[(&str, &str)] = &[("logmill.balancing.interval.ms", "300")];

/// A partition as somebody tells it.
#[derive(Debug)]
struct Told {
    leader: i32,
    replicas: Vec<i32>,
    in_sync: usize,
}

/// The partitions of a topic; none while it is not known.
fn told(client: &mut Client, topic: &str) -> Vec<Told> {
    let topic = metadata::MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
    let request = metadata::Request { topics: Some(vec![topic].into()), ..Default::default() };
    let answer = client.call(&request, 12);
    let response: metadata::Response = answer.body();
    let partitions = response.topics.iter().flat_map(|topic| topic.partitions.into_vec());
    let mut all: Vec<_> = partitions
        .map(|partition| {
            let replicas: Vec<i32> = partition.replica_nodes.iter().collect();
            let in_sync = partition.isr_nodes.iter().count();
            (partition.partition_index, Told { leader: partition.leader_id, replicas, in_sync })
        })
        .collect();
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, told)| told).collect()
}

fn create(client: &mut Client, name: &str, partitions: i32, replicas: i16) {
    let topic = create_topics::CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: replicas,
        ..Default::default()
    };
    let request =
        create_topics::Request { topics: vec![topic].into(), timeout_ms: 20_000, ..Default::default() };
    let answer = client.call(&request, 7);
    let response: create_topics::Response = answer.body();
    assert_eq!(response.topics.iter().next().expect("one result").error_code, 0);
}

/// Sends numbers to all partitions in turn until it is to stop; returns those that were acknowledged.
fn produce(addresses: &[SocketAddr], stop: &AtomicBool) -> BTreeMap<i32, Vec<u64>> {
    let mut acknowledged: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
    let mut clients: BTreeMap<i32, Client> = BTreeMap::new();
    let mut leaders = Vec::new();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let partition = (number % PARTITIONS as u64) as i32;
        let began = Instant::now();
        loop {
            if leaders.is_empty() {
                leaders = told(&mut Client::connect(addresses[0]), TOPIC);
            }
            let leader = leaders.get(partition as usize).map_or(-1, |told| told.leader);
            let error = usize::try_from(leader - 1).ok().and_then(|at| addresses.get(at)).map(|address| {
                let client = clients.entry(leader).or_insert_with(|| Client::connect(*address));
                client.append(TOPIC, partition, -1, batch(&number.to_be_bytes())).error
            });
            if error == Some(0) {
                acknowledged.entry(partition).or_default().push(number);
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{leader} answers {error:?}");
            leaders.clear();
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_millis(2));
    }
    acknowledged
}

/// How many replicas of the topic a node holds, and how many it leads; `None` if something is not in sync.
fn held(cluster: &Cluster, topic: &str, node: i32) -> Option<(usize, usize)> {
    let all = told(&mut cluster.client(1), topic);
    let is_settled = all.iter().all(|told| told.in_sync == told.replicas.len() && told.replicas.len() == 3);
    let count = |of: &dyn Fn(&Told) -> bool| all.iter().filter(|told| of(told)).count();
    (is_settled && !all.is_empty())
        .then(|| (count(&|told| told.replicas.contains(&node)), count(&|told| told.leader == node)))
}

fn until(cluster: &Cluster, what: &str, holds: impl Fn() -> bool) {
    let came = wait_until(PATIENCE, || {
        thread::sleep(Duration::from_millis(100));
        holds()
    });
    assert!(came, "{what}: {:?}\n{}", told(&mut cluster.client(1), TOPIC), cluster.logs());
}

#[test]
fn a_broker_that_is_added_gets_its_part_and_a_drained_one_is_left_with_nothing() {
    let _turn = turn::shared();
    let mut cluster = Cluster::start_with(SETTINGS);
    create(&mut cluster.client(1), TOPIC, PARTITIONS, 3);
    let stop = AtomicBool::new(false);
    let addresses: Vec<SocketAddr> = (1..=4).map(|id| cluster.address(id)).collect();
    thread::scope(|scope| {
        let producer = scope.spawn(|| produce(&addresses, &stop));
        let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| add_and_drain(&mut cluster)));
        stop.store(true, Ordering::Relaxed);
        let acknowledged = producer.join().expect("the producer goes on");
        moved.unwrap_or_else(|cause| std::panic::resume_unwind(cause));
        assert!(acknowledged.len() == PARTITIONS as usize, "{:?}", acknowledged.keys());
        for (partition, sent) in acknowledged {
            let leader = told(&mut cluster.client(1), TOPIC)[partition as usize].leader;
            let read = cluster.client(leader).read_all(TOPIC, partition, 0);
            let mut read: Vec<u64> =
                read.iter().map(|(_, value)| u64::from_be_bytes(value[..].try_into().unwrap())).collect();
            // What was sent again after an error may be there twice.
            read.dedup();
            assert!(sent.len() > 10, "{} records to partition {partition}", sent.len());
            let lost: Vec<&u64> = sent.iter().filter(|number| read.binary_search(number).is_err()).collect();
            assert!(lost.is_empty(), "partition {partition} has lost {lost:?}");
        }
    });
    restart_and_take_back(&mut cluster);
}

/// Runs `logmill cluster …`.
fn command(cluster: &Cluster, arguments: &[&str]) -> Ran {
    let bootstrap = cluster.address(2).to_string();
    let common = ["--bootstrap-server", &bootstrap, "--format", "json"];
    run_with_input(&[&["cluster"], arguments, &common].concat(), b"")
}

fn add_and_drain(cluster: &mut Cluster) {
    until(cluster, "all is in sync", || held(cluster, TOPIC, 1) == Some((8, told_led(cluster, 1))));
    let added = cluster.add();
    // 24 replicas on four brokers.
    until(cluster, "the new broker has its part", || {
        held(cluster, TOPIC, added).is_some_and(|(held, _)| held == 6)
    });
    assert_eq!(added, ADDED);
    let drained = command(cluster, &["drain", "4", "--wait"]).well().json();
    assert_eq!((&drained["drained"], &drained["replicas"]), (&true.into(), &0.into()));
    until(cluster, "the drained broker has nothing", || held(cluster, TOPIC, added) == Some((0, 0)));
}

fn restart_and_take_back(cluster: &mut Cluster) {
    // Whoever is the active controller next knows of it.
    cluster.kill(1);
    cluster.begin(&[1]);
    create(&mut cluster.client(2), "later", 4, 3);
    until(cluster, "the next topic is there", || held(cluster, "later", ADDED).is_some());
    thread::sleep(Duration::from_secs(2));
    assert_eq!(held(cluster, "later", ADDED).map(|(held, _)| held), Some(0));
    let back = command(cluster, &["undrain", "4"]).well().json();
    assert_eq!(back["drained"], false);
    until(cluster, "it has its part again", || {
        let of_both = ["later", TOPIC].map(|topic| held(cluster, topic, ADDED).map(|(held, _)| held));
        of_both.into_iter().sum::<Option<usize>>() == Some(9)
    });
    assert_eq!(command(cluster, &["drain", "9"]).status, 1, "there is no such broker");
}

fn told_led(cluster: &Cluster, node: i32) -> usize {
    told(&mut cluster.client(1), TOPIC).iter().filter(|told| told.leader == node).count()
}
