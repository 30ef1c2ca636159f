//! Reading: every access is checked against the bytes that remain.

use super::DecodeError;
use crate::ids::Uuid;

/// A position in a message. Reading moves it forward; nothing is copied.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes that were not yet read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// How many bytes were not yet read.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`] if bytes remain.
    pub const fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer remain.
    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A boolean: one byte, false if zero.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.fixed::<1>()? != [0])
    }

    /// An 8-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        self.fixed().map(i8::from_be_bytes)
    }

    /// A 16-bit integer, big endian, as all fixed-size integers.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.fixed().map(i16::from_be_bytes)
    }

    /// An unsigned 16-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.fixed().map(u16::from_be_bytes)
    }

    /// A 32-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.fixed().map(i32::from_be_bytes)
    }

    /// An unsigned 32-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.fixed().map(u32::from_be_bytes)
    }

    /// A 64-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.fixed().map(i64::from_be_bytes)
    }

    /// A double-precision number.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        self.fixed().map(f64::from_be_bytes)
    }

    /// A UUID: 16 bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.fixed().map(Uuid)
    }

    /// An unsigned integer of 1 to 5 bytes, seven bits each, the lowest first (KIP-482).
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]; [`DecodeError::InvalidVarint`] if it exceeds 32 bits.
    #[inline]
    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte & 0x80 == 0
        {
            self.rest = rest;
            return Ok(u32::from(byte));
        }
        u32::try_from(self.uvarlong()?).map_err(|_| DecodeError::InvalidVarint)
    }

    /// A signed integer of 1 to 5 bytes in zigzag order, as record fields use.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]; [`DecodeError::InvalidVarint`] if it exceeds 32 bits.
    pub fn varint(&mut self) -> Result<i32, DecodeError> {
        let raw = self.uvarint()?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// An unsigned integer of 1 to 10 bytes, seven bits each, the lowest first.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]; [`DecodeError::InvalidVarint`] if it exceeds 64 bits.
    pub fn uvarlong(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.fixed()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::InvalidVarint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::InvalidVarint)
    }

    /// A signed integer of 1 to 10 bytes in zigzag order, as record fields use.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]; [`DecodeError::InvalidVarint`] if it exceeds 64 bits.
    pub fn varlong(&mut self) -> Result<i64, DecodeError> {
        let raw = self.uvarlong()?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// The length or count before bytes, record sets and arrays, `None` for null: 32 bits with -1 for null, or
    /// a varint of one more than the length with 0 for null. It is at most the number of bytes that remain,
    /// because every element takes at least one.
    ///
    /// # Errors
    /// [`DecodeError::InvalidLength`] if it is below -1 or exceeds the rest; those of the integers.
    #[inline]
    pub fn length(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        let length = if flexible {
            let Some(length) = self.uvarint()?.checked_sub(1) else { return Ok(None) };
            length as usize
        } else {
            match self.i32()? {
                -1 => return Ok(None),
                length => usize::try_from(length).map_err(|_| DecodeError::InvalidLength)?,
            }
        };
        if length > self.rest.len() { Err(DecodeError::InvalidLength) } else { Ok(Some(length)) }
    }

    /// The length before a string, `None` for null: like [`Reader::length`], but of 16 bits if not compact.
    ///
    /// # Errors
    /// [`DecodeError::InvalidLength`] if it is below -1, exceeds the rest or
    /// [`STRING_BYTES_MAX`](super::STRING_BYTES_MAX); those of the integers.
    pub fn string_length(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        let length = if flexible {
            let Some(length) = self.uvarint()?.checked_sub(1) else { return Ok(None) };
            length as usize
        } else {
            match self.i16()? {
                -1 => return Ok(None),
                length => usize::try_from(length).map_err(|_| DecodeError::InvalidLength)?,
            }
        };
        if length > self.rest.len() || length > super::STRING_BYTES_MAX {
            Err(DecodeError::InvalidLength)
        } else {
            Ok(Some(length))
        }
    }

    /// The tagged fields at the end of a struct (KIP-482). `field` gets each tag with a reader over exactly
    /// its value, and says whether it knows the tag; the value of an unknown one is passed over.
    ///
    /// # Errors
    /// [`DecodeError::InvalidTaggedFields`] if tags do not ascend or a known value does not end where its
    /// size says; what `field` and the integers return.
    pub fn tagged_fields(
        &mut self,
        mut field: impl FnMut(u32, &mut Self) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.uvarint()?;
        let mut least_next_tag = 0;
        for _ in 0..count {
            let tag = self.uvarint()?;
            if u64::from(tag) < least_next_tag {
                return Err(DecodeError::InvalidTaggedFields);
            }
            least_next_tag = u64::from(tag) + 1;
            let size = self.uvarint()? as usize;
            let mut value = Self::new(self.take(size)?);
            if field(tag, &mut value)? && !value.rest.is_empty() {
                return Err(DecodeError::InvalidTaggedFields);
            }
        }
        Ok(())
    }
}
