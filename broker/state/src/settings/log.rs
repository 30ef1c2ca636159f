//! What holds for every topic that does not say otherwise.

use super::declaration::{Kind, list_items};
use super::typed::{Typed, settings_group};

/// Kafka's words for `compression.type`.
pub(super) const COMPRESSION_TYPES: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];
/// Kafka's words for `message.timestamp.type`.
pub(super) const TIMESTAMP_TYPES: &[&str] = &["CreateTime", "LogAppendTime"];
/// Kafka's words for `cleanup.policy`.
pub(super) const CLEANUP_POLICIES: &[&str] = &["compact", "delete"];

/// How old records leave a log; both may hold, and with none they stay for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Whole segments go when they are too old or too many.
    pub delete: bool,
    /// The last record of each key stays.
    pub compact: bool,
}

impl Typed for CleanupPolicy {
    fn typed(text: Option<&str>) -> Option<Self> {
        let has = |policy| list_items(text.unwrap_or_default()).any(|item| item == policy);
        Some(Self { delete: has("delete"), compact: has("compact") })
    }
}

/// In which form a topic's batches are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionType {
    /// As the producer sent them.
    Producer,
    /// Not compressed.
    Uncompressed,
    /// Gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Typed for CompressionType {
    fn typed(text: Option<&str>) -> Option<Self> {
        Some(match text?.trim() {
            "producer" => Self::Producer,
            "uncompressed" => Self::Uncompressed,
            "gzip" => Self::Gzip,
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }
}

/// Whose clock a record's timestamp is (KIP-32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's, when it appends.
    LogAppendTime,
}

impl Typed for TimestampType {
    fn typed(text: Option<&str>) -> Option<Self> {
        Some(match text?.trim() {
            "CreateTime" => Self::CreateTime,
            "LogAppendTime" => Self::LogAppendTime,
            _ => return None,
        })
    }
}

