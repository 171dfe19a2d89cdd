//! From bytes to a request head (RFC 9112 §2–§6): httparse finds the lines, everything that decides
//! where a message ends is checked here, strictly: what two readers could understand differently is
//! refused. No I/O; called by `connection/http.rs` on whatever has arrived.

use std::mem::MaybeUninit;

use httparse::{Header, Status};

/// Header fields of one request; more are 431.
pub const HEADERS_MAX: usize = 64;

#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    pub request_line_bytes_max: usize,
    pub head_bytes_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Put,
    Post,
    Delete,
    Options,
    /// Known and not supported: 405.
    NotAllowed,
    /// Not known: 501.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// How the request's body ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// The header fields that the server acts on. A field given twice is an error where it would be
/// ambiguous, and otherwise the first one counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fields<'b> {
    pub host: Option<&'b str>,
    pub origin: Option<&'b str>,
    pub range: Option<&'b str>,
    pub if_range: Option<&'b str>,
    pub if_match: Option<&'b str>,
    pub if_none_match: Option<&'b str>,
    pub if_modified_since: Option<&'b str>,
    pub if_unmodified_since: Option<&'b str>,
    pub cache_control: Option<&'b str>,
    pub accept_encoding: Option<&'b str>,
    pub expires: Option<&'b str>,
    /// Another protocol is wanted (RFC 9110 §7.8).
    pub upgrade: Option<&'b str>,
    pub expect_continue: bool,
}

pub struct Request<'h, 'b> {
    pub method: Method,
    /// As sent: origin-form, absolute-form or `*`.
    pub target: &'b str,
    pub version: Version,
    pub framing: Framing,
    /// The connection may be used again after the answer (RFC 9112 §9.3).
    pub keep_alive: bool,
    pub fields: Fields<'b>,
    /// All header fields, for what is stored with an upload.
    pub headers: &'h [Header<'b>],
    /// Bytes of the head, with its empty line.
    pub head_bytes: usize,
}

#[allow(
    clippy::large_enum_variant,
    reason = "lives on the stack for one request; a box would cost an allocation"
)]
pub enum Parsed<'h, 'b> {
    Request(Request<'h, 'b>),
    /// The head is not complete.
    Partial,
}

/// Why a head is refused. The connection is closed after each of them: where the next request
/// would begin is not certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the request line is longer than allowed")]
    RequestLineTooLong,
    #[error("the head is longer than allowed, or has too many fields")]
    HeadTooLarge,
    #[error("the request is not HTTP/1.1: {0}")]
    Malformed(&'static str),
    #[error("the HTTP version is not supported: use HTTP/1.1")]
    Version,
    #[error("a line ends in LF without CR (RFC 9112 §2.2)")]
    BareLineFeed,
    #[error("Host is missing, twice there, or not a host (RFC 9112 §3.2)")]
    Host,
    #[error("Content-Length is not one decimal number (RFC 9112 §6.3)")]
    ContentLength,
    #[error("Content-Length and Transfer-Encoding together (RFC 9112 §6.3)")]
    LengthAndEncoding,
    #[error("Transfer-Encoding in HTTP/1.0 (RFC 9112 §6.1)")]
    EncodingInHttp10,
    #[error("the only transfer coding here is one \"chunked\" (RFC 9112 §6.1)")]
    TransferCoding,
    #[error("the only expectation here is \"100-continue\" (RFC 9110 §10.1.1)")]
    Expectation,
}

/// A caller's room for the fields of one request; it costs nothing to make.
pub struct HeaderRoom<'b>([MaybeUninit<Header<'b>>; HEADERS_MAX]);

impl Default for HeaderRoom<'_> {
    fn default() -> Self {
        HeaderRoom([const { MaybeUninit::uninit() }; HEADERS_MAX])
    }
}

