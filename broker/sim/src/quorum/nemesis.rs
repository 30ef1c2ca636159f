//! One seed: a quorum, changes, and everything that can happen to it; then it is healed and must go on.

use super::cluster::Cluster;
use super::network::Weather;
use logmill::cluster::quorum::{DiskSettings, MemberKey, QuorumSettings};
use logmill::runtime::simulated::Chance;
use std::time::Duration;

/// How long a healed quorum may take to agree, in virtual time.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The first promise that was broken, if one was.
    pub broken: Option<String>,
    /// A number over everything that happened.
    pub trace_hash: u64,
    /// Changes that were acknowledged.
    pub acknowledged: u64,
    /// The last term that had a leader.
    pub terms: u64,
    /// Power cuts and kills.
    pub falls: u64,
    /// Disks that were wiped.
    pub wiped: u64,
    /// Wiped disks whose node votes again.
    pub replaced: u64,
}

struct Run {
    cluster: Cluster,
    chance: Chance,
    outcome: Outcome,
    /// What wiped disks were, while they are voters.
    ghosts: Vec<MemberKey>,
}

/// Settings with which little time does much.
#[must_use]
pub fn settings(chance: &mut Chance) -> QuorumSettings {
    QuorumSettings {
        tick: Duration::from_millis(20),
        election_ticks: 10,
        heartbeat_ticks: 2,
        disk: DiskSettings { journal_bytes: (64 << 10) << chance.below(3) },
        piece_bytes: 256 << chance.below(6),
    }
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let mut chance = Chance::new(seed ^ 0x0c0f_fee5);
    let count = if chance.one_in(3) { 5 } else { 3 };
    let cluster = Cluster::new(seed, count, settings(&mut chance));
    let mut run = Run { cluster, chance, outcome: Outcome::default(), ghosts: Vec::new() };
    for node in 0..count {
        run.cluster.start(node);
        run.pause(300);
    }
    for _ in 0..60 + run.chance.below(60) {
        if run.cluster.checker.borrow().broken().is_some() {
            break;
        }
        run.deed();
        run.pause(200);
    }
    run.heal();
    let checker = run.cluster.checker.borrow();
    Outcome {
        broken: checker.broken(),
        trace_hash: run.cluster.world.trace_hash(),
        acknowledged: checker.acknowledged() as u64,
        terms: checker.last_term_led(),
        ..run.outcome.clone()
    }
}

impl Run {
    fn pause(&mut self, milliseconds_max: u64) {
        let milliseconds = self.chance.below(milliseconds_max);
        self.cluster.world.run_for(Duration::from_millis(milliseconds));
    }

    fn any(&mut self) -> usize {
        self.chance.index(self.cluster.len())
    }

    fn deed(&mut self) {
        match self.chance.below(30) {
            0..=11 => {
                let node = self.cluster.leader().filter(|_| !self.chance.one_in(10));
                let node = node.unwrap_or_else(|| self.chance.index(self.cluster.len()));
                for _ in 0..1 + self.chance.below(8) {
                    self.cluster.propose(node);
                }
            }
            12..=14 => self.fell_one(),
            15..=18 => {
                let node = self.any();
                if !self.cluster.is_up(node) {
                    self.cluster.start(node);
                }
            }
            19 | 20 => {
                let (from, to) = (self.any(), self.any());
                self.cluster.network.cut(from, to);
                if self.chance.one_in(2) {
                    self.cluster.network.cut(to, from);
                }
            }
            21 | 22 => self.cluster.network.mend(),
            23 => {
                let weather = Weather {
                    loss: self.chance.below(30) as f64 / 100.0,
                    doubling: self.chance.below(50) as f64 / 100.0,
                    delay_us_max: 1_000 << self.chance.below(9),
                };
                self.cluster.network.set_weather(weather);
            }
            24 => self.cluster.network.set_weather(Weather::FAIR),
            25 | 26 => self.wipe_one(),
            _ => self.replace_ghosts(),
        }
        let node = self.any();
        self.cluster.look_at(node);
    }

