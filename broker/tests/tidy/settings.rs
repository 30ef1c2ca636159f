//! Every setting that is declared has a reader, or says that it changes nothing.

use crate::source::{Source, words};
use logmill_state::settings::{BrokerSettings, GroupConfig, Setting, TopicSettings};
use std::collections::BTreeMap;

/// Where settings are declared; what is read there is read through them, see [`THROUGH`].
const DECLARATIONS: &str = "broker/state/src/settings/";

/// What reads settings only to compare them with one another.
const COMPARES: &str = "broker/src/config/relations.rs";

/// Settings that others read through a function: its name, and where that stands.
const THROUGH: &[(&str, &str)] = &[
    ("log.dir", "data_directories"),
    ("log.dirs", "data_directories"),
    ("group.consumer.min.session.timeout.ms", "ConsumerTimes"),
    ("group.consumer.max.session.timeout.ms", "ConsumerTimes"),
    ("group.consumer.session.timeout.ms", "ConsumerTimes"),
    ("group.consumer.min.heartbeat.interval.ms", "ConsumerTimes"),
    ("group.consumer.max.heartbeat.interval.ms", "ConsumerTimes"),
    ("group.consumer.heartbeat.interval.ms", "ConsumerTimes"),
    ("consumer.session.timeout.ms", "ConsumerTimes"),
    ("consumer.heartbeat.interval.ms", "ConsumerTimes"),
];

pub fn check(sources: &[Source]) -> Vec<String> {
    let declared = fields(sources);
    let code: Vec<String> = sources
        .iter()
        .filter(|source| source.is_rust() && !source.is_test())
        .filter(|source| {
            source.path.starts_with("broker/src/") || source.path.starts_with("broker/state/src/")
        })
        .filter(|source| !source.path.starts_with(DECLARATIONS) && source.path != COMPARES)
        .map(Source::code)
        .collect();
    // The setting of a topic speaks for those of the broker that are its defaults.
    let of_topics: Vec<&Setting> =
        TopicSettings::DECLARATIONS.iter().chain(GroupConfig::DECLARATIONS).collect();
    let is_default_of = |name: &str| {
        of_topics.iter().any(|setting| setting.synonyms.iter().any(|synonym| synonym.name == name))
    };
    BrokerSettings::declarations()
        .filter(|setting| {
            !is_default_of(setting.name) || THROUGH.iter().any(|(name, _)| *name == setting.name)
        })
        .chain(of_topics.iter().copied())
        .filter_map(|setting| {
            let through =
                THROUGH.iter().find(|(name, _)| *name == setting.name).map(|(_, function)| *function);
            judge(setting, through.or(declared.get(setting.name).map(String::as_str)), &code)
        })
        .collect()
}

fn judge(setting: &Setting, reader: Option<&str>, code: &[String]) -> Option<String> {
    let name = setting.name;
    let Some(reader) = reader else { return Some(format!("{name}: its declaration is not found")) };
    let is_read = code.iter().any(|code| is_named(code, reader));
    match (is_read, setting.inert) {
        (false, None) => {
            Some(format!("{name}: nobody reads `{reader}`; use it, or declare it `inert` and say why"))
        }
        (true, Some(_)) => Some(format!("{name}: `{reader}` is read, so it is not `inert`")),
        _ => None,
    }
}

/// Whether a field or function is used: behind a dot or a path, or as a type.
fn is_named(code: &str, name: &str) -> bool {
    words(code, name).any(|position| {
        let before = code[..position].trim_end();
        let after = code[position + name.len()..].trim_start();
        (before.ends_with('.')
            && !before.ends_with("..")
            && (!after.starts_with('(') || name == "data_directories"))
            || after.starts_with("::")
    })
}

/// The field of each key, from lines like `field: Type = "the.key", …`.
fn fields(sources: &[Source]) -> BTreeMap<String, String> {
    let lines = sources
        .iter()
        .filter(|source| source.path.starts_with(DECLARATIONS))
        .flat_map(|source| source.text.lines());
    lines
        .filter_map(|line| {
            let (left, right) = line.trim().split_once(" = \"")?;
            let (field, _) = left.split_once(": ")?;
            let (key, _) = right.split_once('"')?;
            field
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                .then(|| (key.to_owned(), field.to_owned()))
        })
        .collect()
}

#[test]
fn a_setting_that_nobody_reads_is_found() {
    let setting = |inert| Setting { inert, ..*BrokerSettings::find("num.partitions").expect("declared") };
    let is_wrong =
        |inert, code: &str| judge(&setting(inert), Some("num_partitions"), &[code.to_owned()]).is_some();
    assert!(!is_wrong(None, "let a = settings.num_partitions;"));
    assert!(is_wrong(None, "let num_partitions = 3; state.num_partitions();"));
    assert!(is_wrong(Some("why"), "let a = settings.num_partitions;"));
    assert!(!is_wrong(Some("why"), ""));
    let declaration = Source::invented(
        "broker/state/src/settings/a.rs",
        "        /// What.\n        a_field: u64 = \"a.key\", Kind::int_from(1),\n            Some(\"1\"), ReadOnly;",
    );
    assert_eq!(fields(&[declaration]).get("a.key").map(String::as_str), Some("a_field"));
}
