//! What happens to a cluster: each seed draws which kinds of faults it has, and how often.

use super::client::{Client, Place};
use super::history::Shared;
use super::nodes::{Nodes, directories_of};
use super::rot::Rot;
use logmill::runtime::simulated::{Chance, Fault, Operation, World};
use logmill_wire::api::{
    alter_partition_reassignments, create_topics, delete_topics, elect_leaders, incremental_alter_configs,
};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A process is killed.
    Kill,
    /// A host loses its power, and with it what was not durable; what was being written is torn.
    PowerCut,
    /// All tasks of a host stand still.
    Pause,
    /// Nothing arrives from one host at another.
    CutOneWay,
    /// Two hosts hear nothing of each other.
    CutBothWays,
    /// A host hears nothing of any other, nor they of it.
    Isolate,
    /// Connections between two hosts break.
    Reset,
    /// A disk becomes slow.
    SlowDisk,
    /// A flush fails.
    FailedFlush,
    /// A write fails.
    FailedWrite,
    /// One of a node's log directories takes nothing any more; the metadata are in the other.
    FailedDirectory,
    /// Little room is left on a disk.
    FullDisk,
    /// A host gets an empty disk.
    Wipe,
    /// A bit of what is on a disk is another one.
    Rot,
    /// A wall clock jumps.
    Clock,
    /// A process is told to stop.
    Stop,
    /// A partition gets other replicas.
    Reassign,
    /// The preferred leaders are elected.
    Elect,
    /// A topic's configuration changes.
    Configure,
    /// A topic is made.
    CreateTopic,
    /// A topic is deleted.
    DeleteTopic,
    /// A broker is drained, or taken back.
    Drain,
}

const ALL: &[Kind] = &[
    Kind::Kill,
    Kind::PowerCut,
    Kind::Pause,
    Kind::CutOneWay,
    Kind::CutBothWays,
    Kind::Isolate,
    Kind::Reset,
    Kind::SlowDisk,
    Kind::FailedFlush,
    Kind::FailedWrite,
    Kind::FailedDirectory,
    Kind::FullDisk,
    Kind::Wipe,
    Kind::Rot,
    Kind::Clock,
    Kind::Stop,
    Kind::Reassign,
    Kind::Elect,
    Kind::Configure,
    Kind::CreateTopic,
    Kind::DeleteTopic,
    Kind::Drain,
];

/// `EIO`.
const INPUT_OUTPUT: i32 = 5;

/// The name of the topics that come and go.
const PASSING_TOPIC: &str = "passing";

/// The faults of a seed.
pub struct Nemesis {
    world: Rc<World>,
    nodes: Rc<Nodes>,
    chance: Chance,
    history: Shared,
    /// How often a kind is drawn for the number of times that it stands here.
    bag: Vec<Kind>,
    /// The node whose disk was replaced, or is going to be: it does not vote on the metadata until an operator has it vote.
    pub wiped: Option<usize>,
    /// What has rotted.
    pub rotten: Option<Rot>,
    /// Nodes one of whose log directories has failed for good.
    pub crippled: BTreeSet<usize>,
    /// Nodes whose disk has failed: an operator starts them anew.
    pub suspects: BTreeSet<usize>,
    /// What was done, when and to whom.
    pub deeds: Vec<String>,
}

impl Nemesis {
    /// Draws which kinds of faults there are.
    #[must_use]
    pub fn new(world: Rc<World>, nodes: Rc<Nodes>, history: Shared, mut chance: Chance) -> Self {
        let mut bag = Vec::new();
        for kind in ALL {
            let share = if chance.one_in(2) { 1 + chance.below(4) } else { 0 };
            bag.extend((0..share).map(|_| *kind));
        }
        if bag.is_empty() {
            bag.push(Kind::Kill);
        }
        Self {
            world,
            nodes,
            chance,
            history,
            bag,
            wiped: None,
            rotten: None,
            crippled: BTreeSet::new(),
            suspects: BTreeSet::new(),
            deeds: Vec::new(),
        }
    }

    /// Does something; `admin` makes a client for what an administrator does.
    pub fn act(&mut self, admin: impl FnOnce() -> Client) {
        let kind = self.bag[self.chance.index(self.bag.len())];
        let node = self.chance.index(self.nodes.len());
        let milliseconds = self.world.now().as_millis();
        self.deeds.push(format!("{milliseconds} ms: {kind:?}, node {}", node + 1));
        match kind {
            Kind::Kill => self.fall(node, Nodes::kill),
            Kind::PowerCut => self.fall(node, Nodes::cut_power),
            Kind::Wipe => self.wipe(node),
            Kind::FailedDirectory => self.fail_directory(node),
            Kind::Rot => self.rot(node),
            Kind::Stop => self.nodes.stop(node),
            Kind::Pause => {
                let host = self.nodes.host(node).clone();
                host.pause();
                let resumed = host.clone();
                self.later(4_000, move || resumed.resume());
            }
            Kind::CutOneWay | Kind::CutBothWays | Kind::Isolate | Kind::Reset => {
                self.disturb_network(kind, node)
            }
            Kind::SlowDisk | Kind::FailedFlush | Kind::FailedWrite | Kind::FullDisk => {
                self.disturb_disk(kind, node)
            }
            Kind::Clock => {
                let minutes = self.chance.below(20) as i64 - 10;
                self.nodes.host(node).set_wall_clock_error(minutes * 60_000);
            }
            _ => self.administer(kind, admin()),
        }
    }

