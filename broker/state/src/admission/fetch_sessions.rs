//! Incremental fetch sessions (KIP-227): a client names its partitions once, then only what changes, and is
//! answered only with what changed.
//!
//! | session id, epoch of the request | meaning |
//! |---|---|
//! | any, -1 | close the session, if there is one; this fetch has none |
//! | any, 0 | close the session, if there is one; begin another if there is room |
//! | known, the next epoch | the session goes on |
//! | known, another epoch | INVALID_FETCH_SESSION_EPOCH |
//! | unknown, from 1 on | FETCH_SESSION_ID_NOT_FOUND |
//!
//! A session that is lost costs one full fetch: nothing here needs to survive anything.

use std::collections::BTreeMap;
use std::fmt;

use logmill_wire::ids::{LeaderEpoch, MonotonicNs, Offset, ShardIndex, TopicPartition};
use logmill_wire::limits::{FETCH_SESSION_PARTITIONS_MAX, SHARD_SESSION_PARTITIONS_MAX, SHARDS_MAX};

/// The session id that means "no session".
pub const NO_SESSION: i32 = 0;

/// The epoch that begins a session.
pub const INITIAL_EPOCH: i32 = 0;

/// The epoch that ends a session, and that of a fetch without one.
pub const FINAL_EPOCH: i32 = -1;

/// Bits of a session id below those of its home shard.
const RANDOM_BITS: u32 = 23;

const _: () = assert!(SHARDS_MAX <= 1 << (31 - RANDOM_BITS));

/// The shard that holds a session; `None` if this is no session's id.
#[must_use]
pub fn home_shard(session_id: i32) -> Option<ShardIndex> {
    let id = u32::try_from(session_id).ok().filter(|&id| id != 0)?;
    u16::try_from(id >> RANDOM_BITS).ok().map(ShardIndex)
}

/// The epoch after `epoch`; after `i32::MAX` comes 1.
const fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

/// What a client asks of one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchPartition {
    /// From where.
    pub fetch_offset: Offset,
    /// How many bytes at most.
    pub max_bytes: i32,
    /// The leader epoch that the client knows, or none.
    pub current_leader_epoch: LeaderEpoch,
    /// The epoch of the last record that it has, or none.
    pub last_fetched_epoch: LeaderEpoch,
    /// A follower's own log start offset; -1 from a consumer.
    pub follower_log_start_offset: Offset,
}

/// What matters of one partition's answer for the decision whether to send it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchedPartition {
    /// The high watermark, -1 with an error.
    pub high_watermark: Offset,
    /// The log's start, -1 with an error.
    pub log_start_offset: Offset,
    /// Whether there are records.
    pub has_records: bool,
    /// Whether there is an error code.
    pub has_error: bool,
    /// Whether there is a diverging epoch, or another replica is preferred.
    pub has_redirection: bool,
}

/// The part of a Fetch request that concerns sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchSessionRequest<K = TopicPartition> {
    /// The session, or [`NO_SESSION`].
    pub session_id: i32,
    /// Its epoch, [`INITIAL_EPOCH`] or [`FINAL_EPOCH`].
    pub epoch: i32,
    /// Whether the request names topics by id (version 13 and later); a session does not change this.
    pub uses_topic_ids: bool,
    /// Whether a follower asks: its session is worth more than a consumer's.
    pub is_privileged: bool,
    /// The partitions, in the client's order: all of them, or what is new or changed in the session.
    pub partitions: Vec<(K, FetchPartition)>,
    /// The partitions that leave the session.
    pub forgotten: Vec<K>,
}

/// Why a session does not go on; the client begins another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchSessionError {
    /// FETCH_SESSION_ID_NOT_FOUND.
    NotFound,
    /// INVALID_FETCH_SESSION_EPOCH: a request was lost, sent twice, or overtaken.
    InvalidEpoch,
    /// FETCH_SESSION_TOPIC_ID_ERROR: the session names topics the other way.
    TopicIds,
}

impl fmt::Display for FetchSessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such fetch session; begin another",
            Self::InvalidEpoch => "the fetch session is at another epoch; begin another session",
            Self::TopicIds => "a fetch session has topic ids from its beginning or never; begin another",
        })
    }
}

