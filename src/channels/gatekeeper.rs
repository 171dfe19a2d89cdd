//! Who decides whether a publisher may come: the two sides of a coordinator's client, which is told
//! of publishers, and tells when one has to go.

use std::net::IpAddr;

/// Somebody wants to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRequest {
    pub channel: String,
    pub key: String,
    /// The address that it comes from.
    pub ip: IpAddr,
}

/// The answer to a [`PublishRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accept { stream_id: String },
    Deny,
}

/// A publisher that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub request: PublishRequest,
    pub stream_id: String,
}

/// Decides on publishers. Called on cores: nothing here may block.
pub trait Gatekeeper: Send + Sync {
    /// Decide, and call `answer` once, now or later and on any thread. Dropped uncalled, it is a
    /// refusal.
    fn ask(&self, request: PublishRequest, answer: Answer);

    /// A publisher that was let in has gone.
    fn ended(&self, running: &Running);
}

pub type Answer = Box<dyn FnOnce(Verdict) + Send>;

/// What a gatekeeper may do to those that it let in. Called on any thread.
pub trait Publishers: Send + Sync {
    /// End the publisher of `channel`, whoever it is, or only if it has this stream id.
    fn kill(&self, channel: &str, stream_id: Option<&str>);

    fn running(&self) -> Vec<Running>;

    /// The same publisher has another stream id from now on.
    fn rename(&self, channel: &str, from: &str, to: &str);
}
