//! A push in the making.

use bytes::Bytes;
use logmill_wire::frame::FrameError;
use logmill_wire::frame::replication::{PushBuilder, PushedPartition};
use logmill_wire::limits::REPLICATION_ENTRIES_MAX;

/// What a partition gave for a push.
pub(super) type Entry = (PushedPartition, Vec<Bytes>);

/// A push that grows until it is full.
pub(super) struct PushFrame {
    /// With so many bytes it is full.
    most: usize,
    builder: PushBuilder,
    parts: Vec<Bytes>,
    pub bytes: usize,
    pub entries: usize,
}

impl PushFrame {
    pub fn new(most: usize) -> Self {
        Self { most, builder: PushBuilder::default(), parts: Vec::new(), bytes: 0, entries: 0 }
    }

    /// How many bytes may come.
    pub const fn room(&self) -> usize {
        self.most.saturating_sub(self.bytes)
    }

    /// Whether another partition may be added.
    pub fn is_open(&self) -> bool {
        self.room() > 0 && self.entries < REPLICATION_ENTRIES_MAX
    }

    /// Adds a partition, or gives it back if the frame would be too large.
    ///
    /// # Errors
    /// [`FrameError::Truncated`], if its batches are not as many bytes as it says; [`FrameError::InvalidField`], if it
    /// alone is too large.
    pub fn add(&mut self, (entry, batches): Entry) -> Result<Option<Entry>, FrameError> {
        let bytes: usize = batches.iter().map(Bytes::len).sum();
        if bytes != entry.batch_bytes as usize {
            return Err(FrameError::Truncated);
        }
        match self.builder.add_measured(entry) {
            Ok(()) => {
                self.entries += 1;
                self.bytes += bytes;
                self.parts.extend(batches);
                Ok(None)
            }
            Err(FrameError::InvalidField) if self.entries > 0 => Ok(Some((entry, batches))),
            Err(error) => Err(error),
        }
    }

    /// What is sent: the batches uncopied.
    ///
    /// # Errors
    /// None that can happen.
    pub fn finish(self) -> Result<Vec<Bytes>, FrameError> {
        if self.entries == 0 {
            return Ok(Vec::new());
        }
        let mut parts = Vec::with_capacity(1 + self.parts.len());
        parts.push(self.builder.finish()?.into());
        parts.extend(self.parts);
        Ok(parts)
    }
}
