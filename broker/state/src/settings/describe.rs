//! Settings as DescribeConfigs shows them: the effective value, where it comes from, and what else was given.

use super::broker::{BrokerSettings, Source};
use super::declaration::{Setting, Synonym};
use super::topic::TopicSettings;
use std::collections::BTreeMap;

/// One value that somebody gave, or the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The key under which it was given.
    pub name: &'static str,
    /// The value, in the unit of that key; `None` for what is secret or null.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Source,
}

/// One setting as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// The declaration.
    pub setting: &'static Setting,
    /// The effective value; `None` for what is secret or null.
    pub value: Option<String>,
    /// Where the effective value comes from.
    pub source: Source,
    /// All values from the one that counts to the default, as `include_synonyms` asks for them.
    pub synonyms: Vec<Given>,
}

/// All settings of a broker, in the order of their names.
#[must_use]
pub fn describe_broker(broker: &BrokerSettings) -> Vec<Described> {
    let mut all: Vec<_> = BrokerSettings::declarations()
        .map(|setting| {
            let synonyms = given_for_broker(broker, setting);
            let (value, source) = effective(&synonyms);
            Described { setting, value, source, synonyms }
        })
        .collect();
    all.sort_by_key(|described| described.setting.name);
    all
}

/// All settings of a topic with these overrides, in the order of their names.
#[must_use]
pub fn describe_topic(overrides: &BTreeMap<String, String>, broker: &BrokerSettings) -> Vec<Described> {
    let mut all: Vec<_> = TopicSettings::DECLARATIONS
        .iter()
        .map(|setting| {
            let own = overrides.get(setting.name);
            let own = own.map(|text| Given {
                name: setting.name,
                value: Some(text.clone()),
                source: Source::Topic,
            });
            let mut synonyms: Vec<Given> = own.into_iter().collect();
            let mut inherited = None;
            for synonym in setting.synonyms {
                let Some(declared) = BrokerSettings::find(synonym.name) else { continue };
                for given in given_for_broker(broker, declared) {
                    note_inherited(&mut inherited, *synonym, &given);
                    synonyms.push(given);
                }
            }
            let (value, source) = match synonyms.first() {
                Some(first) if first.source == Source::Topic => (first.value.clone(), Source::Topic),
                _ => inherited.unwrap_or((setting.default.map(str::to_owned), Source::Default)),
            };
            Described { setting, value, source, synonyms }
        })
        .collect();
    all.sort_by_key(|described| described.setting.name);
    all
}

fn note_inherited(inherited: &mut Option<(Option<String>, Source)>, synonym: Synonym, given: &Given) {
    if inherited.is_none() && given.source != Source::Default {
        *inherited = Some((given.value.as_deref().map(|text| synonym.convert(text)), given.source));
    }
}

fn given_for_broker(broker: &BrokerSettings, setting: &'static Setting) -> Vec<Given> {
    let shown = |text: &str| (!setting.is_sensitive()).then(|| text.to_owned());
    let layers = broker.values().layers().into_iter();
    let mut given: Vec<Given> = layers
        .filter_map(|(layer, source)| {
            layer.get(setting.name).map(|text| Given { name: setting.name, value: shown(text), source })
        })
        .collect();
    if let Some(default) = setting.default {
        given.push(Given { name: setting.name, value: shown(default), source: Source::Default });
    }
    given
}

fn effective(synonyms: &[Given]) -> (Option<String>, Source) {
    synonyms.first().map_or((None, Source::Default), |first| (first.value.clone(), first.source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::BrokerValues;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn named<'a>(all: &'a [Described], name: &str) -> &'a Described {
        all.iter().find(|described| described.setting.name == name).expect("declared")
    }

    #[test]
    fn layers_of_a_broker_stand_in_their_order() {
        let broker = BrokerSettings::new(BrokerValues {
            dynamic: map(&[("message.max.bytes", "3")]),
            dynamic_default: map(&[("message.max.bytes", "2"), ("log.segment.bytes", "2097152")]),
            fixed: map(&[("message.max.bytes", "1"), ("log.segment.bytes", "3145728")]),
        })
        .expect("valid");
        assert_eq!(broker.log.message_max_bytes, 3);
        assert_eq!(broker.log.segment_bytes, 2 << 20);
        let all = describe_broker(&broker);
        let described = named(&all, "message.max.bytes");
        assert_eq!((described.value.as_deref(), described.source), (Some("3"), Source::DynamicBroker));
        let values: Vec<_> =
            described.synonyms.iter().map(|given| given.value.clone().expect("shown")).collect();
        assert_eq!(values, ["3", "2", "1", "1048588"]);
        assert!(all.is_sorted_by_key(|described| described.setting.name));
    }

    #[test]
    fn a_topic_inherits_through_units() {
        let broker = BrokerSettings::from_values(map(&[("log.retention.hours", "2")])).expect("valid");
        let all = describe_topic(&map(&[("segment.bytes", "2097152")]), &broker);
        let retention = named(&all, "retention.ms");
        assert_eq!((retention.value.as_deref(), retention.source), (Some("7200000"), Source::StaticBroker));
        assert_eq!(retention.synonyms[0].name, "log.retention.hours");
        assert_eq!(retention.synonyms[0].value.as_deref(), Some("2"));
        let segment = named(&all, "segment.bytes");
        assert_eq!((segment.value.as_deref(), segment.source), (Some("2097152"), Source::Topic));
        assert_eq!(segment.synonyms.len(), 2);
        assert_eq!(named(&all, "cleanup.policy").value.as_deref(), Some("delete"));
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
