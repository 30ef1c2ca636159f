//! What a leader refuses, and why; appends have their own errors beside their checks.

use std::fmt;

use logmill_wire::ids::{LeaderEpoch, Offset};

use super::epochs::EpochEnd;

/// The requester's leader epoch is not the current one (KIP-320).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EpochCheckError {
    /// FENCED_LEADER_EPOCH: the requester's metadata is old.
    FencedLeaderEpoch {
        /// The leader's epoch.
        current: LeaderEpoch,
    },
    /// UNKNOWN_LEADER_EPOCH: the requester knows of a newer leader; this broker will hear of it.
    UnknownLeaderEpoch {
        /// The leader's epoch.
        current: LeaderEpoch,
    },
}

impl fmt::Display for EpochCheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FencedLeaderEpoch { current } => {
                write!(f, "the request's leader epoch is older than {current}; refresh the metadata")
            }
            Self::UnknownLeaderEpoch { current } => {
                write!(f, "the request's leader epoch is newer than {current}; try again")
            }
        }
    }
}

impl std::error::Error for EpochCheckError {}

/// Why a fetch gets no records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchCheckError {
    /// FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH.
    Epoch(EpochCheckError),
    /// OFFSET_OUT_OF_RANGE.
    OffsetOutOfRange {
        /// The log's first offset.
        log_start_offset: Offset,
        /// The log's end.
        log_end_offset: Offset,
    },
    /// No error code: the response's diverging epoch tells the reader to truncate or reset to this end.
    Diverging(EpochEnd),
}

impl fmt::Display for FetchCheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epoch(error) => error.fmt(f),
            Self::OffsetOutOfRange { log_start_offset, log_end_offset } => {
                write!(f, "the log holds offsets from {log_start_offset} to {log_end_offset}")
            }
            Self::Diverging(end) => {
                write!(f, "the logs diverge: epoch {} ends at offset {} here", end.epoch, end.end_offset)
            }
        }
    }
}

impl std::error::Error for FetchCheckError {}

/// A leader epoch that is not above the one the log has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaleEpoch {
    /// The epoch of the log.
    pub current: LeaderEpoch,
    /// The epoch that was to begin.
    pub requested: LeaderEpoch,
}

impl fmt::Display for StaleEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "leader epoch {} cannot begin: the log has seen {} already; the metadata is older than the log, \
             restore it or remove the partition's directory",
            self.requested, self.current
        )
    }
}

impl std::error::Error for StaleEpoch {}

/// A log start that lies outside what may be deleted: OFFSET_OUT_OF_RANGE for DeleteRecords.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogStartError {
    /// The start that was asked for.
    pub requested: Offset,
    /// The largest one possible.
    pub high_watermark: Offset,
}

impl fmt::Display for LogStartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the log cannot start at offset {}: only records below the high watermark, {}, may be deleted",
            self.requested, self.high_watermark
        )
    }
}

impl std::error::Error for LogStartError {}

/// Why a batch that was read from the log cannot come next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplayError {
    /// Its offsets begin before the end of what precedes it, or run out.
    Offsets {
        /// The batch's base offset.
        base_offset: Offset,
        /// The end of what precedes it.
        log_end_offset: Offset,
    },
    /// Its leader epoch is negative or below that of what precedes it.
    Epoch {
        /// The batch's leader epoch.
        leader_epoch: LeaderEpoch,
        /// The epoch of what precedes it.
        current: LeaderEpoch,
    },
    /// It has a producer id without a producer epoch.
    Producer {
        /// The batch's base offset.
        base_offset: Offset,
    },
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offsets { base_offset, log_end_offset } => {
                write!(f, "a batch at offset {base_offset} stands where {log_end_offset} or more must follow")
            }
            Self::Epoch { leader_epoch, current } => {
                write!(f, "a batch of leader epoch {leader_epoch} stands behind one of epoch {current}")
            }
            Self::Producer { base_offset } => {
                write!(f, "the batch at offset {base_offset} has a producer id and no producer epoch")
            }
        }
    }
}

impl std::error::Error for ReplayError {}
