//! Making connections, and making them again.

use super::{Address, Shared, connection};
use crate::runtime::Runtime;
use crate::shard::deadline::within;
use crate::shard::signal::Signal;
use logmill_wire::ids::NodeId;
use std::cell::Cell;
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
    let (mut pause_ms, mut told) = (PAUSE_MS.0, String::new());
    while !dialer.is_ended.get() {
        let address = shared.addresses.borrow().get(&node).cloned();
        let Some(address) = address else { return };
        let began = shared.runtime.monotonic();
        let cause = match attempt(&shared.runtime, &address).await {
            Ok(connection) => connection::carry(&shared, connection, Some(node)).await.err(),
            Err(cause) => Some(cause),
        };
        let cause = cause.unwrap_or_default();
        if dialer.is_ended.get() {
            return;
        }
        if told != cause {
            tracing::info!(%node, %address, %cause, "there is no connection to a controller; trying on");
            told = cause;
        }
        // One that stood for a while begins anew with short pauses.
        let stood = shared.runtime.monotonic().since(began) > 2 * ATTEMPT_MAX.as_nanos() as u64;
        pause_ms = if stood { PAUSE_MS.0 } else { pause_ms };
        let drawn = pause_ms + shared.runtime.random_u64() % pause_ms;
        within(&shared.runtime, Duration::from_millis(drawn), dialer.ended.wait()).await;
        pause_ms = (pause_ms * 2).min(PAUSE_MS.1);
    }
}

async fn attempt<R: Runtime>(runtime: &R, address: &Address) -> Result<R::Connection, String> {
    let connecting = async {
        let resolved = resolve(runtime, address).await?;
        runtime.connect(resolved).await.map_err(|error| error.to_string())
    };
    within(runtime, ATTEMPT_MAX, connecting).await.unwrap_or_else(|| Err("no answer in time".into()))
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