    fn fell_one(&mut self) {
        let node = match self.cluster.leader() {
            Some(leader) if self.chance.one_in(2) => leader,
            _ => self.any(),
        };
        if self.cluster.is_up(node) {
            let is_power_cut = !self.chance.one_in(3);
            self.cluster.fell(node, is_power_cut);
            self.outcome.falls += 1;
        }
    }

    /// A majority of the voters keeps its disks: more is not promised.
    fn wipe_one(&mut self) {
        let node = self.any();
        let may_go = (self.cluster.len() - 1) / 2;
        let key = self.cluster.key(node);
        // A founder whose disk goes before anybody else has its log leaves nobody who knows the members.
        let has_begun = self.cluster.checker.borrow().acknowledged() > 0;
        if !has_begun || self.ghosts.len() >= may_go || self.cluster.is_up(node) || self.is_ghost(node) {
            return;
        }
        self.cluster.wipe(node);
        self.ghosts.push(key);
        self.outcome.wiped += 1;
    }

    fn is_ghost(&self, node: usize) -> bool {
        self.ghosts.iter().any(|ghost| ghost.node.0 as usize == node)
    }

    /// Lets the leader put what nodes have now in the place of what they had.
    fn replace_ghosts(&mut self) {
        let Some(leader) = self.cluster.leader() else { return };
        let Some(status) = self.cluster.quorum(leader).map(|quorum| quorum.status()) else { return };
        let is_voter = |key| status.members.get(key).is_some_and(|member| member.is_voter);
        let mut replaced = 0;
        let cluster = &self.cluster;
        self.ghosts.retain(|&ghost| {
            let now = cluster.key(ghost.node.0 as usize);
            match (is_voter(now), is_voter(ghost)) {
                (false, _) => cluster.change_voter(leader, now, true),
                (true, true) => cluster.change_voter(leader, ghost, false),
                (true, false) => {
                    replaced += 1;
                    return false;
                }
            }
            true
        });
        self.outcome.replaced += replaced;
    }

    /// Ends all faults; then every node must come to apply the same, and take changes again.
    fn heal(&mut self) {
        self.cluster.network.mend();
        self.cluster.network.set_weather(Weather::FAIR);
        for node in 0..self.cluster.len() {
            if !self.cluster.is_up(node) {
                self.cluster.start(node);
            }
        }
        let has_leader = self.cluster.wait(PATIENCE, |cluster| cluster.leader().is_some());
        if !has_leader {
            let what = format!("there is no leader: {}", self.cluster.describe());
            return self.cluster.checker.borrow_mut().break_promise("GoesOn", what);
        }
        let before = self.cluster.checker.borrow().acknowledged();
        let mut rounds = 0;
        while self.cluster.checker.borrow().acknowledged() == before && rounds < 200 {
            if let Some(leader) = self.cluster.leader() {
                self.cluster.propose(leader);
            }
            self.cluster.world.run_for(Duration::from_millis(100));
            rounds += 1;
        }
        if self.cluster.checker.borrow().acknowledged() == before {
            self.cluster.checker.borrow_mut().break_promise("GoesOn", "nothing is committed");
        }
        let agrees = |cluster: &Cluster| {
            let last = cluster.checker.borrow().last_acknowledged();
            (0..cluster.len())
                .all(|node| cluster.quorum(node).is_some_and(|quorum| quorum.status().applied >= last))
        };
        if !self.cluster.wait(PATIENCE, agrees) {
            let applied: Vec<_> = (0..self.cluster.len())
                .map(|node| self.cluster.quorum(node).map(|quorum| quorum.status().applied))
                .collect();
            let what = format!("not all nodes catch up: {applied:?}");
            self.cluster.checker.borrow_mut().break_promise("CatchesUp", what);
        }
        for node in 0..self.cluster.len() {
            self.cluster.look_at(node);
        }
    }
}
