//! Listeners and connections.

use crate::plain;
use bytes::{Bytes, BytesMut};
use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use logmill::runtime::{Connection, Listener};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Connections that the kernel holds for us until they are accepted; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Parts that one system call sends.
const PARTS_PER_SEND: usize = 64;

/// A connection on its way to the shard that adopts it.
#[derive(Debug)]
pub struct GlommioConnectionHandle(OwnedFd);

/// A socket that accepts connections.
pub struct GlommioListener {
    listener: Rc<TcpListener>,
    address: SocketAddr,
}

/// A connected byte stream; it is closed when the last clone and the last operation are gone.
#[derive(Clone)]
pub struct GlommioConnection(Rc<RefCell<TcpStream>>);

fn descriptor(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream holds its descriptor open for as long as the borrow lasts.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

impl GlommioListener {
    // Not glommio's `bind`, which lets several processes share a port.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let address = socket.local_addr()?.as_socket().ok_or_else(|| {
            io::Error::new(io::ErrorKind::Unsupported, "the socket has no internet address")
        })?;
        // SAFETY: the descriptor is a listening socket that nobody else owns.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        Ok(Self { listener: Rc::new(listener), address })
    }
}

impl Listener for GlommioListener {
    type Handle = GlommioConnectionHandle;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Handle, SocketAddr)>> + 'static {
        let listener = Rc::clone(&self.listener);
        async move {
            loop {
                let accepted = match listener.shared_accept().await.map_err(plain) {
                    Ok(accepted) => accepted,
                    // It was gone before we came.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                    Err(error) => return Err(error),
                };
                let peer = accepted.peer_addr();
                // An accepted stream is a bare number that nothing closes; bound to the executor it is a socket, and
                // a second descriptor of it may travel.
                let stream = accepted.bind_to_executor();
                // The same holds for one without a peer.
                let Ok(peer) = peer else { continue };
                return Ok((GlommioConnectionHandle(descriptor(&stream).try_clone_to_owned()?), peer));
            }
        }
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl GlommioConnection {
    fn new(stream: TcpStream) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "small segments of a connection may be delayed");
        }
        Self(Rc::new(RefCell::new(stream)))
    }

    pub(crate) fn adopt(handle: GlommioConnectionHandle) -> Self {
        // SAFETY: the descriptor is a connected socket that nobody else owns.
        Self::new(unsafe { TcpStream::from_raw_fd(handle.0.into_raw_fd()) })
    }

    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        TcpStream::connect(address).await.map(Self::new).map_err(plain)
    }
}

fn poll_receive(
    stream: &RefCell<TcpStream>,
    context: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let length = buffer.len();
    let room = ptr::from_mut(buffer.spare_capacity_mut()) as *mut [u8];
    // SAFETY: the room is exclusive and as long as it says. A stream without a buffer of its own hands it to `recv`,
    // which only writes it.
    let room = unsafe { &mut *room };
    Pin::new(&mut *stream.borrow_mut()).poll_read(context, room).map_ok(|count| {
        // SAFETY: the kernel has written that many bytes behind the length.
        unsafe { buffer.set_len(length + count) };
        count
    })
}

/// What is still to be sent.
struct Parts {
    parts: std::vec::IntoIter<Bytes>,
}

impl Parts {
    fn advance(&mut self, mut count: usize) {
        for part in self.parts.as_mut_slice() {
            let taken = part.len().min(count);
            drop(part.split_to(taken));
            count -= taken;
        }
        self.skip_empty();
    }

    fn skip_empty(&mut self) {
        while self.parts.as_slice().first().is_some_and(Bytes::is_empty) {
            self.parts.next();
        }
    }

    fn send_now(&self, stream: &TcpStream) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PARTS_PER_SEND];
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(self.parts.as_slice()) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        SockRef::from(&descriptor(stream))
            .send_vectored_with_flags(&slices[..count], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    }

    fn poll_send(&mut self, stream: &RefCell<TcpStream>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.skip_empty();
        while let Some(first) = self.parts.as_slice().first() {
            let mut stream = stream.borrow_mut();
            // glommio tries without waiting, too, but takes one part at a time.
            let sent = match self.send_now(&stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match Pin::new(&mut *stream).poll_write(context, first) {
                        Poll::Ready(outcome) => outcome,
                        Poll::Pending => return Poll::Pending,
                    }
                }
                outcome => outcome,
            };
            match sent {
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Connection for GlommioConnection {
    fn receive(&self, mut buffer: BytesMut) -> impl Future<Output = (io::Result<usize>, BytesMut)> + 'static {
        let stream = Rc::clone(&self.0);
        async move {
            if buffer.capacity() == buffer.len() {
                // 0 bytes would read as the peer's end.
                let text = "a receive needs room in its buffer";
                return (Err(io::Error::new(io::ErrorKind::InvalidInput, text)), buffer);
            }
            let outcome = poll_fn(|context| poll_receive(&stream, context, &mut buffer)).await;
            (outcome, buffer)
        }
    }

    fn send(&self, parts: Vec<Bytes>) -> impl Future<Output = io::Result<()>> + 'static {
        let stream = Rc::clone(&self.0);
        async move {
            let mut parts = Parts { parts: parts.into_iter() };
            poll_fn(|context| parts.poll_send(&stream, context)).await
        }
    }

    fn shutdown(&self) {
        // Fails only on a connection that has ended already.
        let _ = SockRef::from(&descriptor(&self.0.borrow())).shutdown(Shutdown::Both);
    }
}
