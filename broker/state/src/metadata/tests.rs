//! Decisions and the image they are made against, together.

use std::collections::BTreeMap;
use std::sync::Arc;

use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, ProducerId, TopicId, TopicPartition, Uuid};

use super::*;
use crate::test_random::Random;

const CLUSTER: Uuid = Uuid([9; 16]);

fn endpoint() -> Endpoint {
    let (listener, host) = ("PLAINTEXT".to_owned(), "localhost".to_owned());
    Endpoint { listener, host, port: 9092, security_protocol: 0 }
}

fn registration(broker: i32, incarnation: u8) -> BrokerRegistration {
    BrokerRegistration {
        broker_id: NodeId(broker),
        cluster_id: CLUSTER,
        incarnation: Uuid([incarnation; 16]),
        rack: None,
        endpoints: vec![endpoint()],
    }
}

fn register(image: &mut Image, broker: i32, incarnation: u8) {
    let record = image.decide_register_broker(&registration(broker, incarnation), false).unwrap();
    image.apply(&record).unwrap();
}

fn image_of(brokers: i32) -> Image {
    let mut image = Image::default();
    image.apply(&Record::ClusterIdMinted { cluster_id: CLUSTER }).unwrap();
    (0..brokers).for_each(|broker| register(&mut image, broker, 1));
    image
}

fn topic(name: &str, partition_count: i32, replication_factor: i16) -> NewTopic {
    let (assignments, configs) = (Vec::new(), Vec::new());
    NewTopic { name: name.to_owned(), partition_count, replication_factor, assignments, configs }
}

fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> NewTopic {
    let assignment = |&(partition, replicas): &(i32, &[i32])| PartitionAssignment {
        partition,
        replicas: replicas.iter().copied().map(NodeId).collect(),
    };
    NewTopic { assignments: assignments.iter().map(assignment).collect(), ..topic(name, -1, -1) }
}

fn with_config(name: &str, config: &str, value: Option<&str>) -> NewTopic {
    NewTopic { configs: vec![(config.to_owned(), value.map(str::to_owned))], ..topic(name, 1, 1) }
}

fn check_configs(configs: &BTreeMap<String, String>) -> Result<(), String> {
    match configs.iter().find(|(name, value)| (name.as_str(), value.as_str()) != ("retention.ms", "1000")) {
        None => Ok(()),
        Some((name, value)) => Err(format!("{name}={value} is wrong")),
    }
}

fn decide(image: &Image, topics: &[NewTopic], validate_only: bool) -> CreateTopicsPlan {
    decide_with(image, topics, validate_only, &mut Random::seeded(image.topic_count() as u64))
}

fn decide_with(
    image: &Image,
    topics: &[NewTopic],
    validate_only: bool,
    random: &mut Random,
) -> CreateTopicsPlan {
    let mut bits = || (u128::from(random.bits()) << 64) | u128::from(random.bits());
    let random_bits: Vec<u128> = topics.iter().map(|_| bits()).collect();
    let context = CreateTopicsContext {
        default_partition_count: 3,
        default_replication_factor: 1,
        check_configs: &check_configs,
        random_bits: &random_bits,
    };
    image.decide_create_topics(topics, validate_only, &context)
}

fn create(image: &mut Image, topics: &[NewTopic]) -> Vec<CreatedTopic> {
    let plan = decide(image, topics, false);
    plan.records.iter().for_each(|record| image.apply(record).unwrap());
    plan.results.into_iter().map(|result| result.result.unwrap()).collect()
}

fn error_of(image: &Image, topic: NewTopic) -> CreateTopicErrorKind {
    let plan = decide(image, &[topic], false);
    assert!(plan.records.is_empty());
    plan.results[0].result.as_ref().unwrap_err().kind
}

fn epoch(image: &Image, topic_id: TopicId, partition: i32) -> i32 {
    image.leader_epoch(TopicPartition { topic_id, partition: PartitionIndex(partition) }).unwrap().0
}

