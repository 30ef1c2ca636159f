//! Deleting logs. A directory is renamed first, so that a topic of the same name can be created at once, and
//! removed in the background.

use super::appender::Log;
use super::store::Store;
use crate::runtime::Runtime;
use logmill_wire::frame::checkpoint::LogState;
use logmill_wire::ids::{Offset, TopicPartition};
use std::rc::Rc;

impl<R: Runtime> Log<R> {
    /// Deletes the log: nothing of it is committed any more, and its directory goes.
    pub async fn delete(self: &Rc<Self>) {
        self.deleted.set(true);
        self.store.progress.notify_all();
        // Whoever prepares or reads it works on files by their names: a topic of the same name must not get
        // theirs.
        while self.busy.get() > 0 {
            self.segments_changed.wait().await;
        }
        self.start.forget_pending();
        let segments = std::mem::take(&mut self.inner.borrow_mut().segments);
        let freed = segments
            .iter()
            .map(|segment| {
                segment.tail.capacity_bytes() + segment.read_ahead.as_ref().map_or(0, |(_, view)| view.len())
            })
            .sum();
        self.store.note_evicted(freed);
        self.store.note_taken(segments.iter().map(|segment| segment.end() - segment.taken).sum());
        self.store.forget(self.key());
        self.store.remove_directory_of(&self.directory_name, self.key()).await;
    }
}

impl<R: Runtime> Store<R> {
    /// What the last checkpoint says of a log.
    #[must_use]
    pub fn state_of(&self, log: TopicPartition) -> Option<LogState> {
        self.states.borrow().get(&log).cloned()
    }

    /// The base of the last segment of a log, as the last checkpoint says.
    #[must_use]
    pub fn last_segment_of(&self, log: TopicPartition) -> Option<Offset> {
        self.states.borrow().get(&log).map(|state| Offset(state.segment_base))
    }

    /// The logs that were ever appended to.
    #[must_use]
    pub fn stored_logs(&self) -> Vec<TopicPartition> {
        self.states.borrow().keys().copied().collect()
    }

    /// Waits until no checkpoint names a former life of the log, which was deleted: what is kept of that would pass for the
    /// state of the next one, and go with the former one although the next one is there.
    pub async fn until_forgotten(&self, log: TopicPartition) {
        loop {
            let progress = self.progress.wait();
            if !self.is_doomed(log) || self.health.is_failed() || self.stopping.get() {
                return;
            }
            self.ask_for_checkpoint();
            progress.await;
        }
    }

    /// Whether the log was deleted and a checkpoint may name it yet.
    pub(super) fn is_doomed(&self, log: TopicPartition) -> bool {
        self.doomed.borrow().iter().any(|(doomed, _)| *doomed == log)
    }

    pub(super) fn ask_for_checkpoint(&self) {
        self.checkpoint_asked.set(true);
        self.work.notify_all();
    }

    /// Deletes a log that is not in use.
    pub async fn delete(self: &Rc<Self>, log: TopicPartition) {
        let state = self.state_of(log);
        if let Some(state) = state {
            self.forget(log);
            self.remove_directory_of(&state.directory, log).await;
        }
    }
}
