//! Publishing points with made-up uploads: what several tracks and uploads do to each other, what the
//! lists say of it, and when a publishing point is forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::naming::Key;
use super::point::{Over, Point, TrackInfo};
use super::track::{Chunk, ChunkHead, InitSegment, Kind, Micros};
use super::track_tests::{head, store_in_memory, upload};
use super::{Asked, Found, ListKind, LiveRule, Options, POINTS_MAX, Packager, Parts};
use crate::store::{Millis, Object, Store};

static NOW_MS: AtomicU64 = AtomicU64::new(1_700_000_000_000);

fn rule() -> LiveRule {
    LiveRule {
        prefix: "live/".to_owned(),
        part_ms: 200,
        segment_ms: 2000,
        window_ms: 20_000,
        parts: Parts::Urls,
        kind: ListKind::Window,
        steering: None,
        source: None,
    }
}

fn packager(store: &Arc<Store>, clock: fn() -> Millis) -> Arc<Packager> {
    Packager::new(Options { rules: vec![rule()], clock }, store.clone())
}

fn key(track: &str) -> Key {
    Key { track: track.to_owned(), is_numbered: true }
}

struct Rig {
    store: Arc<Store>,
    packager: Arc<Packager>,
    point: Arc<Point>,
}

impl Rig {
    fn new() -> Rig {
        let store = store_in_memory();
        let packager = packager(&store, || 1_700_000_000_000);
        let point = packager.point("live/cam", &packager.rules[0]).unwrap();
        Rig { store, packager, point }
    }

    fn track(&self, name: &str, kind: Kind, digest: u64) -> usize {
        let init = Arc::new(InitSegment { bytes: Bytes::from_static(b"init"), digest });
        let info = TrackInfo::default();
        self.point.track(name, &key(name), kind, 1000, info, Some(init)).unwrap()
    }

    fn object(&self, name: &str) -> Arc<Object> {
        let mut writer = upload(&self.store, name);
        writer.append(&[std::io::IoSlice::new(&[0; 100])]).unwrap();
        writer.finish().unwrap().commit().unwrap();
        self.store.lookup(name).unwrap()
    }

    fn send(&self, index: usize, head: ChunkHead) {
        self.point.starts(index, head.clone(), None).unwrap();
        self.point.ends(index, Chunk { end: head.start + 10, head }, None);
    }

    fn run(&self, index: usize, object: &Arc<Object>, from: u64, until: u64, each: u64) {
        for time in (from..until).step_by(each as usize) {
            let starts_sync = time.is_multiple_of(2000);
            let head = head(object, time / each * 10, time, each);
            let arrived_us = 1_700_000_000_000_000 + time as Micros * 1000;
            let head = ChunkHead { starts_sync, is_independent: starts_sync, arrived_us, ..head };
            self.send(index, head);
        }
    }

    fn get(&self, rest: &str) -> Result<String, u16> {
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(r, q)| (r, Some(q)));
        let name = format!("live/cam/{rest}");
        match self.packager.find(&Asked { name: &name, query, has_range: false, held_ms: 0 }) {
            Found::Text { text, .. } => Ok(String::from_utf8(text.plain.to_vec()).unwrap()),
            Found::View(_) | Found::Growing(_) => Ok(String::new()),
            Found::Hold(_) => Err(0),
            Found::NotLive => Err(404),
            Found::Refused(refusal) => Err(refusal.status),
        }
    }
}

/// Goal: what a playlist lists and hints can be asked for at once.
#[test]
fn what_is_listed_is_there() {
    let rig = Rig::new();
    let object = rig.object("live/cam/1.m4s");
    let video = rig.track("video", Kind::Video, 1);
    assert_eq!(rig.get("video.m3u8"), Err(0));
    rig.run(video, &object, 0, 4400, 100);
    let text = rig.get("video.m3u8").unwrap();
    let uris = text.split(['"', '\n']).filter(|word| word.starts_with("video/"));
    let mut held = 0;
    for uri in uris {
        held += u32::from(rig.get(uri) == Err(0));
        assert!(matches!(rig.get(uri), Ok(_) | Err(0)), "{uri}");
    }
    assert_eq!(held, 1, "{text}");
    assert!(text.contains("EXT-X-PRELOAD-HINT") && !text.contains("ENDLIST"), "{text}");
}

