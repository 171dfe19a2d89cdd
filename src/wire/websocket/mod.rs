//! The server half of RFC 6455, without I/O and without extensions: `websocket_handshake` reads the
//! upgrade, `peer` undoes what a client sends (`masked_head`, `unmask`, `utf8` are its steps),
//! `frame_head` writes what the server sends, `violation` says what a client may not do.
//!
//! Payloads are never copied here: what comes is unmasked where it lies, what goes is a head of at
//! most ten bytes before bytes that somebody else owns.

mod frame_head;
mod masked_head;
mod peer;
#[cfg(test)]
mod peer_tests;
mod unmask;
mod utf8;
mod violation;
mod websocket_handshake;

pub use frame_head::{
    CONTROL_BYTES_MAX, FRAME_HEAD_BYTES_MAX, FrameHead, Opcode, REASON_BYTES_MAX, STOPPING,
    close_code, close_frame, control_frame,
};
pub use peer::{ANSWERS_BYTES_MAX, ControlPayload, MessageKind, Peer, PeerEvent, PeerLimits};
pub use unmask::unmask;
pub use utf8::Utf8;
pub use violation::Violation;
pub use websocket_handshake::{
    Handshake, HandshakeError, PROTOCOLS_MAX, accept_key, handshake, is_upgrade,
};
