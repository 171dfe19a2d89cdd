//! What is dropped by rule: age of the upload, size and age by prefix, the window of an endless
//! object; and the mode that never touches the disk.

use std::fs;

use crate::client::{Chunk, Client, Upload, assert_same, get, noise, put, put_with};
use crate::server::{Server, Setup, files_below, wait_until};

fn is_gone(server: &Server, target: &str) -> bool {
    get(server.address, target).status == 404
}

/// Goal: `-d` deletes by max-age of the upload, and nothing else. Method: short, long and no
/// max-age; the short one leaves the disk too.
#[test]
fn expired_objects_are_deleted() {
    let server = Setup::new().argument("-d").start();
    put_with(server.address, "/short.ts", "Cache-Control: public, max-age=5\r\n", b"short");
    get(server.address, "/short.ts").assert_body(200, b"short");
    put_with(server.address, "/long.ts", "Cache-Control: max-age=3600\r\n", b"long");
    put_with(server.address, "/none.ts", "", b"none");
    put_with(server.address, "/odd.ts", "Cache-Control: max-age=abc\r\n", b"odd");
    wait_until("the short one expires", || is_gone(&server, "/short.ts"));
    assert!(!server.data().join("short.ts").exists());
    for target in ["/long.ts", "/none.ts", "/odd.ts"] {
        assert_eq!(get(server.address, target).status, 200, "{target}");
    }
}

/// Goal: expiry survives a restart. Method: restart before the object expires.
#[test]
fn expiry_goes_on_after_a_restart() {
    let server = Setup::new().argument("-d").start();
    put_with(server.address, "/short.ts", "Cache-Control: max-age=3\r\n", b"short");
    put(server.address, "/none.ts", b"none");
    let server = server.restart();
    wait_until("it expires", || is_gone(&server, "/short.ts"));
    get(server.address, "/none.ts").assert_body(200, b"none");
}

/// Goal: without `-d` nothing expires; an Open object never does. Method: both beside one that
/// does, in two servers.
#[test]
fn open_objects_do_not_expire() {
    let server = Setup::new().argument("-d").start();
    let mut upload = Upload::open(server.address, "/open.ts", "Cache-Control: max-age=1\r\n");
    upload.append(b"open ");
    put_with(server.address, "/clock.ts", "Cache-Control: max-age=2\r\n", b"x");
    let keeps = Server::start();
    put_with(keeps.address, "/kept.ts", "Cache-Control: max-age=1\r\n", b"kept");
    wait_until("the clock expires", || is_gone(&server, "/clock.ts"));
    let mut reader = Client::connect(server.address);
    assert_eq!(reader.get("/open.ts", "").status, 200);
    assert_eq!(reader.data(), b"open ");
    upload.append(b"still");
    assert_eq!(reader.data(), b"still");
    get(keeps.address, "/kept.ts").assert_body(200, b"kept");
}

/// Goal: a prefix is limited by bytes, oldest first; other prefixes are not touched.
#[test]
fn a_prefix_is_limited_by_size() {
    let server =
        Setup::new().table("[[retention]]\nprefix = \"/media/\"\nmax_bytes = 100000").start();
    put(server.address, "/vod/old.m4s", &noise(99, 90_000));
    for index in 0..10 {
        put(server.address, &format!("/media/{index}.m4s"), &noise(index, 30_000));
    }
    wait_until("the oldest go", || is_gone(&server, "/media/6.m4s"));
    for index in 0..=6 {
        assert!(is_gone(&server, &format!("/media/{index}.m4s")), "{index}");
    }
    for index in 8..10 {
        get(server.address, &format!("/media/{index}.m4s")).assert_body(200, &noise(index, 30_000));
    }
    assert_eq!(get(server.address, "/vod/old.m4s").status, 200);
}

/// Goal: the whole store is limited by bytes, on disk and in memory: the oldest sealed objects go,
/// uploads are not refused, an Open one stays.
#[test]
fn the_store_is_limited_by_size() {
    for ram_only in ["false", "true"] {
        let server = Setup::new()
            .key("store.total_bytes_max", "200000")
            .key("store.extent_bytes", "65536")
            .key("ram_only", ram_only)
            .start();
        let mut open = Upload::open(server.address, "/open.ts", "");
        open.append(b"open");
        for index in 0..20 {
            put(server.address, &format!("/{index}.m4s"), &noise(index, 30_000));
        }
        wait_until("the oldest go", || is_gone(&server, "/12.m4s"));
        get(server.address, "/19.m4s").assert_body(200, &noise(19, 30_000));
        assert!(is_gone(&server, "/0.m4s"));
        assert_eq!(open.seal().status, 201);
    }
}

/// Goal: a prefix is limited by age. Method: one rule of a second beside objects without a rule.
#[test]
fn a_prefix_is_limited_by_age() {
    let server = Setup::new().table("[[retention]]\nprefix = \"/media/\"\nmax_age_s = 1").start();
    put(server.address, "/media/a.m4s", b"a");
    put(server.address, "/livestock/a.m4s", b"not the prefix");
    put(server.address, "/vod/a.m4s", b"kept");
    wait_until("it ages", || is_gone(&server, "/media/a.m4s"));
    assert_eq!(get(server.address, "/livestock/a.m4s").status, 200);
    assert_eq!(get(server.address, "/vod/a.m4s").status, 200);
    put(server.address, "/media/b.m4s", b"new ones come");
}

