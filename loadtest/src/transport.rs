//! An MPEG transport stream that is pulled from here, and what its readers get of it. Each append of a plan
//! is a picture: packets of one PID behind tables, or behind null packets where no decoder may begin.
//!
//! To a server it is H.264, and it may package it as that. To readers it is packets: whole, in step, none
//! missing, from a picture where a decoder may begin (ISO/IEC 13818-1, 2.4.3).

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use tokio_uring::net::TcpStream;

use crate::follow::Tally;
use crate::outcome::Fault;
use crate::pattern::{HEADER_BYTES, PREAMBLE_BYTES, Plan, Verifier, sequence_of};
use crate::publish::Source;
use crate::sys;
use crate::viewer::Sight;

pub(crate) const PACKET_BYTES: usize = 188;
const SYNC: u8 = 0x47;
const PAT_PID: u16 = 0;
const PMT_PID: u16 = 0x1000;
const VIDEO_PID: u16 = 0x100;
const NULL_PID: u16 = 0x1fff;
/// A packet without its head.
const PAYLOAD_BYTES: usize = PACKET_BYTES - 4;
/// Adaptation field with a PCR, and PES header with a PTS: they begin a picture.
const CLOCK_BYTES: usize = 8;
const PES_BYTES: usize = 14;
/// Parameter sets of 640 × 360 in Constrained Baseline, and a slice; the bytes of the plan are in it.
const PARAMETER_SETS: &[u8] = b"\0\0\0\x01\x67\x42\xc0\x1e\xda\x02\x80\xbf\xe5\xc0\x44\0\0\x03\0\x04\0\0\x03\0\xf2\x3c\x58\xba\x80\0\0\0\x01\x68\xce\x0f\xc8";
const KEY_SLICE: &[u8] = b"\0\0\0\x01\x65\x88\x84";
const SLICE: &[u8] = b"\0\0\0\x01\x41\x9a\x22";
const PREFIX_BYTES: usize = PARAMETER_SETS.len() + SLICE.len();
const TABLES: usize = 2;
/// A decoder may begin at each picture whose number this divides.
const KEY_EVERY: u32 = 30;
/// How far presentation is behind the clock, in ticks of 90 kHz.
const DELAY_TICKS: u64 = 9000;

/// Bytes of a plan that fill a picture of so many bytes on the wire.
pub(crate) fn append_bytes(wire_bytes: usize) -> Result<usize> {
    let packets = wire_bytes / PACKET_BYTES;
    if packets < TABLES + 1 || !wire_bytes.is_multiple_of(PACKET_BYTES) {
        bail!(
            "a picture is a multiple of {PACKET_BYTES} bytes, and {TABLES} packets are its tables"
        );
    }
    let room = (packets - TABLES) * PAYLOAD_BYTES - CLOCK_BYTES - PES_BYTES - PREFIX_BYTES;
    match room {
        HEADER_BYTES.. => Ok(room),
        _ => bail!("pictures of {wire_bytes} bytes have no room for their number"),
    }
}

/// The sending side: one connection of the server that pulls.
pub(crate) struct Upstream {
    stream: TcpStream,
    muxer: Muxer,
    sequence: u32,
}

impl Upstream {
    pub(crate) fn new(stream: TcpStream, plan: &Arc<Plan>) -> Upstream {
        Upstream { stream, muxer: Muxer::new(plan.clone()), sequence: 1 }
    }

    /// Sends the preamble as a picture, as often as it is called: readers begin at one.
    pub(crate) async fn send_preamble(&mut self) -> Result<()> {
        self.send(0).await.map(drop)
    }

    async fn send(&mut self, sequence: u32) -> Result<u64> {
        let (packets, stamp_ns) = self.muxer.picture(sequence);
        let (result, packets) = self.stream.write_all(packets).await;
        self.muxer.packets = packets;
        result.with_context(|| format!("picture {sequence} could not be sent"))?;
        Ok(stamp_ns)
    }
}

impl Source for Upstream {
    fn appends(&self) -> u64 {
        u64::from(self.muxer.plan.appends())
    }

    async fn append(&mut self) -> Result<u64> {
        self.sequence += 1;
        self.send(self.sequence - 1).await
    }
}

/// Makes packets of pictures.
struct Muxer {
    plan: Arc<Plan>,
    begun_ns: u64,
    /// Of the tables, and of the pictures.
    continuity: [u8; 2],
    /// Room that is used again.
    packets: Vec<u8>,
    picture: Vec<u8>,
}

