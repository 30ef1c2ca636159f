//! Record batches against an independent codec, in both directions and with every compression.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, Record, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use logmill_wire::compression::Codec;
use logmill_wire::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};
use logmill_wire::record_batch::{
    BatchBuilder, BatchView, ContentRules, HeaderToWrite, batches, max_timestamp_record, validate_contents,
    validate_header, validate_stored_header,
};

const CODECS: [(Codec, Compression); 5] = [
    (Codec::None, Compression::None),
    (Codec::Gzip, Compression::Gzip),
    (Codec::Snappy, Compression::Snappy),
    (Codec::Lz4, Compression::Lz4),
    (Codec::Zstd, Compression::Zstd),
];

/// xorshift64*, so that every run is the same.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    /// Null, empty, short or (rarely) long, and not all random, so that there is something to compress.
    fn bytes(&mut self) -> Option<Bytes> {
        let length = match self.below(10) {
            0 => return None,
            1 => 0,
            2 => 20_000 + self.below(60_000),
            _ => self.below(300),
        };
        let variety = 1 + self.below(256);
        Some((0..length).map(|_| self.below(variety) as u8).collect())
    }

    /// The records of one batch as the other codec has them; no header key stands twice in one record.
    fn batch(&mut self) -> Vec<Record> {
        let idempotent = self.below(2) == 0;
        let transactional = idempotent && self.below(2) == 0;
        let producer_id = if idempotent { self.below(1 << 40) as i64 } else { NO_PRODUCER_ID };
        let producer_epoch = if idempotent { self.below(1 << 15) as i16 } else { NO_PRODUCER_EPOCH };
        let base_sequence = if idempotent { self.below(1 << 30) as i32 } else { -1 };
        let base_offset = self.below(1 << 50) as i64;
        let base_timestamp = self.below(1 << 41) as i64;
        let partition_leader_epoch = self.below(1 << 31) as i32;
        (0..1 + self.below(60))
            .map(|n| {
                let mut headers = IndexMap::new();
                for _ in 0..self.below(4) {
                    let key = format!("header-{}", self.below(1000));
                    headers.insert(StrBytes::from_string(key), self.bytes());
                }
                Record {
                    transactional,
                    control: false,
                    delete_horizon: false,
                    partition_leader_epoch,
                    producer_id,
                    producer_epoch,
                    timestamp_type: TimestampType::Creation,
                    offset: base_offset + n as i64,
                    sequence: base_sequence + n as i32,
                    timestamp: base_timestamp + self.below(100_000) as i64,
                    key: self.bytes(),
                    value: self.bytes(),
                    headers,
                }
            })
            .collect()
    }
}

/// The same records written by our builder.
fn built(records: &[Record], codec: Codec) -> Vec<u8> {
    let first = &records[0];
    let base_timestamp = records.iter().map(|record| record.timestamp).min().unwrap();
    let mut builder = BatchBuilder::new()
        .base_offset(Offset(first.offset))
        .leader_epoch(LeaderEpoch(first.partition_leader_epoch))
        .codec(codec)
        .producer(ProducerId(first.producer_id), ProducerEpoch(first.producer_epoch), first.sequence)
        .base_timestamp(TimestampMs(base_timestamp));
    if first.transactional {
        builder = builder.transactional();
    }
    for record in records {
        let headers: Vec<HeaderToWrite<'_>> =
            record.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        let timestamp = TimestampMs(record.timestamp);
        builder.append(timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    builder.finish().unwrap()
}

fn encoded(records: &[Record], compression: Compression) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression };
    RecordBatchEncoder::encode(&mut bytes, records, &options).unwrap();
    bytes.to_vec()
}

