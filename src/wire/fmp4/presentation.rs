//! When pictures are shown that are decoded in another order. Only their order is known, as numbers that
//! grow in unequal steps and begin anew with each IDR picture; times come from when they are decoded.
//!
//! A picture that is shown after all before it gets a time of its own: far enough ahead that those fit in
//! that will be shown before it. One that is shown between others gets a time between theirs. So the
//! times are in the right order whatever the arrivals do.

use std::collections::VecDeque;

/// No stream has more pictures between two (MaxDpbFrames, A.3.1).
const REORDERED_MAX: i64 = 16;
/// Pictures that are remembered.
const SHOWN_MAX: usize = 32;
/// The numbers of frames are even, but for encoders that count by one, and fields.
const USUAL_STEP: i64 = 2;

#[derive(Debug)]
pub(super) struct Presentation {
    /// Pictures that are decoded before one that is shown earlier: all are shown so much later.
    depth: i64,
    /// Pictures are reordered at all: it is told, or was seen.
    is_reordered: bool,
    /// How far apart two neighbours are.
    step: i64,
    /// Since the last IDR picture, in the order in which they are shown.
    shown: VecDeque<Shown>,
    /// Pictures in a row that are shown before the last of `shown`.
    behind: i64,
    /// Of all so far.
    latest: i64,
}

#[derive(Debug, Clone, Copy)]
struct Shown {
    order: i64,
    time: i64,
}

impl Presentation {
    /// `reordered_max` is what the stream tells.
    pub(super) fn new(reordered_max: Option<u32>) -> Presentation {
        let depth = reordered_max.map_or(0, i64::from).min(REORDERED_MAX);
        Presentation {
            depth,
            is_reordered: depth > 0,
            step: USUAL_STEP,
            shown: VecDeque::new(),
            behind: 0,
            latest: i64::MIN,
        }
    }

    /// The time at which the next picture to be decoded is shown. `begins`: it is an IDR picture.
    pub(super) fn time_of(&mut self, order: i64, begins: bool, decoded: i64, interval: i64) -> i64 {
        // What comes after so many more is no reordering: the numbers have begun anew.
        if begins || self.behind > REORDERED_MAX {
            self.shown.clear();
        }
        let at = self.shown.partition_point(|shown| shown.order <= order);
        let lower = at.checked_sub(1).and_then(|at| self.shown.get(at)).copied();
        let upper = self.shown.get(at).copied();
        if lower.is_some_and(|lower| (order - lower.order) % self.step != 0) {
            self.step = 1;
        }
        let time = match (lower, upper) {
            (lower, None) => {
                self.behind = 0;
                let between = lower.map_or(0, |lower| (order - lower.order) / self.step - 1);
                let ahead = if self.is_reordered { between.clamp(0, REORDERED_MAX) } else { 0 };
                (decoded + (self.depth + ahead) * interval).max(self.latest.saturating_add(1))
            }
            (lower, Some(upper)) => {
                self.behind += 1;
                self.is_reordered = true;
                let steps = (upper.order - order) / self.step;
                lower.map_or(upper.time.saturating_sub(steps.saturating_mul(interval)), |lower| {
                    between(lower, upper, order)
                })
            }
        };
        self.latest = self.latest.max(time);
        self.shown.insert(at, Shown { order, time });
        if self.shown.len() > SHOWN_MAX {
            self.shown.pop_front();
        }
        time
    }
}

/// As far between the times as between the numbers.
fn between(lower: Shown, upper: Shown, order: i64) -> i64 {
    let span = i128::from(upper.time - lower.time);
    let part = span * i128::from(order - lower.order) / i128::from(upper.order - lower.order);
    // Less than the span, and more than nothing where there is room.
    (lower.time + part as i64).max(lower.time + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decoded at 0, 100, 200…
    fn times(presentation: &mut Presentation, orders: &[i64]) -> Vec<i64> {
        let decoded = (0..).map(|at| at * 100);
        let each = orders.iter().zip(decoded);
        each.map(|(order, decoded)| presentation.time_of(*order, *order == 0, decoded, 100))
            .collect()
    }

    fn expected(depth: i64, orders: &[i64], step: i64) -> Vec<i64> {
        let (mut first, mut times) = (0, Vec::new());
        for (at, order) in (0..).zip(orders) {
            first = if *order == 0 { at } else { first };
            times.push((first + depth + order / step) * 100);
        }
        times
    }

    #[test]
    fn pyramids_are_shown_evenly() {
        let orders = [0, 8, 4, 2, 6, 16, 12, 10, 14, 22, 18, 20, 0, 8, 4, 2, 6];
        let got = times(&mut Presentation::new(Some(2)), &orders);
        assert_eq!(got, expected(2, &orders, 2));
        let decoded = (0..).map(|at| at * 100);
        assert!(got.iter().zip(decoded).all(|(shown, decoded)| *shown >= decoded));
    }

    #[test]
    fn what_is_not_reordered_is_shown_at_once() {
        let orders = [0, 2, 4, 6, 0, 2, 4];
        for told in [None, Some(0)] {
            let got = times(&mut Presentation::new(told), &orders);
            assert_eq!(got, [0, 100, 200, 300, 400, 500, 600]);
        }
        // Numbers may grow by one or by four, and pictures may be missing.
        for orders in [[0, 1, 2, 3, 4], [0, 4, 8, 12, 16], [0, 2, 10, 12, 14]] {
            let got = times(&mut Presentation::new(None), &orders);
            assert_eq!(got, [0, 100, 200, 300, 400]);
        }
    }

    /// Goal: an encoder that does not tell that it reorders is found out with the first picture that
    /// it has reordered; those before have shorter times, and all are in order.
    #[test]
    fn reordering_is_learnt() {
        let orders = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8];
        let got = times(&mut Presentation::new(None), &orders);
        assert_eq!(got[7..], expected(0, &orders, 1)[7..]);
        let mut shown: Vec<_> = orders.iter().zip(&got).collect();
        shown.sort();
        assert!(shown.is_sorted_by(|one, other| one.1 < other.1), "{shown:?}");
    }

    /// Goal: a pause between pictures that are shown the other way round.
    #[test]
    fn a_pause_keeps_the_order() {
        let mut presentation = Presentation::new(Some(1));
        let mut shown = Vec::new();
        for (order, decoded) in [(0, 0), (6, 100), (2, 5000), (4, 5100), (12, 5200), (8, 5300)] {
            shown.push((order, presentation.time_of(order, order == 0, decoded, 100)));
        }
        shown.sort();
        assert!(shown.is_sorted_by(|one, other| one.1 < other.1), "{shown:?}");
    }

    /// Goal: numbers that begin anew without an IDR picture make a mess of 17 pictures, no more.
    #[test]
    fn numbers_may_begin_anew() {
        let orders: Vec<i64> = (0..50).chain(1..40).map(|order| order * 2).collect();
        let got = times(&mut Presentation::new(None), &orders);
        assert!(got[70..].windows(2).all(|pair| pair[1] - pair[0] == 100), "{:?}", &got[70..]);
    }

    proptest! {
        #[test]
        fn no_orders_are_too_odd(
            told in prop::option::of(any::<u32>()),
            pictures in prop::collection::vec(
                (prop_oneof![-10i64..40, -(1i64 << 40)..1 << 40], any::<bool>(), 90i64..900_000),
                0..100,
            ),
        ) {
            let (mut presentation, mut decoded) = (Presentation::new(told), 0);
            for (order, begins, interval) in pictures {
                presentation.time_of(order, begins, decoded, interval);
                decoded += interval;
            }
        }
    }
}
