//! A sorted map of which a copy shares all but what is changed in it.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Entries of one chunk; a change copies one chunk and the list of chunks.
const CHUNK_ENTRIES_MAX: usize = 256;

type Chunk<K, V> = Vec<(K, V)>;

/// A sorted map in chunks behind counted pointers. Cloning it copies one pointer; changing one entry of a map
/// of 100,000 while a clone is alive copies a few hundred entries and pointers, not all of them.
pub struct SharedMap<K, V> {
    /// No chunk is empty; keys rise within and across chunks.
    chunks: Arc<Vec<Arc<Chunk<K, V>>>>,
    len: usize,
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && (Arc::ptr_eq(&self.chunks, &other.chunks) || self.iter().eq(other.iter()))
    }
}

impl<K: Eq, V: Eq> Eq for SharedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K, V> SharedMap<K, V> {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether both are one map, of which neither has been changed since it was copied from the other.
    #[must_use]
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }

    /// The entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().map(|(key, value)| (key, value)))
    }

    /// The values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The index of the one chunk that may hold `key`.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let begins_at_or_before =
            |chunk: &Arc<Chunk<K, V>>| chunk.first().is_some_and(|(first, _)| first.borrow() <= key);
        self.chunks.partition_point(begins_at_or_before).saturating_sub(1)
    }

    /// The value of `key`.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let index = chunk.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
        chunk.get(index).map(|(_, value)| value)
    }

    /// Whether there is an entry of `key`.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The entries from `key` on, in the order of their keys.
    pub fn iter_from<Q: Ord + ?Sized>(&self, key: &Q) -> impl Iterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
    {
        let first_chunk = self.chunk_of(key);
        let skipped = self
            .chunks
            .get(first_chunk)
            .map_or(0, |chunk| chunk.partition_point(|(other, _)| other.borrow() < key));
        let chunks = self.chunks.iter().skip(first_chunk);
        chunks.flat_map(|chunk| chunk.iter().map(|(key, value)| (key, value))).skip(skipped)
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Sets the value of `key` and gives back the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let chunk_index = self.chunk_of(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let is_last = chunk_index + 1 == chunks.len();
        let Some(chunk) = chunks.get_mut(chunk_index).map(Arc::make_mut) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        match chunk.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(index) => chunk.get_mut(index).map(|entry| std::mem::replace(&mut entry.1, value)),
            Err(index) => {
                chunk.insert(index, (key, value));
                if chunk.len() > CHUNK_ENTRIES_MAX {
                    // Keys often arrive in rising order: then the left part stays full.
                    let rising = index + 1 == chunk.len() && is_last;
                    let at = if rising { chunk.len() - 1 } else { chunk.len() / 2 };
                    let right = chunk.split_off(at);
                    chunks.insert(chunk_index + 1, Arc::new(right));
                }
                self.len += 1;
                None
            }
        }
    }

    /// Removes `key` and gives back its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let chunk_index = self.chunk_of(key);
        let chunk = self.chunks.get(chunk_index)?;
        let index = chunk.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(chunks.get_mut(chunk_index)?);
        let (_, value) = chunk.remove(index);
        if chunk.is_empty() {
            chunks.remove(chunk_index);
        } else if chunk.len() < CHUNK_ENTRIES_MAX / 4 {
            join_with_next(chunks, chunk_index);
        }
        self.len -= 1;
        Some(value)
    }
}

/// Joins the chunk at `index` with the one after it if the result leaves room to grow.
fn join_with_next<K: Clone, V: Clone>(chunks: &mut Vec<Arc<Chunk<K, V>>>, index: usize) {
    let joined_len = chunks.iter().skip(index).take(2).map(|chunk| chunk.len()).sum::<usize>();
    if index + 1 < chunks.len() && joined_len <= CHUNK_ENTRIES_MAX / 2 {
        let next = chunks.remove(index + 1);
        if let Some(chunk) = chunks.get_mut(index) {
            Arc::make_mut(chunk).extend(next.iter().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::test_random::Random;

    #[test]
    fn agrees_with_a_sorted_map_and_leaves_clones_alone() {
        for seed in 0..20 {
            let mut random = Random::seeded(seed);
            let mut map = SharedMap::default();
            let mut model = BTreeMap::new();
            let mut clones: Vec<(SharedMap<u64, u64>, BTreeMap<u64, u64>)> = Vec::new();
            let removals = if seed % 2 == 0 { 30 } else { 60 };
            for step in 0..4000 {
                let key = random.below(2000);
                if random.chance(removals) {
                    assert_eq!(map.remove(&key), model.remove(&key));
                } else {
                    assert_eq!(map.insert(key, step), model.insert(key, step));
                }
                assert_eq!(map.get(&key), model.get(&key));
                assert_eq!(map.len(), model.len());
                if step % 500 == 0 {
                    clones.push((map.clone(), model.clone()));
                    assert!(map.iter().eq(model.iter()), "seed {seed}");
                    let from = random.below(2100);
                    assert!(map.iter_from(&from).eq(model.range(from..)), "seed {seed}, from {from}");
                }
            }
            for (map, model) in &clones {
                assert!(map.iter().eq(model.iter()), "seed {seed}");
            }
            for key in model.keys() {
                assert!(map.remove(key).is_some());
            }
            assert!(map.is_empty() && map.chunks.is_empty());
        }
    }

    #[test]
    fn a_change_copies_one_chunk() {
        let mut map = SharedMap::default();
        // Full chunks, so that the next key begins a chunk of its own, before which the others then go.
        for key in 0..400 * CHUNK_ENTRIES_MAX {
            map.insert(key, key);
        }
        for key in (200_000..300_000).rev() {
            map.insert(key, key);
        }
        let before = map.clone();
        map.insert(50_000, 0);
        map.insert(300_000, 0);
        let changed =
            map.chunks.iter().filter(|chunk| !before.chunks.iter().any(|old| Arc::ptr_eq(old, chunk)));
        assert!(changed.count() <= 2);
        assert!(map.chunks.len() < 2 * 200_000 / CHUNK_ENTRIES_MAX, "{} chunks", map.chunks.len());
        assert_eq!(before.get(&50_000), Some(&50_000));
    }
}
