//! The rules of LL-HLS for a server, one by one: hand-made fragments, pushed when the test says so.
//!
//! A `Stage` is a server, one endless push of pictures and what is known of it: fragments of 200 ms,
//! a key frame every second, so a fragment is a part and five are a segment. Nothing here depends on
//! the speed of the machine: a test pushes, waits until the playlist shows it, and goes on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::client::{Answer, Client, Upload, ask, assert_same, get};
use crate::hls_checker::{Follower, check_answer, max_age, multivariant, resolve};
use crate::hls_checks::check_step;
use crate::hls_fmp4::Film;
use crate::hls_playlist::Playlist;
use crate::hls_probe::{check_refusal, probe};
use crate::server::{HANG, Server, Setup, wait_until};

pub(crate) const POINT: &str = "/live/cam/";
pub(crate) const PUSHED: &str = "/live/cam/video.mp4";
/// Pictures in a fragment; fragments in a segment.
pub(crate) const PART: u32 = 5;
pub(crate) const SEGMENT: u64 = 5;
/// Long enough for a server that answers at once to have answered.
const MOMENT: Duration = Duration::from_millis(300);

/// A server with parts of 200 ms and segments of a second under `/live/`, and these further keys.
pub(crate) fn origin(keys: &str) -> Server {
    let table = "[[live]]\nprefix = \"/live/\"\npart_ms = 200\nsegment_s = 1.0\n";
    Setup::new().table(&format!("{table}{keys}")).start()
}

/// A whole media playlist that keeps all rules.
pub(crate) fn playlist(address: SocketAddr, url: &str) -> Playlist {
    let answer = get(address, url);
    assert_eq!(answer.status, 200, "{url}: {answer:?}");
    Playlist::checked(&answer.text()).unwrap_or_else(|why| panic!("{why}\n{}", answer.text()))
}

