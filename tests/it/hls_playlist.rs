//! A strict reader of HLS playlists, written from RFC 8216bis and from nothing in this repository.
//!
//! What stands in a playlist is read by hand and refused when a client could misread it. Every rule
//! is called by its number in the checklist (P1 to P18, S1 to S20), which begins the text of the
//! failure; `B1` is the low-latency profile of appendix B.1, `M` the multivariant playlist, `SYNTAX`
//! the sections 4.1 and 4.2. What the contents must be is in `hls_checks`.

use std::collections::{BTreeMap, BTreeSet};

/// What is wrong, or the thing itself.
pub(crate) type Verdict<T> = Result<T, String>;

/// Refuses with the number of the rule and the reason.
macro_rules! demand {
    ($holds:expr, $rule:expr, $($why:tt)+) => {
        let holds: bool = $holds;
        if !holds {
            return Err(format!("{}: {}", $rule, format_args!($($why)+)));
        }
    };
}
pub(crate) use demand;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Map {
    pub(crate) uri: String,
    pub(crate) byte_range: Option<(u64, Option<u64>)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    pub(crate) uri: String,
    pub(crate) duration: f64,
    pub(crate) independent: bool,
    pub(crate) gap: bool,
    /// Length and first byte.
    pub(crate) byte_range: Option<(u64, u64)>,
}

/// A segment, or what is known of the one in progress.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Segment {
    pub(crate) msn: u64,
    pub(crate) uri: String,
    pub(crate) duration: Option<f64>,
    pub(crate) has_discontinuity: bool,
    /// Its discontinuity sequence number.
    pub(crate) run: u64,
    pub(crate) has_map: bool,
    /// The one that applies, wherever it was said.
    pub(crate) map: Option<Map>,
    pub(crate) date_ms: Option<i64>,
    pub(crate) gap: bool,
    pub(crate) byte_range: Option<(u64, u64)>,
    pub(crate) parts: Vec<Part>,
}

impl Segment {
    /// Everything that may never change once the segment is listed.
    pub(crate) fn lasting(&self) -> Segment {
        Segment { parts: Vec::new(), has_map: false, ..self.clone() }
    }

