//! Making a link: the address, the connection, the hellos.

use super::cut::Cut;
use super::frame_reader::FrameReader;
use super::greeting::check_kinship;
use super::server::read_hello;
use super::session::send_within;
use crate::runtime::{Connection, Runtime};
use bytes::BytesMut;
use logmill_wire::frame::replication::{self, Hello};
use logmill_wire::ids::{NodeId, Uuid};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;

/// What carries a link.
pub trait Transport<R: Runtime>: 'static {
    /// Its byte streams.
    type Connection: Connection;

    /// Connects, and protects the stream as the transport does.
    fn connect(
        &self,
        runtime: &R,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::Connection>> + 'static;
}

/// TCP as it is.
pub struct Plain;

impl<R: Runtime> Transport<R> for Plain {
    type Connection = R::Connection;

    fn connect(
        &self,
        runtime: &R,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<R::Connection>> + 'static {
        runtime.connect(address)
    }
}

/// Whom a link leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Target {
    pub node: NodeId,
    pub incarnation: Uuid,
    pub host: Rc<str>,
    pub port: u16,
}

/// A connection that ends for both sides when it is dropped.
pub(super) struct Open<C: Connection>(pub C);

impl<C: Connection> Drop for Open<C> {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

/// A link that stands.
pub(super) struct Standing<R: Runtime, C: Connection> {
    pub connection: Open<C>,
    pub frames: FrameReader<R, C>,
}

pub(super) async fn dial<R: Runtime, T: Transport<R>>(
    runtime: &R,
    transport: &T,
    target: &Target,
    own: &Hello,
) -> Result<Standing<R, T::Connection>, Cut> {
    let (host, port) = (&target.host, target.port);
    let address = resolve(runtime, host, port).await?;
    let connection = transport.connect(runtime, address).await.map_err(|error| {
        Cut::failed(format_args!("{host}:{port} ({address}) cannot be connected to: {error}"))
    })?;
    let connection = Open(connection);
    send_within(runtime, &connection.0, vec![replication::encode_hello(own)?.into()]).await?;
    let mut frames = FrameReader::new(runtime.clone(), connection.0.clone(), BytesMut::new());
    let hello = read_hello(&mut frames).await?;
    check_kinship(own, &hello)?;
    if (hello.broker_id, hello.incarnation) != (target.node, target.incarnation) {
        return Err(Cut::Refused(format!(
            "at {host}:{port} is broker {} with another process than the metadata say here; it is tried again",
            hello.broker_id
        )));
    }
    Ok(Standing { connection, frames })
}

/// Looks a name up away from the shard, which must not wait for name servers.
async fn resolve<R: Runtime>(runtime: &R, host: &Rc<str>, port: u16) -> Result<SocketAddr, Cut> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let name = host.to_string();
    let looked_up =
        runtime.offload(move || (name.as_str(), port).to_socket_addrs().map(|mut found| found.next()));
    match looked_up.await {
        Ok(Ok(Some(address))) => Ok(address),
        Ok(Ok(None)) => Err(Cut::failed(format_args!("{host} has no address"))),
        Ok(Err(error)) => Err(Cut::failed(format_args!("{host} cannot be looked up: {error}"))),
        Err(error) => Err(Cut::failed(format_args!("{host} was not looked up: {error:?}"))),
    }
}
