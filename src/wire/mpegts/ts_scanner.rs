//! Packets from an endless stream that arrives in arbitrary pieces. Whole packets are read where
//! they are; only what is cut by the end of a piece is copied.
//!
//! | state    | left when |
//! |----------|-----------|
//! | searching | two sync bytes stand 188 apart: `search` |
//! | synced   | a packet does not begin with a sync byte: `take_held` |
//! | stopped  | never |

use bytes::Bytes;

use super::demux::{Demux, Fault, Found};
use super::packet::{PACKET_BYTES, SYNC};
use super::program::StreamKind;

/// A stream without two sync bytes at a distance of 188 within so many bytes is not MPEG-TS.
pub const UNSYNCED_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug)]
pub struct TsScanner {
    /// Offset of the next byte to be pushed.
    position: u64,
    synced: bool,
    stopped: bool,
    /// A packet was found before.
    was_synced: bool,
    /// Thrown away since there is no sync.
    skipped_bytes: u64,
    /// Bytes not yet judged; they end at `position`.
    held: [u8; PACKET_BYTES + 1],
    held_len: usize,
    demux: Demux,
}

impl Default for TsScanner {
    fn default() -> TsScanner {
        TsScanner {
            position: 0,
            synced: false,
            stopped: false,
            was_synced: false,
            skipped_bytes: 0,
            held: [0; PACKET_BYTES + 1],
            held_len: 0,
            demux: Demux::default(),
        }
    }
}

impl TsScanner {
    pub fn new() -> TsScanner {
        TsScanner::default()
    }

    /// Nothing will be told any more: `NotTs` has been.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The leading stream: its PID, and whether it is video. Known with the first program.
    pub fn lead(&self) -> Option<(u16, bool)> {
        self.demux.lead().map(|lead| (lead.pid, lead.kind == StreamKind::Video))
    }

    /// The newest packets of PAT and PMT, as they came; empty before the first program. With their
    /// own counters they are legal repetitions wherever they were the last.
    pub fn latest_tables(&self) -> Bytes {
        self.demux.latest_tables()
    }

