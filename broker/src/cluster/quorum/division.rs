//! Changes of the metadata that are divided because one entry does not hold them.

use super::entry::encode_records;
use logmill_state::metadata::Record;

/// See [`Quorum::pieces`](super::Quorum::pieces).
pub(super) fn divide(changes: Vec<Vec<Record>>, bytes_max: usize) -> (Vec<Vec<Record>>, Vec<usize>) {
    let (mut pieces, mut bytes, mut ends) = (Vec::<Vec<Record>>::new(), 0, Vec::new());
    for change in changes {
        let lengths: Vec<usize> = change.iter().map(|record| encode_records([record]).len()).collect();
        let mut begins = bytes + lengths.iter().sum::<usize>() > bytes_max;
        for (record, length) in change.into_iter().zip(lengths) {
            begins |= bytes + length > bytes_max;
            match pieces.last_mut().filter(|_| !begins) {
                Some(piece) => piece.push(record),
                None => {
                    pieces.push(vec![record]);
                    bytes = 0;
                }
            }
            begins = false;
            bytes += length;
        }
        ends.push(pieces.len());
    }
    (pieces, ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::ids::NodeId;

    fn record(next: i64) -> Record {
        Record::ProducerIdsAllocated { broker_id: NodeId(1), next_producer_id: next }
    }

    #[test]
    fn what_fits_stays_together_and_the_order_stays() {
        let length = encode_records([&record(1)]).len();
        let changes = |sizes: &[i64]| -> Vec<Vec<Record>> {
            let mut next = 0;
            let mut mint = || {
                next += 1;
                record(next)
            };
            sizes.iter().map(|&size| (0..size).map(|_| mint()).collect()).collect()
        };
        for (sizes, pieces, ends) in [
            (&[][..], &[][..], &[][..]),
            (&[0], &[], &[0]),
            (&[1, 2], &[3], &[1, 1]),
            (&[2, 2], &[2, 2], &[1, 2]),
            (&[1, 7, 1, 0, 3], &[1, 3, 3, 2, 3], &[1, 4, 4, 4, 5]),
        ] {
            let divided = divide(changes(sizes), length * 3 + 1);
            assert_eq!(divided.0.iter().map(Vec::len).collect::<Vec<_>>(), pieces, "{sizes:?}");
            assert_eq!(divided.1, ends, "{sizes:?}");
            assert_eq!(divided.0.concat(), changes(sizes).concat());
        }
        assert_eq!(divide(changes(&[1, 1]), 1).1, [1, 2], "each alone");
    }
}
