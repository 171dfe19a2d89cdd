//! The MPD of a publishing point: the same segments as in its playlists, by number.
//!
//! A period is one run of the lead track's encoder. While a track keeps its rhythm its segments are told
//! by a template with a duration, so that players need no new MPD for each, and can ask for a segment
//! that is still arriving; otherwise by a timeline of complete segments.

use std::sync::Arc;

use super::listing::{media_type, segment_uri};
use super::point::{Entry, Point, State};
use super::shape::Shape;
use super::track::{Kind, Micros, Origin, Segment, Track};
use super::view::Text;
use crate::wire::manifest::{
    AdaptationSet, ContentType, Event, EventStream, Latency, Mpd, MpdKind, Period, PlaybackRate,
    ProducerReference, Representation, Resync, Template, Timeline,
};

const MPD_TYPE: &str = "application/dash+xml";
/// How far a segment of a regular track may lie from where its number says.
const DRIFT_US_MAX: Micros = 30_000;

impl Point {
    pub(super) fn manifest(&self, state: &mut State) -> Option<Arc<Text>> {
        let shape = state.shape?;
        let version = state.version;
        if let Some((_, text)) = state.manifest.as_ref().filter(|(made, _)| *made == version) {
            return Some(text.clone());
        }
        let text = Text::new(MPD_TYPE, self.mpd(state, &shape)?.write(), self.now_ms());
        state.manifest = Some((version, text.clone()));
        Some(text)
    }

    fn mpd(&self, state: &State, shape: &Shape) -> Option<Mpd> {
        let lead = &state.in_order().first()?.track;
        let start_us = shape.start_us;
        let is_over = state.entries.iter().all(|entry| entry.track.is_ended);
        let part_us = shape.part_us_max.max(1);
        let target_ms = (part_us * 4 / 1000) as u64;
        let end_us =
            lead.listed().next_back().map_or(start_us, |last| last.wall_us() + last.duration_us());
        Some(Mpd {
            kind: if is_over { MpdKind::Static } else { MpdKind::Dynamic },
            availability_start_ms: start_us.div_euclid(1000),
            publish_time_ms: self.now_ms() as i64,
            minimum_update_s: Some(shape.target_duration_s as f64),
            time_shift_depth_s: match self.rule.kind {
                super::ListKind::Window => Some(self.rule.window_ms as f64 / 1000.0),
                super::ListKind::Event => None,
            },
            max_segment_duration_s: Some(shape.target_duration_s as f64 + 0.5),
            min_buffer_s: part_us as f64 / 1e6,
            duration_s: is_over.then(|| (end_us - start_us) as f64 / 1e6),
            latency: Some(Latency {
                target_ms,
                min_ms: Some(target_ms / 2),
                max_ms: Some(target_ms * 4),
                reference_id: Some(0),
            }),
            playback_rate: Some(PlaybackRate { min: 0.96, max: 1.04 }),
            utc_timing: Some("time".to_owned()),
            periods: periods(state, lead, shape, start_us, is_over, end_us),
            ..Mpd::default()
        })
    }
}

