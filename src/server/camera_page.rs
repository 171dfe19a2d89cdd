//! What the page `/cameras` asks for, once a second: who sends, and how those who watch keep up.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::cameras::{Cameras, Figures, TrackFigures};
use crate::runtime::clock;
use crate::store::Millis;

/// Where cameras are pushed to and watched; it does not change.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Places {
    pub(super) listen: Vec<SocketAddr>,
    pub(super) push: Vec<SocketAddr>,
    pub(super) raw: Vec<RawPlace>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct RawPlace {
    pub(super) listen: SocketAddr,
    pub(super) format: &'static str,
    pub(super) quality: &'static str,
    pub(super) path: String,
}

#[derive(Serialize)]
struct Page<'p> {
    now_ms: Millis,
    #[serde(flatten)]
    places: &'p Places,
    cameras: Vec<Camera>,
}

#[derive(Serialize)]
struct Camera {
    name: Box<str>,
    viewers: usize,
    tracks: Vec<Track>,
}

#[derive(Serialize)]
struct Track {
    quality: &'static str,
    kind: &'static str,
    began_ms: Millis,
    pictures: u64,
    bytes: u64,
    last_picture_ms: Millis,
    lag_pictures: u64,
    skipped: u64,
}

pub(super) fn pages(cameras: Arc<Cameras>, places: Places) -> impl Fn() -> Bytes + Send + Sync {
    move || {
        let cameras = cameras.figures().into_iter().map(Camera::of).collect();
        let page = Page { now_ms: clock::unix_ms(), places: &places, cameras };
        serde_json::to_vec(&page).expect("numbers and names are JSON").into()
    }
}

impl Camera {
    fn of(figures: Figures) -> Camera {
        let tracks = figures.tracks.iter().map(Track::of).collect();
        Camera { name: figures.name, viewers: figures.viewers, tracks }
    }
}

impl Track {
    fn of(figures: &TrackFigures) -> Track {
        let TrackFigures { track, pictures, lag_pictures, skipped } = figures;
        Track {
            quality: track.quality.word(),
            kind: track.kind.word(),
            began_ms: track.began_ms,
            pictures: *pictures,
            bytes: track.object.tail(),
            last_picture_ms: track.newest_ms(),
            lag_pictures: *lag_pictures,
            skipped: *skipped,
        }
    }
}
