//! Everything that the cluster knows, at one offset of the metadata log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use logmill_wire::ids::{NodeId, PartitionIndex, TopicId, TopicPartition, Uuid};

use super::partition_state::{MIN_IN_SYNC, StoredState};
use super::placement::{Placement, PlacementRun};
use super::record::{Endpoint, Record};
use super::shared_map::SharedMap;
use super::topic_name::collision_form;

/// A registered broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broker {
    /// The broker.
    pub id: NodeId,
    /// Its process; another start has another one.
    pub incarnation: Uuid,
    /// What it adds to the leader epochs of the partitions that it leads; rises with every incarnation.
    pub leader_epoch_base: i32,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// Its listeners.
    pub endpoints: Vec<Endpoint>,
    /// Whether it is held to be dead: it leads nothing and joins no in-sync set (KIP-631, KIP-841).
    pub fenced: bool,
    /// Whether it has asked to be relieved of its partitions before it stops.
    pub in_controlled_shutdown: bool,
    /// The ids of its log directories (KIP-858); none of brokers that have not said.
    pub directories: Vec<Uuid>,
    /// Its replicas in log directories that do not work: they lead nothing and join no in-sync set until it starts anew
    /// (KIP-112, KIP-858).
    pub offline: Arc<BTreeSet<TopicPartition>>,
}

impl Broker {
    /// Whether it may lead partitions and join in-sync sets.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }

    /// Where the broker is reached on a listener.
    #[must_use]
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.listener == listener)
    }
}

/// A topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topic {
    /// Its id: one life of the name.
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// Its configs that are not defaults.
    pub configs: BTreeMap<String, String>,
    /// Where its partitions lie.
    pub placement: Arc<Placement>,
    /// The partitions that are not as they began.
    pub(super) states: SharedMap<PartitionIndex, Arc<StoredState>>,
}

impl Topic {
    /// How many partitions it has.
    #[must_use]
    pub fn partition_count(&self) -> i32 {
        self.placement.partition_count()
    }
}

/// A record that contradicts the image: the log is damaged, or was written by a broker with a bug.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ApplyError {
    /// The cluster has another id.
    ClusterId {
        /// The one it has.
        current: Uuid,
    },
    /// The broker's leader epochs would go back.
    LeaderEpochBase {
        /// The broker.
        broker_id: NodeId,
        /// The base that it has.
        current: i32,
    },
    /// There is a topic with this name or id.
    TopicExists {
        /// The record's topic.
        topic_id: TopicId,
    },
    /// There is no topic with this id.
    NoSuchTopic {
        /// The record's topic.
        topic_id: TopicId,
    },
    /// The placement contradicts itself.
    Placement {
        /// The record's topic.
        topic_id: TopicId,
    },
    /// The partition does not exist, its state contradicts itself, or an epoch would not rise.
    Partition {
        /// The record's topic.
        topic_id: TopicId,
        /// The record's partition.
        partition: PartitionIndex,
    },
    /// There is no such broker.
    NoSuchBroker {
        /// The record's broker.
        broker_id: NodeId,
    },
    /// Producer ids would be given out twice.
    ProducerIds {
        /// The next producer id.
        next_producer_id: i64,
    },
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterId { current } => write!(f, "the cluster already has the id {current}"),
            Self::LeaderEpochBase { broker_id, current } => {
                write!(f, "the leader epochs of broker {broker_id} would go back behind base {current}")
            }
            Self::TopicExists { topic_id } => write!(f, "topic {topic_id} or its name is there already"),
            Self::NoSuchTopic { topic_id } => write!(f, "there is no topic {topic_id}"),
            Self::Placement { topic_id } => write!(f, "the placement of topic {topic_id} contradicts itself"),
            Self::Partition { topic_id, partition } => {
                write!(f, "the state of partition {topic_id}-{partition} contradicts itself or goes back")
            }
            Self::NoSuchBroker { broker_id } => write!(f, "there is no broker {broker_id}"),
            Self::ProducerIds { next_producer_id } => {
                write!(f, "producer ids below {next_producer_id} are given out already")
            }
        }
    }
}

impl std::error::Error for ApplyError {}

/// Names the topics of an image at one instant, so that it can be told cheaply whether they have changed since.
#[derive(Clone, Debug)]
pub struct TopicsMark(SharedMap<Arc<str>, Arc<Topic>>);

