//! Live presentations as views of objects: what an encoder pushes below a live prefix is listed as
//! LL-HLS and LL-DASH from the same bytes.
//!
//! The path of a byte: `ingest` appends it to an object, then shows it to that upload's [`Feed`], which
//! knows box and packet boundaries. Complete chunks (CMAF chunks, access units of MPEG-TS) go to a
//! `Track`, which makes parts and segments of them: places in objects, nothing is copied. Each change
//! is news; who waits for it asks again, and finds a playlist that was made once, or a view.
//!
//! Reading order: `marks` (boundaries in any object), `naming` (which path means what), `view` (what
//! readers get), `track` (the timeline of one track), `point` (a publishing point: its lock and its
//! tracks), `shape` (what they agree on), `publication` (runs of encoders, and their names), `feed` (what
//! an upload brings) and `events`, `listing` (playlists) and `dash` (the MPD), `reload` (who waits for
//! which version), `pushed` (playlists that somebody else made).

mod dash;
mod events;
mod feed;
mod listing;
pub mod marks;
mod naming;
mod point;
#[cfg(test)]
mod point_tests;
mod publication;
mod pushed;
mod reload;
mod shape;
mod track;
#[cfg(test)]
mod track_tests;
mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

pub use self::feed::Feed;
use self::naming::Resource;
pub use self::point::Counts;
use self::point::Point;
use self::reload::{Directives, HOLD_TARGET_DURATIONS, ReloadError, Verdict};
pub use self::view::{About, Gate, Growing, Hold, Next, Slice, Text, View};
use crate::store::{Millis, NewsWait, Store};

/// How part URLs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// Each part has a URL of its own: any cache can keep it.
    Urls,
    /// Parts are byte ranges of their segment.
    ByteRanges,
    /// Segments only.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind {
    /// The last `window_s` seconds.
    Window,
    /// Everything from the start (`EXT-X-PLAYLIST-TYPE:EVENT`), `VOD` after the end.
    Event,
}

/// What the operator decides about the presentations below a prefix (`[[live]]`).
#[derive(Debug, Clone)]
pub struct LiveRule {
    /// Without a leading slash, with a trailing one.
    pub prefix: String,
    pub part_ms: u64,
    pub segment_ms: u64,
    pub window_ms: u64,
    pub parts: Parts,
    pub kind: ListKind,
    pub steering: Option<Steering>,
    /// The media come from here, and the prefix is the one publishing point.
    pub source: Option<Source>,
}

/// Where the media of a publishing point come from, if not from uploads below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An object of this name.
    Object(String),
    Channel(String),
}

impl LiveRule {
    /// The folder whose folders are publishing points.
    fn points_below(&self) -> &str {
        match self.source {
            None => &self.prefix,
            Some(_) => {
                let own = self.prefix.trim_end_matches('/');
                own.rfind('/').map_or("", |slash| &own[..=slash])
            }
        }
    }
}

/// Content steering (RFC 8216bis §7).
#[derive(Debug, Clone)]
pub struct Steering {
    pub ttl_s: u64,
    /// The pathway of the URLs in the playlist, then those that are clones of it on other hosts.
    pub pathways: Vec<Pathway>,
}

#[derive(Debug, Clone)]
pub struct Pathway {
    pub id: String,
    /// The host that takes the place of the playlist's own; `None` for the playlist's own.
    pub host: Option<String>,
}

pub struct Options {
    /// The longest matching prefix counts.
    pub rules: Vec<LiveRule>,
    pub clock: fn() -> Millis,
}

/// All presentations of the origin.
pub struct Packager {
    rules: Vec<Arc<LiveRule>>,
    clock: fn() -> Millis,
    store: Arc<Store>,
    points: RwLock<HashMap<Box<str>, Arc<Point>>>,
    /// Some names of publishing points are more than one folder deep: those of cameras.
    has_deep_points: AtomicBool,
    /// When publishing points were last looked through for some to forget.
    swept_ms: AtomicU64,
    counts: Arc<Counts>,
}

