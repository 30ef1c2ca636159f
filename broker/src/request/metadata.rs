//! Metadata: brokers, topics and who leads their partitions (KIP-4, KIP-516, KIP-700).

use super::call::{Answer, Call, Handled, Outcome, decode};
use super::services::Services;
use super::topics::{controller_id, is_legal_name, is_offline};
use crate::cluster::command::{Creation, MetadataCommand};
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::within;
use crate::shard::memory::{MemoryClass, Reservation};
use logmill_state::admission::authorizer::{Operation, RequestContext, Resource};
use logmill_state::metadata::{Image, NO_LEADER, NewTopic, Topic, is_internal_topic};
use logmill_wire::api::metadata::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic, Request, Response,
};
use logmill_wire::api::{self, Message};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{NodeId, PartitionIndex, TopicId, TopicPartition};
use logmill_wire::primitives::{EncodeError, EncodedArray, Format};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The first version whose request can ask for "none" with an empty list, and for "all" with null.
const NULL_IS_ALL_FROM: i16 = 1;
/// The first version whose replicas may be brokers that are not there.
const OFFLINE_REPLICAS_ARE_TOLD_FROM: i16 = 1;
/// The first version whose errors can be LISTENER_NOT_FOUND; before, LEADER_NOT_AVAILABLE.
const LISTENER_ERROR_FROM: i16 = 6;
/// The first version in which a topic may be named by its id.
const BY_ID_FROM: i16 = 12;
/// Versions with authorized operations of the cluster.
const CLUSTER_OPERATIONS: std::ops::RangeInclusive<i16> = 8..=10;

/// How long a client waits for a topic that is created on demand before it is told to come again.
const CREATION_WAIT: Duration = Duration::from_secs(5);

/// What one partition takes while the response is built, in bytes: twice what it takes in the answer, with some
/// replicas.
const PARTITION_BYTES: usize = 128;

/// How many partitions are described between two looks at the clock.
const STRIDE: i32 = 256;

/// How a topic came to be in an answer.
#[derive(Clone, Copy)]
enum AskedFor {
    /// Nobody named it: all topics are asked for.
    WithAll,
    ByName,
    ById,
}

/// A topic that is asked for.
enum Wanted {
    Known(Arc<Topic>, AskedFor),
    /// It may come into being before the answer.
    Missing(String),
    Refused {
        name: Option<String>,
        id: TopicId,
        error: ErrorCode,
    },
}

impl Wanted {
    /// Whether one of these nodes leads one of its partitions in `image`.
    fn is_led_by(&self, image: &Image, nodes: &[NodeId]) -> bool {
        let Self::Known(topic, _) = self else { return false };
        let Some(topic) = image.topic_by_id(topic.id) else { return false };
        let leader = |index| image.partition(topic, PartitionIndex(index)).map(|partition| partition.leader);
        (0..topic.partition_count()).filter_map(leader).any(|leader| nodes.contains(&leader))
    }