    pub fn push(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Found)) {
        while !bytes.is_empty() && !self.stopped {
            if self.synced
                && self.held_len == 0
                && let Some((packet, rest)) = bytes.split_first_chunk::<PACKET_BYTES>()
                && packet[0] == SYNC
            {
                self.demux.packet(packet, self.position, found);
                self.position += PACKET_BYTES as u64;
                bytes = rest;
            } else {
                let taken = self.hold(bytes);
                bytes = bytes.get(taken..).unwrap_or_default();
                if self.synced { self.take_held(found) } else { self.search(found) }
            }
        }
        self.position += bytes.len() as u64;
    }

    fn hold(&mut self, bytes: &[u8]) -> usize {
        let wanted = PACKET_BYTES + usize::from(!self.synced);
        let room = self.held.get_mut(self.held_len..wanted).unwrap_or_default();
        let taken = room.len().min(bytes.len());
        for (slot, byte) in room.iter_mut().zip(bytes) {
            *slot = *byte;
        }
        self.held_len += taken;
        self.position += taken as u64;
        assert!(self.held_len <= wanted);
        taken
    }

    fn take_held(&mut self, found: &mut impl FnMut(Found)) {
        if self.held_len < PACKET_BYTES {
            return;
        }
        if self.held[0] != SYNC {
            self.synced = false;
            self.skipped_bytes = 0;
            found(Found::Fault { offset: self.held_start(), fault: Fault::SyncLost });
            return self.discard(found);
        }
        self.emit_held(found);
        self.held_len = 0;
    }

    fn search(&mut self, found: &mut impl FnMut(Found)) {
        if self.held_len < PACKET_BYTES + 1 {
            return;
        }
        if self.held[0] != SYNC || self.held[PACKET_BYTES] != SYNC {
            return self.discard(found);
        }
        self.synced = true;
        if self.was_synced {
            let fault = Fault::SyncFound { skipped_bytes: self.skipped_bytes };
            found(Found::Fault { offset: self.held_start(), fault });
        }
        self.was_synced = true;
        self.emit_held(found);
        self.held[0] = SYNC;
        self.held_len = 1;
    }

    fn held_start(&self) -> u64 {
        self.position - self.held_len as u64
    }

    fn emit_held(&mut self, found: &mut impl FnMut(Found)) {
        let offset = self.held_start();
        if let Some(packet) = self.held.first_chunk::<PACKET_BYTES>() {
            self.demux.packet(packet, offset, found);
        }
    }

    /// Throws away at least one byte, up to the next possible sync byte.
    fn discard(&mut self, found: &mut impl FnMut(Found)) {
        let held = self.held.get(1..self.held_len).unwrap_or_default();
        let thrown = 1 + held.iter().position(|&byte| byte == SYNC).unwrap_or(held.len());
        self.held.copy_within(thrown..self.held_len, 0);
        self.held_len -= thrown;
        self.skipped_bytes += thrown as u64;
        if !self.was_synced && self.skipped_bytes >= UNSYNCED_BYTES_MAX {
            self.stopped = true;
            self.held_len = 0;
            found(Found::NotTs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mpegts::test_streams::{scan, stream};
    use proptest::prelude::*;

    fn unit_offsets(found: &[Found]) -> Vec<u64> {
        let offset = |found: &Found| match found {
            Found::Unit { packet_offset, .. } => Some(*packet_offset),
            _ => None,
        };
        found.iter().filter_map(offset).collect()
    }

    #[test]
    fn pieces_do_not_matter() {
        let stream = stream();
        let whole = scan(&stream, stream.len());
        assert_eq!(unit_offsets(&whole), [2 * 188, 5 * 188]);
        for piece_bytes in [1, 10, 187, 188, 189, 500] {
            assert_eq!(scan(&stream, piece_bytes), whole, "pieces of {piece_bytes}");
        }
    }

    #[test]
    fn synchronisation_is_found_and_found_again() {
        let good = stream();
        let noise: Vec<u8> = (0..1000u32).map(|index| (index * 7 % 251) as u8).collect();
        let found = scan(&[noise.clone(), good.clone(), noise, good.clone()].concat(), 33);
        let again = 2000 + good.len() as u64;
        let expected = [1376, 1940, 376 + again, 940 + again];
        assert_eq!(unit_offsets(&found), expected);
        let faults: Vec<Found> = found
            .into_iter()
            .filter(|found| {
                matches!(
                    found,
                    Found::Fault { fault: Fault::SyncLost | Fault::SyncFound { .. }, .. }
                )
            })
            .collect();
        let lost = Found::Fault { offset: again - 1000, fault: Fault::SyncLost };
        let fault = Fault::SyncFound { skipped_bytes: 1000 };
        assert_eq!(faults, [lost, Found::Fault { offset: again, fault }]);
    }

    #[test]
    fn other_streams_are_refused_once() {
        assert_eq!(scan(&vec![0x11; 200_000], 1024), [Found::NotTs]);
    }

    proptest! {
        #[test]
        fn random_bytes_do_not_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            piece_bytes in 1usize..300,
        ) {
            let _ = scan(&bytes, piece_bytes);
        }

        #[test]
        fn random_packets_are_told_alike_in_any_pieces(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..4000),
            pids in proptest::collection::vec(0u8..5, 22),
            pieces in proptest::collection::vec(1usize..400, 1..30),
        ) {
            // Random packets on the PIDs of a good stream, and after it, so that they are taken
            // for its streams and tables.
            for (packet, pid) in bytes.chunks_exact_mut(PACKET_BYTES).zip(pids) {
                packet[0] = SYNC;
                packet[1] &= 0x40;
                packet[1] |= u8::from(pid > 0);
                packet[2] = pid.saturating_sub(1);
            }
            let bytes = [stream(), bytes].concat();
            let whole = scan(&bytes, bytes.len());
            let mut found = Vec::new();
            let mut scanner = TsScanner::new();
            let mut rest = bytes.as_slice();
            for piece_bytes in pieces.into_iter().cycle() {
                let (piece, after) = rest.split_at(piece_bytes.min(rest.len()));
                scanner.push(piece, &mut |one| found.push(one));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, whole);
        }

        #[test]
        fn mutated_streams_do_not_panic(
            changes in proptest::collection::vec((0usize..1128, any::<u8>()), 1..10),
            piece_bytes in 1usize..300,
        ) {
            let mut bytes = stream();
            for (at, value) in changes {
                bytes[at] = value;
            }
            prop_assert_eq!(scan(&bytes, piece_bytes), scan(&bytes, bytes.len()));
        }
    }
}
