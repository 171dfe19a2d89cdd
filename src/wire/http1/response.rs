//! Write response heads and chunk headers into a buffer. Values come from this program or were
//! checked by the request parser, so a line break can never be injected; it is asserted all the same.

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes one response head; `end` finishes it.
pub struct HeadWriter<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> HeadWriter<'o> {
    pub fn new(out: &'o mut Vec<u8>, status: u16) -> HeadWriter<'o> {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(reason(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        HeadWriter { out }
    }

    /// Go on with a head whose first lines are in `out` already.
    pub fn resume(out: &'o mut Vec<u8>) -> HeadWriter<'o> {
        HeadWriter { out }
    }

    pub fn field(&mut self, name: &str, value: &str) -> &mut Self {
        assert!(!value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{name}: {value:?}");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        self
    }

    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.field(name, itoa::Buffer::new().format(value))
    }

    /// A date in the one form that is to be sent (RFC 9110 §5.6.7).
    pub fn date(&mut self, name: &str, unix_s: u64) -> &mut Self {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        super::write_date(self.out, unix_s);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Lines that are complete already, each with its CR LF.
    pub fn lines(&mut self, lines: &[u8]) -> &mut Self {
        debug_assert!(lines.is_empty() || lines.ends_with(b"\r\n"));
        self.out.extend_from_slice(lines);
        self
    }

    pub fn end(&mut self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

/// A chunk-size line, made without allocation.
pub struct Chunk {
    line: [u8; 18],
    len: u8,
}

impl Chunk {
    /// What stands behind a chunk's data.
    pub const END: &'static [u8] = b"\r\n";

    /// The line in front of a chunk of `size` bytes, which must not be 0: that would end the body.
    pub fn header(size: u64) -> Chunk {
        assert!(size > 0);
        let mut line = [0; 18];
        let digits = (67 - size.leading_zeros() as usize) / 4;
        for (i, place) in line[..digits].iter_mut().enumerate() {
            let digit = (size >> (4 * (digits - 1 - i))) & 0xf;
            *place = b"0123456789abcdef"[digit as usize];
        }
        line[digits..digits + 2].copy_from_slice(b"\r\n");
        Chunk { line, len: digits as u8 + 2 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.line[..self.len as usize]
    }
}

/// The `Date` line (RFC 9110 §6.6.1), made once a second.
#[derive(Default)]
pub struct DateLine {
    seconds: u64,
    line: Vec<u8>,
}

impl DateLine {
    pub fn at(&mut self, unix_s: u64) -> &[u8] {
        if self.seconds != unix_s || self.line.is_empty() {
            self.seconds = unix_s;
            self.line.clear();
            self.line.extend_from_slice(b"Date: ");
            super::condition::write_date(&mut self.line, unix_s);
            self.line.extend_from_slice(b"\r\n");
        }
        &self.line
    }
}

/// The reason phrase of a status that this server sends (RFC 9110 §15).
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_lines_are_hexadecimal() {
        for size in [1, 9, 15, 16, 255, 256, 4095, 4096, 65_536, u64::MAX] {
            assert_eq!(Chunk::header(size).as_bytes(), format!("{size:x}\r\n").as_bytes());
        }
    }

    #[test]
    fn a_head_is_lines() {
        let mut out = Vec::new();
        HeadWriter::new(&mut out, 204).field("A", "b").number("C", 7).lines(b"D: e\r\n").end();
        assert_eq!(out, b"HTTP/1.1 204 No Content\r\nA: b\r\nC: 7\r\nD: e\r\n\r\n");
    }
}
