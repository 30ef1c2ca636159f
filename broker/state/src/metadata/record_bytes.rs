//! The bytes of a [`Record`]: a magic, a version, a kind, then the fields in their order.
//!
//! Numbers are big endian; a text is its length in bytes (u32) and UTF-8; a list is its count (u32) and its
//! elements; an option is a byte 0 or 1 and the value. Bytes that are left over are an error: a record that
//! says more than is understood must not be half applied.

use std::collections::BTreeMap;
use std::fmt;

use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, TopicPartition, Uuid};

use super::partition_state::PartitionState;
use super::placement::PlacementRun;
use super::record::{Endpoint, Record};

const MAGIC: u8 = 0xb7;
const VERSION: u8 = 0;

const CLUSTER_ID_MINTED: u8 = 0;
const BROKER_REGISTERED: u8 = 1;
const TOPIC_CREATED: u8 = 2;
const TOPIC_DELETED: u8 = 3;
const PRODUCER_IDS_ALLOCATED: u8 = 4;
const TOPIC_CONFIGS_REPLACED: u8 = 5;
const PARTITIONS_ADDED: u8 = 6;
const BROKER_CONFIGS_REPLACED: u8 = 7;
const GROUP_CONFIGS_REPLACED: u8 = 8;
const PARTITION_CHANGED: u8 = 9;
const BROKER_CHANGED: u8 = 10;
const BROKER_UNREGISTERED: u8 = 11;
const REPLICAS_OFFLINE: u8 = 12;

/// Why bytes are not a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordBytesError {
    /// They don't begin as a record does.
    Magic,
    /// A newer broker wrote them.
    Version(u8),
    /// A newer broker wrote them, or they are damaged: there is no such kind.
    Kind(u8),
    /// They end too early, or a count or length says more than there is.
    Truncated,
    /// They go on after the record.
    Trailing,
    /// A text is not UTF-8, or a flag neither 0 nor 1.
    Value,
}

impl fmt::Display for RecordBytesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("the bytes are not a metadata record"),
            Self::Version(version) => {
                write!(f, "a metadata record of version {version} needs a newer broker; upgrade this one")
            }
            Self::Kind(kind) => {
                write!(f, "a metadata record of kind {kind} needs a newer broker; upgrade this one")
            }
            Self::Truncated => f.write_str("a metadata record ends too early"),
            Self::Trailing => f.write_str("a metadata record is followed by bytes that don't belong to it"),
            Self::Value => f.write_str("a metadata record holds a value that it cannot"),
        }
    }
}

impl std::error::Error for RecordBytesError {}

