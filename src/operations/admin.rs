//! The pages of the admin address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::metrics;

/// One page: status, content type, body.
pub type Answer = (u16, &'static str, String);

const TEXT: &str = "text/plain; charset=utf-8";

pub struct Admin {
    pub metrics: metrics::Page,
    /// Set at shutdown, so that load balancers look elsewhere.
    pub is_draining: Arc<AtomicBool>,
}

impl Admin {
    /// The page at `path` (without its leading slash).
    pub fn page(&self, path: &str) -> Option<Answer> {
        match path {
            "" => Some((200, TEXT, "Headwater admin: /healthz /readyz /metrics\n".to_owned())),
            "healthz" => Some((200, TEXT, "ok\n".to_owned())),
            "readyz" if self.is_draining.load(Ordering::Relaxed) => {
                Some((503, TEXT, "draining\n".to_owned()))
            }
            "readyz" => Some((200, TEXT, "ready\n".to_owned())),
            "metrics" => Some((200, metrics::Page::CONTENT_TYPE, self.metrics.render())),
            _ => None,
        }
    }
}