impl std::error::Error for FetchSessionError {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Sessionless,
    Full { uses_topic_ids: bool, is_privileged: bool },
    Incremental { session_id: i32, epoch: i32 },
}

/// A fetch between its request and its response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchContext<K = TopicPartition> {
    kind: Kind,
    partitions: Vec<(K, FetchPartition)>,
}

impl<K> FetchContext<K> {
    /// Every partition to fetch from, in the order in which they get their share of the response.
    #[must_use]
    pub fn partitions(&self) -> &[(K, FetchPartition)] {
        &self.partitions
    }
}

/// What the response says of the session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchOutcome {
    /// The session, or [`NO_SESSION`].
    pub session_id: i32,
    /// For each fetched partition whether the response has it.
    pub included: Vec<bool>,
}

/// How many sessions there may be, and when one may give way to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchSessionLimits {
    /// This shard's part of `max.incremental.fetch.session.cache.slots`.
    pub slots: usize,
    /// How long a session must be unused to be stale, and how old to give way to a larger one; Kafka has
    /// two minutes.
    pub eviction_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct CachedPartition {
    request: FetchPartition,
    /// What the client was told last, or -1.
    high_watermark: Offset,
    /// What the client was told last, or -1.
    log_start_offset: Offset,
}

impl CachedPartition {
    fn new(request: FetchPartition) -> Self {
        Self { request, high_watermark: Offset(-1), log_start_offset: Offset(-1) }
    }

    /// Whether the response must have the partition; what the client will then know is noted.
    fn note(&mut self, fetched: &FetchedPartition) -> bool {
        let changed = self.high_watermark != fetched.high_watermark
            || self.log_start_offset != fetched.log_start_offset;
        self.high_watermark = fetched.high_watermark;
        self.log_start_offset = fetched.log_start_offset;
        if fetched.has_error {
            // When the error goes away, the client must hear of it.
            self.high_watermark = Offset(-1);
        }
        changed || fetched.has_records || fetched.has_error || fetched.has_redirection
    }
}

#[derive(Clone, Debug)]
struct Session<K> {
    uses_topic_ids: bool,
    is_privileged: bool,
    created: MonotonicNs,
    last_used: MonotonicNs,
    epoch: i32,
    /// By turn: who got records goes to the end, so that everyone gets a share.
    turns: BTreeMap<u64, (K, CachedPartition)>,
    turn_of: BTreeMap<K, u64>,
    next_turn: u64,
}

impl<K: Ord + Clone> Session<K> {
    fn get_mut(&mut self, key: &K) -> Option<&mut CachedPartition> {
        let turn = self.turn_of.get(key)?;
        self.turns.get_mut(turn).map(|(_, partition)| partition)
    }

    fn push(&mut self, key: K, partition: CachedPartition) {
        self.turn_of.insert(key.clone(), self.next_turn);
        self.turns.insert(self.next_turn, (key, partition));
        self.next_turn += 1;
    }

    fn remove(&mut self, key: &K) -> Option<CachedPartition> {
        let turn = self.turn_of.remove(key)?;
        self.turns.remove(&turn).map(|(_, partition)| partition)
    }

    fn len(&self) -> usize {
        self.turns.len()
    }
}

/// The fetch sessions of one shard. `K` names a partition; whoever serves clients older than topic ids may
/// use a key that can also hold a name which no topic has yet, so that the session remembers it.
#[derive(Clone, Debug)]
pub struct FetchSessions<K = TopicPartition> {
    shard: ShardIndex,
    limits: FetchSessionLimits,
    sessions: BTreeMap<i32, Session<K>>,
    partition_count: usize,
}

