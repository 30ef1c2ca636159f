//! Power cuts while batches larger than a journal group are being committed: what was acknowledged is there
//! afterwards, and a log whose last batch was cut short goes on.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
use bytes::Bytes;
use logmill::journal::Journal;
use logmill::log::{DirectoryHealth, Store, StoreSettings, recover};
use logmill::partition::PartitionTable;
use logmill::partition::command::{Acks, OffsetQuery, PartitionCommand};
use logmill::partition::peers::NoPeers;
use logmill::runtime::oneshot;
use logmill::runtime::simulated::{Host, Options, SimulatedRuntime, World};
use logmill_state::metadata::{Image, PlacementRun, Record};
use logmill_state::partition::Isolation;
use logmill_state::settings::BrokerSettings;
use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, ShardIndex, TimestampMs, TopicPartition, Uuid};
use logmill_wire::record_batch::BatchBuilder;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const KEY: TopicPartition = TopicPartition { topic_id: Uuid([7; 16]), partition: PartitionIndex(0) };

fn image(generation: i32) -> Arc<Image> {
    let mut image = Image::default();
    let topic = Record::TopicCreated {
        topic_id: KEY.topic_id,
        name: "t".into(),
        configs: BTreeMap::new(),
        placement: vec![PlacementRun {
            partition_count: 1,
            leader_epoch: LeaderEpoch(0),
            replicas: vec![NodeId(1)],
        }],
    };
    let broker = Record::BrokerRegistered {
        broker_id: NodeId(1),
        incarnation: Uuid([generation as u8; 16]),
        leader_epoch_base: generation,
        rack: None,
        endpoints: Vec::new(),
    };
    image.apply(&topic).unwrap();
    image.apply(&broker).unwrap();
    Arc::new(image)
}

/// Recovers and starts; a damaged log fails the test.
async fn start(runtime: SimulatedRuntime, generation: i32) -> Rc<PartitionTable<SimulatedRuntime>> {
    let recovery = recover(&runtime, Path::new("/data")).await.unwrap();
    for log in &recovery.logs {
        assert_eq!(log.damage, None, "nothing has rotted");
    }
    let opened = recovery.begin_run(&runtime, 1, |_| 256 << 10, |_| ShardIndex(0)).await.unwrap();
    let (id, states) = opened.shards.into_iter().next().unwrap();
    let journal = Journal::open_fresh(&runtime, &opened.run.journal(ShardIndex(0)), id).await.unwrap();
    // Everything goes through the journal, whose groups are smaller than the batches.
    let settings = StoreSettings { extent_bytes_min: u64::MAX, ..StoreSettings::default() };
    let health = Arc::new(DirectoryHealth::default());
    let store = Store::start(runtime.clone(), opened.run, health, settings, journal, states);
    let broker = Arc::new(BrokerSettings::from_values(BTreeMap::new()).unwrap());
    let table = PartitionTable::new(runtime, NodeId(1), store, broker, 1, Rc::new(NoPeers));
    table.apply_image(image(generation)).await;
    table
}

async fn end_of(table: &Rc<PartitionTable<SimulatedRuntime>>) -> i64 {
    let (reply, answer) = oneshot::channel();
    table.handle(PartitionCommand::FindOffset {
        partition: KEY,
        query: OffsetQuery::Latest,
        current_leader_epoch: LeaderEpoch(-1),
        isolation: Isolation::ReadUncommitted,
        reply,
    });
    answer.await.unwrap().unwrap().offset.0
}

/// One life of the broker: checks what is there, then appends until the power goes.
fn live(world: &World, host: &Host, generation: i32, acknowledged: &Rc<Cell<i64>>) {
    let runtime = host.runtime(ShardIndex(0));
    let before = acknowledged.get();
    let starting = runtime.clone();
    let (table, end) = world.block_on(&runtime, async move {
        let table = start(starting, generation).await;
        let end = end_of(&table).await;
        (table, end)
    });
    assert!(end >= before, "the log ends at {end}, and {before} records were acknowledged");
    let told = Rc::clone(acknowledged);
    let sender = runtime.clone();
    logmill::runtime::Runtime::spawn(&runtime, async move {
        loop {
            let mut batch = BatchBuilder::new();
            let now = logmill::runtime::Runtime::wall_clock(&sender);
            batch.append(TimestampMs(now.0), None, Some(&vec![generation as u8; 150_000]), &[]);
            let records = Bytes::from(batch.finish().unwrap());
            let (command, mut answer) = PartitionCommand::append(KEY, records, Acks::All);
            table.handle(command);
            (&mut answer).await;
            let Some(Some(Ok(appended))) = answer.into_answers().pop() else { return };
            told.set(told.get().max(appended.base_offset.0 + 1));
        }
    });
    let span_us = world.draw(|chance| chance.between((100, 60_000)));
    world.run_for(Duration::from_micros(span_us));
    host.crash();
    host.restart();
}

#[test]
fn a_batch_that_a_power_cut_shortens_is_no_damage() {
    let mut total = 0;
    for seed in 0..40 {
        let world = World::new(seed, Options::drawn(seed));
        let host = world.host("broker");
        let acknowledged = Rc::new(Cell::new(0));
        for generation in 1..5 {
            live(&world, &host, generation, &acknowledged);
        }
        total += acknowledged.get();
    }
    assert!(total > 100, "only {total} appends were acknowledged");
}
