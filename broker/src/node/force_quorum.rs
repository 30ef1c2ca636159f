//! `logmill force-quorum`: going on from one controller when most of them are gone for good. The node must not run.

use super::NodeError;
use super::directories::{self, of_metadata};
use super::identity::{Identity, Unusable};
use crate::cluster::quorum::{ForcedQuorum, MemberKey, force_sole_voter};
use crate::config::Config;
use crate::runtime::uring::block_on;
use logmill_wire::ids::NodeId;
use std::fmt::Write as _;

/// Makes this node the only voter of its metadata quorum, and says what the operator should know.
///
/// # Errors
/// If the node runs, is no voter, is the only one, or its disk fails.
pub fn force_quorum(config: Config) -> Result<String, NodeError> {
    let node_id = config.settings.node.node_id;
    if !config.settings.node.roles.controller {
        return Err(NodeError::new(
            format!("node {node_id} is no controller by its process.roles"),
            "force the quorum on the controller that is left, with its own settings",
        ));
    }
    let metadata = of_metadata(&config.settings);
    if !metadata.join("quorum").is_dir() {
        return Err(NodeError::new(
            format!("{}: there is no metadata quorum", metadata.display()),
            "check log.dirs and metadata.log.dir; nothing was changed",
        ));
    }
    // Held while the node runs.
    let (directories, _locks) = directories::lock(&config.settings)?;
    let path = directories.metadata().to_path_buf();
    let forced = block_on(move |runtime| async move {
        let identity = Identity::establish(&runtime, &path, node_id).await.map_err(Unusable::error)?;
        let me = MemberKey { node: node_id, directory: identity.directory_id };
        force_sole_voter(&runtime, &path.join("quorum"), me).await.map_err(|error| {
            NodeError::new(error.to_string(), "see the chapter on lost controllers in docs/cluster.md")
        })
    });
    let forced = forced.map_err(|error| NodeError::new(error.to_string(), "check the host's limits"))??;
    Ok(report(node_id, &forced))
}

fn report(node_id: NodeId, forced: &ForcedQuorum) -> String {
    let mut text = format!(
        "node {node_id} is the only controller of cluster {} now.\nThe metadata are as of entry {}, {} of them not known to be \
         committed before; {} topics, {} partitions.\n",
        forced.cluster_id, forced.last_index, forced.uncommitted, forced.topics.0, forced.topics.1
    );
    for former in &forced.former_voters {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "it must never start again with its old log directory: {former}");
    }
    text
}
