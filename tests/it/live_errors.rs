//! What encoders send that they should not, case by case: a clear status or a stated repair, in answer,
//! log and metrics, while the other track of the publishing point goes on.
//!
//! `docs/LIVE.md` has the table of what is done. All media are hand-made and pushed as fast as they
//! are taken.

use std::net::SocketAddr;

use crate::client::{Answer, Upload, assert_same, get, noise, put_with};
use crate::hls_checker::resolve;
use crate::hls_checks::check_step;
use crate::hls_fmp4::{Film, make};
use crate::hls_playlist::Playlist;
use crate::hls_rules::{PART, SEGMENT, playlist, until};
use crate::hls_ts::{Program, Reel, SOUND, VIDEO, WRAP, units};
use crate::live_kit::{assert_status, until_text};
use crate::server::{Server, Setup, wait_until};

const VIDEO_LIST: &str = "/live/cam/video.m3u8";
const AUDIO_LIST: &str = "/live/cam/audio.m3u8";
const BAD: &str = "/live/cam/bad.mp4";
/// Frames of sound in a fragment: 192 ms.
const TONES: u32 = 9;

/// A server that logs repairs too, with parts of 200 ms and segments of a second.
fn origin() -> Server {
    let table = "[[live]]\nprefix = \"/live/\"\npart_ms = 200\nsegment_s = 1.0\nwindow_s = 120";
    Setup::new().key("log", "\"debug\"").table(table).start()
}

fn metric(server: &Server, name: &str) -> u64 {
    let page = get(server.admin, "/metrics").text();
    let line = page.lines().find(|line| line.starts_with(&format!("headwater_{name} ")));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {page}"))
}

/// Counters of what went wrong.
fn faults(server: &Server) -> Vec<(&'static str, u64)> {
    let names = ["restarts", "gaps", "repetitions", "long_chunks", "forced_cuts", "short_parts"];
    let more = ["refused", "ts_faults", "takeovers"];
    let all = names.into_iter().chain(more);
    let counted = all.map(|name| (name, metric(server, &format!("live_{name}_total"))));
    counted.filter(|(_, count)| *count > 0).collect()
}

/// Lines of the log with all these words.
fn lines(server: &Server, words: &[&str]) -> Vec<String> {
    let log = server.log();
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    log.lines().filter(has_all).map(str::to_owned).collect()
}

/// Waits for a line of this level that names the publishing point and has these words.
fn logged(server: &Server, level: &str, words: &[&str]) {
    let words = [&[level, "live/cam"], words].concat();
    wait_until(&format!("{words:?} in the log"), || !lines(server, &words).is_empty());
}

/// A whole push in one request from an encoder that does not wait; its answer.
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

/// Pictures that go on while something else is wrong, or sound.
struct Track {
    address: SocketAddr,
    list: &'static str,
    upload: Upload,
    film: Film,
    /// Pictures or frames of sound in a fragment, and how many fragments there were.
    frames: u32,
    count: u64,
}

impl Track {
    fn begin(server: &Server, target: &str, list: &'static str, film: Film, frames: u32) -> Track {
        let mut upload = Upload::open(server.address, target, "");
        upload.append(&film.init());
        Track { address: server.address, list, upload, film, frames, count: 0 }
    }

    fn pictures(server: &Server) -> Track {
        Track::begin(server, "/live/cam/video.mp4", VIDEO_LIST, Film::video(1), PART)
    }

    fn sound(server: &Server) -> Track {
        Track::begin(server, "/live/cam/audio.mp4", AUDIO_LIST, Film::audio(2), TONES)
    }

    fn next(&mut self) -> Vec<u8> {
        let is_key = self.count.is_multiple_of(SEGMENT);
        self.count += 1;
        self.film.fragment(self.frames, is_key)
    }

    fn send(&mut self, fragments: u32) {
        for _ in 0..fragments {
            let fragment = self.next();
            self.upload.append(&fragment);
        }
    }

