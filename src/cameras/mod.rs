//! Cameras: which streams of pictures arrive, in which qualities, and who waits for them. A layer below
//! the doors `tcp_push`, `mjpeg_follow` and `h264_follow`, beside `channels` and the packager; the
//! pictures themselves are messages of an object.
//!
//! | a track (one quality of one camera) is | left by | its viewers |
//! |---|---|---|
//! | absent | `Place::send`, in its turn | get the other quality, or wait, or 404 |
//! | live | its `Sending` is dropped | get whole pictures |
//! | replaced: another connection has entered | its `Sending` ends: `poll_replaced` | wait for the new track |
//!
//! A connection enters with its first whole picture. What it has sent until then is `FirstBytes`.
//!
//! `pace` decides what a viewer that falls behind gets.

mod camera_table;
mod first_bytes;
mod pace;

pub use camera_table::{
    Cameras, EnterError, Figures, Place, Sending, TURN_S_MAX, Track, TrackFigures, Tracks, Watch,
};
pub use first_bytes::{FirstBytes, TooManyBytes};
pub use pace::{Pace, Wanted};

use crate::wire::tcp_framing::{PictureKind, Quality};

/// What the operator decides about cameras.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names that send at once; one more is refused.
    pub streams_max: usize,
    /// A longer picture ends its camera.
    pub picture_bytes_max: u32,
    /// Kept of each track for viewers that fall behind.
    pub window_bytes: u64,
    /// How many pictures a viewer may be behind before some are skipped.
    pub lag_pictures_max: u64,
    /// A camera that completes no picture for so long is gone.
    pub silence_timeout_s: u64,
    /// Viewers wait so long for a camera to come back.
    pub hold_over_s: u64,
    /// Tracks are objects below this name, for ever; empty: they have no name.
    pub record_below: String,
    /// Folder of the publishing points of H.264 cameras; empty: they have none.
    pub live_below: String,
    /// An absent camera is an empty body, as MultiStreamingServer has it.
    pub has_empty_streams: bool,
    /// Cameras that send without a greeting: their names.
    pub raw_names: Vec<String>,
    /// Where anything may be pushed: without it no name is a camera's.
    pub is_enabled: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            streams_max: 64,
            picture_bytes_max: 8 << 20,
            window_bytes: 32 << 20,
            lag_pictures_max: 25,
            silence_timeout_s: 30,
            hold_over_s: 5,
            record_below: String::new(),
            live_below: "live/".to_owned(),
            has_empty_streams: false,
            raw_names: Vec::new(),
            is_enabled: false,
        }
    }
}

impl Options {
    /// The publishing point of an H.264 camera: its whole name, so that no two share one.
    pub fn live_point(&self, name: &str) -> Option<String> {
        (!self.live_below.is_empty()).then(|| format!("{}{name}", self.live_below))
    }

    /// The name could be one of a camera, whether it sends or not.
    pub fn is_camera_name(&self, name: &str) -> bool {
        let is_greeted = || name.strip_prefix("stream").is_some_and(|id| id.parse::<i32>().is_ok());
        self.raw_names.iter().any(|raw| raw == name) || is_greeted()
    }
}

/// A listener where a camera sends without saying who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawCamera {
    /// Normalised path without its leading slash.
    pub name: String,
    pub kind: PictureKind,
    pub quality: Quality,
}

/// What a listener of cameras expects.
#[derive(Debug, Clone)]
pub enum Push {
    /// A greeting, and a length before each picture.
    Greeted,
    Raw(std::sync::Arc<RawCamera>),
}
