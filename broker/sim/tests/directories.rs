//! Several log directories: new logs are spread, each is found where it is, and one that fails leaves the others alone.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
use logmill::log::StoreSettings;
use logmill::partition::command::{PartitionCommand, PartitionError};
use logmill::partition::router::shard_of;
use logmill::runtime::simulated::{Chance, Fault, Host, Operation, Options, SimulatedRuntime, World};
use logmill::runtime::{Runtime, oneshot};
use logmill_sim::node::{DIRECTORIES, NODE, Node, Start};
use logmill_sim::workload::{append, make_batch, read, records_of};
use logmill_state::metadata::{Image, PartitionState, PlacementRun, Record};
use logmill_wire::ids::{LeaderEpoch, NodeId, Offset, PartitionIndex, ShardIndex, TopicPartition, Uuid};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

const PARTITIONS: i32 = 8;

fn log(partition: i32) -> TopicPartition {
    TopicPartition { topic_id: Uuid([7; 16]), partition: PartitionIndex(partition) }
}

fn image(epoch: i32) -> Arc<Image> {
    let mut image = Image::default();
    image.apply(&Record::ClusterIdMinted { cluster_id: Uuid([9; 16]) }).unwrap();
    let registered = Record::BrokerRegistered {
        broker_id: NODE,
        incarnation: Uuid([epoch as u8; 16]),
        leader_epoch_base: epoch,
        rack: None,
        endpoints: Vec::new(),
    };
    image.apply(&registered).unwrap();
    let (partition_count, leader_epoch) = (PARTITIONS as u32, LeaderEpoch(0));
    let placement = vec![PlacementRun { partition_count, leader_epoch, replicas: vec![NODE] }];
    let (topic_id, name) = (log(0).topic_id, "t".to_owned());
    image.apply(&Record::TopicCreated { topic_id, name, configs: BTreeMap::new(), placement }).unwrap();
    Arc::new(image)
}

/// The image with a partition that has moved to another broker, or back.
fn moved(image: &Image, partition: i32, to: NodeId) -> Arc<Image> {
    let mut image = image.clone();
    let topic = Arc::clone(image.topic_by_id(log(0).topic_id).unwrap());
    let before = image.partition(&topic, PartitionIndex(partition)).unwrap().to_state();
    let state = PartitionState {
        leader: to,
        leader_epoch: LeaderEpoch(before.leader_epoch.0 + 1),
        partition_epoch: before.partition_epoch + 1,
        replicas: vec![to],
        in_sync: vec![to],
        ..before
    };
    let partition = PartitionIndex(partition);
    image.apply(&Record::PartitionChanged { topic_id: topic.id, partition, state }).unwrap();
    Arc::new(image)
}

struct Bench {
    world: World,
    host: Host,
    epoch: i32,
    chance: Chance,
    next_number: u64,
}

impl Bench {
    fn new() -> Self {
        let world = World::new(5, Options::default());
        let host = world.host("broker");
        Self { world, host, epoch: 0, chance: Chance::new(1), next_number: 0 }
    }

    fn runtime(&self) -> SimulatedRuntime {
        self.host.runtime(ShardIndex(0))
    }

    fn start(&mut self, directories: usize) -> Rc<Node> {
        self.host.restart();
        self.epoch += 1;
        let store = StoreSettings { journal_bytes: 256 << 10, ..StoreSettings::default() };
        let image = image(self.epoch);
        let start = Start { shards: 2, directories, store, cleaner_backoff_ms: 15_000, image };
        self.world.block_on(&self.runtime(), Node::start(self.host.clone(), start)).unwrap()
    }

    fn append(&mut self, node: &Rc<Node>, log: TopicPartition) -> Result<Offset, PartitionError> {
        let sent = make_batch(log, -1, -1, self.next_number, &mut self.chance, 2_000, false);
        self.next_number += 100;
        let node = Rc::clone(node);
        let appended = self.world.block_on(&self.runtime(), async move { append(&node, log, &sent).await });
        appended.map(|appended| appended.base_offset)
    }

    fn count(&self, node: &Rc<Node>, log: TopicPartition) -> Result<usize, PartitionError> {
        let node = Rc::clone(node);
        let reply = self
            .world
            .block_on(&self.runtime(), async move { read(&node, log, Offset(0), 1 << 20).await.unwrap() });
        reply.records.as_ref().map_err(Clone::clone)?;
        Ok(records_of(log, &reply).unwrap().len())
    }

    /// Whether each log directory says what it holds.
    fn describes(&self, node: &Rc<Node>) -> Vec<bool> {
        let table = Rc::clone(&node.shards[0].table);
        self.world.block_on(&self.runtime(), async move {
            let (reply, answer) = oneshot::channel();
            table.handle(PartitionCommand::Sizes { partitions: None, reply });
            answer.await.unwrap().iter().map(|held| held.sizes.is_ok()).collect()
        })
    }

    /// The partitions whose directories are in a log directory.
    fn logs_in(&self, directory: &str) -> Vec<i32> {
        let (runtime, path) = (self.runtime(), PathBuf::from(directory));
        let reading = runtime.clone();
        let entries =
            self.world.block_on(&runtime, async move { reading.read_directory(&path).await.unwrap() });
        entries.iter().filter_map(|entry| entry.name.strip_prefix("t-")?.parse().ok()).collect()
    }

    fn stop(&self, node: Rc<Node>) {
        self.world.block_on(&self.runtime(), async move { node.stop().await });
        self.host.kill();
    }
}

