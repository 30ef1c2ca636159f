//! What compaction has to remember of a log: in memory, and in a note beside its segments.

use super::LogError;
use super::appender::Log;
use super::segment::read_file;
use crate::runtime::buffer::Chunk;
use crate::runtime::{Durability, File, OpenMode, Runtime};
use logmill_wire::ids::Offset;
use logmill_wire::limits::PAGE_BYTES;
use std::cell::Cell;

const NOTE_NAME: &str = "cleaner-offset";
const FRESH_NOTE_NAME: &str = "cleaner-offset.new";

/// Before which offset offsets may be missing, and to where the log was compacted.
type Note = (Offset, Offset);

/// Where compaction is with a log with a log.
#[derive(Default)]
pub(super) struct Cleaning {
    /// Before this offset, offsets may be missing.
    gaps_below: Cell<Offset>,
    /// Everything before this offset was compacted.
    cleaned_to: Cell<Offset>,
    /// How often segments were replaced since the log was made. Whoever read meanwhile reads again.
    pub(super) replacements: Cell<u64>,
    /// The span of offsets whose files on disk are not yet those of memory.
    pub(super) replacing: Cell<Option<(Offset, Offset)>>,
    /// Whether somebody goes through with what a crash has interrupted.
    pub(super) settling: Cell<bool>,
    /// Whether a compaction is under way.
    pub(super) running: Cell<bool>,
    /// Whether the note comes from a process that may not have come to make its name durable.
    is_note_unsure: Cell<bool>,
    /// Whether the note is being written.
    noting: Cell<bool>,
}

impl<R: Runtime> Log<R> {
    /// Whether offsets may be missing before `offset`.
    pub(super) fn may_have_gaps_at(&self, offset: Offset) -> bool {
        offset < self.cleaning.gaps_below.get()
    }

    /// Everything before this offset was compacted; 0 until the log is opened.
    #[must_use]
    pub fn cleaned_to(&self) -> Offset {
        self.cleaning.cleaned_to.get()
    }

