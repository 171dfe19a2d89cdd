//! What one upload brings to a publishing point: its bytes are recognised by content, and their
//! boundaries become chunks of tracks.
//!
//! | form | left when |
//! |---|---|
//! | Unknown | box heads or packets are recognised, or neither can be |
//! | Fmp4, Ts, List, Plain | the upload ends: `end`, or dropped when it was torn |

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Refusal;
use super::events;
use super::naming::{Key, MAIN};
use super::point::{Fmp4Init, Over, Pending, Point, TrackInfo};
use super::track::{Chunk, ChunkHead, InitSegment, Kind, Micros};
use crate::store::{Life, MarkKind, Object, Writer};
use crate::wire::fmp4::{self, CmafChunk, FragmentScanner, Handler, Init, TrackFragment};
use crate::wire::mpegts::{
    self, CLOCK_HZ, CLOCK_WRAP, Program, StreamKind, TsScanner, unwrap_clock,
};

/// A longer preamble is not one.
const PREAMBLE_BYTES_MAX: u64 = 256 << 10;
/// A later decode time would overflow before long.
const DECODE_TIME_MAX: u64 = 1 << 62;
/// Pushed playlists and MPDs are read up to this; longer ones are served all the same.
const LIST_BYTES_MAX: usize = 1 << 20;
/// A transport stream goes on in the next upload if its clock differs by less from what is expected.
const SAME_CLOCK_TICKS: u64 = 10 * CLOCK_HZ;
/// What ends in these must be what it says (DASH-IF ingest: 415).
const MEDIA_EXTENSIONS: [&str; 8] = ["mp4", "m4s", "m4v", "m4a", "cmfv", "cmfa", "cmft", "ts"];

/// What looks at the bytes of one upload. Dropped without `end`, the upload was torn.
pub struct Feed {
    target: Target,
    form: Form,
}

/// Where the chunks of an upload go.
struct Target {
    point: Arc<Point>,
    /// The path below the publishing point.
    rest: String,
    key: Key,
    /// The name says nothing that the publishing point's does not.
    is_generic: bool,
    core: Option<usize>,
    /// What the bytes are appended to, once there are any.
    object: Option<Arc<Object>>,
    /// How often the publishing point had forgotten segments when it was looked at.
    trims_seen: u64,
    /// It is counted among those that may still bring an init segment.
    is_unknown: bool,
    has_begun: bool,
    /// Its times are those of arrival.
    is_timed_by_arrival: bool,
    /// It ended in order, or was refused: either has been said.
    is_over: bool,
}

enum Form {
    Unknown(Box<(FragmentScanner, Fmp4)>, Box<(TsScanner, Ts)>),
    Fmp4(Box<(FragmentScanner, Fmp4)>),
    Ts(Box<(TsScanner, Ts)>),
    /// A playlist or an MPD: its text so far.
    List(Vec<u8>),
    Plain,
}

impl Feed {
    /// The publishing point has counted it already (`begin_feed`).
    pub(super) fn new(point: Arc<Point>, rest: &str, key: Key, is_single: bool) -> Feed {
        let own_name = point.name.rsplit('/').next().unwrap_or_default();
        let is_generic = is_single || key.track.is_empty() || key.track == own_name;
        let is_list = rest.ends_with(".m3u8") || rest.ends_with(".mpd");
        let form = if is_list {
            Form::List(Vec::new())
        } else {
            let source = point.source(&key);
            let scanner = source.map_or_else(FragmentScanner::new, |source| {
                FragmentScanner::with_init(source.init)
            });
            Form::Unknown(
                Box::new((scanner, Fmp4::default())),
                Box::new((TsScanner::new(), Ts::default())),
            )
        };
        point.count_unknown(!is_list, true);
        let rest = rest.to_owned();
        let target = Target {
            point,
            rest,
            key,
            is_generic,
            core: None,
            object: None,
            trims_seen: 0,
            is_unknown: !is_list,
            has_begun: false,
            is_timed_by_arrival: false,
            is_over: false,
        };
        Feed { target, form }
    }

    /// Nobody told when its pictures were taken: they lie a little nearer together or further apart.
    pub fn timed_by_arrival(mut self) -> Feed {
        self.target.is_timed_by_arrival = true;
        self
    }

