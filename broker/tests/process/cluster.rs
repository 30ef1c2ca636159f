//! Three nodes as one cluster: they find each other, replicate, and go on without one of them.

use super::client::{Client, batch, fetch_request};
use super::node::{Node, Plan};
use super::observe::wait_until;
use super::turn;
use super::workspace::Folder;
use logmill_wire::api::{create_topics, delete_records, fetch, metadata};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long the cluster may take to settle.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

const NODES: usize = 3;

/// Addresses of the loopback network that no other test has: the ports can be the usual ones.
fn own_network() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let drawn = std::process::id().wrapping_mul(8) + NEXT.fetch_add(1, Ordering::Relaxed);
    format!("127.{}.{}", 64 + (drawn >> 8) % 128, drawn % 256)
}

/// Nodes of one cluster, the first three of which are controllers, too.
pub struct Cluster {
    network: String,
    pub(super) folders: Vec<Folder>,
    nodes: Vec<Option<Node>>,
    /// What is set on all of them.
    settings: &'static [(&'static str, &'static str)],
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Three nodes with settings.
    pub fn start_with(settings: &'static [(&'static str, &'static str)]) -> Self {
        let folders = (0..NODES).map(|_| Folder::new()).collect();
        let nodes = (0..NODES).map(|_| None).collect();
        let mut cluster = Self { network: own_network(), folders, nodes, settings };
        cluster.begin(&[1, 2, 3]);
        cluster
    }

    /// Starts one more node, which is no controller.
    pub fn add(&mut self) -> i32 {
        self.folders.push(Folder::new());
        self.nodes.push(None);
        let id = self.nodes.len() as i32;
        self.begin(&[id]);
        id
    }

    pub fn address(&self, id: i32) -> SocketAddr {
        format!("{}.{id}:9092", self.network).parse().unwrap()
    }

    pub(super) fn plan(&self, id: i32) -> Plan {
        let network = &self.network;
        let voters: Vec<_> = (1..=NODES).map(|id| format!("{id}@{network}.{id}:9093")).collect();
        let (roles, controller) = if id as usize <= NODES {
            ("broker,controller", format!(",CONTROLLER://{network}.{id}:9093"))
        } else {
            ("broker", String::new())
        };
        let plan = Plan::new(self.folders[id as usize - 1].path())
            .set("node.id", id)
            .set("process.roles", roles)
            .set("listeners", format!("PLAINTEXT://{network}.{id}:9092{controller}"))
            .set("controller.listener.names", "CONTROLLER")
            .set("broker.rack", format!("rack{id}"))
            .set("replica.selector.class", "org.apache.kafka.common.replica.RackAwareReplicaSelector")
            .set("controller.quorum.voters", voters.join(","))
            .set("logmill.memory.bytes", 128 << 20);
        self.settings.iter().fold(plan, |plan, (key, value)| plan.set(key, value))
    }

    /// Starts nodes, and waits until all of them serve.
    pub fn begin(&mut self, ids: &[i32]) {
        for &id in ids {
            self.nodes[id as usize - 1] = Some(self.plan(id).begin());
        }
        for &id in ids {
            self.nodes[id as usize - 1].as_mut().unwrap().wait_until_it_serves();
        }
    }

    pub fn kill(&mut self, id: i32) {
        self.nodes[id as usize - 1].take().expect("it runs").kill();
    }

    fn pause(&self, id: i32) {
        self.nodes[id as usize - 1].as_ref().expect("it runs").signal(libc::SIGSTOP);
    }

    fn resume(&self, id: i32) {
        self.nodes[id as usize - 1].as_ref().expect("it runs").signal(libc::SIGCONT);
    }

    fn stop(&mut self, id: i32) {
        self.nodes[id as usize - 1].take().expect("it runs").stop();
    }

