//! Rot while the node is down: one bit of a file that it needs, kept to be put back.

use crate::node::DIRECTORY;
use logmill::runtime::simulated::{Chance, Host};
use logmill_wire::frame::journal::{GROUP_HEADER_BYTES, open_group};
use logmill_wire::limits::PAGE_BYTES;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file of which a bit was flipped.
pub struct Rotten {
    /// The file.
    pub path: PathBuf,
    intact: Vec<u8>,
}

impl Rotten {
    /// Flips a bit somewhere in `range` of a file; none if there is no such file.
    pub fn flip(host: &Host, path: PathBuf, range: Range<u64>) -> Option<Self> {
        let intact = host.read_file(&path).ok()?;
        host.flip_bits(&path, range, 1).ok()?;
        Some(Self { path, intact })
    }

    /// Puts the file back as it was.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn restore(&self, host: &Host) -> std::io::Result<()> {
        host.put_file(&self.path, &self.intact)
    }
}

/// The directory of the current run, and how many shards wrote it.
fn current_run(host: &Host) -> Option<(PathBuf, u64)> {
    let journals = Path::new(DIRECTORY).join("journal");
    let current = host.read_file(&journals.join("CURRENT")).ok()?;
    let number = u64::from_le_bytes(*current.get(8..)?.first_chunk()?);
    let shards = u32::from_le_bytes(*current.get(16..)?.first_chunk()?);
    Some((journals.join(format!("run-{number:010}")), shards.into()))
}

/// Lets a journal, a checkpoint, or the name of the current run rot.
pub fn rot_run(host: &Host, chance: &mut Chance) -> Option<Rotten> {
    let (run, shards) = current_run(host)?;
    let shard = chance.below(shards);
    match chance.below(5) {
        0 => Rotten::flip(host, Path::new(DIRECTORY).join("journal/CURRENT"), 0..24),
        1 | 2 => {
            let path = run.join(format!("shard-{shard}.checkpoint"));
            let length = host.read_file(&path).ok()?.len() as u64;
            Rotten::flip(host, path, 0..length)
        }
        _ => {
            let path = run.join(format!("shard-{shard}.journal"));
            let groups = groups_below_the_last(&host.read_file(&path).ok()?);
            if groups.is_empty() {
                return None;
            }
            let group = groups.get(chance.index(groups.len()))?.clone();
            Rotten::flip(host, path, group)
        }
    }
}

/// Where the groups of a journal stand. The newest is left out: nothing after it says that it was durable, so what
/// rots there cannot be told from what a power cut tore.
fn groups_below_the_last(content: &[u8]) -> Vec<Range<u64>> {
    let mut groups = Vec::new();
    let mut page = 0;
    while let Some(bytes) = content.get(page * PAGE_BYTES..).filter(|bytes| !bytes.is_empty()) {
        let Ok((header, payload)) = open_group(bytes) else {
            page += 1;
            continue;
        };
        let (start, length) = (page * PAGE_BYTES, GROUP_HEADER_BYTES + payload.len());
        if header.page as usize == page {
            groups.push((header.sequence, start as u64..(start + length) as u64));
        }
        page += length.div_ceil(PAGE_BYTES);
    }
    let last = groups.iter().map(|(sequence, _)| *sequence).max();
    groups.retain(|(sequence, _)| Some(*sequence) != last);
    groups.into_iter().map(|(_, range)| range).collect()
}