    /// Bytes that were just appended by `writer`. An error ends the upload with that status.
    pub fn note(&mut self, bytes: &[u8], writer: &mut Writer) -> Result<(), Refusal> {
        let outcome = self.look(bytes, writer);
        outcome.inspect_err(|refusal| self.target.note_refusal(refusal))
    }

    fn look(&mut self, bytes: &[u8], writer: &mut Writer) -> Result<(), Refusal> {
        let target = &mut self.target;
        target.core = writer.core();
        if !std::mem::replace(&mut target.has_begun, true) {
            target.object = Some(writer.object().clone());
            target.point.object_begins(target.core);
        }
        let mut outcome = Ok(());
        match &mut self.form {
            Form::Plain => {}
            Form::List(text) => {
                let room = LIST_BYTES_MAX.saturating_sub(text.len());
                text.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Form::Fmp4(fmp4) => outcome = push_fmp4(fmp4, bytes, target, writer),
            Form::Ts(ts) => outcome = push_ts(ts, bytes, target, writer),
            Form::Unknown(fmp4, ts) => {
                outcome = push_fmp4(fmp4, bytes, target, writer);
                if outcome.is_ok() && !fmp4.1.is_recognised {
                    outcome = push_ts(ts, bytes, target, writer);
                }
                self.settle();
            }
        }
        outcome?;
        if matches!(self.form, Form::Plain) && self.claims_media() {
            return Err(not_media(&self.target.rest));
        }
        let seen = &mut self.target.trims_seen;
        if let Some(keep_from) = self.target.point.first_byte_of(writer.object(), seen) {
            writer.trim(keep_from);
        }
        Ok(())
    }

    /// Which form it is, if that can be said now.
    fn settle(&mut self) {
        self.form = match std::mem::replace(&mut self.form, Form::Plain) {
            Form::Unknown(fmp4, _) if fmp4.1.is_recognised => Form::Fmp4(fmp4),
            Form::Unknown(_, ts) if ts.1.is_recognised => Form::Ts(ts),
            Form::Unknown(fmp4, ts) if fmp4.0.is_stopped() && ts.0.is_stopped() => Form::Plain,
            unchanged => unchanged,
        };
        if !matches!(self.form, Form::Unknown(..)) {
            self.target.is_known();
        }
    }

    /// It says that it is media, and is not what it says.
    fn claims_media(&self) -> bool {
        let extension = self.target.rest.trim_end_matches(')').rsplit_once('.').map(|(_, e)| e);
        extension
            .is_some_and(|e| MEDIA_EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(e)))
    }

    /// All bytes have come. What claims to be media and was not recognised in all of them is refused.
    pub fn check(&mut self) -> Result<(), Refusal> {
        let is_unknown = matches!(self.form, Form::Unknown(..)) && self.target.has_begun;
        if !is_unknown || !self.claims_media() {
            return Ok(());
        }
        let refusal = not_media(&self.target.rest);
        self.target.note_refusal(&refusal);
        Err(refusal)
    }

    /// The upload was sealed: an orderly end.
    pub fn end(mut self, object: &Arc<Object>, core: usize) {
        self.target.core = Some(core);
        self.target.is_over = true;
        match std::mem::replace(&mut self.form, Form::Plain) {
            Form::Fmp4(fmp4) => fmp4.1.end(&self.target, object),
            Form::Ts(ts) => ts.1.end(object.tail(), &mut self.target, object),
            Form::List(text) => self.target.point.take_list(&self.target.rest, &text, Some(core)),
            Form::Unknown(..) | Form::Plain => {}
        }
        self.target.point.object_begins(Some(core));
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.target.is_known();
        self.target.note_torn();
        let torn: Vec<usize> = match &self.form {
            Form::Fmp4(fmp4) => fmp4.1.tracks.iter().map(|(_, index)| *index).collect(),
            Form::Ts(ts) => ts.1.track.into_iter().collect(),
            _ => Vec::new(),
        };
        for index in torn {
            let object = self.target.object.as_ref();
            self.target.point.over(index, Over::Torn, object, self.target.core);
        }
        self.target.point.end_feed();
    }
}

