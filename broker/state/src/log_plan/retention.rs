//! Retention by size and age (`cleanup.policy=delete`): where a log is to start.
//!
//! As in Kafka, segments go as a whole and oldest first: while the rest is still as large as `retention.bytes`, and
//! then while the largest timestamp of the oldest one is more than `retention.ms` ago. A segment that consumers
//! may not yet see all of stays, and so does an empty one. The active segment goes with the others if all go;
//! another one is begun first.

use super::segments::{LargestTimestamp, LogBounds, SegmentDescriptor};
use super::settings::CleanupSettings;
use logmill_wire::ids::{Offset, TimestampMs};

/// What the settings ask of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Where the log is to start, if not where it does.
    pub start: Option<Offset>,
    /// Whether a new segment is to be begun first, because the active one is to go.
    pub roll: bool,
    /// Until then nothing becomes due, unless the log grows or its settings change.
    pub rest_until: TimestampMs,
}

/// The next step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionStep {
    /// The timestamp of the segment with this number must be known.
    Look(usize),
    /// This is to be done.
    Do(Retention),
}

/// What is to be done about the segments of a log, oldest first.
#[must_use]
pub fn plan_retention(
    segments: &[SegmentDescriptor],
    settings: &CleanupSettings,
    bounds: LogBounds,
    now: TimestampMs,
) -> RetentionStep {
    let nothing = Retention { start: None, roll: false, rest_until: TimestampMs(i64::MAX) };
    if !settings.delete {
        return RetentionStep::Do(nothing);
    }
    let deletable =
        |segment: &SegmentDescriptor| segment.bytes > 0 && segment.next_offset <= bounds.high_watermark;
    let mut gone = count_by_size(segments, settings, deletable);
    let mut rest_until = TimestampMs(i64::MAX);
    if let Some(retention_ms) = settings.retention_ms {
        while let Some(segment) = segments.get(gone).filter(|segment| deletable(segment)) {
            match segment.largest_timestamp {
                LargestTimestamp::Unread => return RetentionStep::Look(gone),
                LargestTimestamp::At(largest) if now.0.saturating_sub(largest.0) > retention_ms => gone += 1,
                LargestTimestamp::At(largest) => {
                    rest_until = TimestampMs(largest.0.saturating_add(retention_ms));
                    break;
                }
                // It has no age.
                LargestTimestamp::None => break,
            }
        }
    }
    let start = gone.checked_sub(1).and_then(|last| segments.get(last)).map(|segment| segment.next_offset);
    RetentionStep::Do(Retention {
        start: start.filter(|start| *start > bounds.start),
        roll: gone > 0 && gone == segments.len(),
        rest_until,
    })
}