impl Record {
    /// The record as the value of a record of the metadata log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer(vec![MAGIC, VERSION]);
        match self {
            Self::ClusterIdMinted { cluster_id } => {
                to.u8(CLUSTER_ID_MINTED);
                to.uuid(*cluster_id);
            }
            Self::BrokerRegistered { .. }
            | Self::BrokerChanged { .. }
            | Self::BrokerUnregistered { .. }
            | Self::ReplicasOffline { .. } => self.encode_broker(&mut to),
            Self::TopicCreated { topic_id, name, configs, placement } => {
                to.u8(TOPIC_CREATED);
                to.uuid(*topic_id);
                to.text(name);
                to.configs(configs);
                to.placement(placement);
            }
            Self::BrokerConfigsReplaced { broker_id, configs } => {
                to.u8(BROKER_CONFIGS_REPLACED);
                to.u8(u8::from(broker_id.is_some()));
                broker_id.iter().for_each(|broker_id| to.i32(broker_id.0));
                to.configs(configs);
            }
            Self::GroupConfigsReplaced { group_id, configs } => {
                to.u8(GROUP_CONFIGS_REPLACED);
                to.text(group_id);
                to.configs(configs);
            }
            Self::PartitionsAdded { topic_id, first_partition, placement } => {
                to.u8(PARTITIONS_ADDED);
                to.uuid(*topic_id);
                to.i32(*first_partition);
                to.placement(placement);
            }
            Self::TopicConfigsReplaced { topic_id, configs } => {
                to.u8(TOPIC_CONFIGS_REPLACED);
                to.uuid(*topic_id);
                to.configs(configs);
            }
            Self::TopicDeleted { topic_id } => {
                to.u8(TOPIC_DELETED);
                to.uuid(*topic_id);
            }
            Self::PartitionChanged { topic_id, partition, state } => {
                to.u8(PARTITION_CHANGED);
                to.uuid(*topic_id);
                to.i32(partition.0);
                to.partition_state(state);
            }
            Self::ProducerIdsAllocated { broker_id, next_producer_id } => {
                to.u8(PRODUCER_IDS_ALLOCATED);
                to.i32(broker_id.0);
                to.bytes(&next_producer_id.to_be_bytes());
            }
        }
        to.0
    }

    fn encode_broker(&self, to: &mut Writer) {
        match self {
            Self::BrokerRegistered { broker_id, incarnation, leader_epoch_base, rack, endpoints } => {
                to.u8(BROKER_REGISTERED);
                to.i32(broker_id.0);
                to.uuid(*incarnation);
                to.i32(*leader_epoch_base);
                to.u8(u8::from(rack.is_some()));
                rack.iter().for_each(|rack| to.text(rack));
                to.endpoints(endpoints);
            }
            Self::BrokerChanged { broker_id, fenced, in_controlled_shutdown, directories } => {
                to.u8(BROKER_CHANGED);
                to.i32(broker_id.0);
                to.bytes(&[u8::from(*fenced), u8::from(*in_controlled_shutdown)]);
                to.count(directories.len());
                directories.iter().for_each(|directory| to.uuid(*directory));
            }
            Self::BrokerUnregistered { broker_id, leader_epoch_base } => {
                to.u8(BROKER_UNREGISTERED);
                to.i32(broker_id.0);
                to.i32(*leader_epoch_base);
            }
            Self::ReplicasOffline { broker_id, partitions } => {
                to.u8(REPLICAS_OFFLINE);
                to.i32(broker_id.0);
                to.count(partitions.len());
                for TopicPartition { topic_id, partition } in partitions {
                    to.uuid(*topic_id);
                    to.i32(partition.0);
                }
            }
            _ => {}
        }
    }

    /// Reads what [`Record::encode`] wrote, in this version or an earlier one.
    ///
    /// # Errors
    /// [`RecordBytesError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordBytesError> {
        let mut from = Reader(bytes);
        if from.u8().map_err(|_| RecordBytesError::Magic)? != MAGIC {
            return Err(RecordBytesError::Magic);
        }
        let version = from.u8()?;
        if version != VERSION {
            return Err(RecordBytesError::Version(version));
        }
        let record = match from.u8()? {
            CLUSTER_ID_MINTED => Self::ClusterIdMinted { cluster_id: from.uuid()? },
            BROKER_REGISTERED => Self::BrokerRegistered {
                broker_id: NodeId(from.i32()?),
                incarnation: from.uuid()?,
                leader_epoch_base: from.i32()?,
                rack: if from.flag()? { Some(from.text()?) } else { None },
                endpoints: from.list(12, Reader::endpoint)?,
            },
            TOPIC_CREATED => Self::TopicCreated {
                topic_id: from.uuid()?,
                name: from.text()?,
                configs: from.configs()?,
                placement: from.list(12, Reader::placement_run)?,
            },
            TOPIC_CONFIGS_REPLACED => {
                Self::TopicConfigsReplaced { topic_id: from.uuid()?, configs: from.configs()? }
            }
            BROKER_CONFIGS_REPLACED => Self::BrokerConfigsReplaced {
                broker_id: if from.flag()? { Some(NodeId(from.i32()?)) } else { None },
                configs: from.configs()?,
            },
            GROUP_CONFIGS_REPLACED => {
                Self::GroupConfigsReplaced { group_id: from.text()?, configs: from.configs()? }
            }
            PARTITIONS_ADDED => Self::PartitionsAdded {
                topic_id: from.uuid()?,
                first_partition: from.i32()?,
                placement: from.list(12, Reader::placement_run)?,
            },
            BROKER_CHANGED => Self::BrokerChanged {
                broker_id: NodeId(from.i32()?),
                fenced: from.flag()?,
                in_controlled_shutdown: from.flag()?,
                directories: from.list(16, Reader::uuid)?,
            },
            BROKER_UNREGISTERED => {
                Self::BrokerUnregistered { broker_id: NodeId(from.i32()?), leader_epoch_base: from.i32()? }
            }
            REPLICAS_OFFLINE => Self::ReplicasOffline {
                broker_id: NodeId(from.i32()?),
                partitions: from.list(20, Reader::topic_partition)?,
            },
            PARTITION_CHANGED => Self::PartitionChanged {
                topic_id: from.uuid()?,
                partition: PartitionIndex(from.i32()?),
                state: from.partition_state()?,
            },
            TOPIC_DELETED => Self::TopicDeleted { topic_id: from.uuid()? },
            PRODUCER_IDS_ALLOCATED => Self::ProducerIdsAllocated {
                broker_id: NodeId(from.i32()?),
                next_producer_id: i64::from_be_bytes(from.array()?),
            },
            kind => return Err(RecordBytesError::Kind(kind)),
        };
        if from.0.is_empty() { Ok(record) } else { Err(RecordBytesError::Trailing) }
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn i32(&mut self, value: i32) {
        self.bytes(&value.to_be_bytes());
    }

    fn uuid(&mut self, value: Uuid) {
        self.bytes(&value.0);
    }

    /// # Panics
    /// If there are more than 2^32 - 1: everything that is written comes from requests of bounded size.
    fn count(&mut self, count: usize) {
        let Ok(count) = u32::try_from(count) else { panic!("{count} elements in one metadata record") };
        self.bytes(&count.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes(text.as_bytes());
    }

    fn placement(&mut self, placement: &[PlacementRun]) {
        self.count(placement.len());
        for run in placement {
            self.bytes(&run.partition_count.to_be_bytes());
            self.i32(run.leader_epoch.0);
            self.nodes(&run.replicas);
        }
    }

    fn endpoints(&mut self, endpoints: &[Endpoint]) {
        self.count(endpoints.len());
        for endpoint in endpoints {
            self.text(&endpoint.listener);
            self.text(&endpoint.host);
            self.bytes(&endpoint.port.to_be_bytes());
            self.bytes(&endpoint.security_protocol.to_be_bytes());
        }
    }

    fn nodes(&mut self, nodes: &[NodeId]) {
        self.count(nodes.len());
        nodes.iter().for_each(|node| self.i32(node.0));
    }

    fn partition_state(&mut self, state: &PartitionState) {
        self.i32(state.leader.0);
        self.i32(state.leader_epoch.0);
        self.i32(state.partition_epoch);
        for nodes in [&state.replicas, &state.in_sync, &state.eligible, &state.adding, &state.removing] {
            self.nodes(nodes);
        }
    }

    fn configs(&mut self, configs: &BTreeMap<String, String>) {
        self.count(configs.len());
        for (name, value) in configs {
            self.text(name);
            self.text(value);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], RecordBytesError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(RecordBytesError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordBytesError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(RecordBytesError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, RecordBytesError> {
        self.array().map(u8::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, RecordBytesError> {
        self.array().map(i32::from_be_bytes)
    }

    fn uuid(&mut self) -> Result<Uuid, RecordBytesError> {
        self.array().map(Uuid)
    }

    fn flag(&mut self) -> Result<bool, RecordBytesError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RecordBytesError::Value),
        }
    }

    fn length(&mut self) -> Result<usize, RecordBytesError> {
        let length = self.array().map(u32::from_be_bytes)?;
        usize::try_from(length).map_err(|_| RecordBytesError::Truncated)
    }

    fn text(&mut self) -> Result<String, RecordBytesError> {
        let length = self.length()?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| RecordBytesError::Value)?;
        Ok(text.to_owned())
    }

    /// A list whose elements take at least `element_bytes_min` each, so that a false count is found before
    /// memory is taken for it.
    fn list<T>(
        &mut self,
        element_bytes_min: usize,
        element: impl Fn(&mut Self) -> Result<T, RecordBytesError>,
    ) -> Result<Vec<T>, RecordBytesError> {
        let count = self.length()?;
        if count > self.0.len() / element_bytes_min {
            return Err(RecordBytesError::Truncated);
        }
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(element(self)?);
        }
        Ok(elements)
    }

    fn configs(&mut self) -> Result<BTreeMap<String, String>, RecordBytesError> {
        let pairs = self.list(8, |from| Ok((from.text()?, from.text()?)))?;
        let count = pairs.len();
        let configs: BTreeMap<_, _> = pairs.into_iter().collect();
        if configs.len() == count { Ok(configs) } else { Err(RecordBytesError::Value) }
    }

    fn endpoint(&mut self) -> Result<Endpoint, RecordBytesError> {
        Ok(Endpoint {
            listener: self.text()?,
            host: self.text()?,
            port: u16::from_be_bytes(self.array()?),
            security_protocol: i16::from_be_bytes(self.array()?),
        })
    }

    fn placement_run(&mut self) -> Result<PlacementRun, RecordBytesError> {
        Ok(PlacementRun {
            partition_count: u32::from_be_bytes(self.array()?),
            leader_epoch: LeaderEpoch(self.i32()?),
            replicas: self.nodes()?,
        })
    }

    fn topic_partition(&mut self) -> Result<TopicPartition, RecordBytesError> {
        Ok(TopicPartition { topic_id: self.uuid()?, partition: PartitionIndex(self.i32()?) })
    }

    fn nodes(&mut self) -> Result<Vec<NodeId>, RecordBytesError> {
        self.list(4, |from| from.i32().map(NodeId))
    }

    fn partition_state(&mut self) -> Result<PartitionState, RecordBytesError> {
        Ok(PartitionState {
            leader: NodeId(self.i32()?),
            leader_epoch: LeaderEpoch(self.i32()?),
            partition_epoch: self.i32()?,
            replicas: self.nodes()?,
            in_sync: self.nodes()?,
            eligible: self.nodes()?,
            adding: self.nodes()?,
            removing: self.nodes()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    fn one_of_each() -> Vec<Record> {
        let id = Uuid(*b"0123456789abcdef");
        let configs = BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]);
        vec![
            Record::ClusterIdMinted { cluster_id: id },
            Record::BrokerRegistered {
                broker_id: NodeId(1),
                incarnation: id,
                leader_epoch_base: 7,
                rack: Some("r".to_owned()),
                endpoints: vec![Endpoint {
                    listener: "PLAINTEXT".to_owned(),
                    host: "h".to_owned(),
                    port: 9092,
                    security_protocol: 0,
                }],
            },
            Record::BrokerRegistered {
                broker_id: NodeId(2),
                incarnation: id,
                leader_epoch_base: 0,
                rack: None,
                endpoints: vec![],
            },
            Record::TopicCreated {
                topic_id: id,
                name: "t".to_owned(),
                configs: configs.clone(),
                placement: vec![PlacementRun {
                    partition_count: 3,
                    leader_epoch: LeaderEpoch(4),
                    replicas: vec![NodeId(1), NodeId(2)],
                }],
            },
            Record::TopicConfigsReplaced { topic_id: id, configs: configs.clone() },
            Record::TopicDeleted { topic_id: id },
            Record::ProducerIdsAllocated { broker_id: NodeId(1), next_producer_id: 1000 },
            Record::PartitionsAdded {
                topic_id: id,
                first_partition: 3,
                placement: vec![PlacementRun {
                    partition_count: 2,
                    leader_epoch: LeaderEpoch(0),
                    replicas: vec![NodeId(1), NodeId(2)],
                }],
            },
            Record::BrokerConfigsReplaced { broker_id: Some(NodeId(1)), configs: configs.clone() },
            Record::BrokerConfigsReplaced { broker_id: None, configs: BTreeMap::new() },
            Record::GroupConfigsReplaced { group_id: "g".to_owned(), configs },
            Record::PartitionChanged {
                topic_id: id,
                partition: PartitionIndex(3),
                state: PartitionState {
                    leader: NodeId(2),
                    leader_epoch: LeaderEpoch(9),
                    partition_epoch: 11,
                    replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
                    in_sync: vec![NodeId(2)],
                    eligible: vec![NodeId(1)],
                    adding: vec![NodeId(3)],
                    removing: vec![NodeId(1)],
                },
            },
            Record::BrokerChanged {
                broker_id: NodeId(1),
                fenced: true,
                in_controlled_shutdown: false,
                directories: vec![id],
            },
            Record::BrokerUnregistered { broker_id: NodeId(1), leader_epoch_base: 7 },
            Record::ReplicasOffline {
                broker_id: NodeId(1),
                partitions: vec![TopicPartition { topic_id: id, partition: PartitionIndex(5) }],
            },
        ]
    }

    /// What version 0 wrote must be read for ever: these bytes are never to be changed.
    const VERSION_0: [&str; 15] = [
        "b70000 30313233343536373839616263646566",
        "b70001 00000001 30313233343536373839616263646566 00000007 01 00000001 72 00000001 \
         00000009 504c41494e54455854 00000001 68 2384 0000",
        "b70001 00000002 30313233343536373839616263646566 00000000 00 00000000",
        "b70002 30313233343536373839616263646566 00000001 74 00000001 0000000e 636c65616e75702e706f6c696379 \
         00000007 636f6d70616374 00000001 00000003 00000004 00000002 00000001 00000002",
        "b70005 30313233343536373839616263646566 00000001 0000000e 636c65616e75702e706f6c696379 \
         00000007 636f6d70616374",
        "b70003 30313233343536373839616263646566",
        "b70004 00000001 00000000000003e8",
        "b70006 30313233343536373839616263646566 00000003 00000001 00000002 00000000 00000002 00000001 00000002",
        "b70007 01 00000001 00000001 0000000e 636c65616e75702e706f6c696379 00000007 636f6d70616374",
        "b70007 00 00000000",
        "b70008 00000001 67 00000001 0000000e 636c65616e75702e706f6c696379 00000007 636f6d70616374",
        "b70009 30313233343536373839616263646566 00000003 00000002 00000009 0000000b \
         00000003 00000001 00000002 00000003 00000001 00000002 00000001 00000001 00000001 00000003 \
         00000001 00000001",
        "b7000a 00000001 01 00 00000001 30313233343536373839616263646566",
        "b7000b 00000001 00000007",
        "b7000c 00000001 00000001 30313233343536373839616263646566 00000005",
    ];

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    #[test]
    fn version_0_is_read_and_written() {
        for (record, text) in one_of_each().iter().zip(VERSION_0) {
            assert_eq!(Record::decode(&unhex(text)).as_ref(), Ok(record));
            assert_eq!(record.encode(), unhex(text));
        }
    }

    #[test]
    fn every_prefix_and_every_suffix_is_an_error() {
        for record in one_of_each() {
            let bytes = record.encode();
            for end in 0..bytes.len() {
                assert!(Record::decode(&bytes[..end]).is_err(), "{record:?} cut at {end}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Record::decode(&longer), Err(RecordBytesError::Trailing));
        }
        assert_eq!(Record::decode(&[]), Err(RecordBytesError::Magic));
        assert_eq!(Record::decode(&[MAGIC, 1, 0]), Err(RecordBytesError::Version(1)));
        assert_eq!(Record::decode(&[MAGIC, 0, 99]), Err(RecordBytesError::Kind(99)));
    }

    #[test]
    fn false_counts_take_no_memory() {
        let mut bytes = vec![MAGIC, VERSION, TOPIC_CREATED];
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(Record::decode(&bytes), Err(RecordBytesError::Truncated));
        let mut bytes = vec![MAGIC, VERSION, TOPIC_CONFIGS_REPLACED];
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&u32::MAX.to_be_bytes());
        bytes.extend_from_slice(&[0; 100]);
        assert_eq!(Record::decode(&bytes), Err(RecordBytesError::Truncated));
    }

    #[test]
    fn damaged_bytes_are_an_error_or_another_record() {
        let mut random = Random::seeded(1);
        for record in one_of_each() {
            let good = record.encode();
            for _ in 0..2000 {
                let mut bytes = good.clone();
                for _ in 0..=random.below(3) {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << random.below(8);
                }
                if let Ok(other) = Record::decode(&bytes) {
                    assert_eq!(Record::decode(&other.encode()), Ok(other));
                }
            }
        }
    }
}