/// Publishing points that are remembered; a new one beyond that is refused.
pub const POINTS_MAX: usize = 10_000;
/// Publishing points of which nothing is left are looked for so often, at most; and when there are
/// too many.
const SWEEP_MS: u64 = 10_000;
const SWEEP_MS_MIN: u64 = 1000;
/// How long a request waits for a presentation that is starting.
const START_WAIT_MS: u64 = 10_000;
/// Refusals are kept by caches for so many target durations when they answer a blocking request
/// (RFC 8216bis appendix B.1).
const BLOCKING_ERROR_TARGET_DURATIONS: u64 = 4;
/// What blocking playlists, parts, segments and init segments may be kept.
const KEEP_TARGET_DURATIONS: u64 = 6;

/// A GET or HEAD as far as the packager cares.
pub struct Asked<'r> {
    /// The object name: normalised path without its leading slash.
    pub name: &'r str,
    pub query: Option<&'r str>,
    /// A byte range is asked for.
    pub has_range: bool,
    /// So long has the request waited already: 0 when it comes first.
    pub held_ms: u64,
}

/// What a name means in a presentation.
pub enum Found {
    /// Nothing of ours: an object, or nothing.
    NotLive,
    Text {
        text: Arc<Text>,
        max_age_s: u64,
    },
    /// All bytes are there.
    View(Box<View>),
    Growing(Box<Growing>),
    /// Not yet: wait, then ask again.
    Hold(Hold),
    Refused(Refusal),
}

/// Why something is not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub text: String,
    /// How long caches may keep the refusal; `None` for not at all.
    pub max_age_s: Option<u64>,
}

