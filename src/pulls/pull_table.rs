//! Pulled streams: what each of them is at now, and who reads it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::notifier::{EVENTS_WAITING_MAX, Event};
use super::pull_reports::Rates;
use super::{ApiKind, Options, Place, PullOptions};
use crate::store::{Millis, News, NewsWait, Object, Store};
use crate::wire::http1::Target;
use crate::wire::mpegts::PACKET_BYTES;
use crate::wire::path_table::PathTable;

/// Who reads it as LL-HLS or LL-DASH reads until so long after each request: players of plain HLS ask
/// once a target duration, of 6 s as Apple wants it, and one answer may be late or lost.
const LISTING_LEASE_MS: Millis = 15_000;
/// So long after it has become live its first playlist may still be missing: as the packager waits.
const LISTING_START_MS: Millis = 10_000;
/// Places to begin that are remembered for `burst_s`.
pub const STARTS_MAX: usize = 4096;

/// All pulled streams of the origin.
pub struct Pulls {
    pub options: Options,
    pub(super) store: Arc<Store>,
    streams: Vec<Arc<Pull>>,
    /// Places in `streams`.
    paths: PathTable<usize>,
    /// Places in `options.apis`.
    apis: PathTable<usize>,
    viewers: AtomicUsize,
    pub(super) rates: Mutex<Rates>,
    /// Of readers, to whom it may concern.
    events: mpsc::Sender<Event>,
    /// Until somebody takes it.
    pub(super) told_events: Mutex<Option<mpsc::Receiver<Event>>>,
}

/// One pulled stream.
pub struct Pull {
    pub options: PullOptions,
    pub figures: PullFigures,
    news: Arc<News>,
    state: Mutex<State>,
    is_off: AtomicBool,
    /// Requests for its playlists wait for what comes next.
    is_awaited: AtomicBool,
    /// Tells the stream's task that readers came or went, or that it is switched.
    pub(super) told: Notify,
    clock: fn() -> Millis,
}

/// What says to readers of the object before that this one does not go on from it.
#[derive(Debug)]
pub struct Gap {
    /// For those who see no place to begin.
    plain: Bytes,
    /// For the others, once that place is known.
    exact: OnceLock<Bytes>,
}

impl Gap {
    pub(super) fn new(plain: Bytes) -> Arc<Gap> {
        Arc::new(Gap { plain, exact: OnceLock::new() })
    }

    /// Where readers go on is known, or will not be.
    pub(super) fn settle(&self, exact: Option<Bytes>) {
        // The first word is the last one.
        let _ = self.exact.set(exact.unwrap_or_else(|| self.plain.clone()));
    }

    pub fn is_settled(&self) -> bool {
        self.exact.get().is_some()
    }

    pub fn packets(&self) -> &Bytes {
        self.exact.get().unwrap_or(&self.plain)
    }
}

/// What a stream has counted.
#[derive(Debug, Default)]
pub struct PullFigures {
    pub packets_received: AtomicU64,
    /// The same, of each upstream.
    received_of: Vec<AtomicU64>,
    pub packets_sent: AtomicU64,
    pub packets_dropped: AtomicU64,
    /// Times that an upstream was lost while it was live.
    pub gaps: AtomicU64,
    /// Of readers that have gone.
    pub reading_ms: AtomicU64,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    /// Number of the next object.
    epoch: u64,
    /// When the last object ended.
    lost_ms: Option<Millis>,
    /// The upstream whose connection is open.
    connected: Option<usize>,
    readers: usize,
    /// Until when requests wait for it.
    asked_until_ms: Millis,
    /// How long it goes on without readers: for a while after the last one, or after the last request for
    /// what is listed of it.
    wanted_until_ms: Millis,
}

struct Live {
    object: Arc<Object>,
    gap: Arc<Gap>,
    since_ms: Millis,
    /// When decoders may begin where, oldest first.
    starts: VecDeque<(Millis, u64)>,
}

impl PullFigures {
    pub(super) fn note_received(&self, upstream: usize, bytes: u64) {
        let packets = bytes / PACKET_BYTES as u64;
        self.packets_received.fetch_add(packets, Ordering::Relaxed);
        self.received_of[upstream].fetch_add(packets, Ordering::Relaxed);
    }
}

/// What a reader finds.
pub enum Join {
    Reading(Reading),
    /// Nothing yet: ask again when there is news, for so many milliseconds from now on.
    Starting(NewsWait, Millis),
    /// Nobody sends, or it is switched off.
    Offline,
    /// `viewers.max` is reached.
    Full,
}

/// Where a reader begins in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    At(u64),
    /// At the first place behind where a decoder may begin.
    Behind(u64),
}

