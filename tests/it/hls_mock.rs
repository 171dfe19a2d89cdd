//! The strict client under test: an origin of a hundred lines, right in everything, and then wrong in
//! one thing after the other.
//!
//! The mock has all its media ready and no clock: a part is published when somebody waits for it. A
//! `Fault` changes answers on their way out; the client must then fail, and name the rule.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::hls_checker::{Follower, Plan, follow};
use crate::hls_fmp4::Film;

/// Parts in the whole presentation, of 200 ms; five are a segment.
const PARTS: usize = 100;
const BASE: usize = 1000;
/// Segments in the playlist.
const WINDOW: usize = 10;

/// An answer before it is sent.
struct Reply {
    status: u16,
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: u16, kind: &str, max_age: u32, body: Vec<u8>) -> Reply {
        let fields = vec![
            ("Content-Type", kind.to_owned()),
            ("Cache-Control", format!("max-age={max_age}")),
            ("Access-Control-Allow-Origin", "*".to_owned()),
        ];
        Reply { status, fields, body }
    }

    fn drop_field(&mut self, name: &str) {
        self.fields.retain(|(field, _)| *field != name);
    }

    /// Replaces text in a playlist.
    fn replace(&mut self, from: &str, to: &str) {
        if let Ok(text) = String::from_utf8(self.body.clone()) {
            self.body = text.replace(from, to).into_bytes();
        }
    }
}

/// What spoils answers: it is told what was asked for.
type Fault = fn(&str, &mut Reply);

struct Mock {
    init: Vec<u8>,
    parts: Vec<Vec<u8>>,
    published: AtomicUsize,
    fault: Fault,
}

impl Mock {
    /// Starts to serve; ends with the test.
    fn start(fault: Fault) -> SocketAddr {
        let mut film = Film::video(5);
        let init = film.init();
        let parts = (0..PARTS).map(|part| film.fragment(5, part % 5 == 0)).collect();
        let mock = Arc::new(Mock { init, parts, published: AtomicUsize::new(12), fault });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mock = Arc::clone(&mock);
                thread::spawn(move || mock.serve(stream.unwrap()));
            }
        });
        address
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut writer = stream.try_clone().ok()?;
        let mut lines = BufReader::new(stream).lines();
        loop {
            let request = lines.next()?.ok()?;
            let mut fields = String::new();
            loop {
                let line = lines.next()?.ok()?;
                if line.is_empty() {
                    break;
                }
                fields += &line.to_ascii_lowercase();
                fields += "\n";
            }
            let mut words = request.split(' ');
            let (method, target) = (words.next()?, words.next()?);
            let mut reply = self.reply(target, &fields);
            (self.fault)(target, &mut reply);
            self.send(&mut writer, method, reply).ok()?;
        }
    }

    fn send(&self, writer: &mut TcpStream, method: &str, reply: Reply) -> std::io::Result<()> {
        let mut reply = reply;
        if reply.fields.iter().any(|(name, _)| *name == "Content-Encoding") {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&reply.body)?;
            reply.body = encoder.finish()?;
        }
        let mut head = format!("HTTP/1.1 {} Mock\r\n", reply.status);
        for (name, value) in &reply.fields {
            head += &format!("{name}: {value}\r\n");
        }
        let has_body = reply.status != 304;
        if has_body {
            head += &format!("Content-Length: {}\r\n", reply.body.len());
        }
        let mut bytes = (head + "\r\n").into_bytes();
        if method != "HEAD" && has_body {
            bytes.extend(reply.body);
        }
        writer.write_all(&bytes)
    }

    fn reply(&self, target: &str, fields: &str) -> Reply {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let name = path.rsplit('/').next().unwrap();
        if name == "index.m3u8" {
            return Reply::new(200, PLAYLIST, 1, INDEX.as_bytes().to_vec());
        }
        if path.ends_with(".m3u8") {
            if let Some(refusal) = refused(query) {
                return refusal;
            }
            let mut reply = self.playlist(query, fields);
            // Each reports the other.
            if name == "low.m3u8" {
                reply.replace("REPORT:URI=\"low", "REPORT:URI=\"video");
            }
            return reply;
        }
        let Some(bytes) = self.media(name) else {
            return Reply::new(404, "text/plain", 1, b"none".to_vec());
        };
        let mut reply = Reply::new(200, "video/mp4", 6, bytes);
        reply.fields.push(("ETag", format!("\"{name}\"")));
        if fields.contains("if-none-match") {
            reply.status = 304;
        }
        reply
    }

    fn media(&self, name: &str) -> Option<Vec<u8>> {
        if name == "init.mp4" {
            return Some(self.init.clone());
        }
        let name = name.strip_suffix(".m4s")?;
        if let Some((msn, part)) = name.split_once('.') {
            let (msn, part): (usize, usize) = (msn.parse().ok()?, part.parse().ok()?);
            return self.parts.get((msn.checked_sub(BASE)?) * 5 + part).cloned();
        }
        let first = 5 * name.parse::<usize>().ok()?.checked_sub(BASE)?;
        Some(self.parts.get(first..first + 5)?.concat())
    }

    fn playlist(&self, query: &str, fields: &str) -> Reply {
        let number = |key: &str| -> Option<usize> {
            query.split('&').find_map(|pair| pair.strip_prefix(key)?.parse().ok())
        };
        let (mut age, msn) = (1, number("_HLS_msn="));
        if let Some(msn) = msn {
            let wanted =
                5 * msn.saturating_sub(BASE) + number("_HLS_part=").map_or(5, |part| part + 1);
            self.published.fetch_max(wanted.min(PARTS), Ordering::SeqCst);
            age = 6;
        }
        let skip = query.contains("_HLS_skip").then(|| query.contains("v2"));
        let text = text(self.published.load(Ordering::SeqCst), skip);
        let mut reply = Reply::new(200, PLAYLIST, age, text.into_bytes());
        let mut tag = format!("{}", self.published.load(Ordering::SeqCst));
        if fields.contains("accept-encoding: gzip") {
            reply.fields.push(("Content-Encoding", "gzip".to_owned()));
            tag += "-gz";
        }
        if fields.contains(&format!("if-none-match: \"{tag}\"")) {
            reply.status = 304;
        }
        reply.fields.push(("Vary", "Accept-Encoding".to_owned()));
        reply.fields.push(("ETag", format!("\"{tag}\"")));
        reply
    }
}

