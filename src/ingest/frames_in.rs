//! The messages of a WebSocket: frames unmasked in the core's receive buffer, and of each message
//! whether it is text.

use super::messages_in::{Batch, Ended, Framing, Intake};
use super::upload::Watcher;
use crate::runtime::counters::Counter;
use crate::store::{MessageKind, Partial, Writer};
use crate::wire::websocket::{self, Peer, PeerEvent, PeerLimits, Utf8};

/// Which messages are for the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Text and binary.
    All,
    Binary,
}

pub(super) struct Frames {
    peer: Peer,
    wanted: Wanted,
    partial: Partial,
    /// Whether what came is text, for followers; `None` if nobody asks.
    text: Option<Text>,
}

/// Two judgements: of each message, and of all bytes together.
pub(super) struct Text {
    message: Utf8,
    whole: Utf8,
    /// As far as readers may know of it: all is text up to this offset.
    end: u64,
}

impl Intake<Frames> {
    pub(super) fn of_frames(
        (writer, watcher): (Writer, Watcher),
        (wanted, partial): (Wanted, Partial),
        message_bytes_max: u64,
    ) -> Intake<Frames> {
        let peer = Peer::new(PeerLimits { message_bytes_max, checks_text: false });
        let frames = Frames { peer, wanted, partial, text: None };
        Intake { writer, watcher, framing: frames, is_refusal_fatal: wanted == Wanted::All }
    }

    /// Judge messages; `whole` has seen what the object had before, if that is known to be text, and
    /// `message` what the message before left of a character.
    pub(super) fn judge_text(&mut self, message: Utf8, whole: Utf8) {
        let end = self.writer.object().text_end();
        self.framing.text = Some(Text { message, whole, end });
    }
}

impl Framing for Frames {
    const COUNTER: Counter = Counter::WebsocketMessagesIn;

    fn read<'b>(&mut self, input: &'b mut [u8], batch: &mut Batch<'b>) {
        let (wanted, is_hidden) = (self.wanted, self.partial == Partial::Hidden);
        let text = &mut self.text;
        let mut is_closed = false;
        let outcome = self.peer.push(input, &mut |event| match event {
            PeerEvent::Data { kind, bytes, is_last, .. } => {
                batch.is_heard |= is_last;
                if wanted == Wanted::Binary && kind == websocket::MessageKind::Text {
                    return;
                }
                let at = batch.put(bytes);
                text.iter_mut().for_each(|text| text.push(bytes, at, is_hidden));
                if is_last {
                    let kind =
                        text.as_mut().map_or(MessageKind::Binary, |text| text.end_message(at));
                    batch.end_message(kind);
                }
            }
            PeerEvent::Pong { .. } => batch.is_heard = true,
            PeerEvent::Ping => {}
            PeerEvent::Close { .. } => is_closed = true,
        });
        batch.answers = self.peer.take_answers();
        batch.ended = match outcome {
            Err(violation) => Some(Ended::Violation(violation)),
            Ok(()) if is_closed => Some(Ended::Closed(std::mem::take(&mut batch.answers))),
            Ok(()) => None,
        };
    }

    fn partial(&self) -> Partial {
        self.partial
    }

    fn text_end(&self) -> Option<u64> {
        self.text.as_ref().map(|text| text.end)
    }
}

impl Text {
    /// These bytes end at this offset.
    fn push(&mut self, bytes: &[u8], at: u64, is_hidden: bool) {
        self.message.push(bytes);
        if self.whole.is_valid() && self.whole.push(bytes) && !is_hidden {
            self.end = at - u64::from(self.whole.pending());
        }
    }

    /// A character may go on in the next message, as long as it is one.
    fn end_message(&mut self, at: u64) -> MessageKind {
        if self.whole.is_valid() {
            self.end = at - u64::from(self.whole.pending());
        }
        if self.message.is_valid() {
            return MessageKind::Text { pending: self.message.pending() };
        }
        self.message.reset();
        MessageKind::Binary
    }
}
