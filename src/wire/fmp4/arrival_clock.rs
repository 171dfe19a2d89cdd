//! A clock for pictures that come without times, as cameras send them: it follows their arrivals, but not
//! the jitter of the network. Times and intervals are those of the arrivals' clock, so that nothing
//! drifts away from it.
//!
//! Each picture is expected one interval after the last. It comes at another time, and the clock goes a
//! part of the way there (a fit to a line through the last [`FIT_PICTURES`] arrivals); the interval
//! learns from the same error. What is further off is something else:
//!
//! | what comes | becomes |
//! |---|---|
//! | a picture more than 1 s late | a pause: the clock jumps there |
//! | pictures at once, after a pause or a stall | an interval that is shorter, at least a quarter |
//! | a picture 5 s early, or a day late | another clock: times go on as if nothing had happened |
//! | eight intervals in a row that are much longer, or much shorter | another rate: their mean |

const NS: i64 = 1;
const US: i64 = 1000 * NS;
const MS: i64 = 1000 * US;
const S: i64 = 1000 * MS;

/// What is assumed of the first picture when nobody knows better.
const INTERVAL_NS: i64 = 40 * MS;
const INTERVAL_NS_MIN: i64 = 2 * MS;
const INTERVAL_NS_MAX: i64 = 10 * S;
/// What one step goes at least, whatever is told of arrivals.
const STEP_NS_MIN: i64 = MS;
const LATE_NS_MAX: i64 = S;
const EARLY_NS_MAX: i64 = 5 * S;
const PAUSE_NS_MAX: i64 = 24 * 3600 * S;

const FIT_PICTURES: i64 = 64;
/// A rate that the encoder tells is worth as many arrivals.
const TOLD_PICTURES: i64 = 32;
/// From a larger error no more is learnt: it is a stall, and what follows makes good for it.
const LEARNT_NS_MAX: i64 = 40 * MS;
/// So many intervals of another length are another rate.
const RUN_PICTURES: i64 = 8;

#[derive(Debug)]
pub(super) struct ArrivalClock {
    /// Of the last picture; counted from the arrival of the first.
    time_ns: i64,
    interval_ns: i64,
    /// Arrivals that the interval is made of.
    pictures: i64,
    run: Run,
    state: Option<Arrived>,
}

#[derive(Debug, Clone, Copy)]
struct Arrived {
    /// Where time 0 is on the arrivals' clock.
    zero_us: i64,
    last_us: i64,
}

/// Intervals in a row that are all longer, or all shorter, than the one in use.
#[derive(Debug, Default)]
struct Run {
    is_longer: bool,
    intervals: i64,
    sum_ns: i64,
}

impl ArrivalClock {
    /// `rate` is what is told of the stream: pictures in a second.
    pub(super) fn new(rate: Option<f64>) -> ArrivalClock {
        // Rates are checked where they are read; the cast saturates.
        let told_ns = rate.filter(|rate| *rate > 0.0).map(|rate| (S as f64 / rate) as i64);
        ArrivalClock {
            time_ns: 0,
            interval_ns: told_ns.map_or(INTERVAL_NS, bounded),
            pictures: if told_ns.is_some() { TOLD_PICTURES } else { 1 },
            run: Run::default(),
            state: None,
        }
    }

    /// The time of the picture that came at `arrived_us`, in nanoseconds: 0 for the first, and more than
    /// before for all others.
    pub(super) fn next_ns(&mut self, arrived_us: i64) -> i64 {
        let Some(state) = &mut self.state else {
            self.state = Some(Arrived { zero_us: arrived_us, last_us: arrived_us });
            return self.time_ns;
        };
        let since_ns = |us: i64| arrived_us.saturating_sub(us).saturating_mul(US);
        let expected_ns = self.time_ns + self.interval_ns;
        let error_ns = since_ns(state.zero_us).saturating_sub(expected_ns);
        let passed_ns = since_ns(state.last_us);
        state.last_us = arrived_us;
        if !(-EARLY_NS_MAX..=PAUSE_NS_MAX).contains(&error_ns) {
            state.zero_us = arrived_us.saturating_sub(expected_ns / US);
            self.time_ns = expected_ns;
        } else if error_ns > LATE_NS_MAX {
            self.time_ns = expected_ns + error_ns;
        } else {
            self.follow(error_ns);
        }
        self.watch_rate(passed_ns);
        self.time_ns
    }

    /// How long a picture lasts.
    pub(super) fn interval_ns(&self) -> i64 {
        self.interval_ns
    }

    /// When what has this time came, or would have without jitter.
    pub(super) fn arrival_us(&self, time_ns: i64) -> i64 {
        let zero_us = self.state.map_or(0, |state| state.zero_us);
        zero_us.saturating_add(time_ns / US)
    }

