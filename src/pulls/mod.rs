//! PULLS: transport streams that are fetched from elsewhere, and who reads them. A layer below the doors
//! `ts_follow` and the routes, beside `channels` and `cameras`. Upstreams of all kinds are read by
//! ordinary threads beside the cores; what comes is an object, so readers are served as of any other.
//!
//! | a pulled stream is | left by | its readers |
//! |---|---|---|
//! | idle (on demand, nobody reads) | a reader, a request for its playlist | are held until it is live |
//! | connecting | whole packets | 404, or held on demand |
//! | live: an object grows | its upstream ends, breaks or falls silent | follow |
//! | holding over | packets of any upstream: another object; `hold_over_s` is over | wait for the next object |
//! | offline | the next upstream, after a pause that doubles | 404 |
//! | switched off (`?offline`) | `?online` | 404; those who read are sent away |
//!
//! `pull_table` (state, readers, limits), `upstream` (connects), `command` (runs one), `pushed_stream` (is connected
//! to), `pull_task` (the life of a stream), `pull_thread` (their threads), `file_thread` (for what may hang),
//! `pull_reports` (what APIs say), `notifier` (who is told).

mod command;
mod file_thread;
mod notifier;
mod paced_file;
mod pull_reports;
mod pull_table;
mod pull_task;
mod pull_thread;
mod pushed_stream;
mod upstream;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use file_thread::FileThread;
pub use notifier::{EVENTS_WAITING_MAX, Event, NOTIFICATIONS_MAX, Notification};
pub use pull_table::{Gap, Join, Pull, PullFigures, Pulls, Reading, STARTS_MAX, Start};
pub use pull_thread::PullThread;
pub use pushed_stream::SENDERS_WAITING_MAX;

use crate::store::Millis;
use crate::wire::upstream_url::UpstreamUrl;

/// What the operator decides about one stream.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Normalised path without its leading slash; with a slash at its end, or empty, all below.
    pub name: String,
    pub upstreams: Vec<Upstream>,
    /// Object name whose publishing point lists it; empty for none.
    pub live_name: String,
    pub on_demand: bool,
    pub stop_after: Duration,
    pub hold_over: Duration,
    pub reconnect: Duration,
    pub reconnect_max: Duration,
    pub connect_timeout: Duration,
    pub read_timeout: Duration,
    pub burst_ms: Millis,
    pub window_bytes: u64,
    /// Sent to each reader first.
    pub preamble: Bytes,
    pub content_type: String,
    /// Where multicast groups are joined.
    pub interface: Option<String>,
    pub datagram_bytes_max: usize,
    /// For all its connections, one after the other.
    pub file_thread: FileThread,
    /// Of all its connections.
    pub datagrams: Arc<DatagramFigures>,
    pub now: fn() -> Instant,
}

impl PullOptions {
    /// New readers begin with so much of the past at most.
    fn burst_bytes_max(&self) -> u64 {
        self.window_bytes / 2
    }

    /// Readers who are further behind skip: more than a new one may be, less than what is kept.
    pub fn lag_bytes_max(&self) -> u64 {
        self.window_bytes / 4 * 3
    }
}

/// What was wrong with the datagrams of a stream.
#[derive(Debug, Default)]
pub struct DatagramFigures {
    /// They never came, or too late.
    pub lost: AtomicU64,
    /// They came twice, or after they were given up.
    pub late: AtomicU64,
}

/// Where a stream may come from.
#[derive(Debug, Clone)]
pub struct Upstream {
    pub place: Place,
    /// For logs: without credentials.
    pub shown: String,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub pulls: Vec<PullOptions>,
    /// Readers of all streams together; 0 is no limit.
    pub viewers_max: usize,
    pub viewers_full: usize,
    pub heartbeat_interval: Duration,
    pub notifications: Vec<Notification>,
    pub apis: Vec<Api>,
    pub clock: fn() -> Millis,
}

#[derive(Debug, Clone)]
pub enum Place {
    Url(UpstreamUrl),
    /// Whoever connects and sends packets.
    Listener(Arc<TcpListener>),
}

/// A path that says something about pulled streams.
#[derive(Debug, Clone)]
pub struct Api {
    /// As of a stream.
    pub name: String,
    pub kind: ApiKind,
    /// The stream's name, for those that are of one.
    pub pull: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKind {
    Health,
    Statistics,
    Prometheus,
    Check,
    Control,
}

/// A static preamble that cannot be read is none.
pub fn read_preamble(path: &Path) -> Bytes {
    match std::fs::read(path) {
        Ok(bytes) => bytes.into(),
        Err(cause) => {
            tracing::warn!(path = %path.display(), %cause, "a preamble cannot be read: none is sent");
            Bytes::new()
        }
    }
}
