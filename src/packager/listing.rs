//! Playlists and manifests of the state of a publishing point. Each is made once for each version and
//! shared by everybody who asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::point::{Entry, Point, State};
use super::reload::{Edge, Skip};
use super::shape::Shape;
use super::track::{Kind, Micros, Segment, Track};
use super::view::{About, Text};
use super::{ListKind, Parts, Steering};
use crate::wire::playlist;
use crate::wire::playlist::{
    ByteRange, ContentSteering, Hint, Map, Media, MediaKind, MediaPlaylist, MultivariantPlaylist,
    Part, PlaylistKind, Report, ServerControl, Variant,
};

pub(super) const HLS_TYPE: &str = "application/vnd.apple.mpegurl";
/// EXT-X-PART tags go when they are further than this from the end (RFC 8216bis §6.2.2).
const PARTS_TARGET_DURATIONS: u64 = 3;
/// CAN-SKIP-UNTIL (§4.4.3.8).
const SKIP_TARGET_DURATIONS: u64 = 6;
/// PART-HOLD-BACK: the authoring specification wants three.
const HOLD_BACK_PARTS: Micros = 3;
/// Longer playlists offer delta updates in any case (authoring specification, 14.4).
const WHOLE_MS_MAX: u64 = 120_000;

/// Where the segment with this number is, relative to the playlists of its publishing point.
pub(super) fn segment_uri(track: &str, epoch: &str, msn: u64, is_ts: bool) -> String {
    format!("{track}/{epoch}/{msn}.{}", extension(is_ts))
}

pub(super) fn part_uri(track: &str, epoch: &str, msn: u64, part: u64, is_ts: bool) -> String {
    format!("{track}/{epoch}/{msn}.{part}.{}", extension(is_ts))
}

pub(super) fn init_uri(track: &str, epoch: &str) -> String {
    format!("{track}/{epoch}/init.mp4")
}

fn extension(is_ts: bool) -> &'static str {
    if is_ts { "ts" } else { "m4s" }
}

fn seconds(us: Micros) -> f64 {
    us as f64 / 1e6
}

impl Point {
    /// The playlist of a track, or its delta update.
    pub(super) fn playlist(
        &self,
        state: &mut State,
        index: usize,
        skip: Option<Skip>,
    ) -> Option<Arc<Text>> {
        let shape = state.shape?;
        let version = state.list_version(index)?;
        let texts = &state.entries[index].texts;
        let slot = match skip {
            None => &texts.whole,
            Some(Skip::Segments) => &texts.delta,
            Some(Skip::Dateranges) => &texts.delta_v2,
        };
        if let Some((_, text)) = slot.as_ref().filter(|(made, _)| *made == version) {
            return Some(text.clone());
        }
        let now_ms = self.now_ms();
        state.forget_events(now_ms, &shape);
        // It is another version without them: all texts of one version have the same media and events.
        let version = state.list_version(index)?;
        let whole = self.media_playlist(state, index, &shape);
        let v2 = skip == Some(Skip::Dateranges);
        let wanted = skip.and_then(|_| whole.delta(v2, now_ms as i64)).unwrap_or(whole);
        let mut out = String::with_capacity(8 << 10);
        wanted.write(&mut out);
        self.counts.renders.fetch_add(1, Ordering::Relaxed);
        let text = Text::new(HLS_TYPE, out, now_ms);
        let texts = &mut state.entries[index].texts;
        let made = Some((version, text.clone()));
        match skip {
            None => texts.whole = made,
            Some(Skip::Segments) => texts.delta = made,
            Some(Skip::Dateranges) => texts.delta_v2 = made,
        }
        Some(text)
    }

