//! The handlers, asked through the router, over a broker whose partitions and metadata are simple fakes.

mod cluster;
mod configs;
mod create_and_delete;
mod fakes;
mod fetch;
mod forwarding;
mod group_times;
mod groups;
mod log_dirs;
mod lookups;
mod metadata;
mod mutations;
mod placement;
mod produce;
mod quorum;
mod small_apis;
mod topic_partitions;

pub(crate) use fakes::{FakeBroker, batch};

use super::call::{Outcome, Reply, RouteError};
use super::router::route;
use super::services::Services;
use super::shard_state::ShardState;
use crate::coordinator::CoordinatorTable;
use crate::coordinator::command::GroupRouter;
use crate::runtime::simulated::{Options, SimulatedRuntime, World};
use crate::shard::memory::MemoryClass;
use crate::shard::signal::Signal;
use bytes::Bytes;
use logmill_state::admission::authorizer::{Principal, RequestContext};
use logmill_state::settings::BrokerSettings;
use logmill_wire::api::{self, ApiRequest, Message};
use logmill_wire::ids::{NodeId, ShardIndex, TopicId};
use logmill_wire::primitives::Reader;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

pub(crate) const NODE: NodeId = NodeId(1);
const CORRELATION: i32 = 77;

/// A shard with its services over a [`FakeBroker`].
pub(crate) struct Fixture {
    pub world: World,
    pub host: crate::runtime::simulated::Host,
    pub runtime: SimulatedRuntime,
    pub services: Rc<Services<SimulatedRuntime>>,
    pub broker: Rc<FakeBroker>,
    pub context: Rc<RequestContext>,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(&[])
    }

    pub fn with(settings: &[(&str, &str)]) -> Self {
        Self::build(settings, false)
    }

    /// A shard of a broker in whose cluster another node may be the active controller.
    pub fn with_other_controllers() -> Self {
        Self::build(&[], true)
    }

    /// A shard whose client is connected to a listener of the controllers.
    pub fn on_controllers() -> Self {
        let mut fixture = Self::new();
        let listener = "CONTROLLER".into();
        fixture.context = Rc::new(RequestContext { listener, ..RequestContext::clone(&fixture.context) });
        fixture
    }

    fn build(given: &[(&str, &str)], has_other_controllers: bool) -> Self {
        let values = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let memory = given.iter().find(|(key, _)| *key == "logmill.memory.bytes");
        let memory_bytes = memory.map_or(1 << 30, |(_, bytes)| bytes.parse().unwrap());
        let settings = Arc::new(BrokerSettings::from_values(values.collect::<BTreeMap<_, _>>()).unwrap());
        let world = World::new(7, Options::default());
        let host = world.host("broker");
        let runtime = host.runtime(ShardIndex(0));
        let broker = Rc::new(FakeBroker::new(runtime.clone()));
        let groups = Arc::new(settings.groups.clone());
        let coordinators = CoordinatorTable::new(runtime.clone(), NODE, 1, broker.partitions(), groups);
        let local = Rc::clone(&coordinators);
        let services = Rc::new(Services {
            runtime: runtime.clone(),
            node_id: NODE,
            settings: Arc::clone(&settings),
            partitions: broker.partitions(),
            groups: GroupRouter::new(1, Rc::new(move |_, command| local.handle(command))),
            cluster: if has_other_controllers {
                broker.cluster().with_other_controllers()
            } else {
                broker.cluster()
            },
            image: RefCell::new(broker.image()),
            image_changed: Signal::default(),
            lost_peers: Arc::default(),
            state: ShardState::new(ShardIndex(0), 1, &settings, memory_bytes),
        });
        broker.attach(&services, &coordinators);
        let context = Rc::new(RequestContext {
            listener: "PLAINTEXT".into(),
            principal: Principal::anonymous(),
            connection_id: 1,
            client_id: None,
            peer: SocketAddr::from(([127, 0, 0, 1], 40_000)),
        });
        Self { world, host, runtime, services, broker, context }
    }

    pub fn create(&self, name: &str, partitions: i32) -> TopicId {
        self.broker.create(name, partitions)
    }

    /// Begins a request given as its frame without the size.
    pub fn begin(&self, frame: &[u8]) -> Result<super::call::Pending, RouteError> {
        let frame = Bytes::copy_from_slice(frame);
        let room = self.services.state.memory.reserve_now(MemoryClass::Control, frame.len());
        route(&self.services, &mut Rc::clone(&self.context), &frame, room)
    }

    pub fn begin_request<'q, Q: ApiRequest<'q>>(&self, request: &Q, version: i16) -> super::call::Pending {
        let frame = api::request_frame(request, version, CORRELATION, Some("test")).unwrap().concat();
        self.begin(&frame[4..]).unwrap()
    }

    pub fn outcome<'q, Q: ApiRequest<'q>>(&self, request: &Q, version: i16) -> Outcome {
        let pending = self.begin_request(request, version);
        self.world.block_on(&self.runtime, pending)
    }

    /// Sends a request and hands the decoded response to `check`.
    pub fn ask<'q, Q: ApiRequest<'q>, T>(
        &self,
        request: &Q,
        version: i16,
        check: impl FnOnce(Q::Response<'_>) -> T,
    ) -> T {
        let body = body(self.outcome(request, version), Q::KEY, version);
        check(<Q::Response<'_> as Message<'_>>::decode_body(&body, version).unwrap())
    }

    /// Nothing holds memory any more.
    pub fn assert_all_room_is_free(&self) {
        let memory = &self.services.state.memory;
        for class in [MemoryClass::Control, MemoryClass::Produce, MemoryClass::Fetch] {
            assert_eq!(memory.free(class), memory.size(class), "{class:?}");
        }
    }
}

/// The body of a reply; the frame's size and header are checked.
pub(crate) fn body(outcome: Outcome, key: i16, version: i16) -> Vec<u8> {
    let Outcome::Reply(Reply { parts, room }) = outcome else { panic!("no reply but {outcome:?}") };
    let frame = parts.concat();
    assert_eq!(room.bytes(), frame.len(), "a reply counts all its bytes");
    let size = u32::from_be_bytes(frame[..4].try_into().unwrap());
    assert_eq!(size as usize, frame.len() - 4);
    let mut reader = Reader::new(&frame[4..]);
    let header_version = api::header_versions(key, version).unwrap().response;
    let header = api::response_header::ResponseHeader::decode(&mut reader, header_version).unwrap();
    assert_eq!(header.correlation_id, CORRELATION);
    reader.rest().to_vec()
}
