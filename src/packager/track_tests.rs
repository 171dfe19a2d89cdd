//! Timelines of made-up chunks: what is cut where, and what must hold whatever an encoder sends.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::shape::Shape;
use super::track::{
    Chunk, ChunkHead, InitSegment, Keep, Kind, Micros, Publication, ROUNDING_US, Repair, Segment,
    Track,
};
use crate::store::{
    Ending, NewObject, Object, ObjectInfo, Store, StoreOptions, Visibility, WriteRule, Writer,
};

pub(super) fn store_in_memory() -> Arc<Store> {
    Store::open(StoreOptions::in_memory()).unwrap()
}

pub(super) fn upload(store: &Arc<Store>, name: &str) -> Writer {
    let new = NewObject {
        name,
        info: ObjectInfo::default(),
        visibility: Visibility::AtOnce,
        rule: WriteRule::TakeOver,
        ending: Ending::Torn,
        core: None,
    };
    store.begin(new).unwrap()
}

/// Ticks are milliseconds, chunks have 100 bytes, segments 2 s, parts 200 ms.
pub(super) fn shape() -> Shape {
    Shape {
        segment_us: 2_000_000,
        target_duration_s: 2,
        start_us: 0,
        origin_us: 0,
        origin_msn: 0,
        part_us_max: 200_010,
        part_us: 200_000,
    }
}

pub(super) fn head(object: &Arc<Object>, start: u64, time: u64, duration: u64) -> ChunkHead {
    ChunkHead {
        object: object.clone(),
        start,
        time,
        duration,
        is_independent: false,
        starts_sync: false,
        starts_object: false,
        has_init: false,
        is_timed_by_arrival: false,
        tables: Bytes::new(),
        arrived_us: (time.min(1 << 50) as Micros) * 1000,
        zero_us: None,
    }
}

struct Rig {
    store: Arc<Store>,
    object: Arc<Object>,
    track: Track,
    shape: Shape,
    bytes: u64,
    zero_us: Micros,
    runs: u64,
    repairs: Vec<Repair>,
}

impl Rig {
    fn new(kind: Kind, zero_us: Micros) -> Rig {
        let store = store_in_memory();
        let object = upload(&store, "a").object().clone();
        let mut track = Track::new("video".to_owned(), kind, 1000);
        track.part_target = 200;
        let shape = Shape { origin_us: zero_us, ..shape() };
        Rig { store, object, track, shape, bytes: 0, zero_us, runs: 0, repairs: Vec::new() }
    }

    fn next_object(&mut self) {
        self.object = upload(&self.store, &format!("o{}", self.bytes)).object().clone();
    }

    /// As a publishing point does.
    fn send(&mut self, change: impl FnOnce(&mut ChunkHead), time: u64, duration: u64) {
        let mut head = head(&self.object, self.bytes, time, duration);
        change(&mut head);
        self.bytes += 100;
        if self.track.is_restart(&head) {
            self.runs += 1;
            let epoch: Arc<str> = format!("e{}", self.runs).into();
            let (run, zero_us) = (self.runs, self.zero_us);
            let next = Publication { run, stem: epoch.clone(), epoch, zero_us };
            self.track.begin_publication(Arc::new(next), 1);
        }
        if self.track.is_repetition(&head) {
            self.repairs.push(Repair::Repetition);
            return;
        }
        self.track.prepare(&head, &self.shape, 1);
        self.track.add(&Chunk { end: head.start + 100, head }, &self.shape, 1);
        self.track.judge_rhythm(&self.shape);
        self.repairs.append(&mut self.track.repairs);
    }

    /// Chunks of `each` ms from `from` to `until`, a key frame every `gop` ms of media time.
    fn run(&mut self, from: u64, until: u64, each: u64, gop: u64) {
        for time in (from..until).step_by(each as usize) {
            let is_sync = time.is_multiple_of(gop);
            self.send(
                |head| (head.starts_sync, head.is_independent) = (is_sync, is_sync),
                time,
                each,
            );
        }
    }

    fn durations(&self) -> Vec<u64> {
        self.complete().map(|segment| segment.duration).collect()
    }

