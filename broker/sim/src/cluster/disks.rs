//! What is on the disks: of all replicas at the end, and, between the faults, of all that are said to have everything.

use super::client::Key;
use super::clients::values;
use super::history::{History, Log, name};
use super::nodes::{Nodes, directories_of};
use super::rot::Rot;
use logmill::log::recover;
use logmill::runtime::Runtime;
use logmill::runtime::simulated::{Host, Options, World};
use logmill_state::metadata::Image;
use logmill_wire::frame::checkpoint::LogState;
use logmill_wire::ids::{PartitionIndex, ShardIndex, Uuid};
use logmill_wire::record_batch::{batches, validate_stored_header};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The batches of a log by offset.
type Batches = BTreeMap<i64, Vec<u8>>;

/// The logs of a disk, by the directory that each is in.
pub struct Disk {
    logs: BTreeMap<String, Batches>,
    /// Of each log the offset behind its last record, as recovery has found it. A directory may have been another log's,
    /// of which recovery knows, too.
    ends: BTreeMap<Key, i64>,
}

impl Disk {
    /// Recovers the logs of a node as a start does, and reads them, without what has rotted: a page that a cut left behind
    /// is read again, and goes into the journal as it is, so that recovery may bring back what was put right before.
    ///
    /// # Errors
    /// If they cannot be recovered.
    pub fn read(world: &World, host: &Host, node: usize, rot: Option<&Rot>) -> Result<Self, String> {
        host.restart();
        let mut disk = Self { logs: BTreeMap::new(), ends: BTreeMap::new() };
        for &directory in directories_of(node) {
            disk.read_directory(world, host, Path::new(directory), rot)?;
        }
        Ok(disk)
    }

    fn read_directory(
        &mut self,
        world: &World,
        host: &Host,
        root: &'static Path,
        rot: Option<&Rot>,
    ) -> Result<(), String> {
        let runtime = host.runtime(ShardIndex(0));
        let own = runtime.clone();
        let found = world.block_on(&runtime, async move {
            let is_missing = |error: std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
            if own.read_directory(root).await.is_err_and(is_missing) {
                // The disk is new, and no process has begun on it.
                return Ok((BTreeMap::new(), BTreeSet::new()));
            }
            let recovery = recover(&own, root).await.map_err(|error| error.to_string())?;
            let end = |log: &LogState| ((Uuid(log.topic_id), log.partition), log.next_offset);
            let ends: BTreeMap<Key, i64> = recovery.logs.iter().map(end).collect();
            let mut files = BTreeSet::new();
            for entry in own.read_directory(root).await.map_err(|error| error.to_string())? {
                let is_log = entry.is_directory && entry.name.contains('-') && !entry.name.contains('.');
                if !is_log {
                    continue;
                }
                let directory = root.join(&entry.name);
                for file in own.read_directory(&directory).await.map_err(|error| error.to_string())? {
                    if file.name.ends_with(".log") {
                        files.insert((entry.name.clone(), file.name));
                    }
                }
            }
            Ok::<_, String>((ends, files))
        });
        let (ends, files) = found.map_err(|error| format!("Recovers: {}: {error}", host.name()))?;
        if let Some(rot) = rot {
            rot.undo(host);
        }
        let mut logs: BTreeMap<String, Batches> = BTreeMap::new();
        for (directory, file) in files {
            let bytes =
                host.read_file(&root.join(&directory).join(&file)).map_err(|error| error.to_string())?;
            let log = logs.entry(directory).or_default();
            for batch in batches(&bytes) {
                let Some(batch) = batch.ok().filter(|batch| validate_stored_header(batch).is_ok()) else {
                    break;
                };
                let base = batch.header().base_offset.0;
                // What lies behind the log's end is of no log.
                if log.last_key_value().is_some_and(|(last, _)| *last >= base) {
                    break;
                }
                log.insert(base, batch.bytes().to_vec());
            }
        }
        // Of two logs with one name the one that has gone on counts.
        let last = |log: &Batches| log.last_key_value().map(|(base, _)| *base);
        for (directory, log) in logs {
            if self.logs.get(&directory).is_none_or(|known| last(known) < last(&log)) {
                self.logs.insert(directory, log);
            }
        }
        for (key, end) in ends {
            let known = self.ends.entry(key).or_default();
            *known = end.max(*known);
        }
        Ok(())
    }

    /// The batches of a log, without those that lie behind its end.
    fn batches(&self, directory: &str, key: Key) -> Batches {
        let end = self.ends.get(&key).copied().unwrap_or(0);
        let mut log = self.logs.get(directory).cloned().unwrap_or_default();
        log.retain(|base, _| *base < end);
        log
    }

