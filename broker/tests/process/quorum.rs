//! The metadata quorum in its operator's hands: what `docs/cluster.md` says, done.

use super::client::{Client, batch};
use super::cluster::{Cluster, PATIENCE, append_somewhere, create, read, values};
use super::commands::{Ran, run_with_input};
use super::observe::wait_until;
use super::turn;
use super::workspace::Folder;
use logmill_wire::api::{
    add_raft_voter, api_versions, describe_cluster, describe_quorum as quorum, metadata,
};
use logmill_wire::ids::Uuid;
use std::fs;
use std::net::SocketAddr;

/// What can be tried again: the new voter has not caught up, or another change is under way.
const REQUEST_TIMED_OUT: i16 = 7;

impl Cluster {
    /// The node's disk is gone, and it gets an empty one.
    fn lose_disk(&mut self, id: i32) {
        self.folders[id as usize - 1] = Folder::new();
    }

    fn force_quorum(&self, id: i32, flags: &[&str]) -> Ran {
        let settings = self.plan(id).arguments();
        let arguments: Vec<&str> = std::iter::once("force-quorum")
            .chain(settings.iter().map(String::as_str))
            .chain(flags.iter().copied())
            .collect();
        run_with_input(&arguments, b"")
    }

    fn directory_of(&self, id: i32) -> Uuid {
        let text = fs::read_to_string(self.folders[id as usize - 1].path().join("meta.properties")).unwrap();
        let told = text.lines().find_map(|line| line.strip_prefix("directory.id=")).expect("a directory id");
        Uuid::parse(told).expect("an id")
    }

    /// What `kafka-metadata-quorum.sh add-controller` asks for.
    fn add_controller(&self, at: i32, id: i32) {
        let mut error = None;
        let is_added = wait_until(PATIENCE, || {
            let listener = add_raft_voter::Listener {
                name: "CONTROLLER".into(),
                host: self.address(id).ip().to_string().into(),
                port: 9093,
            };
            let request = add_raft_voter::Request {
                cluster_id: None,
                timeout_ms: 5_000,
                voter_id: id,
                voter_directory_id: self.directory_of(id),
                listeners: vec![listener].into(),
                ..Default::default()
            };
            let answer = self.client(at).call(&request, 1);
            let response: add_raft_voter::Response = answer.body();
            error = Some((response.error_code, response.error_message.map(|text| text.into_owned())));
            assert!(matches!(response.error_code, 0 | REQUEST_TIMED_OUT), "{error:?}\n{}", self.logs());
            response.error_code == 0
        });
        assert!(is_added, "{error:?}\n{}", self.logs());
    }

    /// What a node tells of the quorum.
    fn members(&self, at: i32) -> Members {
        let partition = quorum::PartitionData { partition_index: 0 };
        let topic =
            quorum::TopicData { topic_name: "__cluster_metadata".into(), partitions: vec![partition].into() };
        let answer = self.client(at).call(&quorum::Request { topics: vec![topic].into() }, 2);
        let response: quorum::Response = answer.body();
        let topic = response.topics.iter().next().expect("the metadata");
        let told = topic.partitions.iter().next().expect("the partition");
        let ids = |replicas: &logmill_wire::primitives::Array<'_, quorum::ReplicaState>| {
            let mut ids: Vec<_> =
                replicas.iter().map(|replica| (replica.replica_id, replica.replica_directory_id)).collect();
            ids.sort_unstable();
            ids
        };
        let address = |node: quorum::Node<'_>| {
            let listener = node.listeners.iter().next()?;
            Some((node.node_id, format!("{}://{}:{}", listener.name, listener.host, listener.port)))
        };
        Members {
            voters: ids(&told.current_voters),
            observers: ids(&told.observers),
            addresses: response.nodes.iter().filter_map(address).collect(),
        }
    }

    /// Waits until a node tells that all three vote, each with the directory that it has, and where they are reached.
    fn until_all_vote(&self, at: i32) {
        let mut told = None;
        let ids = [1, 2, 3];
        let wanted = Members {
            voters: ids.map(|id| (id, self.directory_of(id))).into(),
            observers: Vec::new(),
            addresses: ids.map(|id| (id, format!("CONTROLLER://{}:9093", self.address(id).ip()))).into(),
        };
        let is_so = wait_until(PATIENCE, || {
            told = Some(self.members(at));
            told.as_ref() == Some(&wanted)
        });
        assert!(is_so, "{told:?}\n{}", self.logs());
    }
}

/// The quorum as DescribeQuorum tells of it.
#[derive(Debug, PartialEq, Eq)]
struct Members {
    voters: Vec<(i32, Uuid)>,
    observers: Vec<(i32, Uuid)>,
    /// Of the voters.
    addresses: Vec<(i32, String)>,
}

#[test]
fn every_voter_says_where_it_is_reached() {
    let _turn = turn::shared();
    let cluster = Cluster::start();
    cluster.until_all_vote(2);
}

