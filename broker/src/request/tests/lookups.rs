//! ListOffsets and OffsetForLeaderEpoch.

use super::fakes::Asked;
use super::{Fixture, NODE, batch};
use crate::partition::command::{OffsetQuery, PartitionError};
use logmill_state::partition::EpochCheckError;
use logmill_wire::api::{delete_records, list_offsets, offset_for_leader_epoch};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, TimestampMs, TopicId, TopicPartition};

fn partition(topic_id: TopicId, partition: i32) -> TopicPartition {
    TopicPartition { topic_id, partition: PartitionIndex(partition) }
}

fn list<'a>(topic: &'a str, partitions: &[(i32, i64)]) -> list_offsets::Request<'a> {
    let partitions =
        partitions.iter().map(|&(partition_index, timestamp)| list_offsets::ListOffsetsPartition {
            partition_index,
            timestamp,
            ..list_offsets::ListOffsetsPartition::default()
        });
    let topic = list_offsets::ListOffsetsTopic { name: topic.into(), partitions: partitions.collect() };
    list_offsets::Request { replica_id: -1, topics: vec![topic].into(), ..list_offsets::Request::default() }
}

fn listed(
    fixture: &Fixture,
    request: &list_offsets::Request<'_>,
    version: i16,
) -> Vec<(ErrorCode, i64, i64, i32)> {
    fixture.ask(request, version, |response| {
        let partitions = response.topics.iter().flat_map(|topic| topic.partitions.into_vec());
        partitions
            .map(|found| {
                let error = ErrorCode::from_code(found.error_code).unwrap();
                (error, found.offset, found.timestamp, found.leader_epoch)
            })
            .collect()
    })
}

#[test]
fn special_timestamps_depend_on_the_version() {
    // Trap 12.
    let fixture = Fixture::new();
    fixture.create("t", 1);
    for (timestamp, first_version, query) in [
        (-1, 1, Some(OffsetQuery::Latest)),
        (-2, 1, Some(OffsetQuery::Earliest)),
        (-3, 7, Some(OffsetQuery::MaxTimestamp)),
        (-4, 8, Some(OffsetQuery::EarliestLocal)),
        (-5, 9, Some(OffsetQuery::LatestTiered)),
        (-6, 11, None),
        (77, 1, Some(OffsetQuery::Timestamp(TimestampMs(77)))),
    ] {
        for version in 1..=11 {
            fixture.broker.asked.borrow_mut().clear();
            let (error, offset, ..) = listed(&fixture, &list("t", &[(0, timestamp)]), version).remove(0);
            let asked = fixture.broker.asked.borrow().clone();
            if version < first_version {
                assert_eq!((error, offset), (ErrorCode::UnsupportedVersion, -1), "{timestamp} v{version}");
                assert!(asked.is_empty());
            } else if let Some(query) = query {
                assert_eq!((error, offset), (ErrorCode::None, 0), "{timestamp} v{version}");
                assert_eq!(asked, [Asked::Find(query)]);
            } else {
                assert_eq!((error, offset), (ErrorCode::None, -1), "nothing lies in tiers");
            }
        }
    }
    assert_eq!(listed(&fixture, &list("t", &[(0, -7)]), 11)[0].0, ErrorCode::UnsupportedVersion);
}

#[test]
fn leader_epochs_are_those_of_the_metadata() {
    // Trap 10: a real epoch in one API and -1 in another freezes commits.
    let fixture = Fixture::new();
    let id = fixture.create("t", 1);
    fixture.broker.append(partition(id, 0), &batch(2, 1));
    fixture.broker.restart(NODE, 4);
    let metadata_epoch = fixture.services.image().leader_epoch(partition(id, 0)).unwrap();
    assert_eq!(metadata_epoch, LeaderEpoch(3));
    assert_eq!(listed(&fixture, &list("t", &[(0, -1)]), 4), [(ErrorCode::None, 2, -1, metadata_epoch.0)]);
    assert_eq!(listed(&fixture, &list("t", &[(0, -1)]), 3)[0].3, -1, "older versions have no place for it");
    let request = epochs("t", &[(0, metadata_epoch.0)]);
    assert_eq!(epoch_ends(&fixture, &request, 4), [(ErrorCode::None, metadata_epoch.0, 2)]);
}

