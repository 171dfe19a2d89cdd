//! The timeline of one track: complete chunks in, segments and parts out, as places in objects.
//!
//! No lock, no clock, no I/O: `point` owns it and says what time it is.
//!
//! | a chunk | becomes |
//! |---|---|
//! | before the shape is known | pending: replayed when it is |
//! | at its expected time | part of the segment in progress, or the first of the next (`prepare`) |
//! | later than expected | what is missing is listed as GAP |
//! | much later, or earlier | the first of a new publication: DISCONTINUITY |
//! | earlier, but known already | nothing: a repetition (DASH-IF ingest allows it) |
//! | longer than PART-TARGET | a segment of its own, without parts |
//!
//! A segment ends at the first sync sample after its target duration (tracks without pictures: at the
//! lead track's rhythm), where an object of pictures ends, and at the latest before it would be longer
//! than TARGETDURATION allows.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::shape::Shape;
use super::view::Slice;
use crate::store::{Millis, Object};

/// Microseconds; of media, of wall time since 1970.
pub(super) type Micros = i64;

/// Later media times are taken to be this one, so that sums of some of them fit: 36,000 years.
pub(super) const TIME_US_MAX: Micros = 1 << 60;
/// Clocks of two tracks, and of a chunk and its successor, may differ so much and still agree.
const TOLERANCE_US: Micros = 20_000;
/// A chunk may be so much later than expected and still continue its predecessor.
const LATE_US_MAX: Micros = 250_000;
/// A longer hole is a new publication.
const GAP_US_MAX: Micros = 60_000_000;
/// Of an epoch-locked push: its segments keep the numbers that they have on other origins.
const LOCKED_GAP_US_MAX: Micros = 3_600_000_000;
/// An encoder that comes back sends at most so many segments again.
const REPEATED_SEGMENTS_MAX: usize = 4;
/// Media time this close to wall time is wall time: epoch-locked (DASH-IF ingest, "dualsync").
pub(super) const LOCKED_US: Micros = 3_600_000_000;
/// A longer chunk is not one.
pub(super) const CHUNK_US_MAX: Micros = 60_000_000;
/// An object that lasts this long is a segment of its own.
const OBJECT_SEGMENT_US_MIN: Micros = 300_000;
/// A segment of sound that begins so much before a beat is that beat's, or half a part before it.
const BEAT_SLACK_US_MAX: Micros = 200_000;
/// A track keeps so many segments for each that fits the times it keeps them for, and some more: an
/// encoder that begins anew all the time makes many that last no time.
const SEGMENTS_PER_RHYTHM: i64 = 2;
const SEGMENTS_BESIDE: i64 = 64;
/// Chunks kept until the shape is known; more and the shape is decided without them.
pub(super) const PENDING_MAX: usize = 4096;
/// Where times are those of arrival, pictures and segments last so much longer or shorter, and a part
/// is still 85 % of PART-TARGET.
const UNEVEN_PERCENT: u64 = 8;
/// EXTINF is rounded to whole seconds and must then not exceed TARGETDURATION (RFC 8216bis §4.4.3.1).
pub(super) const ROUNDING_US: Micros = 490_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Video,
    /// Pictures and sound in the same chunks.
    Muxed,
    Audio,
    Text,
}

impl Kind {
    /// It has pictures: segments begin at its sync samples.
    pub(super) fn is_visual(self) -> bool {
        matches!(self, Kind::Video | Kind::Muxed)
    }
}

/// One run of an encoder: one clock, one line of names.
#[derive(Debug)]
pub(super) struct Publication {
    /// Runs of a publishing point's encoders are counted.
    pub(super) run: u64,
    /// In the names of this track's segments.
    pub(super) epoch: Arc<str>,
    /// The epoch of all tracks that were not epoch-locked.
    pub(super) stem: Arc<str>,
    /// Wall time of media time 0.
    pub(super) zero_us: Micros,
}

impl Publication {
    /// Media time is wall time: two origins that get the same push make the same of it.
    pub(super) fn is_locked(&self) -> bool {
        self.zero_us == 0
    }
}

/// What a decoder needs first.
#[derive(Debug)]
pub(super) struct InitSegment {
    pub(super) bytes: Bytes,
    /// Of the bytes.
    pub(super) digest: u64,
}

/// A complete chunk.
#[derive(Clone)]
pub(super) struct Chunk {
    pub(super) head: ChunkHead,
    pub(super) end: u64,
}

impl ChunkHead {
    /// The same chunk of the same upload.
    pub(super) fn is(&self, other: &ChunkHead) -> bool {
        Arc::ptr_eq(&self.object, &other.object) && self.start == other.start
    }
}

