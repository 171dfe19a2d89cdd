//! UTF-8 that comes in pieces: says at the first wrong byte that it is none, and how much of a
//! character is still to come. For text messages in fragments, and for doors that follow the bytes
//! of an object over many messages.

/// A validator that has seen a prefix of some text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Utf8 {
    /// The beginning of a character that is not complete: `pending_len` bytes, at most 3.
    pending: [u8; 4],
    pending_len: u8,
    is_broken: bool,
}

impl Utf8 {
    /// A character lacks so many bytes at most.
    pub const PENDING_BYTES_MAX: u64 = 3;

    pub fn new() -> Utf8 {
        Utf8::default()
    }

    /// Look at the next bytes; whether all so far can be the beginning of UTF-8. Once it cannot,
    /// nothing that follows can mend it.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let rest = self.complete(bytes);
        if self.is_broken || rest.is_empty() {
            return !self.is_broken;
        }
        if let Err(error) = std::str::from_utf8(rest) {
            // No length of the error: the end came too early, and all was well so far.
            if error.error_len().is_some() {
                self.is_broken = true;
            } else {
                let begun = &rest[error.valid_up_to()..];
                self.pending[..begun.len()].copy_from_slice(begun);
                self.pending_len = begun.len() as u8;
            }
        }
        !self.is_broken
    }

    /// What was seen can be the beginning of UTF-8. With `pending()` 0 it is UTF-8 itself.
    pub fn is_valid(&self) -> bool {
        !self.is_broken
    }

    /// Bytes of an incomplete character at the end, at most 3.
    pub fn pending(&self) -> u8 {
        self.pending_len
    }

    /// Of bytes that are no text, or not known to be.
    pub fn broken() -> Utf8 {
        let mut utf8 = Utf8::new();
        utf8.push(&[0xff]);
        utf8
    }

    pub fn reset(&mut self) {
        *self = Utf8::default();
    }

    /// Finish the character that the last piece began; the bytes behind it.
    fn complete<'b>(&mut self, mut bytes: &'b [u8]) -> &'b [u8] {
        while self.pending_len > 0 && !self.is_broken {
            let Some((&byte, rest)) = bytes.split_first() else { break };
            bytes = rest;
            let len = usize::from(self.pending_len);
            self.pending[len] = byte;
            match std::str::from_utf8(&self.pending[..=len]) {
                Ok(_) => self.pending_len = 0,
                Err(error) if error.error_len().is_none() => self.pending_len += 1,
                Err(_) => self.is_broken = true,
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wrong_byte_is_named() {
        // The text, and which of its bytes cannot stand where it stands.
        let cases: &[(&[u8], usize)] = &[
            (b"a\x80", 1),
            (b"a\xff", 1),
            (b"\xc0\xaf", 0),
            (b"\xe0\x80\xaf", 1),
            (b"\xed\xa0\x80", 1),
            (b"\xce\xba\xe1\xbd\xb9\xf4\x90\x80\x80", 6),
            (b"\xf0\x80\x80\x80", 1),
            (b"\xf5\x80", 0),
            (b"\xc3(", 1),
            (b"\xe2\x82(", 2),
            (b"\xf0\x9f\x92(", 3),
        ];
        for &(text, wrong) in cases {
            let mut utf8 = Utf8::new();
            let found = text.iter().position(|byte| !utf8.push(&[*byte]));
            assert_eq!(found, Some(wrong), "{text:x?}");
            assert!(!utf8.is_valid() && !utf8.push(b"a"), "nothing mends it");
            utf8.reset();
            assert!(utf8.is_valid() && utf8.push(b"a"));
            let mut whole = Utf8::new();
            assert!(!whole.push(text), "{text:x?} at once");
        }
    }

    #[test]
    fn what_is_pending_is_counted() {
        let mut utf8 = Utf8::new();
        let pending: Vec<u8> = "aä€💩"
            .bytes()
            .map(|byte| {
                assert!(utf8.push(&[byte]));
                utf8.pending()
            })
            .collect();
        assert_eq!(pending, [0, 1, 0, 1, 2, 0, 1, 2, 3, 0]);
        assert!(utf8.push(b"abc\xf0\x9f\x92") && utf8.pending() == 3);
        assert!(utf8.push(b"") && utf8.pending() == 3);
        assert!(utf8.push(b"\xa9\xc3") && utf8.pending() == 1);
    }

    proptest::proptest! {
        /// Pieces give what the standard library gives for the whole, for text with a few wrong bytes.
        #[test]
        fn pieces_are_judged_like_the_whole(
            text in "[a-cä€💩\u{7ff}\u{ffff}]{0,12}",
            wrong in proptest::collection::vec((0usize..50, proptest::num::u8::ANY), 0..2),
            cut in 0usize..50,
            step in 1usize..9,
        ) {
            let mut bytes = text.into_bytes();
            for (at, byte) in wrong {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            bytes.truncate(cut);
            let mut utf8 = Utf8::new();
            let valid = bytes.chunks(step).fold(true, |_, piece| utf8.push(piece));
            match std::str::from_utf8(&bytes) {
                Ok(_) => assert!(valid && utf8.pending() == 0),
                Err(error) if error.error_len().is_none() => {
                    assert!(valid);
                    assert_eq!(usize::from(utf8.pending()), bytes.len() - error.valid_up_to());
                }
                Err(_) => assert!(!valid),
            }
            assert_eq!(utf8.is_valid(), valid);
        }
    }
}
