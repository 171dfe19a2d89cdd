//! `headwater append` and `headwater follow`, and the library below them: towards httpfstream, with
//! its texts and exit codes, and towards a Headwater whose connections break at any byte.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use headwater::client::{ClientError, Options};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::FrameSocket;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{Message, WebSocket};

use crate::append_fakes::{Asked, Cut, Fake, Proxy, append, finish, follow, spawn};
use crate::client::{assert_same, get, noise};
use crate::server::{Ended, HANG, Server, wait_until};

/// Asserts exit 1 and the last line of what was said.
fn assert_failed(ended: &Ended, said: &str) {
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("headwater: ") && last.contains(said), "{said:?}: {}", ended.stderr);
}

fn assert_well(ended: &Ended) {
    assert!(ended.status.success(), "{}", ended.stderr);
}

fn close(code: u16) -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::from(code), reason: "".into() }))
}

/// The messages of a client up to its close frame, which is answered.
fn messages(socket: &mut WebSocket<impl Read + Write>) -> Vec<Message> {
    let mut all = Vec::new();
    loop {
        match socket.read().expect("it ends with a close frame") {
            Message::Close(frame) => {
                assert_eq!(frame.map(|frame| u16::from(frame.code)), Some(1000));
                let _ = socket.flush();
                return all;
            }
            message => all.push(message),
        }
    }
}

// Towards httpfstream.

