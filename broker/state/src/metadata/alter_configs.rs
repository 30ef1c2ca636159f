//! AlterConfigs and IncrementalAlterConfigs, with Kafka's checks in Kafka's order (KIP-133, KIP-226, KIP-339).

use std::collections::{BTreeMap, BTreeSet};

use logmill_wire::ids::NodeId;

use super::image::Image;
use super::record::Record;
use super::topic_name::validate_topic_name;
use crate::settings::{BrokerSettings, GroupConfig, Kind, Setting, TopicSettings, ValueType, list_items};

/// The longest value of a config, in bytes: no setting has a use for more, and an image holds all of them.
const VALUE_BYTES_MAX: usize = 32_767;

/// What a request may alter the configs of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(String),
    /// One broker, or (`None`) all of them.
    Broker(Option<NodeId>),
    /// A group, by name.
    Group(String),
}

/// What is done to one config (KIP-339).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigOperation {
    /// Give it a value.
    Set,
    /// Take its value back.
    Delete,
    /// Add to its list.
    Append,
    /// Take away from its list.
    Subtract,
}

impl ConfigOperation {
    /// The operation with Kafka's number (`AlterConfigOp.OpType`).
    #[must_use]
    pub const fn from_number(number: i8) -> Option<Self> {
        match number {
            0 => Some(Self::Set),
            1 => Some(Self::Delete),
            2 => Some(Self::Append),
            3 => Some(Self::Subtract),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Set => "SET",
            Self::Delete => "DELETE",
            Self::Append => "APPEND",
            Self::Subtract => "SUBTRACT",
        }
    }
}

/// One change of one config.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigEdit {
    /// The config.
    pub name: String,
    /// What is done.
    pub operation: ConfigOperation,
    /// With what; nobody looks at the value of a deletion.
    pub value: Option<String>,
}

/// What a request does to one resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourceEdits {
    /// The resource.
    pub resource: ConfigResource,
    /// Whether everything that is not named is taken back first, as AlterConfigs does.
    pub replaces: bool,
    /// The changes.
    pub edits: Vec<ConfigEdit>,
}

/// The error that a resource is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AlterConfigsErrorKind {
    /// INVALID_REQUEST.
    InvalidRequest,
    /// INVALID_CONFIG.
    InvalidConfig,
    /// INVALID_TOPIC_EXCEPTION.
    InvalidTopic,
    /// UNKNOWN_TOPIC_OR_PARTITION.
    UnknownTopic,
}

/// Why a resource is not altered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlterConfigsError {
    /// The error.
    pub kind: AlterConfigsErrorKind,
    /// What to tell the user.
    pub message: String,
}

/// What a decision needs besides image and request.
#[derive(Clone, Copy)]
pub struct AlterConfigsContext<'a> {
    /// The settings with which this broker was started.
    pub settings: &'a BrokerSettings,
    /// This broker.
    pub node_id: NodeId,
}

/// What a request to alter configs does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AlterConfigsPlan {
    /// To be committed together; none if the request only asks whether it would work.
    pub records: Vec<Record>,
    /// One for each resource of the request, in its order.
    pub results: Vec<Result<(), AlterConfigsError>>,
}

fn refuse<T>(kind: AlterConfigsErrorKind, message: impl Into<String>) -> Result<T, AlterConfigsError> {
    Err(AlterConfigsError { kind, message: message.into() })
}

fn invalid_config<T>(message: impl Into<String>) -> Result<T, AlterConfigsError> {
    refuse(AlterConfigsErrorKind::InvalidConfig, message)
}

fn invalid_request<T>(message: impl Into<String>) -> Result<T, AlterConfigsError> {
    refuse(AlterConfigsErrorKind::InvalidRequest, message)
}

impl Image {
    /// The settings of `node`: those that it was started with, and what is set on the running cluster. What was
    /// stored by a broker that knew better is left out.
    #[must_use]
    pub fn effective_settings(&self, node: NodeId, started_with: &BrokerSettings) -> BrokerSettings {
        let dynamic = self.broker_configs(Some(node)).clone();
        let dynamic_default = self.broker_configs(None).clone();
        started_with.with_dynamic(dynamic, dynamic_default).unwrap_or_else(|_| started_with.clone())
    }

