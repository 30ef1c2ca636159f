//! The zigzag variable-length integers of records, as in Protocol Buffers.

use super::error::RecordError;

/// Takes an integer of 32 bits from the front of `bytes`.
#[inline]
pub(super) fn take_i32(bytes: &mut &[u8]) -> Result<i32, RecordError> {
    let zigzag = take_bits(bytes, u64::from(u32::MAX))? as u32;
    Ok((zigzag >> 1) as i32 ^ -((zigzag & 1) as i32))
}

/// Takes an integer of 64 bits from the front of `bytes`.
#[inline]
pub(super) fn take_i64(bytes: &mut &[u8]) -> Result<i64, RecordError> {
    let zigzag = take_bits(bytes, u64::MAX)?;
    Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
}

#[inline]
fn take_bits(bytes: &mut &[u8], max: u64) -> Result<u64, RecordError> {
    // Nearly all are small.
    match bytes.split_first() {
        Some((&byte, rest)) if byte & 0x80 == 0 => {
            *bytes = rest;
            Ok(u64::from(byte))
        }
        _ => take_longer(bytes, max),
    }
}

fn take_longer(bytes: &mut &[u8], max: u64) -> Result<u64, RecordError> {
    let mut bits = 0_u64;
    let mut shift = 0;
    loop {
        let (&byte, rest) = bytes.split_first().ok_or(RecordError::Truncated)?;
        let part = u64::from(byte & 0x7f);
        // Of a tenth byte only one bit has room, and of an eleventh none.
        if shift > 63 || part << shift >> shift != part {
            return Err(RecordError::InvalidVarint);
        }
        bits |= part << shift;
        if bits > max {
            return Err(RecordError::InvalidVarint);
        }
        *bytes = rest;
        if byte & 0x80 == 0 {
            return Ok(bits);
        }
        shift += 7;
    }
}

/// Appends an integer; one of 32 bits has the same form when it is widened.
pub(super) fn put(output: &mut Vec<u8>, value: i64) {
    let mut zigzag = zigzag(value);
    while zigzag >= 0x80 {
        output.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    output.push(zigzag as u8);
}

/// How many bytes [`put`] appends.
pub(super) const fn encoded_bytes(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_round_trip() {
        let edges = (0..63).flat_map(|bit| [(1_i64 << bit) - 1, 1 << bit, -(1 << bit), -(1 << bit) - 1]);
        for value in edges.chain([0, i64::MIN, i64::MAX, -1]) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            assert_eq!(bytes.len(), encoded_bytes(value), "{value}");
            assert_eq!(take_i64(&mut bytes.as_slice()), Ok(value));
            match i32::try_from(value) {
                Ok(small) => assert_eq!(take_i32(&mut bytes.as_slice()), Ok(small)),
                Err(_) => assert_eq!(take_i32(&mut bytes.as_slice()), Err(RecordError::InvalidVarint)),
            }
        }
    }

    #[test]
    fn known_forms() {
        for (value, form) in [(0, &[0_u8][..]), (-1, &[1]), (1, &[2]), (-64, &[0x7f]), (64, &[0x80, 1])] {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            assert_eq!(bytes, form);
        }
    }

    #[test]
    fn too_long_or_too_short() {
        assert_eq!(take_i64(&mut &[0x80_u8; 9][..]), Err(RecordError::Truncated));
        assert_eq!(take_i64(&mut &[0xff_u8; 11][..]), Err(RecordError::InvalidVarint));
        assert_eq!(take_i64(&mut &[0x80_u8; 11][..]), Err(RecordError::InvalidVarint));
        assert_eq!(take_i32(&mut &[0xff, 0xff, 0xff, 0xff, 0x1f][..]), Err(RecordError::InvalidVarint));
        assert_eq!(take_i32(&mut &[0xff, 0xff, 0xff, 0xff, 0x0f][..]), Ok(i32::MIN));
        assert_eq!(take_i32(&mut &[][..]), Err(RecordError::Truncated));
    }
}
