//! The one place that turns errors into status codes: every error of every layer, as status, advice
//! and fate of the connection.

use super::access::Denied;
use crate::egress::live::Refusal;
use crate::fetch::Failure;
use crate::ingest::upload::UploadError;
use crate::ingest::websocket_publish::PublishError;
use crate::store::{BeginError, RemoveError, StorageError, WriteError};
use crate::wire::http1::{DateLine, HeadError, HeadWriter, TargetError};
use crate::wire::websocket::HandshakeError;

/// An answer that is not an object: a status and one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub text: String,
    /// Nothing more is read from this connection.
    pub closes: bool,
    /// In place of the usual rule for errors.
    pub cache_control: Option<String>,
    /// `Name: value` lines of this answer alone, each with its CR LF.
    pub lines: String,
    /// The text is sent without a line end, as a system that is replaced sends it.
    pub is_bare: bool,
}

impl Reply {
    fn new(status: u16, text: impl Into<String>) -> Reply {
        Reply {
            status,
            text: text.into(),
            closes: false,
            cache_control: None,
            lines: String::new(),
            is_bare: false,
        }
    }

    /// A text of ws-stream-server.
    fn bare(status: u16, text: &str) -> Reply {
        Reply { is_bare: true, ..Reply::new(status, text) }
    }

    fn closing(self) -> Reply {
        Reply { closes: true, ..self }
    }

    fn with_line(self, line: &str) -> Reply {
        Reply { lines: self.lines + line + "\r\n", ..self }
    }

    pub fn not_found() -> Reply {
        Reply::new(404, "no such object")
    }

    pub fn method_not_allowed() -> Reply {
        Reply::new(405, "use GET, HEAD, PUT, POST, DELETE or OPTIONS")
            .with_line("Allow: GET, HEAD, PUT, POST, DELETE, OPTIONS")
            .closing()
    }

    pub fn not_implemented() -> Reply {
        Reply::new(501, "the method is not known; use GET, HEAD, PUT, POST, DELETE or OPTIONS")
            .closing()
    }

    pub fn admin_is_read_only() -> Reply {
        Reply::new(405, "the admin address answers GET and HEAD")
            .with_line("Allow: GET, HEAD")
            .closing()
    }

    pub fn fetched_is_read_only() -> Reply {
        Reply::new(405, "what is fetched from elsewhere answers GET and HEAD")
            .with_line("Allow: GET, HEAD, OPTIONS")
            .closing()
    }

    /// As restreamer refuses, with a text.
    pub fn of_denied(denied: &Denied) -> Reply {
        let reply = match denied {
            Denied::Basic { realm } => Reply::new(401, "user and password are missing or wrong")
                .with_line(&format!(
                    "WWW-Authenticate: Basic realm=\"{realm}\", charset=\"UTF-8\""
                )),
            Denied::Bearer => Reply::new(403, "the token is missing or wrong"),
        };
        Reply { cache_control: Some("no-store".to_owned()), ..reply }
    }

    /// What is fetched from elsewhere and is not to be had.
    pub fn of_failure(failure: Failure) -> Reply {
        let text = failure.to_string();
        match failure {
            Failure::TimedOut => Reply::new(504, text),
            Failure::Busy | Failure::NoRoom => Reply::new(503, text).with_line("Retry-After: 1"),
            Failure::TooSlow
            | Failure::Unreachable
            | Failure::Broken
            | Failure::TooLarge
            | Failure::Refused => Reply::new(502, text),
        }
    }

    pub fn length_required() -> Reply {
        Reply::new(
            411,
            "send Content-Length or Transfer-Encoding: chunked (ffmpeg: without -chunked_post 0)",
        )
        .closing()
    }

    pub fn unexpected_body() -> Reply {
        Reply::new(400, "GET and HEAD have no body here; use PUT or POST to upload").closing()
    }

    pub fn body_too_large() -> Reply {
        Reply::new(413, "the body of this method is ignored and must be short").closing()
    }

    pub fn name_is_folder() -> Reply {
        Reply::new(400, "the name of an object does not end in a slash: add a file name").closing()
    }