impl Packager {
    pub fn new(options: Options, store: Arc<Store>) -> Arc<Packager> {
        let mut rules: Vec<_> = options.rules.into_iter().map(Arc::new).collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        Arc::new(Packager {
            rules,
            clock: options.clock,
            store,
            points: RwLock::default(),
            has_deep_points: AtomicBool::new(false),
            swept_ms: AtomicU64::new(0),
            counts: Arc::default(),
        })
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Publishing points, and tracks of all of them.
    pub fn gauges(&self) -> (usize, usize) {
        let points = self.points.read();
        let tracks = points.values().map(|point| point.state().entries.len()).sum();
        (points.len(), tracks)
    }

    /// Does the name lie below a live prefix?
    pub fn is_live(&self, name: &str) -> bool {
        self.rule_of(name).is_some()
    }

    fn rule_of(&self, name: &str) -> Option<&Arc<LiveRule>> {
        self.rules.iter().find(|rule| name.starts_with(&rule.prefix))
    }

    /// For an upload that begins: what looks at its bytes. `None` outside the live prefixes.
    pub fn feed(&self, name: &str) -> Result<Option<Feed>, Refusal> {
        let is_source = |source: &Source| matches!(source, Source::Object(own) if own == name);
        if let Some(feed) = self.feed_of_source(is_source, name)? {
            return Ok(Some(feed));
        }
        let Some(rule) = self.rule_of(name) else { return Ok(None) };
        let Some(place) = naming::place_below(rule.points_below(), name) else { return Ok(None) };
        let point = self.point(place.point, rule).ok_or_else(Refusal::too_many_points)?;
        let key = naming::key_of(place.rest);
        Ok(Some(Feed::new(point, place.rest, key, place.is_single)))
    }

    /// For a camera's movie, which is called `file` in a publishing point of its own, with a name of any
    /// depth; each of its tracks keeps so many bytes. `None` if too many have begun there lately.
    pub fn feed_of_movie(
        &self,
        (point, file): (&str, &str),
        track_bytes_max: u64,
    ) -> Result<Option<Feed>, Refusal> {
        let Some(rule) = self.rule_of(point) else { return Ok(None) };
        if point.strip_prefix(rule.points_below()).is_some_and(|below| below.contains('/')) {
            self.has_deep_points.store(true, Ordering::Relaxed);
        }
        let point = self.point(point, rule).ok_or_else(Refusal::too_many_points)?;
        if !point.begin_movie(track_bytes_max) {
            point.end_feed();
            return Ok(None);
        }
        Ok(Some(Feed::new(point, file, naming::key_of(file), false)))
    }

    /// For a channel that somebody publishes to: as `feed`, if a publishing point wants it.
    pub fn feed_of_channel(&self, channel: &str) -> Result<Option<Feed>, Refusal> {
        let is_source = |source: &Source| matches!(source, Source::Channel(own) if own == channel);
        self.feed_of_source(is_source, channel)
    }

    fn feed_of_source(
        &self,
        is_source: impl Fn(&Source) -> bool,
        name: &str,
    ) -> Result<Option<Feed>, Refusal> {
        let has_it = |rule: &&Arc<LiveRule>| rule.source.as_ref().is_some_and(&is_source);
        let Some(rule) = self.rules.iter().find(has_it) else { return Ok(None) };
        let point = self.point(rule.prefix.trim_end_matches('/'), rule);
        let point = point.ok_or_else(Refusal::too_many_points)?;
        let file = name.rsplit('/').next().unwrap_or(name);
        Ok(Some(Feed::new(point, file, naming::key_of(file), true)))
    }

    /// The publishing point, made if need be, with one more upload: what has uploads is not forgotten.
    fn point(&self, name: &str, rule: &Arc<LiveRule>) -> Option<Arc<Point>> {
        if let Some(point) = self.points.read().get(name) {
            point.begin_feed();
            return Some(point.clone());
        }
        let mut points = self.points.write();
        let forgotten = self.sweep(&mut points);
        if points.len() >= POINTS_MAX && !points.contains_key(name) {
            return None;
        }
        let make =
            || Point::new(name, rule.clone(), self.store.clone(), self.counts.clone(), self.clock);
        let point = points.entry(name.into()).or_insert_with(make);
        point.begin_feed();
        let point = point.clone();
        drop(points);
        drop(forgotten);
        Some(point)
    }

    /// Forget publishing points of which nothing is left, and with them the bytes that only they hold:
    /// now and then, and where others are made.
    pub fn sweep_points(&self) {
        let forgotten = self.sweep(&mut self.points.write());
        drop(forgotten);
    }

    /// Those that are forgotten: what they hold takes its time to go, so not under the lock.
    fn sweep(&self, points: &mut HashMap<Box<str>, Arc<Point>>) -> Vec<Arc<Point>> {
        let pause_ms = if points.len() >= POINTS_MAX { SWEEP_MS_MIN } else { SWEEP_MS };
        let now_ms = (self.clock)();
        let swept_ms = self.swept_ms.load(Ordering::Relaxed);
        if now_ms.saturating_sub(swept_ms) < pause_ms {
            return Vec::new();
        }
        self.swept_ms.store(now_ms, Ordering::Relaxed);
        points.extract_if(|_, point| point.is_forgotten()).map(|(_, point)| point).collect()
    }

    /// The publishing point with the longest name, if that is more than one folder deep.
    fn deep_point<'n>(&self, rule: &LiveRule, name: &'n str) -> Option<(Arc<Point>, &'n str)> {
        if !self.has_deep_points.load(Ordering::Relaxed) {
            return None;
        }
        let below = name.strip_prefix(rule.points_below())?;
        let first = name.len() - below.len() + below.find('/')?;
        let points = self.points.read();
        let folders = name.rmatch_indices('/').take_while(|(at, _)| *at > first);
        let mut found = folders.filter_map(|(at, _)| {
            points.get(&name[..at]).map(|point| (point.clone(), &name[at + 1..]))
        });
        found.next()
    }

    pub fn find(&self, asked: &Asked<'_>) -> Found {
        let Some(rule) = self.rule_of(asked.name) else { return Found::NotLive };
        if let Some((point, rest)) = self.deep_point(rule, asked.name)
            && let Some(resource) = naming::resource(rest)
        {
            return point.find(&resource, asked);
        }
        let Some(place) = naming::place_below(rule.points_below(), asked.name) else {
            return Found::NotLive;
        };
        let Some(point) = self.points.read().get(place.point).cloned() else {
            return Found::NotLive;
        };
        if place.is_single {
            return Found::NotLive;
        }
        if let Some(found) = point.find_pushed(place.rest, asked) {
            return found;
        }
        match naming::resource(place.rest) {
            // What was pushed under the name counts.
            Some(_) if self.store.lookup(asked.name).is_some() => Found::NotLive,
            Some(resource) => point.find(&resource, asked),
            None => Found::NotLive,
        }
    }
}

