//! FOLLOW over a WebSocket, as httpfstream has it: what there is, a marker, then each append as one
//! message, close 1000 at the end; and plain HTTP where nobody writes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::client::{Client, End, Noise, Upload, ask, assert_same, get, noise, put};
use crate::server::{Server, Setup, wait_until};
use crate::websocket_client::{
    ACCEPT, BINARY, CLOSE, CONTINUATION, Closing, Event, FIN, Frame, Message, PING, TEXT,
    WebSocket, accepted, appender, assert_sealed, close_payload, frame, handshake, letters,
    refused, tail, until_sealed,
};

pub(crate) fn follower(address: SocketAddr, target: &str) -> WebSocket {
    WebSocket::open(address, target, "")
}

/// What there was when a follower came, up to the marker.
pub(crate) fn opening(follower: &mut WebSocket) -> Vec<u8> {
    let first = follower.message();
    if first.payload.is_empty() {
        assert_eq!(first, Message::text(""));
        return Vec::new();
    }
    assert_eq!(follower.message(), Message::text(""), "the marker");
    first.payload
}

/// A follower that has got this as its opening.
fn joined(address: SocketAddr, target: &str, there: &[u8]) -> WebSocket {
    let mut follower = follower(address, target);
    assert_same(&opening(&mut follower), there);
    follower
}

fn payloads(messages: &[Message]) -> Vec<u8> {
    messages.iter().flat_map(|message| message.payload.iter().copied()).collect()
}

/// Messages until so many bytes are there.
fn bytes_of(follower: &mut WebSocket, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        bytes.extend(follower.message().payload);
    }
    bytes
}

fn end_of(mut appender: WebSocket) {
    appender.close(1000, "");
    assert_eq!(appender.closing().code, 1000);
}

const ORDERLY: Closing = Closing { code: 1000, reason: String::new(), end: End::Fin };

/// The appender is gone in good order, after these messages.
pub(crate) fn assert_ends(follower: &mut WebSocket, messages: &[Message]) {
    let (got, closing) = follower.drain();
    assert_eq!(got, messages);
    assert_eq!((closing.code, closing.end), (ORDERLY.code, ORDERLY.end), "{closing:?}");
}

// The order of things.

/// Goal: the opening of the original: what is there in one text message, an empty one, a ping at
/// once. Method: frame by frame.
#[test]
fn the_opening_is_what_is_there_a_marker_and_a_ping() {
    let server = Server::start();
    let mut appender = appender(server.address, "/log");
    let mut there = Vec::new();
    for length in [1, 10_240, 25_000, 300_000, 8 << 20] {
        let more = letters(length as u64, length);
        appender.send(FIN | TEXT, &more);
        there.extend(more);
        drop(tail(server.address, "/log", &there));
        let mut follower = follower(server.address, "/log");
        let mut frames = Vec::new();
        let marker = loop {
            let frame = follower.frame();
            if frame.opcode == PING {
                break (frames.pop(), frame);
            }
            frames.push(frame);
        };
        let empty = Frame::whole(TEXT, b"");
        assert_eq!(marker, (Some(empty), Frame::whole(PING, b"")), "{length}");
        assert_eq!(frames.iter().filter(|frame| frame.fin).count(), 1, "one message");
        let payload: Vec<u8> = frames.into_iter().flat_map(|frame| frame.payload).collect();
        assert_same(&payload, &there);
    }
}

/// Goal: of an empty object there is only the marker.
#[test]
fn nothing_there_is_no_opening() {
    let server = Server::start();
    let mut appender = appender(server.address, "/empty");
    let mut follower = follower(server.address, "/empty");
    assert_eq!(follower.frame(), Frame::whole(TEXT, b""));
    assert_eq!(follower.frame(), Frame::whole(PING, b""));
    appender.text("first");
    assert_eq!(follower.message(), Message::text("first"));
    end_of(appender);
    assert_ends(&mut follower, &[]);
}

/// Goal: a follower of an object that was there before the appender gets all of it.
#[test]
fn the_opening_has_what_others_wrote() {
    let server = Server::start();
    put(server.address, "/log", b"of an upload, ");
    let mut first = appender(server.address, "/log");
    first.text("of an appender, ");
    let mut early = joined_eventually(server.address, "/log", b"of an upload, of an appender, ");
    end_of(first);
    assert_ends(&mut early, &[]);
    let mut second = appender(server.address, "/log");
    let mut late = joined(server.address, "/log", b"of an upload, of an appender, ");
    second.text("live");
    assert_eq!(late.message(), Message::text("live"));
    end_of(second);
    assert_ends(&mut late, &[]);
}

