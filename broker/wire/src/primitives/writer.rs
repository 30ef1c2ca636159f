//! Writing: a message is a list of parts, so that record bytes leave as the views they already are.

use super::EncodeError;
use bytes::{BufMut, Bytes, BytesMut};

const SIZE_PREFIX_BYTES: usize = 4;

/// The largest message that its size prefix can announce, the prefix excluded.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

enum Part {
    Own(BytesMut),
    Shared(Bytes),
}

/// Assembles a message from bytes of its own and shared views.
#[derive(Default)]
pub struct Writer {
    parts: Vec<Part>,
    /// What follows the parts.
    current: BytesMut,
    parts_bytes: usize,
    framed: bool,
}

impl Writer {
    /// An empty writer for a bare message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer for a message that travels in a frame: [`Writer::finish`] puts the message's size, 4 bytes, in
    /// front of it.
    #[must_use]
    pub fn framed() -> Self {
        let mut current = BytesMut::with_capacity(256);
        current.put_bytes(0, SIZE_PREFIX_BYTES);
        Self { current, framed: true, ..Self::default() }
    }

    /// Bytes written so far, the size prefix included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts_bytes + self.current.len()
    }

    /// Whether nothing was written, not even a size prefix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message's parts in order, for a vectored send; with the size in front if the writer is framed.
    ///
    /// # Panics
    /// If the message exceeds 2 GiB, which [`Writer::check_size`] reports.
    #[must_use]
    pub fn finish(mut self) -> Vec<Bytes> {
        let total = self.len();
        if self.framed {
            let size = total - SIZE_PREFIX_BYTES;
            assert!(size <= MESSAGE_BYTES_MAX, "an encoded message fits its size prefix");
            let prefix = (size as u32).to_be_bytes();
            let first = match self.parts.first_mut() {
                Some(Part::Own(first)) => first,
                // The prefix was written first, so it is in the first part of our own.
                Some(Part::Shared(_)) | None => &mut self.current,
            };
            first[..SIZE_PREFIX_BYTES].copy_from_slice(&prefix);
        }
        let mut finished = Vec::with_capacity(self.parts.len() + 1);
        for part in self.parts {
            finished.push(match part {
                Part::Own(bytes) => bytes.freeze(),
                Part::Shared(bytes) => bytes,
            });
        }
        if !self.current.is_empty() {
            finished.push(self.current.freeze());
        }
        finished
    }

    /// Checks that the message can be announced by a 4-byte size.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] if it exceeds 2 GiB.
    pub fn check_size(&self) -> Result<(), EncodeError> {
        if self.len() > MESSAGE_BYTES_MAX { Err(EncodeError::TooLong) } else { Ok(()) }
    }

    /// Appends a copy of `bytes`.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.current.extend_from_slice(bytes);
    }

    /// Appends a shared view without copying.
    pub fn put_shared(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        if !self.current.is_empty() {
            let own = self.current.split();
            self.parts_bytes += own.len();
            self.parts.push(Part::Own(own));
        }
        self.parts_bytes += bytes.len();
        self.parts.push(Part::Shared(bytes));
    }

    /// Appends one byte.
    pub fn put_i8(&mut self, value: i8) {
        self.current.put_i8(value);
    }

    /// Appends a 16-bit integer, big endian, as all fixed-size integers.
    pub fn put_i16(&mut self, value: i16) {
        self.current.put_i16(value);
    }

    /// Appends a 32-bit integer.
    pub fn put_i32(&mut self, value: i32) {
        self.current.put_i32(value);
    }

    /// Appends a 64-bit integer.
    pub fn put_i64(&mut self, value: i64) {
        self.current.put_i64(value);
    }

    /// Appends an unsigned integer of 1 to 5 bytes (KIP-482).
    pub fn put_uvarint(&mut self, value: u32) {
        self.put_uvarlong(u64::from(value));
    }

    /// Appends a signed integer of 1 to 5 bytes in zigzag order.
    pub fn put_varint(&mut self, value: i32) {
        self.put_uvarint(((value << 1) ^ (value >> 31)).cast_unsigned());
    }

    /// Appends an unsigned integer of 1 to 10 bytes.
    pub fn put_uvarlong(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.current.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.current.put_u8(value as u8);
    }

    /// Appends a signed integer of 1 to 10 bytes in zigzag order.
    pub fn put_varlong(&mut self, value: i64) {
        self.put_uvarlong(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    /// Appends the length or count before bytes, record sets and arrays; `None` is null.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] if it exceeds 31 bits.
    pub fn put_length(&mut self, length: Option<usize>, flexible: bool) -> Result<(), EncodeError> {
        let length =
            length.map(|length| i32::try_from(length).map_err(|_| EncodeError::TooLong)).transpose()?;
        if flexible {
            self.put_uvarint(length.map_or(0, |length| length.cast_unsigned() + 1));
        } else {
            self.put_i32(length.unwrap_or(-1));
        }
        Ok(())
    }

    /// Appends a string with its length; `None` is null.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] if it exceeds [`STRING_BYTES_MAX`](super::STRING_BYTES_MAX).
    pub fn put_string(&mut self, text: Option<&str>, flexible: bool) -> Result<(), EncodeError> {
        let length =
            text.map(|text| i16::try_from(text.len()).map_err(|_| EncodeError::TooLong)).transpose()?;
        if flexible {
            self.put_uvarint(length.map_or(0, |length| u32::from(length.cast_unsigned()) + 1));
        } else {
            self.put_i16(length.unwrap_or(-1));
        }
        self.put_slice(text.unwrap_or_default().as_bytes());
        Ok(())
    }

    /// Appends one tagged field: tag, size, and the value that `value` writes (KIP-482).
    ///
    /// # Errors
    /// What `value` returns; [`EncodeError::TooLong`] if the value exceeds 2 GiB.
    pub fn put_tagged(
        &mut self,
        tag: u32,
        value: impl FnOnce(&mut Self) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let mut inner = Self::new();
        value(&mut inner)?;
        inner.check_size()?;
        self.put_uvarint(tag);
        self.put_uvarint(inner.len() as u32);
        for part in inner.parts {
            match part {
                Part::Own(bytes) => self.put_slice(&bytes),
                Part::Shared(bytes) => self.put_shared(bytes),
            }
        }
        self.put_slice(&inner.current);
        Ok(())
    }
}