/// What is known of a chunk when its moof has come.
#[derive(Clone)]
pub(super) struct ChunkHead {
    pub(super) object: Arc<Object>,
    pub(super) start: u64,
    /// In ticks of the track.
    pub(super) time: u64,
    pub(super) duration: u64,
    /// It has a sync sample.
    pub(super) is_independent: bool,
    /// Its first sample is one.
    pub(super) starts_sync: bool,
    /// The first of its object.
    pub(super) starts_object: bool,
    /// Its object began with an init segment.
    pub(super) has_init: bool,
    /// Its time is that of its arrival: about as even as its neighbours', not more.
    pub(super) is_timed_by_arrival: bool,
    /// PAT and PMT, where the bytes do not begin with them.
    pub(super) tables: Bytes,
    /// When it came, and what its prft says of that (wall time of media time 0).
    pub(super) arrived_us: Micros,
    pub(super) zero_us: Option<Micros>,
}

pub(super) struct Part {
    /// Bytes `[start, end)` of the segment.
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) duration: u64,
    pub(super) is_independent: bool,
    pub(super) is_gap: bool,
}

pub(super) struct Segment {
    pub(super) msn: u64,
    pub(super) publication: Arc<Publication>,
    pub(super) init: Option<Arc<InitSegment>>,
    /// Ticks per second of its own: an encoder that starts again may change it.
    pub(super) timescale: u64,
    /// Media time, in ticks.
    pub(super) time: u64,
    pub(super) duration: u64,
    /// In front of the slices: PAT and PMT.
    pub(super) made: Bytes,
    pub(super) slices: Vec<Slice>,
    pub(super) parts: Vec<Part>,
    pub(super) is_complete: bool,
    pub(super) is_discontinuity: bool,
    pub(super) is_gap: bool,
    /// It holds a chunk that is longer than a part may be.
    pub(super) is_partless: bool,
    pub(super) starts_sync: bool,
    pub(super) listed_ms: Millis,
    /// When it left the playlist.
    pub(super) unlisted_ms: Option<Millis>,
    /// Which beat of the lead track's rhythm it is.
    beat: i64,
}

impl Segment {
    pub(super) fn to_us(&self, ticks: u64) -> Micros {
        ticks_to_us(ticks, self.timescale)
    }

    pub(super) fn duration_us(&self) -> Micros {
        self.to_us(self.duration)
    }

    /// What of it is in the playlist: of one in progress its parts, not yet what will be the next one.
    pub(super) fn listed_us(&self) -> Micros {
        let parts = || self.parts.iter().map(|part| part.duration).sum();
        self.to_us(if self.is_complete { self.duration } else { parts() })
    }

    /// Wall time at which it begins.
    pub(super) fn wall_us(&self) -> Micros {
        self.publication.zero_us.saturating_add(self.to_us(self.time))
    }

    /// Bytes that are there.
    pub(super) fn bytes(&self) -> u64 {
        self.made.len() as u64 + self.slices.iter().map(Slice::bytes).sum::<u64>()
    }

    /// The slices of the bytes `[start, end)`, and what of `made` belongs to them.
    pub(super) fn cut(&self, start: u64, end: u64) -> (Bytes, Vec<Slice>) {
        let made_len = self.made.len() as u64;
        let made = self.made.slice(start.min(made_len) as usize..end.min(made_len) as usize);
        let mut slices = Vec::new();
        let mut at = made_len;
        for slice in &self.slices {
            let (from, to) = (start.max(at), end.min(at + slice.bytes()));
            if from < to {
                let start = slice.start + (from - at);
                slices.push(Slice { start, end: start + (to - from), ..slice.clone() });
            }
            at += slice.bytes();
        }
        (made, slices)
    }

    /// Who read the longest playlist that had it may play it until then (RFC 8216bis §6.2.2).
    pub(super) fn shown_until_ms(&self, window_us: Micros) -> Millis {
        let shown_us = self.duration_us().saturating_add(window_us);
        self.listed_ms.saturating_add(u64::try_from(shown_us / 1000).unwrap_or(0))
    }

    /// Nothing has come of it yet.
    fn is_empty(&self) -> bool {
        self.slices.is_empty() && self.duration == 0
    }

    /// Bytes of it were trimmed away.
    pub(super) fn is_lost(&self) -> bool {
        self.slices.first().is_some_and(|slice| slice.start < slice.object.head())
    }

    fn append(&mut self, object: &Arc<Object>, start: u64, end: u64) {
        match self.slices.last_mut() {
            Some(last) if Arc::ptr_eq(&last.object, object) && last.end == start => last.end = end,
            _ => self.slices.push(Slice { object: object.clone(), start, end }),
        }
    }
}

/// A key picture that comes after so much begins the next segment.
fn is_due(lasted_us: Micros, head: &ChunkHead, shape: &Shape) -> bool {
    let slack_us = if head.is_timed_by_arrival {
        shape.segment_us / 100 * UNEVEN_PERCENT as Micros
    } else {
        0
    };
    lasted_us >= shape.segment_us - slack_us.max(TOLERANCE_US)
}

