//! Looking for logs that are worth compacting, whether anybody uses them or not, and having them compacted.

use super::command::PartitionError;
use super::hosted::{Partition, storage_error};
use super::table::PartitionTable;
use crate::log::{CleanerBudget, Log, LogError};
use crate::runtime::Runtime;
use logmill_state::log_plan::{
    CleanupSettings, Compaction, CompactionRules, CompactionStep, LogBounds, plan_compaction,
};
use logmill_state::metadata::Topic;
use logmill_wire::hashing::HashMap;
use logmill_wire::ids::{Offset, PartitionIndex, TimestampMs, TopicPartition};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The shortest rest between two looks for logs that are worth compacting.
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// How long a log is left alone whose compaction met an error or did not get on.
const RETRY_AFTER_MS: i64 = 60_000;

/// Why a log needs no look for a while: its closed segments and its settings are as they were.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct CompactionRest {
    closed_below: Offset,
    settings: CleanupSettings,
    until: TimestampMs,
}

type Resting = HashMap<TopicPartition, CompactionRest>;

impl<R: Runtime> PartitionTable<R> {
    /// Compacts logs for as long as the table is there, with rests of `log.cleaner.backoff.ms`; `shards` share what
    /// compaction may take.
    pub(super) fn start_compacting(self: &Rc<Self>, shards: u16) {
        if !self.settings.log.cleaner_enable {
            return;
        }
        let (runtime, table) = (self.runtime.clone(), Rc::downgrade(self));
        self.runtime.spawn(async move {
            let mut resting = Resting::default();
            while let Some(alive) = table.upgrade().filter(|table| !table.stores.is_ending()) {
                let backoff = Duration::from_millis(alive.effective_settings().log.cleaner_backoff_ms);
                drop(alive);
                runtime.sleep(backoff.max(BACKOFF_MIN)).await;
                if let Some(alive) = table.upgrade() {
                    resting = alive.compact(&resting, shards).await;
                }
            }
        });
    }

    /// Compacts the logs that are worth it, one after another; says which ones need no look for a while.
    async fn compact(self: &Rc<Self>, before: &Resting, shards: u16) -> Resting {
        let mut resting = Resting::default();
        for key in self.compacted_logs() {
            if self.stores.is_ending() {
                break;
            }
            match self.compact_one(key, before.get(&key), shards).await {
                Ok(rest) => {
                    resting.extend(rest.map(|rest| (key, rest)));
                }
                Err(_) if self.stores.is_ending() => {}
                // The topic was deleted meanwhile.
                Err(PartitionError::NotHosted) => {}
                Err(error) => {
                    tracing::warn!(partition = %key, error = %error.message(), "a log could not be compacted; it is tried again in a minute");
                    resting.extend(self.rest_of(key, RETRY_AFTER_MS).map(|rest| (key, rest)));
                }
            }
            self.runtime.yield_now().await;
        }
        resting
    }

    /// The partitions of compacted topics, whether this shard has their logs or not.
    fn compacted_logs(&self) -> Vec<TopicPartition> {
        let image = Arc::clone(&self.image.borrow());
        let topics = image.topics().filter(|topic| self.may_be_compacted(topic));
        let partitions = topics.flat_map(|topic| {
            let indexes = (0..topic.partition_count()).map(PartitionIndex);
            indexes.map(|partition| TopicPartition { topic_id: topic.id, partition })
        });
        partitions.collect()
    }

    /// Compacts a log, if it is worth it; otherwise says until when it will not be.
    async fn compact_one(
        self: &Rc<Self>,
        key: TopicPartition,
        before: Option<&CompactionRest>,
        shards: u16,
    ) -> Result<Option<CompactionRest>, PartitionError> {
        let Some(as_it_is) = self.rest_of(key, 0) else { return Ok(None) };
        let CompactionRest { settings, until: now, .. } = as_it_is;
        if !settings.compact || self.looked_at.get() == Some(key) {
            return Ok(None);
        }
        if let Some(rest) = before
            && (CompactionRest { until: now, ..*rest }) == as_it_is
            && rest.until > now
        {
            return Ok(Some(*rest));
        }
        let step = match self.in_use(key) {
            Some(partition) => partition.plan_compaction(&settings, now).await,
            None => self.plan_for_stored(key, &settings, now).await,
        };
        let compaction = match step.map_err(storage_error)? {
            CompactionStep::Do(compaction) => compaction,
            CompactionStep::Rest(until) => return Ok(Some(CompactionRest { until, ..as_it_is })),
            CompactionStep::Look(_) => return Ok(None),
        };
        let partition = self.hosted(key)?;
        partition.compact(compaction, now, self.cleaner_share(shards)).await?;
        let is_done = partition.log.cleaned_to() >= compaction.end;
        Ok(if is_done { None } else { self.rest_of(key, RETRY_AFTER_MS) })
    }

