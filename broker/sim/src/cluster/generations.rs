//! What members of groups were told of generations, held against what that promises.
//!
//! A generation counts from when the first of its members was told its assignment: until then a crash may take it back.

use std::collections::{BTreeMap, BTreeSet};

/// A broken promise: the checker, and what happened.
type Broken = (&'static str, String);

/// A generation, and by whom it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The generation.
    pub generation: i32,
    /// The node that coordinates the group.
    pub node: i32,
    /// The leader epochs of `__consumer_offsets` that the node knew when it was asked.
    pub epochs: Vec<i32>,
}

impl Synced {
    /// Whether who says this had to know of `last`: it has told of it itself, or knew of the same coordinators, or of
    /// later ones. Who does not know yet that another one coordinates the group answers from memory, as in Kafka.
    fn must_know(&self, last: &Self) -> bool {
        let is_as_new = || self.epochs.iter().zip(&last.epochs).all(|(own, of_last)| own >= of_last);
        self.node == last.node
            || (!self.epochs.is_empty() && self.epochs.len() == last.epochs.len() && is_as_new())
    }
}

/// The generations of all groups.
#[derive(Default)]
pub struct Generations {
    last: BTreeMap<String, Synced>,
    /// Who was assigned a partition of the lasting topic in a generation.
    owners: BTreeMap<(String, i32, i32), String>,
}

impl Generations {
    /// The highest generation of a group that any member was told its assignment in.
    #[must_use]
    pub fn last(&self, group: &str) -> Option<&Synced> {
        self.last.get(group)
    }

    /// A member was told its assignment; `known` is [`Generations::last`] from before it asked to join.
    ///
    /// # Errors
    /// The promise that is broken by that.
    pub fn sync(
        &mut self,
        group: &str,
        member: &str,
        partitions: &BTreeSet<i32>,
        synced: Synced,
        known: Option<&Synced>,
    ) -> Result<(), Broken> {
        let generation = synced.generation;
        if let Some(known) = known.filter(|known| known.generation > generation && synced.must_know(known)) {
            return Err(("GenerationsRise", format!("{group} was told {known:?}, and then {synced:?}")));
        }
        for partition in partitions {
            let at = (group.to_owned(), generation, *partition);
            let owner = self.owners.entry(at).or_insert_with(|| member.to_owned());
            if owner != member {
                let what =
                    format!("{owner} and {member} of {group} own {partition} in generation {generation}");
                return Err(("OneOwner", what));
            }
        }
        if self.last.get(group).is_none_or(|last| last.generation < generation) {
            self.last.insert(group.to_owned(), synced);
        }
        Ok(())
    }

    /// A member's commit was acknowledged. Nobody can commit for a generation that is over: the commit is in the log.
    ///
    /// # Errors
    /// The promise that is broken by that.
    pub fn commit(&self, group: &str, generation: i32, known: Option<&Synced>) -> Result<(), Broken> {
        match known {
            Some(known) if known.generation > generation => {
                let what =
                    format!("a commit for generation {generation} of {group} was taken after {known:?}");
                Err(("GenerationsFence", what))
            }
            _ => Ok(()),
        }
    }

    /// A member's heartbeat was taken.
    ///
    /// # Errors
    /// The promise that is broken by that.
    pub fn beat(&self, group: &str, asked: &Synced, known: Option<&Synced>) -> Result<(), Broken> {
        match known {
            Some(known) if known.generation > asked.generation && asked.must_know(known) => {
                let what = format!("a heartbeat of {asked:?} of {group} was taken after {known:?}");
                Err(("GenerationsFence", what))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced(generation: i32, node: i32, epoch: i32) -> Synced {
        Synced { generation, node, epochs: vec![2, epoch] }
    }

    #[test]
    fn every_broken_promise_is_seen() {
        let begun = || {
            let mut generations = Generations::default();
            generations
                .sync("g", "one", &BTreeSet::from([0]), synced(4, 1, 7), None)
                .expect("it is the first");
            generations
        };
        let after = |told: Synced, member: &str, partition: i32| {
            let mut generations = begun();
            let known = generations.last("g").cloned();
            let partitions = BTreeSet::from([partition]);
            generations
                .sync("g", member, &partitions, told, known.as_ref())
                .err()
                .map_or("", |(name, _)| name)
        };
        assert_eq!(after(synced(5, 2, 8), "two", 0), "");
        assert_eq!(after(synced(4, 1, 7), "two", 1), "");
        assert_eq!(after(synced(4, 1, 7), "two", 0), "OneOwner");
        assert_eq!(after(synced(3, 1, 6), "two", 1), "GenerationsRise");
        assert_eq!(after(synced(3, 2, 7), "two", 1), "GenerationsRise");
        assert_eq!(after(synced(3, 2, 6), "two", 1), "", "who was replaced may not know it");
        let generations = begun();
        let known = generations.last("g");
        let name = |outcome: Result<(), Broken>| outcome.err().map_or("", |(name, _)| name);
        assert_eq!(name(generations.commit("g", 4, known)), "");
        assert_eq!(name(generations.commit("g", 3, known)), "GenerationsFence");
        assert_eq!(name(generations.beat("g", &synced(3, 2, 6), known)), "");
        assert_eq!(name(generations.beat("g", &synced(3, 2, 7), known)), "GenerationsFence");
    }
}
