//! A raw HTTP/1.1 client: sends exactly the bytes it is told, reports exactly what came back.
//!
//! It keeps chunk boundaries, tells a proper end from a cut, and refuses answers that no client
//! should have to understand (two lengths, a length beside a transfer coding, a body after 204).

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Deref;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType};

use crate::server::{HANG, wait_until};

/// How the peer ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
}

/// A status line and its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) version: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Head {
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap();
        let (version, rest) = line.split_once(' ').unwrap_or_else(|| panic!("bad line {line:?}"));
        let status = rest.get(..3).and_then(|digits| digits.parse().ok());
        let status = status.unwrap_or_else(|| panic!("bad status line {line:?}"));
        let fields = lines.filter(|line| !line.is_empty()).map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("bad {line:?}"));
            assert!(!line.contains(['\r', '\n', '\0']), "control character in {line:?}");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        let head = Head { status, version: version.to_owned(), fields: fields.collect() };
        let lengths = head.all("content-length").len();
        let codings = head.all("transfer-encoding").len();
        assert!(lengths + codings <= 1, "two framings in one answer: {head:?}");
        head
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let same = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a field that may stand in an answer at most once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} stands {} times in {self:?}", values.len());
        values.first().copied()
    }

    /// The value of a field that must be there.
    pub(crate) fn needed(&self, name: &str) -> &str {
        self.field(name).unwrap_or_else(|| panic!("{name} is missing in {self:?}"))
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.field("transfer-encoding").is_some_and(|coding| coding == "chunked")
    }

    /// The fields without those that change from one answer to the next.
    pub(crate) fn lasting(&self) -> Vec<(String, String)> {
        let passing = ["date", "connection", "keep-alive"];
        let stays = |name: &str| !passing.contains(&name);
        let mut fields = self.fields.clone();
        fields.retain(|(name, _)| stays(name));
        fields.sort();
        fields
    }
}

/// A whole answer, or as much of it as came.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    head: Head,
    pub(crate) body: Vec<u8>,
    /// False when the connection ended before the framing said so.
    pub(crate) complete: bool,
}

impl Deref for Answer {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Asserts status and, byte for byte, the body.
    pub(crate) fn assert_body(&self, status: u16, body: &[u8]) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.complete, "cut after {} of {} bytes", self.body.len(), body.len());
        assert_same(&self.body, body);
    }
}

