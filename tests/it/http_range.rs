//! Ranges of finished objects (RFC 9110, 14) and of Open ones (RFC 8673).

use crate::client::{Answer, Chunk, Client, Noise, Upload, ask, assert_same, get, noise, put};
use crate::server::Server;

const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

fn range(server: &Server, target: &str, range: &str) -> Answer {
    ask(server.address, "GET", target, &format!("Range: {range}\r\n"))
}

/// Goal: single ranges. Method: a table of ranges over 26 letters.
#[test]
fn single_ranges_of_a_finished_object() {
    let server = Server::start();
    put(server.address, "/abc", LETTERS);
    for (spec, content_range, body) in [
        ("bytes=0-0", "bytes 0-0/26", "a"),
        ("bytes=3-5", "bytes 3-5/26", "def"),
        ("bytes=20-", "bytes 20-25/26", "uvwxyz"),
        ("bytes=25-25", "bytes 25-25/26", "z"),
        ("bytes=24-99999", "bytes 24-25/26", "yz"),
        ("bytes=24-9007199254740991", "bytes 24-25/26", "yz"),
        ("bytes=-2", "bytes 24-25/26", "yz"),
        ("bytes=-99", "bytes 0-25/26", "abcdefghijklmnopqrstuvwxyz"),
        ("bytes=0-", "bytes 0-25/26", "abcdefghijklmnopqrstuvwxyz"),
        ("Bytes=1-2", "bytes 1-2/26", "bc"),
    ] {
        let answer = range(&server, "/abc", spec);
        answer.assert_body(206, body.as_bytes());
        assert_eq!(answer.field("content-range"), Some(content_range), "{spec}");
        assert_eq!(answer.needed("content-length"), body.len().to_string(), "{spec}");
        assert_eq!(answer.field("etag"), get(server.address, "/abc").field("etag"));
    }
}

/// Goal: what cannot be satisfied is 416 with the length, what is no range is ignored.
#[test]
fn unsatisfiable_and_malformed_ranges() {
    let server = Server::start();
    put(server.address, "/abc", LETTERS);
    let mut client = Client::connect(server.address);
    for spec in ["bytes=26-", "bytes=99-100", "bytes=-0", "bytes=30-,40-50"] {
        let answer = client.ask("GET", "/abc", &format!("Range: {spec}\r\n"));
        assert_eq!(answer.status, 416, "{spec}");
        assert_eq!(answer.field("content-range"), Some("bytes */26"), "{spec}");
        assert_eq!(answer.text().trim_end().lines().count(), 1, "{answer:?}");
    }
    for spec in [
        "bytes=5-4",
        "bytes=a-b",
        "bytes=",
        "bytes",
        "items=0-5",
        "bytes=1-2-3",
        "bytes=--2",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes=1_0-20",
        "bytes=-",
        "",
        "=1-2",
    ] {
        let answer = client.ask("GET", "/abc", &format!("Range: {spec}\r\n"));
        answer.assert_body(200, LETTERS);
    }
    // Beyond 64 bits: no such byte, or no range; never an error of ours.
    let huge = client.ask("GET", "/abc", "Range: bytes=99999999999999999999999-\r\n");
    assert!([200, 416].contains(&huge.status), "{huge:?}");
    let wide = client.ask("GET", "/abc", "Range: bytes=24-99999999999999999999999\r\n");
    assert!([200, 206].contains(&wide.status), "{wide:?}");
}

/// Goal: an empty object has no satisfiable range.
#[test]
fn ranges_of_an_empty_object() {
    let server = Server::start();
    put(server.address, "/empty", b"");
    for spec in ["bytes=0-", "bytes=0-0", "bytes=5-9"] {
        let answer = range(&server, "/empty", spec);
        assert!([200, 416].contains(&answer.status), "{spec}: {answer:?}");
        if answer.status == 416 {
            assert_eq!(answer.field("content-range"), Some("bytes */0"));
        }
    }
}

/// Goal: Range means GET only. Method: HEAD with it.
#[test]
fn a_range_on_head_is_ignored() {
    let server = Server::start();
    put(server.address, "/abc", LETTERS);
    let head = ask(server.address, "HEAD", "/abc", "Range: bytes=1-2\r\n");
    assert_eq!((head.status, head.field("content-length")), (200, Some("26")));
}

/// Takes a multipart/byteranges body apart: (content range, bytes) of each part.
fn parts(answer: &Answer) -> Vec<(String, Vec<u8>)> {
    let kind = answer.needed("content-type");
    let (essence, parameter) = kind.split_once(';').unwrap();
    assert_eq!(essence.trim(), "multipart/byteranges");
    let boundary = parameter.trim().strip_prefix("boundary=").unwrap().trim_matches('"');
    let (text, mark) = (answer.text(), format!("--{boundary}"));
    let mut pieces = text.split(&mark);
    assert!(pieces.next().unwrap().trim().is_empty(), "a preamble");
    let mut found = Vec::new();
    for piece in pieces {
        if let Some(rest) = piece.strip_prefix("--") {
            assert!(rest.trim().is_empty(), "an epilogue: {rest:?}");
            return found;
        }
        let (head, body) = piece.split_once("\r\n\r\n").unwrap();
        let lower = head.to_ascii_lowercase();
        assert!(lower.contains("content-type:"), "{head}");
        let line = lower.lines().find_map(|line| line.strip_prefix("content-range:"));
        let body = body.strip_suffix("\r\n").unwrap();
        found.push((line.unwrap().trim().to_owned(), body.as_bytes().to_vec()));
    }
    panic!("no closing boundary in {text:?}");
}

