//! Whose log directory this is: the lock that keeps a second process out, and `meta.properties`.

use super::NodeError;
use crate::config::Config;
use logmill_wire::ids::{NodeId, Uuid};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The version of what this program lays out in a log directory. Version 0 had the metadata in a log of its own, where
/// now a quorum keeps it.
const LAYOUT_VERSION: &str = "1";

/// A log directory that belongs to this process.
pub struct LogDirectory {
    path: PathBuf,
    identity: Identity,
    // The lock lasts as long as the file is open.
    _lock: File,
}

/// What `meta.properties` says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    node_id: NodeId,
    directory_id: Uuid,
    cluster_id: Option<Uuid>,
}

impl LogDirectory {
    /// Makes or opens the configured log directory, locks it, and checks that it is ours.
    pub fn acquire(config: &Config) -> Result<Self, NodeError> {
        let directories = config.settings.data_directories();
        let [path] = directories.as_slice() else {
            return Err(NodeError::new(
                format!("log.dirs names {} directories, and this version works with one", directories.len()),
                "name one directory",
            ));
        };
        let failed = |what: &str, error: io::Error| {
            NodeError::new(
                format!("{}: {what}: {error}", path.display()),
                "check that the directory exists, that this user may write to it, and that the disk works",
            )
        };
        fs::create_dir_all(path).map_err(|error| failed("the log directory cannot be made", error))?;
        let path =
            path.canonicalize().map_err(|error| failed("the log directory cannot be resolved", error))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(".lock"))
            .map_err(|error| failed("the lock file cannot be opened", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(NodeError::new(
                    format!("{}: another process uses this log directory", path.display()),
                    "stop the other broker, or give this one another log.dirs",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed("the lock cannot be taken", error)),
        }
        let identity = establish(&path, config.settings.node.node_id)?;
        Ok(Self { path, identity, _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id of the directory: another disk has another one.
    #[must_use]
    pub const fn directory_id(&self) -> Uuid {
        self.identity.directory_id
    }

    /// The cluster that the directory belongs to, once it does.
    #[must_use]
    pub const fn cluster_id(&self) -> Option<Uuid> {
        self.identity.cluster_id
    }

    /// Records the cluster that the directory belongs to from now on.
    pub fn join_cluster(&self, cluster_id: Uuid) -> Result<(), NodeError> {
        if self.identity.cluster_id == Some(cluster_id) {
            return Ok(());
        }
        write(&self.path, &Identity { cluster_id: Some(cluster_id), ..self.identity.clone() }).map_err(
            |error| {
                NodeError::new(
                    format!("{}: meta.properties cannot be written: {error}", self.path.display()),
                    "check the disk",
                )
            },
        )
    }
}

fn establish(path: &Path, node_id: NodeId) -> Result<Identity, NodeError> {
    let file = path.join("meta.properties");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return begin(path, node_id).map_err(|error| {
                NodeError::new(
                    format!("{}: {error}", file.display()),
                    "check the disk and the rights of this user",
                )
            });
        }
        Err(error) => {
            return Err(NodeError::new(format!("{}: {error}", file.display()), "restore the file's rights"));
        }
    };
    let identity = parse(&text).map_err(|cause| {
        NodeError::new(
            format!("{}: {cause}", file.display()),
            "start with an empty log directory, or restore this file; a log directory of Apache Kafka cannot be taken over",
        )
    })?;
    if identity.node_id != node_id {
        return Err(NodeError::new(
            format!(
                "{}: the log directory belongs to node {}, and this is node {node_id}",
                file.display(),
                identity.node_id
            ),
            "set node.id to that number, or use another log directory",
        ));
    }
    Ok(identity)
}

fn begin(path: &Path, node_id: NodeId) -> io::Result<Identity> {
    let mut bits = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bits)?;
    let identity =
        Identity { node_id, directory_id: Uuid::from_random(u128::from_ne_bytes(bits)), cluster_id: None };
    write(path, &identity)?;
    Ok(identity)
}

fn parse(text: &str) -> Result<Identity, String> {
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
    Ok(Identity {
        node_id: NodeId(node_id),
        directory_id: uuid("directory.id").ok_or("directory.id is missing")?,
        cluster_id: uuid("cluster.id"),
    })
}

fn write(path: &Path, identity: &Identity) -> io::Result<()> {
    let mut text = format!(
        "version=1\nlogmill.layout.version={LAYOUT_VERSION}\nnode.id={}\ndirectory.id={}\n",
        identity.node_id, identity.directory_id
    );
    if let Some(cluster_id) = identity.cluster_id {
        text.push_str(&format!("cluster.id={cluster_id}\n"));
    }
    let fresh = path.join("meta.properties.new");
    let mut file = File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path.join("meta.properties"))?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_back_and_foreign_ones_are_refused() {
        let directory = std::env::temp_dir().join(format!("logmill-identity-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let made = establish(&directory, NodeId(7)).unwrap();
        assert_eq!(establish(&directory, NodeId(7)).unwrap(), made);
        let refused = establish(&directory, NodeId(8)).unwrap_err();
        assert!(refused.cause.contains("belongs to node 7"), "{}", refused.cause);
        fs::write(directory.join("meta.properties"), "version=1\ncluster.id=x\nnode.id=7\n").unwrap();
        assert!(establish(&directory, NodeId(7)).unwrap_err().remedy.contains("Apache Kafka"));
        fs::remove_dir_all(&directory).unwrap();
    }
}