    /// What the image has of it that the whole answer is made of: the brokers come from there, too, and a leader who is not
    /// among them is no leader to a client. Of a topic that was deleted meanwhile nothing may be told as it was: with the
    /// brokers of now that would be leaders in epochs that never were.
    fn renewed(self, image: &Image) -> Option<Self> {
        let Self::Known(topic, asked_for) = self else { return Some(self) };
        match (image.topic_by_id(topic.id), asked_for) {
            (Some(now), _) => Some(Self::Known(Arc::clone(now), asked_for)),
            (None, AskedFor::WithAll) => None,
            (None, AskedFor::ByName) => Some(Self::Missing(topic.name.to_string())),
            (None, AskedFor::ById) => {
                Some(Self::Refused { name: None, id: topic.id, error: ErrorCode::UnknownTopicId })
            }
        }
    }
}

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let version = call.answer.version;
    let request: Request<'_> = decode(&call.body, version)?;
    call.answer.charge(request.topics.as_ref().map_or(0, |topics| topics.len()))?;
    let image = call.services.image();
    let asks_for_all = match &request.topics {
        None => true,
        Some(topics) => version < NULL_IS_ALL_FROM && topics.is_empty(),
    };
    let wanted = if asks_for_all {
        let may_see = |topic: &&Arc<Topic>| call.allows(Operation::Describe, Resource::Topic(&topic.name));
        image
            .topics()
            .filter(may_see)
            .map(|topic| Wanted::Known(Arc::clone(topic), AskedFor::WithAll))
            .collect()
    } else {
        wanted(&call, &image, &request)
    };
    let creates = request.allow_auto_topic_creation && call.services.settings.cluster.auto_create_topics;
    let creation = if creates { create_missing(&call, &wanted) } else { None };
    let topic_operations = request.include_topic_authorized_operations;
    let cluster_operations =
        CLUSTER_OPERATIONS.contains(&version) && request.include_cluster_authorized_operations;
    let Call { services, context, mut answer, .. } = call;
    Ok(Box::pin(async move {
        let mut errors = BTreeMap::new();
        if let Some(creation) = creation {
            errors = within(&services.runtime, CREATION_WAIT, creation).await.unwrap_or_default();
        }
        let names = |image: &Image, lost: &[NodeId]| wanted.iter().any(|topic| topic.is_led_by(image, lost));
        services.until_not_lost(names).await;
        // The request's own room goes before room of the same class is waited for.
        answer.room.resize(0);
        let builder = Builder { services: &services, context: &context, version, topic_operations };
        builder.answer(answer, wanted, &errors, cluster_operations).await
    }))
}

fn wanted<R: Runtime>(call: &Call<R>, image: &Image, request: &Request<'_>) -> Vec<Wanted> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for topic in request.topics.iter().flatten() {
        let name = topic.name.map(|name| name.into_owned());
        // A topic that is named twice is answered once.
        if !seen.insert((name.clone(), topic.topic_id)) {
            continue;
        }
        all.push(wanted_topic(call, image, name, topic.topic_id));
    }
    all
}

fn wanted_topic<R: Runtime>(call: &Call<R>, image: &Image, name: Option<String>, id: TopicId) -> Wanted {
    let may_see = |name: &str| call.allows(Operation::Describe, Resource::Topic(name));
    let refused = |name, id, error| Wanted::Refused { name, id, error };
    let Some(name) = name else {
        if call.answer.version < BY_ID_FROM {
            return refused(Some(String::new()), id, ErrorCode::InvalidRequest);
        }
        return match image.topic_by_id(id) {
            Some(topic) if may_see(&topic.name) => Wanted::Known(Arc::clone(topic), AskedFor::ById),
            // Without the right to see it, it must look as if it were not there.
            _ => refused(None, id, ErrorCode::UnknownTopicId),
        };
    };
    if !may_see(&name) {
        return refused(Some(name), TopicId::ZERO, ErrorCode::TopicAuthorizationFailed);
    }
    match image.topic_by_name(&name) {
        Some(topic) => Wanted::Known(Arc::clone(topic), AskedFor::ByName),
        None if !is_legal_name(&name) => refused(Some(name), TopicId::ZERO, ErrorCode::InvalidTopicException),
        None => Wanted::Missing(name),
    }
}

/// Has the missing topics created; the future says which could not be, and why.
fn create_missing<R: Runtime>(
    call: &Call<R>,
    wanted: &[Wanted],
) -> Option<impl Future<Output = BTreeMap<String, ErrorCode>> + 'static + use<R>> {
    let missing = wanted.iter().filter_map(|wanted| match wanted {
        // The broker's own topics come into being with the coordinators that keep their state there.
        Wanted::Missing(name) if !is_internal_topic(name) => Some(name),
        _ => None,
    });
    let may_create = |name: &&String| {
        call.allows(Operation::Create, Resource::Cluster)
            || call.allows(Operation::Create, Resource::Topic(name))
    };
    let topics: Vec<_> = missing
        .filter(may_create)
        .map(|name| NewTopic {
            name: name.clone(),
            partition_count: -1,
            replication_factor: -1,
            assignments: Vec::new(),
            configs: Vec::new(),
        })
        .collect();
    if topics.is_empty() {
        return None;
    }
    let (reply, answer) = oneshot::channel();
    call.services.cluster.send(MetadataCommand::CreateMissingTopics { topics, reply });
    Some(async move {
        let Ok(Ok(creations)) = answer.await else { return BTreeMap::new() };
        let refusal = |creation: Creation| Some((creation.name, creation.refusal?.0));
        creations.into_iter().filter_map(refusal).collect()
    })
}

