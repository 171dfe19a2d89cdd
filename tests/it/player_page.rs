//! The page to watch: served whole, and it plays. ffmpeg pushes, Debian's chromium watches
//! (`browser/watch.mjs` drives it), and the page's own readings say whether pictures came.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::client::{ask, get};
use crate::server::{Server, Setup, needs, run, wait_until};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A server that has the players, if `scripts/player/build` has been run; the gate runs it.
fn server_with_players() -> Server {
    let players = repository("player");
    assert!(players.join("hls.js").is_file(), "run scripts/player/build, as scripts/check does");
    Setup::new().key("player_dir", &format!("{:?}", players.display().to_string())).start()
}

/// An encoder that ends with its test.
struct Encoder(Child);

impl Drop for Encoder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Picture and sound at the speed of a camera, a key picture each second; `output` says what
/// becomes of them, `awaited` appears when there is something to watch.
fn push(server: &Server, output: &str, target: &str, awaited: &str) -> Encoder {
    needs("ffmpeg");
    let line = format!(
        "-v error -nostdin -re -f lavfi -i testsrc2=size=320x180:rate=25 \
         -re -f lavfi -i sine=sample_rate=48000 -t 600 \
         -c:v libx264 -preset ultrafast -tune zerolatency -g 25 -pix_fmt yuv420p -b:v 300k \
         -c:a aac {output} -method PUT http://{}{target}",
        server.address
    );
    let mut command = Command::new("ffmpeg");
    command.args(line.split_whitespace());
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let encoder = Encoder(child.unwrap());
    wait_until("the stream is there", || ask(server.address, "HEAD", awaited, "").status == 200);
    encoder
}

/// An endless upload with fragments of the length of a part, each of one track.
const FRAGMENTED: &str = "-f mp4 -frag_duration 200000 \
                          -movflags cmaf+empty_moov+default_base_moof+separate_moof";
/// The same with picture and sound in each fragment.
const MUXED: &str = "-f mp4 -frag_duration 200000 -movflags cmaf+empty_moov+default_base_moof";

