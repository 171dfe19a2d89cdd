//! APPEND over a WebSocket, as httpfstream has it: what answers the handshake, what becomes of
//! messages, how an appender ends, and what plain HTTP sees of it meanwhile.

use std::thread;

use rustix::process::Signal;

use crate::client::{
    Chunk, Client, End, Noise, Upload, ask, assert_same, get, noise, put, put_with, raw,
};
use crate::hls_checker::{Plan, follow};
use crate::hls_rules::origin;
use crate::live_kit::until_text;
use crate::server::{Server, Setup, wait_until};
use crate::websocket_client::{
    ACCEPT, APPEND, BINARY, CONTINUATION, Closing, Event, FIN, Frame, KEY, NO_CODE, PING, PONG,
    TEXT, WebSocket, accepted, appender, assert_refused, assert_sealed, close_payload, frame,
    handshake, on, pump, refused, tail, until_sealed,
};

const ACTIVE: (u16, &str) = (403, "addWriter: path already has an active writer\n");

fn asked_to_close(code: u16) -> Closing {
    Closing { code, reason: String::new(), end: End::Fin }
}

// The handshake.

/// Goal: exactly the fields of the original, in its letters: its client compares values whole.
/// Method: the verb in a field and in the query, and clients that offer what nobody takes up.
#[test]
fn the_answer_has_exactly_three_fields() {
    let server = Server::start();
    let offers = "Origin: https://elsewhere.example\r\n\
                  Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
                  User-Agent: it\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n";
    let loose = "GET /loose HTTP/1.1\r\nhost: it\r\nupgrade: WebSocket\r\n\
                 connection: keep-alive, UPGRADE\r\nsec-websocket-key: ";
    let loose = format!("{loose}{KEY}\r\nsec-websocket-version: 13\r\nx-verb: APPEND\r\n\r\n");
    for request in [
        handshake("/field", APPEND),
        handshake("/query?verb=APPEND", ""),
        handshake("/both?verb=APPEND", APPEND),
        handshake("/among?a=b&verb=APPEND&c", ""),
        handshake("/empty?verb=APPEND", "X-Verb: \r\n"),
        handshake("/offers", &format!("{APPEND}{offers}")),
        loose,
    ] {
        assert_eq!(accepted(server.address, &request), ACCEPT, "{request}");
    }
    let other = handshake("/key", APPEND).replace(KEY, "AQIDBAUGBwgJCgsMDQ4PEA==");
    assert_eq!(accepted(server.address, &other), "C/0nmHhBztSRGR1CwL6Tf4ZjwpY=");
}

/// Goal: only APPEND appends, and the field counts before the query.
#[test]
fn other_verbs_follow() {
    let server = Server::start();
    for (target, fields) in [
        ("/absent", ""),
        ("/absent", "X-Verb: FOLLOW\r\n"),
        ("/absent", "X-Verb: append\r\n"),
        ("/absent?verb=append", ""),
        ("/absent?verb=", ""),
        ("/absent?verb=APPEND", "X-Verb: FOLLOW\r\n"),
    ] {
        assert_eq!(refused(server.address, target, fields).status, 404, "{target} {fields:?}");
    }
    assert_eq!(get(server.address, "/absent").status, 404);
}

/// Goal: the object is there with the 101, before any message; the query is no part of its name.
#[test]
fn an_appender_makes_its_object_at_once() {
    let server = Server::start();
    let mut appender = WebSocket::open(server.address, "/new/log.txt?verb=APPEND", "");
    let head = ask(server.address, "HEAD", "/new/log.txt", "");
    assert_eq!((head.status, head.field("etag"), head.field("content-length")), (200, None, None));
    let mut reader = tail(server.address, "/new/log.txt", b"");
    appender.close(1000, "");
    assert_eq!(appender.closing(), asked_to_close(1000));
    assert_eq!(reader.chunk(), Chunk::Last);
    assert_sealed(server.address, "/new/log.txt", b"");
}

/// Goal: one appender for an object. Method: a second one by each verb, one whose handshake is
/// broken (the writer is looked at first), one while an HTTP upload writes.
#[test]
fn a_second_appender_is_refused() {
    let server = Server::start();
    let address = server.address;
    let mut first = appender(address, "/log");
    first.text("one ");
    let mut reader = tail(address, "/log", b"one ");
    assert_refused(address, "/log", APPEND, ACTIVE);
    assert_refused(address, "/log?verb=APPEND", "", ACTIVE);
    let broken = raw(address, handshake("/log", APPEND).replace(KEY, "short"));
    assert_eq!((broken.status, &*broken.text()), ACTIVE);
    first.text("two");
    assert_eq!(reader.data(), b"two");
    first.close(1000, "");
    first.closing();
    assert_sealed(address, "/log", b"one two");
    drop(appender(address, "/log"));

    let mut upload = Upload::open(address, "/put", "");
    upload.append(b"of the upload");
    assert_refused(address, "/put", APPEND, ACTIVE);
    assert_eq!(upload.seal().status, 201);
    get(address, "/put").assert_body(200, b"of the upload");
}

