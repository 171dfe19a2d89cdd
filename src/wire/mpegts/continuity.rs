//! How a stream says that it does not go on where it left off: a packet of each of its PIDs with the
//! discontinuity indicator (ISO/IEC 13818-1, 2.4.3.5).

use super::packet::{PACKET_BYTES, Packet, PacketHead, SYNC};

/// More streams have no place in one multiplex that is pulled here; those beyond say nothing.
const PIDS_MAX: usize = 64;
/// Stuffing that belongs to no stream.
const NULL_PID: u16 = 0x1fff;

/// The PIDs of a stream with their last continuity counters.
#[derive(Debug, Default)]
pub struct Continuity {
    last: Vec<(u16, u8)>,
}

impl Continuity {
    /// Look at whole packets.
    pub fn note(&mut self, packets: &[u8]) {
        for packet in packets.chunks_exact(PACKET_BYTES) {
            let Some(head) = packet.first_chunk().and_then(PacketHead::parse) else { continue };
            if head.pid == NULL_PID {
                continue;
            }
            match self.last.iter().position(|(pid, _)| *pid == head.pid) {
                Some(at) => self.last[at].1 = head.continuity,
                None if self.last.len() < PIDS_MAX => self.last.push((head.pid, head.continuity)),
                None => {}
            }
        }
    }

    /// For between what was noted and what is to come instead.
    pub fn break_packets(&self) -> Vec<u8> {
        self.last.iter().flat_map(|(pid, counter)| break_packet(*pid, *counter)).collect()
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

    #[test]
    fn pids_are_limited() {
        let mut continuity = Continuity::default();
        for pid in 0..1000_u16 {
            let mut packet = [0; PACKET_BYTES];
            packet[..4].copy_from_slice(&[SYNC, (pid >> 8) as u8, pid as u8, 0x10]);
            continuity.note(&packet);
        }
        assert_eq!(continuity.break_packets().len(), PIDS_MAX * PACKET_BYTES);
    }
}