/// The part that is nearest to `aim`, and not under 85 % of it.
fn whole_chunks(each: u64, aim: u64) -> u64 {
    if each >= aim {
        return each;
    }
    let count = aim / each;
    if count * each * 100 >= aim * 85 { count * each } else { (count + 1) * each }
}

fn ticks_to_us(ticks: u64, timescale: u64) -> Micros {
    let us = u128::from(ticks) * 1_000_000 / u128::from(timescale);
    Micros::try_from(us).unwrap_or(TIME_US_MAX).min(TIME_US_MAX)
}

/// What a track keeps.
pub(super) struct Keep {
    /// Of the playlist.
    pub(super) window_us: Micros,
    /// Behind the time that players may need what they were shown.
    pub(super) keep_ms: Millis,
    /// Of all segments together.
    pub(super) segments_max: usize,
    pub(super) bytes_max: u64,
}

impl Keep {
    /// Nothing but time limits it.
    #[cfg(test)]
    pub(super) fn by_time(window_us: Micros, keep_ms: Millis) -> Keep {
        Keep { window_us, keep_ms, segments_max: usize::MAX, bytes_max: u64::MAX }
    }

    /// How many segments of `segment_us` are kept at most, with room for some that are shorter.
    pub(super) fn segments_max(window_us: Micros, keep_ms: Millis, segment_us: Micros) -> usize {
        let keep_us = Micros::try_from(keep_ms).unwrap_or(Micros::MAX).saturating_mul(1000);
        let all_us = window_us.saturating_mul(2).saturating_add(keep_us);
        let segments = all_us / segment_us.max(1);
        let most = segments.saturating_mul(SEGMENTS_PER_RHYTHM).saturating_add(SEGMENTS_BESIDE);
        usize::try_from(most).unwrap_or(usize::MAX)
    }
}

/// Another one whenever a playlist of the track would be another.
#[derive(PartialEq, Eq)]
pub(super) struct ListingMark {
    run: u64,
    open_msn: u64,
    open_parts: usize,
    first_msn: Option<u64>,
    is_ended: bool,
}

/// Where a publication begins in a track.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) publication: Arc<Publication>,
    pub(super) msn: u64,
    pub(super) wall_us: Micros,
}

/// The part that comes next: the preload hint.
pub(super) struct NextPart {
    pub(super) epoch: Arc<str>,
    pub(super) msn: u64,
    pub(super) part: u64,
    /// Where it begins in its segment.
    pub(super) byte_start: u64,
}

/// Things that happen to a stream and are repaired; each is counted and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repair {
    Restart,
    Gap,
    Repetition,
    LongChunk,
    ForcedCut,
    ShortPart,
}

pub(super) struct Track {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) timescale: u64,
    pub(super) init: Option<Arc<InitSegment>>,
    pub(super) publication: Option<Arc<Publication>>,
    /// PART-TARGET in ticks, once it is fixed; 0 for no parts.
    pub(super) part_target: u64,
    pub(super) segments: VecDeque<Segment>,
    /// Of the first listed segment.
    pub(super) discontinuity_sequence: u64,
    pub(super) pending: Vec<Chunk>,
    /// The chunk that is arriving, as far as it is known where it ends.
    pub(super) arriving: Option<(ChunkHead, Option<u64>)>,
    pub(super) is_ended: bool,
    pub(super) repairs: Vec<Repair>,
    /// Uploads that are still open, but another has begun a publication since.
    superseded: Vec<Arc<Object>>,
    /// The same init segment came again since the last chunk: the encoder came back, or began anew.
    pub(super) has_init_again: bool,
    /// The epoch of the publication that a new init segment has announced.
    pub(super) next_epoch: Option<Arc<str>>,
    origins: Vec<Origin>,
    /// Media time at which the next chunk is expected.
    next_time: Option<u64>,
    next_msn: u64,
    /// The part in progress.
    part: Option<Part>,
    /// The next segment begins a publication.
    must_break: bool,
    /// The last segments of pictures ended where the rhythm said: the end of this one can be foretold.
    is_regular: bool,
}

impl Track {
    pub(super) fn new(name: String, kind: Kind, timescale: u64) -> Track {
        Track {
            name,
            kind,
            timescale: timescale.max(1),
            init: None,
            publication: None,
            part_target: 0,
            segments: VecDeque::new(),
            discontinuity_sequence: 0,
            pending: Vec::new(),
            arriving: None,
            is_ended: false,
            repairs: Vec::new(),
            superseded: Vec::new(),
            has_init_again: false,
            next_epoch: None,
            origins: Vec::new(),
            next_time: None,
            next_msn: 0,
            part: None,
            must_break: false,
            is_regular: true,
        }
    }

    pub(super) fn to_us(&self, ticks: u64) -> Micros {
        ticks_to_us(ticks, self.timescale)
    }

