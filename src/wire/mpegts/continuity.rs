//! How a stream says that it does not go on where it left off: a packet of each of its PIDs with the
//! discontinuity indicator. Its counter is the one from which the packets behind it go on: it is the
//! packet with the indicator that may leap, and no other (ISO/IEC 13818-1, 2.4.3.4).

use std::collections::HashMap;

use super::packet::{PACKET_BYTES, Packet, PacketHead, SYNC};

/// More streams have no place in one multiplex that is pulled here; those that were silent for the longest
/// time are forgotten.
pub const GAP_PIDS_MAX: usize = 64;
/// Stuffing that belongs to no stream.
const NULL_PID: u16 = 0x1fff;
/// A stream without a place to begin in so many packets (12 MB) says its gap as well as it can.
pub const RESUMED_PACKETS_MAX: usize = 1 << 16;
/// Behind it comes the first packet of an encoder that has just started.
const BEFORE_FIRST: u8 = 15;

/// The PIDs of a stream with their last continuity counters.
#[derive(Debug, Default)]
pub struct Continuity {
    last: Vec<Last>,
    /// How many were looked at.
    packets: u64,
}

/// The last packet of a PID.
#[derive(Debug)]
struct Last {
    pid: u16,
    counter: u8,
    at: u64,
}

impl Continuity {
    /// Look at whole packets.
    pub fn note(&mut self, packets: &[u8]) {
        for packet in packets.chunks_exact(PACKET_BYTES) {
            let Some(head) = packet.first_chunk().and_then(PacketHead::parse) else { continue };
            if head.pid == NULL_PID {
                continue;
            }
            self.packets += 1;
            let last = Last { pid: head.pid, counter: head.continuity, at: self.packets };
            match self.last.iter().position(|known| known.pid == head.pid) {
                Some(place) => self.last[place] = last,
                None if self.last.len() < GAP_PIDS_MAX => self.last.push(last),
                None => {
                    if let Some(oldest) = self.last.iter_mut().min_by_key(|known| known.at) {
                        *oldest = last;
                    }
                }
            }
        }
    }

    /// For between what was noted and what is to come instead, as long as that is unknown.
    pub fn break_packets(&self) -> Vec<u8> {
        self.last.iter().flat_map(|last| break_packet(last.pid, last.counter)).collect()
    }

    /// To look at what comes instead.
    pub fn resume(&self) -> Resumption {
        Resumption { pids: self.last.iter().map(|last| last.pid).collect(), heads: Vec::new() }
    }
}

/// What comes behind a gap, up to where readers go on.
#[derive(Debug)]
pub struct Resumption {
    /// Of before.
    pids: Vec<u16>,
    /// Of each packet, from the first one on.
    heads: Vec<Head>,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    pid: u16,
    counter: u8,
    /// Of the packet before it, of the same PID.
    before: u8,
}

impl Head {
    fn of(packet: &[u8]) -> Head {
        match packet.first_chunk().and_then(PacketHead::parse) {
            Some(head) => {
                let before = head.continuity.wrapping_sub(u8::from(head.has_payload())) & 15;
                Head { pid: head.pid, counter: head.continuity, before }
            }
            None => Head { pid: NULL_PID, counter: 0, before: 0 },
        }
    }
}

impl Resumption {
    /// Look at the next whole packets; false if there are too many.
    pub fn note(&mut self, packets: &[u8]) -> bool {
        self.heads.extend(packets.chunks_exact(PACKET_BYTES).map(Head::of));
        self.heads.len() <= RESUMED_PACKETS_MAX
    }

    /// For readers who go on at this offset with these tables in front.
    pub fn break_packets(&self, start: u64, tables: &[u8]) -> Vec<u8> {
        let packets = usize::try_from(start).unwrap_or(usize::MAX) / PACKET_BYTES;
        let (passed, behind) = self.heads.split_at(packets.min(self.heads.len()));
        let mut counters: HashMap<u16, u8> =
            passed.iter().map(|head| (head.pid, head.counter)).collect();
        counters.extend(behind.iter().rev().map(|head| (head.pid, head.before)));
        let tables = tables.chunks_exact(PACKET_BYTES).rev().map(Head::of);
        counters.extend(tables.map(|head| (head.pid, head.before)));
        let counter = |pid| counters.get(&pid).copied().unwrap_or(BEFORE_FIRST);
        self.pids.iter().flat_map(|pid| break_packet(*pid, counter(*pid))).collect()
    }
}

