//! One broker's settings, from every layer that may give one.

use super::cluster::ClusterSettings;
use super::coordinators::{GroupSettings, TransactionSettings};
use super::declaration::Setting;
use super::error::SettingError;
use super::log::LogSettings;
use super::network::NetworkSettings;
use super::node::NodeSettings;
use super::resources::ResourceSettings;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where an effective value comes from (the sources of DescribeConfigs, KIP-226).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Set on the topic.
    Topic,
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

    /// The text that a topic's setting has on this broker when the topic does not say.
    #[must_use]
    pub fn topic_default(&self, setting: &Setting) -> Option<String> {
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
