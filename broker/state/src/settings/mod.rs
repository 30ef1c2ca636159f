//! Every setting of the broker and of its topics, declared once: its name, type, default, bounds, scope and
//! meaning. Files, flags, the environment, DescribeConfigs and the reference all derive from here.
//!
//! Names and defaults are those of Kafka 4.3, except that a node without any settings is complete: it has an
//! id, both roles, a listener on the loopback address and a data directory. Settings that are only Logmill's start
//! with `logmill.`.

mod broker;
mod cluster;
mod coordinators;
mod declaration;
mod describe;
mod endpoint;
mod error;
mod group;
mod log;
mod network;
mod node;
pub mod passed_over;
mod resources;
pub mod suggestion;
mod topic;
mod typed;

pub use broker::{BrokerSettings, BrokerValues, Source};
pub use cluster::{ClusterSettings, ReplicaSelector};
pub use coordinators::{GroupSettings, TransactionSettings};
pub use declaration::{Kind, Scope, Setting, Synonym, ValueType, list_items};
pub use describe::{
    Described, Given, describe_broker, describe_cluster_default, describe_group, describe_topic,
};
pub use endpoint::{Endpoint, Listener, ListenerProtocol, SecurityProtocol, Voter};
pub use error::SettingError;
pub use group::{ConsumerTimes, GroupConfig};
pub use log::{CleanupPolicy, CompressionType, LogSettings, TimestampType};
pub use network::NetworkSettings;
pub use node::{NodeSettings, Roles};
pub use resources::ResourceSettings;
pub use topic::TopicSettings;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_default_is_a_value_of_its_setting() {
        for setting in
            BrokerSettings::declarations().chain(TopicSettings::DECLARATIONS).chain(GroupConfig::DECLARATIONS)
        {
            if let Some(default) = setting.default {
                assert_eq!(setting.check(default), Ok(()), "{}", setting.name);
            }
            assert!(setting.prose().ends_with('.'), "{} lacks prose", setting.name);
        }
        let settings = BrokerSettings::from_values(BTreeMap::new()).expect("the defaults are complete");
        TopicSettings::resolve(&BTreeMap::new(), &settings).expect("a topic needs no overrides");
    }

    #[test]
    fn every_setting_is_declared_once() {
        for settings in [
            BrokerSettings::declarations().map(|setting| setting.name).collect::<Vec<_>>(),
            TopicSettings::DECLARATIONS.iter().map(|setting| setting.name).collect(),
        ] {
            let mut seen = BTreeSet::new();
            for name in settings {
                assert!(seen.insert(name), "{name} is declared twice");
                assert!(!passed_over::BROKER_KEYS.contains(&name), "{name} is declared and passed over");
            }
        }
    }

    /// A topic's setting and the broker's that it comes from must take the same values, or a broker could start with
    /// a default that no topic can have.
    #[test]
    fn synonyms_are_declared_and_agree() {
        for setting in TopicSettings::DECLARATIONS {
            assert_eq!(setting.scope, Scope::Topic, "{}", setting.name);
            let has_none = setting.name.starts_with("remote.") || setting.name.contains(".throttled.");
            assert_eq!(setting.synonyms.is_empty(), has_none, "broker settings of {}", setting.name);
            let mut worked_out = None;
            for synonym in setting.synonyms {
                let broker = BrokerSettings::find(synonym.name).expect(synonym.name);
                // A topic whose own value counts has the broker's count as well.
                assert_eq!(broker.inert, setting.inert, "{} and {}", setting.name, broker.name);
            }
            for synonym in setting.synonyms {
                let broker = BrokerSettings::find(synonym.name).expect(synonym.name);
                if synonym.factor == 1 {
                    assert_eq!(broker.kind, setting.kind, "{} and {}", setting.name, broker.name);
                }
                if let Some(default) = broker.default {
                    worked_out.get_or_insert_with(|| synonym.convert(default));
                }
            }
            if has_none {
                continue;
            }
            assert_eq!(worked_out.as_deref(), setting.default, "the default of {}", setting.name);
        }
    }

    #[test]
    fn a_topic_overrides_its_broker() {
        let broker = BrokerSettings::from_values(map(&[
            ("log.retention.ms", "1000"),
            ("log.retention.hours", "5"),
            ("log.cleanup.policy", "compact"),
            ("log.segment.bytes", "2097152"),
        ]))
        .expect("valid");
        let topic = TopicSettings::resolve(
            &map(&[("cleanup.policy", "delete,compact"), ("retention.bytes", "9")]),
            &broker,
        )
        .expect("valid");
        assert_eq!(topic.retention_ms, Some(1000));
        assert_eq!(topic.retention_bytes, Some(9));
        assert_eq!(topic.cleanup_policy, CleanupPolicy { delete: true, compact: true });
        assert_eq!(topic.segment_bytes, 2_097_152);
        let plain = TopicSettings::resolve(&BTreeMap::new(), &broker).expect("valid");
        assert_eq!(plain.cleanup_policy, CleanupPolicy { delete: false, compact: true });
    }

    #[test]
    fn a_topic_refuses_what_makes_no_sense() {
        let broker = BrokerSettings::from_values(BTreeMap::new()).expect("valid");
        let refuse = |pairs| TopicSettings::resolve(&map(pairs), &broker).expect_err("must be refused");
        let error = refuse(&[("retention.ms", "-2")]);
        assert_eq!(
            error.to_string(),
            "Invalid value -2 for configuration retention.ms: Value must be at least -1"
        );
        assert_eq!(refuse(&[("retension.ms", "1")]).remedy, "did you mean retention.ms?");
        assert_eq!(refuse(&[("nonsense", "1")]).problem, "Unknown topic config name: nonsense");
        let error = refuse(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")]);
        assert_eq!(error.key, "max.compaction.lag.ms");
        assert_eq!(error.kafka_text().split(' ').next(), Some("conflict"));
        assert_eq!(TopicSettings::check("internal.segment.bytes", "1"), Ok(()), "Kafka has it, tools set it");
        let error = refuse(&[("remote.storage.enable", "true")]);
        assert!(error.kafka_text().starts_with("Tiered Storage functionality is disabled"));
    }

    #[test]
    fn nothing_given_is_a_node_that_is_complete() {
        let settings = BrokerSettings::from_values(BTreeMap::new()).expect("valid");
        assert_eq!(settings.node.roles, Roles { broker: true, controller: true });
        assert_eq!(settings.node.listeners[0].to_string(), "PLAINTEXT://127.0.0.1:9092");
        assert_eq!(settings.data_directories(), [std::path::PathBuf::from("./logmill-data")]);
        assert_eq!(settings.resources.shards, None);
        assert_eq!(settings.groups.offsets_replication_factor, 3);
        assert!(!settings.log.write_caching, "durable unless somebody says otherwise");
    }
}
