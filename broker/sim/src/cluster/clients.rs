//! What clients do all the time: produce, read, commit offsets.

use super::checkers::SharedImages;
use super::client::{Answer, Client, Key, Place};
use super::history::Commit;
use logmill::runtime::Runtime;
use logmill_wire::api::{
    describe_quorum, fetch, find_coordinator, init_producer_id, list_offsets, offset_commit, offset_fetch,
    produce,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{ProducerEpoch, ProducerId, TimestampMs};
use logmill_wire::record_batch::{BatchBuilder, batches};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// `ListOffsets`' name for the log's end.
const LATEST: i64 = -1;

/// What a record's value holds at most, uncompressed.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Tells clients to come to an end, and is told that they work.
#[derive(Default)]
pub struct Progress {
    /// Nobody begins anything new.
    pub is_ending: Cell<bool>,
    /// Batches that were acknowledged with acks=all, for each producer.
    pub delivered: Cell<u64>,
    /// Answers to fetches without an error.
    pub fetched: Cell<u64>,
    /// Commits that were acknowledged.
    pub committed: Cell<u64>,
    /// Heartbeats, commits and looks of members that were answered.
    pub member_rounds: Cell<u64>,
    /// Clients that have not come to their end.
    pub left: Cell<usize>,
}

pub(super) fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// How a producer produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// acks=all, with a producer id.
    Idempotent,
    /// acks=all, and may send again what was appended.
    Plain,
    /// acks=1.
    Leader,
}

/// A producer.
pub struct Producer {
    client: Client,
    kind: Kind,
    identity: Option<(i64, i16)>,
    sequences: BTreeMap<Key, i32>,
}

/// What became of an attempt.
enum Attempt {
    Delivered(i64),
    Again,
    Dropped,
}

impl Producer {
    /// One that has sent nothing.
    #[must_use]
    pub fn new(client: Client, kind: Kind) -> Self {
        Self { client, kind, identity: None, sequences: BTreeMap::new() }
    }

    /// Produces until the end.
    pub async fn run(mut self, progress: Rc<Progress>) {
        while !progress.is_ending.get() {
            self.client.pause(20).await;
            let Some(place) = self.client.any_place() else {
                self.client.refresh().await;
                continue;
            };
            if self.kind == Kind::Idempotent && self.identity.is_none() {
                self.identity = self.identify().await;
                continue;
            }
            self.deliver(place, &progress).await;
        }
        progress.left.set(progress.left.get() - 1);
    }

    async fn identify(&mut self) -> Option<(i64, i16)> {
        let request = init_producer_id::Request {
            transaction_timeout_ms: i32::MAX,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        let node = self.client.any();
        let answer = self.client.call(node, &request, 4).await?;
        let response: init_producer_id::Response = answer.decode()?;
        self.sequences.clear();
        (response.error_code == 0).then_some((response.producer_id, response.producer_epoch))
    }

    fn batch(&mut self, key: Key) -> (Vec<u64>, Vec<u8>) {
        let count = 1 + self.client.chance.below(4);
        let values = self.client.history.borrow_mut().new_values(count, self.kind == Kind::Idempotent);
        let bytes_max = if self.client.chance.one_in(40) { 30_000 } else { 300 };
        let mut builder = BatchBuilder::new();
        if let Some((id, epoch)) = self.identity {
            let sequence = self.sequences.get(&key).copied().unwrap_or(0);
            builder = builder.producer(ProducerId(id), ProducerEpoch(epoch), sequence);
        }
        let timestamp = TimestampMs(self.client.runtime.wall_clock().0);
        for value in &values {
            let filling = vec![*value as u8; self.client.chance.below(bytes_max) as usize];
            builder.append(timestamp, Some(&value.to_be_bytes()), Some(&filling), &[]);
        }
        (values, builder.finish().unwrap_or_default())
    }

    /// Sends a batch until it is acknowledged; one that is not idempotent is given up after a while.
    async fn deliver(&mut self, place: Place, progress: &Progress) {
        let (values, batch) = self.batch(place.key);
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.attempt(place.key, &batch).await {
                Attempt::Delivered(base) => {
                    if self.kind != Kind::Leader {
                        self.client.history.borrow_mut().acknowledge(place.key, base, &values);
                        count(&progress.delivered);
                    }
                    if self.kind == Kind::Idempotent {
                        *self.sequences.entry(place.key).or_insert(0) += values.len() as i32;
                    }
                    return;
                }
                Attempt::Dropped => return,
                Attempt::Again => {}
            }
            let is_given_up = self.kind != Kind::Idempotent && attempts > 5;
            if is_given_up || (progress.is_ending.get() && attempts > 5) {
                // What was sent may still arrive, so nothing can be counted on behind it.
                self.identity = None;
                return;
            }
            self.client.pause(50 * attempts.min(8)).await;
            self.client.refresh().await;
        }
    }

