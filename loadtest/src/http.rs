//! An incremental parser for HTTP/1.1 responses: head, chunked coding, Content-Length, or a body
//! that ends with the connection. No I/O: takes received bytes, gives events that borrow them.
//!
//! | state | left by |
//! |---|---|
//! | Head | `head`: the empty line is there |
//! | Length, UntilClose | `body`: all bytes are there; `close` |
//! | Chunk | `chunk_line`, `body`, `chunk_end`, `trailer`: see `Chunk` |
//! | Done | `reset`: the next response of the connection |

use std::fmt;

/// A head, or the size line and trailers of a chunked body, may not be longer than this.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const LINE_BYTES_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// The head of the final response; informational ones are passed over. A 101 is final: what
    /// comes behind it is not HTTP.
    Head(Head),
    Body(&'a [u8]),
    /// The response ended properly; bytes after it are left in the input.
    End,
    /// All input is used up.
    NeedMore,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) chunked: bool,
    pub(crate) content_length: Option<u64>,
    /// The server will close the connection after this response.
    pub(crate) close: bool,
    pub(crate) upgrade: Upgrade,
}

/// Headers of a 101, as they came; empty in every other head, or where one is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Upgrade {
    pub(crate) upgrade: String,
    pub(crate) connection: String,
    pub(crate) accept: String,
    pub(crate) protocol: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HttpError {
    HeadTooLong,
    MalformedHead,
    MalformedChunk,
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HttpError::HeadTooLong => "the response head is longer than 16 KiB",
            HttpError::MalformedHead => "the response head is not HTTP/1.1",
            HttpError::MalformedChunk => "the chunked coding of the response is broken",
        })
    }
}

impl std::error::Error for HttpError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Length { left: u64 },
    UntilClose,
    Chunk(Chunk),
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// In the line with the size, up to its line feed.
    Line {
        size: u64,
        digits: u8,
        bytes: usize,
        in_size: bool,
    },
    Data {
        left: u64,
    },
    /// In the CR LF behind the data.
    DataEnd {
        seen_cr: bool,
    },
    /// In the trailers; `line` counts the bytes of the current one.
    Trailer {
        line: usize,
        bytes: usize,
    },
}

const CHUNK_START: State =
    State::Chunk(Chunk::Line { size: 0, digits: 0, bytes: 0, in_size: true });

/// The responses of one connection, one after the other.
pub(crate) struct Response {
    state: State,
    head: Vec<u8>,
}

impl Response {
    pub(crate) fn new() -> Response {
        Response { state: State::Head, head: Vec::with_capacity(512) }
    }

    /// Makes ready for the next response of the connection.
    pub(crate) fn reset(&mut self) {
        self.state = State::Head;
        self.head.clear();
    }

    /// True when no byte of the response has arrived.
    pub(crate) fn is_untouched(&self) -> bool {
        self.state == State::Head && self.head.is_empty()
    }

