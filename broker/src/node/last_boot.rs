//! Whether what was written and not durable is still there since the log directory was used last.
//!
//! `LOG.DIR/last-boot` names the boot of the host in which the directory was used. The kernel draws another id at each
//! boot, so a process that was killed finds its own, and one that starts after a power cut does not. A clean stop made
//! everything durable and says so; that holds until the directory is used again.

use crate::runtime::buffer::Chunk;
use crate::runtime::{Durability, File, OpenMode, Runtime};
use logmill_wire::ids::Uuid;
use logmill_wire::limits::PAGE_BYTES;
use std::io;
use std::path::Path;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