    fn complete(&self) -> impl Iterator<Item = &Segment> {
        self.track.segments.iter().filter(|segment| segment.is_complete)
    }

    fn msns(&self) -> Vec<u64> {
        self.track.segments.iter().map(|segment| segment.msn).collect()
    }

    fn has(&self, repair: Repair) -> bool {
        self.repairs.contains(&repair)
    }
}

#[test]
fn segments_end_at_key_frames_and_parts_are_full() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(0, 6000, 40, 2000);
    assert_eq!(rig.durations(), [2000, 2000, 2000]);
    for segment in rig.complete() {
        assert!(segment.starts_sync && !segment.is_discontinuity);
        assert!(segment.parts.iter().all(|part| part.duration == 200));
        let independent: Vec<bool> = segment.parts.iter().map(|part| part.is_independent).collect();
        assert_eq!((independent[0], independent[1], independent.len()), (true, false, 10));
        assert_eq!(segment.parts.last().map(|part| part.end), Some(segment.bytes()));
    }
    assert_eq!(rig.repairs, []);
}

/// Chunks of 20 ms and less are media, too, when their objects bring no init segment.
#[test]
fn short_chunks_are_no_repetitions() {
    for each in [1, 5, 20] {
        let mut rig = Rig::new(Kind::Video, 1);
        rig.run(0, 2000, each, 2000);
        assert_eq!(rig.durations(), [2000], "{each}");
        assert_eq!(rig.repairs, [], "{each}");
    }
}

#[test]
fn chunks_that_come_again_are_left_out() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(0, 4000, 100, 2000);
    rig.run(2000, 5000, 100, 2000);
    assert_eq!(rig.repairs, [Repair::Repetition; 20]);
    assert_eq!((rig.durations(), rig.msns()), (vec![2000, 2000], vec![0, 1, 2]));
    assert_eq!(rig.track.open_segment().map(|open| open.duration), Some(1000));
}

/// An epoch-locked encoder that is sent again from before the window: nothing new.
#[test]
fn old_media_of_a_locked_push_is_a_repetition() {
    let mut rig = Rig::new(Kind::Video, 0);
    rig.run(100_000, 104_000, 100, 2000);
    rig.run(96_000, 104_000, 100, 2000);
    assert_eq!((rig.runs, rig.durations().len()), (1, 2));
    // But another clock is another run.
    let later = 10 * 3_600_000_000;
    rig.send(|head| (head.arrived_us, head.starts_sync) = (later, true), 0, 100);
    assert_eq!(rig.runs, 2);
}

#[test]
fn what_is_missing_is_listed_as_a_gap() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(0, 1000, 100, 2000);
    rig.run(8000, 10_100, 100, 2000);
    assert_eq!(rig.durations(), [2000; 5]);
    let gaps: Vec<bool> = rig.complete().map(|segment| segment.is_gap).collect();
    assert_eq!(gaps, [false, true, true, true, false]);
    let parts = &rig.track.segments[0].parts;
    assert_eq!((parts[4].is_gap, parts[5].is_gap, parts.len()), (false, true, 10));
    assert!(rig.complete().all(|segment| !segment.is_discontinuity));
    assert_eq!(rig.repairs, [Repair::Gap]);
}

/// A segment that begins with a hole has PAT and PMT all the same, before its first media.
#[test]
fn tables_stand_before_the_first_media() {
    let mut rig = Rig::new(Kind::Muxed, 1);
    let tables = Bytes::from_static(&[0x47; 376]);
    let with_tables = |head: &mut ChunkHead| {
        (head.tables, head.starts_sync) = (tables.clone(), head.time.is_multiple_of(2000));
    };
    (0..20).for_each(|n| rig.send(with_tables, n * 100, 100));
    (25..40).for_each(|n| rig.send(with_tables, n * 100, 100));
    for segment in rig.complete() {
        assert_eq!(segment.made.len(), 376);
        let (made, slices) = segment.cut(0, segment.bytes());
        assert_eq!((made.len(), slices.is_empty()), (376, false));
    }
    let late = &rig.track.segments[1];
    let first_media = late.parts.iter().find(|part| !part.is_gap).unwrap();
    assert_eq!((first_media.start, late.parts[0].is_gap), (0, true));
}

