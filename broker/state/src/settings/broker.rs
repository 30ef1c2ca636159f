//! One broker's settings, from every layer that may give one.

use super::cluster::ClusterSettings;
use super::coordinators::{GroupSettings, TransactionSettings};
use super::declaration::{Scope, Setting};
use super::error::SettingError;
use super::log::LogSettings;
use super::network::NetworkSettings;
use super::node::NodeSettings;
use super::passed_over;
use super::resources::ResourceSettings;
use super::topic::TopicSettings;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where an effective value comes from (the sources of DescribeConfigs, KIP-226).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Set on the topic.
    Topic,
    /// Set on the group.
    Group,
    /// Set on the running cluster, for this broker.
    DynamicBroker,
    /// Set on the running cluster, for all brokers.
    DynamicDefaultBroker,
    /// Given when the broker was started: flag, environment or file.
    StaticBroker,
    /// Given by nobody.
    Default,
}

/// The values that somebody gave for a broker, by layer; the first layer that has a key counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerValues {
    /// Set on the running cluster, for this broker.
    pub dynamic: BTreeMap<String, String>,
    /// Set on the running cluster, for all brokers.
    pub dynamic_default: BTreeMap<String, String>,
    /// Given when the broker was started.
    pub fixed: BTreeMap<String, String>,
}

impl BrokerValues {
    /// The layers, the strongest first.
    #[must_use]
    pub const fn layers(&self) -> [(&BTreeMap<String, String>, Source); 3] {
        [
            (&self.dynamic, Source::DynamicBroker),
            (&self.dynamic_default, Source::DynamicDefaultBroker),
            (&self.fixed, Source::StaticBroker),
        ]
    }

    /// The value that counts among those given, and its layer.
    #[must_use]
    pub fn given(&self, key: &str) -> Option<(&str, Source)> {
        self.layers()
            .into_iter()
            .find_map(|(layer, source)| layer.get(key).map(|text| (text.as_str(), source)))
    }
}

/// One broker's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerSettings {
    /// What the node is, where it listens and where it keeps its data.
    pub node: NodeSettings,
    /// Connections and requests.
    pub network: NetworkSettings,
    /// What holds for topics that do not say otherwise.
    pub log: LogSettings,
    /// Topics and their replicas.
    pub cluster: ClusterSettings,
    /// Consumer groups and their offsets.
    pub groups: GroupSettings,
    /// Transactions.
    pub transactions: TransactionSettings,
    /// What the broker takes of its machine.
    pub resources: ResourceSettings,
    values: BrokerValues,
}

