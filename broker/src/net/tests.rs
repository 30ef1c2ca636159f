//! Connections over the simulated network.

use super::acceptor::{Acceptance, accept_connections};
use super::connection::{ConnectionInfo, serve_connection};
use super::counts::{ConnectionCounts, ConnectionLimits};
use crate::replication::PeerServer;
use crate::request::services::Services;
use crate::request::tests::{Fixture, batch};
use crate::runtime::simulated::{Host, SimulatedConnection, SimulatedHandle, SimulatedRuntime};
use crate::runtime::{Connection, Runtime};
use crate::shard::deadline::within;
use crate::shard::memory::MemoryClass;
use bytes::{Bytes, BytesMut};
use logmill_wire::api::{self, ApiRequest, api_versions, fetch, metadata, produce};
use logmill_wire::ids::{PartitionIndex, ShardIndex, TopicId};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const PORT: u16 = 9092;

struct Net {
    fixture: Fixture,
    client: Host,
    counts: Arc<ConnectionCounts>,
    acceptance: Arc<Acceptance>,
    moved: Moved,
}

/// Where connections have moved.
type Moved = Rc<RefCell<Vec<ShardIndex>>>;

type Shared = (Rc<Services<SimulatedRuntime>>, Rc<PeerServer<SimulatedRuntime>>, Moved);

/// Serves a connection, and goes on here when it moves to another shard, for this is the only one.
fn serve(runtime: SimulatedRuntime, shared: Shared, handle: SimulatedHandle, info: ConnectionInfo) {
    let connection = runtime.adopt(handle);
    let (services, peers, moved) = shared.clone();
    let again = runtime.clone();
    let hand_over = move |shard, handle, info| {
        moved.borrow_mut().push(shard);
        serve(again.clone(), shared.clone(), handle, info);
    };
    runtime.spawn(serve_connection(services, peers, connection, info, hand_over));
}

impl Net {
    fn new(settings: &[(&str, &str)]) -> Self {
        let fixture = Fixture::with(settings);
        let counts = ConnectionCounts::new(3);
        let limits = ConnectionLimits::from_settings(&fixture.services.settings.network);
        let acceptance = Arc::new(Acceptance::new(Arc::clone(&counts), limits));
        let accepting = Arc::clone(&acceptance);
        let (runtime, services) = (fixture.runtime.clone(), Rc::clone(&fixture.services));
        let memory = services.state.memory.clone();
        let peers = PeerServer::new(
            runtime.clone(),
            services.node_id,
            None,
            services.partitions.clone(),
            memory,
            Rc::default(),
        );
        let address = SocketAddr::new(fixture.host.ip(), PORT);
        let moved = Moved::default();
        let shared = (services, peers, Rc::clone(&moved));
        fixture.runtime.spawn(async move {
            let listener = runtime.listen(address).await.unwrap();
            let on_shard = runtime.clone();
            accept_connections(runtime, listener, "PLAINTEXT".into(), accepting, move |_, handle, info| {
                serve(on_shard.clone(), shared.clone(), handle, info);
            })
            .await;
        });
        let client = fixture.world.host("client");
        fixture.world.run_for(Duration::from_millis(100));
        Self { fixture, client, counts, acceptance, moved }
    }

    fn client(&self) -> SimulatedRuntime {
        self.client.runtime(ShardIndex(0))
    }

    /// Runs a client to its end.
    fn run<F: Future + 'static>(&self, client: impl FnOnce(SimulatedRuntime, SocketAddr) -> F) -> F::Output
    where
        F::Output: 'static,
    {
        let runtime = self.client();
        let address = SocketAddr::new(self.fixture.host.ip(), PORT);
        self.fixture.world.block_on(&runtime, client(runtime.clone(), address))
    }
}

struct Client {
    runtime: SimulatedRuntime,
    connection: SimulatedConnection,
    received: BytesMut,
}

impl Client {
    async fn connect(runtime: SimulatedRuntime, address: SocketAddr) -> Self {
        let connection = runtime.connect(address).await.unwrap();
        Self { runtime, connection, received: BytesMut::new() }
    }

    async fn send(&self, bytes: impl Into<Bytes>) -> bool {
        self.connection.send(vec![bytes.into()]).await.is_ok()
    }

