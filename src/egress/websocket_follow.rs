//! FOLLOW of httpfstream: what an object has as one message, an empty message, then each append as
//! one message as it comes.
//!
//! | the follower is at | left by |
//! |---|---|
//! | what was there when it came | one message, text if all of it is UTF-8, then an empty one and a ping |
//! | a message | text as far as it is UTF-8, else binary; binary for who asked for it |
//! | the tail | news, something heard, or the next ping |
//! | the object's end | close 1000, or 1011 if it was aborted |

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Egress;
use super::answer::late_start;
use super::messages_out::{ABORTED, MessagesOut, NORMAL, Over};
use crate::runtime::deadlines::{Deadline, Phase};
use crate::runtime::socket::Socket;
use crate::runtime::timers::Pulse;
use crate::store::{Life, Message, MessageKind, MessageLook, Object, Reader};
use crate::wire::websocket::{FrameHead, Opcode};

/// A character of UTF-8 lacks so many bytes at most.
const PENDING_BYTES_MAX: u64 = 3;

/// An empty ping.
const PING: &[u8] = &[0x89, 0];

/// A follower that a request asks for.
pub struct Follow {
    pub object: Arc<Object>,
    /// It wants binary messages only.
    pub is_binary: bool,
    /// It has the bytes before this already.
    pub resume_at: Option<u64>,
    /// The answer to its handshake.
    pub head: Vec<u8>,
}

/// Send the object to its end. Returns the last words, for the connection to say.
pub async fn follow(
    egress: &Egress,
    follow: Follow,
    input: Vec<u8>,
    socket: &Socket,
    deadline: &Deadline,
) -> Vec<u8> {
    deadline.phase(Phase::Following);
    let over = match run(egress, follow, input, (socket, deadline)).await {
        Ok(never) => match never {},
        Err(over) => over,
    };
    deadline.clear();
    over.into_words()
}

enum Never {}

async fn run(
    egress: &Egress,
    follow: Follow,
    input: Vec<u8>,
    (socket, deadline): (&Socket, &Deadline),
) -> Result<Never, Over> {
    let Follow { object, is_binary, resume_at, head } = follow;
    let pulse = (Pulse::new(egress.options.ping_interval_s, None), PING);
    let mut out = MessagesOut::start(egress, (socket, deadline), pulse, (head, input)).await?;
    let (preamble, start) = match resume_at {
        Some(at) => (Bytes::new(), at),
        None => late_start(&object),
    };
    let mut place =
        Place { reader: out.reader(&object, start), next: object.messages().1, is_binary };
    out.watch_lag(&place.reader);
    place.opening(&mut out, &preamble).await?;
    let kind = if is_binary { Opcode::Binary } else { Opcode::Text };
    out.put(FrameHead::new(kind, true, 0).as_bytes());
    out.put(PING);
    out.flush().await?;
    loop {
        while place.send_next(&mut out).await? {
            out.keep_pace().await?;
        }
        if place.is_over() {
            return Err(place.end(&mut out).await?);
        }
        out.wait(|context| place.poll_news(context)).await?;
    }
}

/// Where a follower is.
struct Place {
    reader: Reader,
    /// The next message, if the object has messages.
    next: u64,
    is_binary: bool,
}

impl Place {
    fn object(&self) -> &Arc<Object> {
        self.reader.object()
    }

    /// Everything that is there, as one message; none if that is nothing.
    async fn opening(&mut self, out: &mut MessagesOut<'_>, preamble: &[u8]) -> Result<(), Over> {
        let object = self.object().clone();
        let (end, pending) = match object.message(self.next.wrapping_sub(1)) {
            MessageLook::Here(last) => (last.end, pending_of(&last)),
            // What was there before its present appender came.
            _ => (object.tail(), object.tail().saturating_sub(object.text_end())),
        };
        if end <= self.reader.offset() && preamble.is_empty() {
            return Ok(());
        }
        self.send_up_to(out, preamble, (end, pending)).await
    }

    /// Bytes whose boundaries do not matter, as one message: text if all before them is.
    async fn send_up_to(
        &mut self,
        out: &mut MessagesOut<'_>,
        preamble: &[u8],
        (end, pending): (u64, u64),
    ) -> Result<(), Over> {
        let text_end = end.saturating_sub(pending).max(self.reader.offset());
        let is_text = !self.is_binary
            && preamble.is_empty()
            && pending <= PENDING_BYTES_MAX
            && self.object().text_end() >= text_end;
        let (kind, end) = if is_text { (Opcode::Text, text_end) } else { (Opcode::Binary, end) };
        out.message(kind, preamble, &mut self.reader, end).await
    }

    /// Send the next message if it is there.
    async fn send_next(&mut self, out: &mut MessagesOut<'_>) -> Result<bool, Over> {
        let object = self.object().clone();
        match object.message(self.next) {
            MessageLook::Here(message) => self.send_message(out, message).await?,
            // It fell far behind: the boundaries are forgotten, the bytes are not.
            MessageLook::Forgotten { first } => {
                if let MessageLook::Here(message) = object.message(first) {
                    let pending = u64::from(message.pending_before);
                    self.send_up_to(out, &[], (message.start, pending)).await?;
                    self.next = first;
                }
            }
            MessageLook::NotYet => return Ok(false),
        }
        out.watch_lag(&self.reader);
        Ok(true)
    }

    async fn send_message(
        &mut self,
        out: &mut MessagesOut<'_>,
        message: Message,
    ) -> Result<(), Over> {
        self.next = message.number + 1;
        let (kind, end) = match message.kind {
            MessageKind::Text { pending } if !self.is_binary => {
                (Opcode::Text, message.end - u64::from(pending))
            }
            _ => (Opcode::Binary, message.end),
        };
        // Nothing but the beginning of a character goes with the next message.
        let is_held_back = end <= self.reader.offset() && message.end > message.start;
        if is_held_back {
            return Ok(());
        }
        out.message(kind, &[], &mut self.reader, end.max(self.reader.offset())).await
    }

    fn is_over(&self) -> bool {
        !self.object().is_open()
    }

    /// The object has ended: what was held back, and the reason.
    async fn end(&mut self, out: &mut MessagesOut<'_>) -> Result<Over, Over> {
        let object = self.object().clone();
        if object.life() != Life::Sealed {
            return Ok(out.close(ABORTED, "the upload was aborted"));
        }
        // Sealed since it was looked at last: there may be more.
        while self.send_next(out).await? {}
        if self.reader.offset() < object.tail() {
            out.message(Opcode::Binary, &[], &mut self.reader, object.tail()).await?;
        }
        Ok(out.close(NORMAL, ""))
    }

    fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.reader.poll_message(self.next, context)
    }
}

/// Bytes at the end of a message that are the beginning of a character.
fn pending_of(message: &Message) -> u64 {
    match message.kind {
        MessageKind::Text { pending } => u64::from(pending),
        MessageKind::Binary => 0,
    }
}
