//! The partitions of one shard. One is made when it is first asked for: a partition that nobody uses costs
//! nothing but its place in the metadata.

use super::care::Rest;
use super::command::{
    Acks, AppendReplies, PartitionAppend, PartitionCommand, PartitionError, ReadReply, ReadRequest,
};
use super::hosted::Partition;
use super::offline::OfflineReplicas;
use super::peers::Peers;
use super::policy::PartitionPolicy;
use crate::log::{Home, Log, Stores};
use crate::runtime::Runtime;
use bytes::Bytes;
use logmill_state::metadata::{Image, Topic};
use logmill_state::partition::Leader;
use logmill_state::settings::BrokerSettings;
use logmill_wire::hashing::HashMap;
use logmill_wire::ids::{LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId, TopicPartition};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The partitions of one shard.
pub struct PartitionTable<R: Runtime> {
    pub(super) runtime: R,
    pub(super) node_id: NodeId,
    /// Shards of this broker.
    pub(super) shards: u16,
    pub(super) peers: Rc<dyn Peers>,
    /// The shard's part of each log directory.
    pub(super) stores: Stores<R>,
    /// The settings at the start.
    pub(super) settings: Arc<BrokerSettings>,
    /// The settings with what is set on the running cluster.
    effective: RefCell<Rc<BrokerSettings>>,
    pub(super) image: RefCell<Arc<Image>>,
    hosted: RefCell<Hosted<R>>,
    pub(super) offline: OfflineReplicas,
    /// Until when logs that nobody uses need no look.
    pub(super) resting: RefCell<HashMap<TopicPartition, Rest>>,
    /// A log that nobody uses and that is being looked at.
    pub(super) looked_at: Cell<Option<TopicPartition>>,
}

/// Appends whose partitions are looked at together before the first of them is carried out. What the processor must fetch
/// for one is then on its way while it waits for another's: with many partitions that rest in between, that is what an
/// append takes longest for.
const APPENDS_PER_BLOCK: usize = 16;

/// What the processor fetches at once.
const CACHE_LINE_BYTES: usize = 64;

/// How much of an append's records is looked at with its partition: all of a few small ones. What is longer is read in
/// order, which the processor foresees.
const CACHE_LINES_LOOKED_AT: usize = 4;

/// The partitions that are in use, by topic and then by index: most requests name several of one topic.
struct Hosted<R: Runtime> {
    topics: HashMap<TopicId, HostedTopic<R>>,
    count: usize,
}

struct HostedTopic<R: Runtime> {
    partitions: Vec<Option<Rc<Partition<R>>>>,
    /// What its partitions share.
    policy: Rc<PartitionPolicy>,
}

impl<R: Runtime> Default for Hosted<R> {
    fn default() -> Self {
        Self { topics: HashMap::default(), count: 0 }
    }
}

impl<R: Runtime> Hosted<R> {
    fn get(&self, key: TopicPartition) -> Option<&Rc<Partition<R>>> {
        self.topics.get(&key.topic_id)?.get(key.partition)
    }

    /// The partitions of a block of appends, as far as they are in use.
    fn find(&self, block: &[PartitionAppend]) -> [Option<Rc<Partition<R>>>; APPENDS_PER_BLOCK] {
        let mut found = [const { None }; APPENDS_PER_BLOCK];
        let mut last = None;
        for (found, append) in found.iter_mut().zip(block) {
            let TopicPartition { topic_id, partition } = append.partition;
            if last.is_none_or(|(id, _)| id != topic_id) {
                last = Some((topic_id, self.topics.get(&topic_id)));
            }
            let topic = last.and_then(|(_, topic)| topic);
            *found = topic.and_then(|topic| topic.get(partition)).cloned();
        }
        found
    }

    fn policy_of(&self, topic: TopicId) -> Option<Rc<PartitionPolicy>> {
        self.topics.get(&topic).map(|topic| Rc::clone(&topic.policy))
    }

    /// Adds a partition that is not there; its index is one that its topic has.
    fn insert(&mut self, key: TopicPartition, partition: Rc<Partition<R>>) {
        let Ok(index) = usize::try_from(key.partition.0) else { return };
        let policy = || partition.policy.get();
        let topic = self.topics.entry(key.topic_id);
        let topic = topic.or_insert_with(|| HostedTopic { partitions: Vec::new(), policy: policy() });
        if topic.partitions.len() <= index {
            topic.partitions.resize_with(index + 1, || None);
        }
        topic.partitions[index] = Some(partition);
        self.count += 1;
    }

