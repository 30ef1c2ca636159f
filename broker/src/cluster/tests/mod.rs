//! Brokers and controllers on simulated hosts, each with a quorum of its own over a lossy network.

mod decisions;
mod large;
mod life;
mod network;

use super::command::MetadataCommand;
use super::quorum::{DiskSettings, MemberKey, Quorum, QuorumConfig, QuorumSettings, Role};
use super::{CONTROL_CALL, CarryOut, ControlPlane, Publisher, StartError};
use crate::runtime::simulated::{Host, Options, SimulatedRuntime, World};
use crate::runtime::{Listener, Runtime, oneshot};
use logmill_state::metadata::{
    Broker, BrokerRegistration, BrokerStart, Endpoint, Image, NewTopic, Partition,
};
use logmill_state::settings::BrokerSettings;
use logmill_wire::frame::control::{ControlAnswer, ControlRequest, decode_answer, encode_request};
use logmill_wire::ids::{NodeId, PartitionIndex, ShardIndex, TopicPartition, Uuid};
use network::Network;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const PORT: u16 = 9092;
/// The session of a broker, in the tests.
const SESSION: Duration = Duration::from_millis(1_000);

struct Life {
    plane: ControlPlane<SimulatedRuntime>,
    quorum: Quorum,
}

#[derive(Default)]
struct Node {
    has_begun: bool,
    life: Option<Life>,
    is_started: bool,
    refused: Option<StartError>,
    ended: Option<String>,
    /// What its shards work with.
    published: Option<Arc<Image>>,
    carry_out: Option<CarryOut>,
}

pub struct Cluster {
    pub world: Rc<World>,
    pub network: Rc<Network>,
    hosts: Vec<Host>,
    nodes: Vec<Rc<RefCell<Node>>>,
    voters: Vec<NodeId>,
    journal_bytes: u64,
}

fn id(node: usize) -> NodeId {
    NodeId(node as i32)
}

fn settings(node: usize) -> BrokerSettings {
    let values = [
        ("node.id", node.to_string()),
        ("broker.session.timeout.ms", SESSION.as_millis().to_string()),
        ("broker.heartbeat.interval.ms", "200".to_owned()),
        ("initial.broker.registration.timeout.ms", "10000".to_owned()),
        ("default.replication.factor", "3".to_owned()),
        ("min.insync.replicas", "2".to_owned()),
        ("request.timeout.ms", "5000".to_owned()),
    ];
    let values = values.into_iter().map(|(key, value)| (key.to_owned(), value));
    BrokerSettings::from_values(values.collect::<BTreeMap<_, _>>()).unwrap()
}

impl Cluster {
    /// Nodes that are all down, of which the first ones vote.
    pub fn new(seed: u64, count: usize, voters: usize) -> Self {
        let world = Rc::new(World::new(seed, Options::default()));
        let network = Network::new(&world);
        let hosts = (0..count).map(|node| world.host(&format!("node{node}"))).collect();
        let nodes = (0..count).map(|_| Rc::default()).collect();
        Self { network, hosts, nodes, voters: (0..voters).map(id).collect(), journal_bytes: 4 << 20, world }
    }

    /// Three nodes that vote and hold partitions, all of them started.
    pub fn of_three(seed: u64) -> Self {
        Self::of_three_with_journals(seed, 4 << 20)
    }

    /// As [`Cluster::of_three`], with journals of another size for the quorum's state.
    pub fn of_three_with_journals(seed: u64, journal_bytes: u64) -> Self {
        let cluster = Self { journal_bytes, ..Self::new(seed, 3, 3) };
        (0..3).for_each(|node| cluster.start(node));
        assert!(cluster.wait(10 * SECOND, |cluster| (0..3).all(|node| cluster.is_started(node))));
        cluster
    }

    fn directory(node: usize) -> Uuid {
        Uuid([node as u8 + 1; 16])
    }

