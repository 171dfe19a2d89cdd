//! Undo the framing of a request body (RFC 9112 §6, §7.1): Content-Length or chunked.
//!
//! The decoder holds a few numbers and no bytes: it is fed what has arrived and hands on the payload
//! in place. It never reads beyond the body: what follows is the next request.
//!
//! | state (chunked) | left by |
//! |---|---|
//! | Size | a hexadecimal digit stays; `;` or BWS → Extension; CR → SizeLf |
//! | Extension | CR → SizeLf |
//! | SizeLf | LF → Data, or Trailer if the size was 0 |
//! | Data | the last byte → DataCr → DataLf → Size |
//! | Trailer | a line that is a field; an empty line → End |

use super::request::Framing;

/// A chunk-size line with its extensions.
pub const CHUNK_LINE_BYTES_MAX: usize = 4096;
/// All trailer fields together.
pub const TRAILER_BYTES_MAX: usize = 8192;
/// 2^60: no object is longer, and no sum overflows.
const SIZE_DIGITS_MAX: usize = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("a chunk size is not a hexadecimal number below 2^60 (RFC 9112 §7.1)")]
    ChunkSize,
    #[error("a chunk-size line is longer than {CHUNK_LINE_BYTES_MAX} bytes")]
    ChunkLineTooLong,
    #[error("a chunk does not end in CR LF where its size says")]
    ChunkEnd,
    #[error("a line of the chunked coding has a stray byte, or a trailer line is not a field")]
    StrayByte,
    #[error("the trailer is longer than {TRAILER_BYTES_MAX} bytes")]
    TrailerTooLong,
}

/// What a call of [`BodyDecoder::decode`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that belong to the body.
    pub consumed: usize,
    /// The body is complete.
    pub finished: bool,
}

#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Length { left: u64 },
    Size { value: u64, digits: usize },
    Extension { size: u64, line_bytes: usize, seen_semicolon: bool },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer { bytes: usize, line: TrailerLine },
    TrailerLf { bytes: usize, line: TrailerLine },
    End,
}

/// How far a trailer line has come: it must be a field (RFC 9112 §7.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrailerLine {
    Empty,
    Name,
    Value,
}

const NEXT_CHUNK: State = State::Size { value: 0, digits: 0 };

impl BodyDecoder {
    pub fn new(framing: Framing) -> BodyDecoder {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::End,
            Framing::Length(left) => State::Length { left },
            Framing::Chunked => NEXT_CHUNK,
        };
        BodyDecoder { state }
    }

    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Take what belongs to the body from `input`; `payload` gets its pieces in order.
    pub fn decode<'b>(
        &mut self,
        input: &'b [u8],
        payload: &mut impl FnMut(&'b [u8]),
    ) -> Result<Progress, BodyError> {
        let mut at = 0;
        while at < input.len() && !self.is_finished() {
            if let State::Length { left } | State::Data { left } = &mut self.state {
                let piece = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len() - at);
                payload(&input[at..at + piece]);
                at += piece;
                *left -= piece as u64;
                if *left == 0 {
                    let is_chunk = matches!(self.state, State::Data { .. });
                    self.state = if is_chunk { State::DataCr } else { State::End };
                }
                continue;
            }
            self.state = step(self.state, input[at])?;
            at += 1;
        }
        Ok(Progress { consumed: at, finished: self.is_finished() })
    }
}

/// One byte of the chunked coding's own lines.
fn step(state: State, byte: u8) -> Result<State, BodyError> {
    match state {
        State::Size { value, digits } => step_size(value, digits, byte),
        State::Extension { size, line_bytes, seen_semicolon } => {
            step_extension(size, line_bytes, seen_semicolon, byte)
        }
        State::SizeLf { size } => match (byte, size) {
            (b'\n', 0) => Ok(State::Trailer { bytes: 0, line: TrailerLine::Empty }),
            (b'\n', left) => Ok(State::Data { left }),
            _ => Err(BodyError::StrayByte),
        },
        State::DataCr if byte == b'\r' => Ok(State::DataLf),
        State::DataLf if byte == b'\n' => Ok(NEXT_CHUNK),
        State::DataCr | State::DataLf => Err(BodyError::ChunkEnd),
        State::Trailer { bytes, line } => step_trailer(bytes, line, byte),
        State::TrailerLf { bytes, line } => match (byte, line) {
            (b'\n', TrailerLine::Empty) => Ok(State::End),
            (b'\n', TrailerLine::Value) => Ok(State::Trailer { bytes, line: TrailerLine::Empty }),
            _ => Err(BodyError::StrayByte),
        },
        State::Length { .. } | State::Data { .. } | State::End => unreachable!("handled by decode"),
    }
}

fn step_size(value: u64, digits: usize, byte: u8) -> Result<State, BodyError> {
    if let Some(digit) = (byte as char).to_digit(16) {
        if digits == SIZE_DIGITS_MAX {
            return Err(BodyError::ChunkSize);
        }
        return Ok(State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 });
    }
    if digits == 0 {
        return Err(BodyError::ChunkSize);
    }
    match byte {
        b'\r' => Ok(State::SizeLf { size: value }),
        // RFC 9112 §7.1.1: blanks may stand before the semicolon of an extension.
        b';' | b' ' | b'\t' => Ok(State::Extension {
            size: value,
            line_bytes: digits + 1,
            seen_semicolon: byte == b';',
        }),
        _ => Err(BodyError::ChunkSize),
    }
}

