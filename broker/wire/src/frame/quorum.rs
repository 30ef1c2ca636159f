//! The metadata quorum's frames: those between its nodes, and those of its durable state.
//!
//! A frame between nodes is a header of fixed size, whose checksum stands in its prefix, and a payload with a checksum of
//! its own. Its first byte has the highest bit set, which in Kafka's framing would begin a negative size: both protocols
//! can share a port.

use super::prefix::peer_magic;
use super::{FrameError, Prefix, aligned, append_fixed, checksum};
use rkyv::rancor;

/// What every magic between hosts begins with, and "MQF", read as a little-endian number.
pub const QUORUM_MAGIC: u32 = u32::from_le_bytes(peer_magic(*b"MQF"));

/// "LMQI" read as a little-endian number.
pub const IDENTITY_MAGIC: u32 = u32::from_le_bytes(*b"LMQI");

/// "LMQS" read as a little-endian number.
pub const SNAPSHOT_MAGIC: u32 = u32::from_le_bytes(*b"LMQS");

/// The version that is written, of all of them.
pub const QUORUM_VERSION: u16 = 0;

/// The largest payload of a frame between nodes, in bytes.
pub const QUORUM_PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// The header of a frame between nodes. What a kind has no use for is zero.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct QuorumHeader {
    /// Magic, version, checksum over the rest of the header.
    pub prefix: Prefix,
    /// Bytes that follow the header.
    pub payload_bytes: u32,
    /// CRC-32C of those bytes.
    pub payload_crc: u32,
    /// What is said: one of the constants of [`kind`].
    pub kind: u16,
    /// [`FLAG_REJECT`] or [`FLAG_FRESH`].
    pub flags: u16,
    /// Log entries in the payload.
    pub entry_count: u32,
    /// The cluster; zero where the sender belongs to none yet.
    pub cluster_id: [u8; 16],
    /// Who sends.
    pub from_node: i32,
    /// Who shall receive.
    pub to_node: i32,
    /// The sender's directory id (KIP-853).
    pub from_directory: [u8; 16],
    /// The directory id that the sender knows the receiver by; zero for whichever it has.
    pub to_directory: [u8; 16],
    /// The leader that the sender knows of; -1 for none.
    pub leader_node: i32,
    /// The sender's term, or the one it stands for.
    pub term: u64,
    /// The term of the entry at `index`.
    pub log_term: u64,
    /// A place in the log.
    pub index: u64,
    /// The commit index; the whole length of a snapshot.
    pub commit: u64,
    /// The term of the entry at `commit`; the CRC-32C of a whole snapshot.
    pub commit_term: u64,
    /// Where a follower thinks that the logs part; a position within a snapshot.
    pub hint: u64,
}

/// Bytes of an archived [`QuorumHeader`].
pub const QUORUM_HEADER_BYTES: usize = size_of::<ArchivedQuorumHeader>();

const _: () = assert!(QUORUM_HEADER_BYTES == 136);

/// The answer is no.
pub const FLAG_REJECT: u16 = 1;

/// The sender has no state of any quorum.
pub const FLAG_FRESH: u16 = 2;

/// What frames between nodes say.
pub mod kind {
    /// A leader's entries after `index`, or none of them, and its commit index.
    pub const APPEND: u16 = 1;
    /// How far the follower has them durably, or where the logs part.
    pub const APPEND_RESPONSE: u16 = 2;
    /// A candidate asks for a vote.
    pub const VOTE: u16 = 3;
    /// The vote.
    pub const VOTE_RESPONSE: u16 = 4;
    /// A voter asks whether it would get votes.
    pub const PRE_VOTE: u16 = 5;
    /// Whether it would.
    pub const PRE_VOTE_RESPONSE: u16 = 6;
    /// The leader is there.
    pub const HEARTBEAT: u16 = 7;
    /// The follower is, too.
    pub const HEARTBEAT_RESPONSE: u16 = 8;
    /// The leader offers a snapshot.
    pub const SNAPSHOT: u16 = 9;
    /// A node asks for the snapshot's bytes from `hint` on.
    pub const SNAPSHOT_FETCH: u16 = 10;
    /// Those bytes.
    pub const SNAPSHOT_CHUNK: u16 = 11;
    /// A node wants to belong to the quorum, as a voter of a new one or as an observer.
    pub const HELLO: u16 = 12;
    /// What the node that was asked knows.
    pub const HELLO_REPLY: u16 = 13;
}