/// An adaptation field and nothing else: the counter stays.
fn break_packet(pid: u16, counter: u8) -> Packet {
    let mut packet = [0xff; PACKET_BYTES];
    let [pid_high, pid_low] = pid.to_be_bytes();
    let field_bytes = (PACKET_BYTES - 5) as u8;
    packet[..6].copy_from_slice(&[SYNC, pid_high, pid_low, 0x20 | counter, field_bytes, 0x80]);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pid_says_once_that_it_breaks() {
        let packet = |pid: u16, counter: u8| {
            let mut packet = [0; PACKET_BYTES];
            packet[..4].copy_from_slice(&[SYNC, (pid >> 8) as u8, pid as u8, 0x10 | counter]);
            packet
        };
        let mut continuity = Continuity::default();
        assert!(continuity.break_packets().is_empty());
        continuity
            .note(&[packet(0, 3), packet(256, 14), packet(NULL_PID, 0), packet(256, 15)].concat());
        let packets = continuity.break_packets();
        let heads: Vec<_> = packets
            .chunks_exact(PACKET_BYTES)
            .map(|packet| PacketHead::parse(packet.first_chunk().unwrap()).unwrap())
            .collect();
        let seen: Vec<_> =
            heads.iter().map(|head| (head.pid, head.continuity, head.has_payload())).collect();
        assert_eq!(seen, [(0, 3, false), (256, 15, false)]);
        assert!(packets.chunks_exact(PACKET_BYTES).all(|packet| packet[4..6] == [183, 0x80]));
    }

    /// Goal: the counters are those from which tables, packets behind the start, and, if none has come
    /// yet, packets in front of it go on.
    #[test]
    fn breaks_lead_to_what_comes() {
        let packet = |pid: u16, counter: u8, control: u8| {
            let mut packet = [0; PACKET_BYTES];
            packet[..4].copy_from_slice(&[SYNC, (pid >> 8) as u8, pid as u8, control | counter]);
            packet
        };
        let mut continuity = Continuity::default();
        for pid in [0, 256, 257, 258, 259] {
            continuity.note(&packet(pid, 9, 0x10));
        }
        let mut resumption = continuity.resume();
        assert!(resumption.note(&[packet(0, 1, 0x10), packet(257, 3, 0x10)].concat()));
        assert!(resumption.note(&[packet(256, 0, 0x10), packet(256, 1, 0x10)].concat()));
        assert!(resumption.note(&[packet(258, 4, 0x20), packet(257, 4, 0x10)].concat()));
        let start = 2 * PACKET_BYTES as u64;
        let counters = |tables: &[u8]| {
            let packets = resumption.break_packets(start, tables);
            let heads = packets.chunks_exact(PACKET_BYTES).map(Head::of);
            heads.map(|head| (head.pid, head.counter)).collect::<Vec<_>>()
        };
        let media = [(256, 15), (257, 3), (258, 4), (259, BEFORE_FIRST)];
        assert_eq!(counters(&[]), [&[(0, 1)], &media[..]].concat());
        assert_eq!(counters(&packet(0, 1, 0x10)), [&[(0, 0)], &media[..]].concat());
    }

    #[test]
    fn what_is_looked_at_is_limited() {
        let mut resumption = Continuity::default().resume();
        let packets = vec![0; RESUMED_PACKETS_MAX * PACKET_BYTES];
        assert!(resumption.note(&packets) && !resumption.note(&packets[..PACKET_BYTES]));
    }

    #[test]
    fn pids_are_limited() {
        let mut continuity = Continuity::default();
        for pid in 0..1000_u16 {
            let mut packet = [0; PACKET_BYTES];
            packet[..4].copy_from_slice(&[SYNC, (pid >> 8) as u8, pid as u8, 0x10]);
            continuity.note(&packet);
        }
        assert_eq!(continuity.break_packets().len(), GAP_PIDS_MAX * PACKET_BYTES);
    }
}
