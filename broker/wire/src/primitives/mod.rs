//! The protocol's primitive types: a bounds-checked reader over a message, and a writer that assembles
//! a message from its own bytes and from shared views of record bytes.
//!
//! Decoding allocates nothing: strings, bytes, record sets and arrays are views of the message. An array
//! is walked and checked once when it is decoded; its elements are decoded again, one at a time, when it
//! is iterated. The same types have owned forms, from which messages are built.

mod array;
mod encoded_array;
mod reader;
mod records;
mod wire_type;
mod writer;

pub use array::{Array, Elements};
pub use encoded_array::EncodedArray;
pub use reader::Reader;
pub use records::Records;
pub use wire_type::{Format, WireType};
pub use writer::Writer;

use core::fmt;

/// The largest length of a string on the wire, in bytes of UTF-8; compact strings are held to it too.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A field reaches beyond the end of the bytes.
    Truncated,
    /// A length or count is negative where it must not be, or larger than the bytes that remain.
    InvalidLength,
    /// A string is not UTF-8.
    InvalidUtf8,
    /// A null stands where the version does not allow one.
    UnexpectedNull,
    /// A variable-length integer is longer than its type.
    InvalidVarint,
    /// Tagged fields are not in ascending order, or one stands twice, or one's size is not that of its value.
    InvalidTaggedFields,
    /// The API version is not one that the schema declares.
    UnsupportedVersion,
    /// The API key is not one that the schema declares.
    UnknownApiKey,
    /// Bytes remain after the last field.
    TrailingBytes,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "a field reaches beyond the end of the message",
            Self::InvalidLength => "a length or count is negative or larger than the rest of the message",
            Self::InvalidUtf8 => "a string is not UTF-8",
            Self::UnexpectedNull => "a null stands where the version does not allow one",
            Self::InvalidVarint => "a variable-length integer is longer than its type",
            Self::InvalidTaggedFields => "tagged fields are out of order, repeated, or of the wrong size",
            Self::UnsupportedVersion => "the API version is not supported",
            Self::UnknownApiKey => "the API key is unknown",
            Self::TrailingBytes => "bytes remain after the last field",
        })
    }
}

impl core::error::Error for DecodeError {}

/// Why a message could not be encoded. What the writer holds afterwards is incomplete and must be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The API version is not one that the schema declares.
    UnsupportedVersion,
    /// The named field has a value that matters, and the version has no place for it.
    NotInVersion(&'static str),
    /// The named field is null, and the version does not allow that.
    UnexpectedNull(&'static str),
    /// A string, an array or the whole message is longer than its length field can say.
    TooLong,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnsupportedVersion => f.write_str("the API version is not supported"),
            Self::NotInVersion(field) => {
                write!(
                    f,
                    "the version cannot carry the value of {field}; use a newer version or leave it unset"
                )
            }
            Self::UnexpectedNull(field) => write!(f, "{field} is null, which the version does not allow"),
            Self::TooLong => f.write_str("a value is longer than its length field can say"),
        }
    }
}

impl core::error::Error for EncodeError {}

#[cfg(test)]
mod tests;
