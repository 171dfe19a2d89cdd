//! What a strict client demands of media playlists: of one version, of two that follow each other, of
//! a delta update. The rules go by their numbers, as `hls_playlist` says. The tests at the end break
//! each rule once: a checker that cannot fail is worthless.

use std::collections::BTreeSet;

use crate::hls_playlist::{Part, Playlist, Segment, Verdict, demand};

/// Durations are written with five decimals; sums of a few dozen of them stay below this.
const ROUNDING_S: f64 = 0.001;
/// How far a date may be from the one before plus the duration between.
const DATE_ROUNDING_MS: f64 = 10.0;
/// Longer playlists offer delta updates: 14.4 of the authoring specification.
const LENGTH_WHOLE_S: f64 = 120.0;

impl Playlist {
    /// Everything that one version alone can break.
    pub(crate) fn check(&self) -> Verdict<()> {
        self.check_control()?;
        self.check_version()?;
        for segment in self.all() {
            self.check_segment(segment)?;
        }
        self.check_dates()?;
        self.check_age_of_parts()?;
        self.check_tail()
    }

    fn check_control(&self) -> Verdict<()> {
        let has_parts = self.all().any(|segment| !segment.parts.is_empty());
        demand!(self.part_target.is_some() || !has_parts, "P1", "parts without EXT-X-PART-INF");
        let target = self.target_duration;
        let control = self.control.clone().unwrap_or_default();
        if let Some(until) = control.can_skip_until {
            demand!(until >= 6.0 * target, "P2", "CAN-SKIP-UNTIL {until} under 6 × {target}");
        }
        let skips = control.can_skip_until.is_some();
        demand!(!control.can_skip_dateranges || skips, "P2", "date ranges without segments");
        let dated = control.can_skip_dateranges || !skips || self.dateranges.is_empty();
        demand!(dated, "P3", "delta updates, date ranges, but no CAN-SKIP-DATERANGES");
        let (length, whole) = (self.length(), self.ended || skips);
        demand!(whole || length <= LENGTH_WHOLE_S, "P3", "{length} s without delta updates");
        if let Some(hold_back) = control.hold_back {
            demand!(hold_back >= 3.0 * target, "P2", "HOLD-BACK {hold_back} under 3 × {target}");
        }
        let Some(part_target) = self.part_target else {
            return Ok(());
        };
        demand!(control.can_block || self.ended, "P2", "parts without CAN-BLOCK-RELOAD=YES");
        let hold_back = control.part_hold_back;
        demand!(hold_back.is_some(), "P2", "PART-HOLD-BACK is required with EXT-X-PART-INF");
        let hold_back = hold_back.unwrap_or(0.0);
        demand!(hold_back >= 2.0 * part_target, "P2", "PART-HOLD-BACK {hold_back} under 2 parts");
        let comfortable = hold_back >= 3.0 * part_target - 1e-9;
        demand!(comfortable, "P3", "PART-HOLD-BACK {hold_back} under 3 × {part_target}");
        Ok(())
    }

    fn check_version(&self) -> Verdict<()> {
        let mut needed = 3;
        if self.segments.iter().any(|segment| segment.byte_range.is_some()) {
            needed = 4;
        }
        if self.all().any(|segment| segment.map.is_some()) {
            needed = 6;
        }
        let mut most = needed;
        if let Some(skip) = &self.skip {
            let removed = skip.removed_dateranges.as_ref();
            needed = if removed.is_some_and(|removed| !removed.is_empty()) { 10 } else { 9 };
            most = if removed.is_some() { 10 } else { 9 };
        }
        let version = self.version;
        demand!(version >= needed, "P15", "EXT-X-VERSION {version}, but {needed} is needed");
        demand!(version <= most, "P15", "EXT-X-VERSION {version} is higher than {most}");
        Ok(())
    }

