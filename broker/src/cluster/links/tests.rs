//! Links between simulated hosts.

use super::{Address, CallFailed, CallHandler, ControlLinks, SILENCE_MAX};
use crate::cluster::quorum::QuorumLink;
use crate::runtime::simulated::{Host, Options, SimulatedRuntime, World};
use crate::runtime::{Connection, Listener, Runtime};
use bytes::{Bytes, BytesMut};
use logmill_wire::frame::control_link::{ControlFrame, ControlHello, ControlKind};
use logmill_wire::ids::{NodeId, ShardIndex, Uuid};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

const PORT: u16 = 9093;
const SECOND: Duration = Duration::from_secs(1);

struct Site {
    host: Host,
    runtime: SimulatedRuntime,
    links: ControlLinks<SimulatedRuntime>,
    carried_out: Rc<Cell<u32>>,
}

/// Answers operation 1 with what came and who sent it, operation 2 after two seconds, and nothing else.
fn handler(runtime: &SimulatedRuntime, count: &Rc<Cell<u32>>) -> CallHandler {
    let (runtime, count) = (runtime.clone(), Rc::clone(count));
    Rc::new(move |from, operation, payload| {
        let (runtime, count) = (runtime.clone(), Rc::clone(&count));
        Box::pin(async move {
            count.set(count.get() + 1);
            if operation == 2 {
                runtime.sleep(2 * SECOND).await;
            }
            let text = format!("{from}:{}", String::from_utf8_lossy(&payload));
            (operation <= 2).then(|| text.into_bytes().into())
        })
    })
}

fn site(world: &World, node: i32, cluster_id: Uuid) -> Site {
    site_on(world, world.host(&format!("node-{node}")), node, cluster_id)
}

fn site_on(world: &World, host: Host, node: i32, cluster_id: Uuid) -> Site {
    let runtime = host.runtime(ShardIndex(0));
    let carried_out = Rc::<Cell<u32>>::default();
    let links = ControlLinks::new(runtime.clone(), NodeId(node), cluster_id);
    links.set_handler(handler(&runtime, &carried_out));
    let (accepting, listening) = (links.clone(), runtime.clone());
    let address = host.address(PORT);
    world.block_on(&runtime, async move {
        let listener = listening.listen(address).await.unwrap();
        let adopting = listening.clone();
        listening.spawn(async move {
            loop {
                let (handle, _) = listener.accept().await.unwrap();
                accepting.serve(adopting.adopt(handle), BytesMut::new(), ());
            }
        });
    });
    Site { host, runtime, links, carried_out }
}

fn connect(from: &Site, to: &[(i32, &Site)]) {
    let address = |site: &Site| Address { host: site.host.ip().to_string(), port: PORT };
    let addresses: BTreeMap<_, _> = to.iter().map(|(node, site)| (NodeId(*node), address(site))).collect();
    from.links.set_addresses(addresses);
}

fn call(
    world: &World,
    from: &Site,
    to: i32,
    operation: u16,
    payload: &'static [u8],
) -> Result<Bytes, CallFailed> {
    let links = from.links.clone();
    world.block_on(&from.runtime, async move {
        links.call(NodeId(to), operation, Bytes::from_static(payload), 4 * SECOND).await
    })
}

#[test]
fn either_end_of_a_connection_may_call() {
    let world = World::new(1, Options::default());
    let (one, two) = (site(&world, 1, Uuid([5; 16])), site(&world, 2, Uuid::ZERO));
    connect(&one, &[(2, &two)]);
    assert_eq!(call(&world, &one, 2, 1, b"there").unwrap(), "1:there");
    assert_eq!(call(&world, &two, 1, 1, b"and back").unwrap(), "2:and back");
    assert_eq!(call(&world, &one, 1, 1, b"myself").unwrap(), "1:myself");
    assert_eq!(call(&world, &one, 2, 3, b"no such thing"), Err(CallFailed::Refused));
    assert_eq!(call(&world, &one, 3, 1, b"nobody"), Err(CallFailed::NotConnected));
    let big = Bytes::from(vec![b'x'; 15 << 20]);
    let (links, sent) = (one.links.clone(), big.clone());
    let answer = world
        .block_on(&one.runtime, async move { links.call(NodeId(2), 1, sent, 60 * SECOND).await })
        .unwrap();
    assert_eq!(answer.len(), big.len() + 2);
}

