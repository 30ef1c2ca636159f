//! How long a partition remembers an idempotent producer (`producer.id.expiration.ms`).

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
mod one_partition;

use logmill::runtime::simulated::Options;
use logmill_wire::ids::{ProducerEpoch, ProducerId, TimestampMs};
use logmill_wire::record_batch::BatchBuilder;
use one_partition::Bench;
use std::time::Duration;

/// A day has 24 of these.
const HOUR: Duration = Duration::from_secs(60);
const DAY: &[(&str, &str)] = &[("producer.id.expiration.ms", "1440000")];

/// Sends the first batch of a producer, and returns the offset that it has.
fn send_first(bench: &Bench, producer: i64) -> i64 {
    let mut batch = BatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(0), 0);
    batch.append(TimestampMs(bench.now()), None, Some(b"x"), &[]);
    bench.send(&batch).unwrap()
}

#[test]
fn a_producer_is_forgotten_when_it_was_idle_for_a_day() {
    let bench = Bench::of_broker(1, Options::default(), &[], DAY);
    assert_eq!(send_first(&bench, 5), 0);
    bench.run_for(HOUR * 23);
    assert_eq!(send_first(&bench, 5), 0, "it is the same batch");
    bench.run_for(HOUR * 4);
    assert_eq!(send_first(&bench, 5), 1, "a repetition is no sign of life, as in Kafka");
}

#[test]
fn idle_time_counts_across_restarts_whether_the_partition_is_used_or_not() {
    let mut bench = Bench::of_broker(2, Options::default(), &[], DAY);
    assert_eq!(send_first(&bench, 5), 0);
    bench.run_for(HOUR * 8);
    bench.stop();
    bench.run_for(HOUR * 8);
    assert_eq!(send_first(&bench, 6), 1);
    bench.stop();
    bench.run_for(HOUR * 6);
    assert_eq!(send_first(&bench, 5), 0, "not yet a day");
    bench.run_for(HOUR * 5);
    assert_eq!(send_first(&bench, 6), 1);
    assert_eq!(send_first(&bench, 5), 2, "a day in three pieces");
    bench.crash();
    assert_eq!((send_first(&bench, 6), send_first(&bench, 5)), (1, 2), "what is remembered outlives a crash");
}
