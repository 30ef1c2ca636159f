//! Replication as a whole: a controller, brokers that crash, and a network that loses, repeats and reorders.
//!
//! One partition, one thread, one seed for a run. The brokers are driven as the real drivers drive them; the checks
//! know nothing of how replication works (`checks.rs`). At the end everything heals, and must make progress.

mod broker;
mod checks;
mod faults;

use std::collections::BTreeMap;

use logmill_wire::ids::{LeaderEpoch, MonotonicNs, NodeId, Offset, PartitionIndex, TopicPartition, Uuid};

use self::broker::{Batch, Broker, Role};
use self::checks::Truth;
use crate::metadata::{
    ControllerContext, Endpoint, Image, InSyncError, InSyncProposal, PlacementRun, Record, Topic,
};
use crate::partition::{
    AlterPartition, AlterPartitionOutcome, DivergenceAnswer, DivergenceQuery, FollowerEffects, FollowerEnds,
    LeaderEffects, LogChange, Push, PushError, ReplicationPolicy,
};
use crate::test_random::Random;

const CLUSTER: Uuid = Uuid([9; 16]);
const TOPIC: Uuid = Uuid([8; 16]);
const PARTITION: TopicPartition = TopicPartition { topic_id: TOPIC, partition: PartitionIndex(0) };
const BROKERS: i32 = 4;
const LAG_MAX_MS: u64 = 100;
const MIN_IN_SYNC: &str = "min.insync.replicas";

