//! What every frame between hosts starts with, whichever protocol it belongs to.
//!
//! | bytes | field |
//! |---|---|
//! | 0–3 | magic: which protocol; the first byte is [`FIRST_BYTE`] |
//! | 4–5 | version of the protocol, little endian |
//! | 6–7 | kind of frame, numbered by the protocol, little endian |
//! | 8–11 | bytes of the header that follows, little endian |
//! | 12–15 | bytes of the payload behind the header, little endian |
//! | 16–19 | CRC-32C of bytes 0–15 and of the header, little endian |
//!
//! The first four bytes of a Kafka request are its size, big endian and never negative. A magic read that way is
//! negative, so one port can serve both: [`is_peer_frame`] tells from the first four bytes. The payload is not
//! covered: a protocol covers it by what it puts into the header, so that record batches, which carry a checksum
//! of their own, are not summed twice.
//!
//! A receiver reads [`PEER_PREFIX_BYTES`], calls [`PeerPrefix::parse`], which bounds both lengths, then reads
//! header and payload, and calls [`PeerPrefix::check_header`] before it looks at either.

use super::FrameError;

/// Bytes of the prefix.
pub const PEER_PREFIX_BYTES: usize = 20;

/// Bytes of the prefix that its checksum covers.
const COVERED_BYTES: usize = 16;

/// The first byte of every magic: with it, a Kafka frame's size would be negative.
pub const FIRST_BYTE: u8 = 0xf7;

/// The magic of a protocol between hosts.
#[must_use]
pub const fn peer_magic(letters: [u8; 3]) -> [u8; 4] {
    [FIRST_BYTE, letters[0], letters[1], letters[2]]
}

const _: () = assert!(i32::from_be_bytes(peer_magic([0; 3])) < 0);

/// Whether a connection whose first four bytes are these speaks a protocol between hosts, not Kafka's.
#[must_use]
pub const fn is_peer_frame(first: [u8; 4]) -> bool {
    first[0] == FIRST_BYTE
}

/// The largest frame that a receiver takes: what it has memory for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerFrameLimits {
    /// The largest header, in bytes.
    pub header_bytes_max: u32,
    /// The largest payload, in bytes.
    pub payload_bytes_max: u32,
}

/// The fixed start of a frame between hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerPrefix {
    /// Which protocol.
    pub magic: [u8; 4],
    /// Which version of it.
    pub version: u16,
    /// Which of its frames.
    pub kind: u16,
    /// Bytes of the header.
    pub header_bytes: u32,
    /// Bytes of the payload behind it.
    pub payload_bytes: u32,
    /// CRC-32C of the fields before this one, and of the header.
    pub crc: u32,
}

