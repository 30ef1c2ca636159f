//! Direct files on the ring, and what concerns names and directories.

use super::executor::Shard;
use super::future::Perform;
use super::operation::{Operation, c_path};
use super::{UringMapping, UringRuntime};
use crate::runtime::buffer::{Chunk, ChunkView};
use crate::runtime::{DirectoryEntry, Durability, File, OpenMode};
use logmill_wire::ids::TimestampMs;
use logmill_wire::limits::{CHUNK_BYTES_MAX, PAGE_BYTES};
use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// An open file; it is closed when the last operation on it has ended.
pub struct UringFile {
    shard: Rc<Shard>,
    descriptor: Rc<OwnedFd>,
    direct: bool,
}

fn misaligned(what: &str) -> io::Error {
    let text = format!("the {what} of a direct read or write must be a multiple of {PAGE_BYTES} bytes");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Refuses on every filesystem what a strict one would refuse.
fn check_alignment(memory: *const u8, position: u64, length: usize) -> io::Result<()> {
    if !(memory as usize).is_multiple_of(PAGE_BYTES) {
        return Err(misaligned("memory"));
    }
    if !position.is_multiple_of(PAGE_BYTES as u64) {
        return Err(misaligned("position"));
    }
    if !length.is_multiple_of(PAGE_BYTES) {
        return Err(misaligned("length"));
    }
    Ok(())
}

async fn perform(shard: &Rc<Shard>, operation: Operation) -> io::Result<usize> {
    Perform::new(shard, operation).await.0.map(|completed| completed.count())
}

impl File for UringFile {
    type Mapping = UringMapping;

    fn is_direct(&self) -> bool {
        self.direct
    }

    fn read(
        &self,
        mut chunk: Chunk,
        position: u64,
        length: usize,
    ) -> impl Future<Output = (io::Result<usize>, Chunk)> + 'static {
        let (shard, descriptor) = (Rc::clone(&self.shard), Rc::clone(&self.descriptor));
        async move {
            let wanted = length.min(chunk.room());
            if let Err(error) = check_alignment(chunk.spare().as_ptr(), position, wanted) {
                return (Err(error), chunk);
            }
            let mut done = 0;
            while done < wanted {
                let operation = Operation::Read {
                    file: Rc::clone(&descriptor),
                    chunk,
                    position: position + done as u64,
                    length: wanted - done,
                };
                let (result, operation) = Perform::new(&shard, operation).await;
                let Operation::Read { chunk: filled, .. } = operation else {
                    unreachable!("a ring gives back the operation it was given");
                };
                chunk = filled;
                match result.map(|completed| completed.count()) {
                    // A transfer that ends within a page has met the end of the file.
                    Ok(count) if count == 0 || !count.is_multiple_of(PAGE_BYTES) => {
                        done += count;
                        break;
                    }
                    Ok(count) => done += count,
                    Err(error) => return (Err(error), chunk),
                }
            }
            (Ok(done), chunk)
        }
    }

    fn write(
        &self,
        mut data: ChunkView,
        mut position: u64,
        durability: Durability,
    ) -> impl Future<Output = io::Result<()>> + 'static {
        let (shard, descriptor) = (Rc::clone(&self.shard), Rc::clone(&self.descriptor));
        let direct = self.direct;
        async move {
            check_alignment(data.as_ptr(), position, data.len())?;
            let durable = durability == Durability::Durable;
            while !data.is_empty() {
                let operation = Operation::Write {
                    file: Rc::clone(&descriptor),
                    data,
                    position,
                    durable: durable && direct,
                };
                let (result, operation) = Perform::new(&shard, operation).await;
                let count = result?.count();
                let Operation::Write { data: written, .. } = operation else {
                    unreachable!("a ring gives back the operation it was given");
                };
                if count == 0 {
                    return Err(io::Error::new(io::ErrorKind::WriteZero, "the file takes no more bytes"));
                }
                data = written.slice(count..written.len());
                position += count as u64;
            }
            if durable && !direct {
                perform(&shard, Operation::Sync { file: descriptor, data_only: true }).await?;
            }
            Ok(())
        }
    }

    fn flush(&self) -> impl Future<Output = io::Result<()>> + 'static {
        let (shard, file) = (Rc::clone(&self.shard), Rc::clone(&self.descriptor));
        // A data sync writes what is needed to read the data back, the length included.
        async move { perform(&shard, Operation::Sync { file, data_only: true }).await.map(drop) }
    }

    fn allocate(&self, position: u64, length: u64) -> impl Future<Output = io::Result<()>> + 'static {
        let (shard, file) = (Rc::clone(&self.shard), Rc::clone(&self.descriptor));
        let plain = Self { shard: Rc::clone(&shard), descriptor: Rc::clone(&file), direct: self.direct };
        async move {
            match perform(&shard, Operation::Allocate { file, position, length }).await {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    plain.write_zeros(position..position.saturating_add(length)).await
                }
                outcome => outcome.map(drop),
            }
        }
    }

    fn set_length(&self, length: u64) -> impl Future<Output = io::Result<()>> + 'static {
        let (shard, file) = (Rc::clone(&self.shard), Rc::clone(&self.descriptor));
        async move {
            if shard.features.truncate {
                return perform(&shard, Operation::Truncate { file, length }).await.map(drop);
            }
            let file = std::fs::File::from(file.try_clone()?);
            UringRuntime(shard).block(move || file.set_len(length)).await
        }
    }

    fn map(&self, bytes: usize) -> io::Result<UringMapping> {
        UringMapping::new(&std::fs::File::from(self.descriptor.try_clone()?), bytes)
    }

    fn length(&self) -> impl Future<Output = io::Result<u64>> + 'static {
        std::future::ready(self.metadata().map(|metadata| metadata.len()))
    }

    fn modified(&self) -> impl Future<Output = io::Result<TimestampMs>> + 'static {
        std::future::ready(self.metadata().map(|metadata| {
            let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
            TimestampMs(seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000))
        }))
    }
}

