//! Settings as DescribeConfigs shows them: the effective value, where it comes from, and what else was given.

use super::broker::{BrokerSettings, Source};
use super::declaration::{Setting, Synonym};
use super::group::GroupConfig;
use super::passed_over;
use super::topic::TopicSettings;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Broker settings that say the same in different units: each is listed among the synonyms of the others.
const FAMILIES: &[&[&str]] = &[
    &["log.retention.ms", "log.retention.minutes", "log.retention.hours"],
    &["log.roll.ms", "log.roll.hours"],
    &["log.roll.jitter.ms", "log.roll.jitter.hours"],
    &["log.flush.interval.ms", "log.flush.scheduler.interval.ms"],
];

/// One value that somebody gave, or the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The key under which it was given.
    pub name: Cow<'static, str>,
    /// The value, in the unit of that key; `None` for what is secret or null.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Source,
}

/// One setting as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// The key.
    pub name: Cow<'static, str>,
    /// The declaration; none for a key that is only stored.
    pub setting: Option<&'static Setting>,
    /// The effective value; `None` for what is secret or null.
    pub value: Option<String>,
    /// Where the effective value comes from.
    pub source: Source,
    /// All values from the one that counts to the default, as `include_synonyms` asks for them.
    pub synonyms: Vec<Given>,
}

impl Described {
    /// Whether the value must never be shown. What is not declared might be a secret.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        is_secret(&self.name)
    }

    /// Whether only a restart changes the value.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        let is_known = passed_over::is_dynamic_broker_key(&self.name);
        self.setting.map_or(!is_known, Setting::is_read_only)
    }
}

/// Whether the value of a key must never be shown: of one that is not known it might be a password.
fn is_secret(key: &str) -> bool {
    let declared = || [BrokerSettings::find(key), TopicSettings::find(key), GroupConfig::find(key)];
    !passed_over::is_dynamic_broker_key(key)
        && declared().into_iter().flatten().next().is_none_or(Setting::is_sensitive)
}

/// All settings of a broker, in the order of their names, those that are only stored among them.
#[must_use]
pub fn describe_broker(broker: &BrokerSettings) -> Vec<Described> {
    let declared = BrokerSettings::declarations().map(|setting| {
        let value = broker.effective(setting).0.map(|text| setting.kind.canonical(text));
        described(setting, value, given_for(broker, setting.name))
    });
    let values = broker.values();
    let stored = values.dynamic.keys().chain(values.dynamic_default.keys());
    let undeclared: BTreeMap<&String, ()> =
        stored.filter(|key| BrokerSettings::find(key).is_none()).map(|key| (key, ())).collect();
    let undeclared = undeclared.into_keys().map(|key| {
        let synonyms = given_for(broker, key);
        let source = synonyms.first().map_or(Source::Default, |given| given.source);
        let value = synonyms.first().and_then(|given| given.value.clone());
        Described { name: Cow::Owned(key.clone()), setting: None, value, source, synonyms }
    });
    let mut all: Vec<_> = declared.chain(undeclared).collect();
    all.sort_by(|left, right| left.name.cmp(&right.name));
    all
}

/// What is set on the running cluster for all of its brokers, in the order of the names.
#[must_use]
pub fn describe_cluster_default(layer: &BTreeMap<String, String>) -> Vec<Described> {
    layer
        .iter()
        .map(|(key, text)| {
            let setting = BrokerSettings::find(key);
            let value = (!is_secret(key)).then(|| text.clone());
            let name = setting.map_or_else(|| Cow::Owned(key.clone()), |setting| setting.name.into());
            let source = Source::DynamicDefaultBroker;
            let synonyms = vec![Given { name: name.clone(), value: value.clone(), source }];
            Described { name, setting, value, source, synonyms }
        })
        .collect()
}

/// All settings of a topic with these overrides, in the order of their names.
#[must_use]
pub fn describe_topic(overrides: &BTreeMap<String, String>, broker: &BrokerSettings) -> Vec<Described> {
    describe_all(TopicSettings::DECLARATIONS, overrides, Source::Topic, broker, false)
}

/// All settings of a group with these overrides, in the order of their names.
#[must_use]
pub fn describe_group(overrides: &BTreeMap<String, String>, broker: &BrokerSettings) -> Vec<Described> {
    describe_all(GroupConfig::DECLARATIONS, overrides, Source::Group, broker, true)
}

