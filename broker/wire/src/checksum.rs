//! CRC-32C of bytes that follow one another, from the checksums of their parts: what was summed once need not be read
//! again.
//!
//! A checksum is a remainder of polynomials over two elements. Zeros behind the bytes multiply it by a power of x, so that
//! the checksum of two parts is that of the first, multiplied by x to the bits of the second, plus that of the
//! second. (The inversions before and after cancel out.)

/// The Castagnoli polynomial without its highest term. The highest bit stands for x to the power of 0, as in all that
/// follows.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const ONE: u32 = 1 << 31;
/// x to the bits of a byte.
const BYTE: u32 = 1 << 23;

/// For each byte of a length, at each of its places, x to the bits of as many bytes.
static POWERS: [[u32; 256]; 4] = powers();

const fn powers() -> [[u32; 256]; 4] {
    let mut powers = [[ONE; 256]; 4];
    let mut unit = BYTE;
    let mut place = 0;
    while place < 4 {
        let mut count = 1;
        while count < 256 {
            powers[place][count] = product(powers[place][count - 1], unit);
            count += 1;
        }
        unit = product(powers[place][255], unit);
        place += 1;
    }
    powers
}

/// The product of two polynomials, modulo the polynomial of the checksum.
#[inline]
const fn product(one: u32, mut other: u32) -> u32 {
    let (mut sum, mut bit) = (0, 32);
    while bit > 0 {
        bit -= 1;
        // No branches: the bits are as good as random.
        sum ^= other & 0_u32.wrapping_sub(one >> bit & 1);
        other = other >> 1 ^ POLYNOMIAL & 0_u32.wrapping_sub(other & 1);
    }
    sum
}

/// The CRC-32C of two parts, from that of each and the bytes of the second.
#[must_use]
pub fn concatenated(first: u32, second: u32, second_bytes: u32) -> u32 {
    let mut shifted = first;
    for (powers, count) in POWERS.iter().zip(second_bytes.to_le_bytes()) {
        if count > 0 {
            shifted = product(powers[usize::from(count)], shifted);
        }
    }
    shifted ^ second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_parts_have_the_checksum_of_the_whole() {
        let bytes: Vec<u8> =
            (0..200_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for whole in [0, 1, 2, 255, 256, 257, 4_096, 65_535, 65_536, 65_537, bytes.len()] {
            let bytes = &bytes[..whole];
            for at in [0, 1, 7, whole / 3, whole.saturating_sub(256), whole.saturating_sub(1), whole] {
                let (first, second) = bytes.split_at(at.min(whole));
                let sums = (crc32c::crc32c(first), crc32c::crc32c(second));
                let sum = concatenated(sums.0, sums.1, second.len() as u32);
                assert_eq!(sum, crc32c::crc32c(bytes), "{} and {} bytes", first.len(), second.len());
            }
        }
    }

    #[test]
    fn long_parts_take_all_places_of_their_length() {
        let zeros = vec![0; (1 << 24) + 0x01_02_03];
        let sum = concatenated(crc32c::crc32c(b"before"), crc32c::crc32c(&zeros), zeros.len() as u32);
        assert_eq!(sum, crc32c::crc32c_append(crc32c::crc32c(b"before"), &zeros));
    }
}
