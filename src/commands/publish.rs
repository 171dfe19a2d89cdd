//! `headwater publish FILE URL`: plays a fragmented MP4 or MPEG-TS file into a server as an encoder
//! would: one PUT with chunked coding, one HTTP chunk per fragment, paced by the media's own clock,
//! and with `--loop` without an end. It never transcodes or re-fragments. `main` calls [`run`];
//! `demo` calls [`publish`] from a thread of its own with the bundled sample.
//!
//! | step    | leaves when |
//! |---------|-------------|
//! | open    | the source is recognised and the server is connected |
//! | send    | the source has ended, `stop` is set, or the server answers |
//! | finish  | the last chunk is sent and the server has answered |

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::runtime::clock;
use crate::wire::fmp4::{self, BoxHead, Fmp4Error, Fragment, Init};
use crate::wire::mpegts::{self, BoundaryKind, ContinuityRewriter, PACKET_BYTES, TsScanner};

#[derive(Debug, Clone, clap::Args)]
pub struct PublishArgs {
    /// Fragmented MP4 or MPEG-TS file; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Where to PUT it, e.g. http://localhost:8080/live/one.mp4
    #[arg(value_name = "URL")]
    pub url: String,

    /// Begin again at the end, with timestamps that count on, until interrupted
    #[arg(long = "loop")]
    pub looping: bool,

    /// Speed as a multiple of real time; 0 sends as fast as the server takes it
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    pub rate: f64,

    /// Additional request header, e.g. 'Authorization: Bearer TOKEN' (may be repeated)
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
}

/// What to publish.
#[derive(Debug, Clone)]
pub enum Source {
    Bytes { name: &'static str, bytes: Bytes },
    File(PathBuf),
    Stdin,
}

/// All limits and choices of one publication.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    pub looping: bool,
    /// Multiple of real time; 0 does not wait.
    pub rate: f64,
    /// Additional header lines, `Name: value`.
    pub headers: Vec<String>,
    /// Largest fragment (moof and mdat) that is sent, and the memory that it may take.
    pub fragment_bytes_max: usize,
    /// A group of TS packets is cut here if no picture begins before.
    pub group_bytes_max: usize,
    /// A jump of the media clock beyond this is not waited for.
    pub gap_seconds_max: u64,
    pub connect_seconds_max: u64,
    /// Without one byte taken by the server for so long, it counts as lost.
    pub stall_seconds_max: u64,
    /// How long the server may take to answer after the end.
    pub answer_seconds_max: u64,
}

impl Default for PublishOptions {
    fn default() -> PublishOptions {
        PublishOptions {
            looping: false,
            rate: 1.0,
            headers: Vec::new(),
            fragment_bytes_max: 64 * 1024 * 1024,
            group_bytes_max: 4 * 1024 * 1024,
            gap_seconds_max: 10,
            connect_seconds_max: 5,
            stall_seconds_max: 30,
            answer_seconds_max: 30,
        }
    }
}

/// Told after each chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Media bytes sent, over all loops, and the HTTP chunks that carried them.
    pub sent_bytes: u64,
    pub chunks: u64,
    /// Where reading is in the source, and its length if known.
    pub file_position: u64,
    pub file_bytes: Option<u64>,
    /// Time since the first timestamp, over all loops.
    pub media_time: Duration,
    /// How often the source has begun again.
    pub loops: u64,
}

/// How a publication ended that was not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    pub progress: Progress,
    /// The server's answer.
    pub status: u16,
    /// Ended by `stop`, not by the end of the source.
    pub stopped: bool,
    /// An incomplete fragment or packet at the end of the source, which was not sent.
    pub dropped_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("cannot publish to {url}: {reason}")]
    Url { url: String, reason: &'static str },
    #[error("header {0:?} is not of the form 'Name: value'")]
    Header(String),
    #[error("{0}")]
    Options(&'static str),
    #[error("cannot read {name}: {error}")]
    Read { name: String, error: io::Error },
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
    Box {
        name: String,
        position: u64,
        error: Fmp4Error,
    },
    #[error("{name}: the fragment at byte {position} has more than {limit} bytes")]
    FragmentTooLarge {
        name: String,
        position: u64,
        limit: usize,
    },
    #[error("{0} has no timestamps, or lasts no time: it cannot be repeated")]
    CannotLoop(String),
    #[error(
        "nothing answers at {authority} ({error}); start the server with `headwater serve`, \
         or correct host and port of the URL"
    )]
    Connect { authority: String, error: io::Error },
    #[error("the server answered {status} {reason}{}", detail(.line))]
    Refused {
        status: u16,
        reason: String,
        line: String,
    },
    #[error("the server's answer is not HTTP/1.x")]
    BadAnswer,
    #[error("the server closed the connection after {sent_bytes} bytes without an answer: {error}")]
    Lost { sent_bytes: u64, error: io::Error },
    #[error("the server took no byte for {0} s")]
    Stalled(u64),
    #[error("everything was sent, but the server did not answer within {0} s")]
    NoAnswer(u64),
}

fn detail(line: &str) -> String {
    if line.is_empty() {
        String::new()
    } else {
        format!(": {line}")
    }
}