    /// Decides on a request to alter configs; each resource succeeds or fails by itself and as a whole. With
    /// `validate_only` the answers are the same and there are no records.
    #[must_use]
    pub fn decide_alter_configs(
        &self,
        resources: &[ResourceEdits],
        validate_only: bool,
        context: &AlterConfigsContext<'_>,
    ) -> AlterConfigsPlan {
        let mut times: BTreeMap<&ConfigResource, usize> = BTreeMap::new();
        for edits in resources {
            *times.entry(&edits.resource).or_default() += 1;
        }
        // What the request sets for brokers holds for its topics and groups only later, as in Kafka.
        let settings = self.effective_settings(context.node_id, context.settings);
        let mut plan = AlterConfigsPlan::default();
        for edits in resources {
            let decided = if times.get(&edits.resource).is_some_and(|&times| times > 1) {
                invalid_request("Each resource must appear at most once.")
            } else {
                self.decide_alter_resource(edits, &settings)
            };
            plan.results.push(decided.map(|record| plan.records.extend(record)));
        }
        if validate_only {
            plan.records.clear();
        }
        plan
    }

    /// The record that alters the resource, if anything changes.
    fn decide_alter_resource(
        &self,
        edits: &ResourceEdits,
        settings: &BrokerSettings,
    ) -> Result<Option<Record>, AlterConfigsError> {
        check_edits(&edits.edits)?;
        match &edits.resource {
            ConfigResource::Topic(name) => self.decide_alter_topic(name, edits, settings),
            ConfigResource::Broker(broker_id) => {
                let current = self.broker_configs(*broker_id);
                let configs = edited(current, edits, BrokerSettings::find, |operation, name| {
                    let operation = operation.name().to_ascii_lowercase();
                    format!("Config value {operation} is not allowed for config key: {name}")
                })?;
                if let Err(message) = settings.check_dynamic(&configs, broker_id.is_some()) {
                    return invalid_request(message);
                }
                let record =
                    Record::BrokerConfigsReplaced { broker_id: *broker_id, configs: configs.clone() };
                Ok((configs != *current).then_some(record))
            }
            ConfigResource::Group(group_id) => {
                let current = self.group_configs(group_id);
                let configs = edited(current, edits, GroupConfig::find, not_a_list)?;
                if group_id.is_empty() {
                    return invalid_request("Default group resources are not allowed.");
                }
                if let Err(error) = GroupConfig::check(&configs, settings) {
                    return invalid_config(error.kafka_text());
                }
                let changed = configs != *current;
                let record = Record::GroupConfigsReplaced { group_id: group_id.clone(), configs };
                Ok(changed.then_some(record))
            }
        }
    }

    fn decide_alter_topic(
        &self,
        name: &str,
        edits: &ResourceEdits,
        settings: &BrokerSettings,
    ) -> Result<Option<Record>, AlterConfigsError> {
        let none = BTreeMap::new();
        let topic = self.topic_by_name(name);
        let current = topic.map_or(&none, |topic| &topic.configs);
        let configs = edited(current, edits, TopicSettings::find, not_a_list)?;
        if name.is_empty() {
            return invalid_request("Default topic resources are not allowed.");
        }
        if let Err(error) = validate_topic_name(name) {
            return refuse(AlterConfigsErrorKind::InvalidTopic, format!("Topic name is invalid: {error}"));
        }
        if let Err(error) = TopicSettings::resolve(&configs, settings) {
            return invalid_config(error.kafka_text());
        }
        let Some(topic) = topic else {
            let message = format!("The topic '{name}' does not exist.");
            return refuse(AlterConfigsErrorKind::UnknownTopic, message);
        };
        let changed = configs != *current;
        Ok(changed.then_some(Record::TopicConfigsReplaced { topic_id: topic.id, configs }))
    }
}

fn not_a_list(operation: ConfigOperation, name: &str) -> String {
    format!("Can't {} to key {name} because its type is not LIST.", operation.name())
}

/// What is wrong with the edits whatever they are about.
fn check_edits(edits: &[ConfigEdit]) -> Result<(), AlterConfigsError> {
    let mut seen = BTreeSet::new();
    if !edits.iter().all(|edit| seen.insert(&edit.name)) {
        return invalid_request("Error due to duplicate config keys");
    }
    let is_null = |edit: &&ConfigEdit| edit.operation != ConfigOperation::Delete && edit.value.is_none();
    let nulls: Vec<&str> = edits.iter().filter(is_null).map(|edit| edit.name.as_str()).collect();
    if !nulls.is_empty() {
        return invalid_request(format!("Null value not supported for : {}", nulls.join(", ")));
    }
    let is_long = |edit: &&ConfigEdit| edit.value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX);
    match edits.iter().find(is_long) {
        Some(edit) => invalid_config(format!(
            "The value of {} is longer than {VALUE_BYTES_MAX} bytes.",
            edit.name.chars().take(256).collect::<String>()
        )),
        None => Ok(()),
    }
}