    fn media_playlist(&self, state: &State, index: usize, shape: &Shape) -> MediaPlaylist {
        let entry = &state.entries[index];
        let track = &entry.track;
        let parts_from = parts_from(track, shape);
        let list =
            |segment: &Segment| self.listed_segment(entry, segment, segment.msn >= parts_from);
        let complete = track.listed().filter(|segment| segment.is_complete);
        let open = track.open_segment().filter(|open| !open.parts.is_empty());
        let first_msn = track.listed().next().map_or(track.open_msn(), |first| first.msn);
        MediaPlaylist {
            target_duration_s: shape.target_duration_s,
            media_sequence: first_msn,
            discontinuity_sequence: track.discontinuity_sequence,
            kind: self.list_kind(track),
            independent_segments: track
                .listed()
                .all(|segment| segment.starts_sync || segment.is_gap),
            server_control: self.server_control(shape),
            part_target_s: (track.part_target > 0).then(|| seconds(track.to_us(track.part_target))),
            segments: complete.map(list).collect(),
            open: open.map(list),
            hints: self.hints(entry),
            reports: reports(state, index),
            dateranges: state.events.iter().map(|event| event.range.clone()).collect(),
            removed_dateranges: state.removed_dateranges.iter().map(|(_, id)| id.clone()).collect(),
            ended: track.is_ended,
            ..MediaPlaylist::default()
        }
    }

    fn list_kind(&self, track: &Track) -> Option<PlaylistKind> {
        match (self.rule.kind, track.is_ended) {
            (ListKind::Window, _) => None,
            (ListKind::Event, false) => Some(PlaylistKind::Event),
            (ListKind::Event, true) => Some(PlaylistKind::Vod),
        }
    }

    pub(super) fn server_control(&self, shape: &Shape) -> ServerControl {
        let target_s = shape.target_duration_s;
        let has_parts = shape.part_us_max > 0;
        let can_skip = match self.rule.kind {
            ListKind::Window => {
                self.rule.window_ms > WHOLE_MS_MAX.min(SKIP_TARGET_DURATIONS * target_s * 1000)
            }
            ListKind::Event => true,
        };
        ServerControl {
            can_block: true,
            hold_back_s: Some((3 * target_s) as f64),
            part_hold_back_s: has_parts.then(|| seconds(HOLD_BACK_PARTS * shape.part_us_max)),
            can_skip_until_s: can_skip.then_some((SKIP_TARGET_DURATIONS * target_s) as f64),
            can_skip_dateranges: can_skip,
        }
    }

    fn listed_segment(
        &self,
        entry: &Entry,
        segment: &Segment,
        with_parts: bool,
    ) -> playlist::Segment {
        let (name, epoch) = (&entry.track.name, &segment.publication.epoch);
        let uri = segment_uri(name, epoch, segment.msn, entry.info.is_ts);
        let part = |(number, part): (usize, &super::track::Part)| Part {
            uri: match self.rule.parts {
                Parts::ByteRanges => uri.clone(),
                _ => part_uri(name, epoch, segment.msn, number as u64, entry.info.is_ts),
            },
            duration_s: seconds(segment.to_us(part.duration)),
            independent: part.is_independent,
            gap: part.is_gap,
            byte_range: (self.rule.parts == Parts::ByteRanges)
                .then(|| ByteRange { length: part.end - part.start, offset: part.start }),
        };
        let parts = segment.parts.iter().enumerate().filter(|_| with_parts).map(part).collect();
        let init = segment.init.as_ref();
        playlist::Segment {
            duration_s: seconds(segment.duration_us()),
            discontinuity: segment.is_discontinuity,
            map: init.map(|_| Map { uri: init_uri(name, epoch), byte_range: None }),
            program_date_time_ms: Some(segment.wall_us().div_euclid(1000)),
            gap: segment.is_gap,
            byte_range: None,
            parts,
            bitrate: None,
            uri,
        }
    }

    fn hints(&self, entry: &Entry) -> Vec<Hint> {
        let track = &entry.track;
        let mut hints = Vec::new();
        if track.part_target == 0 || track.is_ended {
            return hints;
        }
        let (Some(next), is_ts) = (track.next_part(), entry.info.is_ts) else { return hints };
        // Who has the hint asks for the initialization segment as well, before its first part is listed.
        let has_news = |segment: &&Segment| segment.is_complete || !segment.parts.is_empty();
        let last = track.listed().rev().find(has_news).map(|last| &last.publication.epoch);
        if track.init.is_some() && last.is_some_and(|last| *last != next.epoch) {
            hints.push(Hint::Map { uri: init_uri(&track.name, &next.epoch) });
        }
        hints.push(match self.rule.parts {
            Parts::ByteRanges => Hint::Part {
                uri: segment_uri(&track.name, &next.epoch, next.msn, is_ts),
                byte_start: Some(next.byte_start),
            },
            _ => Hint::Part {
                uri: part_uri(&track.name, &next.epoch, next.msn, next.part, is_ts),
                byte_start: None,
            },
        });
        hints
    }

