//! A snapshot on its way: the follower asks for one piece after another, and begins again where it was after a loss.

use super::members::MemberKey;
use super::message::{PeerMessage, SnapshotId, SnapshotOffer};
use super::snapshot::{MetadataSnapshot, SNAPSHOT_BYTES_MAX};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What a follower has of a snapshot that it was offered.
pub(super) struct Download {
    pub from: MemberKey,
    pub offer: SnapshotOffer,
    bytes: Vec<u8>,
    /// Ticks without a piece.
    idle_ticks: u32,
}

/// What became of a piece.
pub(super) enum Progress {
    /// It was not the next one.
    None,
    /// More is to come.
    Going,
    /// All of it is there, and intact.
    Whole(Box<MetadataSnapshot>),
    /// It cannot be had, or is not what was offered.
    Failed,
}

impl Download {
    /// Begins; `None` if what is offered is impossible.
    pub fn begin(from: MemberKey, offer: SnapshotOffer) -> Option<Self> {
        let is_possible = offer.id.index > 0 && (1..=SNAPSHOT_BYTES_MAX).contains(&offer.bytes);
        is_possible.then(|| Self { from, offer, bytes: Vec::new(), idle_ticks: 0 })
    }

    /// The request for the next piece.
    pub fn request(&self) -> PeerMessage {
        PeerMessage::SnapshotFetch { id: self.offer.id, position: self.bytes.len() as u64 }
    }

    /// Counts a tick, and says whether to ask again; `None` once it is not worth it any more.
    pub fn tick(&mut self, ask_after: u32, give_up_after: u32) -> Option<bool> {
        self.idle_ticks += 1;
        (self.idle_ticks < give_up_after).then(|| self.idle_ticks.is_multiple_of(ask_after))
    }

    /// Takes a piece.
    pub fn take(
        &mut self,
        from: MemberKey,
        id: SnapshotId,
        position: u64,
        piece: Option<&Bytes>,
    ) -> Progress {
        if from != self.from || id != self.offer.id {
            return Progress::None;
        }
        let Some(piece) = piece else { return Progress::Failed };
        let room = self.offer.bytes - self.bytes.len() as u64;
        if position != self.bytes.len() as u64 || piece.is_empty() {
            return Progress::None;
        }
        if piece.len() as u64 > room {
            return Progress::Failed;
        }
        self.idle_ticks = 0;
        self.bytes.extend_from_slice(piece);
        if (self.bytes.len() as u64) < self.offer.bytes {
            return Progress::Going;
        }
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        if crc32c::crc32c(&bytes) != self.offer.crc {
            return Progress::Failed;
        }
        match MetadataSnapshot::decode(&bytes) {
            Ok(snapshot) if snapshot.id == id => Progress::Whole(Box::new(snapshot)),
            _ => Progress::Failed,
        }
    }
}

/// What a leader has offered.
#[derive(Default)]
pub(super) struct Uploads {
    /// The bytes that were offered last, and before that.
    kept: Vec<(SnapshotId, Bytes)>,
    /// By Raft id: ticks since the follower asked for a piece.
    idle_ticks: BTreeMap<u64, u32>,
}

impl Uploads {
    /// Notes that a snapshot was offered to a follower.
    pub fn offer(&mut self, term: u64, to: u64, snapshot: &MetadataSnapshot) -> SnapshotOffer {
        if self.kept.iter().all(|(id, _)| *id != snapshot.id) {
            self.kept.insert(0, (snapshot.id, snapshot.bytes.clone()));
            self.kept.truncate(2);
        }
        self.idle_ticks.insert(to, 0);
        let bytes = &snapshot.bytes;
        SnapshotOffer { term, id: snapshot.id, bytes: bytes.len() as u64, crc: crc32c::crc32c(bytes) }
    }

    /// The piece that a follower asks for.
    pub fn piece(&mut self, to: u64, id: SnapshotId, position: u64, piece_bytes: usize) -> PeerMessage {
        if let Some(ticks) = self.idle_ticks.get_mut(&to) {
            *ticks = 0;
        }
        let whole = self.kept.iter().find(|(kept, _)| *kept == id).map(|(_, bytes)| bytes);
        let bytes = whole.and_then(|whole| {
            let start = usize::try_from(position).ok().filter(|&start| start < whole.len())?;
            Some(whole.slice(start..whole.len().min(start + piece_bytes)))
        });
        PeerMessage::SnapshotChunk { id, position, bytes }
    }

