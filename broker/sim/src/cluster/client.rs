//! A client's connections, and its view of who leads what.

use super::history::Shared;
use bytes::BytesMut;
use logmill::runtime::simulated::{Chance, SimulatedConnection, SimulatedRuntime};
use logmill::runtime::{Connection, Runtime};
use logmill::shard::deadline::within;
use logmill_wire::api::{self, ApiRequest, Message, metadata};
use logmill_wire::ids::Uuid;
use logmill_wire::primitives::Reader;
use logmill_wire::record_batch::{batches, crc_matches};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// How long a client waits for a connection or an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// A partition, in one life of its topic.
pub type Key = (Uuid, i32);

/// A response, still encoded.
pub struct Answer {
    frame: BytesMut,
    body_at: usize,
    version: i16,
    history: Shared,
}

impl Answer {
    /// The response; one that cannot be decoded breaks a promise.
    #[must_use]
    pub fn decode<'a, M: Message<'a>>(&'a self) -> Option<M> {
        match M::decode_body(&self.frame[self.body_at..], self.version) {
            Ok(message) => Some(message),
            Err(error) => {
                self.history.borrow_mut().break_promise("Protocol", format_args!("{}: {error}", M::NAME));
                None
            }
        }
    }
}

struct Link {
    connection: SimulatedConnection,
    next_correlation_id: i32,
}

impl Link {
    async fn open(runtime: &SimulatedRuntime, address: SocketAddr) -> Option<Self> {
        let connection = within(runtime, PATIENCE, runtime.connect(address)).await?.ok()?;
        Some(Self { connection, next_correlation_id: 0 })
    }

    /// The frame of the answer, without its size.
    async fn exchange<'a, R: ApiRequest<'a>>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Option<(BytesMut, usize)> {
        self.next_correlation_id += 1;
        let frame = api::request_frame(request, version, self.next_correlation_id, Some("sim")).ok()?;
        self.connection.send(frame).await.ok()?;
        let mut received = BytesMut::with_capacity(64 << 10);
        let mut needed = 4;
        loop {
            if let Some(size) = received.first_chunk().map(|prefix| u32::from_be_bytes(*prefix) as usize) {
                needed = size + 4;
            }
            if received.len() >= needed.max(4) {
                break;
            }
            received.reserve(needed.max(64 << 10) - received.len());
            let (outcome, buffer) = self.connection.receive(received).await;
            received = buffer;
            if outcome.ok()? == 0 {
                return None;
            }
        }
        let body = received.split_off(4);
        let mut reader = Reader::new(&body);
        let header = api::decode_response_header(&mut reader, R::KEY, version).ok()?;
        let body_at = body.len() - reader.remaining();
        (header.correlation_id == self.next_correlation_id).then_some((body, body_at))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.shutdown();
    }
}

/// A partition as the client knows it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The topic's name.
    pub topic: Rc<str>,
    /// The partition.
    pub key: Key,
    /// The node that leads it, or a negative number.
    pub leader: i32,
    /// The leader's epoch.
    pub epoch: i32,
}

/// The partitions that a client knows.
#[derive(Default)]
struct Places {
    /// Those of the last answer to Metadata.
    listed: BTreeMap<Key, Place>,
    /// The newest that was ever told of each. A node that hears nothing any more goes on to list a topic, with its former
    /// leader, that others do not list because it was deleted: a client remembers later leaders nevertheless.
    newest: BTreeMap<Key, Place>,
}

impl Places {
    /// Takes over an answer. A client never goes back to an older leader.
    fn take_over(&mut self, told: impl IntoIterator<Item = Place>) {
        self.listed.clear();
        for place in told {
            let newest = self.newest.entry(place.key).or_insert_with(|| place.clone());
            if newest.epoch <= place.epoch {
                newest.clone_from(&place);
            }
            self.listed.insert(place.key, newest.clone());
        }
    }
}

/// A client: a task of the host of all clients, with connections of its own.
pub struct Client {
    /// Where it runs.
    pub runtime: SimulatedRuntime,
    /// What is noted.
    pub history: Shared,
    /// What it draws from.
    pub chance: Chance,
    /// The nodes' addresses, from node 1 on.
    brokers: Rc<[SocketAddr]>,
    links: BTreeMap<i32, Link>,
    places: Places,
}

