//! A playlist that a publisher pushed, read as far as serving it needs: which segments and parts
//! it lists (for requests that wait), what it promises (server control), and where its segments
//! stand in the text, so that a delta update is made by leaving lines out. What is not understood
//! is passed on untouched. Nothing here trusts the text: sizes are limited, numbers saturate.

use thiserror::Error;

use super::attributes::push_unquoted;
use super::media_playlist::{Hint, SECONDS_NOISE, ServerControl};
use crate::wire::numbers::{parse_decimal, push_integer};

/// A longer text is not read; it is served as it is.
pub const PUSHED_PLAYLIST_BYTES_MAX: usize = 1 << 20;

/// Of so many of the last segments the number of parts is kept. Three target durations have parts.
const SEGMENTS_WITH_PARTS_MAX: usize = 32;
const HINTS_MAX: usize = 8;
const DATERANGES_MAX: usize = 1024;

/// Tags of the playlist as a whole and of its metadata. All others between segments belong to the
/// segment behind them, known or not, and are left out with it.
const KEPT_TAGS: [&str; 16] = [
    "EXTM3U",
    "EXT-X-VERSION",
    "EXT-X-INDEPENDENT-SEGMENTS",
    "EXT-X-START",
    "EXT-X-DEFINE",
    "EXT-X-TARGETDURATION",
    "EXT-X-MEDIA-SEQUENCE",
    "EXT-X-DISCONTINUITY-SEQUENCE",
    "EXT-X-ENDLIST",
    "EXT-X-PLAYLIST-TYPE",
    "EXT-X-I-FRAMES-ONLY",
    "EXT-X-PART-INF",
    "EXT-X-SERVER-CONTROL",
    "EXT-X-DATERANGE",
    "EXT-X-PRELOAD-HINT",
    "EXT-X-RENDITION-REPORT",
];

/// The segments begin with the first of these.
const SEGMENT_TAGS: [&str; 9] = [
    "EXTINF",
    "EXT-X-BYTERANGE",
    "EXT-X-DISCONTINUITY",
    "EXT-X-KEY",
    "EXT-X-MAP",
    "EXT-X-PROGRAM-DATE-TIME",
    "EXT-X-GAP",
    "EXT-X-BITRATE",
    "EXT-X-PART",
];

/// A delta update needs version 9, one that leaves out date ranges 10 (rfc8216bis §8).
const DELTA_VERSION: u64 = 9;
const DATERANGE_DELTA_VERSION: u64 = 10;

