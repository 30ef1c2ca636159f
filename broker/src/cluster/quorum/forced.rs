//! Going on from one controller when most of them are gone for good: offline, because an operator says so.
//!
//! The log of this node, with what nobody knows to be committed, becomes a snapshot whose only voter is this node. All
//! that may have been decided elsewhere and is not known here must not be decided a second time with another meaning:
//! - the snapshot's place is far behind any that the lost controllers can have reached, so that nodes that know more of
//!   the old log take it over instead of the old one;
//! - leader epochs rise, so that no offset is minted again in an epoch that a leader here unknown has had;
//! - producer ids are left out that may have been given to somebody.

use super::disk::{QuorumDisk, QuorumDiskError};
use super::engine::Persist;
use super::entry::decode_records;
use super::log_memory::{DurableState, LogMemory};
use super::members::{Member, MemberChange, MemberKey, MemberSet};
use super::message::SnapshotId;
use super::snapshot::MetadataSnapshot;
use super::validate::TERM_MAX;
use crate::log::DirectoryHealth;
use crate::runtime::Runtime;
use logmill_state::metadata::{Image, PartitionState, Record};
use logmill_wire::ids::{LeaderEpoch, NodeId, PartitionIndex, Uuid};
use raft::eraftpb::EntryType;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// How far the log goes on behind its end: no quorum was ahead of one of its voters by so much.
const ENTRIES_LEFT_OUT: u64 = 1 << 32;

/// By how much the term rises.
const TERMS_LEFT_OUT: u64 = 1_000;

/// By how much the epochs of partitions rise.
const EPOCHS_LEFT_OUT: i32 = 1_000;

/// How many producer ids are not given out.
const PRODUCER_IDS_LEFT_OUT: i64 = 1 << 32;

/// What the quorum is after it was forced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForcedQuorum {
    /// The cluster.
    pub cluster_id: Uuid,
    /// The voters that vote no more.
    pub former_voters: Vec<MemberKey>,
    /// The last entry that this node had.
    pub last_index: u64,
    /// How many of its entries were not known to be committed here. They count now.
    pub uncommitted: u64,
    /// Topics and partitions that the metadata have.
    pub topics: (usize, u64),
}

/// Why the quorum was not forced. Nothing was changed, unless the disk failed.
#[derive(Debug)]
pub enum ForceError {
    /// It makes no sense here.
    Refused(String),
    /// The durable state cannot be used.
    Disk(QuorumDiskError),
}