/// Goal: several ranges come as multipart/byteranges with an exact length.
#[test]
fn multiple_ranges_of_a_finished_object() {
    let server = Server::start();
    put(server.address, "/abc.ts", LETTERS);
    let mut client = Client::connect(server.address);
    let answer = client.ask("GET", "/abc.ts", "Range: bytes=0-1, 10-12 ,-3\r\n");
    assert_eq!(answer.status, 206);
    assert!(answer.complete && answer.field("content-range").is_none());
    let expected = [
        ("bytes 0-1/26".to_owned(), b"ab".to_vec()),
        ("bytes 10-12/26".to_owned(), b"klm".to_vec()),
        ("bytes 23-25/26".to_owned(), b"xyz".to_vec()),
    ];
    assert_eq!(parts(&answer), expected);
    // One of two is satisfiable: that one, as a single or a multipart answer.
    let answer = client.ask("GET", "/abc.ts", "Range: bytes=4-5,99-100\r\n");
    assert_eq!(answer.status, 206);
    let body = match answer.field("content-range") {
        Some("bytes 4-5/26") => answer.body.clone(),
        _ => parts(&answer).remove(0).1,
    };
    assert_eq!(body, b"ef");
    client.ask("GET", "/abc.ts", "").assert_body(200, LETTERS);
}

/// Goal: ranges cannot be used to multiply traffic. Method: 400 overlapping ranges of 1 MiB; the
/// answer may not be much larger than the object.
#[test]
fn overlapping_ranges_are_not_multiplied() {
    let server = Server::start();
    let body = noise(1, 1 << 20);
    put(server.address, "/m.ts", &body);
    for spec in [vec!["0-"; 400].join(","), vec!["0-1048575"; 60].join(", ")] {
        let answer = range(&server, "/m.ts", &format!("bytes={spec}"));
        assert!([200, 206, 400, 416].contains(&answer.status), "{}", answer.status);
        assert!(answer.body.len() < 2 * body.len() + 65_536, "{} bytes", answer.body.len());
    }
}

/// Goal: any range of a larger object is exact. Method: 300 random ranges on one connection.
#[test]
fn random_ranges_are_exact() {
    let server = Server::start();
    let body = noise(2, 3_000_000);
    put(server.address, "/r.mp4", &body);
    let (mut client, mut random) = (Client::connect(server.address), Noise::new(3));
    for round in 0..300 {
        let first = random.below(body.len());
        let last = (first + random.below([10, 5_000, 2_000_000][round % 3])).min(body.len() - 1);
        let answer = client.ask("GET", "/r.mp4", &format!("Range: bytes={first}-{last}\r\n"));
        answer.assert_body(206, &body[first..=last]);
        let expected = format!("bytes {first}-{last}/{}", body.len());
        assert_eq!(answer.needed("content-range"), expected);
    }
}

/// Goal: If-Range keeps a resumed download on one version. Method: the ETag, a wrong one, a weak
/// one, the date, another date.
#[test]
fn if_range_compares_strongly() {
    let server = Server::start();
    let etag = put(server.address, "/abc", LETTERS).needed("etag").to_owned();
    let modified = get(server.address, "/abc").needed("last-modified").to_owned();
    for (validator, status) in [
        (etag.clone(), 206),
        ("\"other\"".to_owned(), 200),
        (format!("W/{etag}"), 200),
        ("Mon, 01 Jan 2001 00:00:00 GMT".to_owned(), 200),
    ] {
        let fields = format!("Range: bytes=1-2\r\nIf-Range: {validator}\r\n");
        let answer = ask(server.address, "GET", "/abc", &fields);
        assert_eq!(answer.status, status, "{validator}");
    }
    // A date is a strong validator only a second after it (RFC 9110 8.8.2.2): 206 or, right after
    // the upload, 200.
    let fields = format!("Range: bytes=1-2\r\nIf-Range: {modified}\r\n");
    let answer = ask(server.address, "GET", "/abc", &fields);
    assert!([200, 206].contains(&answer.status));
}

/// Goal: ffmpeg's `Range: bytes=0-` follows an Open object like no range at all.
#[test]
fn from_zero_on_an_open_object_is_200_and_live() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/live.mp4", "");
    upload.append(b"abc");
    let mut reader = Client::connect(server.address);
    let head = reader.get("/live.mp4", "Range: bytes=0-\r\n");
    assert_eq!((head.status, head.is_chunked()), (200, true), "{head:?}");
    assert_eq!(head.field("content-range"), None);
    assert_eq!(reader.data(), b"abc");
    upload.append(b"def");
    assert_eq!(reader.data(), b"def");
    upload.seal();
    assert_eq!(reader.chunk(), Chunk::Last);
}

