//! The records of the metadata log.

use std::collections::BTreeMap;

use logmill_wire::ids::{NodeId, PartitionIndex, TopicId, TopicPartition, Uuid};

use super::partition_state::PartitionState;
use super::placement::PlacementRun;

/// Where clients and brokers reach a broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The listener's name, `PLAINTEXT` for example.
    pub listener: String,
    /// The advertised host.
    pub host: String,
    /// The advertised port.
    pub port: u16,
    /// Kafka's number of the security protocol: 0 PLAINTEXT, 1 SSL, 2 SASL_PLAINTEXT, 3 SASL_SSL.
    pub security_protocol: i16,
}

/// One change of what the cluster knows, the value of a record of the metadata log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// The cluster has got its id; the first record of every log.
    ClusterIdMinted {
        /// The id.
        cluster_id: Uuid,
    },
    /// A broker has started, or has changed what it says of itself.
    BrokerRegistered {
        /// The broker.
        broker_id: NodeId,
        /// The broker's process; another start has another one.
        incarnation: Uuid,
        /// What the incarnation adds to the leader epochs of the partitions that the broker leads: with one
        /// record every one of them rises.
        leader_epoch_base: i32,
        /// `broker.rack`.
        rack: Option<String>,
        /// Its listeners.
        endpoints: Vec<Endpoint>,
    },
    /// A topic has been created.
    TopicCreated {
        /// The topic's id.
        topic_id: TopicId,
        /// Its name.
        name: String,
        /// Its configs that are not defaults.
        configs: BTreeMap<String, String>,
        /// Where its partitions lie; the partitions' number and the replication factor follow from it.
        placement: Vec<PlacementRun>,
    },
    /// A topic's configs have been replaced.
    TopicConfigsReplaced {
        /// The topic.
        topic_id: TopicId,
        /// All of its configs that are not defaults.
        configs: BTreeMap<String, String>,
    },
    /// What is set on the running cluster for one broker, or for all of them, has been replaced.
    BrokerConfigsReplaced {
        /// The broker; `None` for all of them.
        broker_id: Option<NodeId>,
        /// All that is set; none to take all back.
        configs: BTreeMap<String, String>,
    },
    /// A group's configs have been replaced. The group need not exist.
    GroupConfigsReplaced {
        /// The group.
        group_id: String,
        /// All of its configs that are not defaults.
        configs: BTreeMap<String, String>,
    },
    /// A topic has got more partitions.
    PartitionsAdded {
        /// The topic.
        topic_id: TopicId,
        /// The first new partition: as many as the topic had before.
        first_partition: i32,
        /// Where the new partitions lie.
        placement: Vec<PlacementRun>,
    },
    /// A topic and its records are gone.
    TopicDeleted {
        /// The topic.
        topic_id: TopicId,
    },
    /// A broker was fenced or unfenced, shuts down, or has other log directories. Its next registration ends the first
    /// three.
    BrokerChanged {
        /// The broker.
        broker_id: NodeId,
        /// Whether it is held to be dead.
        fenced: bool,
        /// Whether it has asked to be relieved of its partitions.
        in_controlled_shutdown: bool,
        /// The ids of its log directories.
        directories: Vec<Uuid>,
    },
    /// A broker is forgotten. What it led keeps its leader epochs, should it come back.
    BrokerUnregistered {
        /// The broker.
        broker_id: NodeId,
        /// What it added to the leader epochs of the partitions that it led.
        leader_epoch_base: i32,
    },
    /// Replicas of a broker are in log directories that do not work (KIP-858). Its next process ends that.
    ReplicasOffline {
        /// The broker.
        broker_id: NodeId,
        /// The replicas, besides those that were offline before.
        partitions: Vec<TopicPartition>,
    },
    /// A partition has another leader, in-sync set or replicas.
    PartitionChanged {
        /// The topic.
        topic_id: TopicId,
        /// The partition.
        partition: PartitionIndex,
        /// All of its state.
        state: PartitionState,
    },
    /// A broker has got a block of producer ids (KIP-730).
    ProducerIdsAllocated {
        /// The broker.
        broker_id: NodeId,
        /// The first id of the next block.
        next_producer_id: i64,
    },
}
