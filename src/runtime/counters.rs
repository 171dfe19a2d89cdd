//! What a core counts. One row of one table per counter; `operations/metrics.rs` shows them all.
//!
//! A counter is written by its own core only, so an increment is a plain load and store; the metrics
//! page reads all cores' counters and adds them up.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $help:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter { $($(#[$doc])* $variant,)* }

        impl Counter {
            /// All counters in the order of their values.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// Name without prefix and suffix.
            pub fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)* }
            }

            pub fn help(self) -> &'static str {
                match self { $(Counter::$variant => $help,)* }
            }
        }
    };
}

counters! {
    ConnectionsAccepted, "connections_accepted", "Connections accepted";
    ConnectionsRefused, "connections_refused", "Connections closed at once because connections_max was reached";
    ConnectionsEvicted, "connections_evicted", "Connections that never sent a request, closed to make room";
    ConnectionsTimedOut, "connections_timed_out", "Connections closed at a deadline (head, body, send or keep-alive)";
    Requests, "requests", "Requests answered or refused";
    RequestsRefused, "requests_refused", "Requests whose head or framing was refused (400, 414, 431, 501, 505)";
    ResponsesClientError, "responses_client_error", "Answers with a 4xx status";
    ResponsesServerError, "responses_server_error", "Answers with a 5xx status";
    BytesIn, "bytes_in", "Payload bytes appended by uploads";
    BytesOut, "bytes_out", "Bytes sent to readers, heads and framing included";
    UploadsSealed, "uploads_sealed", "Uploads that were completed";
    UploadsAborted, "uploads_aborted", "Uploads that ended without their proper end";
    ReadersFollowing, "readers_followed", "Answers that followed an open object";
    ReadersCutLag, "readers_cut_lag", "Readers cut because they fell behind by lag_bytes_max or were trimmed past";
    ReadersCutAbort, "readers_cut_abort", "Readers cut because the upload was aborted";
    BodyCacheHits, "body_cache_hits", "Small sealed objects answered from memory";
    FileReads, "file_reads", "Reads of sealed or cold bytes through the file ring";
    WaitedRequests, "waited_requests", "Requests that waited for an absent object";
    LivePlaylists, "live_playlists", "Playlists, manifests and steering answers of presentations";
    LiveViews, "live_views", "Parts, whole segments and init segments of presentations";
    LiveSegmentsFollowed, "live_segments_followed", "Answers that followed a segment in progress";
    HeldRequests, "held_requests", "Requests that were held until there was news of a presentation";
    HoldsRefused, "holds_refused", "Requests for presentations that got 503: held too long, or the server was stopping";
    WebsocketAppenders, "websocket_appenders", "Appenders that came through a WebSocket";
    WebsocketPublishers, "websocket_publishers", "Publishers of channels that were let in";
    WebsocketReaders, "websocket_readers", "Followers and receivers through a WebSocket";
    WebsocketMessagesIn, "websocket_messages_in", "Messages that appenders and publishers sent";
    WebsocketMessagesOut, "websocket_messages_out", "Messages sent to followers and receivers";
    Heartbeats, "heartbeats", "Pings and heartbeats sent to WebSocket peers";
    ReceiversLagged, "receivers_lagged", "Times that a receiver of a channel lost chunks because it was too slow";
    CameraPictures, "camera_pictures", "Pictures that cameras sent; of H.264 without a greeting, NAL units";
    CamerasRefused, "cameras_refused", "Connections of cameras that were refused or broke the rules";
    CameraViewers, "camera_viewers", "Viewers of cameras";
    PicturesSent, "pictures_sent", "Pictures sent to viewers of cameras";
    PicturesSkipped, "pictures_skipped", "Pictures that viewers of cameras did not get because they were too slow";
    PullReaders, "pull_readers", "Readers of pulled streams";
    PullReadersLagged, "pull_readers_lagged", "Times that a reader of a pulled stream lost packets because it was too slow";
    FetchHits, "fetch_hits", "Answers of mirrors and static files that were there";
    FetchesCollapsed, "fetches_collapsed", "Requests that waited for what another one had fetched";
    FetchedStale, "fetched_stale", "Static files answered as they were, because their upstream is down";
    AccessDenied, "access_denied", "Requests without the credentials that their path wants";
    CmcdLinesDropped, "cmcd_lines_dropped", "CMCD reports not logged because of limits.cmcd_lines_per_s_max";
    DiskStalls, "disk_stalls", "Calls to the disk that took longer than 20 ms";
    StorageErrors, "storage_errors", "Failures of the disk or file system";
}

/// The counters of one core, on cache lines of their own.
#[repr(align(128))]
pub struct Counters {
    values: [AtomicU64; Counter::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Counters { values: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Counters {
    /// Add on the counter's own core.
    pub fn add(&self, counter: Counter, by: u64) {
        let value = &self.values[counter as usize];
        value.store(value.load(Ordering::Relaxed) + by, Ordering::Relaxed);
    }

    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize].load(Ordering::Relaxed)
    }
}