/// The configs after the edits.
fn edited(
    current: &BTreeMap<String, String>,
    edits: &ResourceEdits,
    find: impl Fn(&str) -> Option<&'static Setting>,
    not_a_list: impl Fn(ConfigOperation, &str) -> String,
) -> Result<BTreeMap<String, String>, AlterConfigsError> {
    let mut configs = if edits.replaces { BTreeMap::new() } else { current.clone() };
    for edit in &edits.edits {
        let (name, operation) = (&edit.name, edit.operation);
        let value = edit.value.as_deref().unwrap_or_default();
        match operation {
            ConfigOperation::Set => {
                configs.insert(name.clone(), value.to_owned());
            }
            ConfigOperation::Delete => {
                configs.remove(name);
            }
            ConfigOperation::Append | ConfigOperation::Subtract => {
                let setting = find(name).filter(|setting| is_list(setting.kind));
                let Some(setting) = setting else { return invalid_config(not_a_list(operation, name)) };
                // As in Kafka, a list that is not set begins as the default that Kafka's code has for it.
                let before = configs.get(name).map(String::as_str).or(setting.default).unwrap_or_default();
                let list = changed_list(before, operation, value);
                if list.len() > VALUE_BYTES_MAX {
                    return invalid_config(format!(
                        "The value of {name} would be longer than {VALUE_BYTES_MAX} bytes."
                    ));
                }
                configs.insert(name.clone(), list);
            }
        }
    }
    Ok(configs)
}

fn is_list(kind: Kind) -> bool {
    kind.value_type() == ValueType::List
}

fn changed_list(before: &str, operation: ConfigOperation, value: &str) -> String {
    let mut items: Vec<&str> = list_items(before).collect();
    if operation == ConfigOperation::Append {
        for item in list_items(value) {
            if !items.contains(&item) {
                items.push(item);
            }
        }
    } else {
        let taken: BTreeSet<&str> = list_items(value).collect();
        items.retain(|item| !taken.contains(item));
    }
    items.join(",")
}

#[cfg(test)]
mod tests {
    use super::super::{BrokerRegistration, CreateTopicsContext, Endpoint, NewTopic};
    use super::*;
    use logmill_wire::ids::Uuid;

    const NODE: NodeId = NodeId(1);

    fn image_with_topics(names: &[&str]) -> Image {
        let mut image = Image::default();
        image.apply(&Record::ClusterIdMinted { cluster_id: Uuid([9; 16]) }).unwrap();
        let registration = BrokerRegistration {
            broker_id: NODE,
            cluster_id: Uuid([9; 16]),
            incarnation: Uuid([1; 16]),
            rack: None,
            endpoints: vec![Endpoint {
                listener: "PLAINTEXT".to_owned(),
                host: "h".to_owned(),
                port: 1,
                security_protocol: 0,
            }],
        };
        image.apply(&image.decide_register_broker(&registration, false).unwrap()).unwrap();
        let topic = |name: &&str| NewTopic {
            name: (*name).to_owned(),
            partition_count: 1,
            replication_factor: 1,
            assignments: Vec::new(),
            configs: Vec::new(),
        };
        let topics: Vec<_> = names.iter().map(topic).collect();
        let context = CreateTopicsContext {
            default_partition_count: 1,
            default_replication_factor: 1,
            check_configs: &|_| Ok(()),
            random_bits: &[1, 2, 3],
        };
        let plan = image.decide_create_topics(&topics, false, &context);
        plan.records.iter().for_each(|record| image.apply(record).unwrap());
        image
    }

    fn topic(name: &str) -> ConfigResource {
        ConfigResource::Topic(name.to_owned())
    }

    fn group(name: &str) -> ConfigResource {
        ConfigResource::Group(name.to_owned())
    }

    fn edits(resource: ConfigResource, edits: &[(ConfigOperation, &str, Option<&str>)]) -> ResourceEdits {
        let edit = |&(operation, name, value): &(ConfigOperation, &str, Option<&str>)| ConfigEdit {
            name: name.to_owned(),
            operation,
            value: value.map(str::to_owned),
        };
        ResourceEdits { resource, replaces: false, edits: edits.iter().map(edit).collect() }
    }

