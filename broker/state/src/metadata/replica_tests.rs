//! Decisions about partitions with several replicas.

use std::collections::{BTreeMap, BTreeSet};

use logmill_wire::ids::{LeaderEpoch, MonotonicNs, NodeId, PartitionIndex, TopicPartition, Uuid};

use super::*;

const CLUSTER: Uuid = Uuid([9; 16]);
const TOPIC: Uuid = Uuid([8; 16]);
const PARTITION: TopicPartition = TopicPartition { topic_id: TOPIC, partition: PartitionIndex(0) };

/// `min.insync.replicas`, and whether unclean elections are allowed and writes cached.
#[derive(Clone, Copy)]
struct Rules {
    min_in_sync: u32,
    unclean: bool,
    write_caching: bool,
}

const RULES: Rules = Rules { min_in_sync: 2, unclean: false, write_caching: false };

fn with_rules<T>(rules: Rules, decide: impl FnOnce(&ControllerContext<'_>) -> T) -> T {
    decide(&ControllerContext {
        min_in_sync: &|_| rules.min_in_sync,
        unclean_election: &|_| rules.unclean,
        write_caching: &|_| rules.write_caching,
    })
}

fn incarnation(node: i32) -> Uuid {
    Uuid([node as u8 + 1; 16])
}

fn start(node: i32, incarnation: Uuid) -> BrokerStart {
    let endpoint = Endpoint { listener: "R".to_owned(), host: "h".to_owned(), port: 1, security_protocol: 0 };
    BrokerStart {
        registration: BrokerRegistration {
            broker_id: NodeId(node),
            cluster_id: CLUSTER,
            incarnation,
            rack: None,
            endpoints: vec![endpoint],
        },
        directories: vec![Uuid([node as u8 + 100; 16])],
        logs: Vec::new(),
        lost_writes: false,
        starts_fenced: true,
    }
}

fn commit(image: &mut Image, records: &[Record]) {
    for record in records {
        assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(record));
        image.apply(record).unwrap();
    }
    let mut restored = Image::default();
    image.to_records().for_each(|record| restored.apply(&record).unwrap());
    assert_eq!(&restored, image, "a snapshot gives the same image");
}

/// Brokers 0 to 4, all alive, and a partition on 0, 1 and 2.
fn image() -> Image {
    let mut image = Image::default();
    commit(&mut image, &[Record::ClusterIdMinted { cluster_id: CLUSTER }]);
    for node in 0..5 {
        let start = BrokerStart { starts_fenced: false, ..start(node, incarnation(node)) };
        let plan = with_rules(RULES, |context| image.decide_broker_start(&start, false, context)).unwrap();
        commit(&mut image, &plan.records);
    }
    let placement = vec![PlacementRun {
        partition_count: 2,
        leader_epoch: LeaderEpoch(0),
        replicas: vec![NodeId(0), NodeId(1), NodeId(2)],
    }];
    let (name, configs) = ("t".to_owned(), BTreeMap::new());
    commit(&mut image, &[Record::TopicCreated { topic_id: TOPIC, name, configs, placement }]);
    image
}

fn state(image: &Image) -> PartitionState {
    image.partition(image.topic_by_id(TOPIC).unwrap(), PARTITION.partition).unwrap().to_state()
}

fn nodes(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|node| node.0).collect()
}

/// Leader, in-sync set, eligible replicas.
fn led(image: &Image) -> (i32, Vec<i32>, Vec<i32>) {
    let state = state(image);
    (state.leader.0, nodes(&state.in_sync), nodes(&state.eligible))
}

fn fence(image: &mut Image, node: i32, rules: Rules) -> Vec<Elected> {
    let plan = with_rules(rules, |context| image.decide_fence_broker(NodeId(node), context));
    commit(image, &plan.records);
    plan.elected.into_iter().filter(|elected| elected.partition == PARTITION).collect()
}

fn unfence(image: &mut Image, node: i32) {
    let plan =
        with_rules(RULES, |context| image.decide_unfence_broker(NodeId(node), incarnation(node), context))
            .unwrap();
    commit(image, &plan.records);
}

fn propose(image: &Image, members: &[i32]) -> InSyncProposal {
    let state = state(image);
    InSyncProposal {
        partition: PARTITION,
        leader_epoch: state.leader_epoch,
        partition_epoch: state.partition_epoch,
        in_sync: members.iter().map(|&node| (NodeId(node), incarnation(node))).collect(),
    }
}