    /// Waits until all of the film but the last part is listed.
    fn shown(&self) -> Playlist {
        let seconds = self.film.seconds() - 0.25;
        until(self.address, self.list, "all of it", |list| list.length() >= seconds)
    }

    /// Two seconds more: they are listed, and nothing is repaired.
    fn goes_on(&mut self) {
        let before = playlist(self.address, self.list);
        let wanted = before.length() + 1.5;
        self.send(2 * SEGMENT as u32 + 1);
        let after =
            until(self.address, self.list, "the other track", |list| list.length() > wanted);
        check_step(&before, &after).unwrap_or_else(|why| panic!("{why}"));
        assert!(!after.ended && is_whole(&after), "{after:?}");
    }

    /// The answer to a push whose last bytes were wrong.
    fn answer(&mut self) -> Answer {
        let _ = self.upload.client.try_send("0\r\n\r\n");
        self.upload.client.answer_to("PUT")
    }
}

/// Nothing is missing and nothing began anew.
fn is_whole(list: &Playlist) -> bool {
    list.all().all(|one| !one.has_discontinuity && !one.gap && one.parts.iter().all(|p| !p.gap))
}

fn discontinuities(list: &Playlist) -> usize {
    list.all().filter(|segment| segment.has_discontinuity).count()
}

/// Pictures and sound of two seconds, both listed.
struct Stage {
    server: Server,
    video: Track,
    audio: Track,
}

impl Stage {
    fn start() -> Stage {
        let server = origin();
        let (mut video, mut audio) = (Track::pictures(&server), Track::sound(&server));
        video.send(11);
        video.shown();
        audio.send(12);
        audio.shown();
        assert_eq!(faults(&server), []);
        Stage { server, video, audio }
    }

    /// Asserts that an answer refuses with a reason, that it is counted and logged once, and that both
    /// tracks go on: the one that was pushed wrongly as soon as its encoder comes back.
    fn refused(&mut self, answer: &Answer, object: &str, status: u16, reasons: &[&str]) {
        assert_status(answer, &[status], object);
        let text = answer.text();
        assert!(reasons.iter().all(|reason| text.contains(reason)), "{reasons:?} in {text}");
        assert_eq!(faults(&self.server), [("refused", 1)]);
        let words = [object, reasons[0], &format!("status={status}")];
        logged(&self.server, "WARN an upload was refused", &words);
        assert_eq!(lines(&self.server, &["WARN"]).len(), 1, "{}", self.server.log());
        self.audio.goes_on();
        let before = playlist(self.server.address, VIDEO_LIST);
        if object == "video.mp4" {
            let film = self.video.film.clone();
            let count = self.video.count.next_multiple_of(SEGMENT);
            self.video = Track::pictures(&self.server);
            (self.video.film, self.video.count) = (film, count);
        }
        self.video.send(2 * SEGMENT as u32 + 1);
        let more = |list: &Playlist| list.length() > before.length() + 1.5;
        let after = until(self.server.address, VIDEO_LIST, "the pictures", more);
        check_step(&before, &after).unwrap_or_else(|why| panic!("{why}"));
    }
}

// What is refused.

/// Goal: what is no fragmented MP4 is 415, and the answer says what to send: noise, an MP4 without
/// fragments, an init segment without a track that players know.
#[test]
fn what_is_not_cmaf() {
    let film = Film::video(9);
    let renamed = |from: &[u8; 4], to: &[u8; 4]| {
        let init = film.init();
        let at = init.windows(4).position(|letters| letters == from).unwrap();
        [&init[..at], to, &init[at + 4..]].concat()
    };
    let noise = noise(5, 100_000);
    let cases = [
        (vec![noise], "neither fragmented MP4 nor MPEG-TS"),
        (vec![renamed(b"mvex", b"free"), vec![0; 4000]], "neither fragmented MP4 nor MPEG-TS"),
        (
            vec![renamed(b"vide", b"hint"), film.clone().fragment(PART, true)],
            "no video, audio or text",
        ),
    ];
    for (pieces, reason) in cases {
        let mut stage = Stage::start();
        let answer = push(&stage.server, BAD, &pieces);
        stage.refused(&answer, "bad.mp4", 415, &[reason]);
    }
}