    /// Counts a tick; returns the followers that have stopped asking.
    pub fn tick(&mut self, give_up_after: u32) -> Vec<u64> {
        for ticks in self.idle_ticks.values_mut() {
            *ticks += 1;
        }
        self.idle_ticks.extract_if(.., |_, ticks| *ticks >= give_up_after).map(|(to, _)| to).collect()
    }

    /// Forgets everything: the node does not lead any more.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.idle_ticks.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::members::MemberSet;
    use super::*;
    use logmill_state::metadata::Image;
    use logmill_wire::ids::{NodeId, Uuid};

    fn leader() -> MemberKey {
        MemberKey { node: NodeId(1), directory: Uuid([1; 16]) }
    }

    fn snapshot() -> MetadataSnapshot {
        MetadataSnapshot::new(SnapshotId { index: 9, term: 2 }, 0, MemberSet::default(), Image::default())
    }

    fn pieces(download: &mut Download, uploads: &mut Uploads, spoil: bool) -> Progress {
        loop {
            let PeerMessage::SnapshotFetch { id, position } = download.request() else {
                return Progress::None;
            };
            let PeerMessage::SnapshotChunk { id, position, bytes } = uploads.piece(7, id, position, 10)
            else {
                return Progress::None;
            };
            let bytes = bytes.map(|bytes| if spoil { Bytes::from(vec![0xff; bytes.len()]) } else { bytes });
            match download.take(leader(), id, position, bytes.as_ref()) {
                Progress::Going => {}
                end => return end,
            }
            assert!(
                matches!(download.take(leader(), id, position, bytes.as_ref()), Progress::None),
                "doubled"
            );
        }
    }

    #[test]
    fn pieces_make_a_whole() {
        let (mut uploads, snapshot) = (Uploads::default(), snapshot());
        let offer = uploads.offer(3, 7, &snapshot);
        let mut download = Download::begin(leader(), offer).unwrap();
        let Progress::Whole(found) = pieces(&mut download, &mut uploads, false) else { panic!("not whole") };
        assert_eq!(found.bytes, snapshot.bytes);
        let mut download = Download::begin(leader(), offer).unwrap();
        assert!(matches!(pieces(&mut download, &mut uploads, true), Progress::Failed));
        uploads.clear();
        let mut download = Download::begin(leader(), offer).unwrap();
        assert!(matches!(pieces(&mut download, &mut uploads, false), Progress::Failed), "it is gone");
    }

    #[test]
    fn impossible_offers_and_pieces_are_refused() {
        let offer = Uploads::default().offer(3, 7, &snapshot());
        assert!(Download::begin(leader(), SnapshotOffer { bytes: u64::MAX, ..offer }).is_none());
        assert!(Download::begin(leader(), SnapshotOffer { bytes: 0, ..offer }).is_none());
        let mut download = Download::begin(leader(), offer).unwrap();
        let stranger = MemberKey { node: NodeId(2), ..leader() };
        let piece = Bytes::from(vec![0; 4]);
        assert!(matches!(download.take(stranger, offer.id, 0, Some(&piece)), Progress::None));
        assert!(matches!(download.take(leader(), offer.id, 4, Some(&piece)), Progress::None));
        let long = Bytes::from(vec![0; offer.bytes as usize + 1]);
        assert!(matches!(download.take(leader(), offer.id, 0, Some(&long)), Progress::Failed));
    }

    #[test]
    fn silence_ends_a_transfer_on_both_sides() {
        let mut uploads = Uploads::default();
        let mut download = Download::begin(leader(), uploads.offer(3, 7, &snapshot())).unwrap();
        assert!(uploads.tick(2).is_empty());
        assert_eq!(uploads.tick(2), [7]);
        assert!(uploads.tick(2).is_empty());
        let asked: Vec<_> = (0..5).map(|_| download.tick(2, 5)).collect();
        assert_eq!(asked, [Some(false), Some(true), Some(false), Some(true), None]);
    }
}