fn alter(image: &mut Image, proposal: &InSyncProposal) -> Result<PartitionState, InSyncError> {
    let sender = state(image).leader;
    let proposals = std::slice::from_ref(proposal);
    let decided = with_rules(RULES, |context| {
        image.decide_alter_partition((sender, incarnation(sender.0)), proposals, context)
    });
    let mut decided = decided.unwrap();
    commit(image, &decided.plan.records);
    decided.results.remove(0)
}

#[test]
fn leaders_are_taken_from_the_in_sync_then_from_the_eligible() {
    let mut image = image();
    let elected = fence(&mut image, 0, RULES);
    assert_eq!(led(&image), (1, vec![1, 2], vec![]), "two are enough: nobody else is eligible");
    assert_eq!(elected, [Elected { partition: PARTITION, leader: NodeId(1), is_unclean: false }]);
    assert_eq!((state(&image).leader_epoch, state(&image).partition_epoch), (LeaderEpoch(1), 1));
    fence(&mut image, 1, RULES);
    assert_eq!(led(&image), (2, vec![2], vec![1]));
    let elected = fence(&mut image, 2, RULES);
    assert_eq!(led(&image), (-1, vec![], vec![1, 2]));
    assert_eq!(elected[0].leader, NO_LEADER);
    unfence(&mut image, 0);
    assert_eq!(led(&image), (-1, vec![], vec![1, 2]), "what it missed may have been committed");
    unfence(&mut image, 1);
    assert_eq!(led(&image), (1, vec![1], vec![2]));
    let epoch = state(&image).leader_epoch;
    assert_eq!(epoch, LeaderEpoch(4), "every change of the leader has its epoch");
    unfence(&mut image, 2);
    assert_eq!(state(&image).leader_epoch, epoch);
}

#[test]
fn an_eligible_leader_that_is_enough_leaves_nobody_eligible() {
    let mut image = image();
    for node in 0..3 {
        fence(&mut image, node, RULES);
    }
    assert_eq!(led(&image).2, [1, 2]);
    let alone = Rules { min_in_sync: 1, ..RULES };
    let plan = with_rules(alone, |context| image.decide_unfence_broker(NodeId(1), incarnation(1), context));
    commit(&mut image, &plan.unwrap().records);
    assert_eq!(led(&image), (1, vec![1], vec![]), "it commits without the others");
}

#[test]
fn records_are_lost_only_when_that_is_asked_for_or_allowed() {
    let mut image = image();
    let alone = Rules { min_in_sync: 1, ..RULES };
    fence(&mut image, 0, alone);
    fence(&mut image, 1, alone);
    let allowed = Rules { unclean: true, ..alone };
    assert_eq!(fence(&mut image, 2, alone)[0].leader, NO_LEADER);
    unfence(&mut image, 0);
    assert_eq!(led(&image), (-1, vec![], vec![2]));
    let ask = |image: &Image, election| {
        let decided =
            with_rules(alone, |context| image.decide_elect_leaders(Some(&[PARTITION]), election, context));
        (decided.results[0].1, decided.plan)
    };
    assert_eq!(ask(&image, ElectionType::Preferred).0, Err(ElectLeaderError::PreferredNotAvailable));
    let (result, plan) = ask(&image, ElectionType::Unclean);
    assert_eq!(result, Ok(()));
    assert_eq!(plan.elected, [Elected { partition: PARTITION, leader: NodeId(0), is_unclean: true }]);
    let mut asked = image.clone();
    commit(&mut asked, &plan.records);
    assert_eq!(led(&asked), (0, vec![0], vec![]));
    assert_eq!(ask(&asked, ElectionType::Unclean).0, Err(ElectLeaderError::NotNeeded));
    let plan = with_rules(allowed, |context| image.decide_unfence_broker(NodeId(1), incarnation(1), context));
    assert!(plan.unwrap().elected.iter().any(|elected| elected.is_unclean && elected.leader == NodeId(0)));
}

