//! Small transport streams for the tests of this folder, made of packets that are built here.

use super::packet::{PACKET_BYTES, Packet, SYNC, write_pcr, write_timestamp};
use super::tables::crc32;
use super::{Found, TsScanner};

pub(super) const PMT_PID: u16 = 0x100;
pub(super) const VIDEO_PID: u16 = 0x101;
pub(super) const AUDIO_PID: u16 = 0x102;
pub(super) const SPLICE_PID: u16 = 0x103;

/// A packet with the given adaptation flags (0: no adaptation field) and payload.
pub(super) fn packet(
    pid: u16,
    start: bool,
    counter: u8,
    adaptation: &[u8],
    payload: &[u8],
) -> Packet {
    let mut packet = [0xff; PACKET_BYTES];
    let [high, low] = pid.to_be_bytes();
    let has_payload = if payload.is_empty() { 0 } else { 0x10 };
    packet[..3].copy_from_slice(&[SYNC, high | u8::from(start) << 6, low]);
    let room = PACKET_BYTES - 4;
    packet[3] = has_payload | counter & 15;
    if payload.len() < room {
        packet[3] |= 0x20;
        packet[4] = (room - 1 - payload.len()) as u8;
        if packet[4] > 0 {
            packet[5] = 0;
            packet[5..5 + adaptation.len()].copy_from_slice(adaptation);
        }
    }
    packet[PACKET_BYTES - payload.len()..].copy_from_slice(payload);
    packet
}

pub(super) fn null() -> Vec<u8> {
    packet(0x1fff, false, 0, &[], &[0xff; 184]).to_vec()
}

/// A section as it is, in packets.
pub(super) fn packets_of(pid: u16, section: &[u8]) -> Vec<u8> {
    let payload = [&[0], section].concat();
    let parts = payload.chunks(PACKET_BYTES - 4).enumerate();
    parts
        .flat_map(|(index, part)| {
            let mut filled = part.to_vec();
            filled.resize(PACKET_BYTES - 4, 0xff);
            packet(pid, index == 0, index as u8, &[], &filled)
        })
        .collect()
}

fn section_packets(pid: u16, table_id: u8, (number, version): (u16, u8), body: &[u8]) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let length = (5 + body.len() + 4) as u16 | 0xb000;
    let mut section = vec![table_id];
    section.extend(length.to_be_bytes());
    section.extend([high, low, 0xc1 | version << 1, 0, 0]);
    section.extend(body);
    section.extend(crc32(&section).to_be_bytes());
    assert_eq!(crc32(&section), 0);
    packets_of(pid, &section)
}

pub(super) fn pat() -> Vec<u8> {
    section_packets(0, 0, (1, 0), &[0, 0, 0xe0, 0x10, 0, 9, 0xe1, 0x00])
}

/// Streams as type, PID and descriptors.
pub(super) fn pmt_with(version: u8, streams: &[(u8, u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![0xe1, 0x01, 0xf0, 0];
    for &(stream_type, pid, descriptors) in streams {
        let [high, low] = pid.to_be_bytes();
        body.extend([stream_type, high | 0xe0, low, 0xf0, descriptors.len() as u8]);
        body.extend(descriptors);
    }
    section_packets(PMT_PID, 2, (9, version), &body)
}

pub(super) fn pmt(streams: &[(u8, u16)]) -> Vec<u8> {
    let streams: Vec<_> = streams.iter().map(|&(kind, pid)| (kind, pid, &[][..])).collect();
    pmt_with(0, &streams)
}

/// The first packet of a PES packet with both times.
pub(super) fn pes(pid: u16, random_access: bool, counter: u8, pts: u64, dts: u64) -> Packet {
    pes_with(pid, u8::from(random_access) << 6, counter, (pts, dts), &[7; 20])
}

/// As `pes`, with these flags in the adaptation field and these bytes of the stream.
pub(super) fn pes_with(
    pid: u16,
    flags: u8,
    counter: u8,
    (pts, dts): (u64, u64),
    data: &[u8],
) -> Packet {
    let (mut first, mut second) = ([0x30, 0, 0, 0, 0], [0x10, 0, 0, 0, 0]);
    write_timestamp(&mut first, pts);
    write_timestamp(&mut second, dts);
    let head = [0, 0, 1, 0xe0, 0, 0, 0x80, 0xc0, 10];
    let payload = [head.as_slice(), &first, &second, data].concat();
    let mut adaptation = [flags | 0x10, 0, 0, 0, 0, 0, 0];
    if let Some(field) = adaptation[1..].first_chunk_mut() {
        write_pcr(field, dts * 300 + 17);
    }
    packet(pid, true, counter, &adaptation, &payload)
}

/// PAT, PMT, a picture to begin with of two packets, sound, another picture.
pub(super) fn stream() -> Vec<u8> {
    let more = packet(VIDEO_PID, false, 1, &[], &[3; 184]);
    [
        pat(),
        pmt(&[(0x0f, AUDIO_PID), (0x1b, VIDEO_PID)]),
        pes(VIDEO_PID, true, 0, 9000, 5400).to_vec(),
        more.to_vec(),
        pes(AUDIO_PID, true, 0, 5400, 5400).to_vec(),
        pes(VIDEO_PID, false, 2, 12600, 9000).to_vec(),
    ]
    .concat()
}

pub(super) fn scan(stream: &[u8], piece_bytes: usize) -> Vec<Found> {
    let mut found = Vec::new();
    let mut scanner = TsScanner::new();
    for piece in stream.chunks(piece_bytes) {
        scanner.push(piece, &mut |one| found.push(one));
    }
    found
}
