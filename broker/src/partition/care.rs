//! Looking after the logs of a shard: what is too old or too much leaves them, whether anybody uses them or not.

use super::command::PartitionError;
use super::hosted::{Partition, storage_error};
use super::table::PartitionTable;
use crate::log::{Log, LogError};
use crate::runtime::{Runtime, oneshot};
use logmill_state::log_plan::{CleanupSettings, LogBounds, Retention, RetentionStep, plan_retention};
use logmill_wire::hashing::HashMap;
use logmill_wire::ids::{Offset, TimestampMs, TopicPartition};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The longest time from a start to the first look.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(30);

/// Why a log that nobody uses needs no look for a while.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Rest {
    end: i64,
    settings: CleanupSettings,
    until: TimestampMs,
}

impl<R: Runtime> PartitionTable<R> {
    /// Looks after the logs for as long as the table is there: deletes every `log.retention.check.interval.ms`, and
    /// compacts, and says again to other brokers what may have got lost; `shards` share what compaction may take.
    pub fn start_care(self: &Rc<Self>, shards: u16) {
        self.start_repeating();
        self.start_compacting(shards);
        self.start_expiring_producers();
        let interval = Duration::from_millis(self.settings.log.retention_check_interval_ms);
        let (runtime, table) = (self.runtime.clone(), Rc::downgrade(self));
        self.runtime.spawn(async move {
            runtime.sleep(interval.min(FIRST_LOOK_MAX)).await;
            while let Some(table) = table.upgrade().filter(|table| !table.stores.is_ending()) {
                table.retain().await;
                drop(table);
                runtime.sleep(interval).await;
            }
        });
    }

    /// Lets go of what is too old or too much, one log after another.
    pub async fn retain(self: &Rc<Self>) {
        let before = std::mem::take(&mut *self.resting.borrow_mut());
        for key in self.all_logs() {
            if self.stores.is_ending() {
                return;
            }
            if let Err(error) = self.retain_one(key, &before).await {
                tracing::warn!(partition = %key, error = %error.message(), "old records could not be deleted; it is tried again");
            }
            self.runtime.yield_now().await;
        }
    }

    async fn retain_one(
        self: &Rc<Self>,
        key: TopicPartition,
        before: &HashMap<TopicPartition, Rest>,
    ) -> Result<(), PartitionError> {
        let image = Arc::clone(&self.image.borrow());
        let Some(topic) = image.topic_by_id(key.topic_id) else { return Ok(()) };
        let settings = self.policy_of(topic).cleanup;
        if !settings.delete || (settings.retention_ms.is_none() && settings.retention_bytes.is_none()) {
            return Ok(());
        }
        let hosted = self.in_use(key);
        if let Some(partition) = hosted {
            return partition.retain().await;
        }
        let Some((store, state)) = self.stores.stored(key) else { return Ok(()) };
        let now = self.runtime.wall_clock();
        let rested = before
            .get(&key)
            .copied()
            .filter(|rest| rest.end == state.next_offset && rest.settings == settings && rest.until >= now);
        if let Some(rest) = rested {
            self.resting.borrow_mut().insert(key, rest);
            return Ok(());
        }
        if state.damage.is_some() || state.log_start_offset == state.next_offset {
            return Ok(());
        }
        // A log of its own, only to look: the partition is not brought to life for nothing.
        let (log, _) = Log::from_state(Rc::clone(store), &state);
        self.looked_at.set(Some(key));
        let bounds =
            LogBounds { start: Offset(state.log_start_offset), high_watermark: Offset(state.next_offset) };
        let retention = look(&log, bounds.high_watermark, &settings, bounds, now).await;
        self.looked_at.set(None);
        let retention = retention.map_err(storage_error)?;
        if retention.start.is_some() {
            return self.hosted(key)?.retain().await;
        }
        let rest = Rest { end: state.next_offset, settings, until: retention.rest_until };
        self.resting.borrow_mut().insert(key, rest);
        Ok(())
    }
}

impl<R: Runtime> Partition<R> {
    /// Lets go of what is too old or too much.
    ///
    /// # Errors
    /// If the log cannot be read or written.
    pub(super) async fn retain(self: &Rc<Self>) -> Result<(), PartitionError> {
        let settings = self.policy.get().cleanup;
        let now = self.runtime.wall_clock();
        let (bounds, end) = {
            let role = self.role.borrow();
            // A follower's log starts where its leader's does.
            let Some(leader) = role.leader() else { return Ok(()) };
            let (start, high_watermark) = (leader.log_start_offset(), leader.high_watermark());
            (LogBounds { start, high_watermark }, leader.next_offset())
        };
        // A damaged log is kept as it is.
        if bounds.start == end || self.log.damage().is_some() {
            return Ok(());
        }
        let retention = look(&self.log, end, &settings, bounds, now).await.map_err(storage_error)?;
        let Some(start) = retention.start else { return Ok(()) };
        if retention.roll {
            self.roll().await.map_err(storage_error)?;
        }
        let (reply, answer) = oneshot::channel();
        self.start_at(start, false, reply);
        let start = answer.await.unwrap_or(Err(PartitionError::Stopping))?;
        tracing::debug!(log = %self.log.key(), %start, "old records were deleted");
        Ok(())
    }
}

async fn look<R: Runtime>(
    log: &Rc<Log<R>>,
    end: Offset,
    settings: &CleanupSettings,
    bounds: LogBounds,
    now: TimestampMs,
) -> Result<Retention, LogError> {
    let mut segments = log.describe(end).await?;
    loop {
        match plan_retention(&segments, settings, bounds, now) {
            RetentionStep::Do(retention) => return Ok(retention),
            RetentionStep::Look(number) => {
                let Some(segment) = segments.get_mut(number) else { return Err(LogError::OutOfRange) };
                segment.largest_timestamp = log.largest_timestamp(segment.base).await?;
            }
        }
    }
}
