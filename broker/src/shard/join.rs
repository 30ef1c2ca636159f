//! Several futures at once within one task.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

/// A future of one shard, boxed so that several kinds fit one list.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Drives all futures to their end and returns their outcomes in the order given.
pub async fn join_all<T>(futures: Vec<Boxed<'_, T>>) -> Vec<T> {
    let mut slots: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, outcome) in &mut slots {
            let Some(running) = future.as_mut() else { continue };
            match running.as_mut().poll(context) {
                Poll::Ready(value) => {
                    *outcome = Some(value);
                    *future = None;
                }
                Poll::Pending => pending = true,
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    slots.into_iter().filter_map(|(_, outcome)| outcome).collect()
}

/// Which of two futures was ready first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First<A, B> {
    /// The first one; it wins if both are ready.
    Left(A),
    /// The second one.
    Right(B),
}

/// Waits for whichever of two futures is ready first; the other one can be waited for again.
pub async fn first<A, B>(
    left: &mut (impl Future<Output = A> + Unpin),
    right: &mut (impl Future<Output = B> + Unpin),
) -> First<A, B> {
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = Pin::new(&mut *left).poll(context) {
            return Poll::Ready(First::Left(value));
        }
        match Pin::new(&mut *right).poll(context) {
            Poll::Ready(value) => Poll::Ready(First::Right(value)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
