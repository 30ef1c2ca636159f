//! Compaction of one partition, as consumers see it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
mod one_partition;

use logmill::log::StoreSettings;
use logmill::partition::command::OffsetQuery;
use logmill::runtime::simulated::{Fault, Operation, Options};
use logmill_wire::ids::{ProducerEpoch, ProducerId, TimestampMs};
use logmill_wire::record_batch::BatchBuilder;
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

/// What a compaction leaves beside segments and their indexes.
fn other_files(bench: &Bench) -> Vec<String> {
    let is_other = |name: &String| !name.ends_with(".log") && !name.ends_with(".index");
    bench.files().into_iter().filter(is_other).collect()
}

#[test]
fn the_last_value_of_each_key_stays_and_consumers_reach_the_end() {
    let mut bench = Bench::new(1, Options::default(), COMPACTED);
    let mut expected = BTreeMap::new();
    let mut offsets = BTreeMap::new();
    for number in 0..30_u64 {
        let key = vec![b'k', (number * number % 7) as u8];
        offsets.insert(number, bench.append(Some(&key), Some(&value(number))));
        expected.insert(key, Some(number));
    }
    assert_eq!(bench.segments().len(), 10);
    bench.run_for(MINUTE * 3);
    let (got, position) = bench.consume(0);
    assert_eq!(position, 30, "a consumer from the beginning reaches the end");
    assert_eq!(bench.find(OffsetQuery::Latest), 30, "the log's end is where it was");
    assert_eq!(bench.find(OffsetQuery::Earliest), 0, "the log's start is where it was");
    assert!(got.len() <= 4 + 3, "{} records are left", got.len());
    assert_eq!(last_values(&got), expected);
    for got in &got {
        let number = u64::from_be_bytes(*got.value.as_ref().unwrap().first_chunk().unwrap());
        assert_eq!(offsets[&number], got.offset, "a record keeps its offset");
    }
    for offset in 0..=30 {
        let (got, position) = bench.consume(offset);
        assert_eq!(position, 30, "from {offset}");
        assert!(got.iter().all(|got| got.offset >= offset));
    }
    assert!(bench.segments().len() < 10, "segments of which nothing is left have gone");
    assert_eq!(other_files(&bench), ["cleaner-offset", "partition.metadata"]);
    bench.crash();
    assert_eq!(last_values(&bench.consume(0).0), expected);
    bench.append(Some(b"new"), Some(&value(99)));
    assert_eq!(bench.consume(13).1, 31);
}

#[test]
fn small_neighbours_become_one_segment() {
    let bench = Bench::new(3, Options::default(), COMPACTED);
    for number in 0..120_u64 {
        // One record in three segments is never superseded.
        let key = if number % 9 == 0 { number.to_be_bytes().to_vec() } else { b"often".to_vec() };
        let value = if number % 9 == 0 { vec![1; 1_000] } else { value(number) };
        bench.append(Some(&key), Some(&value));
        if number % 20 == 19 {
            bench.run_for(MINUTE * 2);
        }
    }
    let offsets = bench.offsets_from(0);
    for kept in (0..120).step_by(9) {
        assert!(offsets.contains(&kept), "{kept} is in {offsets:?}");
    }
    assert!(bench.segments().len() <= 5, "{:?}", bench.segments());
    assert_eq!(bench.segments()[0], 0);
}

/// Appends and fills segments; the last append comes twice, and of its second time nothing remains but the segment
/// that was begun for it.
fn end_in_a_closed_segment(bench: &Bench, values: &[(&[u8], Option<u64>)]) {
    for (number, (key, of)) in (0..).zip(values) {
        let mut batch = BatchBuilder::new().producer(ProducerId(7), ProducerEpoch(0), number);
        let value = of.map(value);
        batch.append(TimestampMs(bench.now()), Some(key), value.as_deref(), &[]);
        assert_eq!(bench.send(&batch).unwrap(), i64::from(number));
        if number as usize + 1 == values.len() {
            assert_eq!(bench.send(&batch).unwrap(), i64::from(number));
        }
    }
    assert_eq!(bench.segments().last(), Some(&(values.len() as i64)));
}

