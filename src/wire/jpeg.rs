//! Where the pictures of a motion JPEG stream end (ITU-T T.81 annex B): found by the markers and the
//! lengths of each picture, so that a thumbnail inside of one, which has an end of its own, is none.

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JpegEvent<'b> {
    /// Of the picture that has begun.
    Bytes(&'b [u8]),
    /// The picture is complete.
    End,
    /// The picture is none after all: what came of it is to be forgotten, and the next is looked for.
    Broken,
}

const MARK: u8 = 0xff;
const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;
const RESTARTS: std::ops::RangeInclusive<u8> = 0xd0..=0xd7;
const TEMPORARY: u8 = 0x01;
const STUFFING: u8 = 0x00;

/// A picture's beginning, which is shown before it is certain.
const START: &[u8] = &[MARK, START_OF_IMAGE];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between pictures; true behind the first byte of a beginning.
    Between(bool),
    /// In front of a marker.
    Marker,
    /// Behind its first byte.
    Code { in_scan: bool },
    /// The length of a segment, of which this many bytes have come.
    Length { scan: bool, high: Option<u8> },
    /// So many bytes of a segment.
    Segment { scan: bool, left: u16 },
    /// Compressed data.
    Scan,
}

/// Splits a stream of pictures, wherever its bytes are cut. What lies between pictures is dropped.
#[derive(Debug)]
pub struct JpegSplitter {
    state: State,
}

impl Default for JpegSplitter {
    fn default() -> JpegSplitter {
        JpegSplitter { state: State::Between(false) }
    }
}

impl JpegSplitter {
    pub fn push<'b>(&mut self, input: &'b [u8], take: &mut impl FnMut(JpegEvent<'b>)) {
        // Bytes of the picture from here on have not been shown.
        let mut shown = 0;
        let mut at = 0;
        while at < input.len() {
            let was_between = matches!(self.state, State::Between(_));
            match self.step(&input[at..]) {
                Step::Taken(bytes) => at += bytes,
                Step::End => {
                    at += 1;
                    take(JpegEvent::Bytes(&input[shown..at]));
                    take(JpegEvent::End);
                }
                // The byte that does not fit may begin the next picture.
                Step::Broken => take(JpegEvent::Broken),
            }
            if was_between && self.state == State::Marker {
                take(JpegEvent::Bytes(START));
                shown = at;
            } else if matches!(self.state, State::Between(_)) {
                shown = at;
            }
        }
        if !matches!(self.state, State::Between(_)) && shown < at {
            take(JpegEvent::Bytes(&input[shown..at]));
        }
    }

    /// Nothing of a picture has come without the rest of it.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Between(_))
    }

    fn step(&mut self, input: &[u8]) -> Step {
        let byte = input[0];
        match self.state {
            State::Between(has_mark) => {
                self.state = match byte {
                    START_OF_IMAGE if has_mark => State::Marker,
                    byte => State::Between(byte == MARK),
                };
                Step::Taken(1)
            }
            State::Marker if byte == MARK => self.go(State::Code { in_scan: false }),
            State::Marker => self.break_off(),
            State::Code { in_scan } => self.code(byte, in_scan),
            State::Length { scan, high: None } => self.go(State::Length { scan, high: Some(byte) }),
            State::Length { scan, high: Some(high) } => {
                // The length counts itself.
                match u16::from_be_bytes([high, byte]).checked_sub(2) {
                    None => self.break_off(),
                    Some(0) => self.go(behind(scan)),
                    Some(left) => self.go(State::Segment { scan, left }),
                }
            }
            State::Segment { scan, left } => {
                let bytes = input.len().min(usize::from(left));
                let left = left - bytes as u16;
                self.state = if left == 0 { behind(scan) } else { State::Segment { scan, left } };
                Step::Taken(bytes)
            }
            State::Scan => match memchr::memchr(MARK, input) {
                Some(at) => {
                    self.state = State::Code { in_scan: true };
                    Step::Taken(at + 1)
                }
                None => Step::Taken(input.len()),
            },
        }
    }

    /// The second byte of a marker (T.81 table B.1).
    fn code(&mut self, byte: u8, in_scan: bool) -> Step {
        match byte {
            // Fill bytes (B.1.1.2).
            MARK => Step::Taken(1),
            STUFFING if in_scan => self.go(State::Scan),
            END_OF_IMAGE => {
                self.state = State::Between(false);
                Step::End
            }
            byte if RESTARTS.contains(&byte) || byte == TEMPORARY => self.go(behind(in_scan)),
            STUFFING | START_OF_IMAGE => self.break_off(),
            START_OF_SCAN => self.go(State::Length { scan: true, high: None }),
            _ => self.go(State::Length { scan: false, high: None }),
        }
    }

    fn go(&mut self, state: State) -> Step {
        self.state = state;
        Step::Taken(1)
    }

    fn break_off(&mut self) -> Step {
        // A beginning inside of a picture is that of the next: its camera was cut.
        let has_mark = matches!(self.state, State::Code { .. });
        self.state = State::Between(has_mark);
        Step::Broken
    }
}

