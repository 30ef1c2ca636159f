//! Who is at the two ends of a link.

use super::cut::Cut;
use crate::partition::peers::Peer;
use logmill_state::metadata::Image;
use logmill_wire::frame::replication::{Hello, Link, REPLICATION_VERSION};
use logmill_wire::ids::{NodeId, ShardIndex};

/// The hello of this broker; `None` as long as the image does not know it.
pub(super) fn own_hello(image: &Image, node: NodeId, shard: ShardIndex, link: Link) -> Option<Hello> {
    Some(Hello {
        cluster_id: image.cluster_id()?,
        broker_id: node,
        incarnation: image.broker(node)?.incarnation,
        version_min: REPLICATION_VERSION,
        version_max: REPLICATION_VERSION,
        shard,
        link,
    })
}

/// Whether both hellos are of one cluster, and have a version in common. A broker that is told so much can say itself
/// what is wrong.
pub(super) fn check_kinship(own: &Hello, other: &Hello) -> Result<(), Cut> {
    if other.cluster_id != own.cluster_id {
        let (own, other) = (own.cluster_id, other.cluster_id);
        return Err(Cut::Refused(format!(
            "the other end belongs to cluster {other}, and this broker to {own}; correct the addresses"
        )));
    }
    match own.common_version(other) {
        Some(_) => Ok(()),
        None => Err(Cut::Refused(format!(
            "broker {} speaks the versions {} to {} of replication, and this one {} to {}; upgrade one of them",
            other.broker_id, other.version_min, other.version_max, own.version_min, own.version_max
        ))),
    }
}

/// Who is at the other end, if the image knows that process.
pub(super) fn check_process(image: &Image, own: &Hello, other: &Hello) -> Result<Peer, Cut> {
    let node = other.broker_id;
    if node == own.broker_id {
        return Err(Cut::Refused(format!("the other end says that it is this broker, {node}")));
    }
    // An older process must not be heard any more; of a newer one the metadata will say, and it tries again.
    match image.broker(node) {
        Some(known) if known.incarnation == other.incarnation => {
            Ok(Peer { node, incarnation: other.incarnation })
        }
        Some(_) => Err(Cut::Refused(format!("broker {node} has another process by the metadata here"))),
        None => Err(Cut::Refused(format!("the metadata here know no broker {node}"))),
    }
}
