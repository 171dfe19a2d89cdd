//! A media playlist as a value, and its delta update. Its text is made by `media_text`.
//!
//! The packager makes a value for each state of a track, with segments that it may share between
//! states (`Arc<Segment>`), and writes it once; every reader gets the same text. When the value
//! changes is the packager's matter.

use std::borrow::Borrow;

/// What sums of durations may be wrong by; less than the last decimal that is written.
pub(super) const SECONDS_NOISE: f64 = 1e-6;

/// A media playlist. `S` is how its segments are held: by value, or shared.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaPlaylist<S = Segment> {
    /// Never changes in a playlist's life; no segment's duration, rounded, is longer.
    pub target_duration_s: u64,
    /// Number of the first segment of the full playlist, in a delta update too.
    pub media_sequence: u64,
    pub discontinuity_sequence: u64,
    /// None: a window that loses its head.
    pub kind: Option<PlaylistKind>,
    pub independent_segments: bool,
    pub server_control: ServerControl,
    /// Set if there are parts; never changes in a playlist's life.
    pub part_target_s: Option<f64>,
    /// Set by [`MediaPlaylist::delta`]: this is a delta update.
    pub skip: Option<Skip>,
    /// Complete segments, oldest first; in a delta update those that are not skipped.
    pub segments: Vec<S>,
    /// The segment in progress: its parts, with its discontinuity, map and date before them. It is
    /// not said before its first part is there.
    pub open: Option<S>,
    /// At most one of each kind; none is written when the playlist has ended.
    pub hints: Vec<Hint>,
    /// One for each other rendition; none is written when the playlist has ended.
    pub reports: Vec<Report>,
    pub dateranges: Vec<DateRange>,
    /// Identifiers of date ranges that left the playlist within the last CAN-SKIP-UNTIL seconds,
    /// for a delta update that leaves out others.
    pub removed_dateranges: Vec<String>,
    /// No segment will follow.
    pub ended: bool,
}

/// EXT-X-PLAYLIST-TYPE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaylistKind {
    /// Segments are only added.
    Event,
    /// Nothing changes any more.
    Vod,
}

/// EXT-X-SERVER-CONTROL; the tag is left out when it would say nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ServerControl {
    /// `_HLS_msn` and `_HLS_part` are answered by waiting.
    pub can_block: bool,
    /// At least 3 target durations, which is also what None says.
    pub hold_back_s: Option<f64>,
    /// At least 2, better 3 part targets; required with parts.
    pub part_hold_back_s: Option<f64>,
    /// At least 6 target durations.
    pub can_skip_until_s: Option<f64>,
    /// Only with `can_skip_until_s`.
    pub can_skip_dateranges: bool,
}

/// EXT-X-SKIP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skip {
    /// At least 1.
    pub segments: u64,
    /// Some: date ranges are left out too, and these have left the playlist (maybe none).
    pub removed_dateranges: Option<Vec<String>>,
    /// In force where the kept segments begin. The reader knows it, it is not said again.
    pub map: Option<Map>,
    /// In force there too.
    pub bitrate_kbps: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Segment {
    /// Not written for the open segment.
    pub uri: String,
    pub duration_s: f64,
    /// Encoding or time do not continue those of the segment before.
    pub discontinuity: bool,
    /// Written where it differs from the one in force, and behind a discontinuity: it may be given
    /// with every segment.
    pub map: Option<Map>,
    pub program_date_time_ms: Option<i64>,
    /// The media is missing, and asking for it gives 404.
    pub gap: bool,
    pub byte_range: Option<ByteRange>,
    /// Of a complete segment all or none.
    pub parts: Vec<Part>,
    /// In kbit/s; written where it changes.
    pub bitrate: Option<u64>,
}

/// EXT-X-MAP: the initialization segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map {
    pub uri: String,
    pub byte_range: Option<ByteRange>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByteRange {
    pub length: u64,
    pub offset: u64,
}

/// EXT-X-PART.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Part {
    pub uri: String,
    /// Not above the part target.
    pub duration_s: f64,
    /// Contains an independent frame.
    pub independent: bool,
    pub gap: bool,
    pub byte_range: Option<ByteRange>,
}

