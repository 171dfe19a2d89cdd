//! Finds initialisation segments and CMAF chunks in an endless stream that arrives in arbitrary
//! pieces. It reads box heads, keeps the bytes of a moof, a moov and of small boxes before a moof that
//! are spread over several pieces, and steps over the rest. What it tells does not depend on how the
//! stream was cut. Fed by `packager` with what an upload appends.

use std::sync::Arc;

use super::boxes::{BoxHead, is_prefix_box, may_begin_stream};
use super::fragment::{Fragment, TrackFragment, fill_fragment};
use super::init::{Handler, Init, parse_brands, parse_moov};
use super::prefix::{Brands, EventMessage, ProducerTime};
use super::{EMSG_BYTES_MAX, MOOF_BYTES_MAX};

/// An ftyp, styp or prft with more is stepped over; real ones have less than 100 bytes.
const SMALL_BYTES_MAX: usize = 1024;
/// A box that claims more means that framing was lost.
const BOX_BYTES_MAX: u64 = 1 << 40;
/// Events of one chunk that are told; the others are left out.
const EVENTS_MAX: usize = 64;
/// What a scanner keeps allocated between two boxes; a larger buffer is given back.
const IDLE_BYTES_MAX: usize = 64 * 1024;

/// What a [`FragmentScanner`] tells. Offsets are absolute: counted from the first byte pushed.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'s> {
    /// A moov is complete: the preamble is [start, end), everything up to here for the first, and
    /// from its ftyp for one that comes later (an encoder that started again).
    Init { start: u64, end: u64, init: &'s Arc<Init> },
    /// A moof is complete. `start` is the first box of its chunk: the moof, or a styp, prft, emsg
    /// or sidx before it; so it lies behind what has been pushed.
    Chunk { start: u64, chunk: &'s CmafChunk },
    /// The head of the chunk's mdat was read: the chunk ends at `end`. Not told of an mdat without
    /// a size. Told again if another mdat follows, which then belongs to the chunk too.
    ChunkExtent { end: u64 },
    /// All bytes of the chunk up to `end` have passed: those of its mdat, or, if the next chunk
    /// begins without one, those before that. Told again if another mdat follows.
    ChunkEnd { end: u64 },
    /// An mfra: the orderly end of a track, as CMAF ingest had it before the brand `lmsg`.
    MovieEnd { offset: u64 },
    /// The stream is something else. Told once; nothing is told after it.
    NotFmp4,
    /// The stream was fragmented MP4 up to a box that makes no sense. Told once; nothing is told
    /// after it.
    Lost { why: &'static str },
}

/// A moof with what stood before it: the smallest part of a stream that can be sent on its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CmafChunk {
    /// Trafs that make no sense are left out.
    pub fragment: Fragment,
    /// Something of the moof makes no sense.
    pub damaged: bool,
    /// Of the styp before the moof, if there is one.
    pub brands: Brands,
    /// The first of the chunk.
    pub producer_time: Option<ProducerTime>,
    pub events: Vec<EventMessage>,
    /// The moov was known; without it the defaults of the samples are missing.
    pub resolved: bool,
    /// Of the fragment's tracks, the one that decides where readers join: the first video if the
    /// movie has video and the moof too, else the first.
    pub lead: Option<usize>,
    /// A decoder may start here: the first sample of the leading track is a sync sample. Never so
    /// for a moof without video in a movie that has some.
    pub random_access: bool,
}

impl CmafChunk {
    pub fn lead(&self) -> Option<&TrackFragment> {
        self.fragment.tracks.get(self.lead?)
    }

    /// Reads the payload of a moof, which begins `base` bytes behind the box.
    fn set_moof(&mut self, moof: &[u8], base: usize, init: Option<&Init>) {
        // Only what could be read is told.
        self.damaged = fill_fragment(&mut self.fragment, moof, base, init).is_err();
        self.resolved = init.is_some();
        let has_video = init.is_some_and(Init::has_video);
        let is_video = |traf: &TrackFragment| {
            let track = init.and_then(|init| init.track(traf.track_id));
            track.is_some_and(|track| track.handler == Handler::Video)
        };
        let tracks = &self.fragment.tracks;
        let video = if has_video { tracks.iter().position(is_video) } else { None };
        self.lead = video.or((!tracks.is_empty()).then_some(0));
        let starts_with_sync = self.lead().is_some_and(|lead| lead.starts_with_sync);
        self.random_access = starts_with_sync && (!has_video || video.is_some());
    }

    /// Forgets what stood before the moof; the fragment is overwritten by the next one.
    fn clear(&mut self) {
        self.brands = Brands::default();
        self.producer_time = None;
        self.events.clear();
    }
}

/// | state   | left when |
/// |---------|-----------|
/// | Head    | a box head is complete: `enter_box` |
/// | Skip    | the rest of the box was stepped over: `finish_skip` |
/// | Collect | the box is complete: `finish_box` |
/// | Stopped | never |
#[derive(Debug, Default)]
pub struct FragmentScanner {
    state: State,
    /// Offset of the next byte to be pushed.
    position: u64,
    /// The box being read: its offset, and its head as far as it is there.
    box_start: u64,
    head: [u8; BoxHead::BYTES_MAX],
    head_len: usize,
    /// First prefix box since the last fragment.
    chunk_start: Option<u64>,
    /// The chunk that the next moof completes, with what its prefix boxes said.
    chunk: CmafChunk,
    stage: Stage,
    /// First box after the last fragment that can begin a preamble.
    init_start: Option<u64>,
    /// Of the ftyp that `init_start` is.
    init_brands: Vec<[u8; 4]>,
    init: Option<Arc<Init>>,
    /// A moov with mvex or a moof has passed: this is fragmented MP4.
    recognised: bool,
    /// Payload of the collected box so far; at most `MOOF_BYTES_MAX`.
    body: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Skip {
        left: u64,
    },
    Collect {
        left: usize,
        head: BoxHead,
    },
    Stopped,
}

/// How far the chunk is that was told last.
///
/// | stage   | left when |
/// |---------|-----------|
/// | None    | a moof is complete: `finish_moof` |
/// | Moof    | an mdat begins, or something of the next chunk: `enter_mdat`, `leave_chunk` |
/// | Media   | the mdat has passed: `finish_skip` |
/// | Ended   | another mdat begins, or something of the next chunk |
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    None,
    Moof,
    Media,
    Ended,
}

