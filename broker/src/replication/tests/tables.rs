//! Partitions of three brokers, over logs, journals and links.

use super::fixture::LISTENER;
use crate::journal::Journal;
use crate::log::{DirectoryHealth, Store, StoreSettings, recover};
use crate::partition::PartitionTable;
use crate::partition::command::{Acks, AppendResult, PartitionCommand, PartitionError, ReadRequest};
use crate::partition::router::{PartitionRouter, shard_of};
use crate::replication::{Links, LinksSettings, Partitions, PeerServer, Plain, ReplicationCounters};
use crate::request::tests::batch;
use crate::runtime::simulated::{Host, Options, SimulatedRuntime, World};
use crate::runtime::{Connection, Listener, Runtime, oneshot};
use crate::shard::memory::MemoryClasses;
use bytes::{Bytes, BytesMut};
use logmill_state::metadata::{
    BrokerRegistration, BrokerStart, ControllerContext, CreateTopicsContext, Endpoint, Image, InSyncProposal,
    NewTopic, PartitionAssignment, Record,
};
use logmill_state::partition::{AlterPartition, AlterPartitionOutcome, Isolation};
use logmill_state::settings::BrokerSettings;
use logmill_wire::ids::{LeaderEpoch, NodeId, Offset, PartitionIndex, ShardIndex, TopicPartition, Uuid};
use logmill_wire::record_batch::BatchHeader;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

type Table = PartitionTable<SimulatedRuntime>;

struct Shard {
    runtime: SimulatedRuntime,
    table: Rc<Table>,
    links: Links<SimulatedRuntime>,
    server: Rc<PeerServer<SimulatedRuntime>>,
}

/// One life of a broker.
struct Member {
    incarnation: Uuid,
    shards: Vec<Rc<Shard>>,
}

struct Proposed {
    from: NodeId,
    shard: usize,
    partition: TopicPartition,
    proposal: AlterPartition,
}

/// Three brokers and their controller, which is the test.
struct Cluster {
    world: World,
    hosts: Vec<Host>,
    shards: [u16; 3],
    store: StoreSettings,
    image: Image,
    members: BTreeMap<NodeId, Member>,
    proposals: Rc<RefCell<Vec<Proposed>>>,
    starts: i32,
    topic: Uuid,
}