impl Target {
    fn is_known(&mut self) {
        self.point.count_unknown(std::mem::take(&mut self.is_unknown), false);
    }

    fn note_refusal(&mut self, refusal: &Refusal) {
        let counts = &self.point.counts;
        // Two encoders are no fault of what the one sends that has to go.
        let count = if refusal.status == 409 { &counts.takeovers } else { &counts.refused };
        count.fetch_add(1, Ordering::Relaxed);
        self.is_over = true;
        let (point, object, status) = (&*self.point.name, &*self.rest, refusal.status);
        tracing::warn!(point, object, status, reason = refusal.text, "an upload was refused");
    }

    /// Nobody said what became of it.
    fn note_torn(&self) {
        if self.is_over || !self.has_begun {
            return;
        }
        let (point, object) = (&*self.point.name, &*self.rest);
        let life = self.object.as_ref().map(|object| object.life());
        if life == Some(Life::TakenOver) {
            self.point.counts.takeovers.fetch_add(1, Ordering::Relaxed);
            tracing::info!(point, object, "an upload was ended by another of the same name");
        } else {
            tracing::info!(point, object, "an upload broke off");
        }
    }

    fn arrived_us(&self) -> Micros {
        self.point.now_ms() as Micros * 1000
    }

    /// The name of the only track, or of one of several.
    fn track_name(&self, kind: &str, is_only: bool) -> String {
        match (self.is_generic, is_only) {
            (true, _) => kind.to_owned(),
            (false, true) => self.key.track.clone(),
            (false, false) => format!("{}-{kind}", self.key.track),
        }
    }

    fn too_many_tracks(&self) -> Refusal {
        refusal(
            400,
            format!(
                "the publishing point {} has as many tracks as it may: push to another",
                self.point.name
            ),
        )
    }
}

/// Saturates far below what sums of some of them could overflow.
fn to_us(ticks: u64, timescale: u32) -> Micros {
    let us = u128::from(ticks) * 1_000_000 / u128::from(timescale.max(1));
    Micros::try_from(us).unwrap_or(Micros::MAX).min(1 << 60)
}

fn refusal(status: u16, text: impl Into<String>) -> Refusal {
    Refusal { status, text: text.into(), max_age_s: None }
}

fn not_media(rest: &str) -> Refusal {
    refusal(
        415,
        format!(
            "{rest} is neither fragmented MP4 nor MPEG-TS: send CMAF (ffmpeg: -movflags cmaf) or MPEG-TS, \
             or another file extension"
        ),
    )
}

/// A push of fragmented MP4.
#[derive(Default)]
struct Fmp4 {
    is_recognised: bool,
    /// The object brought its own init segment.
    own: Option<(Fmp4Init, Bytes)>,
    /// Track ID of the init segment, index of the track.
    tracks: Vec<(u32, usize)>,
    is_muxed: bool,
    /// The chunk that is arriving, and its track.
    arriving: Option<(usize, ChunkHead)>,
    /// Its mdat has begun.
    has_mdat: bool,
    /// The chunk before was complete.
    has_ended: bool,
    /// Tracks that have had a chunk of this object.
    begun: Vec<usize>,
    /// The brand `lmsg`: the track ends with this object.
    is_last: bool,
    /// An mfra says the same, except of small files that all have one.
    has_mfra: bool,
    media_us: Micros,
    /// Chunks before the one that arrives, and the frame rate that was made of them.
    chunks: u32,
    mean_rate: f64,
}

fn push_fmp4(
    fmp4: &mut (FragmentScanner, Fmp4),
    bytes: &[u8],
    target: &mut Target,
    writer: &mut Writer,
) -> Result<(), Refusal> {
    let (scanner, state) = fmp4;
    let mut outcome = Ok(());
    scanner.push(bytes, &mut |found| {
        if outcome.is_ok() {
            outcome = state.take(found, target, writer);
        }
    });
    outcome
}

