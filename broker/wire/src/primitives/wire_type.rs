//! What every type of field can do: be read and be written, in a version's format.

use super::{DecodeError, EncodeError, Reader, Writer};
use crate::ids::Uuid;
use std::borrow::Cow;

/// How a message's version lays out its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// The message's version.
    pub version: i16,
    /// Whether lengths are compact and structs end in tagged fields (KIP-482).
    pub flexible: bool,
}

/// A type of the protocol.
pub trait WireType<'a>: Clone + Sized {
    /// Reads a value that cannot be null.
    ///
    /// # Errors
    /// See [`DecodeError`].
    fn read(reader: &mut Reader<'a>, format: Format) -> Result<Self, DecodeError>;

    /// Writes a value that cannot be null.
    ///
    /// # Errors
    /// See [`EncodeError`].
    fn write(&self, writer: &mut Writer, format: Format) -> Result<(), EncodeError>;

    /// Reads a value or null. Types without a length of their own, that is structs, are preceded by one byte,
    /// negative for null.
    ///
    /// # Errors
    /// See [`DecodeError`].
    fn read_nullable(reader: &mut Reader<'a>, format: Format) -> Result<Option<Self>, DecodeError> {
        if reader.i8()? < 0 { Ok(None) } else { Self::read(reader, format).map(Some) }
    }

    /// Writes a value or null.
    ///
    /// # Errors
    /// See [`EncodeError`].
    fn write_nullable(value: Option<&Self>, writer: &mut Writer, format: Format) -> Result<(), EncodeError> {
        let Some(value) = value else {
            writer.put_i8(-1);
            return Ok(());
        };
        writer.put_i8(1);
        value.write(writer, format)
    }

    /// Reads a struct or null from a tagged field: there Kafka's generated code has a varint in front, 0 for null.
    ///
    /// # Errors
    /// See [`DecodeError`].
    fn read_tagged_nullable(reader: &mut Reader<'a>, format: Format) -> Result<Option<Self>, DecodeError> {
        if reader.uvarint()? == 0 { Ok(None) } else { Self::read(reader, format).map(Some) }
    }

    /// Writes a struct or null into a tagged field.
    ///
    /// # Errors
    /// See [`EncodeError`].
    fn write_tagged_nullable(
        value: Option<&Self>,
        writer: &mut Writer,
        format: Format,
    ) -> Result<(), EncodeError> {
        let Some(value) = value else {
            writer.put_uvarint(0);
            return Ok(());
        };
        writer.put_uvarint(1);
        value.write(writer, format)
    }
}

macro_rules! fixed {
    ($($type:ty: $read:ident, |$writer:ident, $value:ident| $write:expr;)*) => {$(
        impl<'a> WireType<'a> for $type {
            fn read(reader: &mut Reader<'a>, _: Format) -> Result<Self, DecodeError> {
                reader.$read()
            }

            fn write(&self, $writer: &mut Writer, _: Format) -> Result<(), EncodeError> {
                let $value = *self;
                $write;
                Ok(())
            }
        }
    )*};
}

fixed! {
    bool: bool, |writer, value| writer.put_i8(i8::from(value));
    i8: i8, |writer, value| writer.put_i8(value);
    i16: i16, |writer, value| writer.put_i16(value);
    u16: u16, |writer, value| writer.put_i16(value.cast_signed());
    i32: i32, |writer, value| writer.put_i32(value);
    u32: u32, |writer, value| writer.put_i32(value.cast_signed());
    i64: i64, |writer, value| writer.put_i64(value);
    f64: f64, |writer, value| writer.put_slice(&value.to_be_bytes());
    Uuid: uuid, |writer, value| writer.put_slice(&value.0);
}

impl<'a> WireType<'a> for Cow<'a, str> {
    fn read(reader: &mut Reader<'a>, format: Format) -> Result<Self, DecodeError> {
        Self::read_nullable(reader, format)?.ok_or(DecodeError::UnexpectedNull)
    }

    fn write(&self, writer: &mut Writer, format: Format) -> Result<(), EncodeError> {
        writer.put_string(Some(self), format.flexible)
    }

    fn read_nullable(reader: &mut Reader<'a>, format: Format) -> Result<Option<Self>, DecodeError> {
        let Some(length) = reader.string_length(format.flexible)? else { return Ok(None) };
        let text = core::str::from_utf8(reader.take(length)?).map_err(|_| DecodeError::InvalidUtf8)?;
        Ok(Some(Cow::Borrowed(text)))
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, format: Format) -> Result<(), EncodeError> {
        writer.put_string(value.map(|text| &**text), format.flexible)
    }
}

impl<'a> WireType<'a> for Cow<'a, [u8]> {
    fn read(reader: &mut Reader<'a>, format: Format) -> Result<Self, DecodeError> {
        Self::read_nullable(reader, format)?.ok_or(DecodeError::UnexpectedNull)
    }

    fn write(&self, writer: &mut Writer, format: Format) -> Result<(), EncodeError> {
        Self::write_nullable(Some(self), writer, format)
    }

    fn read_nullable(reader: &mut Reader<'a>, format: Format) -> Result<Option<Self>, DecodeError> {
        let Some(length) = reader.length(format.flexible)? else { return Ok(None) };
        reader.take(length).map(Cow::Borrowed).map(Some)
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, format: Format) -> Result<(), EncodeError> {
        writer.put_length(value.map(|bytes| bytes.len()), format.flexible)?;
        writer.put_slice(value.map(|bytes| &**bytes).unwrap_or_default());
        Ok(())
    }
}
