//! DASH-IF Live Media Ingest, interface 1, request by request; pushes that are locked to the epoch;
//! content steering; what players say of themselves.
//!
//! All media are hand-made (`Film`) and pushed as fast as they are taken.

use std::net::SocketAddr;

use crate::client::{Answer, Client, Upload, ask, assert_same, get, put, put_with};
use crate::hls_checker::{multivariant, resolve};
use crate::hls_fmp4::Film;
use crate::hls_playlist::Playlist;
use crate::hls_rules::{PART, SEGMENT, Stage, origin, playlist, until};
use crate::live_kit::{assert_status, attribute, mfra, styp, until_text};
use crate::server::{Server, wait_until};

const WINDOW: &str = "window_s = 60\n";
const LIST: &str = "/live/cam/video.m3u8";

/// So many segments of a second, each five fragments, without styp.
fn segments(film: &mut Film, count: usize) -> Vec<Vec<Vec<u8>>> {
    let fragment = |index: u64, film: &mut Film| film.fragment(PART, index == 0);
    (0..count).map(|_| (0..SEGMENT).map(|index| fragment(index, film)).collect()).collect()
}

/// The media bytes of everything listed, from first to last.
fn listed(address: SocketAddr, url: &str, list: &Playlist) -> Vec<u8> {
    let whole = list.segments.iter().map(|segment| segment.uri.clone());
    let parts = list.open_parts().iter().map(|part| part.uri.clone());
    let bytes = |uri: String| {
        let answer = get(address, &resolve(url, &uri));
        assert_eq!(answer.status, 200, "{uri}: {answer:?}");
        answer.body
    };
    whole.chain(parts).flat_map(bytes).collect()
}

fn good(answer: &Answer, what: &str) {
    assert_status(answer, &[200, 201, 204], what);
}

fn send(server: &Server, target: &str, body: &[u8]) -> Answer {
    put_with(server.address, target, "DASH-IF-Ingest: 1.1\r\nUser-Agent: it/1\r\n", body)
}