/// The bytes of a frame between nodes.
#[must_use]
pub fn seal_quorum_frame(mut header: QuorumHeader, payload: &[u8]) -> Vec<u8> {
    header.prefix = Prefix { magic: QUORUM_MAGIC, version: QUORUM_VERSION, reserved: 0, crc: 0 };
    header.payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    header.payload_crc = crc32c::crc32c(payload);
    let mut bytes = Vec::with_capacity(QUORUM_HEADER_BYTES + payload.len());
    append_fixed(&mut bytes, &header);
    let crc = checksum(&bytes, &[]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads the header that stands at the start of `bytes`, which tells a stream's reader how many bytes follow.
///
/// # Errors
/// If it is not whole and intact, or announces more than [`QUORUM_PAYLOAD_BYTES_MAX`].
pub fn open_quorum_header(bytes: &[u8]) -> Result<QuorumHeader, FrameError> {
    let crc = Prefix::check(bytes, QUORUM_MAGIC, QUORUM_VERSION)?;
    let header_bytes = bytes.get(..QUORUM_HEADER_BYTES).ok_or(FrameError::Truncated)?;
    if checksum(header_bytes, &[]) != crc {
        return Err(FrameError::WrongChecksum);
    }
    let header = rkyv::from_bytes::<QuorumHeader, rancor::Failure>(&aligned(header_bytes))
        .map_err(|_| FrameError::InvalidField)?;
    if header.payload_bytes as usize > QUORUM_PAYLOAD_BYTES_MAX {
        return Err(FrameError::InvalidField);
    }
    Ok(header)
}

/// Decodes one whole frame between nodes and checks all of it.
///
/// # Errors
/// If the bytes are not one whole, intact frame.
pub fn open_quorum_frame(bytes: &[u8]) -> Result<(QuorumHeader, &[u8]), FrameError> {
    let header = open_quorum_header(bytes)?;
    let payload = bytes.get(QUORUM_HEADER_BYTES..).ok_or(FrameError::Truncated)?;
    match payload.len().cmp(&(header.payload_bytes as usize)) {
        std::cmp::Ordering::Less => return Err(FrameError::Truncated),
        std::cmp::Ordering::Greater => return Err(FrameError::InvalidField),
        std::cmp::Ordering::Equal => {}
    }
    if crc32c::crc32c(payload) != header.payload_crc {
        return Err(FrameError::WrongChecksum);
    }
    Ok((header, payload))
}

/// The header of an item of the quorum's log, on its way between nodes and in the journal; its bytes follow it.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ItemHeader {
    /// One of [`ITEM_RECORDS`], [`ITEM_MEMBERS`], [`ITEM_HARD_STATE`] and [`ITEM_SNAPSHOT`].
    pub kind: u32,
    /// Bytes that follow.
    pub length: u32,
    /// The entry's term, the snapshot's, or the current one.
    pub term: u64,
    /// The entry's index, the snapshot's, or the commit index.
    pub index: u64,
    /// The vote of a hard state; otherwise 0.
    pub vote: u64,
}

/// Bytes of an archived [`ItemHeader`].
pub const ITEM_HEADER_BYTES: usize = size_of::<ArchivedItemHeader>();

const _: () = assert!(ITEM_HEADER_BYTES == 32);

/// A log entry of metadata records.
pub const ITEM_RECORDS: u32 = 1;

/// A log entry that changes the quorum's members.
pub const ITEM_MEMBERS: u32 = 2;

/// Term, vote and commit index.
pub const ITEM_HARD_STATE: u32 = 3;

/// The log begins behind this snapshot; what the journal said before counts no more.
pub const ITEM_SNAPSHOT: u32 = 4;

/// Appends an item and its bytes.
pub fn append_item(into: &mut Vec<u8>, mut header: ItemHeader, bytes: &[u8]) {
    header.length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    append_fixed(into, &header);
    into.extend_from_slice(bytes);
}

/// The items of a payload; after an error there are no more.
pub fn items(payload: &[u8]) -> impl Iterator<Item = Result<(ItemHeader, &[u8]), FrameError>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let found = next_item(rest);
        rest = found.as_ref().map_or(&[], |(_, _, after)| after);
        Some(found.map(|(header, bytes, _)| (header, bytes)))
    })
}

fn next_item(bytes: &[u8]) -> Result<(ItemHeader, &[u8], &[u8]), FrameError> {
    let (header_bytes, rest) = bytes.split_at_checked(ITEM_HEADER_BYTES).ok_or(FrameError::Truncated)?;
    let header = rkyv::from_bytes::<ItemHeader, rancor::Failure>(&aligned(header_bytes))
        .map_err(|_| FrameError::InvalidField)?;
    if !(ITEM_RECORDS..=ITEM_SNAPSHOT).contains(&header.kind) {
        return Err(FrameError::InvalidField);
    }
    let (item, after) = rest.split_at_checked(header.length as usize).ok_or(FrameError::Truncated)?;
    Ok((header, item, after))
}

