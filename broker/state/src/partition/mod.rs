//! One replica of a partition as a state machine: which offsets a batch gets, which batch is a duplicate,
//! what a consumer may read, and where a log diverges from another.
//!
//! Nothing here holds records; the log does. What is kept is small, bounded, and rebuilt at a restart from
//! a [`PartitionSnapshot`] and the headers of the batches after it.

mod append;
mod epochs;
mod errors;
mod follower;
mod leader;
mod producers;
mod replicas;
mod rewind;
mod snapshot;

#[cfg(test)]
mod replica_tests;

pub use append::{AppendDecision, AppendError, AppendOrigin, AppendPolicy, TimestampType};
pub use epochs::{EpochEnd, EpochEntry, EpochHistory};
pub use errors::{EpochCheckError, FetchCheckError, LogStartError, ReplayError, StaleEpoch};
pub use follower::{
    Batches, DivergenceAnswer, DivergenceQuery, Follower, FollowerEffects, LeadError, LogChange, Push,
    PushError,
};
pub use leader::{Isolation, Leader};
pub use producers::{ProducerBatch, ProducerDecision, ProducerError, ProducerStates, has_expired};
pub use replicas::{
    AlterPartition, AlterPartitionOutcome, FollowerEnds, FollowerError, LeaderEffects, NotEnoughReplicas,
    ReplicaAssignment, ReplicaBroker, ReplicationPolicy,
};
pub use rewind::Rewind;
pub use snapshot::{PartitionSnapshot, ProducerSnapshot, SnapshotError};