/// Goal: a race has one winner. Method: rounds of 20 handshakes at once.
#[test]
fn one_of_twenty_appenders_wins() {
    let server = Setup::new().cores(4).start();
    for round in 0..5 {
        let target = &*format!("/race/{round}");
        let mut clients: Vec<_> = (0..20).map(|_| Client::connect(server.address)).collect();
        thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(move || client.send(handshake(target, APPEND)));
            }
        });
        let statuses: Vec<_> = clients.iter_mut().map(|client| client.head().status).collect();
        let of = |wanted| statuses.iter().filter(|&&status| status == wanted).count();
        assert_eq!((of(101), of(403)), (1, 19), "{statuses:?}");
    }
}

/// Goal: what is no handshake is 400, says which version is wanted and makes no object.
#[test]
fn a_broken_handshake_is_400() {
    let server = Server::start();
    let good = handshake("/broken", APPEND);
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let version = "Sec-WebSocket-Version: 13\r\n";
    for request in [
        good.replace(&key, ""),
        good.replace(KEY, "short"),
        good.replace(KEY, ""),
        good.replace(KEY, "!!!!!!!!!!!!!!!!!!!!!!=="),
        good.replace(KEY, "AQIDBAUGBwgJCgsMDQ4P"),
        good.replace(&key, &format!("{key}{key}")),
        good.replace(version, ""),
        good.replace("Version: 13", "Version: 8"),
        good.replace("Version: 13", "Version: 12, 13"),
        good.replace("Connection: Upgrade", "Connection: keep-alive"),
        good.replace("Connection: Upgrade\r\n", ""),
    ] {
        let answer = raw(server.address, &request);
        assert_eq!(answer.status, 400, "{request}");
        assert_eq!(answer.needed("sec-websocket-version"), "13", "{request}");
        assert!(answer.complete && answer.field("upgrade").is_none(), "{answer:?}");
        assert_eq!(get(server.address, "/broken").status, 404, "{request}");
    }
    // Nobody may be upgraded who cannot be: RFC 9110 §7.8.
    let old = good.replace("HTTP/1.1", "HTTP/1.0");
    assert_ne!(raw(server.address, old).status, 101);
    let plain = raw(server.address, format!("GET /plain HTTP/1.1\r\nHost: it\r\n{APPEND}\r\n"));
    assert!([400, 404].contains(&plain.status), "{plain:?}");
    for target in ["/broken", "/plain"] {
        assert_eq!(get(server.address, target).status, 404);
    }
}

/// Goal: no method but GET upgrades, and none does what it does without an upgrade.
#[test]
fn other_methods_with_an_upgrade_are_405() {
    let server = Server::start();
    put(server.address, "/there", b"there");
    for target in ["/there", "/absent"] {
        for method in ["HEAD", "POST", "PUT", "DELETE", "PATCH"] {
            for verb in ["", APPEND] {
                let fields = format!("Content-Length: 0\r\n{verb}");
                let request = handshake(target, &fields).replace("GET ", &format!("{method} "));
                let mut client = Client::connect(server.address);
                client.send(request);
                let answer = client.answer_to(method);
                assert_eq!(answer.status, 405, "{method} {target} {verb:?}: {answer:?}");
                let text = if method == "HEAD" { "" } else { "method not supported\n" };
                assert_eq!(answer.text(), text);
            }
        }
    }
    get(server.address, "/there").assert_body(200, b"there");
    assert_eq!(get(server.address, "/absent").status, 404);
}

/// Goal: names that cannot be are 500 with the beginning of the original's texts.
#[test]
fn names_that_cannot_be_are_500() {
    let server = Server::start();
    put(server.address, "/file", b"file");
    put(server.address, "/folder/file", b"file");
    for (target, start) in [
        ("/file/below", "failed to create dir: "),
        ("/file/far/below", "failed to create dir: "),
        ("/folder", "failed to open destination file for writing: "),
    ] {
        let answer = refused(server.address, target, APPEND);
        let text = answer.text();
        assert!(answer.status == 500 && text.starts_with(start), "{target}: {answer:?} {text}");
        assert!(text.trim_end().len() > start.trim_end().len(), "{text:?} says nothing");
    }
    get(server.address, "/file").assert_body(200, b"file");
    get(server.address, "/folder/file").assert_body(200, b"file");
}

// Messages.

