//! A strict LL-HLS client: it follows a live presentation as a player would, and believes nothing.
//!
//! `Follower` holds one media playlist: it reloads by `_HLS_msn` and `_HLS_part`, fetches every part,
//! segment and initialization segment, asks for hinted parts before they exist, for delta updates,
//! for gzip, and compares all of it by the rules in `hls_playlist` and `hls_checks`. `follow` runs one
//! for each media playlist of a presentation, asks them what `hls_probe` knows, and compares them. The
//! clock decides nothing, with one exception: what must still be there for some time (S5, S6) is not
//! asked for after that time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::{Answer, Client, Head};
use crate::hls_checks::{check_step, merge};
use crate::hls_fmp4::{Init, Media};
use crate::hls_playlist::{Map, Multivariant, Part, Playlist, Segment, Verdict, demand};
use crate::hls_probe::{check_promises, probe};
use crate::hls_ts::{Program, units};
use crate::server::wait_until;

/// How far a duration that was written with five decimals may be from the samples.
const DURATION_ROUNDING_S: f64 = 0.002;
/// How far apart presentation zero may come out of two segments of one run.
const ZERO_ROUNDING_MS: f64 = 2.0;
/// Of what has gone and must still be there, so many are asked for with each version.
const REMOVED_ASKED: usize = 2;
/// Answers 503 in a row before a live presentation is taken for dead.
const REFUSALS_MAX: usize = 10;

const PLAYLIST_TYPES: &[&str] = &["application/vnd.apple.mpegurl"];
const MEDIA_TYPES: &[&str] =
    &["video/mp4", "audio/mp4", "video/iso.segment", "application/mp4", "video/mp2t"];

/// What a URI in a playlist means: section 5 of RFC 3986, as far as playlists here need it.
pub(crate) fn resolve(base: &str, uri: &str) -> String {
    if uri.starts_with('/') {
        return uri.to_owned();
    }
    let base = base.split('?').next().unwrap_or(base);
    let mut folders: Vec<&str> = base.split('/').collect();
    folders.pop();
    for step in uri.split('/') {
        match step {
            "." => {}
            ".." => drop(folders.pop()),
            _ => folders.push(step),
        }
    }
    folders.join("/")
}

/// The max-age of an answer that caches may keep.
pub(crate) fn max_age(head: &Head) -> Verdict<f64> {
    let control = head.field("cache-control").unwrap_or("");
    let directives: Vec<_> = control.split(',').map(str::trim).collect();
    let kept = !directives.iter().any(|one| ["no-store", "no-cache", "private"].contains(one));
    let age = directives.iter().find_map(|one| one.strip_prefix("max-age=")?.parse().ok());
    demand!(kept && age.is_some(), "CACHE", "Cache-Control: {control:?}");
    Ok(age.unwrap_or(0.0))
}

/// What every good answer of a presentation has.
pub(crate) fn check_answer(answer: &Answer, types: &[&str]) -> Verdict<()> {
    let kind = answer.field("content-type").unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim();
    demand!(types.contains(&essence), "S19", "Content-Type {kind:?}, not one of {types:?}");
    let cors = answer.field("access-control-allow-origin");
    demand!(cors.is_some(), "CORS", "no Access-Control-Allow-Origin");
    // Who says Via keeps answers, and has to say how old they are.
    let may_age = answer.field("via").is_some();
    demand!(may_age || answer.field("age").is_none(), "B1", "an origin sent Age");
    demand!(answer.field("set-cookie").is_none(), "CACHE", "a cookie");
    demand!(answer.complete, "S1", "cut after {} bytes", answer.body.len());
    Ok(())
}

/// What an answer with finished bytes has beside.
fn check_finished(answer: &Answer, target_duration: f64) -> Verdict<()> {
    demand!([200, 206].contains(&answer.status), "S1", "listed, but answered {}", answer.status);
    check_answer(answer, MEDIA_TYPES)?;
    let length = answer.field("content-length").and_then(|length| length.parse().ok());
    demand!(length == Some(answer.body.len()), "S1", "length {length:?}, not known at once");
    let age = max_age(answer)?;
    demand!(age >= 6.0 * target_duration, "CACHE", "max-age={age}, TD {target_duration}");
    demand!(answer.field("etag").is_some(), "CACHE", "no ETag");
    Ok(())
}

