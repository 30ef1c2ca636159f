//! One topic's settings: its own, and the broker's where it has none.

use super::broker::BrokerSettings;
use super::declaration::{Kind, Setting, Synonym, parse_boolean};
use super::error::SettingError;
use super::log::{
    CLEANUP_POLICIES, COMPRESSION_TYPES, CleanupPolicy, CompressionType, TIMESTAMP_TYPES, TimestampType,
};
use super::typed::settings_group;
use std::collections::BTreeMap;

const fn same(name: &'static str) -> Synonym {
    Synonym::same(name)
}

settings_group! {
    /// One topic's settings, resolved.
    pub struct TopicSettings {
        /// How old records leave the log: whole segments by age and size (delete), all but the last record of
        /// each key (compact), or both.
        cleanup_policy: CleanupPolicy = "cleanup.policy", Kind::ChoicesOrNone(CLEANUP_POLICIES), Some("delete"), Topic,
            from &[same("log.cleanup.policy")];
        /// The form in which batches are kept: as the producer sent them (producer), or in one for all.
        compression_type: CompressionType = "compression.type", Kind::Choice(COMPRESSION_TYPES), Some("producer"), Topic,
            from &[same("compression.type")];
        /// The level of gzip, 1 to 9; -1 is the library's choice.
        compression_gzip_level: i32 = "compression.gzip.level", Kind::GzipLevel, Some("-1"), Topic,
            from &[same("compression.gzip.level")];
        /// The level of LZ4.
        compression_lz4_level: i32 = "compression.lz4.level", Kind::int(1, 17), Some("9"), Topic,
            from &[same("compression.lz4.level")];
        /// The level of Zstandard.
        compression_zstd_level: i32 = "compression.zstd.level", Kind::int(-131_072, 22), Some("3"), Topic,
            from &[same("compression.zstd.level")];
        /// How long the mark of a deleted key stays in a compacted log, in milliseconds.
        delete_retention_ms: u64 = "delete.retention.ms", Kind::long_from(0), Some("86400000"), Topic,
            from &[same("log.cleaner.delete.retention.ms")];
        /// How long a deleted segment's file stays for readers that are still in it, in milliseconds.
        file_delete_delay_ms: u64 = "file.delete.delay.ms", Kind::long_from(0), Some("60000"), Topic,
            from &[same("log.segment.delete.delay.ms")],
            inert "a reader keeps its file until it is done, and the space is free at once";
        /// Records after which the log is flushed.
        flush_messages: u64 = "flush.messages", Kind::long_from(1), Some("9223372036854775807"), Topic,
            from &[same("log.flush.interval.messages")],
            inert "what is acknowledged is on disk";
        /// Milliseconds after which the log is flushed.
        flush_ms: u64 = "flush.ms", Kind::long_from(0), Some("9223372036854775807"), Topic,
            from &[same("log.flush.interval.ms"), same("log.flush.scheduler.interval.ms")],
            inert "what is acknowledged is on disk";
        /// Followers that catch up no faster than their brokers' follower.replication.throttled.rate, as partition:broker,
        /// or all of them (*).
        follower_throttled_replicas: Vec<String> = "follower.replication.throttled.replicas", Kind::ThrottledReplicas, Some(""), Topic;
        /// Bytes of log between two entries of its index.
        index_interval_bytes: u64 = "index.interval.bytes", Kind::int_from(0), Some("4096"), Topic,
            from &[same("log.index.interval.bytes")],
            inert "the index has pages of its own kind";
        /// Leaders that bring followers up to date no faster than their brokers' leader.replication.throttled.rate, as
        /// partition:broker, or all of them (*).
        leader_throttled_replicas: Vec<String> = "leader.replication.throttled.replicas", Kind::ThrottledReplicas, Some(""), Topic;
        /// The size to which the log's local copy is cut.
        local_retention_bytes: i64 = "local.retention.bytes", Kind::long_from(-2), Some("-2"), Topic,
            from &[same("log.local.retention.bytes")],
            inert "there is no tiered storage";
        /// How long a segment's local copy is kept.
        local_retention_ms: i64 = "local.retention.ms", Kind::long_from(-2), Some("-2"), Topic,
            from &[same("log.local.retention.ms")],
            inert "there is no tiered storage";
        /// How long a record stays uncompacted at most, in milliseconds.
        max_compaction_lag_ms: u64 = "max.compaction.lag.ms", Kind::long_from(1), Some("9223372036854775807"), Topic,
            from &[same("log.cleaner.max.compaction.lag.ms")];
        /// The largest batch that is accepted, in bytes, its header included.
        max_message_bytes: usize = "max.message.bytes", Kind::int_from(0), Some("1048588"), Topic,
            from &[same("message.max.bytes")];
        /// How far a record's timestamp may lie after the broker's clock, in milliseconds.
        timestamp_after_max_ms: u64 = "message.timestamp.after.max.ms", Kind::long_from(0), Some("3600000"), Topic,
            from &[same("log.message.timestamp.after.max.ms")];
        /// How far a record's timestamp may lie before the broker's clock, in milliseconds.
        timestamp_before_max_ms: u64 = "message.timestamp.before.max.ms", Kind::long_from(0), Some("9223372036854775807"), Topic,
            from &[same("log.message.timestamp.before.max.ms")];
        /// Whose clock a record's timestamp is: the producer's (CreateTime) or the broker's (LogAppendTime).
        timestamp_type: TimestampType = "message.timestamp.type", Kind::Choice(TIMESTAMP_TYPES), Some("CreateTime"), Topic,
            from &[same("log.message.timestamp.type")];
        /// The share of a compacted log that must be uncompacted before it is worth compacting.
        min_cleanable_dirty_ratio: f64 = "min.cleanable.dirty.ratio", Kind::Double { min: 0.0, max: 1.0 }, Some("0.5"), Topic,
            from &[same("log.cleaner.min.cleanable.ratio")];
        /// How long a record stays uncompacted at least, in milliseconds.
        min_compaction_lag_ms: u64 = "min.compaction.lag.ms", Kind::long_from(0), Some("0"), Topic,
            from &[same("log.cleaner.min.compaction.lag.ms")];
        /// Replicas that must have a record before a producer that waits for all of them gets its answer.
        min_insync_replicas: u32 = "min.insync.replicas", Kind::int_from(1), Some("1"), Topic,
            from &[same("min.insync.replicas")];
        /// Whether a segment takes all its space when it is begun.
        preallocate: bool = "preallocate", Kind::Boolean, Some("false"), Topic,
            from &[same("log.preallocate")],
            inert "space is always taken ahead, in steps";
        /// Whether segments are no longer copied to tiered storage.
        remote_log_copy_disable: bool = "remote.log.copy.disable", Kind::Boolean, Some("false"), Topic,
            inert "there is no tiered storage";
        /// Whether tiered storage is emptied when it is turned off.
        remote_log_delete_on_disable: bool = "remote.log.delete.on.disable", Kind::Boolean, Some("false"), Topic,
            inert "there is no tiered storage";
        /// Whether segments are copied to tiered storage. It cannot be turned on.
        remote_storage_enable: bool = "remote.storage.enable", Kind::Boolean, Some("false"), Topic,
            inert "there is no tiered storage";
        /// The size to which each partition's log is cut by deleting its oldest segments, in bytes; -1 means
        /// any size.
        retention_bytes: Option<u64> = "retention.bytes", Kind::LONG, Some("-1"), Topic,
            from &[same("log.retention.bytes")];
        /// How long a segment is kept after its last record, in milliseconds; -1 means for ever.
        retention_ms: Option<u64> = "retention.ms", Kind::long_from(-1), Some("604800000"), Topic,
            from &[same("log.retention.ms"), Synonym::minutes("log.retention.minutes"), Synonym::hours("log.retention.hours")];
        /// The size at which a segment is closed and the next one begun, in bytes.
        segment_bytes: u64 = "segment.bytes", Kind::int_from(1_048_576), Some("1073741824"), Topic,
            from &[same("log.segment.bytes")];
        /// The size at which an index closes its segment, in bytes.
        segment_index_bytes: u64 = "segment.index.bytes", Kind::int_from(4), Some("10485760"), Topic,
            from &[same("log.index.size.max.bytes")],
            inert "an index never outgrows its segment";
        /// The most by which a segment is closed early, another time for each partition so that many logs do not
        /// do it together, in milliseconds.
        segment_jitter_ms: u64 = "segment.jitter.ms", Kind::long_from(0), Some("0"), Topic,
            from &[same("log.roll.jitter.ms"), Synonym::hours("log.roll.jitter.hours")];
        /// The age at which a segment is closed even when it is not full, in milliseconds.
        segment_ms: u64 = "segment.ms", Kind::long_from(1), Some("604800000"), Topic,
            from &[same("log.roll.ms"), Synonym::hours("log.roll.hours")];
        /// Whether a replica that lacks acknowledged records may lead when no other is left: the partition
        /// lives, the records are lost.
        unclean_leader_election: bool = "unclean.leader.election.enable", Kind::Boolean, Some("false"), Topic,
            from &[same("unclean.leader.election.enable")];
        /// Whether records are acknowledged before they are on disk: faster, and a power cut of all replicas at
        /// once loses the last of them.
        write_caching: bool = "write.caching", Kind::Boolean, Some("false"), Topic,
            from &[same("logmill.write.caching")];
    }
}