impl Fmp4 {
    fn take(
        &mut self,
        found: fmp4::Found<'_>,
        target: &mut Target,
        writer: &mut Writer,
    ) -> Result<(), Refusal> {
        use fmp4::Found::{Chunk, ChunkEnd, ChunkExtent, Init, Lost, MovieEnd, NotFmp4};
        match found {
            Init { start, end, init } => self.begin(init, (start, end), target, writer),
            Chunk { start, chunk } => self.chunk(start, chunk, target, writer),
            ChunkExtent { end } => {
                self.has_mdat = true;
                if let Some((index, head)) = &self.arriving {
                    target.point.extends_to(*index, head, end, target.core);
                } else if self.has_ended {
                    // The chunk is listed already, and somebody may have it.
                    let text = "a fragment has two mdat boxes: CMAF wants one behind each moof";
                    return Err(refusal(400, text));
                }
                Ok(())
            }
            ChunkEnd { end } => {
                if let Some((index, head)) = self.arriving.take() {
                    if !self.has_mdat {
                        let text = "a moof has no mdat: CMAF wants one behind each moof";
                        return Err(refusal(400, text));
                    }
                    self.has_ended = true;
                    let whole = super::track::Chunk { head, end };
                    target.point.ends(index, whole, target.core);
                }
                Ok(())
            }
            MovieEnd { .. } => {
                // Alone it is an upload of its own.
                self.is_recognised = true;
                self.has_mfra = true;
                Ok(())
            }
            NotFmp4 => Ok(()),
            Lost { why } => Err(refusal(
                400,
                format!(
                    "the fragmented MP4 makes no sense here: {why}; begin again with ftyp and \
                         moov, then whole fragments"
                ),
            )),
        }
    }

    fn begin(
        &mut self,
        init: &Arc<Init>,
        (start, end): (u64, u64),
        target: &mut Target,
        writer: &mut Writer,
    ) -> Result<(), Refusal> {
        self.is_recognised = true;
        target.is_known();
        if end - start > PREAMBLE_BYTES_MAX {
            let text =
                "the init segment is longer than 256 KiB: leave out what players do not need";
            return Err(refusal(400, text));
        }
        writer.set_preamble_from(start, end);
        let bytes = writer.object().preamble().unwrap_or_default();
        if !target.point.add_source(&target.key, init.clone(), bytes.clone(), writer.object()) {
            return Err(target.too_many_tracks());
        }
        self.own = Some((init.clone(), bytes));
        self.tracks.clear();
        Ok(())
    }

    fn chunk(
        &mut self,
        start: u64,
        chunk: &CmafChunk,
        target: &mut Target,
        writer: &mut Writer,
    ) -> Result<(), Refusal> {
        self.is_recognised = true;
        target.is_known();
        let kind = if chunk.random_access { MarkKind::RandomAccess } else { MarkKind::Boundary };
        writer.mark(start, kind);
        (self.arriving, self.has_mdat, self.has_ended) = (None, false, false);
        self.is_last |= chunk.brands.lmsg;
        if self.tracks.is_empty() {
            let Some(()) = self.bind(chunk, target)? else { return Ok(()) };
        }
        if chunk.damaged {
            let text =
                "a moof makes no sense: a box in it is damaged, or tells of more than it has";
            return Err(refusal(400, format!("{text}; send it whole")));
        }
        let Some(traf) = (if self.is_muxed { chunk.lead() } else { chunk.fragment.tracks.first() })
        else {
            return Ok(());
        };
        let bound = self.tracks.iter().find(|(id, _)| self.is_muxed || *id == traf.track_id);
        let Some(&(_, index)) = bound else { return self.unbound(traf.track_id, target) };
        let head = self.head(start, chunk, traf, index, target, writer)?;
        let timescale = self.timescale_of(traf.track_id, target);
        let time_us = to_us(head.time, timescale);
        if target.is_timed_by_arrival && head.starts_sync && self.chunks > 0 {
            self.note_rate(index, target);
        }
        self.media_us = self.media_us.saturating_add(to_us(head.duration, timescale));
        self.chunks = self.chunks.saturating_add(1);
        if !self.begun.contains(&index) {
            self.begun.push(index);
            let rate = f64::from(timescale) / f64::from(traf.sample_duration.max(1));
            let is_visual = self.is_muxed || target.point.is_visual(index);
            target.point.update_info(index, |info| {
                info.frame_rate = is_visual.then_some(rate).filter(|rate| *rate < 1000.0);
            });
        }
        self.arriving = Some((index, head.clone()));
        target.point.starts(index, head, target.core)?;
        for event in &chunk.events {
            if let Some((at_us, event)) = events::of_message(event, time_us) {
                target.point.add_event(index, at_us, event);
            }
        }
        Ok(())
    }

