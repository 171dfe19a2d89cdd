//! A publishing point: the tracks that were pushed to it, and the clock that they share.
//!
//! | state | left when |
//! |---|---|
//! | learning | the lead track has its first whole segment (`learn`): TARGETDURATION, PART-TARGET and hold-back are fixed, what came before is placed |
//! | running | for good; single tracks end and begin again |
//!
//! One lock guards it all, held for microseconds: feeds move the timelines, requests read them. What is
//! made of the state (texts) is made under the lock, once for each version.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::events::TimedEvent;
use super::naming::{Key, key_of};
use super::publication::{locked_epoch, publication_for, zero_of};
use super::pushed::PushedLists;
use super::shape::Shape;
use super::track::{
    CHUNK_US_MAX, Chunk, ChunkHead, InitSegment, Keep, Kind, ListingMark, Micros, Repair, Segment,
    TIME_US_MAX, Track,
};
use super::view::{Gate, Growing, Next, Slice, Text};
use super::{LiveRule, Parts, Refusal};
use crate::store::{Millis, News, Object, Store};
use crate::wire::manifest::{PushedMpd, pushed_tracks};
use crate::wire::mpegts::Layout;

/// Tracks of one publishing point.
pub(super) const TRACKS_MAX: usize = 64;
/// Without news for so long a live playlist is not answered any more (RFC 8216bis §6.2.5.2).
const STALE_TARGET_DURATIONS: u64 = 3;
/// Date ranges kept, the newest.
const EVENTS_MAX: usize = 256;
/// Segments stay so long after they have left the playlist: those who read it last may still ask.
const KEEP_UNLISTED_TARGET_DURATIONS: u64 = 4;
/// Events further away than a day have a wrong time.
const EVENT_US_MAX: Micros = 86_400_000_000;

/// Movies of cameras that may begin at once in a publishing point, and after how long one more may.
const MOVIES_AT_ONCE: u64 = 4;
const MOVIE_MS: Millis = 2000;

/// Each movie is an object and a discontinuity: a camera that is lost all the time, or changes its
/// parameter sets with each picture, begins few.
#[derive(Debug, Default)]
struct MoviePace {
    /// When as many may begin at once as ever.
    rested_ms: Millis,
}

impl MoviePace {
    fn admit(&mut self, now_ms: Millis) -> bool {
        let next_ms = self.rested_ms.max(now_ms) + MOVIE_MS;
        let may = next_ms <= now_ms + MOVIES_AT_ONCE * MOVIE_MS;
        if may {
            self.rested_ms = next_ms;
        }
        may
    }
}

/// What is known of a track's media besides its timeline.
#[derive(Debug, Clone, Default)]
pub(super) struct TrackInfo {
    pub(super) is_ts: bool,
    /// RFC 6381.
    pub(super) codecs: Vec<String>,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) frame_rate: Option<f64>,
    pub(super) channels: u32,
    pub(super) sample_rate: u32,
    pub(super) language: Option<String>,
    /// From the pushed MPD.
    pub(super) roles: Vec<String>,
}

/// A version of each kind of a track's playlist.
#[derive(Default)]
pub(super) struct Texts {
    pub(super) whole: Option<(u64, Arc<Text>)>,
    pub(super) delta: Option<(u64, Arc<Text>)>,
    pub(super) delta_v2: Option<(u64, Arc<Text>)>,
}

pub(super) struct Entry {
    pub(super) track: Track,
    pub(super) info: TrackInfo,
    /// Told when what is listed has changed: for who waits for a version of the playlist, or a part.
    pub(super) news: Arc<News>,
    /// Told of every boundary in the bytes: for who follows the segment in progress. A chunk has three
    /// and a part may have many chunks; who waits for the part sleeps through those.
    pub(super) growth: Arc<News>,
    pub(super) texts: Texts,
    /// Counts changes that its playlist shows. Moves under the lock, unlike the version of the news,
    /// so that a text is never older than what it was asked for.
    pub(super) revision: u64,
    /// `expire` has run for this segment in progress.
    expired_msn: u64,
    /// Of the names that it is pushed under.
    key: String,
    /// Of a transport stream.
    layout: Option<Layout>,
    /// The highest bit rate of a segment so far, in bit/s.
    pub(super) peak_bps: u64,
    /// The arriving chunk was prepared for already.
    is_prepared: bool,
}

/// Init segments as `feed` keeps them.
pub(super) type Fmp4Init = Arc<crate::wire::fmp4::Init>;

