//! What a batch must be like to be appended: the checks that its header suffices for.

use std::fmt;

use logmill_wire::ids::{Offset, TimestampMs};
use logmill_wire::record_batch::BatchHeader;

use super::producers::ProducerError;

/// The one magic that is written: message format 2.
const MAGIC: i8 = 2;

/// The largest codec number that is defined: zstd.
const CODEC_ID_MAX: u8 = 4;

/// `message.timestamp.type` of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimestampType {
    /// The producer's timestamps are kept.
    #[default]
    CreateTime,
    /// The broker's clock at the append replaces them.
    LogAppendTime,
}

/// Who appends; a coordinator's own batches have no sequence numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AppendOrigin {
    /// A producer: everything is checked.
    #[default]
    Client,
    /// A group or transaction coordinator of this broker.
    Coordinator,
}

/// The settings of a topic that decide whether a batch is taken. The default is that of Kafka's defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AppendPolicy {
    /// Who appends.
    pub origin: AppendOrigin,
    /// `max.message.bytes`: the largest batch, its header included.
    pub max_message_bytes: i32,
    /// `segment.bytes`: what is appended at once must fit into one segment.
    pub segment_bytes: i32,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far a timestamp may lie in the past (KIP-937).
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far a timestamp may lie in the future (KIP-937).
    pub timestamp_after_max_ms: i64,
}

impl Default for AppendPolicy {
    fn default() -> Self {
        Self {
            origin: AppendOrigin::Client,
            max_message_bytes: 1_048_588,
            segment_bytes: 1 << 30,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
        }
    }
}

impl AppendPolicy {
    /// Whether the header does not suffice, and every record's timestamp must be looked at: a batch's largest
    /// timestamp does not say how old its oldest record is.
    #[must_use]
    pub fn needs_record_timestamps(&self) -> bool {
        self.timestamp_type == TimestampType::CreateTime && self.timestamp_before_max_ms < i64::MAX
    }

    /// The timestamp that the batches get and the producer is told, if the topic's is that of the append.
    #[must_use]
    pub fn log_append_time(&self, now: TimestampMs) -> Option<TimestampMs> {
        (self.timestamp_type == TimestampType::LogAppendTime).then_some(now)
    }

    /// Whether a single timestamp is within the bounds around `now`. A record without one (-1) always is.
    #[must_use]
    pub fn takes_timestamp(&self, timestamp: TimestampMs, now: TimestampMs) -> bool {
        if timestamp.0 == -1 {
            return true;
        }
        let age_ms = i128::from(now.0) - i128::from(timestamp.0);
        age_ms <= i128::from(self.timestamp_before_max_ms)
            && -age_ms <= i128::from(self.timestamp_after_max_ms)
    }

    /// Checks the smallest and the largest timestamp of a batch's records: each record has to be within the bounds,
    /// unless the topic gives them times of its own.
    ///
    /// # Errors
    /// [`AppendError::InvalidTimestamp`] with the one that is not.
    pub fn check_record_times(
        &self,
        (min, max): (TimestampMs, TimestampMs),
        now: TimestampMs,
    ) -> Result<(), AppendError> {
        if self.timestamp_type == TimestampType::LogAppendTime {
            return Ok(());
        }
        match [min, max].into_iter().find(|time| !self.takes_timestamp(*time, now)) {
            Some(timestamp) => Err(AppendError::InvalidTimestamp { timestamp }),
            None => Ok(()),
        }
    }

    /// Checks a batch by its header alone. Whether the CRC is right and the records are what the header says
    /// is for others to check, before and after.
    ///
    /// # Errors
    /// [`AppendError`], if the batch cannot be appended to a log with this policy.
    pub fn check(&self, header: &BatchHeader, now: TimestampMs) -> Result<(), AppendError> {
        let Some(bytes) = header.total_bytes() else {
            return Err(AppendError::InvalidRecord("the batch is shorter than its header"));
        };
        if header.magic != MAGIC {
            return Err(AppendError::InvalidRecord("the batch is not of message format 2"));
        }
        if bytes > usize::try_from(self.max_message_bytes).unwrap_or(0) {
            return Err(AppendError::MessageTooLarge { bytes, max_bytes: self.max_message_bytes });
        }
        if header.attributes.codec_id() > CODEC_ID_MAX {
            return Err(AppendError::UnsupportedCompression { codec_id: header.attributes.codec_id() });
        }
        check_counts(header)?;
        if self.origin == AppendOrigin::Client {
            check_client(header)?;
        }
        self.check_timestamps(header, now)
    }