fn count_by_size(
    segments: &[SegmentDescriptor],
    settings: &CleanupSettings,
    deletable: impl Fn(&SegmentDescriptor) -> bool,
) -> usize {
    let Some(retention_bytes) = settings.retention_bytes else { return 0 };
    let total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut excess = total.saturating_sub(retention_bytes);
    let fits = |segment: &&SegmentDescriptor| {
        let goes = deletable(segment) && segment.bytes <= excess;
        excess -= if goes { segment.bytes } else { 0 };
        goes
    };
    segments.iter().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: TimestampMs = TimestampMs(10_000);

    fn segments(described: &[(i64, i64, u64, i64)]) -> Vec<SegmentDescriptor> {
        let of = |&(base, next_offset, bytes, largest): &(i64, i64, u64, i64)| SegmentDescriptor {
            base: Offset(base),
            next_offset: Offset(next_offset),
            bytes,
            largest_timestamp: match largest {
                -2 => LargestTimestamp::Unread,
                -1 => LargestTimestamp::None,
                largest => LargestTimestamp::At(TimestampMs(largest)),
            },
        };
        described.iter().map(of).collect()
    }

    fn settings(retention_ms: Option<i64>, retention_bytes: Option<u64>) -> CleanupSettings {
        CleanupSettings { retention_ms, retention_bytes, ..CleanupSettings::KEEP_ALL }
    }

    fn plan(segments: &[SegmentDescriptor], settings: &CleanupSettings, start: i64, high: i64) -> Retention {
        let bounds = LogBounds { start: Offset(start), high_watermark: Offset(high) };
        match plan_retention(segments, settings, bounds, NOW) {
            RetentionStep::Do(retention) => retention,
            RetentionStep::Look(number) => panic!("the timestamp of {number} is not needed"),
        }
    }

    fn start(segments: &[SegmentDescriptor], settings: &CleanupSettings) -> Option<i64> {
        plan(segments, settings, 0, 40).start.map(|start| start.0)
    }

    #[test]
    fn what_is_older_than_its_time_goes() {
        let log =
            segments(&[(0, 10, 100, 1000), (10, 20, 100, 2000), (20, 30, 100, 500), (30, 40, 50, 9000)]);
        assert_eq!(start(&log, &settings(Some(8999), None)), Some(10));
        assert_eq!(start(&log, &settings(Some(9000), None)), None, "exactly as old is not older");
        assert_eq!(start(&log, &settings(Some(7000), None)), Some(30));
        assert_eq!(start(&log, &settings(None, None)), None);
        let rest = plan(&log, &settings(Some(8999), None), 0, 40).rest_until;
        assert_eq!(rest, TimestampMs(2000 + 8999), "the next one in the row decides");
        let compacted = CleanupSettings { delete: false, compact: true, ..settings(Some(1), Some(1)) };
        assert_eq!(start(&log, &compacted), None);
    }

    #[test]
    fn an_active_segment_goes_only_with_all_others_and_after_a_roll() {
        let log = segments(&[(0, 10, 100, 1000), (10, 40, 50, 2000)]);
        let all = plan(&log, &settings(Some(100), None), 0, 40);
        assert_eq!((all.start, all.roll), (Some(Offset(40)), true));
        assert!(!plan(&log, &settings(Some(8500), None), 0, 40).roll);
        let rolled = segments(&[(0, 10, 100, 1000), (10, 40, 50, 2000), (40, 40, 0, -1)]);
        let rest = plan(&rolled, &settings(Some(100), None), 0, 40);
        assert_eq!((rest.start, rest.roll), (Some(Offset(40)), false), "an empty one stays");
    }

    #[test]
    fn nothing_goes_beyond_the_high_watermark() {
        let log = segments(&[(0, 10, 100, 1000), (10, 20, 100, 1000), (20, 40, 100, 1000)]);
        let all = settings(Some(1), Some(0));
        assert_eq!(plan(&log, &all, 0, 19).start, Some(Offset(10)));
        assert_eq!(plan(&log, &all, 0, 9).start, None);
        assert_eq!(plan(&log, &all, 15, 19).start, None, "the start never goes back");
    }

    #[test]
    fn what_is_too_much_goes_but_no_segment_that_is_needed_for_the_size() {
        let log = segments(&[(0, 10, 100, 1000), (10, 20, 100, 1000), (20, 40, 50, 1000)]);
        assert_eq!(start(&log, &settings(None, Some(150))), Some(10));
        assert_eq!(start(&log, &settings(None, Some(151))), None, "the rest would be smaller than asked for");
        assert_eq!(start(&log, &settings(None, Some(50))), Some(20));
        assert_eq!(start(&log, &settings(None, Some(49))), Some(20));
        assert_eq!(start(&log, &settings(None, Some(0))), Some(40));
        assert_eq!(start(&log, &settings(None, Some(1000))), None);
    }

    #[test]
    fn timestamps_are_read_only_as_far_as_they_are_needed() {
        let mut log = segments(&[(0, 10, 100, -2), (10, 20, 100, -2), (20, 30, 100, -2), (30, 40, 10, -2)]);
        let settings = settings(Some(1000), Some(210));
        let bounds = LogBounds { start: Offset(0), high_watermark: Offset(40) };
        assert_eq!(
            plan_retention(&log, &settings, bounds, NOW),
            RetentionStep::Look(1),
            "0 goes by its size"
        );
        log[1].largest_timestamp = LargestTimestamp::At(TimestampMs(1));
        assert_eq!(plan_retention(&log, &settings, bounds, NOW), RetentionStep::Look(2));
        log[2].largest_timestamp = LargestTimestamp::None;
        let RetentionStep::Do(retention) = plan_retention(&log, &settings, bounds, NOW) else {
            panic!("nothing behind a segment without timestamps is looked at")
        };
        assert_eq!(retention.start, Some(Offset(20)));
    }
}