impl BrokerSettings {
    /// The settings that follow from what was given. Keys that are not declared are left alone: whoever reads
    /// a source decides about those.
    ///
    /// # Errors
    /// A value is not one that its setting takes.
    pub fn new(values: BrokerValues) -> Result<Self, SettingError> {
        let lookup = |setting: &'static Setting| {
            values.given(setting.name).map(|(text, _)| text).or(setting.default).map(str::to_owned)
        };
        Ok(Self {
            node: NodeSettings::read(&lookup)?,
            network: NetworkSettings::read(&lookup)?,
            log: LogSettings::read(&lookup)?,
            cluster: ClusterSettings::read(&lookup)?,
            groups: GroupSettings::read(&lookup)?,
            transactions: TransactionSettings::read(&lookup)?,
            resources: ResourceSettings::read(&lookup)?,
            values,
        })
    }

    /// The settings of a broker that was started with `fixed` and has nothing set on the running cluster.
    ///
    /// # Errors
    /// A value is not one that its setting takes.
    pub fn from_values(fixed: BTreeMap<String, String>) -> Result<Self, SettingError> {
        Self::new(BrokerValues { fixed, ..BrokerValues::default() })
    }

    /// The values that somebody gave, by layer.
    #[must_use]
    pub const fn values(&self) -> &BrokerValues {
        &self.values
    }

    /// The effective text of a setting and where it comes from; no text is Kafka's null.
    #[must_use]
    pub fn effective(&self, setting: &'static Setting) -> (Option<&str>, Source) {
        match self.values.given(setting.name) {
            Some((text, source)) => (Some(text), source),
            None => (setting.default, Source::Default),
        }
    }

    /// The settings with other values set on the running cluster.
    ///
    /// # Errors
    /// A value is not one that its setting takes.
    pub fn with_dynamic(
        &self,
        dynamic: BTreeMap<String, String>,
        dynamic_default: BTreeMap<String, String>,
    ) -> Result<Self, SettingError> {
        Self::new(BrokerValues { dynamic, dynamic_default, fixed: self.values.fixed.clone() })
    }

    /// Checks what shall be set on the running cluster, for this broker (`is_per_broker`) or for all of them: all
    /// values of that layer together, as they would be. As in Kafka, keys that nobody has heard of are taken.
    ///
    /// # Errors
    /// What is wrong, in Kafka's words.
    pub fn check_dynamic(&self, layer: &BTreeMap<String, String>, is_per_broker: bool) -> Result<(), String> {
        let named = |wrong: &dyn Fn(&str) -> bool| -> Option<String> {
            let names: Vec<&str> = layer.keys().map(String::as_str).filter(|key| wrong(key)).collect();
            (!names.is_empty()).then(|| names.join(", "))
        };
        if let Some(names) = named(&|key| !is_dynamic(key)) {
            return Err(format!("Cannot update these configs dynamically: [{names}]"));
        }
        for (key, value) in layer {
            if let Some(setting) = Self::find(key) {
                setting.check(value).map_err(|error| error.to_string())?;
            }
        }
        let is_for_one = |key: &str| Self::find(key).is_some_and(|setting| setting.scope == Scope::PerBroker);
        if let Some(names) = named(&is_for_one).filter(|_| !is_per_broker) {
            return Err(format!(
                "Cannot update these configs at default cluster level, broker id must be specified: [{names}]"
            ));
        }
        let values = self.values();
        let (dynamic, dynamic_default) = if is_per_broker {
            (layer.clone(), values.dynamic_default.clone())
        } else {
            (values.dynamic.clone(), layer.clone())
        };
        let changed = self.with_dynamic(dynamic, dynamic_default).map_err(|error| error.to_string())?;
        TopicSettings::resolve(&BTreeMap::new(), &changed).map(drop).map_err(|error| error.kafka_text())
    }

    /// The text that the setting of a topic or a group has on this broker when the topic or group does not say.
    #[must_use]
    pub fn inherited(&self, setting: &Setting) -> Option<String> {
        setting
            .synonyms
            .iter()
            .find_map(|synonym| self.values.given(synonym.name).map(|(text, _)| synonym.convert(text)))
            .or_else(|| setting.default.map(str::to_owned))
    }

    /// The data directories: `log.dirs`, or the one of `log.dir`.
    #[must_use]
    pub fn data_directories(&self) -> Vec<PathBuf> {
        if self.node.log_dirs.is_empty() {
            vec![self.node.log_dir.clone()]
        } else {
            self.node.log_dirs.clone()
        }
    }

    /// The declarations of all broker settings.
    pub fn declarations() -> impl Iterator<Item = &'static Setting> {
        [
            NodeSettings::DECLARATIONS,
            NetworkSettings::DECLARATIONS,
            LogSettings::DECLARATIONS,
            ClusterSettings::DECLARATIONS,
            GroupSettings::DECLARATIONS,
            TransactionSettings::DECLARATIONS,
            ResourceSettings::DECLARATIONS,
        ]
        .into_iter()
        .flatten()
    }

    /// The declaration of a broker's key.
    #[must_use]
    pub fn find(key: &str) -> Option<&'static Setting> {
        Self::declarations().find(|setting| setting.name == key)
    }
}

/// Whether a broker's key may be altered while it runs. One that is unknown may: a plugin's, as Kafka sees it.
fn is_dynamic(key: &str) -> bool {
    match BrokerSettings::find(key) {
        Some(setting) => !setting.is_read_only(),
        None => passed_over::is_dynamic_broker_key(key) || !passed_over::is_known_broker_key(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_may_change_while_a_broker_runs() {
        let broker = BrokerSettings::from_values(map(&[("log.retention.hours", "5")])).expect("valid");
        let check = |pairs| broker.check_dynamic(&map(pairs), false);
        assert_eq!(check(&[("message.max.bytes", "5"), ("num.io.threads", "3"), ("my.plugin", "x")]), Ok(()));
        let refused = [
            (&[("node.id", "3"), ("num.partitions", "3")][..], "dynamically: [node.id, num.partitions]"),
            (&[("listener.name.a.ssl.keystore.password", "x")], "Cannot update these configs dynamically"),
            (&[("ssl.key.password", "x")], "Cannot update these configs dynamically: [ssl.key.password]"),
            (
                &[("message.max.bytes", "-1")],
                "Invalid value -1 for configuration message.max.bytes: Value must be at least 0",
            ),
            (
                &[("log.cleaner.max.compaction.lag.ms", "1"), ("log.cleaner.min.compaction.lag.ms", "2")],
                "conflict topic config setting min.compaction.lag.ms (2) > max.compaction.lag.ms (1)",
            ),
        ];
        for (pairs, text) in refused {
            let error = check(pairs).expect_err(text);
            assert!(error.contains(text), "{error}");
        }
        let one = broker.with_dynamic(map(&[("log.retention.ms", "7")]), map(&[("log.retention.ms", "8")]));
        assert_eq!(one.expect("valid").log.retention_ms, Some(7));
    }
}
