//! What a topic's settings say about old records.

/// How old records leave a topic's logs; each field is the topic's setting of that name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CleanupSettings {
    /// `cleanup.policy` contains `delete`: whole segments go by age and size.
    pub delete: bool,
    /// `cleanup.policy` contains `compact`: the last record of each key stays.
    pub compact: bool,
    /// `retention.ms`; `None` for ever.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`; `None` for any size.
    pub retention_bytes: Option<u64>,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `min.cleanable.dirty.ratio`, from 0 to 1.
    pub min_cleanable_dirty_ratio: f64,
}

impl CleanupSettings {
    /// Nothing ever leaves, unless DeleteRecords asks for it.
    pub const KEEP_ALL: Self = Self {
        delete: true,
        compact: false,
        retention_ms: None,
        retention_bytes: None,
        min_compaction_lag_ms: 0,
        max_compaction_lag_ms: i64::MAX,
        delete_retention_ms: 86_400_000,
        min_cleanable_dirty_ratio: 0.5,
    };
}
