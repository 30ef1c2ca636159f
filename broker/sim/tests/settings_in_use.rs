//! A topic's settings, and the broker's that change while it runs, in the partitions that they are about.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
use bytes::Bytes;
use logmill::journal::Journal;
use logmill::log::{DirectoryHealth, Store, StoreSettings, recover};
use logmill::partition::PartitionTable;
use logmill::partition::command::{Acks, Appended, PartitionCommand, PartitionError, ReadRequest};
use logmill::partition::peers::NoPeers;
use logmill::runtime::simulated::{Host, Options, SimulatedRuntime, World};
use logmill::runtime::{Runtime, oneshot};
use logmill_state::metadata::{Image, PlacementRun, Record};
use logmill_state::partition::Isolation;
use logmill_state::settings::BrokerSettings;
use logmill_wire::compression::Codec;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, NodeId, Offset, PartitionIndex, ShardIndex, TopicPartition, Uuid};
use logmill_wire::record_batch::{BatchBuilder, batches};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

const KEY: TopicPartition = TopicPartition { topic_id: Uuid([7; 16]), partition: PartitionIndex(0) };
const NODE: NodeId = NodeId(1);

type Table = Rc<PartitionTable<SimulatedRuntime>>;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn first_image() -> Image {
    let mut image = Image::default();
    let placement =
        vec![PlacementRun { partition_count: 2, leader_epoch: LeaderEpoch(0), replicas: vec![NODE] }];
    let configs = BTreeMap::new();
    image
        .apply(&Record::TopicCreated { topic_id: KEY.topic_id, name: "t".into(), configs, placement })
        .unwrap();
    image
}

/// A broker with one shard, and the image that it works with.
struct Broker {
    world: World,
    host: Host,
    runtime: SimulatedRuntime,
    store: Rc<Store<SimulatedRuntime>>,
    table: Table,
    image: Image,
}

impl Broker {
    fn start(seed: u64) -> Self {
        let world = World::new(seed, Options::default());
        let host = world.host("broker");
        Self::begin(world, host, first_image(), 1)
    }

    fn begin(world: World, host: Host, mut image: Image, generation: u8) -> Self {
        let registered = Record::BrokerRegistered {
            broker_id: NODE,
            incarnation: Uuid([generation; 16]),
            leader_epoch_base: generation.into(),
            rack: None,
            endpoints: Vec::new(),
        };
        image.apply(&registered).unwrap();
        let runtime = host.runtime(ShardIndex(0));
        let (machine, first) = (runtime.clone(), Arc::new(image.clone()));
        let (table, store) = world.block_on(&runtime, async move {
            machine.create_directory(Path::new("/data")).await.unwrap();
            let recovery = recover(&machine, Path::new("/data")).await.unwrap();
            let opened = recovery.begin_run(&machine, 1, |_| 4 << 20, |_| ShardIndex(0)).await.unwrap();
            let (id, states) = opened.shards.into_iter().next().unwrap();
            let journal =
                Journal::open_fresh(&machine, &opened.run.journal(ShardIndex(0)), id).await.unwrap();
            let health = Arc::new(DirectoryHealth::default());
            let settings = StoreSettings { journal_bytes: 4 << 20, ..StoreSettings::default() };
            let store = Store::start(machine.clone(), opened.run, health, settings, journal, states);
            let broker = Arc::new(BrokerSettings::from_values(BTreeMap::new()).unwrap());
            let table = PartitionTable::new(machine, NODE, Rc::clone(&store), broker, 1, Rc::new(NoPeers));
            table.apply_image(first).await;
            (table, store)
        });
        Self { world, host, runtime, store, table, image }
    }

    /// Ends in order and starts again.
    fn restart(self) -> Self {
        let Self { world, host, runtime, store, image, .. } = self;
        world.block_on(&runtime, async move { store.stop().await });
        host.kill();
        host.restart();
        Self::begin(world, host, image, 2)
    }

    fn apply(&mut self, record: &Record) {
        self.image.apply(record).unwrap();
        let (table, image) = (Rc::clone(&self.table), Arc::new(self.image.clone()));
        self.world.block_on(&self.runtime, async move { table.apply_image(image).await });
    }

