//! What nodes say to each other, and its frames.

use super::entry::{append_entry, decode_entries};
use super::members::MemberKey;
use bytes::Bytes;
use logmill_wire::frame::FrameError;
use logmill_wire::frame::quorum::{
    FLAG_FRESH, FLAG_REJECT, QuorumHeader, kind, open_quorum_frame, seal_quorum_frame,
};
use logmill_wire::ids::{NodeId, Uuid};
use raft::eraftpb::{Message, MessageType};

/// From whom to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub cluster_id: Uuid,
    pub from: MemberKey,
    pub to: NodeId,
    /// The directory that is meant; zero for whichever the node has.
    pub to_directory: Uuid,
}

/// A snapshot that a leader offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SnapshotOffer {
    /// The leader's term.
    pub term: u64,
    pub id: SnapshotId,
    /// Its whole length in bytes.
    pub bytes: u64,
    /// The CRC-32C of all of it.
    pub crc: u32,
}

/// Which snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SnapshotId {
    /// The last index that it stands for.
    pub index: u64,
    /// That index's term.
    pub term: u64,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PeerMessage {
    /// What Raft says, but for snapshots.
    Raft(Box<Message>),
    /// A leader offers a snapshot to one that is too far behind.
    SnapshotOffer(SnapshotOffer),
    /// The other asks for its bytes from `position` on.
    SnapshotFetch { id: SnapshotId, position: u64 },
    /// Those bytes; `None` if the snapshot is not there any more.
    SnapshotChunk { id: SnapshotId, position: u64, bytes: Option<Bytes> },
    /// The sender wants to belong to the quorum.
    Hello { is_fresh: bool },
    /// Whether the sender is fresh; and the leader that it knows of.
    HelloReply { is_fresh: bool, leader: Option<NodeId> },
}

const RAFT_KINDS: [(u16, MessageType); 8] = [
    (kind::APPEND, MessageType::MsgAppend),
    (kind::APPEND_RESPONSE, MessageType::MsgAppendResponse),
    (kind::VOTE, MessageType::MsgRequestVote),
    (kind::VOTE_RESPONSE, MessageType::MsgRequestVoteResponse),
    (kind::PRE_VOTE, MessageType::MsgRequestPreVote),
    (kind::PRE_VOTE_RESPONSE, MessageType::MsgRequestPreVoteResponse),
    (kind::HEARTBEAT, MessageType::MsgHeartbeat),
    (kind::HEARTBEAT_RESPONSE, MessageType::MsgHeartbeatResponse),
];

/// The frame of a message; `None` for what is never sent.
pub(super) fn encode(envelope: &Envelope, message: &PeerMessage) -> Option<Vec<u8>> {
    let mut header = QuorumHeader {
        cluster_id: envelope.cluster_id.0,
        from_node: envelope.from.node.0,
        from_directory: envelope.from.directory.0,
        to_node: envelope.to.0,
        to_directory: envelope.to_directory.0,
        leader_node: -1,
        ..QuorumHeader::default()
    };
    let mut payload = Vec::new();
    match message {
        PeerMessage::Raft(message) => encode_raft(&mut header, &mut payload, message)?,
        PeerMessage::SnapshotOffer(offer) => {
            header.kind = kind::SNAPSHOT;
            header.term = offer.term;
            (header.index, header.log_term) = (offer.id.index, offer.id.term);
            (header.commit, header.commit_term) = (offer.bytes, u64::from(offer.crc));
        }
        PeerMessage::SnapshotFetch { id, position } => {
            header.kind = kind::SNAPSHOT_FETCH;
            (header.index, header.log_term, header.hint) = (id.index, id.term, *position);
        }
        PeerMessage::SnapshotChunk { id, position, bytes } => {
            header.kind = kind::SNAPSHOT_CHUNK;
            (header.index, header.log_term, header.hint) = (id.index, id.term, *position);
            match bytes {
                Some(bytes) => payload.extend_from_slice(bytes),
                None => header.flags = FLAG_REJECT,
            }
        }
        PeerMessage::Hello { is_fresh } => {
            header.kind = kind::HELLO;
            header.flags = if *is_fresh { FLAG_FRESH } else { 0 };
        }
        PeerMessage::HelloReply { is_fresh, leader } => {
            header.kind = kind::HELLO_REPLY;
            header.flags = if *is_fresh { FLAG_FRESH } else { 0 };
            header.leader_node = leader.map_or(-1, |leader| leader.0);
        }
    }
    Some(seal_quorum_frame(header, &payload))
}

