//! Partitions and metadata in memory.

use super::NODE;
use crate::cluster::command::{
    ClusterHandle, Creation, Forwarded, Forwarding, MetadataCommand, MetadataError,
};
use crate::cluster::placement_command::PlacementCommand;
use crate::cluster::quorum::{MemberKey, QuorumDescription};
use crate::cluster::quorum_command::{QuorumCommand, VoterError};
use crate::coordinator::CoordinatorTable;
use crate::partition::command::{
    AppendReply, Appended, DirectorySizes, OffsetFound, OffsetQuery, PartitionCommand, PartitionError,
    ReadReply, ReadRequest,
};
use crate::partition::router::PartitionRouter;
use crate::request::services::Services;
use crate::runtime::Runtime;
use crate::runtime::flags::Flag;
use crate::runtime::simulated::SimulatedRuntime;
use bytes::Bytes;
use logmill_state::metadata::{
    AlterConfigsContext, ControllerContext, CreateTopicsContext, Endpoint, Image, NewTopic,
    PartitionAssignment, PartitionPlan, PartitionState, Record,
};
use logmill_state::partition::{AlterPartitionOutcome, EpochEnd, FetchCheckError, LogStartError};
use logmill_wire::ids::{LeaderEpoch, NodeId, Offset, TimestampMs, TopicId, TopicPartition, Uuid};
use logmill_wire::record_batch::{BatchBuilder, BatchHeader};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// A batch of `records` records with `bytes` bytes of value each.
pub(crate) fn batch(records: usize, bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new();
    for _ in 0..records {
        builder.append(TimestampMs(1_000), Some(b"key"), Some(&vec![b'v'; bytes]), &[]);
    }
    builder.finish().unwrap().into()
}

#[derive(Default)]
struct FakeLog {
    batches: Vec<(i64, Bytes)>,
    end: i64,
    watchers: Vec<(i64, Flag)>,
}

/// What the partitions have been asked, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    Append(TopicPartition, usize),
    Read(TopicPartition, usize, bool),
    Watch(TopicPartition, i64),
    Find(OffsetQuery),
    EpochEnd(LeaderEpoch),
    Sizes(Option<usize>),
}

fn registration(broker_id: NodeId, listener: &str, starts: i32) -> Record {
    let endpoint = Endpoint {
        listener: listener.to_owned(),
        host: format!("host-{broker_id}"),
        port: 9092,
        security_protocol: 0,
    };
    Record::BrokerRegistered {
        broker_id,
        incarnation: Uuid::from_random(u128::from(starts.unsigned_abs())),
        leader_epoch_base: starts,
        rack: Some("rack".to_owned()),
        endpoints: vec![endpoint],
    }
}

pub(crate) struct FakeBroker {
    runtime: SimulatedRuntime,
    image: RefCell<Image>,
    services: RefCell<Weak<Services<SimulatedRuntime>>>,
    coordinators: RefCell<Weak<CoordinatorTable<SimulatedRuntime>>>,
    logs: RefCell<BTreeMap<TopicPartition, FakeLog>>,
    /// What every command of a partition fails with.
    pub errors: RefCell<BTreeMap<TopicPartition, PartitionError>>,
    /// What every change of the metadata fails with.
    pub metadata_error: RefCell<Option<MetadataError>>,
    /// Where the high watermark of every log stays, if it does not follow the log's end.
    pub high_watermark: Cell<Option<i64>>,
    /// How the quorum stands.
    pub quorum: RefCell<Option<QuorumDescription>>,
    /// What every change of the voters fails with.
    pub voter_error: RefCell<Option<VoterError>>,
    /// Whom the voters were to be changed by, and with how many listeners.
    pub voters_asked: RefCell<Vec<(MemberKey, usize)>>,
    /// What asking for sizes fails with.
    pub sizes_error: RefCell<Option<PartitionError>>,
    /// How long appends and changes of the metadata take.
    pub delay: Cell<Option<Duration>>,
    pub asked: RefCell<Vec<Asked>>,
    pub metadata_commands: Cell<usize>,
    /// The requests that were to be forwarded, and what becomes of them.
    pub forwarded: RefCell<Vec<Forwarded>>,
    pub forwarding: RefCell<Forwarding>,
    random: Cell<u128>,
}