    fn set_topic(&mut self, pairs: &[(&str, &str)]) {
        self.apply(&Record::TopicConfigsReplaced { topic_id: KEY.topic_id, configs: map(pairs) });
    }

    fn set_broker(&mut self, broker_id: Option<NodeId>, pairs: &[(&str, &str)]) {
        self.apply(&Record::BrokerConfigsReplaced { broker_id, configs: map(pairs) });
    }

    /// Sends all appends before it waits for any of them.
    fn append(&self, all: Vec<Bytes>) -> Vec<Result<Appended, PartitionError>> {
        let table = Rc::clone(&self.table);
        self.world.block_on(&self.runtime, async move {
            let answers: Vec<_> = all
                .into_iter()
                .map(|records| {
                    let (command, answer) = PartitionCommand::append(KEY, records, Acks::All);
                    table.handle(command);
                    answer
                })
                .collect();
            let mut results = Vec::new();
            for mut answer in answers {
                (&mut answer).await;
                results.push(answer.into_answers().pop().unwrap().unwrap());
            }
            results
        })
    }

    fn error_of(&self, records: Bytes) -> ErrorCode {
        self.append(vec![records]).pop().unwrap().unwrap_err().code()
    }

    fn read(&self) -> Vec<u8> {
        let (table, (reply, answer)) = (Rc::clone(&self.table), oneshot::channel());
        self.world.block_on(&self.runtime, async move {
            let request = ReadRequest {
                offset: Offset(0),
                max_bytes: 64 << 20,
                at_least_one: true,
                current_leader_epoch: LeaderEpoch(-1),
                last_fetched_epoch: LeaderEpoch(-1),
                isolation: Isolation::ReadUncommitted,
                leader_only: true,
            };
            table.handle(PartitionCommand::Read { partition: KEY, request, reply });
            answer.await.unwrap().records.unwrap().concat()
        })
    }

    fn sizes(&self, partitions: Option<Vec<TopicPartition>>) -> Vec<(TopicPartition, u64)> {
        let (table, (reply, answer)) = (Rc::clone(&self.table), oneshot::channel());
        self.world.block_on(&self.runtime, async move {
            table.handle(PartitionCommand::Sizes { partitions, reply });
            let held = answer.await.unwrap();
            held.into_iter().flat_map(|held| held.sizes.unwrap()).collect()
        })
    }
}

/// One record of `bytes` bytes, of which every one is `mark`.
fn batch(
    codec: Codec,
    key: Option<&[u8]>,
    mark: u8,
    bytes: usize,
    now: logmill_wire::ids::TimestampMs,
) -> Bytes {
    let mut builder = BatchBuilder::new().codec(codec);
    builder.append(now, key, Some(&vec![mark; bytes]), &[]);
    Bytes::from(builder.finish().unwrap())
}

#[test]
fn batches_are_kept_in_the_codec_of_the_topic_and_in_their_order() {
    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let names = ["uncompressed", "gzip", "snappy", "lz4", "zstd"];
    for seed in 0..4 {
        let mut broker = Broker::start(seed);
        let (mut sent, mut codecs) = (Vec::new(), Vec::new());
        for (kept, name) in CODECS.into_iter().zip(names) {
            broker.set_topic(&[("compression.type", name)]);
            // What is in the topic's codec already must not overtake what is brought into it.
            let now = broker.runtime.wall_clock();
            let all = (0..12_u8).map(|index| {
                let mark = u8::try_from(sent.len()).unwrap().wrapping_add(index);
                batch(CODECS[usize::from(index) % 5], None, mark, 20_000 * usize::from(index % 3 + 1), now)
            });
            let results = broker.append(all.collect());
            for result in results {
                let offset = i64::try_from(sent.len()).unwrap();
                assert_eq!(result.unwrap().base_offset, Offset(offset), "{name}");
                sent.push(u8::try_from(offset).unwrap());
                codecs.push(kept);
            }
        }
        let stored = broker.read();
        let mut marks = Vec::new();
        for (batch, codec) in batches(&stored).map(Result::unwrap).zip(codecs) {
            assert_eq!(batch.codec().unwrap(), codec);
            let contents = batch.contents(1 << 20).unwrap();
            marks.extend(contents.records().map(|record| record.unwrap().value.unwrap()[0]));
        }
        assert_eq!(marks, sent);
    }
}