/// Everything that the cluster knows. A clone is cheap, and shares what is not changed later.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Image {
    cluster_id: Option<Uuid>,
    brokers: Arc<BTreeMap<NodeId, Arc<Broker>>>,
    /// What brokers that are forgotten added to the leader epochs of the partitions that they led.
    forgotten_brokers: Arc<BTreeMap<NodeId, i32>>,
    topics_by_name: SharedMap<Arc<str>, Arc<Topic>>,
    topics_by_id: SharedMap<TopicId, Arc<Topic>>,
    /// Of the topics with `.` or `_` in their name: its collision form, and the name.
    colliding_names: SharedMap<(Arc<str>, Arc<str>), ()>,
    next_producer_id: i64,
    partition_count: u64,
    /// What is set on the running cluster, for one broker or (`None`) for all of them.
    broker_configs: Arc<BTreeMap<Option<NodeId>, BTreeMap<String, String>>>,
    group_configs: SharedMap<Arc<str>, Arc<BTreeMap<String, String>>>,
}

/// The configs of what has none of its own.
static NO_CONFIGS: BTreeMap<String, String> = BTreeMap::new();

impl Image {
    /// The cluster's id, once it is minted.
    #[must_use]
    pub fn cluster_id(&self) -> Option<Uuid> {
        self.cluster_id
    }

    /// The registered brokers, by id.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// One registered broker.
    #[must_use]
    pub fn broker(&self, id: NodeId) -> Option<&Arc<Broker>> {
        self.brokers.get(&id)
    }

    /// What is set on the running cluster for one broker, or (`None`) for all of them.
    #[must_use]
    pub fn broker_configs(&self, broker: Option<NodeId>) -> &BTreeMap<String, String> {
        self.broker_configs.get(&broker).unwrap_or(&NO_CONFIGS)
    }

