//! A look into the elementary streams, for what the PMT does not say: the name of the codec, the
//! size of the pictures, the channels, and whether a picture is one to begin with. Only the first
//! bytes of some units are looked at; nothing is decoded.
//!
//! | state   | left when |
//! |---------|-----------|
//! | idle    | a unit begins that is worth a look: `begin` |
//! | looking | the first slice, or a frame of sound, was found, or too much was searched: `more` |

use std::borrow::Cow;

use memchr::memmem;

use super::program::{Stream, StreamKind};
use crate::wire::parameter_sets::{self, Pictures};

/// So much of a unit is searched. Encoders put their settings in front of a first picture: 3 KiB.
const LOOK_BYTES_MAX: usize = 8 * 1024;

/// How the bytes of a stream are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Mpeg2,
    H264,
    Hevc,
    MpegAudio,
    Adts,
    Ac3,
    Eac3,
    Unknown,
}

impl Coding {
    pub(super) fn of(stream_type: u8) -> Coding {
        match stream_type {
            0x01 | 0x02 => Coding::Mpeg2,
            0x1b => Coding::H264,
            0x24 => Coding::Hevc,
            0x03 | 0x04 => Coding::MpegAudio,
            0x0f => Coding::Adts,
            0x81 => Coding::Ac3,
            0x87 => Coding::Eac3,
            _ => Coding::Unknown,
        }
    }

    pub(super) fn kind(self) -> StreamKind {
        match self {
            Coding::Mpeg2 | Coding::H264 | Coding::Hevc => StreamKind::Video,
            Coding::MpegAudio | Coding::Adts | Coding::Ac3 | Coding::Eac3 => StreamKind::Audio,
            Coding::Unknown => StreamKind::Other,
        }
    }
}

/// What the bytes say of a stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Details {
    pub(super) codec: Option<Cow<'static, str>>,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) frame_rate: Option<f64>,
    pub(super) channels: u16,
    pub(super) sample_rate: u32,
}

impl Details {
    pub(super) fn write(&self, stream: &mut Stream) {
        stream.codec = self.codec.as_deref().map(str::to_owned);
        (stream.width, stream.height) = (self.width, self.height);
        stream.frame_rate = self.frame_rate;
        (stream.channels, stream.sample_rate) = (self.channels, self.sample_rate);
    }
}

impl From<Pictures> for Details {
    fn from(pictures: Pictures) -> Details {
        let Pictures { codec, width, height, frame_rate } = pictures;
        Details { codec: Some(codec.into()), width, height, frame_rate, ..Details::default() }
    }
}

/// Looks into one stream.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) coding: Coding,
    looking: bool,
    /// The unit that is looked at, from its first byte.
    gathered: Vec<u8>,
    /// Start codes before this were seen.
    searched: usize,
    /// Of the parameter set in `gathered`, if there is one.
    set: Option<(usize, usize)>,
    /// The parameter set that `details` are from.
    last_set: Vec<u8>,
    /// Frames of sound begin where PES packets do, so that each header can be trusted.
    aligned: bool,
    details: Option<Details>,
}

/// What a look has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Unfinished,
    /// `key`: a decoder may begin with this picture. `news`: the details are new or others.
    Finished {
        key: bool,
        news: bool,
    },
}

impl Probe {
    pub(super) fn new(coding: Coding) -> Probe {
        Probe {
            coding,
            looking: false,
            gathered: Vec::new(),
            searched: 0,
            set: None,
            last_set: Vec::new(),
            aligned: false,
            details: None,
        }
    }

    pub(super) fn details(&self) -> Option<&Details> {
        self.details.as_ref()
    }

    pub(super) fn is_looking(&self) -> bool {
        self.looking
    }

    /// There is nothing to find out, or it was found out.
    pub(super) fn is_done(&self) -> bool {
        self.details.is_some() || matches!(self.coding, Coding::Unknown | Coding::Mpeg2)
    }

    /// Whether a unit that begins now is worth a look. `telling`: it is one to begin with, or
    /// nobody else will tell whether it is.
    pub(super) fn is_curious(&self, telling: bool) -> bool {
        match self.coding {
            Coding::Unknown => false,
            Coding::Mpeg2 => telling,
            Coding::H264 | Coding::Hevc => telling || self.details.is_none(),
            _ => self.aligned || self.details.is_none(),
        }
    }

    pub(super) fn begin(&mut self, payload: &[u8]) -> Look {
        self.gathered.clear();
        self.searched = 0;
        self.set = None;
        self.looking = true;
        self.more(payload)
    }

