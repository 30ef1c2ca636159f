//! Compaction of one partition, as consumers see it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
mod one_partition;

use logmill::partition::command::OffsetQuery;
use logmill::runtime::simulated::Options;
use one_partition::{Bench, Got};
use std::collections::BTreeMap;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const COMPACTED: &[(&str, &str)] = &[
    ("segment.bytes", "1048576"),
    ("cleanup.policy", "compact"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("delete.retention.ms", "3600000"),
];

/// A value of 300 kB that begins with a number.
fn value(number: u64) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(300_000, 7);
    value
}

fn last_values(got: &[Got]) -> BTreeMap<Vec<u8>, Option<u64>> {
    let number = |value: &Vec<u8>| u64::from_be_bytes(*value.first_chunk().unwrap());
    got.iter().map(|got| (got.key.clone().unwrap(), got.value.as_ref().map(number))).collect()
}

#[test]
fn the_last_value_of_each_key_stays_and_consumers_reach_the_end() {
    let mut bench = Bench::new(1, Options::default(), COMPACTED);
    let mut expected = BTreeMap::new();
    for number in 0..30_u64 {
        let key = vec![b'k', (number % 3) as u8];
        bench.append(Some(&key), Some(&value(number)));
        expected.insert(key, Some(number));
    }
    let segments = bench.segments();
    bench.run_for(MINUTE * 3);
    let (got, position) = bench.consume(0);
    assert_eq!(position, 30, "a consumer from the beginning reaches the end");
    assert_eq!(bench.find(OffsetQuery::Latest), 30, "the log's end is where it was");
    assert_eq!(bench.find(OffsetQuery::Earliest), 0, "the log's start is where it was");
    assert!(got.len() <= 6, "{} records are left", got.len());
    assert_eq!(last_values(&got), expected);
    assert_eq!(bench.segments(), segments);
    for offset in 0..=30 {
        let (got, position) = bench.consume(offset);
        assert_eq!(position, 30, "from {offset}");
        assert!(got.iter().all(|got| got.offset >= offset));
    }
    bench.crash();
    assert_eq!(last_values(&bench.consume(0).0), expected);
    bench.append(Some(b"new"), Some(&value(99)));
    assert_eq!(bench.consume(13).1, 31);
}

#[test]
fn tombstones_go_after_their_time_and_not_before() {
    let bench = Bench::new(2, Options::default(), COMPACTED);
    bench.append(Some(b"a"), Some(&value(1)));
    bench.append(Some(b"a"), None);
    for number in 0..8 {
        bench.append(Some(b"b"), Some(&value(number)));
    }
    bench.run_for(MINUTE * 3);
    let tombstones = || bench.consume(0).0.iter().filter(|got| got.value.is_none()).count();
    assert_eq!((tombstones(), bench.consume(0).0[0].offset), (1, 1), "the value has gone, its mark has not");
    bench.run_for(MINUTE * 50);
    for number in 0..8 {
        bench.append(Some(b"b"), Some(&value(number)));
    }
    bench.run_for(MINUTE * 3);
    assert_eq!(tombstones(), 1, "it is not yet time");
    bench.run_for(MINUTE * 20);
    for number in 0..8 {
        bench.append(Some(b"b"), Some(&value(number)));
    }
    bench.run_for(MINUTE * 3);
    assert_eq!(tombstones(), 0);
    assert_eq!(bench.consume(0).1, 26);
}

#[test]
fn a_power_cut_at_any_moment_leaves_the_last_values() {
    for seed in 0..12 {
        let mut bench = Bench::new(seed, Options::drawn(seed), COMPACTED);
        let mut expected = BTreeMap::new();
        for number in 0..40_u64 {
            let key = vec![b'k', (number * number % 5) as u8];
            bench.append(Some(&key), Some(&value(number)));
            expected.insert(key, Some(number));
            if number % 8 == 7 {
                let moment_us = bench.world.draw(|chance| chance.between((30_000_000, 31_000_000)));
                bench.run_for(Duration::from_micros(moment_us));
                bench.crash();
                let (got, position) = bench.consume(0);
                assert_eq!(position, number as i64 + 1, "seed {seed}");
                assert_eq!(last_values(&got), expected, "seed {seed}");
            }
        }
    }
}
