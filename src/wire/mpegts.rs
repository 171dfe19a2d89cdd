//! MPEG transport streams (ISO/IEC 13818-1) seen from outside: packets, the PAT and PMT that a late
//! joiner needs, the packets at which it may start, and the clocks. It never decodes media, never
//! reorders packets, and does no I/O. `ingest` feeds a [`TsScanner`] with bytes as they arrive;
//! `publish` reads and rewrites clocks and continuity counters packet by packet.

use std::collections::HashMap;

pub const PACKET_BYTES: usize = 188;
pub type Packet = [u8; PACKET_BYTES];

/// Ticks per second of PTS, DTS and the PCR base; the PCR itself counts 300 times faster.
pub const CLOCK_HZ: u64 = 90_000;
/// PTS, DTS and PCR base have 33 bits and begin again after 26.5 hours.
pub const CLOCK_WRAP: u64 = 1 << 33;

/// A stream without two sync bytes at a distance of 188 within so many bytes is not MPEG-TS.
pub const UNSYNCED_BYTES_MAX: u64 = 64 * 1024;
/// A PAT or PMT section: 3 bytes of head and at most 1021 more (2.4.4.5, 2.4.4.10).
const SECTION_BYTES_MAX: usize = 1024;

const SYNC: u8 = 0x47;
const PID_PAT: u16 = 0;
const PID_NULL: u16 = 0x1fff;

/// A place in the stream, told by a [`TsScanner`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boundary {
    /// Of the first byte of a packet; absolute: counted from the first byte that was pushed.
    pub offset: u64,
    pub kind: BoundaryKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundaryKind {
    /// The packets of the PAT and the PMT, told when both are known and again when either changes.
    Preamble(Vec<u8>),
    /// A decoder may start here: a picture with `random_access_indicator` begins, or any unit of
    /// sound where there are no pictures. `PesStart` of the same packet follows.
    RandomAccess,
    /// A unit of the leading elementary stream begins: the first video, else the first audio, else
    /// the first stream of the PMT.
    PesStart { times: PesTimes },
    /// The stream is something else. Told once; nothing is told after it.
    NotTs,
}

/// Finds the boundaries in an endless stream that arrives in arbitrary pieces. Whole packets are
/// read where they are; only what is cut by the end of a piece is copied.
///
/// | state    | left when |
/// |----------|-----------|
/// | searching | two sync bytes stand 188 apart: `search` |
/// | synced   | a packet does not begin with a sync byte: `push`, `take_held` |
/// | stopped  | never |
#[derive(Debug)]
pub struct TsScanner {
    /// Offset of the next byte to be pushed.
    position: u64,
    synced: bool,
    stopped: bool,
    /// No packet was ever found; counts the bytes thrown away until then.
    unsynced_bytes: Option<u64>,
    /// Bytes not yet judged; they end at `position`.
    held: [u8; PACKET_BYTES + 1],
    held_len: usize,
    tables: Tables,
}

