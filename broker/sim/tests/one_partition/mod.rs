//! One partition on a simulated host, driven step by step.

#![allow(dead_code, reason = "each test file uses a part of it")]
use logmill::log::StoreSettings;
use logmill::partition::command::{OffsetQuery, PartitionCommand, PartitionError};
use logmill::runtime::oneshot;
use logmill::runtime::simulated::{Host, Options, SimulatedRuntime, World};
use logmill_sim::model::Sent;
use logmill_sim::node::{DIRECTORY, NODE, Node, Start};
use logmill_sim::workload;
use logmill_state::metadata::{Image, PlacementRun, Record as MetadataRecord};
use logmill_state::partition::Isolation;
use logmill_wire::ids::{LeaderEpoch, Offset, PartitionIndex, ShardIndex, TimestampMs, TopicPartition, Uuid};
use logmill_wire::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use logmill_wire::record_batch::{BatchBuilder, BatchHeader, whole_batches};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub const KEY: TopicPartition = TopicPartition { topic_id: Uuid([7; 16]), partition: PartitionIndex(0) };

/// A record as a consumer gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

pub struct Bench {
    pub world: World,
    pub host: Host,
    pub node: Rc<Node>,
    configs: Configs,
    /// The sizes of the store, and how often compaction is looked for.
    shaped: (StoreSettings, u64),
    generation: i32,
}

/// What is set on the running cluster.
#[derive(Clone, Default)]
struct Configs {
    topic: BTreeMap<String, String>,
    broker: BTreeMap<String, String>,
}