    fn check_segment(&self, segment: &Segment) -> Verdict<()> {
        let (msn, target) = (segment.msn, self.target_duration);
        for (number, part) in segment.parts.iter().enumerate() {
            let (longest, duration) = (self.part_target.unwrap_or(0.0), part.duration);
            let fits = duration <= longest + 1e-6;
            demand!(fits, "P4", "part {msn}/{number}: {duration} s over {longest} s");
            let next = segment.parts.get(number + 1);
            let exempt = part.independent || part.gap || next.is_none_or(|next| next.gap);
            let enough = exempt || duration >= 0.85 * longest - 1e-6;
            demand!(enough, "P4", "part {msn}/{number}: {duration} s is short of 85 %");
        }
        if let Some(duration) = segment.duration {
            demand!(duration.round() <= target, "P8", "segment {msn}: EXTINF {duration}");
            let parts: f64 = segment.parts.iter().map(|part| part.duration).sum();
            let fits = parts <= duration + ROUNDING_S;
            demand!(fits, "P9", "segment {msn}: parts of {parts} s in {duration} s");
        } else {
            let parts = segment.length();
            demand!(parts.round() <= target, "P8", "open segment {msn}: parts of {parts} s");
        }
        Ok(())
    }

    fn check_dates(&self) -> Verdict<()> {
        let first = self.all().next();
        let dated = first.is_none_or(|first| first.date_ms.is_some());
        demand!(self.skip.is_some() || dated, "B1", "no EXT-X-PROGRAM-DATE-TIME at the start");
        let (mut expected, mut newest) = (None::<f64>, f64::MIN);
        for segment in self.all() {
            let msn = segment.msn;
            if let Some(date) = segment.date_ms.map(|date| date as f64) {
                demand!(date >= newest, "B1", "segment {msn}: dates run backwards");
                newest = date;
                let free = segment.has_discontinuity;
                let exact = expected.is_none_or(|at| (at - date).abs() <= DATE_ROUNDING_MS);
                demand!(free || exact, "B1", "segment {msn}: date {date}, expected {expected:?}");
                expected = Some(date);
            } else {
                demand!(!segment.has_discontinuity, "B1", "segment {msn}: a run without a date");
            }
            expected = expected.map(|at| at + 1000.0 * segment.length());
        }
        Ok(())
    }

    /// A segment is too old for parts when all of it is further from the end than 3 × TD.
    fn check_age_of_parts(&self) -> Verdict<()> {
        let mut from_end = 0.0;
        for segment in self.all().rev() {
            let (msn, old) = (segment.msn, from_end > 3.0 * self.target_duration + ROUNDING_S);
            let clean = !old || segment.parts.is_empty();
            demand!(clean, "S5", "segment {msn}: parts {from_end} s from the end");
            from_end += segment.length();
        }
        Ok(())
    }

    fn check_tail(&self) -> Verdict<()> {
        demand!(!self.ended || self.hints.is_empty(), "P13", "a hint beside EXT-X-ENDLIST");
        for hint in &self.hints {
            let same = self.hints.iter().filter(|other| other.kind == hint.kind).count();
            demand!(same == 1, "P13", "two hints of type {}", hint.kind);
        }
        let parts = self.segments.last().is_some_and(|last| !last.parts.is_empty());
        let live = !self.ended && (parts || !self.open_parts().is_empty());
        let hinted = !live || self.hint("PART").is_some();
        demand!(hinted, "P13", "parts, but no hint of the next one");
        let mut uris = BTreeSet::new();
        for part in self.all().flat_map(|segment| &segment.parts) {
            demand!(uris.insert((&part.uri, part.byte_range)), "P9", "{} stands twice", part.uri);
            let announced = self.hint("PART").is_some_and(|hint| {
                hint.uri == part.uri && part.byte_range.is_none_or(|(_, at)| at >= hint.start)
            });
            demand!(!announced, "P13", "{} is listed and hinted", part.uri);
        }
        let mut reported = BTreeSet::new();
        for uri in self.reports.iter().map(|report| &report.uri) {
            demand!(reported.insert(uri), "P11", "two reports of {uri}");
        }
        Ok(())
    }
}

// Two versions.

