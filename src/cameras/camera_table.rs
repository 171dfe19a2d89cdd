//! The table of cameras: by name, each with at most one track of each quality.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;

use super::Options;
use crate::store::{Millis, News, NewsWait, Object, Store};
use crate::wire::tcp_framing::{CAMERA_SENDERS_MAX, PictureKind, Quality};

/// All cameras of the origin.
pub struct Cameras {
    pub options: Options,
    store: Arc<Store>,
    tracks_so_far: AtomicU64,
    table: Mutex<HashMap<Box<str>, Arc<Camera>>>,
    is_closed: AtomicBool,
    /// What came before first pictures were whole.
    pub(super) first_bytes: AtomicU64,
}

/// One stream of pictures. It is forgotten with the last who sends or watches.
struct Camera {
    name: Box<str>,
    news: Arc<News>,
    state: Mutex<State>,
}

/// A connection waits so long for the one before it to end, and viewers for both.
pub const TURN_S_MAX: u64 = 5;

#[derive(Default)]
struct State {
    tracks: Tracks,
    /// Connections that send, or are about to.
    senders: usize,
    /// How many of them wait for what is in their place to end.
    waiting: usize,
    /// Of each quality, the connection that came last: the only one that may go on.
    newest: [u64; 2],
    viewers: Vec<Arc<Viewer>>,
}

/// The tracks of a camera as they are now.
#[derive(Clone, Default)]
pub struct Tracks {
    pub low: Option<Track>,
    pub high: Option<Track>,
}

/// From a camera's coming to its going.
#[derive(Clone)]
pub struct Track {
    pub kind: PictureKind,
    pub quality: Quality,
    /// Its messages are the pictures.
    pub object: Arc<Object>,
    pub began_ms: Millis,
    /// When the newest picture came.
    newest_ms: Arc<AtomicU64>,
    /// No other track has it.
    number: u64,
}

/// Where a viewer is.
#[derive(Default)]
struct Viewer {
    track: AtomicU64,
    /// The next picture for it.
    next: AtomicU64,
    skipped: AtomicU64,
}

/// What is known of a camera and those who watch it.
pub struct Figures {
    pub name: Box<str>,
    pub viewers: usize,
    pub tracks: Vec<TrackFigures>,
}

pub struct TrackFigures {
    pub track: Track,
    pub pictures: u64,
    /// How far the slowest viewer is behind.
    pub lag_pictures: u64,
    /// Pictures that its viewers of now did not get.
    pub skipped: u64,
}

/// Why a camera is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnterError {
    #[error("{0} cameras send already, as many as cameras.streams_max allows")]
    TooManyCameras(usize),
    #[error("{CAMERA_SENDERS_MAX} connections of this camera send already, or are about to")]
    TooManySenders,
}

impl Tracks {
    fn slot(&mut self, quality: Quality) -> &mut Option<Track> {
        match quality {
            Quality::Low => &mut self.low,
            Quality::High => &mut self.high,
        }
    }

    /// The track of this kind and quality, or of the other quality. One that has just ended is none.
    pub fn nearest(&self, kind: PictureKind, quality: Quality) -> Option<&Track> {
        let (first, second) = match quality {
            Quality::Low => (&self.low, &self.high),
            Quality::High => (&self.high, &self.low),
        };
        let is_it = |track: &&Track| track.kind == kind && track.object.is_open();
        first.as_ref().filter(is_it).or(second.as_ref().filter(is_it))
    }

    fn is_empty(&self) -> bool {
        self.low.is_none() && self.high.is_none()
    }
}

impl Track {
    pub fn is(&self, other: &Track) -> bool {
        self.number == other.number
    }

    /// When the newest picture came; 0 if none has.
    pub fn newest_ms(&self) -> Millis {
        self.newest_ms.load(Ordering::Relaxed)
    }

    fn figures(&self, viewers: &[Arc<Viewer>]) -> TrackFigures {
        let (_, pictures) = self.object.messages();
        let of_it = |viewer: &&Arc<Viewer>| viewer.track.load(Ordering::Relaxed) == self.number;
        let (mut lag_pictures, mut skipped) = (0, 0);
        for viewer in viewers.iter().filter(of_it) {
            let behind = pictures.saturating_sub(viewer.next.load(Ordering::Relaxed));
            lag_pictures = behind.max(lag_pictures);
            skipped += viewer.skipped.load(Ordering::Relaxed);
        }
        TrackFigures { track: self.clone(), pictures, lag_pictures, skipped }
    }
}

