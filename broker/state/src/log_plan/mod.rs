//! What leaves a log, and when: pure plans over descriptions of its segments.

mod retention;
mod segments;
mod settings;

pub use retention::{Retention, RetentionStep, plan_retention};
pub use segments::{LargestTimestamp, LogBounds, SegmentDescriptor};
pub use settings::CleanupSettings;
