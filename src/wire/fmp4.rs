//! Fragmented MP4 (ISO/IEC 14496-12, CMAF: ISO/IEC 23000-19) seen from outside: where the preamble
//! ends, where each fragment begins, whether a decoder may start there, and when it is to be shown.
//! It never looks at media samples, never rebuilds a box, and does no I/O. `ingest` feeds a
//! [`FragmentScanner`] with bytes as they arrive; `publish` reads and rewrites the time fields.
//!
//! Every read is checked against the bytes at hand, nesting is fixed by the code (moov → trak →
//! mdia and moof → traf are the deepest paths), and no length that a peer announces is ever
//! allocated.

/// A moof or moov whose payload reaches this is not looked into: real ones have 200 bytes to some
/// kilobytes.
pub const MOOF_BYTES_MAX: usize = 1024 * 1024;
/// Tracks of a movie, and track fragments of one moof, that are looked at.
pub const TRACKS_MAX: usize = 64;
/// What a scanner keeps allocated between two boxes; a larger buffer is given back.
const IDLE_BYTES_MAX: usize = 64 * 1024;

/// Flag of a sample that a decoder may not start at (8.8.3.1, `sample_is_non_sync_sample`).
const NON_SYNC: u32 = 0x1_0000;

/// A place in the stream, told by a [`FragmentScanner`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// Absolute: counted from the first byte that was pushed.
    pub offset: u64,
    pub kind: BoundaryKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoundaryKind {
    /// The offset is just behind the moov: the bytes before it are the preamble (ftyp and moov).
    InitEnd,
    /// Another moov came later (an encoder that started again): the bytes from `start` to the
    /// offset are the preamble of everything that follows.
    InitReplaced { start: u64 },
    /// The offset is the first box of a CMAF chunk: its moof, or a styp, prft, emsg or sidx before
    /// it. Told as soon as the moof is complete, so the offset lies behind what has been pushed.
    Fragment {
        /// A decoder may start here: the first sample of the leading track is a sync sample.
        random_access: bool,
        /// Of the leading track: the first video track if the moov has one, else the first in the
        /// moof. Absent when the moov is unknown or the moof could not be understood.
        timing: Option<Timing>,
    },
    /// The stream is something else. Told once; nothing is told after it.
    NotFmp4,
    /// The stream was fragmented MP4 up to this box, which makes no sense or is a moof or moov
    /// beyond [`MOOF_BYTES_MAX`]. Told once; nothing is told after it.
    Lost,
}

/// When a fragment is to be decoded, in ticks of its track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub track_id: u32,
    pub handler: Handler,
    pub timescale: u32,
    pub decode_time: u64,
    pub duration: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fmp4Error {
    #[error("a box is cut short or announces an impossible size")]
    BoxSize,
    #[error("the {0} box is missing")]
    Missing(&'static str),
    #[error("more than {TRACKS_MAX} tracks")]
    TooManyTracks,
    #[error("the time does not fit into the 32 bits that this stream reserves for it")]
    TimeOverflow,
}

/// What the moov says about a fragmented movie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Init {
    pub tracks: Vec<Track>,
    /// The moov has an mvex box: samples come in fragments. Without it this is a plain MP4.
    pub fragmented: bool,
}

impl Init {
    pub fn track(&self, track_id: u32) -> Option<&Track> {
        self.tracks.iter().find(|track| track.track_id == track_id)
    }

    pub fn has_video(&self) -> bool {
        self.tracks.iter().any(|track| track.handler == Handler::Video)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Track {
    pub track_id: u32,
    /// Ticks per second; never 0.
    pub timescale: u32,
    pub handler: Handler,
    /// From trex (8.8.3): what a fragment's samples are if the fragment does not say.
    pub default_sample_duration: u32,
    pub default_sample_flags: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    Video,
    Audio,
    Other,
}

/// What a moof says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fragment {
    pub sequence: Option<SequenceField>,
    pub tracks: Vec<TrackFragment>,
}

/// Where the moof keeps its sequence number (mfhd, 8.8.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceField {
    pub position: usize,
    pub value: u32,
}

/// One traf of a moof. Positions count from the first byte of the moof box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackFragment {
    pub track_id: u32,
    /// tfdt (8.8.12); some old writers leave it out.
    pub decode_time: Option<TimeField>,
    /// tfhd (8.8.7): an absolute place in the file, which an appended copy has to correct.
    pub base_data_offset: Option<TimeField>,
    /// Sum of the sample durations, in ticks of the track.
    pub duration: u64,
    pub samples: u64,
    /// The first sample may be decoded without those before it. False when nothing says so.
    pub starts_with_sync: bool,
}

/// A number in a box that can be replaced in place, of 32 or 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeField {
    pub position: usize,
    pub wide: bool,
    pub value: u64,
}

impl TimeField {
    fn read(data: &[u8], at: usize, base: usize, wide: bool) -> Result<TimeField, Fmp4Error> {
        let value = if wide { u64_at(data, at)? } else { u64::from(u32_at(data, at)?) };
        Ok(TimeField { position: base.saturating_add(at), wide, value })
    }