#[test]
fn a_log_that_ends_in_a_compacted_segment_is_read_to_its_end() {
    let bench = Bench::new(5, Options::default(), COMPACTED);
    // Nothing goes, and the tombstone's batch grows: it is given the time at which it may go.
    let values: [(&[u8], _); 4] = [(b"gone", None), (b"a", Some(1)), (b"b", Some(2)), (b"c", Some(3))];
    end_in_a_closed_segment(&bench, &values);
    let before = bench.size_bytes();
    bench.run_for(MINUTE * 3);
    assert!(bench.size_bytes() > before, "{} bytes, {before} before", bench.size_bytes());
    let (got, position) = bench.consume(0);
    assert_eq!((got.iter().map(|got| got.offset).collect::<Vec<_>>(), position), (vec![0, 1, 2, 3], 4));
    bench.append(Some(b"new"), Some(&value(99)));
    assert_eq!(bench.consume(3).1, 5);
}

#[test]
fn timestamps_are_found_among_what_is_left() {
    let bench = Bench::new(4, Options::default(), COMPACTED);
    let start = bench.now();
    let send = |producer: i64, key: &[u8], at: i64, number| {
        let sequence = if producer < 0 { -1 } else { 0 };
        let mut batch =
            BatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(sequence as i16), sequence);
        batch.append(TimestampMs(start + at), Some(key), Some(&value(number)), &[]);
        bench.send(&batch).unwrap();
    };
    let before = [(b"a", 10), (b"b", 20), (b"c", 30), (b"a", 40), (b"b", 50)];
    let after = [(b"b", 60), (b"d", 55), (b"e", 56), (b"f", 57)];
    (0..).zip(before).for_each(|(number, (key, at))| send(-1, key, at, number));
    // The largest timestamp of all is that of a record that goes, and its batch stays.
    send(7, b"b", 900, 5);
    (6..).zip(after).for_each(|(number, (key, at))| send(-1, key, at, number));
    assert_eq!(bench.find(OffsetQuery::MaxTimestamp), 5);
    bench.run_for(MINUTE * 3);
    assert_eq!(bench.offsets_from(0), [2, 3, 6, 7, 8, 9]);
    assert_eq!(bench.batches(5)[0].record_count, 0);
    let found = |at: i64| bench.find(OffsetQuery::Timestamp(TimestampMs(start + at)));
    assert_eq!([found(0), found(30), found(31), found(41), found(61)], [2, 2, 3, 6, -1]);
    assert_eq!(bench.find(OffsetQuery::MaxTimestamp), 6);
}

#[test]
fn producers_go_on_from_what_they_sent_before_it_was_superseded() {
    let mut bench = Bench::new(5, Options::default(), COMPACTED);
    let batches: Vec<_> = (0..3).map(|sequence| of_producer_at(sequence, bench.now())).collect();
    for (offset, batch) in (0..).zip(&batches) {
        assert_eq!(bench.send(batch).unwrap(), offset);
    }
    for number in 1..9 {
        bench.append(Some(b"k"), Some(&value(number)));
    }
    bench.run_for(MINUTE * 3);
    let left = bench.batches(0);
    assert_eq!(
        left.iter().map(|header| (header.base_offset.0, header.record_count)).collect::<Vec<_>>(),
        [(2, 0)],
        "the producer's last batch is left without its record"
    );
    assert_eq!((left[0].producer_id, left[0].base_sequence), (ProducerId(9), 2));
    bench.crash();
    assert_eq!(bench.send(&batches[2]).unwrap(), 2, "what is sent again is answered as before");
    assert!(bench.send(&of_producer_at(5, bench.now())).is_err(), "a gap in the sequence is seen");
    assert_eq!(bench.send(&of_producer_at(3, bench.now())).unwrap(), 11);
}

fn of_producer_at(sequence: i32, now: i64) -> BatchBuilder {
    let mut batch = BatchBuilder::new().producer(ProducerId(9), ProducerEpoch(0), sequence);
    batch.append(TimestampMs(now), Some(b"k"), Some(&value(0)), &[]);
    batch
}

