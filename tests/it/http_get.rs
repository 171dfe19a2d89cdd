//! The door out for finished objects: heads, content types, stored fields, caching, CORS, methods.

use std::process::Command;

use crate::client::{Client, Upload, ask, get, noise, put, put_with, raw};
use crate::server::{Server, Setup, run};

/// Seconds since 1970 of an IMF-fixdate, read by the `date` program.
fn seconds(date: &str) -> i64 {
    assert!(date.ends_with(" GMT") && date.len() == 29, "not an IMF-fixdate: {date}");
    let output = run(Command::new("date").args(["-u", "+%s", "-d", date]));
    output.stdout.trim().parse().unwrap_or_else(|_| panic!("{date}: {}", output.stderr))
}

/// Goal: a finished object is served as a file is. Method: every field of its head.
#[test]
fn the_head_of_a_finished_object_is_complete() {
    let server = Server::start();
    let body = noise(1, 300_000);
    put(server.address, "/movie.mp4", &body);
    let answer = get(server.address, "/movie.mp4");
    answer.assert_body(200, &body);
    assert_eq!(answer.version, "HTTP/1.1");
    assert_eq!(answer.field("content-length"), Some("300000"));
    assert_eq!(answer.field("accept-ranges"), Some("bytes"));
    assert_eq!(answer.field("content-type"), Some("video/mp4"));
    let etag = answer.needed("etag");
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2, "weak: {etag}");
    let (date, modified) =
        (seconds(answer.needed("date")), seconds(answer.needed("last-modified")));
    assert!(modified <= date, "Last-Modified {modified} after Date {date}");
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    assert!((now - date).abs() <= 5, "Date is {date}, the clock {now}");
    assert!(now - modified <= 60, "Last-Modified is {modified}, the clock {now}");
    assert!(answer.field("cache-control").is_some());
    assert_eq!(answer.field("age"), None, "an origin sends no Age");
}

/// Goal: HEAD is GET without the body. Method: compare the fields, then use the connection on.
#[test]
fn head_has_the_fields_of_get_and_no_body() {
    let server = Server::start();
    put_with(server.address, "/h.ts", "Cache-Control: max-age=7\r\n", b"0123456789");
    let mut client = Client::connect(server.address);
    let head = client.ask("HEAD", "/h.ts", "");
    let full = client.ask("GET", "/h.ts", "");
    full.assert_body(200, b"0123456789");
    assert_eq!(head.status, 200);
    assert_eq!(head.lasting(), full.lasting());
    let absent = client.ask("HEAD", "/absent", "");
    assert_eq!(absent.status, 404);
    client.ask("GET", "/h.ts", "").assert_body(200, b"0123456789");
}

/// Goal: HEAD of an Open object answers at once and promises nothing. Method: fields.
#[test]
fn head_of_an_open_object_promises_no_length() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/open.mp4", "");
    upload.append(b"some");
    let mut client = Client::connect(server.address);
    let head = client.ask("HEAD", "/open.mp4", "");
    assert_eq!(head.status, 200);
    assert_eq!(head.field("content-length"), None);
    assert_eq!(head.field("etag"), None);
    assert_eq!(head.field("content-type"), Some("video/mp4"));
    assert_eq!(client.ask("HEAD", "/open.mp4", "").status, 200, "the connection goes on");
}

