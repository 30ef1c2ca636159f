//! Whose log directory this is: the lock that keeps a second process out, and `meta.properties`.

use super::NodeError;
use crate::runtime::buffer::Chunk;
use crate::runtime::{Durability, File as _, OpenMode, Runtime};
use logmill_wire::ids::{NodeId, Uuid};
use logmill_wire::limits::PAGE_BYTES;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The version of what this program lays out in a log directory. Version 0 had the metadata in a log of its own, where
/// now a quorum keeps it.
const LAYOUT_VERSION: &str = "1";

/// The file that says whose a log directory is.
const FILE_NAME: &str = "meta.properties";
const FRESH_FILE_NAME: &str = "meta.properties.new";

/// More bytes than the file ever has.
const FILE_BYTES_MAX: usize = PAGE_BYTES;

/// A log directory that no other process uses.
pub struct Lock {
    path: PathBuf,
    // The lock lasts as long as the file is open.
    _file: File,
}

/// Why a log directory is not ours to use.
#[derive(Debug)]
pub enum Unusable {
    /// The disk does not do what it should: the directory is offline, and a node may do without it.
    Offline(NodeError),
    /// The directory is another's, or not what we left: somebody has to decide.
    Refused(NodeError),
}

impl Unusable {
    /// What to tell an operator.
    pub fn error(self) -> NodeError {
        match self {
            Self::Offline(error) | Self::Refused(error) => error,
        }
    }
}

impl Lock {
    /// Makes or opens a log directory, and locks it.
    pub fn acquire(path: &Path) -> Result<Self, Unusable> {
        let failed = |what: &str, error: io::Error| {
            Unusable::Offline(NodeError::new(
                format!("{}: {what}: {error}", path.display()),
                "check that the directory exists, that this user may write to it, and that the disk works",
            ))
        };
        fs::create_dir_all(path).map_err(|error| failed("the log directory cannot be made", error))?;
        let path =
            path.canonicalize().map_err(|error| failed("the log directory cannot be resolved", error))?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(".lock"))
            .map_err(|error| failed("the lock file cannot be opened", error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, _file: file }),
            Err(TryLockError::WouldBlock) => Err(Unusable::Refused(NodeError::new(
                format!("{}: another process uses this log directory", path.display()),
                "stop the other broker, or give this one another log.dirs",
            ))),
            Err(TryLockError::Error(error)) => Err(failed("the lock cannot be taken", error)),
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What `meta.properties` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node that the directory belongs to.
    pub node_id: NodeId,
    /// The id of the directory: another disk has another one.
    pub directory_id: Uuid,
    /// The cluster that the directory belongs to, once it does.
    pub cluster_id: Option<Uuid>,
}

