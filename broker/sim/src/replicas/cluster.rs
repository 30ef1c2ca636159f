//! Brokers on simulated hosts, and the controller that tells them what they are.

use super::network::{Member, Network, Proposal};
use bytes::Bytes;
use logmill::journal::Journal;
use logmill::log::{DirectoryHealth, Store, StoreSettings, recover};
use logmill::partition::PartitionTable;
use logmill::partition::command::{
    Acks, AppendResult, OffsetFound, OffsetQuery, PartitionCommand, PartitionError, ReadReply, ReadRequest,
};
use logmill::partition::peers::Peer;
use logmill::runtime::simulated::{Host, Options, SimulatedRuntime, World};
use logmill::runtime::{Runtime, oneshot};
use logmill_state::metadata::{
    BrokerRegistration, BrokerStart, ControllerContext, Endpoint, Image, InSyncError, InSyncProposal,
    PartitionPlan, PlacementRun, Record, Topic,
};
use logmill_state::partition::{AlterPartitionOutcome, Isolation};
use logmill_state::settings::BrokerSettings;
use logmill_wire::ids::{
    LeaderEpoch, NodeId, Offset, PartitionIndex, ShardIndex, TimestampMs, TopicPartition, Uuid,
};
use logmill_wire::record_batch::batches;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const CLUSTER: Uuid = Uuid([9; 16]);
const TOPIC: Uuid = Uuid([7; 16]);

/// How a cluster begins.
#[derive(Clone, Debug)]
pub struct Start {
    /// How many brokers; all of them have a replica of every partition.
    pub brokers: i32,
    /// How many partitions.
    pub partitions: i32,
    /// The topic's configs.
    pub configs: BTreeMap<String, String>,
    /// `replica.lag.time.max.ms`.
    pub lag_max_ms: u64,
}

impl Default for Start {
    fn default() -> Self {
        Self { brokers: 3, partitions: 1, configs: BTreeMap::new(), lag_max_ms: 2_000 }
    }
}

/// The answer to something that may never be answered: its broker may die.
pub type Answer<T> = Rc<RefCell<Option<T>>>;

struct Broker {
    host: Host,
    directory: Uuid,
    starts: u8,
    store: RefCell<Option<Rc<Store<SimulatedRuntime>>>>,
}

/// Brokers, their network, and what the controller knows.
pub struct Cluster {
    /// The world that they are in.
    pub world: Rc<World>,
    /// The network between them.
    pub network: Rc<Network>,
    start: Start,
    image: RefCell<Arc<Image>>,
    version: Cell<u64>,
    /// Which version each life of a broker has.
    applied: RefCell<BTreeMap<(NodeId, u8), u64>>,
    applying: RefCell<BTreeSet<(NodeId, u8)>>,
    brokers: RefCell<BTreeMap<NodeId, Broker>>,
}

