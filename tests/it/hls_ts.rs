//! Transport streams as an HLS client sees them: whole packets, tables first (P17), and the times of
//! the leading stream. `Reel` makes deterministic ones to be pushed. Independent of `src/wire`.

use std::collections::BTreeMap;

use crate::client::noise;
use crate::hls_playlist::{Verdict, demand};
use crate::live_kit::crc32;

const PACKET: usize = 188;

/// What the tables at the start of a segment say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Program {
    lead_pid: u16,
}

/// A packet of a transport stream.
struct Packet<'b> {
    pid: u16,
    starts_unit: bool,
    random_access: bool,
    payload: &'b [u8],
}

fn packets(bytes: &[u8]) -> Verdict<Vec<Packet<'_>>> {
    let whole = !bytes.is_empty() && bytes.len().is_multiple_of(PACKET);
    demand!(whole, "P17", "{} bytes are no whole packets", bytes.len());
    let mut found = Vec::new();
    for (number, packet) in bytes.chunks(PACKET).enumerate() {
        demand!(packet[0] == 0x47, "P17", "packet {number} begins with {:#x}", packet[0]);
        let adaptation = if packet[3] & 0x20 == 0 { 0 } else { 1 + usize::from(packet[4]) };
        let has_payload = packet[3] & 0x10 != 0;
        let at = if has_payload { (4 + adaptation).min(PACKET) } else { PACKET };
        found.push(Packet {
            pid: u16::from_be_bytes([packet[1] & 0x1f, packet[2]]),
            starts_unit: packet[1] & 0x40 != 0,
            random_access: adaptation > 1 && packet[5] & 0x40 != 0,
            payload: &packet[at..],
        });
    }
    Ok(found)
}

impl Program {
    /// Reads PAT and PMT, which must be the first two packets.
    pub(crate) fn read(bytes: &[u8]) -> Verdict<Program> {
        let all = packets(bytes)?;
        let [pat, pmt, ..] = &all[..] else {
            return Err("P17: less than two packets".to_owned());
        };
        demand!(pat.pid == 0, "P17", "the first packet has PID {}, PAT expected", pat.pid);
        let programs = entries(pat.payload)?;
        let programs: Vec<_> =
            programs.chunks_exact(4).filter(|entry| entry[..2] != [0, 0]).collect();
        demand!(programs.len() == 1, "P17", "{} programs", programs.len());
        let pmt_pid = u16::from_be_bytes([programs[0][2] & 0x1f, programs[0][3]]);
        demand!(pmt.pid == pmt_pid, "P17", "the second packet has PID {}, PMT expected", pmt.pid);
        let table = entries(pmt.payload)?;
        let mut streams = Vec::new();
        let skipped = 4 + table.get(3).map_or(0, |&length| usize::from(length));
        let mut rest = table.get(skipped..).unwrap_or(&[]);
        while let [kind, high, low, _, length, after @ ..] = rest {
            streams.push((*kind, u16::from_be_bytes([high & 0x1f, *low])));
            rest = after.get(usize::from(*length)..).unwrap_or(&[]);
        }
        let video = streams.iter().find(|(kind, _)| [0x02, 0x1b, 0x24].contains(kind));
        let lead = video.or(streams.first());
        let Some(&(_, lead_pid)) = lead else {
            return Err("P17: no stream in the PMT".to_owned());
        };
        Ok(Program { lead_pid })
    }
}

/// The entries of a table, without its head of eight bytes and its CRC.
fn entries(payload: &[u8]) -> Verdict<&[u8]> {
    let at = 1 + payload.first().map_or(0, |&pointer| usize::from(pointer));
    let length = match payload.get(at + 1..at + 3) {
        Some(length) => usize::from(u16::from_be_bytes([length[0] & 0x0f, length[1]])),
        None => 0,
    };
    let entries = payload.get(at + 8..(at + 3 + length).saturating_sub(4));
    entries.ok_or_else(|| "P17: a table that is not whole".to_owned())
}

/// A unit of the leading stream: its decode time in 1/90000 s, and whether it stands alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Unit {
    pub(crate) decode_time: u64,
    pub(crate) random_access: bool,
}

