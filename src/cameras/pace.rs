//! What a viewer gets that is slower than its camera: whole pictures are skipped, and a camera with two
//! qualities is watched in the lower one until that has gone well for a while.
//!
//! | a viewer | left when |
//! |---|---|
//! | keeps up: gets every picture, a few late ones too | it is further behind than it may be |
//! | is slow: gets the newest, however few | nothing was skipped for a while |

use crate::wire::tcp_framing::Quality;

/// A slow viewer that skipped nothing for so long keeps up again.
const RECOVERED_MS: u64 = 5_000;
/// A viewer is judged so often.
const PERIOD_MS: u64 = 5_000;
/// So long in the lower quality before the higher one is tried again; doubled each time that fails.
const REST_MS_MIN: u64 = 30_000;
const REST_MS_MAX: u64 = 480_000;

/// Which quality a viewer asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The best that it keeps up with.
    Auto,
    Fixed(Quality),
}

/// How one viewer keeps up.
#[derive(Debug)]
pub struct Pace {
    wanted: Wanted,
    lag_pictures_max: u64,
    /// Since when nothing was skipped; `None` while the viewer keeps up.
    slow_since_ms: Option<u64>,
    period: Period,
    quality: Quality,
    rest_ms: u64,
    rest_until_ms: u64,
}

#[derive(Debug, Default)]
struct Period {
    began_ms: u64,
    sent: u64,
    skipped: u64,
}

impl Pace {
    /// `now_ms` is of any clock that does not jump.
    pub fn new(wanted: Wanted, lag_pictures_max: u64, now_ms: u64) -> Pace {
        let quality = match wanted {
            Wanted::Auto => Quality::High,
            Wanted::Fixed(quality) => quality,
        };
        Pace {
            wanted,
            lag_pictures_max,
            slow_since_ms: None,
            period: Period { began_ms: now_ms, ..Period::default() },
            quality,
            rest_ms: REST_MS_MIN,
            rest_until_ms: 0,
        }
    }

    /// The quality for now.
    pub fn quality(&self) -> Quality {
        self.quality
    }

    /// So many pictures wait behind the next one: true if some are to be skipped.
    pub fn is_too_far(&self, behind: u64) -> bool {
        let allowed = if self.slow_since_ms.is_some() { 0 } else { self.lag_pictures_max };
        behind > allowed
    }

    /// One picture goes out, and so many before it did not.
    pub fn note(&mut self, skipped: u64, now_ms: u64) {
        self.period.sent += 1;
        self.period.skipped += skipped;
        match self.slow_since_ms {
            _ if skipped > 0 => self.slow_since_ms = Some(now_ms),
            Some(since) if now_ms.saturating_sub(since) >= RECOVERED_MS => {
                self.slow_since_ms = None;
            }
            _ => {}
        }
        if now_ms.saturating_sub(self.period.began_ms) >= PERIOD_MS {
            self.judge(now_ms);
        }
    }

    fn judge(&mut self, now_ms: u64) {
        let Period { sent, skipped, .. } =
            std::mem::replace(&mut self.period, Period { began_ms: now_ms, ..Period::default() });
        if self.wanted != Wanted::Auto {
            return;
        }
        match self.quality {
            Quality::High if skipped > sent => {
                let has_failed_again = now_ms < self.rest_until_ms + 2 * self.rest_ms;
                self.rest_ms = match self.rest_until_ms {
                    0 => REST_MS_MIN,
                    _ if has_failed_again => (2 * self.rest_ms).min(REST_MS_MAX),
                    _ => REST_MS_MIN,
                };
                self.rest_until_ms = now_ms + self.rest_ms;
                self.quality = Quality::Low;
            }
            Quality::Low if skipped == 0 && now_ms >= self.rest_until_ms => {
                self.quality = Quality::High;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICTURE_MS: u64 = 40;

    fn skip(pace: &mut Pace, behind: u64, now_ms: u64) -> u64 {
        let skipped = if pace.is_too_far(behind) { behind } else { 0 };
        pace.note(skipped, now_ms);
        skipped
    }

    /// A viewer that finds so many pictures behind the next one each time, for so long.
    fn watch(pace: &mut Pace, now_ms: &mut u64, behind: u64, ms: u64) -> (u64, u64) {
        let (end_ms, mut sent, mut skipped) = (*now_ms + ms, 0, 0);
        while *now_ms < end_ms {
            let now = skip(pace, behind, *now_ms);
            sent += 1;
            skipped += now;
            *now_ms += PICTURE_MS * (1 + now);
        }
        (sent, skipped)
    }

    fn pace(wanted: Wanted) -> Pace {
        Pace::new(wanted, 25, 0)
    }

    #[test]
    fn a_moment_of_lag_costs_nothing() {
        let mut pace = pace(Wanted::Auto);
        assert_eq!((25..30).map(|behind| skip(&mut pace, behind - 25, 1)).sum::<u64>(), 0);
        assert_eq!(skip(&mut pace, 25, 2), 0);
        assert_eq!(skip(&mut pace, 26, 3), 26, "to the newest");
        assert_eq!(skip(&mut pace, 1, 4), 1, "a slow one gets the newest");
        assert_eq!((skip(&mut pace, 0, 10), skip(&mut pace, 0, 4_000)), (0, 0));
        assert_eq!(skip(&mut pace, 1, 4_900), 1);
        assert_eq!(
            (skip(&mut pace, 0, 9_950), skip(&mut pace, 9, 9_960)),
            (0, 0),
            "it keeps up again"
        );
    }

    #[test]
    fn a_slow_viewer_gets_the_lower_quality_for_a_while() {
        let (mut pace, mut now_ms) = (pace(Wanted::Auto), 0);
        watch(&mut pace, &mut now_ms, 0, 60_000);
        assert_eq!(pace.quality(), Quality::High);
        watch(&mut pace, &mut now_ms, 30, 12_000);
        assert_eq!(pace.quality(), Quality::Low);
        watch(&mut pace, &mut now_ms, 0, 20_000);
        assert_eq!(pace.quality(), Quality::Low);
        watch(&mut pace, &mut now_ms, 0, 20_000);
        assert_eq!(pace.quality(), Quality::High, "after half a minute");
        watch(&mut pace, &mut now_ms, 30, 12_000);
        assert_eq!(pace.quality(), Quality::Low);
        watch(&mut pace, &mut now_ms, 0, 40_000);
        assert_eq!(pace.quality(), Quality::Low, "a minute this time");
        watch(&mut pace, &mut now_ms, 0, 30_000);
        assert_eq!(pace.quality(), Quality::High);
    }

    /// Goal: who asked for a quality gets it, however slow it is, and however slow the camera.
    #[test]
    fn a_quality_that_was_asked_for_stays() {
        for quality in [Quality::Low, Quality::High] {
            let (mut pace, mut now_ms) = (pace(Wanted::Fixed(quality)), 0);
            let (sent, skipped) = watch(&mut pace, &mut now_ms, 30, 600_000);
            assert!(sent > 0 && skipped > sent);
            assert_eq!(pace.quality(), quality);
        }
    }
}
