//! The pages of the admin address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::metrics;
use super::player::Player;

/// One page: status, content type, body.
pub type Answer = (u16, &'static str, Bytes);

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const INDEX: &str = "Headwater admin: /healthz /readyz /metrics /player /publish /cameras\n";

pub struct Admin {
    pub metrics: metrics::Page,
    pub player: Player,
    /// Makes the JSON that the page of cameras shows.
    pub cameras: Box<dyn Fn() -> Bytes + Send + Sync>,
    /// Set at shutdown, so that load balancers look elsewhere.
    pub is_draining: Arc<AtomicBool>,
}

impl Admin {
    /// The page at `path` (without its leading slash).
    pub fn page(&self, path: &str) -> Option<Answer> {
        let text = |status, text: &'static str| Some((status, TEXT, text.into()));
        match path {
            "" => text(200, INDEX),
            "healthz" => text(200, "ok\n"),
            "readyz" if self.is_draining.load(Ordering::Relaxed) => text(503, "draining\n"),
            "readyz" => text(200, "ready\n"),
            "metrics" => Some((200, metrics::Page::CONTENT_TYPE, self.metrics.render().into())),
            "cameras.json" => Some((200, JSON, (self.cameras)())),
            _ => self.player.page(path),
        }
    }
}