impl Refusal {
    fn new(status: u16, text: impl Into<String>, max_age_s: Option<u64>) -> Refusal {
        Refusal { status, text: text.into(), max_age_s }
    }

    fn too_many_points() -> Refusal {
        Refusal::new(403, format!("there are {POINTS_MAX} publishing points already"), None)
    }

    fn of_reload(error: ReloadError, target_duration_s: u64) -> Refusal {
        // What is too far ahead now is not for long: a cache that kept this would refuse everybody.
        let keep_s = (error != ReloadError::TooFar)
            .then_some(BLOCKING_ERROR_TARGET_DURATIONS * target_duration_s);
        Refusal::new(400, error.to_string(), keep_s)
    }

    /// `is_ahead`: it may exist before long.
    fn not_found(is_ahead: bool, target_duration_s: u64) -> Refusal {
        let text = "no such segment or part: it is not announced, abandoned, or gone";
        Refusal::new(404, text, (!is_ahead).then_some(target_duration_s))
    }

    fn stalled() -> Refusal {
        Refusal::new(503, "the encoder sends nothing; try again", None)
    }
}

impl Point {
    fn find(self: &Arc<Self>, resource: &Resource<'_>, asked: &Asked<'_>) -> Found {
        match *resource {
            Resource::Steering => match self.steering() {
                Some(text) => {
                    let ttl_s = self.rule.steering.as_ref().map_or(1, |steering| steering.ttl_s);
                    Found::Text { text, max_age_s: ttl_s.max(1) }
                }
                None => Found::NotLive,
            },
            Resource::Multivariant | Resource::Manifest => self.find_whole(resource, asked),
            Resource::Playlist { track } => self.find_playlist(track, asked),
            Resource::Init { track, epoch } => self.find_init(track, epoch),
            Resource::Segment { track, epoch, msn } => self.find_segment(track, epoch, msn, asked),
            Resource::Part { track, epoch, msn, part } => {
                self.find_part(track, (epoch, msn, part), asked)
            }
        }
    }

    /// The multivariant playlist and the MPD: there as soon as the shape is known.
    fn find_whole(self: &Arc<Self>, resource: &Resource<'_>, asked: &Asked<'_>) -> Found {
        let seen = self.news.version();
        let mut state = self.state();
        let Some(shape) = state.shape else {
            let is_starting = !state.entries.is_empty();
            drop(state);
            return self.wait_for_start(is_starting, seen, asked);
        };
        if self.is_stalled(&state) {
            return Found::Refused(Refusal::stalled());
        }
        let is_manifest = matches!(resource, Resource::Manifest);
        let text =
            if is_manifest { self.manifest(&mut state) } else { self.multivariant(&mut state) };
        match text {
            Some(text) => Found::Text { text, max_age_s: (shape.target_duration_s / 2).max(1) },
            None => Found::NotLive,
        }
    }

    fn wait_for_start(&self, is_starting: bool, seen: u64, asked: &Asked<'_>) -> Found {
        if !is_starting {
            return Found::NotLive;
        }
        if asked.held_ms >= START_WAIT_MS {
            return Found::Refused(Refusal::stalled());
        }
        let news = NewsWait::new(self.news.clone(), seen);
        Found::Hold(Hold { news, wait_ms_max: START_WAIT_MS - asked.held_ms })
    }