    fn check_timestamps(&self, header: &BatchHeader, now: TimestampMs) -> Result<(), AppendError> {
        let max = header.max_timestamp;
        if header.attributes.is_log_append_time() && self.origin == AppendOrigin::Client {
            return Err(AppendError::InvalidTimestamp { timestamp: max });
        }
        self.check_record_times((max, max), now)
    }
}

fn check_counts(header: &BatchHeader) -> Result<(), AppendError> {
    if header.last_offset_delta < 0 {
        return Err(AppendError::InvalidRecord("the batch's last offset lies before its first"));
    }
    if header.record_count <= 0 {
        return Err(AppendError::InvalidRecord("the batch has no records"));
    }
    if i64::from(header.record_count) != i64::from(header.last_offset_delta) + 1 {
        return Err(AppendError::InvalidRecord("the batch's span of offsets is not its count of records"));
    }
    Ok(())
}

fn check_client(header: &BatchHeader) -> Result<(), AppendError> {
    if header.base_offset != Offset(0) {
        return Err(AppendError::InvalidRecord("a producer's batch must have base offset 0"));
    }
    if header.attributes.is_control() {
        return Err(AppendError::InvalidRecord("producers may not write control records"));
    }
    if header.producer_id.0 < 0 {
        return Ok(());
    }
    if header.base_sequence < 0 {
        return Err(AppendError::InvalidRecord("a batch with a producer id needs a sequence number"));
    }
    if header.producer_epoch.0 < 0 {
        return Err(AppendError::InvalidRecord("a batch with a producer id needs a producer epoch"));
    }
    Ok(())
}

/// What to do with the batches of one append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendDecision {
    /// They are appended, with consecutive offsets.
    Append {
        /// The first record's offset.
        base_offset: Offset,
        /// The offset after the last record.
        next_offset: Offset,
    },
    /// They were appended before: nothing is written, and the answer is that of the first time. It may only
    /// be given once `last_offset` is as durable as the producer's `acks` asks for.
    Duplicate {
        /// The first record's offset, then.
        base_offset: Offset,
        /// The last record's offset, then.
        last_offset: Offset,
        /// The largest timestamp, then; the append time for a topic with LogAppendTime.
        timestamp: TimestampMs,
    },
}

/// Why nothing is appended. Each kind is one of Kafka's errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendError {
    /// INVALID_RECORD, with what is wrong.
    InvalidRecord(&'static str),
    /// MESSAGE_TOO_LARGE.
    MessageTooLarge {
        /// The batch's size.
        bytes: usize,
        /// `max.message.bytes`.
        max_bytes: i32,
    },
    /// RECORD_LIST_TOO_LARGE.
    RecordListTooLarge {
        /// The size of all batches.
        bytes: usize,
        /// `segment.bytes`.
        max_bytes: i32,
    },
    /// INVALID_TIMESTAMP.
    InvalidTimestamp {
        /// The batch's largest timestamp.
        timestamp: TimestampMs,
    },
    /// UNSUPPORTED_COMPRESSION_TYPE.
    UnsupportedCompression {
        /// The codec's number.
        codec_id: u8,
    },
    /// INVALID_TXN_STATE: the batch belongs to no transaction that the coordinator knows of (KIP-890).
    NotInTransaction,
    /// OUT_OF_ORDER_SEQUENCE_NUMBER or INVALID_PRODUCER_EPOCH.
    Producer(ProducerError),
    /// KAFKA_STORAGE_ERROR: offsets end at 2^63 - 1.
    OffsetsExhausted,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidRecord(what) => f.write_str(what),
            Self::MessageTooLarge { bytes, max_bytes } => write!(
                f,
                "the batch has {bytes} bytes and the topic takes {max_bytes}; send smaller batches or raise \
                 max.message.bytes"
            ),
            Self::RecordListTooLarge { bytes, max_bytes } => {
                write!(
                    f,
                    "the batches have {bytes} bytes and a segment holds {max_bytes}; raise segment.bytes"
                )
            }
            Self::InvalidTimestamp { timestamp } => write!(
                f,
                "timestamp {timestamp} is outside message.timestamp.before.max.ms and \
                 message.timestamp.after.max.ms around the broker's clock, or claims to be an append time"
            ),
            Self::UnsupportedCompression { codec_id } => {
                write!(f, "there is no codec with number {codec_id}")
            }
            Self::NotInTransaction => f.write_str("the batch is not part of an ongoing transaction"),
            Self::Producer(error) => error.fmt(f),
            Self::OffsetsExhausted => f.write_str("the partition has no offsets left; use another topic"),
        }
    }
}