    /// The gains are those of a line of least squares through so many arrivals, one more each time.
    fn follow(&mut self, error_ns: i64) {
        let is_settled = self.pictures == FIT_PICTURES;
        self.pictures = (self.pictures + 1).min(FIT_PICTURES);
        let n = self.pictures;
        let divisor = n * (n + 1);
        let corrected_ns = error_ns.saturating_mul(2 * (2 * n - 1)) / divisor;
        let step_ns = (self.interval_ns + corrected_ns).max(self.interval_ns / 4).max(STEP_NS_MIN);
        self.time_ns += step_ns;
        let learnt_ns =
            if is_settled { error_ns.clamp(-LEARNT_NS_MAX, LEARNT_NS_MAX) } else { error_ns };
        self.interval_ns = bounded(self.interval_ns + learnt_ns.saturating_mul(6) / divisor);
    }

    /// A camera that has less light sends fewer pictures. One that comes at once with the one before
    /// says nothing.
    fn watch_rate(&mut self, passed_ns: i64) {
        let is_longer = passed_ns > self.interval_ns / 2 * 3;
        let is_shorter = (self.interval_ns / 5..self.interval_ns / 3 * 2).contains(&passed_ns);
        if !is_longer && !is_shorter || passed_ns > INTERVAL_NS_MAX {
            self.run = Run::default();
            return;
        }
        if self.run.is_longer != is_longer {
            self.run = Run { is_longer, ..Run::default() };
        }
        self.run.intervals += 1;
        self.run.sum_ns += passed_ns;
        if self.run.intervals == RUN_PICTURES {
            self.interval_ns = bounded(self.run.sum_ns / RUN_PICTURES);
            self.run = Run::default();
        }
    }
}

