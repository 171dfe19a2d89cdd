//! The boxes before a moof that belong to its chunk: styp (which brands it has), prft (when it was
//! made), emsg (events that travel with it), and the times in them that `publish` rewrites.

use super::Fmp4Error;
use super::box_writer::{push_full_box, push_u32s, push_u64};
use super::boxes::{BoxRef, TimeField, boxes, u32_at, u64_at};
use super::init::{Init, brands_of};

/// From 1900 (NTP) to 1970 (Unix), in seconds.
const NTP_UNIX_S: i64 = 2_208_988_800;

/// The brands of a styp by which a CMAF push says what a segment is (23000-19, 7.3.2; DASH-IF Live
/// Media Ingest, 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Brands {
    /// The last segment of its track.
    pub lmsg: bool,
    /// A slate, put in where the encoder had no input; the real segment may follow.
    pub slat: bool,
    /// A CMAF chunk.
    pub cmfl: bool,
    /// A CMAF segment.
    pub cmfs: bool,
}

impl Brands {
    pub(super) fn add_styp(&mut self, payload: &[u8]) {
        for brand in brands_of(payload) {
            match &brand {
                b"lmsg" => self.lmsg = true,
                b"slat" => self.slat = true,
                b"cmfl" => self.cmfl = true,
                b"cmfs" => self.cmfs = true,
                _ => {}
            }
        }
    }
}

/// prft (8.16.5): at this time of day the encoder had this media time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerTime {
    pub track_id: u32,
    /// Milliseconds since 1970.
    pub ntp_ms_unix: i64,
    /// In ticks of the track.
    pub media_time: u64,
}

impl ProducerTime {
    /// `None`: cut short, or a clock that was not set (0).
    pub(super) fn parse(payload: &[u8]) -> Option<ProducerTime> {
        let wide = *payload.first()? > 0;
        let track_id = u32_at(payload, 4).ok()?;
        let ntp = u64_at(payload, 8).ok()?;
        let media_time = TimeField::read(payload, 16, 0, wide).ok()?.value;
        (ntp != 0).then(|| ProducerTime { track_id, ntp_ms_unix: unix_ms(ntp), media_time })
    }
}

/// Seconds since 1900 in 32 bits, then their fraction. The seconds wrap in 2036; those of the first
/// half are then meant (RFC 4330, section 3).
fn unix_ms(ntp: u64) -> i64 {
    const ERA_S: i64 = 1 << 32;
    let seconds = (ntp >> 32).cast_signed();
    let fraction = ntp & 0xffff_ffff;
    let seconds = if seconds < ERA_S / 2 { seconds + ERA_S } else { seconds };
    // Rounded: 999 ms are not a binary fraction.
    let ms = (fraction * 1000 + (1 << 31)) >> 32;
    (seconds - NTP_UNIX_S) * 1000 + ms.cast_signed()
}

/// Flags of a prft whose time is that of what was filmed, as ffmpeg has them too (8.16.5.3).
const CAPTURED: u32 = 24;

/// A prft: at this time of day, in microseconds since 1970, the track had this media time.
pub(super) fn push_producer_time(out: &mut Vec<u8>, track_id: u32, unix_us: i64, media_time: u64) {
    const S_US: i64 = 1_000_000;
    push_full_box(out, b"prft", (1, CAPTURED), |out| {
        // Only 32 bits of either remain; years before 1900 and eras make no difference to them.
        let seconds = unix_us.div_euclid(S_US).saturating_add(NTP_UNIX_S) as u32;
        let fraction = ((unix_us.rem_euclid(S_US) << 32) / S_US) as u32;
        push_u32s(out, &[track_id, seconds, fraction]);
        push_u64(out, media_time);
    });
}

/// emsg (23009-1, 5.10.3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMessage {
    pub scheme: String,
    pub value: String,
    /// Ticks per second of `time` and `duration`; never 0.
    pub timescale: u32,
    pub time: EventTime,
    /// `None`: unknown.
    pub duration: Option<u32>,
    pub id: u32,
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTime {
    /// Version 0: so long after the earliest time of its chunk.
    Delta(u32),
    /// Version 1: on the media timeline.
    Absolute(u64),
}

impl EventMessage {
    /// `None`: cut short, of an unknown version, without a timescale, or with texts that are none.
    pub(super) fn parse(payload: &[u8]) -> Option<EventMessage> {
        let version = *payload.first()?;
        let body = payload.get(4..)?;
        // Version 0 has the texts first, version 1 the numbers.
        let (numbers, texts, numbers_bytes) = match version {
            0 => (behind_texts(body)?, body, 16),
            1 => (body, body.get(20..)?, 20),
            _ => return None,
        };
        let (time, behind_time) = match version {
            0 => (EventTime::Delta(u32_at(numbers, 4).ok()?), 8),
            _ => (EventTime::Absolute(u64_at(numbers, 4).ok()?), 12),
        };
        let duration = u32_at(numbers, behind_time).ok()?;
        let data = if version == 0 { numbers.get(numbers_bytes..)? } else { behind_texts(texts)? };
        let timescale = u32_at(numbers, 0).ok().filter(|&timescale| timescale > 0)?;
        let mut texts = texts.split(|&byte| byte == 0);
        Some(EventMessage {
            scheme: text_of(texts.next())?,
            value: text_of(texts.next())?,
            timescale,
            time,
            duration: (duration != u32::MAX).then_some(duration),
            id: u32_at(numbers, behind_time + 4).ok()?,
            data: data.to_vec(),
        })
    }
}

/// What follows two texts that end with a zero each.
fn behind_texts(data: &[u8]) -> Option<&[u8]> {
    data.splitn(3, |&byte| byte == 0).nth(2)
}