    /// Has the partitions of a topic work by another policy.
    fn set_policy(&mut self, topic: TopicId, policy: &Rc<PartitionPolicy>) {
        let Some(topic) = self.topics.get_mut(&topic) else { return };
        topic.policy = Rc::clone(policy);
        for partition in topic.partitions.iter().flatten() {
            partition.set_policy(Rc::clone(policy));
        }
    }

    fn remove(&mut self, key: TopicPartition) {
        let topic = self.topics.get_mut(&key.topic_id);
        let index = usize::try_from(key.partition.0).ok();
        let place = topic.zip(index).and_then(|(topic, index)| topic.partitions.get_mut(index));
        self.count -= usize::from(place.and_then(Option::take).is_some());
    }

    fn remove_topic(&mut self, topic_id: TopicId) {
        let removed = self.topics.remove(&topic_id);
        self.count -= removed.into_iter().flat_map(|topic| topic.partitions).flatten().count();
    }

    fn iter(&self) -> impl Iterator<Item = &Rc<Partition<R>>> {
        self.topics.values().flat_map(|topic| &topic.partitions).flatten()
    }
}

impl<R: Runtime> HostedTopic<R> {
    fn get(&self, partition: PartitionIndex) -> Option<&Rc<Partition<R>>> {
        self.partitions.get(usize::try_from(partition.0).ok()?)?.as_ref()
    }
}

impl<R: Runtime> PartitionTable<R> {
    /// An empty table of one of `shards` shards; partitions come with the first image. `peers` is the way to brokers with
    /// other replicas of them.
    #[must_use]
    pub fn new(
        runtime: R,
        node_id: NodeId,
        stores: impl Into<Stores<R>>,
        settings: Arc<BrokerSettings>,
        shards: u16,
        peers: Rc<dyn Peers>,
    ) -> Rc<Self> {
        let image = RefCell::new(Arc::new(Image::default()));
        let effective = RefCell::new(Rc::new(BrokerSettings::clone(&settings)));
        Rc::new(Self {
            runtime,
            node_id,
            shards,
            peers,
            stores: stores.into(),
            settings,
            effective,
            image,
            hosted: RefCell::default(),
            offline: OfflineReplicas::default(),
            resting: RefCell::default(),
            looked_at: Cell::default(),
        })
    }

    /// Commits what was appended, and ends the shard's part of each log directory.
    pub async fn stop(&self) {
        self.stores.stop().await;
    }

    /// Partitions that are in use.
    #[must_use]
    pub fn hosted_count(&self) -> usize {
        self.hosted.borrow().count
    }

    /// The settings with what is set on the running cluster.
    pub(super) fn effective_settings(&self) -> Rc<BrokerSettings> {
        Rc::clone(&self.effective.borrow())
    }

    /// Takes over a newer image: partitions whose topics are gone end here, changed settings take effect.
    pub async fn apply_image(self: &Rc<Self>, image: Arc<Image>) {
        let before = self.image.replace(Arc::clone(&image));
        let broker_changed = !before.has_same_broker_configs(&image);
        if broker_changed {
            let settings = image.effective_settings(self.node_id, &self.settings);
            self.effective.replace(Rc::new(settings));
        }
        let is_as_before = |topic: &Arc<Topic>| {
            !broker_changed && before.topic_by_id(topic.id).is_some_and(|before| Arc::ptr_eq(before, topic))
        };
        let deleted: BTreeSet<TopicId> = before
            .topics()
            .filter(|topic| image.topic_by_id(topic.id).is_none())
            .map(|topic| topic.id)
            .collect();
        let is_first = before.cluster_id().is_none() && image.cluster_id().is_some();
        if image.cluster_id().is_some() {
            self.stores.note_first_image(&image);
        }
        for key in self.stores.stored_logs() {
            if deleted.contains(&key.topic_id) && self.hosted.borrow().get(key).is_none() {
                self.stores.delete(key).await;
            } else if is_first && image.topic_by_id(key.topic_id).is_none() {
                self.stores.set_aside(key).await;
            }
        }
        let topics: Vec<_> = self.hosted.borrow().topics.keys().copied().collect();
        for topic in topics.into_iter().filter_map(|id| image.topic_by_id(id)) {
            if !is_as_before(topic) {
                let policy = Rc::new(self.policy_of(topic));
                self.hosted.borrow_mut().set_policy(topic.id, &policy);
            }
        }
        let hosted: Vec<_> = self.hosted.borrow().iter().map(Rc::clone).collect();
        for partition in hosted {
            let topic_id = partition.log().key().topic_id;
            if image.topic_by_id(topic_id).is_none() {
                partition.retire();
                self.hosted.borrow_mut().remove_topic(topic_id);
                partition.log().delete().await;
            }
            if self.runtime.should_yield() {
                self.runtime.yield_now().await;
            }
        }
        self.place_replicas(&before, &image).await;
    }

