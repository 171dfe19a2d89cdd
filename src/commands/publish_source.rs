//! The source of `publish`, cut into units: an MP4 into its preamble and its fragments, a transport
//! stream into groups of packets, each with the time at which it is due. A source that is repeated
//! counts on: time stamps, sequence numbers and continuity counters. No network here, and no clock:
//! `publish` paces the units, `publish_upload` sends them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, Bytes};

use crate::wire::fmp4::{self, BoxHead, Fmp4Error, Fragment, Init};
use crate::wire::mpegts::{self, ContinuityRewriter, PACKET_BYTES, TsScanner};

/// What to publish.
#[derive(Debug, Clone)]
pub enum Source {
    Bytes { name: &'static str, bytes: Bytes },
    File(PathBuf),
    Stdin,
}

/// How much of a source is held in memory.
#[derive(Debug, Clone, Copy)]
pub struct UnitLimits {
    /// Largest fragment (moof and mdat) that is sent, and the memory that it may take.
    pub fragment_bytes_max: usize,
    /// A group of TS packets is cut here if no picture begins before.
    pub group_bytes_max: usize,
}

/// Why a source cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read {name}: {error}")]
    Read { name: String, error: io::Error },
    #[error("standard input cannot be repeated")]
    StdinRepeated,
    #[error("{0} is neither a fragmented MP4 nor an MPEG-TS stream")]
    UnknownFormat(String),
    #[error(
        "{name} is an MP4 without fragments and cannot be sent as a stream; fragment it with:\n  \
         ffmpeg -i {name} -c copy -movflags +cmaf+empty_moov+default_base_moof \
         -frag_duration 200000 -f mp4 OUT.mp4"
    )]
    NotFragmented { name: String },
    #[error("{name}: a fragment at byte {position} comes before any moov box")]
    NoPreamble { name: String, position: u64 },
    #[error("{name}: before byte {position}: {error}")]
    Box { name: String, position: u64, error: Fmp4Error },
    #[error("{name}: the fragment at byte {position} has more than {limit} bytes")]
    FragmentTooLarge { name: String, position: u64, limit: usize },
    #[error("{0} has no timestamps, or lasts no time: it cannot be repeated")]
    CannotLoop(String),
}

/// What goes into one HTTP chunk.
pub(super) struct Unit {
    pub(super) bytes: Vec<u8>,
    /// Media time since the first timestamp; without one it is sent at once.
    pub(super) due: Option<Duration>,
}

/// A recognised source.
pub(super) enum Media {
    Mp4(Box<Mp4Units>),
    Ts(Box<TsUnits>),
}

impl Media {
    pub(super) fn open(
        source: Source,
        looping: bool,
        limits: UnitLimits,
    ) -> Result<Media, SourceError> {
        let mut input = Input::open(source, looping)?;
        let head = input.peek(2 * PACKET_BYTES as u64)?;
        if head.first() == Some(&0x47) && head.get(PACKET_BYTES) == Some(&0x47) {
            return Ok(Media::Ts(Box::new(TsUnits::new(input, limits.group_bytes_max))));
        }
        match BoxHead::parse(&head) {
            Ok(Some(first)) if fmp4::may_begin_stream(&first.kind) || &first.kind == b"mdat" => {
                Ok(Media::Mp4(Box::new(Mp4Units::new(input, limits.fragment_bytes_max))))
            }
            _ => Err(SourceError::UnknownFormat(input.name)),
        }
    }

    pub(super) fn content_type(&self) -> &'static str {
        match self {
            Media::Mp4(_) => "video/mp4",
            Media::Ts(_) => "video/mp2t",
        }
    }

    pub(super) fn input(&self) -> &Input {
        match self {
            Media::Mp4(units) => &units.input,
            Media::Ts(units) => &units.input,
        }
    }

    pub(super) fn next_unit(&mut self) -> Result<Option<Unit>, SourceError> {
        match self {
            Media::Mp4(units) => units.next_unit(),
            Media::Ts(units) => units.next_unit(),
        }
    }
}