    pub fn no_name() -> Reply {
        Reply::new(400, "no object can have this name").closing()
    }

    pub fn name_is_reserved() -> Reply {
        Reply::new(403, "names below /.headwater/ are the server's own").closing()
    }

    pub fn name_too_long(part_bytes_max: usize, name_bytes_max: usize) -> Reply {
        let text = format!(
            "a name has at most {name_bytes_max} bytes, and {part_bytes_max} between two slashes: shorten it"
        );
        Reply::new(414, text).closing()
    }

    /// As MultiStreamingServer says that a camera does not send.
    pub fn empty_stream() -> Reply {
        Reply::bare(200, "")
    }

    /// As MultiStreamingServer says it.
    pub fn foreign_origin() -> Reply {
        Reply::bare(403, "Forbidden").closing()
    }

    pub fn unknown_quality() -> Reply {
        Reply::new(400, "quality is low, high or auto")
    }

    /// As httpfstream says it.
    pub fn method_not_supported() -> Reply {
        Reply::new(405, "method not supported").with_line("Allow: GET").closing()
    }

    pub fn of_handshake(error: HandshakeError) -> Reply {
        Reply::bad_handshake(&error.to_string())
    }

    /// RFC 6455 §4.2.2: with the version that would be understood.
    pub fn bad_handshake(text: &str) -> Reply {
        Reply::new(400, format!("Bad Request: {text}"))
            .with_line("Sec-WebSocket-Version: 13")
            .closing()
    }

    pub fn append_failed(cause: &str) -> Reply {
        Reply::new(500, format!("failed to open destination file for writing: {cause}")).closing()
    }

    /// As ws-stream-server says it.
    pub fn bare_bad_handshake() -> Reply {
        Reply::bare(400, "Bad Request").with_line("Sec-WebSocket-Version: 13").closing()
    }

    pub fn appender_active() -> Reply {
        Reply::new(403, "addWriter: path already has an active writer").closing()
    }

    /// An appender that cannot begin, in the words of httpfstream.
    pub fn of_append(error: &UploadError) -> Reply {
        let failed = |to: &str| Reply::new(500, format!("failed to {to}: {error}")).closing();
        match error {
            UploadError::Begin(BeginError::WriterActive) => Reply::appender_active(),
            UploadError::Begin(BeginError::BelowObject) => failed("create dir"),
            UploadError::Begin(BeginError::IsFolder) => failed("open destination file for writing"),
            error => Reply::of_put(error),
        }
    }

    pub fn too_many_connections() -> Reply {
        Reply::bare(429, "Too many requests.").with_line("Retry-After: 1").closing()
    }

    pub fn invalid_channel() -> Reply {
        Reply::bare(404, "Invalid channel.").closing()
    }

    pub fn invalid_key_name() -> Reply {
        Reply::bare(404, "Invalid key.").closing()
    }

    pub fn unknown_kind() -> Reply {
        Reply::bare(404, "Invalid connection kind.").closing()
    }

    pub fn already_publishing() -> Reply {
        Reply::bare(403, "Already publishing.").closing()
    }

    pub fn not_whitelisted() -> Reply {
        Reply::bare(403, "Cannot play: Not whitelisted.").closing()
    }

    pub fn wrong_key() -> Reply {
        Reply::bare(403, "Invalid streaming key")
    }

    pub fn websocket_greeting() -> Reply {
        Reply::bare(200, "Websocket streaming server - Version 1.0.0")
    }

    pub fn bare_not_found() -> Reply {
        Reply::bare(404, "Not found.")
    }

    /// A publisher that is not let in.
    pub fn of_publish(error: &PublishError) -> Reply {
        match error {
            PublishError::AlreadyPublishing => Reply::already_publishing(),
            PublishError::InvalidKey => Reply::bare(403, "Invalid Key.").closing(),
            PublishError::PeerGone => Reply::of_put(&UploadError::PeerGone),
            PublishError::Upload(error) => Reply::of_put(error),
        }
    }

    pub fn precondition_failed() -> Reply {
        Reply::new(412, "a precondition of the request does not hold")
    }

