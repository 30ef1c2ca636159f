//! Compaction (`cleanup.policy=compact`): which part of a log is worth it, and what stays of a batch.
//!
//! | record | stays |
//! |---|---|
//! | beyond what the map of keys has seen | yes |
//! | with an earlier offset than its key's last | no |
//! | the last of its key, with a value | yes |
//! | the last of its key, a tombstone | until the delete horizon of its batch (KIP-534), which the first compaction sets |
//! | without a key | no |
//!
//! Control batches stay as they are, and so does a batch whose records cannot be read: its checksum says that it is as
//! its producer sent it. Batches of transactions end the part that is compacted, so nothing is decided about records
//! whose transaction may have been aborted.

use super::key_map::KeyTable;
use super::segments::LogBounds;
use super::settings::CleanupSettings;
use logmill_wire::ids::{Offset, TimestampMs};
use logmill_wire::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use logmill_wire::record_batch::{BatchError, BatchView, Contents, Record, batches, emptied, rewrite};
use std::collections::BTreeSet;
use std::ops::Range;

/// The part of a log that is to be compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// The first offset that was never compacted.
    pub first_dirty: Offset,
    /// The end of what may be.
    pub end: Offset,
}

/// A segment that nothing more is appended to, and of which the journal knows nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedSegment {
    /// Its base offset.
    pub base: Offset,
    /// The base offset of the next segment.
    pub next_offset: Offset,
    /// Its size in bytes.
    pub bytes: u64,
    /// The age of its records, once a plan has asked for it.
    pub times: Option<SegmentTimes>,
}

/// Between which times the records of a segment were written, as far as their timestamps tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentTimes {
    /// The largest timestamp of the first batch.
    pub first: TimestampMs,
    /// The largest timestamp of all.
    pub largest: TimestampMs,
}

/// The next step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactionStep {
    /// The times of the segment with this number must be known.
    Look(usize),
    /// This is to be done.
    Do(Compaction),
    /// Nothing is to be done, and until then nothing will be, unless a segment is closed or the settings change.
    Rest(TimestampMs),
}

/// What of a log is to be compacted. `segments` come oldest first; everything before `cleaned_to` was compacted before.
///
/// As in Kafka, the share of what is dirty decides (`min.cleanable.dirty.ratio`), or that a dirty segment begins with
/// what is older than `max.compaction.lag.ms`; a segment with what is younger than `min.compaction.lag.ms` ends the
/// part that may be compacted.
#[must_use]
pub fn plan_compaction(
    segments: &[ClosedSegment],
    settings: &CleanupSettings,
    bounds: LogBounds,
    cleaned_to: Offset,
    now: TimestampMs,
) -> CompactionStep {
    let mut rest_until = TimestampMs(i64::MAX);
    if !settings.compact {
        return CompactionStep::Rest(rest_until);
    }
    let first_dirty = cleaned_to.max(bounds.start);
    let is_clean = |segment: &&ClosedSegment| segment.next_offset <= first_dirty;
    let clean_bytes: u64 = segments.iter().filter(is_clean).map(|segment| segment.bytes).sum();
    let has_lags = settings.min_compaction_lag_ms > 0 || settings.max_compaction_lag_ms < i64::MAX;
    let (mut dirty_bytes, mut end, mut is_overdue) = (0, first_dirty, false);
    for (number, segment) in segments.iter().enumerate() {
        if is_clean(&segment) {
            continue;
        }
        if segment.next_offset > bounds.high_watermark {
            break;
        }
        if has_lags {
            let Some(times) = segment.times else { return CompactionStep::Look(number) };
            let ripe_at = TimestampMs(times.largest.0.saturating_add(settings.min_compaction_lag_ms));
            if settings.min_compaction_lag_ms > 0 && ripe_at > now {
                rest_until = rest_until.min(ripe_at);
                break;
            }
            let due_at = TimestampMs(times.first.0.saturating_add(settings.max_compaction_lag_ms));
            is_overdue |= due_at < now;
            rest_until = rest_until.min(due_at);
        }
        dirty_bytes += segment.bytes;
        end = segment.next_offset;
    }
    let ratio = dirty_bytes as f64 / (clean_bytes + dirty_bytes).max(1) as f64;
    if dirty_bytes > 0 && (ratio > settings.min_cleanable_dirty_ratio || is_overdue) {
        return CompactionStep::Do(Compaction { first_dirty, end });
    }
    CompactionStep::Rest(rest_until)
}

