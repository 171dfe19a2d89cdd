//! An incremental parser for `multipart/x-mixed-replace`, whose parts tell their lengths. No I/O: takes
//! the body of a response, gives events that borrow it.
//!
//! The delimiter is what the body begins with, and must stay the same: servers differ in what they
//! write into the Content-Type.
//!
//! | state | left by |
//! |---|---|
//! | First | `first`: the first line is there; it is the delimiter |
//! | Head | `head`: the empty line is there |
//! | Body | `body`: as many bytes as the head has told |
//! | Delimiter | `delimiter`: a line end and the delimiter |

/// A delimiter, or the head of a part, may not be longer than this.
const LINES_BYTES_MAX: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// A part of so many bytes begins.
    Part { length: u64 },
    /// Bytes of it, and whether they are its last.
    Bytes { bytes: &'a [u8], is_last: bool },
    /// All input is used up.
    NeedMore,
}

/// Neither a delimiter nor a head where one has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Head,
    Body { left: u64 },
    Delimiter { at: usize },
}

pub(crate) struct Parts {
    state: State,
    /// The line end in front of a delimiter, the delimiter, and the line end behind it.
    delimiter: Vec<u8>,
    lines: Vec<u8>,
}

impl Parts {
    pub(crate) fn new() -> Parts {
        Parts { state: State::First, delimiter: b"\r\n".to_vec(), lines: Vec::new() }
    }

    /// Whether the body may end here: behind a part, or the delimiter behind it.
    pub(crate) fn is_between(&self) -> bool {
        match self.state {
            State::Head => self.lines.is_empty(),
            State::Delimiter { at } => at == 0,
            State::First | State::Body { .. } => false,
        }
    }

    /// The next event in `input`, which is advanced past what was used.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Event<'a>, Malformed> {
        while !input.is_empty() {
            match self.state {
                State::First => self.first(input)?,
                State::Delimiter { at } => self.delimiter(at, input)?,
                State::Head => {
                    if let Some(length) = self.head(input)? {
                        return Ok(Event::Part { length });
                    }
                }
                State::Body { left } => return Ok(self.body(left, input)),
            }
        }
        Ok(Event::NeedMore)
    }

    fn first(&mut self, input: &mut &[u8]) -> Result<(), Malformed> {
        if !self.line(input)? {
            return Ok(());
        }
        if !self.lines.starts_with(b"--") || !self.lines.ends_with(b"\r\n") {
            return Err(Malformed("the body does not begin with a delimiter"));
        }
        self.delimiter.append(&mut self.lines);
        self.state = State::Head;
        Ok(())
    }

    /// Takes bytes up to and with a line feed; false if there is none yet.
    fn line(&mut self, input: &mut &[u8]) -> Result<bool, Malformed> {
        let end = input.iter().position(|byte| *byte == b'\n').map_or(input.len(), |at| at + 1);
        let (line, rest) = input.split_at(end);
        if self.lines.len() + line.len() > LINES_BYTES_MAX {
            return Err(Malformed("a delimiter or the head of a part is too long"));
        }
        self.lines.extend_from_slice(line);
        *input = rest;
        Ok(line.ends_with(b"\n"))
    }

    /// The length of the part, once its head is whole.
    fn head(&mut self, input: &mut &[u8]) -> Result<Option<u64>, Malformed> {
        let is_whole = self.line(input)? && self.lines.ends_with(b"\r\n\r\n");
        if !is_whole {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&self.lines).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.and_then(|length| length.trim().parse().ok());
        let length = length.filter(|length| *length > 0);
        let length = length.ok_or(Malformed("a part without a length"))?;
        self.lines.clear();
        self.state = State::Body { left: length };
        Ok(Some(length))
    }

    fn body<'a>(&mut self, left: u64, input: &mut &'a [u8]) -> Event<'a> {
        let length = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        let (bytes, rest) = input.split_at(length);
        *input = rest;
        let left = left - length as u64;
        self.state = if left == 0 { State::Delimiter { at: 0 } } else { State::Body { left } };
        Event::Bytes { bytes, is_last: left == 0 }
    }

    fn delimiter(&mut self, at: usize, input: &mut &[u8]) -> Result<(), Malformed> {
        let length = input.len().min(self.delimiter.len() - at);
        let (bytes, rest) = input.split_at(length);
        if *bytes != self.delimiter[at..at + length] {
            return Err(Malformed("no delimiter behind a part"));
        }
        *input = rest;
        let at = at + length;
        let is_whole = at == self.delimiter.len();
        self.state = if is_whole { State::Head } else { State::Delimiter { at } };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: 5\r\n\r\nfirst\r\n--x\r\n\
        content-length:2\r\n\r\nab\r\n--x\r\n";

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Parsed {
        lengths: Vec<u64>,
        parts: Vec<Vec<u8>>,
        may_end: bool,
    }

    fn parse(body: &[u8], piece: usize) -> Result<Parsed, Malformed> {
        let (mut parser, mut parsed, mut part) = (Parts::new(), Parsed::default(), Vec::new());
        for mut input in body.chunks(piece) {
            loop {
                match parser.next(&mut input)? {
                    Event::Part { length } => parsed.lengths.push(length),
                    Event::Bytes { bytes, is_last } => {
                        part.extend_from_slice(bytes);
                        if is_last {
                            parsed.parts.push(std::mem::take(&mut part));
                        }
                    }
                    Event::NeedMore => break,
                }
            }
        }
        Ok(Parsed { may_end: parser.is_between(), ..parsed })
    }

    #[test]
    fn pieces_of_any_length_are_parts() {
        for piece in 1..=BODY.len() {
            let parsed = parse(BODY, piece).unwrap();
            assert_eq!(parsed.lengths, [5, 2], "pieces of {piece}");
            assert_eq!(parsed.parts, [b"first".to_vec(), b"ab".to_vec()], "pieces of {piece}");
            assert!(parsed.may_end);
        }
        // Where the delimiter comes in front of the next part only.
        assert!(parse(&BODY[..BODY.len() - 7], 9).unwrap().may_end);
    }

    #[test]
    fn what_is_torn_is_found() {
        for at in [BODY.len() - 1, BODY.len() - 8, 60, 52, 20, 3] {
            assert!(!parse(&BODY[..at], 7).unwrap().may_end, "ends at {at}");
        }
        for (from, to) in
            [("--x", "x-x"), ("5", "4"), ("5", "6"), ("th: 5", "th: five"), ("5", "0")]
        {
            let text = String::from_utf8_lossy(BODY).replacen(from, to, 1);
            assert!(parse(text.as_bytes(), 7).is_err(), "{text}");
        }
        let text = String::from_utf8_lossy(BODY).replace("--x\r\nc", "--y\r\nc");
        assert!(parse(text.as_bytes(), 7).is_err(), "another delimiter");
        assert!(parse(&[b'-'; 2000], 7).is_err(), "an endless one");
    }
}
