//! Who holds what while a plan is made: the replicas as they will be once all moves under way are complete.

use std::collections::{BTreeMap, BTreeSet};

use logmill_wire::ids::{NodeId, PartitionIndex, TopicPartition};

use super::balance_replicas::{BalanceHold, BalanceLimits};
use super::image::{Image, Topic};
use super::partition_state::{NO_LEADER, Partition};

/// A broker, or what is left of one that was forgotten.
struct Seat {
    id: NodeId,
    /// Its rack's number; brokers without a rack are in one together.
    rack: usize,
    /// Whether it may get replicas.
    receives: bool,
    /// Whether its replicas have to go elsewhere.
    leaves: bool,
    /// Whether it has any part in a move that it could be too busy for.
    is_alive: bool,
    replicas: usize,
    /// The partitions whose first replica it holds.
    preferred: usize,
    /// The partitions that move and that it sends, gets or gives up.
    moving: usize,
}

/// A partition and where its replicas stand among those of all.
struct Place {
    key: TopicPartition,
    topic: usize,
    leader: Option<usize>,
    first: usize,
    count: usize,
    /// Whether it may be moved: it has a leader, and does not move already.
    is_free: bool,
    /// Whether a move under way brings it to a broker that is to hold nothing.
    goes_astray: bool,
}

/// Brokers and partitions, with the changes that are planned so far.
pub(super) struct Layout<'a> {
    limits: &'a BalanceLimits,
    seats: Vec<Seat>,
    /// The number of each broker's seat.
    numbers: BTreeMap<NodeId, usize>,
    places: Vec<Place>,
    /// The replicas of all places, as numbers of seats.
    replicas: Vec<usize>,
    topic_count: usize,
    /// The partitions that are changed, and whether each needs data to be copied.
    pub changed: Vec<usize>,
    /// How many partitions move, with those that are planned.
    pub moving: usize,
    /// How many replicas have to leave their broker and find no other.
    pub stuck: usize,
}

impl<'a> Layout<'a> {
    /// The cluster as an image has it; or why nothing may be moved now.
    pub fn of(
        image: &Image,
        leaving: &BTreeSet<NodeId>,
        limits: &'a BalanceLimits,
    ) -> Result<Self, BalanceHold> {
        let seats = seats_of(image, leaving)?;
        let mut layout = Self {
            limits,
            numbers: seats.iter().map(|seat| seat.id).zip(0..).collect(),
            seats,
            places: Vec::new(),
            replicas: Vec::new(),
            topic_count: 0,
            changed: Vec::new(),
            moving: 0,
            stuck: 0,
        };
        for topic in image.topics() {
            for index in (0..topic.partition_count()).map(PartitionIndex) {
                if let Some(partition) = image.partition(topic, index) {
                    layout.add(topic, index, &partition)?;
                }
            }
            layout.topic_count += 1;
        }
        Ok(layout)
    }

    fn add(
        &mut self,
        topic: &Topic,
        index: PartitionIndex,
        found: &Partition<'_>,
    ) -> Result<(), BalanceHold> {
        let key = TopicPartition { topic_id: topic.id, partition: index };
        let first = self.replicas.len();
        let moves = !found.adding.is_empty() || !found.removing.is_empty();
        let mut goes_astray = false;
        for &node in found.replicas {
            let seat = self.seat(node);
            let Some(known) = self.seats.get_mut(seat) else { continue };
            let is_added = found.adding.contains(&node);
            let is_missed = !found.in_sync.contains(&node) && !is_added && !known.leaves;
            if is_missed {
                return Err(BalanceHold::UnderReplicated(key));
            }
            let is_part = is_added || found.removing.contains(&node) || node == found.leader;
            known.moving += usize::from(moves && is_part);
            if !found.removing.contains(&node) {
                known.replicas += 1;
                goes_astray |= is_added && known.leaves;
                self.replicas.push(seat);
            }
        }
        let count = self.replicas.len() - first;
        if let Some(seat) = self.replicas.get(first).and_then(|&seat| self.seats.get_mut(seat)) {
            seat.preferred += 1;
        }
        let leader = (found.leader != NO_LEADER).then(|| self.seat(found.leader));
        let is_free = leader.is_some() && (!moves || goes_astray) && count > 0;
        self.moving += usize::from(moves);
        self.places.push(Place { key, topic: self.topic_count, leader, first, count, is_free, goes_astray });
        Ok(())
    }