#[derive(Default)]
pub(super) struct State {
    pub(super) entries: Vec<Entry>,
    /// By the key of the pushed names.
    sources: HashMap<String, Pending>,
    pub(super) shape: Option<Shape>,
    pub(super) last_news_ms: Millis,
    /// Counts changes that the multivariant playlist and the MPD show.
    pub(super) version: u64,
    pub(super) multivariant: Option<(u64, Arc<Text>)>,
    pub(super) manifest: Option<(u64, Arc<Text>)>,
    pub(super) events: Vec<TimedEvent>,
    /// Those that left the window, with the time.
    pub(super) removed_dateranges: Vec<(Millis, String)>,
    pub(super) pushed: PushedLists,
    pub(super) runs: u64,
    /// The time that the newest names of publications were made of.
    pub(super) stem_ms: Millis,
    /// Counts how often segments were forgotten.
    trims: u64,
    /// Of the segments of each track; the largest number if the window is all that counts.
    track_bytes_max: Option<u64>,
    /// How often a camera's movie may begin anew.
    movies: MoviePace,
    /// Uploads under way.
    feeds: usize,
    /// The newest pushed MPD says that all is over.
    is_static: bool,
    /// Uploads that may still show themselves to be an init segment.
    unknown: usize,
    /// Language and roles by the key of a track's names, from a pushed MPD.
    labels: HashMap<String, (Option<String>, Vec<String>)>,
}

/// An init segment, and its tracks once the first chunk has shown how they are packed.
#[derive(Clone)]
pub(super) struct Pending {
    pub(super) init: Fmp4Init,
    pub(super) bytes: Bytes,
    /// It came in this object.
    pub(super) object: Arc<Object>,
    pub(super) tracks: Option<Vec<(u32, usize)>>,
}

/// Counts of all publishing points together.
#[derive(Debug, Default)]
pub struct Counts {
    pub restarts: AtomicU64,
    pub gaps: AtomicU64,
    pub repetitions: AtomicU64,
    pub long_chunks: AtomicU64,
    pub forced_cuts: AtomicU64,
    pub short_parts: AtomicU64,
    pub refused: AtomicU64,
    pub renders: AtomicU64,
    pub ts_faults: AtomicU64,
    pub takeovers: AtomicU64,
}

impl Counts {
    /// Name, help and value of each, for the metrics page.
    pub fn all(&self) -> [(&'static str, &'static str, u64); 10] {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("live_restarts", "Publications that followed another in a track", of(&self.restarts)),
            ("live_gaps", "Holes in the time of a track, listed as GAP", of(&self.gaps)),
            ("live_repetitions", "Chunks that came again and were left out", of(&self.repetitions)),
            (
                "live_long_chunks",
                "Chunks longer than a part, listed as segments without parts",
                of(&self.long_chunks),
            ),
            ("live_forced_cuts", "Segments that ended without a key frame", of(&self.forced_cuts)),
            ("live_short_parts", "Parts of less than 85 % of the target", of(&self.short_parts)),
            ("live_refused", "Uploads refused because of what they contain", of(&self.refused)),
            ("live_renders", "Versions of media playlists that were written", of(&self.renders)),
            ("live_ts_faults", "Damages in pushed transport streams", of(&self.ts_faults)),
            (
                "live_takeovers",
                "Uploads that ended because another one of the same track began",
                of(&self.takeovers),
            ),
        ]
    }

    fn of(&self, repair: Repair) -> &AtomicU64 {
        match repair {
            Repair::Restart => &self.restarts,
            Repair::Gap => &self.gaps,
            Repair::Repetition => &self.repetitions,
            Repair::LongChunk => &self.long_chunks,
            Repair::ForcedCut => &self.forced_cuts,
            Repair::ShortPart => &self.short_parts,
        }
    }
}

pub(super) struct Point {
    /// With the prefix: `live/cam`.
    pub(super) name: String,
    pub(super) rule: Arc<LiveRule>,
    pub(super) store: Arc<Store>,
    pub(super) counts: Arc<Counts>,
    clock: fn() -> Millis,
    /// Told when tracks appear, when the shape is known, and of pushed playlists.
    pub(super) news: Arc<News>,
    state: Mutex<State>,
}

/// Why an upload's bytes stop coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// A segment is complete; the next comes in another object.
    Segment,
    /// The encoder said that this is the end.
    Stream,
    /// The connection was lost.
    Torn,
}

/// What changed, to be told when the lock is released.
#[derive(Default)]
struct Changes {
    news: Vec<Arc<News>>,
    gone: Vec<Arc<Object>>,
}

impl Changes {
    /// The track's playlist is another from now on.
    fn of(&mut self, entry: &mut Entry) {
        entry.revision += 1;
        self.tell(&entry.news);
        self.tell(&entry.growth);
    }

    /// There are more bytes of the track, and maybe more is listed than before.
    fn grown(&mut self, entry: &mut Entry, before: &ListingMark) {
        if entry.track.listing_mark() == *before {
            self.tell(&entry.growth);
        } else {
            self.of(entry);
        }
    }

    /// Once, however often it changed.
    fn tell(&mut self, news: &Arc<News>) {
        if !self.news.iter().any(|other| Arc::ptr_eq(other, news)) {
            self.news.push(news.clone());
        }
    }
}

impl Point {
    pub(super) fn new(
        name: &str,
        rule: Arc<LiveRule>,
        store: Arc<Store>,
        counts: Arc<Counts>,
        clock: fn() -> Millis,
    ) -> Arc<Point> {
        Arc::new(Point {
            name: name.to_owned(),
            rule,
            store,
            counts,
            clock,
            news: Arc::default(),
            state: Mutex::default(),
        })
    }

