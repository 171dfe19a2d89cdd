//! The table of cameras: by name, each with at most one track of each quality.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use parking_lot::Mutex;

use super::Options;
use crate::store::{Millis, News, NewsWait, Object, Store};
use crate::wire::tcp_framing::{PictureKind, Quality};

/// All cameras of the origin.
pub struct Cameras {
    pub options: Options,
    store: Arc<Store>,
    tracks_so_far: AtomicU64,
    table: Mutex<HashMap<Box<str>, Entry>>,
}

/// A camera is forgotten with the last who sends or watches.
struct Entry {
    camera: Arc<Camera>,
    holds: usize,
}

/// One stream of pictures.
pub struct Camera {
    pub name: Box<str>,
    news: Arc<News>,
    state: Mutex<CameraState>,
}

/// The tracks of a camera as they are now.
#[derive(Clone, Default)]
pub struct CameraState {
    pub low: Option<Track>,
    pub high: Option<Track>,
}

/// From a camera's coming to its going.
#[derive(Clone)]
pub struct Track {
    pub kind: PictureKind,
    pub object: Arc<Object>,
    pub began_ms: Millis,
    /// No other track has it.
    number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} cameras send already, as many as cameras.streams_max allows")]
pub struct TooManyCameras(pub usize);

impl CameraState {
    fn slot(&mut self, quality: Quality) -> &mut Option<Track> {
        match quality {
            Quality::Low => &mut self.low,
            Quality::High => &mut self.high,
        }
    }

    /// The track of this quality, or the other one.
    pub fn nearest(&self, quality: Quality) -> Option<&Track> {
        let (first, second) = match quality {
            Quality::Low => (&self.low, &self.high),
            Quality::High => (&self.high, &self.low),
        };
        first.as_ref().or(second.as_ref())
    }

    fn is_empty(&self) -> bool {
        self.low.is_none() && self.high.is_none()
    }
}

impl Track {
    pub fn is(&self, other: &Track) -> bool {
        self.number == other.number
    }
}

impl Cameras {
    pub fn new(options: Options, store: Arc<Store>) -> Arc<Cameras> {
        let (tracks_so_far, table) = (AtomicU64::new(0), Mutex::default());
        Arc::new(Cameras { options, store, tracks_so_far, table })
    }

    /// A camera sends: what sent this quality of it before is told to end.
    pub fn begin(
        self: &Arc<Self>,
        name: &str,
        quality: Quality,
        (kind, object, began_ms): (PictureKind, Arc<Object>, Millis),
        core: Option<usize>,
    ) -> Result<Sending, TooManyCameras> {
        let number = self.tracks_so_far.fetch_add(1, Ordering::Relaxed);
        let track = Track { kind, object, began_ms, number };
        let watch = self.hold(name);
        {
            // Both locks: two that come at once are counted one after the other.
            let table = self.table.lock();
            let mut state = watch.camera.state.lock();
            let max = self.options.streams_max;
            let is_sending = |entry: &&Entry| {
                !Arc::ptr_eq(&entry.camera, &watch.camera) && !entry.camera.state.lock().is_empty()
            };
            if state.is_empty() && table.values().filter(is_sending).count() >= max {
                return Err(TooManyCameras(max));
            }
            *state.slot(quality) = Some(track.clone());
        }
        watch.tell(core);
        let news = watch.news();
        Ok(Sending { watch, quality, track, news, core })
    }

    /// The camera with this name, if somebody sends.
    pub fn find(self: &Arc<Self>, name: &str) -> Option<Watch> {
        let is_there = |entry: &Entry| !entry.camera.state.lock().is_empty();
        self.table.lock().get(name).filter(|entry| is_there(entry))?;
        Some(self.hold(name))
    }

    /// Whoever sends now, in the order of names.
    pub fn all(&self) -> Vec<(Box<str>, CameraState)> {
        let table = self.table.lock();
        let states = table.values().map(|e| (e.camera.name.clone(), e.camera.state.lock().clone()));
        let mut all: Vec<_> = states.filter(|(_, state)| !state.is_empty()).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }

    fn hold(self: &Arc<Self>, name: &str) -> Watch {
        let mut table = self.table.lock();
        let entry = table.entry(name.into()).or_insert_with(|| {
            let (news, state) = (Arc::default(), Mutex::default());
            Entry { camera: Arc::new(Camera { name: name.into(), news, state }), holds: 0 }
        });
        entry.holds += 1;
        Watch { cameras: self.clone(), camera: entry.camera.clone() }
    }
}

/// Somebody's eye on a camera, whether it sends or not.
pub struct Watch {
    cameras: Arc<Cameras>,
    pub camera: Arc<Camera>,
}

impl Watch {
    pub fn state(&self) -> CameraState {
        self.camera.state.lock().clone()
    }

