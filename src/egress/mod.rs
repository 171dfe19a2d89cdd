//! Doors out: what readers get from the store. `http_get` serves whole objects, ranges and live tails;
//! of presentations `http_view` serves the media and `http_playlist` the texts, and `live` asks the
//! packager which of them a name is; `websocket_follow` sends objects and `websocket_receive` channels
//! through WebSockets; `mjpeg_follow`, `h264_follow` and `websocket_view` send the pictures of
//! cameras, `ts_follow` pulled transport streams. What doors share lies below them:
//! `answer` (heads), `transfer` (bodies), `messages_out` (messages), `pictures_out` (pictures),
//! `packets_out` (transport packets).

pub mod answer;
pub mod h264_follow;
pub mod http_get;
pub mod http_playlist;
mod http_view;
pub mod live;
mod messages_out;
pub mod mjpeg_follow;
mod packets_out;
mod pictures_out;
pub mod transfer;
pub mod ts_follow;

pub mod websocket_follow;
pub mod websocket_receive;
pub mod websocket_view;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::cameras::Cameras;
use crate::channels::Channels;
use crate::packager::Packager;
use crate::pulls::Pulls;
use crate::runtime::clock;
use crate::runtime::counters::Counters;
use crate::runtime::file_ring::FileRing;
use crate::store::Store;
use crate::wire::http1::DateLine;
use crate::wire::media_type::Class;

/// What the operator decides about answers.
#[derive(Debug, Clone)]
pub struct Options {
    /// Lines of every answer: CORS and the like, each with its CR LF.
    pub common_lines: Vec<u8>,
    /// Cache-Control where the uploader sent none.
    pub cache_manifest: String,
    pub cache_segment: String,
    pub cache_other: String,
    /// Sealed objects up to this size are answered from memory once they were read.
    pub small_object_bytes_max: u64,
    /// How far a reader of an open object may fall back before it is cut.
    pub lag_bytes_max: u64,
    /// A reader that takes nothing for so long is cut.
    pub send_stall_timeout_s: u64,
    /// Followers through a WebSocket get a ping so often.
    pub ping_interval_s: u64,
}

impl Options {
    fn cache_rule(&self, class: Class) -> &str {
        match class {
            Class::Manifest => &self.cache_manifest,
            Class::Segment => &self.cache_segment,
            Class::Other => &self.cache_other,
        }
    }
}

/// What the doors out need of their core.
pub struct Egress {
    pub core: usize,
    pub store: Arc<Store>,
    pub packager: Arc<Packager>,
    pub channels: Arc<Channels>,
    pub cameras: Arc<Cameras>,
    pub pulls: Arc<Pulls>,
    pub ring: Rc<FileRing>,
    pub counters: Arc<Counters>,
    pub options: Arc<Options>,
    pub date: RefCell<DateLine>,
}

impl Egress {
    /// Append the Date line.
    pub fn write_date(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.date.borrow_mut().at(clock::unix_s()));
    }
}