    /// One picture says little of the rate of those that are timed by their arrival; all so far do.
    fn note_rate(&mut self, index: usize, target: &Target) {
        let rate = f64::from(self.chunks) * 1e6 / self.media_us.max(1) as f64;
        if (rate - self.mean_rate).abs() > rate / 100.0 {
            self.mean_rate = rate;
            target.point.update_info(index, |info| info.frame_rate = Some(rate));
        }
    }

    /// A fragment of a track that is not listed: of a kind that players do not know, or of none.
    fn unbound(&self, track_id: u32, target: &Target) -> Result<(), Refusal> {
        if self.of_init(target, |init| init.track(track_id).map(drop)).is_some() {
            return Ok(());
        }
        Err(refusal(
            400,
            format!(
                "a fragment is of track {track_id}, which the init segment does not have: send the \
                 init segment that belongs to it first"
            ),
        ))
    }

    fn timescale_of(&self, track_id: u32, target: &Target) -> u32 {
        let timescale = |init: &Fmp4Init| init.track(track_id).map(|track| track.timescale);
        self.of_init(target, timescale).unwrap_or(1)
    }

    /// What the init segment of the upload says, or that which came before it.
    fn of_init<T>(&self, target: &Target, of: impl Fn(&Fmp4Init) -> Option<T>) -> Option<T> {
        let own = self.own.as_ref().and_then(|(init, _)| of(init));
        own.or_else(|| target.point.source(&target.key).and_then(|source| of(&source.init)))
    }

    fn head(
        &self,
        start: u64,
        chunk: &CmafChunk,
        traf: &TrackFragment,
        index: usize,
        target: &Target,
        writer: &Writer,
    ) -> Result<ChunkHead, Refusal> {
        let Some(time) = traf.decode_time.filter(|time| time.value <= DECODE_TIME_MAX) else {
            let text = "a fragment has no decode time (tfdt) that makes sense: CMAF requires it";
            return Err(refusal(400, text));
        };
        let timescale = self.timescale_of(traf.track_id, target);
        let of_track =
            chunk.producer_time.filter(|time| self.is_muxed || time.track_id == traf.track_id);
        let zero_us = of_track
            .map(|producer| producer.ntp_ms_unix * 1000 - to_us(producer.media_time, timescale));
        Ok(ChunkHead {
            object: writer.object().clone(),
            start,
            time: time.value,
            duration: traf.duration.max(1),
            is_independent: traf.has_sync,
            starts_sync: traf.starts_with_sync,
            starts_object: !self.begun.contains(&index),
            has_init: self.own.is_some(),
            is_timed_by_arrival: target.is_timed_by_arrival,
            tables: Bytes::new(),
            arrived_us: target.arrived_us(),
            zero_us,
        })
    }

    /// Find or make the tracks of this upload, by its first chunk: with one traf in each moof they can
    /// be told apart, otherwise they stay together. `None`: the chunk cannot be used.
    fn bind(&mut self, chunk: &CmafChunk, target: &Target) -> Result<Option<()>, Refusal> {
        let Some(source) = self.source(chunk, target)? else { return Ok(None) };
        let of_media = |track: &&fmp4::Track| track.handler != Handler::Other;
        let media: Vec<_> = source.init.tracks.iter().filter(of_media).collect();
        self.is_muxed = chunk.fragment.tracks.len() > 1 && media.len() > 1;
        if let Some(tracks) = source.tracks {
            self.tracks = tracks;
            return Ok(Some(()));
        }
        if media.is_empty() {
            let text =
                "the init segment has no video, audio or text track: there is nothing to list";
            return Err(refusal(415, text));
        }
        if self.is_muxed {
            self.tracks = vec![(0, bind_muxed(&media, &source.bytes, target)?)];
        } else {
            for (place, track) in media.iter().enumerate() {
                let kind = kind_of(track.handler);
                let earlier = media[..place].iter().filter(|other| other.handler == track.handler);
                let name = match earlier.count() {
                    0 => kind_name(kind).to_owned(),
                    count => format!("{}{}", kind_name(kind), count + 1),
                };
                let name = target.track_name(&name, media.len() == 1);
                let bytes = if source.init.tracks.len() == 1 {
                    source.bytes.clone()
                } else {
                    Init::single_track(&source.bytes, track.track_id).unwrap_or_default().into()
                };
                let init = Some(begin_init(&name, bytes, target));
                let timescale = u64::from(track.timescale);
                let bound =
                    target.point.track(&name, &target.key, kind, timescale, info_of(track), init);
                self.tracks.push((track.track_id, bound.ok_or_else(|| target.too_many_tracks())?));
            }
        }
        target.point.bind_source(&target.key, self.tracks.clone());
        Ok(Some(()))
    }