/// Waits for a version of which this is true.
pub(crate) fn until(
    address: SocketAddr,
    url: &str,
    what: &str,
    is: impl Fn(&Playlist) -> bool,
) -> Playlist {
    let deadline = Instant::now() + HANG;
    loop {
        let answer = get(address, url);
        if answer.status == 200 {
            let text = answer.text();
            let list = Playlist::checked(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
            if is(&list) {
                return list;
            }
            assert!(Instant::now() < deadline, "waited in vain: {what}\n{text}");
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}\n{answer:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One push under way.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) upload: Upload,
    pub(crate) film: Film,
    /// The media playlist.
    pub(crate) url: String,
    /// The fragments pushed so far.
    pub(crate) pushed: Vec<Vec<u8>>,
    /// Number of the first segment.
    base: u64,
}

impl Stage {
    /// A push of `parts` fragments that the playlist shows.
    pub(crate) fn with(keys: &str, parts: usize) -> Stage {
        let server = origin(keys);
        let film = Film::video(7);
        let mut upload = Upload::open(server.address, PUSHED, "");
        upload.append(&film.init());
        let (url, pushed) = (String::new(), Vec::new());
        let mut stage = Stage { server, upload, film, url, pushed, base: 0 };
        for _ in 0..parts {
            let fragment = stage.next_fragment();
            stage.upload.append(&fragment);
            stage.pushed.push(fragment);
        }
        let index = format!("{POINT}index.m3u8");
        let found = multivariant(stage.address(), &index, 1).playlists();
        assert_eq!(found.len(), 1, "one track was pushed: {found:?}");
        stage.url = resolve(&index, &found[0]);
        let first = until(stage.address(), &stage.url, "a first part", |list| {
            list.last().1.is_some() || !list.segments.is_empty()
        });
        stage.base = first.media_sequence;
        stage.shown();
        stage
    }

    pub(crate) fn start(parts: usize) -> Stage {
        Stage::with("window_s = 60\n", parts)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    pub(crate) fn next_fragment(&mut self) -> Vec<u8> {
        let begins = (self.pushed.len() as u64).is_multiple_of(SEGMENT);
        self.film.fragment(PART, begins)
    }

    /// Pushes fragments, and waits until the playlist shows them all.
    pub(crate) fn push(&mut self, parts: usize) -> Playlist {
        for _ in 0..parts {
            let fragment = self.next_fragment();
            self.upload.append(&fragment);
            self.pushed.push(fragment);
        }
        self.shown()
    }

    /// Waits until everything that was pushed is listed.
    pub(crate) fn shown(&self) -> Playlist {
        let (count, base) = (self.pushed.len() as u64, self.base);
        until(self.address(), &self.url, &format!("{count} parts"), |list| {
            (list.open_msn() - base) * SEGMENT + list.open_parts().len() as u64 >= count
        })
    }

    pub(crate) fn list(&self) -> Playlist {
        playlist(self.address(), &self.url)
    }

    pub(crate) fn ask(&self, query: &str) -> Answer {
        get(self.address(), &format!("{}{query}", self.url))
    }

    /// A request on a connection of its own, whose answer is not waited for.
    pub(crate) fn send(&self, query: &str) -> Client {
        let mut client = Client::connect(self.address());
        client.request("GET", &format!("{}{query}", self.url), "");
        client
    }

    pub(crate) fn hint(&self) -> String {
        let list = self.list();
        resolve(&self.url, &list.hint("PART").expect("P13: no hint").uri)
    }
}

/// The version that a whole answer is.
fn version(answer: &Answer) -> Playlist {
    assert_eq!(answer.status, 200, "{answer:?}");
    Playlist::checked(&answer.text()).unwrap_or_else(|why| panic!("{why}\n{}", answer.text()))
}

/// Where the segment is to which a part belongs: `…/{msn}.{n}.m4s` and `…/{msn}.m4s`.
pub(crate) fn segment_of(part: &str) -> String {
    let (stem, extension) = part.rsplit_once('.').unwrap();
    format!("{}.{extension}", stem.rsplit_once('.').unwrap().0)
}

/// Goal: S14 and malformed directives: 400 at once, with a reason; the connection goes on.
#[test]
fn wrong_directives_are_400() {
    let stage = Stage::start(7);
    let mut client = Client::connect(stage.address());
    let open = stage.list().open_msn();
    for query in [
        "?_HLS_part=0".to_owned(),
        format!("?_HLS_part={open}&foo=bar"),
        "?_HLS_msn=".to_owned(),
        "?_HLS_msn=abc".to_owned(),
        "?_HLS_msn=-1".to_owned(),
        "?_HLS_msn=99999999999999999999999".to_owned(),
        format!("?_HLS_msn={open}&_HLS_part=x"),
    ] {
        let answer = client.ask("GET", &format!("{}{query}", stage.url), "");
        assert_eq!(answer.status, 400, "S14: {query}: {answer:?}");
        assert!(!answer.body.is_empty(), "{query}: no reason");
    }
    version(&stage.ask("?foo=1&_HLS_pathway=a&CMCD=bl%3D1000"));
}

/// Goal: S15: what is too far in the future is refused at once, with a cache lifetime of 4 × TD.
#[test]
fn a_number_too_far_ahead_is_400() {
    let stage = Stage::start(7);
    let list = stage.list();
    let open = list.open_msn();
    for query in [
        format!("?_HLS_msn={}", open + 2),
        format!("?_HLS_msn={}&_HLS_part=0", open + 100),
        format!("?_HLS_msn={}", u64::MAX),
        format!("?_HLS_part=1000&_HLS_msn={open}"),
        format!("?_HLS_msn={open}&_HLS_part={}", u64::MAX),
    ] {
        let answer = stage.ask(&query);
        let kept = check_refusal(&answer, ("S15", 400), 4.0 * list.target_duration);
        kept.unwrap_or_else(|why| panic!("{why}: {query}: {answer:?}"));
    }
    // Two parts are listed of it: the Advance Part Limit is 15 for parts of 200 ms.
    let listed = list.open_parts().len();
    let answer = stage.ask(&format!("?_HLS_msn={open}&_HLS_part={}", listed + 15));
    assert_eq!(answer.status, 400, "S15: {answer:?}");
    let mut waiting = [
        stage.send(&format!("?_HLS_msn={}", open + 1)),
        stage.send(&format!("?_HLS_msn={open}&_HLS_part={}", listed + 14)),
    ];
    assert!(waiting.iter_mut().all(|one| one.stays_silent(MOMENT)), "S15: refused too early");
}

/// Goal: S12: who asks for what has long been there gets the whole current playlist.
#[test]
fn a_stale_number_gets_the_whole_playlist() {
    let stage = Stage::start(13);
    let list = stage.list();
    let first = list.media_sequence;
    for query in [
        "?_HLS_msn=0".to_owned(),
        "?_HLS_msn=0&_HLS_part=0".to_owned(),
        format!("?_HLS_msn={first}&_HLS_part=1"),
        format!("?_HLS_msn={first}&_HLS_part=7"),
        format!("?_HLS_part=0&_HLS_msn={}", first + 1),
        format!("?_HLS_part=0&_HLS_msn={}", list.open_msn()),
    ] {
        let answer = stage.ask(&query);
        assert_eq!(version(&answer), list, "S12: {query}");
        check_answer(&answer, &["application/vnd.apple.mpegurl"]).unwrap();
        assert_eq!(max_age(&answer), Ok(6.0 * list.target_duration), "B1: {query}");
    }
}

/// Goal: S10 for `_HLS_msn` alone: the answer has that segment whole. Method: ask, then push part
/// after part, and see each listed for others.
#[test]
fn a_number_alone_waits_for_the_whole_segment() {
    let mut stage = Stage::start(6);
    let open = stage.list().open_msn();
    let mut waiting = stage.send(&format!("?_HLS_msn={open}"));
    for _ in 0..4 {
        stage.push(1);
    }
    stage.push(2);
    let list = version(&waiting.answer());
    let segment = list.segment(open).unwrap();
    assert!(segment.duration.is_some(), "S10: segment {open} is not complete: {segment:?}");
}

/// Goal: S10 for parts: 40 clients wait for the next part and get it, in either order of the query.
#[test]
fn a_part_is_waited_for() {
    let mut stage = Stage::start(6);
    for _ in 0..6 {
        let (msn, part) = stage.list().next();
        let orders = [
            format!("?_HLS_msn={msn}&_HLS_part={part}"),
            format!("?_HLS_part={part}&_HLS_msn={msn}"),
        ];
        let mut waiting: Vec<_> = (0..40).map(|index| stage.send(&orders[index % 2])).collect();
        stage.push(1);
        let answers: Vec<_> = waiting.iter_mut().map(Client::answer).collect();
        for answer in &answers {
            let list = version(answer);
            assert!(list.last() >= (msn, Some(part)), "S10: {msn}/{part}: {:?}", list.last());
            assert_eq!(max_age(answer), Ok(6.0 * list.target_duration));
        }
    }
}

/// Goal: S11: a part beyond the end of a segment is part 0 of the next. Method: ask for part 7 of an
/// open segment that will have five.
#[test]
fn a_part_beyond_the_segment_rolls_over() {
    let mut stage = Stage::start(6);
    let open = stage.list().open_msn();
    let mut waiting = stage.send(&format!("?_HLS_msn={open}&_HLS_part=7"));
    stage.push(4);
    stage.push(1);
    let list = version(&waiting.answer());
    assert!(list.last() >= (open + 1, Some(0)), "S11: {:?}", list.last());
    // Asked for later: the segment is finished, part 0 of the next is there.
    version(&stage.ask(&format!("?_HLS_msn={open}&_HLS_part=7")));
}

/// Goal: S1, S3: what is complete is listed with its last byte, and waits for nothing behind it: a
/// part, and a segment of the usual length. Method: exactly three segments, and no byte more.
#[test]
fn what_is_complete_is_listed_at_once() {
    let mut stage = Stage::start(12);
    for parts in [3, 5, 5] {
        stage.push(parts);
        let list = stage.list();
        assert!(list.open_parts().is_empty(), "S3: {:?}", list.open_parts());
        let whole = list.segments.len() as u64 * SEGMENT;
        assert_eq!(whole, stage.pushed.len() as u64, "S3: a segment waits for the next");
        probe(stage.address(), &stage.url, &list).unwrap_or_else(|why| panic!("{why}"));
    }
}

/// Goal: P8: an encoder without key frames makes no segment that is longer than TARGETDURATION says.
#[test]
fn a_long_group_of_pictures_is_cut() {
    let mut stage = Stage::start(11);
    let before = stage.list();
    for _ in 0..30 {
        let fragment = stage.film.fragment(PART, false);
        stage.upload.append(&fragment);
        stage.pushed.push(fragment);
    }
    let list = until(stage.address(), &stage.url, "what has no key frame", |list| {
        list.length() > 8.0 - 1e-6
    });
    check_step(&before, &list).unwrap_or_else(|why| panic!("{why}"));
    assert!(list.all().all(|segment| !segment.has_discontinuity), "nothing is missing: {list:?}");
    let bytes: Vec<u8> = list
        .segments
        .iter()
        .flat_map(|segment| get(stage.address(), &resolve(&stage.url, &segment.uri)).body)
        .collect();
    assert_same(&bytes, &stage.pushed.concat()[..bytes.len()]);
}

/// Goal: P14: who waits for a hinted part that never comes gets 404, once that is sure. Method: the
/// orderly end.
#[test]
fn a_hint_that_never_comes_is_404() {
    let mut stage = Stage::start(7);
    let (list, mut waiting) = (stage.list(), Client::connect(stage.address()));
    waiting.request("GET", &stage.hint(), "");
    assert!(waiting.stays_silent(MOMENT), "S18: a hinted part is waited for");
    assert!(stage.upload.seal().status < 300);
    let answer = waiting.answer();
    check_refusal(&answer, ("P14", 404), list.target_duration)
        .unwrap_or_else(|why| panic!("{why}: {answer:?}"));
}

/// Goal: P13, P14 for TYPE=MAP: an initialization segment that changes is hinted and can be had before
/// its first part; the part hinted before is abandoned. Method: another encoder takes over, and stops
/// in the middle of its first fragment; then it goes on.
#[test]
fn a_new_map_is_hinted() {
    let mut stage = Stage::start(7);
    let (before, mut waiting) = (stage.list(), Client::connect(stage.address()));
    waiting.request("GET", &stage.hint(), "");
    let mut film = Film::video(50);
    film.variant = 40;
    let first = film.fragment(PART, true);
    let (half, rest) = first.split_at(first.len() / 2);
    stage.upload = Upload::begin(stage.address(), PUSHED, "");
    stage.upload.append(&[&film.init(), half].concat());
    let hinted =
        until(stage.address(), &stage.url, "a hinted map", |list| list.hint("MAP").is_some());
    check_step(&before, &hinted).unwrap_or_else(|why| panic!("{why}"));
    check_refusal(&waiting.answer(), ("P14", 404), before.target_duration)
        .unwrap_or_else(|why| panic!("{why}"));
    let map = resolve(&stage.url, &hinted.hint("MAP").unwrap().uri);
    get(stage.address(), &map).assert_body(200, &film.init());
    let mut waiting = Client::connect(stage.address());
    waiting.request("GET", &stage.hint(), "");
    assert!(waiting.stays_silent(MOMENT), "S17: something came of half a part");
    stage.upload.append(rest);
    waiting.answer().assert_body(200, &first);
    let after = until(stage.address(), &stage.url, "its first part", |list| {
        list.open.as_ref().is_some_and(|open| open.has_discontinuity)
    });
    check_step(&hinted, &after).unwrap_or_else(|why| panic!("{why}"));
    assert!(after.hint("MAP").is_none(), "P13: a map that is listed is hinted");
}

/// Goal: P11: reports are exact for a version that was just made, and never a segment old, even of a
/// track that stalls while the others go on. Method: sound before each picture; then sound alone.
#[test]
fn reports_say_where_the_others_are() {
    let mut stage = Stage::start(7);
    let sounds = format!("{POINT}audio.m3u8");
    let mut sound = Film::audio(90);
    let mut upload = Upload::open(stage.address(), "/live/cam/audio.mp4", "");
    upload.append(&sound.init());
    let mut sing = |until_s: f64| {
        while sound.seconds() < until_s {
            upload.append(&sound.fragment(9, true));
        }
    };
    sing(stage.film.seconds());
    let long = |list: &Playlist, end: f64| list.length() > end - 0.41;
    for _ in 0..12 {
        let end = stage.film.seconds() + 0.2;
        sing(end);
        let heard = until(stage.address(), &sounds, "the sound", |list| long(list, end));
        let list = stage.push(1);
        let report = list.reports.first().expect("P11: no report");
        let other = playlist(stage.address(), &sounds).last();
        let (msn, part) = (report.last_msn.unwrap_or(list.last().0), report.last_part);
        let reported = (msn, part.or(list.last().1));
        assert!((heard.last()..=other).contains(&reported), "P11: {reported:?} of {other:?}");
    }
    let end = stage.film.seconds() + 4.0;
    sing(end);
    let heard = until(stage.address(), &sounds, "sound alone", |list| long(list, end));
    let report = &stage.list().reports[0];
    let msn = report.last_msn.unwrap_or(0);
    assert!(msn + 1 >= heard.last().0, "P11: {msn} is reported, {:?} is there", heard.last());
}

/// Goal: P3: a playlist of more than two minutes offers delta updates; S8: to every track.
#[test]
fn a_long_playlist_offers_delta_updates() {
    let stage = Stage::with("window_s = 180\n", 700);
    let list = stage.list();
    assert!(list.length() > 120.0, "{} s", list.length());
    assert!(list.control.is_some_and(|control| control.can_skip_until.is_some()), "P3");
}

/// Goal: orderly end → ENDLIST; S13 and S9: then all directives are ignored. Method: a blocked reader
/// sees the end; every query gets the same whole playlist.
#[test]
fn an_ended_playlist_ignores_directives() {
    let mut stage = Stage::start(13);
    let open = stage.list().open_msn();
    let mut waiting = stage.send(&format!("?_HLS_msn={open}"));
    assert!(stage.upload.seal().status < 300);
    let list = until(stage.address(), &stage.url, "the end", |list| list.ended);
    let woken = version(&waiting.answer());
    assert!(woken.segment(open).is_some_and(|segment| segment.duration.is_some()), "S10");
    assert!(list.open.is_none() && list.hints.is_empty(), "P13: {list:?}");
    for query in [
        format!("?_HLS_msn={}", open + 1000),
        format!("?_HLS_msn={open}&_HLS_part=500"),
        "?_HLS_skip=YES".to_owned(),
        "?_HLS_skip=v2".to_owned(),
        String::new(),
    ] {
        assert_eq!(version(&stage.ask(&query)), list, "S13: {query}");
    }
    let bytes: Vec<u8> = list
        .segments
        .iter()
        .flat_map(|segment| get(stage.address(), &resolve(&stage.url, &segment.uri)).body)
        .collect();
    assert_same(&bytes, &stage.pushed.concat());
}

/// Goal: S16: a reader that waits in vain gets 503, which no cache keeps, and may come again.
#[test]
fn a_wait_in_vain_is_503() {
    let mut stage = Stage::start(6);
    let list = stage.list();
    let (msn, part) = list.next();
    let query = format!("?_HLS_msn={msn}&_HLS_part={part}");
    let hint = stage.hint();
    let asked = Instant::now();
    let mut client = stage.send(&query);
    let mut hinted = Client::connect(stage.address());
    hinted.request("GET", &hint, "");
    let answer = client.answer();
    let waited = asked.elapsed().as_secs_f64();
    check_refusal(&answer, ("S16", 503), 0.0).unwrap_or_else(|why| panic!("{why}: {answer:?}"));
    // Of a client that was patient for as long as the rule says.
    let least = 3.0 * list.target_duration;
    assert!(waited >= least, "S16: refused after {waited} s, not {least}");
    client.request("GET", &format!("{}{query}", stage.url), "");
    stage.push(1);
    version(&client.answer());
    let answer = hinted.answer();
    assert!([200, 404, 503].contains(&answer.status), "{answer:?}");
}

/// Goal: S17: no byte of a hinted part before all of it is there, then its exact bytes with a
/// length. Method: half a fragment, which a reader of the push itself sees; then the other half.
#[test]
fn a_hinted_part_is_held_until_it_is_whole() {
    let mut stage = Stage::start(6);
    let hint = stage.hint();
    let mut tail = Client::connect(stage.address());
    tail.get(PUSHED, "");
    let mut waiting = Client::connect(stage.address());
    waiting.request("GET", &hint, "");
    let fragment = stage.next_fragment();
    let (half, rest) = fragment.split_at(fragment.len() / 2);
    stage.upload.append(half);
    let mut seen = Vec::new();
    while !seen.ends_with(half) {
        seen.extend(tail.data());
    }
    assert!(waiting.stays_silent(MOMENT), "S17: something came of half a part");
    stage.upload.append(rest);
    let answer = waiting.answer();
    answer.assert_body(200, &fragment);
    assert_eq!(answer.needed("content-length"), fragment.len().to_string());
    stage.pushed.push(fragment.clone());
    stage.shown();
    get(stage.address(), &hint).assert_body(200, &fragment);
}

/// Goal: S17 for a range over a growing segment: part after part, each only when whole.
#[test]
fn a_range_of_a_growing_segment_is_gated_by_parts() {
    let mut stage = Stage::start(7);
    let target = segment_of(&stage.hint());
    let mut reader = Client::connect(stage.address());
    let head = reader.get(&target, "Range: bytes=0-9007199254740991\r\n");
    assert_eq!(head.status, 206, "{head:?}");
    assert_eq!(head.needed("content-range"), "bytes 0-9007199254740991/*");
    let there = stage.pushed[5..7].concat();
    assert_same(&reader.data_of(there.len()), &there);
    let mut tail = Client::connect(stage.address());
    tail.get(PUSHED, "");
    for _ in 0..2 {
        let fragment = stage.next_fragment();
        let (half, rest) = fragment.split_at(fragment.len() - 10);
        stage.upload.append(half);
        let mut seen = Vec::new();
        while !seen.ends_with(half) {
            seen.extend(tail.data());
        }
        assert!(reader.stays_silent(MOMENT), "S17: bytes of a part that is not whole");
        stage.upload.append(rest);
        assert_same(&reader.data_of(fragment.len()), &fragment);
        stage.pushed.push(fragment);
    }
    stage.push(2);
    assert_same(&reader.data_of(stage.pushed[9].len()), &stage.pushed[9]);
    assert_eq!(reader.chunk(), crate::client::Chunk::Last, "the segment ended");
    let whole = get(stage.address(), &target);
    whole.assert_body(200, &stage.pushed[5..10].concat());
}

/// Goal: LL-DASH: a GET of a growing segment passes every byte on as it comes.
#[test]
fn a_plain_get_of_a_growing_segment_follows_the_bytes() {
    let mut stage = Stage::start(6);
    let target = segment_of(&stage.hint());
    let mut reader = Client::connect(stage.address());
    let head = reader.get(&target, "");
    assert_eq!((head.status, head.is_chunked()), (200, true), "{head:?}");
    assert_same(&reader.data_of(stage.pushed[5].len()), &stage.pushed[5]);
    let fragment = stage.next_fragment();
    let (half, rest) = fragment.split_at(fragment.len() / 2);
    for piece in [half, rest] {
        stage.upload.append(piece);
        assert_same(&reader.data_of(piece.len()), piece);
    }
    stage.pushed.push(fragment);
    stage.push(4);
    let rest = stage.pushed[7..10].concat();
    assert_same(&reader.data_of(rest.len()), &rest);
    assert_eq!(reader.chunk(), crate::client::Chunk::Last);
}

/// Goal: S18: what is neither listed nor hinted is 404. Caches keep that for one TD of what is gone,
/// and not at all of what may come: a cache that keeps it would refuse it to everybody.
#[test]
fn what_is_not_hinted_is_404() {
    let stage = Stage::start(6);
    let (list, hint) = (stage.list(), stage.hint());
    let (folder, _) = hint.rsplit_once('/').unwrap();
    let open = list.open_msn();
    for name in [
        format!("{}.0.m4s", open + 50),
        format!("{}.m4s", open + 50),
        format!("{open}.40.m4s"),
        "1.m4s".to_owned(),
        "99999999999999999999999.0.m4s".to_owned(),
        "-1.m4s".to_owned(),
    ] {
        let answer = get(stage.address(), &format!("{folder}/{name}"));
        check_refusal(&answer, ("S18", 404), list.target_duration)
            .unwrap_or_else(|why| panic!("{why}: {name}: {answer:?}"));
        let strange = name.starts_with('-') || name.len() > 20;
        let right = if name == "1.m4s" {
            max_age(&answer) == Ok(list.target_duration)
        } else {
            answer.needed("cache-control") == "no-store"
        };
        assert!(strange || right, "B1: {name}: {answer:?}");
    }
    let (track, _) = folder.rsplit_once('/').unwrap();
    let answer = get(stage.address(), &format!("{track}/noepoch/{open}.0.m4s"));
    assert_eq!(answer.status, 404, "S18: {answer:?}");
    assert_eq!(get(stage.address(), "/live/nobody/index.m3u8").status, 404);
}

/// Goal: S9, P12: delta updates mean exactly the whole playlist. Method: a push of 30 seconds at
/// once; at a moment when nothing happens, old version plus delta is the new version.
#[test]
fn a_delta_update_is_the_whole_playlist() {
    let mut stage = Stage::start(95);
    let old = stage.list();
    stage.push(13);
    let list = stage.list();
    for how in ["YES", "v2"] {
        let (msn, part) = list.last();
        let query = format!("?_HLS_skip={how}&_HLS_msn={msn}&_HLS_part={}", part.unwrap());
        for query in [format!("?_HLS_skip={how}"), query] {
            let answer = stage.ask(&query);
            let delta = Playlist::parse(&answer.text()).unwrap();
            delta.check().unwrap_or_else(|why| panic!("{why}\n{}", answer.text()));
            let skip = delta.skip.as_ref().unwrap_or_else(|| panic!("S9: {query}: no delta"));
            assert!(skip.segments > 5, "P12: {skip:?}");
            assert_eq!(skip.removed_dateranges.is_some(), how == "v2", "P12: {skip:?}");
            let merged = crate::hls_checks::merge(&old, &delta).unwrap();
            assert_eq!(Playlist { version: list.version, ..merged }, list, "P12: {query}");
            assert!(answer.body.len() < stage.ask("").body.len());
        }
    }
    version(&stage.ask("?_HLS_skip=maybe"));
}

/// Goal: S5, S6: the window moves, keeps 3 × TD, and what it leaves behind can still be fetched.
/// Method: the strict client steps through 25 seconds in a window of six.
#[test]
fn the_window_moves_in_order() {
    let mut stage = Stage::with("window_s = 6\n", 6);
    let mut follower = Follower::open(stage.address(), &stage.url);
    for _ in 0..120 {
        stage.push(1);
        assert!(follower.advance());
    }
    let found = follower.finish();
    assert!(found.segments >= 23 && found.parts >= 118, "{} {}", found.segments, found.parts);
    let first = *found.bodies.keys().next().unwrap();
    assert!(found.playlist.media_sequence > first + 10, "the window did not move");
    assert!(found.playlist.length() <= 6.0 + 2.0 * found.playlist.target_duration);
    let bodies: Vec<u8> = found.bodies.values().flatten().copied().collect();
    assert_same(&bodies, &stage.pushed.concat()[..bodies.len()]);
}

/// Goal: S6 of an encoder that sends faster than time goes: what leaves the playlist early is there for
/// as long as if it had not. Method: twelve seconds of media at once; a pause in which a server
/// forgets what it counts from the wrong moment; one segment more, with which it looks.
#[test]
fn what_leaves_early_stays_as_long() {
    let mut stage = Stage::with("window_s = 6\n", 6);
    let mut follower = Follower::open(stage.address(), &stage.url);
    for _ in 0..60 {
        stage.push(1);
        assert!(follower.advance());
    }
    std::thread::sleep(Duration::from_secs(5));
    stage.push(5);
    assert!(follower.advance());
    follower.finish();
}

/// Goal: parts as byte ranges keep the same rules (P7, P13, S17). Method: the strict client fetches
/// every part by range; the hint is an open range that yields the next part when it is whole.
#[test]
fn parts_can_be_byte_ranges() {
    let mut stage = Stage::with("window_s = 60\nparts = \"byte_ranges\"\n", 6);
    let mut follower = Follower::open(stage.address(), &stage.url);
    for _ in 0..20 {
        let hint = follower.playlist.hint("PART").expect("P13: no hint").clone();
        let mut waiting = Client::connect(stage.address());
        let range = format!("Range: bytes={}-9007199254740991\r\n", hint.start);
        waiting.request("GET", &resolve(&stage.url, &hint.uri), &range);
        stage.push(1);
        let head = waiting.head();
        assert_eq!(head.status, 206, "P13: {hint:?}");
        let fragment = stage.pushed.last().unwrap();
        if head.field("content-length").is_some() {
            // The part came first, and with it the end of the segment.
            assert_same(&waiting.body(head, "GET").body, fragment);
        } else {
            assert_same(&waiting.data_of(fragment.len()), fragment);
        }
        assert!(follower.advance());
    }
    let found = follower.finish();
    let parts: Vec<_> = found.playlist.all().flat_map(|segment| &segment.parts).collect();
    assert!(parts.len() > 5 && parts.iter().all(|part| part.byte_range.is_some()));
}

/// Goal: an event playlist loses nothing, whatever the window.
#[test]
fn an_event_playlist_keeps_its_head() {
    let mut stage = Stage::with("window_s = 5\nplaylist_type = \"event\"\n", 6);
    let first = stage.list();
    assert_eq!(first.kind.as_deref(), Some("EVENT"));
    let mut follower = Follower::open(stage.address(), &stage.url);
    for _ in 0..80 {
        stage.push(1);
        assert!(follower.advance());
    }
    assert_eq!(follower.playlist.media_sequence, first.media_sequence);
}

/// Goal: without parts it is ordinary HLS: no tag of the low-latency kind, but `_HLS_msn` works.
#[test]
fn parts_can_be_left_out() {
    let server = origin("window_s = 60\nparts = \"none\"\n");
    let (mut film, url) = (Film::video(7), "/live/cam/video.m3u8");
    let mut upload = Upload::open(server.address, PUSHED, "");
    upload.append(&film.init());
    for count in 0..16 {
        upload.append(&film.fragment(PART, count % SEGMENT == 0));
    }
    let list = until(server.address, url, "three segments", |list| list.segments.len() == 3);
    let bare = list.part_target.is_none() && list.hints.is_empty() && list.open_parts().is_empty();
    assert!(bare && list.all().all(|segment| segment.parts.is_empty()), "{list:?}");
    let mut waiting = Client::connect(server.address);
    waiting.request("GET", &format!("{url}?_HLS_msn={}", list.open_msn()), "");
    for count in 16..21 {
        upload.append(&film.fragment(PART, count % SEGMENT == 0));
    }
    assert_eq!(version(&waiting.answer()).segments.len(), 4, "S10");
}

/// Goal: the clock for DASH players: UTC in ISO 8601 with milliseconds, kept by no cache.
#[test]
fn the_time_is_told() {
    let stage = Stage::start(6);
    for target in ["/time", "/live/cam/time"] {
        let answer = get(stage.address(), target);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.needed("cache-control").contains("no-store"), "{answer:?}");
        let told = crate::hls_playlist::date_ms(answer.text().trim()).unwrap();
        assert!(answer.text().contains('.'), "no milliseconds: {}", answer.text());
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
        let guard = HANG.as_millis() as i64;
        assert!((now - guard..=now).contains(&told), "{told} at {now}");
    }
}

/// Goal: a pushed playlist wins over a generated one, and is served as any object.
#[test]
fn a_pushed_playlist_wins() {
    let stage = Stage::start(6);
    let own = b"#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-STREAM-INF:BANDWIDTH=1\nother.m3u8\n";
    crate::client::put(stage.address(), "/live/cam/index.m3u8", own);
    get(stage.address(), "/live/cam/index.m3u8").assert_body(200, own);
    stage.list();
    // Objects outside the prefix are no presentations.
    crate::client::put(stage.address(), "/vod/cam/video.mp4", &stage.film.init());
    assert_eq!(get(stage.address(), "/vod/cam/index.m3u8").status, 404);
}

/// Goal: HEAD of playlist, part and initialization segment tells what GET does.
#[test]
fn head_is_get_without_a_body() {
    let stage = Stage::start(7);
    let list = stage.list();
    let part = resolve(&stage.url, &list.open_parts()[0].uri);
    let map = resolve(&stage.url, &list.open.as_ref().unwrap().map.as_ref().unwrap().uri);
    for target in [&stage.url, &part, &map] {
        let (head, got) = (ask(stage.address(), "HEAD", target, ""), get(stage.address(), target));
        assert_eq!((head.status, head.lasting()), (got.status, got.lasting()), "{target}");
    }
    wait_until("the log is quiet", || !stage.server.log().contains("panic"));
}