fn assert_reads_as(batch: &BatchView<'_>, expected: &[Record], codec: Codec) {
    validate_header(batch).unwrap();
    validate_stored_header(batch).unwrap();
    let rules = ContentRules { keys_required: false, limit_bytes: usize::MAX };
    let summary = validate_contents(batch, rules).unwrap();
    assert_eq!(batch.codec().unwrap(), codec);
    let header = batch.header();
    assert_eq!(summary.max_timestamp, header.max_timestamp);
    let latest = max_timestamp_record(batch).unwrap();
    assert_eq!(latest, Some((summary.max_timestamp_offset, summary.max_timestamp)));

    let contents = batch.contents(usize::MAX).unwrap();
    let found: Vec<Record> = contents
        .records()
        .map(|record| {
            let record = record.unwrap();
            let headers = record.headers().map(|header| {
                let key = StrBytes::from_utf8(Bytes::copy_from_slice(header.key)).unwrap();
                (key, header.value.map(Bytes::copy_from_slice))
            });
            Record {
                transactional: header.attributes.is_transactional(),
                control: header.attributes.is_control(),
                delete_horizon: header.attributes.has_delete_horizon(),
                partition_leader_epoch: header.leader_epoch.0,
                producer_id: header.producer_id.0,
                producer_epoch: header.producer_epoch.0,
                timestamp_type: TimestampType::Creation,
                offset: record.offset(header).0,
                sequence: header.base_sequence + record.offset_delta,
                timestamp: record.timestamp(header).0,
                key: record.key.map(Bytes::copy_from_slice),
                value: record.value.map(Bytes::copy_from_slice),
                headers: headers.collect(),
            }
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn what_the_other_codec_writes_is_read() {
    let mut random = Random(11);
    for (codec, compression) in CODECS {
        for _ in 0..40 {
            let (first, second) = (random.batch(), random.batch());
            let mut set = encoded(&first, compression);
            set.extend(encoded(&second, compression));
            let views: Vec<_> = batches(&set).map(Result::unwrap).collect();
            assert_eq!(views.len(), 2);
            assert_reads_as(&views[0], &first, codec);
            assert_reads_as(&views[1], &second, codec);
        }
    }
}

#[test]
fn what_is_written_the_other_codec_reads() {
    let mut random = Random(12);
    for (codec, _) in CODECS {
        for _ in 0..40 {
            let records = random.batch();
            let mut bytes = Bytes::from(built(&records, codec));
            let sets = RecordBatchDecoder::decode_all(&mut bytes).unwrap();
            assert_eq!(sets.len(), 1);
            assert_eq!(sets[0].records, records, "{codec}");
        }
    }
}

#[test]
fn uncompressed_batches_are_the_same_to_the_byte() {
    let mut random = Random(13);
    for _ in 0..200 {
        let records = random.batch();
        assert_eq!(built(&records, Codec::None), encoded(&records, Compression::None));
    }
}

/// The other codec keeps headers in a map, and so only the last of several with one key; ours keeps all.
#[test]
fn repeated_header_keys_keep_their_order() {
    let pairs: [HeaderToWrite<'_>; 4] = [("k", Some(b"1")), ("j", None), ("k", Some(b"2")), ("k", None)];
    for (codec, _) in CODECS {
        let mut builder = BatchBuilder::new().codec(codec);
        builder.append(TimestampMs(1), None, None, &pairs);
        let bytes = builder.finish().unwrap();
        let batch = BatchView::only(&bytes).unwrap();
        let contents = batch.contents(usize::MAX).unwrap();
        let record = contents.records().next().unwrap().unwrap();
        let found: Vec<_> = record.headers().map(|header| (header.key, header.value)).collect();
        let expected: Vec<_> = pairs.iter().map(|(key, value)| (key.as_bytes(), *value)).collect();
        assert_eq!(found, expected);

        let sets = RecordBatchDecoder::decode_all(&mut Bytes::from(bytes)).unwrap();
        let theirs = &sets[0].records[0].headers;
        assert_eq!(theirs.len(), 2);
        assert_eq!(theirs.get(b"k".as_slice()), Some(&None));
    }
}
