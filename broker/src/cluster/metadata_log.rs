//! The metadata log: `__cluster_metadata-0`, an ordinary log of ordinary batches on the control shard. The
//! value of each record is one [`Record`].

use super::command::MetadataError;
use crate::log::{Log, LogSettings, Store};
use crate::partition::command::{Acks, PartitionError, ReadRequest};
use crate::partition::{ContentPolicy, Partition, PartitionPolicy};
use crate::runtime::{Runtime, gather};
use logmill_state::log_plan::CleanupSettings;
use logmill_state::metadata::{Image, Record};
use logmill_state::partition::{AppendPolicy, Isolation, Leader};
use logmill_wire::ids::{LeaderEpoch, Offset, PartitionIndex, TopicPartition, Uuid};
use logmill_wire::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use logmill_wire::record_batch::{BatchBuilder, BatchView, batches};
use std::fmt;
use std::rc::Rc;

/// The metadata partition. Its topic id is the one that Kafka's KRaft gives it.
pub const METADATA_PARTITION: TopicPartition = TopicPartition {
    topic_id: Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    partition: PartitionIndex(0),
};

const DIRECTORY: &str = "__cluster_metadata-0";

/// Bytes that a replay reads at a time.
const REPLAY_BYTES: usize = 1 << 20;

/// Why the metadata log cannot be used.
#[derive(Debug)]
pub enum MetadataLogError {
    /// The log cannot be read.
    Unreadable(PartitionError),
    /// A record is not one of ours, or contradicts those before it.
    Invalid {
        /// Where in the log.
        offset: Offset,
        /// What is wrong.
        cause: String,
    },
}

impl fmt::Display for MetadataLogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "the metadata log cannot be read: {}", error.message()),
            Self::Invalid { offset, cause } => {
                write!(f, "the metadata log's record at offset {offset} cannot be applied: {cause}")
            }
        }
    }
}

impl std::error::Error for MetadataLogError {}

/// The metadata log of this node.
pub struct MetadataLog<R: Runtime> {
    partition: Rc<Partition<R>>,
}

impl<R: Runtime> MetadataLog<R> {
    /// Opens the log; this incarnation writes in an epoch of its own.
    ///
    /// # Errors
    /// If what is stored of it contradicts itself.
    pub fn open(runtime: R, store: &Rc<Store<R>>) -> Result<Self, MetadataLogError> {
        let (log, leader) = match store.state_of(METADATA_PARTITION) {
            Some(state) => {
                let (log, snapshot) = Log::from_state(Rc::clone(store), &state);
                let leader = Leader::restore(&snapshot).map_err(|error| {
                    MetadataLogError::Unreadable(PartitionError::Corrupt(error.to_string()))
                })?;
                (log, leader)
            }
            None => {
                let log = Log::fresh(Rc::clone(store), METADATA_PARTITION, DIRECTORY.to_owned());
                (log, Leader::starting_at(Offset(0)))
            }
        };
        let epoch = LeaderEpoch(leader.leader_epoch().0.max(-1) + 1);
        let append = AppendPolicy { max_message_bytes: i32::MAX, ..AppendPolicy::default() };
        let log_settings = LogSettings { segment_bytes: 1 << 30, segment_ms: i64::MAX, write_caching: false };
        let cleanup = CleanupSettings::KEEP_ALL;
        let policy = Rc::new(PartitionPolicy {
            append,
            contents: ContentPolicy::AS_SENT,
            log: log_settings,
            segment_jitter_ms: 0,
            min_insync_replicas: 1,
            cleanup,
        });
        let partition =
            Partition::host(runtime, log, leader, epoch, policy).map_err(MetadataLogError::Unreadable)?;
        Ok(Self { partition })
    }

    /// Applies all records to an empty image.
    ///
    /// # Errors
    /// If a record cannot be read or applied.
    pub async fn replay(&self) -> Result<Image, MetadataLogError> {
        let mut image = Image::default();
        let mut offset = Offset(0);
        loop {
            let request = ReadRequest {
                offset,
                max_bytes: REPLAY_BYTES,
                at_least_one: true,
                current_leader_epoch: LeaderEpoch::NONE,
                last_fetched_epoch: LeaderEpoch::NONE,
                isolation: Isolation::ReadUncommitted,
            };
            let read = Rc::clone(&self.partition).read(request).await;
            let parts = read.records.map_err(MetadataLogError::Unreadable)?;
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            let before = offset;
            // The last batch of a read may be cut; it comes again, whole, with the next one.
            for batch in batches(&bytes).map_while(Result::ok) {
                apply_batch(&batch, offset, &mut image)?;
                offset = batch.header().next_offset();
            }
            if offset == before {
                return Ok(image);
            }
        }
    }

    /// Commits records, all or none of them.
    ///
    /// # Errors
    /// If the log does not take them; whether they will be there after a restart is then unknown.
    pub async fn commit(&self, records: &[Record], runtime: &R) -> Result<(), MetadataError> {
        let failed = |cause: String| MetadataError::NotCommitted(cause);
        let mut builder = BatchBuilder::new();
        let now = runtime.wall_clock();
        for record in records {
            builder.append(now, None, Some(&record.encode()), &[]);
        }
        let batch = builder.finish().map_err(|error| failed(error.to_string()))?;
        let (reply, mut answer) = gather::channel(1);
        let batch = batch.into();
        self.partition.append(&batch, 0..batch.len(), Acks::All, now, reply.into_only());
        (&mut answer).await;
        match answer.into_answers().pop().flatten() {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(failed(error.message())),
            None => Err(MetadataError::Stopping),
        }
    }
}

fn apply_batch(batch: &BatchView<'_>, from: Offset, image: &mut Image) -> Result<(), MetadataLogError> {
    let base = batch.header().base_offset;
    let invalid = |offset: Offset, cause: String| MetadataLogError::Invalid { offset, cause };
    let contents =
        batch.contents(DECOMPRESSED_BATCH_BYTES_MAX).map_err(|error| invalid(base, error.to_string()))?;
    for record in contents.records() {
        let record = record.map_err(|error| invalid(base, error.to_string()))?;
        let offset = base.plus(i64::from(record.offset_delta));
        if offset < from {
            continue;
        }
        let value = record.value.unwrap_or_default();
        let record = Record::decode(value).map_err(|error| invalid(offset, error.to_string()))?;
        image.apply(&record).map_err(|error| invalid(offset, error.to_string()))?;
    }
    Ok(())
}