#[test]
fn a_restart_is_a_discontinuity_with_the_next_number() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(10_000, 13_000, 100, 2000);
    rig.run(0, 2100, 100, 2000);
    assert_eq!((rig.durations(), rig.msns()), (vec![2000, 1000, 2000], vec![5, 6, 7, 8]));
    let breaks: Vec<bool> = rig.complete().map(|segment| segment.is_discontinuity).collect();
    assert_eq!(breaks, [false, false, true]);
    assert_ne!(rig.track.segments[1].publication.epoch, rig.track.segments[2].publication.epoch);
    assert_eq!(rig.repairs, [Repair::Restart]);
}

/// A run of which only the head of one chunk came leaves no segment without media behind.
#[test]
fn a_run_without_media_leaves_nothing() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(0, 2000, 100, 2000);
    let lost = head(&rig.object, 5000, 2000, 100);
    rig.track.prepare(&lost, &rig.shape, 1);
    assert_eq!(rig.msns(), [0, 1]);
    rig.track.complete_segment(1);
    assert_eq!((rig.msns(), rig.track.open_msn()), (vec![0], 1));
    rig.run(2000, 4000, 100, 2000);
    assert_eq!((rig.durations(), rig.msns()), (vec![2000, 2000], vec![0, 1]));
}

/// Goal: two origins that get the same epoch-locked push give the same numbers to the same media.
#[test]
fn two_origins_agree_about_numbers() {
    let at = 1_700_000_000_000;
    let early = |kind| {
        let mut rig = Rig::new(kind, 0);
        rig.shape.origin_us = at as Micros * 1000;
        rig.shape.origin_msn = at / 2000;
        rig.run(at, at + 20_000, 100, 2000);
        rig
    };
    for kind in [Kind::Video, Kind::Audio] {
        let first = early(kind);
        let mut second = Rig::new(kind, 0);
        second.shape.origin_us = (at as Micros + 8000) * 1000;
        second.shape.origin_msn = (at + 8000) / 2000;
        // It misses more than a minute, which the first has.
        second.run(at + 8000, at + 10_000, 100, 2000);
        second.run(at + 90_000, at + 94_000, 100, 2000);
        let number = |rig: &Rig, time| {
            rig.track.segments.iter().find(|s| s.time == time).map(|segment| segment.msn)
        };
        assert_eq!(number(&first, at + 8000), Some((at + 8000) / 2000));
        assert_eq!(number(&second, at + 8000), Some((at + 8000) / 2000));
        assert_eq!(number(&second, at + 92_000), Some((at + 92_000) / 2000));
        assert_eq!(second.runs, 1);
    }
}

#[test]
fn the_window_moves_and_counts_its_discontinuities() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(20_000, 22_000, 100, 2000);
    rig.run(0, 10_000, 100, 2000);
    assert_eq!(rig.track.discontinuity_sequence, 0);
    assert!(rig.track.expire(&Keep::by_time(6_000_000, 8000), 10).is_empty());
    let listed: Vec<u64> = rig.track.listed().map(|segment| segment.msn).collect();
    assert_eq!((listed, rig.track.discontinuity_sequence), (vec![13, 14, 15], 1));
    // What is not listed any more can still be had, for a while.
    assert!(rig.track.segment("e1", 10).is_some() && rig.track.segment("e2", 11).is_some());
    // 2 s of its own, 6 s of the playlist, 8 s of grace, from its first listing at 1 ms.
    rig.track.expire(&Keep::by_time(6_000_000, 8000), 16_001);
    assert_eq!(rig.msns(), [10, 11, 12, 13, 14, 15]);
    rig.track.expire(&Keep::by_time(6_000_000, 8000), 16_002);
    assert_eq!(rig.msns(), [13, 14, 15]);
    assert_eq!(rig.track.origins().len(), 1);
    // The last is never taken off.
    rig.track.expire(&Keep::by_time(0, 8000), 17_000);
    assert_eq!(rig.track.listed().count(), 1);
}

