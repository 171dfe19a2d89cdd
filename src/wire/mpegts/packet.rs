//! One packet: its head, the clocks in it and their arithmetic, its continuity counter.

use std::collections::HashMap;

pub const PACKET_BYTES: usize = 188;
pub type Packet = [u8; PACKET_BYTES];

/// Ticks per second of PTS, DTS and the PCR base; the PCR itself counts 300 times faster.
pub const CLOCK_HZ: u64 = 90_000;
/// PTS, DTS and PCR base have 33 bits and begin again after 26.5 hours.
pub const CLOCK_WRAP: u64 = 1 << 33;

pub(super) const SYNC: u8 = 0x47;
const PID_PAT: u16 = 0;
const PID_NULL: u16 = 0x1fff;

/// The four bytes in front of every packet (2.4.3.2) and the flags of its adaptation field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketHead {
    pub pid: u16,
    /// A PES packet or a section begins in this packet.
    pub unit_start: bool,
    pub random_access: bool,
    /// Clock or counter do not go on from the packet before.
    pub discontinuity: bool,
    /// Where the payload begins; `PACKET_BYTES` if there is none.
    pub payload_at: usize,
    pub continuity: u8,
}

impl PacketHead {
    /// `None`: no sync byte, a transport error, or an adaptation field that does not fit.
    pub fn parse(packet: &Packet) -> Option<PacketHead> {
        let [sync, high, low, control, adaptation_bytes, flags, ..] = *packet;
        if sync != SYNC || high & 0x80 != 0 {
            return None;
        }
        let adaptation = control & 0x20 != 0;
        let payload_at = match (adaptation, control & 0x10 != 0) {
            (false, true) => 4,
            (true, true) => 5 + usize::from(adaptation_bytes),
            (_, false) => PACKET_BYTES,
        };
        (payload_at <= PACKET_BYTES).then_some(PacketHead {
            pid: u16::from_be_bytes([high, low]) & 0x1fff,
            unit_start: high & 0x40 != 0,
            random_access: adaptation && adaptation_bytes >= 1 && flags & 0x40 != 0,
            discontinuity: adaptation && adaptation_bytes >= 1 && flags & 0x80 != 0,
            payload_at,
            continuity: control & 0x0f,
        })
    }

    pub fn has_payload(&self) -> bool {
        self.payload_at < PACKET_BYTES
    }

    /// The packet begins the program association table, with which a joiner begins.
    pub fn starts_pat(&self) -> bool {
        self.pid == PID_PAT && self.unit_start
    }
}

/// Presentation and decoding time of a unit, 33 bits at 90 kHz.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PesTimes {
    pub pts: Option<u64>,
    /// Absent where it equals the PTS.
    pub dts: Option<u64>,
}

impl PesTimes {
    /// When the unit is to be decoded.
    pub fn decode_time(&self) -> Option<u64> {
        self.dts.or(self.pts)
    }
}

/// The times of the PES packet that begins in this packet; none where none begins.
pub fn pes_times(packet: &Packet) -> PesTimes {
    let (pts_at, dts_at) = pes_time_places(packet);
    let read = |at: usize| packet.get(at..).and_then(<[u8]>::first_chunk).map(read_timestamp);
    PesTimes { pts: pts_at.and_then(read), dts: dts_at.and_then(read) }
}

/// Program clock reference in ticks of 27 MHz.
pub fn pcr(packet: &Packet) -> Option<u64> {
    let (pcr_at, _) = pcr_places(packet);
    packet.get(pcr_at?..).and_then(<[u8]>::first_chunk).map(read_pcr)
}

/// Moves every clock of the packet (PCR, OPCR, PTS, DTS) by `ticks` of 90 kHz, modulo 33 bits.
pub fn shift_times(packet: &mut Packet, ticks: u64) {
    let (pcr_at, opcr_at) = pcr_places(packet);
    for at in [pcr_at, opcr_at].into_iter().flatten() {
        if let Some(field) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            let moved = read_pcr(field) + (ticks % CLOCK_WRAP) * 300;
            write_pcr(field, moved % (CLOCK_WRAP * 300));
        }
    }
    let (pts_at, dts_at) = pes_time_places(packet);
    for at in [pts_at, dts_at].into_iter().flatten() {
        if let Some(field) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            let moved = (read_timestamp(field) + ticks % CLOCK_WRAP) % CLOCK_WRAP;
            write_timestamp(field, moved);
        }
    }
}