/// Goal: each read of at most 32 KiB is a text message, and the end is a close frame. Method: a
/// server that is not Headwater.
#[test]
fn standard_input_becomes_text_messages() {
    let (sender, received) = channel();
    let server = Fake::start(move |_, asked| {
        let head = asked.head.clone();
        sender.send((head, messages(&mut asked.upgrade("")))).unwrap();
    });
    let text = "0123456789abcde\n".repeat(5000);
    assert_well(&append(&[&server.url(), "-H", "Authorization: Bearer x"], text.as_bytes()));
    let (head, messages) = received.recv_timeout(HANG).unwrap();
    assert!(head.starts_with("GET /f.txt HTTP/1.1\r\n"), "{head}");
    for line in ["X-Verb: APPEND", "Upgrade: websocket", "Authorization: Bearer x"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    assert!(messages.iter().all(|message| message.is_text() && message.len() <= 32 << 10));
    let texts: Vec<&str> = messages.iter().map(|message| message.to_text().unwrap()).collect();
    assert_eq!(texts.concat(), text);
    assert_eq!(server.asked(), 1);
}

/// Goal: bytes that are not UTF-8 reach httpfstream, which drops binary messages, as text, and
/// everybody as binary where that is asked for; an empty input is no message.
#[test]
fn bytes_that_are_no_text() {
    let (sender, received) = channel();
    let server = Fake::start(move |_, asked| {
        let stream = asked.upgrade("").into_inner();
        let mut frames = FrameSocket::new(stream);
        let mut opcodes = Vec::new();
        while let Ok(Some(frame)) = frames.read(None) {
            match frame.header().opcode {
                OpCode::Data(kind) => opcodes.push(kind),
                OpCode::Control(_) => break,
            }
        }
        sender.send(opcodes).unwrap();
    });
    for (arguments, input, wanted) in [
        (&[][..], &b"\xff\xfe"[..], &[Data::Text][..]),
        (&["--binary"], b"abc", &[Data::Binary]),
        (&[], b"", &[]),
    ] {
        // This server ends the connection without an answer to the close frame.
        assert_well(&append(&[&[server.url().as_str()], arguments].concat(), input));
        assert_eq!(received.recv_timeout(HANG).unwrap(), wanted, "{input:?}");
    }
}

/// Goal: an idle appender is not cut after 25 s, although httpfstream does not ping.
#[test]
fn an_idle_appender_shows_that_it_lives() {
    let (sender, received) = channel();
    let server = Fake::start(move |_, asked| {
        let mut socket = asked.upgrade("");
        sender.send(socket.read().unwrap()).unwrap();
        messages(&mut socket);
    });
    let appender = Options::default().open_append(&server.url()).unwrap();
    assert!(received.recv_timeout(HANG).unwrap().is_pong());
    assert_eq!(appender.finish().unwrap().bytes, 0);
}

/// Goal: texts and exit codes of httpfstream for answers that are no stream.
#[test]
fn refusals_are_said() {
    let server = Fake::start(|_, asked| {
        let status = asked.head.split(['/', ' ']).nth(2).unwrap().to_owned();
        asked.answer(format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nno").as_bytes());
    });
    for (status, said) in [
        (404, "file does not exist"),
        (403, "HTTP status 403"),
        (500, "HTTP status 500"),
        (301, "HTTP status 301"),
    ] {
        let url = format!("http://{}/{status}", server.address);
        assert_failed(&append(&[&url], b"x"), said);
        let (bytes, ended) = follow(&[&url]);
        assert_failed(&ended, said);
        assert!(bytes.is_empty());
    }
    let url = format!("http://{}/200", server.address);
    assert_failed(&append(&[&url], b"x"), "HTTP status 200");
    assert_eq!(server.asked(), 9, "a refusal is final");
    for url in ["http://127.0.0.1:1/f", "https://127.0.0.1:1/f"] {
        assert_failed(&append(&[url], b"x"), "cannot connect to 127.0.0.1:1");
        assert_failed(&follow(&[url]).1, "cannot connect to 127.0.0.1:1");
    }
    assert_failed(&follow(&["gopher://h/f"]).1, "is wrong");
}

/// Goal: a wrong handshake is not taken for a stream.
#[test]
fn a_wrong_handshake_is_refused() {
    let server = Fake::start(|_, asked| {
        asked.answer(
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n\x81\x01x",
        );
    });
    assert_failed(&follow(&[&server.url()]).1, "its accept key is wrong");
    assert_failed(&append(&[&server.url()], b"x"), "its accept key is wrong");
}

/// Goal: an appender whose connection breaks says so and does not try again where the server tells
/// no offsets.
#[test]
fn a_foreign_connection_is_not_resumed() {
    let server = Fake::start(|_, asked| {
        let _ = asked.upgrade("").read();
    });
    let mut appender = Options::default().open_append(&server.url()).unwrap();
    appender.write_all(b"x").unwrap();
    let lost = appender.finish();
    // The end of the connection may also come as the answer to the end of appending.
    assert!(matches!(lost, Ok(_) | Err(ClientError::Lost(_))), "{lost:?}");
    let mut appender = Options::default().open_append(&server.url()).unwrap();
    wait_until("a write fails", || appender.write_all(b"x").is_err());
    assert!(appender.write_all(b"x").is_err());
    assert_eq!(server.asked(), 2);
}

/// Goal: messages of both kinds, in fragments and empty, come out as bytes; 1000 and 1001 are ends,
/// everything else is an error, after the bytes.
#[test]
fn a_follower_tells_an_end_from_a_cut() {
    let server = Fake::start(|_, asked| {
        let code = asked.head.split(['/', ' ']).nth(2).unwrap().parse::<u16>();
        // A file as httpfstream sends it: not UTF-8, in fragments.
        let mut socket = asked.upgrade("");
        let first = b"\x01\x03a\xffb\x00\x02cd\x80\x01e\x81\x00\x89\x00";
        socket.get_mut().write_all(first).unwrap();
        socket.send(Message::text("fg")).unwrap();
        socket.send(Message::binary(b"\xfe".to_vec())).unwrap();
        assert!(socket.read().unwrap().is_pong());
        if let Ok(code) = code {
            socket.send(close(code)).unwrap();
            while socket.read().is_ok() {}
        }
    });
    for (path, said) in [
        ("1000", None),
        ("1001", None),
        ("1011", Some("the server closed the connection with code 1011")),
        ("cut", Some("the connection was lost")),
    ] {
        let (bytes, ended) = follow(&[&format!("ws://{}/{path}", server.address)]);
        assert_eq!(bytes, b"a\xffbcdefg\xfe", "{path}");
        said.map_or_else(|| assert_well(&ended), |said| assert_failed(&ended, said));
    }
    assert_eq!(server.asked(), 4);
}

/// Goal: a plain answer is the stream, in each framing, and a cut one is an error.
#[test]
fn a_plain_answer_is_the_stream() {
    let answers: [(&[u8], bool); 7] = [
        (b"Content-Length: 6\r\n\r\nabcdef", true),
        (b"Content-Length: 7\r\n\r\nabcdef", false),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n4;x\r\ncdef\r\n0\r\nT: 1\r\n\r\n", true),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n4\r\ncdef\r\n", false),
        (b"Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef", false),
        (b"\r\nabcdef", true),
        (b"Content-Length: 0\r\n\r\n", true),
    ];
    let server = Fake::start(move |index, asked| {
        asked.answer(&[b"HTTP/1.1 200 OK\r\n", answers[index].0].concat());
    });
    for (answer, is_whole) in answers {
        let (bytes, ended) = follow(&[&server.url()]);
        assert!(ended.status.success() == is_whole, "{answer:?}: {}", ended.stderr);
        let wanted: &[u8] = if answer.ends_with(b": 0\r\n\r\n") { b"" } else { b"abcdef" };
        assert_eq!(bytes, wanted);
    }
    assert_eq!(server.asked(), 7);
}

/// Goal: each message is on standard output when it has come; who stops reading ends the follower
/// quietly.
#[test]
fn output_comes_at_once_and_a_broken_pipe_is_quiet() {
    let (go_on, told) = channel();
    let told = Mutex::new(told);
    let server = Fake::start(move |_, asked| {
        let mut socket = asked.upgrade("");
        let told = told.lock().unwrap();
        while let Ok(text) = told.recv() {
            let _ = socket.send(Message::text(text));
        }
    });
    let mut child = spawn(&["follow", &server.url()]);
    let mut stdout = child.stdout.take().unwrap();
    for text in ["one", "two"] {
        go_on.send(text).unwrap();
        let mut bytes = [0; 3];
        stdout.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, text.as_bytes());
    }
    drop(stdout);
    let talker = thread::spawn(move || {
        while go_on.send("more").is_ok() && server.asked() == 1 {
            thread::sleep(Duration::from_millis(10));
        }
    });
    let (_, ended) = finish(child);
    assert_well(&ended);
    assert_eq!(ended.stderr, "");
    drop(talker);
}

