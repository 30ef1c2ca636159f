//! Records that wait to be sent, and the batches that are made of them.

use super::failure::Failure;
use bytes::Bytes;
use logmill_wire::compression::Codec;
use logmill_wire::ids::{ProducerEpoch, ProducerId, TimestampMs};
use logmill_wire::record_batch::{BatchBuilder, HeaderToWrite};

/// What a record takes besides its key, value and headers, at most.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// The identity of an idempotent producer (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: ProducerId,
    pub(super) epoch: ProducerEpoch,
}

/// A record that waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) timestamp: TimestampMs,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Vec<u8>,
}

impl Waiting {
    /// Bytes in a batch that is not compressed, the headers not counted; a little more than it takes.
    pub(super) fn bytes(&self) -> usize {
        RECORD_OVERHEAD_BYTES + self.key.as_ref().map_or(0, Vec::len) + self.value.len()
    }
}

/// How records become a batch.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) codec: Codec,
    pub(super) headers: Vec<(String, String)>,
}

/// Records of one partition that are sent together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) records: Vec<Waiting>,
    /// The batch as it is sent, so that it is the same every time, and in whose name.
    encoded: Option<(Bytes, Option<Identity>)>,
    /// Whether an earlier attempt got no answer, so that it may have been appended.
    pub(super) is_doubtful: bool,
}

impl Batch {
    pub(super) fn new(records: Vec<Waiting>) -> Self {
        Self { records, ..Self::default() }
    }

    /// The batch's bytes; made at the first call, in the name of `identity` and with this first sequence number.
    ///
    /// # Errors
    /// [`Failure::Unfit`] if the records make no batch.
    pub(super) fn encoded(
        &mut self,
        shape: &Shape,
        identity: Option<Identity>,
        sequence: i32,
    ) -> Result<Bytes, Failure> {
        if let Some((bytes, _)) = &self.encoded {
            return Ok(bytes.clone());
        }
        let mut builder = BatchBuilder::new().codec(shape.codec);
        if let Some(identity) = identity {
            builder = builder.producer(identity.id, identity.epoch, sequence);
        }
        let headers: Vec<HeaderToWrite<'_>> =
            shape.headers.iter().map(|(key, value)| (key.as_str(), Some(value.as_bytes()))).collect();
        for record in &self.records {
            builder.append(record.timestamp, record.key.as_deref(), Some(&record.value), &headers);
        }
        let bytes = builder.finish().map_err(|error| {
            Failure::unfit(format!("the records make no batch: {error}"), "send smaller records")
        })?;
        let bytes = Bytes::from(bytes);
        self.encoded = Some((bytes.clone(), identity));
        Ok(bytes)
    }

    /// In whose name the batch was made.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.encoded.as_ref()?.1
    }

    /// Lets the batch be made anew, unless it may have been appended as it is.
    pub(super) fn forget_encoding(&mut self) {
        if !self.is_doubtful {
            self.encoded = None;
        }
    }

    /// The batch as two smaller ones, in order.
    pub(super) fn split(mut self) -> (Self, Self) {
        let second = self.records.split_off(self.records.len() / 2);
        (Self::new(self.records), Self::new(second))
    }
}
