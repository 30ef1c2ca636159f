//! Record sets: bytes that the codec passes through untouched.

use super::{DecodeError, EncodeError, Format, Reader, WireType, Writer};
use bytes::Bytes;

/// The record batches of one partition in a Produce request or Fetch response.
#[derive(Clone, Debug)]
pub enum Records<'a> {
    /// A part of the message that was decoded.
    Borrowed(&'a [u8]),
    /// Shared views that leave in this order, without being copied.
    Parts(Vec<Bytes>),
}

impl<'a> Records<'a> {
    /// All bytes as one slice; `None` if they are in more than one part.
    #[must_use]
    pub fn as_slice(&self) -> Option<&[u8]> {
        match self {
            Self::Borrowed(bytes) => Some(bytes),
            Self::Parts(parts) => match parts.as_slice() {
                [] => Some(&[]),
                [part] => Some(part),
                _ => None,
            },
        }
    }

    /// The part of the decoded message, which outlives this value; `None` if it was not decoded.
    #[must_use]
    pub const fn borrowed(&self) -> Option<&'a [u8]> {
        match self {
            Self::Borrowed(bytes) => Some(bytes),
            Self::Parts(_) => None,
        }
    }

    /// How many bytes there are in all parts.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Borrowed(bytes) => bytes.len(),
            Self::Parts(parts) => parts.iter().map(Bytes::len).sum(),
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of all bytes in order.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        match self {
            Self::Borrowed(bytes) => bytes.to_vec(),
            Self::Parts(parts) => parts.concat(),
        }
    }

    fn bytes(&self) -> impl Iterator<Item = &u8> {
        let (borrowed, parts): (&[u8], &[Bytes]) = match self {
            Self::Borrowed(bytes) => (bytes, &[]),
            Self::Parts(parts) => (&[], parts),
        };
        borrowed.iter().chain(parts.iter().flat_map(|part| part.iter()))
    }
}

impl Default for Records<'_> {
    fn default() -> Self {
        Self::Borrowed(&[])
    }
}

impl PartialEq for Records<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Borrowed(left), Self::Borrowed(right)) => left == right,
            _ => self.bytes().eq(other.bytes()),
        }
    }
}

impl From<Bytes> for Records<'_> {
    fn from(bytes: Bytes) -> Self {
        Self::Parts(vec![bytes])
    }
}

impl From<Vec<Bytes>> for Records<'_> {
    fn from(parts: Vec<Bytes>) -> Self {
        Self::Parts(parts)
    }
}

impl<'a> WireType<'a> for Records<'a> {
    fn read(reader: &mut Reader<'a>, format: Format) -> Result<Self, DecodeError> {
        Self::read_nullable(reader, format)?.ok_or(DecodeError::UnexpectedNull)
    }

    fn write(&self, writer: &mut Writer, format: Format) -> Result<(), EncodeError> {
        Self::write_nullable(Some(self), writer, format)
    }

    fn read_nullable(reader: &mut Reader<'a>, format: Format) -> Result<Option<Self>, DecodeError> {
        let Some(length) = reader.length(format.flexible)? else { return Ok(None) };
        reader.take(length).map(Self::Borrowed).map(Some)
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, format: Format) -> Result<(), EncodeError> {
        writer.put_length(value.map(Self::len), format.flexible)?;
        match value {
            None => {}
            Some(Self::Borrowed(bytes)) => writer.put_slice(bytes),
            Some(Self::Parts(parts)) => parts.iter().for_each(|part| writer.put_shared(part.clone())),
        }
        Ok(())
    }
}