#[test]
fn a_created_topic_is_found_by_name_and_id() {
    let mut image = image_of(1);
    let created = create(&mut image, &[topic("a", 4, 1), topic("b", -1, -1)]);
    assert_eq!((created[0].partition_count, created[0].replication_factor), (4, 1));
    assert_eq!((created[1].partition_count, created[1].replication_factor), (3, 1));
    assert_ne!(created[0].topic_id, created[1].topic_id);
    let a = image.topic_by_name("a").unwrap();
    assert!(Arc::ptr_eq(a, image.topic_by_id(created[0].topic_id).unwrap()));
    let partition = image.partition(a, PartitionIndex(3)).unwrap();
    assert_eq!((partition.leader, partition.leader_epoch), (NodeId(0), LeaderEpoch(0)));
    assert_eq!(partition.replicas, [NodeId(0)]);
    assert_eq!(image.partition(a, PartitionIndex(4)), None);
    assert_eq!(image.partition_count(), 7);
    let names: Vec<_> = image.topics_from("aa").map(|topic| topic.name.to_string()).collect();
    assert_eq!(names, ["b"]);
}

#[test]
fn each_refusal_has_its_error() {
    use CreateTopicErrorKind as Kind;
    let mut image = image_of(2);
    create(&mut image, &[topic("taken", 1, 1), topic("under_score", 1, 1)]);
    for (topic, kind) in [
        (topic("taken", 1, 1), Kind::TopicAlreadyExists),
        (topic("under_score", 1, 1), Kind::TopicAlreadyExists),
        (topic("under.score", 1, 1), Kind::InvalidTopic),
        (topic("a/b", 1, 1), Kind::InvalidTopic),
        (topic("", 1, 1), Kind::InvalidTopic),
        (topic("..", 1, 1), Kind::InvalidTopic),
        (topic("__cluster_metadata", 1, 1), Kind::InvalidRequest),
        (topic("n", 0, 1), Kind::InvalidPartitions),
        (topic("n", -2, 1), Kind::InvalidPartitions),
        (topic("n", 1_000_001, 1), Kind::InvalidPartitions),
        (topic("n", 1, 0), Kind::InvalidReplicationFactor),
        (topic("n", 1, -2), Kind::InvalidReplicationFactor),
        (topic("n", 1, 3), Kind::InvalidReplicationFactor),
        (topic("n", 0, 0), Kind::InvalidReplicationFactor),
        (with_config("n", "retention.ms", None), Kind::InvalidConfig),
        (with_config("n", "retention.ms", Some("x")), Kind::InvalidConfig),
        (assigned("n", &[(0, &[0]), (0, &[1])]), Kind::InvalidReplicaAssignment),
        (assigned("n", &[(0, &[])]), Kind::InvalidReplicaAssignment),
        (assigned("n", &[(0, &[2])]), Kind::InvalidReplicaAssignment),
        (assigned("n", &[(0, &[1, 1])]), Kind::InvalidReplicaAssignment),
        (assigned("n", &[(0, &[1]), (1, &[1, 0])]), Kind::InvalidReplicaAssignment),
        (assigned("n", &[(0, &[1]), (2, &[1])]), Kind::InvalidReplicaAssignment),
        (assigned("n", &[(-1, &[1]), (0, &[1])]), Kind::InvalidReplicaAssignment),
        (NewTopic { partition_count: 1, ..assigned("n", &[(0, &[1])]) }, Kind::InvalidRequest),
        (NewTopic { replication_factor: 1, ..assigned("n", &[(0, &[1])]) }, Kind::InvalidRequest),
    ] {
        assert_eq!(error_of(&image, topic.clone()), kind, "{topic:?}");
    }
    assert_eq!(error_of(&image_of(0), topic("n", 1, 1)), Kind::InvalidReplicationFactor);
}

