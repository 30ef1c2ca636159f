//! Topics and their replicas.

use super::declaration::Kind;
use super::typed::{Typed, settings_group};
use logmill_wire::limits::TOPIC_PARTITIONS_MAX;

/// What `replica.selector.class` may be: Kafka's two selectors, by name or by class (KIP-392).
const REPLICA_SELECTORS: &[&str] = &[
    "LeaderSelector",
    "org.apache.kafka.common.replica.LeaderSelector",
    "RackAwareReplicaSelector",
    "org.apache.kafka.common.replica.RackAwareReplicaSelector",
];

/// Which replica consumers are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaSelector {
    /// The leader.
    Leader,
    /// One in the consumer's rack, if there is one in sync.
    RackAware,
}

impl Typed for ReplicaSelector {
    fn typed(text: Option<&str>) -> Option<Self> {
        let is_rack_aware = text.is_some_and(|text| text.trim().ends_with("RackAwareReplicaSelector"));
        Some(if is_rack_aware { Self::RackAware } else { Self::Leader })
    }
}

settings_group! {
    /// Topics and their replicas.
    pub struct ClusterSettings {
        /// Partitions of a topic that is created without a number of them.
        num_partitions: i32 = "num.partitions", Kind::int(1, TOPIC_PARTITIONS_MAX as i64), Some("1"), ReadOnly;
        /// Replicas of a topic that is created without a number of them.
        default_replication_factor: i16 = "default.replication.factor", Kind::int(1, i16::MAX as i64), Some("1"), ReadOnly;
        /// Whether a topic is created when a client asks for it for the first time.
        auto_create_topics: bool = "auto.create.topics.enable", Kind::Boolean, Some("true"), ReadOnly;
        /// Whether topics can be deleted.
        delete_topic: bool = "delete.topic.enable", Kind::Boolean, Some("true"), ReadOnly;
        /// Replicas that must have a record before a producer that waits for all of them gets its answer;
        /// with fewer in step, such producers are refused.
        min_insync_replicas: u32 = "min.insync.replicas", Kind::int_from(1), Some("1"), ClusterWide;
        /// How long a follower may lag before it leaves the in-sync set, in milliseconds.
        replica_lag_time_max_ms: u64 = "replica.lag.time.max.ms", Kind::long_from(1), Some("30000"), ReadOnly;
        /// How fast this broker, as a leader, brings followers up to date that are out of sync and whose partitions name
        /// it in leader.replication.throttled.replicas, in bytes a second for all of them. It counts only when it is set
        /// on the running cluster (KIP-73).
        leader_throttled_rate: u64 = "leader.replication.throttled.rate", Kind::long_from(0),
            Some("9223372036854775807"), ClusterWide;
        /// How fast this broker's replicas that are out of sync and named in follower.replication.throttled.replicas catch
        /// up, in bytes a second for all of them. It counts only when it is set on the running cluster (KIP-73).
        follower_throttled_rate: u64 = "follower.replication.throttled.rate", Kind::long_from(0),
            Some("9223372036854775807"), ClusterWide;
        /// Which replica a consumer is sent to that says in which rack it is: the leader, or one in its rack (KIP-392).
        replica_selector: ReplicaSelector = "replica.selector.class", Kind::Choice(REPLICA_SELECTORS), None, ReadOnly;
        /// Whether a replica that lacks acknowledged records may lead when no other is left: the partition
        /// lives, the records are lost.
        unclean_leader_election: bool = "unclean.leader.election.enable", Kind::Boolean, Some("false"), ClusterWide;
        /// Whether leadership goes back to the first replica of a partition by itself.
        auto_leader_rebalance: bool = "auto.leader.rebalance.enable", Kind::Boolean, Some("true"), ReadOnly;
        /// How often leadership is looked over for that, in seconds.
        leader_imbalance_check_interval_seconds: u64 = "leader.imbalance.check.interval.seconds", Kind::long_from(1),
            Some("300"), ReadOnly;
        /// Whether replicas move by themselves: to brokers that have few, away from those that are drained or gone for good,
        /// and apart by racks.
        balancing: bool = "logmill.balancing.enable", Kind::Boolean, Some("true"), ClusterWide;
        /// How often it is looked whether replicas are to move, in milliseconds; while some do, it is twice a second.
        balancing_interval_ms: u64 = "logmill.balancing.interval.ms", Kind::long_from(1), Some("30000"), ReadOnly;
        /// Partitions that may move at the same time in the cluster before others begin by themselves.
        balancing_moves: usize = "logmill.balancing.moves.max", Kind::int_from(1), Some("50"), ClusterWide;
        /// Partitions that may move at the same time and that one broker leads, gets or gives up, before others begin by
        /// themselves.
        balancing_moves_per_broker: usize = "logmill.balancing.moves.per.broker.max", Kind::int_from(1), Some("10"),
            ClusterWide;
        /// By how much brokers may differ in the number of their replicas, in percent of what they hold on average; a
        /// difference of one is never worth a move.
        balancing_threshold_percent: u32 = "logmill.balancing.threshold.percent", Kind::int(0, 1000), Some("5"), ClusterWide;
        /// After how long a broker that is not heard from is not waited for any more: its replicas are made anew
        /// elsewhere; in milliseconds, and never with -1.
        balancing_gone_ms: Option<u64> = "logmill.balancing.gone.broker.ms", Kind::long_from(-1), Some("-1"), ClusterWide;
        /// Whether this broker is drained: it gets no new replicas, and those that it has move to others. It counts only
        /// when it is set on the running cluster.
        drained: bool = "logmill.broker.drained", Kind::Boolean, Some("false"), PerBroker;
        /// Whether a broker that is stopped hands its partitions over first.
        controlled_shutdown: bool = "controlled.shutdown.enable", Kind::Boolean, Some("true"), ReadOnly;
    }
}
