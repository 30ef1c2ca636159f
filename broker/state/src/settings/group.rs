//! One group's settings: its own, and the broker's where it has none (KIP-848, KIP-932, KIP-1071).

use super::broker::BrokerSettings;
use super::coordinators::GroupSettings;
use super::declaration::{Kind, Setting, Synonym};
use super::error::SettingError;
use super::typed::settings_group;
use std::collections::BTreeMap;

const fn same(name: &'static str) -> Synonym {
    Synonym::same(name)
}

settings_group! {
    /// One group's settings, resolved.
    pub struct GroupConfig {
        /// How long changes of a consumer group are gathered before a new assignment is worked out, in
        /// milliseconds.
        consumer_assignment_interval_ms: u64 = "consumer.assignment.interval.ms", Kind::int_from(0), Some("1000"), Group,
            from &[same("group.consumer.assignment.interval.ms")],
            inert "an assignment follows every change at once";
        /// How often a member of a consumer group is told to report, in milliseconds.
        consumer_heartbeat_interval_ms: u64 = "consumer.heartbeat.interval.ms", Kind::int_from(1), Some("5000"), Group,
            from &[same("group.consumer.heartbeat.interval.ms")];
        /// How long a member of a consumer group may be silent before it is removed, in milliseconds.
        consumer_session_timeout_ms: u64 = "consumer.session.timeout.ms", Kind::int_from(1), Some("45000"), Group,
            from &[same("group.consumer.session.timeout.ms")];
        /// How long changes of a share group are gathered before a new assignment is worked out, in milliseconds.
        share_assignment_interval_ms: u64 = "share.assignment.interval.ms", Kind::int_from(0), Some("1000"), Group,
            from &[same("group.share.assignment.interval.ms")],
            inert "there are no share groups";
        /// Where a share group begins to read a partition that it has not read before.
        share_auto_offset_reset: String = "share.auto.offset.reset", Kind::OffsetReset, Some("latest"), Group,
            inert "there are no share groups";
        /// How often a record is delivered to a share group before it is given up.
        share_delivery_count_limit: u32 = "share.delivery.count.limit", Kind::int_from(2), Some("5"), Group,
            from &[same("group.share.delivery.count.limit")],
            inert "there are no share groups";
        /// How often a member of a share group is told to report, in milliseconds.
        share_heartbeat_interval_ms: u64 = "share.heartbeat.interval.ms", Kind::int_from(1), Some("5000"), Group,
            from &[same("group.share.heartbeat.interval.ms")],
            inert "there are no share groups";
        /// Whether a share group sees records of transactions that are not committed.
        share_isolation_level: String = "share.isolation.level",
            Kind::Choice(&["read_committed", "read_uncommitted"]), Some("read_uncommitted"), Group,
            inert "there are no share groups";
        /// Records of one partition that a share group may have in work at the same time.
        share_partition_max_record_locks: u32 = "share.partition.max.record.locks", Kind::int_from(100), Some("2000"), Group,
            from &[same("group.share.partition.max.record.locks")],
            inert "there are no share groups";
        /// How long a member of a share group has a record for itself, in milliseconds.
        share_record_lock_duration_ms: u64 = "share.record.lock.duration.ms", Kind::int_from(1000), Some("30000"), Group,
            from &[same("group.share.record.lock.duration.ms")],
            inert "there are no share groups";
        /// Whether a member of a share group may ask for more time for a record.
        share_renew_acknowledge_enable: bool = "share.renew.acknowledge.enable", Kind::Boolean, Some("true"), Group,
            inert "there are no share groups";
        /// How long a member of a share group may be silent before it is removed, in milliseconds.
        share_session_timeout_ms: u64 = "share.session.timeout.ms", Kind::int_from(1), Some("45000"), Group,
            from &[same("group.share.session.timeout.ms")],
            inert "there are no share groups";
        /// How long changes of a streams group are gathered before a new assignment is worked out, in milliseconds.
        streams_assignment_interval_ms: u64 = "streams.assignment.interval.ms", Kind::int_from(0), Some("1000"), Group,
            from &[same("group.streams.assignment.interval.ms")],
            inert "there are no streams groups";
        /// How often a member of a streams group is told to report, in milliseconds.
        streams_heartbeat_interval_ms: u64 = "streams.heartbeat.interval.ms", Kind::int_from(1), Some("5000"), Group,
            from &[same("group.streams.heartbeat.interval.ms")],
            inert "there are no streams groups";
        /// How long an empty streams group waits for more members after the first one, in milliseconds.
        streams_initial_rebalance_delay_ms: u64 = "streams.initial.rebalance.delay.ms", Kind::int_from(0), Some("3000"), Group,
            from &[same("group.streams.initial.rebalance.delay.ms")],
            inert "there are no streams groups";
        /// Standby copies of each stateful task of a streams group.
        streams_num_standby_replicas: u32 = "streams.num.standby.replicas", Kind::int_from(0), Some("0"), Group,
            from &[same("group.streams.num.standby.replicas")],
            inert "there are no streams groups";
        /// How long a member of a streams group may be silent before it is removed, in milliseconds.
        streams_session_timeout_ms: u64 = "streams.session.timeout.ms", Kind::int_from(1), Some("45000"), Group,
            from &[same("group.streams.session.timeout.ms")],
            inert "there are no streams groups";
    }
}

