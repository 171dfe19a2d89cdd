//! DASH manifests (ISO/IEC 23009-1, with the low-latency profile of DASH-IF): the value that the
//! packager fills and writes, and the reading of manifests that publishers push.
//!
//! `mpd` (the value), `mpd_text` (its text), `pushed_mpd` (somebody else's text). What is
//! available, and when, is not decided here.

mod mpd;
mod mpd_text;
mod pushed_mpd;

pub use mpd::{
    AdaptationSet, ContentType, Event, EventData, EventStream, InbandEventStream, Latency, Mpd,
    MpdKind, Period, PlaybackRate, ProducerReference, Representation, Resync, SCTE35_BIN_SCHEME,
    SCTE35_XML_SCHEME, Template, Timeline,
};
pub use pushed_mpd::{MPD_BYTES_MAX, ManifestError, PushedMpd, PushedTrack, pushed_tracks};
