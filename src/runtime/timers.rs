//! Waiting for time to pass on a core.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

pub async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// `future`'s value, or `None` when `duration` passes first. Only for futures that own no kernel
/// operation that moves bytes: dropping those would lose data.
pub async fn within<F: Future>(duration: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = pin!(monoio::time::sleep(duration));
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        timer.as_mut().poll(context).map(|()| None)
    })
    .await
}