    pub(super) fn to_ticks(&self, us: Micros) -> u64 {
        let ticks = us.max(0) as u128 * u128::from(self.timescale) / 1_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Wall time of a media time in the current publication.
    pub(super) fn wall_us(&self, ticks: u64) -> Micros {
        let zero = self.publication.as_ref().map_or(0, |publication| publication.zero_us);
        zero.saturating_add(self.to_us(ticks))
    }

    /// The segment in progress.
    pub(super) fn open_segment(&self) -> Option<&Segment> {
        self.segments.back().filter(|segment| !segment.is_complete)
    }

    fn open_segment_mut(&mut self) -> Option<&mut Segment> {
        self.segments.back_mut().filter(|segment| !segment.is_complete)
    }

    pub(super) fn listing_mark(&self) -> ListingMark {
        ListingMark {
            run: self.publication.as_ref().map_or(0, |publication| publication.run),
            open_msn: self.open_msn(),
            open_parts: self.open_segment().map_or(0, |open| open.parts.len()),
            first_msn: self.listed().next().map(|first| first.msn),
            is_ended: self.is_ended,
        }
    }

    /// The number of the segment in progress, or of the one that comes next.
    pub(super) fn open_msn(&self) -> u64 {
        self.open_segment().map_or(self.next_msn, |segment| segment.msn)
    }

    pub(super) fn segment(&self, epoch: &str, msn: u64) -> Option<&Segment> {
        let first = self.segments.front()?.msn;
        let segment = self.segments.get(usize::try_from(msn.checked_sub(first)?).ok()?)?;
        (&*segment.publication.epoch == epoch).then_some(segment)
    }

    /// Segments of the playlist, complete and in progress.
    pub(super) fn listed(&self) -> impl DoubleEndedIterator<Item = &Segment> + Clone {
        self.segments.iter().filter(|segment| segment.unlisted_ms.is_none())
    }

    /// Is this chunk, which is the first of a new publication or comes at an unexpected time, a new
    /// run of the encoder?
    pub(super) fn is_restart(&self, head: &ChunkHead) -> bool {
        if self.must_break {
            return true;
        }
        let Some(expected) = self.next_time else { return true };
        let late_us = self.to_us(head.time) - self.to_us(expected);
        let gap_us_max = if self.is_locked() { LOCKED_GAP_US_MAX } else { GAP_US_MAX };
        if late_us > gap_us_max {
            return true;
        }
        let early_us = -late_us;
        early_us > self.to_us(self.slack(head)) && !self.is_repetition(head)
    }

    pub(super) fn is_locked(&self) -> bool {
        self.publication.as_ref().is_some_and(|publication| publication.is_locked())
    }

    fn late_us_max(&self, head: &ChunkHead) -> Micros {
        (self.to_us(head.duration) / 2).clamp(TOLERANCE_US, LATE_US_MAX)
    }

    /// A chunk may begin so much before its predecessor ends, in ticks. Less than it lasts: one that
    /// comes again and again must not look like progress.
    fn slack(&self, head: &ChunkHead) -> u64 {
        (head.duration / 2).min(self.to_ticks(TOLERANCE_US))
    }

    /// A chunk that was there before: an encoder that lost its connection sends the last segments
    /// again. With an init segment in front it is a restart, unless the clock is wall time; with one
    /// in an upload of its own, if it goes back further than an encoder would to repeat itself.
    pub(super) fn is_repetition(&self, head: &ChunkHead) -> bool {
        let (Some(expected), false) = (self.next_time, self.must_break) else { return false };
        let ends = head.time.saturating_add(head.duration);
        if ends > expected.saturating_add(self.slack(head)) {
            return false;
        }
        if self.is_locked() {
            // However old it is: only another clock is another run.
            return (self.to_us(head.time) - head.arrived_us).abs() < LOCKED_US;
        }
        let starts_before = |segment: &Segment| segment.time <= head.time;
        let is_known = self.segments.front().is_some_and(starts_before);
        let recent = self.segments.iter().rev().take(REPEATED_SEGMENTS_MAX).last();
        let is_recent = recent.is_some_and(starts_before);
        is_known && !head.has_init && (is_recent || !self.has_init_again)
    }

    /// A chunk came before the shape is known. What it does not continue is forgotten, as is what no
    /// decoder can begin with.
    pub(super) fn push_pending(&mut self, chunk: Chunk) {
        let head = &chunk.head;
        if let (Some(first), Some(last)) = (self.pending.first(), self.pending.last()) {
            let expected = last.head.time.saturating_add(last.head.duration);
            let late_us = self.to_us(head.time) - self.to_us(expected);
            let is_break = late_us > GAP_US_MAX || -late_us > self.to_us(self.slack(head));
            let begins = self.kind.is_visual() && head.starts_sync && !first.head.starts_sync;
            if is_break || begins {
                if is_break {
                    self.supersede(&chunk.head.object);
                }
                self.pending.clear();
            }
        }
        if self.pending.len() < PENDING_MAX {
            self.pending.push(chunk);
        }
    }

    /// The objects that its media is in, the newest first, some of them several times.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        let pending = self.pending.iter().rev().map(|chunk| &chunk.head.object);
        let slices = self.segments.iter().rev().flat_map(|segment| segment.slices.iter().rev());
        pending.chain(slices.map(|slice| &slice.object))
    }

