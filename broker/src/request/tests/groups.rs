//! Groups, from their requests to their records in `__consumer_offsets` and back.

use super::{Fixture, NODE};
use crate::coordinator::CoordinatorTable;
use crate::coordinator::command::{GroupRouter, coordinator_of};
use crate::request::services::Services;
use crate::request::shard_state::ShardState;
use logmill_wire::api::{
    consumer_group_describe, consumer_group_heartbeat, delete_groups, delete_topics, describe_groups,
    find_coordinator, heartbeat, join_group, leave_group, list_groups, offset_commit, offset_delete,
    offset_fetch,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, ShardIndex, TopicId};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

impl Fixture {
    /// Looks for the coordinator, which makes the topic of the groups, and lets all coordinators read their logs.
    pub(super) fn with_groups(self) -> Self {
        let request = find_coordinator::Request { key: "g".into(), ..Default::default() };
        self.ask(&request, 0, |response| assert_eq!(response.error_code, 0));
        // Where the partition of the group came to lie is a matter of chance.
        if coordinator_of(&self.broker.image(), "g").is_some_and(|(_, leader)| leader != NODE) {
            lead(&self, NODE, 1);
        }
        self.pass(Duration::from_millis(1));
        self
    }

    pub(super) fn pass(&self, time: Duration) {
        use crate::runtime::Runtime;
        self.world.block_on(&self.runtime, self.runtime.sleep(time));
    }

    /// The same broker after a restart: coordinators know what the logs say.
    fn restarted(self) -> Self {
        let settings = Arc::clone(&self.services.settings);
        let groups = Arc::new(settings.groups.clone());
        let coordinators =
            CoordinatorTable::new(self.runtime.clone(), NODE, 1, self.broker.partitions(), groups);
        let local = Rc::clone(&coordinators);
        let services = Rc::new(Services {
            runtime: self.runtime.clone(),
            node_id: NODE,
            settings: Arc::clone(&settings),
            partitions: self.broker.partitions(),
            groups: GroupRouter::new(1, Rc::new(move |_, command| local.handle(command))),
            cluster: self.broker.cluster(),
            image: RefCell::new(self.broker.image()),
            image_changed: crate::shard::signal::Signal::default(),
            lost_peers: Arc::default(),
            state: ShardState::new(ShardIndex(0), 1, &settings, 1 << 30),
        });
        self.broker.attach(&services, &coordinators);
        coordinators.apply_image(&self.broker.image());
        let fixture = Self { services, ..self };
        fixture.pass(Duration::from_millis(1));
        fixture
    }

    /// A group that this broker coordinates, and nobody has heard of.
    fn missing_group(&self) -> String {
        let image = self.broker.image();
        let is_here = |id: &String| coordinator_of(&image, id).is_some_and(|(_, leader)| leader == NODE);
        (0..).map(|number| format!("missing-{number}")).find(is_here).unwrap()
    }

    /// Commits as one who assigns its partitions itself; the error of each partition.
    pub(super) fn commit(&self, topic: (&str, TopicId), offsets: &[(i32, i64)], version: i16) -> Vec<i16> {
        let partitions = offsets.iter().map(|&(index, offset)| offset_commit::OffsetCommitRequestPartition {
            partition_index: index,
            committed_offset: offset,
            committed_leader_epoch: -1,
            committed_metadata: Some(format!("note {offset}").into()),
        });
        let topic = offset_commit::OffsetCommitRequestTopic {
            name: if version < 10 { topic.0.into() } else { "".into() },
            topic_id: if version < 10 { TopicId::ZERO } else { topic.1 },
            partitions: partitions.collect(),
        };
        let request = offset_commit::Request {
            group_id: "g".into(),
            topics: vec![topic].into(),
            ..offset_commit::Request::default()
        };
        self.ask(&request, version, |response| {
            response
                .topics
                .iter()
                .flat_map(|topic| topic.partitions.iter().map(|one| one.error_code).collect::<Vec<_>>())
                .collect()
        })
    }

    /// All offsets of the group, with their notes.
    pub(super) fn committed(&self) -> Vec<(String, i32, i64, String)> {
        let group = offset_fetch::OffsetFetchRequestGroup {
            group_id: "g".into(),
            topics: None,
            ..Default::default()
        };
        let request = offset_fetch::Request { groups: vec![group].into(), ..Default::default() };
        self.ask(&request, 8, |response| {
            let group = response.groups.iter().next().unwrap();
            assert_eq!(group.error_code, 0);
            let mut found = Vec::new();
            for topic in &group.topics {
                for one in &topic.partitions {
                    let note = one.metadata.unwrap_or_default().into_owned();
                    found.push((topic.name.to_string(), one.partition_index, one.committed_offset, note));
                }
            }
            found
        })
    }
}