    fn source(&self, chunk: &CmafChunk, target: &Target) -> Result<Option<Pending>, Refusal> {
        let source = target.point.source(&target.key);
        if chunk.resolved && source.is_some() {
            return Ok(source);
        }
        if target.point.may_learn_init() {
            // Another packager's upload, whose init segment is on its way: a plain object.
            return Ok(None);
        }
        Err(refusal(
            412,
            format!(
                "no init segment came before the media of {}: send ftyp and moov first, in the same \
                 request or in one of its own",
                target.rest
            ),
        ))
    }

    fn end(mut self, target: &Target, object: &Arc<Object>) {
        let is_one_of_many = self.own.is_some() && self.is_short_of_numbers(target);
        let is_segment = self.own.is_none() || is_one_of_many;
        let is_last = self.is_last || self.has_mfra && !is_one_of_many;
        let over = if is_last || !is_segment { Over::Stream } else { Over::Segment };
        if self.begun.is_empty() && self.has_mfra && self.own.is_none() {
            // Nothing but the end of what came before.
            let source = target.point.source(&target.key);
            for (_, index) in source.and_then(|source| source.tracks).unwrap_or_default() {
                target.point.over(index, over, None, target.core);
            }
        }
        for index in std::mem::take(&mut self.begun) {
            target.point.over(index, over, Some(object), target.core);
        }
        self.tracks.clear();
    }

    /// `part-17.mp4` of a few seconds is one of many, even with an init segment of its own.
    fn is_short_of_numbers(&self, target: &Target) -> bool {
        let limit_us = target.point.rule.segment_ms as Micros * 1000 * 3;
        target.key.is_numbered && self.media_us < limit_us
    }
}

fn bind_muxed(media: &[&fmp4::Track], bytes: &Bytes, target: &Target) -> Result<usize, Refusal> {
    let video = media.iter().find(|track| track.handler == Handler::Video);
    let lead = video.unwrap_or(&media[0]);
    let kind = if video.is_some() { Kind::Muxed } else { Kind::Audio };
    let mut info = info_of(lead);
    info.codecs = media.iter().map(|track| track.codec.clone()).collect();
    let name = target.track_name(MAIN, true);
    let timescale = u64::from(lead.timescale);
    let init = Some(begin_init(&name, bytes.clone(), target));
    let bound = target.point.track(&name, &target.key, kind, timescale, info, init);
    bound.ok_or_else(|| target.too_many_tracks())
}

/// The init segment that a track has from now on; who still sends with another one has to go.
fn begin_init(name: &str, bytes: Bytes, target: &Target) -> Arc<InitSegment> {
    let digest = xxhash_rust::xxh3::xxh3_64(&bytes);
    if let Some(object) = &target.object {
        target.point.takes_over(name, &target.key, digest, object);
    }
    Arc::new(InitSegment { bytes, digest })
}

fn kind_of(handler: Handler) -> Kind {
    match handler {
        Handler::Video => Kind::Video,
        Handler::Audio => Kind::Audio,
        Handler::Text | Handler::Other => Kind::Text,
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Video => "video",
        Kind::Audio => "audio",
        Kind::Text => "subtitles",
        Kind::Muxed => MAIN,
    }
}

fn info_of(track: &fmp4::Track) -> TrackInfo {
    TrackInfo {
        codecs: vec![track.codec.clone()],
        width: track.width,
        height: track.height,
        channels: u32::from(track.channels),
        sample_rate: track.sample_rate,
        language: track.language.clone(),
        ..TrackInfo::default()
    }
}