/// Which neighbours become one segment: as many as have no more than `segment_bytes` together, before what goes of
/// them, so that what is left fits. The span of offsets stays one that Kafka's own indexes can express.
#[must_use]
pub fn group_segments(segments: &[ClosedSegment], segment_bytes: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let (mut bytes, mut base) = (0_u64, Offset(0));
    for (number, segment) in segments.iter().enumerate() {
        let together = bytes.saturating_add(segment.bytes);
        let span = segment.next_offset.0.saturating_sub(base.0);
        match groups.last_mut() {
            Some(group) if together <= segment_bytes && span <= i64::from(i32::MAX) => {
                group.end = number + 1;
                bytes = together;
            }
            _ => {
                groups.push(number..number + 1);
                (bytes, base) = (segment.bytes, segment.base);
            }
        }
    }
    groups
}

/// What one pass knows of a part of a log: the last offset of each key, up to its end.
#[derive(Debug)]
pub struct KeyMap {
    table: KeyTable,
    end: Offset,
    is_closed: bool,
}

impl KeyMap {
    /// An empty map of what comes from `from` on, in at most `bytes_max` bytes; `secret` must be unpredictable.
    #[must_use]
    pub fn new(from: Offset, bytes_max: usize, secret: [u64; 2]) -> Self {
        Self { table: KeyTable::new(bytes_max, secret), end: from, is_closed: false }
    }

    /// The end of what the map has seen.
    #[must_use]
    pub const fn end(&self) -> Offset {
        self.end
    }

    /// Keys in the map.
    #[must_use]
    pub const fn keys(&self) -> usize {
        self.table.keys()
    }

    /// Whether the map takes nothing more: it is full, or transactions begin.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Takes note that there is nothing more before `end`; unless the map was closed before.
    pub fn note_end(&mut self, end: Offset) {
        if !self.is_closed {
            self.end = self.end.max(end);
        }
    }

    /// Notes the keys of whole batches, which come in the order of the log, up to `end`. What the map has seen is
    /// passed over. A map may become full within a batch; then it ends there.
    pub fn note(&mut self, bytes: &[u8], end: Offset) {
        for batch in batches(bytes).map_while(Result::ok) {
            let header = batch.header();
            if header.next_offset() <= self.end {
                continue;
            }
            if self.is_closed || header.next_offset() > end || is_of_transaction(&batch) {
                self.is_closed = true;
                return;
            }
            if !header.attributes.is_control() && !self.note_records(&batch) {
                self.is_closed = true;
                return;
            }
            self.end = header.next_offset();
        }
    }

    /// False if the map is full; its end is then where it became so.
    fn note_records(&mut self, batch: &BatchView<'_>) -> bool {
        let Some(contents) = contents_of(batch) else { return true };
        // Half of a batch that cannot be read to its end must not supersede anything.
        let Some(records) = records_of(&contents) else { return true };
        for record in records {
            let offset = record.offset(batch.header());
            if let Some(key) = record.key
                && offset >= self.end
                && !self.table.put(key, offset)
            {
                self.end = offset;
                return false;
            }
        }
        true
    }

    /// Whether a record is the last of its key, as far as the map knows.
    fn is_last(&self, key: &[u8], offset: Offset) -> bool {
        self.table.get(key).is_none_or(|last| offset >= last)
    }
}

fn is_of_transaction(batch: &BatchView<'_>) -> bool {
    let attributes = batch.header().attributes;
    attributes.is_transactional() && !attributes.is_control()
}

fn contents_of<'a>(batch: &BatchView<'a>) -> Option<Contents<'a>> {
    batch.contents(DECOMPRESSED_BATCH_BYTES_MAX).ok()
}

fn records_of<'a>(contents: &'a Contents<'_>) -> Option<Vec<Record<'a>>> {
    contents.records().collect::<Result<_, _>>().ok()
}

