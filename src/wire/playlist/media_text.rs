//! The text of a media playlist. The rules that need only the value are kept here: the order of
//! tags (a segment's DISCONTINUITY, MAP and date before its first PART), the version, no PART
//! further than three target durations from the end, nothing promised behind ENDLIST. Appended to
//! one string without formatting machinery: it is made anew for every part of every track.

use std::borrow::Borrow;

use super::attributes::{Attributes, DURATION_DECIMALS, push_byte_range, push_unquoted, push_uri};
use super::media_playlist::{
    ClientValue, DateRange, Hint, Map, MediaPlaylist, Part, PlaylistKind, Report, SECONDS_NOISE,
    Segment, ServerControl, Skip,
};
use crate::wire::numbers::{push_decimal, push_integer, push_time};

/// PARTs of older segments are not listed (rfc8216bis §6.2.2), in target durations from the end.
const PARTS_TARGETS_MAX: f64 = 3.0;

/// Room for a segment or part with a URI of ours, which spares the string its growth.
const ENTRY_BYTES: usize = 112;
/// The head, the parts of a few segments, the tail.
const ENTRIES_BESIDE: usize = 48;

impl<S: Borrow<Segment>> MediaPlaylist<S> {
    /// Appends the text.
    pub fn write(&self, out: &mut String) {
        let parts_target_s = PARTS_TARGETS_MAX * self.target_duration_s as f64;
        out.reserve(ENTRY_BYTES * (self.segments.len() + ENTRIES_BESIDE));
        self.write_head(out);
        let mut state = State::after(self.skip.as_ref());
        let mut behind_s = self.duration_s();
        for segment in self.segments.iter().map(Borrow::borrow) {
            behind_s -= segment.duration_s;
            state.write_head(segment, out);
            if behind_s <= parts_target_s + SECONDS_NOISE {
                write_parts(&segment.parts, out);
            }
            write_segment(segment, out);
        }
        self.write_tail(&mut state, out);
    }

    fn write_head(&self, out: &mut String) {
        out.push_str("#EXTM3U\n");
        push_line(out, "#EXT-X-VERSION:", self.version());
        push_line(out, "#EXT-X-TARGETDURATION:", self.target_duration_s);
        write_control(&self.server_control, out);
        if let Some(part_target_s) = self.part_target_s {
            let mut tag = Attributes::new(out, "#EXT-X-PART-INF");
            tag.seconds("PART-TARGET", part_target_s);
            tag.end();
        }
        push_line(out, "#EXT-X-MEDIA-SEQUENCE:", self.media_sequence);
        if self.discontinuity_sequence > 0 {
            push_line(out, "#EXT-X-DISCONTINUITY-SEQUENCE:", self.discontinuity_sequence);
        }
        match self.kind {
            Some(PlaylistKind::Event) => out.push_str("#EXT-X-PLAYLIST-TYPE:EVENT\n"),
            Some(PlaylistKind::Vod) => out.push_str("#EXT-X-PLAYLIST-TYPE:VOD\n"),
            None => {}
        }
        if self.independent_segments {
            out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
        }
        if let Some(skip) = &self.skip {
            write_skip(skip, out);
        }
        for range in &self.dateranges {
            write_daterange(range, out);
        }
    }

    fn write_tail<'p>(&'p self, state: &mut State<'p>, out: &mut String) {
        let open = self.open.as_ref().map(Borrow::borrow);
        if let Some(open) = open.filter(|open| !open.parts.is_empty()) {
            state.write_head(open, out);
            write_parts(&open.parts, out);
        }
        if self.ended {
            return out.push_str("#EXT-X-ENDLIST\n");
        }
        self.hints.iter().for_each(|hint| write_hint(hint, out));
        self.reports.iter().for_each(|report| write_report(report, out));
    }

    /// The lowest that is right (rfc8216bis §8): 3 for durations with decimals.
    fn version(&self) -> u64 {
        match &self.skip {
            Some(Skip { removed_dateranges: Some(_), .. }) => return 10,
            Some(_) => return 9,
            None => {}
        }
        let mut version = 3;
        for segment in self.segments.iter().chain(&self.open).map(Borrow::borrow) {
            if segment.map.is_some() {
                return 6;
            }
            if segment.byte_range.is_some() {
                version = 4;
            }
        }
        version
    }
}

/// What the lines before have said of the segments behind.
struct State<'p> {
    map: Option<&'p Map>,
    bitrate_kbps: Option<u64>,
}

