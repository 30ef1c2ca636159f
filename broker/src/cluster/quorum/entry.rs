//! The log's entries: metadata records, or a change of the members. Both are in our own bytes, on disk and between
//! nodes.

use super::members::MemberChange;
use bytes::Bytes;
use logmill_state::metadata::Record;
use logmill_wire::frame::FrameError;
use logmill_wire::frame::quorum::{ITEM_MEMBERS, ITEM_RECORDS, ItemHeader, append_item, items};
use raft::eraftpb::{Entry, EntryType};

/// The bytes of records: each its length (u32) and what [`Record::encode`] makes of it.
pub(super) fn encode_records<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<u8> {
    let mut to = Vec::new();
    for record in records {
        let bytes = record.encode();
        to.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        to.extend_from_slice(&bytes);
    }
    to
}

/// Reads what [`encode_records`] wrote.
///
/// # Errors
/// What is wrong with the bytes.
pub(super) fn decode_records(mut bytes: &[u8]) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk().ok_or("records end too early")?;
        let length = u32::from_be_bytes(*length) as usize;
        let (record, rest) = rest.split_at_checked(length).ok_or("records end too early")?;
        records.push(Record::decode(record).map_err(|error| error.to_string())?);
        bytes = rest;
    }
    Ok(records)
}

/// Appends a log entry as an item. Of a change of the members only our own bytes go out, never those that Raft made.
pub(super) fn append_entry(to: &mut Vec<u8>, entry: &Entry) {
    let (kind, bytes) = match entry.get_entry_type() {
        EntryType::EntryNormal => (ITEM_RECORDS, &entry.data),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => (ITEM_MEMBERS, &entry.context),
    };
    append_item(
        to,
        ItemHeader { kind, term: entry.term, index: entry.index, ..ItemHeader::default() },
        bytes,
    );
}

/// Makes an entry of an item; `None` if the item is something else, or its bytes are.
pub(super) fn entry_of(header: &ItemHeader, bytes: &[u8]) -> Option<Entry> {
    let mut entry = Entry::default();
    (entry.term, entry.index) = (header.term, header.index);
    match header.kind {
        ITEM_RECORDS if header.vote == 0 => {
            decode_records(bytes).ok()?;
            entry.data = Bytes::copy_from_slice(bytes);
        }
        ITEM_MEMBERS if header.vote == 0 => {
            MemberChange::decode(bytes)?;
            entry.set_entry_type(EntryType::EntryConfChange);
            entry.context = Bytes::copy_from_slice(bytes);
        }
        _ => return None,
    }
    Some(entry)
}

/// The entries of a frame's payload.
///
/// # Errors
/// If it holds anything else.
pub(super) fn decode_entries(payload: &[u8], count: u32) -> Result<Vec<Entry>, FrameError> {
    let mut entries = Vec::new();
    for item in items(payload) {
        let (header, bytes) = item?;
        entries.push(entry_of(&header, bytes).ok_or(FrameError::InvalidField)?);
    }
    if entries.len() == count as usize { Ok(entries) } else { Err(FrameError::InvalidField) }
}
