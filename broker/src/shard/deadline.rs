//! Futures that are not waited for indefinitely.

use crate::runtime::Runtime;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// Which of two futures was ready first.
#[derive(Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first one; it is preferred if both are ready.
    First(A),
    /// The second one.
    Second(B),
}

/// Drives both until one is ready; the other one is dropped.
pub async fn either<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> Either<A, B> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = first.as_mut().poll(context) {
            return Poll::Ready(Either::First(value));
        }
        second.as_mut().poll(context).map(Either::Second)
    })
    .await
}

/// The outcome of `future` if it comes within `duration`, otherwise `None`; the future is dropped then.
pub async fn within<R: Runtime, T>(
    runtime: &R,
    duration: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    match either(future, runtime.sleep(duration)).await {
        Either::First(value) => Some(value),
        Either::Second(()) => None,
    }
}
