//! The text of a manifest: elements in the order of the schema, everything escaped. A manifest
//! changes seldom, unlike a playlist, but is written with the same plain appends.

use super::mpd::{
    AdaptationSet, ContentType, Event, EventData, EventStream, Latency, Mpd, MpdKind, Period,
    PlaybackRate, ProducerReference, Representation, SCTE35_XML_SCHEME, Template,
};
use crate::wire::numbers::{push_decimal, push_integer, push_time};

const PROFILES: &str = "urn:mpeg:dash:profile:isoff-live:2011,\
    http://www.dashif.org/guidelines/low-latency-live-v5";
const ROLE_SCHEME: &str = "urn:mpeg:dash:role:2011";
const CHANNELS_SCHEME: &str = "urn:mpeg:dash:23003:3:audio_channel_configuration:2011";
/// A URL that answers with ISO 8601.
const UTC_SCHEME: &str = "urn:mpeg:dash:utc:http-iso:2014";
const SCTE35_NAMESPACE: &str = "http://www.scte.org/schemas/35/2016";

/// Of seconds: milliseconds.
const SECONDS_DECIMALS: u32 = 3;

impl Mpd {
    pub fn write(&self) -> String {
        let mut xml = Xml { out: String::with_capacity(4096), depth: 0 };
        xml.out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        xml.open("MPD", |tag| self.write_attributes(tag));
        self.write_service(&mut xml);
        for period in &self.periods {
            write_period(period, self, &mut xml);
        }
        self.write_utc_timing(&mut xml);
        xml.close("MPD");
        xml.out
    }

    fn write_attributes(&self, tag: &mut Tag<'_>) {
        tag.text("xmlns", "urn:mpeg:dash:schema:mpd:2011");
        tag.text("profiles", PROFILES);
        match self.kind {
            MpdKind::Static => {
                tag.text("type", "static");
                tag.duration("mediaPresentationDuration", self.duration_s);
            }
            MpdKind::Dynamic => {
                tag.text("type", "dynamic");
                tag.time("availabilityStartTime", self.availability_start_ms);
                tag.time("publishTime", self.publish_time_ms);
                tag.duration("minimumUpdatePeriod", self.minimum_update_s);
                tag.duration("timeShiftBufferDepth", self.time_shift_depth_s);
                tag.duration("suggestedPresentationDelay", self.suggested_delay_s);
            }
        }
        tag.duration("minBufferTime", Some(self.min_buffer_s));
        tag.duration("maxSegmentDuration", self.max_segment_duration_s);
    }

    fn write_service(&self, xml: &mut Xml) {
        if self.latency.is_none() && self.playback_rate.is_none() {
            return;
        }
        xml.open("ServiceDescription", |tag| tag.text("id", "0"));
        if let Some(latency) = &self.latency {
            xml.leaf("Latency", |tag| write_latency(latency, tag));
        }
        if let Some(PlaybackRate { min, max }) = self.playback_rate {
            xml.leaf("PlaybackRate", |tag| {
                tag.decimal("max", max);
                tag.decimal("min", min);
            });
        }
        xml.close("ServiceDescription");
    }

    fn write_utc_timing(&self, xml: &mut Xml) {
        if let Some(url) = &self.utc_timing {
            xml.leaf("UTCTiming", |tag| {
                tag.text("schemeIdUri", UTC_SCHEME);
                tag.text("value", url);
            });
        }
    }
}

fn write_latency(latency: &Latency, tag: &mut Tag<'_>) {
    tag.integer_if("referenceId", latency.reference_id);
    tag.integer("target", latency.target_ms);
    tag.integer_if("min", latency.min_ms);
    tag.integer_if("max", latency.max_ms);
}

fn write_period(period: &Period, mpd: &Mpd, xml: &mut Xml) {
    xml.open("Period", |tag| {
        tag.text("id", &period.id);
        tag.duration("start", Some(period.start_ms as f64 / 1000.0));
        tag.duration("duration", period.duration_s);
    });
    period.event_streams.iter().for_each(|stream| write_event_stream(stream, xml));
    period.sets.iter().for_each(|set| write_set(set, mpd, xml));
    xml.close("Period");
}