    /// Media time at which the next chunk is expected.
    pub(super) fn expected_time(&self) -> Option<u64> {
        let pending = self.pending.last().map(|last| &last.head);
        let pending = pending.map(|last| last.time.saturating_add(last.duration));
        pending.or(self.next_time)
    }

    /// An upload begins a publication: if that of the newest media is another and still under way,
    /// there are two encoders, and the newer one stays.
    pub(super) fn supersede(&mut self, by: &Arc<Object>) {
        let newest = self.objects().next().filter(|newest| !Arc::ptr_eq(newest, by));
        if let Some(newest) = newest.filter(|newest| newest.is_open()).cloned() {
            self.superseded.retain(|object| object.is_open() && !Arc::ptr_eq(object, by));
            self.superseded.push(newest);
        }
    }

    pub(super) fn is_superseded(&self, object: &Arc<Object>) -> bool {
        self.superseded.iter().any(|other| Arc::ptr_eq(other, object))
    }

    /// The object brought the newest of its media.
    pub(super) fn is_newest(&self, object: &Arc<Object>) -> bool {
        self.objects().next().is_some_and(|newest| Arc::ptr_eq(newest, object))
    }

    /// Begin a publication: what is in progress ends here.
    pub(super) fn begin_publication(&mut self, publication: Arc<Publication>, now_ms: Millis) {
        let is_first = self.publication.is_none();
        self.next_epoch = None;
        self.publication = Some(publication);
        self.is_ended = false;
        self.next_time = None;
        if !is_first {
            self.complete_segment(now_ms);
            self.must_break = true;
            self.repairs.push(Repair::Restart);
        }
    }

    /// The encoder came back with another clock.
    pub(super) fn change_clock(&mut self, kind: Kind, timescale: u64, now_ms: Millis) {
        self.complete_segment(now_ms);
        let part_us = self.to_us(self.part_target);
        self.pending.clear();
        (self.kind, self.timescale) = (kind, timescale);
        self.part_target = self.to_ticks(part_us);
        self.next_time = None;
        self.must_break = self.publication.is_some();
    }

    /// The decoder parameters of the next chunk. True if they break with what is listed.
    pub(super) fn set_init(&mut self, init: Arc<InitSegment>) -> bool {
        let is_other = self.init.as_ref().is_some_and(|old| old.digest != init.digest);
        if is_other || self.init.is_none() {
            self.init = Some(init);
        }
        let breaks = is_other && self.publication.is_some();
        self.must_break |= breaks;
        if is_other {
            // Listed they would have the wrong init segment.
            self.pending.clear();
        }
        breaks
    }

    /// PART-TARGET by the pending chunks, in ticks: a whole number of them, and at least 85 % of the
    /// aim. 0 if there are none.
    pub(super) fn natural_part_target(&self, aim_us: Micros) -> u64 {
        let aim = self.to_ticks(aim_us);
        let durations = || self.pending.iter().map(|chunk| chunk.head.duration);
        let Some(longest) = durations().max().filter(|longest| *longest > 0) else { return 0 };
        if self.kind.is_visual() && self.pending.iter().any(|chunk| chunk.head.is_timed_by_arrival)
        {
            let mean = durations().sum::<u64>() / self.pending.len() as u64;
            return whole_chunks(mean.max(1), aim) * (100 + UNEVEN_PERCENT) / 100;
        }
        if !self.kind.is_visual() {
            // Frames of sound never divide a part: room for one more than was seen. All of its parts
            // are independent, so that none is too short.
            return longest.max(aim) + longest / 10;
        }
        whole_chunks(longest, aim)
    }

    /// A chunk begins: close what ends before it.
    pub(super) fn prepare(&mut self, head: &ChunkHead, shape: &Shape, now_ms: Millis) {
        // Media after the end: there was none.
        self.is_ended = false;
        self.fill_gap(head, shape, now_ms);
        let is_empty = self.open_segment().is_some_and(Segment::is_empty);
        if is_empty || self.must_cut(head, shape) {
            self.complete_segment(now_ms);
        }
        if let Some(part) = self.part.as_ref().filter(|part| !self.fits(part, head.duration)) {
            // RFC 8216bis §4.4.4.9 wants 85 %; an encoder without rhythm cannot be helped.
            if !part.is_independent && part.duration * 100 < self.part_target * 85 {
                self.repairs.push(Repair::ShortPart);
            }
            self.close_part();
        }
        if self.open_segment().is_none() {
            self.begin_segment(head, shape, now_ms);
        }
    }

    fn fits(&self, part: &Part, duration: u64) -> bool {
        part.duration + duration <= self.part_target
    }