impl FakeBroker {
    pub fn new(runtime: SimulatedRuntime) -> Self {
        let mut image = Image::default();
        image.apply(&Record::ClusterIdMinted { cluster_id: Uuid::from_random(42) }).unwrap();
        for broker_id in [NODE, NodeId(2)] {
            image.apply(&registration(broker_id, "PLAINTEXT", 1)).unwrap();
        }
        Self {
            runtime,
            image: RefCell::new(image),
            services: RefCell::default(),
            coordinators: RefCell::default(),
            logs: RefCell::default(),
            errors: RefCell::default(),
            metadata_error: RefCell::default(),
            high_watermark: Cell::default(),
            quorum: RefCell::default(),
            voter_error: RefCell::default(),
            voters_asked: RefCell::default(),
            sizes_error: RefCell::default(),
            delay: Cell::default(),
            asked: RefCell::default(),
            metadata_commands: Cell::default(),
            forwarded: RefCell::default(),
            forwarding: RefCell::new(Forwarding::Here),
            random: Cell::new(1),
        }
    }

    pub fn attach(
        &self,
        services: &Rc<Services<SimulatedRuntime>>,
        coordinators: &Rc<CoordinatorTable<SimulatedRuntime>>,
    ) {
        *self.services.borrow_mut() = Rc::downgrade(services);
        *self.coordinators.borrow_mut() = Rc::downgrade(coordinators);
    }

    pub fn image(&self) -> Arc<Image> {
        Arc::new(self.image.borrow().clone())
    }

    pub fn apply(&self, records: &[Record]) {
        for record in records {
            self.image.borrow_mut().apply(record).unwrap();
        }
        let coordinators = self.coordinators.borrow().upgrade();
        if let Some(coordinators) = coordinators {
            coordinators.retire_by(&self.image());
            coordinators.apply_image(&self.image());
        }
        if let Some(services) = self.services.borrow().upgrade() {
            services.set_image(self.image());
        }
    }

    /// Has the metadata say that a broker is dead, or alive again.
    pub fn fence(&self, id: NodeId, fenced: bool) {
        self.apply(&[Record::BrokerChanged {
            broker_id: id,
            fenced,
            in_controlled_shutdown: false,
            directories: Vec::new(),
        }]);
    }

    /// Changes a partition as a controller does.
    pub fn change_partition(&self, key: TopicPartition, change: impl FnOnce(&mut PartitionState)) {
        let image = self.image();
        let topic = image.topic_by_id(key.topic_id).unwrap();
        let mut state = image.partition(topic, key.partition).unwrap().to_state();
        state.partition_epoch += 1;
        change(&mut state);
        self.apply(&[Record::PartitionChanged { topic_id: key.topic_id, partition: key.partition, state }]);
    }

    pub fn add_broker(&self, id: NodeId, listener: &str) {
        self.apply(&[registration(id, listener, 1)]);
    }

    /// Raises the leader epochs of what a broker leads, as its next start does.
    pub fn restart(&self, id: NodeId, starts: i32) {
        self.apply(&[registration(id, "PLAINTEXT", starts)]);
    }

    fn leader_epoch(&self, partition: TopicPartition) -> LeaderEpoch {
        self.image.borrow().leader_epoch(partition).unwrap_or(LeaderEpoch::NONE)
    }

    /// A topic that this broker leads.
    pub fn create(&self, name: &str, partitions: i32) -> TopicId {
        self.create_led_by(name, partitions, NODE)
    }

    pub fn create_led_by(&self, name: &str, partitions: i32, leader: NodeId) -> TopicId {
        let assignments = (0..partitions)
            .map(|partition| PartitionAssignment { partition, replicas: vec![leader] })
            .collect();
        let topic = NewTopic {
            name: name.to_owned(),
            partition_count: -1,
            replication_factor: -1,
            assignments,
            configs: Vec::new(),
        };
        self.decide(&[topic], false);
        self.image.borrow().topic_by_name(name).unwrap().id
    }