#[test]
fn lookups_fail_partition_by_partition() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 3);
    fixture.broker.create_led_by("elsewhere", 1, NodeId(2));
    let unknown_epoch = EpochCheckError::UnknownLeaderEpoch { current: LeaderEpoch(3) };
    fixture.broker.errors.borrow_mut().insert(partition(id, 1), PartitionError::Epoch(unknown_epoch));
    let codes: Vec<_> = listed(&fixture, &list("t", &[(0, -1), (1, -1), (7, -1), (2, -1), (2, -2)]), 5);
    let codes: Vec<_> = codes.into_iter().map(|listed| listed.0).collect();
    let expected = [
        ErrorCode::None,
        ErrorCode::UnknownLeaderEpoch,
        ErrorCode::UnknownTopicOrPartition,
        ErrorCode::InvalidRequest,
        ErrorCode::InvalidRequest,
    ];
    assert_eq!(codes, expected);
    // Trap 17: OFFSET_NOT_AVAILABLE is never an answer to a lookup without a cause.
    assert!(!codes.contains(&ErrorCode::OffsetNotAvailable));
    assert_eq!(listed(&fixture, &list("elsewhere", &[(0, -1)]), 5)[0].0, ErrorCode::NotLeaderOrFollower);
    assert_eq!(listed(&fixture, &list("nowhere", &[(0, -1)]), 5)[0].0, ErrorCode::UnknownTopicOrPartition);
}

fn epochs<'a>(topic: &'a str, partitions: &[(i32, i32)]) -> offset_for_leader_epoch::Request<'a> {
    use offset_for_leader_epoch::{OffsetForLeaderPartition, OffsetForLeaderTopic, Request};
    let partitions = partitions.iter().map(|&(partition, leader_epoch)| OffsetForLeaderPartition {
        partition,
        leader_epoch,
        ..OffsetForLeaderPartition::default()
    });
    let topic = OffsetForLeaderTopic { topic: topic.into(), partitions: partitions.collect() };
    Request { topics: vec![topic].into(), ..Request::default() }
}

fn epoch_ends(
    fixture: &Fixture,
    request: &offset_for_leader_epoch::Request<'_>,
    version: i16,
) -> Vec<(ErrorCode, i32, i64)> {
    fixture.ask(request, version, |response| {
        let partitions = response.topics.iter().flat_map(|topic| topic.partitions.into_vec());
        partitions
            .map(|end| (ErrorCode::from_code(end.error_code).unwrap(), end.leader_epoch, end.end_offset))
            .collect()
    })
}

#[test]
fn a_future_epoch_has_no_end() {
    // Trap 1: any offset here would make clients report lost records.
    let fixture = Fixture::new();
    let id = fixture.create("t", 2);
    fixture.broker.append(partition(id, 0), &batch(5, 1));
    fixture.broker.restart(NODE, 4);
    let fenced = EpochCheckError::FencedLeaderEpoch { current: LeaderEpoch(3) };
    fixture.broker.errors.borrow_mut().insert(partition(id, 1), PartitionError::Epoch(fenced));
    for version in 2..=4 {
        let request = epochs("t", &[(0, 4), (0, 1), (1, 3), (5, 1)]);
        assert_eq!(
            epoch_ends(&fixture, &request, version),
            [
                (ErrorCode::None, -1, -1),
                (ErrorCode::None, 1, 5),
                (ErrorCode::FencedLeaderEpoch, -1, -1),
                (ErrorCode::UnknownTopicOrPartition, -1, -1),
            ]
        );
    }
    fixture.assert_all_room_is_free();
}

#[test]
fn records_are_deleted_in_every_version() {
    let fixture = Fixture::new();
    let id = fixture.create("t", 2);
    fixture.broker.append(partition(id, 0), &batch(10, 5));
    for version in 0..=2 {
        let wanted = [("t", 0, 4), ("t", 0, -1), ("t", 0, 11), ("t", 9, 0), ("missing", 0, 0)];
        let topics =
            wanted.iter().map(|&(name, partition_index, offset)| delete_records::DeleteRecordsTopic {
                name: name.into(),
                partitions: vec![delete_records::DeleteRecordsPartition { partition_index, offset }].into(),
            });
        let request = delete_records::Request { topics: topics.collect(), timeout_ms: 1000 };
        let results: Vec<_> = fixture.ask(&request, version, |response| {
            let partitions = response.topics.iter().flat_map(|topic| topic.partitions.into_vec());
            partitions.map(|one| (one.low_watermark, ErrorCode::from_code(one.error_code).unwrap())).collect()
        });
        let unknown = (-1, ErrorCode::UnknownTopicOrPartition);
        let (kept, all) = ((4, ErrorCode::None), (10, ErrorCode::None));
        let beyond = (-1, ErrorCode::OffsetOutOfRange);
        assert_eq!(results, [kept, all, beyond, unknown, unknown], "v{version}");
    }
}