#[test]
fn a_proposal_is_checked_epochs_first() {
    let mut image = image();
    let fresh = propose(&image, &[0, 1]);
    for (wrong, error) in [
        (InSyncProposal { leader_epoch: LeaderEpoch(1), ..fresh.clone() }, InSyncError::NewerThanThis),
        (InSyncProposal { partition_epoch: 1, ..fresh.clone() }, InSyncError::NewerThanThis),
        (propose(&image, &[1, 2]), InSyncError::InvalidRequest),
        (propose(&image, &[0, 3]), InSyncError::InvalidRequest),
        (propose(&image, &[0, 1, 1]), InSyncError::InvalidRequest),
        (
            InSyncProposal { partition: TopicPartition { topic_id: CLUSTER, ..PARTITION }, ..fresh.clone() },
            InSyncError::UnknownPartition,
        ),
    ] {
        assert_eq!(alter(&mut image.clone(), &wrong), Err(error), "{wrong:?}");
    }
    assert_eq!(alter(&mut image, &fresh).unwrap().partition_epoch, 1);
    assert_eq!(alter(&mut image, &fresh), Err(InSyncError::InvalidUpdateVersion));
    let again = propose(&image, &[0, 1]);
    assert_eq!(
        alter(&mut image, &again).unwrap().partition_epoch,
        2,
        "the same set voids other proposals too"
    );
    let mut stale = propose(&image, &[0, 1, 2]);
    stale.in_sync[2].1 = Uuid([77; 16]);
    assert_eq!(alter(&mut image, &stale), Err(InSyncError::Ineligible { node: NodeId(2) }), "KIP-903");
    let whole = propose(&image, &[0, 1, 2]);
    fence(&mut image, 2, RULES);
    assert_eq!(alter(&mut image, &whole), Err(InSyncError::Ineligible { node: NodeId(2) }), "KIP-841");
    unfence(&mut image, 2);
    assert!(alter(&mut image, &whole).is_ok());
    fence(&mut image, 0, RULES);
    let late = InSyncProposal { leader_epoch: LeaderEpoch(0), ..propose(&image, &[1, 2]) };
    assert_eq!(alter(&mut image, &late), Err(InSyncError::FencedLeaderEpoch));
    let other = with_rules(RULES, |context| {
        image.decide_alter_partition((NodeId(1), incarnation(0)), &[propose(&image, &[1])], context)
    });
    assert_eq!(other, Err(BrokerError::StaleIncarnation));
}

#[test]
fn who_lost_records_is_neither_in_sync_nor_eligible() {
    let image = image();
    let restarted = |rules: Rules, change: &dyn Fn(&mut BrokerStart)| {
        let mut image = image.clone();
        fence(&mut image, 2, rules);
        fence(&mut image, 1, rules);
        assert_eq!(led(&image), (0, vec![0], vec![1]));
        let mut start = BrokerStart { starts_fenced: false, ..start(1, Uuid([50; 16])) };
        change(&mut start);
        let plan = with_rules(rules, |context| image.decide_broker_start(&start, false, context)).unwrap();
        commit(&mut image, &plan.records);
        led(&image).2
    };
    assert_eq!(restarted(RULES, &|_| {}), [1]);
    assert_eq!(restarted(RULES, &|start| start.lost_writes = true), [1], "what it said was durable");
    let caching = Rules { write_caching: true, ..RULES };
    assert_eq!(restarted(caching, &|start| start.lost_writes = true), [0; 0]);
    assert_eq!(restarted(RULES, &|start| start.directories = vec![Uuid([99; 16])]), [0; 0]);
    assert_eq!(restarted(RULES, &|start| start.directories.push(Uuid([99; 16]))), [1], "one more is no loss");
}

/// Broker 1 is registered with the `known` directories, and eligible for both partitions, when it starts with those that
/// were `found`, with these logs. Whether it is still eligible, by partition; it says the same if the first `committed`
/// records of its start are committed alone, and it asks again.
fn eligible_after(known: &[Uuid], found: &[(Uuid, &[i32])]) -> [bool; 2] {
    let mut image = image();
    let register = |image: &Image, start: &BrokerStart| {
        with_rules(RULES, |context| image.decide_broker_start(start, false, context)).unwrap().records
    };
    let before = BrokerStart { starts_fenced: false, ..start(1, Uuid([49; 16])) };
    let records = register(&image, &BrokerStart { directories: known.to_vec(), ..before });
    commit(&mut image, &records);
    fence(&mut image, 2, RULES);
    fence(&mut image, 1, RULES);
    let log = |index: &i32| TopicPartition { topic_id: TOPIC, partition: PartitionIndex(*index) };
    let logs_of = |logs: &[i32]| logs.iter().map(log).collect();
    let logs = found.iter().map(|(id, logs)| DirectoryLogs { directory: *id, logs: logs_of(logs) });
    let directories = found.iter().map(|(id, _)| *id).collect();
    let again = BrokerStart { directories, logs: logs.collect(), ..start(1, Uuid([50; 16])) };
    let records = register(&image, &again);
    let mut all = Vec::new();
    for committed in 0..=records.len() {
        let mut image = image.clone();
        commit(&mut image, &records[..committed]);
        let rest = register(&image, &again);
        commit(&mut image, &rest);
        let eligible: Vec<_> =
            states(&image).iter().map(|state| state.eligible.contains(&NodeId(1))).collect();
        assert_eq!(image.broker(NodeId(1)).unwrap().directories, again.directories);
        all.push([eligible[0], eligible[1]]);
    }
    assert!(all.iter().all(|eligible| *eligible == all[0]), "{all:?}");
    all[0]
}

