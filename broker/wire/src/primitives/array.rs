//! Arrays: views of a decoded message, or owned elements of a message that is being built.

use super::{DecodeError, EncodeError, Format, Reader, WireType, Writer};
use core::{fmt, slice};

/// A sequence of elements. Decoded, it is a checked view of the message and takes no memory of its own,
/// whatever its count; its elements are decoded again when it is iterated.
#[derive(Clone)]
pub struct Array<'a, T> {
    content: Content<'a, T>,
}

#[derive(Clone)]
enum Content<'a, T> {
    Owned(Vec<T>),
    View { bytes: &'a [u8], count: usize, format: Format },
}

impl<'a, T> Array<'a, T> {
    /// `count` elements that were encoded in `format` and are nothing else.
    pub(super) const fn encoded(bytes: &'a [u8], count: usize, format: Format) -> Self {
        Self { content: Content::View { bytes, count, format } }
    }
}

impl<T> Array<'_, T> {
    /// How many elements there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        match &self.content {
            Content::Owned(elements) => elements.len(),
            Content::View { count, .. } => *count,
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a, T: WireType<'a>> Array<'a, T> {
    /// The elements in order: decoded, or cloned if the array is an owned one.
    #[must_use]
    pub fn iter(&self) -> Elements<'_, 'a, T> {
        Elements {
            source: match &self.content {
                Content::Owned(elements) => Source::Owned(elements.iter()),
                Content::View { bytes, count, format } => {
                    Source::View { reader: Reader::new(bytes), left: *count, format: *format }
                }
            },
        }
    }

    /// The elements in a vector of their own.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        match self.content {
            Content::Owned(elements) => elements,
            Content::View { .. } => self.iter().collect(),
        }
    }
}

impl<T> Default for Array<'_, T> {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl<T> From<Vec<T>> for Array<'_, T> {
    fn from(elements: Vec<T>) -> Self {
        Self { content: Content::Owned(elements) }
    }
}

impl<T> FromIterator<T> for Array<'_, T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        Self::from(elements.into_iter().collect::<Vec<_>>())
    }
}

impl<'a, T: WireType<'a> + PartialEq> PartialEq for Array<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<'a, T: WireType<'a> + fmt::Debug> fmt::Debug for Array<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'array, 'a, T: WireType<'a>> IntoIterator for &'array Array<'a, T> {
    type Item = T;
    type IntoIter = Elements<'array, 'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T: WireType<'a>> WireType<'a> for Array<'a, T> {
    fn read(reader: &mut Reader<'a>, format: Format) -> Result<Self, DecodeError> {
        Self::read_nullable(reader, format)?.ok_or(DecodeError::UnexpectedNull)
    }

    fn write(&self, writer: &mut Writer, format: Format) -> Result<(), EncodeError> {
        Self::write_nullable(Some(self), writer, format)
    }

    fn read_nullable(reader: &mut Reader<'a>, format: Format) -> Result<Option<Self>, DecodeError> {
        let Some(count) = reader.length(format.flexible)? else { return Ok(None) };
        let start = reader.rest();
        for _ in 0..count {
            T::read(reader, format)?;
        }
        let bytes = &start[..start.len() - reader.remaining()];
        Ok(Some(Self { content: Content::View { bytes, count, format } }))
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, format: Format) -> Result<(), EncodeError> {
        writer.put_length(value.map(Self::len), format.flexible)?;
        match value {
            None => Ok(()),
            Some(Self { content: Content::Owned(elements) }) => {
                elements.iter().try_for_each(|element| element.write(writer, format))
            }
            // What was read, or encoded, in the same format is the same bytes.
            Some(Self { content: Content::View { bytes, format: its_own, .. } }) if *its_own == format => {
                writer.put_slice(bytes);
                Ok(())
            }
            Some(array) => array.iter().try_for_each(|element| element.write(writer, format)),
        }
    }
}

/// The elements of an [`Array`], in order.
#[derive(Clone)]
pub struct Elements<'array, 'a, T> {
    source: Source<'array, 'a, T>,
}

#[derive(Clone)]
enum Source<'array, 'a, T> {
    Owned(slice::Iter<'array, T>),
    View { reader: Reader<'a>, left: usize, format: Format },
}

impl<'a, T: WireType<'a>> Iterator for Elements<'_, 'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match &mut self.source {
            Source::Owned(elements) => elements.next().cloned(),
            Source::View { reader, left, format } => {
                *left = left.checked_sub(1)?;
                let element = T::read(reader, *format);
                debug_assert!(element.is_ok(), "an array is checked when it is decoded");
                element.ok()
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.source {
            Source::Owned(elements) => elements.len(),
            Source::View { left, .. } => *left,
        };
        (left, Some(left))
    }
}

impl<'a, T: WireType<'a>> ExactSizeIterator for Elements<'_, 'a, T> {}
