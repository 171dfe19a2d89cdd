//! What survives a restart: bytes, metadata, plain files, kept uploads, many extents.

use std::fs;

use crate::client::{Answer, Client, Noise, Upload, ask, assert_same, get, noise, put, put_with};
use crate::server::{Server, Setup, files_below, wait_until};

/// The objects of one test and what was answered for each before the restart.
fn answers(server: &Server, targets: &[&str]) -> Vec<Answer> {
    targets.iter().map(|target| get(server.address, target)).collect()
}

fn assert_unchanged(server: &Server, targets: &[&str], before: &[Answer]) {
    for (target, old) in targets.iter().zip(before) {
        let new = get(server.address, target);
        assert_eq!(new.lasting(), old.lasting(), "{target}");
        new.assert_body(200, &old.body);
        let fields = format!("If-None-Match: {}\r\n", old.needed("etag"));
        assert_eq!(ask(server.address, "GET", target, &fields).status, 304, "{target}");
    }
}

/// Goal: a restart changes nothing that a reader sees. Method: objects with every kind of
/// metadata; compare all fields after SIGTERM, then after SIGKILL.
#[test]
fn metadata_survives_a_stop_and_a_kill() {
    let server = Setup::new().key("headers.stored", r#"["X-Foo"]"#).start();
    let fields = "Content-Type: video/x-test\r\nCache-Control: public, max-age=77\r\n\
                  Content-Language: de, en\r\nX-Foo: bar\r\n";
    put_with(server.address, "/typed.bin", fields, &noise(1, 100_000));
    put(server.address, "/deep/er/and/deeper.m4s", &noise(2, 3));
    put(server.address, "/empty.ts", b"");
    put(server.address, "/%C3%A4%20%25%3F%23+&.mp4", b"odd name");
    put(server.address, "/list.m3u8", b"#EXTM3U\n");
    let mut upload = Upload::begin(server.address, "/chunked.ts", "");
    (0..50).for_each(|step| upload.append(&noise(step, 5_000)));
    assert_eq!(upload.seal().status, 201);
    let odd = "/%C3%A4%20%25%3F%23+&.mp4";
    let targets =
        ["/typed.bin", "/deep/er/and/deeper.m4s", "/empty.ts", odd, "/list.m3u8", "/chunked.ts"];
    let before = answers(&server, &targets);
    let server = server.restart();
    assert_unchanged(&server, &targets, &before);
    let server = server.kill().start();
    assert_unchanged(&server, &targets, &before);
}

/// Goal: what was replaced or deleted stays so. Method: both, then SIGKILL.
#[test]
fn replaced_and_deleted_objects_stay_so() {
    let server = Server::start();
    for index in 0..40 {
        put(server.address, &format!("/o/{index}"), &noise(index, 1000));
    }
    for index in 0..40 {
        match index % 3 {
            0 => assert_eq!(ask(server.address, "DELETE", &format!("/o/{index}"), "").status, 204),
            1 => drop(put(server.address, &format!("/o/{index}"), &noise(index + 100, 500))),
            _ => {}
        }
    }
    let server = server.kill().start();
    for index in 0..40 {
        let answer = get(server.address, &format!("/o/{index}"));
        match index % 3 {
            0 => assert_eq!(answer.status, 404, "{index}"),
            1 => answer.assert_body(200, &noise(index + 100, 500)),
            _ => answer.assert_body(200, &noise(index, 1000)),
        }
    }
}

/// Goal: a finished object is one plain file. Method: compare files with bytes while it runs.
#[test]
fn a_finished_object_is_a_plain_file() {
    let server = Server::start();
    let body = noise(3, 200_000);
    put(server.address, "/folder/movie.mp4", &body);
    put(server.address, "/chunked", b"");
    let mut upload = Upload::begin(server.address, "/folder/live.ts", "");
    body.chunks(7_000).for_each(|part| upload.append(part));
    upload.seal();
    for name in ["folder/movie.mp4", "folder/live.ts"] {
        assert_same(&fs::read(server.data().join(name)).unwrap(), &body);
    }
    assert_eq!(fs::read(server.data().join("chunked")).unwrap(), b"");
    ask(server.address, "DELETE", "/folder/movie.mp4", "");
    assert!(!server.data().join("folder/movie.mp4").exists());
    assert!(server.data().join("folder/live.ts").exists());
}

/// Goal: a directory of plain files is served without any metadata. Method: files that no server
/// ever wrote, then a second start on them.
#[test]
fn plain_files_are_served() {
    let setup = Setup::new();
    let data = setup.data();
    fs::create_dir_all(data.join("vod/a")).unwrap();
    let body = noise(4, 3 << 20);
    fs::write(data.join("vod/a/movie.mp4"), &body).unwrap();
    fs::write(data.join("vod/index.m3u8"), b"#EXTM3U\n").unwrap();
    fs::write(data.join("empty.txt"), b"").unwrap();
    fs::write(data.join("blank and \u{e4}.ts"), b"odd").unwrap();
    let mut server = setup.start();
    let mut etags = Vec::new();
    for _ in 0..2 {
        let movie = get(server.address, "/vod/a/movie.mp4");
        movie.assert_body(200, &body);
        assert_eq!(movie.field("content-type"), Some("video/mp4"));
        assert_eq!(movie.field("accept-ranges"), Some("bytes"));
        etags.push(movie.needed("etag").to_owned());
        let range = ask(server.address, "GET", "/vod/a/movie.mp4", "Range: bytes=-5\r\n");
        range.assert_body(206, &body[body.len() - 5..]);
        let list = get(server.address, "/vod/index.m3u8");
        list.assert_body(200, b"#EXTM3U\n");
        assert_eq!(list.field("content-type"), Some("application/vnd.apple.mpegurl"));
        get(server.address, "/empty.txt").assert_body(200, b"");
        get(server.address, "/blank%20and%20%C3%A4.ts").assert_body(200, b"odd");
        assert_eq!(get(server.address, "/vod").status, 404);
        server = server.restart();
    }
    assert_eq!(etags[0], etags[1]);
    assert_eq!(put_with(server.address, "/vod/index.m3u8", "", b"new").status, 204);
    assert_eq!(ask(server.address, "DELETE", "/vod/a/movie.mp4", "").status, 204);
    assert!(!data.join("vod/a/movie.mp4").exists());
}

/// Goal: the server's own folder is never served. Method: everything that lies in it, by name.
#[test]
fn the_servers_own_files_are_not_served() {
    let server = Server::start();
    put(server.address, "/a", b"a");
    let server = server.restart();
    let own = server.data().join(".headwater");
    for file in files_below(&own).iter().chain([&own]) {
        let name = file.strip_prefix(server.data()).unwrap().display().to_string();
        let answer = get(server.address, &format!("/{name}"));
        assert!([403, 404].contains(&answer.status), "{name}: {answer:?}");
    }
}

/// Goal: an object of many extents reads as one. Method: extents of 64 KiB, ranges across their
/// borders, while it is Open, Sealed, and after a restart and a kill.
#[test]
fn an_object_of_many_extents_reads_as_one() {
    let mut server = Setup::new().key("store.extent_bytes", "65536").start();
    let body = noise(5, 1_500_000);
    let mut upload = Upload::open(server.address, "/long.ts", "");
    body.chunks(33_333).for_each(|part| upload.append(part));
    let borders = |server: &Server, states: &str| {
        let mut client = Client::connect(server.address);
        let mut random = Noise::new(6);
        for _ in 0..60 {
            let border = 65_536 * (1 + random.below(21));
            let first = border - 1 - random.below(70_000).min(border - 1);
            let last = (border + random.below(140_000)).min(body.len() - 1);
            let fields = format!("Range: bytes={first}-{last}\r\n");
            let answer = client.ask("GET", "/long.ts", &fields);
            answer.assert_body(206, &body[first..=last]);
            let total = answer.needed("content-range").split_once('/').unwrap().1;
            assert_eq!(total == "*", states == "open", "{states}");
        }
    };
    borders(&server, "open");
    assert_eq!(upload.seal().status, 201);
    let before = get(server.address, "/long.ts");
    before.assert_body(200, &body);
    let exact = noise(7, 4 * 65_536);
    put(server.address, "/exact.ts", &exact);
    for kill in [false, true] {
        borders(&server, "sealed");
        server = if kill { server.kill().start() } else { server.restart() };
        let after = get(server.address, "/long.ts");
        after.assert_body(200, &body);
        assert_eq!(after.lasting(), before.lasting());
        get(server.address, "/exact.ts").assert_body(200, &exact);
    }
    assert_eq!(ask(server.address, "DELETE", "/long.ts", "").status, 204);
    put(server.address, "/long.ts", b"short now");
    let server = server.kill().start();
    get(server.address, "/long.ts").assert_body(200, b"short now");
    ask(server.address, "DELETE", "/long.ts", "");
    ask(server.address, "DELETE", "/exact.ts", "");
    wait_until("the extents are gone from the disk", || {
        let left = files_below(&server.data());
        left.iter().filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum::<u64>()
            < 1_000_000
    });
}

/// Goal: an object larger than any buffer stays whole over extents of the default size.
#[test]
fn a_large_object_survives_a_kill() {
    let server = Server::start();
    let body = noise(8, 40 << 20);
    let mut upload = Upload::begin(server.address, "/large.mp4", "");
    body.chunks(1 << 20).for_each(|part| upload.append(part));
    assert_eq!(upload.seal().status, 201);
    let server = server.kill().start();
    get(server.address, "/large.mp4").assert_body(200, &body);
}

/// Goal: torn uploads are gone after a restart by default. Method: SIGKILL and SIGTERM during
/// uploads; no name, no file of theirs remains.
#[test]
fn torn_uploads_are_gone_after_a_restart() {
    for kill in [true, false] {
        let server = Server::start();
        let mut uploads = Vec::new();
        for index in 0..5 {
            let mut upload = Upload::open(server.address, &format!("/torn/{index}.ts"), "");
            upload.append(&noise(index, 300_000));
            uploads.push(upload);
        }
        put(server.address, "/whole.ts", b"whole");
        let server = if kill { server.kill().start() } else { server.restart() };
        for index in 0..5 {
            assert_eq!(get(server.address, &format!("/torn/{index}.ts")).status, 404);
        }
        get(server.address, "/whole.ts").assert_body(200, b"whole");
        wait_until("the torn bytes leave the disk", || {
            let left = files_below(&server.data());
            left.iter().all(|file| !file.metadata().is_ok_and(|meta| meta.len() >= 300_000))
        });
    }
}

/// Goal: with `on_abort = "keep"` the bytes that came stay. Method: an aborted upload, one killed
/// with the server, one stopped with it; each is a finished object afterwards.
#[test]
fn kept_uploads_are_finished_objects() {
    let server = Setup::new().key("on_abort", "\"keep\"").start();
    let body = noise(9, 200_000);
    let begin = |server: &Server, target: &str| {
        let mut upload = Upload::open(server.address, target, "Content-Type: video/kept\r\n");
        upload.append(&body);
        let mut reader = Client::connect(server.address);
        reader.get(target, "");
        assert_same(&reader.data_of(body.len()), &body);
        upload
    };
    let assert_kept = |server: &Server, target: &str| {
        wait_until(&format!("{target} is kept"), || {
            ask(server.address, "HEAD", target, "").field("etag").is_some()
        });
        let answer = get(server.address, target);
        answer.assert_body(200, &body);
        assert_eq!(answer.field("content-type"), Some("video/kept"));
        assert_eq!(answer.needed("content-length"), "200000");
    };
    drop(begin(&server, "/aborted"));
    assert_kept(&server, "/aborted");
    let with_stop = begin(&server, "/stopped");
    let server = server.restart();
    drop(with_stop);
    assert_kept(&server, "/stopped");
    let with_kill = begin(&server, "/killed");
    let server = server.kill().start();
    drop(with_kill);
    for target in ["/aborted", "/stopped", "/killed"] {
        assert_kept(&server, target);
    }
}

/// Goal: the reader of a kept upload is cut all the same: nothing torn looks complete to a cache.
#[test]
fn a_kept_upload_still_cuts_its_readers() {
    let server = Setup::new().key("on_abort", "\"keep\"").start();
    let mut upload = Upload::open(server.address, "/k.ts", "");
    upload.append(b"data");
    let mut reader = Client::connect(server.address);
    reader.get("/k.ts", "Connection: close\r\n");
    assert_eq!(reader.data(), b"data");
    drop(upload);
    let (rest, _) = reader.read_to_end();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a proper end: {rest:?}");
}

/// Goal: recovery of many objects is quick. Method: 20,000 small files; the hang guard is the
/// limit, the point is that every one is there.
#[test]
fn many_objects_are_recovered() {
    let setup = Setup::new();
    for folder in 0..20 {
        let path = setup.data().join(format!("f{folder}"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..1000 {
            fs::write(path.join(format!("{file}.m4s")), format!("{folder}/{file}")).unwrap();
        }
    }
    let server = setup.start().kill().start();
    let mut client = Client::connect(server.address);
    for index in 0..1000 {
        let (folder, file) = (index % 20, index);
        let answer = client.ask("GET", &format!("/f{folder}/{file}.m4s"), "");
        answer.assert_body(200, format!("{folder}/{file}").as_bytes());
    }
}