    async fn attempt(&mut self, key: Key, batch: &[u8]) -> Attempt {
        if self.client.history.borrow().is_given_up(key) {
            return Attempt::Dropped;
        }
        let Some(place) = self.client.place(key).filter(|place| place.leader > 0) else {
            return Attempt::Again;
        };
        let data = produce::PartitionProduceData {
            index: key.1,
            records: Some(vec![bytes::Bytes::copy_from_slice(batch)].into()),
        };
        let topic = produce::TopicProduceData {
            topic_id: key.0,
            partition_data: vec![data].into(),
            ..Default::default()
        };
        let request = produce::Request {
            acks: if self.kind == Kind::Leader { 1 } else { -1 },
            timeout_ms: 3_000,
            topic_data: vec![topic].into(),
            ..Default::default()
        };
        let Some(answer) = self.client.call(place.leader, &request, 13).await else { return Attempt::Again };
        let Some(response) = answer.decode::<produce::Response<'_>>() else { return Attempt::Dropped };
        let told = response.responses.iter().flat_map(|topic| topic.partition_responses.into_vec()).next();
        let Some(told) = told else { return Attempt::Again };
        match ErrorCode::from_code(told.error_code) {
            Some(ErrorCode::None) => Attempt::Delivered(told.base_offset),
            Some(code @ (ErrorCode::OutOfOrderSequenceNumber | ErrorCode::UnknownProducerId)) => {
                let what = format!("{} for {}", code.name(), super::history::name(key));
                self.client.history.borrow_mut().break_promise("SequencesHold", what);
                Attempt::Dropped
            }
            _ => Attempt::Again,
        }
    }
}

/// Which of the ends of a log. A leader that has just begun tells consumers of less than its predecessor has, until it
/// knows what is committed; it does not answer who asks for the end until then (KIP-207).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    /// What ListOffsets tells.
    End,
    /// What Fetch tells, of a leader in an epoch.
    HighWatermark(i32),
}

/// One who reads partitions from the beginning on.
pub struct Reader {
    client: Client,
    positions: BTreeMap<Key, i64>,
    /// The highest high watermark that this one was told.
    marks: BTreeMap<(Key, Mark), i64>,
}