impl FragmentScanner {
    pub fn new() -> FragmentScanner {
        FragmentScanner::default()
    }

    /// For a segment whose initialisation segment came in another object.
    pub fn with_init(init: Arc<Init>) -> FragmentScanner {
        FragmentScanner { init: Some(init), ..FragmentScanner::default() }
    }

    /// The newest moov, once it has passed, or what the scanner began with.
    pub fn init(&self) -> Option<&Arc<Init>> {
        self.init.as_ref()
    }

    /// Nothing will be told any more: `NotFmp4` or `Lost` has been.
    pub fn is_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    pub fn push(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Found<'_>)) {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Head => self.take_head(bytes, found),
                State::Skip { left } => self.skip(left, bytes, found),
                State::Collect { left, head } => self.collect(left, &head, bytes, found),
                State::Stopped => bytes.len(),
            };
            assert!(taken > 0 && taken <= bytes.len());
            self.position = self.position.saturating_add(taken as u64);
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// A head that lies whole in one piece is read where it is. One that does not is gathered byte
    /// by byte: no more than 16, and never one that belongs to the payload.
    fn take_head(&mut self, bytes: &[u8], found: &mut impl FnMut(Found<'_>)) -> usize {
        if self.head_len == 0 {
            self.box_start = self.position;
            if let Ok(Some(head)) = BoxHead::parse(bytes) {
                self.enter_box(&head, found);
                return head.head_bytes;
            }
        }
        for (index, &byte) in bytes.iter().enumerate() {
            if let Some(slot) = self.head.get_mut(self.head_len) {
                *slot = byte;
                self.head_len += 1;
            }
            match BoxHead::parse(self.head.get(..self.head_len).unwrap_or_default()) {
                Ok(None) => {}
                Ok(Some(head)) => {
                    self.head_len = 0;
                    self.enter_box(&head, found);
                    return index + 1;
                }
                Err(_) => {
                    self.stop("what should be the head of a box is none", found);
                    return bytes.len();
                }
            }
        }
        bytes.len()
    }

    fn enter_box(&mut self, head: &BoxHead, found: &mut impl FnMut(Found<'_>)) {
        if self.box_start == 0 && !may_begin_stream(&head.kind) {
            return self.stop("the stream begins with a foreign box", found);
        }
        if head.total_bytes.is_some_and(|total| total > BOX_BYTES_MAX) {
            return self.stop("a box claims an impossible size", found);
        }
        if starts_anew(&head.kind) {
            self.leave_chunk(found);
        }
        match &head.kind {
            b"ftyp" => {
                self.init_start = Some(self.box_start);
                self.init_brands.clear();
            }
            b"mdat" => self.enter_mdat(head, found),
            b"mfra" => found(Found::MovieEnd { offset: self.box_start }),
            kind if is_prefix_box(kind) => {
                self.chunk_start.get_or_insert(self.box_start);
            }
            _ => {}
        }
        let left = head.total_bytes.map(|total| total - head.head_bytes as u64);
        let fits = |max: usize| {
            let left = left.and_then(|left| usize::try_from(left).ok());
            left.filter(|&left| left > 0 && left < max)
        };
        match (&head.kind, fits(collected_bytes_max(&head.kind))) {
            (_, Some(left)) => self.state = State::Collect { left, head: *head },
            (b"moof" | b"moov", None) => {
                self.stop("a moof or moov is empty, endless or too large", found);
            }
            (_, None) if left == Some(0) => self.finish_skip(self.box_end(head), found),
            (_, None) => self.state = State::Skip { left: left.unwrap_or(u64::MAX) },
        }
    }

    /// Where the box ends whose head has just been read.
    fn box_end(&self, head: &BoxHead) -> u64 {
        self.box_start.saturating_add(head.total_bytes.unwrap_or(u64::MAX))
    }

    fn enter_mdat(&mut self, head: &BoxHead, found: &mut impl FnMut(Found<'_>)) {
        self.chunk_start = None;
        self.chunk.clear();
        if self.stage == Stage::None {
            return;
        }
        self.stage = Stage::Media;
        if head.total_bytes.is_some() {
            found(Found::ChunkExtent { end: self.box_end(head) });
        }
    }

    /// Something of the next chunk begins. A chunk without an mdat ends here.
    fn leave_chunk(&mut self, found: &mut impl FnMut(Found<'_>)) {
        if self.stage == Stage::Moof {
            found(Found::ChunkEnd { end: self.box_start });
        }
        self.stage = Stage::None;
    }

    fn skip(&mut self, left: u64, bytes: &[u8], found: &mut impl FnMut(Found<'_>)) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - taken as u64;
        if left == 0 {
            self.finish_skip(self.position.saturating_add(taken as u64), found);
        } else {
            self.state = State::Skip { left };
        }
        taken
    }

    fn finish_skip(&mut self, end: u64, found: &mut impl FnMut(Found<'_>)) {
        self.state = State::Head;
        if self.stage == Stage::Media {
            self.stage = Stage::Ended;
            found(Found::ChunkEnd { end });
        }
    }

    /// A box that lies whole in one piece is read where it is, without a copy.
    fn collect(
        &mut self,
        left: usize,
        head: &BoxHead,
        bytes: &[u8],
        found: &mut impl FnMut(Found<'_>),
    ) -> usize {
        let (here, _) = bytes.split_at(left.min(bytes.len()));
        let left = left - here.len();
        if left > 0 {
            self.body.extend_from_slice(here);
            self.state = State::Collect { left, head: *head };
            return here.len();
        }
        self.state = State::Head;
        if self.body.is_empty() {
            self.finish_box(head, here, found);
        } else {
            let mut body = std::mem::take(&mut self.body);
            body.extend_from_slice(here);
            self.finish_box(head, &body, found);
            body.clear();
            if body.capacity() <= IDLE_BYTES_MAX {
                self.body = body;
            }
        }
        here.len()
    }

    fn finish_box(&mut self, head: &BoxHead, payload: &[u8], found: &mut impl FnMut(Found<'_>)) {
        match &head.kind {
            b"moof" => self.finish_moof(head, payload, found),
            b"moov" => self.finish_moov(head, payload, found),
            b"ftyp" => self.init_brands = parse_brands(payload),
            b"styp" => self.chunk.brands.add_styp(payload),
            b"prft" => {
                let earlier = self.chunk.producer_time;
                self.chunk.producer_time = earlier.or_else(|| ProducerTime::parse(payload));
            }
            b"emsg" if self.chunk.events.len() < EVENTS_MAX => {
                self.chunk.events.extend(EventMessage::parse(payload));
            }
            _ => {}
        }
    }

    fn finish_moof(&mut self, head: &BoxHead, payload: &[u8], found: &mut impl FnMut(Found<'_>)) {
        let start = self.chunk_start.take().unwrap_or(self.box_start);
        self.init_start = None;
        self.recognised = true;
        self.stage = Stage::Moof;
        self.chunk.set_moof(payload, head.head_bytes, self.init.as_deref());
        found(Found::Chunk { start, chunk: &self.chunk });
        self.chunk.clear();
    }

    fn finish_moov(&mut self, head: &BoxHead, payload: &[u8], found: &mut impl FnMut(Found<'_>)) {
        let start = match (self.recognised, self.init_start.take()) {
            (false, _) => 0,
            (true, ftyp) => ftyp.unwrap_or(self.box_start),
        };
        self.chunk_start = None;
        self.chunk.clear();
        match parse_moov(payload, std::mem::take(&mut self.init_brands)) {
            Ok(init) if init.fragmented => {
                self.recognised = true;
                let init = self.init.insert(Arc::new(init));
                let end = self.box_start.saturating_add(head.total_bytes.unwrap_or(0));
                found(Found::Init { start, end, init });
            }
            Ok(_) => self.stop("the moov is that of an MP4 without fragments", found),
            Err(_) => self.stop("the moov makes no sense", found),
        }
    }

    /// What stops the scanner before anything of a fragmented MP4 was seen says that it never was
    /// one.
    fn stop(&mut self, why: &'static str, found: &mut impl FnMut(Found<'_>)) {
        assert!(self.state != State::Stopped);
        self.state = State::Stopped;
        self.body = Vec::new();
        found(if self.recognised { Found::Lost { why } } else { Found::NotFmp4 });
    }
}

/// Boxes that belong to nothing that came before them.
fn starts_anew(kind: &[u8; 4]) -> bool {
    matches!(kind, b"moof" | b"moov" | b"ftyp" | b"mfra") || is_prefix_box(kind)
}

/// How long a payload may be to be looked into; 0 for boxes that are not.
fn collected_bytes_max(kind: &[u8; 4]) -> usize {
    match kind {
        b"moof" | b"moov" => MOOF_BYTES_MAX,
        b"emsg" => EMSG_BYTES_MAX,
        b"ftyp" | b"styp" | b"prft" => SMALL_BYTES_MAX,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::box_builder::{SAMPLE, emsg, init_segment, moof, moov, new_box, told, words};
    use super::super::fragment::NON_SYNC;
    use super::super::{EventTime, parse_fragment, parse_init, prefix_time};
    use super::*;

    /// What is told, without what the init and the chunk say.
    #[derive(Debug, Clone, PartialEq)]
    enum Told {
        Init(u64, u64),
        Chunk(u64, bool),
        Extent(u64),
        End(u64),
        MovieEnd(u64),
        NotFmp4,
        Lost,
    }

    fn scan(mut scanner: FragmentScanner, stream: &[u8], piece_bytes: usize) -> Vec<Told> {
        let mut told = Vec::new();
        for piece in stream.chunks(piece_bytes) {
            scanner.push(piece, &mut |found| {
                told.push(match found {
                    Found::Init { start, end, .. } => Told::Init(start, end),
                    Found::Chunk { start, chunk } => Told::Chunk(start, chunk.random_access),
                    Found::ChunkExtent { end } => Told::Extent(end),
                    Found::ChunkEnd { end } => Told::End(end),
                    Found::MovieEnd { offset } => Told::MovieEnd(offset),
                    Found::NotFmp4 => Told::NotFmp4,
                    Found::Lost { .. } => Told::Lost,
                });
            });
        }
        told
    }

    fn scan_new(stream: &[u8]) -> Vec<Told> {
        scan(FragmentScanner::new(), stream, 5)
    }

    /// The chunks of a stream.
    fn chunks(scanner: FragmentScanner, stream: &[u8]) -> Vec<CmafChunk> {
        let mut scanner = scanner;
        let mut chunks = Vec::new();
        scanner.push(stream, &mut |found| {
            if let Found::Chunk { chunk, .. } = found {
                chunks.push(chunk.clone());
            }
        });
        chunks
    }

    fn mdat(bytes: usize) -> Vec<u8> {
        new_box(b"mdat", &vec![1; bytes])
    }

    fn prft(seconds: u32, time: u32) -> Vec<u8> {
        new_box(b"prft", &words(&[0, 1, seconds, 0, time]))
    }

    /// Every box that is looked into, twice, with two mdats, none, and a new moov between.
    fn stream_of_everything() -> Vec<u8> {
        let styp = new_box(b"styp", b"msdh\0\0\0\0cmfslmsg");
        let prefix = [styp, prft(0xe000_0000, 40), emsg(b"urn:x", 7, b"data")].concat();
        let chunk = [prefix, moof(&[(1, 0, None), (2, 0, None)]), mdat(30)].concat();
        let rest = [new_box(b"free", &[0; 3]), mdat(4), moof(&[(2, 9, None)])].concat();
        let init = init_segment(&[b"vide", b"soun"]);
        [&init, &chunk, &rest, &chunk, &init, &chunk, &new_box(b"mfra", &[])]
            .map(Vec::as_slice)
            .concat()
    }

    #[test]
    fn the_sample_is_told_however_it_is_cut() {
        let whole = scan(FragmentScanner::new(), SAMPLE, SAMPLE.len());
        let count = |kind: fn(&Told) -> bool| whole.iter().filter(|told| kind(told)).count();
        assert_eq!(count(|told| matches!(told, Told::Chunk(..))), 40);
        assert_eq!(count(|told| matches!(told, Told::Chunk(_, true))), 8);
        assert_eq!(count(|told| matches!(told, Told::End(..))), 40);
        assert!(matches!(whole[0], Told::Init(0, _)));
        for piece_bytes in [1, 7, 188, 1000, 65536] {
            let pieces = scan(FragmentScanner::new(), SAMPLE, piece_bytes);
            assert_eq!(pieces, whole, "pieces of {piece_bytes}");
        }
    }

    #[test]
    fn a_chunk_runs_from_its_first_prefix_box_to_the_end_of_its_mdat() {
        let init = init_segment(&[b"vide"]);
        let styp = [new_box(b"styp", b"msdh"), prft(0xe000_0000, 0)].concat();
        let chunk = [styp, moof(&[(1, 0, None)]), mdat(30)].concat();
        let found = scan_new(&[init.clone(), chunk.clone(), chunk.clone()].concat());
        let first = init.len() as u64;
        let (second, end) = (first + chunk.len() as u64, first + 2 * chunk.len() as u64);
        let wanted = [
            Told::Init(0, first),
            Told::Chunk(first, true),
            Told::Extent(second),
            Told::End(second),
            Told::Chunk(second, true),
            Told::Extent(end),
            Told::End(end),
        ];
        assert_eq!(found, wanted);
        // The extent is known as soon as the head of the mdat has passed.
        let until = (end - 30) as usize;
        let stream = [init, chunk.clone(), chunk].concat();
        assert_eq!(scan_new(&stream[..until]), wanted[..6]);
        assert_eq!(scan_new(&stream[..until - 1]), wanted[..5]);
    }

    #[test]
    fn chunks_with_two_mdats_or_none_end_too() {
        let init = init_segment(&[b"vide"]);
        let at = init.len() as u64;
        let head = moof(&[(1, 0, None)]);
        let moof_bytes = head.len() as u64;
        let stream = [init, head.clone(), mdat(2), mdat(0), head.clone(), head].concat();
        let (one, two) = (at + moof_bytes + 10, at + moof_bytes + 18);
        let three = two + moof_bytes;
        let wanted = [
            Told::Chunk(at, true),
            Told::Extent(one),
            Told::End(one),
            Told::Extent(two),
            Told::End(two),
            Told::Chunk(two, true),
            Told::End(three),
            Told::Chunk(three, true),
        ];
        assert_eq!(scan_new(&stream)[1..], wanted);
    }

    #[test]
    fn what_stands_before_a_moof_is_told_with_it_and_only_with_it() {
        let found = chunks(FragmentScanner::new(), &stream_of_everything());
        let [first, bare, again, last] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(first, again);
        assert_eq!(first, last);
        assert_eq!(first.brands, Brands { lmsg: true, cmfs: true, ..Brands::default() });
        let time = first.producer_time.unwrap();
        assert_eq!((time.track_id, time.media_time), (1, 40));
        let [event] = first.events.as_slice() else { panic!("{first:?}") };
        assert_eq!((event.scheme.as_str(), event.time), ("urn:x", EventTime::Absolute(7)));
        assert_eq!((first.lead().unwrap().track_id, first.resolved), (1, true));
        assert!(bare.events.is_empty() && bare.producer_time.is_none());
        assert_eq!((bare.brands, bare.random_access), (Brands::default(), false));
        assert_eq!(
            scan_new(&stream_of_everything()).last(),
            Some(&Told::MovieEnd(stream_of_everything().len() as u64 - 8))
        );
    }

    #[test]
    fn large_and_many_events_are_left_out() {
        let large = new_box(b"emsg", &vec![0; EMSG_BYTES_MAX]);
        let many = emsg(b"urn:x", 1, b"").repeat(EVENTS_MAX + 3);
        let stream = [init_segment(&[b"vide"]), large, many, moof(&[(1, 0, None)])].concat();
        let found = chunks(FragmentScanner::new(), &stream);
        assert_eq!(found[0].events.len(), EVENTS_MAX);
    }

    #[test]
    fn a_segment_needs_an_init_from_elsewhere() {
        let segment = [new_box(b"styp", b"msdh"), moof(&[(1, 3, None)]), mdat(5)].concat();
        let init = Arc::new(parse_init(&moov(&[b"vide"])).unwrap());
        let known = chunks(FragmentScanner::with_init(init.clone()), &segment);
        assert!(known[0].resolved && known[0].random_access);
        assert_eq!(known[0].lead().unwrap().duration, 40);
        let unknown = chunks(FragmentScanner::new(), &segment);
        assert!(!unknown[0].resolved && !unknown[0].random_access);
        assert_eq!(unknown[0].lead().unwrap().duration, 0);
        let text = scan(FragmentScanner::with_init(init.clone()), b"WEBVTT\n\n00:00", 3);
        assert_eq!(text, [Told::NotFmp4]);
        let mfra = scan(FragmentScanner::with_init(init), &new_box(b"mfra", &[]), 3);
        assert_eq!(mfra, [Told::MovieEnd(0)]);
    }

    #[test]
    fn sound_alone_is_no_place_to_join_a_picture() {
        let muxed = moov(&[b"soun", b"vide"]);
        let video_sync = moof(&[(1, 0, None), (2, 0, Some(0x0200_0000))]);
        let video_later = moof(&[(1, 0, None), (2, 0, Some(NON_SYNC))]);
        let sound = moof(&[(1, 0, None)]);
        let stream = [muxed, video_sync, video_later, sound.clone()].concat();
        let found = chunks(FragmentScanner::new(), &stream);
        let joins: Vec<bool> = found.iter().map(|chunk| chunk.random_access).collect();
        assert_eq!(joins, [true, false, false]);
        let leads: Vec<Option<usize>> = found.iter().map(|chunk| chunk.lead).collect();
        assert_eq!(leads, [Some(1), Some(1), Some(0)]);
        let stream = [moov(&[b"soun"]), sound].concat();
        assert!(chunks(FragmentScanner::new(), &stream)[0].random_access);
    }

    #[test]
    fn a_second_preamble_is_told() {
        let init = init_segment(&[b"vide"]);
        let stream = [init.clone(), moof(&[(1, 0, None)]), init.clone()].concat();
        let start = (stream.len() - init.len()) as u64;
        let wanted = [Told::End(start), Told::Init(start, stream.len() as u64)];
        assert_eq!(scan_new(&stream)[2..], wanted);
    }

    #[test]
    fn other_streams_are_refused_once() {
        let plain = [new_box(b"ftyp", b"isom"), new_box(b"moov", &[])].concat();
        let unfragmented = new_box(b"moov", &new_box(b"free", &[0; 4]));
        let text = b"#EXTM3U\n#EXT-X-VERSION:9\n".to_vec();
        let large = [words(&[1]), b"free".to_vec(), words(&[1 << 31, 0])].concat();
        let garbage = [vec![0x47; 400], vec![0; 99], vec![0xff; 40]];
        for stream in [plain, unfragmented, text, large].into_iter().chain(garbage) {
            for piece_bytes in [1, 3, 400] {
                let found = scan(FragmentScanner::new(), &stream, piece_bytes);
                assert_eq!(found, [Told::NotFmp4], "{stream:?}");
            }
        }
    }

    #[test]
    fn lost_framing_and_large_boxes_are_told_once() {
        let good = [moov(&[b"vide"]), moof(&[(1, 0, None)])].concat();
        let huge = [&((MOOF_BYTES_MAX as u32) + 8).to_be_bytes(), b"moof".as_slice()].concat();
        let endless = [words(&[1]), b"free".to_vec(), words(&[1 << 31, 0])].concat();
        let small = vec![0, 0, 0, 3, b'm', b'd', b'a', b't'];
        for bad in [small, vec![1; 64], huge, endless] {
            let found = scan_new(&[good.clone(), bad, good.clone()].concat());
            assert_eq!(found.last(), Some(&Told::Lost));
            assert_eq!(found.iter().filter(|told| **told == Told::Lost).count(), 1);
            assert_eq!(found.iter().filter(|told| matches!(told, Told::Chunk(..))).count(), 1);
        }
    }

    #[test]
    fn large_sizes_and_endless_boxes_are_stepped_over() {
        let large = [words(&[1]), b"mdat".to_vec(), words(&[0, 20]), vec![9; 4]].concat();
        let endless = [words(&[0]), b"mdat".to_vec(), vec![0xff; 100]].concat();
        let head = [moov(&[b"vide"]), moof(&[(1, 0, None)])].concat();
        let end = (head.len() + large.len()) as u64;
        let stream = [head, large, moof(&[(1, 40, None)]), endless].concat();
        assert_eq!(
            scan_new(&stream)[2..],
            [Told::Extent(end), Told::End(end), Told::Chunk(end, true)]
        );
    }

    /// Whatever follows from `bytes`, nothing panics and nothing is told after the end.
    fn survives(bytes: &[u8], piece_bytes: usize) {
        let found = scan(FragmentScanner::new(), bytes, piece_bytes);
        let end = found.iter().position(|told| matches!(told, Told::NotFmp4 | Told::Lost));
        assert!(end.is_none_or(|end| end + 1 == found.len()));
        let init = parse_init(bytes).unwrap_or_default();
        let _ = parse_fragment(bytes, &init);
        let _ = prefix_time(bytes, &init);
        let _ = Init::single_track(bytes, 1);
    }

    proptest! {
        #[test]
        fn random_bytes_do_not_panic(bytes: Vec<u8>, piece_bytes in 1usize..50) {
            survives(&bytes, piece_bytes);
        }

        /// Mutations of the beginning of the sample: its moov and its first moof.
        #[test]
        fn mutated_boxes_do_not_panic(
            changes in proptest::collection::vec((0usize..1500, any::<u8>()), 1..8),
            cut in 0usize..1500,
            piece_bytes in 1usize..2000,
        ) {
            let mut bytes = SAMPLE[..1500].to_vec();
            for (at, value) in changes {
                bytes[at] = value;
            }
            survives(&bytes, piece_bytes);
            survives(&bytes[cut..], piece_bytes);
            let init = parse_init(SAMPLE).unwrap();
            if let Ok(fragment) = parse_fragment(&bytes[1238..], &init) {
                for traf in fragment.tracks {
                    let _ = traf.decode_time.map(|field| field.rewrite(&mut bytes[1238..], 1));
                }
            }
        }

        /// The same is told, to the last field, wherever the stream is cut and whatever byte of it
        /// is wrong.
        #[test]
        fn cuts_do_not_matter(
            cuts in proptest::collection::btree_set(0usize..1600, 0..12),
            change in proptest::option::of((0usize..1600, any::<u8>())),
        ) {
            let mut stream = stream_of_everything();
            if let Some((at, value)) = change && let Some(byte) = stream.get_mut(at) {
                *byte = value;
            }
            let whole = told(FragmentScanner::new(), &[&stream]);
            let mut pieces = Vec::new();
            let mut rest = stream.as_slice();
            let mut at = 0;
            for cut in cuts {
                let (piece, behind) = rest.split_at((cut - at).min(rest.len()));
                pieces.push(piece);
                (rest, at) = (behind, cut);
            }
            pieces.push(rest);
            prop_assert_eq!(told(FragmentScanner::new(), &pieces), whole);
        }
    }
}