/// What a broker allows its groups to set: the kind of group, the rest of the setting's name, its value, the least
/// and the greatest. Of groups that this broker does not serve, the bounds are Kafka's defaults.
type Bound = (&'static str, &'static str, u64, u64, u64);

/// The times of a consumer group (KIP-848).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerTimes {
    /// How long a member may be silent before it is removed, in milliseconds.
    pub session_timeout_ms: u64,
    /// How often a member is told to report, in milliseconds.
    pub heartbeat_interval_ms: u64,
}

impl ConsumerTimes {
    /// Those of a group that has `overrides`. What lies outside of the broker's bounds, which may have changed since
    /// it was set, is taken as the nearest that they allow, as in Kafka.
    #[must_use]
    pub fn of(overrides: &BTreeMap<String, String>, groups: &GroupSettings) -> Self {
        let own = |key: &str, default: u64, least: u64, greatest: u64| match overrides.get(key) {
            Some(text) => text.trim().parse().unwrap_or(default).min(greatest).max(least),
            None => default,
        };
        Self {
            session_timeout_ms: own(
                "consumer.session.timeout.ms",
                groups.consumer_session_timeout_ms,
                groups.consumer_min_session_timeout_ms,
                groups.consumer_max_session_timeout_ms,
            ),
            heartbeat_interval_ms: own(
                "consumer.heartbeat.interval.ms",
                groups.consumer_heartbeat_interval_ms,
                groups.consumer_min_heartbeat_interval_ms,
                groups.consumer_max_heartbeat_interval_ms,
            ),
        }
    }
}

impl GroupConfig {
    /// The settings of a group that has `overrides` on a broker with `broker`. What lies outside of the broker's
    /// bounds, which may have changed since it was set, is taken as the nearest that they allow, as in Kafka.
    #[must_use]
    pub fn resolve(overrides: &BTreeMap<String, String>, broker: &BrokerSettings) -> Self {
        let mut config = Self::parse(overrides, broker)
            .or_else(|_| Self::parse(&BTreeMap::new(), broker))
            .unwrap_or_else(|_| Self::of_defaults());
        let times = ConsumerTimes::of(overrides, &broker.groups);
        config.consumer_session_timeout_ms = times.session_timeout_ms;
        config.consumer_heartbeat_interval_ms = times.heartbeat_interval_ms;
        config
    }

    /// Checks all overrides of a group together.
    ///
    /// # Errors
    /// A key is unknown, a value is not one that its setting takes, it lies outside of the broker's bounds, or two
    /// values contradict each other.
    pub fn check(overrides: &BTreeMap<String, String>, broker: &BrokerSettings) -> Result<(), SettingError> {
        if let Some(key) = overrides.keys().find(|key| Self::find(key).is_none()) {
            let names = Self::DECLARATIONS.iter().map(|setting| setting.name);
            return Err(SettingError {
                key: key.clone(),
                value: None,
                problem: format!("Unknown group config name: {key}"),
                remedy: match super::suggestion::nearest(key, names) {
                    Some(name) => format!("did you mean {name}?"),
                    None => "leave it out".to_owned(),
                },
            });
        }
        let config = Self::parse(overrides, broker)?;
        let refuse = |key: &str, problem: String| {
            let remedy = "use a value within the broker's bounds".to_owned();
            Err(SettingError { key: key.to_owned(), value: None, problem, remedy })
        };
        for (kind, rest, value, least, greatest) in config.bounds(broker) {
            let name = format!("{kind}.{rest}");
            if value < least {
                let bound = format!("group.{kind}.min.{rest}");
                return refuse(&name, format!("{name} must be greater than or equal to {bound}"));
            }
            if value > greatest {
                let bound = format!("group.{kind}.max.{}", rest.trim_start_matches("num."));
                return refuse(&name, format!("{name} must be less than or equal to {bound}"));
            }
        }
        let pairs = [
            ("consumer", config.consumer_session_timeout_ms, config.consumer_heartbeat_interval_ms),
            ("share", config.share_session_timeout_ms, config.share_heartbeat_interval_ms),
            ("streams", config.streams_session_timeout_ms, config.streams_heartbeat_interval_ms),
        ];
        for (kind, session, heartbeat) in pairs {
            if session <= heartbeat {
                let name = format!("{kind}.session.timeout.ms");
                return refuse(&name, format!("{name} must be greater than {kind}.heartbeat.interval.ms"));
            }
        }
        Ok(())
    }

