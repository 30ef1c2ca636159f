//! Connections and requests.

use super::declaration::Kind;
use super::typed::settings_group;
use logmill_wire::limits::REQUEST_FRAME_BYTES_MAX;

settings_group! {
    /// Connections and requests.
    pub struct NetworkSettings {
        /// The largest request that is accepted, in bytes; a larger one ends its connection.
        request_max_bytes: usize = "socket.request.max.bytes", Kind::int(1, REQUEST_FRAME_BYTES_MAX as i64),
            Some("104857600"), ReadOnly;
        /// The send buffer that the kernel is asked for on a connection, in bytes; -1 leaves it to the kernel.
        send_buffer_bytes: Option<usize> = "socket.send.buffer.bytes", Kind::int_from(-1), Some("102400"), ReadOnly,
            inert "the kernel sizes each connection's buffers by its traffic";
        /// The receive buffer that the kernel is asked for on a connection, in bytes; -1 leaves it to the kernel.
        receive_buffer_bytes: Option<usize> = "socket.receive.buffer.bytes", Kind::int_from(-1), Some("102400"), ReadOnly,
            inert "the kernel sizes each connection's buffers by its traffic";
        /// Connections that may wait to be accepted; the kernel's own bound is net.core.somaxconn.
        listen_backlog: u32 = "socket.listen.backlog.size", Kind::int_from(1), Some("50"), ReadOnly,
            inert "a listener asks for as many as net.core.somaxconn allows";
        /// Connections that this broker holds at the same time; further ones wait to be accepted.
        max_connections: u32 = "max.connections", Kind::int_from(0), Some("2147483647"), ClusterWide;
        /// Connections that one address may hold at the same time; further ones are closed.
        max_connections_per_ip: u32 = "max.connections.per.ip", Kind::int_from(0), Some("2147483647"), ClusterWide;
        /// Other bounds for some addresses, each as host:count.
        max_connections_per_ip_overrides: Vec<String> = "max.connections.per.ip.overrides", Kind::List, Some(""), ClusterWide;
        /// Connections that are accepted in a second.
        max_connection_creation_rate: u32 = "max.connection.creation.rate", Kind::int_from(0), Some("2147483647"), ClusterWide;
        /// How long a connection may be silent before it is closed, in milliseconds; a negative number
        /// means for ever.
        connections_max_idle_ms: Option<u64> = "connections.max.idle.ms", Kind::long_from(-1), Some("600000"), ReadOnly;
        /// Requests that may wait for their turn on this broker before it stops reading from connections.
        queued_max_requests: u32 = "queued.max.requests", Kind::int_from(1), Some("500"), ReadOnly,
            inert "memory bounds what waits, see logmill.memory.bytes";
        /// How long this node waits for another one to answer, in milliseconds.
        request_timeout_ms: u64 = "request.timeout.ms", Kind::int_from(1), Some("30000"), ReadOnly;
        /// The most bytes that one fetch returns. A first batch that is larger is returned alone.
        fetch_max_bytes: usize = "fetch.max.bytes", Kind::int_from(1024), Some("57671680"), ReadOnly;
        /// Incremental fetch sessions (KIP-227) that are kept; consumers beyond that name all their partitions
        /// in every fetch.
        fetch_session_slots: usize = "max.incremental.fetch.session.cache.slots", Kind::int_from(0), Some("1000"), ReadOnly;
        /// Partitions that one answer to DescribeTopicPartitions lists.
        max_request_partitions: usize = "max.request.partition.size.limit", Kind::int_from(1), Some("2000"), ReadOnly;
    }
}
