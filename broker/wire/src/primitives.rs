//! The protocol's primitive types: a bounds-checked reader over a request, and a writer that assembles
//! a response from its own bytes and from shared views of record bytes.

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
    /// Tagged fields are not in ascending order, or one stands twice.
    InvalidTaggedFields,
    /// The API version is not one that the schema declares.
    UnsupportedVersion,
    /// Bytes remain after the last field.
    TrailingBytes,
}
