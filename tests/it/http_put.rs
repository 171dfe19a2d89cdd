//! The door in: framings, chunk sizes, expectations, pipelining, names, replacement, DELETE.

use std::net::SocketAddr;

use crate::client::{Client, Noise, Upload, ask, assert_same, get, noise, put, put_with, raw};
use crate::server::{Server, Setup, wait_until};

/// Sends a chunked PUT whose body is written by hand, and reads the answer.
fn put_raw_chunks(address: SocketAddr, target: &str, body: &[u8]) -> crate::client::Answer {
    let head = format!("PUT {target} HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut client = Client::connect(address);
    client.send([head.as_bytes(), body].concat());
    client.answer_to("PUT")
}

/// Goal: 201 then 204, each with the ETag that readers get. Method: PUT twice, GET after each.
#[test]
fn a_new_object_is_201_and_a_replaced_one_204() {
    let server = Server::start();
    let first = put_with(server.address, "/a.bin", "", b"first");
    assert_eq!(first.status, 201);
    assert_eq!(first.field("content-length"), Some("0"));
    let read = get(server.address, "/a.bin");
    read.assert_body(200, b"first");
    assert_eq!(read.field("etag"), first.field("etag"));
    let second = put_with(server.address, "/a.bin", "", b"second");
    assert_eq!(second.status, 204);
    assert_ne!(second.needed("etag"), first.needed("etag"));
    let read = get(server.address, "/a.bin");
    read.assert_body(200, b"second");
    assert_eq!(read.field("etag"), second.field("etag"));
}

/// Goal: POST is PUT. Method: both ways on the same name.
#[test]
fn post_is_identical_to_put() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    client.send("POST /p HTTP/1.1\r\nHost: it\r\nContent-Length: 3\r\n\r\none");
    assert_eq!(client.answer().status, 201);
    client.send(
        "POST /p HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n",
    );
    assert_eq!(client.answer().status, 204);
    get(server.address, "/p").assert_body(200, b"two");
}

/// Goal: the size of chunks never shows. Method: 1 byte, mixed, and 1 MiB chunks.
#[test]
fn chunks_of_every_size_arrive_whole() {
    let server = Server::start();
    let body = noise(1, 5000);
    let mut upload = Upload::begin(server.address, "/one-byte", "");
    body.iter().for_each(|byte| upload.append(&[*byte]));
    assert_eq!(upload.seal().status, 201);
    get(server.address, "/one-byte").assert_body(200, &body);

    let body = noise(2, 6 << 20);
    let (mut rest, mut sizes) = (body.as_slice(), Noise::new(3));
    let mut upload = Upload::begin(server.address, "/mixed", "");
    while !rest.is_empty() {
        let limit = [16, 1500, 70_000, 1 << 20][sizes.below(4)];
        let (chunk, tail) = rest.split_at((1 + sizes.below(limit)).min(rest.len()));
        upload.append(chunk);
        rest = tail;
    }
    assert_eq!(upload.seal().status, 201);
    get(server.address, "/mixed").assert_body(200, &body);

    let mut upload = Upload::begin(server.address, "/large", "");
    body.chunks(1 << 20).for_each(|chunk| upload.append(chunk));
    assert_eq!(upload.seal().status, 201);
    get(server.address, "/large").assert_body(200, &body);
}

/// Goal: no position in a request is special. Method: one request sent byte by byte, then another
/// cut in two at every position.
#[test]
fn a_request_may_arrive_in_any_pieces() {
    let server = Server::start();
    let request = "PUT /pieces HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: chunked\r\n\r\n\
                   4;x=\"y\"\r\nabcd\r\n00a\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n";
    let mut client = Client::connect(server.address);
    for byte in request.as_bytes() {
        client.send([*byte]);
    }
    assert_eq!(client.answer_to("PUT").status, 201);
    get(server.address, "/pieces").assert_body(200, b"abcd0123456789");
    for at in 1..request.len() {
        let (left, right) = request.split_at(at);
        client.send(left);
        if at % 7 == 0 {
            std::thread::yield_now();
        }
        client.send(right);
        assert_eq!(client.answer_to("PUT").status, 204, "cut at {at}");
    }
    get(server.address, "/pieces").assert_body(200, b"abcd0123456789");
}