    /// Whether nothing that is set for brokers differs between the two images. Cheap for images of one line.
    #[must_use]
    pub fn has_same_broker_configs(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.broker_configs, &other.broker_configs)
            || self.broker_configs == other.broker_configs
    }

    /// A group's configs that are not defaults. The group need not exist.
    #[must_use]
    pub fn group_configs(&self, group: &str) -> &BTreeMap<String, String> {
        self.group_configs.get(group).map_or(&NO_CONFIGS, |configs| configs)
    }

    /// The groups that have configs, by name.
    pub fn groups_with_configs(&self) -> impl Iterator<Item = &Arc<str>> {
        self.group_configs.iter().map(|(group, _)| group)
    }

    /// The topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics_by_name.values()
    }

    /// The topics whose names are not below `name`, by name: a page of DescribeTopicPartitions.
    pub fn topics_from(&self, name: &str) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics_by_name.iter_from(name).map(|(_, topic)| topic)
    }

    /// The topic with this name.
    #[must_use]
    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics_by_name.get(name)
    }

    /// The topic with this id.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics_by_id.get(&id)
    }

    /// Names the topics as they are.
    #[must_use]
    pub fn topics_mark(&self) -> TopicsMark {
        TopicsMark(self.topics_by_name.clone())
    }

    /// Whether no topic has been made, changed or deleted since the mark was taken; an image that was made anew from
    /// records counts as changed.
    #[must_use]
    pub fn has_topics_of(&self, mark: &TopicsMark) -> bool {
        self.topics_by_name.is_shared_with(&mark.0)
    }

    /// How many topics there are.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.topics_by_name.len()
    }

    /// How many partitions there are, of all topics.
    #[must_use]
    pub fn partition_count(&self) -> u64 {
        self.partition_count
    }

    /// The first producer id that is not given out.
    #[must_use]
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// The name of a topic that differs from `name` in `.` and `_` at most.
    #[must_use]
    pub fn colliding_topic(&self, name: &str) -> Option<&Arc<str>> {
        let form: Arc<str> = collision_form(name)?.into();
        let key = (Arc::clone(&form), Arc::from(""));
        let ((found, colliding), ()) = self.colliding_names.iter_from(&key).next()?;
        (*found == form).then_some(colliding)
    }

    pub(super) fn leader_epoch_base(&self, node: NodeId) -> i32 {
        let forgotten = || self.forgotten_brokers.get(&node).copied();
        self.brokers.get(&node).map(|broker| broker.leader_epoch_base).or_else(forgotten).unwrap_or(0)
    }

    /// What a broker that is forgotten added to the leader epochs of the partitions that it led.
    pub(super) fn forgotten_epoch_base(&self, node: NodeId) -> Option<i32> {
        self.forgotten_brokers.get(&node).copied()
    }

    /// Changes the image by one record of the metadata log; on an error it is as before.
    ///
    /// # Errors
    /// [`ApplyError`], if the record contradicts the image.
    pub fn apply(&mut self, record: &Record) -> Result<(), ApplyError> {
        match record {
            Record::ClusterIdMinted { cluster_id } => {
                if let Some(current) = self.cluster_id.filter(|current| current != cluster_id) {
                    return Err(ApplyError::ClusterId { current });
                }
                self.cluster_id = Some(*cluster_id);
                Ok(())
            }
            Record::BrokerRegistered { broker_id, incarnation, leader_epoch_base, rack, endpoints } => self
                .apply_broker(Broker {
                    id: *broker_id,
                    incarnation: *incarnation,
                    leader_epoch_base: *leader_epoch_base,
                    rack: rack.clone(),
                    endpoints: endpoints.clone(),
                    fenced: false,
                    in_controlled_shutdown: false,
                    directories: self
                        .broker(*broker_id)
                        .map_or_else(Vec::new, |known| known.directories.clone()),
                    offline: self.offline_of(*broker_id, *incarnation),
                }),
            Record::BrokerChanged { broker_id, fenced, in_controlled_shutdown, directories } => {
                self.apply_broker_changed(*broker_id, *fenced, *in_controlled_shutdown, directories)
            }
            Record::BrokerUnregistered { broker_id, leader_epoch_base } => {
                self.apply_broker_unregistered(*broker_id, *leader_epoch_base)
            }
            Record::ReplicasOffline { broker_id, partitions } => {
                self.apply_replicas_offline(*broker_id, partitions)
            }
            Record::PartitionChanged { topic_id, partition, state } => {
                self.apply_partition_changed(*topic_id, *partition, state)
            }
            Record::TopicCreated { topic_id, name, configs, placement } => {
                let placement = Placement::from_runs(placement, |node| self.leader_epoch_base(node))
                    .ok_or(ApplyError::Placement { topic_id: *topic_id })?;
                self.apply_topic_created(Topic {
                    id: *topic_id,
                    name: name.as_str().into(),
                    configs: configs.clone(),
                    placement: Arc::new(placement),
                    states: SharedMap::default(),
                })
            }
            Record::TopicConfigsReplaced { topic_id, configs } => {
                self.apply_topic_configs(*topic_id, configs)
            }
            Record::BrokerConfigsReplaced { broker_id, configs } => {
                self.apply_broker_configs(*broker_id, configs);
                Ok(())
            }
            Record::GroupConfigsReplaced { group_id, configs } => {
                self.apply_group_configs(group_id, configs);
                Ok(())
            }
            Record::PartitionsAdded { topic_id, first_partition, placement } => {
                self.apply_partitions_added(*topic_id, *first_partition, placement)
            }
            Record::TopicDeleted { topic_id } => self.apply_topic_deleted(*topic_id),
            Record::ProducerIdsAllocated { broker_id: _, next_producer_id } => {
                if *next_producer_id <= self.next_producer_id {
                    return Err(ApplyError::ProducerIds { next_producer_id: self.next_producer_id });
                }
                self.next_producer_id = *next_producer_id;
                Ok(())
            }
        }
    }

    /// What is offline of a broker that registers: another process says for itself what works.
    fn offline_of(&self, node: NodeId, incarnation: Uuid) -> Arc<BTreeSet<TopicPartition>> {
        let known = self.broker(node).filter(|known| known.incarnation == incarnation);
        known.map_or_else(Arc::default, |known| Arc::clone(&known.offline))
    }

    fn apply_group_configs(&mut self, group_id: &str, configs: &BTreeMap<String, String>) {
        if configs.is_empty() {
            self.group_configs.remove(group_id);
        } else {
            self.group_configs.insert(group_id.into(), Arc::new(configs.clone()));
        }
    }

    fn apply_broker(&mut self, broker: Broker) -> Result<(), ApplyError> {
        let current = self.brokers.get(&broker.id);
        let forgotten = self.forgotten_epoch_base(broker.id).unwrap_or(-1);
        let rises = current.map_or(broker.leader_epoch_base > forgotten, |current| {
            broker.leader_epoch_base > current.leader_epoch_base
                || (broker.leader_epoch_base == current.leader_epoch_base
                    && broker.incarnation == current.incarnation)
        });
        if !rises {
            let current = self.leader_epoch_base(broker.id);
            return Err(ApplyError::LeaderEpochBase { broker_id: broker.id, current });
        }
        if self.forgotten_brokers.contains_key(&broker.id) {
            Arc::make_mut(&mut self.forgotten_brokers).remove(&broker.id);
        }
        Arc::make_mut(&mut self.brokers).insert(broker.id, Arc::new(broker));
        Ok(())
    }

    fn apply_broker_unregistered(&mut self, broker_id: NodeId, base: i32) -> Result<(), ApplyError> {
        let current = self.leader_epoch_base(broker_id);
        if base < current {
            return Err(ApplyError::LeaderEpochBase { broker_id, current });
        }
        Arc::make_mut(&mut self.brokers).remove(&broker_id);
        Arc::make_mut(&mut self.forgotten_brokers).insert(broker_id, base);
        Ok(())
    }

    fn apply_broker_changed(
        &mut self,
        broker_id: NodeId,
        fenced: bool,
        in_controlled_shutdown: bool,
        directories: &[Uuid],
    ) -> Result<(), ApplyError> {
        let known = self.brokers.get(&broker_id).ok_or(ApplyError::NoSuchBroker { broker_id })?;
        let directories = directories.to_vec();
        let broker = Broker { fenced, in_controlled_shutdown, directories, ..Broker::clone(known) };
        Arc::make_mut(&mut self.brokers).insert(broker_id, Arc::new(broker));
        Ok(())
    }

    fn apply_replicas_offline(
        &mut self,
        broker_id: NodeId,
        partitions: &[TopicPartition],
    ) -> Result<(), ApplyError> {
        let known = self.brokers.get(&broker_id).ok_or(ApplyError::NoSuchBroker { broker_id })?;
        let offline = known.offline.iter().chain(partitions).copied().collect();
        let broker = Broker { offline: Arc::new(offline), ..Broker::clone(known) };
        Arc::make_mut(&mut self.brokers).insert(broker_id, Arc::new(broker));
        Ok(())
    }

    fn apply_topic_configs(
        &mut self,
        topic_id: TopicId,
        configs: &BTreeMap<String, String>,
    ) -> Result<(), ApplyError> {
        let before = Arc::clone(self.existing(topic_id)?);
        let topic = Arc::new(Topic { configs: configs.clone(), ..Topic::clone(&before) });
        self.put_topic(Arc::clone(&topic));
        if before.configs.get(MIN_IN_SYNC) != configs.get(MIN_IN_SYNC) {
            self.forget_eligible(&topic);
        }
        Ok(())
    }

    fn apply_broker_configs(&mut self, broker: Option<NodeId>, configs: &BTreeMap<String, String>) {
        let sets_min = self.broker_configs(broker).get(MIN_IN_SYNC) != configs.get(MIN_IN_SYNC);
        let all = Arc::make_mut(&mut self.broker_configs);
        if configs.is_empty() {
            all.remove(&broker);
        } else {
            all.insert(broker, configs.clone());
        }
        if sets_min {
            let topics: Vec<_> = self.topics().filter(|topic| !topic.states.is_empty()).cloned().collect();
            topics.iter().for_each(|topic| self.forget_eligible(topic));
        }
    }

    fn apply_topic_created(&mut self, topic: Topic) -> Result<(), ApplyError> {
        if self.topics_by_id.contains_key(&topic.id) || self.topics_by_name.contains_key(&*topic.name) {
            return Err(ApplyError::TopicExists { topic_id: topic.id });
        }
        if let Some(form) = collision_form(&topic.name) {
            self.colliding_names.insert((form.into(), Arc::clone(&topic.name)), ());
        }
        self.partition_count += u64::from(topic.partition_count().unsigned_abs());
        let topic = Arc::new(topic);
        self.topics_by_name.insert(Arc::clone(&topic.name), Arc::clone(&topic));
        self.topics_by_id.insert(topic.id, topic);
        assert_eq!(self.topics_by_id.len(), self.topics_by_name.len(), "a topic has one name and one id");
        Ok(())
    }

    fn apply_partitions_added(
        &mut self,
        topic_id: TopicId,
        first_partition: i32,
        more: &[PlacementRun],
    ) -> Result<(), ApplyError> {
        let topic = self.existing(topic_id)?;
        let follows = first_partition == topic.partition_count();
        let extended = topic.placement.extended(more, |node| self.leader_epoch_base(node));
        let placement = extended.filter(|_| follows).ok_or(ApplyError::Placement { topic_id })?;
        let added = placement.partition_count().abs_diff(first_partition);
        let topic = Arc::new(Topic { placement: Arc::new(placement), ..Topic::clone(topic) });
        self.partition_count += u64::from(added);
        self.put_topic(topic);
        Ok(())
    }

    fn apply_topic_deleted(&mut self, topic_id: TopicId) -> Result<(), ApplyError> {
        let topic = Arc::clone(self.existing(topic_id)?);
        if let Some(form) = collision_form(&topic.name) {
            self.colliding_names.remove(&(form.into(), Arc::clone(&topic.name)));
        }
        self.partition_count -= u64::from(topic.partition_count().unsigned_abs());
        self.topics_by_name.remove(&*topic.name);
        self.topics_by_id.remove(&topic_id);
        assert_eq!(self.topics_by_id.len(), self.topics_by_name.len(), "a topic has one name and one id");
        Ok(())
    }

    /// Puts a changed topic in the place of what it was.
    pub(super) fn put_topic(&mut self, topic: Arc<Topic>) {
        self.topics_by_name.insert(Arc::clone(&topic.name), Arc::clone(&topic));
        self.topics_by_id.insert(topic.id, topic);
    }

    pub(super) fn existing(&self, topic_id: TopicId) -> Result<&Arc<Topic>, ApplyError> {
        self.topics_by_id.get(&topic_id).ok_or(ApplyError::NoSuchTopic { topic_id })
    }

    /// The records that make this image out of an empty one: a snapshot of the metadata log.
    pub fn to_records(&self) -> impl Iterator<Item = Record> + '_ {
        let cluster_id = self.cluster_id.map(|cluster_id| Record::ClusterIdMinted { cluster_id });
        let brokers = self.brokers.values().map(|broker| Record::BrokerRegistered {
            broker_id: broker.id,
            incarnation: broker.incarnation,
            leader_epoch_base: broker.leader_epoch_base,
            rack: broker.rack.clone(),
            endpoints: broker.endpoints.clone(),
        });
        let changed_brokers = self.brokers.values().filter_map(|broker| broker.change_record());
        let topics = self.topics().flat_map(|topic| {
            let created = Record::TopicCreated {
                topic_id: topic.id,
                name: topic.name.to_string(),
                configs: topic.configs.clone(),
                placement: topic.placement.to_runs(|node| self.leader_epoch_base(node)),
            };
            std::iter::once(created).chain(self.state_records(topic))
        });
        let producer_ids = (self.next_producer_id > 0).then_some(Record::ProducerIdsAllocated {
            broker_id: NodeId(-1),
            next_producer_id: self.next_producer_id,
        });
        let broker_configs = self.broker_configs.iter().map(|(broker_id, configs)| {
            Record::BrokerConfigsReplaced { broker_id: *broker_id, configs: configs.clone() }
        });
        let group_configs = self.group_configs.iter().map(|(group, configs)| Record::GroupConfigsReplaced {
            group_id: group.to_string(),
            configs: BTreeMap::clone(configs),
        });
        let configs = broker_configs.chain(group_configs);
        let forgotten = self.forgotten_brokers.iter().map(|(&broker_id, &leader_epoch_base)| {
            Record::BrokerUnregistered { broker_id, leader_epoch_base }
        });
        let offline = self.brokers.values().filter_map(|broker| broker.offline_record());
        let brokers = brokers.chain(changed_brokers).chain(offline).chain(forgotten);
        cluster_id.into_iter().chain(brokers).chain(topics).chain(producer_ids).chain(configs)
    }
}
