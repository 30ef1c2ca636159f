//! Records are read from the partitions of one topic.

use super::clock::Backoff;
use super::cluster::{Cluster, EARLIEST, LATEST, PATIENCE, To, Topic};
use super::connection::Answer;
use super::failure::Failure;
use logmill_wire::api::fetch;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{Offset, TimestampMs};
use logmill_wire::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use logmill_wire::record_batch::{BatchView, Record, RecordHeaders, validate_stored_header, whole_batches};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

/// The most bytes of one answer (`fetch.max.bytes`), and of one partition in it (`max.partition.fetch.bytes`).
const ANSWER_BYTES_MAX: i32 = 50 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;

/// A record with its place.
#[derive(Clone, Copy, Debug)]
pub struct Consumed<'a> {
    /// The number of its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: TimestampMs,
    record: Record<'a>,
}

impl<'a> Consumed<'a> {
    /// The key; `None` is null.
    #[must_use]
    pub const fn key(&self) -> Option<&'a [u8]> {
        self.record.key
    }

    /// The value; `None` is null.
    #[must_use]
    pub const fn value(&self) -> Option<&'a [u8]> {
        self.record.value
    }

    /// The headers, in order.
    #[must_use]
    pub const fn headers(&self) -> RecordHeaders<'a> {
        self.record.headers()
    }
}

/// Records that are no longer there: the log was cut while it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The number of the partition.
    pub partition: i32,
    /// Where reading stood.
    pub from: i64,
    /// Where it goes on.
    pub to: i64,
}

/// Where reading stands in the partitions of one topic.
#[derive(Debug)]
pub struct Fetcher {
    topic: Topic,
    positions: BTreeMap<i32, i64>,
    /// Where to stop, by partition.
    ends: BTreeMap<i32, i64>,
    turn: usize,
    trouble: Option<Backoff>,
    skipped: Vec<Skipped>,
}

impl Fetcher {
    /// Reads nothing until it is told where.
    #[must_use]
    pub fn new(topic: Topic) -> Self {
        let (positions, ends) = (BTreeMap::new(), BTreeMap::new());
        Self { topic, positions, ends, turn: 0, trouble: None, skipped: Vec::new() }
    }

    /// Hands over no record from these offsets on.
    pub fn stop_at(&mut self, ends: BTreeMap<i32, i64>) {
        self.ends = ends;
    }

