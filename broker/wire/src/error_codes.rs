//! Kafka's error codes; they appear only where replies are made.
//!
//! Codes, names and which of them a client may retry are those of Kafka 4.4's `Errors`; the codes up to
//! 133 are known to clients of Kafka 4.3.

use core::fmt;

use crate::compression::CompressionError;
use crate::record_batch::{BatchError, RecordError};

macro_rules! error_codes {
    ($($code:literal $variant:ident $name:literal $retry:ident $text:literal;)*) => {
        /// What a response says about the whole request or one of its parts, as Kafka numbers it.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ErrorCode {
            $(#[doc = $text] $variant = $code,)*
        }

        impl ErrorCode {
            /// Every code, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The error of this number; `None` if Kafka has none.
            #[must_use]
            pub const fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The name that Kafka's documentation and clients use, such as `NOT_LEADER_OR_FOLLOWER`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// One sentence on what the code means.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// Whether clients send the same request again (perhaps elsewhere) after this error.
            #[must_use]
            pub const fn is_retriable(self) -> bool {
                match self {
                    $(Self::$variant => error_codes!(@$retry),)*
                }
            }
        }
    };
    (@retriable) => { true };
    (@fatal) => { false };
}

error_codes! {
    -1 UnknownServerError "UNKNOWN_SERVER_ERROR" fatal
        "The broker failed in a way that no other code describes.";
    0 None "NONE" fatal
        "No error.";
    1 OffsetOutOfRange "OFFSET_OUT_OF_RANGE" fatal
        "The offset lies outside the partition's log.";
    2 CorruptMessage "CORRUPT_MESSAGE" retriable
        "A record batch is damaged: its checksum or its lengths do not hold.";
    3 UnknownTopicOrPartition "UNKNOWN_TOPIC_OR_PARTITION" retriable
        "The topic or partition is not known to this broker.";
    4 InvalidFetchSize "INVALID_FETCH_SIZE" fatal
        "The fetch asks for an impossible number of bytes.";
    5 LeaderNotAvailable "LEADER_NOT_AVAILABLE" retriable
        "The partition has no leader now.";
    6 NotLeaderOrFollower "NOT_LEADER_OR_FOLLOWER" retriable
        "This broker does not lead the partition, or holds no replica of it.";
    7 RequestTimedOut "REQUEST_TIMED_OUT" retriable
        "The work was not finished in the time that the request allows.";
    8 BrokerNotAvailable "BROKER_NOT_AVAILABLE" fatal
        "The broker cannot be reached.";
    9 ReplicaNotAvailable "REPLICA_NOT_AVAILABLE" retriable
        "This broker's replica of the partition cannot serve.";
    10 MessageTooLarge "MESSAGE_TOO_LARGE" fatal
        "A batch is larger than the topic's `max.message.bytes`.";
    11 StaleControllerEpoch "STALE_CONTROLLER_EPOCH" fatal
        "The controller's epoch is that of an earlier controller.";
    12 OffsetMetadataTooLarge "OFFSET_METADATA_TOO_LARGE" fatal
        "The metadata of an offset commit is longer than `offset.metadata.max.bytes`.";
    13 NetworkException "NETWORK_EXCEPTION" retriable
        "The connection broke before the response came.";
    14 CoordinatorLoadInProgress "COORDINATOR_LOAD_IN_PROGRESS" retriable
        "The coordinator is still reading its state from the log.";
    15 CoordinatorNotAvailable "COORDINATOR_NOT_AVAILABLE" retriable
        "There is no coordinator for the group or transaction now.";
    16 NotCoordinator "NOT_COORDINATOR" retriable
        "Another broker coordinates the group or transaction.";
    17 InvalidTopicException "INVALID_TOPIC_EXCEPTION" fatal
        "The topic's name is illegal, or the topic does not allow the operation.";
    18 RecordListTooLarge "RECORD_LIST_TOO_LARGE" fatal
        "A batch is larger than a log segment.";
    19 NotEnoughReplicas "NOT_ENOUGH_REPLICAS" retriable
        "The in-sync set is smaller than `min.insync.replicas`; nothing was appended.";
    20 NotEnoughReplicasAfterAppend "NOT_ENOUGH_REPLICAS_AFTER_APPEND" retriable
        "The records were appended, but then the in-sync set fell below `min.insync.replicas`.";
    21 InvalidRequiredAcks "INVALID_REQUIRED_ACKS" fatal
        "`acks` is none of 0, 1 and -1.";
    22 IllegalGeneration "ILLEGAL_GENERATION" fatal
        "The group's generation is not the one that the member names.";
    23 InconsistentGroupProtocol "INCONSISTENT_GROUP_PROTOCOL" fatal
        "The member shares no protocol with the rest of the group.";
    24 InvalidGroupId "INVALID_GROUP_ID" fatal
        "The group id is empty or otherwise illegal.";
    25 UnknownMemberId "UNKNOWN_MEMBER_ID" fatal
        "The coordinator has no member with this id.";
    26 InvalidSessionTimeout "INVALID_SESSION_TIMEOUT" fatal
        "The session timeout is outside the range that the broker allows.";
    27 RebalanceInProgress "REBALANCE_IN_PROGRESS" fatal
        "The group rebalances; the member has to join again.";
    28 InvalidCommitOffsetSize "INVALID_COMMIT_OFFSET_SIZE" fatal
        "An offset commit does not fit in one record.";
    29 TopicAuthorizationFailed "TOPIC_AUTHORIZATION_FAILED" fatal
        "The principal may not do this to the topic.";
    30 GroupAuthorizationFailed "GROUP_AUTHORIZATION_FAILED" fatal
        "The principal may not do this to the group.";
    31 ClusterAuthorizationFailed "CLUSTER_AUTHORIZATION_FAILED" fatal
        "The principal may not do this to the cluster.";
    32 InvalidTimestamp "INVALID_TIMESTAMP" fatal
        "A record's timestamp is outside the range that the topic allows, or is of the wrong kind.";
    33 UnsupportedSaslMechanism "UNSUPPORTED_SASL_MECHANISM" fatal
        "The listener does not offer the SASL mechanism.";
    34 IllegalSaslState "ILLEGAL_SASL_STATE" fatal
        "The request does not belong to this step of the SASL exchange.";
    35 UnsupportedVersion "UNSUPPORTED_VERSION" fatal
        "The broker does not know this version of the API.";
    36 TopicAlreadyExists "TOPIC_ALREADY_EXISTS" fatal
        "There is a topic of this name already.";
    37 InvalidPartitions "INVALID_PARTITIONS" fatal
        "The number of partitions is not allowed.";
    38 InvalidReplicationFactor "INVALID_REPLICATION_FACTOR" fatal
        "The replication factor is below 1 or above the number of brokers.";
    39 InvalidReplicaAssignment "INVALID_REPLICA_ASSIGNMENT" fatal
        "The assignment of replicas names wrong brokers or partitions.";
    40 InvalidConfig "INVALID_CONFIG" fatal
        "A setting's name or value is not valid.";
    41 NotController "NOT_CONTROLLER" retriable
        "This node is not the active controller.";
    42 InvalidRequest "INVALID_REQUEST" fatal
        "The request contradicts itself or the protocol.";
    43 UnsupportedForMessageFormat "UNSUPPORTED_FOR_MESSAGE_FORMAT" fatal
        "The format in which the records are stored cannot serve the request.";
    44 PolicyViolation "POLICY_VIOLATION" fatal
        "A policy of the cluster forbids the change.";
    45 OutOfOrderSequenceNumber "OUT_OF_ORDER_SEQUENCE_NUMBER" fatal
        "The sequence number leaves a gap after the producer's last batch.";
    46 DuplicateSequenceNumber "DUPLICATE_SEQUENCE_NUMBER" fatal
        "The sequence number is that of an older batch which is remembered no longer.";
    47 InvalidProducerEpoch "INVALID_PRODUCER_EPOCH" fatal
        "The producer's epoch is older than the current one.";
    48 InvalidTxnState "INVALID_TXN_STATE" fatal
        "The transaction is in a state that does not allow the operation.";
    49 InvalidProducerIdMapping "INVALID_PRODUCER_ID_MAPPING" fatal
        "The producer id does not belong to the transactional id.";
    50 InvalidTransactionTimeout "INVALID_TRANSACTION_TIMEOUT" fatal
        "The transaction's timeout is above `transaction.max.timeout.ms`.";
    51 ConcurrentTransactions "CONCURRENT_TRANSACTIONS" retriable
        "Another operation on the same transaction is not finished yet.";
    52 TransactionCoordinatorFenced "TRANSACTION_COORDINATOR_FENCED" fatal
        "The markers come from a coordinator that has been replaced.";
    53 TransactionalIdAuthorizationFailed "TRANSACTIONAL_ID_AUTHORIZATION_FAILED" fatal
        "The principal may not use the transactional id.";
    54 SecurityDisabled "SECURITY_DISABLED" fatal
        "The broker has no authorizer, so there is nothing to list or change.";
    55 OperationNotAttempted "OPERATION_NOT_ATTEMPTED" fatal
        "The operation was not tried because another one of the request failed.";
    56 KafkaStorageError "KAFKA_STORAGE_ERROR" retriable
        "The disk under the log failed.";
    57 LogDirNotFound "LOG_DIR_NOT_FOUND" fatal
        "The broker has no such log directory.";
    58 SaslAuthenticationFailed "SASL_AUTHENTICATION_FAILED" fatal
        "The credentials were refused.";
    59 UnknownProducerId "UNKNOWN_PRODUCER_ID" fatal
        "The broker remembers nothing about the producer id.";
    60 ReassignmentInProgress "REASSIGNMENT_IN_PROGRESS" fatal
        "The partition's replicas are being moved already.";
    61 DelegationTokenAuthDisabled "DELEGATION_TOKEN_AUTH_DISABLED" fatal
        "Delegation tokens are switched off.";
    62 DelegationTokenNotFound "DELEGATION_TOKEN_NOT_FOUND" fatal
        "There is no such delegation token.";
    63 DelegationTokenOwnerMismatch "DELEGATION_TOKEN_OWNER_MISMATCH" fatal
        "The principal neither owns the delegation token nor may renew it.";
    64 DelegationTokenRequestNotAllowed "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED" fatal
        "This kind of connection may not handle delegation tokens.";
    65 DelegationTokenAuthorizationFailed "DELEGATION_TOKEN_AUTHORIZATION_FAILED" fatal
        "The principal may not do this to the delegation token.";
    66 DelegationTokenExpired "DELEGATION_TOKEN_EXPIRED" fatal
        "The delegation token is past its expiry.";
    67 InvalidPrincipalType "INVALID_PRINCIPAL_TYPE" fatal
        "The kind of principal is not supported.";
    68 NonEmptyGroup "NON_EMPTY_GROUP" fatal
        "The group still has members.";
    69 GroupIdNotFound "GROUP_ID_NOT_FOUND" fatal
        "There is no group of this id.";
    70 FetchSessionIdNotFound "FETCH_SESSION_ID_NOT_FOUND" retriable
        "The broker has no fetch session of this id.";
    71 InvalidFetchSessionEpoch "INVALID_FETCH_SESSION_EPOCH" retriable
        "The epoch of the fetch session is not the expected one.";
    72 ListenerNotFound "LISTENER_NOT_FOUND" retriable
        "The leader has no listener of the name on which the request came.";
    73 TopicDeletionDisabled "TOPIC_DELETION_DISABLED" fatal
        "`delete.topic.enable` is false.";
    74 FencedLeaderEpoch "FENCED_LEADER_EPOCH" retriable
        "The leader epoch of the request is older than the partition's.";
    75 UnknownLeaderEpoch "UNKNOWN_LEADER_EPOCH" retriable
        "The leader epoch of the request is newer than the partition's.";
    76 UnsupportedCompressionType "UNSUPPORTED_COMPRESSION_TYPE" fatal
        "The request's version does not allow the codec of the records.";
    77 StaleBrokerEpoch "STALE_BROKER_EPOCH" fatal
        "The broker's epoch is not the one under which it is registered.";
    78 OffsetNotAvailable "OFFSET_NOT_AVAILABLE" retriable
        "A new leader does not know yet how far the log is committed.";
    79 MemberIdRequired "MEMBER_ID_REQUIRED" fatal
        "The member has to join again with the id that the response gives it.";
    80 PreferredLeaderNotAvailable "PREFERRED_LEADER_NOT_AVAILABLE" retriable
        "The preferred replica cannot lead now.";
    81 GroupMaxSizeReached "GROUP_MAX_SIZE_REACHED" fatal
        "The group has `group.max.size` members already.";
    82 FencedInstanceId "FENCED_INSTANCE_ID" fatal
        "Another member took over this `group.instance.id`.";
    83 EligibleLeadersNotAvailable "ELIGIBLE_LEADERS_NOT_AVAILABLE" retriable
        "None of the replicas that may lead is alive.";
    84 ElectionNotNeeded "ELECTION_NOT_NEEDED" retriable
        "The partition has the wanted leader already.";
    85 NoReassignmentInProgress "NO_REASSIGNMENT_IN_PROGRESS" fatal
        "The partition's replicas are not being moved.";
    86 GroupSubscribedToTopic "GROUP_SUBSCRIBED_TO_TOPIC" fatal
        "A member of the group still subscribes to the topic whose offsets are to be deleted.";
    87 InvalidRecord "INVALID_RECORD" fatal
        "A record breaks a rule of the format or of the topic.";
    88 UnstableOffsetCommit "UNSTABLE_OFFSET_COMMIT" retriable
        "An open transaction may still change the committed offset.";
    89 ThrottlingQuotaExceeded "THROTTLING_QUOTA_EXCEEDED" retriable
        "The quota of changes is used up for now.";
    90 ProducerFenced "PRODUCER_FENCED" fatal
        "A newer producer with the same transactional id has replaced this one.";
    91 ResourceNotFound "RESOURCE_NOT_FOUND" fatal
        "What the request refers to does not exist.";
    92 DuplicateResource "DUPLICATE_RESOURCE" fatal
        "The request names the same thing twice.";
    93 UnacceptableCredential "UNACCEPTABLE_CREDENTIAL" fatal
        "The new credential does not meet the requirements.";
    94 InconsistentVoterSet "INCONSISTENT_VOTER_SET" fatal
        "Sender or receiver is not one of the quorum's voters.";
    95 InvalidUpdateVersion "INVALID_UPDATE_VERSION" fatal
        "The new version is not valid for the thing that is updated.";
    96 FeatureUpdateFailed "FEATURE_UPDATE_FAILED" fatal
        "The change of the finalized features failed.";
    97 PrincipalDeserializationFailure "PRINCIPAL_DESERIALIZATION_FAILURE" fatal
        "The principal of a forwarded request could not be read.";
    98 SnapshotNotFound "SNAPSHOT_NOT_FOUND" fatal
        "There is no such snapshot.";
    99 PositionOutOfRange "POSITION_OUT_OF_RANGE" fatal
        "The position lies outside the snapshot.";
    100 UnknownTopicId "UNKNOWN_TOPIC_ID" retriable
        "The topic id is not known to this broker.";
    101 DuplicateBrokerRegistration "DUPLICATE_BROKER_REGISTRATION" fatal
        "A live broker holds this node id already.";
    102 BrokerIdNotRegistered "BROKER_ID_NOT_REGISTERED" fatal
        "No broker is registered under this node id.";
    103 InconsistentTopicId "INCONSISTENT_TOPIC_ID" retriable
        "The topic id is not that of the partition's log.";
    104 InconsistentClusterId "INCONSISTENT_CLUSTER_ID" fatal
        "The cluster id is not that of this cluster.";
    105 TransactionalIdNotFound "TRANSACTIONAL_ID_NOT_FOUND" fatal
        "There is no such transactional id.";
    106 FetchSessionTopicIdError "FETCH_SESSION_TOPIC_ID_ERROR" retriable
        "The fetch session mixes topic names and topic ids.";
    107 IneligibleReplica "INELIGIBLE_REPLICA" fatal
        "The proposed in-sync set holds a replica that must not be in it.";
    108 NewLeaderElected "NEW_LEADER_ELECTED" fatal
        "The change was made, and it gave the partition another leader.";
    109 OffsetMovedToTieredStorage "OFFSET_MOVED_TO_TIERED_STORAGE" fatal
        "The offset is only in tiered storage.";
    110 FencedMemberEpoch "FENCED_MEMBER_EPOCH" fatal
        "The member's epoch is fenced: it gives up its partitions and joins anew.";
    111 UnreleasedInstanceId "UNRELEASED_INSTANCE_ID" fatal
        "Another member still holds this `group.instance.id`.";
    112 UnsupportedAssignor "UNSUPPORTED_ASSIGNOR" fatal
        "The group has no such assignor, or not in this version.";
    113 StaleMemberEpoch "STALE_MEMBER_EPOCH" fatal
        "The member's epoch is not the newest; the next heartbeat brings it.";
    114 MismatchedEndpointType "MISMATCHED_ENDPOINT_TYPE" fatal
        "The endpoint is of the other kind: broker instead of controller, or the reverse.";
    115 UnsupportedEndpointType "UNSUPPORTED_ENDPOINT_TYPE" fatal
        "This kind of endpoint is not supported.";
    116 UnknownControllerId "UNKNOWN_CONTROLLER_ID" fatal
        "No controller has this id.";
    117 UnknownSubscriptionId "UNKNOWN_SUBSCRIPTION_ID" fatal
        "The subscription of the client's telemetry is not the current one.";
    118 TelemetryTooLarge "TELEMETRY_TOO_LARGE" fatal
        "The client's telemetry is larger than the broker takes.";
    119 InvalidRegistration "INVALID_REGISTRATION" fatal
        "The controller refuses the broker's registration.";
    120 TransactionAbortable "TRANSACTION_ABORTABLE" fatal
        "The transaction cannot go on, but it may be aborted and the producer kept.";
    121 InvalidRecordState "INVALID_RECORD_STATE" fatal
        "The state of the record does not allow the acknowledgement.";
    122 ShareSessionNotFound "SHARE_SESSION_NOT_FOUND" retriable
        "The broker has no such share session.";
    123 InvalidShareSessionEpoch "INVALID_SHARE_SESSION_EPOCH" retriable
        "The epoch of the share session is not the expected one.";
    124 FencedStateEpoch "FENCED_STATE_EPOCH" fatal
        "The state epoch of the share partition is not the expected one.";
    125 InvalidVoterKey "INVALID_VOTER_KEY" fatal
        "The key of the voter is not that of the receiver.";
    126 DuplicateVoter "DUPLICATE_VOTER" fatal
        "The voter is one of the set already.";
    127 VoterNotFound "VOTER_NOT_FOUND" fatal
        "The voter is not in the set.";
    128 InvalidRegularExpression "INVALID_REGULAR_EXPRESSION" fatal
        "The regular expression cannot be parsed.";
    129 RebootstrapRequired "REBOOTSTRAP_REQUIRED" fatal
        "The client's metadata is out of date; it has to start from its bootstrap servers.";
    130 StreamsInvalidTopology "STREAMS_INVALID_TOPOLOGY" fatal
        "The topology of the streams group is not valid.";
    131 StreamsInvalidTopologyEpoch "STREAMS_INVALID_TOPOLOGY_EPOCH" fatal
        "The epoch of the topology is not valid.";
    132 StreamsTopologyFenced "STREAMS_TOPOLOGY_FENCED" fatal
        "The epoch of the topology is older than the current one.";
    133 ShareSessionLimitReached "SHARE_SESSION_LIMIT_REACHED" retriable
        "The broker holds as many share sessions as it may.";
    134 GroupDeletionFailed "GROUP_DELETION_FAILED" fatal
        "The group could not be deleted; its result says why.";
    135 StreamsTopologyDescriptionUpdateFailed "STREAMS_TOPOLOGY_DESCRIPTION_UPDATE_FAILED" fatal
        "The description of the topology could not be stored; the message says why.";
    136 ControllerIdNotRegistered "CONTROLLER_ID_NOT_REGISTERED" fatal
        "No controller is registered under this node id.";
}

