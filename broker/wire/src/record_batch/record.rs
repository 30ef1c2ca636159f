//! The records of a batch as views over its uncompressed bytes.

use super::error::{BatchError, RecordError};
use super::{BatchHeader, varint};
use crate::ids::{Offset, TimestampMs};

/// The least bytes of a record: its length, attributes, two deltas, two null lengths and a header count.
pub const RECORD_BYTES_MIN: usize = 7;

/// The least bytes of a record's header: two lengths.
const RECORD_HEADER_BYTES_MIN: usize = 2;

/// One record; its lengths have been checked, nothing has been copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// The attributes; no bit has a meaning yet.
    pub attributes: u8,
    /// The record's timestamp less the batch's base timestamp, in milliseconds.
    pub timestamp_delta: i64,
    /// The record's offset less the batch's base offset.
    pub offset_delta: i32,
    /// The key; `None` is null, which differs from empty.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is null, a tombstone in compacted topics.
    pub value: Option<&'a [u8]>,
    header_count: u32,
    header_bytes: &'a [u8],
}

/// A record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader<'a> {
    /// The key, UTF-8 by convention; several headers of one record may have the same.
    pub key: &'a [u8],
    /// The value; `None` is null.
    pub value: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    /// Takes a record from the front of `bytes`.
    ///
    /// # Errors
    /// A [`RecordError`] if lengths or counts do not hold; `bytes` is then left somewhere within the record.
    #[inline]
    pub fn take(bytes: &mut &'a [u8]) -> Result<Self, RecordError> {
        let length = usize::try_from(varint::take_i32(bytes)?).map_err(|_| RecordError::InvalidLength)?;
        let (body, rest) = bytes.split_at_checked(length).ok_or(RecordError::Truncated)?;
        *bytes = rest;
        // Whatever is missing now is missing within the length that the record itself gives.
        Self::parse_body(body).map_err(|error| match error {
            RecordError::Truncated => RecordError::LengthMismatch,
            other => other,
        })
    }

    #[inline]
    fn parse_body(body: &'a [u8]) -> Result<Self, RecordError> {
        let (&attributes, mut rest) = body.split_first().ok_or(RecordError::Truncated)?;
        let timestamp_delta = varint::take_i64(&mut rest)?;
        let offset_delta = varint::take_i32(&mut rest)?;
        let key = take_nullable(&mut rest)?;
        let value = take_nullable(&mut rest)?;
        let header_count = varint::take_i32(&mut rest)?;
        let header_count = u32::try_from(header_count).map_err(|_| RecordError::InvalidLength)?;
        if header_count as usize > rest.len() / RECORD_HEADER_BYTES_MIN {
            return Err(RecordError::InvalidLength);
        }
        let header_bytes = rest;
        for _ in 0..header_count {
            take_header(&mut rest)?;
        }
        if !rest.is_empty() {
            return Err(RecordError::LengthMismatch);
        }
        Ok(Self { attributes, timestamp_delta, offset_delta, key, value, header_count, header_bytes })
    }

    /// The headers in their order, repeated keys included.
    #[must_use]
    pub const fn headers(&self) -> RecordHeaders<'a> {
        RecordHeaders { remaining: self.header_count, rest: self.header_bytes }
    }

    /// Appends the count of headers and the headers as they came.
    pub(super) fn put_headers(&self, output: &mut Vec<u8>) {
        varint::put(output, i64::from(self.header_count));
        output.extend_from_slice(self.header_bytes);
    }

    /// The record's offset in its partition, wrapping if the batch's header is nonsense.
    #[must_use]
    pub const fn offset(&self, batch: &BatchHeader) -> Offset {
        Offset(batch.base_offset.0.wrapping_add(self.offset_delta as i64))
    }

    /// The record's timestamp: its own, or that of the append if the batch says so. It wraps if the deltas
    /// are nonsense.
    #[must_use]
    pub const fn timestamp(&self, batch: &BatchHeader) -> TimestampMs {
        if batch.attributes.is_log_append_time() {
            return batch.max_timestamp;
        }
        TimestampMs(batch.base_timestamp.0.wrapping_add(self.timestamp_delta))
    }
}

#[inline]
fn take_nullable<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RecordError> {
    match varint::take_i32(bytes)? {
        -1 => Ok(None),
        length => take_exact(bytes, length).map(Some),
    }
}

#[inline]
fn take_exact<'a>(bytes: &mut &'a [u8], length: i32) -> Result<&'a [u8], RecordError> {
    let length = usize::try_from(length).map_err(|_| RecordError::InvalidLength)?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or(RecordError::InvalidLength)?;
    *bytes = rest;
    Ok(taken)
}

fn take_header<'a>(bytes: &mut &'a [u8]) -> Result<RecordHeader<'a>, RecordError> {
    let key_bytes = varint::take_i32(bytes)?;
    let key = take_exact(bytes, key_bytes)?;
    let value = take_nullable(bytes)?;
    Ok(RecordHeader { key, value })
}

/// The headers of a record, in order; see [`Record::headers`].
#[derive(Clone, Debug)]
pub struct RecordHeaders<'a> {
    remaining: u32,
    rest: &'a [u8],
}

impl<'a> Iterator for RecordHeaders<'a> {
    type Item = RecordHeader<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.remaining = self.remaining.checked_sub(1)?;
        // The record was walked once when it was taken, so this cannot fail.
        take_header(&mut self.rest).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining as usize, Some(self.remaining as usize))
    }
}

impl ExactSizeIterator for RecordHeaders<'_> {}

/// The records of a batch, over uncompressed bytes. After an error the iterator ends; bytes that remain
/// after the last record are an error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    index: u32,
    count: u32,
}

/// The records in `uncompressed`, which must hold exactly `record_count` of them.
#[must_use]
pub fn records(uncompressed: &[u8], record_count: i32) -> Records<'_> {
    Records { rest: uncompressed, index: 0, count: record_count.max(0).unsigned_abs() }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index == self.count {
            let bytes = self.rest.len();
            self.rest = &[];
            return (bytes > 0).then_some(Err(BatchError::TrailingBytes { bytes }));
        }
        let index = self.index;
        match Record::take(&mut self.rest) {
            Ok(record) => {
                self.index += 1;
                Some(Ok(record))
            }
            Err(error) => {
                self.rest = &[];
                self.count = index;
                Some(Err(BatchError::Record { index, error }))
            }
        }
    }
}

impl core::iter::FusedIterator for Records<'_> {}