/// Goal: every message is appended whole: text, binary, of any length, in pieces, empty; text is
/// not looked at, since the original's client sends whatever it reads as text.
#[test]
fn messages_of_all_kinds_are_appended() {
    let server = Server::start();
    let mut appender = appender(server.address, "/kinds");
    let all: Vec<u8> = (0..=255).collect();
    let mut expected = Vec::new();
    appender.text("text ");
    appender.binary(&all);
    appender.send(FIN | TEXT, &all);
    expected.extend([b"text ", &all[..], &all].concat());
    appender.fragments(TEXT, &[b"three ", b"pieces", b"."]);
    appender.fragments(BINARY, &[b"", b"\xff\xfe", b"", b""]);
    expected.extend(b"three pieces.\xff\xfe");
    for opcode in [TEXT, BINARY] {
        appender.send(FIN | opcode, b"");
        appender.fragments(opcode, &[b"", b"", b""]);
    }
    for (index, length) in [1, 124, 125, 126, 127, 65_535, 65_536, 300_000].into_iter().enumerate()
    {
        let data = noise(index as u64, length);
        for mask in [[0; 4], [0xff; 4], [0x12, 0x34, 0x56, 0x78]] {
            appender.raw(frame(FIN | BINARY, mask, &data));
            expected.extend(&data);
        }
    }
    appender.close(1000, "");
    assert_eq!(appender.closing(), asked_to_close(1000));
    assert_sealed(server.address, "/kinds", &expected);
}

/// Goal: where the network cuts does not matter. Method: two messages and a ping byte by byte, and
/// 5,000 messages in one write.
#[test]
fn segmentation_does_not_matter() {
    let server = Server::start();
    let mut slow = appender(server.address, "/slow");
    let mask = [0xa1, 0xb2, 0xc3, 0xd4];
    let mut bytes = frame(TEXT, mask, b"byte ");
    bytes.extend(frame(FIN | PING, mask, b"in between"));
    bytes.extend(frame(FIN | CONTINUATION, mask, b"by byte"));
    bytes.extend(frame(FIN | BINARY, mask, &noise(1, 200)));
    for byte in bytes {
        slow.raw([byte]);
    }
    slow.assert_pong(b"in between");
    slow.close_empty();
    slow.closing();
    assert_sealed(server.address, "/slow", &[b"byte by byte", &noise(1, 200)[..]].concat());

    let mut fast = appender(server.address, "/fast");
    let (mut bytes, mut expected, mut random) = (Vec::new(), Vec::new(), Noise::new(7));
    for number in 0..5000 {
        let line = format!("{number} {}\n", "x".repeat(random.below(300)));
        bytes.extend(frame(FIN | TEXT, (random.next() as u32).to_be_bytes(), line.as_bytes()));
        expected.extend(line.into_bytes());
    }
    fast.raw(bytes);
    fast.close(1000, "");
    fast.closing();
    assert_sealed(server.address, "/fast", &expected);
}

/// Goal: nothing bounds a message but the size of an object. Method: 30 MiB in one frame, and the
/// same in pieces.
#[test]
fn a_message_of_30_mib_is_appended() {
    let server = Server::start();
    let body = noise(3, 30 << 20);
    let mut whole = appender(server.address, "/whole");
    whole.binary(&body);
    let mut pieces = appender(server.address, "/pieces");
    pieces.fragments(TEXT, &body.chunks(100_000).collect::<Vec<_>>());
    for (mut appender, target) in [(whole, "/whole"), (pieces, "/pieces")] {
        appender.close(1000, "");
        assert_eq!(appender.closing(), asked_to_close(1000));
        assert_sealed(server.address, target, &body);
    }
}

/// Goal: a ping is answered with its payload, also between the pieces of a message.
#[test]
fn pings_are_answered_everywhere() {
    let server = Server::start();
    let mut appender = appender(server.address, "/pings");
    let long = noise(5, 125);
    let ping = |appender: &mut WebSocket| {
        for payload in [b"", &b"payload"[..], &long] {
            appender.send(FIN | PING, payload);
            appender.assert_pong(payload);
        }
    };
    ping(&mut appender);
    appender.send(BINARY, b"one ");
    ping(&mut appender);
    appender.send(CONTINUATION, b"message");
    // Nobody asked for these: RFC 6455 §5.5.3.
    appender.send(FIN | PONG, b"unasked");
    appender.send(FIN | PONG, &long);
    ping(&mut appender);
    appender.send(FIN | CONTINUATION, b"!");
    ping(&mut appender);
    appender.close(1000, "");
    assert_eq!(appender.closing(), asked_to_close(1000));
    assert_sealed(server.address, "/pings", b"one message!");
}

