//! The upload of `publish`: one PUT with chunked coding over a connection of its own, which is watched
//! for an answer while it sends, so that a refusal ends it at once. `publish` calls it, in this order:
//!
//! | step   | function | ends the upload when |
//! |--------|----------|----------------------|
//! | open   | `open`   | nothing answers there |
//! | head   | `send_head` | the server answers, closes, or takes nothing |
//! | body   | `send_chunk`, `wait` | the same |
//! | finish | `finish` | the answer has come, or does not come in time |

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::runtime::clock;

const ANSWER_BYTES_MAX: usize = 16 * 1024;
const ANSWER_HEADERS_MAX: usize = 64;
/// What is shown of an answer's body, and how long it is waited for.
const LINE_BYTES_MAX: usize = 512;
const LINE_WAIT: Duration = Duration::from_secs(1);
/// How often a wait looks at `stop`, which is set by a signal or by another thread.
const STOP_POLL: Duration = Duration::from_millis(100);

/// How long the server may keep an upload waiting.
#[derive(Debug, Clone, Copy)]
pub struct UploadLimits {
    pub connect_seconds_max: u64,
    /// Without one byte taken by the server for so long, it counts as lost.
    pub stall_seconds_max: u64,
    /// How long the server may take to answer after the end.
    pub answer_seconds_max: u64,
}

/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("cannot publish to {url}: {reason}")]
    Url { url: String, reason: &'static str },
    #[error("header {0:?} is not of the form 'Name: value'")]
    Header(String),
    #[error(
        "nothing answers at {authority} ({error}); start the server with `headwater serve`, \
         or correct host and port of the URL"
    )]
    Connect { authority: String, error: io::Error },
    #[error("the server answered {status} {reason}{}", detail(.line))]
    Refused { status: u16, reason: String, line: String },
    #[error("the server's answer is not HTTP/1.x")]
    BadAnswer,
    #[error("the server closed the connection after {sent_bytes} bytes without an answer: {error}")]
    Lost { sent_bytes: u64, error: io::Error },
    #[error("the server took no byte for {0} s")]
    Stalled(u64),
    #[error("everything was sent, but the server did not answer within {0} s")]
    NoAnswer(u64),
}

fn detail(line: &str) -> String {
    if line.is_empty() { String::new() } else { format!(": {line}") }
}

/// An `http://` URL, taken apart.
pub(super) struct Target {
    /// Host and port as in the Host header.
    authority: String,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Target, UploadError> {
        let wrong = |reason| UploadError::Url { url: url.to_owned(), reason };
        let (scheme, rest) =
            url.split_once("://").ok_or(wrong("it does not begin with http://"))?;
        if scheme.eq_ignore_ascii_case("https") {
            return Err(wrong("publish speaks http:// only; put a TLS proxy in between"));
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(wrong("it does not begin with http://"));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(wrong("a name and password belong into --header 'Authorization: ...'"));
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(port))),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = port.map_or(Ok(80), str::parse).map_err(|_| wrong("the port is no number"))?;
        if host.is_empty() || path.is_empty() || path == "/" {
            return Err(wrong("it needs a host and a path"));
        }
        let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !printable(authority) || !printable(path) {
            return Err(wrong("it has characters that must be percent-encoded"));
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        let path = format!("{slash}{path}");
        Ok(Target { authority: authority.to_owned(), host: host.to_owned(), port, path })
    }
}

/// The upload: sends, and watches at the same time for an answer.
pub(super) struct Upload {
    stream: TcpStream,
    /// Chunk with its framing.
    frame: Vec<u8>,
    received: Vec<u8>,
    /// The server has closed its side.
    peer_closed: bool,
    sent_bytes: u64,
    limits: UploadLimits,
}

struct Answer {
    status: u16,
    reason: String,
    chunked: bool,
}

impl Upload {
    pub(super) fn open(target: &Target, limits: UploadLimits) -> Result<Upload, UploadError> {
        let stream = connect(target, limits.connect_seconds_max).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        let unreachable = |error| {
            let authority = target.authority.clone();
            UploadError::Connect { authority, error }
        };
        Ok(Upload {
            stream: stream.map_err(unreachable)?,
            frame: Vec::new(),
            received: Vec::new(),
            peer_closed: false,
            sent_bytes: 0,
            limits,
        })
    }