/// Goal: the old upload of a track that ends or is lost late does not harm the new one.
#[test]
fn a_lost_upload_leaves_its_successor_alone() {
    let rig = Rig::new();
    let (old, new) = (rig.object("live/cam/1.m4s"), rig.object("live/cam/2.m4s"));
    let video = rig.track("video", Kind::Video, 1);
    rig.run(video, &old, 0, 4000, 100);
    rig.run(video, &new, 4000, 4500, 100);
    let arriving = ChunkHead { ..head(&new, 2000, 4500, 100) };
    rig.point.starts(video, arriving.clone(), None).unwrap();
    for over in [Over::Torn, Over::Stream, Over::Segment] {
        rig.point.over(video, over, Some(&old), None);
    }
    rig.point.ends(video, Chunk { head: arriving, end: 2100 }, None);
    let state = rig.point.state();
    let track = &state.entries[video].track;
    let open = track.open_segment().unwrap();
    assert_eq!((open.time, open.duration, track.is_ended), (4000, 600, false));
}

/// Goal: two uploads of one track at once never mix the places of their chunks.
#[test]
fn chunks_of_two_uploads_are_kept_apart() {
    let rig = Rig::new();
    let first = rig.object("live/cam/0.m4s");
    let video = rig.track("video", Kind::Video, 1);
    rig.run(video, &first, 0, 3900, 100);
    // Both are open; the next object begins before the end of this one has come.
    let (tail, next) = (upload(&rig.store, "live/cam/a"), upload(&rig.store, "live/cam/b"));
    let last = head(tail.object(), 5000, 3900, 100);
    let next =
        ChunkHead { starts_object: true, starts_sync: true, ..head(next.object(), 0, 4000, 100) };
    rig.point.starts(video, last.clone(), None).unwrap();
    rig.point.starts(video, next.clone(), None).unwrap();
    rig.point.ends(video, Chunk { head: last, end: 5100 }, None);
    rig.point.ends(video, Chunk { head: next, end: 100 }, None);
    let state = rig.point.state();
    let segments = &state.entries[video].track.segments;
    let durations: Vec<u64> = segments.iter().map(|segment| segment.duration).collect();
    assert_eq!(durations, [2000, 2000, 100]);
    assert!(segments.iter().all(|segment| !segment.is_gap && !segment.is_discontinuity));
    assert!(segments.iter().flat_map(|s| &s.slices).all(|slice| slice.start < slice.end));
}

/// Goal: an orderly end is ENDLIST and a static MPD, a lost upload is neither.
#[test]
fn only_an_orderly_end_is_listed() {
    for (over, ended) in [(Over::Torn, false), (Over::Segment, false), (Over::Stream, true)] {
        let rig = Rig::new();
        let object = rig.object("live/cam/1.m4s");
        let video = rig.track("video", Kind::Video, 1);
        rig.run(video, &object, 0, 5000, 100);
        rig.point.over(video, over, Some(&object), None);
        assert_eq!(rig.get("video.m3u8").unwrap().contains("ENDLIST"), ended);
        assert_eq!(rig.get("manifest.mpd").unwrap().contains("type=\"static\""), ended);
        // The encoder comes back.
        let first = head(&object, 0, 0, 100);
        rig.send(video, ChunkHead { has_init: true, starts_sync: true, ..first });
        rig.run(video, &object, 100, 5000, 100);
        let text = rig.get("video.m3u8").unwrap();
        assert!(!text.contains("ENDLIST") && text.contains("#EXT-X-DISCONTINUITY\n"), "{text}");
        let mpd = rig.get("manifest.mpd").unwrap();
        assert_eq!(mpd.matches("<Period ").count(), 2, "{mpd}");
    }
}

/// Goal: tracks that were sent for the shape, and ended before it was known, have ended.
#[test]
fn a_short_stream_ends_with_all_its_tracks() {
    let rig = Rig::new();
    let object = rig.object("live/cam/1.mp4");
    let (video, audio) = (rig.track("video", Kind::Video, 1), rig.track("audio", Kind::Audio, 2));
    rig.run(audio, &object, 0, 1000, 20);
    rig.point.over(audio, Over::Stream, Some(&object), None);
    rig.run(video, &object, 0, 1000, 100);
    rig.point.over(video, Over::Stream, Some(&object), None);
    for name in ["video.m3u8", "audio.m3u8"] {
        let text = rig.get(name).unwrap();
        assert!(text.contains("ENDLIST") && text.contains("#EXTINF:1.0"), "{text}");
        assert!(text.contains("#EXT-X-TARGETDURATION:2\n"), "{text}");
    }
}