pub(crate) fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).expect("no gzip");
    plain
}

/// What one follower found in the end.
pub(crate) struct Summary {
    pub(crate) url: String,
    pub(crate) playlist: Playlist,
    /// Unix time in ms of media time 0, for each run.
    pub(crate) zeros: BTreeMap<u64, f64>,
    pub(crate) parts: usize,
    pub(crate) segments: usize,
    /// Of the segments that were fetched.
    pub(crate) seconds: f64,
    pub(crate) deltas: usize,
    pub(crate) hints: usize,
    /// Bytes of every segment that was fetched, by number.
    pub(crate) bodies: BTreeMap<u64, Vec<u8>>,
    /// EXTINF of those.
    pub(crate) lengths: BTreeMap<u64, f64>,
    /// Sample entries of all initialization segments.
    pub(crate) formats: BTreeSet<String>,
    /// Of the pictures of fMP4: width and height, and the most in a second of any segment.
    pub(crate) size: Option<(u64, u64)>,
    pub(crate) frame_rate: f64,
}

/// Something that left the playlist, and until when it must be there.
struct Removed {
    target: String,
    until: Instant,
}

/// A part and the bytes that came for it.
struct Fetched {
    uri: String,
    duration: f64,
    body: Vec<u8>,
}

/// One media playlist under watch.
pub(crate) struct Follower {
    address: SocketAddr,
    pub(crate) url: String,
    client: Client,
    pub(crate) playlist: Playlist,
    /// When the version before was asked for: what the playlist has, it had then or later.
    asked: Instant,
    /// When a segment was surely not yet listed.
    unlisted: BTreeMap<u64, Instant>,
    longest: f64,
    inits: BTreeMap<String, Vec<u8>>,
    programs: BTreeMap<u64, Program>,
    /// Parts of segments seen from their first part on.
    fetched: BTreeMap<u64, Vec<Fetched>>,
    removed: Vec<Removed>,
    found: Summary,
    round: usize,
}

/// Asks again while it is refused: an encoder that pauses is waited for.
fn ask_patiently(mut ask: impl FnMut() -> Answer) -> Answer {
    let mut answer = ask();
    for _ in 1..REFUSALS_MAX {
        if answer.status != 503 {
            break;
        }
        answer = ask();
    }
    answer
}

impl Follower {
    /// Waits for a media playlist and reads its first version.
    pub(crate) fn open(address: SocketAddr, url: &str) -> Follower {
        let mut client = Client::connect(address);
        wait_until(&format!("{url} is there"), || client.ask("GET", url, "").status == 200);
        let asked = Instant::now();
        let answer = client.ask("GET", url, "");
        let playlist = Playlist::checked(&answer.text());
        let playlist = playlist.unwrap_or_else(|why| panic!("{why}\n{}", answer.text()));
        let found = Summary {
            url: url.to_owned(),
            playlist: playlist.clone(),
            zeros: BTreeMap::new(),
            parts: 0,
            segments: 0,
            seconds: 0.0,
            deltas: 0,
            hints: 0,
            bodies: BTreeMap::new(),
            lengths: BTreeMap::new(),
            formats: BTreeSet::new(),
            size: None,
            frame_rate: 0.0,
        };
        let mut follower = Follower {
            address,
            url: url.to_owned(),
            client,
            longest: playlist.length(),
            playlist,
            asked,
            unlisted: BTreeMap::new(),
            inits: BTreeMap::new(),
            programs: BTreeMap::new(),
            fetched: BTreeMap::new(),
            removed: Vec::new(),
            found,
            round: 0,
        };
        follower.must(&answer, |follower| follower.check_playlist_head(&answer, false));
        follower.must(&answer, Follower::download);
        follower
    }

    /// Runs a check, and ends the test with all that is known if it fails.
    fn must<T>(&mut self, answer: &Answer, check: impl FnOnce(&mut Follower) -> Verdict<T>) -> T {
        check(self).unwrap_or_else(|why| {
            panic!("{}: {why}\n--- {:?}\n{}", self.url, answer.fields, answer.text())
        })
    }

