//! `[[mirror]]`: HLS and DASH of another origin, fetched when they are asked for.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::client::{Client, ask, assert_same, get, noise, put, put_with};
use crate::hls_checker::{Plan, follow};
use crate::hls_fmp4::Film;
use crate::hls_rules::{PART, POINT, PUSHED, SEGMENT, Stage, origin};
use crate::server::{Server, needs, wait_until};
use crate::upstream_kit::{
    Gate, Seen, Upstream, chunk, counter, ok, section, serving, until_counted,
};

/// A server that mirrors `/m/` of this address under `/m/`.
fn mirroring(upstream: SocketAddr, more: &str) -> Server {
    serving(&section("mirror", "/m/", &format!("http://{upstream}/m/"), more))
}

/// An edge of everything that an origin has.
fn edge_of(origin: &Server, more: &str) -> Server {
    let upstream = format!("http://{}/", origin.address);
    serving(&section("mirror", "/", &upstream, more))
}

/// Goal: a path is asked for as it was, with its query, whatever letters it has; what it gets is passed
/// on but for what is between neighbours; it is kept as long as it says.
#[test]
fn paths_and_answers_are_passed_on() {
    let upstream = Upstream::start(|seen, stream| {
        let lines = "Content-Type: video/mp4\r\nCache-Control: max-age=600\r\nAge: 7\r\n\
            Set-Cookie: a=b\r\nKeep-Alive: timeout=5\r\nX-Odd: 1\r\nETag: \"theirs\"\r\n\
            Access-Control-Allow-Origin: http://elsewhere\r\n";
        stream.write_all(&ok(lines, seen.target.as_bytes())).is_ok()
    });
    let server = mirroring(upstream.address, "");
    for (asked, wanted) in [
        ("/m/", "/m/"),
        ("/m/a.mp4", "/m/a.mp4"),
        ("/m/a/b/", "/m/a/b/"),
        (
            "/m/a?b=c&_HLS_msn=3&_HLS_part=1&_HLS_skip=YES",
            "/m/a?b=c&_HLS_msn=3&_HLS_part=1&_HLS_skip=YES",
        ),
        ("/m/%C3%A9%20%25%3F(x)'", "/m/%C3%A9%20%25%3F(x)'"),
        ("/m/x/../a%41?q=%41/..", "/m/aA?q=%41/.."),
        ("/m/q?a=\"<>", "/m/q?a=%22%3C%3E"),
        ("/m/c?CMCD=sid%3D1&x=y", "/m/c?x=y"),
    ] {
        let answer = get(server.address, asked);
        answer.assert_body(200, wanted.as_bytes());
        assert_eq!(answer.needed("content-type"), "video/mp4");
        assert_eq!(answer.needed("cache-control"), "max-age=600");
        assert_eq!(answer.needed("access-control-allow-origin"), "*");
        assert_eq!(answer.needed("via"), "1.1 headwater");
        assert!(answer.needed("age").parse::<u64>().unwrap() >= 7);
        for dropped in ["set-cookie", "keep-alive", "x-odd"] {
            assert!(answer.field(dropped).is_none(), "{dropped}");
        }
        let tag = answer.needed("etag").to_owned();
        assert_ne!(tag, "\"theirs\"", "it is made of the content");
        let fields = format!("If-None-Match: {tag}\r\nAuthorization: Basic x\r\nCookie: a=b\r\n");
        assert_eq!(ask(server.address, "GET", asked, &fields).status, 304);
        assert_eq!(upstream.count(wanted), 1, "{wanted}");
    }
    // Another query of CMCD is the same resource.
    assert_eq!(get(server.address, "/m/c?x=y&CMCD=sid%3D2").status, 200);
    assert_eq!(upstream.count("/m/c?x=y"), 1);
    for seen in upstream.seen() {
        assert!(seen.field("cookie").is_none() && seen.field("authorization").is_none());
        assert_eq!(seen.field("via"), Some("1.1 headwater"));
    }
    for (target, status) in [("/m", 404), ("/m/%2e%2e/x", 400), ("/m/a%2Fb", 400), ("/mm/a", 404)] {
        assert_eq!(get(server.address, target).status, status, "{target}");
    }
    for method in ["PUT", "POST", "DELETE"] {
        let head = "Content-Length: 0\r\n";
        assert_eq!(ask(server.address, method, "/m/a.mp4", head).status, 405, "{method}");
    }
    let head = ask(server.address, "HEAD", "/m/new", "");
    assert_eq!((head.status, head.needed("content-length")), (200, "6"));
    get(server.address, "/m/new").assert_body(200, b"/m/new");
    assert_eq!(upstream.count("/m/new"), 1, "HEAD has fetched it");
}