fn encode_raft(header: &mut QuorumHeader, payload: &mut Vec<u8>, message: &Message) -> Option<()> {
    let (kind, _) = RAFT_KINDS.into_iter().find(|(_, raft)| *raft == message.get_msg_type())?;
    header.kind = kind;
    header.flags = if message.reject { FLAG_REJECT } else { 0 };
    (header.term, header.log_term, header.index) = (message.term, message.log_term, message.index);
    (header.commit, header.commit_term) = (message.commit, message.commit_term);
    header.hint = message.reject_hint;
    header.entry_count = u32::try_from(message.entries.len()).ok()?;
    for entry in &message.entries {
        append_entry(payload, entry);
    }
    Some(())
}

/// Reads a frame.
///
/// # Errors
/// If the bytes are not one whole frame that makes sense by itself. Whether it makes sense here and now is for
/// [`validate`](super::validate::validate) to say.
pub(super) fn decode(bytes: &[u8]) -> Result<(Envelope, PeerMessage), FrameError> {
    let (header, payload) = open_quorum_frame(bytes)?;
    let from = MemberKey { node: NodeId(header.from_node), directory: Uuid(header.from_directory) };
    let to = NodeId(header.to_node);
    let has_nodes = from.node.0 >= 0 && to.0 >= 0 && header.leader_node >= -1;
    if !has_nodes || from.node == to || header.flags & !(FLAG_REJECT | FLAG_FRESH) != 0 {
        return Err(FrameError::InvalidField);
    }
    let envelope =
        Envelope { cluster_id: Uuid(header.cluster_id), from, to, to_directory: Uuid(header.to_directory) };
    let id = SnapshotId { index: header.index, term: header.log_term };
    let has_no_payload = payload.is_empty() && header.entry_count == 0;
    let message = match header.kind {
        kind::SNAPSHOT if has_no_payload => {
            let crc = u32::try_from(header.commit_term).map_err(|_| FrameError::InvalidField)?;
            PeerMessage::SnapshotOffer(SnapshotOffer { term: header.term, id, bytes: header.commit, crc })
        }
        kind::SNAPSHOT_FETCH if has_no_payload => PeerMessage::SnapshotFetch { id, position: header.hint },
        kind::SNAPSHOT_CHUNK => {
            let is_there = header.flags & FLAG_REJECT == 0;
            let bytes = is_there.then(|| Bytes::copy_from_slice(payload));
            PeerMessage::SnapshotChunk { id, position: header.hint, bytes }
        }
        kind::HELLO if has_no_payload => PeerMessage::Hello { is_fresh: header.flags & FLAG_FRESH != 0 },
        kind::HELLO_REPLY if has_no_payload => PeerMessage::HelloReply {
            is_fresh: header.flags & FLAG_FRESH != 0,
            leader: (header.leader_node >= 0).then_some(NodeId(header.leader_node)),
        },
        _ => PeerMessage::Raft(Box::new(decode_raft(&envelope, &header, payload)?)),
    };
    Ok((envelope, message))
}

