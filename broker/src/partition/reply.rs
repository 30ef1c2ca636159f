//! Partition errors as clients see them.

use super::command::PartitionError;
use logmill_state::partition::{AppendError, EpochCheckError, FetchCheckError, ProducerError};
use logmill_wire::error_codes::ErrorCode;

pub(super) fn error_code(error: &PartitionError) -> ErrorCode {
    match error {
        PartitionError::NotHosted | PartitionError::NotLeader | PartitionError::Stopping => {
            ErrorCode::NotLeaderOrFollower
        }
        PartitionError::Batch(error) => ErrorCode::from(error),
        PartitionError::Append(error) => append_code(*error),
        PartitionError::Fetch(FetchCheckError::Epoch(error)) | PartitionError::Epoch(error) => {
            epoch_code(*error)
        }
        PartitionError::Fetch(FetchCheckError::OffsetOutOfRange { .. }) | PartitionError::LogStart(_) => {
            ErrorCode::OffsetOutOfRange
        }
        PartitionError::NotDeletable => ErrorCode::PolicyViolation,
        // The response's diverging epoch says it; there is no error code for it.
        PartitionError::Fetch(FetchCheckError::Diverging(_)) => ErrorCode::None,
        PartitionError::NotEnoughReplicas(_) => ErrorCode::NotEnoughReplicas,
        PartitionError::NotEnoughReplicasAfterAppend(_) => ErrorCode::NotEnoughReplicasAfterAppend,
        PartitionError::OffsetNotAvailable => ErrorCode::OffsetNotAvailable,
        PartitionError::Storage(_) | PartitionError::Corrupt(_) => ErrorCode::KafkaStorageError,
    }
}

fn epoch_code(error: EpochCheckError) -> ErrorCode {
    match error {
        EpochCheckError::FencedLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
        EpochCheckError::UnknownLeaderEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
    }
}

fn append_code(error: AppendError) -> ErrorCode {
    match error {
        AppendError::InvalidRecord(_) => ErrorCode::InvalidRecord,
        AppendError::MessageTooLarge { .. } => ErrorCode::MessageTooLarge,
        AppendError::RecordListTooLarge { .. } => ErrorCode::RecordListTooLarge,
        AppendError::InvalidTimestamp { .. } => ErrorCode::InvalidTimestamp,
        AppendError::UnsupportedCompression { .. } => ErrorCode::UnsupportedCompressionType,
        AppendError::NotInTransaction => ErrorCode::InvalidTxnState,
        AppendError::Producer(ProducerError::InvalidProducerEpoch { .. }) => ErrorCode::InvalidProducerEpoch,
        AppendError::Producer(ProducerError::OutOfOrderSequence { .. }) => {
            ErrorCode::OutOfOrderSequenceNumber
        }
        AppendError::OffsetsExhausted => ErrorCode::KafkaStorageError,
    }
}

pub(super) fn error_message(error: &PartitionError) -> String {
    match error {
        PartitionError::NotHosted => "this broker does not host the partition".into(),
        PartitionError::Stopping => "the broker is stopping".into(),
        PartitionError::Batch(error) => error.to_string(),
        PartitionError::Append(error) => error.to_string(),
        PartitionError::Fetch(error) => error.to_string(),
        PartitionError::Epoch(error) => error.to_string(),
        PartitionError::LogStart(error) => error.to_string(),
        PartitionError::NotDeletable => {
            "the topic is compacted; its records can be deleted once its cleanup.policy contains delete"
                .into()
        }
        PartitionError::NotLeader => "this broker does not lead the partition".into(),
        PartitionError::NotEnoughReplicas(error) => error.to_string(),
        PartitionError::NotEnoughReplicasAfterAppend(error) => {
            format!("the records were appended, but {error}")
        }
        PartitionError::OffsetNotAvailable => {
            "the leader is new and does not yet know which records are committed; ask again".into()
        }
        PartitionError::Storage(text) | PartitionError::Corrupt(text) => text.clone(),
    }
}