    pub(super) fn now_ms(&self) -> Millis {
        (self.clock)()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn growth_of(&self, track: usize) -> Arc<News> {
        let state = self.state.lock();
        state.entries.get(track).map_or_else(|| self.news.clone(), |entry| entry.growth.clone())
    }

    /// The init segment that came with this key, or without any.
    pub(super) fn source(&self, key: &Key) -> Option<Pending> {
        let state = self.state.lock();
        state.sources.get(&key.track).or_else(|| state.sources.get("")).cloned()
    }

    pub(super) fn add_source(
        &self,
        key: &Key,
        init: Fmp4Init,
        bytes: Bytes,
        object: &Arc<Object>,
    ) -> bool {
        let mut state = self.state.lock();
        if state.sources.len() >= TRACKS_MAX {
            state.sources.retain(|name, source| {
                *name == key.track || self.is_stored(&source.object) || source.tracks.is_some()
            });
        }
        if state.sources.len() >= TRACKS_MAX && !state.sources.contains_key(&key.track) {
            return false;
        }
        let known = state.sources.get(&key.track);
        let same = known.filter(|old| old.bytes == bytes).and_then(|old| old.tracks.clone());
        for (_, index) in same.iter().flatten() {
            if let Some(entry) = state.entries.get_mut(*index) {
                entry.track.has_init_again = true;
            }
        }
        let object = object.clone();
        state.sources.insert(key.track.clone(), Pending { init, bytes, object, tracks: same });
        true
    }

    pub(super) fn bind_source(&self, key: &Key, tracks: Vec<(u32, usize)>) {
        let mut state = self.state.lock();
        let name = if state.sources.contains_key(&key.track) { &*key.track } else { "" };
        if let Some(source) = state.sources.get_mut(name) {
            source.tracks = Some(tracks);
        }
    }

    /// The track of this name, made if need be. `None` if there are too many. A track of the same name
    /// that was pushed under other names is another: this one gets a number.
    pub(super) fn track(
        &self,
        name: &str,
        key: &Key,
        kind: Kind,
        timescale: u64,
        info: TrackInfo,
        init: Option<Arc<InitSegment>>,
    ) -> Option<usize> {
        let mut state = self.state.lock();
        let mut changes = Changes::default();
        state.version += 1;
        let name = state.free_name(name, &key.track);
        let found = state.entries.iter().position(|entry| entry.track.name == name);
        let index = found.unwrap_or(state.entries.len());
        if index >= TRACKS_MAX {
            return None;
        }
        if found.is_none() {
            tracing::info!(point = %self.name, track = name, ?kind, key = key.track, "a track begins");
            state.entries.push(Entry {
                key: key.track.clone(),
                layout: None,
                track: Track::new(name, kind, timescale),
                info: TrackInfo::default(),
                news: Arc::default(),
                growth: Arc::default(),
                texts: Texts::default(),
                peak_bps: 0,
                is_prepared: false,
                revision: 0,
                expired_msn: 0,
            });
        }
        let (labelled, roles) = state.labels.get(&key.track).cloned().unwrap_or_default();
        let entry = &mut state.entries[index];
        let language = info.language.clone().or(labelled);
        entry.info = TrackInfo { roles, language, ..info };
        let track = &mut entry.track;
        if track.timescale != timescale.max(1) || track.kind != kind {
            track.change_clock(kind, timescale.max(1), self.now_ms());
        }
        if let Some(init) = init
            && track.set_init(init.clone())
        {
            let is_locked = track.is_locked();
            let epoch = if is_locked {
                locked_epoch(init.digest).into()
            } else {
                state.announced_stem(index, self.now_ms())
            };
            state.entries[index].track.next_epoch = Some(epoch);
            changes.of(&mut state.entries[index]);
        }
        drop(state);
        self.tell(changes, None);
        Some(index)
    }

    /// An upload with this init segment is about to begin a publication of the track: what another
    /// upload sends from now on does not belong to it.
    pub(super) fn takes_over(&self, name: &str, key: &Key, digest: u64, object: &Arc<Object>) {
        let mut state = self.state.lock();
        let name = state.free_name(name, &key.track);
        let Some(index) = state.index_of(&name) else { return };
        let track = &mut state.entries[index].track;
        if track.init.as_ref().is_some_and(|init| init.digest != digest) {
            track.supersede(object);
        }
    }

    /// The streams of a transport stream. If they are others than before, decoders have to begin
    /// anew: what follows is a new publication.
    pub(super) fn set_layout(&self, index: usize, kind: Kind, layout: Layout, core: Option<usize>) {
        let mut state = self.state.lock();
        let now_ms = self.now_ms();
        let mut changes = Changes::default();
        let Some(entry) = state.entries.get_mut(index) else { return };
        if let Some(old) = entry.layout.replace(layout.clone()).filter(|old| *old != layout) {
            let (point, track) = (&self.name, &entry.track.name);
            tracing::info!(%point, %track, ?old, new = ?layout, "the PMT lists other streams");
            let timescale = entry.track.timescale;
            entry.track.arriving = None;
            entry.is_prepared = false;
            entry.track.change_clock(kind, timescale, now_ms);
            changes.of(entry);
            state.version += 1;
        }
        drop(state);
        self.tell(changes, core);
    }

    /// Media time at which the next chunk of a track is expected.
    pub(super) fn expected_time(&self, index: usize) -> Option<u64> {
        self.state.lock().entries.get(index)?.track.expected_time()
    }

    /// What the media itself tells later: codecs of a transport stream, the frame rate.
    pub(super) fn update_info(&self, index: usize, update: impl FnOnce(&mut TrackInfo)) {
        let mut state = self.state.lock();
        state.version += 1;
        if let Some(entry) = state.entries.get_mut(index) {
            update(&mut entry.info);
        }
    }

    /// A chunk begins to arrive.
    pub(super) fn starts(
        &self,
        index: usize,
        head: ChunkHead,
        core: Option<usize>,
    ) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        let now_ms = self.now_ms();
        let shape = state.shape;
        let Some(entry) = state.entries.get_mut(index) else { return Ok(()) };
        if entry.track.is_superseded(&head.object) {
            return Err(Refusal::new(
                409,
                format!(
                    "another encoder pushes the track {} of {} now: stop this one, or give each a \
                     name of its own",
                    entry.track.name, self.name
                ),
                None,
            ));
        }
        let limit_us = shape.map_or(CHUNK_US_MAX, |shape| {
            shape.target_duration_s as Micros * 1_000_000 + super::track::ROUNDING_US
        });
        if entry.track.to_us(head.duration) > limit_us {
            return Err(Refusal {
                status: 400,
                text: format!(
                    "a fragment of {:.3} s is longer than the target duration of this stream, {} s: \
                     send shorter fragments",
                    entry.track.to_us(head.duration) as f64 / 1e6,
                    limit_us / 1_000_000
                ),
                max_age_s: None,
            });
        }
        let is_busy = |(other, _): &(ChunkHead, Option<u64>)| {
            !Arc::ptr_eq(&other.object, &head.object) && other.object.is_open()
        };
        if entry.track.arriving.as_ref().is_some_and(is_busy) {
            // The end of the object before is on its way on another connection: this chunk is
            // placed when it is complete.
            return Ok(());
        }
        if entry.track.to_us(head.time) >= TIME_US_MAX {
            let text = "a fragment lies more than 36,000 years behind media time 0: begin at a \
                        smaller time"
                .to_owned();
            return Err(Refusal { status: 400, text, max_age_s: None });
        }
        entry.is_prepared = false;
        entry.track.arriving = None;
        if entry.track.is_repetition(&head) {
            return Ok(());
        }
        entry.track.arriving = Some((head.clone(), None));
        let mut changes = Changes::default();
        if let Some(shape) = shape.filter(|_| state.entries[index].is_shaped(&self.rule)) {
            self.prepare(&mut state, index, &head, &shape, now_ms, &mut changes);
            state.entries[index].is_prepared = true;
        }
        drop(state);
        self.tell(changes, core);
        Ok(())
    }