/// Facts of a pushed playlist.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pushed {
    /// It lists variants, not segments, and nothing below is known.
    pub multivariant: bool,
    /// 1 if the text does not say.
    pub version: u64,
    pub target_duration_s: u64,
    pub media_sequence: u64,
    /// Complete ones that are listed; in a delta update also those it skips.
    pub segments: u64,
    /// Segments that list parts, oldest first: number and how many parts. The open one is last and
    /// has the number behind the last complete one.
    pub parts: Vec<(u64, u64)>,
    pub part_target_s: Option<f64>,
    pub server_control: ServerControl,
    pub hints: Vec<Hint>,
    /// Identifiers of the date ranges it lists.
    pub dateranges: Vec<String>,
    /// Not read from the text: identifiers that earlier versions listed and this one does not, as
    /// far as CAN-SKIP-UNTIL goes back. For the delta update.
    pub removed_dateranges: Vec<String>,
    /// It is a delta update itself.
    pub is_delta: bool,
    pub ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PlaylistError {
    #[error("the playlist is longer than {PUSHED_PLAYLIST_BYTES_MAX} bytes")]
    TooLong,
    #[error("the text does not begin with #EXTM3U")]
    NotPlaylist,
    #[error("a media playlist without EXT-X-TARGETDURATION")]
    NoTargetDuration,
    #[error("line {line} has a {tag} that cannot be read")]
    BadTag { line: usize, tag: &'static str },
}

impl Pushed {
    pub fn parse(text: &str) -> Result<Pushed, PlaylistError> {
        if text.len() > PUSHED_PLAYLIST_BYTES_MAX {
            return Err(PlaylistError::TooLong);
        }
        if text.lines().next().map(str::trim_end) != Some("#EXTM3U") {
            return Err(PlaylistError::NotPlaylist);
        }
        let mut reading = Reading::default();
        for (index, line) in text.lines().enumerate() {
            let bad_tag = |tag| PlaylistError::BadTag { line: index + 1, tag };
            match Line::of(line) {
                Line::Tag { name, value } => reading.tag(name, value).map_err(bad_tag)?,
                Line::Uri => reading.uri(),
                Line::Other => {}
            }
        }
        reading.finish()
    }

    /// Number that the segment behind the last complete one has or will have.
    pub fn next_msn(&self) -> u64 {
        self.media_sequence.saturating_add(self.segments)
    }

    /// Parts of the segment in progress.
    pub fn open_parts(&self) -> u64 {
        self.parts_of(self.next_msn()).unwrap_or(0)
    }

    fn parts_of(&self, msn: u64) -> Option<u64> {
        self.parts.iter().rev().find(|(of, _)| *of == msn).map(|(_, count)| *count)
    }

    /// A request for `_HLS_msn` and `_HLS_part` need not wait (rfc8216bis §6.2.5.2): the segment,
    /// or the part, or a later one, is listed or was. A part behind the last of a complete segment
    /// is the first of the next.
    pub fn lists(&self, msn: u64, part: Option<u64>) -> bool {
        let next = self.next_msn();
        let Some(part) = part else {
            return msn < next;
        };
        if msn >= next {
            return msn == next && part < self.open_parts();
        }
        let is_last = msn + 1 == next;
        let is_of_it = self.parts_of(msn).is_none_or(|count| part < count);
        !is_last || is_of_it || self.open_parts() > 0
    }
}

/// The delta update of a pushed text, by leaving lines out (rfc8216bis §6.2.5.1); `pushed` is what
/// was parsed from it. `None`: the text does not offer it, or there is nothing to skip, and the
/// answer is the text itself. Date ranges are all kept: how long they have been there is not known.
pub fn delta_text(text: &str, pushed: &Pushed, v2: bool) -> Option<String> {
    let skip_until_s = pushed.server_control.can_skip_until_s?;
    if pushed.multivariant || pushed.is_delta || pushed.ended {
        return None;
    }
    let skipped = count_before(text, skip_until_s);
    if skipped == 0 {
        return None;
    }
    let v2 = v2 && pushed.server_control.can_skip_dateranges;
    let mut delta = Delta {
        out: String::with_capacity(text.len()),
        skipped,
        removed: v2.then_some(&pushed.removed_dateranges),
        segments: 0,
        in_segments: false,
        has_version: text.lines().any(|line| line.starts_with("#EXT-X-VERSION")),
        version: pushed.version,
    };
    for line in text.lines() {
        delta.line(line.trim_end())?;
    }
    Some(delta.out)
}

/// How many segments end further than so many seconds from the end.
fn count_before(text: &str, distance_s: f64) -> usize {
    let mut ends_s = Vec::new();
    let (mut end_s, mut segment_s, mut parts_s) = (0.0, 0.0, 0.0);
    for line in text.lines() {
        match Line::of(line) {
            Line::Tag { name: "EXTINF", value } => segment_s = extinf_s(value).unwrap_or(0.0),
            Line::Tag { name: "EXT-X-PART", value } => {
                parts_s += attribute(value, "DURATION").and_then(parse_decimal).unwrap_or(0.0);
            }
            Line::Uri => {
                end_s += segment_s;
                ends_s.push(end_s);
                (segment_s, parts_s) = (0.0, 0.0);
            }
            _ => {}
        }
    }
    end_s += parts_s;
    ends_s.iter().take_while(|at_s| end_s - **at_s > distance_s + SECONDS_NOISE).count()
}

fn extinf_s(value: &str) -> Option<f64> {
    parse_decimal(value.split(',').next()?)
}

/// A delta update that grows line by line.
struct Delta<'p> {
    out: String,
    /// So many of the first segments are left out.
    skipped: usize,
    removed: Option<&'p Vec<String>>,
    /// So many were read.
    segments: usize,
    in_segments: bool,
    has_version: bool,
    version: u64,
}

