//! What the other side of a connection sends, a client: frames in, messages out, unmasked where
//! they lie. It holds no payload of a message, only the state between two reads of the socket.
//!
//! | state | left by |
//! |---|---|
//! | in a head: `frame` is `None` | `begin`, when `HeadParser` has gathered the head and it may stand here |
//! | in a payload: `frame` is `Some` | `payload`, at the frame's last byte |
//! | `Ending::Closed` after a close frame | nothing: what follows is ignored |
//! | `Ending::Failed` | nothing: every push fails again |
//!
//! Beside that, `message` is `Some` from the first frame of a message to the end of its last one.

use super::frame_head::{CONTROL_BYTES_MAX, FrameHead, Opcode, control_frame};
use super::masked_head::{HeadParser, MaskedHead};
use super::unmask::unmask;
use super::utf8::Utf8;
use super::violation::{Violation, is_close_code};

/// Answers that wait to be taken. Pings that come when there is no more room share one pong, the
/// newest one's, as RFC 6455 §5.5.3 allows.
pub const ANSWERS_BYTES_MAX: usize = 4096;
/// The longest pong, and the echo of a close behind it.
const LONGEST_ANSWERS: usize = 2 + CONTROL_BYTES_MAX + 4;

#[derive(Debug, Clone, Copy)]
pub struct PeerLimits {
    /// Payload of one message, over all its fragments.
    pub message_bytes_max: u64,
    /// Text messages must be UTF-8.
    pub checks_text: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    Text,
    Binary,
}

/// The payload of a control frame.
#[derive(Clone, Copy)]
pub struct ControlPayload {
    bytes: [u8; CONTROL_BYTES_MAX],
    len: u8,
}

#[derive(Debug, PartialEq)]
pub enum PeerEvent<'b> {
    /// Payload of a message, in order. Empty where the end of a message comes without a byte; so an
    /// empty message is one event, first and last.
    Data {
        kind: MessageKind,
        bytes: &'b [u8],
        is_first: bool,
        is_last: bool,
    },
    /// A pong waits among the answers.
    Ping,
    Pong {
        payload: ControlPayload,
    },
    /// The echo waits among the answers; whoever has sent a close frame before drops it. Nothing
    /// that follows is decoded.
    Close {
        code: Option<u16>,
        reason: String,
    },
}

/// One connection's client. Without answers to be taken it owns no memory but itself.
#[derive(Debug)]
pub struct Peer {
    limits: PeerLimits,
    head: HeadParser,
    frame: Option<Frame>,
    message: Option<MessageInProgress>,
    /// What has come of a control frame, which may stand between the fragments of a message.
    control: ControlPayload,
    text: Utf8,
    answers: Vec<u8>,
    /// Where the newest pong begins in `answers`, while it is the last of them.
    newest_pong: usize,
    ending: Option<Ending>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: Opcode,
    is_last: bool,
    left_bytes: u64,
    /// Turned so that its first byte belongs to the next one of the payload.
    mask: [u8; 4],
}

#[derive(Debug, Clone, Copy)]
struct MessageInProgress {
    kind: MessageKind,
    /// Of the frames whose heads have come.
    bytes: u64,
    is_reported: bool,
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Closed,
    Failed(Violation),
}

type Take<'t, 'b> = &'t mut dyn FnMut(PeerEvent<'b>);

impl Peer {
    pub fn new(limits: PeerLimits) -> Peer {
        Peer {
            limits,
            head: HeadParser::default(),
            frame: None,
            message: None,
            control: ControlPayload::default(),
            text: Utf8::new(),
            answers: Vec::new(),
            newest_pong: 0,
            ending: None,
        }
    }