    /// Where the arriving chunk will end.
    pub(super) fn extends_to(&self, index: usize, head: &ChunkHead, end: u64, core: Option<usize>) {
        let mut state = self.state.lock();
        let Some(entry) = state.entries.get_mut(index) else { return };
        match &mut entry.track.arriving {
            Some((own, extent)) if own.is(head) => *extent = Some(end),
            _ => return,
        }
        let growth = entry.growth.clone();
        drop(state);
        growth.tell(&self.store, core);
    }

    /// The arriving chunk is complete.
    pub(super) fn ends(&self, index: usize, chunk: Chunk, core: Option<usize>) {
        let mut state = self.state.lock();
        let now_ms = self.now_ms();
        let mut changes = Changes::default();
        let shape = state.shape;
        let Some(entry) = state.entries.get_mut(index) else { return };
        if entry.track.is_superseded(&chunk.head.object) {
            return;
        }
        let arriving = entry.track.arriving.take();
        let is_own = arriving.is_some_and(|(own, _)| own.is(&chunk.head));
        let is_prepared = std::mem::take(&mut entry.is_prepared) && is_own;
        match shape {
            Some(shape) if entry.is_shaped(&self.rule) => {
                if !is_prepared {
                    self.prepare(&mut state, index, &chunk.head, &shape, now_ms, &mut changes);
                }
                self.add(&mut state, index, &chunk, &shape, now_ms, &mut changes);
            }
            Some(shape) => {
                entry.track.push_pending(chunk);
                self.shape_late_track(&mut state, index, &shape, now_ms, &mut changes);
            }
            None => {
                entry.track.push_pending(chunk);
                self.learn(&mut state, None, now_ms, &mut changes);
            }
        }
        drop(state);
        self.tell(changes, core);
    }