impl Delta<'_> {
    /// `None` if the first kept segment cannot stand without the one before.
    fn line(&mut self, line: &str) -> Option<()> {
        let content = Line::of(line);
        if !self.in_segments && content.begins_segments() {
            self.in_segments = true;
            self.push_skip();
        }
        match content {
            Line::Tag { name: "EXT-X-VERSION", .. } => {
                self.push_version();
                return Some(());
            }
            Line::Tag { name: "EXT-X-BYTERANGE", value }
                if self.segments == self.skipped && !value.contains('@') =>
            {
                return None;
            }
            _ => {}
        }
        let is_skipped = self.in_segments && self.segments < self.skipped;
        if !is_skipped || content.is_kept() {
            self.push(line);
        }
        if !self.has_version && matches!(content, Line::Tag { name: "EXTM3U", .. }) {
            self.push_version();
        }
        self.segments += usize::from(matches!(content, Line::Uri));
        Some(())
    }

    fn push(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    fn push_version(&mut self) {
        let needed = if self.removed.is_some() { DATERANGE_DELTA_VERSION } else { DELTA_VERSION };
        self.out.push_str("#EXT-X-VERSION:");
        push_integer(&mut self.out, self.version.max(needed));
        self.out.push('\n');
    }

    fn push_skip(&mut self) {
        self.out.push_str("#EXT-X-SKIP:SKIPPED-SEGMENTS=");
        push_integer(&mut self.out, self.skipped as u64);
        if let Some(removed) = self.removed {
            self.out.push_str(",RECENTLY-REMOVED-DATERANGES=\"");
            for (index, id) in removed.iter().enumerate() {
                if index > 0 {
                    self.out.push('\t');
                }
                push_unquoted(&mut self.out, id);
            }
            self.out.push('"');
        }
        self.out.push('\n');
    }
}

#[derive(Clone, Copy)]
enum Line<'t> {
    Tag {
        name: &'t str,
        value: &'t str,
    },
    Uri,
    /// Blank, or a comment.
    Other,
}

impl<'t> Line<'t> {
    fn of(line: &'t str) -> Line<'t> {
        let line = line.trim_end();
        match line.strip_prefix('#') {
            Some(tag) if tag.starts_with("EXT") => {
                let (name, value) = tag.split_once(':').unwrap_or((tag, ""));
                Line::Tag { name, value }
            }
            Some(_) => Line::Other,
            None if line.is_empty() => Line::Other,
            None => Line::Uri,
        }
    }

    fn begins_segments(&self) -> bool {
        match self {
            Line::Tag { name, .. } => SEGMENT_TAGS.contains(name),
            Line::Uri => true,
            Line::Other => false,
        }
    }

    fn is_kept(&self) -> bool {
        matches!(self, Line::Tag { name, .. } if KEPT_TAGS.contains(name))
    }
}

#[derive(Default)]
struct Reading {
    pushed: Pushed,
    has_target_duration: bool,
    /// Parts since the last URI.
    parts: u64,
}

impl Reading {
    /// The error is the tag's name.
    fn tag(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        let pushed = &mut self.pushed;
        match name {
            "EXT-X-STREAM-INF" | "EXT-X-I-FRAME-STREAM-INF" => pushed.multivariant = true,
            "EXT-X-VERSION" => pushed.version = integer(value).ok_or("EXT-X-VERSION")?,
            "EXT-X-TARGETDURATION" => {
                // Some write a decimal here.
                let seconds = parse_decimal(value).ok_or("EXT-X-TARGETDURATION")?;
                pushed.target_duration_s = seconds.ceil() as u64;
                self.has_target_duration = true;
            }
            "EXT-X-MEDIA-SEQUENCE" => {
                pushed.media_sequence = integer(value).ok_or("EXT-X-MEDIA-SEQUENCE")?;
            }
            "EXT-X-SKIP" => {
                let skipped = attribute(value, "SKIPPED-SEGMENTS").and_then(integer);
                pushed.segments = pushed.segments.saturating_add(skipped.ok_or("EXT-X-SKIP")?);
                pushed.is_delta = true;
            }
            "EXTINF" => {
                extinf_s(value).ok_or("EXTINF")?;
            }
            "EXT-X-PART" => self.parts += 1,
            "EXT-X-PART-INF" => {
                let target = attribute(value, "PART-TARGET").and_then(parse_decimal);
                pushed.part_target_s = Some(target.ok_or("EXT-X-PART-INF")?);
            }
            "EXT-X-SERVER-CONTROL" => pushed.server_control = server_control(value),
            "EXT-X-PRELOAD-HINT" if pushed.hints.len() < HINTS_MAX => {
                pushed.hints.extend(hint(value));
            }
            "EXT-X-DATERANGE" if pushed.dateranges.len() < DATERANGES_MAX => {
                pushed.dateranges.extend(attribute(value, "ID").map(str::to_owned));
            }
            "EXT-X-ENDLIST" => pushed.ended = true,
            _ => {}
        }
        Ok(())
    }