/// Goal: an answer that another proxy has changed is one as any other, however long; what has no body to
/// pass on is none.
#[test]
fn answers_with_other_codes_are_passed_on_whole() {
    let body = noise(5, 20_000);
    let whole = body.clone();
    let upstream = Upstream::start(move |seen, stream| {
        let status = seen.target.rsplit('/').next().unwrap();
        let head = format!("HTTP/1.1 {status} OK\r\nContent-Length: {}\r\n\r\n", whole.len());
        stream.write_all(&[head.as_bytes(), &whole].concat()).is_ok()
    });
    let server = mirroring(upstream.address, "");
    get(server.address, "/m/203").assert_body(200, &body);
    for status in [201, 202] {
        assert_eq!(get(server.address, &format!("/m/{status}")).status, 502, "{status}");
    }
}

/// Goal: bodies that nobody reads any more give up their places for others, one that is read does not.
/// Method: endless bodies take all places, and all readers but one leave.
#[test]
fn what_nobody_reads_gives_up_its_place() {
    let upstream = Upstream::start(|seen, stream| {
        if !seen.target.starts_with("/m/endless") {
            return stream.write_all(&ok("", b"other")).is_ok();
        }
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        while stream.write_all(&chunk(&[7; 1000])).is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
        false
    });
    let server = mirroring(upstream.address, "timeout_s = 5\nfetches_max = 3");
    let open = |name: &str| {
        let mut client = Client::connect(server.address);
        assert_eq!(client.get(&format!("/m/endless{name}"), "").status, 200);
        client
    };
    let mut reader = open("0");
    drop([open("1"), open("2?a=b")]);
    assert_eq!(get(server.address, "/m/x").status, 503, "all places are taken");
    wait_until("there is room", || get(server.address, "/m/x").status == 200);
    until_counted(&server, "fetches_abandoned", 2);
    reader.data_of(1000);
    // The next one who wants it gets it.
    open("1");
    assert!(reader.data().iter().all(|byte| *byte == 7));
    assert_eq!(upstream.count("/m/endless0"), 1);
    assert_eq!(upstream.count("/m/endless1"), 2);
    assert!(!server.log().contains("an upstream fails"), "it is not to blame");
}

