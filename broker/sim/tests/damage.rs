//! What a start finds missing or damaged is reported, and kept; what is only in the way for a while is waited for.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
use logmill::log::{StoreSettings, recover};
use logmill::partition::command::{OffsetQuery, PartitionCommand, PartitionError};
use logmill::runtime::simulated::{Chance, Fault, Host, Operation, Options, SimulatedRuntime, World};
use logmill::runtime::{DirectoryEntry, Runtime, oneshot};
use logmill_sim::node::{NODE, Node, Start};
use logmill_sim::workload::{append, make_batch, read, records_of};
use logmill_state::metadata::{Image, PlacementRun, Record};
use logmill_state::partition::Isolation;
use logmill_wire::ids::{LeaderEpoch, NodeId, Offset, PartitionIndex, ShardIndex, TopicPartition, Uuid};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const LOG: TopicPartition = TopicPartition { topic_id: Uuid([7; 16]), partition: PartitionIndex(0) };
const SEGMENT: &str = "/data/t-0/00000000000000000000.log";

fn image(epoch: i32, topics: &[(&str, Uuid)]) -> Arc<Image> {
    let mut image = Image::default();
    image.apply(&Record::ClusterIdMinted { cluster_id: Uuid([9; 16]) }).unwrap();
    image
        .apply(&Record::BrokerRegistered {
            broker_id: NODE,
            incarnation: Uuid([epoch as u8; 16]),
            leader_epoch_base: epoch,
            rack: None,
            endpoints: Vec::new(),
        })
        .unwrap();
    for (name, id) in topics {
        let placement =
            vec![PlacementRun { partition_count: 1, leader_epoch: LeaderEpoch(0), replicas: vec![NODE] }];
        let (topic_id, name) = (*id, (*name).to_owned());
        image.apply(&Record::TopicCreated { topic_id, name, configs: BTreeMap::new(), placement }).unwrap();
    }
    Arc::new(image)
}

/// The image in which the only replica of the log is on `node`, with the epochs that come after `changes` changes.
fn moved_to(image: &Arc<Image>, node: NodeId, changes: i32) -> Arc<Image> {
    let mut image = Image::clone(image);
    let topic = image.topic_by_id(LOG.topic_id).unwrap();
    let mut state = image.partition(topic, LOG.partition).unwrap().to_state();
    state.partition_epoch += changes;
    state.leader_epoch.0 += 10 * changes;
    (state.leader, state.replicas, state.in_sync) = (node, vec![node], vec![node]);
    let (topic_id, partition) = (LOG.topic_id, LOG.partition);
    image.apply(&Record::PartitionChanged { topic_id, partition, state }).unwrap();
    Arc::new(image)
}

/// A world with one host, and how often it was started.
struct Bench {
    world: World,
    host: Host,
    epoch: i32,
    chance: Chance,
    next_number: u64,
}

impl Bench {
    fn new(options: Options) -> Self {
        let world = World::new(3, options);
        let host = world.host("broker");
        Self { world, host, epoch: 0, chance: Chance::new(1), next_number: 0 }
    }

    fn runtime(&self) -> SimulatedRuntime {
        self.host.runtime(ShardIndex(0))
    }

    fn start_with(&mut self, topics: &[(&str, Uuid)], store: StoreSettings) -> Result<Rc<Node>, String> {
        self.host.restart();
        self.epoch += 1;
        let start = Start {
            shards: 2,
            directories: 1,
            store,
            cleaner_backoff_ms: 15_000,
            image: image(self.epoch, topics),
        };
        self.world.block_on(&self.runtime(), Node::start(self.host.clone(), start))
    }

    fn start(&mut self) -> Result<Rc<Node>, String> {
        self.start_with(&[("t", LOG.topic_id)], store())
    }

    fn append(&mut self, node: &Rc<Node>) -> Result<Offset, PartitionError> {
        // Not idempotent: an append that is refused leaves no gap.
        let sent = make_batch(LOG, -1, -1, self.next_number, &mut self.chance, 2_000, false);
        self.next_number += 100;
        let node = Rc::clone(node);
        let appended = self.world.block_on(&self.runtime(), async move { append(&node, LOG, &sent).await });
        appended.map(|appended| appended.base_offset)
    }

    fn append_many(&mut self, node: &Rc<Node>, batches: usize) {
        for _ in 0..batches {
            self.append(node).unwrap();
        }
    }

    fn read(&self, node: &Rc<Node>, offset: i64) -> Result<usize, PartitionError> {
        let node = Rc::clone(node);
        let reply = self.world.block_on(&self.runtime(), async move {
            read(&node, LOG, Offset(offset), 1 << 20).await.unwrap()
        });
        reply.records.as_ref().map_err(Clone::clone)?;
        Ok(records_of(LOG, &reply).unwrap().len())
    }