fn map(configs: &[(&str, &str)]) -> BTreeMap<String, String> {
    configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn image(generation: i32, configs: &Configs) -> Arc<Image> {
    let mut image = Image::default();
    image
        .apply(&MetadataRecord::TopicCreated {
            topic_id: KEY.topic_id,
            name: "t".into(),
            configs: configs.topic.clone(),
            placement: vec![PlacementRun {
                partition_count: 1,
                leader_epoch: LeaderEpoch(0),
                replicas: vec![NODE],
            }],
        })
        .unwrap();
    image
        .apply(&MetadataRecord::BrokerRegistered {
            broker_id: NODE,
            incarnation: Uuid([generation as u8; 16]),
            leader_epoch_base: generation,
            rack: None,
            endpoints: Vec::new(),
        })
        .unwrap();
    image
        .apply(&MetadataRecord::BrokerConfigsReplaced { broker_id: None, configs: configs.broker.clone() })
        .unwrap();
    Arc::new(image)
}

impl Bench {
    pub fn new(seed: u64, options: Options, configs: &[(&str, &str)]) -> Self {
        Self::of_broker(seed, options, configs, &[])
    }

    /// A partition with settings of its topic and of its broker.
    pub fn of_broker(seed: u64, options: Options, topic: &[(&str, &str)], broker: &[(&str, &str)]) -> Self {
        let world = World::new(seed, options);
        let host = world.host("broker");
        let configs = Configs { topic: map(topic), broker: map(broker) };
        Self::begin(world, host, configs, (StoreSettings::default(), 15_000))
    }

    /// A partition in a store of these sizes.
    pub fn with_store(
        seed: u64,
        options: Options,
        configs: &[(&str, &str)],
        store: StoreSettings,
        cleaner_backoff_ms: u64,
    ) -> Self {
        let world = World::new(seed, options);
        let host = world.host("broker");
        let configs = Configs { topic: map(configs), ..Configs::default() };
        Self::begin(world, host, configs, (store, cleaner_backoff_ms))
    }

    fn begin(world: World, host: Host, configs: Configs, shaped: (StoreSettings, u64)) -> Self {
        let node = Self::start(&world, &host, 1, &configs, shaped);
        Self { world, host, node, configs, shaped, generation: 1 }
    }

    fn start(
        world: &World,
        host: &Host,
        generation: i32,
        configs: &Configs,
        (store, cleaner_backoff_ms): (StoreSettings, u64),
    ) -> Rc<Node> {
        let start =
            Start { shards: 1, directories: 1, store, cleaner_backoff_ms, image: image(generation, configs) };
        let host = host.clone();
        let runtime = host.runtime(ShardIndex(0));
        let node = world.block_on(&runtime, async move { Node::start(host, start).await }).unwrap();
        world.block_on(&runtime, async move {
            node.start_care();
            node
        })
    }

    pub fn runtime(&self) -> SimulatedRuntime {
        self.host.runtime(ShardIndex(0))
    }

    /// Cuts the power and starts again.
    pub fn crash(&mut self) {
        self.host.crash();
        self.restart();
    }

    /// Stops in order and starts again.
    pub fn stop(&mut self) {
        let node = Rc::clone(&self.node);
        self.world.block_on(&self.runtime(), async move { node.stop().await });
        self.host.kill();
        self.restart();
    }

    pub fn restart(&mut self) {
        self.host.restart();
        self.generation += 1;
        self.node = Self::start(&self.world, &self.host, self.generation, &self.configs, self.shaped);
    }

    /// Gives the topic other settings.
    pub fn configure(&mut self, configs: &[(&str, &str)]) {
        self.configs.topic = map(configs);
        let (node, image) = (Rc::clone(&self.node), image(self.generation, &self.configs));
        self.world.block_on(&self.runtime(), async move {
            for shard in &node.shards {
                shard.table.apply_image(Arc::clone(&image)).await;
            }
        });
    }

    pub fn run_for(&self, duration: Duration) {
        self.world.run_for(duration);
    }

    pub fn now(&self) -> i64 {
        logmill::runtime::Runtime::wall_clock(&self.runtime()).0
    }

    fn ask<T: 'static>(&self, command: impl FnOnce(oneshot::Sender<T>) -> PartitionCommand + 'static) -> T {
        let node = Rc::clone(&self.node);
        self.world.block_on(&self.runtime(), async move {
            let (reply, answer) = oneshot::channel();
            node.send(command(reply));
            answer.await.unwrap()
        })
    }

    /// The bytes of the partition's records.
    pub fn size_bytes(&self) -> u64 {
        // It names no one partition: the node would not know where to send it.
        let node = Rc::clone(&self.node);
        let sizes = self.world.block_on(&self.runtime(), async move {
            let (reply, answer) = oneshot::channel();
            node.shards[0].table.handle(PartitionCommand::Sizes { partitions: Some(vec![KEY]), reply });
            answer.await.unwrap()
        });
        let [only] = &sizes[..] else { panic!("{sizes:?}") };
        only.sizes.as_ref().unwrap().iter().map(|(_, bytes)| bytes).sum()
    }

    pub fn delete(&self, before: i64) -> Result<Offset, PartitionError> {
        self.ask(move |reply| PartitionCommand::DeleteRecords {
            partition: KEY,
            before: Offset(before),
            reply,
        })
    }

    /// Appends a batch and returns its base offset.
    pub fn send(&self, batch: &BatchBuilder) -> Result<i64, PartitionError> {
        let bytes = batch.finish().unwrap().into();
        let sent = Sent { first_number: 0, count: batch.record_count() as i32, sequence: 0, bytes };
        let node = Rc::clone(&self.node);
        let appended =
            self.world.block_on(&self.runtime(), async move { workload::append(&node, KEY, &sent).await });
        appended.map(|appended| appended.base_offset.0)
    }

    /// Appends one record with the time of now.
    pub fn append(&self, key: Option<&[u8]>, value: Option<&[u8]>) -> i64 {
        let mut batch = BatchBuilder::new();
        batch.append(TimestampMs(self.now()), key, value, &[]);
        self.send(&batch).unwrap()
    }

    /// Appends one batch of records with these timestamps and values.
    pub fn append_at(&self, records: &[(i64, &[u8])]) -> i64 {
        let mut batch = BatchBuilder::new();
        for (timestamp, value) in records {
            batch.append(TimestampMs(*timestamp), None, Some(value), &[]);
        }
        self.send(&batch).unwrap()
    }

    pub fn find(&self, query: OffsetQuery) -> i64 {
        let found = self.ask(move |reply| PartitionCommand::FindOffset {
            partition: KEY,
            query,
            current_leader_epoch: LeaderEpoch::NONE,
            isolation: Isolation::ReadUncommitted,
            reply,
        });
        found.unwrap().offset.0
    }

    /// The bytes that one fetch returns.
    pub fn read(&self, offset: i64) -> Result<Vec<u8>, PartitionError> {
        let node = Rc::clone(&self.node);
        let reply = self.world.block_on(&self.runtime(), async move {
            workload::read(&node, KEY, Offset(offset), 64 << 10).await.unwrap()
        });
        Ok(reply.records?.iter().flat_map(|part| part.iter().copied()).collect())
    }

    /// The headers of the batches that one fetch returns.
    pub fn batches(&self, offset: i64) -> Vec<BatchHeader> {
        whole_batches(&self.read(offset).unwrap()).map(|batch| *batch.unwrap().header()).collect()
    }

    /// Reads as a consumer does, from `offset` to the end, and returns its last position too.
    pub fn consume(&self, offset: i64) -> (Vec<Got>, i64) {
        let (mut got, mut position) = (Vec::new(), offset);
        loop {
            let bytes = self.read(position).unwrap();
            let before = position;
            for batch in whole_batches(&bytes) {
                let batch = batch.unwrap();
                assert!(logmill_wire::record_batch::crc_matches(batch.bytes()));
                for record in batch.contents(DECOMPRESSED_BATCH_BYTES_MAX).unwrap().records() {
                    let record = record.unwrap();
                    let offset = record.offset(batch.header()).0;
                    if offset >= position {
                        got.push(Got {
                            offset,
                            key: record.key.map(<[u8]>::to_vec),
                            value: record.value.map(<[u8]>::to_vec),
                        });
                    }
                }
                position = position.max(batch.header().next_offset().0);
            }
            if position == before {
                return (got, position);
            }
        }
    }

    pub fn offsets_from(&self, offset: i64) -> Vec<i64> {
        self.consume(offset).0.iter().map(|got| got.offset).collect()
    }

    /// The names in the partition's directory.
    pub fn files(&self) -> Vec<String> {
        let runtime = self.runtime();
        let reading = runtime.clone();
        let path = Path::new(DIRECTORY).join("t-0");
        let entries =
            self.world
                .block_on(&runtime, async move {
                    logmill::runtime::Runtime::read_directory(&reading, &path).await
                })
                .unwrap();
        entries.into_iter().map(|entry| entry.name).collect()
    }

    /// The base offsets of the segments' files.
    pub fn segments(&self) -> Vec<i64> {
        self.files().iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect()
    }
}