/// Goal: media before their init segment: 412, and the answer says what has to come first.
#[test]
fn a_moof_before_its_moov() {
    let mut stage = Stage::start();
    let mut film = Film::video(9);
    let answer = push(&stage.server, BAD, &[film.fragment(PART, true)]);
    stage.refused(&answer, "bad.mp4", 412, &["no init segment came before", "ftyp and moov first"]);
    let answer = push(&stage.server, BAD, &[film.init(), film.fragment(PART, true)]);
    assert_status(&answer, &[201], "as it should be");
}

/// Goal: a box of 2^63 bytes in the middle of a stream that is watched ends that upload only.
#[test]
fn a_box_of_half_the_world() {
    for kind in [b"mdat", b"free", b"moof"] {
        let mut stage = Stage::start();
        let head = [&[0, 0, 0, 1][..], kind, &(1_u64 << 63).to_be_bytes()].concat();
        let _ = stage.video.upload.try_append(&[head, noise(4, 500)].concat());
        let answer = stage.video.answer();
        stage.refused(&answer, "video.mp4", 400, &["impossible size", "begin again with ftyp"]);
    }
}

/// Goal: a moof whose table of samples is longer than itself, and one of a track that nobody knows,
/// are refused: their media are not lost in silence.
#[test]
fn a_moof_that_makes_no_sense() {
    let mut stage = Stage::start();
    let mut fragment = stage.video.film.clone().fragment(PART, true);
    let at = fragment.windows(4).position(|letters| letters == b"trun").unwrap();
    // The number of samples.
    fragment[at + 8] = 0x7f;
    let _ = stage.video.upload.try_append(&fragment);
    let answer = stage.video.answer();
    stage.refused(&answer, "video.mp4", 400, &["a moof makes no sense", "send it whole"]);

    let mut stage = Stage::start();
    let fragment = stage.video.film.clone().with_track(7).fragment(PART, true);
    let _ = stage.video.upload.try_append(&fragment);
    let answer = stage.video.answer();
    stage.refused(&answer, "video.mp4", 400, &["track 7", "send the init segment"]);
}

/// Goal: a second mdat behind one moof is refused: the part before it was handed out already. So is a
/// moof without any.
#[test]
fn two_mdats_behind_one_moof_or_none() {
    let mut stage = Stage::start();
    let mut fragment = stage.video.film.clone().fragment(PART, true);
    let at = fragment.windows(4).position(|letters| letters == b"mdat").unwrap();
    fragment.truncate(at - 4);
    let _ = stage.video.upload.try_append(&fragment.repeat(2));
    let answer = stage.video.answer();
    stage.refused(&answer, "video.mp4", 400, &["a moof has no mdat", "one behind each moof"]);

    let mut stage = Stage::start();
    stage.video.send(1);
    stage.video.shown();
    let _ = stage.video.upload.try_append(&make("mdat", &noise(3, 400)));
    let answer = stage.video.answer();
    stage.refused(&answer, "video.mp4", 400, &["two mdat boxes", "one behind each moof"]);
}

/// Goal: a fragment that is longer than the target duration is refused; the answer names both lengths.
#[test]
fn a_fragment_longer_than_a_segment_may_be() {
    let mut stage = Stage::start();
    let fragment = stage.video.film.clone().fragment(100, true);
    let _ = stage.video.upload.try_append(&fragment);
    let answer = stage.video.answer();
    stage.refused(&answer, "video.mp4", 400, &["4.000 s", "1 s", "send shorter fragments"]);
}

// What is repaired.

