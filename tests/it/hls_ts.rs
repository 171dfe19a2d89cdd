//! Transport streams as an HLS client sees them: whole packets, tables first (P17), and the times of
//! the leading stream. Independent of `src/wire`.

use crate::hls_playlist::{Verdict, demand};

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
        let section = section(pat.payload)?;
        let programs: Vec<_> =
            section.chunks_exact(4).filter(|entry| entry[..2] != [0, 0]).collect();
        demand!(programs.len() == 1, "P17", "{} programs", programs.len());
        let pmt_pid = u16::from_be_bytes([programs[0][2] & 0x1f, programs[0][3]]);
        demand!(pmt.pid == pmt_pid, "P17", "the second packet has PID {}, PMT expected", pmt.pid);
        let table = self::section(pmt.payload)?;
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
fn section(payload: &[u8]) -> Verdict<&[u8]> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{needs, run};

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
