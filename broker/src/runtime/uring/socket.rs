//! Listeners and connections on the ring.

use super::UringRuntime;
use super::executor::Shard;
use super::future::Perform;
use super::operation::{Operation, Parts};
use crate::runtime::{Connection, Listener};
use bytes::{Bytes, BytesMut};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// Connections that the kernel holds for us until they are accepted; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Parts that together are no larger are sent as one.
const COPIED_BYTES_MAX: usize = 1 << 10;

/// A connection on its way to the shard that adopts it.
#[derive(Debug)]
pub struct UringConnectionHandle(OwnedFd);

/// A socket that accepts connections.
pub struct UringListener {
    shard: Rc<Shard>,
    descriptor: Rc<OwnedFd>,
    address: SocketAddr,
}

/// A connected byte stream; it is closed when the last clone and the last operation are gone.
#[derive(Clone)]
pub struct UringConnection {
    shard: Rc<Shard>,
    descriptor: Rc<OwnedFd>,
}

fn without_address() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "the socket has no internet address")
}

// Sockets are left in blocking mode: the ring waits for them, where a non-blocking one would fail at once.
fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
}

impl UringListener {
    pub(super) fn bind(shard: &Rc<Shard>, address: SocketAddr) -> io::Result<Self> {
        let socket = new_socket(address)?;
        // Allows a port whose old connections linger, not one that somebody listens on.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let address = socket.local_addr()?.as_socket().ok_or_else(without_address)?;
        Ok(Self { shard: Rc::clone(shard), descriptor: Rc::new(socket.into()), address })
    }
}

impl Listener for UringListener {
    type Handle = UringConnectionHandle;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Handle, SocketAddr)>> + 'static {
        let (shard, listener) = (Rc::clone(&self.shard), Rc::clone(&self.descriptor));
        async move {
            loop {
                let operation = Operation::Accept { listener: Rc::clone(&listener) };
                let accepted = match Perform::new(&shard, operation).await.0 {
                    Ok(completed) => completed.descriptor()?,
                    // It was gone before we came.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                    Err(error) => return Err(error),
                };
                // The same holds for one without a peer.
                let Ok(peer) = SockRef::from(&accepted).peer_addr() else { continue };
                let peer = peer.as_socket().ok_or_else(without_address)?;
                return Ok((UringConnectionHandle(accepted), peer));
            }
        }
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl UringConnection {
    pub(super) fn new(shard: &Rc<Shard>, descriptor: Rc<OwnedFd>) -> Self {
        if let Err(error) = SockRef::from(&*descriptor).set_tcp_nodelay(true) {
            tracing::debug!(%error, "small segments of a connection may be delayed");
        }
        Self { shard: Rc::clone(shard), descriptor }
    }

    pub(super) fn adopt(shard: &Rc<Shard>, handle: UringConnectionHandle) -> Self {
        Self::new(shard, Rc::new(handle.0))
    }

    /// An operation under way holds the descriptor, as a clone does.
    pub(super) fn release(self) -> Result<UringConnectionHandle, Self> {
        let Self { shard, descriptor } = self;
        Rc::try_unwrap(descriptor).map(UringConnectionHandle).map_err(|descriptor| Self { shard, descriptor })
    }
}

impl UringRuntime {
    pub(super) async fn connect_to(self, address: SocketAddr) -> io::Result<UringConnection> {
        let descriptor = Rc::new(OwnedFd::from(new_socket(address)?));
        let operation =
            Operation::Connect { socket: Rc::clone(&descriptor), address: Box::new(SockAddr::from(address)) };
        Perform::new(&self.0, operation).await.0?;
        Ok(UringConnection::new(&self.0, descriptor))
    }
}

/// The parts as one, if there is one or they are so small that copying them costs less than describing them to the
/// kernel; otherwise as they are.
fn in_one_piece(mut parts: Vec<Bytes>) -> Result<Bytes, Vec<Bytes>> {
    if parts.len() <= 1 {
        return Ok(parts.pop().unwrap_or_default());
    }
    let bytes = parts.iter().map(Bytes::len).sum();
    if bytes > COPIED_BYTES_MAX {
        return Err(parts);
    }
    let mut piece = Vec::with_capacity(bytes);
    parts.iter().for_each(|part| piece.extend_from_slice(part));
    Ok(piece.into())
}

async fn send_piece(shard: &Rc<Shard>, descriptor: &Rc<OwnedFd>, mut bytes: Bytes) -> io::Result<()> {
    while !bytes.is_empty() {
        let operation = Operation::Send { socket: Rc::clone(descriptor), bytes };
        let (result, operation) = Perform::new(shard, operation).await;
        result?;
        let Operation::Send { bytes: left, .. } = operation else {
            unreachable!("a ring gives back the operation it was given");
        };
        bytes = left;
    }
    Ok(())
}

impl Connection for UringConnection {
    fn receive(&self, buffer: BytesMut) -> impl Future<Output = (io::Result<usize>, BytesMut)> + 'static {
        let (shard, socket) = (Rc::clone(&self.shard), Rc::clone(&self.descriptor));
        async move {
            if buffer.capacity() == buffer.len() {
                // 0 bytes would read as the peer's end.
                let text = "a receive needs room in its buffer";
                return (Err(io::Error::new(io::ErrorKind::InvalidInput, text)), buffer);
            }
            let operation = Operation::Receive { socket, buffer };
            let (result, operation) = Perform::new(&shard, operation).await;
            let Operation::Receive { buffer, .. } = operation else {
                unreachable!("a ring gives back the operation it was given");
            };
            (result.map(|completed| completed.count()), buffer)
        }
    }

    fn send(&self, parts: Vec<Bytes>) -> impl Future<Output = io::Result<()>> + 'static {
        let (shard, descriptor) = (Rc::clone(&self.shard), Rc::clone(&self.descriptor));
        async move {
            let mut parts = match in_one_piece(parts) {
                Ok(bytes) => return send_piece(&shard, &descriptor, bytes).await,
                Err(parts) => Parts::new(parts),
            };
            while !parts.is_empty() {
                let operation = Operation::SendParts { socket: Rc::clone(&descriptor), parts };
                let (result, operation) = Perform::new(&shard, operation).await;
                result?;
                let Operation::SendParts { parts: left, .. } = operation else {
                    unreachable!("a ring gives back the operation it was given");
                };
                parts = left;
            }
            Ok(())
        }
    }

    fn shutdown(&self) {
        // Fails only on a connection that has ended already.
        let _ = SockRef::from(&*self.descriptor).shutdown(Shutdown::Both);
    }
}
