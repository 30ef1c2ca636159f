//! CreatePartitions and DescribeTopicPartitions.

use super::{Fixture, NODE};
use crate::cluster::command::MetadataError;
use logmill_wire::api::create_partitions::{self, CreatePartitionsAssignment, CreatePartitionsTopic};
use logmill_wire::api::describe_topic_partitions::{Cursor, Request, TopicRequest};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, TopicId};

fn more<'a>(topics: &[(&'a str, i32)], validate_only: bool) -> create_partitions::Request<'a> {
    let topic = |&(name, count): &(&'a str, i32)| CreatePartitionsTopic {
        name: name.into(),
        count,
        assignments: None,
    };
    create_partitions::Request {
        topics: topics.iter().map(topic).collect(),
        timeout_ms: 3_000,
        validate_only,
    }
}

fn results(
    fixture: &Fixture,
    request: &create_partitions::Request<'_>,
    version: i16,
) -> Vec<(String, ErrorCode, Option<String>)> {
    fixture.ask(request, version, |response| {
        let results = response.results.iter();
        results
            .map(|result| {
                let message = result.error_message.map(|message| message.into_owned());
                (result.name.into_owned(), ErrorCode::from_code(result.error_code).unwrap(), message)
            })
            .collect()
    })
}

fn partitions(fixture: &Fixture, name: &str) -> i32 {
    fixture.services.image().topic_by_name(name).unwrap().partition_count()
}

#[test]
fn partitions_are_added_in_every_version() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    for version in 0..=3 {
        let count = 2 + i32::from(version);
        assert_eq!(
            results(&fixture, &more(&[("t", count)], false), version),
            [("t".to_owned(), ErrorCode::None, None)]
        );
        assert_eq!(partitions(&fixture, "t"), count);
    }
    let assignments = vec![CreatePartitionsAssignment { broker_ids: vec![2].into() }];
    let topic = CreatePartitionsTopic { name: "t".into(), count: 6, assignments: Some(assignments.into()) };
    let request = create_partitions::Request { topics: vec![topic].into(), ..more(&[], false) };
    assert_eq!(results(&fixture, &request, 3)[0].1, ErrorCode::None);
    let image = fixture.services.image();
    let topic = image.topic_by_name("t").unwrap();
    assert_eq!(image.partition(topic, logmill_wire::ids::PartitionIndex(5)).unwrap().leader, NodeId(2));
}

#[test]
fn each_topic_of_the_request_has_its_answer() {
    let fixture = Fixture::new();
    fixture.create("t", 2);
    fixture.create("u", 2);
    let answers = results(&fixture, &more(&[("t", 2), ("u", 3), ("missing", 3)], false), 3);
    let codes: Vec<_> = answers.iter().map(|answer| (answer.0.as_str(), answer.1)).collect();
    let expected = [
        ("t", ErrorCode::InvalidPartitions),
        ("u", ErrorCode::None),
        ("missing", ErrorCode::UnknownTopicOrPartition),
    ];
    assert_eq!(codes, expected);
    assert_eq!(answers[0].2.as_deref(), Some("Topic already has 2 partition(s)."));
    assert_eq!(answers[2].2.as_deref(), Some(ErrorCode::UnknownTopicOrPartition.description()));
    assert_eq!(results(&fixture, &more(&[("u", 9)], true), 3)[0].1, ErrorCode::None);
    assert_eq!(partitions(&fixture, "u"), 3, "a validation changes nothing");
    *fixture.broker.metadata_error.borrow_mut() = Some(MetadataError::Stopping);
    assert_eq!(results(&fixture, &more(&[("u", 9)], false), 3)[0].1, ErrorCode::RequestTimedOut);
    fixture.assert_all_room_is_free();
}

