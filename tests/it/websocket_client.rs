//! A raw RFC 6455 client: sends exactly the frames it is told, broken ones too, and reads frame by
//! frame; and what the tests of the WebSocket doors share.
//!
//! It knows no library and nothing of the server's code. It refuses what a client must refuse:
//! masked frames, reserved bits and opcodes, lengths that are not the shortest, control frames that
//! are long or in pieces, messages within messages, text that is not UTF-8, anything after a close
//! frame. Key and accept key are the pair that RFC 6455 §1.3 works out by hand.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use crate::client::{Answer, Client, End, Noise, assert_same, get, noise};
use crate::server::{needs, wait_for_child, wait_until};

pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
pub(crate) const APPEND: &str = "X-Verb: APPEND\r\n";

pub(crate) const FIN: u8 = 0x80;
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// What RFC 6455 §7.4.1 calls a close frame without a code, and an end without a close frame.
pub(crate) const NO_CODE: u16 = 1005;
pub(crate) const NO_CLOSE: u16 = 1006;

/// One frame of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) fin: bool,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn whole(opcode: u8, payload: &[u8]) -> Frame {
        Frame { fin: true, opcode, payload: payload.to_vec() }
    }
}

/// A message with its fragments joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Message {
    pub(crate) fn text(payload: &str) -> Message {
        Message { opcode: TEXT, payload: payload.into() }
    }

    pub(crate) fn binary(payload: &[u8]) -> Message {
        Message { opcode: BINARY, payload: payload.to_vec() }
    }
}

/// What comes next, with fragments joined.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Message(Message),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    End(End),
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closing {
    pub(crate) code: u16,
    pub(crate) reason: String,
    pub(crate) end: End,
}

impl Closing {
    /// Closed by the server for a reason that it tells, and which is not the orderly end.
    pub(crate) fn assert_refused(&self) {
        let codes = [1000, NO_CODE, NO_CLOSE];
        assert!(!codes.contains(&self.code) && !self.reason.is_empty(), "{self:?}");
    }

    /// Closed with a close frame that tells why.
    pub(crate) fn assert_told(&self) {
        let codes = [NO_CODE, NO_CLOSE];
        assert!(!codes.contains(&self.code) && !self.reason.is_empty(), "{self:?}");
    }
}

/// An opening handshake, to the byte.
pub(crate) fn handshake(target: &str, fields: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: it\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    )
}

/// A frame as a client sends it, with the shortest length. `first` is FIN, reserved bits, opcode.
pub(crate) fn frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ ..126 => bytes.push(0x80 | length as u8),
        length @ ..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A close frame's payload.
pub(crate) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

/// One open WebSocket.
pub(crate) struct WebSocket {
    client: Client,
    pub(crate) protocol: Option<String>,
    masks: Noise,
    /// Of the message whose fragments are coming; the one whose last frame came last.
    joining: Option<Message>,
    joined: Option<Message>,
    /// Whether this side has sent a close frame, whether the other one has.
    closes: (bool, bool),
    /// Pings of the server that were answered while something else was waited for.
    pub(crate) pings: usize,
}

impl WebSocket {
    pub(crate) fn open(address: SocketAddr, target: &str, fields: &str) -> WebSocket {
        WebSocket::over(Client::connect(address), target, fields)
    }

    /// Does the handshake on this connection, which the server must accept.
    pub(crate) fn over(mut client: Client, target: &str, fields: &str) -> WebSocket {
        client.send(handshake(target, fields));
        let head = client.head();
        if head.status != 101 {
            panic!("{target} {fields:?}: {:?}", client.body(head, "GET"));
        }
        assert!(head.needed("upgrade").eq_ignore_ascii_case("websocket"), "{head:?}");
        assert!(head.needed("connection").eq_ignore_ascii_case("upgrade"), "{head:?}");
        assert_eq!(head.needed("sec-websocket-accept"), ACCEPT);
        assert_eq!(head.field("sec-websocket-extensions"), None);
        let protocol = head.field("sec-websocket-protocol").map(str::to_owned);
        WebSocket { protocol, ..WebSocket::opened(client) }
    }