#[test]
fn topics_of_one_request_succeed_or_fail_by_themselves() {
    let image = image_of(1);
    let topics = [
        topic("twice", 1, 1),
        with_config("good", "retention.ms", Some("1000")),
        topic("twice", 2, 1),
        topic("x.y", 1, 1),
        topic("x_y", 1, 1),
        assigned("placed", &[(1, &[0]), (0, &[0])]),
    ];
    let plan = decide(&image, &topics, false);
    let answers: Vec<_> = plan
        .results
        .iter()
        .map(|result| {
            (
                result.name.as_str(),
                result.result.as_ref().map(|topic| topic.partition_count).map_err(|error| error.kind),
            )
        })
        .collect();
    let expected = [
        ("twice", Err(CreateTopicErrorKind::InvalidRequest)),
        ("good", Ok(1)),
        ("x.y", Ok(1)),
        ("x_y", Err(CreateTopicErrorKind::InvalidTopic)),
        ("placed", Ok(2)),
    ];
    assert_eq!(answers, expected);
    assert_eq!(plan.records.len(), 3);
    let validated = decide(&image, &topics, true);
    assert_eq!(validated.results, plan.results);
    assert!(validated.records.is_empty());
    assert!(
        plan.results
            .iter()
            .flat_map(|result| &result.result)
            .all(|topic| !topic.topic_id.to_string().starts_with('-'))
    );
}

#[test]
fn deletion_takes_names_and_ids_once_each() {
    let mut image = image_of(1);
    let ids: Vec<_> =
        create(&mut image, &[topic("a.a", 2, 1), topic("b", 1, 1), topic("c", 1, 1), topic("d", 1, 1)])
            .iter()
            .map(|created| created.topic_id)
            .collect();
    let name = |name: &str| TopicSelector::Name(name.to_owned());
    let plan = image.decide_delete_topics(&[
        name("a.a"),
        TopicSelector::Id(ids[1]),
        name("c"),
        name("c"),
        name("d"),
        TopicSelector::Id(ids[3]),
        name("e"),
        TopicSelector::Id(Uuid([7; 16])),
        TopicSelector::Id(Uuid::ZERO),
        name("f"),
        name("f"),
    ]);
    let results: Vec<_> = plan.results.iter().map(|result| result.result).collect();
    let repeated = Err(DeleteTopicError::Repeated);
    assert_eq!(results[..3], [Ok(()), Ok(()), repeated]);
    assert_eq!(results[3..5], [repeated, repeated]);
    assert_eq!(results[5], Err(DeleteTopicError::UnknownTopicName));
    assert_eq!(results[6], Err(DeleteTopicError::UnknownTopicId));
    assert_eq!(results[7], Err(DeleteTopicError::NoTopicId));
    assert_eq!(results[8..], [repeated]);
    assert_eq!((plan.results[0].topic_id, plan.results[1].name.as_deref()), (ids[0], Some("b")));
    assert_eq!(plan.records.len(), 2);
    let before = image.clone();
    plan.records.iter().for_each(|record| image.apply(record).unwrap());
    assert_eq!((image.topic_count(), image.partition_count()), (2, 2));
    assert_eq!((before.topic_count(), before.partition_count()), (4, 5), "a shared image does not change");
    assert!(image.topic_by_name("b").is_none() && image.topic_by_id(ids[0]).is_none());
    let again = create(&mut image, &[topic("a_a", 1, 1)]);
    assert_ne!(again[0].topic_id, ids[0]);
}

#[test]
fn a_new_incarnation_raises_every_epoch_it_leads() {
    let mut image = image_of(2);
    let old = create(&mut image, &[assigned("old", &[(0, &[0, 1]), (1, &[1, 0])])])[0].topic_id;
    assert_eq!((epoch(&image, old, 0), epoch(&image, old, 1)), (0, 0));
    register(&mut image, 0, 2);
    assert_eq!((epoch(&image, old, 0), epoch(&image, old, 1)), (1, 0), "only what broker 0 leads");
    register(&mut image, 0, 2);
    assert_eq!(epoch(&image, old, 0), 1, "the same incarnation again raises nothing");
    let new = create(&mut image, &[assigned("new", &[(0, &[0])])])[0].topic_id;
    assert_eq!(epoch(&image, new, 0), 0);
    register(&mut image, 0, 3);
    assert_eq!((epoch(&image, old, 0), epoch(&image, new, 0)), (2, 1));
}