    pub(super) fn more(&mut self, payload: &[u8]) -> Look {
        let room = LOOK_BYTES_MAX - self.gathered.len();
        self.gathered.extend_from_slice(payload.get(..room).unwrap_or(payload));
        let key = match self.coding.kind() {
            StreamKind::Video => self.find_slice(),
            _ => self.find_frame().then_some(true),
        };
        if key.is_none() && self.gathered.len() < LOOK_BYTES_MAX {
            return Look::Unfinished;
        }
        self.looking = false;
        let news = match self.coding.kind() {
            StreamKind::Video => self.take_set(),
            _ => self.take_frame(),
        };
        Look::Finished { key: key.unwrap_or(false), news }
    }

    /// Passes over the start codes up to the first slice of a picture, and notes the parameter set.
    fn find_slice(&mut self) -> Option<bool> {
        while let Some(rest) = self.gathered.get(self.searched..)
            && let Some(found) = memmem::find(rest, &[0, 0, 1])
        {
            let start = self.searched + found;
            let &header = self.gathered.get(start + 3)?;
            self.searched = start + 3;
            if let Some((from, to @ usize::MAX)) = &mut self.set {
                assert!(*from <= start);
                *to = start;
            }
            match self.unit_of(header) {
                Nal::Set => self.set = Some((start + 3, usize::MAX)),
                Nal::Slice { key } => return Some(key),
                Nal::Other => {}
            }
        }
        self.searched = self.searched.max(self.gathered.len().saturating_sub(2));
        None
    }

    /// H.264 table 7-1, H.265 table 7-1, H.262 table 6-1.
    fn unit_of(&self, header: u8) -> Nal {
        match (self.coding, header & 0x1f, (header >> 1) & 0x3f) {
            (Coding::H264, 7, _) | (Coding::Hevc, _, 33) => Nal::Set,
            (Coding::H264, kind @ 1..=5, _) => Nal::Slice { key: kind == 5 },
            (Coding::Hevc, _, kind @ 0..=31) => Nal::Slice { key: matches!(kind, 16..=21) },
            // A sequence header stands before a picture to begin with.
            (Coding::Mpeg2, ..) if matches!(header, 0xb3 | 0) => Nal::Slice { key: header != 0 },
            _ => Nal::Other,
        }
    }

    fn take_set(&mut self) -> bool {
        let Some((from, to)) = self.set.filter(|&(_, to)| to != usize::MAX) else {
            return false;
        };
        let set = self.gathered.get(from..to).unwrap_or_default();
        if set == self.last_set {
            return false;
        }
        let details = match self.coding {
            Coding::H264 => parameter_sets::h264(set).map(|set| set.pictures),
            Coding::Hevc => parameter_sets::h265(set),
            _ => None,
        };
        let details = details.map(Details::from);
        self.last_set.clear();
        self.last_set.extend_from_slice(set);
        let news = details.is_some() && details != self.details;
        self.details = details.or(self.details.take());
        news
    }

    /// A header of sound that is followed by another, or stands at the front of the unit.
    fn find_frame(&mut self) -> bool {
        while let Some(rest) = self.gathered.get(self.searched..)
            && rest.len() >= FRAME_HEAD_BYTES
        {
            if let Some((_, frame_bytes)) = frame(self.coding, rest) {
                let next = rest.get(frame_bytes..).unwrap_or_default();
                if self.searched == 0 || frame(self.coding, next).is_some() {
                    return true;
                }
                if next.len() < FRAME_HEAD_BYTES {
                    // The other is yet to come.
                    return false;
                }
            }
            if self.aligned {
                return false;
            }
            self.searched += 1;
        }
        false
    }

    fn take_frame(&mut self) -> bool {
        let head = self.gathered.get(self.searched..).unwrap_or_default();
        let Some((details, _)) = frame(self.coding, head) else {
            return false;
        };
        self.aligned = self.searched == 0;
        let news = self.details.as_ref() != Some(&details);
        self.details = Some(details);
        news
    }
}

enum Nal {
    Set,
    Slice { key: bool },
    Other,
}

/// Enough for the head of every frame below.
const FRAME_HEAD_BYTES: usize = 8;

/// What the head of a frame says, and the length of the frame.
fn frame(coding: Coding, data: &[u8]) -> Option<(Details, usize)> {
    let head = data.first_chunk::<FRAME_HEAD_BYTES>()?;
    match coding {
        Coding::Adts => adts(head),
        Coding::MpegAudio => mpeg_audio(head),
        Coding::Ac3 | Coding::Eac3 => dolby(head),
        _ => None,
    }
}

fn sound(codec: &'static str, sample_rate: u32, channels: u16) -> Details {
    let codec = Some(Cow::Borrowed(codec));
    Details { codec, sample_rate, channels, ..Details::default() }
}