/// Extensions are skipped (RFC 9112 §7.1.1: unknown ones are ignored).
fn step_extension(size: u64, line_bytes: usize, seen: bool, byte: u8) -> Result<State, BodyError> {
    if line_bytes >= CHUNK_LINE_BYTES_MAX {
        return Err(BodyError::ChunkLineTooLong);
    }
    match byte {
        b'\r' if seen => Ok(State::SizeLf { size }),
        b';' => Ok(State::Extension { size, line_bytes: line_bytes + 1, seen_semicolon: true }),
        b' ' | b'\t' => {
            Ok(State::Extension { size, line_bytes: line_bytes + 1, seen_semicolon: seen })
        }
        _ if !seen => Err(BodyError::ChunkSize),
        _ if byte.is_ascii_control() => Err(BodyError::StrayByte),
        _ => Ok(State::Extension { size, line_bytes: line_bytes + 1, seen_semicolon: true }),
    }
}

/// Trailer fields are read past: none of them may change what was already visible (RFC 9110 §6.5.1).
fn step_trailer(bytes: usize, line: TrailerLine, byte: u8) -> Result<State, BodyError> {
    if bytes >= TRAILER_BYTES_MAX {
        return Err(BodyError::TrailerTooLong);
    }
    let bytes = bytes + 1;
    let line = match (line, byte) {
        (TrailerLine::Empty | TrailerLine::Value, b'\r') => {
            return Ok(State::TrailerLf { bytes, line });
        }
        (TrailerLine::Name, b':') => TrailerLine::Value,
        (TrailerLine::Empty | TrailerLine::Name, _) if is_token_byte(byte) => TrailerLine::Name,
        (TrailerLine::Value, b'\t') => TrailerLine::Value,
        (TrailerLine::Value, _) if !byte.is_ascii_control() => TrailerLine::Value,
        _ => return Err(BodyError::StrayByte),
    };
    Ok(State::Trailer { bytes, line })
}

/// A byte of a field name (RFC 9110 §5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decode `input` cut into pieces of `step` bytes; the payload, and what was left over.
    fn decode(
        framing: Framing,
        input: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, usize, bool), BodyError> {
        let mut decoder = BodyDecoder::new(framing);
        let (mut payload, mut consumed) = (Vec::new(), 0);
        for piece in input.chunks(step) {
            let progress = decoder.decode(piece, &mut |bytes| payload.extend_from_slice(bytes))?;
            consumed += progress.consumed;
            if progress.finished {
                break;
            }
        }
        Ok((payload, consumed, decoder.is_finished()))
    }

    #[test]
    fn chunked_bodies_decode_the_same_in_any_pieces() {
        let input =
            b"5\r\nhello\r\n1;a=\"b\"\r\n \r\n00006 ; x\r\nworld!\r\n0\r\nX-T: 1\r\n\r\nGET /";
        for step in 1..input.len() {
            let (payload, consumed, finished) = decode(Framing::Chunked, input, step).unwrap();
            assert_eq!(payload, b"hello world!", "in pieces of {step}");
            assert_eq!(consumed, input.len() - 5);
            assert!(finished);
        }
    }

    #[test]
    fn a_length_ends_where_it_says() {
        let got = decode(Framing::Length(3), b"abcdef", 2).unwrap();
        assert_eq!(got, (b"abc".to_vec(), 3, true));
        assert_eq!(decode(Framing::Length(9), b"abc", 2).unwrap(), (b"abc".to_vec(), 3, false));
        assert!(BodyDecoder::new(Framing::Length(0)).is_finished());
    }

    #[test]
    fn doubtful_framing_is_refused() {
        use BodyError::*;
        let long_line = format!("1;{}\r\n", "x".repeat(5000));
        let long_trailer = format!("0\r\nA: {}", "x".repeat(9000));
        let cases: &[(&str, BodyError)] = &[
            ("\r\n", ChunkSize),
            ("x\r\n", ChunkSize),
            ("-1\r\n", ChunkSize),
            ("0x1\r\n", ChunkSize),
            ("+1\r\n", ChunkSize),
            ("1_0\r\n", ChunkSize),
            (" 1\r\n", ChunkSize),
            ("1 \r\na\r\n", ChunkSize),
            ("1000000000000000\r\n", ChunkSize),
            ("ffffffffffffffffff\r\n", ChunkSize),
            ("1\na\r\n", ChunkSize),
            ("1\rxa", StrayByte),
            ("1;a\n", StrayByte),
            ("1;\0\r\n", StrayByte),
            ("1\r\nab\r\n", ChunkEnd),
            ("1\r\na\nb", ChunkEnd),
            ("0\r\nA\n\r\n", StrayByte),
            ("0\r\n\rx", StrayByte),
            ("0\r\nno field\r\n", StrayByte),
            ("0\r\n folded: x\r\n", StrayByte),
            ("0\r\nA : b\r\n", StrayByte),
            ("0\r\n: b\r\n", StrayByte),
            (&long_line, ChunkLineTooLong),
            (&long_trailer, TrailerTooLong),
        ];
        for (input, wanted) in cases {
            let got = decode(Framing::Chunked, input.as_bytes(), 7);
            assert_eq!(got.as_ref().err(), Some(wanted), "{input:.20?}: {got:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(input in proptest::collection::vec(proptest::num::u8::ANY, 0..300), step in 1usize..50) {
            let _ = decode(Framing::Chunked, &input, step);
        }
    }
}
