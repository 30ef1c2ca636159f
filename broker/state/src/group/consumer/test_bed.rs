//! A coordinator's groups under test: topics, clock, log and restarts.

use super::ConsumerGroup;
use crate::group::compacted_log::replay_all_ways;
use crate::group::{
    ConsumerHeartbeatReply, ConsumerHeartbeatRequest, Context, Effects, Group, GroupRecord, GroupReply,
    GroupRequest, Groups, MemberIdentity, Now, Refused, Ticket, TopicPartitions, VisibleTopics,
};
use crate::metadata::{Image, PlacementRun, Record};
use crate::settings::{BrokerSettings, GroupSettings};
use logmill_wire::ids::{LeaderEpoch, MonotonicNs, NodeId, PartitionIndex, TimestampMs, TopicId, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub const GROUP: &str = "g";
pub const SESSION_MS: i64 = 45_000;
pub const REBALANCE_MS: i32 = 10_000;

pub struct Bed {
    pub groups: Groups,
    pub image: Image,
    pub settings: GroupSettings,
    pub now: Now,
    pub log: Vec<GroupRecord>,
    topics: BTreeMap<String, (TopicId, u32)>,
    topic_ids: u128,
    tickets: u64,
}

impl Bed {
    pub fn new() -> Self {
        Self::with(&[])
    }

    pub fn with(settings: &[(&str, &str)]) -> Self {
        let mut values: BTreeMap<String, String> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        for (key, value) in [("log.dirs", "/nowhere"), ("node.id", "1")] {
            values.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
        Self {
            groups: Groups::default(),
            image: Image::default(),
            settings: BrokerSettings::from_values(values).unwrap().groups,
            now: Now { monotonic: MonotonicNs(1), wall: TimestampMs(1_000_000) },
            log: Vec::new(),
            topics: BTreeMap::new(),
            topic_ids: 0,
            tickets: 0,
        }
    }

    /// Makes a topic, or another one of a name that is gone, or gives one more partitions.
    pub fn topic(&mut self, name: &str, partitions: u32) -> TopicId {
        self.topic_ids += 1;
        let fresh = TopicId::from_random(self.topic_ids);
        let topic = self.topics.entry(name.to_owned()).or_insert((fresh, partitions));
        topic.1 = partitions;
        let id = topic.0;
        self.rebuild();
        id
    }

    pub fn delete_topic(&mut self, name: &str) {
        self.topics.remove(name).unwrap();
        self.rebuild();
    }

    fn rebuild(&mut self) {
        self.image = Image::default();
        for (name, (topic_id, partitions)) in &self.topics {
            let placement = vec![PlacementRun {
                partition_count: *partitions,
                leader_epoch: LeaderEpoch(0),
                replicas: vec![NodeId(1)],
            }];
            let (topic_id, name, configs) = (*topic_id, name.clone(), BTreeMap::new());
            self.image.apply(&Record::TopicCreated { topic_id, name, configs, placement }).unwrap();
        }
    }

    pub fn with_context<T>(&mut self, act: impl FnOnce(&mut Groups, &Context<'_>) -> T) -> T {
        let context = Context { now: self.now, settings: &self.settings, image: &self.image };
        act(&mut self.groups, &context)
    }

    /// Takes a step that is answered at once.
    pub fn step(&mut self, request: GroupRequest) -> GroupReply {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let effects = self.with_context(|groups, cx| groups.step(ticket, request, cx));
        self.log.extend(effects.records);
        let [(answered, reply)] = <[_; 1]>::try_from(effects.replies).expect("one reply");
        assert_eq!(answered, ticket);
        reply
    }

    pub fn beat(&mut self, request: ConsumerHeartbeatRequest) -> Result<ConsumerHeartbeatReply, Refused> {
        match self.step(GroupRequest::ConsumerHeartbeat(request)) {
            GroupReply::ConsumerHeartbeat(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    pub fn wait(&mut self, milliseconds: i64) -> Effects {
        self.now.monotonic = self.now.monotonic.plus_ns(u64::try_from(milliseconds).unwrap() * 1_000_000);
        self.now.wall.0 += milliseconds;
        let effects = self.with_context(|groups, cx| groups.expire(cx));
        self.log.extend(effects.records.iter().cloned());
        effects
    }

    pub fn group(&self) -> &ConsumerGroup {
        match self.groups.groups.get(GROUP) {
            Some(Group::Consumer(group)) => group,
            other => panic!("no consumer group but {other:?}"),
        }
    }

    pub fn member_ids(&self) -> Vec<String> {
        self.group().members.keys().map(ToString::to_string).collect()
    }

    pub fn group_epoch(&self) -> i32 {
        self.group().group_epoch()
    }

    /// Makes the groups again from the log's bytes, whole and compacted, and sees that they are the same.
    pub fn restart(&mut self) {
        let (replayed, compacted) = replay_all_ways(&self.log);
        for after in compacted.iter().chain([&replayed]) {
            assert_same_groups(&self.groups, after);
        }
        self.groups = replayed;
        self.with_context(|groups, cx| groups.loaded(cx));
    }
}

fn assert_same_groups(before: &Groups, after: &Groups) {
    for (id, group) in &before.groups {
        match (group, after.groups.get(id)) {
            (Group::Consumer(before), Some(Group::Consumer(after))) => assert_same(before, after),
            (Group::Consumer(before), after) => {
                assert!(before.is_gone() && after.is_none(), "{before:?} became {after:?}");
            }
            _ => {}
        }
    }
    assert!(after.groups.keys().all(|id| before.groups.contains_key(id)));
}

fn assert_same(before: &ConsumerGroup, after: &ConsumerGroup) {
    assert_eq!((before.epoch, before.target_epoch), (after.epoch, after.target_epoch));
    assert_eq!(before.members, after.members);
    assert_eq!(before.targets, after.targets);
    assert_eq!(before.regexes, after.regexes);
    assert_eq!(before.holders, after.holders);
    assert_eq!(before.static_members, after.static_members);
    assert_eq!(before.assignors, after.assignors);
    assert_eq!(before.topic_names, after.topic_names);
    assert_eq!(before.regex_subscribers, after.regex_subscribers);
    assert_eq!(before.classic_members, after.classic_members);
}

fn identity(member_id: &str) -> MemberIdentity {
    MemberIdentity { member_id: member_id.into(), instance_id: None }
}

/// A member's first report.
pub fn joining(member_id: &str, topics: &[&str]) -> ConsumerHeartbeatRequest {
    ConsumerHeartbeatRequest {
        rebalance_timeout_ms: Some(REBALANCE_MS),
        subscribed_topics: Some(topics.iter().map(|topic| Arc::from(*topic)).collect()),
        owned: Some(Vec::new()),
        ..reporting(member_id, 0)
    }
}

/// A report that says nothing new.
pub fn reporting(member_id: &str, member_epoch: i32) -> ConsumerHeartbeatRequest {
    ConsumerHeartbeatRequest {
        group_id: GROUP.into(),
        member: identity(member_id),
        fresh_id: Uuid::from_random(77),
        member_epoch,
        rack_id: None,
        rebalance_timeout_ms: None,
        subscribed_topics: None,
        subscribed_regex: None,
        visible_topics: VisibleTopics::new(|_| true),
        server_assignor: None,
        owned: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
    }
}

/// A report of what the member owns.
pub fn owning(
    member_id: &str,
    member_epoch: i32,
    owned: &BTreeSet<(TopicId, i32)>,
) -> ConsumerHeartbeatRequest {
    let mut topics: BTreeMap<TopicId, Vec<PartitionIndex>> = BTreeMap::new();
    for (topic, index) in owned {
        topics.entry(*topic).or_default().push(PartitionIndex(*index));
    }
    let owned =
        topics.into_iter().map(|(topic_id, partitions)| TopicPartitions { topic_id, partitions }).collect();
    ConsumerHeartbeatRequest { owned: Some(owned), ..reporting(member_id, member_epoch) }
}

/// The same request of a static member.
pub fn as_instance(instance_id: &str, mut request: ConsumerHeartbeatRequest) -> ConsumerHeartbeatRequest {
    request.member.instance_id = Some(instance_id.into());
    request
}

/// The partitions that a reply assigns.
pub fn assigned(reply: &ConsumerHeartbeatReply) -> Option<BTreeSet<(TopicId, i32)>> {
    let topics = reply.assignment.as_ref()?;
    Some(
        topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|index| (topic.topic_id, index.0)))
            .collect(),
    )
}
