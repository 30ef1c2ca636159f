//! Replicas in log directories that do not work: the controller is told of them until the metadata show it (KIP-112,
//! KIP-858).

use super::table::PartitionTable;
use crate::runtime::Runtime;
use logmill_state::metadata::{Broker, Image, Partition};
use logmill_wire::ids::{PartitionIndex, TopicPartition};
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Tells the controller of replicas that are offline.
pub type TellOffline = Rc<dyn Fn(Vec<TopicPartition>)>;

/// How many replicas the controller is told of at once.
const TOLD_AT_ONCE: usize = 1_000;

/// What the controller knows of the replicas of a shard that are offline.
#[derive(Default)]
pub(super) struct OfflineReplicas {
    tell: OnceCell<TellOffline>,
    /// The metadata that show all, and how much had failed when they did.
    shown: RefCell<Option<(usize, Arc<Image>)>>,
}

impl<R: Runtime> PartitionTable<R> {
    /// From now on the controller hears of replicas in log directories that do not work.
    pub fn tell_offline_with(&self, tell: TellOffline) {
        // There is one way.
        let _ = self.offline.tell.set(tell);
    }

    /// Tells the controller of replicas that are offline and that the metadata show otherwise.
    pub(super) async fn tell_of_offline(&self) {
        let (Some(tell), broken) = (self.offline.tell.get(), self.stores.broken_count()) else { return };
        let image = Arc::clone(&self.image.borrow());
        let is_shown = |(then, shown): &(usize, Arc<Image>)| *then == broken && Arc::ptr_eq(shown, &image);
        if broken == 0 || self.offline.shown.borrow().as_ref().is_some_and(is_shown) {
            return;
        }
        let Some(here) = image.broker(self.node_id) else { return };
        let mut untold = Vec::new();
        for topic in image.topics() {
            for partition in (0..topic.partition_count()).map(PartitionIndex) {
                let key = TopicPartition { topic_id: topic.id, partition };
                if self.is_on_this_shard(key)
                    && image.partition(topic, partition).is_some_and(|placed| counts(here, key, &placed))
                    && self.is_offline(key)
                {
                    untold.push(key);
                }
                if self.runtime.should_yield() {
                    self.runtime.yield_now().await;
                }
            }
        }
        if untold.is_empty() {
            self.offline.shown.replace(Some((broken, image)));
        }
        for some in untold.chunks(TOLD_AT_ONCE) {
            tell(some.to_vec());
        }
    }

    fn is_offline(&self, key: TopicPartition) -> bool {
        match self.in_use(key) {
            Some(partition) => partition.log().health().is_failed(),
            None => self.stores.why_unusable(key, self.node_id).is_some(),
        }
    }
}

/// Whether a broker has a replica that the metadata do not show as offline in every respect.
fn counts(here: &Broker, key: TopicPartition, placed: &Partition<'_>) -> bool {
    let leads = placed.leader == here.id || placed.in_sync.contains(&here.id);
    placed.replicas.contains(&here.id)
        && (!here.offline.contains(&key) || (placed.replicas.len() > 1 && leads))
}
