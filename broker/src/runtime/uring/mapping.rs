//! Files in memory.

use crate::runtime::Mapping;
use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;

/// The first bytes of a file, shared with the kernel.
pub struct UringMapping(MmapRaw);

impl UringMapping {
    /// Maps the first `bytes` of `file`; see [`File::map`](crate::runtime::File::map).
    ///
    /// # Errors
    /// If the filesystem cannot map the file, or the file is shorter.
    pub fn new(file: &File, bytes: usize) -> io::Result<Self> {
        if file.metadata()?.len() < bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a mapping must lie within its file"));
        }
        MmapOptions::new().len(bytes).map_raw(file).map(Self)
    }
}

impl Mapping for UringMapping {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn write(&self, position: usize, bytes: &[u8]) {
        let end = position.checked_add(bytes.len());
        assert!(end.is_some_and(|end| end <= self.0.len()), "a write must lie within its mapping");
        // SAFETY: the target lies within the mapping, as was just checked; the mapping is written through this value
        // alone, on one thread, and nobody has a reference into it, so `bytes` cannot overlap it. That the file is
        // not cut while it is mapped is the caller's duty; a machine that finds no file there ends the process
        // and corrupts nothing.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.as_mut_ptr().add(position), bytes.len())
        }
    }
}
