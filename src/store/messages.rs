//! Where the messages of an object end, for readers that want them as they were sent.
//!
//! An index of the newest messages: eight bytes for each, because a message begins where the one
//! before it ends. It lives as long as its object is in memory; nothing of it is on disk. Index and
//! tail move under one lock, so who sees a message can read it, and who sees its bytes finds it.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// Each message counts so much beside its bytes.
pub const MESSAGE_OVERHEAD_BYTES: u64 = 16;

/// Of an object whose writer did not say otherwise.
const DEFAULT_WINDOW: MessageWindow = MessageWindow { bytes_max: u64::MAX, count_max: 4096 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    Binary,
    /// UTF-8 as far as this; so many bytes (0..=3) at its end are the beginning of a character that
    /// the next message completes.
    Text {
        pending: u8,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageEnd {
    /// Offset in the object of the first byte behind the message.
    pub offset: u64,
    pub kind: MessageKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Counted from 0 by each writer of an object.
    pub number: u64,
    pub start: u64,
    pub end: u64,
    pub kind: MessageKind,
    /// Bytes of an incomplete character at the end of the message before, if both are text.
    pub pending_before: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageLook {
    /// It is complete, and all its bytes are below the tail.
    Here(Message),
    /// Older than what is kept; `first` is the oldest that is.
    Forgotten {
        first: u64,
    },
    NotYet,
}

/// Which messages are kept. The newest always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageWindow {
    /// Of the messages kept together, each counted with 16 bytes more.
    pub bytes_max: u64,
    pub count_max: usize,
}

/// What readers see of a message whose end has not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partial {
    /// Its bytes, as they come.
    Visible,
    /// Nothing until it is complete.
    Hidden,
}

/// The messages of one object; nothing but a lock for an object that has none.
#[derive(Default)]
pub(super) struct Messages {
    index: Mutex<Option<Box<Index>>>,
}

struct Index {
    window: MessageWindow,
    /// Number of the first kept message.
    first: u64,
    /// Where it starts; not yet known before the first call of `extend`.
    first_start: u64,
    has_begun: bool,
    /// Of the message in front of it.
    before_first: MessageKind,
    /// Ends and kinds, see `pack`.
    ends: VecDeque<u64>,
}

impl Messages {
    /// Add messages and move the tail, for readers in one step. `start` is the tail as it was: the
    /// very first message begins there.
    pub(super) fn extend(&self, start: u64, ends: &[MessageEnd], move_tail: impl FnOnce()) {
        let mut slot = self.index.lock();
        let index = slot.get_or_insert_default();
        if !index.has_begun {
            index.first_start = start;
            index.has_begun = true;
        }
        for end in ends {
            assert!(end.offset >= index.last_end(), "messages end one behind the other");
            index.ends.push_back(pack(*end));
        }
        index.forget_old();
        move_tail();
    }

    pub(super) fn set_window(&self, window: MessageWindow) {
        let mut slot = self.index.lock();
        let index = slot.get_or_insert_default();
        index.window = window;
        index.forget_old();
    }

    pub(super) fn look(&self, number: u64) -> MessageLook {
        let slot = self.index.lock();
        let Some(index) = slot.as_ref() else {
            return MessageLook::NotYet;
        };
        let Some(at) = number.checked_sub(index.first) else {
            return MessageLook::Forgotten { first: index.first };
        };
        index
            .get(usize::try_from(at).unwrap_or(usize::MAX))
            .map_or(MessageLook::NotYet, |it| MessageLook::Here(Message { number, ..it }))
    }

    /// The kept message that has the byte at `offset`.
    pub(super) fn at(&self, offset: u64) -> Option<Message> {
        let slot = self.index.lock();
        let index = slot.as_ref().filter(|index| offset >= index.first_start)?;
        let at = index.ends.partition_point(|end| unpack(*end).offset <= offset);
        index.get(at).map(|it| Message { number: index.first + at as u64, ..it })
    }

    /// Number of the first kept message, and of the one that comes next.
    pub(super) fn numbers(&self) -> (u64, u64) {
        let slot = self.index.lock();
        slot.as_ref().map_or((0, 0), |index| (index.first, index.first + index.ends.len() as u64))
    }

    /// Number of the message that comes next, and the end of the one before it. `None` before the
    /// first.
    pub(super) fn edge(&self) -> Option<(u64, MessageEnd)> {
        let slot = self.index.lock();
        slot.as_ref().filter(|index| index.has_begun).map(|index| {
            let before = MessageEnd { offset: index.first_start, kind: index.before_first };
            let end = index.ends.back().map_or(before, |end| unpack(*end));
            (index.first + index.ends.len() as u64, end)
        })
    }

    /// Bytes before `head` are gone, and with them the messages that began there.
    pub(super) fn forget_before(&self, head: u64) {
        if let Some(index) = self.index.lock().as_mut() {
            while !index.ends.is_empty() && index.first_start < head {
                index.forget_first();
            }
        }
    }

    pub(super) fn forget_all(&self) {
        if let Some(index) = self.index.lock().as_mut() {
            while !index.ends.is_empty() {
                index.forget_first();
            }
            index.ends = VecDeque::new();
        }
    }

    /// No more will come: give back what was reserved for them. Returns how many are kept.
    pub(super) fn settle(&self) -> usize {
        self.index.lock().as_mut().map_or(0, |index| {
            index.ends.shrink_to_fit();
            index.ends.len()
        })
    }
}

impl Default for Index {
    fn default() -> Index {
        Index {
            window: DEFAULT_WINDOW,
            first: 0,
            first_start: 0,
            has_begun: false,
            before_first: MessageKind::Binary,
            ends: VecDeque::new(),
        }
    }
}

impl Index {
    fn last_end(&self) -> u64 {
        self.ends.back().map_or(self.first_start, |end| unpack(*end).offset)
    }

    /// The kept message with this place; its number is for the caller to fill in.
    fn get(&self, at: usize) -> Option<Message> {
        let end = unpack(*self.ends.get(at)?);
        let before = match at.checked_sub(1) {
            None => MessageEnd { offset: self.first_start, kind: self.before_first },
            Some(before) => unpack(*self.ends.get(before)?),
        };
        let pending_before = match (before.kind, end.kind) {
            (MessageKind::Text { pending }, MessageKind::Text { .. }) => pending,
            _ => 0,
        };
        let (start, end, kind) = (before.offset, end.offset, end.kind);
        Some(Message { number: 0, start, end, kind, pending_before })
    }

    fn forget_old(&mut self) {
        while self.ends.len() > 1 {
            let overhead = self.ends.len() as u64 * MESSAGE_OVERHEAD_BYTES;
            let bytes = (self.last_end() - self.first_start).saturating_add(overhead);
            if bytes <= self.window.bytes_max && self.ends.len() <= self.window.count_max {
                return;
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(end) = self.ends.pop_front().map(unpack) {
            self.first += 1;
            self.first_start = end.offset;
            self.before_first = end.kind;
        }
    }
}

/// The offset above three bits of kind: 7 is binary, anything else is text with so many bytes pending.
fn pack(end: MessageEnd) -> u64 {
    assert!(end.offset < 1 << 61);
    let kind = match end.kind {
        MessageKind::Binary => 7,
        MessageKind::Text { pending } => {
            assert!(pending <= 3, "no character of UTF-8 lacks more than three bytes");
            u64::from(pending)
        }
    };
    end.offset << 3 | kind
}

fn unpack(packed: u64) -> MessageEnd {
    let kind = match packed & 7 {
        7 => MessageKind::Binary,
        pending => MessageKind::Text { pending: pending as u8 },
    };
    MessageEnd { offset: packed >> 3, kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: MessageKind = MessageKind::Text { pending: 0 };

    fn end(offset: u64, kind: MessageKind) -> MessageEnd {
        MessageEnd { offset, kind }
    }

    fn here(messages: &Messages, number: u64) -> Message {
        match messages.look(number) {
            MessageLook::Here(message) => message,
            other => panic!("message {number}: {other:?}"),
        }
    }

    #[test]
    fn a_packed_end_survives_the_round_trip() {
        let kinds = (0..=3).map(|pending| MessageKind::Text { pending });
        for kind in kinds.chain([MessageKind::Binary]) {
            for offset in [0, 1, (1 << 61) - 1] {
                assert_eq!(unpack(pack(end(offset, kind))), end(offset, kind));
            }
        }
    }

    #[test]
    fn messages_begin_where_others_end() {
        let messages = Messages::default();
        messages.set_window(DEFAULT_WINDOW);
        assert_eq!(messages.look(0), MessageLook::NotYet);
        assert_eq!(messages.numbers(), (0, 0));
        let cut = MessageKind::Text { pending: 2 };
        let ends = [end(13, cut), end(13, TEXT), end(20, MessageKind::Binary), end(21, TEXT)];
        messages.extend(10, &ends[..1], || {});
        messages.extend(13, &ends[1..], || {});
        assert_eq!(messages.numbers(), (0, 4));
        let first = Message { number: 0, start: 10, end: 13, kind: cut, pending_before: 0 };
        assert_eq!(here(&messages, 0), first);
        let empty = Message { number: 1, start: 13, end: 13, kind: TEXT, pending_before: 2 };
        assert_eq!(here(&messages, 1), empty);
        assert_eq!(here(&messages, 2).kind, MessageKind::Binary);
        assert_eq!(here(&messages, 2).pending_before, 0);
        assert_eq!(here(&messages, 3).start, 20);
        assert_eq!(messages.look(4), MessageLook::NotYet);
    }

    #[test]
    fn what_was_pending_is_known_when_its_message_is_forgotten() {
        let messages = Messages::default();
        messages.set_window(MessageWindow { bytes_max: u64::MAX, count_max: 1 });
        messages.extend(0, &[end(5, MessageKind::Text { pending: 1 }), end(9, TEXT)], || {});
        assert_eq!(messages.look(0), MessageLook::Forgotten { first: 1 });
        let kept = Message { number: 1, start: 5, end: 9, kind: TEXT, pending_before: 1 };
        assert_eq!(here(&messages, 1), kept);
    }

    /// Goal: the window is kept in bytes and in number, and the newest message stays, however long.
    #[test]
    fn the_window_is_kept() {
        let messages = Messages::default();
        messages.set_window(MessageWindow { bytes_max: 100, count_max: 3 });
        // Each counts 20.
        for number in 1..=10 {
            messages.extend(0, &[end(number * 4, TEXT)], || {});
        }
        assert_eq!(messages.numbers(), (7, 10));
        // 3 × 16 + 52 is exactly what may be; one byte more is too much.
        messages.extend(40, &[end(32 + 52, TEXT)], || {});
        assert_eq!(messages.numbers(), (8, 11));
        messages.set_window(MessageWindow { bytes_max: 99, count_max: 3 });
        assert_eq!(messages.numbers(), (9, 11));
        messages.extend(84, &[end(1000, TEXT)], || {});
        assert_eq!(messages.numbers(), (11, 12));
        messages.set_window(MessageWindow { bytes_max: 0, count_max: 0 });
        assert_eq!(messages.numbers(), (11, 12));
    }

    #[test]
    fn trimmed_messages_are_forgotten() {
        let messages = Messages::default();
        messages.forget_before(5);
        messages.extend(0, &[end(4, TEXT), end(8, TEXT), end(12, TEXT)], || {});
        messages.forget_before(4);
        assert_eq!(messages.numbers(), (1, 3));
        messages.forget_before(5);
        assert_eq!(messages.numbers(), (2, 3));
        messages.forget_all();
        assert_eq!(messages.numbers(), (3, 3));
        assert_eq!(messages.look(2), MessageLook::Forgotten { first: 3 });
        assert_eq!(messages.settle(), 0);
    }
}