// Towards Headwater.

/// An object of a Headwater that only a test has: what the contract between client and server says,
/// and no more.
#[derive(Default)]
struct Store {
    bytes: Vec<u8>,
    sessions: Vec<String>,
    messages: Vec<Message>,
    /// Connections so far: only the newest may append.
    newest: usize,
}

/// A server for appenders. Each connection may do this after each message: go on, or store only so
/// many bytes of it and break.
fn appendable(store: Arc<Mutex<Store>>, breaks: fn(usize, usize) -> Option<usize>) -> Fake {
    Fake::start(move |connection, asked| {
        assert_eq!(asked.field("Headwater-Offset"), Some("*"));
        let offset = {
            let mut store = store.lock().unwrap();
            store.sessions.push(asked.field("Headwater-Session").unwrap().to_owned());
            store.newest = store.newest.max(connection);
            store.bytes.len()
        };
        let mut socket = asked.upgrade(&format!("Headwater-Offset: {offset}\r\n"));
        let mut count = 0;
        loop {
            let Ok(message) = socket.read() else { return };
            if !(message.is_text() || message.is_binary()) {
                continue;
            }
            count += 1;
            let mut store = store.lock().unwrap();
            if store.newest != connection {
                return;
            }
            let bytes = message.clone().into_data();
            let kept = breaks(connection, count);
            store.bytes.extend_from_slice(&bytes[..kept.unwrap_or(bytes.len()).min(bytes.len())]);
            store.messages.push(message);
            if kept.is_some() {
                return;
            }
            let length = store.bytes.len().to_string();
            drop(store);
            let _ = socket.send(Message::Ping(length.into()));
        }
    })
}