#[test]
fn compacted_topics_take_no_record_without_a_key() {
    let mut broker = Broker::start(1);
    broker.set_topic(&[("cleanup.policy", "compact")]);
    let now = broker.runtime.wall_clock();
    for codec in [Codec::None, Codec::Zstd] {
        assert_eq!(broker.error_of(batch(codec, None, 1, 10, now)), ErrorCode::InvalidRecord, "{codec}");
        assert!(broker.append(vec![batch(codec, Some(b"k"), 1, 10, now)]).remove(0).is_ok(), "{codec}");
    }
    broker.set_topic(&[]);
    assert!(broker.append(vec![batch(Codec::Zstd, None, 1, 10, now)]).remove(0).is_ok());
    // Bytes that only look like a batch are refused as ever.
    broker.set_topic(&[("compression.type", "gzip")]);
    let mut damaged = batch(Codec::Zstd, None, 1, 10_000, now).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(broker.error_of(damaged.into()), ErrorCode::CorruptMessage);
}

#[test]
fn the_strongest_layer_counts() {
    let mut broker = Broker::start(2);
    let now = broker.runtime.wall_clock();
    let large = || batch(Codec::None, None, 1, 5_000, now);
    assert!(broker.append(vec![large()]).remove(0).is_ok());
    broker.set_broker(None, &[("message.max.bytes", "1000")]);
    assert_eq!(broker.error_of(large()), ErrorCode::MessageTooLarge);
    broker.set_broker(Some(NODE), &[("message.max.bytes", "10000")]);
    assert!(broker.append(vec![large()]).remove(0).is_ok());
    broker.set_topic(&[("max.message.bytes", "2000")]);
    assert_eq!(broker.error_of(large()), ErrorCode::MessageTooLarge);
    // It counts as it comes, not as it would be kept.
    broker.set_topic(&[("max.message.bytes", "2000"), ("compression.type", "zstd")]);
    assert_eq!(broker.error_of(large()), ErrorCode::MessageTooLarge);
    broker.set_broker(Some(NODE), &[]);
    broker.set_topic(&[("message.timestamp.type", "LogAppendTime"), ("max.message.bytes", "9000")]);
    let stamped = broker.append(vec![large()]).remove(0).unwrap();
    assert!(stamped.log_append_time.0 >= now.0);
    broker.set_topic(&[]);
    assert_eq!(broker.error_of(large()), ErrorCode::MessageTooLarge, "the cluster's default is still there");
    broker.set_broker(None, &[("min.insync.replicas", "2"), ("message.max.bytes", "10000")]);
    assert!(broker.append(vec![large()]).remove(0).is_ok(), "a partition with one replica needs no more");
}

#[test]
fn logs_have_the_size_of_their_records() {
    let mut broker = Broker::start(3);
    broker.set_topic(&[("segment.bytes", "1048576")]);
    let now = broker.runtime.wall_clock();
    assert_eq!(broker.sizes(None), []);
    let all: Vec<_> = (0..30).map(|index| batch(Codec::None, None, index, 100_000, now)).collect();
    let bytes: u64 = all.iter().map(|batch| batch.len() as u64).sum();
    assert!(broker.append(all).into_iter().all(|result| result.is_ok()));
    let other = TopicPartition { partition: PartitionIndex(1), ..KEY };
    assert_eq!(broker.sizes(None), [(KEY, bytes)]);
    assert_eq!(broker.sizes(Some(vec![other, KEY])), [(KEY, bytes)]);
    // Not in use since the start: the size comes from the files.
    let broker = broker.restart();
    assert_eq!(broker.sizes(None), [(KEY, bytes)]);
    assert!(!broker.read().is_empty(), "a read opens the log");
    assert_eq!(broker.sizes(Some(vec![KEY])), [(KEY, bytes)]);
}
