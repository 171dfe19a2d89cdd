//! One request to an upstream, and everybody who waits for its answer.
//!
//! | a flight is | left by |
//! |---|---|
//! | under way | `land`: the answer can be given, or there is none |
//! | landed | nothing: whoever waited gets this outcome, however long it may be kept |

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use super::fetched::Fetched;
use crate::store::{News, NewsWait, Store};

pub struct Flight {
    news: Arc<News>,
    outcome: OnceLock<Outcome>,
    /// It has landed by then, unless the thread is stuck.
    pub wait_ms_max: u64,
}

#[derive(Clone)]
pub enum Outcome {
    Answer(Arc<Fetched>),
    Failed(Failure),
}

/// Why there is nothing to answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the upstream did not answer in time")]
    TimedOut,
    /// The same of what is fetched as a whole, as restreamer answers it.
    #[error("the upstream did not send all of it in time")]
    TooSlow,
    #[error("the upstream is not reached, or cannot be read")]
    Unreachable,
    #[error("the upstream's answer is broken or makes no sense")]
    Broken,
    #[error("the upstream's answer is too long")]
    TooLarge,
    #[error("the upstream wants other credentials than it got")]
    Refused,
    #[error("too many requests to the upstream are under way; try again")]
    Busy,
    #[error("there is no room for the upstream's answer; try again")]
    NoRoom,
}

impl Flight {
    pub(super) fn new(wait_ms_max: u64) -> Arc<Flight> {
        Arc::new(Flight { news: Arc::default(), outcome: OnceLock::new(), wait_ms_max })
    }

    /// `None` while it is under way.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    /// The first outcome stays; true if this is it.
    pub(super) fn land(&self, outcome: Outcome, store: &Store) -> bool {
        let is_first = self.outcome.set(outcome).is_ok();
        if is_first {
            self.news.tell(store, None);
        }
        is_first
    }

    pub fn wait(&self) -> FlightWait {
        FlightWait(NewsWait::new(self.news.clone(), 0))
    }
}

/// Waits on one core until a flight has landed.
pub struct FlightWait(NewsWait);

impl FlightWait {
    pub fn poll_landed(&mut self, core: usize, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_news(core, context)
    }
}