fn repetitions(server: &Server) -> f64 {
    let page = get(server.admin, "/metrics").text();
    let line = page.lines().find(|line| line.starts_with("headwater_live_repetitions"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

/// Goal: one CMAF segment for each request, always to the same address: probe, header, segments,
/// `lmsg`. Method: every byte is in the playlist once, and the end is told.
#[test]
fn segments_that_all_go_to_one_address() {
    let server = origin(WINDOW);
    let target = "/live/cam/Streams(video.cmfv)";
    for method in ["PUT", "POST"] {
        let empty = ask(server.address, method, target, "Content-Length: 0\r\n");
        assert_eq!(empty.status, 200, "a probe by {method}: {empty:?}");
        let chunked = "Transfer-Encoding: chunked\r\n";
        let mut client = Client::connect(server.address);
        client.request(method, target, chunked);
        client.send("0\r\n\r\n");
        assert_eq!(client.answer().status, 200, "a chunked probe by {method}");
    }
    let mut film = Film::video(1);
    good(&send(&server, target, &film.init()), "the header");
    let made = segments(&mut film, 6);
    let mut pushed = Vec::new();
    for (index, segment) in made.iter().enumerate() {
        let last = if index == 5 { "lmsg" } else { "msdh" };
        let body = [styp(&["cmfs", last]), segment.concat()].concat();
        good(&send(&server, target, &body), "a segment");
        pushed.extend(body);
    }
    let list = until(server.address, LIST, "the end", |list| list.ended);
    assert_eq!(list.segments.len(), 6, "{list:?}");
    assert!(list.segments.iter().all(|one| !one.has_discontinuity && one.duration == Some(1.0)));
    assert_same(&listed(server.address, LIST, &list), &pushed);
}

/// Goal: the same with numbered addresses; a segment that comes twice counts once.
#[test]
fn numbered_segments_and_one_that_comes_twice() {
    let server = origin(WINDOW);
    let mut film = Film::video(2);
    good(&send(&server, "/live/cam/video/init.cmfv", &film.init()), "the header");
    let made: Vec<_> = segments(&mut film, 5).iter().map(|one| one.concat()).collect();
    let target = |index: usize| format!("/live/cam/video/{}.cmfv", index + 1);
    for (index, body) in made.iter().enumerate() {
        good(&send(&server, &target(index), body), "a segment");
        if index == 2 {
            good(&send(&server, &target(index), body), "the same again");
        }
    }
    let list = until(server.address, LIST, "four segments", |list| list.segments.len() >= 4);
    let list = if list.segments.len() == 5 { list } else { playlist(server.address, LIST) };
    assert!(list.segments.iter().all(|one| !one.has_discontinuity && !one.gap), "{list:?}");
    assert!(!list.ended);
    assert_same(&listed(server.address, LIST, &list), &made.concat());
    assert!(repetitions(&server) >= 5.0, "the repetition is not counted");
}

/// Goal: an mfra behind the last segment ends the track, and so does one that comes alone.
#[test]
fn an_mfra_is_the_end() {
    for is_alone in [false, true] {
        let server = origin(WINDOW);
        let mut film = Film::video(3);
        let target = "/live/cam/Streams(video.cmfv)";
        good(&send(&server, target, &film.init()), "the header");
        for segment in segments(&mut film, 3) {
            good(&send(&server, target, &segment.concat()), "a segment");
        }
        let rest = if is_alone { Vec::new() } else { segments(&mut film, 1)[0].concat() };
        let answer = send(&server, target, &[rest, mfra()].concat());
        good(&answer, &format!("mfra, alone: {is_alone}"));
        until(server.address, LIST, &format!("the end, alone: {is_alone}"), |list| list.ended);
    }
}

/// Goal: what has no header gets 412 and may send it then, to the same address.
#[test]
fn a_missing_header_can_be_sent_after_412() {
    let server = origin(WINDOW);
    let mut film = Film::video(4);
    let target = "/live/cam/Streams(video.cmfv)";
    let made = segments(&mut film, 3);
    let refused = send(&server, target, &made[0].concat());
    assert_eq!(refused.status, 412, "{refused:?}");
    good(&send(&server, target, &film.init()), "the header");
    for segment in &made {
        good(&send(&server, target, &segment.concat()), "a segment");
    }
    let list = until(server.address, LIST, "segments", |list| list.segments.len() >= 2);
    assert!(!list.segments[0].has_discontinuity);
}

/// Goal: what is no media is 415, damaged media are 400, and neither harms what is there.
#[test]
fn what_is_no_media_is_told_apart_from_damage() {
    let server = origin(WINDOW);
    let mut film = Film::video(5);
    let target = "/live/cam/Streams(video.cmfv)";
    let text = b"<html>this is a page and no track at all</html>".repeat(40);
    assert_eq!(send(&server, target, &text).status, 415);
    good(&send(&server, target, &film.init()), "the header");
    let made = segments(&mut film, 3);
    for segment in &made {
        good(&send(&server, target, &segment.concat()), "a segment");
    }
    let garbage = [&film.clone().fragment(PART, true)[..], b"\0\0\0\x04junkjunkjunkjunkjunk"];
    let answer = send(&server, target, &garbage.concat());
    assert_eq!(answer.status, 400, "{answer:?}");
    let list = playlist(server.address, LIST);
    assert!(!list.ended && list.segments.len() >= 2, "{list:?}");
    assert_same(&listed(server.address, LIST, &list)[..made[0].concat().len()], &made[0].concat());
}

/// Goal: a connection that breaks is not the end. Method: an endless PUT is cut between fragments;
/// the second sends the header again and goes on where the first stopped.
#[test]
fn a_second_push_goes_on_after_a_broken_one() {
    let server = origin(WINDOW);
    let mut film = Film::video(6);
    let target = "/live/cam/Streams(video.cmfv)";
    let header = film.init();
    let made: Vec<_> = segments(&mut film, 6).concat();
    let mut upload = Upload::begin(server.address, target, "");
    upload.append(&header);
    for fragment in &made[..12] {
        upload.append(fragment);
    }
    let shown = |list: &Playlist| list.segments.len() == 2 && list.open_parts().len() == 2;
    until(server.address, LIST, "twelve parts", shown);
    upload.client.reset();
    wait_until("the break is noticed", || !shown(&playlist(server.address, LIST)));
    let mut upload = Upload::begin(server.address, target, "");
    upload.append(&header);
    for fragment in &made[12..] {
        upload.append(fragment);
    }
    let first = made.concat();
    wait_until("everything is listed", || {
        let list = playlist(server.address, LIST);
        assert!(!list.ended, "the break ended it");
        assert!(list.segments.iter().all(|one| !one.has_discontinuity), "{list:?}");
        listed(server.address, LIST, &list).len() == first.len()
    });
    let list = playlist(server.address, LIST);
    assert_same(&listed(server.address, LIST, &list), &first);
    good(&upload.seal(), "the second push");
    until(server.address, LIST, "the end", |list| list.ended);
}

/// Goal: an encoder sends the segment again that its connection broke off: no sample is listed twice.
#[test]
fn a_broken_segment_is_sent_again() {
    let server = origin(WINDOW);
    let mut film = Film::video(7);
    good(&send(&server, "/live/cam/video/init.cmfv", &film.init()), "the header");
    let made = segments(&mut film, 5);
    let target = |index: usize| format!("/live/cam/video/{}.cmfv", index + 1);
    for (index, segment) in made.iter().enumerate() {
        if index == 3 {
            let mut upload = Upload::begin(server.address, &target(index), "");
            upload.append(&segment[..3].concat());
            until(server.address, LIST, "half of it", |list| list.open_parts().len() == 3);
            upload.client.reset();
            until(server.address, LIST, "the break", |list| list.segments.len() == 4);
        }
        good(&send(&server, &target(index), &segment.concat()), "a segment");
    }
    let all = made.concat().concat();
    let list = playlist(server.address, LIST);
    assert!(list.segments.iter().all(|one| !one.has_discontinuity && !one.gap), "{list:?}");
    assert_same(&listed(server.address, LIST, &list), &all);
}

// Locked to the epoch.

/// Seconds of a locked push.
const LOCKED_S: f64 = 9.6;

/// Fragments of pictures and of sound whose decode time is the time of day, in the order of
/// their times; with the initialization segments.
struct Locked {
    headers: [Vec<u8>; 2],
    /// Seconds after the first, track (0 or 1), bytes.
    fragments: Vec<(f64, usize, Vec<u8>)>,
}

fn locked() -> Locked {
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let (mut film, mut sound) = (Film::video(8), Film::audio(9));
    (film.decode_time, sound.decode_time) = (now_s * 90_000, now_s * 48_000);
    let headers = [film.init(), sound.init()];
    let mut fragments = Vec::new();
    for index in 0..48 {
        let at = film.seconds() - now_s as f64;
        fragments.push((at, 0, film.fragment(PART, index % SEGMENT == 0)));
    }
    while sound.seconds() < film.seconds() {
        let at = sound.seconds() - now_s as f64;
        fragments.push((at, 1, sound.fragment(9, true)));
    }
    fragments.sort_by(|one, other| one.0.total_cmp(&other.0));
    Locked { headers, fragments }
}

/// Pushes what comes after so many seconds, one track (0 or 1) after the other, and waits for it.
fn push_locked(server: &Server, locked: &Locked, from: f64, order: [usize; 2]) -> [Upload; 2] {
    let upload = order.map(|track| {
        let name = ["video", "audio"][track];
        let target = format!("/live/cam/Streams({name}.cmf{})", &name[..1]);
        let mut upload = Upload::begin(server.address, &target, "");
        upload.append(&locked.headers[track]);
        for (at, of, fragment) in &locked.fragments {
            if *of == track && *at >= from - 1e-6 {
                upload.append(fragment);
            }
        }
        let url = format!("/live/cam/{name}.m3u8");
        // No decoder can begin with pictures before the first key frame: they are not listed.
        let first = if track == 0 { from.ceil() } else { from };
        let enough = |list: &Playlist| list.length() >= LOCKED_S - first - 0.4;
        until(server.address, &url, "the last parts", enough);
        upload
    });
    for url in [LIST, "/live/cam/audio.m3u8"] {
        playlist(server.address, url);
    }
    upload
}

/// What both of two origins list must be named alike and be the same.
fn assert_alike(one: SocketAddr, other: SocketAddr, count: usize) {
    for url in [LIST, "/live/cam/audio.m3u8"] {
        let (left, right) = (playlist(one, url), playlist(other, url));
        assert_eq!(left.target_duration, right.target_duration, "{url}");
        // The first segment of who came later may be a part of it.
        let (mut alike, mut parts) = (0, 0);
        for segment in right.segments.iter().skip(1) {
            let own = left.segment(segment.msn).unwrap_or_else(|| panic!("{url}: {segment:?}"));
            assert_eq!((&own.uri, own.date_ms), (&segment.uri, segment.date_ms), "{url}");
            let body = |address, uri: &str| get(address, &resolve(url, uri)).body;
            assert_same(&body(other, &segment.uri), &body(one, &own.uri));
            for (left, right) in own.parts.iter().zip(&segment.parts) {
                assert_eq!((&left.uri, left.duration), (&right.uri, right.duration), "{url}");
                assert_same(&body(other, &right.uri), &body(one, &left.uri));
                parts += 1;
            }
            alike += 1;
        }
        assert!(alike >= count && parts >= 10, "{url}: {alike} segments, {parts} parts are alike");
    }
}

/// Goal: two origins that receive the same epoch-locked push name everything alike, whenever they
/// began. Method: the second gets the same fragments from a later segment on.
#[test]
fn two_origins_of_one_locked_push_are_alike() {
    let (one, other) = (origin(WINDOW), origin(WINDOW));
    let locked = locked();
    let _first = push_locked(&one, &locked, 0.0, [0, 1]);
    let _second = push_locked(&other, &locked, 3.0, [0, 1]);
    assert_alike(one.address, other.address, 4);
}

/// Goal: the same if the second origin hears the sound before it sees a picture.
#[test]
fn an_origin_that_gets_the_sound_first_is_alike() {
    let (one, other) = (origin(WINDOW), origin(WINDOW));
    let locked = locked();
    let _first = push_locked(&one, &locked, 0.0, [0, 1]);
    let _second = push_locked(&other, &locked, 3.0, [1, 0]);
    assert_alike(one.address, other.address, 4);
}

/// Goal: the same if the second origin joins in the middle of a segment.
#[test]
fn an_origin_that_joins_within_a_segment_is_alike() {
    let (one, other) = (origin(WINDOW), origin(WINDOW));
    let locked = locked();
    let _first = push_locked(&one, &locked, 0.0, [0, 1]);
    let _second = push_locked(&other, &locked, 3.4, [0, 1]);
    assert_alike(one.address, other.address, 4);
}

/// Goal: an origin that restarts in the middle of a locked push goes on under the same names.
#[test]
fn a_restarted_origin_of_a_locked_push_is_alike() {
    let (one, other) = (origin(WINDOW), origin(WINDOW));
    let locked = locked();
    let _first = push_locked(&one, &locked, 0.0, [0, 1]);
    drop(push_locked(&other, &locked, 0.0, [0, 1]));
    let other = other.kill().start();
    let _second = push_locked(&other, &locked, 4.0, [0, 1]);
    assert_alike(one.address, other.address, 3);
}

// Content steering and what players say.

/// Goal: RFC 8216bis 7: the multivariant playlist names a steering manifest, which names the
/// pathways of the configuration, and URLs of this server work with a pathway in the query.
#[test]
fn content_steering_is_told_as_configured() {
    let stage = Stage::with(
        "window_s = 60\nsteering = { ttl_s = 30, pathways = [{ id = \"here\" }, \
         { id = \"there\", host = \"there.example:8443\" }] }\n",
        7,
    );
    let index = "/live/cam/index.m3u8";
    multivariant(stage.address(), index, 1);
    let text = get(stage.address(), index).text();
    let of = |name| attribute(&text, "#EXT-X-CONTENT-STEERING", "", name).unwrap();
    assert_eq!(of("PATHWAY-ID"), "here");
    assert_eq!(attribute(&text, "#EXT-X-STREAM-INF", "", "PATHWAY-ID").as_deref(), Some("here"));
    let target = resolve(index, &of("SERVER-URI"));
    for query in ["", "?_HLS_pathway=%22here%22&_HLS_throughput=5140000"] {
        let answer = get(stage.address(), &format!("{target}{query}"));
        assert_eq!((answer.status, answer.needed("content-type")), (200, "application/json"));
        let manifest: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!((&manifest["VERSION"], &manifest["TTL"]), (&1.into(), &30.into()));
        let pathways = serde_json::json!(["here", "there"]);
        assert_eq!(manifest["PATHWAY-PRIORITY"], pathways, "{manifest}");
        let clone = serde_json::json!([{ "BASE-ID": "here", "ID": "there",
            "URI-REPLACEMENT": { "HOST": "there.example:8443" } }]);
        assert_eq!(manifest["PATHWAY-CLONES"], clone);
    }
    assert_eq!(get(Stage::start(6).address(), &target).status, 404, "nothing was configured");
}

/// Asserts that a field is a dictionary of RFC 8941 with integers, tokens and plain strings.
fn assert_dictionary(text: &str) -> Vec<(String, String)> {
    let pair = |member: &str| {
        let (key, value) = member.trim().split_once('=').unwrap_or((member.trim(), "?1"));
        assert!(key.starts_with(|c: char| c.is_ascii_lowercase()), "{text}");
        let quoted = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
        let number = value.len() <= 15 && value.parse::<i64>().is_ok();
        let token = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '?')
            && value.chars().all(|c| c.is_ascii_alphanumeric() || "?-._:/%".contains(c));
        assert!(quoted || number || token, "{member} in {text}");
        (key.to_owned(), value.to_owned())
    };
    text.split(',').map(pair).collect()
}

/// Goal: CMCD by query or by header changes nothing of the answer, and is logged; CMSD-Static is
/// there and well-formed; a held answer says how long it was held.
#[test]
fn players_may_report_and_are_told() {
    let mut stage = Stage::start(12);
    let list = stage.list();
    let segment = resolve(&stage.url, &list.segments[0].uri);
    let part = resolve(&stage.url, &list.open_parts()[0].uri);
    let map = resolve(&stage.url, &list.segments[0].map.as_ref().unwrap().uri);
    for (target, kind) in [(&segment, "v"), (&part, "v"), (&map, "i")] {
        let plain = get(stage.address(), target);
        let query = format!("{target}?CMCD=bl%3D2100%2Csid%3D%22by-query%22");
        let by_query = get(stage.address(), &query);
        let fields = "CMCD-Request: bl=2100\r\nCMCD-Session: sid=\"by-header\"\r\n";
        let by_fields = ask(stage.address(), "GET", target, fields);
        for other in [by_query, by_fields] {
            assert_eq!((other.status, other.lasting()), (200, plain.lasting()), "{target}");
            assert_same(&other.body, &plain.body);
        }
        let told = assert_dictionary(plain.needed("cmsd-static"));
        let of = |key: &str| told.iter().find(|(own, _)| own == key).map(|(_, value)| &**value);
        assert_eq!((of("ot"), of("sf"), of("st")), (Some(kind), Some("h"), Some("l")), "{told:?}");
        if kind == "v" {
            let length: u64 = of("d").unwrap().parse().unwrap();
            let rate: u64 = of("br").unwrap().parse().unwrap();
            assert!(rate.abs_diff(plain.body.len() as u64 * 8 / length) <= 1, "{told:?}");
        }
    }
    wait_until("the reports are logged", || {
        let log = stage.server.log();
        log.contains("by-query") && log.contains("by-header")
    });
    let (msn, part) = list.next();
    let mut held = stage.send(&format!("?_HLS_msn={msn}&_HLS_part={part}"));
    assert!(held.stays_silent(std::time::Duration::from_millis(200)));
    stage.push(1);
    let answer = held.answer();
    let timing = answer.needed("server-timing");
    let told = timing.strip_prefix("held;dur=").and_then(|ms| ms.parse::<u64>().ok());
    assert!(told.is_some(), "Server-Timing: {timing}");
    // Media that was waited for says so in words of its own.
    let mut held = Client::connect(stage.address());
    held.request("GET", &stage.hint(), "");
    assert!(held.stays_silent(std::time::Duration::from_millis(200)));
    stage.push(1);
    let told = assert_dictionary(held.answer().needed("cmsd-static"));
    let held_ms = told.iter().find(|(key, _)| key == "ht").and_then(|(_, ms)| ms.parse().ok());
    assert!(held_ms.is_some_and(|ms: u64| ms >= 100), "{told:?}");
}

/// Goal: S7: a segment that will leave the window says when it is forgotten, which is not before it
/// has been listed for the whole window; parts and what is kept for good say nothing.
#[test]
fn segments_tell_their_lifetime() {
    let stage = Stage::start(12);
    let list = stage.list();
    let first = resolve(&stage.url, &list.segments[0].uri);
    let answer = get(stage.address(), &first);
    let time = |field| httpdate::parse_http_date(answer.needed(field)).unwrap();
    let left = time("expires").duration_since(time("date")).unwrap();
    // Seconds of the window, of the segment, and four more, less what has passed since it was pushed.
    assert!((1..=60 + 1 + 4).contains(&left.as_secs()), "{left:?}");
    let part = resolve(&stage.url, &list.open_parts()[0].uri);
    assert!(get(stage.address(), &part).field("expires").is_none());
    let kept = Stage::with("playlist_type = \"event\"\n", 12);
    let first = resolve(&kept.url, &kept.list().segments[0].uri);
    assert!(get(kept.address(), &first).field("expires").is_none());
}

// A pushed LL-HLS playlist.

/// A media playlist of another packager: whole segments 0 to `whole`, then `parts` parts.
fn foreign(control: &str, whole: u64, parts: u64, hint: bool) -> String {
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:1\n#EXT-X-SERVER-CONTROL:{control}\n\
         #EXT-X-PART-INF:PART-TARGET=0.2\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-MAP:URI=\"head.mp4\"\n"
    );
    for msn in 0..=whole {
        let count = if msn == whole { parts } else { SEGMENT };
        for part in (0..count).filter(|_| msn + 2 >= whole) {
            let independent = if part == 0 { ",INDEPENDENT=YES" } else { "" };
            text += &format!("#EXT-X-PART:DURATION=0.2,URI=\"f{msn}.{part}.m4s\"{independent}\n");
        }
        if msn < whole {
            text += &format!("#EXTINF:1.0,\nf{msn}.m4s\n");
        }
    }
    if hint {
        text += &format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"f{whole}.{parts}.m4s\"\n");
    }
    text
}

