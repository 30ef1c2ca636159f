//! Producer ids of one shard, taken from the cluster in blocks (KIP-730).

use super::call::Refusal;
use crate::cluster::command::{ClusterHandle, MetadataCommand};
use crate::runtime::oneshot;
use crate::shard::signal::Signal;
use logmill_state::metadata::{ProducerIdBlock, ProducerIdsError};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::ProducerId;
use std::cell::{Cell, RefCell};

/// The block in use, and who waits for the next one.
#[derive(Default)]
pub struct ProducerIds {
    block: RefCell<Option<ProducerIdBlock>>,
    is_asking: Cell<bool>,
    asked: Signal,
}

/// Ends the asking, however it ends: also when the future that asks is dropped.
struct Asking<'a>(&'a ProducerIds);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.is_asking.set(false);
        self.0.asked.notify_all();
    }
}

impl ProducerIds {
    fn take(&self) -> Option<ProducerId> {
        self.block.borrow_mut().as_mut().and_then(ProducerIdBlock::take)
    }

    /// A producer id that nobody has had, of this shard's block or of a new one. However many ask, one block is
    /// asked for at a time.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS if the cluster cannot answer now, which clients retry; UNKNOWN_SERVER_ERROR
    /// if there are no ids left.
    pub async fn next(&self, cluster: &ClusterHandle) -> Result<ProducerId, Refusal> {
        loop {
            if let Some(id) = self.take() {
                return Ok(id);
            }
            if self.is_asking.get() {
                self.asked.wait().await;
                continue;
            }
            self.is_asking.set(true);
            let asking = Asking(self);
            let (reply, answer) = oneshot::channel();
            cluster.send(MetadataCommand::AllocateProducerIds { reply });
            let again = |why: String| Refusal::new(ErrorCode::CoordinatorLoadInProgress, why);
            let block = match answer.await {
                Err(oneshot::Closed) => return Err(again("the broker is stopping".to_owned())),
                Ok(Err(error)) => return Err(again(error.to_string())),
                Ok(Ok(Err(error @ ProducerIdsError::Exhausted))) => {
                    return Err(Refusal::new(ErrorCode::UnknownServerError, error.to_string()));
                }
                Ok(Ok(Err(error))) => return Err(again(error.to_string())),
                Ok(Ok(Ok(block))) => block,
            };
            *self.block.borrow_mut() = Some(block);
            drop(asking);
        }
    }
}