    /// The values of a log, by offset.
    fn values(&self, directory: &str, key: Key) -> BTreeMap<i64, u64> {
        self.batches(directory, key).values().flat_map(|batch| values(batch)).collect()
    }

    /// A record that was acknowledged, and is not in the log.
    fn lacks(&self, directory: &str, key: Key, log: &Log) -> Option<String> {
        let found = self.values(directory, key);
        let (offset, value) = log.acknowledged().find(|(offset, value)| found.get(offset) != Some(value))?;
        let (there, end) = (found.get(&offset), self.ends.get(&key));
        Some(format!(
            "{value} at offset {offset} of {directory} is {there:?} in a log that ends before {end:?}"
        ))
    }
}

fn directories(image: &Image) -> BTreeMap<Key, String> {
    let mut names = BTreeMap::new();
    for topic in image.topics().filter(|topic| !topic.name.starts_with("__")) {
        for partition in 0..topic.partition_count() {
            names.insert((topic.id, partition), format!("{}-{partition}", topic.name));
        }
    }
    names
}

/// Holds the disks of all nodes, whose power is off, against what was acknowledged, and against each other.
///
/// # Errors
/// The promise that was broken.
pub fn compare(disks: &[Disk], image: &Image, history: &History) -> Result<(), String> {
    let names = directories(image);
    for (key, log) in history.logs() {
        let Some(directory) = names.get(&key) else { continue };
        let topic = image.topic_by_id(key.0);
        let state = topic.and_then(|topic| image.partition(topic, PartitionIndex(key.1)));
        let Some(state) = state else { continue };
        let mut first: Option<(i32, Batches)> = None;
        for node in state.in_sync {
            let Some(disk) = disks.get(node.0 as usize - 1) else { continue };
            if let Some(lost) = disk.lacks(directory, key, log) {
                return Err(format!("AcknowledgedStays: {lost}, on the disk of node {node} ({})", name(key)));
            }
            let whole = disk.batches(directory, key);
            let below: Batches =
                whole.into_iter().filter(|(offset, _)| *offset < log.high_watermark()).collect();
            match &first {
                None => first = Some((node.0, below)),
                Some((other, bytes)) if *bytes != below => {
                    let at = bytes.iter().zip(&below).find(|(one, two)| one != two);
                    let at = at.map(|((offset, _), _)| *offset);
                    return Err(format!(
                        "ReplicasAgree: {directory} differs on nodes {other} and {node}, from {at:?} on, below {}",
                        log.high_watermark()
                    ));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

/// Whether every replica that is in sync, or eligible, has on its disk all that was acknowledged. Nothing happens to
/// the hosts: the power of copies of them is cut, as `seed` draws it. What has rotted is put right on the copy, so that
/// all that stood behind it shows, and what stood there when it rotted must be there.
///
/// # Errors
/// The promise that was broken.
pub fn look_in_sync(seed: u64, nodes: &Nodes, rot: Option<&Rot>, history: &History) -> Result<(), String> {
    let counted = nodes.images.counted();
    let world = World::new(seed, Options::default());
    for node in 0..nodes.len() {
        let has_all = |key: &Key| counted.get(key).filter(|(_, replicas)| replicas.contains(&node));
        let asked = history.logs().filter_map(|(key, log)| Some((key, &has_all(&key)?.0, log)));
        let asked: Vec<(Key, &String, &Log)> = asked.collect();
        let rot = rot.filter(|rot| rot.node == node);
        if asked.is_empty() && rot.is_none() {
            continue;
        }
        let copy = nodes.host(node).after_power_cut(&world);
        let on_disk = rot;
        if let Some(rot) = rot {
            rot.undo(&copy);
        }
        // What a replica had that has left, or of a topic that is deleted, is not promised any more.
        let rot = rot.filter(|rot| nodes.images.is_replica(node, rot.key) && !history.is_given_up(rot.key));
        let disk = Disk::read(&world, &copy, node, on_disk)?;
        let of_rot = rot.and_then(|rot| Some((rot, &counted.get(&rot.key)?.0)));
        if let Some(lost) = of_rot.and_then(|(rot, directory)| rot.lacking(&disk.values(directory, rot.key)))
        {
            return Err(format!("RotIsKept: {lost}"));
        }
        for (key, directory, log) in asked {
            if let Some(lost) = disk.lacks(directory, key, log) {
                let what = format!("{lost}, on the disk of node {}, which counts as in sync", node + 1);
                return Err(format!("InSyncHasAll: {what} ({})", name(key)));
            }
        }
    }
    Ok(())
}
