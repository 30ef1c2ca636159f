//! What the handlers of a shard work with.

use super::shard_state::ShardState;
use crate::cluster::command::ClusterHandle;
use crate::coordinator::command::GroupRouter;
use crate::partition::router::PartitionRouter;
use crate::runtime::Runtime;
use crate::shard::deadline::within;
use crate::shard::lost_peers::LostPeers;
use crate::shard::memory::{MemoryClass, Reservation};
use crate::shard::signal::Signal;
use logmill_state::metadata::Image;
use logmill_state::settings::BrokerSettings;
use logmill_wire::ids::NodeId;
use std::cell::RefCell;
use std::sync::Arc;

/// One per shard, shared by its connections.
pub struct Services<R: Runtime> {
    /// The shard's machine.
    pub runtime: R,
    /// This broker's id.
    pub node_id: NodeId,
    /// The settings at the start.
    pub settings: Arc<BrokerSettings>,
    /// The way to partitions.
    pub partitions: PartitionRouter,
    /// The way to the coordinators of groups.
    pub groups: GroupRouter,
    /// The way to the control shard.
    pub cluster: ClusterHandle,
    /// What the cluster knows, as of the last committed change. Replaced as a whole.
    pub image: RefCell<Arc<Image>>,
    /// Told of each image that is taken over.
    pub image_changed: Signal,
    /// The brokers to which a connection has just broken.
    pub lost_peers: Arc<LostPeers>,
    /// What the shard remembers between requests.
    pub state: ShardState,
}

impl<R: Runtime> Services<R> {
    /// The current image.
    #[must_use]
    pub fn image(&self) -> Arc<Image> {
        Arc::clone(&self.image.borrow())
    }

    /// Whether a listener is one on which the controllers are reached.
    #[must_use]
    pub fn is_of_controllers(&self, listener: &str) -> bool {
        self.settings.node.controller_listener_names.iter().any(|name| name.eq_ignore_ascii_case(listener))
    }

    /// Waits for room for an answer of about so many bytes, to be held while it is made; one that is larger than
    /// its class waits for all of it.
    pub async fn answer_room(&self, bytes: usize) -> Option<Reservation> {
        let memory = &self.state.memory;
        match memory.reserve(MemoryClass::Control, bytes.min(memory.size(MemoryClass::Control))) {
            Ok(reserve) => Some(reserve.await),
            Err(_) => None,
        }
    }

    /// Takes over a newer image.
    pub fn set_image(&self, image: Arc<Image>) {
        *self.image.borrow_mut() = image;
        self.image_changed.notify_all();
    }

    /// Waits for a short time, at most, while what is to be told names a broker that was just lost: a client that asks
    /// because its own connection broke wants to know who leads next, and may not ask again for a second.
    pub async fn until_not_lost(&self, names: impl Fn(&Image, &[NodeId]) -> bool) {
        loop {
            let changed = self.image_changed.wait();
            let Some((lost, left)) = self.lost_peers.recent(self.runtime.monotonic()) else { return };
            if !names(&self.image.borrow(), &lost) {
                return;
            }
            // At the end of its time a loss counts no more.
            let _ = within(&self.runtime, left, changed).await;
        }
    }
}
