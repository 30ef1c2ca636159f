//! Direct files. glommio reads and writes only memory of its own, so everything is copied once.

use crate::{Shard, plain};
use glommio::io::{DmaFile, OpenOptions};
use logmill::runtime::buffer::{Chunk, ChunkView};
use logmill::runtime::uring::UringMapping;
use logmill::runtime::{Durability, File, OpenMode};
use logmill_wire::ids::TimestampMs;
use logmill_wire::limits::PAGE_BYTES;
use std::collections::BTreeSet;
use std::future::Future;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// An open file; it is closed when the last operation on it has ended.
pub struct GlommioFile {
    file: Rc<DmaFile>,
    direct: bool,
}

fn check_alignment(what: &str, number: u64) -> io::Result<()> {
    if number.is_multiple_of(PAGE_BYTES as u64) {
        return Ok(());
    }
    let text = format!("the {what} of a direct read or write must be a multiple of {PAGE_BYTES} bytes");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn check_range(position: u64, length: usize) -> io::Result<()> {
    check_alignment("position", position)?;
    check_alignment("length", length as u64)
}

fn descriptor(file: &DmaFile) -> BorrowedFd<'_> {
    // SAFETY: the file holds its descriptor open for as long as the borrow lasts.
    unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) }
}

fn is_direct(file: &DmaFile) -> io::Result<bool> {
    // SAFETY: no pointers; the descriptor is open.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 { Err(io::Error::last_os_error()) } else { Ok(flags & libc::O_DIRECT != 0) }
}

/// The devices of which glommio knows on this executor whether they complete reads by polling.
///
/// It finds out by reading from the first file that it opens of a device, and takes a read at the end of the file for a
/// yes. The first file of a log directory is a new one, and all later reads would fail on a device that cannot: so the
/// first file it sees is one of ours, with a page in it.
#[derive(Default)]
pub(crate) struct ProbedDevices(BTreeSet<u64>);

async fn ensure_probed(shard: &Shard, directory: &Path) -> io::Result<()> {
    let device = std::fs::metadata(directory)?.dev();
    if shard.devices.borrow().0.contains(&device) {
        return Ok(());
    }
    let probed = probe_device(directory).await;
    shard.devices.borrow_mut().0.insert(device);
    probed
}

async fn probe_device(directory: &Path) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.read(true).write(true).custom_flags(libc::O_TMPFILE).open(directory)?;
    file.write_all(&[0; PAGE_BYTES])?;
    file.sync_data()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).dma_open(path).await.map_err(plain)?.close().await.map_err(plain)
}

impl GlommioFile {
    pub(crate) async fn open(shard: Rc<Shard>, path: PathBuf, mode: OpenMode) -> io::Result<Self> {
        if let Some(directory) = path.parent()
            && let Err(error) = ensure_probed(&shard, directory).await
        {
            tracing::debug!(%error, "it is left to glommio to find out whether the device can poll");
        }
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::Create => options.write(true).create(true),
            OpenMode::CreateNew => options.write(true).create_new(true),
        };
        let file = options.dma_open(path).await.map_err(plain)?;
        let direct = is_direct(&file)?;
        Ok(Self { file: Rc::new(file), direct })
    }

    fn open_again(&self) -> io::Result<std::fs::File> {
        descriptor(&self.file).try_clone_to_owned().map(std::fs::File::from)
    }

    /// What the kernel knows of the file. Of an open one it has that in memory: this neither waits nor blocks.
    fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.open_again()?.metadata()
    }
}

impl File for GlommioFile {
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
        let file = Rc::clone(&self.file);
        async move {
            let wanted = length.min(chunk.room());
            if let Err(error) = check_range(position, wanted) {
                return (Err(error), chunk);
            }
            let mut done = 0;
            while done < wanted {
                match file.read_at_aligned(position + done as u64, wanted - done).await {
                    Ok(read) => {
                        done += chunk.append(&read);
                        // A transfer that ends within a page has met the end of the file.
                        if read.is_empty() || !read.len().is_multiple_of(PAGE_BYTES) {
                            break;
                        }
                    }
                    Err(error) => return (Err(plain(error)), chunk),
                }
            }
            (Ok(done), chunk)
        }
    }

    fn write(
        &self,
        data: ChunkView,
        position: u64,
        durability: Durability,
    ) -> impl Future<Output = io::Result<()>> + 'static {
        let file = Rc::clone(&self.file);
        async move {
            check_range(position, data.len())?;
            let mut done = 0;
            while done < data.len() {
                let rest = &data[done..];
                let mut buffer = file.alloc_dma_buffer(rest.len());
                buffer.as_bytes_mut().copy_from_slice(rest);
                match file.write_at(buffer, position + done as u64).await.map_err(plain)? {
                    0 => {
                        return Err(io::Error::new(io::ErrorKind::WriteZero, "the file takes no more bytes"));
                    }
                    count => done += count,
                }
            }
            // There is no write that is durable by itself.
            if durability == Durability::Durable && done > 0 {
                file.fdatasync().await.map_err(plain)?;
            }
            Ok(())
        }
    }

    fn flush(&self) -> impl Future<Output = io::Result<()>> + 'static {
        let file = Rc::clone(&self.file);
        async move { file.fdatasync().await.map_err(plain) }
    }

    fn allocate(&self, position: u64, length: u64) -> impl Future<Output = io::Result<()>> + 'static {
        let file = Rc::clone(&self.file);
        // It takes space from the file's beginning only.
        async move { file.pre_allocate(position.saturating_add(length), false).await.map_err(plain) }
    }

    fn set_length(&self, length: u64) -> impl Future<Output = io::Result<()>> + 'static {
        let file = Rc::clone(&self.file);
        async move { file.truncate(length).await.map_err(plain) }
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

    fn map(&self, bytes: usize) -> io::Result<UringMapping> {
        UringMapping::new(&self.open_again()?, bytes)
    }
}