    /// No more bytes of this object come; of none, if all of the track is over. What another upload
    /// of the track has begun since is left alone.
    pub(super) fn over(
        &self,
        index: usize,
        over: Over,
        object: Option<&Arc<Object>>,
        core: Option<usize>,
    ) {
        let mut state = self.state.lock();
        let now_ms = self.now_ms();
        let mut changes = Changes::default();
        if over == Over::Stream && state.shape.is_none() {
            self.learn(&mut state, Some(index), now_ms, &mut changes);
        }
        state.version += 1;
        state.last_news_ms = now_ms;
        let shape = state.shape;
        let is_static = state.is_static;
        if let Some(entry) = state.entries.get_mut(index) {
            let is_current = match (object, &entry.track.arriving) {
                (None, _) => true,
                (Some(object), Some((head, _))) => Arc::ptr_eq(&head.object, object),
                (Some(object), None) => entry.track.is_newest(object),
            };
            if !is_current {
                return;
            }
            entry.track.arriving = None;
            entry.is_prepared = false;
            if let (Over::Torn, Some(torn)) = (over, object) {
                entry.track.drop_stub(torn);
            }
            match over {
                Over::Segment => entry.track.end_object(now_ms),
                _ => entry.track.complete_segment(now_ms),
            }
            if let Some(shape) = &shape {
                entry.note_rate(shape);
            }
            let has_media = entry.track.publication.is_some() || !entry.track.pending.is_empty();
            entry.track.is_ended |= (over == Over::Stream || is_static) && has_media;
            changes.of(entry);
            changes.tell(&self.news);
        }
        drop(state);
        self.tell(changes, core);
    }

    pub(super) fn is_visual(&self, index: usize) -> bool {
        self.state.lock().entries.get(index).is_some_and(|entry| entry.track.kind.is_visual())
    }

    pub(super) fn note_ts_fault(&self) {
        self.counts.ts_faults.fetch_add(1, Ordering::Relaxed);
    }

    /// An upload's bytes begin or end to come: who waits for a hinted object looks again.
    pub(super) fn object_begins(&self, core: Option<usize>) {
        if self.state.lock().pushed.has_any() {
            self.news.tell(&self.store, core);
        }
    }

    /// Count an upload among those whose content is not known, or no longer.
    pub(super) fn count_unknown(&self, counts: bool, begins: bool) {
        let mut state = self.state.lock();
        match (counts, begins) {
            (true, true) => state.unknown += 1,
            (true, false) => state.unknown = state.unknown.saturating_sub(1),
            (false, _) => {}
        }
    }

    /// Another upload may bring the init segment yet, or another packager lists what comes.
    pub(super) fn may_learn_init(&self) -> bool {
        let state = self.state.lock();
        state.unknown > 0 || state.pushed.has_any()
    }

    /// A playlist or an MPD of another packager was sealed.
    pub(super) fn take_list(&self, rest: &str, text: &[u8], core: Option<usize>) {
        let Ok(text) = std::str::from_utf8(text) else { return };
        let now_ms = self.now_ms();
        let mut ended = Vec::new();
        {
            let mut state = self.state.lock();
            if rest.ends_with(".m3u8") {
                if let Err(error) = state.pushed.take(&self.name, rest, text, now_ms) {
                    tracing::debug!(point = %self.name, rest, %error, "a pushed playlist is not read");
                }
            } else {
                match pushed_tracks(text) {
                    Ok(mpd) => ended = state.take_mpd(rest, &mpd),
                    Err(error) => {
                        tracing::debug!(point = %self.name, rest, %error, "a pushed MPD is not read");
                    }
                }
            }
        }
        for index in ended {
            self.over(index, Over::Stream, None, core);
        }
        self.news.tell(&self.store, core);
    }

    /// The shape is known, something was sent, and nothing has come for so long that what is listed is
    /// stale: players and caches do better to look elsewhere.
    pub(super) fn is_stalled(&self, state: &State) -> bool {
        let Some(shape) = &state.shape else { return false };
        let is_live = state.entries.iter().any(|entry| !entry.track.is_ended);
        let silent_ms = self.now_ms().saturating_sub(state.last_news_ms);
        is_live && silent_ms > STALE_TARGET_DURATIONS * shape.target_duration_s * 1000
    }

    pub(super) fn add_event(&self, index: usize, time_us: Micros, mut event: TimedEvent) {
        let mut state = self.state.lock();
        let Some(entry) = state.entries.get(index) else { return };
        let track = &entry.track;
        let first = track.pending.first().map(|chunk| &chunk.head);
        let first = first.or(track.arriving.as_ref().map(|(head, _)| head));
        let zero_us = match (&track.publication, first) {
            (Some(publication), _) => publication.zero_us,
            (None, Some(first)) => zero_of(track, first),
            (None, None) => return,
        };
        let (now_ms, start_us) = (self.now_ms(), zero_us.saturating_add(time_us));
        if start_us.saturating_sub(now_ms as Micros * 1000).abs() > EVENT_US_MAX {
            return;
        }
        event.range.start_ms = start_us.div_euclid(1000);
        event.range.changed_ms = now_ms as i64;
        if state.events.iter().any(|known| known.range.id == event.range.id) {
            return;
        }
        if state.events.len() >= EVENTS_MAX {
            let oldest = state.events.remove(0);
            state.removed_dateranges.push((now_ms, oldest.range.id));
            let over = state.removed_dateranges.len().saturating_sub(EVENTS_MAX);
            state.removed_dateranges.drain(..over);
        }
        state.events.push(event);
        state.version += 1;
        state.entries.iter_mut().for_each(|entry| entry.revision += 1);
    }