fn behind(scan: bool) -> State {
    if scan { State::Scan } else { State::Marker }
}

enum Step {
    Taken(usize),
    /// With the next byte.
    End,
    /// In front of the next byte.
    Broken,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::test_pieces::pieces;

    /// A picture with a thumbnail in its first segment, fill bytes, two scans and a restart.
    fn picture(seed: u8) -> Vec<u8> {
        let thumbnail = [0xff, 0xd8, 0xff, 0xda, 0, 2, seed, 0xff, 0xd9];
        let mut all = vec![0xff, 0xd8, 0xff, 0xe1, 0, 2 + thumbnail.len() as u8];
        all.extend(thumbnail);
        all.extend([0xff, 0xff, 0xff, 0xdb, 0, 4, 0xff, 0xd9]);
        all.extend([0xff, 0xda, 0, 3, 9, seed, 0xff, 0, 0xff, 0xd3, 7]);
        all.extend([0xff, 0xc4, 0, 2, 0xff, 0xda, 0, 2, 0xff, 0xff, 0xd9]);
        all
    }

    fn split(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, usize) {
        let (mut splitter, mut pictures, mut now) =
            (JpegSplitter::default(), Vec::new(), Vec::new());
        let mut broken = 0;
        for piece in pieces {
            splitter.push(piece, &mut |event| match event {
                JpegEvent::Bytes(bytes) => now.extend_from_slice(bytes),
                JpegEvent::End => pictures.push(std::mem::take(&mut now)),
                JpegEvent::Broken => {
                    now.clear();
                    broken += 1;
                }
            });
        }
        assert_eq!(splitter.is_between(), now.is_empty());
        (pictures, broken)
    }

    #[test]
    fn a_thumbnail_is_no_end() {
        let stream = [picture(1), b"rubbish\xff".to_vec(), picture(2), vec![0xff]].concat();
        assert_eq!(split(&[&stream]), (vec![picture(1), picture(2)], 0));
    }

    /// Goal: of a picture that is cut off by the next nothing stays, and the next is whole.
    #[test]
    fn what_is_cut_is_forgotten() {
        let whole = picture(3);
        let in_scan = whole.len() - 3;
        for cut in [2, in_scan] {
            let stream = [&whole[..cut], &whole].concat();
            assert_eq!(split(&[&stream]), (vec![whole.clone()], 1), "{cut}");
        }
        let no_length = [&[0xff, 0xd8, 0xff, 0xe0, 0, 1][..], &whole].concat();
        assert_eq!(split(&[&no_length]), (vec![whole.clone()], 1));
        let no_marker = [&[0xff, 0xd8, 7][..], &whole].concat();
        assert_eq!(split(&[&no_marker]), (vec![whole], 1));
    }

    proptest! {
        #[test]
        fn pictures_survive_any_cut(
            seeds in prop::collection::vec(0u8..0xff, 1..5),
            cuts in prop::collection::vec(1usize..9, 1..200),
        ) {
            let pictures: Vec<Vec<u8>> = seeds.iter().map(|seed| picture(*seed)).collect();
            let stream = pictures.concat();
            prop_assert_eq!(split(&pieces(&stream, &cuts)), (pictures, 0));
        }

        #[test]
        fn no_bytes_are_too_odd(
            pieces in prop::collection::vec(
                prop::collection::vec(
                    prop_oneof![Just(0xffu8), Just(0xd8), Just(0xd9), Just(0xda), Just(0), Just(2), any::<u8>()],
                    0..40,
                ),
                0..6,
            ),
        ) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let (pictures, _) = split(&pieces);
            for picture in pictures {
                prop_assert!(picture.starts_with(&[0xff, 0xd8]) && picture.ends_with(&[0xff, 0xd9]));
            }
        }
    }
}