/// Goal: an encoder that begins anew all the time costs no more than so many segments and bytes.
#[test]
fn segments_are_limited_by_number_and_bytes() {
    let mut rig = Rig::new(Kind::Video, 1);
    for _ in 0..500 {
        rig.next_object();
        // With an init segment in front, and a clock that begins again.
        rig.send(|head| (head.starts_sync, head.has_init) = (true, true), 0, 200);
        rig.track.complete_segment(1);
        rig.track.has_init_again = true;
        let keep = Keep { segments_max: 40, ..Keep::by_time(6_000_000, 8000) };
        rig.track.expire(&keep, 1);
        assert!(rig.track.segments.len() <= 40);
    }
    assert_eq!(rig.track.segments.len(), 40);
    assert!(rig.track.origins().len() <= 40);
    let first = rig.track.segments.front().unwrap();
    assert!(first.is_discontinuity);
    // Numbered from 0, and only the very first one is none.
    let listed = rig.track.listed().next().unwrap();
    assert_eq!(rig.track.discontinuity_sequence, listed.msn - 1);
    rig.track.expire(&Keep { bytes_max: 1000, ..Keep::by_time(6_000_000, 8000) }, 1);
    assert_eq!(rig.track.segments.len(), 10, "of 100 bytes each");
    assert_eq!(Keep::segments_max(60_000_000, 8000, 2_000_000), 192);
    assert_eq!(
        Keep::segments_max(Micros::MAX, 8000, 2_000_000),
        Micros::MAX as usize / 2_000_000 * 2 + 64
    );
}

/// Goal: an upload that was torn before it had a part leaves nothing, and the next one its place.
#[test]
fn a_stub_of_a_torn_upload_goes() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(0, 2000, 100, 2000);
    let whole = rig.object.clone();
    let (msns, origins) = (rig.msns(), rig.track.origins().len());
    for _ in 0..10 {
        rig.next_object();
        rig.send(|head| (head.starts_sync, head.has_init) = (true, true), 0, 100);
        assert_eq!(rig.track.segments.len(), msns.len() + 1);
        rig.track.drop_stub(&whole);
        assert_eq!(rig.track.segments.len(), msns.len() + 1, "it is another's");
        let torn = rig.object.clone();
        rig.track.drop_stub(&torn);
        assert_eq!((rig.msns(), rig.track.origins().len()), (msns.clone(), origins));
        assert!(rig.track.first_byte_of(&torn).is_none());
    }
    rig.next_object();
    rig.run(0, 2200, 100, 2000);
    let second = &rig.track.segments[msns.len()];
    assert!(second.is_discontinuity && second.msn == msns[0] + 1);
    // What was announced stays.
    let torn = rig.object.clone();
    rig.track.drop_stub(&torn);
    assert_eq!(rig.track.segments.len(), msns.len() + 2);
}

/// What another segment has too is not gone.
#[test]
fn objects_go_with_their_last_segment() {
    let mut rig = Rig::new(Kind::Video, 1);
    let shared = rig.object.clone();
    rig.run(0, 4000, 100, 2000);
    rig.next_object();
    rig.run(4000, 8000, 100, 2000);
    rig.track.expire(&Keep::by_time(6_000_000, 0), 1);
    // The first of the two that it has: 2 s of its own and 6 s of the playlist after 1 ms.
    rig.track.expire(&Keep::by_time(6_000_000, 0), 8001);
    assert_eq!(rig.track.first_byte_of(&shared), Some(0));
    assert_eq!(rig.track.expire(&Keep::by_time(6_000_000, 0), 8002).len(), 0);
    assert_eq!(rig.track.first_byte_of(&shared), Some(2000));
    rig.track.expire(&Keep::by_time(4_000_000, 0), 8003);
    let gone = rig.track.expire(&Keep::by_time(4_000_000, 0), 8004);
    assert!(gone.len() == 1 && Arc::ptr_eq(&gone[0], &shared));
}