fn describe_all(
    declarations: &'static [Setting],
    overrides: &BTreeMap<String, String>,
    source: Source,
    broker: &BrokerSettings,
    always_has_synonyms: bool,
) -> Vec<Described> {
    let mut all: Vec<_> = declarations
        .iter()
        .map(|setting| {
            let own = overrides.get(setting.name).map(|text| setting.kind.canonical(text));
            let value = own.clone().or_else(|| broker.inherited(setting));
            let mut synonyms = match setting.synonyms.first() {
                Some(synonym) => inherited(broker, setting, synonym),
                None => Vec::new(),
            };
            if synonyms.is_empty() && always_has_synonyms {
                let default = setting.default.map(str::to_owned);
                synonyms.push(Given { name: setting.name.into(), value: default, source: Source::Default });
            }
            if own.is_some() {
                synonyms.insert(0, Given { name: setting.name.into(), value: own, source });
            }
            described(setting, value, synonyms)
        })
        .collect();
    all.sort_by(|left, right| left.name.cmp(&right.name));
    all
}

/// What was given for the broker's setting from which a topic's or group's comes.
fn inherited(broker: &BrokerSettings, setting: &'static Setting, synonym: &Synonym) -> Vec<Given> {
    if BrokerSettings::find(synonym.name).is_some() {
        return given_for(broker, synonym.name);
    }
    // The broker does not have that setting; Kafka's has the default of the group's.
    let default = setting.default.map(str::to_owned);
    vec![Given { name: synonym.name.into(), value: default, source: Source::Default }]
}

fn described(setting: &'static Setting, value: Option<String>, synonyms: Vec<Given>) -> Described {
    let source = synonyms.first().map_or(Source::Default, |given| given.source);
    let value = value.filter(|_| !setting.is_sensitive());
    Described { name: setting.name.into(), setting: Some(setting), value, source, synonyms }
}

