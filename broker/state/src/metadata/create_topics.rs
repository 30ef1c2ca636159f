//! CreateTopics, with Kafka's checks in Kafka's order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use logmill_wire::ids::{LeaderEpoch, NodeId, TopicId, Uuid};
use logmill_wire::limits::TOPIC_PARTITIONS_MAX;

use super::image::Image;
use super::placement::{PlacementRun, runs_of};
use super::record::Record;
use super::topic_name::{collision_form, validate_topic_name};

/// The metadata log's own topic, which nobody may create.
pub const CLUSTER_METADATA_TOPIC: &str = "__cluster_metadata";

/// The value of a number in a request that means "the broker's default" (KIP-464).
const DEFAULT: i32 = -1;

/// The replicas of one partition, as a request asks for them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionAssignment {
    /// The partition.
    pub partition: i32,
    /// Its replicas, the preferred leader first.
    pub replicas: Vec<NodeId>,
}

/// One topic of a CreateTopics request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; -1 for the default, or with assignments.
    pub partition_count: i32,
    /// How many replicas each; -1 for the default, or with assignments.
    pub replication_factor: i16,
    /// Where they lie; empty to let the cluster choose.
    pub assignments: Vec<PartitionAssignment>,
    /// Its configs, as the request has them.
    pub configs: Vec<(String, Option<String>)>,
}

/// Checks all configs of a topic together; the error is the reason.
pub type ConfigsCheck<'a> = dyn Fn(&BTreeMap<String, String>) -> Result<(), String> + 'a;

/// What a decision on CreateTopics needs besides image and request.
#[derive(Clone, Copy)]
pub struct CreateTopicsContext<'a> {
    /// `num.partitions`.
    pub default_partition_count: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// Checks all configs of a topic together; the error is the reason.
    pub check_configs: &'a ConfigsCheck<'a>,
    /// 128 random bits for each topic of the request, for its id and its first broker.
    pub random_bits: &'a [u128],
}

/// The error that a topic is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateTopicErrorKind {
    /// TOPIC_ALREADY_EXISTS.
    TopicAlreadyExists,
    /// INVALID_TOPIC_EXCEPTION.
    InvalidTopic,
    /// INVALID_PARTITIONS.
    InvalidPartitions,
    /// INVALID_REPLICATION_FACTOR.
    InvalidReplicationFactor,
    /// INVALID_REPLICA_ASSIGNMENT.
    InvalidReplicaAssignment,
    /// INVALID_CONFIG.
    InvalidConfig,
    /// INVALID_REQUEST.
    InvalidRequest,
}

/// Why a topic is not created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateTopicError {
    /// The error.
    pub kind: CreateTopicErrorKind,
    /// What to tell the user.
    pub message: String,
}

impl fmt::Display for CreateTopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CreateTopicError {}

fn refuse<T>(kind: CreateTopicErrorKind, message: impl Into<String>) -> Result<T, CreateTopicError> {
    Err(CreateTopicError { kind, message: message.into() })
}

/// A topic that is created, or would be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreatedTopic {
    /// Its id.
    pub topic_id: TopicId,
    /// How many partitions it has.
    pub partition_count: i32,
    /// How many replicas each has.
    pub replication_factor: i16,
    /// Its configs that are not defaults.
    pub configs: BTreeMap<String, String>,
}

/// The answer for one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateTopicResult {
    /// Its name.
    pub name: String,
    /// The topic, or why not.
    pub result: Result<CreatedTopic, CreateTopicError>,
}

/// What CreateTopics does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CreateTopicsPlan {
    /// To be committed together; none if the request only asks whether it would work.
    pub records: Vec<Record>,
    /// One for each name of the request, in its order; a name that is there twice is answered once.
    pub results: Vec<CreateTopicResult>,
}