impl Cameras {
    pub fn new(options: Options, store: Arc<Store>) -> Arc<Cameras> {
        // The viewer's 0 is no track.
        let (tracks_so_far, table) = (AtomicU64::new(1), Mutex::default());
        Arc::new(Cameras {
            options,
            store,
            tracks_so_far,
            table,
            is_closed: AtomicBool::new(false),
            first_bytes: AtomicU64::new(0),
        })
    }

    /// The server stops: nobody waits for a camera to come back.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    /// A place among the cameras that send, for a connection that has shown a picture. What sends this
    /// quality of the camera is told to end, and so is what waits for that.
    pub fn enter(
        self: &Arc<Self>,
        name: &str,
        quality: Quality,
        core: Option<usize>,
    ) -> Result<Place, EnterError> {
        let mut table = self.table.lock();
        let is_sending = |camera: &&Arc<Camera>| camera.state.lock().senders > 0;
        let others = table.values().filter(|camera| *camera.name != *name);
        let max = self.options.streams_max;
        if others.filter(is_sending).count() >= max {
            return Err(EnterError::TooManyCameras(max));
        }
        let camera = table.entry(name.into()).or_insert_with(|| {
            let (news, state) = (Arc::default(), Mutex::default());
            Arc::new(Camera { name: name.into(), news, state })
        });
        let number = self.tracks_so_far.fetch_add(1, Ordering::Relaxed);
        {
            let mut state = camera.state.lock();
            if state.senders >= CAMERA_SENDERS_MAX {
                return Err(EnterError::TooManySenders);
            }
            state.senders += 1;
            state.waiting += 1;
            state.newest[quality as usize] = number;
        }
        let camera = camera.clone();
        let news = NewsWait::new(camera.news.clone(), camera.news.version());
        let place =
            Place { cameras: self.clone(), camera, quality, number, news, is_waiting: true };
        drop(table);
        place.tell(core);
        Ok(place)
    }

    /// An eye on the camera with this name, if it sends.
    pub fn watch(self: &Arc<Self>, name: &str) -> Option<Watch> {
        let table = self.table.lock();
        let camera = table.get(name)?.clone();
        let viewer = Arc::new(Viewer::default());
        {
            let mut state = camera.state.lock();
            if state.tracks.is_empty() {
                return None;
            }
            state.viewers.push(viewer.clone());
        }
        Some(Watch { cameras: self.clone(), camera, viewer })
    }

    /// The tracks of a camera, if it sends.
    pub fn find(&self, name: &str) -> Option<Tracks> {
        let camera = self.table.lock().get(name)?.clone();
        let tracks = camera.state.lock().tracks.clone();
        (!tracks.is_empty()).then_some(tracks)
    }

    /// Whoever sends now, in the order of names.
    pub fn figures(&self) -> Vec<Figures> {
        let cameras: Vec<_> = self.table.lock().values().cloned().collect();
        let figures = |camera: &Arc<Camera>| {
            let state = camera.state.lock();
            let tracks = [&state.tracks.high, &state.tracks.low].into_iter().flatten();
            Figures {
                name: camera.name.clone(),
                viewers: state.viewers.len(),
                tracks: tracks.map(|track| track.figures(&state.viewers)).collect(),
            }
        };
        let mut all: Vec<_> = cameras.iter().map(figures).collect();
        all.retain(|camera| !camera.tracks.is_empty());
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Somebody has left: forget a camera that nobody is left of.
    fn leave(&self, camera: &Camera, change: impl FnOnce(&mut State)) {
        let mut table = self.table.lock();
        let mut state = camera.state.lock();
        change(&mut state);
        if state.senders == 0 && state.viewers.is_empty() {
            table.remove(&camera.name);
        }
    }
}

/// A connection that may send pictures of a camera.
pub struct Place {
    cameras: Arc<Cameras>,
    camera: Arc<Camera>,
    quality: Quality,
    /// Also of its track.
    number: u64,
    news: NewsWait,
    is_waiting: bool,
}

impl Place {
    /// Ready when nothing sends this quality of the camera any more: true if it is this connection's
    /// turn, false if a newer one has come.
    pub fn poll_turn(&mut self, core: usize, context: &mut Context<'_>) -> Poll<bool> {
        loop {
            {
                let mut state = self.camera.state.lock();
                if state.newest[self.quality as usize] != self.number {
                    return Poll::Ready(false);
                }
                if state.tracks.slot(self.quality).is_none() {
                    return Poll::Ready(true);
                }
            }
            if self.news.poll_news(core, context).is_pending() {
                return Poll::Pending;
            }
            self.renew();
        }
    }

