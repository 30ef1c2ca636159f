//! Making connections, and making them again.

use super::{Address, Shared, connection};
use crate::runtime::Runtime;
use crate::shard::deadline::within;
use crate::shard::signal::Signal;
use bytes::BytesMut;
use logmill_wire::ids::NodeId;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(1);

/// How long to wait after the first attempt that failed, and at the most.
const PAUSE_MS: (u64, u64) = (10, 500);

/// The task that keeps a connection to one node.
#[derive(Default)]
pub(super) struct Dialer {
    is_ended: Cell<bool>,
    ended: Signal,
}

/// Begins to connect to the nodes whose addresses are known, and leaves the others.
pub(super) fn follow_addresses<R: Runtime>(shared: &Rc<Shared<R>>) {
    let addresses = shared.addresses.borrow();
    shared.dialed.borrow_mut().retain(|node, dialer| {
        let stays = addresses.contains_key(node);
        if !stays {
            dialer.is_ended.set(true);
            dialer.ended.notify_all();
        }
        stays
    });
    for &node in addresses.keys() {
        if !shared.dialed.borrow().contains_key(&node) {
            let dialer = Rc::<Dialer>::default();
            shared.dialed.borrow_mut().insert(node, Rc::clone(&dialer));
            let task = keep_connected(Rc::clone(shared), node, dialer);
            shared.runtime.spawn(task);
        }
    }
}

async fn keep_connected<R: Runtime>(shared: Rc<Shared<R>>, node: NodeId, dialer: Rc<Dialer>) {
    let (mut pause_ms, mut told, mut was_connected) = (PAUSE_MS.0, String::new(), false);
    while !dialer.is_ended.get() {
        let address = shared.addresses.borrow().get(&node).cloned();
        let Some(address) = address else { return };
        let began = shared.runtime.monotonic();
        let attempted = attempt(&shared.runtime, &address).await;
        let is_refused = matches!(&attempted, Err(Failed::Refused));
        let stood_before = std::mem::replace(&mut was_connected, attempted.is_ok());
        let cause = match attempted {
            Ok(connection) => connection::carry(&shared, connection, BytesMut::new(), Some(node))
                .await
                .err()
                .unwrap_or_default(),
            Err(failed) => failed.to_string(),
        };
        let on_gone = shared.on_gone.borrow().clone();
        if let Some(on_gone) = on_gone.filter(|_| stood_before && is_refused && !dialer.is_ended.get()) {
            on_gone(node);
        }
        if dialer.is_ended.get() {
            return;
        }
        if told != cause {
            tracing::info!(%node, %address, %cause, "there is no connection to a controller; trying on");
            told = cause;
        }
        // One that stood for a while begins anew with short pauses.
        let stood = shared.runtime.monotonic().since(began) > 2 * ATTEMPT_MAX.as_nanos() as u64;
        if was_connected && stood {
            // Whether the process has ended is known at once.
            pause_ms = PAUSE_MS.0;
            continue;
        }
        let drawn = pause_ms + shared.runtime.random_u64() % pause_ms;
        within(&shared.runtime, Duration::from_millis(drawn), dialer.ended.wait()).await;
        pause_ms = (pause_ms * 2).min(PAUSE_MS.1);
    }
}

/// Why there is no connection.
enum Failed {
    /// The host lives, and nobody listens there.
    Refused,
    Otherwise(String),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "nobody listens there",
            Self::Otherwise(cause) => cause,
        })
    }
}

async fn attempt<R: Runtime>(runtime: &R, address: &Address) -> Result<R::Connection, Failed> {
    let connecting = async {
        let resolved = resolve(runtime, address).await.map_err(Failed::Otherwise)?;
        runtime.connect(resolved).await.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Failed::Refused,
            _ => Failed::Otherwise(error.to_string()),
        })
    };
    let late = || Err(Failed::Otherwise("no answer in time".to_owned()));
    within(runtime, ATTEMPT_MAX, connecting).await.unwrap_or_else(late)
}

/// The address of a host: at once, or by the system's resolver on the pool.
pub(in crate::cluster) async fn resolve<R: Runtime>(
    runtime: &R,
    address: &Address,
) -> Result<SocketAddr, String> {
    if let Ok(ip) = address.host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, address.port));
    }
    let name = (address.host.clone(), address.port);
    // The system's resolver blocks.
    let resolved = runtime.offload(move || name.to_socket_addrs().map(|mut all| all.next())).await;
    match resolved {
        Ok(Ok(Some(address))) => Ok(address),
        Ok(Ok(None)) => Err("the name has no address".into()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the pool that resolves names is busy".into()),
    }
}