    fn latest(&self, node: &Rc<Node>) -> Result<i64, PartitionError> {
        let (reply, answer) = oneshot::channel();
        let (current_leader_epoch, isolation) = (LeaderEpoch::NONE, Isolation::ReadUncommitted);
        let query = OffsetQuery::Latest;
        node.send(PartitionCommand::FindOffset {
            partition: LOG,
            query,
            current_leader_epoch,
            isolation,
            reply,
        });
        let found = self.world.block_on(&self.runtime(), async move { answer.await.unwrap() });
        found.map(|found| found.offset.0)
    }

    fn names_in(&self, path: &str) -> Vec<String> {
        let (runtime, path) = (self.runtime(), PathBuf::from(path));
        let reading = runtime.clone();
        let entries: Vec<DirectoryEntry> =
            self.world.block_on(&runtime, async move { reading.read_directory(&path).await.unwrap() });
        entries.into_iter().map(|entry| entry.name).collect()
    }

    fn tell(&self, node: &Rc<Node>, image: Arc<Image>) {
        let node = Rc::clone(node);
        self.world.block_on(&self.runtime(), async move {
            for shard in &node.shards {
                shard.table.apply_image(Arc::clone(&image)).await;
            }
        });
    }

    fn stop(&self, node: Rc<Node>) {
        self.world.block_on(&self.runtime(), async move { node.stop().await });
        self.host.kill();
        self.host.restart();
    }

    fn kill(&self) {
        self.host.kill();
        self.host.restart();
    }

    fn remove(&self, path: &str) {
        let (runtime, path) = (self.runtime(), PathBuf::from(path));
        let removing = runtime.clone();
        self.world.block_on(&runtime, async move { removing.remove_file(&path).await.unwrap() });
    }
}

fn store() -> StoreSettings {
    StoreSettings { journal_bytes: 256 << 10, ..StoreSettings::default() }
}

#[test]
fn a_missing_checkpoint_is_reported() {
    for shard in 0..2 {
        let mut bench = Bench::new(Options::default());
        let node = bench.start().unwrap();
        bench.append_many(&node, 3);
        bench.stop(node);
        bench.remove(&format!("/data/journal/run-0000000001/shard-{shard}.checkpoint"));
        let refusal = bench.start().err().unwrap();
        assert!(refusal.contains("the checkpoint is missing"), "{refusal}");
    }
}

#[test]
fn a_missing_journal_is_reported() {
    let mut bench = Bench::new(Options::default());
    let node = bench.start().unwrap();
    bench.append_many(&node, 3);
    bench.stop(node);
    bench.remove("/data/journal/run-0000000001/shard-1.journal");
    let refusal = bench.start().err().unwrap();
    assert!(refusal.contains("shard-1.journal"), "{refusal}");
}

#[test]
fn a_missing_segment_is_damage_of_its_log_alone() {
    let mut bench = Bench::new(Options::default());
    let node = bench.start().unwrap();
    bench.append_many(&node, 3);
    bench.stop(node);
    // From now on a checkpoint names the segment; what follows is in the journal alone.
    let node = bench.start().unwrap();
    bench.append_many(&node, 3);
    bench.kill();
    bench.remove(SEGMENT);
    let node = bench.start().unwrap();
    assert!(matches!(bench.read(&node, 0), Err(PartitionError::Corrupt(_) | PartitionError::Storage(_))));
    assert!(matches!(bench.append(&node), Err(PartitionError::Corrupt(_))));
    assert!(!bench.names_in("/data/t-0").iter().any(|name| SEGMENT.ends_with(name.as_str())));
}

#[test]
fn what_the_journal_holds_as_a_whole_is_written_again() {
    let mut bench = Bench::new(Options::default());
    let node = bench.start().unwrap();
    bench.append_many(&node, 3);
    let end = bench.latest(&node).unwrap();
    bench.kill();
    bench.remove(SEGMENT);
    let node = bench.start().unwrap();
    assert_eq!(bench.latest(&node), Ok(end));
    drop(node);
    // Its name must last, too: the new run's checkpoint vouches for it.
    bench.host.crash();
    let node = bench.start().unwrap();
    assert_eq!(bench.read(&node, 0), Ok(end as usize));
}

#[test]
fn a_damaged_log_has_no_end_and_its_journal_is_kept_once() {
    let mut bench = Bench::new(Options::default());
    let node = bench.start().unwrap();
    bench.append_many(&node, 10);
    let end = bench.latest(&node).unwrap();
    bench.kill();
    bench.remove("/data/t-0/partition.metadata");
    for _ in 0..3 {
        let node = bench.start().unwrap();
        for offset in [0, end - 1, end, end + 5] {
            let answer = bench.read(&node, offset);
            assert!(matches!(answer, Err(PartitionError::Corrupt(_))), "offset {offset}: {answer:?}");
        }
        assert!(matches!(bench.latest(&node), Err(PartitionError::Corrupt(_))));
        bench.stop(node);
    }
    let kept = bench.names_in("/data/journal");
    assert_eq!(kept.iter().filter(|name| name.starts_with("damaged-run-")).count(), 1, "{kept:?}");
}