/// Goal: extensions and trailers are read and forgotten, hex digits may be of either case.
#[test]
fn extensions_and_trailers_leave_no_trace() {
    let server = Server::start();
    let body = b"A;name=value;flag;q=\"a;b\"\r\n0123456789\r\n0000000a\r\nabcdefghij\r\n0;last\r\n\
                 Content-Type: text/evil\r\nX-Foo: evil\r\nContent-Length: 3\r\n\r\n";
    let answer = put_raw_chunks(server.address, "/t.txt", body);
    assert_eq!(answer.status, 201);
    let read = get(server.address, "/t.txt");
    read.assert_body(200, b"0123456789abcdefghij");
    assert!(read.needed("content-type").starts_with("text/plain"), "{read:?}");
    assert_eq!(read.field("x-foo"), None);
}

/// Goal: an empty object is an object. Method: both framings.
#[test]
fn an_empty_object_is_stored() {
    let server = Server::start();
    assert_eq!(put_with(server.address, "/empty-length", "", b"").status, 201);
    assert_eq!(put_raw_chunks(server.address, "/empty-chunked", b"0\r\n\r\n").status, 201);
    for target in ["/empty-length", "/empty-chunked"] {
        let read = get(server.address, target);
        read.assert_body(200, b"");
        assert_eq!(read.field("content-length"), Some("0"));
    }
}

/// Goal: `Expect: 100-continue` is answered before the body comes, and not where it is refused.
#[test]
fn an_expectation_is_answered_before_the_body() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    client.request("PUT", "/e", "Expect: 100-continue\r\nContent-Length: 4\r\n");
    assert_eq!(client.head().status, 100);
    client.send("body");
    assert_eq!(client.answer_to("PUT").status, 201);
    client.request("PUT", "/e", "Expect: 100-CONTINUE\r\nTransfer-Encoding: chunked\r\n");
    assert_eq!(client.head().status, 100);
    client.send("3\r\nnew\r\n0\r\n\r\n");
    assert_eq!(client.answer_to("PUT").status, 204);
    get(server.address, "/e").assert_body(200, b"new");

    let mut refused = Client::connect(server.address);
    refused.request("PUT", "/.headwater/e", "Expect: 100-continue\r\nContent-Length: 4\r\n");
    assert_eq!(refused.answer_to("PUT").status, 403, "refused without asking for the body");
}

/// Goal: an expectation in HTTP/1.0 is ignored (RFC 9110 10.1.1), and the upload works.
#[test]
fn an_http_1_0_upload_gets_no_interim_answer() {
    let server = Server::start();
    let answer = raw(
        server.address,
        "PUT /old HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nold",
    );
    assert_eq!(answer.status, 201);
    get(server.address, "/old").assert_body(200, b"old");
}

/// Goal: answers come in order and bodies stay apart. Method: eight requests in one write.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    let length = "PUT /one HTTP/1.1\r\nHost: it\r\nContent-Length: 3\r\n\r\none";
    let chunked = "PUT /two HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\ntwo\r\n0\r\n\r\n";
    let get = |target| format!("GET {target} HTTP/1.1\r\nHost: it\r\n\r\n");
    let gone = "DELETE /one HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let (one, two) = (get("/one"), get("/two"));
    let all = [length, &one, chunked, &two, gone, &one, length, &one];
    client.send(all.concat());
    let expected: [(u16, &str); 8] = [
        (201, ""),
        (200, "one"),
        (201, ""),
        (200, "two"),
        (204, ""),
        (404, "?"),
        (201, ""),
        (200, "one"),
    ];
    for (index, (status, body)) in expected.into_iter().enumerate() {
        let answer = client.answer();
        assert_eq!(answer.status, status, "answer {index}: {answer:?}");
        assert!(body == "?" || answer.text() == body, "answer {index}: {answer:?}");
    }
}

/// Goal: many uploads on one connection. Method: 200 pipelined PUTs of growing size, one write
/// per ten, then a read of each.
#[test]
fn a_connection_carries_many_pipelined_uploads() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    for batch in 0..20 {
        let mut bytes = Vec::new();
        for index in batch * 10..batch * 10 + 10 {
            let body = noise(index, index as usize * 37);
            let head = format!("PUT /many/{index} HTTP/1.1\r\nHost: it\r\n");
            bytes.extend(format!("{head}Content-Length: {}\r\n\r\n", body.len()).into_bytes());
            bytes.extend(body);
        }
        client.send(bytes);
        (0..10).for_each(|_| assert_eq!(client.answer_to("PUT").status, 201));
    }
    for index in 0..200 {
        let answer = client.ask("GET", &format!("/many/{index}"), "");
        answer.assert_body(200, &noise(index, index as usize * 37));
    }
}