    fn check_playlist_head(&self, answer: &Answer, blocking: bool) -> Verdict<()> {
        demand!(answer.status == 200, "S12", "status {}", answer.status);
        check_answer(answer, PLAYLIST_TYPES)?;
        let target = self.playlist.target_duration;
        let plain = [(target / 2.0).floor().max(1.0), (target / 2.0).ceil().max(1.0)];
        let allowed = if blocking { vec![6.0 * target] } else { plain.to_vec() };
        let age = max_age(answer)?;
        // What has ended stays as it is.
        let good = allowed.contains(&age) || self.playlist.ended;
        demand!(good, "CACHE", "max-age={age}, not {allowed:?}; blocking: {blocking}");
        Ok(())
    }

    /// One request for the playlist, whatever comes.
    pub(crate) fn ask(&mut self, query: &str) -> Answer {
        let target = format!("{}{query}", self.url);
        self.client.ask("GET", &target, "")
    }

    /// The newest version, which must follow from the one before.
    pub(crate) fn reload(&mut self) {
        let asked = Instant::now();
        let answer = self.ask("");
        self.must(&answer, |follower| follower.accept(&answer, asked, false));
    }

    /// Waits for the next part and fetches all that is new. False when the playlist has ended.
    pub(crate) fn advance(&mut self) -> bool {
        self.round += 1;
        let (msn, part) = self.playlist.next();
        let hint = self.ask_for_hint();
        let asked = Instant::now();
        let query = match self.round % 4 {
            0 => format!("?CMCD=bl%3D900&_HLS_part={part}&_HLS_msn={msn}&_HLS_pathway=a"),
            _ if self.playlist.part_target.is_none() => format!("?_HLS_msn={msn}"),
            _ => format!("?_HLS_msn={msn}&_HLS_part={part}"),
        };
        let answer = ask_patiently(|| self.ask(&query));
        assert_ne!(answer.status, 503, "{}: nothing new came", self.url);
        self.must(&answer, |follower| {
            follower.accept(&answer, asked, true)?;
            let (last, ended) = (follower.playlist.last(), follower.playlist.ended);
            let came = ended || (msn, Some(part)) <= last || last.0 >= msn && last.1.is_none();
            demand!(came, "S10", "{msn}/{part} asked for, the last is {last:?}");
            follower.check_hint(hint)
        });
        match self.round % 8 {
            1 => self.take_delta("YES"),
            5 => self.take_delta("v2"),
            3 => self.compare_gzip(),
            _ => {}
        }
        !self.playlist.ended
    }

    /// Takes a version and fetches what is new in it.
    fn accept(&mut self, answer: &Answer, asked: Instant, blocking: bool) -> Verdict<()> {
        self.check_playlist_head(answer, blocking)?;
        let new = Playlist::checked(&answer.text())?;
        self.take(new, asked)
    }

    fn take(&mut self, new: Playlist, asked: Instant) -> Verdict<()> {
        check_step(&self.playlist, &new)?;
        for segment in new.all().filter(|segment| self.playlist.segment(segment.msn).is_none()) {
            self.unlisted.insert(segment.msn, self.asked);
        }
        let removed = self.removed.len();
        self.note_removed(&new);
        let removed = self.removed.len() - removed;
        self.longest = self.longest.max(new.length());
        (self.playlist, self.asked) = (new, asked);
        self.download()?;
        self.ask_for_removed(removed)
    }

    /// Notes how long what has gone must be there: S5 for parts, S6 for segments.
    fn note_removed(&mut self, new: &Playlist) {
        let seconds = Duration::from_secs_f64;
        for segment in &self.playlist.segments {
            let kept = new.segment(segment.msn);
            for part in &segment.parts {
                if kept.is_none_or(|kept| !kept.parts.contains(part)) && !part.gap {
                    let until = self.asked + seconds(3.0 * new.target_duration);
                    let target = resolve(&self.url, &part.uri);
                    self.removed.push(Removed { target, until });
                }
            }
            if let (None, Some(&since)) = (kept, self.unlisted.get(&segment.msn)) {
                let until = since + seconds(segment.length() + self.longest);
                self.removed.push(Removed { target: resolve(&self.url, &segment.uri), until });
            }
        }
    }