/// Goal: every byte is stored once, whatever is cut. Method: a server that stores parts of messages
/// before it breaks, behind a proxy that cuts in the middle of requests, frames and answers.
#[test]
fn an_appender_is_resumed_at_the_byte() {
    let store = Arc::new(Mutex::new(Store { bytes: b"before".to_vec(), ..Store::default() }));
    let server = appendable(store.clone(), |connection, count| match (connection, count) {
        (0, 3) => Some(1000),
        (1, 1) => Some(0),
        (3, 2) => Some(31),
        _ => None,
    });
    let cuts = [
        Cut::Up(200_000),
        Cut::Up(100_000),
        Cut::Up(100),
        Cut::Down(20),
        Cut::Down(300),
        Cut::Up(50_000),
        Cut::Up(33_333),
        Cut::Up(70_001),
    ];
    let proxy = Proxy::start(server.address, &cuts);
    let input = noise(7, 1_000_000);
    let ended = append(&[&proxy.url()], &input);
    assert_well(&ended);
    assert!(ended.stderr.contains("trying again"), "{}", ended.stderr);
    assert_eq!(proxy.left(), 0, "the test cuts less than it says");
    let store = store.lock().unwrap();
    assert_same(&store.bytes, &[b"before", &input[..]].concat());
    assert_eq!(store.sessions[0].len(), 32);
    assert!(store.sessions.iter().all(|session| *session == store.sessions[0]));
    assert!(store.messages.iter().any(Message::is_binary), "noise is no text");
}

/// Goal: a text stays text when it is resumed at the end of a character.
#[test]
fn texts_are_text_messages_for_headwater_too() {
    let store = Arc::new(Mutex::new(Store::default()));
    let server = appendable(store.clone(), |connection, _| (connection == 0).then_some(2));
    let options = Options::default();
    let mut appender = options.open_append(&server.url()).unwrap();
    // The server breaks in the middle of the second character.
    for text in ["aä€", "𝄞"] {
        appender.write_all(text.as_bytes()).unwrap();
    }
    assert_eq!(appender.finish().unwrap().bytes, 10);
    let store = store.lock().unwrap();
    assert_eq!(store.bytes, "aä€𝄞".as_bytes());
    let kinds: Vec<bool> = store.messages.iter().map(Message::is_text).collect();
    assert_eq!(kinds, [true, false, true]);
}

/// Goal: what is kept for resuming has a limit, and then writing waits for the server.
#[test]
fn an_appender_waits_for_confirmation() {
    const MIB: usize = 1 << 20;
    let (confirm, told) = channel();
    let told = Mutex::new(told);
    let arrived = Arc::new(AtomicUsize::new(0));
    let count = arrived.clone();
    let server = Fake::start(move |_, asked| {
        let mut socket = asked.upgrade("Headwater-Offset: 5\r\n");
        while count.load(Ordering::SeqCst) < 16 * MIB {
            count.fetch_add(socket.read().unwrap().len(), Ordering::SeqCst);
        }
        told.lock().unwrap().recv().unwrap();
        socket.send(Message::Ping((5 + MIB).to_string().into())).unwrap();
        let messages = messages(&mut socket);
        let last = messages.iter().filter(|message| message.is_binary() || message.is_text());
        count.fetch_add(last.map(Message::len).sum(), Ordering::SeqCst);
    });
    let mut appender = Options::default().open_append(&server.url()).unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let progress = written.clone();
    let writer = thread::spawn(move || {
        for _ in 0..17 {
            progress.fetch_add(appender.write(&[7; MIB]).unwrap(), Ordering::SeqCst);
        }
        appender.finish().unwrap()
    });
    wait_until("16 MiB have arrived", || arrived.load(Ordering::SeqCst) == 16 * MIB);
    wait_until("16 MiB are written", || written.load(Ordering::SeqCst) == 16 * MIB);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(written.load(Ordering::SeqCst), 16 * MIB, "more than what may be kept");
    confirm.send(()).unwrap();
    assert_eq!(writer.join().unwrap().bytes, 17 * MIB as u64);
    wait_until("the rest has arrived", || arrived.load(Ordering::SeqCst) == 17 * MIB);
}

