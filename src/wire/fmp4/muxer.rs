//! Fragmented MP4 of the pictures of a camera: the initialisation segment, then a CMAF chunk (ISO/IEC
//! 23000-19) for each. Pictures have no times of their own: they get those of their arrival, without
//! the jitter.
//!
//! | state            | left when |
//! |------------------|-----------|
//! | waits for a key  | a key picture comes: its chunk, behind an init segment if it needs another |
//! | runs             | pictures are missing; or the next ones need another init segment |

use std::sync::Arc;

use super::arrival_clock::ArrivalClock;
use super::box_writer::{push_box, push_full_box, push_u32s, push_u64};
use super::init_writer::{DEPENDENT, push_init};
use super::prefix::push_producer_time;
use super::presentation::Presentation;
use crate::wire::h264::{AccessUnit, ParameterSets};

/// Ticks in a second.
pub(super) const TIMESCALE: u32 = 90_000;
pub(super) const TRACK_ID: u32 = 1;
/// Where the next picture comes later than so, and than two intervals, the camera paused: nothing is there
/// meanwhile, or a chunk could be longer than a stream's target duration.
const SHOWN_TICKS_MAX: u64 = TIMESCALE as u64;
/// A sample that a decoder may begin with; it is made from no other (8.8.3.1).
const INDEPENDENT: u32 = 0x0200_0000;

/// What became of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Muxed {
    /// It was written.
    Chunk { has_init: bool, is_key: bool },
    /// It was not: no decoder can begin with it, or it has no size that a movie can have.
    Waits,
    /// It was not: the pictures are others from here on. Push it again for an init segment and a chunk,
    /// which belong into an upload of their own. Times go on.
    NewInit,
}

/// Makes a movie of pictures.
#[derive(Debug)]
pub struct Muxer {
    /// Made with the first picture, whose parameter sets tell a rate.
    clock: Option<ArrivalClock>,
    presentation: Presentation,
    /// What the init segment says.
    init: Option<Arc<ParameterSets>>,
    /// Those of the last picture that was written.
    sets: Option<Arc<ParameterSets>>,
    waits_for_key: bool,
    /// When the next picture came, and its time.
    next: Option<(i64, u64)>,
    /// Of a picture that will be pushed again.
    again: Option<Times>,
    sequence: u32,
}

/// When a picture is decoded.
#[derive(Debug, Clone, Copy)]
struct Times {
    decoded: u64,
    /// Until the next one is or a pause begins, in ticks as all others; and usually.
    duration: u64,
    interval: u64,
    /// On the clock of the arrivals.
    came_us: i64,
}

impl Default for Muxer {
    fn default() -> Muxer {
        Muxer::new()
    }
}

impl Muxer {
    pub fn new() -> Muxer {
        Muxer {
            clock: None,
            presentation: Presentation::new(None),
            init: None,
            sets: None,
            waits_for_key: true,
            next: None,
            again: None,
            sequence: 0,
        }
    }

    /// Appends the next picture to `out`. Arrivals count from 1970, so that chunks can say when their
    /// pictures were taken.
    pub fn push(&mut self, unit: &AccessUnit, out: &mut Vec<u8>) -> Muxed {
        let times = match self.again.take() {
            Some(times) => times,
            None => self.times_of(unit),
        };
        self.waits_for_key |= unit.follows_loss;
        let (width, height) = unit.sets.size();
        let fits = |length: u32| u16::try_from(length).ok().filter(|&length| length > 0);
        let (Some(width), Some(height)) = (fits(width), fits(height)) else {
            self.waits_for_key = true;
            return Muxed::Waits;
        };
        let is_new = |init: &Arc<ParameterSets>| init.sequence_set() != unit.sets.sequence_set();
        let is_other = self.init.as_ref().is_some_and(is_new);
        self.waits_for_key |= is_other;
        if self.waits_for_key && !unit.is_key {
            return Muxed::Waits;
        }
        if is_other {
            self.init = None;
            self.again = Some(times);
            return Muxed::NewInit;
        }
        self.waits_for_key = false;
        let has_init = self.init.is_none();
        if has_init {
            push_init(out, &unit.sets, (width, height));
            self.init = Some(Arc::clone(&unit.sets));
            self.presentation = Presentation::new(unit.sets.details().reordered_max);
        }
        self.push_chunk(unit, &times, out);
        Muxed::Chunk { has_init, is_key: unit.is_key }
    }

