//! Links that are lost.

use super::fixture::*;
use super::steady::{A, B, Pair};
use crate::runtime::simulated::{Options, World};
use crate::runtime::{Connection, Listener, Runtime};
use bytes::BytesMut;
use logmill_wire::frame::replication::{self, Hello, Link};
use logmill_wire::ids::{ShardIndex, Uuid};
use std::rc::Rc;
use std::time::Duration;

fn chance(world: &World, below: u64) -> u64 {
    world.draw(|chance| chance.below(below))
}

#[test]
fn everything_arrives_whatever_the_network_does() {
    for seed in 0..8 {
        let mut options = Options::drawn(seed);
        options.window_bytes = (4 << 10, options.window_bytes.1.max(8 << 10));
        options.reset = if seed % 3 == 0 { 0.002 } else { 0.0 };
        let pair = Pair::new(seed, options, [2, 3], 8 << 20);
        pair.a_leads(10);
        pair.b_leads(10);
        (0..10).for_each(|index| pair.a.append(partition_of(A, index), 4_000));
        pair.a.keep_in_memory(partition_of(A, 1), 0);
        for _ in 0..40 {
            for _ in 0..10 {
                let index = chance(&pair.world, 10) as i32;
                let bytes = 61 + chance(&pair.world, 12_000) as usize;
                pair.a.append(partition_of(A, index), bytes);
                pair.b.append(partition_of(B, index), bytes);
            }
            let [a, b] = &pair.hosts;
            match chance(&pair.world, 12) {
                0 => pair.world.reset_connections(a, b),
                1 => pair.world.cut(a, b),
                2 => pair.world.cut(b, a),
                3 => {
                    pair.world.cut(a, b);
                    pair.world.cut(b, a);
                }
                4 => a.pause(),
                5 => pair.a.keep_in_memory(partition_of(A, chance(&pair.world, 10) as i32), 2),
                _ => {
                    pair.world.mend_all();
                    a.resume();
                }
            }
            let pause_ms = chance(&pair.world, 400);
            pair.world.run_for(Duration::from_millis(pause_ms));
        }
        pair.world.mend_all();
        pair.hosts[0].resume();
        pair.settle(Duration::from_secs(120));
    }
}

#[test]
fn a_silent_cut_is_noticed_in_about_a_second() {
    let pair = Pair::new(30, Options::default(), [1, 1], 64 << 20);
    pair.a_leads(1);
    pair.b_leads(1);
    pair.a.append(partition_of(A, 0), 100);
    pair.b.append(partition_of(B, 0), 100);
    pair.settle(Duration::from_secs(5));
    let [a, b] = &pair.hosts;
    pair.world.cut(a, b);
    pair.world.cut(b, a);
    let before = pair.world.now();
    assert!(pair.world.run_until_within(Duration::from_secs(9), || pair.a.losses() + pair.b.losses() == 2));
    let took = pair.world.now() - before;
    assert!((Duration::from_millis(700)..Duration::from_millis(1600)).contains(&took), "{took:?}");
    pair.world.mend_all();
    pair.a.append(partition_of(A, 0), 100);
    pair.settle(Duration::from_secs(5));
}

#[test]
fn an_idle_link_stands() {
    let pair = Pair::new(31, Options::default(), [1, 1], 64 << 20);
    pair.a_leads(1);
    pair.world.run_for(Duration::from_secs(60));
    assert_eq!((pair.a.losses(), pair.b.losses()), (0, 0));
    assert_eq!(pair.a.sum(|counters| counters.connects.get()), 1);
}

#[test]
fn answers_that_were_lost_with_their_link_are_asked_for_again() {
    let pair = Pair::new(32, Options::default(), [1, 1], 64 << 20);
    pair.a_leads(1);
    pair.a.append(partition_of(A, 0), 100);
    pair.settle(Duration::from_secs(5));
    // The follower's own link stands all the time: it hears of the loss from the leader's next hello.
    let [a, b] = &pair.hosts;
    pair.world.cut(a, b);
    pair.a.append(partition_of(A, 0), 100);
    pair.world.run_for(Duration::from_millis(100));
    pair.world.reset_connections(a, b);
    pair.world.mend_all();
    pair.settle(Duration::from_secs(5));
}

