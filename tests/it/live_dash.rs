//! Our MPD as a DASH player reads it: which number is there now, and what is in it (23009-1, 5.3.9.5).

use std::net::SocketAddr;

use crate::client::{Client, Upload, assert_same, get};
use crate::hls_fmp4::{Film, Init, Media};
use crate::hls_playlist::date_ms;
use crate::hls_rules::{PART, PUSHED, SEGMENT, Stage, until};
use crate::live_kit::{Node, seconds};
use crate::server::wait_until;

const MPD: &str = "/live/cam/manifest.mpd";
const LIST: &str = "/live/cam/video.m3u8";

/// One representation, as far as the arithmetic needs it.
#[derive(Debug)]
struct Timing {
    /// Unix time in seconds.
    period_start: f64,
    timescale: f64,
    start_number: u64,
    offset: u64,
    duration: f64,
    time_offset: f64,
    media: String,
    init: String,
}

fn mpd(address: SocketAddr) -> Node {
    let answer = get(address, MPD);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.needed("content-type"), "application/dash+xml");
    dash_mpd_core::parse(&answer.text()).unwrap_or_else(|why| panic!("{why}: {}", answer.text()));
    Node::parse(&answer.text())
}

fn timing(mpd: &Node, period: usize) -> Timing {
    // A static one needs none.
    let start = mpd.get("availabilityStartTime");
    let start = start.map_or(0.0, |date| date_ms(date).unwrap() as f64 / 1000.0);
    let period = mpd.all("Period")[period];
    let template = period.one("SegmentTemplate");
    let id = period.one("Representation").needed("id");
    let filled = |name| template.needed(name).replace("$RepresentationID$", id);
    Timing {
        period_start: start + seconds(period.needed("start")),
        timescale: template.number("timescale").unwrap_or(1) as f64,
        start_number: template.number("startNumber").unwrap_or(1),
        offset: template.number("presentationTimeOffset").unwrap_or(0),
        duration: template.number("duration").expect("a rhythm is told by @duration") as f64,
        time_offset: template.get("availabilityTimeOffset").map_or(0.0, |s| s.parse().unwrap()),
        media: format!("/live/cam/{}", filled("media")),
        init: format!("/live/cam/{}", filled("initialization")),
    }
}

impl Timing {
    fn length(&self) -> f64 {
        self.duration / self.timescale
    }

    /// The newest segment that may be asked for at this time, by the formula of the standard.
    fn number_at(&self, now: f64) -> u64 {
        let since = now - self.period_start + self.time_offset;
        let count = (since / self.length() + 1e-6).floor();
        assert!(count >= 1.0, "nothing is available at {now}: {self:?}");
        self.start_number + count as u64 - 1
    }

    /// When that segment became available.
    fn available_at(&self, number: u64) -> f64 {
        let count = (number - self.start_number + 1) as f64;
        self.period_start + count * self.length() - self.time_offset
    }

    fn target(&self, number: u64) -> String {
        self.media.replace("$Number$", &number.to_string())
    }

    /// Where it should begin, in media time.
    fn time_of(&self, number: u64) -> f64 {
        self.offset as f64 + (number - self.start_number) as f64 * self.duration
    }
}

/// Asserts that a segment is there and begins where its number says.
fn assert_number(address: SocketAddr, timing: &Timing, number: u64) {
    let init = Init::read(&get(address, &timing.init).body).unwrap();
    let answer = get(address, &timing.target(number));
    assert_eq!(answer.status, 200, "{number}: {timing:?} {answer:?}");
    let media = Media::read(&answer.body, &init).unwrap();
    let (start, _) = media.span(&init).unwrap().unwrap();
    let apart = (start as f64 - timing.time_of(number)).abs() / timing.timescale;
    assert!(apart <= 0.03, "{number} begins at {start}, {} expected", timing.time_of(number));
}

/// Goal: for every moment the number that the formula gives is the segment that exists, with the
/// right time. Method: the moments at which each of nine segments becomes available, and between.
#[test]
fn numbers_follow_from_the_time() {
    let mut stage = Stage::start(45);
    let document = mpd(stage.address());
    let timing = timing(&document, 0);
    assert_eq!(document.needed("type"), "dynamic");
    assert!((timing.length() - 1.0).abs() < 0.01, "{timing:?}");
    assert!((timing.time_offset - 0.8).abs() < 0.01, "S_dur - part: {timing:?}");
    let list = stage.list();
    let wall = |ms: i64| ms as f64 / 1000.0;
    for segment in &list.segments {
        let start = wall(segment.date_ms.unwrap());
        // It is available once its first part is, which is `time_offset` before its end.
        for after in [0.21, 0.6, 1.19] {
            let number = timing.number_at(start + after);
            assert_eq!(number, segment.msn, "{after} s into {}: {timing:?}", segment.uri);
        }
        let available = timing.available_at(segment.msn);
        assert!((available - start - 0.2).abs() < 0.03, "{available} for {start}");
        assert_number(stage.address(), &timing, segment.msn);
        let uri = format!("/live/cam/{}", segment.uri);
        assert_eq!(timing.target(segment.msn), uri, "the same address as in the playlist");
    }
    // What is not there yet is 404, and becomes 200 when it is.
    let next = list.open_msn() + 2;
    assert_eq!(get(stage.address(), &timing.target(next)).status, 404);
    stage.push(15);
    assert_number(stage.address(), &timing, next);
}

