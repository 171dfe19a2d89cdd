//! Waiting for time to pass on a core.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::clock;

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

/// What a connection's pulse wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// It is time to say something.
    Speak,
    /// The peer has said nothing for too long.
    Silent,
}

/// When to say something to a peer that is only waited for, and when it has been silent for too long.
pub struct Pulse {
    sleep: Pin<Box<monoio::time::Sleep>>,
    period: Duration,
    silence_max: Option<Duration>,
    speak_at: Instant,
    heard_at: Instant,
    /// When to say it along with something else, by the clock of ticks.
    speak_early_at_ms: u64,
    /// Before this, by the clock of ticks, the alarm need not be looked at; `None` while nobody waits
    /// for it.
    quiet_until_ms: Option<u64>,
}

/// The clock of ticks may be behind by one, and by more on a machine that was stopped.
const CLOCK_LAG_MAX: Duration = Duration::from_secs(1);
/// Who sends something this long before it is time to speak may speak then.
const EARLY_MAX: Duration = Duration::from_millis(100);

impl Pulse {
    pub fn new(period_s: u64, silence_s_max: Option<u64>) -> Pulse {
        let (period, now) = (Duration::from_secs(period_s), clock::now());
        let mut pulse = Pulse {
            sleep: Box::pin(monoio::time::sleep(period)),
            period,
            silence_max: silence_s_max.map(Duration::from_secs),
            speak_at: now + period,
            heard_at: now,
            speak_early_at_ms: 0,
            quiet_until_ms: None,
        };
        pulse.spoken(now);
        pulse.sleep_on();
        pulse
    }

    pub fn heard(&mut self) {
        // The alarm may ring too early now: then it is set again.
        self.heard_at = clock::now();
    }

    fn spoken(&mut self, now: Instant) {
        self.speak_at = now + self.period;
        let early = self.period.saturating_sub(EARLY_MAX).as_millis() as u64;
        self.speak_early_at_ms = clock::tick_ms() + early;
    }

    /// True if it is nearly time to say something; then that counts as said. Saying it along with
    /// something else is a send and a wake-up less.
    pub fn may_speak_early(&mut self) -> bool {
        let may = clock::tick_ms() >= self.speak_early_at_ms;
        if may {
            // The alarm rings all the same, and is set again then.
            self.spoken(clock::now());
        }
        may
    }

    fn sleep_on(&mut self) {
        let silent_at = self.silence_max.map(|max| self.heard_at + max);
        let next = silent_at.map_or(self.speak_at, |at| at.min(self.speak_at));
        self.sleep.as_mut().reset(next.into());
    }

    /// Asked with each message that is sent: a look at the clock, most of the time.
    pub fn poll_beat(&mut self, context: &mut Context<'_>) -> Poll<Beat> {
        if self.quiet_until_ms.is_some_and(|until_ms| clock::tick_ms() < until_ms) {
            return Poll::Pending;
        }
        self.poll_alarm(context)
    }

    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Poll<Beat> {
        loop {
            if self.sleep.as_mut().poll(context).is_pending() {
                let left = self.sleep.deadline().into_std().saturating_duration_since(clock::now());
                let quiet_ms = left.saturating_sub(CLOCK_LAG_MAX).as_millis() as u64;
                self.quiet_until_ms = Some(clock::tick_ms() + quiet_ms);
                return Poll::Pending;
            }
            self.quiet_until_ms = None;
            let now = clock::now();
            if self.silence_max.is_some_and(|max| now >= self.heard_at + max) {
                return Poll::Ready(Beat::Silent);
            }
            let is_due = now >= self.speak_at;
            if is_due {
                self.spoken(now);
            }
            self.sleep_on();
            if is_due {
                return Poll::Ready(Beat::Speak);
            }
        }
    }
}