    /// Asks for what has just gone from the playlist, and again for what went first: a server forgets
    /// that next.
    fn ask_for_removed(&mut self, new: usize) -> Verdict<()> {
        self.removed.retain(|removed| Instant::now() < removed.until);
        let (count, client) = (self.removed.len(), &mut self.client);
        let asked = |&(at, _): &(usize, &Removed)| at < REMOVED_ASKED || at + new >= count;
        for (_, Removed { target, until }) in self.removed.iter().enumerate().filter(asked) {
            let answer = client.ask("HEAD", target, "");
            let gone = answer.status != 200;
            let late = Instant::now() >= *until;
            demand!(!gone || late, "S6", "{target} went too early: {}", answer.status);
        }
        Ok(())
    }

    // Parts and segments.

    fn download(&mut self) -> Verdict<()> {
        let playlist = self.playlist.clone();
        for segment in playlist.all() {
            let is_new = !self.found.bodies.contains_key(&segment.msn);
            if !is_new || segment.gap {
                continue;
            }
            if let Some(map) = &segment.map {
                self.take_init(map)?;
            }
            self.take_parts(segment)?;
            if segment.duration.is_some() {
                self.take_segment(segment)?;
            }
        }
        Ok(())
    }

    fn get(&mut self, uri: &str, range: Option<(u64, u64)>) -> Verdict<Answer> {
        let target = resolve(&self.url, uri);
        let fields = range.map(|(length, at)| format!("Range: bytes={at}-{}\r\n", at + length - 1));
        let answer = self.client.ask("GET", &target, &fields.unwrap_or_default());
        check_finished(&answer, self.playlist.target_duration)
            // What still grows has no ETag.
            .or_else(|why| if range.is_some() && why.ends_with("ETag") { Ok(()) } else { Err(why) })
            .map_err(|why| format!("{why} ({target}: {} {:?})", answer.status, answer.fields))?;
        let expected = if range.is_some() { 206 } else { 200 };
        demand!(answer.status == expected, "S1", "{target}: {}", answer.status);
        Ok(answer)
    }

    fn take_init(&mut self, map: &Map) -> Verdict<()> {
        if self.inits.contains_key(&map.uri) {
            return Ok(());
        }
        let range = map.byte_range.map(|(length, at)| (length, at.unwrap_or(0)));
        let body = self.get(&map.uri, range)?.body;
        let init = Init::read(&body)?;
        self.found.formats.extend(init.tracks.iter().map(|track| track.format.clone()));
        let pictures = init.tracks.iter().find(|track| track.handler == "vide");
        self.found.size = pictures.map(|track| track.size).or(self.found.size);
        self.inits.insert(map.uri.clone(), body);
        Ok(())
    }

    /// Fetches the parts that are new. A segment that is met half-way has parts, but not all.
    fn take_parts(&mut self, segment: &Segment) -> Verdict<()> {
        let msn = segment.msn;
        if segment.duration.is_some() && !self.fetched.contains_key(&msn) {
            self.fetched.insert(msn, Vec::new());
        }
        for part in &segment.parts {
            let known = self.fetched.entry(msn).or_default();
            let place = (&part.uri, part.byte_range);
            let name = name_of(part);
            if part.gap || known.iter().any(|known| known.uri == name) {
                continue;
            }
            let body = self.get(place.0, place.1)?.body;
            self.found.parts += 1;
            let why = |why| format!("{why} (part {name})");
            self.check_part(segment, part, &body).map_err(why)?;
            let fetched = Fetched { uri: name_of(part), duration: part.duration, body };
            self.fetched.entry(msn).or_default().push(fetched);
        }
        Ok(())
    }

    fn check_part(&mut self, segment: &Segment, part: &Part, body: &[u8]) -> Verdict<()> {
        if segment.map.is_none() {
            return self.check_ts_part(segment, part, body);
        }
        let init = self.init_of(segment)?;
        let media = Media::read(body, &init)?;
        let (length, said) = (media.length(&init)?, part.duration);
        let exact = (length - said).abs() <= DURATION_ROUNDING_S;
        demand!(exact, "P4", "DURATION={said}, but its samples last {length} s");
        check_independent(part, media.has_sync(&init))
    }