    pub(crate) fn length(&self) -> f64 {
        self.duration.unwrap_or_else(|| self.parts.iter().map(|part| part.duration).sum())
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ServerControl {
    pub(crate) can_block: bool,
    pub(crate) can_skip_until: Option<f64>,
    pub(crate) can_skip_dateranges: bool,
    pub(crate) hold_back: Option<f64>,
    pub(crate) part_hold_back: Option<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hint {
    pub(crate) kind: String,
    pub(crate) uri: String,
    pub(crate) start: u64,
    pub(crate) length: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RenditionReport {
    pub(crate) uri: String,
    pub(crate) last_msn: Option<u64>,
    pub(crate) last_part: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Skip {
    pub(crate) segments: u64,
    pub(crate) removed_dateranges: Option<Vec<String>>,
}

/// One version of a media playlist.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Playlist {
    pub(crate) version: u64,
    pub(crate) target_duration: f64,
    pub(crate) media_sequence: u64,
    pub(crate) discontinuity_sequence: u64,
    pub(crate) kind: Option<String>,
    pub(crate) independent_segments: bool,
    pub(crate) control: Option<ServerControl>,
    pub(crate) part_target: Option<f64>,
    pub(crate) skip: Option<Skip>,
    pub(crate) segments: Vec<Segment>,
    /// The segment in progress: all that follows the last segment.
    pub(crate) open: Option<Segment>,
    pub(crate) hints: Vec<Hint>,
    pub(crate) reports: Vec<RenditionReport>,
    pub(crate) dateranges: BTreeMap<String, String>,
    pub(crate) ended: bool,
}

impl Playlist {
    pub(crate) fn parse(text: &str) -> Verdict<Playlist> {
        let mut reader = Reader::default();
        for line in lines(text)? {
            reader.line(line)?;
        }
        reader.finish()
    }

    /// Reads one version that a server gave as a whole, and checks all that one version can break.
    pub(crate) fn checked(text: &str) -> Verdict<Playlist> {
        let playlist = Playlist::parse(text)?;
        demand!(playlist.skip.is_none(), "S9", "a delta update that nobody asked for");
        playlist.check()?;
        Ok(playlist)
    }

    /// Number of the segment in progress, listed or not.
    pub(crate) fn open_msn(&self) -> u64 {
        let skipped = self.skip.as_ref().map_or(0, |skip| skip.segments);
        self.media_sequence + skipped + self.segments.len() as u64
    }

    pub(crate) fn open_parts(&self) -> &[Part] {
        self.open.as_ref().map_or(&[], |open| &open.parts)
    }

    /// What a blocking client asks for next.
    pub(crate) fn next(&self) -> (u64, u64) {
        (self.open_msn(), self.open_parts().len() as u64)
    }

    /// The newest (msn, part) as rendition reports count it.
    pub(crate) fn last(&self) -> (u64, Option<u64>) {
        if let Some(count @ 1..) = self.open.as_ref().map(|open| open.parts.len()) {
            return (self.open_msn(), Some(count as u64 - 1));
        }
        let parts = self.segments.last().map_or(0, |segment| segment.parts.len() as u64);
        (self.open_msn().saturating_sub(1), parts.checked_sub(1))
    }

    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.iter().chain(&self.open)
    }

    pub(crate) fn segment(&self, msn: u64) -> Option<&Segment> {
        self.all().find(|segment| segment.msn == msn)
    }

    pub(crate) fn hint(&self, kind: &str) -> Option<&Hint> {
        self.hints.iter().find(|hint| hint.kind == kind)
    }

    pub(crate) fn length(&self) -> f64 {
        self.all().map(Segment::length).sum()
    }

    /// Says again what numbers and state follow from the order of the segments.
    pub(crate) fn number(&mut self) {
        let skipped = self.skip.as_ref().map_or(0, |skip| skip.segments);
        let (mut run, mut map) = (self.discontinuity_sequence, None::<Map>);
        for (msn, segment) in (self.media_sequence + skipped..).zip(&mut self.segments) {
            (run, map) = segment.take_state(msn, run, map);
        }
        let msn = self.open_msn();
        if let Some(open) = &mut self.open {
            open.take_state(msn, run, map);
        }
    }
}

impl Segment {
    fn take_state(&mut self, msn: u64, run: u64, map: Option<Map>) -> (u64, Option<Map>) {
        self.msn = msn;
        self.run = run + u64::from(self.has_discontinuity);
        if !self.has_map {
            self.map = map;
        }
        (self.run, self.map.clone())
    }
}

// Reading.

/// The lines of a playlist without their ends.
fn lines(text: &str) -> Verdict<impl Iterator<Item = &str>> {
    demand!(text.starts_with("#EXTM3U\n"), "SYNTAX", "no #EXTM3U at the start: {text:.20?}");
    demand!(text.ends_with('\n'), "S2", "the last line is not whole");
    let odd = text.chars().find(|&c| c.is_control() && !['\n', '\t'].contains(&c));
    demand!(odd.is_none(), "SYNTAX", "control character {odd:?}");
    Ok(text.lines().skip(1).filter(|line| !line.is_empty()))
}

/// Attribute lists: section 4.2.
pub(crate) struct Attributes<'t>(BTreeMap<&'t str, &'t str>);

impl<'t> Attributes<'t> {
    fn parse(list: &'t str) -> Verdict<Attributes<'t>> {
        let (mut found, mut rest) = (BTreeMap::new(), list);
        loop {
            let Some((name, after)) = rest.split_once('=') else {
                return Err(format!("SYNTAX: no value in {rest:?} of {list:?}"));
            };
            let good = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-';
            demand!(!name.is_empty() && name.chars().all(good), "SYNTAX", "name {name:?}: {list}");
            let end = match after.strip_prefix('"') {
                Some(quoted) => quoted.find('"').map(|end| end + 2),
                None => Some(after.find(',').unwrap_or(after.len())),
            };
            let Some(end) = end else {
                return Err(format!("SYNTAX: a quote without end in {list:?}"));
            };
            let (value, next) = after.split_at(end);
            let bare = !value.starts_with('"') && value.contains(['"', ' ']);
            demand!(!value.is_empty() && !bare, "SYNTAX", "value of {name} in {list:?}");
            demand!(found.insert(name, value).is_none(), "SYNTAX", "{name} twice in {list:?}");
            match next.strip_prefix(',') {
                Some(more) => rest = more,
                None if next.is_empty() => return Ok(Attributes(found)),
                None => return Err(format!("SYNTAX: {next:?} after {name} in {list:?}")),
            }
        }
    }

    fn quoted(&self, name: &str) -> Verdict<Option<String>> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        inner.map(|inner| Some(inner.to_owned())).ok_or(format!("SYNTAX: {name}={value} unquoted"))
    }

    fn needed(&self, name: &str) -> Verdict<String> {
        self.quoted(name)?.ok_or(format!("SYNTAX: {name} is missing"))
    }

    fn enumerated(&self, name: &str) -> Option<&'t str> {
        self.0.get(name).copied()
    }

    /// An attribute whose only value is YES (NO where the specification has it).
    fn yes(&self, name: &str) -> Verdict<bool> {
        match self.enumerated(name) {
            None | Some("NO") => Ok(false),
            Some("YES") => Ok(true),
            Some(other) => Err(format!("SYNTAX: {name}={other}")),
        }
    }

    fn decimal(&self, name: &str) -> Verdict<Option<f64>> {
        self.0.get(name).map(|value| decimal(value)).transpose()
    }

    fn integer(&self, name: &str) -> Verdict<Option<u64>> {
        self.0.get(name).map(|value| integer(value)).transpose()
    }
}

fn integer(text: &str) -> Verdict<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(format!("SYNTAX: {text:?} is no decimal-integer"))
}

fn decimal(text: &str) -> Verdict<f64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let whole = text.starts_with(|c: char| c.is_ascii_digit()) && !text.ends_with('.');
    text.parse().ok().filter(|_| digits && whole).ok_or(format!("SYNTAX: {text:?} is no float"))
}