/// What the next version of a live playlist may be: the head removed, something appended.
pub(crate) fn check_step(old: &Playlist, new: &Playlist) -> Verdict<()> {
    demand!(old.target_duration == new.target_duration, "P8", "the target duration changed");
    demand!(old.part_target == new.part_target, "P8", "PART-TARGET changed");
    demand!(old.control == new.control, "S2", "EXT-X-SERVER-CONTROL changed");
    demand!(old.kind == new.kind, "S2", "EXT-X-PLAYLIST-TYPE changed");
    if old.ended {
        let same = new.ended && old.segments == new.segments;
        demand!(same, "S2", "a playlist that had ended changed");
    }
    let (from, to) = (old.media_sequence, new.media_sequence);
    demand!(from <= to, "S2", "EXT-X-MEDIA-SEQUENCE went from {from} to {to}");
    demand!(old.open_msn() <= new.open_msn(), "S2", "segments were taken from the end");
    demand!(old.last() <= new.last() || new.ended, "S2", "the end went backwards");
    check_removed(old, new)?;
    for segment in &old.segments {
        check_kept(old, new, segment)?;
    }
    check_open(old, new)?;
    check_hints(old, new)
}

fn check_removed(old: &Playlist, new: &Playlist) -> Verdict<()> {
    let removed: Vec<_> =
        old.segments.iter().filter(|segment| segment.msn < new.media_sequence).collect();
    let leaps = removed.iter().filter(|segment| segment.has_discontinuity).count() as u64;
    // The tag goes with its segment, or stays on the first one until that goes too.
    let expected = old.discontinuity_sequence + leaps;
    let got = new.discontinuity_sequence;
    let known = new.media_sequence < old.open_msn();
    let first = old.segment(new.media_sequence).filter(|first| first.has_discontinuity);
    let counted = first.is_some() && got == expected + 1;
    let right = !known || counted || got == expected;
    demand!(right, "S2", "discontinuity sequence {got}, not {expected}");
    if !removed.is_empty() {
        demand!(new.kind.is_none(), "S2", "an EVENT playlist lost segments");
        let (left, least) = (new.length(), 3.0 * new.target_duration);
        demand!(left >= least - ROUNDING_S, "S6", "shrunk to {left} s, under {least} s");
    }
    Ok(())
}

fn check_kept(old: &Playlist, new: &Playlist, segment: &Segment) -> Verdict<()> {
    let (msn, known) = (segment.msn, new.segment(segment.msn));
    let Some(kept) = known else {
        return Ok(());
    };
    let mut expected = segment.lasting();
    if msn == new.media_sequence && new.discontinuity_sequence == segment.run {
        // As the first one it may do without the tag, which is counted then.
        expected.has_discontinuity = kept.has_discontinuity;
    }
    if segment.map.is_none() && old.skip.is_some() {
        expected.map.clone_from(&kept.map);
    }
    if segment.date_ms.is_none() {
        expected.date_ms = kept.date_ms;
    }
    demand!(kept.lasting() == expected, "S2", "segment {msn} changed: {kept:?}, was {expected:?}");
    let suffix = segment.parts.ends_with(&kept.parts);
    demand!(suffix, "S2", "segment {msn}: parts changed");
    let gone = segment.parts.len() - kept.parts.len();
    check_gone_parts(new, kept, &segment.parts[..gone])
}

/// PART tags may only go when they are further from the end than 3 × TD.
fn check_gone_parts(new: &Playlist, segment: &Segment, gone: &[Part]) -> Verdict<()> {
    let after: f64 = new.all().filter(|other| other.msn > segment.msn).map(Segment::length).sum();
    let mut from_end = after + segment.length();
    for part in gone {
        let (uri, least) = (&part.uri, 3.0 * new.target_duration);
        let old = from_end >= least - ROUNDING_S;
        demand!(old, "S5", "{uri} lost its tag {from_end} s from the end");
        from_end -= part.duration;
    }
    Ok(())
}

fn check_open(old: &Playlist, new: &Playlist) -> Verdict<()> {
    let Some(open) = &old.open else {
        return Ok(());
    };
    let msn = open.msn;
    let Some(now) = new.segment(msn) else {
        return Ok(());
    };
    let same_head = open.run == now.run
        && (open.map == now.map || open.map.is_none())
        && (open.date_ms.is_none() || open.date_ms == now.date_ms);
    demand!(same_head, "P6", "the head of segment {msn} changed after its first part");
    let is_old = now.duration.is_some() && now.parts.is_empty();
    // A client that was away for long finds only the last parts of it.
    let gone = (0..=open.parts.len()).find(|&gone| now.parts.starts_with(&open.parts[gone..]));
    let kept = is_old || gone.is_some_and(|gone| gone == 0 || gone < open.parts.len());
    demand!(kept, "S2", "segment {msn}: parts changed while it grew");
    let closed = now.duration.is_some();
    let tagless = if is_old { open.parts.len() } else { gone.unwrap_or(0) };
    demand!(closed || tagless == 0, "S5", "segment {msn} lost parts while it grew");
    if closed { check_gone_parts(new, now, &open.parts[..tagless]) } else { Ok(()) }
}