    pub(super) fn running(&self) -> impl Iterator<Item = i32> + '_ {
        (1..).zip(&self.nodes).filter(|(_, node)| node.is_some()).map(|(id, _)| id)
    }

    pub fn client(&self, id: i32) -> Client {
        Client::connect(self.address(id))
    }

    /// The partition as one node tells it.
    fn partition(&self, at: i32, topic: &str) -> Option<Told> {
        let topic = metadata::MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
        let request = metadata::Request { topics: Some(vec![topic].into()), ..Default::default() };
        let answer = self.client(at).call(&request, 12);
        let response: metadata::Response = answer.body();
        let topic = response.topics.iter().next()?;
        let found = topic.partitions.iter().next()?;
        let mut in_sync: Vec<i32> = found.isr_nodes.iter().collect();
        in_sync.sort_unstable();
        Some(Told { leader: found.leader_id, epoch: found.leader_epoch, in_sync })
    }

    /// Waits until all running nodes tell the same, of which `holds` is true, and returns it.
    pub(super) fn settled(&self, topic: &str, holds: impl Fn(&Told) -> bool) -> Told {
        let mut told = Vec::new();
        let is_settled = wait_until(PATIENCE, || {
            told = self.running().map(|id| self.partition(id, topic)).collect();
            told.windows(2).all(|pair| pair[0] == pair[1])
                && told.first().is_some_and(|first| first.as_ref().is_some_and(&holds))
        });
        assert!(is_settled, "{told:?}\n{}", self.logs());
        told.swap_remove(0).unwrap()
    }

    pub fn logs(&self) -> String {
        let tail = |node: &Node| node.stderr().lines().rev().take(15).collect::<Vec<_>>().join("\n");
        (1..)
            .zip(&self.nodes)
            .flat_map(|(id, node)| Some(format!("node {id}:\n{}\n", tail(node.as_ref()?))))
            .collect()
    }
}

/// What Metadata says of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) leader: i32,
    epoch: i32,
    pub(super) in_sync: Vec<i32>,
}

pub(super) fn create(client: &mut Client, name: &str, configs: &[(&str, &str)]) {
    let configs = configs
        .iter()
        .map(|(name, value)| create_topics::CreatableTopicConfig {
            name: (*name).into(),
            value: Some((*value).into()),
        })
        .collect();
    let topic = create_topics::CreatableTopic {
        name: name.into(),
        num_partitions: 1,
        replication_factor: 3,
        configs,
        ..Default::default()
    };
    let request =
        create_topics::Request { topics: vec![topic].into(), timeout_ms: 20_000, ..Default::default() };
    let answer = client.call(&request, 7);
    let response: create_topics::Response = answer.body();
    let result = response.topics.iter().next().expect("one result");
    assert_eq!(result.error_code, 0, "{:?}", result.error_message);
}

