//! Batches that Kafka's own producer code wrote (kafka-clients 4.4.0, `MemoryRecords.withRecords`), one for each
//! codec, with the same three records.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use logmill_wire::compression::Codec;
use logmill_wire::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};
use logmill_wire::record_batch::{
    BatchBuilder, BatchView, ContentRules, RecordsSummary, validate_contents, validate_header,
};

const VALUE: &[u8] = b"the quick brown fox ";

const VECTORS: [(Codec, &str); 5] = [
    (
        Codec::None,
        "00000000000000070000007900000004022481dd0f00100000000200000000000003e8000000000000044c00\
         0000000000006300030000000c000000034400000002612874686520717569636b2062726f776e20666f7820\
         04026b0201026b013600c70102012874686520717569636b2062726f776e20666f7820001000c80104026301\
         00",
    ),
    (
        Codec::Gzip,
        "00000000000000070000007a0000000402142aece200110000000200000000000003e8000000000000044c00\
         0000000000006300030000000c000000031f8b08000000000000ff73616060604ad428c94855282ccd4cce56\
         482aca2fcf5348cbaf506061ca666264ca66346338cec8c48855098300c3094616a664460600c160d4624800\
         0000",
    ),
    (
        Codec::Snappy,
        "00000000000000070000007e000000040206d5a66100120000000200000000000003e8000000000000044c00\
         0000000000006300030000000c0000000382534e415050590000000001000000010000003948a04400000002\
         612874686520717569636b2062726f776e20666f782004026b0201026b013600c701020152230024001000c8\
         010402630100",
    ),
    (
        Codec::Lz4,
        "00000000000000070000007900000004021e5bb04400130000000200000000000003e8000000000000044c00\
         0000000000006300030000000c0000000304224d1860408239000000ff1a4400000002612874686520717569\
         636b2062726f776e20666f782004026b0201026b013600c7010201230002a0001000c8010402630100000000\
         00",
    ),
    (
        Codec::Zstd,
        "0000000000000007000000780000000402b952959b00140000000200000000000003e8000000000000044c00\
         0000000000006300030000000c0000000328b52ffd0058dc010034034400000002612874686520717569636b\
         2062726f776e20666f782004026b0201026b013600c7010201001000c80104026301000100319f2a03010000",
    ),
];

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn built(codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new()
        .base_offset(Offset(7))
        .leader_epoch(LeaderEpoch(4))
        .codec(codec)
        .producer(ProducerId(99), ProducerEpoch(3), 12)
        .transactional();
    builder
        .append(TimestampMs(1000), Some(b"a"), Some(VALUE), &[("k", Some(&[1])), ("k", None)])
        .append(TimestampMs(900), None, Some(VALUE), &[])
        .append(TimestampMs(1100), Some(b"c"), None, &[]);
    builder.finish().unwrap()
}

#[test]
fn batches_of_kafkas_own_client_are_read() {
    for (codec, text) in VECTORS {
        let bytes = unhex(text);
        let batch = BatchView::only(&bytes).unwrap();
        validate_header(&batch).unwrap();
        assert_eq!(batch.codec().unwrap(), codec);
        let rules = ContentRules { keys_required: false, limit_bytes: 4096 };
        let expected = RecordsSummary {
            max_timestamp: TimestampMs(1100),
            max_timestamp_offset: Offset(9),
            min_timestamp: TimestampMs(900),
            uncompressed_bytes: batch.contents(4096).unwrap().bytes().len(),
        };
        assert_eq!(validate_contents(&batch, rules).unwrap(), expected);

        let ours = built(codec);
        let ours = BatchView::only(&ours).unwrap();
        assert_eq!(batch.contents(4096).unwrap().bytes(), ours.contents(4096).unwrap().bytes(), "{codec}");
        let mut header = *ours.header();
        // Compressed bytes need not be the same, so length and checksum may differ.
        (header.batch_length, header.crc) = (batch.header().batch_length, batch.header().crc);
        assert_eq!(header, *batch.header());
    }
}

#[test]
fn an_uncompressed_batch_is_written_as_kafkas_own_client_does() {
    let (codec, text) = VECTORS[0];
    assert_eq!(built(codec), unhex(text));
}