/// The units that begin in these bytes.
pub(crate) fn units(bytes: &[u8], program: Program) -> Verdict<Vec<Unit>> {
    let mut found = Vec::new();
    for packet in packets(bytes)? {
        if packet.pid != program.lead_pid || !packet.starts_unit {
            continue;
        }
        let head = packet.payload;
        demand!(head.starts_with(&[0, 0, 1]) && head.len() >= 19, "P17", "a unit without a head");
        let at = if head[7] & 0x40 == 0 { 9 } else { 14 };
        let digits = head[at..at + 5].iter().map(|&byte| u64::from(byte));
        let [a, b, c, d, e]: [u64; 5] = digits.collect::<Vec<_>>().try_into().unwrap();
        let decode_time = (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1;
        found.push(Unit { decode_time, random_access: packet.random_access });
    }
    Ok(found)
}

// Making.

/// The clock of a transport stream begins again after so many ticks.
pub(crate) const WRAP: u64 = 1 << 33;
pub(crate) const VIDEO: u16 = 0x101;
pub(crate) const SOUND: u16 = 0x102;
const PMT: u16 = 0x100;
/// x264, 1280x720, 25 pictures in a second.
const SETS: &[u8] = b"\0\0\0\x01\x67\x42\xc0\x1f\xda\x01\x40\x16\xec\x04\x40\x00\x00\x03\x00\
    \x40\x00\x00\x0c\x83\xc6\x0c\xa8\0\0\0\x01\x68\xce\x3c\x80";
/// A frame of AAC with 300 bytes: 48 kHz, stereo.
const ADTS: [u8; 7] = [0xff, 0xf1, 0x4c, 0x80, 0x25, 0x9f, 0xfc];

/// A stream of 25 pictures a second that is made as it is pushed, and of sound if it is asked for.
pub(crate) struct Reel {
    /// In the PMT: type, PID, descriptors.
    pub(crate) streams: Vec<(u8, u16, Vec<u8>)>,
    pub(crate) version: u8,
    /// Of the next picture and of the next frame of sound, in 1/90000 s.
    pub(crate) time: u64,
    sound_time: u64,
    /// The next continuity counter of each PID.
    counters: BTreeMap<u16, u8>,
    seed: u64,
}

impl Reel {
    pub(crate) fn video(seed: u64, time: u64) -> Reel {
        let streams = vec![(0x1b, VIDEO, Vec::new())];
        Reel { streams, version: 0, time, sound_time: time, counters: BTreeMap::new(), seed }
    }

    /// From the next PMT on there is a stream of AAC.
    pub(crate) fn add_sound(&mut self, descriptors: &[u8]) {
        self.streams.push((0x0f, SOUND, descriptors.to_vec()));
        self.version += 1;
        self.sound_time = self.time;
    }

    /// The next pictures, with tables before the first if it is a key frame, and their sound.
    pub(crate) fn pictures(&mut self, count: u32, begins_with_key: bool) -> Vec<u8> {
        let mut made = Vec::new();
        for index in 0..count {
            let is_key = index == 0 && begins_with_key;
            if is_key {
                made.extend(self.tables());
            }
            self.seed += 1;
            // No start code can come about without a zero.
            let filler: Vec<u8> = noise(self.seed, 500).iter().map(|byte| byte | 1).collect();
            // The first slice of a picture: IDR and I, or P.
            let [kind, first] = if is_key { [0x65, 0x88] } else { [0x41, 0x9a] };
            let slice = [0, 0, 1, kind, first];
            let data = [if is_key { SETS } else { &[] }, &slice, &filler].concat();
            made.extend(self.unit(VIDEO, is_key, self.time, &data));
            self.time += 3600;
            while self.streams.len() > 1 && self.sound_time < self.time {
                let data = [&ADTS[..], &filler[..293]].concat();
                made.extend(self.unit(SOUND, true, self.sound_time, &data));
                self.sound_time += 1920;
            }
        }
        made
    }

    /// PAT and PMT.
    fn tables(&mut self) -> Vec<u8> {
        let pat = section(0, (1, 0), &[0, 1, 0xe1, 0]);
        let mut body = vec![0xe0 | (VIDEO >> 8) as u8, VIDEO as u8, 0xf0, 0];
        for (kind, pid, descriptors) in &self.streams {
            let [high, low] = pid.to_be_bytes();
            body.extend([*kind, high | 0xe0, low, 0xf0, descriptors.len() as u8]);
            body.extend(descriptors);
        }
        let pmt = section(2, (1, self.version), &body);
        let mut packet = |pid: u16, section: &[u8]| {
            let mut payload = [&[0], section].concat();
            payload.resize(PACKET - 4, 0xff);
            self.packets(pid, &[], &payload)
        };
        [packet(0, &pat), packet(PMT, &pmt)].concat()
    }

    /// A PES packet with both times, and the clock in front of pictures.
    fn unit(&mut self, pid: u16, is_key: bool, time: u64, data: &[u8]) -> Vec<u8> {
        let time = time % WRAP;
        let digits = |mark: u8| {
            let at = |shift: u32| (time >> shift) as u8;
            let top = mark << 4 | (at(30) & 7) << 1 | 1;
            [top, at(22), at(15) << 1 | 1, at(7), (time << 1) as u8 | 1]
        };
        let kind = if pid == VIDEO { 0xe0 } else { 0xc0 };
        let head = [0, 0, 1, kind, 0, 0, 0x80, 0xc0, 10];
        let pes = [&head[..], &digits(3), &digits(1), data].concat();
        let (flags, low) = (0x10 | u8::from(is_key) << 6, (time as u8) << 7 | 0x7e);
        let clock = [time >> 25, time >> 17, time >> 9, time >> 1].map(|byte| byte as u8);
        let adaptation = [&[flags][..], &clock, &[low, 0]].concat();
        self.packets(pid, if pid == VIDEO { &adaptation } else { &[] }, &pes)
    }

    fn packets(&mut self, pid: u16, adaptation: &[u8], mut payload: &[u8]) -> Vec<u8> {
        let (mut made, mut field) = (Vec::new(), adaptation);
        let mut starts = 0x40;
        while !payload.is_empty() {
            let least = if field.is_empty() { 0 } else { 1 + field.len() };
            let taken = payload.len().min(PACKET - 4 - least);
            let room = PACKET - 4 - taken;
            let counter = self.counters.entry(pid).or_default();
            let control = if room > 0 { 0x30 } else { 0x10 } | *counter;
            *counter = (*counter + 1) & 15;
            made.extend([0x47, starts | (pid >> 8) as u8, pid as u8, control]);
            if room > 0 {
                let mut filled = [&[room as u8 - 1][..], field].concat();
                if filled.len() == 1 && room > 1 {
                    filled.push(0);
                }
                filled.resize(room, 0xff);
                made.extend(filled);
            }
            made.extend(&payload[..taken]);
            (payload, field, starts) = (&payload[taken..], &[], 0);
        }
        made
    }
}

/// A table with this number and version.
fn section(table: u8, (number, version): (u16, u8), body: &[u8]) -> Vec<u8> {
    let length = body.len() as u16 + 9;
    let [high, low] = number.to_be_bytes();
    let mut made = vec![table, 0xb0 | (length >> 8) as u8, length as u8, high, low];
    made.extend([0xc1 | version << 1, 0, 0]);
    made.extend(body);
    let sum = crc32(&made);
    made.extend(sum.to_be_bytes());
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{needs, run};

    /// Goal: what `Reel` makes is what ffprobe takes it for.
    #[test]
    fn made_streams_are_known_to_ffprobe() {
        needs("ffprobe");
        let folder = tempfile::tempdir().unwrap();
        let mut reel = Reel::video(1, WRAP - 90_000);
        reel.add_sound(&[]);
        let bytes: Vec<u8> = (0..3).flat_map(|_| reel.pictures(25, true)).collect();
        let all = units(&bytes, Program::read(&bytes).unwrap()).unwrap();
        assert_eq!(all.iter().filter(|unit| unit.random_access).count(), 3);
        let file = folder.path().join("reel.ts");
        std::fs::write(&file, bytes).unwrap();
        let mut probe = std::process::Command::new("ffprobe");
        probe.args("-v error -show_entries packet=codec_type,flags -of csv=p=0".split(' '));
        let said = run(probe.arg(&file));
        let count = |line: &str| said.stdout.lines().filter(|one| one.starts_with(line)).count();
        assert_eq!(
            (count("video,K"), count("video"), count("audio")),
            (3, 75, 141),
            "{}",
            said.stdout
        );
        assert!(!said.stderr.contains("Continuity"), "{}", said.stderr);
    }

    /// Goal: what ffmpeg makes is read, and wrong bytes are seen.
    #[test]
    fn a_stream_of_ffmpeg_is_read() {
        needs("ffmpeg");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("film.ts");
        let line = "-v error -nostdin -f lavfi -i testsrc2=size=160x90:rate=25 -t 2 \
                    -c:v libx264 -preset ultrafast -tune zerolatency -g 25 -f mpegts \
                    -mpegts_flags pat_pmt_at_frames";
        let mut ffmpeg = std::process::Command::new("ffmpeg");
        let ended = run(ffmpeg.args(line.split_whitespace()).arg(&file));
        assert!(ended.status.success(), "{}", ended.stderr);
        let bytes = std::fs::read(&file).unwrap();
        // Its first packet is a service description.
        let bytes = if bytes[1..3] == [0x40, 0x11] { &bytes[PACKET..] } else { &bytes[..] };
        let all = units(bytes, Program::read(bytes).unwrap()).unwrap();
        assert_eq!(all.len(), 50);
        assert!(all.windows(2).all(|two| two[1].decode_time == two[0].decode_time + 3600));
        let alone: Vec<_> = (0..50).filter(|&at| all[at].random_access).collect();
        assert_eq!(alone, [0, 25]);
        assert!(Program::read(&bytes[PACKET..]).unwrap_err().starts_with("P17: the first"));
        assert!(Program::read(&bytes[1..]).unwrap_err().starts_with("P17: "));
    }
}
