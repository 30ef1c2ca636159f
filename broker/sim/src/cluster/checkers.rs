//! What must hold of every image of the metadata that any node applies.

use super::client::Key;
use logmill::node::Observer;
use logmill_state::metadata::Image;
use logmill_wire::ids::PartitionIndex;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The epochs of a partition: its own, and its leader's.
type Epochs = (i32, i32);

/// What all nodes have applied.
#[derive(Default)]
pub struct Images {
    broken: Option<String>,
    leaders: BTreeMap<(Key, i32), i32>,
    /// Replicas, and those in sync.
    states: BTreeMap<(Key, Epochs), (Vec<i32>, Vec<i32>)>,
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
                let numbers = |nodes: &[logmill_wire::ids::NodeId]| nodes.iter().map(|node| node.0).collect();
                let sets = (numbers(state.replicas), numbers(state.in_sync));
                self.look_at(node, key, epochs, (state.leader.0, sets));
            }
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
