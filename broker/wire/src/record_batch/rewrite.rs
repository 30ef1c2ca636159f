//! Batches without some of their records, as compaction leaves them.

use super::error::BatchError;
use super::record::Record;
use super::{BatchView, CRC_COVERS_FROM, HEADER_BYTES, LENGTH_PREFIX_BYTES, MAX_TIMESTAMP_AT, seal, varint};
use crate::compression::{self, Codec};
use crate::ids::TimestampMs;

const LENGTH_AT: usize = 8;
const ATTRIBUTES_LOW_AT: usize = CRC_COVERS_FROM + 1;
const BASE_TIMESTAMP_AT: usize = 27;
const RECORD_COUNT_AT: usize = 57;
const CODEC_BITS: u8 = 0x07;
const DELETE_HORIZON_BIT: u8 = 0x40;

/// The batch with only `kept` of its records, which come in their order and with all that they carry; the span of its
/// offsets, producer, epoch and codec stay. With a `delete_horizon` that becomes the batch's base timestamp, marked as
/// such (KIP-534); the records' own timestamps stay.
///
/// # Errors
/// [`BatchError::UnknownCodec`], [`BatchError::Compression`], or [`BatchError::TooLarge`] if the length does not fit
/// its field.
pub fn rewrite(
    batch: &BatchView<'_>,
    kept: &[Record<'_>],
    delete_horizon: Option<TimestampMs>,
) -> Result<Vec<u8>, BatchError> {
    let header = batch.header();
    let base_timestamp = delete_horizon.unwrap_or(header.base_timestamp);
    let moved_ms = header.base_timestamp.0.wrapping_sub(base_timestamp.0);
    let (mut payload, mut body) = (Vec::new(), Vec::new());
    let mut max_timestamp = TimestampMs(-1);
    for record in kept {
        max_timestamp = max_timestamp.max(record.timestamp(header));
        put_record(&mut payload, &mut body, record, record.timestamp_delta.wrapping_add(moved_ms));
    }
    let payload = match batch.codec()? {
        Codec::None => payload,
        codec => compression::compress(codec, None, &payload)?,
    };
    let mut bytes = batch.bytes().get(..HEADER_BYTES).ok_or(BatchError::TooLarge)?.to_vec();
    bytes[BASE_TIMESTAMP_AT..BASE_TIMESTAMP_AT + 8].copy_from_slice(&base_timestamp.0.to_be_bytes());
    if !header.attributes.is_log_append_time() {
        bytes[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&max_timestamp.0.to_be_bytes());
    }
    if delete_horizon.is_some() {
        bytes[ATTRIBUTES_LOW_AT] |= DELETE_HORIZON_BIT;
    }
    let record_count = i32::try_from(kept.len()).map_err(|_| BatchError::TooLarge)?;
    finish(bytes, record_count, &payload)
}

/// The batch without any record: it keeps its offsets, and what its producer's sequence goes on from.
///
/// # Errors
/// [`BatchError::TooLarge`] if `batch` is shorter than a header.
pub fn emptied(batch: &BatchView<'_>) -> Result<Vec<u8>, BatchError> {
    let mut bytes = batch.bytes().get(..HEADER_BYTES).ok_or(BatchError::TooLarge)?.to_vec();
    bytes[ATTRIBUTES_LOW_AT] &= !(CODEC_BITS | DELETE_HORIZON_BIT);
    let max_timestamp = batch.header().max_timestamp.0.to_be_bytes();
    bytes[BASE_TIMESTAMP_AT..BASE_TIMESTAMP_AT + 8].copy_from_slice(&max_timestamp);
    finish(bytes, 0, &[])
}

fn finish(mut bytes: Vec<u8>, record_count: i32, payload: &[u8]) -> Result<Vec<u8>, BatchError> {
    let length = HEADER_BYTES - LENGTH_PREFIX_BYTES + payload.len();
    let length = i32::try_from(length).map_err(|_| BatchError::TooLarge)?;
    bytes[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    bytes[RECORD_COUNT_AT..RECORD_COUNT_AT + 4].copy_from_slice(&record_count.to_be_bytes());
    bytes.extend_from_slice(payload);
    seal(&mut bytes);
    Ok(bytes)
}

/// Appends a record; `body` is room to work in.
fn put_record(output: &mut Vec<u8>, body: &mut Vec<u8>, record: &Record<'_>, timestamp_delta: i64) {
    body.clear();
    body.push(record.attributes);
    varint::put(body, timestamp_delta);
    varint::put(body, i64::from(record.offset_delta));
    for part in [record.key, record.value] {
        varint::put(body, part.map_or(-1, |part| part.len() as i64));
        body.extend_from_slice(part.unwrap_or_default());
    }
    // As they came: their order, repeated keys, and keys that are no text.
    record.put_headers(body);
    varint::put(output, body.len() as i64);
    output.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
    use crate::record_batch::{BatchBuilder, BatchHeader, validate_stored_header};

    fn batch(codec: Codec) -> Vec<u8> {
        let mut builder = BatchBuilder::new()
            .codec(codec)
            .base_offset(Offset(100))
            .leader_epoch(LeaderEpoch(3))
            .producer(ProducerId(7), ProducerEpoch(2), 40);
        for index in 0..10_i64 {
            let key = [b'k', index as u8];
            let headers: [(&str, Option<&[u8]>); 3] = [("b", Some(b"1")), ("a", None), ("b", Some(b"2"))];
            builder.append(TimestampMs(1000 - index), Some(&key), Some(b"value"), &headers);
        }
        builder.finish().unwrap()
    }

    /// The batch with only the records that `keep` wants.
    fn rewritten(
        original: &BatchView<'_>,
        keep: impl Fn(&Record<'_>) -> bool,
        horizon: Option<TimestampMs>,
    ) -> Vec<u8> {
        let contents = original.contents(1 << 20).unwrap();
        let kept: Vec<_> = contents.records().map(Result::unwrap).filter(keep).collect();
        rewrite(original, &kept, horizon).unwrap()
    }

    #[test]
    fn the_kept_records_carry_all_that_they_did() {
        for codec in Codec::ALL {
            let original = batch(codec);
            let original = BatchView::only(&original).unwrap();
            let bytes = rewritten(&original, |record| record.offset_delta % 3 == 1, None);
            let view = BatchView::only(&bytes).unwrap();
            validate_stored_header(&view).unwrap();
            let BatchHeader { base_offset, last_offset_delta, producer_id, base_sequence, .. } =
                *view.header();
            assert_eq!(
                (base_offset, last_offset_delta),
                (Offset(100), 9),
                "the batch's span of offsets stays"
            );
            assert_eq!((producer_id, base_sequence), (ProducerId(7), 40));
            assert_eq!(view.codec().unwrap(), codec);
            assert_eq!(view.header().max_timestamp, TimestampMs(999));
            let contents = view.contents(1 << 20).unwrap();
            let kept: Vec<_> = contents.records().map(Result::unwrap).collect();
            let offsets: Vec<i64> = kept.iter().map(|record| record.offset(view.header()).0).collect();
            assert_eq!(offsets, [101, 104, 107]);
            for record in &kept {
                let timestamp = 1000 - i64::from(record.offset_delta);
                assert_eq!(record.timestamp(view.header()), TimestampMs(timestamp));
                let headers: Vec<_> = record.headers().map(|header| (header.key, header.value)).collect();
                let expected: [(&[u8], Option<&[u8]>); 3] =
                    [(b"b", Some(b"1")), (b"a", None), (b"b", Some(b"2"))];
                assert_eq!(headers, expected);
            }
        }
    }

    #[test]
    fn a_delete_horizon_leaves_the_timestamps_alone() {
        let original = batch(Codec::Zstd);
        let original = BatchView::only(&original).unwrap();
        let bytes = rewritten(&original, |_| true, Some(TimestampMs(5_000_000)));
        let view = BatchView::only(&bytes).unwrap();
        validate_stored_header(&view).unwrap();
        assert!(view.header().attributes.has_delete_horizon());
        assert_eq!(view.header().base_timestamp, TimestampMs(5_000_000));
        assert_eq!(view.header().max_timestamp, TimestampMs(1000));
        for (index, record) in view.contents(1 << 20).unwrap().records().enumerate() {
            assert_eq!(record.unwrap().timestamp(view.header()), TimestampMs(1000 - index as i64));
        }
    }

    #[test]
    fn an_emptied_batch_keeps_its_span_and_its_sequence() {
        let original = batch(Codec::Lz4);
        let original = BatchView::only(&original).unwrap();
        let bytes = emptied(&original).unwrap();
        let view = BatchView::only(&bytes).unwrap();
        validate_stored_header(&view).unwrap();
        assert_eq!(view.header().next_offset(), original.header().next_offset());
        assert_eq!((view.header().record_count, bytes.len()), (0, HEADER_BYTES));
        assert_eq!(view.header().last_sequence(), original.header().last_sequence());
        assert_eq!(view.contents(0).unwrap().records().count(), 0);
    }

    #[test]
    fn a_batch_with_the_brokers_timestamps_keeps_them() {
        let mut original = batch(Codec::None);
        crate::record_batch::set_log_append_time(&mut original, TimestampMs(9_000));
        let original = BatchView::only(&original).unwrap();
        let bytes = rewritten(&original, |record| record.offset_delta == 4, None);
        let view = BatchView::only(&bytes).unwrap();
        assert!(view.header().attributes.is_log_append_time());
        assert_eq!(view.header().max_timestamp, TimestampMs(9_000));
    }
}
