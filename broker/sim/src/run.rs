//! One seed: generations of a node, its load, and what happens to it.

use crate::check::check_everything;
use crate::faults;
use crate::model::{Partition, Shared, Topic, Writer};
use crate::node::{DIRECTORIES, NODE, Node, Start};
use crate::rot::{Rotten, rot_run};
use crate::workload::{delete, look, write};
use logmill::log::StoreSettings;
use logmill::runtime::Runtime;
use logmill::runtime::simulated::{Chance, Host, Options, World};
use logmill_state::metadata::{Endpoint, Image, PlacementRun, Record};
use logmill_wire::ids::{LeaderEpoch, PartitionIndex, ShardIndex, TopicPartition, Uuid};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a start, a stop or a check may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The first promise that was broken, if one was.
    pub broken: Option<String>,
    /// A number over everything that happened.
    pub trace_hash: u64,
    /// Batches acknowledged.
    pub appends: u64,
    /// Batches refused, for lack of space or a failed disk.
    pub refused: u64,
    /// Answers to batches that were sent again.
    pub duplicates: u64,
    /// Records read.
    pub reads: u64,
    /// Deletions of records.
    pub deletions: u64,
    /// Records that compaction removed.
    pub compacted: u64,
    /// Power cuts.
    pub crashes: u64,
    /// Kills.
    pub kills: u64,
    /// Orderly stops.
    pub stops: u64,
    /// Files beside the segments of which a bit rotted while the node was down.
    pub rotted: u64,
    /// Starts that were refused because of it.
    pub reported: u64,
}

struct Run {
    world: World,
    host: Host,
    chance: Chance,
    model: Shared,
    image: Image,
    epoch_base: i32,
    store: StoreSettings,
    batch_bytes_max: u64,
    /// Whether its topics have `write.caching`: then the power stays on, and a process that is killed loses nothing.
    write_caching: bool,
    /// How many log directories it has.
    directories: usize,
    outcome: Outcome,
    rotten: Option<Rotten>,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let world = World::new(seed, Options::drawn(seed));
    let host = world.host("broker");
    let mut chance = Chance::new(seed ^ 0x5eed);
    let store = StoreSettings {
        journal_bytes: (128 << 10) << chance.below(4),
        cache_bytes: (64 << 10) << chance.below(8),
        extent_bytes_min: (4 << 10) << chance.below(6),
        fill_bytes: (4 << 10) << chance.below(8),
        checkpoint_extent_bytes: (64 << 10) << chance.below(6),
        checkpoint_interval_ms: 5 << chance.below(10),
    };
    let batch_bytes_max = 2_000 << chance.below(8);
    let model = Shared::default();
    let mut run = Run {
        world,
        host,
        chance,
        model,
        image: Image::default(),
        epoch_base: 0,
        store,
        batch_bytes_max,
        write_caching: Chance::new(seed ^ 0xcac4e).one_in(4),
        directories: 1 + usize::from(Chance::new(seed ^ 0xd15c).one_in(2)),
        outcome: Outcome::default(),
        rotten: None,
    };
    run.prepare();
    let generations = 2 + run.chance.below(4);
    for generation in 0..generations {
        if !run.generation(generation + 1 == generations) {
            break;
        }
    }
    let model = run.model.borrow();
    Outcome {
        broken: model.broken.clone(),
        trace_hash: run.world.trace_hash(),
        appends: model.appends,
        refused: model.refused,
        duplicates: model.duplicates,
        reads: model.reads,
        deletions: model.deletions,
        compacted: model.compacted,
        ..run.outcome.clone()
    }
}

impl Run {
    fn apply(&mut self, record: &Record) {
        if let Err(error) = self.image.apply(record) {
            self.model.borrow_mut().break_promise("Harness", error.to_string());
        }
    }

    fn prepare(&mut self) {
        self.apply(&Record::ClusterIdMinted { cluster_id: Uuid([9; 16]) });
        self.register();
        for topic in 0..1 + self.chance.below(3) {
            self.create_topic(&format!("topic{topic}"));
        }
    }

    fn register(&mut self) {
        let record = Record::BrokerRegistered {
            broker_id: NODE,
            incarnation: self.random_id(),
            leader_epoch_base: self.epoch_base,
            rack: None,
            endpoints: vec![Endpoint {
                listener: "PLAINTEXT".into(),
                host: "broker".into(),
                port: 9092,
                security_protocol: 0,
            }],
        };
        self.epoch_base += 1;
        self.apply(&record);
    }

    fn random_id(&mut self) -> Uuid {
        Uuid::from_random((u128::from(self.chance.next_u64()) << 64) | u128::from(self.chance.next_u64()))
    }