    fn find_playlist(self: &Arc<Self>, name: &str, asked: &Asked<'_>) -> Found {
        let seen_point = self.news.version();
        let mut state = self.state();
        let Some(shape) = state.shape else {
            let is_starting = !state.entries.is_empty();
            drop(state);
            return self.wait_for_start(is_starting, seen_point, asked);
        };
        let target_s = shape.target_duration_s;
        let Some(index) = state.index_of(name) else { return Found::NotLive };
        let directives = match Directives::of(asked.query) {
            Ok(directives) => directives,
            Err(error) => return Found::Refused(Refusal::of_reload(error, target_s)),
        };
        let entry = &state.entries[index];
        let track = &entry.track;
        let (is_ended, seen) = (track.is_ended, entry.news.version());
        let is_blocking = directives.is_blocking();
        if track.segments.is_empty() {
            drop(state);
            return self.wait_for_start(true, seen_point, asked);
        }
        // ENDLIST: the directives are ignored (§6.2.5.2).
        let directives = if is_ended { Directives::default() } else { directives };
        let parts_of = |msn: u64| {
            let segment = track.listed().find(|segment| segment.msn == msn)?;
            Some(segment.parts.len() as u64)
        };
        match track.edge().judge(&directives, parts_of) {
            Err(error) => return Found::Refused(Refusal::of_reload(error, target_s)),
            Ok(Verdict::Wait) => {
                let news = entry.news.clone();
                drop(state);
                return self.hold(news, seen, target_s, asked);
            }
            Ok(Verdict::Now) => {}
        }
        if self.is_stalled(&state) {
            return Found::Refused(Refusal::stalled());
        }
        let skip =
            directives.skip.filter(|_| self.server_control(&shape).can_skip_until_s.is_some());
        let max_age_s =
            if is_blocking { KEEP_TARGET_DURATIONS * target_s } else { (target_s / 2).max(1) };
        match self.playlist(&mut state, index, skip) {
            Some(text) => Found::Text { text, max_age_s },
            None => Found::NotLive,
        }
    }

    /// Wait for news of a track, at most for three target durations in all.
    fn hold(
        &self,
        news: Arc<crate::store::News>,
        seen: u64,
        target_s: u64,
        asked: &Asked<'_>,
    ) -> Found {
        let wait_ms = HOLD_TARGET_DURATIONS * target_s * 1000;
        if asked.held_ms >= wait_ms {
            return Found::Refused(Refusal::stalled());
        }
        Found::Hold(Hold { news: NewsWait::new(news, seen), wait_ms_max: wait_ms - asked.held_ms })
    }

    fn find_init(&self, name: &str, epoch: &str) -> Found {
        let state = self.state();
        let (Some(index), Some(shape)) = (state.index_of(name), state.shape) else {
            return Found::NotLive;
        };
        let track = &state.entries[index].track;
        let announced = track.next_epoch.as_deref() == Some(epoch);
        let of_segment =
            track.segments.iter().rev().find(|segment| &*segment.publication.epoch == epoch);
        let init = match of_segment {
            Some(segment) => segment.init.clone(),
            None => track.init.clone().filter(|_| announced),
        };
        let Some(init) = init else {
            return Found::Refused(Refusal::not_found(false, shape.target_duration_s));
        };
        Found::View(Box::new(View {
            about: About {
                content_type: listing::media_type(&state.entries[index]),
                etag: format!("\"{:x}\"", init.digest),
                modified_ms: shape.origin_us.max(0) as u64 / 1000,
                max_age_s: KEEP_TARGET_DURATIONS * shape.target_duration_s,
                expires_ms: None,
                cmsd: format!("ot=i,sf=h,st={}", if track.is_ended { 'v' } else { 'l' }),
            },
            made: init.bytes.clone(),
            slices: Vec::new(),
        }))
    }

    fn find_segment(
        self: &Arc<Self>,
        name: &str,
        epoch: &str,
        msn: u64,
        asked: &Asked<'_>,
    ) -> Found {
        let state = self.state();
        let (Some(index), Some(shape)) = (state.index_of(name), state.shape) else {
            return Found::NotLive;
        };
        let entry = &state.entries[index];
        let track = &entry.track;
        let Some(segment) = track.segment(epoch, msn) else {
            // The MPD promises every number: players ask for the next segment while the last is
            // still open, and a 404 would stay in caches for longer than that segment takes.
            let is_next = track.next_part().is_some_and(|next| {
                let last = next.msn + u64::from(track.open_segment().is_some());
                &*next.epoch == epoch && (next.msn..=last).contains(&msn) && !track.is_ended
            });
            if is_next && !self.is_stalled(&state) {
                let (news, seen) = (entry.growth.clone(), entry.growth.version());
                drop(state);
                return self.hold(news, seen, shape.target_duration_s, asked);
            }
            let is_ahead = msn >= track.open_msn() && !track.is_ended;
            return Found::Refused(Refusal::not_found(is_ahead, shape.target_duration_s));
        };
        if segment.is_gap {
            return Found::Refused(Refusal::not_found(false, shape.target_duration_s));
        }
        let mut about = listing::about(entry, segment, None, &shape);
        if segment.is_complete {
            about.expires_ms = (!track.is_ended).then(|| self.forget_ms(segment, &shape)).flatten();
            let (made, slices) = segment.cut(0, segment.bytes());
            return Found::View(Box::new(View { about, made, slices }));
        }
        // Players of byte ranges must not get what is not whole; those of LL-DASH want every byte.
        let gate = if asked.has_range { Gate::Parts } else { Gate::Bytes };
        Found::Growing(Box::new(Growing {
            about,
            silence_s_max: HOLD_TARGET_DURATIONS * shape.target_duration_s,
            point: self.clone(),
            track: index,
            msn,
            epoch: segment.publication.epoch.clone(),
            gate,
            position: 0,
            wait: None,
        }))
    }