    /// It sends. Its viewers find it in the place of what sent before.
    pub fn send(
        mut self,
        kind: PictureKind,
        (object, began_ms): (Arc<Object>, Millis),
        core: Option<usize>,
    ) -> Sending {
        let (quality, number) = (self.quality, self.number);
        let newest_ms = Arc::default();
        let track = Track { kind, quality, object, began_ms, newest_ms, number };
        {
            let mut state = self.camera.state.lock();
            *state.tracks.slot(quality) = Some(track.clone());
            state.waiting -= usize::from(std::mem::take(&mut self.is_waiting));
        }
        self.tell(core);
        Sending { place: self, track, core }
    }

    fn renew(&mut self) {
        self.news = NewsWait::new(self.camera.news.clone(), self.camera.news.version());
    }

    fn tell(&self, core: Option<usize>) {
        self.camera.news.tell(&self.cameras.store, core);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cameras.leave(&self.camera, |state| {
            state.senders -= 1;
            state.waiting -= usize::from(self.is_waiting);
        });
    }
}

/// A track that is sent. Dropped, it is gone.
pub struct Sending {
    place: Place,
    track: Track,
    core: Option<usize>,
}

impl Sending {
    /// A picture has come.
    pub fn note_picture(&self, now_ms: Millis) {
        self.track.newest_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Ready when another connection is to send this track.
    pub fn poll_replaced(&mut self, core: usize, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let place = &mut self.place;
            if place.camera.state.lock().newest[place.quality as usize] != place.number {
                return Poll::Ready(());
            }
            if place.news.poll_news(core, context).is_pending() {
                return Poll::Pending;
            }
            place.renew();
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        {
            let mut state = self.place.camera.state.lock();
            let slot = state.tracks.slot(self.track.quality);
            if slot.as_ref().is_some_and(|now| now.is(&self.track)) {
                *slot = None;
            }
        }
        self.place.tell(self.core);
    }
}

/// A viewer's eye on a camera, whether it sends or not.
pub struct Watch {
    cameras: Arc<Cameras>,
    camera: Arc<Camera>,
    viewer: Arc<Viewer>,
}

impl Watch {
    pub fn tracks(&self) -> Tracks {
        self.camera.state.lock().tracks.clone()
    }

    /// Waits for the next track that comes or goes after this call.
    pub fn news(&self) -> NewsWait {
        NewsWait::new(self.camera.news.clone(), self.camera.news.version())
    }

    /// The track of this kind, and of this quality if there is one, once there is any; `None` if the
    /// server stops. `news` is from before.
    pub fn poll_track(
        &self,
        (kind, quality): (PictureKind, Quality),
        (news, core): (&mut NewsWait, usize),
        context: &mut Context<'_>,
    ) -> Poll<Option<Track>> {
        loop {
            if let Some(track) = self.tracks().nearest(kind, quality) {
                return Poll::Ready(Some(track.clone()));
            }
            if self.cameras.is_closed.load(Ordering::SeqCst) {
                return Poll::Ready(None);
            }
            if news.poll_news(core, context).is_pending() {
                return Poll::Pending;
            }
            *news = self.news();
        }
    }

    /// How long to wait for a camera that went; one in whose place another connection comes has not.
    pub fn patience(&self) -> Duration {
        let is_replaced = self.camera.state.lock().waiting > 0;
        let least_s = if is_replaced { TURN_S_MAX } else { 0 };
        Duration::from_secs(self.cameras.options.hold_over_s.max(least_s))
    }

    /// True if another track than this one suits better now.
    pub fn has_better(&self, track: &Track, quality: Quality) -> bool {
        let tracks = self.tracks();
        tracks.nearest(track.kind, quality).is_some_and(|nearest| !nearest.is(track))
    }

    pub fn note_track(&self, track: &Track, next: u64) {
        self.viewer.track.store(track.number, Ordering::Relaxed);
        self.viewer.skipped.store(0, Ordering::Relaxed);
        self.note_next(next);
    }

    /// Which picture this viewer gets next.
    pub fn note_next(&self, next: u64) {
        self.viewer.next.store(next, Ordering::Relaxed);
    }

