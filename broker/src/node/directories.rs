//! The log directories of a node: which of them work, and that they belong together (KIP-112).

use super::NodeError;
use super::identity::{Identity, Lock, Unusable};
use crate::log::OfflineDirectory;
use crate::runtime::Runtime;
use logmill_state::settings::BrokerSettings;
use logmill_wire::ids::{NodeId, Uuid};
use std::path::{Path, PathBuf};

/// Where the log directories of a node are. They exist, and are no other node's while it runs.
pub struct LogDirectoryPaths {
    /// Those of the data, each with its place in `log.dirs`, from 0; at least one.
    data: Vec<(usize, PathBuf)>,
    /// Those of the data that could not be opened.
    offline: Vec<OfflineDirectory>,
    /// That of the metadata: one of the data, or one of its own.
    metadata: PathBuf,
}

impl LogDirectoryPaths {
    /// Where the metadata are.
    pub fn metadata(&self) -> &Path {
        &self.metadata
    }
}

impl From<PathBuf> for LogDirectoryPaths {
    /// One directory for all.
    fn from(path: PathBuf) -> Self {
        Self { data: vec![(0, path.clone())], offline: Vec::new(), metadata: path }
    }
}

impl FromIterator<PathBuf> for LogDirectoryPaths {
    /// Several, of which the first one has the metadata; without any it is the current directory.
    fn from_iter<I: IntoIterator<Item = PathBuf>>(paths: I) -> Self {
        let data: Vec<_> = paths.into_iter().enumerate().collect();
        let metadata = data.first().map_or_else(PathBuf::new, |(_, path)| path.clone());
        Self { data, offline: Vec::new(), metadata }
    }
}

/// Where the metadata are, as configured: in `metadata.log.dir`, or in the first of `log.dirs`.
pub fn of_metadata(settings: &BrokerSettings) -> PathBuf {
    let named = settings.node.metadata_log_dir.as_deref().map(PathBuf::from);
    named.or_else(|| settings.data_directories().into_iter().next()).unwrap_or_default()
}

/// Makes or opens the configured directories, and locks them. What the disk does not give is offline.
///
/// # Errors
/// If another process has a directory; if the one of the metadata, or all of the data, cannot be opened.
pub fn lock(settings: &BrokerSettings) -> Result<(LogDirectoryPaths, Vec<Lock>), NodeError> {
    let configured = settings.data_directories();
    refuse_twice_the_same(&configured)?;
    let metadata_path = settings.node.metadata_log_dir.as_deref().map(Path::new);
    // The first of log.dirs unless it says otherwise, whatever name it goes by.
    let of_metadata = metadata_path
        .map_or(Some(0), |path| configured.iter().position(|directory| is_same(directory, path)));
    let (mut data, mut offline, mut locks, mut metadata) = (Vec::new(), Vec::new(), Vec::new(), None);
    for (number, path) in configured.into_iter().enumerate() {
        match Lock::acquire(&path) {
            Ok(lock) => {
                if of_metadata == Some(number) {
                    metadata = Some(lock.path().to_path_buf());
                }
                data.push((number, lock.path().to_path_buf()));
                locks.push(lock);
            }
            Err(Unusable::Offline(error)) if of_metadata != Some(number) => {
                offline.push(OfflineDirectory { number, path, cause: error.cause });
            }
            Err(unusable) => return Err(unusable.error()),
        }
    }
    if data.is_empty() {
        return Err(none_works(&offline));
    }
    let metadata = match (metadata, metadata_path) {
        (Some(path), _) => path,
        (None, path) => {
            let lock = Lock::acquire(path.unwrap_or_else(|| Path::new("."))).map_err(Unusable::error)?;
            let path = lock.path().to_path_buf();
            locks.push(lock);
            path
        }
    };
    Ok((LogDirectoryPaths { data, offline, metadata }, locks))
}

/// What to say when there is no directory for data.
pub fn none_works(offline: &[OfflineDirectory]) -> NodeError {
    let causes: Vec<_> = offline.iter().map(|directory| directory.cause.as_str()).collect();
    NodeError::new(
        format!("no directory of log.dirs can be used: {}", causes.join("; ")),
        "check that the directories exist, that this user may write to them, and that the disks work",
    )
}

/// A log directory that is this node's.
pub struct LogDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// What it says of itself.
    pub identity: Identity,
}