    /// The number of a broker's seat; who is forgotten and still has replicas gets one, apart from all others.
    fn seat(&mut self, node: NodeId) -> usize {
        if let Some(&number) = self.numbers.get(&node) {
            return number;
        }
        self.numbers.insert(node, self.seats.len());
        let rack = self.seats.iter().map(|seat| seat.rack + 1).max().unwrap_or(0);
        self.seats.push(Seat {
            id: node,
            rack,
            receives: false,
            leaves: true,
            is_alive: false,
            replicas: 0,
            preferred: 0,
            moving: 0,
        });
        self.seats.len() - 1
    }

    /// Whether nobody could get anything from anybody.
    pub fn is_trivial(&self) -> bool {
        self.seats.len() < 2 || !self.seats.iter().any(|seat| seat.receives)
    }

    /// The partition of a place, and its replicas.
    pub fn replicas_of(&self, place: usize) -> Option<(TopicPartition, Vec<NodeId>)> {
        let key = self.places.get(place)?.key;
        Some((key, self.held_by(place).iter().map(|&seat| self.seats[seat].id).collect()))
    }

    fn held_by(&self, place: usize) -> &[usize] {
        let Place { first, count, .. } = self.places[place];
        &self.replicas[first..first + count]
    }

    /// How many replicas of a place share a rack with one before them, with another broker at a position.
    fn crowding(&self, place: usize, change: Option<(usize, usize)>) -> usize {
        let held = self.held_by(place);
        let rack = |at: usize| match change {
            Some((changed, seat)) if changed == at => self.seats[seat].rack,
            _ => self.seats[held[at]].rack,
        };
        (0..held.len()).filter(|&at| (0..at).any(|before| rack(before) == rack(at))).count()
    }

    /// Whether there is still room for a move among the moves of the cluster, and of those who have a part in it.
    fn has_room(&self, place: usize, from: usize, to: usize) -> bool {
        let Place { leader, goes_astray, .. } = self.places[place];
        if goes_astray {
            // It moves already; only its goal changes.
            return self.is_idle(to);
        }
        let mut parts = [Some(from), Some(to), leader].into_iter().flatten();
        self.moving < self.limits.moves && parts.all(|seat| self.is_idle(seat))
    }

    /// Whether a broker may have a part in one more move.
    fn is_idle(&self, seat: usize) -> bool {
        let seat = &self.seats[seat];
        !seat.is_alive || seat.moving < self.limits.moves_per_broker
    }

    /// Plans that a broker holds a replica in the place of another one.
    fn replace(&mut self, place: usize, at: usize, to: usize) {
        let Place { first, leader, goes_astray, .. } = self.places[place];
        let from = std::mem::replace(&mut self.replicas[first + at], to);
        self.seats[from].replicas -= 1;
        self.seats[to].replicas += 1;
        if at == 0 {
            self.seats[from].preferred -= 1;
            self.seats[to].preferred += 1;
        }
        let is_first_change = self.changed.last() != Some(&place);
        let leader = leader.filter(|&leader| is_first_change && !goes_astray && leader != from);
        for seat in [Some(from), Some(to), leader].into_iter().flatten() {
            self.seats[seat].moving += 1;
        }
        if is_first_change {
            self.moving += usize::from(!goes_astray);
            self.changed.push(place);
        }
    }

    /// Moves replicas away from who is to hold nothing, first where one of them is dead. Says whether some have to wait.
    pub fn evacuate(&mut self) -> bool {
        let mut waits = false;
        for is_urgent in [true, false] {
            for place in 0..self.places.len() {
                let held = self.held_by(place);
                let leaving: Vec<usize> = (0..held.len()).filter(|&at| self.seats[held[at]].leaves).collect();
                if leaving.iter().any(|&at| !self.seats[held[at]].is_alive) != is_urgent || leaving.is_empty()
                {
                    continue;
                }
                if !self.places[place].is_free {
                    let is_led = self.places[place].leader.is_some();
                    waits |= is_led;
                    self.stuck += if is_led { 0 } else { leaving.len() };
                    continue;
                }
                for at in leaving {
                    waits |= self.find_refuge(place, at);
                }
                if self.changed.last() == Some(&place) {
                    self.places[place].is_free = false;
                }
            }
        }
        waits
    }

