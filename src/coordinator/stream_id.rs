//! Stream ids: 32 hexadecimal digits of the time, a counter and something that cannot be guessed.

use std::hash::{BuildHasher, RandomState};

/// Eight bytes of milliseconds, four that count, four of a keyed hash of both.
pub(super) struct StreamIds {
    clock: fn() -> u64,
    so_far: u32,
    /// Its keys are random, and new in each process.
    hasher: RandomState,
}

impl StreamIds {
    /// `clock` gives milliseconds since the epoch.
    pub(super) fn new(clock: fn() -> u64) -> StreamIds {
        StreamIds { clock, so_far: 0, hasher: RandomState::new() }
    }

    pub(super) fn next(&mut self) -> String {
        let (time, count) = ((self.clock)(), self.so_far);
        self.so_far = self.so_far.wrapping_add(1);
        let unknown = self.hasher.hash_one((time, count)) as u32;
        format!("{time:016x}{count:08x}{unknown:08x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_parts_and_differ() {
        let mut ids = StreamIds::new(|| 0x0123_4567_89ab);
        let (first, second) = (ids.next(), ids.next());
        assert_eq!((first.len(), &first[..24]), (32, "00000123456789ab00000000"));
        assert_eq!(&second[..24], "00000123456789ab00000001");
        let other = StreamIds::new(|| 0x0123_4567_89ab).next();
        assert_ne!(first[24..], other[24..], "two processes cannot foresee each other");
    }
}