/// Joins when all of this is there.
fn joined_eventually(address: SocketAddr, target: &str, there: &[u8]) -> WebSocket {
    drop(tail(address, target, there));
    joined(address, target, there)
}

/// Goal: the handshake's answer has exactly the fields that the original's client compares.
#[test]
fn a_follower_is_answered_as_an_appender() {
    let server = Server::start();
    let _appender = appender(server.address, "/log");
    for fields in ["", "Origin: https://elsewhere.example\r\n", "X-Verb: FOLLOW\r\n"] {
        assert_eq!(accepted(server.address, &handshake("/log", fields)), ACCEPT);
    }
}

/// Goal: each append is one message, and there before the next is sent. Method: three followers, text
/// and binary, whole and in pieces, also empty.
#[test]
fn each_append_is_one_message() {
    let server = Server::start();
    let mut appender = appender(server.address, "/steps");
    let mut followers = [0; 3].map(|_| joined(server.address, "/steps", b""));
    for step in 0..200_usize {
        let data = letters(step as u64, step * step * 2 * (step % 7) / 6);
        match step % 3 {
            0 => appender.send(FIN | TEXT, &data),
            1 => appender.binary(&data),
            _ => appender.fragments(TEXT, &[b"", &data[..data.len() / 3], &data[data.len() / 3..]]),
        }
        for follower in &mut followers {
            assert_same(&follower.message().payload, &data);
        }
    }
    end_of(appender);
    for follower in &mut followers {
        assert_ends(follower, &[]);
    }
}

#[test]
fn a_message_of_30_mib_is_one_message() {
    let server = Server::start();
    let mut appender = appender(server.address, "/large");
    let mut follower = joined(server.address, "/large", b"");
    let data = letters(1, 30 << 20);
    appender.send(FIN | TEXT, &data);
    let message = follower.message();
    assert_eq!(message.opcode, TEXT);
    assert_same(&message.payload, &data);
    joined(server.address, "/large", &data);
    end_of(appender);
    assert_ends(&mut follower, &[]);
}

/// Goal: whichever way an appender ends, its followers get everything, then 1000. Method: messages
/// and the end in one go.
#[test]
fn the_end_of_the_appender_is_1000() {
    let server = Server::start();
    let finish: fn(WebSocket) = |mut appender| {
        appender.finish_sending();
        appender.drain();
    };
    for end in [end_of, finish] {
        let mut appender = appender(server.address, "/end");
        let mut follower = follower(server.address, "/end");
        opening(&mut follower);
        let lines: Vec<_> = (0..500).map(|number| Message::text(&format!("{number}\n"))).collect();
        let mut bytes = Vec::new();
        for line in &lines {
            bytes.extend(frame(FIN | TEXT, [1, 2, 3, 4], &line.payload));
        }
        appender.raw(bytes);
        end(appender);
        assert_ends(&mut follower, &lines);
        until_sealed(server.address, "/end");
    }
    let mut appender = appender(server.address, "/end");
    let mut follower = follower(server.address, "/end");
    opening(&mut follower);
    appender.text("seen");
    assert_eq!(follower.message(), Message::text("seen"));
    appender.send(TEXT, b"not whole");
    appender.reset();
    assert_ends(&mut follower, &[]);
}

// Without an appender.