impl PeerPrefix {
    /// The prefix for a header that is already encoded, and a payload of this many bytes.
    ///
    /// # Errors
    /// [`FrameError::InvalidField`], if either is 4 GiB or more.
    pub fn seal(
        magic: [u8; 4],
        version: u16,
        kind: u16,
        header: &[u8],
        payload_bytes: usize,
    ) -> Result<[u8; PEER_PREFIX_BYTES], FrameError> {
        let length = |bytes: usize| u32::try_from(bytes).map_err(|_| FrameError::InvalidField);
        let mut sealed = [0; PEER_PREFIX_BYTES];
        sealed[..4].copy_from_slice(&magic);
        sealed[4..6].copy_from_slice(&version.to_le_bytes());
        sealed[6..8].copy_from_slice(&kind.to_le_bytes());
        sealed[8..12].copy_from_slice(&length(header.len())?.to_le_bytes());
        sealed[12..16].copy_from_slice(&length(payload_bytes)?.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&sealed[..COVERED_BYTES]), header);
        sealed[COVERED_BYTES..].copy_from_slice(&crc.to_le_bytes());
        Ok(sealed)
    }

    /// Reads the prefix of a frame of this protocol. Which versions and kinds there are is for the caller to know;
    /// nothing is proved before [`PeerPrefix::check_header`].
    ///
    /// # Errors
    /// [`FrameError::WrongMagic`], and [`FrameError::InvalidField`] if a length is beyond the limits.
    pub fn parse(
        bytes: &[u8; PEER_PREFIX_BYTES],
        magic: [u8; 4],
        limits: PeerFrameLimits,
    ) -> Result<Self, FrameError> {
        let [m0, m1, m2, m3, v0, v1, k0, k1, h0, h1, h2, h3, p0, p1, p2, p3, c0, c1, c2, c3] = *bytes;
        if [m0, m1, m2, m3] != magic {
            return Err(FrameError::WrongMagic);
        }
        let prefix = Self {
            magic,
            version: u16::from_le_bytes([v0, v1]),
            kind: u16::from_le_bytes([k0, k1]),
            header_bytes: u32::from_le_bytes([h0, h1, h2, h3]),
            payload_bytes: u32::from_le_bytes([p0, p1, p2, p3]),
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
        };
        let fits = prefix.header_bytes <= limits.header_bytes_max
            && prefix.payload_bytes <= limits.payload_bytes_max;
        if fits { Ok(prefix) } else { Err(FrameError::InvalidField) }
    }

    /// Whether `header` is the one that the prefix was sealed for, and the prefix is intact itself.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] if the length differs, [`FrameError::WrongChecksum`].
    pub fn check_header(&self, header: &[u8]) -> Result<(), FrameError> {
        if u32::try_from(header.len()) != Ok(self.header_bytes) {
            return Err(FrameError::Truncated);
        }
        let sealed = Self::seal(self.magic, self.version, self.kind, header, self.payload_bytes as usize)?;
        if sealed[COVERED_BYTES..] == self.crc.to_le_bytes() {
            Ok(())
        } else {
            Err(FrameError::WrongChecksum)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 4] = peer_magic(*b"TST");
    const LIMITS: PeerFrameLimits = PeerFrameLimits { header_bytes_max: 100, payload_bytes_max: 1000 };

    #[test]
    fn kafka_would_read_a_negative_size() {
        for letters in [[0, 0, 0], *b"TST", [0xff; 3]] {
            let magic = peer_magic(letters);
            assert!(i32::from_be_bytes(magic) < 0 && is_peer_frame(magic));
        }
        assert!(!is_peer_frame(i32::MAX.to_be_bytes()) && !is_peer_frame(0_i32.to_be_bytes()));
    }

    #[test]
    fn the_bytes_are_fixed() {
        let sealed = PeerPrefix::seal(MAGIC, 0x0102, 0x0304, b"header", 0x0203).unwrap();
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "f7545354020104030600000003020000d96b52c2");
    }

    #[test]
    fn every_flipped_bit_of_prefix_and_header_is_noticed() {
        let header = b"header".to_vec();
        let sealed = PeerPrefix::seal(MAGIC, 1, 2, &header, 900).unwrap();
        let open = |prefix: &[u8; PEER_PREFIX_BYTES], header: &[u8]| {
            PeerPrefix::parse(prefix, MAGIC, LIMITS)
                .and_then(|prefix| prefix.check_header(header).map(|()| prefix))
        };
        let opened = open(&sealed, &header).unwrap();
        assert_eq!((opened.version, opened.kind, opened.header_bytes, opened.payload_bytes), (1, 2, 6, 900));
        for bit in 0..PEER_PREFIX_BYTES * 8 {
            let mut flipped = sealed;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&flipped, &header).is_err(), "bit {bit} of the prefix");
        }
        for bit in 0..header.len() * 8 {
            let mut flipped = header.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&sealed, &flipped), Err(FrameError::WrongChecksum), "bit {bit} of the header");
        }
        assert_eq!(open(&sealed, b"heade"), Err(FrameError::Truncated));
    }

    #[test]
    fn lengths_beyond_the_limits_are_refused_before_anything_is_read() {
        let of = |header: &[u8], payload| PeerPrefix::seal(MAGIC, 1, 2, header, payload).unwrap();
        assert!(PeerPrefix::parse(&of(&[0; 100], 1000), MAGIC, LIMITS).is_ok());
        let refused = Err(FrameError::InvalidField);
        assert_eq!(PeerPrefix::parse(&of(&[0; 101], 0), MAGIC, LIMITS), refused);
        assert_eq!(PeerPrefix::parse(&of(&[], 1001), MAGIC, LIMITS), refused);
        assert_eq!(PeerPrefix::parse(&of(&[], 0), peer_magic(*b"OTH"), LIMITS), Err(FrameError::WrongMagic));
        assert_eq!(PeerPrefix::seal(MAGIC, 1, 2, &[], 1 << 32), refused.map(|_| [0; 20]));
    }
}