/// Goal: a Content-Type for what pushers send without one. Method: a table of extensions.
#[test]
fn content_types_follow_the_extension() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    for (extension, allowed) in [
        ("m3u8", "application/vnd.apple.mpegurl"),
        ("M3U8", "application/vnd.apple.mpegurl"),
        ("mpd", "application/dash+xml"),
        ("m4s", "video/iso.segment video/mp4"),
        ("cmfv", "video/mp4"),
        ("cmfa", "audio/mp4"),
        ("mp4", "video/mp4"),
        ("m4a", "audio/mp4"),
        ("ts", "video/mp2t"),
        ("aac", "audio/aac"),
        ("vtt", "text/vtt"),
        ("jpg", "image/jpeg"),
        ("png", "image/png"),
        ("json", "application/json"),
        ("html", "text/html"),
        ("txt", "text/plain"),
        ("unheard-of", "application/octet-stream"),
    ] {
        let target = format!("/types/x.{extension}");
        put(server.address, &target, b"x");
        let answer = client.ask("GET", &target, "");
        let got = answer.needed("content-type").to_ascii_lowercase();
        let essence = got.split(';').next().unwrap().trim();
        assert!(allowed.split(' ').any(|kind| kind == essence), "{extension}: {got}");
    }
    put_with(server.address, "/typed.ts", "Content-Type: video/weird; a=b\r\n", b"x");
    let typed = get(server.address, "/typed.ts");
    assert_eq!(typed.field("content-type"), Some("video/weird; a=b"));
}

