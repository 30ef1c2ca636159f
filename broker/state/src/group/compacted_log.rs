//! What compaction leaves of a partition of `__consumer_offsets`.

use super::{EncodedRecord, GroupRecord, Groups};
use crate::log_plan::{CompactionRules, KeyMap, compact_batches};
use logmill_wire::ids::{Offset, TimestampMs};
use logmill_wire::record_batch::{BatchBuilder, batches};
use std::collections::BTreeSet;

/// Records of one batch; the coordinator's have any number.
const BATCH_RECORDS: usize = 3;

/// What is left of a log after its records before `end` were compacted, twice; the tombstones go the second time.
fn compacted(log: &[EncodedRecord], end: usize) -> Vec<EncodedRecord> {
    let mut bytes = Vec::new();
    for (number, records) in log.chunks(BATCH_RECORDS).enumerate() {
        let mut batch = BatchBuilder::new().base_offset(Offset((number * BATCH_RECORDS) as i64));
        for record in records {
            batch.append(TimestampMs(1), Some(&record.key), record.value.as_deref(), &[]);
        }
        bytes.extend_from_slice(&batch.finish().unwrap());
    }
    for now in [TimestampMs(1_000), TimestampMs(5_000)] {
        let mut map = KeyMap::new(Offset(0), 1 << 20, [7, 8]);
        map.note(&bytes, Offset(end as i64));
        let rules = CompactionRules { now, delete_retention_ms: 1_000, last_of_producers: BTreeSet::new() };
        bytes = compact_batches(&bytes, &map, &rules).unwrap().bytes;
    }
    let mut left = Vec::new();
    for batch in batches(&bytes) {
        for record in batch.unwrap().contents(1 << 20).unwrap().records() {
            let record = record.unwrap();
            let (key, value) = (record.key.unwrap().to_vec(), record.value.map(<[u8]>::to_vec));
            left.push(EncodedRecord { key, value });
        }
    }
    left
}

fn replay(log: &[EncodedRecord]) -> Groups {
    let mut groups = Groups::default();
    for record in log {
        let decoded = GroupRecord::decode(Some(&record.key), record.value.as_deref()).unwrap();
        groups.replay(decoded.expect("a record of ours"));
    }
    groups
}

/// The groups as a coordinator reads them from a log that was never compacted, and from what is left of it after all of
/// it, or a part of it, was.
pub(super) fn replay_all_ways(log: &[GroupRecord]) -> (Groups, Vec<Groups>) {
    let log: Vec<EncodedRecord> = log.iter().map(|record| record.encode().unwrap()).collect();
    let whole = log.len() - log.len() % BATCH_RECORDS;
    let ends = [log.len(), whole, whole / BATCH_RECORDS / 2 * BATCH_RECORDS];
    (replay(&log), ends.into_iter().map(|end| replay(&compacted(&log, end))).collect())
}