    fn must_cut(&mut self, head: &ChunkHead, shape: &Shape) -> bool {
        let Some(open) = self.open_segment() else { return false };
        let lasted_us = self.to_us(head.time.saturating_sub(open.time));
        let is_long = head.duration > self.part_target;
        if self.part_target > 0 && (is_long || open.is_partless) {
            return true;
        }
        if lasted_us <= 0 {
            return false;
        }
        let is_due = if self.kind.is_visual() {
            // Pictures that nothing before them explains are a segment of their own.
            let is_own = head.starts_object && lasted_us >= OBJECT_SEGMENT_US_MIN;
            head.starts_sync && (is_own || is_due(lasted_us, head, shape) || !open.starts_sync)
        } else {
            // Only after a hole: where it ends was foretold, or a part was promised.
            self.beat_at(head.time, 0, shape) > open.beat
        };
        let would_last = lasted_us + self.to_us(head.duration);
        let is_forced = would_last > shape.target_duration_s as Micros * 1_000_000 + ROUNDING_US;
        if is_forced && !is_due {
            self.repairs.push(Repair::ForcedCut);
            self.is_regular = false;
        }
        is_due || is_forced
    }

    /// Which of the lead track's segments a time is in, if each begins so much earlier.
    fn beat_at(&self, time: u64, early_us: Micros, shape: &Shape) -> i64 {
        (self.wall_us(time) + early_us - shape.origin_us).div_euclid(shape.segment_us.max(1))
    }

    /// A segment of sound may begin so much before the pictures' does.
    fn beat_slack_us(&self, shape: &Shape) -> Micros {
        BEAT_SLACK_US_MAX.min(shape.segment_us / 10).max(self.to_us(self.part_target) / 2)
    }

    /// No more bytes of an object come that is one of many: its end may be that of a segment.
    pub(super) fn end_object(&mut self, now_ms: Millis) {
        // Objects of single chunks do not make segments. Those of sound end a frame earlier or later in
        // turns, and its segments where it was foretold.
        let is_long = |open: &Segment| open.duration_us() >= OBJECT_SEGMENT_US_MIN;
        if self.kind.is_visual() && self.open_segment().is_some_and(is_long) {
            self.complete_segment(now_ms);
        }
    }

    fn begin_segment(&mut self, head: &ChunkHead, shape: &Shape, now_ms: Millis) {
        let Some(publication) = self.publication.clone() else { return };
        let beat = self.beat_at(head.time, self.beat_slack_us(shape), shape);
        if self.segments.is_empty() {
            let beats = (self.wall_us(head.time) - shape.origin_us + shape.segment_us / 2)
                .div_euclid(shape.segment_us.max(1));
            let msn = i128::from(shape.origin_msn) + i128::from(beats);
            self.next_msn = self.next_msn.max(u64::try_from(msn).unwrap_or(0));
        }
        let must_break = std::mem::take(&mut self.must_break);
        if self.origins.last().is_none_or(|last| last.publication.run != publication.run) {
            let wall_us = self.wall_us(head.time);
            let origin = Origin { publication: publication.clone(), msn: self.next_msn, wall_us };
            self.origins.push(origin);
        }
        self.segments.push_back(Segment {
            msn: self.next_msn,
            publication,
            init: self.init.clone(),
            timescale: self.timescale,
            time: head.time,
            duration: 0,
            made: head.tables.clone(),
            slices: Vec::new(),
            parts: Vec::new(),
            is_complete: false,
            is_discontinuity: must_break && !self.segments.is_empty(),
            is_gap: false,
            is_partless: self.part_target == 0 || head.duration > self.part_target,
            starts_sync: head.starts_sync,
            listed_ms: now_ms,
            unlisted_ms: None,
            beat,
        });
        self.next_msn += 1;
    }

    /// A chunk is complete: append it. True if a part or a segment became complete.
    pub(super) fn add(&mut self, chunk: &Chunk, shape: &Shape, now_ms: Millis) -> bool {
        let head = &chunk.head;
        let (part_target, is_visual) = (self.part_target, self.kind.is_visual());
        let Some(open) = self.open_segment_mut() else { return false };
        // What is made belongs to the first part that has media.
        let start = if open.slices.is_empty() { 0 } else { open.bytes() };
        if open.slices.is_empty() {
            open.made = head.tables.clone();
        }
        open.append(&head.object, head.start, chunk.end);
        let end = open.bytes();
        open.duration = (head.time + head.duration).saturating_sub(open.time).max(1);
        let (is_partless, is_long) = (open.is_partless, head.duration > part_target);
        self.next_time = Some(head.time + head.duration);
        self.has_init_again = false;
        if is_long && part_target > 0 {
            self.repairs.push(Repair::LongChunk);
        }
        let mut is_news = false;
        if !is_partless {
            let part = self.part.get_or_insert(Part {
                start,
                end,
                duration: 0,
                is_independent: false,
                is_gap: false,
            });
            part.end = end;
            part.duration += head.duration;
            part.is_independent |= head.is_independent || !is_visual;
            let is_full = part.duration + head.duration > part_target;
            if is_full && !self.may_be_last(head, shape) {
                self.close_part();
                is_news = true;
            }
        }
        if self.is_foretold_end(head, shape) {
            self.complete_segment(now_ms);
            is_news = true;
        }
        is_news
    }

