//! Fragmented MP4 (ISO/IEC 14496-12, CMAF: ISO/IEC 23000-19) seen from outside: where the preamble
//! ends and what it says of the tracks, where each chunk begins and ends, whether a decoder may start
//! there, when it is to be shown, and what stands before it. It never looks at media samples and does no
//! I/O. `packager` feeds a [`FragmentScanner`] with bytes as they arrive; `publish` reads and rewrites
//! the time fields. The other way round, a [`Muxer`] makes it of the pictures of cameras, with
//! `arrival_clock` (when they are decoded), `presentation` (when they are shown), and `init_writer`.
//!
//! Every read is checked against the bytes at hand, nesting is fixed by the code (moov → trak →
//! mdia → minf → stbl → stsd and moof → traf are the deepest paths), and no length that a peer
//! announces is ever allocated.

mod arrival_clock;
#[cfg(test)]
mod box_builder;
mod box_writer;
mod boxes;
mod fragment;
mod fragment_scanner;
mod init;
mod init_writer;
mod muxer;
mod prefix;
mod presentation;
mod sample_entry;

pub use boxes::{BoxHead, TimeField, is_prefix_box, may_begin_stream};
pub use fragment::{Fragment, SequenceField, TrackFragment, parse_fragment};
pub use fragment_scanner::{CmafChunk, Found, FragmentScanner};
pub use init::{Handler, Init, Track, parse_init};
pub use muxer::{Muxed, Muxer};
pub use prefix::{Brands, EventMessage, EventTime, ProducerTime, prefix_time};

/// A moof or moov whose payload reaches this is not looked into: real ones have 200 bytes to some
/// kilobytes.
pub const MOOF_BYTES_MAX: usize = 1024 * 1024;
/// An emsg whose payload reaches this is stepped over: SCTE 35 has some hundred bytes, ID3 with a
/// picture some kilobytes.
pub const EMSG_BYTES_MAX: usize = 64 * 1024;
/// Tracks of a movie, and track fragments of one moof, that are looked at.
pub const TRACKS_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fmp4Error {
    #[error("a box is cut short or announces an impossible size")]
    BoxSize,
    #[error("the {0} box is missing")]
    Missing(&'static str),
    #[error("more than {TRACKS_MAX} tracks")]
    TooManyTracks,
    #[error("the time does not fit into the 32 bits that this stream reserves for it")]
    TimeOverflow,
}
