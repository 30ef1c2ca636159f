//! Brokers that start, die, come back and stop; controllers that fail or stand still.

use super::{Cluster, SECOND, SESSION, each_partition, id, leaders};
use crate::cluster::StartError;
use crate::cluster::control_messages::registration_of;
use logmill_state::metadata::{NO_LEADER, RegisterBrokerError};
use logmill_wire::frame::control::{ControlAnswer, ControlRequest, Heartbeat, NO_NODE, RegistrationRefusal};
use logmill_wire::ids::Uuid;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const SEEDS: std::ops::Range<u64> = 1..5;

#[test]
fn brokers_register_and_are_unfenced_once_they_have_the_metadata() {
    for seed in SEEDS {
        let cluster = Cluster::new(seed, 4, 3);
        (0..4).for_each(|node| cluster.start(node));
        let mut was_fenced = false;
        let all_started = cluster.wait(10 * SECOND, |cluster| {
            was_fenced |= cluster.is_fenced(3);
            (0..4).all(|node| cluster.is_started(node))
        });
        assert!(all_started, "the fourth only observes, and is a broker all the same");
        assert!(was_fenced, "it begins fenced");
        for node in 0..4 {
            let shown = cluster.nodes[node].borrow().published.clone().unwrap();
            let broker = shown.broker(id(node)).unwrap();
            assert!(!broker.fenced && broker.directories == [Cluster::directory(node)]);
            assert_eq!(shown.cluster_id(), cluster.image().cluster_id());
        }
    }
}

#[test]
fn a_dead_broker_leads_nothing_until_it_is_back() {
    for seed in SEEDS {
        let cluster = Cluster::of_three(seed);
        cluster.create_topic("orders");
        let dead = (0..3).find(|&node| Some(node) != cluster.controller()).unwrap();
        assert!(leaders(&cluster.image(), "orders").contains(&id(dead)));
        let before = cluster.broker(dead).unwrap().incarnation;
        cluster.kill(dead);
        cluster.world.run_for(SESSION - Duration::from_millis(300));
        assert!(!cluster.is_fenced(dead), "its session is not over");
        assert!(cluster.wait(SESSION, |cluster| cluster.is_fenced(dead)));
        each_partition(&cluster.image(), "orders", |partition| {
            assert!(partition.leader != id(dead) && partition.leader != NO_LEADER);
            assert!(!partition.in_sync.contains(&id(dead)));
        });
        cluster.start(dead);
        assert!(cluster.wait(5 * SECOND, |cluster| cluster.is_started(dead)));
        assert_ne!(cluster.broker(dead).unwrap().incarnation, before);
        assert!(!cluster.is_fenced(dead));
    }
}

#[test]
fn a_broker_that_restarts_at_once_waits_for_its_own_session() {
    let cluster = Cluster::of_three(7);
    let node = (0..3).find(|&node| Some(node) != cluster.controller()).unwrap();
    let began = cluster.world.now();
    cluster.kill(node);
    cluster.start(node);
    assert!(cluster.wait(10 * SECOND, |cluster| cluster.is_started(node)));
    assert!(cluster.world.now() - began > SESSION / 2, "another process with its id might live");
    assert_eq!(cluster.nodes[node].borrow().refused, None);
}

#[test]
fn when_the_controller_dies_nobody_else_is_fenced() {
    for seed in SEEDS {
        let cluster = Cluster::of_three(seed);
        cluster.create_topic("orders");
        let dead = cluster.controller().unwrap();
        cluster.kill(dead);
        let is_over = cluster.wait(10 * SECOND, |cluster| {
            let others_live = (0..3).filter(|&node| node != dead).all(|node| !cluster.is_fenced(node));
            assert!(others_live, "a new controller gives everybody a session");
            cluster.controller().is_some_and(|node| node != dead) && cluster.is_fenced(dead)
        });
        assert!(is_over);
        assert!(!leaders(&cluster.image(), "orders").contains(&id(dead)));
        cluster.world.run_for(3 * SESSION);
        assert!((0..3).filter(|&node| node != dead).all(|node| !cluster.is_fenced(node)));
    }
}