impl<'p> State<'p> {
    fn after(skip: Option<&'p Skip>) -> State<'p> {
        State {
            map: skip.and_then(|skip| skip.map.as_ref()),
            bitrate_kbps: skip.and_then(|skip| skip.bitrate_kbps),
        }
    }

    /// What must stand before a segment's first part (rfc8216bis §4.4.4.9).
    fn write_head(&mut self, segment: &'p Segment, out: &mut String) {
        if segment.discontinuity {
            self.map = None;
            out.push_str("#EXT-X-DISCONTINUITY\n");
        }
        if segment.map.is_some() && segment.map.as_ref() != self.map {
            self.map = segment.map.as_ref();
            self.map.iter().for_each(|map| write_map(map, out));
        }
        if let Some(unix_ms) = segment.program_date_time_ms {
            out.push_str("#EXT-X-PROGRAM-DATE-TIME:");
            push_time(out, unix_ms);
            out.push('\n');
        }
        if let Some(kbps) = segment.bitrate.filter(|kbps| self.bitrate_kbps != Some(*kbps)) {
            self.bitrate_kbps = Some(kbps);
            push_line(out, "#EXT-X-BITRATE:", kbps);
        }
    }
}

fn push_line(out: &mut String, tag: &str, value: u64) {
    out.push_str(tag);
    push_integer(out, value);
    out.push('\n');
}

fn write_segment(segment: &Segment, out: &mut String) {
    if segment.gap {
        out.push_str("#EXT-X-GAP\n");
    }
    out.push_str("#EXTINF:");
    push_decimal(out, segment.duration_s, DURATION_DECIMALS);
    out.push_str(",\n");
    if let Some(range) = segment.byte_range {
        out.push_str("#EXT-X-BYTERANGE:");
        push_byte_range(out, range.length, range.offset);
        out.push('\n');
    }
    push_uri(out, &segment.uri);
    out.push('\n');
}

fn write_parts(parts: &[Part], out: &mut String) {
    for part in parts {
        let mut tag = Attributes::new(out, "#EXT-X-PART");
        tag.seconds("DURATION", part.duration_s);
        tag.uri(&part.uri);
        if let Some(range) = part.byte_range {
            tag.byte_range(range.length, range.offset);
        }
        tag.yes("INDEPENDENT", part.independent);
        tag.yes("GAP", part.gap);
        tag.end();
    }
}

fn write_map(map: &Map, out: &mut String) {
    let mut tag = Attributes::new(out, "#EXT-X-MAP");
    tag.uri(&map.uri);
    if let Some(range) = map.byte_range {
        tag.byte_range(range.length, range.offset);
    }
    tag.end();
}

fn write_control(control: &ServerControl, out: &mut String) {
    if *control == ServerControl::default() {
        return;
    }
    let mut tag = Attributes::new(out, "#EXT-X-SERVER-CONTROL");
    tag.yes("CAN-BLOCK-RELOAD", control.can_block);
    tag.seconds_if("CAN-SKIP-UNTIL", control.can_skip_until_s);
    tag.yes("CAN-SKIP-DATERANGES", control.can_skip_dateranges);
    tag.seconds_if("HOLD-BACK", control.hold_back_s);
    tag.seconds_if("PART-HOLD-BACK", control.part_hold_back_s);
    tag.end();
}

fn write_skip(skip: &Skip, out: &mut String) {
    let mut tag = Attributes::new(out, "#EXT-X-SKIP");
    tag.integer("SKIPPED-SEGMENTS", skip.segments);
    if let Some(removed) = &skip.removed_dateranges {
        let out = tag.name("RECENTLY-REMOVED-DATERANGES");
        out.push('"');
        for (index, id) in removed.iter().enumerate() {
            if index > 0 {
                out.push('\t');
            }
            push_unquoted(out, id);
        }
        out.push('"');
    }
    tag.end();
}

fn write_daterange(range: &DateRange, out: &mut String) {
    let mut tag = Attributes::new(out, "#EXT-X-DATERANGE");
    tag.quoted("ID", &range.id);
    tag.quoted_if("CLASS", range.class.as_deref());
    tag.time("START-DATE", range.start_ms);
    if let Some(end_ms) = range.end_ms {
        tag.time("END-DATE", end_ms);
    }
    tag.seconds_if("DURATION", range.duration_s);
    tag.seconds_if("PLANNED-DURATION", range.planned_duration_s);
    for (name, value) in range.attributes.iter().filter(|(name, _)| is_client_name(name)) {
        match value {
            ClientValue::Text(text) => tag.quoted(name, text),
            ClientValue::Number(number) => tag.seconds(name, *number),
            ClientValue::Bytes(bytes) => tag.hexadecimal(name, bytes),
        }
    }
    let sections = [
        ("SCTE35-CMD", &range.scte35_cmd),
        ("SCTE35-OUT", &range.scte35_out),
        ("SCTE35-IN", &range.scte35_in),
    ];
    for (name, section) in sections {
        if let Some(section) = section {
            tag.hexadecimal(name, section);
        }
    }
    tag.yes("END-ON-NEXT", range.end_on_next);
    tag.end();
}

fn is_client_name(name: &str) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'-');
    name.strip_prefix("X-").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(is_allowed))
}

