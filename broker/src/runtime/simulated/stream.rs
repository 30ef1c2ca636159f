//! The listeners and connections that tasks hold.

use super::core::{Completion, Core, Kind, Life};
use super::executor::{EndId, Inbox};
use super::network::{PendingReceive, PendingSend};
use crate::runtime::{Connection, Listener};
use bytes::{Bytes, BytesMut};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

/// A listening socket of a simulated host.
pub struct SimulatedListener {
    core: Rc<Core>,
    life: Life,
    address: SocketAddr,
}

impl SimulatedListener {
    pub(super) const fn new(core: Rc<Core>, life: Life, address: SocketAddr) -> Self {
        Self { core, life, address }
    }
}

impl Listener for SimulatedListener {
    type Handle = SimulatedHandle;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Handle, SocketAddr)>> + 'static {
        let (core, life, address) = (Rc::clone(&self.core), self.life, self.address);
        async move {
            let (end, peer) = std::future::poll_fn(|context| {
                match core.network.borrow_mut().accept(life, address, context.waker()) {
                    Some(accepted) => Poll::Ready(accepted),
                    None => Poll::Pending,
                }
            })
            .await;
            core.note(Kind::Connect, end.stream);
            Ok((SimulatedHandle { end: Some(end), inbox: Arc::clone(&core.inbox) }, peer))
        }
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SimulatedListener {
    fn drop(&mut self) {
        self.core.close_listener(self.life, self.address);
    }
}

/// A connection that no shard has adopted yet, or again.
pub struct SimulatedHandle {
    end: Option<EndId>,
    inbox: Arc<Inbox>,
}

impl SimulatedHandle {
    pub(super) fn take(mut self) -> Option<EndId> {
        self.end.take()
    }
}

impl Drop for SimulatedHandle {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            self.inbox.tell(|news| news.abandoned.push(end));
        }
    }
}

/// Closes the end when the last clone of its connection is gone.
struct Owner {
    core: Rc<Core>,
    end: EndId,
    is_released: bool,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if !self.is_released {
            self.core.close_end(self.end);
        }
    }
}

/// One end of a simulated byte stream.
#[derive(Clone)]
pub struct SimulatedConnection(Rc<Owner>);

impl SimulatedConnection {
    pub(super) fn new(core: Rc<Core>, end: EndId) -> Self {
        Self(Rc::new(Owner { core, end, is_released: false }))
    }

    /// An operation under way holds the owner, as a clone does.
    pub(super) fn release(self) -> Result<SimulatedHandle, Self> {
        let mut owner = Rc::try_unwrap(self.0).map_err(Self)?;
        owner.is_released = true;
        Ok(SimulatedHandle { end: Some(owner.end), inbox: Arc::clone(&owner.core.inbox) })
    }
}

/// Cancels an operation of a connection unless it came to its end.
struct Cancel {
    owner: Rc<Owner>,
    number: u64,
    is_receive: bool,
    is_done: bool,
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        if self.is_receive {
            self.owner.core.cancel_receive(self.owner.end, self.number);
        } else {
            self.owner.core.cancel_send(self.owner.end, self.number);
        }
    }
}

impl Connection for SimulatedConnection {
    fn receive(&self, buffer: BytesMut) -> impl Future<Output = (io::Result<usize>, BytesMut)> + 'static {
        let owner = Rc::clone(&self.0);
        async move {
            let completion = Completion::new();
            let number = owner.core.network.borrow_mut().operation();
            owner
                .core
                .begin_receive(owner.end, PendingReceive { number, buffer, completion: completion.clone() });
            let mut cancel = Cancel { owner, number, is_receive: true, is_done: false };
            let received = completion.await;
            cancel.is_done = true;
            received
        }
    }

    fn send(&self, parts: Vec<Bytes>) -> impl Future<Output = io::Result<()>> + 'static {
        let owner = Rc::clone(&self.0);
        async move {
            let completion = Completion::new();
            let number = owner.core.network.borrow_mut().operation();
            owner.core.begin_send(
                owner.end,
                PendingSend { number, parts: parts.into(), completion: completion.clone() },
            );
            let mut cancel = Cancel { owner, number, is_receive: false, is_done: false };
            let sent = completion.await;
            cancel.is_done = true;
            sent
        }
    }

    fn shutdown(&self) {
        self.0.core.shut_end(self.0.end);
    }
}
