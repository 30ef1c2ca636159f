//! Who works under which directory's name.
//!
//! A topic that is deleted and made again has the same directories, and its partitions may lie on other shards: the
//! new one's log must not work on a name before the old one's has let go of it.

use super::LogError;
use super::appender::Log;
use super::segment::read_file;
use super::store::Store;
use crate::runtime::{File, OpenMode, Runtime};
use logmill_wire::ids::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often a log asks whether the log before it has let go of its name.
const CLAIM_INTERVAL: Duration = Duration::from_millis(2);

/// The names of directories in use, with the logs that use them. Shared by all shards of a log directory.
#[derive(Default)]
pub(super) struct Names(Mutex<BTreeMap<String, TopicPartition>>);

impl Names {
    /// Takes a name; false if another log has it.
    pub(super) fn claim(&self, name: &str, log: TopicPartition) -> bool {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(name) {
            Some(holder) => *holder == log,
            None => {
                names.insert(name.to_owned(), log);
                true
            }
        }
    }

    /// Gives a name back, if this log has it.
    pub(super) fn release(&self, name: &str, log: TopicPartition) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.get(name) == Some(&log) {
            names.remove(name);
        }
    }
}

/// Whose a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Belongs {
    /// To this life of the topic.
    Ours,
    /// To another life, of which this is the id.
    Another(String),
    /// There is a directory, and it does not say.
    Unknown,
    /// There is no directory.
    Nowhere,
}

/// Asks a directory whose it is.
///
/// # Errors
/// Those of the disk: a disk that cannot answer has not said that the log is gone.
pub(super) async fn belongs<R: Runtime>(
    runtime: &R,
    path: &Path,
    log: TopicPartition,
) -> io::Result<Belongs> {
    let file = match runtime.open(&path.join("partition.metadata"), OpenMode::Read).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match runtime.read_directory(path).await {
                Ok(_) => Ok(Belongs::Unknown),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Belongs::Nowhere),
                Err(error) => Err(error),
            };
        }
        Err(error) => return Err(error),
    };
    let length = file.length().await?;
    let views = match read_file(&file, 0..length.min(4096)).await {
        Ok(views) => views,
        Err(error) => return Err(io::Error::other(error.to_string())),
    };
    let bytes: Vec<u8> = views.iter().flat_map(|view| view.iter().copied()).collect();
    let text = String::from_utf8_lossy(&bytes);
    let id = text.lines().find_map(|line| line.strip_prefix("topic_id: ")).map(str::trim);
    let is_id = |id: &str| {
        id.len() == 22 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    Ok(match id {
        Some(id) if id == log.topic_id.to_string() => Belongs::Ours,
        Some(id) if is_id(id) => Belongs::Another(id.to_owned()),
        _ => Belongs::Unknown,
    })
}

/// What the name of a directory ends with that is not the log's of its name, and not known to be deleted.
const STRAY_SUFFIX: &str = "-stray";

/// What the name of a directory ends with that is being removed.
pub(super) const DELETED_SUFFIX: &str = "-delete";

/// The longest name of a directory, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// `TOPIC-PARTITION.ID-suffix`, with a shorter TOPIC if need be.
fn derived(name: &str, id: &str, suffix: &str) -> String {
    let (topic, partition) = name.rsplit_once('-').unwrap_or((name, ""));
    let end = format!("-{partition}.{id}{suffix}");
    let room = NAME_BYTES_MAX.saturating_sub(end.len());
    format!("{}{end}", topic.get(..room.min(topic.len())).unwrap_or_default())
}

impl<R: Runtime> Log<R> {
    /// Waits until no other log works under this one's name.
    pub(super) async fn claim_name(&self) -> Result<(), LogError> {
        while !self.store.health.names.claim(&self.directory_name, self.key) {
            if self.deleted.get() {
                return Err(LogError::Deleted);
            }
            if self.store.health.is_failed() {
                return Err(LogError::DirectoryFailed(self.store.health.cause().unwrap_or_default()));
            }
            self.store.runtime.sleep(CLAIM_INTERVAL).await;
        }
        Ok(())
    }
}

impl<R: Runtime> Store<R> {
    /// Renames what stands under the name of a log that has no directory yet. The sync of the log directory that
    /// follows makes it durable.
    pub(super) async fn make_way(&self, name: &str, log: TopicPartition) -> Result<(), LogError> {
        let path = self.directory.join(name);
        let id = match belongs(&self.runtime, &path, log).await? {
            Belongs::Ours | Belongs::Nowhere => return Ok(()),
            Belongs::Another(id) => id,
            Belongs::Unknown => {
                let entries = self.runtime.read_directory(&path).await?;
                if !entries.iter().any(|entry| entry.name.ends_with(".log")) {
                    return Ok(());
                }
                format!("before-{}", log.topic_id)
            }
        };
        self.runtime.rename(&path, &self.directory.join(derived(name, &id, STRAY_SUFFIX))).await?;
        Ok(())
    }

    /// Makes the names in a directory durable. A sync that failed is a failed flush: it ends the log directory.
    pub(super) async fn sync_names(&self, directory: &Path) -> io::Result<()> {
        let outcome = self.runtime.sync_directory(directory).await;
        if let Err(error) = &outcome {
            self.health.fail(format!("a sync of {} failed: {error}", directory.display()));
        }
        outcome
    }

