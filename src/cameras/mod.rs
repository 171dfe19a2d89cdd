//! Cameras: which streams of pictures arrive, in which qualities, and who waits for them. A layer below
//! the doors `tcp_push`, `mjpeg_follow` and H.264 over WebSockets, beside `channels` and the packager;
//! the pictures themselves are messages of an object that has no name.
//!
//! | a track (one quality of one camera) is | left by | its viewers |
//! |---|---|---|
//! | absent | `Cameras::begin` | get the other quality, or wait, or 404 |
//! | live | its `Sending` is dropped, or another camera begins it | get whole pictures |
//! | replaced | its `Sending` ends: `poll_replaced` | go on with the new track |

mod camera_table;

pub use camera_table::{Camera, CameraState, Cameras, Sending, TooManyCameras, Track, Watch};

/// What the operator decides about cameras.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names that send at once; one more is refused.
    pub streams_max: usize,
    /// A longer picture ends its camera.
    pub picture_bytes_max: u32,
    /// Kept of each track for viewers that fall behind.
    pub window_bytes: u64,
    /// A camera that sends nothing for so long is gone.
    pub silence_timeout_s: u64,
}
