//! What the settings of a topic, and of the broker, mean for partitions.

use super::contents::ContentPolicy;
use super::table::PartitionTable;
use crate::log::LogSettings;
use crate::runtime::Runtime;
use logmill_state::log_plan::CleanupSettings;
use logmill_state::metadata::{Topic, is_internal_topic};
use logmill_state::partition::{AppendOrigin, AppendPolicy, ReplicationPolicy, TimestampType};
use logmill_state::settings::{self, CompressionType, TopicSettings};
use logmill_wire::compression::Codec;
use logmill_wire::ids::TopicPartition;
use std::cell::RefCell;
use std::rc::Rc;

/// What a topic's settings mean for its partitions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartitionPolicy {
    /// What is accepted.
    pub append: AppendPolicy,
    /// What is demanded of the records themselves.
    pub contents: ContentPolicy,
    /// When segments end.
    pub log: LogSettings,
    /// `segment.jitter.ms`: by how much earlier they end at the most.
    pub segment_jitter_ms: i64,
    /// `min.insync.replicas`.
    pub min_insync_replicas: u32,
    /// `replica.lag.time.max.ms`.
    pub replica_lag_max_ms: u64,
    /// How old records leave.
    pub cleanup: CleanupSettings,
}

impl PartitionPolicy {
    /// When segments of one partition end: early by a time of its own, so that the partitions of a topic that were begun
    /// together do not all roll together. The time follows from the partition's name: it is the same after a restart.
    #[must_use]
    pub fn log_of(&self, partition: TopicPartition) -> LogSettings {
        let jitter_ms = self.segment_jitter_ms.clamp(0, self.log.segment_ms);
        let drawn = crc32c::crc32c_append(
            crc32c::crc32c(&partition.topic_id.0),
            &partition.partition.0.to_le_bytes(),
        );
        let early_ms = (i128::from(jitter_ms) * i128::from(drawn)) >> u32::BITS;
        let segment_ms = self.log.segment_ms - i64::try_from(early_ms).unwrap_or(0);
        LogSettings { segment_ms, ..self.log }
    }

    /// What of it concerns the replicas.
    #[must_use]
    pub const fn replication(&self) -> ReplicationPolicy {
        ReplicationPolicy {
            min_in_sync: self.min_insync_replicas,
            write_caching: self.log.write_caching,
            lag_max_ms: self.replica_lag_max_ms,
        }
    }
}

/// The policy in force; partitions of one topic share it.
pub(super) struct PolicyInForce(RefCell<Rc<PartitionPolicy>>);

impl PolicyInForce {
    pub(super) const fn new(policy: Rc<PartitionPolicy>) -> Self {
        Self(RefCell::new(policy))
    }

    pub(super) fn set(&self, policy: Rc<PartitionPolicy>) {
        self.0.replace(policy);
    }

    pub(super) fn get(&self) -> Rc<PartitionPolicy> {
        Rc::clone(&self.0.borrow())
    }
}

impl<R: Runtime> PartitionTable<R> {
    pub(super) fn policy_of(&self, topic: &Topic) -> PartitionPolicy {
        // What a topic was created with was checked then; a broker that takes less later falls back to its own.
        let broker = self.effective_settings();
        let lag_max_ms = broker.cluster.replica_lag_time_max_ms;
        let settings = TopicSettings::resolve(&topic.configs, &broker)
            .or_else(|_| TopicSettings::resolve(&std::collections::BTreeMap::new(), &broker));
        let mut policy = settings.map_or_else(|_| default_policy(), |settings| policy(&settings, lag_max_ms));
        if is_internal_topic(&topic.name) {
            // What a coordinator has decided must fit: a group's members are one record, however many they are.
            policy.append.origin = AppendOrigin::Coordinator;
            policy.append.max_message_bytes = i32::MAX;
            policy.contents = ContentPolicy::AS_SENT;
            policy.log.write_caching = false;
        }
        policy
    }
}

fn default_policy() -> PartitionPolicy {
    let append = AppendPolicy::default();
    let log = LogSettings {
        segment_bytes: append.segment_bytes.unsigned_abs().into(),
        segment_ms: i64::MAX,
        write_caching: false,
    };
    PartitionPolicy {
        append,
        contents: ContentPolicy::AS_SENT,
        log,
        segment_jitter_ms: 0,
        min_insync_replicas: 1,
        replica_lag_max_ms: 30_000,
        cleanup: CleanupSettings::KEEP_ALL,
    }
}