    /// Puts a log aside that the metadata does not know: its topic was deleted, and the broker ended before it had
    /// followed.
    pub async fn set_aside(&self, log: TopicPartition) {
        let Some(state) = self.states.borrow_mut().remove(&log) else { return };
        self.health.note_log_gone();
        let name = &state.directory;
        let path = self.directory.join(name);
        let target = self.directory.join(derived(name, &log.topic_id.to_string(), STRAY_SUFFIX));
        let moved: io::Result<bool> = async {
            if belongs(&self.runtime, &path, log).await? != Belongs::Ours {
                return Ok(false);
            }
            self.runtime.rename(&path, &target).await?;
            self.sync_names(&self.directory).await?;
            Ok(true)
        }
        .await;
        match moved {
            Ok(true) => {
                tracing::warn!(directory = name, kept_as = %target.display(), "a log of a topic that does not exist was put aside; remove it if it is not needed");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(directory = name, %error, "a log of a topic that does not exist could not be put aside");
            }
        }
    }

    /// Renames the directory of a deleted log, wherever it stands by now. It is removed once no checkpoint names the
    /// log: until then, a restart tells by it that the log was deleted, and not lost.
    pub(super) async fn remove_directory_of(&self, name: &str, log: TopicPartition) {
        let doomed = self.directory.join(deleted_name(name, log));
        let outcome = self.rename_deleted(name, log, &doomed).await;
        self.health.names.release(name, log);
        match outcome {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(directory = name, %error, "a deleted log's directory could not be renamed; remove it by hand");
                return;
            }
        }
        if self.is_doomed(log) {
            self.leaving.borrow_mut().push((log, doomed));
            self.ask_for_checkpoint();
        } else {
            self.runtime.spawn(remove_deleted(self.runtime.clone(), doomed));
        }
    }

    /// Removes the directories of deleted logs that no checkpoint names, and asks for a checkpoint if there are others.
    pub(super) fn remove_forgotten(&self) {
        let doomed: BTreeSet<TopicPartition> = self.doomed.borrow().iter().map(|(log, _)| *log).collect();
        let (kept, gone): (Vec<_>, Vec<_>) =
            self.leaving.take().into_iter().partition(|(log, _)| doomed.contains(log));
        for (_, directory) in gone {
            self.runtime.spawn(remove_deleted(self.runtime.clone(), directory));
        }
        if !kept.is_empty() {
            self.ask_for_checkpoint();
        }
        self.leaving.replace(kept);
    }

    /// Whether there was something to rename. Files may only go once their directory's new name is certain to last:
    /// a power cut would otherwise bring back the old name over a part of them.
    async fn rename_deleted(&self, name: &str, log: TopicPartition, doomed: &Path) -> io::Result<bool> {
        let path = self.directory.join(name);
        let aside = self.directory.join(derived(name, &log.topic_id.to_string(), STRAY_SUFFIX));
        loop {
            let is_free = self.health.names.claim(name, log);
            let is_here = belongs(&self.runtime, &path, log).await? == Belongs::Ours;
            if is_here && !is_free {
                // A later life of the topic has the name, and is about to set aside what is there.
                self.runtime.sleep(CLAIM_INTERVAL).await;
                continue;
            }
            return match self.runtime.rename(if is_here { &path } else { &aside }, doomed).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
                Ok(()) => self.sync_names(&self.directory).await.map(|()| true),
            };
        }
    }
}

/// The name that the directory of a deleted log has until it is gone.
pub(super) fn deleted_name(name: &str, log: TopicPartition) -> String {
    derived(name, &log.topic_id.to_string(), DELETED_SUFFIX)
}

/// Removes a directory that was renamed for it.
pub(super) async fn remove_deleted<R: Runtime>(runtime: R, directory: PathBuf) {
    if let Err(error) = runtime.remove_directory(&directory).await {
        tracing::warn!(directory = %directory.display(), %error, "a deleted log's directory could not be removed; remove it by hand");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::ids::{PartitionIndex, Uuid};

    fn log(id: u8) -> TopicPartition {
        TopicPartition { topic_id: Uuid([id; 16]), partition: PartitionIndex(0) }
    }

    #[test]
    fn a_name_has_one_log_at_a_time() {
        let names = Names::default();
        assert!(names.claim("a-0", log(1)) && names.claim("a-0", log(1)));
        assert!(!names.claim("a-0", log(2)));
        names.release("a-0", log(2));
        assert!(!names.claim("a-0", log(2)), "only the log that has a name gives it back");
        names.release("a-0", log(1));
        assert!(names.claim("a-0", log(2)));
    }

    #[test]
    fn the_longest_topic_keeps_its_partition_in_a_name_that_fits() {
        let id = Uuid([7; 16]).to_string();
        let name = format!("{}-2147483647", "t".repeat(249));
        let derived = derived(&name, &id, DELETED_SUFFIX);
        assert_eq!(derived.len(), NAME_BYTES_MAX);
        assert!(derived.ends_with(&format!("t-2147483647.{id}-delete")));
        assert_eq!(super::derived("a-b-3", "X", STRAY_SUFFIX), "a-b-3.X-stray");
    }
}
