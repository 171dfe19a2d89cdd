//! `headwater publish`: a file becomes a live upload, paced, whole, and endless with `--loop`; and
//! `headwater demo`, which serves and publishes at once.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::camera_kit::real_jpeg;
use crate::client::{Client, get};
use crate::server::{HEADWATER, Server, Setup, headwater, needs, run, wait_for_child, wait_until};

/// Makes a small file of synthetic picture and sound.
fn make(file: &Path, seconds: u32, output: &[&str]) {
    needs("ffmpeg");
    let seconds = seconds.to_string();
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25"]);
    command.args(["-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", &seconds]);
    command.args(["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-pix_fmt", "yuv420p"]);
    command.args(["-c:a", "aac"]).args(output).arg(file);
    let ended = run(&mut command);
    assert!(ended.status.success(), "{}", ended.stderr);
}

const FRAGMENTED: &[&str] =
    &["-movflags", "cmaf+empty_moov+default_base_moof", "-frag_duration", "200000", "-f", "mp4"];

/// Goal: the object is the file, byte for byte. Method: a fragmented MP4 and a transport stream,
/// faster than their timestamps.
#[test]
fn a_file_is_published_whole() {
    let server = Server::start();
    for (name, output) in [("a.mp4", FRAGMENTED), ("a.ts", &["-f", "mpegts"])] {
        let file = server.setup.home().join(name);
        make(&file, 3, output);
        let url = format!("http://{}/{name}", server.address);
        let ended = headwater(&["publish", file.to_str().unwrap(), &url, "--rate", "20"]);
        assert!(ended.status.success(), "{}", ended.stderr);
        get(server.address, &format!("/{name}")).assert_body(200, &std::fs::read(&file).unwrap());
    }
}

