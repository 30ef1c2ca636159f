//! What of a log goes to its followers: whole batches up to the log's end, durable or not.

use super::LogError;
use super::appender::Log;
use crate::runtime::Runtime;
use crate::runtime::buffer::ChunkView;
use logmill_wire::frame::replication::BATCH_START_BYTES;
use logmill_wire::ids::Offset;
use logmill_wire::record_batch::{BatchHeader, HEADER_BYTES};
use std::rc::Rc;

/// Whole batches, back to back.
#[derive(Debug)]
pub struct WholeBatches {
    /// Where they lie.
    pub views: Vec<ChunkView>,
    /// Their bytes.
    pub bytes: u32,
    /// CRC-32C over the start of each of them, as a push has it.
    pub starts_crc: u32,
    /// The first one's base offset.
    pub first: Offset,
    /// The offset after the last record.
    pub end: Offset,
}

/// What is in memory from an offset on.
#[derive(Debug)]
pub enum InMemory {
    /// There are no batches there.
    Nothing,
    /// These.
    Batches(WholeBatches),
    /// What is there is on disk, or nobody knows where.
    OnDisk,
}

impl<R: Runtime> Log<R> {
    /// The offset at which the oldest segment begins; `None` if the log has to be opened to know it.
    #[must_use]
    pub fn oldest_offset(&self) -> Option<Offset> {
        let inner = self.inner.borrow();
        match inner.segments.front() {
            Some(first) => Some(first.base),
            None if self.opened.get() || !self.exists.get() => Some(inner.closed_end.0),
            None => None,
        }
    }

    /// Opens the log, unless it was never appended to.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub async fn open_if_stored(self: &Rc<Self>) -> Result<(), LogError> {
        if self.exists.get() { self.open().await } else { Ok(()) }
    }

    /// The batches that are in memory from the one that holds `from`, or the next one, on: at most `max_bytes` of them,
    /// but at least one, all of one segment.
    #[must_use]
    pub fn batches_in_memory(&self, from: Offset, max_bytes: usize) -> InMemory {
        let inner = self.inner.borrow();
        let number = inner.segments.partition_point(|segment| segment.base <= from).saturating_sub(1);
        let (Some(segment), next) = (inner.segments.get(number), inner.segments.get(number + 1)) else {
            return if self.oldest_offset().is_some() { InMemory::Nothing } else { InMemory::OnDisk };
        };
        let end = segment.end();
        let known = if from <= segment.base {
            Some(0)
        } else if (inner.readable.0, inner.readable.2) == (segment.base, from) {
            Some(inner.readable.1)
        } else {
            let before = inner.marks.partition_point(|mark| mark.next_offset < from);
            let mark = inner.marks.iter().nth(before);
            mark.filter(|mark| (mark.segment_base, mark.next_offset) == (segment.base, from))
                .map(|mark| mark.end)
                .or_else(|| segment.index.as_ref().map(|index| index.floor_of_offset(from)))
        };
        let Some(mut position) = known else { return InMemory::OnDisk };
        while position < end {
            if position < segment.tail.readable_from() {
                return InMemory::OnDisk;
            }
            let mut head = [0; HEADER_BYTES];
            segment.tail.copy_out(position, &mut head);
            let header = BatchHeader::parse(&head);
            let Some((header, bytes)) = header.and_then(|header| Some((header, header.total_bytes()?)))
            else {
                return InMemory::OnDisk;
            };
            if header.last_offset() >= from {
                let wanted = position.saturating_add(max_bytes.max(bytes) as u64).min(end);
                return measure(segment.tail.views(position..wanted))
                    .map_or(InMemory::OnDisk, InMemory::Batches);
            }
            position += bytes as u64;
        }
        // What follows stands at the beginning of the next segment, which may not be in memory.
        if next.is_some_and(|next| next.end() > 0) { InMemory::OnDisk } else { InMemory::Nothing }
    }

    /// As [`Log::batches_in_memory`], wherever they are.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub async fn batches_from(
        self: &Rc<Self>,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Option<WholeBatches>, LogError> {
        let _busy = self.hold();
        self.open_if_stored().await?;
        loop {
            let replacements = self.replacements();
            let outcome = self.batches_from_once(from, max_bytes).await;
            if replacements == self.replacements() {
                return outcome;
            }
        }
    }

    async fn batches_from_once(
        self: &Rc<Self>,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Option<WholeBatches>, LogError> {
        let bases: Vec<Offset> = {
            let inner = self.inner.borrow();
            let first = inner.segments.partition_point(|segment| segment.base <= from).saturating_sub(1);
            inner.segments.iter().skip(first).map(|segment| segment.base).collect()
        };
        for base in bases {
            let readable = self.all_of(base)?;
            let Some(found) = self.find_offset(readable, from).await? else { continue };
            let wanted = found.position.saturating_add(found.bytes.max(max_bytes as u64)).min(readable.limit);
            let views = self.bytes_of(readable, found.position..wanted, found.bytes).await?;
            let whole = measure(views);
            return whole.map(Some).ok_or_else(|| LogError::Damaged("a stored batch is cut short".into()));
        }
        Ok(None)
    }
}