impl<K: Ord + Clone> FetchSessions<K> {
    /// No sessions yet.
    ///
    /// # Panics
    /// If there cannot be such a shard.
    #[must_use]
    pub fn new(shard: ShardIndex, limits: FetchSessionLimits) -> Self {
        assert!(usize::from(shard.0) < SHARDS_MAX, "there is no shard {shard}");
        Self { shard, limits, sessions: BTreeMap::new(), partition_count: 0 }
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there are no sessions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// How many partitions the sessions hold together.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// Ends a session, if there is one with this id.
    pub fn close(&mut self, session_id: i32) {
        if let Some(session) = self.sessions.remove(&session_id) {
            self.partition_count -= session.len();
        }
    }

    /// Takes note of a request, and says which partitions to fetch from. An incremental request must come to
    /// the [`home_shard`] of its session; for a full one that closes a session of another shard, the caller
    /// calls [`FetchSessions::close`] there.
    ///
    /// # Errors
    /// [`FetchSessionError`], for the whole response.
    pub fn begin(
        &mut self,
        request: FetchSessionRequest<K>,
        now: MonotonicNs,
    ) -> Result<FetchContext<K>, FetchSessionError> {
        if request.epoch == INITIAL_EPOCH || request.epoch == FINAL_EPOCH {
            self.close(request.session_id);
            let FetchSessionRequest { uses_topic_ids, is_privileged, partitions, .. } = request;
            let kind = match request.epoch {
                INITIAL_EPOCH => Kind::Full { uses_topic_ids, is_privileged },
                _ => Kind::Sessionless,
            };
            return Ok(FetchContext { kind, partitions });
        }
        let session = self.sessions.get(&request.session_id).ok_or(FetchSessionError::NotFound)?;
        if session.epoch != request.epoch {
            return Err(FetchSessionError::InvalidEpoch);
        }
        if session.uses_topic_ids != request.uses_topic_ids {
            return Err(FetchSessionError::TopicIds);
        }
        self.go_on(request, now)
    }

    fn go_on(
        &mut self,
        request: FetchSessionRequest<K>,
        now: MonotonicNs,
    ) -> Result<FetchContext<K>, FetchSessionError> {
        let session_id = request.session_id;
        let session = self.sessions.get_mut(&session_id).ok_or(FetchSessionError::NotFound)?;
        let len_before = session.len();
        for (key, partition) in request.partitions {
            match session.get_mut(&key) {
                Some(cached) => cached.request = partition,
                None => session.push(key, CachedPartition::new(partition)),
            }
        }
        for key in &request.forgotten {
            session.remove(key);
        }
        session.last_used = now;
        session.epoch = next_epoch(session.epoch);
        let (len, epoch) = (session.len(), session.epoch);
        self.partition_count = self.partition_count - len_before + len;
        if len > FETCH_SESSION_PARTITIONS_MAX || self.partition_count > SHARD_SESSION_PARTITIONS_MAX {
            // The client comes back with a full fetch, which gets no session if it is still too large.
            self.close(session_id);
            return Err(FetchSessionError::NotFound);
        }
        let partitions = session_partitions(self.sessions.get(&session_id))
            .map(|(key, cached)| (key.clone(), cached.request));
        let partitions: Vec<_> = partitions.collect();
        if partitions.is_empty() {
            self.close(session_id);
            return Ok(FetchContext { kind: Kind::Sessionless, partitions });
        }
        Ok(FetchContext { kind: Kind::Incremental { session_id, epoch }, partitions })
    }

    /// Takes note of what the response says, and decides what of it is sent. `fetched` has one answer for
    /// each of the context's partitions; none at all for a response that is only to throttle the client.
    ///
    /// # Errors
    /// [`FetchSessionError::InvalidEpoch`], if the session has gone on meanwhile.
    pub fn finish(
        &mut self,
        context: FetchContext<K>,
        fetched: &[(K, FetchedPartition)],
        random_bits: u64,
        now: MonotonicNs,
    ) -> Result<FetchOutcome, FetchSessionError> {
        let all = vec![true; fetched.len()];
        match context.kind {
            Kind::Sessionless => Ok(FetchOutcome { session_id: NO_SESSION, included: all }),
            Kind::Full { uses_topic_ids, is_privileged } => {
                let len = fetched.len();
                if len == 0 || len > FETCH_SESSION_PARTITIONS_MAX || !self.make_room(is_privileged, len, now)
                {
                    return Ok(FetchOutcome { session_id: NO_SESSION, included: all });
                }
                let mut session = Session {
                    uses_topic_ids,
                    is_privileged,
                    created: now,
                    last_used: now,
                    epoch: next_epoch(INITIAL_EPOCH),
                    turns: BTreeMap::new(),
                    turn_of: BTreeMap::new(),
                    next_turn: 0,
                };
                let requests: BTreeMap<&K, FetchPartition> =
                    context.partitions.iter().map(|(key, request)| (key, *request)).collect();
                for (key, fetched) in fetched {
                    let Some(&request) = requests.get(key) else { continue };
                    if session.turn_of.contains_key(key) {
                        continue;
                    }
                    let mut cached = CachedPartition::new(request);
                    cached.note(fetched);
                    session.push(key.clone(), cached);
                }
                let session_id = self.new_id(random_bits);
                self.partition_count += session.len();
                self.sessions.insert(session_id, session);
                Ok(FetchOutcome { session_id, included: all })
            }
            Kind::Incremental { session_id, epoch } => {
                let included = self.finish_incremental(session_id, epoch, fetched)?;
                Ok(FetchOutcome { session_id, included })
            }
        }
    }

    fn finish_incremental(
        &mut self,
        session_id: i32,
        epoch: i32,
        fetched: &[(K, FetchedPartition)],
    ) -> Result<Vec<bool>, FetchSessionError> {
        let Some(session) = self.sessions.get_mut(&session_id) else {
            // The session gave way while this fetch waited. The client gets everything now, and hears of it
            // with its next request.
            return Ok(vec![true; fetched.len()]);
        };
        if session.epoch != epoch {
            return Err(FetchSessionError::InvalidEpoch);
        }
        let mut included = Vec::with_capacity(fetched.len());
        for (key, fetched) in fetched {
            let include = session.get_mut(key).is_none_or(|cached| cached.note(fetched));
            if fetched.has_records
                && let Some(cached) = session.remove(key)
            {
                session.push(key.clone(), cached);
            }
            included.push(include);
        }
        Ok(included)
    }

    /// Whether a session of `len` partitions finds room, if need be in place of another:
    /// one that is stale; a consumer's, for a follower's; a smaller one that is not young.
    fn make_room(&mut self, is_privileged: bool, len: usize, now: MonotonicNs) -> bool {
        if self.limits.slots == 0 {
            return false;
        }
        if self.sessions.len() >= self.limits.slots {
            let Some(evicted) = self.evictable(is_privileged, len, now) else { return false };
            self.close(evicted);
        }
        self.partition_count + len <= SHARD_SESSION_PARTITIONS_MAX
    }

    fn evictable(&self, is_privileged: bool, len: usize, now: MonotonicNs) -> Option<i32> {
        let (&oldest, session) =
            self.sessions.iter().min_by_key(|(id, session)| (session.last_used, **id))?;
        if now.since(session.last_used) > self.limits.eviction_ns {
            return Some(oldest);
        }
        let may_give_way = |session: &Session<K>| {
            (is_privileged && !session.is_privileged) || now.since(session.created) > self.limits.eviction_ns
        };
        let least = self
            .sessions
            .iter()
            .filter(|(_, session)| may_give_way(session))
            .map(|(&id, session)| (session.is_privileged, session.len(), id))
            .min()?;
        ((is_privileged, len, NO_SESSION) > least).then_some(least.2)
    }

    fn new_id(&self, random_bits: u64) -> i32 {
        const LOW: i32 = (1 << RANDOM_BITS) - 1;
        let home = i32::from(self.shard.0) << RANDOM_BITS;
        let mut low = (random_bits as i32) & LOW;
        // There are far fewer sessions than ids, so a free one is near.
        loop {
            let id = home | low;
            if low != 0 && !self.sessions.contains_key(&id) {
                return id;
            }
            low = (low + 1) & LOW;
        }
    }
}

fn session_partitions<K>(session: Option<&Session<K>>) -> impl Iterator<Item = &(K, CachedPartition)> {
    session.into_iter().flat_map(|session| session.turns.values())
}

#[cfg(test)]
mod tests;
