//! Produce requests that are encoded once and sent many times: only what differs is written anew.

use crate::cluster::{ProducerIdentity, Topic};
use crate::connection::CLIENT_ID;
use logmill_wire::api::{produce, request_frame};
use logmill_wire::compression::Codec;
use logmill_wire::ids::{ProducerEpoch, ProducerId, TimestampMs};
use logmill_wire::record_batch::{self, BatchBuilder, BatchError};

/// Where a frame has its correlation id: after size, key and version.
const CORRELATION_ID_AT: usize = 8;
/// Where a batch has its base timestamp and its base sequence.
const BASE_TIMESTAMP_AT: usize = 27;
const BASE_SEQUENCE_AT: usize = 53;

/// Hexadecimal digits, so that codecs find about what they find in text.
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// One batch that is sent again and again, with a new time and sequence each time.
#[derive(Clone, Debug)]
pub(super) struct BatchTemplate {
    bytes: Vec<u8>,
    pub(super) records: u64,
}

impl BatchTemplate {
    /// Fills a batch with records of `record_bytes` until one more would exceed `batch_bytes`; at least one.
    pub(super) fn new(
        record_bytes: usize,
        batch_bytes: usize,
        codec: Codec,
        identity: Option<ProducerIdentity>,
        seed: u64,
    ) -> Result<Self, BatchError> {
        let mut builder = BatchBuilder::new().codec(codec);
        if let Some(ProducerIdentity { id, epoch }) = identity {
            builder = builder.producer(ProducerId(id), ProducerEpoch(epoch), 0);
        }
        let mut state = seed;
        let mut last_record_bytes = 0;
        while builder.record_count() == 0 || builder.uncompressed_bytes() + last_record_bytes <= batch_bytes {
            let before = builder.uncompressed_bytes();
            let value = pseudo_random_text(&mut state, record_bytes);
            builder.append(TimestampMs(0), None, Some(&value), &[]);
            last_record_bytes = builder.uncompressed_bytes() - before;
        }
        Ok(Self { bytes: builder.finish()?, records: builder.record_count().unsigned_abs() })
    }

    /// Gives the batch its time and, for an idempotent producer, its sequence (KIP-98).
    pub(super) fn stamp(&mut self, now_ms: i64, base_sequence: Option<i32>) {
        self.bytes[BASE_TIMESTAMP_AT..BASE_TIMESTAMP_AT + 8].copy_from_slice(&now_ms.to_be_bytes());
        if let Some(sequence) = base_sequence {
            self.bytes[BASE_SEQUENCE_AT..BASE_SEQUENCE_AT + 4].copy_from_slice(&sequence.to_be_bytes());
        }
        record_batch::set_max_timestamp(&mut self.bytes, TimestampMs(now_ms));
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn pseudo_random_text(state: &mut u64, length: usize) -> Vec<u8> {
    let digit = || {
        // SplitMix64 (Steele, Lea, Flood 2014): small, and enough to keep records apart.
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        DIGITS[((mixed ^ (mixed >> 31)) & 0x0f) as usize]
    };
    core::iter::repeat_with(digit).take(length).collect()
}

/// What surrounds the batch in the requests to one partition.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Envelope {
    /// Encodes a request around `batch` and takes the batch out of it.
    pub(super) fn new(
        topic: &Topic,
        partition: i32,
        acks: i16,
        timeout_ms: i32,
        version: i16,
        batch: &BatchTemplate,
    ) -> Result<Self, logmill_wire::primitives::EncodeError> {
        let data = produce::PartitionProduceData {
            index: partition,
            records: Some(bytes::Bytes::copy_from_slice(batch.bytes()).into()),
        };
        let topic_data = produce::TopicProduceData {
            name: topic.name.as_str().into(),
            topic_id: topic.id,
            partition_data: vec![data].into(),
        };
        let request =
            produce::Request { acks, timeout_ms, topic_data: vec![topic_data].into(), ..Default::default() };
        let parts = request_frame(&request, version, 0, Some(CLIENT_ID))?;
        // The batch is a part of its own: shared bytes are never joined with others.
        let [head, _, tail @ ..] = parts.as_slice() else {
            return Err(logmill_wire::primitives::EncodeError::TooLong);
        };
        Ok(Self { head: head.to_vec(), tail: tail.concat() })
    }

    /// The request around a batch of the size for which the envelope was made, in three slices.
    pub(super) fn around<'a>(&'a mut self, batch: &'a BatchTemplate, correlation_id: i32) -> [&'a [u8]; 3] {
        self.head[CORRELATION_ID_AT..CORRELATION_ID_AT + 4].copy_from_slice(&correlation_id.to_be_bytes());
        [&self.head, batch.bytes(), &self.tail]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::api::{Message, decode_request_header};
    use logmill_wire::ids::Uuid;
    use logmill_wire::primitives::Reader;
    use logmill_wire::record_batch::BatchView;

    #[test]
    fn a_stamped_request_is_a_valid_one() {
        let identity = ProducerIdentity { id: 77, epoch: 3 };
        let mut batch = BatchTemplate::new(100, 1024, Codec::None, Some(identity), 1).unwrap();
        assert!(batch.bytes().len() <= 1024 && batch.bytes().len() > 900);
        let topic = Topic { name: "t".to_owned(), id: Uuid([5; 16]), leaders: Vec::new() };
        for version in [9, 12, 13] {
            let mut envelope = Envelope::new(&topic, 4, -1, 1000, version, &batch).unwrap();
            batch.stamp(1_700_000_000_123, Some(90));
            let frame = envelope.around(&batch, 31).concat();
            assert_eq!(u32::from_be_bytes(*frame.first_chunk().unwrap()) as usize, frame.len() - 4);
            let mut reader = Reader::new(&frame[4..]);
            assert_eq!(decode_request_header(&mut reader).unwrap().correlation_id, 31);
            let request = produce::Request::decode_body(reader.rest(), version).unwrap();
            let data = request.topic_data.iter().next().unwrap().partition_data.iter().next().unwrap();
            let records = data.records.unwrap();
            let sent = BatchView::only(records.borrowed().unwrap()).unwrap();
            record_batch::validate_header(&sent).unwrap();
            let header = sent.header();
            assert_eq!((data.index, request.acks), (4, -1));
            assert_eq!((header.base_sequence, header.producer_id.0), (90, 77));
            assert_eq!(header.max_timestamp, TimestampMs(1_700_000_000_123));
            assert_eq!(header.record_count as u64, batch.records);
        }
    }

    #[test]
    fn a_record_larger_than_the_batch_still_makes_one() {
        let batch = BatchTemplate::new(500, 10, Codec::Lz4, None, 1).unwrap();
        assert_eq!(batch.records, 1);
    }
}
