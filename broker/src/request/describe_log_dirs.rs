//! DescribeLogDirs: what lies in each log directory, and how full its volume is (KIP-113, KIP-827).

use super::call::{Call, Handled, decode};
use super::services::Services;
use crate::partition::command::{DirectorySizes, PartitionCommand};
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::within;
use logmill_state::admission::authorizer::{Operation, Resource};
use logmill_state::metadata::{Image, Topic};
use logmill_wire::api::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic, Request, Response,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{PartitionIndex, TopicPartition};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How many partitions go by between two looks at the clock.
const STRIDE: usize = 256;

/// What one partition takes while the answer is made, in bytes.
const PARTITION_BYTES: usize = 128;

/// What is asked for: the partitions of each topic, or (`None`) everything.
type Wanted = Option<BTreeMap<String, Vec<i32>>>;

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    let topics = request.topics.iter().flatten();
    call.answer.charge(topics.map(|topic| 1 + topic.partitions.len()).sum())?;
    if !call.allows(Operation::Describe, Resource::Cluster) {
        let error_code = ErrorCode::ClusterAuthorizationFailed.code();
        return call.answer.ready(&Response { error_code, ..Response::default() });
    }
    let wanted: Wanted = request.topics.as_ref().map(|topics| {
        let mut wanted: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for topic in topics {
            wanted.entry(topic.topic.into_owned()).or_default().extend(topic.partitions.iter());
        }
        wanted
    });
    let Call { services, mut answer, .. } = call;
    Ok(Box::pin(async move {
        let image = services.image();
        // The request's own room goes before room of the same class is waited for.
        answer.room.resize(0);
        let count = match &wanted {
            None => usize::try_from(image.partition_count()).unwrap_or(usize::MAX),
            Some(wanted) => wanted.values().map(Vec::len).sum(),
        };
        let room = services.answer_room(count.saturating_mul(PARTITION_BYTES)).await;
        let results = describe(&services, &image, &wanted).await;
        let outcome = answer.reply(&Response { results: results.into(), ..Response::default() });
        drop(room);
        outcome
    }))
}

/// What one directory holds, or why that is not known.
type Held = Result<BTreeMap<TopicPartition, u64>, ErrorCode>;

async fn describe<R: Runtime>(
    services: &Rc<Services<R>>,
    image: &Arc<Image>,
    wanted: &Wanted,
) -> Vec<DescribeLogDirsResult<'static>> {
    let directories = services.settings.data_directories();
    let is_only_one = directories.len() == 1;
    let mut held = sizes(services, image, wanted).await;
    let mut results = Vec::new();
    for (number, directory) in directories.into_iter().enumerate() {
        let path = std::path::absolute(&directory).unwrap_or(directory);
        let mut result = DescribeLogDirsResult {
            log_dir: path.to_string_lossy().into_owned().into(),
            ..DescribeLogDirsResult::default()
        };
        match held.remove(&number).unwrap_or_else(|| Ok(BTreeMap::new())) {
            Ok(sizes) => result.topics = topics(services, image, wanted, (&sizes, is_only_one)).await.into(),
            Err(error) => result.error_code = error.code(),
        }
        if let Ok(volume) = services.runtime.volume(&path).await {
            result.total_bytes = i64::try_from(volume.total_bytes).unwrap_or(i64::MAX);
            result.usable_bytes = i64::try_from(volume.usable_bytes).unwrap_or(i64::MAX);
        }
        results.push(result);
    }
    results
}

