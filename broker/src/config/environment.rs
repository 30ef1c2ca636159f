//! Environment variables: `LOGMILL_LOG_DIRS` is `log.dirs`, `LOGMILL_SHARDS` is `logmill.shards`.
//!
//! An underscore may stand for a dot in one place only, so a variable's meaning is looked up among the declared
//! settings, never guessed from its name.

use super::source::{ConfigError, Entry, Origin};
use logmill_state::settings::{BrokerSettings, suggestion};
use std::collections::BTreeMap;

/// What the broker's variables begin with.
const PREFIX: &str = "LOGMILL_";

/// The variable that names the configuration file.
pub const CONFIG_FILE: &str = "LOGMILL_CONFIG";

/// What the variables of the programs beside the broker begin with; they are not for us.
const NEIGHBOURS: &[&str] = &["LOGMILL_BENCH_", "LOGMILL_CI_", "LOGMILL_SIM_", "LOGMILL_TUNING_"];

/// The entries that the environment gives, and its errors.
pub fn read(variables: impl IntoIterator<Item = (String, String)>) -> (Vec<Entry>, Vec<ConfigError>) {
    let names = names();
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    for (variable, value) in variables {
        let is_ours = variable.starts_with(PREFIX)
            && variable != CONFIG_FILE
            && !NEIGHBOURS.iter().any(|neighbour| variable.starts_with(neighbour));
        if !is_ours {
            continue;
        }
        match names.get(&variable) {
            Some(key) => entries.push(Entry {
                key: (*key).to_owned(),
                value: value.trim().to_owned(),
                origin: Origin::Environment { variable },
                was_written_for_kafka: false,
            }),
            None => {
                let remedy = match suggestion::nearest(&variable, names.keys().map(String::as_str)) {
                    Some(name) => format!("did you mean {name}? Otherwise unset it"),
                    None => "unset it; `logmill config` lists all settings".to_owned(),
                };
                errors.push(ConfigError::general(format!("{variable} names no setting"), remedy));
            }
        }
    }
    (entries, errors)
}

/// The variable of every setting; our own settings may be named with or without their prefix.
fn names() -> BTreeMap<String, &'static str> {
    let mut names = BTreeMap::new();
    for setting in BrokerSettings::declarations() {
        names.insert(variable(setting.name), setting.name);
        if let Some(rest) = setting.name.strip_prefix("logmill.") {
            // Kafka's own name wins where both exist; a test below keeps that from happening.
            names.entry(variable(rest)).or_insert(setting.name);
        }
    }
    names
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(variable: &str, value: &str) -> (Vec<Entry>, Vec<ConfigError>) {
        read([(variable.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_variable_means_one_setting() {
        let declared: Vec<&str> = BrokerSettings::declarations().map(|setting| setting.name).collect();
        let own = declared.iter().filter(|name| name.starts_with("logmill.")).count();
        assert_eq!(names().len(), declared.len() + own, "two settings share a variable");
    }

    #[test]
    fn variables_are_looked_up() {
        for (variable, key) in [
            ("LOGMILL_LOG_DIRS", "log.dirs"),
            ("LOGMILL_SHARDS", "logmill.shards"),
            ("LOGMILL_LOGMILL_SHARDS", "logmill.shards"),
            ("LOGMILL_MAX_CONNECTIONS_PER_IP", "max.connections.per.ip"),
        ] {
            let (entries, errors) = one(variable, " 1 ");
            assert_eq!((entries[0].key.as_str(), entries[0].value.as_str()), (key, "1"));
            assert!(errors.is_empty());
        }
    }

    #[test]
    fn an_unknown_variable_is_an_error_unless_it_is_not_ours() {
        let (entries, errors) = one("LOGMILL_LOG_DIR_S", "x");
        assert!(entries.is_empty());
        assert!(errors[0].remedy.starts_with("did you mean LOGMILL_LOG_DIRS?"), "{}", errors[0].remedy);
        for other in ["PATH", "KAFKA_HEAP_OPTS", CONFIG_FILE, "LOGMILL_SIM_SEEDS"] {
            assert_eq!(one(other, "x"), (vec![], vec![]), "{other}");
        }
    }
}
