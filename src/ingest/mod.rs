//! Doors in: what uploaders bring to the store. `http_put` takes a request body into an object,
//! `websocket_append` appends messages to one, `websocket_publish` takes the chunks of a channel,
//! `tcp_push` the pictures of a camera. What doors share lies below them: `upload` (errors, seal),
//! `messages_in` (messages), `frames_in` (those of WebSockets), `pictures_in` (those of cameras),
//! `camera_watch` (what viewers and packager need of an H.264 camera).

mod append_sessions;
mod camera_watch;
mod frames_in;
pub mod http_put;
mod messages_in;
mod pictures_in;
pub mod tcp_push;
pub mod upload;
pub mod websocket_append;
pub mod websocket_publish;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

pub use self::append_sessions::AppendSessions;
use crate::cameras::Cameras;
use crate::channels::Channels;
use crate::packager::Packager;
use crate::runtime::counters::Counters;
use crate::runtime::file_ring::FileRing;
use crate::runtime::offload::Disk;
use crate::store::Store;

/// What the operator decides about uploads.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names of further header fields to keep; one that ends in `-` is a prefix.
    pub stored_headers: Vec<String>,
    /// Remove an object when `max-age` of its upload has passed (`-d`).
    pub delete_expired: bool,
    /// Acknowledge only what is on disk.
    pub is_durable: bool,
    /// A longer upload is refused, before it starts if it says its length.
    pub object_bytes_max: u64,
    /// An uploader that sends nothing for so long is gone.
    pub body_idle_timeout_s: u64,
    /// Appenders get a ping so often.
    pub ping_interval_s: u64,
    /// An appender of which nothing is heard for so long is gone.
    pub append_idle_timeout_s: u64,
    /// A longer message ends its appender.
    pub append_message_bytes_max: u64,
}

/// What the doors in need of their core.
pub struct Ingest {
    pub core: usize,
    pub store: Arc<Store>,
    pub packager: Arc<Packager>,
    pub channels: Arc<Channels>,
    pub cameras: Arc<Cameras>,
    pub append_sessions: Arc<AppendSessions>,
    pub ring: Rc<FileRing>,
    pub disk: Disk,
    pub counters: Arc<Counters>,
    pub options: Arc<Options>,
    /// The core's receive buffer, shared by all its uploads: nobody holds it while waiting.
    pub receive_buffer: Rc<RefCell<Vec<u8>>>,
    /// Buffers for writes on other threads; one is held while such a write is under way.
    pub aside_buffers: RefCell<Vec<Vec<u8>>>,
}

/// Received without waiting before other tasks of the core have their turn.
const TURN_BYTES_MAX: u64 = 2 << 20;

/// Received and written in one go on another thread: enough to make up for the way there and back.
const ASIDE_BYTES: usize = 1 << 20;

/// Spare buffers kept.
const ASIDE_BUFFERS_MAX: usize = 8;

impl Ingest {
    fn take_aside_buffer(&self) -> Vec<u8> {
        let mut buffer = self.aside_buffers.borrow_mut().pop().unwrap_or_default();
        buffer.resize(ASIDE_BYTES, 0);
        buffer
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut spare = self.aside_buffers.borrow_mut();
        if spare.len() < ASIDE_BUFFERS_MAX {
            spare.push(buffer);
        }
    }
}