impl Muxer {
    fn new(plan: Arc<Plan>) -> Muxer {
        let (packets, picture) = (Vec::new(), Vec::new());
        Muxer { plan, begun_ns: sys::monotonic_ns(), continuity: [0; 2], packets, picture }
    }

    /// The packets of a picture, and what it is stamped with.
    fn picture(&mut self, sequence: u32) -> (Vec<u8>, u64) {
        let is_key = sequence.is_multiple_of(KEY_EVERY);
        let bytes = if sequence == 0 { PREAMBLE_BYTES } else { self.plan.append_bytes() };
        let mut picture = std::mem::take(&mut self.picture);
        picture.clear();
        let now_ns = sys::monotonic_ns();
        let ticks = (now_ns - self.begun_ns) / 1000 * 9 / 100;
        put_pes_header(&mut picture, ticks + DELAY_TICKS);
        picture.extend_from_slice(PARAMETER_SETS);
        picture.extend_from_slice(if is_key { KEY_SLICE } else { SLICE });
        let at = picture.len();
        picture.resize(at + bytes, 0);
        self.plan.fill(sequence, &mut picture[at..]);
        // Its first byte is behind zeroes, and must not end a start code with them.
        // The preamble is sent many times and stamped once.
        let stamp_ns = if sequence == 0 { self.begun_ns } else { now_ns } | 0xff;
        self.plan.stamp(sequence, stamp_ns, &mut picture[at..]);

        let mut packets = std::mem::take(&mut self.packets);
        packets.clear();
        self.put_tables(&mut packets, is_key);
        self.put_picture(&mut packets, &picture, (ticks, is_key));
        self.picture = picture;
        (packets, stamp_ns)
    }

    fn put_tables(&mut self, packets: &mut Vec<u8>, is_key: bool) {
        if !is_key {
            for _ in 0..TABLES {
                packets.extend_from_slice(&[SYNC, 0x1f, 0xff, 0x10]);
                packets.resize(packets.len() + PAYLOAD_BYTES, 0xff);
            }
            return;
        }
        let [pmt_high, pmt_low] = PMT_PID.to_be_bytes();
        let [video_high, video_low] = VIDEO_PID.to_be_bytes();
        let pat = [0, 0xb0, 13, 0, 1, 0xc1, 0, 0, 0, 1, 0xe0 | pmt_high, pmt_low];
        let pmt = [
            &[2, 0xb0, 18, 0, 1, 0xc1, 0, 0, 0xe0 | video_high, video_low, 0xf0, 0][..],
            &[0x1b, 0xe0 | video_high, video_low, 0xf0, 0][..],
        ]
        .concat();
        for (pid, table) in [(PAT_PID, &pat[..]), (PMT_PID, &pmt)] {
            let begin = packets.len();
            packets.extend_from_slice(&head(pid, true, 0x10 | self.continuity[0]));
            packets.push(0);
            packets.extend_from_slice(table);
            packets.extend_from_slice(&crc(table).to_be_bytes());
            packets.resize(begin + PACKET_BYTES, 0xff);
        }
        self.continuity[0] = (self.continuity[0] + 1) & 15;
    }

    fn put_picture(&mut self, packets: &mut Vec<u8>, picture: &[u8], clock: (u64, bool)) {
        let (ticks, is_key) = clock;
        let first = picture.len().min(PAYLOAD_BYTES - CLOCK_BYTES);
        let mut rest = picture;
        while !rest.is_empty() {
            let is_first = rest.len() == picture.len();
            let bytes = if is_first { first } else { rest.len().min(PAYLOAD_BYTES) };
            let field_bytes = PAYLOAD_BYTES - bytes;
            let control = if field_bytes > 0 { 0x30 } else { 0x10 };
            packets.extend_from_slice(&head(VIDEO_PID, is_first, control | self.continuity[1]));
            self.continuity[1] = (self.continuity[1] + 1) & 15;
            let mut field = [0xff; PAYLOAD_BYTES];
            if field_bytes > 0 {
                field[0] = (field_bytes - 1) as u8;
            }
            if field_bytes > 1 {
                field[1] = 0;
            }
            if is_first {
                field[1] = 0x10 | u8::from(is_key) << 6;
                // 33 bits, and nine of an extension behind six that are reserved.
                field[2..CLOCK_BYTES].copy_from_slice(&(ticks << 15 | 0x7e00).to_be_bytes()[2..]);
            }
            packets.extend_from_slice(&field[..field_bytes]);
            packets.extend_from_slice(&rest[..bytes]);
            rest = &rest[bytes..];
        }
    }
}