#[test]
fn quorum_frames_arrive_in_order() {
    let world = World::new(2, Options::default());
    let (one, two) = (site(&world, 1, Uuid::ZERO), site(&world, 2, Uuid::ZERO));
    connect(&two, &[(1, &one)]);
    assert!(world.run_until_within(SECOND, || one.links.is_connected(NodeId(2))));
    let link = one.links.quorum_link();
    for number in 0..100_u8 {
        link.send(NodeId(2), Bytes::from(vec![number; 10_000]));
    }
    let link = two.links.quorum_link();
    let got = world.block_on(&two.runtime, async move {
        let mut got = Vec::new();
        while got.len() < 100 {
            got.push(link.receive().await);
        }
        got
    });
    for (number, frame) in (0..100_u8).zip(got) {
        assert_eq!(frame, vec![number; 10_000]);
    }
}

#[test]
fn a_silent_cut_is_noticed_and_healed() {
    let world = World::new(3, Options::default());
    let (one, two) = (site(&world, 1, Uuid::ZERO), site(&world, 2, Uuid::ZERO));
    connect(&one, &[(2, &two)]);
    assert_eq!(call(&world, &one, 2, 1, b"a").unwrap(), "1:a");
    world.run_for(10 * SECOND);
    let silent = one.links.silent_for(NodeId(2)).unwrap();
    assert!(silent < SILENCE_MAX / 2, "pings come, the last one {silent:?} ago");
    assert_eq!(one.links.silent_for(NodeId(3)), None);
    world.cut(&two.host, &one.host);
    assert!(world.run_until_within(SILENCE_MAX + SECOND, || !one.links.is_connected(NodeId(2))));
    assert!(one.links.silent_for(NodeId(2)).unwrap() >= SILENCE_MAX / 2);
    assert_eq!(call(&world, &one, 2, 1, b"b"), Err(CallFailed::NotConnected));
    world.mend_all();
    assert_eq!(call(&world, &one, 2, 1, b"c").unwrap(), "1:c");
    assert!(world.run_until_within(SILENCE_MAX + SECOND, || {
        two.links.0.lanes.borrow().get(&NodeId(1)).is_some_and(|lanes| lanes.len() == 1)
    }));
}

#[test]
fn a_call_whose_connection_breaks_fails_at_once_and_is_never_made_twice() {
    let world = World::new(4, Options::default());
    let (one, two) = (site(&world, 1, Uuid::ZERO), site(&world, 2, Uuid::ZERO));
    connect(&one, &[(2, &two)]);
    let outcome = Rc::<RefCell<Option<_>>>::default();
    let (links, told) = (one.links.clone(), Rc::clone(&outcome));
    one.runtime.spawn(async move {
        let answer = links.call(NodeId(2), 2, Bytes::from_static(b"slow"), 60 * SECOND).await;
        told.replace(Some(answer));
    });
    assert!(world.run_until_within(SECOND, || two.carried_out.get() == 1));
    world.reset_connections(&one.host, &two.host);
    assert!(world.run_until_within(SECOND, || outcome.borrow().is_some()));
    assert_eq!(outcome.take(), Some(Err(CallFailed::Unknown)));
    world.run_for(10 * SECOND);
    assert_eq!(two.carried_out.get(), 1);
    assert!(one.links.is_connected(NodeId(2)));
}

/// Connects to a site, says these bytes, and waits until the site has closed the connection: false if it did not.
fn closes(world: &World, from: &Host, to: &Site, said: Vec<Bytes>) -> bool {
    let (runtime, address) = (from.runtime(ShardIndex(0)), to.host.address(PORT));
    let task = runtime.clone();
    world.block_on(&runtime, async move {
        let connection = task.connect(address).await.unwrap();
        let _ = connection.send(said).await;
        let read_out = async {
            let mut buffer = bytes::BytesMut::with_capacity(1 << 16);
            loop {
                let (outcome, back) = connection.receive(buffer).await;
                buffer = back;
                buffer.clear();
                if !matches!(outcome, Ok(1..)) {
                    return;
                }
            }
        };
        crate::shard::deadline::within(&task, SILENCE_MAX * 2, read_out).await.is_some()
    })
}