    pub fn note_skipped(&self, pictures: u64) {
        self.viewer.skipped.fetch_add(pictures, Ordering::Relaxed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.cameras.leave(&self.camera, |state| {
            state.viewers.retain(|viewer| !Arc::ptr_eq(viewer, &self.viewer));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::store::{ObjectInfo, StoreOptions};

    fn cameras(streams_max: usize) -> Arc<Cameras> {
        let store = Store::open(StoreOptions::in_memory()).unwrap();
        Cameras::new(Options { streams_max, ..Options::default() }, store)
    }

    fn send(cameras: &Arc<Cameras>, name: &str, quality: Quality) -> Sending {
        let writer = cameras.store.begin_unnamed("camera", ObjectInfo::default(), None).unwrap();
        let object = writer.object().clone();
        // Dropped, it would have ended.
        std::mem::forget(writer);
        let place = cameras.enter(name, quality, None).unwrap();
        place.send(PictureKind::Mjpeg, (object, 1), None)
    }

    fn is_replaced(sending: &mut Sending) -> bool {
        sending.poll_replaced(0, &mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Goal: the two qualities of a camera are two tracks, and the same one again replaces the first,
    /// whose going later takes nothing away.
    #[test]
    fn qualities_are_tracks_of_one_camera() {
        let cameras = cameras(8);
        assert!(cameras.watch("stream1").is_none());
        let mut low = send(&cameras, "stream1", Quality::Low);
        let mut high = send(&cameras, "stream1", Quality::High);
        assert!(!is_replaced(&mut low) && !is_replaced(&mut high));
        let watch = cameras.watch("stream1").unwrap();
        assert!(watch.tracks().nearest(PictureKind::Mjpeg, Quality::Low).unwrap().is(&low.track));
        assert!(watch.tracks().nearest(PictureKind::Mjpeg, Quality::High).unwrap().is(&high.track));
        let again = send(&cameras, "stream1", Quality::High);
        assert!(is_replaced(&mut high) && !is_replaced(&mut low));
        drop(high);
        assert!(
            watch.tracks().nearest(PictureKind::Mjpeg, Quality::High).unwrap().is(&again.track)
        );
        drop(again);
        assert!(
            watch.tracks().nearest(PictureKind::Mjpeg, Quality::High).unwrap().is(&low.track),
            "the other is left"
        );
        drop(low);
        assert!(watch.tracks().is_empty() && cameras.find("stream1").is_none());
        assert!(cameras.watch("stream1").is_none());
        drop(watch);
        assert!(cameras.table.lock().is_empty(), "nobody is left");
    }

    #[test]
    fn names_are_limited_not_tracks() {
        let cameras = cameras(2);
        let one = send(&cameras, "stream1", Quality::Low);
        let enter = |name| cameras.enter(name, Quality::High, None);
        let two = enter("stream2").unwrap();
        assert_eq!(enter("stream3").err(), Some(EnterError::TooManyCameras(2)));
        let high = send(&cameras, "stream1", Quality::High);
        let names: Vec<_> = cameras.figures().into_iter().map(|camera| camera.name).collect();
        assert_eq!(names, ["stream1".into()], "the other has not begun");
        drop((one, high));
        assert!(enter("stream3").is_ok());
        drop(two);
    }

    /// Goal: who comes for a place that is taken waits until that is free, and only the newest gets it.
    #[test]
    fn a_place_is_taken_when_it_is_free() {
        let cameras = cameras(2);
        let mut context = Context::from_waker(Waker::noop());
        let mut old = send(&cameras, "stream1", Quality::High);
        let enter = || cameras.enter("stream1", Quality::High, None);
        let mut first = enter().unwrap();
        assert!(is_replaced(&mut old));
        assert!(first.poll_turn(0, &mut context).is_pending());
        let mut second = enter().unwrap();
        assert_eq!(first.poll_turn(0, &mut context), Poll::Ready(false));
        let _third = enter().unwrap();
        assert_eq!(enter().err(), Some(EnterError::TooManySenders));
        drop((first, _third));
        assert_eq!(second.poll_turn(0, &mut context), Poll::Ready(false), "a newer one came");
        let mut last = enter().unwrap();
        assert!(last.poll_turn(0, &mut context).is_pending());
        drop(old);
        assert_eq!(last.poll_turn(0, &mut context), Poll::Ready(true));
    }

    #[test]
    fn a_viewer_hears_of_tracks() {
        let cameras = cameras(2);
        let _low = send(&cameras, "stream1", Quality::Low);
        let watch = cameras.watch("stream1").unwrap();
        let mut news = watch.news();
        let mut context = Context::from_waker(Waker::noop());
        assert!(news.poll_news(0, &mut context).is_pending());
        let _high = send(&cameras, "stream1", Quality::High);
        assert!(news.poll_news(0, &mut context).is_ready());
    }

    #[test]
    fn figures_are_of_the_track_that_is_watched() {
        let cameras = cameras(2);
        let low = send(&cameras, "stream1", Quality::Low);
        let _high = send(&cameras, "stream1", Quality::High);
        let (one, _other) = (cameras.watch("stream1").unwrap(), cameras.watch("stream1").unwrap());
        one.note_track(&low.track, 0);
        one.note_skipped(3);
        let figures = cameras.figures().remove(0);
        assert_eq!((figures.viewers, figures.tracks.len()), (2, 2));
        let skipped: Vec<_> = figures.tracks.iter().map(|track| track.skipped).collect();
        assert_eq!(skipped, [0, 3], "high first");
    }
}
