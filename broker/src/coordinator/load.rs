//! Reading a coordinator's partition from its start to its end.
//!
//! The end is that of the log when the broker began to lead, not the high watermark: a new leader learns only little by
//! little what of its log the followers have, and the leaders before it may have answered for all of it.

use crate::partition::command::{
    OffsetFound, OffsetQuery, PartitionCommand, PartitionError, ReadReply, ReadRequest,
};
use crate::partition::router::PartitionRouter;
use crate::runtime::{Runtime, oneshot};
use logmill_state::group::{GroupRecord, Groups};
use logmill_state::partition::{EpochEnd, Isolation};
use logmill_wire::ids::{LeaderEpoch, Offset, TopicPartition};
use logmill_wire::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use logmill_wire::record_batch::{BatchView, batches};
use std::time::Duration;

/// Bytes that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// How long after one look the next one is taken at whether more of the log is committed.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// Replays all records that the partition has in a leader epoch, once they are committed, as long as `is_wanted`.
///
/// # Errors
/// If the partition cannot be read, or a batch in it is damaged. A record that cannot be understood is reported
/// and passed over: one group's damage must not take the others' coordinator away.
pub async fn load<R: Runtime>(
    runtime: &R,
    partitions: &PartitionRouter,
    (key, leader_epoch): (TopicPartition, LeaderEpoch),
    is_wanted: impl Fn() -> bool,
) -> Result<Groups, PartitionError> {
    let mut groups = Groups::default();
    let end = end(partitions, key, leader_epoch).await?;
    let mut offset = start(partitions, key).await?;
    if end < offset {
        // The partition does not know of the epoch.
        return Err(PartitionError::NotHosted);
    }
    loop {
        let read = read(partitions, key, leader_epoch, offset).await?;
        let parts = read.records?;
        let before = offset;
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        // The last batch of a read may be cut; it comes again, whole, with the next one.
        for batch in batches(&bytes).map_while(Result::ok) {
            replay(&batch, &mut groups, key)?;
            offset = offset.max(batch.header().next_offset());
            if runtime.should_yield() {
                runtime.yield_now().await;
            }
        }
        if offset >= end || !is_wanted() {
            return Ok(groups);
        }
        if offset == before {
            if !bytes.is_empty() {
                return Err(PartitionError::Corrupt(format!("there is no whole batch at offset {offset}")));
            }
            if offset < read.high_watermark {
                // Nothing is left but what compaction has taken.
                offset = read.high_watermark;
            } else {
                runtime.sleep(LOOK_AGAIN_AFTER).await;
            }
        }
    }
}

async fn start(partitions: &PartitionRouter, key: TopicPartition) -> Result<Offset, PartitionError> {
    let (reply, answer) = oneshot::channel::<Result<OffsetFound, PartitionError>>();
    partitions.send(PartitionCommand::FindOffset {
        partition: key,
        query: OffsetQuery::Earliest,
        current_leader_epoch: LeaderEpoch::NONE,
        isolation: Isolation::ReadUncommitted,
        reply,
    });
    Ok(answer.await.map_err(|oneshot::Closed| PartitionError::Stopping)??.offset)
}

/// The end of the log.
async fn end(
    partitions: &PartitionRouter,
    key: TopicPartition,
    leader_epoch: LeaderEpoch,
) -> Result<Offset, PartitionError> {
    let (reply, answer) = oneshot::channel::<Result<EpochEnd, PartitionError>>();
    partitions.send(PartitionCommand::EpochEnd {
        partition: key,
        current_leader_epoch: leader_epoch,
        epoch: leader_epoch,
        reply,
    });
    Ok(answer.await.map_err(|oneshot::Closed| PartitionError::Stopping)??.end_offset)
}

async fn read(
    partitions: &PartitionRouter,
    key: TopicPartition,
    leader_epoch: LeaderEpoch,
    offset: Offset,
) -> Result<ReadReply, PartitionError> {
    let (reply, answer) = oneshot::channel();
    let request = ReadRequest {
        offset,
        max_bytes: READ_BYTES,
        at_least_one: true,
        current_leader_epoch: leader_epoch,
        last_fetched_epoch: LeaderEpoch::NONE,
        isolation: Isolation::ReadUncommitted,
        leader_only: true,
    };
    partitions.send(PartitionCommand::Read { partition: key, request, reply });
    answer.await.map_err(|oneshot::Closed| PartitionError::Stopping)
}

fn replay(batch: &BatchView<'_>, groups: &mut Groups, key: TopicPartition) -> Result<(), PartitionError> {
    if batch.header().attributes.is_control() {
        return Ok(());
    }
    let base = batch.header().base_offset;
    let contents = batch.contents(DECOMPRESSED_BATCH_BYTES_MAX).map_err(PartitionError::Batch)?;
    for record in contents.records() {
        let record = record.map_err(PartitionError::Batch)?;
        match GroupRecord::decode(record.key, record.value) {
            Ok(Some(record)) => groups.replay(record),
            // Written by a later release; it keeps its place in the log.
            Ok(None) => {}
            Err(error) => {
                let offset = base.plus(i64::from(record.offset_delta));
                tracing::error!(partition = %key, %offset, %error, "a record of the groups is passed over");
            }
        }
    }
    Ok(())
}