fn min_in_sync(topic: &Topic) -> u32 {
    topic.configs.get(MIN_IN_SYNC).and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[derive(Clone, Debug)]
enum Message {
    Push { to: NodeId, push: Push, batches: Vec<Batch> },
    Ends { to: NodeId, from: (NodeId, Uuid), epoch: LeaderEpoch, ends: FollowerEnds },
    Query { to: NodeId, from: (NodeId, Uuid), query: DivergenceQuery },
    Answer { to: NodeId, answer: DivergenceAnswer },
    Alter { from: (NodeId, Uuid), proposal: AlterPartition },
    AlterReply { to: (NodeId, Uuid), proposal: AlterPartition, outcome: AlterPartitionOutcome },
    Heartbeat { from: (NodeId, Uuid), seen: usize },
}

impl Message {
    fn ends(&self) -> (i32, i32) {
        const CONTROLLER: i32 = -1;
        match self {
            Self::Push { to, .. } | Self::Answer { to, .. } => (-2, to.0),
            Self::Ends { to, from, .. } | Self::Query { to, from, .. } => (from.0.0, to.0),
            Self::Alter { from, .. } | Self::Heartbeat { from, .. } => (from.0.0, CONTROLLER),
            Self::AlterReply { to, .. } => (CONTROLLER, to.0.0),
        }
    }
}

struct Waiting {
    base: i64,
    end: i64,
    value: u64,
    who: (NodeId, Uuid),
    epoch: i32,
}

struct Model {
    random: Random,
    now: MonotonicNs,
    brokers: Vec<Broker>,
    images: Vec<Image>,
    network: Vec<Message>,
    waiting: Vec<Waiting>,
    truth: Truth,
    write_caching: bool,
    wiped: bool,
    loss: u64,
    replay: u64,
    /// Who cannot reach whom; -1 is the controller.
    cuts: Vec<(i32, i32)>,
    next_value: u64,
    next_incarnation: u128,
    events: BTreeMap<&'static str, u64>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let write_caching = random.chance(30);
        let min = [1, 1, 2, 2, 2, 3][random.below(6) as usize];
        let mut image = Image::default();
        let mut apply = |record: Record| image.apply(&record).unwrap();
        apply(Record::ClusterIdMinted { cluster_id: CLUSTER });
        for node in 0..BROKERS {
            apply(Record::BrokerRegistered {
                broker_id: NodeId(node),
                incarnation: Uuid([0xff; 16]),
                leader_epoch_base: 0,
                rack: None,
                endpoints: vec![endpoint()],
            });
        }
        apply(Record::TopicCreated {
            topic_id: TOPIC,
            name: "t".to_owned(),
            configs: BTreeMap::from([(MIN_IN_SYNC.to_owned(), min.to_string())]),
            placement: vec![PlacementRun {
                partition_count: 1,
                leader_epoch: LeaderEpoch(0),
                replicas: (0..3).map(NodeId).collect(),
            }],
        });
        let (loss, replay) = (random.below(31), random.below(51));
        let mut model = Self {
            random,
            now: MonotonicNs(1_000_000_000),
            brokers: (0..BROKERS).map(|node| Broker::new(NodeId(node))).collect(),
            images: vec![image],
            network: Vec::new(),
            waiting: Vec::new(),
            truth: Truth::default(),
            write_caching,
            wiped: false,
            loss,
            replay,
            cuts: Vec::new(),
            next_value: 0,
            next_incarnation: 1,
            events: BTreeMap::new(),
        };
        (0..BROKERS as usize).for_each(|at| model.start(at));
        model
    }

    fn image(&self) -> &Image {
        &self.images[self.images.len() - 1]
    }

    fn count(&mut self, event: &'static str) {
        *self.events.entry(event).or_default() += 1;
    }

    /// Decides with the controller's image, and commits what is decided.
    fn decide<T>(&mut self, decide: impl FnOnce(&Image, &ControllerContext<'_>) -> (Vec<Record>, T)) -> T {
        let write_caching = self.write_caching;
        let context = ControllerContext {
            min_in_sync: &min_in_sync,
            unclean_election: &|_| false,
            write_caching: &|_| write_caching,
        };
        let (records, answer) = decide(self.image(), &context);
        if !records.is_empty() {
            let mut image = self.image().clone();
            for record in &records {
                let record = Record::decode(&record.encode()).unwrap();
                image.apply(&record).unwrap();
            }
            self.images.push(image);
        }
        answer
    }

    fn policy(&self, image: &Image) -> ReplicationPolicy {
        let topic = image.topic_by_id(TOPIC).unwrap();
        let min_in_sync = min_in_sync(topic);
        ReplicationPolicy { min_in_sync, write_caching: self.write_caching, lag_max_ms: LAG_MAX_MS }
    }

    /// A broker hears of newer metadata.
    fn see(&mut self, at: usize, index: usize) {
        let image = self.images[index].clone();
        let (topic, policy) = (image.topic_by_id(TOPIC).unwrap(), self.policy(&image));
        let leader = image.partition(topic, PARTITION.partition).unwrap().leader;
        let assignment = image.replica_assignment(PARTITION).unwrap();
        let now = self.now;
        let broker = &mut self.brokers[at];
        let led =
            matches!(&broker.role, Role::Leader(state) if state.leader_epoch() == assignment.leader_epoch);
        let Some((leads, follows)) = broker.on_metadata(leader, &assignment, policy, now) else { return };
        broker.seen = index;
        if let (Role::Leader(state), false) = (&broker.role, led) {
            let epoch = state.leader_epoch().0;
            let is_over = self.image().leader_epoch(PARTITION) != Some(LeaderEpoch(epoch));
            self.truth.on_leader(epoch, is_over, &self.brokers[at]);
            self.count("leaders");
        }
        self.after_leader(at, leads);
        self.after_follower(at, follows);
    }

    fn send(&mut self, message: Message) {
        if !self.random.chance(self.loss) {
            self.network.push(message);
        }
    }

    fn after_leader(&mut self, at: usize, effects: LeaderEffects) {
        let from = (self.brokers[at].node, self.brokers[at].incarnation);
        if let Some(proposal) = effects.alter_partition {
            self.send(Message::Alter { from, proposal });
        }
        let Role::Leader(leader) = &self.brokers[at].role else { return };
        let (high_watermark, epoch) = (leader.high_watermark().0, leader.leader_epoch().0);
        if effects.not_enough_replicas {
            self.waiting.retain(|waiting| waiting.who != from || waiting.end <= high_watermark);
        }
        let enough = leader.check_in_sync().is_ok();
        let mut due = Vec::new();
        self.waiting.retain(|waiting| {
            let is_due = waiting.who == from && waiting.epoch == epoch && waiting.end <= high_watermark;
            if is_due && enough {
                due.push((waiting.base, waiting.end, waiting.value));
            }
            !is_due
        });
        for (base, end, value) in due {
            self.truth.on_acknowledged(base, end, value);
        }
    }

    fn after_follower(&mut self, at: usize, effects: FollowerEffects) {
        let broker = &mut self.brokers[at];
        let (node, incarnation, leader) = (broker.node, broker.incarnation, broker.leader);
        let Role::Follower(follower) = &mut broker.role else { return };
        assert_eq!(
            effects.lost_committed, None,
            "{node} cuts off what was committed, and no election was unclean"
        );
        if let Some(change) = effects.change {
            broker.changing = Some(change);
        }
        if let Some(start) = effects.log_start {
            follower.advance_log_start(start);
            broker.disk.start_at(start.0);
        }
        let (from, epoch) = ((node, incarnation), follower.leader_epoch());
        if matches!(effects.change, Some(LogChange::Cut { .. })) {
            self.count("cuts");
        }
        if matches!(effects.change, Some(LogChange::Reset { .. })) {
            self.count("resets");
        }
        if let Some(query) = effects.query {
            self.send(Message::Query { to: leader, from, query });
        }
        if let Some(ends) = effects.answer {
            self.send(Message::Ends { to: leader, from, epoch, ends });
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Push { to, push, batches } => self.deliver_push(to.0 as usize, &push, &batches),
            Message::Ends { to, from, epoch, ends } => {
                let (at, now) = (to.0 as usize, self.now);
                if let Some(Role::Leader(leader)) = self.role_of(at)
                    && let Ok(effects) = leader.on_follower_ends(from, epoch, ends, now)
                {
                    self.after_leader(at, effects);
                }
            }
            Message::Query { to, from, query } => {
                let at = to.0 as usize;
                let first =
                    self.brokers.get(at).and_then(|broker| broker.disk.log.first().map(|batch| batch.base));
                let Some(Role::Leader(leader)) = self.role_of(at) else { return };
                let Ok(end) = leader.on_divergence_query(from, query.leader_epoch, query.last_epoch) else {
                    return;
                };
                let first_offset = Offset(first.unwrap_or(i64::MAX)).min(leader.log_start_offset());
                self.send(Message::Answer {
                    to: from.0,
                    answer: DivergenceAnswer { query, end, first_offset },
                });
            }
            Message::Answer { to, answer } => {
                let at = to.0 as usize;
                if let Some(Role::Follower(follower)) = self.role_of(at) {
                    let effects = follower.on_divergence_answer(&answer);
                    self.after_follower(at, effects);
                }
            }
            Message::Alter { from, proposal } => self.deliver_proposal(from, proposal),
            Message::AlterReply { to, proposal, outcome } => {
                let at = to.0.0 as usize;
                if self.brokers[at].incarnation == to.1
                    && let Some(Role::Leader(leader)) = self.role_of(at)
                {
                    let effects = leader.on_alter_partition(&proposal, &outcome);
                    self.after_leader(at, effects);
                }
            }
            Message::Heartbeat { from, seen } => {
                if self.images[seen].brokers().any(|broker| (broker.id, broker.incarnation) == from) {
                    self.decide(|image, context| {
                        let plan = image.decide_unfence_broker(from.0, from.1, context);
                        (plan.map(|plan| plan.records).unwrap_or_default(), ())
                    });
                }
            }
        }
    }

    fn role_of(&mut self, at: usize) -> Option<&mut Role> {
        self.brokers.get_mut(at).map(|broker| &mut broker.role)
    }

    fn deliver_push(&mut self, at: usize, push: &Push, batches: &[Batch]) {
        let headers: Vec<_> = batches.iter().map(|batch| batch.header()).collect();
        let broker = &mut self.brokers[at];
        let Role::Follower(follower) = &mut broker.role else { return };
        match follower.on_push(push, &headers) {
            Ok(effects) => {
                if let Some(append) = effects.append {
                    for batch in batches.iter().skip(append.skip).take(append.count) {
                        broker.disk.append(*batch);
                    }
                }
                self.after_follower(at, effects);
            }
            Err(PushError::FencedLeaderEpoch { .. } | PushError::UnknownLeaderEpoch { .. }) => {}
            Err(error) => panic!("{}: {error}", broker.node),
        }
    }

    fn deliver_proposal(&mut self, from: (NodeId, Uuid), proposal: AlterPartition) {
        let request = InSyncProposal {
            partition: PARTITION,
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch,
            in_sync: proposal.in_sync.clone(),
        };
        let decided =
            self.decide(|image, context| match image.decide_alter_partition(from, &[request], context) {
                Err(error) => (Vec::new(), Err(error)),
                Ok(mut decided) => (decided.plan.records, Ok(decided.results.remove(0))),
            });
        let outcome = match decided {
            Ok(Ok(state)) => {
                self.count("alterations");
                AlterPartitionOutcome::Accepted {
                    partition_epoch: state.partition_epoch,
                    has_eligible: !state.eligible.is_empty(),
                    in_sync: state.in_sync,
                }
            }
            Ok(Err(InSyncError::Ineligible { .. })) => {
                self.count("ineligible");
                AlterPartitionOutcome::Ineligible
            }
            Ok(Err(InSyncError::NewerThanThis)) => AlterPartitionOutcome::Unknown,
            Ok(Err(_)) | Err(_) => AlterPartitionOutcome::Stale,
        };
        self.send(Message::AlterReply { to: from, proposal, outcome });
    }

    /// A client appends at a broker that takes itself for the leader.
    fn produce(&mut self, at: usize, acks_all: bool) {
        let count = 1 + self.random.below(3) as i32;
        let broker = &mut self.brokers[at];
        let Role::Leader(leader) = &mut broker.role else { return };
        if acks_all && leader.check_in_sync().is_err() {
            return;
        }
        self.next_value += 1;
        let (base, epoch) = (leader.next_offset().0, leader.leader_epoch().0);
        let batch = Batch { base, count, epoch, value: self.next_value };
        leader.apply_batch(&batch.header());
        broker.disk.append(batch);
        let who = (broker.node, broker.incarnation);
        self.truth.on_minted(epoch, base, batch.end(), batch.value);
        if acks_all {
            self.waiting.push(Waiting { base, end: batch.end(), value: batch.value, who, epoch });
        }
    }

    fn push(&mut self, at: usize, count: usize) {
        for to in 0..BROKERS {
            if let Some((push, batches)) = self.brokers[at].next_push(NodeId(to), count) {
                self.send(Message::Push { to: NodeId(to), push, batches });
            }
        }
    }

    fn progress(&mut self, at: usize, all: bool) {
        let (_, effects) = self.brokers[at].progress(&mut self.random, all);
        self.after_follower(at, effects);
        let counted = Offset(self.brokers[at].disk.counted(self.write_caching));
        if let Role::Leader(leader) = &mut self.brokers[at].role {
            let high_watermark_moved = leader.advance_durable(counted);
            self.after_leader(at, LeaderEffects { high_watermark_moved, ..LeaderEffects::default() });
        }
    }

    /// What a broker does now and then: it asks, tells, proposes and removes.
    fn care(&mut self, at: usize) {
        let now = self.now;
        let broker = &mut self.brokers[at];
        let (from, leader_node, seen) = ((broker.node, broker.incarnation), broker.leader, broker.seen);
        match &mut broker.role {
            Role::Leader(leader) => {
                let mut effects = leader.shrink_in_sync(now);
                effects.alter_partition = leader.pending_alter_partition().cloned();
                self.after_leader(at, effects);
            }
            Role::Follower(follower) => {
                let rewind = self.random.chance(20);
                let answer = follower.is_following().then(|| follower.ends(rewind));
                let effects =
                    FollowerEffects { query: follower.query(), answer, ..FollowerEffects::default() };
                if leader_node.0 >= 0 {
                    self.after_follower(at, effects);
                }
            }
            Role::Down | Role::Nothing => {}
        }
        self.send(Message::Heartbeat { from, seen });
    }

    fn check(&mut self) {
        for broker in &self.brokers {
            self.truth.check_broker(broker, self.write_caching);
        }
        let image = &self.images[self.images.len() - 1];
        let topic = image.topic_by_id(TOPIC).unwrap();
        let partition = image.partition(topic, PARTITION.partition).unwrap();
        let Some(broker) = self.brokers.get(partition.leader.0 as usize) else { return };
        let Role::Leader(leader) = &broker.role else { return };
        if leader.leader_epoch() != partition.leader_epoch {
            return;
        }
        for &member in partition.in_sync.iter().chain(partition.eligible) {
            let replica = &self.brokers[member.0 as usize];
            let may_have_lost = self.wiped || (self.write_caching && replica.lost_power);
            if !may_have_lost {
                let high_watermark = leader.high_watermark().0;
                self.truth.check_in_sync(high_watermark, member, &replica.disk, self.write_caching);
            }
        }
    }

    fn ask_as_client(&mut self, at: usize) {
        if let Role::Leader(leader) = &self.brokers[at].role
            && leader.is_high_watermark_current()
        {
            self.truth.on_client(leader.leader_epoch().0, leader.high_watermark().0);
        }
    }
}

fn endpoint() -> Endpoint {
    let (listener, host) = ("REPLICATION".to_owned(), "h".to_owned());
    Endpoint { listener, host, port: 1, security_protocol: 0 }
}