    /// The partitions that have, or had, several replicas.
    pub(super) fn replicated_here(&self) -> Vec<Rc<Partition<R>>> {
        let hosted = self.hosted.borrow();
        hosted.iter().filter(|partition| partition.replicated.get().is_some()).map(Rc::clone).collect()
    }

    pub(super) fn note_hosted(&self, key: TopicPartition, partition: &Rc<Partition<R>>) {
        self.hosted.borrow_mut().insert(key, Rc::clone(partition));
    }

    /// Forgets a partition that has ended here.
    pub(super) fn forget(&self, key: TopicPartition) {
        self.hosted.borrow_mut().remove(key);
    }

    /// `producer.id.expiration.ms`, as it is set now.
    pub(super) fn producer_expiration_ms(&self) -> u64 {
        self.effective.borrow().log.producer_id_expiration_ms
    }

    /// The partition, if it is in use.
    pub(super) fn in_use(&self, key: TopicPartition) -> Option<Rc<Partition<R>>> {
        self.hosted.borrow().get(key).cloned()
    }

    /// The logs of this shard, of partitions that are in use and of others, in the order of their keys.
    pub(super) fn all_logs(&self) -> BTreeSet<TopicPartition> {
        let in_use = self.hosted.borrow();
        let in_use = in_use.iter().map(|partition| partition.log().key());
        in_use.chain(self.stores.stored_logs()).collect()
    }

    /// Carries out a command.
    pub fn handle(self: &Rc<Self>, command: PartitionCommand) {
        match command {
            PartitionCommand::Append { bytes, appends, acks, replies } => {
                self.append(&bytes, &appends, acks, replies)
            }
            PartitionCommand::Read { partition, request, reply } => {
                self.read(partition, request, move |read| reply.send(read));
            }
            PartitionCommand::Reads { reads, replies } => {
                for ((partition, request), reply) in reads.into_iter().zip(replies) {
                    self.read(partition, request, move |read| reply.send(read));
                }
            }
            PartitionCommand::Watch { partition, above, flag } => match self.hosted(partition) {
                Ok(partition) => partition.watch(above, flag),
                Err(_) => flag.raise(),
            },
            PartitionCommand::FindOffset { partition, query, current_leader_epoch, isolation, reply } => {
                match self.hosted(partition) {
                    Ok(partition) => self.runtime.spawn(async move {
                        reply.send(partition.find_offset(query, current_leader_epoch, isolation).await);
                    }),
                    Err(error) => reply.send(Err(error)),
                }
            }
            PartitionCommand::DeleteRecords { partition, before, reply } => match self.hosted(partition) {
                Ok(partition) => partition.delete_records(before, reply),
                Err(error) => reply.send(Err(error)),
            },
            PartitionCommand::Sizes { partitions, reply } => {
                let table = Rc::clone(self);
                self.runtime.spawn(async move { reply.send(table.sizes(partitions).await) });
            }
            PartitionCommand::EpochEnd { partition, current_leader_epoch, epoch, reply } => {
                let hosted = self.hosted(partition);
                reply.send(hosted.and_then(|partition| partition.epoch_end(current_leader_epoch, epoch)));
            }
            PartitionCommand::Peer(command) => self.on_peer(command),
        }
    }