impl ErrorCode {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// Whether this is an error at all, that is, not [`ErrorCode::None`].
    #[must_use]
    pub const fn is_error(self) -> bool {
        !matches!(self, Self::None)
    }
}

#[expect(clippy::derivable_impls, reason = "the variants come from a macro, which cannot mark one of them")]
impl Default for ErrorCode {
    fn default() -> Self {
        Self::None
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.code())
    }
}

impl From<ErrorCode> for i16 {
    fn from(error: ErrorCode) -> Self {
        error.code()
    }
}

/// What a Produce response says about a batch that was refused.
///
/// Producers retry `CORRUPT_MESSAGE`, so only damage that a second transfer may repair gets it; what the
/// producer itself made wrong is `INVALID_RECORD` (KIP-467).
impl From<&BatchError> for ErrorCode {
    fn from(error: &BatchError) -> Self {
        match error {
            BatchError::Truncated { .. }
            | BatchError::InvalidLength { .. }
            | BatchError::CrcMismatch { .. } => Self::CorruptMessage,
            BatchError::UnknownCodec { .. } => Self::UnsupportedCompressionType,
            BatchError::LogAppendTime
            | BatchError::Record { error: RecordError::TimestampOutOfRange, .. } => Self::InvalidTimestamp,
            BatchError::TooLarge | BatchError::Compression(CompressionError::TooLarge { .. }) => {
                Self::MessageTooLarge
            }
            BatchError::NoBatch
            | BatchError::MoreThanOneBatch
            | BatchError::UnsupportedFormat { .. }
            | BatchError::InvalidRecordCount { .. }
            | BatchError::InvalidOffsetRange { .. }
            | BatchError::InvalidProducer { .. }
            | BatchError::ControlBatch
            | BatchError::DeleteHorizon
            | BatchError::Record { .. }
            | BatchError::TrailingBytes { .. }
            | BatchError::Compression(_) => Self::InvalidRecord,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_one_to_one() {
        assert_eq!(ErrorCode::ALL.len(), 138);
        for (position, error) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(i32::from(error.code()), position as i32 - 1);
            assert_eq!(ErrorCode::from_code(error.code()), Some(*error));
            let same_name = ErrorCode::ALL.iter().filter(|other| other.name() == error.name());
            assert_eq!(same_name.count(), 1, "{error:?}");
        }
        assert_eq!(ErrorCode::from_code(137), None);
        assert_eq!(ErrorCode::from_code(-2), None);
    }

    #[test]
    fn known_codes() {
        assert_eq!(ErrorCode::NotLeaderOrFollower.code(), 6);
        assert_eq!(ErrorCode::NotLeaderOrFollower.name(), "NOT_LEADER_OR_FOLLOWER");
        assert_eq!(ErrorCode::InvalidTopicException.name(), "INVALID_TOPIC_EXCEPTION");
        assert_eq!(ErrorCode::UnsupportedVersion.code(), 35);
        assert_eq!(ErrorCode::InvalidRecord.code(), 87);
        assert_eq!(ErrorCode::RebootstrapRequired.code(), 129);
        assert_eq!(ErrorCode::ShareSessionLimitReached.code(), 133);
        assert!(ErrorCode::CorruptMessage.is_retriable());
        assert!(!ErrorCode::RebalanceInProgress.is_retriable());
        assert!(!ErrorCode::UnknownServerError.is_retriable());
        assert_eq!(ErrorCode::ALL.iter().filter(|error| error.is_retriable()).count(), 32);
        assert_eq!(
            format!("{} {:?}", ErrorCode::None, ErrorCode::StaleBrokerEpoch),
            "NONE STALE_BROKER_EPOCH(77)"
        );
    }
}
