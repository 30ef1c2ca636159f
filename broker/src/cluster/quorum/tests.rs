//! Whatever comes from peers, Raft does not panic.

use super::engine::{Engine, EngineSettings};
use super::entry::encode_records;
use super::log_memory::DurableState;
use super::members::{Member, MemberChange, MemberKey, MemberSet, VoterEndpoint};
use super::message::{SnapshotId, SnapshotOffer};
use super::snapshot::MetadataSnapshot;
use crate::runtime::simulated::Chance;
use logmill_state::metadata::{Image, Record};
use logmill_wire::ids::{NodeId, Uuid};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

fn key(node: i32) -> MemberKey {
    MemberKey { node: NodeId(node), directory: Uuid([node as u8; 16]) }
}

fn voter(node: i32) -> Member {
    Member { key: key(node), is_voter: true, endpoints: Vec::new() }
}

fn record(number: u64) -> Record {
    let configs = [("retention.ms".to_owned(), number.to_string())].into();
    Record::GroupConfigsReplaced { group_id: "orders".into(), configs }
}

fn engine(voters: &[i32]) -> Engine {
    let members = MemberSet::founding(voters.iter().map(|&node| voter(node)));
    let snapshot = MetadataSnapshot::new(SnapshotId { index: 1, term: 1 }, 0, members, Image::default());
    let mut state = DurableState { snapshot: Some(snapshot), ..DurableState::default() };
    (state.hard_state.term, state.hard_state.commit) = (1, 1);
    let settings =
        EngineSettings { election_ticks: 10, heartbeat_ticks: 2, entry_bytes_max: 4096, observer_ticks: 50 };
    let mut next = 0;
    let random = Box::new(move || {
        next += 3;
        next
    });
    Engine::new(key(1), Uuid([9; 16]), settings, state, random).expect("a sound state")
}

/// Does all steps, and says how many messages came of them.
fn settle(engine: &mut Engine) -> usize {
    let mut messages = 0;
    while let Some(step) = engine.take_step() {
        messages += engine.advance(step).expect("no contradiction").messages.len();
    }
    messages
}

#[test]
fn a_quorum_of_one_leads_at_once() {
    let mut engine = engine(&[1]);
    settle(&mut engine);
    engine.campaign();
    settle(&mut engine);
    assert!(engine.is_current());
    engine.propose(7, &[record(1)]).expect("it leads");
    let step = engine.take_step().expect("something to write");
    assert_eq!(step.persist.as_ref().map(|persist| persist.entries.len()), Some(1));
    let decided = engine.advance(step).expect("sound").decided;
    assert_eq!(decided, [(7, Ok(3))]);
    assert_eq!(engine.image().group_configs("orders").len(), 1);
}

#[test]
fn a_voter_stands_only_after_its_own_timeout() {
    let mut engine = engine(&[1, 2, 3]);
    let ticks = (0..100).position(|_| {
        engine.tick();
        settle(&mut engine) > 0
    });
    assert!(ticks.is_some_and(|ticks| (9..20).contains(&ticks)), "{ticks:?}");
}

#[test]
fn a_second_change_of_the_members_waits_for_the_first() {
    let mut engine = engine(&[1]);
    engine.campaign();
    settle(&mut engine);
    let observer = |node| MemberChange::Set(Member { is_voter: false, ..voter(node) });
    engine.change_members(1, &observer(2)).expect("possible");
    assert!(engine.change_members(2, &observer(3)).is_err());
    settle(&mut engine);
    assert!(engine.change_members(3, &MemberChange::Set(voter(2))).is_err(), "it has not caught up");
    engine.change_members(4, &observer(3)).expect("the first is done");
    settle(&mut engine);
    assert_eq!(engine.members().iter().count(), 3);
    assert_eq!(engine.members().voters().count(), 1);
}

#[test]
fn an_observer_that_falls_silent_is_forgotten() {
    let mut engine = engine(&[1]);
    engine.campaign();
    settle(&mut engine);
    for node in [2, 3] {
        let observer = MemberChange::Set(Member { is_voter: false, ..voter(node) });
        engine.change_members(1, &observer).expect("possible");
        settle(&mut engine);
    }
    for tick in 0..120 {
        // One lives, the other does not.
        engine.hear(key(3));
        engine.tick();
        settle(&mut engine);
        let (lost, lives) = (engine.members().get(key(2)), engine.members().get(key(3)));
        assert_eq!((lost.is_some(), lives.is_some()), (tick < 49, true), "after {tick} ticks");
    }
    assert!(engine.is_current(), "it was no voter");
}

#[test]
fn a_voter_is_not_forgotten_and_may_be_moved_before_it_has_caught_up() {
    let mut engine = engine(&[1]);
    engine.campaign();
    settle(&mut engine);
    let there = vec![VoterEndpoint { listener: "C".to_owned(), host: "mill".to_owned(), port: 9 }];
    let moved = Member { endpoints: there, ..voter(1) };
    engine.change_members(1, &MemberChange::Set(moved.clone())).expect("possible");
    settle(&mut engine);
    for _ in 0..120 {
        engine.tick();
        settle(&mut engine);
    }
    assert_eq!(engine.members().get(key(1)), Some(&moved));
    assert!(engine.is_current());
}

const KINDS: [MessageType; 19] = [
    MessageType::MsgAppend,
    MessageType::MsgAppend,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
    MessageType::MsgRequestPreVoteResponse,
    MessageType::MsgPropose,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndexResp,
    MessageType::MsgTransferLeader,
    MessageType::MsgSnapshot,
    MessageType::MsgHup,
];