fn head(pid: u16, is_start: bool, control: u8) -> [u8; 4] {
    let [high, low] = pid.to_be_bytes();
    [SYNC, high | u8::from(is_start) << 6, low, control]
}

/// Of video, with a PTS and without a length.
fn put_pes_header(out: &mut Vec<u8>, pts: u64) {
    out.extend_from_slice(&[0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5]);
    let bits = |shift: u32| (pts >> shift) as u8;
    out.push(0x21 | (bits(30) & 7) << 1);
    out.extend_from_slice(&[bits(22), bits(14) | 1, bits(7), bits(0) << 1 | 1]);
}

/// ISO/IEC 13818-1, annex A.
fn crc(table: &[u8]) -> u32 {
    table.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 }
        })
    })
}

/// What one reader sees.
pub(crate) struct PacketSight {
    plan: Arc<Plan>,
    verifier: Verifier,
    /// The beginning of a packet whose rest has not come.
    torn: Vec<u8>,
    continuity: Option<u8>,
    seen: Seen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    Pat,
    Tables,
    /// The newest that has begun.
    Picture(u32),
}

impl PacketSight {
    pub(crate) fn new(plan: &Arc<Plan>) -> PacketSight {
        let verifier = Verifier::new(plan.clone());
        let torn = Vec::with_capacity(PACKET_BYTES);
        PacketSight { plan: plan.clone(), verifier, torn, continuity: None, seen: Seen::Nothing }
    }

    fn packet(&mut self, packet: &[u8], tally: &Tally) -> Result<(), Fault> {
        if packet[0] != SYNC {
            return Err(self.corrupt("there is no packet"));
        }
        let pid = u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
        self.seen = match (pid, self.seen) {
            (PAT_PID, Seen::Nothing) => Seen::Pat,
            (PMT_PID, Seen::Pat) => Seen::Tables,
            (VIDEO_PID, Seen::Tables | Seen::Picture(_)) => return self.video(packet, tally),
            (PAT_PID | PMT_PID | NULL_PID, seen @ Seen::Picture(_)) => seen,
            // A server may give the tables, and then the stream that begins with them.
            (PAT_PID | PMT_PID, Seen::Tables) => Seen::Tables,
            _ => return Err(self.corrupt(&format!("PID {pid} cannot be there"))),
        };
        Ok(())
    }

    fn video(&mut self, packet: &[u8], tally: &Tally) -> Result<(), Fault> {
        let (is_start, control) = (packet[1] & 0x40 != 0, packet[3]);
        let expected = self.continuity.map_or(control & 15, |last| (last + 1) & 15);
        if control & 0x10 == 0 || control & 15 != expected {
            return Err(self.corrupt("a packet is missing"));
        }
        self.continuity = Some(expected);
        let field_bytes = if control & 0x20 != 0 { 1 + usize::from(packet[4]) } else { 0 };
        let mut payload = packet.get(4 + field_bytes..).unwrap_or_default();
        if is_start {
            let may_begin = field_bytes > 1 && packet[5] & 0x40 != 0;
            payload = payload.get(PES_BYTES + PREFIX_BYTES..).unwrap_or_default();
            self.begin(payload, may_begin)?;
        }
        let pushed = self.verifier.push(payload, |stamp_ns| tally.delivered(stamp_ns));
        pushed.map_err(|corrupt| Fault::Corrupt(corrupt.to_string()))
    }

    /// A picture begins with these bytes of the plan.
    fn begin(&mut self, payload: &[u8], may_begin: bool) -> Result<(), Fault> {
        let sequence = sequence_of(payload).filter(|at| *at <= self.plan.appends());
        let Some(sequence) = sequence else {
            return Err(self.corrupt("what begins there is no picture"));
        };
        let is_next = match self.seen {
            Seen::Picture(newest) => {
                self.verifier.is_between_appends()
                    && (sequence == newest + 1 || sequence == 0 && newest == 0)
            }
            _ => may_begin,
        };
        if !is_next {
            return Err(self.corrupt(&format!("picture {sequence} comes there")));
        }
        self.verifier.turn_to(sequence);
        self.seen = Seen::Picture(sequence);
        Ok(())
    }

    fn corrupt(&self, why: &str) -> Fault {
        Fault::Corrupt(format!("{why}, {}", self.place()))
    }
}