    /// The tables of a run are read from its first segment or part.
    fn check_ts_part(&mut self, segment: &Segment, part: &Part, body: &[u8]) -> Verdict<()> {
        if segment.parts.first() == Some(part) && !self.programs.contains_key(&segment.msn) {
            self.programs.insert(segment.msn, Program::read(body)?);
        }
        let Some(&program) = self.programs.get(&segment.msn) else {
            return Ok(());
        };
        let units = units(body, program)?;
        demand!(!units.is_empty(), "P9", "a part in which nothing begins");
        check_independent(part, units.iter().any(|unit| unit.random_access))
    }

    fn init_of(&self, segment: &Segment) -> Verdict<Init> {
        let map = segment.map.as_ref().map_or("", |map| &map.uri);
        let bytes = self.inits.get(map).ok_or_else(|| format!("P16: no map {map:?}"))?;
        Init::read(bytes)
    }

    fn take_segment(&mut self, segment: &Segment) -> Verdict<()> {
        let (msn, said) = (segment.msn, segment.length());
        let answer = self.get(&segment.uri, segment.byte_range)?;
        let etag = answer.field("etag").unwrap_or("\"none\"").to_owned();
        let body = answer.body;
        self.found.segments += 1;
        self.found.seconds += said;
        let why = |why| format!("{why} (segment {})", segment.uri);
        self.check_segment(segment, &body).map_err(why)?;
        let parts = self.fetched.get(&msn).map_or(&[][..], |parts| parts);
        let sum: f64 = parts.iter().map(|part| part.duration).sum();
        if parts.len() == segment.parts.len() && (sum - said).abs() <= DURATION_ROUNDING_S {
            let all = parts.iter().flat_map(|part| &part.body);
            demand!(all.eq(&body), "P9", "the parts of segment {msn} are not its bytes");
        } else {
            // Some parts were never seen: those that were are in it, in order.
            let mut at = 0;
            for part in parts {
                let rest = body[at..].windows(part.body.len().max(1));
                let found = rest.into_iter().position(|bytes| bytes == part.body);
                let Some(found) = found else {
                    return Err(format!("P9: {} is not in segment {msn}", part.uri));
                };
                at += found + part.body.len();
            }
            let seen = self.unlisted.contains_key(&msn) && !parts.is_empty();
            let gaps = segment.parts.iter().any(|part| part.gap);
            let lost = seen && !gaps && parts.len() == segment.parts.len();
            demand!(!lost, "P9", "parts of {sum} s in segment {msn} of {said} s");
        }
        if self.round.is_multiple_of(5) {
            let fields = format!("If-None-Match: {etag}\r\n");
            let again = self.client.ask("GET", &resolve(&self.url, &segment.uri), &fields);
            demand!(again.status == 304, "CACHE", "segment {msn} again: {}", again.status);
        }
        self.found.bodies.insert(msn, body);
        self.found.lengths.insert(msn, said);
        Ok(())
    }

    fn check_segment(&mut self, segment: &Segment, body: &[u8]) -> Verdict<()> {
        let said = segment.length();
        let (start, length, sync) = if segment.map.is_none() {
            let program = Program::read(body)?;
            self.programs.insert(segment.msn, program);
            let units = units(body, program)?;
            let (Some(first), Some(last)) = (units.first(), units.last()) else {
                return Err("P9: a segment in which nothing begins".to_owned());
            };
            let ticks = |unit: &crate::hls_ts::Unit| unit.decode_time as f64 / 90_000.0;
            // The last unit lasts as long as one in the middle.
            let frame = (ticks(last) - ticks(first)) / (units.len() as f64 - 1.0).max(1.0);
            let length = ticks(last) - ticks(first) + frame;
            (ticks(first), length, units.iter().any(|unit| unit.random_access))
        } else {
            let init = self.init_of(segment)?;
            let media = Media::read(body, &init)?;
            let sync = media.has_sync(&init);
            let promised = self.playlist.independent_segments && !media.begins_with_sync(&init);
            demand!(!promised, "P5", "no key frame at the start of an independent segment");
            let start = media.span(&init)?.map_or(0, |(start, _)| start) as f64;
            let length = media.length(&init)?;
            let rate = media.samples(&init) as f64 / length.max(f64::EPSILON);
            self.found.frame_rate = self.found.frame_rate.max(rate);
            (start / init.lead().timescale as f64, length, sync)
        };
        demand!(sync, "B1", "no independent frame");
        let slack = if segment.map.is_none() { 0.05 } else { DURATION_ROUNDING_S };
        let exact = (length - said).abs() <= slack;
        demand!(exact, "P18", "EXTINF {said}, but its samples last {length} s");
        self.check_zero(segment, start)
    }