    fn uri(&mut self) {
        self.keep_parts();
        self.pushed.segments = self.pushed.segments.saturating_add(1);
    }

    fn keep_parts(&mut self) {
        let pushed = &mut self.pushed;
        if self.parts > 0 {
            if pushed.parts.len() == SEGMENTS_WITH_PARTS_MAX {
                pushed.parts.remove(0);
            }
            // The sequence number may stand behind the first segments, against the rules.
            pushed.parts.push((pushed.segments, self.parts));
            self.parts = 0;
        }
    }

    fn finish(mut self) -> Result<Pushed, PlaylistError> {
        self.keep_parts();
        let mut pushed = self.pushed;
        pushed.version = pushed.version.max(1);
        if pushed.multivariant {
            let version = pushed.version;
            return Ok(Pushed { multivariant: true, version, ..Pushed::default() });
        }
        if !self.has_target_duration {
            return Err(PlaylistError::NoTargetDuration);
        }
        for (msn, _) in &mut pushed.parts {
            *msn = msn.saturating_add(pushed.media_sequence);
        }
        Ok(pushed)
    }
}

fn integer(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn server_control(list: &str) -> ServerControl {
    let is_yes = |name| attribute(list, name) == Some("YES");
    let seconds = |name| attribute(list, name).and_then(parse_decimal);
    ServerControl {
        can_block: is_yes("CAN-BLOCK-RELOAD"),
        hold_back_s: seconds("HOLD-BACK"),
        part_hold_back_s: seconds("PART-HOLD-BACK"),
        can_skip_until_s: seconds("CAN-SKIP-UNTIL"),
        can_skip_dateranges: is_yes("CAN-SKIP-DATERANGES"),
    }
}

fn hint(list: &str) -> Option<Hint> {
    let uri = attribute(list, "URI")?.to_owned();
    match attribute(list, "TYPE")? {
        "PART" => {
            let byte_start = attribute(list, "BYTERANGE-START").and_then(integer);
            Some(Hint::Part { uri, byte_start })
        }
        "MAP" => Some(Hint::Map { uri }),
        _ => None,
    }
}

/// The value of an attribute, without its quotes.
fn attribute<'l>(list: &'l str, wanted: &str) -> Option<&'l str> {
    let mut rest = list;
    while let Some((name, behind)) = rest.split_once('=') {
        let value;
        (value, rest) = match behind.strip_prefix('"') {
            Some(quoted) => {
                let (value, behind) = quoted.split_once('"')?;
                (value, behind.split_once(',').map_or("", |(_, rest)| rest))
            }
            None => behind.split_once(',').unwrap_or((behind, "")),
        };
        if name.trim() == wanted {
            return Some(value.trim());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::playlist::{MediaPlaylist, Part, Segment};

    const LOW_LATENCY: &str = "#EXTM3U\r\n#EXT-X-TARGETDURATION:2\r\n#EXT-X-VERSION:6\r\n\
        #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.0,CAN-SKIP-UNTIL=12.0,\
        CAN-SKIP-DATERANGES=YES\r\n#EXT-X-PART-INF:PART-TARGET=0.33334\r\n\
        #EXT-X-MEDIA-SEQUENCE:266\r\n#EXT-X-MAP:URI=\"init.mp4\"\r\n\
        #EXTINF:2.00008,\r\na.mp4\r\n#EXT-X-CUE-OUT:30\r\n#EXT-X-DATERANGE:ID=\"x,=y\"\r\n\
        #EXTINF:2,\r\nb.mp4\r\n\r\n\
        #EXTINF:2,\r\nc.mp4\r\n#EXTINF:2,\r\nd.mp4\r\n#EXTINF:2,\r\ne.mp4\r\n\
        #EXTINF:2,\r\nf.mp4\r\n#EXT-X-PART:DURATION=1,URI=\"g.0\"\r\n\
        #EXT-X-PART:DURATION=1,URI=\"g.1\"\r\n#EXTINF:2,\r\ng.mp4\r\n\
        #EXT-X-PART:DURATION=1.5,URI=\"h.0\",INDEPENDENT=YES\r\n\
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"h.1\"\r\n";

    #[test]
    fn a_pushed_playlist_is_understood() {
        let pushed = Pushed::parse(LOW_LATENCY).expect("it is good");
        assert_eq!((pushed.target_duration_s, pushed.media_sequence, pushed.segments), (2, 266, 7));
        assert_eq!(pushed.parts, [(272, 2), (273, 1)]);
        assert_eq!(pushed.part_target_s, Some(0.33334));
        assert!(pushed.server_control.can_block && pushed.server_control.can_skip_dateranges);
        assert_eq!(pushed.server_control.can_skip_until_s, Some(12.0));
        assert_eq!(pushed.hints, [Hint::Part { uri: "h.1".to_owned(), byte_start: None }]);
        assert_eq!(pushed.dateranges, ["x,=y"]);
        assert!(!pushed.ended && !pushed.is_delta && !pushed.multivariant);
    }

    #[test]
    fn it_says_whom_it_answers() {
        let pushed = Pushed::parse(LOW_LATENCY).expect("it is good");
        for (msn, part, answers) in [
            (0, None, true),
            (0, Some(9), true),
            (272, None, true),
            (272, Some(1), true),
            (272, Some(2), true),
            (273, Some(0), true),
            (273, Some(1), false),
            (273, None, false),
            (274, Some(0), false),
            (u64::MAX, Some(u64::MAX), false),
        ] {
            assert_eq!(pushed.lists(msn, part), answers, "{msn} {part:?}");
        }
        let closed = LOW_LATENCY.split_once("#EXT-X-PART:DURATION=1.5").expect("it is there").0;
        let pushed = Pushed::parse(closed).expect("it is good");
        assert!(pushed.lists(272, Some(1)) && !pushed.lists(272, Some(2)));
    }

    #[test]
    fn a_delta_leaves_out_the_lines_of_old_segments() {
        let mut pushed = Pushed::parse(LOW_LATENCY).expect("it is good");
        let delta = delta_text(LOW_LATENCY, &pushed, false).expect("it offers it");
        let expected = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-VERSION:9\n\
            #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.0,CAN-SKIP-UNTIL=12.0,\
            CAN-SKIP-DATERANGES=YES\n#EXT-X-PART-INF:PART-TARGET=0.33334\n\
            #EXT-X-MEDIA-SEQUENCE:266\n#EXT-X-SKIP:SKIPPED-SEGMENTS=1\n\
            #EXT-X-CUE-OUT:30\n#EXT-X-DATERANGE:ID=\"x,=y\"\n#EXTINF:2,\nb.mp4\n\n";
        assert!(delta.starts_with(expected), "{delta}");
        assert!(delta.ends_with("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"h.1\"\n"));
        let again = Pushed::parse(&delta).expect("it is good");
        assert_eq!((again.segments, again.next_msn(), again.open_parts()), (7, 273, 1));
        assert_eq!(again.parts, pushed.parts);
        assert_eq!(delta_text(&delta, &again, false), None);

        pushed.removed_dateranges = vec!["a".to_owned(), "b\"".to_owned()];
        let delta = delta_text(LOW_LATENCY, &pushed, true).expect("it offers it");
        assert!(delta.contains("#EXT-X-VERSION:10\n"));
        let skip = "#EXT-X-SKIP:SKIPPED-SEGMENTS=1,RECENTLY-REMOVED-DATERANGES=\"a\tb'\"\n";
        assert!(delta.contains(skip), "{delta}");
    }

    #[test]
    fn without_an_offer_there_is_no_delta() {
        let other = |from: &str, to: &str| {
            let text = LOW_LATENCY.replace(from, to);
            let pushed = Pushed::parse(&text).expect("it is good");
            delta_text(&text, &pushed, true)
        };
        assert_eq!(other(",CAN-SKIP-UNTIL=12.0", ""), None);
        assert_eq!(other("UNTIL=12.0", "UNTIL=13.5"), None);
        assert_eq!(other("#EXT-X-PRELOAD-HINT", "#EXT-X-ENDLIST\n#EXT-X-PRELOAD-HINT"), None);
        assert_eq!(other("b.mp4", "#EXT-X-BYTERANGE:10\nb.mp4"), None);
        let unversioned = other("#EXT-X-VERSION:6\r\n", "").expect("it offers it");
        assert!(unversioned.starts_with("#EXTM3U\n#EXT-X-VERSION:10\n"), "{unversioned}");
        let no_dateranges = other(",CAN-SKIP-DATERANGES=YES", "").expect("it offers it");
        assert!(!no_dateranges.contains("RECENTLY-REMOVED"));
    }

    #[test]
    fn others_are_told_apart() {
        let error = |text: &str| Pushed::parse(text).expect_err("it is bad");
        assert_eq!(error(""), PlaylistError::NotPlaylist);
        assert_eq!(error("<html>"), PlaylistError::NotPlaylist);
        assert_eq!(error("#EXTM3U\n#EXTINF:2,\na.ts"), PlaylistError::NoTargetDuration);
        assert_eq!(
            error("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:-1\n"),
            PlaylistError::BadTag { line: 2, tag: "EXT-X-MEDIA-SEQUENCE" }
        );
        assert_eq!(error(&"#".repeat(PUSHED_PLAYLIST_BYTES_MAX + 1)), PlaylistError::TooLong);
        let text = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n";
        let pushed = Pushed::parse(text).expect("it is good");
        assert!(pushed.multivariant && pushed.segments == 0);
        assert_eq!(delta_text(text, &pushed, false), None);
    }

    /// Words of playlists in any order: more of the code is met than by arbitrary text.
    fn like_a_playlist() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            Just("#EXT-X-TARGETDURATION:2".to_owned()),
            Just("#EXT-X-SERVER-CONTROL:CAN-SKIP-UNTIL=1,CAN-SKIP-DATERANGES=YES".to_owned()),
            any::<u64>().prop_map(|n| format!("#EXT-X-MEDIA-SEQUENCE:{n}")),
            any::<u64>().prop_map(|n| format!("#EXT-X-SKIP:SKIPPED-SEGMENTS={n}")),
            any::<f64>().prop_map(|s| format!("#EXTINF:{},", s.abs())),
            (0..9).prop_map(|s| format!("#EXTINF:{s},\n{s}.ts")),
            "#EXT-X-(PART|PRELOAD-HINT|DATERANGE|PART-INF|MAP|BYTERANGE):[A-Z\"=,@0-9]{0,20}",
            "[#a-zé\"=,:\r]{0,12}",
        ];
        prop::collection::vec(line, 0..40)
            .prop_map(|lines| format!("#EXTM3U\n{}", lines.join("\n")))
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in prop_oneof![any::<String>(), like_a_playlist()],
            msn in any::<u64>(), part in any::<Option<u64>>()) {
            if let Ok(pushed) = Pushed::parse(&text) {
                pushed.lists(msn, part);
                if let Some(delta) = delta_text(&text, &pushed, true) {
                    let again = Pushed::parse(&delta).expect("a delta is a playlist");
                    prop_assert_eq!(again.segments, pushed.segments);
                    prop_assert!(again.is_delta);
                }
            }
            delta_text(&text, &Pushed::default(), true);
        }

        /// The delta of the text and the delta of the value are the same text.
        #[test]
        fn both_deltas_agree(segments in prop::collection::vec(1..4_u8, 0..40),
            parts in prop::collection::vec(1..4_u8, 0..4), until in 6..30_u8) {
            let part = |seconds: &u8| Part {
                uri: "p".to_owned(), duration_s: f64::from(*seconds), ..Part::default()
            };
            let segment = |seconds: &u8| Segment {
                uri: "s".to_owned(), duration_s: f64::from(*seconds), ..Segment::default()
            };
            let playlist = MediaPlaylist {
                target_duration_s: 4,
                server_control: ServerControl {
                    can_skip_until_s: Some(until.into()), ..ServerControl::default()
                },
                segments: segments.iter().map(segment).collect(),
                open: Some(Segment { parts: parts.iter().map(part).collect(), ..Segment::default() }),
                ..MediaPlaylist::default()
            };
            let (mut text, mut delta) = (String::new(), None);
            playlist.write(&mut text);
            if let Some(value) = playlist.delta(false, 0) {
                value.write(delta.insert(String::new()));
            }
            let pushed = Pushed::parse(&text).expect("it is ours");
            prop_assert_eq!(delta_text(&text, &pushed, false), delta);
        }
    }
}