/// Goal: a fragment that is longer than a part is listed as a segment without parts.
#[test]
fn a_fragment_longer_than_a_part() {
    let mut stage = Stage::start();
    let long = stage.video.film.fragment(20, false);
    stage.video.upload.append(&long);
    stage.video.count = 15;
    stage.video.send(11);
    let list = stage.video.shown();
    assert!(is_whole(&list), "{list:?}");
    assert!(list.segments.iter().any(|one| one.parts.is_empty() && one.duration == Some(0.8)));
    assert_eq!(metric(&stage.server, "live_long_chunks_total"), 1);
    logged(&stage.server, "DEBUG", &["repaired", "track=video", "LongChunk"]);
    stage.audio.goes_on();
}

/// Goal: decode times that run backwards are a new publication: a discontinuity, dates go on.
#[test]
fn tfdt_that_runs_backwards() {
    let mut stage = Stage::start();
    let before = stage.video.shown();
    stage.video.film.decode_time = 0;
    stage.video.count = 0;
    stage.video.send(11);
    let wanted = before.length() + 2.0;
    let after = until(stage.video.address, VIDEO_LIST, "both runs", |list| list.length() >= wanted);
    check_step(&before, &after).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(discontinuities(&after), 1, "{after:?}");
    assert_eq!(faults(&stage.server), [("restarts", 1)]);
    logged(&stage.server, "INFO", &["the encoder began again", "track=video"]);
    stage.audio.goes_on();
}

/// Goal: the same from an encoder that pushes segments and its init segment in uploads of their own:
/// what it pushes after it began again is listed, and not taken for what was there before.
#[test]
fn tfdt_that_runs_backwards_between_uploads() {
    let server = origin();
    let mut audio = Track::sound(&server);
    audio.send(12);
    for run in 0..2 {
        let mut film = Film::video(run * 1000);
        assert_status(&push(&server, "/live/cam/video/init.cmfv", &[film.init()]), &[201, 204], "");
        for number in 0..8 {
            let segment: Vec<_> = (0..SEGMENT).map(|at| film.fragment(PART, at == 0)).collect();
            let target = format!("/live/cam/video/{number}.cmfv");
            assert_status(&push(&server, &target, &segment), &[201, 204], &target);
        }
    }
    let list = until(server.address, VIDEO_LIST, "both runs", |list| list.length() > 15.9);
    assert_eq!(discontinuities(&list), 1, "{list:?}");
    assert_eq!(faults(&server), [("restarts", 1)]);
    logged(&server, "INFO", &["the encoder began again", "track=video"]);
    audio.goes_on();
}

/// Goal: clocks that jump: three seconds ahead is a hole, told as GAP; a hundred, or back, a new
/// publication.
#[test]
fn clocks_that_jump() {
    for (seconds, fault) in [(3, "gaps"), (100, "restarts")] {
        let mut stage = Stage::start();
        let before = stage.video.shown();
        stage.video.film.leap(25 * seconds);
        stage.video.count = 0;
        stage.video.send(11);
        let wanted = before.length() + 2.0;
        let what = "what follows the jump";
        let after = until(stage.video.address, VIDEO_LIST, what, |list| {
            list.length() >= wanted && list.open_parts().last().is_some_and(|part| !part.gap)
        });
        check_step(&before, &after).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(faults(&stage.server), [(fault, 1)]);
        if fault == "gaps" {
            assert!(discontinuities(&after) == 0 && !is_whole(&after), "{after:?}");
            logged(&stage.server, "DEBUG", &["repaired", "track=video", "Gap"]);
        } else {
            assert_eq!(discontinuities(&after), 1, "{after:?}");
            logged(&stage.server, "INFO", &["the encoder began again", "track=video"]);
        }
        stage.audio.goes_on();
    }
}