    /// True when the response has ended properly.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is a proper end of this response.
    pub(crate) fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Done)
    }

    /// The next event in `input`, which is advanced past what was used.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Event<'a>, HttpError> {
        loop {
            let event = match self.state {
                State::Done => Some(Event::End),
                _ if input.is_empty() => Some(Event::NeedMore),
                State::Head => self.head(input)?,
                State::UntilClose => Some(Event::Body(std::mem::take(input))),
                State::Length { left } => {
                    let (body, left) = take(input, left);
                    self.state = if left == 0 { State::Done } else { State::Length { left } };
                    Some(Event::Body(body))
                }
                State::Chunk(chunk) => self.chunk(chunk, input)?,
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    fn head<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, HttpError> {
        let before = self.head.len();
        let room = HEAD_BYTES_MAX - before;
        self.head.extend_from_slice(&input[..input.len().min(room)]);
        // The empty line may have begun in the bytes before.
        let search_from = before.saturating_sub(3);
        let Some(end) = find(&self.head[search_from..], b"\r\n\r\n") else {
            if self.head.len() == HEAD_BYTES_MAX {
                return Err(HttpError::HeadTooLong);
            }
            *input = &[];
            return Ok(None);
        };
        let end = search_from + end + 4;
        *input = &input[end - before..];
        let head = parse_head(&self.head[..end])?;
        self.head.clear();
        if (100..200).contains(&head.status) && head.status != 101 {
            return Ok(None);
        }
        self.state = match head {
            Head { status: 101 | 204 | 304, .. } => State::Done,
            Head { chunked: true, .. } => CHUNK_START,
            Head { content_length: Some(0), .. } => State::Done,
            Head { content_length: Some(left), .. } => State::Length { left },
            _ => State::UntilClose,
        };
        Ok(Some(Event::Head(head)))
    }

    fn chunk<'a>(
        &mut self,
        chunk: Chunk,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, HttpError> {
        self.state = match chunk {
            Chunk::Data { left } => {
                let (body, left) = take(input, left);
                self.state = State::Chunk(match left {
                    0 => Chunk::DataEnd { seen_cr: false },
                    _ => Chunk::Data { left },
                });
                return Ok(Some(Event::Body(body)));
            }
            Chunk::Line { size, digits, bytes, in_size } => {
                chunk_line(size, digits, bytes, in_size, next_byte(input))?
            }
            Chunk::DataEnd { seen_cr } => match (seen_cr, next_byte(input)) {
                (false, b'\r') => State::Chunk(Chunk::DataEnd { seen_cr: true }),
                (true, b'\n') => CHUNK_START,
                _ => return Err(HttpError::MalformedChunk),
            },
            Chunk::Trailer { line, bytes } => trailer(line, bytes, next_byte(input))?,
        };
        Ok(None)
    }
}

/// One byte of the line with the size: digits, perhaps an extension, CR, LF.
fn chunk_line(
    size: u64,
    digits: u8,
    bytes: usize,
    in_size: bool,
    byte: u8,
) -> Result<State, HttpError> {
    let bytes = bytes + 1;
    if bytes > LINE_BYTES_MAX {
        return Err(HttpError::MalformedChunk);
    }
    let line = |size, digits, in_size| Chunk::Line { size, digits, bytes, in_size };
    let next = match (byte, (byte as char).to_digit(16)) {
        (_, Some(digit)) if in_size && digits < 15 => {
            line(size * 16 + u64::from(digit), digits + 1, true)
        }
        (_, _) if digits == 0 => return Err(HttpError::MalformedChunk),
        (b'\n', _) if size == 0 => Chunk::Trailer { line: 0, bytes: 0 },
        (b'\n', _) => Chunk::Data { left: size },
        (b'\r' | b' ' | b'\t' | b';', _) => line(size, digits, false),
        (_, _) if in_size => return Err(HttpError::MalformedChunk),
        (_, _) => line(size, digits, false),
    };
    Ok(State::Chunk(next))
}

/// One byte of the trailers, which end with an empty line.
fn trailer(line: usize, bytes: usize, byte: u8) -> Result<State, HttpError> {
    match byte {
        _ if bytes >= HEAD_BYTES_MAX => Err(HttpError::MalformedChunk),
        b'\n' if line == 0 => Ok(State::Done),
        b'\n' => Ok(State::Chunk(Chunk::Trailer { line: 0, bytes: bytes + 1 })),
        b'\r' => Ok(State::Chunk(Chunk::Trailer { line, bytes: bytes + 1 })),
        _ => Ok(State::Chunk(Chunk::Trailer { line: line + 1, bytes: bytes + 1 })),
    }
}

fn parse_head(head: &[u8]) -> Result<Head, HttpError> {
    let head = std::str::from_utf8(head).map_err(|_| HttpError::MalformedHead)?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let mut words = status_line.split(' ');
    let version = words.next().unwrap_or_default();
    if !version.starts_with("HTTP/1.") {
        return Err(HttpError::MalformedHead);
    }
    let status = words.next().and_then(|word| word.parse().ok());
    let status = status.filter(|code| (100..600).contains(code));
    let mut parsed = Head {
        status: status.ok_or(HttpError::MalformedHead)?,
        chunked: false,
        content_length: None,
        close: version == "HTTP/1.0",
        upgrade: Upgrade::default(),
    };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(HttpError::MalformedHead)?;
        let value = value.trim();
        if parsed.status == 101 {
            parsed.upgrade.add(name, value);
        }
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|_| HttpError::MalformedHead)?;
            parsed.content_length = Some(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            parsed.chunked = value.eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case("connection") {
            parsed.close = value.eq_ignore_ascii_case("close");
        }
    }
    Ok(parsed)
}

impl Upgrade {
    fn add(&mut self, name: &str, value: &str) {
        let field = match name.to_ascii_lowercase().as_str() {
            "upgrade" => &mut self.upgrade,
            "connection" => &mut self.connection,
            "sec-websocket-accept" => &mut self.accept,
            "sec-websocket-protocol" => &mut self.protocol,
            _ => return,
        };
        // Of a header that comes twice, RFC 9110 makes one with a comma: no value that is good here.
        if !field.is_empty() {
            field.push_str(", ");
        }
        field.push_str(value);
    }
}