    /// How a log and its settings are, with a rest of so long from now; `None` if the topic is gone, or the log is
    /// not on this shard.
    fn rest_of(&self, key: TopicPartition, rest_ms: i64) -> Option<CompactionRest> {
        let (settings, closed_below) = match self.in_use(key) {
            Some(partition) => (partition.policy.get().cleanup, partition.log.closed_below()),
            None => {
                let image = Arc::clone(&self.image.borrow());
                let closed_below = self.stores.last_segment_of(key)?;
                (self.policy_of(image.topic_by_id(key.topic_id)?).cleanup, closed_below)
            }
        };
        let until = TimestampMs(self.runtime.wall_clock().0.saturating_add(rest_ms));
        Some(CompactionRest { closed_below, settings, until })
    }

    /// A quick look, for there may be a hundred thousand topics.
    fn may_be_compacted(&self, topic: &Topic) -> bool {
        match topic.configs.get("cleanup.policy") {
            Some(policy) => policy.contains("compact"),
            None => self.effective_settings().log.cleanup_policy.compact,
        }
    }

    /// What of a log is to be compacted that nobody uses.
    async fn plan_for_stored(
        &self,
        key: TopicPartition,
        settings: &CleanupSettings,
        now: TimestampMs,
    ) -> Result<CompactionStep, LogError> {
        let nothing = CompactionStep::Rest(TimestampMs(i64::MAX));
        let Some((store, state)) = self.stores.stored(key) else { return Ok(nothing) };
        let bounds =
            LogBounds { start: Offset(state.log_start_offset), high_watermark: Offset(state.next_offset) };
        if state.damage.is_some() || bounds.start == bounds.high_watermark {
            return Ok(nothing);
        }
        // A log of its own, only to look: the partition is not brought to life for nothing.
        let (log, _) = Log::from_state(Rc::clone(store), &state);
        plan(&log, settings, bounds, now).await
    }

    fn cleaner_share(&self, shards: u16) -> CleanerShare {
        let settings = self.effective_settings();
        let shards = shards.max(1);
        CleanerShare {
            map_bytes: usize::try_from(settings.log.cleaner_dedupe_buffer_bytes).unwrap_or(usize::MAX)
                / usize::from(shards),
            io_bytes_per_second: settings.log.cleaner_io_bytes_per_second / f64::from(shards),
        }
    }
}

/// What a shard's compaction may take.
#[derive(Clone, Copy)]
struct CleanerShare {
    map_bytes: usize,
    io_bytes_per_second: f64,
}

impl<R: Runtime> Partition<R> {
    async fn plan_compaction(
        self: &Rc<Self>,
        settings: &CleanupSettings,
        now: TimestampMs,
    ) -> Result<CompactionStep, LogError> {
        let (bounds, end) = {
            let role = self.role.borrow();
            let log = role.log();
            let (start, high_watermark) = (log.log_start_offset(), log.high_watermark());
            (LogBounds { start, high_watermark }, log.next_offset())
        };
        // A damaged log is kept as it is.
        if bounds.start == end || self.log.damage().is_some() {
            return Ok(CompactionStep::Rest(TimestampMs(i64::MAX)));
        }
        plan(&self.log, settings, bounds, now).await
    }

    async fn compact(
        self: &Rc<Self>,
        compaction: Compaction,
        now: TimestampMs,
        share: CleanerShare,
    ) -> Result<(), PartitionError> {
        let policy = self.policy.get();
        let producers = self.role.borrow().log().snapshot().producers;
        let rules = CompactionRules {
            now,
            delete_retention_ms: policy.cleanup.delete_retention_ms,
            last_of_producers: producers.iter().map(|producer| Offset(producer.last_offset)).collect(),
        };
        let budget = CleanerBudget {
            map_bytes: share.map_bytes,
            io_bytes_per_second: share.io_bytes_per_second,
            segment_bytes: policy.log.segment_bytes,
        };
        self.log.compact(compaction, rules, budget).await.map_err(storage_error)
    }
}

async fn plan<R: Runtime>(
    log: &Rc<Log<R>>,
    settings: &CleanupSettings,
    bounds: LogBounds,
    now: TimestampMs,
) -> Result<CompactionStep, LogError> {
    let mut segments = log.closed_segments().await?;
    loop {
        let step = plan_compaction(&segments, settings, bounds, log.cleaned_to(), now);
        let CompactionStep::Look(number) = step else { return Ok(step) };
        let Some(segment) = segments.get_mut(number) else { return Err(LogError::OutOfRange) };
        segment.times = Some(log.times_of(segment.base).await?);
    }
}
