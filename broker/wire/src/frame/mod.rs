//! Logmill's own frames: rkyv headers of fixed size, little endian and without alignment, so that their size
//! can be checked when the project is compiled and they can be read in place.
//!
//! Every durable frame starts with a magic and a version, and a CRC-32C that covers all that follows it; what
//! hosts send one another starts with the prefix of [`prefix`].

pub mod checkpoint;
pub mod control;
pub mod control_link;
pub mod index;
pub mod journal;
pub mod prefix;
pub mod quorum;
pub mod replication;

use rkyv::rancor;
use rkyv::ser::allocator::SubAllocator;
use rkyv::util::AlignedVec;

/// Why bytes are not a frame of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Fewer bytes than the frame needs.
    Truncated,
    /// They do not start with the frame's magic.
    WrongMagic,
    /// The version is not one that this program reads.
    UnknownVersion(u16),
    /// The checksum is not that of the bytes.
    WrongChecksum,
    /// A field has a value that the frame does not allow.
    InvalidField,
}

/// Bytes of magic, version, reserved bits and checksum, which every header starts with.
pub const PREFIX_BYTES: usize = 12;

type FixedSerializer<'a> = rkyv::api::low::LowSerializer<Vec<u8>, SubAllocator<'a>, rancor::Failure>;

/// Appends the archived form of a header of fixed size.
pub(crate) fn append_fixed<T>(into: &mut Vec<u8>, value: &T)
where
    T: for<'a> rkyv::Serialize<FixedSerializer<'a>>,
{
    let buffer = std::mem::take(into);
    // A header of fixed size has nothing that could need scratch space or fail to be written to a vector.
    *into =
        rkyv::api::low::to_bytes_in_with_alloc(value, buffer, SubAllocator::new(&mut [])).unwrap_or_default();
}

/// Copies bytes to where archived data of any alignment can be read.
pub(crate) fn aligned(bytes: &[u8]) -> AlignedVec {
    let mut copy = AlignedVec::with_capacity(bytes.len());
    copy.extend_from_slice(bytes);
    copy
}

/// The checksum of a frame whose prefix stands at the start of `header`, followed by `rest`.
pub(crate) fn checksum(header: &[u8], rest: &[u8]) -> u32 {
    let covered = header.get(PREFIX_BYTES..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(covered), rest)
}

/// Magic, version and checksum of every frame.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Prefix {
    /// Which kind of frame.
    pub magic: u32,
    /// Which version of it.
    pub version: u16,
    /// Zero.
    pub reserved: u16,
    /// CRC-32C of everything after the prefix.
    pub crc: u32,
}

const _: () = assert!(size_of::<ArchivedPrefix>() == PREFIX_BYTES);

impl Prefix {
    /// Reads and checks magic and version.
    pub(crate) fn check(bytes: &[u8], magic: u32, version: u16) -> Result<u32, FrameError> {
        let word = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)) };
        let found = word(0).ok_or(FrameError::Truncated)?;
        if found != magic {
            return Err(FrameError::WrongMagic);
        }
        let second = word(4).ok_or(FrameError::Truncated)?;
        let (found_version, reserved) = ((second & 0xffff) as u16, second >> 16);
        if found_version != version {
            return Err(FrameError::UnknownVersion(found_version));
        }
        if reserved != 0 {
            return Err(FrameError::InvalidField);
        }
        word(8).ok_or(FrameError::Truncated)
    }
}