    pub fn unsatisfiable(complete_length: Option<u64>) -> Reply {
        let length = complete_length.map_or("*".to_owned(), |length| length.to_string());
        Reply::new(416, "the range lies outside the object")
            .with_line(&format!("Content-Range: bytes */{length}"))
    }

    pub fn too_many_waiting() -> Reply {
        Reply::new(503, "too many requests wait for absent objects; try again")
            .with_line("Retry-After: 1")
    }

    pub fn draining() -> Reply {
        Reply::new(503, "the server is shutting down; try another")
            .with_line("Retry-After: 1")
            .closing()
    }

    /// What the packager refuses; the connection stays.
    pub fn of_refusal(refusal: &Refusal) -> Reply {
        let rule = match refusal.max_age_s {
            Some(seconds) => format!("max-age={seconds}"),
            None => "no-store".to_owned(),
        };
        let reply = Reply::new(refusal.status, refusal.text.clone());
        let reply = Reply { cache_control: Some(rule), ..reply };
        if refusal.status == 503 { reply.with_line("Retry-After: 1") } else { reply }
    }

    pub fn of_head(error: HeadError) -> Reply {
        let status = match error {
            HeadError::RequestLineTooLong => 414,
            HeadError::HeadTooLarge => 431,
            HeadError::Version => 505,
            HeadError::TransferCoding => 501,
            HeadError::Expectation => 417,
            HeadError::Malformed(_)
            | HeadError::BareLineFeed
            | HeadError::Host
            | HeadError::ContentLength
            | HeadError::LengthAndEncoding
            | HeadError::EncodingInHttp10 => 400,
        };
        Reply::new(status, error.to_string()).closing()
    }

    pub fn of_target(error: TargetError) -> Reply {
        Reply::new(400, error.to_string()).closing()
    }

    pub fn of_storage(error: &StorageError) -> Reply {
        match error {
            StorageError::NoSpace(_) => {
                Reply::new(507, "the origin's storage is full; try again later").closing()
            }
            StorageError::NoDescriptors(_) => {
                Reply::new(503, "the origin is at its limit of open files; try again")
                    .with_line("Retry-After: 1")
                    .closing()
            }
            StorageError::Changed | StorageError::Io(_) => {
                Reply::new(500, "the origin's storage failed; its log says how").closing()
            }
        }
    }

    /// An upload that failed.
    pub fn of_put(error: &UploadError) -> Reply {
        let reply = match error {
            // A peer that only ended its side can still read this.
            UploadError::PeerGone => Reply::new(400, error.to_string()),
            UploadError::Begin(error) => Reply::of_begin(error),
            UploadError::Refused(refusal) => Reply::of_refusal(refusal),
            UploadError::StoredHeadersTooLarge => Reply::new(431, error.to_string()),
            UploadError::Framing(error) => Reply::new(400, error.to_string()),
            UploadError::Write(WriteError::TakenOver) => {
                Reply::new(409, "another upload took this name over; this one was dropped")
            }
            UploadError::Write(WriteError::Removed) => {
                Reply::new(410, "the object was deleted while it was uploaded")
            }
            UploadError::Write(WriteError::NameTaken) => {
                Reply::new(409, "objects below this name, or an object above it, came first")
            }
            UploadError::Write(WriteError::TooLarge) => {
                Reply::new(413, "the object is longer than store.object_bytes_max allows")
            }
            UploadError::Write(WriteError::Storage(error)) => Reply::of_storage(error),
        };
        reply.closing()
    }

    fn of_begin(error: &BeginError) -> Reply {
        match error {
            BeginError::NoName => Reply::no_name(),
            BeginError::BelowObject => Reply::new(
                409,
                "a part of the path is an object itself: choose another name or delete that one",
            ),
            BeginError::IsFolder => {
                Reply::new(409, "objects live below this name: choose another or delete those")
            }
            BeginError::WriterActive => Reply::new(409, "the object has an active writer"),
            BeginError::TooManyObjects => Reply::new(
                507,
                "the origin holds as many objects as store.objects_max allows: delete some",
            ),
            BeginError::Storage(error) => Reply::of_storage(error),
        }
    }

