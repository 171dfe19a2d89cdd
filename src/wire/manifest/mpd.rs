//! A manifest as a value. Times without a timescale are milliseconds or seconds, as their names
//! say; fields that are None or empty are not written.

/// Events whose data is a splice_info_section as binary in XML (SCTE 214-1).
pub const SCTE35_XML_SCHEME: &str = "urn:scte:scte35:2014:xml+bin";
/// Events of `emsg` boxes whose data is the section itself.
pub const SCTE35_BIN_SCHEME: &str = "urn:scte:scte35:2013:bin";

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mpd {
    pub kind: MpdKind,
    /// Zero of the periods' start times; unix ms. Not written when static.
    pub availability_start_ms: i64,
    /// Changes with every change of the manifest; unix ms. Not written when static.
    pub publish_time_ms: i64,
    /// How long a reader may keep the manifest. Not written when static.
    pub minimum_update_s: Option<f64>,
    /// None: everything since the start.
    pub time_shift_depth_s: Option<f64>,
    pub suggested_delay_s: Option<f64>,
    /// Of any segment of any representation.
    pub max_segment_duration_s: Option<f64>,
    pub min_buffer_s: f64,
    /// The whole presentation; set when static.
    pub duration_s: Option<f64>,
    /// What a low-latency player aims at.
    pub latency: Option<Latency>,
    /// How far a player may speed up or slow down to get there.
    pub playback_rate: Option<PlaybackRate>,
    /// Where a player sets its clock: a URL that answers with ISO 8601.
    pub utc_timing: Option<String>,
    pub periods: Vec<Period>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MpdKind {
    #[default]
    Dynamic,
    Static,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    pub target_ms: u64,
    pub min_ms: Option<u64>,
    pub max_ms: Option<u64>,
    /// The producer reference time that latency is measured against.
    pub reference_id: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlaybackRate {
    pub min: f64,
    pub max: f64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Period {
    pub id: String,
    /// From `availability_start_ms`.
    pub start_ms: u64,
    /// Set when the period is over.
    pub duration_s: Option<f64>,
    pub event_streams: Vec<EventStream>,
    pub sets: Vec<AdaptationSet>,
}

/// Representations that a player may change between, all with the same segments.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdaptationSet {
    pub id: u32,
    pub content_type: ContentType,
    /// `video/mp4`.
    pub mime: String,
    /// RFC 5646.
    pub lang: Option<String>,
    /// Of `urn:mpeg:dash:role:2011`: main, alternate, …
    pub roles: Vec<String>,
    pub segment_alignment: bool,
    /// Every segment begins with a stream access point of this type.
    pub start_with_sap: Option<u32>,
    /// Events that `emsg` boxes in the segments carry.
    pub inband_event_streams: Vec<InbandEventStream>,
    /// Ties media time to the encoder's clock.
    pub producer_reference: Option<ProducerReference>,
    /// Where in a segment a player may begin.
    pub resync: Option<Resync>,
    pub template: Template,
    pub representations: Vec<Representation>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContentType {
    #[default]
    Video,
    Audio,
    Text,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Representation {
    /// Stands for `$RepresentationID$` in the template.
    pub id: String,
    /// RFC 6381.
    pub codecs: Option<String>,
    /// bit/s.
    pub bandwidth: u64,
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// `25`, or `30000/1001`.
    pub frame_rate: Option<String>,
    /// Hz.
    pub audio_rate: Option<u32>,
    pub channels: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Template {
    pub timescale: u32,
    pub init: Option<String>,
    /// With `$RepresentationID$`, and `$Number$` or `$Time$`.
    pub media: String,
    pub start_number: u64,
    /// Media time, in `timescale`, of the period's start.
    pub presentation_time_offset: u64,
    /// Regular segments of this length in `timescale`; or a timeline.
    pub duration: Option<u64>,
    /// One entry for each run of segments of the same length; written if `duration` is None.
    pub timeline: Vec<Timeline>,
    /// How long before its end a segment can be asked for.
    pub availability_time_offset: Option<f64>,
    /// Segments are complete when they can first be asked for; not so with low latency.
    pub complete: bool,
}

/// `S` of a SegmentTimeline, in the template's timescale: `r` more segments follow the first. `t`
/// is written only where it is not the end of the entry before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeline {
    pub t: u64,
    pub d: u64,
    pub r: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProducerReference {
    pub id: u32,
    /// Unix ms at which `media_time` was encoded.
    pub wallclock_ms: i64,
    /// In the template's timescale.
    pub media_time: u64,
    /// `prft` boxes in the segments say so too.
    pub inband: bool,
}

/// Resync points: where a player can begin to parse, here the moof of each chunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resync {
    /// Highest type of stream access point that may stand there; 0: none is promised.
    pub sap_type: u32,
    /// Longest distance of two points in the template's timescale.
    pub distance_max: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InbandEventStream {
    pub scheme: String,
    pub value: Option<String>,
}

/// Events that the manifest itself carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventStream {
    pub scheme: String,
    pub value: Option<String>,
    pub timescale: u32,
    /// Presentation time, in `timescale`, of the period's start.
    pub presentation_time_offset: u64,
    pub events: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub time: u64,
    /// None: not known.
    pub duration: Option<u64>,
    pub id: u32,
    pub data: EventData,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventData {
    Text(String),
    /// Written as Base64; in a stream of [`SCTE35_XML_SCHEME`] within its elements Signal and Binary.
    Base64(Vec<u8>),
}