fn write_hint(hint: &Hint, out: &mut String) {
    let mut tag = Attributes::new(out, "#EXT-X-PRELOAD-HINT");
    match hint {
        Hint::Part { uri, byte_start } => {
            tag.name("TYPE").push_str("PART");
            tag.uri(uri);
            if let Some(start) = byte_start {
                tag.integer("BYTERANGE-START", *start);
            }
        }
        Hint::Map { uri } => {
            tag.name("TYPE").push_str("MAP");
            tag.uri(uri);
        }
    }
    tag.end();
}

fn write_report(report: &Report, out: &mut String) {
    let mut tag = Attributes::new(out, "#EXT-X-RENDITION-REPORT");
    tag.uri(&report.uri);
    tag.integer("LAST-MSN", report.last_msn);
    if let Some(last_part) = report.last_part {
        tag.integer("LAST-PART", last_part);
    }
    tag.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(playlist: &MediaPlaylist) -> String {
        let mut out = String::new();
        playlist.write(&mut out);
        out
    }

    fn part(uri: &str, independent: bool) -> Part {
        Part { uri: uri.to_owned(), duration_s: 0.5, independent, ..Part::default() }
    }

    fn low_latency() -> MediaPlaylist {
        let map = Map { uri: "v/e1/init.mp4".to_owned(), byte_range: None };
        let segment = |msn: u64, parts: bool| Segment {
            uri: format!("v/e1/{msn}.m4s"),
            duration_s: 1.0,
            map: Some(map.clone()),
            program_date_time_ms: Some(1_795_255_200_000 + 1000 * (msn as i64 - 7)),
            parts: (0..if parts { 2 } else { 0 })
                .map(|n| part(&format!("v/e1/{msn}.{n}.m4s"), n == 0))
                .collect(),
            ..Segment::default()
        };
        MediaPlaylist {
            target_duration_s: 1,
            media_sequence: 7,
            discontinuity_sequence: 2,
            server_control: ServerControl {
                can_block: true,
                hold_back_s: Some(3.0),
                part_hold_back_s: Some(1.5),
                can_skip_until_s: Some(6.0),
                can_skip_dateranges: true,
            },
            part_target_s: Some(0.5),
            segments: (7..16).map(|msn| segment(msn, msn > 11)).collect(),
            open: Some(Segment { parts: vec![part("v/e1/16.0.m4s", true)], ..segment(16, true) }),
            hints: vec![Hint::Part { uri: "v/e1/16.1.m4s".to_owned(), byte_start: None }],
            reports: vec![Report { uri: "a.m3u8".to_owned(), last_msn: 16, last_part: Some(0) }],
            ..MediaPlaylist::default()
        }
    }

    #[test]
    fn a_delta_of_low_latency_is_written_so() {
        let delta = low_latency().delta(true, 0).expect("there is something to skip");
        let expected = r#"#EXTM3U
#EXT-X-VERSION:10
#EXT-X-TARGETDURATION:1
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=6.00000,CAN-SKIP-DATERANGES=YES,HOLD-BACK=3.00000,PART-HOLD-BACK=1.50000
#EXT-X-PART-INF:PART-TARGET=0.50000
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-DISCONTINUITY-SEQUENCE:2
#EXT-X-SKIP:SKIPPED-SEGMENTS=3,RECENTLY-REMOVED-DATERANGES=""
#EXT-X-PROGRAM-DATE-TIME:2026-11-21T10:00:03.000Z
#EXTINF:1.00000,
v/e1/10.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-21T10:00:04.000Z
#EXTINF:1.00000,
v/e1/11.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-21T10:00:05.000Z
#EXTINF:1.00000,
v/e1/12.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-21T10:00:06.000Z
#EXT-X-PART:DURATION=0.50000,URI="v/e1/13.0.m4s",INDEPENDENT=YES
#EXT-X-PART:DURATION=0.50000,URI="v/e1/13.1.m4s"
#EXTINF:1.00000,
v/e1/13.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-21T10:00:07.000Z
#EXT-X-PART:DURATION=0.50000,URI="v/e1/14.0.m4s",INDEPENDENT=YES
#EXT-X-PART:DURATION=0.50000,URI="v/e1/14.1.m4s"
#EXTINF:1.00000,
v/e1/14.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-21T10:00:08.000Z
#EXT-X-PART:DURATION=0.50000,URI="v/e1/15.0.m4s",INDEPENDENT=YES
#EXT-X-PART:DURATION=0.50000,URI="v/e1/15.1.m4s"
#EXTINF:1.00000,
v/e1/15.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-21T10:00:09.000Z
#EXT-X-PART:DURATION=0.50000,URI="v/e1/16.0.m4s",INDEPENDENT=YES
#EXT-X-PRELOAD-HINT:TYPE=PART,URI="v/e1/16.1.m4s"
#EXT-X-RENDITION-REPORT:URI="a.m3u8",LAST-MSN=16,LAST-PART=0
"#;
        assert_eq!(text(&delta), expected);
        let full = text(&low_latency());
        assert_eq!(full.matches("#EXT-X-MAP").count(), 1, "said once, where it begins");
        assert!(full.contains("#EXT-X-VERSION:6\n"));
        let kept = expected.split_once("10:00:03.000Z").expect("it is there").1;
        assert!(full.ends_with(kept), "what is not skipped is the same text");
    }

    #[test]
    fn an_ended_playlist_promises_nothing() {
        let mut playlist = MediaPlaylist { ended: true, open: None, ..low_latency() };
        playlist.kind = Some(PlaylistKind::Event);
        let text = text(&playlist);
        assert!(text.ends_with("v/e1/15.m4s\n#EXT-X-ENDLIST\n"), "{text}");
        assert!(text.contains("#EXT-X-PLAYLIST-TYPE:EVENT\n"));
    }

    #[test]
    fn what_describes_a_segment_stands_before_its_first_part() {
        let mut playlist = low_latency();
        let open = playlist.open.as_mut().expect("it has one");
        open.discontinuity = true;
        open.bitrate = Some(900);
        let full = text(&playlist);
        let tail = "v/e1/15.m4s\n#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"v/e1/init.mp4\"\n\
            #EXT-X-PROGRAM-DATE-TIME:2026-11-21T10:00:09.000Z\n#EXT-X-BITRATE:900\n#EXT-X-PART:";
        assert!(full.contains(tail), "{full}");
        playlist.open.as_mut().expect("it has one").parts.clear();
        assert!(!text(&playlist).contains("DISCONTINUITY\n"), "not before its first part");
    }

    #[test]
    fn a_plain_playlist_has_the_lowest_version() {
        let mut playlist = MediaPlaylist {
            target_duration_s: 4,
            segments: vec![Segment {
                uri: "0.ts".to_owned(),
                duration_s: 3.96,
                gap: true,
                ..Segment::default()
            }],
            ..MediaPlaylist::default()
        };
        let expected = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n\
            #EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-GAP\n#EXTINF:3.96000,\n0.ts\n";
        assert_eq!(text(&playlist), expected);
        playlist.segments[0].byte_range =
            Some(super::super::ByteRange { length: 188, offset: 376 });
        let written = text(&playlist);
        assert!(written.contains("VERSION:4\n"));
        assert!(written.contains("#EXTINF:3.96000,\n#EXT-X-BYTERANGE:188@376\n0.ts\n"));
    }

    #[test]
    fn a_date_range_is_written_so() {
        let range = DateRange {
            id: "splice-\"7\"".to_owned(),
            class: Some("ad".to_owned()),
            start_ms: 1_795_255_200_000,
            planned_duration_s: Some(30.0),
            scte35_out: Some(vec![0xfc, 0x30, 0x0a]),
            attributes: vec![
                ("X-COM-NAME".to_owned(), ClientValue::Text("a\nb".to_owned())),
                ("x-bad".to_owned(), ClientValue::Number(1.0)),
            ],
            ..DateRange::default()
        };
        let mut out = String::new();
        write_daterange(&range, &mut out);
        let expected = "#EXT-X-DATERANGE:ID=\"splice-'7'\",CLASS=\"ad\",\
            START-DATE=\"2026-11-21T10:00:00.000Z\",PLANNED-DURATION=30.00000,X-COM-NAME=\"a b\",\
            SCTE35-OUT=0xFC300A\n";
        assert_eq!(out, expected);
    }
}
