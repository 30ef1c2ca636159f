//! Futures that are not waited for indefinitely.

use crate::runtime::Runtime;
use std::future::Future;
use std::pin::{Pin, pin};
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
    let (mut future, mut sleep) = (pin!(future), pin!(None));
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        // What is there at once needs no timer.
        if sleep.is_none() {
            sleep.set(Some(runtime.sleep(duration)));
        }
        sleep.as_mut().as_pin_mut().map_or(Poll::Pending, |sleep| sleep.poll(context).map(|()| None))
    })
    .await
}

/// A timer for what mostly ends long before it: it stays set, and is set again only when it has run out.
#[derive(Default)]
pub struct Ticker(Option<Pin<Box<dyn Future<Output = ()>>>>);

impl Ticker {
    /// The outcome of `future` if it comes before the next tick, otherwise `None`: a tick comes after `period` at the
    /// latest, and possibly at once.
    pub async fn until_tick<R: Runtime, T>(
        &mut self,
        runtime: &R,
        period: Duration,
        mut future: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        std::future::poll_fn(|context| {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                return Poll::Ready(Some(value));
            }
            let timer = self.0.get_or_insert_with(|| Box::pin(runtime.sleep(period)));
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.0 = None;
            Poll::Ready(None)
        })
        .await
    }
}
