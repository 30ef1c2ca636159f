//! What a run asks of the cluster beforehand: who leads which partition, a topic, a producer id.

use crate::clock::Clock;
use crate::connection::Connection;
use crate::failure::Failure;
use logmill_wire::api::{create_topics, delete_topics, init_producer_id, list_offsets, metadata};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::Uuid;
use std::collections::BTreeMap;
use std::time::Duration;

/// `ListOffsets`' name for the log's start.
pub const EARLIEST: i64 = -2;
/// `ListOffsets`' name for the log's end.
pub const LATEST: i64 = -1;

/// How often metadata is asked for while partitions have no leader, and the pause between.
const LEADER_ATTEMPTS: u32 = 300;
const LEADER_PAUSE_NS: u64 = 100_000_000;

/// A partition and its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The partition's number.
    pub partition: i32,
    /// Where its leader listens, as `HOST:PORT`.
    pub address: String,
}

/// A topic with a leader for each of its partitions.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id; zero if the broker's version of Metadata has none.
    pub id: Uuid,
    /// In ascending order of partitions; never empty.
    pub leaders: Vec<Leader>,
}

impl Topic {
    /// The partitions of each leader.
    #[must_use]
    pub fn by_leader(&self) -> BTreeMap<String, Vec<i32>> {
        let mut grouped: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for leader in &self.leaders {
            grouped.entry(leader.address.clone()).or_default().push(leader.partition);
        }
        grouped
    }
}

/// What to create if the topic is absent.
#[derive(Clone, Copy, Debug)]
pub struct NewTopic {
    /// How many partitions.
    pub partitions: i32,
    /// Copies of each; -1 for the broker's default (KIP-464).
    pub replication_factor: i16,
}

/// The topic with all its leaders; created first if it is absent and `create` says so.
///
/// # Errors
/// [`Failure::Refused`] if the topic is absent, cannot be created or has a partition without a leader for 30
/// seconds; those of the connection.
pub fn find_topic(
    connection: &mut Connection,
    name: &str,
    create: Option<NewTopic>,
    pause_ns: impl Fn(u64),
) -> Result<Topic, Failure> {
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    let (mut created, mut last) = (false, unknown);
    for _ in 0..LEADER_ATTEMPTS {
        match topic_now(connection, name)? {
            Ok(topic) => return Ok(topic),
            Err(code) => last = code,
        }
        if last == unknown && !created {
            let Some(new_topic) = create else { break };
            let refused = create_topic(connection, name, new_topic)?;
            created = refused == 0;
            // A broker that was stopped a moment ago counts as dead until its next heartbeat, and then there is no
            // place for replicas.
            let passes = is_retriable(refused) || refused == ErrorCode::InvalidReplicationFactor.code();
            if !created && !passes {
                return Err(Failure::Refused {
                    api: "CreateTopics",
                    code: refused,
                    subject: format!("topic {name}"),
                });
            }
        } else if !is_retriable(last) {
            break;
        }
        pause_ns(LEADER_PAUSE_NS);
    }
    Err(Failure::Refused { api: "Metadata", code: last, subject: format!("topic {name}") })
}

fn is_retriable(code: i16) -> bool {
    ErrorCode::from_code(code).is_some_and(ErrorCode::is_retriable)
}

/// The topic, or the first error code that stands in the way of using all of its partitions.
fn topic_now(connection: &mut Connection, name: &str) -> Result<Result<Topic, i16>, Failure> {
    let request = metadata::Request {
        topics: Some(
            vec![metadata::MetadataRequestTopic { name: Some(name.into()), ..Default::default() }].into(),
        ),
        allow_auto_topic_creation: false,
        ..Default::default()
    };
    let answer = connection.call(&request)?;
    let response: metadata::Response<'_> = connection.decode(&answer)?;
    let brokers: BTreeMap<i32, String> = response
        .brokers
        .iter()
        .map(|broker| (broker.node_id, address_text(&broker.host, broker.port)))
        .collect();
    let Some(topic) = response.topics.iter().find(|topic| topic.name.as_deref() == Some(name)) else {
        return Ok(Err(ErrorCode::UnknownTopicOrPartition.code()));
    };
    if topic.error_code != 0 {
        return Ok(Err(topic.error_code));
    }
    let mut leaders = Vec::with_capacity(topic.partitions.len());
    for partition in &topic.partitions {
        match brokers.get(&partition.leader_id) {
            Some(address) if partition.error_code == 0 => {
                leaders.push(Leader { partition: partition.partition_index, address: address.clone() });
            }
            _ => return Ok(Err(ErrorCode::LeaderNotAvailable.code())),
        }
    }
    if leaders.is_empty() {
        return Ok(Err(ErrorCode::LeaderNotAvailable.code()));
    }
    leaders.sort_by_key(|leader| leader.partition);
    Ok(Ok(Topic { name: name.to_owned(), id: topic.topic_id, leaders }))
}