fn with_rules<T>(work: impl FnOnce(&ControllerContext<'_>) -> T) -> T {
    work(&ControllerContext { min_in_sync: &|_| 1, unclean_election: &|_| false, write_caching: &|_| false })
}

impl Cluster {
    fn new(seed: u64, shards: [u16; 3], store: StoreSettings, partitions: i32) -> Self {
        let world = World::new(seed, Options::default());
        let hosts = ["a", "b", "c"].map(|name| world.host(name)).to_vec();
        let mut image = Image::default();
        image.apply(&Record::ClusterIdMinted { cluster_id: Uuid::from_random(42) }).unwrap();
        let (members, proposals) = (BTreeMap::new(), Rc::default());
        let mut cluster =
            Self { world, hosts, shards, store, image, members, proposals, starts: 0, topic: Uuid::ZERO };
        (1..=3).for_each(|node| cluster.start(NodeId(node)));
        cluster.create_topic(partitions);
        cluster
    }

    fn create_topic(&mut self, partitions: i32) {
        let replicas = |first: i32| (0..3).map(|next| NodeId((first + next) % 3 + 1)).collect();
        let assignments = (0..partitions)
            .map(|partition| PartitionAssignment { partition, replicas: replicas(partition) })
            .collect();
        let topic = NewTopic {
            name: "t".to_owned(),
            partition_count: -1,
            replication_factor: -1,
            assignments,
            configs: Vec::new(),
        };
        let context = CreateTopicsContext {
            default_partition_count: 1,
            default_replication_factor: 1,
            check_configs: &|_| Ok(()),
            random_bits: &[0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835],
        };
        let plan = self.image.decide_create_topics(&[topic], false, &context);
        self.commit(&plan.records);
        self.topic = self.image.topic_by_name("t").unwrap().id;
    }

    fn commit(&mut self, records: &[Record]) {
        records.iter().for_each(|record| self.image.apply(record).unwrap());
        let image = Arc::new(self.image.clone());
        for shard in self.members.values().flat_map(|member| &member.shards) {
            shard.links.apply_image(Arc::clone(&image));
            shard.server.apply_image(Arc::clone(&image));
            let (table, image) = (Rc::clone(&shard.table), Arc::clone(&image));
            self.world.block_on(&shard.runtime, async move { table.apply_image(image).await });
        }
    }

    /// Gives a partition other replicas, all of which but `joins` are in sync.
    fn reassign(&mut self, index: i32, replicas: &[NodeId], joins: Option<NodeId>) {
        let key = self.partition(index);
        let topic = self.image.topic_by_id(self.topic).unwrap();
        let mut state = self.image.partition(topic, key.partition).unwrap().to_state();
        state.partition_epoch += 1;
        state.leader_epoch.0 += 1;
        state.replicas = replicas.to_vec();
        state.in_sync = replicas.iter().copied().filter(|&node| Some(node) != joins).collect();
        self.commit(&[Record::PartitionChanged { topic_id: self.topic, partition: key.partition, state }]);
    }

    fn host(&self, node: NodeId) -> &Host {
        &self.hosts[node.0 as usize - 1]
    }

    fn start(&mut self, node: NodeId) {
        self.host(node).restart();
        self.starts += 1;
        let incarnation = Uuid::from_random(self.starts as u128);
        let host = self.host(node).clone();
        let shards = self.shards[node.0 as usize - 1];
        let runtimes: Vec<_> = (0..shards).map(|shard| host.runtime(ShardIndex(shard))).collect();
        let (first, store, proposals) = (runtimes[0].clone(), self.store, Rc::clone(&self.proposals));
        let address = host.address(9092);
        let making = async move { make(node, runtimes, store, &proposals, address).await };
        let made = self.world.block_on(&first, making);
        self.members.insert(node, Member { incarnation, shards: made });
        let endpoint = Endpoint {
            listener: LISTENER.to_owned(),
            host: address.ip().to_string(),
            port: address.port(),
            security_protocol: 0,
        };
        let registration = BrokerRegistration {
            broker_id: node,
            cluster_id: self.image.cluster_id().unwrap(),
            incarnation,
            rack: None,
            endpoints: vec![endpoint],
        };
        let start = BrokerStart {
            registration,
            directories: Vec::new(),
            logs: Vec::new(),
            lost_writes: false,
            starts_fenced: false,
        };
        let plan = with_rules(|rules| self.image.decide_broker_start(&start, false, rules)).unwrap();
        self.commit(&plan.records);
    }

    /// Kills a broker, and has the controller notice.
    fn kill(&mut self, node: NodeId) {
        self.host(node).kill();
        self.members.remove(&node);
        let plan = with_rules(|rules| self.image.decide_fence_broker(node, rules));
        self.commit(&plan.records);
    }

    /// Lets time pass, and the controller decide.
    fn tick(&mut self) {
        self.world.run_for(Duration::from_millis(2));
        let proposals = std::mem::take(&mut *self.proposals.borrow_mut());
        for Proposed { from, shard, partition, proposal } in proposals {
            let Some(member) = self.members.get(&from) else { continue };
            let (table, incarnation) = (Rc::clone(&member.shards[shard].table), member.incarnation);
            let asked = InSyncProposal {
                partition,
                leader_epoch: proposal.leader_epoch,
                partition_epoch: proposal.partition_epoch,
                in_sync: proposal.in_sync.clone(),
            };
            let decided =
                with_rules(|rules| self.image.decide_alter_partition((from, incarnation), &[asked], rules));
            let mut decided = decided.unwrap();
            self.commit(&decided.plan.records);
            let outcome = match decided.results.remove(0) {
                Ok(state) => AlterPartitionOutcome::Accepted {
                    partition_epoch: state.partition_epoch,
                    in_sync: state.in_sync,
                    has_eligible: !state.eligible.is_empty(),
                },
                Err(_) => AlterPartitionOutcome::Stale,
            };
            table.on_alter_partition(partition, &proposal, &outcome);
        }
    }

    fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        for _ in 0..15_000 {
            if condition(self) {
                return;
            }
            self.tick();
        }
        panic!("after half a minute it is not so that {what}");
    }

    fn partition(&self, index: i32) -> TopicPartition {
        TopicPartition { topic_id: self.topic, partition: PartitionIndex(index) }
    }

    fn leader(&self, index: i32) -> NodeId {
        let topic = self.image.topic_by_id(self.topic).unwrap();
        self.image.partition(topic, PartitionIndex(index)).unwrap().leader
    }

    fn in_sync(&self, index: i32) -> usize {
        let topic = self.image.topic_by_id(self.topic).unwrap();
        self.image.partition(topic, PartitionIndex(index)).unwrap().in_sync.len()
    }

    /// The shard of a broker that owns a partition.
    fn owner(&self, node: NodeId, index: i32) -> &Rc<Shard> {
        let shards = &self.members[&node].shards;
        &shards[usize::from(shard_of(self.partition(index), shards.len() as u16).0)]
    }

    /// Appends at the leader with acks=all; the answer comes into the slot.
    fn begin_append(&self, index: i32, bytes: usize) -> Rc<RefCell<Option<AppendResult>>> {
        let owner = self.owner(self.leader(index), index);
        let (command, mut answers) =
            PartitionCommand::append(self.partition(index), batch(1, bytes), Acks::All);
        owner.table.handle(command);
        let slot = Rc::<RefCell<Option<AppendResult>>>::default();
        let answered = Rc::clone(&slot);
        owner.runtime.spawn(async move {
            (&mut answers).await;
            let answer = answers.into_answers().pop().flatten();
            *answered.borrow_mut() = Some(answer.unwrap_or(Err(PartitionError::Stopping)));
        });
        slot
    }

    /// Appends until so many are acknowledged, one after another.
    fn append(&mut self, index: i32, count: i64, bytes: usize) {
        let mut appended = 0;
        while appended < count {
            let slots: Vec<_> =
                (appended..count.min(appended + 20)).map(|_| self.begin_append(index, bytes)).collect();
            self.until("the appends are answered", |_| slots.iter().all(|slot| slot.borrow().is_some()));
            for slot in &slots {
                match slot.take().unwrap() {
                    Ok(_) => appended += 1,
                    Err(error) => panic!("not appended: {error:?}"),
                }
            }
        }
    }

    /// How many records the leader lets consumers read.
    fn readable(&mut self, index: i32) -> i64 {
        let mut next = Offset(0);
        loop {
            let owner = self.owner(self.leader(index), index);
            let (reply, answer) = oneshot::channel();
            let request = ReadRequest {
                offset: next,
                max_bytes: 1 << 20,
                at_least_one: true,
                current_leader_epoch: LeaderEpoch::NONE,
                last_fetched_epoch: LeaderEpoch::NONE,
                isolation: Isolation::ReadUncommitted,
                leader_only: true,
            };
            let partition = self.partition(index);
            owner.table.handle(PartitionCommand::Read { partition, request, reply });
            let read = self.world.block_on(&owner.runtime, answer).unwrap();
            let parts: Vec<Bytes> = read.records.unwrap();
            let bytes = parts.concat();
            let mut rest = &bytes[..];
            if rest.is_empty() {
                return next.0;
            }
            // The last batch may be cut short.
            while let Some(length) = rest.get(8..12) {
                let length = i32::from_be_bytes(length.try_into().unwrap()) as usize;
                let Some(behind) = rest.get(length + 12..) else { break };
                let header = BatchHeader::parse(rest).unwrap();
                assert_eq!(header.base_offset, next);
                next = Offset(header.base_offset.0 + i64::from(header.last_offset_delta) + 1);
                rest = behind;
            }
        }
    }

    fn bytes_caught_up(&self, node: NodeId) -> u64 {
        let shards = self.members[&node].shards.iter();
        shards.map(|shard| shard.links.counters().bytes_caught_up.get()).sum()
    }
}

