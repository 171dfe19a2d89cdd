//! Tells others of events by a GET: the limit of readers was reached, is no longer, and that the server
//! is there. Each call has a thread that may wait, so one that hangs stops nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use ureq::Agent;

/// Events that wait to be told; more are dropped, with a line in the log.
pub const EVENTS_WAITING_MAX: usize = 64;
/// Calls that are under way.
pub const NOTIFICATIONS_MAX: usize = 16;
/// Nobody reads the answer.
const ANSWER_HEAD_BYTES_MAX: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// There are as many readers as `viewers.full`.
    LimitHit,
    /// There are fewer again.
    LimitMiss,
    Heartbeat,
}

/// Whom to tell of what.
#[derive(Debug, Clone)]
pub struct Notification {
    pub event: Event,
    pub url: String,
    pub timeout: Duration,
    /// The value of an Authorization field.
    pub authorization: Option<String>,
}

/// Tells until it is dropped.
pub(super) async fn run(
    notifications: Vec<Notification>,
    heartbeat_interval: Duration,
    mut events: mpsc::Receiver<Event>,
) {
    let turns = Arc::new(Semaphore::new(NOTIFICATIONS_MAX));
    let mut heartbeat = interval(heartbeat_interval);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = events.recv() => match event {
                Some(event) => event,
                None => return,
            },
            _ = heartbeat.tick() => Event::Heartbeat,
        };
        for notification in notifications.iter().filter(|it| it.event == event) {
            let Ok(turn) = turns.clone().try_acquire_owned() else {
                tracing::warn!(url = notification.url, ?event, "too many notifications wait");
                continue;
            };
            let notification = notification.clone();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = tell(&notification) {
                    tracing::warn!(url = notification.url, ?event, %error, "nobody was told");
                }
                drop(turn);
            });
        }
    }
}

fn tell(notification: &Notification) -> Result<(), ureq::Error> {
    let config = Agent::config_builder()
        .timeout_global(Some(notification.timeout))
        .http_status_as_error(true)
        .max_response_header_size(ANSWER_HEAD_BYTES_MAX)
        .max_idle_connections(0)
        .user_agent(concat!("headwater/", env!("CARGO_PKG_VERSION")));
    let mut request = config.build().new_agent().get(&notification.url);
    if let Some(authorization) = &notification.authorization {
        request = request.header("Authorization", authorization);
    }
    request.call().map(drop)
}