/// Parse the head at the start of `input`.
pub fn parse<'h, 'b>(
    input: &'b [u8],
    room: &'h mut HeaderRoom<'b>,
    limits: &HeadLimits,
) -> Result<Parsed<'h, 'b>, HeadError> {
    let mut raw = httparse::Request::new(&mut []);
    let head_bytes = match raw.parse_with_uninit_headers(input, &mut room.0) {
        Ok(Status::Complete(head_bytes)) => head_bytes,
        Ok(Status::Partial) => return check_partial(input, limits).map(|()| Parsed::Partial),
        Err(error) => {
            return Err(check_partial(input, limits).err().unwrap_or(malformed(error)));
        }
    };
    check_partial(&input[..head_bytes], limits)?;
    check_line_ends(&input[..head_bytes])?;
    let version = match raw.version {
        Some(0) => Version::Http10,
        Some(1) => Version::Http11,
        _ => return Err(HeadError::Version),
    };
    let target = raw.path.unwrap_or_default();
    if !target.is_ascii() {
        // RFC 9112 §3.2: a request target is made of the characters of RFC 3986.
        return Err(HeadError::Malformed("percent-encode what is not ASCII in the path"));
    }
    let method = method_of(raw.method.unwrap_or_default());
    let headers: &'h [Header<'b>] = raw.headers;
    let read = read_fields(headers, version)?;
    check_host(&read, version, method, target)?;
    Ok(Parsed::Request(Request {
        method,
        target,
        version,
        framing: read.framing(version)?,
        keep_alive: !read.close && (version == Version::Http11 || read.keep_alive),
        fields: read.fields,
        headers,
        head_bytes,
    }))
}

/// Limits of a head that may not be complete.
fn check_partial(input: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
    let line_max = limits.request_line_bytes_max;
    if input.len() > line_max && !input[..line_max].contains(&b'\n') {
        return Err(HeadError::RequestLineTooLong);
    }
    if input.len() > limits.head_bytes_max {
        return Err(HeadError::HeadTooLarge);
    }
    Ok(())
}

fn malformed(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::HeadTooLarge,
        httparse::Error::Version => HeadError::Version,
        httparse::Error::HeaderName => HeadError::Malformed("a field name is not a token"),
        httparse::Error::HeaderValue => {
            HeadError::Malformed("a field value has a control character")
        }
        httparse::Error::NewLine => HeadError::Malformed("a CR without its LF"),
        httparse::Error::Token | httparse::Error::Status => {
            HeadError::Malformed("the request line is not METHOD SP TARGET SP VERSION")
        }
    }
}

/// httparse takes a lone LF as a line end (RFC 9112 §2.2 allows it); readers in front of us may
/// not, so it is refused.
fn check_line_ends(head: &[u8]) -> Result<(), HeadError> {
    let bare = |at: usize| at == 0 || head[at - 1] != b'\r';
    if memchr::memchr_iter(b'\n', head).any(bare) { Err(HeadError::BareLineFeed) } else { Ok(()) }
}

fn method_of(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "PUT" => Method::Put,
        "POST" => Method::Post,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" | "TRACE" | "CONNECT" => Method::NotAllowed,
        _ => Method::Unknown,
    }
}

/// The fields as they were read, before they are judged together.
#[derive(Default)]
struct ReadFields<'b> {
    fields: Fields<'b>,
    hosts: usize,
    content_length: Option<u64>,
    lengths: usize,
    encodings: usize,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

fn read_fields<'b>(headers: &[Header<'b>], version: Version) -> Result<ReadFields<'b>, HeadError> {
    let mut read = ReadFields::default();
    for header in headers {
        read.take(header, version)?;
    }
    Ok(read)
}

