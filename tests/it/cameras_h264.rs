//! H.264 cameras: through WebSockets, as a byte stream, and as LL-HLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::camera_kit::{Camera, Viewer, jpeg, origin, with_options};
use crate::client::{Client, assert_same, get};
use crate::hls_checker::{Plan, follow};
use crate::live_kit::{Encoder, until_text};
use crate::server::{Server, Setup, run, wait_until};
use crate::websocket_client::{BINARY, WebSocket, assert_refused, refused};

/// Pictures between two key pictures.
const GROUP: usize = 10;
const X264: &str =
    "-c:v libx264 -preset ultrafast -tune zerolatency -g 10 -x264-params sliced-threads=0";

/// NAL units of `seconds` of pictures as x264 makes them, each with its start code.
fn nal_units(server: &Server, seconds: u32) -> Vec<Vec<u8>> {
    let path: PathBuf = server.setup.home().join("pictures.h264");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args("-nostdin -loglevel error -f lavfi -i testsrc2=size=160x120:rate=25 -t".split(' '));
    ffmpeg.arg(seconds.to_string()).args(X264.split(' ')).args(["-f", "h264", "-y"]).arg(&path);
    let ended = run(&mut ffmpeg);
    assert!(ended.status.success(), "{}", ended.stderr);
    split(&std::fs::read(path).unwrap())
}

fn split(stream: &[u8]) -> Vec<Vec<u8>> {
    let is_start = |at: &usize| {
        stream[*at..].starts_with(&[0, 0, 0, 1])
            || stream[*at..].starts_with(&[0, 0, 1]) && (*at == 0 || stream[at - 1] != 0)
    };
    let starts: Vec<usize> = (0..stream.len()).filter(is_start).collect();
    let ends = starts.iter().skip(1).copied().chain([stream.len()]);
    starts.iter().zip(ends).map(|(start, end)| stream[*start..end].to_vec()).collect()
}

fn kind(unit: &[u8]) -> u8 {
    let code = unit.iter().position(|byte| *byte == 1).unwrap();
    unit[code + 1] & 0x1f
}

fn has_tracks(server: &Server) -> bool {
    get(server.admin, "/cameras.json").text().contains("\"kind\"")
}

/// Waits until so many pieces of the only camera have come.
fn until_pictures(server: &Server, count: usize) {
    wait_until("all are there", || {
        let count = format!("\"pictures\":{count},");
        get(server.admin, "/cameras.json").text().contains(&count)
    });
}

fn piece(viewer: &mut WebSocket) -> Vec<u8> {
    let message = viewer.message();
    assert_eq!(message.opcode, BINARY);
    message.payload
}

/// Goal: each piece is one binary message, byte for byte; who comes late begins with parameter sets and
/// a key picture, and is told when the camera has gone.
#[test]
fn pieces_go_through_as_they_are() {
    let server = with_options("hold_over_s = 0\nlag_pictures_max = 1000");
    let units = nal_units(&server, 2);
    let keys: Vec<usize> = (0..units.len()).filter(|at| kind(&units[*at]) == 7).collect();
    assert!(keys.len() >= 4, "{keys:?}");
    let mut camera = Camera::greet(&server, [2, 1, 1]);
    camera.picture(&units[0]);
    wait_until("it is there", || has_tracks(&server));
    let mut first = WebSocket::open(server.address, "/stream2", "");
    for (sent, part) in [(1, &units[..keys[1]]), (0, &units[keys[1]..keys[2]])] {
        part[sent..].iter().for_each(|unit| camera.picture(unit));
        part.iter().for_each(|unit| assert_same(&piece(&mut first), unit));
    }
    // At the end of a group: the newest key picture is the second.
    let mut late = WebSocket::open(server.address, "/stream2?quality=low", "");
    for unit in &units[keys[1]..keys[2]] {
        assert_same(&piece(&mut late), unit);
    }
    units[keys[2]..].iter().for_each(|unit| camera.picture(unit));
    for unit in &units[keys[2]..] {
        assert_same(&piece(&mut first), unit);
        assert_same(&piece(&mut late), unit);
    }
    drop(camera);
    for mut viewer in [first, late] {
        let (messages, closing) = viewer.drain();
        assert_eq!((messages.len(), closing.code), (0, 1000), "{closing:?}");
    }
    assert_eq!(get(server.address, "/stream2").status, 404);
}

