//! Whether what was written and not durable is still there since the log directory was used last.
//!
//! `LOG.DIR/last-boot` names the boot of the host in which the directory was used. The kernel draws another id at each
//! boot, so a process that was killed finds its own, and one that starts after a power cut does not. A clean stop made
//! everything durable and says so; that holds until the directory is used again.

use super::NodeError;
use crate::log::DirectoryHealth;
use crate::runtime::buffer::Chunk;
use crate::runtime::{Durability, File, OpenMode, Runtime};
use logmill_wire::ids::Uuid;
use logmill_wire::limits::PAGE_BYTES;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Magic and version 0: the id of the boot follows, whether the last stop was clean, and a checksum.
const MAGIC: &[u8; 8] = b"LMBOOT\0\0";
const NAME: &str = "last-boot";
const CONTENT_BYTES: usize = MAGIC.len() + 16 + 1;

/// How the log directory was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastBoot {
    /// The host's boot; zero if the kernel did not tell.
    pub boot: Uuid,
    /// Whether nothing was left that was not durable.
    pub is_clean: bool,
}

impl LastBoot {
    /// What was noted last; `None` if that is missing or not intact, which is no error: then nothing is known.
    pub async fn read<R: Runtime>(runtime: &R, log_directory: &Path) -> Option<Self> {
        let file = runtime.open(&log_directory.join(NAME), OpenMode::Read).await.ok()?;
        let (outcome, page) = file.read(Chunk::with_capacity(PAGE_BYTES), 0, PAGE_BYTES).await;
        outcome.ok()?;
        Self::parse(&page)
    }

    /// Whether writes that were not durable may be gone, if the host's boot is now `boot`.
    #[must_use]
    pub fn has_lost_writes(noted: Option<Self>, boot: Option<Uuid>) -> bool {
        noted.is_none_or(|last| !last.is_clean && (last.boot.is_zero() || boot != Some(last.boot)))
    }

    /// Notes it durably.
    ///
    /// # Errors
    /// If the disk fails or is full. What was noted before may stand then.
    pub async fn write<R: Runtime>(self, runtime: &R, log_directory: &Path) -> io::Result<()> {
        let path = log_directory.join(NAME);
        let fresh = path.with_extension("new");
        let mut page = Chunk::with_capacity(PAGE_BYTES);
        page.append(&self.content());
        page.pad_to(PAGE_BYTES);
        let file = runtime.open(&fresh, OpenMode::Create).await?;
        file.write(page.view_all(), 0, Durability::Cached).await?;
        file.flush().await?;
        runtime.rename(&fresh, &path).await?;
        runtime.sync_directory(log_directory).await
    }

    fn content(self) -> Vec<u8> {
        let mut content = MAGIC.to_vec();
        content.extend_from_slice(&self.boot.0);
        content.push(u8::from(self.is_clean));
        content.extend_from_slice(&crc32c::crc32c(&content).to_le_bytes());
        content
    }

    fn parse(page: &[u8]) -> Option<Self> {
        let (content, crc) = page.get(..CONTENT_BYTES + 4)?.split_last_chunk::<4>()?;
        if crc32c::crc32c(content).to_le_bytes() != *crc {
            return None;
        }
        let (boot, rest) = content.strip_prefix(MAGIC)?.split_first_chunk::<16>()?;
        Some(Self { boot: Uuid(*boot), is_clean: rest == [1] })
    }
}

/// A data directory that works at the start.
pub struct UsedDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// Its `directory.id`.
    pub id: Uuid,
    /// Whether the metadata are in it.
    pub has_metadata: bool,
    /// Whether it still works.
    pub health: Arc<DirectoryHealth>,
}

/// The log directories that a node uses: each says for itself how it was left.
pub struct UsedDirectories {
    /// Those of the data.
    pub data: Vec<UsedDirectory>,
    /// The health of the one of the metadata, which may be one of them.
    pub metadata_health: Arc<DirectoryHealth>,
}

impl UsedDirectories {
    /// The ids of those of the data that work.
    pub fn working_ids(&self) -> Vec<Uuid> {
        self.working().map(|directory| directory.id).collect()
    }

    /// Whether what the process before had written, and not made durable, may be gone from any of them. One that was never
    /// used, or that was offline when the host was started last, counts as one that has lost something.
    pub async fn have_lost_writes<R: Runtime>(&self, runtime: &R, boot: Option<Uuid>) -> bool {
        for directory in &self.data {
            let noted = LastBoot::read(runtime, &directory.path).await;
            if LastBoot::has_lost_writes(noted, boot) {
                return true;
            }
        }
        false
    }

    /// Notes the boot in which the directories are used. The registration is committed, which says what was lost
    /// before; whatever is acknowledged from now on would be lost by another boot. One where it cannot be noted is out of
    /// service.
    ///
    /// # Errors
    /// If it cannot be noted in the directory of the metadata, or in none.
    pub async fn note_start<R: Runtime>(&self, runtime: &R, boot: Option<Uuid>) -> Result<(), NodeError> {
        let used = LastBoot { boot: boot.unwrap_or(Uuid::ZERO), is_clean: false };
        for directory in self.working() {
            let path = &directory.path;
            if LastBoot::read(runtime, path).await == Some(used) {
                continue;
            }
            let Err(error) = used.write(runtime, path).await else { continue };
            let cause = format!("{}: the boot cannot be noted: {error}", path.display());
            if directory.has_metadata || self.working().count() == 1 {
                return Err(NodeError::new(cause, "make room on the volume, or check the disk"));
            }
            directory.health.fail(cause);
        }
        Ok(())
    }

