//! One shard's part of all log directories: in which of them a log lies, and where a new one goes (KIP-112).

use super::store::Store;
use crate::runtime::Runtime;
use logmill_state::metadata::Image;
use logmill_wire::frame::checkpoint::LogState;
use logmill_wire::ids::{NodeId, Offset, TimestampMs, TopicPartition};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// A log directory that could not be opened when the node started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfflineDirectory {
    /// Its place in `log.dirs`, from 0.
    pub number: usize,
    /// Where it should be.
    pub path: PathBuf,
    /// Why it cannot be used.
    pub cause: String,
}

/// One shard's part of one of several log directories.
pub struct NumberedStore<R: Runtime> {
    /// The directory's place in `log.dirs`, from 0.
    pub number: usize,
    /// The shard's part of it.
    pub store: Rc<Store<R>>,
}

/// Where a log is.
pub enum Home<R: Runtime> {
    /// In this directory, in this state.
    Stored(Rc<Store<R>>, Box<LogState>),
    /// It cannot be used, for this reason.
    Unusable(String),
    /// There is none yet.
    Nowhere,
}

/// One shard's part of all log directories.
pub struct Stores<R: Runtime> {
    stores: Vec<NumberedStore<R>>,
    offline: Vec<OfflineDirectory>,
    /// Logs that two directories have, and which two.
    ambiguous: BTreeMap<TopicPartition, String>,
    /// The first metadata of this run: what it places here may lie in a directory that is offline.
    first_image: OnceCell<Arc<Image>>,
}

impl<R: Runtime> From<Rc<Store<R>>> for Stores<R> {
    /// Those of a node with one directory.
    fn from(store: Rc<Store<R>>) -> Self {
        Self::new(vec![NumberedStore { number: 0, store }], Vec::new())
    }
}

impl<R: Runtime> Stores<R> {
    /// Those of a node with these directories. A log that two of them have is not used, since nobody can tell which one
    /// is right; both are kept as they are.
    #[must_use]
    pub fn new(stores: Vec<NumberedStore<R>>, offline: Vec<OfflineDirectory>) -> Self {
        let mut ambiguous = BTreeMap::new();
        for (at, NumberedStore { store, .. }) in stores.iter().enumerate().skip(1) {
            for (log, state) in store.states.borrow().iter() {
                let first = stores.iter().take(at).find(|first| first.store.has(*log));
                let Some(NumberedStore { store: first, .. }) = first else { continue };
                let (one, other) =
                    (first.directory.join(&state.directory), store.directory.join(&state.directory));
                let cause = format!(
                    "two log directories have this log: {} and {}. Nothing was changed; stop the broker, move away the \
                     one that is not wanted, and start it again",
                    one.display(),
                    other.display()
                );
                tracing::error!(%log, %cause, "a log is out of service");
                ambiguous.insert(*log, cause);
            }
        }
        Self { stores, offline, ambiguous, first_image: OnceCell::new() }
    }

    /// The directories that could be opened.
    #[must_use]
    pub fn all(&self) -> &[NumberedStore<R>] {
        &self.stores
    }

    /// The directories that could not be opened.
    #[must_use]
    pub fn offline(&self) -> &[OfflineDirectory] {
        &self.offline
    }