    /// Dates and decode times of a run differ by a constant.
    fn check_zero(&mut self, segment: &Segment, start: f64) -> Verdict<()> {
        let Some(date) = segment.date_ms else {
            return Ok(());
        };
        let zero = date as f64 - 1000.0 * start;
        let first = *self.found.zeros.entry(segment.run).or_insert(zero);
        let same = (zero - first).abs() <= ZERO_ROUNDING_MS;
        demand!(same, "B1", "presentation zero moved from {first} to {zero}");
        Ok(())
    }

    // What else a client asks.

    /// Every second time, asks for the hinted part before it exists.
    fn ask_for_hint(&self) -> Option<(String, JoinHandle<Answer>)> {
        let hint = self.playlist.hint("PART").filter(|hint| hint.start == 0)?;
        if !self.round.is_multiple_of(2) {
            return None;
        }
        let (address, target) = (self.address, resolve(&self.url, &hint.uri));
        let asked = thread::spawn(move || {
            let mut client = Client::connect(address);
            ask_patiently(|| client.ask("GET", &target, ""))
        });
        Some((hint.uri.clone(), asked))
    }

    fn check_hint(&mut self, hint: Option<(String, JoinHandle<Answer>)>) -> Verdict<()> {
        let Some((uri, asked)) = hint else {
            return Ok(());
        };
        let answer = asked.join().unwrap();
        let all = self.fetched.values().flatten();
        let Some(listed) = all.into_iter().find(|part| part.uri == uri) else {
            // It never came: the end, or a discontinuity (P14).
            let status = answer.status;
            let dropped = self.playlist.ended || [404, 410].contains(&status);
            let byte_ranges = self.fetched.values().flatten().any(|part| part.uri.contains('@'));
            demand!(dropped || byte_ranges, "P13", "{uri} was hinted and never listed: {status}");
            return Ok(());
        };
        check_finished(&answer, self.playlist.target_duration)
            .map_err(|why| format!("{why} (hinted {uri})"))?;
        let same = answer.body == listed.body;
        demand!(same, "S18", "{uri}: the bytes of the hint are not those of the part");
        self.found.hints += 1;
        Ok(())
    }

    /// A delta update must mean what the whole playlist says after it.
    fn take_delta(&mut self, how: &str) {
        let (asked, old) = (Instant::now(), self.playlist.clone());
        let answer = self.ask(&format!("?_HLS_skip={how}"));
        self.must(&answer, |follower| {
            follower.check_playlist_head(&answer, false)?;
            let delta = Playlist::parse(&answer.text())?;
            delta.check()?;
            let until = old.control.as_ref().and_then(|control| control.can_skip_until);
            let first = old.segments.first().map_or(0.0, Segment::length);
            let long = until
                .is_some_and(|until| old.length() - first - 2.0 * old.target_duration >= until);
            demand!(delta.skip.is_some() || !long || delta.ended, "S9", "a whole playlist");
            let ids = delta.skip.as_ref().map(|skip| skip.removed_dateranges.is_some());
            demand!(ids != Some(false) || how == "YES", "P12", "v2 without removed date ranges");
            follower.found.deltas += usize::from(delta.skip.is_some());
            let whole = Playlist { version: old.version, ..merge(&old, &delta)? };
            if delta.skip.is_some() {
                whole.check()?;
            }
            follower.take(whole, asked)
        });
        self.reload();
    }

    fn compare_gzip(&mut self) {
        let asked = Instant::now();
        let url = self.url.clone();
        let mut answer = self.client.ask("GET", &url, "Accept-Encoding: gzip\r\n");
        self.must(&answer.clone(), |follower| {
            let coding = answer.field("content-encoding");
            demand!(coding == Some("gzip"), "B1", "Content-Encoding {coding:?}, gzip asked for");
            let vary = answer.field("vary").unwrap_or("").to_ascii_lowercase();
            demand!(vary.contains("accept-encoding"), "B1", "gzip with Vary: {vary:?}");
            answer.body = gunzip(&answer.body);
            follower.accept(&answer, asked, false)
        });
    }