#[test]
fn a_compacted_log_is_cut_too_if_its_policy_says_so() {
    let configs = [
        ("segment.bytes", "1048576"),
        ("cleanup.policy", "compact,delete"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("retention.ms", "3600000"),
    ];
    let bench = Bench::new(6, Options::default(), &configs);
    for number in 0..12_u64 {
        bench.append(Some(&[b'k', (number % 2) as u8]), Some(&value(number)));
    }
    bench.run_for(MINUTE * 3);
    assert_eq!(bench.find(OffsetQuery::Earliest), 0);
    let left = bench.offsets_from(0);
    assert!(left.len() < 6 && left.contains(&11), "{left:?}");
    bench.run_for(MINUTE * 65);
    assert_eq!(bench.find(OffsetQuery::Earliest), 12, "all of it is too old by now");
    assert_eq!(bench.offsets_from(12), [0_i64; 0]);
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
    let mut gone = 0;
    for seed in 0..8 {
        let store = StoreSettings { checkpoint_interval_ms: 20, ..StoreSettings::default() };
        let mut bench = Bench::with_store(seed, Options::drawn(seed), COMPACTED, store, 10);
        let mut expected = BTreeMap::new();
        for number in 0..40_u64 {
            let key = vec![b'k', (number * number % 5) as u8];
            bench.append(Some(&key), Some(&value(number)));
            expected.insert(key, Some(number));
            if number % 8 == 7 {
                let moment_us = bench.world.draw(|chance| chance.between((1_000, 150_000)));
                bench.run_for(Duration::from_micros(moment_us));
                bench.crash();
                let (got, position) = bench.consume(0);
                assert_eq!(position, number as i64 + 1, "seed {seed}");
                assert_eq!(last_values(&got), expected, "seed {seed}");
                gone += number as usize + 1 - got.len();
            }
        }
        bench.run_for(Duration::from_secs(1));
        let left = other_files(&bench);
        assert_eq!(left, ["cleaner-offset", "partition.metadata"], "seed {seed}: nothing is left behind");
    }
    assert!(gone > 100, "only {gone} records had gone at the cuts");
}

#[test]
fn a_log_with_more_keys_than_the_buffer_takes_several_passes() {
    const KEYS: u32 = 45_000;
    // At two thirds of a mebibyte and three quarters full the table has less than 22,000 keys.
    let buffer = [("log.cleaner.dedupe.buffer.size", "1048576")];
    let bench = Bench::of_broker(7, Options::default(), COMPACTED, &buffer);
    for round in 0..3_u32 {
        for first in (0..KEYS).step_by(3_000) {
            let mut batch = BatchBuilder::new();
            for key in first..(first + 3_000).min(KEYS) {
                batch.append(
                    TimestampMs(bench.now()),
                    Some(&key.to_be_bytes()),
                    Some(&round.to_be_bytes()),
                    &[],
                );
            }
            bench.send(&batch).unwrap();
        }
    }
    // The active segment is not compacted.
    for number in 0..4 {
        bench.append(Some(b"last"), Some(&value(number)));
    }
    bench.run_for(MINUTE * 2);
    let (got, position) = bench.consume(0);
    assert_eq!(position, i64::from(3 * KEYS) + 4);
    let of_keys: Vec<_> = got.iter().filter(|got| got.key.as_deref() != Some(b"last")).collect();
    assert_eq!(of_keys.len(), KEYS as usize, "each key is there once");
    for (got, key) in of_keys.iter().zip(0..KEYS) {
        assert_eq!(got.key.as_deref(), Some(&key.to_be_bytes()[..]));
        assert_eq!(got.offset, i64::from(2 * KEYS + key));
    }
}

/// An error of the disk in any step costs nothing but time, or the log directory until the next start.
#[test]
fn an_error_in_any_step_leaves_the_last_values() {
    let mut ended = 0;
    let operations = [
        (Operation::Names, 12),
        (Operation::Open, 4),
        (Operation::Write, 4),
        (Operation::Flush, 4),
        (Operation::Length, 4),
    ];
    for (operation, steps) in operations {
        for after in 0..steps {
            let store = StoreSettings { checkpoint_interval_ms: 20, ..StoreSettings::default() };
            let mut bench = Bench::with_store(after, Options::default(), COMPACTED, store, 100);
            let mut expected = BTreeMap::new();
            for number in 0..11_u64 {
                let key = vec![b'k', (number % 3) as u8];
                bench.append(Some(&key), Some(&value(number)));
                expected.insert(key, Some(number));
            }
            bench.run_for(Duration::from_millis(60));
            let mut fault = Fault::once_after(operation, after);
            fault.path_contains = "t-0/".to_owned();
            bench.host.inject(fault);
            bench.run_for(Duration::from_secs(1));
            bench.host.clear_faults();
            if bench.node.healths[0].is_failed() {
                ended += 1;
                bench.crash();
            }
            assert_eq!(last_values(&bench.consume(0).0), expected, "{operation:?} after {after}");
            bench.crash();
            bench.run_for(Duration::from_secs(1));
            let (got, position) = bench.consume(0);
            assert_eq!((last_values(&got), position), (expected, 11), "{operation:?} after {after}");
            assert!(got.len() <= 5, "{operation:?} after {after}: it was compacted in the end");
            assert_eq!(other_files(&bench), ["cleaner-offset", "partition.metadata"]);
        }
    }
    assert!((1..20).contains(&ended), "{ended} errors ended the log directory");
}