/// 400 for directives that nobody can obey.
fn refused(query: &str) -> Option<Reply> {
    let msn = query.split('&').find_map(|pair| pair.strip_prefix("_HLS_msn="));
    let is_far = |msn: &str| msn.parse::<usize>().is_ok_and(|msn| msn > BASE + PARTS);
    let is_wrong = |msn: &str| msn.parse::<usize>().is_err() || is_far(msn);
    let alone = msn.is_none() && query.contains("_HLS_part=");
    let wrong = alone || msn.is_some_and(is_wrong);
    wrong.then(|| Reply::new(400, "text/plain", 4, b"no".to_vec()))
}

/// The playlist with so many parts published.
fn text(published: usize, skip: Option<bool>) -> String {
    let (whole, open) = (published / 5, published % 5);
    let first = whole.saturating_sub(WINDOW);
    let skipped = if skip.is_some() { (whole - first).saturating_sub(7) } else { 0 };
    let version = if skipped > 0 { 9 } else { 6 };
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:{version}\n#EXT-X-TARGETDURATION:1\n\
         #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.6,CAN-SKIP-UNTIL=6.0\n\
         #EXT-X-PART-INF:PART-TARGET=0.20000\n#EXT-X-INDEPENDENT-SEGMENTS\n\
         #EXT-X-MEDIA-SEQUENCE:{}\n",
        BASE + first
    );
    if skipped > 0 {
        let removed = if skip == Some(true) { ",RECENTLY-REMOVED-DATERANGES=\"\"" } else { "" };
        text += &format!("#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}{removed}\n");
    } else {
        text += "#EXT-X-MAP:URI=\"video/1/init.mp4\"\n";
    }
    for segment in first + skipped..=whole {
        let msn = BASE + segment;
        text += &format!("#EXT-X-PROGRAM-DATE-TIME:2026-11-21T11:00:{segment:02}.000Z\n");
        let listed = match whole - segment {
            0 => open,
            1..=3 => 5,
            _ => 0,
        };
        for part in 0..listed {
            let independent = if part == 0 { ",INDEPENDENT=YES" } else { "" };
            text += &format!(
                "#EXT-X-PART:DURATION=0.20000,URI=\"video/1/{msn}.{part}.m4s\"{independent}\n"
            );
        }
        if segment < whole {
            text += &format!("#EXTINF:1.00000,\nvideo/1/{msn}.m4s\n");
        }
    }
    let (msn, last) = if open > 0 { (BASE + whole, open - 1) } else { (BASE + whole - 1, 4) };
    text += &format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"video/1/{}.{open}.m4s\"\n", BASE + whole);
    text + &format!("#EXT-X-RENDITION-REPORT:URI=\"low.m3u8\",LAST-MSN={msn},LAST-PART={last}\n")
}