/// The sizes of the logs that have one, by directory: each shard is asked once.
async fn sizes<R: Runtime>(services: &Services<R>, image: &Image, wanted: &Wanted) -> BTreeMap<usize, Held> {
    let router = &services.partitions;
    let mut of_shard: BTreeMap<_, Option<Vec<TopicPartition>>> = BTreeMap::new();
    match wanted {
        None => of_shard.extend(router.shards().map(|shard| (shard, None))),
        Some(wanted) => {
            for (name, partitions) in wanted {
                let Some(topic) = image.topic_by_name(name) else { continue };
                for &partition in partitions {
                    let key = TopicPartition { topic_id: topic.id, partition: PartitionIndex(partition) };
                    if is_here(services, image, topic, partition) {
                        let keys = of_shard.entry(router.shard_of(key)).or_insert_with(|| Some(Vec::new()));
                        keys.get_or_insert_default().push(key);
                    }
                }
            }
            if of_shard.is_empty() {
                // Which directories are out of service is told in any case.
                of_shard.extend(router.shards().next().map(|shard| (shard, Some(Vec::new()))));
            }
        }
    }
    let answers: Vec<_> = of_shard
        .into_iter()
        .map(|(shard, partitions)| {
            let (reply, answer) = oneshot::channel();
            router.send_to(shard, PartitionCommand::Sizes { partitions, reply });
            answer
        })
        .collect();
    let patience = Duration::from_millis(services.settings.network.request_timeout_ms);
    let mut held: BTreeMap<usize, Held> = BTreeMap::new();
    for answer in answers {
        let told = match within(&services.runtime, patience, answer).await {
            Some(Ok(told)) => told,
            Some(Err(oneshot::Closed)) => return nothing_known(services, ErrorCode::KafkaStorageError),
            None => return nothing_known(services, ErrorCode::RequestTimedOut),
        };
        for DirectorySizes { directory, sizes } in told {
            let of_directory = held.entry(directory).or_insert_with(|| Ok(BTreeMap::new()));
            match (of_directory, sizes) {
                (Ok(known), Ok(found)) => known.extend(found),
                (of_directory @ Ok(_), Err(error)) => *of_directory = Err(error.code()),
                (Err(_), _) => {}
            }
        }
    }
    held
}

fn nothing_known<R: Runtime>(services: &Services<R>, error: ErrorCode) -> BTreeMap<usize, Held> {
    let directories = services.settings.data_directories().len();
    (0..directories).map(|directory| (directory, Err(error))).collect()
}

/// Whether this broker has a replica of the partition.
fn is_here<R: Runtime>(services: &Services<R>, image: &Image, topic: &Topic, partition: i32) -> bool {
    image
        .partition(topic, PartitionIndex(partition))
        .is_some_and(|partition| partition.replicas.contains(&services.node_id))
}

async fn topics<R: Runtime>(
    services: &Services<R>,
    image: &Image,
    wanted: &Wanted,
    (sizes, has_all): (&BTreeMap<TopicPartition, u64>, bool),
) -> Vec<DescribeLogDirsTopic<'static>> {
    let all: Vec<(&Arc<Topic>, Vec<i32>)> = match wanted {
        None => image.topics().map(|topic| (topic, (0..topic.partition_count()).collect())).collect(),
        Some(wanted) => wanted
            .iter()
            .filter_map(|(name, partitions)| {
                let mut partitions = partitions.clone();
                partitions.sort_unstable();
                partitions.dedup();
                Some((image.topic_by_name(name)?, partitions))
            })
            .collect(),
    };
    let mut told = Vec::new();
    let mut passed = 0_usize;
    for (topic, indexes) in all {
        let mut partitions = Vec::new();
        for index in indexes {
            passed += 1;
            if passed.is_multiple_of(STRIDE) && services.runtime.should_yield() {
                services.runtime.yield_now().await;
            }
            if !is_here(services, image, topic, index) {
                continue;
            }
            let key = TopicPartition { topic_id: topic.id, partition: PartitionIndex(index) };
            let size = match sizes.get(&key) {
                Some(size) => *size,
                // One that was never written to has no log yet, and of several directories none until then.
                None if has_all => 0,
                None => continue,
            };
            partitions.push(DescribeLogDirsPartition {
                partition_index: index,
                partition_size: i64::try_from(size).unwrap_or(i64::MAX),
                offset_lag: 0,
                is_future_key: false,
            });
        }
        if !partitions.is_empty() {
            let name = topic.name.to_string().into();
            told.push(DescribeLogDirsTopic { name, partitions: partitions.into() });
        }
    }
    told
}