fn take<'a>(input: &mut &'a [u8], left: u64) -> (&'a [u8], u64) {
    let length = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    let (body, rest) = input.split_at(length);
    *input = rest;
    (body, left - length as u64)
}

/// The caller has checked that there is one.
fn next_byte(input: &mut &[u8]) -> u8 {
    let (first, rest) = input.split_first().expect("the input is not empty");
    *input = rest;
    *first
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a response in pieces; returns its head, its body, and whether it ended.
    fn decode(bytes: &[u8], piece: usize) -> Result<(Option<Head>, Vec<u8>, bool), HttpError> {
        let mut response = Response::new();
        let (mut head, mut body) = (None, Vec::new());
        for mut input in bytes.chunks(piece) {
            loop {
                match response.next(&mut input)? {
                    Event::Head(found) => head = Some(found),
                    Event::Body(bytes) => body.extend_from_slice(bytes),
                    Event::End => return Ok((head, body, true)),
                    Event::NeedMore => break,
                }
            }
        }
        Ok((head, body, response.ends_with_connection()))
    }

    const CHUNKED: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\nhello\r\n00B ; name=value\r\n, wide\r\nwor\r\n2\r\nld\r\n0\r\nTrailer: x\r\n\r\n";

    #[test]
    fn chunked_in_pieces_of_every_length() {
        for piece in 1..=CHUNKED.len() {
            let (head, body, ended) = decode(CHUNKED, piece).unwrap();
            assert!(head.unwrap().chunked && ended);
            assert_eq!(body, b"hello, wide\r\nworld", "pieces of {piece}");
        }
    }

    #[test]
    fn cut_chunked_never_ends() {
        for length in 0..CHUNKED.len() {
            let (_, _, ended) = decode(&CHUNKED[..length], 1).unwrap();
            assert!(!ended, "cut after {length}");
        }
    }

    #[test]
    fn broken_chunked_is_an_error() {
        for body in [
            "x\r\n",
            "\r\n",
            ";a\r\n",
            "1\r\nab\r\n",
            "1x\r\na",
            "1\r\na\n\n",
            "fffffffffffffffff\r\n",
        ] {
            let response = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert_eq!(decode(response.as_bytes(), 3), Err(HttpError::MalformedChunk), "{body}");
        }
        let endless = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;{}",
            "a".repeat(LINE_BYTES_MAX)
        );
        assert_eq!(decode(endless.as_bytes(), 100), Err(HttpError::MalformedChunk));
    }

    #[test]
    fn content_length_leaves_the_next_response() {
        let mut input: &[u8] =
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 204 N\r\n\r\n";
        let mut response = Response::new();
        assert!(matches!(response.next(&mut input), Ok(Event::Head(_))));
        assert_eq!(response.next(&mut input), Ok(Event::Body(b"abc")));
        assert_eq!(response.next(&mut input), Ok(Event::End));
        response.reset();
        assert!(response.is_untouched());
        assert!(matches!(response.next(&mut input), Ok(Event::Head(Head { status: 204, .. }))));
        assert_eq!(response.next(&mut input), Ok(Event::End));
        assert!(input.is_empty());
    }

    #[test]
    fn what_follows_a_101_is_left_alone() {
        let mut input: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching\r\n\
            Upgrade: websocket\r\nconnection: Upgrade\r\nSec-WebSocket-Accept: a\r\n\
            Sec-WebSocket-Accept: b\r\n\r\n\x89\x00";
        let mut response = Response::new();
        let Ok(Event::Head(head)) = response.next(&mut input) else { panic!("no head") };
        let upgrade = Upgrade {
            upgrade: "websocket".to_owned(),
            connection: "Upgrade".to_owned(),
            accept: "a, b".to_owned(),
            protocol: String::new(),
        };
        assert_eq!((head.status, head.upgrade), (101, upgrade));
        assert_eq!(input, b"\x89\x00");
    }

    #[test]
    fn a_body_may_end_with_the_connection() {
        let (head, body, ended) = decode(b"HTTP/1.0 200 OK\r\n\r\nabc", 2).unwrap();
        assert!(head.unwrap().close && ended);
        assert_eq!(body, b"abc");
    }

    #[test]
    fn heads_that_are_not_http_are_errors() {
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(decode(long.as_bytes(), 1000), Err(HttpError::HeadTooLong));
        for head in
            ["SSH-2.0 x\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"]
        {
            assert_eq!(decode(head.as_bytes(), 5), Err(HttpError::MalformedHead), "{head}");
        }
    }
}