/// Sequential reading of a source that can begin again.
pub(super) struct Input {
    source: Source,
    name: String,
    reader: Box<dyn Read>,
    /// Of the next byte in the source.
    pub(super) position: u64,
    pub(super) file_bytes: Option<u64>,
    /// How often the source has begun again.
    pub(super) pass: u64,
    looping: bool,
    /// An incomplete fragment or packet at the end, or bytes between packets: not sent.
    pub(super) dropped_bytes: u64,
}

impl Input {
    fn open(source: Source, looping: bool) -> Result<Input, SourceError> {
        let (name, file_bytes) = match &source {
            Source::Bytes { name, bytes } => ((*name).to_owned(), Some(bytes.len() as u64)),
            Source::File(path) => {
                let bytes = std::fs::metadata(path).ok().filter(|file| file.is_file());
                (path.display().to_string(), bytes.map(|file| file.len()))
            }
            Source::Stdin if looping => {
                return Err(SourceError::StdinRepeated);
            }
            Source::Stdin => ("standard input".to_owned(), None),
        };
        let reader: Box<dyn Read> = Box::new(io::empty());
        let (position, pass, dropped_bytes) = (0, 0, 0);
        let mut input =
            Input { source, name, reader, position, file_bytes, pass, looping, dropped_bytes };
        input.reader = input.reopen()?;
        Ok(input)
    }

    fn reopen(&self) -> Result<Box<dyn Read>, SourceError> {
        Ok(match &self.source {
            Source::Bytes { bytes, .. } => Box::new(bytes.clone().reader()),
            Source::File(path) => {
                Box::new(BufReader::new(File::open(path).map_err(|error| self.read_error(error))?))
            }
            Source::Stdin => Box::new(io::stdin().lock()),
        })
    }

    fn rewind(&mut self) -> Result<(), SourceError> {
        assert!(self.looping);
        self.reader = self.reopen()?;
        self.position = 0;
        self.pass += 1;
        Ok(())
    }

    /// Appends `count` bytes, or less where the source ends; memory grows with what is there.
    fn fill(&mut self, out: &mut Vec<u8>, count: u64) -> Result<u64, SourceError> {
        let read = self.reader.by_ref().take(count).read_to_end(out);
        let read = read.map_err(|error| self.read_error(error))? as u64;
        self.position += read;
        Ok(read)
    }

    /// The first bytes, which will be read again.
    fn peek(&mut self, count: u64) -> Result<Vec<u8>, SourceError> {
        assert!(self.position == 0);
        let mut head = Vec::new();
        self.fill(&mut head, count)?;
        let rest = std::mem::replace(&mut self.reader, Box::new(io::empty()));
        self.reader = Box::new(Read::chain(Cursor::new(head.clone()), rest));
        self.position = 0;
        Ok(head)
    }

    fn read_error(&self, error: io::Error) -> SourceError {
        SourceError::Read { name: self.name.clone(), error }
    }

    fn box_error(&self, error: Fmp4Error) -> SourceError {
        SourceError::Box { name: self.name.clone(), position: self.position, error }
    }
}

const NANOS: u128 = 1_000_000_000;

/// Cuts an MP4 into its preamble and its fragments. The first pass is sent byte for byte as it is;
/// later ones without preamble and index (mfra), and with times and sequence numbers that count on.
/// All tracks move by the same time, that of the longest, so that sound and picture stay together.
pub(super) struct Mp4Units {
    input: Input,
    fragment_bytes_max: usize,
    init: Option<Init>,
    unit: Vec<u8>,
    /// Boxes of the unit, and where they begin in it.
    boxes: Vec<([u8; 4], usize)>,
    /// Where the next fragment of a track begins, in its ticks.
    track_ends: BTreeMap<u32, u64>,
    /// First timestamp of all, and of the first fragment, in nanoseconds.
    start_min: Option<u128>,
    first: Option<u128>,
    /// Duration of one pass; known at its end.
    pass_nanos: u128,
    /// Bytes of all units before this one: where it begins in the stream.
    taken_bytes: u64,
    sequence: u32,
    ended: bool,
}