/// Goal: retention never disturbs a reader in flight. Method: a stalled reader of an object that
/// expires meanwhile.
#[test]
fn a_reader_in_flight_survives_retention() {
    let server = Setup::new().table("[[retention]]\nprefix = \"/media/\"\nmax_age_s = 1").start();
    let body = noise(5, 8 << 20);
    put(server.address, "/media/a.m4s", &body);
    let mut reader = Client::with_small_window(server.address);
    assert_eq!(reader.get("/media/a.m4s", "").status, 200);
    wait_until("it ages", || is_gone(&server, "/media/a.m4s"));
    assert_same(&reader.exactly(body.len()).unwrap(), &body);
}

/// Goal: an endless object is trimmed at its head, offsets keep counting. Method: a window of
/// 256 KiB over extents of 64 KiB, 4 MiB pushed while one reader keeps up; the disk stays small,
/// a range near the tail is exact, one long gone is not served as something else.
#[test]
fn an_endless_object_is_trimmed() {
    let server = Setup::new()
        .key("store.extent_bytes", "65536")
        .table("[[retention]]\nprefix = \"/cam/\"\nwindow_bytes = 262144")
        .start();
    let body = noise(6, 4 << 20);
    let mut upload = Upload::open(server.address, "/cam/endless.bin", "");
    let mut reader = Client::connect(server.address);
    assert_eq!(reader.get("/cam/endless.bin", "").status, 200);
    for part in body.chunks(32 * 1024) {
        upload.append(part);
        assert_same(&reader.data_of(part.len()), part);
    }
    wait_until("the head is dropped from the disk", || {
        let sizes = files_below(&server.data());
        let bytes: u64 =
            sizes.iter().filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum();
        bytes < 1 << 20
    });
    let first = body.len() - 100_000;
    let mut late = Client::connect(server.address);
    let head = late.get("/cam/endless.bin", &format!("Range: bytes={first}-\r\n"));
    assert_eq!(head.status, 206);
    assert_eq!(head.needed("content-range"), format!("bytes {first}-9007199254740991/*"));
    assert_same(&late.data_of(100_000), &body[first..]);
    let mut gone = Client::connect(server.address);
    gone.request("GET", "/cam/endless.bin", "Range: bytes=0-9\r\n");
    if let Ok(head) = gone.try_head() {
        let status = head.status;
        let answer = gone.body(head, "GET");
        assert!(status >= 400 || answer.body != body[..10], "{answer:?}");
        assert!(status != 206 || !answer.complete || answer.body.is_empty(), "{answer:?}");
    }
    upload.append(b"the end");
    assert_eq!(reader.data_of(7), b"the end");
    assert_eq!(late.data_of(7), b"the end");
    assert_eq!(upload.seal().status, 201);
    assert_eq!(reader.chunk(), Chunk::Last);
}

/// Goal: `-r` never touches the disk, and does everything else. Method: sealed, live, ranges,
/// many extents; the data directory stays empty, a restart starts empty.
#[test]
fn ram_only_mode_leaves_no_file() {
    let server = Setup::new().argument("-r").key("store.extent_bytes", "65536").start();
    let body = noise(7, 1_000_000);
    put(server.address, "/r.mp4", &body);
    get(server.address, "/r.mp4").assert_body(200, &body);
    let range =
        crate::client::ask(server.address, "GET", "/r.mp4", "Range: bytes=65530-131080\r\n");
    range.assert_body(206, &body[65_530..=131_080]);
    let mut upload = Upload::open(server.address, "/live.ts", "");
    let mut reader = Client::connect(server.address);
    reader.get("/live.ts", "");
    for part in body.chunks(50_000) {
        upload.append(part);
        assert_same(&reader.data_of(part.len()), part);
    }
    assert_eq!(upload.seal().status, 201);
    put(server.address, "/r.mp4", b"replaced");
    get(server.address, "/r.mp4").assert_body(200, b"replaced");
    assert_eq!(crate::client::ask(server.address, "DELETE", "/r.mp4", "").status, 204);
    assert!(is_gone(&server, "/r.mp4"));
    let entries = fs::read_dir(server.data()).map_or(0, Iterator::count);
    assert_eq!(entries, 0, "files in RAM-only mode: {:?}", files_below(&server.data()));
    let server = server.restart();
    assert!(is_gone(&server, "/live.ts"));
}

/// Goal: RAM-only mode with `-d` is go-chunked's way of a small machine: memory is bounded by age.
#[test]
fn ram_only_objects_expire() {
    let server = Setup::new().argument("-r").argument("-d").start();
    put_with(server.address, "/a.ts", "Cache-Control: max-age=1\r\n", b"a");
    put(server.address, "/b.ts", b"b");
    wait_until("it expires", || is_gone(&server, "/a.ts"));
    get(server.address, "/b.ts").assert_body(200, b"b");
}