impl std::error::Error for AppendError {}

impl From<ProducerError> for AppendError {
    fn from(error: ProducerError) -> Self {
        Self::Producer(error)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use logmill_wire::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
    use logmill_wire::record_batch::Attributes;

    use super::*;

    const NOW: TimestampMs = TimestampMs(1_700_000_000_000);

    /// A client's batch of `records` records that passes every check.
    pub fn batch_of(records: i32) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(0),
            batch_length: 49 + 10 * records,
            leader_epoch: LeaderEpoch::NONE,
            magic: 2,
            crc: 0,
            attributes: Attributes(0),
            last_offset_delta: records - 1,
            base_timestamp: NOW,
            max_timestamp: NOW,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(-1),
            base_sequence: -1,
            record_count: records,
        }
    }

    #[test]
    fn each_check_has_its_error() {
        let policy = AppendPolicy { max_message_bytes: 161, ..AppendPolicy::default() };
        let good = batch_of(10);
        assert_eq!(policy.check(&good, NOW), Ok(()));
        assert_eq!(
            policy.check(&batch_of(11), NOW),
            Err(AppendError::MessageTooLarge { bytes: 171, max_bytes: 161 })
        );
        let invalid: [BatchHeader; 11] = [
            BatchHeader { batch_length: 48, ..good },
            BatchHeader { batch_length: -1, ..good },
            BatchHeader { magic: 1, ..good },
            BatchHeader { last_offset_delta: -1, ..good },
            BatchHeader { last_offset_delta: i32::MIN, record_count: i32::MIN + 1, ..good },
            BatchHeader { record_count: 0, ..good },
            BatchHeader { record_count: 9, ..good },
            BatchHeader { base_offset: Offset(1), ..good },
            BatchHeader { attributes: Attributes(0x20), ..good },
            BatchHeader { producer_id: ProducerId(1), producer_epoch: ProducerEpoch(0), ..good },
            BatchHeader { producer_id: ProducerId(1), base_sequence: 0, ..good },
        ];
        for header in invalid {
            let result = policy.check(&header, NOW);
            assert!(matches!(result, Err(AppendError::InvalidRecord(_))), "{header:?} {result:?}");
        }
        for codec_id in 0..8 {
            let header = BatchHeader { attributes: Attributes(i16::from(codec_id)), ..good };
            let expected =
                if codec_id <= 4 { Ok(()) } else { Err(AppendError::UnsupportedCompression { codec_id }) };
            assert_eq!(policy.check(&header, NOW), expected);
        }
    }

    #[test]
    fn timestamps_have_bounds_unless_they_are_replaced() {
        let policy = AppendPolicy {
            timestamp_before_max_ms: 100,
            timestamp_after_max_ms: 10,
            ..AppendPolicy::default()
        };
        let check = |policy: &AppendPolicy, timestamp: i64| {
            policy.check(&BatchHeader { max_timestamp: TimestampMs(timestamp), ..batch_of(1) }, NOW).is_ok()
        };
        assert!(check(&policy, NOW.0 - 100) && check(&policy, NOW.0 + 10) && check(&policy, -1));
        assert!(!check(&policy, NOW.0 - 101) && !check(&policy, NOW.0 + 11));
        assert!(!check(&policy, i64::MAX) && !check(&policy, i64::MIN), "no overflow");
        let replaced = AppendPolicy { timestamp_type: TimestampType::LogAppendTime, ..policy };
        assert!(check(&replaced, NOW.0 + 11));
        assert_eq!(replaced.log_append_time(NOW), Some(NOW));
        assert_eq!(policy.log_append_time(NOW), None);
        assert!(policy.needs_record_timestamps() && !replaced.needs_record_timestamps());
        assert!(!AppendPolicy::default().needs_record_timestamps());
        let claims = BatchHeader { attributes: Attributes(8), ..batch_of(1) };
        assert_eq!(policy.check(&claims, NOW), Err(AppendError::InvalidTimestamp { timestamp: NOW }));
    }
}