/// ISO/IEC 14496-3 1.A.2. What HE-AAC adds cannot be seen from outside: it is named as AAC-LC.
fn adts(head: &[u8; FRAME_HEAD_BYTES]) -> Option<(Details, usize)> {
    let &[0xff, b, c, d, e, f, ..] = head else {
        return None;
    };
    let frame_bytes = usize::from(d & 3) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
    if b & 0xf6 != 0xf0 || frame_bytes < 7 {
        return None;
    }
    const RATES: [u32; 13] = [
        96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025,
        8000, 7350,
    ];
    let sample_rate = *RATES.get(usize::from(c >> 2 & 0x0f))?;
    let channels = match (c & 1) << 2 | d >> 6 {
        7 => 8,
        channels => u16::from(channels),
    };
    let codec = ["mp4a.40.1", "mp4a.40.2", "mp4a.40.3", "mp4a.40.4"].get(usize::from(c >> 6))?;
    Some((sound(codec, sample_rate, channels), frame_bytes))
}

/// ISO/IEC 11172-3 2.4.1.3 and 13818-3. The names are those of ISO/IEC 14496-3 table 1.17.
fn mpeg_audio(head: &[u8; FRAME_HEAD_BYTES]) -> Option<(Details, usize)> {
    let &[0xff, b, c, d, ..] = head else {
        return None;
    };
    let (version, layer) = (b >> 3 & 3, 4 - (b >> 1 & 3));
    let half = version != 3;
    if b & 0xe0 != 0xe0 || version == 1 || layer == 4 {
        return None;
    }
    const KBPS: [[u32; 14]; 5] = [
        [32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
        [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
        [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        [32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
        [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    ];
    let row = if half { 3 + usize::from(layer > 1) } else { usize::from(layer - 1) };
    let bits_per_second = KBPS.get(row)?.get(usize::from(c >> 4).checked_sub(1)?)? * 1000;
    let full_rate = *[44_100, 48_000, 32_000].get(usize::from(c >> 2 & 3))?;
    let sample_rate = full_rate >> if version == 3 { 0 } else { 2 - u32::from(version / 2) };
    let padding = u32::from(c >> 1 & 1);
    let frame_bytes = match layer {
        1 => (12 * bits_per_second / sample_rate + padding) * 4,
        3 if half => 72 * bits_per_second / sample_rate + padding,
        _ => 144 * bits_per_second / sample_rate + padding,
    };
    let codec = ["mp4a.40.32", "mp4a.40.33", "mp4a.40.34"].get(usize::from(layer) - 1)?;
    let channels = if d >> 6 == 3 { 1 } else { 2 };
    Some((sound(codec, sample_rate, channels), frame_bytes as usize))
}

/// ETSI TS 102 366 4.3 (AC-3) and E.1.2 (enhanced); `bsid` tells which of them it is.
fn dolby(head: &[u8; FRAME_HEAD_BYTES]) -> Option<(Details, usize)> {
    let &[0x0b, 0x77, c, d, e, f, g, _] = head else {
        return None;
    };
    const FULL_CHANNELS: [u16; 8] = [2, 1, 2, 3, 3, 4, 4, 5];
    let rate = |code: u8| [48_000_u32, 44_100, 32_000].get(usize::from(code)).copied();
    if f >> 3 > 10 {
        let mode = usize::from(e >> 1 & 7);
        let sample_rate = match e >> 6 {
            3 => rate(e >> 4 & 3)? / 2,
            code => rate(code)?,
        };
        let channels = FULL_CHANNELS.get(mode)? + u16::from(e & 1);
        let frame_bytes = (usize::from(c & 7) << 8 | usize::from(d)) * 2 + 2;
        return Some((sound("ec-3", sample_rate, channels), frame_bytes));
    }
    const KBPS: [u32; 19] =
        [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640];
    let sample_rate = rate(e >> 6)?;
    let size = usize::from(e & 0x3f);
    let words = KBPS.get(size / 2)? * 1000 * 96 / sample_rate;
    // Frames at 44.1 kHz are a word longer now and then.
    let longer = usize::from(sample_rate == 44_100 && size % 2 == 1);
    // The mix levels stand between the mode and the bit of the low channel (4.4.2.3).
    let mode = g >> 5;
    let low_bit = match mode {
        0 | 1 => 4,
        5 | 7 => 0,
        _ => 2,
    };
    let channels = FULL_CHANNELS.get(usize::from(mode))? + u16::from(g >> low_bit & 1);
    Some((sound("ac-3", sample_rate, channels), (words as usize + longer) * 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Codec, rate, channels, and length of the frame.
    fn read(coding: Coding, head: [u8; 8]) -> Option<(String, u32, u16, usize)> {
        let (details, frame_bytes) = frame(coding, &head)?;
        let codec = details.codec?.into_owned();
        Some((codec, details.sample_rate, details.channels, frame_bytes))
    }

    #[test]
    fn heads_of_sound() {
        let aac = [0xff, 0xf1, 0x4c, 0x80, 0x01, 0x7f, 0xfc, 0x21];
        assert_eq!(read(Coding::Adts, aac), Some(("mp4a.40.2".to_owned(), 48_000, 2, 11)));
        let mp3 = [0xff, 0xfb, 0x94, 0xc4, 0, 0, 0, 0];
        let expected = ("mp4a.40.34".to_owned(), 48_000, 1, 384);
        assert_eq!(read(Coding::MpegAudio, mp3), Some(expected));
        let mp2 = [0xff, 0xfd, 0xa4, 0x04, 0, 0, 0, 0];
        let expected = ("mp4a.40.33".to_owned(), 48_000, 2, 576);
        assert_eq!(read(Coding::MpegAudio, mp2), Some(expected));
        let low_rate = [0xff, 0xf3, 0x80, 0x00, 0, 0, 0, 0];
        let expected = ("mp4a.40.34".to_owned(), 22_050, 2, 208);
        assert_eq!(read(Coding::MpegAudio, low_rate), Some(expected));
        let ac3 = [0x0b, 0x77, 0, 0, 0x1e, 0x40, 0xe1, 0];
        assert_eq!(read(Coding::Ac3, ac3), Some(("ac-3".to_owned(), 48_000, 6, 1792)));
        let eac3 = [0x0b, 0x77, 0x01, 0x7f, 0x34, 0x86, 0, 0];
        assert_eq!(read(Coding::Eac3, eac3), Some(("ec-3".to_owned(), 48_000, 2, 768)));
        for coding in [Coding::Adts, Coding::MpegAudio, Coding::Ac3, Coding::Unknown] {
            assert_eq!(read(coding, [0x55; 8]), None);
        }
    }

    #[test]
    fn frames_that_do_not_begin_with_the_unit_are_found() {
        let mut data = vec![0x11; 50];
        // A head that no other follows, then three frames of 11 bytes.
        data.extend([0xff, 0xf1, 0x50, 0x40, 0x03, 0x00, 0xfc, 0x21]);
        for _ in 0..3 {
            data.extend([0xff, 0xf1, 0x4c, 0x80, 0x01, 0x7f, 0xfc, 0x21, 0, 0, 0]);
        }
        let mut probe = Probe::new(Coding::Adts);
        assert!(probe.is_curious(false));
        let mut look = probe.begin(&data[..55]);
        for part in data[55..].chunks(9) {
            if look == Look::Unfinished {
                look = probe.more(part);
            }
        }
        assert_eq!(look, Look::Finished { key: true, news: true });
        assert_eq!(probe.details().map(|details| details.sample_rate), Some(48_000));
        // It cannot be trusted further.
        assert!(!probe.is_curious(true));
    }

    #[test]
    fn a_search_ends() {
        for coding in [Coding::H264, Coding::Hevc, Coding::Mpeg2, Coding::Adts, Coding::Ac3] {
            let mut probe = Probe::new(coding);
            let mut looks = 1;
            let mut look = probe.begin(&[0x55; 150]);
            while look == Look::Unfinished {
                look = probe.more(&[0x55; 184]);
                looks += 1;
            }
            assert_eq!(look, Look::Finished { key: false, news: false });
            assert_eq!(looks, 1 + (LOOK_BYTES_MAX - 150_usize).div_ceil(184));
            assert!(!probe.is_looking());
        }
    }

    proptest! {
        #[test]
        fn random_units_do_not_panic(
            coding in proptest::sample::select(vec![
                Coding::Mpeg2, Coding::H264, Coding::Hevc, Coding::MpegAudio, Coding::Adts,
                Coding::Ac3, Coding::Eac3, Coding::Unknown,
            ]),
            // Many zeros and ones, so that there are start codes.
            data in proptest::collection::vec(
                prop_oneof![Just(0u8), Just(0u8), Just(1u8), Just(0xff_u8), any::<u8>()],
                0..600,
            ),
            piece_bytes in 1usize..200,
        ) {
            let mut probe = Probe::new(coding);
            let mut whole = Probe::new(coding);
            let mut look = probe.begin(&[]);
            for piece in data.chunks(piece_bytes) {
                if look == Look::Unfinished {
                    look = probe.more(piece);
                }
            }
            if coding.kind() == StreamKind::Video {
                prop_assert_eq!(look, whole.begin(&data));
            }
        }
    }
}
