//! The uniform assignor: every member gets its even share, and keeps of what it had whatever fits into it.

use super::{Assignment, Demand};
use logmill_wire::ids::{PartitionIndex, TopicId};
use std::collections::{BTreeMap, BTreeSet};

type Partition = (TopicId, PartitionIndex);

pub(super) fn assign(demand: &Demand<'_>) -> Vec<Assignment> {
    if demand.members.is_empty() {
        return Vec::new();
    }
    let kept = keep(demand);
    let free = free(demand, &kept);
    if demand.is_homogeneous() { homogeneous(demand, kept, free) } else { heterogeneous(demand, kept, free) }
}

/// What each member had and may have further, each partition once.
fn keep(demand: &Demand<'_>) -> Vec<Vec<Partition>> {
    let mut taken: BTreeSet<Partition> = BTreeSet::new();
    (0..demand.members.len())
        .map(|member| {
            demand.members[member]
                .before
                .iter()
                .filter(|&(topic, partition)| demand.allows(member, topic, partition))
                .filter(|partition| taken.insert(*partition))
                .collect()
        })
        .collect()
}

/// The partitions that somebody wants and nobody has.
fn free(demand: &Demand<'_>, kept: &[Vec<Partition>]) -> Vec<Partition> {
    let wanted: BTreeSet<TopicId> =
        demand.members.iter().flat_map(|member| member.subscribed.iter().copied()).collect();
    let taken: BTreeSet<Partition> = kept.iter().flatten().copied().collect();
    wanted
        .into_iter()
        .flat_map(|topic| (0..demand.partition_count(topic)).map(move |index| (topic, PartitionIndex(index))))
        .filter(|partition| !taken.contains(partition))
        .collect()
}

/// All members want the same: shares differ by one at most. The members that have more than the lower share are
/// the first to get the higher one, which moves the fewest partitions.
fn homogeneous(
    demand: &Demand<'_>,
    mut kept: Vec<Vec<Partition>>,
    mut free: Vec<Partition>,
) -> Vec<Assignment> {
    let total = kept.iter().map(Vec::len).sum::<usize>() + free.len();
    let share = total / demand.members.len();
    let mut extras = total % demand.members.len();
    let mut quotas = vec![share; kept.len()];
    for (quota, partitions) in quotas.iter_mut().zip(&mut kept) {
        if partitions.len() > share && extras > 0 {
            extras -= 1;
            *quota += 1;
        }
        if partitions.len() > *quota {
            free.extend(partitions.drain(*quota..));
        }
    }
    for quota in &mut quotas {
        if extras > 0 && *quota == share {
            extras -= 1;
            *quota += 1;
        }
    }
    let mut free = free.into_iter();
    quotas
        .into_iter()
        .zip(kept)
        .map(|(quota, partitions)| {
            let missing = quota - partitions.len();
            partitions.into_iter().chain(free.by_ref().take(missing)).collect()
        })
        .collect()
}

/// Members want different topics: what is free goes to who has least of those that want it, and then partitions
/// move from who has more to who has less, as long as a move makes the two more alike.
fn heterogeneous(demand: &Demand<'_>, kept: Vec<Vec<Partition>>, free: Vec<Partition>) -> Vec<Assignment> {
    let mut spread = Spread::new(demand, kept);
    let mut by_topic: BTreeMap<TopicId, Vec<PartitionIndex>> = BTreeMap::new();
    for (topic, partition) in free {
        by_topic.entry(topic).or_default().push(partition);
    }
    let mut by_topic: Vec<(TopicId, Vec<PartitionIndex>)> = by_topic.into_iter().collect();
    // Who wants what few want shall not have been filled with what all want.
    by_topic.sort_by_key(|(topic, _)| spread.subscribers.get(topic).map_or(0, Vec::len));
    for (topic, partitions) in by_topic {
        spread.give_out(topic, partitions);
    }
    let topics: Vec<TopicId> = spread.subscribers.keys().copied().collect();
    // Each move lowers the sum of the squares of all loads, so the moves come to an end.
    while topics.iter().map(|topic| spread.even_out(*topic)).fold(false, |any, moved| any | moved) {}
    spread.owned.into_iter().map(|topics| flatten(&topics).collect()).collect()
}

fn flatten(topics: &BTreeMap<TopicId, BTreeSet<PartitionIndex>>) -> impl Iterator<Item = Partition> {
    topics.iter().flat_map(|(topic, partitions)| partitions.iter().map(|partition| (*topic, *partition)))
}

struct Spread {
    /// Per topic who wants it.
    subscribers: BTreeMap<TopicId, Vec<usize>>,
    /// Per member what it has.
    owned: Vec<BTreeMap<TopicId, BTreeSet<PartitionIndex>>>,
    loads: Vec<usize>,
}

impl Spread {
    fn new(demand: &Demand<'_>, kept: Vec<Vec<Partition>>) -> Self {
        let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (member, candidate) in demand.members.iter().enumerate() {
            for topic in candidate.subscribed.iter() {
                subscribers.entry(*topic).or_default().push(member);
            }
        }
        let members = demand.members.len();
        let mut spread = Self { subscribers, owned: vec![BTreeMap::new(); members], loads: vec![0; members] };
        for (member, partitions) in kept.into_iter().enumerate() {
            for partition in partitions {
                spread.give(member, partition);
            }
        }
        spread
    }

    /// Who wants a topic, by what they have.
    fn subscribers(&self, topic: TopicId) -> BTreeSet<(usize, usize)> {
        let members = self.subscribers.get(&topic).map_or(&[][..], Vec::as_slice);
        members.iter().map(|&member| (self.loads[member], member)).collect()
    }

    fn give(&mut self, member: usize, (topic, partition): Partition) {
        self.owned[member].entry(topic).or_default().insert(partition);
        self.loads[member] += 1;
    }

    /// Gives partitions of a topic to whoever of its subscribers has least.
    fn give_out(&mut self, topic: TopicId, partitions: Vec<PartitionIndex>) {
        let mut by_load = self.subscribers(topic);
        for partition in partitions {
            let Some((load, member)) = by_load.pop_first() else { return };
            self.give(member, (topic, partition));
            by_load.insert((load + 1, member));
        }
    }

    fn take(&mut self, member: usize, topic: TopicId) -> Option<PartitionIndex> {
        let partition = self.owned[member].get_mut(&topic)?.pop_last()?;
        self.loads[member] -= 1;
        Some(partition)
    }

    /// Moves partitions of a topic between its subscribers; whether any has moved.
    fn even_out(&mut self, topic: TopicId) -> bool {
        let mut by_load = self.subscribers(topic);
        let mut moved = false;
        while let Some(&(least, receiver)) = by_load.first() {
            let giver = by_load.iter().rev().take_while(|(load, _)| *load > least + 1).find(|(_, member)| {
                self.owned[*member].get(&topic).is_some_and(|partitions| !partitions.is_empty())
            });
            let Some(&(most, giver)) = giver else { break };
            let Some(partition) = self.take(giver, topic) else { break };
            self.give(receiver, (topic, partition));
            by_load.remove(&(least, receiver));
            by_load.remove(&(most, giver));
            by_load.insert((least + 1, receiver));
            by_load.insert((most - 1, giver));
            moved = true;
        }
        moved
    }
}