/// The time nearest to `near` that a 33-bit clock would show as `value`.
pub fn unwrap_clock(near: u64, value: u64) -> u64 {
    let ahead = value.wrapping_sub(near) % CLOCK_WRAP;
    if ahead < CLOCK_WRAP / 2 {
        near.saturating_add(ahead)
    } else {
        near.saturating_sub(CLOCK_WRAP - ahead)
    }
}

/// Makes copies of a stream, one after the other, count on where the copy before ended (2.4.3.3).
/// Gaps and repeated packets inside a copy stay as they are. Holds one entry per PID, at most 8192.
#[derive(Debug, Default)]
pub struct ContinuityRewriter {
    pass: u64,
    pids: HashMap<u16, Continuity>,
}

#[derive(Debug, Clone, Copy)]
struct Continuity {
    pass: u64,
    shift: u8,
    last: u8,
}

impl ContinuityRewriter {
    pub fn new() -> ContinuityRewriter {
        ContinuityRewriter::default()
    }

    /// The packets that follow are another copy.
    pub fn begin_pass(&mut self) {
        self.pass += 1;
    }

    pub fn rewrite(&mut self, packet: &mut Packet) {
        let Some(head) = PacketHead::parse(packet) else {
            return;
        };
        if head.pid == PID_NULL {
            return;
        }
        let first = Continuity { pass: self.pass, shift: 0, last: head.continuity };
        let entry = self.pids.entry(head.pid).or_insert(first);
        if entry.pass != self.pass {
            // A packet without payload repeats the counter of the one before.
            let wanted = entry.last.wrapping_add(u8::from(head.has_payload()));
            entry.pass = self.pass;
            entry.shift = wanted.wrapping_sub(head.continuity) & 0x0f;
        }
        entry.last = head.continuity.wrapping_add(entry.shift) & 0x0f;
        packet[3] = (packet[3] & 0xf0) | entry.last;
    }
}

/// Where PCR and OPCR are (2.4.3.5). Only a field of 7 bytes or more has room for a PCR.
fn pcr_places(packet: &Packet) -> (Option<usize>, Option<usize>) {
    let [_, _, _, control, field_bytes, flags, ..] = *packet;
    if PacketHead::parse(packet).is_none() || control & 0x20 == 0 || field_bytes < 7 {
        return (None, None);
    }
    let has_pcr = flags & 0x10 != 0;
    let has_opcr = flags & 0x08 != 0;
    let opcr_at = 6 + 6 * usize::from(has_pcr);
    let opcr_fits = opcr_at + 6 <= 5 + usize::from(field_bytes);
    (has_pcr.then_some(6), (has_opcr && opcr_fits).then_some(opcr_at))
}

/// Where PTS and DTS are (2.4.3.6), if a PES packet with them begins here, in the clear.
fn pes_time_places(packet: &Packet) -> (Option<usize>, Option<usize>) {
    let none = (None, None);
    let Some(head) = PacketHead::parse(packet) else {
        return none;
    };
    let scrambled = packet[3] & 0xc0 != 0;
    let Some(pes) = packet.get(head.payload_at..).and_then(<[u8]>::first_chunk::<9>) else {
        return none;
    };
    let &[0, 0, 1, stream_id, _, _, marker, flags, header_bytes] = pes else {
        return none;
    };
    // Stream ids without the optional header: maps, padding, private 2, ECM, EMM, DSM-CC,
    // directory.
    let bare = matches!(stream_id, 0xbc | 0xbe | 0xbf | 0xf0..=0xf2 | 0xf8 | 0xff);
    if !head.unit_start || scrambled || bare || marker & 0xc0 != 0x80 {
        return none;
    }
    let first = head.payload_at + 9;
    let has_pts = flags & 0x80 != 0 && header_bytes >= 5;
    let has_dts = flags & 0xc0 == 0xc0 && header_bytes >= 10;
    (has_pts.then_some(first), has_dts.then_some(first + 5))
}

/// The bytes of the elementary stream in a packet that begins a PES packet, in the clear. Empty if
/// the head of the PES packet fills it.
pub(super) fn pes_payload<'p>(packet: &'p Packet, head: &PacketHead) -> Option<&'p [u8]> {
    let pes = packet.get(head.payload_at..)?;
    let &[0, 0, 1, _, _, _, marker, _, header_bytes] = pes.first_chunk::<9>()? else {
        return None;
    };
    let in_the_clear = packet[3] & 0xc0 == 0 && marker & 0xf0 == 0x80;
    in_the_clear.then(|| pes.get(9 + usize::from(header_bytes)..).unwrap_or_default())
}

