//! The frames between control shards: what the metadata quorum says, and calls with their answers.
//!
//! | kind | operation | payload |
//! |---|---|---|
//! | hello, from both ends, first | – | who it is |
//! | quorum | – | a frame of [`super::quorum`] |
//! | call | what is asked for | the request |
//! | answer | that of the call | the response, or nothing from a node that has no answer |
//! | ping | – | – |
//!
//! Every frame starts with the prefix of [`super::prefix`], whose checksum covers the header, and the header has that of
//! the payload.

use rkyv::rancor;

use super::prefix::{PEER_PREFIX_BYTES, PeerFrameLimits, PeerPrefix, peer_magic};
use super::{FrameError, append_fixed};
use crate::ids::{NodeId, Uuid};
use crate::limits::CONTROL_LINK_PAYLOAD_BYTES_MAX;

/// The protocol's magic.
pub const CONTROL_LINK_MAGIC: [u8; 4] = peer_magic(*b"LMC");

/// The version that is written, and the only one that is read.
pub const CONTROL_LINK_VERSION: u16 = 0;

/// What a receiver takes at the most.
pub const CONTROL_LINK_LIMITS: PeerFrameLimits = PeerFrameLimits {
    header_bytes_max: CONTROL_HEADER_BYTES as u32,
    payload_bytes_max: CONTROL_LINK_PAYLOAD_BYTES_MAX,
};

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlKind {
    /// The first frame of both ends.
    Hello,
    /// A frame of the metadata quorum.
    Quorum,
    /// A request that is answered.
    Call,
    /// The answer.
    Answer,
    /// Nothing but a sign of life.
    Ping,
}

impl ControlKind {
    const fn number(self) -> u16 {
        match self {
            Self::Hello => 1,
            Self::Quorum => 2,
            Self::Call => 3,
            Self::Answer => 4,
            Self::Ping => 5,
        }
    }

    const fn of(number: u16) -> Result<Self, FrameError> {
        match number {
            1 => Ok(Self::Hello),
            2 => Ok(Self::Quorum),
            3 => Ok(Self::Call),
            4 => Ok(Self::Answer),
            5 => Ok(Self::Ping),
            _ => Err(FrameError::InvalidField),
        }
    }
}

/// A frame's prefix and header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlFrame {
    /// What it is.
    pub kind: ControlKind,
    /// Of a call, its number on this connection, and of an answer, that of its call; 0 otherwise.
    pub id: u64,
    /// What a call asks for; 0 otherwise.
    pub operation: u16,
    /// Bytes of the payload.
    pub payload_bytes: u32,
    payload_crc: u32,
}

/// The payload of a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlHello {
    /// The node that speaks.
    pub node: NodeId,
    /// Its cluster; zero of a node that belongs to none yet.
    pub cluster_id: Uuid,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy)]
struct HeaderBytes {
    id: u64,
    payload_crc: u32,
    operation: u16,
    reserved: u16,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy)]
struct HelloBytes {
    cluster_id: [u8; 16],
    node: i32,
    reserved: u32,
}

/// Bytes of every frame's header.
pub const CONTROL_HEADER_BYTES: usize = size_of::<ArchivedHeaderBytes>();

/// Bytes of prefix and header.
pub const CONTROL_FRAME_START_BYTES: usize = PEER_PREFIX_BYTES + CONTROL_HEADER_BYTES;

/// Bytes of a hello's payload.
pub const CONTROL_HELLO_BYTES: usize = size_of::<ArchivedHelloBytes>();

const _: () = assert!(CONTROL_HEADER_BYTES == 16 && CONTROL_HELLO_BYTES == 24);

/// Reads archived data of fixed size.
macro_rules! read_fixed {
    ($archived:ty, $fields:ty, $bytes:expr) => {{
        let bytes: &[u8] = $bytes;
        if bytes.len() != size_of::<$archived>() {
            return Err(FrameError::Truncated);
        }
        let invalid = |_| FrameError::InvalidField;
        let archived = rkyv::access::<$archived, rancor::Failure>(bytes).map_err(invalid)?;
        rkyv::deserialize::<$fields, rancor::Failure>(archived).map_err(invalid)?
    }};
}

impl ControlFrame {
    /// The bytes that precede `payload`.
    ///
    /// # Errors
    /// [`FrameError::InvalidField`], if the payload is longer than a receiver takes.
    pub fn seal(kind: ControlKind, id: u64, operation: u16, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
        if payload.len() > CONTROL_LINK_PAYLOAD_BYTES_MAX as usize {
            return Err(FrameError::InvalidField);
        }
        let mut header = Vec::with_capacity(CONTROL_HEADER_BYTES);
        let payload_crc = crc32c::crc32c(payload);
        append_fixed(&mut header, &HeaderBytes { id, payload_crc, operation, reserved: 0 });
        let prefix = PeerPrefix::seal(
            CONTROL_LINK_MAGIC,
            CONTROL_LINK_VERSION,
            kind.number(),
            &header,
            payload.len(),
        )?;
        Ok([prefix.as_slice(), &header].concat())
    }

