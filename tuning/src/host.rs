//! What the checks ask of a machine; tests give them another one.

use std::io;
use std::path::{Path, PathBuf};

/// How a ring could not be made.
#[derive(Debug)]
pub enum RingProblem {
    /// The kernel said no to making it.
    Create(io::Error),
    /// It was made, but an operation did not come back as it should.
    Operate(String),
}

/// A machine.
pub trait Host {
    /// The text of a file of the kernel's, below `/proc` or `/sys`.
    fn read(&self, path: &str) -> io::Result<String>;

    /// The names in a directory of the kernel's.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// Makes a ring with the flags that the broker needs, and carries out one operation. The answer names the
    /// operations that the broker would like and that the kernel lacks.
    fn try_ring(&self) -> Result<Vec<&'static str>, RingProblem>;

    /// The nearest directory that exists: `path`, or one above it.
    fn existing_directory(&self, path: &Path) -> io::Result<PathBuf>;

    /// Writes a page durably to a new file in `directory`, past the page cache if `is_direct`, reads it back, and removes
    /// the file.
    fn try_durable_write(&self, directory: &Path, is_direct: bool) -> io::Result<()>;

    /// Free and total bytes of the filesystem of `directory`, for an ordinary user.
    fn space(&self, directory: &Path) -> io::Result<Space>;

    /// Bytes of a page of memory.
    fn page_bytes(&self) -> u64;
}

/// The room of a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}
