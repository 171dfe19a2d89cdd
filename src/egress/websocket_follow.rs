//! FOLLOW of httpfstream: what an object has as one message, an empty message, then each append as
//! one message as it comes.
//!
//! | the follower is at | left by |
//! |---|---|
//! | what was there when it came | one message, text if all of it is UTF-8, then an empty one and a ping |
//! | a message | text as far as it is UTF-8, else binary; binary for who asked for it |
//! | the tail | news, something heard, or the next ping |
//! | the object's end | close 1000, or 1011 if it was aborted |

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Egress;
use super::answer::late_start;
use super::messages_out::{MessagesOut, Over};
use crate::runtime::counters::Counter;
use crate::runtime::deadlines::{Deadline, Phase};
use crate::runtime::socket::Socket;
use crate::runtime::timers::Pulse;
use crate::store::{Life, Message, MessageEnd, MessageKind, MessageLook, Object, Reader};
use crate::wire::websocket::close_code::{NORMAL, POLICY, SERVER_ERROR};
use crate::wire::websocket::{FrameHead, Opcode, Utf8};

/// Where a message begins with a whole character is looked for in so many.
const MESSAGES_LOOKED_AT_MAX: u64 = 64;
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
    let Err(over) = run(egress, follow, input, (socket, deadline)).await;
    deadline.clear();
    over.into_words()
}

async fn run(
    egress: &Egress,
    follow: Follow,
    input: Vec<u8>,
    (socket, deadline): (&Socket, &Deadline),
) -> Result<Infallible, Over> {
    let Follow { object, is_binary, resume_at, head } = follow;
    let pulse = (Pulse::new(egress.options.ping_interval_s, None), PING);
    let mut out = MessagesOut::start(egress, (socket, deadline), pulse, (head, input)).await?;
    let (preamble, start) = match resume_at {
        Some(at) => (Bytes::new(), at),
        None => late_start(&object),
    };
    let text_start = match start {
        _ if is_binary || !preamble.is_empty() => None,
        0 => Some(0),
        // In the middle of a trimmed text there may be the middle of a character.
        cut => whole_message_from(&object, cut),
    };
    let reader = out.reader(&object, text_start.unwrap_or(start));
    let mut place = Place { reader, next: 0, is_binary };
    out.watch_lag(&place.reader);
    place.up_to_edge(&mut out, &preamble, text_start.is_some()).await?;
    let kind = if is_binary { Opcode::Binary } else { Opcode::Text };
    out.put(FrameHead::new(kind, true, 0).as_bytes());
    out.put(PING);
    out.flush().await?;
    loop {
        let look = out.wait(|context| place.poll_next(context)).await?;
        if !matches!(place.object().life(), Life::Open | Life::Sealed) {
            return Err(out.close(SERVER_ERROR, "the upload was aborted"));
        }
        match look {
            MessageLook::Here(message) => place.send(&mut out, message).await?,
            MessageLook::Forgotten { .. } if place.is_lost() => {
                egress.counters.add(Counter::ReadersCutLag, 1);
                return Err(out.close(POLICY, "too slow: bytes that were to come next are gone"));
            }
            // It fell far behind: the boundaries are forgotten, the bytes are not.
            MessageLook::Forgotten { .. } => {
                place.up_to_edge(&mut out, &[], !is_binary).await?;
            }
            MessageLook::NotYet => return Err(place.end(&mut out).await?),
        }
        out.watch_lag(&place.reader);
        if out.is_on_a_streak() {
            out.look_aside().await?;
        }
    }
}

/// Where a follower is.
struct Place {
    reader: Reader,
    /// Number of the next message.
    next: u64,
    is_binary: bool,
}

impl Place {
    fn object(&self) -> &Arc<Object> {
        self.reader.object()
    }

    /// Everything up to the last message, as one message; none if that is nothing.
    async fn up_to_edge(
        &mut self,
        out: &mut MessagesOut<'_>,
        preamble: &[u8],
        is_text: bool,
    ) -> Result<(), Over> {
        let edge = Edge::of(self.object());
        self.next = edge.next;
        if edge.end <= self.reader.offset() && preamble.is_empty() {
            return Ok(());
        }
        let text_end = edge.text_end.filter(|_| is_text);
        let (kind, end) = text_end.map_or((Opcode::Binary, edge.end), |end| (Opcode::Text, end));
        let end = end.max(self.reader.offset());
        out.whole_message(kind, preamble, &mut self.reader, end).await
    }