    /// Rendition reports: one for each other playlist, of no older and no newer state than theirs.
    fn check_reports(&mut self, others: &[String]) {
        let versions = |client: &mut Client| -> BTreeMap<String, Playlist> {
            let texts = others.iter().map(|url| (url, client.ask("GET", url, "").text()));
            texts.map(|(url, text)| (url.clone(), Playlist::checked(&text).unwrap())).collect()
        };
        let before = versions(&mut self.client);
        self.advance();
        let after = versions(&mut self.client);
        let url = self.url.clone();
        let reports = self.playlist.reports.iter();
        let own = self.playlist.last();
        let reports: BTreeMap<_, _> =
            reports.map(|report| (resolve(&url, &report.uri), report)).collect();
        let named: BTreeSet<_> = reports.keys().collect();
        assert_eq!(named, others.iter().collect(), "P11: reports of {url}");
        for (other, report) in reports {
            let part = if after[&other].part_target.is_some() { report.last_part } else { None };
            let (msn, part) = (report.last_msn.unwrap_or(own.0), part.or(own.1));
            let (least, most) = (before[&other].last(), after[&other].last());
            assert!((msn, part) <= most, "P11: {url} reports {msn}/{part:?}, {other} has {most:?}");
            // At most a target duration old.
            assert!(msn + 1 >= least.0, "P11: {url} reports {msn}, {other} had {least:?}");
        }
    }

    /// What it found; all that must still be there is.
    pub(crate) fn finish(mut self) -> Summary {
        let all = self.removed.len();
        self.ask_for_removed(all).unwrap_or_else(|why| panic!("{}: {why}", self.url));
        self.found.playlist = self.playlist;
        self.found
    }
}

/// P5: exactly the parts with an independent frame are INDEPENDENT.
fn check_independent(part: &Part, has_sync: bool) -> Verdict<()> {
    demand!(part.independent || !has_sync, "P5", "an independent frame without INDEPENDENT=YES");
    demand!(!part.independent || has_sync, "P5", "INDEPENDENT=YES without an independent frame");
    Ok(())
}

/// What tells a part from all others: its URI, or the range in it.
fn name_of(part: &Part) -> String {
    match part.byte_range {
        Some((length, at)) => format!("{}@{at}+{length}", part.uri),
        None => part.uri.clone(),
    }
}

/// How long a presentation is followed.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Media playlists that it must have before it is followed.
    pub(crate) tracks: usize,
    /// Seconds of media in each playlist that must have been seen.
    pub(crate) seconds: f64,
    /// It must end in EXT-X-ENDLIST, and is followed until then.
    pub(crate) ends: bool,
}

/// The multivariant playlist once it has this many media playlists.
pub(crate) fn multivariant(address: SocketAddr, url: &str, tracks: usize) -> Multivariant {
    let mut client = Client::connect(address);
    wait_until(&format!("{url} has {tracks} playlists"), || {
        let answer = client.ask("GET", url, "");
        let found = Multivariant::parse(&answer.text());
        answer.status == 200 && found.is_ok_and(|found| found.playlists().len() >= tracks)
    });
    let answer = client.ask("GET", url, "");
    check_answer(&answer, PLAYLIST_TYPES).unwrap_or_else(|why| panic!("{why}: {answer:?}"));
    max_age(&answer).unwrap_or_else(|why| panic!("{why}: {answer:?}"));
    Multivariant::parse(&answer.text()).unwrap_or_else(|why| panic!("{why}\n{}", answer.text()))
}

