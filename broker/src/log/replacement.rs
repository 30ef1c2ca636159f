//! Neighbouring segments that give way to one: what is left of them after compaction.
//!
//! | step | a power cut before the next one leaves |
//! |---|---|
//! | `BASE-END.cleaned` is written and flushed | the old segments; the file is removed when the log is opened |
//! | it is renamed to `BASE-END.swap`, durably | the new one: opening the log goes through with what follows |
//! | readers find the new segment from now on | |
//! | the old indexes and the logs after BASE are removed, durably | |
//! | `BASE-END.swap` is renamed to `BASE.log`, durably | the new one |
//!
//! Nobody waits for anybody: what was being read from the old segments is read again if it was not finished. An old
//! index must be gone before the new log has its name, for it would point into the middle of batches.
//!
//! If nothing is left, the new file is empty, and no segment takes the place of the old ones.

use super::LogError;
use super::appender::Log;
use super::index::SparseIndex;
use super::segment::{Segment, base_of_file_name, log_file_name};
use crate::runtime::{DirectoryEntry, OpenMode, Runtime};
use logmill_wire::ids::Offset;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

const CLEANED_SUFFIX: &str = ".cleaned";
const SWAP_SUFFIX: &str = ".swap";

/// The span of offsets that a replacement is of: the base of the first segment, and of the one behind the last.
pub(super) type Span = (Offset, Offset);

/// What takes the place of segments.
pub(super) struct Replacement {
    pub(super) span: Span,
    pub(super) bytes: u64,
    pub(super) index: SparseIndex,
}

fn name_of((base, end): Span, suffix: &str) -> String {
    format!("{:020}-{:020}{suffix}", base.0, end.0)
}

fn span_of(name: &str, suffix: &str) -> Option<Span> {
    let (base, end) = name.strip_suffix(suffix)?.split_once('-')?;
    let offset = |digits: &str| (digits.len() == 20).then(|| digits.parse().ok().map(Offset)).flatten();
    Some((offset(base)?, offset(end)?))
}

/// Whether a crash may have left a file of this name for the next opening of the log.
fn is_left_over(entry: &DirectoryEntry) -> bool {
    span_of(&entry.name, CLEANED_SUFFIX).or_else(|| span_of(&entry.name, SWAP_SUFFIX)).is_some()
}

pub(super) fn base_of_index(name: &str) -> Option<Offset> {
    base_of_file_name(&format!("{}.log", name.strip_suffix(".index")?))
}

impl<R: Runtime> Log<R> {
    /// Where what is left of segments is written.
    pub(super) fn cleaned_path(&self, span: Span) -> PathBuf {
        self.path().join(name_of(span, CLEANED_SUFFIX))
    }

    /// Whether a file is one of those that a replacement is about to remove.
    pub(super) fn is_being_replaced(&self, base: Offset) -> bool {
        self.cleaning.replacing.get().is_some_and(|(from, end)| from <= base && base < end)
    }

    /// Goes through with what a crash has interrupted, if there is such a thing; then the directory is to be read again.
    pub(super) async fn settle_left_over(&self, entries: &[DirectoryEntry]) -> Result<bool, LogError> {
        if !entries.iter().any(is_left_over) {
            return Ok(false);
        }
        while self.cleaning.settling.replace(true) {
            self.segments_changed.wait().await;
        }
        // Whoever came first may have opened the log, and what is there now may be of the next compaction.
        let outcome = if self.opened.get() { Ok(()) } else { self.go_through().await };
        self.cleaning.settling.set(false);
        self.segments_changed.notify_all();
        outcome.map(|()| true)
    }

    async fn go_through(&self) -> Result<(), LogError> {
        // A process that was killed may not have come to make its names durable.
        self.store.sync_names(&self.path()).await?;
        for entry in self.store.runtime.read_directory(&self.path()).await? {
            if let Some(span) = span_of(&entry.name, SWAP_SUFFIX) {
                self.finish_on_disk(span, entry.length == 0).await?;
            } else if span_of(&entry.name, CLEANED_SUFFIX).is_some() {
                self.remove(&self.path().join(&entry.name)).await?;
            }
        }
        self.cleaning.replacing.set(None);
        Ok(())
    }

    /// Puts the cleaned file, which was flushed, in the place of its segments. False if they are not all there any more.
    pub(super) async fn replace(self: &Rc<Self>, replacement: Replacement) -> Result<bool, LogError> {
        self.pause_removal().await;
        let cleaned = self.cleaned_path(replacement.span);
        let outcome = self.replace_alone(replacement).await;
        if outcome.is_err() {
            // If it has not taken its place, it takes space for nothing; what it meets now adds nothing.
            let _ = self.remove(&cleaned).await;
        }
        self.resume_removal();
        outcome
    }

