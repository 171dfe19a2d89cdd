//! Cameras that push pictures, and who watches them as MJPEG.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::camera_kit::{Camera, Viewer, jpeg, origin, with_options};
use crate::client::{Client, get};
use crate::server::{HANG, Server, Setup, wait_until};

/// The value of a counter on the metrics page.
fn counter(server: &Server, name: &str) -> u64 {
    let page = get(server.admin, "/metrics").text();
    let start = format!("headwater_{name}_total ");
    let line = page.lines().find_map(|line| line.strip_prefix(&*start));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

fn says(server: &Server, what: &str) {
    wait_until(what, || server.log().contains(what));
}

/// Goal: what a camera pushes a viewer gets, byte for byte, each picture as soon as it is complete.
#[test]
fn pictures_go_through_as_they_are() {
    let server = origin();
    let mut camera = Camera::greet(&server, [3, 0, 1]);
    camera.picture(&jpeg(1, 5000));
    let mut viewer = Viewer::open(&server, "/stream3");
    let head = viewer.head.clone();
    assert!(head.needed("content-type").starts_with("multipart/x-mixed-replace; boundary="));
    assert_eq!(head.needed("cache-control"), "no-store");
    assert_eq!(viewer.picture(), jpeg(1, 5000), "the newest picture, at once");
    for (number, bytes) in [(2, 1), (3, 14), (4, 100_000), (5, 1 << 20), (6, 4096)] {
        camera.picture(&jpeg(number, bytes));
        assert_eq!(viewer.picture(), jpeg(number, bytes), "before the next one comes");
    }
    // PiCameleon sends a length and its picture in any pieces.
    let last = jpeg(7, 9000);
    let framed = [&9000_u32.to_le_bytes()[..], &last].concat();
    for piece in [&framed[..2], &framed[2..5], &framed[5..8000], &framed[8000..]] {
        camera.raw(piece);
    }
    assert_eq!(viewer.picture(), last);
    camera.raw(&0_u32.to_le_bytes());
    assert!(viewer.ends_properly(), "the body has its end when the camera has");
    assert_eq!(get(server.address, "/stream3").status, 404);
    assert_eq!(counter(&server, "camera_pictures"), 7);
}

#[test]
fn an_absent_camera_is_404_or_empty() {
    let server = origin();
    assert_eq!(get(server.address, "/stream3").status, 404);
    assert_eq!(get(server.address, "/stream3.jpg").status, 404);
    let compat = Setup::new()
        .table("[cameras]\nlisten = [\"127.0.0.1:0\"]\n[compat]\nempty_stream = true")
        .start();
    get(compat.address, "/stream3").assert_body(200, b"");
    get(compat.address, "/stream-1").assert_body(200, b"");
    assert_eq!(get(compat.address, "/streamx").status, 404);
    let mut camera = Camera::greet(&compat, [3, 0, 1]);
    camera.picture(&jpeg(1, 500));
    wait_until("it is there", || get(compat.address, "/stream3.jpg").status == 200);
    assert_eq!(Viewer::open(&compat, "/stream3").picture(), jpeg(1, 500));
    let off = Server::start();
    let mut client = Client::connect(off.address);
    client.send("PUT /stream3 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(client.answer().status, 201);
    get(off.address, "/stream3").assert_body(200, b"hi");
}

/// Goal: the qualities of a camera are two tracks of one stream, in any order of coming and going.
#[test]
fn two_qualities_are_one_stream() {
    let server = with_options("hold_over_s = 30");
    let mut low = Camera::greet(&server, [1, 0, 0]);
    low.picture(&jpeg(10, 300));
    let mut auto = Viewer::open(&server, "/stream1");
    assert_eq!(auto.picture(), jpeg(10, 300), "there is no other");
    let mut high = Camera::greet(&server, [1, 0, 1]);
    high.picture(&jpeg(20, 600));
    wait_until("the better one", || get(server.address, "/stream1.jpg").body == jpeg(20, 600));
    assert_eq!(Viewer::open(&server, "/stream1").picture(), jpeg(20, 600), "the better one");
    let mut high_viewer = Viewer::open(&server, "/stream1?quality=high");
    let mut low_viewer = Viewer::open(&server, "/stream1?quality=low");
    assert_eq!(high_viewer.picture(), jpeg(20, 600));
    assert_eq!(low_viewer.picture(), jpeg(10, 300));
    drop(high);
    low.picture(&jpeg(11, 301));
    assert_eq!(low_viewer.picture(), jpeg(11, 301));
    wait_until("the high track is gone", || {
        low.picture(&jpeg(12, 302));
        Viewer::open(&server, "/stream1?quality=high").picture() == jpeg(12, 302)
    });
    assert_eq!(high_viewer.until(|picture| picture == jpeg(12, 302)), jpeg(12, 302));
    assert_eq!(get(server.address, "/stream1?quality=best").status, 400);
}

/// Goal: a camera that comes back takes its own place; its viewers stay, and its old connection's end
/// takes nothing away.
#[test]
fn the_same_camera_again_replaces_itself() {
    let server = origin();
    let mut old = Camera::greet(&server, [-7, 0, 1]);
    old.picture(&jpeg(1, 400));
    let mut viewer = Viewer::open(&server, "/stream-7");
    assert_eq!(viewer.picture(), jpeg(1, 400));
    let mut new = Camera::greet(&server, [-7, 0, 1]);
    new.picture(&jpeg(2, 500));
    assert_eq!(viewer.picture(), jpeg(2, 500));
    old.assert_closed();
    new.picture(&jpeg(3, 600));
    assert_eq!(viewer.picture(), jpeg(3, 600));
    assert_eq!(Viewer::open(&server, "/stream-7").picture(), jpeg(3, 600));
}

/// Goal: what no camera may send ends that connection, with a line in the log, and nobody else notices.
#[test]
fn bad_cameras_are_closed_and_nobody_notices() {
    let server = with_options("picture_bytes_max = 100000\nwindow_bytes = 1000000");
    let mut camera = Camera::greet(&server, [1, 0, 1]);
    camera.picture(&jpeg(1, 400));
    let mut viewer = Viewer::open(&server, "/stream1");
    assert_eq!(viewer.picture(), jpeg(1, 400));
    let greeting = |numbers: [i32; 3]| numbers.map(i32::to_le_bytes).concat();
    let good = greeting([9, 0, 1]);
    let with_length = |length: i32| [&good[..], &length.to_le_bytes()].concat();
    let cases = [
        (greeting([9, 2, 1]), "its type is 2"),
        (greeting([9, 0, 7]), "its quality is 7"),
        (greeting([9, -1, 0]), "its type is -1"),
        (with_length(-1), "a picture of -1 bytes"),
        (with_length(i32::MIN), "a picture of -2147483648 bytes"),
        (with_length(i32::MAX), "a picture of 2147483647 bytes, and 100000 are allowed"),
        (with_length(100_001), "a picture of 100001 bytes, and 100000 are allowed"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "its type is "),
    ];
    let count = cases.len() as u64;
    for (bytes, why) in cases {
        let mut bad = Camera::connect(&server);
        bad.raw(&bytes);
        bad.assert_closed();
        says(&server, why);
    }
    // Half a greeting, and half a picture.
    let mut half = Camera::connect(&server);
    half.raw(&good[..5]);
    half.end_sending();
    half.assert_closed();
    let mut half = Camera::greet(&server, [9, 0, 1]);
    half.raw(&1000_u32.to_le_bytes());
    half.raw(&[0xff; 999]);
    half.end_sending();
    half.assert_closed();
    assert_eq!(counter(&server, "cameras_refused"), count + 2);
    assert_eq!(counter(&server, "camera_pictures"), 1, "no half picture counts");
    camera.picture(&jpeg(2, 500));
    assert_eq!(viewer.picture(), jpeg(2, 500));
}

/// Goal: a camera that says nothing delays no other, and is closed in the end.
#[test]
fn silent_cameras_block_nobody() {
    let server = Setup::new()
        .key("limits.head_timeout_s", "1")
        .table("[cameras]\nlisten = [\"127.0.0.1:0\"]\nsilence_timeout_s = 1")
        .start();
    let mut silent: Vec<_> = (0..20).map(|_| Camera::connect(&server)).collect();
    let mut greeted = Camera::greet(&server, [5, 0, 1]);
    let mut dripping = Camera::greet(&server, [6, 0, 1]);
    dripping.picture(&jpeg(1, 400));
    dripping.raw(&100_000_u32.to_le_bytes());
    // Bytes are no pictures.
    let dripping = std::thread::spawn(move || {
        while dripping.try_raw(&[0]).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
    let mut camera = Camera::greet(&server, [1, 0, 1]);
    camera.picture(&jpeg(1, 400));
    assert_eq!(Viewer::open(&server, "/stream1").picture(), jpeg(1, 400));
    silent.iter_mut().for_each(Camera::assert_closed);
    greeted.assert_closed();
    wait_until("the dripping one is closed", || dripping.is_finished());
    says(&server, "a camera fell silent");
}

/// Goal: who has not shown a whole picture is nobody: it takes no place of a camera that sends, no name,
/// and nothing is begun for it.
#[test]
fn connections_without_a_picture_disturb_nobody() {
    let raw = "streams_max = 2\nraw = [{ listen = \"127.0.0.1:0\", format = \"mjpeg\", path = \"/door\" }]";
    let server = with_options(raw);
    let door = server.camera_door("camera /door");
    let picture = |number: u8| {
        [&[0xff, 0xd8, 0xff, 0xda, 0, 3, 1][..], &[number; 500], &[0xff, 0xd9]].concat()
    };
    let mut bare = TcpStream::connect(door).unwrap();
    bare.write_all(&picture(1)).unwrap();
    let mut camera = Camera::greet(&server, [1, 0, 1]);
    camera.picture(&jpeg(1, 400));
    let mut viewers = [Viewer::open(&server, "/door"), Viewer::open(&server, "/stream1")];
    assert_eq!((viewers[0].picture(), viewers[1].picture()), (picture(1), jpeg(1, 400)));
    let files = crate::server::files_below(&server.data()).len();
    let mut newcomers = Vec::new();
    for number in 0..20 {
        // A port scan, and one that stays.
        drop(TcpStream::connect(door).unwrap());
        let mut half = TcpStream::connect(door).unwrap();
        half.write_all(&picture(9)[..200]).unwrap();
        let mut greeted = Camera::greet(&server, [1, 0, 1]);
        greeted.raw(&1000_u32.to_le_bytes());
        greeted.raw(&[0xff; 999]);
        let mut bad = Camera::greet(&server, [1, 0, 1]);
        bad.raw(&(-5_i32).to_le_bytes());
        bad.assert_closed();
        newcomers.push((half, greeted, Camera::greet(&server, [100 + number, 0, 1])));
    }
    for number in 2..5 {
        bare.write_all(&picture(number)).unwrap();
        camera.picture(&jpeg(number.into(), 400));
        assert_eq!(viewers[0].picture(), picture(number));
        assert_eq!(viewers[1].picture(), jpeg(number.into(), 400));
    }
    assert_eq!(crate::server::files_below(&server.data()).len(), files);
    let (half, greeted, _) = &mut newcomers[0];
    half.write_all(&picture(9)[200..]).unwrap();
    assert_eq!(viewers[0].picture(), picture(9), "it is the camera now");
    greeted.raw(&[0xfe]);
    assert_eq!(viewers[1].picture(), [&[0xff; 999][..], &[0xfe]].concat());
    camera.assert_closed();
}

/// Goal: however many connections break the rules, the log has few lines of them, and says how many it
/// has left out.
#[test]
fn refusals_do_not_flood_the_log() {
    let server = origin();
    let started = std::time::Instant::now();
    for _ in 0..1000 {
        let mut bad = Camera::connect(&server);
        bad.raw(&[9; 12]);
    }
    wait_until("all are refused", || counter(&server, "cameras_refused") == 1000);
    let lines = server.log().matches("a camera was refused").count();
    let seconds = started.elapsed().as_secs() as usize + 2;
    assert!(lines <= 2 * 20 * seconds, "{lines} lines in {seconds} s");
}

/// Goal: a viewer that is alive stays, however little it takes, and though the time for those that take
/// nothing has passed several times.
#[test]
fn a_very_slow_viewer_stays() {
    let server = Setup::new()
        .key("limits.send_stall_timeout_s", "1")
        .table("[cameras]\nlisten = [\"127.0.0.1:0\"]")
        .start();
    let mut camera = Camera::greet(&server, [1, 0, 1]);
    camera.picture(&jpeg(0, 1 << 20));
    wait_until("it is there", || get(server.address, "/stream1.jpg").status == 200);
    let mut slow = Client::with_small_window(server.address);
    slow.send("GET /stream1 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(slow.head().status, 200);
    let mut other = Client::with_small_window(server.address);
    other.send("GET /stream1 HTTP/1.1\r\nHost: a\r\n\r\n");
    let started = std::time::Instant::now();
    while started.elapsed().as_secs() < 8 {
        assert_eq!(slow.exactly(1500).unwrap().len(), 1500);
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    // One that takes nothing goes, and none but that.
    let viewers = || get(server.admin, "/cameras.json").text().contains("\"viewers\":1,");
    wait_until("the other is cut", viewers);
    assert_eq!(counter(&server, "connections_timed_out"), 1);
}

/// Goal: names are limited, not connections: a second quality and a camera that comes back are let in.
#[test]
fn too_many_cameras_are_refused_by_name() {
    let server = with_options("streams_max = 2");
    let mut one = Camera::greet(&server, [1, 0, 1]);
    let mut two = Camera::greet(&server, [2, 0, 1]);
    for (camera, number) in [(&mut one, 1), (&mut two, 2)] {
        camera.picture(&jpeg(number, 400));
        let path = format!("/stream{number}");
        wait_until("it is there", || get(server.address, &format!("{path}.jpg")).status == 200);
    }
    let mut three = Camera::greet(&server, [3, 0, 1]);
    three.picture(&jpeg(4, 200));
    three.assert_closed();
    says(&server, "2 cameras send already");
    let mut low = Camera::greet(&server, [1, 0, 0]);
    low.picture(&jpeg(3, 300));
    let viewer = || Viewer::open(&server, "/stream1?quality=low").picture();
    wait_until("the low track", || viewer() == jpeg(3, 300));
    drop(two);
    wait_until("room for another", || {
        let mut three = Camera::greet(&server, [3, 0, 1]);
        three.try_picture(&jpeg(4, 200)).is_ok() && three.is_open()
    });
}

#[test]
fn the_newest_picture_is_a_jpeg_by_itself() {
    let server = origin();
    let mut camera = Camera::greet(&server, [1, 0, 1]);
    for number in 1..=3 {
        camera.picture(&jpeg(number, 40_000));
    }
    let newest = || get(server.address, "/stream1.jpg");
    wait_until("the third", || newest().body == jpeg(3, 40_000));
    let answer = newest();
    assert_eq!((answer.status, answer.needed("content-type")), (200, "image/jpeg"));
    assert_eq!(answer.needed("cache-control"), "no-store");
    assert!(answer.field("last-modified").is_some());
    let mut client = Client::connect(server.address);
    client.send(
        "HEAD /stream1.jpg HTTP/1.1\r\nHost: a\r\n\r\nHEAD /stream1 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!(client.head().needed("content-length"), "40000");
    assert!(client.head().is_chunked());
}

/// Goal: a viewer that takes its time loses whole pictures, never part of one, and is never thrown out;
/// the camera and the others notice nothing.
#[test]
fn a_slow_viewer_skips_whole_pictures() {
    let server = with_options("lag_pictures_max = 5");
    let mut camera = Camera::greet(&server, [1, 0, 1]);
    let picture = |number: u32| jpeg(number, 60_000);
    camera.picture(&picture(0));
    let mut slow = Viewer::with_small_window(&server, "/stream1");
    let mut quick = Viewer::open(&server, "/stream1");
    for number in 0..400 {
        assert_eq!(quick.picture(), picture(number), "nothing is lost");
        camera.picture(&picture(number + 1));
    }
    let mut last = None;
    let mut seen = 0;
    while last != Some(400) {
        let shown = slow.picture();
        let number = u32::from_le_bytes(shown[2..6].try_into().unwrap());
        assert_eq!(shown, picture(number), "whole");
        assert!(last < Some(number), "{last:?} then {number}");
        last = Some(number);
        seen += 1;
    }
    assert!(seen < 10, "{seen} of 401 were kept for a viewer that took none");
    camera.picture(&picture(401));
    assert_eq!(slow.picture(), picture(401), "it is still there");
    assert_eq!(counter(&server, "pictures_skipped"), 401 - seen);
}

/// Goal: recordings are objects that stay, also after a crash, with whole pictures only.
#[test]
fn recordings_are_objects() {
    let server = with_options("record_below = \"/recordings/\"");
    let recorded = |server: &Server| {
        let folder = server.data().join("recordings/stream1");
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let mut camera = Camera::greet(&server, [1, 0, 1]);
    camera.picture(&jpeg(1, 400));
    camera.picture(&jpeg(2, 500));
    camera.raw(&1000_u32.to_le_bytes());
    camera.raw(&[1; 10]);
    let mut viewer = Viewer::open(&server, "/stream1");
    viewer.until(|picture| picture == jpeg(2, 500));
    drop(camera);
    wait_until("the recording is sealed", || recorded(&server).len() == 1);
    let name = recorded(&server).remove(0);
    assert!(name.ends_with("-high.mjpeg"), "{name}");
    let both = [jpeg(1, 400), jpeg(2, 500)].concat();
    let answer = get(server.address, &format!("/recordings/stream1/{name}"));
    answer.assert_body(200, &both);
    assert_eq!(answer.needed("content-type"), "video/x-motion-jpeg");
    let mut camera = Camera::greet(&server, [1, 0, 0]);
    camera.picture(&jpeg(3, 600));
    wait_until("it is there", || get(server.address, "/stream1.jpg").body == jpeg(3, 600));
    let server = server.kill().start();
    wait_until("the second recording", || recorded(&server).len() == 2);
    let low = recorded(&server).into_iter().find(|name| name.ends_with("-low.mjpeg")).unwrap();
    get(server.address, &format!("/recordings/stream1/{low}")).assert_body(200, &jpeg(3, 600));
}

#[test]
fn a_stop_ends_cameras_and_viewers_at_once() {
    let server = with_options("hold_over_s = 600");
    let mut camera = Camera::greet(&server, [1, 0, 1]);
    camera.picture(&jpeg(1, 400));
    let mut viewer = Viewer::open(&server, "/stream1");
    viewer.picture();
    let reading = std::thread::spawn(move || viewer.ends_properly());
    let (status, _) = server.terminate();
    assert!(status.success());
    camera.assert_closed();
    assert!(reading.join().unwrap(), "the body has its end");
}

/// Goal: JPEGs without any framing are found, and what is no JPEG is refused.
#[test]
fn jpegs_without_a_greeting_have_a_listener_of_their_own() {
    let raw = "raw = [{ listen = \"127.0.0.1:0\", format = \"mjpeg\", path = \"/door/front\" }]";
    let server = with_options(raw);
    let door = server.camera_door("camera /door/front");
    let push = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(door).unwrap();
        socket.write_all(bytes).unwrap();
        socket
    };
    let picture = crate::camera_kit::real_jpeg(&server, 1);
    let other = crate::camera_kit::real_jpeg(&server, 2);
    assert_ne!(picture, other);
    let mut camera = push(&[b"junk", &picture[..], &other[..100]].concat());
    wait_until("the first", || get(server.address, "/door/front.jpg").body == picture);
    let mut viewer = Viewer::open(&server, "/door/front");
    assert_eq!(viewer.picture(), picture);
    camera.write_all(&other[100..]).unwrap();
    assert_eq!(viewer.picture(), other, "not held until the next one begins");
    let mut broken = push(&[&picture[..], b"\xff\xd8junk"].concat());
    read_to_end(&mut broken);
    says(&server, "a picture is no JPEG");
}

fn read_to_end(socket: &mut TcpStream) {
    socket.set_read_timeout(Some(HANG)).unwrap();
    let _ = socket.shutdown(Shutdown::Write);
    // Closed with bytes that were not read: a reset.
    let _ = socket.read_to_end(&mut Vec::new());
}

/// Goal: real ffmpeg is camera and viewer.
#[test]
fn ffmpeg_pushes_and_watches() {
    let raw = "raw = [{ listen = \"127.0.0.1:0\", format = \"mjpeg\", path = \"/door\" }]";
    let server = with_options(raw);
    let door = server.camera_door("camera /door");
    crate::server::needs("ffmpeg");
    let _camera = crate::live_kit::Encoder::ffmpeg(&format!(
        "-re -f lavfi -i testsrc2=size=320x240:rate=25 -an -c:v mjpeg -q:v 5 -f mjpeg tcp://{door}"
    ));
    wait_until("the camera sends", || get(server.address, "/door.jpg").status == 200);
    frames_of(server.address, "/door", 50);
}

/// Decodes so many pictures of a stream with ffmpeg, without an error.
fn frames_of(address: SocketAddr, path: &str, frames: u32) {
    let mut ffmpeg = std::process::Command::new("ffmpeg");
    ffmpeg.args("-nostdin -hide_banner -loglevel warning -xerror -f mpjpeg -i".split(' '));
    ffmpeg.arg(format!("http://{address}{path}"));
    ffmpeg.args(format!("-frames:v {frames} -f framecrc -").split(' '));
    let ended = crate::server::run(&mut ffmpeg);
    let decoded = ended.stdout.lines().filter(|line| line.starts_with("0,")).count();
    assert!(ended.status.success() && decoded == frames as usize, "{}", ended.stderr);
}
