//! Where a late viewer may begin, for doors that pass bytes on as they come.
//!
//! A viewer begins at the first of the parameter sets, messages and delimiters directly in front of a
//! key picture: its run. What the run lacks it gets in front.

use super::key_rule::{KeyRule, has_recovery_point};
use super::nal_splitter::{NalEvent, NalSplitter};
use super::nal_type;
use super::set_table::{SET_BYTES_MAX, SetTable};
use super::slice_head::{SLICE_HEAD_BYTES_MAX, SliceHead, is_at_beginning};

/// A late viewer may begin here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStart {
    /// Where a start code of three bytes is, counted from the first byte that was pushed.
    pub offset: u64,
    /// What has to be sent in front, as a byte stream: parameter sets that are not in the run. Empty
    /// if nothing is missing.
    pub preamble: Vec<u8>,
}

/// Looks for key pictures in a byte stream, of which it keeps nothing but the parameter sets.
#[derive(Debug, Default)]
pub struct KeyFinder {
    splitter: NalSplitter,
    search: Search,
}

#[derive(Debug, Default)]
struct Search {
    sets: SetTable,
    keys: KeyRule,
    nal: Nal,
    run: Option<Run>,
    found: Option<KeyStart>,
}

#[derive(Debug, Default)]
struct Nal {
    head: Vec<u8>,
    is_settled: bool,
    /// Where its start code begins.
    offset: u64,
}

/// What stands in front of a picture.
#[derive(Debug, Clone, Copy)]
struct Run {
    offset: u64,
    has_sequence_set: bool,
    has_picture_set: bool,
    has_recovery_point: bool,
}

impl KeyFinder {
    pub fn new() -> KeyFinder {
        KeyFinder::default()
    }

    /// Look at the next bytes. `Some`: they show that a key picture begins, in them or before them.
    /// Until then a viewer that begins gets what was found last.
    pub fn push(&mut self, bytes: &[u8]) -> Option<KeyStart> {
        let KeyFinder { splitter, search } = self;
        splitter.push(bytes, &mut |event| search.event(event));
        search.found.take()
    }
}

impl Search {
    fn event(&mut self, event: NalEvent<'_>) {
        match event {
            NalEvent::Start { offset } => {
                self.nal.head.clear();
                self.nal.is_settled = false;
                self.nal.offset = offset;
            }
            NalEvent::Bytes(bytes) => {
                let room = SET_BYTES_MAX + 1 - self.nal.head.len();
                self.nal.head.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
                self.settle(false);
            }
            NalEvent::End => {
                self.settle(true);
                self.finish_nal();
            }
        }
    }

    /// Finds out what the NAL unit is to a viewer that begins. `is_whole`: more of it will not come.
    fn settle(&mut self, is_whole: bool) {
        let (Some(header), false) = (self.nal.head.first(), self.nal.is_settled) else { return };
        let kind = header & 0x1f;
        if nal_type::has_slice_head(kind) {
            let slice = SliceHead::parse(&self.nal.head, &self.sets);
            if slice.is_none() && !is_whole && self.nal.head.len() < SLICE_HEAD_BYTES_MAX {
                return;
            }
            if is_at_beginning(&self.nal.head) {
                self.found = self.key_start(kind, slice).or(self.found.take());
            }
        } else if nal_type::is_ahead_of_picture(kind) {
            let run = self.run.get_or_insert(Run {
                offset: self.nal.offset,
                has_sequence_set: false,
                has_picture_set: false,
                has_recovery_point: false,
            });
            run.has_sequence_set |= kind == nal_type::SEQUENCE_SET;
            run.has_picture_set |= kind == nal_type::PICTURE_SET;
        }
        if nal_type::is_picture(kind) {
            self.run = None;
        }
        self.nal.is_settled = true;
    }

    /// A picture begins: what a viewer needs that begins with it.
    fn key_start(&mut self, kind: u8, slice: Option<SliceHead>) -> Option<KeyStart> {
        let has_recovery_point = self.run.is_some_and(|run| run.has_recovery_point);
        let is_key = self.keys.is_key(kind == nal_type::IDR_SLICE, has_recovery_point);
        let slice = slice.filter(|_| is_key)?;
        let offset = self.run.map_or(self.nal.offset, |run| run.offset);
        let is_complete = self.run.is_some_and(|run| run.has_sequence_set && run.has_picture_set);
        let mut preamble = Vec::new();
        if !is_complete {
            preamble = self.sets.in_force(slice.picture_set)?.annex_b();
        }
        Some(KeyStart { offset, preamble })
    }

