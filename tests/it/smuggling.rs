//! A body is never read as the next request, and no two readings of one request are possible.
//!
//! Every test hides a `GET /victim` where a confused server would find it, and then looks for the
//! victim's bytes in whatever comes back.

use crate::client::{Chunk, Client, Upload, get, put};
use crate::server::{Server, Setup};

const VICTIM: &[u8] = b"VICTIM-BYTES";
const HIDDEN: &str = "GET /victim HTTP/1.1\r\nHost: it\r\n\r\n";
const MARKER: &str = "GET /marker HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n";

fn start(setup: Setup) -> Server {
    let server = setup.start();
    put(server.address, "/victim", VICTIM);
    put(server.address, "/marker", b"MARKER-BYTES");
    put(server.address, "/object", b"0123456789");
    server
}

/// Sends a request whose body hides another, then the marker; returns everything that came back.
fn exchange(server: &Server, request: &str) -> String {
    let mut client = Client::connect(server.address);
    client.send(request);
    // The server may have closed already; then this is lost, which is as good.
    let _ = client.try_send(MARKER);
    let (bytes, _) = client.read_to_end();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asserts that the request was answered with one of `statuses`, the hidden one never.
fn assert_one_answer(server: &Server, request: &str, statuses: &[&str]) {
    let text = exchange(server, request);
    assert!(!text.contains("VICTIM-BYTES"), "smuggled by {request:?}:\n{text}");
    let status = text.get(9..12).unwrap_or("reset");
    // A reset may take the answer along (RFC 9112 9.6), but then nothing else came either.
    let lost = text.is_empty();
    assert!(lost || statuses.contains(&status), "{request:?}: {statuses:?} expected:\n{text}");
    let answers = text.matches("HTTP/1.1 ").count();
    let marked = text.contains("MARKER-BYTES");
    assert!(lost || answers == 1 + usize::from(marked), "{request:?}: {answers} answers:\n{text}");
}

/// Goal: an answer given before the body was read never leaves that body to be a request. Method:
/// every early answer, with both framings.
#[test]
fn early_answers_do_not_leave_their_bodies_behind() {
    let server = start(Setup::new());
    for (start, statuses) in [
        ("PUT /.headwater/x HTTP/1.1\r\n", &["403"][..]),
        ("PUT /folder/ HTTP/1.1\r\n", &["400"]),
        ("PUT /object/below HTTP/1.1\r\n", &["409"]),
        ("PUT /object HTTP/1.1\r\nIf-None-Match: *\r\n", &["412"]),
        ("DELETE /absent HTTP/1.1\r\n", &["404", "400"]),
        ("GET /absent HTTP/1.1\r\n", &["404", "400"]),
        ("GET /object HTTP/1.1\r\n", &["200", "400"]),
        ("HEAD /object HTTP/1.1\r\n", &["200", "400"]),
        ("GET /object HTTP/1.1\r\nRange: bytes=99-\r\n", &["416", "400"]),
        ("GET /object HTTP/1.1\r\nIf-None-Match: *\r\n", &["304", "400"]),
        ("OPTIONS /object HTTP/1.1\r\n", &["204", "400"]),
        ("PATCH /object HTTP/1.1\r\n", &["405"]),
        ("TRACE /object HTTP/1.1\r\n", &["405", "400"]),
        ("BREW /object HTTP/1.1\r\n", &["501"]),
        ("PUT /object HTTP/1.1\r\nExpect: 200-ok\r\n", &["417"]),
    ] {
        let length = format!("Host: it\r\nContent-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len());
        assert_one_answer(&server, &format!("{start}{length}"), statuses);
        let size = HIDDEN.len();
        let chunked = format!(
            "Host: it\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{HIDDEN}\r\n0\r\n\r\n"
        );
        assert_one_answer(&server, &format!("{start}{chunked}"), statuses);
        let late = format!("Host: it\r\nContent-Length: 1000000\r\n\r\n{HIDDEN}");
        let mut client = Client::connect(server.address);
        client.send(format!("{start}{late}"));
        client.finish_sending();
        let text = String::from_utf8_lossy(&client.read_to_end().0).into_owned();
        assert!(!text.contains("VICTIM-BYTES"), "{start:?} with a body that stays away:\n{text}");
    }
}

/// Goal: the same for limits that break in the middle of a body.
#[test]
fn a_refusal_in_mid_body_ends_the_connection() {
    let server = start(Setup::new().key("store.object_bytes_max", "1000"));
    let body = HIDDEN.repeat(200);
    let request =
        format!("PUT /big HTTP/1.1\r\nHost: it\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_one_answer(&server, &request, &["413"]);
    let chunks = format!("{:x}\r\n{HIDDEN}\r\n", HIDDEN.len()).repeat(200);
    let request = format!(
        "PUT /big HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
    );
    assert_one_answer(&server, &request, &["413"]);
}

/// Goal: an upload that lost its name does not turn into requests. Method: take an upload over,
/// delete one, and let each send a request as its next bytes.
#[test]
fn an_upload_that_lost_its_object_is_not_read_on() {
    let server = start(Setup::new());
    for (status, target) in [(409, "/taken"), (410, "/deleted")] {
        let mut upload = Upload::open(server.address, target, "");
        upload.append(b"data");
        let mut reader = Client::connect(server.address);
        reader.get(target, "");
        assert_eq!(reader.data(), b"data");
        let second = (status == 409).then(|| Upload::begin(server.address, target, ""));
        if status == 410 {
            crate::client::ask(server.address, "DELETE", target, "");
        }
        assert!(matches!(reader.chunk(), Chunk::Cut(_)));
        let _ = upload.try_append(b"more");
        let answer = upload.client.answer_to("PUT");
        assert_eq!(answer.status, status);
        let _ = upload.client.try_send(HIDDEN);
        assert!(upload.client.read_to_end().0.is_empty());
        drop(second);
    }
}

/// Goal: a request that two servers could frame differently is refused and the connection closed.
/// Method: the known pairs of Content-Length and Transfer-Encoding, each hiding a request.
#[test]
fn ambiguous_framings_are_refused_and_closed() {
    let server = start(Setup::new());
    let chunks = format!("0\r\n\r\n{HIDDEN}");
    let length = chunks.len();
    for fields in [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("Transfer-Encoding : chunked\r\nContent-Length: {length}\r\n"),
        format!("Transfer-Encoding: xchunked\r\nContent-Length: {length}\r\n"),
        format!("Transfer-Encoding:\u{b}chunked\r\nContent-Length: {length}\r\n"),
        format!("X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("X: y\nTransfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("X: y\rTransfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("Transfer-Encoding\0: chunked\r\nContent-Length: {length}\r\n"),
        format!(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: {length}\r\n"
        ),
        format!("Content-Length: {length}\r\nContent-Length: 5\r\n"),
        format!("Content-Length: 5\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: 5, {length}\r\n"),
        format!("Content-Length: 0{length}x\r\n"),
        "Content-Length: 5\r\nTransfer-Encoding: identity\r\n".to_owned(),
        "Transfer-Encoding: identity, chunked\r\n".to_owned(),
    ] {
        let method = if fields.len() % 2 == 0 { "PUT" } else { "GET" };
        let request = format!("{method} /object HTTP/1.1\r\nHost: it\r\n{fields}\r\n{chunks}");
        let text = exchange(&server, &request);
        assert!(!text.contains("VICTIM-BYTES"), "smuggled by {fields:?}:\n{text}");
        assert!(!text.contains("MARKER-BYTES"), "kept open after {fields:?}:\n{text}");
        let status = text.get(9..12).unwrap_or("none");
        assert!(["400", "501", "none"].contains(&status), "{fields:?}:\n{text}");
    }
    get(server.address, "/object").assert_body(200, b"0123456789");
}

/// Goal: chunked coding has one reading. Method: chunk lines that lenient parsers read otherwise,
/// each followed by a hidden request.
#[test]
fn chunk_lines_have_one_reading() {
    let server = start(Setup::new());
    for chunks in [
        format!("5 ;x\nhello\r\n0\r\n\r\n{HIDDEN}"),
        format!("0x0\r\n\r\n{HIDDEN}"),
        format!("+0\r\n\r\n{HIDDEN}"),
        format!("-0\r\n\r\n{HIDDEN}"),
        format!("0_0\r\n\r\n{HIDDEN}"),
        format!("\r\n\r\n{HIDDEN}"),
        format!("0\n\n{HIDDEN}"),
        format!("0\r\r{HIDDEN}"),
        format!("5\r\nhelloXX0\r\n\r\n{HIDDEN}"),
        format!("10000000000000000\r\n\r\n{HIDDEN}"),
        format!("0;\n\r\n\r\n{HIDDEN}"),
        format!("5\r\nhello\r\n0\r\nX: y\r\n{HIDDEN}"),
    ] {
        let request =
            format!("PUT /new HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let text = exchange(&server, &request);
        assert!(!text.contains("VICTIM-BYTES"), "smuggled by {chunks:?}:\n{text}");
        assert!(!text.contains("MARKER-BYTES"), "kept open after {chunks:?}:\n{text}");
    }
}

/// Goal: what follows `Connection: close` is not a request. Method: pipelining behind it.
#[test]
fn nothing_is_read_after_a_close() {
    let server = start(Setup::new());
    for first in [
        "GET /object HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n",
        "GET /object HTTP/1.0\r\n\r\n",
        "GET /bad%00 HTTP/1.1\r\nHost: it\r\n\r\n",
    ] {
        let text = exchange(&server, &format!("{first}{HIDDEN}"));
        assert!(!text.contains("VICTIM-BYTES") && !text.contains("MARKER-BYTES"), "{text}");
    }
}

/// Goal: a body on GET is read and forgotten, or refused; a following request is itself.
#[test]
fn a_body_on_get_is_no_request() {
    let server = start(Setup::new());
    let size = HIDDEN.len();
    for framing in [
        format!("Content-Length: {size}\r\n\r\n{HIDDEN}"),
        format!("Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{HIDDEN}\r\n0\r\n\r\n"),
    ] {
        let request = format!("GET /object HTTP/1.1\r\nHost: it\r\n{framing}");
        assert_one_answer(&server, &request, &["200", "400"]);
    }
}

/// Goal: values of an upload cannot write fields of an answer. Method: encoded line ends in names
/// and stored fields with every odd byte that a head may carry.
#[test]
fn stored_values_cannot_inject_fields() {
    let server = start(Setup::new().key("headers.stored", r#"["X-Foo"]"#));
    let fields = "X-Foo: a%0d%0aSet-Cookie: x=1\r\nContent-Type: text/x;\ta=\"\\\"\"\r\n";
    let answer = crate::client::put_with(server.address, "/inject", fields, b"x");
    assert_eq!(answer.status, 201);
    let read = get(server.address, "/inject");
    assert_eq!(read.field("set-cookie"), None);
    assert_eq!(read.field("x-foo"), Some("a%0d%0aSet-Cookie: x=1"));
    let name =
        crate::client::raw(server.address, "GET /a%0d%0aSet-Cookie:x HTTP/1.1\r\nHost: it\r\n\r\n");
    assert!([400, 404].contains(&name.status) && name.field("set-cookie").is_none());
}