    /// Ends all faults, but starts nobody.
    pub fn heal(&self) {
        self.world.mend_all();
        for node in 0..self.nodes.len() {
            let host = self.nodes.host(node);
            host.resume();
            host.clear_faults();
            host.set_capacity(None);
            host.set_slowness(1);
        }
    }

    fn later(&mut self, milliseconds_max: u64, deed: impl FnOnce() + 'static) {
        let delay = Duration::from_millis(self.chance.below(milliseconds_max));
        self.world.after(delay, deed);
    }

    /// Ends a process, and starts another one some time later.
    fn fall(&mut self, node: usize, ends: impl Fn(&Nodes, usize)) {
        if self.nodes.is_running(node) {
            ends(&self.nodes, node);
        }
    }

    /// One disk is lost at most, and only while every other replica has everything.
    fn may_lose_disk(&self) -> bool {
        self.wiped.is_none() && self.crippled.is_empty() && super::run::is_whole(&self.nodes)
    }

    fn wipe(&mut self, node: usize) {
        if self.may_lose_disk() {
            self.note("it is empty now");
            self.wiped = Some(node);
            self.nodes.wipe(node);
        }
    }

    /// The second log directory of a node takes nothing any more, until [`Nemesis::heal`] and a restart.
    pub fn fail_directory(&mut self, node: usize) {
        let Some(directory) = directories_of(node).get(1).filter(|_| self.may_lose_disk()) else { return };
        for operation in [Operation::Write, Operation::Flush] {
            let path_contains = format!("{directory}/");
            self.nodes.host(node).inject(Fault { path_contains, ..Fault::always(operation) });
        }
        self.crippled.insert(node);
        self.note(directory);
    }

    /// Adds to the last deed what came of it: some come to nothing.
    fn note(&mut self, what: &str) {
        if let Some(deed) = self.deeds.last_mut() {
            deed.push_str(": ");
            deed.push_str(what);
        }
    }

    /// One bit at most, and only where every other replica has everything; the disk is to be replaced for it.
    fn rot(&mut self, node: usize) {
        if self.wiped.is_some() || !self.crippled.is_empty() {
            return;
        }
        let count = self.nodes.len();
        self.rotten = (node..node + count).find_map(|node| {
            Rot::strike(&self.nodes, node % count, &self.history.borrow(), &mut self.chance)
        });
        self.wiped = self.rotten.as_ref().map(|rot| rot.node);
        if let Some(rot) = &self.rotten {
            let place = rot.place();
            self.note(&place);
        }
    }

    fn disturb_network(&mut self, kind: Kind, node: usize) {
        let count = self.nodes.len();
        let other = (node + 1 + self.chance.index(count - 1)) % count;
        let host = |node: usize| self.nodes.host(node).clone();
        let ways = match kind {
            Kind::CutOneWay => vec![(host(node), host(other))],
            Kind::CutBothWays => vec![(host(node), host(other)), (host(other), host(node))],
            Kind::Isolate => {
                let others = (0..count).filter(|other| *other != node);
                others.flat_map(|other| [(host(node), host(other)), (host(other), host(node))]).collect()
            }
            _ => {
                self.world.reset_connections(&host(node), &host(other));
                return;
            }
        };
        for (from, to) in &ways {
            self.world.cut(from, to);
        }
        let world = Rc::downgrade(&self.world);
        self.later(5_000, move || {
            if let Some(world) = world.upgrade() {
                ways.iter().for_each(|(from, to)| world.mend(from, to));
            }
        });
    }

    fn disturb_disk(&mut self, kind: Kind, node: usize) {
        let host = self.nodes.host(node).clone();
        let mut fault = match kind {
            Kind::FailedFlush => Fault::always(Operation::Flush),
            Kind::FailedWrite => Fault::always(Operation::Write),
            Kind::SlowDisk => {
                host.set_slowness(1 + self.chance.below(100));
                self.later(3_000, move || host.set_slowness(1));
                return;
            }
            _ => {
                host.set_capacity(Some(host.used_bytes() + self.chance.below(200_000)));
                self.later(3_000, move || host.set_capacity(None));
                return;
            }
        };
        (fault.error, fault.after, fault.times) = (INPUT_OUTPUT, self.chance.below(20), 1);
        host.inject(fault);
        self.suspects.insert(node);
    }

