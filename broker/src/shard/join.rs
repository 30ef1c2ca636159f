//! Several futures at once within one task.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

/// Drives all futures to their end and returns their outcomes in the order given.
pub async fn join_all<T>(futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>) -> Vec<T> {
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