    fn create_topic(&mut self, name: &str) {
        let id = self.random_id();
        let partitions = 1 + self.chance.below(5) as i32;
        let mut configs = BTreeMap::new();
        if self.write_caching {
            configs.insert("write.caching".to_owned(), "true".to_owned());
        }
        if self.chance.one_in(2) {
            configs.insert("segment.bytes".to_owned(), "1048576".to_owned());
        }
        if self.chance.one_in(3) {
            configs.insert("segment.ms".to_owned(), (10 + self.chance.below(2_000)).to_string());
        }
        let retention = match self.chance.below(8) {
            0 => Some(("retention.bytes", self.chance.below(600_000))),
            // The records are older than this: all of them go.
            1 => Some(("retention.ms", 1 + self.chance.below(1_000))),
            _ => None,
        };
        if let Some((key, value)) = retention {
            configs.insert(key.to_owned(), value.to_string());
        }
        // Records of years ago are never too old elsewhere.
        configs.entry("retention.ms".to_owned()).or_insert_with(|| "-1".to_owned());
        let is_compacted = self.chance.one_in(3);
        let delete_retention_ms = if is_compacted { self.compact_topic(&mut configs) } else { 0 };
        let placement = vec![PlacementRun {
            partition_count: partitions as u32,
            leader_epoch: LeaderEpoch(self.epoch_base),
            replicas: vec![NODE],
        }];
        self.apply(&Record::TopicCreated { topic_id: id, name: name.to_owned(), configs, placement });
        let mut model = self.model.borrow_mut();
        model.topics.push(Topic { name: name.to_owned(), id, partitions });
        for partition in 0..partitions {
            let start_asked = if retention.is_some() { i64::MAX } else { 0 };
            let mut fresh =
                Partition { start_asked, is_compacted, delete_retention_ms, ..Partition::default() };
            for _ in 0..1 + self.chance.below(2) {
                fresh.writers.push(Writer { producer_id: model.next_producer_id, ..Writer::default() });
                model.next_producer_id += 1;
            }
            model
                .partitions
                .insert(TopicPartition { topic_id: id, partition: PartitionIndex(partition) }, fresh);
        }
    }

    /// Gives a topic the settings of a compacted one, and returns its `delete.retention.ms`.
    fn compact_topic(&mut self, configs: &mut BTreeMap<String, String>) -> i64 {
        let policy = if self.chance.one_in(3) { "compact,delete" } else { "compact" };
        // Whatever was closed is compacted as soon as it may be.
        let ratio = if self.chance.one_in(2) { "0" } else { "0.4" };
        let delete_retention_ms = if self.chance.one_in(2) { 0 } else { self.chance.below(2_000) };
        let settings = [
            ("cleanup.policy", policy.to_owned()),
            ("min.cleanable.dirty.ratio", ratio.to_owned()),
            ("delete.retention.ms", delete_retention_ms.to_string()),
            ("segment.ms", (5 + self.chance.below(100)).to_string()),
        ];
        configs.extend(settings.map(|(key, value)| (key.to_owned(), value)));
        delete_retention_ms as i64
    }