#[test]
fn the_silence_before_a_leadership_counts_for_the_most_part() {
    for seed in SEEDS {
        let cluster = Cluster::of_three(seed);
        let dead = cluster.controller().unwrap();
        cluster.network.silences.borrow_mut().insert(id(dead), 10 * SESSION);
        cluster.kill(dead);
        let is_led =
            cluster.wait(10 * SECOND, |cluster| cluster.controller().is_some_and(|node| node != dead));
        assert!(is_led && !cluster.is_fenced(dead));
        cluster.world.run_for(SESSION / 5);
        assert!(!cluster.is_fenced(dead), "what was not read yet has a third of a session to be read");
        assert!(
            cluster.wait(SESSION / 2, |cluster| cluster.is_fenced(dead)),
            "the rest would be waited for twice"
        );
        cluster.world.run_for(3 * SESSION);
        assert!((0..3).filter(|&node| node != dead).all(|node| !cluster.is_fenced(node)));
    }
}

#[test]
fn a_broker_whose_pings_arrive_has_a_longer_session() {
    let cluster = Cluster::of_three(9);
    let node = (0..3).find(|&node| Some(node) != cluster.controller()).unwrap();
    cluster.network.silences.borrow_mut().insert(id(node), SESSION / 4);
    cluster.kill(node);
    assert!(!cluster.wait(3 * SESSION, |cluster| cluster.is_fenced(node)), "it is slow, not silent");
    assert!(cluster.wait(2 * SESSION, |cluster| cluster.is_fenced(node)), "pings alone are no life");
    cluster.network.silences.borrow_mut().insert(id(node), 2 * SESSION);
    cluster.start(node);
    assert!(cluster.wait(10 * SECOND, |cluster| cluster.is_started(node)));
    cluster.kill(node);
    assert!(cluster.wait(SESSION * 3 / 2, |cluster| cluster.is_fenced(node)));
}

#[test]
fn another_controller_leads_at_once_where_the_end_of_the_first_is_known() {
    for seed in SEEDS {
        let cluster = Cluster::of_three(seed);
        let dead = cluster.controller().unwrap();
        let term = cluster.quorum(dead).unwrap().status().term;
        cluster.kill(dead);
        let others = || (0..3).filter(|&node| node != dead);
        others().for_each(|node| cluster.quorum(node).unwrap().is_gone(id(dead)));
        let is_led =
            cluster.wait(SECOND / 5, |cluster| cluster.controller().is_some_and(|node| node != dead));
        assert!(is_led, "a silent leader would have been waited for a second");
        // One that lives is not replaced because somebody thinks otherwise.
        let second = cluster.controller().unwrap();
        let third = others().find(|&node| node != second).unwrap();
        cluster.start(dead);
        cluster.world.run_for(SECOND);
        cluster.quorum(third).unwrap().is_gone(id(second));
        cluster.world.run_for(2 * SECOND);
        assert_eq!(cluster.controller(), Some(second));
        let now = cluster.quorum(second).unwrap().status().term;
        assert!(now > term && now <= term + 2, "term {now} after {term}");
    }
}

#[test]
fn a_controller_that_stood_still_fences_nobody() {
    for seed in SEEDS {
        // It is the only voter, so nobody takes over.
        let cluster = Cluster::new(seed, 3, 1);
        (0..3).for_each(|node| cluster.start(node));
        assert!(cluster.wait(10 * SECOND, |cluster| (0..3).all(|node| cluster.is_started(node))));
        let incarnations: Vec<_> = (0..3).map(|node| cluster.broker(node).unwrap().incarnation).collect();
        // What they say meanwhile is lost.
        (1..3).for_each(|node| cluster.network.cut(id(node), id(0)));
        cluster.hosts[0].pause();
        cluster.world.run_for(10 * SESSION);
        cluster.hosts[0].resume();
        cluster.network.mend();
        assert!(cluster.wait(SECOND, |cluster| cluster.controller() == Some(0)));
        let anybody_fenced = cluster.wait(3 * SESSION, |cluster| (0..3).any(|node| cluster.is_fenced(node)));
        assert!(!anybody_fenced);
        let now: Vec<_> = (0..3).map(|node| cluster.broker(node).unwrap().incarnation).collect();
        assert_eq!(now, incarnations);
        // And who is gone is found out all the same.
        cluster.kill(2);
        assert!(cluster.wait(3 * SESSION, |cluster| cluster.is_fenced(2)));
    }
}