    /// The first byte of `object` that somebody may still ask for, if segments were forgotten since
    /// `seen`: to look for it takes time.
    pub(super) fn first_byte_of(&self, object: &Arc<Object>, seen: &mut u64) -> Option<u64> {
        let state = self.state.lock();
        state.shape?;
        if std::mem::replace(seen, state.trims) == state.trims {
            return None;
        }
        let first = |entry: &Entry| {
            if !entry.track.pending.is_empty() {
                return Some(0);
            }
            entry.track.first_byte_of(object)
        };
        state.entries.iter().filter_map(first).min()
    }

    /// The version of the track that was looked at, and what comes next of its segment in progress.
    pub(super) fn next_of(&self, growing: &mut Growing) -> (u64, Option<Next>) {
        let state = self.state.lock();
        let Some(entry) = state.entries.get(growing.track) else { return (0, Some(Next::Torn)) };
        let seen = entry.growth.version();
        let Some(segment) = entry.track.segment(&growing.epoch, growing.msn) else {
            return (seen, Some(Next::Torn));
        };
        (seen, next_bytes(&entry.track, segment, growing))
    }

    /// Bytes of a segment in progress, if they are all there.
    pub(super) fn bytes_of(
        &self,
        growing: &Growing,
        start: u64,
        end: u64,
    ) -> Option<(Bytes, Vec<Slice>)> {
        let state = self.state.lock();
        let track = &state.entries.get(growing.track)?.track;
        let segment = track.segment(&growing.epoch, growing.msn)?;
        (start < end && end <= bytes_there(segment, growing.gate)).then(|| segment.cut(start, end))
    }

    /// A camera's movie begins, of which tracks keep so many bytes; false if too many have begun lately.
    pub(super) fn begin_movie(&self, track_bytes_max: u64) -> bool {
        let mut state = self.state.lock();
        state.track_bytes_max = Some(track_bytes_max);
        state.movies.admit(self.now_ms())
    }

    /// An upload begins; it is counted until its feed is dropped.
    pub(super) fn begin_feed(&self) {
        self.state.lock().feeds += 1;
    }

    pub(super) fn end_feed(&self) {
        let mut state = self.state.lock();
        state.feeds = state.feeds.saturating_sub(1);
    }

    /// Nobody sends to it, and nothing of what was sent is stored any more. What is listed may be
    /// asked for as long as the window lasts.
    pub(super) fn is_forgotten(&self) -> bool {
        let state = self.state.lock();
        let silent_ms = self.now_ms().saturating_sub(state.last_news_ms);
        let was_listed = state.shape.is_some() && silent_ms <= self.rule.window_ms;
        if state.feeds > 0 || was_listed {
            return false;
        }
        let path = |rest: &str| format!("{}/{rest}", self.name);
        let mut objects = state.sources.values().map(|source| &source.object);
        // The newest first: of what is live one look is enough.
        let mut media = state.entries.iter().flat_map(|entry| entry.track.objects());
        let mut lists = state.pushed.names();
        !media.any(|object| self.is_stored(object))
            && !objects.any(|object| self.is_stored(object))
            && !lists.any(|rest| self.store.lookup(&path(rest)).is_some())
    }

    fn is_stored(&self, object: &Arc<Object>) -> bool {
        let found = self.store.lookup(&object.name);
        object.is_open() || found.is_some_and(|found| Arc::ptr_eq(&found, object))
    }

    fn tell(&self, changes: Changes, core: Option<usize>) {
        for news in changes.news {
            news.tell(&self.store, core);
        }
        for object in changes.gone {
            // Somebody else may have removed or replaced it already.
            let _ = self.store.remove_version(&object);
        }
    }

    /// Decide whether a chunk continues its publication, and close what ends before it.
    fn prepare(
        &self,
        state: &mut State,
        index: usize,
        head: &ChunkHead,
        shape: &Shape,
        now_ms: Millis,
        changes: &mut Changes,
    ) {
        let before = state.entries[index].track.listing_mark();
        if state.entries[index].track.is_restart(head) {
            state.entries[index].track.supersede(&head.object);
            let publication = publication_for(state, index, head, now_ms);
            state.entries[index].track.begin_publication(publication, now_ms);
            state.version += 1;
        }
        let entry = &mut state.entries[index];
        if entry.track.is_repetition(head) {
            entry.track.repairs.push(Repair::Repetition);
            return;
        }
        let complete_before = entry.complete_count();
        entry.track.prepare(head, shape, now_ms);
        if entry.complete_count() != complete_before {
            entry.note_rate(shape);
            entry.track.judge_rhythm(shape);
            state.version += 1;
        }
        changes.grown(entry, &before);
        state.last_news_ms = now_ms;
    }