impl Sight for PacketSight {
    fn take(&mut self, mut body: &[u8], tally: &Tally) -> Result<(), Fault> {
        if !self.torn.is_empty() {
            let (rest, behind) = body.split_at(body.len().min(PACKET_BYTES - self.torn.len()));
            self.torn.extend_from_slice(rest);
            body = behind;
            if self.torn.len() < PACKET_BYTES {
                return Ok(());
            }
            let packet = std::mem::take(&mut self.torn);
            self.packet(&packet, tally)?;
            self.torn = packet;
            self.torn.clear();
        }
        let (packets, torn) = body.as_chunks::<PACKET_BYTES>();
        self.torn.extend_from_slice(torn);
        packets.iter().try_for_each(|packet| self.packet(packet, tally))
    }

    fn has_begun(&self) -> bool {
        matches!(self.seen, Seen::Picture(_))
    }

    /// Properly, if all has come.
    fn end(&self) -> Result<(), Fault> {
        let is_whole = self.torn.is_empty() && self.verifier.is_between_appends();
        match self.verifier.appends_received() {
            Some(appends) if is_whole && appends == self.plan.appends() => Ok(()),
            _ => Err(Fault::Lost(format!("the body ends {}", self.place()))),
        }
    }

    fn place(&self) -> String {
        match self.seen {
            Seen::Picture(newest) => format!("in or after picture {newest}"),
            _ => "before any picture".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader makes of these bytes, in pieces of this length: how many pictures.
    fn read(plan: &Arc<Plan>, body: &[u8], piece: usize) -> Result<u64, Fault> {
        let (tally, mut sight) = (Tally::new(), PacketSight::new(plan));
        for bytes in body.chunks(piece) {
            sight.take(bytes, &tally)?;
        }
        sight.end()?;
        Ok(tally.deliveries.get())
    }

    fn stream(plan: &Arc<Plan>, pictures: impl Iterator<Item = u32>) -> Vec<u8> {
        let mut muxer = Muxer::new(plan.clone());
        pictures.flat_map(|sequence| muxer.picture(sequence).0).collect()
    }

    #[test]
    fn a_stream_is_read_as_it_was_made() {
        let wire_bytes = 7 * PACKET_BYTES;
        let plan = Plan::new(append_bytes(wire_bytes).unwrap(), 40);
        let preamble_bytes = 3 * PACKET_BYTES;
        let body = stream(&plan, [0, 0, 0].into_iter().chain(1..=40));
        assert_eq!(body.len(), 3 * preamble_bytes + 40 * wire_bytes);
        for piece in [1, 187, 188, 1000, body.len()] {
            assert_eq!(read(&plan, &body, piece), Ok(40));
        }
        // From the place in the middle where a decoder may begin; from nowhere else.
        let key_at = 3 * preamble_bytes + 29 * wire_bytes;
        assert_eq!(read(&plan, &body[key_at..], 500), Ok(11));
        assert!(read(&plan, &body[key_at + wire_bytes..], 500).is_err());
    }

    #[test]
    fn what_is_missing_or_torn_is_found() {
        let plan = Plan::new(append_bytes(7 * PACKET_BYTES).unwrap(), 3);
        let good = stream(&plan, 0..=3);
        let packets = good.len() / PACKET_BYTES;
        for index in (0..packets).filter(|index| good[index * PACKET_BYTES + 1] & 0x1f == 1) {
            let mut bad = good.clone();
            bad.drain(index * PACKET_BYTES..(index + 1) * PACKET_BYTES);
            assert!(read(&plan, &bad, 500).is_err(), "packet {index}");
            let mut bad = good.clone();
            bad[index * PACKET_BYTES + 187] ^= 1;
            assert!(read(&plan, &bad, 500).is_err(), "bit in packet {index}");
        }
        assert!(read(&plan, &good[..good.len() - 1], 500).is_err());
        assert!(read(&plan, &good[1..], 500).is_err());
    }

    /// As in tables that ffmpeg writes.
    #[test]
    fn tables_have_their_checksum() {
        let pat = [0, 0xb0, 0x0d, 0, 1, 0xc1, 0, 0, 0, 1, 0xf0, 0];
        assert_eq!(crc(&pat), 0x2ab1_04b2);
    }

    #[test]
    fn pictures_have_a_size() {
        for bytes in [0, 187, 188, 2 * 188, 1000, 4096] {
            assert!(append_bytes(bytes).is_err(), "{bytes}");
        }
        assert_eq!(append_bytes(3 * 188).unwrap(), 184 - 8 - 14 - 44);
    }
}
