//! Live objects: readers follow the bytes while they arrive, and see what becomes of the upload.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{
    Answer, Chunk, Client, End, Noise, Upload, ask, assert_same, get, noise, put, put_with,
};
use crate::server::{Server, Setup, wait_until};

/// Starts a reader that follows an object to its end.
fn follow(address: SocketAddr, target: &'static str) -> thread::JoinHandle<Answer> {
    thread::spawn(move || get(address, target))
}

/// Goal: a reader gets its head before there is any data. Method: an upload that sent only a head.
#[test]
fn the_head_comes_before_the_first_byte() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/live.mp4", "Cache-Control: max-age=5\r\n");
    let mut reader = Client::connect(server.address);
    let head = reader.get("/live.mp4", "");
    assert_eq!(head.status, 200);
    assert!(head.is_chunked(), "{head:?}");
    assert_eq!(head.field("content-type"), Some("video/mp4"));
    assert_eq!(head.field("cache-control"), Some("max-age=5"));
    assert_eq!((head.field("etag"), head.field("last-modified")), (None, None));
    upload.append(b"first");
    assert_eq!(reader.data(), b"first");
    assert_eq!(upload.seal().status, 201);
    assert_eq!(reader.chunk(), Chunk::Last);
    reader.ask("GET", "/live.mp4", "").assert_body(200, b"first");
}

/// Goal: each append is passed on as it lands, as one chunk. Method: append, then read exactly
/// that before the next append.
#[test]
fn every_append_reaches_the_reader_as_a_chunk() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/steps.m4s", "");
    upload.append(b"before the readers came, ");
    let readers = || Client::connect(server.address);
    let mut readers: Vec<Client> = (0..3).map(|_| readers()).collect();
    for reader in &mut readers {
        assert_eq!(reader.get("/steps.m4s", "").status, 200);
        assert_eq!(reader.data(), b"before the readers came, ");
    }
    for step in 0..200 {
        let data = noise(step, 1 + 7 * step as usize);
        upload.append(&data);
        for reader in &mut readers {
            assert_same(&reader.data(), &data);
        }
    }
    assert_eq!(upload.seal().status, 201);
    for reader in &mut readers {
        assert_eq!(reader.chunk(), Chunk::Last);
    }
}

/// Goal: followers get every byte, whenever they join. Method: 24 readers that join during an
/// upload of chunks of random size; each compares everything.
#[test]
fn followers_get_every_byte() {
    let server = Server::start();
    let body = noise(4, 12 << 20);
    let mut upload = Upload::open(server.address, "/follow.ts", "");
    let (mut rest, mut sizes, mut readers) = (body.as_slice(), Noise::new(5), Vec::new());
    let mut steps = 0;
    while !rest.is_empty() {
        if steps % 12 == 0 && readers.len() < 24 {
            readers.push(follow(server.address, "/follow.ts"));
        }
        let size = (1 + sizes.below(90_000)).min(rest.len());
        upload.append(&rest[..size]);
        rest = &rest[size..];
        steps += 1;
    }
    assert_eq!(upload.seal().status, 201);
    assert!(readers.len() > 10);
    for reader in readers {
        reader.join().unwrap().assert_body(200, &body);
    }
    let sealed = get(server.address, "/follow.ts");
    sealed.assert_body(200, &body);
    assert_eq!(sealed.field("content-length"), Some("12582912"));
}

/// Goal: an upload with Content-Length is followed live too, byte for byte.
#[test]
fn an_upload_of_known_length_is_followed() {
    let server = Server::start();
    let mut uploader = Client::connect(server.address);
    uploader.request("PUT", "/known.ts", "Content-Length: 9\r\n");
    wait_until("it opens", || ask(server.address, "HEAD", "/known.ts", "").status == 200);
    let mut reader = Client::connect(server.address);
    let head = reader.get("/known.ts", "");
    assert_eq!((head.status, head.is_chunked()), (200, true), "{head:?}");
    for part in ["abc", "def", "ghi"] {
        uploader.send(part);
        assert_eq!(reader.data(), part.as_bytes());
    }
    assert_eq!(uploader.answer_to("PUT").status, 201);
    assert_eq!(reader.chunk(), Chunk::Last);
}

