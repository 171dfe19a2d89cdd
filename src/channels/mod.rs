//! Channels: who publishes under which key, who waits for whom, and who is let in. A layer below the
//! doors `websocket_publish` and `websocket_receive`, beside the packager.

mod gatekeeper;

pub use gatekeeper::{Answer, Gatekeeper, PublishRequest, Publishers, Running, Verdict};
