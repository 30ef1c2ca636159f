//! Traps of the batches of producers: what is refused, and that the rest is stored as it came.

use super::super::client::batch;
use super::super::turn;
use super::super::workspace::Folder;
use super::{BASE_MS, as_sent, restart, start, stored};
use bytes::Bytes;
use logmill_wire::compression::Codec;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::TimestampMs;
use logmill_wire::record_batch::{BatchBuilder, BatchView};

/// Producers split a batch that is refused as too large, and give up at other errors.
#[test]
fn a_batch_that_is_too_large_is_refused_as_such() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    let largest = batch(&[1; 900]);
    let limit = largest.len().to_string();
    client.try_create_topic("bounded", 1, &[("max.message.bytes", &limit)]).unwrap();
    let refused = client.append("bounded", 0, -1, batch(&[1; 901]));
    assert_eq!((refused.error, refused.base_offset), (ErrorCode::MessageTooLarge.code(), -1));
    assert_eq!(client.append_well("bounded", 0, largest), 0, "what just fits is taken, at the first offset");
    node.stop();
}

/// A record without a key can never be compacted away, and tools that keep their state in such a topic (schema
/// registries, Connect) cannot read one: Kafka refuses it, compressed or not, and so producers rely on that.
#[test]
fn a_compacted_topic_takes_no_null_keys() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    client.try_create_topic("keyed", 1, &[("cleanup.policy", "compact")]).unwrap();
    let with_keys = |codec: Codec, keys: [Option<&[u8]>; 2]| -> Bytes {
        let mut builder = BatchBuilder::new().codec(codec);
        for key in keys {
            builder.append(TimestampMs(BASE_MS), key, Some(b"v"), &[]);
        }
        builder.finish().unwrap().into()
    };
    for (round, codec) in (0..).zip(Codec::ALL) {
        let refused = client.append("keyed", 0, -1, with_keys(codec, [Some(b"k"), None]));
        assert_eq!((refused.error, refused.base_offset), (ErrorCode::InvalidRecord.code(), -1), "{codec:?}");
        // An empty key is a key.
        let offset = client.append_well("keyed", 0, with_keys(codec, [Some(b"k"), Some(b"")]));
        assert_eq!(offset, 2 * round, "{codec:?}: of the batch that was refused nothing is stored");
    }
    node.stop();
}

type Header = (Vec<u8>, Option<Vec<u8>>);

fn headers(batch: &[u8]) -> Vec<Header> {
    let view = BatchView::only(batch).unwrap();
    let contents = view.contents(1 << 20).unwrap();
    let record = contents.records().next().expect("one record").unwrap();
    record.headers().map(|header| (header.key.to_vec(), header.value.map(<[u8]>::to_vec))).collect()
}

/// Tracing and interceptors add a header of the same key at each hop and read the last one, or all of them: a
/// broker that keeps headers in a map loses some, or changes which one is last.
#[test]
fn headers_keep_their_order_and_their_repeated_keys() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let node = start(&folder);
    let mut client = node.client();
    let sent: [(&str, Option<&[u8]>); 6] = [
        ("z", Some(b"1")),
        ("hop", Some(b"first")),
        ("a", None),
        ("hop", Some(b"second")),
        ("", Some(b"")),
        ("hop", Some(b"first")),
    ];
    let expected = sent.map(|(key, value)| (key.as_bytes().to_vec(), value.map(<[u8]>::to_vec)));
    // Where the broker compresses anew, it does so with all of them.
    for (topic, compression) in [("kept", "producer"), ("remade", "zstd"), ("undone", "uncompressed")] {
        client.try_create_topic(topic, 1, &[("compression.type", compression)]).unwrap();
        for codec in [Codec::None, Codec::Gzip] {
            let mut builder = BatchBuilder::new().codec(codec);
            builder.append(TimestampMs(BASE_MS), Some(b"k"), Some(b"v"), &sent);
            let bytes: Bytes = builder.finish().unwrap().into();
            let offset = client.append_well(topic, 0, bytes.clone());
            let batches = stored(&mut client, topic, offset);
            assert_eq!(headers(&batches[0]), expected, "{compression}, {codec:?}");
            if compression == "producer" {
                assert_eq!(as_sent(&batches[0]), as_sent(&bytes), "{codec:?}");
            }
        }
    }
    node.stop();
}

const HEADER_BYTES: usize = 61;

/// The batch with its records behind another compression, made by hand in a way in which no encoder makes it.
fn recoded(plain: &[u8], codec: Codec, compress: impl Fn(&[u8]) -> Vec<u8>) -> Bytes {
    let mut bytes = plain[..HEADER_BYTES].to_vec();
    bytes.extend_from_slice(&compress(&plain[HEADER_BYTES..]));
    bytes[22] |= codec.id();
    let length = i32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// The Xerial library's frame around chunks of raw Snappy, each of them one literal.
fn xerial(plain: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for chunk in plain.chunks(37) {
        let length = u8::try_from(chunk.len()).unwrap();
        bytes.extend_from_slice(&(u32::from(length) + 2).to_be_bytes());
        bytes.extend_from_slice(&[length, (length - 1) << 2]);
        bytes.extend_from_slice(chunk);
    }
    bytes
}

/// An LZ4 frame of independent blocks that are not compressed.
fn lz4(plain: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
    for chunk in plain.chunks(41) {
        let length = u32::try_from(chunk.len()).unwrap() | 1 << 31;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(chunk);
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// Java's clients read Snappy only in Xerial's frames, and LZ4 only in independent blocks: a broker that encodes
/// anew in the way of its own library hands them what they cannot read.
#[test]
fn compressed_batches_pass_through_untouched() {
    let _turn = turn::shared();
    let folder = Folder::new();
    let mut node = start(&folder);
    let mut client = node.client();
    client.create_topic("untouched", 1);
    let mut sent = Vec::new();
    let mut next = 0;
    for (round, codec) in [(0, Codec::Snappy), (1, Codec::Lz4)] {
        let mut builder = BatchBuilder::new();
        for at in 0..40 {
            let value = format!("value {at} of {codec:?}");
            builder.append(
                TimestampMs(BASE_MS + 1_000 * round + at),
                Some(b"k"),
                Some(value.as_bytes()),
                &[],
            );
        }
        let plain = builder.finish().unwrap();
        let bytes = match codec {
            Codec::Snappy => recoded(&plain, codec, xerial),
            _ => recoded(&plain, codec, lz4),
        };
        assert_eq!(client.append_well("untouched", 0, bytes.clone()), next);
        sent.push((next, bytes));
        next += 40;
    }
    for round in 0..2_i64 {
        let epoch = client.leader_epoch("untouched", 0);
        let batches = stored(&mut client, "untouched", 0);
        assert_eq!(batches.len(), sent.len());
        for (batch, (offset, bytes)) in batches.iter().zip(&sent) {
            assert_eq!(as_sent(batch), as_sent(bytes));
            let header = *BatchView::only(batch).unwrap().header();
            assert_eq!(header.base_offset.0, *offset);
            assert!(header.leader_epoch.0 >= 0 && header.leader_epoch.0 <= epoch);
        }
        // The broker itself reads them: it finds a record inside.
        for (number, (offset, _)) in (0..).zip(&sent) {
            let time = BASE_MS + 1_000 * number + 23;
            let found = client.list_offset("untouched", 0, time);
            assert_eq!((found.0, found.1, found.2), (0, time, offset + 23));
        }
        node = restart(node, &folder, round == 0);
        client = node.client();
    }
    node.stop();
}