/// An upstream whose answer to `/m/seg.mp4` goes on when the test says so; it ends when `None` comes, or
/// is cut when the sender is dropped.
fn stepwise() -> (Upstream, mpsc::Sender<Option<Vec<u8>>>) {
    let (sender, receiver) = mpsc::channel::<Option<Vec<u8>>>();
    let receiver = Mutex::new(receiver);
    let upstream = Upstream::start(move |seen: &Seen, stream| {
        if !seen.target.starts_with("/m/seg") {
            return stream.write_all(&ok("", b"other")).is_ok();
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nCache-Control: max-age=600\r\n\
            Transfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for piece in receiver.lock().unwrap().iter() {
            match piece {
                Some(piece) => stream.write_all(&chunk(&piece)).unwrap(),
                None => return stream.write_all(b"0\r\n\r\n").is_ok(),
            }
        }
        false
    });
    (upstream, sender)
}

/// Goal: a segment in progress flows to all who ask as it arrives, from one request; who comes later
/// gets it from its beginning, and when it is complete it has length, tag and ranges. Method: each piece
/// is sent when all readers have the one before.
#[test]
fn a_segment_in_progress_flows_to_many() {
    let (upstream, sender) = stepwise();
    let server = mirroring(upstream.address, "timeout_s = 60");
    let body = noise(3, 300_000);
    let mut readers: Vec<_> = (0..200).map(|_| Client::connect(server.address)).collect();
    readers.iter_mut().for_each(|client| client.request("GET", "/m/seg.mp4", ""));
    for client in &mut readers {
        let head = client.head();
        assert!(head.status == 200 && head.is_chunked() && head.field("etag").is_none());
    }
    for (index, piece) in body.chunks(30_000).enumerate() {
        sender.send(Some(piece.to_vec())).unwrap();
        for client in &mut readers {
            assert_same(&client.data_of(30_000), piece);
        }
        if index == 4 {
            let mut late = Client::connect(server.address);
            assert!(late.get("/m/seg.mp4", "").is_chunked());
            assert_same(&late.data_of(150_000), &body[..150_000]);
            readers.extend([late]);
            let mut ranged = Client::connect(server.address);
            let head = ranged.get("/m/seg.mp4", "Range: bytes=140000-159999\r\n");
            assert_eq!((head.status, head.needed("content-range")), (206, "bytes 140000-159999/*"));
            assert_same(&ranged.data_of(10_000), &body[140_000..150_000]);
        }
    }
    sender.send(None).unwrap();
    for client in &mut readers {
        assert_eq!(client.chunk(), crate::client::Chunk::Last);
    }
    let whole = get(server.address, "/m/seg.mp4");
    whole.assert_body(200, &body);
    assert_eq!(whole.needed("content-length"), "300000");
    let range = ask(server.address, "GET", "/m/seg.mp4", "Range: bytes=-5\r\n");
    range.assert_body(206, &body[299_995..]);
    assert_eq!(upstream.count("/m/seg.mp4"), 1);
}

/// Goal: a reader that takes nothing holds up nobody, neither the others nor the fetch.
#[test]
fn a_slow_reader_stops_nobody() {
    let (upstream, sender) = stepwise();
    let server = mirroring(upstream.address, "timeout_s = 60");
    let body = noise(4, 8 << 20);
    let mut slow = Client::with_small_window(server.address);
    slow.request("GET", "/m/seg.mp4", "");
    let mut quick = Client::connect(server.address);
    quick.get("/m/seg.mp4", "");
    for piece in body.chunks(1 << 20) {
        sender.send(Some(piece.to_vec())).unwrap();
        assert_same(&quick.data_of(1 << 20), piece);
    }
    sender.send(None).unwrap();
    assert_eq!(quick.chunk(), crate::client::Chunk::Last);
    slow.answer().assert_body(200, &body);
    assert_eq!(upstream.seen().len(), 1);
}

/// Goal: an answer that is cut is cut for its readers too and never taken for whole; it is fetched anew.
#[test]
fn a_cut_answer_is_cut_and_fetched_anew() {
    let round = Arc::new(AtomicUsize::new(0));
    let present = round.clone();
    let body = noise(5, 200_000);
    let (half, whole) = (body[..100_000].to_vec(), ok("Cache-Control: max-age=600\r\n", &body));
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_, stream| {
        if present.fetch_add(1, Ordering::SeqCst) > 0 {
            return stream.write_all(&whole).is_ok();
        }
        let head =
            "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\nCache-Control: max-age=600\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&half).unwrap();
        held.wait();
        false
    });
    let server = mirroring(upstream.address, "timeout_s = 60");
    let mut client = Client::connect(server.address);
    assert_eq!(client.get("/m/seg.mp4", "").status, 200);
    assert_same(&client.data_of(100_000), &body[..100_000]);
    gate.open();
    assert!(matches!(client.chunk(), crate::client::Chunk::Cut(_)));
    get(server.address, "/m/seg.mp4").assert_body(200, &body);
    assert_eq!(round.load(Ordering::SeqCst), 2);
    until_counted(&server, "fetch_errors", 1);
}

/// Goal: 200 blocking reloads of the same version are one request; each version is another one.
#[test]
fn blocking_reloads_are_collapsed() {
    let stage = Stage::start(7);
    let edge = edge_of(&stage.server, "");
    let before = get(edge.address, &stage.url);
    assert_eq!(before.status, 200);
    let (msn, part) = stage.list().next();
    let target = format!("{}?_HLS_msn={msn}&_HLS_part={part}", stage.url);
    let requests = counter(&stage.server, "held_requests");
    let mut clients: Vec<_> = (0..200).map(|_| Client::connect(edge.address)).collect();
    clients.iter_mut().for_each(|client| client.request("GET", &target, ""));
    until_counted(&edge, "fetches_collapsed", 199);
    until_counted(&stage.server, "held_requests", requests + 1);
    let mut stage = stage;
    stage.push(1);
    let bodies: Vec<_> = clients.iter_mut().map(|client| client.answer()).collect();
    for answer in &bodies {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_same(&answer.body, &bodies[0].body);
        assert!(answer.field("etag").is_some() && answer.field("content-length").is_some());
    }
    assert_eq!(counter(&stage.server, "held_requests"), requests + 1, "one for all of them");
    assert_eq!(bodies[0].body, get(stage.address(), &target).body);
}

