//! The cluster as a client sees it: brokers, topics, who leads which partition, who coordinates which group.

use super::clock::Backoff;
use super::connection::{Answer, Connection};
use super::failure::Failure;
use logmill_wire::api::{ApiRequest, list_offsets, metadata};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{LeaderEpoch, Uuid};
use std::collections::BTreeMap;
use std::time::Duration;

/// `ListOffsets`' name for the log's start.
pub const EARLIEST: i64 = -2;
/// `ListOffsets`' name for the log's end.
pub const LATEST: i64 = -1;

/// How long leaders and coordinators are looked for (`default.api.timeout.ms`).
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a topic that is created on demand may take to appear.
const CREATION_PATIENCE: Duration = Duration::from_secs(5);

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// Whoever answers.
    Any,
    /// The broker of this node id.
    Broker(i32),
}

/// A partition as Metadata describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub index: i32,
    /// The node that leads it now.
    pub leader: Option<i32>,
    /// The leader's epoch; -1 if the broker does not say.
    pub leader_epoch: LeaderEpoch,
    /// The nodes that hold a replica.
    pub replicas: Vec<i32>,
    /// Those of them that are in sync.
    pub in_sync: Vec<i32>,
    /// Kafka's error code.
    pub error: i16,
}

/// A topic as Metadata describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id; zero if the broker does not say.
    pub id: Uuid,
    /// Whether the broker keeps its own data in it.
    pub is_internal: bool,
    /// In the order of their numbers.
    pub partitions: Vec<Partition>,
    /// Kafka's error code.
    pub error: i16,
}

impl Topic {
    /// The partition of this number.
    #[must_use]
    pub fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.index == index)
    }

    /// The node that leads a partition.
    #[must_use]
    pub fn leader(&self, index: i32) -> Option<i32> {
        self.partition(index)?.leader
    }

    fn check(&self) -> Result<(), Failure> {
        Failure::check(self.error, None, || format!("topic {}", self.name))?;
        for partition in &self.partitions {
            if partition.leader.is_none() {
                let code = ErrorCode::LeaderNotAvailable.code();
                Failure::check(code, None, || format!("partition {} of {}", partition.index, self.name))?;
            }
        }
        Ok(())
    }
}

/// A cluster, with one connection to each broker that was needed.
#[derive(Debug)]
pub struct Cluster {
    bootstrap: Vec<String>,
    pub(super) brokers: BTreeMap<i32, String>,
    connections: BTreeMap<String, Connection>,
    pub(super) coordinators: BTreeMap<String, i32>,
    controller: Option<i32>,
}

impl Cluster {
    /// Connects to the first of the `HOST:PORT`s that answers.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] if none does.
    pub fn connect(bootstrap: Vec<String>) -> Result<Self, Failure> {
        let mut cluster = Self {
            bootstrap,
            brokers: BTreeMap::new(),
            connections: BTreeMap::new(),
            coordinators: BTreeMap::new(),
            controller: None,
        };
        cluster.any()?;
        Ok(cluster)
    }

    /// Tries until it is done, fails for good, or `patience` is over.
    pub(super) fn retrying<T>(
        &mut self,
        patience: Duration,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut backoff = Backoff::new(patience);
        loop {
            match attempt(self) {
                Err(failure) if failure.is_retriable() && backoff.pause() => {}
                outcome => return outcome,
            }
        }
    }

    /// The address of a connection to any broker.
    fn any(&mut self) -> Result<String, Failure> {
        if let Some(address) = self.connections.keys().next() {
            return Ok(address.clone());
        }
        let mut failures = Vec::new();
        let mut candidates = self.bootstrap.clone();
        candidates.extend(self.brokers.values().filter(|known| !self.bootstrap.contains(known)).cloned());
        for address in candidates {
            match Connection::open(&address) {
                Ok(connection) => {
                    self.connections.insert(address.clone(), connection);
                    return Ok(address);
                }
                Err(Failure::Unreachable(causes)) => failures.extend(causes),
                Err(failure) => failures.push((address, failure.to_string())),
            }
        }
        Err(Failure::Unreachable(failures))
    }

    fn address(&mut self, to: To) -> Result<String, Failure> {
        let address = match to {
            To::Any => return self.any(),
            To::Broker(node) => {
                if !self.brokers.contains_key(&node) {
                    self.topics(Some(&[]), false)?;
                }
                self.brokers.get(&node).cloned()
            }
        };
        let code = ErrorCode::BrokerNotAvailable.code();
        let what = || format!("{to:?} is not in the cluster");
        address.ok_or_else(|| Failure::Refused { what: what(), code, message: None })
    }

    /// Lends a connection; it is given up if what was done with it failed.
    pub(super) fn with<T>(
        &mut self,
        to: To,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let address = self.address(to)?;
        let mut connection = match self.connections.remove(&address) {
            Some(connection) => connection,
            None => Connection::open(&address)?,
        };
        let outcome = work(&mut connection);
        if !matches!(outcome, Err(Failure::Connection { .. } | Failure::Protocol { .. })) {
            self.connections.insert(address, connection);
        }
        outcome
    }

    pub(super) fn call<'a, R: ApiRequest<'a>>(&mut self, to: To, request: &R) -> Result<Answer, Failure> {
        self.with(to, |connection| connection.call(request))
    }

