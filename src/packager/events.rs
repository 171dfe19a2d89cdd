//! Events that travel with the media, as date ranges of playlists and events of MPDs: `emsg` of CMAF
//! and splice_info_sections of MPEG-TS (SCTE 35). RFC 8216bis §4.4.5.1.1 and ISO/IEC 23009-1 §5.10.2 say
//! how they are written.

use super::track::Micros;
use crate::wire::fmp4::{EventMessage, EventTime};
use crate::wire::manifest::{EventData, SCTE35_XML_SCHEME};
use crate::wire::mpegts::CLOCK_HZ;
use crate::wire::playlist::{ClientValue, DateRange};
use crate::wire::scte35::{self, Command, Splice};

const SCTE35_SCHEME: &str = "urn:scte:scte35:2013:bin";

/// One event in the words of both.
pub(super) struct TimedEvent {
    pub(super) range: DateRange,
    pub(super) scheme: String,
    pub(super) value: Option<String>,
    pub(super) id: u32,
    pub(super) data: EventData,
}

impl TimedEvent {
    /// A section that nobody numbered is known by its CRC_32, its last four bytes.
    fn of_splice(range: DateRange, id: Option<u32>, section: &[u8]) -> TimedEvent {
        TimedEvent {
            id: id.or_else(|| section.last_chunk().copied().map(u32::from_be_bytes)).unwrap_or(0),
            range,
            scheme: SCTE35_XML_SCHEME.to_owned(),
            value: None,
            data: EventData::Base64(section.to_vec()),
        }
    }
}

/// The media time of an event in microseconds, and the event. `chunk_us` is the time of the chunk that it
/// came with.
pub(super) fn of_message(event: &EventMessage, chunk_us: Micros) -> Option<(Micros, TimedEvent)> {
    let us = |ticks: u64| {
        let us = u128::from(ticks) * 1_000_000 / u128::from(event.timescale.max(1));
        Micros::try_from(us).unwrap_or(Micros::MAX)
    };
    let at_us = match event.time {
        EventTime::Delta(ticks) => chunk_us.saturating_add(us(u64::from(ticks))),
        EventTime::Absolute(ticks) => us(ticks),
    };
    let duration_s = event.duration.map(|ticks| us(u64::from(ticks)) as f64 / 1e6);
    if event.scheme == SCTE35_SCHEME {
        let splice = scte35::parse(&event.data)?;
        let mut range = of_splice(&splice, &event.data, event.id)?;
        range.planned_duration_s = range.planned_duration_s.or(duration_s.filter(|s| *s > 0.0));
        return Some((at_us, TimedEvent::of_splice(range, Some(event.id), &event.data)));
    }
    let mut attributes = Vec::new();
    if !event.value.is_empty() {
        attributes.push(("X-VALUE".to_owned(), ClientValue::Text(event.value.clone())));
    }
    if !event.data.is_empty() {
        attributes.push(("X-MESSAGE-DATA".to_owned(), ClientValue::Bytes(event.data.clone())));
    }
    let range = DateRange {
        id: format!("emsg-{}-{}", at_us / 1000, event.id),
        class: Some(event.scheme.clone()),
        duration_s,
        attributes,
        ..DateRange::default()
    };
    let told = TimedEvent {
        range,
        scheme: event.scheme.clone(),
        value: Some(event.value.clone()).filter(|value| !value.is_empty()),
        id: event.id,
        data: EventData::Base64(event.data.clone()),
    };
    Some((at_us, told))
}

/// `now_us` is the media time at which the section came.
pub(super) fn of_section(section: &[u8], now_us: Micros) -> Option<(Micros, TimedEvent)> {
    let splice = scte35::parse(section)?;
    let range = of_splice(&splice, section, 0)?;
    let at_us = splice.pts().map_or(now_us, |pts| unwrap_near(now_us, pts));
    Some((at_us, TimedEvent::of_splice(range, None, section)))
}

/// The 33-bit time nearest to one that is known.
fn unwrap_near(near_us: Micros, pts: u64) -> Micros {
    let wrap_us = (crate::wire::mpegts::CLOCK_WRAP * 1_000_000 / CLOCK_HZ) as Micros;
    let us = (pts * 1_000_000 / CLOCK_HZ) as Micros;
    let turns = (near_us - us + wrap_us / 2).div_euclid(wrap_us);
    us + turns * wrap_us
}

fn of_splice(splice: &Splice, section: &[u8], number: u32) -> Option<DateRange> {
    let seconds = |ticks: u64| ticks as f64 / CLOCK_HZ as f64;
    let mut range = DateRange::default();
    match &splice.command {
        Command::Insert(insert) if !insert.cancelled => {
            range.planned_duration_s = insert.duration.map(seconds);
            if insert.out_of_network {
                range.id = format!("splice-{}-out", insert.event_id);
                range.scte35_out = Some(section.to_vec());
            } else {
                range.id = format!("splice-{}-in", insert.event_id);
                range.scte35_in = Some(section.to_vec());
            }
        }
        Command::TimeSignal { .. } => {
            let first = splice.segmentations.first();
            let event = first.map_or(number, |segmentation| segmentation.event_id);
            let type_id = first.map_or(0, |segmentation| segmentation.type_id);
            range.id = format!("signal-{event}-{type_id}");
            range.planned_duration_s = first.and_then(|first| first.duration).map(seconds);
            let bytes = Some(section.to_vec());
            if first.is_some_and(|first| first.is_out()) {
                range.scte35_out = bytes;
            } else if first.is_some_and(|first| first.is_in()) {
                range.scte35_in = bytes;
            } else {
                range.scte35_cmd = bytes;
            }
        }
        Command::Insert(_) | Command::Other => return None,
    }
    Some(range)
}
