//! A clock for pictures that come without times, as cameras send them: it goes as evenly as the camera
//! does, however a busy machine or network delivers. Times and intervals are those of the arrivals' clock,
//! so that nothing drifts away from it.
//!
//! Nothing comes before it was sent, but anything may come later: of the last pictures the one that came
//! earliest, counted by intervals, says where the clock should be. It goes there by intervals that are at
//! most [`LEAN_PERCENT`] longer or shorter.
//!
//! | what comes | becomes |
//! |---|---|
//! | a picture more than 1 s late | a pause: the clock jumps there |
//! | pictures at once, after such a pause that was a stall | a quarter of an interval, until the rest is 1 s |
//! | a picture 5 s early, or a day late | another clock: times go on as if nothing had happened |
//! | eight intervals and 1 s that are all much longer, or much shorter | another rate: their mean |
//! | the earliest of three windows, of two if it is far off, so far apart that they agree on another interval | that one |

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
/// Parts bear four times as much: they are to be of one length within 15 % (RFC 8216bis §4.4.4.9).
const LEAN_PERCENT: i64 = 2;
/// So far from its place the clock does not lean any more.
const LATE_NS_MAX: i64 = S;
const EARLY_NS_MAX: i64 = 5 * S;
const PAUSE_NS_MAX: i64 = 24 * 3600 * S;

/// Where no rate is told, the interval is that of a line through so many arrivals.
const FIT_PICTURES: i64 = 32;
/// In so many pictures one is in time.
const WINDOW_PICTURES: i64 = 32;
/// Below this two intervals are one: what jitter is left between the earliest of two windows.
const SAME_PERCENT: i64 = 1;
/// What is told was wrong, and two windows are enough: no jitter is left that goes so far.
const FAR_PERCENT: i64 = 8;
/// So many intervals of another length, that last so long, are another rate.
const RUN_PICTURES: i64 = 8;
const RUN_NS_MIN: i64 = S;

#[derive(Debug)]
pub(super) struct ArrivalClock {
    /// Of the last picture; counted from the arrival of the first.
    time_ns: i64,
    interval_ns: i64,
    /// Arrivals that the interval is made of.
    pictures: i64,
    line: Line,
    run: Run,
    state: Option<Arrived>,
}

#[derive(Debug, Clone, Copy)]
struct Arrived {
    /// Where time 0 is on the arrivals' clock.
    zero_us: i64,
    last_us: i64,
}

/// When pictures are due by counting intervals, and how much later they came.
#[derive(Debug, Default)]
struct Line {
    due_ns: i64,
    /// Since the line began.
    pictures: i64,
    this: Option<Earliest>,
    last: Option<Earliest>,
    /// The interval between those before, if it was another.
    other_ns: Option<i64>,
}

/// The picture of a window that came earliest.
#[derive(Debug, Clone, Copy)]
struct Earliest {
    delay_ns: i64,
    picture: i64,
    came_ns: i64,
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
            pictures: if told_ns.is_some() { FIT_PICTURES } else { 1 },
            line: Line::default(),
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
        let came_ns = since_ns(state.zero_us);
        let error_ns = came_ns.saturating_sub(expected_ns);
        let passed_ns = since_ns(state.last_us);
        state.last_us = arrived_us;
        if !(-EARLY_NS_MAX..=PAUSE_NS_MAX).contains(&error_ns) {
            state.zero_us = arrived_us.saturating_sub(expected_ns / US);
            self.time_ns = expected_ns;
            self.line = Line::at(expected_ns);
        } else if error_ns > LATE_NS_MAX {
            self.time_ns = came_ns;
            self.line = Line::at(came_ns);
        } else if self.pictures < FIT_PICTURES {
            self.fit(error_ns);
            self.line = Line::at(self.time_ns);
        } else {
            self.lean(came_ns);
        }
        self.watch_rate(passed_ns, came_ns);
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
    fn fit(&mut self, error_ns: i64) {
        self.pictures += 1;
        let n = self.pictures;
        let divisor = n * (n + 1);
        let corrected_ns = error_ns.saturating_mul(2 * (2 * n - 1)) / divisor;
        self.step(self.interval_ns + corrected_ns);
        self.interval_ns = bounded(self.interval_ns + error_ns.saturating_mul(6) / divisor);
    }

