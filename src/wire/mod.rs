//! Codecs without I/O: bytes and time in, events and bytes out. A leaf.
//!
//! `http1` (requests, bodies, ranges, response heads), `multipart` (byteranges), `media_type`, the
//! containers that publishers send: `fmp4`, `mpegts`, and the cues that both carry: `scte35`. What
//! players ask for first: `playlist` (HLS) and `manifest` (DASH), with the `numbers` in them. The
//! frames of `websocket`, and what servers and their coordinator tell each other:
//! `channel_messages`. What cameras send over TCP: `tcp_framing`, and the pictures of `jpeg` and
//! `h264`. Transport streams in datagrams: `rtp`. Where all that is pulled comes from:
//! `upstream_url`; to whom a path of the configuration belongs: `path_table`.

mod bit_reader;
pub mod channel_messages;
pub mod fmp4;
pub mod h264;
pub mod http1;
pub mod jpeg;
pub mod manifest;
pub mod media_type;
pub mod mpegts;
pub mod multipart;
pub mod numbers;
mod parameter_sets;
pub mod path_table;
pub mod playlist;
pub mod rtp;
pub mod scte35;
pub mod tcp_framing;
pub mod upstream_url;
pub mod websocket;

#[cfg(test)]
mod test_pieces;
