//! The checkers that read everything back after a start.

use crate::model::{Model, Partition, Shared, key_of};
use crate::node::Node;
use crate::workload::{end_of, find, read, records_of, timestamp_of};
use logmill::partition::command::PartitionError;
use logmill::runtime::simulated::Chance;
use logmill_state::partition::FetchCheckError;
use logmill_wire::ids::{Offset, TimestampMs, TopicPartition};
use std::collections::BTreeMap;

/// Reads all partitions from their beginning to their end and holds them against the model.
pub async fn check_everything(node: &Node, model: &Shared, chance: &mut Chance, now: TimestampMs) {
    let logs: Vec<TopicPartition> = model.borrow().partitions.keys().copied().collect();
    for log in logs {
        let expected = model.borrow().partitions.get(&log).cloned().unwrap_or_default();
        match read_all(node, log).await {
            Ok((start, found)) => {
                model.borrow_mut().see_start(log, expected.start, start);
                compare(model, log, &expected, start, &found);
                compare_tombstones(model, log, start, &found, now);
                look_up(node, model, log, &found, chance).await;
            }
            Err(_) if expected.is_rotten => {}
            Err(what) => {
                model.borrow_mut().break_promise("NothingAcknowledgedLost", format!("{log}: {what}"))
            }
        }
    }
}

/// What a log holds: offset → number and epoch.
type Found = BTreeMap<i64, (u64, i32)>;

/// The log's start, and everything from there on.
async fn read_all(node: &Node, log: TopicPartition) -> Result<(i64, Found), String> {
    let mut found = BTreeMap::new();
    let reply = read(node, log, Offset(0), 1).await.ok_or("the read was not answered")?;
    let start = reply.log_start_offset;
    if start > Offset(0)
        && !matches!(reply.records, Err(PartitionError::Fetch(FetchCheckError::OffsetOutOfRange { .. })))
    {
        return Err(format!("offset 0 can be read, though the log starts at {start}"));
    }
    let mut offset = start.max(Offset(0));
    loop {
        let reply = read(node, log, offset, 64 << 10).await.ok_or("the read was not answered")?;
        let records = match &reply.records {
            Err(PartitionError::NotHosted) => return Err("the partition is not hosted".into()),
            _ => records_of(log, &reply)?,
        };
        if offset >= reply.high_watermark {
            return Ok((start.0, found));
        }
        let before = offset;
        for (at, number, epoch) in records {
            // The batch in which the log starts comes whole.
            if at >= start.0 {
                found.insert(at, (number, epoch));
            }
        }
        offset = offset.max(end_of(&reply));
        if offset == before {
            return Err(format!(
                "nothing can be read at {offset} below the high watermark {}",
                reply.high_watermark
            ));
        }
    }
}

fn compare(model: &Shared, log: TopicPartition, expected: &Partition, start: i64, found: &Found) {
    let mut model = model.borrow_mut();
    let left: Vec<(i64, u64)> = found.iter().map(|(offset, (number, _))| (*offset, *number)).collect();
    for (offset, number) in expected.acknowledged.range(start..) {
        match found.get(offset) {
            Some((is, _)) if is == number => {}
            None if model.is_superseded(log, *offset, *number, &left) => model.compacted += 1,
            Some((is, _)) => model.break_promise(
                "NoOffsetMintedTwice",
                format!("{log} offset {offset}: {number} was acknowledged, {is} is there"),
            ),
            None => model.break_promise(
                "NothingAcknowledgedLost",
                format!(
                    "{log} offset {offset}: record {number} is gone; the log has {} records",
                    found.len()
                ),
            ),
        }
    }
    for (offset, number) in expected.seen.range(start..) {
        match found.get(offset) {
            Some((is, _)) if is == number => {}
            None if model.is_superseded(log, *offset, *number, &left) => {}
            other => model.break_promise(
                "ReadableNeverBeyondDurable",
                format!("{log} offset {offset}: record {number} was read before, now {other:?}"),
            ),
        }
    }
    let mut next = start;
    let mut epoch = 0;
    let mut places = BTreeMap::new();
    for (offset, (number, of_epoch)) in found {
        if *offset != next && !expected.is_compacted {
            model.break_promise(
                "OffsetsContiguous",
                format!("{log}: offset {next} is missing before {offset}"),
            );
        }
        if *of_epoch < epoch {
            model.break_promise(
                "EpochHistoryMonotone",
                format!("{log} offset {offset}: epoch {of_epoch} after {epoch}"),
            );
        }
        if let Some(other) = places.insert(*number, *offset) {
            model.break_promise(
                "NoDuplicates",
                format!("{log}: record {number} is at {other} and at {offset}"),
            );
        }
        (next, epoch) = (offset + 1, *of_epoch);
    }
    if expected.is_compacted {
        compare_keys(&mut model, log, expected, found);
    }
    for (offset, (number, _)) in found {
        model.see(log, *offset, *number);
    }
}

/// A tombstone stays for `delete.retention.ms`, for consumers to see it.
fn compare_tombstones(model: &Shared, log: TopicPartition, start: i64, found: &Found, now: TimestampMs) {
    let left: Vec<(i64, u64)> = found.iter().map(|(offset, (number, _))| (*offset, *number)).collect();
    let mut model = model.borrow_mut();
    if let Some(offset) = model.early_loss(log, start, &left, now.0) {
        let what = format!("{log} offset {offset}: a tombstone has gone before its time");
        model.break_promise("TombstonesStayAWhile", what);
    }
}

/// The last record of each key that is there must not be older than the last one that was acknowledged.
fn compare_keys(model: &mut Model, log: TopicPartition, expected: &Partition, found: &Found) {
    let last = |records: &mut dyn Iterator<Item = (i64, u64)>| {
        records.map(|(offset, number)| (key_of(number), (offset, number))).collect::<BTreeMap<_, _>>()
    };
    let acknowledged = last(&mut expected.acknowledged.iter().map(|(offset, number)| (*offset, *number)));
    for (key, (offset, number)) in last(&mut found.iter().map(|(offset, (number, _))| (*offset, *number))) {
        if let Some((newer, other)) = acknowledged.get(&key).filter(|(newer, _)| *newer > offset) {
            model.break_promise(
                "NothingSupersededComesBack",
                format!("{log} key {key}: record {number} at {offset} is the last, after {other} was acknowledged at {newer}"),
            );
        }
    }
}

async fn look_up(node: &Node, model: &Shared, log: TopicPartition, found: &Found, chance: &mut Chance) {
    if found.is_empty() {
        return;
    }
    for _ in 0..3 {
        let Some((_, (number, _))) = found.iter().nth(chance.index(found.len())) else { return };
        let timestamp = timestamp_of(*number);
        // Records of several writers interleave, so the first in the order of the log is what must be found.
        let expected =
            found.iter().find(|(_, (other, _))| timestamp_of(*other) >= timestamp).map(|(offset, _)| *offset);
        if let Some(Ok(answer)) = find(node, log, timestamp).await
            && Some(answer.offset.0) != expected
        {
            let what =
                format!("{log} timestamp {timestamp}: {} was found, {expected:?} is right", answer.offset);
            model.borrow_mut().break_promise("TimestampLookupExact", what);
        }
    }
}