impl Identity {
    /// That of a log directory, which gets one if it has none; it must be a directory of this node.
    pub async fn establish<R: Runtime>(
        runtime: &R,
        directory: &Path,
        node_id: NodeId,
    ) -> Result<Self, Unusable> {
        let file = directory.join(FILE_NAME);
        let text = match read(runtime, &file).await {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Self::begin(runtime, directory, node_id).await.map_err(|error| {
                    Unusable::Offline(NodeError::new(
                        format!("{}: {error}", file.display()),
                        "check the disk and the rights of this user",
                    ))
                });
            }
            Err(error) => {
                let remedy = "restore the file's rights, and check the disk";
                let error = NodeError::new(format!("{}: {error}", file.display()), remedy);
                return Err(Unusable::Offline(error));
            }
        };
        let identity = Self::parse(&text).map_err(|cause| {
            Unusable::Refused(NodeError::new(
                format!("{}: {cause}", file.display()),
                "start with an empty log directory, or restore this file; a log directory of Apache Kafka cannot be taken over",
            ))
        })?;
        if identity.node_id != node_id {
            return Err(Unusable::Refused(NodeError::new(
                format!(
                    "{}: the log directory belongs to node {}, and this is node {node_id}",
                    file.display(),
                    identity.node_id
                ),
                "set node.id to that number, or use another log directory",
            )));
        }
        Ok(identity)
    }

    async fn begin<R: Runtime>(runtime: &R, directory: &Path, node_id: NodeId) -> io::Result<Self> {
        let bits = u128::from(runtime.random_u64()) << 64 | u128::from(runtime.random_u64());
        let identity = Self { node_id, directory_id: Uuid::from_random(bits), cluster_id: None };
        identity.write(runtime, directory).await?;
        Ok(identity)
    }

    /// Records the cluster that the directory belongs to from now on.
    pub async fn join_cluster<R: Runtime>(
        &self,
        runtime: &R,
        directory: &Path,
        cluster_id: Uuid,
    ) -> Result<(), NodeError> {
        if self.cluster_id == Some(cluster_id) {
            return Ok(());
        }
        let joined = Self { cluster_id: Some(cluster_id), ..self.clone() };
        joined.write(runtime, directory).await.map_err(|error| {
            NodeError::new(
                format!("{}: {FILE_NAME} cannot be written: {error}", directory.display()),
                "check the disk",
            )
        })
    }

    async fn write<R: Runtime>(&self, runtime: &R, directory: &Path) -> io::Result<()> {
        let text = self.text();
        let fresh = directory.join(FRESH_FILE_NAME);
        let file = runtime.open(&fresh, OpenMode::Create).await?;
        let mut page = Chunk::with_capacity(FILE_BYTES_MAX);
        page.append(text.as_bytes());
        page.pad_to(FILE_BYTES_MAX);
        file.write(page.view_all(), 0, Durability::Cached).await?;
        file.set_length(text.len() as u64).await?;
        file.flush().await?;
        runtime.rename(&fresh, &directory.join(FILE_NAME)).await?;
        runtime.sync_directory(directory).await
    }

    fn text(&self) -> String {
        let mut text = format!(
            "version=1\nlogmill.layout.version={LAYOUT_VERSION}\nnode.id={}\ndirectory.id={}\n",
            self.node_id, self.directory_id
        );
        if let Some(cluster_id) = self.cluster_id {
            text.push_str(&format!("cluster.id={cluster_id}\n"));
        }
        text
    }

    fn parse(text: &str) -> Result<Self, String> {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.trim())
        };
        if value("logmill.layout.version") != Some(LAYOUT_VERSION) {
            return Err("the directory was not made by this version of Logmill".into());
        }
        let uuid = |key: &str| value(key).and_then(Uuid::parse);
        let node_id = value("node.id").and_then(|text| text.parse().ok()).ok_or("node.id is missing")?;
        Ok(Self {
            node_id: NodeId(node_id),
            directory_id: uuid("directory.id").ok_or("directory.id is missing")?,
            cluster_id: uuid("cluster.id"),
        })
    }
}

async fn read<R: Runtime>(runtime: &R, path: &Path) -> io::Result<String> {
    let file = runtime.open(path, OpenMode::Read).await?;
    let (outcome, chunk) = file.read(Chunk::with_capacity(FILE_BYTES_MAX), 0, FILE_BYTES_MAX).await;
    let bytes = outcome?;
    Ok(String::from_utf8_lossy(&chunk[..bytes]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::simulated::{Options, World};
    use logmill_wire::ids::ShardIndex;

    #[test]
    fn an_identity_is_read_back_and_foreign_ones_are_refused() {
        let world = World::new(1, Options::default());
        let host = world.host("node");
        let directory = Path::new("/data");
        host.put_file(&directory.join(".lock"), b"").unwrap();
        let runtime = host.runtime(ShardIndex(0));
        let establish = |node: i32| {
            let own = runtime.clone();
            world.block_on(&runtime, async move { Identity::establish(&own, directory, NodeId(node)).await })
        };
        let made = establish(7).unwrap();
        assert_eq!(establish(7).unwrap(), made);
        let refused = establish(8).unwrap_err().error();
        assert!(refused.cause.contains("belongs to node 7"), "{}", refused.cause);
        let (own, cluster_id) = (runtime.clone(), Uuid::from_random(5));
        let joining = made.clone();
        let joined =
            world.block_on(&runtime, async move { joining.join_cluster(&own, directory, cluster_id).await });
        assert!(joined.is_ok());
        assert_eq!(establish(7).unwrap(), Identity { cluster_id: Some(cluster_id), ..made });
        let foreign = b"version=1\ncluster.id=x\nnode.id=7\n";
        host.put_file(&directory.join(FILE_NAME), foreign).unwrap();
        assert!(establish(7).unwrap_err().error().remedy.contains("Apache Kafka"));
    }
}
