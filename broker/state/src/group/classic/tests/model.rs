//! Several clients, an unreliable world, and a coordinator that is lost now and then, drawn from a seed.

use super::stage::{GROUP, Stage, Who};
use crate::group::{
    GroupReply, GroupRequest, HeartbeatRequest, JoinReply, JoinedMember, LeaveRequest, SyncReply, Ticket,
};
use crate::test_random::Random;
use bytes::Bytes;
use logmill_wire::error_codes::ErrorCode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SEEDS: u64 = 400;
const STEPS: usize = 500;
const PARTITIONS: usize = 7;
/// The first join of a client that is gone may wait for five minutes, and some rebalances may follow.
const CALM_MS: u64 = 600_000;
const CALM_STEP_MS: u64 = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Join,
    Sync,
    Heartbeat,
    Leave,
}

/// A client that behaves as Kafka's do, except that it is sometimes gone.
#[derive(Debug)]
struct Client {
    who: Who,
    asked: Option<(Asked, Ticket)>,
    /// The generation that it has joined; `None` if it must join (again).
    generation: Option<i32>,
    /// Whom it assigns for, if it leads.
    leads: Vec<JoinedMember>,
    /// What it works on; nothing while it rebalances.
    holds: Option<BTreeSet<String>>,
    wakes_at_ms: u64,
}

struct World {
    random: Random,
    stage: Stage,
    clients: Vec<Client>,
    is_calm: bool,
    /// Who was given a partition in a generation.
    given: BTreeMap<(i32, String), usize>,
    /// Of each sync: the generation.
    syncs: BTreeMap<Ticket, i32>,
    /// The highest generation that somebody was given an assignment of, and that somebody joined at this coordinator.
    highest_synced: i32,
    highest_joined: i32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let mut stage = Stage::new();
        stage.settings.initial_rebalance_delay_ms = random.below(4) * 1000;
        let count = 2 + random.below(4);
        let clients = (0..count).map(|number| Client::new(number, &mut random)).collect();
        Self {
            random,
            stage,
            clients,
            is_calm: false,
            given: BTreeMap::new(),
            syncs: BTreeMap::new(),
            highest_synced: 0,
            highest_joined: 0,
        }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            match self.random.below(100) {
                0 => self.lose_coordinator(),
                1..=30 => {
                    let milliseconds = self.random.below(1500);
                    self.stage.pass(milliseconds);
                }
                31..=60 => self.stage.is_slow = self.random.chance(70),
                61..=70 => {
                    self.stage.release();
                }
                _ => {}
            }
            if !self.stage.is_slow {
                while self.stage.release() {}
            }
            let place = self.random.below(self.clients.len() as u64) as usize;
            self.act(place);
            self.judge();
        }
        self.calm_down();
    }

    fn lose_coordinator(&mut self) {
        self.stage.restart();
        self.highest_joined = self.highest_synced;
        for client in &mut self.clients {
            // What is not answered by now never will be.
            if let Some((asked, ticket)) = client.asked
                && !self.stage.is_answered(ticket)
            {
                client.asked = None;
                if asked == Asked::Leave {
                    client.forget_id();
                }
            }
        }
    }

    /// Nothing goes wrong any more: soon all are members of one generation and have everything.
    fn calm_down(&mut self) {
        self.is_calm = true;
        self.stage.is_slow = false;
        while self.stage.release() {}
        let deadline_ms = self.stage.now_ms + CALM_MS;
        while !self.is_settled() {
            assert!(self.stage.now_ms < deadline_ms, "no end: {:#?}", self.clients);
            self.calm_step();
        }
        let generation = self.clients[0].generation;
        for _ in 0..100 {
            self.calm_step();
        }
        assert!(self.is_settled() && self.clients[0].generation == generation, "it stays so");
        assert_eq!(self.stage.waiting(), 0, "nobody waits for a reply");
    }

    fn calm_step(&mut self) {
        self.stage.pass(CALM_STEP_MS);
        for place in 0..self.clients.len() {
            self.clients[place].wakes_at_ms = 0;
            self.act(place);
            self.act(place);
            self.judge();
        }
    }

    fn is_settled(&mut self) -> bool {
        let generation = self.clients[0].generation;
        let all: usize = self.clients.iter().flat_map(|client| &client.holds).map(BTreeSet::len).sum();
        let is_one =
            generation.is_some() && self.clients.iter().all(|client| client.generation == generation);
        is_one && all == PARTITIONS && self.stage.state() == "Stable"
    }

    /// Looks at what was answered, in the order in which it was.
    fn judge(&mut self) {
        for (ticket, reply) in std::mem::take(&mut self.stage.released) {
            match reply {
                GroupReply::Sync(reply) if reply.error == ErrorCode::None => {
                    let generation = self.syncs[&ticket];
                    assert!(generation >= self.highest_synced, "{generation} after {}", self.highest_synced);
                    self.highest_synced = generation;
                }
                GroupReply::Join(reply) if reply.error == ErrorCode::None => {
                    assert!(
                        reply.generation >= self.highest_joined,
                        "{reply:?} after {}",
                        self.highest_joined
                    );
                    assert!(
                        reply.generation >= self.highest_synced,
                        "{reply:?} after {}",
                        self.highest_synced
                    );
                    self.highest_joined = reply.generation;
                }
                _ => {}
            }
        }
    }

    fn act(&mut self, place: usize) {
        if self.clients[place].wakes_at_ms > self.stage.now_ms {
            return;
        }
        if !self.is_calm && self.random.chance(3) {
            self.fail(place);
            return;
        }
        if let Some((asked, ticket)) = self.clients[place].asked {
            match self.stage.take(ticket) {
                Some(reply) => self.hear(place, ticket, reply),
                // The client's patience ends, and it asks again.
                None if !self.is_calm && asked != Asked::Leave && self.random.chance(5) => {
                    self.clients[place].asked = None;
                }
                None => {}
            }
            return;
        }
        self.ask(place);
    }

    /// The process dies, or stands still.
    fn fail(&mut self, place: usize) {
        let client = &mut self.clients[place];
        client.wakes_at_ms = self.stage.now_ms + self.random.below(20_000);
        if self.random.chance(60) {
            client.asked = None;
            client.forget_id();
        }
    }

    fn ask(&mut self, place: usize) {
        let client = &mut self.clients[place];
        let Some(generation) = client.generation else {
            client.holds = None;
            let ticket = self.stage.join(&client.who);
            self.clients[place].asked = Some((Asked::Join, ticket));
            return;
        };
        if client.holds.is_none() {
            let assignments = deal(&client.leads, self.random.below(PARTITIONS as u64) as usize);
            let assignments: Vec<(&Arc<str>, &str)> =
                assignments.iter().map(|(id, text)| (id, text.as_str())).collect();
            let ticket = self.stage.sync_with(&client.who, generation, &assignments);
            client.asked = Some((Asked::Sync, ticket));
            self.syncs.insert(ticket, generation);
            return;
        }
        let (asked, request) = match self.random.below(100) {
            0..=2 if !self.is_calm => {
                let members = vec![(client.who.identity(), None)];
                (Asked::Leave, GroupRequest::Leave(LeaveRequest { group_id: GROUP.into(), members }))
            }
            3..=5 if !self.is_calm => {
                // It subscribes to something else.
                client.who.protocols[0].1 = Bytes::from(self.random.bits().to_string());
                client.generation = None;
                return;
            }
            _ => {
                let member = client.who.identity();
                let request = HeartbeatRequest { group_id: GROUP.into(), member, generation };
                (Asked::Heartbeat, GroupRequest::Heartbeat(request))
            }
        };
        let ticket = self.stage.send(request);
        self.clients[place].asked = Some((asked, ticket));
    }

    fn hear(&mut self, place: usize, ticket: Ticket, reply: GroupReply) {
        self.clients[place].asked = None;
        match reply {
            GroupReply::Join(reply) => self.clients[place].hear_join(reply),
            GroupReply::Sync(reply) => self.hear_sync(place, self.syncs[&ticket], &reply),
            GroupReply::Heartbeat(ErrorCode::None) => {}
            GroupReply::Heartbeat(error) => self.clients[place].hear_error(error),
            GroupReply::Leave(Ok(left)) => {
                assert_eq!(left.len(), 1);
                self.clients[place].forget_id();
            }
            other => panic!("{other:?}"),
        }
    }

    fn hear_sync(&mut self, place: usize, generation: i32, reply: &SyncReply) {
        if reply.error != ErrorCode::None {
            self.clients[place].hear_error(reply.error);
            return;
        }
        let text = std::str::from_utf8(&reply.assignment).unwrap();
        let holds: BTreeSet<String> = text.split_terminator(',').map(str::to_owned).collect();
        for partition in &holds {
            let holder = *self.given.entry((generation, partition.clone())).or_insert(place);
            assert_eq!(holder, place, "two work on {partition} in generation {generation}");
        }
        self.clients[place].holds = Some(holds);
    }
}