impl Reader {
    /// One that has read nothing.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client, positions: BTreeMap::new(), marks: BTreeMap::new() }
    }

    /// Reads until the end.
    pub async fn run(mut self, progress: Rc<Progress>) {
        while !progress.is_ending.get() {
            self.client.pause(30).await;
            let chosen = self.client.any_place();
            let is_done = match chosen {
                Some(place) if self.client.chance.one_in(8) => self.ask_for_end(&place).await.is_some(),
                Some(place) => self.poll(&place, 100).await.is_some(),
                None => false,
            };
            if is_done {
                count(&progress.fetched);
            } else {
                self.client.pause(200).await;
                self.client.refresh().await;
            }
        }
        progress.left.set(progress.left.get() - 1);
    }

    /// Reads all partitions to their ends; `None` if one of them cannot be read now.
    pub async fn read_all(&mut self) -> Option<()> {
        if !self.client.refresh().await {
            return None;
        }
        let places: Vec<Place> = self.client.places().cloned().collect();
        for place in places {
            if self.client.history.borrow().is_given_up(place.key) {
                continue;
            }
            let end = self.ask_for_end(&place).await?;
            while self.positions.get(&place.key).copied().unwrap_or(0) < end {
                self.poll(&place, 500).await?;
            }
        }
        Some(())
    }

    fn note_mark(&mut self, key: Key, which: Mark, mark: i64, how: &str) {
        let known = self.marks.entry((key, which)).or_default();
        self.client.history.borrow_mut().see_high_watermark(key, *known, mark, how);
        *known = mark.max(*known);
    }

    async fn ask_for_end(&mut self, place: &Place) -> Option<i64> {
        let partition = list_offsets::ListOffsetsPartition {
            partition_index: place.key.1,
            current_leader_epoch: place.epoch,
            timestamp: LATEST,
        };
        let name = Cow::Borrowed(&*place.topic);
        let topic = list_offsets::ListOffsetsTopic { name, partitions: vec![partition].into() };
        let request =
            list_offsets::Request { replica_id: -1, topics: vec![topic].into(), ..Default::default() };
        let answer = self.client.call(place.leader, &request, 7).await?;
        let response: list_offsets::Response<'_> = answer.decode()?;
        let told = response.topics.iter().flat_map(|topic| topic.partitions.into_vec()).next()?;
        // The name may be another topic's by now.
        if told.error_code != 0 || self.client.history.borrow().is_given_up(place.key) {
            return None;
        }
        let how = format!("from ListOffsets of node {} in epoch {}", place.leader, told.leader_epoch);
        self.note_mark(place.key, Mark::End, told.offset, &how);
        Some(told.offset)
    }

    async fn poll(&mut self, place: &Place, wait_ms: i32) -> Option<()> {
        let at = self.positions.get(&place.key).copied().unwrap_or(0);
        let partition = fetch::FetchPartition {
            partition: place.key.1,
            current_leader_epoch: place.epoch,
            fetch_offset: at,
            partition_max_bytes: 1 << (10 + self.client.chance.below(10)),
            ..Default::default()
        };
        let topic = fetch::FetchTopic {
            topic_id: place.key.0,
            partitions: vec![partition].into(),
            ..Default::default()
        };
        let request = fetch::Request {
            max_wait_ms: wait_ms,
            min_bytes: 1,
            max_bytes: 1 << 20,
            session_epoch: -1,
            topics: vec![topic].into(),
            ..Default::default()
        };
        let answer = self.client.call(place.leader, &request, 16).await?;
        self.take_in(place, at, &answer)
    }

    fn take_in(&mut self, place: &Place, at: i64, answer: &Answer) -> Option<()> {
        let response: fetch::Response<'_> = answer.decode()?;
        let told = response.responses.iter().flat_map(|topic| topic.partitions.into_vec()).next()?;
        if told.error_code == ErrorCode::OffsetOutOfRange.code() {
            let (partition, Place { leader, epoch, .. }) = (super::history::name(place.key), place);
            let what = format!("{partition} has no offset {at} at node {leader} in epoch {epoch}");
            self.client.history.borrow_mut().break_promise("HighWatermarkStays", what);
        }
        if response.error_code != 0 || told.error_code != 0 {
            return None;
        }
        let how = format!("from Fetch of node {} in epoch {}", place.leader, place.epoch);
        self.note_mark(place.key, Mark::HighWatermark(place.epoch), told.high_watermark, &how);
        let records = told.records.as_ref().and_then(|records| records.borrowed()).unwrap_or_default();
        self.client.look_at_checksums(place, records);
        let mut next = at;
        // The last batch may be cut off.
        for (offset, value) in values(records).into_iter().filter(|(offset, _)| *offset >= at) {
            self.client.history.borrow_mut().read(place.key, offset, value);
            next = offset + 1;
        }
        self.positions.insert(place.key, next);
        Some(())
    }
}

/// The values of all whole batches that are in order, with their offsets.
#[must_use]
pub fn values(bytes: &[u8]) -> Vec<(i64, u64)> {
    let mut found = Vec::new();
    for batch in batches(bytes) {
        let Ok(batch) = batch else { break };
        let Ok(contents) = batch.contents(BATCH_BYTES_MAX) else { break };
        let base = batch.header().base_offset.0;
        for record in contents.records().flatten() {
            let value = record.key.and_then(|key| key.first_chunk().copied()).map(u64::from_be_bytes);
            found.extend(value.map(|value| (base + i64::from(record.offset_delta), value)));
        }
    }
    found
}

/// Asks any node who coordinates a group.
pub(super) async fn coordinator_of(client: &mut Client, group: &str) -> Option<i32> {
    if client.places().next().is_none() {
        client.refresh().await;
    }
    let request =
        find_coordinator::Request { coordinator_keys: vec![group.into()].into(), ..Default::default() };
    let node = client.any();
    let answer = client.call(node, &request, 4).await?;
    let response: find_coordinator::Response<'_> = answer.decode()?;
    let found = response.coordinators.iter().next()?;
    (found.error_code == 0).then_some(found.node_id)
}

/// One who commits offsets, in a group without members, and looks whether they stay.
pub struct Committer {
    client: Client,
    group: String,
    /// What the nodes know, to tell what one of them had to know.
    images: SharedImages,
    coordinator: Option<i32>,
    next: i64,
}

impl Committer {
    /// One that has committed nothing.
    #[must_use]
    pub const fn new(client: Client, group: String, images: SharedImages) -> Self {
        Self { client, group, images, coordinator: None, next: 1 }
    }

    /// Commits until the end.
    pub async fn run(mut self, progress: Rc<Progress>) {
        while !progress.is_ending.get() {
            self.client.pause(60).await;
            let Some(coordinator) = self.coordinator else {
                self.coordinator = coordinator_of(&mut self.client, &self.group).await;
                self.client.pause(200).await;
                continue;
            };
            let done = if self.client.chance.one_in(3) {
                self.look(coordinator, false).await
            } else {
                self.commit(coordinator).await
            };
            if done.is_some() {
                count(&progress.committed);
            } else {
                self.coordinator = None;
            }
        }
        progress.left.set(progress.left.get() - 1);
    }