    /// Notes that nothing is left to lose: all shards have committed what they had.
    pub async fn note_stop<R: Runtime>(&self, runtime: &R, boot: Option<Uuid>) {
        let clean = LastBoot { boot: boot.unwrap_or(Uuid::ZERO), is_clean: true };
        for directory in self.working() {
            if let Err(error) = clean.write(runtime, &directory.path).await {
                tracing::warn!(directory = %directory.path.display(), %error, "a clean stop cannot be noted; after a restart of the host, replicas of topics with write.caching will be copied anew");
            }
        }
    }

    fn working(&self) -> impl Iterator<Item = &UsedDirectory> {
        self.data.iter().filter(|directory| !directory.health.is_failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::simulated::{Fault, Operation, Options, World};
    use logmill_wire::ids::ShardIndex;
    use std::rc::Rc;

    const LEFT: LastBoot = LastBoot { boot: Uuid([7; 16]), is_clean: true };
    const FIXTURE: [u8; 29] =
        *b"LMBOOT\0\0\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x01\xA2\x64\xA5\xDA";

    #[test]
    fn what_was_noted_is_read_or_nothing() {
        assert_eq!(LEFT.content(), FIXTURE);
        assert_eq!(LastBoot::parse(&FIXTURE), Some(LEFT));
        for at in 0..FIXTURE.len() {
            let mut rotten = FIXTURE;
            rotten[at] ^= 1;
            assert_eq!(LastBoot::parse(&rotten), None, "byte {at}");
            assert_eq!(LastBoot::parse(&FIXTURE[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn only_the_same_boot_or_a_clean_stop_keeps_writes() {
        let (same, other) = (Some(Uuid([7; 16])), Some(Uuid([8; 16])));
        let killed = LastBoot { is_clean: false, ..LEFT };
        let unknown = LastBoot { boot: Uuid::ZERO, is_clean: false };
        for (noted, boot, lost) in [
            (Some(killed), same, false),
            (Some(killed), other, true),
            (Some(killed), None, true),
            (Some(LEFT), other, false),
            (Some(LEFT), None, false),
            (Some(unknown), Some(Uuid::ZERO), true),
            (Some(unknown), None, true),
            (None, same, true),
        ] {
            assert_eq!(LastBoot::has_lost_writes(noted, boot), lost, "{noted:?} at {boot:?}");
        }
    }

    #[test]
    fn one_directory_that_was_left_otherwise_counts_for_all_and_a_failed_one_is_not_clean() {
        let world = World::new(1, Options::default());
        let host = world.host("node");
        let runtime = host.runtime(ShardIndex(0));
        let (first, later) = (Some(Uuid([7; 16])), Some(Uuid([8; 16])));
        let directory = |path: &str| {
            host.put_file(&Path::new(path).join(".lock"), b"").unwrap();
            let (path, has_metadata) = (PathBuf::from(path), path == "/a");
            UsedDirectory { path, id: Uuid::ZERO, has_metadata, health: Arc::default() }
        };
        let of = |paths: &[&str]| {
            let data = paths.iter().map(|path| directory(path)).collect();
            Rc::new(UsedDirectories { data, metadata_health: Arc::default() })
        };
        let lost = |used: &Rc<UsedDirectories>, boot| {
            let (own, used) = (runtime.clone(), Rc::clone(used));
            world.block_on(&runtime, async move { used.have_lost_writes(&own, boot).await })
        };
        let start = |used: &Rc<UsedDirectories>, boot| {
            let (own, used) = (runtime.clone(), Rc::clone(used));
            world.block_on(&runtime, async move { used.note_start(&own, boot).await })
        };
        let stop = |used: &Rc<UsedDirectories>, boot| {
            let (own, used) = (runtime.clone(), Rc::clone(used));
            world.block_on(&runtime, async move { used.note_stop(&own, boot).await });
        };
        let (one, both) = (of(&["/a"]), of(&["/a", "/b"]));
        start(&one, first).unwrap();
        assert!(!lost(&one, first) && lost(&both, first), "nothing is known of the second one");
        start(&both, first).unwrap();
        assert!(!lost(&both, first) && lost(&both, later));
        // The second one is offline at the next boot, and there again when that has stopped clean.
        start(&one, later).unwrap();
        stop(&one, later);
        assert!(!lost(&one, later) && lost(&both, later));
        start(&both, later).unwrap();
        both.data[1].health.fail("a failed flush".into());
        stop(&both, later);
        assert!(!lost(&one, first) && lost(&of(&["/b"]), first), "only what works was left clean");
        let path_contains = "/b/".to_owned();
        host.inject(Fault { path_contains, ..Fault::always(Operation::Write) });
        let both = of(&["/a", "/b"]);
        start(&both, first).unwrap();
        assert!(both.data[1].health.is_failed() && !both.data[0].health.is_failed());
        host.inject(Fault { path_contains: "/a/".to_owned(), ..Fault::always(Operation::Write) });
        let refused = start(&of(&["/a", "/b"]), later).unwrap_err().cause;
        assert!(refused.contains("/a"), "{refused}");
    }
}
