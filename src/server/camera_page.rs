//! What the page `/cameras` asks for, once a second: who sends, and how those who watch keep up.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::cameras::{Cameras, Figures, Options, TrackFigures};
use crate::runtime::clock;
use crate::store::Millis;
use crate::wire::tcp_framing::PictureKind;

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
    /// Of its publishing point, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    playlist: Option<String>,
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
        let options = &cameras.options;
        let of = |figures| Camera::of(figures, options);
        let cameras = cameras.figures().into_iter().map(of).collect();
        let page = Page { now_ms: clock::unix_ms(), places: &places, cameras };
        serde_json::to_vec(&page).expect("numbers and names are JSON").into()
    }
}

impl Camera {
    fn of(figures: Figures, options: &Options) -> Camera {
        let is_h264 = |track: &TrackFigures| track.track.kind == PictureKind::H264;
        let point = options.live_point(&figures.name);
        let point = point.filter(|_| figures.tracks.iter().any(is_h264));
        let playlist = point.map(|point| format!("/{point}/index.m3u8"));
        let tracks = figures.tracks.iter().map(Track::of).collect();
        Camera { name: figures.name, playlist, viewers: figures.viewers, tracks }
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