#[test]
fn registration_is_refused_to_strangers_and_twins() {
    let mut image = image_of(1);
    let refused = |image: &Image, registration: &BrokerRegistration, alive| {
        image.decide_register_broker(registration, alive).unwrap_err()
    };
    let stranger = BrokerRegistration { cluster_id: Uuid([1; 16]), ..registration(5, 1) };
    assert_eq!(
        refused(&image, &stranger, false),
        RegisterBrokerError::InconsistentClusterId { expected: Some(CLUSTER) }
    );
    assert_eq!(
        refused(&Image::default(), &registration(5, 1), false),
        RegisterBrokerError::InconsistentClusterId { expected: None }
    );
    let twin = registration(0, 2);
    assert_eq!(refused(&image, &twin, true), RegisterBrokerError::DuplicateBroker { broker_id: NodeId(0) });
    assert!(image.decide_register_broker(&registration(0, 1), true).is_ok(), "the same process");
    for wrong in [
        registration(-1, 1),
        registration(5, 0),
        BrokerRegistration { endpoints: vec![], ..registration(5, 1) },
    ] {
        assert_eq!(refused(&image, &wrong, false), RegisterBrokerError::InvalidRegistration);
    }
    let last = Record::BrokerRegistered {
        broker_id: NodeId(0),
        incarnation: Uuid([3; 16]),
        leader_epoch_base: i32::MAX,
        rack: None,
        endpoints: vec![endpoint()],
    };
    image.apply(&last).unwrap();
    assert_eq!(refused(&image, &twin, false), RegisterBrokerError::EpochsExhausted);
}

#[test]
fn producer_ids_are_given_out_once() {
    let mut image = image_of(1);
    let (record, mut first) = image.decide_allocate_producer_ids(NodeId(0)).unwrap();
    image.apply(&record).unwrap();
    let (record_again, second) = image.decide_allocate_producer_ids(NodeId(0)).unwrap();
    assert_eq!((first.first, second.first), (ProducerId(0), ProducerId(1000)));
    let taken: Vec<i64> = std::iter::from_fn(|| first.take()).map(|id| id.0).collect();
    assert!(taken.into_iter().eq(0..1000));
    assert_eq!(image.apply(&record), Err(ApplyError::ProducerIds { next_producer_id: 1000 }));
    image.apply(&record_again).unwrap();
    let unknown = image.decide_allocate_producer_ids(NodeId(4));
    assert_eq!(unknown, Err(ProducerIdsError::BrokerNotRegistered(NodeId(4))));
    let nearly_all = Record::ProducerIdsAllocated { broker_id: NodeId(0), next_producer_id: i64::MAX - 5 };
    image.apply(&nearly_all).unwrap();
    assert_eq!(image.decide_allocate_producer_ids(NodeId(0)), Err(ProducerIdsError::Exhausted));
}

#[test]
fn contradicting_records_change_nothing() {
    let mut image = image_of(1);
    let created = create(&mut image, &[topic("a", 1, 1)]);
    let topic_id = created[0].topic_id;
    let before = image.clone();
    let record = |topic_id, name: &str, replicas: &[i32]| Record::TopicCreated {
        topic_id,
        name: name.to_owned(),
        configs: BTreeMap::new(),
        placement: vec![PlacementRun {
            partition_count: 1,
            leader_epoch: LeaderEpoch(0),
            replicas: replicas.iter().copied().map(NodeId).collect(),
        }],
    };
    let other = Uuid([3; 16]);
    let broker = |base, incarnation: u8| Record::BrokerRegistered {
        broker_id: NodeId(0),
        incarnation: Uuid([incarnation; 16]),
        leader_epoch_base: base,
        rack: None,
        endpoints: vec![endpoint()],
    };
    for (record, error) in [
        (Record::ClusterIdMinted { cluster_id: other }, ApplyError::ClusterId { current: CLUSTER }),
        (record(topic_id, "b", &[0]), ApplyError::TopicExists { topic_id }),
        (record(other, "a", &[0]), ApplyError::TopicExists { topic_id: other }),
        (record(other, "b", &[]), ApplyError::Placement { topic_id: other }),
        (Record::TopicDeleted { topic_id: other }, ApplyError::NoSuchTopic { topic_id: other }),
        (
            Record::TopicConfigsReplaced { topic_id: other, configs: BTreeMap::new() },
            ApplyError::NoSuchTopic { topic_id: other },
        ),
        (broker(-1, 2), ApplyError::LeaderEpochBase { broker_id: NodeId(0), current: 0 }),
        (broker(0, 2), ApplyError::LeaderEpochBase { broker_id: NodeId(0), current: 0 }),
    ] {
        assert_eq!(image.apply(&record), Err(error), "{record:?}");
        assert_eq!(image, before);
    }
}

