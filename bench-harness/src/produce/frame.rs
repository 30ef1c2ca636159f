//! Produce requests that are encoded once and sent many times: only what differs is written anew.

use crate::chance::Chance;
use crate::clock::Clock;
use crate::cluster::{ProducerIdentity, Topic};
use crate::connection::CLIENT_ID;
use crate::workload::STAMP_BYTES;
use logmill_wire::api::{produce, request_frame};
use logmill_wire::compression::Codec;
use logmill_wire::ids::{ProducerEpoch, ProducerId, TimestampMs};
use logmill_wire::record_batch::{self, BatchBuilder, BatchError};

/// Where a frame has its correlation id: after size, key and version.
const CORRELATION_ID_AT: usize = 8;
/// Where a batch has its base timestamp and its base sequence.
const BASE_TIMESTAMP_AT: usize = 27;
const BASE_SEQUENCE_AT: usize = 53;

/// Stands in the template where the stamp goes; no record's digits look like it.
const STAMP_PLACE: [u8; STAMP_BYTES as usize] = *b"|stamp goes here";

/// How batches are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub(crate) record_bytes: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) key_bytes: usize,
    pub(crate) distinct_keys: u32,
    pub(crate) codec: Codec,
    /// Whether the first record says when the batch was due. Within compressed records there is no place for it:
    /// consumers then take the batch's timestamp, in milliseconds.
    pub(crate) is_stamped: bool,
}

/// One batch that is sent again and again, with a new time and sequence each time.
#[derive(Clone, Debug)]
pub(crate) struct BatchTemplate {
    bytes: Vec<u8>,
    stamp_at: Option<usize>,
    pub(crate) records: u64,
}

impl BatchTemplate {
    /// Fills a batch with records until one more would exceed the batch's size; at least one.
    pub(crate) fn new(
        recipe: &Recipe,
        identity: Option<ProducerIdentity>,
        seed: u64,
    ) -> Result<Self, BatchError> {
        let mut builder = BatchBuilder::new().codec(recipe.codec);
        if let Some(ProducerIdentity { id, epoch }) = identity {
            builder = builder.producer(ProducerId(id), ProducerEpoch(epoch), 0);
        }
        let mut chance = Chance::new(seed);
        let (mut last_record_bytes, mut records) = (0, 0);
        while records == 0 || builder.uncompressed_bytes() + last_record_bytes <= recipe.batch_bytes {
            let before = builder.uncompressed_bytes();
            let mut value = chance.digits(recipe.record_bytes);
            if let (true, Some(place)) = (recipe.is_stamped && records == 0, value.first_chunk_mut()) {
                *place = STAMP_PLACE;
            }
            let key = (recipe.key_bytes > 0).then(|| {
                let number = chance.bits() % u64::from(recipe.distinct_keys);
                Chance::new(number).digits(recipe.key_bytes)
            });
            builder.append(TimestampMs(0), key.as_deref(), Some(&value), &[]);
            last_record_bytes = builder.uncompressed_bytes() - before;
            records += 1;
        }
        let bytes = builder.finish()?;
        let stamp_at = bytes.windows(STAMP_PLACE.len()).position(|window| window == STAMP_PLACE);
        Ok(Self { bytes, stamp_at: stamp_at.filter(|_| recipe.codec == Codec::None), records })
    }

    /// Gives the batch its time and, for an idempotent producer, its sequence (KIP-98).
    pub(crate) fn stamp(&mut self, now_ms: i64, stamp: Stamp, base_sequence: Option<i32>) {
        self.bytes[BASE_TIMESTAMP_AT..BASE_TIMESTAMP_AT + 8].copy_from_slice(&now_ms.to_be_bytes());
        if let Some(sequence) = base_sequence {
            self.bytes[BASE_SEQUENCE_AT..BASE_SEQUENCE_AT + 4].copy_from_slice(&sequence.to_be_bytes());
        }
        if let Some(at) = self.stamp_at {
            self.bytes[at..at + STAMP_PLACE.len()].copy_from_slice(&stamp.bytes());
        }
        record_batch::set_max_timestamp(&mut self.bytes, TimestampMs(now_ms));
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Which run a batch belongs to, and when it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Of this run; batches of others are not measured.
    pub(crate) run: u64,
    /// On the run's clock.
    pub(crate) due_ns: u64,
}

impl Stamp {
    /// A mark for a new run.
    pub(crate) fn mark(clock: &Clock) -> u64 {
        Chance::new(clock.wall_ms().unsigned_abs() ^ clock.now_ns().rotate_left(32)).bits()
    }

    fn bytes(self) -> [u8; STAMP_BYTES as usize] {
        let mut bytes = [0; STAMP_BYTES as usize];
        bytes[..8].copy_from_slice(&self.run.to_be_bytes());
        bytes[8..].copy_from_slice(&self.due_ns.to_be_bytes());
        bytes
    }

    /// The stamp at the front of a record's value.
    pub(crate) fn of_value(value: &[u8]) -> Option<Self> {
        let (run, rest) = value.split_first_chunk()?;
        let (due_ns, _) = rest.split_first_chunk()?;
        Some(Self { run: u64::from_be_bytes(*run), due_ns: u64::from_be_bytes(*due_ns) })
    }
}

/// What surrounds the batch in the requests to one partition.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Envelope {
    /// Encodes a request around `batch` and takes the batch out of it.
    pub(crate) fn new(
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
    pub(crate) fn around<'a>(&'a mut self, batch: &'a BatchTemplate, correlation_id: i32) -> [&'a [u8]; 3] {
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

    const RECIPE: Recipe = Recipe {
        record_bytes: 100,
        batch_bytes: 1024,
        key_bytes: 8,
        distinct_keys: 3,
        codec: Codec::None,
        is_stamped: true,
    };

    #[test]
    fn a_stamped_request_is_a_valid_one() {
        let identity = ProducerIdentity { id: 77, epoch: 3 };
        let mut batch = BatchTemplate::new(&RECIPE, Some(identity), 1).unwrap();
        assert!(batch.bytes().len() <= 1024 && batch.bytes().len() > 900);
        let topic = Topic { name: "t".to_owned(), id: Uuid([5; 16]), leaders: Vec::new() };
        for version in [9, 12, 13] {
            let mut envelope = Envelope::new(&topic, 4, -1, 1000, version, &batch).unwrap();
            let stamp = Stamp { run: 5, due_ns: 6 };
            batch.stamp(1_700_000_000_123, stamp, Some(90));
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
            let contents = sent.contents(1 << 20).unwrap();
            let records: Vec<_> = contents.records().map(Result::unwrap).collect();
            assert_eq!(records[0].value.and_then(Stamp::of_value), Some(stamp));
            assert!(records.iter().all(|record| record.key.unwrap().len() == 8));
            let mut keys: Vec<_> = records.iter().map(|record| record.key).collect();
            keys.sort_unstable();
            keys.dedup();
            assert!(keys.len() <= 3 && keys.len() > 1, "{}", keys.len());
        }
    }

    #[test]
    fn a_record_larger_than_the_batch_still_makes_one() {
        let recipe = Recipe { record_bytes: 500, batch_bytes: 10, codec: Codec::Lz4, ..RECIPE };
        let mut batch = BatchTemplate::new(&recipe, None, 1).unwrap();
        assert_eq!(batch.records, 1);
        // A stamp would damage what is compressed.
        batch.stamp(7, Stamp { run: 1, due_ns: 2 }, None);
        let view = BatchView::only(batch.bytes()).unwrap();
        assert!(view.contents(1 << 20).unwrap().records().next().unwrap().is_ok());
    }
}