#[test]
fn a_checkpoint_waits_for_space() {
    let mut bench = Bench::new(Options::default());
    let settings = StoreSettings { checkpoint_interval_ms: 50, ..store() };
    let node = bench.start_with(&[("t", LOG.topic_id)], settings).unwrap();
    let mut full = Fault::always(Operation::Write);
    full.path_contains = ".new".to_owned();
    full.error = 28;
    bench.host.inject(full);
    let mut refused = 0;
    for _ in 0..400 {
        match bench.append(&node) {
            Ok(_) => {}
            Err(PartitionError::Storage(what)) => {
                assert!(what.contains("no space"), "{what}");
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 0 && refused < 400, "{refused} appends were refused");
    assert!(!node.healths[0].is_failed());
    let end = bench.latest(&node).unwrap();
    assert_eq!(bench.read(&node, 0), Ok(end as usize), "reads go on");
    bench.host.clear_faults();
    bench.world.run_for(Duration::from_secs(2));
    bench.append_many(&node, 400);
    bench.stop(node);
    let node = bench.start().unwrap();
    assert!(bench.latest(&node).unwrap() > end);
}

#[test]
fn a_stop_on_a_full_disk_ends_and_loses_nothing() {
    let mut bench = Bench::new(Options::default());
    let node = bench.start().unwrap();
    let mut full = Fault::always(Operation::Write);
    full.path_contains = ".new".to_owned();
    full.error = 28;
    bench.host.inject(full);
    bench.append_many(&node, 5);
    let end = bench.latest(&node).unwrap();
    bench.stop(node);
    bench.host.clear_faults();
    let node = bench.start().unwrap();
    assert_eq!(bench.latest(&node), Ok(end));
}

#[test]
fn a_busy_pool_only_delays_checkpoints() {
    let options = Options { offload_busy: 0.9, ..Options::default() };
    let mut bench = Bench::new(options);
    let node = bench.start().unwrap();
    bench.append_many(&node, 300);
    assert!(!node.healths[0].is_failed());
    let end = bench.latest(&node).unwrap();
    bench.stop(node);
    let node = bench.start().unwrap();
    assert_eq!(bench.latest(&node), Ok(end));
}

#[test]
fn a_log_whose_topic_is_gone_at_a_start_is_put_aside() {
    let mut bench = Bench::new(Options::default());
    let node = bench.start().unwrap();
    bench.append_many(&node, 3);
    bench.stop(node);
    // Another topic of the same name is there by now.
    let other = Uuid([8; 16]);
    let node = bench.start_with(&[("t", other)], store()).unwrap();
    let kept = bench.names_in("/data");
    assert!(kept.contains(&format!("t-0.{}-stray", LOG.topic_id)) && !kept.contains(&"t-0".to_owned()));
    assert!(!node.shards.iter().any(|shard| shard.stores[0].stored_logs().contains(&LOG)));
}

#[test]
fn an_unfinished_removal_is_finished_by_the_next_start() {
    let mut bench = Bench::new(Options::default());
    let node = bench.start().unwrap();
    bench.append_many(&node, 3);
    bench.stop(node);
    let doomed = format!("/data/t-0.{}-delete/00000000000000000000.log", LOG.topic_id);
    bench.host.put_file(Path::new(&doomed), b"rest").unwrap();
    let _node = bench.start().unwrap();
    bench.world.run_for(Duration::from_secs(1));
    assert!(!bench.names_in("/data").iter().any(|name| name.ends_with("-delete")));
}

#[test]
fn a_restart_finds_nothing_of_the_life_before_in_a_log_that_went_and_came_back() {
    let mut bench = Bench::new(Options::default());
    let node = bench.start().unwrap();
    bench.append_many(&node, 30);
    let before = bench.latest(&node).unwrap();
    let placed = image(1, &[("t", LOG.topic_id)]);
    bench.tell(&node, moved_to(&placed, NodeId(2), 1));
    bench.tell(&node, moved_to(&placed, NODE, 2));
    bench.append(&node).unwrap();
    let end = bench.latest(&node).unwrap();
    assert!(end < before, "{end} and {before}");
    bench.kill();
    let runtime = bench.runtime();
    let recovering = runtime.clone();
    let recovery = bench.world.block_on(&runtime, async move {
        recover(&recovering, Path::new("/data")).await.map_err(|error| error.to_string())
    });
    let logs = recovery.unwrap().logs;
    let found = logs.iter().find(|state| state.topic_id == LOG.topic_id.0).unwrap();
    assert_eq!((found.next_offset, found.damage.as_deref()), (end, None));
}
