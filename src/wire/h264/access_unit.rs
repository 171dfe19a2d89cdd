//! Whole pictures from a byte stream in any pieces (7.4.1.2.3): an access unit is a picture, or one
//! field of a picture that is sent as two, with what describes it. The states are in `mod.rs`.
//!
//! A picture ends where the next one begins; so it is told when the first bytes of the next have come.

use std::sync::Arc;

use super::key_rule::{KeyRule, has_recovery_point};
use super::nal_splitter::{NalEvent, NalSplitter};
use super::nal_type;
use super::picture_order::PictureOrder;
use super::set_table::{ParameterSets, SET_BYTES_MAX, SetTable};
use super::slice_head::{SLICE_HEAD_BYTES_MAX, SliceHead, is_at_beginning};

/// In front of each NAL unit of [`AccessUnit::data`].
const LENGTH_BYTES: usize = 4;

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessUnit {
    /// Its NAL units as MP4 has them (ISO/IEC 14496-15): each behind its length of four bytes, without
    /// delimiters, filling and parameter sets.
    pub data: Vec<u8>,
    /// A decoder may begin here.
    pub is_key: bool,
    /// Nothing before it is needed by it or by what follows.
    pub is_idr: bool,
    /// When its first byte came, and the first of the next one; the last of a stream has no next.
    pub arrived_us: i64,
    pub next_us: Option<i64>,
    /// Pictures are shown in the order of these numbers, from one IDR picture to the next. `None`: they
    /// are shown as they are decoded.
    pub order: Option<i64>,
    /// What is in force. The same `Arc` for as long as it does not change.
    pub sets: Arc<ParameterSets>,
    /// Pictures between the one before and this one are missing: they were too long, or their
    /// parameter sets have never come.
    pub follows_loss: bool,
}

impl AccessUnit {
    /// From their headers on.
    pub fn nals(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.data.as_slice();
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk::<LENGTH_BYTES>()?;
            let (nal, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            rest = behind;
            Some(nal)
        })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum UnitEvent {
    Unit(AccessUnit),
    /// A picture was longer than allowed, and nothing of it is kept. What follows can be decoded from
    /// the next key picture on.
    TooLong {
        arrived_us: i64,
    },
}

/// Gathers pictures. It keeps at most one, of `access_unit_bytes_max`.
#[derive(Debug)]
pub struct AccessUnitReader {
    splitter: NalSplitter,
    assembler: Assembler,
}

impl AccessUnitReader {
    pub fn new(access_unit_bytes_max: usize) -> AccessUnitReader {
        // Lengths have 32 bits, also with parameter sets and the head of a box in front.
        assert!(access_unit_bytes_max <= i32::MAX as usize);
        let assembler = Assembler {
            access_unit_bytes_max,
            sets: SetTable::default(),
            nal: Nal::default(),
            unit: None,
            unit_bytes: 0,
            order: PictureOrder::default(),
            keys: KeyRule::default(),
            has_lost: false,
        };
        AccessUnitReader { splitter: NalSplitter::default(), assembler }
    }

    /// Look at the next bytes, which came at `now_us`. Any clock will do; times must not be less than
    /// those before for durations to make sense.
    pub fn push(&mut self, input: &[u8], now_us: i64, take: &mut impl FnMut(UnitEvent)) {
        let AccessUnitReader { splitter, assembler } = self;
        splitter.push(input, &mut |event| assembler.event(event, now_us, take));
    }

    /// The stream is over: what there is of the last picture is told.
    pub fn flush(&mut self, take: &mut impl FnMut(UnitEvent)) {
        let AccessUnitReader { splitter, assembler } = self;
        splitter.finish(&mut |event| assembler.event(event, 0, take));
        assembler.close(None, take);
    }
}

#[derive(Debug)]
struct Assembler {
    access_unit_bytes_max: usize,
    sets: SetTable,
    nal: Nal,
    unit: Option<Gathered>,
    /// Of the last unit: so much is reserved for the next.
    unit_bytes: usize,
    order: PictureOrder,
    keys: KeyRule,
    has_lost: bool,
}

/// The NAL unit that is arriving.
#[derive(Debug, Default)]
struct Nal {
    /// Its first bytes, as far as somebody looks at them.
    head: Vec<u8>,
    bytes: usize,
    arrived_us: i64,
    place: Place,
}

impl Nal {
    const HEAD_BYTES_MAX: usize = SET_BYTES_MAX + 1;

    fn kind(&self) -> u8 {
        self.head.first().map_or(0, |header| header & 0x1f)
    }
}

/// Where the bytes of a NAL unit go.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Its first bytes have to tell whose it is.
    #[default]
    Unknown,
    /// Behind this length in the unit.
    Unit {
        length_at: usize,
    },
    Nowhere,
}

