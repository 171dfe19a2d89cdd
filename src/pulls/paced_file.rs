//! A file as if it were sent: packets go out when their clock says so (PCR, ISO/IEC 13818-1 2.4.2.2).

use std::io;

use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::time::{Duration, Instant, sleep_until};

use super::upstream::Received;
use crate::wire::mpegts::{CLOCK_HZ, CLOCK_WRAP, PACKET_BYTES, PacketAligner, PacketHead, pcr};

/// Read at once.
const READ_BYTES: usize = 64 << 10;
/// Of 27 MHz in one of [`CLOCK_HZ`].
const TICKS: u64 = 300;
/// Clocks that differ by more have begun anew.
const LEAP_TICKS: u64 = 10 * CLOCK_HZ;

pub(super) struct PacedFile {
    file: File,
    now: fn() -> std::time::Instant,
    aligner: PacketAligner,
    /// Whole packets that were read and not sent, from `at` on.
    packets: Vec<u8>,
    at: usize,
    clock: Option<Clock>,
}

/// Which time a value of the stream's clock is.
struct Clock {
    pid: u16,
    zero: Instant,
    first: u64,
    last: u64,
}

impl PacedFile {
    pub(super) fn new(file: File, now: fn() -> std::time::Instant) -> PacedFile {
        let (aligner, packets) = (PacketAligner::default(), Vec::new());
        PacedFile { file, now, aligner, packets, at: 0, clock: None }
    }

    pub(super) async fn receive(&mut self, out: &mut Vec<u8>) -> io::Result<Received> {
        loop {
            if self.at == self.packets.len() && !self.read().await? {
                return Ok(Received::End);
            }
            let now = (self.now)().into();
            let before = self.at;
            let due = self.pass(now);
            if self.at > before {
                out.extend_from_slice(&self.packets[before..self.at]);
                return Ok(Received::Bytes);
            }
            if let Some(due) = due {
                sleep_until(due).await;
            }
        }
    }

    /// False at the end of the file.
    async fn read(&mut self) -> io::Result<bool> {
        self.packets.clear();
        self.at = 0;
        let mut block = vec![0; READ_BYTES];
        while self.packets.is_empty() {
            let count = self.file.read(&mut block).await?;
            if count == 0 {
                return Ok(false);
            }
            let packets = &mut self.packets;
            self.aligner.push(&block[..count], &mut |run| packets.extend_from_slice(run));
        }
        Ok(true)
    }

    /// Move over the packets whose time has come; when that of the next one is.
    fn pass(&mut self, now: Instant) -> Option<Instant> {
        while let Some(packet) = self.packets[self.at..].first_chunk::<PACKET_BYTES>() {
            let pid = PacketHead::parse(packet).map(|head| head.pid);
            if let (Some(pid), Some(ticks)) = (pid, pcr(packet))
                && let Some(due) = self.due(pid, ticks / TICKS, now)
                && due > now
            {
                return Some(due);
            }
            self.at += PACKET_BYTES;
        }
        None
    }

    fn due(&mut self, pid: u16, ticks: u64, now: Instant) -> Option<Instant> {
        let begin = Clock { pid, zero: now, first: ticks, last: ticks };
        let clock = self.clock.get_or_insert(begin);
        if clock.pid != pid {
            return None;
        }
        let since = |from: u64| ticks.wrapping_sub(from) & (CLOCK_WRAP - 1);
        if since(clock.last) > LEAP_TICKS {
            *clock = Clock { pid, zero: now, first: ticks, last: ticks };
        }
        clock.last = ticks;
        let passed = Duration::from_micros(since(clock.first).saturating_mul(1_000_000) / CLOCK_HZ);
        Some(clock.zero + passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of PID 256 with this clock, in ticks of 90 kHz.
    fn packet(ticks: u64) -> Vec<u8> {
        let mut packet = vec![0xff; PACKET_BYTES];
        packet[..6].copy_from_slice(&[0x47, 1, 0, 0x20, 183, 0x10]);
        packet[6..12].copy_from_slice(&(ticks << 15).to_be_bytes()[2..]);
        packet
    }

    /// Goal: packets are due when their clock says so, over its wrap, and at once after a leap of it.
    /// Method: packets whose steps add up to these times, passed at the very moment that they are due.
    #[tokio::test]
    async fn packets_wait_for_their_clock() {
        let (second, last) = (CLOCK_HZ, CLOCK_WRAP - CLOCK_HZ);
        let clocks = [last, last + second / 10, second, 2 * second, 60 * second, 61 * second];
        let wanted_ms = [0, 100, 2000, 3000, 3000, 4000];
        let file = tokio::fs::File::open("/dev/null").await.unwrap();
        let zero = tokio::time::sleep(Duration::ZERO).deadline();
        let mut paced = PacedFile::new(file, || unreachable!("the test says what time it is"));
        paced.packets = clocks.iter().flat_map(|ticks| packet(*ticks)).collect();
        let (mut now, mut passed_at) = (zero, Vec::new());
        loop {
            let due = paced.pass(now);
            passed_at.resize(paced.at / PACKET_BYTES, (now - zero).as_millis());
            let Some(due) = due else { break };
            now = due;
        }
        assert_eq!(passed_at, wanted_ms);
    }
}
