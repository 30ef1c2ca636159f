//! DescribeTopicPartitions: the partitions of topics, page by page (KIP-966).

use super::call::{Answer, Call, Handled, decode};
use super::services::Services;
use super::topics::{is_legal_name, is_offline};
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::{Operation, RequestContext, Resource};
use logmill_state::metadata::{Image, NO_LEADER, Topic, is_internal_topic};
use logmill_wire::api::describe_topic_partitions::{
    DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic, Request, Response,
    ResponseCursor,
};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, PartitionIndex, TopicId, TopicPartition};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

/// How many partitions or topics go by between two looks at the clock.
const STRIDE: usize = 256;

/// Where a page begins.
#[derive(Clone, Default)]
struct Start {
    topic: String,
    partition: i32,
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    call.answer.charge(request.topics.len())?;
    let start = request
        .cursor
        .as_ref()
        .map(|cursor| Start { topic: cursor.topic_name.to_string(), partition: cursor.partition_index });
    let named: BTreeSet<String> = request.topics.iter().map(|topic| topic.name.into_owned()).collect();
    let is_refused = start
        .as_ref()
        .is_some_and(|start| start.partition < 0 || (!named.is_empty() && !named.contains(&start.topic)));
    if is_refused {
        return refuse(call.answer, &request);
    }
    let start = start.unwrap_or_default();
    let limit_max = call.services.settings.network.max_request_partitions;
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0).min(limit_max).max(1);
    let Call { services, context, answer, .. } = call;
    Ok(Box::pin(async move {
        let page = Page { services: &services, context: &context, image: services.image(), start };
        let response = if named.is_empty() { page.of_all(limit).await } else { page.of(named, limit).await };
        answer.reply(&response)
    }))
}

/// A cursor that makes no sense fails every topic of the request, as in Kafka; the response has no other place
/// for an error.
fn refuse(answer: Answer, request: &Request<'_>) -> Handled {
    let topics = request.topics.iter();
    let refused = topics.map(|topic| failed(topic.name.into_owned(), ErrorCode::InvalidRequest));
    answer.ready(&Response { topics: refused.collect(), ..Response::default() })
}

fn failed(name: String, error: ErrorCode) -> DescribeTopicPartitionsResponseTopic<'static> {
    DescribeTopicPartitionsResponseTopic {
        error_code: error.code(),
        is_internal: is_internal_topic(&name),
        topic_id: TopicId::ZERO,
        name: Some(name.into()),
        ..DescribeTopicPartitionsResponseTopic::default()
    }
}

/// What is still to be told, and what is told already.
struct Told {
    remaining: usize,
    topics: Vec<DescribeTopicPartitionsResponseTopic<'static>>,
    next: Option<ResponseCursor<'static>>,
}

struct Page<'s, R: Runtime> {
    services: &'s Rc<Services<R>>,
    context: &'s RequestContext,
    image: Arc<Image>,
    start: Start,
}

