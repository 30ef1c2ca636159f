//! Consumer groups, their offsets, and transactions.

use super::declaration::Kind;
use super::typed::settings_group;
use logmill_wire::limits::TOPIC_PARTITIONS_MAX;

/// The bounds of an internal topic's replication factor.
const REPLICATION: Kind = Kind::Short { min: 1, max: i16::MAX as i64 };
/// The bounds of an internal topic's number of partitions.
const PARTITIONS: Kind = Kind::int(1, TOPIC_PARTITIONS_MAX as i64);

settings_group! {
    /// Consumer groups and their offsets.
    pub struct GroupSettings {
        /// Partitions of the topic that keeps groups and offsets; it cannot change once the topic is there.
        offsets_partitions: i32 = "offsets.topic.num.partitions", PARTITIONS, Some("50"), ReadOnly;
        /// Replicas of that topic; with fewer brokers than this when it is created, it has as many as there are.
        offsets_replication_factor: i16 = "offsets.topic.replication.factor", REPLICATION, Some("3"), ReadOnly;
        /// The size of that topic's segments, in bytes.
        offsets_segment_bytes: u64 = "offsets.topic.segment.bytes", Kind::int_from(1), Some("104857600"), ReadOnly;
        /// How long the offsets of a group without members are kept, in minutes.
        offsets_retention_minutes: u64 = "offsets.retention.minutes", Kind::int_from(1), Some("10080"), ReadOnly;
        /// How often expired offsets are looked for, in milliseconds.
        offsets_retention_check_interval_ms: u64 = "offsets.retention.check.interval.ms", Kind::long_from(1),
            Some("600000"), ReadOnly;
        /// The longest text that may be committed beside an offset, in bytes.
        offset_metadata_max_bytes: usize = "offset.metadata.max.bytes", Kind::int_from(0), Some("4096"), ReadOnly;
        /// How long a commit of offsets may wait for its replicas, in milliseconds.
        offsets_commit_timeout_ms: u64 = "offsets.commit.timeout.ms", Kind::int_from(1), Some("5000"), ReadOnly;
        /// How long an empty classic group waits for more members after the first one, in milliseconds.
        initial_rebalance_delay_ms: u64 = "group.initial.rebalance.delay.ms", Kind::int_from(0), Some("3000"), ReadOnly;
        /// The shortest session timeout that a member of a classic group may ask for, in milliseconds.
        min_session_timeout_ms: u64 = "group.min.session.timeout.ms", Kind::int_from(0), Some("6000"), ReadOnly;
        /// The longest session timeout that a member of a classic group may ask for, in milliseconds.
        max_session_timeout_ms: u64 = "group.max.session.timeout.ms", Kind::int_from(0), Some("1800000"), ReadOnly;
        /// Members of one classic group.
        max_size: u32 = "group.max.size", Kind::int_from(1), Some("2147483647"), ReadOnly;
        /// The kinds of group that are served.
        rebalance_protocols: Vec<String> = "group.coordinator.rebalance.protocols",
            Kind::Choices(&["classic", "consumer", "share", "streams"]), Some("classic,consumer"), ReadOnly;
        /// How long a member of a consumer group (KIP-848) may be silent before it is removed, in milliseconds.
        consumer_session_timeout_ms: u64 = "group.consumer.session.timeout.ms", Kind::int_from(1), Some("45000"), ReadOnly;
        /// The least that a group may set for that, in milliseconds.
        consumer_min_session_timeout_ms: u64 = "group.consumer.min.session.timeout.ms", Kind::int_from(1), Some("45000"), ReadOnly;
        /// The most that a group may set for that, in milliseconds.
        consumer_max_session_timeout_ms: u64 = "group.consumer.max.session.timeout.ms", Kind::int_from(1), Some("60000"), ReadOnly;
        /// How often a member of a consumer group is told to report, in milliseconds.
        consumer_heartbeat_interval_ms: u64 = "group.consumer.heartbeat.interval.ms", Kind::int_from(1), Some("5000"), ReadOnly;
        /// The least that a group may set for that, in milliseconds.
        consumer_min_heartbeat_interval_ms: u64 = "group.consumer.min.heartbeat.interval.ms", Kind::int_from(1), Some("5000"), ReadOnly;
        /// The most that a group may set for that, in milliseconds.
        consumer_max_heartbeat_interval_ms: u64 = "group.consumer.max.heartbeat.interval.ms", Kind::int_from(1), Some("15000"), ReadOnly;
        /// Members of one consumer group.
        consumer_max_size: u32 = "group.consumer.max.size", Kind::int_from(1), Some("2147483647"), ReadOnly;
        /// How consumer groups spread partitions over members; the first is taken where a group does not say.
        consumer_assignors: Vec<String> = "group.consumer.assignors", Kind::Choices(&["uniform", "range"]),
            Some("uniform,range"), ReadOnly;
        /// Which classic groups may become consumer groups and back while they have members.
        consumer_migration_policy: String = "group.consumer.migration.policy",
            Kind::ChoiceAnyCase(&["bidirectional", "upgrade", "downgrade", "disabled"]), Some("bidirectional"), ReadOnly;
    }
}

settings_group! {
    /// Transactions.
    pub struct TransactionSettings {
        /// Partitions of the topic that keeps transactions; it cannot change once the topic is there.
        log_partitions: i32 = "transaction.state.log.num.partitions", PARTITIONS, Some("50"), ReadOnly,
            inert "there are no transactions yet";
        /// Replicas of that topic; with fewer brokers than this when it is created, it has as many as there are.
        log_replication_factor: i16 = "transaction.state.log.replication.factor", REPLICATION, Some("3"), ReadOnly,
            inert "there are no transactions yet";
        /// Replicas of that topic that must have a record before it counts; bounded by the replicas it has.
        log_min_isr: u32 = "transaction.state.log.min.isr", Kind::int_from(1), Some("2"), ReadOnly,
            inert "there are no transactions yet";
        /// The size of that topic's segments, in bytes.
        log_segment_bytes: u64 = "transaction.state.log.segment.bytes", Kind::int_from(1), Some("104857600"), ReadOnly,
            inert "there are no transactions yet";
        /// The longest timeout that a producer may ask for, in milliseconds; later it is aborted.
        max_timeout_ms: u64 = "transaction.max.timeout.ms", Kind::int_from(1), Some("900000"), ReadOnly,
            inert "there are no transactions yet";
        /// How long an unused transactional id is remembered, in milliseconds.
        id_expiration_ms: u64 = "transactional.id.expiration.ms", Kind::int_from(1), Some("604800000"), ReadOnly,
            inert "there are no transactions yet";
        /// How often transactions are looked over for their timeout, in milliseconds.
        abort_timed_out_interval_ms: u64 = "transaction.abort.timed.out.transaction.cleanup.interval.ms", Kind::int_from(1),
            Some("10000"), ReadOnly,
            inert "there are no transactions yet";
        /// How often unused transactional ids are looked for, in milliseconds.
        remove_expired_interval_ms: u64 = "transaction.remove.expired.transaction.cleanup.interval.ms", Kind::int_from(1),
            Some("3600000"), ReadOnly,
            inert "there are no transactions yet";
        /// Whether a partition asks the coordinator if a producer's transaction is open before it takes its
        /// records (KIP-890).
        partition_verification: bool = "transaction.partition.verification.enable", Kind::Boolean, Some("true"), ClusterWide,
            inert "there are no transactions yet";
    }
}