/// Goal: a rhythm that breaks costs one segment without a key frame, and no promise.
#[test]
fn a_wrong_guess_is_made_once() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(0, 8000, 100, 2000);
    // Key frames at 8.3, 10.3, ...
    for time in (8000..20_000).step_by(100) {
        let is_sync = time >= 8300 && (time - 8300) % 2000 == 0;
        rig.send(|head| head.starts_sync = is_sync, time, 100);
    }
    let wrong = rig.complete().filter(|segment| !segment.starts_sync).count();
    assert!(wrong <= 2, "{wrong}");
    assert!(rig.track.segments.back().is_some_and(|last| last.starts_sync));
}

#[test]
fn the_hint_is_the_next_part() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(0, 400, 100, 2000);
    for time in (400..8000).step_by(100) {
        let hint = rig.track.next_part().unwrap();
        rig.send(|head| head.starts_sync = time % 2000 == 0, time, 100);
        let segment = rig.track.segment(&hint.epoch, hint.msn);
        let parts = segment.map_or(0, |segment| segment.parts.len() as u64);
        let after = rig.track.next_part().unwrap();
        assert!(parts > hint.part || (after.msn, after.part) == (hint.msn, hint.part), "{time}");
    }
}

/// Goal: of a camera, whose times are those of arrival, parts come as hinted and are long enough, and
/// all segments begin with a key picture, however even the times and wherever the keys are.
#[test]
fn pictures_timed_by_arrival_are_listed_as_hinted() {
    for (group, longer) in [(25, 3), (24, 0), (26, 2), (50, 1), (13, 3)] {
        let mut rig = Rig::new(Kind::Video, 1);
        (rig.shape.segment_us, rig.shape.target_duration_s) = (1_000_000, 1);
        rig.track.part_target = 216;
        let (mut time, mut before) = (0, 0);
        for picture in 0..1000_u64 {
            let is_sync = picture % group == 0 || group == 24 && picture % 48 == 30;
            // Longer for a second, then shorter.
            let is_longer = picture / 25 % 2 == 0;
            let duration = if is_longer { 40 + longer } else { 40 - longer };
            let hinted = rig.track.next_part().map(|next| (next.msn, next.part));
            rig.send(
                |head| {
                    (head.starts_sync, head.is_independent) = (is_sync, is_sync);
                    head.is_timed_by_arrival = true;
                },
                time,
                duration,
            );
            time += duration;
            let new = parts(&rig).get(before).copied();
            assert!(before == 0 || group == 50 || new.is_none_or(|new| Some(new) == hinted));
            before = parts(&rig).len();
        }
        assert!(group == 50 || rig.repairs.is_empty(), "{group}: {:?}", rig.repairs);
        assert!(group == 50 || rig.track.segments.iter().all(|segment| segment.starts_sync));
    }
}

/// A new init segment in the middle of a segment: the hint counts that one.
#[test]
fn the_hint_of_a_new_publication_is_its_first_part() {
    let mut rig = Rig::new(Kind::Video, 1);
    let init = |digest| Arc::new(InitSegment { bytes: Bytes::new(), digest });
    assert!(!rig.track.set_init(init(1)));
    rig.run(0, 3000, 100, 2000);
    assert!(rig.track.set_init(init(2)));
    rig.track.next_epoch = Some("e2".into());
    let hint = rig.track.next_part().unwrap();
    assert_eq!((&*hint.epoch, hint.msn, hint.part), ("e2", 2, 0));
    rig.run(3000, 3400, 100, 3000);
    let first = rig.track.segment("e2", 2).unwrap();
    assert!(first.is_discontinuity && first.init.as_ref().is_some_and(|init| init.digest == 2));
}

/// No key frame for 40 s: segments end all the same, before TARGETDURATION is exceeded.
#[test]
fn a_long_gop_is_cut_by_force() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(0, 80_000, 100, 40_000);
    assert!(rig.has(Repair::ForcedCut));
    assert!(rig.complete().all(|segment| segment.duration <= 2490));
}

#[test]
fn a_long_chunk_is_a_segment_without_parts() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(0, 1000, 100, 2000);
    rig.send(|head| head.starts_sync = true, 1000, 800);
    rig.run(1800, 2000, 100, 1800);
    assert_eq!(rig.durations(), [1000, 800]);
    assert!(rig.track.segments[1].is_partless && rig.track.segments[1].parts.is_empty());
    assert_eq!(rig.repairs, [Repair::LongChunk]);
}