/// Goal: an HTTP/1.0 reader follows without chunks and is closed properly at the end.
#[test]
fn an_http_1_0_reader_follows_unframed() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/old.ts", "");
    upload.append(b"abc");
    let mut reader = Client::connect(server.address);
    reader.send("GET /old.ts HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let head = reader.head();
    assert_eq!(head.status, 200);
    assert!(head.field("content-length").is_none() && head.field("transfer-encoding").is_none());
    assert_eq!(reader.exactly(3).unwrap(), b"abc");
    upload.append(b"defg");
    assert_eq!(reader.exactly(4).unwrap(), b"defg");
    upload.seal();
    assert_eq!(reader.read_to_end(), (Vec::new(), End::Fin));
}

/// How an upload ends.
type Way = fn(Upload);

/// Goal: a torn upload never looks complete. Method: uploads that end in each bad way, with an
/// HTTP/1.1 and an HTTP/1.0 reader on each.
#[test]
fn a_torn_upload_cuts_its_readers() {
    let server = Server::start();
    let ways: [(&str, Way); 5] = [
        ("closed between chunks", drop),
        ("closed in mid-chunk", Upload::cut),
        ("reset", |upload| upload.client.reset()),
        ("bad chunk size", |mut upload| {
            upload.client.send("zz\r\n");
            assert_eq!(upload.client.answer().status, 400);
        }),
        ("no CRLF after a chunk", |mut upload| {
            upload.client.send("4\r\ndataX\r\n0\r\n\r\n");
            assert_eq!(upload.client.answer().status, 400);
        }),
    ];
    for (way, end) in ways {
        let mut upload = Upload::open(server.address, "/torn.ts", "");
        upload.append(b"some data");
        let mut new = Client::connect(server.address);
        assert!(new.get("/torn.ts", "").is_chunked());
        assert_eq!(new.data(), b"some data");
        let mut old = Client::connect(server.address);
        old.send("GET /torn.ts HTTP/1.0\r\n\r\n");
        old.head();
        assert_eq!(old.exactly(9).unwrap(), b"some data");
        end(upload);
        let cut = loop {
            match new.chunk() {
                Chunk::Data(_) => {}
                other => break other,
            }
        };
        assert!(matches!(cut, Chunk::Cut(_)), "{way}: {cut:?}");
        assert_eq!(old.read_to_end().1, End::Reset, "{way}: HTTP/1.0 has no other sign");
        wait_until(way, || get(server.address, "/torn.ts").status == 404);
    }
}

/// Goal: an encoder that lost its network comes back under its names. Method: a second upload on
/// an Open object; the first is told 409 and closed, its readers are cut, new ones get the second.
#[test]
fn a_second_uploader_takes_over() {
    let server = Server::start();
    let mut first = Upload::open(server.address, "/cam.mp4", "");
    first.append(b"of the first");
    let mut reader = Client::connect(server.address);
    reader.get("/cam.mp4", "");
    assert_eq!(reader.data(), b"of the first");
    let mut second = Upload::begin(server.address, "/cam.mp4", "");
    second.append(b"of the second");
    assert!(matches!(reader.chunk(), Chunk::Cut(_)));
    let _ = first.try_append(b"the first is not told before it speaks");
    let refused = first.client.answer_to("PUT");
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(refused.text().lines().count(), 1);
    first.client.assert_closed();
    let mut late = Client::connect(server.address);
    assert_eq!(late.get("/cam.mp4", "").status, 200);
    assert_eq!(late.data(), b"of the second");
    let status = second.seal().status;
    assert!([201, 204].contains(&status), "{status}");
    assert_eq!(late.chunk(), Chunk::Last);
    get(server.address, "/cam.mp4").assert_body(200, b"of the second");
}

/// Goal: DELETE of an Open object stops its upload with 410 and cuts its readers.
#[test]
fn a_delete_during_the_upload_is_410_for_the_uploader() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/gone.ts", "");
    upload.append(b"data");
    let mut reader = Client::connect(server.address);
    reader.get("/gone.ts", "");
    assert_eq!(reader.data(), b"data");
    assert_eq!(ask(server.address, "DELETE", "/gone.ts", "").status, 204);
    assert_eq!(get(server.address, "/gone.ts").status, 404);
    assert!(matches!(reader.chunk(), Chunk::Cut(_)));
    let _ = upload.try_append(b"more");
    assert_eq!(upload.client.answer_to("PUT").status, 410);
    upload.client.assert_closed();
    assert_eq!(get(server.address, "/gone.ts").status, 404);
    assert!(!server.data().join("gone.ts").exists());
    assert_eq!(put_with(server.address, "/gone.ts", "", b"again").status, 201);
}

