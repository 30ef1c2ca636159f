//! The committed offsets of one partition of `__consumer_offsets`.

use super::offset_record::CommittedOffset;
use super::request::{NamedPartition, OffsetAndMetadata};
use logmill_wire::ids::TimestampMs;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Offsets by group and partition. A group stands here as long as it has an offset.
#[derive(Debug, Default)]
pub(super) struct Offsets(BTreeMap<Arc<str>, BTreeMap<NamedPartition, CommittedOffset>>);

impl Offsets {
    /// The only mutation: what a record says.
    pub(super) fn apply(
        &mut self,
        group_id: &Arc<str>,
        partition: &NamedPartition,
        value: Option<CommittedOffset>,
    ) {
        if let Some(value) = value {
            self.0.entry(Arc::clone(group_id)).or_default().insert(partition.clone(), value);
        } else if let Some(offsets) = self.0.get_mut(group_id) {
            offsets.remove(partition);
            if offsets.is_empty() {
                self.0.remove(group_id);
            }
        }
    }

    pub(super) fn get(&self, group_id: &str, partition: &NamedPartition) -> Option<&CommittedOffset> {
        self.0.get(group_id)?.get(partition)
    }

    pub(super) fn of_group(
        &self,
        group_id: &str,
    ) -> impl Iterator<Item = (&NamedPartition, &CommittedOffset)> {
        self.0.get(group_id).into_iter().flatten()
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }

    pub(super) fn has_any(&self, group_id: &str) -> bool {
        self.0.contains_key(group_id)
    }

    /// What a fetch of these partitions, or of all, finds.
    pub(super) fn fetch(
        &self,
        group_id: &str,
        partitions: Option<Vec<NamedPartition>>,
    ) -> Vec<(NamedPartition, Option<OffsetAndMetadata>)> {
        match partitions {
            Some(partitions) => partitions
                .into_iter()
                .map(|partition| {
                    let found = self.get(group_id, &partition).map(|offset| offset.committed.clone());
                    (partition, found)
                })
                .collect(),
            None => self
                .of_group(group_id)
                .map(|(partition, offset)| (partition.clone(), Some(offset.committed.clone())))
                .collect(),
        }
    }
}

/// From when on the offsets of a group age (KIP-211).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aging {
    /// The group has members that need its offsets, as far as can be told.
    Never,
    /// Each from its commit on.
    SinceCommit,
    /// All of them since the last member left.
    Since(TimestampMs),
}

/// Whether an offset has expired at `now`.
pub(super) fn is_expired(
    offset: &CommittedOffset,
    aging: Aging,
    retention_ms: i64,
    now: TimestampMs,
) -> bool {
    if let Some(at) = offset.expire_timestamp {
        return aging != Aging::Never && now >= at;
    }
    let since = match aging {
        Aging::Never => return false,
        Aging::SinceCommit => offset.commit_timestamp,
        // An offset that was committed from outside to an empty group is as young as its commit.
        Aging::Since(time) => time.max(offset.commit_timestamp),
    };
    now.0.saturating_sub(since.0) >= retention_ms
}