impl Client {
    /// A client that knows nothing but addresses.
    #[must_use]
    pub fn new(
        runtime: SimulatedRuntime,
        brokers: Rc<[SocketAddr]>,
        history: Shared,
        chance: Chance,
    ) -> Self {
        Self { runtime, history, chance, brokers, links: BTreeMap::new(), places: Places::default() }
    }

    /// Any node.
    pub fn any(&mut self) -> i32 {
        self.chance.index(self.brokers.len()) as i32 + 1
    }

    /// Waits for less than this, in milliseconds.
    pub async fn pause(&mut self, milliseconds_max: u64) {
        let microseconds = self.chance.below(milliseconds_max * 1000);
        self.runtime.sleep(Duration::from_micros(microseconds)).await;
    }

    /// Sends a request and waits for the answer; `None` says nothing about what became of it.
    pub async fn call<'a, R: ApiRequest<'a>>(
        &mut self,
        node: i32,
        request: &R,
        version: i16,
    ) -> Option<Answer> {
        let mut link = match self.links.remove(&node) {
            Some(link) => link,
            None => Link::open(&self.runtime, *self.brokers.get(node.checked_sub(1)? as usize)?).await?,
        };
        let exchanged = within(&self.runtime, PATIENCE, link.exchange(request, version)).await;
        let (frame, body_at) = exchanged.flatten()?;
        self.links.insert(node, link);
        self.history.borrow_mut().operations += 1;
        Some(Answer { frame, body_at, version, history: Rc::clone(&self.history) })
    }

    /// Asks any node what there is.
    pub async fn refresh(&mut self) -> bool {
        let node = self.any();
        let all = metadata::Request { topics: None, ..Default::default() };
        let Some(answer) = self.call(node, &all, 12).await else { return false };
        let Some(response) = answer.decode::<metadata::Response<'_>>() else { return false };
        let mut told = Vec::new();
        for topic in response.topics.iter().filter(|topic| topic.error_code == 0) {
            let name: Rc<str> = topic.name.as_deref().unwrap_or_default().into();
            for partition in topic.partitions.iter() {
                let key = (topic.topic_id, partition.partition_index);
                let (leader, epoch) = (partition.leader_id, partition.leader_epoch);
                self.history.borrow_mut().see_leader(key, leader, epoch);
                told.push(Place { topic: Rc::clone(&name), key, leader, epoch });
            }
        }
        self.places.take_over(told);
        true
    }

    /// The partitions of topics for records.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.listed.values().filter(|place| !place.topic.starts_with("__"))
    }

    /// One of them, by chance.
    pub fn any_place(&mut self) -> Option<Place> {
        let count = self.places().count();
        let chosen = self.chance.index(count.max(1));
        self.places().nth(chosen).cloned()
    }

    /// Whether what a leader has given is as it was written; the last batch may be cut off.
    pub fn look_at_checksums(&self, place: &Place, records: &[u8]) {
        let rotten = batches(records).map_while(Result::ok).find(|batch| !crc_matches(batch.bytes()));
        if let Some(batch) = rotten {
            let (base, partition) = (batch.header().base_offset, super::history::name(place.key));
            let what = format!("node {} gives a damaged batch at offset {base} of {partition}", place.leader);
            self.history.borrow_mut().break_promise("NoRotServed", what);
        }
    }

    /// What is known of a partition.
    #[must_use]
    pub fn place(&self, key: Key) -> Option<Place> {
        self.places.listed.get(&key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_remembered_while_nobody_lists_its_topic() {
        let key = (Uuid([1; 16]), 0);
        let place = |leader, epoch| Place { topic: "t".into(), key, leader, epoch };
        let mut places = Places::default();
        let mut told = |answer: Option<Place>| {
            places.take_over(answer);
            places.listed.get(&key).map(|place| (place.leader, place.epoch))
        };
        assert_eq!(told(Some(place(2, 0))), Some((2, 0)));
        assert_eq!(told(Some(place(3, 1))), Some((3, 1)));
        assert_eq!(told(Some(place(2, 0))), Some((3, 1)));
        assert_eq!(told(None), None, "it is not used meanwhile");
        assert_eq!(told(Some(place(2, 0))), Some((3, 1)));
        assert_eq!(told(Some(place(-1, 1))), Some((-1, 1)), "an epoch may end without a leader");
        assert_eq!(told(Some(place(2, 2))), Some((2, 2)));
    }
}