fn text_of(text: Option<&[u8]>) -> Option<String> {
    String::from_utf8(text?.to_vec()).ok()
}

/// Where a prefix box keeps a media time, and the ticks per second in which it counts.
/// sidx (8.16.3) and emsg (23009-1, 5.10.3.3) carry a timescale; prft (8.16.5) uses its track's.
pub fn prefix_time(bytes: &[u8], init: &Init) -> Result<Option<(TimeField, u32)>, Fmp4Error> {
    let Some(found) = boxes(bytes).next() else {
        return Ok(None);
    };
    let BoxRef { kind, position, payload, .. } = found?;
    let version = *payload.first().ok_or(Fmp4Error::BoxSize)?;
    let field = |at| TimeField::read(payload, at, position, version > 0);
    let (field, timescale) = match &kind {
        b"sidx" => (field(12)?, u32_at(payload, 8)?),
        b"prft" => {
            let track = init.track(u32_at(payload, 4)?).ok_or(Fmp4Error::Missing("trak"))?;
            (field(16)?, track.timescale)
        }
        // Version 0 counts from the segment, which needs no correction.
        b"emsg" if version > 0 => (field(8)?, u32_at(payload, 4)?),
        _ => return Ok(None),
    };
    Ok((timescale > 0).then_some((field, timescale)))
}

#[cfg(test)]
mod tests {
    use super::super::box_builder::{emsg, moov, new_box, words};
    use super::super::parse_init;
    use super::*;

    #[test]
    fn times_before_a_moof_are_found() {
        let init = parse_init(&moov(&[b"vide"])).unwrap();
        let sidx = new_box(b"sidx", &words(&[0, 1, 600, 42, 0]));
        let (field, timescale) = prefix_time(&sidx, &init).unwrap().unwrap();
        assert_eq!((field.value, field.position, timescale), (42, 20, 600));
        let prft = new_box(b"prft", &words(&[0x0100_0000, 1, 0, 0, 0, 9]));
        let (field, timescale) = prefix_time(&prft, &init).unwrap().unwrap();
        assert_eq!((field.value, field.wide, timescale), (9, true, 1000));
        assert_eq!(prefix_time(&new_box(b"styp", b"msdh"), &init), Ok(None));
    }

    #[test]
    fn producer_times_are_unix_milliseconds() {
        // 2026-11-21T11:16:54.417Z as ffmpeg writes it: version 1, flags 24.
        let ntp = ((1_795_259_814_u64 + 2_208_988_800) << 32) | ((417 << 32) / 1000);
        let half = |shift: u32| (ntp >> shift) as u32;
        let prft = words(&[0x0100_0018, 1, half(32), half(0), 0, 5120]);
        let wanted = ProducerTime { track_id: 1, ntp_ms_unix: 1_795_259_814_417, media_time: 5120 };
        assert_eq!(ProducerTime::parse(&prft), Some(wanted));
        let narrow = words(&[0, 1, half(32), half(0), 5120]);
        assert_eq!(ProducerTime::parse(&narrow), Some(wanted));
        assert_eq!(ProducerTime::parse(&prft[..23]), None);
        assert_eq!(ProducerTime::parse(&words(&[0, 1, 0, 0, 0])), None);
        // The seconds wrapped on 2036-02-07 at 06:28:16.
        assert_eq!(unix_ms(1 << 32), 2_085_978_497_000);
        assert_eq!(unix_ms(0xffff_ffff << 32), 2_085_978_495_000);
    }

    #[test]
    fn producer_times_are_read_back() {
        for ms in [1_795_259_814_417, 999, 2_085_978_495_999, 2_085_978_496_001] {
            let mut prft = Vec::new();
            push_producer_time(&mut prft, 7, ms * 1000, 1 << 40);
            let wanted = ProducerTime { track_id: 7, ntp_ms_unix: ms, media_time: 1 << 40 };
            assert_eq!(ProducerTime::parse(&prft[8..]), Some(wanted));
        }
    }

    #[test]
    fn events_of_both_versions_are_read() {
        let data = [0xfc, 0x30, 0x00];
        let absolute = emsg(b"urn:scte:scte35:2013:bin", 1 << 33, &data);
        let event = EventMessage::parse(&absolute[8..]).unwrap();
        assert_eq!(
            (event.scheme.as_str(), event.value.as_str()),
            ("urn:scte:scte35:2013:bin", "v")
        );
        assert_eq!((event.time, event.timescale), (EventTime::Absolute(1 << 33), 1000));
        assert_eq!((event.duration, event.id, event.data.as_slice()), (Some(500), 3, &data[..]));
        let texts = b"https://aomedia.org/emsg/ID3\0\0".to_vec();
        let numbers = words(&[90_000, 7, u32::MAX, 9]);
        let relative = [words(&[0]), texts, numbers, b"ID3".to_vec()].concat();
        let event = EventMessage::parse(&relative).unwrap();
        assert_eq!((event.time, event.duration, event.id), (EventTime::Delta(7), None, 9));
        assert_eq!((event.value.as_str(), event.data.as_slice()), ("", b"ID3".as_slice()));
        for cut in 0..relative.len() - 3 {
            assert_eq!(EventMessage::parse(&relative[..cut]), None, "cut at {cut}");
        }
        for cut in 8..absolute.len() - 3 {
            assert_eq!(EventMessage::parse(&absolute[8..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn brands_stand_anywhere_but_at_the_version() {
        let mut brands = Brands::default();
        brands.add_styp(b"cmfslmsgmsdhslat");
        assert_eq!(brands, Brands { cmfs: true, slat: true, ..Brands::default() });
    }
}