    /// Runs `future` on the host until it is done; `None` if the host went down before.
    fn drive<T: 'static>(&self, what: &str, future: impl Future<Output = T> + 'static) -> Option<T> {
        let slot = Rc::new(RefCell::new(None));
        let place = Rc::clone(&slot);
        self.host.runtime(ShardIndex(0)).spawn(async move {
            let value = future.await;
            *place.borrow_mut() = Some(value);
        });
        let host = self.host.clone();
        let is_done = self.world.run_until_within(PATIENCE, || slot.borrow().is_some() || !host.is_up());
        if !is_done {
            self.model.borrow_mut().break_promise("Progress", format!("{what} did not end"));
        }
        slot.borrow_mut().take()
    }

    /// One generation; false if the run ends here.
    fn generation(&mut self, is_last: bool) -> bool {
        self.host.restart();
        if self.chance.one_in(4) {
            self.cut_a_start();
        }
        let start = self.start();
        let mut started = self.drive("a start", Node::start(self.host.clone(), start));
        if let Some(rotten) = self.rotten.take()
            && matches!(started, Some(Err(_)))
        {
            // It was reported. With the file as it was, nothing may be missing.
            self.outcome.reported += 1;
            if rotten.restore(&self.host).is_ok() {
                let start = self.start();
                started = self.drive("a start after a repair", Node::start(self.host.clone(), start));
            }
        }
        let node = match started {
            Some(Ok(node)) => node,
            Some(Err(error)) => {
                self.model
                    .borrow_mut()
                    .break_promise("NothingAcknowledgedLost", format!("the node refuses to start: {error}"));
                return false;
            }
            None => return false,
        };
        let (checked, model, mut chance) =
            (Rc::clone(&node), Rc::clone(&self.model), Chance::new(self.chance.next_u64()));
        let now = self.host.runtime(ShardIndex(0)).wall_clock();
        let _ = self.drive("the check after a start", async move {
            check_everything(&checked, &model, &mut chance, now).await
        });
        if self.model.borrow().broken.is_some() || is_last {
            return false;
        }
        // What is checked must not leave meanwhile.
        node.start_care();
        let is_struck = self.load(&node);
        self.end_generation(node, is_struck);
        self.model.borrow().broken.is_none()
    }

    /// A start that ends in the middle of something.
    fn cut_a_start(&mut self) {
        let (start, host) = (self.start(), self.host.clone());
        let runtime = self.host.runtime(ShardIndex(0));
        runtime.spawn(async move {
            let _ = Node::start(host, start).await;
        });
        // If the start is faster than the cut, the cut hits whatever comes.
        if self.chance.one_in(2) {
            let limit = Duration::from_millis(200);
            faults::await_moment(&self.world, &self.host, &mut self.chance, limit);
        } else {
            self.world.run_for(Duration::from_micros(self.chance.below(20_000)));
        }
        self.go_down();
        self.host.restart();
    }

    fn start(&mut self) -> Start {
        self.register();
        Start {
            shards: 1 + self.chance.below(3) as u16,
            directories: self.directories,
            store: self.store,
            cleaner_backoff_ms: 10,
            image: Arc::new(self.image.clone()),
        }
    }

    /// True if the end shall come at once: something is being done to files.
    fn load(&mut self, node: &Rc<Node>) -> bool {
        self.model.borrow_mut().budget_bytes = (64 << 10) << self.chance.below(6);
        let logs: Vec<(TopicPartition, usize)> = self
            .model
            .borrow()
            .partitions
            .iter()
            .map(|(log, partition)| (*log, partition.writers.len()))
            .collect();
        for (log, writers) in logs {
            self.spawn_clients(node, log, writers, 0);
        }
        faults::draw(&self.world, &self.host, &mut self.chance);
        let span = Duration::from_millis(20 + self.chance.below(600));
        if self.chance.one_in(3) {
            return faults::await_moment(&self.world, &self.host, &mut self.chance, span);
        }
        self.world.run_for(span);
        if self.chance.one_in(3) {
            self.recreate_a_topic(node);
            self.world.run_for(Duration::from_millis(self.chance.below(200)));
        }
        false
    }

    /// Starts the clients of a partition, who wait until its shard has seen so many images.
    fn spawn_clients(&mut self, node: &Rc<Node>, log: TopicPartition, writers: usize, images: u64) {
        for writer in 0..writers {
            let runtime = self.host.runtime(ShardIndex(0));
            let (node, model, chance) =
                (Rc::clone(node), Rc::clone(&self.model), Chance::new(self.chance.next_u64()));
            let bytes_max = self.batch_bytes_max;
            runtime.clone().spawn(async move {
                node.until_known(log, images).await;
                write(runtime, node, model, log, writer, chance, bytes_max).await;
            });
        }
        if self.chance.one_in(5) {
            self.spawn_deletion(node, log);
        }
        if self.chance.one_in(2) {
            let runtime = self.host.runtime(ShardIndex(0));
            let (node, model, chance) =
                (Rc::clone(node), Rc::clone(&self.model), Chance::new(self.chance.next_u64()));
            runtime.clone().spawn(async move {
                node.until_known(log, images).await;
                look(runtime, node, model, log, chance).await;
            });
        }
    }

    fn spawn_deletion(&mut self, node: &Rc<Node>, log: TopicPartition) {
        let runtime = self.host.runtime(ShardIndex(0));
        let (node, model, chance) =
            (Rc::clone(node), Rc::clone(&self.model), Chance::new(self.chance.next_u64()));
        runtime.clone().spawn(async move { delete(runtime, node, model, log, chance).await });
    }

    fn recreate_a_topic(&mut self, node: &Rc<Node>) {
        let count = self.model.borrow().topics.len();
        let topic = self.model.borrow_mut().topics.remove(self.chance.index(count));
        self.model.borrow_mut().partitions.retain(|log, _| log.topic_id != topic.id);
        self.apply(&Record::TopicDeleted { topic_id: topic.id });
        // The controller may publish both changes at once.
        if self.chance.one_in(2) {
            let deleting = Arc::new(self.image.clone());
            node.publish(&deleting, &mut self.chance);
            if self.chance.one_in(2) {
                let of_node = Rc::clone(node);
                if self.drive("a deletion", async move { of_node.until_all_known().await }).is_none() {
                    return;
                }
            }
        }
        self.create_topic(&topic.name);
        let creating = Arc::new(self.image.clone());
        let images = node.publish(&creating, &mut self.chance);
        let fresh: Vec<(TopicPartition, usize)> = {
            let model = self.model.borrow();
            let id = model.topics.last().map(|topic| topic.id);
            let of_topic = model.partitions.iter().filter(|(log, _)| Some(log.topic_id) == id);
            of_topic.map(|(log, partition)| (*log, partition.writers.len())).collect()
        };
        for (log, writers) in fresh {
            self.spawn_clients(node, log, writers, images);
        }
        let of_node = Rc::clone(node);
        let _ = self.drive("a creation", async move { of_node.until_all_known().await });
    }

    /// The power goes; or, where it must stay on, the process is killed.
    fn go_down(&mut self) {
        if self.write_caching {
            self.outcome.kills += 1;
            self.host.kill();
        } else {
            self.outcome.crashes += 1;
            self.host.crash();
        }
    }

    fn end_generation(&mut self, node: Rc<Node>, is_struck: bool) {
        let ends_before = self.chance.one_in(2);
        if ends_before {
            faults::end(&self.host);
        }
        match self.chance.below(5) {
            0 if !is_struck => {
                let stopping = Rc::clone(&node);
                let _ = self.drive("a stop", async move { stopping.stop().await });
                faults::end(&self.host);
                self.outcome.stops += 1;
                self.host.kill();
                if self.chance.one_in(3) {
                    self.rot();
                }
            }
            1 => {
                self.outcome.kills += 1;
                self.host.kill();
            }
            _ => self.go_down(),
        }
        drop(node);
        faults::end(&self.host);
        if self.chance.one_in(6) {
            self.rotten =
                if self.chance.one_in(5) { self.rot_name() } else { rot_run(&self.host, &mut self.chance) };
            self.outcome.rotted += u64::from(self.rotten.is_some());
        }
    }

    /// Lets a file rot beside the segments of one partition: its index, or the file that says whose the directory is.
    fn rot_name(&mut self) -> Option<Rotten> {
        let (log, name) = self.draw_log()?;
        let directory = self.directory_of(&name)?;
        if self.chance.one_in(2) {
            return Rotten::flip(&self.host, directory.join("00000000000000000000.index"), 0..4096);
        }
        let rotten = Rotten::flip(&self.host, directory.join("partition.metadata"), 0..44)?;
        // The start may go on without this log.
        self.model.borrow_mut().partitions.get_mut(&log)?.is_rotten = true;
        Some(rotten)
    }

    /// Where the log of this name is.
    fn directory_of(&self, name: &str) -> Option<PathBuf> {
        let all = DIRECTORIES.iter().map(|directory| PathBuf::from(directory).join(name));
        all.into_iter().find(|path| self.host.read_file(&path.join("partition.metadata")).is_ok())
    }

    /// A partition with acknowledged records, and its directory's name.
    fn draw_log(&mut self) -> Option<(TopicPartition, String)> {
        let mut candidates: Vec<(TopicPartition, String)> = {
            let model = self.model.borrow();
            let names: BTreeMap<Uuid, String> =
                model.topics.iter().map(|topic| (topic.id, topic.name.clone())).collect();
            model
                .partitions
                .iter()
                .filter(|(_, partition)| !partition.acknowledged.is_empty())
                .filter_map(|(log, _)| {
                    Some((*log, format!("{}-{}", names.get(&log.topic_id)?, log.partition)))
                })
                .collect()
        };
        if candidates.is_empty() {
            return None;
        }
        Some(candidates.swap_remove(self.chance.index(candidates.len())))
    }

    /// Flips bits of one segment, below the end of what its partition has acknowledged.
    fn rot(&mut self) {
        let Some((log, name)) = self.draw_log() else { return };
        let Some(directory) = self.directory_of(&name) else { return };
        let path = directory.join("00000000000000000000.log");
        // Neither base offset nor leader epoch is covered by the batch's checksum; the length and all after it is.
        let field = if self.chance.one_in(4) { 8..12 } else { 16..61 };
        if self.host.flip_bits(&path, field, 1).is_ok()
            && let Some(partition) = self.model.borrow_mut().partitions.get_mut(&log)
        {
            partition.is_rotten = true;
        }
    }
}
