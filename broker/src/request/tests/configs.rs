//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs and ListConfigResources.

use super::Fixture;
use crate::cluster::command::MetadataError;
use logmill_wire::api::incremental_alter_configs::{self, AlterConfigsResource, AlterableConfig};
use logmill_wire::api::{alter_configs, create_topics, describe_configs, list_config_resources};
use logmill_wire::error_codes::ErrorCode;
use std::time::Duration;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const LOGGER: i8 = 8;
const METRICS: i8 = 16;
const GROUP: i8 = 32;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;

type Edit<'a> = (i8, &'a str, Option<&'a str>);

fn incremental<'a>(resources: &[(i8, &'a str, &[Edit<'a>])]) -> incremental_alter_configs::Request<'a> {
    let config = |&(config_operation, name, value): &Edit<'a>| AlterableConfig {
        name: name.into(),
        config_operation,
        value: value.map(Into::into),
    };
    let resource = |&(resource_type, name, edits): &(i8, &'a str, &[Edit<'a>])| AlterConfigsResource {
        resource_type,
        resource_name: name.into(),
        configs: edits.iter().map(config).collect(),
    };
    incremental_alter_configs::Request {
        resources: resources.iter().map(resource).collect(),
        validate_only: false,
    }
}

type Answer = (i8, String, ErrorCode, Option<String>);

fn answers(fixture: &Fixture, request: &incremental_alter_configs::Request<'_>, version: i16) -> Vec<Answer> {
    fixture.ask(request, version, |response| {
        let answers = response.responses.iter().map(|answer| {
            let error = ErrorCode::from_code(answer.error_code).unwrap();
            let message = answer.error_message.map(|message| message.into_owned());
            assert_eq!(error.is_error(), message.is_some());
            (answer.resource_type, answer.resource_name.into_owned(), error, message)
        });
        answers.collect()
    })
}

/// Changes one config and returns the error.
fn change(fixture: &Fixture, resource: (i8, &str), edit: Edit<'_>) -> (ErrorCode, String) {
    let request = incremental(&[(resource.0, resource.1, &[edit])]);
    let answer = answers(fixture, &request, 1).remove(0);
    (answer.2, answer.3.unwrap_or_default())
}

fn set(fixture: &Fixture, resource: (i8, &str), name: &str, value: &str) {
    assert_eq!(change(fixture, resource, (SET, name, Some(value))), (ErrorCode::None, String::new()));
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    name: String,
    value: Option<String>,
    source: i8,
    config_type: i8,
    is_read_only: bool,
    is_sensitive: bool,
    documentation: Option<String>,
    synonyms: Vec<(String, Option<String>, i8)>,
}

