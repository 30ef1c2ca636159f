//! A log that nobody uses is closed, and goes on where it was.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
mod one_partition;

use logmill::runtime::simulated::{Fault, Operation, Options};
use logmill_wire::ids::TimestampMs;
use logmill_wire::record_batch::BatchBuilder;
use one_partition::Bench;
use std::time::Duration;

/// `ENOSPC`.
const NO_SPACE: i32 = 28;

fn batch(bench: &Bench, bytes: usize) -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    batch.append(TimestampMs(bench.now()), None, Some(&vec![7; bytes]), &[]);
    batch
}

/// An append begins a segment, finds no space in it and is refused; a restart goes on in that segment, which is empty.
#[test]
fn a_log_closed_with_an_empty_segment_goes_on_in_it() {
    let configs = [("segment.bytes", "1048576"), ("retention.ms", "-1")];
    let mut bench = Bench::new(1, Options::default(), &configs);
    assert_eq!(bench.send(&batch(&bench, 600_000)).unwrap(), 0);
    bench.host.inject(Fault {
        path_contains: "00000000000000000001.log".to_owned(),
        error: NO_SPACE,
        after: 1,
        ..Fault::always(Operation::Length)
    });
    bench.send(&batch(&bench, 600_000)).unwrap_err();
    assert_eq!(bench.segments(), [0, 1], "the segment was begun");
    bench.host.clear_faults();
    bench.stop();
    // Opened, and closed again when nobody has used it for a while.
    assert_eq!(bench.offsets_from(0), [0]);
    bench.run_for(Duration::from_secs(300));
    assert_eq!(bench.send(&batch(&bench, 100)).unwrap(), 1);
    bench.crash();
    assert_eq!(bench.offsets_from(0), [0, 1], "what was acknowledged is there after a power cut");
}