    /// Waits for the next track that comes or goes after this call.
    pub fn news(&self) -> NewsWait {
        NewsWait::new(self.camera.news.clone(), self.camera.news.version())
    }

    fn tell(&self, core: Option<usize>) {
        self.camera.news.tell(&self.cameras.store, core);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut table = self.cameras.table.lock();
        if let Some(entry) = table.get_mut(&self.camera.name) {
            entry.holds -= 1;
            if entry.holds == 0 {
                table.remove(&self.camera.name);
            }
        }
    }
}

/// A track that is sent. Dropped, it is gone.
pub struct Sending {
    watch: Watch,
    quality: Quality,
    track: Track,
    news: NewsWait,
    core: Option<usize>,
}

impl Sending {
    /// Ready when another connection sends this track.
    pub fn poll_replaced(&mut self, core: usize, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if !self.is_current() {
                return Poll::Ready(());
            }
            if self.news.poll_news(core, context).is_pending() {
                return Poll::Pending;
            }
            self.news = self.watch.news();
        }
    }

    fn is_current(&self) -> bool {
        let mut state = self.watch.camera.state.lock();
        state.slot(self.quality).as_ref().is_some_and(|now| now.is(&self.track))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        {
            let mut state = self.watch.camera.state.lock();
            let slot = state.slot(self.quality);
            if slot.as_ref().is_some_and(|now| now.is(&self.track)) {
                *slot = None;
            }
        }
        self.watch.tell(self.core);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::store::{ObjectInfo, StoreOptions};

    fn cameras(streams_max: usize) -> Arc<Cameras> {
        let store = Store::open(StoreOptions::in_memory()).unwrap();
        let options = Options {
            streams_max,
            picture_bytes_max: 1 << 20,
            window_bytes: 1 << 20,
            silence_timeout_s: 10,
        };
        Cameras::new(options, store)
    }

    fn begin(
        cameras: &Arc<Cameras>,
        name: &str,
        quality: Quality,
    ) -> Result<Sending, TooManyCameras> {
        let writer = cameras.store.begin_unnamed("camera", ObjectInfo::default(), None).unwrap();
        let object = writer.object().clone();
        cameras.begin(name, quality, (PictureKind::Mjpeg, object, 1), None)
    }

    fn is_replaced(sending: &mut Sending) -> bool {
        sending.poll_replaced(0, &mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Goal: the two qualities of a camera are two tracks, and the same one again replaces the first,
    /// whose going later takes nothing away.
    #[test]
    fn qualities_are_tracks_of_one_camera() {
        let cameras = cameras(8);
        assert!(cameras.find("stream1").is_none());
        let mut low = begin(&cameras, "stream1", Quality::Low).unwrap();
        let mut high = begin(&cameras, "stream1", Quality::High).unwrap();
        assert!(!is_replaced(&mut low) && !is_replaced(&mut high));
        let watch = cameras.find("stream1").unwrap();
        assert!(watch.state().nearest(Quality::Low).unwrap().is(&low.track));
        assert!(watch.state().nearest(Quality::High).unwrap().is(&high.track));
        let again = begin(&cameras, "stream1", Quality::High).unwrap();
        assert!(is_replaced(&mut high) && !is_replaced(&mut low));
        drop(high);
        assert!(watch.state().nearest(Quality::High).unwrap().is(&again.track));
        drop(again);
        assert!(watch.state().nearest(Quality::High).unwrap().is(&low.track), "the other is left");
        drop(low);
        assert!(watch.state().is_empty() && cameras.find("stream1").is_none());
        drop(watch);
        assert!(cameras.table.lock().is_empty(), "nobody is left");
    }

    #[test]
    fn names_are_limited_not_tracks() {
        let cameras = cameras(2);
        let one = begin(&cameras, "stream1", Quality::Low).unwrap();
        let _two = begin(&cameras, "stream2", Quality::Low).unwrap();
        assert_eq!(begin(&cameras, "stream3", Quality::Low).err(), Some(TooManyCameras(2)));
        let high = begin(&cameras, "stream1", Quality::High).unwrap();
        let names: Vec<_> = cameras.all().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["stream1".into(), "stream2".into()]);
        drop((one, high));
        assert!(begin(&cameras, "stream3", Quality::Low).is_ok());
    }

    #[test]
    fn a_viewer_hears_of_tracks() {
        let cameras = cameras(2);
        let _low = begin(&cameras, "stream1", Quality::Low).unwrap();
        let watch = cameras.find("stream1").unwrap();
        let mut news = watch.news();
        let mut context = Context::from_waker(Waker::noop());
        assert!(news.poll_news(0, &mut context).is_pending());
        let _high = begin(&cameras, "stream1", Quality::High).unwrap();
        assert!(news.poll_news(0, &mut context).is_ready());
    }
}