    /// Over a connection whose handshake is done.
    pub(crate) fn opened(client: Client) -> WebSocket {
        let masks = Noise::new(u64::from(client.local_address().port()));
        WebSocket {
            client,
            protocol: None,
            masks,
            joining: None,
            joined: None,
            closes: (false, false),
            pings: 0,
        }
    }

    // What is sent.

    /// These bytes, whatever they are.
    pub(crate) fn raw(&mut self, bytes: impl AsRef<[u8]>) {
        self.client.send(bytes);
    }

    pub(crate) fn try_send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.client.try_send(bytes)
    }

    /// One frame with a mask of its own.
    pub(crate) fn try_send(&mut self, first: u8, payload: &[u8]) -> std::io::Result<()> {
        let mask = (self.masks.next() as u32).to_be_bytes();
        self.client.try_send(frame(first, mask, payload))
    }

    pub(crate) fn send(&mut self, first: u8, payload: &[u8]) {
        self.try_send(first, payload).expect("the server took no more frames");
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.send(FIN | TEXT, text.as_bytes());
    }

    pub(crate) fn binary(&mut self, bytes: &[u8]) {
        self.send(FIN | BINARY, bytes);
    }

    /// One message in these frames.
    pub(crate) fn fragments(&mut self, opcode: u8, pieces: &[&[u8]]) {
        for (index, piece) in pieces.iter().enumerate() {
            let fin = if index + 1 == pieces.len() { FIN } else { 0 };
            let opcode = if index == 0 { opcode } else { CONTINUATION };
            self.send(fin | opcode, piece);
        }
    }

    /// A close frame with a code.
    pub(crate) fn close(&mut self, code: u16, reason: &str) {
        self.closes.0 = true;
        self.send(FIN | CLOSE, &close_payload(code, reason));
    }

    /// A close frame without a code.
    pub(crate) fn close_empty(&mut self) {
        self.closes.0 = true;
        self.send(FIN | CLOSE, b"");
    }

    // What comes.

    /// The next frame; `Err` says how the connection ended.
    pub(crate) fn try_frame(&mut self) -> Result<Frame, End> {
        let head = self.client.exactly(2)?;
        let (fin, opcode) = (head[0] & FIN != 0, head[0] & 0x0f);
        assert!(!self.closes.1, "a frame after the close frame: {head:02x?}");
        assert_eq!(head[0] & 0x70, 0, "reserved bits: {head:02x?}");
        assert_eq!(head[1] & 0x80, 0, "a server does not mask: {head:02x?}");
        let length = match head[1] {
            126 => {
                let length = u64::from(u16::from_be_bytes(self.rest(2).try_into().unwrap()));
                assert!(length > 125, "{length} as two bytes");
                length
            }
            127 => {
                let length = u64::from_be_bytes(self.rest(8).try_into().unwrap());
                assert!(length > 0xffff && length >> 63 == 0, "{length} as eight bytes");
                length
            }
            short => u64::from(short),
        };
        let payload = self.rest(length as usize);
        self.follow_rules(fin, opcode, &payload);
        Ok(Frame { fin, opcode, payload })
    }

    /// Bytes inside a frame, where nothing may end.
    fn rest(&mut self, count: usize) -> Vec<u8> {
        let bytes = self.client.exactly(count);
        bytes.unwrap_or_else(|end| panic!("{end:?} inside a frame, {count} bytes wanted"))
    }

    /// What RFC 6455 §5.4 and §5.5 say of a frame by those before it.
    fn follow_rules(&mut self, fin: bool, opcode: u8, payload: &[u8]) {
        match opcode {
            CONTINUATION => {
                let message = self.joining.as_mut().expect("a continuation of nothing");
                message.payload.extend(payload);
            }
            TEXT | BINARY => {
                let before = self.joining.replace(Message { opcode, payload: payload.to_vec() });
                assert!(before.is_none(), "a message within a message");
            }
            CLOSE | PING | PONG => {
                assert!(fin && payload.len() < 126, "control frame {opcode}: {}", payload.len());
                self.closes.1 |= opcode == CLOSE;
            }
            _ => panic!("reserved opcode {opcode}"),
        }
        if fin && opcode < CLOSE {
            self.joined = self.joining.take();
        }
    }

    pub(crate) fn frame(&mut self) -> Frame {
        self.try_frame().unwrap_or_else(|end| panic!("a frame expected, got {end:?}"))
    }

    /// The next thing of any kind. Pings are not answered.
    pub(crate) fn event(&mut self) -> Event {
        loop {
            let frame = match self.try_frame() {
                Ok(frame) => frame,
                Err(end) => return Event::End(end),
            };
            match frame.opcode {
                PING => return Event::Ping(frame.payload),
                PONG => return Event::Pong(frame.payload),
                CLOSE => {
                    let (code, reason) = read_close(&frame.payload);
                    return Event::Close(code, reason);
                }
                _ if frame.fin => {
                    let message = self.joined.take().unwrap();
                    let is_text = std::str::from_utf8(&message.payload).is_ok();
                    assert!(is_text || message.opcode == BINARY, "text that is not UTF-8");
                    return Event::Message(message);
                }
                _ => {}
            }
        }
    }

    /// The next thing that is no ping; pings are answered.
    pub(crate) fn answering(&mut self) -> Event {
        loop {
            match self.event() {
                Event::Ping(payload) => {
                    self.pings += 1;
                    // The server may be on its way out already.
                    let _ = self.try_send(FIN | PONG, &payload);
                }
                other => return other,
            }
        }
    }

    /// The next message; pings before it are answered.
    pub(crate) fn message(&mut self) -> Message {
        match self.answering() {
            Event::Message(message) => message,
            other => panic!("a message expected, got {other:?}"),
        }
    }

    /// The next thing but pings and heartbeats, which must be this pong.
    pub(crate) fn assert_pong(&mut self, payload: &[u8]) {
        let beat = Event::Message(Message::text("h"));
        let event = std::iter::repeat_with(|| self.answering()).find(|event| *event != beat);
        assert_eq!(event, Some(Event::Pong(payload.to_vec())));
    }

    /// All messages up to the end, and the end. The server's close frame is echoed.
    pub(crate) fn drain(&mut self) -> (Vec<Message>, Closing) {
        let (mut messages, mut code, mut reason) = (Vec::new(), NO_CLOSE, String::new());
        loop {
            match self.answering() {
                Event::Message(message) => messages.push(message),
                Event::Close(its_code, its_reason) => {
                    (code, reason) = (its_code, its_reason);
                    self.echo(code);
                }
                Event::End(end) => return (messages, Closing { code, reason, end }),
                Event::Ping(_) | Event::Pong(_) => {}
            }
        }
    }

    fn echo(&mut self, code: u16) {
        if !std::mem::replace(&mut self.closes.0, true) {
            let payload = close_payload(code, "");
            // The server need not wait for it.
            let _ = self.try_send(FIN | CLOSE, if code == NO_CODE { b"" } else { &payload });
        }
    }

    /// The end, before which no message comes but heartbeats.
    pub(crate) fn closing(&mut self) -> Closing {
        let (mut messages, closing) = self.drain();
        messages.retain(|message| *message != Message::text("h"));
        assert!(messages.is_empty(), "{} messages before the end", messages.len());
        closing
    }

    // Leaving without a close frame.

    /// Says that nothing more will be sent, and stays to read.
    pub(crate) fn finish_sending(&mut self) {
        self.client.finish_sending();
    }

    pub(crate) fn reset(self) {
        self.client.reset();
    }
}

