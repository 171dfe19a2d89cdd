//! Real encoders and players: what ffmpeg and curl push is read live, whole, and never torn.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::client::{Chunk, Client, ask, get};
use crate::live_kit::until_text;
use crate::server::{Server, Setup, collect, needs, run, wait_for_child, wait_until};

/// What is waited for: ffmpeg ends without the answer to its last request.
const LAST: &str = "the last version";

/// A running program, killed when dropped.
struct Program {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Program {
    fn spawn(command: &mut Command) -> Program {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = collect(child.stderr.take().unwrap());
        Program { child, log }
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for an end without error.
    fn succeed(mut self) {
        let status = wait_for_child(&mut self.child, "the program did not end");
        assert!(status.success(), "{status}: {}", self.log.lock().unwrap());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program with its arguments, written as one would type them.
fn program(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap();
    needs(name);
    let mut command = Command::new(name);
    command.args(words);
    command
}

/// ffmpeg at the speed of a camera: this many seconds of picture and sound, a key frame a second;
/// `output` says what becomes of it.
fn camera(seconds: u32, output: &str) -> Command {
    program(&format!(
        "ffmpeg -v warning -nostdin -re -f lavfi -i testsrc2=size=192x108:rate=25 \
         -re -f lavfi -i sine=sample_rate=48000 -t {seconds} \
         -c:v libx264 -preset ultrafast -tune zerolatency -g 25 -pix_fmt yuv420p -b:v 200k \
         -c:a aac {output}"
    ))
}

/// The lines of a frame list.
fn frames_of(list: &str) -> Vec<String> {
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// The digest of every picture packet that a player finds at an address.
fn packets(url: &str) -> Vec<String> {
    let line = format!("ffmpeg -v error -nostdin -i {url} -map 0:v -c copy -f framemd5 -");
    let ended = run(&mut program(&line));
    assert!(ended.status.success(), "{url}: {}", ended.stderr);
    frames_of(&ended.stdout)
}

/// How many frames a player can decode; the decoder must not complain. (The DASH reader does, at
/// the end: it asks for a segment more than there are.)
fn decoded_frames(input: &str) -> usize {
    let line = format!("ffmpeg -v error -nostdin -i {input} -map 0:v -f framecrc -");
    let ended = run(&mut program(&line));
    assert!(ended.status.success(), "{input}: {}", ended.stderr);
    assert!(!ended.stderr.contains("[h264"), "{input}: {}", ended.stderr);
    frames_of(&ended.stdout).len()
}

/// Where each top-level box begins, and its four letters; panics when the bytes are not whole boxes.
fn boxes(bytes: &[u8]) -> Vec<(usize, String)> {
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        let rest = &bytes[at..];
        assert!(rest.len() >= 8, "{} bytes left after {found:?}", rest.len());
        let size = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        found.push((at, String::from_utf8_lossy(&rest[4..8]).into_owned()));
        assert!((8..=rest.len()).contains(&size), "a box of {size} bytes is cut: {found:?}");
        at += size;
    }
    found
}

/// Follows an object and returns its chunks, as far as they came, and whether it ended properly.
fn follow(client: &mut Client, target: &str, fields: &str) -> (Vec<Vec<u8>>, bool) {
    let head = client.get(target, fields);
    assert!([200, 206].contains(&head.status), "{target}: {head:?}");
    if !head.is_chunked() {
        let answer = client.body(head, "GET");
        return (vec![answer.body], answer.complete);
    }
    let mut chunks = Vec::new();
    loop {
        match client.chunk() {
            Chunk::Data(data) => chunks.push(data),
            Chunk::Last => return (chunks, true),
            Chunk::Cut(_) => return (chunks, false),
        }
    }
}

/// Asserts that ffprobe knows the streams of a live object before its push ends.
fn assert_probed(url: &str, pusher: &mut Program) {
    let line =
        "ffprobe -v error -analyzeduration 500000 -show_entries stream=codec_name -of csv=p=0";
    let probed = run(program(line).arg(url));
    assert!(pusher.is_running(), "ffprobe needed the end of the stream");
    assert!(probed.status.success(), "{}", probed.stderr);
    for codec in ["h264", "aac"] {
        assert!(probed.stdout.contains(codec), "{}", probed.stdout);
    }
}

/// Follows a live object until a fragment begins beyond `after`; where it begins.
fn fragment_after(address: SocketAddr, target: &str, after: usize) -> usize {
    let mut reader = Client::connect(address);
    assert!(reader.get(target, "").is_chunked());
    let mut seen = 0;
    loop {
        let data = reader.data();
        let mut fragments = boxes(&data).into_iter().filter(|(_, kind)| kind == "moof");
        if let Some((at, _)) = fragments.find(|(at, _)| seen + at > after) {
            return seen + at;
        }
        seen += data.len();
    }
}

/// Goal: an endless fMP4 POST is read live, from the start and from the middle. Method: ffmpeg
/// pushes eight seconds; ffprobe knows the streams while it pushes; a player from the start, one
/// that joins in the middle, and one that begins at a fragment by range all get the same packets.
#[test]
fn an_endless_fmp4_post_is_read_live() {
    let server = Server::start();
    let url = format!("http://{}/cam.mp4", server.address);
    let mut command = camera(
        8,
        "-f mp4 -movflags cmaf+empty_moov+default_base_moof+separate_moof \
         -frag_duration 200000 -method POST",
    );
    let mut pusher = Program::spawn(command.arg(&url));
    wait_until("the push opens", || status_of(server.address, "/cam.mp4") == 200);
    let from_start = player(&url);
    assert_probed(&url, &mut pusher);
    let middle = fragment_after(server.address, "/cam.mp4", 40_000);
    assert!(pusher.is_running(), "the middle came only at the end");
    let from_middle = player(&url);
    let mut ranged = Client::connect(server.address);
    let range = format!("Range: bytes={middle}-\r\n");
    let (chunks, whole) = follow(&mut ranged, "/cam.mp4", &range);
    assert!(whole, "the ranged reader was cut");
    pusher.succeed();
    let sealed = get(server.address, "/cam.mp4");
    assert!(sealed.field("content-length").is_some());
    assert_eq!(chunks.concat(), sealed.body[middle..]);
    let expected = packets(&url);
    assert_eq!(expected.len(), 200, "eight seconds of 25 pictures");
    assert_eq!(from_start.join().unwrap(), expected);
    assert_eq!(from_middle.join().unwrap(), expected);
    let file = server.setup.home().join("middle.mp4");
    let (first, _) = boxes(&sealed.body).into_iter().find(|(_, kind)| kind == "moof").unwrap();
    std::fs::write(&file, [&sealed.body[..first], &chunks.concat()].concat()).unwrap();
    let frames = decoded_frames(file.to_str().unwrap());
    assert!((20..200).contains(&frames), "{frames} frames from the middle");
}

/// The status of HEAD.
fn status_of(address: SocketAddr, target: &str) -> u16 {
    ask(address, "HEAD", target, "").status
}

/// A player in the background; its packets.
fn player(url: &str) -> JoinHandle<Vec<String>> {
    let url = url.to_owned();
    thread::spawn(move || packets(&url))
}

/// The command line of a low-latency DASH push.
fn dash(seconds: u32, url: &str) -> Command {
    let output = format!(
        "-f dash -ldash 1 -streaming 1 -seg_duration 2 -frag_type duration -frag_duration 0.2 \
         -use_template 1 -use_timeline 0 -strict experimental -method PUT -http_persistent 1 {url}"
    );
    camera(seconds, &output)
}

/// Polls a manifest until told to stop; every answer must satisfy `is_whole`. Returns how many
/// different versions there were.
fn poll_manifest(
    address: SocketAddr,
    target: &'static str,
    done: Arc<AtomicBool>,
    is_whole: fn(&str) -> bool,
) -> JoinHandle<usize> {
    thread::spawn(move || {
        let mut client = Client::connect(address);
        let mut versions = std::collections::HashSet::new();
        while !done.load(Ordering::Relaxed) {
            let answer = client.ask("GET", target, "");
            if answer.status == 200 {
                let text = answer.text();
                assert!(answer.complete && is_whole(&text), "a torn manifest:\n{text}");
                versions.insert(text);
            } else {
                assert_eq!(answer.status, 404);
            }
            thread::sleep(std::time::Duration::from_millis(5));
        }
        versions.len()
    })
}

fn is_whole_mpd(text: &str) -> bool {
    text.starts_with("<?xml") && text.trim_end().ends_with("</MPD>")
}

fn is_whole_playlist(text: &str) -> bool {
    let segments = text.lines().filter(|line| !line.starts_with('#')).count();
    let durations = text.lines().filter(|line| line.starts_with("#EXTINF")).count();
    text.starts_with("#EXTM3U\n") && text.ends_with('\n') && segments == durations
}

/// Goal: each segment of a low-latency DASH push is readable while it is written, chunk for
/// chunk, and the manifest is never half-written. Method: ffmpeg pushes eight seconds; a reader
/// waits for each segment and follows it; another polls the manifest; a player plays the result.
#[test]
fn a_dash_push_is_readable_while_it_is_written() {
    let server = Setup::new().argument("-w").start();
    let url = format!("http://{}/dash/m.mpd", server.address);
    let done = Arc::new(AtomicBool::new(false));
    let poller = poll_manifest(server.address, "/dash/m.mpd", Arc::clone(&done), is_whole_mpd);
    let mut pusher = Program::spawn(&mut dash(8, &url));
    let mut reader = Client::connect(server.address);
    let mut segments = Vec::new();
    for number in 1..=4 {
        let target = format!("/dash/chunk-stream0-{number:05}.m4s");
        let (chunks, whole) = follow(&mut reader, &target, "Expires: in=50\r\n");
        assert!(whole, "{target} was cut");
        if number < 4 {
            assert!(pusher.is_running(), "{target} came only at the end");
        }
        if number > 1 {
            assert!(chunks.len() >= 5, "{target} in {} chunks", chunks.len());
        }
        for chunk in &chunks {
            let kinds = boxes(chunk);
            let known = ["styp", "sidx", "prft", "moof", "mdat", "emsg"];
            assert!(kinds.iter().all(|kind| known.contains(&kind.1.as_str())), "{kinds:?}");
        }
        segments.push((target, chunks.concat()));
    }
    pusher_ends(&mut pusher);
    pusher.succeed();
    done.store(true, Ordering::Relaxed);
    let versions = poller.join().unwrap();
    assert!(versions >= 2, "{versions} versions of the manifest");
    until_text(server.address, "/dash/m.mpd", LAST, |text| text.contains("type=\"static\""));
    for (target, body) in segments {
        let answer = get(server.address, &target);
        answer.assert_body(200, &body);
        assert!(answer.field("content-length").is_some() && answer.field("etag").is_some());
    }
    assert_eq!(decoded_frames(&url), 200);
}

/// Waits until a pusher has ended by itself.
fn pusher_ends(pusher: &mut Program) {
    wait_until("the pusher ends", || !pusher.is_running());
}

/// The segments that a playlist lists.
fn listed(playlist: &str) -> Vec<String> {
    let names = playlist.lines().filter(|line| !line.starts_with('#'));
    names.map(str::to_owned).collect()
}

/// While a push runs: the newest segment of the playlist is always there, and is a transport
/// stream.
fn check_newest_while_running(address: SocketAddr, pusher: &mut Program) {
    let mut client = Client::connect(address);
    let mut newest = String::new();
    while pusher.is_running() {
        let list = client.ask("GET", "/hls/a.m3u8", "");
        if list.status == 200
            && let Some(name) = listed(&list.text()).pop()
            && name != newest
        {
            let segment = client.ask("GET", &format!("/hls/{name}"), "");
            assert_eq!(segment.status, 200, "{name} is listed but absent");
            assert_eq!(segment.body.len() % 188, 0, "{name} is no transport stream");
            assert_eq!(segment.field("content-type"), Some("video/mp2t"));
            newest = name;
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Goal: an HLS push with deletion works over kept connections. Method: ffmpeg pushes eight
/// one-second segments with a list of three; the playlist is polled, what it lists is there, what
/// fell out is gone; a player plays what is listed.
#[test]
fn an_hls_push_deletes_what_it_drops() {
    let server = Server::start();
    let url = format!("http://{}/hls/a.m3u8", server.address);
    let done = Arc::new(AtomicBool::new(false));
    let poller = poll_manifest(server.address, "/hls/a.m3u8", Arc::clone(&done), is_whole_playlist);
    let output = "-f hls -hls_time 1 -hls_list_size 3 -method PUT -hls_flags delete_segments \
                  -http_persistent 1";
    let mut pusher = Program::spawn(camera(8, output).arg(&url));
    check_newest_while_running(server.address, &mut pusher);
    pusher.succeed();
    done.store(true, Ordering::Relaxed);
    let versions = poller.join().unwrap();
    assert!(versions >= 5, "{versions} versions of the playlist");
    until_text(server.address, "/hls/a.m3u8", LAST, |text| text.contains("#EXT-X-ENDLIST"));
    let list = get(server.address, "/hls/a.m3u8");
    assert_eq!(list.field("content-type"), Some("application/vnd.apple.mpegurl"));
    let text = list.text();
    assert_eq!(listed(&text).len(), 3);
    for name in listed(&text) {
        assert_eq!(status_of(server.address, &format!("/hls/{name}")), 200, "{name}");
    }
    for number in 0..3 {
        let target = format!("/hls/a{number}.ts");
        assert_eq!(status_of(server.address, &target), 404, "{target} was deleted");
    }
    assert_eq!(decoded_frames(&url), 75);
}

/// Goal: curl uploads from a pipe, with its `Expect: 100-continue`. Method: 5 MiB through
/// `curl -T -`, whose own trace shows the interim answer; then curl reads it back.
#[test]
fn curl_uploads_from_a_pipe() {
    needs("curl");
    let server = Server::start();
    let url = format!("http://{}/pipe.mp4", server.address);
    let body = crate::client::noise(1, 5 << 20);
    let file = server.setup.home().join("pipe.bin");
    std::fs::write(&file, &body).unwrap();
    let mut child = Command::new("curl")
        .args(["-sS", "-v", "-T", "-", "-H", "Content-Type: video/mp4", &url])
        .stdin(std::fs::File::open(&file).unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut trace = String::new();
    child.stderr.take().unwrap().read_to_string(&mut trace).unwrap();
    assert!(wait_for_child(&mut child, "curl did not end").success(), "{trace}");
    assert!(trace.contains("Expect: 100-continue"), "{trace}");
    assert!(trace.contains("< HTTP/1.1 100 Continue"), "{trace}");
    assert!(trace.contains("< HTTP/1.1 201 Created"), "{trace}");
    let copy = server.setup.home().join("copy.bin");
    let mut read = Command::new("curl");
    let ended = run(read.args(["-sS", "--fail", "-o", copy.to_str().unwrap(), &url]));
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(std::fs::read(&copy).unwrap() == body, "curl read something else");
    let mut resume = Command::new("curl");
    let part = run(resume.args(["-sS", "--fail", "-r", "100-199", "-o", "-", &url]));
    assert!(part.status.success());
    let mut delete = Command::new("curl");
    assert!(run(delete.args(["-sS", "--fail", "-X", "DELETE", &url])).status.success());
    assert_eq!(get(server.address, "/pipe.mp4").status, 404);
}

/// Goal: an uploader that dies in mid-segment leaves nothing torn, and comes back under the same
/// names. Method: SIGKILL to ffmpeg while a segment is followed; then the same push again, whole.
#[test]
fn a_killed_uploader_comes_back_under_its_names() {
    let server = Setup::new().argument("-w").start();
    let url = format!("http://{}/again/m.mpd", server.address);
    let mut pusher = Program::spawn(&mut dash(30, &url));
    let target = "/again/chunk-stream0-00002.m4s";
    let mut reader = Client::connect(server.address);
    assert!(reader.get(target, "Expires: in=50\r\n").is_chunked());
    reader.data();
    pusher.child.kill().unwrap();
    pusher.child.wait().unwrap();
    let cut = loop {
        match reader.chunk() {
            Chunk::Data(_) => {}
            other => break other,
        }
    };
    assert!(matches!(cut, Chunk::Cut(_)), "the torn segment ended properly");
    wait_until("the torn segment goes", || status_of(server.address, target) == 404);
    let first = get(server.address, "/again/chunk-stream0-00001.m4s");
    assert!(first.status == 200 && first.complete);
    boxes(&first.body);
    let manifest = get(server.address, "/again/m.mpd");
    assert!(manifest.status == 200 && is_whole_mpd(&manifest.text()));

    Program::spawn(&mut dash(5, &url)).succeed();
    until_text(server.address, "/again/m.mpd", LAST, |text| text.contains("type=\"static\""));
    let again = get(server.address, target);
    assert_eq!(again.status, 200);
    boxes(&again.body);
    assert_eq!(decoded_frames(&url), 125);
}
