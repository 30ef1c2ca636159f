//! What every assignment must have in common, over random groups.

use super::*;
use crate::test_random::Random;

const SEEDS: u64 = 300;

fn topic(number: u64) -> TopicId {
    TopicId::from_random(u128::from(number) + 1)
}

#[derive(Clone, Debug)]
struct Wish {
    member_id: String,
    instance_id: Option<String>,
    subscribed: Arc<BTreeSet<TopicId>>,
    before: Assignment,
}

fn demand<'a>(wishes: &'a [Wish], topics: &BTreeMap<TopicId, i32>) -> Demand<'a> {
    let members = wishes
        .iter()
        .map(|wish| Candidate {
            member_id: &wish.member_id,
            instance_id: wish.instance_id.as_deref(),
            subscribed: Arc::clone(&wish.subscribed),
            before: &wish.before,
        })
        .collect();
    Demand { members, topics: topics.clone() }
}

fn assign(assignor: Assignor, wishes: &mut [Wish], topics: &BTreeMap<TopicId, i32>) -> usize {
    let assignments = assignor.assign(&demand(wishes, topics));
    assert_eq!(assignments.len(), wishes.len());
    let mut moves = 0;
    for (wish, assignment) in wishes.iter_mut().zip(assignments) {
        moves += assignment.iter().filter(|&(topic, index)| !wish.before.contains(topic, index)).count();
        wish.before = assignment;
    }
    moves
}

fn check_each_partition_once(wishes: &[Wish], topics: &BTreeMap<TopicId, i32>, seed: u64) {
    let mut seen = BTreeSet::new();
    for wish in wishes {
        for (topic, partition) in wish.before.iter() {
            assert!(wish.subscribed.contains(&topic), "seed {seed}: nobody asked for it");
            assert!((0..topics[&topic]).contains(&partition.0), "seed {seed}: no such partition");
            assert!(seen.insert((topic, partition)), "seed {seed}: {topic}-{partition} twice");
        }
    }
    let wanted: BTreeSet<TopicId> = wishes.iter().flat_map(|wish| wish.subscribed.iter().copied()).collect();
    let total: i32 = wanted.iter().map(|topic| topics[topic]).sum();
    assert_eq!(seen.len(), usize::try_from(total).unwrap(), "seed {seed}: some partitions were forgotten");
}

fn spread(wishes: &[Wish]) -> usize {
    let sizes = || wishes.iter().map(|wish| wish.before.len());
    sizes().max().unwrap_or(0) - sizes().min().unwrap_or(0)
}

fn random_topics(random: &mut Random) -> BTreeMap<TopicId, i32> {
    (0..=random.below(5)).map(|number| (topic(number), i32::try_from(random.below(20)).unwrap())).collect()
}

fn wish(number: u64, subscribed: &Arc<BTreeSet<TopicId>>) -> Wish {
    Wish {
        member_id: format!("m{number:03}"),
        instance_id: None,
        subscribed: Arc::clone(subscribed),
        before: Assignment::default(),
    }
}

fn some_of(random: &mut Random, topics: &BTreeMap<TopicId, i32>) -> Arc<BTreeSet<TopicId>> {
    Arc::new(topics.keys().copied().filter(|_| random.chance(60)).collect())
}

/// The fewest moves that an even spread over members of equal wishes can do with.
fn fewest_moves(wishes: &[Wish], topics: &BTreeMap<TopicId, i32>) -> usize {
    let total: usize = wishes[0].subscribed.iter().map(|topic| usize::try_from(topics[topic]).unwrap()).sum();
    let (share, mut extras) = (total / wishes.len(), total % wishes.len());
    let mut kept = 0;
    for wish in wishes {
        let valid = |&(topic, index): &(TopicId, PartitionIndex)| {
            wish.subscribed.contains(&topic) && index.0 < topics[&topic]
        };
        let has = wish.before.iter().filter(valid).count();
        kept += has.min(share);
        if has > share && extras > 0 {
            extras -= 1;
            kept += 1;
        }
    }
    total - kept
}

