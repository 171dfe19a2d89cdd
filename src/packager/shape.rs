//! What all tracks of a presentation agree on, and how it is learnt from the first chunks. It is fixed
//! once: players take no other target duration and no other part target.

use super::point::Entry;
use super::publication::zero_of;
use super::track::{Chunk, ChunkHead, Kind, Micros, PENDING_MAX, Track};
use super::{LiveRule, Parts};

/// The last decimal of durations in playlists.
const LISTED_US: Micros = 10;
/// Segments of sound are meant to be a multiple of this.
const SOUND_GRID_US: Micros = 100_000;
/// So much of another track without a picture, and the pictures are not waited for.
const LEAD_WAIT_US: Micros = 10_000_000;

/// What all tracks of a presentation agree on. Fixed once: RFC 8216bis allows no change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// The lead track's rhythm.
    pub(super) segment_us: Micros,
    pub(super) target_duration_s: u64,
    /// Wall time where the MPD begins.
    pub(super) start_us: Micros,
    /// Wall time and number of the lead track's first segment.
    pub(super) origin_us: Micros,
    pub(super) origin_msn: u64,
    /// PART-TARGET of the track with the longest parts; 0 for no parts.
    pub(super) part_us_max: Micros,
    /// Parts are aimed at this.
    pub(super) part_us: Micros,
}

impl Shape {
    /// As soon as the lead track shows its rhythm, or a track `has_ended`.
    pub(super) fn of(entries: &[Entry], rule: &LiveRule, has_ended: bool) -> Option<Shape> {
        let lead = lead_of(entries)?;
        let aim_us = rule.segment_ms as Micros * 1000;
        // A short stream says nothing of the rhythm of the next.
        let all = || pending_ticks(lead).filter(|_| has_ended);
        let segment = natural_segment(lead, aim_us)
            .or_else(|| all().map(|all| all.max(lead.to_ticks(aim_us))))?;
        let segment_us = lead.to_us(segment).max(1);
        let Origin { start_us, origin_us, origin_msn } = Origin::of(lead, segment)?;
        let part_us = rule.part_ms as Micros * 1000;
        Some(Shape {
            segment_us,
            target_duration_s: ((segment_us + 990_000) / 1_000_000).max(1) as u64,
            start_us,
            origin_us,
            origin_msn,
            part_us_max: if rule.parts == Parts::None { 0 } else { longest_part(entries, part_us) },
            part_us,
        })
    }

    /// PART-TARGET of a track in ticks, by its first chunks and no longer than those of the others.
    pub(super) fn part_target_of(&self, track: &Track) -> u64 {
        let most = track.to_ticks(self.part_us_max).max(1);
        let natural = track.natural_part_target(self.part_us).clamp(1, most);
        if track.kind == Kind::Text { most } else { natural }
    }
}

/// Where the lead track begins, as [`Shape`] says it.
struct Origin {
    start_us: Micros,
    origin_us: Micros,
    origin_msn: u64,
}

impl Origin {
    fn of(lead: &Track, segment: u64) -> Option<Origin> {
        let first = &lead.pending.first()?.head;
        let (zero_us, segment) = (zero_of(lead, first), segment.max(1));
        let first_us = lead.to_us(first.time);
        if zero_us != 0 {
            let origin_us = zero_us + first_us;
            let origin_msn = ((origin_us + 1000).max(0) / lead.to_us(segment).max(1)) as u64;
            return Some(Origin { start_us: origin_us, origin_us, origin_msn });
        }
        // Epoch-locked: by its own clock, so that no rounding adds up over the years.
        let origin_msn = (first.time + lead.to_ticks(1000)) / segment;
        let earlier = u64::try_from(u128::from(origin_msn) * u128::from(segment)).ok()?;
        // Frames of sound fit no grid: wherever an origin comes in, the beats are the same.
        let origin_us = if lead.kind.is_visual() { first_us } else { lead.to_us(earlier) };
        // The MPD begins with number 0, on every origin, if microseconds can say when that was.
        let is_exact = u128::from(segment) * 1_000_000 % u128::from(lead.timescale.max(1)) == 0;
        let zero_us = lead.to_us(first.time.saturating_sub(earlier));
        let start_us = if is_exact { zero_us } else { origin_us };
        Some(Origin { start_us, origin_us, origin_msn })
    }
}

/// Rounded up to what playlists can say: three of them are PART-HOLD-BACK.
fn longest_part(entries: &[Entry], aim_us: Micros) -> Micros {
    let natural = |entry: &Entry| entry.track.to_us(entry.track.natural_part_target(aim_us));
    // Texts are rare and long: they get what the others need.
    let timed = entries.iter().filter(|entry| entry.track.kind != Kind::Text);
    let longest = timed.map(natural).max().filter(|longest| *longest > 0);
    let longest = longest.or_else(|| entries.iter().map(natural).max()).unwrap_or(0);
    (longest / LISTED_US + 1) * LISTED_US
}

/// The track whose rhythm counts: the first with pictures, as long as they come.
fn lead_of(entries: &[Entry]) -> Option<&Track> {
    let tracks = || entries.iter().map(|entry| &entry.track);
    let mut visual = tracks().filter(|track| track.kind.is_visual());
    let has_pictures = visual.clone().next().is_some();
    let is_enough = |track: &&Track| {
        let us = pending_ticks(track).map_or(0, |ticks| track.to_us(ticks));
        !track.pending.is_empty() && (!has_pictures || track.is_ended || us >= LEAD_WAIT_US)
    };
    visual.find(|track| !track.pending.is_empty()).or_else(|| tracks().find(is_enough))
}

/// The duration of all that is pending.
fn pending_ticks(track: &Track) -> Option<u64> {
    let (first, last) = (track.pending.first()?, track.pending.last()?);
    let end = last.head.time.saturating_add(last.head.duration);
    Some(end.saturating_sub(first.head.time)).filter(|ticks| *ticks > 0)
}

/// How long the first segment of the lead track is in ticks, if that can be said yet.
fn natural_segment(track: &Track, aim_us: Micros) -> Option<u64> {
    let first = &track.pending.first()?.head;
    let since = |head: &ChunkHead| track.to_us(head.time.saturating_sub(first.time));
    let is_next = |chunk: &&Chunk| {
        let head = &chunk.head;
        let may_begin = head.starts_sync || !track.kind.is_visual();
        let in_rhythm = track.kind.is_visual() && since(head) >= aim_us - 20_000;
        may_begin && (in_rhythm || head.starts_object && since(head) >= 300_000)
    };
    if let Some(next) = track.pending.iter().skip(1).find(is_next) {
        let natural = next.head.time.saturating_sub(first.time).max(1);
        let is_on_grid = track.kind.is_visual() || first.time.is_multiple_of(natural);
        if is_on_grid || zero_of(track, first) != 0 {
            return Some(natural);
        }
        // Objects of sound are a frame longer or shorter in turns: what they mean is the same on
        // every origin.
        let grid = track.to_ticks(SOUND_GRID_US).max(1);
        return Some((natural + grid / 2) / grid * grid).filter(|ticks| *ticks > 0);
    }
    // No key frame far and wide, or no pictures: the aim itself.
    let patience = if track.kind.is_visual() { 3 } else { 2 };
    let is_enough =
        pending_ticks(track).is_some_and(|ticks| track.to_us(ticks) >= aim_us * patience);
    (is_enough || track.pending.len() >= PENDING_MAX).then(|| track.to_ticks(aim_us).max(1))
}