#[test]
fn a_directory_that_is_missing_takes_only_what_may_have_been_in_it() {
    let (first, second, other) = (Uuid([101; 16]), Uuid([98; 16]), Uuid([97; 16]));
    let both = [first, second];
    assert_eq!(eligible_after(&both, &[(first, &[0]), (second, &[1])]), [true, true]);
    assert_eq!(eligible_after(&both, &[(first, &[0])]), [true, false]);
    assert_eq!(eligible_after(&both, &[(first, &[0]), (other, &[])]), [true, false], "a new disk is empty");
    assert_eq!(eligible_after(&both, &[(first, &[])]), [false, false], "nobody knows where they were");
    // What the broker had no use of in its run before may be older than what is missing.
    assert_eq!(eligible_after(&[first], &[(second, &[0, 1])]), [false, false]);
    assert_eq!(eligible_after(&both, &[(first, &[0]), (other, &[1])]), [true, false]);
    // Two logs of one partition: of an older one that comes back nobody would know later that it is one.
    assert_eq!(eligible_after(&[first], &[(first, &[0, 1]), (second, &[0])]), [false, true]);
    assert_eq!(eligible_after(&[first, other], &[(first, &[0, 1]), (second, &[0])]), [false, true]);
    assert_eq!(eligible_after(&both, &[(first, &[0, 1]), (second, &[0])]), [true, true]);
}

#[test]
fn replicas_in_a_log_directory_that_failed_are_offline_until_another_process_registers() {
    let mut image = image();
    let fail = |image: &mut Image, rules: Rules, node: i32, incarnation: Uuid| {
        let partitions = BTreeSet::from([PARTITION]);
        let plan = with_rules(rules, |context| {
            image.decide_replicas_offline((NodeId(node), incarnation), &partitions, context)
        });
        plan.map(|plan| {
            commit(image, &plan.records);
            plan.records.len()
        })
    };
    assert_eq!(fail(&mut image, RULES, 0, Uuid([77; 16])), Err(BrokerError::StaleIncarnation));
    assert_eq!(fail(&mut image, RULES, 0, incarnation(0)), Ok(2));
    assert_eq!(led(&image), (1, vec![1, 2], vec![]));
    assert!(image.broker(NodeId(0)).unwrap().is_active());
    let other = TopicPartition { partition: PartitionIndex(1), ..PARTITION };
    assert_eq!(image.located(other).unwrap().1.leader, NodeId(0), "it lies in another directory");
    assert_eq!(fail(&mut image, RULES, 0, incarnation(0)), Ok(0), "said again, nothing changes");
    // Its ends may still be known from before: it is not taken back, nor does it lead as the first one.
    let back = propose(&image, &[1, 2, 0]);
    assert_eq!(alter(&mut image, &back), Err(InSyncError::Ineligible { node: NodeId(0) }));
    let is_active = |image: &Image| image.replica_assignment(PARTITION).unwrap().replicas[0].is_active;
    assert!(!is_active(&image));
    assert_eq!(fail(&mut image, RULES, 3, incarnation(3)), Ok(0), "it has no such replica");
    let cached = |image: &Image| {
        let mut image = image.clone();
        let caching = Rules { write_caching: true, ..RULES };
        assert_eq!(fail(&mut image, caching, 1, incarnation(1)), Ok(2));
        led(&image)
    };
    assert_eq!(cached(&image), (2, vec![2], vec![]), "what was only written may be gone");
    // The last ones that have everything are not forgotten, and nobody leads who cannot.
    assert_eq!(fail(&mut image, RULES, 1, incarnation(1)), Ok(2));
    assert_eq!(led(&image), (2, vec![2], vec![1]));
    assert_eq!(fail(&mut image, RULES, 2, incarnation(2)), Ok(2));
    assert_eq!(led(&image), (-1, vec![], vec![1, 2]));
    unfence(&mut image, 1);
    let resumed = with_rules(RULES, |context| image.decide_resume(context));
    assert_eq!(resumed, PartitionPlan::default(), "no other controller elects one of them");
    // A start with the disk as it was, and one with an empty one.
    let restarted = |directory: u8| {
        let mut image = image.clone();
        let directories = vec![Uuid([directory; 16])];
        let again = BrokerStart { starts_fenced: false, directories, ..start(1, Uuid([50; 16])) };
        let plan = with_rules(RULES, |context| image.decide_broker_start(&again, false, context)).unwrap();
        commit(&mut image, &plan.records);
        (image.broker(NodeId(1)).unwrap().offline.len(), led(&image))
    };
    assert_eq!(restarted(101), (0, (1, vec![1], vec![2])));
    assert_eq!(restarted(99), (0, (-1, vec![], vec![2])));
    // The same process that asks again has not got another disk.
    let again = BrokerStart { starts_fenced: false, ..start(1, incarnation(1)) };
    let plan = with_rules(RULES, |context| image.decide_broker_start(&again, false, context)).unwrap();
    commit(&mut image, &plan.records);
    assert_eq!((image.broker(NodeId(1)).unwrap().offline.len(), led(&image).0), (1, -1));
}

