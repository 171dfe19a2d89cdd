//! What encoders do wrong, and what becomes of it: restarts, holes, late tracks, bytes that are no media.
//!
//! Whatever comes in, every version of every playlist keeps the rules (`until` checks each one), and
//! what was served before stays true.

use std::net::SocketAddr;

use crate::client::{Answer, Client, Upload, ask, assert_same, get, noise, put_with};
use crate::hls_checker::{Follower, multivariant, resolve};
use crate::hls_checks::check_step;
use crate::hls_fmp4::{Film, Init, Media, init_of};
use crate::hls_playlist::{Playlist, Segment};
use crate::hls_rules::{PART, POINT, PUSHED, SEGMENT, Stage, origin, until};
use crate::server::{Server, wait_until};

const LIST: &str = "/live/cam/video.m3u8";

/// The bytes of a listed segment.
fn body(address: SocketAddr, segment: &Segment) -> Vec<u8> {
    let answer = get(address, &resolve(LIST, &segment.uri));
    assert_eq!(answer.status, 200, "{}: {answer:?}", segment.uri);
    answer.body
}

/// Everything that is listed: whole segments, then the parts of the open one.
fn listed_bytes(address: SocketAddr, list: &Playlist) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        list.segments.iter().filter(|one| !one.gap).flat_map(|one| body(address, one)).collect();
    for part in list.open_parts().iter().filter(|part| !part.gap) {
        bytes.extend(get(address, &resolve(LIST, &part.uri)).body);
    }
    bytes
}

/// The folder of a URI: `{track}/{epoch}`.
fn folder(uri: &str) -> &str {
    uri.rsplit_once('/').unwrap().0
}

/// A whole push in one request, chunked, from an encoder that does not wait; its answer.
fn push(server: &Server, target: &str, pieces: &[Vec<u8>]) -> Answer {
    let mut upload = Upload::begin(server.address, target, "");
    for piece in pieces {
        // The answer may come, and the connection end, before everything is sent.
        if upload.try_append(piece).is_err() {
            return upload.client.answer_to("PUT");
        }
    }
    let _ = upload.client.try_send("0\r\n\r\n");
    upload.client.answer_to("PUT")
}

/// Asserts that a push was refused with a reason, and that the server goes on as if nothing were.
fn assert_refused(server: &Server, answer: &Answer, statuses: &[u16], what: &str) {
    assert!(statuses.contains(&answer.status), "{what}: {answer:?}");
    assert!(!answer.text().trim().is_empty(), "{what}: {} without a reason", answer.status);
    let mut film = Film::video(3);
    let good = [film.init(), film.fragment(PART, true)].concat();
    let after = put_with(server.address, "/live/after/video.mp4", "", &good);
    assert!(after.status < 300, "after {what}: {after:?}");
}

/// A second encoder on the address of the first, after that went; and the list with its segments.
fn restart(stage: &mut Stage, film: Film) -> Playlist {
    let before = stage.list();
    stage.film = film;
    let mut upload = Upload::begin(stage.address(), PUSHED, "");
    upload.append(&stage.film.init());
    for index in 0..12 {
        upload.append(&stage.film.fragment(PART, index % SEGMENT == 0));
    }
    stage.upload = upload;
    let after = until(stage.address(), LIST, "the second run", |list| {
        list.segments.iter().any(|segment| segment.has_discontinuity)
            && list.open_parts().len() >= 2
    });
    check_step(&before, &after).unwrap_or_else(|why| panic!("{why}"));
    assert!(!after.ended, "the first run ended the presentation");
    after
}

/// Goal: S4, P14: a new encoder with another configuration is a discontinuity: new MAP, new names,
/// numbers and dates go on; nothing of the first run is lost. Method: reset, second push.
#[test]
fn a_restart_with_another_configuration() {
    let mut stage = Stage::start(7);
    let before = stage.list();
    let first = stage.pushed.concat();
    let next = Upload::begin(stage.address(), "/x", "");
    std::mem::replace(&mut stage.upload, next).client.reset();
    let mut film = Film::video(50);
    film.variant = 40;
    let init = film.init();
    let after = restart(&mut stage, film);
    let at = after.segments.iter().position(|segment| segment.has_discontinuity).unwrap();
    let (old, new) = (&after.segments[at - 1], &after.segments[at]);
    assert_ne!(folder(&old.uri), folder(&new.uri), "the names of two runs may not meet");
    assert_ne!(old.map, new.map);
    let map = resolve(LIST, &new.map.as_ref().unwrap().uri);
    assert_same(&get(stage.address(), &map).body, &init);
    assert!(new.date_ms > old.date_ms);
    let bytes = listed_bytes(stage.address(), &after);
    assert_same(&bytes[..first.len()], &first);
    assert_eq!(before.segments[0], after.segments[0]);
    let delta = stage.ask("?_HLS_skip=YES");
    assert_eq!(delta.status, 200);
}