/// The unit that is arriving.
#[derive(Debug)]
struct Gathered {
    data: Vec<u8>,
    arrived_us: i64,
    /// Some part of the picture has begun.
    has_picture: bool,
    first: Option<SliceHead>,
    /// Of the last slice whose head could be read.
    last: Option<SliceHead>,
    sets: Option<Arc<ParameterSets>>,
    has_recovery_point: bool,
    is_too_long: bool,
}

impl Assembler {
    fn event(&mut self, event: NalEvent<'_>, now_us: i64, take: &mut impl FnMut(UnitEvent)) {
        match event {
            NalEvent::Start { .. } => {
                self.nal.head.clear();
                self.nal.bytes = 0;
                self.nal.arrived_us = now_us;
                self.nal.place = Place::Unknown;
            }
            NalEvent::Bytes(bytes) => self.bytes(bytes, take),
            NalEvent::End => {
                if self.nal.place == Place::Unknown && !self.nal.head.is_empty() {
                    self.place(true, take);
                }
                self.finish_nal();
            }
        }
    }

    fn bytes(&mut self, bytes: &[u8], take: &mut impl FnMut(UnitEvent)) {
        let room = Nal::HEAD_BYTES_MAX - self.nal.head.len();
        let (head, behind) = bytes.split_at(bytes.len().min(room));
        self.nal.head.extend_from_slice(head);
        self.nal.bytes = self.nal.bytes.saturating_add(bytes.len());
        if self.nal.place != Place::Unknown {
            return self.append(bytes);
        }
        self.place(false, take);
        self.append(behind);
    }

    /// To the unit, if the NAL unit that is arriving goes there.
    fn append(&mut self, bytes: &[u8]) {
        let (Some(unit), Place::Unit { .. }) = (&mut self.unit, self.nal.place) else { return };
        if unit.data.len() + bytes.len() > self.access_unit_bytes_max {
            unit.is_too_long = true;
            unit.data = Vec::new();
            self.nal.place = Place::Nowhere;
        } else {
            unit.data.extend_from_slice(bytes);
        }
    }

    /// Finds out whether a unit begins with the NAL unit that is arriving, which `is_whole` or has only
    /// begun, and where its bytes go.
    fn place(&mut self, is_whole: bool, take: &mut impl FnMut(UnitEvent)) {
        let kind = self.nal.kind();
        let mut slice = None;
        if nal_type::has_slice_head(kind) {
            slice = SliceHead::parse(&self.nal.head, &self.sets);
            let may_follow = !is_whole && self.nal.head.len() < SLICE_HEAD_BYTES_MAX;
            if slice.is_none() && may_follow {
                return;
            }
        }
        if self.begins_unit(kind, slice.as_ref()) {
            self.close(Some(self.nal.arrived_us), take);
        }
        let unit = self.unit.get_or_insert_with(|| Gathered {
            data: Vec::with_capacity(self.unit_bytes),
            arrived_us: self.nal.arrived_us,
            has_picture: false,
            first: None,
            last: None,
            sets: None,
            has_recovery_point: false,
            is_too_long: false,
        });
        unit.has_picture |= nal_type::is_picture(kind);
        if let Some(slice) = slice {
            unit.first.get_or_insert(slice);
            unit.last = Some(slice);
            if unit.sets.is_none() {
                unit.sets = self.sets.in_force(slice.picture_set);
            }
        }
        self.nal.place = Place::Nowhere;
        if nal_type::is_kept(kind) && !unit.is_too_long {
            self.nal.place = Place::Unit { length_at: unit.data.len() };
            self.append(&[0; LENGTH_BYTES]);
            let head = std::mem::take(&mut self.nal.head);
            self.append(&head);
            self.nal.head = head;
        }
    }

    fn begins_unit(&self, kind: u8, slice: Option<&SliceHead>) -> bool {
        let Some(unit) = self.unit.as_ref().filter(|unit| unit.has_picture) else { return false };
        if !nal_type::has_slice_head(kind) {
            return nal_type::is_ahead_of_picture(kind);
        }
        match (slice, &unit.last) {
            (Some(slice), Some(last)) => slice.begins_picture(last),
            _ => is_at_beginning(&self.nal.head),
        }
    }

    fn finish_nal(&mut self) {
        let nal = &self.nal;
        match nal.kind() {
            // Either is longer than its head only if it is too long for the table.
            nal_type::SEQUENCE_SET | nal_type::PICTURE_SET => self.sets.add(&nal.head),
            nal_type::SEI => {
                if let Some(unit) = &mut self.unit {
                    unit.has_recovery_point |= has_recovery_point(&nal.head);
                }
            }
            _ => {}
        }
        if let (Some(unit), Place::Unit { length_at }) = (&mut self.unit, nal.place) {
            let length = u32::try_from(nal.bytes).expect("a unit has fewer bytes");
            let place = &mut unit.data[length_at..][..LENGTH_BYTES];
            place.copy_from_slice(&length.to_be_bytes());
        }
        self.nal.head.clear();
    }