#[test]
fn who_is_cut_off_is_fenced_and_comes_back_as_the_same() {
    let cluster = Cluster::of_three(3);
    let node = (0..3).find(|&node| Some(node) != cluster.controller()).unwrap();
    let before = cluster.broker(node).unwrap().incarnation;
    for other in (0..3).filter(|&other| other != node) {
        cluster.network.cut(id(node), id(other));
        cluster.network.cut(id(other), id(node));
    }
    assert!(cluster.wait(5 * SECOND, |cluster| cluster.is_fenced(node)));
    cluster.network.mend();
    assert!(cluster.wait(5 * SECOND, |cluster| !cluster.is_fenced(node)));
    assert_eq!(cluster.broker(node).unwrap().incarnation, before);
    assert_eq!(cluster.nodes[node].borrow().ended, None);
}

#[test]
fn a_second_process_with_the_id_of_a_live_broker_is_refused() {
    let cluster = Cluster::of_three(5);
    let controller = cluster.controller().unwrap();
    let node = (0..3).find(|&node| node != controller).unwrap();
    let mut second = cluster.broker_start(node);
    second.registration.incarnation = Uuid([77; 16]);
    let cluster_id = cluster.image().cluster_id().unwrap();
    second.registration.cluster_id = cluster_id;
    let register = |start| ControlRequest::Register(registration_of(start));
    let refused = |refusal| Some(ControlAnswer::RegistrationRefused(refusal));
    cluster.world.run_for(SECOND);
    let answer = cluster.call(node, controller, &register(&second));
    assert_eq!(answer, refused(RegistrationRefusal::Duplicate));
    let answer = cluster.call(controller, controller, &register(&second));
    assert_eq!(answer, Some(ControlAnswer::NotUnderstood), "nobody speaks for another one");

    let mut stranger = second.clone();
    stranger.registration.cluster_id = Uuid([1; 16]);
    let answer = cluster.call(node, controller, &register(&stranger));
    let expected = Some(cluster_id.0);
    assert_eq!(answer, refused(RegistrationRefusal::InconsistentClusterId(expected)));

    // Once the first is silent, the second takes its place, and the first ends when it hears of it.
    let others: Vec<_> = (0..3).filter(|&other| other != node).collect();
    others.iter().for_each(|&other| cluster.network.cut(id(node), id(other)));
    assert!(cluster.wait(5 * SECOND, |cluster| cluster.is_fenced(node)));
    cluster.network.mend();
    let answer = cluster.call(node, controller, &register(&second));
    if !matches!(answer, Some(ControlAnswer::Registered(_))) {
        // The first may have been heard from again before.
        assert_eq!(answer, refused(RegistrationRefusal::Duplicate));
        return;
    }
    assert!(cluster.wait(5 * SECOND, |cluster| cluster.nodes[node].borrow().ended.is_some()));
    let stale =
        Heartbeat { broker_id: id(node).0, incarnation: [3; 16], applied: u64::MAX, wants_shutdown: false };
    let answer = cluster.call(node, controller, &ControlRequest::Heartbeat(stale));
    assert_eq!(answer, Some(ControlAnswer::StaleIncarnation));
}

#[test]
fn who_belongs_to_another_cluster_does_not_start() {
    let cluster = Cluster::new(2, 1, 1);
    cluster.start(0);
    assert!(cluster.wait(5 * SECOND, |cluster| cluster.is_started(0)));
    let mut start = cluster.broker_start(0);
    start.registration.cluster_id = Uuid([9; 16]);
    let plane = cluster.plane(0);
    let refused = cluster.world.block_on(&cluster.runtime(0), async move { plane.register(start).await });
    let expected = cluster.image().cluster_id();
    let error = RegisterBrokerError::InconsistentClusterId { expected };
    assert_eq!(refused, Err(StartError::Refused(error)));
}