impl<'b> ReadFields<'b> {
    fn take(&mut self, header: &Header<'b>, version: Version) -> Result<(), HeadError> {
        let name = header.name;
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        // By length first: most fields of most requests are none of ours.
        match name.len() {
            4 if is("Host") => {
                self.hosts += 1;
                self.fields.host = Some(text(header)?);
            }
            5 if is("Range") => self.fields.range = Some(text(header)?),
            6 if is("Expect") => {
                if !text(header)?.eq_ignore_ascii_case("100-continue") {
                    return Err(HeadError::Expectation);
                }
                // RFC 9110 §10.1.1: a 100-continue from an HTTP/1.0 client is ignored.
                self.fields.expect_continue = version == Version::Http11;
            }
            6 if is("Origin") => self.fields.origin = Some(text(header)?),
            7 if is("Upgrade") => self.fields.upgrade = Some(text(header)?),
            7 if is("Expires") => self.fields.expires = Some(text(header)?),
            8 if is("If-Range") => self.fields.if_range = Some(text(header)?),
            8 if is("If-Match") => self.fields.if_match = Some(text(header)?),
            10 if is("Connection") => self.connection(text(header)?),
            13 if is("If-None-Match") => self.fields.if_none_match = Some(text(header)?),
            13 if is("Cache-Control") => self.fields.cache_control = Some(text(header)?),
            14 if is("Content-Length") => {
                self.lengths += 1;
                self.content_length = decimal(header.value);
            }
            15 if is("Accept-Encoding") => {
                self.fields.accept_encoding = std::str::from_utf8(header.value).ok();
            }
            17 if is("Transfer-Encoding") => {
                self.encodings += 1;
                self.chunked = header.value.eq_ignore_ascii_case(b"chunked");
            }
            17 if is("If-Modified-Since") => self.fields.if_modified_since = Some(text(header)?),
            19 if is("If-Unmodified-Since") => {
                self.fields.if_unmodified_since = Some(text(header)?)
            }
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &str) {
        for option in value.split(',').map(str::trim) {
            self.close |= option.eq_ignore_ascii_case("close");
            self.keep_alive |= option.eq_ignore_ascii_case("keep-alive");
        }
    }

    fn framing(&self, version: Version) -> Result<Framing, HeadError> {
        if self.encodings > 0 {
            if self.lengths > 0 {
                return Err(HeadError::LengthAndEncoding);
            }
            if version == Version::Http10 {
                return Err(HeadError::EncodingInHttp10);
            }
            if self.encodings > 1 || !self.chunked {
                return Err(HeadError::TransferCoding);
            }
            return Ok(Framing::Chunked);
        }
        match (self.lengths, self.content_length) {
            (0, _) => Ok(Framing::None),
            (1, Some(length)) => Ok(Framing::Length(length)),
            _ => Err(HeadError::ContentLength),
        }
    }
}

fn text<'b>(header: &Header<'b>) -> Result<&'b str, HeadError> {
    let value = std::str::from_utf8(header.value);
    value.map_err(|_| HeadError::Malformed("a field value is not text"))
}

/// Digits only: no sign, no space, no prefix, no overflow.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// RFC 9112 §3.2: exactly one Host in HTTP/1.1, and at most one ever. In absolute-form the target's
/// authority counts and Host is still required.
fn check_host(
    read: &ReadFields<'_>,
    version: Version,
    method: Method,
    target: &str,
) -> Result<(), HeadError> {
    if read.hosts > 1 || (version == Version::Http11 && read.hosts == 0) {
        return Err(HeadError::Host);
    }
    if !read.fields.host.is_none_or(is_host) {
        return Err(HeadError::Host);
    }
    // The authority-form belongs to CONNECT, which is refused later, by its name.
    let is_known = target.starts_with('/') || target == "*" || target.contains("://");
    if is_known || method == Method::NotAllowed {
        return Ok(());
    }
    Err(HeadError::Malformed("the target is neither a path, nor a URL, nor *"))
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2).
fn is_host(value: &str) -> bool {
    let host_end = value.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match value[host_end..].find(':') {
        Some(at) => value.split_at(host_end + at),
        None => (value, ""),
    };
    host.bytes().all(|byte| HOST_BYTES[byte as usize])
        && port.bytes().skip(1).all(|byte| byte.is_ascii_digit())
}