async fn make(
    node: NodeId,
    runtimes: Vec<SimulatedRuntime>,
    store: StoreSettings,
    proposals: &Rc<RefCell<Vec<Proposed>>>,
    address: std::net::SocketAddr,
) -> Vec<Rc<Shard>> {
    let (first, path) = (&runtimes[0], PathBuf::from("/data"));
    first.create_directory(&path).await.unwrap();
    first.sync_directory(&PathBuf::from("/")).await.unwrap();
    let count = runtimes.len() as u16;
    let recovery = recover(first, &path).await.unwrap();
    let opened = recovery
        .begin_run(first, count, move |_| store.journal_bytes, move |log| shard_of(log, count))
        .await
        .unwrap();
    let settings = Arc::new(BrokerSettings::from_values(BTreeMap::new()).unwrap());
    let all = Rc::new(OnceCell::<Vec<Rc<Shard>>>::new());
    let mut made = Vec::new();
    for ((at, runtime), (journal_id, states)) in runtimes.iter().enumerate().zip(opened.shards) {
        let path = opened.run.journal(runtime.shard());
        let journal = Journal::open_fresh(runtime, &path, journal_id).await.unwrap();
        let health = Arc::<DirectoryHealth>::default();
        let store = Store::start(runtime.clone(), opened.run.clone(), health, store, journal, states);
        let (proposals, counters) = (Rc::clone(proposals), Rc::<ReplicationCounters>::default());
        let links_settings = LinksSettings {
            node_id: node,
            shards: count,
            listener: Some(LISTENER.to_owned()),
            ask_controller: Rc::new(move |partition, proposal| {
                proposals.borrow_mut().push(Proposed { from: node, shard: at, partition, proposal });
            }),
            lost_peers: Arc::default(),
        };
        let links = Links::new(runtime.clone(), Plain, links_settings, Rc::clone(&counters));
        let peers = Rc::new(links.clone());
        let table = PartitionTable::new(runtime.clone(), node, store, Arc::clone(&settings), count, peers);
        table.start_care(count);
        let partitions: Rc<dyn Partitions> = table.clone();
        links.begin(Rc::downgrade(&partitions));
        let shards = Rc::clone(&all);
        let router = PartitionRouter::new(
            count,
            Rc::new(move |shard: ShardIndex, command| {
                shards.get().unwrap()[usize::from(shard.0)].table.handle(command);
            }),
        );
        let (listener, memory) = (Some(LISTENER.to_owned()), MemoryClasses::new(64 << 20));
        let server = PeerServer::new(runtime.clone(), node, listener, router, memory, counters);
        made.push(Rc::new(Shard { runtime: runtime.clone(), table, links, server }));
    }
    assert!(all.set(made.clone()).is_ok());
    let (listener, shards) = (first.listen(address).await.unwrap(), made.clone());
    first.spawn(async move {
        for turn in 0.. {
            let (handle, peer) = listener.accept().await.unwrap();
            let shard = Rc::clone(&shards[turn % shards.len()]);
            let (runtime, connection) = (shard.runtime.clone(), shard.runtime.adopt(handle));
            runtime.spawn(async move {
                shard.server.serve(&connection, BytesMut::new(), LISTENER, peer).await;
                connection.shutdown();
            });
        }
    });
    made
}

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn store() -> StoreSettings {
    StoreSettings { journal_bytes: 4 << 20, ..StoreSettings::default() }
}

