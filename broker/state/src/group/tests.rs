//! What groups of all kinds have in common.

use super::*;

#[test]
fn a_group_lies_where_kafka_puts_it() {
    // Java: "console-consumer-1234".hashCode() & 0x7fffffff, and a hash whose sign is set.
    assert_eq!(partition_of("", 50), 0);
    assert_eq!(partition_of("a", 50), 97 % 50);
    assert_eq!(partition_of("group", 50), 98_629_247 % 50);
    assert_eq!(partition_of("my-group", 50), (-1_906_497_762 & 0x7fff_ffff) % 50);
    assert_eq!(partition_of("polygenelubricants", 50), 0);
}

/// Expiry of offsets (KIP-211).
mod expiry {
    use super::super::classic::record::{ClassicGroupValue, ClassicMemberValue};
    use super::*;
    use crate::metadata::Image;
    use crate::settings::{BrokerSettings, GroupSettings};
    use bytes::Bytes;
    use logmill_wire::api::consumer_protocol_subscription::ConsumerProtocolSubscription;
    use logmill_wire::api::record_bytes;
    use logmill_wire::ids::{LeaderEpoch, MonotonicNs, Offset, PartitionIndex, TimestampMs, TopicId};

    const MINUTE: i64 = 60_000;
    /// `offsets.retention.minutes` in these tests.
    const RETENTION: i64 = 10;

    struct Stage {
        groups: Groups,
        settings: GroupSettings,
        image: Image,
    }

    impl Stage {
        fn new() -> Self {
            let values = [("offsets.retention.minutes".to_owned(), RETENTION.to_string())];
            let settings = BrokerSettings::from_values(values.into_iter().collect()).unwrap().groups;
            Self { groups: Groups::default(), settings, image: Image::default() }
        }

        fn at<T>(&mut self, minute: i64, step: impl FnOnce(&mut Groups, &Context<'_>) -> T) -> T {
            let now = Now { monotonic: MonotonicNs(0), wall: TimestampMs(minute * MINUTE) };
            let cx = Context { now, settings: &self.settings, image: &self.image };
            step(&mut self.groups, &cx)
        }

        fn commit(&mut self, minute: i64, topic: &str, retention_ms: i64) {
            let partition = NamedPartition { topic: topic.into(), partition: PartitionIndex(0) };
            let offset =
                OffsetAndMetadata { offset: Offset(1), leader_epoch: LeaderEpoch::NONE, metadata: "".into() };
            let request = CommitRequest {
                group_id: "g".into(),
                member: MemberIdentity { member_id: "".into(), instance_id: None },
                generation_or_epoch: -1,
                retention_ms,
                offsets: vec![(partition, TopicId::ZERO, offset)],
                version: 4,
            };
            let out = self
                .at(minute, |groups, cx| groups.step(Ticket(1), GroupRequest::CommitOffsets(request), cx));
            assert_eq!(out.replies, [(Ticket(1), GroupReply::CommitOffsets(vec![ErrorCode::None]))]);
        }

        /// The group as a record of it tells: with one consumer of `subscribed`, or empty since `minute`.
        fn replay(&mut self, minute: i64, protocol_type: &str, subscribed: Option<&str>) {
            let members = subscribed.map(|topic| {
                let subscription = ConsumerProtocolSubscription {
                    topics: vec![topic.into()].into(),
                    ..ConsumerProtocolSubscription::default()
                };
                ClassicMemberValue {
                    member_id: "m".into(),
                    instance_id: None,
                    client_id: "c".into(),
                    client_host: "/127.0.0.1".into(),
                    rebalance_timeout_ms: 1000,
                    session_timeout_ms: 1000,
                    subscription: record_bytes(0, &subscription, 0).unwrap().into(),
                    assignment: Bytes::new(),
                }
            });
            let value = ClassicGroupValue {
                protocol_type: protocol_type.into(),
                generation: 1,
                protocol: subscribed.map(|_| "range".into()),
                leader: subscribed.map(|_| "m".into()),
                state_timestamp: Some(TimestampMs(minute * MINUTE)),
                members: members.into_iter().collect(),
            };
            self.groups.replay(GroupRecord::Classic { group_id: "g".into(), value: Some(value) });
        }

        /// What is forgotten at `minute`: topics, and "the group".
        fn expired(&mut self, minute: i64) -> Vec<String> {
            let out = self.at(minute, |groups, cx| groups.expire_offsets(cx));
            let shown = |record: &GroupRecord| match record {
                GroupRecord::Offset { partition, value: None, .. } => partition.topic.to_string(),
                GroupRecord::Classic { value: None, .. } => "the group".to_owned(),
                other => panic!("{other:?}"),
            };
            out.records.iter().map(shown).collect()
        }
    }

    #[test]
    fn who_only_commits_loses_each_offset_by_its_age() {
        let mut stage = Stage::new();
        stage.commit(0, "old", -1);
        stage.commit(5, "young", -1);
        assert!(stage.expired(9).is_empty());
        assert_eq!(stage.expired(10), ["old"]);
        assert_eq!(stage.expired(15), ["young", "the group"]);
        assert!(stage.expired(99).is_empty());
    }

    #[test]
    fn an_offset_may_have_a_time_of_its_own() {
        let mut stage = Stage::new();
        stage.commit(0, "short", 2 * MINUTE);
        stage.commit(0, "long", 60 * MINUTE);
        assert_eq!(stage.expired(2), ["short"]);
        assert!(stage.expired(59).is_empty());
        assert_eq!(stage.expired(60), ["long", "the group"]);
    }

    #[test]
    fn an_empty_group_keeps_its_offsets_from_the_departure_of_its_last_member() {
        let mut stage = Stage::new();
        stage.commit(0, "t", -1);
        stage.replay(100, "consumer", None);
        assert!(stage.expired(109).is_empty());
        assert_eq!(stage.expired(110), ["t", "the group"]);
    }

    #[test]
    fn consumers_keep_the_offsets_of_what_they_subscribe_to() {
        let mut stage = Stage::new();
        stage.commit(0, "mine", -1);
        stage.commit(0, "left", -1);
        stage.replay(0, "consumer", Some("mine"));
        assert_eq!(stage.expired(1000), ["left"]);
    }

    #[test]
    fn members_that_are_not_understood_keep_everything() {
        let mut stage = Stage::new();
        stage.commit(0, "t", -1);
        stage.replay(0, "connect", Some("t"));
        assert!(stage.expired(1000).is_empty());
    }

    #[test]
    fn offsets_of_topics_that_are_gone_go_too() {
        let mut stage = Stage::new();
        stage.commit(0, "kept", -1);
        stage.commit(0, "gone", -1);
        let out = stage.groups.forget_topics(&|topic| topic == "gone");
        assert!(matches!(
            &out.records[..],
            [GroupRecord::Offset { partition, value: None, .. }] if &*partition.topic == "gone"
        ));
        assert_eq!(stage.expired(10), ["kept", "the group"]);
    }
}