    pub(super) fn send_head(
        &mut self,
        target: &Target,
        content_type: &str,
        headers: &[String],
    ) -> Result<(), UploadError> {
        let mut head = format!(
            "PUT {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: headwater-publish/{}\r\n\
             Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n",
            target.path,
            target.authority,
            env!("CARGO_PKG_VERSION"),
        );
        for header in headers {
            let named = header.split_once(':').is_some_and(|(name, _)| !name.trim().is_empty());
            if !named || header.contains(|byte: char| byte.is_control()) {
                return Err(UploadError::Header(header.clone()));
            }
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.send(head.as_bytes())
    }

    pub(super) fn send_chunk(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        assert!(!bytes.is_empty(), "an empty chunk would end the body");
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        frame.extend_from_slice(bytes);
        frame.extend_from_slice(b"\r\n");
        let sent = self.send(&frame);
        self.frame = frame;
        self.sent_bytes += bytes.len() as u64;
        sent
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        self.write_all(bytes)?;
        self.check_refused()
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), UploadError> {
        let stall_max = Duration::from_secs(self.limits.stall_seconds_max);
        let mut progressed = clock::now();
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(self.lost(ErrorKind::WriteZero.into())),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    progressed = clock::now();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.poll(PollFlags::IN | PollFlags::OUT, STOP_POLL);
                    self.check_refused()?;
                    if clock::now().duration_since(progressed) > stall_max {
                        return Err(UploadError::Stalled(self.limits.stall_seconds_max));
                    }
                }
                Err(error) => return Err(self.lost(error)),
            }
        }
        Ok(())
    }

    /// Returns at `deadline` or when `stop` is set; an answer that comes meanwhile is an error.
    pub(super) fn wait(&mut self, deadline: Instant, stop: &AtomicBool) -> Result<(), UploadError> {
        while !stop.load(Ordering::Relaxed) {
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                break;
            }
            self.poll(PollFlags::IN, left.min(STOP_POLL));
            self.check_refused()?;
        }
        Ok(())
    }

    /// Ends the body in good order and waits for the answer.
    pub(super) fn finish(&mut self) -> Result<u16, UploadError> {
        self.write_all(b"0\r\n\r\n")?;
        let deadline = clock::now() + Duration::from_secs(self.limits.answer_seconds_max);
        loop {
            if let Some(answer) = self.answer()? {
                if (200..300).contains(&answer.status) {
                    return Ok(answer.status);
                }
                return Err(self.refused(answer));
            }
            if self.peer_closed {
                return Err(self.lost(ErrorKind::UnexpectedEof.into()));
            }
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Err(UploadError::NoAnswer(self.limits.answer_seconds_max));
            }
            self.poll(PollFlags::IN, left.min(STOP_POLL));
            self.receive();
        }
    }

    /// While the body is being sent, any final answer means that the server wants no more of it.
    fn check_refused(&mut self) -> Result<(), UploadError> {
        self.receive();
        if let Some(answer) = self.answer()? {
            return Err(self.refused(answer));
        }
        if self.peer_closed {
            return Err(self.lost(ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// The connection broke; the reason may lie in the receive buffer.
    fn lost(&mut self, error: io::Error) -> UploadError {
        self.receive();
        match self.answer() {
            Ok(Some(answer)) => self.refused(answer),
            Ok(None) => UploadError::Lost { sent_bytes: self.sent_bytes, error },
            Err(error) => error,
        }
    }

    /// Takes what has arrived, without waiting.
    fn receive(&mut self) {
        let mut piece = [0; 2048];
        while !self.peer_closed && self.received.len() < ANSWER_BYTES_MAX {
            match self.stream.read(&mut piece) {
                Ok(0) => self.peer_closed = true,
                Ok(count) => {
                    self.received.extend_from_slice(piece.get(..count).unwrap_or_default())
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.peer_closed = true,
            }
        }
    }

    /// The final answer, once its head is complete; interim ones (1xx) are passed over.
    fn answer(&mut self) -> Result<Option<Answer>, UploadError> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; ANSWER_HEADERS_MAX];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response.parse(&self.received);
            let head_bytes = match parsed.map_err(|_| UploadError::BadAnswer)? {
                httparse::Status::Complete(head_bytes) => head_bytes,
                httparse::Status::Partial if self.received.len() < ANSWER_BYTES_MAX => {
                    return Ok(None);
                }
                httparse::Status::Partial => return Err(UploadError::BadAnswer),
            };
            let status = response.code.unwrap_or(0);
            let reason = response.reason.unwrap_or_default().to_owned();
            let chunked = response.headers.iter().any(|header| {
                header.name.eq_ignore_ascii_case("transfer-encoding")
                    && header.value.to_ascii_lowercase().ends_with(b"chunked")
            });
            self.received.drain(..head_bytes);
            if !(100..200).contains(&status) {
                return Ok(Some(Answer { status, reason, chunked }));
            }
        }
    }

    /// Adds the first line of the answer's body, which follows its head, as far as it comes in
    /// time.
    fn refused(&mut self, answer: Answer) -> UploadError {
        // The server wants no more of the upload; this also lets it close at once.
        let _ = self.stream.shutdown(Shutdown::Write);
        let deadline = clock::now() + LINE_WAIT;
        // A chunked body has the length of the chunk in its first line.
        let skipped = usize::from(answer.chunked);
        loop {
            self.receive();
            let lines = self.received.iter().filter(|&&byte| byte == b'\n').count();
            let left = deadline.saturating_duration_since(clock::now());
            let enough = self.received.len() >= LINE_BYTES_MAX || lines > skipped;
            if enough || self.peer_closed || left.is_zero() {
                break;
            }
            self.poll(PollFlags::IN, left);
        }
        let shown = self.received.get(..LINE_BYTES_MAX).unwrap_or(&self.received);
        let text = String::from_utf8_lossy(shown);
        let mut line = text.lines().nth(skipped).unwrap_or_default().trim().to_owned();
        line.retain(|character| !character.is_control());
        UploadError::Refused { status: answer.status, reason: answer.reason, line }
    }

    /// Waits for the socket; an interrupted or failed wait is like one that ended early.
    fn poll(&self, flags: PollFlags, wait: Duration) {
        let wait = Timespec::try_from(wait).unwrap_or_default();
        let _ = poll(&mut [PollFd::new(&self.stream, flags)], Some(&wait));
    }
}

fn connect(target: &Target, seconds_max: u64) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in (target.host.as_str(), target.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, Duration::from_secs(seconds_max)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let target = Target::parse("http://[::1]:8080/a?b=c#d").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 8080));
        assert_eq!((target.authority.as_str(), target.path.as_str()), ("[::1]:8080", "/a?b=c"));
        assert_eq!(Target::parse("http://host/a").unwrap().port, 80);
        for wrong in [
            "host/a",
            "https://h/a",
            "ftp://h/a",
            "http://h",
            "http://h:x/a",
            "http://u@h/a",
            "http://h/a b",
        ] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }
}