/// Goal: a key frame every 40 s: segments are cut without one, never longer than announced; only
/// those that begin with one are independent.
#[test]
fn a_key_frame_every_forty_seconds() {
    let server = origin();
    let (mut video, mut audio) = (Track::pictures(&server), Track::sound(&server));
    audio.send(12);
    for index in 0..210 {
        let fragment = video.film.fragment(PART, index == 0 || index == 200);
        video.upload.append(&fragment);
    }
    let list = video.shown();
    assert!(is_whole(&list) && !list.independent_segments, "{list:?}");
    let longest = list.segments.iter().filter_map(|one| one.duration).fold(0.0, f64::max);
    assert!(longest.round() <= list.target_duration && longest < 1.5, "{longest}");
    let independent = list.all().flat_map(|one| &one.parts).filter(|part| part.independent);
    assert_eq!(independent.count(), 1, "the key frame at 40 s: parts of the first are not listed");
    assert!(metric(&server, "live_forced_cuts_total") >= 25, "{:?}", faults(&server));
    logged(&server, "DEBUG", &["repaired", "track=video", "ForcedCut"]);
    audio.goes_on();
}

/// Goal: B-frames with negative composition offsets are media like any other: nothing to repair.
#[test]
fn pictures_that_are_shown_before_they_are_decoded() {
    let mut stage = Stage::start();
    let mut film = Film::video(9);
    film.reordering = &[0, 2, -1, -1, 0];
    let mut track = Track::begin(&stage.server, BAD, "/live/cam/bad.m3u8", film, PART);
    let mut pushed = Vec::new();
    for _ in 0..11 {
        let fragment = track.next();
        track.upload.append(&fragment);
        pushed.extend(fragment);
    }
    let list = track.shown();
    assert!(is_whole(&list) && list.part_target == Some(0.2), "{list:?}");
    let uris = list.segments.iter().map(|one| &one.uri);
    let uris = uris.chain(list.open_parts().iter().map(|part| &part.uri));
    let bytes: Vec<u8> =
        uris.flat_map(|uri| get(track.address, &resolve(track.list, uri)).body).collect();
    assert_same(&bytes, &pushed);
    assert_eq!(faults(&stage.server), []);
    stage.audio.goes_on();
    stage.video.goes_on();
}

/// Goal: frames of AAC never divide a part: fragments of 8, 9 and 10 of them in turn are gathered into
/// parts within the announced length, without a hole.
#[test]
fn frames_of_sound_that_never_divide_a_part() {
    let server = origin();
    let (mut video, mut audio) = (Track::pictures(&server), Track::sound(&server));
    // The longest first, so that there is room for it when the length of parts is fixed.
    for index in 0..40 {
        audio.frames = [10, 8, 9][index % 3];
        audio.send(1);
        if index == 0 {
            logged(&server, "INFO", &["a track begins", "audio"]);
        }
        video.send(1);
    }
    for track in [&video, &audio] {
        let list = track.shown();
        let target = list.part_target.unwrap();
        let parts: Vec<f64> = list.all().flat_map(|one| &one.parts).map(|p| p.duration).collect();
        assert!(parts.len() >= 15 && parts.iter().all(|part| *part <= target), "{parts:?}");
        assert!(is_whole(&list) && target < 0.25, "{list:?}");
    }
    assert_eq!(faults(&server), []);
    audio.goes_on();
    video.goes_on();
}

/// Goal: sound that comes three seconds late joins the publication that is there, and is announced.
#[test]
fn sound_that_comes_three_seconds_late() {
    let server = origin();
    let mut video = Track::pictures(&server);
    video.send(16);
    let before = video.shown();
    let mut audio = Track::sound(&server);
    audio.film.leap(3 * 48_000 / 1024);
    audio.send(12);
    let list = until(server.address, AUDIO_LIST, "two seconds", |list| list.length() >= 2.0);
    let parts = list.all().map(|one| one.parts.len());
    assert!(is_whole(&list) && parts.sum::<usize>() >= 10, "{list:?}");
    let beat = before.segments.iter().find(|one| one.msn == list.segments[1].msn);
    let apart = beat.map(|one| one.date_ms.unwrap() - list.segments[1].date_ms.unwrap());
    assert!(
        apart.is_none_or(|ms| ms.abs() < 250),
        "{apart:?} ms: the same number is the same time"
    );
    let index = get(server.address, "/live/cam/index.m3u8").text();
    assert!(index.contains("audio.m3u8"), "{index}");
    assert_eq!((faults(&server), metric(&server, "live_tracks")), (vec![], 2));
    logged(&server, "INFO", &["a track begins", "audio"]);
    video.goes_on();
    audio.goes_on();
}