    fn decide(
        &self,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> Vec<logmill_state::metadata::CreateTopicResult> {
        let random: Vec<u128> = topics
            .iter()
            .map(|_| {
                self.random
                    .replace(self.random.get() + 1)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
            })
            .collect();
        let context = CreateTopicsContext {
            default_partition_count: 2,
            default_replication_factor: 1,
            check_configs: &|_| Ok(()),
            random_bits: &random,
        };
        let plan = self.image.borrow().decide_create_topics(topics, validate_only, &context);
        self.apply(&plan.records);
        plan.results
    }

    pub fn partitions(self: &Rc<Self>) -> PartitionRouter {
        let broker = Rc::clone(self);
        // Partitions of three shards, all of them here.
        PartitionRouter::new(3, Rc::new(move |_, command| Rc::clone(&broker).handle(command)))
    }

    pub fn cluster(self: &Rc<Self>) -> ClusterHandle {
        let broker = Rc::clone(self);
        ClusterHandle::new(Rc::new(move |command| {
            broker.metadata_commands.set(broker.metadata_commands.get() + 1);
            let later = Rc::clone(&broker);
            broker.later(move || later.change(command));
        }))
    }

    /// At once, or after the delay.
    fn later(&self, work: impl FnOnce() + 'static) {
        match self.delay.get() {
            None => work(),
            Some(delay) => {
                let runtime = self.runtime.clone();
                self.runtime.spawn(async move {
                    runtime.sleep(delay).await;
                    work();
                });
            }
        }
    }

    fn change(&self, command: MetadataCommand) {
        let error = self.metadata_error.borrow().clone();
        match command {
            MetadataCommand::CreateTopics { topics, validate_only, reply } => {
                reply.send(error.map_or_else(|| Ok(self.decide(&topics, validate_only)), Err));
            }
            MetadataCommand::CreateMissingTopics { topics, reply } => {
                let created = || self.decide(&topics, false).into_iter().map(Creation::from).collect();
                reply.send(error.map_or_else(|| Ok(created()), Err));
            }
            MetadataCommand::AlterPartition { reply, .. } => reply.send(AlterPartitionOutcome::Unknown),
            MetadataCommand::ReplicasOffline { .. } => {}
            MetadataCommand::Forward { request, reply } => {
                self.forwarded.borrow_mut().push(request);
                reply.send(self.forwarding.borrow().clone());
            }
            MetadataCommand::CreatePartitions { topics, validate_only, reply } => {
                let plan = self.image.borrow().decide_create_partitions(&topics, validate_only, &[]);
                if error.is_none() {
                    self.apply(&plan.records);
                }
                reply.send(error.map_or(Ok(plan.results), Err));
            }
            MetadataCommand::AlterConfigs { resources, validate_only, reply } => {
                let settings =
                    self.services.borrow().upgrade().map(|services| Arc::clone(&services.settings));
                let settings = settings.expect("a request comes through services");
                let context = AlterConfigsContext { settings: &settings, node_id: NODE };
                let plan = self.image.borrow().decide_alter_configs(&resources, validate_only, &context);
                if error.is_none() {
                    self.apply(&plan.records);
                }
                reply.send(error.map_or(Ok(plan.results), Err));
            }
            MetadataCommand::DeleteTopics { selectors, reply } => {
                let plan = self.image.borrow().decide_delete_topics(&selectors);
                self.apply(&plan.records);
                reply.send(error.map_or(Ok(plan.results), Err));
            }
            MetadataCommand::Placement(command) => self.place(command, error),
            MetadataCommand::Quorum(command) => self.serve_quorum(command, error),
            MetadataCommand::AllocateProducerIds { reply } => {
                let decided = self.image.borrow().decide_allocate_producer_ids(NODE);
                let block = decided.map(|(record, block)| {
                    self.apply(&[record]);
                    block
                });
                reply.send(error.map_or(Ok(block), Err));
            }
        }
    }

    fn serve_quorum(&self, command: QuorumCommand, error: Option<MetadataError>) {
        let (key, listeners, reply) = match command {
            QuorumCommand::Describe { reply } | QuorumCommand::Members { reply } => {
                let described = self.quorum.borrow().clone().ok_or(MetadataError::Stopping);
                return reply.send(error.map_or(described, Err));
            }
            QuorumCommand::AddVoter { key, endpoints, reply, .. }
            | QuorumCommand::UpdateVoter { key, endpoints, reply, .. } => (key, endpoints.len(), reply),
            QuorumCommand::RemoveVoter { key, reply, .. } => (key, 0, reply),
        };
        self.voters_asked.borrow_mut().push((key, listeners));
        let result = self.voter_error.borrow().clone().map_or(Ok(()), Err);
        reply.send(error.map_or(Ok(result), Err));
    }

    fn place(&self, command: PlacementCommand, error: Option<MetadataError>) {
        let image = self.image();
        let context = ControllerContext {
            min_in_sync: &|_| 1,
            unclean_election: &|_| false,
            write_caching: &|_| false,
        };
        let commit = |plan: &PartitionPlan| {
            if error.is_none() {
                self.apply(&plan.records);
            }
        };
        match command {
            PlacementCommand::ElectLeaders { partitions, election, reply } => {
                let decided = image.decide_elect_leaders(partitions.as_deref(), election, &context);
                commit(&decided.plan);
                reply.send(error.map_or(Ok(decided.results), Err));
            }
            PlacementCommand::Reassign { partitions, allow_factor_change, reply } => {
                let decided = image.decide_reassign(&partitions, allow_factor_change, &context);
                commit(&decided.plan);
                reply.send(error.map_or(Ok(decided.results), Err));
            }
            PlacementCommand::UnregisterBroker { broker, reply } => {
                let decided = image.decide_unregister_broker(broker, &context);
                let result = decided.map(|plan| commit(&plan));
                reply.send(error.map_or(Ok(result), Err));
            }
        }
    }

    /// Puts a batch into a log at once.
    pub fn append(&self, partition: TopicPartition, records: &Bytes) -> Offset {
        let mut logs = self.logs.borrow_mut();
        let log = logs.entry(partition).or_default();
        let base = log.end;
        let count = BatchHeader::parse(records).map_or(1, |header| i64::from(header.record_count));
        let mut stored = records.to_vec();
        if BatchHeader::parse(records).is_some_and(|header| header.magic == 2) {
            stored[..8].copy_from_slice(&base.to_be_bytes());
        }
        log.batches.push((base, stored.into()));
        log.end += count;
        let end = log.end;
        log.watchers.retain(|(above, flag)| {
            if end > *above {
                flag.raise();
            }
            end <= *above
        });
        Offset(base)
    }

    /// Takes the last batch away, as a leader that did not have it does.
    pub fn truncate(&self, partition: TopicPartition) {
        let mut logs = self.logs.borrow_mut();
        let log = logs.get_mut(&partition).unwrap();
        (log.end, _) = log.batches.pop().unwrap();
    }

    pub fn watchers(&self, partition: TopicPartition) -> usize {
        self.logs.borrow().get(&partition).map_or(0, |log| log.watchers.len())
    }

    fn append_later(self: &Rc<Self>, partition: TopicPartition, records: Bytes, reply: AppendReply) {
        self.asked.borrow_mut().push(Asked::Append(partition, records.len()));
        let error = self.errors.borrow().get(&partition).cloned();
        let broker = Rc::clone(self);
        self.later(move || {
            reply.send(error.map_or_else(
                || {
                    let base_offset = broker.append(partition, &records);
                    let log_append_time = TimestampMs(-1);
                    Ok(Appended { base_offset, log_append_time, log_start_offset: Offset(0) })
                },
                Err,
            ));
        });
    }

    fn tell_sizes(&self, partitions: Option<&[TopicPartition]>) -> Vec<(TopicPartition, u64)> {
        let logs = self.logs.borrow();
        let wanted = |key: &&TopicPartition| partitions.is_none_or(|all| all.contains(key));
        let bytes = |log: &FakeLog| log.batches.iter().map(|(_, batch)| batch.len() as u64).sum();
        logs.iter().filter(|(key, _)| wanted(key)).map(|(key, log)| (*key, bytes(log))).collect()
    }

    fn read(&self, partition: TopicPartition, request: ReadRequest) -> ReadReply {
        self.asked.borrow_mut().push(Asked::Read(partition, request.max_bytes, request.at_least_one));
        let mut logs = self.logs.borrow_mut();
        let log = logs.entry(partition).or_default();
        let (mut parts, mut bytes) = (Vec::new(), 0);
        let high_watermark = self.high_watermark.get().map_or(log.end, |at| at.min(log.end));
        let asked = |base: i64| (request.offset.0..high_watermark).contains(&base);
        for (_, batch) in log.batches.iter().filter(|(base, _)| asked(*base)) {
            let is_allowed = bytes + batch.len() <= request.max_bytes;
            if !(is_allowed || request.at_least_one && parts.is_empty()) {
                break;
            }
            bytes += batch.len();
            parts.push(batch.clone());
        }
        let out_of_range = FetchCheckError::OffsetOutOfRange {
            log_start_offset: Offset(0),
            log_end_offset: Offset(log.end),
        };
        let is_in_range = (0..=log.end).contains(&request.offset.0);
        let records = match self.errors.borrow().get(&partition) {
            Some(error) => Err(error.clone()),
            None if is_in_range => Ok(parts),
            None => Err(PartitionError::Fetch(out_of_range)),
        };
        ReadReply {
            high_watermark: Offset(high_watermark),
            last_stable_offset: Offset(log.end),
            log_start_offset: Offset(0),
            leader_epoch: self.leader_epoch(partition),
            records,
        }
    }

    fn handle(self: Rc<Self>, command: PartitionCommand) {
        let command = match command {
            PartitionCommand::Sizes { partitions, reply } => {
                self.asked.borrow_mut().push(Asked::Sizes(partitions.as_ref().map(Vec::len)));
                let failure = self.sizes_error.borrow().clone();
                let sizes = failure.map_or_else(|| Ok(self.tell_sizes(partitions.as_deref())), Err);
                reply.send(vec![DirectorySizes { directory: 0, sizes }]);
                return;
            }
            command => command,
        };
        let Some(partition) = command.partition() else { return };
        let error = self.errors.borrow().get(&partition).cloned();
        match command {
            PartitionCommand::Peer(_) => {}
            PartitionCommand::Append { bytes, appends, replies, .. } => {
                for (append, reply) in appends.into_iter().zip(replies) {
                    self.append_later(append.partition, bytes.slice(append.range()), reply);
                }
            }
            PartitionCommand::Read { request, reply, .. } => reply.send(self.read(partition, request)),
            PartitionCommand::Reads { reads, replies } => {
                for ((partition, request), reply) in reads.into_iter().zip(replies) {
                    reply.send(self.read(partition, request));
                }
            }
            PartitionCommand::DeleteRecords { before, reply, .. } => {
                let end = Offset(self.logs.borrow_mut().entry(partition).or_default().end);
                let start = if before == Offset(-1) { end } else { before };
                let beyond = LogStartError { requested: start, high_watermark: end };
                let outcome = if start > end { Err(PartitionError::LogStart(beyond)) } else { Ok(start) };
                reply.send(error.map_or(outcome, Err));
            }
            PartitionCommand::Watch { above, flag, .. } => {
                self.asked.borrow_mut().push(Asked::Watch(partition, above.0));
                let mut logs = self.logs.borrow_mut();
                let log = logs.entry(partition).or_default();
                if log.end > above.0 {
                    flag.raise();
                } else {
                    log.watchers.retain(|(_, flag)| !flag.is_abandoned());
                    log.watchers.push((above.0, flag));
                }
            }
            PartitionCommand::FindOffset { query, reply, .. } => {
                self.asked.borrow_mut().push(Asked::Find(query));
                let end = self.logs.borrow().get(&partition).map_or(0, |log| log.end);
                let is_start = matches!(query, OffsetQuery::Earliest | OffsetQuery::EarliestLocal);
                let found = OffsetFound {
                    offset: Offset(if is_start { 0 } else { end }),
                    timestamp: TimestampMs(-1),
                    leader_epoch: self.leader_epoch(partition),
                };
                reply.send(error.map_or(Ok(found), Err));
            }
            PartitionCommand::Sizes { .. } => {}
            PartitionCommand::EpochEnd { epoch, reply, .. } => {
                self.asked.borrow_mut().push(Asked::EpochEnd(epoch));
                let end = self.logs.borrow().get(&partition).map_or(0, |log| log.end);
                let is_future = epoch > self.leader_epoch(partition);
                let end =
                    if is_future { EpochEnd::UNDEFINED } else { EpochEnd { epoch, end_offset: Offset(end) } };
                reply.send(error.map_or(Ok(end), Err));
            }
        }
    }
}
