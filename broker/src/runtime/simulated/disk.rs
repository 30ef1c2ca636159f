//! A simulated disk: a tree of names over files. A name that was made, moved or removed is certain to be
//! so after a crash only once its directory was synced; before, a crash keeps a prefix of what was done to
//! each directory.

use super::chance::Chance;
use super::content::Content;
use super::options::DiskOptions;
use crate::runtime::{DirectoryEntry, OpenMode, Volume};
use logmill_wire::ids::TimestampMs;
use logmill_wire::limits::PAGE_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

/// Which operations a [`Fault`] strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `File::read`.
    Read,
    /// `File::write`.
    Write,
    /// `File::flush`.
    Flush,
    /// `File::allocate`, `set_length`, `length` and `modified`.
    Length,
    /// `Runtime::open`.
    Open,
    /// Everything done to directories.
    Names,
    /// All of them.
    Any,
}

/// An error that a disk is to give.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What fails.
    pub operation: Operation,
    /// Only where the path contains this text; everywhere if it is empty.
    pub path_contains: String,
    /// How many matching operations still succeed first.
    pub after: u64,
    /// How many then fail.
    pub times: u64,
    /// The probability with which each of those fails.
    pub probability: f64,
    /// The error's number, as `libc::EIO`.
    pub error: i32,
}

impl Fault {
    /// An input/output error in every such operation from now on.
    #[must_use]
    pub const fn always(operation: Operation) -> Self {
        Self {
            operation,
            path_contains: String::new(),
            after: 0,
            times: u64::MAX,
            probability: 1.0,
            error: libc::EIO,
        }
    }

    /// An input/output error in the operation that follows `after` successful ones, once.
    #[must_use]
    pub const fn once_after(operation: Operation, after: u64) -> Self {
        let mut fault = Self::always(operation);
        fault.after = after;
        fault.times = 1;
        fault
    }
}

pub(super) type Node = u64;

const ROOT: Node = 1;

#[derive(Clone)]
enum Change {
    Link { name: String, node: Node },
    Unlink { name: String },
    Move { from: String, to: String, node: Node },
}

#[derive(Clone)]
struct NameChange {
    /// The tick of the operation; a move between directories is one operation with a change in both.
    at: u64,
    change: Change,
    partner: Option<Node>,
}

#[derive(Clone, Default)]
struct Directory {
    live: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: Vec<NameChange>,
}

fn apply(names: &mut BTreeMap<String, Node>, change: &Change) {
    match change {
        Change::Link { name, node } => {
            names.insert(name.clone(), *node);
        }
        Change::Unlink { name } => {
            names.remove(name);
        }
        Change::Move { from, to, node } => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }
}

#[derive(Clone, Default)]
struct FileNode {
    content: Content,
    open: u32,
    is_linked: bool,
    modified: TimestampMs,
}

pub(super) fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn names_of(path: &Path) -> Vec<&str> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect()
}

/// The disk of one host; it outlives the host's crashes.
#[derive(Clone)]
pub(super) struct Disk {
    pub options: DiskOptions,
    /// Everything takes this many times as long.
    pub slowness: u64,
    pub capacity_bytes: Option<u64>,
    pub faults: Vec<Fault>,
    /// How many operations of each kind were asked for.
    operations: [u64; Operation::Any as usize],
    /// A clock of the disk's own that orders what happens on it.
    tick: u64,
    next_node: Node,
    directories: BTreeMap<Node, Directory>,
    files: BTreeMap<Node, FileNode>,
}

impl Disk {
    pub fn new(options: DiskOptions) -> Self {
        Self {
            options,
            slowness: 1,
            capacity_bytes: None,
            faults: Vec::new(),
            operations: [0; Operation::Any as usize],
            tick: 0,
            next_node: ROOT + 1,
            directories: BTreeMap::from([(ROOT, Directory::default())]),
            files: BTreeMap::new(),
        }
    }

    /// The same bytes and names, and what is under way; nothing that was made to go wrong.
    pub fn copied(&self) -> Self {
        Self { slowness: 1, capacity_bytes: None, faults: Vec::new(), ..self.clone() }
    }

    /// The next moment of the disk's own clock.
    pub fn next_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// The present moment: whatever is done later has a greater one.
    pub fn tick(&self) -> u64 {
        self.tick
    }