#[test]
fn offsets_are_committed_in_every_version_and_survive_a_restart() {
    let fixture = Fixture::new().with_groups();
    let topic = ("t", fixture.create("t", 2));
    for version in 2..=10 {
        let offset = i64::from(version) * 10;
        let errors = fixture.commit(topic, &[(0, offset), (7, 1), (1, offset + 1)], version);
        let unknown = ErrorCode::UnknownTopicOrPartition.code();
        assert_eq!(errors, [0, unknown, 0], "v{version}");
    }
    let expected = vec![
        ("t".to_owned(), 0, 100, "note 100".to_owned()),
        ("t".to_owned(), 1, 101, "note 101".to_owned()),
    ];
    assert_eq!(fixture.committed(), expected);
    let fixture = fixture.restarted();
    assert_eq!(fixture.committed(), expected);
}

#[test]
fn offsets_are_fetched_in_every_version() {
    let fixture = Fixture::new().with_groups();
    let id = fixture.create("t", 2);
    fixture.commit(("t", id), &[(0, 5)], 9);
    for version in 1..=7 {
        let topic =
            offset_fetch::OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![1, 0].into() };
        let request = offset_fetch::Request {
            group_id: "g".into(),
            topics: Some(vec![topic].into()),
            ..Default::default()
        };
        fixture.ask(&request, version, |response| {
            let topic = response.topics.iter().next().unwrap();
            let found: Vec<_> =
                topic.partitions.iter().map(|one| (one.partition_index, one.committed_offset)).collect();
            assert_eq!(found, [(1, -1), (0, 5)], "v{version}");
        });
    }
    for version in 8..=10 {
        let by_id = version >= 10;
        // Not a closure: decision 0010.
        fn topic(
            name: &'static str,
            topic_id: TopicId,
            by_id: bool,
        ) -> offset_fetch::OffsetFetchRequestTopics<'static> {
            offset_fetch::OffsetFetchRequestTopics {
                name: if by_id { "".into() } else { name.into() },
                topic_id: if by_id { topic_id } else { TopicId::ZERO },
                partition_indexes: vec![1, 0].into(),
            }
        }
        let topics = vec![topic("missing", TopicId::from_random(1), by_id), topic("t", id, by_id)];
        let group = offset_fetch::OffsetFetchRequestGroup {
            group_id: "g".into(),
            topics: Some(topics.into()),
            ..Default::default()
        };
        let request = offset_fetch::Request { groups: vec![group].into(), ..Default::default() };
        fixture.ask(&request, version, |response| {
            let group = response.groups.iter().next().unwrap();
            let found: Vec<_> = group
                .topics
                .iter()
                .flat_map(|topic| {
                    topic
                        .partitions
                        .iter()
                        .map(|one| (one.partition_index, one.committed_offset, one.error_code))
                        .collect::<Vec<_>>()
                })
                .collect();
            // A name that nobody knows has no offset; an id that nobody knows is an error.
            let unknown = if by_id { ErrorCode::UnknownTopicId.code() } else { 0 };
            assert_eq!(found, [(1, -1, unknown), (0, -1, unknown), (1, -1, 0), (0, 5, 0)], "v{version}");
        });
    }
}

#[test]
fn offsets_go_with_their_topic_their_group_or_by_request() {
    let fixture = Fixture::new().with_groups();
    let (first, second) = (("a", fixture.create("a", 1)), ("b", fixture.create("b", 2)));
    fixture.commit(first, &[(0, 1)], 9);
    fixture.commit(second, &[(0, 2), (1, 3)], 9);
    let topic = offset_delete::OffsetDeleteRequestTopic {
        name: "b".into(),
        partitions: vec![offset_delete::OffsetDeleteRequestPartition { partition_index: 1 }].into(),
    };
    let request = offset_delete::Request { group_id: "g".into(), topics: vec![topic].into() };
    fixture.ask(&request, 0, |response| assert_eq!(response.error_code, 0));
    assert_eq!(fixture.committed().len(), 2);
    let request = delete_topics::Request { topic_names: vec!["a".into()].into(), ..Default::default() };
    fixture.ask(&request, 1, |_| ());
    fixture.pass(Duration::from_millis(1));
    let left = vec![("b".to_owned(), 0, 2, "note 2".to_owned())];
    assert_eq!(fixture.committed(), left);
    let fixture = fixture.restarted();
    assert_eq!(fixture.committed(), left);
    let missing = fixture.missing_group();
    let request = delete_groups::Request { groups_names: vec!["g".into(), missing.as_str().into()].into() };
    fixture.ask(&request, 2, |response| {
        let errors: Vec<_> = response.results.iter().map(|one| one.error_code).collect();
        assert_eq!(errors, [0, ErrorCode::GroupIdNotFound.code()]);
    });
    assert_eq!(fixture.committed(), vec![]);
    assert_eq!(fixture.restarted().committed(), vec![]);
}