    /// Looks what is committed in a cluster without faults.
    pub async fn settle(mut self) {
        loop {
            if let Some(coordinator) = coordinator_of(&mut self.client, &self.group).await
                && self.look(coordinator, true).await.is_some()
            {
                return;
            }
            self.client.pause(200).await;
        }
    }

    fn epochs_of(&self, node: i32) -> Vec<i32> {
        self.images.leader_epochs(node as usize - 1, "__consumer_offsets")
    }

    /// The first topic stays as long as the run.
    fn topic(&self) -> Option<Place> {
        self.client.places().find(|place| &*place.topic == super::run::LASTING_TOPIC).cloned()
    }

    async fn commit(&mut self, coordinator: i32) -> Option<()> {
        let place = self.topic()?;
        self.next += 1;
        let partition = offset_commit::OffsetCommitRequestPartition {
            partition_index: place.key.1,
            committed_offset: self.next,
            committed_leader_epoch: -1,
            ..Default::default()
        };
        let topic = offset_commit::OffsetCommitRequestTopic {
            name: Cow::Borrowed(&*place.topic),
            partitions: vec![partition].into(),
            ..Default::default()
        };
        let request = offset_commit::Request {
            group_id: self.group.as_str().into(),
            generation_id_or_member_epoch: -1,
            topics: vec![topic].into(),
            ..Default::default()
        };
        let answer = self.client.call(coordinator, &request, 9).await?;
        let response: offset_commit::Response<'_> = answer.decode()?;
        let told = response.topics.iter().flat_map(|topic| topic.partitions.into_vec()).next()?;
        if told.error_code != 0 {
            return None;
        }
        let at = (self.group.clone(), place.topic.to_string(), place.key.1);
        let commit = Commit { offset: self.next, node: coordinator, epochs: self.epochs_of(coordinator) };
        self.client.history.borrow_mut().commit(at, commit);
        Some(())
    }

    async fn look(&mut self, coordinator: i32, is_settled: bool) -> Option<()> {
        let place = self.topic()?;
        let topic = offset_fetch::OffsetFetchRequestTopics {
            name: Cow::Borrowed(&*place.topic),
            partition_indexes: vec![place.key.1].into(),
            ..Default::default()
        };
        let group = offset_fetch::OffsetFetchRequestGroup {
            group_id: self.group.as_str().into(),
            member_epoch: -1,
            topics: Some(vec![topic].into()),
            ..Default::default()
        };
        let request = offset_fetch::Request { groups: vec![group].into(), ..Default::default() };
        let epochs = self.epochs_of(coordinator);
        let answer = self.client.call(coordinator, &request, 9).await?;
        let response: offset_fetch::Response<'_> = answer.decode()?;
        let group = response.groups.iter().next().filter(|group| group.error_code == 0)?;
        let told = group.topics.iter().flat_map(|topic| topic.partitions.into_vec()).next()?;
        if told.error_code != 0 {
            return None;
        }
        let at = (self.group.clone(), place.topic.to_string(), place.key.1);
        let told = Commit { offset: told.committed_offset, node: coordinator, epochs };
        self.client.history.borrow_mut().see_commit(&at, &told, is_settled);
        Some(())
    }
}

/// One who asks who leads the metadata quorum.
pub async fn watch_quorum(mut client: Client, progress: Rc<Progress>) {
    while !progress.is_ending.get() {
        client.pause(300).await;
        let node = client.any();
        // Only the leader answers, and others ask it; so each answer is that of a leader of the time.
        let _ = ask_quorum(&mut client, node).await;
    }
    progress.left.set(progress.left.get() - 1);
}

async fn ask_quorum(client: &mut Client, node: i32) -> Option<()> {
    let partition = describe_quorum::PartitionData::default();
    let topic = describe_quorum::TopicData {
        topic_name: "__cluster_metadata".into(),
        partitions: vec![partition].into(),
    };
    let request = describe_quorum::Request { topics: vec![topic].into() };
    let answer = client.call(node, &request, 1).await?;
    let response: describe_quorum::Response<'_> = answer.decode()?;
    let told = response.topics.iter().flat_map(|topic| topic.partitions.into_vec()).next()?;
    if response.error_code == 0 && told.error_code == 0 && told.leader_id >= 0 {
        client.history.borrow_mut().see_controller(told.leader_id, told.leader_epoch);
    }
    Some(())
}