    /// Writes `value` where this field is. The width stays: widening would move every byte behind
    /// it.
    pub fn rewrite(&self, bytes: &mut [u8], value: u64) -> Result<(), Fmp4Error> {
        if self.wide {
            put(bytes, self.position, &value.to_be_bytes())
        } else {
            let value = u32::try_from(value).map_err(|_| Fmp4Error::TimeOverflow)?;
            put(bytes, self.position, &value.to_be_bytes())
        }
    }
}

impl SequenceField {
    pub fn rewrite(&self, moof: &mut [u8], value: u32) -> Result<(), Fmp4Error> {
        put(moof, self.position, &value.to_be_bytes())
    }
}

/// The head of a box (4.2): its type, how many bytes its head has and how many the whole box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoxHead {
    pub kind: [u8; 4],
    pub head_bytes: usize,
    /// `None`: up to the end of the stream (size field 0).
    pub total_bytes: Option<u64>,
}

impl BoxHead {
    /// The longest head: 32-bit size, type, 64-bit size.
    pub const BYTES_MAX: usize = 16;

    /// `Ok(None)`: more bytes are needed.
    pub fn parse(bytes: &[u8]) -> Result<Option<BoxHead>, Fmp4Error> {
        let Some((size, rest)) = bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let Some((kind, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let (head_bytes, total_bytes) = match u32::from_be_bytes(*size) {
            0 => (8, None),
            1 => match rest.first_chunk::<8>() {
                Some(large) => (16, Some(u64::from_be_bytes(*large))),
                None => return Ok(None),
            },
            size => (8, Some(u64::from(size))),
        };
        // A box type is four printable characters; anything else means that framing was lost.
        let printable = kind.iter().all(|&byte| byte == 0xa9 || (0x20..0x7f).contains(&byte));
        if !printable || total_bytes.is_some_and(|total| total < head_bytes as u64) {
            return Err(Fmp4Error::BoxSize);
        }
        Ok(Some(BoxHead { kind: *kind, head_bytes, total_bytes }))
    }
}

/// Box types that a fragmented MP4, or a segment of one, begins with.
pub fn may_begin_stream(kind: &[u8; 4]) -> bool {
    matches!(kind, b"ftyp" | b"styp" | b"moov" | b"free" | b"skip") || is_fragment_box(kind)
}

fn is_fragment_box(kind: &[u8; 4]) -> bool {
    kind == b"moof" || is_prefix_box(kind)
}

/// Boxes that belong to the chunk whose moof they precede (23000-19, 7.3.2.3).
pub fn is_prefix_box(kind: &[u8; 4]) -> bool {
    matches!(kind, b"styp" | b"prft" | b"emsg" | b"sidx")
}

/// Finds the boundaries in an endless stream that arrives in arbitrary pieces. It reads box heads,
/// keeps the bytes of a moof or moov that is spread over several pieces, and steps over the rest.
///
/// | state   | left when |
/// |---------|-----------|
/// | Head    | a box head is complete: `enter_box` |
/// | Skip    | the rest of the box was stepped over: `push` |
/// | Collect | the moof or moov is complete: `finish_box` |
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
    /// First box after the last fragment that can begin a preamble.
    init_start: Option<u64>,
    init: Option<Init>,
    /// A moov with mvex or a moof has passed: this is fragmented MP4.
    recognised: bool,
    /// Payload of the moof or moov so far; at most `MOOF_BYTES_MAX`.
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
        moov: bool,
    },
    Stopped,
}

impl FragmentScanner {
    pub fn new() -> FragmentScanner {
        FragmentScanner::default()
    }

    /// The moov, once it has passed.
    pub fn init(&self) -> Option<&Init> {
        self.init.as_ref()
    }

