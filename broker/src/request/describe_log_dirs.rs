//! DescribeLogDirs: what lies in the log directory, and how full its volume is (KIP-113, KIP-827).

use super::call::{Call, Handled, decode};
use super::services::Services;
use crate::partition::command::{PartitionCommand, PartitionError};
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
        let result = describe(&services, &image, &wanted).await;
        let outcome = answer.reply(&Response { results: vec![result].into(), ..Response::default() });
        drop(room);
        outcome
    }))
}

async fn describe<R: Runtime>(
    services: &Rc<Services<R>>,
    image: &Arc<Image>,
    wanted: &Wanted,
) -> DescribeLogDirsResult<'static> {
    let directory = services.settings.data_directories().into_iter().next().unwrap_or_default();
    let path = std::path::absolute(&directory).unwrap_or(directory);
    let mut result = DescribeLogDirsResult {
        log_dir: path.to_string_lossy().into_owned().into(),
        ..DescribeLogDirsResult::default()
    };
    match sizes(services, image, wanted).await {
        Ok(sizes) => result.topics = topics(services, image, wanted, &sizes).await.into(),
        Err(error) => result.error_code = error.code(),
    }
    if let Ok(volume) = services.runtime.volume(&path).await {
        result.total_bytes = i64::try_from(volume.total_bytes).unwrap_or(i64::MAX);
        result.usable_bytes = i64::try_from(volume.usable_bytes).unwrap_or(i64::MAX);
    }
    result
}

/// The sizes of the logs that have one: each shard is asked once.
async fn sizes<R: Runtime>(
    services: &Services<R>,
    image: &Image,
    wanted: &Wanted,
) -> Result<BTreeMap<TopicPartition, u64>, ErrorCode> {
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
    let mut sizes = BTreeMap::new();
    for answer in answers {
        match within(&services.runtime, patience, answer).await {
            Some(Ok(Ok(found))) => sizes.extend(found),
            Some(Ok(Err(PartitionError::Stopping)) | Err(oneshot::Closed)) => {
                return Err(ErrorCode::KafkaStorageError);
            }
            Some(Ok(Err(error))) => return Err(error.code()),
            None => return Err(ErrorCode::RequestTimedOut),
        }
    }
    Ok(sizes)
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
    sizes: &BTreeMap<TopicPartition, u64>,
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
            // One that was never written to has no log yet.
            let size = sizes.get(&key).copied().unwrap_or(0);
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
