//! CreateTopics and DeleteTopics.

use super::Fixture;
use crate::cluster::command::MetadataError;
use logmill_wire::api::create_topics::{self, CreatableTopic};
use logmill_wire::api::delete_topics::{self, DeleteTopicState};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::TopicId;
use std::time::Duration;

fn create<'a>(topics: &[(&'a str, i32, i16)], validate_only: bool) -> create_topics::Request<'a> {
    let topic = |&(name, num_partitions, replication_factor): &(&'a str, i32, i16)| CreatableTopic {
        name: name.into(),
        num_partitions,
        replication_factor,
        ..CreatableTopic::default()
    };
    create_topics::Request { topics: topics.iter().map(topic).collect(), timeout_ms: 3_000, validate_only }
}

fn created(
    fixture: &Fixture,
    request: &create_topics::Request<'_>,
    version: i16,
) -> Vec<(String, ErrorCode, i32)> {
    fixture.ask(request, version, |response| {
        let topics = response.topics.iter();
        topics
            .map(|topic| {
                let error = ErrorCode::from_code(topic.error_code).unwrap();
                assert_eq!(error.is_error(), topic.error_message.is_some());
                (topic.name.into_owned(), error, topic.num_partitions)
            })
            .collect()
    })
}

#[test]
fn topics_are_created_in_every_version() {
    let fixture = Fixture::new();
    for version in 2..=7 {
        let name = format!("t{version}");
        let count = if version >= 5 { 2 } else { -1 };
        let request = create(&[(&name, -1, -1)], false);
        assert_eq!(created(&fixture, &request, version), [(name.clone(), ErrorCode::None, count)]);
        assert!(fixture.services.image().topic_by_name(&name).is_some());
    }
    let request = create(&[("t", 1, 1)], false);
    fixture.ask(&request, 7, |response| {
        let topic = response.topics.iter().next().unwrap();
        assert_eq!(Some(topic.topic_id), fixture.services.image().topic_by_name("t").map(|topic| topic.id));
        let configs = topic.configs.unwrap();
        let policy = configs.iter().find(|config| config.name == "cleanup.policy").unwrap();
        assert_eq!((policy.value.as_deref(), policy.config_source), (Some("delete"), 5));
    });
}

#[test]
fn each_topic_has_its_own_error() {
    let fixture = Fixture::new();
    fixture.create("there", 1);
    let request =
        create(&[("there", 1, 1), ("a/b", 1, 1), ("n", 0, 1), ("m", 1, 9), ("d", 1, 1), ("d", 1, 1)], false);
    let results = created(&fixture, &request, 7);
    let codes: Vec<_> = results.iter().map(|result| (result.0.as_str(), result.1)).collect();
    let expected = [
        ("there", ErrorCode::TopicAlreadyExists),
        ("a/b", ErrorCode::InvalidTopicException),
        ("n", ErrorCode::InvalidPartitions),
        ("m", ErrorCode::InvalidReplicationFactor),
        ("d", ErrorCode::InvalidRequest),
    ];
    assert_eq!(codes, expected);
}

#[test]
fn validation_changes_nothing() {
    let fixture = Fixture::new();
    assert_eq!(created(&fixture, &create(&[("t", 4, 1)], true), 5), [("t".to_owned(), ErrorCode::None, 4)]);
    assert!(fixture.services.image().topic_by_name("t").is_none());
}

#[test]
fn a_change_that_is_not_committed_in_time_is_indeterminate() {
    let fixture = Fixture::new();
    let id = fixture.create("there", 1);
    let deletion = delete(&[(Some("there"), TopicId::ZERO)]);
    *fixture.broker.metadata_error.borrow_mut() = Some(MetadataError::NotCommitted("no quorum".into()));
    assert_eq!(created(&fixture, &create(&[("t", 1, 1)], false), 5)[0].1, ErrorCode::RequestTimedOut);
    fixture.broker.metadata_error.borrow_mut().take();
    fixture.broker.delay.set(Some(Duration::from_secs(30)));
    assert_eq!(created(&fixture, &create(&[("t", 1, 1)], false), 5)[0].1, ErrorCode::RequestTimedOut);
    assert_eq!(deleted(&fixture, &deletion, 6)[0].2, ErrorCode::RequestTimedOut);
    assert!(fixture.services.image().topic_by_id(id).is_some());
    fixture.assert_all_room_is_free();
}

fn delete<'a>(topics: &[(Option<&'a str>, TopicId)]) -> delete_topics::Request<'a> {
    let topic = |&(name, topic_id): &(Option<&'a str>, TopicId)| DeleteTopicState {
        name: name.map(Into::into),
        topic_id,
    };
    delete_topics::Request {
        topics: topics.iter().map(topic).collect(),
        timeout_ms: 3_000,
        ..delete_topics::Request::default()
    }
}

fn deleted(
    fixture: &Fixture,
    request: &delete_topics::Request<'_>,
    version: i16,
) -> Vec<(Option<String>, TopicId, ErrorCode)> {
    fixture.ask(request, version, |response| {
        let topics = response.responses.iter();
        topics
            .map(|topic| {
                let name = topic.name.map(|name| name.into_owned());
                (name, topic.topic_id, ErrorCode::from_code(topic.error_code).unwrap())
            })
            .collect()
    })
}

#[test]
fn topics_are_deleted_by_name_in_old_versions() {
    let fixture = Fixture::new();
    for version in 1..=5 {
        fixture.create("t", 1);
        let request = delete_topics::Request {
            topic_names: vec!["t".into(), "nowhere".into()].into(),
            timeout_ms: 3_000,
            ..delete_topics::Request::default()
        };
        let codes: Vec<_> =
            deleted(&fixture, &request, version).into_iter().map(|topic| (topic.0, topic.2)).collect();
        let expected = [
            (Some("t".to_owned()), ErrorCode::None),
            (Some("nowhere".to_owned()), ErrorCode::UnknownTopicOrPartition),
        ];
        assert_eq!(codes, expected);
        assert!(fixture.services.image().topic_by_name("t").is_none());
    }
}

#[test]
fn topics_are_deleted_by_name_or_id() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.create("one", 1), fixture.create("two", 1));
    let unknown = TopicId::from_random(99);
    let request = delete(&[
        (Some("one"), TopicId::ZERO),
        (None, two),
        (None, unknown),
        (None, TopicId::ZERO),
        (Some("both"), unknown),
    ]);
    let mut results = deleted(&fixture, &request, 6);
    results.sort_by_key(|result| (result.2, result.0.clone(), result.1));
    let mut expected = [
        (Some("one".to_owned()), one, ErrorCode::None),
        (Some("two".to_owned()), two, ErrorCode::None),
        (None, unknown, ErrorCode::UnknownTopicId),
        (None, TopicId::ZERO, ErrorCode::InvalidRequest),
        (Some("both".to_owned()), unknown, ErrorCode::InvalidRequest),
    ];
    expected.sort_by_key(|result| (result.2, result.0.clone(), result.1));
    assert_eq!(results, expected);
}

#[test]
fn deletion_can_be_turned_off() {
    let fixture = Fixture::with(&[("delete.topic.enable", "false")]);
    let id = fixture.create("t", 1);
    assert_eq!(deleted(&fixture, &delete(&[(None, id)]), 6)[0].2, ErrorCode::TopicDeletionDisabled);
    let by_name =
        delete_topics::Request { topic_names: vec!["t".into()].into(), ..delete_topics::Request::default() };
    assert_eq!(deleted(&fixture, &by_name, 2)[0].2, ErrorCode::InvalidRequest);
    assert!(fixture.services.image().topic_by_id(id).is_some());
}