/// EXT-X-PRELOAD-HINT: what comes next, and can be asked for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// With `byte_start` a range of that resource, of a length not known yet.
    Part {
        uri: String,
        byte_start: Option<u64>,
    },
    Map {
        uri: String,
    },
}

/// EXT-X-RENDITION-REPORT: where another media playlist is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Relative to this playlist.
    pub uri: String,
    /// Of the last part, if there are parts.
    pub last_msn: u64,
    pub last_part: Option<u64>,
}

/// EXT-X-DATERANGE.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DateRange {
    pub id: String,
    pub class: Option<String>,
    pub start_ms: i64,
    pub end_ms: Option<i64>,
    pub duration_s: Option<f64>,
    pub planned_duration_s: Option<f64>,
    pub end_on_next: bool,
    /// Whole splice_info_sections.
    pub scte35_cmd: Option<Vec<u8>>,
    pub scte35_out: Option<Vec<u8>>,
    pub scte35_in: Option<Vec<u8>>,
    /// Names with `X-` in capitals, letters, digits and dashes; others are left out.
    pub attributes: Vec<(String, ClientValue)>,
    /// When the tag came into the playlist or was last changed (unix ms): a delta update may leave
    /// out what its reader must have seen.
    pub changed_ms: i64,
}

/// The value of a client attribute of a date range.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientValue {
    Text(String),
    Number(f64),
    Bytes(Vec<u8>),
}

impl<S> Default for MediaPlaylist<S> {
    fn default() -> MediaPlaylist<S> {
        MediaPlaylist {
            target_duration_s: 0,
            media_sequence: 0,
            discontinuity_sequence: 0,
            kind: None,
            independent_segments: false,
            server_control: ServerControl::default(),
            part_target_s: None,
            skip: None,
            segments: Vec::new(),
            open: None,
            hints: Vec::new(),
            reports: Vec::new(),
            dateranges: Vec::new(),
            removed_dateranges: Vec::new(),
            ended: false,
        }
    }
}

impl<S: Borrow<Segment>> MediaPlaylist<S> {
    /// Everything that is listed, the parts of the open segment too: readers measure from there.
    pub fn duration_s(&self) -> f64 {
        let complete: f64 = self.segments.iter().map(|segment| segment.borrow().duration_s).sum();
        let open = self.open.as_ref().map_or(0.0, |open| open.borrow().parts_duration_s());
        complete + open
    }

    /// The delta update for `_HLS_skip` (with `v2`: `_HLS_skip=v2`) at `now_ms` (unix ms): without
    /// the segments that lie wholly before the skip boundary. With `v2`, if the playlist says that
    /// it can, also without the date ranges that have stood unchanged for as long. `None` when
    /// there is nothing to skip or it is not offered: the answer is the playlist itself.
    pub fn delta(&self, v2: bool, now_ms: i64) -> Option<MediaPlaylist<S>>
    where
        S: Clone,
    {
        let control = &self.server_control;
        let skip_until_s = control.can_skip_until_s?;
        if self.ended || self.skip.is_some() {
            return None;
        }
        let skipped = self.count_before(skip_until_s);
        let (left_out, segments) = self.segments.split_at(skipped);
        if left_out.is_empty() {
            return None;
        }
        let mut skip = Skip { segments: skipped as u64, ..Skip::default() };
        let mut in_force = left_out.iter().rev().map(Borrow::borrow);
        skip.map = in_force.clone().find_map(|segment| segment.map.clone());
        skip.bitrate_kbps = in_force.find_map(|segment| segment.bitrate);
        let mut dateranges = self.dateranges.clone();
        if v2 && control.can_skip_dateranges {
            let boundary_ms = now_ms.saturating_sub((skip_until_s * 1000.0) as i64);
            dateranges.retain(|range| range.changed_ms >= boundary_ms);
            skip.removed_dateranges = Some(self.removed_dateranges.clone());
        }
        Some(MediaPlaylist {
            skip: Some(skip),
            segments: segments.to_vec(),
            open: self.open.clone(),
            hints: self.hints.clone(),
            reports: self.reports.clone(),
            dateranges,
            removed_dateranges: Vec::new(),
            ..*self
        })
    }

