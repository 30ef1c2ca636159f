//! Replicas that move by themselves: to an end, by few moves, and never to where they would be worse off.

use std::collections::{BTreeMap, BTreeSet};

use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, TopicPartition, Uuid};

use super::*;
use crate::test_random::Random;

const LIMITS: BalanceLimits =
    BalanceLimits { moves: 4, moves_per_broker: 2, threshold_percent: 0, leaders: true };

/// Where each partition lies once its move is complete.
type Goals = BTreeMap<TopicPartition, Vec<NodeId>>;

fn with_context<T>(decide: impl FnOnce(&ControllerContext<'_>) -> T) -> T {
    decide(&ControllerContext {
        min_in_sync: &|_| 1,
        unclean_election: &|_| false,
        write_caching: &|_| false,
    })
}

fn incarnation(node: i32) -> Uuid {
    Uuid([node as u8 + 1; 16])
}

fn commit(image: &mut Image, records: &[Record]) {
    records.iter().for_each(|record| image.apply(record).unwrap());
}

fn register(image: &mut Image, node: i32, rack: Option<String>) {
    let endpoint = Endpoint { listener: "R".to_owned(), host: "h".to_owned(), port: 1, security_protocol: 0 };
    let registered = Record::BrokerRegistered {
        broker_id: NodeId(node),
        incarnation: incarnation(node),
        leader_epoch_base: 0,
        rack,
        endpoints: vec![endpoint],
    };
    commit(image, &[registered]);
}

/// As many brokers as there are racks, `-` for none, from 0 on.
fn brokers(racks: &[&str]) -> Image {
    let mut image = Image::default();
    commit(&mut image, &[Record::ClusterIdMinted { cluster_id: Uuid([9; 16]) }]);
    for (node, rack) in (0..).zip(racks) {
        register(&mut image, node, (*rack != "-").then(|| (*rack).to_owned()));
    }
    image
}

fn create(image: &mut Image, number: u8, partitions: &[Vec<i32>]) {
    let placement = partitions.iter().map(|replicas| PlacementRun {
        partition_count: 1,
        leader_epoch: LeaderEpoch(0),
        replicas: replicas.iter().copied().map(NodeId).collect(),
    });
    let (topic_id, name) = (Uuid([number; 16]), format!("topic-{number}"));
    let placement = placement.collect();
    commit(image, &[Record::TopicCreated { topic_id, name, configs: BTreeMap::new(), placement }]);
}

fn drain(image: &mut Image, node: i32, drained: bool) {
    let configs =
        if drained { BTreeMap::from([(DRAINED.to_owned(), "true".to_owned())]) } else { BTreeMap::new() };
    commit(image, &[Record::BrokerConfigsReplaced { broker_id: Some(NodeId(node)), configs }]);
}

fn fence(image: &mut Image, node: i32) {
    let plan = with_context(|context| image.decide_fence_broker(NodeId(node), context));
    commit(image, &plan.records);
}

fn plan(image: &Image, gone: &BTreeSet<NodeId>, limits: &BalanceLimits) -> ReplicaBalance {
    with_context(|context| image.decide_balance_replicas(gone, limits, context))
}

fn partitions(image: &Image) -> Vec<(TopicPartition, PartitionState)> {
    let mut all = Vec::new();
    for topic in image.topics() {
        for partition in (0..topic.partition_count()).map(PartitionIndex) {
            let key = TopicPartition { topic_id: topic.id, partition };
            all.push((key, image.partition(topic, partition).unwrap().to_state()));
        }
    }
    all
}

fn goals(image: &Image) -> Goals {
    let goal = |(key, mut state): (TopicPartition, PartitionState)| {
        state.replicas.retain(|node| !state.removing.contains(node));
        (key, state.replicas)
    };
    partitions(image).into_iter().map(goal).collect()
}

fn moves(state: &PartitionState) -> bool {
    !state.adding.is_empty() || !state.removing.is_empty()
}

/// The leader of a partition takes all replicas that live into its in-sync set.
fn catch_up(image: &mut Image, key: TopicPartition) {
    let topic = image.topic_by_id(key.topic_id).unwrap();
    let state = image.partition(topic, key.partition).unwrap().to_state();
    if state.leader == NO_LEADER {
        return;
    }
    let alive = state.replicas.iter().filter(|node| image.broker(**node).is_some_and(|one| one.is_active()));
    let proposal = InSyncProposal {
        partition: key,
        leader_epoch: state.leader_epoch,
        partition_epoch: state.partition_epoch,
        in_sync: alive.map(|&node| (node, incarnation(node.0))).collect(),
    };
    let sender = (state.leader, incarnation(state.leader.0));
    let decided = with_context(|context| image.decide_alter_partition(sender, &[proposal], context)).unwrap();
    assert!(decided.results[0].is_ok(), "{:?}", decided.results);
    commit(image, &decided.plan.records);
}

/// A cluster, and who of it is to hold nothing.
struct Cluster {
    image: Image,
    gone: BTreeSet<NodeId>,
    limits: BalanceLimits,
}

impl Cluster {
    fn of(image: Image) -> Self {
        Self { image, gone: BTreeSet::new(), limits: LIMITS }
    }

    fn plan(&self) -> ReplicaBalance {
        plan(&self.image, &self.gone, &self.limits)
    }

    fn is_leaving(&self, node: NodeId) -> bool {
        let broker = self.image.broker(node);
        self.image.is_drained(node) || broker.is_none_or(|broker| broker.fenced && self.gone.contains(&node))
    }

    fn receivers(&self) -> Vec<NodeId> {
        let all = self.image.brokers().map(|broker| broker.id);
        all.filter(|&node| !self.is_leaving(node)).collect()
    }

    fn rack(&self, node: NodeId) -> Result<Option<String>, NodeId> {
        self.image.broker(node).map(|broker| broker.rack.clone()).ok_or(node)
    }

    fn crowding(&self, replicas: &[NodeId]) -> usize {
        let racks: BTreeSet<_> = replicas.iter().map(|&node| self.rack(node)).collect();
        replicas.len() - racks.len()
    }

    /// What must fall with every move, read in this order.
    fn potential(&self, goals: &Goals) -> [usize; 4] {
        let (mut held, mut preferred) = (BTreeMap::new(), BTreeMap::new());
        let (mut leaving, mut crowding) = (0, 0);
        for replicas in goals.values() {
            leaving += replicas.iter().filter(|&&node| self.is_leaving(node)).count();
            crowding += self.crowding(replicas);
            replicas.iter().for_each(|&node| *held.entry(node).or_insert(0_usize) += 1);
            *preferred.entry(replicas[0]).or_insert(0_usize) += 1;
        }
        let squares = |counts: BTreeMap<NodeId, usize>| counts.values().map(|count| count * count).sum();
        [leaving, crowding, squares(held), squares(preferred)]
    }

    /// Plans once, and checks every step of the plan.
    fn step(&mut self) -> ReplicaBalance {
        let decided = self.plan();
        let mut now = goals(&self.image);
        let receivers = self.receivers();
        let racks: BTreeSet<_> = receivers.iter().map(|&node| self.rack(node)).collect();
        for ReplicaMove { partition, replicas } in &decided.moves {
            let before = self.potential(&now);
            let old = now.insert(*partition, replicas.clone()).unwrap();
            let after = self.potential(&now);
            assert!(after < before, "{old:?} to {replicas:?} is no progress: {before:?} to {after:?}");
            let (is_set, added): (BTreeSet<_>, Vec<_>) =
                (replicas.iter().collect(), replicas.iter().filter(|node| !old.contains(node)).collect());
            assert_eq!((replicas.len(), is_set.len()), (old.len(), old.len()));
            assert!(added.iter().all(|node| receivers.contains(node)), "{replicas:?} of {receivers:?}");
            let most = self.crowding(&old).max(old.len().saturating_sub(racks.len()));
            assert!(self.crowding(replicas) <= most, "{old:?} to {replicas:?} shares more racks");
        }
        commit(&mut self.image, &decided.plan.records);
        if !decided.moves.is_empty() {
            self.check_limits();
        }
        decided
    }

    fn check_limits(&self) {
        let mut busy: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut moving = 0;
        for (_, state) in partitions(&self.image).into_iter().filter(|(_, state)| moves(state)) {
            moving += 1;
            let part: BTreeSet<NodeId> =
                state.adding.iter().chain(&state.removing).chain([&state.leader]).copied().collect();
            part.into_iter().for_each(|node| *busy.entry(node).or_default() += 1);
        }
        assert!(moving <= self.limits.moves, "{moving} partitions move");
        busy.retain(|&node, _| self.image.broker(node).is_some_and(|broker| broker.is_active()));
        let most = busy.values().copied().max().unwrap_or(0);
        assert!(most <= self.limits.moves_per_broker, "{busy:?}");
    }

    /// Lets it come to rest; returns how many replicas were moved.
    fn settle(&mut self, random: &mut Random) -> usize {
        let mut copied = 0;
        for _ in 0..3_000 {
            let before = goals(&self.image);
            let decided = self.step();
            assert_eq!(decided.hold, None, "{:?}", partitions(&self.image));
            let added = |one: &ReplicaMove| {
                let old = &before[&one.partition];
                one.replicas.iter().filter(|node| !old.contains(node)).count()
            };
            copied += decided.moves.iter().map(added).sum::<usize>();
            let moving: Vec<TopicPartition> = partitions(&self.image)
                .into_iter()
                .filter(|(_, state)| moves(state))
                .map(|(key, _)| key)
                .collect();
            if moving.is_empty() && decided.moves.is_empty() {
                assert_eq!(decided.moving, 0);
                return copied;
            }
            moving.into_iter().filter(|_| random.chance(60)).for_each(|key| catch_up(&mut self.image, key));
        }
        panic!("it does not come to rest: {:?}", self.potential(&goals(&self.image)));
    }

    /// At rest no replica that could go elsewhere is where it should not be, and no single move would help.
    fn check_rest(&self) {
        let (goals, receivers) = (goals(&self.image), self.receivers());
        let led: BTreeSet<TopicPartition> = partitions(&self.image)
            .into_iter()
            .filter(|(_, state)| state.leader != NO_LEADER)
            .map(|(key, _)| key)
            .collect();
        let before = self.potential(&goals);
        let mut held: BTreeMap<NodeId, usize> = BTreeMap::new();
        goals.values().flatten().for_each(|&node| *held.entry(node).or_default() += 1);
        for (key, replicas) in goals.iter().filter(|(key, _)| led.contains(key)) {
            for (at, &to) in (0..replicas.len()).flat_map(|at| receivers.iter().map(move |to| (at, to))) {
                if replicas.contains(&to) {
                    continue;
                }
                let mut other = goals.clone();
                other.get_mut(key).unwrap()[at] = to;
                // How often somebody is the preferred leader is no reason to copy anything.
                let (old, new) = (&before[..3], &self.potential(&other)[..3]);
                assert!(new >= old, "{key:?} at {replicas:?} had better be on {to}: {old:?}, {new:?}");
            }
        }
    }
}

fn drawn(random: &mut Random) -> Cluster {
    let count = 1 + random.below(9) as i32;
    let racks = random.below(5);
    let mut image = brokers(&[]);
    for node in 0..count {
        let number = random.below(racks.max(1));
        register(&mut image, node, (racks > 0 && !random.chance(5)).then(|| format!("rack-{number}")));
    }
    for number in 1..=1 + random.below(4) as u8 {
        let factor = 1 + random.below(3.min(count as u64)) as usize;
        // Some topics were made when there were fewer brokers.
        let known = (factor as u64).max(1 + random.below(count as u64)) as i32;
        let mut partitions = Vec::new();
        for _ in 0..1 + random.below(15) {
            let mut nodes: Vec<i32> = (0..known).collect();
            for last in (1..nodes.len()).rev() {
                nodes.swap(last, random.below(last as u64 + 1) as usize);
            }
            nodes.truncate(factor);
            partitions.push(nodes);
        }
        create(&mut image, number, &partitions);
    }
    let mut cluster = Cluster::of(image);
    for node in 0..count {
        if random.chance(15) {
            drain(&mut cluster.image, node, true);
        }
        if random.chance(15) {
            fence(&mut cluster.image, node);
            cluster.gone.insert(NodeId(node));
        } else if random.chance(4) {
            let forgotten =
                with_context(|context| cluster.image.decide_unregister_broker(NodeId(node), context));
            commit(&mut cluster.image, &forgotten.unwrap().records);
        }
    }
    let limits = &mut cluster.limits;
    (limits.moves, limits.moves_per_broker) = (1 + random.below(6) as usize, 1 + random.below(4) as usize);
    cluster
}

#[test]
fn every_cluster_comes_to_rest_and_each_move_is_progress() {
    let (mut copied, mut clusters) = (0, 0);
    for seed in 0..200 {
        let mut random = Random::seeded(seed);
        let mut cluster = drawn(&mut random);
        copied += cluster.settle(&mut random);
        cluster.check_rest();
        // A broker is added, or one is drained, or taken back, while nothing else happens.
        let node = random.below(10) as i32;
        if cluster.image.broker(NodeId(node)).is_none() {
            let is_new = cluster.image.forgotten_epoch_base(NodeId(node)).is_none();
            register(&mut cluster.image, if is_new { node } else { 10 }, None);
        } else {
            let drained = cluster.image.is_drained(NodeId(node));
            drain(&mut cluster.image, node, !drained);
        }
        copied += cluster.settle(&mut random);
        cluster.check_rest();
        clusters += 1;
    }
    assert!(copied > 5 * clusters, "only {copied} replicas were moved");
}

/// Partitions with so many replicas each, round the brokers.
fn round(count: i32, replicas: i32, brokers: i32) -> Vec<Vec<i32>> {
    (0..count).map(|index| (0..replicas).map(|step| (index + step) % brokers).collect()).collect()
}

fn held(image: &Image, node: i32) -> usize {
    goals(image).values().flatten().filter(|held| held.0 == node).count()
}

fn preferred(image: &Image, node: i32) -> usize {
    goals(image).values().filter(|replicas| replicas[0].0 == node).count()
}

#[test]
fn a_new_broker_gets_its_part_and_nothing_else_moves() {
    let mut image = brokers(&["-", "-", "-"]);
    create(&mut image, 1, &round(12, 3, 3));
    create(&mut image, 2, &round(12, 2, 3));
    let mut cluster = Cluster::of(image);
    assert_eq!(cluster.step().moves, [], "it is even");
    register(&mut cluster.image, 3, None);
    let copied = cluster.settle(&mut Random::seeded(1));
    assert_eq!(copied, 15, "60 replicas on four brokers");
    let of_each: Vec<_> =
        (0..4).map(|node| (held(&cluster.image, node), preferred(&cluster.image, node))).collect();
    assert_eq!(of_each, [(15, 6); 4]);
    let of_first = goals(&cluster.image)
        .iter()
        .filter(|(key, replicas)| key.topic_id == Uuid([1; 16]) && replicas.contains(&NodeId(3)))
        .count();
    assert!(
        (7..=10).contains(&of_first),
        "it has {of_first} of the 9 that it should have of the larger topic"
    );
}

#[test]
fn who_is_drained_is_left_with_nothing_and_gets_its_part_again() {
    let mut image = brokers(&["a", "a", "b", "b", "c", "c"]);
    create(
        &mut image,
        1,
        &(0..12).map(|index| vec![index % 2, 2 + index % 2, 4 + index % 2]).collect::<Vec<_>>(),
    );
    let mut cluster = Cluster::of(image);
    drain(&mut cluster.image, 5, true);
    assert_eq!(cluster.settle(&mut Random::seeded(2)), 6);
    assert_eq!((held(&cluster.image, 5), held(&cluster.image, 4)), (0, 12), "its rack has only one other");
    let mut restored = Image::default();
    cluster.image.to_records().for_each(|record| restored.apply(&record).unwrap());
    assert!(restored.is_drained(NodeId(5)) && !restored.is_drained(NodeId(4)));
    drain(&mut cluster.image, 5, false);
    assert_eq!(cluster.settle(&mut Random::seeded(3)), 6);
    assert_eq!((held(&cluster.image, 5), held(&cluster.image, 4)), (6, 6));
}

#[test]
fn who_is_dead_is_waited_for_until_it_is_gone() {
    let mut image = brokers(&["-", "-", "-", "-"]);
    create(&mut image, 1, &round(8, 2, 3));
    let mut cluster = Cluster::of(image);
    fence(&mut cluster.image, 1);
    assert_eq!(cluster.step().hold, Some(BalanceHold::Fenced(NodeId(1))));
    cluster.gone.insert(NodeId(1));
    cluster.settle(&mut Random::seeded(4));
    assert_eq!((held(&cluster.image, 1), held(&cluster.image, 3)), (0, 5));
    let back =
        with_context(|context| cluster.image.decide_unfence_broker(NodeId(1), incarnation(1), context));
    commit(&mut cluster.image, &back.unwrap().records);
    cluster.settle(&mut Random::seeded(5));
    assert_eq!(held(&cluster.image, 1), 4, "who is heard from is not gone, whoever says so");
}

#[test]
fn nothing_begins_while_something_else_is_wrong() {
    let mut image = brokers(&["-", "-", "-"]);
    create(&mut image, 1, &round(6, 2, 2));
    let cluster = |change: &dyn Fn(&mut Image)| {
        let mut cluster = Cluster::of(image.clone());
        change(&mut cluster.image);
        cluster.plan()
    };
    assert!(!cluster(&|_| {}).moves.is_empty());
    let stops = cluster(&|image| {
        let node = NodeId(2);
        let plan = with_context(|context| image.decide_controlled_shutdown(node, incarnation(2), context));
        commit(image, &plan.unwrap().plan.records);
    });
    assert_eq!((stops.hold, stops.moves), (Some(BalanceHold::Stopping(NodeId(2))), vec![]));
    let lags = cluster(&|image| {
        fence(image, 1);
        let plan = with_context(|context| image.decide_unfence_broker(NodeId(1), incarnation(1), context));
        commit(image, &plan.unwrap().records);
    });
    assert!(matches!(lags.hold, Some(BalanceHold::UnderReplicated(_))) && lags.plan.records.is_empty());
}

#[test]
fn a_move_to_who_has_died_goes_elsewhere() {
    let mut image = brokers(&["-", "-", "-", "-"]);
    create(&mut image, 1, &[vec![0, 1]]);
    let mut cluster = Cluster::of(image);
    drain(&mut cluster.image, 1, true);
    let begun = cluster.step();
    assert_eq!(begun.moves[0].replicas, [NodeId(0), NodeId(2)]);
    assert_eq!((cluster.step().moves, cluster.plan().moving), (vec![], 1), "it is under way");
    fence(&mut cluster.image, 2);
    assert_eq!(cluster.step().hold, Some(BalanceHold::Fenced(NodeId(2))));
    cluster.gone.insert(NodeId(2));
    assert_eq!(cluster.step().moves[0].replicas, [NodeId(0), NodeId(3)]);
    cluster.settle(&mut Random::seeded(6));
    assert_eq!(goals(&cluster.image).values().next().unwrap(), &[NodeId(0), NodeId(3)]);
}

#[test]
fn small_differences_are_not_worth_a_move() {
    let mut image = brokers(&["-", "-", "-"]);
    create(&mut image, 1, &[round(100, 1, 2), round(30, 1, 3), vec![vec![2]; 38]].concat());
    let mut cluster = Cluster::of(image);
    cluster.limits.threshold_percent = 30;
    assert_eq!((held(&cluster.image, 0), held(&cluster.image, 2)), (60, 48));
    assert_eq!(cluster.step().moves, []);
    cluster.limits.threshold_percent = 5;
    let copied = cluster.settle(&mut Random::seeded(7));
    assert!((6..=8).contains(&copied), "{copied}");
}

#[test]
fn what_nobody_can_take_stays() {
    let mut image = brokers(&["-", "-", "-"]);
    create(&mut image, 1, &[vec![0, 1, 2]]);
    create(&mut image, 2, &[vec![2]]);
    let mut cluster = Cluster::of(image);
    drain(&mut cluster.image, 1, true);
    fence(&mut cluster.image, 2);
    cluster.gone.insert(NodeId(2));
    let decided = cluster.step();
    assert_eq!((decided.moves, decided.hold), (vec![], None));
    assert_eq!(decided.stuck, 3, "two of which all others have copies, and one that nobody leads");
}

#[test]
fn new_partitions_pass_over_who_is_drained() {
    let mut image = brokers(&["-", "-", "-"]);
    drain(&mut image, 1, true);
    let topic = |name: &str, factor| NewTopic {
        name: name.to_owned(),
        partition_count: 6,
        replication_factor: factor,
        assignments: Vec::new(),
        configs: Vec::new(),
    };
    let context = CreateTopicsContext {
        default_partition_count: 1,
        default_replication_factor: 1,
        check_configs: &|_| Ok(()),
        random_bits: &[7, 8],
    };
    let made = image.decide_create_topics(&[topic("two", 2), topic("three", 3)], false, &context);
    commit(&mut image, &made.records);
    assert_eq!(held(&image, 1), 6, "only where there are not enough others");
    let forgotten = with_context(|context| image.decide_unregister_broker(NodeId(1), context)).unwrap();
    commit(&mut image, &forgotten.records);
    assert!(!image.is_drained(NodeId(1)), "its id may be given to another one");
}