/// What came after the newest part is what the hint said.
fn check_hints(old: &Playlist, new: &Playlist) -> Verdict<()> {
    let Some(hint) = old.hint("PART") else {
        return Ok(());
    };
    let (msn, count) = old.next();
    let old_map = old.all().next_back().and_then(|segment| segment.map.clone());
    let listed = new.segment(msn).map(|segment| (segment, segment.parts.get(count as usize)));
    let (segment, part) = match listed {
        Some((segment, Some(part))) => (segment, part),
        _ => match new.segment(msn + 1).map(|segment| (segment, segment.parts.first())) {
            Some((segment, Some(part))) if new.segment(msn).is_none_or(is_closed) => {
                (segment, part)
            }
            _ => return Ok(()),
        },
    };
    let abandoned = segment.has_discontinuity || part.gap || segment.gap;
    let same = part.uri == hint.uri && part.byte_range.is_none_or(|(_, at)| at == hint.start);
    let (hinted, came) = (&hint.uri, &part.uri);
    demand!(abandoned || same, "P13", "{hinted} was hinted, {came} came");
    if let (Some(hint), Some(map)) = (old.hint("MAP"), &segment.map)
        && old_map.as_ref() != Some(map)
    {
        demand!(hint.uri == map.uri, "P13", "map {} was hinted, {} came", hint.uri, map.uri);
    }
    let is_new = same && old_map.is_some() && old_map != segment.map;
    demand!(!is_new || old.hint("MAP").is_some(), "B1", "{hinted} was hinted without its map");
    Ok(())
}

fn is_closed(segment: &Segment) -> bool {
    segment.duration.is_some()
}