settings_group! {
    /// What holds for every topic that does not say otherwise, and the care that logs get.
    pub struct LogSettings {
        /// The largest batch that is accepted, in bytes, its header included.
        message_max_bytes: usize = "message.max.bytes", Kind::int_from(0), Some("1048588"), ClusterWide;
        /// The size at which a segment is closed and the next one begun, in bytes.
        segment_bytes: u64 = "log.segment.bytes", Kind::int_from(1_048_576), Some("1073741824"), ClusterWide;
        /// The age at which a segment is closed even when it is not full, in milliseconds; if absent,
        /// log.roll.hours counts.
        roll_ms: Option<u64> = "log.roll.ms", Kind::long_from(1), None, ClusterWide;
        /// The age at which a segment is closed even when it is not full, in hours.
        roll_hours: u64 = "log.roll.hours", Kind::int_from(1), Some("168"), ReadOnly;
        /// The most by which a segment is closed early, drawn at random so that many logs do not do it
        /// together, in milliseconds; if absent, log.roll.jitter.hours counts.
        roll_jitter_ms: Option<u64> = "log.roll.jitter.ms", Kind::long_from(0), None, ClusterWide;
        /// The most by which a segment is closed early, in hours.
        roll_jitter_hours: u64 = "log.roll.jitter.hours", Kind::int_from(0), Some("0"), ReadOnly;
        /// How long a segment is kept after its last record, in milliseconds; -1 means for ever. If absent,
        /// log.retention.minutes counts.
        retention_ms: Option<u64> = "log.retention.ms", Kind::long_from(-1), None, ClusterWide;
        /// How long a segment is kept, in minutes; if absent, log.retention.hours counts.
        retention_minutes: Option<u64> = "log.retention.minutes", Kind::int_from(-1), None, ReadOnly;
        /// How long a segment is kept, in hours.
        retention_hours: Option<u64> = "log.retention.hours", Kind::int_from(-1), Some("168"), ReadOnly;
        /// The size to which each partition's log is cut by deleting its oldest segments, in bytes; -1 means
        /// any size.
        retention_bytes: Option<u64> = "log.retention.bytes", Kind::LONG, Some("-1"), ClusterWide;
        /// The size to which a log's local copy is cut.
        local_retention_bytes: i64 = "log.local.retention.bytes", Kind::long_from(-2), Some("-2"), ClusterWide,
            inert "there is no tiered storage";
        /// How long a segment's local copy is kept.
        local_retention_ms: i64 = "log.local.retention.ms", Kind::long_from(-2), Some("-2"), ClusterWide,
            inert "there is no tiered storage";
        /// Records after which a log is flushed.
        flush_interval_messages: u64 = "log.flush.interval.messages", Kind::long_from(1),
            Some("9223372036854775807"), ClusterWide,
            inert "what is acknowledged is on disk";
        /// Milliseconds after which a log is flushed.
        flush_interval_ms: Option<u64> = "log.flush.interval.ms", Kind::long_from(0), None, ClusterWide,
            inert "what is acknowledged is on disk";
        /// How often logs are looked through for what is to be flushed.
        flush_scheduler_interval_ms: Option<u64> = "log.flush.scheduler.interval.ms", Kind::long_from(0),
            Some("9223372036854775807"), ReadOnly,
            inert "what is acknowledged is on disk";
        /// How often logs are looked through for segments to delete, in milliseconds.
        retention_check_interval_ms: u64 = "log.retention.check.interval.ms", Kind::long_from(1), Some("300000"), ReadOnly;
        /// How long a deleted segment's file stays for readers that are still in it, in milliseconds.
        segment_delete_delay_ms: u64 = "log.segment.delete.delay.ms", Kind::long_from(0), Some("60000"), ClusterWide,
            inert "a reader keeps its file until it is done, and the space is free at once";
        /// Bytes of log between two entries of its index.
        index_interval_bytes: u64 = "log.index.interval.bytes", Kind::int_from(0), Some("4096"), ClusterWide,
            inert "the index has pages of its own kind";
        /// The size at which an index closes its segment, in bytes.
        index_max_bytes: u64 = "log.index.size.max.bytes", Kind::int_from(4), Some("10485760"), ClusterWide,
            inert "an index never outgrows its segment";
        /// How old records leave a log: whole segments by age and size (delete), all but the last record of
        /// each key (compact), or both.
        cleanup_policy: CleanupPolicy = "log.cleanup.policy", Kind::ChoicesOrNone(CLEANUP_POLICIES), Some("delete"), ClusterWide;
        /// Whether compacted logs are compacted at all.
        cleaner_enable: bool = "log.cleaner.enable", Kind::Boolean, Some("true"), ReadOnly;
        /// How long the mark of a deleted key stays in a compacted log, in milliseconds.
        cleaner_delete_retention_ms: u64 = "log.cleaner.delete.retention.ms", Kind::long_from(0), Some("86400000"), ClusterWide;
        /// How long a record stays uncompacted at least, in milliseconds.
        cleaner_min_compaction_lag_ms: u64 = "log.cleaner.min.compaction.lag.ms", Kind::long_from(0), Some("0"), ClusterWide;
        /// How long a record stays uncompacted at most, in milliseconds.
        cleaner_max_compaction_lag_ms: u64 = "log.cleaner.max.compaction.lag.ms", Kind::long_from(1),
            Some("9223372036854775807"), ClusterWide;
        /// The share of a compacted log that must be uncompacted before it is worth compacting.
        cleaner_min_cleanable_ratio: f64 = "log.cleaner.min.cleanable.ratio", Kind::Double { min: 0.0, max: 1.0 },
            Some("0.5"), ClusterWide;
        /// Memory for the keys that all shards' passes of compaction know together, in bytes; a log with more keys takes
        /// several passes.
        cleaner_dedupe_buffer_bytes: u64 = "log.cleaner.dedupe.buffer.size", Kind::long_from(1_048_576),
            Some("134217728"), ClusterWide;
        /// Bytes that compaction reads and writes in a second, on all shards together.
        cleaner_io_bytes_per_second: f64 = "log.cleaner.io.max.bytes.per.second",
            Kind::Double { min: 1.0, max: f64::MAX }, Some("1.7976931348623157E308"), ClusterWide;
        /// How long the cleaner rests when no log is worth compacting, in milliseconds.
        cleaner_backoff_ms: u64 = "log.cleaner.backoff.ms", Kind::long_from(0), Some("15000"), ClusterWide;
        /// The form in which batches are kept: as the producer sent them (producer), or in one for all.
        compression_type: CompressionType = "compression.type", Kind::Choice(COMPRESSION_TYPES), Some("producer"), ClusterWide;
        /// The level of gzip, 1 to 9; -1 is the library's choice.
        compression_gzip_level: i32 = "compression.gzip.level", Kind::GzipLevel, Some("-1"), ClusterWide;
        /// The level of LZ4.
        compression_lz4_level: i32 = "compression.lz4.level", Kind::int(1, 17), Some("9"), ClusterWide;
        /// The level of Zstandard.
        compression_zstd_level: i32 = "compression.zstd.level", Kind::int(-131_072, 22), Some("3"), ClusterWide;
        /// Whose clock a record's timestamp is: the producer's (CreateTime) or the broker's (LogAppendTime).
        timestamp_type: TimestampType = "log.message.timestamp.type", Kind::Choice(TIMESTAMP_TYPES), Some("CreateTime"), ClusterWide;
        /// How far a record's timestamp may lie before the broker's clock, in milliseconds.
        timestamp_before_max_ms: u64 = "log.message.timestamp.before.max.ms", Kind::long_from(0),
            Some("9223372036854775807"), ClusterWide;
        /// How far a record's timestamp may lie after the broker's clock, in milliseconds.
        timestamp_after_max_ms: u64 = "log.message.timestamp.after.max.ms", Kind::long_from(0), Some("3600000"), ClusterWide;
        /// Whether a segment takes all its space when it is begun.
        preallocate: bool = "log.preallocate", Kind::Boolean, Some("false"), ClusterWide,
            inert "space is always taken ahead, in steps";
        /// How long an idle producer's sequence numbers are remembered, in milliseconds (KIP-936).
        producer_id_expiration_ms: u64 = "producer.id.expiration.ms", Kind::int_from(1), Some("86400000"), ClusterWide;
        /// Whether topics acknowledge records before they are on disk when they do not say: faster, and a
        /// power cut of all replicas at once loses the last of them.
        write_caching: bool = "logmill.write.caching", Kind::Boolean, Some("false"), ReadOnly;
    }
}