#[test]
fn a_power_cut_of_all_leaves_the_partition_to_the_last() {
    let caching = Rules { write_caching: true, ..RULES };
    let mut image = image();
    for node in [1, 0, 2] {
        let start = BrokerStart { lost_writes: true, ..start(node, Uuid([50 + node as u8; 16])) };
        let plan = with_rules(caching, |context| image.decide_broker_start(&start, false, context)).unwrap();
        commit(&mut image, &plan.records);
    }
    assert_eq!(led(&image), (-1, vec![], vec![2]), "nobody has more than the last");
    for (node, leader) in [(0, NO_LEADER), (2, NodeId(2))] {
        let new = Uuid([50 + node as u8; 16]);
        let plan = with_rules(caching, |context| image.decide_unfence_broker(NodeId(node), new, context));
        commit(&mut image, &plan.unwrap().records);
        assert_eq!(state(&image).leader, leader);
    }
    assert_eq!(led(&image).1, [2]);
}

fn states(image: &Image) -> Vec<PartitionState> {
    let topic = image.topic_by_id(TOPIC).unwrap();
    (0..2).map(|index| image.partition(topic, PartitionIndex(index)).unwrap().to_state()).collect()
}

#[test]
fn a_registration_that_was_committed_in_part_is_finished_when_it_is_asked_again() {
    for has_lost in [false, true] {
        let mut new = start(1, Uuid([50; 16]));
        if has_lost {
            new.directories = vec![Uuid([99; 16])];
        }
        let mut before = image();
        fence(&mut before, 2, Rules { min_in_sync: 3, ..RULES });
        let rules = Rules { min_in_sync: 3, ..RULES };
        let decide = |image: &Image| {
            with_rules(rules, |context| image.decide_broker_start(&new, false, context)).unwrap().records
        };
        let records = decide(&before);
        assert_eq!(records.len(), if has_lost { 5 } else { 4 });
        for end in 2..records.len() {
            let mut part = before.clone();
            commit(&mut part, &records[..end]);
            assert!(part.broker(NodeId(1)).unwrap().fenced, "nobody elects it");
            let again = decide(&part);
            commit(&mut part, &again);
            assert_eq!(part.broker(NodeId(1)).unwrap().directories, new.directories);
            for state in states(&part) {
                assert_eq!(nodes(&state.in_sync), [0], "after {end}");
                assert_eq!(state.eligible.contains(&NodeId(1)), !has_lost, "after {end}");
            }
        }
    }
}