/// Goal: where nobody writes a handshake is an ordinary request: that is how the original's client
/// gets its 200. Method: several on one connection, which must go on.
#[test]
fn without_an_appender_it_is_plain_http() {
    let server = Server::start();
    put(server.address, "/there.mp4", b"0123456789");
    let etag = get(server.address, "/there.mp4").needed("etag").to_owned();
    let mut client = Client::connect(server.address);
    let mut ask = |target: &str, fields: &str| {
        client.send(handshake(target, fields));
        client.answer()
    };
    for _ in 0..2 {
        let whole = ask("/there.mp4", "");
        whole.assert_body(200, b"0123456789");
        assert_eq!(whole.needed("content-length"), "10");
        assert_eq!(whole.field("content-type"), Some("video/mp4"));
        assert!(whole.field("upgrade").is_none() && whole.field("sec-websocket-accept").is_none());
        let part = ask("/there.mp4", "Range: bytes=2-4\r\n");
        part.assert_body(206, b"234");
        assert_eq!(part.needed("content-range"), "bytes 2-4/10");
        assert_eq!(ask("/there.mp4", &format!("If-None-Match: {etag}\r\n")).status, 304);
        assert_eq!(ask("/absent", "").status, 404);
        assert_eq!(ask("/there.mp4/below", "").status, 404);
    }
    client.ask("GET", "/there.mp4", "").assert_body(200, b"0123456789");
    client.request("PUT", "/new", "Content-Length: 3\r\n");
    client.send("new");
    assert_eq!(client.answer_to("PUT").status, 201);
    // Also after an appender.
    end_of(appender(server.address, "/there.mp4"));
    until_sealed(server.address, "/there.mp4");
    refused(server.address, "/there.mp4", "").assert_body(200, b"0123456789");
}

/// Goal: a handshake of which only half is there is no follower.
#[test]
fn a_broken_handshake_does_not_follow() {
    let server = Server::start();
    let mut appender = appender(server.address, "/log");
    let good = handshake("/log", "");
    let version = "Sec-WebSocket-Version: 13\r\n";
    for request in [good.replace(version, ""), good.replace("Version: 13", "Version: 8")] {
        let mut client = Client::connect(server.address);
        client.send(request);
        assert_ne!(client.head().status, 101);
    }
    appender.text("x");
    end_of(appender);
}

// An upload over HTTP.

/// Goal: an object that is being PUT is followed too, chunk by chunk.
#[test]
fn an_upload_is_followed() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/put.txt", "");
    let mut early = joined(server.address, "/put.txt", b"");
    upload.append(b"first, ");
    assert_eq!(bytes_of(&mut early, 7), b"first, ");
    let mut late = joined(server.address, "/put.txt", b"first, ");
    for step in 0..100_usize {
        let data = letters(step as u64, 1 + step * 700);
        upload.append(&data);
        for follower in [&mut early, &mut late] {
            assert_same(&bytes_of(follower, data.len()), &data);
        }
    }
    assert_eq!(upload.seal().status, 201);
    assert_ends(&mut early, &[]);
    assert_ends(&mut late, &[]);
}

#[test]
fn an_upload_with_a_length_is_followed() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    client.request("PUT", "/length.txt", "Content-Length: 11\r\n");
    client.send("hello");
    wait_until("it is there", || ask(server.address, "HEAD", "/length.txt", "").status == 200);
    drop(tail(server.address, "/length.txt", b"hello"));
    let mut follower = joined(server.address, "/length.txt", b"hello");
    client.send(" world");
    assert_eq!(bytes_of(&mut follower, 6), b" world");
    assert_eq!(client.answer_to("PUT").status, 201);
    assert_ends(&mut follower, &[]);
}

// Text and bytes.

/// Goal: text stays text, however its characters are cut. Method: characters of one to four bytes in
/// messages cut anywhere, also to nothing; followers that come in the middle of a character.
#[test]
fn characters_are_never_torn() {
    let server = Server::start();
    let seed = Noise::printed_seed();
    let mut random = Noise::new(seed);
    for round in 0..10 {
        let target = format!("/text/{round}");
        let text = "aä€😀".repeat(20 + random.below(200)).into_bytes();
        let mut appender = appender(server.address, &target);
        let mut first = joined(server.address, &target, b"");
        let (mut sent, mut late, mut got) = (0, Vec::new(), Vec::new());
        while sent < text.len() {
            let count = random.below(7).min(text.len() - sent);
            appender.send(FIN | TEXT, &text[sent..sent + count]);
            sent += count;
            let message = first.message();
            assert_eq!(message.opcode, TEXT);
            got.extend(message.payload);
            assert!(got.len() + 3 >= sent, "{} of {sent} bytes", got.len());
            if random.below(10) == 0 {
                late.push(follower(server.address, &target));
            }
        }
        assert_same(&got, &text);
        end_of(appender);
        assert_ends(&mut first, &[]);
        for mut follower in late {
            let (messages, closing) = follower.drain();
            assert_eq!(closing.code, 1000);
            assert!(messages.iter().all(|message| message.opcode == TEXT));
            assert_same(&payloads(&messages), &text);
        }
    }
}

