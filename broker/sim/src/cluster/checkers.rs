//! What must hold of every image of the metadata that any node applies.

use super::client::Key;
use logmill::node::Observer;
use logmill_state::metadata::Image;
use logmill_wire::ids::{NodeId, PartitionIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The epochs of a partition: its own, and its leader's.
type Epochs = (i32, i32);

/// Who has all of a partition that is committed, by the newest metadata that any node has applied.
#[derive(Default)]
struct Counted {
    partition_epoch: i32,
    directory: String,
    replicas: Vec<i32>,
    /// Who was a replica, and then was not: its log may have been deleted.
    left: BTreeSet<i32>,
    /// Nodes, from 0 on, that are in sync or eligible.
    nodes: BTreeSet<usize>,
    /// Those of them whose disk was taken away since.
    bereft: BTreeSet<usize>,
}

/// What all nodes have applied.
#[derive(Default)]
pub struct Images {
    broken: Option<String>,
    leaders: BTreeMap<(Key, i32), i32>,
    /// Replicas, and those in sync.
    states: BTreeMap<(Key, Epochs), (Vec<i32>, Vec<i32>)>,
    counted: BTreeMap<Key, Counted>,
    /// The last epochs in each node's present life.
    last: BTreeMap<(usize, Key), Epochs>,
    /// The last image of each node.
    latest: BTreeMap<usize, Arc<Image>>,
    /// The nodes that serve.
    serving: BTreeMap<usize, bool>,
    /// Whether images are only kept, and not looked at.
    only_keeps: bool,
}

/// The images, as all nodes of a run share them.
#[derive(Clone, Default)]
pub struct SharedImages(Arc<Mutex<Images>>);

impl SharedImages {
    /// Keeps the last images and checks nothing: for clusters with many partitions.
    #[must_use]
    pub fn unchecked() -> Self {
        Self(Arc::new(Mutex::new(Images { only_keeps: true, ..Images::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Images> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first promise that was broken.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    /// The last image of a node in its present life.
    #[must_use]
    pub fn latest(&self, node: usize) -> Option<Arc<Image>> {
        self.lock().latest.get(&node).cloned()
    }

    /// The leader epochs of a topic's partitions as a node knows them; none if it does not know the topic.
    #[must_use]
    pub fn leader_epochs(&self, node: usize, topic: &str) -> Vec<i32> {
        let Some(image) = self.latest(node) else { return Vec::new() };
        let Some(topic) = image.topic_by_name(topic) else { return Vec::new() };
        let of = |at| image.partition(topic, PartitionIndex(at)).map_or(-1, |state| state.leader_epoch.0);
        (0..topic.partition_count()).map(of).collect()
    }

    /// For each partition its directory, and the nodes, from 0 on, that have on their disks all that was acknowledged:
    /// those in sync and the eligible ones, but for a disk that was taken away.
    #[must_use]
    pub fn counted(&self) -> BTreeMap<Key, (String, BTreeSet<usize>)> {
        let of = |counted: &Counted| (counted.directory.clone(), &counted.nodes - &counted.bereft);
        self.lock().counted.iter().map(|(key, counted)| (*key, of(counted))).collect()
    }

    /// Whether all replicas of a partition count.
    #[must_use]
    pub fn all_count(&self, key: Key) -> bool {
        let images = self.lock();
        let all =
            |counted: &Counted| counted.replicas.len() == counted.nodes.len() && counted.bereft.is_empty();
        images.counted.get(&key).is_some_and(all)
    }

    /// Whether a node is to hold a replica, and always was since it first had one.
    #[must_use]
    pub fn is_replica(&self, node: usize, key: Key) -> bool {
        let id = node as i32 + 1;
        let images = self.lock();
        let stays = |counted: &Counted| counted.replicas.contains(&id) && !counted.left.contains(&id);
        images.counted.get(&key).is_some_and(stays)
    }

    /// A node's disk was taken away: it need not have anything until it has ceased to count, and counts again.
    pub fn bereave(&self, node: usize) {
        for counted in self.lock().counted.values_mut().filter(|counted| counted.nodes.contains(&node)) {
            counted.bereft.insert(node);
        }
    }

    /// Whether a node has said that it serves.
    #[must_use]
    pub fn is_serving(&self, node: usize) -> bool {
        self.lock().serving.get(&node).copied().unwrap_or_default()
    }

    /// A node begins a new life.
    pub fn forget(&self, node: usize) {
        let mut images = self.lock();
        images.last.retain(|(of, _), _| *of != node);
        images.latest.remove(&node);
        images.serving.remove(&node);
    }

    /// What a node tells.
    #[must_use]
    pub fn observer(&self, node: usize) -> Box<dyn Observer> {
        Box::new(Watch { node, images: self.clone() })
    }
}

struct Watch {
    node: usize,
    images: SharedImages,
}

impl Observer for Watch {
    fn started(&self, _block: &str) {
        self.images.lock().serving.insert(self.node, true);
    }

    fn applied(&self, image: &Arc<Image>) {
        self.images.lock().look(self.node, image);
    }
}

impl Images {
    fn look(&mut self, node: usize, image: &Arc<Image>) {
        let before = self.latest.insert(node, Arc::clone(image));
        if self.only_keeps {
            return;
        }
        for topic in image.topics() {
            let known = before.as_ref().and_then(|before| before.topic_by_id(topic.id));
            let same_brokers = before.as_ref().is_some_and(|before| before.brokers().eq(image.brokers()));
            if same_brokers && known.is_some_and(|known| Arc::ptr_eq(known, topic)) {
                continue;
            }
            for partition in 0..topic.partition_count() {
                let Some(state) = image.partition(topic, PartitionIndex(partition)) else { continue };
                let key = (topic.id, partition);
                let epochs = (state.partition_epoch, state.leader_epoch.0);
                let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<i32>>();
                let sets = (numbers(state.replicas), numbers(state.in_sync));
                let all = state.in_sync.iter().chain(state.eligible);
                let all: BTreeSet<usize> = all.map(|node| node.0 as usize - 1).collect();
                self.count(key, &topic.name, state.partition_epoch, (sets.0.clone(), all));
                self.look_at(node, key, epochs, (state.leader.0, sets));
            }
        }
    }

    fn count(&mut self, key: Key, topic: &str, partition_epoch: i32, sets: (Vec<i32>, BTreeSet<usize>)) {
        let (replicas, nodes) = sets;
        let new = || Counted {
            partition_epoch,
            replicas: replicas.clone(),
            left: BTreeSet::new(),
            directory: format!("{topic}-{}", key.1),
            nodes: nodes.clone(),
            bereft: BTreeSet::new(),
        };
        let counted = self.counted.entry(key).or_insert_with(new);
        if partition_epoch > counted.partition_epoch {
            counted.partition_epoch = partition_epoch;
            counted.bereft.retain(|node| nodes.contains(node));
            counted.left.extend(counted.replicas.iter().filter(|node| !replicas.contains(node)));
            (counted.nodes, counted.replicas) = (nodes, replicas);
        }
    }

    fn look_at(&mut self, node: usize, key: Key, epochs: Epochs, state: (i32, (Vec<i32>, Vec<i32>))) {
        let (leader, sets) = state;
        let mut broken = None;
        if leader >= 0 {
            let known = *self.leaders.entry((key, epochs.1)).or_insert(leader);
            if known != leader {
                broken = Some(format!("OneLeaderPerEpoch: {known} and {leader} in epoch {}", epochs.1));
            }
        }
        let known = self.states.entry((key, epochs)).or_insert_with(|| sets.clone());
        if *known != sets {
            broken = Some(format!("OneHistory: {known:?} and {sets:?} in epochs {epochs:?}"));
        }
        if let Some(before) = self.last.insert((node, key), epochs)
            && (before.0 > epochs.0 || before.1 > epochs.1)
        {
            broken = Some(format!("EpochsRise: {before:?} and then {epochs:?}"));
        }
        if let Some(broken) = broken {
            let what = format!("{broken} of {} at node {}", super::history::name(key), node + 1);
            self.broken.get_or_insert(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::ids::Uuid;

    #[test]
    fn every_broken_promise_is_seen() {
        let key = (Uuid([1; 16]), 0);
        let state = |leader, in_sync: &[i32]| (leader, (vec![1, 2, 3], in_sync.to_vec()));
        let broken = |node, epochs, state| {
            let mut images = Images::default();
            images.look_at(0, key, (4, 7), (1, (vec![1, 2, 3], vec![1, 2])));
            images.look_at(node, key, epochs, state);
            let broken = images.broken.unwrap_or_default();
            broken.split(':').next().unwrap_or_default().to_owned()
        };
        assert_eq!(broken(0, (5, 7), state(1, &[1])), "");
        assert_eq!(broken(1, (3, 6), state(2, &[1])), "");
        assert_eq!(broken(1, (5, 7), state(2, &[1])), "OneLeaderPerEpoch");
        assert_eq!(broken(1, (4, 7), state(1, &[1])), "OneHistory");
        assert_eq!(broken(0, (3, 7), state(1, &[1])), "EpochsRise");
    }
}