/// Goal: a camera that sends its parameter sets only once is watched by late viewers too.
#[test]
fn late_viewers_get_the_parameter_sets() {
    let server = origin();
    let units = nal_units(&server, 2);
    let once: Vec<_> = units
        .iter()
        .enumerate()
        .filter(|(at, unit)| *at < 3 || !matches!(kind(unit), 6..=8))
        .map(|(_, unit)| unit.clone())
        .collect();
    let last_key = once.iter().rposition(|unit| kind(unit) == 5).unwrap();
    let mut camera = Camera::greet(&server, [2, 1, 1]);
    once.iter().for_each(|unit| camera.picture(unit));
    until_pictures(&server, once.len());
    let mut late = WebSocket::open(server.address, "/stream2", "");
    let first = piece(&mut late);
    let kinds: Vec<u8> = split(&first).iter().map(|unit| kind(unit)).collect();
    assert_eq!(kinds, [7, 8, 5], "sets in front of the key picture");
    assert!(first.ends_with(&once[last_key][1..]));
    for unit in &once[last_key + 1..] {
        assert_same(&piece(&mut late), unit);
    }
}

/// Goal: a plain GET of an H.264 camera is a byte stream that ffmpeg decodes from its beginning.
#[test]
fn a_plain_get_is_a_byte_stream() {
    let server =
        with_options("raw = [{ listen = \"127.0.0.1:0\", format = \"h264\", path = \"/door\" }]");
    let door = server.camera_door("camera /door");
    let _camera = Encoder::ffmpeg(&format!(
        "-re -f lavfi -i testsrc2=size=160x120:rate=25 {X264} -f h264 tcp://{door}"
    ));
    wait_until("some groups have come", || {
        let text = get(server.admin, "/cameras.json").text();
        let pictures = text.split("\"pictures\":").nth(1);
        pictures.is_some_and(|rest| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<usize>().unwrap() > 3 * GROUP
        })
    });
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args("-nostdin -hide_banner -loglevel warning -xerror -f h264 -i".split(' '));
    ffmpeg.arg(format!("http://{}/door", server.address));
    ffmpeg.args("-frames:v 30 -f framecrc -".split(' '));
    let ended = run(&mut ffmpeg);
    let decoded = ended.stdout.lines().filter(|line| line.starts_with("0,")).count();
    assert!(ended.status.success() && decoded == 30, "{decoded}: {}", ended.stderr);
    let mut client = Client::connect(server.address);
    assert_eq!(client.get("/door", "").needed("content-type"), "video/h264");
    // The same camera for a browser: each NAL unit a message, sets first.
    let mut viewer = WebSocket::open(server.address, "/door", "");
    let kinds: Vec<u8> = (0..3).map(|_| kind(&piece(&mut viewer))).collect();
    assert!(kinds == [7, 8, 6] || kinds == [7, 8, 5], "{kinds:?}");
}

/// A server that lists what an H.264 camera of bare bytes sends, and where it takes its qualities.
fn listing_origin() -> (Server, [SocketAddr; 2]) {
    let server = Setup::new()
        .table(
            "[cameras]\nlisten = [\"127.0.0.1:0\"]\n\
            raw = [{ listen = \"127.0.0.1:0\", format = \"h264\", path = \"/door\" }, \
            { listen = \"127.0.0.1:0\", format = \"h264\", path = \"/door\", quality = \"low\" }]\n\
            [[live]]\nprefix = \"/live/\"\npart_ms = 200\nsegment_s = 1.0",
        )
        .start();
    let listed: Value = serde_json::from_slice(&get(server.admin, "/cameras.json").body).unwrap();
    let door = |raw: &Value| raw["listen"].as_str().unwrap().parse().unwrap();
    let doors = [0, 1].map(|at: usize| door(&listed["raw"][at]));
    (server, doors)
}

/// A camera with reordered pictures.
fn push(door: SocketAddr) -> Encoder {
    Encoder::ffmpeg(&format!(
        "-re -f lavfi -i testsrc2=size=192x108:rate=25 -t 60 -c:v libx264 -preset ultrafast \
         -bf 2 -g 25 -f h264 tcp://{door}"
    ))
}