fn decode_raft(envelope: &Envelope, header: &QuorumHeader, payload: &[u8]) -> Result<Message, FrameError> {
    let found = RAFT_KINDS.into_iter().find(|(kind, _)| *kind == header.kind);
    let (_, message_type) = found.ok_or(FrameError::InvalidField)?;
    let mut message = Message::default();
    message.set_msg_type(message_type);
    message.from = envelope.from.raft_id();
    message.to = MemberKey { node: envelope.to, directory: envelope.to_directory }.raft_id();
    message.reject = header.flags & FLAG_REJECT != 0;
    (message.term, message.log_term, message.index) = (header.term, header.log_term, header.index);
    (message.commit, message.commit_term) = (header.commit, header.commit_term);
    message.reject_hint = header.hint;
    message.set_entries(decode_entries(payload, header.entry_count)?.into());
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::super::members::{Member, MemberChange};
    use super::*;
    use logmill_state::metadata::Record;
    use raft::eraftpb::{Entry, EntryType};

    fn envelope() -> Envelope {
        let from = MemberKey { node: NodeId(1), directory: Uuid([1; 16]) };
        Envelope { cluster_id: Uuid([9; 16]), from, to: NodeId(2), to_directory: Uuid([2; 16]) }
    }

    fn append() -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        message.from = envelope().from.raft_id();
        message.to = MemberKey { node: NodeId(2), directory: Uuid([2; 16]) }.raft_id();
        (message.term, message.log_term, message.index, message.commit) = (7, 6, 10, 9);
        let mut records = Entry::default();
        (records.term, records.index) = (7, 11);
        records.data =
            super::super::entry::encode_records(&[Record::ClusterIdMinted { cluster_id: Uuid([3; 16]) }])
                .into();
        let mut members = Entry::default();
        (members.term, members.index) = (7, 12);
        members.set_entry_type(EntryType::EntryConfChange);
        let member = Member { key: envelope().from, is_voter: true, endpoints: Vec::new() };
        members.context = MemberChange::Set(member).encode().into();
        message.set_entries(vec![records, members].into());
        message
    }

    #[test]
    fn every_kind_is_read_back() {
        let id = SnapshotId { index: 5, term: 4 };
        let messages = [
            PeerMessage::Raft(Box::new(append())),
            PeerMessage::SnapshotOffer(SnapshotOffer { term: 7, id, bytes: 1 << 33, crc: 77 }),
            PeerMessage::SnapshotFetch { id, position: 4096 },
            PeerMessage::SnapshotChunk { id, position: 4096, bytes: Some(Bytes::from_static(b"chunk")) },
            PeerMessage::SnapshotChunk { id, position: 4096, bytes: None },
            PeerMessage::Hello { is_fresh: true },
            PeerMessage::HelloReply { is_fresh: false, leader: Some(NodeId(3)) },
            PeerMessage::HelloReply { is_fresh: true, leader: None },
        ];
        for message in messages {
            let bytes = encode(&envelope(), &message).expect("it can be sent");
            assert_eq!(decode(&bytes), Ok((envelope(), message)));
        }
    }

    #[test]
    fn what_raft_made_of_a_change_of_members_stays_here() {
        let mut message = append();
        message.mut_entries()[1].data = Bytes::from_static(b"protobuf");
        let bytes = encode(&envelope(), &PeerMessage::Raft(Box::new(message))).expect("it can be sent");
        assert!(!bytes.windows(8).any(|window| window == b"protobuf"));
    }

    #[test]
    fn local_kinds_are_neither_sent_nor_read() {
        for message_type in [MessageType::MsgHup, MessageType::MsgPropose, MessageType::MsgTimeoutNow] {
            let mut message = Message::default();
            message.set_msg_type(message_type);
            assert_eq!(encode(&envelope(), &PeerMessage::Raft(Box::new(message))), None);
        }
        for kind in [0, 14, u16::MAX] {
            let header = QuorumHeader { kind, from_node: 1, to_node: 2, ..QuorumHeader::default() };
            assert_eq!(decode(&seal_quorum_frame(header, &[])), Err(FrameError::InvalidField));
        }
    }

    #[test]
    fn frames_with_records_that_are_none_are_refused() {
        let mut message = append();
        message.mut_entries()[0].data = Bytes::from_static(b"\0\0\0\x05nope!");
        let bytes = encode(&envelope(), &PeerMessage::Raft(Box::new(message))).expect("it can be sent");
        assert_eq!(decode(&bytes), Err(FrameError::InvalidField));
    }
}
