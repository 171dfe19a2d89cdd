//! Conditional requests (RFC 9110, 13): 304 for what a cache already has.

use crate::client::{Client, Upload, ask, get, put, put_with};
use crate::server::Server;

/// Goal: If-None-Match in all its forms. Method: a table on one connection, which must survive.
#[test]
fn if_none_match_is_compared_weakly() {
    let server = Server::start();
    let etag = put(server.address, "/a.m4s", b"body").needed("etag").to_owned();
    let mut client = Client::connect(server.address);
    for (value, status) in [
        (etag.clone(), 304),
        (format!("W/{etag}"), 304),
        ("*".to_owned(), 304),
        (format!("\"x\", {etag} , \"y\""), 304),
        ("\"x\"".to_owned(), 200),
        ("\"x\", W/\"y\"".to_owned(), 200),
        (etag.trim_matches('"').to_owned(), 200),
    ] {
        let answer = client.ask("GET", "/a.m4s", &format!("If-None-Match: {value}\r\n"));
        assert_eq!(answer.status, status, "{value}");
        assert_eq!(answer.needed("etag"), etag);
        assert!(answer.field("cache-control").is_some() && answer.field("date").is_some());
        let head = client.ask("HEAD", "/a.m4s", &format!("If-None-Match: {value}\r\n"));
        assert_eq!(head.status, status, "HEAD {value}");
    }
    client.ask("GET", "/a.m4s", "").assert_body(200, b"body");
    assert_eq!(client.ask("GET", "/absent", "If-None-Match: *\r\n").status, 404);
}

/// Goal: If-Modified-Since, which counts only without If-None-Match, and only if it is a date.
#[test]
fn if_modified_since_is_compared_with_the_upload() {
    let server = Server::start();
    let etag = put(server.address, "/a.m4s", b"body").needed("etag").to_owned();
    let modified = get(server.address, "/a.m4s").needed("last-modified").to_owned();
    for (fields, status) in [
        (format!("If-Modified-Since: {modified}\r\n"), 304),
        ("If-Modified-Since: Mon, 01 Jan 2001 00:00:00 GMT\r\n".to_owned(), 200),
        ("If-Modified-Since: yesterday\r\n".to_owned(), 200),
        (format!("If-Modified-Since: {modified}\r\nIf-None-Match: \"x\"\r\n"), 200),
        (
            format!(
                "If-Modified-Since: Mon, 01 Jan 2001 00:00:00 GMT\r\nIf-None-Match: {etag}\r\n"
            ),
            304,
        ),
        (format!("If-None-Match: {etag}\r\nRange: bytes=0-1\r\n"), 304),
    ] {
        let answer = ask(server.address, "GET", "/a.m4s", &fields);
        assert_eq!(answer.status, status, "{fields}");
    }
}

/// Goal: an ETag names a version. Method: replace with the same length, with the same bytes; read
/// the same version twice.
#[test]
fn the_etag_changes_with_the_content() {
    let server = Server::start();
    put(server.address, "/v", b"version 1");
    let first = get(server.address, "/v").needed("etag").to_owned();
    assert_eq!(get(server.address, "/v").needed("etag"), first);
    put(server.address, "/v", b"version 2");
    let second = get(server.address, "/v").needed("etag").to_owned();
    assert_ne!(first, second);
    let stale = ask(server.address, "GET", "/v", &format!("If-None-Match: {first}\r\n"));
    stale.assert_body(200, b"version 2");
    let mut upload = Upload::begin(server.address, "/v", "");
    upload.append(b"version");
    upload.append(b" 3");
    let sealed = upload.seal();
    assert_eq!(get(server.address, "/v").field("etag"), sealed.field("etag"));
}

/// Goal: an Open object has nothing to compare with. Method: conditions on it are not met, so the
/// reader follows.
#[test]
fn conditions_on_an_open_object_do_not_stop_a_reader() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/o.ts", "");
    upload.append(b"live");
    for fields in [
        "If-None-Match: \"x\"\r\n",
        "If-Modified-Since: Mon, 01 Jan 2001 00:00:00 GMT\r\n",
        "If-Range: \"x\"\r\nRange: bytes=0-\r\n",
    ] {
        let mut reader = Client::connect(server.address);
        assert_eq!(reader.get("/o.ts", fields).status, 200, "{fields}");
        assert_eq!(reader.data(), b"live");
    }
}

/// Goal: a 304 repeats the fields that a cache updates, and nothing of the body.
#[test]
fn a_304_carries_what_caches_need() {
    let server = Server::start();
    put_with(server.address, "/c.ts", "Cache-Control: max-age=9\r\n", b"0123456789");
    let full = get(server.address, "/c.ts");
    let fields = format!("If-None-Match: {}\r\n", full.needed("etag"));
    let answer = ask(server.address, "GET", "/c.ts", &fields);
    assert_eq!(answer.status, 304);
    for name in ["etag", "cache-control", "access-control-allow-origin"] {
        assert_eq!(answer.field(name), full.field(name), "{name}");
    }
    assert!(answer.field("content-length").is_none_or(|length| length == "10"), "{answer:?}");
    assert!(!answer.is_chunked());
}