    /// How many segments end further than so many seconds from the end.
    fn count_before(&self, distance_s: f64) -> usize {
        let mut behind_s = self.duration_s();
        let is_before = |segment: &S| {
            behind_s -= segment.borrow().duration_s;
            behind_s > distance_s + SECONDS_NOISE
        };
        self.segments.iter().map(is_before).take_while(|is_before| *is_before).count()
    }
}

impl Segment {
    pub fn parts_duration_s(&self) -> f64 {
        self.parts.iter().map(|part| part.duration_s).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of 2 s, two parts of 0.5 s open, skip boundary 12 s.
    fn playlist(segments: usize) -> MediaPlaylist {
        let map = Map { uri: "init.mp4".to_owned(), byte_range: None };
        let segment = |index: usize| Segment {
            uri: format!("{index}.m4s"),
            duration_s: 2.0,
            map: index.is_multiple_of(4).then(|| map.clone()),
            bitrate: (index == 0).then_some(800),
            ..Segment::default()
        };
        let part = Part { uri: "p".to_owned(), duration_s: 0.5, ..Part::default() };
        MediaPlaylist {
            target_duration_s: 2,
            media_sequence: 100,
            discontinuity_sequence: 3,
            server_control: ServerControl {
                can_skip_until_s: Some(12.0),
                can_skip_dateranges: true,
                ..ServerControl::default()
            },
            segments: (0..segments).map(segment).collect(),
            open: Some(Segment { parts: vec![part.clone(), part], ..Segment::default() }),
            ..MediaPlaylist::default()
        }
    }

    #[test]
    fn what_lies_before_the_boundary_is_skipped() {
        let full = playlist(30);
        let delta = full.delta(false, 0).expect("there is something to skip");
        let skip = delta.skip.clone().expect("it is a delta");
        // 1 s open: behind the 24th there are 13 s, behind the 25th 11 s.
        assert_eq!(skip.segments, 24);
        assert_eq!(delta.segments, full.segments[24..]);
        assert_eq!(skip.map.as_ref().map(|map| map.uri.as_str()), Some("init.mp4"));
        assert_eq!(skip.bitrate_kbps, Some(800));
        assert_eq!(skip.removed_dateranges, None);
        assert_eq!((delta.media_sequence, delta.discontinuity_sequence), (100, 3));
        assert_eq!(delta.open, full.open);
    }

    #[test]
    fn exactly_at_the_boundary_is_not_before_it() {
        let full = MediaPlaylist { open: None, ..playlist(30) };
        let delta = full.delta(false, 0).expect("there is something to skip");
        assert_eq!(delta.skip.expect("it is a delta").segments, 23);
    }

    #[test]
    fn nothing_to_skip_is_no_delta() {
        assert_eq!(playlist(6).delta(false, 0), None);
        assert_eq!(playlist(7).delta(true, 0).and_then(|d| d.skip).map(|s| s.segments), Some(1));
        assert_eq!(MediaPlaylist { ended: true, ..playlist(30) }.delta(false, 0), None);
        let server_control = ServerControl::default();
        assert_eq!(MediaPlaylist { server_control, ..playlist(30) }.delta(false, 0), None);
        let delta = playlist(30).delta(false, 0).expect("there is something to skip");
        assert_eq!(delta.delta(false, 0), None);
    }

    #[test]
    fn v2_leaves_out_what_its_reader_has_seen() {
        let range = |id: &str, changed_ms| DateRange {
            id: id.to_owned(),
            changed_ms,
            ..DateRange::default()
        };
        let mut full = playlist(30);
        full.dateranges = vec![range("old", 87_999), range("new", 88_000)];
        full.removed_dateranges = vec!["gone".to_owned()];
        let delta = full.delta(true, 100_000).expect("there is something to skip");
        assert_eq!(delta.dateranges, full.dateranges[1..]);
        let removed = delta.skip.and_then(|skip| skip.removed_dateranges);
        assert_eq!(removed.as_deref(), Some(full.removed_dateranges.as_slice()));

        let first = full.delta(false, 100_000).expect("there is something to skip");
        assert_eq!(first.dateranges, full.dateranges);
        full.server_control.can_skip_dateranges = false;
        assert_eq!(
            full.delta(true, 100_000),
            Some(MediaPlaylist { server_control: full.server_control, ..first })
        );
    }
}