/// Code and reason of a close frame, which must be such as may be sent (RFC 6455 §7.4).
fn read_close(payload: &[u8]) -> (u16, String) {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        assert!(payload.is_empty(), "half a close code");
        return (NO_CODE, String::new());
    };
    let code = u16::from_be_bytes(*code);
    assert!(matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999), "close code {code}");
    (code, std::str::from_utf8(reason).unwrap().to_owned())
}

/// Sends a handshake, which must be answered by exactly three fields in the originals' letters; the
/// accept key. The connection is closed.
pub(crate) fn accepted(address: SocketAddr, request: &str) -> String {
    let mut client = Client::connect(address);
    client.send(request);
    let text = client.head_text().unwrap();
    let mut lines: Vec<_> = text.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "HTTP/1.1 101 Switching Protocols", "{request}");
    lines.sort();
    let [connection, accept, upgrade] = *lines else { panic!("{request}: {text}") };
    assert_eq!((connection, upgrade), ("Connection: Upgrade", "Upgrade: websocket"), "{request}");
    accept.strip_prefix("Sec-WebSocket-Accept: ").unwrap().to_owned()
}

/// A handshake on a connection of its own that is answered in plain HTTP.
pub(crate) fn refused(address: SocketAddr, target: &str, fields: &str) -> Answer {
    let mut client = Client::connect(address);
    client.send(handshake(target, fields));
    let answer = client.answer();
    assert!(answer.status != 101 && answer.complete, "{target} {fields:?}: {answer:?}");
    answer
}

