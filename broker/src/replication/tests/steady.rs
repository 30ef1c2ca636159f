//! Links that stand.

use super::fixture::*;
use crate::partition::router::shard_of;
use crate::runtime::Runtime;
use crate::runtime::simulated::{Options, SimulatedRuntime, World};
use crate::runtime::uring::block_on;
use crate::shard::memory::MemoryClass;
use logmill_wire::ids::{NodeId, ShardIndex};
use logmill_wire::limits::REPLICATION_PUSH_BYTES;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

pub(super) const A: NodeId = NodeId(1);
pub(super) const B: NodeId = NodeId(2);

pub(super) struct Pair {
    pub world: World,
    pub hosts: [crate::runtime::simulated::Host; 2],
    pub a: Rc<Broker<SimulatedRuntime>>,
    pub b: Rc<Broker<SimulatedRuntime>>,
}

impl Pair {
    pub fn new(seed: u64, options: Options, shards: [u16; 2], memory_bytes: usize) -> Self {
        let world = World::new(seed, options);
        let hosts = [world.host("a"), world.host("b")];
        let [a, b] = [(A, 0), (B, 1)].map(|(node, at)| {
            let runtimes: Vec<_> =
                (0..shards[at]).map(|shard| hosts[at].runtime(ShardIndex(shard))).collect();
            let broker = Broker::new(node, &runtimes, memory_bytes);
            let (listening, address) = (Rc::clone(&broker), hosts[at].address(9092));
            world.block_on(&runtimes[0], async move { listening.listen(address).await });
            broker
        });
        let pair = Self { world, hosts, a, b };
        pair.apply_images([1, 1]);
        pair
    }

    pub fn addresses(&self, starts: [i32; 2]) -> [(NodeId, i32, SocketAddr); 2] {
        [(A, starts[0], self.hosts[0].address(9092)), (B, starts[1], self.hosts[1].address(9092))]
    }

    pub fn apply_images(&self, starts: [i32; 2]) {
        let image = image(CLUSTER, &self.addresses(starts));
        self.a.apply_image(&image);
        self.b.apply_image(&image);
    }

    /// A leads so many partitions and B follows.
    pub fn a_leads(&self, partitions: i32) {
        for index in 0..partitions {
            self.a.lead(partition_of(A, index), B);
            self.b.follow(partition_of(A, index), A);
        }
    }

    pub fn b_leads(&self, partitions: i32) {
        for index in 0..partitions {
            self.b.lead(partition_of(B, index), A);
            self.a.follow(partition_of(B, index), B);
        }
    }

    pub fn is_settled(&self) -> bool {
        self.a.is_followed_by(&self.b) && self.b.is_followed_by(&self.a)
    }

    pub fn settle(&self, limit: Duration) {
        let is_settled = self.world.run_until_within(limit, || self.is_settled());
        let missing = [self.a.missing_at(&self.b), self.b.missing_at(&self.a)];
        assert!(is_settled, "not everything has arrived: {missing:?}");
    }
}

#[test]
fn what_is_appended_reaches_the_follower_whatever_the_shards() {
    for (seed, shards) in [(1, [1, 1]), (2, [1, 3]), (3, [3, 2])] {
        let pair = Pair::new(seed, Options::drawn(seed), shards, 64 << 20);
        pair.a_leads(7);
        pair.b_leads(5);
        for round in 0..20 {
            for index in 0..7 {
                pair.a.append(partition_of(A, index), 61 + round * 100);
                if index < 5 {
                    pair.b.append(partition_of(B, index), 5_000);
                }
            }
            pair.world.run_for(Duration::from_millis(3));
        }
        pair.settle(Duration::from_secs(20));
        pair.world.run_for(Duration::from_millis(50));
        assert_eq!((pair.a.losses(), pair.b.losses()), (0, 0));
        // One link for each pair of shard and broker that has something to say.
        assert_eq!(pair.a.sum(|counters| counters.connects.get()), u64::from(shards[0]));
        for shard in pair.a.shards.iter().chain(&pair.b.shards) {
            assert_eq!(shard.memory.free(MemoryClass::Peers), shard.memory.size(MemoryClass::Peers));
        }
    }
}