fn describe_request<'a>(
    resources: &[(i8, &'a str)],
    keys: Option<&[&'a str]>,
) -> describe_configs::Request<'a> {
    let keys = || keys.map(|keys| keys.iter().map(|key| (*key).into()).collect());
    let resource = |&(resource_type, name): &(i8, &'a str)| describe_configs::DescribeConfigsResource {
        resource_type,
        resource_name: name.into(),
        configuration_keys: keys(),
    };
    describe_configs::Request {
        resources: resources.iter().map(resource).collect(),
        include_synonyms: true,
        include_documentation: true,
    }
}

fn described(
    fixture: &Fixture,
    request: &describe_configs::Request<'_>,
    version: i16,
) -> Vec<Result<Vec<Told>, (ErrorCode, String)>> {
    fixture.ask(request, version, |response| {
        let results = response.results.iter().map(|result| {
            let error = ErrorCode::from_code(result.error_code).unwrap();
            if error.is_error() {
                assert!(result.configs.is_empty());
                return Err((error, result.error_message.unwrap().into_owned()));
            }
            let told = result.configs.iter().map(|config| Told {
                name: config.name.into_owned(),
                value: config.value.map(|value| value.into_owned()),
                source: config.config_source,
                config_type: config.config_type,
                is_read_only: config.read_only,
                is_sensitive: config.is_sensitive,
                documentation: config.documentation.map(|text| text.into_owned()),
                synonyms: config
                    .synonyms
                    .iter()
                    .map(|given| {
                        let value = given.value.map(|value| value.into_owned());
                        (given.name.into_owned(), value, given.source)
                    })
                    .collect(),
            });
            Ok(told.collect())
        });
        results.collect()
    })
}

fn one(fixture: &Fixture, resource: (i8, &str), key: &str) -> Told {
    let all = described(fixture, &describe_request(&[resource], Some(&[key])), 4);
    let [Ok(told)] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(told.len(), 1, "{key}");
    told[0].clone()
}

#[test]
fn a_topic_is_described_with_all_that_kafka_has() {
    let fixture = Fixture::with(&[("log.segment.bytes", "2097152")]);
    fixture.create("t", 1);
    for version in 1..=4 {
        let mut request = describe_request(&[(TOPIC, "t")], None);
        request.include_documentation = version >= 3;
        let all = described(&fixture, &request, version);
        let told = all[0].as_ref().unwrap();
        // Kafka 4.3 has 33; one is our own.
        assert_eq!(told.len(), 34);
        assert!(told.iter().all(|told| !told.is_read_only && !told.is_sensitive && told.value.is_some()));
        let segment = told.iter().find(|told| told.name == "segment.bytes").unwrap();
        assert_eq!((segment.value.as_deref(), segment.source), (Some("2097152"), 4));
        let given = |value: &str, source| ("log.segment.bytes".to_owned(), Some(value.to_owned()), source);
        assert_eq!(segment.synonyms, [given("2097152", 4), given("1073741824", 5)]);
        if version >= 3 {
            assert_eq!(segment.config_type, 3);
            assert!(
                told.iter().all(|told| told.documentation.as_deref().is_some_and(|text| text.len() > 10))
            );
        }
    }
    let mut request = describe_request(&[(TOPIC, "t")], Some(&["cleanup.policy", "nonsense"]));
    request.include_synonyms = false;
    request.include_documentation = false;
    let all = described(&fixture, &request, 4);
    let policy = Told {
        name: "cleanup.policy".to_owned(),
        value: Some("delete".to_owned()),
        source: 5,
        config_type: 7,
        ..Told::default()
    };
    assert_eq!(all, [Ok(vec![policy])]);
    fixture.assert_all_room_is_free();
}

#[test]
fn changes_are_seen() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    set(&fixture, (TOPIC, "t"), "cleanup.policy", "compact");
    let told = one(&fixture, (TOPIC, "t"), "cleanup.policy");
    assert_eq!((told.value.as_deref(), told.source), (Some("compact"), 1));
    set(&fixture, (BROKER, ""), "message.max.bytes", "5000");
    set(&fixture, (BROKER, "1"), "message.max.bytes", "6000");
    let told = one(&fixture, (TOPIC, "t"), "max.message.bytes");
    assert_eq!((told.value.as_deref(), told.source), (Some("6000"), 2));
    let sources: Vec<_> = told.synonyms.iter().map(|given| given.2).collect();
    assert_eq!(sources, [2, 3, 5]);
    assert_eq!(one(&fixture, (BROKER, ""), "message.max.bytes").value.as_deref(), Some("5000"));
    assert_eq!(one(&fixture, (BROKER, "1"), "message.max.bytes").value.as_deref(), Some("6000"));
    let none = change(&fixture, (BROKER, "1"), (DELETE, "message.max.bytes", None));
    assert_eq!(none.0, ErrorCode::None);
    assert_eq!(one(&fixture, (TOPIC, "t"), "max.message.bytes").source, 3);
    set(&fixture, (GROUP, "g"), "consumer.session.timeout.ms", "50000");
    let told = one(&fixture, (GROUP, "g"), "consumer.session.timeout.ms");
    assert_eq!((told.value.as_deref(), told.source, told.synonyms.len()), (Some("50000"), 8, 2));
    // A secret that some plugin might have is not told.
    set(&fixture, (BROKER, "1"), "my.password", "secret");
    let told = one(&fixture, (BROKER, "1"), "my.password");
    assert!(told.is_sensitive && told.value.is_none() && told.synonyms[0].1.is_none());
    let node = one(&fixture, (BROKER, "1"), "node.id");
    assert!(node.is_read_only && !node.is_sensitive);
    assert_eq!((node.value.as_deref(), node.source), (Some("1"), 5));
    // What the broker sets shows in the answer to a creation.
    let topic = create_topics::CreatableTopic {
        name: "u".into(),
        num_partitions: 1,
        replication_factor: 1,
        ..create_topics::CreatableTopic::default()
    };
    let request =
        create_topics::Request { topics: vec![topic].into(), timeout_ms: 3_000, validate_only: false };
    fixture.ask(&request, 7, |response| {
        let configs = response.topics.iter().next().unwrap().configs.unwrap();
        let size = configs.iter().find(|config| config.name == "max.message.bytes").unwrap();
        assert_eq!((size.value.as_deref(), size.config_source), (Some("5000"), 3));
    });
    fixture.assert_all_room_is_free();
}

