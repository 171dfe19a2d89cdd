//! So many lines of a log in a second, and how many were left out: what a peer can make happen often must
//! not fill the disk with words.

use std::cell::Cell;

/// Lines about connections of cameras, of one core.
pub const CAMERA_LINES_PER_S_MAX: u32 = 20;

/// Of one core, or of one owner.
pub struct LineBudget {
    lines_per_s_max: u32,
    second: Cell<u64>,
    lines: Cell<u32>,
    left_out: Cell<u64>,
}

impl LineBudget {
    pub fn new(lines_per_s_max: u32) -> LineBudget {
        let (second, lines, left_out) = (Cell::new(0), Cell::new(0), Cell::new(0));
        LineBudget { lines_per_s_max, second, lines, left_out }
    }

    /// How many lines were left out before this one; `None` if this one is to be left out too.
    pub fn admit(&self, now_s: u64) -> Option<u64> {
        if self.second.replace(now_s) != now_s {
            self.lines.set(0);
        }
        if self.lines.get() >= self.lines_per_s_max {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.lines.set(self.lines.get() + 1);
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_left_out_are_counted() {
        let budget = LineBudget::new(2);
        let admitted = [1, 1, 1, 1, 2, 2, 2, 3].map(|now_s| budget.admit(now_s));
        let (some, none) = (Some(0), None);
        assert_eq!(admitted, [some, some, none, none, Some(2), some, none, Some(1)]);
        assert_eq!(LineBudget::new(0).admit(1), None);
    }
}