/// Goal: the same configuration that begins again at 0 is a new run as well.
#[test]
fn a_restart_of_the_clock() {
    let mut stage = Stage::start(7);
    stage.upload = Upload::begin(stage.address(), "/x", "");
    let after = restart(&mut stage, Film::video(50));
    let at = after.segments.iter().position(|segment| segment.has_discontinuity).unwrap();
    let (old, new) = (&after.segments[at - 1], &after.segments[at]);
    assert_ne!(folder(&old.uri), folder(&new.uri), "the names of two runs may not meet");
    assert!(new.date_ms > old.date_ms);
}

/// Goal: time that runs backwards within a push begins a new run, and is never listed backwards.
#[test]
fn time_that_runs_backwards() {
    let mut stage = Stage::start(11);
    let before = stage.list();
    stage.film.decode_time = 0;
    for index in 0..11 {
        let fragment = stage.film.fragment(PART, index % SEGMENT == 0);
        stage.upload.append(&fragment);
    }
    let after = until(stage.address(), LIST, "the second run", |list| {
        list.all().any(|segment| segment.has_discontinuity) && !list.open_parts().is_empty()
    });
    check_step(&before, &after).unwrap_or_else(|why| panic!("{why}"));
    assert!(stage.upload.seal().status < 300);
}

/// Goal: S4: a hole of three seconds is said: GAP or DISCONTINUITY, never a segment over the target
/// duration. What stands before and behind it is all there.
#[test]
fn a_hole_in_time() {
    let mut stage = Stage::start(7);
    let before = stage.list();
    stage.film.leap(75);
    let mut pushed = stage.pushed.concat();
    for index in 0..11 {
        let fragment = stage.film.fragment(PART, index % SEGMENT == 0);
        stage.upload.append(&fragment);
        pushed.extend(fragment);
    }
    let after = until(stage.address(), LIST, "what follows the hole", |list| {
        listed_bytes(stage.address(), list).len() >= pushed.len()
    });
    check_step(&before, &after).unwrap_or_else(|why| panic!("{why}"));
    let gap = |segment: &Segment| segment.gap || segment.parts.iter().any(|part| part.gap);
    let said = after.all().any(|segment| segment.has_discontinuity || gap(segment));
    assert!(said, "S4: a hole that nobody is told of: {after:?}");
    assert_same(&listed_bytes(stage.address(), &after), &pushed);
}

/// Goal: a connection that is reset is an interruption, not the end: no ENDLIST, what is there stays.
#[test]
fn a_reset_is_not_the_end() {
    let mut stage = Stage::start(13);
    let before = stage.list();
    let next = Upload::begin(stage.address(), "/other", "");
    std::mem::replace(&mut stage.upload, next).client.reset();
    wait_until("the reset is noticed", || {
        let mut tail = Client::connect(stage.address());
        tail.request("HEAD", PUSHED, "");
        let head = tail.head();
        head.status != 200 || head.field("etag").is_some()
    });
    let after = stage.list();
    check_step(&before, &after).unwrap_or_else(|why| panic!("{why}"));
    assert!(!after.ended, "ENDLIST after a reset");
    let count = stage.pushed[..13].concat().len();
    assert_same(&listed_bytes(stage.address(), &after), &stage.pushed.concat()[..count]);
}

/// Goal: what begins with a fragment has no configuration: 412 (or 400) with a reason.
#[test]
fn a_fragment_without_a_header() {
    let server = origin("window_s = 60\n");
    let mut film = Film::video(1);
    let pieces: Vec<_> = (0..12).map(|index| film.fragment(PART, index % SEGMENT == 0)).collect();
    let answer = push(&server, PUSHED, &pieces);
    assert_refused(&server, &answer, &[412, 400], "a fragment before the header");
}

/// Goal: a box of 2^63 bytes costs nothing and is refused, before and after the header.
#[test]
fn a_box_of_half_the_world() {
    let server = origin("window_s = 60\n");
    let mut film = Film::video(1);
    let huge = |kind: &[u8; 4]| {
        [&[0, 0, 0, 1][..], kind, &(1_u64 << 63).to_be_bytes(), &noise(4, 500)].concat()
    };
    for kind in [b"moov", b"ftyp", b"moof"] {
        let answer = push(&server, "/live/huge/video.mp4", &[huge(kind)]);
        assert_refused(&server, &answer, &[400, 412, 415], "a huge first box");
    }
    let pieces = [film.init(), film.fragment(PART, true), huge(b"moof")];
    let answer = push(&server, PUSHED, &pieces);
    assert_refused(&server, &answer, &[400, 415], "a huge moof");
}

