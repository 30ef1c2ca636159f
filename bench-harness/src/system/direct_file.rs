//! Writes past the page cache, durable ones among them, and reads: what a broker can have of the disk at best.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What direct I/O has to be aligned to, in memory and in the file.
pub const ALIGNMENT_BYTES: usize = 4096;

/// Memory that direct I/O accepts.
#[derive(Debug)]
pub struct AlignedBytes {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBytes {
    /// So many bytes, filled with what does not compress to nothing.
    #[must_use]
    pub fn new(length: usize) -> Self {
        let mut memory = vec![0; length + ALIGNMENT_BYTES];
        for (byte, number) in memory.iter_mut().zip(0_u64..) {
            *byte = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        }
        let start = memory.as_ptr().align_offset(ALIGNMENT_BYTES);
        Self { memory, start, length }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    /// The bytes, to be read into.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// A new file for direct I/O, which must not exist, with `bytes` allocated and not yet written.
///
/// # Errors
/// Those of opening; `InvalidInput` means that the file system has no direct I/O; those of `fallocate(2)`.
pub fn create_allocated(path: &Path, bytes: u64) -> io::Result<File> {
    let file =
        OpenOptions::new().write(true).read(true).create_new(true).custom_flags(libc::O_DIRECT).open(path)?;
    let length = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open while the file is borrowed; the call touches no memory of ours.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Writes out whatever the host's page cache holds and no disk has.
pub fn flush_page_cache() {
    // SAFETY: the call has no parameters and touches no memory of ours.
    unsafe { libc::sync() }
}

/// Fills all of `bytes` with what stands at `offset`.
///
/// # Errors
/// Those of `pread(2)`; `UnexpectedEof` if the file ends before.
pub fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(bytes, offset)
}

/// Writes all of `bytes` at `offset`; a durable write returns when the data would survive a loss of power, as far
/// as the disk keeps its word (`RWF_DSYNC`).
///
/// # Errors
/// Those of `pwritev2(2)`; `WriteZero` if the disk took only a part.
pub fn write_at(file: &File, bytes: &[u8], offset: u64, is_durable: bool) -> io::Result<()> {
    let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let flags = if is_durable { libc::RWF_DSYNC } else { 0 };
    // SAFETY: the vector names memory that is borrowed for the call, which only reads it.
    let written = unsafe { libc::pwritev2(file.as_raw_fd(), &raw const vector, 1, offset, flags) };
    match usize::try_from(written) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