    /// Unmask what has arrived and report it. The input may end anywhere. After a violation the
    /// connection must be failed with its code; what was reported and answered before it stands.
    pub fn push<'b>(&mut self, input: &'b mut [u8], take: Take<'_, 'b>) -> Result<(), Violation> {
        let result = self.decode(input, take);
        if let Err(violation) = result {
            self.ending = Some(Ending::Failed(violation));
        }
        result
    }

    /// The frames that answer what came, pongs and the echo of a close, to be sent in one piece.
    pub fn take_answers(&mut self) -> Vec<u8> {
        self.newest_pong = 0;
        std::mem::take(&mut self.answers)
    }

    /// A close frame has come.
    pub fn is_closed(&self) -> bool {
        matches!(self.ending, Some(Ending::Closed))
    }

    fn decode<'b>(&mut self, mut input: &'b mut [u8], take: Take<'_, 'b>) -> Result<(), Violation> {
        loop {
            match self.ending {
                Some(Ending::Failed(violation)) => return Err(violation),
                Some(Ending::Closed) => return Ok(()),
                None if input.is_empty() => return Ok(()),
                None => {}
            }
            if self.frame.is_none() {
                let (used, head) = self.head.push(input)?;
                input = &mut input[used..];
                let Some(head) = head else { continue };
                self.begin(head)?;
            }
            if let Some(frame) = self.frame {
                let len = frame.left_bytes.min(input.len() as u64) as usize;
                let (payload, rest) = input.split_at_mut(len);
                input = rest;
                self.payload(frame, payload, take)?;
            }
        }
    }

    /// A frame begins: is it in place here, and does its message stay within the limit?
    fn begin(&mut self, head: MaskedHead) -> Result<(), Violation> {
        let MaskedHead { opcode, is_last, payload_bytes, mask } = head;
        if opcode.is_control() {
            self.control.len = 0;
        } else {
            let mut message = match (opcode, self.message) {
                (Opcode::Continuation, Some(message)) => message,
                (Opcode::Continuation, None) => return Err(Violation::NothingToContinue),
                (_, Some(_)) => return Err(Violation::MessageInterrupted),
                (Opcode::Text, None) => MessageInProgress::new(MessageKind::Text),
                (_, None) => MessageInProgress::new(MessageKind::Binary),
            };
            let bytes_max = self.limits.message_bytes_max;
            let bytes = message.bytes.checked_add(payload_bytes).filter(|sum| *sum <= bytes_max);
            message.bytes = bytes.ok_or(Violation::MessageTooBig { bytes_max })?;
            self.message = Some(message);
        }
        self.frame = Some(Frame { opcode, is_last, left_bytes: payload_bytes, mask });
        Ok(())
    }

    /// Bytes of the current frame, up to its end or that of the input.
    fn payload<'b>(
        &mut self,
        mut frame: Frame,
        bytes: &'b mut [u8],
        take: Take<'_, 'b>,
    ) -> Result<(), Violation> {
        frame.mask = unmask(bytes, frame.mask);
        frame.left_bytes -= bytes.len() as u64;
        let is_end = frame.left_bytes == 0;
        self.frame = Some(frame).filter(|_| !is_end);
        if !frame.opcode.is_control() {
            return self.data(bytes, is_end && frame.is_last, take);
        }
        self.control.extend(bytes);
        if is_end { self.control(frame.opcode, take) } else { Ok(()) }
    }

    fn data<'b>(
        &mut self,
        bytes: &'b [u8],
        is_last: bool,
        take: Take<'_, 'b>,
    ) -> Result<(), Violation> {
        let message = self.message.as_mut().expect("a data frame belongs to a message");
        let kind = message.kind;
        if kind == MessageKind::Text && self.limits.checks_text {
            let is_text = self.text.push(bytes);
            if !is_text || is_last && self.text.pending() > 0 {
                return Err(Violation::TextNotUtf8);
            }
        }
        let is_first = !message.is_reported;
        message.is_reported |= !bytes.is_empty();
        if is_last {
            self.message = None;
        }
        if is_last || !bytes.is_empty() {
            take(PeerEvent::Data { kind, bytes, is_first, is_last });
        }
        Ok(())
    }

    /// A control frame is complete.
    fn control(&mut self, opcode: Opcode, take: Take<'_, '_>) -> Result<(), Violation> {
        match opcode {
            Opcode::Ping => {
                self.answer_ping();
                take(PeerEvent::Ping);
            }
            Opcode::Pong => take(PeerEvent::Pong { payload: self.control }),
            Opcode::Close => {
                let (code, reason) = read_close(self.control.as_bytes())?;
                let echo = code.map(u16::to_be_bytes);
                let echo = echo.as_ref().map_or(&[][..], |bytes| bytes);
                self.answers.extend_from_slice(&control_frame(Opcode::Close, echo));
                self.ending = Some(Ending::Closed);
                take(PeerEvent::Close { code, reason });
            }
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                unreachable!("{opcode:?} is for data")
            }
        }
        Ok(())
    }

    fn answer_ping(&mut self) {
        if self.answers.len() + LONGEST_ANSWERS > ANSWERS_BYTES_MAX {
            self.answers.truncate(self.newest_pong);
        }
        self.newest_pong = self.answers.len();
        let payload = self.control.as_bytes();
        let head = FrameHead::new(Opcode::Pong, true, payload.len() as u64);
        self.answers.extend_from_slice(head.as_bytes());
        self.answers.extend_from_slice(payload);
    }
}

impl MessageInProgress {
    fn new(kind: MessageKind) -> MessageInProgress {
        MessageInProgress { kind, bytes: 0, is_reported: false }
    }
}

/// What a close frame says (RFC 6455 §5.5.1): nothing, or a code with a reason.
fn read_close(payload: &[u8]) -> Result<(Option<u16>, String), Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        let empty = payload.is_empty();
        return if empty { Ok((None, String::new())) } else { Err(Violation::HalfCloseCode) };
    };
    let code = u16::from_be_bytes(*code);
    if !is_close_code(code) {
        return Err(Violation::CloseCode(code));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::ReasonNotUtf8)?;
    Ok((Some(code), reason.to_owned()))
}

impl ControlPayload {
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The head has promised that all of it fits.
    fn extend(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }
}

impl Default for ControlPayload {
    fn default() -> ControlPayload {
        ControlPayload { bytes: [0; CONTROL_BYTES_MAX], len: 0 }
    }
}

impl PartialEq for ControlPayload {
    fn eq(&self, other: &ControlPayload) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl std::fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

/// What only the proofs look at.
#[cfg(test)]
impl Peer {
    pub(super) fn answers(&self) -> &[u8] {
        &self.answers
    }

    /// As if the rest of the frame had come.
    pub(super) fn skip_payload(&mut self) {
        self.frame = None;
    }
}
