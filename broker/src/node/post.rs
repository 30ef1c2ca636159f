//! Sending to other shards without waiting, in order: what finds a mailbox full queues at home.

use super::message::ShardMessage;
use crate::runtime::Runtime;
use crate::runtime::mailbox::{Endpoint, Full};
use logmill_wire::ids::ShardIndex;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// A shard's way to the others. The queues are bounded by what their senders may have under way: each
/// connection's requests, and one image.
pub struct Post<R: Runtime, H: Send + 'static> {
    runtime: R,
    endpoint: Endpoint<ShardMessage<H>>,
    waiting: Vec<Waiting<H>>,
}

struct Waiting<H> {
    queue: RefCell<VecDeque<ShardMessage<H>>>,
    /// Whether a task carries the queue over; until it is done, everything goes through the queue.
    flushing: Cell<bool>,
}

impl<R: Runtime, H: Send + 'static> Post<R, H> {
    /// Takes the shard's end of the mesh.
    #[must_use]
    pub fn new(runtime: R, endpoint: Endpoint<ShardMessage<H>>) -> Rc<Self> {
        let waiting = (0..endpoint.shards())
            .map(|_| Waiting { queue: RefCell::default(), flushing: Cell::new(false) })
            .collect();
        Rc::new(Self { runtime, endpoint, waiting })
    }

    /// Sends, or queues behind what waits already.
    pub fn send(self: &Rc<Self>, to: ShardIndex, message: ShardMessage<H>) {
        let Some(waiting) = self.waiting.get(usize::from(to.0)) else { return };
        if waiting.flushing.get() {
            waiting.queue.borrow_mut().push_back(message);
            return;
        }
        let Err(Full(message)) = self.endpoint.try_send(to, message) else { return };
        waiting.queue.borrow_mut().push_back(message);
        waiting.flushing.set(true);
        let post = Rc::clone(self);
        self.runtime.spawn(async move { post.flush(to).await });
    }

    async fn flush(&self, to: ShardIndex) {
        let Some(waiting) = self.waiting.get(usize::from(to.0)) else { return };
        loop {
            let next = waiting.queue.borrow_mut().pop_front();
            let Some(message) = next else { break };
            self.endpoint.send(to, message).await;
        }
        waiting.flushing.set(false);
    }

    /// The next message for this shard.
    pub async fn receive(&self) -> ShardMessage<H> {
        self.endpoint.recv().await.1
    }
}