/// Follows every media playlist of a presentation, and compares them: S8 and B1.
pub(crate) fn follow(address: SocketAddr, point: &str, plan: Plan) -> Vec<Summary> {
    let index = format!("{point}index.m3u8");
    let urls = multivariant(address, &index, plan.tracks).playlists();
    let urls: Vec<_> = urls.iter().map(|uri| resolve(&index, uri)).collect();
    assert_eq!(urls.len(), plan.tracks, "media playlists of {point}: {urls:?}");
    let followers = urls.iter().map(|url| {
        let (url, others) = (url.clone(), urls.clone());
        thread::spawn(move || {
            let others: Vec<_> = others.into_iter().filter(|other| *other != url).collect();
            follow_one(address, &url, &others, plan)
        })
    });
    let followers: Vec<_> = followers.collect();
    let joined = |one: JoinHandle<Summary>| {
        one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    };
    let found: Vec<_> = followers.into_iter().map(joined).collect();
    compare(&found).unwrap_or_else(|why| panic!("{why}"));
    check_promises(address, &index, &found).unwrap_or_else(|why| panic!("{index}: {why}"));
    found
}

fn follow_one(address: SocketAddr, url: &str, others: &[String], plan: Plan) -> Summary {
    let mut follower = Follower::open(address, url);
    while !follower.playlist.ended && (plan.ends || follower.found.seconds < plan.seconds) {
        if follower.round == 6 {
            follower.check_reports(others);
        } else {
            follower.advance();
        }
        if follower.round == 10 && !follower.playlist.ended {
            probe(address, url, &follower.playlist).unwrap_or_else(|why| panic!("{why}"));
        }
    }
    let seconds = follower.found.seconds;
    assert!(seconds >= plan.seconds, "{url} ended after {seconds} s");
    follower.finish()
}

/// What all media playlists of a presentation have in common.
fn compare(found: &[Summary]) -> Verdict<()> {
    let mut lists = found.iter().map(|one| &one.playlist);
    let Some(first) = lists.next() else {
        return Ok(());
    };
    for list in lists {
        let (one, other) = (first.target_duration, list.target_duration);
        demand!(one == other, "S8", "target durations {one} and {other}");
        let same = first.control == list.control;
        demand!(same, "S8", "server control {:?} and {:?}", first.control, list.control);
    }
    let longest = found.iter().filter_map(|one| one.playlist.part_target).fold(0.0, f64::max);
    for one in found {
        let hold_back = one.playlist.control.as_ref().and_then(|control| control.part_hold_back);
        let enough = hold_back.is_none_or(|hold_back| hold_back >= 3.0 * longest - 1e-9);
        demand!(enough, "P2", "PART-HOLD-BACK {hold_back:?}, the longest part target {longest}");
        for (run, zero) in &one.zeros {
            let Some(other) = found[0].zeros.get(run) else {
                continue;
            };
            let near = (zero - other).abs() <= 1000.0 * longest.max(0.1);
            demand!(near, "B1", "{} is {} ms off {}", one.url, zero - other, found[0].url);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)]) -> Head {
        let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let version = "HTTP/1.1".to_owned();
        Head { status: 200, version, fields: fields.iter().map(own).collect() }
    }

    #[test]
    fn uris_are_resolved() {
        for (uri, meant) in [
            ("video.m3u8", "/live/cam/video.m3u8"),
            ("video/1/2.m4s", "/live/cam/video/1/2.m4s"),
            ("../x.m4s", "/live/x.m4s"),
            ("/time", "/time"),
        ] {
            assert_eq!(resolve("/live/cam/index.m3u8?_HLS_msn=1", uri), meant);
        }
    }

    /// Goal: an answer that no cache may keep is seen, and so are parts that lie about key frames.
    #[test]
    fn heads_and_independence_are_checked() {
        assert_eq!(max_age(&head(&[("cache-control", "public, max-age=6")])), Ok(6.0));
        for bad in ["", "max-age=6, no-store", "no-cache", "max-age=soon"] {
            let why = max_age(&head(&[("cache-control", bad)])).unwrap_err();
            assert!(why.starts_with("CACHE: "), "{why}");
        }
        let mut part = Part {
            uri: "1.m4s".to_owned(),
            duration: 0.2,
            independent: true,
            gap: false,
            byte_range: Some((10, 5)),
        };
        assert_eq!(name_of(&part), "1.m4s@5+10");
        check_independent(&part, true).unwrap();
        assert!(check_independent(&part, false).unwrap_err().starts_with("P5"));
        part.independent = false;
        assert!(check_independent(&part, true).unwrap_err().starts_with("P5"));
    }
}