fn write_event_stream(stream: &EventStream, xml: &mut Xml) {
    xml.open("EventStream", |tag| {
        tag.text("schemeIdUri", &stream.scheme);
        tag.text_if("value", stream.value.as_deref());
        tag.integer("timescale", stream.timescale.into());
        tag.integer_above("presentationTimeOffset", stream.presentation_time_offset, 0);
    });
    for event in &stream.events {
        write_event(event, stream.scheme == SCTE35_XML_SCHEME, xml);
    }
    xml.close("EventStream");
}

/// Text and Base64 stand without white space around them: they are the data.
fn write_event(event: &Event, is_scte35: bool, xml: &mut Xml) {
    let mut tag = xml.tag("Event");
    tag.integer("presentationTime", event.time);
    tag.integer_if("duration", event.duration);
    tag.integer("id", event.id.into());
    match &event.data {
        EventData::Text(text) => {
            tag.out.push('>');
            push_escaped(tag.out, text);
        }
        EventData::Base64(bytes) if is_scte35 => {
            tag.out.push_str("><scte35:Signal xmlns:scte35=\"");
            tag.out.push_str(SCTE35_NAMESPACE);
            tag.out.push_str("\"><scte35:Binary>");
            push_base64(tag.out, bytes);
            tag.out.push_str("</scte35:Binary></scte35:Signal>");
        }
        EventData::Base64(bytes) => {
            tag.text("contentEncoding", "base64");
            tag.out.push('>');
            push_base64(tag.out, bytes);
        }
    }
    xml.out.push_str("</Event>\n");
}

fn write_set(set: &AdaptationSet, mpd: &Mpd, xml: &mut Xml) {
    xml.open("AdaptationSet", |tag| {
        tag.integer("id", set.id.into());
        tag.text(
            "contentType",
            match set.content_type {
                ContentType::Video => "video",
                ContentType::Audio => "audio",
                ContentType::Text => "text",
            },
        );
        tag.text("mimeType", &set.mime);
        tag.text_if("lang", set.lang.as_deref());
        if set.segment_alignment {
            tag.text("segmentAlignment", "true");
        }
        tag.integer_if("startWithSAP", set.start_with_sap);
    });
    for stream in &set.inband_event_streams {
        xml.leaf("InbandEventStream", |tag| {
            tag.text("schemeIdUri", &stream.scheme);
            tag.text_if("value", stream.value.as_deref());
        });
    }
    if let Some(reference) = &set.producer_reference {
        write_reference(reference, mpd, xml);
    }
    if let Some(resync) = set.resync {
        xml.leaf("Resync", |tag| {
            tag.integer("type", resync.sap_type.into());
            tag.integer_if("dT", resync.distance_max);
        });
    }
    for role in &set.roles {
        xml.leaf("Role", |tag| {
            tag.text("schemeIdUri", ROLE_SCHEME);
            tag.text("value", role);
        });
    }
    write_template(&set.template, xml);
    set.representations.iter().for_each(|one| write_representation(one, xml));
    xml.close("AdaptationSet");
}

fn write_reference(reference: &ProducerReference, mpd: &Mpd, xml: &mut Xml) {
    let attributes = |tag: &mut Tag<'_>| {
        tag.integer("id", reference.id.into());
        if reference.inband {
            tag.text("inband", "true");
        }
        tag.text("type", "encoder");
        tag.time("wallClockTime", reference.wallclock_ms);
        tag.integer("presentationTime", reference.media_time);
    };
    xml.open("ProducerReferenceTime", attributes);
    mpd.write_utc_timing(xml);
    xml.close("ProducerReferenceTime");
}