    /// Whether the shard ends, or all of its log directories are out of service: nobody need look after logs any more.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.stores.iter().all(|member| member.store.is_ending())
    }

    /// Takes note of the metadata that the run begins with.
    pub fn note_first_image(&self, image: &Arc<Image>) {
        if !self.offline.is_empty() {
            // Only the first one counts.
            let _ = self.first_image.set(Arc::clone(image));
        }
    }

    /// Where a log is that `node` has been given.
    #[must_use]
    pub fn home_of(&self, log: TopicPartition, node: NodeId) -> Home<R> {
        if let Some(cause) = self.why_unusable(log, node) {
            return Home::Unusable(cause);
        }
        let found = self.stores.iter().find_map(|member| Some((&member.store, member.store.state_of(log)?)));
        found.map_or(Home::Nowhere, |(store, state)| Home::Stored(Rc::clone(store), Box::new(state)))
    }

    /// Why a log cannot be used that `node` has been given; `None` if it can, or can begin.
    #[must_use]
    pub fn why_unusable(&self, log: TopicPartition, node: NodeId) -> Option<String> {
        if let Some(cause) = self.ambiguous.get(&log) {
            return Some(cause.clone());
        }
        for NumberedStore { store, .. } in &self.stores {
            if store.has(log) {
                return store.health().cause();
            }
            // What was deleted there since no checkpoint was made is found again by a restart.
            if store.is_doomed(log)
                && let Some(cause) = store.health().cause()
            {
                return Some(cause);
            }
        }
        let of = |directory: &OfflineDirectory| format!("{}: {}", directory.path.display(), directory.cause);
        let causes = || self.offline.iter().map(of).collect::<Vec<_>>().join("; ");
        self.may_be_offline(log, node)
            .then(|| format!("the log may be in a log directory that is offline: {}", causes()))
    }

    /// How many log directories do not work, and logs that two directories have. It never becomes less.
    #[must_use]
    pub fn broken_count(&self) -> usize {
        let failed = self.stores.iter().filter(|member| member.store.health().is_failed());
        failed.count() + self.offline.len() + self.ambiguous.len()
    }

    /// Whether a log that no directory has may lie in one that is offline.
    fn may_be_offline(&self, log: TopicPartition, node: NodeId) -> bool {
        if self.offline.is_empty() {
            return false;
        }
        // Before there are any metadata nothing is known to be new.
        let Some(first) = self.first_image.get() else { return true };
        let placed = first.topic_by_id(log.topic_id).and_then(|topic| first.partition(topic, log.partition));
        placed.is_some_and(|placed| placed.replicas.contains(&node))
    }

    /// The directory for a new log: of those that work, the one with the fewest.
    #[must_use]
    pub fn for_new_log(&self) -> Option<Rc<Store<R>>> {
        let working = self.stores.iter().filter(|member| !member.store.health().is_failed());
        let chosen = working.min_by_key(|member| member.store.health().logs())?;
        chosen.store.health().note_log();
        Some(Rc::clone(&chosen.store))
    }

    /// The directory of a log that was ever appended to, with its state; none of a log that is out of service.
    #[must_use]
    pub fn stored(&self, log: TopicPartition) -> Option<(&Rc<Store<R>>, LogState)> {
        if self.ambiguous.contains_key(&log) {
            return None;
        }
        let working = self.stores.iter().filter(|member| !member.store.health().is_failed());
        working.map(|member| &member.store).find_map(|store| Some((store, store.state_of(log)?)))
    }

    /// The base of the last segment of a log, as the last checkpoint says.
    #[must_use]
    pub fn last_segment_of(&self, log: TopicPartition) -> Option<Offset> {
        if self.ambiguous.contains_key(&log) {
            return None;
        }
        let working = self.stores.iter().filter(|member| !member.store.health().is_failed());
        working.map(|member| &member.store).find_map(|store| store.last_segment_of(log))
    }

    /// The logs that were ever appended to; one that two directories have is named twice.
    #[must_use]
    pub fn stored_logs(&self) -> Vec<TopicPartition> {
        self.stores.iter().flat_map(|member| member.store.stored_logs()).collect()
    }

    /// Deletes a log that is not in use, wherever it is.
    pub async fn delete(&self, log: TopicPartition) {
        for NumberedStore { store, .. } in &self.stores {
            store.delete(log).await;
        }
    }

    /// Waits until no directory has anything of a former life of the log, which was deleted.
    pub async fn until_forgotten(&self, log: TopicPartition) {
        for NumberedStore { store, .. } in &self.stores {
            store.until_forgotten(log).await;
        }
    }

    /// Puts a log aside that the metadata does not know, wherever it is.
    pub async fn set_aside(&self, log: TopicPartition) {
        for NumberedStore { store, .. } in &self.stores {
            store.set_aside(log).await;
        }
    }

    /// Forgets the producers of a log that were idle for too long.
    pub fn expire_producers(&self, log: TopicPartition, now: TimestampMs, expiration_ms: i64) {
        for NumberedStore { store, .. } in &self.stores {
            store.expire_producers(log, now, expiration_ms);
        }
    }

    /// Commits what was appended, makes last checkpoints and ends the committers.
    pub async fn stop(&self) {
        // All of them refuse appends at once, and not one after the other.
        for NumberedStore { store, .. } in &self.stores {
            store.begin_stop();
        }
        for NumberedStore { store, .. } in &self.stores {
            store.stop().await;
        }
    }
}