/// `n[@o]`
fn byte_range(text: &str) -> Verdict<(u64, Option<u64>)> {
    let (length, start) = match text.split_once('@') {
        Some((length, start)) => (length, Some(integer(start)?)),
        None => (text, None),
    };
    Ok((integer(length)?, start))
}

/// Milliseconds since 1970 of a date with a zone.
pub(crate) fn date_ms(text: &str) -> Verdict<i64> {
    let wrong = || format!("SYNTAX: {text:?} is no date with a time zone");
    let number = |range: std::ops::Range<usize>| {
        text.get(range).and_then(|digits| integer(digits).ok()).ok_or_else(wrong)
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let placed = marks.iter().all(|&(at, mark)| text.as_bytes().get(at) == Some(&mark));
    demand!(placed && text.is_ascii(), "SYNTAX", "{text:?} is no ISO 8601 date");
    let (year, month, day) = (number(0..4)? as i64, number(5..7)? as i64, number(8..10)? as i64);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let tail = &text[19..];
    let zone = tail.find(['Z', '+', '-']).ok_or_else(wrong)?;
    demand!(tail[zone..] == *"Z", "SYNTAX", "{text:?} is not in UTC");
    let fraction = if zone == 0 { 0.0 } else { decimal(&format!("0{}", &tail[..zone]))? };
    // Days from the civil date, counted in years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + (hour * 3_600 + minute * 60 + second) as i64;
    Ok(seconds * 1000 + (fraction * 1000.0).round() as i64)
}

/// Tags that stand at most once.
const ONCE: [&str; 11] = [
    "EXT-X-VERSION",
    "EXT-X-TARGETDURATION",
    "EXT-X-MEDIA-SEQUENCE",
    "EXT-X-DISCONTINUITY-SEQUENCE",
    "EXT-X-PLAYLIST-TYPE",
    "EXT-X-INDEPENDENT-SEGMENTS",
    "EXT-X-SERVER-CONTROL",
    "EXT-X-PART-INF",
    "EXT-X-SKIP",
    "EXT-X-ENDLIST",
    "EXT-X-START",
];

/// The state of reading: the playlist so far and the segment whose URI has not come.
#[derive(Default)]
struct Reader {
    playlist: Playlist,
    next: Segment,
    /// Something was said of `next`.
    begun: bool,
    seen: BTreeSet<String>,
    /// Where the previous range of the same resource ended.
    range_end: Option<(String, u64)>,
    pending_range: Option<(u64, Option<u64>)>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Verdict<()> {
        let Some(tag) = line.strip_prefix("#EXT") else {
            return if line.starts_with('#') { Ok(()) } else { self.uri(line) };
        };
        let (name, value) = match tag.split_once(':') {
            Some((name, value)) => (format!("EXT{name}"), value),
            None => (format!("EXT{tag}"), ""),
        };
        if ONCE.contains(&name.as_str()) {
            demand!(self.seen.insert(name.clone()), "SYNTAX", "{name} twice");
            let at_head = self.playlist.segments.is_empty() && !self.begun;
            demand!(at_head || name == "EXT-X-ENDLIST", "SYNTAX", "{name} after a segment");
            return self.head(&name, value);
        }
        if name == "EXT-X-PRELOAD-HINT" || name == "EXT-X-RENDITION-REPORT" {
            return self.tail(&name, &Attributes::parse(value)?);
        }
        let closed = self.playlist.hints.is_empty() || name == "EXT-X-DATERANGE";
        demand!(closed, "P13", "{name} after a hint");
        self.segment(&name, value)
    }

    fn head(&mut self, name: &str, value: &str) -> Verdict<()> {
        let list = &mut self.playlist;
        match name {
            "EXT-X-VERSION" => list.version = integer(value)?,
            "EXT-X-TARGETDURATION" => list.target_duration = integer(value)? as f64,
            "EXT-X-MEDIA-SEQUENCE" => list.media_sequence = integer(value)?,
            "EXT-X-DISCONTINUITY-SEQUENCE" => list.discontinuity_sequence = integer(value)?,
            "EXT-X-INDEPENDENT-SEGMENTS" => list.independent_segments = true,
            "EXT-X-ENDLIST" => list.ended = true,
            "EXT-X-PLAYLIST-TYPE" => {
                demand!(["EVENT", "VOD"].contains(&value), "SYNTAX", "playlist type {value}");
                list.kind = Some(value.to_owned());
            }
            "EXT-X-SERVER-CONTROL" => {
                let found = Attributes::parse(value)?;
                list.control = Some(ServerControl {
                    can_block: found.yes("CAN-BLOCK-RELOAD")?,
                    can_skip_until: found.decimal("CAN-SKIP-UNTIL")?,
                    can_skip_dateranges: found.yes("CAN-SKIP-DATERANGES")?,
                    hold_back: found.decimal("HOLD-BACK")?,
                    part_hold_back: found.decimal("PART-HOLD-BACK")?,
                });
            }
            "EXT-X-PART-INF" => {
                list.part_target = Attributes::parse(value)?.decimal("PART-TARGET")?;
                demand!(list.part_target > Some(0.0), "P1", "EXT-X-PART-INF:{value}");
            }
            "EXT-X-SKIP" => {
                let found = Attributes::parse(value)?;
                let segments = found.integer("SKIPPED-SEGMENTS")?;
                demand!(segments.is_some(), "P12", "EXT-X-SKIP without SKIPPED-SEGMENTS");
                let ids = found.quoted("RECENTLY-REMOVED-DATERANGES")?;
                let ids = ids.map(|ids| {
                    ids.split('\t').filter(|id| !id.is_empty()).map(str::to_owned).collect()
                });
                let segments = segments.unwrap_or(0);
                list.skip = Some(Skip { segments, removed_dateranges: ids });
            }
            _ => {}
        }
        Ok(())
    }

    fn segment(&mut self, name: &str, value: &str) -> Verdict<()> {
        let early = ["EXT-X-DISCONTINUITY", "EXT-X-MAP", "EXT-X-PROGRAM-DATE-TIME", "EXT-X-KEY"];
        let late = early.contains(&name) && !self.next.parts.is_empty();
        demand!(!late, "P6", "{name} after the first part of its segment");
        self.begun |= name != "EXT-X-DATERANGE";
        let next = &mut self.next;
        match name {
            "EXTINF" => {
                let (duration, _) = value.split_once(',').ok_or("SYNTAX: EXTINF without comma")?;
                demand!(next.duration.is_none(), "SYNTAX", "two EXTINF for one segment");
                next.duration = Some(decimal(duration)?);
            }
            "EXT-X-DISCONTINUITY" => {
                demand!(!next.has_discontinuity, "SYNTAX", "{name} twice for a segment");
                next.has_discontinuity = true;
            }
            "EXT-X-GAP" => next.gap = true,
            "EXT-X-PROGRAM-DATE-TIME" => next.date_ms = Some(date_ms(value)?),
            "EXT-X-MAP" => {
                let found = Attributes::parse(value)?;
                let range = found.quoted("BYTERANGE")?;
                let byte_range = range.map(|range| byte_range(&range)).transpose()?;
                demand!(!next.has_map, "SYNTAX", "{name} twice for a segment");
                next.map = Some(Map { uri: relative(found.needed("URI")?)?, byte_range });
                next.has_map = true;
            }
            "EXT-X-BYTERANGE" => self.pending_range = Some(byte_range(value)?),
            "EXT-X-BITRATE" => drop(integer(value)?),
            "EXT-X-PART" => {
                demand!(next.duration.is_none(), "P6", "EXT-X-PART after EXTINF");
                let part = self.part(&Attributes::parse(value)?)?;
                self.next.parts.push(part);
            }
            "EXT-X-DATERANGE" => {
                let id = Attributes::parse(value)?.needed("ID")?;
                let old = self.playlist.dateranges.insert(id.clone(), value.to_owned());
                demand!(old.is_none(), "SYNTAX", "date range {id} twice");
            }
            _ => return Err(format!("SYNTAX: tag {name} is not known")),
        }
        Ok(())
    }

    fn part(&mut self, found: &Attributes<'_>) -> Verdict<Part> {
        let uri = relative(found.needed("URI")?)?;
        let Some(duration) = found.decimal("DURATION")? else {
            return Err(format!("P4: part {uri} has no DURATION"));
        };
        let range = found.quoted("BYTERANGE")?.map(|range| byte_range(&range)).transpose()?;
        let byte_range = range.map(|range| self.resolve(&uri, range)).transpose()?;
        let (independent, gap) = (found.yes("INDEPENDENT")?, found.yes("GAP")?);
        Ok(Part { uri, duration, independent, gap, byte_range })
    }

    fn resolve(&mut self, uri: &str, range: (u64, Option<u64>)) -> Verdict<(u64, u64)> {
        let before = self.range_end.take().filter(|(last, _)| last == uri).map(|(_, end)| end);
        let Some(start) = range.1.or(before) else {
            return Err(format!("P7: BYTERANGE {} of {uri} continues nothing", range.0));
        };
        self.range_end = Some((uri.to_owned(), start + range.0));
        Ok((range.0, start))
    }

    fn tail(&mut self, name: &str, found: &Attributes<'_>) -> Verdict<()> {
        let uri = relative(found.needed("URI")?)?;
        if name == "EXT-X-RENDITION-REPORT" {
            let (last_msn, last_part) = (found.integer("LAST-MSN")?, found.integer("LAST-PART")?);
            self.playlist.reports.push(RenditionReport { uri, last_msn, last_part });
            return Ok(());
        }
        let kind = found.enumerated("TYPE").unwrap_or("").to_owned();
        demand!(["PART", "MAP"].contains(&kind.as_str()), "P13", "hint of type {kind:?}");
        let start = found.integer("BYTERANGE-START")?.unwrap_or(0);
        let length = found.integer("BYTERANGE-LENGTH")?;
        self.playlist.hints.push(Hint { kind, uri, start, length });
        Ok(())
    }

    fn uri(&mut self, line: &str) -> Verdict<()> {
        let mut segment = std::mem::take(&mut self.next);
        segment.uri = relative(line.to_owned())?;
        demand!(segment.duration.is_some(), "SYNTAX", "{line} without EXTINF");
        if let Some(range) = self.pending_range.take() {
            segment.byte_range = Some(self.resolve(line, range)?);
        }
        self.begun = false;
        self.playlist.segments.push(segment);
        Ok(())
    }

    fn finish(mut self) -> Verdict<Playlist> {
        for needed in ["EXT-X-TARGETDURATION", "EXT-X-VERSION"] {
            demand!(self.seen.contains(needed), "SYNTAX", "{needed} is missing");
        }
        demand!(self.next.duration.is_none(), "SYNTAX", "EXTINF without a URI");
        if self.begun {
            self.playlist.open = Some(self.next);
        }
        self.playlist.number();
        Ok(self.playlist)
    }
}

/// A URI that is relative and safe on its line.
fn relative(uri: String) -> Verdict<String> {
    let odd = |c: char| c == ' ' || c == '"' || c == '\\' || !c.is_ascii();
    demand!(!uri.is_empty() && !uri.contains(odd), "SYNTAX", "URI {uri:?} is not encoded");
    demand!(!uri.contains("://"), "P11", "URI {uri} is not relative");
    Ok(uri)
}

// The multivariant playlist.

#[derive(Debug, Clone, Default)]
pub(crate) struct Variant {
    pub(crate) uri: String,
    pub(crate) bandwidth: u64,
    pub(crate) codecs: String,
    pub(crate) resolution: Option<String>,
    pub(crate) frame_rate: Option<f64>,
    pub(crate) audio: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Media {
    pub(crate) kind: String,
    pub(crate) group: String,
    pub(crate) name: String,
    pub(crate) uri: Option<String>,
    is_default: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Multivariant {
    pub(crate) variants: Vec<Variant>,
    pub(crate) media: Vec<Media>,
}

impl Multivariant {
    pub(crate) fn parse(text: &str) -> Verdict<Multivariant> {
        let (mut found, mut next) = (Multivariant::default(), None::<Variant>);
        for line in lines(text)? {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let waits = next.is_some() && line.starts_with('#');
            demand!(!waits, "M", "{line} between EXT-X-STREAM-INF and its URI");
            match name {
                "#EXT-X-STREAM-INF" => next = Some(variant(&Attributes::parse(value)?)?),
                "#EXT-X-MEDIA" => found.media.push(media(&Attributes::parse(value)?)?),
                "#EXT-X-VERSION" => drop(integer(value)?),
                "#EXT-X-CONTENT-STEERING" => {
                    drop(Attributes::parse(value)?.needed("SERVER-URI")?);
                }
                "#EXT-X-INDEPENDENT-SEGMENTS" | "#EXT-X-START" | "#EXT-X-SESSION-DATA" => {}
                _ if line.starts_with("#EXT") => {
                    return Err(format!("M: {name} has no place here"));
                }
                _ if line.starts_with('#') => {}
                _ => {
                    let Some(mut variant) = next.take() else {
                        return Err(format!("M: {line} without EXT-X-STREAM-INF"));
                    };
                    variant.uri = relative(line.to_owned())?;
                    found.variants.push(variant);
                }
            }
        }
        demand!(next.is_none(), "M", "EXT-X-STREAM-INF without a URI");
        found.check()?;
        Ok(found)
    }

    fn check(&self) -> Verdict<()> {
        demand!(!self.variants.is_empty(), "M", "no variant");
        for variant in &self.variants {
            let Some(group) = &variant.audio else {
                continue;
            };
            let known = self.media.iter().any(|one| one.kind == "AUDIO" && one.group == *group);
            demand!(known, "M", "variant {} wants group {group}", variant.uri);
        }
        for media in &self.media {
            let group =
                self.media.iter().filter(|one| one.kind == media.kind && one.group == media.group);
            let group: Vec<_> = group.collect();
            let names = group.iter().filter(|one| one.name == media.name).count();
            demand!(names == 1, "M", "{} stands twice in {}", media.name, media.group);
            let defaults = group.iter().filter(|one| one.is_default).count();
            demand!(defaults <= 1, "M", "{defaults} defaults in {}", media.group);
            let used = media.kind != "AUDIO"
                || self.variants.iter().any(|one| one.audio.as_ref() == Some(&media.group));
            demand!(used, "M", "nobody uses group {}", media.group);
        }
        Ok(())
    }

    /// Every media playlist once.
    pub(crate) fn playlists(&self) -> Vec<String> {
        let variants = self.variants.iter().map(|variant| variant.uri.clone());
        let media = self.media.iter().filter_map(|media| media.uri.clone());
        variants.chain(media).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn variant(found: &Attributes<'_>) -> Verdict<Variant> {
    let bandwidth = found.integer("BANDWIDTH")?;
    demand!(bandwidth > Some(0), "M", "a variant without BANDWIDTH");
    let average = found.integer("AVERAGE-BANDWIDTH")?;
    demand!(average <= bandwidth, "M", "AVERAGE-BANDWIDTH {average:?} over {bandwidth:?}");
    let codecs = found.quoted("CODECS")?;
    demand!(codecs.is_some(), "M", "a variant without CODECS");
    let resolution = found.enumerated("RESOLUTION");
    let square = resolution.is_none_or(|size| {
        size.split_once('x').is_some_and(|(w, h)| integer(w).is_ok() && integer(h).is_ok())
    });
    demand!(square, "M", "RESOLUTION={resolution:?}");
    Ok(Variant {
        uri: String::new(),
        bandwidth: bandwidth.unwrap_or(0),
        frame_rate: found.decimal("FRAME-RATE")?,
        codecs: codecs.unwrap_or_default(),
        resolution: resolution.map(str::to_owned),
        audio: found.quoted("AUDIO")?,
    })
}

fn media(found: &Attributes<'_>) -> Verdict<Media> {
    let kind = found.enumerated("TYPE").unwrap_or("").to_owned();
    demand!(["AUDIO", "VIDEO", "SUBTITLES"].contains(&kind.as_str()), "M", "TYPE={kind:?}");
    let (is_default, chosen) = (found.yes("DEFAULT")?, found.enumerated("AUTOSELECT"));
    demand!(!is_default || chosen != Some("NO"), "M", "DEFAULT=YES with AUTOSELECT=NO");
    let uri = found.quoted("URI")?.map(relative).transpose()?;
    demand!(kind != "SUBTITLES" || uri.is_some(), "M", "subtitles without URI");
    let (group, name) = (found.needed("GROUP-ID")?, found.needed("NAME")?);
    Ok(Media { kind, group, name, uri, is_default })
}