    /// Moves one replica to where it is best kept. Says whether it has to wait for that.
    fn find_refuge(&mut self, place: usize, at: usize) -> bool {
        let held = self.held_by(place);
        let refuges = (0..self.seats.len()).filter(|to| self.seats[*to].receives && !held.contains(to));
        let crowded = |to: &usize| self.crowding(place, Some((at, *to)));
        let Some(least) = refuges.clone().map(|to| crowded(&to)).min() else {
            self.stuck += 1;
            return false;
        };
        let from = held[at];
        let is_planned = self.changed.last() == Some(&place);
        let has_room = |to: &usize| {
            if is_planned { self.is_idle(from) && self.is_idle(*to) } else { self.has_room(place, from, *to) }
        };
        let fit = refuges.filter(|to| crowded(to) == least).filter(has_room);
        match fit.min_by_key(|&to| (self.seats[to].replicas, self.seats[to].id)) {
            Some(to) => {
                self.replace(place, at, to);
                false
            }
            None => true,
        }
    }

    /// Brings replicas that share a rack to racks that have none of their partition. Says whether some have to wait.
    pub fn part_racks(&mut self) -> bool {
        let racks: BTreeSet<usize> =
            self.seats.iter().filter(|seat| seat.receives).map(|seat| seat.rack).collect();
        let mut waits = false;
        for place in 0..self.places.len() {
            let Place { count, is_free, .. } = self.places[place];
            let crowding = self.crowding(place, None);
            if crowding <= count.saturating_sub(racks.len()) || !is_free {
                continue;
            }
            let held = self.held_by(place);
            let moves = (0..count).flat_map(|at| (0..self.seats.len()).map(move |to| (at, to)));
            let helps = |&(at, to): &(usize, usize)| {
                let (old, new) = (&self.seats[held[at]], &self.seats[to]);
                !old.leaves
                    && new.receives
                    && !held.contains(&to)
                    && self.crowding(place, Some((at, to))) < crowding
            };
            let helpful = moves.filter(helps);
            let is_possible = helpful.clone().next().is_some();
            let fit = helpful.filter(|&(at, to)| self.has_room(place, held[at], to));
            let weight = |&(at, to): &(usize, usize)| {
                let (old, new) = (&self.seats[held[at]], &self.seats[to]);
                (new.replicas, std::cmp::Reverse(old.replicas), new.id, old.id)
            };
            match fit.min_by_key(weight) {
                Some((at, to)) => {
                    self.replace(place, at, to);
                    self.places[place].is_free = false;
                }
                None => waits |= is_possible,
            }
        }
        waits
    }

    /// The difference from which on something is moved from one broker to another: with less than 2, the other way would be
    /// as good.
    fn least_difference(&self, of: impl Fn(&Seat) -> usize) -> usize {
        let receivers = self.seats.iter().filter(|seat| seat.receives);
        let (sum, count) = receivers.fold((0, 0), |(sum, count), seat| (sum + of(seat), count + 1));
        let percent = self.limits.threshold_percent as usize;
        (sum * percent).div_ceil(100 * count.max(1)).max(2)
    }

    /// Who may get replicas, by what they have: those with the most, and those with the least first.
    fn ranked(&self, of: impl Fn(&Seat) -> usize) -> (Vec<usize>, Vec<usize>) {
        let mut least: Vec<usize> = (0..self.seats.len()).filter(|&at| self.seats[at].receives).collect();
        least.sort_by_key(|&at| (of(&self.seats[at]), self.seats[at].id));
        (least.iter().rev().copied().collect(), least)
    }

    /// Moves replicas from who has many to who has few.
    pub fn even_out(&mut self) {
        let difference = self.least_difference(|seat| seat.replicas);
        let mut holds: Vec<Vec<usize>> = self.seats.iter().map(|_| Vec::new()).collect();
        for place in (0..self.places.len()).filter(|&place| self.places[place].is_free) {
            self.held_by(place).iter().for_each(|&seat| holds[seat].push(place));
        }
        while self.moving < self.limits.moves {
            let (most, least) = self.ranked(|seat| seat.replicas);
            let pairs = most.iter().flat_map(|&from| least.iter().map(move |&to| (from, to)));
            let mut uneven = pairs
                .filter(|&(from, to)| self.seats[from].replicas >= self.seats[to].replicas + difference)
                .filter(|&(from, to)| self.is_idle(from) && self.is_idle(to));
            let found = uneven.find_map(|(from, to)| Some((self.to_move(&holds, from, to)?, from, to)));
            let Some((place, from, to)) = found else { return };
            if let Some(at) = self.held_by(place).iter().position(|&seat| seat == from) {
                self.replace(place, at, to);
            }
            self.places[place].is_free = false;
        }
    }