impl Image {
    /// Decides on a request to create topics; each topic succeeds or fails by itself. With `validate_only`
    /// the answers are the same and there are no records.
    ///
    /// # Panics
    /// If the context has fewer random numbers than the request has topics.
    #[must_use]
    pub fn decide_create_topics(
        &self,
        topics: &[NewTopic],
        validate_only: bool,
        context: &CreateTopicsContext<'_>,
    ) -> CreateTopicsPlan {
        assert!(context.random_bits.len() >= topics.len(), "every topic needs random bits for its id");
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for topic in topics {
            *times.entry(&topic.name).or_default() += 1;
        }
        let mut plan = CreateTopicsPlan::default();
        let mut created_forms = BTreeSet::new();
        for (topic, &random_bits) in topics.iter().zip(context.random_bits) {
            let decided = match times.remove(topic.name.as_str()) {
                None => continue,
                Some(1) => self.decide_create_topic(topic, random_bits, &created_forms, context),
                Some(_) => {
                    refuse(CreateTopicErrorKind::InvalidRequest, "The request has this topic more than once.")
                }
            };
            let topic_id = new_topic_id(random_bits);
            let begun = decided.and_then(|(configs, placement)| {
                let states = self.begin_without_inactive(topic_id, 0, &placement).ok_or_else(none_active)?;
                Ok((configs, placement, states))
            });
            let result = begun.map(|(configs, placement, states)| {
                created_forms.extend(collision_form(&topic.name));
                let created = CreatedTopic {
                    topic_id,
                    partition_count: partitions_of(&placement),
                    replication_factor: replicas_of(&placement),
                    configs: configs.clone(),
                };
                let name = topic.name.clone();
                plan.records.push(Record::TopicCreated { topic_id, name, configs, placement });
                plan.records.extend(states);
                created
            });
            plan.results.push(CreateTopicResult { name: topic.name.clone(), result });
        }
        if validate_only {
            plan.records.clear();
        }
        plan
    }

    fn decide_create_topic(
        &self,
        topic: &NewTopic,
        random_bits: u128,
        created_forms: &BTreeSet<String>,
        context: &CreateTopicsContext<'_>,
    ) -> Result<(BTreeMap<String, String>, Vec<PlacementRun>), CreateTopicError> {
        self.check_new_name(&topic.name, created_forms)?;
        let configs = check_configs(&topic.configs, context)?;
        let placement = if topic.assignments.is_empty() {
            self.place_new_topic(topic, random_bits, context)?
        } else {
            self.check_assignments(topic)?
        };
        Ok((configs, placement))
    }

    fn check_new_name(&self, name: &str, created_forms: &BTreeSet<String>) -> Result<(), CreateTopicError> {
        if name == CLUSTER_METADATA_TOPIC {
            return refuse(
                CreateTopicErrorKind::InvalidRequest,
                format!("{name} is reserved for the cluster."),
            );
        }
        if self.topic_by_name(name).is_some() {
            let message = format!("Topic '{name}' already exists.");
            return refuse(CreateTopicErrorKind::TopicAlreadyExists, message);
        }
        if let Err(error) = validate_topic_name(name) {
            return refuse(CreateTopicErrorKind::InvalidTopic, format!("Invalid topic name: {error}."));
        }
        let within_request = collision_form(name).is_some_and(|form| created_forms.contains(&form));
        match self.colliding_topic(name) {
            Some(other) => refuse(
                CreateTopicErrorKind::InvalidTopic,
                format!(
                    "Topic '{name}' collides with existing topic '{other}': '.' and '_' count as the same."
                ),
            ),
            None if within_request => refuse(
                CreateTopicErrorKind::InvalidTopic,
                format!(
                    "Topic '{name}' collides with another of the request: '.' and '_' count as the same."
                ),
            ),
            None => Ok(()),
        }
    }