/// The log directories of this node.
pub struct LogDirectories {
    /// Those of the data that work, each with its place in `log.dirs`, from 0; at least one.
    pub data: Vec<(usize, LogDirectory)>,
    /// Those of the data that do not.
    pub offline: Vec<OfflineDirectory>,
    /// That of the metadata; it may be one of the data.
    pub metadata: LogDirectory,
}

impl LogDirectories {
    /// Reads the identities of all directories, and gives one to those that have none. They must be of one node and one
    /// cluster.
    ///
    /// # Errors
    /// If a directory is another's; if the one of the metadata, or all of the data, cannot be read.
    pub async fn open<R: Runtime>(
        runtime: &R,
        paths: &LogDirectoryPaths,
        node_id: NodeId,
    ) -> Result<Self, NodeError> {
        let identity =
            Identity::establish(runtime, &paths.metadata, node_id).await.map_err(Unusable::error)?;
        let metadata = LogDirectory { path: paths.metadata.clone(), identity };
        let (mut data, mut offline) = (Vec::new(), paths.offline.clone());
        for (number, path) in &paths.data {
            let (number, path) = (*number, path.clone());
            match Identity::establish(runtime, &path, node_id).await {
                Ok(identity) => data.push((number, LogDirectory { path, identity })),
                Err(Unusable::Offline(error)) => {
                    offline.push(OfflineDirectory { number, path, cause: error.cause });
                }
                Err(Unusable::Refused(error)) => return Err(error),
            }
        }
        if data.is_empty() {
            return Err(none_works(&offline));
        }
        let directories = Self { data, offline, metadata };
        directories.check_that_they_belong_together()?;
        Ok(directories)
    }

    /// Whether the metadata are in this data directory.
    pub fn has_metadata(&self, directory: &LogDirectory) -> bool {
        directory.path == self.metadata.path
    }

    /// The cluster that the directories belong to, once they do.
    pub fn cluster_id(&self) -> Option<Uuid> {
        self.all().find_map(|directory| directory.identity.cluster_id)
    }

    fn all(&self) -> impl Iterator<Item = &LogDirectory> {
        let data = self.data.iter().map(|(_, directory)| directory);
        [&self.metadata].into_iter().chain(data.filter(|directory| !self.has_metadata(directory)))
    }

    fn check_that_they_belong_together(&self) -> Result<(), NodeError> {
        let file = |directory: &LogDirectory| directory.path.join("meta.properties").display().to_string();
        let mut known: Option<(&LogDirectory, Uuid)> = None;
        let mut seen: Vec<&LogDirectory> = Vec::new();
        for directory in self.all() {
            let id = directory.identity.directory_id;
            if let Some(twin) = seen.iter().find(|other| other.identity.directory_id == id) {
                return Err(NodeError::new(
                    format!(
                        "{} and {} have the same directory.id: one directory is a copy of the other",
                        file(twin),
                        file(directory)
                    ),
                    "move the copy away, or take it out of log.dirs",
                ));
            }
            seen.push(directory);
            let Some(cluster) = directory.identity.cluster_id else { continue };
            match known {
                Some((other, expected)) if expected != cluster => {
                    return Err(NodeError::new(
                        format!(
                            "{} is of cluster {cluster}, and {} of cluster {expected}",
                            file(directory),
                            file(other)
                        ),
                        "take the directory of the other cluster out of log.dirs",
                    ));
                }
                Some(_) => {}
                None => known = Some((directory, cluster)),
            }
        }
        Ok(())
    }
}

/// Whether two names are of one directory that exists.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