/// Goal: only the allow-list is shown to readers, never credentials. Method: an upload with every
/// kind of field; the answer to GET, HEAD, 206 and 304 is searched for the secrets.
#[test]
fn credentials_of_the_uploader_are_never_shown() {
    let server = Setup::new().key("headers.stored", r#"["X-Foo", "Joc-"]"#).start();
    let fields = "Content-Type: video/mp2t\r\nCache-Control: max-age=11\r\n\
        Content-Encoding: br\r\nContent-Language: de\r\nContent-Disposition: inline\r\n\
        X-Foo: foo\r\nx-bar: SECRET\r\nJoc-Timestamp: 12\r\nJOC-Media-Type: v\r\n\
        Authorization: Basic SECRET\r\nProxy-Authorization: SECRET\r\nCookie: SECRET=1\r\n\
        Set-Cookie: SECRET=2\r\nUser-Agent: SECRET\r\nX-Amz-Security-Token: SECRET\r\n\
        Accept: SECRET\r\nETag: \"SECRET\"\r\nLast-Modified: SECRET\r\n\
        Access-Control-Allow-Origin: SECRET\r\nLocation: SECRET\r\nX-Foo-More: SECRET\r\n";
    assert_eq!(put_with(server.address, "/s.ts", fields, b"payload").status, 201);
    let server = server.restart();
    let etag = get(server.address, "/s.ts").needed("etag").to_owned();
    for (method, extra, status) in [
        ("GET", String::new(), 200),
        ("HEAD", String::new(), 200),
        ("GET", "Range: bytes=0-1\r\n".to_owned(), 206),
        ("GET", format!("If-None-Match: {etag}\r\n"), 304),
    ] {
        let answer = ask(server.address, method, "/s.ts", &extra);
        assert_eq!(answer.status, status);
        let shown = format!("{answer:?}");
        assert!(!shown.contains("SECRET"), "{method} {extra}: {shown}");
        assert_eq!(answer.field("cache-control"), Some("max-age=11"));
        if status == 304 {
            continue;
        }
        for (name, value) in [
            ("content-type", "video/mp2t"),
            ("content-encoding", "br"),
            ("content-language", "de"),
            ("content-disposition", "inline"),
            ("x-foo", "foo"),
            ("joc-timestamp", "12"),
            ("joc-media-type", "v"),
        ] {
            assert_eq!(answer.field(name), Some(value), "{method} {extra}");
        }
    }
}

/// Goal: Cache-Control by class where the uploader sent none. Method: configured rules, each class.
#[test]
fn cache_control_follows_its_rule_table() {
    let server = Setup::new()
        .key("cache_control.manifest", r#""max-age=1""#)
        .key("cache_control.segment", r#""max-age=3600""#)
        .key("cache_control.other", r#""max-age=60""#)
        .key("cache_control.not_found", r#""max-age=2""#)
        .key("cache_control.error", r#""no-store""#)
        .start();
    let mut client = Client::connect(server.address);
    for (target, rule) in [
        ("/a.m3u8", "max-age=1"),
        ("/a.mpd", "max-age=1"),
        ("/a.m4s", "max-age=3600"),
        ("/a.ts", "max-age=3600"),
        ("/a.txt", "max-age=60"),
    ] {
        put(server.address, target, b"x");
        let answer = client.ask("GET", target, "");
        assert_eq!(answer.field("cache-control"), Some(rule), "{target}");
    }
    put_with(server.address, "/own.m3u8", "Cache-Control: no-cache\r\n", b"x");
    let own = get(server.address, "/own.m3u8");
    assert_eq!(own.field("cache-control"), Some("no-cache"));
    let absent = client.ask("GET", "/absent.ts", "");
    assert_eq!((absent.status, absent.field("cache-control")), (404, Some("max-age=2")));
    let error = raw(server.address, "GET /%00 HTTP/1.1\r\nHost: it\r\n\r\n");
    assert_eq!((error.status, error.field("cache-control")), (400, Some("no-store")));
}

/// Goal: without configuration every answer says how long it may be kept, errors shortly.
#[test]
fn every_answer_has_a_cache_control() {
    let server = Server::start();
    put(server.address, "/a.m3u8", b"x");
    put(server.address, "/a.m4s", b"x");
    for (target, status) in [("/a.m3u8", 200), ("/a.m4s", 200), ("/absent", 404)] {
        let answer = get(server.address, target);
        assert_eq!(answer.status, status);
        assert!(!answer.needed("cache-control").is_empty());
    }
}

/// Goal: CORS by default, on every kind of answer, whatever the Origin.
#[test]
fn cors_is_on_every_answer() {
    let server = Server::start();
    put(server.address, "/c.m4s", b"0123456789");
    for (method, target, fields) in [
        ("GET", "/c.m4s", ""),
        ("HEAD", "/c.m4s", ""),
        ("GET", "/c.m4s", "Range: bytes=1-2\r\n"),
        ("GET", "/c.m4s", "Range: bytes=99-\r\n"),
        ("GET", "/c.m4s", "If-None-Match: *\r\n"),
        ("GET", "/absent", ""),
        ("HEAD", "/absent", ""),
        ("DELETE", "/absent", ""),
        ("OPTIONS", "/c.m4s", ""),
        ("OPTIONS", "/absent", "Access-Control-Request-Method: PUT\r\n"),
        ("PATCH", "/c.m4s", ""),
        ("PUT", "/no-framing", ""),
    ] {
        let answer = ask(server.address, method, target, &format!("Origin: http://x\r\n{fields}"));
        let origin = answer.field("access-control-allow-origin");
        assert_eq!(origin, Some("*"), "{method} {target} {fields}: {answer:?}");
        // Without credentials `*` means every field (Fetch standard §3.2.4).
        assert_eq!(answer.needed("access-control-expose-headers"), "*", "{method} {target}");
    }
    let options = ask(server.address, "OPTIONS", "/c.m4s", "");
    assert_eq!(options.status, 204);
    let methods = options.needed("access-control-allow-methods");
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
        assert!(methods.contains(method), "{methods}");
    }
    let fields = options.needed("access-control-allow-headers").to_ascii_lowercase();
    assert!(fields.contains("range") && !fields.starts_with(','), "{fields}");
}

/// Goal: methods outside the list are named as such. Method: each, with a body that must not
/// become a request.
#[test]
fn other_methods_are_405_or_501() {
    let server = Server::start();
    put(server.address, "/m", b"x");
    for method in ["TRACE", "PATCH"] {
        let answer = ask(server.address, method, "/m", "");
        assert_eq!(answer.status, 405, "{method}");
        let allow = answer.needed("allow");
        assert!(allow.contains("GET") && allow.contains("PUT"), "{allow}");
    }
    let connect = raw(server.address, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n");
    assert_eq!(connect.status, 405);
    for method in ["BREW", "get", "PROPFIND", "LINK"] {
        assert_eq!(ask(server.address, method, "/m", "").status, 501, "{method}");
    }
    let star = ask(server.address, "OPTIONS", "*", "");
    assert_eq!(star.status, 204);
}

/// Goal: an absent object says what to do, in one line, and keeps the connection.
#[test]
fn an_absent_object_is_404_on_a_living_connection() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    for target in ["/absent.mp4", "/", "/folder/", "/a/b/c"] {
        let answer = client.ask("GET", target, "");
        assert_eq!(answer.status, 404, "{target}");
        assert_eq!(answer.text().trim_end().lines().count(), 1, "{answer:?}");
        assert!(answer.needed("content-type").starts_with("text/plain"));
        assert_eq!(answer.field("waited-for-data-ms"), None, "nobody waited");
    }
    put(server.address, "/x", b"x");
    client.ask("GET", "/x", "").assert_body(200, b"x");
}

/// Goal: HTTP/1.0 readers get a length and a closed connection; `Connection: close` is honoured.
#[test]
fn old_and_closing_readers_are_closed_after_the_answer() {
    let server = Server::start();
    put(server.address, "/o.bin", b"old world");
    for request in [
        "GET /o.bin HTTP/1.0\r\n\r\n",
        "GET /o.bin HTTP/1.0\r\nHost: it\r\n\r\n",
        "GET /o.bin HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n",
        "GET /o.bin HTTP/1.1\r\nHost: it\r\nConnection: foo, Close\r\n\r\n",
    ] {
        let mut client = Client::connect(server.address);
        client.send(request);
        let answer = client.answer();
        answer.assert_body(200, b"old world");
        assert_eq!(answer.field("content-length"), Some("9"));
        assert!(!answer.is_chunked());
        client.assert_closed();
    }
}

/// Goal: pipelined readers get whole answers in order. Method: 300 GETs of three sizes written
/// while the answers are read.
#[test]
fn pipelined_reads_come_in_order() {
    let server = Server::start();
    let bodies = [noise(1, 10), noise(2, 5_000), noise(3, 200_000)];
    for (index, body) in bodies.iter().enumerate() {
        put(server.address, &format!("/p{index}"), body);
    }
    let mut client = Client::connect(server.address);
    for _ in 0..10 {
        let requests: Vec<String> = (0..30)
            .map(|index| format!("GET /p{} HTTP/1.1\r\nHost: it\r\n\r\n", index % 3))
            .collect();
        client.send(requests.concat());
        for index in 0..30 {
            client.answer().assert_body(200, &bodies[index % 3]);
        }
    }
}

/// Goal: the tolerances of RFC 9112 hold. Method: an empty line before the request (2.2), an
/// absolute-form target with another Host (3.2.2), white space around values (5.1).
#[test]
fn allowances_of_the_standard_are_granted() {
    let server = Server::start();
    put(server.address, "/x", b"x");
    for request in [
        "\r\nGET /x HTTP/1.1\r\nHost: it\r\n\r\n",
        "GET http://other.example/x HTTP/1.1\r\nHost: it\r\n\r\n",
        "GET HTTP://other.example:8080/x HTTP/1.1\r\nHost: it\r\n\r\n",
        "GET /x HTTP/1.1\r\nhOsT:it\r\nX-Empty:\r\nX-Pad: \t a \t \r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: it\r\nX: \u{e4}\u{f6}\r\n\r\n",
    ] {
        let answer = raw(server.address, request);
        assert!(answer.status == 200 && answer.body == b"x", "{request:?}: {answer:?}");
    }
}

/// Goal: a large object arrives whole, also through a reader that takes its time.
#[test]
fn a_large_object_survives_a_slow_reader() {
    let server = Server::start();
    let body = noise(9, 24 << 20);
    put(server.address, "/large.mp4", &body);
    let mut slow = Client::with_small_window(server.address);
    let head = slow.get("/large.mp4", "");
    let mut got = slow.exactly(1).unwrap();
    get(server.address, "/large.mp4").assert_body(200, &body);
    got.extend(slow.body(head, "HEAD").body);
    got.extend(slow.exactly(body.len() - 1).unwrap());
    crate::client::assert_same(&got, &body);
}