/// Goal: an open-ended range of an Open object starts there and follows to the end (RFC 8673).
#[test]
fn an_open_ended_range_follows_to_the_end() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/live.mp4", "");
    upload.append(LETTERS);
    for (spec, first) in [
        ("bytes=5-", 5),
        ("bytes=5-9007199254740991", 5),
        ("bytes=0-9007199254740991", 0),
        ("bytes=25-", 25),
    ] {
        let mut reader = Client::connect(server.address);
        let head = reader.get("/live.mp4", &format!("Range: {spec}\r\n"));
        assert_eq!(head.status, 206, "{spec}: {head:?}");
        assert_eq!(head.needed("content-range"), format!("bytes {first}-9007199254740991/*"));
        assert_eq!(reader.data_of(26 - first), &LETTERS[first..]);
    }
    let mut reader = Client::connect(server.address);
    reader.get("/live.mp4", "Range: bytes=24-\r\n");
    assert_eq!(reader.data_of(2), b"yz");
    upload.append(b"0123");
    assert_eq!(reader.data(), b"0123");
    upload.seal();
    assert_eq!(reader.chunk(), Chunk::Last);
}

/// Goal: a start beyond the tail waits for it. Method: ask first, append after.
#[test]
fn a_start_beyond_the_tail_waits() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/live.mp4", "");
    upload.append(b"0123456789");
    let mut open_ended = Client::connect(server.address);
    open_ended.request("GET", "/live.mp4", "Range: bytes=15-\r\n");
    let mut closed = Client::connect(server.address);
    closed.request("GET", "/live.mp4", "Range: bytes=18-21\r\n");
    upload.append(b"abcdefghij");
    upload.append(b"klmnopqrst");
    let answer = closed.answer();
    answer.assert_body(206, b"ijkl");
    assert_eq!(answer.field("content-range"), Some("bytes 18-21/*"));
    let head = open_ended.head();
    assert_eq!(head.status, 206);
    assert_eq!(open_ended.data_of(15), b"fghijklmnopqrst");
    upload.seal();
    assert_eq!(open_ended.chunk(), Chunk::Last);
}

/// Goal: a closed range of an Open object is exactly those bytes, and the connection goes on.
#[test]
fn a_closed_range_of_an_open_object_is_exact() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/live.mp4", "");
    upload.append(LETTERS);
    let mut client = Client::connect(server.address);
    for (first, last) in [(0, 0), (3, 10), (25, 25), (0, 25)] {
        let answer = client.ask("GET", "/live.mp4", &format!("Range: bytes={first}-{last}\r\n"));
        answer.assert_body(206, &LETTERS[first..=last]);
        assert_eq!(answer.needed("content-range"), format!("bytes {first}-{last}/*"));
    }
    client.request("GET", "/live.mp4", "Range: bytes=20-29\r\n");
    upload.append(b"0123456789");
    client.answer().assert_body(206, b"uvwxyz0123");
    upload.seal();
}

/// Goal: what has no meaning on an Open object is ignored: suffixes and several ranges.
#[test]
fn suffix_and_multiple_ranges_on_an_open_object_are_200() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/live.mp4", "");
    upload.append(b"abc");
    for spec in ["bytes=-2", "bytes=0-0,2-2"] {
        let mut reader = Client::connect(server.address);
        let head = reader.get("/live.mp4", &format!("Range: {spec}\r\n"));
        assert_eq!((head.status, head.is_chunked()), (200, true), "{spec}");
        assert_eq!(reader.data(), b"abc");
    }
}

/// Goal: an object that ends before a range begins ends the request too, and no reader hangs.
/// Method: a wait for byte 100 of an object that is sealed with 10, and one that is torn.
#[test]
fn a_range_that_is_never_reached_ends_with_the_object() {
    let server = Server::start();
    for seal in [true, false] {
        let mut upload = Upload::open(server.address, "/short.mp4", "");
        upload.append(b"0123456789");
        let mut readers = Vec::new();
        for spec in ["bytes=100-", "bytes=100-200", "bytes=5-200"] {
            let mut reader = Client::connect(server.address);
            reader.request("GET", "/short.mp4", &format!("Range: {spec}\r\n"));
            readers.push((spec, reader));
        }
        if seal {
            assert!(upload.seal().status < 300);
        } else {
            upload.cut();
        }
        for (spec, mut reader) in readers {
            let Ok(head) = reader.try_head() else {
                continue;
            };
            let answer = reader.body(head, "GET");
            let expected: &[u8] = if spec == "bytes=5-200" { b"56789" } else { b"" };
            if answer.status == 206 && (seal || answer.complete) {
                assert_same(&answer.body, expected);
            } else if answer.status == 206 {
                // The cut may overtake bytes that arrived, those of its torn chunk among them.
                let came = if expected.is_empty() { expected } else { b"56789not a whole chunk" };
                assert!(came.starts_with(&answer.body), "{spec}: {answer:?}");
            } else {
                assert!([404, 416].contains(&answer.status), "{spec} {seal}: {answer:?}");
            }
        }
    }
}
