//! WebSocket libraries that others use, on both sides of the doors: tungstenite of Rust and `ws` of
//! Node; and one protocol in, another out: PUT, curl.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tungstenite::client::ClientRequestBuilder;
use tungstenite::protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode};
use tungstenite::{Error, Message};

use crate::client::{Client, Upload, assert_same, noise};
use crate::server::{HANG, Server, needs, wait_for_child};
use crate::websocket_client::{
    appender, assert_sealed, chunk, letters, number_of, numbered, on, publish, tail,
};

// tungstenite.

type Socket = tungstenite::WebSocket<TcpStream>;

/// A connection with these further fields; "protocol" is a subprotocol, which must be granted.
fn tungstenite(address: SocketAddr, target: &str, fields: &[(&str, &str)]) -> Socket {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut request = ClientRequestBuilder::new(format!("ws://{address}{target}").parse().unwrap());
    for (name, value) in fields {
        request = match *name {
            "protocol" => request.with_sub_protocol(*value),
            _ => request.with_header(*name, *value),
        };
    }
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    tungstenite::client::client_with_config(request, stream, Some(config)).unwrap().0
}

/// The next message; tungstenite answers pings by itself.
fn message(socket: &mut Socket) -> Message {
    loop {
        match socket.read().unwrap() {
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Text(text) if text.as_str() == "h" => {}
            other => return other,
        }
    }
}