fn periods(
    state: &State,
    lead: &Track,
    shape: &Shape,
    start_us: Micros,
    is_over: bool,
    end_us: Micros,
) -> Vec<Period> {
    let origins = lead.origins();
    let mut periods = Vec::new();
    for (place, origin) in origins.iter().enumerate() {
        let is_first = origin.msn == shape.origin_msn;
        let from_us = if is_first { start_us } else { origin.wall_us };
        let until_us = origins.get(place + 1).map(|next| next.wall_us);
        let until_us = until_us.or(is_over.then_some(end_us));
        let mut sets: Vec<AdaptationSet> = Vec::new();
        for entry in state.in_order() {
            let run = run_in(&entry.track, origin, origins.get(place + 1));
            let set = run.and_then(|run| set_of(entry, run, shape, from_us, is_over));
            let Some(set) = set else { continue };
            // Pictures in several qualities are one set: players change between its members.
            let same = sets.iter_mut().find(|other| {
                entry.track.kind == Kind::Video
                    && other.content_type == ContentType::Video
                    && (&other.template, &other.mime) == (&set.template, &set.mime)
            });
            match same {
                Some(same) => same.representations.extend(set.representations),
                None => sets.push(AdaptationSet { id: sets.len() as u32, ..set }),
            }
        }
        // A run that never came to a segment.
        if sets.is_empty() {
            continue;
        }
        let duration_s = until_us.map(|until_us| (until_us - from_us).max(0) as f64 / 1e6);
        periods.push(Period {
            id: format!("p{}", origin.publication.run),
            start_ms: ((from_us - start_us).max(0) / 1000) as u64,
            duration_s,
            event_streams: event_streams(state, from_us, until_us),
            sets,
        });
    }
    periods
}

/// The run that a track is in during a period of the lead track. One that began again alone is at
/// another, later one: its newest counts.
fn run_in(track: &Track, period: &Origin, next: Option<&Origin>) -> Option<u64> {
    let runs = track.listed().rev().map(|segment| segment.publication.run);
    let is_inside = |run: &u64| {
        *run >= period.publication.run && next.is_none_or(|next| *run < next.publication.run)
    };
    runs.filter(is_inside).max()
}

fn set_of(
    entry: &Entry,
    run: u64,
    shape: &Shape,
    from_us: Micros,
    is_over: bool,
) -> Option<AdaptationSet> {
    let track = &entry.track;
    let is_of_run = |segment: &&Segment| segment.publication.run == run;
    let first = track.listed().find(is_of_run)?;
    let zero_us = first.publication.zero_us;
    let timescale = first.timescale;
    let ticks = |us: Micros| (us.max(0) as u128 * u128::from(timescale) / 1_000_000) as u64;
    let is_regular =
        track.listed().filter(is_of_run).all(|segment| is_in_step(track, segment, shape, from_us));
    let offset = ticks(from_us - zero_us);
    let media = segment_uri("$RepresentationID$", "", 0, entry.info.is_ts);
    let media = media.replace("//0.", "/$Number$.");
    let number = (first.wall_us() - from_us + shape.segment_us / 2).div_euclid(shape.segment_us);
    let template = Template {
        timescale: u32::try_from(timescale).unwrap_or(u32::MAX),
        init: first.init.as_ref().map(|_| "$RepresentationID$/init.mp4".to_owned()),
        media,
        start_number: if is_regular {
            first.msn.saturating_sub(number.max(0) as u64)
        } else {
            first.msn
        },
        presentation_time_offset: offset,
        duration: is_regular.then(|| ticks(shape.segment_us)),
        timeline: if is_regular { Vec::new() } else { timeline(track, run) },
        availability_time_offset: (is_regular && !is_over)
            .then(|| (shape.segment_us - shape.part_us_max).max(0) as f64 / 1e6)
            .filter(|offset| *offset > 0.0),
        complete: !is_regular || is_over,
    };
    Some(AdaptationSet {
        id: 0,
        content_type: match track.kind {
            Kind::Video | Kind::Muxed => ContentType::Video,
            Kind::Audio => ContentType::Audio,
            Kind::Text => ContentType::Text,
        },
        mime: media_type(entry).to_owned(),
        lang: entry.info.language.clone(),
        roles: if entry.info.roles.is_empty() {
            vec!["main".to_owned()]
        } else {
            entry.info.roles.clone()
        },
        segment_alignment: true,
        start_with_sap: track.listed().all(|segment| segment.starts_sync).then_some(1),
        inband_event_streams: Vec::new(),
        producer_reference: Some(ProducerReference {
            id: 0,
            wallclock_ms: from_us.div_euclid(1000),
            media_time: offset,
            inband: false,
        }),
        resync: Some(Resync { sap_type: 0, distance_max: Some(ticks(shape.part_us_max)) })
            .filter(|_| !is_over && shape.part_us_max > 0),
        template,
        representations: vec![representation(entry, first)],
    })
}