/// Goal: no byte is kept back for ever: what is no character in the end comes before the close.
#[test]
fn half_a_character_at_the_end_arrives() {
    let server = Server::start();
    let half = "😀".as_bytes().split_last().unwrap().1;
    let whole = [b"text ", half].concat();
    let mut appender = appender(server.address, "/half");
    let mut early = joined(server.address, "/half", b"");
    appender.send(FIN | TEXT, &whole);
    drop(tail(server.address, "/half", &whole));
    let mut late = follower(server.address, "/half");
    end_of(appender);
    for follower in [&mut early, &mut late] {
        let (messages, closing) = follower.drain();
        assert_same(&payloads(&messages), &whole);
        assert_eq!(closing.code, 1000);
    }
}

/// Goal: bytes that are no text come as they are, in a binary message. Method: such a message
/// between text, and a character that is broken off by the next message.
#[test]
fn bytes_that_are_no_text_are_binary() {
    let server = Server::start();
    let mut appender = appender(server.address, "/bytes");
    let mut early = joined(server.address, "/bytes", b"");
    appender.text("text ");
    assert_eq!(early.message(), Message::text("text "));
    let bytes = noise(3, 100_000);
    for opcode in [BINARY, TEXT] {
        appender.send(FIN | opcode, &bytes);
        let message = early.message();
        assert_eq!(message.opcode, BINARY);
        assert_same(&message.payload, &bytes);
    }
    let mut expected = [b"text ", &bytes[..], &bytes].concat();
    drop(tail(server.address, "/bytes", &expected));
    let mut late = follower(server.address, "/bytes");
    let first = late.message();
    assert_eq!(first.opcode, BINARY);
    assert_same(&first.payload, &expected);
    assert!(late.message().payload.is_empty(), "the marker");
    appender.send(FIN | TEXT, b"half \xe2\x82");
    appender.send(FIN | TEXT, b"broken off");
    appender.send(FIN | TEXT, b", text");
    end_of(appender);
    let rest = b"half \xe2\x82broken off, text";
    expected.extend(rest);
    for follower in [&mut early, &mut late] {
        let (messages, closing) = follower.drain();
        assert_eq!((messages.len(), closing.code), (3, 1000), "{messages:?}");
        assert_same(&payloads(&messages), rest);
    }
    assert_sealed(server.address, "/bytes", &expected);
}

/// Goal: a follower that asks for binary gets nothing else, and is told.
#[test]
fn the_subprotocol_binary_makes_all_binary() {
    let server = Server::start();
    let mut appender = appender(server.address, "/binary");
    appender.text("there");
    drop(tail(server.address, "/binary", b"there"));
    let open = |offer: &str| {
        let fields = format!("Sec-WebSocket-Protocol: {offer}\r\n");
        WebSocket::open(server.address, "/binary", &fields)
    };
    let mut asked = [open("binary"), open("chat, binary"), open("binary,chat")];
    for follower in &mut asked {
        assert_eq!(follower.protocol.as_deref(), Some("binary"));
        assert_eq!(follower.message(), Message::binary(b"there"));
        assert_eq!(follower.message(), Message::binary(b""), "the marker");
    }
    let mut other = open("chat");
    assert_eq!(other.protocol, None);
    assert_eq!(other.message(), Message::text("there"));
    assert_eq!(other.message(), Message::text(""), "the marker");
    for bytes in [&b"text"[..], b"\xe2", b"\x82\xac", b""] {
        appender.send(FIN | TEXT, bytes);
        for follower in &mut asked {
            assert_eq!(follower.message(), Message::binary(bytes));
        }
    }
    end_of(appender);
    for follower in &mut asked {
        assert_ends(follower, &[]);
    }
    assert_same(&payloads(&other.drain().0), "text€".as_bytes());
}

// Many, slow and coming and going.

/// The line with this number; its length follows from it.
fn line(number: usize) -> String {
    format!("{number} {}\n", "x".repeat(number * 7919 % 211))
}

