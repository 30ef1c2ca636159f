use super::{Array, DecodeError, EncodeError, Format, Reader, Records, WireType, Writer};
use bytes::Bytes;
use std::borrow::Cow;

const OLD: Format = Format { version: 0, flexible: false };
const FLEXIBLE: Format = Format { version: 0, flexible: true };

fn written<'a, T: WireType<'a>>(value: Option<&T>, format: Format) -> Vec<u8> {
    let mut writer = Writer::new();
    T::write_nullable(value, &mut writer, format).unwrap();
    writer.finish().concat()
}

#[test]
fn varints_are_those_of_protocol_buffers() {
    for (value, bytes) in [
        (0_u64, &[0][..]),
        (127, &[0x7f]),
        (128, &[0x80, 1]),
        (300, &[0xac, 2]),
        (u64::from(u32::MAX), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
    ] {
        let mut writer = Writer::new();
        writer.put_uvarlong(value);
        assert_eq!(writer.finish().concat(), bytes);
        assert_eq!(Reader::new(bytes).uvarlong(), Ok(value));
        assert_eq!(
            Reader::new(bytes).uvarint(),
            u32::try_from(value).map_err(|_| DecodeError::InvalidVarint)
        );
    }
    for value in [0, -1, 1, -2, 63, -64, 64, i32::MIN, i32::MAX] {
        let mut writer = Writer::new();
        writer.put_varint(value);
        writer.put_varlong(i64::from(value) << 31);
        let bytes = writer.finish().concat();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.varint(), Ok(value));
        assert_eq!(reader.varlong(), Ok(i64::from(value) << 31));
        assert_eq!(reader.finish(), Ok(()));
    }
    assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).uvarint(), Err(DecodeError::InvalidVarint));
    assert_eq!(Reader::new(&[0x80; 11]).uvarlong(), Err(DecodeError::InvalidVarint));
    assert_eq!(Reader::new(&[0xff; 10]).uvarlong(), Err(DecodeError::InvalidVarint));
    assert_eq!(Reader::new(&[0x80]).uvarint(), Err(DecodeError::Truncated));
}

#[test]
fn lengths_are_held_to_the_rest() {
    assert_eq!(Reader::new(&[0, 0, 0, 2, 9]).length(false), Err(DecodeError::InvalidLength));
    assert_eq!(Reader::new(&[0, 0, 0, 1, 9]).length(false), Ok(Some(1)));
    assert_eq!(Reader::new(&[0xff; 4]).length(false), Ok(None));
    assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xfe]).length(false), Err(DecodeError::InvalidLength));
    assert_eq!(Reader::new(&[3, 9]).length(true), Err(DecodeError::InvalidLength));
    assert_eq!(Reader::new(&[2, 9]).length(true), Ok(Some(1)));
    assert_eq!(Reader::new(&[0]).length(true), Ok(None));
    assert_eq!(Reader::new(&[0xff, 0xfe]).string_length(false), Err(DecodeError::InvalidLength));
    // Kafka refuses a compact string that an old one could not hold.
    let mut long = vec![0x81, 0x80, 0x02];
    long.extend([b'a'; 0x8000]);
    assert_eq!(Reader::new(&long).string_length(true), Err(DecodeError::InvalidLength));
}

