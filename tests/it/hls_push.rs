//! What real encoders push is LL-HLS: ffmpeg at the speed of a camera, the strict client behind it.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::hls_checker::{Plan, Summary, follow};
use crate::server::{Server, Setup, collect, needs, run, wait_for_child};

/// Fragmented MP4 without end: a moof for each track, every 200 ms.
const FRAGMENTS: &str = "-f mp4 -movflags cmaf+empty_moov+default_base_moof+separate_moof \
                         -frag_duration 200000";

/// A server with one live prefix: parts of 200 ms.
fn origin(segment_s: f64, window_s: u32) -> Server {
    let table = format!(
        "[[live]]\nprefix = \"/live/\"\npart_ms = 200\nsegment_s = {segment_s:.1}\n\
         window_s = {window_s}"
    );
    Setup::new().table(&table).start()
}

/// A running ffmpeg, killed when dropped.
struct Encoder {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Encoder {
    /// A test picture and a tone at their own speed; `output` says what becomes of them.
    fn start(output: &str) -> Encoder {
        needs("ffmpeg");
        let input = "-v warning -nostdin -re -f lavfi -i testsrc2=size=192x108:rate=25 \
                     -re -f lavfi -i sine=sample_rate=48000";
        let mut command = Command::new("ffmpeg");
        command.args(input.split_whitespace()).args(output.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = collect(child.stderr.take().unwrap());
        Encoder { child, log }
    }

    fn succeed(mut self) {
        let status = wait_for_child(&mut self.child, "ffmpeg did not end");
        assert!(status.success(), "{status}: {}", self.log.lock().unwrap());
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The pictures of an output: so many seconds, a key frame every `gop` pictures of 1/25 s.
fn video(seconds: u32, gop: u32) -> String {
    format!(
        "-map 0:v -t {seconds} -c:v libx264 -preset ultrafast -tune zerolatency -g {gop} \
         -sc_threshold 0 -pix_fmt yuv420p -b:v 200k"
    )
}

/// The sound of an output.
fn audio(seconds: u32) -> String {
    format!("-map 1:a -t {seconds} -c:a aac")
}

/// Both in one output.
fn both(seconds: u32, gop: u32) -> String {
    format!("{} {}", video(seconds, gop), audio(seconds))
}

/// Asserts that the strict client saw enough of each playlist to have an opinion.
fn assert_followed(found: &[Summary], seconds: f64) {
    for one in found {
        let (url, parts, hints) = (&one.url, one.parts, one.hints);
        assert!(one.seconds >= seconds, "{url}: {} s", one.seconds);
        assert!(one.playlist.part_target.is_some(), "{url} has no parts");
        assert!(parts as f64 >= 2.0 * seconds, "{url}: {parts} parts in {seconds} s");
        assert!(hints >= 3, "{url}: {hints} hinted parts");
        assert!(one.segments > 0 && !one.zeros.is_empty() && !one.bodies.is_empty());
        assert_eq!(one.zeros.len(), 1, "{url}: runs of one push");
    }
}

/// How many pictures an ordinary player (no LL-HLS) finds at an address.
fn pictures(url: &str) -> usize {
    let line = format!("-v error -nostdin -live_start_index 0 -i {url} -map 0:v -f framecrc -");
    let ended = run(Command::new("ffmpeg").args(line.split_whitespace()));
    assert!(ended.status.success(), "{url}: {}", ended.stderr);
    ended.stdout.lines().filter(|line| !line.starts_with('#')).count()
}

/// Goal: one endless POST of pictures and sound is two renditions. Method: ffmpeg for eight seconds,
/// the strict client to the end, then an ordinary player: every picture is there.
#[test]
fn an_endless_muxed_push_becomes_ll_hls() {
    let server = origin(1.0, 60);
    let base = format!("http://{}/live/cam/", server.address);
    let output = format!("{FRAGMENTS} -method POST {base}Streams(cam.cmfv)");
    let encoder = Encoder::start(&format!("{} {output}", both(8, 25)));
    let found = follow(server.address, "/live/cam/", Plan { tracks: 2, seconds: 7.0, ends: true });
    encoder.succeed();
    assert_followed(&found, 7.0);
    assert_eq!(pictures(&format!("{base}index.m3u8")), 200);
}

/// Goal: a track per upload is the same, with key frames every two seconds. Method: two endless PUTs.
#[test]
fn two_endless_pushes_become_one_presentation() {
    let server = origin(2.0, 60);
    let base = format!("http://{}/live/cam/", server.address);
    let (video, audio) = (video(10, 50), audio(10));
    let encoder = Encoder::start(&format!(
        "{video} {FRAGMENTS} -method PUT {base}video.mp4 \
         {audio} {FRAGMENTS} -method PUT {base}audio.mp4"
    ));
    let found = follow(server.address, "/live/cam/", Plan { tracks: 2, seconds: 8.0, ends: true });
    encoder.succeed();
    assert_followed(&found, 8.0);
    assert!(found.iter().any(|one| one.url.ends_with("video.m3u8")));
    assert_eq!(pictures(&format!("{base}index.m3u8")), 250);
}

/// Goal: a low-latency DASH push, a PUT for each segment, is LL-HLS too. Its last MPD says that it has
/// ended.
#[test]
fn a_dash_push_becomes_ll_hls() {
    let server = origin(1.0, 60);
    let base = format!("http://{}", server.address);
    let output = format!(
        "-f dash -ldash 1 -streaming 1 -seg_duration 1 -frag_type duration -frag_duration 0.2 \
         -use_template 1 -use_timeline 0 -write_prft 1 -strict experimental -method PUT \
         -utc_timing_url {base}/time -http_persistent 1 {base}/live/cam/m.mpd"
    );
    let encoder = Encoder::start(&format!("{} {output}", both(10, 25)));
    let found = follow(server.address, "/live/cam/", Plan { tracks: 2, seconds: 7.0, ends: true });
    encoder.succeed();
    assert_followed(&found, 7.0);
}

/// Goal: an endless transport stream is one muxed rendition, and its window moves. Method: ffmpeg for
/// eleven seconds into a window of five; the strict client asks for what has left the playlist.
#[test]
fn an_endless_transport_stream_becomes_ll_hls() {
    let server = origin(1.0, 5);
    let base = format!("http://{}/live/cam/", server.address);
    let encoder = Encoder::start(&format!("{} -f mpegts -method POST {base}cam.ts", both(11, 25)));
    let found = follow(server.address, "/live/cam/", Plan { tracks: 1, seconds: 8.0, ends: true });
    encoder.succeed();
    assert_followed(&found, 8.0);
    let first = found[0].bodies.keys().next().unwrap();
    assert!(found[0].playlist.media_sequence > *first, "the window did not move");
}

/// Goal: the same with fMP4: what leaves the window is there for as long as a slow client needs it,
/// and delta updates leave out what is old.
#[test]
fn a_window_moves_under_an_endless_push() {
    let server = origin(1.0, 9);
    let base = format!("http://{}/live/cam/", server.address);
    let output = format!("{FRAGMENTS} -method POST {base}cam.mp4");
    let encoder = Encoder::start(&format!("{} {output}", both(14, 25)));
    let found = follow(server.address, "/live/cam/", Plan { tracks: 2, seconds: 12.0, ends: true });
    encoder.succeed();
    assert_followed(&found, 12.0);
    for one in &found {
        let first = one.bodies.keys().next().unwrap();
        assert!(one.playlist.media_sequence > *first, "{}: the window did not move", one.url);
        let offered = one.playlist.control.as_ref().unwrap().can_skip_until;
        assert!(one.deltas > 0 || offered.is_none_or(|until| until > 7.0), "{}: no delta", one.url);
    }
}
