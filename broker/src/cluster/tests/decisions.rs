//! What brokers ask of the controller, over a network that loses and doubles.

use super::{Cluster, SECOND, id, partition};
use crate::cluster::CarryOut;
use crate::cluster::command::{Forwarded, Forwarding, MetadataCommand, MetadataError};
use bytes::Bytes;
use logmill_state::admission::authorizer::{Principal, RequestContext};
use logmill_state::metadata::NewTopic;
use logmill_state::partition::{AlterPartition, AlterPartitionOutcome};
use logmill_wire::error_codes::ErrorCode;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

const SEEDS: std::ops::Range<u64> = 1..5;

fn missing(name: &str) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        partition_count: -1,
        replication_factor: -1,
        assignments: Vec::new(),
        configs: vec![("cleanup.policy".to_owned(), Some("compact".to_owned()))],
    }
}

#[test]
fn missing_topics_are_created_and_seen_where_they_were_missed() {
    for seed in SEEDS {
        let cluster = Cluster::of_three(seed);
        cluster.network.loss.set(0.2);
        cluster.network.doubling.set(0.2);
        for node in 0..3 {
            let name = format!("topic{node}");
            let topics = vec![missing(&name), missing("not a name")];
            let created =
                cluster.answer(node, |reply| MetadataCommand::CreateMissingTopics { topics, reply }).unwrap();
            assert_eq!((created[0].name.as_str(), &created[0].refusal), (name.as_str(), &None));
            let refusal = created[1].refusal.as_ref().map(|(code, _)| *code);
            assert_eq!(refusal, Some(ErrorCode::InvalidTopicException));
            let shown = cluster.nodes[node].borrow().published.clone().unwrap();
            let topic = shown.topic_by_name(&name).expect("it is in this node's image");
            assert_eq!(topic.configs.get("cleanup.policy").map(String::as_str), Some("compact"));
        }
    }
}

#[test]
fn no_two_brokers_get_the_same_producer_ids() {
    for seed in SEEDS {
        let cluster = Cluster::of_three(seed);
        cluster.network.loss.set(0.2);
        cluster.network.doubling.set(0.3);
        let asked: Vec<_> = (0..12)
            .map(|turn| cluster.ask(turn % 3, |reply| MetadataCommand::AllocateProducerIds { reply }))
            .collect();
        cluster.world.run_for(SECOND / 100);
        cluster.kill(cluster.controller().unwrap());
        cluster.wait(20 * SECOND, |_| asked.iter().all(|answer| answer.borrow().is_some()));
        let blocks = asked.iter().filter_map(|answer| answer.take()?.ok()?.ok());
        let mut firsts: Vec<i64> = blocks.map(|block| block.first.0).collect();
        let count = firsts.len();
        assert!(count >= 8, "those of the brokers that live are answered: {count}");
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), count);
    }
}

#[test]
fn proposals_of_in_sync_sets_get_what_becomes_of_them() {
    for seed in SEEDS {
        let cluster = Cluster::of_three(seed);
        cluster.create_topic("orders");
        cluster.network.loss.set(0.2);
        cluster.network.doubling.set(0.2);
        let image = cluster.image();
        let topic = image.topic_by_name("orders").unwrap();
        let mut asked = Vec::new();
        for index in 0..3 {
            let partition = partition(&image, "orders", index);
            let state = image.partition(topic, partition.partition).unwrap();
            let leader = (0..3).find(|&node| id(node) == state.leader).unwrap();
            let other = (leader + 1) % 3;
            let member = |node| (id(node), image.broker(id(node)).unwrap().incarnation);
            let in_sync = vec![member(leader), member(other)];
            let proposal = AlterPartition {
                leader_epoch: state.leader_epoch,
                partition_epoch: state.partition_epoch,
                in_sync,
            };
            // The second goes in another call, and is too late.
            for proposal in [proposal.clone(), proposal] {
                asked.push((
                    leader,
                    other,
                    partition,
                    cluster.ask(leader, |reply| MetadataCommand::AlterPartition {
                        partition,
                        proposal,
                        reply,
                    }),
                ));
            }
        }
        assert!(cluster.wait(20 * SECOND, |_| asked.iter().all(|asked| asked.3.borrow().is_some())));
        for pair in asked.chunks(2) {
            let (leader, other, partition, _) = pair[0];
            let outcomes: Vec<_> = pair.iter().map(|asked| asked.3.take().unwrap()).collect();
            let image = cluster.image();
            let state = image.partition(image.topic_by_name("orders").unwrap(), partition.partition).unwrap();
            match &outcomes[0] {
                AlterPartitionOutcome::Accepted { partition_epoch, in_sync, has_eligible } => {
                    assert_eq!((*partition_epoch, *has_eligible), (state.partition_epoch, false));
                    assert_eq!(in_sync, state.in_sync);
                    assert_eq!(in_sync, &[id(leader), id(other)]);
                    assert_ne!(outcomes[1], outcomes[0]);
                }
                // The answer was lost, or that of a copy came first.
                AlterPartitionOutcome::Unknown | AlterPartitionOutcome::Stale => {}
                AlterPartitionOutcome::Ineligible => panic!("all of them live"),
            }
        }
    }
}