    /// Waits until all brokers have read all that was sent to them.
    ///
    /// # Errors
    /// Those of the connections.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        let request = metadata::Request { topics: Some(Vec::new().into()), ..Default::default() };
        for connection in self.connections.values_mut() {
            connection.call(&request)?;
        }
        Ok(())
    }

    /// The broker that changes the cluster's metadata, or any that passes requests on to it.
    pub(super) fn controller(&mut self) -> Result<To, Failure> {
        if self.controller.is_none() {
            self.topics(Some(&[]), false)?;
        }
        Ok(self.controller.map_or(To::Any, To::Broker))
    }

    /// Describes topics as they are now, those with errors too; all of them if no names are given.
    ///
    /// # Errors
    /// [`Failure::Refused`] if the broker refuses as a whole; those of the connection.
    pub fn topics(&mut self, names: Option<&[&str]>, create: bool) -> Result<Vec<Topic>, Failure> {
        let named = |name: &&str| metadata::MetadataRequestTopic {
            name: Some((*name).to_owned().into()),
            ..Default::default()
        };
        let request = metadata::Request {
            topics: names.map(|names| names.iter().map(named).collect()),
            allow_auto_topic_creation: create,
            ..Default::default()
        };
        let answer = self.call(To::Any, &request)?;
        let response: metadata::Response<'_> = answer.decode()?;
        Failure::check(response.error_code, None, || "the cluster cannot be described".to_owned())?;
        self.brokers = response
            .brokers
            .iter()
            .map(|broker| (broker.node_id, address_text(&broker.host, broker.port)))
            .collect();
        self.controller =
            Some(response.controller_id).filter(|controller| self.brokers.contains_key(controller));
        Ok(response.topics.iter().map(|topic| described(&topic)).collect())
    }

    /// A topic with a leader for each of its partitions; created on demand if that is wanted and the broker does it.
    ///
    /// # Errors
    /// [`Failure::Refused`] if there is no such topic, or a partition stays without a leader; those of the connection.
    pub fn topic(&mut self, name: &str, create: bool) -> Result<Topic, Failure> {
        let mut creation = Backoff::new(CREATION_PATIENCE);
        self.retrying(PATIENCE, |cluster| {
            loop {
                let topics = cluster.topics(Some(&[name]), create)?;
                let Some(topic) = topics.into_iter().find(|topic| topic.name == name) else {
                    let cause = format!("the broker does not answer for topic {name}");
                    return Err(Failure::unfit(cause, "see the broker's log"));
                };
                if topic.error != ErrorCode::UnknownTopicOrPartition.code() {
                    return topic.check().map(|()| topic);
                }
                if !create || !creation.pause() {
                    let cause = format!("there is no topic {name}");
                    let remedy = format!(
                        "check the name with `logmill topic list`, or create it: `logmill topic create {name}`"
                    );
                    return Err(Failure::unfit(cause, remedy));
                }
            }
        })
    }

    /// For each of the partitions, the offset of the first record that is not earlier than `timestamp` (in
    /// milliseconds), or of [`EARLIEST`] or [`LATEST`]. Partitions without such a record are left out.
    ///
    /// # Errors
    /// [`Failure::Refused`]; those of the connection.
    pub fn offsets(
        &mut self,
        topic: &str,
        partitions: &[i32],
        timestamp: i64,
    ) -> Result<BTreeMap<i32, i64>, Failure> {
        self.retrying(PATIENCE, |cluster| {
            let described = cluster.topic(topic, false)?;
            let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
            for &partition in partitions {
                let Some(leader) = described.leader(partition) else {
                    let code = ErrorCode::UnknownTopicOrPartition.code();
                    Failure::check(code, None, || format!("partition {partition} of {topic}"))?;
                    continue;
                };
                by_leader.entry(leader).or_default().push(partition);
            }
            let mut found = BTreeMap::new();
            for (leader, partitions) in by_leader {
                cluster.offsets_of(leader, topic, &partitions, timestamp, &mut found)?;
            }
            Ok(found)
        })
    }

    fn offsets_of(
        &mut self,
        leader: i32,
        topic: &str,
        partitions: &[i32],
        timestamp: i64,
        found: &mut BTreeMap<i32, i64>,
    ) -> Result<(), Failure> {
        let partition = |&partition_index: &i32| list_offsets::ListOffsetsPartition {
            partition_index,
            timestamp,
            ..Default::default()
        };
        let asked = list_offsets::ListOffsetsTopic {
            name: topic.into(),
            partitions: partitions.iter().map(partition).collect(),
        };
        let request =
            list_offsets::Request { replica_id: -1, topics: vec![asked].into(), ..Default::default() };
        let answer = self.call(To::Broker(leader), &request)?;
        let response: list_offsets::Response<'_> = answer.decode()?;
        for partition in response.topics.iter().flat_map(|topic| topic.partitions.into_vec()) {
            let what = || format!("the offsets of partition {} of {topic}", partition.partition_index);
            Failure::check(partition.error_code, None, what)?;
            if partition.offset >= 0 {
                found.insert(partition.partition_index, partition.offset);
            }
        }
        Ok(())
    }
}

fn described(topic: &metadata::MetadataResponseTopic<'_>) -> Topic {
    let partition = |partition: metadata::MetadataResponsePartition<'_>| Partition {
        index: partition.partition_index,
        leader: Some(partition.leader_id).filter(|leader| *leader >= 0),
        leader_epoch: LeaderEpoch(partition.leader_epoch),
        replicas: partition.replica_nodes.into_vec(),
        in_sync: partition.isr_nodes.into_vec(),
        error: partition.error_code,
    };
    let mut partitions: Vec<Partition> = topic.partitions.iter().map(partition).collect();
    partitions.sort_by_key(|partition| partition.index);
    Topic {
        name: topic.name.as_deref().unwrap_or_default().to_owned(),
        id: topic.topic_id,
        is_internal: topic.is_internal,
        partitions,
        error: topic.error_code,
    }
}

pub(super) fn address_text(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
