//! What plans know of a log.

use logmill_wire::ids::{Offset, TimestampMs};

/// The largest timestamp in a segment. To find it may cost a look into the segment, so it is read only when a plan
/// asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LargestTimestamp {
    /// Nobody has looked yet.
    Unread,
    /// No record has one, or there is no record.
    None,
    /// It is this one.
    At(TimestampMs),
}

/// One segment of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentDescriptor {
    /// Its base offset.
    pub base: Offset,
    /// The base offset of the next segment; of the last one, the log's end.
    pub next_offset: Offset,
    /// Its size in bytes.
    pub bytes: u64,
    /// The largest timestamp of its records.
    pub largest_timestamp: LargestTimestamp,
}

/// Between which offsets a log may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// The log's start.
    pub start: Offset,
    /// The high watermark.
    pub high_watermark: Offset,
}
