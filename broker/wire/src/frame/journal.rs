//! The commit journal's frames.
//!
//! A *group* is what one durable write commits: a header at the start of a page, entries back to back, and
//! zeros up to the next page. An *entry* vouches for a range of one log's bytes: inline, or as an extent that
//! was durable in its segment before the group was written.

use super::{FrameError, Prefix, aligned, append_fixed, checksum};
use crate::ids::{Offset, PartitionIndex, TopicPartition, Uuid};
use crate::limits::PAGE_BYTES;
use rkyv::rancor;

/// "LMJG" read as a little-endian number.
pub const GROUP_MAGIC: u32 = u32::from_le_bytes(*b"LMJG");

/// The version that is written.
pub const GROUP_VERSION: u16 = 0;

/// The header of a group.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GroupHeader {
    /// Magic, version, checksum over the rest of the header and the entries.
    pub prefix: Prefix,
    /// Bytes of entries that follow the header.
    pub payload_bytes: u32,
    /// The random identity of this journal file in this run: what an earlier run wrote is not ours.
    pub journal_id: [u8; 16],
    /// Rises by one with every group of the journal, from 1.
    pub sequence: u64,
    /// The page of the file where this group starts: a group found elsewhere was misdirected.
    pub page: u32,
    /// Entries that follow.
    pub entry_count: u32,
    /// The oldest group that a restart must replay.
    pub tail_sequence: u64,
}

/// Bytes of an archived [`GroupHeader`].
pub const GROUP_HEADER_BYTES: usize = size_of::<ArchivedGroupHeader>();

/// The header of an entry; inline bytes follow it.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EntryHeader {
    /// The topic's identity.
    pub topic_id: [u8; 16],
    /// The partition.
    pub partition: i32,
    /// Which of several kinds: [`KIND_INLINE`], [`KIND_EXTENT`], [`KIND_DECLARE`], [`KIND_START`] or [`KIND_STATE`].
    pub kind: u32,
    /// The base offset that names the segment.
    pub segment_base: i64,
    /// Where in the segment the bytes stand.
    pub position: u64,
    /// How many bytes.
    pub length: u32,
    /// CRC-32C of an extent's bytes; 0 for inline bytes, which the group's own checksum covers.
    pub extent_crc: u32,
}

/// Bytes of an archived [`EntryHeader`].
pub const ENTRY_HEADER_BYTES: usize = size_of::<ArchivedEntryHeader>();

/// The entry's bytes follow its header.
pub const KIND_INLINE: u32 = 1;

/// The entry's bytes are durable in the segment.
pub const KIND_EXTENT: u32 = 2;

/// The bytes that follow are the name of the log's directory: the log is not in any checkpoint yet.
pub const KIND_DECLARE: u32 = 3;

/// The log starts at the offset in `segment_base` from here on; nothing follows.
pub const KIND_START: u32 = 4;

/// The bytes that follow are all that is known of the log from here on, as [`super::checkpoint::open_state`] reads them:
/// what a checkpoint or the journal has of it before is void. `position` is the number of the first group of the write
/// cache that is of any use.
pub const KIND_STATE: u32 = 5;

const _: () = assert!(GROUP_HEADER_BYTES == 56);
const _: () = assert!(ENTRY_HEADER_BYTES == 48);
const _: () = assert!(GROUP_HEADER_BYTES + ENTRY_HEADER_BYTES < PAGE_BYTES);

/// Set beside the kind of an entry whose end is not the end of a batch: what follows the last batch was never
/// acknowledged.
pub const WITHIN_BATCH: u32 = 0x100;

/// What an entry vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Whose log.
    pub log: TopicPartition,
    /// Which of its segments, by base offset.
    pub segment_base: Offset,
    /// The first byte's position in the segment.
    pub position: u64,
    /// How many bytes.
    pub length: u32,
    /// Whether the range ends within a batch.
    pub within_batch: bool,
}