/// The whole batches that the views begin with; `None` if there is not one.
fn measure(views: Vec<ChunkView>) -> Option<WholeBatches> {
    let total: usize = views.iter().map(|view| view.len()).sum();
    let (mut bytes, mut starts_crc, mut first, mut end) = (0, 0, None, Offset(0));
    // The view in which the batch begins, and where.
    let (mut view, mut at) = (0, 0);
    loop {
        while views.get(view).is_some_and(|part| at >= part.len()) {
            at -= views.get(view).map_or(0, |part| part.len());
            view += 1;
        }
        let Some(head) = head_at(&views, view, at) else { break };
        let header = BatchHeader::parse(&head);
        let Some((header, length)) = header.and_then(|header| Some((header, header.total_bytes()?))) else {
            break;
        };
        if bytes + length > total {
            break;
        }
        starts_crc = crc32c::crc32c_append(starts_crc, &head[..BATCH_START_BYTES]);
        first.get_or_insert(header.base_offset);
        end = header.next_offset();
        bytes += length;
        at += length;
    }
    let mut left = bytes;
    let mut kept = Vec::with_capacity(views.len());
    for view in views {
        let length = view.len().min(left);
        if length > 0 {
            kept.push(view.slice(0..length));
        }
        left -= length;
    }
    Some(WholeBatches { views: kept, bytes: u32::try_from(bytes).ok()?, starts_crc, first: first?, end })
}

/// A header that begins in one view, and may end in the next ones.
fn head_at(views: &[ChunkView], view: usize, mut at: usize) -> Option<[u8; HEADER_BYTES]> {
    let mut head = [0; HEADER_BYTES];
    let mut filled = 0;
    for part in views.get(view..)? {
        let bytes = part.get(at..)?;
        let count = bytes.len().min(HEADER_BYTES - filled);
        head[filled..filled + count].copy_from_slice(bytes.get(..count)?);
        filled += count;
        at = 0;
        if filled == HEADER_BYTES {
            return Some(head);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::buffer::Chunk;
    use logmill_wire::frame::replication::PushedPartition;
    use logmill_wire::ids::{LeaderEpoch, PartitionIndex, TimestampMs, TopicPartition, Uuid};
    use logmill_wire::record_batch::BatchBuilder;

    fn batch(offset: i64, bytes: usize) -> Vec<u8> {
        let mut batch = BatchBuilder::new().base_offset(Offset(offset));
        batch.append(TimestampMs(1), None, Some(&vec![7; bytes]), &[]);
        batch.finish().unwrap()
    }

    #[test]
    fn whole_batches_are_found_wherever_the_views_part_them() {
        let batches = [batch(3, 10), batch(4, 100), batch(5, 30)];
        let all = batches.concat();
        let whole = batches[0].len() + batches[1].len();
        for split in 0..all.len() {
            for end in [whole, whole + 1, all.len() - 1] {
                let views: Vec<ChunkView> = [&all[..split.min(end)], &all[split.min(end)..end]]
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .map(|part| {
                        let mut chunk = Chunk::with_capacity(part.len());
                        chunk.append(part);
                        chunk.view_all()
                    })
                    .collect();
                let found = measure(views).unwrap();
                assert_eq!((found.bytes as usize, found.first, found.end), (whole, Offset(3), Offset(5)));
                let joined: Vec<u8> = found.views.iter().flat_map(|view| view.to_vec()).collect();
                assert_eq!(joined, all[..whole]);
                let entry = PushedPartition {
                    partition: TopicPartition { topic_id: Uuid([1; 16]), partition: PartitionIndex(0) },
                    leader_epoch: LeaderEpoch(1),
                    from: Offset(3),
                    high_watermark: Offset(0),
                    log_start: Offset(0),
                    first_offset: Offset(0),
                    batch_bytes: found.bytes,
                    batch_starts_crc: found.starts_crc,
                };
                entry.check_batches(&joined).unwrap();
            }
        }
        assert!(measure(Vec::new()).is_none());
    }
}
