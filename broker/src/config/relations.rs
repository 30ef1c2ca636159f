//! Relations between numbers: bounds that only make sense together.

use super::source::ConfigError;
use logmill_state::settings::BrokerSettings;
use std::collections::BTreeSet;

/// A relation that must hold: the lesser setting, then the greater.
type AtMost = ((&'static str, u64), (&'static str, u64));

/// The contradictions between settings, and what an operator should know although it is not wrong.
pub fn check(settings: &BrokerSettings) -> (Vec<ConfigError>, Vec<String>) {
    let mut errors: Vec<ConfigError> = at_most(settings)
        .into_iter()
        .filter(|((_, less), (_, more))| less > more)
        .map(|((less_name, less), (more_name, more))| {
            ConfigError::general(
                format!("{less_name} ({less}) is greater than {more_name} ({more})"),
                format!("lower {less_name} or raise {more_name}"),
            )
        })
        .collect();
    let mut seen = BTreeSet::new();
    for directory in settings.data_directories() {
        if !seen.insert(directory.clone()) {
            errors.push(ConfigError::general(
                format!("log.dirs names {} twice", directory.display()),
                "name each directory once",
            ));
        }
    }
    if !settings.groups.rebalance_protocols.iter().any(|kind| kind == "classic") {
        errors.push(ConfigError::general(
            "group.coordinator.rebalance.protocols lacks classic, which cannot be turned off",
            "add classic to it",
        ));
    }
    let mut notices = Vec::new();
    if settings.log.message_max_bytes > settings.network.request_max_bytes {
        notices.push(format!(
            "message.max.bytes ({}) is greater than socket.request.max.bytes ({}), which is what counts",
            settings.log.message_max_bytes, settings.network.request_max_bytes
        ));
    }
    (errors, notices)
}

fn at_most(settings: &BrokerSettings) -> Vec<AtMost> {
    let (node, groups, resources) = (&settings.node, &settings.groups, &settings.resources);
    let mut relations = vec![
        (
            ("broker.heartbeat.interval.ms", node.broker_heartbeat_interval_ms),
            ("broker.session.timeout.ms", node.broker_session_timeout_ms),
        ),
        (
            ("group.min.session.timeout.ms", groups.min_session_timeout_ms),
            ("group.max.session.timeout.ms", groups.max_session_timeout_ms),
        ),
        (
            ("group.consumer.min.session.timeout.ms", groups.consumer_min_session_timeout_ms),
            ("group.consumer.session.timeout.ms", groups.consumer_session_timeout_ms),
        ),
        (
            ("group.consumer.session.timeout.ms", groups.consumer_session_timeout_ms),
            ("group.consumer.max.session.timeout.ms", groups.consumer_max_session_timeout_ms),
        ),
        (
            ("group.consumer.min.heartbeat.interval.ms", groups.consumer_min_heartbeat_interval_ms),
            ("group.consumer.heartbeat.interval.ms", groups.consumer_heartbeat_interval_ms),
        ),
        (
            ("group.consumer.heartbeat.interval.ms", groups.consumer_heartbeat_interval_ms),
            ("group.consumer.max.heartbeat.interval.ms", groups.consumer_max_heartbeat_interval_ms),
        ),
        (
            ("log.cleaner.min.compaction.lag.ms", settings.log.cleaner_min_compaction_lag_ms),
            ("log.cleaner.max.compaction.lag.ms", settings.log.cleaner_max_compaction_lag_ms),
        ),
    ];
    if let (Some(cache), Some(memory)) = (resources.cache_bytes, resources.memory_bytes) {
        relations.push((("logmill.cache.bytes", cache), ("logmill.memory.bytes", memory)));
    }
    relations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn causes(pairs: &[(&str, &str)]) -> Vec<String> {
        let values = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (errors, _) = check(&BrokerSettings::from_values(values).expect("valid values"));
        errors.into_iter().map(|error| error.cause).collect()
    }

    #[test]
    fn the_defaults_agree() {
        assert_eq!(causes(&[]), Vec::<String>::new());
    }

    #[test]
    fn contradictions_are_found() {
        assert_eq!(
            causes(&[("broker.heartbeat.interval.ms", "2000"), ("broker.session.timeout.ms", "1000")]),
            ["broker.heartbeat.interval.ms (2000) is greater than broker.session.timeout.ms (1000)"]
        );
        assert_eq!(
            causes(&[("logmill.cache.bytes", "100000001"), ("logmill.memory.bytes", "100000000")]).len(),
            1
        );
        assert_eq!(causes(&[("log.dirs", "/a,/b,/a")]), ["log.dirs names /a twice"]);
        assert_eq!(
            causes(&[("group.coordinator.rebalance.protocols", "consumer")]),
            ["group.coordinator.rebalance.protocols lacks classic, which cannot be turned off"]
        );
    }

    #[test]
    fn a_batch_that_no_request_can_carry_is_noted() {
        let values = [("message.max.bytes".to_owned(), "200000000".to_owned())].into_iter().collect();
        let (errors, notices) = check(&BrokerSettings::from_values(values).expect("valid values"));
        assert_eq!((errors.len(), notices.len()), (0, 1));
    }
}
