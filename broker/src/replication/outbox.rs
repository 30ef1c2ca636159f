//! What waits to be said to one broker. Everything is kept by partition, so that it is bounded by the partitions that
//! both have, however long the link is down.

use crate::shard::signal::Signal;
use logmill_wire::frame::replication::{EpochAnswer, EpochQuery, PartitionEnds};
use logmill_wire::hashing::HashMap;
use logmill_wire::ids::{MonotonicNs, TopicPartition};
use std::cell::RefCell;
use std::collections::VecDeque;

/// Entries in the order in which their partitions first came; the latest of each partition.
struct Latest<T> {
    entries: Vec<(TopicPartition, T)>,
    places: HashMap<TopicPartition, usize>,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), places: HashMap::default() }
    }
}

impl<T> Latest<T> {
    /// Puts an entry in the place of the one that waits, which `merge` may keep something of.
    fn put(&mut self, key: TopicPartition, entry: T, merge: impl FnOnce(&T, T) -> T) {
        if let Some((_, waiting)) = self.places.get(&key).and_then(|&place| self.entries.get_mut(place)) {
            *waiting = merge(waiting, entry);
            return;
        }
        self.places.insert(key, self.entries.len());
        self.entries.push((key, entry));
    }

    fn take(&mut self, most: usize) -> Vec<T> {
        let rest = self.entries.split_off(self.entries.len().min(most));
        let taken = std::mem::replace(&mut self.entries, rest);
        self.places.clear();
        self.places.extend(self.entries.iter().enumerate().map(|(place, (key, _))| (*key, place)));
        taken.into_iter().map(|(_, entry)| entry).collect()
    }
}

/// Where a partition stands that has something to push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// In the queue of those that are pushed next.
    Dirty,
    /// It waits for a ride until then.
    Later(MonotonicNs),
    /// The link that catches up has it. `again`: something has come since it looked last.
    OnDisk { again: bool },
}

#[derive(Default)]
struct State {
    ends: Latest<PartitionEnds>,
    queries: Latest<EpochQuery>,
    answers: Latest<EpochAnswer>,
    places: HashMap<TopicPartition, Place>,
    /// Each partition whose place is dirty, once.
    dirty: VecDeque<TopicPartition>,
    /// Those that wait for a ride; what has another place by now is passed over.
    later: VecDeque<(MonotonicNs, TopicPartition)>,
    on_disk: VecDeque<TopicPartition>,
}

/// What is said without records.
#[derive(Default)]
pub(super) struct Words {
    pub ends: Vec<PartitionEnds>,
    pub queries: Vec<EpochQuery>,
    pub answers: Vec<EpochAnswer>,
}

/// What waits for one broker.
#[derive(Default)]
pub(super) struct Outbox {
    state: RefCell<State>,
    /// Something has come.
    pub changed: Signal,
}