    fn finish_nal(&mut self) {
        match self.nal.head.first().map(|header| header & 0x1f) {
            Some(nal_type::SEQUENCE_SET | nal_type::PICTURE_SET) => self.sets.add(&self.nal.head),
            Some(nal_type::SEI) => {
                if let Some(run) = &mut self.run {
                    run.has_recovery_point |= has_recovery_point(&self.nal.head);
                }
            }
            _ => {}
        }
        self.nal.head.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::SAMPLE;
    use super::*;
    use crate::wire::h264::{AccessUnit, AccessUnitReader, UnitEvent};
    use crate::wire::test_pieces::pieces;

    fn nals(stream: &[u8]) -> Vec<&[u8]> {
        let starts: Vec<usize> = (0..stream.len())
            .filter(|&at| {
                stream[at..].starts_with(&[0, 0, 0, 1])
                    || stream[at..].starts_with(&[0, 0, 1]) && (at == 0 || stream[at - 1] != 0)
            })
            .collect();
        let ends = starts.iter().skip(1).copied().chain([stream.len()]);
        starts.iter().zip(ends).map(|(&start, end)| &stream[start..end]).collect()
    }

    /// Where to begin, and what to send first; for each key.
    fn starts(pieces: &[&[u8]]) -> Vec<(usize, Vec<u8>)> {
        let mut finder = KeyFinder::new();
        let found = pieces.iter().filter_map(|piece| finder.push(piece));
        found.map(|start| (start.offset as usize, start.preamble)).collect()
    }

    /// Where the unit with this number begins.
    fn offset(nals: &[&[u8]], number: usize) -> usize {
        nals[..number].iter().map(|nal| nal.len()).sum()
    }

    fn units(stream: &[u8]) -> Vec<AccessUnit> {
        let (mut reader, mut units) = (AccessUnitReader::new(100_000), Vec::new());
        let mut take = |event| match event {
            UnitEvent::Unit(unit) => units.push(unit),
            UnitEvent::TooLong { .. } => panic!("too long"),
        };
        reader.push(stream, 0, &mut take);
        reader.flush(&mut take);
        units
    }

    fn slices(units: &[AccessUnit]) -> Vec<&[u8]> {
        let nals = units.iter().flat_map(AccessUnit::nals);
        nals.filter(|nal| nal_type::is_picture(nal[0] & 0x1f)).collect()
    }

    #[test]
    fn a_run_begins_with_its_sets() {
        let nals = nals(SAMPLE);
        let second = nals.iter().rposition(|nal| nal[4] == 0x67).unwrap();
        // Behind the first zero of a start code of four bytes.
        assert_eq!(starts(&nals), [(1, Vec::new()), (offset(&nals, second) + 1, Vec::new())]);
        let mut finder = KeyFinder::new();
        let found: Vec<_> = nals.iter().map(|nal| finder.push(nal)).collect();
        // With the first slice of the picture: two sets and the encoder's message stand before it.
        assert_eq!(found[3], Some(KeyStart { offset: 1, preamble: Vec::new() }));
        assert!(found[..3].iter().chain(&found[4..second]).all(Option::is_none));
    }

    #[test]
    fn sets_that_came_only_once_are_put_in_front() {
        let mut nals = nals(SAMPLE);
        let second = nals.iter().rposition(|nal| nal[4] == 0x67).unwrap();
        nals.drain(second..second + 2);
        let sets = nals[..2].concat();
        let at = offset(&nals, second);
        assert_eq!(starts(&nals), [(1, Vec::new()), (at, sets.clone())]);
        let stream = nals.concat();
        assert_eq!(starts(&[&stream]), [(at, sets.clone())], "the last one of a piece");
        let late = [&sets[..], &stream[at..]].concat();
        assert_eq!(units(&late), units(&stream)[12..]);
    }

    #[test]
    fn without_sets_nobody_may_begin() {
        let mut messages = nals(SAMPLE);
        messages.retain(|nal| nal[4] != 0x68);
        assert_eq!(starts(&messages), []);
    }

    proptest! {
        /// Goal: whoever begins where he is told gets exactly the pictures from a key on, however the
        /// stream comes, with the sets of the second key and without.
        #[test]
        fn late_viewers_begin_with_a_key_picture(
            cuts in prop::collection::vec(prop_oneof![0usize..6, 1usize..900], 0..400),
            has_sets in any::<bool>(),
        ) {
            let mut nals = nals(SAMPLE);
            let second = nals.iter().rposition(|nal| nal[4] == 0x67).unwrap();
            if !has_sets {
                nals.drain(second..second + 2);
            }
            let stream = nals.concat();
            let all = units(&stream);
            let starts = starts(&pieces(&stream, &cuts));
            prop_assert!(!starts.is_empty());
            for (offset, preamble) in &starts {
                let got = units(&[&preamble[..], &stream[*offset..]].concat());
                let tail = &all[all.len() - got.len()..];
                prop_assert!(slices(&got) == slices(tail) && got[0].is_key);
            }
        }

        #[test]
        fn no_bytes_are_too_odd(
            messages in prop::collection::vec(
                prop::collection::vec(
                    prop_oneof![3 => Just(0u8), 2 => Just(1), 1 => 0x61u8..0x69, 1 => any::<u8>()],
                    0..40,
                ),
                0..8,
            ),
        ) {
            let stream: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            starts(&[&nals(SAMPLE)[..3], &stream].concat());
        }
    }
}