    fn lean(&mut self, came_ns: i64) {
        let delay_ns = self.line.next(self.interval_ns, came_ns);
        let late_ns = self.line.due_ns + delay_ns - (self.time_ns + self.interval_ns);
        let lean_ns = self.interval_ns * LEAN_PERCENT / 100;
        // What is early by so much was held up, and the pause was none.
        let is_held_up = late_ns < -LATE_NS_MAX;
        let leant_ns = self.interval_ns + late_ns.clamp(-lean_ns, lean_ns);
        self.step(if is_held_up { 0 } else { leant_ns });
        if self.line.pictures % WINDOW_PICTURES == 0
            && let Some(interval_ns) = self.line.end_window(self.interval_ns)
        {
            self.change_interval(interval_ns, came_ns);
        }
    }

    fn step(&mut self, step_ns: i64) {
        self.time_ns += step_ns.max(self.interval_ns / 4).max(STEP_NS_MIN);
    }

    /// Counted from here on by another interval.
    fn change_interval(&mut self, interval_ns: i64, came_ns: i64) {
        self.interval_ns = bounded(interval_ns);
        self.line = Line::at(came_ns);
    }

    /// A camera that has less light sends fewer pictures. One that comes at once with the one before
    /// says nothing, nor do those that were held up.
    fn watch_rate(&mut self, passed_ns: i64, came_ns: i64) {
        let is_longer = passed_ns > self.interval_ns / 2 * 3;
        let is_shorter = (self.interval_ns / 5..self.interval_ns / 3 * 2).contains(&passed_ns)
            && self.line.is_in_time();
        if !is_longer && !is_shorter || passed_ns > INTERVAL_NS_MAX {
            self.run = Run::default();
            return;
        }
        if self.run.is_longer != is_longer {
            self.run = Run { is_longer, ..Run::default() };
        }
        self.run.intervals += 1;
        self.run.sum_ns += passed_ns;
        let is_long = self.run.sum_ns >= RUN_NS_MIN || !is_longer;
        if self.run.intervals >= RUN_PICTURES && is_long {
            self.change_interval(self.run.sum_ns / self.run.intervals, came_ns);
            self.run = Run::default();
        }
    }
}

impl Line {
    /// A picture is due and came then.
    fn at(due_ns: i64) -> Line {
        Line { due_ns, ..Line::default() }
    }

    /// One picture more; returns by how much all are late at least.
    fn next(&mut self, interval_ns: i64, came_ns: i64) -> i64 {
        self.due_ns += interval_ns;
        self.pictures += 1;
        let delay_ns = came_ns.saturating_sub(self.due_ns);
        let own = Earliest { delay_ns, picture: self.pictures, came_ns };
        let this = self.this.filter(|this| this.delay_ns < delay_ns).unwrap_or(own);
        self.this = Some(this);
        self.last.map_or(this.delay_ns, |last| last.delay_ns.min(this.delay_ns))
    }

    /// No picture of this window came earlier than the last one.
    fn is_in_time(&self) -> bool {
        self.this.is_none_or(|this| this.picture == self.pictures)
    }