#[test]
fn a_proposal_with_another_incarnation_is_ineligible() {
    let cluster = Cluster::of_three(9);
    cluster.create_topic("orders");
    let image = cluster.image();
    let partition = partition(&image, "orders", 0);
    let state = image.partition(image.topic_by_name("orders").unwrap(), partition.partition).unwrap();
    let leader = (0..3).find(|&node| id(node) == state.leader).unwrap();
    let incarnation = image.broker(state.leader).unwrap().incarnation;
    let in_sync = vec![(state.leader, incarnation), (id((leader + 1) % 3), incarnation)];
    let proposal = AlterPartition { leader_epoch: state.leader_epoch, partition_epoch: 0, in_sync };
    let ask = |node, proposal| {
        cluster.answer(node, |reply| MetadataCommand::AlterPartition { partition, proposal, reply })
    };
    assert_eq!(ask(leader, proposal.clone()), AlterPartitionOutcome::Ineligible);
    let other = (leader + 2) % 3;
    assert_eq!(ask(other, proposal.clone()), AlterPartitionOutcome::Stale, "it does not lead");
    let newer = AlterPartition { partition_epoch: 5, ..proposal };
    assert_eq!(ask(leader, newer), AlterPartitionOutcome::Unknown);
}

fn request(frame: &'static [u8]) -> Forwarded {
    let context = RequestContext {
        listener: "EXTERNAL".into(),
        principal: Principal::user("alice"),
        connection_id: 4,
        client_id: None,
        peer: SocketAddr::from(([10, 0, 0, 9], 4_000)),
    };
    Forwarded { context, frame: Bytes::from_static(frame) }
}

/// Answers with who asked and what.
fn echo(count: &Rc<Cell<u32>>, seen: &Rc<RefCell<Vec<RequestContext>>>) -> CarryOut {
    let (count, seen) = (Rc::clone(count), Rc::clone(seen));
    Rc::new(move |request| {
        count.set(count.get() + 1);
        seen.borrow_mut().push(request.context);
        Box::pin(std::future::ready(Some([b"re: ", &request.frame[..]].concat().into())))
    })
}

#[test]
fn requests_are_carried_out_where_the_controller_is() {
    for seed in SEEDS {
        let (count, seen) = (Rc::default(), Rc::default());
        let cluster = Cluster::new(seed, 3, 3);
        for node in 0..3 {
            cluster.carry_out_with(node, echo(&count, &seen));
            cluster.start(node);
        }
        assert!(cluster.wait(10 * SECOND, |cluster| (0..3).all(|node| cluster.is_started(node))));
        let controller = cluster.controller().unwrap();
        let forward = |node| {
            let request = request(b"make it so");
            cluster.ask(node, |reply| MetadataCommand::Forward { request, reply })
        };
        let here = forward(controller);
        assert!(cluster.wait(SECOND, |_| here.borrow().is_some()));
        assert_eq!((here.take(), count.get()), (Some(Forwarding::Here), 0));
        let (node, other) = ((controller + 1) % 3, (controller + 2) % 3);
        let answered = forward(node);
        assert!(cluster.wait(SECOND, |_| answered.borrow().is_some()));
        let answer = Forwarding::Answered(Bytes::from_static(b"re: make it so"));
        assert_eq!((answered.take(), count.get()), (Some(answer.clone()), 1));
        assert_eq!(*seen.borrow(), [request(b"").context], "whom it speaks for comes with it");

        // While there is no controller it waits for one.
        cluster.kill(controller);
        let waiting = forward(node);
        assert!(cluster.wait(10 * SECOND, |_| waiting.borrow().is_some()));
        assert!([Some(Forwarding::Here), Some(answer)].contains(&waiting.take()));
        // And not for ever.
        cluster.kill(other);
        cluster.world.run_for(2 * SECOND);
        let failing = forward(node);
        assert!(cluster.wait(10 * SECOND, |_| failing.borrow().is_some()));
        assert_eq!(failing.take(), Some(Forwarding::Failed));
        let topics = vec![missing("late")];
        let created = cluster.answer(node, |reply| MetadataCommand::CreateMissingTopics { topics, reply });
        assert!(matches!(created, Err(MetadataError::NotController(None))), "{created:?}");
    }
}

#[test]
fn commands_that_wait_share_a_proposal() {
    let cluster = Cluster::of_three(4);
    let controller = cluster.controller().unwrap();
    let before = cluster.quorum(controller).unwrap().status().applied;
    let asked: Vec<_> = (0..50)
        .map(|number| {
            let topics = vec![missing(&format!("topic{}", number % 25))];
            cluster.ask(controller, |reply| MetadataCommand::CreateTopics {
                topics,
                validate_only: false,
                reply,
            })
        })
        .collect();
    assert!(cluster.wait(5 * SECOND, |_| asked.iter().all(|answer| answer.borrow().is_some())));
    let created = asked.iter().filter(|answer| {
        let results = answer.borrow_mut().take().unwrap().unwrap();
        results[0].result.is_ok()
    });
    assert_eq!(created.count(), 25, "each is decided after those before it");
    let proposals = cluster.quorum(controller).unwrap().status().applied - before;
    assert!(proposals < 10, "{proposals} proposals for 50 commands");
    assert_eq!(cluster.image().topic_count(), 25);
}