    /// The next chunk may begin a segment, which its time does not foretell: the part is listed when
    /// that one shows what it is, so that no part is promised behind this one that never comes.
    fn may_be_last(&self, head: &ChunkHead, shape: &Shape) -> bool {
        let ends = head.time + head.duration;
        let is_long = |open: &Segment| {
            let lasted_us = self.to_us(ends.saturating_sub(open.time));
            !open.starts_sync || is_due(lasted_us, head, shape)
        };
        let is_uncertain = head.is_timed_by_arrival && self.kind.is_visual();
        is_uncertain && self.open_segment().is_some_and(is_long)
    }

    /// The segment is as long as the rhythm wants, and the rhythm has held so far.
    fn is_foretold_end(&self, head: &ChunkHead, shape: &Shape) -> bool {
        let Some(open) = self.open_segment() else { return false };
        if open.is_partless && self.part_target > 0 {
            return true;
        }
        let ends = head.time + head.duration;
        if self.kind.is_visual() {
            if head.is_timed_by_arrival {
                // One picture too early, and a segment would begin without a key.
                return false;
            }
            let slack_us = (TOLERANCE_US / 10).min(self.to_us(head.duration) / 2);
            let lasted_us = self.to_us(ends.saturating_sub(open.time));
            self.is_regular && open.starts_sync && lasted_us >= shape.segment_us - slack_us
        } else {
            // The next chunk, as long as this one, would be more in the next segment than in this.
            let half_us = (self.to_us(head.duration) / 2).min(self.beat_slack_us(shape));
            self.beat_at(ends, half_us, shape) > open.beat
        }
    }

    fn close_part(&mut self) {
        let Some(part) = self.part.take() else { return };
        if let Some(open) = self.open_segment_mut() {
            open.parts.push(part);
        }
    }

    /// End the segment in progress. Nothing happens if there is none.
    pub(super) fn complete_segment(&mut self, now_ms: Millis) {
        self.close_part();
        if let Some(empty) = self.segments.pop_back_if(|last| !last.is_complete && last.is_empty())
        {
            self.next_msn = empty.msn;
            self.must_break |= empty.is_discontinuity;
            return;
        }
        let Some(open) = self.open_segment_mut() else { return };
        open.listed_ms = now_ms;
        open.is_complete = true;
        // Nothing came for it.
        open.is_gap = open.slices.is_empty();
    }

    /// List what is missing before this chunk as GAP (RFC 8216bis §4.4.4.7, §6.2.1).
    fn fill_gap(&mut self, head: &ChunkHead, shape: &Shape, now_ms: Millis) {
        let Some(mut expected) = self.next_time else { return };
        if self.to_us(head.time) - self.to_us(expected) <= self.late_us_max(head) {
            return;
        }
        self.repairs.push(Repair::Gap);
        let segment_ticks = self.to_ticks(shape.segment_us).max(1);
        while expected < head.time {
            if self.open_segment().is_none() {
                let missing = ChunkHead {
                    time: expected,
                    duration: 0,
                    starts_sync: false,
                    tables: Bytes::new(),
                    ..head.clone()
                };
                self.begin_segment(&missing, shape, now_ms);
            }
            let begun = self.open_segment().map_or(expected, |open| open.time);
            let until = head.time.min((begun + segment_ticks).max(expected + 1));
            self.add_gap_parts(until - expected);
            expected = until;
            if expected - begun >= segment_ticks {
                self.complete_segment(now_ms);
            }
        }
    }

    fn add_gap_parts(&mut self, mut missing: u64) {
        self.close_part();
        let target = self.part_target;
        let Some(open) = self.open_segment_mut() else { return };
        let at = if open.slices.is_empty() { 0 } else { open.bytes() };
        open.duration += missing;
        while missing > 0 && target > 0 && !open.is_partless {
            let duration = missing.min(target);
            let part = Part { start: at, end: at, duration, is_independent: false, is_gap: true };
            open.parts.push(part);
            missing -= duration;
        }
    }

    /// The lead track's rhythm held, or did not, in the last complete segments.
    pub(super) fn judge_rhythm(&mut self, shape: &Shape) {
        let recent = self.segments.iter().rev().filter(|segment| segment.is_complete).take(2);
        let mut recent = recent.peekable();
        let holds = |segment: &Segment| {
            let is_in_rhythm = (segment.duration_us() - shape.segment_us).abs() <= TOLERANCE_US;
            segment.starts_sync && is_in_rhythm
        };
        if recent.peek().is_some() && self.kind.is_visual() {
            self.is_regular = recent.all(holds);
        }
    }

