//! Bad input gets a clear error and costs nothing: raw bytes, the status, one line of text, closed.

use crate::client::{Answer, Client, Upload, get, put, raw};
use crate::server::{Server, wait_until};

/// What is wrong with the refusal of a head, if anything.
fn fault_of(answer: &Answer, statuses: &[u16]) -> Option<&'static str> {
    let text = answer.text();
    let one_line = text.trim_end_matches('\n').lines().count() == 1;
    let kind = answer.field("content-type").unwrap_or_default();
    let faults = [
        (!statuses.contains(&answer.status), "another status is expected"),
        (answer.field("access-control-allow-origin") != Some("*"), "no CORS"),
        (answer.field("connection") != Some("close"), "not said to be closed"),
        (answer.field("date").is_none(), "no Date"),
        (answer.field("cache-control").is_none_or(str::is_empty), "no Cache-Control"),
        (!kind.starts_with("text/plain"), "no plain text"),
        (!answer.complete || !one_line || text.len() < 8, "not one line of text"),
    ];
    faults.into_iter().find(|(is_wrong, _)| *is_wrong).map(|(_, fault)| fault)
}

/// Sends each request on its own connection and asserts a refusal, a close, and a living server;
/// all faults are told together.
fn refuse_all(server: &Server, table: &[(&str, String, &[u16])]) {
    put(server.address, "/fine", b"fine");
    let mut faults = Vec::new();
    for (what, bytes, statuses) in table {
        let mut client = Client::connect(server.address);
        client.send(bytes);
        let answer = client.answer();
        if let Some(fault) = fault_of(&answer, statuses) {
            let sent: String = bytes.chars().take(80).collect();
            let status = answer.status;
            faults.push(format!(
                "{what} {sent:?}: {fault} ({statuses:?}): {status} {:?}",
                answer.text()
            ));
        } else {
            client.assert_closed();
        }
        get(server.address, "/fine").assert_body(200, b"fine");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A GET with one more line in its head.
fn with_line(line: &str) -> String {
    format!("GET /fine HTTP/1.1\r\nHost: it\r\n{line}\r\n\r\n")
}

/// A GET of a target.
fn of(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: it\r\n\r\n")
}

/// Asserts that each of these heads is refused (505 where the version is what looks wrong).
fn refuse_lines(heads: &[&'static str]) {
    let owned = |head: &&'static str| ("", (*head).to_owned(), &[400_u16, 505][..]);
    let table: Vec<_> = heads.iter().map(owned).collect();
    refuse_all(&Server::start(), &table);
}

/// Goal: malformed request lines and line ends are 400 (RFC 9112 2.2, 3). Method: a table.
#[test]
fn malformed_lines_are_400() {
    refuse_lines(&[
        "GET /fine HTTP/1.1\nHost: it\n\n",
        "GET /fine HTTP/1.1\nHost: it\r\n\r\n",
        "GET /fine HTTP/1.1\r\nHost: it\nX: a\r\n\r\n",
        "GET /fine HTTP/1.1\r\nHost: it\r\n\nX: a\r\n\r\n",
        "GET /a\rb HTTP/1.1\r\nHost: it\r\n\r\n",
        "GET /fine HTTP/1.1\r\n X: a\r\nHost: it\r\n\r\n",
        "GET HTTP/1.1\r\nHost: it\r\n\r\n",
        "GET /fine\r\nHost: it\r\n\r\n",
        "GET  /fine HTTP/1.1\r\nHost: it\r\n\r\n",
        "GET /fine  HTTP/1.1\r\nHost: it\r\n\r\n",
        "GET /fine HTTP/1.1 \r\nHost: it\r\n\r\n",
        "GET\t/fine\tHTTP/1.1\r\nHost: it\r\n\r\n",
        " /fine HTTP/1.1\r\nHost: it\r\n\r\n",
        "G@T /fine HTTP/1.1\r\nHost: it\r\n\r\n",
        "GET /fine HTTP/1.1 extra\r\nHost: it\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\x7f\r\n\r\n",
    ]);
}

/// Goal: malformed fields are 400 (RFC 9112 5, RFC 9110 5.5). Method: one bad line in a good head.
#[test]
fn malformed_fields_are_400() {
    let lines = [
        "X: a\rb",
        "X\rY: a",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X: a\0b",
        "X\0Y: a",
        "X: a\x07b",
        "X: a\x7fb",
        "X : a",
        "X\t: a",
        "nocolon",
        ": value",
        "X(Y): a",
        "X Y: a",
        "\x01: a",
    ];
    let table: Vec<(&str, String, &[u16])> =
        lines.iter().map(|line| (*line, with_line(line), &[400_u16][..])).collect();
    refuse_all(&Server::start(), &table);
}

/// Goal: a request says once, and clearly, whom it is for (RFC 9112 3.2).
#[test]
fn a_missing_double_or_bad_host_is_400() {
    let host = |lines: &str| format!("GET /fine HTTP/1.1\r\n{lines}\r\n");
    let bad: &[u16] = &[400];
    refuse_all(
        &Server::start(),
        &[
            ("missing", host(""), bad),
            ("missing, absolute form", "GET http://it/fine HTTP/1.1\r\n\r\n".to_owned(), bad),
            ("twice", host("Host: a\r\nHost: b\r\n"), bad),
            ("twice the same", host("Host: a\r\nhost: a\r\n"), bad),
            ("with a space", host("Host: a b\r\n"), bad),
            ("with a path", host("Host: a/b\r\n"), bad),
            ("with user information", host("Host: user@a\r\n"), bad),
            ("with a bad port", host("Host: a:http\r\n"), bad),
            ("two in one line", host("Host: a, b\r\n"), bad),
        ],
    );
}

/// Goal: a body whose length is in doubt is refused (RFC 9112 6.1, 6.3). Method: a table of PUTs.
#[test]
fn doubtful_body_lengths_are_refused() {
    let body = |lines: &str| {
        format!("PUT /new HTTP/1.1\r\nHost: it\r\n{lines}\r\n5\r\nhello\r\n0\r\n\r\n")
    };
    let bad: &[u16] = &[400];
    let coding: &[u16] = &[400, 501];
    let server = Server::start();
    let mut table: Vec<(&str, String, &[u16])> = Vec::new();
    for value in [
        "abc",
        "+5",
        "-1",
        "0x5",
        "5 5",
        "5_0",
        "5.0",
        "99999999999999999999",
        "",
        "5;",
        "\u{665}",
        "18446744073709551616",
        "5,",
        "5, 6",
        "5, 5",
    ] {
        table.push(("bad length", body(&format!("Content-Length: {value}\r\n")), bad));
    }
    for lines in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 5\r\n",
        "Content-Length: 15\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
    ] {
        table.push(("two lengths", body(lines), bad));
    }
    for value in [
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "chunked, identity",
        "identity",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "\"chunked\"",
        "",
        ",",
        "chunked\u{b}",
        "cow",
    ] {
        table.push(("coding", body(&format!("Transfer-Encoding: {value}\r\n")), coding));
    }
    let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n";
    table.push(("coding twice", body(twice), coding));
    let old = "PUT /new HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    table.push(("coding in HTTP/1.0", old.to_owned(), bad));
    refuse_all(&server, &table);
    assert_eq!(get(server.address, "/new").status, 404, "nothing was stored");
}

/// Goal: targets that are no name here are 400. Method: a table of paths and forms.
#[test]
fn bad_targets_are_400() {
    let bad: &[u16] = &[400];
    let targets = [
        "/..",
        "/../x",
        "/a/../../x",
        "/%2e%2e/x",
        "/a/%2E%2E/x",
        "/a/.%2e/x",
        "/a/%2e%2e%2fx",
        "/%00",
        "/a%00.ts",
        "/a%2Fb",
        "/a%2fb",
        "/%3Fx",
        "/..%3fx",
        "/.headwater%3Fx",
        "/%c0%af",
        "/%c0%ae%c0%ae/x",
        "/%e0%80%af",
        "/%ff",
        "/%ed%a0%80",
        "/%",
        "/%2",
        "/%zz",
        "/%2x",
        "/a\x7fb",
        "/a%0ab",
        "/a%0d%0ab",
        "fine",
        "fine/x",
        "http://",
        "http:///fine",
        "ftp://it/fine",
        "it:80",
        "?x",
        "//..",
    ];
    let mut table: Vec<(&str, String, &[u16])> = Vec::new();
    for target in targets {
        table.push((target, of(target), bad));
    }
    refuse_all(&Server::start(), &table);
}

/// Goal: heads that are too large are refused early, by the limit that they break.
#[test]
fn heads_beyond_their_limits_are_414_and_431() {
    let many = |count: usize| "X: y\r\n".repeat(count) + "X: y";
    refuse_all(
        &Server::start(),
        &[
            ("request line", of(&format!("/{}", "a".repeat(9000))), &[414]),
            ("request line by its query", of(&format!("/a?{}", "a".repeat(9000))), &[414]),
            ("name of 10,000 bytes", of(&format!("/{}", "n/".repeat(5000))), &[414]),
            ("name beyond 2048", of(&format!("/{}", "name/".repeat(420))), &[414]),
            ("one long field", with_line(&format!("X: {}", "v".repeat(33_000))), &[431]),
            ("a long name", with_line(&format!("{}: v", "n".repeat(33_000))), &[431]),
            ("long fields", with_line(&format!("X: {}", "v".repeat(7000)).repeat(5)), &[431]),
            ("65 fields", with_line(&many(64)), &[431]),
            ("2000 fields", with_line(&many(2000)), &[431]),
        ],
    );
}

/// Goal: a head without end is refused while it comes, not kept. Method: send until the answer.
#[test]
fn an_endless_head_is_refused_while_it_comes() {
    let server = Server::start();
    for (start, more, statuses) in [
        ("GET /", "a".repeat(1000), &[414_u16][..]),
        ("GET / HTTP/1.1\r\nHost: it\r\nX: ", "v".repeat(1000), &[431]),
        ("GET / HTTP/1.1\r\nHost: it\r\n", "X: y\r\n".repeat(100), &[431]),
        ("", "\r\n".repeat(500), &[400, 431, 414]),
    ] {
        let mut client = Client::connect(server.address);
        client.send(start);
        for _ in 0..40 {
            if client.try_send(&more).is_err() {
                break;
            }
        }
        // The server may reset while more is on its way, which can take its answer along.
        if let Ok(head) = client.try_head() {
            assert!(statuses.contains(&head.status), "{start:?}: {head:?}");
        }
        client.read_to_end();
    }
    assert_eq!(get(server.address, "/").status, 404);
}

/// Goal: versions and expectations that this server does not know.
#[test]
fn other_versions_are_505_and_other_expectations_417() {
    let version = |version: &str| format!("GET /fine {version}\r\nHost: it\r\n\r\n");
    refuse_all(
        &Server::start(),
        &[
            ("2.0", version("HTTP/2.0"), &[505]),
            ("3.0", version("HTTP/3.0"), &[505]),
            ("the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[505, 400]),
            ("0.9", version("HTTP/0.9"), &[505, 400]),
            ("no digits", version("HTTP/x.y"), &[400, 505]),
            ("lower case", version("http/1.1"), &[400, 505]),
            ("too many digits", version("HTTP/1.10"), &[400, 505]),
            ("another protocol", version("RTSP/1.0"), &[400, 505]),
            ("an expectation", with_line("Expect: 200-ok"), &[417]),
        ],
    );
}

/// Sends the rest of an upload after a good chunk; what is wrong with what follows: 4xx, closed,
/// the object gone and its reader cut.
fn fault_of_upload(server: &Server, rest: &str) -> Option<String> {
    let mut upload = Upload::open(server.address, "/bad.ts", "");
    upload.append(b"good");
    let mut reader = Client::connect(server.address);
    reader.get("/bad.ts", "Connection: close\r\n");
    assert_eq!(reader.data(), b"good");
    let _ = upload.client.try_send(rest);
    upload.client.finish_sending();
    let mut fault = None;
    if let Ok(head) = upload.client.try_head() {
        let answer = upload.client.body(head, "PUT");
        let status = answer.status;
        fault = fault_of(&answer, &[400, 413, 431]).map(|fault| format!("{fault}, got {status}"));
    }
    upload.client.read_to_end();
    let (seen, _) = reader.read_to_end();
    if seen.ends_with(b"0\r\n\r\n") {
        fault.get_or_insert_with(|| "the reader saw a proper end".to_owned());
    }
    if fault.is_none() {
        wait_until("the object goes", || get(server.address, "/bad.ts").status == 404);
    }
    fault.map(|fault| format!("{:?}: {fault}", rest.chars().take(40).collect::<String>()))
}

/// Goal: bad chunked framing is 400, the object is gone, its reader is cut (RFC 9112 7.1).
#[test]
fn bad_chunked_framing_aborts_the_object() {
    let server = Server::start();
    let long = format!("5;{}\r\nhello\r\n", "e".repeat(200_000));
    let lines = [
        "zz\r\n",
        "+5\r\nhello\r\n",
        "-5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "5_0\r\nhello\r\n",
        "\r\n",
        " 5\r\nhello\r\n",
        "5\nhello\n",
        "5\rhello\r\n",
        "5\r\nhelloworld\r\n",
        "5\r\nhello5\r\n",
        "5\r\nhello\n",
        "fffffffffffffffff\r\nhello\r\n",
        "ffffffffffffffff\r\nhello\r\n",
        "8000000000000000\r\nhello\r\n",
        "00000000000000000000000000000000000000005\r\nhello\r\n",
        "5;a\nb\r\nhello\r\n",
        "5;a\0\r\nhello\r\n",
        &long,
    ];
    let faults: Vec<_> = lines.iter().filter_map(|rest| fault_of_upload(&server, rest)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Goal: the trailer section is a list of fields (RFC 9112 7.1.2), as limited as the head; a bad
/// one aborts the object like bad framing.
#[test]
fn bad_trailers_abort_the_object() {
    let server = Server::start();
    let many = format!("0\r\n{}\r\n", "T: t\r\n".repeat(20_000));
    let lines = [
        "0\r\nbad trailer\r\n\r\n",
        "0\r\n folded: x\r\n\r\n",
        "0\r\nX: a\r\n b\r\n\r\n",
        "0\r\nX: a\rb\r\n\r\n",
        "0\r\nX: a\0b\r\n\r\n",
        "0\r\nX: a\nY: b\r\n\r\n",
        "0\r\nX : a\r\n\r\n",
        "0\r\n: a\r\n\r\n",
        &many,
    ];
    let faults: Vec<_> = lines.iter().filter_map(|rest| fault_of_upload(&server, rest)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Goal: refusals that are no fault of the head keep CORS, text and Cache-Control too.
#[test]
fn other_errors_are_as_readable() {
    let server = Server::start();
    put(server.address, "/there", b"0123456789");
    let empty = "Content-Length: 0\r\n";
    for (method, target, fields, status) in [
        ("GET", "/absent", "", 404),
        ("DELETE", "/absent", "", 404),
        ("PATCH", "/there", "", 405),
        ("PUT", "/there/below", empty, 409),
        ("PUT", "/there", "Content-Length: 0\r\nIf-None-Match: *\r\n", 412),
        ("GET", "/there", "Range: bytes=10-\r\n", 416),
        ("PUT", "/.headwater/x", empty, 403),
        ("PUT", "/folder/", empty, 400),
        ("PUT", "/there", "", 411),
        ("BREW", "/there", "", 501),
    ] {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: it\r\n{fields}\r\n");
        let answer = raw(server.address, request);
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        assert_eq!(answer.field("access-control-allow-origin"), Some("*"), "{method} {target}");
        assert!(!answer.needed("cache-control").is_empty(), "{method} {target}");
        assert!(answer.needed("content-type").starts_with("text/plain"), "{method} {target}");
        assert_eq!(answer.text().trim_end_matches('\n').lines().count(), 1, "{answer:?}");
    }
}

/// Goal: no bytes of a peer bring the server down. Method: 400 requests with random changes, the
/// same ones in every run; whatever is answered, the next good request is.
#[test]
fn mutated_requests_never_stop_the_server() {
    let mut server = Server::start();
    let mut random = crate::client::Noise::new(20_261_121);
    let seeds = [
        "PUT /mutant HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "PUT /mutant HTTP/1.1\r\nHost: it\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        "GET /mutant HTTP/1.1\r\nHost: it\r\nRange: bytes=1-2,3-4,-1\r\nIf-Range: \"x\"\r\n\r\n",
        "GET http://it/mutant?x HTTP/1.0\r\nIf-None-Match: \"a\", W/\"b\"\r\nConnection: x\r\n\r\n",
    ];
    for round in 0..400 {
        let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.next() as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"\r\n\0 :;,-09af\xff"[random.below(13)]),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let mut client = Client::connect(server.address);
        let _ = client.try_send(&bytes);
        client.finish_sending();
        client.read_to_end();
        if round % 40 == 0 {
            put(server.address, "/alive", b"yes");
            get(server.address, "/alive").assert_body(200, b"yes");
        }
    }
    assert!(server.is_running());
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