/// The bytes of a host (RFC 3986 §3.2.2).
const HOST_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~:[]%!$&'()*+,;=";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { request_line_bytes_max: 200, head_bytes_max: 1000 };

    fn outcome(input: &str) -> Result<(Method, Framing, bool), HeadError> {
        let mut headers = HeaderRoom::default();
        match parse(input.as_bytes(), &mut headers, &LIMITS)? {
            Parsed::Request(r) => Ok((r.method, r.framing, r.keep_alive)),
            Parsed::Partial => panic!("partial: {input:?}"),
        }
    }

    #[test]
    fn ordinary_requests_are_read() {
        let got = outcome("GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(got, Ok((Method::Get, Framing::None, true)));
        let got = outcome(
            "PUT /a HTTP/1.1\r\nhost: x:1\r\nContent-Length: 12\r\nConnection: x, Close\r\n\r\n",
        );
        assert_eq!(got, Ok((Method::Put, Framing::Length(12), false)));
        let got =
            outcome("POST http://h/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\n\r\n");
        assert_eq!(got, Ok((Method::Post, Framing::Chunked, true)));
        let got = outcome("GET /a HTTP/1.0\r\n\r\n");
        assert_eq!(got, Ok((Method::Get, Framing::None, false)));
    }

    #[test]
    fn ambiguous_requests_are_refused() {
        use HeadError::*;
        let cases: &[(&str, HeadError)] = &[
            ("Host: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", LengthAndEncoding),
            ("Host: x\r\nContent-Length: 1\r\nContent-Length: 1", ContentLength),
            ("Host: x\r\nContent-Length: 1, 1", ContentLength),
            ("Host: x\r\nContent-Length: +1", ContentLength),
            ("Host: x\r\nContent-Length: 0x1", ContentLength),
            ("Host: x\r\nContent-Length: 99999999999999999999", ContentLength),
            ("Host: x\r\nContent-Length: ", ContentLength),
            ("Host: x\r\nTransfer-Encoding: gzip, chunked", TransferCoding),
            ("Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", TransferCoding),
            (
                "Host: x\r\nTransfer-Encoding: \x0bchunked",
                Malformed("a field value has a control character"),
            ),
            ("Host: x\r\nHost: x", Host),
            ("Host: x y", Host),
            ("Host: x:http", Host),
            ("Host: x:1:2", Host),
            ("Host: [::1]:x", Host),
            ("X: y", Host),
            ("Host: x\r\nExpect: 200-ok", Expectation),
            ("Host : x", Malformed("a field name is not a token")),
            ("Host: x\r\n folded: y", Malformed("a field name is not a token")),
            ("Host: x\0", Malformed("a field value has a control character")),
            ("Host: x\rY: z", Malformed("a field value has a control character")),
        ];
        for (fields, wanted) in cases {
            let got = outcome(&format!("PUT /a HTTP/1.1\r\n{fields}\r\n\r\n"));
            assert_eq!(got.err(), Some(*wanted), "{fields:?}");
        }
        assert_eq!(outcome("GET /a HTTP/1.1\nHost: x\n\n"), Err(BareLineFeed));
        assert_eq!(outcome("GET /a HTTP/1.1\r\nHost: x\r\n\n"), Err(BareLineFeed));
        assert_eq!(outcome("GET /a HTTP/2.0\r\nHost: x\r\n\r\n"), Err(Version));
        let chunked10 = "PUT /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(outcome(chunked10), Err(EncodingInHttp10));
    }

    #[test]
    fn sizes_are_limited_before_the_head_is_complete() {
        let mut headers = HeaderRoom::default();
        let line = format!("GET /{}", "a".repeat(300));
        let got = parse(line.as_bytes(), &mut headers, &LIMITS);
        assert!(matches!(got, Err(HeadError::RequestLineTooLong)));
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}", "a".repeat(1000));
        let got = parse(head.as_bytes(), &mut headers, &LIMITS);
        assert!(matches!(got, Err(HeadError::HeadTooLarge)));
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(70));
        let got = parse(many.as_bytes(), &mut headers, &LIMITS);
        assert!(matches!(got, Err(HeadError::HeadTooLarge)));
    }

    proptest::proptest! {
        /// Goal: no bytes make the parser panic, and what it accepts is consumed within the input.
        #[test]
        fn any_bytes_are_survived(input in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let mut headers = HeaderRoom::default();
            if let Ok(Parsed::Request(request)) = parse(&input, &mut headers, &LIMITS) {
                assert!(request.head_bytes <= input.len());
            }
        }
    }
}
