//! A queue that has one element at most, most of the time.

use std::collections::VecDeque;

/// A first-in-first-out queue whose first element stands in the queue itself: with many queues that are seldom longer,
/// looking into one touches no other memory.
pub struct ShortQueue<T> {
    /// There is one whenever `rest` is not empty.
    first: Option<T>,
    rest: VecDeque<T>,
}

impl<T> Default for ShortQueue<T> {
    fn default() -> Self {
        Self { first: None, rest: VecDeque::new() }
    }
}

impl<T> ShortQueue<T> {
    /// How many elements there are.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Whether there is none.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The oldest element.
    #[must_use]
    #[inline]
    pub const fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    /// The newest element.
    #[must_use]
    #[inline]
    pub fn back(&self) -> Option<&T> {
        self.rest.back().or(self.first.as_ref())
    }

    /// Adds an element behind all others.
    #[inline]
    pub fn push_back(&mut self, element: T) {
        if self.first.is_none() {
            self.first = Some(element);
        } else {
            self.rest.push_back(element);
        }
    }

    /// Takes the oldest element out.
    #[inline]
    pub fn pop_front(&mut self) -> Option<T> {
        let next = if self.rest.is_empty() { None } else { self.rest.pop_front() };
        std::mem::replace(&mut self.first, next)
    }

    /// Inserts an element so that `index` others stand before it.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn insert(&mut self, index: usize, element: T) {
        match index.checked_sub(1) {
            None => {
                if let Some(second) = self.first.replace(element) {
                    self.rest.push_front(second);
                }
            }
            Some(_) if self.first.is_none() => panic!("an element is inserted within its queue"),
            Some(index) => self.rest.insert(index, element),
        }
    }

    /// The elements, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(&self.rest)
    }

    /// How many elements stand before the first of which `is_before` is false; it is true of none behind that one.
    pub fn partition_point(&self, mut is_before: impl FnMut(&T) -> bool) -> usize {
        match &self.first {
            Some(first) if is_before(first) => 1 + self.rest.partition_point(is_before),
            _ => 0,
        }
    }
}

impl<T> IntoIterator for ShortQueue<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::option::IntoIter<T>, std::collections::vec_deque::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every queue of up to four elements, made by pushing to one that was longer before or not.
    fn queues() -> impl Iterator<Item = (ShortQueue<u32>, Vec<u32>)> {
        (0..5u32).flat_map(|length| (0..3u32).map(move |popped| (length, popped))).map(|(length, popped)| {
            let mut queue = ShortQueue::default();
            (0..popped).for_each(|old| queue.push_back(old));
            (0..length).for_each(|new| queue.push_back(10 * (new + 1)));
            (0..popped).for_each(|old| assert_eq!(queue.pop_front(), Some(old)));
            (queue, (0..length).map(|new| 10 * (new + 1)).collect())
        })
    }

    #[test]
    fn elements_come_out_in_their_order() {
        for (mut queue, elements) in queues() {
            assert_eq!((queue.len(), queue.is_empty()), (elements.len(), elements.is_empty()));
            assert_eq!((queue.front(), queue.back()), (elements.first(), elements.last()));
            assert!(queue.iter().eq(&elements));
            for element in elements {
                assert_eq!(queue.pop_front(), Some(element));
            }
            assert_eq!(queue.pop_front(), None);
            assert!(queue.is_empty());
        }
    }

    #[test]
    fn elements_are_found_and_inserted_at_their_places() {
        for at in 0..=50 {
            for (mut queue, mut elements) in queues() {
                let index = queue.partition_point(|element| *element <= at);
                assert_eq!(index, elements.partition_point(|element| *element <= at));
                queue.insert(index, at);
                elements.insert(index, at);
                assert_eq!(queue.len(), elements.len());
                assert!(queue.into_iter().eq(elements));
            }
        }
    }

    #[test]
    #[should_panic(expected = "within its queue")]
    fn nothing_is_inserted_beyond_the_end() {
        ShortQueue::default().insert(1, 7);
    }
}