/// Goal: a message is seen by readers when it is complete, not before, and at once.
#[test]
fn readers_get_each_message_as_it_comes() {
    let server = Server::start();
    let mut appender = appender(server.address, "/live.txt");
    appender.text("before, ");
    let mut readers = [0; 3].map(|_| tail(server.address, "/live.txt", b"before, "));
    for step in 0..200 {
        let data = noise(step, 1 + 7 * step as usize);
        let (start, end) = data.split_at(data.len() / 2);
        appender.send(BINARY, start);
        appender.send(FIN | PING, b"");
        appender.assert_pong(b"");
        appender.send(FIN | CONTINUATION, end);
        for reader in &mut readers {
            assert_same(&reader.data(), &data);
        }
    }
    appender.close(1000, "");
    appender.closing();
    for reader in &mut readers {
        assert_eq!(reader.chunk(), Chunk::Last);
    }
}

/// Goal: HEAD and ranges of what is being appended are as of any growing object.
#[test]
fn head_and_ranges_of_a_growing_object() {
    let server = Server::start();
    let mut appender = appender(server.address, "/grows.mp4");
    appender.text("0123456789");
    let _reader = tail(server.address, "/grows.mp4", b"0123456789");
    let head = ask(server.address, "HEAD", "/grows.mp4", "");
    assert_eq!((head.status, head.field("etag"), head.field("content-length")), (200, None, None));
    assert_eq!(head.field("content-type"), Some("video/mp4"));
    let closed = ask(server.address, "GET", "/grows.mp4", "Range: bytes=2-5\r\n");
    closed.assert_body(206, b"2345");
    assert_eq!(closed.needed("content-range"), "bytes 2-5/*");
    let mut open_ended = Client::connect(server.address);
    let head = open_ended.get("/grows.mp4", "Range: bytes=8-\r\n");
    assert_eq!((head.status, head.is_chunked()), (206, true), "{head:?}");
    assert_eq!(open_ended.data(), b"89");
    appender.text("abc");
    assert_eq!(open_ended.data(), b"abc");
    appender.close(1000, "");
    appender.closing();
    assert_eq!(open_ended.chunk(), Chunk::Last);
    assert_sealed(server.address, "/grows.mp4", b"0123456789abc");
}

// Ends.

/// Goal: a close frame is answered in kind and seals; then the server closes.
#[test]
fn a_close_frame_is_echoed() {
    let server = Server::start();
    let bare = Frame::whole(8, &[]);
    let of = |code: u16| Frame::whole(8, &code.to_be_bytes());
    for (index, (payload, echo)) in [
        (vec![], bare),
        (close_payload(1000, ""), of(1000)),
        (close_payload(1001, "going away"), of(1001)),
        (close_payload(4999, &"x".repeat(123)), of(4999)),
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("/close/{index}");
        let mut appender = appender(server.address, &target);
        appender.text("data");
        appender.send(FIN | 8, &payload);
        assert_eq!(appender.frame(), echo);
        assert_eq!(appender.try_frame(), Err(End::Fin));
        assert_sealed(server.address, &target, b"data");
    }
}

/// Goal: the original's client ends with its TCP connection: that is a normal end too.
#[test]
fn the_end_of_the_connection_is_a_normal_end() {
    let server = Server::start();
    for (target, end) in [
        ("/fin", (|mut appender| appender.finish_sending()) as fn(WebSocket)),
        ("/drop", drop),
        ("/reset", WebSocket::reset),
    ] {
        let mut appender = appender(server.address, target);
        appender.text("complete, ");
        appender.fragments(TEXT, &[b"and ", b"this"]);
        let mut reader = tail(server.address, target, b"complete, and this");
        end(appender);
        assert_eq!(reader.chunk(), Chunk::Last, "{target}");
        assert_sealed(server.address, target, b"complete, and this");
    }
    let mut stays = appender(server.address, "/half");
    stays.text("data");
    stays.finish_sending();
    assert_eq!(stays.closing().end, End::Fin);
    assert_sealed(server.address, "/half", b"data");
}

/// How a message begins that never ends.
type Begin = fn(&mut WebSocket);

/// Goal: what is no whole message when the connection is lost is not in the object, and no reader
/// sees any of it.
#[test]
fn an_incomplete_message_is_dropped() {
    let server = Server::start();
    let cases: [(&str, Begin); 4] = [
        ("/frame", |appender| {
            let bytes = frame(FIN | BINARY, [1, 2, 3, 4], &noise(1, 50_000));
            appender.raw(&bytes[..40_000]);
        }),
        ("/pieces", |appender| appender.send(TEXT, &noise(2, 50_000))),
        ("/head", |appender| appender.raw([FIN | TEXT, 0xfe, 1])),
        ("/close", |appender| {
            appender.send(TEXT, b"never ended");
            appender.close(1000, "");
        }),
    ];
    for (target, start) in cases {
        for end in [drop, WebSocket::reset] {
            put(server.address, target, b"put, ");
            let mut appender = appender(server.address, target);
            appender.binary(b"whole.");
            let mut reader = tail(server.address, target, b"put, whole.");
            start(&mut appender);
            end(appender);
            assert_eq!(reader.chunk(), Chunk::Last, "{target}");
            assert_sealed(server.address, target, b"put, whole.");
        }
    }
}