    async fn send(&mut self, out: &mut MessagesOut<'_>, message: Message) -> Result<(), Over> {
        self.next = message.number + 1;
        let (kind, end) = match message.kind {
            MessageKind::Text { pending } if !self.is_binary => {
                (Opcode::Text, message.end - u64::from(pending))
            }
            _ => (Opcode::Binary, message.end),
        };
        let has_it = message.end > message.start && message.end <= self.reader.offset();
        if has_it {
            return Ok(());
        }
        // Of a message that is nothing but the beginning of a character an empty one is left.
        let end = end.max(self.reader.offset());
        match out.message(kind, &[], &mut self.reader, end)? {
            Some(unsent) => out.finish(unsent, &mut self.reader).await,
            None => Ok(()),
        }
    }

    /// What it was to get next is trimmed away.
    fn is_lost(&self) -> bool {
        self.reader.offset() < self.object().head()
    }

    /// The object is sealed, and its messages are sent: what was held back of them.
    async fn end(&mut self, out: &mut MessagesOut<'_>) -> Result<Over, Over> {
        let tail = self.object().tail();
        if self.reader.offset() < tail {
            out.whole_message(Opcode::Binary, &[], &mut self.reader, tail).await?;
        }
        Ok(out.close(NORMAL, ""))
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<MessageLook> {
        self.reader.poll_message(self.next, context)
    }
}

/// The first kept message from `at` on that begins with a whole character, if there is one near.
fn whole_message_from(object: &Object, at: u64) -> Option<u64> {
    let (first, _) = object.messages();
    (first..first + MESSAGES_LOOKED_AT_MAX).find_map(|number| match object.message(number) {
        MessageLook::Here(message) if message.start >= at && message.pending_before == 0 => {
            Some(message.start)
        }
        _ => None,
    })
}

/// Where the messages of an object end now.
struct Edge {
    /// Number of the message that comes next.
    next: u64,
    end: u64,
    /// As far as all is text, less the beginning of a character; `None` if it is not.
    text_end: Option<u64>,
}

impl Edge {
    fn of(object: &Object) -> Edge {
        let mut seen = object.text_end();
        loop {
            let edge = object.message_edge();
            let now = object.text_end();
            // The writer says what is text before it appends: what was said in between is of later
            // bytes.
            if now == std::mem::replace(&mut seen, now) {
                return Edge::new(edge, now, object.tail());
            }
        }
    }

    fn new(edge: Option<(u64, MessageEnd)>, text_end: u64, tail: u64) -> Edge {
        let (next, last) =
            edge.unwrap_or((0, MessageEnd { offset: tail, kind: MessageKind::Binary }));
        let pending = match last.kind {
            MessageKind::Text { pending } => u64::from(pending),
            MessageKind::Binary => 0,
        };
        let end = last.offset;
        // What is known of the last message says how much of it waits; of what was there before it
        // nothing is known but that.
        let held_back = if edge.is_some() { pending } else { Utf8::PENDING_BYTES_MAX };
        let is_text = text_end.saturating_add(held_back) >= end && text_end > 0;
        let text_end = is_text.then(|| text_end.min(end.saturating_sub(pending)));
        Edge { next, end, text_end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(end: u64, kind: MessageKind, text_end: u64) -> Option<u64> {
        let edge = Edge::new(Some((3, MessageEnd { offset: end, kind })), text_end, 1 << 20);
        assert_eq!((edge.next, edge.end), (3, end));
        edge.text_end
    }

    #[test]
    fn an_opening_is_text_if_all_of_it_is() {
        let text = |pending| MessageKind::Text { pending };
        assert_eq!(edge(10, text(0), 10), Some(10));
        assert_eq!(edge(10, text(2), 8), Some(8), "a character has begun");
        assert_eq!(edge(10, text(2), 30), Some(8), "and was completed since");
        assert_eq!(edge(10, MessageKind::Binary, 9), None, "two bytes that are no text came last");
        assert_eq!(edge(10, text(0), 6), None);
        assert_eq!(edge(10, MessageKind::Binary, 0), None);
        assert_eq!(edge(2, MessageKind::Binary, 0), None, "short, and nobody looked");
        assert_eq!(Edge::new(None, 9, 10).text_end, Some(9), "what was there before");
        let unknown = Edge::new(None, 0, 7);
        assert_eq!((unknown.next, unknown.end, unknown.text_end), (0, 7, None));
    }
}