fn write_template(template: &Template, xml: &mut Xml) {
    let attributes = |tag: &mut Tag<'_>| {
        tag.integer("timescale", template.timescale.into());
        tag.text_if("initialization", template.init.as_deref());
        tag.text("media", &template.media);
        tag.integer("startNumber", template.start_number);
        tag.integer_above("presentationTimeOffset", template.presentation_time_offset, 0);
        tag.integer_if("duration", template.duration);
        if let Some(offset_s) = template.availability_time_offset {
            tag.decimal("availabilityTimeOffset", offset_s);
        }
        if !template.complete {
            tag.text("availabilityTimeComplete", "false");
        }
    };
    if template.duration.is_some() {
        return xml.leaf("SegmentTemplate", attributes);
    }
    xml.open("SegmentTemplate", attributes);
    xml.open("SegmentTimeline", |_| ());
    let mut expected = None;
    for entry in &template.timeline {
        xml.leaf("S", |tag| {
            tag.integer_if("t", (expected != Some(entry.t)).then_some(entry.t));
            tag.integer("d", entry.d);
            tag.integer_above("r", entry.r, 0);
        });
        let length = entry.d.checked_mul(entry.r.saturating_add(1));
        expected = length.and_then(|length| entry.t.checked_add(length));
    }
    xml.close("SegmentTimeline");
    xml.close("SegmentTemplate");
}

fn write_representation(one: &Representation, xml: &mut Xml) {
    let attributes = |tag: &mut Tag<'_>| {
        tag.text("id", &one.id);
        tag.text_if("codecs", one.codecs.as_deref());
        tag.integer("bandwidth", one.bandwidth);
        tag.integer_if("width", one.width);
        tag.integer_if("height", one.height);
        tag.text_if("frameRate", one.frame_rate.as_deref());
        tag.integer_if("audioSamplingRate", one.audio_rate);
    };
    let Some(channels) = one.channels else {
        return xml.leaf("Representation", attributes);
    };
    xml.open("Representation", attributes);
    xml.leaf("AudioChannelConfiguration", |tag| {
        tag.text("schemeIdUri", CHANNELS_SCHEME);
        tag.integer("value", channels.into());
    });
    xml.close("Representation");
}

struct Xml {
    out: String,
    depth: usize,
}

impl Xml {
    fn tag(&mut self, name: &str) -> Tag<'_> {
        self.out.extend(std::iter::repeat_n("  ", self.depth));
        self.out.push('<');
        self.out.push_str(name);
        Tag { out: &mut self.out }
    }

    fn open(&mut self, name: &str, attributes: impl FnOnce(&mut Tag<'_>)) {
        attributes(&mut self.tag(name));
        self.out.push_str(">\n");
        self.depth += 1;
    }

    fn leaf(&mut self, name: &str, attributes: impl FnOnce(&mut Tag<'_>)) {
        attributes(&mut self.tag(name));
        self.out.push_str("/>\n");
    }

    fn close(&mut self, name: &str) {
        self.depth -= 1;
        self.out.extend(std::iter::repeat_n("  ", self.depth));
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push_str(">\n");
    }
}

struct Tag<'o> {
    out: &'o mut String,
}

impl Tag<'_> {
    fn quoted(&mut self, name: &str, write: impl FnOnce(&mut String)) {
        self.out.push(' ');
        self.out.push_str(name);
        self.out.push_str("=\"");
        write(self.out);
        self.out.push('"');
    }

    fn text(&mut self, name: &str, value: &str) {
        self.quoted(name, |out| push_escaped(out, value));
    }

    fn text_if(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn integer(&mut self, name: &str, value: u64) {
        self.quoted(name, |out| push_integer(out, value));
    }

    fn integer_if(&mut self, name: &str, value: Option<impl Into<u64>>) {
        if let Some(value) = value {
            self.integer(name, value.into());
        }
    }

    /// Left out where it is the default.
    fn integer_above(&mut self, name: &str, value: u64, default: u64) {
        if value > default {
            self.integer(name, value);
        }
    }

    fn decimal(&mut self, name: &str, value: f64) {
        self.quoted(name, |out| push_decimal(out, value, SECONDS_DECIMALS));
    }

    fn duration(&mut self, name: &str, seconds: Option<f64>) {
        if let Some(seconds) = seconds {
            self.quoted(name, |out| {
                out.push_str("PT");
                push_decimal(out, seconds, SECONDS_DECIMALS);
                out.push('S');
            });
        }
    }

    fn time(&mut self, name: &str, unix_ms: i64) {
        self.quoted(name, |out| push_time(out, unix_ms));
    }
}