#[test]
fn uniform_spreads_equal_wishes_evenly_with_the_fewest_moves() {
    for seed in 0..SEEDS {
        let mut random = Random::seeded(seed);
        let mut topics = random_topics(&mut random);
        let mut all = Arc::new(topics.keys().copied().collect::<BTreeSet<_>>());
        let mut wishes: Vec<Wish> = (0..=random.below(9)).map(|number| wish(number, &all)).collect();
        for step in 100..112 {
            let fewest = fewest_moves(&wishes, &topics);
            let moves = assign(Assignor::Uniform, &mut wishes, &topics);
            check_each_partition_once(&wishes, &topics, seed);
            assert!(spread(&wishes) <= 1, "seed {seed}: shares differ by more than one");
            assert_eq!(moves, fewest, "seed {seed}");
            assert_eq!(assign(Assignor::Uniform, &mut wishes, &topics), 0, "seed {seed}: moves for nothing");
            match random.below(4) {
                0 => wishes.push(wish(step, &all)),
                1 if wishes.len() > 1 => {
                    wishes.remove(usize::try_from(random.below(wishes.len() as u64)).unwrap());
                }
                2 => topics.values_mut().for_each(|count| *count += 3),
                _ => {
                    all = some_of(&mut random, &topics);
                    wishes.iter_mut().for_each(|wish| wish.subscribed = Arc::clone(&all));
                }
            }
        }
    }
}

#[test]
fn uniform_leaves_no_move_that_would_even_out_different_wishes() {
    for seed in 0..SEEDS {
        let mut random = Random::seeded(seed);
        let topics = random_topics(&mut random);
        let mut wishes: Vec<Wish> =
            (0..=random.below(9)).map(|number| wish(number, &some_of(&mut random, &topics))).collect();
        for step in 100..108 {
            assign(Assignor::Uniform, &mut wishes, &topics);
            check_each_partition_once(&wishes, &topics, seed);
            for giver in &wishes {
                for (topic, _) in giver.before.iter() {
                    let least = wishes.iter().filter(|wish| wish.subscribed.contains(&topic));
                    let least = least.map(|wish| wish.before.len()).min().unwrap();
                    assert!(giver.before.len() <= least + 1, "seed {seed}: {topic} could move");
                }
            }
            assert_eq!(assign(Assignor::Uniform, &mut wishes, &topics), 0, "seed {seed}: moves for nothing");
            let last = wish(step, &some_of(&mut random, &topics));
            wishes.push(last);
        }
    }
}

#[test]
fn range_gives_equal_numbers_of_equal_topics_to_one_member() {
    for seed in 0..SEEDS {
        let mut random = Random::seeded(seed);
        let partitions = i32::try_from(random.below(20)).unwrap();
        let topics: BTreeMap<TopicId, i32> = (0..3).map(|number| (topic(number), partitions)).collect();
        let all = Arc::new(topics.keys().copied().collect::<BTreeSet<_>>());
        let mut wishes: Vec<Wish> = (0..=random.below(9)).map(|number| wish(number, &all)).collect();
        assign(Assignor::Range, &mut wishes, &topics);
        check_each_partition_once(&wishes, &topics, seed);
        for wish in &wishes {
            for (_, partition) in wish.before.iter() {
                assert!((0..3).all(|number| wish.before.contains(topic(number), partition)), "seed {seed}");
            }
        }
    }
}

#[test]
fn range_serves_different_wishes() {
    for seed in 0..SEEDS {
        let mut random = Random::seeded(seed);
        let topics = random_topics(&mut random);
        let mut wishes: Vec<Wish> =
            (0..=random.below(9)).map(|number| wish(number, &some_of(&mut random, &topics))).collect();
        assign(Assignor::Range, &mut wishes, &topics);
        check_each_partition_once(&wishes, &topics, seed);
    }
}

#[test]
fn range_puts_static_members_first_by_instance_id() {
    let topics: BTreeMap<TopicId, i32> = [(topic(0), 3)].into();
    let all = Arc::new(topics.keys().copied().collect::<BTreeSet<_>>());
    let mut wishes = vec![wish(0, &all), wish(1, &all), wish(2, &all)];
    wishes[2].instance_id = Some("a".to_owned());
    wishes[1].instance_id = Some("b".to_owned());
    assign(Assignor::Range, &mut wishes, &topics);
    let first = |wish: &Wish| wish.before.iter().next().unwrap().1.0;
    assert_eq!(wishes.iter().map(first).collect::<Vec<_>>(), [2, 1, 0]);
}

#[test]
fn a_partition_that_two_members_claim_stays_with_one() {
    let topics: BTreeMap<TopicId, i32> = [(topic(0), 4)].into();
    let all = Arc::new(topics.keys().copied().collect::<BTreeSet<_>>());
    let mut wishes = vec![wish(0, &all), wish(1, &all)];
    for wish in &mut wishes {
        wish.before = [(topic(0), PartitionIndex(1))].into_iter().collect();
    }
    assign(Assignor::Uniform, &mut wishes, &topics);
    check_each_partition_once(&wishes, &topics, 0);
}

#[test]
fn assignors_are_found_by_name() {
    assert_eq!(Assignor::named("uniform"), Some(Assignor::Uniform));
    assert_eq!(Assignor::named("range"), Some(Assignor::Range));
    assert_eq!(Assignor::named("sticky"), None);
}