    pub fn of_remove(error: &RemoveError) -> Reply {
        match error {
            RemoveError::Absent => Reply::not_found(),
            RemoveError::Storage(error) => Reply::of_storage(error),
        }
    }
}

/// How an answer is framed and dated.
pub struct Frame<'a> {
    pub is_head: bool,
    pub is_http10: bool,
    pub keep_alive: bool,
    pub cache_control: &'a str,
    pub common_lines: &'a [u8],
    pub waited_ms: Option<u64>,
    /// The request was held so long.
    pub held_ms: Option<u64>,
    /// Lines that only this request gets.
    pub own_lines: &'a [u8],
}

/// Append the whole answer.
pub fn write(
    out: &mut Vec<u8>,
    reply: &Reply,
    frame: &Frame<'_>,
    date: &mut DateLine,
    unix_s: u64,
) {
    let mut head = HeadWriter::new(out, reply.status);
    head.field("Content-Type", "text/plain; charset=utf-8");
    head.number("Content-Length", (reply.text.len() + usize::from(!reply.is_bare)) as u64);
    head.field("Cache-Control", reply.cache_control.as_deref().unwrap_or(frame.cache_control));
    head.lines(reply.lines.as_bytes());
    head.lines(frame.common_lines);
    finish(out, frame, date, unix_s);
    if !frame.is_head {
        out.extend_from_slice(reply.text.as_bytes());
        if !reply.is_bare {
            out.push(b'\n');
        }
    }
}

/// The last lines of a head, and the empty one.
pub fn finish(out: &mut Vec<u8>, frame: &Frame<'_>, date: &mut DateLine, unix_s: u64) {
    let mut head = HeadWriter::resume(out);
    head.lines(frame.own_lines);
    if let Some(waited_ms) = frame.waited_ms {
        head.number("Waited-For-Data-Ms", waited_ms);
    }
    if let Some(held_ms) = frame.held_ms {
        head.field("Server-Timing", &format!("held;dur={held_ms}"));
    }
    if !frame.keep_alive {
        head.field("Connection", "close");
    } else if frame.is_http10 {
        head.field("Connection", "keep-alive");
    }
    head.lines(date.at(unix_s)).end();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(reply: &Reply) -> String {
        let frame = Frame {
            is_head: false,
            is_http10: false,
            keep_alive: true,
            cache_control: "rule-of-errors",
            common_lines: b"",
            waited_ms: None,
            held_ms: Some(7),
            own_lines: b"",
        };
        let mut out = Vec::new();
        write(&mut out, reply, &frame, &mut DateLine::default(), 0);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_refusal_brings_its_own_cache_rule() {
        let refusal = |status, max_age_s| Refusal { status, text: "x".to_owned(), max_age_s };
        let absent = Reply::of_refusal(&refusal(404, Some(2)));
        assert!(!absent.closes);
        let text = text_of(&absent);
        assert!(text.starts_with("HTTP/1.1 404 ") && text.contains("Cache-Control: max-age=2\r\n"));
        assert!(text.contains("Server-Timing: held;dur=7\r\n") && !text.contains("rule-of"));
        let text = text_of(&Reply::of_refusal(&refusal(503, None)));
        assert!(
            text.contains("Cache-Control: no-store\r\n") && text.contains("Retry-After: 1\r\n")
        );
    }

    /// Each refusal of a head closes the connection, and no text can break a line.
    #[test]
    fn head_errors_close_and_are_one_line() {
        let errors = [
            HeadError::RequestLineTooLong,
            HeadError::HeadTooLarge,
            HeadError::Malformed("x"),
            HeadError::Version,
            HeadError::BareLineFeed,
            HeadError::Host,
            HeadError::ContentLength,
            HeadError::LengthAndEncoding,
            HeadError::EncodingInHttp10,
            HeadError::TransferCoding,
            HeadError::Expectation,
        ];
        for error in errors {
            let reply = Reply::of_head(error);
            assert!(reply.closes && reply.status >= 400 && !reply.text.contains('\n'), "{error:?}");
        }
    }
}