    /// Nothing will be told any more: `NotFmp4` or `Lost` has been.
    pub fn is_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    pub fn push(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Boundary)) {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Head => self.take_head(bytes, found),
                State::Skip { left } => self.skip(left, bytes),
                State::Collect { left, moov } => self.collect(left, moov, bytes, found),
                State::Stopped => bytes.len(),
            };
            assert!(taken > 0 && taken <= bytes.len());
            self.position = self.position.saturating_add(taken as u64);
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// Adds bytes to the head one by one: no more than 16, and never one that belongs to the
    /// payload.
    fn take_head(&mut self, bytes: &[u8], found: &mut impl FnMut(Boundary)) -> usize {
        if self.head_len == 0 {
            self.box_start = self.position;
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
                    self.stop(found);
                    return bytes.len();
                }
            }
        }
        bytes.len()
    }

    fn enter_box(&mut self, head: &BoxHead, found: &mut impl FnMut(Boundary)) {
        if self.box_start == 0 && !may_begin_stream(&head.kind) {
            return self.stop(found);
        }
        match &head.kind {
            b"ftyp" => self.init_start = Some(self.box_start),
            b"mdat" => self.chunk_start = None,
            kind if is_prefix_box(kind) => {
                self.chunk_start.get_or_insert(self.box_start);
            }
            _ => {}
        }
        let left = head.total_bytes.map(|total| total - head.head_bytes as u64);
        if !matches!(&head.kind, b"moof" | b"moov") {
            self.state = match left {
                Some(0) => State::Head,
                Some(left) => State::Skip { left },
                None => State::Skip { left: u64::MAX },
            };
            return;
        }
        let moov = &head.kind == b"moov";
        match left.and_then(|left| usize::try_from(left).ok()) {
            // A moof or moov without content, too large, or without an end.
            None | Some(0 | MOOF_BYTES_MAX..) => self.stop(found),
            Some(left) => self.state = State::Collect { left, moov },
        }
    }

    fn skip(&mut self, left: u64, bytes: &[u8]) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - taken as u64;
        self.state = if left == 0 { State::Head } else { State::Skip { left } };
        taken
    }

    /// A box that lies whole in one piece is read where it is, without a copy.
    fn collect(
        &mut self,
        left: usize,
        moov: bool,
        bytes: &[u8],
        found: &mut impl FnMut(Boundary),
    ) -> usize {
        let (here, _) = bytes.split_at(left.min(bytes.len()));
        let left = left - here.len();
        if left > 0 {
            self.body.extend_from_slice(here);
            self.state = State::Collect { left, moov };
            return here.len();
        }
        self.state = State::Head;
        let end = self.position.saturating_add(here.len() as u64);
        if self.body.is_empty() {
            self.finish_box(moov, here, end, found);
        } else {
            let mut body = std::mem::take(&mut self.body);
            body.extend_from_slice(here);
            self.finish_box(moov, &body, end, found);
            body.clear();
            if body.capacity() <= IDLE_BYTES_MAX {
                self.body = body;
            }
        }
        here.len()
    }

    fn finish_box(
        &mut self,
        moov: bool,
        payload: &[u8],
        end: u64,
        found: &mut impl FnMut(Boundary),
    ) {
        if moov {
            return self.finish_moov(payload, end, found);
        }
        let offset = self.chunk_start.take().unwrap_or(self.box_start);
        self.init_start = None;
        self.recognised = true;
        let (random_access, timing) = examine(payload, self.init.as_ref());
        found(Boundary { offset, kind: BoundaryKind::Fragment { random_access, timing } });
    }

    fn finish_moov(&mut self, payload: &[u8], end: u64, found: &mut impl FnMut(Boundary)) {
        let start = self.init_start.take().unwrap_or(self.box_start);
        self.chunk_start = None;
        let replaced = self.init.is_some();
        match parse_moov(payload) {
            Ok(init) if init.fragmented => self.init = Some(init),
            _ => return self.stop(found),
        }
        let kind = match replaced {
            true => BoundaryKind::InitReplaced { start },
            false => BoundaryKind::InitEnd,
        };
        self.recognised = true;
        found(Boundary { offset: end, kind });
    }

    /// What stops the scanner before anything of a fragmented MP4 was seen says that it never was
    /// one.
    fn stop(&mut self, found: &mut impl FnMut(Boundary)) {
        assert!(self.state != State::Stopped);
        let kind = if self.recognised { BoundaryKind::Lost } else { BoundaryKind::NotFmp4 };
        self.state = State::Stopped;
        self.body = Vec::new();
        found(Boundary { offset: self.box_start, kind });
    }
}

/// Reads an initialisation segment: any boxes, then the moov, then anything.
pub fn parse_init(bytes: &[u8]) -> Result<Init, Fmp4Error> {
    for child in boxes(bytes) {
        let child = child?;
        if &child.kind == b"moov" {
            return parse_moov(child.payload);
        }
    }
    Err(Fmp4Error::Missing("moov"))
}

/// Reads a whole moof box. Positions in the answer count from its first byte.
pub fn parse_fragment(moof: &[u8], init: &Init) -> Result<Fragment, Fmp4Error> {
    let moof = boxes(moof).next().ok_or(Fmp4Error::Missing("moof"))??;
    if &moof.kind != b"moof" {
        return Err(Fmp4Error::Missing("moof"));
    }
    let mut fragment = Fragment::default();
    for child in boxes(moof.payload) {
        let child = child?;
        let base = moof.position + child.position;
        match &child.kind {
            b"mfhd" => {
                let value = u32_at(child.payload, 4)?;
                fragment.sequence = Some(SequenceField { position: base + 4, value });
            }
            b"traf" if fragment.tracks.len() == TRACKS_MAX => {
                return Err(Fmp4Error::TooManyTracks);
            }
            b"traf" => fragment.tracks.push(parse_traf(child.payload, base, Some(init))?),
            _ => {}
        }
    }
    Ok(fragment)
}

