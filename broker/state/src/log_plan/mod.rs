//! What leaves a log, and when: pure plans over descriptions of its segments.

mod compaction;
mod key_map;
mod retention;
mod segments;
mod settings;

pub use compaction::{
    ClosedSegment, Compacted, Compaction, CompactionRules, CompactionStep, KeyMap, SegmentTimes,
    compact_batches, group_segments, plan_compaction,
};
pub use retention::{Retention, RetentionStep, plan_retention};
pub use segments::{LargestTimestamp, LogBounds, SegmentDescriptor};
pub use settings::CleanupSettings;
