//! Attempts after a loss: pauses that double, and a limit for all of them together. The limit counts
//! from the first loss to the next success, which is that bytes get through: a server that only
//! accepts connections has not succeeded.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::failure::ClientError;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

pub(super) struct Retry {
    reconnect_max_s: u64,
    pause: Duration,
    /// Since the first loss after a success.
    deadline: Option<Instant>,
}

impl Retry {
    pub(super) fn new(reconnect_max_s: u64) -> Retry {
        Retry { reconnect_max_s, pause: PAUSE_MIN, deadline: None }
    }

    pub(super) fn succeeded(&mut self) {
        self.pause = PAUSE_MIN;
        self.deadline = None;
    }

    /// Attempt again and again after `loss`, as long as what goes wrong may pass.
    pub(super) async fn again<T>(
        &mut self,
        loss: ClientError,
        mut attempt: impl AsyncFnMut() -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        if !loss.may_pass() {
            return Err(loss);
        }
        tracing::warn!("{loss}; trying again");
        let limit = Duration::from_secs(self.reconnect_max_s);
        let deadline = *self.deadline.get_or_insert_with(|| sleep(limit).deadline());
        let mut last = loss;
        loop {
            let pause = self.next_pause();
            let attempted = timeout_at(deadline, async {
                sleep(pause).await;
                attempt().await
            });
            match attempted.await {
                Ok(Err(error)) if error.may_pass() => {
                    tracing::info!("{error}; trying again");
                    last = error;
                }
                Ok(outcome) => return outcome,
                Err(_) => {
                    let seconds = self.reconnect_max_s;
                    return Err(ClientError::GaveUp { seconds, last: Box::new(last) });
                }
            }
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(work)
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_begin_again() {
        let mut retry = Retry::new(60);
        let pauses: Vec<u128> = (0..8).map(|_| retry.next_pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        retry.succeeded();
        assert_eq!(retry.next_pause(), PAUSE_MIN);
    }

    #[test]
    fn what_does_not_pass_is_not_attempted_again() {
        let mut retry = Retry::new(60);
        let mut attempts = 0;
        let outcome = block_on(retry.again(ClientError::lost("x"), async || {
            attempts += 1;
            match attempts {
                1 => Err(ClientError::Status(503)),
                _ => Err::<(), _>(ClientError::Status(403)),
            }
        }));
        assert!(matches!(outcome, Err(ClientError::Status(403))));
        assert_eq!(attempts, 2);
        let outcome = block_on(retry.again(ClientError::Replaced, async || Ok(())));
        assert!(matches!(outcome, Err(ClientError::Replaced)));
    }

    #[test]
    fn the_limit_counts_from_the_first_loss() {
        let mut retry = Retry::new(0);
        let outcome = block_on(retry.again(ClientError::lost("x"), async || Ok(())));
        let Err(ClientError::GaveUp { seconds: 0, last }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(last.to_string(), "the connection was lost: x");
        let mut retry = Retry::new(60);
        block_on(retry.again(ClientError::lost("x"), async || Ok(()))).unwrap();
        let first = retry.deadline.unwrap();
        block_on(retry.again(ClientError::lost("x"), async || Ok(()))).unwrap();
        assert_eq!(retry.deadline, Some(first), "connections alone are no success");
    }
}