/// Goal: two encoders on one track, by one name or by two: the newer one stays, the older is told so,
/// and there is one discontinuity between them.
#[test]
fn two_encoders_on_one_track() {
    for target in ["/live/cam/video.mp4", "/live/cam/Streams(video.cmfv)"] {
        let mut stage = Stage::start();
        let before = stage.video.shown();
        let mut film = Film::video(50);
        film.variant = 40;
        let mut other = Track::begin(&stage.server, target, VIDEO_LIST, film, PART);
        other.send(1);
        logged(&stage.server, "INFO", &["the encoder began again", "track=video"]);
        // The older one hears of it by what it sends next, which may not even go out.
        let mine = stage.video.next();
        let _ = stage.video.upload.try_append(&mine);
        let answer = stage.video.answer();
        assert_status(&answer, &[409], target);
        assert!(answer.text().contains("another"), "{}", answer.text());
        other.send(11);
        let wanted = before.length() + other.film.seconds() - 0.25;
        let after =
            until(other.address, VIDEO_LIST, "the newer one", |list| list.length() >= wanted);
        check_step(&before, &after).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(discontinuities(&after), 1, "{after:?}");
        assert_eq!(faults(&stage.server), [("restarts", 1), ("takeovers", 1)]);
        let word = if target.ends_with("mp4") { "ended by another" } else { "was refused" };
        logged(&stage.server, "an upload", &[word, "video.mp4"]);
        stage.audio.goes_on();
    }
}

// Transport streams.

/// A transport stream beside the sound of an fMP4.
struct Broadcast {
    server: Server,
    reel: Reel,
    upload: Upload,
    audio: Track,
}

impl Broadcast {
    fn start(reel: Reel) -> Broadcast {
        let server = origin();
        let upload = Upload::open(server.address, "/live/cam/video.ts", "");
        let audio = Track::sound(&server);
        Broadcast { server, reel, upload, audio }
    }

    fn send(&mut self, seconds: u32) {
        for _ in 0..seconds {
            let second = self.reel.pictures(25, true);
            self.upload.append(&second);
        }
    }

    /// Waits for so many seconds; every segment has tables first and whole packets.
    fn shown(&self, seconds: f64) -> Playlist {
        let list = until(self.server.address, VIDEO_LIST, "the pictures", |list| {
            list.length() >= seconds - 0.25
        });
        for segment in list.segments.iter().filter(|segment| !segment.gap) {
            let body = get(self.server.address, &resolve(VIDEO_LIST, &segment.uri)).body;
            let all = Program::read(&body).and_then(|program| units(&body, program));
            assert!(all.unwrap_or_else(|why| panic!("{why}"))[0].random_access);
        }
        list
    }

    fn sound_goes_on(&mut self) {
        self.audio.send(12);
        self.audio.shown();
        self.audio.goes_on();
    }
}

/// Goal: packets that are missing are counted and logged; the media are listed as they are.
#[test]
fn a_transport_stream_with_wrong_continuity() {
    let mut cast = Broadcast::start(Reel::video(1, 90_000));
    cast.send(2);
    let mut damaged = cast.reel.pictures(25, true);
    // One packet from within each of two pictures.
    damaged.drain(10 * 188..11 * 188);
    damaged.drain(3 * 188..4 * 188);
    cast.upload.append(&damaged);
    cast.send(2);
    let list = cast.shown(5.0);
    assert!(is_whole(&list), "{list:?}");
    assert_eq!(faults(&cast.server), [("ts_faults", 2)]);
    let words = ["a transport stream is damaged", "live/cam/video.ts", "Continuity", "lost: 1"];
    logged(&cast.server, "DEBUG", &words);
    cast.sound_goes_on();
}

