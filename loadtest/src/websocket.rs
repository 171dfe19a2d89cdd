//! The client's half of RFC 6455: the answer to a handshake, an incremental parser for the frames of
//! a server, which come unmasked, and masked frames to send. No I/O: takes received bytes, gives
//! events that borrow them.
//!
//! | state | left by |
//! |---|---|
//! | Head | `head`: its 2, 4 or 10 bytes are there |
//! | Data | `data`: all bytes of the frame are there |
//! | Control | `control`: all bytes of the frame are there |
//! | Closed | never: nothing counts behind a close frame |

use std::fmt;

use crate::http::Upgrade;

/// The example of RFC 6455 §1.3 and its answer. The same key in every handshake: it is there to
/// tell a server from a cache, and on this machine there is none between the two.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const CONTROL_BYTES_MAX: usize = 125;
const HEAD_BYTES_MAX: usize = 10;
const KEY_BYTES: usize = 4;
const LAST: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Binary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text = 1,
    Binary = 2,
    Close = 8,
    Pong = 10,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// Bytes of a message, in order; none of them if it is empty.
    Data {
        kind: Kind,
        bytes: &'a [u8],
        is_last: bool,
    },
    /// What a pong has to carry.
    Ping(Vec<u8>),
    Pong,
    Close {
        code: Option<u16>,
        reason: String,
    },
    /// All input is used up.
    NeedMore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameError {
    ReservedBits,
    UnknownOpcode,
    Masked,
    LengthForm,
    LongControl,
    FragmentedControl,
    NothingToContinue,
    MessageWithinMessage,
    MalformedClose,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FrameError::ReservedBits => "a frame has reserved bits set",
            FrameError::UnknownOpcode => "a frame has an unknown opcode",
            FrameError::Masked => "a frame of the server is masked",
            FrameError::LengthForm => "the length of a frame is not in its shortest form",
            FrameError::LongControl => "a control frame is longer than 125 bytes",
            FrameError::FragmentedControl => "a control frame is fragmented",
            FrameError::NothingToContinue => "a continuation frame without a message",
            FrameError::MessageWithinMessage => "a message begins within another",
            FrameError::MalformedClose => "a close frame is malformed",
        })
    }
}

impl std::error::Error for FrameError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Data { kind: Kind, left: u64, is_final: bool },
    Control { opcode: u8, length: usize },
    Closed,
}

/// The frames of one server on one connection.
pub(crate) struct Frames {
    state: State,
    /// The head of the next frame as far as it is there, or the payload of a control frame.
    part: Vec<u8>,
    /// The message that has begun and not ended.
    message: Option<Kind>,
}

impl Frames {
    pub(crate) fn new() -> Frames {
        Frames { state: State::Head, part: Vec::new(), message: None }
    }

