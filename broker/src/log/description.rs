//! What plans want to know of a log, and the roll that they ask for.

use super::LogError;
use super::appender::Log;
use crate::runtime::{File, Runtime};
use logmill_state::log_plan::{LargestTimestamp, SegmentDescriptor};
use logmill_wire::ids::Offset;
use std::rc::Rc;

impl<R: Runtime> Log<R> {
    /// The log's segments, oldest first, without their timestamps; `end` is the log's end. This does not count as a use
    /// of the log.
    ///
    /// # Errors
    /// If the log cannot be opened.
    pub async fn describe(self: &Rc<Self>, end: Offset) -> Result<Vec<SegmentDescriptor>, LogError> {
        self.check_health()?;
        if !self.exists.get() {
            return Ok(Vec::new());
        }
        let _busy = self.keep_open();
        self.open().await?;
        let inner = self.inner.borrow();
        let nexts = inner.segments.iter().skip(1).map(|segment| segment.base).chain([end]);
        let describe = |(segment, next_offset): (&super::segment::Segment<R>, Offset)| SegmentDescriptor {
            base: segment.base,
            next_offset,
            bytes: segment.end(),
            largest_timestamp: LargestTimestamp::Unread,
        };
        Ok(inner.segments.iter().zip(nexts).map(describe).collect())
    }

    /// The largest timestamp of a segment's records.
    ///
    /// # Errors
    /// If the segment cannot be read.
    pub async fn largest_timestamp(self: &Rc<Self>, base: Offset) -> Result<LargestTimestamp, LogError> {
        let _busy = self.keep_open();
        self.open().await?;
        let known = {
            let inner = self.inner.borrow();
            inner
                .segments
                .iter()
                .find(|segment| segment.base == base)
                .and_then(|segment| if segment.sealed { segment.largest_timestamp } else { None })
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let was_loaded = self.has_index(base);
        match self.load_index(base).await {
            // It was removed or replaced meanwhile.
            Err(LogError::OutOfRange) => return Ok(LargestTimestamp::None),
            outcome => outcome?,
        }
        let (found, is_empty) = {
            let inner = self.inner.borrow();
            let Some(segment) = inner.segments.iter().find(|segment| segment.base == base) else {
                return Ok(LargestTimestamp::None);
            };
            let found = segment.index.as_ref().and_then(super::index::SparseIndex::max_timestamp);
            (found.filter(|(timestamp, _)| timestamp.0 >= 0), segment.end() == 0)
        };
        let largest = match found {
            Some((timestamp, _)) => LargestTimestamp::At(timestamp),
            None if is_empty => LargestTimestamp::None,
            // Records without timestamps are as old as the last change of their file, which outlives a restart.
            None => LargestTimestamp::At(self.file_of(base).await?.modified().await?),
        };
        let mut inner = self.inner.borrow_mut();
        let Some(segment) = inner.segments.iter_mut().find(|segment| segment.base == base) else {
            return Ok(LargestTimestamp::None);
        };
        if segment.sealed {
            segment.largest_timestamp = Some(largest);
            if !was_loaded {
                segment.index = None;
            }
        }
        Ok(largest)
    }

    /// Begins a new segment at the log's end, unless the active one is empty. The caller makes no append meanwhile.
    ///
    /// # Errors
    /// Those of the disk; the log then goes on in the active segment.
    pub async fn roll_at_end(self: &Rc<Self>, next_offset: Offset) -> Result<(), LogError> {
        self.check_health()?;
        self.check_not_truncated()?;
        let _busy = self.keep_open();
        self.open().await?;
        let is_empty = self.inner.borrow().segments.back().is_none_or(|active| active.end() == 0);
        if is_empty { Ok(()) } else { self.roll(next_offset).await }
    }
}