/// Goal: readers of a finished object finish on its bytes, whatever happens to the name. Method:
/// a stalled reader of 8 MiB, while the name is replaced, and another while it is deleted.
#[test]
fn a_reader_in_flight_finishes_on_the_old_bytes() {
    let server = Server::start();
    let old = noise(6, 8 << 20);
    put(server.address, "/media.m4s", &old);
    let stalled = |server: &Server| {
        let mut reader = Client::with_small_window(server.address);
        assert_eq!(reader.get("/media.m4s", "").status, 200);
        reader
    };
    let mut first = stalled(&server);
    put(server.address, "/media.m4s", b"new");
    get(server.address, "/media.m4s").assert_body(200, b"new");
    assert_same(&first.exactly(old.len()).unwrap(), &old);

    put(server.address, "/media.m4s", &old);
    let mut second = stalled(&server);
    assert_eq!(ask(server.address, "DELETE", "/media.m4s", "").status, 204);
    assert_eq!(get(server.address, "/media.m4s").status, 404);
    assert_same(&second.exactly(old.len()).unwrap(), &old);
}

/// Goal: media switches at once. Method: a new upload on a Sealed name is followed live.
#[test]
fn replaced_media_is_visible_at_once() {
    let server = Server::start();
    put(server.address, "/seg.m4s", b"old segment");
    let mut upload = Upload::open(server.address, "/seg.m4s", "");
    upload.append(b"new ");
    let mut reader = Client::connect(server.address);
    assert!(reader.get("/seg.m4s", "").is_chunked());
    assert_eq!(reader.data(), b"new ");
    upload.append(b"segment");
    assert_eq!(reader.data(), b"segment");
    assert_eq!(upload.seal().status, 204);
    get(server.address, "/seg.m4s").assert_body(200, b"new segment");
}

/// Goal: manifests switch only when complete, by extension or by content type, and a torn new
/// version leaves the old one. Method: GET at each stage of a replacement.
#[test]
fn a_manifest_switches_only_when_it_is_complete() {
    let server = Server::start();
    for (target, fields) in [
        ("/m.m3u8", ""),
        ("/m.mpd", ""),
        ("/playlist", "Content-Type: application/vnd.apple.mpegurl\r\n"),
        ("/other", "Content-Type: application/x-mpegURL\r\n"),
        ("/dash", "Content-Type: application/dash+xml\r\n"),
    ] {
        assert_eq!(put_with(server.address, target, fields, b"version 1").status, 201);
        let mut upload = Upload::begin(server.address, target, fields);
        upload.append(b"version 2, first half, ");
        for _ in 0..20 {
            get(server.address, target).assert_body(200, b"version 1");
        }
        upload.append(b"second half");
        get(server.address, target).assert_body(200, b"version 1");
        assert_eq!(upload.seal().status, 204, "{target}");
        get(server.address, target).assert_body(200, b"version 2, first half, second half");
        let mut torn = Upload::begin(server.address, target, fields);
        torn.append(b"version 3");
        torn.cut();
        for _ in 0..20 {
            let answer = get(server.address, target);
            answer.assert_body(200, b"version 2, first half, second half");
        }
    }
}

