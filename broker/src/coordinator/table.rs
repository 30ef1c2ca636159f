//! The coordinators of one shard.

use super::command::{GroupCommand, coordinators_on};
use super::group::GroupCoordinator;
use crate::partition::router::{PartitionRouter, shard_of};
use crate::runtime::Runtime;
use logmill_state::group::GroupReply;
use logmill_state::metadata::Image;
use logmill_state::settings::GroupSettings;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, TopicPartition};
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

    /// Takes over a newer image, which the shard's partitions know already.
    pub fn apply_image(&self, image: &Arc<Image>) {
        let before = self.image.replace(Arc::clone(image));
        let home = self.runtime.shard();
        let wanted: Vec<TopicPartition> = coordinators_on(image, self.node_id)
            .into_iter()
            .filter(|&key| shard_of(key, self.shards) == home)
            .collect();
        let mut coordinators = self.coordinators.borrow_mut();
        // A cluster without groups need not walk its topics with every change of them.
        let some_topic_is_gone = !coordinators.is_empty()
            && before.topics().any(|topic| image.topic_by_name(&topic.name).is_none());
        coordinators.retain(|key, coordinator| {
            let stays = wanted.binary_search(key).is_ok();
            if stays {
                coordinator.set_image(Arc::clone(image), some_topic_is_gone);
            } else {
                coordinator.retire();
            }
            stays
        });
        for key in wanted {
            coordinators.entry(key).or_insert_with(|| {
                GroupCoordinator::start(
                    self.runtime.clone(),
                    key,
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
