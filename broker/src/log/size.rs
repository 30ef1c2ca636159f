//! How many bytes of records a log has.

use super::LogError;
use super::appender::Log;
use super::segment::base_of_file_name;
use super::store::Store;
use crate::runtime::Runtime;
use logmill_wire::frame::checkpoint::LogState;
use logmill_wire::ids::Offset;

impl<R: Runtime> Log<R> {
    /// Bytes of the records of all segments, those that are not in their files yet among them.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn size_bytes(&self) -> Result<u64, LogError> {
        if self.opened.get() {
            return Ok(self.inner.borrow().segments.iter().map(|segment| segment.tail.end()).sum());
        }
        if !self.exists.get() {
            return Ok(0);
        }
        let active = self.inner.borrow().closed_end;
        self.store.size_of_directory(&self.directory_name, active).await
    }
}

impl<R: Runtime> Store<R> {
    /// Bytes of the records of a log that is not in use.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn size_of(&self, state: &LogState) -> Result<u64, LogError> {
        let active = (Offset(state.segment_base), state.end_position);
        // Nothing before the active segment belongs to the log: its directory need not be looked at.
        if state.log_start_offset >= state.segment_base {
            return Ok(state.end_position);
        }
        self.size_of_directory(&state.directory, active).await
    }

    /// The active segment's file is longer than its records: its space is taken ahead.
    async fn size_of_directory(
        &self,
        name: &str,
        (active_base, active_end): (Offset, u64),
    ) -> Result<u64, LogError> {
        let entries = match self.runtime.read_directory(&self.directory.join(name)).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let is_sealed = |name: &str| base_of_file_name(name).is_some_and(|base| base < active_base);
        let sealed = entries.iter().filter(|entry| !entry.is_directory && is_sealed(&entry.name));
        Ok(sealed.map(|entry| entry.length).sum::<u64>() + active_end)
    }
}
