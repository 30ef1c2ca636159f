//! Looks at a peer's message before Raft does: the crate panics on what no correct peer would send.

use raft::StateRole;
use raft::eraftpb::{EntryType, Message, MessageType};

/// Terms are Kafka's epochs, which are numbers of 31 bits.
pub(super) const TERM_MAX: u64 = i32::MAX as u64;

/// Indices are offsets, which are numbers of 63 bits; one is left to count on.
pub(super) const INDEX_MAX: u64 = i64::MAX as u64 - 1;

/// What a message is held against.
pub(super) struct View {
    /// This member, as Raft knows it.
    pub id: u64,
    pub term: u64,
    pub role: StateRole,
    pub last_index: u64,
    /// Whether the sender is a member.
    pub knows_sender: bool,
    /// Whether this node knows any members: one that has not heard of any yet votes for whoever asks.
    pub knows_members: bool,
}

/// Why a message is not given to Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It is for somebody else, or says that it comes from this node.
    Address,
    /// Nobody here knows the sender, and the message is one that only members may send.
    UnknownSender,
    /// A peer does not send such messages.
    Kind,
    /// The term is 0, beyond all bounds, or not above that of the log.
    Term,
    /// An index is beyond all bounds, or its term is missing.
    Index,
    /// The entries do not follow on each other.
    Entries,
    /// The commit index is beyond what this node has.
    Commit,
    /// A field is in use that this kind has no use for.
    Field,
    /// It answers something that is over; nothing is wrong with it.
    Stale,
}

/// Says whether Raft can be given a message.
///
/// # Errors
/// Why not.
pub(super) fn validate(message: &Message, view: &View) -> Result<(), Unfit> {
    check(message.to == view.id && message.from != view.id && message.from != 0, Unfit::Address)?;
    check((1..=TERM_MAX).contains(&message.term), Unfit::Term)?;
    let indices = [message.index, message.commit, message.reject_hint];
    check(indices.into_iter().all(|index| index <= INDEX_MAX), Unfit::Index)?;
    check(message.log_term <= TERM_MAX && message.commit_term <= TERM_MAX, Unfit::Term)?;
    let is_plain = message.context.is_empty()
        && message.priority == 0
        && message.deprecated_priority == 0
        && message.request_snapshot == 0;
    check(is_plain, Unfit::Field)?;
    let kind = message.get_msg_type();
    check(kind == MessageType::MsgAppend || message.entries.is_empty(), Unfit::Field)?;
    check(kind == MessageType::MsgSnapshot || !message.has_snapshot(), Unfit::Field)?;
    match kind {
        MessageType::MsgAppend => append(message),
        MessageType::MsgHeartbeat => heartbeat(message, view),
        MessageType::MsgSnapshot => snapshot(message),
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => vote(message, view),
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            vote_response(message, view)
        }
        MessageType::MsgAppendResponse => append_response(message, view),
        MessageType::MsgHeartbeatResponse => check(view.knows_sender, Unfit::UnknownSender),
        _ => Err(Unfit::Kind),
    }
}

