//! Binding the node's listeners.

use super::NodeError;
use crate::config::BoundListener;
use crate::runtime::{Listener, Runtime};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// How often, and after how long, a port that is in use is tried again: for 2 s in all.
const LISTEN_RETRIES: u32 = 80;
const LISTEN_RETRY_AFTER: Duration = Duration::from_millis(25);

/// A listener's socket.
pub struct Socket<R: Runtime> {
    /// What it is.
    pub listener: BoundListener,
    /// The socket itself.
    pub socket: R::Listener,
}

impl<R: Runtime> Socket<R> {
    /// The port that others are told to connect to.
    pub fn advertised_port(&self) -> u16 {
        match self.listener.advertised.port {
            0 => self.socket.local_address().port(),
            port => port,
        }
    }
}

/// Binds all of a node's listeners.
pub async fn bind<R: Runtime>(runtime: &R, listeners: &[BoundListener]) -> Result<Vec<Socket<R>>, NodeError> {
    let mut sockets = Vec::new();
    for listener in listeners {
        let address = resolve(&listener.bind.host, listener.bind.port)?;
        let socket = listen(runtime, address).await.map_err(|error| {
            NodeError::new(
                format!("{} cannot listen on {address}: {error}", listener.name),
                "stop the process that holds the port, or choose another one in listeners",
            )
        })?;
        sockets.push(Socket { listener: listener.clone(), socket });
    }
    Ok(sockets)
}

/// Listens, and gives a port that is in use a moment to become free: the kernel takes a killed process's rings
/// down, and with them its listening sockets, only after the process has ended.
async fn listen<R: Runtime>(runtime: &R, address: SocketAddr) -> io::Result<R::Listener> {
    for _ in 0..LISTEN_RETRIES {
        match runtime.listen(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                runtime.sleep(LISTEN_RETRY_AFTER).await;
            }
            outcome => return outcome,
        }
    }
    runtime.listen(address).await
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, NodeError> {
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let failed = |cause: String| {
        NodeError::new(
            format!("{host}:{port} is not an address of this machine: {cause}"),
            "correct listeners",
        )
    };
    let mut addresses = (host, port).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    addresses.next().ok_or_else(|| failed("the name has no address".into()))
}