#[test]
fn a_thousand_partitions_leave_in_a_few_frames() {
    let pair = Pair::new(4, Options::default(), [1, 2], 64 << 20);
    pair.a_leads(1000);
    pair.settle(Duration::from_secs(5));
    let (frames, heard) = (pair.a.sum(|counters| counters.frames_sent.get()), pair.b.pushes_heard());
    (0..1000).for_each(|index| pair.a.append(partition_of(A, index), 100));
    pair.settle(Duration::from_secs(5));
    let sent = pair.a.sum(|counters| counters.frames_sent.get()) - frames;
    assert!(sent <= 6, "the records and the high watermarks took {sent} frames");
    // Each frame is one message for each shard of the follower.
    assert!(pair.b.pushes_heard() - heard <= 2 * sent as usize);
    let answered = pair.b.sum(|counters| counters.frames_sent.get());
    assert!(answered <= 12, "the answers took {answered} frames");
}

#[test]
fn watermarks_ride_or_leave_in_time() {
    let pair = Pair::new(5, Options::default(), [1, 1], 64 << 20);
    pair.a_leads(2);
    pair.settle(Duration::from_secs(5));
    let before = pair.world.now();
    pair.a.append(partition_of(A, 0), 100);
    pair.settle(Duration::from_secs(5));
    let took = pair.world.now() - before;
    assert!(took < Duration::from_millis(20), "the high watermark came after {took:?}");
    // While appends go on, the watermarks take no frames of their own.
    let frames = pair.a.sum(|counters| counters.pushes_sent.get());
    for _ in 0..100 {
        pair.a.append(partition_of(A, 0), 100);
        pair.world.run_for(Duration::from_millis(4));
    }
    pair.settle(Duration::from_secs(5));
    let sent = pair.a.sum(|counters| counters.pushes_sent.get()) - frames;
    assert!(sent <= 130, "100 appends took {sent} frames");
}

#[test]
fn a_receiver_without_room_stops_reading() {
    // Of this, 5 in 100 are for peers.
    let (memory, class) = (4 << 20, (4 << 20) / 100 * 5);
    let pair = Pair::new(6, Options::default(), [1, 1], memory);
    pair.a_leads(4);
    pair.settle(Duration::from_secs(5));
    let receiver = &pair.b.shards[0];
    receiver.fake.hold.set(true);
    for round in 0..200 {
        pair.a.append(partition_of(A, round % 4), 50_000);
    }
    pair.world.run_for(Duration::from_secs(5));
    let undone = receiver.fake.undone_bytes.get();
    assert!(undone > 0 && undone <= class.max(REPLICATION_PUSH_BYTES + 50_000), "{undone} bytes are held");
    assert!(receiver.memory.is_contended(MemoryClass::Peers));
    assert_eq!(pair.a.losses(), 0, "who waits for room is alive");
    receiver.fake.release();
    pair.settle(Duration::from_secs(20));
    pair.world.run_for(Duration::from_millis(50));
    assert_eq!(receiver.memory.free(MemoryClass::Peers), class);
}

#[test]
fn a_batch_larger_than_the_room_of_its_class_passes_alone() {
    let pair = Pair::new(7, Options::default(), [1, 1], 4 << 20);
    pair.a_leads(3);
    (0..3).for_each(|index| pair.a.append(partition_of(A, index), 3 << 20));
    pair.settle(Duration::from_secs(30));
    assert_eq!(pair.a.losses(), 0);
}