/// 33 bits in five bytes, with a marker bit after 3, 15 and 15 of them.
fn read_timestamp(field: &[u8; 5]) -> u64 {
    let [a, b, c, d, e] = field.map(u64::from);
    ((a >> 1) & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1
}

/// Keeps the four bits in front, which say whether this is a PTS or a DTS.
pub(super) fn write_timestamp(field: &mut [u8; 5], value: u64) {
    assert!(value < CLOCK_WRAP);
    let byte = |shift: u32| (value >> shift) as u8;
    field[0] = (field[0] & 0xf0) | ((byte(30) & 7) << 1) | 1;
    field[1] = byte(22);
    field[2] = (byte(15) << 1) | 1;
    field[3] = byte(7);
    field[4] = (byte(0) << 1) | 1;
}

/// 33 bits of base, 6 reserved, 9 of extension (0 to 299).
fn read_pcr(field: &[u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = field.map(u64::from);
    let base = a << 25 | b << 17 | c << 9 | d << 1 | e >> 7;
    base * 300 + ((e & 1) << 8 | f)
}

pub(super) fn write_pcr(field: &mut [u8; 6], value: u64) {
    let (base, extension) = (value / 300, value % 300);
    assert!(base < CLOCK_WRAP);
    let byte = |shift: u32| (base >> shift) as u8;
    let tail = (byte(0) << 7) | 0x7e | (extension >> 8) as u8;
    *field = [byte(25), byte(17), byte(9), byte(1), tail, extension as u8];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mpegts::test_streams::{VIDEO_PID, packet, pes, stream};
    use proptest::prelude::*;

    #[test]
    fn clocks_move_and_wrap() {
        let mut packet = pes(VIDEO_PID, true, 0, CLOCK_WRAP - 10, CLOCK_WRAP - 100);
        assert_eq!(pcr(&packet), Some((CLOCK_WRAP - 100) * 300 + 17));
        shift_times(&mut packet, 50);
        assert_eq!(pes_times(&packet), PesTimes { pts: Some(40), dts: Some(CLOCK_WRAP - 50) });
        shift_times(&mut packet, 100 + CLOCK_WRAP);
        assert_eq!(pes_times(&packet), PesTimes { pts: Some(140), dts: Some(50) });
        assert_eq!(pcr(&packet), Some(50 * 300 + 17));
        assert_eq!(unwrap_clock(CLOCK_WRAP + CLOCK_WRAP - 100, 50), 2 * CLOCK_WRAP + 50);
        assert_eq!(unwrap_clock(CLOCK_WRAP + 50, CLOCK_WRAP - 100), CLOCK_WRAP - 100);
    }

    #[test]
    fn a_short_adaptation_field_has_no_clock() {
        let mut packet = packet(VIDEO_PID, false, 0, &[], &[0x55; 184 - 7]);
        packet[5] = 0x10;
        assert_eq!((packet[4], pcr(&packet)), (6, None));
    }

    #[test]
    fn counters_go_on_over_copies() {
        let mut rewriter = ContinuityRewriter::new();
        let mut counters = Vec::new();
        for _ in 0..3 {
            for counter in [5, 6, 6, 7] {
                let mut packet = packet(VIDEO_PID, false, counter, &[], &[1; 184]);
                rewriter.rewrite(&mut packet);
                counters.push(packet[3] & 0x0f);
            }
            rewriter.begin_pass();
        }
        assert_eq!(counters, [5, 6, 6, 7, 8, 9, 9, 10, 11, 12, 12, 13]);
    }

    fn survives(bytes: &[u8]) {
        let mut rewriter = ContinuityRewriter::new();
        for packet in bytes.chunks_exact(PACKET_BYTES) {
            let mut packet = Packet::try_from(packet).unwrap();
            if let Some(head) = PacketHead::parse(&packet) {
                let _ = pes_payload(&packet, &head);
            }
            let before = (pes_times(&packet), pcr(&packet).is_some());
            shift_times(&mut packet, u64::MAX);
            rewriter.rewrite(&mut packet);
            assert_eq!(before.1, pcr(&packet).is_some());
            assert_eq!(before.0.pts.is_some(), pes_times(&packet).pts.is_some());
        }
    }

    proptest! {
        #[test]
        fn random_packets_do_not_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 188..2000),
        ) {
            survives(&bytes);
            bytes.chunks_mut(PACKET_BYTES).for_each(|packet| packet[0] = SYNC);
            survives(&bytes);
        }

        #[test]
        fn mutated_packets_do_not_panic(
            changes in proptest::collection::vec((0usize..1128, any::<u8>()), 1..10),
        ) {
            let mut bytes = stream();
            for (at, value) in changes {
                bytes[at] = value;
            }
            survives(&bytes);
        }
    }
}