/// Goal: what the strict client finds in a mirror is what it finds at the origin: parts, hints,
/// blocking reloads, delta updates, rendition reports. Method: an endless push into one server while
/// another, its mirror, is followed.
#[test]
fn the_strict_client_follows_a_mirror() {
    let stage = origin("");
    let edge = edge_of(&stage, "");
    let address = stage.address;
    let pushing = thread::spawn(move || {
        let mut film = Film::video(7);
        let mut upload = crate::client::Upload::open(address, PUSHED, "");
        upload.append(&film.init());
        for number in 0..60 {
            upload.append(&film.fragment(PART, u64::is_multiple_of(number, SEGMENT)));
            thread::sleep(Duration::from_millis(200));
        }
        upload.seal()
    });
    let found = follow(edge.address, POINT, Plan { tracks: 1, seconds: 7.0, ends: true });
    assert_eq!(pushing.join().unwrap().status, 201);
    assert!(found[0].parts > 20 && found[0].hints > 0, "{} parts", found[0].parts);
    assert!(counter(&edge, "fetches") > 0);
    for (msn, body) in &found[0].bodies {
        assert!(!body.is_empty(), "{msn}");
    }
}

/// Goal: errors of the upstream are told as they are, for a moment; what is not reached is 502.
#[test]
fn errors_are_told_and_kept_briefly() {
    let upstream = Upstream::start(|seen, stream| {
        let (status, lines) = match seen.target.as_str() {
            "/m/404" => ("404 Not Found", "Cache-Control: max-age=600\r\n"),
            "/m/503" => ("503 Service Unavailable", "Retry-After: 3\r\n"),
            "/m/410" => ("410 Gone", ""),
            "/m/401" => ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n"),
            _ => return false,
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\n{lines}\r\nwhy");
        stream.write_all(head.as_bytes()).is_ok()
    });
    let server = mirroring(upstream.address, "");
    get(server.address, "/m/404").assert_body(404, b"why");
    get(server.address, "/m/404").assert_body(404, b"why");
    assert_eq!(upstream.count("/m/404"), 1, "it may be kept");
    let busy = get(server.address, "/m/503");
    busy.assert_body(503, b"why");
    assert_eq!(busy.needed("retry-after"), "3");
    get(server.address, "/m/410").assert_body(410, b"why");
    assert_eq!(get(server.address, "/m/401").status, 502, "nothing that a reader can mend");
    assert_eq!(get(server.address, "/m/cut").status, 502);
    let down = mirroring("127.0.0.1:1".parse().unwrap(), "");
    for _ in 0..3 {
        let answer = get(down.address, "/m/a");
        assert_eq!(answer.status, 502, "{answer:?}");
    }
    put(down.address, "/other", b"x");
}

/// Goal: an upstream that hangs is 504 for who asked; other mirrors and objects are served meanwhile,
/// and it can hold so many requests and no more.
#[test]
fn a_hanging_upstream_is_bounded() {
    let gate = Gate::default();
    let held = gate.clone();
    let hanging = Upstream::start(move |_, _| {
        held.wait();
        false
    });
    let good = Upstream::saying(ok("", b"good"));
    let server = serving(
        &[
            section("mirror", "/m/", &hanging.url("/"), "timeout_s = 600\nfetches_max = 3"),
            section("mirror", "/quick/", &hanging.url("/"), "timeout_s = 1"),
            section("mirror", "/good/", &good.url("/"), "cache_s = 0"),
        ]
        .concat(),
    );
    let mut waiting: Vec<_> = (0..3).map(|_| Client::connect(server.address)).collect();
    for (index, client) in waiting.iter_mut().enumerate() {
        client.request("GET", &format!("/m/{index}"), "");
    }
    wait_until("all three are under way", || hanging.seen().len() == 3);
    let busy = get(server.address, "/m/3");
    assert_eq!((busy.status, busy.needed("retry-after")), (503, "1"));
    let late = get(server.address, "/quick/a");
    assert_eq!(late.status, 504, "{late:?}");
    for _ in 0..20 {
        get(server.address, "/good/a").assert_body(200, b"good");
    }
    put(server.address, "/x", b"x");
    gate.open();
    for client in &mut waiting {
        assert_eq!(client.answer().status, 502);
    }
}

/// Goal: an upstream that stops in the middle of an answer is given up.
#[test]
fn a_silent_answer_is_cut() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\nhalf").unwrap();
        held.wait();
        false
    });
    let server = mirroring(upstream.address, "timeout_s = 1");
    let mut client = Client::connect(server.address);
    client.get("/m/seg.mp4", "");
    assert_eq!(client.data_of(4), b"half");
    assert!(matches!(client.chunk(), crate::client::Chunk::Cut(_)));
}

