//! One bit of a record rots on the disk of one replica, while all others have the record. Nobody may ever be given what
//! stands there now, whoever asks for it must be told, and nothing may be cut off because of it; at the end an operator
//! replaces the disk.

use super::client::{Client, Key};
use super::clients::values;
use super::history::History;
use super::nodes::{Nodes, directories_of};
use logmill::runtime::simulated::{Chance, Host};
use logmill_wire::api::fetch;
use logmill_wire::record_batch::{BatchView, batches, crc_matches};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// How often somebody asks for a record that may be rotten.
const QUESTIONS: usize = 8;

/// The bit, and what stood there.
#[derive(Clone, Debug)]
pub struct Rot {
    /// The node whose disk it is.
    pub node: usize,
    /// The partition.
    pub key: Key,
    path: PathBuf,
    position: usize,
    intact: u8,
    rotten: u8,
    /// The batch's first offset.
    base: i64,
    /// What was acknowledged of the partition when the bit rotted: all of it was on this disk.
    acknowledged: BTreeMap<i64, u64>,
}

/// Where the batches of a file stand that are as they were written.
fn intact_batches(bytes: &[u8]) -> Vec<(usize, BatchView<'_>)> {
    let mut found = Vec::new();
    let mut position = 0;
    for batch in batches(bytes).map_while(Result::ok).take_while(|batch| crc_matches(batch.bytes())) {
        found.push((position, batch));
        position += batch.bytes().len();
    }
    found
}

impl Rot {
    /// Lets a bit rot of something that a node and all others of its replicas have, if there is something.
    pub fn strike(nodes: &Nodes, node: usize, history: &History, chance: &mut Chance) -> Option<Self> {
        let counted = nodes.images.counted();
        let logs = history.logs().filter_map(|(key, log)| {
            let here = |(_, replicas): &&(_, BTreeSet<usize>)| replicas.contains(&node);
            let (directory, _) = counted.get(&key).filter(here).filter(|_| nodes.images.all_count(key))?;
            Some((key, Path::new(directory).join("00000000000000000000.log"), log))
        });
        let host = nodes.host(node);
        let mut places = Vec::new();
        let roots = |(key, path, log): (_, PathBuf, _)| {
            directories_of(node).iter().map(move |root| (key, Path::new(root).join(&path), log))
        };
        for (key, path, log) in logs.flat_map(roots) {
            // Much of a log is in the journal only, and in memory.
            let Ok(bytes) = host.read_file(&path) else { continue };
            for (start, batch) in intact_batches(&bytes) {
                if batch.header().next_offset().0 <= log.high_watermark() {
                    let range = start..start + batch.bytes().len();
                    places.push((key, path.clone(), range, batch.header().base_offset.0, log));
                }
            }
        }
        let (key, path, range, base, log) = places.get(chance.index(places.len().max(1)))?;
        let position = range.start + chance.index(range.len());
        let before = host.read_file(path).ok()?;
        host.flip_bits(path, position as u64..position as u64 + 1, 1).ok()?;
        let rotten = *host.read_file(path).ok()?.get(position)?;
        Some(Self {
            node,
            key: *key,
            path: path.clone(),
            position,
            intact: *before.get(position)?,
            rotten,
            base: *base,
            acknowledged: log.acknowledged().collect(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> String {
        format!("byte {} of {} on node {}", self.position, self.path.display(), self.node + 1)
    }

    /// Puts the bit back on a copy of the disk, if it is rotten there.
    pub fn undo(&self, copy: &Host) {
        let Ok(mut bytes) = copy.read_file(&self.path) else { return };
        if let Some(byte) = bytes.get_mut(self.position).filter(|byte| **byte == self.rotten) {
            *byte = self.intact;
            let _ = copy.put_file(&self.path, &bytes);
        }
    }

    /// A record that was acknowledged before the bit rotted, and is not in what the log holds now.
    #[must_use]
    pub fn lacking(&self, found: &BTreeMap<i64, u64>) -> Option<String> {
        let (offset, value) =
            self.acknowledged.iter().find(|(offset, value)| found.get(offset) != Some(value))?;
        let there = found.get(offset);
        Some(format!("{value} at offset {offset} is {there:?} on the disk of node {}", self.node + 1))
    }

    /// Asks the node for the record, if it leads the partition: it has to give the record as it was, or say that it
    /// cannot. It breaks a promise to say that there is nothing.
    pub async fn ask(self, mut client: Client) {
        if !client.refresh().await {
            return;
        }
        let node = self.node as i32 + 1;
        let Some(place) = client.place(self.key).filter(|place| place.leader == node) else { return };
        let mut nothing = 0;
        for _ in 0..QUESTIONS {
            let partition = fetch::FetchPartition {
                partition: self.key.1,
                current_leader_epoch: place.epoch,
                fetch_offset: self.base,
                partition_max_bytes: 1 << 20,
                ..fetch::FetchPartition::default()
            };
            let topic = fetch::FetchTopic {
                topic_id: self.key.0,
                partitions: vec![partition].into(),
                ..fetch::FetchTopic::default()
            };
            let request = fetch::Request {
                max_wait_ms: 100,
                min_bytes: 1,
                max_bytes: 1 << 20,
                session_epoch: -1,
                topics: vec![topic].into(),
                ..fetch::Request::default()
            };
            let Some(answer) = client.call(node, &request, 16).await else { continue };
            let Some(response) = answer.decode::<fetch::Response<'_>>() else { return };
            let told = response.responses.iter().flat_map(|topic| topic.partitions.into_vec()).next();
            let Some(told) = told.filter(|_| response.error_code == 0) else { continue };
            let records = told.records.as_ref().and_then(|records| records.borrowed()).unwrap_or_default();
            client.look_at_checksums(&place, records);
            let has_it = values(records).iter().any(|(offset, _)| *offset >= self.base);
            if told.error_code != 0 || has_it || told.high_watermark <= self.base {
                return;
            }
            nothing += 1;
        }
        if nothing == QUESTIONS {
            let what = format!(
                "node {node} says that nothing is at offset {} of {}",
                self.base,
                self.path.display()
            );
            client.history.borrow_mut().break_promise("RotIsReported", what);
        }
    }
}