    async fn replace_alone(self: &Rc<Self>, replacement: Replacement) -> Result<bool, LogError> {
        let (span, cleaned) = (replacement.span, self.cleaned_path(replacement.span));
        self.check_health()?;
        if !self.has_all_of(span) {
            self.remove(&cleaned).await?;
            return Ok(false);
        }
        let runtime = &self.store.runtime;
        let file = Rc::new(runtime.open(&cleaned, OpenMode::Read).await?);
        runtime.rename(&cleaned, &self.path().join(name_of(span, SWAP_SUFFIX))).await?;
        self.store.sync_names(&self.path()).await?;
        self.cleaning.replacing.set(Some(span));
        let (is_empty, had_index) = (replacement.bytes == 0, self.has_index(span.0));
        self.replace_in_memory(replacement, file);
        self.finish_on_disk(span, is_empty).await?;
        self.cleaning.replacing.set(None);
        if !is_empty {
            self.persist_index(span.0, true).await;
            if !had_index {
                self.forget_index(span.0);
            }
        }
        Ok(true)
    }

    /// Goes through with a replacement that met an error after the new segment had taken its place.
    pub(super) async fn finish_replacement(&self) -> Result<(), LogError> {
        let Some(span) = self.cleaning.replacing.get() else { return Ok(()) };
        let is_empty = !self.inner.borrow().segments.iter().any(|segment| segment.base == span.0);
        self.finish_on_disk(span, is_empty).await?;
        self.cleaning.replacing.set(None);
        Ok(())
    }

    fn has_all_of(&self, (base, end): Span) -> bool {
        let inner = self.inner.borrow();
        let bases = || inner.segments.iter().map(|segment| segment.base);
        bases().any(|found| found == base) && bases().any(|found| found == end)
    }

    fn replace_in_memory(&self, replacement: Replacement, file: Rc<R::File>) {
        let (base, end) = replacement.span;
        let mut inner = self.inner.borrow_mut();
        let first = inner.segments.partition_point(|segment| segment.base < base);
        let last = inner.segments.partition_point(|segment| segment.base < end);
        let replacement_bytes = replacement.bytes;
        let new = (replacement_bytes > 0).then(|| {
            let mut segment = Segment::settled(base, replacement_bytes, true);
            segment.file = Some(file);
            segment.index = Some(replacement.index);
            segment
        });
        let before: Vec<Segment<R>> = inner.segments.drain(first..last).collect();
        let (at, _, next_offset) = inner.readable;
        if base <= at && at < end {
            // What may be read ended with these segments: nothing is readable behind them yet. Their last position is
            // not that of the new one.
            let moved = if new.is_some() { (base, replacement_bytes) } else { (end, 0) };
            inner.readable = (moved.0, moved.1, next_offset);
        }
        if let Some(segment) = new {
            inner.segments.insert(first, segment);
        }
        drop(inner);
        self.store.note_evicted(before.iter().map(Segment::cached_bytes).sum());
        self.cleaning.replacements.set(self.cleaning.replacements.get() + 1);
    }

    /// Does on disk what is already so in memory, or what a crash has interrupted; once more does no harm.
    pub(super) async fn finish_on_disk(&self, span: Span, is_empty: bool) -> Result<(), LogError> {
        let (base, end) = span;
        let swap = self.path().join(name_of(span, SWAP_SUFFIX));
        let is_within = |offset: Offset| base <= offset && offset < end;
        for entry in self.store.runtime.read_directory(&self.path()).await? {
            let is_index = base_of_index(&entry.name).is_some_and(is_within);
            let is_log = base_of_file_name(&entry.name)
                .is_some_and(|found| is_within(found) && (is_empty || found != base));
            if is_index || is_log {
                self.remove(&self.path().join(&entry.name)).await?;
            }
        }
        self.store.sync_names(&self.path()).await?;
        if is_empty {
            self.remove(&swap).await?;
        } else {
            match self.store.runtime.rename(&swap, &self.path().join(log_file_name(base))).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        self.store.sync_names(&self.path()).await?;
        Ok(())
    }

    /// Removes a file that may be gone already.
    pub(super) async fn remove(&self, path: &Path) -> Result<(), LogError> {
        match self.store.runtime.remove_file(path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_spans() {
        let span = (Offset(42), Offset(1_000));
        let name = name_of(span, SWAP_SUFFIX);
        assert_eq!(name, "00000000000000000042-00000000000000001000.swap");
        assert_eq!(span_of(&name, SWAP_SUFFIX), Some(span));
        assert_eq!(span_of(&name, CLEANED_SUFFIX), None);
        assert_eq!(span_of("00000000000000000042.swap", SWAP_SUFFIX), None);
        assert_eq!(base_of_file_name(&name), None, "it does not pass for a segment");
        assert_eq!(base_of_index("00000000000000000042.index"), Some(Offset(42)));
        assert_eq!(base_of_index("00000000000000000042.log"), None);
    }
}