const PLAYLIST: &str = "application/vnd.apple.mpegurl";
const LIST: &str = "/live/cam/video.m3u8";
const INDEX: &str = "#EXTM3U\n#EXT-X-VERSION:6\n\
                     #EXT-X-STREAM-INF:BANDWIDTH=90000,CODECS=\"avc1.42c01e\",\
                     RESOLUTION=160x90,FRAME-RATE=25.000\nvideo.m3u8\n\
                     #EXT-X-STREAM-INF:BANDWIDTH=90000,CODECS=\"avc1.42c01e\",\
                     RESOLUTION=160x90,FRAME-RATE=25.000\nlow.m3u8\n";

/// Follows the mock for seventeen seconds of media; what the client says if it fails.
fn followed(fault: Fault) -> Result<(usize, usize, usize, usize), String> {
    let address = Mock::start(fault);
    let follower = thread::spawn(move || {
        let mut follower = Follower::open(address, LIST);
        for _ in 0..80 {
            assert!(follower.advance());
        }
        let found = follower.finish();
        (found.parts, found.segments, found.hints, found.deltas)
    });
    follower.join().map_err(text_of)
}

/// What a thread said when it ended.
fn text_of(panic: Box<dyn std::any::Any + Send>) -> String {
    panic.downcast::<String>().map_or_else(|_| "a panic without text".to_owned(), |text| *text)
}

/// Follows both playlists of the mock, and compares them.
fn followed_both(fault: Fault) -> Result<usize, String> {
    let address = Mock::start(fault);
    let plan = Plan { tracks: 2, seconds: 9.0, ends: false };
    let followers = thread::spawn(move || follow(address, "/live/cam/", plan).len());
    followers.join().map_err(text_of)
}

/// Goal: an origin that does everything right satisfies the client, which looked at all of it.
#[test]
fn the_client_is_content_with_a_good_origin() {
    let (parts, segments, hints, deltas) = followed(|_, _| {}).unwrap();
    assert!(parts >= 80 && segments >= 16 && hints >= 30, "{parts} {segments} {hints}");
    assert!(deltas >= 5, "{deltas} delta updates");
}

fn is_list(target: &str) -> bool {
    target.contains(".m3u8")
}

/// A part, a segment: by the number of dots in the name.
fn dots(target: &str) -> usize {
    let name = target.rsplit('/').next().unwrap();
    if name.ends_with(".m4s") { name.matches('.').count() } else { 0 }
}