/// Goal: a GET of the newest segment is answered while it arrives, byte by byte.
#[test]
fn the_newest_segment_streams() {
    let mut stage = Stage::start(11);
    let timing = timing(&mpd(stage.address()), 0);
    let list = stage.list();
    let last = list.segments.last().unwrap();
    let opened = last.date_ms.unwrap() as f64 / 1000.0 + last.duration.unwrap();
    let number = timing.number_at(opened + 0.25);
    let mut reader = Client::connect(stage.address());
    let head = reader.get(&timing.target(number), "");
    assert!(head.status == 200 && head.is_chunked(), "{head:?}");
    assert_same(&reader.data_of(stage.pushed[10].len()), &stage.pushed[10]);
    stage.push(1);
    assert_same(&reader.data_of(stage.pushed[11].len()), &stage.pushed[11]);
}

/// Goal: an encoder that starts again begins a second period, where its media begin; the arithmetic
/// holds in both. Method: another configuration, after the first connection broke.
#[test]
fn a_restart_begins_a_period() {
    let mut stage = Stage::start(17);
    let next = Upload::begin(stage.address(), "/x", "");
    std::mem::replace(&mut stage.upload, next).client.reset();
    let mut film = Film::video(50);
    film.variant = 40;
    let mut upload = Upload::begin(stage.address(), PUSHED, "");
    upload.append(&film.init());
    for index in 0..17 {
        upload.append(&film.fragment(PART, index % SEGMENT == 0));
    }
    let list = until(stage.address(), LIST, "the second run", |list| {
        let second = list.segments.iter().skip_while(|one| !one.has_discontinuity);
        second.count() >= 3 && list.open_parts().len() == 2
    });
    wait_until("two periods", || mpd(stage.address()).all("Period").len() == 2);
    let document = mpd(stage.address());
    let (first, second) = (timing(&document, 0), timing(&document, 1));
    let at = list.segments.iter().position(|one| one.has_discontinuity).unwrap();
    let start = list.segments[at].date_ms.unwrap() as f64 / 1000.0;
    assert!((second.period_start - start).abs() < 0.01, "{second:?} for {start}");
    assert_ne!(first.init, second.init);
    for (index, segment) in list.segments.iter().enumerate() {
        let timing = if index < at { &first } else { &second };
        // The last segment of the first run is cut short.
        let start = segment.date_ms.unwrap() as f64 / 1000.0;
        assert_eq!(timing.number_at(start + 0.21), segment.msn, "{segment:?} {timing:?}");
        assert_number(stage.address(), timing, segment.msn);
    }
    let length = document.all("Period")[0].get("duration").map(seconds);
    let next = seconds(document.all("Period")[1].needed("start"));
    assert!(length.is_none_or(|length| (length - next).abs() < 0.01), "{document:#?}");
}

/// Goal: the end makes the MPD static, with a length, and everything in it can be fetched.
#[test]
fn an_ended_push_is_a_static_mpd() {
    let mut stage = Stage::start(25);
    assert!(stage.upload.seal().status < 300);
    wait_until("it is static", || mpd(stage.address()).get("type") == Some("static"));
    let document = mpd(stage.address());
    let length = seconds(document.needed("mediaPresentationDuration"));
    assert!((length - 5.0).abs() < 0.01, "{length}");
    let timing = timing(&document, 0);
    for number in timing.start_number..timing.start_number + 5 {
        assert_number(stage.address(), &timing, number);
    }
    assert_eq!(get(stage.address(), &timing.target(timing.start_number + 5)).status, 404);
}

/// Goal: what low-latency players need is there: service description, clock, producer reference.
#[test]
fn low_latency_players_find_what_they_need() {
    let stage = Stage::start(12);
    let document = mpd(stage.address());
    let profiles = document.needed("profiles");
    assert!(profiles.contains("urn:mpeg:dash:profile:isoff-live:2011"), "{profiles}");
    assert!(
        document.get("minimumUpdatePeriod").is_some() && document.get("minBufferTime").is_some()
    );
    let latency = document.one("Latency");
    let of = |name| latency.number(name).unwrap();
    assert!(of("min") <= of("target") && of("target") <= of("max"), "{latency:?}");
    let template = document.one("SegmentTemplate");
    assert_eq!(template.get("availabilityTimeComplete"), Some("false"));
    let clocks: Vec<_> =
        document.children.iter().filter(|child| child.name == "UTCTiming").collect();
    let clock = clocks.first().expect("a clock for all");
    let told = get(stage.address(), &format!("/live/cam/{}", clock.needed("value")));
    assert!(date_ms(told.text().trim()).is_ok(), "{}", told.text());
    let reference = document.one("ProducerReferenceTime");
    let wall = date_ms(reference.needed("wallClockTime")).unwrap();
    let timing = timing(&document, 0);
    let media = reference.number("presentationTime").unwrap() as f64 - timing.offset as f64;
    let expected = (timing.period_start + media / timing.timescale) * 1000.0;
    assert!((wall as f64 - expected).abs() <= 1.0, "{reference:?} {timing:?}");
}