/// Goal: one answer, and all of them together, have no more bytes than allowed; the oldest go.
#[test]
fn memory_is_bounded() {
    let upstream = Upstream::start(|seen, stream| {
        let size: usize = seen.target.rsplit('/').next().unwrap().parse().unwrap();
        let head =
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for piece in vec![7; size].chunks(50_000) {
            if stream.write_all(&chunk(piece)).is_err() {
                return false;
            }
        }
        stream.write_all(b"0\r\n\r\n").is_ok()
    });
    let limits = "bytes_max = 1000000\ncache_bytes_max = 3000000\nanswers_max = 4";
    let server = mirroring(upstream.address, limits);
    let fetched = |name: &str, size: usize| {
        let answer = get(server.address, &format!("/m/{name}/{size}"));
        answer.assert_body(200, &vec![7; size]);
        upstream.count(&format!("/m/{name}/{size}"))
    };
    // Too long without a length: cut. The next one knows no better.
    let cut = get(server.address, "/m/a/1000001");
    assert!(cut.status == 502 || (cut.status == 200 && !cut.complete), "{cut:?}");
    for (name, times) in [("a", 1), ("b", 1), ("a", 1), ("c", 1), ("d", 1), ("c", 1), ("a", 2)] {
        assert_eq!(fetched(name, 900_000), times, "{name}");
    }
    let used = files_of(&server);
    assert!(used <= 3_100_000, "{used} bytes in files");
    for (name, times) in [("d", 1), ("e", 1), ("f", 1), ("g", 1), ("h", 1), ("d", 2)] {
        assert_eq!(fetched(name, 10), times, "{name}");
    }
}

/// Bytes in the files of unnamed objects.
fn files_of(server: &Server) -> u64 {
    let files = crate::server::files_below(&server.data());
    files
        .iter()
        .filter_map(|file| server.data().join(file).metadata().ok())
        .map(|data| data.len())
        .sum()
}

/// Goal: what arrives cannot fill more than the cache: the answer that does not fit is cut, and counted.
#[test]
fn what_arrives_is_bounded_too() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_, stream| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&chunk(&[7; 600_000])).unwrap();
        held.wait();
        stream.write_all(b"0\r\n\r\n").is_ok()
    });
    let limits = "bytes_max = 1000000\ncache_bytes_max = 1000000\ntimeout_s = 60";
    let server = mirroring(upstream.address, limits);
    let mut first = Client::connect(server.address);
    first.get("/m/a.mp4", "");
    first.data_of(600_000);
    let second = get(server.address, "/m/b.mp4");
    assert!(!second.complete || second.status == 502, "it was cut: {second:?}");
    gate.open();
    assert_eq!(first.chunk(), crate::client::Chunk::Last);
    get(server.address, "/m/b.mp4").assert_body(200, &[7; 600_000]);
}

/// Goal: `cache_s` is the operator's word, whatever the upstream says; without either an answer is good
/// for a second and then confirmed by its validators.
#[test]
fn answers_are_kept_as_long_as_somebody_says() {
    let upstream = Upstream::start(|seen, stream| {
        let answer = match seen.field("if-none-match") {
            Some("\"t\"") => b"HTTP/1.1 304 Not Modified\r\nETag: \"t\"\r\n\r\n".to_vec(),
            _ if seen.target == "/m/never" => {
                ok("Cache-Control: no-store\r\nETag: \"t\"\r\n", b"x")
            }
            _ => ok("ETag: \"t\"\r\n", b"x"),
        };
        stream.write_all(&answer).is_ok()
    });
    let server = mirroring(upstream.address, "");
    for round in 1..4 {
        let answer = get(server.address, "/m/never");
        answer.assert_body(200, b"x");
        assert_eq!(answer.needed("cache-control"), "no-store");
        assert_eq!(upstream.count("/m/never"), round);
    }
    assert_eq!(counter(&server, "fetches_confirmed"), 2);
    wait_until("it is confirmed", || {
        get(server.address, "/m/a").assert_body(200, b"x");
        counter(&server, "fetches_confirmed") > 2
    });
    let kept = mirroring(upstream.address, "cache_s = 600");
    let before = upstream.count("/m/never");
    for _ in 0..3 {
        let answer = get(kept.address, "/m/never");
        assert_eq!(answer.needed("cache-control"), "max-age=600");
    }
    assert_eq!(upstream.count("/m/never"), before + 1);
}