/// For attributes and text. What XML 1.0 cannot have becomes a blank, as do the line ends that a
/// reader would make blanks of in an attribute.
fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn push_base64(out: &mut String, bytes: &[u8]) {
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let sextet = bits >> (18 - 6 * index) & 0x3f;
            out.push(if index > group.len() { '=' } else { BASE64[sextet as usize].into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::manifest::{InbandEventStream, Resync, SCTE35_BIN_SCHEME, Timeline};

    fn representation(id: &str, channels: Option<u32>) -> Representation {
        Representation {
            id: id.to_owned(),
            codecs: Some(if channels.is_some() { "mp4a.40.2" } else { "avc1.64001F" }.to_owned()),
            bandwidth: 2_000_000,
            width: channels.is_none().then_some(1280),
            height: channels.is_none().then_some(720),
            frame_rate: channels.is_none().then(|| "30000/1001".to_owned()),
            audio_rate: channels.map(|_| 48_000),
            channels,
        }
    }

    fn video() -> AdaptationSet {
        AdaptationSet {
            id: 0,
            mime: "video/mp4".to_owned(),
            roles: vec!["main".to_owned()],
            segment_alignment: true,
            start_with_sap: Some(1),
            inband_event_streams: vec![InbandEventStream {
                scheme: SCTE35_BIN_SCHEME.to_owned(),
                value: None,
            }],
            producer_reference: Some(ProducerReference {
                id: 0,
                wallclock_ms: 1_795_255_200_000,
                media_time: 90_000,
                inband: true,
            }),
            resync: Some(Resync { sap_type: 0, distance_max: Some(18_000) }),
            template: Template {
                timescale: 90_000,
                init: Some("$RepresentationID$/e1/init.mp4".to_owned()),
                media: "$RepresentationID$/e1/$Number$.m4s".to_owned(),
                start_number: 7,
                duration: Some(180_000),
                availability_time_offset: Some(1.8),
                complete: false,
                ..Template::default()
            },
            representations: vec![representation("video", None)],
            ..AdaptationSet::default()
        }
    }

    fn live() -> Mpd {
        let audio = AdaptationSet {
            id: 1,
            content_type: ContentType::Audio,
            mime: "audio/mp4".to_owned(),
            lang: Some("en".to_owned()),
            template: Template {
                timescale: 48_000,
                media: "a/$Number$.m4s".to_owned(),
                timeline: vec![
                    Timeline { t: 5, d: 10, r: 1 },
                    Timeline { t: 25, d: 11, r: 0 },
                    Timeline { t: 40, d: 10, r: 0 },
                ],
                complete: true,
                ..Template::default()
            },
            representations: vec![representation("audio", Some(2))],
            ..AdaptationSet::default()
        };
        let event = |data| Event { time: 180_000, duration: None, id: 7, data };
        let stream = |scheme: &str, data| EventStream {
            scheme: scheme.to_owned(),
            timescale: 90_000,
            events: vec![event(data)],
            ..EventStream::default()
        };
        Mpd {
            availability_start_ms: 1_795_255_200_000,
            publish_time_ms: 1_795_255_201_500,
            minimum_update_s: Some(2.0),
            time_shift_depth_s: Some(60.0),
            min_buffer_s: 1.0,
            latency: Some(Latency {
                target_ms: 2000,
                min_ms: Some(1000),
                max_ms: None,
                reference_id: Some(0),
            }),
            playback_rate: Some(PlaybackRate { min: 0.96, max: 1.04 }),
            utc_timing: Some("/time?a&b".to_owned()),
            periods: vec![Period {
                id: "e1".to_owned(),
                event_streams: vec![
                    stream(SCTE35_XML_SCHEME, EventData::Base64(vec![0xfc, 0x30, 0x11, 0])),
                    stream("urn:x", EventData::Text("a<b".to_owned())),
                ],
                sets: vec![video(), audio],
                ..Period::default()
            }],
            ..Mpd::default()
        }
    }

    #[test]
    fn a_live_manifest_is_written_so() {
        let expected = include_str!("live_example.mpd");
        assert_eq!(live().write(), expected);
    }

    #[test]
    fn another_reader_finds_what_was_written() {
        let read = dash_mpd_core::parse(&live().write()).expect("it is a manifest");
        assert_eq!(read.mpdtype.as_deref(), Some("dynamic"));
        let start = read.availabilityStartTime.expect("it is live");
        assert_eq!(start.timestamp_millis(), 1_795_255_200_000);
        assert_eq!(read.minimumUpdatePeriod.map(|period| period.as_secs_f64()), Some(2.0));
        let latency = &read.ServiceDescription[0].Latency[0];
        assert_eq!((latency.target, latency.min), (Some(2000.0), Some(1000.0)));
        assert_eq!(read.UTCTiming[0].value.as_deref(), Some("/time?a&b"));
        let period = &read.periods[0];
        assert_eq!(period.event_streams.len(), 2);
        assert_eq!(period.event_streams[0].event[0].presentationTime, Some(180_000));
        let signal = &period.event_streams[0].event[0].signal[0];
        assert_eq!(signal.content.as_ref().map(|b| b.content.as_str()), Some("/DARAA=="));
        let video = &period.adaptations[0];
        assert_eq!(video.representations[0].frameRate.as_deref(), Some("30000/1001"));
        let template = video.SegmentTemplate.as_ref().expect("it has one");
        assert_eq!((template.startNumber, template.timescale), (Some(7), Some(90_000)));
        assert_eq!(template.availabilityTimeComplete, Some(false));
        assert_eq!(template.availabilityTimeOffset, Some(1.8));
        let audio = &period.adaptations[1];
        let timeline = audio.SegmentTemplate.as_ref().and_then(|t| t.SegmentTimeline.as_ref());
        let entries = &timeline.expect("it has one").segments;
        let times: Vec<_> = entries.iter().map(|s| (s.t, s.d, s.r)).collect();
        assert_eq!(times, [(Some(5), 10, Some(1)), (None, 11, None), (Some(40), 10, None)]);
    }

    #[test]
    fn an_ended_manifest_is_static() {
        let ended = Mpd { kind: MpdKind::Static, duration_s: Some(12.34), ..live() }.write();
        assert!(ended.contains("type=\"static\" mediaPresentationDuration=\"PT12.340S\""));
        assert!(!ended.contains("availabilityStartTime") && !ended.contains("minimumUpdate"));
        dash_mpd_core::parse(&ended).expect("it is a manifest");
    }

    #[test]
    fn base64_has_its_padding() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foobar", "Zm9vYmFy")] {
            let mut out = String::new();
            push_base64(&mut out, bytes.as_bytes());
            assert_eq!(out, text);
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back(id in "\\PC{1,20}", lang in "\\PC{1,8}", event in any::<String>()) {
            let mut mpd = live();
            let period = &mut mpd.periods[0];
            period.sets[0].lang = Some(lang.clone());
            period.sets[0].representations[0].id = id.clone();
            period.event_streams[1].events[0].data = EventData::Text(event);
            let read = dash_mpd_core::parse(&mpd.write());
            let read = read.map_err(|why| TestCaseError::fail(why.to_string()))?;
            let set = &read.periods[0].adaptations[0];
            prop_assert_eq!(set.lang.as_deref(), Some(lang.as_str()));
            prop_assert_eq!(set.representations[0].id.as_deref(), Some(id.as_str()));
        }

        #[test]
        fn any_period_comes_back(start_ms in 0..4_000_000_000_u64, t in any::<u64>(), d in 1..u64::MAX,
            r in 0..1000_u64, bandwidth in any::<u64>()) {
            let mut mpd = live();
            let period = &mut mpd.periods[0];
            period.start_ms = start_ms;
            period.sets[1].template.timeline = vec![Timeline { t, d, r }];
            period.sets[0].representations[0].bandwidth = bandwidth;
            let read = dash_mpd_core::parse(&mpd.write());
            let read = read.map_err(|why| TestCaseError::fail(why.to_string()))?;
            let start = read.periods[0].start.map(|start| start.as_millis());
            prop_assert_eq!(start, Some(u128::from(start_ms)));
            let audio = &read.periods[0].adaptations[1];
            let timeline = audio.SegmentTemplate.as_ref().and_then(|t| t.SegmentTimeline.as_ref());
            let first = &timeline.expect("it has one").segments[0];
            prop_assert_eq!((first.t, first.d), (Some(t), d));
            let video = &read.periods[0].adaptations[0].representations[0];
            prop_assert_eq!(video.bandwidth, Some(bandwidth));
        }
    }
}