    /// Reads at once what is in memory, or not there; only what takes I/O gets a task of its own.
    fn read(
        self: &Rc<Self>,
        partition: TopicPartition,
        request: ReadRequest,
        reply: impl FnOnce(ReadReply) + 'static,
    ) {
        let partition = match self.hosted(partition) {
            Ok(partition) => partition,
            Err(error) => return reply(nothing_read(error)),
        };
        if let Some(nothing) = partition.reads_nothing(&request) {
            return reply(nothing);
        }
        let mut reading = Box::pin(partition.read(request));
        // Whatever it then waits for hears of its task when that polls again.
        match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => reply(read),
            Poll::Pending => self.runtime.spawn(async move { reply(reading.await) }),
        }
    }

    fn append(
        self: &Rc<Self>,
        bytes: &Bytes,
        appends: &[PartitionAppend],
        acks: Acks,
        replies: AppendReplies,
    ) {
        // One look at the clock for all: they came in one request.
        let now = self.runtime.wall_clock();
        let mut replies = replies.into_iter();
        for block in appends.chunks(APPENDS_PER_BLOCK) {
            let found = self.hosted.borrow().find(block);
            if block.len() > 1 {
                let records = block.iter().fold(0, |seen, append| seen ^ look_at_records(bytes, append));
                black_box(found.iter().flatten().fold(records, |seen, found| seen ^ found.look_at()));
            }
            for ((append, found), reply) in block.iter().zip(found).zip(&mut replies) {
                match found.map_or_else(|| self.hosted(append.partition), Ok) {
                    Ok(partition) => partition.append(bytes, append.range(), acks, now, reply),
                    Err(error) => reply.send(Err(error)),
                }
            }
        }
    }

    pub(super) fn hosted(self: &Rc<Self>, key: TopicPartition) -> Result<Rc<Partition<R>>, PartitionError> {
        if let Some(partition) = self.hosted.borrow().get(key) {
            // Clients shall look elsewhere, and not read for ever what does not go on.
            let is_offline = partition.log().health().is_failed();
            return if is_offline { Err(partition.failure()) } else { Ok(Rc::clone(partition)) };
        }
        let image = Arc::clone(&self.image.borrow());
        let topic = image.topic_by_id(key.topic_id).ok_or(PartitionError::NotHosted)?;
        let placed = image.partition(topic, key.partition).ok_or(PartitionError::NotHosted)?;
        // One of several replicas comes with the image.
        if placed.leader != self.node_id || placed.replicas.len() > 1 {
            return Err(PartitionError::NotHosted);
        }
        let (log, leader) = self.log_of(key, topic)?;
        let policy = self.shared_policy_of(topic);
        let partition = Partition::host(self.runtime.clone(), log, leader, placed.leader_epoch, policy)?;
        self.note_hosted(key, &partition);
        Ok(partition)
    }

    /// A partition's log, with the state that the last checkpoint has of it.
    pub(super) fn log_of(
        &self,
        key: TopicPartition,
        topic: &Topic,
    ) -> Result<(Rc<Log<R>>, Leader), PartitionError> {
        let (store, state) = match self.stores.home_of(key, self.node_id) {
            Home::Stored(store, state) => (store, state),
            Home::Unusable(cause) => return Err(PartitionError::Storage(cause)),
            Home::Nowhere => {
                let failed = || PartitionError::Storage("all log directories are out of service".to_owned());
                let store = self.stores.for_new_log().ok_or_else(failed)?;
                let name = format!("{}-{}", topic.name, key.partition);
                return Ok((Log::fresh(store, key, name), Leader::starting_at(Offset(0))));
            }
        };
        let (log, snapshot) = Log::from_state(store, &state);
        let leader =
            Leader::restore(&snapshot).map_err(|error| PartitionError::Corrupt(error.to_string()))?;
        Ok((log, leader))
    }

    /// The policy that the partitions of a topic share.
    pub(super) fn shared_policy_of(&self, topic: &Topic) -> Rc<PartitionPolicy> {
        let shared = self.hosted.borrow().policy_of(topic.id);
        shared.unwrap_or_else(|| Rc::new(self.policy_of(topic)))
    }
}

/// Reads a little of an append's first records, as `Partition::look_at` does of where they go: another shard may have
/// received them.
#[inline]
fn look_at_records(bytes: &Bytes, append: &PartitionAppend) -> u64 {
    let records = bytes.get(append.range()).unwrap_or_default();
    let lines = records.iter().step_by(CACHE_LINE_BYTES).take(CACHE_LINES_LOOKED_AT);
    lines.fold(0, |seen, byte| seen ^ u64::from(*byte))
}

fn nothing_read(error: PartitionError) -> ReadReply {
    ReadReply {
        high_watermark: Offset(-1),
        last_stable_offset: Offset(-1),
        log_start_offset: Offset(-1),
        leader_epoch: LeaderEpoch::NONE,
        records: Err(error),
    }
}