/// Where a prefix box keeps a media time, and the ticks per second in which it counts.
/// sidx (8.16.3) and emsg (23009-1, 5.10.3.3) carry a timescale; prft (8.16.5) uses its track's.
pub fn prefix_time(bytes: &[u8], init: &Init) -> Result<Option<(TimeField, u32)>, Fmp4Error> {
    let Some(found) = boxes(bytes).next() else {
        return Ok(None);
    };
    let BoxRef { kind, position, payload } = found?;
    let version = *payload.first().ok_or(Fmp4Error::BoxSize)?;
    let field = |at| TimeField::read(payload, at, position, version > 0);
    let (field, timescale) = match &kind {
        b"sidx" => (field(12)?, u32_at(payload, 8)?),
        b"prft" => {
            let track = init.track(u32_at(payload, 4)?).ok_or(Fmp4Error::Missing("trak"))?;
            (field(16)?, track.timescale)
        }
        // Version 0 counts from the segment, which needs no correction.
        b"emsg" if version > 0 => (field(8)?, u32_at(payload, 4)?),
        _ => return Ok(None),
    };
    Ok((timescale > 0).then_some((field, timescale)))
}

/// The leading track's word on a moof: may a decoder start, and when is it shown? No allocation.
fn examine(moof: &[u8], init: Option<&Init>) -> (bool, Option<Timing>) {
    let video_only = init.is_some_and(Init::has_video);
    let mut first = None;
    let trafs = boxes(moof).map_while(Result::ok).filter(|child| &child.kind == b"traf");
    for traf in trafs.take(TRACKS_MAX) {
        let Ok(traf) = parse_traf(traf.payload, 0, init) else {
            continue;
        };
        let track = init.and_then(|init| init.track(traf.track_id));
        if video_only && track.is_some_and(|track| track.handler == Handler::Video) {
            return (traf.starts_with_sync, timing(&traf, track));
        }
        first.get_or_insert((traf, track));
    }
    match first {
        Some((traf, track)) => (traf.starts_with_sync && !video_only, timing(&traf, track)),
        None => (false, None),
    }
}

fn timing(traf: &TrackFragment, track: Option<&Track>) -> Option<Timing> {
    let Track { track_id, handler, timescale, .. } = *track?;
    let decode_time = traf.decode_time?.value;
    Some(Timing { track_id, handler, timescale, decode_time, duration: traf.duration })
}

fn parse_moov(moov: &[u8]) -> Result<Init, Fmp4Error> {
    let mut init = Init::default();
    for child in boxes(moov) {
        let child = child?;
        match &child.kind {
            b"trak" if init.tracks.len() == TRACKS_MAX => return Err(Fmp4Error::TooManyTracks),
            b"trak" => init.tracks.push(parse_trak(child.payload)?),
            b"mvex" => init.fragmented = true,
            _ => {}
        }
    }
    // After the tracks, wherever mvex stands in the moov.
    for trex in children(moov, b"mvex").flat_map(|mvex| children(mvex.payload, b"trex")) {
        let track_id = u32_at(trex.payload, 4)?;
        if let Some(track) = init.tracks.iter_mut().find(|track| track.track_id == track_id) {
            track.default_sample_duration = u32_at(trex.payload, 12)?;
            track.default_sample_flags = u32_at(trex.payload, 20)?;
        }
    }
    Ok(init)
}

fn parse_trak(trak: &[u8]) -> Result<Track, Fmp4Error> {
    let only = |parent, kind, name| children(parent, kind).next().ok_or(Fmp4Error::Missing(name));
    let tkhd = only(trak, b"tkhd", "tkhd")?.payload;
    let mdia = only(trak, b"mdia", "mdia")?.payload;
    let mdhd = only(mdia, b"mdhd", "mdhd")?.payload;
    let hdlr = only(mdia, b"hdlr", "hdlr")?.payload;
    // Version 1 has 64-bit creation and modification times before the field (8.3.2, 8.4.2).
    let after_times = |full_box: &[u8]| if full_box.first() == Some(&1) { 20 } else { 12 };
    let timescale = u32_at(mdhd, after_times(mdhd))?;
    if timescale == 0 {
        return Err(Fmp4Error::Missing("timescale of the mdhd"));
    }
    let handler = match &u32_at(hdlr, 8)?.to_be_bytes() {
        b"vide" => Handler::Video,
        b"soun" => Handler::Audio,
        _ => Handler::Other,
    };
    Ok(Track {
        track_id: u32_at(tkhd, after_times(tkhd))?,
        timescale,
        handler,
        default_sample_duration: 0,
        default_sample_flags: 0,
    })
}

/// What tfhd says about the samples of its traf (8.8.7).
struct TrackHead {
    track_id: u32,
    base_data_offset: Option<TimeField>,
    sample_duration: u32,
    /// `None`: neither the tfhd nor a known trex says anything.
    sample_flags: Option<u32>,
}