impl Mp4Units {
    fn new(input: Input, fragment_bytes_max: usize) -> Mp4Units {
        Mp4Units {
            input,
            fragment_bytes_max,
            init: None,
            unit: Vec::new(),
            boxes: Vec::new(),
            track_ends: BTreeMap::new(),
            start_min: None,
            first: None,
            pass_nanos: 0,
            taken_bytes: 0,
            sequence: 0,
            ended: false,
        }
    }

    fn next_unit(&mut self) -> Result<Option<Unit>, SourceError> {
        while !self.ended {
            let Some(kind) = self.read_box()? else {
                match self.end_pass()? {
                    Some(unit) => return Ok(Some(unit)),
                    None => continue,
                }
            };
            match &kind {
                b"moov" if self.input.pass > 0 => self.clear(),
                b"moov" => {
                    let init = fmp4::parse_init(&self.unit);
                    self.init = Some(init.map_err(|error| self.input.box_error(error))?);
                    if self.init.as_ref().is_none_or(|init| !init.fragmented) {
                        return Err(self.not_fragmented());
                    }
                    return Ok(Some(self.take(None)));
                }
                b"mdat" => return Ok(Some(self.finish_fragment()?)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Appends the next box to the unit. `None`: the source has ended; a torn box is given up.
    fn read_box(&mut self) -> Result<Option<[u8; 4]>, SourceError> {
        let begin = self.unit.len();
        let position = self.input.position;
        let mut wanted = 8;
        let head = loop {
            let read = self.input.fill(&mut self.unit, wanted)?;
            let head = BoxHead::parse(self.unit.get(begin..).unwrap_or_default());
            match head.map_err(|error| self.input.box_error(error))? {
                Some(head) => break head,
                None if read < wanted => return Ok(self.give_up(begin)),
                None => wanted = (BoxHead::BYTES_MAX - 8) as u64,
            }
        };
        match &head.kind {
            b"mdat" if self.init.is_none() => return Err(self.not_fragmented()),
            b"moof" if self.init.is_none() => {
                return Err(SourceError::NoPreamble { name: self.input.name.clone(), position });
            }
            _ => {}
        }
        let room = (self.fragment_bytes_max as u64).saturating_sub(self.unit.len() as u64);
        let left = head.total_bytes.map(|total| total - head.head_bytes as u64);
        let read = self.input.fill(&mut self.unit, left.unwrap_or(room + 1).min(room + 1))?;
        if read > room {
            let (name, limit) = (self.input.name.clone(), self.fragment_bytes_max);
            return Err(SourceError::FragmentTooLarge { name, position, limit });
        }
        if left.is_some_and(|left| read < left) {
            return Ok(self.give_up(begin));
        }
        self.boxes.push((head.kind, begin));
        Ok(Some(head.kind))
    }

    fn give_up(&mut self, begin: usize) -> Option<[u8; 4]> {
        // A moof without its whole mdat is of no use either.
        let moof = self.boxes.iter().find(|(kind, _)| kind == b"moof");
        let keep = moof.map_or(begin, |&(_, moof)| moof);
        self.input.dropped_bytes = (self.unit.len() - keep) as u64;
        self.unit.truncate(keep);
        None
    }

    fn finish_fragment(&mut self) -> Result<Unit, SourceError> {
        let Some(init) = self.init.take() else {
            return Err(self.not_fragmented());
        };
        let shifted = self.shift_unit(&init);
        self.init = Some(init);
        let start = shifted.map_err(|error| self.input.box_error(error))?;
        let due = start.map(|start| {
            let first = *self.first.get_or_insert(start);
            from_nanos(start.saturating_sub(first))
        });
        Ok(self.take(due))
    }

    /// Corrects the unit for its pass; returns when it is to be decoded, in nanoseconds.
    fn shift_unit(&mut self, init: &Init) -> Result<Option<u128>, Fmp4Error> {
        let shift_nanos = self.pass_nanos.saturating_mul(u128::from(self.input.pass));
        let mut start: Option<u128> = None;
        for (kind, begin) in std::mem::take(&mut self.boxes) {
            let Some(bytes) = self.unit.get_mut(begin..) else {
                continue;
            };
            if &kind == b"moof" {
                let fragment = fmp4::parse_fragment(bytes, init)?;
                let at = self.shift_moof(begin, &fragment, init)?;
                start = start.into_iter().chain(at).min();
            } else if self.input.pass > 0
                && let Some((field, timescale)) = fmp4::prefix_time(bytes, init)?
            {
                field.rewrite(bytes, shifted(field.value, timescale, shift_nanos))?;
            }
        }
        Ok(start.map(|start| start.saturating_add(shift_nanos)))
    }

    /// Returns when the fragment is to be decoded, in nanoseconds of the first pass.
    fn shift_moof(
        &mut self,
        begin: usize,
        fragment: &Fragment,
        init: &Init,
    ) -> Result<Option<u128>, Fmp4Error> {
        let shift_nanos = self.pass_nanos.saturating_mul(u128::from(self.input.pass));
        let repeated = self.input.pass > 0;
        let unit_start = self.input.position - self.unit.len() as u64;
        let Some(moof) = self.unit.get_mut(begin..) else {
            return Ok(None);
        };
        if let Some(field) = fragment.sequence {
            self.sequence = if repeated { self.sequence.wrapping_add(1) } else { field.value };
            field.rewrite(moof, self.sequence)?;
        }
        let mut earliest: Option<u128> = None;
        for traf in &fragment.tracks {
            let Some(track) = init.track(traf.track_id) else {
                continue;
            };
            let end = self.track_ends.entry(traf.track_id).or_default();
            let begins = traf.decode_time.map_or(*end, |field| field.value);
            *end = begins.saturating_add(traf.duration);
            let nanos = u128::from(begins) * NANOS / u128::from(track.timescale);
            earliest = Some(earliest.map_or(nanos, |earliest| earliest.min(nanos)));
            if repeated && let Some(field) = traf.decode_time {
                field.rewrite(moof, shifted(field.value, track.timescale, shift_nanos))?;
            }
            if repeated && let Some(field) = traf.base_data_offset {
                // Counted from the first byte of the file; readers count in the stream.
                let moved = field.value.saturating_add(self.taken_bytes);
                let moved = moved.saturating_sub(unit_start);
                field.rewrite(moof, moved)?;
            }
        }
        if !repeated {
            self.start_min = self.start_min.into_iter().chain(earliest).min();
        }
        Ok(earliest)
    }

    /// The source has ended: either what is left is the last unit, or everything begins again.
    fn end_pass(&mut self) -> Result<Option<Unit>, SourceError> {
        if !self.input.looping {
            self.ended = true;
            return Ok((!self.unit.is_empty()).then(|| self.take(None)));
        }
        self.clear();
        if self.input.pass == 0 {
            self.pass_nanos = self.measure_pass();
            if self.pass_nanos == 0 {
                return Err(SourceError::CannotLoop(self.input.name.clone()));
            }
        }
        self.input.rewind()?;
        Ok(None)
    }

    /// From the first timestamp of any track to the end of the longest, rounded up.
    fn measure_pass(&self) -> u128 {
        let Some(init) = &self.init else { return 0 };
        let ends = self.track_ends.iter().filter_map(|(&track_id, &end)| {
            let timescale = u128::from(init.track(track_id)?.timescale);
            Some((u128::from(end) * NANOS).div_ceil(timescale))
        });
        ends.max().unwrap_or(0).saturating_sub(self.start_min.unwrap_or(0))
    }

    fn take(&mut self, due: Option<Duration>) -> Unit {
        self.boxes.clear();
        self.taken_bytes += self.unit.len() as u64;
        Unit { bytes: std::mem::take(&mut self.unit), due }
    }

    fn clear(&mut self) {
        self.unit.clear();
        self.boxes.clear();
    }

    fn not_fragmented(&self) -> SourceError {
        SourceError::NotFragmented { name: self.input.name.clone() }
    }
}

/// `ticks` moved by a time that need not be a whole number of ticks, rounded to the nearest.
fn shifted(ticks: u64, timescale: u32, nanos: u128) -> u64 {
    let moved = nanos.saturating_mul(u128::from(timescale)).saturating_add(NANOS / 2) / NANOS;
    ticks.saturating_add(u64::try_from(moved).unwrap_or(u64::MAX))
}

fn from_nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Cuts a transport stream into groups of packets, each from a picture (with the tables before it)
/// to the next. Later passes have clocks and continuity counters that count on.
pub(super) struct TsUnits {
    input: Input,
    group_bytes_max: usize,
    scanner: TsScanner,
    continuity: ContinuityRewriter,
    group: Vec<u8>,
    /// The group has its picture; the next one begins another group.
    has_picture: bool,
    /// Decoding time of that picture, 90 kHz, unwrapped.
    group_time: Option<u64>,
    clocks: BTreeMap<u16, StreamClock>,
    first: Option<u64>,
    start_min: Option<u64>,
    /// Duration of one pass in ticks of 90 kHz; known at its end.
    pass_ticks: u64,
    ended: bool,
}

/// Decoding times of one PID in the first pass, unwrapped.
#[derive(Clone, Copy)]
struct StreamClock {
    /// The latest time, from which the next is unwrapped; goes back with the source.
    near: u64,
    last: u64,
    step: u64,
    /// Bytes of the unit that `step` lasted, and of the one that began at `last`.
    step_bytes: u64,
    unit_bytes: u64,
}

impl StreamClock {
    /// When the last unit ends. The only hint is the unit before: a picture lasts as long as that
    /// one; of sound the last packet is often a shorter one, so it counts by its bytes, and a bit
    /// more.
    fn end(&self, picture: bool) -> u64 {
        let scaled = self.step.saturating_mul(self.unit_bytes) / self.step_bytes.max(1);
        let step = if picture { self.step } else { self.step.min(scaled + scaled / 16) };
        self.last + step
    }
}

impl TsUnits {
    fn new(input: Input, group_bytes_max: usize) -> TsUnits {
        TsUnits {
            input,
            group_bytes_max,
            scanner: TsScanner::new(),
            continuity: ContinuityRewriter::new(),
            group: Vec::new(),
            has_picture: false,
            group_time: None,
            clocks: BTreeMap::new(),
            first: None,
            start_min: None,
            pass_ticks: 0,
            ended: false,
        }
    }

    fn next_unit(&mut self) -> Result<Option<Unit>, SourceError> {
        while !self.ended {
            let Some(mut packet) = self.read_packet()? else {
                if !self.group.is_empty() {
                    return Ok(Some(self.take_group()));
                }
                self.end_pass()?;
                continue;
            };
            self.scanner.push(&packet, &mut |_| {});
            let time = self.observe(&packet);
            let head = mpegts::PacketHead::parse(&packet);
            let lead = self.scanner.lead().map(|(pid, _)| pid);
            let picture = head.is_some_and(|head| head.unit_start && lead == Some(head.pid));
            let starts_pat = head.is_some_and(|head| head.starts_pat());
            let full = self.group.len() + PACKET_BYTES > self.group_bytes_max;
            let split = full || self.has_picture && (picture || starts_pat);
            let before = (split && !self.group.is_empty()).then(|| self.take_group());
            if picture {
                self.has_picture = true;
                self.group_time = time;
            }
            if self.input.pass > 0 {
                mpegts::shift_times(&mut packet, self.shift_ticks());
            }
            self.continuity.rewrite(&mut packet);
            self.group.extend_from_slice(&packet);
            if before.is_some() {
                return Ok(before);
            }
        }
        Ok(None)
    }

    /// The next packet that begins with a sync byte; what lies between is dropped.
    fn read_packet(&mut self) -> Result<Option<mpegts::Packet>, SourceError> {
        let mut bytes = Vec::with_capacity(PACKET_BYTES);
        loop {
            let wanted = PACKET_BYTES - bytes.len();
            self.input.fill(&mut bytes, wanted as u64)?;
            let Ok(packet) = mpegts::Packet::try_from(bytes.as_slice()) else {
                self.input.dropped_bytes += bytes.len() as u64;
                return Ok(None);
            };
            if packet[0] == 0x47 {
                return Ok(Some(packet));
            }
            let sync = bytes.iter().position(|&byte| byte == 0x47).unwrap_or(bytes.len());
            self.input.dropped_bytes += sync as u64;
            bytes.drain(..sync);
        }
    }

    /// Follows the clock of the packet's PID; returns its decoding time if a PES packet begins
    /// here.
    fn observe(&mut self, packet: &mpegts::Packet) -> Option<u64> {
        let head = mpegts::PacketHead::parse(packet)?;
        let payload_bytes = (PACKET_BYTES - head.payload_at) as u64;
        let Some(value) = mpegts::pes_times(packet).decode_time() else {
            if let Some(clock) = self.clocks.get_mut(&head.pid) {
                clock.unit_bytes += payload_bytes;
            }
            return None;
        };
        // One turn ahead, so that a time before the first one does not fall below zero.
        let first = self.start_min.unwrap_or(value + mpegts::CLOCK_WRAP);
        let new = StreamClock { near: first, last: first, step: 0, step_bytes: 0, unit_bytes: 0 };
        let entry = self.clocks.entry(head.pid).or_insert(new);
        let time = mpegts::unwrap_clock(entry.near, value);
        entry.near = time;
        if self.input.pass == 0 {
            if time > entry.last && entry.unit_bytes > 0 {
                entry.step = time - entry.last;
                entry.step_bytes = entry.unit_bytes;
            }
            entry.last = entry.last.max(time);
            entry.unit_bytes = payload_bytes;
            self.start_min = Some(first.min(time));
        }
        Some(time)
    }

    fn shift_ticks(&self) -> u64 {
        self.pass_ticks.saturating_mul(self.input.pass)
    }

    fn take_group(&mut self) -> Unit {
        self.has_picture = false;
        let due = self.group_time.take().map(|time| {
            let time = time.saturating_add(self.shift_ticks());
            let first = *self.first.get_or_insert(time);
            let nanos = u128::from(time.saturating_sub(first)) * NANOS;
            from_nanos(nanos / u128::from(mpegts::CLOCK_HZ))
        });
        Unit { bytes: std::mem::take(&mut self.group), due }
    }

    fn end_pass(&mut self) -> Result<(), SourceError> {
        if !self.input.looping {
            self.ended = true;
            return Ok(());
        }
        if self.input.pass == 0 {
            let lead = self.scanner.lead();
            let ends = self.clocks.iter().map(|(&pid, clock)| clock.end(lead == Some((pid, true))));
            let end = ends.max();
            self.pass_ticks = end.zip(self.start_min).map_or(0, |(end, start)| end - start);
            if self.pass_ticks == 0 {
                return Err(SourceError::CannotLoop(self.input.name.clone()));
            }
        }
        for clock in self.clocks.values_mut() {
            clock.near = self.start_min.unwrap_or(clock.near);
        }
        self.continuity.begin_pass();
        self.input.rewind()
    }
}