#[test]
fn replaced_configs_are_seen_by_name_and_id() {
    let mut image = image_of(1);
    let topic_id = create(&mut image, &[topic("a", 2, 1)])[0].topic_id;
    let configs = BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]);
    image.apply(&Record::TopicConfigsReplaced { topic_id, configs: configs.clone() }).unwrap();
    assert_eq!(image.topic_by_name("a").unwrap().configs, configs);
    assert_eq!(image.topic_by_id(topic_id).unwrap().configs, configs);
    assert_eq!(image.topic_by_id(topic_id).unwrap().partition_count(), 2);
}

/// Random requests; then the encoded log and a snapshot must each give the image that the requests gave, and
/// no leader epoch may ever go back.
#[test]
fn log_and_snapshot_give_the_same_image() {
    for seed in 0..40 {
        let mut random = Random::seeded(seed);
        let mut image = image_of(3);
        let mut log: Vec<Vec<u8>> = image.to_records().map(|record| record.encode()).collect();
        for step in 0..120u8 {
            let name = format!("t{}", random.below(20));
            let records = match random.below(5) {
                0 => image.decide_delete_topics(&[TopicSelector::Name(name)]).records,
                1 => {
                    let broker = i32::try_from(random.below(3)).unwrap();
                    vec![image.decide_register_broker(&registration(broker, step + 2), false).unwrap()]
                }
                2 => vec![image.decide_allocate_producer_ids(NodeId(1)).unwrap().0],
                _ => {
                    let partitions = 1 + i32::try_from(random.below(5)).unwrap();
                    let replicas = 1 + i16::try_from(random.below(3)).unwrap();
                    decide_with(&image, &[topic(&name, partitions, replicas)], false, &mut random).records
                }
            };
            let before = image.clone();
            for record in records {
                log.push(record.encode());
                image.apply(&record).unwrap();
            }
            for topic in image.topics().filter(|topic| before.topic_by_id(topic.id).is_some()) {
                for partition in 0..topic.partition_count() {
                    let now = epoch(&image, topic.id, partition);
                    assert!(now >= epoch(&before, topic.id, partition), "seed {seed}");
                }
            }
        }
        let mut replayed = Image::default();
        log.iter().for_each(|bytes| replayed.apply(&Record::decode(bytes).unwrap()).unwrap());
        assert_eq!(replayed, image, "seed {seed}");
        let mut restored = Image::default();
        image.to_records().for_each(|record| restored.apply(&record).unwrap());
        assert!(restored.topics().eq(image.topics()), "seed {seed}");
        assert_eq!(restored, image, "seed {seed}");
    }
}

#[test]
fn a_hundred_thousand_topics_are_shared_not_copied() {
    let mut image = image_of(1);
    let topics: Vec<_> = (0..100_000).map(|index| topic(&format!("t{index:06}"), 1, 1)).collect();
    create(&mut image, &topics);
    let before = image.clone();
    create(&mut image, &[topic("t050000x", 1, 1)]);
    assert_eq!((before.topic_count(), image.topic_count()), (100_000, 100_001));
    assert!(image.topics().filter(|topic| before.topic_by_id(topic.id).is_some()).count() == 100_000);
    let shared = image
        .topics()
        .filter(|topic| before.topic_by_id(topic.id).is_some_and(|old| Arc::ptr_eq(old, topic)));
    assert_eq!(shared.count(), 100_000);
}