#[test]
fn controllers_answer_the_tools_themselves() {
    let _turn = turn::shared();
    let mut cluster = Cluster::start();
    cluster.until_all_vote(1);
    for id in [1, 2, 3] {
        let mut client = Client::connect(SocketAddr::new(cluster.address(id).ip(), 9093));
        let answer = client.call(&api_versions::Request::default(), 2);
        let listed: api_versions::Response = answer.body();
        assert!(listed.api_keys.iter().any(|api| api.api_key == add_raft_voter::KEY));
        assert!(listed.api_keys.iter().all(|api| api.api_key != metadata::KEY));
        let answer = client.call(&describe_cluster::Request { endpoint_type: 2, ..Default::default() }, 2);
        let told: describe_cluster::Response = answer.body();
        let nodes: Vec<_> = told
            .brokers
            .iter()
            .map(|node| (node.broker_id, format!("{}:{}", node.host, node.port)))
            .collect();
        let expected = [1, 2, 3].map(|id| (id, format!("{}:9093", cluster.address(id).ip())));
        assert_eq!((told.error_code, &nodes[..]), (0, &expected[..]));
        assert!((1..=3).contains(&told.controller_id));
    }
    // A majority is lost: who is left says who votes, if nothing else.
    for id in [1, 2] {
        cluster.kill(id);
    }
    let mut client = Client::connect(SocketAddr::new(cluster.address(3).ip(), 9093));
    let answer = client.call(&describe_cluster::Request { endpoint_type: 2, ..Default::default() }, 2);
    let told: describe_cluster::Response = answer.body();
    assert_eq!((told.error_code, told.brokers.len()), (0, 3));
}

#[test]
fn a_controller_that_lost_its_disk_votes_again_by_itself() {
    let _turn = turn::shared();
    let mut cluster = Cluster::start_with(&[("controller.quorum.auto.join.enable", "true")]);
    cluster.until_all_vote(1);
    for id in [2, 1] {
        cluster.kill(id);
        cluster.lose_disk(id);
        cluster.begin(&[id]);
        cluster.until_all_vote(3);
    }
    // Had the lost disks still votes, two of five would have to be silent for ever.
    cluster.kill(3);
    create(&mut cluster.client(1), "decided", &[]);
}

#[test]
fn one_controller_goes_on_alone_and_two_new_ones_join_it() {
    go_on_alone(&[1, 2]);
}

#[test]
fn a_controller_of_the_lost_quorum_takes_over_what_the_new_one_has() {
    go_on_alone(&[1]);
}

/// Nodes 1 and 2 are lost, some with their disks. Node 3 goes on, and the others join it.
fn go_on_alone(disks_lost: &[i32]) {
    let _turn = turn::shared();
    let mut cluster = Cluster::start();
    create(&mut cluster.client(1), "kept", &[]);
    cluster.settled("kept", |told| told.in_sync == [1, 2, 3]);
    let sent = values(0..60);
    for value in &sent[..20] {
        append_somewhere(&cluster, "kept", value);
    }
    for id in [1, 2] {
        cluster.kill(id);
        if disks_lost.contains(&id) {
            cluster.lose_disk(id);
        }
    }
    let refused = cluster.force_quorum(3, &["--accept-loss"]);
    assert_eq!(refused.status, 1, "the node runs");
    assert!(refused.stderr.contains("another process uses this log directory"), "{}", refused.stderr);
    cluster.kill(3);
    let refused = cluster.force_quorum(3, &[]);
    assert_eq!(refused.status, 1, "nobody has accepted the loss");
    for said in ["topics", "in-sync sets", "records that were acknowledged", "--accept-loss"] {
        assert!(refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
    let forced = cluster.force_quorum(3, &["--accept-loss"]).well();
    assert!(forced.text().contains("node 3 is the only controller"), "{}", forced.text());
    for former in ["node 1 with directory", "node 2 with directory"] {
        assert!(forced.text().contains(former), "{}", forced.text());
    }

    // All of what was acknowledged had reached the node that is left.
    cluster.begin(&[3]);
    cluster.settled("kept", |told| told.leader == 3);
    let alone = [(3, cluster.directory_of(3))];
    assert_eq!(cluster.members(3).voters, alone);
    assert_eq!(read(&cluster, 3, "kept"), sent[..20]);
    for value in &sent[20..40] {
        assert_eq!(cluster.client(3).append("kept", 0, -1, batch(value)).error, 0);
    }

    cluster.begin(&[1, 2]);
    let told = cluster.members(3);
    let following = [1, 2].map(|id| (id, cluster.directory_of(id)));
    assert_eq!((&told.voters[..], &told.observers[..]), (&alone[..], &following[..]), "who comes follows");
    for id in [1, 2] {
        cluster.add_controller(3, id);
    }
    cluster.until_all_vote(1);
    cluster.settled("kept", |told| told.in_sync == [1, 2, 3]);
    for value in &sent[40..] {
        append_somewhere(&cluster, "kept", value);
    }
    // Two of the three are a majority, whoever they are.
    cluster.kill(3);
    let leader =
        cluster.settled("kept", |told| [1, 2].contains(&told.leader) && told.in_sync == [1, 2]).leader;
    // A new leader learns how far the others have the log before consumers may read to its end.
    let mut found = Vec::new();
    let is_whole = wait_until(PATIENCE, || {
        found = read(&cluster, leader, "kept");
        found == sent
    });
    assert!(is_whole, "{found:?}\n{}", cluster.logs());
}