#[test]
fn what_a_controller_left_half_done_is_finished_by_the_next_one() {
    let resume = |image: &Image| with_rules(RULES, |context| image.decide_resume(context)).records;
    let before = image();
    assert_eq!(resume(&before), []);
    let fenced = with_rules(RULES, |context| before.decide_fence_broker(NodeId(0), context)).records;
    let unregistered =
        with_rules(RULES, |context| before.decide_unregister_broker(NodeId(0), context)).unwrap().records;
    for records in [fenced, unregistered] {
        let mut whole = before.clone();
        commit(&mut whole, &records);
        assert_eq!((records.len(), resume(&whole)), (3, vec![]));
        for end in 1..records.len() {
            let mut part = before.clone();
            commit(&mut part, &records[..end]);
            let rest = resume(&part);
            commit(&mut part, &rest);
            assert_eq!(states(&part), states(&whole), "after {end}");
        }
    }
    let mut none = before;
    for node in 0..3 {
        fence(&mut none, node, RULES);
    }
    assert_eq!(resume(&none), [], "nobody can lead");
    let eligible = state(&none).eligible[0];
    let back =
        with_rules(RULES, |context| none.decide_unfence_broker(eligible, incarnation(eligible.0), context));
    commit(&mut none, &back.unwrap().records[..1]);
    assert_eq!(state(&none).leader, NO_LEADER);
    let rest = resume(&none);
    commit(&mut none, &rest);
    assert!(states(&none).iter().all(|state| state.leader == eligible));
}

#[test]
fn a_restarted_leader_leads_in_a_new_epoch_or_not_at_all() {
    let mut image = image();
    let again = BrokerStart { starts_fenced: false, ..start(0, Uuid([50; 16])) };
    let plan = with_rules(RULES, |context| image.decide_broker_start(&again, false, context)).unwrap();
    assert_eq!(plan.records.len(), 1, "one record, however many partitions it leads");
    commit(&mut image, &plan.records);
    assert_eq!((state(&image).leader, state(&image).leader_epoch), (NodeId(0), LeaderEpoch(1)));
    let fenced = start(0, Uuid([51; 16]));
    let plan = with_rules(RULES, |context| image.decide_broker_start(&fenced, false, context)).unwrap();
    commit(&mut image, &plan.records);
    assert_eq!(led(&image), (1, vec![1, 2], vec![]));
    assert_eq!(state(&image).leader_epoch, LeaderEpoch(3), "one for the incarnation, one for the leader");
}

#[test]
fn a_shutdown_hands_over_what_others_can_lead() {
    let mut image = image();
    let shut_down = |image: &mut Image, node: i32| {
        let shutdown = with_rules(RULES, |context| {
            image.decide_controlled_shutdown(NodeId(node), incarnation(node), context)
        });
        let shutdown = shutdown.unwrap();
        commit(image, &shutdown.plan.records);
        shutdown.still_leads
    };
    assert_eq!(shut_down(&mut image, 0), 0);
    assert_eq!(led(&image), (1, vec![1, 2], vec![]));
    assert_eq!(shut_down(&mut image, 1), 0);
    assert_eq!(shut_down(&mut image, 2), 2, "nobody else can lead its two partitions");
    assert_eq!(led(&image), (2, vec![2], vec![1]));
    let wrong =
        with_rules(RULES, |context| image.decide_controlled_shutdown(NodeId(2), incarnation(0), context));
    assert_eq!(wrong, Err(BrokerError::StaleIncarnation));
}