/// Goal: an H.264 camera is LL-HLS under the strict client, whose times are those of arrival, and
/// LL-DASH too; it plays in ffmpeg, and goes on when the camera comes back.
#[test]
fn an_h264_camera_is_listed() {
    let (server, [door, _]) = listing_origin();
    let camera = push(door);
    wait_until("it is listed", || get(server.address, "/live/door/index.m3u8").status == 200);
    let plan = Plan { tracks: 1, seconds: 8.0, ends: false };
    let found = follow(server.address, "/live/door/", plan);
    assert!(found[0].parts > 20, "{} parts", found[0].parts);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args("-nostdin -hide_banner -loglevel warning -i".split(' '));
    ffmpeg.arg(format!("http://{}/live/door/index.m3u8", server.address));
    ffmpeg.args("-frames:v 30 -f framecrc -".split(' '));
    let ended = run(&mut ffmpeg);
    let decoded = ended.stdout.lines().filter(|line| line.starts_with("0,")).count();
    assert!(ended.status.success() && decoded == 30, "{decoded}: {}", ended.stderr);
    let manifest = get(server.address, "/live/door/manifest.mpd").text();
    assert!(manifest.contains("avc1."), "{manifest}");
    camera.kill();
    let _camera = push(door);
    let list = "/live/door/high.m3u8";
    until_text(server.address, list, "goes on", |text| text.contains("#EXT-X-DISCONTINUITY"));
}

/// Goal: both qualities of a camera are listed under the strict client, which compares them.
#[test]
fn both_qualities_are_listed() {
    let (server, [high, low]) = listing_origin();
    let film = "-re -f lavfi -i testsrc2=size=192x108:rate=25 -t 60";
    let x264 = "-c:v libx264 -preset ultrafast -tune zerolatency -g 25 -f h264";
    let _camera = Encoder::ffmpeg(&format!(
        "{film} -map 0:v {x264} tcp://{high} -map 0:v -s 96x54 {x264} tcp://{low}"
    ));
    let plan = Plan { tracks: 2, seconds: 6.0, ends: false };
    let found = follow(server.address, "/live/door/", plan);
    assert!(found.iter().all(|one| one.parts > 15));
}

