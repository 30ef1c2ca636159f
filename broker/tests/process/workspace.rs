//! Folders that end with their test.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder of a test's own, removed at its end.
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A fresh folder in the system's place for temporary files.
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// A fresh folder in `parent`.
    pub fn within(parent: &Path) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("logmill-process-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over does no harm beyond its space.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
