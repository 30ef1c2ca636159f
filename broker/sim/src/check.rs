//! The checkers that read everything back after a start.

use crate::model::{Partition, Shared};
use crate::node::Node;
use crate::workload::{find, read, records_of, timestamp_of};
use logmill::partition::command::PartitionError;
use logmill::runtime::simulated::Chance;
use logmill_wire::ids::{Offset, TopicPartition};
use std::collections::BTreeMap;

/// Reads all partitions from their beginning to their end and holds them against the model.
pub async fn check_everything(node: &Node, model: &Shared, chance: &mut Chance) {
    let logs: Vec<TopicPartition> = model.borrow().partitions.keys().copied().collect();
    for log in logs {
        let expected = model.borrow().partitions.get(&log).cloned().unwrap_or_default();
        match read_all(node, log).await {
            Ok(found) => {
                compare(model, log, &expected, &found);
                look_up(node, model, log, &found, chance).await;
            }
            Err(_) if expected.is_rotten => {}
            Err(what) => {
                model.borrow_mut().break_promise("NothingAcknowledgedLost", format!("{log}: {what}"))
            }
        }
    }
}

async fn read_all(node: &Node, log: TopicPartition) -> Result<BTreeMap<i64, (u64, i32)>, String> {
    let mut found = BTreeMap::new();
    let mut offset = Offset(0);
    loop {
        let reply = read(node, log, offset, 64 << 10).await.ok_or("the read was not answered")?;
        let records = match &reply.records {
            Err(PartitionError::NotHosted) => return Err("the partition is not hosted".into()),
            _ => records_of(log, &reply)?,
        };
        if offset >= reply.high_watermark {
            return Ok(found);
        }
        let before = offset;
        for (at, number, epoch) in records {
            found.insert(at, (number, epoch));
            offset = offset.max(Offset(at + 1));
        }
        if offset == before {
            return Err(format!(
                "nothing can be read at {offset} below the high watermark {}",
                reply.high_watermark
            ));
        }
    }
}

fn compare(model: &Shared, log: TopicPartition, expected: &Partition, found: &BTreeMap<i64, (u64, i32)>) {
    let mut model = model.borrow_mut();
    for (offset, number) in &expected.acknowledged {
        match found.get(offset) {
            Some((is, _)) if is == number => {}
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
    for (offset, number) in &expected.seen {
        match found.get(offset) {
            Some((is, _)) if is == number => {}
            other => model.break_promise(
                "ReadableNeverBeyondDurable",
                format!("{log} offset {offset}: record {number} was read before, now {other:?}"),
            ),
        }
    }
    let mut next = 0;
    let mut epoch = 0;
    let mut places = BTreeMap::new();
    for (offset, (number, of_epoch)) in found {
        if *offset != next {
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
    for (offset, (number, _)) in found {
        model.see(log, *offset, *number);
    }
}

async fn look_up(
    node: &Node,
    model: &Shared,
    log: TopicPartition,
    found: &BTreeMap<i64, (u64, i32)>,
    chance: &mut Chance,
) {
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