impl UringFile {
    /// What the kernel knows of the file. Of an open one it has that in memory: this neither waits nor blocks.
    fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.descriptor.try_clone().and_then(|file| std::fs::File::from(file).metadata())
    }

    /// Takes space where the filesystem cannot do so by itself (NFS before version 4.2, ramfs): what of the
    /// range lies beyond the file's end is written.
    async fn write_zeros(&self, range: Range<u64>) -> io::Result<()> {
        let mut zeros = Chunk::with_capacity(CHUNK_BYTES_MAX);
        let room = zeros.room();
        zeros.spare().fill(0);
        zeros.advance(room);
        let mut position = self.length().await?.next_multiple_of(PAGE_BYTES as u64).max(range.start);
        while position < range.end {
            let length = zeros.len().min(usize::try_from(range.end - position).unwrap_or(usize::MAX));
            self.write(zeros.view(0..length), position, Durability::Cached).await?;
            position += length as u64;
        }
        Ok(())
    }
}

impl UringRuntime {
    pub(super) async fn open_file(self, path: PathBuf, mode: OpenMode) -> io::Result<UringFile> {
        let flags = libc::O_CLOEXEC
            | match mode {
                OpenMode::Read => libc::O_RDONLY,
                OpenMode::ReadWrite => libc::O_RDWR,
                OpenMode::Create => libc::O_RDWR | libc::O_CREAT,
                OpenMode::CreateNew => libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
            };
        let open = async |flags| {
            let path = c_path(&path)?;
            Perform::new(&self.0, Operation::Open { path, flags }).await.0?.descriptor()
        };
        let refused = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
        let (descriptor, direct) = match open(flags | libc::O_DIRECT).await {
            Ok(descriptor) => (descriptor, true),
            Err(error) if refused(&error) => match open(flags).await {
                // Some filesystems refuse direct I/O only after they have made the file.
                Err(error) if mode == OpenMode::CreateNew && error.kind() == io::ErrorKind::AlreadyExists => {
                    (open(flags & !libc::O_EXCL).await?, false)
                }
                result => (result?, false),
            },
            Err(error) => return Err(error),
        };
        Ok(UringFile { shard: self.0, descriptor: Rc::new(descriptor), direct })
    }

    pub(super) async fn sync_names(self, path: PathBuf) -> io::Result<()> {
        let open = Operation::Open {
            path: c_path(&path)?,
            flags: libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
        };
        let file = Rc::new(Perform::new(&self.0, open).await.0?.descriptor()?);
        perform(&self.0, Operation::Sync { file, data_only: false }).await.map(drop)
    }

    pub(super) async fn rename_path(self, from: PathBuf, to: PathBuf) -> io::Result<()> {
        let operation = Operation::Rename { from: c_path(&from)?, to: c_path(&to)? };
        perform(&self.0, operation).await.map(drop)
    }

    pub(super) async fn unlink(self, path: PathBuf) -> io::Result<()> {
        perform(&self.0, Operation::Unlink { path: c_path(&path)? }).await.map(drop)
    }
}

/// What stands in a directory, in the order of names. Names that are not UTF-8 are none of ours.
///
/// # Errors
/// If it is no directory, or cannot be read.
pub fn list(path: &Path) -> io::Result<Vec<DirectoryEntry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let is_directory = metadata.is_dir();
        let length = if is_directory { 0 } else { metadata.len() };
        entries.push(DirectoryEntry { name, is_directory, length });
    }
    entries.sort_unstable();
    Ok(entries)
}