    fn times_of(&mut self, unit: &AccessUnit) -> Times {
        let rate = unit.sets.frame_rate();
        let clock = self.clock.get_or_insert_with(|| ArrivalClock::new(rate));
        let told = self.next.take().filter(|(arrived_us, _)| *arrived_us == unit.arrived_us);
        let decoded = told.map_or_else(|| ticks(clock.next_ns(unit.arrived_us)), |(_, time)| time);
        let came_us = clock.arrival_us(nanoseconds(decoded));
        self.next = unit.next_us.map(|next_us| (next_us, ticks(clock.next_ns(next_us))));
        let interval = ticks(clock.interval_ns()).max(1);
        let until_next = self.next.map_or(interval, |(_, next)| next - decoded);
        let is_pause = until_next > SHOWN_TICKS_MAX.max(2 * interval);
        let duration = if is_pause { interval } else { until_next };
        Times { decoded, duration, interval, came_us }
    }

    fn push_chunk(&mut self, unit: &AccessUnit, times: &Times, out: &mut Vec<u8>) {
        let (decoded, interval) = (times.decoded.cast_signed(), times.interval.cast_signed());
        let shown = match unit.order {
            Some(order) => self.presentation.time_of(order, unit.is_idr, decoded, interval),
            None => decoded,
        };
        let shift = (shown - decoded).clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        let sets = self.sets_inside(unit);
        let data_bytes = sets.len() + unit.data.len();
        self.sets = Some(Arc::clone(&unit.sets));
        self.sequence = self.sequence.wrapping_add(1);
        if unit.is_key {
            push_producer_time(out, TRACK_ID, times.came_us, times.decoded);
        }
        let flags = if unit.is_key { INDEPENDENT } else { DEPENDENT };
        // A picture of 13 hours would not fit.
        let duration = u32::try_from(times.duration).unwrap_or(u32::MAX);
        let sample = [duration, u32_of(data_bytes), flags, shift.cast_unsigned()];
        push_moof(out, self.sequence, times.decoded, sample);
        push_box(out, b"mdat", |out| {
            out.extend_from_slice(&sets);
            out.extend_from_slice(&unit.data);
        });
    }

    /// Picture parameter sets that the init segment does not have stand in front of the picture that
    /// changed them and of key pictures. Decoders bear that; another upload for each would be worse.
    fn sets_inside(&self, unit: &AccessUnit) -> Vec<u8> {
        let of_init = self.init.as_ref().map(|init| init.picture_sets());
        let is_changed = self.sets.as_ref().is_some_and(|sets| !Arc::ptr_eq(sets, &unit.sets));
        let mut inside = Vec::new();
        if of_init != Some(unit.sets.picture_sets()) && (unit.is_key || is_changed) {
            for set in unit.sets.picture_sets() {
                push_u32s(&mut inside, &[u32_of(set.len())]);
                inside.extend_from_slice(set);
            }
        }
        inside
    }
}

fn ticks(ns: i64) -> u64 {
    // Times of the clock are not negative.
    (i128::from(ns) * i128::from(TIMESCALE) / 1_000_000_000) as u64
}

fn nanoseconds(ticks: u64) -> i64 {
    (i128::from(ticks) * 1_000_000_000 / i128::from(TIMESCALE)) as i64
}

fn u32_of(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a picture is shorter than its reader allows")
}