    /// How many operations of a kind were asked for.
    pub fn operations(&self, operation: Operation) -> u64 {
        self.operations.get(operation as usize).copied().unwrap_or_else(|| self.operations.iter().sum())
    }

    /// The error that this operation is to give, if any.
    pub fn fault(&mut self, operation: Operation, path: &Path, chance: &mut Chance) -> Option<io::Error> {
        if let Some(count) = self.operations.get_mut(operation as usize) {
            *count += 1;
        }
        let text = path.to_str().unwrap_or_default();
        for fault in &mut self.faults {
            let matches = (fault.operation == operation || fault.operation == Operation::Any)
                && text.contains(&fault.path_contains);
            if !matches || fault.times == 0 {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
            } else if chance.hit(fault.probability) {
                fault.times -= 1;
                return Some(error(fault.error));
            }
        }
        None
    }

    /// An error if `position` and `length` need more space than there is.
    pub fn check_space(&self, node: Node, position: u64, length: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity_bytes else { return Ok(()) };
        let Some(file) = self.files.get(&node) else { return Ok(()) };
        let missing = file.content.missing_pages(position, length) * PAGE_BYTES as u64;
        if missing > 0 && self.taken_bytes() + missing > capacity { Err(error(libc::ENOSPC)) } else { Ok(()) }
    }

    /// Bytes that the files take together.
    pub fn taken_bytes(&self) -> u64 {
        let files = self.files.values().filter(|file| file.is_linked || file.open > 0);
        files.map(|file| file.content.reserved_pages()).sum::<u64>() * PAGE_BYTES as u64
    }

    /// The room that there is; a disk without bounds is as large as a number can say.
    pub fn volume(&self) -> Volume {
        let total_bytes = self.capacity_bytes.unwrap_or(i64::MAX as u64);
        Volume { total_bytes, usable_bytes: total_bytes.saturating_sub(self.taken_bytes()) }
    }

    /// The content of an open file.
    /// Takes note that a file is changed now.
    pub fn touch(&mut self, node: Node, now: TimestampMs) {
        if let Some(file) = self.files.get_mut(&node) {
            file.modified = now;
        }
    }

    pub fn modified(&self, node: Node) -> io::Result<TimestampMs> {
        self.files.get(&node).map(|file| file.modified).ok_or_else(|| error(libc::EBADF))
    }

    pub fn content(&mut self, node: Node) -> io::Result<&mut Content> {
        self.files.get_mut(&node).map(|file| &mut file.content).ok_or_else(|| error(libc::EBADF))
    }

    fn new_node(&mut self) -> Node {
        self.next_node += 1;
        self.next_node - 1
    }

    fn directory(&mut self, node: Node) -> io::Result<&mut Directory> {
        self.directories.get_mut(&node).ok_or_else(|| error(libc::ENOTDIR))
    }

    fn resolve(&mut self, path: &Path) -> io::Result<Node> {
        let mut node = ROOT;
        for name in names_of(path) {
            node = *self.directory(node)?.live.get(name).ok_or_else(|| error(libc::ENOENT))?;
        }
        Ok(node)
    }

    /// The directory that a path's last name stands in, and that name.
    fn resolve_parent(&mut self, path: &Path) -> io::Result<(Node, String)> {
        let names = names_of(path);
        let Some((last, above)) = names.split_last() else { return Err(error(libc::EBUSY)) };
        let parent = self.resolve(&above.iter().collect::<std::path::PathBuf>())?;
        self.directory(parent)?;
        Ok((parent, (*last).to_owned()))
    }

    fn change(&mut self, directory: Node, at: u64, change: Change, partner: Option<Node>) -> io::Result<()> {
        let directory = self.directory(directory)?;
        apply(&mut directory.live, &change);
        directory.pending.push(NameChange { at, change, partner });
        Ok(())
    }