    /// The partition that is moved best from one broker to another: of the topic of which the one has most more than the
    /// other, and led by the one if it leads much.
    fn to_move(&self, holds: &[Vec<usize>], from: usize, to: usize) -> Option<usize> {
        let mut more: BTreeMap<usize, isize> = BTreeMap::new();
        for (seat, one) in [(from, 1), (to, -1)] {
            for &place in &holds[seat] {
                *more.entry(self.places[place].topic).or_default() += one;
            }
        }
        let leads_more = self.seats[from].preferred > self.seats[to].preferred;
        let mut best: Option<((isize, bool), usize)> = None;
        for &place in &holds[from] {
            let held = self.held_by(place);
            let Some(at) = held.iter().position(|&seat| seat == from) else { continue };
            let weight = (more[&self.places[place].topic], (at == 0) == leads_more);
            if best.is_some_and(|(known, _)| known >= weight) {
                continue;
            }
            let fits = self.places[place].is_free
                && !held.contains(&to)
                && self.has_room(place, from, to)
                && self.crowding(place, Some((at, to))) <= self.crowding(place, None);
            if fits {
                best = Some((weight, place));
            }
        }
        best.map(|(_, place)| place)
    }

    /// Changes which replica is the preferred leader, where one broker is that often and another one seldom. Nothing is
    /// copied for it.
    pub fn even_out_leaders(&mut self) {
        let difference = self.least_difference(|seat| seat.preferred);
        let mut led: Vec<Vec<usize>> = self.seats.iter().map(|_| Vec::new()).collect();
        for place in (0..self.places.len()).filter(|&place| self.places[place].is_free) {
            led[self.held_by(place)[0]].push(place);
        }
        while self.changed.len() < self.limits.moves {
            let (most, least) = self.ranked(|seat| seat.preferred);
            let pairs = most.iter().flat_map(|&from| least.iter().map(move |&to| (from, to)));
            let mut uneven = pairs
                .filter(|&(from, to)| self.seats[from].preferred >= self.seats[to].preferred + difference);
            let found = uneven.find_map(|(from, to)| {
                let mut places = led[from].iter().copied().filter(|&place| self.places[place].is_free);
                places.find_map(|place| {
                    let at = self.held_by(place).iter().position(|&seat| seat == to)?;
                    Some((place, at, from, to))
                })
            });
            let Some((place, at, from, to)) = found else { return };
            let first = self.places[place].first;
            self.replicas.swap(first, first + at);
            self.seats[from].preferred -= 1;
            self.seats[to].preferred += 1;
            self.places[place].is_free = false;
            self.changed.push(place);
        }
    }
}

/// The registered brokers; or who must come back first.
fn seats_of(image: &Image, leaving: &BTreeSet<NodeId>) -> Result<Vec<Seat>, BalanceHold> {
    let racks: BTreeSet<Option<&str>> = image.brokers().map(|broker| broker.rack.as_deref()).collect();
    let racks: BTreeMap<Option<&str>, usize> = racks.into_iter().zip(0..).collect();
    let mut seats = Vec::new();
    for broker in image.brokers() {
        let leaves = leaving.contains(&broker.id);
        if !leaves && broker.in_controlled_shutdown {
            return Err(BalanceHold::Stopping(broker.id));
        }
        if !leaves && broker.fenced {
            return Err(BalanceHold::Fenced(broker.id));
        }
        seats.push(Seat {
            id: broker.id,
            rack: racks.get(&broker.rack.as_deref()).copied().unwrap_or(0),
            receives: !leaves,
            leaves,
            is_alive: broker.is_active(),
            replicas: 0,
            preferred: 0,
            moving: 0,
        });
    }
    Ok(seats)
}