fn with_context<T>(action: impl FnOnce(&ControllerContext<'_>) -> T) -> T {
    action(&ControllerContext {
        min_in_sync: &|topic: &Topic| {
            topic.configs.get("min.insync.replicas").and_then(|value| value.parse().ok()).unwrap_or(1)
        },
        unclean_election: &|_| false,
        write_caching: &|topic: &Topic| {
            topic.configs.get("write.caching").is_some_and(|value| value == "true")
        },
    })
}

impl Cluster {
    /// A cluster whose brokers all run.
    #[must_use]
    pub fn new(seed: u64, options: Options, start: Start) -> Rc<Self> {
        let world = Rc::new(World::new(seed, options));
        let network = Network::new(&world);
        let brokers = (1..=start.brokers).map(|node| {
            let host = world.host(&format!("broker{node}"));
            let directory = Uuid([node as u8; 16]);
            (NodeId(node), Broker { host, directory, starts: 0, store: RefCell::default() })
        });
        let brokers = RefCell::new(brokers.collect());
        let mut image = Image::default();
        let replicas: Vec<NodeId> = (1..=start.brokers).map(NodeId).collect();
        let placement = PlacementRun {
            partition_count: start.partitions.unsigned_abs(),
            leader_epoch: LeaderEpoch(0),
            replicas,
        };
        let created = Record::TopicCreated {
            topic_id: TOPIC,
            name: "t".into(),
            configs: start.configs.clone(),
            placement: vec![placement],
        };
        let records = [Record::ClusterIdMinted { cluster_id: CLUSTER }, created];
        assert!(records.iter().all(|record| image.apply(record).is_ok()), "the first image is wrong");
        let cluster = Rc::new(Self {
            world,
            network,
            start,
            image: RefCell::new(Arc::new(image)),
            version: Cell::new(1),
            applied: RefCell::default(),
            applying: RefCell::default(),
            brokers,
        });
        let deciding = Rc::downgrade(&cluster);
        let runtime = cluster.network.runtime().clone();
        cluster.network.runtime().spawn(async move {
            while let Some(cluster) = deciding.upgrade() {
                let proposal = cluster.network.proposals.borrow_mut().pop_front();
                if let Some(proposal) = proposal {
                    cluster.decide_later_again(&proposal);
                    cluster.decide(proposal, true);
                }
                drop(cluster);
                runtime.sleep(Duration::from_micros(700)).await;
            }
        });
        for node in cluster.nodes() {
            cluster.start(node, false);
        }
        cluster
    }

    /// The time of day.
    #[must_use]
    pub fn now(&self) -> TimestampMs {
        self.network.runtime().wall_clock()
    }

    /// One of the topic's partitions.
    #[must_use]
    pub fn key(&self, partition: i32) -> TopicPartition {
        TopicPartition { topic_id: TOPIC, partition: PartitionIndex(partition) }
    }

    /// All brokers.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.brokers.borrow().keys().copied().collect()
    }

    /// Whether a broker runs, and has read its disk.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.network.member(node).is_some()
    }

    /// What the controller knows.
    #[must_use]
    pub fn image(&self) -> Arc<Image> {
        Arc::clone(&self.image.borrow())
    }

    /// The leader of a partition and its in-sync set, as the controller knows them.
    #[must_use]
    pub fn placed(&self, partition: i32) -> (NodeId, Vec<NodeId>) {
        let image = self.image();
        let found =
            image.topic_by_id(TOPIC).and_then(|topic| image.partition(topic, PartitionIndex(partition)));
        found.map_or((NodeId(-1), Vec::new()), |found| (found.leader, found.in_sync.to_vec()))
    }

    /// Applies records, and tells all brokers.
    pub fn commit(self: &Rc<Self>, records: &[Record]) {
        if records.is_empty() {
            return;
        }
        let mut image = Image::clone(&self.image.borrow());
        for record in records {
            let applied = image.apply(record);
            assert!(applied.is_ok(), "the controller has decided on {record:?}: {applied:?}");
        }
        self.image.replace(Arc::new(image));
        self.version.set(self.version.get() + 1);
        for node in self.nodes() {
            self.publish(node);
        }
    }

    /// Hands the newest image to a broker, some time later, after those that are on their way.
    fn publish(self: &Rc<Self>, node: NodeId) {
        let Some(member) = self.network.member(node) else { return };
        let life = (node, self.brokers.borrow().get(&node).map_or(0, |broker| broker.starts));
        let cluster = Rc::clone(self);
        let delay = self.network.metadata_delay();
        let (runtime, table) = (member.runtime.clone(), Rc::clone(&member.table));
        member.runtime.spawn(async move {
            runtime.sleep(delay).await;
            // One image after another: the newest one has all that the others had.
            if !cluster.applying.borrow_mut().insert(life) {
                return;
            }
            loop {
                let (version, image) = (cluster.version.get(), cluster.image());
                if cluster.applied.borrow_mut().insert(life, version) >= Some(version) {
                    break;
                }
                table.apply_image(image).await;
            }
            cluster.applying.borrow_mut().remove(&life);
        });
    }

    /// A copy of a proposal may be under way for some time; nobody hears what becomes of it.
    fn decide_later_again(self: &Rc<Self>, proposal: &Proposal) {
        let Some(after) = self.network.proposal_again() else { return };
        let (cluster, proposal) = (Rc::clone(self), proposal.clone());
        let runtime = self.network.runtime().clone();
        self.network.runtime().spawn(async move {
            runtime.sleep(after).await;
            cluster.decide(proposal, false);
        });
    }

    fn decide(self: &Rc<Self>, (from, partition, proposal): Proposal, is_answered: bool) {
        let is_lost = self.world.draw(|chance| chance.one_in(20));
        let proposals = [InSyncProposal {
            partition,
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch,
            in_sync: proposal.in_sync.clone(),
        }];
        let image = self.image();
        let decided = with_context(|context| {
            image.decide_alter_partition((from.node, from.incarnation), &proposals, context)
        });
        let outcome = match decided {
            Err(_) => AlterPartitionOutcome::Stale,
            Ok(mut decided) => {
                self.commit(&decided.plan.records);
                match decided.results.pop() {
                    Some(Ok(state)) => AlterPartitionOutcome::Accepted {
                        partition_epoch: state.partition_epoch,
                        in_sync: state.in_sync,
                        has_eligible: !state.eligible.is_empty(),
                    },
                    Some(Err(InSyncError::Ineligible { .. })) => AlterPartitionOutcome::Ineligible,
                    Some(Err(InSyncError::NewerThanThis)) => AlterPartitionOutcome::Unknown,
                    _ => AlterPartitionOutcome::Stale,
                }
            }
        };
        let outcome = if is_lost { AlterPartitionOutcome::Unknown } else { outcome };
        if !is_answered {
            return;
        }
        let (network, runtime) = (Rc::clone(&self.network), self.network.runtime().clone());
        self.network.runtime().spawn(async move {
            runtime.sleep(Duration::from_millis(1)).await;
            if let Some(member) = network.member(from.node).filter(|member| member.peer == from) {
                member.table.on_alter_partition(partition, &proposal, &outcome);
            }
        });
    }

    /// Holds a broker for dead.
    pub fn fence(self: &Rc<Self>, node: NodeId) {
        let image = self.image();
        let plan = with_context(|context| image.decide_fence_broker(node, context));
        self.commit(&plan.records);
    }

    /// Holds it for alive again.
    pub fn unfence(self: &Rc<Self>, node: NodeId) {
        let image = self.image();
        let Some(incarnation) = image.broker(node).map(|broker| broker.incarnation) else { return };
        let plan = with_context(|context| image.decide_unfence_broker(node, incarnation, context));
        self.commit(&plan.unwrap_or_default().records);
    }

    /// Leaves a broker's disk so many bytes, or all that it asks for.
    pub fn limit_disk(&self, node: NodeId, bytes_left: Option<u64>) {
        if let Some(broker) = self.brokers.borrow().get(&node) {
            broker.host.set_capacity(bytes_left.map(|bytes| broker.host.used_bytes() + bytes));
        }
    }

    /// Ends a broker, with a power cut or a kill; with `wipe` its disk is another one afterwards.
    pub fn stop(self: &Rc<Self>, node: NodeId, power: bool, wipe: bool) {
        self.network.leave(node);
        let mut brokers = self.brokers.borrow_mut();
        let Some(broker) = brokers.get_mut(&node) else { return };
        broker.store.take();
        if power {
            broker.host.crash();
        } else {
            broker.host.kill();
        }
        if wipe {
            broker.host.wipe_disk();
            broker.directory = Uuid([broker.directory.0[0].wrapping_add(10); 16]);
        }
    }

    /// Starts a broker; it registers, and then reads its disk.
    pub fn start(self: &Rc<Self>, node: NodeId, lost_writes: bool) {
        let (runtime, peer, directory) = {
            let mut brokers = self.brokers.borrow_mut();
            let Some(broker) = brokers.get_mut(&node) else { return };
            broker.host.restart();
            broker.starts += 1;
            let mut incarnation = Uuid([node.0 as u8; 16]);
            incarnation.0[0] = broker.starts;
            let peer = Peer { node, incarnation };
            (broker.host.runtime(ShardIndex(0)), peer, broker.directory)
        };
        let plan = self.register(peer, directory, lost_writes);
        self.commit(&plan.records);
        let (cluster, own) = (Rc::clone(self), runtime.clone());
        runtime.spawn(async move {
            let version = cluster.version.get();
            let image = cluster.image();
            let started = cluster.bring_up(own.clone(), peer, image).await;
            assert!(started.is_ok(), "broker {node} does not start: {:?}", started.as_ref().err());
            let Ok((store, table)) = started else { return };
            let life = {
                let brokers = cluster.brokers.borrow();
                let Some(broker) = brokers.get(&node) else { return };
                broker.store.replace(Some(store));
                (node, broker.starts)
            };
            cluster.applied.borrow_mut().insert(life, version);
            cluster.network.join(Member { peer, runtime: own, table });
            cluster.publish(node);
        });
    }

    fn register(&self, peer: Peer, directory: Uuid, lost_writes: bool) -> PartitionPlan {
        let endpoint =
            Endpoint { listener: "PLAINTEXT".into(), host: "h".into(), port: 1, security_protocol: 0 };
        let start = BrokerStart {
            registration: BrokerRegistration {
                broker_id: peer.node,
                cluster_id: CLUSTER,
                incarnation: peer.incarnation,
                rack: None,
                endpoints: vec![endpoint],
            },
            directories: vec![directory],
            logs: Vec::new(),
            lost_writes,
            starts_fenced: false,
        };
        let image = self.image();
        let plan = with_context(|context| image.decide_broker_start(&start, false, context));
        assert!(plan.is_ok(), "broker {} is not registered: {plan:?}", peer.node);
        plan.unwrap_or_default()
    }

    async fn bring_up(
        &self,
        runtime: SimulatedRuntime,
        peer: Peer,
        image: Arc<Image>,
    ) -> Result<(Rc<Store<SimulatedRuntime>>, Rc<PartitionTable<SimulatedRuntime>>), String> {
        let text = |error: std::io::Error| error.to_string();
        runtime.create_directory(Path::new("/data")).await.map_err(text)?;
        runtime.sync_directory(Path::new("/")).await.map_err(text)?;
        let recovery = recover(&runtime, Path::new("/data")).await.map_err(|error| error.to_string())?;
        let opened = recovery.begin_run(&runtime, 1, |_| 4 << 20, |_| ShardIndex(0)).await;
        let opened = opened.map_err(|error| error.to_string())?;
        let (id, states) = opened.shards.into_iter().next().ok_or("there is no shard")?;
        let path = opened.run.journal(ShardIndex(0));
        let journal = Journal::open_fresh(&runtime, &path, id).await.map_err(|error| error.to_string())?;
        let settings = StoreSettings {
            journal_bytes: 4 << 20,
            cache_bytes: 256 << 10,
            checkpoint_interval_ms: 300,
            ..StoreSettings::default()
        };
        let health = Arc::<DirectoryHealth>::default();
        let store = Store::start(runtime.clone(), opened.run, health, settings, journal, states);
        let values = [("replica.lag.time.max.ms".to_owned(), self.start.lag_max_ms.to_string())];
        let settings = BrokerSettings::from_values(values.into_iter().collect());
        let settings = Arc::new(settings.map_err(|error| error.to_string())?);
        let link = self.network.link(peer);
        let table = PartitionTable::new(runtime, peer.node, Rc::clone(&store), settings, 1, link);
        table.apply_image(image).await;
        table.start_care(1);
        Ok((store, table))
    }

    /// Asks a broker; nothing ever comes if it is down, or dies before it answers.
    pub fn ask<T: 'static>(
        &self,
        node: NodeId,
        command: impl FnOnce(oneshot::Sender<T>) -> PartitionCommand,
    ) -> Answer<T> {
        let answer = Answer::default();
        if let Some(member) = self.network.member(node) {
            let (reply, receiver) = oneshot::channel();
            member.table.handle(command(reply));
            let slot = Rc::clone(&answer);
            member.runtime.spawn(async move {
                if let Ok(value) = receiver.await {
                    *slot.borrow_mut() = Some(value);
                }
            });
        }
        answer
    }

    /// Appends one record set at a broker.
    pub fn append(&self, node: NodeId, partition: i32, records: Vec<u8>, acks: Acks) -> Answer<AppendResult> {
        let answer = Answer::default();
        if let Some(member) = self.network.member(node) {
            let (command, mut receiver) =
                PartitionCommand::append(self.key(partition), Bytes::from(records), acks);
            member.table.handle(command);
            let slot = Rc::clone(&answer);
            member.runtime.spawn(async move {
                (&mut receiver).await;
                let result = receiver.into_answers().pop().flatten();
                *slot.borrow_mut() = Some(result.unwrap_or(Err(PartitionError::Stopping)));
            });
        }
        answer
    }

    /// Reads at a broker, leader or not.
    pub fn read(&self, node: NodeId, partition: i32, offset: Offset) -> Answer<ReadReply> {
        let request = ReadRequest {
            offset,
            max_bytes: 64 << 10,
            at_least_one: true,
            current_leader_epoch: LeaderEpoch::NONE,
            last_fetched_epoch: LeaderEpoch::NONE,
            isolation: Isolation::ReadUncommitted,
            leader_only: false,
        };
        let partition = self.key(partition);
        self.ask(node, |reply| PartitionCommand::Read { partition, request, reply })
    }

    /// All of a partition below the high watermark that a broker knows, and that.
    ///
    /// # Errors
    /// What the broker answers instead.
    pub fn log(&self, node: NodeId, partition: i32) -> Result<(Offset, Vec<u8>), String> {
        let (mut offset, mut bytes) = (Offset(0), Vec::new());
        loop {
            let reply = self.wait(&self.read(node, partition, offset));
            let reply = reply.ok_or_else(|| format!("{node} does not answer a read from {offset}"))?;
            let views = reply.records.map_err(|error| format!("{node} at {offset}: {}", error.message()))?;
            let read = views.concat();
            for batch in batches(&read) {
                // The last one may be cut.
                let Ok(batch) = batch else { break };
                offset = batch.header().next_offset();
                bytes.extend_from_slice(batch.bytes());
            }
            if offset >= reply.high_watermark {
                return Ok((reply.high_watermark, bytes));
            }
            if read.is_empty() {
                return Err(format!("{node} has nothing at {offset}, below {}", reply.high_watermark));
            }
        }
    }

    /// The end that a broker tells consumers.
    pub fn latest(&self, node: NodeId, partition: i32) -> Answer<Result<OffsetFound, PartitionError>> {
        let partition = self.key(partition);
        self.ask(node, |reply| PartitionCommand::FindOffset {
            partition,
            query: OffsetQuery::Latest,
            current_leader_epoch: LeaderEpoch::NONE,
            isolation: Isolation::ReadUncommitted,
            reply,
        })
    }

    /// Lets the world go on until `condition` holds; false if it did not within a minute.
    #[must_use]
    pub fn until(&self, condition: impl FnMut() -> bool) -> bool {
        self.world.run_until_within(Duration::from_secs(60), condition)
    }

    /// Waits for an answer; `None` if none comes within a minute.
    pub fn wait<T>(&self, answer: &Answer<T>) -> Option<T> {
        let _ = self.until(|| answer.borrow().is_some());
        answer.borrow_mut().take()
    }
}