#[test]
fn what_is_acknowledged_by_all_is_in_all_three_logs() {
    let mut cluster = Cluster::new(1, [1, 2, 3], store(), 4);
    for index in 0..4 {
        cluster.append(index, 40, 1_000);
        assert_eq!(cluster.in_sync(index), 3);
    }
    assert_eq!(cluster.leader(0), A);
    // Each broker is asked alone, after a restart that leaves only what is durable.
    cluster.kill(A);
    cluster.until("another leads", |cluster| cluster.leader(0) != A);
    for index in 0..4 {
        cluster.append(index, 5, 1_000);
    }
    cluster.kill(B);
    for index in 0..4 {
        assert_eq!(cluster.leader(index), C);
        cluster.append(index, 5, 1_000);
        assert_eq!(cluster.readable(index), 50);
    }
}

#[test]
fn a_follower_that_was_away_comes_back_into_sync() {
    let mut cluster = Cluster::new(2, [2, 1, 2], store(), 3);
    (0..3).for_each(|index| cluster.append(index, 10, 500));
    cluster.kill(C);
    for index in 0..3 {
        cluster.append(index, 30, 500);
        assert_eq!(cluster.in_sync(index), 2);
    }
    cluster.start(C);
    cluster.until("all are in sync", |cluster| (0..3).all(|index| cluster.in_sync(index) == 3));
    (0..3).for_each(|index| cluster.append(index, 10, 500));
    cluster.kill(A);
    cluster.kill(B);
    for index in 0..3 {
        assert_eq!(cluster.leader(index), C);
        cluster.append(index, 1, 500);
        assert_eq!(cluster.readable(index), 51);
    }
}

#[test]
fn a_replica_that_went_and_comes_back_at_once_begins_with_nothing() {
    let mut cluster = Cluster::new(5, [1, 1, 1], store(), 1);
    for _ in 0..3 {
        cluster.append(0, 10, 500);
        cluster.reassign(0, &[A, B], None);
        cluster.reassign(0, &[A, B, C], Some(C));
        cluster.append(0, 10, 500);
        cluster.until("all are in sync", |cluster| cluster.in_sync(0) == 3);
    }
    // The last life of the log is the one that a restart finds.
    cluster.kill(C);
    cluster.start(C);
    cluster.until("all are in sync", |cluster| cluster.in_sync(0) == 3);
    cluster.kill(A);
    cluster.kill(B);
    assert_eq!(cluster.leader(0), C);
    cluster.append(0, 1, 500);
    assert_eq!(cluster.readable(0), 61);
}