    fn add(
        &self,
        state: &mut State,
        index: usize,
        chunk: &Chunk,
        shape: &Shape,
        now_ms: Millis,
        changes: &mut Changes,
    ) {
        let (keep, is_pushed) = (self.keep(state, shape), state.pushed.has_any());
        let entry = &mut state.entries[index];
        let before = entry.track.listing_mark();
        if !entry.track.is_repetition(&chunk.head) {
            let complete_before = entry.complete_count();
            entry.track.add(chunk, shape, now_ms);
            if entry.complete_count() != complete_before {
                entry.note_rate(shape);
                entry.track.judge_rhythm(shape);
                state.version += 1;
            }
        }
        let mut gone = Vec::new();
        let open_msn = entry.complete_count();
        let is_lost =
            entry.track.segments.front().is_some_and(|first| first.is_complete && first.is_lost());
        if std::mem::replace(&mut entry.expired_msn, open_msn) != open_msn || is_lost {
            let first = entry.track.segments.front().map(|first| first.msn);
            gone = entry.track.expire(&keep, now_ms);
            let is_trim = entry.track.segments.front().map(|first| first.msn) != first;
            state.trims += u64::from(is_trim);
        }
        for repair in entry.track.repairs.drain(..) {
            self.counts.of(repair).fetch_add(1, Ordering::Relaxed);
            let (point, track) = (&self.name, &entry.track.name);
            match repair {
                Repair::Restart => tracing::info!(%point, %track, "the encoder began again"),
                _ => tracing::debug!(%point, %track, ?repair, "repaired"),
            }
        }
        changes.grown(entry, &before);
        state.last_news_ms = now_ms;
        // Who pushes playlists deletes what they no longer list.
        if !is_pushed {
            gone.retain(|object| {
                let needs = |entry: &Entry| entry.track.first_byte_of(object).is_some();
                object.seal().is_some() && !state.entries.iter().any(needs)
            });
            changes.gone.append(&mut gone);
        }
    }

    fn keep(&self, state: &State, shape: &Shape) -> Keep {
        let (window_us, keep_ms) = (self.window_us(shape), keep_unlisted_ms(shape));
        let segments_max = Keep::segments_max(window_us, keep_ms, shape.segment_us);
        let bytes_max = state.track_bytes_max.unwrap_or(u64::MAX);
        Keep { window_us, keep_ms, segments_max, bytes_max }
    }

    /// When a segment that is complete will be forgotten, if ever.
    pub(super) fn forget_ms(&self, segment: &Segment, shape: &Shape) -> Option<Millis> {
        let is_window = matches!(self.rule.kind, super::ListKind::Window);
        let until_ms = || segment.shown_until_ms(self.window_us(shape)) + keep_unlisted_ms(shape);
        is_window.then(until_ms)
    }

    /// Never less than three target durations (RFC 8216bis §6.2.2).
    fn window_us(&self, shape: &Shape) -> Micros {
        let least_us = 3 * shape.target_duration_s as Micros * 1_000_000;
        match self.rule.kind {
            super::ListKind::Window => (self.rule.window_ms as Micros * 1000).max(least_us),
            super::ListKind::Event => Micros::MAX,
        }
    }

    /// Fix the shape as soon as the lead track shows its rhythm, or has ended.
    fn learn(
        &self,
        state: &mut State,
        ended: Option<usize>,
        now_ms: Millis,
        changes: &mut Changes,
    ) {
        let Some(shape) = Shape::of(&state.entries, &self.rule, ended.is_some()) else { return };
        state.shape = Some(shape);
        for index in 0..state.entries.len() {
            if state.entries[index].track.pending.is_empty() {
                continue;
            }
            let target = shape.part_target_of(&state.entries[index].track);
            self.place_pending(state, index, target, &shape, now_ms, changes);
        }
        changes.tell(&self.news);
    }

    /// A track that came after the shape was fixed takes the PART-TARGET of the others, if its chunks
    /// allow it.
    fn shape_late_track(
        &self,
        state: &mut State,
        index: usize,
        shape: &Shape,
        now_ms: Millis,
        changes: &mut Changes,
    ) {
        let target = shape.part_target_of(&state.entries[index].track);
        self.place_pending(state, index, target, shape, now_ms, changes);
        state.version += 1;
        // The other playlists report it from now on.
        state.entries.iter_mut().for_each(|entry| changes.of(entry));
        changes.tell(&self.news);
    }

