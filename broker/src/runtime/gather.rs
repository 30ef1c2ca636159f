//! The answers to the parts of one message, waited for together: one wake-up for all of them, on the same shard
//! or across shards.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

struct Slots<T> {
    values: Vec<Option<T>>,
    /// Parts whose answer is still to come.
    open: usize,
    waker: Option<Waker>,
}

struct Shared<T>(Mutex<Slots<T>>);

impl<T> Shared<T> {
    fn new(count: usize) -> Self {
        let values = std::iter::repeat_with(|| None).take(count).collect();
        Self(Mutex::new(Slots { values, open: count, waker: None }))
    }

    fn lock(&self) -> MutexGuard<'_, Slots<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts one answer in its place, or counts `count` parts that will not have one.
    fn settle(&self, count: usize, answer: Option<(usize, T)>) {
        let waker = {
            let mut slots = self.lock();
            if let Some((index, value)) = answer
                && let Some(slot) = slots.values.get_mut(index)
            {
                *slot = Some(value);
            }
            slots.open -= count;
            if slots.open == 0 { slots.waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The ways back, all together, on their way to the shard that answers; dropped, no part has an answer.
pub struct Parts<T> {
    shared: Option<Arc<Shared<T>>>,
    count: usize,
}

/// What the parts on one shard have in common: they need no atomic count of their own.
struct OnShard<T>(Arc<Shared<T>>);

/// The ways back, one for each part, in order, on the shard that answers. Parts that are not taken out of it count as
/// dropped with it.
pub struct EachPart<T> {
    shared: Rc<OnShard<T>>,
    next: usize,
    count: usize,
}

/// The way back for one part's answer; dropped without one, the part has none.
pub struct Part<T> {
    shared: Option<Rc<OnShard<T>>>,
    index: usize,
}

/// The end that waits: a future that is ready when every part has its answer or was dropped.
pub struct Receiver<T>(Arc<Shared<T>>);

/// A connected pair for `count` parts.
#[must_use]
pub fn channel<T>(count: usize) -> (Parts<T>, Receiver<T>) {
    let shared = Arc::new(Shared::new(count));
    (Parts { shared: Some(Arc::clone(&shared)), count }, Receiver(shared))
}

impl<T> Parts<T> {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The one way back of a channel for one part.
    ///
    /// # Panics
    /// If it is a channel for any other number of parts.
    #[must_use]
    pub fn into_only(self) -> Part<T> {
        assert_eq!(self.count, 1, "a channel for one part");
        let mut each = self.into_iter();
        each.next().unwrap_or(Part { shared: None, index: 0 })
    }
}

impl<T> IntoIterator for Parts<T> {
    type Item = Part<T>;
    type IntoIter = EachPart<T>;

    fn into_iter(mut self) -> EachPart<T> {
        // Without them there is nothing left to settle.
        let shared = self.shared.take().unwrap_or_else(|| Arc::new(Shared::new(0)));
        EachPart { shared: Rc::new(OnShard(shared)), next: 0, count: self.count }
    }
}

impl<T> Drop for Parts<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take().filter(|_| self.count > 0) {
            shared.settle(self.count, None);
        }
    }
}

impl<T> Iterator for EachPart<T> {
    type Item = Part<T>;

    fn next(&mut self) -> Option<Part<T>> {
        if self.next == self.count {
            return None;
        }
        let index = self.next;
        self.next += 1;
        Some(Part { shared: Some(Rc::clone(&self.shared)), index })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.count - self.next;
        (left, Some(left))
    }
}

impl<T> ExactSizeIterator for EachPart<T> {}

impl<T> Drop for EachPart<T> {
    fn drop(&mut self) {
        let left = self.count - self.next;
        if left > 0 {
            self.shared.0.settle(left, None);
        }
    }
}

impl<T> Part<T> {
    /// Hands the answer over. If nobody waits any more it is dropped.
    pub fn send(mut self, value: T) {
        if let Some(shared) = self.shared.take() {
            shared.0.settle(1, Some((self.index, value)));
        }
    }
}

impl<T> Drop for Part<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.0.settle(1, None);
        }
    }
}

impl<T> Receiver<T> {
    /// The answers that there are by now, in the order of the parts. `None` is a part that was dropped or, if the
    /// future was not ready yet, one whose answer is still to come.
    #[must_use]
    pub fn into_answers(self) -> Vec<Option<T>> {
        std::mem::take(&mut self.0.lock().values)
    }
}

impl<T> Future for Receiver<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut slots = self.0.lock();
        if slots.open == 0 {
            return Poll::Ready(());
        }
        if !slots.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            slots.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_ready<T>(receiver: &mut Receiver<T>, count: &Arc<Count>) -> bool {
        let waker = Waker::from(Arc::clone(count));
        Pin::new(receiver).poll(&mut Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn one_wake_up_for_all_answers() {
        let count = Arc::new(Count::default());
        let (parts, mut receiver) = channel(3);
        assert_eq!(parts.len(), 3);
        let parts: Vec<_> = parts.into_iter().collect();
        assert!(!is_ready(&mut receiver, &count));
        for (number, part) in parts.into_iter().enumerate().rev() {
            assert_eq!(count.0.load(Ordering::Relaxed), 0);
            part.send(number * 10);
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(is_ready(&mut receiver, &count));
        assert_eq!(receiver.into_answers(), [Some(0), Some(10), Some(20)]);
    }

    #[test]
    fn parts_that_are_dropped_have_no_answer() {
        let count = Arc::new(Count::default());
        let (parts, mut receiver) = channel(4);
        let mut parts = parts.into_iter();
        let (first, second) = (parts.next().unwrap(), parts.next().unwrap());
        second.send(7);
        drop(parts);
        assert!(!is_ready(&mut receiver, &count));
        drop(first);
        assert!(is_ready(&mut receiver, &count));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(receiver.into_answers(), [None, Some(7), None, None]);
        let (none, mut receiver) = channel::<u8>(0);
        assert!(is_ready(&mut receiver, &count));
        assert!(none.is_empty());
        assert_eq!(none.into_iter().count(), 0);
        let (unread, mut receiver) = channel::<u8>(2);
        drop(unread);
        assert!(is_ready(&mut receiver, &count));
        assert_eq!(receiver.into_answers(), [None, None]);
    }

    #[test]
    fn who_waits_no_longer_takes_what_there_is() {
        let (parts, receiver) = channel(2);
        let mut parts: Vec<_> = parts.into_iter().collect();
        parts.remove(0).send("in time");
        assert_eq!(receiver.into_answers(), [Some("in time"), None]);
        parts.remove(0).send("too late");
    }

    #[test]
    fn answers_come_from_another_thread() {
        let (parts, mut receiver) = channel(64);
        let answering = std::thread::spawn(move || {
            for (number, part) in parts.into_iter().enumerate() {
                part.send(number);
            }
        });
        answering.join().unwrap();
        assert!(is_ready(&mut receiver, &Arc::default()));
        assert!(receiver.into_answers().into_iter().flatten().eq(0..64));
    }
}
