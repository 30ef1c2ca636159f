//! The checkpoint: where every log of a shard stood when journal space was released.

use super::{FrameError, PREFIX_BYTES, Prefix, aligned, append_fixed, checksum};
use rkyv::rancor;

/// "LMCP" read as a little-endian number.
pub const CHECKPOINT_MAGIC: u32 = u32::from_le_bytes(*b"LMCP");

/// The version that is written.
pub const CHECKPOINT_VERSION: u16 = 0;

/// A batch of an idempotent producer, for the detection of duplicates.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ProducerBatch {
    /// The first record's offset.
    pub base_offset: i64,
    /// The largest timestamp, in milliseconds.
    pub max_timestamp: i64,
    /// The first record's sequence number.
    pub first_sequence: i32,
    /// The last record's offset less the first one's.
    pub last_offset_delta: i32,
}

/// An idempotent producer, as a partition remembers it.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq, Default)]
pub struct Producer {
    /// The producer's id.
    pub producer_id: i64,
    /// Its current epoch.
    pub producer_epoch: i16,
    /// The offset of its newest record or marker.
    pub last_offset: i64,
    /// When it was last found active, in milliseconds; none if it was active after that.
    pub last_active_ms: Option<i64>,
    /// The newest batches, oldest first.
    pub batches: Vec<ProducerBatch>,
}

/// Where one log stood.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq, Default)]
pub struct LogState {
    /// The topic's identity.
    pub topic_id: [u8; 16],
    /// The partition.
    pub partition: i32,
    /// The name of the log's directory within its log directory.
    pub directory: String,
    /// The base offset that names the active segment.
    pub segment_base: i64,
    /// The end of the active segment, in bytes.
    pub end_position: u64,
    /// The first offset that may be read.
    pub log_start_offset: i64,
    /// The offset of the next record.
    pub next_offset: i64,
    /// The newest leader epoch; -1 before the first.
    pub leader_epoch: i32,
    /// Leader epochs and the offsets at which they began.
    pub epochs: Vec<(i32, i64)>,
    /// The producers that are remembered.
    pub producers: Vec<Producer>,
    /// When the active segment's first batch was appended, in milliseconds; -1 if it has none.
    pub segment_opened_at: i64,
    /// What was found damaged, if anything was: such a log is read as far as it is good, and never truncated.
    pub damage: Option<String>,
}

/// What a checkpoint file holds.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// The journal that continues from here.
    pub journal_id: [u8; 16],
    /// The first group of that journal that must be replayed over these states.
    pub replay_from_sequence: u64,
    /// One state for every log that was ever appended to.
    pub logs: Vec<LogState>,
}

/// The bytes of a checkpoint file.
///
/// # Errors
/// If the states are too large to be archived.
pub fn seal(checkpoint: &Checkpoint) -> Result<Vec<u8>, FrameError> {
    let body = rkyv::to_bytes::<rancor::Failure>(checkpoint).map_err(|_| FrameError::InvalidField)?;
    let length = (body.len() as u64).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), &body);
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + 8 + body.len());
    append_fixed(
        &mut bytes,
        &Prefix { magic: CHECKPOINT_MAGIC, version: CHECKPOINT_VERSION, reserved: 0, crc },
    );
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Reads a checkpoint file; bytes after its end are padding.
///
/// # Errors
/// If it is torn or rotten.
pub fn open(bytes: &[u8]) -> Result<Checkpoint, FrameError> {
    let crc = Prefix::check(bytes, CHECKPOINT_MAGIC, CHECKPOINT_VERSION)?;
    let rest = bytes.get(PREFIX_BYTES..).ok_or(FrameError::Truncated)?;
    let length = u64::from_le_bytes(*rest.first_chunk().ok_or(FrameError::Truncated)?);
    let end =
        usize::try_from(length).ok().and_then(|length| length.checked_add(8)).ok_or(FrameError::Truncated)?;
    let covered = rest.get(..end).ok_or(FrameError::Truncated)?;
    if checksum(&[], covered) != crc {
        return Err(FrameError::WrongChecksum);
    }
    rkyv::from_bytes::<Checkpoint, rancor::Failure>(&aligned(&covered[8..]))
        .map_err(|_| FrameError::InvalidField)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        Checkpoint {
            journal_id: [4; 16],
            replay_from_sequence: 77,
            logs: vec![LogState {
                topic_id: [9; 16],
                partition: 2,
                directory: "orders-2".into(),
                segment_base: 10,
                end_position: 12_345,
                log_start_offset: 0,
                next_offset: 40,
                leader_epoch: 3,
                epochs: vec![(0, 0), (3, 20)],
                producers: vec![Producer {
                    producer_id: 5,
                    producer_epoch: 1,
                    last_offset: 39,
                    last_active_ms: None,
                    batches: vec![ProducerBatch { base_offset: 39, ..ProducerBatch::default() }],
                }],
                segment_opened_at: 1,
                damage: None,
            }],
        }
    }

    #[test]
    fn a_checkpoint_round_trips_and_is_checked() {
        let bytes = seal(&sample()).unwrap();
        let mut padded = bytes.clone();
        padded.resize(8192, 0);
        assert_eq!(open(&padded), Ok(sample()));
        for cut in 0..bytes.len() {
            assert!(open(&bytes[..cut]).is_err());
        }
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 0x10;
            assert!(open(&rotten).is_err(), "byte {at} went unnoticed");
        }
    }

    #[test]
    fn the_bytes_of_version_0_can_be_read() {
        let hex = include_str!("fixtures/checkpoint-v0.hex").trim();
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect();
        assert_eq!(open(&bytes), Ok(sample()));
    }
}