    /// The publications that are listed.
    pub(super) fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// `None` before the first segment.
    pub(super) fn next_part(&self) -> Option<NextPart> {
        let publication = self.publication.as_ref()?;
        let msn = self.open_msn();
        if let Some(epoch) = self.next_epoch.clone() {
            // What is in progress ends before it, unless nothing has come of that.
            let is_empty = self.open_segment().is_some_and(Segment::is_empty);
            let msn = if is_empty { msn } else { self.next_msn };
            return Some(NextPart { epoch, msn, part: 0, byte_start: 0 });
        }
        let open = self.open_segment();
        Some(NextPart {
            epoch: open.map_or(&publication.epoch, |open| &open.publication.epoch).clone(),
            msn,
            part: open.map_or(0, |open| open.parts.len() as u64),
            byte_start: open.and_then(|open| open.parts.last()).map_or(0, |last| last.end),
        })
    }

    /// The first byte of `object` that is still needed.
    pub(super) fn first_byte_of(&self, object: &Arc<Object>) -> Option<u64> {
        let slices = self.segments.iter().flat_map(|segment| &segment.slices);
        slices.filter(|slice| Arc::ptr_eq(&slice.object, object)).map(|slice| slice.start).next()
    }

    /// The end of an upload that was torn: what it has brought of a segment in progress is given up, if
    /// nothing else is in there and no part of it was announced.
    pub(super) fn drop_stub(&mut self, torn: &Arc<Object>) {
        let is_its = |slice: &Slice| Arc::ptr_eq(&slice.object, torn);
        let is_stub = |open: &mut Segment| {
            !open.is_complete && open.parts.is_empty() && open.slices.iter().all(is_its)
        };
        let Some(stub) = self.segments.pop_back_if(is_stub) else { return };
        self.part = None;
        self.next_msn = stub.msn;
        self.next_time = None;
        self.must_break |= stub.is_discontinuity;
        let run = stub.publication.run;
        if self.segments.back().is_none_or(|last| last.publication.run != run) {
            self.origins.retain(|origin| origin.publication.run != run);
        }
    }

    /// Forget segments from the front, listed or not, while there are too many, too many bytes, or
    /// their bytes are gone.
    fn expire_excess(&mut self, keep: &Keep, now_ms: Millis) -> Vec<Arc<Object>> {
        let mut bytes: u64 = self.segments.iter().map(Segment::bytes).sum();
        let mut gone = Vec::new();
        while let Some(first) = self.segments.front()
            && first.is_complete
            && (bytes > keep.bytes_max
                || self.segments.len() > keep.segments_max
                || first.is_lost())
            && let Some(mut first) = self.segments.pop_front()
        {
            bytes -= first.bytes();
            if first.unlisted_ms.replace(now_ms).is_none() {
                self.discontinuity_sequence += u64::from(first.is_discontinuity);
            }
            gone.extend(first.slices.into_iter().map(|slice| slice.object));
        }
        gone
    }

    /// Take segments off the playlist that lie before the window, and forget those whose time after
    /// that is over: counted from when they were first listed, a segment and the longest playlist
    /// that had it (RFC 8216bis §6.2.2), however fast an encoder sends. Returns the objects that only
    /// those had.
    pub(super) fn expire(&mut self, keep: &Keep, now_ms: Millis) -> Vec<Arc<Object>> {
        let Keep { window_us, keep_ms, .. } = *keep;
        let mut gone = self.expire_excess(keep, now_ms);
        let mut listed_us: Micros = self.listed().map(Segment::listed_us).sum();
        let (mut count, mut breaks) = (self.listed().count(), 0);
        for segment in self.segments.iter_mut().filter(|segment| segment.unlisted_ms.is_none()) {
            let lasted_us = segment.duration_us();
            if !segment.is_complete || count <= 1 || listed_us - lasted_us < window_us {
                break;
            }
            listed_us -= lasted_us;
            count -= 1;
            segment.unlisted_ms = Some(now_ms);
            breaks += u64::from(segment.is_discontinuity);
        }
        self.discontinuity_sequence += breaks;
        let first_run = self.listed().next().map(|first| first.publication.run);
        if let Some(run) = first_run {
            self.origins.retain(|origin| origin.publication.run >= run);
        }
        while let Some(first) = self.segments.front()
            && first.unlisted_ms.is_some_and(|at| {
                let needed_ms = at.max(first.shown_until_ms(window_us));
                now_ms > needed_ms.saturating_add(keep_ms)
            })
            && let Some(first) = self.segments.pop_front()
        {
            gone.extend(first.slices.into_iter().map(|slice| slice.object));
        }
        gone.retain(|object| self.first_byte_of(object).is_none());
        gone.dedup_by(|a, b| Arc::ptr_eq(a, b));
        gone
    }
}