/// How a test's Headwater answers followers: the object it has, and from which connection on it is
/// sealed, which is then a plain answer.
fn followable(object: fn(usize) -> &'static str, bytes: Vec<u8>, sealed_from: usize) -> Fake {
    Fake::start(move |connection, asked| {
        let name = object(connection);
        let wanted = asked.number("Headwater-Offset").expect("a follower says where it is");
        assert_eq!(asked.field("Sec-WebSocket-Protocol"), Some("binary"));
        let range = (wanted > 0).then(|| format!("bytes={wanted}-"));
        assert_eq!(asked.field("Range"), range.as_deref());
        if connection >= sealed_from {
            return sealed(asked, name, &bytes, wanted);
        }
        let mut socket = asked.upgrade(&format!(
            "Headwater-Offset: {wanted}\r\nHeadwater-Object: {name}\r\n\
             Sec-WebSocket-Protocol: binary\r\n"
        ));
        let _ = socket.send(Message::binary(bytes[wanted..].to_vec()));
        let _ = socket.send(Message::text(""));
        let _ = socket.send(Message::Ping(Vec::new().into()));
        let _ = socket.send(close(1000));
        while socket.read().is_ok() {}
    })
}

fn sealed(asked: Asked, object: &str, bytes: &[u8], wanted: usize) {
    let length = bytes.len();
    let head = format!("Headwater-Object: {object}\r\nConnection: close\r\n");
    if wanted == length {
        let status = "416 Range Not Satisfiable";
        let range = format!("Content-Range: bytes */{length}\r\nContent-Length: 0\r\n");
        return asked.answer(format!("HTTP/1.1 {status}\r\n{head}{range}\r\n").as_bytes());
    }
    let (status, range) = match wanted {
        0 => ("200 OK", String::new()),
        _ => ("206 Partial", format!("Content-Range: bytes {wanted}-{}/{length}\r\n", length - 1)),
    };
    let head =
        format!("HTTP/1.1 {status}\r\n{head}{range}Content-Length: {}\r\n\r\n", length - wanted);
    asked.answer(&[head.as_bytes(), &bytes[wanted..]].concat());
}

/// Goal: every byte comes once, whatever is cut, by WebSocket and by plain answers. Method: cuts in
/// heads, frame heads and payloads, in both directions.
#[test]
fn a_follower_is_resumed_at_the_byte() {
    let bytes = noise(9, 300_000);
    let cuts = [
        Cut::Down(240),
        Cut::Down(100_000),
        Cut::Up(60),
        Cut::Down(220),
        Cut::Down(20),
        Cut::Down(77_777),
    ];
    for sealed_from in [0, 2, usize::MAX] {
        let server = followable(|_| "0123", bytes.clone(), sealed_from);
        let proxy = Proxy::start(server.address, &cuts);
        let (output, ended) = follow(&[&proxy.url()]);
        assert_well(&ended);
        assert_same(&output, &bytes);
        assert_eq!(proxy.left(), 0, "the test cuts less than it says");
    }
}