#[test]
fn who_stops_hands_over_first() {
    for seed in SEEDS {
        let cluster = Cluster::of_three(seed);
        cluster.create_topic("orders");
        // The controller's own broker too.
        for node in [cluster.controller().unwrap(), (cluster.controller().unwrap() + 1) % 3] {
            assert!(cluster.image().brokers().filter(|broker| broker.is_active()).count() >= 2);
            let (plane, done) = (cluster.plane(node), Rc::new(Cell::new(None)));
            let told = Rc::clone(&done);
            let runtime = cluster.runtime(node);
            crate::runtime::Runtime::spawn(&runtime, async move {
                told.set(Some(plane.shut_down(5 * SECOND).await));
            });
            assert!(cluster.wait(6 * SECOND, |_| done.get().is_some()));
            assert_eq!(done.get(), Some(true));
            assert!(cluster.is_fenced(node) && cluster.broker(node).unwrap().in_controlled_shutdown);
            assert!(!leaders(&cluster.image(), "orders").contains(&id(node)));
            assert!(!leaders(&cluster.image(), "orders").contains(&NO_LEADER));
            if Some(node) == cluster.controller() {
                continue;
            }
            cluster.kill(node);
            cluster.start(node);
            assert!(cluster.wait(5 * SECOND, |cluster| cluster.is_started(node)), "it need not wait");
            assert!(cluster.broker(node).unwrap().is_active());
        }
    }
}

#[test]
fn who_has_nobody_to_hand_over_to_does_not_wait() {
    let cluster = Cluster::new(2, 1, 1);
    cluster.start(0);
    assert!(cluster.wait(5 * SECOND, |cluster| cluster.is_started(0)));
    assert!(!cluster.is_fenced(0));
    let (plane, began) = (cluster.plane(0), cluster.world.now());
    assert!(cluster.world.block_on(&cluster.runtime(0), async move { plane.shut_down(60 * SECOND).await }));
    assert!(cluster.world.now() - began < SECOND);
}

#[test]
fn who_is_not_the_controller_says_who_is() {
    let cluster = Cluster::of_three(11);
    let controller = cluster.controller().unwrap();
    let node = (controller + 1) % 3;
    let answer = cluster.call(controller, node, &ControlRequest::AllocateProducerIds(id(controller).0));
    assert!(matches!(answer, Some(ControlAnswer::NotController(leader)) if leader == id(controller).0));
    cluster.kill(controller);
    cluster.kill((controller + 2) % 3);
    assert!(cluster.wait(10 * SECOND, |cluster| {
        cluster.call(node, node, &ControlRequest::AllocateProducerIds(id(node).0))
            == Some(ControlAnswer::NotController(NO_NODE))
    }));
}

#[test]
fn whose_host_refuses_connections_is_fenced_at_once() {
    for seed in SEEDS {
        let cluster = Cluster::of_three(seed);
        cluster.network.tells_of_ends.set(true);
        cluster.create_topic("orders");
        cluster.world.run_for(SECOND);
        assert!((0..3).all(|node| !cluster.is_fenced(node)));
        let dead = (cluster.controller().unwrap() + 1) % 3;
        cluster.kill(dead);
        // The host is up, its process is not.
        cluster.hosts[dead].restart();
        assert!(cluster.wait(SESSION / 4, |cluster| cluster.is_fenced(dead)));
        assert!(!leaders(&cluster.image(), "orders").contains(&id(dead)));
        cluster.start(dead);
        assert!(cluster.wait(SECOND, |cluster| cluster.is_started(dead)), "it need not wait either");
        // The controller's own broker is found out by the next one.
        let dead = cluster.controller().unwrap();
        cluster.kill(dead);
        cluster.hosts[dead].restart();
        assert!(cluster.wait(5 * SECOND, |cluster| cluster.controller().is_some_and(|node| node != dead)));
        assert!(cluster.wait(SESSION / 4, |cluster| cluster.is_fenced(dead)));
    }
}

#[test]
fn silence_alone_is_no_refusal() {
    let cluster = Cluster::of_three(6);
    cluster.network.tells_of_ends.set(true);
    let controller = cluster.controller().unwrap();
    let node = (controller + 1) % 3;
    cluster.world.run_for(SESSION / 2);
    // Its listener answers, or nothing does.
    cluster.network.cut(id(controller), id(node));
    cluster.world.run_for(SESSION / 2);
    assert!(!cluster.is_fenced(node));
    cluster.network.mend();
    cluster.world.run_for(SESSION);
    cluster.world.cut(&cluster.hosts[controller], &cluster.hosts[node]);
    cluster.hosts[node].pause();
    cluster.network.cut(id(controller), id(node));
    cluster.world.run_for(SESSION * 7 / 10);
    assert!(!cluster.is_fenced(node));
    assert!(cluster.wait(2 * SESSION, |cluster| cluster.is_fenced(node)));
}