#[test]
fn a_group_without_members_is_listed_and_described() {
    let fixture = Fixture::new().with_groups();
    let topic = ("t", fixture.create("t", 1));
    fixture.commit(topic, &[(0, 1)], 9);
    fixture.ask(&list_groups::Request::default(), 5, |response| {
        let listed: Vec<_> = response
            .groups
            .iter()
            .map(|one| (one.group_id.into_owned(), one.group_state.into_owned(), one.group_type.into_owned()))
            .collect();
        assert_eq!(listed, [("g".to_owned(), "Empty".to_owned(), "classic".to_owned())]);
    });
    let stable = list_groups::Request { states_filter: vec!["stable".into()].into(), ..Default::default() };
    fixture.ask(&stable, 4, |response| assert_eq!(response.groups.len(), 0));
    let missing = fixture.missing_group();
    for version in [5, 6] {
        let request = describe_groups::Request {
            groups: vec!["g".into(), missing.as_str().into()].into(),
            ..Default::default()
        };
        fixture.ask(&request, version, |response| {
            let described: Vec<_> =
                response.groups.iter().map(|one| (one.error_code, one.group_state.into_owned())).collect();
            let missing = if version < 6 { 0 } else { ErrorCode::GroupIdNotFound.code() };
            assert_eq!(described, [(0, "Empty".to_owned()), (missing, "Dead".to_owned())], "v{version}");
        });
    }
}

#[test]
fn a_group_without_a_coordinator_is_not_available() {
    let fixture = Fixture::new();
    let request = heartbeat::Request { group_id: "g".into(), ..Default::default() };
    fixture.ask(&request, 4, |response| {
        assert_eq!(response.error_code, ErrorCode::CoordinatorNotAvailable.code());
    });
    let fixture = fixture.with_groups();
    fixture.ask(&request, 4, |response| {
        assert_eq!(response.error_code, ErrorCode::UnknownMemberId.code());
    });
}

#[test]
fn nothing_is_answered_that_could_not_be_stored() {
    let fixture = Fixture::new().with_groups();
    let topic = ("t", fixture.create("t", 1));
    assert_eq!(fixture.commit(topic, &[(0, 1)], 9), [0]);
    let image = fixture.broker.image();
    let (partition, _) = coordinator_of(&image, "g").unwrap();
    let broken = crate::partition::command::PartitionError::Storage("the disk is full".to_owned());
    fixture.broker.errors.borrow_mut().insert(partition, broken);
    let failed = fixture.commit(topic, &[(0, 2)], 9);
    assert_eq!(failed, [ErrorCode::CoordinatorNotAvailable.code()]);
    fixture.broker.errors.borrow_mut().clear();
    fixture.pass(Duration::from_millis(200));
    // What could not be stored is not remembered either.
    assert_eq!(fixture.committed(), vec![("t".to_owned(), 0, 1, "note 1".to_owned())]);
    assert_eq!(fixture.commit(topic, &[(0, 3)], 9), [0]);
}

#[test]
fn a_kind_of_group_that_is_turned_off_is_not_supported() {
    for (kinds, expected) in
        [("classic", ErrorCode::UnsupportedVersion), ("classic,consumer", ErrorCode::None)]
    {
        let fixture = Fixture::with(&[("group.coordinator.rebalance.protocols", kinds)]).with_groups();
        let request = consumer_group_heartbeat::Request {
            group_id: "g".into(),
            member_id: "aaaaaaaaaaaaaaaaaaaaaa".into(),
            rebalance_timeout_ms: 60_000,
            subscribed_topic_names: Some(vec![std::borrow::Cow::from("t")].into()),
            topic_partitions: Some(Vec::new().into()),
            ..Default::default()
        };
        fixture.ask(&request, 1, |response| {
            assert_eq!(response.error_code, expected.code(), "{:?}", response.error_message);
        });
        let request =
            consumer_group_describe::Request { group_ids: vec!["g".into()].into(), ..Default::default() };
        fixture.ask(&request, 1, |response| {
            let codes: Vec<_> = response.groups.iter().map(|group| group.error_code).collect();
            assert_eq!(codes, [expected.code()]);
        });
        let request = heartbeat::Request { group_id: fixture.missing_group().into(), ..Default::default() };
        fixture.ask(&request, 4, |response| {
            assert_eq!(response.error_code, ErrorCode::UnknownMemberId.code(), "classic groups are there");
        });
    }
}

