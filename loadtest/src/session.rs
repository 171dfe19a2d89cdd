//! The WebSocket of one reader: the answer to the handshake, then messages, of which it keeps what
//! each door promises about kinds and texts, and answers to pings and the close. No I/O, like
//! the parsers below it; whether the bytes are right, the reader knows.

use crate::door::{Egress, ReadDoor};
use crate::http::{Event as HttpEvent, Response};
use crate::outcome::Fault;
use crate::websocket::{self, Event, Frames, Keys, Kind, Opcode};

/// ws-stream-server's heartbeat, in either direction.
pub(crate) const HEARTBEAT: &[u8] = b"h";
/// As much of a text is kept to be quoted.
const TEXT_BYTES_MAX: usize = 200;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got<'a> {
    /// Bytes of the object, and whether a message ends behind them; none of them if it is empty.
    Body { bytes: &'a [u8], is_last: bool },
    /// A ping or a heartbeat: it says that the server is alive and nothing else.
    Heartbeat,
    /// The server ends the connection, properly or for a reason.
    Closed { code: Option<u16>, reason: String },
    /// All input is used up.
    NeedMore,
}

pub(crate) struct Session {
    door: ReadDoor,
    protocol: &'static str,
    response: Response,
    is_open: bool,
    frames: Frames,
    /// The text message under way.
    text: Vec<u8>,
    keys: Keys,
    answers: Vec<u8>,
}

impl Session {
    pub(crate) fn new(egress: &Egress) -> Session {
        Session {
            door: egress.door,
            protocol: egress.protocol(),
            response: Response::new(),
            is_open: false,
            frames: Frames::new(),
            text: Vec::new(),
            keys: Keys::new(),
            answers: Vec::new(),
        }
    }

    /// What is to be sent for what came: pongs, and a close frame for a close frame.
    pub(crate) fn take_answers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answers)
    }

    /// The next thing in `input`, which is advanced past what was used.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Got<'a>, Fault> {
        if !self.is_open && !self.open(input)? {
            return Ok(Got::NeedMore);
        }
        loop {
            let event = self.frames.next(input).map_err(|error| Fault::Corrupt(error.to_string()));
            let got = match event? {
                Event::Data { kind: Kind::Binary, bytes, is_last } => {
                    Some(Got::Body { bytes, is_last })
                }
                Event::Data { kind: Kind::Text, bytes, is_last } => self.text(bytes, is_last)?,
                Event::Ping(payload) => {
                    self.answers.extend(websocket::frame(Opcode::Pong, &payload, &mut self.keys));
                    Some(Got::Heartbeat)
                }
                Event::Pong => None,
                Event::Close { code, reason } => {
                    // Its answer names the same code, or a proper end where there is none.
                    let code_back = code.unwrap_or(1000);
                    self.answers.extend(websocket::close_frame(code_back, &mut self.keys));
                    Some(Got::Closed { code, reason })
                }
                Event::NeedMore => Some(Got::NeedMore),
            };
            if let Some(got) = got {
                return Ok(got);
            }
        }
    }

    /// Whether the WebSocket is open; if not, more input is needed.
    fn open(&mut self, input: &mut &[u8]) -> Result<bool, Fault> {
        if !self.is_open {
            let head = match self.response.next(input) {
                Ok(HttpEvent::Head(head)) => head,
                Ok(_) => return Ok(false),
                Err(error) => return Err(Fault::Corrupt(error.to_string())),
            };
            if head.status != 101 {
                return Err(Fault::Lost(format!("the server answered {}", head.status)));
            }
            websocket::check_upgrade(&head.upgrade, self.protocol).map_err(Fault::Lost)?;
            self.is_open = true;
        }
        Ok(true)
    }

    /// A follower's only text is the empty one behind what was there; a receiver's are heartbeats,
    /// or tell what is wrong.
    fn text<'a>(&mut self, bytes: &[u8], is_last: bool) -> Result<Option<Got<'a>>, Fault> {
        let room = TEXT_BYTES_MAX - self.text.len();
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if !is_last {
            return Ok(None);
        }
        let text = std::mem::take(&mut self.text);
        match (self.door, text.as_slice()) {
            (ReadDoor::Receive, HEARTBEAT) => Ok(Some(Got::Heartbeat)),
            (ReadDoor::Receive, text) => {
                let text = String::from_utf8_lossy(text);
                Err(Fault::Lost(format!("the server said \"{text}\"")))
            }
            (_, []) => Ok(Some(Got::Body { bytes: &[], is_last: true })),
            (_, _) => Err(Fault::Corrupt("text came where binary was agreed on".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;

    const OPEN: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

    fn session(door: ReadDoor) -> Session {
        let target = Target::parse("http://127.0.0.1:1/a/b/receive").unwrap();
        Session::new(&Egress { target, door, in_messages: true })
    }

    /// All that a session makes of bytes in pieces, and what it would answer.
    fn feed(door: ReadDoor, wire: &[u8], piece: usize) -> Result<(Vec<String>, Vec<u8>), Fault> {
        let mut session = session(door);
        let mut all = Vec::new();
        for mut input in wire.chunks(piece) {
            loop {
                match session.next(&mut input)? {
                    Got::NeedMore => break,
                    got => all.push(format!("{got:?}")),
                }
            }
        }
        Ok((all, session.take_answers()))
    }

    #[test]
    fn a_receiver_gets_chunks_and_answers_what_must_be() {
        let head = format!("{OPEN}\r\n");
        let wire = [head.as_bytes(), b"\x82\x02ab\x81\x01h\x89\x01p\x82\x00\x88\x02\x03\xe8"];
        for piece in [1, 7, 1000] {
            let (all, answers) = feed(ReadDoor::Receive, &wire.concat(), piece).unwrap();
            let last = [
                "Heartbeat",
                "Heartbeat",
                "Body { bytes: [], is_last: true }",
                "Closed { code: Some(1000), reason: \"\" }",
            ];
            assert_eq!(all[all.len() - 4..], last);
            // A masked pong of one byte and a masked close of two.
            assert_eq!(
                (answers.len(), &answers[..2], &answers[7..9]),
                (15, &[0x8a, 0x81][..], &[0x88, 0x82][..])
            );
        }
    }

    #[test]
    fn a_server_that_says_something_else_is_quoted() {
        let error = |door, head: &str, frames: &[u8]| {
            feed(door, &[head.as_bytes(), frames].concat(), 5).unwrap_err().to_string()
        };
        let open = format!("{OPEN}\r\n");
        let said = error(ReadDoor::Receive, &open, b"\x81\x08ERROR: x");
        assert_eq!(said, "the server said \"ERROR: x\"");
        let not_found = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(error(ReadDoor::Follow, not_found, b""), "the server answered 404");
        assert!(error(ReadDoor::Follow, &open, b"").contains("Sec-WebSocket-Protocol"));
        let binary = format!("{OPEN}Sec-WebSocket-Protocol: binary\r\n\r\n");
        assert!(error(ReadDoor::Follow, &binary, b"\x81\x01a").contains("text"));
    }

    #[test]
    fn a_follower_is_told_where_the_beginning_ends() {
        let head = format!("{OPEN}Sec-WebSocket-Protocol: binary\r\n\r\n");
        let wire = [head.as_bytes(), b"\x82\x01a\x81\x00\x82\x01b"].concat();
        let (all, answers) = feed(ReadDoor::Follow, &wire, 1).unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all[1], "Body { bytes: [], is_last: true }");
        assert!(answers.is_empty());
    }
}