impl Client {
    fn new(number: u64, random: &mut Random) -> Self {
        let plain = if random.chance(40) {
            Who::fixed(&format!("i{number}"))
        } else {
            Who::dynamic(&format!("c{number}"))
        };
        let named: &[&str] = if random.chance(50) { &["range", "sticky"] } else { &["sticky", "range"] };
        let who = Who {
            session_ms: 6_000 + i32::try_from(random.below(20_000)).unwrap(),
            rebalance_ms: 4_000 + i32::try_from(random.below(20_000)).unwrap(),
            requires_known_id: random.chance(70),
            can_skip: random.chance(70),
            ..plain.with_protocols(named)
        };
        Self { who, asked: None, generation: None, leads: Vec::new(), holds: None, wakes_at_ms: 0 }
    }

    fn forget_id(&mut self) {
        self.who.member_id = "".into();
        self.generation = None;
        self.holds = None;
    }

    fn hear_join(&mut self, reply: JoinReply) {
        match reply.error {
            ErrorCode::None => {
                self.generation = Some(reply.generation);
                let is_leader = reply.leader == reply.member_id && !reply.skip_assignment;
                assert!(is_leader || reply.skip_assignment || reply.members.is_empty());
                self.leads = if is_leader { reply.members } else { Vec::new() };
                self.who.member_id = reply.member_id;
            }
            ErrorCode::MemberIdRequired => self.who.member_id = reply.member_id,
            error => self.hear_error(error),
        }
    }

    fn hear_error(&mut self, error: ErrorCode) {
        match error {
            ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration => {
                self.generation = None;
                self.holds = None;
            }
            ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId => self.forget_id(),
            other => panic!("{other:?} of {self:?}"),
        }
    }
}

/// Deals all partitions out, beginning with one that the leader likes.
fn deal(members: &[JoinedMember], first: usize) -> Vec<(Arc<str>, String)> {
    let mut assignments: Vec<(Arc<str>, String)> =
        members.iter().map(|member| (Arc::clone(&member.member_id), String::new())).collect();
    for partition in 0..PARTITIONS {
        let count = assignments.len().max(1);
        if let Some((_, text)) = assignments.get_mut((first + partition) % count) {
            text.push_str(&format!("p{partition},"));
        }
    }
    assignments
}

#[test]
fn members_share_and_settle_whatever_happens() {
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        assert!(run.is_ok(), "seed {seed}");
    }
}