    /// The declaration of a group's key.
    #[must_use]
    pub fn find(key: &str) -> Option<&'static Setting> {
        Self::DECLARATIONS.iter().find(|setting| setting.name == key)
    }

    fn parse(overrides: &BTreeMap<String, String>, broker: &BrokerSettings) -> Result<Self, SettingError> {
        Self::read(&|setting| match overrides.get(setting.name) {
            Some(text) => Some(text.clone()),
            None => broker.inherited(setting),
        })
    }

    fn of_defaults() -> Self {
        match Self::read(&|setting| setting.default.map(str::to_owned)) {
            Ok(config) => config,
            Err(error) => unreachable!("a default is a value of its setting: {error}"),
        }
    }

    fn bounds(&self, broker: &BrokerSettings) -> [Bound; 11] {
        let groups = &broker.groups;
        let heartbeats =
            (groups.consumer_min_heartbeat_interval_ms, groups.consumer_max_heartbeat_interval_ms);
        let sessions = (groups.consumer_min_session_timeout_ms, groups.consumer_max_session_timeout_ms);
        let locks = u64::from(self.share_partition_max_record_locks);
        let (heartbeat, session) = ("heartbeat.interval.ms", "session.timeout.ms");
        let standbys = u64::from(self.streams_num_standby_replicas);
        [
            ("consumer", heartbeat, self.consumer_heartbeat_interval_ms, heartbeats.0, heartbeats.1),
            ("consumer", session, self.consumer_session_timeout_ms, sessions.0, sessions.1),
            ("consumer", "assignment.interval.ms", self.consumer_assignment_interval_ms, 0, 15_000),
            ("share", heartbeat, self.share_heartbeat_interval_ms, 5_000, 15_000),
            ("share", session, self.share_session_timeout_ms, 45_000, 60_000),
            ("share", "record.lock.duration.ms", self.share_record_lock_duration_ms, 15_000, 60_000),
            ("share", "delivery.count.limit", self.share_delivery_count_limit.into(), 2, 10),
            ("share", "partition.max.record.locks", locks, 100, 4_000),
            ("streams", heartbeat, self.streams_heartbeat_interval_ms, 5_000, 15_000),
            ("streams", session, self.streams_session_timeout_ms, 45_000, 60_000),
            ("streams", "num.standby.replicas", standbys, 0, 2),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn broker(pairs: &[(&str, &str)]) -> BrokerSettings {
        BrokerSettings::from_values(map(pairs)).expect("valid")
    }

    fn problem(pairs: &[(&str, &str)]) -> String {
        GroupConfig::check(&map(pairs), &broker(&[])).expect_err("must be refused").kafka_text()
    }

    #[test]
    fn a_group_inherits_from_its_broker() {
        let broker = broker(&[
            ("group.consumer.session.timeout.ms", "50000"),
            ("group.consumer.heartbeat.interval.ms", "6000"),
        ]);
        let own = map(&[("consumer.heartbeat.interval.ms", "7000")]);
        assert_eq!(GroupConfig::check(&own, &broker), Ok(()));
        let config = GroupConfig::resolve(&own, &broker);
        assert_eq!(config.consumer_session_timeout_ms, 50_000);
        assert_eq!(config.consumer_heartbeat_interval_ms, 7_000);
        assert_eq!(config.share_auto_offset_reset, "latest");
    }

    #[test]
    fn bounds_that_changed_later_count() {
        let own =
            map(&[("consumer.session.timeout.ms", "50000"), ("consumer.heartbeat.interval.ms", "14000")]);
        assert_eq!(GroupConfig::check(&own, &broker(&[])), Ok(()));
        let later = broker(&[
            ("group.consumer.max.session.timeout.ms", "46000"),
            ("group.consumer.max.heartbeat.interval.ms", "9000"),
        ]);
        let config = GroupConfig::resolve(&own, &later);
        assert_eq!(config.consumer_session_timeout_ms, 46_000);
        assert_eq!(config.consumer_heartbeat_interval_ms, 9_000);
    }

    #[test]
    fn each_refusal_has_kafkas_text() {
        let cases = [
            ("nonsense", "1", "Unknown group config name: nonsense"),
            (
                "consumer.heartbeat.interval.ms",
                "1",
                "consumer.heartbeat.interval.ms must be greater than or equal to \
                 group.consumer.min.heartbeat.interval.ms",
            ),
            (
                "consumer.session.timeout.ms",
                "70000",
                "consumer.session.timeout.ms must be less than or equal to \
                 group.consumer.max.session.timeout.ms",
            ),
            (
                "consumer.session.timeout.ms",
                "0",
                "Invalid value 0 for configuration consumer.session.timeout.ms: Value must be at least 1",
            ),
            (
                "share.isolation.level",
                "x",
                "Invalid value x for configuration share.isolation.level: String must be one of: \
                 read_committed, read_uncommitted",
            ),
            (
                "streams.num.standby.replicas",
                "7",
                "streams.num.standby.replicas must be less than or equal to group.streams.max.standby.replicas",
            ),
        ];
        for (key, value, text) in cases {
            assert_eq!(problem(&[(key, value)]), text);
        }
        let wide = broker(&[("group.consumer.min.session.timeout.ms", "5000")]);
        let own = map(&[("consumer.session.timeout.ms", "5000")]);
        let error = GroupConfig::check(&own, &wide).expect_err("must be refused").kafka_text();
        assert_eq!(error, "consumer.session.timeout.ms must be greater than consumer.heartbeat.interval.ms");
    }
}