    /// The next window begins. Returns the interval if it is another.
    fn end_window(&mut self, interval_ns: i64) -> Option<i64> {
        let this = self.this.take()?;
        let last = self.last.replace(this)?;
        let pictures = this.picture - last.picture;
        if pictures < WINDOW_PICTURES / 2 {
            // Too near to each other to say anything; what was said before stands.
            return None;
        }
        let between_ns = (this.came_ns - last.came_ns) / pictures;
        let is_same =
            |other_ns: i64| (between_ns - other_ns).abs() * 100 <= other_ns * SAME_PERCENT;
        // What is much longer or shorter was held up, or is another rate.
        let may_be = (interval_ns / 5 * 3..interval_ns / 3 * 5).contains(&between_ns);
        let is_other = may_be && !is_same(interval_ns);
        let before_ns = std::mem::replace(&mut self.other_ns, is_other.then_some(between_ns));
        let is_far = (between_ns - interval_ns).abs() * 100 > interval_ns * FAR_PERCENT;
        let is_sure = is_far || before_ns.is_some_and(is_same);
        (is_other && is_sure).then_some(between_ns)
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
    /// encoder has told its rate, and after an hour the time is still that of the earliest arrivals.
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
            assert!(min > -45.0 && max < 15.0 && max - min < 25.0, "{rate:?}: {min} {max}");
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
            assert!((times[299] - 299.0 * interval_ms).abs() < 500.0, "{told}: {}", times[299]);
        }
    }

    /// Goal: a rate that is told and is nearly right is found out within three seconds.
    #[test]
    fn a_rate_that_is_a_little_wrong_is_found_out() {
        for (told, interval_ms) in [(25.0, 1000.0 / 30.0), (30.0, 40.0), (24.0, 1000.0 / 30.0)] {
            let mut clock = ArrivalClock::new(Some(told));
            let times = times_ms(&mut clock, arrivals(0.0, interval_ms, 5.0, 300));
            let (min, max) = range(&steps(&times)[70..]);
            assert!(min > interval_ms * 0.95 && max < interval_ms * 1.05, "{told}: {min} {max}");
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
            assert!(late_ms.abs() < 400.0, "{stall_ms}: {late_ms}");
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

    fn steps_of(rate: Option<f64>, arrivals_ms: &[f64]) -> Vec<f64> {
        let arrivals_us = arrivals_ms.iter().map(|ms| (ms * 1000.0) as i64);
        steps(&times_ms(&mut ArrivalClock::new(rate), arrivals_us))
    }

    /// Pictures of a camera on a busy machine: each `stall_ms` nothing for a while, then all at once.
    fn stalls(count: usize, every_ms: f64, stall_ms: f64) -> Vec<f64> {
        let due = (0..count).map(|at| at as f64 * 40.0);
        let held = |ms: f64| {
            let since = ms % every_ms;
            if since < stall_ms { ms - since + stall_ms } else { ms }
        };
        due.map(held).collect()
    }

    /// Goal: a machine that stops again and again is not seen in the times, told rate or not.
    #[test]
    fn stalls_are_not_seen() {
        for (rate, from) in [(Some(25.0), 0), (None, 200)] {
            for stall_ms in [100.0, 300.0, 600.0, 900.0] {
                let steps = steps_of(rate, &stalls(2000, 1730.0, stall_ms));
                let (min, max) = range(&steps[from..]);
                assert!(min > 38.0 && max < 42.0, "{rate:?} {stall_ms}: {min} {max}");
            }
        }
    }

    /// Goal: what is off at the beginning is made good, a drift followed, and the time stays that of
    /// the arrivals.
    #[test]
    fn drift_is_followed() {
        for interval_ms in [39.99, 40.6, 41.9, 33.3] {
            let mut arrivals: Vec<_> = (0..3000).map(|at| at as f64 * interval_ms).collect();
            arrivals[0] += 400.0;
            arrivals[1..12].fill(400.0);
            let steps = steps_of(Some(25.0), &arrivals);
            let late_ms: f64 = arrivals[2999] - arrivals[0] - steps.iter().sum::<f64>();
            assert!(late_ms.abs() < 40.0, "{interval_ms}: {late_ms}");
            let (min, max) = range(&steps[1000..]);
            assert!(min > interval_ms * 0.95 && max < interval_ms * 1.05, "{min} {max}");
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