    /// Whether there is nothing left to read before the offsets to stop at.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.positions.iter().all(|(partition, at)| *at >= self.end(*partition))
    }

    fn end(&self, partition: i32) -> i64 {
        self.ends.get(&partition).copied().unwrap_or(i64::MAX)
    }

    /// The topic.
    #[must_use]
    pub const fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The offset of the next record of each partition that is read.
    #[must_use]
    pub const fn positions(&self) -> &BTreeMap<i32, i64> {
        &self.positions
    }

    /// Reads these partitions too, from these offsets on.
    pub fn add(&mut self, positions: impl IntoIterator<Item = (i32, i64)>) {
        self.positions.extend(positions);
    }

    /// No longer reads the partitions for which `keep` does not hold.
    pub fn retain(&mut self, keep: impl Fn(i32) -> bool) {
        self.positions.retain(|partition, _| keep(*partition));
    }

    /// What had to be passed over since this was last asked.
    pub fn take_skipped(&mut self) -> Vec<Skipped> {
        std::mem::take(&mut self.skipped)
    }

    /// Waits for records for about as long as `wait`, and hands them to `each` until it breaks. The positions stand
    /// behind the last record that was handed over.
    ///
    /// # Errors
    /// Those of `each`; a partition cannot be read for a minute, or never again.
    pub fn poll<E: From<Failure>>(
        &mut self,
        cluster: &mut Cluster,
        wait: Duration,
        mut each: impl FnMut(&Consumed<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        let mut trouble = None;
        for (&partition, _) in self.positions.iter().filter(|(partition, at)| **at < self.end(**partition)) {
            match self.topic.leader(partition) {
                Some(leader) => by_leader.entry(leader).or_default().push(partition),
                None => trouble = Some(self.refused(partition, ErrorCode::LeaderNotAvailable.code())),
            }
        }
        let wait = wait / u32::try_from(by_leader.len()).unwrap_or(u32::MAX).max(1);
        for (leader, mut partitions) in by_leader {
            // Each partition comes first once in a while, since the first ones get the most of an answer.
            self.turn = self.turn.wrapping_add(1);
            let count = partitions.len();
            partitions.rotate_left(self.turn % count);
            let answer = match self.fetch(cluster, leader, &partitions, wait) {
                Ok(answer) => answer,
                Err(failure) if failure.is_retriable() => {
                    trouble = Some(failure);
                    continue;
                }
                Err(failure) => return Err(failure.into()),
            };
            let (flow, troubled) = self.read(cluster, &answer, &mut each)?;
            trouble = troubled.or(trouble);
            if flow.is_break() {
                return Ok(flow);
            }
        }
        match trouble {
            None => self.trouble = None,
            Some(failure) => self.recover(cluster, failure)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    fn fetch(
        &self,
        cluster: &mut Cluster,
        leader: i32,
        partitions: &[i32],
        wait: Duration,
    ) -> Result<Answer, Failure> {
        let partition = |&partition: &i32| fetch::FetchPartition {
            partition,
            fetch_offset: self.positions.get(&partition).copied().unwrap_or(0),
            partition_max_bytes: PARTITION_BYTES_MAX,
            ..Default::default()
        };
        let topic = fetch::FetchTopic {
            topic: self.topic.name.as_str().into(),
            topic_id: self.topic.id,
            partitions: partitions.iter().map(partition).collect(),
        };
        let request = fetch::Request {
            max_wait_ms: i32::try_from(wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: 1,
            max_bytes: ANSWER_BYTES_MAX,
            topics: vec![topic].into(),
            ..Default::default()
        };
        cluster.call(To::Broker(leader), &request)
    }

    /// Hands over what an answer holds. What cannot be read now is returned as the second value.
    fn read<E: From<Failure>>(
        &mut self,
        cluster: &mut Cluster,
        answer: &Answer,
        each: &mut impl FnMut(&Consumed<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<(ControlFlow<()>, Option<Failure>), E> {
        let response: fetch::Response<'_> = answer.decode()?;
        Failure::check(response.error_code, None, || format!("reading from {}", self.topic.name))?;
        let mut trouble = None;
        for data in response.responses.iter().flat_map(|topic| topic.partitions.into_vec()) {
            let partition = data.partition_index;
            if !self.positions.contains_key(&partition) {
                continue;
            }
            match ErrorCode::from_code(data.error_code) {
                Some(ErrorCode::None) => {}
                Some(ErrorCode::OffsetOutOfRange) => {
                    self.skip(cluster, partition)?;
                    continue;
                }
                _ => {
                    let failure = self.refused(partition, data.error_code);
                    if !failure.is_retriable() {
                        return Err(failure.into());
                    }
                    trouble = Some(failure);
                    continue;
                }
            }
            let records = data.records.as_ref().and_then(|records| records.borrowed()).unwrap_or_default();
            for batch in whole_batches(records) {
                let flow =
                    self.read_batch(partition, batch.map_err(|error| answer_damaged(&error))?, each)?;
                if flow.is_break() {
                    return Ok((flow, trouble));
                }
            }
        }
        Ok((ControlFlow::Continue(()), trouble))
    }

    fn read_batch<E: From<Failure>>(
        &mut self,
        partition: i32,
        batch: BatchView<'_>,
        each: &mut impl FnMut(&Consumed<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        let end = self.end(partition);
        let Some(position) = self.positions.get_mut(&partition) else { return Ok(ControlFlow::Continue(())) };
        validate_stored_header(&batch).map_err(|error| answer_damaged(&error))?;
        let header = batch.header();
        // What is in control batches is for brokers and consumers, not for readers.
        if !header.attributes.is_control() {
            let contents =
                batch.contents(DECOMPRESSED_BATCH_BYTES_MAX).map_err(|error| answer_damaged(&error))?;
            for record in contents.records() {
                let record = record.map_err(|error| answer_damaged(&error))?;
                let Offset(offset) = record.offset(header);
                // An answer starts with the batch that holds the offset, not with the record.
                if offset < *position {
                    continue;
                }
                if offset >= end {
                    break;
                }
                let timestamp_ms = record.timestamp(header);
                let flow = each(&Consumed { partition, offset, timestamp_ms, record })?;
                *position = offset.saturating_add(1);
                if flow.is_break() {
                    return Ok(flow);
                }
            }
        }
        *position = (*position).max(header.next_offset().0.min(end));
        Ok(ControlFlow::Continue(()))
    }

    /// Goes on at the log's start if what comes next is gone.
    fn skip(&mut self, cluster: &mut Cluster, partition: i32) -> Result<(), Failure> {
        let from = self.positions.get(&partition).copied().unwrap_or(0);
        let bound = |found: &BTreeMap<i32, i64>| found.get(&partition).copied();
        let start = bound(&cluster.offsets(&self.topic.name, &[partition], EARLIEST)?).unwrap_or(0);
        let end = bound(&cluster.offsets(&self.topic.name, &[partition], LATEST)?).unwrap_or(0);
        if from > end {
            return Err(Failure::unfit(
                format!("offset {from} of partition {partition} lies behind the log's end, {end}"),
                "see the broker's log for lost records; start again, from an offset that is there",
            ));
        }
        let to = from.max(start);
        self.positions.insert(partition, to);
        self.skipped.push(Skipped { partition, from, to });
        Ok(())
    }

    /// Waits a little and looks again who leads the partitions.
    fn recover(&mut self, cluster: &mut Cluster, failure: Failure) -> Result<(), Failure> {
        if !self.trouble.get_or_insert_with(|| Backoff::new(PATIENCE)).pause() {
            return Err(failure);
        }
        let topic = match cluster.topic(&self.topic.name, false) {
            Err(failure) if failure.is_retriable() => return Ok(()),
            found => found?,
        };
        if topic.id != self.topic.id {
            return Err(Failure::unfit(
                format!("topic {} was deleted and created again", topic.name),
                "start again",
            ));
        }
        self.topic = topic;
        Ok(())
    }

    fn refused(&self, partition: i32, code: i16) -> Failure {
        let what = format!("partition {partition} of {} cannot be read", self.topic.name);
        Failure::Refused { what, code, message: None }
    }
}

fn answer_damaged(error: &logmill_wire::record_batch::BatchError) -> Failure {
    Failure::unfit(
        format!("what the broker sent is damaged: {error}"),
        "try again; if it stays so, check the broker's disk",
    )
}