#[test]
fn a_partition_moves_when_its_new_replicas_are_in_sync() {
    let mut image = image();
    let reassign = |image: &mut Image, wanted: Option<&[i32]>| {
        let wanted = wanted.map(|wanted| wanted.iter().copied().map(NodeId).collect());
        let mut decided =
            with_rules(RULES, |context| image.decide_reassign(&[(PARTITION, wanted)], true, context));
        commit(image, &decided.plan.records);
        decided.results.remove(0)
    };
    let whole = |image: &Image| {
        let state = state(image);
        (nodes(&state.replicas), nodes(&state.adding), nodes(&state.removing), state.leader.0)
    };
    assert_eq!(reassign(&mut image, None), Err(ReassignError::NotInProgress));
    for wrong in [&[][..], &[0, 0], &[0, 7]] {
        assert!(matches!(reassign(&mut image, Some(wrong)), Err(ReassignError::InvalidAssignment(_))));
    }
    let smaller = [(PARTITION, Some(vec![NodeId(0)]))];
    let kept = with_rules(RULES, |context| image.decide_reassign(&smaller, false, context));
    assert_eq!(kept.results, [Err(ReassignError::FactorChange { from: 3, to: 1 })]);
    assert_eq!(reassign(&mut image, Some(&[3, 4, 1])), Ok(()));
    // What counts is what the partition will have.
    let again = [(PARTITION, Some(vec![NodeId(3), NodeId(4), NodeId(2)]))];
    let kept = with_rules(RULES, |context| image.decide_reassign(&again, false, context));
    assert_eq!(kept.results, [Ok(())]);
    assert_eq!(whole(&image), (vec![3, 4, 1, 0, 2], vec![3, 4], vec![0, 2], 0));
    assert_eq!(image.reassignments().collect::<Vec<_>>(), [PARTITION]);
    let proposal = propose(&image, &[0, 1, 2, 3]);
    alter(&mut image, &proposal).unwrap();
    assert_eq!(whole(&image).1, [3, 4], "broker 4 is missing");
    let mut taken_back = image.clone();
    assert_eq!(reassign(&mut taken_back, None), Ok(()));
    assert_eq!(whole(&taken_back), (vec![1, 0, 2], vec![], vec![], 0));
    assert_eq!(led(&taken_back).1, [0, 1, 2]);
    let epoch = state(&image).leader_epoch;
    let proposal = propose(&image, &[0, 1, 2, 3, 4]);
    alter(&mut image, &proposal).unwrap();
    assert_eq!(whole(&image), (vec![3, 4, 1], vec![], vec![], 3));
    assert_eq!((led(&image).1, state(&image).leader_epoch.0), (vec![1, 3, 4], epoch.0 + 1));
    assert_eq!(image.reassignments().count(), 0);
}

#[test]
fn the_preferred_leader_comes_back() {
    let mut image = image();
    fence(&mut image, 0, RULES);
    unfence(&mut image, 0);
    let elect = |image: &Image| {
        with_rules(RULES, |context| image.decide_elect_leaders(None, ElectionType::Preferred, context))
    };
    assert!(elect(&image).results.iter().all(|(_, result)| result.is_err()), "it is not in sync");
    let proposal = propose(&image, &[0, 1, 2]);
    alter(&mut image, &proposal).unwrap();
    let decided = elect(&image);
    assert_eq!(decided.results[0], (PARTITION, Ok(())));
    commit(&mut image, &decided.plan.records);
    assert_eq!(led(&image).0, 0);
    assert!(!elect(&image).results.contains(&(PARTITION, Ok(()))));
}

#[test]
fn another_min_insync_replicas_makes_nobody_eligible_where_a_leader_goes_on() {
    let mut image = image();
    fence(&mut image, 2, RULES);
    fence(&mut image, 1, RULES);
    assert_eq!(led(&image).2, [1]);
    let before = state(&image).partition_epoch;
    let set = |value: &str| Record::TopicConfigsReplaced {
        topic_id: TOPIC,
        configs: BTreeMap::from([("min.insync.replicas".to_owned(), value.to_owned())]),
    };
    commit(&mut image, &[set("1")]);
    assert_eq!((led(&image).2, state(&image).partition_epoch), (vec![], before + 1));
}

#[test]
fn a_state_that_contradicts_itself_or_goes_back_is_refused() {
    let mut image = image();
    fence(&mut image, 0, RULES);
    let good = PartitionState { partition_epoch: 5, ..state(&image) };
    let refused = |change: &dyn Fn(&mut PartitionState)| {
        let mut state = good.clone();
        change(&mut state);
        let partition = PARTITION.partition;
        let record = Record::PartitionChanged { topic_id: TOPIC, partition, state };
        image.clone().apply(&record) == Err(ApplyError::Partition { topic_id: TOPIC, partition })
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|state| state.partition_epoch = 1));
    assert!(refused(&|state| state.leader_epoch = LeaderEpoch(0)));
    assert!(refused(&|state| state.leader = NodeId(0)));
    assert!(refused(&|state| state.in_sync.push(NodeId(4))));
    assert!(refused(&|state| state.in_sync.push(NodeId(1))));
    assert!(refused(&|state| state.eligible.push(NodeId(1))));
    assert!(refused(&|state| state.replicas.clear()));
    let fenced = Record::BrokerChanged {
        broker_id: NodeId(9),
        fenced: true,
        in_controlled_shutdown: false,
        directories: vec![],
    };
    assert_eq!(image.apply(&fenced), Err(ApplyError::NoSuchBroker { broker_id: NodeId(9) }));
}

