//! Traps of configs and of administration.

use super::super::client::{Client, batch};
use super::super::turn;
use super::super::workspace::Folder;
use super::start;
use logmill_wire::api::{alter_configs, create_partitions, describe_configs, metadata};
use logmill_wire::error_codes::ErrorCode;
use std::collections::BTreeMap;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// Where a config's value comes from, in DescribeConfigs.
const DYNAMIC_TOPIC: i8 = 1;
const STATIC_BROKER: i8 = 4;
const DEFAULT: i8 = 5;

/// A config as it was told.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    value: Option<String>,
    source: i8,
    config_type: i8,
    is_read_only: bool,
    is_sensitive: bool,
    documentation: String,
}

fn configs(client: &mut Client, resource_type: i8, name: &str) -> BTreeMap<String, Told> {
    let resource = describe_configs::DescribeConfigsResource {
        resource_type,
        resource_name: name.into(),
        configuration_keys: None,
    };
    let request = describe_configs::Request {
        resources: vec![resource].into(),
        include_synonyms: true,
        include_documentation: true,
    };
    let answer = client.call(&request, 4);
    let response: describe_configs::Response = answer.body();
    let result = response.results.iter().next().expect("one result");
    assert_eq!(result.error_code, 0);
    let told = result.configs.iter().map(|config| {
        let told = Told {
            value: config.value.map(|value| value.into_owned()),
            source: config.config_source,
            config_type: config.config_type,
            is_read_only: config.read_only,
            is_sensitive: config.is_sensitive,
            documentation: config.documentation.map(|text| text.into_owned()).unwrap_or_default(),
        };
        (config.name.into_owned(), told)
    });
    told.collect()
}

/// The configs that a topic has in Kafka 4.3.
const TOPIC_CONFIGS: [&str; 33] = [
    "cleanup.policy",
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.type",
    "compression.zstd.level",
    "delete.retention.ms",
    "file.delete.delay.ms",
    "flush.messages",
    "flush.ms",
    "follower.replication.throttled.replicas",
    "index.interval.bytes",
    "leader.replication.throttled.replicas",
    "local.retention.bytes",
    "local.retention.ms",
    "max.compaction.lag.ms",
    "max.message.bytes",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.type",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "min.insync.replicas",
    "preallocate",
    "remote.log.copy.disable",
    "remote.log.delete.on.disable",
    "remote.storage.enable",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
    "segment.index.bytes",
    "segment.jitter.ms",
    "segment.ms",
    "unclean.leader.election.enable",
];

/// Connect, Streams and the tools of operators look for configs by name, trust the source to tell what was set from
/// what is the default, and show the documentation: a config that is not told does not exist for them.
#[test]
fn configs_are_told_whole() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    client.try_create_topic("told", 1, &[("cleanup.policy", "compact")]).unwrap();
    let topic = configs(&mut client, TOPIC, "told");
    for name in TOPIC_CONFIGS {
        let told = topic.get(name).unwrap_or_else(|| panic!("{name} is not told"));
        assert!(told.value.is_some() && !told.is_read_only && !told.is_sensitive, "{name}: {told:?}");
        assert_eq!(told.source == DYNAMIC_TOPIC, name == "cleanup.policy", "{name}: {told:?}");
    }
    assert_eq!(topic["cleanup.policy"].value.as_deref(), Some("compact"), "what Connect looks for");

    let answer = client.call(&metadata::Request::default(), 12);
    let id = answer.body::<metadata::Response<'_>>().brokers.iter().next().unwrap().node_id.to_string();
    let broker = configs(&mut client, BROKER, &id);
    assert!(broker["log.dirs"].is_read_only && broker["log.dirs"].source == STATIC_BROKER);
    assert!(!broker["message.max.bytes"].is_read_only);
    for (name, told) in topic.iter().chain(&broker) {
        assert!(told.source > 0, "{name} comes from somewhere");
        assert!(told.config_type > 0, "{name} has a type");
        assert!(told.documentation.len() > 10, "{name} is documented");
        assert!(!told.is_sensitive || told.value.is_none(), "{name} is a secret");
    }
    node.stop();
}

