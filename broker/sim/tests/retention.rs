//! Retention by age and size of one partition.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
mod one_partition;

use logmill::partition::command::OffsetQuery;
use logmill::runtime::simulated::Options;
use logmill_wire::ids::TimestampMs;
use logmill_wire::record_batch::BatchBuilder;
use one_partition::Bench;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Appends a batch of 300 kB whose records are `age_ms` old.
fn append_aged(bench: &Bench, age_ms: i64) {
    let mut batch = BatchBuilder::new();
    batch.append(TimestampMs(bench.now() - age_ms), None, Some(&[7; 300_000]), &[]);
    bench.send(&batch).unwrap();
}

#[test]
fn segments_go_with_their_largest_timestamp() {
    let bench =
        Bench::new(1, Options::default(), &[("segment.bytes", "1048576"), ("retention.ms", "3600000")]);
    for age_minutes in [90, 80, 61, 70, 30, 90, 90, 90, 1] {
        append_aged(&bench, age_minutes * 60_000);
    }
    assert_eq!(bench.segments(), [0, 3, 6]);
    bench.run_for(MINUTE);
    assert_eq!(bench.find(OffsetQuery::Earliest), 3, "a young record keeps its segment, and the later ones");
    bench.run_for(MINUTE);
    assert_eq!(bench.segments(), [3, 6]);
    assert_eq!(bench.offsets_from(3), [3, 4, 5, 6, 7, 8]);
}

#[test]
fn all_of_an_idle_partition_goes_even_after_a_restart() {
    let configs = [("segment.bytes", "1048576"), ("retention.ms", "3600000")];
    let mut bench = Bench::new(2, Options::default(), &configs);
    for _ in 0..4 {
        append_aged(&bench, 0);
    }
    bench.stop();
    bench.run_for(MINUTE * 59);
    assert_eq!(bench.segments(), [0, 3], "it is not yet time");
    bench.run_for(MINUTE * 5);
    assert_eq!(
        bench.segments(),
        [4],
        "also the active segment has gone, though nobody asked for the partition"
    );
    assert_eq!((bench.find(OffsetQuery::Earliest), bench.find(OffsetQuery::Latest)), (4, 4));
    bench.crash();
    append_aged(&bench, 0);
    assert_eq!(bench.offsets_from(4), [4]);
}

#[test]
fn a_log_is_cut_to_its_size_and_a_changed_size_takes_effect() {
    let configs = [("segment.bytes", "1048576"), ("retention.bytes", "1900000")];
    let mut bench = Bench::new(3, Options::default(), &configs);
    for _ in 0..9 {
        append_aged(&bench, 0);
    }
    bench.run_for(MINUTE * 2);
    assert_eq!(bench.find(OffsetQuery::Earliest), 0, "without the first segment it would be too small");
    bench.configure(&[("segment.bytes", "1048576"), ("retention.bytes", "1000000")]);
    bench.run_for(MINUTE * 2);
    assert_eq!(bench.segments(), [3, 6]);
    bench.configure(&[("segment.bytes", "1048576"), ("retention.bytes", "1"), ("cleanup.policy", "compact")]);
    bench.run_for(MINUTE * 2);
    assert_eq!(bench.segments(), [3, 6], "a compacted log is not cut");
}

#[test]
fn segments_without_timestamps_go_by_the_age_of_their_files() {
    let configs = [("segment.bytes", "1048576"), ("retention.ms", "3600000")];
    let mut bench = Bench::new(4, Options::default(), &configs);
    let append = |bench: &Bench| {
        let mut batch = BatchBuilder::new();
        batch.append(TimestampMs(-1), None, Some(&[7; 300_000]), &[]);
        bench.send(&batch).unwrap();
    };
    for _ in 0..4 {
        append(&bench);
    }
    assert_eq!(bench.segments(), [0, 3]);
    bench.run_for(MINUTE * 30);
    bench.stop();
    for _ in 0..4 {
        append(&bench);
    }
    assert_eq!(bench.segments(), [0, 3, 6]);
    bench.run_for(MINUTE * 28);
    bench.crash();
    assert_eq!(bench.segments(), [0, 3, 6], "it is not yet time");
    bench.run_for(MINUTE * 4);
    assert_eq!(bench.segments(), [3, 6], "neither a restart nor a crash makes a segment young again");
    bench.run_for(MINUTE * 30);
    assert_eq!(bench.segments(), [8], "nor does a place behind which nothing is old keep it");
}