    pub(super) fn multivariant(&self, state: &mut State) -> Option<Arc<Text>> {
        state.shape?;
        let version = state.version;
        if let Some((_, text)) = state.multivariant.as_ref().filter(|(made, _)| *made == version) {
            return Some(text.clone());
        }
        let mut out = String::new();
        self.multivariant_playlist(state).write(&mut out);
        let text = Text::new(HLS_TYPE, out, self.now_ms());
        state.multivariant = Some((version, text.clone()));
        Some(text)
    }

    fn multivariant_playlist(&self, state: &State) -> MultivariantPlaylist {
        let entries = state.in_order();
        let live = || entries.iter().copied().filter(|entry| !entry.track.segments.is_empty());
        let visual: Vec<_> = live().filter(|entry| entry.track.kind.is_visual()).collect();
        let mut sounds: Vec<_> = live().filter(|entry| entry.track.kind == Kind::Audio).collect();
        sounds.sort_by_key(|entry| audio_group(entry));
        let texts: Vec<_> = live().filter(|entry| entry.track.kind == Kind::Text).collect();
        let mut media = Vec::new();
        if !visual.is_empty() {
            for (place, entry) in sounds.iter().enumerate() {
                let group = audio_group(entry);
                let is_first = !sounds[..place].iter().any(|other| audio_group(other) == group);
                media.push(rendition(entry, MediaKind::Audio, group, is_first));
            }
        }
        for (place, entry) in texts.iter().enumerate() {
            media.push(rendition(entry, MediaKind::Subtitles, "subs".to_owned(), place == 0));
        }
        let mut groups: Vec<Option<String>> =
            sounds.iter().map(|entry| Some(audio_group(entry))).collect();
        groups.dedup();
        if groups.is_empty() || visual.is_empty() {
            groups = vec![None];
        }
        let pathway_id = self.rule.steering.as_ref().and_then(first_pathway);
        let leads = if visual.is_empty() { &sounds } else { &visual };
        let texts_bps = texts.iter().map(|text| text.peak_bps).max().unwrap_or(0);
        let variants = leads.iter().flat_map(|entry| {
            groups.iter().map(|group| {
                let mut variant = variant(entry, group.as_deref(), &sounds);
                for codec in texts.iter().flat_map(|text| &text.info.codecs) {
                    if !variant.codecs.contains(codec) {
                        variant.codecs.push(codec.clone());
                    }
                }
                variant.bandwidth = variant.bandwidth.saturating_add(texts_bps);
                variant.subtitles_group = (!texts.is_empty()).then(|| "subs".to_owned());
                variant.pathway_id.clone_from(&pathway_id);
                variant
            })
        });
        MultivariantPlaylist {
            independent_segments: true,
            variants: variants.collect(),
            media,
            content_steering: self.rule.steering.as_ref().map(|steering| ContentSteering {
                server_uri: "steering.json".to_owned(),
                pathway_id: first_pathway(steering),
            }),
        }
    }

    /// The steering manifest (RFC 8216bis §7.2).
    pub(super) fn steering(&self) -> Option<Arc<Text>> {
        let steering = self.rule.steering.as_ref()?;
        let base = first_pathway(steering)?;
        let order: Vec<_> = steering.pathways.iter().map(|pathway| pathway.id.as_str()).collect();
        let clones: Vec<_> = steering
            .pathways
            .iter()
            .filter_map(|pathway| {
                let host = pathway.host.as_ref()?;
                Some(serde_json::json!({
                    "BASE-ID": base, "ID": pathway.id, "URI-REPLACEMENT": { "HOST": host }
                }))
            })
            .collect();
        let manifest = serde_json::json!({
            "VERSION": 1, "TTL": steering.ttl_s, "PATHWAY-PRIORITY": order,
            "PATHWAY-CLONES": clones,
        });
        Some(Text::new("application/json", manifest.to_string(), self.now_ms()))
    }
}

