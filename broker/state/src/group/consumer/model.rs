//! Members that come, go, dawdle, and lose answers, in schedules of a seed; and what must hold through all of it.

mod classic;

use self::classic::Classic;
use super::test_bed::{Bed, GROUP, as_instance, assigned, joining, owning, reporting};
use crate::group::{ConsumerHeartbeatReply, ConsumerHeartbeatRequest, Refused};
use crate::test_random::Random;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{PartitionIndex, TopicId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SEEDS: u64 = 150;
const STEPS: u64 = 160;
/// How many seconds the members get to settle: a session for those that vanished, and some reports of each.
const SETTLING_S: i64 = 45 + 60;
const REPORT_EVERY_S: i64 = 5;
/// So long that nobody is removed who gives up as soon as it can, however many answers are lost.
const REBALANCE_MS: i32 = 120_000;

type Partitions = BTreeSet<(TopicId, i32)>;

/// A client: what it has in its hands, and what it shall have.
#[derive(Debug)]
struct Client {
    id: String,
    instance: Option<String>,
    /// Set for one that speaks the classic protocol.
    classic: Option<Classic>,
    topics: Vec<&'static str>,
    regex: Option<&'static str>,
    epoch: i32,
    hands: Partitions,
    target: Partitions,
    /// When it will have given up what it shall not have.
    giving_up_until: Option<i64>,
    next_report: i64,
    /// The next report says everything: it joins, or an answer was lost.
    is_full: bool,
    reports_hands: bool,
}

struct World {
    bed: Bed,
    random: Random,
    clients: Vec<Client>,
    /// Static members that left for a while.
    away: Vec<String>,
    partitions: BTreeMap<&'static str, u32>,
    second: i64,
    ids: u64,
    highest_epoch: i32,
    /// How many seconds a client may take to give up.
    patience: u64,
    loses_answers: bool,
}

impl Client {
    fn request(&self) -> ConsumerHeartbeatRequest {
        let mut request = if self.epoch == 0 {
            joining(&self.id, &self.topics)
        } else if self.giving_up_until.is_none() && (self.is_full || self.reports_hands) {
            owning(&self.id, self.epoch, &self.hands)
        } else {
            reporting(&self.id, self.epoch)
        };
        if self.is_full {
            request.rebalance_timeout_ms = Some(REBALANCE_MS);
            request.subscribed_topics = Some(self.topics.iter().map(|topic| Arc::from(*topic)).collect());
            request.subscribed_regex = Some(self.regex.unwrap_or_default().into());
        }
        match &self.instance {
            Some(instance) => as_instance(instance, request),
            None => request,
        }
    }

    fn drop_all(&mut self) {
        self.hands.clear();
        self.target.clear();
        self.giving_up_until = None;
        self.epoch = 0;
        self.is_full = true;
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            // A group that is left to classic members stays as it is; what becomes of one that does not has its own
            // tests.
            bed: Bed::with(&[("group.consumer.migration.policy", "upgrade")]),
            random: Random::seeded(seed),
            clients: Vec::new(),
            away: Vec::new(),
            partitions: BTreeMap::new(),
            second: 0,
            ids: 0,
            highest_epoch: 0,
            patience: 8,
            loses_answers: true,
        };
        for topic in ["eu-a", "eu-b", "us-a"] {
            world.grow(topic);
        }
        world
    }

    fn grow(&mut self, topic: &'static str) {
        let partitions = self.partitions.entry(topic).or_insert(0);
        *partitions += 1 + u32::try_from(self.random.below(4)).unwrap();
        self.bed.topic(topic, *partitions);
    }

    fn any_client(&mut self) -> Option<usize> {
        if self.clients.is_empty() {
            return None;
        }
        Some(usize::try_from(self.random.below(self.clients.len() as u64)).unwrap())
    }

    fn subscription(&mut self) -> (Vec<&'static str>, Option<&'static str>) {
        match self.random.below(6) {
            0 => (vec!["eu-a"], None),
            1 => (vec!["us-a"], Some("eu-.*")),
            2 => (Vec::new(), Some(".*")),
            _ => (vec!["eu-a", "eu-b", "us-a"], None),
        }
    }

    fn join(&mut self) {
        self.ids += 1;
        let instance = match self.away.pop() {
            Some(instance) => Some(instance),
            None if self.random.chance(30) => Some(format!("i{}", self.ids)),
            None => None,
        };
        let (mut topics, mut regex) = self.subscription();
        let is_classic = instance.is_none() && self.random.chance(35);
        let is_eager = self.random.chance(50);
        if is_classic {
            regex = None;
            topics.push("eu-a");
        }
        self.clients.push(Client {
            id: format!("m{}", self.ids),
            instance,
            classic: is_classic.then_some(Classic { is_eager, joins: true }),
            topics,
            regex,
            epoch: 0,
            hands: Partitions::new(),
            target: Partitions::new(),
            giving_up_until: None,
            next_report: self.second,
            is_full: true,
            reports_hands: false,
        });
    }

    /// A client of the consumer protocol that keeps the group one of its kind.
    fn join_with(&mut self, topic: &'static str) {
        self.join();
        let Some(client) = self.clients.last_mut() else { return };
        (client.classic, client.topics, client.regex) = (None, vec![topic], None);
    }

    fn leave(&mut self) {
        let Some(at) = self.any_client() else { return };
        let client = self.clients.remove(at);
        if client.classic.is_some() {
            let left = self.leave_as_classic(&client);
            assert!(left || client.epoch == 0, "{} could not leave", client.id);
            return;
        }
        let epoch = if client.instance.is_some() && self.random.chance(60) { -2 } else { -1 };
        let mut request = reporting(&client.id, epoch);
        request.member.instance_id = client.instance.as_deref().map(Arc::from);
        // Who never joined is not known.
        let left = self.bed.beat(request).is_ok();
        assert!(left || client.epoch == 0, "{} could not leave", client.id);
        if epoch == -2 && left {
            self.away.extend(client.instance);
        }
    }

    fn disturb(&mut self) {
        match self.random.below(40) {
            0..=5 if self.clients.len() < 7 => self.join(),
            6..=7 => self.leave(),
            8 => {
                // Crashed: what it had is in nobody's hands.
                if let Some(at) = self.any_client() {
                    self.clients.remove(at);
                }
            }
            9 => self.grow("eu-b"),
            10 => self.grow("eu-new"),
            11 if self.partitions.remove("eu-new").is_some() => self.bed.delete_topic("eu-new"),
            12..=13 => {
                let subscription = self.subscription();
                if let Some(at) = self.any_client().filter(|at| self.clients[*at].classic.is_none()) {
                    (self.clients[at].topics, self.clients[at].regex) = subscription;
                    self.clients[at].is_full = true;
                }
            }
            14 => self.bed.restart(),
            _ => {}
        }
    }

    fn second_passes(&mut self) {
        self.second += 1;
        assert!(self.bed.wait(1000).replies.is_empty());
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            if client.giving_up_until.is_some_and(|until| until <= self.second) {
                client.giving_up_until = None;
                client.hands = client.target.clone();
                client.reports_hands = true;
                client.next_report = self.second;
            }
            if client.next_report <= self.second {
                self.report(at);
                self.check();
            }
        }
        self.check();
    }

    /// Whether an answer does not reach its client.
    fn loses(&mut self) -> bool {
        self.loses_answers && self.random.chance(10)
    }

    fn report(&mut self, at: usize) {
        if self.clients[at].classic.is_some() {
            self.report_as_classic(at);
            return;
        }
        let client = &mut self.clients[at];
        client.next_report = self.second + REPORT_EVERY_S;
        let reply = self.bed.beat(client.request());
        if self.loses() {
            self.clients[at].is_full = true;
            return;
        }
        match reply {
            Ok(reply) => self.hear(at, &reply),
            Err(refused) => self.refused(at, &refused),
        }
    }

    fn hear(&mut self, at: usize, reply: &ConsumerHeartbeatReply) {
        let dawdles = i64::try_from(self.random.below(self.patience)).unwrap();
        let client = &mut self.clients[at];
        assert!(reply.member_epoch >= client.epoch, "the epoch of {} went back", client.id);
        client.epoch = reply.member_epoch;
        client.is_full = false;
        client.reports_hands = false;
        let Some(target) = assigned(reply) else { return };
        client.target = target;
        if client.giving_up_until.is_some() {
            return;
        }
        if client.hands.is_subset(&client.target) {
            client.hands = client.target.clone();
        } else {
            client.giving_up_until = Some(self.second + 1 + dawdles);
        }
    }

    fn refused(&mut self, at: usize, refused: &Refused) {
        let client = &mut self.clients[at];
        match refused.code {
            ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId => client.drop_all(),
            // Its place was taken by a removal while it was away, or its forerunner's session still lasts.
            ErrorCode::UnreleasedInstanceId | ErrorCode::FencedInstanceId => client.drop_all(),
            other => panic!("{other:?}: {}", refused.message),
        }
        client.next_report = self.second + 1;
    }

    fn check(&mut self) {
        let mut hands: BTreeMap<(TopicId, i32), &str> = BTreeMap::new();
        for client in &self.clients {
            for partition in &client.hands {
                if let Some(other) = hands.insert(*partition, &client.id) {
                    panic!("{partition:?} is in the hands of {other} and {}", client.id);
                }
            }
        }
        let Some(crate::group::Group::Consumer(group)) = self.bed.groups.groups.get(GROUP) else { return };
        for ((topic, index), holder) in hands {
            let known = &group.holders[&topic][&PartitionIndex(index)];
            assert_eq!(**known, *holder, "the coordinator believes in another holder of {topic}-{index}");
        }
        let epoch = group.group_epoch();
        assert!(epoch >= self.highest_epoch, "the group's epoch went back");
        self.highest_epoch = epoch;
    }

    fn check_settled(&self) {
        if self.clients.is_empty() {
            return;
        }
        assert_eq!(self.bed.group().state(), "Stable", "{:?}", self.clients);
        assert_eq!(self.bed.group().members.len(), self.clients.len());
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        for client in &self.clients {
            let target = &self.bed.group().targets[&*client.id];
            let target: Partitions = target.iter().map(|(topic, index)| (topic, index.0)).collect();
            assert_eq!(client.hands, target, "{} does not have what it shall have", client.id);
            let matches = |topic: &&str| match client.regex {
                Some(".*") => true,
                Some(_) => topic.starts_with("eu-") || client.topics.contains(topic),
                None => client.topics.contains(topic),
            };
            wanted.extend(self.partitions.keys().copied().filter(matches));
        }
        let total: u32 = wanted.iter().map(|topic| self.partitions[topic]).sum();
        let held: usize = self.clients.iter().map(|client| client.hands.len()).sum();
        assert_eq!(held, usize::try_from(total).unwrap(), "partitions that nobody has");
    }
}

#[test]
fn partitions_have_one_owner_and_targets_are_reached() {
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.disturb();
                world.second_passes();
            }
            world.loses_answers = false;
            world.join_with("eu-a");
            for _ in 0..SETTLING_S {
                world.second_passes();
            }
            world.check_settled();
            world.bed.restart();
        });
        if run.is_err() {
            panic!("seed {seed}");
        }
    }
}