/// Goal: an object that was sealed at the very byte where a follower was cut has ended.
#[test]
fn a_follower_that_has_everything_is_told_so() {
    let server = Fake::start(|connection, asked| {
        if connection > 0 {
            return sealed(asked, "0123", b"hello", 5);
        }
        let mut socket = asked.upgrade("Headwater-Offset: 0\r\nHeadwater-Object: 0123\r\n");
        socket.send(Message::text("hello")).unwrap();
        // Going away: it comes back.
        socket.send(close(1001)).unwrap();
    });
    let (output, ended) = follow(&[&server.url()]);
    assert_well(&ended);
    assert_eq!((output, server.asked()), (b"hello".to_vec(), 2));
}

/// Goal: two objects are never mixed.
#[test]
fn a_replaced_object_is_an_error() {
    let name: fn(usize) -> &'static str = |connection| ["01", "02"][connection.min(1)];
    for sealed_from in [1, usize::MAX] {
        let bytes = noise(3, 50_000);
        let server = followable(name, bytes.clone(), sealed_from);
        let proxy = Proxy::start(server.address, &[Cut::Down(10_000)]);
        let (output, ended) = follow(&[&proxy.url()]);
        assert_failed(&ended, "the object was replaced");
        assert!(!output.is_empty() && bytes.starts_with(&output));
    }
    // An appender whose object is shorter than it was.
    let server = Fake::start(|connection, asked| {
        let offset = [10, 3][connection.min(1)];
        let mut socket = asked.upgrade(&format!("Headwater-Offset: {offset}\r\n"));
        let _ = socket.read();
    });
    assert_failed(&append(&[&server.url()], b"x"), "the object was replaced");
}

/// Goal: resuming can be switched off, and has a limit of time.
#[test]
fn attempts_have_an_end() {
    let bytes = noise(4, 50_000);
    let server = followable(|_| "01", bytes, usize::MAX);
    let proxy = Proxy::start(server.address, &[Cut::Down(10_000)]);
    assert_failed(&follow(&[&proxy.url(), "--no-resume"]).1, "the connection was lost");
    assert_eq!(server.asked(), 1);
    let cuts: Vec<Cut> = std::iter::repeat_n(Cut::Down(0), 1000).collect();
    let cuts = [&[Cut::Down(10_000)], &cuts[..]].concat();
    let proxy = Proxy::start(server.address, &cuts);
    let (_, ended) = follow(&[&proxy.url(), "--reconnect", "1"]);
    assert_failed(&ended, "no success in 1 s");
    let store = Arc::new(Mutex::new(Store::default()));
    let server = appendable(store, |_, _| Some(0));
    let ended = append(&[&server.url(), "--reconnect", "1"], b"x");
    assert_failed(&ended, "no success in 1 s");
    assert!(server.asked() > 2, "connections alone are no success, but they are attempted");
    assert_failed(&append(&[&server.url(), "--no-resume"], b"x"), "lost");
}

/// Goal: a Headwater that says nothing is lost. Method: it never pings.
#[test]
fn silence_is_a_loss() {
    let server = Fake::start(|connection, asked| {
        let mut socket = asked.upgrade("Headwater-Offset: 0\r\nHeadwater-Object: 01\r\n");
        if connection == 0 {
            let _ = socket.read();
        } else {
            socket.send(Message::text("hello")).unwrap();
            socket.send(close(1000)).unwrap();
        }
    });
    let options = Options { silence_timeout_s: 1, ..Options::default() };
    let mut text = String::new();
    options.follow(&server.url()).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), server.asked()), ("hello", 2));
}

/// Goal: an appender that is dropped has not ended in good order: no close frame.
#[test]
fn a_dropped_appender_leaves() {
    let (sender, received) = channel();
    let server = Fake::start(move |_, asked| {
        let mut socket = asked.upgrade("Headwater-Offset: 0\r\n");
        while let Ok(message) = socket.read() {
            sender.send(Some(message)).unwrap();
        }
        sender.send(None).unwrap();
    });
    let mut appender = Options::default().open_append(&server.url()).unwrap();
    appender.write_all(b"x").unwrap();
    assert_eq!(received.recv_timeout(HANG).unwrap(), Some(Message::text("x")));
    drop(appender);
    assert_eq!(received.recv_timeout(HANG).unwrap(), None);
}

