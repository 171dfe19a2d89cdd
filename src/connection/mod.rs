//! From an accepted socket to a door: `listener` accepts, `http` reads requests and writes answers,
//! `route` chooses the door, `reply` is the one place that turns errors into status codes, `cmcd` logs
//! what players say about themselves, `upgrade` leads to the doors behind a WebSocket,
//! `camera_routes` to cameras, `pull_routes` to pulled streams, `fetched_routes` to mirrors and static
//! files; `access` says who may read what.

pub mod access;
mod camera_routes;
pub mod cmcd;
mod fetched_routes;
mod http;
pub mod listener;
mod pull_routes;
pub mod reply;
mod route;
mod upgrade;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::cameras::Push;
use crate::egress::Egress;
use crate::fetch::Fetcher;
use crate::ingest::Ingest;
use crate::runtime::counters::Counters;
use crate::runtime::deadlines::Deadlines;
use crate::wire::http1::HeadLimits;

use access::AccessRules;

/// What the operator decides about connections.
#[derive(Debug, Clone)]
pub struct Options {
    pub head: HeadLimits,
    pub head_timeout_s: u64,
    pub keep_alive_timeout_s: u64,
    /// Connections of one core.
    pub connections_max: usize,
    /// GET of an absent object waits for it (`-w`).
    pub wait_absent: bool,
    pub wait_default_ms: u64,
    pub wait_max_ms: u64,
    /// The query is part of the name (`compat.query_in_name`), but not below a live prefix.
    pub query_in_name: bool,
    pub cache_not_found: String,
    pub cache_error: String,
    /// Lines of every answer: CORS and the like, each with its CR LF.
    pub common_lines: Vec<u8>,
    /// Further lines of the answer to OPTIONS.
    pub preflight_lines: Vec<u8>,
    /// Paths below which upgrades append and follow; with slashes at both ends.
    pub append_prefix: String,
    /// Paths below which upgrades are channels; with slashes at both ends.
    pub channels_prefix: String,
    /// Origins of which the request's own is allowed; empty if the common lines say it all.
    pub listed_origins: Vec<String>,
    /// Origins that may read answers; `*` is all.
    pub allowed_origins: Vec<String>,
    /// Who may read what is below which path.
    pub access: AccessRules,
}

/// A page of the admin address.
pub struct Page {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Bytes,
}

/// Makes the admin pages: the path in, the page out, `None` for 404.
pub type AdminPages = dyn Fn(&str) -> Option<Page> + Send + Sync;

/// The doors behind a listener of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doors {
    /// Everything but WebSockets.
    pub http: bool,
    pub append: bool,
    pub channels: bool,
}

impl Doors {
    /// A listener of append's own: GET only.
    pub const APPEND: Doors = Doors { http: false, append: true, channels: false };
    /// A listener of channels' own.
    pub const CHANNELS: Doors = Doors { http: false, append: false, channels: true };

    fn is_only_channels(self) -> bool {
        self == Doors::CHANNELS
    }

    fn is_only_append(self) -> bool {
        self == Doors::APPEND
    }
}

/// What a listener leads to.
#[derive(Clone)]
pub enum Role {
    Objects(Doors),
    /// Cameras that push.
    Cameras(Push),
    Admin(Arc<AdminPages>),
}

/// Everything a connection needs of its core.
pub struct Core {
    pub options: Arc<Options>,
    pub egress: Egress,
    pub ingest: Ingest,
    /// What is fetched from elsewhere.
    pub fetcher: Arc<Fetcher>,
    pub deadlines: Rc<Deadlines>,
    /// Connections of the admin address are kept apart: a drain does not end them, nor wait for them.
    pub admin_deadlines: Rc<Deadlines>,
    pub counters: Arc<Counters>,
    pub cmcd: cmcd::CmcdLog,
    /// The answers to the requests that were read last, before they are sent.
    pub output: RefCell<Vec<u8>>,
    /// Set at shutdown: finish what is under way, take nothing new.
    pub is_draining: Cell<bool>,
}

impl Core {
    /// Below their prefix all paths are channels'.
    fn has_own_channel_prefix(&self) -> bool {
        self.options.channels_prefix != "/"
    }
}