/// A push of MPEG-TS: one track, whose chunks are the units of its leading stream with all that lies
/// between them.
#[derive(Default)]
struct Ts {
    is_recognised: bool,
    track: Option<usize>,
    program: Option<Arc<Program>>,
    /// The unit that has begun and not ended.
    unit: Option<Unit>,
    has_begun: bool,
    /// Of the last complete unit: what the last one of all is taken to last.
    duration: u64,
    media_ticks: u64,
    /// Added to the times of this upload, once it is known: the 33 bits of the clock have come round
    /// so often since the track began.
    turns: Option<u64>,
    /// Where the tables of other streams begin, and whether a PAT and a PMT stand there: so does the
    /// next unit.
    resumes_at: Option<(u64, bool)>,
    /// A place to start decoding was among the newest bytes.
    begins: bool,
}

struct Unit {
    offset: u64,
    dts: u64,
    is_random_access: bool,
    tables: Bytes,
}

fn push_ts(
    ts: &mut (TsScanner, Ts),
    bytes: &[u8],
    target: &mut Target,
    writer: &mut Writer,
) -> Result<(), Refusal> {
    let (scanner, state) = ts;
    let mut outcome = Ok(());
    scanner.push(bytes, &mut |found| {
        if outcome.is_ok() {
            outcome = state.take(found, target, writer);
        }
    });
    if std::mem::take(&mut state.begins) {
        // Their counters go on in those that follow.
        writer.set_preamble(scanner.latest_tables());
    }
    outcome
}

impl Ts {
    fn take(
        &mut self,
        found: mpegts::Found,
        target: &mut Target,
        writer: &mut Writer,
    ) -> Result<(), Refusal> {
        use mpegts::Found::{Fault, NotTs, Program, Splice, Streams, Unit, Untimed};
        match found {
            NotTs | Untimed { .. } => {}
            Program { offset, has_tables, program } => {
                self.is_recognised = true;
                target.is_known();
                let is_other = |old: &Arc<mpegts::Program>| old.layout() != program.layout();
                if self.program.as_ref().is_some_and(is_other) {
                    self.close_unit(offset, None, target, &writer.object().clone())?;
                    self.resumes_at = Some((offset, has_tables));
                    if let Some(index) = self.track {
                        let (kind, layout) = (kind_of_program(&program), program.layout());
                        target.point.set_layout(index, kind, layout, target.core);
                    }
                }
                writer.set_preamble(program.tables.clone());
                self.program = Some(program);
            }
            Streams(program) => {
                let info = info_of_program(&program);
                self.program = Some(program);
                if let Some(index) = self.track {
                    target.point.update_info(index, |known| *known = info);
                }
            }
            Unit { offset, packet_offset, dts, random_access, has_tables, .. } => {
                let kind = if random_access { MarkKind::RandomAccess } else { MarkKind::Boundary };
                writer.mark(packet_offset, kind);
                self.begins |= random_access;
                let (offset, has_tables) = self.resumes_at.take().unwrap_or((offset, has_tables));
                let tables = self.program.as_ref().filter(|_| !has_tables);
                let tables = tables.map(|program| program.tables.clone()).unwrap_or_default();
                let object = writer.object().clone();
                self.close_unit(offset, Some(dts), target, &object)?;
                self.unit =
                    Some(self::Unit { offset, dts, is_random_access: random_access, tables });
            }
            Fault { offset, fault } => {
                target.point.note_ts_fault();
                tracing::debug!(object = %writer.object().name, offset, ?fault, "a transport stream is damaged");
            }
            Splice { section, pts } => {
                if let Some(index) = self.track {
                    let pts = pts.saturating_add(self.turns.unwrap_or(0));
                    let us = (pts as Micros).saturating_mul(1_000_000) / CLOCK_HZ as Micros;
                    if let Some((at_us, event)) = events::of_section(&section, us) {
                        target.point.add_event(index, at_us, event);
                    }
                }
            }
        }
        Ok(())
    }