    fn place_new_topic(
        &self,
        topic: &NewTopic,
        random_bits: u128,
        context: &CreateTopicsContext<'_>,
    ) -> Result<Vec<PlacementRun>, CreateTopicError> {
        if topic.replication_factor < -1 || topic.replication_factor == 0 {
            return refuse(
                CreateTopicErrorKind::InvalidReplicationFactor,
                "The replication factor must be at least 1, or -1 for the default.",
            );
        }
        if topic.partition_count < DEFAULT || topic.partition_count == 0 {
            return refuse(
                CreateTopicErrorKind::InvalidPartitions,
                "The number of partitions must be at least 1, or -1 for the default.",
            );
        }
        let partition_count = if topic.partition_count == DEFAULT {
            context.default_partition_count
        } else {
            topic.partition_count
        };
        let replication_factor = if i32::from(topic.replication_factor) == DEFAULT {
            context.default_replication_factor
        } else {
            topic.replication_factor
        };
        if !(1..=TOPIC_PARTITIONS_MAX).contains(&partition_count) {
            return refuse(
                CreateTopicErrorKind::InvalidPartitions,
                format!("A topic has 1 to {TOPIC_PARTITIONS_MAX} partitions, not {partition_count}."),
            );
        }
        let wanted = usize::try_from(replication_factor).unwrap_or(0);
        self.place(partition_count.unsigned_abs(), wanted, random_bits).or_else(|error| {
            refuse(
                CreateTopicErrorKind::InvalidReplicationFactor,
                format!("Unable to replicate the partition {replication_factor} time(s): {error}"),
            )
        })
    }

    fn check_assignments(&self, topic: &NewTopic) -> Result<Vec<PlacementRun>, CreateTopicError> {
        if i32::from(topic.replication_factor) != DEFAULT || topic.partition_count != DEFAULT {
            return refuse(
                CreateTopicErrorKind::InvalidRequest,
                "With replica assignments the number of partitions and the replication factor must be -1.",
            );
        }
        let invalid = |message: String| refuse(CreateTopicErrorKind::InvalidReplicaAssignment, message);
        let mut partitions: BTreeMap<i32, &[NodeId]> = BTreeMap::new();
        let mut expected_count = None;
        for assignment in &topic.assignments {
            let (partition, replicas) = (assignment.partition, assignment.replicas.as_slice());
            if partitions.insert(partition, replicas).is_some() {
                return invalid(format!("Partition {partition} is assigned more than once."));
            }
            if replicas.is_empty() {
                return invalid(format!("Partition {partition} has no replicas."));
            }
            if let Some(unknown) = replicas.iter().find(|&&replica| self.broker(replica).is_none()) {
                return invalid(format!("Broker {unknown} of partition {partition} is not registered."));
            }
            if replicas.iter().collect::<BTreeSet<_>>().len() != replicas.len() {
                return invalid(format!("Partition {partition} has a broker more than once."));
            }
            if *expected_count.get_or_insert(replicas.len()) != replicas.len() {
                return invalid(format!(
                    "Partition {partition} has another number of replicas than the first."
                ));
            }
        }
        if !partitions.keys().copied().eq((0..).take(partitions.len())) {
            return invalid("The partitions must be numbered from 0 without gaps.".to_owned());
        }
        Ok(runs_of(partitions.into_values().map(<[NodeId]>::to_vec)))
    }
}

fn check_configs(
    configs: &[(String, Option<String>)],
    context: &CreateTopicsContext<'_>,
) -> Result<BTreeMap<String, String>, CreateTopicError> {
    let nulls: Vec<_> =
        configs.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.as_str()).collect();
    if !nulls.is_empty() {
        let message = format!("Null value not supported for topic configs: {}", nulls.join(","));
        return refuse(CreateTopicErrorKind::InvalidConfig, message);
    }
    let given = configs.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
    let checked: BTreeMap<String, String> = given.collect();
    match (context.check_configs)(&checked) {
        Ok(()) => Ok(checked),
        Err(message) => refuse(CreateTopicErrorKind::InvalidConfig, message),
    }
}

fn none_active() -> CreateTopicError {
    CreateTopicError {
        kind: CreateTopicErrorKind::InvalidReplicaAssignment,
        message: "All brokers of a partition are fenced or in controlled shutdown.".to_owned(),
    }
}

/// An id whose text does not begin with '-', which command lines would take for a flag.
fn new_topic_id(random_bits: u128) -> TopicId {
    Uuid::from_random(random_bits & (u128::MAX >> 1))
}

fn partitions_of(placement: &[PlacementRun]) -> i32 {
    debug_assert!(placement.iter().all(|run| run.leader_epoch == LeaderEpoch(0)));
    let count: u64 = placement.iter().map(|run| u64::from(run.partition_count)).sum();
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn replicas_of(placement: &[PlacementRun]) -> i16 {
    placement.first().map_or(0, |run| i16::try_from(run.replicas.len()).unwrap_or(i16::MAX))
}