/// Follows to the end; the opening is lines, each message one, none twice, none missing.
fn assert_follows_lines(mut follower: WebSocket, count: usize) -> usize {
    let there = String::from_utf8(opening(&mut follower)).unwrap();
    let known = there.lines().count();
    let expected: String = (0..known).map(line).collect();
    assert!(there == expected, "the opening is not {known} lines");
    let (messages, closing) = follower.drain();
    assert_eq!(closing.code, 1000);
    assert_eq!(known + messages.len(), count, "{known} were there");
    for (index, message) in messages.iter().enumerate() {
        assert_eq!(*message, Message::text(&line(known + index)));
    }
    known
}

/// Goal: a follower gets every byte once, whenever it comes; the original could send some twice.
/// Method: 30 followers that join at any moment of a running appender.
#[test]
fn followers_get_every_message_once() {
    let server = Setup::new().cores(4).start();
    let address = server.address;
    let mut random = Noise::new(Noise::printed_seed());
    let all_are_there = AtomicBool::new(false);
    let mut appender = appender(address, "/lines");
    thread::scope(|scope| {
        let all_are_there = &all_are_there;
        let writer = scope.spawn(move || {
            let mut count = 0;
            while count < 500 || !all_are_there.load(Ordering::Relaxed) {
                appender.text(&line(count));
                count += 1;
                thread::sleep(Duration::from_millis(1));
            }
            end_of(appender);
            count
        });
        let followers = (0..30).map(|_| {
            thread::sleep(Duration::from_micros(random.below(15_000) as u64));
            follower(address, "/lines")
        });
        let followers: Vec<_> = followers.collect();
        all_are_there.store(true, Ordering::Relaxed);
        let count = writer.join().unwrap();
        let mut known: Vec<_> =
            followers.into_iter().map(|follower| assert_follows_lines(follower, count)).collect();
        known.dedup();
        assert!(known.len() > 5, "all came at the same moments: {known:?}");
    });
}

/// Goal: a hundred followers of one appender, on all cores, each with everything.
#[test]
fn a_hundred_followers() {
    let server = Setup::new().cores(4).start();
    let mut appender = appender(server.address, "/hundred");
    appender.text("there");
    drop(tail(server.address, "/hundred", b"there"));
    let mut followers: Vec<_> =
        (0..100).map(|_| joined(server.address, "/hundred", b"there")).collect();
    let messages: Vec<_> =
        (0..60).map(|number| Message { opcode: TEXT, payload: letters(number, 4096) }).collect();
    for message in &messages {
        appender.send(FIN | TEXT, &message.payload);
    }
    end_of(appender);
    for follower in &mut followers {
        assert_ends(follower, &messages);
    }
}

/// Goal: a follower that reads nothing hurts nobody, and still gets everything when it reads. The
/// original stops all at 7.3 MB. Method: 16 MiB to one that stalls, one that reads, and curl's way.
#[test]
fn a_stalled_follower_hurts_nobody() {
    let server = Server::start();
    let address = server.address;
    let mut appender = appender(address, "/stall");
    let small = Client::with_small_window(address);
    let mut stalled = WebSocket::over(small, "/stall", "");
    let mut reads = joined(address, "/stall", b"");
    let plain = thread::spawn(move || get(address, "/stall"));
    let messages: Vec<_> = (0..4096).map(|number| letters(number, 4096)).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            messages.iter().for_each(|message| appender.send(FIN | TEXT, message));
        });
        for message in &messages {
            assert_same(&reads.message().payload, message);
        }
    });
    end_of(appender);
    assert_ends(&mut reads, &[]);
    plain.join().unwrap().assert_body(200, &messages.concat());
    assert!(opening(&mut stalled).is_empty());
    let (got, closing) = stalled.drain();
    assert_eq!((got.len(), closing.code), (messages.len(), 1000));
    assert_same(&payloads(&got), &messages.concat());
}

/// Goal: followers that leave in mid-stream do not touch the appender, each other, or the server's
/// descriptors.
#[test]
fn followers_that_leave_do_no_harm() {
    let server = Server::start();
    let mut appender = appender(server.address, "/leave");
    let mut stays = joined(server.address, "/leave", b"");
    let (before, mut count) = (server.descriptors(), 0);
    for round in 0..100 {
        let mut leaving: Vec<_> = (0..4).map(|_| follower(server.address, "/leave")).collect();
        appender.text(&line(count));
        assert_eq!(stays.message(), Message::text(&line(count)));
        count += 1;
        leaving.pop().unwrap().reset();
        let mut closes = leaving.pop().unwrap();
        closes.close(1001, "leaving");
        let (_, closing) = closes.drain();
        assert_eq!((closing.code, closing.end), (1001, End::Fin), "{round}");
        if round % 2 == 0 {
            opening(&mut leaving[0]);
        }
    }
    wait_until("the descriptors are back", || server.descriptors() <= before);
    end_of(appender);
    assert_ends(&mut stays, &[]);
    get(server.address, "/leave")
        .assert_body(200, (0..count).map(line).collect::<String>().as_bytes());
}