/// The layout of a version that the router has admitted.
fn format_of(version: i16) -> Format {
    api::format::<Response<'_>>(version).unwrap_or(Format { version, flexible: true })
}

struct Builder<'s, R: Runtime> {
    services: &'s Rc<Services<R>>,
    context: &'s RequestContext,
    version: i16,
    topic_operations: bool,
}

impl<R: Runtime> Builder<'_, R> {
    /// Encodes topic by topic, so that a large cluster's answer leaves the shard's other tasks their turns.
    async fn answer(
        &self,
        answer: Answer,
        wanted: Vec<Wanted>,
        errors: &BTreeMap<String, ErrorCode>,
        cluster_operations: bool,
    ) -> Outcome {
        // Topics that were created for this request are in the image now.
        let image = self.services.image();
        let partitions: usize = wanted
            .iter()
            .map(|wanted| match wanted {
                Wanted::Known(topic, _) => usize::try_from(topic.partition_count()).unwrap_or(0),
                Wanted::Missing(_) | Wanted::Refused { .. } => 1,
            })
            .sum();
        let room = self.room(partitions.saturating_mul(PARTITION_BYTES)).await;
        let format = format_of(self.version);
        let mut topics = EncodedArray::new(format);
        for wanted in wanted.into_iter().filter_map(|wanted| wanted.renewed(&image)) {
            let mut partitions = EncodedArray::new(format);
            let encoded = match self.topic(&image, wanted, errors, &mut partitions).await {
                Ok(topic) => topics.push(&topic),
                Err(error) => Err(error),
            };
            if let Err(error) = encoded {
                return answer.not_encoded(Response::NAME, error);
            }
        }
        let mut response = Response {
            cluster_id: image.cluster_id().map(|id| id.to_string().into()),
            controller_id: controller_id(self.services, &image),
            brokers: self.brokers(&image).into(),
            topics: topics.view(),
            ..Response::default()
        };
        if cluster_operations {
            let authorizer = &self.services.state.authorizer;
            response.cluster_authorized_operations =
                authorizer.authorized_operations(self.context, Resource::Cluster);
        }
        let outcome = answer.reply(&response);
        drop(room);
        outcome
    }

    /// Waits for room for the answer; one that is larger than the class waits for all of it.
    async fn room(&self, bytes: usize) -> Option<Reservation> {
        let memory = &self.services.state.memory;
        match memory.reserve(MemoryClass::Control, bytes.min(memory.size(MemoryClass::Control))) {
            Ok(reserve) => Some(reserve.await),
            Err(_) => None,
        }
    }

    fn brokers(&self, image: &Image) -> Vec<MetadataResponseBroker<'static>> {
        let broker = |broker: &Arc<logmill_state::metadata::Broker>| {
            let endpoint = broker.endpoint(&self.context.listener)?;
            Some(MetadataResponseBroker {
                node_id: broker.id.0,
                host: endpoint.host.clone().into(),
                port: i32::from(endpoint.port),
                rack: broker.rack.clone().map(Into::into),
            })
        };
        let now = self.services.runtime.monotonic();
        let is_named = |broker: &&Arc<logmill_state::metadata::Broker>| {
            !broker.fenced || self.services.lost_peers.is_named(broker.id, now)
        };
        image.brokers().filter(is_named).filter_map(broker).collect()
    }

    async fn topic<'p>(
        &self,
        image: &Image,
        wanted: Wanted,
        errors: &BTreeMap<String, ErrorCode>,
        partitions: &'p mut EncodedArray,
    ) -> Result<MetadataResponseTopic<'p>, EncodeError> {
        let failed = |name: Option<String>, topic_id, error: ErrorCode| MetadataResponseTopic {
            error_code: error.code(),
            is_internal: name.as_deref().is_some_and(is_internal_topic),
            name: name.map(Into::into),
            topic_id,
            ..MetadataResponseTopic::default()
        };
        match wanted {
            Wanted::Known(topic, _) => self.describe(image, &topic, partitions).await,
            Wanted::Refused { name, id, error } => Ok(failed(name, id, error)),
            Wanted::Missing(name) => match image.topic_by_name(&name) {
                Some(topic) => self.describe(image, topic, partitions).await,
                None => {
                    let error = errors.get(&name).copied().unwrap_or(ErrorCode::UnknownTopicOrPartition);
                    Ok(failed(Some(name), TopicId::ZERO, error))
                }
            },
        }
    }

    async fn describe<'p>(
        &self,
        image: &Image,
        topic: &Topic,
        partitions: &'p mut EncodedArray,
    ) -> Result<MetadataResponseTopic<'p>, EncodeError> {
        let runtime = &self.services.runtime;
        for index in 0..topic.partition_count() {
            if let Some(partition) = self.partition(image, topic, index) {
                partitions.push(&partition)?;
            }
            if index % STRIDE == STRIDE - 1 && runtime.should_yield() {
                runtime.yield_now().await;
            }
        }
        let mut described = MetadataResponseTopic {
            name: Some(topic.name.to_string().into()),
            topic_id: topic.id,
            is_internal: is_internal_topic(&topic.name),
            partitions: partitions.view(),
            ..MetadataResponseTopic::default()
        };
        if self.topic_operations {
            let authorizer = &self.services.state.authorizer;
            described.topic_authorized_operations =
                authorizer.authorized_operations(self.context, Resource::Topic(&topic.name));
        }
        // Many small topics are as much work as one large one.
        if runtime.should_yield() {
            runtime.yield_now().await;
        }
        Ok(described)
    }

    fn partition(
        &self,
        image: &Image,
        topic: &Topic,
        index: i32,
    ) -> Option<MetadataResponsePartition<'static>> {
        let partition = image.partition(topic, PartitionIndex(index))?;
        let listener = &*self.context.listener;
        let is_known =
            |node: &NodeId| image.broker(*node).is_some_and(|broker| broker.endpoint(listener).is_some());
        let leader = Some(partition.leader).filter(is_known);
        // The first version does not know of replicas that are not there.
        let told = |nodes: &[NodeId]| -> Vec<i32> {
            let is_told = |node: &&NodeId| self.version >= OFFLINE_REPLICAS_ARE_TOLD_FROM || is_known(node);
            nodes.iter().filter(is_told).map(|node| node.0).collect()
        };
        let (replicas, in_sync) = (told(partition.replicas), told(partition.in_sync));
        let has_untold = replicas.len() < partition.replicas.len() || in_sync.len() < partition.in_sync.len();
        let error = match leader {
            Some(_) if has_untold => ErrorCode::ReplicaNotAvailable,
            Some(_) => ErrorCode::None,
            None if self.version >= LISTENER_ERROR_FROM && image.broker(partition.leader).is_some() => {
                ErrorCode::ListenerNotFound
            }
            None => ErrorCode::LeaderNotAvailable,
        };
        let key = TopicPartition { topic_id: topic.id, partition: PartitionIndex(index) };
        let offline = partition.replicas.iter().filter(|node| is_offline(image, key, **node, listener));
        Some(MetadataResponsePartition {
            error_code: error.code(),
            partition_index: index,
            leader_id: leader.unwrap_or(NO_LEADER).0,
            leader_epoch: partition.leader_epoch.0,
            replica_nodes: replicas.into(),
            isr_nodes: in_sync.into(),
            offline_replicas: offline.map(|node| node.0).collect(),
        })
    }
}