/// Goal: a later appender continues at the end, whoever made the object, and the ETag tells.
#[test]
fn a_later_appender_continues_at_the_end() {
    let server = Server::start();
    let address = server.address;
    let add = |text: &str| {
        let mut appender = appender(address, "/log.txt");
        appender.text(text);
        appender.close(1000, "");
        appender.closing();
    };
    let body = noise(9, 300_000);
    put(address, "/log.txt", &body);
    let mut expected = body;
    let mut etags = vec![get(address, "/log.txt").needed("etag").to_owned()];
    for text in ["one ", "two ", "", "three"] {
        add(text);
        expected.extend(text.bytes());
        let answer = assert_sealed(address, "/log.txt", &expected);
        let etag = answer.needed("etag").to_owned();
        assert!(text.is_empty() || !etags.contains(&etag), "{etags:?}");
        etags.push(etag);
    }
    let mut appender = appender(address, "/log.txt");
    let mut reader = tail(address, "/log.txt", &expected);
    appender.text(", live");
    assert_eq!(reader.data(), b", live");
    drop(appender);
    assert_eq!(reader.chunk(), Chunk::Last);
    // A PUT begins anew, and an appender continues that.
    put(address, "/log.txt", b"anew");
    add(", continued");
    assert_sealed(address, "/log.txt", b"anew, continued");
}

/// Goal: whoever reads the finished object finishes on what it was. Method: a stalled reader of 8
/// MiB while an appender continues the object.
#[test]
fn readers_of_the_finished_object_keep_it() {
    let server = Server::start();
    let body = noise(11, 8 << 20);
    put(server.address, "/large", &body);
    let mut reader = Client::with_small_window(server.address);
    let head = reader.get("/large", "");
    assert_eq!(head.needed("content-length"), body.len().to_string());
    let mut appender = appender(server.address, "/large");
    appender.text("more");
    appender.close(1000, "");
    appender.closing();
    let mut expected = body.clone();
    expected.extend(b"more");
    assert_sealed(server.address, "/large", &expected);
    assert_same(&reader.exactly(body.len()).unwrap(), &body);
}

/// Goal: an appended object is as lasting as an uploaded one. Method: a restart after the end, one
/// with the appender still there, and each time another appender.
#[test]
fn appended_objects_survive_a_restart() {
    let mut server = Server::start();
    let mut expected = Vec::new();
    for round in 0..3_u8 {
        let mut appender = appender(server.address, "/kept/log.txt");
        let text = format!("round {round}, ");
        appender.text(&text);
        expected.extend(text.bytes());
        drop(tail(server.address, "/kept/log.txt", &expected));
        if round == 1 {
            server = server.restart();
        } else {
            appender.close(1000, "");
            appender.closing();
            assert_sealed(server.address, "/kept/log.txt", &expected);
            server = server.restart();
        }
        assert_sealed(server.address, "/kept/log.txt", &expected);
    }
}

/// Goal: what a reader has seen is there after kill -9, and can be continued. Method: kills with an
/// appender in the middle of a message, over a new object and a continued one.
#[test]
fn what_was_seen_survives_a_kill() {
    let mut server = Server::start();
    let mut expected = b"put, ".to_vec();
    put(server.address, "/kill.log", &expected);
    for round in 0..4 {
        let mut appender = appender(server.address, "/kill.log");
        for step in 0..3 {
            let data = noise(10 * round + step, 100_000);
            appender.binary(&data);
            expected.extend(data);
        }
        let reader = tail(server.address, "/kill.log", &expected);
        appender.send(BINARY, b"of a message without end");
        server = server.kill().start();
        drop((reader, appender));
        let answer = get(server.address, "/kill.log");
        assert!(answer.status == 200 && answer.complete, "{answer:?}");
        assert!(answer.field("etag").is_some() && answer.field("content-length").is_some());
        assert!(answer.body.len() >= expected.len(), "{} bytes are there", answer.body.len());
        assert_same(&answer.body[..expected.len()], &expected);
        // Nobody had seen more, but it may be there.
        expected = answer.body;
    }
}

