//! The bookkeeping of resuming, without I/O: what an appender still owes the server, and where a
//! follower goes on. Offsets come in two kinds: of the object, and of the appender's own bytes,
//! which begin at the length that the object had when the appender first came.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::failure::ClientError;

/// Bytes of one message.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes taken from the program and not confirmed by the server.
const UNCONFIRMED_BYTES_MAX: u64 = 16 << 20;

/// Messages on their way.
///
/// | offset of the own bytes | moved by |
/// |---|---|
/// | `confirmed`: the server has stored what is below | `confirm`, `reconnected` |
/// | `sent`: the connection has taken what is below | `take_unsent` forwards, `reconnected` back |
/// | `end`: the program has given what is below | `push` |
pub(super) struct Outbox {
    /// From `confirmed` to `end`.
    messages: VecDeque<Bytes>,
    /// How many of `messages` lie below `sent`.
    sent_messages: usize,
    confirmed: u64,
    sent: u64,
    end: u64,
    /// Length of the object when the appender first came; without it nothing is kept.
    first: Option<u64>,
}

impl Outbox {
    /// `first` is the length of the object, if the server tells what it has stored.
    pub(super) fn new(first: Option<u64>) -> Outbox {
        Outbox { messages: VecDeque::new(), sent_messages: 0, confirmed: 0, sent: 0, end: 0, first }
    }

    /// Whether a message of any length can be pushed.
    pub(super) fn has_room(&self) -> bool {
        match self.first {
            Some(_) => {
                self.end - self.confirmed + MESSAGE_BYTES_MAX as u64 <= UNCONFIRMED_BYTES_MAX
            }
            None => self.sent == self.end,
        }
    }

    pub(super) fn push(&mut self, message: Bytes) {
        assert!(!message.is_empty() && message.len() <= MESSAGE_BYTES_MAX);
        self.end += message.len() as u64;
        self.messages.push_back(message);
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.end
    }

    /// The next message, or what is left of it after a loss; it counts as sent from now on, since
    /// of a write that fails any part may have arrived.
    pub(super) fn take_unsent(&mut self) -> Option<Bytes> {
        let message = self.messages.get(self.sent_messages)?.clone();
        self.sent += message.len() as u64;
        self.sent_messages += 1;
        if self.first.is_none() {
            self.forget(self.sent);
        }
        Some(message)
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed == self.end
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The server has stored the object as far as `length`. Whether that is news.
    pub(super) fn confirm(&mut self, length: u64) -> Result<bool, ClientError> {
        let Some(first) = self.first else {
            return Ok(false);
        };
        // Shorter than it was, or longer than we made it: it is another, or somebody else appends.
        let own = length.checked_sub(first).ok_or(ClientError::Replaced)?;
        if own < self.confirmed || own > self.sent {
            return Err(ClientError::Replaced);
        }
        let is_news = own > self.confirmed;
        self.forget(own);
        Ok(is_news)
    }

    /// A new connection begins at `length` of the object. Whether anything was confirmed by that.
    pub(super) fn reconnected(&mut self, length: u64) -> Result<bool, ClientError> {
        let is_news = self.confirm(length)?;
        self.sent = self.confirmed;
        self.sent_messages = 0;
        Ok(is_news)
    }

    fn forget(&mut self, own: u64) {
        let mut left = own - self.confirmed;
        while left > 0 {
            let front = self.messages.front_mut().expect("they reach to `end`");
            if front.len() as u64 > left {
                front.advance(left as usize);
                break;
            }
            left -= front.len() as u64;
            self.messages.pop_front();
            self.sent_messages -= 1;
        }
        self.confirmed = own;
        assert!(self.confirmed <= self.sent && self.sent <= self.end);
    }
}

/// Where a follower is in the object.
#[derive(Default)]
pub(super) struct Place {
    /// The next byte that the program gets.
    next: u64,
    /// Which object it is, once a server has said so.
    object: Option<String>,
    /// Bytes that a connection repeats.
    repeated: u64,
}

impl Place {
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The server has a name for the object, by which a resumed answer is known to go on with it.
    pub(super) fn can_resume(&self) -> bool {
        self.object.is_some()
    }

    /// An answer whose first byte has the offset `start` in the object.
    pub(super) fn answered(&mut self, start: u64, object: Option<&str>) -> Result<(), ClientError> {
        match (&self.object, object) {
            (Some(known), Some(said)) if known != said => return Err(ClientError::Replaced),
            (Some(_), None) => {
                return Err(ClientError::BadAnswer("it does not say which object it is"));
            }
            (Some(_), Some(_)) if start > self.next => {
                return Err(ClientError::Gone { from: self.next, to: start });
            }
            (Some(_), Some(_)) => {}
            // The first answer: an object may have lost its beginning by its retention.
            (None, object) => {
                self.object = object.map(str::to_owned);
                self.next = start;
            }
        }
        self.repeated = self.next - start;
        Ok(())
    }

    /// The server has nothing behind `length`.
    pub(super) fn ended(&self, length: Option<u64>) -> Result<(), ClientError> {
        if length == Some(self.next) { Ok(()) } else { Err(ClientError::Replaced) }
    }