/// Goal: `Connection: close` is honoured after an upload. Method: read to the end.
#[test]
fn a_closing_uploader_is_answered_and_closed() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    client.send("PUT /c HTTP/1.1\r\nHost: it\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx");
    let answer = client.answer_to("PUT");
    assert_eq!((answer.status, answer.field("connection")), (201, Some("close")));
    client.assert_closed();
}

/// Goal: a body without framing is refused, not guessed. Method: ffmpeg's `-chunked_post 0`.
#[test]
fn an_upload_without_framing_is_411() {
    let server = Server::start();
    for method in ["PUT", "POST"] {
        let mut client = Client::connect(server.address);
        client.send(format!("{method} /n HTTP/1.1\r\nHost: it\r\n\r\nbytes of a body"));
        assert_eq!(client.answer().status, 411);
        client.assert_closed();
    }
    assert_eq!(get(server.address, "/n").status, 404);
}

/// Goal: names that cannot be objects are refused, each with its status.
#[test]
fn impossible_names_are_refused() {
    let server = Server::start();
    put(server.address, "/folder/object", b"here");
    for (target, status) in [
        ("/", 400),
        ("/folder/", 400),
        ("/new/", 400),
        ("/folder/object/below", 409),
        ("/folder/object/a/b", 409),
        ("/folder", 409),
        ("/.headwater", 403),
        ("/.headwater/x", 403),
    ] {
        let answer = put_with(server.address, target, "", b"no");
        assert_eq!(answer.status, status, "PUT {target}: {answer:?}");
        assert_eq!(answer.text().lines().count(), 1, "PUT {target}: {answer:?}");
    }
    get(server.address, "/folder/object").assert_body(200, b"here");
    assert_eq!(get(server.address, "/folder").status, 404);
    assert_eq!(get(server.address, "/folder/").status, 404);
    let deleted = ask(server.address, "DELETE", "/folder", "");
    assert!([404, 409].contains(&deleted.status), "{deleted:?}");
    get(server.address, "/folder/object").assert_body(200, b"here");
}

/// Goal: a folder that became empty may become an object, and the other way round.
#[test]
fn a_freed_name_can_be_used_differently() {
    let server = Server::start();
    put(server.address, "/n/a", b"below");
    assert_eq!(ask(server.address, "DELETE", "/n/a", "").status, 204);
    assert_eq!(put_with(server.address, "/n", "", b"object").status, 201);
    get(server.address, "/n").assert_body(200, b"object");
    assert_eq!(ask(server.address, "DELETE", "/n", "").status, 204);
    assert_eq!(put_with(server.address, "/n/b", "", b"below again").status, 201);
    get(server.address, "/n/b").assert_body(200, b"below again");
}

/// Goal: one object, one name. Method: PUT under one spelling, GET under the others.
#[test]
fn spellings_of_a_path_are_one_name() {
    let server = Server::start();
    put(server.address, "/a/./b//c/../d.bin", b"same");
    let host = server.address;
    for target in [
        "/a/b/d.bin",
        "//a/b/d.bin",
        "/a/b/./d.bin",
        "/a/x/../b/d.bin",
        "/%61/b/d.bin",
        "/a/b/d%2Ebin",
        "/a/b/d.bin?token=1",
        "/a/b/d.bin?",
        &format!("http://{host}/a/b/d.bin"),
    ] {
        let answer = get(server.address, target);
        assert!(answer.status == 200 && answer.body == b"same", "GET {target}: {answer:?}");
    }
    put(server.address, "/q?x=/../../../../tmp/evil", b"query");
    get(server.address, "/q").assert_body(200, b"query");
    put(server.address, "/umlaut-%C3%A4%20blank%25.bin", b"utf-8");
    get(server.address, "/umlaut-%c3%a4%20blank%25.bin").assert_body(200, b"utf-8");
    assert_eq!(get(server.address, "/A/b/d.bin").status, 404, "names are case-sensitive");
}

/// Goal: users of go-chunked can keep the query in the name. Method: the compatibility key.
#[test]
fn the_query_is_part_of_the_name_where_configured() {
    let server = Setup::new().key("compat.query_in_name", "true").start();
    put(server.address, "/a.txt", b"plain");
    put(server.address, "/a.txt?x=1", b"with query");
    get(server.address, "/a.txt").assert_body(200, b"plain");
    get(server.address, "/a.txt?x=1").assert_body(200, b"with query");
    assert_eq!(get(server.address, "/a.txt?x=2").status, 404);
    let escape = put_with(server.address, "/q?a=/../../../../../../tmp/evil", "", b"x");
    assert!(escape.status < 500, "{escape:?}");
    let root = server.data().parent().unwrap().join("tmp");
    assert!(!root.exists() && !std::path::Path::new("/tmp/evil").exists());
}