/// The whole that a delta update means to a client that has `old`.
pub(crate) fn merge(old: &Playlist, delta: &Playlist) -> Verdict<Playlist> {
    let Some(skip) = &delta.skip else {
        return Ok(delta.clone());
    };
    demand!(skip.segments >= 1, "P12", "SKIPPED-SEGMENTS is 0");
    let until = delta.control.as_ref().and_then(|control| control.can_skip_until);
    demand!(until.is_some(), "S9", "EXT-X-SKIP without CAN-SKIP-UNTIL");
    let (left, until) = (delta.length(), until.unwrap_or(0.0));
    demand!(left >= until - ROUNDING_S, "P12", "only {left} s left, CAN-SKIP-UNTIL={until}");
    let first = delta.media_sequence;
    let mut whole = Playlist { skip: None, segments: Vec::new(), ..delta.clone() };
    for msn in first..first + skip.segments {
        let known = old.segments.iter().find(|segment| segment.msn == msn);
        let Some(known) = known else {
            return Err(format!("P12: segment {msn} is skipped, but the client never had it"));
        };
        let mut known = known.clone();
        // What the old version removed before it is said by its state.
        known.has_map |= msn == first;
        known.has_discontinuity &= msn > first || delta.discontinuity_sequence != known.run;
        known.parts.clear();
        whole.segments.push(known);
    }
    whole.segments.extend(delta.segments.iter().cloned());
    whole.number();
    let removed = skip.removed_dateranges.as_deref();
    for (id, line) in old.dateranges.iter().filter(|_| removed.is_some()) {
        if !removed.is_some_and(|removed| removed.contains(id)) {
            whole.dateranges.entry(id.clone()).or_insert_with(|| line.clone());
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use crate::hls_playlist::{Multivariant, Playlist, Verdict};

    use super::{check_step, merge};

    /// A good playlist: segments of 1 s, parts of 200 ms, `parts` of them in the open segment.
    fn sample(first: u64, count: u64, parts: u64) -> String {
        sample_with(first, count, parts, "")
    }

    fn sample_with(first: u64, count: u64, parts: u64, skip: &str) -> String {
        let version = if skip.is_empty() { 6 } else { 9 };
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:{version}\n#EXT-X-TARGETDURATION:1\n\
             #EXT-X-PART-INF:PART-TARGET=0.2\n\
             #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=6.0,\
             PART-HOLD-BACK=0.6,HOLD-BACK=3.0\n#EXT-X-MEDIA-SEQUENCE:{first}\n{skip}"
        );
        let skipped = skip.trim_end().rsplit('=').next().and_then(|count| count.parse().ok());
        let (from, end) = (first + skipped.unwrap_or(0), first + count);
        if skip.is_empty() {
            text += "#EXT-X-MAP:URI=\"v/1/init.mp4\"\n";
        }
        for msn in from..=end {
            let date = format!("2026-11-21T11:{:02}:{:02}.000Z", msn / 60, msn % 60);
            text += &format!("#EXT-X-PROGRAM-DATE-TIME:{date}\n");
            let listed = match end - msn {
                0 => parts,
                1..=3 => 5,
                _ => 0,
            };
            for part in 0..listed {
                let independent = if part == 0 { ",INDEPENDENT=YES" } else { "" };
                let uri = format!("v/1/{msn}.{part}.m4s");
                text += &format!("#EXT-X-PART:DURATION=0.2,URI=\"{uri}\"{independent}\n");
            }
            if msn < end {
                text += &format!("#EXTINF:1.00000,\nv/1/{msn}.m4s\n");
            }
        }
        text += &format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"v/1/{end}.{parts}.m4s\"\n");
        text + "#EXT-X-RENDITION-REPORT:URI=\"audio.m3u8\",LAST-MSN=21,LAST-PART=1\n"
    }

    #[track_caller]
    fn refused<T: std::fmt::Debug>(rule: &str, what: &str, verdict: Verdict<T>) {
        let why = verdict.expect_err(&format!("{rule} was not missed: {what}"));
        assert!(why.starts_with(&format!("{rule}: ")), "{rule} expected for {what}, got {why}");
    }

    fn changed(text: &str, from: &str, to: &str) -> String {
        assert!(text.contains(from), "nothing to break: {from:?} in\n{text}");
        text.replacen(from, to, 1)
    }

    /// Goal: a good playlist passes, and is read as it is meant.
    #[test]
    fn a_good_playlist_passes() {
        let list = Playlist::checked(&sample(11, 10, 2)).unwrap();
        assert_eq!((list.open_msn(), list.next(), list.last()), (21, (21, 2), (21, Some(1))));
        assert_eq!(list.segments.len(), 10);
        assert!(list.all().all(|segment| segment.map.as_ref().unwrap().uri == "v/1/init.mp4"));
        assert_eq!(list.open_parts()[0].uri, "v/1/21.0.m4s");
        Playlist::checked(&sample(11, 10, 0)).unwrap();
    }

    /// Goal: every rule that one version can break is seen. Method: break each in a good playlist.
    #[test]
    fn each_broken_rule_is_named() {
        let part = "#EXT-X-PART:DURATION=0.2,URI=\"v/1/20.3.m4s\"\n";
        let hint = "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"v/1/21.2.m4s\"\n";
        let date = "#EXT-X-PROGRAM-DATE-TIME:2026-11-21T11:00:20.000Z\n";
        let report = "#EXT-X-RENDITION-REPORT:URI=\"audio.m3u8\"";
        for (rule, from, to) in [
            ("P1", "#EXT-X-PART-INF:PART-TARGET=0.2\n", ""),
            ("P1", "PART-TARGET=0.2", "PART-TARGET=0.0"),
            ("P2", "CAN-SKIP-UNTIL=6.0", "CAN-SKIP-UNTIL=5.9"),
            ("P2", "CAN-SKIP-UNTIL=6.0", "CAN-SKIP-DATERANGES=YES"),
            ("P2", "HOLD-BACK=3.0", "HOLD-BACK=2.9"),
            ("P2", "PART-HOLD-BACK=0.6,", ""),
            ("P2", "PART-HOLD-BACK=0.6", "PART-HOLD-BACK=0.39"),
            ("P2", "CAN-BLOCK-RELOAD=YES,", ""),
            ("P3", "PART-HOLD-BACK=0.6", "PART-HOLD-BACK=0.59"),
            ("P3", part, &format!("#EXT-X-DATERANGE:ID=\"a\"\n{part}")),
            ("P4", part, "#EXT-X-PART:DURATION=0.21,URI=\"v/1/20.3.m4s\"\n"),
            ("P4", part, "#EXT-X-PART:DURATION=0.16,URI=\"v/1/20.3.m4s\"\n"),
            ("P4", part, "#EXT-X-PART:URI=\"v/1/20.3.m4s\"\n"),
            ("P6", part, &format!("{part}{date}")),
            ("P6", part, &format!("{part}#EXT-X-MAP:URI=\"other\"\n")),
            ("P6", part, &format!("{part}#EXT-X-DISCONTINUITY\n")),
            ("P6", "v/1/20.m4s\n", &format!("{part}v/1/20.m4s\n")),
            ("P7", "URI=\"v/1/20.3.m4s\"", "URI=\"v/1/20.m4s\",BYTERANGE=\"5\""),
            ("P8", "#EXTINF:1.00000,\nv/1/20.m4s", "#EXTINF:1.50000,\nv/1/20.m4s"),
            ("P9", "#EXTINF:1.00000,\nv/1/20.m4s", "#EXTINF:0.99000,\nv/1/20.m4s"),
            ("P9", "v/1/20.3.m4s", "v/1/20.2.m4s"),
            ("P11", "URI=\"audio.m3u8\"", "URI=\"http://other/audio.m3u8\""),
            ("P11", report, &format!("{report}\n{report}")),
            ("P13", hint, ""),
            ("P13", hint, &format!("{hint}{hint}")),
            ("P13", hint, &format!("{hint}{part}")),
            ("P13", hint, &format!("{hint}#EXT-X-ENDLIST\n")),
            ("P13", "TYPE=PART", "TYPE=KEY"),
            ("P13", "v/1/21.2.m4s", "v/1/21.1.m4s"),
            ("P15", "VERSION:6", "VERSION:5"),
            ("P15", "VERSION:6", "VERSION:9"),
            ("S5", "#EXTINF:1.00000,\nv/1/12.m4s", &format!("{part}#EXTINF:1.0,\nv/1/12.m4s")),
            ("S9", "#EXT-X-MAP", "#EXT-X-SKIP:SKIPPED-SEGMENTS=3\n#EXT-X-MAP"),
            ("P12", "#EXT-X-MAP", "#EXT-X-SKIP:RECENTLY-REMOVED-DATERANGES=\"\"\n#EXT-X-MAP"),
            ("B1", "#EXT-X-PROGRAM-DATE-TIME:2026-11-21T11:00:11.000Z\n", ""),
            ("B1", "11:00:20.000Z", "11:00:20.011Z"),
            ("B1", "11:00:20.000Z", "11:00:18.000Z"),
            ("B1", date, "#EXT-X-DISCONTINUITY\n"),
            ("SYNTAX", "#EXTM3U", "\u{feff}#EXTM3U"),
            ("SYNTAX", "DURATION=0.2,", "DURATION=0.2, "),
            ("SYNTAX", "DURATION=0.2,", "DURATION=2e-1,"),
            ("SYNTAX", "DURATION=0.2,", "DURATION=0.2,DURATION=0.2,"),
            ("SYNTAX", "URI=\"v/1/20.3.m4s\"", "URI=v/1/20.3.m4s"),
            ("SYNTAX", "#EXTINF:1.00000,\n", "#EXTINF:1.00000\n"),
            ("SYNTAX", "#EXTINF:1.00000,\n", ""),
            ("SYNTAX", "#EXT-X-TARGETDURATION:1\n", ""),
            ("SYNTAX", "#EXT-X-TARGETDURATION:1\n", "#EXT-X-TARGETDURATION:1.0\n"),
            ("SYNTAX", "#EXT-X-VERSION:6\n", "#EXT-X-VERSION:6\n#EXT-X-VERSION:6\n"),
            ("SYNTAX", "#EXT-X-PART:", "#EXT-X-PARTS:"),
            ("SYNTAX", "11:00:20.000Z", "11:00:20.000"),
            ("SYNTAX", "v/1/20.m4s", "v/1/2 0.m4s"),
        ] {
            refused(rule, to, Playlist::checked(&changed(&sample(11, 10, 2), from, to)));
        }
        let long = changed(&sample(11, 130, 2), "CAN-SKIP-UNTIL=6.0,", "");
        refused("P3", "a long playlist without delta updates", Playlist::checked(&long));
        let text = sample(11, 10, 2);
        refused("S2", "a torn last line", Playlist::checked(&text[..text.len() - 1]));
    }

    /// Two versions, the second broken by a replacement.
    fn step(old: &str, new: &str) -> Verdict<()> {
        check_step(&Playlist::parse(old)?, &Playlist::parse(new)?)
    }

    /// Goal: what a live playlist does in its life is allowed.
    #[test]
    fn an_ordinary_life_passes() {
        let mut old = sample(11, 10, 0);
        for (first, count, parts) in
            [(11, 10, 2), (11, 10, 5), (11, 11, 0), (12, 11, 1), (14, 12, 4)]
        {
            let new = sample(first, count, parts);
            step(&old, &new).unwrap_or_else(|why| panic!("{why}\n{old}\n{new}"));
            old = new;
        }
        let mut ended = changed(&old, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"v/1/26.4.m4s\"\n", "");
        ended =
            changed(&ended, "#EXT-X-REND", "#EXTINF:0.8,\nv/1/26.m4s\n#EXT-X-ENDLIST\n#EXT-X-REND");
        step(&old, &ended).unwrap();
        step(&ended, &ended).unwrap();
        refused("S2", "a new life", step(&ended, &old));
    }

    /// Goal: every rule about two versions is seen. Method: break the second.
    #[test]
    fn each_broken_step_is_named() {
        let (old, new) = (sample(11, 10, 2), sample(12, 10, 2));
        step(&old, &new).unwrap();
        for (rule, from, to) in [
            ("P8", "TARGETDURATION:1", "TARGETDURATION:2"),
            ("P8", "PART-TARGET=0.2", "PART-TARGET=0.20001"),
            ("S2", "PART-HOLD-BACK=0.6", "PART-HOLD-BACK=0.7"),
            ("S2", "#EXT-X-MAP", "#EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-MAP"),
            ("S2", "MEDIA-SEQUENCE:12", "MEDIA-SEQUENCE:10"),
            ("S2", "MEDIA-SEQUENCE:12", "MEDIA-SEQUENCE:13"),
            ("S2", "v/1/18.m4s", "v/1/18b.m4s"),
            ("S2", "#EXTINF:1.00000,\nv/1/18", "#EXTINF:1.00001,\nv/1/18"),
            ("S2", "11:00:18.000Z", "11:00:18.001Z"),
            ("S2", "init.mp4", "init2.mp4"),
            ("S2", "v/1/20.3.m4s", "v/1/20.9.m4s"),
            ("S2", "v/1/21.0.m4s", "v/1/21.9.m4s"),
            ("S2", "#EXT-X-MAP", "#EXT-X-DISCONTINUITY-SEQUENCE:1\n#EXT-X-MAP"),
            ("S2", "#EXTINF:1.00000,\nv/1/18", "#EXT-X-GAP\n#EXTINF:1.00000,\nv/1/18"),
            ("P6", "11:00:21.000Z", "11:00:21.001Z"),
            ("P13", "v/1/21.2.m4s", "v/1/21.8.m4s"),
        ] {
            refused(rule, to, step(&old, &changed(&new, from, to)));
        }
        let early = "#EXT-X-PART:DURATION=0.2,URI=\"v/1/20.0.m4s\",INDEPENDENT=YES\n";
        refused("S5", "a part gone early", step(&old, &changed(&old, early, "")));
        refused("S6", "a shrunk playlist", step(&old, &sample(19, 2, 3)));
        refused("S2", "parts taken back", step(&old, &sample(11, 10, 1)));
        let event = |first| {
            changed(&sample(first, 10, 2), "#EXT-X-MAP", "#EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-MAP")
        };
        refused("S2", "EVENT lost its head", step(&event(11), &event(12)));
    }

    /// Goal: an abandoned hint is allowed before a discontinuity only, and a hinted map must come.
    #[test]
    fn hints_are_kept() {
        let map = "#EXT-X-PRELOAD-HINT:TYPE=MAP,URI=\"v/2/init.mp4\"\n#EXT-X-REND";
        let old = changed(&sample(11, 10, 2), "#EXT-X-REND", map);
        let cut = "#EXTINF:0.4,\nv/1/21.m4s\n#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"v/2/init.mp4\"\n\
                   #EXT-X-PROGRAM-DATE-TIME:2026-11-21T11:00:25.000Z\n\
                   #EXT-X-PART:DURATION=0.2,URI=\"v/2/22.0.m4s\"\n\
                   #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"v/2/22.1.m4s\"\n";
        let hint = "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"v/1/21.2.m4s\"\n";
        let new = changed(&sample(11, 10, 2), hint, cut);
        step(&old, &new).unwrap();
        refused("P13", "another map", step(&old, &changed(&new, "v/2/init.mp4", "v/3/init.mp4")));
        let of_next = |map: &str| {
            let hints = format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"v/2/22.0.m4s\"\n{map}");
            changed(&sample(11, 10, 2), hint, &hints)
        };
        step(&of_next("#EXT-X-PRELOAD-HINT:TYPE=MAP,URI=\"v/2/init.mp4\"\n"), &new).unwrap();
        refused("B1", "a map without a hint", step(&of_next(""), &new));
        let no_leap = changed(&changed(&new, "#EXT-X-DISCONTINUITY\n", ""), "11:00:25", "11:00:21");
        refused("P13", "another part", step(&old, &no_leap));
    }

    /// Goal: a delta update means the whole playlist, and wrong ones are seen.
    #[test]
    fn delta_updates_are_merged() {
        let delta =
            |count| sample_with(11, 10, 3, &format!("#EXT-X-SKIP:SKIPPED-SEGMENTS={count}\n"));
        let old = Playlist::parse(&sample(10, 11, 0)).unwrap();
        let whole = Playlist::parse(&sample(11, 10, 3)).unwrap();
        let merged = merge(&old, &Playlist::parse(&delta(4)).unwrap()).unwrap();
        merged.check().unwrap_err(); // the version is that of the delta
        let merged = Playlist { version: 6, ..merged };
        merged.check().unwrap();
        assert_eq!(merged, whole);
        for (rule, count) in [("P12", 0), ("P12", 5)] {
            refused(rule, "count", merge(&old, &Playlist::parse(&delta(count)).unwrap()));
        }
        let strange = Playlist::parse(&sample(40, 10, 0)).unwrap();
        refused("P12", "unknown", merge(&strange, &Playlist::parse(&delta(4)).unwrap()));
        let old_version = changed(&delta(4), "VERSION:9", "VERSION:6");
        refused("P15", "version", Playlist::parse(&old_version).unwrap().check());
        let no_until = changed(&delta(4), "CAN-SKIP-UNTIL=6.0,", "");
        refused("S9", "not offered", merge(&old, &Playlist::parse(&no_until).unwrap()));
    }

    /// Goal: the multivariant playlist is read as strictly.
    #[test]
    fn multivariant_playlists_are_checked() {
        let good = "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-INDEPENDENT-SEGMENTS\n\
                    #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"audio\",DEFAULT=YES,\
                    AUTOSELECT=YES,URI=\"audio.m3u8\"\n\
                    #EXT-X-STREAM-INF:BANDWIDTH=9,CODECS=\"avc1.42c01e,mp4a.40.2\",\
                    RESOLUTION=16x9,AUDIO=\"a\"\nvideo.m3u8\n";
        let read = Multivariant::parse(good).unwrap();
        assert_eq!(read.playlists(), ["audio.m3u8", "video.m3u8"]);
        for (from, to) in [
            ("BANDWIDTH=9,", ""),
            ("CODECS=\"avc1.42c01e,mp4a.40.2\",", ""),
            ("AUDIO=\"a\"\n", "AUDIO=\"b\"\n"),
            ("RESOLUTION=16x9", "RESOLUTION=16"),
            ("AUTOSELECT=YES", "AUTOSELECT=NO"),
            ("TYPE=AUDIO", "TYPE=SOUND"),
            ("video.m3u8\n", ""),
            ("#EXT-X-VERSION:6", "#EXT-X-TARGETDURATION:6"),
            (",AUDIO=\"a\"\n", "\n"),
        ] {
            refused("M", to, Multivariant::parse(&changed(good, from, to)));
        }
    }
}