fn parse_traf(traf: &[u8], base: usize, init: Option<&Init>) -> Result<TrackFragment, Fmp4Error> {
    let tfhd = children(traf, b"tfhd").next().ok_or(Fmp4Error::Missing("tfhd"))?;
    let head = parse_tfhd(tfhd.payload, base.saturating_add(tfhd.position), init)?;
    let decode_time = match children(traf, b"tfdt").next() {
        Some(tfdt) => {
            let wide = tfdt.payload.first().is_some_and(|&version| version > 0);
            Some(TimeField::read(tfdt.payload, 4, base.saturating_add(tfdt.position), wide)?)
        }
        None => None,
    };
    let mut parsed = TrackFragment {
        track_id: head.track_id,
        decode_time,
        base_data_offset: head.base_data_offset,
        duration: 0,
        samples: 0,
        starts_with_sync: false,
    };
    for trun in children(traf, b"trun") {
        add_trun(&mut parsed, trun.payload, &head)?;
    }
    Ok(parsed)
}

fn parse_tfhd(tfhd: &[u8], base: usize, init: Option<&Init>) -> Result<TrackHead, Fmp4Error> {
    let flags = u32_at(tfhd, 0)?;
    let track_id = u32_at(tfhd, 4)?;
    let track = init.and_then(|init| init.track(track_id));
    let mut head = TrackHead {
        track_id,
        base_data_offset: None,
        sample_duration: track.map_or(0, |track| track.default_sample_duration),
        sample_flags: track.map(|track| track.default_sample_flags),
    };
    let mut at = 8;
    if flags & 0x1 != 0 {
        head.base_data_offset = Some(TimeField::read(tfhd, at, base, true)?);
        at += 8;
    }
    if flags & 0x2 != 0 {
        at += 4; // sample_description_index
    }
    if flags & 0x8 != 0 {
        head.sample_duration = u32_at(tfhd, at)?;
        at += 4;
    }
    if flags & 0x10 != 0 {
        at += 4; // default_sample_size
    }
    if flags & 0x20 != 0 {
        head.sample_flags = Some(u32_at(tfhd, at)?);
    }
    Ok(head)
}

/// Adds the samples of one trun (8.8.8). Their number is believed only as far as there are bytes
/// for them, or when they have no bytes and all last equally long.
fn add_trun(parsed: &mut TrackFragment, trun: &[u8], head: &TrackHead) -> Result<(), Fmp4Error> {
    let flags = u32_at(trun, 0)?;
    let count = u32_at(trun, 4)?;
    let has = |bit: u32| usize::from(flags & bit != 0);
    let first_flags_at = 8 + 4 * has(0x1);
    let samples_at = first_flags_at + 4 * has(0x4);
    let sample_bytes = 4 * (has(0x100) + has(0x200) + has(0x400) + has(0x800));
    let samples = trun.get(samples_at..).ok_or(Fmp4Error::BoxSize)?;
    let wanted = u64::from(count) * sample_bytes as u64;
    if wanted > samples.len() as u64 {
        return Err(Fmp4Error::BoxSize);
    }
    if parsed.samples == 0 && count > 0 {
        let first_flags = match (has(0x4), has(0x400)) {
            (1, _) => Some(u32_at(trun, first_flags_at)?),
            (_, 1) => Some(u32_at(samples, 4 * (has(0x100) + has(0x200)))?),
            _ => head.sample_flags,
        };
        parsed.starts_with_sync = first_flags.is_some_and(|flags| flags & NON_SYNC == 0);
    }
    let duration = if has(0x100) == 1 {
        let durations = samples.chunks_exact(sample_bytes).take(count as usize);
        durations.map(|sample| u32_at(sample, 0).map_or(0, u64::from)).sum()
    } else {
        u64::from(count) * u64::from(head.sample_duration)
    };
    parsed.duration = parsed.duration.saturating_add(duration);
    parsed.samples = parsed.samples.saturating_add(u64::from(count));
    Ok(())
}

/// A box inside `data`; `position` is that of its payload.
struct BoxRef<'a> {
    kind: [u8; 4],
    position: usize,
    payload: &'a [u8],
}

/// The boxes that lie side by side in `data`; after an error there are no more.
fn boxes(data: &[u8]) -> impl Iterator<Item = Result<BoxRef<'_>, Fmp4Error>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = data.get(at..).filter(|rest| !rest.is_empty())?;
        let start = at;
        at = data.len();
        match split_box(rest) {
            Ok((head, payload)) => {
                let position = start + head.head_bytes;
                at = position + payload.len();
                Some(Ok(BoxRef { kind: head.kind, position, payload }))
            }
            Err(error) => Some(Err(error)),
        }
    })
}

fn split_box(data: &[u8]) -> Result<(BoxHead, &[u8]), Fmp4Error> {
    let head = BoxHead::parse(data)?.ok_or(Fmp4Error::BoxSize)?;
    let total = head.total_bytes.unwrap_or(data.len() as u64);
    let end = usize::try_from(total).map_err(|_| Fmp4Error::BoxSize)?;
    let payload = data.get(head.head_bytes..end).ok_or(Fmp4Error::BoxSize)?;
    Ok((head, payload))
}