#[test]
fn strings_bytes_and_arrays_are_laid_out_as_kafka_does() {
    let text: Cow<'_, str> = "hi".into();
    assert_eq!(written(Some(&text), OLD), [0, 2, b'h', b'i']);
    assert_eq!(written(Some(&text), FLEXIBLE), [3, b'h', b'i']);
    assert_eq!(written::<Cow<'_, str>>(None, OLD), [0xff, 0xff]);
    assert_eq!(written::<Cow<'_, str>>(None, FLEXIBLE), [0]);
    let bytes: Cow<'_, [u8]> = Cow::Borrowed(&[7]);
    assert_eq!(written(Some(&bytes), OLD), [0, 0, 0, 1, 7]);
    assert_eq!(written(Some(&bytes), FLEXIBLE), [2, 7]);
    assert_eq!(written::<Cow<'_, [u8]>>(None, OLD), [0xff; 4]);
    let array = Array::from(vec![1_i16, -1]);
    assert_eq!(written(Some(&array), OLD), [0, 0, 0, 2, 0, 1, 0xff, 0xff]);
    assert_eq!(written(Some(&array), FLEXIBLE), [3, 0, 1, 0xff, 0xff]);
    assert_eq!(written::<Array<'_, i16>>(None, OLD), [0xff; 4]);
    assert_eq!(written::<Array<'_, i16>>(None, FLEXIBLE), [0]);
}

#[test]
fn decoded_values_are_views_of_the_message() {
    let message = written(Some(&Array::from(vec![Cow::Borrowed("one"), Cow::Borrowed("two")])), FLEXIBLE);
    let mut reader = Reader::new(&message);
    let array: Array<'_, Cow<'_, str>> = Array::read(&mut reader, FLEXIBLE).unwrap();
    assert_eq!(reader.remaining(), 0);
    assert_eq!(array.len(), 2);
    assert!(array.iter().all(|text| matches!(text, Cow::Borrowed(_))));
    assert_eq!(array, Array::from(vec![Cow::Borrowed("one"), Cow::Borrowed("two")]));
    assert_eq!(array.clone().into_vec(), ["one", "two"]);
    assert_eq!(written(Some(&array), OLD), [0, 0, 0, 2, 0, 3, b'o', b'n', b'e', 0, 3, b't', b'w', b'o']);
}

#[test]
fn a_bad_element_is_found_when_the_array_is_decoded() {
    let read = |bytes| Array::<'_, Cow<'_, str>>::read(&mut Reader::new(bytes), FLEXIBLE).unwrap_err();
    assert_eq!(read(&[3, 2, b'a', 2, 0xff]), DecodeError::InvalidUtf8);
    assert_eq!(read(&[3, 2, b'a', 0]), DecodeError::UnexpectedNull);
    assert_eq!(read(&[3, 2, b'a', 3, b'b']), DecodeError::InvalidLength);
    assert_eq!(read(&[0]), DecodeError::UnexpectedNull);
}

#[test]
fn tagged_fields_ascend_and_fill_their_size() {
    let read = |bytes| {
        let mut seen = Vec::new();
        Reader::new(bytes)
            .tagged_fields(|tag, value| {
                if tag != 4 {
                    return Ok(false);
                }
                seen.push(value.i16()?);
                Ok(true)
            })
            .map(|()| seen)
    };
    assert_eq!(read(&[0]), Ok(vec![]));
    assert_eq!(read(&[2, 3, 1, 9, 4, 2, 0, 5]), Ok(vec![5]));
    assert_eq!(read(&[2, 4, 2, 0, 5, 4, 2, 0, 6]), Err(DecodeError::InvalidTaggedFields));
    assert_eq!(read(&[2, 5, 0, 4, 2, 0, 6]), Err(DecodeError::InvalidTaggedFields));
    assert_eq!(read(&[1, 4, 3, 0, 5, 6]), Err(DecodeError::InvalidTaggedFields));
    assert_eq!(read(&[1, 4, 1, 0]), Err(DecodeError::Truncated));
    assert_eq!(read(&[1, 9, 2, 0]), Err(DecodeError::Truncated));
}

#[test]
fn record_bytes_leave_uncopied_between_own_parts() {
    let stored = Bytes::from_static(b"stored batch");
    let records = Records::from(vec![stored.slice(..6), stored.slice(6..)]);
    let mut writer = Writer::framed();
    writer.put_i8(1);
    records.write(&mut writer, OLD).unwrap();
    writer.put_i8(2);
    assert_eq!(writer.len(), 4 + 1 + 4 + 12 + 1);
    let parts = writer.finish();
    assert_eq!(parts.len(), 4);
    assert_eq!(parts[0], [0, 0, 0, 18, 1, 0, 0, 0, 12][..]);
    assert_eq!(parts[1].as_ptr(), stored.as_ptr());
    assert_eq!(parts[2].as_ptr(), stored[6..].as_ptr());
    assert_eq!(parts[3], [2][..]);

    let message = parts.concat();
    let decoded = Records::read(&mut Reader::new(&message[5..]), OLD).unwrap();
    assert_eq!(decoded.as_slice(), Some(&stored[..]));
    assert_eq!(decoded.borrowed(), Some(&stored[..]));
    assert_eq!(decoded, records);
    assert_eq!(records.as_slice(), None);
    assert_ne!(decoded, Records::from(stored.slice(1..)));
}

#[test]
fn a_size_prefix_stands_before_a_message_of_one_part_too() {
    let mut writer = Writer::framed();
    writer.put_i16(7);
    assert_eq!(writer.finish(), [&[0, 0, 0, 2, 0, 7][..]]);
    assert_eq!(Writer::framed().finish(), [&[0, 0, 0, 0][..]]);
}

#[test]
fn what_a_length_cannot_say_is_refused() {
    let text: Cow<'_, str> = "a".repeat(super::STRING_BYTES_MAX + 1).into();
    for format in [OLD, FLEXIBLE] {
        assert_eq!(text.write(&mut Writer::new(), format), Err(EncodeError::TooLong));
    }
}