fn write_configs<'a>(
    client: &mut Client,
    topic: &str,
    configs: impl Iterator<Item = (&'a String, &'a Told)>,
) -> i16 {
    let configs = configs.map(|(name, told)| alter_configs::AlterableConfig {
        name: name.as_str().into(),
        value: told.value.as_deref().map(Into::into),
    });
    let resource = alter_configs::AlterConfigsResource {
        resource_type: TOPIC,
        resource_name: topic.into(),
        configs: configs.collect(),
    };
    let request = alter_configs::Request { resources: vec![resource].into(), validate_only: false };
    let answer = client.call(&request, 2);
    let response: alter_configs::Response = answer.body();
    response.responses.iter().next().expect("one result").error_code
}

/// Older tools change one config by reading all, changing that one, and writing all back, which replaces what was
/// set: a value that cannot be written as it was read, or a wrong source, loses or sets others.
#[test]
fn configs_can_be_read_changed_and_written_back() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    let set = [("cleanup.policy", "compact"), ("retention.ms", "123456789"), ("segment.ms", "7200000")];
    client.try_create_topic("rewritten", 1, &set).unwrap();

    // What was set for the topic, with one change.
    let mut expected = configs(&mut client, TOPIC, "rewritten");
    expected.get_mut("retention.ms").unwrap().value = Some("987654321".to_owned());
    let own = expected.iter().filter(|(_, told)| told.source == DYNAMIC_TOPIC);
    assert_eq!(own.clone().count(), set.len());
    assert_eq!(write_configs(&mut client, "rewritten", own), 0);
    assert_eq!(configs(&mut client, TOPIC, "rewritten"), expected);

    // What is not written is set no longer.
    let kept = expected.iter().filter(|(name, told)| told.source == DYNAMIC_TOPIC && *name != "segment.ms");
    assert_eq!(write_configs(&mut client, "rewritten", kept), 0);
    let left = configs(&mut client, TOPIC, "rewritten");
    assert_eq!(
        (left["segment.ms"].value.as_deref(), left["segment.ms"].source),
        (Some("604800000"), DEFAULT)
    );
    expected.insert("segment.ms".to_owned(), left["segment.ms"].clone());
    assert_eq!(left, expected);

    // All that can be written, defaults too, with one change.
    expected.get_mut("max.message.bytes").unwrap().value = Some("54321".to_owned());
    let writable = expected.iter().filter(|(_, told)| !told.is_read_only && !told.is_sensitive);
    assert_eq!(write_configs(&mut client, "rewritten", writable), 0);
    let values = |configs: &BTreeMap<String, Told>| -> Vec<_> {
        configs.iter().map(|(name, told)| (name.clone(), told.value.clone())).collect()
    };
    assert_eq!(values(&configs(&mut client, TOPIC, "rewritten")), values(&expected));
    node.stop();
}

/// Admin clients complete one future per topic: one answer for all, or none for a topic that failed, leaves some
/// of them waiting or wrong.
#[test]
fn create_partitions_replies_per_topic() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    for name in ["grows", "stays", "shrinks"] {
        client.create_topic(name, 2);
    }
    let topic = |name: &'static str, count| create_partitions::CreatePartitionsTopic {
        name: name.into(),
        count,
        assignments: None,
    };
    let topics = vec![topic("stays", 2), topic("grows", 4), topic("shrinks", 1), topic("unknown", 4)];
    let request =
        create_partitions::Request { topics: topics.into(), timeout_ms: 10_000, validate_only: false };
    let answer = client.call(&request, 3);
    let response: create_partitions::Response = answer.body();
    let results: BTreeMap<_, _> = response
        .results
        .iter()
        .map(|result| {
            assert_eq!(result.error_message.is_some(), result.error_code != 0);
            (result.name.into_owned(), result.error_code)
        })
        .collect();
    let (invalid, unknown) = (ErrorCode::InvalidPartitions, ErrorCode::UnknownTopicOrPartition);
    let expected =
        [("grows", 0), ("shrinks", invalid.code()), ("stays", invalid.code()), ("unknown", unknown.code())];
    assert_eq!(results, expected.map(|(name, error)| (name.to_owned(), error)).into());
    assert_eq!(client.append_well("grows", 3, batch(b"new")), 0);
    assert_eq!(client.append("stays", 2, -1, batch(b"none")).error, unknown.code());
    node.stop();
}
