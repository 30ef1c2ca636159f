//! DescribeLogDirs.

use super::fakes::Asked;
use super::{Fixture, batch};
use crate::partition::command::PartitionError;
use crate::runtime::Runtime;
use logmill_wire::api::describe_log_dirs::{DescribableLogDirTopic, Request};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, PartitionIndex, TopicPartition};
use std::path::PathBuf;

fn fixture() -> Fixture {
    let fixture = Fixture::with(&[("log.dirs", "/data")]);
    let runtime = fixture.runtime.clone();
    fixture.world.block_on(&fixture.runtime, async move {
        runtime.create_directory(&PathBuf::from("/data")).await.unwrap();
    });
    fixture
}

fn request<'a>(topics: Option<&[(&'a str, &[i32])]>) -> Request<'a> {
    let topic = |&(topic, partitions): &(&'a str, &[i32])| DescribableLogDirTopic {
        topic: topic.into(),
        partitions: partitions.to_vec().into(),
    };
    Request { topics: topics.map(|topics| topics.iter().map(topic).collect()) }
}

type Sizes = Vec<(String, Vec<(i32, i64)>)>;

fn sizes(fixture: &Fixture, request: &Request<'_>, version: i16) -> Sizes {
    fixture.ask(request, version, |response| {
        assert_eq!(response.error_code, 0);
        let results: Vec<_> = response.results.iter().collect();
        assert_eq!((results.len(), results[0].error_code, &*results[0].log_dir), (1, 0, "/data"));
        if version >= 4 {
            assert!(results[0].total_bytes >= results[0].usable_bytes && results[0].usable_bytes > 0);
        }
        let topics = results[0].topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                assert!(!partition.is_future_key && partition.offset_lag == 0);
                (partition.partition_index, partition.partition_size)
            });
            (topic.name.into_owned(), partitions.collect())
        });
        topics.collect()
    })
}

#[test]
fn every_partition_that_is_here_has_a_size() {
    let fixture = fixture();
    let id = fixture.create("t", 2);
    fixture.broker.create_led_by("far", 1, NodeId(2));
    let records = batch(3, 100);
    let bytes = i64::try_from(records.len()).unwrap();
    fixture.broker.append(TopicPartition { topic_id: id, partition: PartitionIndex(1) }, &records);
    for version in 1..=5 {
        let expected = [("t".to_owned(), vec![(0, 0), (1, bytes)])];
        assert_eq!(sizes(&fixture, &request(None), version), expected);
    }
    assert!(fixture.broker.asked.borrow().iter().all(|asked| *asked == Asked::Sizes(None)));
    fixture.assert_all_room_is_free();
}

#[test]
fn only_what_is_asked_for_is_told() {
    let fixture = fixture();
    fixture.create("t", 3);
    fixture.create("u", 1);
    let some = [("t", &[2, 0, 2, 7, -1][..]), ("missing", &[0])];
    assert_eq!(sizes(&fixture, &request(Some(&some)), 4), [("t".to_owned(), vec![(0, 0), (2, 0)])]);
    let asked = fixture.broker.asked.borrow().clone();
    // The fake broker has two shards, and each is asked once: 2, 0 and 2 again.
    assert!(
        matches!(
            asked.as_slice(),
            [Asked::Sizes(Some(2)), Asked::Sizes(Some(1))]
                | [Asked::Sizes(Some(3))]
                | [Asked::Sizes(Some(1)), Asked::Sizes(Some(2))]
        ),
        "{asked:?}"
    );
    assert_eq!(sizes(&fixture, &request(Some(&[])), 4), []);
    fixture.assert_all_room_is_free();
}

#[test]
fn a_directory_that_failed_says_so() {
    let fixture = fixture();
    fixture.create("t", 1);
    *fixture.broker.sizes_error.borrow_mut() = Some(PartitionError::Storage("a flush failed".into()));
    fixture.ask(&request(None), 5, |response| {
        let result = response.results.iter().next().unwrap();
        assert_eq!(result.error_code, ErrorCode::KafkaStorageError.code());
        assert!(result.topics.is_empty() && response.error_code == 0 && !result.is_cordoned);
    });
}