    /// The unit is complete, and the next one began at `next_us`.
    fn close(&mut self, next_us: Option<i64>, take: &mut impl FnMut(UnitEvent)) {
        let Some(unit) = self.unit.take().filter(|unit| unit.has_picture) else { return };
        let arrived_us = unit.arrived_us;
        if unit.is_too_long {
            self.has_lost = true;
            return take(UnitEvent::TooLong { arrived_us });
        }
        let (Some(slice), Some(sets)) = (unit.first, unit.sets) else {
            self.has_lost = true;
            return;
        };
        self.unit_bytes = unit.data.len();
        take(UnitEvent::Unit(AccessUnit {
            data: unit.data,
            is_key: self.keys.is_key(slice.is_idr, unit.has_recovery_point),
            is_idr: slice.is_idr,
            arrived_us,
            next_us,
            order: self.order.next(&slice, sets.details().order),
            sets,
            follows_loss: std::mem::take(&mut self.has_lost),
        }));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::SAMPLE;
    use super::*;
    use crate::wire::test_pieces::pieces;

    const BYTES_MAX: usize = 100_000;

    /// Each piece comes a millisecond after the one before.
    fn read_with(bytes_max: usize, pieces: &[&[u8]]) -> Vec<UnitEvent> {
        let (mut reader, mut events) = (AccessUnitReader::new(bytes_max), Vec::new());
        for (at, piece) in (0..).zip(pieces) {
            reader.push(piece, at * 1000, &mut |event| events.push(event));
        }
        reader.flush(&mut |event| events.push(event));
        events
    }

    fn units(pieces: &[&[u8]]) -> Vec<AccessUnit> {
        let unit = |event| match event {
            UnitEvent::Unit(unit) => unit,
            UnitEvent::TooLong { .. } => panic!("too long"),
        };
        read_with(BYTES_MAX, pieces).into_iter().map(unit).collect()
    }

    /// The units of a stream, each behind a start code.
    fn nals(stream: &[u8]) -> Vec<Vec<u8>> {
        let (mut splitter, mut nals) = (NalSplitter::default(), Vec::new());
        let mut take = |event: NalEvent<'_>| match event {
            NalEvent::Start { .. } => nals.push(vec![0, 0, 0, 1]),
            NalEvent::Bytes(bytes) => nals.last_mut().unwrap().extend_from_slice(bytes),
            NalEvent::End => {}
        };
        splitter.push(stream, &mut take);
        splitter.finish(&mut take);
        nals
    }

    /// Goal: pictures, keys and the order in which ffprobe shows them.
    #[test]
    fn a_stream_of_x264() {
        let units = units(&[SAMPLE]);
        assert_eq!(units.len(), 24);
        let keys: Vec<_> = (0..units.len()).filter(|&at| units[at].is_key).collect();
        assert_eq!(keys, [0, 12]);
        let shown = |half: &[AccessUnit]| -> Vec<i64> {
            half.iter().map(|unit| unit.order.unwrap() / 2).collect()
        };
        let expected = [0, 4, 2, 1, 3, 8, 6, 5, 7, 11, 9, 10];
        assert_eq!(shown(&units[..12]), expected);
        assert_eq!(shown(&units[12..]), expected);
        let sets = &units[0].sets;
        assert_eq!((sets.codec(), sets.size()), ("avc1.64000A", (128, 96)));
        assert_eq!((sets.frame_rate(), sets.details().reordered_max), (Some(25.0), Some(2)));
        assert!(units.iter().all(|unit| Arc::ptr_eq(sets, &unit.sets) && !unit.follows_loss));
        assert_eq!(nals(&sets.annex_b()), nals(SAMPLE)[..2]);
    }

    /// Goal: what is kept are all slices and messages, and only they.
    #[test]
    fn nothing_of_a_picture_is_lost() {
        let units = units(&[SAMPLE]);
        let kept: Vec<Vec<u8>> =
            units.iter().flat_map(AccessUnit::nals).map(<[u8]>::to_vec).collect();
        let all = nals(SAMPLE).into_iter().map(|nal| nal[4..].to_vec());
        let expected: Vec<_> = all.filter(|nal| !matches!(nal[0] & 0x1f, 7 | 8)).collect();
        assert_eq!(kept, expected);
    }