fn address_text(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Returns the error code: 0 if the topic is there.
fn create_topic(connection: &mut Connection, name: &str, new_topic: NewTopic) -> Result<i16, Failure> {
    let request = create_topics::Request {
        topics: vec![create_topics::CreatableTopic {
            name: name.into(),
            num_partitions: new_topic.partitions,
            replication_factor: new_topic.replication_factor,
            ..Default::default()
        }]
        .into(),
        timeout_ms: 30_000,
        ..Default::default()
    };
    let answer = connection.call(&request)?;
    let response: create_topics::Response<'_> = connection.decode(&answer)?;
    let code = response.topics.iter().map(|topic| topic.error_code).find(|code| *code != 0).unwrap_or(0);
    Ok(if code == ErrorCode::TopicAlreadyExists.code() { 0 } else { code })
}

/// Deletes a topic, so that rounds do not fill the disk.
///
/// # Errors
/// [`Failure::Refused`]; those of the connection.
pub fn delete_topic(connection: &mut Connection, name: &str) -> Result<(), Failure> {
    // Versions up to 5 have only names; later ones have names or ids (KIP-516).
    let version = connection.version::<delete_topics::Request<'_>>(i16::MAX)?;
    let mut request = delete_topics::Request { timeout_ms: 30_000, ..Default::default() };
    if version >= 6 {
        let state = delete_topics::DeleteTopicState { name: Some(name.into()), ..Default::default() };
        request.topics = vec![state].into();
    } else {
        request.topic_names = vec![name.into()].into();
    }
    let answer = connection.call_in_version(&request, version)?;
    let response: delete_topics::Response<'_> = connection.decode(&answer)?;
    match response.responses.iter().map(|topic| topic.error_code).find(|code| *code != 0) {
        Some(code) => Err(Failure::Refused { api: "DeleteTopics", code, subject: format!("topic {name}") }),
        None => Ok(()),
    }
}

/// The identity of an idempotent producer (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdentity {
    /// Its id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// Does something again as long as the broker refuses it for now: a leader that has just been named may not know of it
/// yet, and coordinators load their logs first.
///
/// # Errors
/// Those of `attempt`, and its refusal if it lasts for 30 seconds.
pub fn patiently<T>(clock: &Clock, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    for _ in 1..LEADER_ATTEMPTS {
        match attempt() {
            Err(Failure::Refused { code, .. }) if is_retriable(code) => {
                clock.sleep_until_ns(clock.now_ns() + LEADER_PAUSE_NS);
            }
            other => return other,
        }
    }
    attempt()
}

/// A producer id of its own for an idempotent, not transactional producer.
///
/// # Errors
/// [`Failure::Refused`]; those of the connection.
pub fn producer_identity(connection: &mut Connection) -> Result<ProducerIdentity, Failure> {
    let request = init_producer_id::Request {
        transactional_id: None,
        transaction_timeout_ms: i32::MAX,
        ..Default::default()
    };
    let answer = connection.call(&request)?;
    let response: init_producer_id::Response = connection.decode(&answer)?;
    if response.error_code != 0 {
        let subject = "an idempotent producer".to_owned();
        return Err(Failure::Refused { api: "InitProducerId", code: response.error_code, subject });
    }
    Ok(ProducerIdentity { id: response.producer_id, epoch: response.producer_epoch })
}

/// The offset of [`EARLIEST`] or [`LATEST`] for every partition, each asked of its leader.
///
/// # Errors
/// [`Failure::Refused`] for the first partition with an error code; those of the connections.
pub fn offsets(topic: &Topic, position: i64, timeout: Duration) -> Result<BTreeMap<i32, i64>, Failure> {
    let mut found = BTreeMap::new();
    for (address, partitions) in topic.by_leader() {
        let mut connection = Connection::open(&address, timeout)?;
        let asked: Vec<_> = partitions
            .iter()
            .map(|&partition_index| list_offsets::ListOffsetsPartition {
                partition_index,
                timestamp: position,
                ..Default::default()
            })
            .collect();
        let request = list_offsets::Request {
            replica_id: -1,
            topics: vec![list_offsets::ListOffsetsTopic {
                name: topic.name.as_str().into(),
                partitions: asked.into(),
            }]
            .into(),
            ..Default::default()
        };
        let answer = connection.call(&request)?;
        let response: list_offsets::Response<'_> = connection.decode(&answer)?;
        for answered in &response.topics {
            for partition in &answered.partitions {
                if partition.error_code != 0 {
                    let subject = format!("partition {} of {}", partition.partition_index, topic.name);
                    return Err(Failure::Refused { api: "ListOffsets", code: partition.error_code, subject });
                }
                found.insert(partition.partition_index, partition.offset);
            }
        }
    }
    if found.len() < topic.leaders.len() {
        return Err(Failure::Protocol {
            address: topic.leaders.first().map(|leader| leader.address.clone()).unwrap_or_default(),
            detail: "ListOffsets left out partitions that were asked for".to_owned(),
        });
    }
    Ok(found)
}
