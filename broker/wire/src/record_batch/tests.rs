use super::*;
use crate::compression::{Codec, CompressionError};

/// Three records: with headers (one key twice), with an empty key, and a tombstone.
fn sample(codec: Codec) -> BatchBuilder {
    let mut builder = BatchBuilder::new().codec(codec).producer(ProducerId(7), ProducerEpoch(3), 40);
    builder
        .append(
            TimestampMs(1000),
            Some(b"first"),
            Some(b"value"),
            &[("a", Some(b"1")), ("b", None), ("a", Some(b"2"))],
        )
        .append(TimestampMs(900), Some(b""), Some(&[9; 300]), &[])
        .append(TimestampMs(1200), Some(b"third"), None, &[("", Some(b""))]);
    builder
}

/// Changes a field and makes the CRC right again.
fn edited(batch: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    seal(&mut batch);
    batch
}

fn header_error(batch: &[u8]) -> Option<BatchError> {
    validate_header(&BatchView::only(batch).unwrap()).err()
}

/// A batch whose records are the given bytes.
fn with_payload(payload: &[u8], record_count: i32) -> Vec<u8> {
    let mut batch = BatchBuilder::new().finish().unwrap();
    batch.extend_from_slice(payload);
    let length = (batch.len() - LENGTH_PREFIX_BYTES) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[23..27].copy_from_slice(&(record_count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&record_count.to_be_bytes());
    seal(&mut batch);
    batch
}

fn records_error(payload: &[u8], record_count: i32) -> Option<BatchError> {
    let batch = with_payload(payload, record_count);
    validate_records(&BatchView::only(&batch).unwrap()).err()
}

fn record_error(payload: &[u8]) -> Option<RecordError> {
    match records_error(payload, 1)? {
        BatchError::Record { index: 0, error } => Some(error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_built_batch_is_valid_and_has_what_was_put_in() {
    for codec in Codec::ALL {
        let bytes = sample(codec).finish().unwrap();
        let batch = BatchView::only(&bytes).unwrap();
        validate_header(&batch).unwrap();
        validate_stored_header(&batch).unwrap();
        let rules = ContentRules { keys_required: true, limit_bytes: 1 << 20 };
        let summary = validate_contents(&batch, rules).unwrap();
        assert_eq!(summary.max_timestamp, TimestampMs(1200));
        assert_eq!(summary.max_timestamp_offset, Offset(2));
        assert_eq!(summary.min_timestamp, TimestampMs(900));
        let structure = validate_records(&batch).unwrap();
        assert_eq!(structure, (codec == Codec::None).then_some(summary));

        let header = *batch.header();
        assert_eq!(header.record_count, 3);
        assert_eq!(header.last_offset(), Offset(2));
        assert_eq!(header.max_timestamp, TimestampMs(1200));
        assert_eq!((header.producer_id, header.producer_epoch), (ProducerId(7), ProducerEpoch(3)));
        assert_eq!((header.base_sequence, header.last_sequence()), (40, 42));

        let contents = batch.contents(1 << 20).unwrap();
        let all: Vec<_> = contents.records().map(Result::unwrap).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].key, Some(&b"first"[..]));
        let headers: Vec<_> = all[0].headers().map(|header| (header.key, header.value)).collect();
        let expected: [(&[u8], Option<&[u8]>); 3] = [(b"a", Some(b"1")), (b"b", None), (b"a", Some(b"2"))];
        assert_eq!(headers, expected);
        assert_eq!((all[1].key, all[1].value.map(<[u8]>::len)), (Some(&b""[..]), Some(300)));
        assert_eq!(all[1].timestamp(&header), TimestampMs(900));
        assert_eq!((all[2].value, all[2].headers().len()), (None, 1));
    }
}

#[test]
fn bytes_are_those_of_the_format() {
    let mut builder = BatchBuilder::new().base_offset(Offset(5)).leader_epoch(LeaderEpoch(6)).transactional();
    builder.append(TimestampMs(10), None, Some(b"v"), &[("h", None)]);
    let bytes = builder.producer(ProducerId(1), ProducerEpoch(2), 3).finish().unwrap();
    let mut expected = Vec::new();
    expected.extend(5_i64.to_be_bytes());
    expected.extend(60_i32.to_be_bytes());
    expected.extend([0, 0, 0, 6, 2]);
    expected.extend(crc32c::crc32c(&bytes[21..]).to_be_bytes());
    expected.extend([0, 0x10, 0, 0, 0, 0]);
    expected.extend(10_i64.to_be_bytes());
    expected.extend(10_i64.to_be_bytes());
    expected.extend(1_i64.to_be_bytes());
    expected.extend([0, 2, 0, 0, 0, 3, 0, 0, 0, 1]);
    // Length 10, attributes, two deltas, null key, "v", one header: "h" with null.
    expected.extend([20, 0, 0, 0, 1, 2, b'v', 2, 2, b'h', 1]);
    assert_eq!(bytes, expected);
}

#[test]
fn a_record_set_is_walked_batch_by_batch() {
    let mut set = sample(Codec::None).finish().unwrap();
    let first_bytes = set.len();
    set.extend(sample(Codec::Gzip).base_offset(Offset(3)).finish().unwrap());
    let found: Vec<_> = batches(&set).map(|batch| batch.unwrap().header().base_offset.0).collect();
    assert_eq!(found, [0, 3]);
    assert_eq!(BatchView::only(&set), Err(BatchError::MoreThanOneBatch));
    assert_eq!(BatchView::only(&[]), Err(BatchError::NoBatch));
    assert_eq!(BatchView::first(&set).unwrap().bytes().len(), first_bytes);

    for cut in 0..set.len() {
        let whole = usize::from(cut >= first_bytes);
        let mut lenient = whole_batches(&set[..cut]);
        assert_eq!(lenient.by_ref().map(Result::unwrap).count(), whole, "{cut}");
        assert_eq!(lenient.consumed_bytes(), whole * first_bytes);
        let strict: Vec<_> = batches(&set[..cut]).collect();
        let partial = cut - whole * first_bytes;
        assert_eq!(strict.len(), whole + usize::from(partial > 0), "{cut}");
        if partial > 0 {
            let error = BatchError::Truncated { available_bytes: partial };
            assert_eq!(strict[whole], Err(error));
        }
    }
}

#[test]
fn what_cannot_be_a_batch_is_an_error_even_at_the_tail() {
    let zeros = [0; 100];
    assert_eq!(BatchView::first(&zeros), Err(BatchError::InvalidLength { batch_length: 0 }));
    assert_eq!(whole_batches(&zeros).count(), 1);
    for magic in [0, 1, 3, -1] {
        let mut old = sample(Codec::None).finish().unwrap();
        old[16] = i8::to_be_bytes(magic)[0];
        assert_eq!(BatchView::only(&old), Err(BatchError::UnsupportedFormat { magic }));
    }
    for length in [-1, 13, 14, 48] {
        let mut short = sample(Codec::None).finish().unwrap();
        short[8..12].copy_from_slice(&i32::to_be_bytes(length));
        assert_eq!(BatchView::first(&short), Err(BatchError::InvalidLength { batch_length: length }));
    }
}

#[test]
fn every_flipped_bit_behind_the_crc_is_found() {
    let good = sample(Codec::None).finish().unwrap();
    for at in CRC_AT..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(matches!(header_error(&bad), Some(BatchError::CrcMismatch { .. })), "byte {at}");
    }
    assert!(crc_matches(&good));
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    let good = sample(Codec::None).finish().unwrap();
    assert_eq!(header_error(&good), None);
    let count = |n: i32| edited(&edited(&good, 57, &n.to_be_bytes()), 23, &n.wrapping_sub(1).to_be_bytes());
    for record_count in [0, -1, i32::MIN, i32::MAX, 1000] {
        assert_eq!(header_error(&count(record_count)), Some(BatchError::InvalidRecordCount { record_count }));
    }
    for last_offset_delta in [1, 3, -1, i32::MAX] {
        assert_eq!(
            header_error(&edited(&good, 23, &i32::to_be_bytes(last_offset_delta))),
            Some(BatchError::InvalidOffsetRange { last_offset_delta, record_count: 3 })
        );
    }
    for codec_id in [5, 6, 7] {
        assert_eq!(
            header_error(&edited(&good, 22, &[codec_id])),
            Some(BatchError::UnknownCodec { codec_id })
        );
    }
    assert_eq!(header_error(&edited(&good, 22, &[0x20])), Some(BatchError::ControlBatch));
    assert_eq!(header_error(&edited(&good, 22, &[0x08])), Some(BatchError::LogAppendTime));
    assert_eq!(header_error(&edited(&good, 22, &[0x40])), Some(BatchError::DeleteHorizon));
    for (at, bytes) in [(43, &i64::to_be_bytes(-2)[..]), (51, &[0xff; 2]), (53, &[0xff; 4])] {
        let error = header_error(&edited(&good, at, bytes));
        assert!(matches!(error, Some(BatchError::InvalidProducer { .. })), "{at}: {error:?}");
    }
    let nobody = edited(&edited(&good, 43, &[0xff; 8]), 22, &[0x10]);
    assert!(matches!(header_error(&nobody), Some(BatchError::InvalidProducer { .. })));
}

#[test]
fn stored_batches_may_have_gaps_and_be_empty() {
    let mut compacted = BatchBuilder::new().base_offset(Offset(100)).last_offset_delta(9).control();
    compacted.append_at(4, TimestampMs(5), Some(b"k"), None, &[]);
    let bytes = compacted.finish().unwrap();
    let batch = BatchView::only(&bytes).unwrap();
    validate_stored_header(&batch).unwrap();
    assert_eq!(batch.header().last_offset(), Offset(109));
    assert!(validate_header(&batch).is_err());
    assert_eq!(
        validate_records(&batch),
        Err(BatchError::Record { index: 0, error: RecordError::InvalidOffsetDelta { offset_delta: 4 } })
    );
    assert_eq!(
        first_record_at_or_after(&batch, TimestampMs(0)).unwrap(),
        Some((Offset(104), TimestampMs(5)))
    );

    for codec in Codec::ALL {
        let empty = BatchBuilder::new().codec(codec).last_offset_delta(3).finish().unwrap();
        let empty = &empty[..HEADER_BYTES];
        let empty = edited(&edited(empty, 8, &49_i32.to_be_bytes()), 57, &[0; 4]);
        let batch = BatchView::only(&empty).unwrap();
        validate_stored_header(&batch).unwrap();
        assert_eq!(batch.contents(0).unwrap().records().count(), 0);
        assert_eq!(max_timestamp_record(&batch).unwrap(), None);
    }
    for (base, delta) in [(i64::MAX, 0), (i64::MAX - 3, 3), (-1, 3), (0, -1)] {
        let bytes = sample(Codec::None).base_offset(Offset(base)).last_offset_delta(delta).finish().unwrap();
        let error = validate_stored_header(&BatchView::only(&bytes).unwrap());
        assert!(matches!(error, Err(BatchError::InvalidOffsetRange { .. })), "{base} {delta}: {error:?}");
    }
}

#[test]
fn damaged_records_are_refused() {
    // Length, attributes, timestamp, offset, key, value, headers.
    assert_eq!(records_error(&[12, 0, 0, 0, 1, 1, 0], 1), None);
    assert_eq!(record_error(&[14, 0, 0, 0, 1, 1, 0]), Some(RecordError::Truncated));
    assert_eq!(record_error(&[10, 0, 0, 0, 1, 1, 0]), Some(RecordError::LengthMismatch));
    assert_eq!(record_error(&[14, 0, 0, 0, 1, 1, 0, 0]), Some(RecordError::LengthMismatch));
    assert_eq!(record_error(&[1, 0, 0, 0, 1, 1, 0]), Some(RecordError::InvalidLength));
    assert_eq!(record_error(&[12, 0, 0, 0, 3, 1, 0]), Some(RecordError::InvalidLength));
    assert_eq!(record_error(&[12, 0, 0, 0, 1, 20, 0]), Some(RecordError::InvalidLength));
    assert_eq!(record_error(&[12, 0, 0, 0, 1, 1, 1]), Some(RecordError::InvalidLength));
    assert_eq!(record_error(&[12, 0, 0, 0, 1, 1, 2]), Some(RecordError::InvalidLength));
    // A header's key cannot be null.
    assert_eq!(record_error(&[16, 0, 0, 0, 1, 1, 2, 1, 1]), Some(RecordError::InvalidLength));
    assert_eq!(
        record_error(&[12, 0, 0, 2, 1, 1, 0]),
        Some(RecordError::InvalidOffsetDelta { offset_delta: 1 })
    );
    assert_eq!(record_error(&[0xff; 20]), Some(RecordError::InvalidVarint));
    let trailing = records_error(&[12, 0, 0, 0, 1, 1, 0, 0, 0], 1);
    assert_eq!(trailing, Some(BatchError::TrailingBytes { bytes: 2 }));
    let missing = records_error(&[12, 0, 0, 0, 1, 1, 0], 2);
    assert_eq!(missing, Some(BatchError::Record { index: 1, error: RecordError::Truncated }));
    // Base timestamp -1 and the least delta.
    let overflow = [30, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 1, 1, 0];
    assert_eq!(record_error(&overflow), Some(RecordError::TimestampOutOfRange));
}

#[test]
fn compacted_topics_need_keys_and_limits_hold() {
    for codec in Codec::ALL {
        let mut builder = sample(codec);
        builder.append(TimestampMs(1), None, Some(b"no key"), &[]);
        let bytes = builder.finish().unwrap();
        let batch = BatchView::only(&bytes).unwrap();
        let rules = |keys_required, limit_bytes| ContentRules { keys_required, limit_bytes };
        assert!(validate_contents(&batch, rules(false, 4096)).is_ok());
        assert_eq!(
            validate_contents(&batch, rules(true, 4096)),
            Err(BatchError::Record { index: 3, error: RecordError::MissingKey })
        );
        if codec != Codec::None {
            assert_eq!(
                validate_contents(&batch, rules(false, 100)),
                Err(BatchError::Compression(CompressionError::TooLarge { limit_bytes: 100 }))
            );
        }
    }
}

#[test]
fn timestamps_are_looked_up_record_by_record() {
    for codec in Codec::ALL {
        let bytes = sample(codec).base_offset(Offset(50)).finish().unwrap();
        let batch = BatchView::only(&bytes).unwrap();
        let lookup = |timestamp| first_record_at_or_after(&batch, TimestampMs(timestamp)).unwrap();
        assert_eq!(lookup(0), Some((Offset(50), TimestampMs(1000))));
        assert_eq!(lookup(1000), Some((Offset(50), TimestampMs(1000))));
        assert_eq!(lookup(1001), Some((Offset(52), TimestampMs(1200))));
        assert_eq!(lookup(1201), None);
        assert_eq!(max_timestamp_record(&batch).unwrap(), Some((Offset(52), TimestampMs(1200))));
        let from = |offset| first_record_from(&batch, Offset(offset), TimestampMs(1000)).unwrap();
        assert_eq!(from(50), Some((Offset(50), TimestampMs(1000))));
        assert!(from(51).is_some_and(|(offset, _)| offset >= Offset(51)));
        assert_eq!(max_timestamp_record_from(&batch, Offset(1000)).unwrap(), None);
    }
    let mut ties = BatchBuilder::new();
    ties.append(TimestampMs(1), None, None, &[]);
    ties.append(TimestampMs(3), None, None, &[]).append(TimestampMs(3), None, None, &[]);
    let bytes = ties.finish().unwrap();
    let batch = BatchView::only(&bytes).unwrap();
    assert_eq!(max_timestamp_record(&batch).unwrap(), Some((Offset(1), TimestampMs(3))));
}

#[test]
fn append_time_replaces_the_timestamps() {
    for codec in Codec::ALL {
        let mut bytes = sample(codec).base_offset(Offset(50)).finish().unwrap();
        set_log_append_time(&mut bytes, TimestampMs(5000));
        let batch = BatchView::only(&bytes).unwrap();
        validate_stored_header(&batch).unwrap();
        assert!(batch.header().attributes.is_log_append_time());
        assert_eq!(batch.codec().unwrap(), codec);
        let expected = Some((Offset(50), TimestampMs(5000)));
        assert_eq!(first_record_at_or_after(&batch, TimestampMs(5000)).unwrap(), expected);
        assert_eq!(first_record_at_or_after(&batch, TimestampMs(5001)).unwrap(), None);
        assert_eq!(max_timestamp_record(&batch).unwrap(), expected);
        let built = sample(codec).base_offset(Offset(50)).log_append_time(TimestampMs(5000));
        assert_eq!(built.finish().unwrap(), bytes);
    }
}

#[test]
fn assigning_an_offset_keeps_the_checksum_and_correcting_a_timestamp_renews_it() {
    let mut bytes = sample(Codec::Zstd).finish().unwrap();
    assign(&mut bytes, Offset(1 << 40), LeaderEpoch(9));
    set_max_timestamp(&mut bytes, TimestampMs(77));
    let batch = BatchView::only(&bytes).unwrap();
    validate_stored_header(&batch).unwrap();
    assert_eq!(batch.header().base_offset, Offset(1 << 40));
    assert_eq!(batch.header().leader_epoch, LeaderEpoch(9));
    assert_eq!(batch.header().max_timestamp, TimestampMs(77));
}

#[test]
fn sequences_wrap_to_zero() {
    let mut builder = BatchBuilder::new().producer(ProducerId(1), ProducerEpoch(0), i32::MAX - 1);
    for _ in 0..4 {
        builder.append(TimestampMs(0), None, None, &[]);
    }
    let header = BatchHeader::parse(&builder.finish().unwrap()).unwrap();
    assert_eq!(header.last_sequence(), 1);
}

#[test]
fn what_does_not_fit_is_not_built() {
    let mut builder = BatchBuilder::new();
    builder.append_at(i64::from(i32::MAX) + 1, TimestampMs(0), None, None, &[]);
    assert_eq!(builder.finish(), Err(BatchError::TooLarge));
}