/// What answers say about a segment, or about a part of it.
pub(super) fn about(
    entry: &Entry,
    segment: &Segment,
    part: Option<(u64, &super::track::Part)>,
    shape: &Shape,
) -> About {
    let (epoch, msn) = (&segment.publication.epoch, segment.msn);
    let kind = match entry.track.kind {
        Kind::Video => "v",
        Kind::Audio => "a",
        Kind::Text => "c",
        Kind::Muxed => "av",
    };
    let state = if entry.track.is_ended { 'v' } else { 'l' };
    let (ticks, bytes, tag) = match part {
        Some((number, part)) => {
            (part.duration, part.end - part.start, format!("\"{epoch}-{msn}.{number}\""))
        }
        None => (segment.duration, segment.bytes(), format!("\"{epoch}-{msn}\"")),
    };
    let us = segment.to_us(ticks).max(1);
    let kbps = u128::from(bytes) * 8_000 / us as u128;
    let extension = extension(entry.info.is_ts);
    let next = match part {
        Some((number, _)) if number + 1 < segment.parts.len() as u64 || !segment.is_complete => {
            format!("{msn}.{}.{extension}", number + 1)
        }
        Some(_) => format!("{}.0.{extension}", msn + 1),
        None => format!("{}.{extension}", msn + 1),
    };
    let mut cmsd = format!("ot={kind},sf=h,st={state}");
    if part.is_some() || segment.is_complete {
        cmsd += &format!(",d={},br={kbps}", us / 1000);
    }
    if part.is_none() && segment.is_complete {
        cmsd += &format!(",at={}", segment.listed_ms);
    }
    cmsd += &format!(",nor=\"{next}\"");
    About {
        content_type: media_type(entry),
        etag: tag,
        modified_ms: u64::try_from(segment.wall_us() / 1000).unwrap_or(0),
        max_age_s: super::KEEP_TARGET_DURATIONS * shape.target_duration_s,
        expires_ms: None,
        cmsd,
    }
}

pub(super) fn media_type(entry: &Entry) -> &'static str {
    match (entry.info.is_ts, entry.track.kind) {
        (true, _) => "video/mp2t",
        (false, Kind::Video | Kind::Muxed) => "video/mp4",
        (false, Kind::Audio) => "audio/mp4",
        (false, Kind::Text) => "application/mp4",
    }
}

impl State {
    /// Another one when a track's playlist is another, and when its reports of the other tracks would
    /// be a segment old: while a track stalls the others go on. `None` for no such track.
    fn list_version(&self, index: usize) -> Option<u64> {
        let own = self.entries.get(index)?;
        let others = self.entries.iter().filter(|entry| !std::ptr::eq(*entry, own));
        let ends = others.map(|entry| entry.track.open_msn());
        Some(ends.fold(own.revision, u64::wrapping_add))
    }

    /// The tracks in an order that does not depend on which came first.
    pub(super) fn in_order(&self) -> Vec<&Entry> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by(|a, b| (a.track.kind, &a.track.name).cmp(&(b.track.kind, &b.track.name)));
        entries
    }

    /// Events that were over before everything that is listed go.
    fn forget_events(&mut self, now_ms: u64, shape: &Shape) {
        let first = |entry: &Entry| entry.track.listed().next().map(Segment::wall_us);
        let Some(start_us) = self.entries.iter().filter_map(first).min() else { return };
        let keep_ms = SKIP_TARGET_DURATIONS * shape.target_duration_s * 1000;
        self.removed_dateranges.retain(|(at, _)| now_ms.saturating_sub(*at) <= keep_ms);
        let removed = &mut self.removed_dateranges;
        let known = self.events.len();
        self.events.retain(|event| {
            let range = &event.range;
            let lasts_s = range.duration_s.or(range.planned_duration_s).unwrap_or(0.0);
            let is_over = (range.start_ms + (lasts_s * 1000.0) as i64) * 1000 < start_us;
            if is_over {
                removed.push((now_ms, range.id.clone()));
            }
            !is_over
        });
        if self.events.len() < known {
            self.entries.iter_mut().for_each(|entry| entry.revision += 1);
        }
    }
}