/// A reader, counted while it lives.
pub struct Reading {
    pulls: Arc<Pulls>,
    pub pull: Arc<Pull>,
    pub object: Arc<Object>,
    pub start: Start,
    /// To be said before the packets of this object.
    pub gap: Option<Arc<Gap>>,
    epoch: u64,
    since_ms: Millis,
}

impl Pulls {
    pub fn new(options: Options, store: Arc<Store>) -> Arc<Pulls> {
        let pull = |own: &PullOptions| {
            Arc::new(Pull {
                options: own.clone(),
                figures: PullFigures {
                    received_of: own.upstreams.iter().map(|_| AtomicU64::new(0)).collect(),
                    ..PullFigures::default()
                },
                news: Arc::default(),
                state: Mutex::default(),
                is_off: AtomicBool::new(false),
                is_awaited: AtomicBool::new(false),
                told: Notify::new(),
                clock: options.clock,
            })
        };
        let streams = options.pulls.iter().map(pull).collect();
        let mut paths = PathTable::default();
        (0..).zip(&options.pulls).for_each(|(index, own)| paths.insert(&own.name, index));
        let mut apis = PathTable::default();
        (0..).zip(&options.apis).for_each(|(index, api)| apis.insert(&api.name, index));
        let (events, told_events) = mpsc::channel(EVENTS_WAITING_MAX);
        Arc::new(Pulls {
            options,
            store,
            streams,
            paths,
            apis,
            viewers: AtomicUsize::new(0),
            rates: Mutex::default(),
            events,
            told_events: Mutex::new(Some(told_events)),
        })
    }

    pub fn all(&self) -> &[Arc<Pull>] {
        &self.streams
    }

    /// Streams that are pushed: their paths, and where to.
    pub fn listening(&self) -> impl Iterator<Item = (String, SocketAddr)> {
        self.streams.iter().filter_map(|pull| match &pull.options.upstreams.first()?.place {
            Place::Listener(listener) => Some((pull.path(), listener.local_addr().ok()?)),
            Place::Url(_) => None,
        })
    }

    /// The API at this path, and the stream that it is of.
    pub fn find_api(&self, target: &Target<'_>) -> Option<(ApiKind, Option<&Arc<Pull>>)> {
        let (index, _) = self.apis.find(&target.name, target.is_folder)?;
        let api = &self.options.apis[*index];
        Some((api.kind, self.streams.iter().find(|pull| pull.options.name == api.pull)))
    }

    /// The stream at this path, or the one of the closest folder that it lies in.
    pub fn find(&self, target: &Target<'_>) -> Option<&Arc<Pull>> {
        let (index, _) = self.paths.find(&target.name, target.is_folder)?;
        Some(&self.streams[*index])
    }

    /// The stream on demand that is listed in the folder of this name.
    pub fn find_listed(&self, name: &str) -> Option<&Arc<Pull>> {
        self.streams.iter().find(|pull| pull.options.on_demand && pull.lists(name, false))
    }

    /// Somebody asks for what is listed of a stream on demand, and has waited for so many milliseconds:
    /// a reader for the time of a lease. Only playlists and manifests make it begin. Returns how many
    /// milliseconds to wait for one that is missing; none, if it should be there.
    pub fn lease(&self, pull: &Pull, may_begin: bool, held_ms: Millis) -> Millis {
        let now_ms = (pull.clock)();
        let mut state = pull.state.lock();
        let since_ms = state.live.as_ref().map(|live| live.since_ms);
        if may_begin || since_ms.is_some() || now_ms < state.wanted_until_ms {
            let stop_after_ms = pull.options.stop_after.as_millis() as Millis;
            let until_ms = now_ms + LISTING_LEASE_MS + stop_after_ms;
            state.wanted_until_ms = state.wanted_until_ms.max(until_ms);
        }
        let is_starting = since_ms.is_none_or(|since_ms| now_ms - since_ms < LISTING_START_MS);
        if !may_begin || !is_starting {
            return 0;
        }
        let wait_ms_max = pull.patience_ms(&state, now_ms, held_ms);
        state.asked_until_ms = state.asked_until_ms.max(now_ms + wait_ms_max);
        drop(state);
        pull.told.notify_one();
        wait_ms_max
    }

    /// Readers of all streams.
    pub fn viewers(&self) -> usize {
        self.viewers.load(Ordering::Relaxed)
    }