/// Goal: a server's final word is not asked again. Method: it closes with 1009.
#[test]
fn a_final_close_is_an_error() {
    let server = Fake::start(|_, asked| {
        let mut socket = asked.upgrade("Headwater-Offset: 0\r\n");
        let _ = socket.read();
        socket.send(close(1009)).unwrap();
        while socket.read().is_ok() {}
    });
    let mut appender = Options::default().open_append(&server.url()).unwrap();
    appender.write_all(b"x").unwrap();
    wait_until("a write fails", || appender.write_all(b"x").is_err());
    assert_eq!(server.asked(), 1);
}

/// Goal: an end that the server could not carry out is none, and is tried again. Method: the close is
/// answered with 1011 at first.
#[test]
fn an_end_that_fails_is_tried_again() {
    let server = Fake::start(move |connection, asked| {
        let mut socket = asked.upgrade("Headwater-Offset: 0\r\n");
        let code: u16 = if connection < 2 { 1011 } else { 1000 };
        while let Ok(message) = socket.read() {
            if message.is_close() {
                let [high, low] = code.to_be_bytes();
                socket.get_mut().write_all(&[0x88, 2, high, low]).unwrap();
                return;
            }
            assert_eq!(message, Message::text("x"));
        }
    });
    for (resume, is_well) in [(false, false), (true, true)] {
        let options = Options { resume, ..Options::default() };
        let mut appender = options.open_append(&server.url()).unwrap();
        appender.write_all(b"x").unwrap();
        let ended = appender.finish();
        assert_eq!(ended.is_ok(), is_well, "{ended:?}");
        let is_told = matches!(&ended, Err(ClientError::Closed { code: Some(1011), .. }));
        assert_eq!(is_told, !is_well);
    }
    assert_eq!(server.asked(), 3);
}

/// Goal: an origin that goes away has not ended the object: to a follower that must not come back that
/// is an error, of httpfstream it is the end.
#[test]
fn going_away_is_no_end_of_an_object() {
    for (lines, is_end) in [("Headwater-Offset: 0\r\nHeadwater-Object: a\r\n", false), ("", true)] {
        let server = Fake::start(move |_, asked| {
            let mut socket = asked.upgrade(lines);
            socket.send(Message::binary("half")).unwrap();
            socket.send(close(1001)).unwrap();
            while socket.read().is_ok() {}
        });
        let options = Options { resume: false, ..Options::default() };
        let mut bytes = Vec::new();
        let outcome = options.follow(&server.url()).unwrap().read_to_end(&mut bytes);
        assert_eq!((bytes.as_slice(), outcome.is_ok()), (&b"half"[..], is_end), "{outcome:?}");
    }
}

// Between our own programs.

/// Goal: what is appended through breaking connections is stored once. Method: a proxy that cuts in
/// requests, frames and answers.
#[test]
fn the_server_resumes_appenders() {
    let server = Server::start();
    let cuts = [Cut::Up(100_000), Cut::Up(3000), Cut::Down(150), Cut::Up(200_000), Cut::Up(65_536)];
    let proxy = Proxy::start(server.address, &cuts);
    let input = noise(11, 1_500_000);
    assert_well(&append(&[&proxy.url()], &input));
    assert_eq!(proxy.left(), 0, "the test cuts less than it says");
    get(server.address, "/f.txt").assert_body(200, &input);
}