    pub fn broker_start(&self, node: usize) -> BrokerStart {
        let endpoint = Endpoint {
            listener: "PLAINTEXT".to_owned(),
            host: self.hosts[node].ip().to_string(),
            port: PORT,
            security_protocol: 0,
        };
        let registration = BrokerRegistration {
            broker_id: id(node),
            cluster_id: Uuid::ZERO,
            incarnation: Uuid::ZERO,
            rack: None,
            endpoints: vec![endpoint],
        };
        let directories = vec![Self::directory(node)];
        let logs = Vec::new();
        BrokerStart { registration, directories, logs, lost_writes: false, starts_fenced: true }
    }

    pub fn carry_out_with(&self, node: usize, carry_out: CarryOut) {
        self.nodes[node].borrow_mut().carry_out = Some(carry_out);
    }

    /// Starts a node, as far as it comes.
    pub fn start(&self, node: usize) {
        let is_first_life = !std::mem::replace(&mut self.nodes[node].borrow_mut().has_begun, true);
        if !is_first_life {
            self.hosts[node].restart();
        }
        let runtime = self.hosts[node].runtime(ShardIndex(0));
        let plug = self.network.plug(id(node), runtime.clone());
        let (broker_start, address) = (self.broker_start(node), self.hosts[node].address(PORT));
        let journal_bytes = self.journal_bytes;
        let (network, state, voters) =
            (Rc::clone(&self.network), Rc::clone(&self.nodes[node]), self.voters.clone());
        runtime.clone().spawn(async move {
            let _ = runtime.create_directory(&PathBuf::from("/data")).await;
            let _ = runtime.sync_directory(&PathBuf::from("/")).await;
            let listener = runtime.listen(address).await.unwrap();
            runtime.spawn(async move { while listener.accept().await.is_ok() {} });
            let config = QuorumConfig {
                key: MemberKey { node: id(node), directory: Self::directory(node) },
                endpoints: Vec::new(),
                voters,
                directory: PathBuf::from("/data/quorum"),
                known_cluster: None,
                health: Arc::default(),
            };
            let mut times = QuorumSettings::with_election_timeout_ms(300);
            times.disk = DiskSettings { journal_bytes };
            let quorum = Quorum::start(runtime.clone(), plug.clone(), config, times).await.unwrap();
            let publisher = Publisher::default();
            let plane = ControlPlane::start(
                runtime.clone(),
                Arc::new(settings(node)),
                quorum.clone(),
                publisher.clone(),
                Rc::new(plug),
            );
            if let Some(carry_out) = state.borrow().carry_out.clone() {
                plane.carry_out_with(carry_out);
            }
            network.set_handler(id(node), plane.call_handler());
            state.borrow_mut().life = Some(Life { plane: plane.clone(), quorum: quorum.clone() });
            if let Err(error) = plane.register(broker_start).await {
                state.borrow_mut().refused = Some(error);
                return;
            }
            let shown = Rc::clone(&state);
            let publish = move |image| -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
                shown.borrow_mut().published = Some(image);
                Box::pin(std::future::ready(()))
            };
            publisher.begin(&runtime, quorum, Rc::new(publish));
            let is_unfenced = plane.until_unfenced().await;
            state.borrow_mut().is_started = is_unfenced;
            let cause = plane.until_replaced().await;
            state.borrow_mut().ended = Some(cause);
        });
    }

    /// Kills a node's process.
    pub fn kill(&self, node: usize) {
        self.network.unplug(id(node));
        let carry_out = self.nodes[node].borrow().carry_out.clone();
        *self.nodes[node].borrow_mut() = Node { has_begun: true, carry_out, ..Node::default() };
        self.hosts[node].kill();
    }

    pub fn is_started(&self, node: usize) -> bool {
        self.nodes[node].borrow().is_started
    }

    pub fn runtime(&self, node: usize) -> SimulatedRuntime {
        self.hosts[node].runtime(ShardIndex(0))
    }

    pub fn plane(&self, node: usize) -> ControlPlane<SimulatedRuntime> {
        self.nodes[node].borrow().life.as_ref().unwrap().plane.clone()
    }

    pub fn quorum(&self, node: usize) -> Option<Quorum> {
        self.nodes[node].borrow().life.as_ref().map(|life| life.quorum.clone())
    }

    /// The node that is the active controller, of several the one of the highest term.
    pub fn controller(&self) -> Option<usize> {
        let current = (0..self.nodes.len()).filter_map(|node| {
            let status = self.quorum(node)?.status();
            (status.role == Role::Leader && status.is_current).then_some((status.term, node))
        });
        current.max().map(|(_, node)| node)
    }

    /// What the active controller knows.
    pub fn image(&self) -> Image {
        self.controller().map_or_else(Image::default, |node| self.plane(node).image())
    }

    pub fn broker(&self, node: usize) -> Option<Arc<Broker>> {
        self.image().broker(id(node)).cloned()
    }

    pub fn is_fenced(&self, node: usize) -> bool {
        self.broker(node).is_some_and(|broker| broker.fenced)
    }

    /// Lets time pass until `holds`, and says whether it did within `limit`.
    pub fn wait(&self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.world.now() + limit;
        while self.world.now() < end {
            if holds(self) {
                return true;
            }
            self.world.run_for(Duration::from_millis(5));
        }
        holds(self)
    }

    /// Has a node's shard ask something of its control plane.
    pub fn ask<T: Send + 'static>(
        &self,
        node: usize,
        command: impl FnOnce(oneshot::Sender<T>) -> MetadataCommand,
    ) -> Rc<RefCell<Option<T>>> {
        let (reply, answer) = oneshot::channel();
        let answered = Rc::new(RefCell::new(None));
        let plane = self.plane(node);
        plane.handle(command(reply));
        let kept = Rc::clone(&answered);
        self.runtime(node).spawn(async move { *kept.borrow_mut() = answer.await.ok() });
        answered
    }

    /// As [`Cluster::ask`], and waits for the answer.
    pub fn answer<T: Send + 'static>(
        &self,
        node: usize,
        command: impl FnOnce(oneshot::Sender<T>) -> MetadataCommand,
    ) -> T {
        let answered = self.ask(node, command);
        assert!(self.wait(20 * SECOND, |_| answered.borrow().is_some()), "there is no answer");
        answered.take().unwrap()
    }

    /// Sends a question in the name of a node, and waits for the answer.
    pub fn call(&self, from: usize, to: usize, request: &ControlRequest) -> Option<ControlAnswer> {
        let payload = encode_request(request).unwrap();
        let answer = self.network.ask(id(from), id(to), CONTROL_CALL, payload.into());
        let answered = Rc::new(RefCell::new(None));
        let kept = Rc::clone(&answered);
        self.runtime(from).spawn(async move { *kept.borrow_mut() = answer.await.ok() });
        self.wait(2 * SECOND, |_| answered.borrow().is_some());
        answered.take().map(|bytes| decode_answer(&bytes).unwrap())
    }

    /// Creates a topic with a partition led by each of the brokers, and three replicas each.
    pub fn create_topic(&self, name: &str) {
        let topic = NewTopic {
            name: name.to_owned(),
            partition_count: 3,
            replication_factor: 3,
            assignments: Vec::new(),
            configs: Vec::new(),
        };
        let controller = self.controller().unwrap();
        let created = self.answer(controller, |reply| MetadataCommand::CreateTopics {
            topics: vec![topic],
            validate_only: false,
            reply,
        });
        assert!(created.unwrap().iter().all(|created| created.result.is_ok()));
    }
}

fn partition(image: &Image, name: &str, index: i32) -> TopicPartition {
    let topic = image.topic_by_name(name).unwrap();
    TopicPartition { topic_id: topic.id, partition: PartitionIndex(index) }
}

/// Calls `look` with each partition of a topic.
fn each_partition(image: &Image, name: &str, mut look: impl FnMut(Partition<'_>)) {
    let topic = image.topic_by_name(name).unwrap();
    for index in 0..topic.partition_count() {
        look(image.partition(topic, PartitionIndex(index)).unwrap());
    }
}

/// Who leads the partitions of a topic.
fn leaders(image: &Image, name: &str) -> Vec<NodeId> {
    let mut leaders = Vec::new();
    each_partition(image, name, |partition| leaders.push(partition.leader));
    leaders
}