    fn find_part(
        self: &Arc<Self>,
        name: &str,
        (epoch, msn, number): (&str, u64, u64),
        asked: &Asked<'_>,
    ) -> Found {
        let state = self.state();
        let (Some(index), Some(shape)) = (state.index_of(name), state.shape) else {
            return Found::NotLive;
        };
        let entry = &state.entries[index];
        let track = &entry.track;
        let segment = track.segment(epoch, msn);
        let part = segment.and_then(|segment| segment.parts.get(usize::try_from(number).ok()?));
        if let (Some(segment), Some(part)) = (segment, part.filter(|part| !part.is_gap)) {
            let (made, slices) = segment.cut(part.start, part.end);
            let about = listing::about(entry, segment, Some((number, part)), &shape);
            return Found::View(Box::new(View { about, made, slices }));
        }
        let is_hinted = track.next_part().is_some_and(|next| {
            (&*next.epoch, next.msn, next.part) == (epoch, msn, number) && !track.is_ended
        });
        if is_hinted && track.part_target > 0 && !self.is_stalled(&state) {
            let (news, seen) = (entry.news.clone(), entry.news.version());
            drop(state);
            return self.hold(news, seen, shape.target_duration_s, asked);
        }
        let is_ahead = msn >= track.open_msn() && !track.is_ended;
        Found::Refused(Refusal::not_found(is_ahead, shape.target_duration_s))
    }

    /// Playlists that another packager pushed keep their promises; everything else about them is the
    /// object's.
    fn find_pushed(self: &Arc<Self>, rest: &str, asked: &Asked<'_>) -> Option<Found> {
        let seen = self.news.version();
        let mut state = self.state();
        if !state.pushed.has_any() {
            return None;
        }
        if state.pushed.is_hinted(rest) {
            let object = self.store.lookup(asked.name);
            let is_whole = object.is_some_and(|object| object.seal().is_some());
            drop(state);
            let news = self.news.clone();
            return (!is_whole).then(|| self.hold(news, seen, 2, asked));
        }
        // Deleted: its promises with it.
        self.store.lookup(asked.name)?;
        let list = state.pushed.get(rest)?;
        let target_s = list.facts.target_duration_s.max(1);
        let directives = match Directives::of(asked.query) {
            Ok(directives) => directives,
            Err(error) => return Some(Found::Refused(Refusal::of_reload(error, target_s))),
        };
        let control = &list.facts.server_control;
        let is_blocking = directives.is_blocking() && control.can_block && !list.facts.ended;
        let skip = directives.skip.filter(|_| control.can_skip_until_s.is_some());
        if !is_blocking && skip.is_none() {
            return None;
        }
        if is_blocking {
            match list.edge().judge(&directives, |msn| list.parts_of(msn)) {
                Err(error) => return Some(Found::Refused(Refusal::of_reload(error, target_s))),
                Ok(Verdict::Wait) => {
                    drop(state);
                    return Some(self.hold(self.news.clone(), seen, target_s, asked));
                }
                Ok(Verdict::Now) => {}
            }
        }
        let text = match skip {
            Some(skip) => list.delta(skip == reload::Skip::Dateranges),
            None => list.text.clone(),
        };
        let keep_s = if is_blocking { KEEP_TARGET_DURATIONS * target_s } else { target_s / 2 };
        Some(Found::Text { text, max_age_s: keep_s.max(1) })
    }
}