/// Goal: SIGTERM tells appenders with a close frame, and keeps what they had appended.
#[test]
fn a_stopping_server_says_so() {
    let mut server = Server::start();
    let mut appender = appender(server.address, "/stop.log");
    appender.text("kept");
    drop(tail(server.address, "/stop.log", b"kept"));
    server.signal(Signal::TERM);
    let closing = appender.closing();
    assert!([1000, 1001, 1012].contains(&closing.code), "{closing:?}");
    assert!(server.wait().success());
    let server = server.setup.clone().start();
    assert_sealed(server.address, "/stop.log", b"kept");
}

// Others take the name.

/// Goal: a PUT takes the name over, and the appender is told why.
#[test]
fn a_put_takes_the_name_over() {
    let server = Server::start();
    let mut appender = appender(server.address, "/taken");
    appender.text("of the appender");
    let mut reader = tail(server.address, "/taken", b"of the appender");
    put(server.address, "/taken", b"of the upload");
    assert!(matches!(reader.chunk(), Chunk::Cut(_)), "an abort is no end");
    // As an uploader, it may not be told before it speaks.
    let _ = appender.try_send(FIN | TEXT, b"more");
    appender.closing().assert_refused();
    assert_sealed(server.address, "/taken", b"of the upload");
}

/// Goal: DELETE ends an appender, even one that says nothing any more, and tells it why.
#[test]
fn a_delete_ends_the_appender() {
    let server = Setup::new().key("append.ping_interval_s", "1").start();
    let mut appender = appender(server.address, "/deleted");
    appender.text("data");
    let mut reader = tail(server.address, "/deleted", b"data");
    assert_eq!(ask(server.address, "DELETE", "/deleted", "").status, 204);
    assert!(matches!(reader.chunk(), Chunk::Cut(_)), "an abort is no end");
    assert_eq!(get(server.address, "/deleted").status, 404);
    appender.closing().assert_refused();
    assert_eq!(get(server.address, "/deleted").status, 404);
    let mut again = crate::websocket_client::appender(server.address, "/deleted");
    again.text("new");
    again.close(1000, "");
    again.closing();
    assert_sealed(server.address, "/deleted", b"new");
}

/// Goal: an object that grows beyond the limit ends its appender with a reason; what was there stays.
#[test]
fn an_appender_beyond_the_limit_is_ended() {
    let server = Setup::new().key("store.object_bytes_max", "1000000").start();
    let mut appender = appender(server.address, "/limit");
    let body = noise(13, 900_000);
    appender.binary(&body);
    drop(tail(server.address, "/limit", &body));
    let _ = appender.try_send(FIN | BINARY, &noise(14, 200_000));
    appender.closing().assert_refused();
    assert_sealed(server.address, "/limit", &body);
}

// Pings and silence.

const IMPATIENT: [(&str, &str); 2] =
    [("append.ping_interval_s", "1"), ("append.idle_timeout_s", "3")];

fn impatient() -> Server {
    IMPATIENT.iter().fold(Setup::new(), |setup, (key, value)| setup.key(key, value)).start()
}

/// Goal: an appender that answers pings stays for as long as it likes; so does one that only
/// sends messages. Method: eight pings of the server, a second apart, at a limit of three.
#[test]
fn an_idle_appender_that_answers_pings_stays() {
    let server = impatient();
    let mut answers = appender(server.address, "/answers");
    let mut sends = appender(server.address, "/sends");
    for _ in 0..8 {
        let Event::Ping(payload) = answers.event() else { panic!("a ping expected") };
        answers.send(FIN | PONG, &payload);
        assert!(matches!(sends.event(), Event::Ping(_)));
        sends.text("x");
    }
    for (mut appender, target, before) in [(answers, "/answers", ""), (sends, "/sends", "xxxxxxxx")]
    {
        appender.text("still here");
        appender.close(1000, "");
        assert_eq!(appender.closing().code, 1000, "{target}");
        assert_sealed(server.address, target, format!("{before}still here").as_bytes());
    }
}

/// Goal: an appender without a sign of life is ended with a reason, and its object sealed.
#[test]
fn a_silent_appender_is_ended() {
    let server = impatient();
    let mut silent = appender(server.address, "/silent");
    silent.text("last words");
    let mut pings = 0;
    let (code, reason) = loop {
        match silent.event() {
            Event::Ping(_) => pings += 1,
            Event::Close(code, reason) => break (code, reason),
            other => panic!("{other:?}"),
        }
    };
    assert!(pings > 0 && code != NO_CODE && !reason.is_empty(), "{pings} {code} {reason:?}");
    // Nor does it say goodbye.
    assert_eq!(silent.event(), Event::End(End::Fin));
    assert_sealed(server.address, "/silent", b"last words");
    drop(appender(server.address, "/silent"));
}

// What is not RFC 6455.