/// The close frame that comes next, and the end behind it.
fn closed(socket: &mut Socket) -> CloseFrame {
    let Message::Close(Some(close)) = message(socket) else { panic!("a close frame expected") };
    loop {
        match socket.read() {
            Ok(_) => {}
            Err(Error::ConnectionClosed) => return close,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Closes with 1000, and waits for the echo.
fn close(socket: &mut Socket) {
    let reason = "".into();
    socket.close(Some(CloseFrame { code: CloseCode::Normal, reason })).unwrap();
    loop {
        match socket.read() {
            Ok(_) => {}
            Err(Error::ConnectionClosed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Goal: tungstenite appends and follows. Method: text, long text and bytes; the opening, the marker,
/// the messages, the close frame.
#[test]
fn tungstenite_appends_and_follows() {
    let server = Server::start();
    let mut appends = tungstenite(server.address, "/log", &[("X-Verb", "APPEND")]);
    appends.send(Message::text("there, ")).unwrap();
    drop(tail(server.address, "/log", b"there, "));
    let mut follows = tungstenite(server.address, "/log", &[]);
    let mut binary = tungstenite(server.address, "/log", &[("protocol", "binary")]);
    assert_eq!(message(&mut follows), Message::text("there, "));
    assert_eq!(message(&mut follows), Message::text(""));
    assert_eq!(message(&mut binary), Message::binary(&b"there, "[..]));
    assert_eq!(message(&mut binary), Message::binary(&b""[..]));
    let long = String::from_utf8(letters(1, 5 << 20)).unwrap();
    let bytes = [b"\xff", &noise(2, 100_000)[..]].concat();
    for sent in [Message::text("ä€😀"), Message::text(&*long), Message::binary(bytes.clone())]
    {
        appends.send(sent.clone()).unwrap();
        assert!(message(&mut follows) == sent, "not as it was sent");
        assert!(message(&mut binary).into_data() == sent.into_data(), "not as it was sent");
    }
    close(&mut appends);
    for follower in [&mut follows, &mut binary] {
        assert_eq!(closed(follower).code, CloseCode::Normal);
    }
    let expected = ["there, ä€😀".as_bytes(), long.as_bytes(), &bytes].concat();
    assert_sealed(server.address, "/log", &expected);
}

/// Goal: tungstenite publishes, receives and probes.
#[test]
fn tungstenite_publishes_and_receives() {
    let server = Server::start();
    let mut waits = tungstenite(server.address, "/cam/key/receive", &[]);
    let mut wrong = tungstenite(server.address, "/cam/wrong/receive", &[]);
    let mut publishes = tungstenite(server.address, "/cam/key/publish", &[]);
    let chunks = [noise(1, 10), Vec::new(), noise(2, 5 << 20), noise(3, 125)];
    for chunk in &chunks {
        publishes.send(Message::text("h")).unwrap();
        publishes.send(Message::binary(chunk.clone())).unwrap();
        assert!(message(&mut waits) == Message::binary(chunk.clone()), "not as it was sent");
    }
    let mut late = tungstenite(server.address, "/cam/key/receive", &[]);
    for chunk in &chunks {
        assert!(message(&mut late) == Message::binary(chunk.clone()), "not as it was sent");
    }
    let mut probes = tungstenite(server.address, "/cam/key/probe", &[]);
    assert_eq!(message(&mut probes), Message::binary(chunks[0].clone()));
    assert!(!closed(&mut probes).reason.is_empty());
    assert_eq!(message(&mut wrong), Message::text("ERROR: Invalid streaming key"));
    assert!(!closed(&mut wrong).reason.is_empty());
    close(&mut publishes);
    for receiver in [&mut waits, &mut late] {
        assert!(!closed(receiver).reason.is_empty());
    }
}

// Node.

/// A process with one WebSocket of the library `ws`.
struct Node {
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    /// Starts it; the handshake may fail.
    fn start(mode: &str, address: SocketAddr, target: &str, protocol: &str) -> Node {
        needs("node");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/websocket");
        let library: PathBuf = folder.join("node_modules/ws");
        assert!(library.is_dir(), "{} is missing; run scripts/check", library.display());
        let url = format!("ws://{address}{target}");
        let mut command = Command::new("node");
        command.arg(folder.join("peer.mjs")).args([mode, &*url]);
        command.args(Some(protocol).filter(|protocol| !protocol.is_empty()));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node starts");
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in output.lines() {
                let Ok(line) = line else { return };
                // The test may have what it wanted.
                let _ = sender.send(line);
            }
        });
        Node { input: child.stdin.take(), child, lines }
    }

    /// Starts it and waits until its WebSocket is open.
    fn open(mode: &str, address: SocketAddr, target: &str, protocol: &str) -> Node {
        let node = Node::start(mode, address, target, protocol);
        assert_eq!(node.next(), json!({"open": true, "protocol": protocol}), "{target}");
        node
    }

    /// What it says next, but heartbeats.
    fn next(&self) -> Value {
        loop {
            let line = self.lines.recv_timeout(HANG).expect("node says no more");
            let value: Value = serde_json::from_str(&line).unwrap();
            if value != json!({"text": "h"}) {
                return value;
            }
        }
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.input.as_mut().unwrap(), "{message}").unwrap();
    }

    /// Closes its WebSocket; the close frame that it got.
    fn finish(mut self) -> Value {
        self.input = None;
        loop {
            let said = self.next();
            if said["closed"].is_u64() {
                assert!(wait_for_child(&mut self.child, "node did not end").success());
                return said;
            }
        }
    }
}

fn binary(bytes: &[u8]) -> Value {
    json!({"binary": BASE64.encode(bytes)})
}

/// Goal: `ws` appends and follows, as text and as binary.
#[test]
fn node_appends_and_follows() {
    let server = Server::start();
    let mut appends = Node::open("send", server.address, "/log?verb=APPEND", "");
    let follows = Node::open("listen", server.address, "/log", "");
    let takes_bytes = Node::open("listen", server.address, "/log", "binary");
    assert_eq!(follows.next(), json!({"text": ""}));
    assert_eq!(takes_bytes.next(), binary(b""));
    let long = String::from_utf8(letters(1, 1 << 20)).unwrap();
    let bytes = [b"\xff", &noise(2, 100_000)[..]].concat();
    for text in ["ä€😀", "", &long] {
        appends.send(&json!({"text": text}));
        assert!(follows.next() == json!({"text": text}), "not as it was sent");
        assert!(takes_bytes.next() == binary(text.as_bytes()), "not as it was sent");
    }
    appends.send(&binary(&bytes));
    for listener in [&follows, &takes_bytes] {
        assert!(listener.next() == binary(&bytes), "not as it was sent");
    }
    let second = Node::start("send", server.address, "/log?verb=APPEND", "");
    let text = "addWriter: path already has an active writer\n";
    assert_eq!(second.next(), json!({"status": 403, "body": text}));
    assert_eq!(appends.finish()["closed"], 1000);
    for listener in [follows, takes_bytes] {
        assert_eq!(listener.next()["closed"], 1000);
    }
    let expected = ["ä€😀".as_bytes(), long.as_bytes(), &bytes].concat();
    assert_sealed(server.address, "/log", &expected);
    let late = Node::start("listen", server.address, "/log", "");
    assert_eq!(late.next()["status"], 200);
}

/// Goal: `ws` publishes, receives and probes.
#[test]
fn node_publishes_and_receives() {
    let server = Server::start();
    let waits = Node::open("listen", server.address, "/cam/key/receive", "");
    let mut publishes = Node::open("send", server.address, "/cam/key/publish", "");
    let chunks = [noise(1, 10), Vec::new(), noise(2, 1 << 20), noise(3, 125)];
    for chunk in &chunks {
        publishes.send(&json!({"text": "h"}));
        publishes.send(&binary(chunk));
        assert!(waits.next() == binary(chunk), "not as it was sent");
    }
    let late = Node::open("listen", server.address, "/cam/key/receive", "");
    for chunk in &chunks {
        assert!(late.next() == binary(chunk), "not as it was sent");
    }
    let probes = Node::open("listen", server.address, "/cam/key/probe", "");
    assert_eq!(probes.next(), binary(&chunks[0]));
    let closed = |node: &Node| {
        let said = node.next();
        assert!(said["closed"].as_u64().is_some_and(|code| ![1005, 1006].contains(&code)));
        assert!(said["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{said}");
    };
    closed(&probes);
    let wrong = Node::open("listen", server.address, "/cam/wrong/receive", "");
    assert_eq!(wrong.next(), json!({"text": "ERROR: Invalid streaming key"}));
    closed(&wrong);
    let second = Node::start("send", server.address, "/cam/key/publish", "");
    assert_eq!(second.next(), json!({"status": 403, "body": "Already publishing."}));
    assert_eq!(publishes.finish()["closed"], 1000);
    [&waits, &late].into_iter().for_each(closed);
}

/// Goal: the libraries understand each other through the server.
#[test]
fn one_library_in_and_another_out() {
    let server = Server::start();
    let mut appends = Node::open("send", server.address, "/log?verb=APPEND", "");
    let mut follows = tungstenite(server.address, "/log", &[]);
    assert_eq!(message(&mut follows), Message::text(""));
    appends.send(&json!({"text": "from node"}));
    assert_eq!(message(&mut follows), Message::text("from node"));
    assert_eq!(appends.finish()["closed"], 1000);
    assert_eq!(closed(&mut follows).code, CloseCode::Normal);

    let receives = Node::open("listen", server.address, "/cam/key/receive", "");
    let mut publishes = tungstenite(server.address, "/cam/key/publish", &[]);
    publishes.send(Message::binary(&b"from tungstenite"[..])).unwrap();
    assert_eq!(receives.next(), binary(b"from tungstenite"));
    close(&mut publishes);
    assert!(receives.next()["closed"].is_u64());
}

// One protocol in, another out.

/// curl that prints what it gets at once.
struct Curl(Child);

impl Drop for Curl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Curl {
    fn get(server: &Server, target: &str) -> Curl {
        needs("curl");
        let mut command = Command::new("curl");
        command.args(["-sSN", "--fail", "--max-time", &HANG.as_secs().to_string()]);
        command.arg(format!("http://{}{target}", server.address));
        Curl(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Exactly this is printed next.
    fn assert_prints(&mut self, expected: &[u8]) {
        let mut bytes = vec![0; expected.len()];
        self.0.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
        assert_same(&bytes, expected);
    }

    fn assert_ends_well(mut self) {
        let mut rest = Vec::new();
        self.0.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{} bytes more", rest.len());
        assert!(wait_for_child(&mut self.0, "curl did not end").success());
    }
}

/// Goal: what is PUT is followed by both libraries while it comes.
#[test]
fn a_put_is_followed_by_libraries() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/put.txt", "");
    let mut rust = tungstenite(server.address, "/put.txt", &[]);
    let node = Node::open("listen", server.address, "/put.txt", "");
    assert_eq!(message(&mut rust), Message::text(""));
    assert_eq!(node.next(), json!({"text": ""}));
    for text in ["first", "zweites ä"] {
        upload.append(text.as_bytes());
        assert_eq!(message(&mut rust), Message::text(text));
        assert_eq!(node.next(), json!({"text": text}));
    }
    assert_eq!(upload.seal().status, 201);
    assert_eq!(closed(&mut rust).code, CloseCode::Normal);
    assert_eq!(node.next()["closed"], 1000);
}

/// Goal: what is appended over a WebSocket is tailed with curl.
#[test]
fn an_append_is_tailed_by_curl() {
    let server = Server::start();
    let mut node = Node::open("send", server.address, "/log?verb=APPEND", "");
    node.send(&json!({"text": "there, "}));
    drop(tail(server.address, "/log", b"there, "));
    let mut curl = Curl::get(&server, "/log");
    curl.assert_prints(b"there, ");
    for step in 0..20 {
        let text = String::from_utf8(letters(step, 1 + 3000 * step as usize)).unwrap();
        node.send(&json!({"text": text}));
        curl.assert_prints(text.as_bytes());
    }
    assert_eq!(node.finish()["closed"], 1000);
    curl.assert_ends_well();
}

/// Goal: what is published into a channel is read by curl and by a plain client, with the cache first.
#[test]
fn a_channel_is_read_by_curl() {
    let server = Server::start();
    let mut publisher = on(server.address, "cam/key", "publish");
    let mut witness = on(server.address, "cam/key", "receive");
    for number in 0..5 {
        publish(&mut publisher, &mut witness, &numbered(number, 1000));
    }
    let mut curl = Curl::get(&server, "/cam/key/receive");
    let mut plain = Client::connect(server.address);
    assert_eq!(plain.get("/cam/key/receive", "").status, 200);
    for number in 0..20 {
        if number >= 5 {
            publish(&mut publisher, &mut witness, &numbered(number, 1000));
        }
        curl.assert_prints(&numbered(number, 1000));
    }
    publisher.close(1000, "");
    publisher.closing();
    curl.assert_ends_well();
    let all: Vec<u8> = (0..20).flat_map(|number| numbered(number, 1000)).collect();
    assert_same(&plain.data_of(all.len()), &all);
}

/// Goal: a raw appender is followed by both libraries and tailed by curl at once, all the same.
#[test]
fn all_readers_get_the_same() {
    let server = Server::start();
    let mut raw = appender(server.address, "/all");
    raw.text("0");
    drop(tail(server.address, "/all", b"0"));
    let mut rust = tungstenite(server.address, "/all", &[("protocol", "binary")]);
    let node = Node::open("listen", server.address, "/all", "binary");
    let mut curl = Curl::get(&server, "/all");
    assert_eq!(message(&mut rust), Message::binary(&b"0"[..]));
    assert_eq!(message(&mut rust), Message::binary(&b""[..]));
    assert_eq!((node.next(), node.next()), (binary(b"0"), binary(b"")));
    curl.assert_prints(b"0");
    for step in 1..30 {
        let data = noise(step, 1000 * step as usize);
        raw.binary(&data);
        assert!(message(&mut rust) == Message::binary(data.clone()), "not as it was sent");
        assert!(node.next() == binary(&data), "not as it was sent");
        curl.assert_prints(&data);
    }
    raw.close(1000, "");
    raw.closing();
    assert_eq!(closed(&mut rust).code, CloseCode::Normal);
    assert_eq!(node.next()["closed"], 1000);
    curl.assert_ends_well();
}

/// Goal: channels are relayed between libraries, each chunk once. Method: numbered chunks of Node to a
/// raw receiver and to tungstenite.
#[test]
fn a_channel_of_node_reaches_all() {
    let server = Server::start();
    let mut raw = on(server.address, "cam/key", "receive");
    let mut rust = tungstenite(server.address, "/cam/key/receive", &[]);
    let mut node = Node::open("send", server.address, "/cam/key/publish", "");
    for number in 0..200 {
        node.send(&binary(&numbered(number, 1000)));
    }
    for number in 0..200 {
        assert_eq!(number_of(&chunk(&mut raw)), number);
        assert_eq!(number_of(&message(&mut rust).into_data()), number);
    }
    assert_eq!(node.finish()["closed"], 1000);
    raw.closing().assert_told();
    assert!(!closed(&mut rust).reason.is_empty());
}