/// What decides about a batch besides its keys.
#[derive(Clone, Debug)]
pub struct CompactionRules {
    /// The time of this compaction.
    pub now: TimestampMs,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// The offsets of the producers' last records: their batches stay, if need be without records, for the sequence
    /// goes on from them.
    pub last_of_producers: BTreeSet<Offset>,
}

/// What stays of whole batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// The batches.
    pub bytes: Vec<u8>,
    /// Whether anything is not as it was.
    pub is_changed: bool,
}

/// What stays of a batch.
enum Kept {
    All,
    Nothing,
    Changed(Vec<u8>),
}

/// What stays of whole batches.
///
/// # Errors
/// A [`BatchError`] if a batch's header is damaged, or what is left of one cannot be compressed.
pub fn compact_batches(bytes: &[u8], map: &KeyMap, rules: &CompactionRules) -> Result<Compacted, BatchError> {
    let mut compacted = Compacted { bytes: Vec::with_capacity(bytes.len()), is_changed: false };
    for batch in batches(bytes) {
        let batch = batch?;
        let kept = compact_batch(&batch, map, rules)?;
        compacted.is_changed |= !matches!(kept, Kept::All);
        match kept {
            Kept::All => compacted.bytes.extend_from_slice(batch.bytes()),
            Kept::Changed(changed) => compacted.bytes.extend_from_slice(&changed),
            Kept::Nothing => {}
        }
    }
    Ok(compacted)
}