#[test]
fn logs_are_spread_and_found_again() {
    let mut bench = Bench::new();
    let node = bench.start(2);
    let mut counts = Vec::new();
    for partition in 0..PARTITIONS {
        bench.append(&node, log(partition)).unwrap();
        counts.push(bench.count(&node, log(partition)).unwrap());
    }
    let before = DIRECTORIES.map(|directory| bench.logs_in(directory));
    assert_eq!(before.clone().map(|logs| logs.len()), [4, 4], "{before:?}");
    drop(node);
    bench.host.crash();
    let node = bench.start(2);
    for partition in 0..PARTITIONS {
        assert_eq!(bench.count(&node, log(partition)), Ok(counts[partition as usize]));
        bench.append(&node, log(partition)).unwrap();
    }
    assert_eq!(DIRECTORIES.map(|directory| bench.logs_in(directory)), before);
    bench.stop(node);
}

#[test]
fn a_directory_that_fails_takes_only_its_own_logs_out_of_service() {
    for (failing, directory) in DIRECTORIES.into_iter().enumerate() {
        let mut bench = Bench::new();
        let node = bench.start(2);
        for partition in 0..PARTITIONS {
            bench.append(&node, log(partition)).unwrap();
        }
        let counts: Vec<_> = (0..PARTITIONS).map(|at| bench.count(&node, log(at)).unwrap()).collect();
        let lost = bench.logs_in(directory);
        let path_contains = format!("{directory}/");
        bench.host.inject(Fault { path_contains, ..Fault::always(Operation::Write) });
        for partition in 0..PARTITIONS {
            let appended = bench.append(&node, log(partition));
            let is_lost = lost.contains(&partition);
            assert_eq!(matches!(appended, Err(PartitionError::Storage(_))), is_lost, "{appended:?}");
        }
        assert_eq!(
            node.healths.iter().map(|health| health.is_failed()).collect::<Vec<_>>(),
            [failing == 0, failing == 1]
        );
        assert_eq!(bench.describes(&node), [failing != 0, failing != 1]);
        for partition in 0..PARTITIONS {
            let read = bench.count(&node, log(partition));
            assert_eq!(
                matches!(read, Err(PartitionError::Storage(_))),
                lost.contains(&partition),
                "{read:?}"
            );
        }
        // What is new goes where a disk works, and a stop ends both.
        bench.stop(node);
        bench.host.clear_faults();
        let node = bench.start(2);
        for partition in 0..PARTITIONS {
            let count = bench.count(&node, log(partition)).unwrap();
            assert!(count >= counts[partition as usize], "partition {partition} has {count}");
            bench.append(&node, log(partition)).unwrap();
        }
        bench.stop(node);
    }
}

#[test]
fn a_log_that_two_directories_have_is_not_used_and_both_are_kept() {
    let mut bench = Bench::new();
    let node = bench.start(2);
    for partition in 0..PARTITIONS {
        bench.append(&node, log(partition)).unwrap();
    }
    let in_second = bench.logs_in(DIRECTORIES[1]);
    bench.stop(node);
    // The second directory is taken out, and its logs begin anew in the first one.
    let node = bench.start(1);
    let twice = log(in_second[0]);
    assert_eq!(bench.append(&node, twice), Ok(Offset(0)));
    bench.stop(node);
    let node = bench.start(2);
    let (appended, read) = (bench.append(&node, twice), bench.count(&node, twice));
    for error in [appended.unwrap_err(), read.unwrap_err()] {
        let PartitionError::Storage(text) = error else { panic!("{error:?}") };
        for directory in DIRECTORIES {
            assert!(text.contains(&format!("{directory}/t-{}", in_second[0])), "{text}");
        }
    }
    for partition in (0..PARTITIONS).filter(|partition| *partition != in_second[0]) {
        bench.append(&node, log(partition)).unwrap();
    }
    for directory in DIRECTORIES {
        assert!(bench.logs_in(directory).contains(&in_second[0]));
    }
    bench.stop(node);
}

#[test]
fn a_log_that_was_deleted_in_a_directory_that_has_failed_is_not_begun_in_the_other() {
    let mut bench = Bench::new();
    let node = bench.start(2);
    for partition in 0..PARTITIONS {
        bench.append(&node, log(partition)).unwrap();
    }
    let in_first = bench.logs_in(DIRECTORIES[0]);
    let (gone, other) = (in_first[0], in_first[1]);
    let before = bench.count(&node, log(gone)).unwrap();
    for operation in [Operation::Write, Operation::Names] {
        let path_contains = format!("{}/", DIRECTORIES[0]);
        bench.host.inject(Fault { path_contains, ..Fault::always(operation) });
    }
    assert!(matches!(bench.append(&node, log(other)), Err(PartitionError::Storage(_))));
    // It goes to another broker and comes back, and no checkpoint can be made that does not name it.
    let away = moved(&image(bench.epoch), gone, NodeId(2));
    for image in [Arc::clone(&away), moved(&away, gone, NODE)] {
        let table = Rc::clone(&node.shards[usize::from(shard_of(log(gone), 2).0)].table);
        bench.world.block_on(&bench.runtime(), async move { table.apply_image(image).await });
    }
    let appended = bench.append(&node, log(gone));
    assert!(matches!(appended, Err(PartitionError::Storage(_))), "{appended:?}");
    bench.stop(node);
    bench.host.clear_faults();
    // The disk has it as it was: a second one would leave nobody to tell which is right.
    let node = bench.start(2);
    assert_eq!(DIRECTORIES.map(|directory| bench.logs_in(directory).contains(&gone)), [true, false]);
    assert_eq!(bench.count(&node, log(gone)), Ok(before));
    bench.append(&node, log(gone)).unwrap();
    bench.stop(node);
}