/// Goal: no poll ever sees a torn or an older manifest. Method: 150 versions of growing length in
/// small chunks against three polling readers.
#[test]
fn polled_manifests_are_whole_and_never_go_back() {
    fn version(number: usize) -> Vec<u8> {
        format!("{number}:{}:end", "x".repeat(number * 97)).into_bytes()
    }
    let server = Server::start();
    put(server.address, "/poll.m3u8", &version(0));
    let done = AtomicBool::new(false);
    let poll = || {
        let (mut client, mut newest) = (Client::connect(server.address), 0);
        while !done.load(Ordering::Relaxed) {
            let answer = client.ask("GET", "/poll.m3u8", "");
            let text = answer.text();
            let number = text.split(':').next().unwrap().parse().unwrap();
            answer.assert_body(200, &version(number));
            assert!(number >= newest, "{number} after {newest}");
            newest = number;
        }
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(poll)).collect();
        let mut uploader = Client::connect(server.address);
        for number in 1..=150 {
            uploader.request("PUT", "/poll.m3u8", "Transfer-Encoding: chunked\r\n");
            for part in version(number).chunks(1000) {
                uploader.send(format!("{:x}\r\n", part.len()));
                uploader.send([part, b"\r\n"].concat());
            }
            uploader.send("0\r\n\r\n");
            assert_eq!(uploader.answer_to("PUT").status, 204);
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    get(server.address, "/poll.m3u8").assert_body(200, &version(150));
}

/// Goal: a waiting GET is answered when the upload starts, not when it ends. Method: `-w`, a GET,
/// then an upload that sends only its head.
#[test]
fn a_waiting_get_is_answered_when_the_upload_starts() {
    let server = Setup::new().argument("-w").start();
    let mut reader = Client::connect(server.address);
    reader.request("GET", "/later.ts", "Expires: in=50\r\n");
    let mut second = Client::connect(server.address);
    second.request("GET", "/later.ts", "Expires: in=50\r\n");
    // Nothing says when the server has read these; half a second is plenty, and not measured.
    thread::sleep(Duration::from_millis(500));
    let mut upload = Upload::open(server.address, "/later.ts", "");
    for client in [&mut reader, &mut second] {
        let head = client.head();
        assert_eq!((head.status, head.is_chunked()), (200, true));
        let waited: u64 = head.needed("waited-for-data-ms").parse().unwrap();
        assert!(waited < 50_000, "{waited}");
    }
    upload.append(b"now");
    assert_eq!(reader.data(), b"now");
    assert_eq!(upload.seal().status, 201);
    assert_eq!(second.data(), b"now");
    assert_eq!(second.chunk(), Chunk::Last);
}

/// Goal: a wait ends with 404 and says how long it was; HEAD and other objects never wait.
#[test]
fn a_wait_in_vain_is_404() {
    let server = Setup::new().argument("-w").start();
    for (fields, least) in [("", 1000), ("Expires: in=2\r\n", 2000), ("Expires: soon\r\n", 1000)] {
        let answer = ask(server.address, "GET", "/never", fields);
        assert_eq!(answer.status, 404);
        let waited: u64 = answer.needed("waited-for-data-ms").parse().unwrap();
        assert!(waited >= least, "{fields:?}: waited {waited} ms");
    }
    let head = ask(server.address, "HEAD", "/never", "Expires: in=50\r\n");
    assert_eq!((head.status, head.field("waited-for-data-ms")), (404, None));
    put(server.address, "/there", b"x");
    let there = ask(server.address, "GET", "/there", "Expires: in=50\r\n");
    there.assert_body(200, b"x");
}

/// Goal: a client that stops waiting leaves nothing behind. Method: 200 waiters that go away, then
/// one more on the same name.
#[test]
fn waiters_that_leave_do_no_harm() {
    let server = Setup::new().argument("-w").start();
    for _ in 0..200 {
        let mut client = Client::connect(server.address);
        client.request("GET", "/w.ts", "Expires: in=50\r\n");
    }
    let mut last = Client::connect(server.address);
    last.request("GET", "/w.ts", "Expires: in=50\r\n");
    put(server.address, "/w.ts", b"data");
    last.answer().assert_body(200, b"data");
}

/// Goal: readers that leave in mid-stream do not touch the upload or each other.
#[test]
fn readers_that_leave_do_no_harm() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/leave.ts", "");
    let stays = follow(server.address, "/leave.ts");
    let mut expected = Vec::new();
    for step in 0..60 {
        let mut leaves = Client::connect(server.address);
        leaves.get("/leave.ts", "");
        let data = noise(step, 20_000);
        upload.append(&data);
        expected.extend(data);
        if step % 2 == 0 {
            leaves.reset();
        }
    }
    assert_eq!(upload.seal().status, 201);
    stays.join().unwrap().assert_body(200, &expected);
}

/// Goal: an endless stream of short objects works as encoders do it: next segment opened before
/// the last is sealed. Method: 40 segments, each followed live and compared.
#[test]
fn overlapping_segments_are_followed_each() {
    let server = Setup::new().argument("-w").start();
    let address = server.address;
    let target = |index: usize| format!("/media/seg-{index:05}.m4s");
    let readers = thread::spawn(move || {
        let mut client = Client::connect(address);
        for index in 0..40 {
            let answer = client.ask("GET", &target(index), "Expires: in=50\r\n");
            answer.assert_body(200, &noise(index as u64, 30_000));
        }
    });
    let mut open = Upload::begin(address, &target(0), "");
    for index in 0..40 {
        let next = (index < 39).then(|| Upload::begin(address, &target(index + 1), ""));
        noise(index as u64, 30_000).chunks(4_000).for_each(|part| open.append(part));
        assert_eq!(open.seal().status, 201);
        match next {
            Some(next) => open = next,
            None => break,
        }
    }
    readers.join().unwrap();
}