#[test]
fn strangers_and_members_of_other_clusters_are_shown_out() {
    let world = World::new(5, Options::default());
    let ours = Uuid([5; 16]);
    let (one, two) = (site(&world, 1, ours), site(&world, 2, ours));
    connect(&one, &[(2, &two)]);
    assert_eq!(call(&world, &one, 2, 1, b"a").unwrap(), "1:a");
    let stranger = world.host("stranger");
    let hello = |node: i32, cluster: u8| -> Vec<Bytes> {
        let payload = ControlHello { node: NodeId(node), cluster_id: Uuid([cluster; 16]) }.encode();
        vec![ControlFrame::seal(ControlKind::Hello, 0, 0, &payload).unwrap().into(), payload.into()]
    };
    let call_first: Bytes = ControlFrame::seal(ControlKind::Call, 1, 1, b"").unwrap().into();
    let huge: Bytes = ControlFrame::seal(ControlKind::Hello, 0, 0, &[0; 4096]).unwrap().into();
    let kafka = Bytes::from_static(&[0, 0, 0, 20, 0, 18, 0, 4, 0, 0, 0, 1, 0, 0]);
    let mut mutated = hello(3, 5);
    mutated[1] = Bytes::from_static(&[7; 24]);
    let cases: [Vec<Bytes>; 8] = [
        vec![kafka],
        vec![Bytes::from_static(&[0xff; 100])],
        vec![call_first],
        vec![huge],
        hello(3, 6),
        hello(1, 5),
        mutated,
        [hello(3, 5), hello(3, 5)].concat(),
    ];
    for (number, said) in cases.into_iter().enumerate() {
        assert!(closes(&world, &stranger, &one, said), "case {number}");
    }
    assert_eq!(call(&world, &one, 2, 1, b"b").unwrap(), "1:b");
    assert!(!one.links.is_connected(NodeId(3)));
    // Somebody who says nothing more is shown out too, although nobody complains about what was said.
    assert!(closes(&world, &stranger, &one, hello(3, 5)));
}

#[test]
fn another_node_at_a_known_address_is_not_taken_for_the_one_that_was_there() {
    let world = World::new(6, Options::default());
    let (one, two) = (site(&world, 1, Uuid::ZERO), site(&world, 2, Uuid::ZERO));
    connect(&one, &[(3, &two)]);
    world.run_for(5 * SECOND);
    assert!(!one.links.is_connected(NodeId(3)) && !one.links.is_connected(NodeId(2)));
}

#[test]
fn a_node_that_starts_again_is_found_again() {
    let world = World::new(7, Options::default());
    let (one, two) = (site(&world, 1, Uuid::ZERO), site(&world, 2, Uuid::ZERO));
    connect(&one, &[(2, &two)]);
    assert_eq!(call(&world, &one, 2, 1, b"a").unwrap(), "1:a");
    two.host.kill();
    assert!(
        world.run_until_within(SECOND, || !one.links.is_connected(NodeId(2))),
        "a dead process is noticed at once"
    );
    world.run_for(20 * SECOND);
    two.host.restart();
    let again = site_on(&world, two.host.clone(), 2, Uuid::ZERO);
    assert!(world.run_until_within(2 * SECOND, || one.links.is_connected(NodeId(2))));
    assert_eq!(call(&world, &one, 2, 1, b"b").unwrap(), "1:b");
    assert_eq!(again.carried_out.get(), 1);
}

#[test]
fn an_idle_connection_stays() {
    let world = World::new(8, Options::default());
    let (one, two) = (site(&world, 1, Uuid::ZERO), site(&world, 2, Uuid::ZERO));
    connect(&one, &[(2, &two)]);
    assert!(world.run_until_within(SECOND, || one.links.is_connected(NodeId(2))));
    let before = one.links.0.lane(NodeId(2)).unwrap();
    world.run_for(10 * SILENCE_MAX);
    let after = one.links.0.lane(NodeId(2)).unwrap();
    assert!(Rc::ptr_eq(&before, &after) && !after.is_closed());
}