/// Goal: what is called .mp4 and is none: 415; a name of no media is an ordinary object.
#[test]
fn what_is_not_mp4() {
    let server = origin("window_s = 60\n");
    for (seed, start) in [(1, &b"GIF89a"[..]), (2, b""), (3, b"\0\0\0\x20abcd"), (4, b"#EXTM3U\n")]
    {
        let bytes = [start, &noise(seed, 5000)].concat();
        let answer = push(&server, PUSHED, &[bytes]);
        assert_refused(&server, &answer, &[415], "no MP4");
    }
    let answer = put_with(server.address, "/live/cam/notes.txt", "", b"some words");
    assert_eq!(answer.status, 201);
    get(server.address, "/live/cam/notes.txt").assert_body(200, b"some words");
    // A probe of DASH-IF ingest: an empty request.
    let answer = put_with(server.address, "/live/probe/video.mp4", "", b"");
    assert!(answer.status < 300, "{answer:?}");
}

/// Goal: a fragment longer than the target duration cannot be listed: 400 with a reason.
#[test]
fn a_fragment_longer_than_the_target_duration() {
    let mut stage = Stage::start(6);
    let target = stage.list().target_duration as u32;
    let fragment = stage.film.fragment(25 * (target + 2), true);
    let sent = stage.upload.try_append(&fragment);
    let answer = if sent.is_ok() { stage.upload.seal() } else { stage.upload.client.answer() };
    assert_refused(&stage.server, &answer, &[400], "a long fragment");
    stage.list();
}

/// Goal: P4: a fragment longer than a part makes no part that is too long: its segment is repaired,
/// with fewer parts or none, and its bytes are all there.
#[test]
fn a_fragment_longer_than_a_part() {
    let mut stage = Stage::start(6);
    let before = stage.list();
    let mut pushed = stage.pushed.concat();
    let mut add = |stage: &mut Stage, frames, key| {
        let fragment = stage.film.fragment(frames, key);
        stage.upload.append(&fragment);
        pushed.extend(fragment);
    };
    add(&mut stage, 10, false);
    add(&mut stage, 10, false);
    for index in 0..11 {
        add(&mut stage, PART, index % SEGMENT == 0);
    }
    let after = until(stage.address(), LIST, "parts again", |list| {
        listed_bytes(stage.address(), list).len() >= pushed.len()
    });
    // A segment whose parts are not all of it may only be listed without them.
    let step = check_step(&before, &after);
    assert!(step.is_ok() || step.clone().unwrap_err().starts_with("S5"), "{step:?}");
    let repaired = after.segments.iter().all(|segment| {
        let parts: f64 = segment.parts.iter().map(|part| part.duration).sum();
        segment.parts.is_empty() || (parts - segment.length()).abs() < 0.001
    });
    assert!(repaired, "P9: parts that are not the whole of their segment: {after:?}");
    assert_same(&listed_bytes(stage.address(), &after), &pushed);
    assert!(after.all().all(|segment| !segment.has_discontinuity), "nothing is missing");
}

/// Goal: pitfall 1: fragments of one picture, and of sizes that do not divide a part, are gathered
/// within 85 % of the part target. Method: the strict client behind pushes of 1, 2, 3, 4 and 6
/// pictures a fragment.
#[test]
fn small_fragments_are_gathered() {
    for frames in [1, 2, 3, 4, 6] {
        let server = origin("window_s = 60\n");
        let mut film = Film::video(9);
        let mut upload = Upload::open(server.address, PUSHED, "");
        upload.append(&film.init());
        let mut add = |film: &mut Film| {
            let mut left = 25;
            while left > 0 {
                let count = left.min(frames);
                upload.append(&film.fragment(count, left == 25));
                left -= count;
            }
        };
        add(&mut film);
        add(&mut film);
        let mut follower = Follower::open(server.address, LIST);
        for _ in 0..4 {
            add(&mut film);
            let end = film.seconds();
            let all = |list: &Playlist| list.length() >= end - 0.3;
            until(server.address, LIST, "the second", all);
            follower.advance();
        }
        let found = follower.finish();
        let list = &found.playlist;
        let parts: usize = list.all().map(|segment| segment.parts.len()).sum();
        assert!(parts >= 8 && list.part_target.is_some(), "{frames}: {parts} parts");
        assert!(found.segments >= 4, "{frames}: {} segments", found.segments);
    }
}

