//! Channels: who publishes under which key, who waits for whom, and who is let in. A layer below the
//! doors `websocket_publish` and `websocket_receive`, beside the packager; the chunks themselves are
//! messages of an object that has no name.
//!
//! | a channel is | left by | receivers |
//! |---|---|---|
//! | free | `Channels::claim` | wait for news; their key is looked at when there is a publisher |
//! | claimed | `Claim::go_live`, or the claim is dropped | the same; a second publisher is refused |
//! | live | its `Publication` is dropped | with the right key: the cache, then what comes |

mod admission;
mod gatekeeper;
mod registry;

use ipnet::IpNet;

pub use admission::{Admission, TooManyConnections};
pub use gatekeeper::{Answer, Gatekeeper, PublishRequest, Publishers, Running, Verdict};
pub use registry::{Channels, Claim, Look, Publication, Seat, Start};

use crate::store::Millis;
use crate::wire::channel_messages;

/// What the operator decides about channels.
#[derive(Debug, Clone)]
pub struct Options {
    /// What a new receiver gets first: chunks of so many bytes, each counted with 16 more.
    pub cache_bytes_max: u64,
    /// And no older than this.
    pub cache_ms: Option<Millis>,
    /// How far a receiver may fall behind, counted as in the cache, and at least as far as that.
    pub lag_bytes_max: u64,
    pub lag_rule: LagRule,
    /// A longer chunk ends its publisher.
    pub message_bytes_max: u64,
    /// Letters of a channel or a key.
    pub id_length_max: usize,
    /// 0 is no limit.
    pub connections_per_ip_max: usize,
    pub unlimited_from: Vec<IpNet>,
    /// Who may receive; empty is everybody.
    pub play_from: Vec<IpNet>,
    pub heartbeat_interval_s: u64,
    /// A peer that says nothing for so long is gone.
    pub silence_timeout_s: u64,
    pub clock: fn() -> Millis,
}

/// What becomes of a receiver that has lost chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LagRule {
    /// It goes on with the newest chunk.
    Skip,
    Close,
}

/// A frame with the text message `h`: both sides of a channel show with it that they are alive.
pub const HEARTBEAT: &[u8] = &[0x81, 1, b'h'];

impl Options {
    /// Bytes of chunks that are kept, overhead included.
    pub fn kept_bytes_max(&self) -> u64 {
        self.cache_bytes_max.max(self.lag_bytes_max)
    }

    pub fn is_id(&self, id: &str) -> bool {
        channel_messages::is_id(id, self.id_length_max)
    }
}