#[test]
fn a_late_track_is_listed_with_the_others() {
    let rig = Rig::new();
    let object = rig.object("live/cam/1.mp4");
    let video = rig.track("video", Kind::Video, 1);
    rig.run(video, &object, 0, 4100, 100);
    let audio = rig.track("audio", Kind::Audio, 2);
    rig.run(audio, &object, 4000, 4400, 20);
    let text = rig.get("audio.m3u8").unwrap();
    let msn = |text: &str| {
        let (_, from) = text.split_once("#EXT-X-MEDIA-SEQUENCE:").unwrap();
        from.lines().next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(msn(&text), msn(&rig.get("video.m3u8").unwrap()) + 2);
    assert!(rig.get("video.m3u8").unwrap().contains("RENDITION-REPORT:URI=\"audio.m3u8\""));
    assert!(rig.get("index.m3u8").unwrap().contains("audio.m3u8"));
}

/// Goal: a text is never older than the state that a request was judged by.
#[test]
fn texts_change_with_the_state_and_not_with_the_news() {
    let rig = Rig::new();
    let object = rig.object("live/cam/1.m4s");
    let video = rig.track("video", Kind::Video, 1);
    rig.run(video, &object, 0, 4000, 100);
    let before = rig.get("video.m3u8").unwrap();
    let revision = rig.point.state().entries[video].revision;
    // News without change.
    rig.point.state().entries[video].news.clone().tell(&rig.store, None);
    assert_eq!(rig.get("video.m3u8").unwrap(), before);
    rig.run(video, &object, 4000, 4300, 100);
    assert!(rig.point.state().entries[video].revision > revision);
    assert_ne!(rig.get("video.m3u8").unwrap(), before);
}

/// Goal: what is not listed yet changes nothing: with a part in progress, at the moment when the oldest
/// parts are about to go, the texts of one version list the same, whenever they are made.
#[test]
fn texts_of_one_version_list_the_same() {
    let rig = Rig::new();
    let object = rig.object("live/cam/1.m4s");
    let video = rig.track("video", Kind::Video, 1);
    rig.run(video, &object, 0, 8000, 100);
    let whole = rig.get("video.m3u8").unwrap();
    rig.run(video, &object, 8000, 8100, 100);
    assert!(whole.contains(".0.m4s"), "{whole}");
    assert_eq!(rig.get("video.m3u8?_HLS_skip=YES").unwrap(), whole);
}

/// Tracks of one encoder that starts again are promised the same name.
#[test]
fn new_init_segments_are_announced_with_one_name() {
    let rig = Rig::new();
    let object = rig.object("live/cam/1.m4s");
    let (video, audio) = (rig.track("video", Kind::Video, 1), rig.track("audio", Kind::Audio, 2));
    rig.run(audio, &object, 0, 4100, 20);
    rig.run(video, &object, 0, 4100, 100);
    rig.track("video", Kind::Video, 3);
    rig.track("audio", Kind::Audio, 4);
    let epochs: Vec<_> =
        rig.point.state().entries.iter().map(|e| e.track.next_epoch.clone().unwrap()).collect();
    assert_eq!(epochs[0], epochs[1]);
    rig.run(video, &object, 0, 300, 100);
    rig.run(audio, &object, 0, 300, 20);
    let state = rig.point.state();
    for entry in &state.entries {
        assert_eq!(entry.track.publication.as_ref().unwrap().epoch, epochs[0]);
    }
}

/// Sound that begins again alone is in the MPD with its new run.
#[test]
fn sound_that_restarts_alone_stays_in_the_mpd() {
    let rig = Rig::new();
    let object = rig.object("live/cam/1.m4s");
    let (video, audio) = (rig.track("video", Kind::Video, 1), rig.track("audio", Kind::Audio, 2));
    rig.run(audio, &object, 0, 4100, 20);
    rig.run(video, &object, 0, 8100, 100);
    rig.track("audio", Kind::Audio, 4);
    rig.run(audio, &object, 4100, 8100, 20);
    let epoch = rig.point.state().entries[audio].track.publication.clone().unwrap().epoch.clone();
    let mpd = rig.get("manifest.mpd").unwrap();
    assert!(mpd.contains(&format!("audio/{epoch}")), "{mpd}");
}

/// Goal: the MPD of an epoch-locked push is the same on every origin, whenever it came there.
#[test]
fn a_locked_push_has_one_mpd() {
    let at = 1_700_000_000_000_u64 / 2000 * 2000;
    let template = |from| {
        let rig = Rig::new();
        let object = rig.object("live/cam/1.m4s");
        let video = rig.track("video", Kind::Video, 1);
        for time in (from..from + 9000).step_by(100) {
            let starts_sync = time % 2000 == 0;
            rig.send(
                video,
                ChunkHead { starts_sync, ..head(&object, time % 1000 * 10, time, 100) },
            );
        }
        let mpd = rig.get("manifest.mpd").unwrap();
        let of = |name: &str| {
            // 0 is left out.
            let value = mpd.split_once(&format!("{name}=\"")).map_or("0", |(_, value)| value);
            value.split('"').next().unwrap().to_owned()
        };
        [
            of("availabilityStartTime"),
            of("startNumber"),
            of("presentationTimeOffset"),
            of("<Representation id"),
        ]
    };
    // The second came in the middle of a segment.
    assert_eq!(template(at), template(at + 12_300));
}

/// Goal: publishing points of which nothing is left make room; what is sent to, listed or stored
/// stays.
#[test]
fn empty_publishing_points_are_forgotten() {
    fn now() -> Millis {
        NOW_MS.load(Ordering::SeqCst)
    }
    let store = store_in_memory();
    let packager = packager(&store, now);
    let later = |ms| NOW_MS.fetch_add(ms, Ordering::SeqCst);
    let feed = |name: &str| packager.feed(name).map(|feed| feed.unwrap());
    let kept = feed("live/open/1.m4s").unwrap();
    for number in 0..POINTS_MAX - 1 {
        drop(feed(&format!("live/p{number}/1.m4s")).unwrap());
    }
    assert_eq!(packager.gauges().0, POINTS_MAX);
    later(super::SWEEP_MS_MIN);
    let new = feed("live/new/1.m4s").unwrap();
    assert_eq!(packager.gauges().0, 2);
    drop((kept, new));

    // With media, as long as that is listed or stored.
    let point = packager.point("live/cam", &packager.rules[0]).unwrap();
    let rig = Rig { store: store.clone(), packager: packager.clone(), point };
    let object = rig.object("live/cam/1.m4s");
    let video = rig.track("video", Kind::Video, 1);
    rig.run(video, &object, 0, 5000, 100);
    rig.point.end_feed();
    let is_there = || rig.packager.points.read().contains_key("live/cam");
    let sweep = |name: &str| {
        later(super::SWEEP_MS);
        drop(feed(name).unwrap());
        is_there()
    };
    assert!(sweep("live/a/1") && sweep("live/b/1") && sweep("live/c/1") && sweep("live/d/1"));
    store.remove("live/cam/1.m4s", None).unwrap();
    assert!(!sweep("live/e/1"));
    assert_eq!(rig.get("video.m3u8"), Err(404));
}

/// Goal: the upload of an encoder whose track another one has taken over is told to go, and nothing of
/// it gets between the chunks of the newer one.
#[test]
fn the_older_of_two_encoders_has_to_go() {
    let rig = Rig::new();
    let video = rig.track("video", Kind::Video, 1);
    let (old, new) = (upload(&rig.store, "live/cam/a"), upload(&rig.store, "live/cam/b"));
    rig.run(video, old.object(), 0, 3900, 100);
    rig.point.takes_over("video", &key("video"), 2, new.object());
    rig.track("video", Kind::Video, 2);
    let late = head(old.object(), 5000, 3900, 100);
    rig.point.ends(video, Chunk { head: late.clone(), end: 5100 }, None);
    assert_eq!(rig.point.starts(video, late, None).unwrap_err().status, 409);
    rig.run(video, new.object(), 0, 4100, 100);
    assert_eq!(rig.packager.counts().restarts.load(Ordering::Relaxed), 1);
    let state = rig.point.state();
    for segment in &state.entries[video].track.segments {
        let digest = segment.init.as_ref().map(|init| init.digest);
        let own = if digest == Some(1) { old.object() } else { new.object() };
        assert!(segment.slices.iter().all(|slice| Arc::ptr_eq(&slice.object, own)));
    }
}

/// Goal: cameras that are nested have publishing points of their own, and begin movies anew only so often.
#[test]
fn movies_of_cameras_have_points_of_any_depth() {
    static NOW_MS: AtomicU64 = AtomicU64::new(1_700_000_000_000);
    let store = store_in_memory();
    let packager = packager(&store, || NOW_MS.load(Ordering::Relaxed));
    let feed = |point| packager.feed_of_movie((point, "high.mp4"), 1000).unwrap();
    let feeds = [feed("live/a/door"), feed("live/b/door"), feed("live/yard")];
    assert!(feeds.iter().all(Option::is_some));
    let names: Vec<_> = packager.points.read().keys().cloned().collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let found = packager.deep_point(&packager.rules[0], "live/a/door/high/e/1.m4s").unwrap();
    assert_eq!((&*found.0.name, found.1), ("live/a/door", "high/e/1.m4s"));
    assert!(packager.deep_point(&packager.rules[0], "live/yard/high/e/1.m4s").is_none());
    let more: Vec<_> = (0..100).map(|_| feed("live/a/door").is_some()).collect();
    assert_eq!(more.iter().filter(|may| **may).count(), 3);
    NOW_MS.fetch_add(2000, Ordering::Relaxed);
    assert!(feed("live/a/door").is_some() && feed("live/a/door").is_none());
    // Nobody makes another, and nothing is left: they go all the same.
    drop((feeds, found));
    NOW_MS.fetch_add(super::SWEEP_MS, Ordering::Relaxed);
    packager.sweep_points();
    assert_eq!(packager.gauges().0, 0);
}