fn bounded(interval_ns: i64) -> i64 {
    interval_ns.clamp(INTERVAL_NS_MIN, INTERVAL_NS_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A cheap generator: numbers from -1 to 1.
    fn noise() -> impl FnMut() -> f64 {
        let mut state = 1_u64;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1_u64 << 30) as f64 - 1.0
        }
    }

    fn times_ms(clock: &mut ArrivalClock, arrivals_us: impl IntoIterator<Item = i64>) -> Vec<f64> {
        arrivals_us.into_iter().map(|us| clock.next_ns(us) as f64 / 1e6).collect()
    }

    fn steps(times: &[f64]) -> Vec<f64> {
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn range(values: &[f64]) -> (f64, f64) {
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        (min, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }

    /// `count` arrivals so far apart, and each by up to `jitter_ms` off; never before the last.
    fn arrivals(start_ms: f64, interval_ms: f64, jitter_ms: f64, count: usize) -> Vec<i64> {
        let (mut noise, mut last) = (noise(), i64::MIN);
        let each = (0..count).map(|at| {
            let ms = start_ms + at as f64 * interval_ms + noise() * jitter_ms;
            last = last.max((ms * 1000.0) as i64);
            last
        });
        each.collect()
    }

    #[test]
    fn even_arrivals_are_kept() {
        let mut clock = ArrivalClock::new(None);
        let times = times_ms(&mut clock, arrivals(1e9, 100.0 / 3.0, 0.0, 200));
        let (min, max) = range(&steps(&times)[1..]);
        assert!(min > 33.32 && max < 33.35, "{min} {max}");
        assert_eq!(times[0], 0.0);
        assert_eq!(clock.arrival_us(0), 1_000_000_000_000);
    }

    /// Goal: ±30 ms at 25 pictures per second come out as 40 ± 5 ms, from the first second on if the
    /// encoder has told its rate, and after an hour the time is still that of the arrivals.
    #[test]
    fn jitter_is_smoothed() {
        for (rate, settled) in [(Some(25.0), 25), (None, 100)] {
            let mut clock = ArrivalClock::new(rate);
            let came = arrivals(0.0, 40.01, 30.0, 90_000);
            let times = times_ms(&mut clock, came.iter().copied());
            let (min, max) = range(&steps(&times)[settled..]);
            assert!(min > 35.0 && max < 45.0, "{rate:?}: {min} {max}");
            let zero_ms = came[0] as f64 / 1000.0;
            let errors: Vec<f64> =
                (settled..times.len()).map(|at| zero_ms + times[at] - at as f64 * 40.01).collect();
            let (min, max) = range(&errors);
            assert!(min > -15.0 && max < 15.0, "{rate:?}: {min} {max}");
        }
    }

    #[test]
    fn a_wrong_rate_is_found_out() {
        for (told, interval_ms) in
            [(60.0, 40.0), (25.0, 1000.0 / 60.0), (50.0, 200.0), (25.0, 2000.0)]
        {
            let mut clock = ArrivalClock::new(Some(told));
            let times = times_ms(&mut clock, arrivals(0.0, interval_ms, 2.0, 300));
            let (min, max) = range(&steps(&times)[200..]);
            assert!(min > interval_ms - 8.0 && max < interval_ms + 8.0, "{told}: {min} {max}");
            assert!((times[299] - 299.0 * interval_ms).abs() < 100.0, "{told}: {}", times[299]);
        }
    }

    #[test]
    fn a_camera_in_the_dark_sends_fewer() {
        let mut clock = ArrivalClock::new(Some(30.0));
        let mut came = arrivals(0.0, 33.3, 8.0, 300);
        came.extend(arrivals(10_000.0, 100.0, 8.0, 300));
        came.extend(arrivals(40_000.0, 33.3, 8.0, 300));
        let times = times_ms(&mut clock, came.iter().copied());
        let steps = steps(&times);
        let largest = range(&steps).1;
        assert!(largest < 200.0, "no jump: {largest}");
        let (min, max) = range(&steps[380..590]);
        assert!(min > 94.0 && max < 106.0, "{min} {max}");
        let (min, max) = range(&steps[680..]);
        assert!(min > 31.0 && max < 36.0, "{min} {max}");
    }

    #[test]
    fn a_pause_is_a_pause() {
        let mut clock = ArrivalClock::new(Some(25.0));
        let mut came = arrivals(0.0, 40.0, 0.0, 100);
        came.extend(arrivals(13_960.0, 40.0, 0.0, 100));
        let steps = steps(&times_ms(&mut clock, came));
        assert!((steps[99] - 10_000.0).abs() < 1.0, "{}", steps[99]);
        let (min, max) = range(&steps[100..]);
        assert!(min > 39.0 && max < 41.0, "{min} {max}");
    }

    /// Goal: after a stall of the network what was held up comes at once. A short one is smoothed, a
    /// long one is played faster; the interval survives both.
    #[test]
    fn a_stall_is_made_good() {
        for (stall_ms, held) in [(600.0, 15), (4000.0, 100)] {
            let mut clock = ArrivalClock::new(Some(25.0));
            let mut came = arrivals(0.0, 40.0, 0.0, 200);
            came.extend(arrivals(7960.0 + stall_ms, 0.0, 0.0, held));
            came.extend(arrivals(8000.0 + stall_ms, 40.0, 0.0, 600));
            let times = times_ms(&mut clock, came.iter().copied());
            let (min, max) = range(&steps(&times)[200..]);
            let jump = if stall_ms > 1000.0 { stall_ms + 1.0 } else { 80.0 };
            assert!(min > 7.0 && max < jump, "{stall_ms}: {min} {max}");
            let (min, max) = range(&steps(&times)[700..]);
            assert!(min > 37.0 && max < 43.0, "{stall_ms}: {min} {max}");
            let late_ms = times.last().unwrap() - *came.last().unwrap() as f64 / 1000.0;
            assert!(late_ms.abs() < 10.0, "{stall_ms}: {late_ms}");
        }
    }

    #[test]
    fn a_clock_that_is_set_changes_nothing() {
        for set_ms in [-3_600_000.0, -10_000.0, 1e12] {
            let mut clock = ArrivalClock::new(Some(25.0));
            let mut came = arrivals(4e9, 40.0, 0.0, 100);
            came.extend(arrivals(4e9 + 4000.0 + set_ms, 40.0, 0.0, 100));
            let times = times_ms(&mut clock, came.iter().copied());
            let (min, max) = range(&steps(&times));
            assert!(min > 39.0 && max < 41.0, "{set_ms}: {min} {max}");
            let told_us = clock.arrival_us((times[199] * 1e6) as i64);
            assert!((told_us - came[199]).abs() < 2000);
        }
    }

    proptest! {
        #[test]
        fn no_arrivals_are_too_odd(
            rate in prop::option::of(any::<f64>()),
            arrivals in prop::collection::vec(
                prop_oneof![any::<i64>(), -5_000_000i64..5_000_000, Just(0), Just(i64::MAX)],
                0..300,
            ),
        ) {
            let (mut clock, mut last) = (ArrivalClock::new(rate), -1);
            for arrived_us in arrivals {
                let time_ns = clock.next_ns(arrived_us);
                let step_ns_min = if last < 0 { 1 } else { STEP_NS_MIN };
                prop_assert!(time_ns >= last + step_ns_min);
                last = time_ns;
                let _ = clock.arrival_us(time_ns);
            }
        }
    }
}