#[test]
fn what_is_on_disk_comes_by_a_link_of_its_own_and_ends_in_memory() {
    let pair = Pair::new(8, Options::default(), [1, 1], 64 << 20);
    (0..20).for_each(|index| pair.a.lead(partition_of(A, index), B));
    for round in 0..50 {
        (0..20).for_each(|index| pair.a.append(partition_of(A, index), 10_000 + round));
    }
    (0..20).for_each(|index| pair.a.keep_in_memory(partition_of(A, index), 5));
    (0..20).for_each(|index| pair.b.follow(partition_of(A, index), A));
    // What is appended meanwhile must not be lost between the two links.
    for _ in 0..100 {
        pair.a.append(partition_of(A, 3), 1_000);
        pair.world.run_for(Duration::from_millis(1));
    }
    pair.settle(Duration::from_secs(20));
    let caught_up = pair.a.sum(|counters| counters.bytes_caught_up.get());
    assert!(caught_up >= 20 * 45 * 10_000, "{caught_up} bytes were caught up");
    pair.world.run_for(Duration::from_secs(30));
    pair.a.append(partition_of(A, 3), 1_000);
    pair.settle(Duration::from_secs(5));
    assert_eq!(pair.a.sum(|counters| counters.bytes_caught_up.get()), caught_up);
    assert_eq!(pair.a.losses(), 0, "a link that is no longer needed is not lost");
}

#[test]
fn a_link_that_has_caught_up_stands_while_the_live_one_is_busy() {
    let pair = Pair::new(9, Options::default(), [1, 1], 64 << 20);
    let partition = partition_of(A, 0);
    pair.a.lead(partition, B);
    (0..50).for_each(|_| pair.a.append(partition, 10_000));
    pair.a.keep_in_memory(partition, 5);
    pair.b.follow(partition, A);
    pair.settle(Duration::from_secs(5));
    assert!(pair.a.sum(|counters| counters.bytes_caught_up.get()) > 0);
    for _ in 0..100 {
        pair.a.append(partition, 1_000);
        pair.world.run_for(Duration::from_millis(50));
    }
    pair.settle(Duration::from_secs(5));
    assert_eq!(pair.a.losses(), 0, "its other end heard nothing");
}

#[test]
fn questions_are_answered() {
    let pair = Pair::new(10, Options::default(), [2, 3], 64 << 20);
    (0..50).for_each(|index| pair.b.ask(A, partition_of(A, index)));
    let answered = || -> usize { pair.b.shards.iter().map(|shard| shard.fake.answers.borrow().len()).sum() };
    assert!(pair.world.run_until_within(Duration::from_secs(5), || answered() == 50));
    for (at, shard) in (0..).zip(&pair.b.shards) {
        let answers = shard.fake.answers.borrow();
        assert!(answers.iter().all(|answer| shard_of(answer.query.partition, 3) == ShardIndex(at)));
    }
}

#[test]
fn links_stand_on_the_ring_too() {
    block_on(|runtime| async move {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let a = Broker::new(A, std::slice::from_ref(&runtime), 64 << 20);
        let b = Broker::new(B, std::slice::from_ref(&runtime), 64 << 20);
        let (of_a, of_b) = (a.listen(loopback).await, b.listen(loopback).await);
        let image = image(CLUSTER, &[(A, 1, of_a), (B, 1, of_b)]);
        a.apply_image(&image);
        b.apply_image(&image);
        for index in 0..100 {
            a.lead(partition_of(A, index), B);
            (0..20).for_each(|_| a.append(partition_of(A, index), 20_000));
            b.follow(partition_of(A, index), A);
        }
        a.keep_in_memory(partition_of(A, 7), 3);
        for _ in 0..2_000 {
            if a.is_followed_by(&b) {
                break;
            }
            runtime.sleep(Duration::from_millis(5)).await;
        }
        assert!(a.is_followed_by(&b), "not everything has arrived");
        assert_eq!(a.losses() + b.losses(), 0);
        assert!(a.sum(|counters| counters.bytes_caught_up.get()) > 0);
    })
    .unwrap();
}
