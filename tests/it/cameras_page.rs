//! The wall of cameras: served whole, what its scripts make of H.264 in messages, which `browser/annexb.mjs`
//! checks without a browser, and the page in Debian's chromium with ffmpeg as cameras, which
//! `browser/cameras.mjs` drives.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};

use serde_json::Value;

use crate::camera_kit::{Camera, real_jpeg, with_options};
use crate::client::get;
use crate::live_kit::Encoder;
use crate::server::{
    HANG, Server, Setup, collect, lines_of, needs, run, wait_for_child, wait_until,
};

/// A server with a listener for each of these cameras: format, path and quality; and further tables.
fn server_with(cameras: &[[&str; 3]], options: &str) -> Server {
    let raw = |[format, path, quality]: &[&str; 3]| {
        format!(
            "{{ listen = \"127.0.0.1:0\", format = \"{format}\", path = \"/{path}\", quality = \"{quality}\" }}"
        )
    };
    let raw: Vec<_> = cameras.iter().map(raw).collect();
    with_options(&format!("raw = [{}]\n{options}", raw.join(", ")))
}

/// What the page asks for.
fn listed(server: &Server) -> Value {
    serde_json::from_slice(&get(server.admin, "/cameras.json").body).unwrap()
}

/// Where this camera pushes.
fn door(server: &Server, path: &str, quality: &str) -> SocketAddr {
    let listed = listed(server);
    let is_it = |raw: &&Value| raw["path"] == format!("/{path}") && raw["quality"] == quality;
    let raw = listed["raw"].as_array().unwrap().iter().find(is_it);
    raw.unwrap_or_else(|| panic!("no {path} in {listed:#}"))["listen"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

const H264: &str = "-c:v libx264 -preset ultrafast -tune zerolatency -g 25 -f h264";
const MJPEG: &str = "-c:v mjpeg -q:v 5 -f mjpeg";

/// One ffmpeg that shows moving pictures to each of these doors, so many a second.
fn film(size: &str, rate: u32, outputs: &[(&str, SocketAddr)]) -> Encoder {
    let mut line = format!("-re -f lavfi -i testsrc2=size={size}:rate={rate} -an");
    for (codec, door) in outputs {
        line += &format!(" -map 0:v {codec} tcp://{door}");
    }
    Encoder::ffmpeg(&line)
}

/// The page in a browser that goes through stages; it ends with its test.
struct Wall {
    child: Child,
    reached: mpsc::Receiver<String>,
    log: Arc<Mutex<String>>,
}

impl Wall {
    fn open(server: &Server, stages: &[&str]) -> Wall {
        needs("node");
        needs("chromium");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/browser");
        assert!(
            folder.join("node_modules").is_dir(),
            "run npm ci in tests/it/browser, as scripts/check"
        );
        let mut command = Command::new("node");
        command.arg(folder.join("cameras.mjs")).arg(format!("http://{}/cameras", server.admin));
        command.args(stages).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let reached = lines_of(child.stdout.take().unwrap());
        let log = collect(child.stderr.take().unwrap());
        Wall { child, reached, log }
    }

    /// What the page shows in the next stage, once that is reached.
    fn reach(&self, stage: &str) -> Value {
        let line = self.reached.recv_timeout(HANG);
        let line = line.unwrap_or_else(|_| panic!("{stage}: {}", self.log.lock().unwrap()));
        let seen: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(seen["stage"], stage, "{seen:#}");
        assert_eq!(seen["faults"], serde_json::json!([]), "{seen:#}");
        assert_eq!(seen["notice"], Value::Null, "{seen:#}");
        seen
    }

    fn close(mut self) {
        let status = wait_for_child(&mut self.child, "the browser did not end");
        assert!(status.success(), "{}", self.log.lock().unwrap());
    }
}

impl Drop for Wall {
    fn drop(&mut self) {
        // Its browser goes with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tile<'a>(seen: &'a Value, name: &str) -> &'a Value {
    let tiles = seen["tiles"].as_array().unwrap();
    tiles.iter().find(|tile| tile["name"] == name).unwrap_or_else(|| panic!("{name}: {seen:#}"))
}

fn count(seen: &Value, key: &str, value: &str) -> usize {
    seen["tiles"].as_array().unwrap().iter().filter(|tile| tile[key] == value).count()
}

/// Of the page's log.
fn has_event(seen: &Value, text: &str) -> bool {
    let events = seen["events"].as_array().unwrap();
    events.iter().any(|event| event.as_str().unwrap().contains(text))
}

/// Goal: page, scripts and style are there, on the admin address only.
#[test]
fn the_wall_is_served() {
    let server = Setup::new().key("player_dir", "\"/nonexistent\"").start();
    let page = get(server.admin, "/cameras");
    assert_eq!(page.status, 200);
    assert!(page.needed("content-type").starts_with("text/html"));
    assert!(page.text().contains("src=\"/cameras.js\""));
    for name in ["address", "annexb", "pictures", "h264", "mjpeg"] {
        let script = get(server.admin, &format!("/player/{name}.js"));
        assert_eq!(script.status, 200, "{name}");
        assert!(script.needed("content-type").starts_with("text/javascript"), "{name}");
    }
    assert!(get(server.admin, "/cameras.css").needed("content-type").starts_with("text/css"));
    assert!(get(server.admin, "/").text().contains("/cameras"));
    assert_eq!(get(server.address, "/cameras").status, 404);
}

/// Goal: access units are found however H.264 is cut into messages.
#[test]
fn access_units_are_gathered_from_messages() {
    needs("node");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/browser/annexb.mjs");
    let ended = run(Command::new("node").arg(script));
    assert!(ended.status.success(), "{}", ended.stderr);
}

/// Goal: cameras of both kinds come, move, go and come back, and the page needs no reload.
#[test]
fn cameras_come_go_and_come_back() {
    let server = server_with(&[["mjpeg", "door", "high"], ["h264", "yard/gate", "high"]], "");
    let doors = [door(&server, "door", "high"), door(&server, "yard/gate", "high")];
    let stages = ["tiles:0", "live:2", "gone:2", "live:2"];
    let wall = Wall::open(&server, &stages);
    let seen = wall.reach("tiles:0");
    assert!(seen["empty"].as_str().unwrap().contains("No cameras yet"), "{seen:#}");
    for door in doors {
        assert!(seen["how"].as_str().unwrap().contains(&format!("tcp://{door}")), "{seen:#}");
    }
    let push =
        || [film("320x240", 25, &[(MJPEG, doors[0])]), film("640x360", 25, &[(H264, doors[1])])];
    let cameras = push();
    let seen = wall.reach("live:2");
    assert!(seen["empty"].is_null(), "{seen:#}");
    let sizes = |seen: &Value| {
        for (name, kind, size) in [("door", "mjpeg", [320, 240]), ("yard/gate", "h264", [640, 360])]
        {
            let tile = tile(seen, name);
            assert_eq!(
                (&tile["kind"], &tile["width"]),
                (&kind.into(), &size[0].into()),
                "{seen:#}"
            );
            assert_eq!(tile["height"], size[1], "{seen:#}");
        }
    };
    sizes(&seen);
    assert_eq!(count(&seen, "surface", "canvas"), 2, "{seen:#}");
    cameras.into_iter().for_each(Encoder::kill);
    let seen = wall.reach("gone:2");
    assert!(
        has_event(&seen, "door has gone") && has_event(&seen, "yard/gate has gone"),
        "{seen:#}"
    );
    let _cameras = push();
    let seen = wall.reach("live:2");
    sizes(&seen);
    assert!(has_event(&seen, "door is back") && has_event(&seen, "yard/gate is back"), "{seen:#}");
    wall.close();
}

/// Names of eight cameras, and where they push.
fn eight(options: &str) -> (Server, Vec<SocketAddr>) {
    let names: Vec<_> = (1..=8).map(|number| format!("camera{number}")).collect();
    let cameras: Vec<_> = names.iter().map(|name| ["mjpeg", name, "high"]).collect();
    let server = server_with(&cameras, options);
    let doors = names.iter().map(|name| door(&server, name, "high")).collect();
    (server, doors)
}

fn film_eight(doors: &[SocketAddr]) -> Encoder {
    let outputs: Vec<_> = doors.iter().map(|door| (MJPEG, *door)).collect();
    film("160x120", 10, &outputs)
}

/// Goal: a browser opens six connections to a server, and eight MJPEG cameras are live at once all the same.
#[test]
fn more_cameras_than_a_browser_connects_to_are_live() {
    let (server, doors) = eight("");
    let _cameras = film_eight(&doors);
    let wall = Wall::open(&server, &["live:8"]);
    let seen = wall.reach("live:8");
    assert_eq!(count(&seen, "surface", "canvas"), 8, "{seen:#}");
    wall.close();
}

/// Goal: where WebSockets are refused, images show the cameras, and take turns.
#[test]
fn images_take_turns_where_sockets_are_refused() {
    let (server, doors) = eight("[cors]\norigins = [\"https://wall.example\"]");
    let _cameras = film_eight(&doors);
    let wall = Wall::open(&server, &["turn:3", "seen:8"]);
    let seen = wall.reach("turn:3");
    assert!((1..=5).contains(&count(&seen, "surface", "img")), "{seen:#}");
    wall.reach("seen:8");
    wall.close();
}

/// Goal: a camera of few pictures is seen with the first one.
#[test]
fn one_picture_is_shown() {
    let server = with_options("");
    let picture = real_jpeg(&server, 1);
    let mut camera = Camera::greet(&server, [3, 0, 1]);
    camera.picture(&picture);
    let wall = Wall::open(&server, &["width:stream3=160"]);
    wall.reach("width:stream3=160");
    wall.close();
}

/// Goal: who looks at the page may choose between the qualities of a camera, and leave the choice to the
/// server again.
#[test]
fn the_quality_is_chosen() {
    for (format, codec) in [("mjpeg", MJPEG), ("h264", H264)] {
        let server = server_with(&[[format, "door", "high"], [format, "door", "low"]], "");
        let [high, low] = ["high", "low"].map(|quality| door(&server, "door", quality));
        let _high = film("640x480", 10, &[(codec, high)]);
        let _low = film("160x120", 10, &[(codec, low)]);
        wait_until("both send", || {
            let listed = listed(&server);
            let tracks = listed["cameras"][0]["tracks"].as_array();
            tracks.is_some_and(|tracks| {
                tracks.len() == 2 && tracks.iter().all(|track| track["pictures"] != 0)
            })
        });
        let widths = [("auto", 640), ("low", 160), ("high", 640), ("auto", 640)];
        let stages = widths.map(|(quality, width)| {
            [format!("choose:door={quality}"), format!("width:door={width}")]
        });
        let stages = stages.concat();
        let stages: Vec<_> = stages.iter().map(String::as_str).chain(["live:1"]).collect();
        let wall = Wall::open(&server, &[&["tiles:1"], &stages[..]].concat());
        wall.reach("tiles:1");
        for stage in stages {
            wall.reach(stage);
        }
        wall.close();
    }
}