/// Goal: a camera that pauses for longer than a segment is listed all the same, with what is missing.
#[test]
fn a_pause_is_listed_as_a_gap() {
    let table = "[cameras]\nlisten = [\"127.0.0.1:0\"]\n\
        [[live]]\nprefix = \"/live/\"\npart_ms = 200\nsegment_s = 1.0";
    let server = Setup::new().table(table).start();
    let units = nal_units(&server, 8);
    let mut camera = Camera::greet(&server, [1, 1, 1]);
    let mut send = |units: &[Vec<u8>]| {
        for unit in units {
            camera.picture(unit);
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
    };
    let (before, after) = units.split_at(units.len() / 2);
    send(before);
    let list = "/live/stream1/high.m3u8";
    until_text(server.address, list, "it is listed", |text| text.contains("#EXTINF"));
    std::thread::sleep(std::time::Duration::from_secs(4));
    send(after);
    until_text(server.address, list, "a gap, and what follows", |text| {
        text.split_once("#EXT-X-GAP").is_some_and(|(_, rest)| {
            let segments = rest.split("#EXTINF").skip(1);
            segments.filter(|segment| !segment.contains("#EXT-X-GAP")).count() > 1
        })
    });
    assert!(!server.log().contains("a camera is not listed"), "{}", server.log());
}

/// Goal: a camera that says that it ends ends its presentation; one that is lost does not.
#[test]
fn an_orderly_end_ends_the_presentation() {
    let server = origin();
    let units = nal_units(&server, 3);
    for (id, is_orderly) in [(1, true), (2, false)] {
        let mut camera = Camera::greet(&server, [id, 1, 1]);
        // Times are those of arrival: all at once would be no film.
        for unit in &units {
            camera.picture(unit);
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        if is_orderly {
            camera.raw(&0_u32.to_le_bytes());
        }
        drop(camera);
        let name = format!("/stream{id}");
        wait_until("it has gone", || {
            !get(server.admin, "/cameras.json").text().contains(&name[1..])
        });
        let list = format!("/live{name}/high.m3u8");
        if is_orderly {
            until_text(server.address, &list, "it has ended", |text| {
                text.contains("#EXT-X-ENDLIST")
            });
        } else {
            let text = get(server.address, &list).text();
            assert!(!text.contains("#EXT-X-ENDLIST"), "{text}");
        }
    }
}

/// Goal: the movie of a camera takes no more room than its window, however fast the camera sends, and
/// none when the camera has gone.
#[test]
fn a_movie_is_trimmed_and_goes() {
    let server = Setup::new()
        .key("store.extent_bytes", "262144")
        .table(
            "[cameras]\nlisten = [\"127.0.0.1:0\"]\nhold_over_s = 0\n\
            picture_bytes_max = 100000\nwindow_bytes = 1000000\n\
            [[live]]\nprefix = \"/live/\"\npart_ms = 200\nsegment_s = 0.5\nwindow_s = 2",
        )
        .start();
    let units = nal_units(&server, 8);
    let stored = || -> u64 {
        let files = crate::server::files_below(&server.data());
        let bytes = |file: &PathBuf| std::fs::metadata(server.data().join(file)).map(|it| it.len());
        files.iter().filter_map(|file| bytes(file).ok()).sum()
    };
    for is_orderly in [true, false] {
        let mut camera = Camera::greet(&server, [1, 1, 1]);
        let (mut sent, mut most) = (0, 0);
        for unit in &units {
            let is_slice = matches!(kind(unit), 1 | 5);
            let picture =
                if is_slice { [&unit[..], &[0x80; 60_000]].concat() } else { unit.clone() };
            camera.picture(&picture);
            sent += picture.len() as u64;
            most = most.max(stored());
        }
        assert!(sent > 10_000_000, "{sent}");
        // Two windows, and what is received before they move on.
        assert!(most < sent / 2, "{most} of {sent}");
        if is_orderly {
            camera.raw(&0_u32.to_le_bytes());
        }
        drop(camera);
        wait_until("nothing is left", || stored() == 0);
    }
}

/// Goal: cameras with the same name in different folders are listed apart, where the list says.
#[test]
fn nested_cameras_are_listed_apart() {
    let raw = |path: &str| {
        format!("{{ listen = \"127.0.0.1:0\", format = \"h264\", path = \"{path}\" }}")
    };
    let server = Setup::new()
        .table(&format!(
            "[cameras]\nraw = [{}, {}]\n[[live]]\nprefix = \"/live/\"\npart_ms = 200\nsegment_s = 1.0",
            raw("/a/door"),
            raw("/b/door")
        ))
        .start();
    let _cameras = ["a", "b"].map(|folder| {
        let door = server.camera_door(&format!("camera /{folder}/door"));
        Encoder::ffmpeg(&format!(
            "-re -f lavfi -i testsrc2=size=160x120:rate=25 {X264} -f h264 tcp://{door}"
        ))
    });
    for folder in ["a", "b"] {
        let place = format!("/live/{folder}/door/");
        let list = format!("{place}high.m3u8");
        let text =
            until_text(server.address, &list, "it is listed", |text| text.contains("#EXTINF"));
        assert!(!text.contains("#EXT-X-DISCONTINUITY"), "{text}");
        let segment = text.lines().find(|line| line.ends_with(".m4s")).unwrap();
        assert_eq!(get(server.address, &format!("{place}{segment}")).status, 200, "{text}");
        let index = format!("{place}index.m3u8");
        assert_eq!(get(server.address, &index).status, 200);
        let listed = get(server.admin, "/cameras.json").text();
        assert!(listed.contains(&format!("\"playlist\":\"{index}\"")), "{listed}");
    }
}

/// Goal: a camera that changes its parameter sets with each picture begins few movies.
#[test]
fn parameter_sets_that_alternate_begin_few_movies() {
    let server = origin();
    let one = nal_units(&server, 1);
    let mut other = one.clone();
    let sps = other.iter().position(|unit| kind(unit) == 7).unwrap();
    // Another level.
    let code = other[sps].iter().position(|byte| *byte == 1).unwrap();
    other[sps][code + 4] += 1;
    let key = one.iter().position(|unit| kind(unit) == 5).unwrap();
    let mut camera = Camera::greet(&server, [1, 1, 1]);
    let started = std::time::Instant::now();
    for number in 0..400 {
        let group = if number % 2 == 0 { &one } else { &other };
        group[..=key].iter().for_each(|unit| camera.picture(unit));
    }
    until_pictures(&server, 400 * (key + 1));
    let ended = server.log().matches("an upload broke off").count();
    let most = 4 + started.elapsed().as_secs() as usize / 2 + 1;
    assert!((1..=most).contains(&ended), "{ended} movies, and {most} may be");
}

#[test]
fn handshakes_are_looked_at() {
    let server = Setup::new()
        .table(
            "[cameras]\nlisten = [\"127.0.0.1:0\"]\n\
            [cors]\norigins = [\"https://wall.example\"]",
        )
        .start();
    let mut camera = Camera::greet(&server, [2, 1, 1]);
    camera.picture(&[0, 0, 0, 1, 9, 16]);
    wait_until("it is there", || has_tracks(&server));
    let with = |origin: &str| format!("Origin: {origin}\r\n");
    assert_refused(server.address, "/stream2", &with("https://other.example"), (403, "Forbidden"));
    assert_eq!(refused(server.address, "/stream2?quality=best", "").status, 400);
    drop(WebSocket::open(server.address, "/stream2", &with("https://wall.example")));
    drop(WebSocket::open(server.address, "/stream2", &with("http://it")));
    drop(WebSocket::open(server.address, "/stream2", ""));
    let mut client = Client::connect(server.address);
    client.send(
        "GET /stream2 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let answer = client.answer();
    assert_eq!((answer.status, answer.needed("sec-websocket-version")), (400, "13"));
}

/// Goal: JPEGs go through WebSockets too, each a message, from the newest on.
#[test]
fn jpegs_through_a_websocket() {
    let server = origin();
    let mut camera = Camera::greet(&server, [1, 0, 1]);
    camera.picture(&jpeg(1, 300));
    camera.picture(&jpeg(2, 90_000));
    Viewer::open(&server, "/stream1").until(|picture| picture == jpeg(2, 90_000));
    let mut viewer = WebSocket::open(server.address, "/stream1", "");
    assert_same(&piece(&mut viewer), &jpeg(2, 90_000));
    camera.picture(&jpeg(3, 2_000_000));
    assert_same(&piece(&mut viewer), &jpeg(3, 2_000_000));
}

/// Goal: a viewer that takes nothing for a while goes on at a newer key picture.
#[test]
fn a_slow_viewer_goes_on_at_a_key_picture() {
    let server = with_options("lag_pictures_max = 8");
    let units = nal_units(&server, 4);
    // Long slices fill the socket soon, and their numbers tell them apart.
    let is_slice = |unit: &[u8]| matches!(kind(unit), 1 | 5);
    let slices: Vec<_> = units.iter().filter(|unit| is_slice(unit)).collect();
    let padded = |at: usize| [&slices[at][..], &[0x80 | at as u8; 60_000]].concat();
    let mut camera = Camera::greet(&server, [2, 1, 1]);
    let mut sent = 0;
    let mut slow = None;
    for unit in &units {
        if is_slice(unit) {
            camera.picture(&padded(sent));
            sent += 1;
        } else {
            camera.picture(unit);
        }
        let small = || Client::with_small_window(server.address);
        if slow.is_none() && sent == 1 {
            wait_until("it is there", || has_tracks(&server));
            slow = Some(WebSocket::over(small(), "/stream2", ""));
        }
    }
    until_pictures(&server, units.len());
    let mut slow = slow.unwrap();
    let (mut seen, mut expected) = (0, 0);
    while expected < slices.len() {
        let got = piece(&mut slow);
        if !is_slice(&got) {
            continue;
        }
        let at = (expected..slices.len()).find(|at| padded(*at) == got).expect("in order");
        assert!(at == expected || kind(slices[at]) == 5, "{at} behind {expected}");
        expected = at + 1;
        seen += 1;
    }
    assert!(seen < slices.len(), "nothing was skipped");
}