impl Outbox {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.borrow_mut());
        self.changed.notify_all();
    }

    pub fn tell_ends(&self, ends: PartitionEnds) {
        // What asks for a rewind asks for it still: the leader has pushed past the end that was told.
        let merge = |before: &PartitionEnds, ends: PartitionEnds| PartitionEnds {
            rewind: ends.rewind || (before.rewind && before.leader_epoch == ends.leader_epoch),
            ..ends
        };
        self.change(|state| state.ends.put(ends.partition, ends, merge));
    }

    pub fn ask(&self, query: EpochQuery) {
        self.change(|state| state.queries.put(query.partition, query, |_, query| query));
    }

    pub fn answer(&self, answer: EpochAnswer) {
        self.change(|state| state.answers.put(answer.query.partition, answer, |_, answer| answer));
    }

    pub fn push(&self, partition: TopicPartition) {
        self.change(|state| match state.places.get(&partition) {
            Some(Place::Dirty) => {}
            Some(Place::OnDisk { .. }) => {
                state.places.insert(partition, Place::OnDisk { again: true });
            }
            Some(Place::Later(_)) | None => {
                state.places.insert(partition, Place::Dirty);
                state.dirty.push_back(partition);
            }
        });
    }

    /// A push of this partition may wait for another one until `until`.
    pub fn push_later(&self, partition: TopicPartition, until: MonotonicNs) {
        self.change(|state| match state.places.get(&partition) {
            Some(Place::Dirty | Place::Later(_)) => {}
            Some(Place::OnDisk { .. }) => {
                state.places.insert(partition, Place::OnDisk { again: true });
            }
            None => {
                state.places.insert(partition, Place::Later(until));
                state.later.push_back((until, partition));
            }
        });
    }

    /// At most so many entries of each kind.
    pub fn take_words(&self, most: usize) -> Words {
        let mut state = self.state.borrow_mut();
        Words {
            ends: state.ends.take(most),
            queries: state.queries.take(most),
            answers: state.answers.take(most),
        }
    }

    /// The partition that is pushed next. Once the oldest that waits for a ride has waited long enough, all of them
    /// leave together.
    pub fn next_dirty(&self, now: MonotonicNs) -> Option<TopicPartition> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if state.later.front().is_some_and(|(until, _)| *until <= now) {
            for (_, partition) in std::mem::take(&mut state.later) {
                if let Some(place @ Place::Later(_)) = state.places.get_mut(&partition) {
                    *place = Place::Dirty;
                    state.dirty.push_back(partition);
                }
            }
        }
        let next = state.dirty.pop_front()?;
        state.places.remove(&next);
        Some(next)
    }

    /// Until when the oldest waits for a ride.
    pub fn ride_until(&self) -> Option<MonotonicNs> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        loop {
            let (until, partition) = *state.later.front()?;
            if matches!(state.places.get(&partition), Some(Place::Later(_))) {
                return Some(until);
            }
            state.later.pop_front();
        }
    }

    /// Gives a partition to the link that catches up.
    pub fn read_from_disk(&self, partition: TopicPartition) {
        self.change(|state| {
            state.places.insert(partition, Place::OnDisk { again: false });
            state.on_disk.push_back(partition);
        });
    }

    /// The next partition that is to be read from disk; it stays with the link that catches up.
    pub fn next_on_disk(&self) -> Option<TopicPartition> {
        let mut state = self.state.borrow_mut();
        let partition = state.on_disk.pop_front()?;
        state.places.insert(partition, Place::OnDisk { again: false });
        Some(partition)
    }

    /// Whether something has come for a partition since [`Outbox::next_on_disk`] gave it out.
    pub fn has_come_again(&self, partition: TopicPartition) -> bool {
        matches!(self.state.borrow().places.get(&partition), Some(Place::OnDisk { again: true }))
    }

    /// There is more to read of a partition: it is its turn again after the others.
    pub fn go_on_reading(&self, partition: TopicPartition) {
        self.state.borrow_mut().on_disk.push_back(partition);
    }

    /// The live link has the partition again, with whatever has come meanwhile.
    pub fn leave_disk(&self, partition: TopicPartition, has_more: bool) {
        let before = self.state.borrow_mut().places.remove(&partition);
        if has_more || matches!(before, Some(Place::OnDisk { again: true })) {
            self.push(partition);
        }
    }

    /// The link was lost: nothing is read for it any more.
    pub fn forget_disk(&self) {
        let mut state = self.state.borrow_mut();
        state.on_disk.clear();
        state.places.retain(|_, place| !matches!(place, Place::OnDisk { .. }));
    }

    /// The broker has another process: what waits means nothing to it.
    pub fn clear(&self) {
        *self.state.borrow_mut() = State::default();
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        let state = self.state.borrow();
        state.places.is_empty()
            && state.ends.entries.is_empty()
            && state.queries.entries.is_empty()
            && state.answers.entries.is_empty()
    }

    /// Whether anything is to be read from disk.
    pub fn has_disk(&self) -> bool {
        !self.state.borrow().on_disk.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::ids::{LeaderEpoch, Offset, PartitionIndex, Uuid};

    fn partition(index: i32) -> TopicPartition {
        TopicPartition { topic_id: Uuid::from_random(1), partition: PartitionIndex(index) }
    }

    fn ends(index: i32, end: i64, epoch: i32, rewind: bool) -> PartitionEnds {
        PartitionEnds {
            partition: partition(index),
            leader_epoch: LeaderEpoch(epoch),
            log_end: Offset(end),
            written: Offset(0),
            durable: Offset(0),
            log_start: Offset(0),
            rewind,
        }
    }

    #[test]
    fn the_latest_of_each_partition_is_told() {
        let outbox = Outbox::default();
        for end in 0..10 {
            outbox.tell_ends(ends(end as i32 % 2, end, 1, false));
        }
        let told: Vec<_> = outbox.take_words(9).ends.iter().map(|ends| ends.log_end.0).collect();
        assert_eq!(told, [8, 9]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn no_rewind_is_lost_within_an_epoch() {
        let outbox = Outbox::default();
        outbox.tell_ends(ends(1, 5, 1, true));
        outbox.tell_ends(ends(1, 6, 1, false));
        outbox.tell_ends(ends(2, 5, 1, true));
        outbox.tell_ends(ends(2, 6, 2, false));
        let told: Vec<_> =
            outbox.take_words(9).ends.iter().map(|ends| (ends.log_end.0, ends.rewind)).collect();
        assert_eq!(told, [(6, true), (6, false)]);
    }

    #[test]
    fn what_does_not_fit_stays_in_its_order() {
        let outbox = Outbox::default();
        (0..5).for_each(|index| outbox.tell_ends(ends(index, 0, 1, false)));
        assert_eq!(outbox.take_words(2).ends.len(), 2);
        outbox.tell_ends(ends(3, 7, 1, false));
        let rest: Vec<_> = outbox
            .take_words(9)
            .ends
            .iter()
            .map(|ends| (ends.partition.partition.0, ends.log_end.0))
            .collect();
        assert_eq!(rest, [(2, 0), (3, 7), (4, 0)]);
    }

    #[test]
    fn a_partition_rides_on_its_push_or_leaves_with_the_others_in_time() {
        let outbox = Outbox::default();
        let at = MonotonicNs;
        outbox.push_later(partition(1), at(5));
        outbox.push_later(partition(2), at(6));
        outbox.push_later(partition(3), at(7));
        assert_eq!((outbox.next_dirty(at(4)), outbox.ride_until()), (None, Some(at(5))));
        outbox.push(partition(1));
        outbox.push(partition(1));
        assert_eq!(outbox.next_dirty(at(4)), Some(partition(1)));
        assert_eq!((outbox.next_dirty(at(4)), outbox.ride_until()), (None, Some(at(6))));
        assert_eq!(outbox.next_dirty(at(6)), Some(partition(2)));
        assert_eq!(outbox.next_dirty(at(6)), Some(partition(3)));
        assert_eq!((outbox.next_dirty(at(9)), outbox.ride_until()), (None, None));
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_is_read_from_disk_is_not_pushed_live_until_it_is_given_back() {
        let outbox = Outbox::default();
        outbox.read_from_disk(partition(1));
        outbox.push(partition(1));
        outbox.push_later(partition(1), MonotonicNs(1));
        assert_eq!(outbox.next_dirty(MonotonicNs(9)), None);
        assert_eq!(outbox.next_on_disk(), Some(partition(1)));
        assert!(!outbox.has_come_again(partition(1)), "what came before it was looked at is seen");
        outbox.push(partition(1));
        assert!(outbox.has_come_again(partition(1)));
        outbox.leave_disk(partition(1), false);
        assert_eq!(outbox.next_dirty(MonotonicNs(9)), Some(partition(1)));
        assert!(outbox.is_empty());
    }
}