/// With one sample: its duration, size, flags and composition offset.
fn push_moof(out: &mut Vec<u8>, sequence: u32, decoded: u64, sample: [u32; 4]) {
    let start = out.len();
    let mut offset_at = 0;
    push_box(out, b"moof", |out| {
        push_full_box(out, b"mfhd", (0, 0), |out| push_u32s(out, &[sequence]));
        push_box(out, b"traf", |out| {
            // Data offsets count from the moof.
            push_full_box(out, b"tfhd", (0, 0x2_0000), |out| push_u32s(out, &[TRACK_ID]));
            push_full_box(out, b"tfdt", (1, 0), |out| push_u64(out, decoded));
            // A data offset, and all that can be said of a sample; version 1: shown earlier or later.
            push_full_box(out, b"trun", (1, 0xf01), |out| {
                push_u32s(out, &[1]);
                offset_at = out.len();
                push_u32s(out, &[0]);
                push_u32s(out, &sample);
            });
        });
    });
    // Behind the head of the mdat.
    let offset = u32_of(out.len() - start + 8);
    out[offset_at..][..4].copy_from_slice(&offset.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use mp4_atom::{Decode, Moof, Moov};
    use proptest::prelude::*;

    use super::super::{CmafChunk, Found, FragmentScanner, Handler, Init, parse_init};
    use super::*;
    use crate::wire::h264::{AccessUnitReader, SAMPLE, UnitEvent};
    use crate::wire::test_pieces::pieces;

    const START_US: i64 = 1_795_259_814_417_000;
    /// x264's for 1080p; slices say as much under it as under the one of the sample.
    const OTHER_SET: &[u8] = &[
        0x67, 0x64, 0x00, 0x28, 0xac, 0xd9, 0x40, 0x78, 0x02, 0x27, 0xe5, 0xc0, 0x44, 0x00, 0x00,
        0x0f, 0xa4, 0x00, 0x03, 0xa9, 0x80, 0x3c, 0x60, 0xc6, 0x58,
    ];

    /// The pictures of a stream, 40 ms apart.
    fn units(stream: &[u8]) -> Vec<AccessUnit> {
        let (mut reader, mut units) = (AccessUnitReader::new(100_000), Vec::new());
        let mut take = |event| match event {
            UnitEvent::Unit(unit) => units.push(unit),
            UnitEvent::TooLong { .. } => panic!("too long"),
        };
        reader.push(stream, START_US, &mut take);
        reader.flush(&mut take);
        let last = units.len() - 1;
        for (at, unit) in units.iter_mut().enumerate() {
            let came_us = START_US + at as i64 * 40_000;
            unit.arrived_us = came_us;
            unit.next_us = (at < last).then_some(came_us + 40_000);
        }
        units
    }

    fn mux(units: &[AccessUnit]) -> (Vec<u8>, Vec<Muxed>) {
        let (mut muxer, mut out) = (Muxer::new(), Vec::new());
        let muxed = units.iter().map(|unit| muxer.push(unit, &mut out)).collect();
        (out, muxed)
    }

    /// What a scanner makes of it: the init, the chunks, and where they begin and end.
    fn scan(movie: &[u8]) -> (Option<Init>, Vec<(u64, CmafChunk)>, Vec<u64>) {
        let (mut init, mut chunks, mut ends) = (None, Vec::new(), Vec::new());
        FragmentScanner::new().push(movie, &mut |found| match found {
            Found::Init { start, end, init: told } => {
                ends.push(end);
                assert!(start == 0 && init.replace(Init::clone(told)).is_none());
            }
            Found::Chunk { start, chunk } => chunks.push((start, chunk.clone())),
            Found::ChunkEnd { end } => ends.push(end),
            Found::ChunkExtent { .. } => {}
            other => panic!("{other:?}"),
        });
        (init, chunks, ends)
    }

    fn replaced(stream: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
        let at = stream.windows(from.len()).position(|window| window == from).unwrap();
        [&stream[..at], to, &stream[at + from.len()..]].concat()
    }

    #[test]
    fn our_scanner_reads_it_back() {
        let units = units(SAMPLE);
        let (movie, muxed) = mux(&units);
        assert_eq!(
            muxed[..2],
            [
                Muxed::Chunk { has_init: true, is_key: true },
                Muxed::Chunk { has_init: false, is_key: false }
            ]
        );
        let (init, chunks, ends) = scan(&movie);
        let init = init.unwrap();
        let [track] = init.tracks.as_slice() else { panic!("{init:?}") };
        assert_eq!((track.track_id, track.timescale, track.handler), (1, 90_000, Handler::Video));
        assert_eq!((track.codec.as_str(), track.width, track.height), ("avc1.64000A", 128, 96));
        assert!(init.fragmented && init.brands == [*b"iso6", *b"iso6", *b"cmfc"]);
        assert_eq!(parse_init(&movie), Ok(init));
        assert_eq!((chunks.len(), *ends.last().unwrap()), (units.len(), movie.len() as u64));
        let mut shown = Vec::new();
        for (at, (start, chunk)) in chunks.iter().enumerate() {
            assert_eq!(*start, ends[at]);
            assert_eq!(
                (chunk.random_access, chunk.damaged, chunk.resolved),
                (at % 12 == 0, false, true)
            );
            let lead = chunk.lead().unwrap();
            let decoded = lead.decode_time.unwrap();
            assert_eq!((decoded.wide, decoded.value), (true, at as u64 * 3600));
            assert_eq!((lead.duration, lead.data_bytes), (3600, units[at].data.len() as u64));
            shown.push((decoded.value.cast_signed() + lead.first_composition) / 3600);
        }
        // The encoder tells that it decodes two before one that is shown earlier.
        let order = [0, 4, 2, 1, 3, 8, 6, 5, 7, 11, 9, 10];
        let expected = [order.map(|at| at + 2), order.map(|at| at + 14)].concat();
        assert_eq!(shown, expected);
    }

    #[test]
    fn mp4_atom_reads_it_too() {
        let units = units(SAMPLE);
        let (movie, _) = mux(&units);
        let at = |kind: &[u8]| movie.windows(4).position(|window| window == kind).unwrap() - 4;
        let moov = Moov::decode(&mut &movie[at(b"moov")..]).unwrap();
        let trak = &moov.trak[0];
        assert_eq!((trak.tkhd.width.integer(), trak.tkhd.height.integer()), (128, 96));
        assert_eq!(moov.mvex.unwrap().trex[0].default_sample_flags, DEPENDENT);
        let mp4_atom::Codec::Avc1(avc1) = &trak.mdia.minf.stbl.stsd.codecs[0] else { panic!() };
        let sets = &units[0].sets;
        assert_eq!(avc1.avcc.sequence_parameter_sets, [sets.sequence_set().to_vec()]);
        assert_eq!(avc1.avcc.picture_parameter_sets, sets.picture_sets());
        assert_eq!((avc1.visual.width, avc1.avcc.length_size), (128, 4));
        assert!(avc1.avcc.ext.is_some());
        let moof = Moof::decode(&mut &movie[at(b"moof")..]).unwrap();
        let trun = &moof.traf[0].trun[0];
        let sample = trun.samples.iter().next().unwrap();
        assert_eq!((sample.cts, sample.flags), (Some(7200), Some(INDEPENDENT)));
        let data_at = at(b"moof") + trun.data_offset.unwrap() as usize;
        assert!(movie[data_at..].starts_with(&units[0].data));
    }

    #[test]
    fn key_chunks_say_when_they_were_taken() {
        let (movie, _) = mux(&units(SAMPLE));
        let (_, chunks, _) = scan(&movie);
        for (at, (_, chunk)) in chunks.iter().enumerate() {
            let told = chunk.producer_time.map(|time| (time.ntp_ms_unix, time.media_time));
            let expected = (START_US / 1000 + at as i64 * 40, at as u64 * 3600);
            assert_eq!(told, (at % 12 == 0).then_some(expected));
        }
    }

    #[test]
    fn other_pictures_need_another_init() {
        let sets = units(SAMPLE)[0].sets.clone();
        let other = replaced(SAMPLE, sets.sequence_set(), OTHER_SET);
        let units = units(&[SAMPLE, &other].concat());
        let (mut muxer, mut first, mut second) = (Muxer::new(), Vec::new(), Vec::new());
        let muxed: Vec<_> = units[..25].iter().map(|unit| muxer.push(unit, &mut first)).collect();
        assert_eq!(muxed[24], Muxed::NewInit);
        assert_eq!(scan(&first).1.len(), 24);
        // The second half of `other` has the first size again.
        let muxed: Vec<_> = units[24..].iter().map(|unit| muxer.push(unit, &mut second)).collect();
        assert_eq!(muxed[0], Muxed::Chunk { has_init: true, is_key: true });
        assert_eq!(muxed[12..14], [Muxed::NewInit, Muxed::Waits]);
        let (init, chunks, _) = scan(&second);
        assert_eq!(init.unwrap().tracks[0].width, 1920);
        let lead = chunks[0].1.lead().unwrap();
        assert_eq!((chunks.len(), lead.decode_time.unwrap().value), (12, 24 * 3600));
    }

    #[test]
    fn other_picture_sets_stand_in_the_stream() {
        let sets = units(SAMPLE)[0].sets.clone();
        let old = &sets.picture_sets()[0];
        let new = [&old[..], &[0x80]].concat();
        let units = units(&[SAMPLE, &replaced(SAMPLE, old, &new), SAMPLE].concat());
        let (movie, muxed) = mux(&units);
        assert!(muxed.iter().all(|muxed| matches!(muxed, Muxed::Chunk { .. })));
        let (_, chunks, _) = scan(&movie);
        let extra: Vec<u64> = chunks
            .iter()
            .zip(&units)
            .map(|((_, chunk), unit)| chunk.lead().unwrap().data_bytes - unit.data.len() as u64)
            .collect();
        let with_sets: Vec<_> = (0..extra.len()).filter(|&at| extra[at] > 0).collect();
        // The second half of the second copy has the old one again, as the init segment.
        assert_eq!((with_sets, extra[24]), (vec![24], new.len() as u64 + 4));
    }

    #[test]
    fn after_a_loss_it_waits_for_a_key() {
        let mut units = units(SAMPLE);
        units[3].follows_loss = true;
        let (movie, muxed) = mux(&units);
        let waits: Vec<_> = (0..24).filter(|&at| muxed[at] == Muxed::Waits).collect();
        assert_eq!(waits, (3..12).collect::<Vec<_>>());
        let (_, chunks, _) = scan(&movie);
        assert_eq!(chunks[3].1.lead().unwrap().decode_time.unwrap().value, 12 * 3600);
        let (movie, muxed) = mux(&units[1..3]);
        assert_eq!((movie.len(), muxed), (0, vec![Muxed::Waits; 2]));
    }

    /// Goal: a picture before a pause lasts as long as any other.
    #[test]
    fn a_pause_is_a_gap() {
        for pause_ms in [1500, 20_000] {
            let mut units = units(SAMPLE);
            for unit in &mut units[12..] {
                unit.arrived_us += pause_ms * 1000;
                unit.next_us = unit.next_us.map(|us| us + pause_ms * 1000);
            }
            units[11].next_us = Some(units[12].arrived_us);
            let (_, chunks, _) = scan(&mux(&units).0);
            let leads: Vec<_> = [10, 11, 12].map(|at: usize| *chunks[at].1.lead().unwrap()).into();
            let durations: Vec<_> = leads.iter().map(|lead| lead.duration).collect();
            assert_eq!(durations, [3600; 3]);
            let time = leads[2].decode_time.unwrap().value;
            assert_eq!(time, 12 * 3600 + pause_ms as u64 * 90);
        }
    }

    proptest! {
        /// Goal: whatever a camera sends, and whenever, what is written is a movie whose chunks follow
        /// each other; each picture is decoded when the one before ends.
        #[test]
        fn all_that_is_written_can_be_read(
            changes in prop::collection::vec((0..SAMPLE.len(), any::<u8>()), 0..40),
            cuts in prop::collection::vec(1usize..900, 0..40),
            waits_us in prop::collection::vec(
                prop_oneof![8 => 0i64..80_000, 1 => -20_000_000i64..20_000_000],
                41,
            ),
            bytes_max in prop_oneof![Just(100_000usize), 100usize..3000],
        ) {
            let mut stream = SAMPLE.to_vec();
            for (at, byte) in changes {
                stream[at] = byte;
            }
            let (mut reader, mut muxer) = (AccessUnitReader::new(bytes_max), Muxer::new());
            let (mut now_us, mut movies) = (START_US, vec![(Vec::new(), 0)]);
            let mut take = |event| {
                let UnitEvent::Unit(unit) = event else { return };
                let mut muxed = muxer.push(&unit, &mut movies.last_mut().unwrap().0);
                if muxed == Muxed::NewInit {
                    movies.push((Vec::new(), 0));
                    muxed = muxer.push(&unit, &mut movies.last_mut().unwrap().0);
                }
                movies.last_mut().unwrap().1 += usize::from(matches!(muxed, Muxed::Chunk { .. }));
            };
            for (piece, wait_us) in pieces(&stream, &cuts).into_iter().zip(waits_us) {
                now_us += wait_us;
                reader.push(piece, now_us, &mut take);
            }
            reader.flush(&mut take);
            for (movie, written) in movies {
                let (_, chunks, ends) = scan(&movie);
                prop_assert_eq!(chunks.len(), written);
                prop_assert_eq!(ends.last().copied().unwrap_or_default(), movie.len() as u64);
                let mut expected = 0;
                for (_, chunk) in &chunks {
                    prop_assert!(!chunk.damaged);
                    let lead = chunk.lead().unwrap();
                    let decoded = lead.decode_time.unwrap().value;
                    prop_assert!(decoded >= expected && lead.duration > 0);
                    expected = decoded + lead.duration;
                }
            }
        }
    }
}