/// Goal: it is live: one HTTP chunk per fragment, readable while it runs. Method: a reader that
/// follows; every chunk begins with the box that begins a fragment.
#[test]
fn a_published_file_is_followed_fragment_by_fragment() {
    let server = Server::start();
    let file = server.setup.home().join("b.mp4");
    make(&file, 4, FRAGMENTED);
    let url = format!("http://{}/b.mp4", server.address);
    let mut publisher = Command::new(HEADWATER)
        .args(["publish", file.to_str().unwrap(), &url, "--rate", "2"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut reader = Client::connect(server.address);
    wait_until("it opens", || reader.ask("HEAD", "/b.mp4", "").status == 200);
    let head = reader.get("/b.mp4", "");
    assert!(head.is_chunked(), "{head:?}");
    let mut chunks = Vec::new();
    while let crate::client::Chunk::Data(data) = reader.chunk() {
        chunks.push(data);
    }
    assert!(wait_for_child(&mut publisher, "publish did not end").success());
    assert!(chunks.len() > 8, "{} chunks", chunks.len());
    assert_eq!(&chunks[0][4..8], b"ftyp");
    for chunk in &chunks[2..] {
        assert!([b"moof", b"styp", b"sidx", b"mfra"].iter().any(|&kind| &chunk[4..8] == kind));
    }
    assert_eq!(chunks.concat(), std::fs::read(&file).unwrap());
}

/// Goal: `--loop` never ends and never jumps back in time. Method: a file of one second looped
/// until it is eight long; the timestamps of what was kept rise, and pass the file's own length.
#[test]
fn a_loop_continues_the_timestamps() {
    needs("ffprobe");
    let server = Setup::new().key("on_abort", "\"keep\"").start();
    for (name, output) in [("l.mp4", FRAGMENTED), ("l.ts", &["-f", "mpegts"])] {
        let file = server.setup.home().join(name);
        make(&file, 1, output);
        let size = std::fs::metadata(&file).unwrap().len() as usize;
        let url = format!("http://{}/{name}", server.address);
        let mut publisher = Command::new(HEADWATER)
            .args(["publish", file.to_str().unwrap(), &url, "--loop", "--rate", "10"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let target = format!("/{name}");
        let mut reader = Client::connect(server.address);
        wait_until("it opens", || reader.ask("HEAD", &target, "").status == 200);
        reader.get(&target, "");
        reader.data_of(size * 8);
        publisher.kill().unwrap();
        publisher.wait().unwrap();
        wait_until("it is kept", || {
            let mut client = Client::connect(server.address);
            client.ask("HEAD", &target, "").field("etag").is_some()
        });
        let mut probe = Command::new("ffprobe");
        probe.args(["-v", "error", "-select_streams", "v", "-show_entries", "packet=dts_time"]);
        let ended = run(probe.args(["-of", "csv=p=0", &url]));
        let words = ended.stdout.lines().filter_map(|line| line.split(',').next());
        let times: Vec<f64> = words.filter_map(|word| word.parse().ok()).collect();
        assert!(times.len() > 150, "{name}: {} packets; {}", times.len(), ended.stderr);
        let rises = times.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(rises, "{name}: the clock jumps: {times:?}");
        assert!(times[times.len() - 1] - times[0] > 6.0, "{name}: {times:?}");
    }
}

/// Goal: what cannot be published is said in a line. Method: no such file, no media, no server.
#[test]
fn what_cannot_be_published_is_said() {
    let server = Server::start();
    let url = format!("http://{}/x.mp4", server.address);
    let text = server.setup.home().join("text.mp4");
    std::fs::write(&text, "this is no film\n".repeat(1000)).unwrap();
    let film = server.setup.home().join("film.mp4");
    make(&film, 1, FRAGMENTED);
    let (text, film) = (text.to_str().unwrap(), film.to_str().unwrap());
    for (file, url) in [
        ("/nonexistent/film.mp4", url.as_str()),
        (text, url.as_str()),
        (film, "http://127.0.0.1:1/x.mp4"),
        (film, "nonsense"),
    ] {
        let ended = headwater(&["publish", file, url, "--rate", "100"]);
        assert!(!ended.status.success(), "{file} {url}");
        assert!(!ended.stderr.trim().is_empty() && !ended.stderr.contains("panicked"));
    }
}

/// Goal: `demo` runs the main job by itself: a sample that never ends, and what to open. Method:
/// free ports instead of the default ones; ffprobe knows the stream, a reader follows it, Ctrl-C
/// ends it well.
#[test]
fn the_demo_is_a_live_stream() {
    needs("ffprobe");
    let setup = Setup::new();
    let mut command = Command::new(HEADWATER);
    command.arg("demo").current_dir(setup.home());
    for option in ["--listen", "--admin", "--cameras", "--camera"] {
        command.args([option, "127.0.0.1:0"]);
    }
    let mut server = Server::launch(setup, command);
    let target = "/live/demo/live.mp4";
    let mut reader = Client::connect(server.address);
    wait_until("it opens", || reader.ask("HEAD", target, "").status == 200);
    assert!(reader.get(target, "").is_chunked());
    reader.data_of(100_000);
    let url = format!("http://{}{target}", server.address);
    let mut probe = Command::new("ffprobe");
    probe.args(["-v", "error", "-analyzeduration", "500000", "-show_entries"]);
    let ended = run(probe.args(["stream=codec_type", "-of", "csv=p=0", &url]));
    assert!(ended.status.success() && ended.stdout.contains("video"), "{}", ended.stderr);
    assert_eq!(get(server.admin, "/readyz").status, 200);
    assert_eq!(get(server.address, "/camera").status, 404, "nobody pushes yet");
    let picture = real_jpeg(&server, 1);
    let mut camera = TcpStream::connect(server.camera_door("camera /camera")).unwrap();
    camera.write_all(&picture).unwrap();
    wait_until("the picture", || get(server.address, "/camera.jpg").body == picture);
    server.signal(rustix::process::Signal::INT);
    assert!(server.wait().success());
}