/// A long chunk behind the head of a short one that never came.
#[test]
fn a_long_chunk_never_becomes_a_part() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(0, 2000, 100, 2000);
    let lost = head(&rig.object, 5000, 2000, 100);
    rig.track.prepare(&lost, &rig.shape, 1);
    rig.send(|_| {}, 2000, 800);
    assert!(rig.track.segments.iter().flat_map(|s| &s.parts).all(|part| part.duration <= 200));
}

#[test]
fn media_after_the_end_is_live_again() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(0, 2000, 100, 2000);
    rig.track.is_ended = true;
    rig.run(2000, 2100, 100, 2000);
    assert!(!rig.track.is_ended);
}

#[test]
fn part_targets_are_whole_chunks() {
    let target = |kind, each| {
        let mut rig = Rig::new(kind, 1);
        for n in 0..10 {
            let head = head(&rig.object, n * 100, n * each, each);
            rig.track.push_pending(Chunk { head, end: n * 100 + 100 });
        }
        rig.track.natural_part_target(200_000)
    };
    assert_eq!(target(Kind::Video, 40), 200);
    assert_eq!(target(Kind::Video, 33), 198);
    assert_eq!(target(Kind::Video, 133), 266);
    assert_eq!(target(Kind::Video, 500), 500);
    assert_eq!(target(Kind::Audio, 21), 202);
    assert_eq!(Rig::new(Kind::Video, 1).track.natural_part_target(200_000), 0);
}

#[test]
fn parts_are_at_least_85_percent() {
    for each in [21, 33, 40, 66, 100] {
        let mut rig = Rig::new(Kind::Video, 1);
        rig.track.part_target = (200 / each) * each;
        rig.run(0, 6000, each, each * 30);
        for segment in rig.complete() {
            let all_but_last = segment.parts.iter().rev().skip(1);
            let target = rig.track.part_target;
            all_but_last.for_each(|part| assert!(part.duration * 100 >= target * 85));
        }
    }
}

#[test]
fn what_is_pending_is_one_run_from_a_key_frame() {
    let mut rig = Rig::new(Kind::Video, 1);
    let mut push = |time, is_sync| {
        let head = ChunkHead { starts_sync: is_sync, ..head(&rig.object, 0, time, 100) };
        rig.track.push_pending(Chunk { head, end: 100 });
        rig.track.pending.iter().map(|chunk| chunk.head.time).collect::<Vec<_>>()
    };
    assert_eq!(push(500, false), [500]);
    assert_eq!(push(600, true), [600]);
    assert_eq!(push(700, false), [600, 700]);
    // The clock begins again.
    assert_eq!(push(0, true), [0]);
    assert_eq!(push(100_000_000, true), [100_000_000]);
}

/// An encoder whose clock stands still fills no segment without end.
#[test]
fn a_clock_that_stands_still_is_seen() {
    let mut rig = Rig::new(Kind::Video, 1);
    rig.run(0, 2000, 10, 2000);
    for _ in 0..1000 {
        rig.send(|head| head.has_init = true, 2000, 10);
    }
    assert!(rig.track.segments.iter().all(|segment| segment.parts.len() <= 25));
}

