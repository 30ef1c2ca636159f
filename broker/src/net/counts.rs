//! How many connections there are, and where.

use logmill_state::settings::NetworkSettings;
use logmill_wire::hashing::HashMap;
use logmill_wire::ids::ShardIndex;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The bounds on connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// `max.connections`: of the whole broker.
    pub total: usize,
    /// `max.connections.per.ip`.
    pub per_address: usize,
    /// `max.connections.per.ip.overrides`.
    pub overrides: Vec<(IpAddr, usize)>,
    /// `max.connection.creation.rate`: new ones in a second.
    pub creation_rate: u32,
}

impl ConnectionLimits {
    /// The bounds that the settings name. Overrides for hosts that are not addresses are passed over with a warning:
    /// accepting does not wait for name servers.
    #[must_use]
    pub fn from_settings(settings: &NetworkSettings) -> Self {
        let bound = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let parse = |text: &String| {
            let (host, count) = text.rsplit_once(':')?;
            let host = host.trim().trim_start_matches('[').trim_end_matches(']');
            Some((host.parse().ok()?, count.trim().parse().ok()?))
        };
        let mut overrides = Vec::new();
        for text in &settings.max_connections_per_ip_overrides {
            match parse(text) {
                Some(entry) => overrides.push(entry),
                None => tracing::warn!(
                    value = %text,
                    "an entry of max.connections.per.ip.overrides is not ADDRESS:COUNT and does not count"
                ),
            }
        }
        Self {
            total: bound(settings.max_connections),
            per_address: bound(settings.max_connections_per_ip),
            overrides,
            creation_rate: settings.max_connection_creation_rate,
        }
    }

    fn of(&self, address: IpAddr) -> usize {
        let own = self.overrides.iter().find(|(other, _)| *other == address);
        own.map_or(self.per_address, |(_, count)| *count)
    }
}

/// Counts of the connections of a broker, shared by its listeners and shards.
pub struct ConnectionCounts {
    total: AtomicUsize,
    per_shard: Vec<AtomicUsize>,
    per_address: Mutex<HashMap<IpAddr, usize>>,
}

impl ConnectionCounts {
    /// No connections yet, on `shards` shards.
    #[must_use]
    pub fn new(shards: u16) -> Arc<Self> {
        let per_shard = (0..shards.max(1)).map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Self { total: AtomicUsize::new(0), per_shard, per_address: Mutex::default() })
    }

    /// How many there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// How many a shard has.
    #[must_use]
    pub fn of_shard(&self, shard: ShardIndex) -> usize {
        self.per_shard.get(usize::from(shard.0)).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Counts a connection from `peer` on the shard that has the fewest; `None` if the address has as many as it
    /// may.
    #[must_use]
    pub fn enter(self: &Arc<Self>, peer: IpAddr, limits: &ConnectionLimits) -> Option<ConnectionTicket> {
        let peer = peer.to_canonical();
        {
            let mut per_address = self.per_address.lock().unwrap_or_else(PoisonError::into_inner);
            let count = per_address.entry(peer).or_insert(0);
            if *count >= limits.of(peer) {
                if *count == 0 {
                    per_address.remove(&peer);
                }
                return None;
            }
            *count += 1;
        }
        let loads = self.per_shard.iter().enumerate();
        let (shard, load) = loads.min_by_key(|(_, count)| count.load(Ordering::Relaxed))?;
        load.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
        Some(ConnectionTicket {
            counts: Arc::clone(self),
            peer,
            shard: ShardIndex(u16::try_from(shard).unwrap_or(u16::MAX)),
        })
    }
}

/// A connection's place in the counts; dropping it gives the place back.
pub struct ConnectionTicket {
    counts: Arc<ConnectionCounts>,
    peer: IpAddr,
    shard: ShardIndex,
}

impl ConnectionTicket {
    /// The shard that is to serve the connection.
    #[must_use]
    pub const fn shard(&self) -> ShardIndex {
        self.shard
    }

    /// Whether another shard would not have much more than its share of all connections with this one.
    #[must_use]
    pub fn may_move_to(&self, shard: ShardIndex) -> bool {
        let share = self.counts.total().div_ceil(self.counts.per_shard.len());
        shard != self.shard && self.counts.of_shard(shard) < share + share / 2 + 1
    }

    /// Counts the connection on another shard.
    pub fn move_to(&mut self, shard: ShardIndex) {
        let Some(load) = self.counts.per_shard.get(usize::from(shard.0)) else { return };
        load.fetch_add(1, Ordering::Relaxed);
        if let Some(load) = self.counts.per_shard.get(usize::from(self.shard.0)) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
        self.shard = shard;
    }
}

impl Drop for ConnectionTicket {
    fn drop(&mut self) {
        let counts = &self.counts;
        counts.total.fetch_sub(1, Ordering::Relaxed);
        if let Some(load) = counts.per_shard.get(usize::from(self.shard.0)) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
        let mut per_address = counts.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = per_address.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                per_address.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(total: usize, per_address: usize) -> ConnectionLimits {
        ConnectionLimits { total, per_address, overrides: Vec::new(), creation_rate: u32::MAX }
    }

    #[test]
    fn connections_go_where_there_are_fewest() {
        let counts = ConnectionCounts::new(3);
        let peer = IpAddr::from([127, 0, 0, 1]);
        let limits = limits(10, 10);
        let mut tickets: Vec<_> = (0..6).map(|_| counts.enter(peer, &limits).unwrap()).collect();
        assert_eq!(counts.total(), 6);
        for shard in 0..3 {
            assert_eq!(counts.of_shard(ShardIndex(shard)), 2);
        }
        tickets.retain(|ticket| ticket.shard() != ShardIndex(1));
        assert_eq!(counts.enter(peer, &limits).map(|ticket| ticket.shard()), Some(ShardIndex(1)));
        drop(tickets);
        assert_eq!(counts.total(), 0);
        assert!(
            counts.per_address.lock().unwrap().is_empty(),
            "an address without connections takes no memory"
        );
    }

    #[test]
    fn connections_that_move_do_not_all_end_on_one_shard() {
        let counts = ConnectionCounts::new(2);
        let (peer, limits) = (IpAddr::from([127, 0, 0, 1]), limits(100, 100));
        let mut tickets: Vec<_> = (0..16).map(|_| counts.enter(peer, &limits).unwrap()).collect();
        for ticket in &mut tickets {
            if ticket.may_move_to(ShardIndex(1)) {
                ticket.move_to(ShardIndex(1));
            }
        }
        assert_eq!([0, 1].map(|shard| counts.of_shard(ShardIndex(shard))), [3, 13]);
        assert_eq!(counts.total(), 16);
        drop(tickets);
        assert_eq!([0, 1].map(|shard| counts.of_shard(ShardIndex(shard))), [0, 0]);
        let mut only = counts.enter(peer, &limits).unwrap();
        assert!(only.may_move_to(ShardIndex(1)) && !only.may_move_to(ShardIndex(0)));
        only.move_to(ShardIndex(1));
        assert_eq!(only.shard(), ShardIndex(1));
    }

    #[test]
    fn an_address_has_its_bound() {
        let counts = ConnectionCounts::new(1);
        let mut limits = limits(10, 1);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        limits.overrides.push((other, 0));
        let held = counts.enter(one, &limits).unwrap();
        assert!(counts.enter(one, &limits).is_none());
        assert!(
            counts.enter("::ffff:10.0.0.1".parse().unwrap(), &limits).is_none(),
            "it is the same address"
        );
        assert!(counts.enter(other, &limits).is_none());
        drop(held);
        assert!(counts.enter(one, &limits).is_some());
    }
}