#[test]
fn each_resource_is_answered_in_its_place() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let edit = [(SET, "retention.ms", Some("1"))];
    let request = incremental(&[
        (TOPIC, "missing", &edit),
        (METRICS, "m", &edit),
        (TOPIC, "t", &edit),
        (GROUP, "g", &edit),
        (GROUP, "g", &edit),
        (99, "x", &edit),
        (TOPIC, "u", &[(7, "retention.ms", Some("1"))]),
    ]);
    for version in 0..=1 {
        let answers = answers(&fixture, &request, version);
        let codes: Vec<_> = answers.iter().map(|answer| (answer.0, answer.1.as_str(), answer.2)).collect();
        let expected = [
            (TOPIC, "missing", ErrorCode::UnknownTopicOrPartition),
            (METRICS, "m", ErrorCode::InvalidRequest),
            (TOPIC, "t", ErrorCode::None),
            (GROUP, "g", ErrorCode::InvalidRequest),
            (GROUP, "g", ErrorCode::InvalidRequest),
            (99, "x", ErrorCode::InvalidRequest),
            (TOPIC, "u", ErrorCode::InvalidRequest),
        ];
        assert_eq!(codes, expected);
        assert_eq!(answers[3].3.as_deref(), Some("Each resource must appear at most once."));
        assert_eq!(answers[6].3.as_deref(), Some("Unknown operations type 7"));
    }
    let cases = [
        ((BROKER, "7"), "Unexpected broker id, expected 1, but received 7"),
        ((BROKER, "x"), "Node id must be an integer, but it is: x"),
        ((LOGGER, "1"), "Logger retention.ms does not exist!"),
        ((TOPIC, ""), "Default topic resources are not allowed."),
    ];
    for (resource, text) in cases {
        assert_eq!(change(&fixture, resource, edit[0]).1, text);
    }
    let (code, text) = change(&fixture, (TOPIC, "t"), (APPEND, "retention.ms", Some("1")));
    assert_eq!(code, ErrorCode::InvalidConfig);
    assert_eq!(text, "Can't APPEND to key retention.ms because its type is not LIST.");
    fixture.assert_all_room_is_free();
}

#[test]
fn a_change_that_is_not_committed_is_indeterminate() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let edit = (SET, "retention.ms", Some("1"));
    *fixture.broker.metadata_error.borrow_mut() = Some(MetadataError::Stopping);
    let answer = change(&fixture, (TOPIC, "t"), edit);
    assert_eq!(answer, (ErrorCode::RequestTimedOut, "the broker is stopping".to_owned()));
    fixture.broker.metadata_error.borrow_mut().take();
    fixture.broker.delay.set(Some(Duration::from_secs(100)));
    assert_eq!(change(&fixture, (TOPIC, "t"), edit).0, ErrorCode::RequestTimedOut);
    let before = fixture.broker.metadata_commands.get();
    assert_eq!(change(&fixture, (METRICS, "t"), edit).0, ErrorCode::InvalidRequest);
    assert_eq!(fixture.broker.metadata_commands.get(), before, "nothing is sent for what is refused");
    fixture.assert_all_room_is_free();
}

#[test]
fn validation_changes_nothing() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    let edit = [(SET, "retention.ms", Some("1"))];
    let mut request = incremental(&[(TOPIC, "t", &edit)]);
    request.validate_only = true;
    assert_eq!(answers(&fixture, &request, 1)[0].2, ErrorCode::None);
    assert_eq!(one(&fixture, (TOPIC, "t"), "retention.ms").source, 5);
}