/// Goal: the server ends in order while answers arrive and requests wait; who is being sent to may
/// finish.
#[test]
fn a_stop_lets_an_arriving_answer_finish() {
    let (upstream, sender) = stepwise();
    let server = mirroring(upstream.address, "timeout_s = 60");
    let mut client = Client::connect(server.address);
    client.get("/m/seg.mp4", "");
    sender.send(Some(b"half".to_vec())).unwrap();
    assert_eq!(client.data_of(4), b"half");
    server.signal(rustix::process::Signal::TERM);
    wait_until("it says so", || get(server.admin, "/readyz").status == 503);
    sender.send(Some(b"rest".to_vec())).unwrap();
    assert_eq!(client.data_of(4), b"rest");
    sender.send(None).unwrap();
    assert_eq!(client.chunk(), crate::client::Chunk::Last);
    let mut server = server;
    assert!(server.wait().success());
    assert_eq!(files_of(&server), 0, "nothing is left");
}

/// Goal: a mirror in memory alone, and a mirror of a mirror.
#[test]
fn mirrors_can_be_in_memory_and_in_a_row() {
    let body = noise(6, 300_000);
    let first = Server::start();
    put_with(first.address, "/a/b.mp4", "Cache-Control: max-age=600\r\n", &body);
    let second = crate::server::Setup::new()
        .argument("--ram-only")
        .table(&section("mirror", "/", &format!("http://{}/", first.address), ""))
        .start();
    let third = edge_of(&second, "");
    let mut tags = Vec::new();
    for server in [&first, &second, &third] {
        let answer = get(server.address, "/a/b.mp4");
        // The first answer of a mirror may be on its way, and has no tag.
        answer.assert_body(200, &body);
        let again = get(server.address, "/a/b.mp4");
        again.assert_body(200, &body);
        tags.push(again.needed("etag").to_owned());
    }
    assert!(tags.iter().all(|tag| *tag == tags[0]), "made of the content: {tags:?}");
    assert_eq!(get(third.address, "/a/none").status, 404);
}

/// Goal: nginx as an upstream: files with validators and nothing else.
#[test]
fn nginx_is_mirrored() {
    needs("nginx");
    let home = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let body = noise(8, 2_000_000);
    std::fs::create_dir_all(home.path().join("files/sub")).unwrap();
    std::fs::write(home.path().join("files/sub/seg.m4s"), &body).unwrap();
    let _nginx = Nginx::start(home.path(), port);
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    wait_until("nginx listens", || Client::try_connect(address).is_some());
    let upstream = format!("http://{address}/");
    let server = serving(&section("mirror", "/m/", &upstream, ""));
    get(server.address, "/m/sub/seg.m4s").assert_body(200, &body);
    wait_until("it is confirmed", || {
        get(server.address, "/m/sub/seg.m4s").assert_body(200, &body);
        counter(&server, "fetches_confirmed") > 0
    });
    let range = ask(server.address, "GET", "/m/sub/seg.m4s", "Range: bytes=5-9\r\n");
    range.assert_body(206, &body[5..10]);
    assert_eq!(get(server.address, "/m/none").status, 404);
    // Its redirect names the folder.
    assert_eq!(get(server.address, "/m/sub").status, 403, "a folder without an index");
}

struct Nginx(Child);

impl Nginx {
    fn start(home: &Path, port: u16) -> Nginx {
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let folder = home.display();
        let config = format!(
            "daemon off; {user} pid {folder}/pid; events {{}} http {{ access_log off; \
             client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; \
             fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e; \
             server {{ listen 127.0.0.1:{port}; root {folder}/files; }} }}"
        );
        std::fs::write(home.join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-c").arg(home.join("nginx.conf")).args(["-e", "stderr"]);
        Nginx(command.stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its worker goes with it when it is told, not when it is killed.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::Signal::TERM,
        );
        let _ = self.0.wait();
    }
}