/// Goal: the clock of 33 bits begins again: nobody notices, in one upload or in one for each segment.
#[test]
fn a_transport_stream_whose_clock_wraps() {
    let mut cast = Broadcast::start(Reel::video(1, WRAP - 3 * 90_000 - 1800));
    cast.send(6);
    let list = cast.shown(6.0);
    assert!(is_whole(&list), "{list:?}");
    assert_eq!(faults(&cast.server), []);
    cast.sound_goes_on();

    let mut cast = Broadcast::start(Reel::video(1, WRAP - 3 * 90_000));
    for number in 0..6 {
        let segment = cast.reel.pictures(25, true);
        let target = format!("/live/cam/video/{number}.ts");
        assert_status(&put_with(cast.server.address, &target, "", &segment), &[201], &target);
    }
    let list = cast.shown(6.0);
    assert!(is_whole(&list), "{list:?}");
    assert_eq!(faults(&cast.server), []);
    cast.sound_goes_on();
}

/// Goal: a PMT in flight that lists other streams: what follows is a new publication, whose segments
/// begin with the new tables; the codecs are told anew. A PMT that says the same in a new version, or
/// with another language, changes nothing.
#[test]
fn a_pmt_that_changes_in_flight() {
    let mut cast = Broadcast::start(Reel::video(1, 90_000));
    cast.send(3);
    cast.reel.version += 1;
    cast.send(1);
    let before = cast.shown(3.8);
    assert!(is_whole(&before) && faults(&cast.server).is_empty(), "{before:?}");
    cast.reel.add_sound(&[]);
    cast.send(3);
    let after = cast.shown(6.8);
    check_step(&before, &after).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(discontinuities(&after), 1, "{after:?}");
    let at = after.all().position(|segment| segment.has_discontinuity).unwrap();
    let (old, new) = (&after.segments[at - 1], &after.segments[at]);
    let body = |uri: &str| get(cast.server.address, &resolve(VIDEO_LIST, uri)).body;
    let has = |bytes: &[u8], pid: u16| {
        bytes.chunks(188).any(|p| u16::from_be_bytes([p[1] & 0x1f, p[2]]) == pid)
    };
    assert!(!has(&body(&old.uri), SOUND) && has(&body(&new.uri), SOUND), "{after:?}");
    assert!(has(&body(&old.uri), VIDEO) && (old.length() - 1.0).abs() < 0.001, "{old:?}");
    assert_eq!(faults(&cast.server), [("restarts", 1)]);
    logged(&cast.server, "INFO", &["the PMT lists other streams", "track=video"]);
    until_text(cast.server.address, "/live/cam/index.m3u8", "both codecs", |text| {
        text.contains("avc1.42C01F,mp4a.40.2")
    });
    // The same streams in another version and with a language.
    let streams = &mut cast.reel.streams;
    streams[1].2 = vec![0x0a, 4, b'd', b'e', b'u', 0];
    cast.reel.version += 1;
    cast.send(3);
    assert_eq!(discontinuities(&cast.shown(9.8)), 1);
    // And without the sound again.
    cast.reel.streams.pop();
    cast.reel.version += 1;
    cast.send(3);
    assert_eq!(discontinuities(&cast.shown(12.8)), 2);
    assert_eq!(faults(&cast.server), [("restarts", 2)]);
    cast.sound_goes_on();
}

/// Goal: the same from one upload to the next.
#[test]
fn a_pmt_that_changes_between_uploads() {
    let mut cast = Broadcast::start(Reel::video(1, 90_000));
    for number in 0..6 {
        if number == 3 {
            cast.reel.add_sound(&[]);
        }
        let segment = cast.reel.pictures(25, true);
        let target = format!("/live/cam/video/{number}.ts");
        assert_status(&put_with(cast.server.address, &target, "", &segment), &[201], &target);
    }
    let list = cast.shown(6.0);
    assert_eq!(discontinuities(&list), 1, "{list:?}");
    assert_eq!(faults(&cast.server), [("restarts", 1)]);
    cast.sound_goes_on();
}
