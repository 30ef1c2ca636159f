//! What clients do: append, append again, read.

use crate::model::{Sent, Shared, is_tombstone, key_of};
use crate::node::Node;
use logmill::partition::command::{
    Acks, Appended, OffsetFound, OffsetQuery, PartitionCommand, PartitionError, ReadReply, ReadRequest,
};
use logmill::runtime::simulated::{Chance, SimulatedRuntime};
use logmill::runtime::{Runtime, oneshot};
use logmill_state::partition::Isolation;
use logmill_wire::compression::Codec;
use logmill_wire::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs, TopicPartition};
use logmill_wire::limits::{DECOMPRESSED_BATCH_BYTES_MAX, PRODUCER_BATCHES_KEPT};
use logmill_wire::record_batch::{BatchBuilder, whole_batches};
use std::rc::Rc;
use std::time::Duration;

/// The timestamp of a record is its number, so that what a lookup must find is known.
#[must_use]
pub const fn timestamp_of(number: u64) -> TimestampMs {
    TimestampMs(1_750_000_000_000 + number as i64)
}

/// The text that every record's value begins with: whose it is, in which life, and which one.
#[must_use]
pub fn label(log: TopicPartition, number: u64) -> String {
    format!("{}/{}/{number}|", log.topic_id, log.partition)
}

/// Makes the next batch of a writer.
#[must_use]
pub fn make_batch(
    log: TopicPartition,
    producer_id: i64,
    sequence: i32,
    first_number: u64,
    chance: &mut Chance,
    bytes_max: u64,
    is_compacted: bool,
) -> Sent {
    let count = 1 + chance.below(12) as i32;
    let total = if chance.one_in(6) { chance.below(bytes_max) } else { chance.below(2_000) };
    let codec = if chance.one_in(4) { Codec::Lz4 } else { Codec::None };
    let mut builder =
        BatchBuilder::new().producer(ProducerId(producer_id), ProducerEpoch(0), sequence).codec(codec);
    for record in 0..count {
        let number = first_number + record as u64;
        let mut value = label(log, number).into_bytes();
        let mut filler = vec![0; (total / count as u64) as usize];
        chance.fill(&mut filler);
        value.extend_from_slice(&filler);
        if is_compacted {
            let (key, label) = (key_of(number).to_be_bytes(), label(log, number));
            let value = (!is_tombstone(number)).then_some(&value[..]);
            builder.append(timestamp_of(number), Some(&key), value, &[("label", Some(label.as_bytes()))]);
        } else {
            builder.append(timestamp_of(number), None, Some(&value), &[]);
        }
    }
    let bytes = builder.finish().unwrap_or_default();
    Sent { first_number, count, sequence, bytes: bytes.into() }
}

/// Appends and waits for the answer.
pub async fn append(node: &Node, log: TopicPartition, sent: &Sent) -> Result<Appended, PartitionError> {
    let (command, mut answer) = PartitionCommand::append(log, sent.bytes.clone(), Acks::All);
    node.send(command);
    (&mut answer).await;
    answer.into_answers().pop().flatten().unwrap_or(Err(PartitionError::Stopping))
}

/// Reads once.
pub async fn read(node: &Node, log: TopicPartition, offset: Offset, max_bytes: usize) -> Option<ReadReply> {
    let (reply, answer) = oneshot::channel();
    let request = ReadRequest {
        offset,
        max_bytes,
        at_least_one: true,
        current_leader_epoch: LeaderEpoch::NONE,
        last_fetched_epoch: LeaderEpoch::NONE,
        isolation: Isolation::ReadUncommitted,
        leader_only: true,
    };
    node.send(PartitionCommand::Read { partition: log, request, reply });
    answer.await.ok()
}

/// Looks an offset up by timestamp.
pub async fn find(
    node: &Node,
    log: TopicPartition,
    timestamp: TimestampMs,
) -> Option<Result<OffsetFound, PartitionError>> {
    let (reply, answer) = oneshot::channel();
    node.send(PartitionCommand::FindOffset {
        partition: log,
        query: OffsetQuery::Timestamp(timestamp),
        current_leader_epoch: LeaderEpoch::NONE,
        isolation: Isolation::ReadUncommitted,
        reply,
    });
    answer.await.ok()
}

