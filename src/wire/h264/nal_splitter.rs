//! Takes a byte stream (annex B) apart into NAL units, wherever it is cut. What it tells does not
//! depend on the cuts, but for how many pieces the bytes of a unit come in.

use memchr::{memchr, memmem};

/// What may stand in front of the byte that decides whether they are a start code.
static ZEROS: [u8; 2] = [0; 2];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NalEvent<'b> {
    /// A start code is complete, whose three bytes begin there: counted from the first byte pushed.
    Start { offset: u64 },
    /// The next bytes of the unit, its header first.
    Bytes(&'b [u8]),
    /// The unit is complete, without the zeros behind it.
    End,
}

#[derive(Debug, Default)]
pub struct NalSplitter {
    state: State,
    /// Of the next byte.
    offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// After so many zeros, at most two.
    Between { zeros: usize },
    /// The same; whether they belong to the unit is not known yet.
    Inside { zeros: usize },
}

impl Default for State {
    fn default() -> State {
        State::Between { zeros: 0 }
    }
}

impl NalSplitter {
    pub fn push<'b>(&mut self, mut input: &'b [u8], take: &mut impl FnMut(NalEvent<'b>)) {
        while !input.is_empty() {
            let taken = match self.state {
                State::Between { zeros } => self.search(zeros, input, take),
                State::Inside { zeros } => self.pass(zeros, input, take),
            };
            assert!(taken > 0 && taken <= input.len());
            self.offset += taken as u64;
            input = &input[taken..];
        }
    }

    /// The stream is over, or what follows does not continue it.
    pub(super) fn finish<'b>(&mut self, take: &mut impl FnMut(NalEvent<'b>)) {
        if self.is_inside() {
            take(NalEvent::End);
        }
        self.state = State::default();
    }

    pub(super) fn is_inside(&self) -> bool {
        matches!(self.state, State::Inside { .. })
    }

    fn search<'b>(
        &mut self,
        zeros: usize,
        input: &'b [u8],
        take: &mut impl FnMut(NalEvent<'b>),
    ) -> usize {
        match (zeros, input[0]) {
            (_, 0) => {
                self.state = State::Between { zeros: (zeros + 1).min(2) };
                1
            }
            (2, 1) => {
                self.start(take);
                1
            }
            _ => {
                self.state = State::Between { zeros: 0 };
                memchr(0, input).unwrap_or(input.len())
            }
        }
    }

    fn pass<'b>(
        &mut self,
        zeros: usize,
        input: &'b [u8],
        take: &mut impl FnMut(NalEvent<'b>),
    ) -> usize {
        match (zeros, input[0]) {
            (1, 0) => {
                self.state = State::Inside { zeros: 2 };
                return 1;
            }
            (2, 0) => {
                take(NalEvent::End);
                self.state = State::Between { zeros: 2 };
                return 1;
            }
            (2, 1) => {
                take(NalEvent::End);
                self.start(take);
                return 1;
            }
            (0, _) => {}
            (zeros, _) => take(NalEvent::Bytes(&ZEROS[..zeros])),
        }
        let (end, zeros) = match memmem::find(input, &ZEROS) {
            Some(end) => (end, 2),
            None if input.ends_with(&[0]) => (input.len() - 1, 1),
            None => (input.len(), 0),
        };
        if end > 0 {
            take(NalEvent::Bytes(&input[..end]));
        }
        self.state = State::Inside { zeros };
        end + zeros
    }

    /// With the next byte.
    fn start<'b>(&mut self, take: &mut impl FnMut(NalEvent<'b>)) {
        assert!(self.offset >= 2);
        self.state = State::Inside { zeros: 0 };
        take(NalEvent::Start { offset: self.offset - 2 });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::test_pieces::pieces;

    /// The units with the offsets of their start codes.
    fn split(pieces: &[&[u8]]) -> Vec<(u64, Vec<u8>)> {
        let (mut splitter, mut units, mut is_open) = (NalSplitter::default(), Vec::new(), false);
        let mut take = |event: NalEvent<'_>| match event {
            NalEvent::Start { offset } => {
                assert!(!std::mem::replace(&mut is_open, true));
                units.push((offset, Vec::new()));
            }
            NalEvent::Bytes(bytes) => {
                assert!(is_open && !bytes.is_empty());
                units.last_mut().unwrap().1.extend_from_slice(bytes);
            }
            NalEvent::End => assert!(std::mem::replace(&mut is_open, false)),
        };
        for piece in pieces {
            splitter.push(piece, &mut take);
        }
        splitter.finish(&mut take);
        assert!(!is_open);
        units
    }

    #[test]
    fn start_codes_of_three_and_four_bytes() {
        let stream = b"rubbish\0\0\x01abc\0\0\0\x01d\0e\0\0\x03f\0\0\0\0\0\0\x01\0\0\x01g\0\0";
        let expected: Vec<(u64, Vec<u8>)> = vec![
            (7, b"abc".to_vec()),
            (14, b"d\0e\0\0\x03f".to_vec()),
            (28, Vec::new()),
            (31, b"g".to_vec()),
        ];
        assert_eq!(split(&[stream]), expected);
        let each: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(split(&each), expected);
    }

    /// Goal: three zeros end a unit (B.1.1), and what is behind them is none.
    #[test]
    fn zeros_end_a_unit() {
        assert_eq!(
            split(&[b"\0\0\x01a\0\0\0bc\x01\0\0\x01d"]),
            [(0, b"a".to_vec()), (10, b"d".to_vec())]
        );
    }

    /// As slowly and plainly as can be.
    fn split_plainly(stream: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let is = |at: usize, code: &[u8]| stream[at..].starts_with(code);
        let mut units = Vec::new();
        let mut at = 0;
        while at < stream.len() {
            if !is(at, &[0, 0, 1]) {
                at += 1;
                continue;
            }
            let from = at + 3;
            let is_end = |at: &usize| is(*at, &[0, 0, 1]) || is(*at, &[0, 0, 0]);
            let end = (from..stream.len()).find(is_end).unwrap_or(stream.len());
            let zeros = stream[from..end].iter().rev().take_while(|byte| **byte == 0).count();
            let zeros = if end == stream.len() { zeros } else { 0 };
            units.push((at as u64, stream[from..end - zeros].to_vec()));
            at = end;
        }
        units
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_units(
            stream in prop::collection::vec(
                prop_oneof![4 => Just(0u8), 2 => Just(1), 1 => Just(3), 1 => any::<u8>()],
                0..80,
            ),
            cuts in prop::collection::vec(0usize..9, 0..40),
        ) {
            prop_assert_eq!(split(&pieces(&stream, &cuts)), split_plainly(&stream));
        }
    }
}
