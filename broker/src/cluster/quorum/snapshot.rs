//! A snapshot of the metadata: the members, and the records that make the image, with the place in the log that they
//! stand for.

use super::entry::{decode_records, encode_records};
use super::members::MemberSet;
use super::message::SnapshotId;
use bytes::Bytes;
use logmill_state::metadata::Image;
use logmill_wire::frame::quorum::{SNAPSHOT_HEADER_BYTES, SnapshotHeader, open_snapshot, seal_snapshot};

/// The largest snapshot that is taken over, in bytes.
pub(super) const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;

/// A snapshot, and its bytes.
#[derive(Clone, Debug)]
pub(super) struct MetadataSnapshot {
    pub id: SnapshotId,
    /// A digest of all entries up to there.
    pub digest: u64,
    pub members: MemberSet,
    pub image: Image,
    pub bytes: Bytes,
}

impl MetadataSnapshot {
    pub fn new(id: SnapshotId, digest: u64, members: MemberSet, image: Image) -> Self {
        let records = encode_records(image.to_records().collect::<Vec<_>>().iter());
        let header = SnapshotHeader { index: id.index, term: id.term, digest, ..SnapshotHeader::default() };
        let bytes = seal_snapshot(header, &members.encode(), &records).into();
        Self { id, digest, members, image, bytes }
    }

    /// Reads the bytes of a snapshot; what follows them is padding.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &Bytes) -> Result<Self, String> {
        let (header, members, records) =
            open_snapshot(bytes).map_err(|error| format!("the snapshot is not intact ({error:?})"))?;
        let end = SNAPSHOT_HEADER_BYTES + members.len() + records.len();
        let members = MemberSet::decode(members).ok_or("the snapshot's members are none")?;
        let mut image = Image::default();
        for record in decode_records(records)? {
            image.apply(&record).map_err(|error| error.to_string())?;
        }
        let id = SnapshotId { index: header.index, term: header.term };
        Ok(Self { id, digest: header.digest, members, image, bytes: bytes.slice(..end) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_state::metadata::Record;
    use logmill_wire::ids::Uuid;

    #[test]
    fn a_snapshot_is_read_back_without_its_padding() {
        let mut image = Image::default();
        image.apply(&Record::ClusterIdMinted { cluster_id: Uuid([7; 16]) }).unwrap();
        let id = SnapshotId { index: 12, term: 3 };
        let snapshot = MetadataSnapshot::new(id, 5, MemberSet::default(), image);
        let mut padded = snapshot.bytes.to_vec();
        padded.resize(4096, 0);
        let found = MetadataSnapshot::decode(&padded.into()).unwrap();
        assert_eq!((found.id, found.digest, &found.image), (id, 5, &snapshot.image));
        assert_eq!(found.bytes, snapshot.bytes);
        let mut rotten = snapshot.bytes.to_vec();
        rotten[50] ^= 1;
        assert!(MetadataSnapshot::decode(&rotten.into()).is_err());
    }
}