/// The records of what a read returned: offset, number, and the epoch of their batch. An error says why a
/// record is not one that belongs there.
pub fn records_of(log: TopicPartition, reply: &ReadReply) -> Result<Vec<(i64, u64, i32)>, String> {
    let parts = reply.records.as_ref().map_err(|error| error.message())?;
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    let mut found = Vec::new();
    for batch in whole_batches(&bytes) {
        let batch = batch.map_err(|error| format!("served bytes are no batch: {error}"))?;
        if !logmill_wire::record_batch::crc_matches(batch.bytes()) {
            return Err("a batch was served with a wrong checksum".into());
        }
        let header = batch.header();
        let contents =
            batch.contents(DECOMPRESSED_BATCH_BYTES_MAX).map_err(|error| format!("served batch: {error}"))?;
        for record in contents.records() {
            let record = record.map_err(|error| format!("served record: {error}"))?;
            let offset = header.base_offset.0 + i64::from(record.offset_delta);
            // A tombstone has no value, so its label is a header.
            let in_header = record.headers().next().and_then(|header| header.value);
            let text = record.value.or(in_header).unwrap_or_default();
            let text =
                String::from_utf8_lossy(text.get(..text.len().min(80)).unwrap_or_default()).into_owned();
            let number = text
                .strip_prefix(&format!("{}/{}/", log.topic_id, log.partition))
                .and_then(|rest| rest.split('|').next())
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| {
                    format!("{log} offset {offset} holds a record of somebody else: {:?}", text.get(..40))
                })?;
            found.push((offset, number, header.leader_epoch.0));
        }
    }
    Ok(found)
}

/// Where a reader goes on after what a read returned; compaction leaves gaps, and batches without records.
#[must_use]
pub fn end_of(reply: &ReadReply) -> Offset {
    let bytes: Vec<u8> = reply.records.iter().flatten().flat_map(|part| part.iter().copied()).collect();
    let ends = whole_batches(&bytes).map_while(Result::ok).map(|batch| batch.header().next_offset());
    ends.max().unwrap_or(Offset(0))
}

/// One writer's task: sends again what was unanswered, then one batch after another.
pub async fn write(
    runtime: SimulatedRuntime,
    node: Rc<Node>,
    model: Shared,
    log: TopicPartition,
    writer: usize,
    mut chance: Chance,
    bytes_max: u64,
) {
    loop {
        let sent = {
            let mut model = model.borrow_mut();
            if model.budget_bytes == 0 {
                return;
            }
            let first_number = model.next_number;
            let Some(partition) = model.partitions.get_mut(&log) else { return };
            let is_compacted = partition.is_compacted;
            let Some(writer) = partition.writers.get_mut(writer) else { return };
            match &writer.unanswered {
                Some(sent) => sent.clone(),
                None => {
                    let sent = make_batch(
                        log,
                        writer.producer_id,
                        writer.next_sequence,
                        first_number,
                        &mut chance,
                        bytes_max,
                        is_compacted,
                    );
                    writer.next_sequence += sent.count;
                    writer.unanswered = Some(sent.clone());
                    if is_compacted {
                        let numbers = (0..sent.count as u64).map(|record| first_number + record);
                        let now = runtime.wall_clock().0;
                        partition.tombstones.extend(
                            numbers.filter(|&number| is_tombstone(number)).map(|number| (number, now)),
                        );
                    }
                    model.next_number += sent.count as u64;
                    model.budget_bytes = model.budget_bytes.saturating_sub(sent.bytes.len() as u64);
                    sent
                }
            }
        };
        if chance.one_in(8) {
            append_impatiently(&node, &model, log, writer, &sent).await;
        }
        match append(&node, log, &sent).await {
            Ok(appended) => answered(&model, log, writer, &sent, appended),
            Err(PartitionError::NotHosted | PartitionError::Stopping) => return,
            Err(_) => {
                model.borrow_mut().refused += 1;
                runtime.sleep(Duration::from_millis(5)).await;
            }
        }
        if chance.one_in(5) {
            repeat(&node, &model, log, writer, &mut chance).await;
        }
        if chance.one_in(3) {
            runtime.sleep(Duration::from_micros(chance.below(20_000))).await;
        }
    }
}

/// Sends a batch, and again before that was answered.
async fn append_impatiently(node: &Node, model: &Shared, log: TopicPartition, writer: usize, sent: &Sent) {
    let (command, mut first) = PartitionCommand::append(log, sent.bytes.clone(), Acks::All);
    node.send(command);
    if let Ok(appended) = append(node, log, sent).await {
        answered(model, log, writer, sent, appended);
    }
    (&mut first).await;
}

fn answered(model: &Shared, log: TopicPartition, writer: usize, sent: &Sent, appended: Appended) {
    let mut model = model.borrow_mut();
    model.acknowledge(log, sent, appended.base_offset);
    let Some(writer) = model.partitions.get_mut(&log).and_then(|partition| partition.writers.get_mut(writer))
    else {
        return;
    };
    writer.unanswered = None;
    writer.answered.push((sent.clone(), appended.base_offset));
    if writer.answered.len() > PRODUCER_BATCHES_KEPT {
        writer.answered.remove(0);
    }
}

