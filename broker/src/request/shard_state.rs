//! What a shard remembers between requests.

use super::fetch_key::FetchKey;
use super::producer_ids::ProducerIds;
use crate::shard::memory::MemoryClasses;
use logmill_state::admission::authorizer::Authorizer;
use logmill_state::admission::fetch_sessions::{FetchSessionLimits, FetchSessions};
use logmill_state::settings::BrokerSettings;
use logmill_wire::ids::ShardIndex;
use std::cell::RefCell;

/// How long a fetch session is safe from giving way to another one (KIP-227).
const SESSION_EVICTION_NS: u64 = 120 * 1_000_000_000;

/// One shard's state of requests.
pub struct ShardState {
    /// Who may do what.
    pub authorizer: Authorizer,
    /// The fetch sessions of the shard's connections; a connection that has one stays on its shard.
    pub fetch_sessions: RefCell<FetchSessions<FetchKey>>,
    /// Producer ids to give out.
    pub producer_ids: ProducerIds,
    /// The shard's memory.
    pub memory: MemoryClasses,
}

impl ShardState {
    /// The state of one of `shards` shards, at the start, with `memory_bytes` for its requests and replies.
    #[must_use]
    pub fn new(shard: ShardIndex, shards: u16, settings: &BrokerSettings, memory_bytes: usize) -> Self {
        let shards = usize::from(shards.max(1));
        let slots = settings.network.fetch_session_slots.div_ceil(shards);
        let limits = FetchSessionLimits { slots, eviction_ns: SESSION_EVICTION_NS };
        Self {
            authorizer: Authorizer::default(),
            fetch_sessions: RefCell::new(FetchSessions::new(shard, limits)),
            producer_ids: ProducerIds::default(),
            memory: MemoryClasses::new(memory_bytes),
        }
    }
}