/// Mostly small numbers near what is possible, sometimes any.
fn number(chance: &mut Chance, near: u64) -> u64 {
    match chance.below(12) {
        0 => 0,
        1 => chance.next_u64(),
        2 => u64::MAX,
        3 => near.saturating_sub(chance.below(6)),
        4 | 5 => near.saturating_add(chance.below(4)),
        _ => near,
    }
}

/// A message that a correct peer could send now.
fn plausible_message(chance: &mut Chance, engine: &Engine) -> (MemberKey, Message) {
    let status = engine.status();
    let from = key(2 + chance.below(2) as i32);
    let mut message = Message::default();
    message.set_msg_type(KINDS[chance.index(KINDS.len())]);
    (message.from, message.to) = (from.raft_id(), key(1).raft_id());
    let kind = message.get_msg_type();
    message.term = status.term;
    match kind {
        MessageType::MsgAppend => {
            message.term += u64::from(chance.one_in(10));
            let behind = if chance.one_in(2) { status.last_index } else { status.committed };
            message.index = behind;
            message.log_term = engine.store().term_at(behind).unwrap_or(0);
            message.commit = behind + chance.below(3);
            let entries: Vec<Entry> = (1..=chance.below(4))
                .map(|place| random_entry(chance, behind + place, message.term))
                .collect();
            message.set_entries(entries.into());
        }
        MessageType::MsgAppendResponse => {
            message.index = status.last_index.saturating_sub(chance.below(4));
            message.reject = chance.one_in(3);
            message.reject_hint = if message.reject { message.index } else { 0 };
        }
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
            message.term += 1;
            message.index = status.last_index;
            message.log_term = engine.store().term_at(message.index).unwrap_or(0);
        }
        MessageType::MsgRequestPreVoteResponse => message.term += 1,
        MessageType::MsgHeartbeat => message.commit = status.last_index,
        _ => {}
    }
    (from, message)
}

fn random_entry(chance: &mut Chance, index: u64, term: u64) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term) = (index, term);
    match chance.below(16) {
        0 => entry.set_entry_type(EntryType::EntryConfChangeV2),
        1 => {
            entry.set_entry_type(EntryType::EntryConfChange);
            let node = chance.below(6) as i32;
            let change = match chance.below(3) {
                0 => MemberChange::Remove(key(node)),
                is_voter => MemberChange::Set(Member { is_voter: is_voter == 1, ..voter(node) }),
            };
            entry.context = change.encode().into();
        }
        _ => entry.data = encode_records(&[record(index)]).into(),
    }
    entry
}

/// Spoils one field.
fn spoil(chance: &mut Chance, message: &mut Message) {
    let entries = message.entries.len();
    match chance.below(10) {
        0 => message.from = number(chance, message.from),
        1 => message.to = number(chance, message.to),
        2 => message.term = number(chance, message.term),
        3 => message.index = number(chance, message.index),
        4 => message.log_term = number(chance, message.log_term),
        5 => message.commit = number(chance, message.commit),
        6 => message.commit_term = number(chance, message.commit_term),
        7 => message.reject = !message.reject,
        8 => message.reject_hint = number(chance, message.reject_hint),
        _ if entries > 0 => {
            let entry = &mut message.mut_entries()[chance.index(entries)];
            if chance.one_in(2) {
                entry.index = number(chance, entry.index);
            } else {
                entry.term = number(chance, entry.term);
            }
        }
        _ => message.set_entries(vec![random_entry(chance, 1, 1)].into()),
    }
}

#[test]
fn no_message_makes_raft_panic() {
    let (mut taken, mut refused, mut leading) = (0_u32, 0_u32, 0_u32);
    for seed in 0..400 {
        let mut chance = Chance::new(seed);
        let mut engine = engine(&[1, 2, 3]);
        for step in 0..400 {
            match chance.below(10) {
                0 => (0..chance.below(25)).for_each(|_| engine.tick()),
                1 => {
                    let _ = engine.propose(step, &[record(step)]);
                }
                2 => {
                    let id = SnapshotId {
                        index: number(&mut chance, engine.status().last_index),
                        term: number(&mut chance, engine.status().term),
                    };
                    let term = number(&mut chance, engine.status().term);
                    let offer = SnapshotOffer { term, id, bytes: 1, crc: 0 };
                    if engine.wants(key(2), &offer) {
                        let nodes = [1, 2 + chance.below(3) as i32];
                        let members = MemberSet::founding(nodes.map(voter));
                        let snapshot = MetadataSnapshot::new(id, 0, members, Image::default());
                        let _ = engine.install(key(2), term, snapshot);
                    }
                }
                _ => {
                    let (from, mut message) = plausible_message(&mut chance, &engine);
                    let spoiled = if chance.one_in(2) { 0 } else { 1 + chance.below(2) };
                    (0..spoiled).for_each(|_| spoil(&mut chance, &mut message));
                    match engine.step(from, message) {
                        Ok(()) => taken += 1,
                        Err(_) => refused += 1,
                    }
                }
            }
            settle(&mut engine);
            leading += u32::from(engine.is_leader());
            if chance.one_in(40)
                && let Some(snapshot) = engine.make_snapshot()
            {
                engine.compact(snapshot);
            }
        }
    }
    assert!(taken > 10_000 && refused > 10_000 && leading > 1_000, "{taken} {refused} {leading}");
}