#[test]
fn a_deadline_that_comes_nearer_is_met() {
    let fixture = Fixture::new().with_groups();
    let protocol =
        join_group::JoinGroupRequestProtocol { name: "range".into(), metadata: Default::default() };
    let group_id = fixture.missing_group();
    let request = join_group::Request {
        group_id: group_id.clone().into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![protocol].into(),
        ..Default::default()
    };
    let join = || {
        let before = fixture.world.now();
        let member_id = fixture.ask(&request, 3, |response| {
            assert_eq!(response.error_code, 0);
            response.member_id.into_owned()
        });
        let waited = fixture.world.now() - before;
        assert!((3000..3100).contains(&waited.as_millis()), "{waited:?}");
        member_id
    };
    // The first join of a group ends after three seconds, and leaves a record at once: the coordinator is awake.
    let leave = leave_group::Request {
        group_id: group_id.clone().into(),
        member_id: join().into(),
        ..Default::default()
    };
    fixture.ask(&leave, 2, |response| assert_eq!(response.error_code, 0));
    fixture.pass(Duration::from_secs(30));
    // Now it waits for its next look at the offsets, minutes away, and this join leaves no record until it ends.
    join();
}

/// The partition that group `g` lives on, and moves its leadership to later epochs.
fn lead(fixture: &Fixture, leader: NodeId, epochs: i32) {
    let (partition, _) = coordinator_of(&fixture.broker.image(), "g").unwrap();
    fixture.broker.change_partition(partition, |state| {
        state.leader = leader;
        state.leader_epoch.0 += epochs;
    });
}

#[test]
fn a_coordinator_ends_with_its_leadership_and_begins_with_the_next_one() {
    let fixture = Fixture::new().with_groups();
    let topic = ("t", fixture.create("t", 1));
    let (partition, leader) = coordinator_of(&fixture.broker.image(), "g").unwrap();
    assert_eq!(leader, NODE);
    assert_eq!(fixture.commit(topic, &[(0, 1)], 9), [0]);
    assert_eq!(fixture.commit(topic, &[(0, 2)], 9), [0]);
    lead(&fixture, NodeId(2), 1);
    let elsewhere = [ErrorCode::NotCoordinator.code()];
    assert_eq!(fixture.commit(topic, &[(0, 3)], 9), elsewhere);
    // Lost and won again between two images, while a leader in between did not have the last record.
    lead(&fixture, NODE, 1);
    fixture.pass(Duration::from_millis(1));
    assert_eq!(fixture.committed()[0].2, 2);
    fixture.broker.truncate(partition);
    lead(&fixture, NODE, 2);
    fixture.pass(Duration::from_millis(1));
    assert_eq!(fixture.committed()[0].2, 1);
    // What waits for an answer when the leadership ends is told so.
    fixture.broker.delay.set(Some(Duration::from_millis(50)));
    let request = heartbeat::Request { group_id: "g".into(), ..Default::default() };
    lead(&fixture, NodeId(2), 1);
    fixture.ask(&request, 4, |response| assert_eq!(response.error_code, elsewhere[0]));
}

#[test]
fn a_new_coordinator_waits_for_all_that_its_log_has() {
    let fixture = Fixture::new().with_groups();
    let topic = ("t", fixture.create("t", 1));
    assert_eq!(fixture.commit(topic, &[(0, 1)], 9), [0]);
    assert_eq!(fixture.commit(topic, &[(0, 2)], 9), [0]);
    // A new leader does not know yet that its followers have the last record.
    fixture.broker.high_watermark.set(Some(1));
    lead(&fixture, NODE, 1);
    fixture.pass(Duration::from_millis(100));
    let loading = [ErrorCode::CoordinatorLoadInProgress.code()];
    assert_eq!(fixture.commit(topic, &[(0, 3)], 9), loading);
    fixture.broker.high_watermark.set(None);
    fixture.pass(Duration::from_millis(10));
    assert_eq!(fixture.committed()[0].2, 2);
    // One that is not wanted any more waits no longer.
    fixture.broker.high_watermark.set(Some(1));
    lead(&fixture, NODE, 1);
    fixture.pass(Duration::from_millis(1));
    lead(&fixture, NodeId(2), 1);
    fixture.pass(Duration::from_millis(10));
    let reads = || fixture.broker.asked.borrow().len();
    let before = reads();
    fixture.pass(Duration::from_secs(10));
    assert_eq!(reads(), before);
}