impl Default for TsScanner {
    fn default() -> TsScanner {
        TsScanner {
            position: 0,
            synced: false,
            stopped: false,
            unsynced_bytes: Some(0),
            held: [0; PACKET_BYTES + 1],
            held_len: 0,
            tables: Tables::default(),
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

    /// The leading stream: its PID, and whether it is video. Known with the first preamble.
    pub fn lead(&self) -> Option<(u16, bool)> {
        self.tables.lead.map(|lead| (lead.pid, lead.kind == StreamKind::Video))
    }

    pub fn push(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Boundary)) {
        while !bytes.is_empty() && !self.stopped {
            if self.synced
                && self.held_len == 0
                && let Some((packet, rest)) = bytes.split_first_chunk::<PACKET_BYTES>()
                && packet[0] == SYNC
            {
                self.tables.packet(packet, self.position, found);
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

    fn take_held(&mut self, found: &mut impl FnMut(Boundary)) {
        if self.held_len < PACKET_BYTES {
            return;
        }
        if self.held[0] != SYNC {
            self.synced = false;
            return self.discard(found);
        }
        self.emit_held(found);
        self.held_len = 0;
    }

    fn search(&mut self, found: &mut impl FnMut(Boundary)) {
        if self.held_len < PACKET_BYTES + 1 {
            return;
        }
        if self.held[0] != SYNC || self.held[PACKET_BYTES] != SYNC {
            return self.discard(found);
        }
        self.synced = true;
        self.unsynced_bytes = None;
        self.emit_held(found);
        self.held[0] = SYNC;
        self.held_len = 1;
    }

    fn emit_held(&mut self, found: &mut impl FnMut(Boundary)) {
        let offset = self.position - self.held_len as u64;
        if let Some(packet) = self.held.first_chunk::<PACKET_BYTES>() {
            self.tables.packet(packet, offset, found);
        }
    }

    /// Throws away at least one byte, up to the next possible sync byte.
    fn discard(&mut self, found: &mut impl FnMut(Boundary)) {
        let held = self.held.get(1..self.held_len).unwrap_or_default();
        let thrown = 1 + held.iter().position(|&byte| byte == SYNC).unwrap_or(held.len());
        self.held.copy_within(thrown..self.held_len, 0);
        self.held_len -= thrown;
        if let Some(bytes) = &mut self.unsynced_bytes {
            *bytes += thrown as u64;
            if *bytes >= UNSYNCED_BYTES_MAX {
                self.stopped = true;
                self.held_len = 0;
                found(Boundary { offset: 0, kind: BoundaryKind::NotTs });
            }
        }
    }
}

/// What the program tables say, and the marks that follow from them.
#[derive(Debug, Default)]
struct Tables {
    pat: Table,
    pmt: Table,
    /// Of the first program in the PAT.
    program: Option<Program>,
    lead: Option<Stream>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Program {
    number: u16,
    pmt_pid: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream {
    pid: u16,
    kind: StreamKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum StreamKind {
    Video,
    Audio,
    Other,
}

impl Tables {
    fn packet(&mut self, packet: &Packet, offset: u64, found: &mut impl FnMut(Boundary)) {
        let Some(head) = PacketHead::parse(packet) else {
            return;
        };
        if head.pid == PID_PAT {
            if self.pat.packet(packet, &head, |_| true) {
                self.read_pat();
                self.tell_preamble(offset, found);
            }
        } else if let Some(program) = self.program
            && program.pmt_pid == head.pid
        {
            // Several programs may share a PID; only ours counts.
            if self.pmt.packet(packet, &head, |section| u16_of(section, 3) == program.number) {
                self.read_pmt();
                self.tell_preamble(offset, found);
            }
        } else if let Some(lead) = self.lead
            && lead.pid == head.pid
            && head.unit_start
        {
            if head.random_access || lead.kind != StreamKind::Video {
                found(Boundary { offset, kind: BoundaryKind::RandomAccess });
            }
            let times = pes_times(packet);
            found(Boundary { offset, kind: BoundaryKind::PesStart { times } });
        }
    }

    fn tell_preamble(&self, offset: u64, found: &mut impl FnMut(Boundary)) {
        if self.lead.is_some() {
            let preamble = [self.pat.packets.as_slice(), &self.pmt.packets].concat();
            found(Boundary { offset, kind: BoundaryKind::Preamble(preamble) });
        }
    }

    /// 2.4.4.3: after 8 bytes of head, four bytes per program, then the CRC. Program 0 is the NIT.
    fn read_pat(&mut self) {
        let entries = section_body(&self.pat.section, 0x00, 8);
        let programs = entries.chunks_exact(4).filter_map(|entry| match entry {
            &[a, b, c, d] => Some(Program {
                number: u16::from_be_bytes([a, b]),
                pmt_pid: u16::from_be_bytes([c, d]) & 0x1fff,
            }),
            _ => None,
        });
        let program = programs.into_iter().find(|program| program.number != 0);
        if program != self.program {
            self.program = program;
            self.pmt = Table::default();
            self.lead = None;
        }
    }

    /// 2.4.4.8: after 12 bytes of head the descriptors of the program, then the streams.
    fn read_pmt(&mut self) {
        self.lead = None;
        let section = &self.pmt.section;
        let info_bytes = usize::from(u16_of(section, 10) & 0x0fff);
        let mut rest = section_body(section, 0x02, 12 + info_bytes);
        while let Some((&[stream_type, a, b, c, d], after)) = rest.split_first_chunk::<5>() {
            let pid = u16::from_be_bytes([a, b]) & 0x1fff;
            let stream = Stream { pid, kind: kind_of(stream_type) };
            if self.lead.is_none_or(|lead| stream.kind < lead.kind) {
                self.lead = Some(stream);
            }
            let descriptors = usize::from(u16::from_be_bytes([c, d]) & 0x0fff);
            rest = after.get(descriptors..).unwrap_or_default();
        }
    }
}

/// Table 2-34 and its amendments, as far as encoders use them.
fn kind_of(stream_type: u8) -> StreamKind {
    match stream_type {
        0x01 | 0x02 | 0x10 | 0x1b | 0x20 | 0x21 | 0x24 | 0x33 | 0x42 | 0xd1 | 0xd2 | 0xea => {
            StreamKind::Video
        }
        0x03 | 0x04 | 0x0f | 0x11 | 0x1c | 0x2d | 0x2e | 0x81 | 0x82 | 0x84 | 0x87 | 0xc1 => {
            StreamKind::Audio
        }
        _ => StreamKind::Other,
    }
}

/// One table: its latest section, the packets that carried it, and the one being collected.
#[derive(Debug, Default)]
struct Table {
    section: Vec<u8>,
    packets: Vec<u8>,
    next_section: Vec<u8>,
    next_packets: Vec<u8>,
}

impl Table {
    /// True when a section is complete, wanted, correct, in force and other than the last one.
    fn packet(
        &mut self,
        packet: &Packet,
        head: &PacketHead,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> bool {
        let payload = packet.get(head.payload_at..).unwrap_or_default();
        let part = if head.unit_start {
            self.next_section.clear();
            self.next_packets.clear();
            // The pointer field tells where the first section begins (2.4.4.1).
            let pointer = payload.first().copied().map_or(0, usize::from);
            payload.get(1 + pointer..).unwrap_or_default()
        } else if self.next_packets.is_empty() {
            return false;
        } else {
            payload
        };
        self.next_section.extend_from_slice(part);
        self.next_packets.extend_from_slice(packet);
        if self.next_section.len() < 3 {
            return false;
        }
        let section_bytes = 3 + usize::from(u16_of(&self.next_section, 1) & 0x0fff);
        if section_bytes > SECTION_BYTES_MAX {
            self.next_packets.clear();
            return false;
        }
        if self.next_section.len() < section_bytes {
            return false;
        }
        self.next_section.truncate(section_bytes);
        self.accept(wanted)
    }

    fn accept(&mut self, wanted: impl Fn(&[u8]) -> bool) -> bool {
        let in_force = self.next_section.get(5).is_some_and(|byte| byte & 1 == 1);
        let accepted = in_force
            && self.next_section != self.section
            && wanted(&self.next_section)
            && crc32(&self.next_section) == 0;
        if accepted {
            std::mem::swap(&mut self.section, &mut self.next_section);
            std::mem::swap(&mut self.packets, &mut self.next_packets);
        }
        self.next_section.clear();
        self.next_packets.clear();
        accepted
    }
}

/// The part of a section between its head and its CRC, if it is of this table.
fn section_body(section: &[u8], table_id: u8, from: usize) -> &[u8] {
    if section.first() != Some(&table_id) {
        return &[];
    }
    section.get(from..section.len().saturating_sub(4)).unwrap_or_default()
}

/// Annex A; 0 over a section with its CRC. Runs only over sections that changed.
fn crc32(section: &[u8]) -> u32 {
    section.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ (u32::from(byte) << 24), |crc, _| {
            let carry = crc & 0x8000_0000 != 0;
            (crc << 1) ^ if carry { 0x04c1_1db7 } else { 0 }
        })
    })
}

/// The four bytes in front of every packet (2.4.3.2) and the flags of its adaptation field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketHead {
    pub pid: u16,
    /// A PES packet or a section begins in this packet.
    pub unit_start: bool,
    pub random_access: bool,
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

/// 33 bits in five bytes, with a marker bit after 3, 15 and 15 of them.
fn read_timestamp(field: &[u8; 5]) -> u64 {
    let [a, b, c, d, e] = field.map(u64::from);
    ((a >> 1) & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1
}

/// Keeps the four bits in front, which say whether this is a PTS or a DTS.
fn write_timestamp(field: &mut [u8; 5], value: u64) {
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

fn write_pcr(field: &mut [u8; 6], value: u64) {
    let (base, extension) = (value / 300, value % 300);
    assert!(base < CLOCK_WRAP);
    let byte = |shift: u32| (base >> shift) as u8;
    let tail = (byte(0) << 7) | 0x7e | (extension >> 8) as u8;
    *field = [byte(25), byte(17), byte(9), byte(1), tail, extension as u8];
}

fn u16_of(data: &[u8], at: usize) -> u16 {
    let pair = data.get(at..).and_then(<[u8]>::first_chunk::<2>);
    pair.map_or(0, |pair| u16::from_be_bytes(*pair))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PMT_PID: u16 = 0x100;
    const VIDEO_PID: u16 = 0x101;
    const AUDIO_PID: u16 = 0x102;

    /// A packet with the given adaptation flags (0: no adaptation field) and payload.
    fn packet(pid: u16, start: bool, counter: u8, adaptation: &[u8], payload: &[u8]) -> Packet {
        let mut packet = [0xff; PACKET_BYTES];
        let [high, low] = pid.to_be_bytes();
        let has_payload = if payload.is_empty() { 0 } else { 0x10 };
        packet[..3].copy_from_slice(&[SYNC, high | u8::from(start) << 6, low]);
        let room = PACKET_BYTES - 4;
        packet[3] = has_payload | counter;
        if payload.len() < room {
            packet[3] |= 0x20;
            packet[4] = (room - 1 - payload.len()) as u8;
            packet[5] = 0;
            packet[5..5 + adaptation.len()].copy_from_slice(adaptation);
        }
        packet[PACKET_BYTES - payload.len()..].copy_from_slice(payload);
        packet
    }

    fn section_packets(pid: u16, table_id: u8, number: u16, body: &[u8]) -> Vec<u8> {
        let [high, low] = number.to_be_bytes();
        let length = (5 + body.len() + 4) as u16 | 0xb000;
        let mut section = vec![table_id];
        section.extend(length.to_be_bytes());
        section.extend([high, low, 0xc1, 0, 0]);
        section.extend(body);
        section.extend(crc32(&section).to_be_bytes());
        assert_eq!(crc32(&section), 0);
        let payload = [&[0], section.as_slice()].concat();
        let parts = payload.chunks(PACKET_BYTES - 4).enumerate();
        parts
            .flat_map(|(index, part)| {
                let mut filled = part.to_vec();
                filled.resize(PACKET_BYTES - 4, 0xff);
                packet(pid, index == 0, index as u8, &[], &filled)
            })
            .collect()
    }

    fn pat() -> Vec<u8> {
        section_packets(PID_PAT, 0, 1, &[0, 0, 0xe0, 0x10, 0, 9, 0xe1, 0x00])
    }

    fn pmt(streams: &[(u8, u16)], descriptor_bytes: u8) -> Vec<u8> {
        let mut body = vec![0xe1, 0x01, 0xf0, 0];
        for &(stream_type, pid) in streams {
            let [high, low] = pid.to_be_bytes();
            body.extend([stream_type, high | 0xe0, low, 0xf0, descriptor_bytes]);
            body.extend(vec![0; usize::from(descriptor_bytes)]);
        }
        section_packets(PMT_PID, 2, 9, &body)
    }

    fn pes(pid: u16, random_access: bool, counter: u8, pts: u64, dts: u64) -> Packet {
        let (mut first, mut second) = ([0x30, 0, 0, 0, 0], [0x10, 0, 0, 0, 0]);
        write_timestamp(&mut first, pts);
        write_timestamp(&mut second, dts);
        let head = [0, 0, 1, 0xe0, 0, 0, 0x80, 0xc0, 10];
        let payload = [head.as_slice(), &first, &second, &[7; 20]].concat();
        let mut adaptation = [u8::from(random_access) << 6 | 0x10, 0, 0, 0, 0, 0, 0];
        if let Some(field) = adaptation[1..].first_chunk_mut() {
            write_pcr(field, dts * 300 + 17);
        }
        packet(pid, true, counter, &adaptation, &payload)
    }

    fn scan(stream: &[u8], piece_bytes: usize) -> Vec<Boundary> {
        let mut found = Vec::new();
        let mut scanner = TsScanner::new();
        for piece in stream.chunks(piece_bytes) {
            scanner.push(piece, &mut |boundary| found.push(boundary));
        }
        found
    }

    fn stream() -> Vec<u8> {
        let more = packet(VIDEO_PID, false, 1, &[], &[3; 184]);
        [
            pat(),
            pmt(&[(0x0f, AUDIO_PID), (0x1b, VIDEO_PID)], 0),
            pes(VIDEO_PID, true, 0, 9000, 5400).to_vec(),
            more.to_vec(),
            pes(AUDIO_PID, true, 0, 5400, 5400).to_vec(),
            pes(VIDEO_PID, false, 2, 12600, 9000).to_vec(),
        ]
        .concat()
    }

    #[test]
    fn tables_and_pictures_are_told() {
        let stream = stream();
        let whole = scan(&stream, stream.len());
        let offsets: Vec<u64> = whole.iter().map(|found| found.offset / 188).collect();
        assert_eq!(offsets, [1, 2, 2, 5]);
        assert_eq!(whole[0].kind, BoundaryKind::Preamble(stream[..376].to_vec()));
        assert_eq!(whole[1].kind, BoundaryKind::RandomAccess);
        let times = PesTimes { pts: Some(12600), dts: Some(9000) };
        assert_eq!(whole[3].kind, BoundaryKind::PesStart { times });
        for piece_bytes in [1, 10, 187, 188, 189, 500] {
            assert_eq!(scan(&stream, piece_bytes), whole, "pieces of {piece_bytes}");
        }
    }

    #[test]
    fn tables_are_told_again_only_when_they_change() {
        let audio = pmt(&[(0x0f, AUDIO_PID)], 0);
        let sound = pes(AUDIO_PID, false, 0, 1, 1).to_vec();
        let stream = [stream(), stream(), pat(), audio.clone(), sound].concat();
        let found = scan(&stream, 100);
        let tables: Vec<_> =
            found.iter().filter(|found| matches!(found.kind, BoundaryKind::Preamble(_))).collect();
        assert_eq!(tables.len(), 2);
        assert_eq!(tables[1].kind, BoundaryKind::Preamble([pat(), audio].concat()));
        // Without pictures every unit of sound is a place to join.
        assert_eq!(found[found.len() - 2].kind, BoundaryKind::RandomAccess);
    }

    #[test]
    fn a_table_may_span_packets() {
        let tables = [pat(), pmt(&[(0x0f, AUDIO_PID), (0x1b, VIDEO_PID)], 200)].concat();
        assert_eq!(tables.len(), 4 * PACKET_BYTES);
        let stream = [tables.clone(), pes(VIDEO_PID, true, 0, 1, 1).to_vec()].concat();
        assert_eq!(scan(&stream, 61)[0].kind, BoundaryKind::Preamble(tables));
    }

    #[test]
    fn damaged_tables_are_ignored() {
        let mut stream = stream();
        stream[188 + 20] ^= 1;
        assert_eq!(scan(&stream, 188), []);
    }

    #[test]
    fn synchronisation_is_found_and_found_again() {
        let good = stream();
        let noise: Vec<u8> = (0..1000u32).map(|index| (index * 7 % 251) as u8).collect();
        let found = scan(&[noise.clone(), good.clone(), noise, good.clone()].concat(), 33);
        let offsets: Vec<u64> = found.iter().map(|found| found.offset).collect();
        let again = 2000 + good.len() as u64;
        assert_eq!(offsets[..4], [188, 376, 376, 940].map(|offset| offset + 1000));
        assert_eq!(offsets[4..], [376, 376, 940].map(|offset| offset + again));
    }

    #[test]
    fn other_streams_are_refused_once() {
        let found = scan(&vec![0x11; 200_000], 1024);
        assert_eq!(found, [Boundary { offset: 0, kind: BoundaryKind::NotTs }]);
    }

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

    fn survives(bytes: &[u8], piece_bytes: usize) {
        let _ = scan(bytes, piece_bytes);
        let mut rewriter = ContinuityRewriter::new();
        for packet in bytes.chunks_exact(PACKET_BYTES) {
            let mut packet = Packet::try_from(packet).unwrap();
            let before = (pes_times(&packet), pcr(&packet).is_some());
            shift_times(&mut packet, u64::MAX);
            rewriter.rewrite(&mut packet);
            assert_eq!(before.1, pcr(&packet).is_some());
            assert_eq!(before.0.pts.is_some(), pes_times(&packet).pts.is_some());
        }
    }

    proptest! {
        #[test]
        fn random_bytes_do_not_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            piece_bytes in 1usize..300,
        ) {
            survives(&bytes, piece_bytes);
        }

        #[test]
        fn mutated_packets_do_not_panic(
            changes in proptest::collection::vec((0usize..1128, any::<u8>()), 1..10),
            piece_bytes in 1usize..300,
        ) {
            let mut bytes = stream();
            for (at, value) in changes {
                bytes[at] = value;
            }
            survives(&bytes, piece_bytes);
        }
    }
}
