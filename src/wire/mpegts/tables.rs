//! Sections as packets carry them (2.4.4): the PAT and PMT, of which the newest packets are kept
//! for late joiners, and the sections of splice streams.

use super::packet::{Packet, PacketHead};

/// 3 bytes of head and at most 1021 more (2.4.4.5, 2.4.4.10).
const SECTION_BYTES_MAX: usize = 1024;
/// Private sections may be longer (2.4.4.11).
pub(super) const PRIVATE_SECTION_BYTES_MAX: usize = 4096;

/// The program of a PAT whose PMT is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PatEntry {
    pub(super) number: u16,
    pub(super) pmt_pid: u16,
}

/// What a packet did to a [`Table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The section goes on, or is not meant.
    None,
    /// The section in force came again.
    Repeated,
    /// A section that differs is in force.
    Changed,
    Damaged,
}

/// One table: its latest section, the packets that carried it last, and the one being collected.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) section: Vec<u8>,
    pub(super) packets: Vec<u8>,
    next: Collector,
    next_packets: Vec<u8>,
}

impl Table {
    pub(super) fn packet(
        &mut self,
        packet: &Packet,
        head: &PacketHead,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Progress {
        if head.unit_start {
            self.next_packets.clear();
        }
        let progress = self.next.collect(packet, head, SECTION_BYTES_MAX);
        if progress != Collected::Nothing {
            self.next_packets.extend_from_slice(packet);
        }
        if progress != Collected::Whole {
            return Progress::None;
        }
        let section = self.next.section.as_slice();
        let in_force = section.get(5).is_some_and(|byte| byte & 1 == 1);
        if !in_force || !wanted(section) {
            return Progress::None;
        }
        let changed = section != self.section;
        if changed && crc32(section) != 0 {
            return Progress::Damaged;
        }
        std::mem::swap(&mut self.packets, &mut self.next_packets);
        if !changed {
            return Progress::Repeated;
        }
        self.section.clear();
        self.section.extend_from_slice(section);
        Progress::Changed
    }
}

/// Puts one section together. Further sections in the same packet are not looked at: a PAT and a
/// PMT have one, and SCTE 35 allows no more.
#[derive(Debug, Default)]
pub(super) struct Collector {
    section: Vec<u8>,
    collecting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Collected {
    Nothing,
    Part,
    Whole,
}

impl Collector {
    /// The whole section, when its last byte is in this packet; nothing was checked.
    pub(super) fn packet(
        &mut self,
        packet: &Packet,
        head: &PacketHead,
        bytes_max: usize,
    ) -> Option<&[u8]> {
        let progress = self.collect(packet, head, bytes_max);
        (progress == Collected::Whole).then_some(self.section.as_slice())
    }

    fn collect(&mut self, packet: &Packet, head: &PacketHead, bytes_max: usize) -> Collected {
        let payload = packet.get(head.payload_at..).unwrap_or_default();
        let part = if head.unit_start {
            self.section.clear();
            self.collecting = true;
            // The pointer field tells where the first section begins (2.4.4.1).
            let pointer = payload.first().copied().map_or(0, usize::from);
            payload.get(1 + pointer..).unwrap_or_default()
        } else {
            payload
        };
        if !self.collecting {
            return Collected::Nothing;
        }
        self.section.extend_from_slice(part);
        if self.section.len() < 3 {
            return Collected::Part;
        }
        let section_bytes = 3 + usize::from(u16_of(&self.section, 1) & 0x0fff);
        if section_bytes > bytes_max {
            self.collecting = false;
            return Collected::Nothing;
        }
        if self.section.len() < section_bytes {
            return Collected::Part;
        }
        self.collecting = false;
        self.section.truncate(section_bytes);
        Collected::Whole
    }
}

/// 2.4.4.3: after 8 bytes of head, four bytes per program, then the CRC. Program 0 is the NIT.
pub(super) fn read_pat(section: &[u8]) -> Option<PatEntry> {
    let entries = section_body(section, 0x00, 8).chunks_exact(4);
    let mut programs = entries.filter_map(|entry| match entry {
        &[a, b, c, d] => Some(PatEntry {
            number: u16::from_be_bytes([a, b]),
            pmt_pid: u16::from_be_bytes([c, d]) & 0x1fff,
        }),
        _ => None,
    });
    programs.find(|program| program.number != 0)
}

/// The part of a section between its head and its CRC, if it is of this table.
pub(super) fn section_body(section: &[u8], table_id: u8, from: usize) -> &[u8] {
    if section.first() != Some(&table_id) {
        return &[];
    }
    section.get(from..section.len().saturating_sub(4)).unwrap_or_default()
}

/// Annex A; 0 over a section with its CRC. Runs only over sections that changed, and splices.
pub(in crate::wire) fn crc32(section: &[u8]) -> u32 {
    section.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ (u32::from(byte) << 24), |crc, _| {
            let carry = crc & 0x8000_0000 != 0;
            (crc << 1) ^ if carry { 0x04c1_1db7 } else { 0 }
        })
    })
}

pub(super) fn u16_of(data: &[u8], at: usize) -> u16 {
    let pair = data.get(at..).and_then(<[u8]>::first_chunk::<2>);
    pair.map_or(0, |pair| u16::from_be_bytes(*pair))
}