    pub fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<Node> {
        let (parent, name) = self.resolve_parent(path)?;
        let known = self.directory(parent)?.live.get(&name).copied();
        let node = match (known, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(error(libc::EEXIST)),
            (Some(node), _) => node,
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(error(libc::ENOENT)),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                let node = self.new_node();
                let file = FileNode { open: 0, is_linked: true, ..FileNode::default() };
                self.files.insert(node, file);
                let at = self.next_tick();
                self.change(parent, at, Change::Link { name, node }, None)?;
                node
            }
        };
        let file = self.files.get_mut(&node).ok_or_else(|| error(libc::EISDIR))?;
        file.open += 1;
        Ok(node)
    }

    pub fn close(&mut self, node: Node) {
        if let Some(file) = self.files.get_mut(&node) {
            file.open = file.open.saturating_sub(1);
            if file.open == 0 && !file.is_linked {
                self.collect();
            }
        }
    }

    pub fn create_directory(&mut self, path: &Path) -> io::Result<()> {
        let mut node = ROOT;
        for name in names_of(path) {
            let known = self.directory(node)?.live.get(name).copied();
            node = match known {
                Some(inner) => inner,
                None => {
                    let inner = self.new_node();
                    self.directories.insert(inner, Directory::default());
                    let at = self.next_tick();
                    self.change(node, at, Change::Link { name: name.to_owned(), node: inner }, None)?;
                    inner
                }
            };
        }
        self.directory(node).map(drop).map_err(|_| error(libc::EEXIST))
    }

    pub fn read_directory(&mut self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let node = self.resolve(path)?;
        let live = self.directory(node)?.live.clone();
        let entry = |(name, node): (String, Node)| {
            let file = self.files.get(&node);
            DirectoryEntry {
                name,
                is_directory: file.is_none(),
                length: file.map_or(0, |file| file.content.length()),
            }
        };
        Ok(live.into_iter().map(entry).collect())
    }

    /// Marks a file that no live name leads to.
    fn unlinked(&mut self, node: Node) {
        if let Some(file) = self.files.get_mut(&node) {
            file.is_linked = false;
        }
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (old_parent, old_name) = self.resolve_parent(from)?;
        let (new_parent, new_name) = self.resolve_parent(to)?;
        let moved = *self.directory(old_parent)?.live.get(&old_name).ok_or_else(|| error(libc::ENOENT))?;
        let replaced = self.directory(new_parent)?.live.get(&new_name).copied();
        if replaced == Some(moved) {
            return Ok(());
        }
        if self.directories.contains_key(&moved) && (to.starts_with(from) || replaced.is_some()) {
            return Err(error(if replaced.is_some() { libc::ENOTEMPTY } else { libc::EINVAL }));
        }
        if replaced.is_some_and(|node| self.directories.contains_key(&node)) {
            return Err(error(libc::EISDIR));
        }
        if let Some(node) = replaced {
            self.unlinked(node);
        }
        let at = self.next_tick();
        if old_parent == new_parent {
            return self.change(
                old_parent,
                at,
                Change::Move { from: old_name, to: new_name, node: moved },
                None,
            );
        }
        self.change(new_parent, at, Change::Link { name: new_name, node: moved }, Some(old_parent))?;
        self.change(old_parent, at, Change::Unlink { name: old_name }, Some(new_parent))
    }

    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.resolve_parent(path)?;
        let node = *self.directory(parent)?.live.get(&name).ok_or_else(|| error(libc::ENOENT))?;
        if self.directories.contains_key(&node) {
            return Err(error(libc::EISDIR));
        }
        self.unlinked(node);
        let at = self.next_tick();
        self.change(parent, at, Change::Unlink { name }, None)
    }

    pub fn remove_directory(&mut self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.resolve_parent(path)?;
        let node = *self.directory(parent)?.live.get(&name).ok_or_else(|| error(libc::ENOENT))?;
        self.empty_directory(node)?;
        let at = self.next_tick();
        self.change(parent, at, Change::Unlink { name }, None)
    }

    fn empty_directory(&mut self, node: Node) -> io::Result<()> {
        let inner: Vec<(String, Node)> = self.directory(node)?.live.clone().into_iter().collect();
        for (name, inner) in inner {
            if self.directories.contains_key(&inner) {
                self.empty_directory(inner)?;
            } else {
                self.unlinked(inner);
            }
            let at = self.next_tick();
            self.change(node, at, Change::Unlink { name }, None)?;
        }
        Ok(())
    }

    /// The directory that a sync is to cover.
    pub fn directory_to_sync(&mut self, path: &Path) -> io::Result<Node> {
        let node = self.resolve(path)?;
        self.directory(node).map(|_| node)
    }

    /// Makes durable what had been done to a directory's names by `horizon`.
    pub fn sync_directory(&mut self, node: Node, horizon: u64) {
        let count = self.directories.get(&node).map_or(0, |directory| {
            directory.pending.iter().take_while(|pending| pending.at <= horizon).count()
        });
        if self.commit_names(node, count) {
            self.collect();
        }
    }

    /// Makes the first `count` changes of a directory durable, and of other directories what is one with
    /// them. Whether a name went away.
    fn commit_names(&mut self, node: Node, count: usize) -> bool {
        let mut removed = false;
        let mut work = vec![(node, count)];
        while let Some((node, count)) = work.pop() {
            let Some(directory) = self.directories.get_mut(&node) else { continue };
            let count = count.min(directory.pending.len());
            let changes: Vec<NameChange> = directory.pending.drain(..count).collect();
            for change in changes {
                let Some(directory) = self.directories.get_mut(&node) else { continue };
                apply(&mut directory.durable, &change.change);
                removed |= !matches!(change.change, Change::Link { .. }) || change.partner.is_some();
                let Some(partner) = change.partner else { continue };
                let other = self.directories.get(&partner).and_then(|directory| {
                    directory.pending.iter().position(|pending| pending.at == change.at)
                });
                work.extend(other.map(|place| (partner, place + 1)));
            }
        }
        removed
    }

    /// Forgets what neither a name, live or durable, nor a handle leads to.
    fn collect(&mut self) {
        let mut reached = BTreeSet::new();
        let mut work = vec![ROOT];
        while let Some(node) = work.pop() {
            if reached.insert(node)
                && let Some(directory) = self.directories.get(&node)
            {
                work.extend(directory.live.values().chain(directory.durable.values()));
                // A name that was made and moved on before either was durable can still come back.
                work.extend(directory.pending.iter().filter_map(|pending| match pending.change {
                    Change::Link { node, .. } | Change::Move { node, .. } => Some(node),
                    Change::Unlink { .. } => None,
                }));
            }
        }
        self.directories.retain(|node, _| reached.contains(node));
        self.files.retain(|node, file| file.open > 0 || reached.contains(node));
    }

    /// The power went.
    pub fn crash(&mut self, chance: &mut Chance) {
        let nodes: Vec<Node> = self.directories.keys().copied().collect();
        let mode = chance.below(4);
        for node in nodes {
            let pending = self.directories.get(&node).map_or(0, |directory| directory.pending.len());
            let count = match mode {
                0 => 0,
                1 => pending,
                _ => chance.index(pending + 1),
            };
            self.commit_names(node, count);
        }
        for directory in self.directories.values_mut() {
            directory.pending.clear();
            directory.live = directory.durable.clone();
        }
        for file in self.files.values_mut() {
            (file.open, file.is_linked) = (0, true);
            if file.content.is_dirty() {
                file.content.crash(self.options.garbage, chance);
            }
        }
        self.collect();
    }

    /// The process died, the machine goes on.
    pub fn kill(&mut self, chance: &mut Chance) {
        let tick = self.next_tick();
        for file in self.files.values_mut() {
            file.open = 0;
            file.content.kill(tick, chance);
        }
        self.collect();
    }

    /// The content of the file at `path`, as it is read now.
    pub fn file_at(&mut self, path: &Path) -> io::Result<&mut Content> {
        let node = self.resolve(path)?;
        self.files.get_mut(&node).map(|file| &mut file.content).ok_or_else(|| error(libc::EISDIR))
    }

    /// Puts a file at `path`, it and its names durable.
    pub fn put_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let names = names_of(path);
        let above = names.split_last().map_or(&[][..], |(_, above)| above);
        self.create_directory(&above.iter().collect::<std::path::PathBuf>())?;
        let node = self.open(path, OpenMode::Create)?;
        *self.content(node)? = Content::holding(bytes);
        self.close(node);
        let mut at = ROOT;
        for name in names {
            self.commit_names(at, usize::MAX);
            match self.directory(at)?.live.get(name).copied() {
                Some(inner) if self.directories.contains_key(&inner) => at = inner,
                _ => break,
            }
        }
        Ok(())
    }
}