const fn check(holds: bool, otherwise: Unfit) -> Result<(), Unfit> {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// A leader may be one that this node has not heard of yet: it follows whoever leads the cluster.
fn append(message: &Message) -> Result<(), Unfit> {
    check((message.index == 0) == (message.log_term == 0), Unfit::Index)?;
    check(message.log_term <= message.term, Unfit::Term)?;
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in &message.entries {
        let kind = entry.get_entry_type();
        check(kind == EntryType::EntryNormal || kind == EntryType::EntryConfChange, Unfit::Entries)?;
        let follows = entry.index == index + 1 && entry.index <= INDEX_MAX;
        check(follows && entry.term >= term.max(1) && entry.term <= message.term, Unfit::Entries)?;
        (index, term) = (entry.index, entry.term);
    }
    check(!message.reject && message.reject_hint == 0 && message.commit_term == 0, Unfit::Field)
}

fn heartbeat(message: &Message, view: &View) -> Result<(), Unfit> {
    // A leader tells a follower to commit only what that follower has acknowledged.
    check(message.term < view.term || message.commit <= view.last_index, Unfit::Commit)?;
    check(!message.reject && message.reject_hint == 0 && message.index == 0, Unfit::Field)
}

fn snapshot(message: &Message) -> Result<(), Unfit> {
    let metadata = message.get_snapshot().get_metadata();
    check((1..=INDEX_MAX).contains(&metadata.index), Unfit::Index)?;
    check((1..=message.term).contains(&metadata.term), Unfit::Term)?;
    let conf = metadata.get_conf_state();
    let is_simple = conf.voters_outgoing.is_empty() && conf.learners_next.is_empty() && !conf.auto_leave;
    check(is_simple && !conf.voters.is_empty(), Unfit::Field)
}

fn vote(message: &Message, view: &View) -> Result<(), Unfit> {
    check(view.knows_sender || !view.knows_members, Unfit::UnknownSender)?;
    check((message.index == 0) == (message.log_term == 0), Unfit::Index)?;
    // The candidate stands in a term that is higher than those of its log.
    check(message.log_term < message.term && message.commit_term <= message.log_term, Unfit::Term)?;
    check(message.commit <= message.index, Unfit::Commit)?;
    check(!message.reject && message.reject_hint == 0, Unfit::Field)
}

fn vote_response(message: &Message, view: &View) -> Result<(), Unfit> {
    check(view.knows_sender, Unfit::UnknownSender)?;
    check(message.index == 0 && message.log_term == 0 && message.reject_hint == 0, Unfit::Field)?;
    if message.reject {
        return Ok(());
    }
    let is_awaited = match message.get_msg_type() {
        MessageType::MsgRequestPreVoteResponse => {
            view.role == StateRole::PreCandidate && message.term == view.term + 1
        }
        _ => view.role == StateRole::Candidate && message.term == view.term,
    };
    check(is_awaited, Unfit::Stale)
}

fn append_response(message: &Message, view: &View) -> Result<(), Unfit> {
    check(view.knows_sender, Unfit::UnknownSender)?;
    check(message.commit_term == 0, Unfit::Field)?;
    if message.term > view.term {
        // It says no more than that the term is over.
        return Ok(());
    }
    check(message.term == view.term && view.role == StateRole::Leader, Unfit::Stale)?;
    check(message.index <= view.last_index, Unfit::Index)?;
    if message.reject {
        check(message.reject_hint <= message.index, Unfit::Index)?;
        return check(message.log_term <= message.term, Unfit::Term);
    }
    check(message.log_term == 0 && message.reject_hint == 0, Unfit::Field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::{Entry, Snapshot};

    const ME: u64 = 11;
    const PEER: u64 = 12;

    fn view(role: StateRole) -> View {
        View { id: ME, term: 5, role, last_index: 20, knows_sender: true, knows_members: true }
    }

    fn message(kind: MessageType) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.from, message.to, message.term) = (PEER, ME, 5);
        message
    }

    fn entry(index: u64, term: u64) -> Entry {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, term);
        entry
    }

    fn append() -> Message {
        let mut message = message(MessageType::MsgAppend);
        (message.index, message.log_term, message.commit) = (20, 4, 30);
        message.set_entries(vec![entry(21, 4), entry(22, 5)].into());
        message
    }

    /// Changes a message that is fit, and says what is found unfit in it.
    fn unfit(fit: &Message, role: StateRole, change: impl FnOnce(&mut Message)) -> Option<Unfit> {
        assert_eq!(validate(fit, &view(role)), Ok(()), "{fit:?}");
        let mut changed = fit.clone();
        change(&mut changed);
        validate(&changed, &view(role)).err()
    }

    #[test]
    fn addresses_terms_and_indices_are_possible() {
        let fit = append();
        let found = |change: fn(&mut Message)| unfit(&fit, StateRole::Follower, change);
        assert_eq!(found(|message| message.to = 99), Some(Unfit::Address));
        assert_eq!(found(|message| message.from = ME), Some(Unfit::Address));
        assert_eq!(found(|message| message.from = 0), Some(Unfit::Address));
        assert_eq!(found(|message| message.term = 0), Some(Unfit::Term));
        assert_eq!(found(|message| message.term = TERM_MAX + 1), Some(Unfit::Term));
        assert_eq!(found(|message| message.index = INDEX_MAX + 1), Some(Unfit::Index));
        assert_eq!(found(|message| message.commit = u64::MAX), Some(Unfit::Index));
        assert_eq!(found(|message| message.reject_hint = u64::MAX), Some(Unfit::Index));
        assert_eq!(found(|message| message.log_term = u64::MAX), Some(Unfit::Term));
        assert_eq!(found(|message| message.commit_term = u64::MAX), Some(Unfit::Term));
    }

    #[test]
    fn fields_without_use_are_empty() {
        let fit = append();
        let found = |change: fn(&mut Message)| unfit(&fit, StateRole::Follower, change);
        assert_eq!(found(|message| message.context = "x".into()), Some(Unfit::Field));
        assert_eq!(found(|message| message.priority = 1), Some(Unfit::Field));
        assert_eq!(found(|message| message.deprecated_priority = 1), Some(Unfit::Field));
        assert_eq!(found(|message| message.request_snapshot = 1), Some(Unfit::Field));
        assert_eq!(found(|message| message.set_snapshot(Snapshot::default())), Some(Unfit::Field));
        assert_eq!(found(|message| message.reject = true), Some(Unfit::Field));
        assert_eq!(found(|message| message.reject_hint = 1), Some(Unfit::Field));
        assert_eq!(found(|message| message.commit_term = 1), Some(Unfit::Field));
        let heartbeat = message(MessageType::MsgHeartbeat);
        let with_entries = |message: &mut Message| message.set_entries(vec![entry(1, 1)].into());
        assert_eq!(unfit(&heartbeat, StateRole::Follower, with_entries), Some(Unfit::Field));
    }

    #[test]
    fn entries_follow_on_each_other() {
        let fit = append();
        let found = |change: fn(&mut Message)| unfit(&fit, StateRole::Follower, change);
        assert_eq!(found(|message| message.mut_entries()[0].index = 22), Some(Unfit::Entries));
        assert_eq!(found(|message| message.mut_entries()[1].index = 24), Some(Unfit::Entries));
        assert_eq!(found(|message| message.mut_entries()[0].term = 3), Some(Unfit::Entries), "it falls");
        assert_eq!(
            found(|message| message.mut_entries()[1].term = 6),
            Some(Unfit::Entries),
            "above the leader's"
        );
        let joint = |message: &mut Message| {
            message.mut_entries()[0].set_entry_type(EntryType::EntryConfChangeV2);
        };
        assert_eq!(unfit(&fit, StateRole::Follower, joint), Some(Unfit::Entries));
        assert_eq!(found(|message| message.log_term = 0), Some(Unfit::Index), "an index without a term");
        assert_eq!(found(|message| message.index = 0), Some(Unfit::Index), "a term without an index");
        assert_eq!(found(|message| message.log_term = 6), Some(Unfit::Term));
        assert_eq!(found(|message| message.index = INDEX_MAX), Some(Unfit::Entries), "beyond the last index");
    }

    #[test]
    fn a_heartbeat_commits_what_is_there() {
        let mut fit = message(MessageType::MsgHeartbeat);
        fit.commit = 20;
        let found = |change: fn(&mut Message)| unfit(&fit, StateRole::Follower, change);
        assert_eq!(found(|message| message.commit = 21), Some(Unfit::Commit));
        assert_eq!(found(|message| message.index = 1), Some(Unfit::Field));
        assert_eq!(found(|message| (message.term, message.commit) = (4, 21)), None, "it is ignored");
    }

    #[test]
    fn a_candidate_is_a_member_and_stands_above_its_log() {
        for kind in [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote] {
            let mut fit = message(kind);
            (fit.term, fit.index, fit.log_term, fit.commit, fit.commit_term) = (6, 20, 5, 18, 4);
            let found = |change: fn(&mut Message)| unfit(&fit, StateRole::Follower, change);
            assert_eq!(found(|message| message.log_term = 6), Some(Unfit::Term));
            assert_eq!(found(|message| message.commit_term = 6), Some(Unfit::Term));
            assert_eq!(found(|message| message.commit = 21), Some(Unfit::Commit));
            assert_eq!(found(|message| message.index = 0), Some(Unfit::Index));
            assert_eq!(found(|message| message.reject = true), Some(Unfit::Field));
            let stranger = View { knows_sender: false, ..view(StateRole::Follower) };
            assert_eq!(validate(&fit, &stranger), Err(Unfit::UnknownSender));
            assert_eq!(validate(&fit, &View { knows_members: false, ..stranger }), Ok(()));
        }
    }

    #[test]
    fn votes_are_those_that_were_asked_for() {
        let vote = message(MessageType::MsgRequestVoteResponse);
        assert_eq!(unfit(&vote, StateRole::Candidate, |vote| vote.term = 4), Some(Unfit::Stale));
        assert_eq!(unfit(&vote, StateRole::Candidate, |vote| vote.index = 4), Some(Unfit::Field));
        assert_eq!(validate(&vote, &view(StateRole::PreCandidate)), Err(Unfit::Stale));
        let mut pre_vote = message(MessageType::MsgRequestPreVoteResponse);
        pre_vote.term = 6;
        assert_eq!(unfit(&pre_vote, StateRole::PreCandidate, |vote| vote.term = 7), Some(Unfit::Stale));
        assert_eq!(unfit(&pre_vote, StateRole::PreCandidate, |vote| vote.reject = true), None);
        assert_eq!(validate(&pre_vote, &view(StateRole::Leader)), Err(Unfit::Stale));
    }

    #[test]
    fn nobody_acknowledges_what_the_leader_does_not_have() {
        let mut fit = message(MessageType::MsgAppendResponse);
        (fit.index, fit.commit) = (20, 19);
        let found = |change: fn(&mut Message)| unfit(&fit, StateRole::Leader, change);
        assert_eq!(found(|message| message.index = 21), Some(Unfit::Index));
        assert_eq!(found(|message| message.reject_hint = 1), Some(Unfit::Field));
        assert_eq!(found(|message| message.term = 4), Some(Unfit::Stale));
        assert_eq!(found(|message| (message.term, message.index) = (6, 21)), None, "the term is over");
        let mut rejection = fit.clone();
        (rejection.reject, rejection.reject_hint, rejection.log_term) = (true, 19, 5);
        let found = |change: fn(&mut Message)| unfit(&rejection, StateRole::Leader, change);
        assert_eq!(found(|message| message.reject_hint = 21), Some(Unfit::Index));
        assert_eq!(found(|message| message.log_term = 6), Some(Unfit::Term));
        assert_eq!(validate(&fit, &view(StateRole::Follower)), Err(Unfit::Stale));
        for kind in [
            MessageType::MsgAppendResponse,
            MessageType::MsgHeartbeatResponse,
            MessageType::MsgRequestVoteResponse,
            MessageType::MsgRequestPreVoteResponse,
        ] {
            let stranger = View { knows_sender: false, ..view(StateRole::Leader) };
            assert_eq!(validate(&message(kind), &stranger), Err(Unfit::UnknownSender));
        }
    }

    #[test]
    fn a_snapshot_has_a_place_and_voters() {
        let mut fit = message(MessageType::MsgSnapshot);
        let metadata = fit.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (30, 5);
        metadata.mut_conf_state().set_voters(vec![ME]);
        let found = |change: fn(&mut Message)| unfit(&fit, StateRole::Follower, change);
        assert_eq!(found(|message| message.mut_snapshot().mut_metadata().index = 0), Some(Unfit::Index));
        assert_eq!(found(|message| message.mut_snapshot().mut_metadata().term = 6), Some(Unfit::Term));
        assert_eq!(found(|message| message.mut_snapshot().mut_metadata().term = 0), Some(Unfit::Term));
        let empty = |message: &mut Message| message.mut_snapshot().mut_metadata().clear_conf_state();
        assert_eq!(unfit(&fit, StateRole::Follower, empty), Some(Unfit::Field));
        let joint = |message: &mut Message| {
            message.mut_snapshot().mut_metadata().mut_conf_state().set_voters_outgoing(vec![ME]);
        };
        assert_eq!(unfit(&fit, StateRole::Follower, joint), Some(Unfit::Field));
    }

    #[test]
    fn only_peers_kinds_come_from_peers() {
        use MessageType::{
            MsgBeat, MsgCheckQuorum, MsgHup, MsgPropose, MsgReadIndex, MsgReadIndexResp, MsgSnapStatus,
            MsgTimeoutNow, MsgTransferLeader, MsgUnreachable,
        };
        for kind in [
            MsgBeat,
            MsgCheckQuorum,
            MsgHup,
            MsgPropose,
            MsgReadIndex,
            MsgReadIndexResp,
            MsgSnapStatus,
            MsgTimeoutNow,
            MsgTransferLeader,
            MsgUnreachable,
        ] {
            assert_eq!(validate(&message(kind), &view(StateRole::Leader)), Err(Unfit::Kind));
        }
    }
}