impl fmt::Display for ForceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(cause) => f.write_str(cause),
            Self::Disk(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ForceError {}

/// Makes `me` the only voter of its quorum. Nobody else may use the directory; another life of the other voters must
/// never come back with their old directories.
///
/// # Errors
/// If there is no such quorum, `me` is no voter or the only one, or the disk fails.
pub async fn force_sole_voter<R: Runtime>(
    runtime: &R,
    directory: &Path,
    me: MemberKey,
) -> Result<ForcedQuorum, ForceError> {
    let health = Arc::<DirectoryHealth>::default();
    let found =
        QuorumDisk::open(runtime, directory, me.directory, &health).await.map_err(ForceError::Disk)?;
    let refused = |cause: &str| ForceError::Refused(cause.to_owned());
    let Some(mut found) = found else {
        return Err(refused("the log directory has no state of a metadata quorum"));
    };
    let (snapshot, outcome) = forced(me, found.cluster_id, &found.state).map_err(ForceError::Refused)?;
    let mut hard_state = found.state.hard_state.clone();
    (hard_state.term, hard_state.vote, hard_state.commit) = (snapshot.id.term, 0, snapshot.id.index);
    let memory = LogMemory::new(found.state);
    let persist = Persist { snapshot: Some(snapshot), entries: Vec::new(), hard_state };
    let stored = found.disk.persist(&persist, &memory).await;
    stored.map_err(|error| ForceError::Disk(QuorumDiskError::Io(directory.to_path_buf(), error)))?;
    Ok(outcome)
}

fn forced(
    me: MemberKey,
    cluster_id: Uuid,
    state: &DurableState,
) -> Result<(MetadataSnapshot, ForcedQuorum), String> {
    let (mut members, mut image, base, digest) = match &state.snapshot {
        Some(found) => (found.members.clone(), found.image.clone(), found.id, found.digest),
        None => (MemberSet::EMPTY, Image::default(), SnapshotId::default(), 0),
    };
    for entry in &state.entries {
        if entry.get_entry_type() == EntryType::EntryNormal {
            // What has no effect has none elsewhere either.
            for record in decode_records(&entry.data)? {
                let _ = image.apply(&record);
            }
        } else {
            let change = MemberChange::decode(&entry.context).ok_or("a change of the members is none")?;
            members.apply(&change);
        }
    }
    if !members.get(me).is_some_and(|member| member.is_voter) {
        return Err(
            "this node is no voter of the metadata quorum: what it has may be older than what a voter has"
                .into(),
        );
    }
    if members.is_sole_voter(me) {
        return Err("this node is the only voter already".into());
    }
    let former_voters = members.voters().map(|member| member.key).filter(|&key| key != me).collect();
    // The others observe: who is told to take the snapshot over must be part of it.
    let observing = |member: &Member| Member { is_voter: member.key == me, ..member.clone() };
    let members = MemberSet::founding(members.iter().map(observing));
    leave_room(&mut image)?;
    let last_index = base.index + state.entries.len() as u64;
    let last_term = state.entries.last().map_or(base.term, |entry| entry.term).max(state.hard_state.term);
    let id = SnapshotId { index: last_index + ENTRIES_LEFT_OUT, term: last_term + TERMS_LEFT_OUT };
    if id.term > TERM_MAX {
        return Err("the quorum's term cannot rise any further".into());
    }
    let uncommitted = last_index.saturating_sub(state.hard_state.commit.max(base.index));
    let topics = (image.topic_count(), image.partition_count());
    let outcome = ForcedQuorum { cluster_id, former_voters, last_index, uncommitted, topics };
    Ok((MetadataSnapshot::new(id, digest, members, image), outcome))
}

/// Raises what must not be given out twice.
fn leave_room(image: &mut Image) -> Result<(), String> {
    let mut records = Vec::new();
    for topic in image.topics() {
        for partition in (0..topic.partition_count()).map(PartitionIndex) {
            let Some(found) = image.partition(topic, partition) else { continue };
            let state = found.to_state();
            let leader_epoch = LeaderEpoch(state.leader_epoch.0.saturating_add(EPOCHS_LEFT_OUT));
            let partition_epoch = state.partition_epoch.saturating_add(EPOCHS_LEFT_OUT);
            let state = PartitionState { leader_epoch, partition_epoch, ..state };
            records.push(Record::PartitionChanged { topic_id: topic.id, partition, state });
        }
    }
    // None of them runs. One that the metadata hold for alive would be given the leadership of what the first one to
    // start has, and be waited for.
    for broker in image.brokers() {
        records.push(Record::BrokerChanged {
            broker_id: broker.id,
            fenced: true,
            in_controlled_shutdown: false,
            directories: broker.directories.clone(),
        });
    }
    let next_producer_id = image.next_producer_id().saturating_add(PRODUCER_IDS_LEFT_OUT);
    records.push(Record::ProducerIdsAllocated { broker_id: NodeId(-1), next_producer_id });
    records.iter().try_for_each(|record| image.apply(record).map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::disk::DiskSettings;
    use super::super::entry::encode_records;
    use super::*;
    use crate::runtime::simulated::{Options, SimulatedRuntime, World};
    use logmill_state::metadata::PlacementRun;
    use logmill_wire::frame::quorum::IdentityHeader;
    use logmill_wire::ids::ShardIndex;
    use raft::eraftpb::Entry;
    use std::collections::BTreeMap;

    const DIRECTORY: &str = "/data/quorum";
    const CLUSTER: Uuid = Uuid([9; 16]);

    fn key(node: i32) -> MemberKey {
        MemberKey { node: NodeId(node), directory: Uuid([node as u8; 16]) }
    }

    fn topic(number: u8) -> Record {
        Record::TopicCreated {
            topic_id: Uuid([number; 16]),
            name: format!("topic-{number}"),
            configs: BTreeMap::new(),
            placement: vec![PlacementRun {
                partition_count: 2,
                leader_epoch: LeaderEpoch(3),
                replicas: vec![NodeId(1), NodeId(2)],
            }],
        }
    }

    /// Three voters; the third entry is not known to be committed.
    fn state(voters: &[i32]) -> DurableState {
        let voter = |&node: &i32| Member { key: key(node), is_voter: true, endpoints: Vec::new() };
        let members = MemberSet::founding(voters.iter().map(voter));
        let id = SnapshotId { index: 1, term: 1 };
        let snapshot = MetadataSnapshot::new(id, 7, members, Image::default());
        let entry = |index: u64| {
            let mut entry = Entry::default();
            (entry.index, entry.term) = (index, 5);
            entry.data = encode_records(&[topic(index as u8)]).into();
            entry
        };
        let mut state = DurableState { snapshot: Some(snapshot), ..DurableState::default() };
        state.entries = vec![entry(2), entry(3), entry(4)];
        (state.hard_state.term, state.hard_state.vote, state.hard_state.commit) = (6, key(2).raft_id(), 3);
        state
    }

    /// Forces what was stored, and reads it again.
    fn force(voters: &'static [i32], me: i32) -> (Result<ForcedQuorum, String>, DurableState) {
        let world = World::new(1, Options::default());
        let runtime: SimulatedRuntime = world.host("node").runtime(ShardIndex(0));
        let own = runtime.clone();
        world.block_on(&runtime, async move {
            let (path, health) = (Path::new(DIRECTORY), Arc::<DirectoryHealth>::default());
            own.create_directory(Path::new("/data")).await.unwrap();
            own.create_directory(path).await.unwrap();
            let ids = IdentityHeader {
                journal_id: [1; 16],
                cluster_id: CLUSTER.0,
                directory_id: key(me).directory.0,
                ..IdentityHeader::default()
            };
            let settings = DiskSettings { journal_bytes: 1 << 20 };
            drop(QuorumDisk::create(&own, path, settings, ids, &state(voters), &health).await.unwrap());
            let outcome = force_sole_voter(&own, path, key(me)).await.map_err(|error| error.to_string());
            let found = QuorumDisk::open(&own, path, key(me).directory, &health).await.unwrap().unwrap();
            (outcome, found.state)
        })
    }

    #[test]
    fn one_voter_goes_on_with_all_that_it_has() {
        let (outcome, state) = force(&[1, 2, 3], 1);
        let outcome = outcome.expect("a voter");
        assert_eq!(outcome.former_voters, [key(2), key(3)]);
        assert_eq!((outcome.cluster_id, outcome.last_index, outcome.uncommitted), (CLUSTER, 4, 1));
        assert_eq!(outcome.topics, (3, 6));
        let snapshot = state.snapshot.expect("there is one now");
        assert!(state.entries.is_empty());
        assert!(snapshot.members.is_sole_voter(key(1)));
        assert_eq!(snapshot.members.iter().count(), 3, "the others observe");
        assert_eq!((state.hard_state.vote, state.hard_state.commit), (0, snapshot.id.index));
        assert!(state.hard_state.term == snapshot.id.term && snapshot.id.term > 6 + 100);
        assert!(snapshot.id.index > 4 + 1_000_000, "behind whatever the others can have reached");
        let image = &snapshot.image;
        assert_eq!(image.topic_count(), 3);
        for topic in image.topics() {
            let found = image.partition(topic, PartitionIndex(1)).unwrap();
            assert_eq!((found.leader_epoch, found.leader), (LeaderEpoch(1_003), NodeId(1)));
        }
        assert!(image.next_producer_id() >= 1 << 32);
    }

    #[test]
    fn who_has_no_say_or_needs_none_is_refused() {
        for (voters, me, cause) in [(&[2, 3, 4][..], 1, "no voter"), (&[1], 1, "only voter already")] {
            let (outcome, kept) = force(voters, me);
            assert!(outcome.is_err_and(|error| error.contains(cause)), "{cause}");
            assert_eq!((kept.entries.len(), kept.hard_state.term), (3, 6), "nothing was changed");
        }
    }
}