#[test]
fn the_silent_are_found() {
    let mut liveness = Liveness::default();
    let all = || [(NodeId(1), incarnation(1)), (NodeId(2), incarnation(2))];
    let at = |ms: u64| MonotonicNs(ms * 1_000_000);
    assert!(liveness.silent(all(), at(0), 100).is_empty(), "a new controller has heard from nobody");
    liveness.heard(NodeId(1), incarnation(1), at(90));
    assert_eq!(liveness.silent(all(), at(99), 100), []);
    assert_eq!(liveness.silent(all(), at(100), 100), [NodeId(2)]);
    assert!(liveness.is_alive(NodeId(1), at(189), 100) && !liveness.is_alive(NodeId(1), at(190), 100));
}

#[test]
fn a_broker_that_is_forgotten_leads_nothing_and_comes_back_in_later_epochs() {
    let mut image = image();
    let sole = TopicPartition { topic_id: Uuid([7; 16]), partition: PartitionIndex(0) };
    let placement =
        vec![PlacementRun { partition_count: 1, leader_epoch: LeaderEpoch(0), replicas: vec![NodeId(0)] }];
    let (name, configs) = ("sole".to_owned(), BTreeMap::new());
    commit(&mut image, &[Record::TopicCreated { topic_id: sole.topic_id, name, configs, placement }]);
    let restarted = BrokerStart { starts_fenced: false, ..start(0, Uuid([77; 16])) };
    let plan = with_rules(RULES, |context| image.decide_broker_start(&restarted, false, context)).unwrap();
    commit(&mut image, &plan.records);
    let before = image.leader_epoch(sole).unwrap();
    fence(&mut image, 0, RULES);
    fence(&mut image, 2, RULES);
    assert_eq!(led(&image), (1, vec![1], vec![2]));
    let unregister = |image: &mut Image, node| {
        let plan = with_rules(RULES, |context| image.decide_unregister_broker(NodeId(node), context));
        plan.map(|plan| commit(image, &plan.records))
    };
    assert_eq!(unregister(&mut image, 9), Err(BrokerError::NotRegistered));
    assert_eq!(unregister(&mut image, 2), Ok(()));
    assert_eq!(led(&image), (1, vec![1], vec![]), "what it holds counts as lost");
    assert_eq!(unregister(&mut image, 0), Ok(()));
    assert!(image.broker(NodeId(0)).is_none());
    let leader = |image: &Image| {
        let topic = image.topic_by_id(sole.topic_id).unwrap();
        let found = image.partition(topic, sole.partition).unwrap();
        assert_eq!(image.leader(topic, sole.partition), Some(found.leader));
        (found.leader, found.leader_epoch)
    };
    assert_eq!(leader(&image), (NO_LEADER, before));
    let forgotten = image.clone();
    let back = BrokerStart { starts_fenced: false, ..start(0, Uuid([78; 16])) };
    let plan = with_rules(RULES, |context| image.decide_broker_start(&back, false, context)).unwrap();
    commit(&mut image, &plan.records);
    assert_eq!(leader(&image), (NodeId(0), LeaderEpoch(before.0 + 1)), "no epoch is used again");
    // Its first registration, once more, would go back.
    let Record::BrokerRegistered { broker_id, incarnation, rack, endpoints, .. } = plan.records[0].clone()
    else {
        panic!("{plan:?}");
    };
    let old = Record::BrokerRegistered { broker_id, incarnation, leader_epoch_base: 1, rack, endpoints };
    assert!(forgotten.clone().apply(&old).is_err());
}

#[test]
fn preferred_leaders_come_back_by_themselves() {
    let mut image = image();
    fence(&mut image, 0, RULES);
    unfence(&mut image, 0);
    let balance = |image: &Image| with_rules(RULES, |context| image.decide_balance_leaders(context));
    assert_eq!(balance(&image), BalancePlan::default(), "the first replica is not in sync");
    let proposal = propose(&image, &[0, 1, 2]);
    alter(&mut image, &proposal).unwrap();
    let plan = balance(&image);
    assert_eq!((plan.plan.elected.len(), plan.has_more), (1, false));
    commit(&mut image, &plan.plan.records);
    assert_eq!(led(&image).0, 0);
    assert_eq!(balance(&image), BalancePlan::default());
}
