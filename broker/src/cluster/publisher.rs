//! Hands what the quorum has applied to all shards, one image after another.

use super::quorum::Quorum;
use crate::runtime::Runtime;
use crate::shard::signal::Signal;
use logmill_state::metadata::Image;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

/// Hands an image to all shards; ready when every one of them works with it.
pub type Publish = Rc<dyn Fn(Arc<Image>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// How far the shards have the metadata. A clone is the same publisher.
#[derive(Clone, Default)]
pub struct Publisher(Rc<State>);

#[derive(Default)]
struct State {
    has_begun: Cell<bool>,
    /// The last entry of the log that all shards work with.
    published: Cell<u64>,
    changed: Signal,
}

impl Publisher {
    /// Publishes everything that is applied from now on, beginning with what is applied already. A node begins once it is
    /// registered: shards that knew the leader epochs of its last incarnation would append in them.
    pub fn begin<R: Runtime>(&self, runtime: &R, quorum: Quorum, publish: Publish) {
        if !self.0.has_begun.replace(true) {
            runtime.spawn(run(Rc::clone(&self.0), quorum, publish));
        }
    }

    /// The last entry of the log that all shards work with; 0 before publishing has begun.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.0.published.get()
    }

    /// Waits until all shards work with an entry, if publishing has begun.
    pub async fn until_published(&self, index: u64) {
        while self.0.has_begun.get() && self.0.published.get() < index {
            self.0.changed.wait().await;
        }
    }
}

async fn run(state: Rc<State>, quorum: Quorum, publish: Publish) {
    loop {
        // The image is never older than the status.
        let applied = quorum.status().applied;
        publish(Arc::new(quorum.image())).await;
        state.published.set(applied);
        state.changed.notify_all();
        if !quorum.wait_until(|status| status.applied > applied).await {
            return;
        }
    }
}