    /// The correlation id of the next reply and its size; `None` when the broker has closed the connection.
    async fn reply(&mut self) -> Option<(i32, usize)> {
        loop {
            if let Some(prefix) = self.received.first_chunk::<8>() {
                let size = u32::from_be_bytes(prefix[..4].try_into().unwrap()) as usize;
                let correlation = i32::from_be_bytes(prefix[4..].try_into().unwrap());
                if self.received.len() >= 4 + size {
                    let _ = self.received.split_to(4 + size);
                    return Some((correlation, size));
                }
            }
            self.received.reserve(64 << 10);
            let (result, buffer) = self.connection.receive(std::mem::take(&mut self.received)).await;
            self.received = buffer;
            if result.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn is_closed_within(&mut self, limit: Duration) -> bool {
        let runtime = self.runtime.clone();
        matches!(within(&runtime, limit, self.reply()).await, Some(None))
    }
}

fn frame<'a, Q: ApiRequest<'a>>(request: &Q, version: i16, correlation: i32) -> Bytes {
    api::request_frame(request, version, correlation, Some("c")).unwrap().concat().into()
}

fn versions(correlation: i32) -> Bytes {
    frame(&api_versions::Request::default(), 0, correlation)
}

fn append(topic: &str, acks: i16, records: &Bytes, correlation: i32) -> Bytes {
    append_to((topic, 0), acks, records, correlation)
}

fn append_to((topic, index): (&str, i32), acks: i16, records: &Bytes, correlation: i32) -> Bytes {
    let partition = produce::PartitionProduceData { index, records: Some(records.clone().into()) };
    let topic = produce::TopicProduceData {
        name: topic.to_owned().into(),
        topic_id: TopicId::ZERO,
        partition_data: vec![partition].into(),
    };
    let request =
        produce::Request { acks, timeout_ms: 30_000, topic_data: vec![topic].into(), ..Default::default() };
    frame(&request, 9, correlation)
}

fn read_in_session(topic: &str, correlation: i32) -> Bytes {
    let partition = fetch::FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = fetch::FetchTopic {
        topic: topic.to_owned().into(),
        partitions: vec![partition].into(),
        ..Default::default()
    };
    let request = fetch::Request { session_epoch: 0, topics: vec![topic].into(), ..Default::default() };
    frame(&request, 11, correlation)
}

fn read(topic: &str, max_wait_ms: i32, correlation: i32) -> Bytes {
    let partition = fetch::FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = fetch::FetchTopic {
        topic: topic.to_owned().into(),
        partitions: vec![partition].into(),
        ..Default::default()
    };
    let request =
        fetch::Request { max_wait_ms, min_bytes: 1, topics: vec![topic].into(), ..Default::default() };
    frame(&request, 11, correlation)
}

#[test]
fn replies_leave_in_the_order_of_their_requests() {
    let net = Net::new(&[]);
    net.fixture.create("t", 1);
    net.fixture.broker.delay.set(Some(Duration::from_millis(30)));
    let records = batch(1, 10);
    let order = net.run(|runtime, address| async move {
        let mut client = Client::connect(runtime, address).await;
        let requests = [
            versions(1),
            append("t", -1, &records, 2),
            versions(3),
            append("t", -1, &records, 4),
            versions(5),
        ];
        assert!(client.send(requests.concat()).await);
        let mut order = Vec::new();
        while order.len() < 5 {
            order.push(client.reply().await.unwrap().0);
        }
        order
    });
    assert_eq!(order, [1, 2, 3, 4, 5]);
}

/// A partition of the topic on another shard than the first.
fn away(net: &Net, topic: TopicId) -> (i32, ShardIndex) {
    let spread = net.fixture.services.partitions.spread_of(topic);
    let partitions = (0..3).map(|index| (index, spread.shard_of(PartitionIndex(index))));
    partitions.into_iter().find(|(_, shard)| shard.0 != 0).unwrap()
}

/// Sends `requests` in pieces of all sizes; the answers come in their order.
fn pipeline(net: &Net, requests: Vec<Bytes>) {
    net.run(|runtime, address| async move {
        let mut client = Client::connect(runtime, address).await;
        for (number, requests) in requests.chunks(37).enumerate() {
            assert!(client.send(requests.concat()).await);
            for correlation in number * 37..number * 37 + requests.len() {
                assert_eq!(client.reply().await.unwrap().0, correlation as i32);
            }
        }
    });
}

#[test]
fn a_connection_moves_to_the_shard_that_it_is_for_and_loses_nothing() {
    let net = Net::new(&[]);
    let topic = net.fixture.create("t", 3);
    let (index, shard) = away(&net, topic);
    let records = batch(1, 3_000);
    pipeline(&net, (0..700).map(|number| append_to(("t", index), -1, &records, number)).collect());
    // The test's only shard is another one still; but the counts have the connection where it wants to go.
    assert_eq!(*net.moved.borrow(), [shard]);
    net.moved.take();
    let on_all = |number| append_to(("t", number % 3), -1, &records, number);
    pipeline(&net, (0..300).map(on_all).collect());
    assert_eq!(*net.moved.borrow(), []);
    net.fixture.world.run_for(Duration::from_secs(1));
    assert_eq!(net.counts.total(), 0, "no connection is left");
    net.fixture.assert_all_room_is_free();
}

#[test]
fn a_connection_stays_while_it_cannot_go_or_has_a_session() {
    let net = Net::new(&[]);
    let topic = net.fixture.create("t", 3);
    let (index, _) = away(&net, topic);
    let records = batch(1, 10);
    let appends = |count| (0..count).map(|number| append_to(("t", index), -1, &records, number));
    net.fixture.broker.delay.set(Some(Duration::from_millis(30)));
    pipeline(&net, appends(200).collect());
    assert_eq!(*net.moved.borrow(), [], "answers take longer than a move may wait");
    net.fixture.broker.delay.set(None);
    let mut requests: Vec<_> = appends(200).collect();
    requests[0] = read_in_session("t", 0);
    pipeline(&net, requests);
    assert_eq!(*net.moved.borrow(), [], "the session is here");
}

#[test]
fn acks_zero_sends_nothing() {
    // Trap 11.
    let net = Net::new(&[]);
    net.fixture.create("t", 1);
    let records = batch(1, 10);
    let next = net.run(|runtime, address| async move {
        let mut client = Client::connect(runtime, address).await;
        assert!(client.send([append("t", 0, &records, 1), versions(2)].concat()).await);
        client.reply().await.unwrap().0
    });
    assert_eq!(next, 2);
    // An error ends the connection: there is no other way to tell it.
    let records = batch(1, 10);
    net.run(|runtime, address| async move {
        let mut client = Client::connect(runtime, address).await;
        assert!(client.send(append("nowhere", 0, &records, 1)).await);
        assert!(client.is_closed_within(Duration::from_secs(5)).await);
    });
}

#[test]
fn sizes_that_cannot_be_end_the_connection() {
    let net = Net::new(&[("socket.request.max.bytes", "1000000")]);
    let hostile: Vec<Vec<u8>> = vec![
        (-1_i32).to_be_bytes().to_vec(),
        i32::MIN.to_be_bytes().to_vec(),
        0_i32.to_be_bytes().to_vec(),
        [&7_i32.to_be_bytes()[..], &[0, 18, 0, 0, 0, 0, 0]].concat(),
        // Larger than allowed, even for Produce.
        [&1_000_001_i32.to_be_bytes()[..], &[0, 0]].concat(),
        // Larger than a first request may be.
        [&70_000_i32.to_be_bytes()[..], &[0, 3]].concat(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        // Another broker, where brokers are not heard.
        b"\xf7LMR".to_vec(),
        // An API that is not offered.
        [&10_i32.to_be_bytes()[..], &[0x7f, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff]].concat(),
    ];
    for bytes in hostile {
        let shown = format!("{bytes:?}");
        let closed = net.run(|runtime, address| async move {
            let mut client = Client::connect(runtime, address).await;
            client.send(bytes).await;
            client.is_closed_within(Duration::from_secs(1)).await
        });
        assert!(closed, "{shown}");
    }
    net.fixture.world.run_for(Duration::from_secs(1));
    assert_eq!(net.counts.total(), 0, "no connection is left");
    net.fixture.assert_all_room_is_free();
}

#[test]
fn requests_arrive_in_whatever_pieces() {
    let net = Net::new(&[]);
    net.fixture.create("t", 1);
    let records = batch(1, 300_000);
    net.run(|runtime, address| async move {
        let mut client = Client::connect(runtime.clone(), address).await;
        let bytes = [versions(1), append("t", -1, &records, 2), versions(3)].concat();
        for (index, piece) in bytes.chunks(if bytes.len() > 1 { 7_001 } else { 1 }).enumerate() {
            assert!(client.send(piece.to_vec()).await);
            if index % 10 == 0 {
                runtime.sleep(Duration::from_millis(1)).await;
            }
        }
        for byte in versions(4).iter() {
            assert!(client.send(vec![*byte]).await);
            runtime.sleep(Duration::from_millis(5)).await;
        }
        for expected in 1..=4 {
            assert_eq!(client.reply().await.unwrap().0, expected);
        }
    });
    net.fixture.assert_all_room_is_free();
}

#[test]
fn a_first_request_may_be_large_only_if_it_carries_records() {
    let net = Net::new(&[]);
    net.fixture.create("t", 1);
    let records = batch(1, 200_000);
    let names: Vec<_> = (0..9_000).map(|topic| format!("topic-{topic:05}")).collect();
    let topics = names.iter().map(|name| metadata::MetadataRequestTopic {
        name: Some(name.as_str().into()),
        ..Default::default()
    });
    let request = metadata::Request {
        topics: Some(topics.collect()),
        allow_auto_topic_creation: false,
        ..Default::default()
    };
    let large = frame(&request, 9, 2);
    assert!(large.len() > 64 << 10);
    net.run(|runtime, address| async move {
        let mut client = Client::connect(runtime.clone(), address).await;
        assert!(client.send(append("t", -1, &records, 1)).await);
        assert_eq!(client.reply().await.unwrap().0, 1);
        // Now it has been heard.
        assert!(client.send(large.clone()).await);
        assert_eq!(client.reply().await.unwrap().0, 2);
        let mut stranger = Client::connect(runtime, address).await;
        stranger.send(large).await;
        assert!(stranger.is_closed_within(Duration::from_secs(1)).await);
    });
}

#[test]
fn who_announces_much_and_sends_nothing_is_cut_off() {
    let net = Net::new(&[("logmill.memory.bytes", "400000000")]);
    let memory = net.fixture.services.state.memory.clone();
    let held = net.run(|runtime, address| async move {
        let mut client = Client::connect(runtime.clone(), address).await;
        let announced = [&100_000_000_i32.to_be_bytes()[..], &[0, 0, 0, 9]].concat();
        assert!(client.send(announced.clone()).await);
        let mut beginner = Client::connect(runtime.clone(), address).await;
        runtime.sleep(Duration::from_secs(1)).await;
        let held = || memory.size(MemoryClass::Produce) - memory.free(MemoryClass::Produce);
        let by_announcing = held();
        assert!(beginner.send([announced, vec![0; 4096]].concat()).await);
        runtime.sleep(Duration::from_secs(1)).await;
        let by_beginning = held();
        assert!(client.is_closed_within(Duration::from_secs(15)).await);
        assert!(beginner.is_closed_within(Duration::from_secs(15)).await);
        (by_announcing, by_beginning)
    });
    assert_eq!(held, (0, 100_000_000), "room is found before the body is stored, and for who sends one");
    net.fixture.assert_all_room_is_free();
}

#[test]
fn a_request_that_trickles_in_is_cut_off() {
    let net = Net::new(&[]);
    let lasted = net.run(|runtime, address| async move {
        let client = Client::connect(runtime.clone(), address).await;
        let began = runtime.monotonic();
        let request = versions(1);
        assert!(client.send(request.slice(..10)).await);
        // A byte every nine seconds never stalls for ten, but never gets anywhere.
        let long = [&2_000_i32.to_be_bytes()[..], &[0, 18, 0, 0]].concat();
        client.send(request.slice(10..)).await;
        client.send(long).await;
        while client.send(vec![0]).await && runtime.monotonic().since(began) < 600_000_000_000 {
            runtime.sleep(Duration::from_secs(9)).await;
        }
        runtime.monotonic().since(began) / 1_000_000_000
    });
    assert!((25..60).contains(&lasted), "{lasted} s");
}

#[test]
fn silence_ends_a_connection_but_a_long_poll_is_not_silence() {
    let net = Net::new(&[("connections.max.idle.ms", "5000")]);
    net.fixture.create("t", 1);
    net.run(|runtime, address| async move {
        let mut silent = Client::connect(runtime.clone(), address).await;
        let mut waiting = Client::connect(runtime.clone(), address).await;
        let began = runtime.monotonic();
        assert!(waiting.send(read("t", 12_000, 1)).await);
        assert!(silent.is_closed_within(Duration::from_secs(8)).await);
        assert!(runtime.monotonic().since(began) >= 4_900_000_000);
        assert_eq!(waiting.reply().await.unwrap().0, 1);
        assert!(runtime.monotonic().since(began) >= 12_000_000_000);
        assert!(waiting.is_closed_within(Duration::from_secs(10)).await);
    });
}

#[test]
fn requests_under_way_are_bounded() {
    let net = Net::new(&[]);
    net.fixture.create("t", 1);
    net.fixture.broker.delay.set(Some(Duration::from_secs(2)));
    let broker = Rc::clone(&net.fixture.broker);
    let records = batch(1, 1);
    net.run(|runtime, address| async move {
        let mut client = Client::connect(runtime.clone(), address).await;
        let requests: Vec<_> = (0..200).map(|correlation| append("t", -1, &records, correlation)).collect();
        assert!(client.send(requests.concat()).await);
        runtime.sleep(Duration::from_secs(1)).await;
        assert_eq!(broker.asked.borrow().len(), logmill_wire::limits::CONNECTION_IN_FLIGHT_MAX);
        for correlation in 0..200 {
            assert_eq!(client.reply().await.unwrap().0, correlation);
        }
    });
}

#[test]
fn consumers_that_never_read_hold_little_and_are_cut_off() {
    let net = Net::new(&[("logmill.memory.bytes", "67108864")]);
    let id = net.fixture.create("t", 1);
    let partition =
        logmill_wire::ids::TopicPartition { topic_id: id, partition: logmill_wire::ids::PartitionIndex(0) };
    for _ in 0..4 {
        net.fixture.broker.append(partition, &batch(1, 250_000));
    }
    let memory = net.fixture.services.state.memory.clone();
    let peak = Rc::new(Cell::new(0));
    let seen = Rc::clone(&peak);
    let counts = Arc::clone(&net.counts);
    net.run(|runtime, address| async move {
        let mut stuck = Vec::new();
        for _ in 0..200 {
            let client = Client::connect(runtime.clone(), address).await;
            let requests: Vec<_> = (0..20).map(|correlation| read("t", 0, correlation)).collect();
            assert!(client.send(requests.concat()).await);
            stuck.push(client);
            let used = memory.size(MemoryClass::Fetch) - memory.free(MemoryClass::Fetch);
            seen.set(seen.get().max(used));
        }
        // Others are served meanwhile: metadata at once, records soon.
        let mut other = Client::connect(runtime.clone(), address).await;
        assert!(other.send([versions(1), read("t", 0, 2)].concat()).await);
        let first = within(&runtime, Duration::from_secs(1), other.reply()).await;
        assert_eq!(first.flatten().map(|reply| reply.0), Some(1));
        let second = within(&runtime, Duration::from_secs(20), other.reply()).await;
        assert_eq!(second.flatten().map(|reply| reply.0), Some(2));
        runtime.sleep(Duration::from_secs(60)).await;
        assert!(counts.total() <= 1, "{} connections still hold their replies", counts.total());
        drop(stuck);
    });
    let class = net.fixture.services.state.memory.size(MemoryClass::Fetch);
    assert!(peak.get() > 0 && peak.get() <= class, "{} of {class}", peak.get());
    net.fixture.world.run_for(Duration::from_secs(60));
    net.fixture.assert_all_room_is_free();
}

#[test]
fn producers_beyond_the_memory_wait_and_are_all_served() {
    let net = Net::new(&[("logmill.memory.bytes", "67108864")]);
    net.fixture.create("t", 1);
    net.fixture.broker.delay.set(Some(Duration::from_millis(3)));
    let records = batch(1, 1 << 20);
    let memory = net.fixture.services.state.memory.clone();
    let (over, was_contended) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let (saw_over, saw_contended) = (Rc::clone(&over), Rc::clone(&was_contended));
    net.run(|runtime, address| async move {
        let served = Rc::new(Cell::new(0));
        for _ in 0..60 {
            let (runtime, served, records) = (runtime.clone(), Rc::clone(&served), records.clone());
            runtime.clone().spawn(async move {
                let mut client = Client::connect(runtime, address).await;
                assert!(client.send(append("t", -1, &records, 5)).await);
                assert_eq!(client.reply().await.unwrap().0, 5);
                served.set(served.get() + 1);
            });
        }
        let mut other = Client::connect(runtime.clone(), address).await;
        while served.get() < 60 {
            runtime.sleep(Duration::from_millis(1)).await;
            let used =
                memory.size(MemoryClass::Produce) as isize - memory.free(MemoryClass::Produce) as isize;
            saw_over.set(saw_over.get() || used > memory.size(MemoryClass::Produce) as isize);
            saw_contended.set(saw_contended.get() || memory.is_contended(MemoryClass::Produce));
        }
        assert!(other.send(versions(9)).await);
        assert_eq!(other.reply().await.unwrap().0, 9);
    });
    assert!(was_contended.get(), "the memory must have been too small for all at once");
    assert!(!over.get());
    net.fixture.assert_all_room_is_free();
}

#[test]
fn an_address_with_too_many_connections_gets_no_more() {
    let net = Net::new(&[("max.connections.per.ip", "2")]);
    let counts = Arc::clone(&net.counts);
    net.run(|runtime, address| async move {
        let mut first = Client::connect(runtime.clone(), address).await;
        assert!(first.send(versions(1)).await);
        assert!(first.reply().await.is_some());
        let second = Client::connect(runtime.clone(), address).await;
        let mut third = Client::connect(runtime.clone(), address).await;
        assert!(third.is_closed_within(Duration::from_secs(1)).await);
        assert_eq!(counts.total(), 2);
        second.connection.shutdown();
        runtime.sleep(Duration::from_secs(1)).await;
        let mut fourth = Client::connect(runtime, address).await;
        assert!(fourth.send(versions(1)).await);
        assert!(fourth.reply().await.is_some());
    });
}

#[test]
fn beyond_the_bound_of_all_connections_others_wait() {
    let net = Net::new(&[("max.connections", "1")]);
    net.run(|runtime, address| async move {
        let first = Client::connect(runtime.clone(), address).await;
        runtime.sleep(Duration::from_millis(100)).await;
        let mut second = Client::connect(runtime.clone(), address).await;
        assert!(second.send(versions(1)).await);
        assert!(
            within(&runtime, Duration::from_secs(2), second.reply()).await.is_none(),
            "it is not accepted yet"
        );
        first.connection.shutdown();
        assert_eq!(second.reply().await.map(|reply| reply.0), Some(1));
    });
}

#[test]
fn bounds_may_change_while_connections_are_there() {
    let net = Net::new(&[]);
    let acceptance = Arc::clone(&net.acceptance);
    let limits = |per_address| ConnectionLimits {
        total: 100,
        per_address,
        overrides: Vec::new(),
        creation_rate: u32::MAX,
    };
    net.run(|runtime, address| async move {
        let mut first = Client::connect(runtime.clone(), address).await;
        assert!(first.send(versions(1)).await);
        assert!(first.reply().await.is_some());
        acceptance.set_limits(limits(1));
        let mut second = Client::connect(runtime.clone(), address).await;
        assert!(second.is_closed_within(Duration::from_secs(1)).await);
        assert!(first.send(versions(2)).await);
        assert!(first.reply().await.is_some(), "what is there stays");
        acceptance.set_limits(limits(2));
        let mut third = Client::connect(runtime, address).await;
        assert!(third.send(versions(3)).await);
        assert!(third.reply().await.is_some());
    });
}

#[test]
fn connections_beyond_the_rate_are_delayed_and_not_refused() {
    let net = Net::new(&[("max.connection.creation.rate", "4")]);
    net.run(|runtime, address| async move {
        let mut clients = Vec::new();
        for _ in 0..12 {
            let client = Client::connect(runtime.clone(), address).await;
            assert!(client.send(versions(1)).await);
            clients.push(client);
        }
        let mut answered_after = Vec::new();
        let start = runtime.monotonic();
        for client in &mut clients {
            let reply = within(&runtime, Duration::from_secs(5), client.reply()).await;
            assert!(reply.flatten().is_some(), "every one is served in the end");
            answered_after.push((runtime.monotonic().0 - start.0) / 1_000_000);
        }
        assert!(answered_after[3] < 500, "a second's worth comes at once: {answered_after:?}");
        assert!(
            (1800..2600).contains(&answered_after[11]),
            "eight more at four a second: {answered_after:?}"
        );
    });
}
