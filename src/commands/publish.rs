//! `headwater publish FILE URL`: plays a fragmented MP4 or MPEG-TS file into a server as an encoder
//! would: one PUT with chunked coding, one HTTP chunk per fragment, paced by the media's own clock,
//! and with `--loop` without an end. It never transcodes or re-fragments. `main` calls [`run`];
//! `demo` calls [`publish`] from a thread of its own with the bundled sample. Here are arguments,
//! progress and pace; `publish_source` cuts the media, `publish_upload` sends it.
//!
//! | step    | leaves when |
//! |---------|-------------|
//! | open    | the source is recognised and the server is connected |
//! | send    | the source has ended, `stop` is set, or the server answers |
//! | finish  | the last chunk is sent and the server has answered |

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::publish_source::Media;
pub use super::publish_source::{Source, SourceError, UnitLimits};
use super::publish_upload::{Target, Upload};
pub use super::publish_upload::{UploadError, UploadLimits};
use crate::runtime::clock;

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

/// All limits and choices of one publication.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    pub looping: bool,
    /// Multiple of real time; 0 does not wait.
    pub rate: f64,
    /// Additional header lines, `Name: value`.
    pub headers: Vec<String>,
    /// A jump of the media clock beyond this is not waited for.
    pub gap_seconds_max: u64,
    pub units: UnitLimits,
    pub upload: UploadLimits,
}

impl Default for PublishOptions {
    fn default() -> PublishOptions {
        PublishOptions {
            looping: false,
            rate: 1.0,
            headers: Vec::new(),
            gap_seconds_max: 10,
            units: UnitLimits {
                fragment_bytes_max: 64 * 1024 * 1024,
                group_bytes_max: 4 * 1024 * 1024,
            },
            upload: UploadLimits {
                connect_seconds_max: 5,
                stall_seconds_max: 30,
                answer_seconds_max: 30,
            },
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
    #[error("the rate must be 0 or a positive number")]
    Rate,
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Upload(#[from] UploadError),
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
    let result = publish(source, &args.url, &options, &|progress| show(&bar, progress), &stop);
    bar.finish_and_clear();
    let published = result?;
    if published.dropped_bytes > 0 {
        eprintln!("{} bytes at the end are incomplete and were not sent", published.dropped_bytes);
    }
    let Progress { sent_bytes, chunks, media_time, loops, .. } = published.progress;
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
    let rate = if seconds > 0.0 { bits / seconds / 1000.0 } else { 0.0 };
    bar.set_message(format!("{seconds:.1} s, {rate:.0} kbit/s, {} loops", progress.loops));
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
        return Err(PublishError::Rate);
    }
    let target = Target::parse(url)?;
    let mut media = Media::open(source, options.looping, options.units)?;
    // A source that cannot be sent is found out before the server hears of it.
    let mut next = media.next_unit()?;
    let mut upload = Upload::open(&target, options.upload)?;
    upload.send_head(&target, media.content_type(), &options.headers)?;
    let mut pacer = Pacer::new(options);
    let mut told = Progress { file_bytes: media.input().file_bytes, ..Progress::default() };
    while let Some(unit) = next {
        told.media_time = told.media_time.max(unit.due.unwrap_or_default());
        if let Some(deadline) = unit.due.and_then(|due| pacer.deadline(due)) {
            upload.wait(deadline, stop)?;
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        upload.send_chunk(&unit.bytes)?;
        told.sent_bytes += unit.bytes.len() as u64;
        told.chunks += 1;
        told.file_position = media.input().position;
        told.loops = media.input().pass;
        progress(&told);
        next = media.next_unit()?;
    }
    let status = upload.finish()?;
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
        Pacer { rate: options.rate, gap_max, origin: None }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};

    use bytes::Bytes;

    use super::*;
    use crate::wire::fmp4;
    use crate::wire::mpegts::{self, PACKET_BYTES};

    const SAMPLE: &[u8] = include_bytes!("sample.mp4");
    const CREATED: &str =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

    fn sample() -> Source {
        Source::Bytes { name: "sample", bytes: Bytes::from_static(SAMPLE) }
    }

    fn fast() -> PublishOptions {
        PublishOptions { rate: 0.0, ..PublishOptions::default() }
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
        let options = PublishOptions { looping: true, ..fast() };
        let stop = AtomicBool::new(false);
        let told = |progress: &Progress| stop.store(progress.loops == loops, Ordering::Relaxed);
        let published = publish(source, &url, &options, &told, &stop).unwrap();
        assert!(published.stopped);
        (published, server.join().unwrap().1)
    }

    #[test]
    fn a_file_arrives_as_it_is_one_chunk_per_fragment() {
        let (url, server) = sink();
        let options = PublishOptions { headers: vec!["X-Key: 7".to_owned()], ..fast() };
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
        let source = Source::Bytes { name: "old", bytes: file.into() };
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
            start.extend([0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5, 0x21, high, low, third, fourth]);
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
        let source = Source::Bytes { name: "pictures", bytes: stream.clone().into() };
        let (_, chunks) = run_loops(source, 3);
        // With each picture two packets, and before the first of a pass the tables.
        assert_eq!(chunks.len(), 3 * 25 + 1);
        assert_eq!(chunks[..25].concat(), stream);
        assert!(chunks.iter().all(|chunk| [2, 4].contains(&(chunk.len() / PACKET_BYTES))));
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
        let options = PublishOptions { rate: 20.0, ..fast() };
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
        let options = PublishOptions { looping: true, ..PublishOptions::default() };
        let error = run_once(sample(), &url, &options).unwrap_err();
        assert_eq!(error.to_string(), "the server answered 403 Forbidden: no key");
        server.join().unwrap();
    }

    #[test]
    fn a_server_that_takes_nothing_is_given_up() {
        let (url, server) = answering("");
        let options = PublishOptions {
            looping: true,
            upload: UploadLimits { stall_seconds_max: 1, ..fast().upload },
            ..fast()
        };
        let error = run_once(sample(), &url, &options).unwrap_err();
        assert!(matches!(error, PublishError::Upload(UploadError::Stalled(1))), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn what_cannot_be_sent_is_explained_before_connecting() {
        let explain = |bytes: &'static [u8]| {
            let source = Source::Bytes { name: "a.mp4", bytes: Bytes::from_static(bytes) };
            run_once(source, "http://127.0.0.1:9/x", &fast()).unwrap_err().to_string()
        };
        let plain = explain(b"\0\0\0\x08ftyp\0\0\x10\0mdat");
        assert!(plain.contains("ffmpeg -i a.mp4 -c copy"), "{plain}");
        assert!(explain(b"hello").contains("neither"));
        assert!(explain(b"\0\0\0\x08styp\0\0\0\x10moof").contains("before any moov"));
        let absent = run_once(sample(), "http://127.0.0.1:9/x", &fast()).unwrap_err().to_string();
        assert!(absent.contains("127.0.0.1:9"), "{absent}");
    }

    #[test]
    fn a_torn_end_is_left_out() {
        let (url, server) = sink();
        let torn = &SAMPLE[..SAMPLE.len() / 2];
        let source = Source::Bytes { name: "torn", bytes: Bytes::from_static(torn) };
        let published = run_once(source, &url, &fast()).unwrap();
        let body = server.join().unwrap().1.concat();
        assert!(torn.starts_with(&body));
        assert_eq!(body.len() as u64 + published.dropped_bytes, torn.len() as u64);
        assert!(published.dropped_bytes > 0);
    }
}