/// Goal: two bytes that are no text at the end of a text are not held back as the beginning of a
/// character, nor sent as text.
#[test]
fn a_short_binary_end_is_no_text() {
    let server = Server::start();
    let mut appender = appender(server.address, "/mixed");
    appender.text("abcdefghij");
    drop(tail(server.address, "/mixed", b"abcdefghij"));
    appender.send(FIN | BINARY, b"\xff\xfe");
    drop(tail(server.address, "/mixed", b"abcdefghij\xff\xfe"));
    let mut late = follower(server.address, "/mixed");
    let whole = Message { opcode: BINARY, payload: b"abcdefghij\xff\xfe".to_vec() };
    assert_eq!((late.message(), late.message()), (whole, Message::text("")));
    appender.text("hello");
    assert_eq!(late.message(), Message::text("hello"));
}

/// Goal: who comes late to a text whose beginning is gone gets text, from a whole character on. Method: a
/// window, and messages that cut characters.
#[test]
fn a_trimmed_text_begins_with_a_whole_character() {
    let server = Setup::new()
        .key("store.extent_bytes", "65536")
        .table("[[retention]]\nprefix = \"/cam/\"\nwindow_bytes = 131072")
        .start();
    let mut appender = appender(server.address, "/cam/log");
    let mut witness = joined(server.address, "/cam/log", b"");
    let text = "€".repeat(1000);
    let mut sent = 0;
    while sent < 1 << 20 {
        let (head, rest) = text.as_bytes().split_at(1000);
        appender.send(FIN | TEXT, head);
        appender.send(FIN | TEXT, rest);
        sent += text.len();
        assert_eq!(bytes_of(&mut witness, text.len()).len(), text.len());
    }
    let mut late = follower(server.address, "/cam/log");
    let first = late.message();
    assert_eq!(first.opcode, TEXT);
    let shown = std::str::from_utf8(&first.payload).expect("text is UTF-8");
    assert!(shown.len() > 65536 && shown.chars().all(|letter| letter == '€'), "{}", shown.len());
    end_of(appender);
}

// What a follower says.

/// Goal: a follower is pinged from the start, and need not answer. Method: six pings a second apart,
/// at a limit of three seconds for appenders.
#[test]
fn followers_are_pinged_and_need_not_answer() {
    let setup = Setup::new().key("append.ping_interval_s", "1");
    let server = setup.key("append.idle_timeout_s", "3").start();
    let mut appender = appender(server.address, "/pings");
    let mut follower = follower(server.address, "/pings");
    assert_eq!(follower.event(), Event::Message(Message::text("")));
    let mut pings = 0;
    while pings < 6 {
        match follower.event() {
            Event::Ping(payload) => {
                assert!(payload.is_empty(), "{payload:?}");
                pings += 1;
                appender.text("x");
            }
            other => assert_eq!(other, Event::Message(Message::text("x"))),
        }
    }
    end_of(appender);
    assert_eq!(follower.drain().1.code, 1000);
    assert_sealed(server.address, "/pings", b"xxxxxx");
}

/// Goal: who gets message after message is pinged too, once per interval. Method: a message every
/// 20 ms, pings each second, until three are there.
#[test]
fn pings_come_among_messages() {
    let server = Setup::new().key("append.ping_interval_s", "1").start();
    let mut appender = appender(server.address, "/busy");
    let mut follower = joined(server.address, "/busy", b"");
    assert_eq!(follower.event(), Event::Ping(Vec::new()), "the one at once");
    let (mut pings, mut messages) = (Vec::new(), 0);
    while pings.len() < 3 {
        appender.text("x");
        messages += 1;
        while follower.event() != Event::Message(Message::text("x")) {
            pings.push(messages);
        }
        thread::sleep(Duration::from_millis(20));
    }
    // 45 messages fit between two at most; on a slow machine there are fewer.
    assert!(pings[0] > 1 && pings[1] > pings[0] && pings[2] > pings[1], "{pings:?}");
    end_of(appender);
    assert_ends(&mut follower, &[]);
}