    /// What of `bytes` is new.
    pub(super) fn take(&mut self, mut bytes: Bytes) -> Bytes {
        let repeated = self.repeated.min(bytes.len() as u64);
        self.repeated -= repeated;
        bytes.advance(repeated as usize);
        self.next += bytes.len() as u64;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_resumed_appender_goes_on_in_the_middle_of_a_message() {
        let mut outbox = Outbox::new(Some(100));
        for text in ["abc", "defg", "hi"] {
            outbox.push(bytes(text));
        }
        assert_eq!(outbox.take_unsent().unwrap(), "abc");
        assert_eq!(outbox.take_unsent().unwrap(), "defg");
        assert!(outbox.confirm(102).unwrap());
        assert!(!outbox.confirm(102).unwrap());
        assert!(outbox.reconnected(104).unwrap());
        assert_eq!(outbox.take_unsent().unwrap(), "efg");
        assert_eq!(outbox.take_unsent().unwrap(), "hi");
        assert!(outbox.take_unsent().is_none() && !outbox.has_unsent());
        assert!(outbox.confirm(109).unwrap() && outbox.is_confirmed());
    }

    #[test]
    fn a_length_that_cannot_be_is_another_object() {
        let mut outbox = Outbox::new(Some(10));
        outbox.push(bytes("abc"));
        outbox.push(bytes("def"));
        outbox.take_unsent();
        assert!(matches!(outbox.confirm(9), Err(ClientError::Replaced)), "shorter than at first");
        assert!(matches!(outbox.confirm(14), Err(ClientError::Replaced)), "more than was sent");
        outbox.confirm(12).unwrap();
        assert!(matches!(outbox.reconnected(11), Err(ClientError::Replaced)), "fewer than before");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let message = Bytes::from(vec![7; MESSAGE_BYTES_MAX]);
        let mut outbox = Outbox::new(Some(0));
        let mut count = 0;
        while outbox.has_room() {
            outbox.push(message.clone());
            outbox.take_unsent();
            count += 1;
        }
        assert_eq!(count, 16);
        outbox.confirm(1).unwrap();
        assert!(!outbox.has_room(), "a whole message must fit");
        outbox.confirm(MESSAGE_BYTES_MAX as u64).unwrap();
        assert!(outbox.has_room());
    }

    #[test]
    fn nothing_is_kept_for_a_server_that_confirms_nothing() {
        let mut outbox = Outbox::new(None);
        assert!(outbox.has_room());
        outbox.push(bytes("abc"));
        assert!(!outbox.has_room());
        assert_eq!(outbox.take_unsent().unwrap(), "abc");
        assert!(outbox.has_room() && outbox.is_confirmed() && outbox.messages.is_empty());
        assert!(!outbox.confirm(77).unwrap());
    }

    #[test]
    fn a_follower_skips_what_is_repeated() {
        let mut place = Place::default();
        place.answered(5, Some("a")).unwrap();
        assert_eq!(place.take(bytes("abc")), "abc");
        assert_eq!(place.next(), 8);
        place.answered(6, Some("a")).unwrap();
        assert_eq!(place.take(bytes("b")), "");
        assert_eq!(place.take(bytes("cd")), "d");
        assert!(place.ended(Some(9)).is_ok());
        for length in [None, Some(8), Some(10)] {
            assert!(matches!(place.ended(length), Err(ClientError::Replaced)));
        }
    }

    #[test]
    fn a_follower_notices_another_object() {
        let mut place = Place::default();
        place.answered(0, Some("a")).unwrap();
        place.take(bytes("abc"));
        assert!(matches!(place.answered(3, Some("b")), Err(ClientError::Replaced)));
        assert!(matches!(place.answered(3, None), Err(ClientError::BadAnswer(_))));
        let gone = place.answered(7, Some("a"));
        assert!(matches!(gone, Err(ClientError::Gone { from: 3, to: 7 })));
        let mut foreign = Place::default();
        foreign.answered(0, None).unwrap();
        assert!(!foreign.can_resume());
    }

    proptest! {
        /// A server that stores any part of what was sent before each loss has everything once.
        #[test]
        fn every_byte_is_sent_once(
            steps in prop::collection::vec((1usize..50, 0usize..4, 0usize..100), 1..40),
            before in 0u64..1000,
        ) {
            let mut outbox = Outbox::new(Some(before));
            let mut stored: Vec<u8> = Vec::new();
            let mut given: Vec<u8> = Vec::new();
            let length = |stored: &Vec<u8>| before + stored.len() as u64;
            for (pushed, taken, percent) in steps {
                let message: Vec<u8> = (0..pushed).map(|at| (given.len() + at) as u8).collect();
                given.extend_from_slice(&message);
                outbox.push(message.into());
                let mut on_wire = Vec::new();
                for _ in 0..taken {
                    on_wire.extend(outbox.take_unsent().unwrap_or_default());
                }
                stored.extend_from_slice(&on_wire[..on_wire.len() * percent / 100]);
                prop_assert!(outbox.confirm(length(&stored)).is_ok());
                prop_assert!(outbox.reconnected(length(&stored)).is_ok());
            }
            while let Some(message) = outbox.take_unsent() {
                stored.extend(message);
            }
            prop_assert_eq!(&stored, &given);
            prop_assert!(outbox.confirm(length(&stored)).is_ok() && outbox.is_confirmed());
        }
    }
}