    /// The next event in `input`, which is advanced past what was used.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Event<'a>, FrameError> {
        loop {
            let event = match self.state {
                State::Closed => {
                    *input = &[];
                    Some(Event::NeedMore)
                }
                // An empty frame needs no more input than its head.
                State::Data { kind, left, is_final } if left == 0 || !input.is_empty() => {
                    self.data(kind, left, is_final, input)
                }
                State::Control { opcode, length } if length == 0 || !input.is_empty() => {
                    self.control(opcode, length, input)?
                }
                _ if input.is_empty() => Some(Event::NeedMore),
                _ => {
                    self.head(input)?;
                    None
                }
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    fn head(&mut self, input: &mut &[u8]) -> Result<(), FrameError> {
        self.gather(2, input);
        let &[first, second, ..] = self.part.as_slice() else { return Ok(()) };
        if second & MASKED != 0 {
            return Err(FrameError::Masked);
        }
        let head_bytes = match second {
            LENGTH_16 => 4,
            LENGTH_64 => HEAD_BYTES_MAX,
            _ => 2,
        };
        self.gather(head_bytes, input);
        if self.part.len() < head_bytes {
            return Ok(());
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let length = match head_bytes {
            2 => u64::from(second),
            _ => number(&self.part[2..]),
        };
        let shortest = match head_bytes {
            2 => 0,
            4 => u64::from(LENGTH_16),
            _ => 1 << 16,
        };
        if length < shortest || length > i64::MAX as u64 {
            return Err(FrameError::LengthForm);
        }
        self.part.clear();
        self.state = self.frame(first, length)?;
        Ok(())
    }

    /// What a frame with this first byte and length is, here and now.
    fn frame(&mut self, first: u8, length: u64) -> Result<State, FrameError> {
        if first & RESERVED != 0 {
            return Err(FrameError::ReservedBits);
        }
        let is_final = first & LAST != 0;
        let kind = match (first & 0xf, self.message) {
            (0, None) => return Err(FrameError::NothingToContinue),
            (0, Some(kind)) => kind,
            (1 | 2, Some(_)) => return Err(FrameError::MessageWithinMessage),
            (1, None) => Kind::Text,
            (2, None) => Kind::Binary,
            (8..=10, _) if length > CONTROL_BYTES_MAX as u64 => {
                return Err(FrameError::LongControl);
            }
            (8..=10, _) if !is_final => return Err(FrameError::FragmentedControl),
            (opcode @ 8..=10, _) => {
                return Ok(State::Control { opcode, length: length as usize });
            }
            _ => return Err(FrameError::UnknownOpcode),
        };
        self.message = Some(kind);
        Ok(State::Data { kind, left: length, is_final })
    }

    /// Nothing is told of an empty frame in the midst of a message.
    fn data<'a>(
        &mut self,
        kind: Kind,
        left: u64,
        is_final: bool,
        input: &mut &'a [u8],
    ) -> Option<Event<'a>> {
        let length = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        let (bytes, rest) = input.split_at(length);
        *input = rest;
        let left = left - length as u64;
        if left > 0 {
            self.state = State::Data { kind, left, is_final };
            return Some(Event::Data { kind, bytes, is_last: false });
        }
        self.state = State::Head;
        if is_final {
            self.message = None;
        }
        let event = Event::Data { kind, bytes, is_last: is_final };
        Some(event).filter(|_| is_final || !bytes.is_empty())
    }

    fn control<'a>(
        &mut self,
        opcode: u8,
        length: usize,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, FrameError> {
        self.gather(length, input);
        if self.part.len() < length {
            return Ok(None);
        }
        let payload = std::mem::take(&mut self.part);
        self.state = State::Head;
        Ok(Some(match opcode {
            9 => Event::Ping(payload),
            10 => Event::Pong,
            _ => {
                self.state = State::Closed;
                close(&payload)?
            }
        }))
    }

    /// Moves bytes to `part` until it holds `wanted` or the input is used up.
    fn gather(&mut self, wanted: usize, input: &mut &[u8]) {
        let missing = wanted.saturating_sub(self.part.len()).min(input.len());
        let (bytes, rest) = input.split_at(missing);
        self.part.extend_from_slice(bytes);
        *input = rest;
    }
}

fn close(payload: &[u8]) -> Result<Event<'static>, FrameError> {
    let (code, reason) = match payload {
        [] => (None, ""),
        [high, low, reason @ ..] => {
            let reason = std::str::from_utf8(reason).map_err(|_| FrameError::MalformedClose)?;
            (Some(u16::from_be_bytes([*high, *low])), reason)
        }
        [_] => return Err(FrameError::MalformedClose),
    };
    // RFC 6455 §7.4: the others are nobody's, or must never be sent.
    if code.is_some_and(|code| !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)) {
        return Err(FrameError::MalformedClose);
    }
    Ok(Event::Close { code, reason: reason.to_owned() })
}

/// Whether a head with status 101 opens the WebSocket that was asked for; if not, why.
pub(crate) fn check_upgrade(upgrade: &Upgrade, protocol: &str) -> Result<(), String> {
    let Upgrade { upgrade, connection, accept, protocol: agreed } = upgrade;
    let wrong = |name: &str, value: &str| {
        Err(format!("the answer to the handshake has {name} \"{value}\""))
    };
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return wrong("Upgrade", upgrade);
    }
    if !connection.eq_ignore_ascii_case("upgrade") {
        return wrong("Connection", connection);
    }
    if accept != ACCEPT {
        return wrong("Sec-WebSocket-Accept", accept);
    }
    if agreed != protocol {
        return wrong("Sec-WebSocket-Protocol", agreed);
    }
    Ok(())
}

/// Mask keys, each another and none of them zero, which a server need not unmask.
#[derive(Debug)]
pub(crate) struct Keys {
    last: u32,
}

impl Keys {
    pub(crate) fn new() -> Keys {
        Keys { last: 0 }
    }

    /// A step of xorshift32, which visits every number but zero.
    pub(crate) fn next(&mut self) -> [u8; KEY_BYTES] {
        let mut key = if self.last == 0 { 0x9e37_79b9 } else { self.last };
        key ^= key << 13;
        key ^= key >> 17;
        key ^= key << 5;
        self.last = key;
        key.to_le_bytes()
    }
}

