//! The verifiable content: every byte of an object follows from its offset, except the time
//! stamps, which the publisher notes in the plan. Knows nothing of HTTP or sockets; the publisher
//! fills appends here and every reader checks its bytes here.
//!
//! An object is one preamble of `PREAMBLE_BYTES` (append 0, which creates the object) and then
//! appends 1, 2, 3 … of one size. Each append is a 16-byte header {magic u32, sequence u32,
//! time stamp u64, all little-endian} and a body: a fixed random template, every 8-byte word of
//! it xored with a key drawn from the sequence number. Bytes of another place of the same append,
//! or of the same place of another append, therefore never match, and checking costs one xor per word.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(crate) const HEADER_BYTES: usize = 16;
pub(crate) const PREAMBLE_BYTES: usize = 64;
const MAGIC: u32 = 0x7761_7465;
/// Set in every byte of a body, so that no start code (ISO/IEC 14496-10, annex B) is in one.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// What one run publishes: the content of its appends and the stamps they were sent with.
/// Shared by the publisher, the readers, and in `limit` the sending thread.
pub(crate) struct Plan {
    preamble: Vec<u8>,
    append: Vec<u8>,
    /// One per append, 0 until it is sent. Readers compare headers with it.
    stamps: Vec<AtomicU64>,
    /// How many of them follow the preamble, unless there are fewer in the end.
    appends: AtomicU32,
}

impl Plan {
    pub(crate) fn new(append_bytes: usize, appends: u32) -> Arc<Plan> {
        assert!(append_bytes >= HEADER_BYTES, "an append holds at least its header");
        Arc::new(Plan {
            preamble: template(PREAMBLE_BYTES),
            append: template(append_bytes),
            stamps: (0..=appends).map(|_| AtomicU64::new(0)).collect(),
            appends: AtomicU32::new(appends),
        })
    }

    /// How many appends follow the preamble.
    pub(crate) fn appends(&self) -> u32 {
        self.appends.load(Ordering::Acquire)
    }

    /// Makes the given append the last one. It has been sent, and no later one has.
    pub(crate) fn end_after(&self, appends: u32) {
        assert!(appends <= self.appends(), "a plan becomes shorter and not longer");
        self.appends.store(appends, Ordering::Release);
    }

    pub(crate) fn append_bytes(&self) -> usize {
        self.append.len()
    }

    /// The length of one append, of which the preamble is the first.
    pub(crate) fn bytes_of(&self, sequence: u32) -> u64 {
        self.template(sequence).len() as u64
    }

    /// The length of the object after the given number of appends.
    pub(crate) fn object_bytes(&self, appends: u32) -> u64 {
        PREAMBLE_BYTES as u64 + u64::from(appends) * self.append.len() as u64
    }

    /// Writes the body of an append; its header is still to come.
    pub(crate) fn fill(&self, sequence: u32, out: &mut [u8]) {
        let template = self.template(sequence);
        assert_eq!(out.len(), template.len());
        let key = key(sequence).to_le_bytes();
        for (index, (out, template)) in out.iter_mut().zip(template).enumerate() {
            *out = template ^ key[index % 8];
        }
    }

    /// Writes the header of an append and notes its stamp. Separate from `fill`, so that the
    /// stamp is the moment of sending.
    pub(crate) fn stamp(&self, sequence: u32, stamp_ns: u64, out: &mut [u8]) {
        out[..HEADER_BYTES].copy_from_slice(&header(sequence, stamp_ns));
        self.stamps[sequence as usize].store(stamp_ns, Ordering::Release);
    }

    fn template(&self, sequence: u32) -> &[u8] {
        if sequence == 0 { &self.preamble } else { &self.append }
    }
}

/// A byte that is not what was published, or one too many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Corrupt {
    pub(crate) offset: u64,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wrong bytes at or shortly after offset {}", self.offset)
    }
}

/// Checks one reader's bytes in order, in pieces of any length.
pub(crate) struct Verifier {
    plan: Arc<Plan>,
    sequence: u32,
    /// Position within the append of that sequence number.
    at: usize,
    header: [u8; HEADER_BYTES],
}

impl Verifier {
    pub(crate) fn new(plan: Arc<Plan>) -> Verifier {
        Verifier { plan, sequence: 0, at: 0, header: [0; HEADER_BYTES] }
    }

    /// Appends wholly received, the preamble not counted; `None` before the preamble is whole.
    pub(crate) fn appends_received(&self) -> Option<u32> {
        self.sequence.checked_sub(1)
    }

    /// Whether the bytes so far end where an append does.
    pub(crate) fn is_between_appends(&self) -> bool {
        self.at == 0
    }

    /// The next bytes are of this append, whatever came before.
    pub(crate) fn turn_to(&mut self, sequence: u32) {
        (self.sequence, self.at) = (sequence, 0);
    }

    /// Bytes checked so far, if none were passed over.
    pub(crate) fn offset(&self) -> u64 {
        let whole = self.sequence.checked_sub(1).map_or(0, |n| self.plan.object_bytes(n));
        whole + self.at as u64
    }

