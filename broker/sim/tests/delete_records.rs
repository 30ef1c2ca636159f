//! DeleteRecords on one partition: what it answers, what consumers see, which files stay, and what a power cut leaves.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
mod one_partition;

use logmill::partition::command::{OffsetQuery, PartitionError};
use logmill::runtime::simulated::Options;
use logmill_sim::node::DIRECTORY;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{Offset, TimestampMs};
use logmill_wire::record_batch::BatchBuilder;
use one_partition::Bench;
use std::path::Path;
use std::time::Duration;

#[test]
fn the_start_moves_and_stays_after_a_power_cut() {
    let mut bench = Bench::new(1, Options::default(), &[]);
    for _ in 0..10 {
        bench.append(None, Some(b"value"));
    }
    assert_eq!(bench.delete(7).unwrap(), Offset(7));
    bench.crash();
    assert_eq!(bench.find(OffsetQuery::Earliest), 7);
    assert_eq!(bench.read(6).unwrap_err().code(), ErrorCode::OffsetOutOfRange);
    assert_eq!(bench.offsets_from(7), [7, 8, 9]);
    assert_eq!(bench.delete(3).unwrap(), Offset(7), "the start never goes back");
    assert_eq!(
        bench.delete(11).unwrap_err().code(),
        ErrorCode::OffsetOutOfRange,
        "beyond the high watermark"
    );
    assert_eq!(bench.delete(-2).unwrap_err().code(), ErrorCode::OffsetOutOfRange);
    assert_eq!(bench.delete(-1).unwrap(), Offset(10), "-1 is the high watermark");
    assert_eq!((bench.find(OffsetQuery::Earliest), bench.find(OffsetQuery::Latest)), (10, 10));
    bench.append(None, Some(b"value"));
    bench.crash();
    assert_eq!(bench.offsets_from(10), [10]);
}

#[test]
fn segments_before_the_start_go_and_the_active_one_stays() {
    let mut bench = Bench::new(2, Options::default(), &[("segment.bytes", "1048576")]);
    for _ in 0..9 {
        bench.append(None, Some(&[7; 300_000]));
    }
    assert_eq!(bench.segments(), [0, 3, 6]);
    assert_eq!(bench.delete(7).unwrap(), Offset(7));
    // The journal may still vouch for bytes of the first two; a checkpoint ends that.
    bench.run_for(Duration::from_secs(60));
    assert_eq!(bench.segments(), [6]);
    assert_eq!(bench.delete(-1).unwrap(), Offset(9));
    bench.run_for(Duration::from_secs(60));
    assert_eq!(bench.segments(), [6], "the active segment is not removed");
    bench.crash();
    bench.append(None, Some(b"value"));
    assert_eq!(bench.offsets_from(9), [9]);
}

/// A segment that was made before a power cut and never used: the log goes on in the one before it.
#[test]
fn a_segment_that_was_never_used_does_not_hide_what_is_before_it() {
    let mut bench = Bench::new(5, Options::default(), &[("segment.bytes", "1048576")]);
    let append = |bench: &Bench| bench.append(None, Some(&[7; 200_000]));
    append(&bench);
    append(&bench);
    bench.run_for(Duration::from_secs(60));
    bench.host.crash();
    let stray = Path::new(DIRECTORY).join("t-0").join("00000000000000000002.log");
    bench.host.put_file(&stray, b"").unwrap();
    bench.restart();
    append(&bench);
    append(&bench);
    assert_eq!(bench.delete(3).unwrap(), Offset(3), "beyond that segment's name");
    append(&bench);
    append(&bench);
    assert_eq!(bench.segments(), [0, 5]);
    for _ in 0..2 {
        bench.run_for(Duration::from_secs(60));
        bench.crash();
        assert_eq!(bench.offsets_from(3), [3, 4, 5]);
    }
}

#[test]
fn lookups_by_time_begin_at_the_start() {
    let bench = Bench::new(3, Options::default(), &[]);
    // One batch of three records; the log is to start in its middle.
    bench.append_at(&[(500, b"a"), (100, b"b"), (300, b"c")]);
    bench.append_at(&[(200, b"d")]);
    assert_eq!(bench.find(OffsetQuery::Timestamp(TimestampMs(50))), 0);
    assert_eq!(bench.find(OffsetQuery::MaxTimestamp), 0);
    bench.delete(1).unwrap();
    assert_eq!(bench.find(OffsetQuery::Timestamp(TimestampMs(50))), 1);
    assert_eq!(bench.find(OffsetQuery::MaxTimestamp), 2);
    bench.delete(3).unwrap();
    assert_eq!(bench.find(OffsetQuery::MaxTimestamp), 3);
}

#[test]
fn records_of_a_compacted_topic_are_not_deleted() {
    let mut bench = Bench::new(4, Options::default(), &[("cleanup.policy", "compact")]);
    bench.append(Some(b"key"), Some(b"value"));
    assert_eq!(bench.delete(1).unwrap_err(), PartitionError::NotDeletable);
    assert_eq!(PartitionError::NotDeletable.code(), ErrorCode::PolicyViolation);
    bench.configure(&[("cleanup.policy", "compact,delete")]);
    assert_eq!(bench.delete(1).unwrap(), Offset(1), "a changed policy reaches a partition in use");
}

#[test]
fn a_log_that_nobody_uses_has_the_size_of_what_is_left_of_it() {
    let mut bench = Bench::new(5, Options::default(), &[("segment.bytes", "1048576")]);
    let sizes: Vec<u64> = (0..6)
        .map(|_| {
            let mut batch = BatchBuilder::new();
            batch.append(TimestampMs(bench.now()), None, Some(&[7; 300_000]), &[]);
            bench.send(&batch).unwrap();
            batch.finish().unwrap().len() as u64
        })
        .collect();
    assert_eq!(bench.segments(), [0, 3]);
    assert_eq!(bench.size_bytes(), sizes.iter().sum::<u64>());
    bench.stop();
    assert_eq!(bench.size_bytes(), sizes.iter().sum::<u64>(), "its directory is looked at");
    bench.delete(4).unwrap();
    bench.stop();
    assert_eq!(bench.size_bytes(), sizes[3..].iter().sum::<u64>(), "segments go as a whole");
}
