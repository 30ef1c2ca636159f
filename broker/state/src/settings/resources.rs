//! What the broker takes of its machine. These settings are Logmill's own.

use super::declaration::Kind;
use super::endpoint::Endpoint;
use super::typed::settings_group;
use logmill_wire::limits::{JOURNAL_GROUP_BYTES_MAX, SHARDS_MAX};

/// The smallest journal: a few groups, or a commit would wait for the segments behind it every time.
const JOURNAL_BYTES_MIN: i64 = 4 * JOURNAL_GROUP_BYTES_MAX as i64;

settings_group! {
    /// What the broker takes of its machine.
    pub struct ResourceSettings {
        /// Shards, each with a thread of its own; if absent, one for every core that the process may use.
        /// Another number at the next start is fine.
        shards: Option<usize> = "logmill.shards", Kind::int(1, SHARDS_MAX as i64), None, ReadOnly;
        /// Whether each shard's thread stays on one core; turn it off where several brokers share a machine.
        pin_cores: bool = "logmill.pin.cores", Kind::Boolean, Some("true"), ReadOnly;
        /// Memory for everything that grows with load, in bytes; if absent, a share of what the machine or the
        /// container has.
        memory_bytes: Option<u64> = "logmill.memory.bytes", Kind::long_from(64 << 20), None, ReadOnly;
        /// The part of the memory that keeps records read or written lately, in bytes; if absent, a share of it.
        cache_bytes: Option<u64> = "logmill.cache.bytes", Kind::long_from(0), None, ReadOnly;
        /// The size of each shard's commit journal in each data directory, in bytes.
        journal_bytes: u64 = "logmill.journal.bytes", Kind::long(JOURNAL_BYTES_MIN, 64 << 30), Some("67108864"), ReadOnly;
        /// Where health and metrics are served over HTTP, as host:port; empty turns it off.
        admin_listener: Option<Endpoint> = "logmill.admin.listener", Kind::Endpoints, Some("127.0.0.1:9644"), ReadOnly;
        /// What goes into the log of the broker itself: a level (error, warn, info, debug, trace), or target=level
        /// pairs separated by commas.
        log_filter: String = "logmill.log.filter", Kind::Text, Some("info"), ReadOnly;
    }
}
