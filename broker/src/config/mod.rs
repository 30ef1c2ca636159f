//! The broker's configuration: a file, the environment and flags, merged by precedence, checked, and remembered with the
//! place that each value came from.
//!
//! Flag beats environment beats file beats default. A file is TOML or Java's `server.properties`. There, keys that Kafka
//! has and that change nothing here are listed and passed over, and so are unknown ones: the file was written for
//! another broker. In TOML, the environment and flags, which were written for this one, an unknown key is an error.

mod environment;
mod properties;
mod relations;
mod source;
mod toml_file;
mod topology;

pub use environment::CONFIG_FILE;
pub use source::{ConfigError, Entry, Origin};
pub use topology::{BoundListener, Topology};

use logmill_state::settings::{BrokerSettings, Setting, passed_over, suggestion};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Settings that say the same in different units or numbers: of each family only the members count that come from
/// the strongest source, so that `--set log.dir=…` is not beaten by a `log.dirs` in the file.
const FAMILIES: &[&[&str]] = &[
    &["log.dirs", "log.dir"],
    &["log.retention.ms", "log.retention.minutes", "log.retention.hours"],
    &["log.roll.ms", "log.roll.hours"],
    &["log.roll.jitter.ms", "log.roll.jitter.hours"],
];

/// Keys of which Kafka knows an older name.
const ALIASES: &[(&str, &str)] = &[("broker.id", "node.id")];

/// What the configuration is read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// The `key=value` of each `--set`.
    pub flags: Vec<String>,
    /// The environment's variables; those that are not the broker's are left alone.
    pub environment: Vec<(String, String)>,
}

/// A key of a `server.properties` that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// The key.
    pub key: String,
    /// Where it stands.
    pub origin: Origin,
    /// Whether Kafka has the key; otherwise it may be a mistake.
    pub is_known: bool,
    /// The key that may have been meant.
    pub suggestion: Option<&'static str>,
}

/// The broker's configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The settings.
    pub settings: BrokerSettings,
    /// Who listens where, and who votes.
    pub topology: Topology,
    /// Where each value came from that is not a default.
    pub origins: BTreeMap<String, Origin>,
    /// The keys that change nothing, in their order in the file.
    pub passed_over: Vec<PassedOver>,
    /// What an operator should know although it is not wrong.
    pub notices: Vec<String>,
}

/// One setting as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective<'a> {
    /// The declaration.
    pub setting: &'static Setting,
    /// The value; `None` for what is secret or worked out when the broker starts.
    pub value: Option<&'a str>,
    /// Where it came from.
    pub origin: Origin,
}

impl Config {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// Everything that is wrong, as far as it can be told at once; never empty.
    pub fn load(sources: &Sources) -> Result<Self, Vec<ConfigError>> {
        let mut entries = match &sources.file {
            Some(path) => read_file(path).map_err(|error| vec![error])?,
            None => Vec::new(),
        };
        let (from_environment, mut errors) = environment::read(sources.environment.iter().cloned());
        entries.extend(from_environment);
        for flag in &sources.flags {
            match parse_flag(flag) {
                Ok(entry) => entries.push(entry),
                Err(error) => errors.push(error),
            }
        }
        Self::from_entries(entries, errors, &host_name())
    }

    /// Merges and checks; the entries come in the order of their precedence, the weakest first.
    fn from_entries(
        entries: Vec<Entry>,
        mut errors: Vec<ConfigError>,
        host_name: &str,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut merged: BTreeMap<String, Entry> = BTreeMap::new();
        let mut passed_over = Vec::new();
        for entry in entries {
            match classify(entry) {
                Ok(Class::Counts(entry)) => {
                    merged.insert(entry.key.clone(), entry);
                }
                Ok(Class::PassedOver(passed)) => passed_over.push(passed),
                Err(error) => errors.push(error),
            }
        }
        keep_strongest(&mut merged);
        if !errors.is_empty() {
            return Err(errors);
        }
        let values = merged.values().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        let settings = BrokerSettings::from_values(values).map_err(|error| {
            let origin = merged.get(&error.key).map_or(Origin::Default, |entry| entry.origin.clone());
            vec![ConfigError::at(&origin, &error, error.remedy.clone())]
        })?;
        let (mut errors, mut notices) = relations::check(&settings);
        match Topology::resolve(&settings, host_name) {
            Ok(topology) if errors.is_empty() => {
                notices.extend(inert(&merged));
                notices.extend(topology.notices.iter().cloned());
                let origins = merged.into_iter().map(|(key, entry)| (key, entry.origin)).collect();
                Ok(Self { settings, topology, origins, passed_over, notices })
            }
            Ok(_) => Err(errors),
            Err(more) => {
                errors.extend(more);
                Err(errors)
            }
        }
    }