fn page<'a>(topics: &[&'a str], limit: i32, cursor: Option<(&'a str, i32)>) -> Request<'a> {
    Request {
        topics: topics.iter().map(|name| TopicRequest { name: (*name).into() }).collect(),
        response_partition_limit: limit,
        cursor: cursor.map(|(topic, partition_index)| Cursor { topic_name: topic.into(), partition_index }),
    }
}

type Topics = Vec<(String, ErrorCode, Vec<i32>)>;

fn described(fixture: &Fixture, request: &Request<'_>) -> (Topics, Option<(String, i32)>) {
    fixture.ask(request, 0, |response| {
        let topics = response.topics.iter().map(|topic| {
            let indexes = topic.partitions.iter().map(|partition| partition.partition_index).collect();
            let error = ErrorCode::from_code(topic.error_code).unwrap();
            (topic.name.unwrap().into_owned(), error, indexes)
        });
        let next = response.next_cursor.as_ref();
        let next = next.map(|cursor| (cursor.topic_name.to_string(), cursor.partition_index));
        (topics.collect(), next)
    })
}

#[test]
fn pages_go_on_where_the_cursor_points() {
    let fixture = Fixture::new();
    for (name, count) in [("b", 3), ("a", 2), ("c", 1)] {
        fixture.create(name, count);
    }
    let ok = ErrorCode::None;
    let topic = |name: &str, indexes: &[i32]| (name.to_owned(), ok, indexes.to_vec());
    let next = |name: &str, index| Some((name.to_owned(), index));
    for names in [&[][..], &["c", "a", "b", "a"]] {
        let first = described(&fixture, &page(names, 3, None));
        assert_eq!(first, (vec![topic("a", &[0, 1]), topic("b", &[0])], next("b", 1)));
        let second = described(&fixture, &page(names, 2, Some(("b", 1))));
        assert_eq!(second, (vec![topic("b", &[1, 2])], next("c", 0)));
        let third = described(&fixture, &page(names, 2, Some(("c", 0))));
        assert_eq!(third, (vec![topic("c", &[0])], None));
        let none = described(&fixture, &page(names, -5, None));
        assert_eq!(none, (vec![topic("a", &[0])], next("a", 1)), "a page has at least one partition");
    }
    // A cursor behind the topic's end, as after the topic was made again with fewer partitions.
    assert_eq!(described(&fixture, &page(&["c"], 2, Some(("c", 7)))), (vec![topic("c", &[])], None));
    assert_eq!(described(&fixture, &page(&[], 2, Some(("d", 0)))), (vec![], None));
}

#[test]
fn a_broker_has_its_own_limit() {
    let fixture = Fixture::with(&[("max.request.partition.size.limit", "2")]);
    fixture.create("t", 5);
    let (topics, next) = described(&fixture, &page(&["t"], 2000, None));
    assert_eq!((topics[0].2.len(), next), (2, Some(("t".to_owned(), 2))));
}

#[test]
fn what_is_not_there_is_told_topic_by_topic() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let (topics, next) = described(&fixture, &page(&["t", "a/b", "missing"], 10, None));
    let expected = [
        ("a/b".to_owned(), ErrorCode::InvalidTopicException, vec![]),
        ("missing".to_owned(), ErrorCode::UnknownTopicOrPartition, vec![]),
        ("t".to_owned(), ErrorCode::None, vec![0]),
    ];
    assert_eq!((topics.as_slice(), next), (&expected[..], None));
    for cursor in [("elsewhere", 0), ("t", -1)] {
        let (topics, _) = described(&fixture, &page(&["t"], 10, Some(cursor)));
        assert_eq!(topics, [("t".to_owned(), ErrorCode::InvalidRequest, vec![])]);
    }
}

#[test]
fn a_partition_is_told_with_its_replicas() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    fixture.broker.add_broker(NodeId(3), "ELSEWHERE");
    fixture.broker.create_led_by("far", 1, NodeId(3));
    fixture.ask(&page(&["t", "far", "missing"], 10, None), 0, |response| {
        let topics: Vec<_> = response.topics.iter().collect();
        let far = topics[0].partitions.iter().next().unwrap();
        assert_eq!((far.leader_id, far.offline_replicas.iter().collect::<Vec<_>>()), (-1, vec![3]));
        let missing = &topics[1];
        assert_eq!((missing.topic_id, missing.topic_authorized_operations), (TopicId::ZERO, 3576));
        let topic = &topics[2];
        assert_eq!((topic.topic_id, topic.topic_authorized_operations), (id, 3576));
        let partition = topic.partitions.iter().next().unwrap();
        assert_eq!((partition.leader_id, partition.error_code), (NODE.0, 0));
        assert_eq!(partition.leader_epoch, 0);
        assert_eq!(partition.replica_nodes.iter().collect::<Vec<_>>(), [NODE.0]);
        assert_eq!(partition.isr_nodes.iter().collect::<Vec<_>>(), [NODE.0]);
        assert!(partition.eligible_leader_replicas.is_some_and(|replicas| replicas.is_empty()));
    });
    fixture.assert_all_room_is_free();
}