    fn set(resource: ConfigResource, pairs: &[(&str, &str)]) -> ResourceEdits {
        let pairs: Vec<_> =
            pairs.iter().map(|&(name, value)| (ConfigOperation::Set, name, Some(value))).collect();
        edits(resource, &pairs)
    }

    fn decide(image: &Image, resources: &[ResourceEdits], validate_only: bool) -> AlterConfigsPlan {
        let settings = BrokerSettings::from_values(BTreeMap::new()).unwrap();
        let context = AlterConfigsContext { settings: &settings, node_id: NODE };
        image.decide_alter_configs(resources, validate_only, &context)
    }

    fn alter(image: &mut Image, resource: ResourceEdits) -> usize {
        let plan = decide(image, &[resource], false);
        assert_eq!(plan.results, [Ok(())]);
        plan.records.iter().for_each(|record| image.apply(record).unwrap());
        plan.records.len()
    }

    fn refusal(image: &Image, resource: ResourceEdits) -> (AlterConfigsErrorKind, String) {
        let plan = decide(image, &[resource], false);
        assert!(plan.records.is_empty());
        let error = plan.results[0].clone().unwrap_err();
        (error.kind, error.message)
    }

    fn value(image: &Image, name: &str) -> Option<String> {
        image.topic_by_name("t").unwrap().configs.get(name).cloned()
    }

    #[test]
    fn a_topic_is_altered_step_by_step() {
        use ConfigOperation::{Append, Delete, Set, Subtract};
        let mut image = image_with_topics(&["t"]);
        let policy = "cleanup.policy";
        let steps: [(ConfigOperation, &str, Option<&str>); 7] = [
            (Set, "compact", Some("compact")),
            (Append, "delete,compact", Some("compact,delete")),
            (Subtract, "compact", Some("delete")),
            (Subtract, "delete", Some("")),
            (Append, "delete", Some("delete")),
            (Delete, "", None),
            (Append, "compact", Some("delete,compact")),
        ];
        for (operation, text, expected) in steps {
            let count = alter(&mut image, edits(topic("t"), &[(operation, policy, Some(text))]));
            assert_eq!((value(&image, policy).as_deref(), count), (expected, 1), "{operation:?} {text}");
        }
        assert_eq!(alter(&mut image, edits(topic("t"), &[(Append, policy, Some("compact"))])), 0);
        assert_eq!(alter(&mut image, edits(topic("t"), &[(Delete, "nonsense", None)])), 0);
        assert_eq!(alter(&mut image, set(topic("t"), &[("retention.ms", "5"), ("segment.ms", "9")])), 1);
        let replace = ResourceEdits { replaces: true, ..set(topic("t"), &[("retention.ms", "6")]) };
        alter(&mut image, replace);
        let configs = &image.topic_by_name("t").unwrap().configs;
        assert_eq!(*configs, BTreeMap::from([("retention.ms".to_owned(), "6".to_owned())]));
        assert!(decide(&image, &[set(topic("t"), &[("retention.ms", "7")])], true).records.is_empty());
    }

    #[test]
    fn each_resource_succeeds_or_fails_as_a_whole() {
        let image = image_with_topics(&["t", "u"]);
        let resources = [
            set(topic("t"), &[("retention.ms", "1"), ("segment.ms", "x")]),
            set(topic("u"), &[("retention.ms", "1")]),
            set(group("g"), &[("consumer.session.timeout.ms", "50000")]),
            set(group("h"), &[("consumer.session.timeout.ms", "50000")]),
            set(group("h"), &[("consumer.session.timeout.ms", "50000")]),
        ];
        let plan = decide(&image, &resources, false);
        let is_done: Vec<_> = plan.results.iter().map(Result::is_ok).collect();
        assert_eq!(is_done, [false, true, true, false, false]);
        assert_eq!(plan.records.len(), 2);
        let message = &plan.results[4].as_ref().unwrap_err().message;
        assert_eq!(message, "Each resource must appear at most once.");
    }