/// As `refused`, with exactly this answer.
pub(crate) fn assert_refused(
    address: SocketAddr,
    target: &str,
    fields: &str,
    (status, text): (u16, &str),
) {
    let answer = refused(address, target, fields);
    assert_eq!((answer.status, &*answer.text()), (status, text), "{target} {fields:?}");
}

pub(crate) fn appender(address: SocketAddr, target: &str) -> WebSocket {
    WebSocket::open(address, target, APPEND)
}

pub(crate) fn until_sealed(address: SocketAddr, target: &str) {
    let mut client = Client::connect(address);
    wait_until(&format!("{target} is sealed"), || {
        let head = client.ask("HEAD", target, "");
        head.status == 200 && head.field("etag").is_some()
    });
}

/// Waits until an object is sealed, which must then be this; the answer to its GET.
pub(crate) fn assert_sealed(address: SocketAddr, target: &str, body: &[u8]) -> Answer {
    until_sealed(address, target);
    let answer = get(address, target);
    answer.assert_body(200, body);
    assert_eq!(answer.needed("content-length"), body.len().to_string());
    assert!(answer.field("etag").is_some(), "{answer:?}");
    answer
}

/// A plain reader of a growing object that has got this much, and nothing else.
pub(crate) fn tail(address: SocketAddr, target: &str, start: &[u8]) -> Client {
    let mut reader = Client::connect(address);
    let head = reader.get(target, "");
    assert!(head.status == 200 && head.is_chunked(), "{target}: {head:?}");
    assert_same(&reader.data_of(start.len()), start);
    reader
}

// Channels.

/// A publisher, receiver or other of `CHANNEL/KEY`.
pub(crate) fn on(address: SocketAddr, place: &str, kind: &str) -> WebSocket {
    WebSocket::open(address, &format!("/{place}/{kind}"), "")
}

/// The next chunk; heartbeats are passed over.
pub(crate) fn chunk(receiver: &mut WebSocket) -> Vec<u8> {
    loop {
        let message = receiver.message();
        if message != Message::text("h") {
            assert_eq!(message.opcode, BINARY, "{message:?}");
            return message.payload;
        }
    }
}

/// All chunks up to the end, and the end.
pub(crate) fn chunks_to_end(receiver: &mut WebSocket) -> (Vec<Vec<u8>>, Closing) {
    let (mut messages, closing) = receiver.drain();
    messages.retain(|message| *message != Message::text("h"));
    assert!(messages.iter().all(|message| message.opcode == BINARY), "{messages:?}");
    (messages.into_iter().map(|message| message.payload).collect(), closing)
}

/// The chunk with this number, of this length.
pub(crate) fn numbered(number: usize, length: usize) -> Vec<u8> {
    let mut bytes = number.to_string().into_bytes();
    bytes.resize(length.max(bytes.len()), b' ');
    bytes
}

pub(crate) fn number_of(chunk: &[u8]) -> usize {
    std::str::from_utf8(chunk).unwrap().trim_end().parse().unwrap()
}

