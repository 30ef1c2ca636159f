//! Large requests leave the other clients of their shard their turns.

use super::client::Client;
use super::node::{Node, Plan};
use super::observe::cpu_ns;
use super::turn;
use super::workspace::Folder;
use logmill_wire::api::{api_versions, describe_groups, find_coordinator, join_group, metadata, sync_group};
use std::time::{Duration, Instant};

/// The most that one client's large request may delay another client's small one: the time that the broker worked
/// between the small request and its answer. What else the machine did meanwhile is not the broker's delay.
/// A build without optimisation works several times as long for the same.
const DELAY_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 30 } else { 10 });

/// The first round makes the broker's memory warm.
const ROUNDS: usize = 4;

/// A version whose members may join without having been given an id before.
const JOIN: i16 = 3;
const SYNC: i16 = 3;

const TOPICS: i32 = 20;
const PARTITIONS_PER_TOPIC: i32 = 5_000;

fn one_shard() -> (Folder, Node) {
    let folder = Folder::new();
    let node = Plan::new(folder.path()).set("logmill.shards", 1).start();
    (folder, node)
}

/// The longest that the broker worked, and the longest that passed, before a small request was answered while the
/// large ones of another client were carried out.
fn longest_wait(node: &Node, large: impl Fn(&mut Client) + Send) -> (Duration, Duration) {
    let mut small = node.client();
    let mut busy = node.client();
    let request = api_versions::Request::default();
    std::thread::scope(|scope| {
        let work = scope.spawn(move || large(&mut busy));
        let (mut worked, mut passed) = (Duration::ZERO, Duration::ZERO);
        let mut asked = 0;
        while !work.is_finished() {
            let (began, cpu) = (Instant::now(), cpu_ns(node.pid()));
            small.call(&request, 0);
            let elapsed = began.elapsed();
            // The kernel counts what a thread has run only now and then, so the difference may be too large.
            let ran = Duration::from_nanos(cpu_ns(node.pid()).saturating_sub(cpu)).min(elapsed);
            worked = worked.max(ran);
            passed = passed.max(elapsed);
            asked += 1;
        }
        assert!(asked > 5, "only {asked} small requests were under way meanwhile");
        (worked, passed)
    })
}

fn assert_fair(node: &Node, what: &str, large: impl Fn(&mut Client) + Send + Copy) {
    let waits: Vec<_> = (0..ROUNDS).map(|_| longest_wait(node, large)).collect();
    eprintln!("{what}: before a small request was answered the broker worked, and there passed, {waits:?}");
    let worst = waits[1..].iter().map(|(worked, _)| *worked).max().unwrap_or_default();
    assert!(worst <= DELAY_MAX, "{what}: a small request waited for {worst:?} of other work");
}

#[test]
fn metadata_of_a_hundred_thousand_partitions_delays_nobody() {
    let _turn = turn::alone();
    let (_folder, node) = one_shard();
    let mut client = node.client();
    client.patience(Duration::from_secs(60));
    for topic in 0..TOPICS {
        client.create_topic(&format!("wide-{topic}"), PARTITIONS_PER_TOPIC);
    }
    let all = |client: &mut Client| {
        client.patience(Duration::from_secs(60));
        let request = metadata::Request { topics: None, ..Default::default() };
        let answer = client.call(&request, 12);
        let partitions: usize =
            answer.body::<metadata::Response<'_>>().topics.iter().map(|topic| topic.partitions.len()).sum();
        assert_eq!(partitions, (TOPICS * PARTITIONS_PER_TOPIC) as usize);
    };
    assert_fair(&node, "Metadata of 100,000 partitions", all);
}

const MEMBERS: usize = 1_000;
/// Members whose requests go one behind the other over one connection.
const MEMBERS_PER_CONNECTION: usize = 50;

/// A group in which every member joins, is told of the others if it leads, syncs and is described.
fn a_large_group_lives(clients: &mut [Client], group: &str) {
    let protocol =
        || join_group::JoinGroupRequestProtocol { name: "range".into(), metadata: vec![7_u8; 200].into() };
    for client in &mut *clients {
        for _ in 0..MEMBERS_PER_CONNECTION {
            let request = join_group::Request {
                group_id: group.to_owned().into(),
                session_timeout_ms: 30_000,
                rebalance_timeout_ms: 30_000,
                protocol_type: "consumer".into(),
                protocols: vec![protocol()].into(),
                ..join_group::Request::default()
            };
            client.send(&request, JOIN);
        }
    }
    let mut members = Vec::new();
    let mut leader = None;
    for (at, client) in clients.iter_mut().enumerate() {
        for _ in 0..MEMBERS_PER_CONNECTION {
            let (_, answer) = client.receive(join_group::KEY, JOIN);
            let joined = answer.body::<join_group::Response<'_>>();
            assert_eq!(joined.error_code, 0);
            if joined.leader == joined.member_id {
                assert_eq!(joined.members.len(), MEMBERS);
                leader = Some(joined.leader.to_string());
            }
            members.push((at, joined.member_id.to_string(), joined.generation_id));
        }
    }
    let leader = leader.expect("one of the members leads");
    for (at, member, generation) in &members {
        let assignments = members.iter().filter(|_| *member == leader).map(|(_, member, _)| {
            sync_group::SyncGroupRequestAssignment {
                member_id: member.as_str().into(),
                assignment: vec![9_u8; 100].into(),
            }
        });
        let request = sync_group::Request {
            group_id: group.to_owned().into(),
            generation_id: *generation,
            member_id: member.as_str().into(),
            assignments: assignments.collect(),
            ..sync_group::Request::default()
        };
        clients[*at].send(&request, SYNC);
    }
    for (at, ..) in &members {
        let (_, answer) = clients[*at].receive(sync_group::KEY, SYNC);
        let synced = answer.body::<sync_group::Response<'_>>();
        assert_eq!((synced.error_code, synced.assignment.len()), (0, 100));
    }
    let request =
        describe_groups::Request { groups: vec![group.to_owned().into()].into(), ..Default::default() };
    let answer = clients[0].call(&request, 5);
    let described = answer.body::<describe_groups::Response<'_>>();
    assert_eq!(described.groups.iter().map(|group| group.members.len()).sum::<usize>(), MEMBERS);
}

#[test]
fn a_group_of_a_thousand_members_delays_nobody() {
    let _turn = turn::alone();
    let folder = Folder::new();
    let plan = Plan::new(folder.path()).set("logmill.shards", 1);
    let node = plan.set("group.initial.rebalance.delay.ms", 300).start();
    let mut client = node.client();
    let request = find_coordinator::Request { key: "large".into(), ..Default::default() };
    assert_eq!(client.call(&request, 2).body::<find_coordinator::Response<'_>>().error_code, 0);
    let address = node.address();
    let group = |_: &mut Client| {
        let mut clients: Vec<_> =
            (0..MEMBERS / MEMBERS_PER_CONNECTION).map(|_| Client::connect(address)).collect();
        // Another group each time: the members of the one before are still in theirs.
        let name = format!("large-{:?}", Instant::now());
        a_large_group_lives(&mut clients, &name);
    };
    assert_fair(&node, "a group of 1,000 members", group);
}