    #[test]
    fn brokers_and_groups_have_configs() {
        let mut image = image_with_topics(&[]);
        let all = ConfigResource::Broker(None);
        let one = ConfigResource::Broker(Some(NODE));
        alter(&mut image, set(all.clone(), &[("log.retention.ms", "8"), ("message.max.bytes", "5")]));
        alter(&mut image, set(one.clone(), &[("log.retention.ms", "7")]));
        alter(&mut image, set(group("g"), &[("consumer.session.timeout.ms", "50000")]));
        let settings = BrokerSettings::from_values(BTreeMap::new()).unwrap();
        let effective = image.effective_settings(NODE, &settings);
        assert_eq!((effective.log.retention_ms, effective.log.message_max_bytes), (Some(7), 5));
        let other = image.effective_settings(NodeId(2), &settings);
        assert_eq!(other.log.retention_ms, Some(8));
        assert_eq!(image.groups_with_configs().map(|name| &**name).collect::<Vec<_>>(), ["g"]);
        let mut again = Image::default();
        image.to_records().for_each(|record| again.apply(&record).unwrap());
        assert_eq!(again, image);
        assert!(again.has_same_broker_configs(&image));
        let before = image.clone();
        for (resource, name) in [(one, "log.retention.ms"), (group("g"), "consumer.session.timeout.ms")] {
            alter(&mut image, edits(resource, &[(ConfigOperation::Delete, name, None)]));
        }
        assert!(image.broker_configs(Some(NODE)).is_empty() && image.group_configs("g").is_empty());
        assert_eq!(image.groups_with_configs().count(), 0);
        assert!(!before.has_same_broker_configs(&image));
        let list = edits(all, &[(ConfigOperation::Append, "log.cleanup.policy", Some("compact"))]);
        alter(&mut image, list);
        assert_eq!(image.broker_configs(None).get("log.cleanup.policy").unwrap(), "delete,compact");
    }

    #[test]
    fn each_refusal_has_kafkas_text() {
        use AlterConfigsErrorKind::{InvalidConfig, InvalidRequest, InvalidTopic, UnknownTopic};
        use ConfigOperation::{Append, Set, Subtract};
        let image = image_with_topics(&["t"]);
        let all = || ConfigResource::Broker(None);
        let good = ("retention.ms", "1");
        let cases = [
            (
                edits(topic("t"), &[(Append, "retention.ms", Some("5"))]),
                InvalidConfig,
                "Can't APPEND to key retention.ms because its type is not LIST.",
            ),
            (
                edits(topic("t"), &[(Subtract, "nonsense", Some("5"))]),
                InvalidConfig,
                "Can't SUBTRACT to key nonsense because its type is not LIST.",
            ),
            (
                edits(topic("t"), &[(Set, "retention.ms", None), (Set, "a", None)]),
                InvalidRequest,
                "Null value not supported for : retention.ms, a",
            ),
            (set(topic("t"), &[good, good]), InvalidRequest, "Error due to duplicate config keys"),
            (set(topic("t"), &[("nonsense", "1")]), InvalidConfig, "Unknown topic config name: nonsense"),
            (
                set(topic("t"), &[("retention.ms", "abc")]),
                InvalidConfig,
                "Invalid value abc for configuration retention.ms: Not a number of type LONG",
            ),
            (
                set(topic("missing"), &[("nonsense", "1")]),
                InvalidConfig,
                "Unknown topic config name: nonsense",
            ),
            (set(topic("missing"), &[good]), UnknownTopic, "The topic 'missing' does not exist."),
            (set(topic("a/b"), &[good]), InvalidTopic, "Topic name is invalid: "),
            (set(topic(""), &[good]), InvalidRequest, "Default topic resources are not allowed."),
            (set(group(""), &[]), InvalidRequest, "Default group resources are not allowed."),
            (set(group("g"), &[("nonsense", "1")]), InvalidConfig, "Unknown group config name: nonsense"),
            (
                set(all(), &[("num.partitions", "3")]),
                InvalidRequest,
                "Cannot update these configs dynamically: [num.partitions]",
            ),
            (
                edits(all(), &[(Append, "message.max.bytes", Some("2"))]),
                InvalidConfig,
                "Config value append is not allowed for config key: message.max.bytes",
            ),
            (set(all(), &[("a", &"x".repeat(40_000))]), InvalidConfig, "longer than 32767 bytes"),
        ];
        for (resource, kind, text) in cases {
            let (refused, message) = refusal(&image, resource);
            assert_eq!(refused, kind, "{message}");
            assert!(message.contains(text), "{message}");
        }
    }
}