    /// Every setting as it stands, in the order of names.
    #[must_use]
    pub fn effective(&self) -> Vec<Effective<'_>> {
        let mut all: Vec<Effective<'_>> = BrokerSettings::declarations()
            .map(|setting| Effective {
                setting,
                value: self.settings.effective(setting).0.filter(|_| !setting.is_sensitive()),
                origin: self.origins.get(setting.name).cloned().unwrap_or(Origin::Default),
            })
            .collect();
        all.sort_by_key(|effective| effective.setting.name);
        all
    }
}

/// What becomes of an entry.
enum Class {
    Counts(Entry),
    PassedOver(PassedOver),
}

fn classify(mut entry: Entry) -> Result<Class, ConfigError> {
    if let Some((_, name)) = ALIASES.iter().find(|(alias, _)| *alias == entry.key) {
        entry.key = (*name).to_owned();
    }
    if let Some(setting) = BrokerSettings::find(&entry.key) {
        setting
            .check(&entry.value)
            .map_err(|error| ConfigError::at(&entry.origin, &error, error.remedy.clone()))?;
        return Ok(Class::Counts(entry));
    }
    // To pass this one over would open to everybody what somebody meant to guard.
    if entry.key == "authorizer.class.name" && !entry.value.is_empty() {
        return Err(ConfigError::at(
            &entry.origin,
            "authorizer.class.name asks for access control, which this version does not have",
            "drop it, and let only trusted machines reach the listeners",
        ));
    }
    let is_known = passed_over::is_known_broker_key(&entry.key) || entry.key == "authorizer.class.name";
    let declared = BrokerSettings::declarations().map(|setting| setting.name);
    let suggestion = if is_known { None } else { suggestion::nearest(&entry.key, declared) };
    if entry.was_written_for_kafka {
        return Ok(Class::PassedOver(PassedOver {
            key: entry.key,
            origin: entry.origin,
            is_known,
            suggestion,
        }));
    }
    Err(ConfigError::at(
        &entry.origin,
        if is_known {
            format!("{} is a key of Kafka that changes nothing here", entry.key)
        } else {
            format!("{} is not a setting", entry.key)
        },
        match suggestion {
            Some(name) => format!("did you mean {name}?"),
            None if is_known => "drop it".to_owned(),
            None => "`logmill config` lists all settings".to_owned(),
        },
    ))
}

/// What somebody gave for settings that change nothing, other than the default: one notice a reason.
fn inert(given: &BTreeMap<String, Entry>) -> impl Iterator<Item = String> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, entry) in given {
        if let Some(setting) = BrokerSettings::find(key)
            && let Some(why) = setting.inert
            && setting.default != Some(&setting.kind.canonical(&entry.value))
        {
            reasons.entry(why).or_default().push(key);
        }
    }
    reasons.into_iter().map(|(why, keys)| format!("without effect: {}; {why}", keys.join(", ")))
}

/// Drops from each family what comes from a weaker source than another member.
fn keep_strongest(merged: &mut BTreeMap<String, Entry>) {
    for family in FAMILIES {
        let rank = |key: &&str| merged.get(*key).map(|entry| entry.origin.rank());
        let Some(strongest) = family.iter().filter_map(rank).max() else { continue };
        let weaker: Vec<&str> =
            family.iter().copied().filter(|key| rank(key).is_some_and(|rank| rank < strongest)).collect();
        for key in weaker {
            merged.remove(key);
        }
    }
}

fn parse_flag(flag: &str) -> Result<Entry, ConfigError> {
    match flag.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok(Entry {
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
            origin: Origin::Flag,
            was_written_for_kafka: false,
        }),
        _ => Err(ConfigError::at(
            &Origin::Flag,
            format!("{flag} is not key=value"),
            "write, for example, --set log.dirs=/data",
        )),
    }
}

fn read_file(path: &Path) -> Result<Vec<Entry>, ConfigError> {
    let bytes = std::fs::read(path).map_err(|error| {
        ConfigError::general(
            format!("cannot read the configuration file {}: {error}", path.display()),
            "check the path given with --config and the file's permissions",
        )
    })?;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        // Java reads property files as Latin-1; whatever is not UTF-8 is that.
        Err(error) => error.into_bytes().into_iter().map(char::from).collect(),
    };
    parse_file(&text, path)
}