fn refuse_twice_the_same(configured: &[PathBuf]) -> Result<(), NodeError> {
    for (at, directory) in configured.iter().enumerate() {
        if let Some(other) = configured.iter().take(at).find(|other| is_same(other, directory)) {
            return Err(NodeError::new(
                format!(
                    "log.dirs names one directory twice, as {} and as {}",
                    other.display(),
                    directory.display()
                ),
                "name each directory once",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::simulated::{Host, Options, World};
    use logmill_wire::ids::ShardIndex;
    use std::collections::BTreeMap;
    use std::fs;

    const NODE: NodeId = NodeId(7);

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("logmill-directories-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn path(&self, name: &str) -> String {
            self.0.join(name).display().to_string()
        }

        fn lock(
            &self,
            names: &[&str],
            metadata: Option<&str>,
        ) -> Result<(LogDirectoryPaths, Vec<Lock>), NodeError> {
            let paths: Vec<_> = names.iter().map(|name| self.path(name)).collect();
            let mut values = BTreeMap::from([("log.dirs".to_owned(), paths.join(","))]);
            values.extend(metadata.map(|name| ("metadata.log.dir".to_owned(), self.path(name))));
            lock(&BrokerSettings::from_values(values).unwrap())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_metadata_have_one_place_and_a_directory_one_name() {
        let folder = Folder::new("places");
        let real = |name: &str| folder.0.canonicalize().unwrap().join(name);
        let (paths, locks) = folder.lock(&["a", "b"], None).unwrap();
        assert_eq!(paths.data, [(0, real("a")), (1, real("b"))]);
        assert_eq!((paths.metadata, locks.len()), (real("a"), 2));
        assert!(folder.lock(&["c", "b"], None).is_err_and(|error| error.cause.contains("another process")));
        drop(locks);
        assert_eq!(folder.lock(&["b", "a"], Some("a")).unwrap().0.metadata, real("a"));
        let (paths, locks) = folder.lock(&["a", "b"], Some("m")).unwrap();
        assert_eq!((paths.metadata, locks.len()), (real("m"), 3));
        drop(locks);
        std::os::unix::fs::symlink(real("a"), real("s")).unwrap();
        assert!(folder.lock(&["a", "s"], None).is_err_and(|error| error.cause.contains("twice")));
    }

    #[test]
    fn a_directory_that_cannot_be_opened_is_offline_unless_it_has_the_metadata() {
        let folder = Folder::new("offline");
        fs::write(folder.0.join("file"), "not a directory").unwrap();
        let (paths, locks) = folder.lock(&["a", "file"], None).unwrap();
        assert_eq!(paths.data.len(), 1);
        let offline = &paths.offline[0];
        assert!(offline.number == 1 && offline.cause.contains(&folder.path("file")), "{offline:?}");
        drop(locks);
        let refused = |names: &[&str], metadata| folder.lock(names, metadata).err().unwrap().cause;
        assert!(refused(&["file", "a"], None).contains(&folder.path("file")));
        assert!(refused(&["file"], Some("m")).contains("no directory of log.dirs"));
    }

    fn open(world: &World, host: &Host, names: &[&str]) -> Result<LogDirectories, NodeError> {
        let runtime = host.runtime(ShardIndex(0));
        let paths: LogDirectoryPaths = names.iter().map(PathBuf::from).collect();
        let own = runtime.clone();
        world.block_on(&runtime, async move { LogDirectories::open(&own, &paths, NODE).await })
    }

    #[test]
    fn directories_of_two_clusters_and_copies_are_refused() {
        let world = World::new(1, Options::default());
        let host = world.host("node");
        for name in ["/a", "/b"] {
            host.put_file(&Path::new(name).join(".lock"), b"").unwrap();
        }
        let directories = open(&world, &host, &["/a", "/b"]).unwrap();
        let ids: Vec<_> = directories.data.iter().map(|(_, data)| data.identity.directory_id).collect();
        assert!(ids.len() == 2 && ids[0] != ids[1]);
        assert_eq!((directories.metadata.identity.directory_id, directories.cluster_id()), (ids[0], None));
        let runtime = host.runtime(ShardIndex(0));
        for (at, (_, LogDirectory { path, identity })) in directories.data.into_iter().enumerate() {
            let own = runtime.clone();
            world.block_on(&runtime, async move {
                identity.join_cluster(&own, &path, Uuid([at as u8 + 1; 16])).await.unwrap();
            });
            if at == 0 {
                let joined = open(&world, &host, &["/a", "/b"]).unwrap();
                assert_eq!(joined.cluster_id(), Some(Uuid([1; 16])), "a fresh directory is welcome");
            }
        }
        let refused = open(&world, &host, &["/a", "/b"]).err().unwrap().cause;
        assert!(
            refused.contains("/a/meta.properties") && refused.contains("/b/meta.properties"),
            "{refused}"
        );
        let copy = host.read_file(Path::new("/a/meta.properties")).unwrap();
        host.put_file(Path::new("/b/meta.properties"), &copy).unwrap();
        let refused = open(&world, &host, &["/a", "/b"]).err().unwrap().cause;
        assert!(refused.contains("a copy of the other"), "{refused}");
    }
}