/// Faults that only the answers of more than one request show, or the bytes.
const FAULTS: &[(&str, &str, Fault)] = &[
    ("S10", "a version that is too old", |target, reply| {
        if target.contains("_HLS_msn=1009") {
            reply.body = text(45, None).into_bytes();
        }
    }),
    ("S9", "no delta", |target, reply| {
        if target.contains("_HLS_skip") {
            let same = String::from_utf8(reply.body.clone()).unwrap();
            let hint = same.rsplit("video/1/").next().unwrap();
            let mut numbers = hint.split('.').map(str::parse::<usize>);
            let (msn, part) = (numbers.next().unwrap(), numbers.next().unwrap());
            reply.body = text(5 * (msn.unwrap() - BASE) + part.unwrap(), None).into_bytes();
        }
    }),
    ("P12", "v2 without removed date ranges", |target, reply| {
        if target.contains("_HLS_skip=v2") {
            reply.replace(",RECENTLY-REMOVED-DATERANGES=\"\"", "");
        }
    }),
    ("P12", "too much skipped", |_, reply| {
        if String::from_utf8_lossy(&reply.body).contains("#EXT-X-SKIP") {
            reply.replace("CAN-SKIP-UNTIL=6.0", "CAN-SKIP-UNTIL=8.0");
        }
    }),
    ("CACHE", "a lifetime that is not 6 × TD", |target, reply| {
        if target.contains("_HLS_msn") {
            reply.fields[1].1 = "max-age=1".to_owned();
        }
    }),
    ("CACHE", "a playlist that is kept too long", |target, reply| {
        if is_list(target) && !target.contains("_HLS_msn") {
            reply.fields[1].1 = "max-age=6".to_owned();
        }
    }),
    ("CACHE", "a part that is not kept", |target, reply| {
        if dots(target) == 2 {
            reply.fields[1].1 = "no-store".to_owned();
        }
    }),
    ("CACHE", "no ETag", |target, reply| {
        if dots(target) == 1 {
            reply.drop_field("ETag");
        }
    }),
    ("CACHE", "a 200 for what the client has", |_, reply| {
        if reply.status == 304 {
            reply.status = 200;
        }
    }),
    ("CORS", "no CORS", |target, reply| {
        if dots(target) == 2 {
            reply.drop_field("Access-Control-Allow-Origin");
        }
    }),
    ("S19", "a wrong type", |target, reply| {
        if is_list(target) {
            reply.fields[0].1 = "text/plain".to_owned();
        }
    }),
    ("B1", "an Age", |target, reply| {
        if dots(target) == 1 {
            reply.fields.push(("Age", "3".to_owned()));
        }
    }),
    ("B1", "gzip without Vary", |_, reply| reply.drop_field("Vary")),
    ("B1", "a date that moved", |target, reply| {
        if is_list(target) {
            reply.replace("11:00:00.000Z", "11:00:00.003Z");
        }
    }),
    ("S1", "a listed part that is absent", |target, reply| {
        if target.ends_with("1004.2.m4s") {
            reply.status = 404;
        }
    }),
    ("S6", "a segment that went with its line", |target, reply| {
        if dots(target) == 1 && reply.fields.len() == 4 && target.ends_with("1003.m4s") {
            // Only after it was there once.
            static ASKED: AtomicUsize = AtomicUsize::new(0);
            if ASKED.fetch_add(1, Ordering::SeqCst) > 0 {
                reply.status = 404;
            }
        }
    }),
    ("P9", "a segment that is not its parts", |target, reply| {
        if target.ends_with("1006.m4s") {
            *reply.body.last_mut().unwrap() ^= 1;
        }
    }),
    ("P9", "a part of another segment", |target, reply| {
        if target.ends_with("1006.3.m4s") {
            *reply.body.last_mut().unwrap() ^= 1;
        }
    }),
    ("P16", "half a part", |target, reply| {
        if target.ends_with("1005.1.m4s") {
            reply.body.truncate(500);
        }
    }),
    ("P16", "no initialization segment", |target, reply| {
        if target.ends_with("init.mp4") {
            reply.replace("mvex", "free");
            reply.body.drain(..8);
        }
    }),
    ("P5", "INDEPENDENT without a key frame", |target, reply| {
        if is_list(target) {
            reply.replace(".1.m4s\"\n", ".1.m4s\",INDEPENDENT=YES\n");
        }
    }),
    ("P5", "a key frame without INDEPENDENT", |target, reply| {
        if is_list(target) {
            reply.replace(",INDEPENDENT=YES", "");
        }
    }),
    ("P4", "a duration that is not that of the samples", |target, reply| {
        if is_list(target) {
            reply.replace(
                "DURATION=0.20000,URI=\"video/1/1004.3",
                "DURATION=0.19,URI=\"video/1/1004.3",
            );
        }
    }),
    ("P18", "an EXTINF that is not that of the samples", |target, reply| {
        if is_list(target) {
            reply.replace("#EXTINF:1.00000,\nvideo/1/1000.", "#EXTINF:1.00500,\nvideo/1/1000.");
        }
    }),
    ("P13", "a hint of something else", |target, reply| {
        if is_list(target) {
            reply.replace(
                "HINT:TYPE=PART,URI=\"video/1/1008.2",
                "HINT:TYPE=PART,URI=\"video/1/1008.9",
            );
        }
    }),
    ("S2", "a segment that changed its name", |target, reply| {
        if target.contains("_HLS_msn=1008") {
            reply.replace("video/1/1005.m4s", "video/1/1004.m4s");
        }
    }),
    ("S12", "an error for a good question", |target, reply| {
        if target.contains("_HLS_msn=1008") {
            reply.status = 404;
        }
    }),
];