    fn administer(&mut self, kind: Kind, client: Client) {
        let runtime = client.runtime.clone();
        let nodes = self.nodes.len() as i32;
        let history = Rc::clone(&self.history);
        logmill::runtime::Runtime::spawn(&runtime, async move {
            // What becomes of it is seen in the images.
            let _ = administer(kind, client, nodes, history).await;
        });
    }
}

async fn administer(kind: Kind, mut client: Client, nodes: i32, history: Shared) -> Option<()> {
    if !client.refresh().await {
        return None;
    }
    let node = client.any();
    let place = client.any_place()?;
    match kind {
        Kind::Reassign => {
            let mut replicas: Vec<i32> = (1..=nodes).collect();
            client.chance.shuffle(&mut replicas);
            replicas.truncate(3);
            let partition = alter_partition_reassignments::ReassignablePartition {
                partition_index: place.key.1,
                replicas: Some(replicas.into()),
            };
            let topic = alter_partition_reassignments::ReassignableTopic {
                name: (&*place.topic).into(),
                partitions: vec![partition].into(),
            };
            let request = alter_partition_reassignments::Request {
                timeout_ms: 3_000,
                topics: vec![topic].into(),
                ..Default::default()
            };
            client.call(node, &request, 0).await.map(drop)
        }
        Kind::Elect => {
            let request =
                elect_leaders::Request { timeout_ms: 3_000, topic_partitions: None, ..Default::default() };
            client.call(node, &request, 2).await.map(drop)
        }
        Kind::Configure => configure(&mut client, node, &place).await,
        Kind::Drain => {
            let drained = client.chance.one_in(2);
            drain(&mut client, node, drained).await.map(drop)
        }
        Kind::CreateTopic => {
            let number = client.chance.below(3);
            create_topic(&mut client, &format!("{PASSING_TOPIC}-{number}"), 2, 3).await.map(drop)
        }
        _ => {
            let place = client.places().find(|place| place.topic.starts_with(PASSING_TOPIC))?.clone();
            history.borrow_mut().give_up(place.key.0.0);
            let topic = delete_topics::DeleteTopicState { name: None, topic_id: place.key.0 };
            let request = delete_topics::Request {
                topics: vec![topic].into(),
                timeout_ms: 3_000,
                ..Default::default()
            };
            client.call(node, &request, 6).await.map(drop)
        }
    }
}

async fn configure(client: &mut Client, node: i32, place: &Place) -> Option<()> {
    let (name, value) = match client.chance.below(4) {
        0 => ("segment.bytes", (1 << (20 + client.chance.below(3))).to_string()),
        1 => ("max.message.bytes", "1048588".to_owned()),
        2 => ("segment.ms", (1_000 + client.chance.below(5_000)).to_string()),
        _ => ("file.delete.delay.ms", client.chance.below(2_000).to_string()),
    };
    let config = incremental_alter_configs::AlterableConfig {
        name: name.into(),
        config_operation: 0,
        value: Some(value.into()),
    };
    let resource = incremental_alter_configs::AlterConfigsResource {
        resource_type: 2,
        resource_name: (&*place.topic).into(),
        configs: vec![config].into(),
    };
    let request =
        incremental_alter_configs::Request { resources: vec![resource].into(), validate_only: false };
    client.call(node, &request, 1).await.map(drop)
}

/// Drains a broker, or takes it back; false if it is not known to be so.
pub async fn drain(client: &mut Client, broker: i32, drained: bool) -> Option<bool> {
    let config = incremental_alter_configs::AlterableConfig {
        name: logmill_state::metadata::DRAINED.into(),
        config_operation: if drained { 0 } else { 1 },
        value: drained.then(|| "true".into()),
    };
    let resource = incremental_alter_configs::AlterConfigsResource {
        resource_type: 4,
        resource_name: broker.to_string().into(),
        configs: vec![config].into(),
    };
    let request =
        incremental_alter_configs::Request { resources: vec![resource].into(), validate_only: false };
    let node = client.any();
    let answer = client.call(node, &request, 1).await?;
    let response: incremental_alter_configs::Response<'_> = answer.decode()?;
    Some(response.responses.iter().next()?.error_code == 0)
}

/// Makes a topic; false if it is not known to be there.
pub async fn create_topic(client: &mut Client, name: &str, partitions: i32, replicas: i16) -> Option<bool> {
    let configs = [("min.insync.replicas", "2"), ("retention.ms", "-1")].map(|(name, value)| {
        create_topics::CreatableTopicConfig { name: name.into(), value: Some(value.into()) }
    });
    let topic = create_topics::CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: replicas,
        configs: configs.into_iter().collect(),
        ..Default::default()
    };
    let request =
        create_topics::Request { topics: vec![topic].into(), timeout_ms: 3_000, ..Default::default() };
    let node = client.any();
    let answer = client.call(node, &request, 7).await?;
    let response: create_topics::Response<'_> = answer.decode()?;
    let code = response.topics.iter().next()?.error_code;
    let exists = logmill_wire::error_codes::ErrorCode::TopicAlreadyExists.code();
    Some(code == 0 || code == exists)
}