/// What was given for a broker's setting and for those of its family, the strongest layer first; as in Kafka, what
/// stands before the first value of the setting itself is left out.
fn given_for(broker: &BrokerSettings, key: &str) -> Vec<Given> {
    let family = FAMILIES.iter().find(|family| family.contains(&key));
    let names = family.map_or_else(|| vec![key], |family| family.to_vec());
    let shown = |name: &str, text: &str, source| {
        let setting = BrokerSettings::find(name);
        let value = (!is_secret(name)).then(|| text.to_owned());
        let name = setting.map_or_else(|| Cow::Owned(name.to_owned()), |setting| setting.name.into());
        Given { name, value, source }
    };
    let mut given = Vec::new();
    for (layer, source) in broker.values().layers() {
        let of_layer = names.iter().filter_map(|name| Some(shown(name, layer.get(*name)?, source)));
        given.extend(of_layer);
    }
    let default = |name: &&str| Some(shown(name, BrokerSettings::find(name)?.default?, Source::Default));
    given.extend(names.iter().filter_map(default));
    given.into_iter().skip_while(|given| given.name != key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::BrokerValues;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn named<'a>(all: &'a [Described], name: &str) -> &'a Described {
        all.iter().find(|described| described.name == name).expect("declared")
    }

    fn synonyms(described: &Described) -> Vec<(&str, &str)> {
        let synonyms = described.synonyms.iter();
        synonyms.map(|given| (&*given.name, given.value.as_deref().unwrap_or("-"))).collect()
    }

    #[test]
    fn layers_of_a_broker_stand_in_their_order() {
        let broker = BrokerSettings::new(BrokerValues {
            dynamic: map(&[
                ("message.max.bytes", "3"),
                ("my.secret", "x"),
                ("num.io.threads", "9"),
                ("log.retention.ms", "7"),
            ]),
            dynamic_default: map(&[("message.max.bytes", "2"), ("log.segment.bytes", "2097152")]),
            fixed: map(&[
                ("message.max.bytes", "1"),
                ("log.segment.bytes", "3145728"),
                ("log.retention.hours", "100"),
            ]),
        })
        .expect("valid");
        assert_eq!(broker.log.message_max_bytes, 3);
        assert_eq!(broker.log.segment_bytes, 2 << 20);
        let all = describe_broker(&broker);
        let described = named(&all, "message.max.bytes");
        assert_eq!((described.value.as_deref(), described.source), (Some("3"), Source::DynamicBroker));
        let values: Vec<_> = synonyms(described).into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, ["3", "2", "1", "1048588"]);
        assert!(all.is_sorted_by_key(|described| described.name.clone()));
        let expected =
            [("log.retention.ms", "7"), ("log.retention.hours", "100"), ("log.retention.hours", "168")];
        assert_eq!(synonyms(named(&all, "log.retention.ms")), expected);
        assert_eq!(synonyms(named(&all, "log.retention.hours")), expected[1..]);
        assert_eq!(synonyms(named(&all, "log.roll.ms")), []);
        let stored = named(&all, "my.secret");
        assert!(stored.is_sensitive() && stored.is_read_only());
        assert_eq!((stored.value.as_deref(), stored.source), (None, Source::DynamicBroker));
        assert_eq!(synonyms(stored), [("my.secret", "-")]);
        let threads = named(&all, "num.io.threads");
        assert!(!threads.is_sensitive() && !threads.is_read_only());
        assert_eq!(threads.value.as_deref(), Some("9"));
        let defaults = describe_cluster_default(&broker.values().dynamic_default);
        assert_eq!(defaults.len(), 2);
        let described = named(&defaults, "message.max.bytes");
        assert_eq!((described.value.as_deref(), described.source), (Some("2"), Source::DynamicDefaultBroker));
        assert_eq!(synonyms(described), [("message.max.bytes", "2")]);
    }

    #[test]
    fn a_topic_inherits_through_units() {
        let broker = BrokerSettings::from_values(map(&[("log.retention.hours", "2")])).expect("valid");
        let all = describe_topic(&map(&[("segment.bytes", " 2097152")]), &broker);
        let retention = named(&all, "retention.ms");
        // Kafka tells of the source of log.retention.ms only, so that kafka-topics lists no overrides.
        assert_eq!((retention.value.as_deref(), retention.source), (Some("7200000"), Source::Default));
        assert_eq!(synonyms(retention), []);
        let segment = named(&all, "segment.bytes");
        assert_eq!((segment.value.as_deref(), segment.source), (Some("2097152"), Source::Topic));
        assert_eq!(synonyms(segment), [("segment.bytes", "2097152"), ("log.segment.bytes", "1073741824")]);
        assert_eq!(named(&all, "cleanup.policy").value.as_deref(), Some("delete"));
        assert_eq!(synonyms(named(&all, "remote.storage.enable")), []);
        assert_eq!(named(&all, "flush.ms").value.as_deref(), Some("9223372036854775807"));
    }

    #[test]
    fn a_group_shows_what_it_inherits() {
        let broker = BrokerSettings::from_values(BTreeMap::new()).expect("valid");
        let all = describe_group(&map(&[("consumer.session.timeout.ms", "50000")]), &broker);
        let described = named(&all, "consumer.session.timeout.ms");
        assert_eq!((described.value.as_deref(), described.source), (Some("50000"), Source::Group));
        let expected =
            [("consumer.session.timeout.ms", "50000"), ("group.consumer.session.timeout.ms", "45000")];
        assert_eq!(synonyms(described), expected);
        let described = named(&all, "share.session.timeout.ms");
        assert_eq!(synonyms(described), [("group.share.session.timeout.ms", "45000")]);
        let described = named(&all, "share.auto.offset.reset");
        assert_eq!(synonyms(described), [("share.auto.offset.reset", "latest")]);
        assert_eq!(all.len(), 17);
    }

    #[test]
    fn what_is_described_is_what_counts() {
        let broker =
            BrokerSettings::from_values(map(&[("log.roll.hours", "1"), ("log.retention.minutes", "-1")]));
        let broker = broker.expect("valid");
        let overrides = map(&[("max.message.bytes", "7")]);
        let resolved = TopicSettings::resolve(&overrides, &broker).expect("valid");
        let all = describe_topic(&overrides, &broker);
        assert_eq!(named(&all, "segment.ms").value, Some(resolved.segment_ms.to_string()));
        assert_eq!(named(&all, "max.message.bytes").value, Some(resolved.max_message_bytes.to_string()));
        assert_eq!((named(&all, "retention.ms").value.as_deref(), resolved.retention_ms), (Some("-1"), None));
    }
}