/// Runs the command: signals, progress bar, summary.
pub fn run(args: &PublishArgs) -> anyhow::Result<()> {
    let source = match args.file.to_str() {
        Some("-") => Source::Stdin,
        _ => Source::File(args.file.clone()),
    };
    let options = PublishOptions {
        looping: args.looping,
        rate: args.rate,
        headers: args.headers.clone(),
        ..PublishOptions::default()
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag unset and sets it, the second ends the
        // process.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let bar = progress_bar(&source);
    let result = publish(
        source,
        &args.url,
        &options,
        &|progress| show(&bar, progress),
        &stop,
    );
    bar.finish_and_clear();
    let published = result?;
    if published.dropped_bytes > 0 {
        eprintln!(
            "{} bytes at the end are incomplete and were not sent",
            published.dropped_bytes
        );
    }
    let Progress {
        sent_bytes,
        chunks,
        media_time,
        loops,
        ..
    } = published.progress;
    eprintln!(
        "published {sent_bytes} bytes in {chunks} chunks, {:.1} s of media, {loops} loops; \
         the server answered {}",
        media_time.as_secs_f64(),
        published.status,
    );
    Ok(())
}

/// Hidden by indicatif when standard error is not a terminal.
fn progress_bar(source: &Source) -> ProgressBar {
    let template = match source {
        Source::Stdin => "{spinner} {bytes} {msg}",
        _ => "{bar:30} {bytes}/{total_bytes} {msg}",
    };
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn show(bar: &ProgressBar, progress: &Progress) {
    if bar.is_hidden() {
        return;
    }
    if let Some(bytes) = progress.file_bytes {
        bar.set_length(bytes);
    }
    bar.set_position(progress.file_position);
    let seconds = progress.media_time.as_secs_f64();
    let bits = progress.sent_bytes as f64 * 8.0;
    let rate = if seconds > 0.0 {
        bits / seconds / 1000.0
    } else {
        0.0
    };
    bar.set_message(format!(
        "{seconds:.1} s, {rate:.0} kbit/s, {} loops",
        progress.loops
    ));
}

/// Publishes `source` until it ends or `stop` is set, and returns when the server has answered.
/// With `stop` the body ends in good order, so that the object is sealed and not torn.
pub fn publish(
    source: Source,
    url: &str,
    options: &PublishOptions,
    progress: &dyn Fn(&Progress),
    stop: &AtomicBool,
) -> Result<Published, PublishError> {
    if !options.rate.is_finite() || options.rate < 0.0 {
        return Err(PublishError::Options(
            "the rate must be 0 or a positive number",
        ));
    }
    let target = Target::parse(url)?;
    let mut media = Media::open(source, options)?;
    // A source that cannot be sent is found out before the server hears of it.
    let mut next = media.next_unit()?;
    let mut connection = Connection::open(&target, options)?;
    connection.send_head(&target, media.content_type(), &options.headers)?;
    let mut pacer = Pacer::new(options);
    let mut told = Progress {
        file_bytes: media.input().file_bytes,
        ..Progress::default()
    };
    while let Some(unit) = next {
        told.media_time = told.media_time.max(unit.due.unwrap_or_default());
        if let Some(deadline) = unit.due.and_then(|due| pacer.deadline(due)) {
            connection.wait(deadline, stop)?;
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        connection.send_chunk(&unit.bytes)?;
        told.sent_bytes += unit.bytes.len() as u64;
        told.chunks += 1;
        told.file_position = media.input().position;
        told.loops = media.input().pass;
        progress(&told);
        next = media.next_unit()?;
    }
    let status = connection.finish()?;
    Ok(Published {
        progress: told,
        status,
        stopped: stop.load(Ordering::Relaxed),
        dropped_bytes: media.input().dropped_bytes,
    })
}

/// Turns media time into wall time.
struct Pacer {
    rate: f64,
    gap_max: Duration,
    /// Wall and media time from which is counted, and the media time of the last unit.
    origin: Option<(Instant, Duration, Duration)>,
}

impl Pacer {
    fn new(options: &PublishOptions) -> Pacer {
        let gap_max = Duration::from_secs(options.gap_seconds_max);
        Pacer {
            rate: options.rate,
            gap_max,
            origin: None,
        }
    }

    fn deadline(&mut self, due: Duration) -> Option<Instant> {
        if self.rate == 0.0 {
            return None;
        }
        let (wall, first, last) = match self.origin {
            Some((wall, first, last)) if due.abs_diff(last) <= self.gap_max => (wall, first, last),
            // The first unit, or a jump of the media's clock: count from here.
            _ => (clock::now(), due, due),
        };
        self.origin = Some((wall, first, last.max(due)));
        let ahead = due.saturating_sub(first).as_secs_f64() / self.rate;
        wall.checked_add(Duration::try_from_secs_f64(ahead).ok()?)
    }
}

/// What goes into one HTTP chunk.
struct Unit {
    bytes: Vec<u8>,
    /// Media time since the first timestamp; without one it is sent at once.
    due: Option<Duration>,
}

/// Sequential reading of a source that can begin again.
struct Input {
    source: Source,
    name: String,
    reader: Box<dyn Read>,
    /// Of the next byte in the source.
    position: u64,
    file_bytes: Option<u64>,
    /// How often the source has begun again.
    pass: u64,
    looping: bool,
    dropped_bytes: u64,
}

impl Input {
    fn open(source: Source, looping: bool) -> Result<Input, PublishError> {
        let (name, file_bytes) = match &source {
            Source::Bytes { name, bytes } => ((*name).to_owned(), Some(bytes.len() as u64)),
            Source::File(path) => {
                let bytes = std::fs::metadata(path).ok().filter(|file| file.is_file());
                (path.display().to_string(), bytes.map(|file| file.len()))
            }
            Source::Stdin if looping => {
                return Err(PublishError::Options("standard input cannot be repeated"));
            }
            Source::Stdin => ("standard input".to_owned(), None),
        };
        let reader: Box<dyn Read> = Box::new(io::empty());
        let (position, pass, dropped_bytes) = (0, 0, 0);
        let mut input = Input {
            source,
            name,
            reader,
            position,
            file_bytes,
            pass,
            looping,
            dropped_bytes,
        };
        input.reader = input.reopen()?;
        Ok(input)
    }

    fn reopen(&self) -> Result<Box<dyn Read>, PublishError> {
        Ok(match &self.source {
            Source::Bytes { bytes, .. } => Box::new(bytes.clone().reader()),
            Source::File(path) => Box::new(BufReader::new(
                File::open(path).map_err(|error| self.read_error(error))?,
            )),
            Source::Stdin => Box::new(io::stdin().lock()),
        })
    }

    fn rewind(&mut self) -> Result<(), PublishError> {
        assert!(self.looping);
        self.reader = self.reopen()?;
        self.position = 0;
        self.pass += 1;
        Ok(())
    }

    /// Appends `count` bytes, or less where the source ends; memory grows with what is there.
    fn fill(&mut self, out: &mut Vec<u8>, count: u64) -> Result<u64, PublishError> {
        let read = self.reader.by_ref().take(count).read_to_end(out);
        let read = read.map_err(|error| self.read_error(error))? as u64;
        self.position += read;
        Ok(read)
    }

    /// The first bytes, which will be read again.
    fn peek(&mut self, count: u64) -> Result<Vec<u8>, PublishError> {
        assert!(self.position == 0);
        let mut head = Vec::new();
        self.fill(&mut head, count)?;
        let rest = std::mem::replace(&mut self.reader, Box::new(io::empty()));
        self.reader = Box::new(Read::chain(Cursor::new(head.clone()), rest));
        self.position = 0;
        Ok(head)
    }

    fn read_error(&self, error: io::Error) -> PublishError {
        PublishError::Read {
            name: self.name.clone(),
            error,
        }
    }

    fn box_error(&self, error: Fmp4Error) -> PublishError {
        PublishError::Box {
            name: self.name.clone(),
            position: self.position,
            error,
        }
    }
}

/// A recognised source.
enum Media {
    Mp4(Box<Mp4Units>),
    Ts(Box<TsUnits>),
}

impl Media {
    fn open(source: Source, options: &PublishOptions) -> Result<Media, PublishError> {
        let mut input = Input::open(source, options.looping)?;
        let head = input.peek(2 * PACKET_BYTES as u64)?;
        if head.first() == Some(&0x47) && head.get(PACKET_BYTES) == Some(&0x47) {
            return Ok(Media::Ts(Box::new(TsUnits::new(
                input,
                options.group_bytes_max,
            ))));
        }
        match BoxHead::parse(&head) {
            Ok(Some(first)) if fmp4::may_begin_stream(&first.kind) || &first.kind == b"mdat" => Ok(
                Media::Mp4(Box::new(Mp4Units::new(input, options.fragment_bytes_max))),
            ),
            _ => Err(PublishError::UnknownFormat(input.name)),
        }
    }

    fn content_type(&self) -> &'static str {
        match self {
            Media::Mp4(_) => "video/mp4",
            Media::Ts(_) => "video/mp2t",
        }
    }

    fn input(&self) -> &Input {
        match self {
            Media::Mp4(units) => &units.input,
            Media::Ts(units) => &units.input,
        }
    }

    fn next_unit(&mut self) -> Result<Option<Unit>, PublishError> {
        match self {
            Media::Mp4(units) => units.next_unit(),
            Media::Ts(units) => units.next_unit(),
        }
    }
}

const NANOS: u128 = 1_000_000_000;

/// Cuts an MP4 into its preamble and its fragments. The first pass is sent byte for byte as it is;
/// later ones without preamble and index (mfra), and with times and sequence numbers that count on.
/// All tracks move by the same time, that of the longest, so that sound and picture stay together.
struct Mp4Units {
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

    fn next_unit(&mut self) -> Result<Option<Unit>, PublishError> {
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
    fn read_box(&mut self) -> Result<Option<[u8; 4]>, PublishError> {
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
                return Err(PublishError::NoPreamble {
                    name: self.input.name.clone(),
                    position,
                });
            }
            _ => {}
        }
        let room = (self.fragment_bytes_max as u64).saturating_sub(self.unit.len() as u64);
        let left = head.total_bytes.map(|total| total - head.head_bytes as u64);
        let read = self
            .input
            .fill(&mut self.unit, left.unwrap_or(room + 1).min(room + 1))?;
        if read > room {
            let (name, limit) = (self.input.name.clone(), self.fragment_bytes_max);
            return Err(PublishError::FragmentTooLarge {
                name,
                position,
                limit,
            });
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

    fn finish_fragment(&mut self) -> Result<Unit, PublishError> {
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
            self.sequence = if repeated {
                self.sequence.wrapping_add(1)
            } else {
                field.value
            };
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
    fn end_pass(&mut self) -> Result<Option<Unit>, PublishError> {
        if !self.input.looping {
            self.ended = true;
            return Ok((!self.unit.is_empty()).then(|| self.take(None)));
        }
        self.clear();
        if self.input.pass == 0 {
            self.pass_nanos = self.measure_pass();
            if self.pass_nanos == 0 {
                return Err(PublishError::CannotLoop(self.input.name.clone()));
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
        ends.max()
            .unwrap_or(0)
            .saturating_sub(self.start_min.unwrap_or(0))
    }

    fn take(&mut self, due: Option<Duration>) -> Unit {
        self.boxes.clear();
        self.taken_bytes += self.unit.len() as u64;
        Unit {
            bytes: std::mem::take(&mut self.unit),
            due,
        }
    }

    fn clear(&mut self) {
        self.unit.clear();
        self.boxes.clear();
    }

    fn not_fragmented(&self) -> PublishError {
        PublishError::NotFragmented {
            name: self.input.name.clone(),
        }
    }
}

/// `ticks` moved by a time that need not be a whole number of ticks, rounded to the nearest.
fn shifted(ticks: u64, timescale: u32, nanos: u128) -> u64 {
    let moved = nanos
        .saturating_mul(u128::from(timescale))
        .saturating_add(NANOS / 2)
        / NANOS;
    ticks.saturating_add(u64::try_from(moved).unwrap_or(u64::MAX))
}

fn from_nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Cuts a transport stream into groups of packets, each from a picture (with the tables before it)
/// to the next. Later passes have clocks and continuity counters that count on.
struct TsUnits {
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
        let step = if picture {
            self.step
        } else {
            self.step.min(scaled + scaled / 16)
        };
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

    fn next_unit(&mut self) -> Result<Option<Unit>, PublishError> {
        while !self.ended {
            let Some(mut packet) = self.read_packet()? else {
                if !self.group.is_empty() {
                    return Ok(Some(self.take_group()));
                }
                self.end_pass()?;
                continue;
            };
            let mut picture = None;
            self.scanner.push(&packet, &mut |boundary| {
                if let BoundaryKind::PesStart { times } = boundary.kind {
                    picture = Some(times);
                }
            });
            let time = self.observe(&packet);
            let head = mpegts::PacketHead::parse(&packet);
            let starts_pat = head.is_some_and(|head| head.starts_pat());
            let full = self.group.len() + PACKET_BYTES > self.group_bytes_max;
            let split = full || self.has_picture && (picture.is_some() || starts_pat);
            let before = (split && !self.group.is_empty()).then(|| self.take_group());
            if picture.is_some() {
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
    fn read_packet(&mut self) -> Result<Option<mpegts::Packet>, PublishError> {
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
            let sync = bytes
                .iter()
                .position(|&byte| byte == 0x47)
                .unwrap_or(bytes.len());
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
        let new = StreamClock {
            near: first,
            last: first,
            step: 0,
            step_bytes: 0,
            unit_bytes: 0,
        };
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
        Unit {
            bytes: std::mem::take(&mut self.group),
            due,
        }
    }

    fn end_pass(&mut self) -> Result<(), PublishError> {
        if !self.input.looping {
            self.ended = true;
            return Ok(());
        }
        if self.input.pass == 0 {
            let lead = self.scanner.lead();
            let ends = self
                .clocks
                .iter()
                .map(|(&pid, clock)| clock.end(lead == Some((pid, true))));
            let end = ends.max();
            self.pass_ticks = end
                .zip(self.start_min)
                .map_or(0, |(end, start)| end - start);
            if self.pass_ticks == 0 {
                return Err(PublishError::CannotLoop(self.input.name.clone()));
            }
        }
        for clock in self.clocks.values_mut() {
            clock.near = self.start_min.unwrap_or(clock.near);
        }
        self.continuity.begin_pass();
        self.input.rewind()
    }
}

/// An `http://` URL, taken apart.
struct Target {
    /// Host and port as in the Host header.
    authority: String,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Target, PublishError> {
        let wrong = |reason| PublishError::Url {
            url: url.to_owned(),
            reason,
        };
        let (scheme, rest) = url
            .split_once("://")
            .ok_or(wrong("it does not begin with http://"))?;
        if scheme.eq_ignore_ascii_case("https") {
            return Err(wrong(
                "publish speaks http:// only; put a TLS proxy in between",
            ));
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(wrong("it does not begin with http://"));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(wrong(
                "a name and password belong into --header 'Authorization: ...'",
            ));
        }
        let (host, port) = match authority
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(port))),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = port
            .map_or(Ok(80), str::parse)
            .map_err(|_| wrong("the port is no number"))?;
        if host.is_empty() || path.is_empty() || path == "/" {
            return Err(wrong("it needs a host and a path"));
        }
        let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !printable(authority) || !printable(path) {
            return Err(wrong("it has characters that must be percent-encoded"));
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        let path = format!("{slash}{path}");
        Ok(Target {
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            path,
        })
    }
}

const ANSWER_BYTES_MAX: usize = 16 * 1024;
const ANSWER_HEADERS_MAX: usize = 64;
/// What is shown of an answer's body, and how long it is waited for.
const LINE_BYTES_MAX: usize = 512;
const LINE_WAIT: Duration = Duration::from_secs(1);
/// How often a wait looks at `stop`, which is set by a signal or by another thread.
const STOP_POLL: Duration = Duration::from_millis(100);

/// The upload: sends, and watches at the same time for an answer.
struct Connection {
    stream: TcpStream,
    /// Chunk with its framing.
    frame: Vec<u8>,
    received: Vec<u8>,
    /// The server has closed its side.
    peer_closed: bool,
    sent_bytes: u64,
    stall_seconds_max: u64,
    answer_seconds_max: u64,
}

struct Answer {
    status: u16,
    reason: String,
    chunked: bool,
}

impl Connection {
    fn open(target: &Target, options: &PublishOptions) -> Result<Connection, PublishError> {
        let stream = connect(target, options.connect_seconds_max).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        let unreachable = |error| {
            let authority = target.authority.clone();
            PublishError::Connect { authority, error }
        };
        Ok(Connection {
            stream: stream.map_err(unreachable)?,
            frame: Vec::new(),
            received: Vec::new(),
            peer_closed: false,
            sent_bytes: 0,
            stall_seconds_max: options.stall_seconds_max,
            answer_seconds_max: options.answer_seconds_max,
        })
    }

    fn send_head(
        &mut self,
        target: &Target,
        content_type: &str,
        headers: &[String],
    ) -> Result<(), PublishError> {
        let mut head = format!(
            "PUT {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: headwater-publish/{}\r\n\
             Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n",
            target.path,
            target.authority,
            env!("CARGO_PKG_VERSION"),
        );
        for header in headers {
            let named = header
                .split_once(':')
                .is_some_and(|(name, _)| !name.trim().is_empty());
            if !named || header.contains(|byte: char| byte.is_control()) {
                return Err(PublishError::Header(header.clone()));
            }
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.send(head.as_bytes())
    }

    fn send_chunk(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        assert!(!bytes.is_empty(), "an empty chunk would end the body");
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        frame.extend_from_slice(bytes);
        frame.extend_from_slice(b"\r\n");
        let sent = self.send(&frame);
        self.frame = frame;
        self.sent_bytes += bytes.len() as u64;
        sent
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        self.write_all(bytes)?;
        self.check_refused()
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), PublishError> {
        let stall_max = Duration::from_secs(self.stall_seconds_max);
        let mut progressed = clock::now();
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(self.lost(ErrorKind::WriteZero.into())),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    progressed = clock::now();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.poll(PollFlags::IN | PollFlags::OUT, STOP_POLL);
                    self.check_refused()?;
                    if clock::now().duration_since(progressed) > stall_max {
                        return Err(PublishError::Stalled(self.stall_seconds_max));
                    }
                }
                Err(error) => return Err(self.lost(error)),
            }
        }
        Ok(())
    }

    /// Returns at `deadline` or when `stop` is set; an answer that comes meanwhile is an error.
    fn wait(&mut self, deadline: Instant, stop: &AtomicBool) -> Result<(), PublishError> {
        while !stop.load(Ordering::Relaxed) {
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                break;
            }
            self.poll(PollFlags::IN, left.min(STOP_POLL));
            self.check_refused()?;
        }
        Ok(())
    }

    /// Ends the body in good order and waits for the answer.
    fn finish(&mut self) -> Result<u16, PublishError> {
        self.write_all(b"0\r\n\r\n")?;
        let deadline = clock::now() + Duration::from_secs(self.answer_seconds_max);
        loop {
            if let Some(answer) = self.answer()? {
                if (200..300).contains(&answer.status) {
                    return Ok(answer.status);
                }
                return Err(self.refused(answer));
            }
            if self.peer_closed {
                return Err(self.lost(ErrorKind::UnexpectedEof.into()));
            }
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Err(PublishError::NoAnswer(self.answer_seconds_max));
            }
            self.poll(PollFlags::IN, left.min(STOP_POLL));
            self.receive();
        }
    }

    /// While the body is being sent, any final answer means that the server wants no more of it.
    fn check_refused(&mut self) -> Result<(), PublishError> {
        self.receive();
        if let Some(answer) = self.answer()? {
            return Err(self.refused(answer));
        }
        if self.peer_closed {
            return Err(self.lost(ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// The connection broke; the reason may lie in the receive buffer.
    fn lost(&mut self, error: io::Error) -> PublishError {
        self.receive();
        match self.answer() {
            Ok(Some(answer)) => self.refused(answer),
            Ok(None) => PublishError::Lost {
                sent_bytes: self.sent_bytes,
                error,
            },
            Err(error) => error,
        }
    }

    /// Takes what has arrived, without waiting.
    fn receive(&mut self) {
        let mut piece = [0; 2048];
        while !self.peer_closed && self.received.len() < ANSWER_BYTES_MAX {
            match self.stream.read(&mut piece) {
                Ok(0) => self.peer_closed = true,
                Ok(count) => self
                    .received
                    .extend_from_slice(piece.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.peer_closed = true,
            }
        }
    }

    /// The final answer, once its head is complete; interim ones (1xx) are passed over.
    fn answer(&mut self) -> Result<Option<Answer>, PublishError> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; ANSWER_HEADERS_MAX];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response.parse(&self.received);
            let head_bytes = match parsed.map_err(|_| PublishError::BadAnswer)? {
                httparse::Status::Complete(head_bytes) => head_bytes,
                httparse::Status::Partial if self.received.len() < ANSWER_BYTES_MAX => {
                    return Ok(None);
                }
                httparse::Status::Partial => return Err(PublishError::BadAnswer),
            };
            let status = response.code.unwrap_or(0);
            let reason = response.reason.unwrap_or_default().to_owned();
            let chunked = response.headers.iter().any(|header| {
                header.name.eq_ignore_ascii_case("transfer-encoding")
                    && header.value.to_ascii_lowercase().ends_with(b"chunked")
            });
            self.received.drain(..head_bytes);
            if !(100..200).contains(&status) {
                return Ok(Some(Answer {
                    status,
                    reason,
                    chunked,
                }));
            }
        }
    }

    /// Adds the first line of the answer's body, which follows its head, as far as it comes in
    /// time.
    fn refused(&mut self, answer: Answer) -> PublishError {
        // The server wants no more of the upload; this also lets it close at once.
        let _ = self.stream.shutdown(Shutdown::Write);
        let deadline = clock::now() + LINE_WAIT;
        // A chunked body has the length of the chunk in its first line.
        let skipped = usize::from(answer.chunked);
        loop {
            self.receive();
            let lines = self.received.iter().filter(|&&byte| byte == b'\n').count();
            let left = deadline.saturating_duration_since(clock::now());
            let enough = self.received.len() >= LINE_BYTES_MAX || lines > skipped;
            if enough || self.peer_closed || left.is_zero() {
                break;
            }
            self.poll(PollFlags::IN, left);
        }
        let shown = self
            .received
            .get(..LINE_BYTES_MAX)
            .unwrap_or(&self.received);
        let text = String::from_utf8_lossy(shown);
        let mut line = text
            .lines()
            .nth(skipped)
            .unwrap_or_default()
            .trim()
            .to_owned();
        line.retain(|character| !character.is_control());
        PublishError::Refused {
            status: answer.status,
            reason: answer.reason,
            line,
        }
    }

    /// Waits for the socket; an interrupted or failed wait is like one that ended early.
    fn poll(&self, flags: PollFlags, wait: Duration) {
        let wait = Timespec::try_from(wait).unwrap_or_default();
        let _ = poll(&mut [PollFd::new(&self.stream, flags)], Some(&wait));
    }
}

fn connect(target: &Target, seconds_max: u64) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in (target.host.as_str(), target.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, Duration::from_secs(seconds_max)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};

    const SAMPLE: &[u8] = include_bytes!("sample.mp4");
    const CREATED: &str =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

    fn sample() -> Source {
        Source::Bytes {
            name: "sample",
            bytes: Bytes::from_static(SAMPLE),
        }
    }

    fn fast() -> PublishOptions {
        PublishOptions {
            rate: 0.0,
            ..PublishOptions::default()
        }
    }

    /// Request head, and the chunks of the body.
    type Received = (String, Vec<Vec<u8>>);

    /// A server for one PUT.
    fn sink() -> (String, JoinHandle<Received>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/live/a.mp4", listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(reader.read_line(&mut head).unwrap() > 0);
            }
            let mut chunks = Vec::new();
            loop {
                let mut line = String::new();
                assert!(reader.read_line(&mut line).unwrap() > 0, "the body is torn");
                let mut chunk = vec![0; usize::from_str_radix(line.trim_end(), 16).unwrap() + 2];
                reader.read_exact(&mut chunk).unwrap();
                assert_eq!(chunk.split_off(chunk.len() - 2), b"\r\n");
                if chunk.is_empty() {
                    break;
                }
                chunks.push(chunk);
            }
            stream.write_all(CREATED.as_bytes()).unwrap();
            (head, chunks)
        });
        (url, thread)
    }

    /// A server that answers at once and reads nothing.
    fn answering(answer: &'static str) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/live/a.mp4", listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            // Until the client gives up.
            let mut rest = Vec::new();
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            if !answer.is_empty() {
                let _ = stream.read_to_end(&mut rest);
            } else {
                thread::sleep(Duration::from_secs(3));
            }
        });
        (url, thread)
    }

    fn run_once(
        source: Source,
        url: &str,
        options: &PublishOptions,
    ) -> Result<Published, PublishError> {
        publish(source, url, options, &|_| {}, &AtomicBool::new(false))
    }

    /// Publishes in a loop until the source has begun again `loops` times.
    fn run_loops(source: Source, loops: u64) -> (Published, Vec<Vec<u8>>) {
        let (url, server) = sink();
        let options = PublishOptions {
            looping: true,
            ..fast()
        };
        let stop = AtomicBool::new(false);
        let told = |progress: &Progress| stop.store(progress.loops == loops, Ordering::Relaxed);
        let published = publish(source, &url, &options, &told, &stop).unwrap();
        assert!(published.stopped);
        (published, server.join().unwrap().1)
    }

    #[test]
    fn a_file_arrives_as_it_is_one_chunk_per_fragment() {
        let (url, server) = sink();
        let options = PublishOptions {
            headers: vec!["X-Key: 7".to_owned()],
            ..fast()
        };
        let published = run_once(sample(), &url, &options).unwrap();
        let (head, chunks) = server.join().unwrap();
        assert!(head.starts_with("PUT /live/a.mp4 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nX-Key: 7\r\n"));
        assert_eq!(chunks.concat(), SAMPLE);
        // The preamble, 40 fragments, the index at the end.
        assert_eq!(chunks.len(), 42);
        assert!(chunks[1..41].iter().all(|chunk| &chunk[4..8] == b"moof"));
        assert_eq!((published.status, published.stopped), (201, false));
        assert_eq!(published.progress.sent_bytes, SAMPLE.len() as u64);
        assert_eq!(published.progress.media_time, Duration::from_millis(7800));
    }

    /// Every track goes on without a gap or a step back, and so do the sequence numbers.
    #[test]
    fn a_loop_of_mp4_counts_on() {
        let (published, chunks) = run_loops(sample(), 3);
        assert_eq!(published.progress.loops, 3);
        assert_eq!(chunks.len(), 1 + 3 * 40 + 1);
        let init = fmp4::parse_init(&chunks[0]).unwrap();
        let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
        let mut sequence = 0;
        for chunk in &chunks[1..] {
            let fragment = fmp4::parse_fragment(chunk, &init).unwrap();
            sequence += 1;
            assert_eq!(fragment.sequence.unwrap().value, sequence);
            for traf in &fragment.tracks {
                let begin = traf.decode_time.unwrap().value;
                let end = ends.entry(traf.track_id).or_insert(begin);
                assert_eq!(*end, begin, "track {}", traf.track_id);
                *end = begin + traf.duration;
            }
        }
        let seconds = |id: u32| ends[&id] / u64::from(init.track(id).unwrap().timescale);
        assert_eq!((seconds(1), seconds(2)), (24, 24));
    }

    /// Old writers say where the samples are by their place in the file.
    #[test]
    fn absolute_places_follow_the_stream() {
        let init_bytes = SAMPLE.windows(4).position(|kind| kind == b"moof").unwrap() - 4;
        let mut file = SAMPLE[..init_bytes].to_vec();
        for _ in 0..2 {
            let place = (file.len() as u64).to_be_bytes();
            file.extend(b"\0\0\0\x3cmoof\0\0\0\x34traf\0\0\0\x1ctfhd\0\0\0\x09\0\0\0\x01");
            file.extend(place);
            file.extend(b"\0\0\x02\0\0\0\0\x10trun\0\0\0\0\0\0\0\x01\0\0\0\x09mdat!");
        }
        let source = Source::Bytes {
            name: "old",
            bytes: file.into(),
        };
        let (_, chunks) = run_loops(source, 3);
        let init = fmp4::parse_init(&chunks[0]).unwrap();
        let mut position = init_bytes as u64;
        for chunk in &chunks[1..] {
            let fragment = fmp4::parse_fragment(chunk, &init).unwrap();
            assert_eq!(fragment.tracks[0].base_data_offset.unwrap().value, position);
            position += chunk.len() as u64;
        }
        assert_eq!(chunks.len(), 1 + 3 * 2 + 1);
    }

    /// One second of pictures: the tables and a picture of two packets, 25 times.
    fn transport_stream() -> Vec<u8> {
        let table = |pid: [u8; 2], section: &[u8]| {
            let mut packet = [&[0x47, pid[0] | 0x40, pid[1], 0x10, 0], section].concat();
            packet.resize(PACKET_BYTES, 0xff);
            packet
        };
        let pat = b"\x00\xb0\x0d\x00\x01\xc1\x00\x00\x00\x01\xf0\x00\x2a\xb1\x04\xb2";
        let pmt = b"\x02\xb0\x17\x00\x01\xc1\x00\x00\xe1\x00\xf0\x00\
            \x1b\xe1\x00\xf0\x00\x0f\xe1\x01\xf0\x00\x2f\x44\xb9\x9b";
        let mut stream = [table([0, 0], pat), table([0x10, 0], pmt)].concat();
        for picture in 0..25u8 {
            let mut start = vec![0x47, 0x41, 0, 0x10 | (picture * 2 % 16)];
            // PTS only: 3 bits, 15 and 15, each with a marker.
            let pts = 3600 * u32::from(picture);
            let [high, low] = ((pts >> 15) as u16 * 2 + 1).to_be_bytes();
            let [third, fourth] = ((pts & 0x7fff) as u16 * 2 + 1).to_be_bytes();
            start.extend([
                0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5, 0x21, high, low, third, fourth,
            ]);
            start.resize(PACKET_BYTES, picture);
            let mut rest = vec![0x47, 0x01, 0, 0x10 | ((picture * 2 + 1) % 16)];
            rest.resize(PACKET_BYTES, picture);
            stream.extend([start, rest].concat());
        }
        stream
    }

    #[test]
    fn a_loop_of_transport_stream_counts_on() {
        let stream = transport_stream();
        let source = Source::Bytes {
            name: "pictures",
            bytes: stream.clone().into(),
        };
        let (_, chunks) = run_loops(source, 3);
        // With each picture two packets, and before the first of a pass the tables.
        assert_eq!(chunks.len(), 3 * 25 + 1);
        assert_eq!(chunks[..25].concat(), stream);
        assert!(
            chunks
                .iter()
                .all(|chunk| [2, 4].contains(&(chunk.len() / PACKET_BYTES)))
        );
        let body = chunks.concat();
        let mut counters: BTreeMap<u16, u8> = BTreeMap::new();
        let mut pictures = 0;
        for packet in body.chunks_exact(PACKET_BYTES) {
            let packet = mpegts::Packet::try_from(packet).unwrap();
            let head = mpegts::PacketHead::parse(&packet).unwrap();
            if let Some(last) = counters.insert(head.pid, head.continuity) {
                assert_eq!((last + 1) % 16, head.continuity);
            }
            if let Some(pts) = mpegts::pes_times(&packet).pts {
                assert_eq!(pts, pictures * 3600);
                pictures += 1;
            }
        }
        assert_eq!(pictures, 76);
    }

    #[test]
    fn the_media_clock_sets_the_pace() {
        let (url, server) = sink();
        let begin = clock::now();
        let options = PublishOptions {
            rate: 20.0,
            ..fast()
        };
        run_once(sample(), &url, &options).unwrap();
        // The last fragment begins at 7.8 s.
        let elapsed = clock::now().duration_since(begin);
        assert!(elapsed >= Duration::from_millis(390), "{elapsed:?}");
        server.join().unwrap();
    }

    #[test]
    fn a_jump_of_the_clock_is_not_waited_for() {
        let mut pacer = Pacer::new(&PublishOptions::default());
        let first = pacer.deadline(Duration::ZERO).unwrap();
        let next = pacer.deadline(Duration::from_secs(2)).unwrap();
        assert_eq!(next - first, Duration::from_secs(2));
        let jumped = pacer.deadline(Duration::from_secs(3600)).unwrap();
        assert!(jumped < next);
        let after = pacer.deadline(Duration::from_secs(3601)).unwrap();
        assert_eq!(after - jumped, Duration::from_secs(1));
    }

    #[test]
    fn a_refusal_stops_the_upload_and_is_shown() {
        let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nno key\n";
        let (url, server) = answering(answer);
        let options = PublishOptions {
            looping: true,
            ..PublishOptions::default()
        };
        let error = run_once(sample(), &url, &options).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server answered 403 Forbidden: no key"
        );
        server.join().unwrap();
    }

    #[test]
    fn a_server_that_takes_nothing_is_given_up() {
        let (url, server) = answering("");
        let options = PublishOptions {
            looping: true,
            stall_seconds_max: 1,
            ..fast()
        };
        let error = run_once(sample(), &url, &options).unwrap_err();
        assert!(matches!(error, PublishError::Stalled(1)), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn what_cannot_be_sent_is_explained_before_connecting() {
        let explain = |bytes: &'static [u8]| {
            let source = Source::Bytes {
                name: "a.mp4",
                bytes: Bytes::from_static(bytes),
            };
            run_once(source, "http://127.0.0.1:9/x", &fast())
                .unwrap_err()
                .to_string()
        };
        let plain = explain(b"\0\0\0\x08ftyp\0\0\x10\0mdat");
        assert!(plain.contains("ffmpeg -i a.mp4 -c copy"), "{plain}");
        assert!(explain(b"hello").contains("neither"));
        assert!(explain(b"\0\0\0\x08styp\0\0\0\x10moof").contains("before any moov"));
        let absent = run_once(sample(), "http://127.0.0.1:9/x", &fast())
            .unwrap_err()
            .to_string();
        assert!(absent.contains("127.0.0.1:9"), "{absent}");
    }

    #[test]
    fn a_torn_end_is_left_out() {
        let (url, server) = sink();
        let torn = &SAMPLE[..SAMPLE.len() / 2];
        let source = Source::Bytes {
            name: "torn",
            bytes: Bytes::from_static(torn),
        };
        let published = run_once(source, &url, &fast()).unwrap();
        let body = server.join().unwrap().1.concat();
        assert!(torn.starts_with(&body));
        assert_eq!(
            body.len() as u64 + published.dropped_bytes,
            torn.len() as u64
        );
        assert!(published.dropped_bytes > 0);
    }

    #[test]
    fn addresses_are_taken_apart() {
        let target = Target::parse("http://[::1]:8080/a?b=c#d").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 8080));
        assert_eq!(
            (target.authority.as_str(), target.path.as_str()),
            ("[::1]:8080", "/a?b=c")
        );
        assert_eq!(Target::parse("http://host/a").unwrap().port, 80);
        for wrong in [
            "host/a",
            "https://h/a",
            "ftp://h/a",
            "http://h",
            "http://h:x/a",
            "http://u@h/a",
            "http://h/a b",
        ] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }
}
