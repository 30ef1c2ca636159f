//! Brokers whose processes have died are found out before their sessions end.
//!
//! The kernel of a host closes the connections of a process that has died, and refuses new ones. So a broker to which no
//! connection stands, and whose listener is refused twice, is fenced at once. Silence is no sign: a host that does not
//! answer has its whole session. A refusal may be that of something between the hosts; the broker is unfenced by its
//! next heartbeat then, and the same process is not judged by it again.

use super::{ControllerCommand, State};
use crate::cluster::links::{Address, resolve};
use crate::runtime::Runtime;
use crate::shard::deadline::within;
use logmill_state::metadata::Broker;
use logmill_wire::ids::{NodeId, Uuid};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often the controller looks to whom no connection stands.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long an attempt may take, and how much later the second one follows.
const ATTEMPT_MAX: Duration = Duration::from_millis(250);
const SECOND_AFTER: Duration = Duration::from_millis(25);

/// How long a broker that was not refused is not looked at again.
const PAUSE: Duration = Duration::from_millis(500);

impl<R: Runtime> State<R> {
    /// Looks for brokers that are gone, while this node leads and there is a broker besides its own.
    pub(super) async fn watch_links(self: &Rc<Self>) {
        while !self.is_stopping.get() {
            if !self.until_leading_others().await {
                return;
            }
            self.runtime.sleep(LOOK_EVERY).await;
            let image = self.quorum.image();
            for broker in image.brokers() {
                if !broker.fenced && self.is_suspect(broker.id, broker.incarnation) {
                    self.probing.borrow_mut().insert(broker.id);
                    let (state, broker) = (Rc::clone(self), Arc::clone(broker));
                    self.runtime.spawn(async move { state.probe(&broker).await });
                }
            }
        }
    }

    fn is_suspect(&self, node: NodeId, incarnation: Uuid) -> bool {
        node != self.node
            && !self.calls.is_connected(node)
            && !self.probing.borrow().contains(&node)
            && !self.sessions.borrow().was_found_lost(incarnation)
    }

    async fn probe(&self, broker: &Broker) {
        let (node, incarnation) = (broker.id, broker.incarnation);
        let heard = self.sessions.borrow().heartbeats(node);
        let mut is_lost = self.is_refused(broker).await;
        if is_lost {
            self.runtime.sleep(SECOND_AFTER).await;
            is_lost = self.is_refused(broker).await && !self.calls.is_connected(node);
        }
        if is_lost {
            self.queue.borrow_mut().push_back(ControllerCommand::FenceLost { node, incarnation, heard });
            self.work.notify_all();
        }
        self.runtime.sleep(PAUSE).await;
        self.probing.borrow_mut().remove(&node);
    }

    async fn is_refused(&self, broker: &Broker) -> bool {
        let Some(endpoint) = broker.endpoints.first() else { return false };
        let address = Address { host: endpoint.host.clone(), port: endpoint.port };
        let attempt = async {
            let Ok(address) = resolve(&self.runtime, &address).await else { return false };
            match self.runtime.connect(address).await {
                Ok(_) => false,
                Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            }
        };
        within(&self.runtime, ATTEMPT_MAX, attempt).await.unwrap_or(false)
    }
}