#[test]
fn the_old_way_replaces_everything() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    set(&fixture, (TOPIC, "t"), "retention.ms", "1");
    let replace = |fixture: &Fixture, resource: (i8, &str), configs: &[(&str, Option<&str>)], version| {
        let config = |&(name, value): &(&str, Option<&str>)| alter_configs::AlterableConfig {
            name: name.to_owned().into(),
            value: value.map(|value| value.to_owned().into()),
        };
        let resource = alter_configs::AlterConfigsResource {
            resource_type: resource.0,
            resource_name: resource.1.to_owned().into(),
            configs: configs.iter().map(config).collect(),
        };
        let request = alter_configs::Request { resources: vec![resource].into(), validate_only: false };
        fixture.ask(&request, version, |response| {
            let answer = response.responses.iter().next().unwrap();
            ErrorCode::from_code(answer.error_code).unwrap()
        })
    };
    for version in 0..=2 {
        let bytes = format!("{}", 5000 + version);
        let configs = [("max.message.bytes", Some(bytes.as_str()))];
        assert_eq!(replace(&fixture, (TOPIC, "t"), &configs, version), ErrorCode::None);
        assert_eq!(one(&fixture, (TOPIC, "t"), "max.message.bytes").value.as_deref(), Some(&*bytes));
        assert_eq!(one(&fixture, (TOPIC, "t"), "retention.ms").source, 5, "what is not named is taken back");
    }
    let null = [("retention.ms", None)];
    assert_eq!(replace(&fixture, (TOPIC, "t"), &null, 2), ErrorCode::InvalidRequest);
    assert_eq!(replace(&fixture, (LOGGER, "1"), &[], 2), ErrorCode::InvalidRequest);
    assert_eq!(replace(&fixture, (TOPIC, "t"), &[], 2), ErrorCode::None);
    assert_eq!(one(&fixture, (TOPIC, "t"), "max.message.bytes").source, 5);
}

#[test]
fn what_cannot_be_described_says_why() {
    let fixture = Fixture::new();
    let cases = [
        (
            (TOPIC, "missing"),
            ErrorCode::UnknownTopicOrPartition,
            ErrorCode::UnknownTopicOrPartition.description(),
        ),
        ((TOPIC, "a/b"), ErrorCode::InvalidTopicException, "Topic name is invalid: "),
        (
            (BROKER, "7"),
            ErrorCode::InvalidRequest,
            "Unexpected broker id, expected 1 or empty string, but received 7",
        ),
        ((BROKER, "x"), ErrorCode::InvalidRequest, "Broker id must be an integer, but it is: x"),
        ((LOGGER, ""), ErrorCode::InvalidRequest, "Broker id must not be empty"),
        ((LOGGER, "7"), ErrorCode::InvalidRequest, "Unexpected broker id, expected 1 but received 7"),
        ((METRICS, ""), ErrorCode::InvalidRequest, "Client metrics subscription name must not be empty"),
        ((GROUP, ""), ErrorCode::InvalidRequest, "Group name must not be empty"),
    ];
    let resources: Vec<_> = cases.iter().map(|case| case.0).collect();
    let results = described(&fixture, &describe_request(&resources, None), 4);
    for ((_, code, text), result) in cases.iter().zip(results) {
        let (refused, message) = result.unwrap_err();
        assert_eq!(refused, *code, "{message}");
        assert!(message.contains(text), "{message}");
    }
    let empty = described(&fixture, &describe_request(&[(METRICS, "m"), (LOGGER, "1")], None), 4);
    assert_eq!(empty, [Ok(vec![]), Ok(vec![])]);
    let unknown = described(&fixture, &describe_request(&[(BROKER, "1"), (99, "x")], None), 4);
    assert!(unknown.iter().all(|result| result.as_ref().is_err_and(|error| error.1.contains("type 99"))));
    fixture.assert_all_room_is_free();
}

#[test]
fn resources_are_listed_by_type() {
    let fixture = Fixture::new();
    fixture.create("t", 1);
    set(&fixture, (GROUP, "g"), "consumer.session.timeout.ms", "50000");
    let list = |types: &[i8], version: i16| {
        let request = list_config_resources::Request { resource_types: types.iter().copied().collect() };
        fixture.ask(&request, version, |response| {
            let resources = response.config_resources.iter();
            let mut listed: Vec<_> = resources
                .map(|resource| (resource.resource_type, resource.resource_name.into_owned()))
                .collect();
            listed.sort();
            (ErrorCode::from_code(response.error_code).unwrap(), listed)
        })
    };
    let named = |pairs: &[(i8, &str)]| {
        (ErrorCode::None, pairs.iter().map(|&(number, name)| (number, name.to_owned())).collect::<Vec<_>>())
    };
    let brokers = [(BROKER, "1"), (BROKER, "2"), (LOGGER, "1"), (LOGGER, "2")];
    let all = [&[(TOPIC, "t")], &brokers[..], &[(GROUP, "g")]].concat();
    assert_eq!(list(&[], 1), named(&all));
    assert_eq!(list(&[GROUP, TOPIC], 1), named(&[(TOPIC, "t"), (GROUP, "g")]));
    assert_eq!(list(&[], 0), named(&[]));
    assert_eq!(list(&[99], 1), (ErrorCode::UnsupportedVersion, vec![]));
}
