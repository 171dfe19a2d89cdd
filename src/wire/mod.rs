//! Codecs without I/O: bytes and time in, events and bytes out. A leaf.
//!
//! `http1` (requests, bodies, ranges, response heads), `multipart` (byteranges), `media_type`, and
//! the containers that publishers send: `fmp4`, `mpegts`.

pub mod fmp4;
pub mod http1;
pub mod media_type;
pub mod mpegts;
pub mod multipart;