/// One step of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Data(Vec<u8>),
    Last,
    Cut(End),
}

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).expect("cannot connect")
    }

    pub(crate) fn try_connect(address: SocketAddr) -> Option<Client> {
        TcpStream::connect_timeout(&address, HANG).ok().map(Client::over)
    }

    /// Connects with a small window, so that the server soon feels it when this reader stops.
    pub(crate) fn with_small_window(address: SocketAddr) -> Client {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 16 * 1024).unwrap();
        rustix::net::connect(&socket, &address).expect("cannot connect");
        Client::over(TcpStream::from(socket))
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.set_write_timeout(Some(HANG)).unwrap();
        let unread = Vec::new();
        Client { stream, unread }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server took no more bytes");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends a request without a body.
    pub(crate) fn request(&mut self, method: &str, target: &str, fields: &str) {
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: it\r\n{fields}\r\n"));
    }

    /// Asks for an object and reads the head of the answer.
    pub(crate) fn get(&mut self, target: &str, fields: &str) -> Head {
        self.request("GET", target, fields);
        self.head()
    }

    /// Reads more bytes; `Err` says how the connection ended.
    fn fill(&mut self) -> Result<(), End> {
        let mut block = [0; 32 * 1024];
        loop {
            match self.stream.read(&mut block) {
                Ok(0) => return Err(End::Fin),
                Ok(count) => {
                    self.unread.extend_from_slice(&block[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let start = &self.unread[..self.unread.len().min(200)];
                    let (count, start) = (self.unread.len(), String::from_utf8_lossy(start));
                    panic!("nothing came for {HANG:?}; {count} bytes unread: {start:?}")
                }
                Err(_) => return Err(End::Reset),
            }
        }
    }

    /// Takes everything up to and including `mark`.
    fn up_to(&mut self, mark: &[u8]) -> Result<Vec<u8>, End> {
        let mut from = 0;
        loop {
            let found = self.unread[from..].windows(mark.len()).position(|bytes| bytes == mark);
            if let Some(at) = found {
                return Ok(self.unread.drain(..from + at + mark.len()).collect());
            }
            from = self.unread.len().saturating_sub(mark.len() - 1);
            self.fill()?;
        }
    }

    /// A head letter by letter.
    pub(crate) fn head_text(&mut self) -> Result<String, End> {
        Ok(String::from_utf8(self.up_to(b"\r\n\r\n")?).unwrap())
    }

    pub(crate) fn try_head(&mut self) -> Result<Head, End> {
        Ok(Head::parse(&self.head_text()?))
    }

    pub(crate) fn head(&mut self) -> Head {
        self.try_head().unwrap_or_else(|end| {
            let unread = String::from_utf8_lossy(&self.unread);
            panic!("the connection ended ({end:?}) instead of an answer; got {unread:?}")
        })
    }

    /// Exactly this many bytes of the body.
    pub(crate) fn exactly(&mut self, count: usize) -> Result<Vec<u8>, End> {
        while self.unread.len() < count {
            self.fill()?;
        }
        Ok(self.unread.drain(..count).collect())
    }

    /// The next chunk of a chunked body; panics when the coding is wrong.
    pub(crate) fn chunk(&mut self) -> Chunk {
        self.try_chunk().unwrap_or_else(Chunk::Cut)
    }

    fn try_chunk(&mut self) -> Result<Chunk, End> {
        let line = self.up_to(b"\r\n")?;
        let digits = std::str::from_utf8(&line[..line.len() - 2]).unwrap();
        let size = usize::from_str_radix(digits, 16);
        let size = size.unwrap_or_else(|_| panic!("bad chunk size {digits:?}"));
        if size == 0 {
            let end = self.exactly(2)?;
            assert_eq!(end, b"\r\n", "the last chunk has no end");
            return Ok(Chunk::Last);
        }
        let data = self.exactly(size)?;
        assert_eq!(self.exactly(2)?, b"\r\n", "chunk of {size} bytes without its CRLF");
        Ok(Chunk::Data(data))
    }

    /// The next chunk, which must be data.
    pub(crate) fn data(&mut self) -> Vec<u8> {
        match self.chunk() {
            Chunk::Data(data) => data,
            other => panic!("data expected, got {other:?}"),
        }
    }

    /// Chunks until `count` bytes are there.
    pub(crate) fn data_of(&mut self, count: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < count {
            data.extend(self.data());
        }
        data
    }

    /// Everything up to the end of the connection.
    pub(crate) fn read_to_end(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.fill() {
                return (std::mem::take(&mut self.unread), end);
            }
        }
    }

    /// Asserts that nothing more comes and the server closes.
    pub(crate) fn assert_closed(&mut self) {
        let (bytes, _) = self.read_to_end();
        assert!(bytes.is_empty(), "after the end: {:?}", String::from_utf8_lossy(&bytes));
    }

    /// The body that belongs to a head.
    pub(crate) fn body(&mut self, head: Head, method: &str) -> Answer {
        if head.status == 204 {
            let length = head.field("content-length");
            assert!(!head.is_chunked() && length.is_none_or(|length| length == "0"), "{head:?}");
        }
        let (mut body, mut complete) = (Vec::new(), true);
        if method == "HEAD" || head.status < 200 || head.status == 204 || head.status == 304 {
            return Answer { head, body, complete };
        }
        if head.is_chunked() {
            complete = loop {
                match self.chunk() {
                    Chunk::Data(data) => body.extend(data),
                    last => break last == Chunk::Last,
                }
            };
        } else if let Some(length) = head.field("content-length") {
            match self.exactly(length.parse().unwrap()) {
                Ok(bytes) => body = bytes,
                Err(_) => (body, complete) = (std::mem::take(&mut self.unread), false),
            }
        } else {
            let (bytes, end) = self.read_to_end();
            (body, complete) = (bytes, end == End::Fin);
        }
        Answer { head, body, complete }
    }

    /// The next answer, to a request of this method.
    pub(crate) fn answer_to(&mut self, method: &str) -> Answer {
        let head = self.head();
        self.body(head, method)
    }

    /// The next answer, to any request but HEAD.
    pub(crate) fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// A request without a body and its whole answer.
    pub(crate) fn ask(&mut self, method: &str, target: &str, fields: &str) -> Answer {
        self.request(method, target, fields);
        self.answer_to(method)
    }

    /// Nothing is unread and nothing comes for this long. Only `false` proves anything.
    pub(crate) fn stays_silent(&mut self, time: Duration) -> bool {
        if !self.unread.is_empty() {
            return false;
        }
        self.stream.set_read_timeout(Some(time)).unwrap();
        let silent = self.stream.peek(&mut [0]).is_err();
        self.stream.set_read_timeout(Some(HANG)).unwrap();
        silent
    }

    /// Says that nothing more will be sent, and stays to read.
    pub(crate) fn finish_sending(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// A chunked upload under way.
pub(crate) struct Upload {
    pub(crate) client: Client,
}

impl Upload {
    /// Sends the head only.
    pub(crate) fn begin(address: SocketAddr, target: &str, fields: &str) -> Upload {
        let mut client = Client::connect(address);
        client.request("PUT", target, &format!("Transfer-Encoding: chunked\r\n{fields}"));
        Upload { client }
    }

    /// Sends the head and waits until readers see the Open object.
    pub(crate) fn open(address: SocketAddr, target: &str, fields: &str) -> Upload {
        let upload = Upload::begin(address, target, fields);
        let mut reader = Client::connect(address);
        wait_until(&format!("{target} opens"), || {
            let head = reader.ask("HEAD", target, "");
            head.status == 200 && head.field("etag").is_none()
        });
        upload
    }

    /// Sends one chunk, in one write.
    pub(crate) fn append(&mut self, data: &[u8]) {
        self.try_append(data).expect("the server took no more of the upload");
    }

    pub(crate) fn try_append(&mut self, data: &[u8]) -> std::io::Result<()> {
        let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
        chunk.extend_from_slice(data);
        chunk.extend_from_slice(b"\r\n");
        self.client.try_send(chunk)
    }

    /// Sends the last chunk and reads the answer.
    pub(crate) fn seal(&mut self) -> Answer {
        self.client.send("0\r\n\r\n");
        self.client.answer_to("PUT")
    }

    /// Leaves in the middle of a chunk, with an ordinary end of the connection.
    pub(crate) fn cut(mut self) {
        self.client.send("1000\r\nnot a whole chunk");
    }
}

/// One request without a body on a connection of its own.
pub(crate) fn ask(address: SocketAddr, method: &str, target: &str, fields: &str) -> Answer {
    Client::connect(address).ask(method, target, fields)
}

pub(crate) fn get(address: SocketAddr, target: &str) -> Answer {
    ask(address, "GET", target, "")
}

/// A PUT with Content-Length.
pub(crate) fn put_with(address: SocketAddr, target: &str, fields: &str, body: &[u8]) -> Answer {
    let mut client = Client::connect(address);
    let fields = format!("Content-Length: {}\r\n{fields}", body.len());
    client.request("PUT", target, &fields);
    client.send(body);
    client.answer_to("PUT")
}

/// A PUT with Content-Length that must succeed; the answer.
pub(crate) fn put(address: SocketAddr, target: &str, body: &[u8]) -> Answer {
    let answer = put_with(address, target, "", body);
    assert!([201, 204].contains(&answer.status), "PUT {target}: {answer:?}");
    answer
}

/// Sends raw bytes on a connection of its own and reads one answer.
pub(crate) fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Answer {
    let mut client = Client::connect(address);
    client.send(bytes);
    client.answer()
}

/// Asserts that two byte strings are equal, and says where they are not.
pub(crate) fn assert_same(got: &[u8], expected: &[u8]) {
    if got == expected {
        return;
    }
    let at = got.iter().zip(expected).position(|(left, right)| left != right);
    let at = at.unwrap_or(got.len().min(expected.len()));
    panic!("{} bytes for {} expected; first difference at {at}", got.len(), expected.len());
}

/// A small generator of repeatable noise (xorshift64*).
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A seed for tests of random moments: of the environment, or of the clock; printed.
    pub(crate) fn printed_seed() -> u64 {
        let given = std::env::var("HEADWATER_SEED").ok().and_then(|text| text.parse().ok());
        let clock = || std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
        let seed = given.unwrap_or_else(clock);
        println!("HEADWATER_SEED={seed}");
        seed
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }
}

/// Bytes that repeat nowhere near, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut noise = Noise::new(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&noise.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