    /// Reads a frame's start, which bounds its payload.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn open(bytes: &[u8; CONTROL_FRAME_START_BYTES]) -> Result<Self, FrameError> {
        let (prefix, header) = bytes.split_first_chunk::<PEER_PREFIX_BYTES>().ok_or(FrameError::Truncated)?;
        let prefix = PeerPrefix::parse(prefix, CONTROL_LINK_MAGIC, CONTROL_LINK_LIMITS)?;
        if prefix.version != CONTROL_LINK_VERSION {
            return Err(FrameError::UnknownVersion(prefix.version));
        }
        prefix.check_header(header)?;
        let fields = read_fixed!(ArchivedHeaderBytes, HeaderBytes, header);
        let kind = ControlKind::of(prefix.kind)?;
        let is_empty = kind == ControlKind::Ping && prefix.payload_bytes > 0;
        let names_call = matches!(kind, ControlKind::Call | ControlKind::Answer) == (fields.id > 0);
        if fields.reserved != 0 || is_empty || !names_call {
            return Err(FrameError::InvalidField);
        }
        let HeaderBytes { id, payload_crc, operation, .. } = fields;
        Ok(Self { kind, id, operation, payload_bytes: prefix.payload_bytes, payload_crc })
    }

    /// Whether these bytes are the frame's payload.
    ///
    /// # Errors
    /// [`FrameError::Truncated`], [`FrameError::WrongChecksum`].
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), FrameError> {
        if u32::try_from(payload.len()) != Ok(self.payload_bytes) {
            return Err(FrameError::Truncated);
        }
        if crc32c::crc32c(payload) == self.payload_crc { Ok(()) } else { Err(FrameError::WrongChecksum) }
    }
}

impl ControlHello {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CONTROL_HELLO_BYTES);
        let (cluster_id, node) = (self.cluster_id.0, self.node.0);
        append_fixed(&mut bytes, &HelloBytes { cluster_id, node, reserved: 0 });
        bytes
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let fields = read_fixed!(ArchivedHelloBytes, HelloBytes, bytes);
        if fields.node < 0 || fields.reserved != 0 {
            return Err(FrameError::InvalidField);
        }
        Ok(Self { node: NodeId(fields.node), cluster_id: Uuid(fields.cluster_id) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(bytes: &[u8]) -> [u8; CONTROL_FRAME_START_BYTES] {
        *bytes.first_chunk().unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_are_fixed() {
        let sealed = ControlFrame::seal(ControlKind::Call, 7, 0x0102, b"payload").unwrap();
        assert_eq!(hex(&sealed), "f74c4d430000030010000000070000003cecfaa907000000000000007069e3f402010000");
        let hello = ControlHello { node: NodeId(3), cluster_id: Uuid([0xab; 16]) };
        assert_eq!(hex(&hello.encode()), format!("{}0300000000000000", "ab".repeat(16)));
        assert_eq!(ControlHello::decode(&hello.encode()), Ok(hello));
    }

    #[test]
    fn frames_are_read_back_and_every_flipped_bit_is_noticed() {
        for (kind, id, payload) in [
            (ControlKind::Hello, 0, &b"who"[..]),
            (ControlKind::Quorum, 0, b"what"),
            (ControlKind::Call, 9, b""),
            (ControlKind::Answer, u64::MAX, b"x"),
            (ControlKind::Ping, 0, b""),
        ] {
            let sealed = ControlFrame::seal(kind, id, 5, payload).unwrap();
            let frame = ControlFrame::open(&start(&sealed)).unwrap();
            assert_eq!((frame.kind, frame.id, frame.operation), (kind, id, 5));
            assert_eq!(frame.check_payload(payload), Ok(()));
            assert_eq!(
                frame.check_payload(b"other"),
                Err(if payload.len() == 5 { FrameError::WrongChecksum } else { FrameError::Truncated })
            );
            for bit in 0..sealed.len() * 8 {
                let mut flipped = start(&sealed);
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(ControlFrame::open(&flipped).is_err(), "bit {bit} of {kind:?}");
            }
        }
        let frame =
            ControlFrame::open(&start(&ControlFrame::seal(ControlKind::Quorum, 0, 0, b"abc").unwrap()));
        assert_eq!(frame.unwrap().check_payload(b"abd"), Err(FrameError::WrongChecksum));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let open = |kind, id, payload: &[u8]| {
            ControlFrame::open(&start(&ControlFrame::seal(kind, id, 0, payload).unwrap()))
        };
        assert_eq!(
            open(ControlKind::Call, 0, b"x"),
            Err(FrameError::InvalidField),
            "a call without a number"
        );
        assert_eq!(
            open(ControlKind::Quorum, 1, b"x"),
            Err(FrameError::InvalidField),
            "a number without a call"
        );
        assert_eq!(
            open(ControlKind::Ping, 0, b"x"),
            Err(FrameError::InvalidField),
            "a ping that says something"
        );
        let negative = ControlHello { node: NodeId(-1), cluster_id: Uuid::ZERO };
        assert_eq!(ControlHello::decode(&negative.encode()), Err(FrameError::InvalidField));
        assert_eq!(ControlHello::decode(&[0; 23]), Err(FrameError::Truncated));
        let huge = vec![0; CONTROL_LINK_PAYLOAD_BYTES_MAX as usize + 1];
        assert_eq!(ControlFrame::seal(ControlKind::Quorum, 0, 0, &huge), Err(FrameError::InvalidField));
    }
}