/// Goal: broken frames end the connection with the code of RFC 6455 §7.4.1; whole messages before
/// them stay.
#[test]
fn broken_frames_are_told() {
    let server = Server::start();
    let mask = [9, 8, 7, 6];
    let framed = |first: u8, payload: &[u8]| frame(first, mask, payload);
    let cases = [
        ("not masked", 1002, b"\x81\x05hello".to_vec()),
        ("a reserved bit", 1002, framed(FIN | 0x40 | TEXT, b"x")),
        ("all reserved bits", 1002, framed(FIN | 0x70 | BINARY, b"x")),
        ("a reserved bit of a ping", 1002, framed(FIN | 0x10 | PING, b"")),
        ("opcode 3", 1002, framed(FIN | 3, b"x")),
        ("opcode 11", 1002, framed(FIN | 11, b"")),
        ("a ping in pieces", 1002, framed(PING, b"")),
        ("a long ping", 1002, framed(FIN | PING, &[b'x'; 126])),
        ("a long close frame", 1002, framed(FIN | 8, &close_payload(1000, &"x".repeat(124)))),
        ("a continuation of nothing", 1002, framed(FIN | CONTINUATION, b"x")),
        ("text within text", 1002, [framed(TEXT, b"x"), framed(FIN | TEXT, b"y")].concat()),
        ("half a code", 1002, framed(FIN | 8, &[3])),
        ("code 999", 1002, framed(FIN | 8, &close_payload(999, ""))),
        ("code 1005", 1002, framed(FIN | 8, &close_payload(1005, ""))),
        ("code 1006", 1002, framed(FIN | 8, &close_payload(1006, ""))),
        ("code 2000", 1002, framed(FIN | 8, &close_payload(2000, ""))),
        ("a reason that is not UTF-8", 1007, framed(FIN | 8, b"\x03\xe8\xc3\x28")),
        ("a length of 2^63", 1002, vec![FIN | BINARY, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
    ];
    for (index, (what, code, bytes)) in cases.into_iter().enumerate() {
        let target = format!("/broken/{index}");
        let mut appender = appender(server.address, &target);
        appender.text("whole");
        appender.raw(bytes);
        let closing = appender.closing();
        let accepted = if what == "a length of 2^63" { vec![1002, 1009] } else { vec![code] };
        assert!(accepted.contains(&closing.code), "{what}: {closing:?}");
        assert_sealed(server.address, &target, b"whole");
    }
}

/// Goal: a peer that sends nonsense takes nothing down. Method: random bytes after the handshake.
#[test]
fn noise_after_the_handshake_is_survived() {
    let mut server = Server::start();
    let seed = Noise::printed_seed();
    for round in 0..100 {
        let mut appender = appender(server.address, "/noise");
        let bytes = noise(seed ^ round, 1 + (seed.wrapping_add(round * 97) % 3000) as usize);
        appender.raw(bytes);
        appender.finish_sending();
        appender.drain();
        until_sealed(server.address, "/noise");
    }
    assert!(server.is_running());
}

// Media.

/// Goal: an appended MP4 below a live prefix is LL-HLS, as an uploaded one. Method: ffmpeg's output
/// in binary messages, the strict client, then the end.
#[test]
fn appended_cmaf_is_listed() {
    let server = origin("window_s = 60\n");
    let line = "-re -f lavfi -i testsrc2=size=192x108:rate=25 -t 12 -c:v libx264 -preset ultrafast \
                -tune zerolatency -sc_threshold 0 -pix_fmt yuv420p -b:v 200k -g 25 -f mp4 \
                -movflags cmaf+empty_moov+default_base_moof+separate_moof -frag_duration 200000 pipe:1";
    let pump = pump(line, appender(server.address, "/live/cam/cam.mp4"));
    let plan = Plan { tracks: 1, seconds: 6.0, ends: false };
    let found = follow(server.address, "/live/cam/", plan);
    assert!(found.iter().all(|one| one.parts > 10), "too few parts");
    until_text(server.address, "/live/cam/manifest.mpd", "an MPD", |text| text.contains("<MPD"));
    let mut appender = pump.join().unwrap();
    appender.close(1000, "");
    assert_eq!(appender.closing().code, 1000);
    until_text(server.address, "/live/cam/video.m3u8", "the end", |text| {
        text.contains("#EXT-X-ENDLIST")
    });
    let sealed = get(server.address, "/live/cam/cam.mp4");
    assert!(sealed.complete && sealed.field("etag").is_some(), "{sealed:?}");
}

// Where the door is.

/// Goal: it can be switched off: an upgrade is then an ordinary request.
#[test]
fn the_door_can_be_switched_off() {
    let server = Setup::new().key("append.enabled", "false").start();
    put(server.address, "/there", b"there");
    refused(server.address, "/there", "").assert_body(200, b"there");
    for target in ["/there", "/absent"] {
        let answer = refused(server.address, target, APPEND);
        assert!(answer.field("upgrade").is_none(), "{answer:?}");
    }
    let mut upload = Upload::open(server.address, "/open", "");
    let mut client = Client::connect(server.address);
    client.send(handshake("/open", ""));
    assert!(client.head().is_chunked());
    upload.append(b"chunk");
    assert_eq!(client.data(), b"chunk");
    get(server.address, "/there").assert_body(200, b"there");
    assert_eq!(get(server.address, "/absent").status, 404);
    assert_eq!(put_with(server.address, "/absent", "", b"").status, 201);
}

/// Goal: it can be moved below a prefix; elsewhere nothing appends or follows.
#[test]
fn the_door_can_be_moved_below_a_prefix() {
    let server = Setup::new().key("append.prefix", "\"/logs/\"").start();
    let mut inside = appender(server.address, "/logs/a.txt");
    inside.text("inside");
    drop(tail(server.address, "/logs/a.txt", b"inside"));
    refused(server.address, "/other/a.txt", APPEND);
    assert_eq!(get(server.address, "/other/a.txt").status, 404);
    inside.close(1000, "");
    inside.closing();
    assert_sealed(server.address, "/logs/a.txt", b"inside");
}

/// Goal: it can have addresses of its own; what is appended there is read everywhere.
#[test]
fn the_door_can_have_its_own_address() {
    let server = Setup::new().key("append.listen", "[\"127.0.0.1:0\"]").start();
    let own = server.door("append");
    assert_ne!(own, server.address);
    let mut there = appender(own, "/a.txt");
    there.text("there");
    let mut reader = tail(server.address, "/a.txt", b"there");
    let mut follower = WebSocket::open(own, "/a.txt", "");
    assert_eq!(follower.message().payload, b"there");
    refused(server.address, "/b.txt", APPEND);
    assert_eq!(get(server.address, "/b.txt").status, 404);
    there.close(1000, "");
    there.closing();
    assert_eq!(reader.chunk(), Chunk::Last);
    assert_eq!(follower.drain().1.code, 1000);
}

/// Goal: appenders that come and go leave nothing behind. Method: 300 of them, each way of leaving,
/// while one stays.
#[test]
fn appenders_that_leave_do_no_harm() {
    let server = Server::start();
    let mut stays = appender(server.address, "/stays");
    stays.text("0");
    let mut reader = tail(server.address, "/stays", b"0");
    let before = server.descriptors();
    for round in 1..=100 {
        let mut ends =
            [1, 2, 3].map(|number| appender(server.address, &format!("/leaves/{number}")));
        for end in &mut ends {
            end.text("data");
        }
        let [closes, drops, resets] = ends;
        let mut closes = closes;
        closes.close(1000, "");
        closes.closing();
        drop(drops);
        resets.reset();
        for number in 1..=3 {
            let target = format!("/leaves/{number}");
            until_sealed(server.address, &target);
        }
        stays.text(&format!(" {round}"));
        assert_eq!(reader.data(), format!(" {round}").as_bytes());
    }
    wait_until("the descriptors are back", || server.descriptors() <= before + 3);
    // A reset may overtake the data before it.
    for target in ["/leaves/1", "/leaves/2"] {
        get(server.address, target).assert_body(200, "data".repeat(100).as_bytes());
    }
}

/// Goal: a peer that sends without a pause, whatever it sends, leaves its core to others. Method: one
/// core, pongs and empty messages without end from appender, publisher, follower and receiver, and plain
/// requests meanwhile.
#[test]
fn a_flood_of_frames_stops_nobody() {
    let server = Setup::new().cores(1).start();
    let address = server.address;
    put(address, "/small", b"small");
    let mut witness = appender(address, "/log");
    witness.text("x");
    drop(tail(address, "/log", b"x"));
    let pong = frame(FIN | PONG, [1, 2, 3, 4], b"");
    let (text, binary) = (frame(FIN | TEXT, [0; 4], b""), frame(FIN | BINARY, [0; 4], b""));
    let floods = [
        (appender(address, "/flood"), &pong),
        (appender(address, "/empty"), &text),
        (on(address, "cam/k", "publish"), &binary),
        (on(address, "cam/k", "receive"), &text),
        (WebSocket::open(address, "/log", ""), &pong),
    ];
    for (mut socket, bytes) in floods {
        let block = bytes.repeat(4096);
        thread::spawn(move || while socket.try_send_raw(&block).is_ok() {});
    }
    for _ in 0..50 {
        get(address, "/small").assert_body(200, b"small");
    }
}