impl Track {
    /// What a request for more has to wait for.
    pub(super) fn edge(&self) -> Edge {
        let target_ms = self.to_us(self.part_target) / 1000;
        Edge {
            next_msn: self.open_msn(),
            open_parts: self.open_segment().map_or(0, |open| open.parts.len() as u64),
            part_target_ms: u64::try_from(target_ms).ok().filter(|ms| *ms > 0),
        }
    }
}

/// The first segment whose parts are listed.
fn parts_from(track: &Track, shape: &Shape) -> u64 {
    let far_us = (PARTS_TARGET_DURATIONS * shape.target_duration_s) as Micros * 1_000_000;
    let mut behind_us = 0;
    let mut from = track.open_msn();
    for segment in track.listed().rev() {
        if behind_us > far_us {
            break;
        }
        from = segment.msn;
        behind_us += segment.listed_us();
    }
    from
}

fn reports(state: &State, own: usize) -> Vec<Report> {
    let own = &state.entries[own];
    let report = |entry: &Entry| {
        let has_news = |segment: &&Segment| segment.is_complete || !segment.parts.is_empty();
        let last = entry.track.listed().rev().find(has_news)?;
        Some(Report {
            uri: format!("{}.m3u8", entry.track.name),
            last_msn: last.msn,
            last_part: (last.parts.len() as u64).checked_sub(1),
        })
    };
    let others = state.in_order().into_iter().filter(|entry| !std::ptr::eq(*entry, own));
    others.filter_map(report).collect()
}

/// Sound of one codec is one group, which every variant is listed with.
fn audio_group(entry: &Entry) -> String {
    let codec = entry.info.codecs.first().map_or("audio", String::as_str);
    let family = codec.split('.').next().unwrap_or(codec);
    format!("audio-{family}").to_lowercase()
}

fn first_pathway(steering: &Steering) -> Option<String> {
    steering.pathways.first().map(|pathway| pathway.id.clone())
}

fn rendition(entry: &Entry, kind: MediaKind, group: String, is_default: bool) -> Media {
    Media {
        kind,
        group,
        name: entry.track.name.clone(),
        language: entry.info.language.clone(),
        default: is_default,
        autoselect: true,
        forced: false,
        channels: (entry.info.channels > 0).then_some(entry.info.channels),
        characteristics: Vec::new(),
        uri: Some(format!("{}.m3u8", entry.track.name)),
    }
}

fn variant(entry: &Entry, group: Option<&str>, sounds: &[&Entry]) -> Variant {
    let of_group = |sound: &&&Entry| group.is_some_and(|group| audio_group(sound) == group);
    let loudest = sounds.iter().filter(of_group).max_by_key(|sound| sound.peak_bps);
    let mut codecs = entry.info.codecs.clone();
    for codec in sounds.iter().filter(of_group).flat_map(|sound| &sound.info.codecs) {
        if !codecs.contains(codec) {
            codecs.push(codec.clone());
        }
    }
    let peak = entry.peak_bps.saturating_add(loudest.map_or(0, |sound| sound.peak_bps));
    let average = loudest.map_or(0, |sound| sound.average_bps());
    let average = entry.average_bps().saturating_add(average);
    Variant {
        uri: format!("{}.m3u8", entry.track.name),
        bandwidth: peak.max(1),
        average_bandwidth: (average > 0).then_some(average.min(peak)),
        codecs,
        resolution: (entry.info.width > 0).then_some((entry.info.width, entry.info.height)),
        frame_rate: entry.info.frame_rate,
        audio_group: group.map(str::to_owned),
        ..Variant::default()
    }
}

impl Entry {
    /// Of what is listed.
    pub(super) fn average_bps(&self) -> u64 {
        let media = || self.track.listed().filter(|segment| segment.is_complete && !segment.is_gap);
        let us: Micros = media().map(Segment::duration_us).sum();
        let bytes: u64 = media().map(Segment::bytes).sum();
        u64::try_from(u128::from(bytes) * 8_000_000 / us.max(1) as u128).unwrap_or(u64::MAX)
    }
}