/// The children of one kind up to the first malformed one.
fn children<'a>(data: &'a [u8], kind: &'static [u8; 4]) -> impl Iterator<Item = BoxRef<'a>> {
    boxes(data).map_while(Result::ok).filter(move |child| &child.kind == kind)
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, Fmp4Error> {
    let bytes = data.get(at..).and_then(<[u8]>::first_chunk::<4>);
    bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(Fmp4Error::BoxSize)
}

fn u64_at(data: &[u8], at: usize) -> Result<u64, Fmp4Error> {
    let bytes = data.get(at..).and_then(<[u8]>::first_chunk::<8>);
    bytes.map(|bytes| u64::from_be_bytes(*bytes)).ok_or(Fmp4Error::BoxSize)
}

fn put(data: &mut [u8], at: usize, value: &[u8]) -> Result<(), Fmp4Error> {
    let end = at.checked_add(value.len()).ok_or(Fmp4Error::BoxSize)?;
    data.get_mut(at..end).ok_or(Fmp4Error::BoxSize)?.copy_from_slice(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mp4_atom::{Decode, Moof, Moov};
    use proptest::prelude::*;

    /// 8 s at 25 pictures per second and sound; a fragment every 200 ms, a key picture every
    /// second.
    const SAMPLE: &[u8] = include_bytes!("../commands/sample.mp4");

    fn scan(stream: &[u8], piece_bytes: usize) -> Vec<Boundary> {
        let mut found = Vec::new();
        let mut scanner = FragmentScanner::new();
        for piece in stream.chunks(piece_bytes) {
            scanner.push(piece, &mut |boundary| found.push(boundary));
        }
        found
    }

    fn kinds(stream: &[u8]) -> Vec<(u64, BoundaryKind)> {
        scan(stream, 5).iter().map(|found| (found.offset, found.kind)).collect()
    }

    fn new_box(kind: &[u8; 4], payload: &[u8]) -> Vec<u8> {
        let size = (payload.len() as u32 + 8).to_be_bytes();
        [&size, kind.as_slice(), payload].concat()
    }

    fn words(values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_be_bytes()).collect()
    }

    /// A moov with one track per handler, numbered from 1, whose samples are sync unless said
    /// otherwise.
    fn moov(handlers: &[&[u8; 4]]) -> Vec<u8> {
        let mut content = Vec::new();
        let mut mvex = Vec::new();
        for (id, handler) in (1..).zip(handlers) {
            let hdlr = [words(&[0, 0]), handler.to_vec(), words(&[0, 0, 0])].concat();
            let mdia = [new_box(b"mdhd", &words(&[0, 0, 0, 1000])), new_box(b"hdlr", &hdlr)];
            let trak = [new_box(b"tkhd", &words(&[0, 0, 0, id])), new_box(b"mdia", &mdia.concat())];
            content.extend(new_box(b"trak", &trak.concat()));
            mvex.extend(new_box(b"trex", &words(&[0, id, 1, 40, 0, 0])));
        }
        content.extend(new_box(b"mvex", &mvex));
        new_box(b"moov", &content)
    }

    /// A moof with one sample per (track, time, flags of the sample).
    fn moof(trafs: &[(u32, u32, Option<u32>)]) -> Vec<u8> {
        let mut content = new_box(b"mfhd", &words(&[0, 7]));
        for &(id, time, flags) in trafs {
            let trun = match flags {
                Some(flags) => words(&[0x4, 1, flags]),
                None => words(&[0, 1]),
            };
            let tfhd = new_box(b"tfhd", &words(&[0x2_0000, id]));
            let tfdt = new_box(b"tfdt", &words(&[0, time]));
            content.extend(new_box(b"traf", &[tfhd, tfdt, new_box(b"trun", &trun)].concat()));
        }
        new_box(b"moof", &content)
    }

    fn is_random_access(kind: BoundaryKind) -> bool {
        matches!(kind, BoundaryKind::Fragment { random_access: true, .. })
    }

    #[test]
    fn boundaries_do_not_depend_on_pieces() {
        let whole = scan(SAMPLE, SAMPLE.len());
        assert_eq!(whole.len(), 1 + 40);
        assert_eq!(whole[0].kind, BoundaryKind::InitEnd);
        assert_eq!(whole.iter().filter(|found| is_random_access(found.kind)).count(), 8);
        for piece_bytes in [1, 7, 188, 1000, 65536] {
            assert_eq!(scan(SAMPLE, piece_bytes), whole, "pieces of {piece_bytes}");
        }
    }

    /// Every fragment of the sample agrees with an independent decoder.
    #[test]
    fn agrees_with_mp4_atom() {
        let found = scan(SAMPLE, 4096);
        let init_end = found[0].offset as usize;
        let init = parse_init(&SAMPLE[..init_end]).unwrap();
        let moov_at = SAMPLE.windows(4).position(|kind| kind == b"moov").unwrap() - 4;
        let moov = Moov::decode(&mut &SAMPLE[moov_at..]).unwrap();
        assert_eq!(init.tracks.len(), moov.trak.len());
        for (ours, theirs) in init.tracks.iter().zip(&moov.trak) {
            assert_eq!(ours.track_id, theirs.tkhd.track_id);
            assert_eq!(ours.timescale, theirs.mdia.mdhd.timescale);
        }
        assert_eq!(
            (init.tracks[0].handler, init.tracks[1].handler),
            (Handler::Video, Handler::Audio)
        );
        for boundary in &found[1..] {
            let bytes = &SAMPLE[boundary.offset as usize..];
            let moof_bytes = u32_at(bytes, 0).unwrap() as usize;
            let ours = parse_fragment(&bytes[..moof_bytes], &init).unwrap();
            let theirs = Moof::decode(&mut &bytes[..moof_bytes]).unwrap();
            assert_eq!(ours.sequence.unwrap().value, theirs.mfhd.sequence_number);
            assert_eq!(ours.tracks.len(), theirs.traf.len());
            for (ours, theirs) in ours.tracks.iter().zip(&theirs.traf) {
                compare_traf(ours, theirs);
            }
            let sync = ours.tracks[0].starts_with_sync;
            assert_eq!(is_random_access(boundary.kind), sync);
        }
    }

    fn compare_traf(ours: &TrackFragment, theirs: &mp4_atom::Traf) {
        let tfhd = &theirs.tfhd;
        assert_eq!(ours.track_id, tfhd.track_id);
        let time = theirs.tfdt.as_ref().unwrap().base_media_decode_time;
        assert_eq!(ours.decode_time.unwrap().value, time);
        let entries = || theirs.trun.iter().flat_map(|trun| trun.samples.iter());
        assert_eq!(ours.samples, entries().count() as u64);
        let default = tfhd.default_sample_duration.unwrap_or(0);
        let duration = entries().map(|entry| u64::from(entry.duration.unwrap_or(default)));
        assert_eq!(ours.duration, duration.sum::<u64>());
        let flags = entries().next().unwrap().flags.or(tfhd.default_sample_flags).unwrap();
        assert_eq!(ours.starts_with_sync, flags & NON_SYNC == 0);
    }

    #[test]
    fn rewritten_fields_are_read_back() {
        let init_end = scan(SAMPLE, 4096)[0].offset as usize;
        let init = parse_init(SAMPLE).unwrap();
        let moof_bytes = u32_at(SAMPLE, init_end).unwrap() as usize;
        let mut moof = SAMPLE[init_end..init_end + moof_bytes].to_vec();
        let fragment = parse_fragment(&moof, &init).unwrap();
        fragment.sequence.unwrap().rewrite(&mut moof, 77).unwrap();
        let field = fragment.tracks[1].decode_time.unwrap();
        field.rewrite(&mut moof, u64::MAX / 3).unwrap();
        let theirs = Moof::decode(&mut moof.as_slice()).unwrap();
        assert_eq!(theirs.mfhd.sequence_number, 77);
        let tfdt = theirs.traf[1].tfdt.as_ref().unwrap();
        assert_eq!(tfdt.base_media_decode_time, u64::MAX / 3);
    }

    #[test]
    fn a_narrow_time_stays_narrow() {
        let init = parse_init(&moov(&[b"vide"])).unwrap();
        let mut bytes = moof(&[(1, 5, None)]);
        let field = parse_fragment(&bytes, &init).unwrap().tracks[0].decode_time.unwrap();
        assert_eq!((field.value, field.wide), (5, false));
        field.rewrite(&mut bytes, u64::from(u32::MAX)).unwrap();
        assert_eq!(field.rewrite(&mut bytes, 1 << 32), Err(Fmp4Error::TimeOverflow));
        let again = parse_fragment(&bytes, &init).unwrap().tracks[0].decode_time.unwrap();
        assert_eq!(again.value, u64::from(u32::MAX));
    }

    #[test]
    fn sound_alone_is_no_place_to_join_a_picture() {
        let muxed = moov(&[b"soun", b"vide"]);
        let video_sync = moof(&[(1, 0, None), (2, 0, Some(0x0200_0000))]);
        let video_later = moof(&[(1, 0, None), (2, 0, Some(NON_SYNC))]);
        let sound = moof(&[(1, 0, None)]);
        let stream = [muxed, video_sync, video_later, sound.clone()].concat();
        let found: Vec<bool> =
            kinds(&stream).iter().map(|found| is_random_access(found.1)).collect();
        assert_eq!(found, [false, true, false, false]);
        let stream = [moov(&[b"soun"]), sound].concat();
        assert!(is_random_access(kinds(&stream)[1].1));
    }

    #[test]
    fn boxes_before_a_moof_belong_to_its_chunk() {
        let init = [new_box(b"ftyp", b"isom"), moov(&[b"vide"])].concat();
        let styp = [new_box(b"styp", b"msdh"), new_box(b"prft", &[0; 20])].concat();
        let chunk = [styp, moof(&[(1, 0, None)]), new_box(b"mdat", &[1; 30])].concat();
        let found = kinds(&[init.clone(), chunk.clone(), chunk.clone()].concat());
        assert_eq!(found[0], (init.len() as u64, BoundaryKind::InitEnd));
        assert_eq!(found[1].0, init.len() as u64);
        assert_eq!(found[2].0, (init.len() + chunk.len()) as u64);
    }

    #[test]
    fn a_second_preamble_is_told() {
        let init = [new_box(b"ftyp", b"isom"), moov(&[b"vide"])].concat();
        let stream = [init.clone(), moof(&[(1, 0, None)]), init.clone()].concat();
        let start = (stream.len() - init.len()) as u64;
        let last = kinds(&stream).pop().unwrap();
        assert_eq!(last, (stream.len() as u64, BoundaryKind::InitReplaced { start }));
    }

    #[test]
    fn other_streams_are_refused_once() {
        let plain = [new_box(b"ftyp", b"isom"), new_box(b"moov", &[])].concat();
        let unfragmented = new_box(b"moov", &new_box(b"free", &[0; 4]));
        let text = b"#EXTM3U\n#EXT-X-VERSION:9\n".to_vec();
        for stream in [plain, unfragmented, text, vec![0x47; 400], vec![0; 99], vec![0xff; 40]] {
            for piece_bytes in [1, 3, 400] {
                let found = scan(&stream, piece_bytes);
                assert_eq!(found.len(), 1, "{stream:?}");
                assert_eq!(found[0].kind, BoundaryKind::NotFmp4);
            }
        }
    }

    #[test]
    fn lost_framing_and_large_moofs_are_told_once() {
        let good = [moov(&[b"vide"]), moof(&[(1, 0, None)])].concat();
        let huge = [&((MOOF_BYTES_MAX as u32) + 8).to_be_bytes(), b"moof".as_slice()].concat();
        for bad in [vec![0, 0, 0, 3, b'm', b'd', b'a', b't'], vec![1; 64], huge] {
            let found = kinds(&[good.clone(), bad, good.clone()].concat());
            let offset = good.len() as u64;
            assert_eq!(found[2..], [(offset, BoundaryKind::Lost)]);
        }
    }

    #[test]
    fn large_sizes_and_endless_boxes_are_stepped_over() {
        let large = [words(&[1]), b"mdat".to_vec(), words(&[0, 20]), vec![9; 4]].concat();
        let endless = [words(&[0]), b"mdat".to_vec(), vec![0xff; 100]].concat();
        let head = [moov(&[b"vide"]), moof(&[(1, 0, None)])].concat();
        let found = kinds(&[head, large, moof(&[(1, 40, None)]), endless].concat());
        assert_eq!(found.len(), 3);
        let BoundaryKind::Fragment { timing: Some(timing), .. } = found[2].1 else {
            panic!("{found:?}");
        };
        assert_eq!((timing.decode_time, timing.duration, timing.timescale), (40, 40, 1000));
    }

    #[test]
    fn sample_counts_are_not_believed() {
        let init = parse_init(&moov(&[b"vide"])).unwrap();
        let tfhd = new_box(b"tfhd", &words(&[0, 1]));
        let trun = new_box(b"trun", &words(&[0x100, u32::MAX, 40]));
        let traf = new_box(b"traf", &[tfhd, trun].concat());
        assert_eq!(parse_fragment(&new_box(b"moof", &traf), &init), Err(Fmp4Error::BoxSize));
    }

    #[test]
    fn times_before_a_moof_are_found() {
        let init = parse_init(&moov(&[b"vide"])).unwrap();
        let sidx = new_box(b"sidx", &words(&[0, 1, 600, 42, 0]));
        let (field, timescale) = prefix_time(&sidx, &init).unwrap().unwrap();
        assert_eq!((field.value, field.position, timescale), (42, 20, 600));
        let prft = new_box(b"prft", &words(&[0x0100_0000, 1, 0, 0, 0, 9]));
        let (field, timescale) = prefix_time(&prft, &init).unwrap().unwrap();
        assert_eq!((field.value, field.wide, timescale), (9, true, 1000));
        assert_eq!(prefix_time(&new_box(b"styp", b"msdh"), &init), Ok(None));
    }

    /// Whatever follows from `bytes`, nothing panics and nothing is told twice after the end.
    fn survives(bytes: &[u8], piece_bytes: usize) {
        let found = scan(bytes, piece_bytes);
        let ends = |kind| matches!(kind, BoundaryKind::NotFmp4 | BoundaryKind::Lost);
        let end = found.iter().position(|found| ends(found.kind));
        assert!(end.is_none_or(|end| end + 1 == found.len()));
        let init = parse_init(bytes).unwrap_or_default();
        let _ = parse_fragment(bytes, &init);
        let _ = prefix_time(bytes, &init);
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
    }
}