    /// Checks the next bytes and calls `complete` with the stamp of each append they complete
    /// (not for the preamble).
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        mut complete: impl FnMut(u64),
    ) -> Result<(), Corrupt> {
        while !bytes.is_empty() {
            if self.sequence > self.plan.appends() {
                return Err(self.corrupt());
            }
            let left = self.plan.template(self.sequence).len() - self.at;
            let (piece, rest) = bytes.split_at(left.min(bytes.len()));
            self.check(piece)?;
            bytes = rest;
            if piece.len() == left {
                if self.sequence > 0 {
                    complete(self.stamp());
                }
                self.sequence += 1;
                self.at = 0;
            }
        }
        Ok(())
    }

    /// Checks bytes that lie within the current append.
    fn check(&mut self, mut piece: &[u8]) -> Result<(), Corrupt> {
        if self.at < HEADER_BYTES {
            let (head, rest) = piece.split_at(piece.len().min(HEADER_BYTES - self.at));
            self.header[self.at..self.at + head.len()].copy_from_slice(head);
            let expected = header(self.sequence, self.stamp());
            if head != &expected[self.at..self.at + head.len()] {
                return Err(self.corrupt());
            }
            self.at += head.len();
            piece = rest;
        }
        let template = &self.plan.template(self.sequence)[self.at..self.at + piece.len()];
        let shift = (self.at % 8 * 8) as u32;
        if !matches(piece, template, key(self.sequence).rotate_right(shift)) {
            return Err(self.corrupt());
        }
        self.at += piece.len();
        Ok(())
    }

    /// The stamp that the publisher noted for the current append.
    fn stamp(&self) -> u64 {
        self.plan.stamps[self.sequence as usize].load(Ordering::Acquire)
    }

    fn corrupt(&self) -> Corrupt {
        Corrupt { offset: self.offset() }
    }
}

/// The number of the append that begins so; `None` if none does.
pub(crate) fn sequence_of(header: &[u8]) -> Option<u32> {
    let words = header.as_chunks::<4>().0;
    let magic = u32::from_le_bytes(*words.first()?);
    (magic == MAGIC).then_some(u32::from_le_bytes(*words.get(1)?))
}

fn header(sequence: u32, stamp_ns: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&sequence.to_le_bytes());
    header[8..].copy_from_slice(&stamp_ns.to_le_bytes());
    header
}

/// Compares word by word and without an early exit, which lets the compiler use vectors: the
/// common case is that everything matches.
fn matches(bytes: &[u8], template: &[u8], key: u64) -> bool {
    assert_eq!(bytes.len(), template.len());
    let (words, tail) = bytes.as_chunks::<8>();
    let (template_words, template_tail) = template.as_chunks::<8>();
    let mut difference = 0;
    for (word, template) in words.iter().zip(template_words) {
        difference |= u64::from_le_bytes(*word) ^ u64::from_le_bytes(*template) ^ key;
    }
    let key = key.to_le_bytes();
    for (index, (byte, template)) in tail.iter().zip(template_tail).enumerate() {
        difference |= u64::from(byte ^ template ^ key[index]);
    }
    difference == 0
}

fn template(length: usize) -> Vec<u8> {
    let words = 0..length.div_ceil(8) as u64;
    let mut bytes: Vec<u8> = words.flat_map(|word| (mix(word) | HIGH_BITS).to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

fn key(sequence: u32) -> u64 {
    mix(u64::from(sequence) | 1 << 63) & !HIGH_BITS
}

/// The output step of splitmix64: neighbouring inputs give unrelated words.
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(plan: &Plan) -> Vec<u8> {
        let mut object = Vec::new();
        for sequence in 0..=plan.appends() {
            let mut append = vec![0; plan.template(sequence).len()];
            plan.fill(sequence, &mut append);
            plan.stamp(sequence, 1000 + u64::from(sequence), &mut append);
            object.extend(append);
        }
        object
    }

    #[test]
    fn accepts_every_piece_length_and_reports_each_stamp() {
        for append_bytes in [16, 17, 61, 100] {
            let plan = Plan::new(append_bytes, 5);
            let object = object(&plan);
            for piece in 1..80 {
                let mut verifier = Verifier::new(plan.clone());
                let mut stamps = Vec::new();
                for bytes in object.chunks(piece) {
                    verifier.push(bytes, |stamp| stamps.push(stamp)).unwrap();
                }
                assert_eq!(stamps, [1001, 1002, 1003, 1004, 1005]);
                assert_eq!(verifier.appends_received(), Some(5));
                assert_eq!(verifier.offset(), plan.object_bytes(5));
                assert_eq!(verifier.offset(), object.len() as u64);
            }
        }
    }

    #[test]
    fn finds_one_flipped_bit_anywhere() {
        let plan = Plan::new(61, 3);
        let good = object(&plan);
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1 << (position % 8);
            for piece in [7, 64, bad.len()] {
                let mut verifier = Verifier::new(plan.clone());
                let found = bad.chunks(piece).any(|bytes| verifier.push(bytes, |_| ()).is_err());
                assert!(found, "bit at {position} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_plan_can_end_early() {
        let plan = Plan::new(20, 5);
        let object = object(&plan);
        plan.end_after(2);
        let (early, late) = object.split_at(PREAMBLE_BYTES + 2 * 20);
        let mut verifier = Verifier::new(plan.clone());
        verifier.push(early, |_| ()).unwrap();
        assert!(verifier.is_between_appends());
        assert_eq!(verifier.offset(), plan.object_bytes(plan.appends()));
        assert!(verifier.push(late, |_| ()).is_err());
    }

    #[test]
    fn finds_swapped_bodies_and_surplus() {
        let plan = Plan::new(64, 2);
        let good = object(&plan);
        let mut swapped = good.clone();
        let (first, second) = swapped[PREAMBLE_BYTES..].split_at_mut(64);
        first[HEADER_BYTES..].swap_with_slice(&mut second[HEADER_BYTES..]);
        assert!(Verifier::new(plan.clone()).push(&swapped, |_| ()).is_err());

        let mut verifier = Verifier::new(plan.clone());
        verifier.push(&good, |_| ()).unwrap();
        assert_eq!(verifier.push(b"x", |_| ()), Err(Corrupt { offset: plan.object_bytes(2) }));
    }
}
