use super::{Fixture, NODE, body};
use crate::cluster::command::MetadataError;
use crate::request::call::Outcome;
use logmill_wire::api::metadata::{MetadataRequestTopic, Request, Response};
use logmill_wire::api::{ApiRequest, Message, delete_topics};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, TopicId};
use std::time::Duration;

fn by_name<'a>(names: &[&'a str], allow_auto_topic_creation: bool) -> Request<'a> {
    let topic = |name: &&'a str| MetadataRequestTopic {
        name: Some((*name).into()),
        ..MetadataRequestTopic::default()
    };
    Request {
        topics: Some(names.iter().map(topic).collect()),
        allow_auto_topic_creation,
        ..Request::default()
    }
}

fn by_id<'a>(id: TopicId) -> Request<'a> {
    let topic = MetadataRequestTopic { topic_id: id, name: None };
    Request { topics: Some(vec![topic].into()), ..Request::default() }
}

/// Name, error and number of partitions of each topic.
fn topics(response: &Response<'_>) -> Vec<(String, ErrorCode, usize)> {
    let topics = response.topics.iter();
    topics
        .map(|topic| {
            let error = ErrorCode::from_code(topic.error_code).unwrap();
            (topic.name.unwrap_or_default().into_owned(), error, topic.partitions.len())
        })
        .collect()
}

#[test]
fn everything_is_described_in_every_version() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 3);
    fixture.broker.restart(NODE, 4);
    for version in 0..=13 {
        let all = Request {
            topics: if version == 0 { Some(Vec::new().into()) } else { None },
            ..Request::default()
        };
        fixture.ask(&all, version, |response| {
            assert_eq!(topics(&response), [("t".to_owned(), ErrorCode::None, 3)], "v{version}");
            let brokers: Vec<_> =
                response.brokers.iter().map(|broker| (broker.node_id, broker.port)).collect();
            assert_eq!(brokers, [(1, 9092), (2, 9092)]);
            let topic = response.topics.iter().next().unwrap();
            let first = topic.partitions.iter().next().unwrap();
            assert_eq!(first.leader_id, NODE.0);
            assert_eq!(first.replica_nodes.clone().into_vec(), [1]);
            assert_eq!(first.isr_nodes.clone().into_vec(), [1]);
            assert!(first.offline_replicas.is_empty());
            if version >= 1 {
                assert_eq!(response.controller_id, 1);
            }
            if version >= 2 {
                let cluster_id = fixture.services.image().cluster_id().unwrap().to_string();
                assert_eq!(response.cluster_id.as_deref(), Some(cluster_id.as_str()));
            }
            assert_eq!(first.leader_epoch, if version >= 7 { 3 } else { -1 });
            assert_eq!(topic.topic_id, if version >= 10 { id } else { TopicId::ZERO });
        });
    }
}

#[test]
fn an_empty_list_means_none_from_version_1_on() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    fixture.ask(&by_name(&[], true), 1, |response| assert!(response.topics.is_empty()));
}

#[test]
fn a_missing_topic_is_created_on_demand() {
    let fixture = Fixture::new();
    fixture.broker.delay.set(Some(Duration::from_millis(20)));
    fixture.ask(&by_name(&["new"], true), 9, |response| {
        assert_eq!(topics(&response), [("new".to_owned(), ErrorCode::None, 2)]);
    });
    assert_eq!(fixture.broker.metadata_commands.get(), 1);
}

#[test]
fn topics_are_created_only_if_both_sides_allow_it() {
    let unknown = [("new".to_owned(), ErrorCode::UnknownTopicOrPartition, 0)];
    let fixture = Fixture::new();
    fixture.ask(&by_name(&["new"], false), 9, |response| assert_eq!(topics(&response), unknown));
    let fixture = Fixture::with(&[("auto.create.topics.enable", "false")]);
    fixture.ask(&by_name(&["new"], true), 9, |response| assert_eq!(topics(&response), unknown));
    // Versions without the field always ask for it.
    let fixture = Fixture::new();
    fixture.ask(&by_name(&["new"], true), 3, |response| {
        assert_eq!(topics(&response), [("new".to_owned(), ErrorCode::None, 2)]);
    });
}

#[test]
fn names_that_cannot_be_are_not_created() {
    let fixture = Fixture::new();
    fixture.create("a.b", 1);
    let request = by_name(&["no/slash", "a_b", "__consumer_offsets", "a.b", "a.b"], true);
    fixture.ask(&request, 9, |response| {
        let expected = [
            ("no/slash".to_owned(), ErrorCode::InvalidTopicException, 0),
            // It collides with a.b.
            ("a_b".to_owned(), ErrorCode::InvalidTopicException, 0),
            ("__consumer_offsets".to_owned(), ErrorCode::UnknownTopicOrPartition, 0),
            ("a.b".to_owned(), ErrorCode::None, 1),
        ];
        assert_eq!(topics(&response), expected);
        let internal: Vec<_> = response.topics.iter().map(|topic| topic.is_internal).collect();
        assert_eq!(internal, [false, false, true, false]);
    });
}