#[test]
fn another_process_of_the_broker_gets_a_link_of_its_own() {
    let mut pair = Pair::new(33, Options::default(), [2, 2], 64 << 20);
    pair.a_leads(6);
    pair.b_leads(3);
    (0..6).for_each(|index| pair.a.append(partition_of(A, index), 5_000));
    pair.settle(Duration::from_secs(5));
    pair.hosts[1].kill();
    (0..6).for_each(|index| pair.a.append(partition_of(A, index), 5_000));
    pair.world.run_for(Duration::from_secs(3));
    pair.hosts[1].restart();
    let runtimes: Vec<_> = (0..2).map(|shard| pair.hosts[1].runtime(ShardIndex(shard))).collect();
    pair.b = Broker::new(B, &runtimes, 64 << 20);
    let (listening, address) = (Rc::clone(&pair.b), pair.hosts[1].address(9092));
    pair.world.block_on(&runtimes[0], async move { listening.listen(address).await });
    // The new process knows itself before the other broker does.
    let addresses = pair.addresses([1, 2]);
    pair.b.apply_image(&image(CLUSTER, &addresses));
    for index in 0..6 {
        pair.b.follow(partition_of(A, index), A);
    }
    pair.world.run_for(Duration::from_secs(2));
    assert!(!pair.a.is_followed_by(&pair.b), "a process that the metadata do not name is not heard");
    assert!(pair.a.sum(|counters| counters.refused.get()) > 0);
    pair.a.apply_image(&image(CLUSTER, &addresses));
    assert!(pair.world.run_until_within(Duration::from_secs(5), || pair.a.is_followed_by(&pair.b)));
}

#[test]
fn a_broker_that_leaves_the_image_has_no_link() {
    let pair = Pair::new(34, Options::default(), [1, 1], 64 << 20);
    pair.a_leads(1);
    pair.a.append(partition_of(A, 0), 100);
    pair.settle(Duration::from_secs(5));
    let alone = image(CLUSTER, &pair.addresses([1, 1])[..1]);
    pair.a.apply_image(&alone);
    pair.world.run_for(Duration::from_secs(10));
    assert_eq!((pair.a.losses(), pair.a.sum(|counters| counters.connects.get())), (1, 1));
    pair.a.append(partition_of(A, 0), 100);
    pair.world.run_for(Duration::from_secs(1));
    assert!(!pair.is_settled());
    // And one that is back has one.
    pair.apply_images([1, 1]);
    pair.settle(Duration::from_secs(5));
}

#[test]
fn who_takes_nothing_is_cut_off() {
    let world = World::new(35, Options::default());
    let hosts = [world.host("a"), world.host("b")];
    let runtimes = [hosts[0].runtime(ShardIndex(0))];
    let other = hosts[1].runtime(ShardIndex(0));
    let a = Broker::new(A, &runtimes, 64 << 20);
    let address = hosts[1].address(9092);
    let listening = other.clone();
    other.spawn(async move {
        let listener = listening.listen(address).await.unwrap();
        loop {
            let connection = listening.adopt(listener.accept().await.unwrap().0);
            let hello = Hello {
                cluster_id: Uuid::from_random(CLUSTER),
                broker_id: B,
                incarnation: incarnation(B, 1),
                version_min: 0,
                version_max: 0,
                shard: ShardIndex(0),
                link: Link::Live,
            };
            connection.send(vec![replication::encode_hello(&hello).unwrap().into()]).await.unwrap();
            let task = listening.clone();
            listening.spawn(async move {
                // It lives, and it reads no more than the hello.
                let (_, _hello) = connection.receive(BytesMut::with_capacity(64)).await;
                let alive: bytes::Bytes = replication::encode_ends(&[]).unwrap().into();
                while connection.send(vec![alive.clone()]).await.is_ok() {
                    task.sleep(Duration::from_millis(200)).await;
                }
            });
        }
    });
    world.run_for(Duration::from_millis(100));
    a.apply_image(&image(CLUSTER, &[(A, 1, hosts[0].address(9092)), (B, 1, address)]));
    let partition = partition_of(A, 0);
    a.lead(partition, B);
    (0..200).for_each(|_| a.append(partition, 10_000));
    let connected = || a.sum(|counters| counters.connects.get()) == 1;
    assert!(world.run_until_within(Duration::from_secs(5), connected));
    a.push_from_the_beginning(partition);
    let before = world.now();
    assert!(world.run_until_within(Duration::from_secs(60), || a.losses() == 1));
    let took = world.now() - before;
    assert!((Duration::from_secs(9)..Duration::from_secs(13)).contains(&took), "{took:?}");
}