    pub(super) const fn cleaning_note_name() -> &'static str {
        NOTE_NAME
    }

    /// Reads what compaction has noted, from a directory that has such a note.
    pub(super) async fn load_cleaning(&self) -> Result<(), LogError> {
        let file = self.store.runtime.open(&self.path().join(NOTE_NAME), OpenMode::Read).await?;
        let length = file.length().await?.min(PAGE_BYTES as u64);
        let views = read_file(&file, 0..length).await?;
        let text: Vec<u8> = views.iter().flat_map(|view| view.iter().copied()).collect();
        let (gaps_below, cleaned_to) = parse_note(&text).unwrap_or_else(|| {
            tracing::warn!(log = %self.directory_name, "the note of the last compaction has rotted; all of the log is compacted anew");
            // Any gap may be right.
            (Offset(i64::MAX), Offset(0))
        });
        self.cleaning.is_note_unsure.set(true);
        self.cleaning.gaps_below.set(gaps_below.max(self.cleaning.gaps_below.get()));
        self.cleaning.cleaned_to.set(cleaned_to.max(self.cleaning.cleaned_to.get()));
        Ok(())
    }

    /// Whether it is noted that offsets may be missing before `end`.
    #[must_use]
    pub fn expects_gaps_below(&self, end: Offset) -> bool {
        end <= self.cleaning.gaps_below.get() && !self.cleaning.is_note_unsure.get()
    }

    /// Makes durable that offsets may be missing before `end`, before the first one is. The log is open.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn expect_gaps_below(&self, end: Offset) -> Result<(), LogError> {
        if end <= self.cleaning.gaps_below.get() {
            if self.cleaning.is_note_unsure.get() {
                self.store.sync_names(&self.path()).await?;
                self.cleaning.is_note_unsure.set(false);
            }
            return Ok(());
        }
        self.write_note(|(gaps_below, cleaned_to)| (end.max(gaps_below), cleaned_to)).await
    }

    /// Makes durable that nothing from `end` on was compacted: it is cut off, and other records come there.
    pub(super) async fn lower_cleaned_to(&self, end: Offset) -> Result<(), LogError> {
        if end >= self.cleaning.cleaned_to.get() {
            return Ok(());
        }
        self.write_note(|(gaps_below, cleaned_to)| (gaps_below, cleaned_to.min(end))).await
    }

    /// Makes durable that everything before `end` was compacted.
    pub(super) async fn note_cleaned_to(&self, end: Offset) -> Result<(), LogError> {
        self.write_note(|(gaps_below, cleaned_to)| (gaps_below, end.max(cleaned_to))).await
    }

    /// Flushes a file of compaction's; invariant 8 holds for it as for all others.
    pub(super) async fn flush(&self, file: &R::File, what: &str) -> Result<(), LogError> {
        let outcome = file.flush().await;
        if let Err(error) = &outcome {
            self.store.health.fail(format!("a flush of {what} of {} failed: {error}", self.directory_name));
        }
        outcome.map_err(LogError::from)
    }

    async fn write_note(&self, change: impl Fn(Note) -> Note) -> Result<(), LogError> {
        while self.cleaning.noting.replace(true) {
            self.segments_changed.wait().await;
        }
        let (gaps_below, cleaned_to) =
            change((self.cleaning.gaps_below.get(), self.cleaning.cleaned_to.get()));
        let outcome = self.write_note_alone(gaps_below, cleaned_to).await;
        self.cleaning.noting.set(false);
        self.segments_changed.notify_all();
        outcome
    }

    async fn write_note_alone(&self, gaps_below: Offset, cleaned_to: Offset) -> Result<(), LogError> {
        let runtime = &self.store.runtime;
        let fresh = self.path().join(FRESH_NOTE_NAME);
        let text = note_text(gaps_below, cleaned_to);
        let mut page = Chunk::with_capacity(PAGE_BYTES);
        page.append(text.as_bytes());
        page.pad_to(PAGE_BYTES);
        let file = runtime.open(&fresh, OpenMode::Create).await?;
        file.write(page.view_all(), 0, Durability::Cached).await?;
        file.set_length(text.len() as u64).await?;
        self.flush(&file, "the note of a compaction").await?;
        runtime.rename(&fresh, &self.path().join(NOTE_NAME)).await?;
        self.store.sync_names(&self.path()).await?;
        self.cleaning.is_note_unsure.set(false);
        self.cleaning.gaps_below.set(gaps_below);
        self.cleaning.cleaned_to.set(cleaned_to);
        Ok(())
    }
}

fn note_text(gaps_below: Offset, cleaned_to: Offset) -> String {
    let text = format!("version: 0\ngaps_below: {gaps_below}\ncleaned_to: {cleaned_to}\n");
    let crc = crc32c::crc32c(text.as_bytes());
    format!("{text}crc: {crc}\n")
}

fn parse_note(bytes: &[u8]) -> Option<(Offset, Offset)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (covered, crc) = text.split_once("crc: ")?;
    if crc.trim_end().parse() != Ok(crc32c::crc32c(covered.as_bytes())) {
        return None;
    }
    let field = |name: &str| {
        let line = covered.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok().map(Offset)
    };
    covered.starts_with("version: 0\n").then_some(())?;
    Some((field("gaps_below:")?, field("cleaned_to:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_a_rotten_one_is_not_believed() {
        let text = note_text(Offset(1234), Offset(56));
        assert_eq!(text, "version: 0\ngaps_below: 1234\ncleaned_to: 56\ncrc: 2046594047\n");
        assert_eq!(parse_note(text.as_bytes()), Some((Offset(1234), Offset(56))));
        assert_eq!(parse_note(text.replace("1234", "1235").as_bytes()), None);
        assert_eq!(parse_note(&text.as_bytes()[..30]), None);
    }
}