const FOREIGN: &str = "/live/own/stream.m3u8";
const CONTROL: &str = "CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.6,CAN-SKIP-UNTIL=6.0";

/// Goal: what a pushed LL-HLS playlist promises is kept: blocking reload, delta updates, a hinted
/// part that is held until it is pushed; and the playlist is served as it is.
#[test]
fn a_pushed_ll_hls_playlist_is_kept_to_its_word() {
    let server = origin(WINDOW);
    let mut film = Film::video(10);
    put(server.address, "/live/own/head.mp4", &film.init());
    put(server.address, FOREIGN, foreign(CONTROL, 9, 1, true).as_bytes());
    let plain = get(server.address, FOREIGN);
    plain.assert_body(200, foreign(CONTROL, 9, 1, true).as_bytes());
    assert_eq!(plain.needed("content-type"), "application/vnd.apple.mpegurl");
    let mut waiting = Client::connect(server.address);
    waiting.request("GET", &format!("{FOREIGN}?_HLS_msn=9&_HLS_part=1"), "");
    let mut hinted = Client::connect(server.address);
    hinted.request("GET", "/live/own/f9.1.m4s", "");
    let moment = std::time::Duration::from_millis(200);
    assert!(waiting.stays_silent(moment) && hinted.stays_silent(moment), "nothing is there yet");
    // The hinted part: half of it, then all.
    let part = film.fragment(PART, true);
    let (half, rest) = part.split_at(part.len() / 2);
    let mut upload = Upload::begin(server.address, "/live/own/f9.1.m4s", "");
    upload.append(half);
    assert!(hinted.stays_silent(moment), "S17: half of a part");
    upload.append(rest);
    good(&upload.seal(), "the part");
    hinted.answer().assert_body(200, &part);
    let newer = foreign(CONTROL, 9, 2, true);
    put(server.address, FOREIGN, newer.as_bytes());
    waiting.answer().assert_body(200, newer.as_bytes());
    // Delta updates, too far, and stale.
    let delta = get(server.address, &format!("{FOREIGN}?_HLS_skip=YES"));
    let parsed = Playlist::parse(&delta.text()).unwrap();
    assert!(parsed.skip.is_some_and(|skip| skip.segments >= 2), "{}", delta.text());
    assert!(delta.body.len() < newer.len());
    assert_eq!(get(server.address, &format!("{FOREIGN}?_HLS_msn=40")).status, 400);
    assert_eq!(get(server.address, &format!("{FOREIGN}?_HLS_part=4")).status, 400);
    get(server.address, &format!("{FOREIGN}?_HLS_msn=3")).assert_body(200, newer.as_bytes());
    // `_HLS_msn` alone waits for the whole segment.
    let mut waiting = Client::connect(server.address);
    waiting.request("GET", &format!("{FOREIGN}?_HLS_msn=9"), "");
    put(server.address, FOREIGN, foreign(CONTROL, 9, 3, true).as_bytes());
    assert!(waiting.stays_silent(moment), "S10: segment 9 is not whole");
    let whole = foreign(CONTROL, 10, 0, true);
    put(server.address, FOREIGN, whole.as_bytes());
    waiting.answer().assert_body(200, whole.as_bytes());
    let ended = format!("{}#EXT-X-ENDLIST\n", foreign(CONTROL, 10, 0, false));
    put(server.address, FOREIGN, ended.as_bytes());
    get(server.address, &format!("{FOREIGN}?_HLS_msn=99")).assert_body(200, ended.as_bytes());
}

/// Goal: a pushed playlist that does not offer blocking or deltas gets neither.
#[test]
fn a_pushed_playlist_without_promises_is_an_object() {
    let server = origin(WINDOW);
    let text = foreign("PART-HOLD-BACK=0.6", 9, 1, false);
    put(server.address, FOREIGN, text.as_bytes());
    for query in ["", "?_HLS_msn=9&_HLS_part=1", "?_HLS_msn=99", "?_HLS_skip=YES", "?CMCD=a%3D1"] {
        get(server.address, &format!("{FOREIGN}{query}")).assert_body(200, text.as_bytes());
    }
    // What is pushed beside is stored as it is, media or not.
    put(server.address, "/live/own/key.bin", b"0123456789abcdef");
    get(server.address, "/live/own/key.bin").assert_body(200, b"0123456789abcdef");
    assert_eq!(get(server.address, "/live/own/f9.1.m4s").status, 404);
    until_text(server.address, FOREIGN, "still there", |now| now == text);
}
