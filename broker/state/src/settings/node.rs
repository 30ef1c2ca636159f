//! What a node is, where it listens and where it keeps its data.

use super::declaration::{Kind, list_items};
use super::endpoint::{Endpoint, Listener, ListenerProtocol, Voter};
use super::typed::{Typed, settings_group};
use logmill_wire::ids::NodeId;
use std::path::PathBuf;

/// The parts that a node plays (KIP-500).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// It holds partitions and serves clients.
    pub broker: bool,
    /// It may vote in the metadata quorum.
    pub controller: bool,
}

impl Typed for Roles {
    fn typed(text: Option<&str>) -> Option<Self> {
        let has = |role| list_items(text.unwrap_or_default()).any(|item| item == role);
        let roles = Self { broker: has("broker"), controller: has("controller") };
        (roles.broker || roles.controller).then_some(roles)
    }
}

settings_group! {
    /// What a node is, where it listens and where it keeps its data.
    pub struct NodeSettings {
        /// The number of this node, unique among all brokers and controllers of its cluster.
        node_id: NodeId = "node.id", Kind::int_from(0), Some("1"), ReadOnly;
        /// What this node does: hold partitions and serve clients (broker), vote on the cluster's
        /// metadata (controller), or both.
        roles: Roles = "process.roles", Kind::Choices(&["broker", "controller"]), Some("broker,controller"), ReadOnly;
        /// The rack, zone or room in which this broker stands; replicas of a partition are spread over racks.
        rack: Option<String> = "broker.rack", Kind::Text, None, ReadOnly;
        /// The addresses on which this node accepts connections, each as NAME://host:port. An empty host
        /// means every address of the machine.
        listeners: Vec<Listener> = "listeners", Kind::Listeners, Some("PLAINTEXT://127.0.0.1:9092"), ReadOnly;
        /// The addresses that clients are told to connect to, where they differ from the listeners: in
        /// containers, behind address translation, or when a listener is bound to every address.
        advertised_listeners: Vec<Listener> = "advertised.listeners", Kind::Listeners, None, ReadOnly;
        /// The security protocol of each listener by its name. A listener of the controllers is PLAINTEXT
        /// unless this says otherwise.
        protocol_map: Vec<ListenerProtocol> = "listener.security.protocol.map", Kind::ProtocolMap,
            Some("PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL"), ReadOnly;
        /// The name of the listener on which brokers reach each other; if absent, the first one that is not
        /// a listener of the controllers.
        inter_broker_listener_name: Option<String> = "inter.broker.listener.name", Kind::Text, None, ReadOnly;
        /// The names of the listeners on which the controllers are reached; the first one is used.
        controller_listener_names: Vec<String> = "controller.listener.names", Kind::List, Some("CONTROLLER"), ReadOnly;
        /// The nodes that vote on the cluster's metadata, each as id@host:port. If absent, a node with the
        /// controller role is a quorum of its own.
        quorum_voters: Vec<Voter> = "controller.quorum.voters", Kind::Voters, Some(""), ReadOnly;
        /// Addresses through which the controllers are found when the voters are not listed (KIP-853).
        quorum_bootstrap_servers: Vec<Endpoint> = "controller.quorum.bootstrap.servers", Kind::Endpoints, Some(""), ReadOnly;
        /// How long a controller waits for its leader before it asks to be elected; the wait is drawn at
        /// random from one to two times this, in milliseconds. Kafka's default is 1000: here a host that falls
        /// silent is to be replaced within 2 s.
        quorum_election_timeout_ms: u64 = "controller.quorum.election.timeout.ms", Kind::int_from(50), Some("500"), ReadOnly;
        /// Whether a controller that observes becomes a voter by itself (KIP-853). What its node was with another log
        /// directory is removed from the voters first.
        quorum_auto_join: bool = "controller.quorum.auto.join.enable", Kind::Boolean, Some("false"), ReadOnly;
        /// How often a broker tells the controllers that it is alive, in milliseconds. Kafka's default is 2000;
        /// see broker.session.timeout.ms.
        broker_heartbeat_interval_ms: u64 = "broker.heartbeat.interval.ms", Kind::int_from(10), Some("300"), ReadOnly;
        /// How long a broker may be silent before the controllers move its partitions elsewhere, in
        /// milliseconds. Kafka's default is 9000: here a host that falls silent is to be replaced within 2 s.
        broker_session_timeout_ms: u64 = "broker.session.timeout.ms", Kind::int_from(50), Some("1500"), ReadOnly;
        /// How long a broker that starts waits for another process with its number to be gone, in milliseconds.
        initial_broker_registration_timeout_ms: u64 = "initial.broker.registration.timeout.ms", Kind::int_from(1), Some("60000"), ReadOnly;
        /// The one directory that holds the data, if log.dirs is absent.
        log_dir: PathBuf = "log.dir", Kind::Text, Some("./logmill-data"), ReadOnly;
        /// The directories that hold the data, best each on a disk of its own; instead of log.dir.
        log_dirs: Vec<PathBuf> = "log.dirs", Kind::List, None, ReadOnly;
        /// The directory of the cluster's metadata; if absent, the first of the data directories.
        metadata_log_dir: Option<String> = "metadata.log.dir", Kind::Text, None, ReadOnly;
        /// Bytes of metadata records after which a snapshot is taken.
        metadata_snapshot_after_bytes: u64 = "metadata.log.max.record.bytes.between.snapshots", Kind::long_from(1),
            Some("20971520"), ReadOnly,
            inert "the metadata's log has no snapshots yet";
    }
}
