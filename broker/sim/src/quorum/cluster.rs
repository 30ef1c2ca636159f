//! The nodes of a quorum on simulated hosts.

use super::checker::Checker;
use super::network::Network;
use logmill::cluster::quorum::{MemberKey, ProposeError, Quorum, QuorumConfig, QuorumSettings, Role};
use logmill::runtime::Runtime;
use logmill::runtime::simulated::{Host, Options, World};
use logmill_state::metadata::Record;
use logmill_wire::ids::{NodeId, ShardIndex, Uuid};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

struct Node {
    host: Host,
    /// The id of the disk that it has.
    directory: Uuid,
    /// Hosts are up from the beginning, and empty.
    has_begun: bool,
    quorum: Option<Quorum>,
}

/// Several nodes, all of which are configured as voters.
pub struct Cluster {
    /// The world that they are in.
    pub world: Rc<World>,
    /// The network between them.
    pub network: Rc<Network>,
    /// What they are held to.
    pub checker: Rc<RefCell<Checker>>,
    nodes: Rc<RefCell<Vec<Node>>>,
    settings: QuorumSettings,
    next_change: u64,
}

impl Cluster {
    /// Nodes that are down and were never up.
    #[must_use]
    pub fn new(seed: u64, count: usize, settings: QuorumSettings) -> Self {
        let world = Rc::new(World::new(seed, Options::drawn(seed)));
        let network = Network::new(&world, count);
        let nodes = (0..count).map(|number| {
            let host = world.host(&format!("node{number}"));
            Node { host, directory: random_uuid(&world), has_begun: false, quorum: None }
        });
        let nodes = Rc::new(RefCell::new(nodes.collect()));
        Self { network, checker: Rc::default(), nodes, settings, next_change: 0, world }
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.borrow().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A node and the disk that it has.
    #[must_use]
    pub fn key(&self, node: usize) -> MemberKey {
        MemberKey { node: NodeId(node as i32), directory: self.nodes.borrow()[node].directory }
    }

    /// Whether a node is started.
    #[must_use]
    pub fn is_up(&self, node: usize) -> bool {
        self.nodes.borrow()[node].host.is_up() && self.nodes.borrow()[node].has_begun
    }

    /// The handle of a node that runs.
    #[must_use]
    pub fn quorum(&self, node: usize) -> Option<Quorum> {
        self.nodes.borrow()[node].quorum.clone()
    }

    /// Starts a node; its handle is there when it has read its disk.
    pub fn start(&self, node: usize) {
        let key = self.key(node);
        let runtime = {
            let mut nodes = self.nodes.borrow_mut();
            nodes[node].has_begun = true;
            nodes[node].host.restart();
            nodes[node].host.runtime(ShardIndex(0))
        };
        let config = QuorumConfig {
            key,
            endpoints: Vec::new(),
            voters: (0..self.len()).map(|node| NodeId(node as i32)).collect(),
            directory: PathBuf::from("/data/quorum"),
            known_cluster: None,
            health: std::sync::Arc::default(),
        };
        let link = self.network.link(node);
        let (nodes, checker) = (Rc::clone(&self.nodes), Rc::clone(&self.checker));
        let (settings, own) = (self.settings, runtime.clone());
        runtime.spawn(async move {
            // The log directory itself is not the quorum's.
            let (root, log_directory) = (PathBuf::from("/"), PathBuf::from("/data"));
            let is_there = own.create_directory(&log_directory).await.is_ok();
            if !is_there || own.sync_directory(&root).await.is_err() {
                return checker.borrow_mut().break_promise("Harness", "the log directory cannot be made");
            }
            let quorum = match Quorum::start(own, link, config, settings).await {
                Ok(quorum) => quorum,
                Err(error) => return checker.borrow_mut().break_promise("Starts", format!("{key}: {error}")),
            };
            nodes.borrow_mut()[node].quorum = Some(quorum.clone());
            let watched = quorum.clone();
            let looks = Rc::clone(&checker);
            quorum
                .wait_until(move |status| {
                    looks.borrow_mut().look(key, status);
                    false
                })
                .await;
            let failure = watched.failure().unwrap_or_default();
            checker.borrow_mut().break_promise("Lives", format!("{key}: {failure}"));
        });
    }

    /// Cuts a node's power, or kills its process.
    pub fn fell(&self, node: usize, is_power_cut: bool) {
        self.look_at(node);
        self.network.unplug(node);
        let mut nodes = self.nodes.borrow_mut();
        nodes[node].quorum = None;
        let host = nodes[node].host.clone();
        drop(nodes);
        if is_power_cut { host.crash() } else { host.kill() }
    }

    /// Gives a node that is down an empty disk.
    pub fn wipe(&self, node: usize) {
        let directory = random_uuid(&self.world);
        let mut nodes = self.nodes.borrow_mut();
        nodes[node].host.wipe_disk();
        nodes[node].directory = directory;
    }

    /// Lets the checker look at what a node has applied.
    pub fn look_at(&self, node: usize) {
        if let Some(quorum) = self.quorum(node) {
            let applied = quorum.status().applied;
            self.checker.borrow_mut().look_at_image(self.key(node), applied, &quorum.image());
        }
    }

    /// The node that leads and may decide, of several the one with the highest term.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let current = (0..self.len()).filter_map(|node| {
            let status = self.quorum(node)?.status();
            (status.role == Role::Leader && status.is_current).then_some((status.term, node))
        });
        current.max().map(|(_, node)| node)
    }

    /// How every node sees the quorum.
    #[must_use]
    pub fn describe(&self) -> String {
        let one = |node: usize| {
            let Some(quorum) = self.quorum(node) else { return format!("{}: down", self.key(node)) };
            let status = quorum.status();
            let voters: Vec<_> = status.members.voters().map(|member| member.key.to_string()).collect();
            format!(
                "{}: {:?} in term {}, {} of {} applied, voters {}",
                self.key(node),
                status.role,
                status.term,
                status.applied,
                status.last_index,
                voters.join(" and ")
            )
        };
        (0..self.len()).map(one).collect::<Vec<_>>().join("; ")
    }

    /// Proposes a change on a node, and notes what becomes of it.
    pub fn propose(&mut self, node: usize) {
        let Some(quorum) = self.quorum(node) else { return };
        self.next_change += 1;
        let name = format!("group{}", self.next_change);
        let configs = [("consumer.session.timeout.ms".to_owned(), "45000".to_owned())].into();
        let record = Record::GroupConfigsReplaced { group_id: name.clone(), configs };
        let checker = Rc::clone(&self.checker);
        let runtime = self.nodes.borrow()[node].host.runtime(ShardIndex(0));
        runtime.spawn(async move {
            match quorum.propose(vec![record]).await {
                Ok(index) => checker.borrow_mut().acknowledge(index, name),
                Err(ProposeError::NotLeader(_) | ProposeError::Refused(_)) => {
                    checker.borrow_mut().refuse(name)
                }
                Err(ProposeError::Unknown(_)) => {}
            }
        });
    }

    /// Has a leader make a node's present disk a voter, or remove a member.
    pub fn change_voter(&self, leader: usize, key: MemberKey, shall_vote: bool) {
        let Some(quorum) = self.quorum(leader) else { return };
        let runtime = self.nodes.borrow()[leader].host.runtime(ShardIndex(0));
        runtime.spawn(async move {
            // Often it is refused; then it is tried again.
            let _ = if shall_vote {
                quorum.add_voter(key, Vec::new()).await
            } else {
                quorum.remove_voter(key).await
            };
        });
    }

    /// Lets time pass until `holds`, and says whether it did within `limit`.
    pub fn wait(&self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.world.now() + limit;
        while self.world.now() < end {
            if holds(self) {
                return true;
            }
            if self.checker.borrow().broken().is_some() {
                return false;
            }
            self.world.run_for(Duration::from_millis(5));
        }
        holds(self)
    }
}

fn random_uuid(world: &World) -> Uuid {
    world.draw(|chance| {
        Uuid::from_random((u128::from(chance.next_u64()) << 64) | u128::from(chance.next_u64()))
    })
}