/// Parses a file's text: by its extension, and where that says nothing, by what it contains.
fn parse_file(text: &str, path: &Path) -> Result<Vec<Entry>, ConfigError> {
    let has_extension =
        |wanted: &str| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted));
    if has_extension("toml") {
        return toml_file::parse(text, path);
    }
    if has_extension("properties") {
        return properties::parse(text, path);
    }
    let has_table = || text.lines().any(|line| line.trim_start().starts_with('['));
    match toml_file::parse(text, path) {
        Err(_) if !has_table() => properties::parse(text, path),
        outcome => outcome,
    }
}

/// The machine's name, for clients of a listener that is bound to every address.
fn host_name() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) if !name.trim().is_empty() => name.trim().to_owned(),
        _ => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_state::settings::Roles;

    fn load(
        file: Option<(&str, &str)>,
        environment: &[(&str, &str)],
        flags: &[&str],
    ) -> Result<Config, Vec<ConfigError>> {
        let mut entries = match file {
            Some((path, text)) => parse_file(text, Path::new(path)).map_err(|error| vec![error])?,
            None => Vec::new(),
        };
        let variables = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let (from_environment, mut errors) = environment::read(variables);
        entries.extend(from_environment);
        for flag in flags {
            match parse_flag(flag) {
                Ok(entry) => entries.push(entry),
                Err(error) => errors.push(error),
            }
        }
        Config::from_entries(entries, errors, "mill")
    }

    fn refused(file: Option<(&str, &str)>, environment: &[(&str, &str)], flags: &[&str]) -> ConfigError {
        let mut errors = load(file, environment, flags).expect_err("must be refused");
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.remove(0)
    }

    /// The keys of the file that Kafka ships for a node with both roles, and a few that old files carry.
    const KRAFT: &str = "process.roles=broker,controller\nnode.id=1\n\
        controller.quorum.bootstrap.servers=localhost:9093\n\
        listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ninter.broker.listener.name=PLAINTEXT\n\
        advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093\n\
        controller.listener.names=CONTROLLER\n\
        listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL\n\
        num.network.threads=3\nnum.io.threads=8\nsocket.send.buffer.bytes=102400\n\
        socket.receive.buffer.bytes=102400\nsocket.request.max.bytes=104857600\nlog.dirs=/tmp/kraft-combined-logs\n\
        num.partitions=1\nnum.recovery.threads.per.data.dir=1\noffsets.topic.replication.factor=1\n\
        transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\nlog.retention.hours=168\n\
        log.segment.bytes=1073741824\nlog.retention.check.interval.ms=300000\nnum.io.thread=1\n";

    #[test]
    fn the_file_of_a_kraft_node_works() {
        let config = load(Some(("server.properties", KRAFT)), &[], &[]).expect("works as it is");
        assert_eq!(config.settings.node.roles, Roles { broker: true, controller: true });
        assert_eq!(config.topology.controller_listener.as_deref(), Some("CONTROLLER"));
        assert_eq!(config.topology.voters.len(), 1);
        assert_eq!(config.settings.groups.offsets_replication_factor, 1);
        let known: Vec<_> =
            config.passed_over.iter().filter(|key| key.is_known).map(|key| key.key.as_str()).collect();
        assert_eq!(known, ["num.network.threads", "num.io.threads", "num.recovery.threads.per.data.dir"]);
        let unknown = config.passed_over.iter().find(|key| !key.is_known).expect("reported");
        assert_eq!(
            (unknown.key.as_str(), unknown.origin.to_string().as_str()),
            ("num.io.thread", "server.properties:23")
        );
        let voters = KRAFT.replace("bootstrap.servers=", "voters=1@");
        load(Some(("server.properties", &voters)), &[], &[]).expect("so does the older form");
    }

    #[test]
    fn the_stronger_source_wins() {
        let file = Some(("x.toml", "num.partitions = 2\nmessage.max.bytes = 2\nfetch.max.bytes = 2000\n"));
        let environment = [("LOGMILL_NUM_PARTITIONS", "3"), ("LOGMILL_MESSAGE_MAX_BYTES", "3")];
        let config = load(file, &environment, &["num.partitions=4", "num.partitions=5"]).expect("valid");
        assert_eq!(config.settings.cluster.num_partitions, 5);
        assert_eq!(config.settings.log.message_max_bytes, 3);
        assert_eq!(config.settings.network.fetch_max_bytes, 2000);
        let origin = |key: &str| config.origins.get(key).map(ToString::to_string);
        assert_eq!(origin("num.partitions").as_deref(), Some("--set"));
        assert_eq!(origin("message.max.bytes").as_deref(), Some("LOGMILL_MESSAGE_MAX_BYTES"));
        assert_eq!(origin("fetch.max.bytes").as_deref(), Some("x.toml:3"));
        assert_eq!(origin("node.id"), None);
    }

    #[test]
    fn a_family_follows_its_strongest_source() {
        let file = Some(("a.properties", "log.dirs=/file\nlog.retention.ms=5\nlog.retention.hours=7\n"));
        let config = load(file, &[], &["log.dir=/flag"]).expect("valid");
        assert_eq!(config.settings.data_directories(), [PathBuf::from("/flag")]);
        assert_eq!(config.settings.log.retention_ms, Some(5));
        let config = load(file, &[("LOGMILL_LOG_RETENTION_HOURS", "9")], &[]).expect("valid");
        assert_eq!((config.settings.log.retention_ms, config.settings.log.retention_hours), (None, Some(9)));
    }

    #[test]
    fn an_unknown_key_is_an_error_where_it_was_meant_for_us() {
        let error = refused(None, &[], &["num.partition=1"]);
        assert_eq!((error.remedy.as_str(), error.is_usage), ("did you mean num.partitions?", true));
        let error = refused(Some(("x.toml", "[num]\npartitons = 1")), &[], &[]);
        assert_eq!(error.cause, "x.toml:2: num.partitons is not a setting");
        assert!(!error.is_usage);
        assert!(refused(None, &[], &["num.io.threads=1"]).cause.contains("changes nothing here"));
        assert!(refused(None, &[("LOGMILL_X", "1")], &[]).cause.contains("LOGMILL_X names no setting"));
        assert!(refused(None, &[], &["listeners"]).is_usage);
    }

    #[test]
    fn a_wrong_value_is_found_where_it_stands() {
        let error = refused(Some(("s.properties", "# x\nnum.partitions=0\n")), &[], &[]);
        assert_eq!(
            error.cause,
            "s.properties:2: Invalid value 0 for configuration num.partitions: Value must be at least 1"
        );
        assert_eq!(error.remedy, "use a whole number from 1 to 1000000");
        let errors = load(None, &[], &["num.partitions=0", "node.id=-1"]).expect_err("both are wrong");
        assert_eq!(errors.len(), 2);
    }

    #[test]
    fn an_authorizer_is_not_passed_over() {
        let text = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer";
        assert!(refused(Some(("s.properties", text)), &[], &[]).cause.contains("access control"));
    }

    #[test]
    fn an_older_name_means_the_newer_one() {
        let config = load(Some(("s.properties", "broker.id=7")), &[], &[]).expect("valid");
        assert_eq!(config.settings.node.node_id.0, 7);
    }

    #[test]
    fn a_file_without_extension_is_told_by_its_text() {
        let config = load(Some(("conf", "log.dirs=/a b\n")), &[], &[]).expect("properties");
        assert_eq!(config.settings.data_directories(), [PathBuf::from("/a b")]);
        let config = load(Some(("conf", "[log]\ndirs = '/a'\n")), &[], &[]).expect("TOML");
        assert_eq!(config.settings.data_directories(), [PathBuf::from("/a")]);
        assert!(refused(Some(("conf", "[log]\ndirs = /a\n")), &[], &[]).cause.contains("not valid TOML"));
        let error = refused(Some(("x.toml", "log.dirs=/a\n")), &[], &[]);
        assert!(error.remedy.contains(".properties"), "{}", error.remedy);
    }

    #[test]
    fn everything_is_listed_with_its_origin() {
        let config = load(None, &[], &["num.partitions=3"]).expect("valid");
        let all = config.effective();
        assert!(all.is_sorted_by_key(|effective| effective.setting.name));
        let of = |name: &str| all.iter().find(|effective| effective.setting.name == name).expect("declared");
        assert_eq!((of("num.partitions").value, &of("num.partitions").origin), (Some("3"), &Origin::Flag));
        assert_eq!((of("node.id").value, &of("node.id").origin), (Some("1"), &Origin::Default));
        assert_eq!(of("logmill.shards").value, None);
    }

    #[test]
    fn what_changes_nothing_is_said_unless_it_is_the_default() {
        let flags =
            ["transaction.state.log.min.isr=1", "transaction.max.timeout.ms=1", "log.preallocate=FALSE"];
        let config = load(None, &[], &flags).expect("valid");
        let notices: Vec<_> =
            config.notices.iter().filter(|notice| notice.starts_with("without effect: ")).collect();
        assert_eq!(
            notices,
            [
                "without effect: transaction.max.timeout.ms, transaction.state.log.min.isr; there are no transactions yet"
            ]
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let sources = Sources { file: Some(PathBuf::from("/nowhere/at.all")), ..Sources::default() };
        let errors = Config::load(&sources).expect_err("not there");
        assert!(errors[0].cause.contains("cannot read the configuration file /nowhere/at.all"));
    }
}
