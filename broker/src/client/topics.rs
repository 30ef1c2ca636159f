//! Topics are created and deleted.

use super::cluster::Cluster;
use super::failure::Failure;
use logmill_wire::api::{create_topics, delete_topics};

/// How long the cluster may take for it, in milliseconds.
const TIMEOUT_MS: i32 = 30_000;

/// A topic that is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; `None` for the broker's default (KIP-464).
    pub partitions: Option<i32>,
    /// How many replicas of each; `None` for the broker's default (KIP-464).
    pub replication_factor: Option<i16>,
    /// Settings of its own.
    pub configs: Vec<(String, String)>,
}

/// What was created: partitions and replicas, where the broker says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// How many partitions.
    pub partitions: Option<i32>,
    /// How many replicas of each.
    pub replication_factor: Option<i16>,
}

impl Cluster {
    /// Creates a topic.
    ///
    /// # Errors
    /// [`Failure::Refused`]; those of the connection.
    pub fn create_topic(&mut self, topic: &NewTopic) -> Result<CreatedTopic, Failure> {
        let config = |(name, value): &(String, String)| create_topics::CreatableTopicConfig {
            name: name.clone().into(),
            value: Some(value.clone().into()),
        };
        let creatable = create_topics::CreatableTopic {
            name: topic.name.as_str().into(),
            num_partitions: topic.partitions.unwrap_or(-1),
            replication_factor: topic.replication_factor.unwrap_or(-1),
            configs: topic.configs.iter().map(config).collect(),
            ..Default::default()
        };
        let request = create_topics::Request {
            topics: vec![creatable].into(),
            timeout_ms: TIMEOUT_MS,
            ..Default::default()
        };
        let to = self.controller()?;
        let answer = self.call(to, &request)?;
        let response: create_topics::Response<'_> = answer.decode()?;
        let result = response.topics.iter().next();
        let result = result.ok_or_else(|| answer.protocol("CreateTopics answered nothing"))?;
        let what = || format!("topic {} cannot be created", topic.name);
        Failure::check(result.error_code, result.error_message.as_deref(), what)?;
        Ok(CreatedTopic {
            partitions: Some(result.num_partitions).filter(|count| *count >= 0),
            replication_factor: Some(result.replication_factor).filter(|count| *count >= 0),
        })
    }

    /// Deletes a topic with all its records.
    ///
    /// # Errors
    /// [`Failure::Refused`]; those of the connection.
    pub fn delete_topic(&mut self, name: &str) -> Result<(), Failure> {
        // By name, as it was asked for: an id could be that of a topic of this name that is gone already.
        let by_state = delete_topics::DeleteTopicState { name: Some(name.into()), ..Default::default() };
        let mut request = delete_topics::Request { timeout_ms: TIMEOUT_MS, ..Default::default() };
        let to = self.controller()?;
        let result = self.with(to, |connection| {
            if connection.version::<delete_topics::Request<'_>>()? >= 6 {
                request.topics = vec![by_state].into();
            } else {
                request.topic_names = vec![name.into()].into();
            }
            connection.call(&request)
        })?;
        let response: delete_topics::Response<'_> = result.decode()?;
        let answered = response.responses.iter().next();
        let answered = answered.ok_or_else(|| result.protocol("DeleteTopics answered nothing"))?;
        Failure::check(answered.error_code, answered.error_message.as_deref(), || {
            format!("topic {name} cannot be deleted")
        })
    }

    /// Where each partition's log starts and ends.
    ///
    /// # Errors
    /// As [`Cluster::offsets`].
    pub fn log_bounds(&mut self, topic: &super::Topic) -> Result<Vec<(i64, i64)>, Failure> {
        let partitions: Vec<i32> = topic.partitions.iter().map(|partition| partition.index).collect();
        let starts = self.offsets(&topic.name, &partitions, super::EARLIEST)?;
        let ends = self.offsets(&topic.name, &partitions, super::LATEST)?;
        let bounds = |partition| Some((*starts.get(partition)?, *ends.get(partition)?));
        Ok(partitions.iter().map(|partition| bounds(partition).unwrap_or((-1, -1))).collect())
    }
}
