//! The digest of an object's bytes: while they are written, and how it goes on behind a seal.
//!
//! An object that is continued is not read again. The digest of the whole is then XXH3-64 of what
//! stands for the sealed bytes (their digest and their length) and of the bytes behind them; the
//! record keeps where that was ([`Base`]), so that it can be checked.

use std::io::IoSlice;

use xxhash_rust::xxh3::Xxh3;

/// What stands for bytes that are not read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fingerprint {
    /// The digest that they were sealed with.
    Digest(u64),
    /// Of a plain file, which was never hashed: its modification time in nanoseconds.
    Modified(u64),
}

impl Fingerprint {
    fn value(self) -> u64 {
        match self {
            Fingerprint::Digest(value) | Fingerprint::Modified(value) => value,
        }
    }
}

/// A seal behind which the object was continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Bytes that were sealed then.
    pub length: u64,
    pub fingerprint: Fingerprint,
}

impl Base {
    /// The state of the digest at this place.
    pub(super) fn hasher(&self) -> Xxh3 {
        let mut hasher = Xxh3::new();
        hasher.update(&self.fingerprint.value().to_le_bytes());
        hasher.update(&self.length.to_le_bytes());
        hasher
    }
}

/// The state behind `base`, or at the beginning.
pub(super) fn hasher_behind(base: Option<&Base>) -> Xxh3 {
    base.map_or_else(Xxh3::new, Base::hasher)
}

/// The digest of all bytes written, and of those that readers see while these are fewer.
pub(super) struct Digests {
    written: Box<Xxh3>,
    visible: Option<Box<Xxh3>>,
}

impl Digests {
    pub(super) fn behind(base: Option<&Base>) -> Digests {
        Digests { written: Box::new(hasher_behind(base)), visible: None }
    }

    /// Pieces were written, `bytes` together. What was written before is all visible now if
    /// `visible_bytes` is there, and so many of these; with `None` nothing became visible.
    pub(super) fn take(&mut self, pieces: &[IoSlice<'_>], bytes: u64, visible_bytes: Option<u64>) {
        let mut left = match visible_bytes {
            Some(all) if all == bytes => {
                self.visible = None;
                return pieces.iter().for_each(|piece| self.written.update(piece));
            }
            Some(some) => {
                assert!(some < bytes);
                self.visible = None;
                some
            }
            None => 0,
        };
        for piece in pieces {
            let (seen, unseen) =
                piece.split_at(piece.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            self.written.update(seen);
            left -= seen.len() as u64;
            if left == 0 && self.visible.is_none() {
                self.visible = Some(self.written.clone());
            }
            self.written.update(unseen);
        }
    }

    /// The state at the tail.
    pub(super) fn visible(&self) -> Xxh3 {
        self.visible.as_ref().unwrap_or(&self.written).as_ref().clone()
    }

    /// Some of the hidden bytes are visible now.
    pub(super) fn set_visible(&mut self, state: Xxh3) {
        self.visible = Some(Box::new(state));
    }

    /// The bytes that readers do not see are given up.
    pub(super) fn forget_hidden(&mut self) {
        if let Some(visible) = self.visible.take() {
            self.written = visible;
        }
    }

    /// Of the bytes that readers see.
    pub(super) fn of_visible(&self) -> u64 {
        self.visible.as_ref().unwrap_or(&self.written).digest()
    }
}