/// Appends with acks=all until it is acknowledged, as a producer does that retries.
pub(super) fn append_somewhere(cluster: &Cluster, topic: &str, value: &[u8]) {
    let began = Instant::now();
    loop {
        let leader = cluster.running().find_map(|id| cluster.partition(id, topic)).map(|told| told.leader);
        let leader = leader.filter(|leader| cluster.running().any(|id| id == *leader));
        let error = leader.map(|leader| cluster.client(leader).append(topic, 0, -1, batch(value)).error);
        if error == Some(0) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{leader:?} answers {error:?}\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn values(range: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    range.map(|number| number.to_be_bytes().to_vec()).collect()
}

pub(super) fn read(cluster: &Cluster, leader: i32, topic: &str) -> Vec<Vec<u8>> {
    cluster.client(leader).read_all(topic, 0, 0).into_iter().map(|(_, value)| value).collect()
}

#[test]
fn three_nodes_replicate_and_go_on_without_the_leader() {
    let _turn = turn::shared();
    let mut cluster = Cluster::start();
    // Whichever node is asked: the active controller decides.
    create(&mut cluster.client(1), "first", &[]);
    create(&mut cluster.client(2), "kept", &[("min.insync.replicas", "2")]);
    create(&mut cluster.client(3), "third", &[]);
    let before = cluster.settled("kept", |told| told.in_sync == [1, 2, 3]);
    let sent = values(0..50);
    for value in &sent[..20] {
        assert_eq!(cluster.client(before.leader).append("kept", 0, -1, batch(value)).error, 0);
    }
    cluster.kill(before.leader);
    let after = cluster.settled("kept", |told| told.leader != before.leader && told.leader >= 0);
    assert!(after.epoch > before.epoch);
    for value in &sent[20..40] {
        append_somewhere(&cluster, "kept", value);
    }
    assert_eq!(read(&cluster, after.leader, "kept"), sent[..40]);
    cluster.begin(&[before.leader]);
    cluster.settled("kept", |told| told.in_sync == [1, 2, 3]);
    for value in &sent[40..] {
        append_somewhere(&cluster, "kept", value);
    }
    // What came back has all of it: it is the only one left of those that were in sync with what was acknowledged.
    let leader = cluster.settled("kept", |told| told.in_sync == [1, 2, 3]).leader;
    assert_eq!(read(&cluster, leader, "kept"), sent);
}

#[test]
fn a_cluster_that_was_killed_as_a_whole_has_what_it_acknowledged() {
    let _turn = turn::shared();
    let mut cluster = Cluster::start();
    create(&mut cluster.client(1), "kept", &[]);
    let sent = values(0..30);
    for value in &sent {
        append_somewhere(&cluster, "kept", value);
    }
    for id in [1, 2, 3] {
        cluster.kill(id);
    }
    cluster.begin(&[1, 2, 3]);
    let told = cluster.settled("kept", |told| told.in_sync == [1, 2, 3] && told.leader >= 0);
    assert_eq!(read(&cluster, told.leader, "kept"), sent);
}

#[test]
fn nodes_that_are_stopped_one_after_another_leave_nobody_without_a_leader() {
    let _turn = turn::shared();
    let mut cluster = Cluster::start();
    create(&mut cluster.client(1), "kept", &[("min.insync.replicas", "2")]);
    let mut sent = Vec::new();
    for id in [1, 2, 3] {
        let before = cluster.settled("kept", |told| told.in_sync == [1, 2, 3]);
        cluster.stop(id);
        // The leadership went before the node did.
        let after = cluster.running().find_map(|at| cluster.partition(at, "kept")).expect("it is known");
        assert!(after.leader != id && after.leader >= 0, "{before:?}, then {after:?}\n{}", cluster.logs());
        for number in 0..10_u64 {
            let value = [id as u64, number].map(u64::to_be_bytes).concat();
            append_somewhere(&cluster, "kept", &value);
            sent.push(value);
        }
        cluster.begin(&[id]);
    }
    let told = cluster.settled("kept", |told| told.in_sync == [1, 2, 3]);
    assert_eq!(read(&cluster, told.leader, "kept"), sent);
}

/// Byte 24 of `last-boot` says whether the last stop was clean.
fn was_clean(folder: &Folder) -> bool {
    std::fs::read(folder.path().join("last-boot")).unwrap()[24] == 1
}

#[test]
fn after_a_power_cut_whoever_lost_writes_waits_for_whoever_did_not() {
    let _turn = turn::shared();
    let mut cluster = Cluster::start();
    // With fewer than these in sync, whoever was in sync stays eligible.
    let both = ("min.insync.replicas", "2");
    create(&mut cluster.client(1), "written", &[("write.caching", "true"), both]);
    create(&mut cluster.client(1), "durable", &[both]);
    for topic in ["written", "durable"] {
        cluster.settled(topic, |told| told.in_sync == [1, 2, 3]);
        append_somewhere(&cluster, topic, b"kept");
    }
    for id in [1, 2, 3] {
        cluster.kill(id);
    }
    // A process that was killed has lost nothing.
    cluster.begin(&[1, 2]);
    cluster.settled("written", |told| told.leader > 0);
    cluster.begin(&[3]);
    for topic in ["written", "durable"] {
        cluster.settled(topic, |told| told.in_sync == [1, 2, 3]);
    }
    for id in [1, 2, 3] {
        cluster.kill(id);
    }
    for folder in &cluster.folders[..2] {
        assert!(!was_clean(folder));
        std::fs::remove_file(folder.path().join("last-boot")).unwrap();
    }
    cluster.begin(&[1, 2]);
    cluster.settled("durable", |told| told.leader > 0);
    cluster.settled("written", |told| told.leader < 0);
    cluster.begin(&[3]);
    let told = cluster.settled("written", |told| told.in_sync == [1, 2, 3]);
    assert_eq!((told.leader, read(&cluster, 3, "written")), (3, vec![b"kept".to_vec()]));
    cluster.stop(1);
    assert!(was_clean(&cluster.folders[0]));
    cluster.begin(&[1]);
    assert!(!was_clean(&cluster.folders[0]), "until it is used again");
}

/// What a consumer in a rack gets: the error, where it is sent, and how many bytes.
fn fetch_in(
    client: &mut Client,
    topic: &str,
    rack: &str,
    version: i16,
    offset: i64,
    wait_ms: i32,
) -> (i16, i32, usize) {
    let request =
        fetch::Request { rack_id: rack.into(), ..fetch_request(topic, 0, offset, wait_ms, 1 << 20) };
    let answer = client.call(&request, version);
    let response: fetch::Response = answer.body();
    let topic = response.responses.iter().next().expect("the topic");
    let partition = topic.partitions.iter().next().expect("the partition");
    let bytes = partition.records.map_or(0, |records| records.len());
    (partition.error_code, partition.preferred_read_replica, bytes)
}

#[test]
fn consumers_read_from_the_replica_in_their_rack() {
    let _turn = turn::shared();
    let cluster = Cluster::start();
    create(&mut cluster.client(1), "near", &[]);
    let leader = cluster.settled("near", |told| told.in_sync == [1, 2, 3]).leader;
    let follower = leader % 3 + 1;
    let (near, far) = (format!("rack{follower}"), format!("rack{leader}"));
    append_somewhere(&cluster, "near", b"first");
    let (mut at_leader, mut at_follower) = (cluster.client(leader), cluster.client(follower));
    let sent = fetch_in(&mut at_leader, "near", &near, 11, 0, 20_000);
    assert_eq!(sent, (0, follower, 0), "it is sent to its rack at once");
    for (rack, version) in [(far.as_str(), 11), ("", 11), ("elsewhere", 12), ("", 10)] {
        let (error, preferred, bytes) = fetch_in(&mut at_leader, "near", rack, version, 0, 0);
        assert!(error == 0 && preferred == -1 && bytes > 0, "{rack}: {error}, {preferred}, {bytes}");
    }
    let has_read = wait_until(PATIENCE, || {
        let (error, preferred, bytes) = fetch_in(&mut at_follower, "near", &near, 12, 0, 500);
        assert_eq!((error, preferred), (0, -1));
        bytes > 0
    });
    assert!(has_read, "{}", cluster.logs());
    assert_eq!(
        fetch_in(&mut at_follower, "near", "", 10, 0, 0).0,
        6,
        "before version 11 only leaders are read"
    );
    assert_eq!(fetch_in(&mut at_follower, "near", &near, 12, 100, 0).0, 1, "out of range");
    let waiting = std::thread::spawn(move || {
        let began = Instant::now();
        (fetch_in(&mut at_follower, "near", &near, 12, 1, 20_000), began.elapsed())
    });
    std::thread::sleep(Duration::from_millis(200));
    append_somewhere(&cluster, "near", b"second");
    let ((error, _, bytes), took) = waiting.join().unwrap();
    assert!(error == 0 && bytes > 0 && took < Duration::from_secs(10), "{error}, {bytes} after {took:?}");
}

/// Deletes the records of partition 0 before an offset: the error, and the low watermark.
fn delete_before(client: &mut Client, topic: &str, offset: i64, timeout_ms: i32) -> (i16, i64) {
    let partition = delete_records::DeleteRecordsPartition { partition_index: 0, offset };
    let topic = delete_records::DeleteRecordsTopic { name: topic.into(), partitions: vec![partition].into() };
    let answer = client.call(&delete_records::Request { topics: vec![topic].into(), timeout_ms }, 2);
    let response: delete_records::Response = answer.body();
    let topic = response.topics.iter().next().expect("the topic");
    let partition = topic.partitions.iter().next().expect("the partition");
    (partition.error_code, partition.low_watermark)
}

#[test]
fn records_are_deleted_once_no_replica_in_sync_has_them() {
    let _turn = turn::shared();
    let cluster = Cluster::start();
    create(&mut cluster.client(1), "short", &[]);
    let leader = cluster.settled("short", |told| told.in_sync == [1, 2, 3]).leader;
    for value in values(0..10) {
        append_somewhere(&cluster, "short", &value);
    }
    let began = Instant::now();
    assert_eq!(delete_before(&mut cluster.client(leader), "short", 4, 20_000), (0, 4));
    assert!(began.elapsed() < Duration::from_secs(2), "followers tell at once: {:?}", began.elapsed());
    // Whoever does not answer is waited for as long as it is in sync.
    let follower = leader % 3 + 1;
    cluster.pause(follower);
    assert_eq!(delete_before(&mut cluster.client(leader), "short", 6, 500), (7, -1), "a time-out");
    cluster.resume(follower);
    assert_eq!(delete_before(&mut cluster.client(leader), "short", 6, 20_000), (0, 6));
    for id in [1, 2, 3] {
        let (error, _, _) = fetch_in(&mut cluster.client(id), "short", "", 11, 5, 0);
        assert_eq!(error, 1, "node {id} has let go of it");
    }
}