/// A masked frame of one message.
pub(crate) fn frame(opcode: Opcode, payload: &[u8], keys: &mut Keys) -> Vec<u8> {
    let (mut frame, payload_at) = room(opcode, payload.len());
    frame[payload_at..].copy_from_slice(payload);
    seal(&mut frame, payload_at, keys);
    frame
}

pub(crate) fn close_frame(code: u16, keys: &mut Keys) -> Vec<u8> {
    frame(Opcode::Close, &code.to_be_bytes(), keys)
}

/// A frame whose payload is still to come, and where it goes. `seal` makes it ready to be sent; it
/// may be filled and sealed again after that.
pub(crate) fn room(opcode: Opcode, payload_bytes: usize) -> (Vec<u8>, usize) {
    let mut frame = vec![LAST | opcode as u8];
    match payload_bytes {
        0..=CONTROL_BYTES_MAX => frame.push(MASKED | payload_bytes as u8),
        126..=0xffff => {
            frame.push(MASKED | LENGTH_16);
            frame.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            frame.push(MASKED | LENGTH_64);
            frame.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
    let payload_at = frame.len() + KEY_BYTES;
    frame.resize(payload_at + payload_bytes, 0);
    (frame, payload_at)
}

/// Gives the frame a key and masks its payload with it, in place.
pub(crate) fn seal(frame: &mut [u8], payload_at: usize, keys: &mut Keys) {
    let key = keys.next();
    let (head, payload) = frame.split_at_mut(payload_at);
    head[payload_at - KEY_BYTES..].copy_from_slice(&key);
    mask(payload, key);
}

/// Word by word, which lets the compiler use vectors.
fn mask(payload: &mut [u8], key: [u8; KEY_BYTES]) {
    let (words, tail) = payload.as_chunks_mut::<KEY_BYTES>();
    let number = u32::from_ne_bytes(key);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ number).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An unmasked frame in the shortest form, as a server sends it.
    fn served(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(length as u8),
            length @ 126..=0xffff => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    type Messages = Vec<(Kind, Vec<u8>)>;

    /// Messages, then everything else in words, of frames that come in pieces.
    fn decode(bytes: &[u8], piece: usize) -> Result<(Messages, Vec<String>), FrameError> {
        let mut frames = Frames::new();
        let (mut messages, mut others, mut message) = (Vec::new(), Vec::new(), Vec::new());
        for mut input in bytes.chunks(piece) {
            loop {
                match frames.next(&mut input)? {
                    Event::Data { kind, bytes, is_last } => {
                        message.extend_from_slice(bytes);
                        if is_last {
                            messages.push((kind, std::mem::take(&mut message)));
                        }
                    }
                    Event::NeedMore => break,
                    other => others.push(format!("{other:?}")),
                }
            }
            assert!(input.is_empty());
        }
        Ok((messages, others))
    }

    #[test]
    fn messages_in_pieces_of_every_length() {
        let long: Vec<u8> = (0..70_000_u32).map(|at| (at * 7) as u8).collect();
        let wire = [
            served(0x82, b"one"),
            served(0x89, b""),
            served(0x81, b""),
            // A message in fragments, an empty one among them, with control frames in between.
            served(0x01, b"a"),
            served(0x89, &[b'p'; 125]),
            served(0x00, b""),
            served(0x8a, b"x"),
            served(0x80, b"b"),
            served(0x82, &long[..126]),
            served(0x02, &long[..65_535]),
            served(0x80, &long[..65_536]),
            served(0x88, b"\x03\xe8end"),
            // Behind a close frame: not even looked at.
            served(0xff, b"rubbish"),
        ]
        .concat();
        let binary = [&long[..65_535], &long[..65_536]].concat();
        let expected = [
            (Kind::Binary, b"one".to_vec()),
            (Kind::Text, Vec::new()),
            (Kind::Text, b"ab".to_vec()),
            (Kind::Binary, long[..126].to_vec()),
            (Kind::Binary, binary),
        ];
        for piece in (1..=20).chain([126, 1000, 70_000, wire.len()]) {
            let (messages, others) = decode(&wire, piece).unwrap();
            assert_eq!(messages, expected, "pieces of {piece}");
            let others: Vec<&str> = others.iter().map(String::as_str).collect();
            let close = "Close { code: Some(1000), reason: \"end\" }";
            let ping = format!("Ping({:?})", [b'p'; 125]);
            assert_eq!(others, ["Ping([])", ping.as_str(), "Pong", close], "pieces of {piece}");
        }
    }

    #[test]
    fn a_cut_message_never_ends() {
        let wire = [served(0x02, b"abc"), served(0x80, &[1; 300])].concat();
        for length in 0..wire.len() {
            assert_eq!(decode(&wire[..length], 3).unwrap().0, [], "cut after {length}");
        }
        assert_eq!(decode(&wire, 3).unwrap().0.len(), 1);
    }

    #[test]
    fn frames_against_the_rules_are_errors() {
        let of_length = |head: &[u8], length: usize| [head, &vec![0; length]].concat();
        for (wire, error) in [
            (served(0xc2, b"a"), FrameError::ReservedBits),
            (served(0x83, b"a"), FrameError::UnknownOpcode),
            (served(0x8b, b"a"), FrameError::UnknownOpcode),
            (frame(Opcode::Binary, b"a", &mut Keys::new()), FrameError::Masked),
            (of_length(&[0x82, 126, 0, 125], 125), FrameError::LengthForm),
            (of_length(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], 9), FrameError::LengthForm),
            (of_length(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], 9), FrameError::LengthForm),
            (served(0x89, &[0; 126]), FrameError::LongControl),
            (served(0x09, b"a"), FrameError::FragmentedControl),
            (served(0x80, b"a"), FrameError::NothingToContinue),
            ([served(0x01, b"a"), served(0x81, b"b")].concat(), FrameError::MessageWithinMessage),
            (served(0x88, b"\x03"), FrameError::MalformedClose),
            (served(0x88, b"\x03\xed"), FrameError::MalformedClose),
            (served(0x88, b"\x03\xe8\xff"), FrameError::MalformedClose),
        ] {
            for piece in [1, 2, 1000] {
                assert_eq!(decode(&wire, piece), Err(error), "{wire:?}");
            }
        }
    }

    #[test]
    fn a_close_frame_may_be_empty() {
        let (_, others) = decode(&[0x88, 0], 1).unwrap();
        assert_eq!(others, ["Close { code: None, reason: \"\" }"]);
    }

    /// Unmasks a frame as RFC 6455 §5.3 has it, byte by byte.
    fn unmask(frame: &[u8], payload_at: usize) -> Vec<u8> {
        let key = &frame[payload_at - 4..payload_at];
        let masked = frame[payload_at..].iter().enumerate();
        masked.map(|(at, byte)| byte ^ key[at % 4]).collect()
    }

    #[test]
    fn sends_masked_frames_of_every_length_form() {
        let mut keys = Keys::new();
        for (length, head) in [
            (0, &[0x82, 0x80][..]),
            (125, &[0x82, 0xfd]),
            (126, &[0x82, 0xfe, 0, 126]),
            (65_535, &[0x82, 0xfe, 0xff, 0xff]),
            (65_536, &[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let payload: Vec<u8> = (0..length).map(|at: u32| (at * 3) as u8).collect();
            let frame = frame(Opcode::Binary, &payload, &mut keys);
            assert_eq!(&frame[..head.len()], head);
            assert_eq!(unmask(&frame, head.len() + 4), payload);
            assert!(length == 0 || frame[head.len() + 4..] != payload, "{length} is not masked");
        }
        // RFC 6455 §5.7: "Hello" with this key.
        let mut hello = b"Hello".to_vec();
        mask(&mut hello, [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(hello, [0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn a_frame_can_be_filled_again() {
        let mut keys = Keys::new();
        let (mut frame, at) = room(Opcode::Binary, 5);
        for payload in [b"first", b"other"] {
            frame[at..].copy_from_slice(payload);
            seal(&mut frame, at, &mut keys);
            assert_eq!(unmask(&frame, at), payload);
        }
    }

    #[test]
    fn a_handshake_must_be_answered_in_every_part() {
        let good = Upgrade {
            upgrade: "WebSocket".to_owned(),
            connection: "upgrade".to_owned(),
            accept: ACCEPT.to_owned(),
            protocol: String::new(),
        };
        assert_eq!(check_upgrade(&good, ""), Ok(()));
        let binary = Upgrade { protocol: "binary".to_owned(), ..good.clone() };
        assert_eq!(check_upgrade(&binary, "binary"), Ok(()));
        for bad in [
            Upgrade { upgrade: "h2c".to_owned(), ..good.clone() },
            Upgrade { connection: "keep-alive, upgrade".to_owned(), ..good.clone() },
            Upgrade { accept: KEY.to_owned(), ..good.clone() },
            binary,
        ] {
            assert!(check_upgrade(&bad, "").is_err(), "{bad:?}");
        }
        assert!(check_upgrade(&good, "binary").is_err());
    }
}
