//! Replicas that catch up keep to the rates of KIP-73.

use super::fixture::*;
use super::steady::{A, B, Pair};
use crate::partition::router::shard_of;
use crate::replication::{HeldUpBy, ThrottlePlan};
use crate::runtime::simulated::Options;
use logmill_state::metadata::{Image, PartitionState, PlacementRun, Record};
use logmill_wire::ids::{LeaderEpoch, NodeId, ShardIndex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const C: NodeId = NodeId(3);
const LEADER: &str = "leader.replication.throttled";
const FOLLOWER: &str = "follower.replication.throttled";

/// What is set on the running cluster.
#[derive(Clone, Copy, Default)]
struct Set {
    leader_rate: Option<&'static str>,
    follower_rate: Option<&'static str>,
    leader_replicas: &'static str,
    follower_replicas: &'static str,
    is_in_sync: bool,
}

fn configs(pairs: &[(String, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.clone(), (*value).to_owned())).collect()
}

/// A leads four partitions of its topic, which B follows.
fn with_topic(before: &Image, set: Set) -> Arc<Image> {
    let mut image = before.clone();
    let topic_id = partition_of(A, 0).topic_id;
    let lists = [
        (format!("{LEADER}.replicas"), set.leader_replicas),
        (format!("{FOLLOWER}.replicas"), set.follower_replicas),
    ];
    let placement =
        vec![PlacementRun { partition_count: 4, leader_epoch: LeaderEpoch(1), replicas: vec![A, B] }];
    let name = "topic".to_owned();
    image.apply(&Record::TopicCreated { topic_id, name, configs: configs(&lists), placement }).unwrap();
    for partition in (0..4).map(|index| partition_of(A, index).partition) {
        let topic = image.topic_by_id(topic_id).unwrap();
        let state = image.partition(topic, partition).unwrap().to_state();
        let in_sync = if set.is_in_sync { vec![A, B] } else { vec![A] };
        let state = PartitionState { partition_epoch: state.partition_epoch + 1, in_sync, ..state };
        image.apply(&Record::PartitionChanged { topic_id, partition, state }).unwrap();
    }
    let mut rates = |node, key: &str, rate: Option<&str>| {
        let configs =
            configs(&rate.map(|rate| (format!("{key}.rate"), rate)).into_iter().collect::<Vec<_>>());
        image.apply(&Record::BrokerConfigsReplaced { broker_id: Some(node), configs }).unwrap();
    };
    rates(A, LEADER, set.leader_rate);
    rates(B, FOLLOWER, set.follower_rate);
    Arc::new(image)
}

fn unfence(image: &mut Image, nodes: &[NodeId]) {
    for &broker_id in nodes {
        let record = Record::BrokerChanged {
            broker_id,
            fenced: false,
            in_controlled_shutdown: false,
            directories: Vec::new(),
        };
        image.apply(&record).unwrap();
    }
}

/// How long B takes for 1 MB of each of four partitions.
fn catch_up(seed: u64, set: Set) -> Duration {
    let pair = Pair::new(seed, Options::default(), [2, 1], 64 << 20);
    let mut image = Image::clone(&image(CLUSTER, &pair.addresses([1, 1])));
    unfence(&mut image, &[A, B]);
    let image = with_topic(&image, set);
    pair.a.apply_image(&image);
    pair.b.apply_image(&image);
    let shards: Vec<_> = (0..4).map(|index| shard_of(partition_of(A, index), 2)).collect();
    assert!(shards.contains(&ShardIndex(0)) && shards.contains(&ShardIndex(1)));
    for partition in (0..4).map(|index| partition_of(A, index)) {
        pair.a.lead(partition, B);
        (0..100).for_each(|_| pair.a.append(partition, 10_000));
        // Half of them are read from disk.
        pair.a.keep_in_memory(partition, if partition.partition.0 < 2 { 1 } else { 1_000 });
        pair.b.follow(partition, A);
    }
    let before = pair.world.now();
    pair.settle(Duration::from_secs(60));
    assert_eq!(pair.a.losses(), 0, "a link that waits is not silent");
    pair.world.now() - before
}

#[test]
fn the_shards_share_the_rate_of_leader_or_follower() {
    let all = Set { leader_replicas: "*", follower_replicas: "*", ..Set::default() };
    let slow = Duration::from_millis(3_000)..Duration::from_millis(4_500);
    let fast = Duration::ZERO..Duration::from_secs(1);
    let named = "0:1,1:1,2:1,3:1";
    for (at, (set, expected)) in [
        (all, &fast),
        (Set { leader_rate: Some("1000000"), ..all }, &slow),
        (Set { follower_rate: Some("1000000"), ..all }, &slow),
        (Set { leader_rate: Some("1000000"), follower_rate: Some("9000000"), ..all }, &slow),
        (Set { leader_rate: Some("1000000"), leader_replicas: named, ..Set::default() }, &slow),
        // Neither who is in sync, nor who is not named.
        (Set { leader_rate: Some("1000000"), is_in_sync: true, ..all }, &fast),
        (Set { leader_rate: Some("1000000"), leader_replicas: "0:2,1:2,2:2", ..Set::default() }, &fast),
        (Set { follower_rate: Some("1000000"), follower_replicas: named, ..Set::default() }, &fast),
        (Set { leader_rate: Some("9223372036854775807"), ..all }, &fast),
    ]
    .into_iter()
    .enumerate()
    {
        let took = catch_up(20 + at as u64, set);
        assert!(expected.contains(&took), "case {at} took {took:?}, not {expected:?}");
    }
}

#[test]
fn who_is_not_named_does_not_wait_for_who_is() {
    let pair = Pair::new(40, Options::default(), [1, 1], 64 << 20);
    let set = Set { leader_rate: Some("100000"), leader_replicas: "0:1", ..Set::default() };
    let mut known = Image::clone(&image(CLUSTER, &pair.addresses([1, 1])));
    unfence(&mut known, &[A, B]);
    pair.a.apply_image(&with_topic(&known, set));
    pair.a_leads(2);
    for index in [0, 1] {
        (0..100).for_each(|_| pair.a.append(partition_of(A, index), 10_000));
        pair.a.keep_in_memory(partition_of(A, index), 1);
    }
    let has = |index| pair.b.end_of(partition_of(A, index));
    assert!(pair.world.run_until_within(Duration::from_secs(1), || has(1) == 100), "{}", has(1));
    assert!(has(0) < 40, "{}", has(0));
    // The rate is lifted while the replica waits.
    pair.a.apply_image(&with_topic(&known, Set::default()));
    assert!(pair.world.run_until_within(Duration::from_secs(1), || has(0) == 100), "{}", has(0));
}

#[test]
fn a_rate_is_divided_by_those_who_have_something_to_send() {
    let mut image = Image::default();
    for (node, starts) in [(A, 1), (B, 1), (C, 1)] {
        let one = Record::BrokerRegistered {
            broker_id: node,
            incarnation: incarnation(node, starts),
            leader_epoch_base: starts,
            rack: None,
            endpoints: Vec::new(),
        };
        image.apply(&one).unwrap();
    }
    unfence(&mut image, &[A, B, C]);
    let set = Set { follower_rate: Some("900"), follower_replicas: "0:2,1:2", ..Set::default() };
    let before = with_topic(&image, set);
    let of = |image: &Image, node, shard| ThrottlePlan::of(image, node, (ShardIndex(shard), 4));
    let shard = |index| shard_of(partition_of(A, index), 4).0;
    let plan = of(&before, A, shard(0));
    assert_eq!(plan.replicas.keys().copied().collect::<Vec<_>>(), [(B, partition_of(A, 0))]);
    assert_eq!(plan.follower_rates.get(&B), Some(&450), "two of four shards send");
    // Another leader sends to the same follower; a follower that is held to be dead gets nothing.
    let mut image = Image::clone(&before);
    let (topic_id, partition) = (partition_of(A, 1).topic_id, partition_of(A, 1).partition);
    let state = image.partition(image.topic_by_id(topic_id).unwrap(), partition).unwrap().to_state();
    let moved = PartitionState {
        leader: C,
        leader_epoch: LeaderEpoch(9),
        partition_epoch: state.partition_epoch + 1,
        replicas: vec![C, B],
        in_sync: vec![C],
        ..state
    };
    image.apply(&Record::PartitionChanged { topic_id, partition, state: moved }).unwrap();
    assert_eq!(of(&image, A, shard(0)).follower_rates.get(&B), Some(&450), "two leaders, one shard each");
    assert_eq!(of(&image, C, shard(1)).follower_rates.get(&B), Some(&450));
    assert!(of(&image, A, shard(1)).replicas.is_empty());
    let record = Record::BrokerChanged {
        broker_id: B,
        fenced: true,
        in_controlled_shutdown: false,
        directories: Vec::new(),
    };
    image.apply(&record).unwrap();
    assert_eq!(of(&image, A, shard(0)).follower_rates.get(&B), Some(&900));
}

#[test]
fn who_is_added_by_a_reassignment_need_not_be_named() {
    let mut image = Image::default();
    for node in [A, B, C] {
        let one = Record::BrokerRegistered {
            broker_id: node,
            incarnation: incarnation(node, 1),
            leader_epoch_base: 1,
            rack: None,
            endpoints: Vec::new(),
        };
        image.apply(&one).unwrap();
    }
    unfence(&mut image, &[A, B, C]);
    let set = Set { leader_rate: Some("800"), follower_rate: Some("900"), ..Set::default() };
    let before = with_topic(&image, set);
    let of = |image: &Image| ThrottlePlan::of(image, A, (ShardIndex(0), 1)).replicas;
    assert!(of(&before).is_empty(), "B lags, and nobody has named it");
    let mut image = Image::clone(&before);
    let key = partition_of(A, 2);
    let topic = image.topic_by_id(key.topic_id).unwrap();
    let state = image.partition(topic, key.partition).unwrap().to_state();
    let moved = PartitionState {
        partition_epoch: state.partition_epoch + 1,
        replicas: vec![A, B, C],
        adding: vec![B, C],
        ..state
    };
    let (topic_id, partition) = (key.topic_id, key.partition);
    image.apply(&Record::PartitionChanged { topic_id, partition, state: moved }).unwrap();
    let held_up: BTreeMap<NodeId, HeldUpBy> =
        of(&image).into_iter().map(|((node, at), by)| (assert_eq!(at, key), (node, by)).1).collect();
    let by = |leader, follower| HeldUpBy { leader, follower };
    assert_eq!(held_up, BTreeMap::from([(B, by(true, true)), (C, by(true, false))]));
}