/// What the page shows after it has watched for some seconds.
fn watch(server: &Server, target: &str, player: &str, seconds: u32) -> Value {
    needs("node");
    needs("chromium");
    let folder = repository("tests/it/browser");
    assert!(
        folder.join("node_modules").is_dir(),
        "run npm ci in tests/it/browser, as scripts/check"
    );
    let url = format!(
        "http://{}/player?src=http://{}{target}&player={player}",
        server.admin, server.address
    );
    let mut command = Command::new("node");
    let ended = run(command.arg(folder.join("watch.mjs")).args([url, seconds.to_string()]));
    assert!(ended.status.success(), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// Asserts that pictures and sound were decoded while time went on, and that nothing ended it.
fn assert_plays(seen: &Value) {
    let (before, after) = (&seen["before"], &seen["after"]);
    let grown = |key: &str| after[key].as_f64().unwrap() - before[key].as_f64().unwrap();
    assert!(after["error"].is_null(), "{seen:#}");
    assert!(grown("currentTime") > 3.0, "{seen:#}");
    assert!(grown("decoded") > 75.0, "{seen:#}");
    assert!(grown("videoBytes") > 0.0 && grown("audioBytes") > 0.0, "{seen:#}");
    assert_eq!(after["width"], 320, "{seen:#}");
    let any = |key: &str, is_bad: fn(&str) -> bool| {
        seen[key].as_array().unwrap().iter().any(|line| line.as_str().is_some_and(is_bad))
    };
    assert!(!any("faults", |text| text.starts_with("page:")), "{seen:#}");
    assert!(!any("events", |text| text.contains("(fatal)")), "{seen:#}");
}

/// Asserts that it began near the live end or came there: a busy machine falls behind meanwhile, and low
/// latency is measured by scripts/glass.
fn assert_near_the_live_end(seen: &Value, seconds: f64) {
    let latency = |when: &str| seen[when]["latency"].as_f64().unwrap_or(f64::MAX);
    assert!(latency("before").min(latency("after")) < seconds, "{seen:#}");
}

/// Goal: page, script and style are there without any library, and only the known names are.
#[test]
fn the_page_is_served_without_libraries() {
    let server = Setup::new().key("player_dir", "\"/nonexistent\"").start();
    let page = get(server.admin, "/player?src=http://127.0.0.1/x.mp4");
    assert_eq!(page.status, 200);
    assert!(page.needed("content-type").starts_with("text/html"));
    assert!(page.text().contains("player.js"));
    // A slash at its end changes nothing: the page names its files from the root.
    assert_eq!(get(server.admin, "/player/?src=/x").body, page.body);
    for target in ["/player.js", "/player.css"] {
        assert_eq!(get(server.admin, target).status, 200, "{target}");
    }
    for target in ["/player/lib/hls.js", "/player/lib/passwd", "/player/x"] {
        assert_eq!(get(server.admin, target).status, 404, "{target}");
    }
    assert_eq!(get(server.admin, "/player/lib/..%2f..%2fetc%2fpasswd").status, 400);
    assert_eq!(get(server.address, "/player").status, 404);
}

/// Goal: the libraries come whole, though they are longer than any output buffer.
#[test]
fn the_libraries_are_served_whole() {
    let server = server_with_players();
    for name in ["hls.js", "dash.js", "shaka.js"] {
        let wanted = std::fs::read(repository("player").join(name)).unwrap();
        let answer = get(server.admin, &format!("/player/lib/{name}"));
        assert!(answer.status == 200 && answer.body == wanted, "{name}");
    }
}

/// Goal: the page plays a growing fragmented MP4 by itself, with no library at all.
#[test]
fn a_growing_mp4_plays_without_libraries() {
    let server = Setup::new().key("player_dir", "\"/nonexistent\"").start();
    let _encoder = push(&server, FRAGMENTED, "/live/cam/cam.mp4", "/live/cam/cam.mp4");
    let seen = watch(&server, "/live/cam/cam.mp4", "", 5);
    assert_plays(&seen);
    assert_near_the_live_end(&seen, 5.0);
}

/// Goal: where the libraries are missing the page says how to build them.
#[test]
fn missing_libraries_are_explained() {
    let server = Setup::new().key("player_dir", "\"/nonexistent\"").start();
    let seen = watch(&server, "/x.m3u8", "", 1);
    let notice = seen["notice"].as_str().unwrap();
    assert!(notice.contains("hls.js is not built on this server"), "{seen:#}");
    assert!(notice.contains("scripts/player/build"), "{seen:#}");
}

/// Plays what the packager makes of one endless upload.
fn watch_publishing_point(output: &str, list: &str, players: &[&str]) {
    let server = server_with_players();
    let list = format!("/live/cam/{list}");
    let _encoder = push(&server, output, "/live/cam/cam.mp4", &list);
    for player in players {
        let seen = watch(&server, &list, player, 5);
        assert_plays(&seen);
        assert_near_the_live_end(&seen, 10.0);
    }
}

/// Goal: hls.js and shaka play the LL-HLS of a publishing point, picture and sound.
#[test]
fn low_latency_hls_plays() {
    watch_publishing_point(FRAGMENTED, "index.m3u8", &["hls.js", "shaka"]);
}

/// Goal: dash.js and shaka play the LL-DASH of a publishing point, picture and sound.
#[test]
fn low_latency_dash_plays() {
    watch_publishing_point(FRAGMENTED, "manifest.mpd", &["dash.js", "shaka"]);
}

/// Goal: a track of picture and sound in one plays too, but for dash.js, which knows no such tracks:
/// the page takes another player, and if dash.js was chosen says how to push.
#[test]
fn muxed_tracks_play_or_are_explained() {
    watch_publishing_point(MUXED, "index.m3u8", &["hls.js"]);
    watch_publishing_point(MUXED, "manifest.mpd", &[""]);
    let server = server_with_players();
    let list = "/live/cam/manifest.mpd";
    let _encoder = push(&server, MUXED, "/live/cam/cam.mp4", list);
    let seen = watch(&server, list, "dash.js", 1);
    assert!(seen["notice"].as_str().unwrap().contains("separate_moof"), "{seen:#}");
}

/// Goal: hls.js and shaka play HLS that an encoder pushes.
#[test]
fn pushed_hls_plays() {
    let server = server_with_players();
    let output = "-f hls -hls_time 1 -hls_list_size 6 -hls_segment_type fmp4";
    let _encoder = push(&server, output, "/h/index.m3u8", "/h/index.m3u8");
    for player in ["hls.js", "shaka"] {
        assert_plays(&watch(&server, "/h/index.m3u8", player, 5));
    }
}

/// Goal: dash.js and shaka play DASH that an encoder pushes, chunk by chunk.
#[test]
fn pushed_dash_plays() {
    let server = server_with_players();
    let output = "-f dash -seg_duration 2 -frag_duration 0.2 -frag_type duration -streaming 1 \
                  -ldash 1 -use_timeline 0 -window_size 6 -write_prft 1";
    let _encoder = push(&server, output, "/d/manifest.mpd", "/d/manifest.mpd");
    for player in ["dash.js", "shaka"] {
        assert_plays(&watch(&server, "/d/manifest.mpd", player, 5));
    }
}