/// An entry of a group, decoded in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// The bytes themselves.
    Inline(Range, &'a [u8]),
    /// Bytes that are in the segment, and their CRC-32C.
    Extent(Range, u32),
    /// The name of the directory of a log that no checkpoint knows.
    Declare(TopicPartition, &'a [u8]),
    /// The log's records before this offset were deleted.
    Start(TopicPartition, Offset),
    /// The log was cut: this is its state from here on, and the write cache is of use from the group of this number on.
    State(TopicPartition, u64, &'a [u8]),
}

/// Writes the header of an inline entry, whose bytes must follow, to the first [`ENTRY_HEADER_BYTES`] of `into`.
///
/// # Panics
/// If `into` is shorter.
#[inline]
pub fn write_inline_header(into: &mut [u8], range: &Range) {
    header_of(range, KIND_INLINE, 0).write_to(into);
}

/// Appends the header of an inline entry, whose bytes must follow.
pub fn append_inline_header(into: &mut Vec<u8>, range: &Range) {
    append_header(into, range, KIND_INLINE, 0);
}

/// Appends the entry of an extent whose bytes have this CRC-32C.
pub fn append_extent(into: &mut Vec<u8>, range: &Range, crc: u32) {
    append_header(into, range, KIND_EXTENT, crc);
}

/// Appends the entry that names a log's directory.
pub fn append_declare(into: &mut Vec<u8>, log: TopicPartition, directory: &str) {
    let length = directory.len() as u32;
    let range = Range { log, segment_base: Offset(0), position: 0, length, within_batch: false };
    append_header(into, &range, KIND_DECLARE, 0);
    into.extend_from_slice(directory.as_bytes());
}

/// Appends the entry that moves a log's start.
pub fn append_start(into: &mut Vec<u8>, log: TopicPartition, start: Offset) {
    let range = Range { log, segment_base: start, position: 0, length: 0, within_batch: false };
    append_header(into, &range, KIND_START, 0);
}

/// Appends the entry with all that is known of a log from here on.
pub fn append_state(into: &mut Vec<u8>, log: TopicPartition, written_from_sequence: u64, state: &[u8]) {
    let (position, length) = (written_from_sequence, state.len() as u32);
    let range = Range { log, segment_base: Offset(0), position, length, within_batch: false };
    append_header(into, &range, KIND_STATE, 0);
    into.extend_from_slice(state);
}

fn append_header(into: &mut Vec<u8>, range: &Range, kind: u32, extent_crc: u32) {
    let mut bytes = [0; ENTRY_HEADER_BYTES];
    header_of(range, kind, extent_crc).write_to(&mut bytes);
    into.extend_from_slice(&bytes);
}

#[inline]
const fn header_of(range: &Range, kind: u32, extent_crc: u32) -> EntryHeader {
    EntryHeader {
        topic_id: range.log.topic_id.0,
        partition: range.log.partition.0,
        kind: if range.within_batch { kind | WITHIN_BATCH } else { kind },
        segment_base: range.segment_base.0,
        position: range.position,
        length: range.length,
        extent_crc,
    }
}

impl EntryHeader {
    /// Writes the archived form: a group has as many entries as logs, and their fields back to back, little endian, are
    /// all of it.
    #[inline]
    fn write_to(&self, into: &mut [u8]) {
        let into = &mut into[..ENTRY_HEADER_BYTES];
        into[..16].copy_from_slice(&self.topic_id);
        into[16..20].copy_from_slice(&self.partition.to_le_bytes());
        into[20..24].copy_from_slice(&self.kind.to_le_bytes());
        into[24..32].copy_from_slice(&self.segment_base.to_le_bytes());
        into[32..40].copy_from_slice(&self.position.to_le_bytes());
        into[40..44].copy_from_slice(&self.length.to_le_bytes());
        into[44..].copy_from_slice(&self.extent_crc.to_le_bytes());
    }
}

/// The bytes of a group's header, for entries that are already encoded.
#[must_use]
pub fn seal_group(header: GroupHeader, payload: &[u8]) -> [u8; GROUP_HEADER_BYTES] {
    seal_group_summed(header, payload.len(), |crc| crc32c::crc32c_append(crc, payload))
}

/// The bytes of a group's header, for entries that are already encoded: `payload_bytes` of them, over which `sum` goes on
/// with a CRC-32C.
#[must_use]
pub fn seal_group_summed(
    mut header: GroupHeader,
    payload_bytes: usize,
    sum: impl FnOnce(u32) -> u32,
) -> [u8; GROUP_HEADER_BYTES] {
    header.prefix = Prefix { magic: GROUP_MAGIC, version: GROUP_VERSION, reserved: 0, crc: 0 };
    header.payload_bytes = u32::try_from(payload_bytes).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(GROUP_HEADER_BYTES);
    append_fixed(&mut bytes, &header);
    header.prefix.crc = sum(checksum(&bytes, &[]));
    bytes.clear();
    append_fixed(&mut bytes, &header);
    let mut sealed = [0; GROUP_HEADER_BYTES];
    sealed.copy_from_slice(&bytes);
    sealed
}

/// Decodes the group that starts at `bytes[0]`, and checks all of it.
///
/// # Errors
/// If the bytes are not a whole, intact group. A group of another journal is not an error: compare
/// [`GroupHeader::journal_id`].
pub fn open_group(bytes: &[u8]) -> Result<(GroupHeader, &[u8]), FrameError> {
    let crc = Prefix::check(bytes, GROUP_MAGIC, GROUP_VERSION)?;
    let header_bytes = bytes.get(..GROUP_HEADER_BYTES).ok_or(FrameError::Truncated)?;
    let header = rkyv::from_bytes::<GroupHeader, rancor::Failure>(&aligned(header_bytes))
        .map_err(|_| FrameError::InvalidField)?;
    let end = GROUP_HEADER_BYTES.checked_add(header.payload_bytes as usize).ok_or(FrameError::Truncated)?;
    let payload = bytes.get(GROUP_HEADER_BYTES..end).ok_or(FrameError::Truncated)?;
    if checksum(header_bytes, payload) != crc {
        return Err(FrameError::WrongChecksum);
    }
    Ok((header, payload))
}

/// The entries of a group's payload.
pub fn entries(payload: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, FrameError>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match next_entry(rest) {
            Ok((entry, after)) => {
                rest = after;
                Some(Ok(entry))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}

fn next_entry(bytes: &[u8]) -> Result<(Entry<'_>, &[u8]), FrameError> {
    let (header_bytes, rest) = bytes.split_at_checked(ENTRY_HEADER_BYTES).ok_or(FrameError::Truncated)?;
    let header = rkyv::from_bytes::<EntryHeader, rancor::Failure>(&aligned(header_bytes))
        .map_err(|_| FrameError::InvalidField)?;
    let range = Range {
        log: TopicPartition { topic_id: Uuid(header.topic_id), partition: PartitionIndex(header.partition) },
        segment_base: Offset(header.segment_base),
        position: header.position,
        length: header.length,
        within_batch: header.kind & WITHIN_BATCH != 0,
    };
    let kind = header.kind & !WITHIN_BATCH;
    match kind {
        KIND_INLINE | KIND_DECLARE | KIND_STATE => {
            let (inline, after) =
                rest.split_at_checked(header.length as usize).ok_or(FrameError::Truncated)?;
            let entry = match kind {
                KIND_DECLARE => Entry::Declare(range.log, inline),
                KIND_STATE => Entry::State(range.log, range.position, inline),
                _ => Entry::Inline(range, inline),
            };
            Ok((entry, after))
        }
        KIND_EXTENT => Ok((Entry::Extent(range, header.extent_crc), rest)),
        KIND_START if header.segment_base >= 0 => Ok((Entry::Start(range.log, range.segment_base), rest)),
        _ => Err(FrameError::InvalidField),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (GroupHeader, Vec<u8>) {
        let log = TopicPartition { topic_id: Uuid([7; 16]), partition: PartitionIndex(3) };
        let mut payload = Vec::new();
        append_inline_header(
            &mut payload,
            &Range { log, segment_base: Offset(9), position: 4096, length: 5, within_batch: true },
        );
        payload.extend_from_slice(b"hello");
        let extent =
            Range { log, segment_base: Offset(9), position: 8192, length: 4096, within_batch: false };
        append_extent(&mut payload, &extent, 0xdead_beef);
        let header = GroupHeader {
            journal_id: [1; 16],
            sequence: 12,
            page: 4,
            entry_count: 2,
            tail_sequence: 10,
            ..GroupHeader::default()
        };
        (header, payload)
    }

    #[test]
    fn an_entry_header_is_written_as_it_is_archived() {
        let header = EntryHeader {
            topic_id: std::array::from_fn(|at| at as u8 + 1),
            partition: -0x0102_0304,
            kind: KIND_EXTENT | WITHIN_BATCH,
            segment_base: 0x1112_1314_1516_1718,
            position: 0x2122_2324_2526_2728,
            length: 0x3132_3334,
            extent_crc: 0x4142_4344,
        };
        let mut archived = Vec::new();
        append_fixed(&mut archived, &header);
        let mut written = [0; ENTRY_HEADER_BYTES];
        header.write_to(&mut written);
        assert_eq!(archived, written);
    }

    #[test]
    fn a_group_round_trips() {
        let (header, payload) = sample();
        let mut bytes = seal_group(header, &payload).to_vec();
        bytes.extend_from_slice(&payload);
        let (opened, body) = open_group(&bytes).unwrap();
        assert_eq!((opened.sequence, opened.page, opened.tail_sequence), (12, 4, 10));
        let found: Vec<_> = entries(body).collect::<Result<_, _>>().unwrap();
        assert_eq!(found.len(), 2);
        assert!(
            matches!(found[0], Entry::Inline(range, b"hello") if range.position == 4096 && range.within_batch)
        );
        assert!(matches!(found[1], Entry::Extent(range, 0xdead_beef) if range.length == 4096));
    }

    #[test]
    fn the_bytes_of_version_0_are_fixed() {
        let (header, payload) = sample();
        let mut bytes = seal_group(header, &payload).to_vec();
        bytes.extend_from_slice(&payload);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("fixtures/journal-group-v0.hex").trim());
    }

    #[test]
    fn a_start_is_an_entry_without_bytes() {
        let log = TopicPartition { topic_id: Uuid([7; 16]), partition: PartitionIndex(3) };
        let mut payload = Vec::new();
        append_start(&mut payload, log, Offset(1234));
        append_declare(&mut payload, log, "orders-3");
        let found: Vec<_> = entries(&payload).collect::<Result<_, _>>().unwrap();
        assert_eq!(found, [Entry::Start(log, Offset(1234)), Entry::Declare(log, b"orders-3")]);
        let mut negative = Vec::new();
        append_start(&mut negative, log, Offset(-1));
        assert!(entries(&negative).any(|entry| entry.is_err()));
    }

    #[test]
    fn the_bytes_of_an_entry_with_a_state_are_fixed() {
        let log = TopicPartition { topic_id: Uuid([7; 16]), partition: PartitionIndex(3) };
        let mut payload = Vec::new();
        append_state(&mut payload, log, 42, b"a state");
        append_start(&mut payload, log, Offset(5));
        let found: Vec<_> = entries(&payload).collect::<Result<_, _>>().unwrap();
        assert_eq!(found, [Entry::State(log, 42, b"a state"), Entry::Start(log, Offset(5))]);
        let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("fixtures/journal-state-v0.hex").trim());
        assert!(entries(&payload[..ENTRY_HEADER_BYTES + 3]).any(|entry| entry.is_err()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (header, payload) = sample();
        let mut bytes = seal_group(header, &payload).to_vec();
        bytes.extend_from_slice(&payload);
        for bit in 0..bytes.len() * 8 {
            let mut copy = bytes.clone();
            copy[bit / 8] ^= 1 << (bit % 8);
            assert!(open_group(&copy).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn entries_beyond_the_payload_are_errors() {
        let (_, payload) = sample();
        for end in 1..payload.len() {
            if end == ENTRY_HEADER_BYTES + 5 {
                continue;
            }
            assert!(entries(&payload[..end]).any(|entry| entry.is_err()), "cut at {end}");
        }
    }
}
