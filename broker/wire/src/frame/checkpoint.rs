//! The checkpoint: where every log of a shard stood when journal space was released.

use super::{FrameError, PREFIX_BYTES, Prefix, aligned, append_fixed};
use rkyv::rancor;

/// "LMCP" read as a little-endian number.
pub const CHECKPOINT_MAGIC: u32 = u32::from_le_bytes(*b"LMCP");

/// The version that is written.
pub const CHECKPOINT_VERSION: u16 = 1;

/// The version of a single state that is written.
pub const STATE_VERSION: u32 = 0;

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
    /// What was put into the write cache before the group of this number is of no use: it is durable elsewhere, or was
    /// cut off.
    pub written_from_sequence: u64,
    /// One state for every log that was ever appended to.
    pub logs: Vec<LogState>,
}

/// What a checkpoint file of version 0 holds.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct CheckpointV0 {
    journal_id: [u8; 16],
    replay_from_sequence: u64,
    logs: Vec<LogState>,
}

/// The bytes of one log's state, as an entry of the journal has them.
///
/// # Errors
/// If the state is too large to be archived.
pub fn seal_state(state: &LogState) -> Result<Vec<u8>, FrameError> {
    let body = rkyv::to_bytes::<rancor::Failure>(state).map_err(|_| FrameError::InvalidField)?;
    let mut bytes = Vec::with_capacity(size_of::<u32>() + body.len());
    bytes.extend_from_slice(&STATE_VERSION.to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Reads one log's state. Its bytes have no checksum of their own.
///
/// # Errors
/// If it is of another version, or no state.
pub fn open_state(bytes: &[u8]) -> Result<LogState, FrameError> {
    let (version, body) = bytes.split_first_chunk::<4>().ok_or(FrameError::Truncated)?;
    if u32::from_le_bytes(*version) != STATE_VERSION {
        return Err(FrameError::InvalidField);
    }
    rkyv::from_bytes::<LogState, rancor::Failure>(&aligned(body)).map_err(|_| FrameError::InvalidField)
}

/// The bytes of a checkpoint file.
///
/// # Errors
/// If the states are too large to be archived.
pub fn seal(checkpoint: &Checkpoint) -> Result<Vec<u8>, FrameError> {
    let body = rkyv::to_bytes::<rancor::Failure>(checkpoint).map_err(|_| FrameError::InvalidField)?;
    let length = (body.len() as u64).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(version_crc(CHECKPOINT_VERSION), &length), &body);
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + 8 + body.len());
    append_fixed(
        &mut bytes,
        &Prefix { magic: CHECKPOINT_MAGIC, version: CHECKPOINT_VERSION, reserved: 0, crc },
    );
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// What the checksum of a version begins with: one version must not pass for another because of a flipped bit.
fn version_crc(version: u16) -> u32 {
    if version == 0 { 0 } else { crc32c::crc32c(&version.to_le_bytes()) }
}

/// Reads a checkpoint file; bytes after its end are padding.
///
/// # Errors
/// If it is torn or rotten.
pub fn open(bytes: &[u8]) -> Result<Checkpoint, FrameError> {
    let is_v0 = Prefix::check(bytes, CHECKPOINT_MAGIC, 0).is_ok();
    let version = if is_v0 { 0 } else { CHECKPOINT_VERSION };
    let crc = Prefix::check(bytes, CHECKPOINT_MAGIC, version)?;
    let rest = bytes.get(PREFIX_BYTES..).ok_or(FrameError::Truncated)?;
    let length = u64::from_le_bytes(*rest.first_chunk().ok_or(FrameError::Truncated)?);
    let end =
        usize::try_from(length).ok().and_then(|length| length.checked_add(8)).ok_or(FrameError::Truncated)?;
    let covered = rest.get(..end).ok_or(FrameError::Truncated)?;
    if crc32c::crc32c_append(version_crc(version), covered) != crc {
        return Err(FrameError::WrongChecksum);
    }
    let body = aligned(&covered[8..]);
    if is_v0 {
        let v0 = rkyv::from_bytes::<CheckpointV0, rancor::Failure>(&body);
        let CheckpointV0 { journal_id, replay_from_sequence, logs } =
            v0.map_err(|_| FrameError::InvalidField)?;
        return Ok(Checkpoint { journal_id, replay_from_sequence, written_from_sequence: 0, logs });
    }
    rkyv::from_bytes::<Checkpoint, rancor::Failure>(&body).map_err(|_| FrameError::InvalidField)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        Checkpoint {
            journal_id: [4; 16],
            replay_from_sequence: 77,
            written_from_sequence: 31,
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
            rotten[at] ^= 1 << (at % 8);
            assert!(open(&rotten).is_err(), "byte {at} went unnoticed");
            rotten = bytes.clone();
            rotten[at] ^= 1;
            assert!(open(&rotten).is_err(), "the lowest bit of byte {at} went unnoticed");
        }
    }

    fn bytes_of(hex: &str) -> Vec<u8> {
        let hex = hex.trim();
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_bytes_of_all_versions_can_be_read() {
        let v0 = bytes_of(include_str!("fixtures/checkpoint-v0.hex"));
        assert_eq!(open(&v0), Ok(Checkpoint { written_from_sequence: 0, ..sample() }));
        let v1 = bytes_of(include_str!("fixtures/checkpoint-v1.hex"));
        assert_eq!(open(&v1), Ok(sample()));
        assert_eq!(seal(&sample()), Ok(v1));
    }

    #[test]
    fn the_bytes_of_a_state_are_fixed_and_round_trip() {
        let state = &sample().logs[0];
        let v0 = bytes_of(include_str!("fixtures/log-state-v0.hex"));
        assert_eq!(open_state(&v0).as_ref(), Ok(state));
        assert_eq!(seal_state(state), Ok(v0.clone()));
        for cut in 0..v0.len() {
            assert!(open_state(&v0[..cut]).is_err(), "cut at {cut}");
        }
        let mut newer = v0;
        newer[0] = 1;
        assert!(open_state(&newer).is_err());
    }
}