/// Publishes a chunk and sees it at a receiver that has seen all before: then it is in the cache.
pub(crate) fn publish(publisher: &mut WebSocket, witness: &mut WebSocket, bytes: &[u8]) {
    publisher.binary(bytes);
    assert_same(&chunk(witness), bytes);
}

/// Becomes the publisher as soon as the last one has gone.
pub(crate) fn publish_when_free(address: SocketAddr, place: &str) -> WebSocket {
    let request = handshake(&format!("/{place}/publish"), "");
    let mut free = None;
    wait_until("the channel is free", || {
        let mut client = Client::connect(address);
        client.send(&request);
        match client.head().status {
            101 => free = Some(client),
            status => assert_eq!(status, 403),
        }
        free.is_some()
    });
    WebSocket::opened(free.unwrap())
}

/// Noise that is text.
pub(crate) fn letters(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = noise(seed, length);
    bytes.iter_mut().for_each(|byte| *byte = b'a' + *byte % 26);
    bytes
}

/// ffmpeg's standard output in binary messages as it comes; the socket, after the end.
pub(crate) fn pump(line: &str, mut socket: WebSocket) -> JoinHandle<WebSocket> {
    needs("ffmpeg");
    let mut command = Command::new("ffmpeg");
    command.args("-v warning -nostdin".split(' ')).args(line.split_whitespace());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    thread::spawn(move || {
        let mut block = [0; 32 * 1024];
        while let count @ 1.. = output.read(&mut block).unwrap() {
            socket.binary(&block[..count]);
        }
        let status = wait_for_child(&mut child, "ffmpeg did not end");
        assert!(status.success(), "ffmpeg: {status}");
        socket
    })
}

// The client itself: frames of RFC 6455 §5.7.

#[test]
fn frames_are_those_of_the_rfc() {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(frame(FIN | TEXT, mask, b"Hello"), hello);
    assert_eq!(frame(FIN | BINARY, mask, &[0; 256])[..4], [0x82, 0xfe, 1, 0]);
    let long = frame(FIN | BINARY, mask, &vec![0; 65_536]);
    assert_eq!(long[..10], [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(frame(FIN | BINARY, mask, &[0; 125])[1], 0x80 | 125);
    assert_eq!(frame(FIN | BINARY, mask, &[0; 126])[1], 0x80 | 126);
    assert_eq!(frame(FIN | BINARY, mask, &vec![0; 65_535])[1], 0x80 | 126);
}

/// Goal: the reader is strict. Method: a listener of ours sends what no server may send.
#[test]
fn the_client_refuses_what_no_server_may_send() {
    let good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let read = |bytes: &'static [u8]| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut peer = listener.accept().unwrap().0;
            // Up to the client's end, so that nothing of it is lost in a reset.
            let head = format!("{good}Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n");
            std::io::Write::write_all(&mut peer, &[head.as_bytes(), bytes].concat()).unwrap();
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = peer.read_to_end(&mut Vec::new());
        });
        let read = thread::spawn(move || WebSocket::open(address, "/", "").drain()).join();
        server.join().unwrap();
        read
    };
    let (messages, closing) =
        read(b"\x01\x02he\x89\x00\x80\x03llo\x82\x00\x88\x02\x03\xe8").unwrap();
    assert_eq!(messages, [Message::text("hello"), Message::binary(b"")]);
    assert_eq!(closing, Closing { code: 1000, reason: String::new(), end: End::Fin });
    assert_eq!(read(b"").unwrap().1.code, NO_CLOSE);
    let bad: [&[u8]; 13] = [
        b"\x81\x81\0\0\0\0a",
        b"\xc1\x00",
        b"\x83\x00",
        b"\x80\x00",
        b"\x01\x00\x81\x00",
        b"\x09\x00",
        b"\x81\x7e\x00\x05hello",
        b"\x89\x7e\x00\x7e",
        b"\x81\x02\xc3\x28",
        b"\x88\x00\x81\x00",
        b"\x88\x01\x03",
        b"\x88\x02\x03\xed",
        b"\x81\x05he",
    ];
    for bytes in bad {
        assert!(read(bytes).is_err(), "{bytes:02x?} was taken");
    }
}
