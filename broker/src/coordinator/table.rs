//! The coordinators of one shard.

use super::command::{GroupCommand, coordinators_on};
use super::group::GroupCoordinator;
use crate::partition::router::{PartitionRouter, shard_of};
use crate::runtime::Runtime;
use logmill_state::group::GroupReply;
use logmill_state::metadata::Image;
use logmill_state::settings::GroupSettings;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, NodeId, TopicPartition};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// A coordinator for each partition of `__consumer_offsets` that this shard owns and this broker leads.
pub struct CoordinatorTable<R: Runtime> {
    runtime: R,
    node_id: NodeId,
    shards: u16,
    partitions: PartitionRouter,
    settings: Arc<GroupSettings>,
    image: RefCell<Arc<Image>>,
    coordinators: RefCell<BTreeMap<TopicPartition, Rc<GroupCoordinator<R>>>>,
}

/// The coordinators that an image wants on one shard, with their leader epochs.
type Wanted = BTreeMap<TopicPartition, LeaderEpoch>;

impl<R: Runtime> CoordinatorTable<R> {
    /// An empty table; coordinators come with the first image that has their topic.
    #[must_use]
    pub fn new(
        runtime: R,
        node_id: NodeId,
        shards: u16,
        partitions: PartitionRouter,
        settings: Arc<GroupSettings>,
    ) -> Rc<Self> {
        Rc::new(Self {
            runtime,
            node_id,
            shards,
            partitions,
            settings,
            image: RefCell::default(),
            coordinators: RefCell::default(),
        })
    }

    fn wanted(&self, image: &Image) -> Wanted {
        let home = self.runtime.shard();
        let mut wanted = coordinators_on(image, self.node_id);
        wanted.retain(|&key, _| shard_of(key, self.shards) == home);
        wanted
    }

    /// Ends the coordinators that a newer image has no place for: those of partitions that this broker leads no more, or
    /// in another epoch. Between two epochs others may have written what the coordinator does not know. To be called
    /// before the shard's partitions take the image over, so that nothing of the old epoch is appended in the new one.
    pub fn retire_by(&self, image: &Image) {
        let wanted = self.wanted(image);
        self.retire_others(&wanted);
    }

    fn retire_others(&self, wanted: &Wanted) {
        self.coordinators.borrow_mut().retain(|key, coordinator| {
            let stays = wanted.get(key) == Some(&coordinator.leader_epoch());
            if !stays {
                coordinator.retire();
            }
            stays
        });
    }

    /// Takes over a newer image, which the shard's partitions know already.
    pub fn apply_image(&self, image: &Arc<Image>) {
        let before = self.image.replace(Arc::clone(image));
        let wanted = self.wanted(image);
        self.retire_others(&wanted);
        let mut coordinators = self.coordinators.borrow_mut();
        // A cluster without groups need not walk its topics with every change of them.
        let some_topic_is_gone = !coordinators.is_empty()
            && before.topics().any(|topic| image.topic_by_name(&topic.name).is_none());
        for coordinator in coordinators.values() {
            coordinator.set_image(Arc::clone(image), some_topic_is_gone);
        }
        for (key, leader_epoch) in wanted {
            coordinators.entry(key).or_insert_with(|| {
                GroupCoordinator::start(
                    self.runtime.clone(),
                    (key, leader_epoch),
                    self.partitions.clone(),
                    Arc::clone(&self.settings),
                    Arc::clone(image),
                )
            });
        }
    }

    /// Hands a command to its coordinator.
    pub fn handle(&self, command: GroupCommand) {
        let coordinator = self.coordinators.borrow().get(&command.partition).cloned();
        match coordinator {
            Some(coordinator) => coordinator.handle(command.request, command.reply),
            None => command.reply.send(GroupReply::Unavailable(ErrorCode::NotCoordinator)),
        }
    }
}
