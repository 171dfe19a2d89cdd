//! The body of a plain answer, without I/O: with a length, in chunks, or up to the end of the
//! connection. What has a proper end is told from what was cut.

use bytes::{Buf, Bytes, BytesMut};

use super::dial::Answer;
use super::failure::ClientError;

const LINE_BYTES_MAX: usize = 8 << 10;

/// | state | left when |
/// |---|---|
/// | `Length`, `Chunk` | so many bytes have come |
/// | `ChunkHead` | its line is whole; a chunk of 0 leads to `Trailer` |
/// | `ChunkEnd` | CRLF has come |
/// | `Trailer` | an empty line has come |
/// | `UntilClose`, `Ended` | never |
#[derive(Debug)]
pub(super) enum PlainBody {
    Length(u64),
    ChunkHead,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    UntilClose,
    Ended,
}

/// What of a body can be had now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Bytes(Bytes),
    NotYet,
    End,
}

impl PlainBody {
    pub(super) fn of(answer: &Answer) -> Result<PlainBody, ClientError> {
        if answer.has_word("Transfer-Encoding", "chunked") {
            return Ok(PlainBody::ChunkHead);
        }
        match (answer.field("Content-Length"), answer.number("Content-Length")) {
            (_, Some(length)) => Ok(PlainBody::Length(length)),
            (None, None) => Ok(PlainBody::UntilClose),
            (Some(_), None) => Err(ClientError::BadAnswer("its length is no number")),
        }
    }

    pub(super) fn next(&mut self, received: &mut BytesMut) -> Result<Piece, ClientError> {
        loop {
            match self {
                PlainBody::Length(0) => *self = PlainBody::Ended,
                PlainBody::Chunk(0) => *self = PlainBody::ChunkEnd,
                PlainBody::Length(left) | PlainBody::Chunk(left) => {
                    let length = received.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= length as u64;
                    return Ok(piece(received, length));
                }
                PlainBody::UntilClose => {
                    let length = received.len();
                    return Ok(piece(received, length));
                }
                PlainBody::Ended => return Ok(Piece::End),
                PlainBody::ChunkHead => {
                    let bad = |_| ClientError::BadAnswer("a chunk has no length");
                    match httparse::parse_chunk_size(received).map_err(bad)? {
                        httparse::Status::Complete((head_bytes, length)) => {
                            received.advance(head_bytes);
                            let is_last = length == 0;
                            *self = if is_last { Self::Trailer } else { Self::Chunk(length) };
                        }
                        httparse::Status::Partial => return not_yet(received),
                    }
                }
                PlainBody::ChunkEnd => match take_line(received) {
                    Some(0) => *self = PlainBody::ChunkHead,
                    Some(_) => return Err(ClientError::BadAnswer("a chunk is too long")),
                    None => return not_yet(received),
                },
                PlainBody::Trailer => match take_line(received) {
                    Some(0) => *self = PlainBody::Ended,
                    Some(_) => {}
                    None => return not_yet(received),
                },
            }
        }
    }

    /// Whether the body is whole when the connection ends now.
    pub(super) fn may_end(&self) -> bool {
        matches!(self, PlainBody::UntilClose | PlainBody::Ended)
    }
}

fn piece(received: &mut BytesMut, length: usize) -> Piece {
    if length == 0 { Piece::NotYet } else { Piece::Bytes(received.split_to(length).freeze()) }
}

/// A line of framing is still to come.
fn not_yet(received: &BytesMut) -> Result<Piece, ClientError> {
    if received.len() > LINE_BYTES_MAX {
        return Err(ClientError::BadAnswer("a line of its body is too long"));
    }
    Ok(Piece::NotYet)
}

/// Drop a line, and say how long it was without CRLF.
fn take_line(received: &mut BytesMut) -> Option<usize> {
    let end = received.windows(2).position(|pair| pair == b"\r\n")?;
    received.advance(end + 2);
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a body given in pieces of `step`, and whether it has ended.
    fn read(
        mut body: PlainBody,
        wire: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, PlainBody), ClientError> {
        let (mut received, mut bytes) = (BytesMut::new(), Vec::new());
        for part in wire.chunks(step) {
            received.extend_from_slice(part);
            while let Piece::Bytes(more) = body.next(&mut received)? {
                bytes.extend(more);
            }
        }
        Ok((bytes, body))
    }

    #[test]
    fn every_framing_has_its_end() {
        let chunked = b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n";
        for step in 1..chunked.len() {
            let (bytes, body) = read(PlainBody::ChunkHead, chunked, step).unwrap();
            assert_eq!(bytes, b"abc0123456789");
            assert!(body.may_end(), "step {step}: {body:?}");
            let cut = &chunked[..chunked.len() - 1];
            assert!(!read(PlainBody::ChunkHead, cut, step).unwrap().1.may_end());
        }
        let (bytes, body) = read(PlainBody::Length(4), b"abcd", 3).unwrap();
        assert!(bytes == b"abcd" && body.may_end());
        assert!(!read(PlainBody::Length(5), b"abcd", 3).unwrap().1.may_end());
        let (bytes, body) = read(PlainBody::Length(0), b"next", 4).unwrap();
        assert!(bytes.is_empty() && body.may_end());
        assert!(read(PlainBody::UntilClose, b"abcd", 3).unwrap().1.may_end());
    }

    #[test]
    fn wrong_chunks_are_errors() {
        for wire in [&b"x\r\n"[..], b"1\r\nab\r\n", &[b'0'; 9000]] {
            assert!(read(PlainBody::ChunkHead, wire, 10_000).is_err());
        }
    }
}