    /// The unit ends where the next begins, or with the object.
    fn close_unit(
        &mut self,
        end: u64,
        next_dts: Option<u64>,
        target: &Target,
        object: &Arc<Object>,
    ) -> Result<(), Refusal> {
        let Some(unit) = self.unit.take() else { return Ok(()) };
        let lasted = next_dts.and_then(|next| next.checked_sub(unit.dts));
        // Far apart, or backwards: the clock jumped, and the unit lasts as long as its predecessor.
        let usual = |ticks: &u64| (1..=CLOCK_HZ * 2).contains(ticks);
        let duration = lasted.filter(usual).unwrap_or(self.duration.max(1));
        self.duration = duration;
        self.media_ticks += duration;
        let Some(index) = self.track_of(target)? else { return Ok(()) };
        let starts_object = !std::mem::replace(&mut self.has_begun, true);
        let turns = *self.turns.get_or_insert_with(|| turns_of(target, index, unit.dts));
        let head = ChunkHead {
            object: object.clone(),
            start: unit.offset,
            time: unit.dts.saturating_add(turns),
            duration,
            is_independent: unit.is_random_access,
            starts_sync: unit.is_random_access,
            starts_object,
            has_init: !target.key.is_numbered,
            is_timed_by_arrival: target.is_timed_by_arrival,
            tables: unit.tables,
            arrived_us: target.arrived_us(),
            zero_us: None,
        };
        target.point.starts(index, head.clone(), target.core)?;
        target.point.ends(index, Chunk { head, end }, target.core);
        Ok(())
    }

    fn track_of(&mut self, target: &Target) -> Result<Option<usize>, Refusal> {
        if self.track.is_some() {
            return Ok(self.track);
        }
        let Some(program) = &self.program else { return Ok(None) };
        let kind = kind_of_program(program);
        let name = target.track_name(kind_name(kind), true);
        let info = info_of_program(program);
        let index = target.point.track(&name, &target.key, kind, CLOCK_HZ, info, None);
        let index = index.ok_or_else(|| target.too_many_tracks())?;
        target.point.set_layout(index, kind, program.layout(), target.core);
        self.track = Some(index);
        Ok(self.track)
    }

    fn end(mut self, tail: u64, target: &mut Target, object: &Arc<Object>) {
        // The last unit has no successor; a refusal of it has nobody to be told to.
        let _ = self.close_unit(tail, None, target, object);
        let limit_ticks = target.point.rule.segment_ms * 3 * CLOCK_HZ / 1000;
        let is_segment = target.key.is_numbered && self.media_ticks < limit_ticks;
        let over = if is_segment { Over::Segment } else { Over::Stream };
        if let Some(index) = self.track.take() {
            target.point.over(index, over, Some(object), target.core);
        }
    }
}

/// A transport stream begins to count again every 26.5 hours; an upload that begins after that
/// follows the one before all the same.
fn turns_of(target: &Target, index: usize, dts: u64) -> u64 {
    let Some(expected) = target.point.expected_time(index) else { return 0 };
    let time = unwrap_clock(expected, dts % CLOCK_WRAP);
    let turns = time.checked_sub(dts).filter(|turns| turns.is_multiple_of(CLOCK_WRAP));
    turns.filter(|_| time.abs_diff(expected) < SAME_CLOCK_TICKS).unwrap_or(0)
}

fn kind_of_program(program: &Program) -> Kind {
    let has = |kind| program.streams.iter().any(|stream| stream.kind == kind);
    match (has(StreamKind::Video), has(StreamKind::Audio)) {
        (true, true) => Kind::Muxed,
        (true, false) => Kind::Video,
        _ => Kind::Audio,
    }
}

fn info_of_program(program: &Program) -> TrackInfo {
    let sound = program.streams.iter().find(|stream| stream.kind == StreamKind::Audio);
    let lead = program.streams.get(program.lead);
    TrackInfo {
        is_ts: true,
        codecs: program.streams.iter().filter_map(|stream| stream.codec.clone()).collect(),
        width: lead.map_or(0, |lead| lead.width),
        height: lead.map_or(0, |lead| lead.height),
        frame_rate: lead.and_then(|lead| lead.frame_rate),
        channels: sound.map_or(0, |sound| sound.channels.into()),
        sample_rate: sound.map_or(0, |sound| sound.sample_rate),
        language: sound.and_then(|sound| sound.language.clone()),
        roles: Vec::new(),
    }
}