/// Goal: no fault is missed, and each is called by its rule.
#[test]
fn the_client_names_every_fault() {
    let found: Vec<_> = FAULTS
        .iter()
        .filter_map(|&(rule, what, fault)| {
            let named = |why: &String| why.contains(&format!("{rule}: "));
            match followed(fault) {
                Err(why) if named(&why) => None,
                Err(why) => Some(format!("{what}: {rule} expected, but {:.300}", why)),
                Ok(counts) => Some(format!("{what}: {rule} was not noticed {counts:?}")),
            }
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Faults that show when two playlists of a presentation are compared.
const FAULTS_OF_TWO: &[(&str, &str, Fault)] = &[
    ("P11", "no report", |target, reply| {
        if target.contains("/video.m3u8") {
            reply.replace("#EXT-X-RENDITION-REPORT", "#REPORT");
        }
    }),
    ("P11", "a report of the future", |target, reply| {
        if target.contains("/video.m3u8") {
            reply.replace("LAST-MSN=1", "LAST-MSN=2");
        }
    }),
    ("P11", "an old report", |target, reply| {
        if target.contains("/low.m3u8") {
            reply.replace("LAST-MSN=100", "LAST-MSN=90");
        }
    }),
    ("S8", "another target duration", |target, reply| {
        if target.contains("/low.m3u8") {
            reply.replace("CAN-SKIP-UNTIL=6.0", "CAN-SKIP-UNTIL=7.0");
        }
    }),
    ("B1", "another clock", |target, reply| {
        if target.contains("/low.m3u8") {
            reply.replace("2026-11-21T11", "2026-11-21T12");
        }
    }),
    ("M", "a bandwidth that is too low", |_, reply| {
        reply.replace("BANDWIDTH=90000", "BANDWIDTH=50000")
    }),
    ("M", "another codec", |_, reply| reply.replace("avc1.", "hvc1.")),
    ("M", "another size", |_, reply| reply.replace("160x90", "320x180")),
    ("M", "another frame rate", |_, reply| reply.replace("RATE=25.0", "RATE=30.0")),
    ("M", "no frame rate", |_, reply| reply.replace(",FRAME-RATE=25.000", "")),
    ("S14", "a part without a number", |target, reply| {
        if target.ends_with("?_HLS_part=0") {
            reply.status = 200;
        }
    }),
    ("S15", "404 for the far future", |target, reply| {
        if reply.status == 400 && target.contains("_HLS_msn=2") {
            reply.status = 404;
        }
    }),
    ("CORS", "a refusal without CORS", |_, reply| {
        if reply.status == 400 {
            reply.drop_field("Access-Control-Allow-Origin");
        }
    }),
    ("CORS", "an absence without CORS", |_, reply| {
        if reply.status == 404 {
            reply.drop_field("Access-Control-Allow-Origin");
        }
    }),
    ("B1", "an absence that is kept", |_, reply| {
        if reply.status == 404 {
            reply.fields[1].1 = "max-age=60".to_owned();
        }
    }),
    ("S12", "a refusal of the past", |target, reply| {
        if target.contains("_HLS_msn=0") {
            reply.status = 400;
        }
    }),
    ("CACHE", "a playlist without ETag", |target, reply| {
        if is_list(target) {
            reply.drop_field("ETag");
        }
    }),
    ("CACHE", "a playlist that is sent again", |target, reply| {
        if is_list(target) && reply.status == 304 {
            reply.status = 200;
        }
    }),
    ("CACHE", "one tag for both forms", |target, reply| {
        if is_list(target)
            && let Some(tag) = reply.fields.iter_mut().find(|(name, _)| *name == "ETag")
        {
            tag.1 = tag.1.replace("-gz", "");
        }
    }),
    ("S19", "a multivariant playlist of a wrong type", |target, reply| {
        if target.ends_with("/index.m3u8") {
            reply.fields[0].1 = "text/html".to_owned();
        }
    }),
];

/// Goal: the same for what is only wrong between two playlists.
#[test]
fn the_client_compares_playlists() {
    assert_eq!(followed_both(|_, _| {}), Ok(2));
    for &(rule, what, fault) in FAULTS_OF_TWO {
        let why = followed_both(fault).expect_err(&format!("{what}: {rule} was not noticed"));
        assert!(why.contains(&format!("{rule}: ")), "{what}: {rule} expected, but {why:.300}");
    }
}