impl<R: Runtime> Page<'_, R> {
    fn may_see(&self, name: &str) -> bool {
        let authorizer = &self.services.state.authorizer;
        authorizer.authorize(self.context, Operation::Describe, Resource::Topic(name)).is_allowed()
    }

    async fn rest(&self, passed: usize) {
        if passed.is_multiple_of(STRIDE) && self.services.runtime.should_yield() {
            self.services.runtime.yield_now().await;
        }
    }

    async fn of_all(&self, limit: usize) -> Response<'static> {
        let mut told = Told { remaining: limit, topics: Vec::new(), next: None };
        for (passed, topic) in self.image.topics_from(&self.start.topic).enumerate() {
            self.rest(passed).await;
            if self.may_see(&topic.name) && !self.tell(topic, &mut told).await {
                break;
            }
        }
        response(told, Vec::new())
    }

    async fn of(&self, named: BTreeSet<String>, limit: usize) -> Response<'static> {
        let mut told = Told { remaining: limit, topics: Vec::new(), next: None };
        let mut denied = Vec::new();
        let mut is_full = false;
        let wanted = named.into_iter().filter(|name| *name >= self.start.topic);
        for (passed, name) in wanted.enumerate() {
            self.rest(passed).await;
            if !self.may_see(&name) {
                denied.push(failed(name, ErrorCode::TopicAuthorizationFailed));
            } else if is_full {
                // Only who may not see a topic is still told so.
            } else if let Some(topic) = self.image.topic_by_name(&name) {
                is_full = !self.tell(topic, &mut told).await;
            } else if told.remaining == 0 {
                told.next = Some(cursor(&name, 0));
                is_full = true;
            } else {
                told.topics.push(self.missing(name));
            }
        }
        response(told, denied)
    }

    fn missing(&self, name: String) -> DescribeTopicPartitionsResponseTopic<'static> {
        let error = if is_legal_name(&name) {
            ErrorCode::UnknownTopicOrPartition
        } else {
            ErrorCode::InvalidTopicException
        };
        let operations = self.operations(&name);
        DescribeTopicPartitionsResponseTopic {
            topic_authorized_operations: operations,
            ..failed(name, error)
        }
    }

    fn operations(&self, name: &str) -> i32 {
        self.services.state.authorizer.authorized_operations(self.context, Resource::Topic(name))
    }

    /// Adds as many of the topic's partitions as the page has room for. Returns whether there is room for more
    /// topics.
    async fn tell(&self, topic: &Topic, told: &mut Told) -> bool {
        if told.remaining == 0 {
            told.next = Some(cursor(&topic.name, 0));
            return false;
        }
        let first = if *topic.name == *self.start.topic { self.start.partition } else { 0 };
        let count = topic.partition_count();
        let room = i32::try_from(told.remaining).unwrap_or(i32::MAX);
        let end = count.min(first.saturating_add(room));
        let mut partitions = Vec::with_capacity(usize::try_from(end - first).unwrap_or(0));
        for index in first..end {
            self.rest(partitions.len()).await;
            partitions.extend(self.partition(topic, index));
        }
        told.remaining = told.remaining.saturating_sub(partitions.len());
        told.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(topic.name.to_string().into()),
            topic_id: topic.id,
            is_internal: is_internal_topic(&topic.name),
            partitions: partitions.into(),
            topic_authorized_operations: self.operations(&topic.name),
            ..DescribeTopicPartitionsResponseTopic::default()
        });
        if end < count {
            told.next = Some(cursor(&topic.name, end));
        }
        end >= count
    }

    fn partition(
        &self,
        topic: &Topic,
        index: i32,
    ) -> Option<DescribeTopicPartitionsResponsePartition<'static>> {
        let partition = self.image.partition(topic, PartitionIndex(index))?;
        let listener = &*self.context.listener;
        let is_known = |node: &NodeId| {
            self.image.broker(*node).is_some_and(|broker| broker.endpoint(listener).is_some())
        };
        let told = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
        let key = TopicPartition { topic_id: topic.id, partition: PartitionIndex(index) };
        let offline = partition.replicas.iter().filter(|node| is_offline(&self.image, key, **node, listener));
        Some(DescribeTopicPartitionsResponsePartition {
            error_code: ErrorCode::None.code(),
            partition_index: index,
            leader_id: Some(partition.leader).filter(is_known).unwrap_or(NO_LEADER).0,
            leader_epoch: partition.leader_epoch.0,
            replica_nodes: told(partition.replicas).into(),
            isr_nodes: told(partition.in_sync).into(),
            eligible_leader_replicas: Some(told(partition.eligible).into()),
            // Of a partition without in-sync and eligible replicas nobody is taken for the last one.
            last_known_elr: Some(Vec::new().into()),
            offline_replicas: offline.map(|node| node.0).collect(),
        })
    }
}

fn cursor(topic: &str, partition_index: i32) -> ResponseCursor<'static> {
    ResponseCursor { topic_name: topic.to_owned().into(), partition_index }
}

fn response(told: Told, denied: Vec<DescribeTopicPartitionsResponseTopic<'static>>) -> Response<'static> {
    let mut topics = told.topics;
    topics.extend(denied);
    Response { topics: topics.into(), next_cursor: told.next, ..Response::default() }
}
