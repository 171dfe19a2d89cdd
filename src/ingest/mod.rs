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

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

pub use self::append_sessions::AppendSessions;
use crate::cameras::Cameras;
use crate::channels::Channels;
use crate::packager::Packager;
use crate::runtime::counters::Counters;
use crate::runtime::file_ring::FileRing;
use crate::runtime::line_budget::LineBudget;
use crate::runtime::offload::{ASIDE_BUFFERS_MAX, Disk};
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
    /// What peers can make cameras' lines of the log.
    pub camera_lines: LineBudget,
    /// The core's receive buffer, shared by all its uploads: nobody holds it while waiting.
    pub receive_buffer: Rc<RefCell<Vec<u8>>>,
    /// Buffers for writes on other threads; one is held while such a write is under way.
    pub aside: AsideBuffers,
}

/// Received without waiting before other tasks of the core have their turn.
const TURN_BYTES_MAX: u64 = 2 << 20;

/// Received and written in one go on another thread: enough to make up for the way there and back.
const ASIDE_BYTES: usize = 1 << 20;

/// Spare buffers kept.
const SPARE_BUFFERS_MAX: usize = 8;

/// The buffers of a core for writes on other threads.
#[derive(Default)]
pub struct AsideBuffers {
    spare: RefCell<Vec<Vec<u8>>>,
    used: Cell<usize>,
    waiting: RefCell<VecDeque<Waker>>,
}

/// One of them. It comes back when it is dropped.
struct AsideBuffer<'a> {
    buffers: &'a AsideBuffers,
    bytes: Vec<u8>,
}

impl AsideBuffers {
    /// The next free one.
    async fn take(&self) -> AsideBuffer<'_> {
        std::future::poll_fn(|context| {
            if self.used.get() < ASIDE_BUFFERS_MAX {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push_back(context.waker().clone());
            Poll::Pending
        })
        .await;
        self.used.set(self.used.get() + 1);
        let mut bytes = self.spare.borrow_mut().pop().unwrap_or_default();
        bytes.resize(ASIDE_BYTES, 0);
        AsideBuffer { buffers: self, bytes }
    }
}

impl AsideBuffer<'_> {
    /// Lend the bytes to a write on another thread, which gives them back.
    fn lend(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for AsideBuffer<'_> {
    fn drop(&mut self) {
        self.buffers.used.set(self.buffers.used.get() - 1);
        let mut spare = self.buffers.spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS_MAX && !self.bytes.is_empty() {
            spare.push(std::mem::take(&mut self.bytes));
        }
        if let Some(next) = self.buffers.waiting.borrow_mut().pop_front() {
            next.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn buffers_of_slow_writes_are_limited() {
        let buffers = AsideBuffers::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut taken: Vec<_> = (0..ASIDE_BUFFERS_MAX)
            .map(|_| match pin!(buffers.take()).poll(&mut context) {
                Poll::Ready(buffer) => buffer,
                Poll::Pending => panic!("there is room"),
            })
            .collect();
        let mut more = pin!(buffers.take());
        assert!(more.as_mut().poll(&mut context).is_pending());
        drop(taken.pop());
        assert!(more.as_mut().poll(&mut context).is_ready());
        assert_eq!((buffers.spare.borrow().len(), buffers.used.get()), (1, ASIDE_BUFFERS_MAX - 1));
    }
}