#[test]
fn a_creation_that_fails_leaves_the_topic_unknown() {
    let fixture = Fixture::new();
    *fixture.broker.metadata_error.borrow_mut() = Some(MetadataError::NotCommitted("no quorum".into()));
    let unknown = [("new".to_owned(), ErrorCode::UnknownTopicOrPartition, 0)];
    fixture.ask(&by_name(&["new"], true), 9, |response| assert_eq!(topics(&response), unknown));
    // One that takes too long does not keep the client waiting for ever.
    fixture.broker.metadata_error.borrow_mut().take();
    fixture.broker.delay.set(Some(Duration::from_secs(60)));
    let began = fixture.world.now();
    fixture.ask(&by_name(&["new"], true), 9, |response| assert_eq!(topics(&response), unknown));
    assert!(fixture.world.now() - began < Duration::from_secs(10));
}

#[test]
fn topics_are_found_by_id() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    fixture.ask(&by_id(id), 12, |response| {
        assert_eq!(topics(&response), [("t".to_owned(), ErrorCode::None, 1)]);
    });
    let unknown = TopicId::from_random(77);
    fixture.ask(&by_id(unknown), 12, |response| {
        let topic = response.topics.iter().next().unwrap();
        assert_eq!((topic.error_code, topic.topic_id), (ErrorCode::UnknownTopicId.code(), unknown));
        assert_eq!(topic.name, None);
    });
    fixture.ask(&by_id(id), 11, |response| {
        assert_eq!(topics(&response), [(String::new(), ErrorCode::InvalidRequest, 0)]);
    });
    assert_eq!(fixture.broker.metadata_commands.get(), 0, "an id is never created");
}

#[test]
fn a_leader_that_is_gone_is_not_named() {
    let fixture = Fixture::new();
    fixture.broker.create_led_by("elsewhere", 1, NodeId(2));
    // The listener that the client came over is one that broker 2 does not have.
    fixture.broker.add_broker(NodeId(3), "INTERNAL");
    fixture.broker.create_led_by("inside", 1, NodeId(3));
    let partition = |name: &str, version| {
        fixture.ask(&by_name(&[name], false), version, |response| {
            let topic = response.topics.iter().next().unwrap();
            let first = topic.partitions.iter().next().unwrap();
            (ErrorCode::from_code(first.error_code).unwrap(), first.leader_id)
        })
    };
    assert_eq!(partition("elsewhere", 9), (ErrorCode::None, 2));
    assert_eq!(partition("inside", 6), (ErrorCode::ListenerNotFound, -1));
    assert_eq!(partition("inside", 5), (ErrorCode::LeaderNotAvailable, -1));
}

#[test]
fn a_topic_that_is_deleted_before_the_answer_is_told_by_no_image_that_lacks_it() {
    let fixture = Fixture::new();
    for (request, told) in [
        (by_name(&["t", "kept"], false), &[("t", ErrorCode::UnknownTopicOrPartition, 0), KEPT][..]),
        (Request { topics: None, ..Request::default() }, &[KEPT]),
    ] {
        fixture.create("t", 1);
        if fixture.broker.image().topic_by_name("kept").is_none() {
            fixture.create("kept", 1);
        }
        let pending = fixture.begin_request(&request, 12);
        let deleted = delete_topics::Request { topic_names: vec!["t".into()].into(), ..Default::default() };
        fixture.ask(&deleted, 5, |response| {
            assert_eq!(response.responses.iter().next().unwrap().error_code, 0);
        });
        let bytes = body(fixture.world.block_on(&fixture.runtime, pending), Request::KEY, 12);
        let found = topics(&Response::decode_body(&bytes, 12).unwrap());
        let found: Vec<_> =
            found.iter().map(|(name, error, partitions)| (name.as_str(), *error, *partitions)).collect();
        assert_eq!(found, told);
    }
}

const KEPT: (&str, ErrorCode, usize) = ("kept", ErrorCode::None, 1);

#[test]
fn authorized_operations_are_told_on_request() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let mut request = by_name(&["t"], false);
    fixture.ask(&request, 8, |response| {
        assert_eq!(response.cluster_authorized_operations, i32::MIN);
        assert_eq!(response.topics.iter().next().unwrap().topic_authorized_operations, i32::MIN);
    });
    request.include_topic_authorized_operations = true;
    request.include_cluster_authorized_operations = true;
    fixture.ask(&request, 8, |response| {
        assert_eq!(response.cluster_authorized_operations, 8096);
        assert_eq!(response.topics.iter().next().unwrap().topic_authorized_operations, 3576);
    });
}

#[test]
fn a_hundred_thousand_partitions_leave_room_for_others() {
    let fixture = Fixture::new();
    for topic in 0..10 {
        fixture.create(&format!("t{topic}"), 10_000);
    }
    let pending = fixture.begin_request(&Request { topics: None, ..Request::default() }, 12);
    let outcome = fixture.world.block_on(&fixture.runtime, pending);
    let Outcome::Reply(reply) = outcome else { panic!("no reply") };
    assert!(reply.bytes() > 100_000 * 20);
    drop(reply);
    fixture.assert_all_room_is_free();
}