/// The segment lies where a template with a duration says.
fn is_in_step(track: &Track, segment: &Segment, shape: &Shape, from_us: Micros) -> bool {
    let Some(origin) =
        track.origins().iter().find(|o| o.publication.run == segment.publication.run)
    else {
        return false;
    };
    let since = segment.msn.saturating_sub(origin.msn) as Micros * shape.segment_us;
    // Tracks without pictures are cut at the chunk nearest to the beat.
    let may_drift = if track.kind.is_visual() { DRIFT_US_MAX } else { shape.segment_us / 4 };
    let beats = (origin.wall_us - from_us + shape.segment_us / 2).div_euclid(shape.segment_us);
    let expected_us = from_us + beats * shape.segment_us + since;
    (segment.wall_us() - expected_us).abs() <= may_drift
}

fn timeline(track: &Track, run: u64) -> Vec<Timeline> {
    let mut runs: Vec<Timeline> = Vec::new();
    let complete = track.listed().filter(|segment| segment.is_complete);
    for segment in complete.filter(|segment| segment.publication.run == run) {
        match runs.last_mut() {
            Some(last)
                if last.d == segment.duration && last.t + last.d * (last.r + 1) == segment.time =>
            {
                last.r += 1;
            }
            _ => runs.push(Timeline { t: segment.time, d: segment.duration, r: 0 }),
        }
    }
    runs
}

fn representation(entry: &Entry, first: &Segment) -> Representation {
    let info = &entry.info;
    Representation {
        id: format!("{}/{}", entry.track.name, first.publication.epoch),
        codecs: (!info.codecs.is_empty()).then(|| info.codecs.join(",")),
        bandwidth: entry.peak_bps.max(1),
        width: (info.width > 0).then_some(info.width),
        height: (info.height > 0).then_some(info.height),
        frame_rate: info.frame_rate.map(frame_rate),
        audio_rate: (info.sample_rate > 0).then_some(info.sample_rate),
        channels: (info.channels > 0).then_some(info.channels),
    }
}

/// `25`, or `30000/1001` for the rates of NTSC.
fn frame_rate(rate: f64) -> String {
    let whole = rate.round();
    let ntsc = (rate * 1.001).round();
    if (rate - whole).abs() < 0.005 {
        format!("{whole}")
    } else if (rate - ntsc * 1000.0 / 1001.0).abs() < 0.005 {
        format!("{}/1001", ntsc * 1000.0)
    } else {
        format!("{}/1000", (rate * 1000.0).round())
    }
}

fn event_streams(state: &State, from_us: Micros, until_us: Option<Micros>) -> Vec<EventStream> {
    let mut streams: Vec<EventStream> = Vec::new();
    let is_inside =
        |ms: i64| ms * 1000 >= from_us && until_us.is_none_or(|until| ms * 1000 < until);
    for event in state.events.iter().filter(|event| is_inside(event.range.start_ms)) {
        let seconds = event.range.duration_s.or(event.range.planned_duration_s);
        let (scheme, value) = (event.scheme.clone(), event.value.clone());
        let event = Event {
            time: ((event.range.start_ms * 1000 - from_us).max(0) / 1000) as u64,
            duration: seconds.map(|seconds| (seconds * 1000.0) as u64),
            id: event.id,
            data: event.data.clone(),
        };
        match streams.iter_mut().find(|stream| (&stream.scheme, &stream.value) == (&scheme, &value))
        {
            Some(stream) => stream.events.push(event),
            None => streams.push(EventStream {
                scheme,
                value,
                timescale: 1000,
                events: vec![event],
                ..EventStream::default()
            }),
        }
    }
    streams
}