    /// Read a stream, for a request that has waited for so many milliseconds.
    pub fn join(self: &Arc<Self>, pull: &Arc<Pull>, held_ms: Millis) -> Join {
        let max = self.options.viewers_max;
        let news = pull.news();
        let mut state = pull.state.lock();
        if pull.is_off() {
            return Join::Offline;
        }
        let now_ms = (pull.clock)();
        let Some(live) = &state.live else {
            let wait_ms_max = pull.patience_ms(&state, now_ms, held_ms);
            if wait_ms_max == 0 {
                return Join::Offline;
            }
            // Asking is enough to be wanted.
            state.asked_until_ms = now_ms + wait_ms_max;
            drop(state);
            pull.told.notify_one();
            return Join::Starting(news, wait_ms_max);
        };
        let enters = |count: usize| (max == 0 || count < max).then_some(count + 1);
        match self.viewers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enters) {
            Ok(before) => self.note_crossing(before + 1, Event::LimitHit),
            Err(_) => return Join::Full,
        }
        let start = live.start(now_ms, &pull.options);
        let (object, epoch) = (live.object.clone(), state.epoch);
        state.readers += 1;
        state.asked_until_ms = 0;
        let (pulls, pull) = (self.clone(), pull.clone());
        Join::Reading(Reading { pulls, pull, object, start, gap: None, epoch, since_ms: now_ms })
    }

    /// The number of readers has changed; `crossing` is what it is if it is at the limit now.
    fn note_crossing(&self, upper: usize, crossing: Event) {
        let full = self.options.viewers_full;
        if full != 0 && upper == full && self.events.try_send(crossing).is_err() {
            tracing::warn!(?crossing, "too many events wait to be told");
        }
    }

    fn tell(&self, pull: &Pull, core: Option<usize>) {
        pull.news.tell(&self.store, core);
    }

    /// Switch a stream off or on again; it stays so whatever becomes of its upstream.
    pub fn switch(&self, pull: &Pull, is_off: bool) {
        pull.is_off.store(is_off, Ordering::SeqCst);
        pull.told.notify_one();
        self.tell(pull, None);
    }

    pub(super) fn now_ms(&self) -> Millis {
        (self.options.clock)()
    }

    // What the stream's task says.

    pub(super) fn connected(&self, pull: &Pull, upstream: Option<usize>) {
        pull.state.lock().connected = upstream;
    }

    /// It is live; returns how long it was not.
    pub(super) fn begin(&self, pull: &Pull, object: Arc<Object>, gap: Arc<Gap>) -> Option<Millis> {
        let gap_ms = {
            let mut state = pull.state.lock();
            state.epoch += 1;
            let since_ms = (pull.clock)();
            state.live = Some(Live { object, gap, since_ms, starts: VecDeque::new() });
            state.lost_ms.take().map(|lost_ms| since_ms.saturating_sub(lost_ms))
        };
        pull.figures.gaps.fetch_add(u64::from(gap_ms.is_some()), Ordering::Relaxed);
        self.tell(pull, None);
        gap_ms
    }

    /// It is not live any more; `is_gap` if it should be.
    pub(super) fn end(&self, pull: &Pull, is_gap: bool) {
        {
            let mut state = pull.state.lock();
            if state.live.take().is_some() && is_gap {
                state.lost_ms = Some((pull.clock)());
            }
        }
        self.tell(pull, None);
    }

    /// Nothing more comes, of any stream: readers need not wait for it.
    pub(super) fn stop(&self) {
        self.streams.iter().for_each(|pull| self.switch(pull, true));
    }

    /// Bytes were appended.
    pub(super) fn note(&self, pull: &Pull) {
        if pull.is_awaited.swap(false, Ordering::SeqCst) {
            self.tell(pull, None);
        }
        if pull.options.burst_ms == 0 {
            return;
        }
        let mut state = pull.state.lock();
        let now_ms = (pull.clock)();
        if let Some(live) = &mut state.live
            && let Some(newest) = live.object.last_random_access()
        {
            live.note_start(now_ms, newest, pull.options.burst_ms);
        }
    }
}

impl Live {
    fn note_start(&mut self, now_ms: Millis, offset: u64, burst_ms: Millis) {
        if self.starts.back().is_none_or(|(_, last)| *last < offset) {
            self.starts.push_back((now_ms, offset));
        }
        let is_old = |(at_ms, _): &(Millis, u64)| now_ms.saturating_sub(*at_ms) > burst_ms;
        while self.starts.front().is_some_and(is_old) || self.starts.len() > STARTS_MAX {
            self.starts.pop_front();
        }
    }