/// The codec and the level that the topic keeps its batches in, if that is not the producer's matter.
fn codec(settings: &TopicSettings) -> Option<(Codec, Option<i32>)> {
    match settings.compression_type {
        CompressionType::Producer => None,
        CompressionType::Uncompressed => Some((Codec::None, None)),
        CompressionType::Gzip => {
            let level = settings.compression_gzip_level;
            Some((Codec::Gzip, (level >= 0).then_some(level)))
        }
        CompressionType::Snappy => Some((Codec::Snappy, None)),
        CompressionType::Lz4 => Some((Codec::Lz4, Some(settings.compression_lz4_level))),
        CompressionType::Zstd => Some((Codec::Zstd, Some(settings.compression_zstd_level))),
    }
}

fn policy(settings: &TopicSettings, replica_lag_max_ms: u64) -> PartitionPolicy {
    let clamp = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let segment_bytes = settings.segment_bytes.min(i32::MAX as u64);
    // What is in the active segment is not compacted, so it must not stay there for longer.
    let segment_ms = match settings.cleanup_policy.compact {
        true => settings.segment_ms.min(settings.max_compaction_lag_ms),
        false => settings.segment_ms,
    };
    PartitionPolicy {
        append: AppendPolicy {
            origin: AppendOrigin::Client,
            max_message_bytes: i32::try_from(settings.max_message_bytes).unwrap_or(i32::MAX),
            segment_bytes: segment_bytes as i32,
            timestamp_type: match settings.timestamp_type {
                settings::TimestampType::CreateTime => TimestampType::CreateTime,
                settings::TimestampType::LogAppendTime => TimestampType::LogAppendTime,
            },
            timestamp_before_max_ms: clamp(settings.timestamp_before_max_ms),
            timestamp_after_max_ms: clamp(settings.timestamp_after_max_ms),
        },
        contents: ContentPolicy {
            codec: codec(settings),
            keys_required: settings.cleanup_policy.compact,
            age_bounded: settings.timestamp_type == settings::TimestampType::CreateTime
                && clamp(settings.timestamp_before_max_ms) < i64::MAX,
        },
        log: LogSettings {
            segment_bytes,
            segment_ms: clamp(segment_ms),
            write_caching: settings.write_caching,
        },
        segment_jitter_ms: clamp(settings.segment_jitter_ms),
        min_insync_replicas: settings.min_insync_replicas,
        replica_lag_max_ms,
        cleanup: CleanupSettings {
            delete: settings.cleanup_policy.delete,
            compact: settings.cleanup_policy.compact,
            retention_ms: settings.retention_ms.map(clamp),
            retention_bytes: settings.retention_bytes,
            min_compaction_lag_ms: clamp(settings.min_compaction_lag_ms),
            max_compaction_lag_ms: clamp(settings.max_compaction_lag_ms),
            delete_retention_ms: clamp(settings.delete_retention_ms),
            min_cleanable_dirty_ratio: settings.min_cleanable_dirty_ratio,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::ids::{PartitionIndex, Uuid};

    #[test]
    fn partitions_end_their_segments_at_times_of_their_own() {
        let policy = |segment_ms, segment_jitter_ms| PartitionPolicy {
            append: AppendPolicy::default(),
            contents: ContentPolicy::AS_SENT,
            log: LogSettings { segment_bytes: 1 << 20, segment_ms, write_caching: false },
            segment_jitter_ms,
            min_insync_replicas: 1,
            replica_lag_max_ms: 30_000,
            cleanup: CleanupSettings::KEEP_ALL,
        };
        let times = |policy: PartitionPolicy| -> Vec<i64> {
            let of =
                |partition| TopicPartition { topic_id: Uuid([3; 16]), partition: PartitionIndex(partition) };
            (0..100).map(|partition| policy.log_of(of(partition)).segment_ms).collect()
        };
        let drawn = times(policy(10_000, 4_000));
        assert!(drawn.iter().all(|time| (6_000..=10_000).contains(time)), "{drawn:?}");
        assert!(
            drawn.iter().any(|time| *time < 7_000) && drawn.iter().any(|time| *time > 9_000),
            "{drawn:?}"
        );
        assert_eq!(times(policy(10_000, 4_000)), drawn, "a restart draws nothing else");
        assert_eq!(times(policy(10_000, 0)), [10_000; 100]);
        assert!(times(policy(10, i64::MAX)).iter().all(|time| (0..=10).contains(time)));
    }
}
