//! What a topic demands of the records inside of a batch: their codec, and their keys. Looking into compressed
//! records takes long, so it happens beside the shard's thread, while the partition's later appends wait.

use super::command::PartitionError;
use super::hosted::Partition;
use crate::runtime::{OffloadError, Runtime};
use bytes::Bytes;
use logmill_wire::compression::Codec;
use logmill_wire::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use logmill_wire::record_batch::{
    BatchError, BatchHeader, BatchView, ContentRules, RecordsSummary, recompress, validate_contents,
    validate_header,
};
use std::time::Duration;

/// How long an append waits before it asks again for a place in the pool, whose queue was full.
const POOL_RETRY_AFTER: Duration = Duration::from_millis(5);

/// What a topic's settings demand of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentPolicy {
    /// The codec and its level (`compression.type`); `None` to keep what the producer sent.
    pub codec: Option<(Codec, Option<i32>)>,
    /// Whether every record must have a key (`cleanup.policy=compact`).
    pub keys_required: bool,
    /// Whether the time of every record counts (`message.timestamp.before.max.ms`).
    pub age_bounded: bool,
}

impl ContentPolicy {
    /// Records are kept as they come.
    pub const AS_SENT: Self = Self { codec: None, keys_required: false, age_bounded: false };

    /// Whether the batch must be looked into, or changed, before it can be appended. What is no batch is somebody
    /// else's to refuse.
    pub(super) fn concerns(self, records: &[u8], max_message_bytes: i32) -> bool {
        if self == Self::AS_SENT {
            return false;
        }
        let Some(header) = BatchHeader::parse(records) else { return false };
        // One that is too large is refused as it is.
        if records.len() > usize::try_from(max_message_bytes).unwrap_or(0) {
            return false;
        }
        let codec = header.attributes.codec_id();
        let is_compressed = codec != Codec::None.id();
        self.codec.is_some_and(|(wanted, _)| wanted.id() != codec)
            || ((self.keys_required || self.age_bounded) && is_compressed)
    }

    fn carry_out(self, records: Bytes) -> Result<(Bytes, RecordsSummary), BatchError> {
        let batch = BatchView::only(&records)?;
        validate_header(&batch)?;
        let limit_bytes = DECOMPRESSED_BATCH_BYTES_MAX;
        let found =
            validate_contents(&batch, ContentRules { keys_required: self.keys_required, limit_bytes })?;
        let records = match self.codec {
            Some((codec, level)) if batch.codec()? != codec => {
                recompress(&batch, codec, level, limit_bytes)?.into()
            }
            _ => records,
        };
        Ok((records, found))
    }
}

impl<R: Runtime> Partition<R> {
    /// The batch in the form in which the topic keeps it, and what was found in it.
    pub(super) async fn rework(
        &self,
        records: Bytes,
        policy: ContentPolicy,
    ) -> Result<(Bytes, RecordsSummary), PartitionError> {
        loop {
            let taken = records.clone();
            match self.runtime.offload(move || policy.carry_out(taken)).await {
                Ok(outcome) => return outcome.map_err(PartitionError::Batch),
                Err(OffloadError::Busy) => self.runtime.sleep(POOL_RETRY_AFTER).await,
                Err(OffloadError::Panicked) => {
                    let what = "the records could not be brought into the topic's form".to_owned();
                    return Err(PartitionError::Storage(what));
                }
            }
        }
    }
}