/// Goal: sound that comes three seconds late joins the same clock; the pictures did not wait.
#[test]
fn late_audio_joins_the_same_clock() {
    let stage = Stage::start(21);
    let mut sound = Film::audio(90);
    let mut upload = Upload::open(stage.address(), "/live/cam/audio.mp4", "");
    upload.append(&sound.init());
    while sound.seconds() < stage.film.seconds() {
        upload.append(&sound.fragment(9, true));
    }
    let index = format!("{POINT}index.m3u8");
    let urls = multivariant(stage.address(), &index, 2).playlists();
    let lists: Vec<_> = urls
        .iter()
        .map(|uri| {
            let url = resolve(&index, uri);
            let is = |list: &Playlist| list.length() > 3.0 && list.reports.len() == 1;
            let list = until(stage.address(), &url, "both report each other", is);
            zero(stage.address(), &url, &list)
        })
        .collect();
    assert!((lists[0] - lists[1]).abs() <= 200.0, "B1: presentation zeros {lists:?}");
}

/// Unix time in ms of media time 0, by the first segment.
fn zero(address: SocketAddr, url: &str, list: &Playlist) -> f64 {
    let first = &list.segments[0];
    let at = |uri: &str| get(address, &resolve(url, uri)).body;
    let init = Init::read(&at(&first.map.as_ref().unwrap().uri)).unwrap();
    let media = Media::read(&at(&first.uri), &init).unwrap();
    let start = media.span(&init).unwrap().unwrap().0 as f64;
    first.date_ms.unwrap() as f64 - 1000.0 * start / init.lead().timescale as f64
}

/// Goal: a muxed push with a moof for each track is two renditions; the bytes of each are its own.
#[test]
fn a_muxed_push_is_taken_apart() {
    let server = origin("window_s = 60\n");
    let (mut film, mut sound) = (Film::video(1), Film::audio(2).with_track(2));
    let mut upload = Upload::open(server.address, "/live/cam/Streams(cam.cmfv)", "");
    upload.append(&init_of(&[&film, &sound]));
    let (mut pictures, mut tones) = (Vec::new(), Vec::new());
    for index in 0..16 {
        let picture = film.fragment(PART, index % SEGMENT == 0);
        let tone = sound.fragment(9, true);
        upload.append(&[&picture[..], &tone].concat());
        pictures.extend(picture);
        tones.extend(tone);
    }
    assert!(upload.seal().status < 300);
    let index = format!("{POINT}index.m3u8");
    let found = multivariant(server.address, &index, 2);
    let codecs = |codecs: &str| codecs.eq_ignore_ascii_case("avc1.42c01e,mp4a.40.2");
    assert!(found.variants.iter().any(|one| codecs(&one.codecs)), "{found:?}");
    assert!(found.variants.iter().any(|one| one.resolution.as_deref() == Some("160x90")));
    for (uri, bytes) in found.playlists().iter().zip([&tones, &pictures]) {
        let url = resolve(&index, uri);
        let list = until(server.address, &url, "the end", |list| list.ended);
        let mut got = Vec::new();
        for segment in &list.segments {
            let map = resolve(&url, &segment.map.as_ref().unwrap().uri);
            let init = Init::read(&get(server.address, &map).body).unwrap();
            assert_eq!(init.tracks.len(), 1, "{map}");
            let body = get(server.address, &resolve(&url, &segment.uri)).body;
            Media::read(&body, &init).unwrap_or_else(|why| panic!("{why}"));
            got.extend(body);
        }
        assert_same(&got, bytes);
    }
}

/// Goal: two encoders on one address do not mix. Method: a second push takes over while the first
/// still sends; each segment is made of fragments of one push.
#[test]
fn two_encoders_do_not_mix() {
    let mut stage = Stage::start(7);
    let mut other = Film::video(1_000_000);
    let mut upload = Upload::begin(stage.address(), PUSHED, "");
    upload.append(&other.init());
    let mut of_other = Vec::new();
    for index in 0..16 {
        let fragment = other.fragment(PART, index % SEGMENT == 0);
        // Either of them may be told to go.
        if upload.try_append(&fragment).is_err() {
            break;
        }
        of_other.push(fragment);
        let mine = stage.next_fragment();
        if stage.upload.try_append(&mine).is_ok() {
            stage.pushed.push(mine);
        }
    }
    let list = until(stage.address(), LIST, "more than the first had", |list| list.length() > 2.4);
    for segment in &list.segments {
        let bytes = body(stage.address(), segment);
        let whole = |all: &[Vec<u8>]| {
            let all = all.concat();
            all.windows(bytes.len()).any(|window| window == bytes)
        };
        assert!(whole(&stage.pushed) || whole(&of_other), "{} is of both", segment.uri);
    }
    assert!(ask(stage.address(), "HEAD", LIST, "").status == 200);
}