fn compact_batch(batch: &BatchView<'_>, map: &KeyMap, rules: &CompactionRules) -> Result<Kept, BatchError> {
    let header = batch.header();
    if header.attributes.is_control() || is_of_transaction(batch) || header.base_offset >= map.end {
        return Ok(Kept::All);
    }
    let Some(contents) = contents_of(batch) else { return Ok(Kept::All) };
    let Some(mut records) = records_of(&contents) else { return Ok(Kept::All) };
    let has_horizon = header.attributes.has_delete_horizon();
    let tombstones_go = has_horizon && rules.now >= header.base_timestamp;
    let before = records.len();
    let mut has_tombstones = false;
    records.retain(|record| {
        let offset = record.offset(header);
        if offset >= map.end {
            return true;
        }
        let Some(key) = record.key else { return false };
        let stays = map.is_last(key, offset) && (record.value.is_some() || !tombstones_go);
        has_tombstones |= stays && record.value.is_none();
        stays
    });
    if records.is_empty() {
        // The batch at the end of the pass shows consumers and other readers that there is nothing between.
        let must_stay = header.next_offset() == map.end
            || (header.producer_id.0 >= 0 && rules.last_of_producers.contains(&header.last_offset()));
        return Ok(match must_stay {
            true if before == 0 => Kept::All,
            true => Kept::Changed(emptied(batch)?),
            false => Kept::Nothing,
        });
    }
    // Of a batch that the pass has seen in part, the other tombstones have superseded nothing yet.
    let sets_horizon = has_tombstones && !has_horizon && header.next_offset() <= map.end;
    if records.len() == before && !sets_horizon {
        return Ok(Kept::All);
    }
    let horizon = TimestampMs(rules.now.0.saturating_add(rules.delete_retention_ms));
    rewrite(batch, &records, sets_horizon.then_some(horizon)).map(Kept::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;
    const NOW: TimestampMs = TimestampMs(100 * DAY_MS);

    /// A segment whose records were all written so long ago.
    fn segment(base: i64, next_offset: i64, bytes: u64, age_ms: i64) -> ClosedSegment {
        let at = TimestampMs(NOW.0 - age_ms);
        ClosedSegment {
            base: Offset(base),
            next_offset: Offset(next_offset),
            bytes,
            times: Some(SegmentTimes { first: at, largest: at }),
        }
    }

    fn compacted() -> CleanupSettings {
        CleanupSettings { compact: true, delete: false, ..CleanupSettings::KEEP_ALL }
    }

    fn plan(
        segments: &[ClosedSegment],
        settings: &CleanupSettings,
        high: i64,
        cleaned: i64,
    ) -> Option<(i64, i64)> {
        let bounds = LogBounds { start: Offset(0), high_watermark: Offset(high) };
        match plan_compaction(segments, settings, bounds, Offset(cleaned), NOW) {
            CompactionStep::Do(compaction) => Some((compaction.first_dirty.0, compaction.end.0)),
            CompactionStep::Rest(_) => None,
            CompactionStep::Look(number) => panic!("segment {number} has its timestamp"),
        }
    }

    #[test]
    fn a_log_is_compacted_once_enough_of_it_is_dirty() {
        let log = [segment(0, 10, 100, 50), segment(10, 20, 100, 40), segment(20, 30, 100, 30)];
        assert_eq!(plan(&log, &compacted(), 30, 0), Some((0, 30)));
        assert_eq!(plan(&log, &compacted(), 30, 10), Some((10, 30)));
        assert_eq!(plan(&log, &compacted(), 30, 20), None, "a third is not more than a half");
        assert_eq!(plan(&log, &compacted(), 30, 30), None);
        let eager = CleanupSettings { max_compaction_lag_ms: 29, ..compacted() };
        assert_eq!(plan(&log, &eager, 30, 20), Some((20, 30)), "it must not wait for longer");
        assert_eq!(plan(&log, &CleanupSettings::KEEP_ALL, 30, 0), None);
    }

    #[test]
    fn compaction_ends_at_the_high_watermark_and_before_what_is_young() {
        let log = [segment(0, 10, 100, 50), segment(10, 20, 100, 40), segment(20, 30, 100, 30)];
        assert_eq!(plan(&log, &compacted(), 29, 0), Some((0, 20)));
        assert_eq!(plan(&log, &compacted(), 9, 0), None);
        let patient = CleanupSettings { min_compaction_lag_ms: 40, ..compacted() };
        assert_eq!(plan(&log, &patient, 30, 0), Some((0, 20)));
    }

    #[test]
    fn a_plan_says_how_long_it_holds_and_asks_for_ages_only_if_they_count() {
        let bounds = LogBounds { start: Offset(0), high_watermark: Offset(30) };
        let step = |segments: &[ClosedSegment], settings: &CleanupSettings, cleaned| {
            plan_compaction(segments, settings, bounds, Offset(cleaned), NOW)
        };
        let unread = [ClosedSegment { times: None, ..segment(0, 10, 100, 0) }];
        assert_eq!(
            step(&unread, &compacted(), 0),
            CompactionStep::Do(Compaction { first_dirty: Offset(0), end: Offset(10) })
        );
        assert_eq!(step(&unread, &compacted(), 10), CompactionStep::Rest(TimestampMs(i64::MAX)));
        let patient = CleanupSettings { min_compaction_lag_ms: 40, ..compacted() };
        assert_eq!(step(&unread, &patient, 0), CompactionStep::Look(0));
        let young = [segment(0, 10, 100, 30)];
        assert_eq!(step(&young, &patient, 0), CompactionStep::Rest(TimestampMs(NOW.0 + 10)));
        let eager = CleanupSettings { max_compaction_lag_ms: 50, ..compacted() };
        let log = [segment(0, 10, 900, 60), segment(10, 20, 100, 30)];
        assert_eq!(step(&log, &eager, 10), CompactionStep::Rest(TimestampMs(NOW.0 + 20)));
        // What a segment begins with must not wait for longer, however young the rest is.
        let mut log = log;
        log[1].times = Some(SegmentTimes { first: TimestampMs(NOW.0 - 51), largest: NOW });
        assert_eq!(
            step(&log, &eager, 10),
            CompactionStep::Do(Compaction { first_dirty: Offset(10), end: Offset(20) })
        );
    }

    #[test]
    fn neighbours_are_joined_up_to_the_size_of_a_segment() {
        let sizes = [100, 40, 40, 30, 10, 200, 1, 1];
        let mut log: Vec<_> =
            (0..).zip(sizes).map(|(at, bytes)| segment(at * 10, at * 10 + 10, bytes, 0)).collect();
        assert_eq!(group_segments(&log, 100), [0..1, 1..3, 3..5, 5..6, 6..8]);
        assert_eq!(group_segments(&log, 421), [0..7, 7..8]);
        assert!(group_segments(&[], 100).is_empty());
        log[7].next_offset = Offset(1 << 32);
        assert_eq!(group_segments(&log, 1 << 20), [0..7, 7..8]);
    }

    fn batch(base: i64, records: &[(&str, Option<&str>)]) -> Vec<u8> {
        let mut builder = logmill_wire::record_batch::BatchBuilder::new().base_offset(Offset(base));
        for (key, value) in records {
            let key = (!key.is_empty()).then_some(key.as_bytes());
            builder.append(NOW, key, value.map(str::as_bytes), &[]);
        }
        builder.finish().unwrap()
    }

    fn rules(now: i64) -> CompactionRules {
        CompactionRules {
            now: TimestampMs(now),
            delete_retention_ms: DAY_MS,
            last_of_producers: BTreeSet::new(),
        }
    }

    fn offsets(bytes: &[u8]) -> Vec<i64> {
        let mut offsets = Vec::new();
        for batch in batches(bytes) {
            let batch = batch.unwrap();
            for record in batch.contents(1 << 20).unwrap().records() {
                offsets.push(record.unwrap().offset(batch.header()).0);
            }
        }
        offsets
    }

    fn map_of(log: &[u8], from: i64, end: i64) -> KeyMap {
        let mut map = KeyMap::new(Offset(from), 1 << 20, [5, 6]);
        map.note(log, Offset(end));
        map.note_end(Offset(end));
        map
    }

    fn compact(log: &[u8], map: &KeyMap, rules: &CompactionRules) -> (Vec<u8>, bool) {
        let Compacted { bytes, is_changed } = compact_batches(log, map, rules).unwrap();
        (bytes, is_changed)
    }

    #[test]
    fn the_last_record_of_each_key_stays() {
        let log = [
            batch(0, &[("a", Some("1")), ("b", Some("1")), ("a", Some("2"))]),
            batch(3, &[("b", Some("2"))]),
        ]
        .concat();
        let map = map_of(&log, 0, 4);
        assert_eq!((map.end(), map.keys()), (Offset(4), 2));
        let (kept, is_changed) = compact(&log, &map, &rules(NOW.0));
        assert!(is_changed);
        assert_eq!(offsets(&kept), [2, 3]);
        let headers: Vec<_> = batches(&kept).map(|batch| *batch.unwrap().header()).collect();
        assert_eq!((headers[0].base_offset, headers[0].next_offset()), (Offset(0), Offset(3)));
        let (again, is_changed) = compact(&kept, &map, &rules(NOW.0));
        assert!(!is_changed && again == kept);
    }

    #[test]
    fn a_full_map_ends_the_pass_within_a_batch_and_what_it_has_not_seen_stays() {
        let keys: Vec<String> = (0..40).map(|key| key.to_string()).collect();
        let records = |value| keys.iter().map(|key| (key.as_str(), value)).collect::<Vec<_>>();
        // Tombstones in the second half, which the pass sees in part.
        let log = [batch(0, &records(Some("1"))), batch(40, &records(Some("2")))];
        let more: Vec<String> = (40..100).map(|key| key.to_string()).collect();
        let more: Vec<_> = more.iter().map(|key| (key.as_str(), None)).collect();
        let log = [log.concat(), batch(80, &more), batch(140, &records(None))].concat();
        let (mut first_dirty, mut current, mut passes) = (0, log, 0);
        while first_dirty < 180 {
            let mut map = KeyMap::new(Offset(first_dirty), 1, [passes, 0]);
            map.note(&current, Offset(180));
            map.note_end(Offset(180));
            assert!(map.end().0 > first_dirty, "a pass gets on");
            assert!(map.keys() <= 48);
            let (kept, _) = compact(&current, &map, &rules(NOW.0));
            let seen_in_part = |header: &logmill_wire::record_batch::BatchHeader| {
                header.base_offset < map.end() && header.next_offset() > map.end()
            };
            for header in batches(&kept).map(|batch| *batch.unwrap().header()) {
                assert!(!seen_in_part(&header) || !header.attributes.has_delete_horizon());
            }
            (first_dirty, current, passes) = (map.end().0, kept, passes + 1);
        }
        assert!(passes > 2, "{passes} passes");
        assert_eq!(offsets(&current), (80..180).collect::<Vec<_>>());
        let all_have_horizons =
            batches(&current).all(|batch| batch.unwrap().header().attributes.has_delete_horizon());
        assert!(all_have_horizons);
    }

    #[test]
    fn tombstones_stay_until_their_horizon() {
        let log = [
            batch(0, &[("a", Some("1"))]),
            batch(1, &[("a", None)]),
            batch(2, &[("", Some("no key"))]),
            batch(3, &[("b", Some("1"))]),
        ]
        .concat();
        let (first, _) = compact(&log, &map_of(&log, 0, 4), &rules(NOW.0));
        assert_eq!(offsets(&first), [1, 3]);
        let header = *batches(&first).next().unwrap().unwrap().header();
        assert!(header.attributes.has_delete_horizon());
        assert_eq!(header.base_timestamp, TimestampMs(NOW.0 + DAY_MS));
        let later = map_of(&[], 4, 4);
        let (early, is_changed) = compact(&first, &later, &rules(NOW.0 + DAY_MS - 1));
        assert!(!is_changed && early == first);
        let (late, is_changed) = compact(&first, &later, &rules(NOW.0 + DAY_MS));
        assert!(is_changed);
        assert_eq!(offsets(&late), [3]);
    }

    #[test]
    fn the_last_batch_of_a_producer_and_of_a_pass_stay_without_records() {
        let builder = logmill_wire::record_batch::BatchBuilder::new().producer(
            logmill_wire::ids::ProducerId(5),
            logmill_wire::ids::ProducerEpoch(0),
            7,
        );
        let mut builder = builder.base_offset(Offset(0));
        builder.append(NOW, Some(b"a"), Some(b"1"), &[]);
        let log =
            [builder.finish().unwrap(), batch(1, &[("a", Some("2"))]), batch(2, &[("", Some("x"))])].concat();
        let map = map_of(&log, 0, 3);
        let rules = CompactionRules { last_of_producers: BTreeSet::from([Offset(0)]), ..rules(NOW.0) };
        let (kept, _) = compact(&log, &map, &rules);
        let spans: Vec<_> = batches(&kept).map(|batch| *batch.unwrap().header()).collect();
        assert_eq!(spans.iter().map(|header| header.record_count).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(spans[0].base_sequence, 7);
        assert_eq!(spans[2].next_offset(), Offset(3));
        assert!(!compact(&kept, &map, &rules).1, "and nothing more is to be done about them");
        let further = map_of(&[], 3, 9);
        let (kept, _) =
            compact(&kept, &further, &CompactionRules { last_of_producers: BTreeSet::new(), ..rules });
        assert_eq!(batches(&kept).count(), 1, "a later pass lets go of them");
    }

    #[test]
    fn batches_of_transactions_and_what_cannot_be_read_are_left_alone() {
        let mut transactional = batch(1, &[("a", Some("2"))]);
        transactional[22] |= 0x10;
        logmill_wire::record_batch::set_max_timestamp(&mut transactional, NOW);
        let log = [batch(0, &[("a", Some("1"))]), transactional, batch(2, &[("a", Some("3"))])].concat();
        let map = map_of(&log, 0, 3);
        assert!(map.is_closed());
        assert_eq!(map.end(), Offset(1));
        assert_eq!(offsets(&compact(&log, &map, &rules(NOW.0)).0), [0, 1, 2]);
        // One whose second record is nonsense: its first one must not supersede the one before.
        let mut damaged = batch(1, &[("a", Some("2")), ("b", Some("2"))]);
        let last = damaged.len() - 9;
        damaged[last] = 0xff;
        logmill_wire::record_batch::set_max_timestamp(&mut damaged, NOW);
        assert!(
            BatchView::only(&damaged).unwrap().contents(1 << 20).unwrap().records().any(|one| one.is_err())
        );
        let log = [batch(0, &[("a", Some("1"))]), damaged.clone()].concat();
        let (kept, is_changed) = compact(&log, &map_of(&log, 0, 3), &rules(NOW.0));
        assert!(!is_changed);
        assert!(kept.ends_with(&damaged));
    }
}