/// Sends one of the batches that are remembered again: the answer must be that of the first time.
async fn repeat(node: &Node, model: &Shared, log: TopicPartition, writer: usize, chance: &mut Chance) {
    let again = {
        let model = model.borrow();
        let answered = model
            .partitions
            .get(&log)
            .and_then(|partition| partition.writers.get(writer))
            .map(|writer| &writer.answered);
        match answered {
            Some(answered) if !answered.is_empty() => answered.get(chance.index(answered.len())).cloned(),
            _ => None,
        }
    };
    let Some((sent, base)) = again else { return };
    if let Ok(appended) = append(node, log, &sent).await {
        let mut model = model.borrow_mut();
        model.duplicates += 1;
        if appended.base_offset != base {
            let what = format!(
                "{log}: the batch at {base} was answered with {} when it came again",
                appended.base_offset
            );
            model.break_promise("DuplicatesAnsweredWithFirstOffsets", what);
        }
    }
}

/// A reader's task: reads from random places, and compares.
pub async fn look(
    runtime: SimulatedRuntime,
    node: Rc<Node>,
    model: Shared,
    log: TopicPartition,
    mut chance: Chance,
) {
    loop {
        runtime.sleep(Duration::from_micros(500 + chance.below(30_000))).await;
        let end = {
            let model = model.borrow();
            let Some(partition) = model.partitions.get(&log) else { return };
            partition.acknowledged.last_key_value().map_or(0, |(offset, _)| *offset + 1)
        };
        let from = Offset(chance.below(end as u64 + 1) as i64);
        let known = model.borrow().start_of(log);
        let Some(reply) = read(&node, log, from, 1 + chance.below(100_000) as usize).await else { return };
        let is_rotten = model.borrow().partitions.get(&log).is_none_or(|partition| partition.is_rotten);
        if reply.log_start_offset >= Offset(0) {
            model.borrow_mut().see_start(log, known, reply.log_start_offset.0);
        }
        match (&reply.records, records_of(log, &reply)) {
            (Ok(_), Ok(records)) => {
                for (offset, number, _) in records {
                    model.borrow_mut().see(log, offset, number);
                    if offset >= reply.high_watermark.0 {
                        let what = format!(
                            "{log} offset {offset} was served above the high watermark {}",
                            reply.high_watermark
                        );
                        model.borrow_mut().break_promise("ReadableNeverBeyondDurable", what);
                    }
                }
            }
            (Ok(_), Err(what)) => model.borrow_mut().break_promise("NoForeignBytes", what),
            (Err(PartitionError::Corrupt(what)), _) if !is_rotten => {
                model
                    .borrow_mut()
                    .break_promise("NothingAcknowledgedLost", format!("{log} reads as damaged: {what}"));
            }
            (Err(_), _) => {}
        }
    }
}

/// A task that deletes old records now and then.
pub async fn delete(
    runtime: SimulatedRuntime,
    node: Rc<Node>,
    model: Shared,
    log: TopicPartition,
    mut chance: Chance,
) {
    // Without an end an orderly stop would have none either.
    for _ in 0..chance.below(30) {
        runtime.sleep(Duration::from_micros(1_000 + chance.below(100_000))).await;
        let known = model.borrow().start_of(log);
        let before = {
            let mut model = model.borrow_mut();
            let Some(partition) = model.partitions.get_mut(&log) else { return };
            let end = partition.acknowledged.last_key_value().map_or(0, |(offset, _)| *offset + 1);
            // Beyond the end as well, which must be refused; but the log may have more than was acknowledged so far.
            let before = chance.below(end as u64 + 3) as i64;
            partition.start_asked = partition.start_asked.max(before);
            before
        };
        let (reply, answer) = oneshot::channel();
        node.send(PartitionCommand::DeleteRecords { partition: log, before: Offset(before), reply });
        match answer.await {
            Ok(Ok(start)) => {
                let mut model = model.borrow_mut();
                model.deletions += 1;
                if start.0 < before {
                    let what = format!("{log} starts at {start} after a deletion up to {before}");
                    model.break_promise("LogStartNeverGoesBack", what);
                }
                model.see_start(log, known, start.0);
            }
            Ok(Err(PartitionError::NotHosted | PartitionError::Stopping)) | Err(_) => return,
            Ok(Err(_)) => {}
        }
    }
}