impl TopicSettings {
    /// The settings of a topic that has `overrides` on a broker with `broker`.
    ///
    /// # Errors
    /// A key is unknown, a value is not one that its setting takes, or two values contradict each other.
    pub fn resolve(
        overrides: &BTreeMap<String, String>,
        broker: &BrokerSettings,
    ) -> Result<Self, SettingError> {
        for (key, value) in overrides {
            Self::check(key, value)?;
        }
        let settings = Self::read(&|setting| match overrides.get(setting.name) {
            Some(text) => Some(text.clone()),
            None => broker.inherited(setting),
        })?;
        if settings.min_compaction_lag_ms > settings.max_compaction_lag_ms {
            return Err(SettingError {
                key: "max.compaction.lag.ms".to_owned(),
                value: None,
                problem: format!(
                    "conflict topic config setting min.compaction.lag.ms ({}) > max.compaction.lag.ms ({})",
                    settings.min_compaction_lag_ms, settings.max_compaction_lag_ms
                ),
                remedy: "raise max.compaction.lag.ms or lower min.compaction.lag.ms".to_owned(),
            });
        }
        Ok(settings)
    }

    /// The declaration of a topic's key.
    #[must_use]
    pub fn find(key: &str) -> Option<&'static Setting> {
        Self::DECLARATIONS.iter().find(|setting| setting.name == key)
    }

    /// Checks one override of a topic. Keys that Kafka has and that change nothing here are taken as well: tools
    /// set them in good faith.
    ///
    /// # Errors
    /// The key is unknown, or the value is not one that it takes.
    pub fn check(key: &str, value: &str) -> Result<(), SettingError> {
        // To take this one would promise a second copy of the data that nobody makes.
        if key == "remote.storage.enable" && parse_boolean(value) == Some(true) {
            return Err(SettingError {
                key: key.to_owned(),
                value: None,
                problem:
                    "Tiered Storage functionality is disabled in the broker. Topic cannot be configured \
                          with remote log storage."
                        .to_owned(),
                remedy: "leave it out, or set it to false".to_owned(),
            });
        }
        if let Some(setting) = Self::find(key) {
            return setting.check(value);
        }
        if super::passed_over::is_known_topic_key(key) {
            return Ok(());
        }
        let names = Self::DECLARATIONS.iter().map(|setting| setting.name);
        Err(SettingError {
            key: key.to_owned(),
            value: None,
            problem: format!("Unknown topic config name: {key}"),
            remedy: match super::suggestion::nearest(key, names) {
                Some(name) => format!("did you mean {name}?"),
                None => "leave it out".to_owned(),
            },
        })
    }
}
