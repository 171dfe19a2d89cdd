//! What a PMT says of a program and its streams (2.4.4.8, 2.6), before any of their bytes is seen.

use bytes::Bytes;

use super::elementary::Coding;
use super::tables::{section_body, u16_of};

/// One program with all that is known of its streams; a value, never changed after it was told.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    pub number: u16,
    pub pmt_pid: u16,
    pub pcr_pid: u16,
    /// The packets that carried the PAT and the PMT.
    pub tables: Bytes,
    /// In the order of the PMT; never empty.
    pub streams: Vec<Stream>,
    /// Index of the leading one: the first video, else the first audio, else the first.
    pub lead: usize,
}

/// What a decoder of pictures and sound is set up for. Of other streams, which come and go, it knows
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    lead_pid: u16,
    /// PID, stream type, and how the bytes are to be read; by PID.
    streams: Vec<(u16, u8, Coding)>,
}

impl Program {
    /// Another one after a PMT after which decoders have to begin anew.
    pub fn layout(&self) -> Layout {
        let is_media = |stream: &&Stream| stream.kind != StreamKind::Other;
        let media = self.streams.iter().filter(is_media);
        let mut streams: Vec<_> =
            media.map(|stream| (stream.pid, stream.stream_type, stream.coding)).collect();
        streams.sort_unstable_by_key(|stream| stream.0);
        Layout { lead_pid: self.lead().map_or(0, |lead| lead.pid), streams }
    }

    pub fn lead(&self) -> Option<&Stream> {
        self.streams.get(self.lead)
    }
}

/// What is unknown or does not apply is `None` or 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    pub pid: u16,
    pub stream_type: u8,
    pub kind: StreamKind,
    pub(super) coding: Coding,
    /// RFC 6381: `avc1.64001F`, `hvc1.1.6.L93.B0`, `mp4a.40.2`, `mp4a.40.34`, `ac-3`, `ec-3`,
    /// `Opus`.
    pub codec: Option<String>,
    pub width: u32,
    pub height: u32,
    /// Only if the stream says it.
    pub frame_rate: Option<f64>,
    /// ISO 639, three letters.
    pub language: Option<String>,
    pub channels: u16,
    pub sample_rate: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamKind {
    Video,
    Audio,
    Other,
}

/// Splice information of SCTE 35, in sections instead of PES packets.
pub(super) const STREAM_TYPE_SPLICE: u8 = 0x86;
const STREAM_TYPE_PRIVATE: u8 = 0x06;

const TAG_REGISTRATION: u8 = 0x05;
const TAG_LANGUAGE: u8 = 0x0a;
/// ETSI EN 300 468 6.2 and annex D.
const TAG_AC3: u8 = 0x6a;
const TAG_EAC3: u8 = 0x7a;
const TAG_EXTENSION: u8 = 0x7f;
/// The extension tag with which ffmpeg and others tell the channels of Opus.
const EXTENSION_OPUS: u8 = 0x80;

/// What the stream types and descriptors of a PMT section mean. After 12 bytes of head come the
/// descriptors of the program, then the streams.
pub(super) fn read_streams(pmt: &[u8]) -> Vec<(Stream, Coding)> {
    let info_bytes = usize::from(u16_of(pmt, 10) & 0x0fff);
    let mut rest = section_body(pmt, 0x02, 12 + info_bytes);
    let mut streams = Vec::new();
    while let Some((&[stream_type, a, b, c, d], after)) = rest.split_first_chunk::<5>() {
        let pid = u16::from_be_bytes([a, b]) & 0x1fff;
        let descriptors_bytes = usize::from(u16::from_be_bytes([c, d]) & 0x0fff);
        let descriptors = after.get(..descriptors_bytes).unwrap_or(after);
        streams.push(read_stream(pid, stream_type, descriptors));
        rest = after.get(descriptors_bytes..).unwrap_or_default();
    }
    streams
}

fn read_stream(pid: u16, stream_type: u8, mut descriptors: &[u8]) -> (Stream, Coding) {
    let mut coding = Coding::of(stream_type);
    let mut stream = Stream {
        pid,
        stream_type,
        kind: kind_of(stream_type),
        coding,
        codec: None,
        width: 0,
        height: 0,
        frame_rate: None,
        language: None,
        channels: 0,
        sample_rate: 0,
    };
    let private = stream_type == STREAM_TYPE_PRIVATE;
    while let Some((&[tag, length], after)) = descriptors.split_first_chunk::<2>() {
        let body = after.get(..usize::from(length)).unwrap_or(after);
        descriptors = after.get(usize::from(length)..).unwrap_or_default();
        match (tag, body) {
            (TAG_LANGUAGE, [code @ .., _]) if stream.language.is_none() => {
                stream.language = language(code.get(..3).unwrap_or_default());
            }
            (TAG_AC3, _) if private => coding = Coding::Ac3,
            (TAG_EAC3, _) if private => coding = Coding::Eac3,
            (TAG_REGISTRATION, [b'A', b'C', b'-', b'3', ..]) if private => coding = Coding::Ac3,
            (TAG_REGISTRATION, [b'E', b'A', b'C', b'3', ..]) if private => coding = Coding::Eac3,
            (TAG_REGISTRATION, [b'H', b'E', b'V', b'C', ..]) if private => coding = Coding::Hevc,
            (TAG_REGISTRATION, [b'O', b'p', b'u', b's', ..]) if private => {
                stream.kind = StreamKind::Audio;
                stream.codec = Some("Opus".to_owned());
                stream.sample_rate = 48_000;
            }
            (TAG_EXTENSION, &[EXTENSION_OPUS, channels, ..]) if private && channels <= 8 => {
                // 0 is two independent channels.
                stream.channels = if channels == 0 { 2 } else { u16::from(channels) };
            }
            _ => {}
        }
    }
    if private && coding != Coding::Unknown {
        stream.kind = coding.kind();
    }
    stream.coding = coding;
    (stream, coding)
}