    fn start(&self, now_ms: Millis, options: &PullOptions) -> Start {
        let (burst_ms, tail) = (options.burst_ms, self.object.tail());
        let head = self.object.head().max(tail.saturating_sub(options.burst_bytes_max()));
        let is_it = |(at_ms, offset): &&(Millis, u64)| {
            now_ms.saturating_sub(*at_ms) <= burst_ms && *offset >= head
        };
        match self.starts.iter().find(is_it) {
            Some((_, offset)) => Start::At(*offset),
            None => Start::Behind(tail),
        }
    }
}

impl Pull {
    pub fn news(&self) -> NewsWait {
        NewsWait::new(self.news.clone(), self.news.version())
    }

    /// Tell the news with the next bytes too: they may be what a playlist needs.
    pub fn await_bytes(&self) {
        self.is_awaited.store(true, Ordering::SeqCst);
    }

    /// The name is of what is listed of it, or the folder of that.
    pub fn lists(&self, name: &str, is_folder: bool) -> bool {
        let folder = self.options.live_name.rsplit_once('/').map(|(folder, _)| folder);
        let rest = folder.and_then(|folder| name.strip_prefix(folder));
        rest.is_some_and(|rest| rest.starts_with('/') || (rest.is_empty() && is_folder))
    }

    /// As readers ask for it.
    pub fn path(&self) -> String {
        format!("/{}", self.options.name)
    }

    /// Packets that came from this upstream.
    pub fn received_of(&self, upstream: usize) -> u64 {
        self.figures.received_of[upstream].load(Ordering::Relaxed)
    }

    pub fn readers(&self) -> usize {
        self.state.lock().readers
    }

    /// The upstream whose connection is open.
    pub fn connected(&self) -> Option<usize> {
        self.state.lock().connected
    }

    pub fn is_off(&self) -> bool {
        self.is_off.load(Ordering::SeqCst)
    }

    /// Somebody reads, has just asked, or asks for what is listed.
    pub(super) fn is_wanted(&self) -> bool {
        let state = self.state.lock();
        let now_ms = (self.clock)();
        let until_ms = state.wanted_until_ms.max(state.asked_until_ms);
        !self.options.on_demand || state.readers > 0 || now_ms < until_ms
    }

    /// How long a request waits for it from now on, in milliseconds: on demand as connecting may take, and
    /// otherwise what is left of the hold-over.
    fn patience_ms(&self, state: &State, now_ms: Millis, held_ms: Millis) -> Millis {
        let PullOptions { on_demand, hold_over, connect_timeout, .. } = &self.options;
        if *on_demand {
            let patience = (*hold_over).max(*connect_timeout);
            return (patience.as_millis() as Millis).saturating_sub(held_ms);
        }
        let hold_until_ms = state.lost_ms.map(|lost_ms| lost_ms + hold_over.as_millis() as Millis);
        hold_until_ms.map_or(0, |until_ms| until_ms.saturating_sub(now_ms))
    }
}

impl Reading {
    /// Ready with whether there is another object: none may come any more.
    pub fn poll_next(
        &mut self,
        news: &mut NewsWait,
        core: usize,
        context: &mut Context<'_>,
    ) -> Poll<bool> {
        loop {
            {
                if self.is_off() {
                    return Poll::Ready(false);
                }
                let state = self.pull.state.lock();
                if let Some(live) = state.live.as_ref().filter(|_| state.epoch > self.epoch) {
                    self.object = live.object.clone();
                    self.start = Start::Behind(0);
                    self.epoch = state.epoch;
                    self.gap = Some(live.gap.clone());
                    return Poll::Ready(true);
                }
            }
            if news.poll_news(core, context).is_pending() {
                return Poll::Pending;
            }
            *news = self.pull.news();
        }
    }

    pub fn is_off(&self) -> bool {
        self.pull.is_off()
    }

    pub fn note_sent(&self, bytes: u64) {
        let packets = bytes / PACKET_BYTES as u64;
        self.pull.figures.packets_sent.fetch_add(packets, Ordering::Relaxed);
    }

    pub fn note_dropped(&self, bytes: u64) {
        let packets = bytes / PACKET_BYTES as u64;
        self.pull.figures.packets_dropped.fetch_add(packets, Ordering::Relaxed);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let now_ms = (self.pull.clock)();
        {
            let mut state = self.pull.state.lock();
            state.readers -= 1;
            let until_ms = now_ms + self.pull.options.stop_after.as_millis() as Millis;
            state.wanted_until_ms = state.wanted_until_ms.max(until_ms);
        }
        let read_ms = now_ms.saturating_sub(self.since_ms);
        self.pull.figures.reading_ms.fetch_add(read_ms, Ordering::Relaxed);
        let before = self.pulls.viewers.fetch_sub(1, Ordering::SeqCst);
        self.pulls.note_crossing(before, Event::LimitMiss);
        self.pull.told.notify_one();
    }
}