/// Goal: a query alone is no name.
#[test]
fn a_query_makes_no_name_of_nothing() {
    let server = Setup::new().key("compat.query_in_name", "true").start();
    for target in ["/?x=1", "/.headwater?x", "/.headwater/open?x", "/a?"] {
        let answer = put_with(server.address, target, "", b"x");
        assert!(answer.status < 500, "{target}: {answer:?}");
    }
    assert_eq!(get(server.address, "/healthy").status, 404);
}

/// Goal: a long component of a name is stored or refused, never an error of ours.
#[test]
fn a_component_longer_than_a_file_name_is_answered() {
    let server = Server::start();
    let target = format!("/long/{}", "n".repeat(300));
    let answer = put_with(server.address, &target, "", b"long");
    assert!([201, 400, 414].contains(&answer.status), "{answer:?}");
    let read = get(server.address, &target);
    assert_eq!(read.status == 200, answer.status == 201, "{read:?}");
    put(server.address, "/long/short", b"still works");
}

/// Goal: `If-None-Match: *` protects an object. Method: PUT with it twice.
#[test]
fn a_conditional_upload_does_not_replace() {
    let server = Server::start();
    let fields = "If-None-Match: *\r\n";
    assert_eq!(put_with(server.address, "/once", fields, b"first").status, 201);
    assert_eq!(put_with(server.address, "/once", fields, b"second").status, 412);
    get(server.address, "/once").assert_body(200, b"first");
}

/// Goal: DELETE is 204 once and 404 after, with every framing that pushers use.
#[test]
fn delete_twice_is_404_the_second_time() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    for body in ["\r\n", "Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]
    {
        put(server.address, "/d.m4s", b"gone soon");
        for status in [204, 404] {
            client.send(format!("DELETE /d.m4s HTTP/1.1\r\nHost: it\r\n{body}"));
            assert_eq!(client.answer().status, status, "{body:?}");
        }
        assert_eq!(client.ask("GET", "/d.m4s", "").status, 404);
        assert!(!server.data().join("d.m4s").exists(), "the file is still on disk");
    }
}

/// Goal: a short body leaves no object. Method: fewer bytes than announced, then both ends.
#[test]
fn a_body_shorter_than_its_length_is_no_object() {
    let server = Server::start();
    for reset in [false, true] {
        let mut client = Client::connect(server.address);
        client.request("PUT", "/short.bin", "Content-Length: 100000\r\n");
        client.send([7; 5000]);
        wait_until("the upload opens", || {
            ask(server.address, "HEAD", "/short.bin", "").status == 200
        });
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        wait_until("the torn upload goes", || get(server.address, "/short.bin").status == 404);
    }
}

/// Goal: bytes beyond the length are the next request, here a bad one; the object is whole.
#[test]
fn a_body_longer_than_its_length_does_not_grow_the_object() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    client.send("PUT /long HTTP/1.1\r\nHost: it\r\nContent-Length: 4\r\n\r\nbodyMORE\r\n\r\n");
    assert_eq!(client.answer_to("PUT").status, 201);
    assert_eq!(client.answer().status, 400);
    client.assert_closed();
    get(server.address, "/long").assert_body(200, b"body");
}

/// Goal: an object is limited by name. Method: `store.object_bytes_max`, with both framings.
#[test]
fn an_object_above_its_limit_is_413() {
    let server = Setup::new().key("store.object_bytes_max", "100000").start();
    put(server.address, "/fits", &noise(1, 100_000));
    assert_eq!(put_with(server.address, "/big", "", &noise(2, 100_001)).status, 413);
    let mut asks = Client::connect(server.address);
    asks.request("PUT", "/big", "Expect: 100-continue\r\nContent-Length: 100001\r\n");
    assert_eq!(asks.answer_to("PUT").status, 413, "RFC 9110 10.1.1: at once");
    let mut upload = Upload::begin(server.address, "/big", "");
    for _ in 0..30 {
        if upload.try_append(&[1; 4000]).is_err() {
            break;
        }
    }
    assert_eq!(upload.client.answer_to("PUT").status, 413);
    upload.client.read_to_end();
    assert_eq!(get(server.address, "/big").status, 404);
    assert_same(&get(server.address, "/fits").body, &noise(1, 100_000));
}