fn language(code: &[u8]) -> Option<String> {
    let is_code = code.len() == 3 && code.iter().all(u8::is_ascii_alphabetic);
    let code = is_code.then(|| String::from_utf8_lossy(code).to_ascii_lowercase());
    code.filter(|code| code != "und")
}

/// Table 2-34 and its amendments, as far as encoders use them.
fn kind_of(stream_type: u8) -> StreamKind {
    match stream_type {
        0x01 | 0x02 | 0x10 | 0x1b | 0x20 | 0x21 | 0x24 | 0x33 | 0x42 | 0xd1 | 0xd2 | 0xea => {
            StreamKind::Video
        }
        0x03 | 0x04 | 0x0f | 0x11 | 0x1c | 0x2d | 0x2e | 0x81 | 0x82 | 0x84 | 0x87 | 0xc1 => {
            StreamKind::Audio
        }
        _ => StreamKind::Other,
    }
}

/// The first of the best kind.
pub(super) fn lead_of(streams: &[Stream]) -> Option<usize> {
    let ranked = streams.iter().enumerate();
    ranked.min_by_key(|(_, stream)| stream.kind).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mpegts::test_streams::pmt_with;

    fn layout_of(streams: &[Stream]) -> Layout {
        let tables = Bytes::new();
        let lead = lead_of(streams).unwrap_or(0);
        let streams = streams.to_vec();
        Program { number: 1, pmt_pid: 0x100, pcr_pid: 0x22, tables, streams, lead }.layout()
    }

    #[test]
    fn descriptors_tell_what_private_streams_are() {
        let streams: [(u8, u16, &[u8]); 6] = [
            (0x06, 0x20, &[0x6a, 1, 0, 0x0a, 8, b'E', b'N', b'G', 0, b'd', b'e', b'u', 0]),
            (0x06, 0x21, &[0x05, 4, b'O', b'p', b'u', b's', 0x7f, 2, 0x80, 6]),
            (0x06, 0x22, &[0x05, 4, b'H', b'E', b'V', b'C']),
            (0x06, 0x23, &[0x59, 8, b'd', b'e', b'u', 0x10, 0, 1, 0, 1]),
            (0x86, 0x24, &[0x05, 4, b'C', b'U', b'E', b'I']),
            // A descriptor that is longer than there is room.
            (0x0f, 0x25, &[0x0a, 200, b'u', b'n', b'd', 0]),
        ];
        let packets = pmt_with(0, &streams);
        let section: Vec<u8> =
            packets.chunks(188).flat_map(|packet| &packet[4..]).copied().collect();
        let section_bytes = 3 + usize::from(u16_of(&section, 2) & 0x0fff);
        let read = read_streams(&section[1..1 + section_bytes]);
        let kinds: Vec<_> = read.iter().map(|(stream, coding)| (stream.kind, *coding)).collect();
        let expected = [
            (StreamKind::Audio, Coding::Ac3),
            (StreamKind::Audio, Coding::Unknown),
            (StreamKind::Video, Coding::Hevc),
            (StreamKind::Other, Coding::Unknown),
            (StreamKind::Other, Coding::Unknown),
            (StreamKind::Audio, Coding::Adts),
        ];
        assert_eq!(kinds, expected);
        let streams: Vec<Stream> = read.into_iter().map(|(stream, _)| stream).collect();
        assert_eq!(streams[0].language.as_deref(), Some("eng"));
        assert_eq!(streams[1].codec.as_deref(), Some("Opus"));
        assert_eq!((streams[1].channels, streams[1].sample_rate), (6, 48_000));
        assert_eq!(streams[5].language, None);
        assert_eq!(lead_of(&streams), Some(2));
        assert_eq!(layout_of(&streams).streams.len(), 4);
        let mut others = streams.clone();
        others.swap_remove(3);
        others[1].language = Some("fra".to_owned());
        assert_eq!(layout_of(&others), layout_of(&streams), "nothing that matters");
        others[0].coding = Coding::Eac3;
        assert_ne!(layout_of(&others), layout_of(&streams));
        assert_eq!(lead_of(&[]), None);
    }
}