/// Names the journal of a quorum's durable state: without it, the node is fresh.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct IdentityHeader {
    /// Magic, version, checksum over the rest.
    pub prefix: Prefix,
    /// Zero.
    pub reserved: u32,
    /// The identity of the journal.
    pub journal_id: [u8; 16],
    /// The cluster.
    pub cluster_id: [u8; 16],
    /// The directory that the state belongs to: a copy elsewhere is not a voter.
    pub directory_id: [u8; 16],
}

/// Bytes of an archived [`IdentityHeader`].
pub const IDENTITY_BYTES: usize = size_of::<ArchivedIdentityHeader>();

const _: () = assert!(IDENTITY_BYTES == 64);

/// The bytes of an identity.
#[must_use]
pub fn seal_identity(mut header: IdentityHeader) -> Vec<u8> {
    header.prefix = Prefix { magic: IDENTITY_MAGIC, version: QUORUM_VERSION, reserved: 0, crc: 0 };
    let mut bytes = Vec::with_capacity(IDENTITY_BYTES);
    append_fixed(&mut bytes, &header);
    let crc = checksum(&bytes, &[]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads an identity; what follows it is padding.
///
/// # Errors
/// If it is not whole and intact.
pub fn open_identity(bytes: &[u8]) -> Result<IdentityHeader, FrameError> {
    let crc = Prefix::check(bytes, IDENTITY_MAGIC, QUORUM_VERSION)?;
    let bytes = bytes.get(..IDENTITY_BYTES).ok_or(FrameError::Truncated)?;
    if checksum(bytes, &[]) != crc {
        return Err(FrameError::WrongChecksum);
    }
    rkyv::from_bytes::<IdentityHeader, rancor::Failure>(&aligned(bytes)).map_err(|_| FrameError::InvalidField)
}

/// The header of a snapshot; the members and the records follow it.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SnapshotHeader {
    /// Magic, version, checksum over the rest of the header and what follows.
    pub prefix: Prefix,
    /// Bytes of members.
    pub member_bytes: u32,
    /// Bytes of records, behind the members.
    pub record_bytes: u64,
    /// The last index that the snapshot stands for.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// A digest of all entries up to there: the same on every node.
    pub digest: u64,
}

/// Bytes of an archived [`SnapshotHeader`].
pub const SNAPSHOT_HEADER_BYTES: usize = size_of::<ArchivedSnapshotHeader>();

const _: () = assert!(SNAPSHOT_HEADER_BYTES == 48);

/// The bytes of a snapshot: place, term and digest are the header's.
#[must_use]
pub fn seal_snapshot(mut header: SnapshotHeader, members: &[u8], records: &[u8]) -> Vec<u8> {
    header = SnapshotHeader {
        prefix: Prefix { magic: SNAPSHOT_MAGIC, version: QUORUM_VERSION, reserved: 0, crc: 0 },
        member_bytes: u32::try_from(members.len()).unwrap_or(u32::MAX),
        record_bytes: records.len() as u64,
        ..header
    };
    let mut bytes = Vec::with_capacity(SNAPSHOT_HEADER_BYTES + members.len() + records.len());
    append_fixed(&mut bytes, &header);
    bytes.extend_from_slice(members);
    bytes.extend_from_slice(records);
    let crc = checksum(&bytes, &[]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads a snapshot: its header, members and records. What follows is padding.
///
/// # Errors
/// If it is not whole and intact.
pub fn open_snapshot(bytes: &[u8]) -> Result<(SnapshotHeader, &[u8], &[u8]), FrameError> {
    let crc = Prefix::check(bytes, SNAPSHOT_MAGIC, QUORUM_VERSION)?;
    let header_bytes = bytes.get(..SNAPSHOT_HEADER_BYTES).ok_or(FrameError::Truncated)?;
    let header = rkyv::from_bytes::<SnapshotHeader, rancor::Failure>(&aligned(header_bytes))
        .map_err(|_| FrameError::InvalidField)?;
    let record_bytes = usize::try_from(header.record_bytes).map_err(|_| FrameError::Truncated)?;
    let members_end =
        SNAPSHOT_HEADER_BYTES.checked_add(header.member_bytes as usize).ok_or(FrameError::Truncated)?;
    let end = members_end.checked_add(record_bytes).ok_or(FrameError::Truncated)?;
    let whole = bytes.get(..end).ok_or(FrameError::Truncated)?;
    if checksum(whole, &[]) != crc {
        return Err(FrameError::WrongChecksum);
    }
    Ok((header, &whole[SNAPSHOT_HEADER_BYTES..members_end], &whole[members_end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut payload = Vec::new();
        append_item(
            &mut payload,
            ItemHeader { kind: ITEM_RECORDS, term: 7, index: 12, ..ItemHeader::default() },
            b"hello",
        );
        append_item(
            &mut payload,
            ItemHeader { kind: ITEM_MEMBERS, term: 8, index: 13, ..ItemHeader::default() },
            b"",
        );
        let header = QuorumHeader {
            kind: kind::APPEND,
            entry_count: 2,
            cluster_id: [1; 16],
            from_node: 2,
            to_node: 3,
            from_directory: [4; 16],
            to_directory: [5; 16],
            leader_node: 2,
            term: 8,
            log_term: 7,
            index: 11,
            commit: 10,
            commit_term: 6,
            hint: 9,
            ..QuorumHeader::default()
        };
        seal_quorum_frame(header, &payload)
    }

    /// A generator that is good enough for mutations.
    fn next(state: &mut u64) -> usize {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn version_0_is_what_the_fixture_holds() {
        let identity = seal_identity(IdentityHeader {
            journal_id: [1; 16],
            cluster_id: [2; 16],
            directory_id: [3; 16],
            ..IdentityHeader::default()
        });
        let snapshot = seal_snapshot(
            SnapshotHeader { index: 12, term: 7, digest: 5, ..SnapshotHeader::default() },
            b"members",
            b"records",
        );
        let found = format!("{}\n{}\n{}\n", hex(&sample()), hex(&identity), hex(&snapshot));
        assert_eq!(found, include_str!("fixtures/quorum-v0.hex"));
    }

    #[test]
    fn a_frame_is_read_back() {
        let bytes = sample();
        assert!((bytes[0] as i8) < 0, "Kafka would read a negative size");
        let (header, payload) = open_quorum_frame(&bytes).unwrap();
        assert_eq!((header.kind, header.term, header.hint, header.to_node), (kind::APPEND, 8, 9, 3));
        let found: Vec<_> = items(payload).collect::<Result<_, _>>().unwrap();
        assert_eq!(found.len(), header.entry_count as usize);
        assert_eq!((found[0].0.index, found[0].1), (12, &b"hello"[..]));
        assert_eq!((found[1].0.kind, found[1].1), (ITEM_MEMBERS, &b""[..]));
        let snapshot = seal_snapshot(
            SnapshotHeader { index: 12, term: 7, digest: 5, ..SnapshotHeader::default() },
            b"members",
            b"records",
        );
        let mut padded = snapshot.clone();
        padded.resize(4096, 0);
        let (header, members, records) = open_snapshot(&padded).unwrap();
        assert_eq!((header.index, members, records), (12, &b"members"[..], &b"records"[..]));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let identity = seal_identity(IdentityHeader::default());
        let snapshot = seal_snapshot(
            SnapshotHeader { index: 12, term: 7, digest: 5, ..SnapshotHeader::default() },
            b"members",
            b"records",
        );
        let frame = sample();
        for (bytes, is_open) in [
            (&frame, (|bytes| open_quorum_frame(bytes).is_ok()) as fn(&[u8]) -> bool),
            (&identity, |bytes| open_identity(bytes).is_ok()),
            (&snapshot, |bytes| open_snapshot(bytes).is_ok()),
        ] {
            assert!(is_open(bytes));
            for bit in 0..bytes.len() * 8 {
                let mut copy = bytes.clone();
                copy[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_open(&copy), "bit {bit} went unnoticed");
            }
            for end in 0..bytes.len() {
                assert!(!is_open(&bytes[..end]), "cut at {end}");
            }
        }
    }

    #[test]
    fn a_frame_has_nothing_behind_it_and_is_not_too_large() {
        let mut bytes = sample();
        bytes.push(0);
        assert_eq!(open_quorum_frame(&bytes), Err(FrameError::InvalidField));
        // A header that announces 4 GiB, with a checksum that is right.
        let mut huge = sample()[..QUORUM_HEADER_BYTES].to_vec();
        huge[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let crc = checksum(&huge, &[]);
        huge[8..12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(open_quorum_header(&huge), Err(FrameError::InvalidField));
        assert_eq!(
            open_quorum_frame(&seal_quorum_frame(QuorumHeader::default(), &[]))
                .map(|(header, _)| header.kind),
            Ok(0)
        );
    }

    #[test]
    fn mutated_items_neither_panic_nor_reach_beyond_their_payload() {
        let frame = sample();
        let (_, payload) = open_quorum_frame(&frame).unwrap();
        let mut state = 1;
        let mut refused = 0;
        for _ in 0..20_000 {
            let mut copy = payload.to_vec();
            for _ in 0..=next(&mut state) % 4 {
                let place = next(&mut state) % copy.len();
                copy[place] = next(&mut state) as u8;
            }
            copy.truncate(next(&mut state) % (copy.len() + 1));
            let found: Vec<_> = items(&copy).collect();
            let bytes: usize = found.iter().flatten().map(|(_, bytes)| bytes.len() + ITEM_HEADER_BYTES).sum();
            assert!(bytes <= copy.len());
            refused += usize::from(found.iter().any(Result::is_err));
        }
        assert!(refused > 10_000, "only {refused} were refused");
    }
}
