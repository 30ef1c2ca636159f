//! What a fetched record set holds.

use super::Position;
use crate::produce::frame::Stamp;
use logmill_wire::compression::Codec;
use logmill_wire::record_batch::{BatchView, crc_matches, whole_batches};

/// When a batch was due, as far as it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The batch carries a stamp.
    Stamped(Stamp),
    /// A compressed batch: its time in milliseconds since the epoch.
    AtMs(i64),
}

/// What came with one record set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) due: Vec<Due>,
}

/// Moves a position over the complete batches of a record set; returns what they hold from the position on.
pub(super) fn advance(
    position: &mut Position,
    set: &[u8],
    check_crc: bool,
    look_for_due: bool,
) -> Result<Taken, String> {
    let mut taken = Taken::default();
    for batch in whole_batches(set) {
        let batch = batch.map_err(|error| error.to_string())?;
        let header = batch.header();
        let (base, last) = (header.base_offset.0, header.last_offset().0);
        // The first batch may start before the position; a later one starts where the one before it ended.
        if base > position.next || last < position.next {
            return Err(format!("offsets {base} to {last} came in the place of {}", position.next));
        }
        if check_crc && !crc_matches(batch.bytes()) {
            return Err(format!("the batch at offset {base} has a wrong CRC"));
        }
        taken.records += (last - position.next).unsigned_abs() + 1;
        taken.bytes += batch.bytes().len() as u64;
        if look_for_due {
            taken.due.extend(due(&batch));
        }
        position.next = last + 1;
    }
    Ok(taken)
}

fn due(batch: &BatchView<'_>) -> Option<Due> {
    if batch.codec().ok()? != Codec::None {
        return Some(Due::AtMs(batch.header().base_timestamp.0));
    }
    let contents = batch.contents(0).ok()?;
    let record = contents.records().next()?.ok()?;
    Stamp::of_value(record.value?).map(Due::Stamped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::ids::{Offset, TimestampMs};
    use logmill_wire::record_batch::BatchBuilder;

    fn batch(base_offset: i64, records: usize, codec: Codec) -> Vec<u8> {
        let mut builder = BatchBuilder::new().base_offset(Offset(base_offset)).codec(codec);
        for number in 0..records as u8 {
            let value = [&[number; 8][..], &[1; 8]].concat();
            builder.append(TimestampMs(1), None, Some(&value), &[]);
        }
        builder.finish().unwrap()
    }

    fn at(next: i64) -> Position {
        Position { next, first: 0, end: None }
    }

    #[test]
    fn missing_and_damaged_batches_are_found() {
        let plain = |base, records| batch(base, records, Codec::None);
        let set = [plain(10, 3), plain(13, 2)].concat();
        let mut position = at(11);
        let taken = advance(&mut position, &set, true, false).unwrap();
        assert_eq!((taken.records, taken.bytes, position.next), (4, set.len() as u64, 15));
        let cut = advance(&mut at(10), &set[..set.len() - 1], true, false).unwrap();
        assert_eq!(cut.records, 3);
        let gap = [plain(10, 3), plain(14, 2)].concat();
        assert!(advance(&mut at(10), &gap, true, false).unwrap_err().contains("place of 13"));
        assert!(advance(&mut at(15), &set, true, false).is_err());
        let mut damaged = set;
        let end = damaged.len() - 1;
        damaged[end] ^= 1;
        assert!(advance(&mut at(10), &damaged, true, false).unwrap_err().contains("CRC"));
        assert!(advance(&mut at(10), &damaged, false, false).is_ok());
    }

    #[test]
    fn due_times_are_those_of_first_records() {
        let set = [batch(0, 2, Codec::None), batch(2, 1, Codec::Lz4)].concat();
        let taken = advance(&mut at(0), &set, true, true).unwrap();
        let stamp = Stamp { run: 0, due_ns: 0x0101_0101_0101_0101 };
        assert_eq!(taken.due, [Due::Stamped(stamp), Due::AtMs(1)]);
    }
}