    fn place_pending(
        &self,
        state: &mut State,
        index: usize,
        part_target: u64,
        shape: &Shape,
        now_ms: Millis,
        changes: &mut Changes,
    ) {
        let track = &mut state.entries[index].track;
        track.part_target = if self.rule.parts == Parts::None { 0 } else { part_target.max(1) };
        let was_ended = track.is_ended;
        for chunk in std::mem::take(&mut track.pending) {
            self.prepare(state, index, &chunk.head, shape, now_ms, changes);
            self.add(state, index, &chunk, shape, now_ms, changes);
        }
        let entry = &mut state.entries[index];
        entry.is_prepared = false;
        if was_ended {
            entry.track.complete_segment(now_ms);
            entry.track.is_ended = true;
        }
    }
}

impl State {
    /// Labels of the tracks; the tracks that have ended, if the MPD says so.
    fn take_mpd(&mut self, rest: &str, mpd: &PushedMpd) -> Vec<usize> {
        self.pushed.note_manifest(rest);
        self.is_static = mpd.is_static;
        for track in mpd.tracks.iter().take(TRACKS_MAX) {
            let Some(name) = track.initialization.as_ref().or(track.media.as_ref()) else {
                continue;
            };
            let key = key_of(&name.replace("$Number$", "1").replace("$Time$", "1"));
            let labels = (track.language.clone(), track.roles.clone());
            let entries = self.entries.iter_mut().filter(|entry| entry.key == key.track);
            for entry in entries {
                if labels.0.is_some() {
                    entry.info.language.clone_from(&labels.0);
                }
                entry.info.roles.clone_from(&labels.1);
            }
            if self.labels.len() < TRACKS_MAX || self.labels.contains_key(&key.track) {
                self.labels.insert(key.track, labels);
            }
        }
        self.version += 1;
        if mpd.is_static { (0..self.entries.len()).collect() } else { Vec::new() }
    }

    pub(super) fn index_of(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.track.name == name)
    }

    fn free_name(&self, name: &str, key: &str) -> String {
        let is_free =
            |name: &str| self.index_of(name).is_none_or(|index| self.entries[index].key == key);
        let numbered = (2..=TRACKS_MAX).map(|number| format!("{name}-{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        names.find(|name| is_free(name)).unwrap_or_else(|| name.to_owned())
    }
}

impl Entry {
    /// Its chunks are placed as they come.
    fn is_shaped(&self, rule: &LiveRule) -> bool {
        self.track.part_target > 0
            || (rule.parts == Parts::None && self.track.publication.is_some())
    }

    fn complete_count(&self) -> u64 {
        self.track.open_msn()
    }

    /// A segment became complete: the bit rates of all runs of segments that end with it count, if
    /// they are as long as half a target duration to one and a half (RFC 8216bis §4.4.6.2). Of the
    /// last two, for one may be completed by what begins the next.
    fn note_rate(&mut self, shape: &Shape) {
        let target_us = shape.target_duration_s as Micros * 1_000_000;
        let complete = || self.track.segments.iter().rev().filter(|segment| segment.is_complete);
        let mut peak_bps = self.peak_bps;
        for newest in 0..2 {
            let (mut us, mut bytes) = (0, 0);
            for segment in complete().skip(newest).take_while(|segment| !segment.is_gap) {
                us += segment.duration_us();
                bytes += segment.bytes();
                if us > target_us * 3 / 2 {
                    break;
                }
                // A stump says more than nothing.
                if us >= target_us / 2 || peak_bps == 0 {
                    let bps = u128::from(bytes) * 8_000_000 / us.max(1) as u128;
                    peak_bps = peak_bps.max(u64::try_from(bps).unwrap_or(u64::MAX));
                }
            }
        }
        self.peak_bps = peak_bps;
    }
}

fn keep_unlisted_ms(shape: &Shape) -> Millis {
    KEEP_UNLISTED_TARGET_DURATIONS * shape.target_duration_s * 1000
}

fn bytes_there(segment: &Segment, gate: Gate) -> u64 {
    match gate {
        Gate::Bytes => segment.bytes(),
        Gate::Parts if segment.is_complete => segment.bytes(),
        Gate::Parts => segment.parts.last().map_or(0, |part| part.end),
    }
}

/// What a reader of the segment in progress can have now.
fn next_bytes(track: &Track, segment: &Segment, growing: &mut Growing) -> Option<Next> {
    let there = bytes_there(segment, growing.gate);
    if growing.position < there {
        let (made, slices) = segment.cut(growing.position, there);
        if !made.is_empty() {
            growing.position += made.len() as u64;
            return Some(Next::Made(made));
        }
        let first: Slice = slices.into_iter().next()?;
        growing.position += first.bytes();
        return Some(Next::Slice(first));
    }
    if segment.is_complete {
        // Bytes of a chunk that never became complete may have been sent.
        return Some(if growing.position == there { Next::End } else { Next::Torn });
    }
    let (head, end) = track.arriving.as_ref()?;
    let is_of_this = track.open_msn() == segment.msn && growing.position == there;
    if growing.gate != Gate::Bytes || !is_of_this {
        return None;
    }
    let slice = Slice { object: head.object.clone(), start: head.start, end: (*end)? };
    growing.position += slice.bytes();
    Some(Next::Arriving(slice))
}