/// Goal: pings are answered, messages of a follower are nobody's, and a close frame ends it.
#[test]
fn a_follower_is_answered_but_not_heard() {
    let server = Server::start();
    let mut appender = appender(server.address, "/heard");
    let mut speaks = joined(server.address, "/heard", b"");
    let mut silent = joined(server.address, "/heard", b"");
    speaks.text("not for the object");
    speaks.binary(&noise(1, 100_000));
    speaks.fragments(TEXT, &[b"not", b" this"]);
    speaks.send(FIN | PING, b"are you there");
    speaks.assert_pong(b"are you there");
    speaks.send(BINARY, b"in a message");
    speaks.send(FIN | PING, b"");
    speaks.assert_pong(b"");
    speaks.send(FIN | CONTINUATION, b"");
    appender.text("for all");
    for follower in [&mut speaks, &mut silent] {
        assert_eq!(follower.message(), Message::text("for all"));
    }
    speaks.close(1000, "");
    assert_eq!(speaks.closing(), ORDERLY);
    appender.text(", more");
    assert_eq!(silent.message(), Message::text(", more"));
    end_of(appender);
    assert_ends(&mut silent, &[]);
    assert_sealed(server.address, "/heard", b"for all, more");
}

/// Goal: broken frames of a follower end it with 1002, and nobody else.
#[test]
fn broken_frames_of_a_follower_are_1002() {
    let server = Server::start();
    let mut appender = appender(server.address, "/broken");
    let mut stays = joined(server.address, "/broken", b"");
    let mask = [4, 3, 2, 1];
    for (what, bytes) in [
        ("not masked", b"\x81\x01x".to_vec()),
        ("a reserved bit", frame(FIN | 0x20 | TEXT, mask, b"x")),
        ("a reserved opcode", frame(FIN | 5, mask, b"x")),
        ("a ping in pieces", frame(PING, mask, b"")),
        ("a long ping", frame(FIN | PING, mask, &[0; 126])),
        ("a continuation of nothing", frame(FIN | CONTINUATION, mask, b"x")),
        ("half a code", frame(FIN | CLOSE, mask, b"x")),
        ("a code that is none", frame(FIN | CLOSE, mask, &close_payload(1006, ""))),
    ] {
        let mut broken = follower(server.address, "/broken");
        broken.raw(bytes);
        let (_, closing) = broken.drain();
        assert_eq!(closing.code, 1002, "{what}: {closing:?}");
        appender.text(what);
        assert_eq!(stays.message(), Message::text(what));
    }
    end_of(appender);
    assert_ends(&mut stays, &[]);
}

// Aborts.

/// Goal: what is cut does not look complete: no 1000. Method: DELETE and PUT over an appender, and an
/// upload that is lost.
#[test]
fn an_abort_is_not_1000() {
    let server = Server::start();
    let address = server.address;
    let taken: [fn(SocketAddr); 2] = [
        |address| assert_eq!(ask(address, "DELETE", "/abort", "").status, 204),
        |address| drop(put(address, "/abort", b"of another")),
    ];
    for take in taken {
        let mut appender = appender(address, "/abort");
        appender.text("data");
        let mut follower = joined_eventually(address, "/abort", b"data");
        take(address);
        follower.closing().assert_refused();
    }
    let ways: [fn(Upload); 3] = [drop, Upload::cut, |upload| upload.client.reset()];
    for way in ways {
        let mut upload = Upload::open(address, "/torn", "");
        upload.append(b"data");
        let mut follower = joined_eventually(address, "/torn", b"data");
        way(upload);
        // What came of the last chunk may have been passed on.
        follower.drain().1.assert_refused();
        wait_until("it is gone", || get(address, "/torn").status == 404);
    }
}

/// Goal: SIGTERM does not leave followers with half a connection.
#[test]
fn a_stopping_server_tells_followers() {
    let mut server = Server::start();
    let _appender = appender(server.address, "/stop");
    let mut follower = joined(server.address, "/stop", b"");
    server.signal(Signal::TERM);
    let closing = follower.closing();
    assert!([1000, 1001, 1012].contains(&closing.code), "{closing:?}");
    assert!(server.wait().success());
}