/// Time as steps from where the chunk before ended; now and then anywhere.
fn chunk_times() -> impl Strategy<Value = (Option<u64>, i64, u64, [bool; 4])> {
    let anywhere = prop_oneof![9 => Just(None), 1 => (0_u64..1 << 49).prop_map(Some)];
    let step = prop_oneof![6 => Just(0_i64), 2 => -300_i64..300, 1 => -100_000_i64..100_000];
    let duration = prop_oneof![6 => 1_u64..400, 1 => 1_u64..2400];
    (anywhere, step, duration, any::<[bool; 4]>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Goal: whatever an encoder sends, what is listed keeps the rules.
    #[test]
    fn any_chunks_make_a_legal_timeline(
        chunks in prop::collection::vec(chunk_times(), 1..120),
        kind in prop_oneof![Just(Kind::Video), Just(Kind::Audio), Just(Kind::Text)],
        zero_us in prop_oneof![Just(0_i64), Just(1_700_000_000_000_000_i64)],
    ) {
        let mut rig = Rig::new(kind, zero_us);
        let mut at = 10_000_u64;
        for (place, step, duration, [is_sync, starts_object, has_init, expires]) in chunks {
            at = place.unwrap_or_else(|| at.saturating_add_signed(step).min(1 << 49));
            rig.send(
                |head| {
                    (head.starts_sync, head.is_independent) = (is_sync, is_sync);
                    (head.starts_object, head.has_init) = (starts_object, has_init);
                },
                at,
                duration,
            );
            at += duration;
            if expires {
                rig.track.expire(&Keep::by_time(6_000_000, 0), 60_000);
            }
            check(&rig)?;
        }
    }
}

/// The parts that are whole, by numbers.
fn parts(rig: &Rig) -> Vec<(u64, u64)> {
    let numbered = |segment: &Segment| {
        (0..segment.parts.len() as u64).map(|part| (segment.msn, part)).collect::<Vec<_>>()
    };
    rig.track.segments.iter().flat_map(numbered).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Goal: what is hinted of a track of sound is what comes, and its segments keep the beat, however
    /// long its chunks are and wherever its objects begin and end.
    #[test]
    fn parts_of_sound_come_as_hinted(
        chunks in prop::collection::vec((1_u64..=200, prop::bool::weighted(0.1)), 1..200),
        behind_us in 0_i64..2_000_000,
    ) {
        let mut rig = Rig::new(Kind::Audio, 1_700_000_000_000_000);
        rig.shape.origin_us -= behind_us;
        let mut at = 0;
        for (duration, ends_object) in chunks {
            let hinted = rig.track.next_part().map(|next| (next.msn, next.part));
            let before = parts(&rig).len();
            rig.send(|_| {}, at, duration);
            at += duration;
            if ends_object {
                rig.track.end_object(1);
                rig.next_object();
            }
            prop_assert!(before == 0 || parts(&rig).get(before).is_none_or(|new| Some(*new) == hinted));
        }
        let beat_us = rig.shape.segment_us;
        let starts = rig.track.segments.iter().skip(1).map(|segment| segment.time);
        let since_us = starts.map(|time| rig.track.wall_us(time) - rig.shape.origin_us);
        let since_us: Vec<Micros> = since_us.collect();
        let beats: Vec<_> = since_us.iter().map(|us| (us + beat_us / 2).div_euclid(beat_us)).collect();
        prop_assert!(beats.iter().zip(&since_us).all(|(beat, us)| (us - beat * beat_us).abs() <= 200_000));
        prop_assert!(beats.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{since_us:?}");
        prop_assert!(rig.repairs.is_empty());
    }
}

fn check(rig: &Rig) -> Result<(), TestCaseError> {
    let mut before: Option<&Segment> = None;
    for segment in &rig.track.segments {
        if let Some(before) = before {
            prop_assert_eq!(before.msn + 1, segment.msn);
            prop_assert!(before.is_complete);
            // Clocks may overlap a little.
            let goes_back = segment.time + 20 < before.time;
            prop_assert!(!goes_back || segment.is_discontinuity);
        }
        let longest_us = rig.shape.target_duration_s as Micros * 1_000_000 + ROUNDING_US;
        prop_assert!(segment.duration_us() <= longest_us, "{} us", segment.duration_us());
        prop_assert!(segment.parts.iter().all(|part| part.duration <= rig.track.part_target));
        let mut at = segment.parts.first().map_or(0, |part| part.start);
        for part in &segment.parts {
            prop_assert!(part.start == at || part.start == 0 && at == 0);
            prop_assert!(part.is_gap == (part.start == part.end));
            at = part.end;
        }
        if segment.is_complete {
            prop_assert!(segment.duration > 0);
            prop_assert_eq!(segment.is_gap, segment.slices.is_empty());
            let has_parts = !segment.parts.is_empty();
            prop_assert!(!has_parts || at == segment.bytes());
        }
        before = Some(segment);
    }
    Ok(())
}