#[test]
fn a_leader_that_was_killed_follows_the_next_one() {
    let mut cluster = Cluster::new(3, [1, 1, 1], store(), 2);
    (0..2).for_each(|index| cluster.append(index, 10, 500));
    for (round, node) in [A, B, C, A].into_iter().enumerate() {
        // What is under way may be lost with its leader, and then is nobody's.
        let under_way: Vec<_> = (0..2).map(|index| cluster.begin_append(index, 300)).collect();
        cluster.kill(node);
        (0..2).for_each(|index| cluster.append(index, 10, 500));
        cluster.start(node);
        cluster.until("all are in sync", |cluster| (0..2).all(|index| cluster.in_sync(index) == 3));
        drop(under_way);
        for index in 0..2 {
            let least = 10 * (round as i64 + 2);
            let readable = cluster.readable(index);
            assert!((least..=least + round as i64 + 1).contains(&readable), "{readable} of {least}");
        }
    }
}

#[test]
fn a_follower_catches_up_from_disk() {
    let small = StoreSettings { cache_bytes: 1 << 20, ..store() };
    let mut cluster = Cluster::new(4, [1, 1, 2], small, 1);
    cluster.append(0, 5, 1_000);
    cluster.kill(C);
    cluster.append(0, 120, 100_000);
    cluster.start(C);
    cluster.until("all are in sync", |cluster| cluster.in_sync(0) == 3);
    assert!(cluster.bytes_caught_up(A) >= 8_000_000, "{} bytes", cluster.bytes_caught_up(A));
    cluster.append(0, 5, 1_000);
    cluster.kill(A);
    cluster.kill(B);
    cluster.append(0, 1, 1_000);
    assert_eq!(cluster.readable(0), 131);
}

#[test]
fn nothing_acknowledged_is_lost_whatever_network_and_brokers_do() {
    let seeds = std::env::var("LOGMILL_SIM_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(6) {
        let mut cluster = Cluster::new(100 + seed, [1, 2, 2], store(), 2);
        let (mut under_way, mut acknowledged, mut unknown) = (Vec::new(), [0_i64; 2], [0_i64; 2]);
        for _ in 0..40 {
            let draw = |below: u64| cluster.world.draw(|chance| chance.below(below));
            let (deed, one, other, pause) = (draw(9), draw(3) as usize, draw(3) as usize, draw(150));
            let (from, to) = (cluster.hosts[one].clone(), cluster.hosts[other].clone());
            let (node, others) = (NodeId(one as i32 + 1), cluster.members.len());
            match deed {
                0 | 1 => cluster.world.reset_connections(&from, &to),
                2 | 3 => cluster.world.cut(&from, &to),
                // One is left at least that has everything.
                4 if others == 3 && (0..2).all(|index| cluster.in_sync(index) == 3) => cluster.kill(node),
                5 if !cluster.members.contains_key(&node) => cluster.start(node),
                _ => cluster.world.mend_all(),
            }
            for index in 0..2 {
                (0..5).for_each(|_| under_way.push((index, cluster.begin_append(index as i32, 2_000))));
            }
            (0..pause).for_each(|_| cluster.tick());
        }
        cluster.world.mend_all();
        let all_are_there = (1..=3).filter(|&node| !cluster.members.contains_key(&NodeId(node)));
        all_are_there.collect::<Vec<_>>().into_iter().for_each(|node| cluster.start(NodeId(node)));
        cluster.until("all are in sync", |cluster| (0..2).all(|index| cluster.in_sync(index) == 3));
        cluster.append(0, 1, 100);
        cluster.append(1, 1, 100);
        for (index, slot) in under_way {
            match slot.take() {
                Some(Ok(_)) => acknowledged[index] += 1,
                // It died with its leader, or it was refused; the record may be there.
                _ => unknown[index] += 1,
            }
        }
        cluster.kill(A);
        cluster.kill(B);
        for (index, (acknowledged, unknown)) in acknowledged.into_iter().zip(unknown).enumerate() {
            cluster.append(index as i32, 1, 100);
            let readable = cluster.readable(index as i32);
            let least = acknowledged + 2;
            assert!(acknowledged > 50, "seed {seed}: only {acknowledged} were acknowledged");
            assert!((least..=least + unknown).contains(&readable), "seed {seed}: {readable} of {least}");
        }
    }
}