    #[test]
    fn a_picture_is_told_with_the_first_bytes_of_the_next() {
        let (mut reader, mut told) = (AccessUnitReader::new(BYTES_MAX), Vec::new());
        for (at, nal) in (0..).zip(&nals(SAMPLE)) {
            let head = nal.len().min(20);
            reader.push(&nal[..head], at * 1000, &mut |event| told.push((at, event)));
            reader.push(&nal[head..], at * 1000 + 1, &mut |_| panic!("it is the next one's time"));
        }
        // Two sets, a message and two slices; then two slices each.
        let told: Vec<_> = told
            .iter()
            .map(|(at, event)| match event {
                UnitEvent::Unit(unit) => (*at, unit.arrived_us, unit.next_us),
                UnitEvent::TooLong { .. } => panic!("too long"),
            })
            .collect();
        assert_eq!(told[..2], [(5, 0, Some(5000)), (7, 5000, Some(7000))]);
        assert_eq!(told.len(), 23);
    }

    /// Goal: delimiters in front of pictures change nothing but what is told when.
    #[test]
    fn delimiters_and_filling_are_left_out() {
        let is_first =
            |nal: &[u8]| nal[4] & 0x1f == 7 || matches!(nal[4] & 0x1f, 1) && nal[5] > 127;
        let mut stream = Vec::new();
        for nal in nals(SAMPLE) {
            if is_first(&nal) {
                stream.extend([0, 0, 0, 1, 9, 0xf0]);
            }
            stream.extend([&nal[..], &[0, 0, 1, 12, 0xff, 0xff, 0x80, 0, 0]].concat());
        }
        assert_eq!(units(&[&stream]), units(&[SAMPLE]));
    }

    #[test]
    fn pictures_that_are_too_long_are_left_out() {
        let all = units(&[SAMPLE]);
        let longest = all.iter().filter(|unit| !unit.is_key).map(|unit| unit.data.len()).max();
        let events = read_with(longest.unwrap(), &[SAMPLE]);
        let is_lost: Vec<_> =
            events.iter().map(|event| matches!(event, UnitEvent::TooLong { .. })).collect();
        assert_eq!(is_lost, all.iter().map(|unit| unit.is_key).collect::<Vec<_>>());
        for (event, unit) in events.iter().zip(&all) {
            if let UnitEvent::Unit(told) = event {
                assert_eq!(told.data, unit.data);
                assert_eq!(told.follows_loss, told.order == Some(8));
            }
        }
    }

    #[test]
    fn what_lacks_its_sets_is_left_out() {
        let nals = nals(SAMPLE);
        let key = nals.iter().rposition(|nal| nal[4] & 0x1f == 7).unwrap();
        let units = units(&[&nals[2..].concat()]);
        assert_eq!((units.len(), units[0].is_key, units[0].follows_loss), (12, true, true));
        assert!(key > 12 && !units[1].follows_loss);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_units(
            cuts in prop::collection::vec(prop_oneof![1usize..4, 1usize..400], 0..400),
            bytes_max in prop_oneof![Just(BYTES_MAX), 0usize..2000],
        ) {
            let same_time = |mut events: Vec<UnitEvent>| {
                for event in &mut events {
                    match event {
                        UnitEvent::Unit(unit) => {
                            (unit.arrived_us, unit.next_us) = (0, unit.next_us.map(|_| 0));
                        }
                        UnitEvent::TooLong { arrived_us } => *arrived_us = 0,
                    }
                }
                events
            };
            let cut = read_with(bytes_max, &pieces(SAMPLE, &cuts));
            prop_assert_eq!(same_time(cut), same_time(read_with(bytes_max, &[SAMPLE])));
        }

        #[test]
        fn no_bytes_are_too_odd(
            changes in prop::collection::vec((0..SAMPLE.len(), any::<u8>()), 0..60),
            inserted in prop::collection::vec(
                prop_oneof![3 => Just(0u8), 2 => Just(1), 1 => 0x61u8..0x69, 1 => any::<u8>()],
                0..60,
            ),
            at in 0..SAMPLE.len(),
            cuts in prop::collection::vec(1usize..500, 0..40),
            bytes_max in 0usize..4000,
        ) {
            let mut stream = SAMPLE.to_vec();
            for (at, byte) in changes {
                stream[at] = byte;
            }
            stream.splice(at..at, inserted);
            for event in read_with(bytes_max, &pieces(&stream, &cuts)) {
                if let UnitEvent::Unit(unit) = event {
                    prop_assert!(unit.data.len() <= bytes_max);
                    let nals: usize = unit.nals().map(|nal| nal.len() + LENGTH_BYTES).sum();
                    prop_assert_eq!(nals, unit.data.len());
                }
            }
        }
    }
}