/// Goal: what is followed through breaking connections comes once, while the object is appended to
/// and from the plain answer after its end. Method: a follower whose connections are cut, and whose
/// last one may find a sealed object.
#[test]
fn the_server_resumes_followers() {
    let server = Server::start();
    let url = format!("http://{}/f.txt", server.address);
    let input = noise(13, 1_500_000);
    let mut appender = Options::default().open_append(&url).unwrap();
    appender.write_all(&input[..10_000]).unwrap();
    let cuts =
        [Cut::Down(80_000), Cut::Down(400), Cut::Up(50), Cut::Down(333_333), Cut::Down(200_000)];
    let proxy = Proxy::start(server.address, &cuts);
    let mut follower = Options::default().follow(&proxy.url()).unwrap();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        follower.read_to_end(&mut bytes).map(|_| bytes)
    });
    for message in input[10_000..].chunks(10_000) {
        appender.write_all(message).unwrap();
    }
    assert_eq!(appender.finish().unwrap().bytes, input.len() as u64);
    assert_same(&reader.join().unwrap().unwrap(), &input);
    assert_eq!(proxy.left(), 0, "the test cuts less than it says");
    let (output, ended) = follow(&[&url]);
    assert_well(&ended);
    assert_same(&output, &input);
}

/// Goal: a follower sees one object to its end, however often its appender and itself lose their
/// connections: an appender that comes back takes over, and the object is not sealed in between.
#[test]
fn appender_and_follower_are_resumed_together() {
    let server = Server::start();
    let input = noise(14, 1_500_000);
    let ups = [Cut::Up(100_000), Cut::Up(3000), Cut::Up(200_000), Cut::Up(65_536)];
    let downs = [Cut::Down(80_000), Cut::Down(333_333), Cut::Down(200_000)];
    let (up, down) = (Proxy::start(server.address, &ups), Proxy::start(server.address, &downs));
    let mut appender = Options::default().open_append(&up.url()).unwrap();
    appender.write_all(&input[..10_000]).unwrap();
    let mut follower = Options::default().follow(&down.url()).unwrap();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        follower.read_to_end(&mut bytes).map(|_| bytes)
    });
    for message in input[10_000..].chunks(10_000) {
        appender.write_all(message).unwrap();
    }
    assert_eq!(appender.finish().unwrap().bytes, input.len() as u64);
    assert_same(&reader.join().unwrap().unwrap(), &input);
    assert_eq!((up.left(), down.left()), (0, 0), "the test cuts less than it says");
    get(server.address, "/f.txt").assert_body(200, &input);
}

/// Goal: an appender survives a crash of its server. Method: SIGKILL in the middle, and a new
/// process on the same directory.
#[test]
fn an_appender_survives_a_crash_of_the_server() {
    let server = Server::start();
    let proxy = Proxy::start(server.address, &[]);
    let input = noise(12, 800_000);
    let mut appender = Options::default().open_append(&proxy.url()).unwrap();
    appender.write_all(&input[..300_000]).unwrap();
    let setup = server.kill();
    appender.write_all(&input[300_000..500_000]).unwrap();
    let server = setup.start();
    proxy.lead_to(server.address);
    appender.write_all(&input[500_000..]).unwrap();
    assert_eq!(appender.finish().unwrap().bytes, input.len() as u64);
    get(server.address, "/f.txt").assert_body(200, &input);
}

/// Goal: texts and exit codes with the real server; a second appender; going on at the end.
#[test]
fn the_server_refuses_as_httpfstream() {
    let server = Server::start();
    let url = format!("http://{}/f.txt", server.address);
    assert_failed(&follow(&[&url]).1, "file does not exist");
    let mut appender = Options::default().open_append(&url).unwrap();
    appender.write_all("één\n".as_bytes()).unwrap();
    assert_failed(&append(&[&url], b"x"), "HTTP status 403");
    appender.finish().unwrap();
    assert_well(&append(&[&url], b"two\n"));
    let (output, ended) = follow(&[&url]);
    assert_well(&ended);
    assert_eq!(output, "één\ntwo\n".as_bytes());
}
