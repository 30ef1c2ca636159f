//! A record set as a sequence of batches.

use super::error::BatchError;
use super::{BatchHeader, HEADER_BYTES, LENGTH_PREFIX_BYTES, MAGIC};
use crate::compression::Codec;

/// Where every format has its version number.
const MAGIC_AT: usize = 16;

/// The shortest entry of any format: a message of format 0 without key and value.
const ENTRY_LENGTH_MIN: i32 = 14;

/// One batch: its decoded header, and exactly its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchView<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// The batch at the front of `bytes`. Of the header only length and format are checked.
    ///
    /// # Errors
    /// [`BatchError::NoBatch`], [`BatchError::Truncated`], [`BatchError::InvalidLength`] or
    /// [`BatchError::UnsupportedFormat`].
    #[inline]
    pub fn first(bytes: &'a [u8]) -> Result<Self, BatchError> {
        if bytes.is_empty() {
            return Err(BatchError::NoBatch);
        }
        let truncated = BatchError::Truncated { available_bytes: bytes.len() };
        let length = bytes.get(8..LENGTH_PREFIX_BYTES).and_then(|field| field.first_chunk());
        let batch_length = i32::from_be_bytes(*length.ok_or(truncated)?);
        if batch_length < ENTRY_LENGTH_MIN {
            return Err(BatchError::InvalidLength { batch_length });
        }
        let magic = i8::from_be_bytes([*bytes.get(MAGIC_AT).ok_or(truncated)?]);
        if magic != MAGIC {
            return Err(BatchError::UnsupportedFormat { magic });
        }
        if (batch_length as usize) < HEADER_BYTES - LENGTH_PREFIX_BYTES {
            return Err(BatchError::InvalidLength { batch_length });
        }
        let header = BatchHeader::parse(bytes).ok_or(truncated)?;
        let total_bytes = header.total_bytes().ok_or(BatchError::InvalidLength { batch_length })?;
        let bytes = bytes.get(..total_bytes).ok_or(truncated)?;
        Ok(Self { header, bytes })
    }

    /// The one batch that `bytes` hold, as in the Produce requests of version 3 and later.
    ///
    /// # Errors
    /// Those of [`BatchView::first`], and [`BatchError::MoreThanOneBatch`].
    #[inline]
    pub fn only(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let batch = Self::first(bytes)?;
        if batch.bytes.len() != bytes.len() {
            return Err(BatchError::MoreThanOneBatch);
        }
        Ok(batch)
    }

    /// The decoded header.
    #[must_use]
    #[inline]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch, header included.
    #[must_use]
    #[inline]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What follows the header: the records, compressed if the attributes say so.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// How the records are compressed.
    ///
    /// # Errors
    /// [`BatchError::UnknownCodec`].
    #[inline]
    pub fn codec(&self) -> Result<Codec, BatchError> {
        let codec_id = self.header.attributes.codec_id();
        Codec::from_id(codec_id).ok_or(BatchError::UnknownCodec { codec_id })
    }
}

/// What ends a record set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tail {
    Whole,
    MayBePartial,
}

/// An iterator over the batches of a record set; see [`batches`] and [`whole_batches`].
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
    consumed_bytes: usize,
    tail: Tail,
}

/// The batches of a record set that must be complete, such as the records of a Produce request. After an
/// error the iterator ends.
#[must_use]
pub const fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { rest: bytes, consumed_bytes: 0, tail: Tail::Whole }
}

/// The complete batches of bytes that may end within one, such as those of a Fetch response or of a log
/// that was read up to some size: a partial last batch is not an error. Bytes that cannot be a batch are.
#[must_use]
pub const fn whole_batches(bytes: &[u8]) -> Batches<'_> {
    Batches { rest: bytes, consumed_bytes: 0, tail: Tail::MayBePartial }
}

impl Batches<'_> {
    /// Bytes of the batches that were returned: where the next batch starts, or the end of the valid ones.
    #[must_use]
    pub const fn consumed_bytes(&self) -> usize {
        self.consumed_bytes
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchView<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        match BatchView::first(self.rest) {
            Ok(batch) => {
                self.rest = &self.rest[batch.bytes.len()..];
                self.consumed_bytes += batch.bytes.len();
                Some(Ok(batch))
            }
            Err(error) => {
                self.rest = &[];
                match (error, self.tail) {
                    (BatchError::NoBatch, _) | (BatchError::Truncated { .. }, Tail::MayBePartial) => None,
                    _ => Some(Err(error)),
                }
            }
        }
    }
}

impl core::iter::FusedIterator for Batches<'_> {}
